"""The batches of a segment that say where its producers are: for each of them the last five, and a marker after these.

They are stored behind the index of a segment that does not grow any more, so that the state of the producers is read without
a walk over the headers. Derived: noting these batches gives the same state as noting all of the segment's.
"""

from __future__ import annotations

from collections import OrderedDict
from struct import Struct
from typing import NamedTuple

from ..records.batch import CONTROL, BatchHeader, SealedBatch

KEPT_BATCHES = 5  # Kafka's: as many as a client may have in flight
# Kafka has no bound, and brokers ran out of memory because of clients that take a new id for every batch (KIP-936). An
# entry takes at most a kilobyte, so this is 10 MB. More producers than this that write to one partition within a day are
# such clients, and the producer that was silent for longest is the least likely to send again.
MAX_PRODUCERS = 10_000

_ENTRY = Struct("<qhiiIqq")


class SequencedBatch(NamedTuple):
    """What the state of a producer needs of a batch; the names are those of a header. `append_timestamp`: ms."""

    producer_id: int
    producer_epoch: int
    base_sequence: int
    last_offset_delta: int
    attributes: int
    base_offset: int
    append_timestamp: int

    @property
    def has_sequence(self) -> bool:
        return self.base_sequence >= 0 and not self.attributes & CONTROL


class LastBatches:
    """The last batches of each producer, of the batches that were noted in the order of offsets."""

    __slots__ = ("_of",)

    def __init__(self) -> None:
        # The producer that was silent for longest comes first.
        self._of: OrderedDict[int, tuple[SequencedBatch, ...]] = OrderedDict()

    @classmethod
    def of(cls, batches: list[SequencedBatch]) -> LastBatches:
        """From what was stored."""
        made = cls()
        for each in batches:
            made.note(each, each.base_offset, each.append_timestamp)
        return made

    def note(self, batch: SealedBatch | BatchHeader | SequencedBatch, base_offset: int, append_ms: int) -> None:
        """Note a batch that has a producer id. REQUIRES: `base_offset` is above those before; once more is harmless."""
        producer_id, epoch = batch.producer_id, batch.producer_epoch
        kept = self._of.get(producer_id, ())
        if kept and (epoch < kept[-1].producer_epoch or base_offset <= kept[-1].base_offset):
            return
        made = SequencedBatch(
            producer_id, epoch, batch.base_sequence, batch.last_offset_delta, batch.attributes, base_offset, append_ms
        )
        if kept and not kept[-1].has_sequence:  # only the last one may have none
            kept = kept[:-1]
        if made.has_sequence:
            if kept and kept[0].producer_epoch != epoch:
                kept = tuple(each for each in kept if each.producer_epoch == epoch)
            kept = (*kept, made)[-KEPT_BATCHES:]
        else:
            kept = (*kept, made)
        self._put(producer_id, kept)

    def note_run(self, run: list[SequencedBatch]) -> None:
        """`note` of batches with sequences, one after the other, of one producer in one epoch; in one step."""
        first = run[0]
        kept = self._of.get(first.producer_id, ())
        if kept and kept[-1].base_offset >= first.base_offset:  # some of them once more
            for each in run:
                self.note(each, each.base_offset, each.append_timestamp)
            return
        if kept and kept[-1].producer_epoch > first.producer_epoch:
            return
        kept = tuple([each for each in kept if each.has_sequence and each.producer_epoch == first.producer_epoch])
        self._put(first.producer_id, (*kept, *run)[-KEPT_BATCHES:])

    def _put(self, producer_id: int, kept: tuple[SequencedBatch, ...]) -> None:
        self._of[producer_id] = kept  # replaced at once: an interrupt leaves the old ones or the new ones
        self._of.move_to_end(producer_id)
        if len(self._of) > MAX_PRODUCERS:
            self._of.popitem(last=False)

    def batches(self) -> list[SequencedBatch]:
        """All of them, in the order of offsets."""
        return sorted((each for kept in self._of.values() for each in kept), key=lambda each: each.base_offset)

    def to_bytes(self) -> bytes:
        return b"".join([_ENTRY.pack(*each) for each in self.batches()])


def batches_from(data: bytes) -> list[SequencedBatch] | None:
    """What `LastBatches.to_bytes` made; None for bytes of another length."""
    if len(data) % _ENTRY.size:
        return None
    return [SequencedBatch._make(fields) for fields in _ENTRY.iter_unpack(data)]
