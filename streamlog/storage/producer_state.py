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

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import InvalidRecordError, OutOfOrderSequenceError, ProducerFencedError
from ..records.batch import CONTROL, MAX_SEQUENCE, NO_PRODUCER, BatchHeader, SealedBatch
from ..records.single import SequencedRecord
from .index import StoredBatches
from .last_batches import KEPT_BATCHES, MAX_PRODUCERS, SequencedBatch
from .scan import first_header, walk
from .segment import Segment
from .tail import AppendRequest, LogSnapshot

EXPIRATION_MS = 86_400_000  # Kafka's producer.id.expiration.ms
_HALF = 1 << 30


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
    """The entries of one partition, and the rules. REQUIRES: the partition's lock, for every call."""

    def __init__(self, expiration_ms: int = EXPIRATION_MS, max_producers: int = MAX_PRODUCERS) -> None:
        self.expiration_ms = expiration_ms
        self.max_producers = max_producers
        self._known: OrderedDict[int, ProducerStateEntry] = (
            OrderedDict()
        )  # the producer that was silent for longest comes first

    def __len__(self) -> int:
        return len(self._known)

    def get(self, producer_id: int, now_ms: int) -> ProducerStateEntry | None:
        """What is known of a producer; None if it was silent for longer than the expiration."""
        known = self._known.get(producer_id)
        return None if known is None or now_ms - known.append_ms > self.expiration_ms else known

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
        """The usual case, detected quickly: a batch that continues right after the last one is neither refused nor repeated."""
        known = self.get(batch.producer_id, now_ms)
        return (
            known is not None
            and batch.producer_epoch == known.epoch
            and bool(known.batches)
            and batch.base_sequence == following(known.batches[-1].last_sequence)
        )

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
        self._known[batch.producer_id] = ProducerStateEntry(epoch, kept, append_ms, is_complete)
        self._known.move_to_end(batch.producer_id)
        if len(self._known) > self.max_producers:
            self._known.popitem(last=False)

    def mark_incomplete(self) -> None:
        """Something in the log after all noted batches is unreadable: it may be a batch of any producer."""
        for producer_id, known in list(self._known.items()):
            self._known[producer_id] = known._replace(is_complete=False)

    def expire(self, now_ms: int) -> None:
        """Remove producers that were silent for longer than the expiration. Cost: one comparison, and the removals."""
        while self._known:
            producer_id = next(iter(self._known))
            if now_ms - self._known[producer_id].append_ms <= self.expiration_ms:
                return
            del self._known[producer_id]


def _refuse_nonsense(batches: Sequence[SealedBatch | SequencedRecord]) -> None:
    """Raise InvalidRecordError unless all batches are of one producer, without a gap, and few enough to be remembered."""
    first = batches[0]
    if first.attributes & CONTROL and len(batches) == 1:
        return
    why = ""
    if len(batches) > KEPT_BATCHES:
        why = f"has {len(batches)} batches of a producer, and only the last {KEPT_BATCHES} can be recognised again"
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
            f"A write {why}. Nothing was written; send the batches of each producer in their order, in writes of up to "
            f"{KEPT_BATCHES}, and those of no producer by themselves.",
            producer_id=first.producer_id,
        )


def _repeated(batches: Sequence[SealedBatch | SequencedRecord], known: ProducerStateEntry) -> BatchMetadata | None:
    """The entry of the first batch, if all of them are among the last ones; None if none is.

    Raises OutOfOrderSequenceError if only some are: one answer cannot say which.
    """
    stored = {(kept.base_sequence, kept.last_sequence): kept for kept in known.batches}
    found = [stored.get((batch.base_sequence, last_sequence_of(batch))) for batch in batches]
    original = found[0]
    if original is None:
        if any(found):
            raise _out_of_order(batches[0], known)
        return None
    offset = original.base_offset
    for batch, kept in zip(batches, found, strict=True):
        if kept is None or kept.base_offset != offset:
            raise _out_of_order(batch, known)
        offset += batch.last_offset_delta + 1
    return original


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


