"""The transactions of a log that another process writes."""

from __future__ import annotations

from ..records.batch import NO_PRODUCER, BatchHeader
from .log_transactions import note_segment
from .segment import Segment
from .tail import LogSnapshot
from .transactions import StableTransactions, Transactions, TransactionSnapshot


class TailedTransactions:
    """The transactions of the batches that are known here, each of which is looked at once. REQUIRES: one thread at a time."""

    def __init__(self) -> None:
        self._life: object = None
        self._base_offset, self._position = -1, 0  # how far it has looked
        self._known = StableTransactions(Transactions())

    def catch_up(self, tail: LogSnapshot, life: object, high_watermark: int) -> TransactionSnapshot | None:
        """The transactions of `tail`. `life` is equal while the log was only appended to. Raises what reading raises, and can
        go on then.

        Cost: two reads of each sealed segment at first, and the headers of what was appended since the last call.
        """
        places = tail.places()
        if life != self._life or self._base_offset not in tail.bases:
            self._life = None  # until all are known: an interrupt may come
            self._known, self._base_offset, self._position = StableTransactions(Transactions()), tail.bases[-1], 0
            for segment, end in places[:-1]:
                note_segment(self._known.transactions, segment, end)
            self._life = life
        for segment, end in places[tail.bases.index(self._base_offset) :]:
            if segment.base_offset != self._base_offset:
                self._base_offset, self._position = segment.base_offset, 0
            if self._position < end:
                self._look_at(segment, end, high_watermark)
        return self._known.snapshot()

    def _look_at(self, segment: Segment, end: int, high_watermark: int) -> None:
        for _, found in segment.scan(self._position, end):
            if isinstance(found, BatchHeader) and found.producer_id != NO_PRODUCER:
                self._known.note(found)
        self._position = end
        self._known.replicated(high_watermark)
