"""What a partition remembers of its producers, so that a batch that is sent twice is stored once. The rules are Kafka's.

For each producer id: the epoch, and the last five batches with their sequences and offsets. The next batch has to continue
after the last sequence (after 2^31 - 1 comes 0). A batch that repeats one of the five is answered with the offset that it
got the first time. Any other batch means that one in between is missing, and is refused.

The header of each batch names the producer and the sequence, and the state is read when the first batch of a producer comes
after opening. Kafka stores snapshots of all producers instead, and most bugs of its idempotence were snapshots that were
lost, stale or ahead of the log (KAFKA-5435, KAFKA-7190). Here the index file of a segment has the last batches of the
producers in that segment and nothing else (`last_batches`): it is as true as the index, and the segment's headers say the
same without it. Only segments written within the expiration are read, and only when a producer appends.

The state may be incomplete: retention deletes batches, silent producers expire, damage hides headers. Such a producer is
believed (KIP-360): refusing a sequence because an earlier one was forgotten would stop a healthy producer.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from ..errors import InvalidRecordError, InvalidTxnStateError, OutOfOrderSequenceError, ProducerFencedError
from ..records.batch import CONTROL, MAX_SEQUENCE, NO_PRODUCER, NOT_PLAIN, BatchHeader, SealedBatch
from ..records.single import SequencedFields, SequencedRecord
from .index import StatsAndSummary
from .last_batches import KEPT_BATCHES, MAX_PRODUCERS, SequencedBatch
from .scan import first_header, walk
from .segment import Segment
from .tail import AppendRequest, LogSnapshot

EXPIRATION_MS = 86_400_000  # Kafka's producer.id.expiration.ms
_HALF = 1 << 30
# So many producers of single records are admitted at once; more take the long way now and then.
_MOST_SINGLES = 64
# So many batches that were appended are noted together.
_MOST_STAGED = 64


class BatchMetadata(NamedTuple):
    """One remembered batch: first and last sequence, offset, and when it was appended (ms)."""

    base_sequence: int
    last_sequence: int
    base_offset: int
    append_ms: int


class ProducerStateEntry(NamedTuple):
    """What is known of one producer id: the last batches, oldest first, and when the last one was appended (ms).

    `is_complete`: the log has no later batch of this producer that is not known.
    """

    epoch: int
    batches: tuple[BatchMetadata, ...]
    append_ms: int
    is_complete: bool = True


def last_sequence_of(batch: SealedBatch | SequencedRecord | BatchHeader | SequencedBatch) -> int:
    """The sequence of the last record that was ever in the batch: compaction removes records, not offsets."""
    return (batch.base_sequence + batch.last_offset_delta) & MAX_SEQUENCE


def following(sequence: int) -> int:
    return (sequence + 1) & MAX_SEQUENCE


class ProducerStates:
    """The entries of one partition, and the rules. REQUIRES: the partition's lock, for every call.

    A producer of which `has_open` is true, by its id, is not forgotten: its transaction goes on, however the clock jumps.
    """

    def __init__(
        self, expiration_ms: int = EXPIRATION_MS, max_producers: int = MAX_PRODUCERS,
        has_open: Callable[[int], bool] = lambda producer_id: False,
    ) -> None:  # fmt: skip
        self.expiration_ms = expiration_ms
        self.max_producers = max_producers
        self._has_open = has_open
        self._known: OrderedDict[int, ProducerStateEntry] = (
            OrderedDict()
        )  # the producer that was silent for longest comes first

    def __len__(self) -> int:
        return len(self._known)

    def get(self, producer_id: int, now_ms: int) -> ProducerStateEntry | None:
        """What is known of a producer; None if it was silent for longer than the expiration."""
        known = self._known.get(producer_id)
        if known is None or now_ms - known.append_ms > self.expiration_ms:
            return known if known is not None and self._has_open(producer_id) else None
        return known

    def all(self, now_ms: int) -> dict[int, ProducerStateEntry]:
        """What is known of each producer that was not silent for longer than the expiration."""
        return {each: known for each in self._known if (known := self.get(each, now_ms)) is not None}

    # -- before an append ----------------------------------------------------------------------------

    def check(self, batches: Sequence[SealedBatch | SequencedRecord], now_ms: int) -> BatchMetadata | None:
        """None if these batches of one append may be appended. If the log has all of them already, the entry of the first.

        In that case they lie one after the other from its offset on. Only expired entries are changed.

        Raises ProducerFencedError for an epoch that a newer one replaced, OutOfOrderSequenceError for a gap or
        a batch that is too old to be known, InvalidRecordError for an append whose repetition could not be recognised.
        """
        self.expire(now_ms)
        first = batches[0]
        if len(batches) == 1 and self._is_next(first, now_ms):
            return None
        _refuse_nonsense(batches)
        known = self.get(first.producer_id, now_ms)
        if known is not None and first.producer_epoch < known.epoch:
            raise ProducerFencedError(
                f"Producer {first.producer_id} writes with epoch {first.producer_epoch}, but epoch {known.epoch} has "
                f"written to this partition: a newer instance took over. Nothing was written; close this producer.",
                producer_id=first.producer_id, producer_epoch=first.producer_epoch, current_epoch=known.epoch,
            )  # fmt: skip
        if known is None:
            self._known.pop(first.producer_id, None)
            return None
        if first.attributes & CONTROL:
            return None
        if first.producer_epoch == known.epoch:
            repeated = _repeated(batches, known)
            if repeated is not None:
                return repeated
        if not _follows(first, known):
            raise _out_of_order(first, known)
        return None

    def _is_next(self, batch: SealedBatch | SequencedRecord, now_ms: int) -> bool:
        """The usual case, detected quickly: a batch that continues right after the last one is neither refused nor repeated.

        Nor is the first one after a marker, which has raised the epoch.
        """
        known = self.get(batch.producer_id, now_ms)
        if known is None or batch.producer_epoch != known.epoch:
            return False
        if not known.batches:
            return batch.base_sequence == 0 and not batch.attributes & CONTROL
        return batch.base_sequence == following(known.batches[-1].last_sequence)

    # -- from the log --------------------------------------------------------------------------------

    def note(self, batch: SealedBatch | BatchHeader | SequencedBatch, base_offset: int, append_ms: int) -> None:
        """Record that the log has this batch at `base_offset`. REQUIRES: in the order of offsets; twice is harmless."""
        known = self.get(batch.producer_id, append_ms)
        epoch = batch.producer_epoch
        if known is not None and (
            epoch < known.epoch or (known.batches and known.batches[-1].base_offset >= base_offset)
        ):
            return
        goes_on = known is not None and known.epoch == epoch
        kept = known.batches if known is not None and goes_on else ()
        is_complete = True
        if batch.base_sequence >= 0 and not batch.attributes & CONTROL:
            stored = BatchMetadata(batch.base_sequence, last_sequence_of(batch), base_offset, append_ms)
            kept = (*kept, stored)[-KEPT_BATCHES:]
        else:  # a marker has no sequence, and the records before it may have been deleted
            is_complete = known is not None and known.is_complete
        self._put(batch.producer_id, ProducerStateEntry(epoch, kept, append_ms, is_complete))

    def note_run(self, run: list[SequencedBatch]) -> None:
        """`note` of batches with sequences, one after the other, of one producer in one epoch; in one step."""
        first = run[0]
        known, epoch = self.get(first.producer_id, first.append_timestamp), first.producer_epoch
        kept = () if known is None or known.epoch != epoch else known.batches
        if kept and kept[-1].base_offset >= first.base_offset:  # some of them once more
            for each in run:
                self.note(each, each.base_offset, each.append_timestamp)
        elif known is None or known.epoch <= epoch:
            made = [
                BatchMetadata(each.base_sequence, last_sequence_of(each), each.base_offset, each.append_timestamp)
                for each in run[-KEPT_BATCHES:]
            ]
            entry = ProducerStateEntry(epoch, (*kept, *made)[-KEPT_BATCHES:], run[-1].append_timestamp)
            self._put(first.producer_id, entry)

    def _put(self, producer_id: int, entry: ProducerStateEntry) -> None:
        self._known[producer_id] = entry
        self._known.move_to_end(producer_id)
        if len(self._known) > self.max_producers:
            self._forget_one()

    def _forget_one(self) -> None:
        """Forget the producer that was silent for longest."""
        for producer_id in self._known:
            if not self._has_open(producer_id):
                del self._known[producer_id]
                return

    def mark_incomplete(self) -> None:
        """Something in the log after all noted batches is unreadable: it may be a batch of any producer."""
        for producer_id, known in list(self._known.items()):
            self._known[producer_id] = known._replace(is_complete=False)

    def expire(self, now_ms: int) -> None:
        """Remove producers that were silent for longer than the expiration. Cost: one comparison, and the removals.

        One that has an open transaction keeps those that wrote since then in memory, too.
        """
        while self._known:
            producer_id = next(iter(self._known))
            if now_ms - self._known[producer_id].append_ms <= self.expiration_ms or self._has_open(producer_id):
                return
            del self._known[producer_id]


def _refuse_nonsense(batches: Sequence[SealedBatch | SequencedRecord]) -> None:
    """Raise InvalidRecordError unless all batches are of one producer, without a gap."""
    first = batches[0]
    if first.attributes & CONTROL and len(batches) == 1:
        return
    why = ""
    expected = first.base_sequence
    for batch in batches:
        if batch.producer_id == NO_PRODUCER or batch.attributes & CONTROL:
            why = "mixes batches of a producer with others"
        elif (batch.producer_id, batch.producer_epoch) != (first.producer_id, first.producer_epoch):
            why = "mixes batches of several producers"
        elif batch.base_sequence != expected or not 0 <= expected <= MAX_SEQUENCE or batch.producer_epoch < 0:
            why = why or f"has sequence {batch.base_sequence} of epoch {batch.producer_epoch} where {expected} belongs"
        expected = following(last_sequence_of(batch))
    if why:
        raise InvalidRecordError(
            f"A write {why}. Nothing was written; send the batches of each producer in their order, and those of no producer by "
            f"themselves.",
            producer_id=first.producer_id,
        )


def _repeated(batches: Sequence[SealedBatch | SequencedRecord], known: ProducerStateEntry) -> BatchMetadata | None:
    """The entry of the first batch, if all of them are in the log; None if none is.

    Of a write of more batches than are remembered, the last ones say so: it was appended whole, or not at all. Raises
    OutOfOrderSequenceError if only some of these are there: one answer cannot say which.
    """
    stored = {(kept.base_sequence, kept.last_sequence): kept for kept in known.batches}
    last = batches[-KEPT_BATCHES:]
    found = [stored.get((batch.base_sequence, last_sequence_of(batch))) for batch in last]
    original = found[0]
    if original is None:
        if any(found):
            raise _out_of_order(batches[0], known)
        return None
    offset = original.base_offset
    for batch, kept in zip(last, found, strict=True):
        if kept is None or kept.base_offset != offset:
            raise _out_of_order(batch, known)
        offset += batch.last_offset_delta + 1
    before = sum(batch.last_offset_delta + 1 for batch in batches[:-KEPT_BATCHES])
    return original._replace(base_sequence=batches[0].base_sequence, base_offset=original.base_offset - before)


def _follows(batch: SealedBatch | SequencedRecord, known: ProducerStateEntry) -> bool:
    """Whether the batch, which repeats no known one, may come next."""
    sequence = batch.base_sequence
    if batch.producer_epoch != known.epoch:
        return sequence == 0 or not known.is_complete
    if not known.batches:
        return sequence == 0 or not known.is_complete
    ahead = (sequence - following(known.batches[-1].last_sequence)) & MAX_SEQUENCE
    return ahead == 0 or (not known.is_complete and ahead < _HALF)


def _out_of_order(batch: SealedBatch | SequencedRecord, known: ProducerStateEntry) -> OutOfOrderSequenceError:
    new_epoch = batch.producer_epoch != known.epoch or not known.batches
    expected = 0 if new_epoch else following(known.batches[-1].last_sequence)
    return OutOfOrderSequenceError(
        f"Producer {batch.producer_id} (epoch {batch.producer_epoch}) sent sequence {batch.base_sequence}, but "
        f"{expected} comes next in this partition: records in between are missing, or the batch is older than the last "
        f"{KEPT_BATCHES}. Nothing was written; find out what became of the missing ones before going on.",
        producer_id=batch.producer_id, producer_epoch=batch.producer_epoch, expected=expected,
        actual=batch.base_sequence,
    )  # fmt: skip


# -- the state of one log ----------------------------------------------------------------------------


class SingleRecords:
    """A producer that sends single records, one after the other. `next`: the fields of the one that is admitted at once.

    `recent`: sequence, offset and time (ms) of the last records that the state does not have yet. One more than it
    remembers, for the last write may have failed.
    """

    __slots__ = ("next", "recent")

    def __init__(self, first: SequencedRecord) -> None:
        self.next: SequencedFields = first
        self.recent: deque[tuple[int, int, int]] = deque(maxlen=KEPT_BATCHES + 1)


class ProducerStateManager:
    """The producer state of one log, read from its headers when first needed and updated by each append.

    REQUIRES: the partition's lock, for every call; `tail` is the current tail of the log.

    Only what the tail covers counts. An append stages its batches just before it writes them, a single record in `singles`.
    They are noted when something asks for the state next, and dropped if the tail does not cover them: the write has failed,
    or was interrupted.

    A method that has to read the log raises what reading raises, and has changed nothing then. Damage is stepped over.
    """

    def __init__(self, has_open: Callable[[int], bool]) -> None:
        self._has_open = has_open
        self.singles: dict[int, SingleRecords] = {}
        self._staged: list[SequencedBatch] = []  # in the order of offsets
        self._states: ProducerStates | None = None
        self._was_truncated = False

    def is_next(self, fields: SequencedFields) -> bool:
        """Whether a single record comes right after the last one of its producer, in the same transaction, if it is in one.

        No marker came in between: then the transaction goes on. REQUIRES: no lock, but then a marker may come meanwhile, and
        the append finds that out.
        """
        singles = self.singles.get(fields[0])
        return singles is not None and singles.next == fields

    def states(self, tail: LogSnapshot, now_ms: int) -> ProducerStates:
        """The producers of the published log.

        Cost, the first time: two reads of each segment that was written within the expiration, and one of the last one. That
        one's headers are walked only if something in it is damaged: its summary is known since the open, which has walked it,
        or read it from the index file.
        """
        if self._states is None:
            self.note(tail)  # first: the summary has what the tail covers then
            self._states = _read(tail, now_ms, self._has_open)
        self.note(tail)
        return self._states

    def admit(self, write: AppendRequest, tail: LogSnapshot, now_ms: int) -> bool:
        """Whether to append a request with batches of a producer.

        Raises what `ProducerStates.check` raises, and InvalidTxnStateError for a plain batch while the producer's transaction is open.

        If the log has the batches already, the request gets their offset and time, as if they had just been appended.
        """
        if self.go_on(write.batches, tail):
            write.base_offset = -1
            return True
        states, first = self.states(tail, now_ms), write.batches[0]
        self.singles.pop(first.producer_id, None)
        is_new = _admit(write, states.check(write.batches, now_ms))
        if is_new and not first.attributes & NOT_PLAIN and self._has_open(first.producer_id):
            raise InvalidTxnStateError(
                f"Producer {first.producer_id} has an open transaction in this partition, and sent a batch that is in none. Nothing was "
                f"written; send it in the transaction, or end that first.",
                producer_id=first.producer_id,
            )
        return is_new

    def go_on(self, batches: Sequence[SealedBatch], tail: LogSnapshot) -> bool:
        """Whether the batches come right after the last one that was appended, and is not noted yet: the usual case.

        No rule is against these, so nothing need be noted: to note the batches of each append was half of what idempotence costs. If
        they are of a transaction, it is the one of that batch. As `is_next`, it may be asked without the lock.
        """
        staged = self._staged
        last = staged[-1:]  # one step: another thread may note them
        if not last or len(staged) > _MOST_STAGED or self._states is None:
            return False
        producer_id, epoch, sequence, delta, attributes, offset, _ = last[0]
        if offset >= tail.end_offset or attributes & CONTROL:
            return False
        expected = following(sequence + delta)
        for batch in batches:
            if (
                batch.producer_id != producer_id
                or batch.producer_epoch != epoch
                or batch.base_sequence != expected
                or (batch.attributes ^ attributes) & NOT_PLAIN
            ):
                return False
            expected = batch.next_sequence
        return True

    def admit_one(
        self, write: AppendRequest, tail: LogSnapshot, now_ms: int, fields: SequencedFields
    ) -> SingleRecords | None:
        """`admit`, for a single record, which is staged in the answer; None if the log has it already."""
        one, states = SequencedRecord._make(fields), self.states(tail, now_ms)
        self.singles.pop(one.producer_id, None)
        if not _admit(write, states.check((one,), now_ms)):
            return None
        if len(self.singles) >= _MOST_SINGLES:
            self.singles.clear()
        made = self.singles[one.producer_id] = SingleRecords(one)
        return made

    def stage(self, batches: Sequence[SequencedBatch], tail: LogSnapshot) -> None:
        """The next bytes that are written are these batches: they were admitted, or come from a leader that did so."""
        for each in batches:
            if each.producer_id in self.singles:  # which this log had when it was the leader
                self.note(tail)
                del self.singles[each.producer_id]
        self._staged += batches

    def note(self, tail: LogSnapshot) -> None:
        """Note what was staged and the tail covers, and forget the rest. Called before a segment is sealed or closed."""
        end_offset = tail.end_offset
        if self._was_truncated:  # what its segment stores may be of batches that are gone
            tail.segments[-1].summary = None
            self._was_truncated = False
        if self._staged:
            for _, run in groupby(_last_of([each for each in self._staged if each.base_offset < end_offset]), _run_of):
                self._note(list(run), tail)
            self._staged.clear()
        for producer_id, singles in list(self.singles.items()):
            if singles.recent:
                _, epoch, _, attributes = singles.next
                covered = [
                    SequencedBatch(producer_id, epoch, sequence, 0, attributes, offset, append_ms)
                    for sequence, offset, append_ms in singles.recent
                    if offset < end_offset
                ]
                if len(covered) < len(singles.recent):
                    self.singles.pop(producer_id, None)
                if covered:
                    self._note(covered, tail)
                singles.recent.clear()

    def note_if_many(self, tail: LogSnapshot) -> None:
        """`note`, now and then: what a follower copies record by record is cheaper noted together."""
        if len(self._staged) > _MOST_STAGED:
            self.note(tail)

    def _note(self, run: list[SequencedBatch], tail: LogSnapshot) -> None:
        """`run`: of one producer in one epoch, all with sequences or none."""
        states, summary = self._states, tail.segments[-1].summary
        if run[0].has_sequence:
            if states is not None:
                states.note_run(run)
            if summary is not None:
                summary.last_batches.note_run(run)
            return
        for each in run:
            if states is not None:
                states.note(each, each.base_offset, each.append_timestamp)
            if summary is not None:
                summary.last_batches.note(each, each.base_offset, each.append_timestamp)

    def truncated(self) -> None:
        """The log was truncated: read the state again when it is needed next."""
        self._states = None
        self._staged.clear()
        self.singles.clear()
        self._was_truncated = True


def _run_of(batch: SequencedBatch) -> tuple[int, int, bool]:
    return batch.producer_id, batch.producer_epoch, batch.has_sequence


def _last_of(staged: list[SequencedBatch]) -> list[SequencedBatch]:
    """Those of the staged batches that make the state: of each producer the last ones, and the last markers."""
    if len(staged) <= KEPT_BATCHES:
        return staged
    kept: list[SequencedBatch] = []
    counts: dict[tuple[int, int], int] = {}
    for each in reversed(staged):
        kind = (each.producer_id, each.attributes & CONTROL)
        count = counts[kind] = counts.get(kind, 0) + 1
        if count <= KEPT_BATCHES:
            kept.append(each)
    return kept[::-1]


def _admit(write: AppendRequest, repeated: BatchMetadata | None) -> bool:
    write.base_offset = -1
    if repeated is None:
        return True
    write.append_ms = repeated.append_ms
    write.is_repeated = True
    write.base_offset = repeated.base_offset
    return False


def staged_batches(
    batches: Iterable[SealedBatch | BatchHeader], entries: Iterable[tuple[int, int, int, int]], append_ms: Iterable[int]
) -> list[SequencedBatch]:
    """What is staged of batches that are written together: those of producers. The offset is the first of an entry."""
    return [
        SequencedBatch(
            each.producer_id, each.producer_epoch, each.base_sequence, each.last_offset_delta, each.attributes, entry[0], ms
        )
        for each, entry, ms in zip(batches, entries, append_ms, strict=False)
        if each.producer_id != NO_PRODUCER
    ]  # fmt: skip


def _read(tail: LogSnapshot, now_ms: int, has_open: Callable[[int], bool]) -> ProducerStates:
    states = ProducerStates(has_open=has_open)

    def note(header: BatchHeader | None) -> None:
        if header is None:
            states.mark_incomplete()
        else:
            states.note(header, header.base_offset, header.append_timestamp)

    for segment, end, stored in _since(tail, now_ms - states.expiration_ms):
        active = segment is tail.segments[-1]
        summary = segment.summary if active else None
        if summary is not None:
            next_offset = tail.end_offset
            for batch in summary.last_batches.batches():
                states.note(batch, batch.base_offset, batch.append_timestamp)
        elif stored is not None:
            next_offset = stored[0].next_offset
            for batch in stored[1].batches:
                states.note(batch, batch.base_offset, batch.append_timestamp)
        else:
            found = walk(segment, end, on_producer=note)
            next_offset = found.stats.next_offset
            if not active:
                segment.keep_walk(found)  # its index file is written anew
        if next_offset != (tail.end_offset if active else segment.next_offset):
            states.mark_incomplete()
    states.expire(now_ms)
    return states


def _since(tail: LogSnapshot, horizon_ms: int) -> list[tuple[Segment, int, StatsAndSummary | None]]:
    """The segments, oldest first, that may contain batches appended at `horizon_ms` or later; each with the position up to
    which it may be read, and the last batches of its producers if an index file has them.

    A segment was written between the append of its own first batch and that of the next segment's. A segment is left out
    only if both are before the horizon: a clock that was wrong for a moment affects only one of them.
    """
    found: list[tuple[Segment, int, StatsAndSummary | None]] = []
    following: int | None = None
    for segment, end in reversed(tail.places()):
        stored = None if segment is tail.segments[-1] else segment.load_summary()
        if stored is not None:
            began: int | None = stored[0].first_append
        else:
            first = first_header(segment, end)
            began = following if first is None else first.append_timestamp
        if began is not None and following is not None and max(began, following) < horizon_ms:
            break
        found.append((segment, end, stored))
        following = began
    return found[::-1]
