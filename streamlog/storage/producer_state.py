"""What a partition remembers of its producers, so that a batch sent twice is stored once. Kafka's rules.

Of each producer id: the epoch, and the last five batches with their sequences and offsets. The next batch goes on
behind the last sequence (behind 2^31 - 1 comes 0); one that repeats any of the five is answered with the offset it
got the first time; anything else means that something in between is missing, and is refused.

Nothing here is stored. Every batch's header says which producer wrote it, at which sequence: the log is the only
truth, and `side_tables` reads it again when the first such batch comes after opening. Kafka keeps snapshots instead,
and most of what went wrong with its idempotence were snapshots that were lost, stale or beyond the end of the log
(KAFKA-5435, KAFKA-7190). A file that can be lost or lie is not worth the seconds that it saves: only headers are read,
only of what was appended within the expiration, and only once somebody needs the answer.

State may be incomplete by rights: retention deletes batches, silence expires, damage hides headers. Then a producer
is taken at its word (KIP-360): refusing a sequence because we forgot the one before would stop a healthy producer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import InvalidRecordError, OutOfOrderSequenceError, ProducerFencedError
from ..records.batch import CONTROL, NO_PRODUCER, BatchHeader, SealedBatch

MAX_SEQUENCE = (1 << 31) - 1
KEPT_BATCHES = 5  # Kafka's: as many as a client may have in flight
EXPIRATION_MS = 86_400_000  # Kafka's producer.id.expiration.ms
# Kafka has no bound, and brokers ran out of memory by clients that take a new id for every batch (KIP-936). An entry
# takes a kilobyte at most, so this is 10 MB; more producers than this that all write to one partition within a day
# are such clients, and the one silent for longest is the one least likely to send something again.
MAX_PRODUCERS = 10_000
_HALF = 1 << 30


class BatchMetadata(NamedTuple):
    """One remembered batch: first and last sequence, offset, and when it was appended (ms)."""

    base_sequence: int
    last_sequence: int
    base_offset: int
    append_ms: int


class Producer(NamedTuple):
    """What is known of one producer id: the last batches, oldest first, and when it was last heard of (ms).

    `is_complete`: no batch of it can lie in the log, behind the ones known, unseen.
    """

    epoch: int
    batches: tuple[BatchMetadata, ...]
    append_ms: int
    is_complete: bool = True


def last_sequence_of(batch: SealedBatch | BatchHeader) -> int:
    """The sequence of the last record that was ever in the batch: compaction takes records out, not offsets."""
    return (batch.base_sequence + batch.last_offset_delta) & MAX_SEQUENCE


def following(sequence: int) -> int:
    return (sequence + 1) & MAX_SEQUENCE


class Producers:
    """The producers of one partition. REQUIRES: the partition's lock, for every call."""

    def __init__(self, expiration_ms: int = EXPIRATION_MS, max_producers: int = MAX_PRODUCERS) -> None:
        self.expiration_ms = expiration_ms
        self.max_producers = max_producers
        self._known: OrderedDict[int, Producer] = OrderedDict()  # the one silent for longest comes first

    def __len__(self) -> int:
        return len(self._known)

    def get(self, producer_id: int, now_ms: int) -> Producer | None:
        """What is known of a producer; None once it was silent for longer than the expiration."""
        known = self._known.get(producer_id)
        return None if known is None or now_ms - known.append_ms > self.expiration_ms else known

    # -- before an append ----------------------------------------------------------------------------

    def check(self, batches: Sequence[SealedBatch], now_ms: int) -> BatchMetadata | None:
        """Whether these batches of one write may be appended. None: yes. Else what the first was stored as: all of
        them are in the log already, one behind the other from there on. Changes nothing that counts.

        Raises ProducerFencedError for an epoch that a newer one replaced, OutOfOrderSequenceError for a gap or
        something too old to be known, InvalidRecordError for a write whose repetition could not be recognised.
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

    def _is_next(self, batch: SealedBatch, now_ms: int) -> bool:
        """The usual case, found out quickly: nothing that `check` would refuse or know comes right behind the last."""
        known = self.get(batch.producer_id, now_ms)
        return (
            known is not None
            and batch.producer_epoch == known.epoch
            and bool(known.batches)
            and batch.base_sequence == following(known.batches[-1].last_sequence)
        )

    # -- from the log --------------------------------------------------------------------------------

    def note(self, batch: SealedBatch | BatchHeader, base_offset: int, append_ms: int) -> None:
        """A batch of a producer lies in the log at `base_offset`. Told in the order of offsets; twice does no harm."""
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
        else:  # a marker tells no sequence: records that it follows may have been deleted
            is_complete = known is not None and known.is_complete
        self._known[batch.producer_id] = Producer(epoch, kept, append_ms, is_complete)
        self._known.move_to_end(batch.producer_id)
        if len(self._known) > self.max_producers:
            self._known.popitem(last=False)

    def mark_incomplete(self) -> None:
        """Something in the log behind all that was noted so far is unreadable: it may have been anybody's."""
        for producer_id, known in list(self._known.items()):
            self._known[producer_id] = known._replace(is_complete=False)

    def expire(self, now_ms: int) -> None:
        """Forget who was silent for longer than the expiration. Cost: one comparison, and what is forgotten."""
        while self._known:
            producer_id = next(iter(self._known))
            if now_ms - self._known[producer_id].append_ms <= self.expiration_ms:
                return
            del self._known[producer_id]


def _refuse_nonsense(batches: Sequence[SealedBatch]) -> None:
    """Raise unless the batches are one producer's, without a gap between them, and few enough to be remembered."""
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


def _repeated(batches: Sequence[SealedBatch], known: Producer) -> BatchMetadata | None:
    """What the first batch was stored as, if all of them are among the last ones; None if none is.

    Raises OutOfOrderSequenceError for a part of them: what belongs to the rest cannot be told from one answer.
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


def _follows(batch: SealedBatch, known: Producer) -> bool:
    """Whether the batch, which repeats none, may come next."""
    sequence = batch.base_sequence
    if batch.producer_epoch != known.epoch:
        return sequence == 0 or not known.is_complete
    if not known.batches:
        return sequence == 0 or not known.is_complete
    ahead = (sequence - following(known.batches[-1].last_sequence)) & MAX_SEQUENCE
    return ahead == 0 or (not known.is_complete and ahead < _HALF)


def _out_of_order(batch: SealedBatch, known: Producer) -> OutOfOrderSequenceError:
    new_epoch = batch.producer_epoch != known.epoch or not known.batches
    expected = 0 if new_epoch else following(known.batches[-1].last_sequence)
    return OutOfOrderSequenceError(
        f"Producer {batch.producer_id} (epoch {batch.producer_epoch}) sent sequence {batch.base_sequence}, but "
        f"{expected} comes next in this partition: records in between are missing, or the batch is older than the last "
        f"{KEPT_BATCHES}. Nothing was written; what became of the missing ones has to be found out before going on.",
        producer_id=batch.producer_id, producer_epoch=batch.producer_epoch, expected=expected,
        actual=batch.base_sequence,
    )  # fmt: skip
