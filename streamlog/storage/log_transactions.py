"""The transactions of one log: read when they are needed first, and kept up to date by each append."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..records.batch import CONTROL, NOT_PLAIN
from .last_batches import SequencedBatch
from .reader import LogReader
from .scan import walk
from .segment import Segment
from .tail import LogSnapshot
from .transactions import UNREAD, StableTransactions, Transactions


class SealedTransactions:
    """The transactions in the sealed segments of a tail; see `LogTransactions.adopt`."""

    __slots__ = ("tail", "transactions", "truncations")

    def __init__(self, tail: LogSnapshot, truncations: int) -> None:
        self.tail = tail
        self.truncations = truncations
        self.transactions = Transactions()
        for segment, end in tail.places()[:-1]:
            note_segment(self.transactions, segment, end)


class LogTransactions:
    """The transactions of one log. It publishes them as `LogReader.transactions`: None if there are none.

    REQUIRES: the partition's lock, for every call but `read_sealed`.

    Only what the tail covers counts. The batches of a write are staged just before it, and a transaction that begins with
    them is unstable from then on: a reader that sees the records sees that too. They are noted after the tail was published,
    or dropped, if the write has failed. So a transaction that ends becomes stable after its marker was published, in one
    assignment with its entry among the aborted ones.

    Until they are read (`read`), the readers see UNREAD. Only the segments know of their own transactions then.
    """

    __slots__ = ("_known", "_may_have_some", "_reader", "_staged", "_truncations", "in_segment")

    def __init__(self, reader: LogReader) -> None:
        self._reader = reader
        self._known: StableTransactions | None = None
        self._staged: list[SequencedBatch] = []
        self.in_segment: set[int] = set()
        """Producers with an open transaction of which the active segment has a batch: their next one says nothing new."""
        self._truncations = 0
        self._may_have_some = True
        reader.transactions = UNREAD
        tail = reader.tail
        if len(tail.segments) == 1 and not tail.end_position:
            self.have_none()

    @property
    def open(self) -> Mapping[int, int]:
        """Producer id → first offset, in the order of these. Empty until they are read."""
        return _NONE if self._known is None else self._known.transactions.open

    def has_open(self, producer_id: int) -> bool:
        """Whether a producer is known to have an open transaction."""
        return producer_id in self.open

    @property
    def has_staged(self) -> bool:
        return bool(self._staged)

    # -- reading them --------------------------------------------------------------------------------

    def have_none(self) -> None:
        """The log has no transactional batch: nothing has to be read. Does nothing if they were read."""
        if self._known is None:
            self._may_have_some = False
            self._known = StableTransactions(Transactions())
            self._publish()

    def read_sealed(self) -> SealedTransactions:
        """Those of the sealed segments, for `adopt`. No lock. Raises what reading raises; damage is stepped over.

        Cost: two reads of each segment.
        """
        truncations = self._truncations  # first
        return SealedTransactions(self._reader.tail, truncations)

    def adopt(self, sealed: SealedTransactions) -> bool:
        """Add those of the segments that are not sealed to them; False if the log was truncated, or compacted, meanwhile.

        Cost: as a rule nothing is read. Raises what reading raises.
        """
        tail = self._reader.tail
        self.note(tail)  # an interrupt may have kept the last append from being noted: the summary lacks it
        base_offset = sealed.tail.bases[-1]
        if sealed.truncations != self._truncations or base_offset not in tail.bases:
            return False
        for segment, end in tail.places(tail.bases.index(base_offset)):
            note_segment(sealed.transactions, segment, end)
        self._known = StableTransactions(sealed.transactions)
        self._publish()
        return True

    def read(self) -> None:
        """`read_sealed` and `adopt`, if they were not read, by a caller that holds the lock."""
        if self._known is None:
            self.adopt(self.read_sealed())

    # -- an append -----------------------------------------------------------------------------------

    def stage(self, batches: Sequence[SequencedBatch]) -> None:
        """The next bytes that are written are these batches, with others in between."""
        staged = [each for each in batches if each.attributes & NOT_PLAIN]
        if not staged or all(not each.attributes & CONTROL and each.producer_id in self.in_segment for each in staged):
            return  # none begins or ends a transaction, as a rule
        self._may_have_some = True
        self._staged = staged  # before it is published: an interrupt between the two changes nothing
        ends = False
        for each in staged:
            if each.attributes & CONTROL:
                ends = True
            elif ends or each.producer_id not in self.open:
                self._publish(each.base_offset)
                return

    def note(self, tail: LogSnapshot) -> None:
        """Note what was staged and lies before the end of the log, and forget the rest."""
        if not self._staged:
            return
        known, summary = self._known, tail.segments[-1].summary
        for each in self._staged:
            if each.base_offset < tail.end_offset:
                if summary is not None:
                    summary.transactions.note(each)
                if each.attributes & CONTROL:
                    self.in_segment.discard(each.producer_id)
                else:
                    self.in_segment.add(each.producer_id)
                if known is not None:
                    known.note(each)
        self._publish()
        self._staged = []

    def replicated(self, high_watermark: int) -> None:
        """Readers of committed records wait for no transaction whose marker lies before this high watermark."""
        if self._known is not None and self._known.replicated(high_watermark):
            self._publish()

    def rolls(self) -> None:
        """Another segment is about to become the active one."""
        self.in_segment.clear()

    def truncated(self) -> None:
        """The log was truncated, or what was damaged is there again: read them again when they are needed next."""
        self._truncations += 1
        self.in_segment.clear()
        self._staged = []
        if self._may_have_some:  # of a transaction that was committed, the marker may be gone
            self._reader.transactions = UNREAD
            self._known = None

    def start_raised(self, start_offset: int) -> None:
        """Forget what was aborted before the log start."""
        if self._known is not None and len(self._known.transactions.aborted):
            known = self._known.transactions
            known.aborted = known.aborted.since(start_offset)
            self._publish()

    def _publish(self, begins_at: int | None = None) -> None:
        """`begins_at`: where a transaction begins that is about to be written."""
        if self._known is not None:
            self._reader.transactions = self._known.snapshot(begins_at)


_NONE: Mapping[int, int] = {}


def note_segment(transactions: Transactions, segment: Segment, end: int) -> None:
    """Note the transactions of a segment, which may be read up to position `end`."""
    events = segment.transaction_events()
    if events is not None:
        for each in events:
            transactions.note(each)
        return
    found = walk(segment, end, on_producer=lambda header: None if header is None else transactions.note(header))
    if segment.sealed:
        segment.keep_walk(found)  # its index file is written anew
