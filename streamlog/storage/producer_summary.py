"""What the index file of a segment says of its producers: their last batches, and where their transactions begin and end."""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from ..records.batch import NOT_PLAIN, BatchHeader
from .last_batches import LastBatches, SequencedBatch, batches_from
from .transaction_events import TransactionEvent, TransactionEvents, events_from

_LENGTH = Struct("<I")


class StoredSummary(NamedTuple):
    """A summary as it was stored. `transactions` is None if it does not have them."""

    batches: list[SequencedBatch]
    transactions: list[TransactionEvent] | None


class ProducerSummary:
    """The summary of the batches that were noted in the order of offsets."""

    __slots__ = ("last_batches", "transactions")

    def __init__(self) -> None:
        self.last_batches = LastBatches()
        self.transactions = TransactionEvents()

    @classmethod
    def of(cls, stored: StoredSummary) -> ProducerSummary:
        made = cls()
        made.last_batches = LastBatches.of(stored.batches)
        made.transactions = TransactionEvents.of(stored.transactions)
        return made

    def note(self, header: BatchHeader) -> None:
        """Note a batch that has a producer id. REQUIRES: its offset is above those before."""
        self.last_batches.note(header, header.base_offset, header.append_timestamp)
        if header.attributes & NOT_PLAIN:
            self.transactions.note(header)

    def stored(self) -> StoredSummary:
        return StoredSummary(self.last_batches.batches(), self.transactions.events())

    def to_bytes(self) -> bytes:
        batches = self.last_batches.to_bytes()
        return _LENGTH.pack(len(batches)) + batches + self.transactions.to_bytes()


def summary_from(data: bytes) -> StoredSummary | None:
    """What `ProducerSummary.to_bytes` made; None for bytes of another form."""
    if len(data) < _LENGTH.size:
        return None
    end = _LENGTH.size + _LENGTH.unpack_from(data)[0]
    batches = batches_from(data[_LENGTH.size : end])
    return None if batches is None or end > len(data) else StoredSummary(batches, events_from(data[end:]))
