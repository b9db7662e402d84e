"""Which transactions were aborted, and which are open: read from the headers, in the order of offsets.

A transaction of a producer begins with its first transactional batch and ends with a control batch of that producer, its
marker. Nothing of this is stored elsewhere, so it cannot disagree with the log (Kafka keeps it in `.txnindex` files, and
lost them: KAFKA-13727).
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

from ..records.batch import ABORT, COMMIT, TRANSACTIONAL, BatchHeader


class AbortedTransaction(NamedTuple):
    """Transactional batches of `producer_id` from `first_offset` up to `last_offset`, that of the marker, do not count."""

    producer_id: int
    first_offset: int
    last_offset: int


class Transactions:
    """The transactions of the batches that were noted.

    `open`: producer id → first offset. `aborted`: producer id → the aborted ones, oldest first.
    """

    __slots__ = ("aborted", "open")

    def __init__(self) -> None:
        self.open: dict[int, int] = {}
        self.aborted: dict[int, list[AbortedTransaction]] = {}

    def note(self, header: BatchHeader) -> None:
        """Note the next batch that has a producer id."""
        producer_id = header.producer_id
        if not header.is_control:
            if header.attributes & TRANSACTIONAL:
                self.open.setdefault(producer_id, header.base_offset)
        elif header.control_type in (ABORT, COMMIT):
            first = self.open.pop(producer_id, None)
            if first is not None and header.control_type == ABORT:
                ended = AbortedTransaction(producer_id, first, header.base_offset)
                self.aborted.setdefault(producer_id, []).append(ended)

    def is_aborted(self, header: BatchHeader) -> bool:
        """Whether the batch holds records of an aborted transaction."""
        known = self.aborted.get(header.producer_id)
        if known is None or header.is_control or not header.attributes & TRANSACTIONAL:
            return False
        at = bisect_right(known, header.base_offset, key=lambda each: each.first_offset) - 1
        return at >= 0 and header.base_offset <= known[at].last_offset