class ProducerStateManager:
    """The producer state of one log, read from its headers when first needed and updated by each append.

    REQUIRES: the partition's lock, for every call; `tail` is the current tail of the log.

    Only what the tail covers counts. An append with batches of a producer is staged before the write. The batches are
    noted when the tail covers them: by the append itself or, if that was interrupted in between, by the next call here.

    A method that has to read the log raises what reading raises, and has changed nothing then. Damage is stepped over.
    """

    def __init__(self) -> None:
        self._states: ProducerStates | None = None
        self._staged: tuple[AppendRequest, int, Sequence[BatchHeader | SequencedBatch]] | None = None
        self._was_truncated = False

    def states(self, tail: LogSnapshot, now_ms: int) -> ProducerStates:
        """The producers of the published log.

        Cost, the first time: two reads of each segment that was written within the expiration, and a walk over the headers of
        the last one.
        """
        if self._states is None:
            self._states = _read(tail, now_ms)
        self.note(tail)
        return self._states

    def admit(self, write: AppendRequest, tail: LogSnapshot, now_ms: int, one: SequencedRecord | None = None) -> bool:
        """Whether to append a request with batches of a producer, or with `one` record of it. Raises what
        `ProducerStates.check` raises.

        If the log has the batches already, the request gets their offset and time, as if they had just been appended.
        """
        repeated = self.states(tail, now_ms).check(write.batches if one is None else (one,), now_ms)
        if repeated is not None:
            write.append_ms = repeated.append_ms
            write.base_offset = repeated.base_offset
            return False
        write.base_offset = -1
        offset = tail.end_offset
        self._staged = (
            write,
            offset,
            () if one is None else (SequencedBatch(*one[:3], 0, one.attributes, offset, now_ms),),
        )
        return True

    def stage(self, write: AppendRequest, headers: Sequence[BatchHeader], tail: LogSnapshot) -> None:
        """The next append is of these batches, which the leader has admitted. State that was not read yet is read later."""
        self.note(tail)
        self._staged = (write, headers[0].base_offset, headers)

    def note(self, tail: LogSnapshot) -> None:
        """Note the batches of the staged append if the tail covers them. `Log` calls it before it seals or closes a segment."""
        if self._was_truncated:  # what its segment stores may be of batches that are gone
            tail.segments[-1].last_batches = None
            self._was_truncated = False
        if self._staged is None:
            return
        write, offset, headers = self._staged
        if write.base_offset != offset or tail.end_offset <= offset:
            return  # not published yet, as when its append rolls the log first; or undone, and staged again by the next append
        last_batches = tail.segments[-1].last_batches  # `Log.roll` notes what is staged before it seals the segment
        batches: list[tuple[SealedBatch | BatchHeader | SequencedBatch, int, int]] = [
            (header, header.base_offset, header.append_timestamp)
            for header in headers
            if header.producer_id != NO_PRODUCER
        ]
        for batch in write.batches:
            batches.append((batch, offset, write.append_ms))
            offset += batch.last_offset_delta + 1
        for each in batches:
            if self._states is not None:
                self._states.note(*each)
            if last_batches is not None:
                last_batches.note(*each)
        self._staged = None

    def truncated(self) -> None:
        """The log was truncated: read the state again when it is needed next."""
        self._states = self._staged = None
        self._was_truncated = True


def _read(tail: LogSnapshot, now_ms: int) -> ProducerStates:
    states = ProducerStates()

    def note(header: BatchHeader | None) -> None:
        if header is None:
            states.mark_incomplete()
        else:
            states.note(header, header.base_offset, header.append_timestamp)

    for segment, end, stored in _since(tail, now_ms - states.expiration_ms):
        active = segment is tail.segments[-1]
        if stored is not None:
            next_offset = stored[0].next_offset
            for batch in stored[1]:
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


def _since(tail: LogSnapshot, horizon_ms: int) -> list[tuple[Segment, int, StoredBatches | None]]:
    """The segments, oldest first, that may contain batches appended at `horizon_ms` or later; each with the position up to
    which it may be read, and the last batches of its producers if an index file has them.

    A segment was written between the append of its own first batch and that of the next segment's. A segment is left out
    only if both are before the horizon: a clock that was wrong for a moment affects only one of them.
    """
    found: list[tuple[Segment, int, StoredBatches | None]] = []
    following: int | None = None
    for segment, end in reversed(tail.places()):
        stored = None if segment is tail.segments[-1] else segment.load_last_batches()
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
