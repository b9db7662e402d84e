"""Which transactions of a log are open, and which were aborted: read from the headers, in the order of offsets.

A transaction of a producer begins with its first transactional batch and ends with a control batch of that producer, its
marker. Nothing of this is stored elsewhere but in what is derived of the headers (`transaction_events`), so it cannot
disagree with the log (Kafka keeps it in `.txnindex` files, and lost them: KAFKA-13727).

A reader of committed records sees what lies before the last stable offset: the high watermark, or the first offset of a
transaction that is not over at that high watermark, whichever is less. A transaction is over when its marker lies before the
high watermark: a marker that another leader may lack does not count yet, so the last stable offset never goes back (Kafka's
"unreplicated" transactions).

Retention does not wait for a transaction, as in Kafka. One that is open and of which all records were deleted may be forgotten, by a replica that
reads its log anew: nothing of it can be seen. It is open from its next record on.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from ..records.batch import CONTROL, MAX_OFFSET, NOT_PLAIN, TRANSACTIONAL, BatchHeader
from .transaction_events import ProducedBatch, aborts, ends_transaction


class AbortedTransaction(NamedTuple):
    """Transactional batches of `producer_id` from `first_offset` up to `last_offset`, that of the marker, do not count.

    `last_stable_offset` is where the first transaction began that was open at the marker; the offset after the marker if
    none was. No transaction that ended later began before it.
    """

    producer_id: int
    first_offset: int
    last_offset: int
    last_stable_offset: int


class EndedTransaction(NamedTuple):
    first_offset: int
    last_offset: int


class AbortedTransactions:
    """The aborted transactions of a log, in the order of their markers. One writer; readers need no lock.

    Entries are added at the end. One that is added while a reader looks is of a transaction that was open before, so it
    changes nothing for the offsets that this reader may see.
    """

    __slots__ = ("_all", "_of")

    def __init__(self) -> None:
        self._all: list[AbortedTransaction] = []
        self._of: dict[int, list[AbortedTransaction]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[AbortedTransaction]:
        return iter(self._all)

    def add(self, aborted: AbortedTransaction) -> None:
        """REQUIRES: its marker is after those before; the last one once more is harmless."""
        for known in (self._of.setdefault(aborted.producer_id, []), self._all):
            if not known or known[-1].last_offset < aborted.last_offset:
                known.append(aborted)

    def since(self, offset: int) -> AbortedTransactions:
        """Those whose marker lies at `offset` or later. Readers that have these keep them."""
        at = bisect_left(self._all, offset, key=lambda each: each.last_offset)
        if not at:
            return self
        kept = AbortedTransactions()
        for each in self._all[at:]:
            kept.add(each)
        return kept

    def have(self, header: BatchHeader) -> bool:
        """Whether the batch holds records of one of them. Cost: O(log n)."""
        known = self._of.get(header.producer_id)
        if known is None or header.attributes & NOT_PLAIN != TRANSACTIONAL:
            return False
        at = bisect_right(known, header.base_offset, key=lambda each: each.first_offset) - 1
        return at >= 0 and header.base_offset <= known[at].last_offset

    def between(self, offset: int, end_offset: int) -> tuple[AbortedTransaction, ...]:
        """Those that may have records from `offset` up to `end_offset`. Cost: a bisection, and those found."""
        found: list[AbortedTransaction] = []
        known = self._all
        for at in range(bisect_left(known, offset, key=lambda each: each.last_offset), len(known)):
            each = known[at]
            if each.first_offset < end_offset:
                found.append(each)
            if each.last_stable_offset >= end_offset:
                break
        return tuple(found)


class Transactions:
    """The transactions of the batches that were noted. `open`: producer id → first offset, in the order of these."""

    __slots__ = ("aborted", "open")

    def __init__(self) -> None:
        self.open: dict[int, int] = {}
        self.aborted = AbortedTransactions()

    def note(self, batch: ProducedBatch) -> None:
        """Note the next batch that has a producer id. To note the last ones once more, in order, is harmless: an interrupt may
        have come."""
        attributes, producer_id, offset = batch.attributes, batch.producer_id, batch.base_offset
        if not attributes & CONTROL:
            if attributes & TRANSACTIONAL:
                self.open.setdefault(producer_id, offset)
            return
        ended = self.ended_by(batch)
        if ended is None:
            return
        if aborts(attributes):
            stable = next((first for first in self.open.values() if first != ended.first_offset), offset + 1)
            self.aborted.add(AbortedTransaction(producer_id, *ended, stable))
        self.open.pop(producer_id)  # last: until then it counts as open

    def ended_by(self, batch: ProducedBatch) -> EndedTransaction | None:
        """The transaction that this batch, the next one, ends; None if it is no marker, or one that ends nothing."""
        if not ends_transaction(batch.attributes):
            return None
        first = self.open.get(batch.producer_id)
        return None if first is None or first > batch.base_offset else EndedTransaction(first, batch.base_offset)


class TransactionSnapshot(NamedTuple):
    """What readers of committed records need of a log's transactions, published in one assignment.

    `unstable`: first offset and offset of the marker, MAX_OFFSET while there is none, of each that a reader may have to wait
    for; sorted.
    """

    unstable: tuple[EndedTransaction, ...]
    aborted: AbortedTransactions

    def last_stable_offset(self, high_watermark: int, start_offset: int) -> int:
        """Where what a reader of committed records may see ends. REQUIRES: the high watermark was read before this snapshot.

        Cost: one comparison for each transaction that ended and is not known to be replicated.
        """
        for first, last in self.unstable:
            if last >= high_watermark:
                return max(start_offset, min(high_watermark, first))
        return high_watermark


class StableTransactions:
    """The transactions of a log, as readers of committed records have to know them: also those that ended, until their markers
    are known to be replicated."""

    __slots__ = ("_ended", "transactions")

    def __init__(self, transactions: Transactions) -> None:
        self.transactions = transactions
        self._ended: list[EndedTransaction] = []

    def note(self, batch: ProducedBatch) -> None:
        """See `Transactions.note`."""
        ended = self.transactions.ended_by(batch)
        if ended is not None:
            self._ended.append(ended)
        self.transactions.note(batch)

    def replicated(self, high_watermark: int) -> bool:
        """Forget those whose marker lies before this high watermark; whether there were any that ended."""
        had_some = bool(self._ended)
        if had_some:
            self._ended = [each for each in self._ended if each.last_offset >= high_watermark]
        return had_some

    def snapshot(self, begins_at: int | None = None) -> TransactionSnapshot | None:
        """What readers need of them now; None if there are none. `begins_at`: where one begins that is about to be written."""
        known = self.transactions
        unstable = [EndedTransaction(first, MAX_OFFSET) for first in known.open.values()]
        if self._ended:
            unstable = sorted(self._ended + unstable)
        if begins_at is not None:
            unstable.append(EndedTransaction(begins_at, MAX_OFFSET))
        return TransactionSnapshot(tuple(unstable), known.aborted) if unstable or len(known.aborted) else None


UNREAD = TransactionSnapshot((EndedTransaction(0, MAX_OFFSET),), AbortedTransactions())
"""The transactions of a log that were not read yet: nothing is stable."""
