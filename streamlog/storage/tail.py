"""What passes between a log and its callers: its published state, an append, and data that was fetched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..records.batch import BatchHeader, SealedBatch
from ..types import Buffer
from .index import Stats
from .segment import Segment


class LogSnapshot(NamedTuple):
    """The published state of a log: immutable, replaced as a whole. The last four fields describe the active segment."""

    end_offset: int
    end_position: int
    segments: tuple[Segment, ...]
    bases: tuple[int, ...]
    start_offset: int
    records: int
    min_timestamp: int
    max_timestamp: int
    first_append: int

    def active_stats(self) -> Stats:
        return Stats(
            self.bases[-1], self.end_offset, self.end_position, self.records,
            self.min_timestamp, self.max_timestamp, self.first_append,
        )  # fmt: skip

    def size_bytes(self) -> int:
        return sum(segment.size for segment in self.segments[:-1]) + self.end_position

    def places(self, first: int = 0) -> list[tuple[Segment, int]]:
        """The segments from the `first` one on, each with the position up to which it may be read."""
        active = self.segments[-1]
        return [(s, self.end_position if s is active else s.size) for s in self.segments[first:]]


ANY_EPOCH = -1


class AppendRequest:
    """Batches that are to be appended. `base_offset` is -1 until they are in the log.

    `leader_epoch` is the one in which a partition may append them, and of one with followers, in which it has. `is_repeated`: the
    log had them already.

    After an interrupt the caller calls `Log.resolve_append` and then looks here: the log decides whether the batches
    were appended, not the line at which the caller was interrupted.
    """

    __slots__ = ("append_ms", "base_offset", "batches", "is_repeated", "leader_epoch")

    def __init__(self, batches: Sequence[SealedBatch], leader_epoch: int = ANY_EPOCH) -> None:
        self.batches = batches
        self.base_offset = -1
        self.append_ms = -1
        self.is_repeated = False
        self.leader_epoch = leader_epoch


UNKNOWN_END = 1 << 63
"""Past every offset."""


class FetchData(NamedTuple):
    """Whole batches as they are on disk, not verified yet, and where they are from, for error messages.

    `first` is the header of the first batch if it was verified already. `end_offset` is where what may be read ended
    when it was fetched.
    """

    data: Buffer
    seed: int
    path: str
    position: int
    segment: Segment | None = None
    first: BatchHeader | None = None
    end_offset: int = UNKNOWN_END


EMPTY = FetchData(b"", 0, "", 0)
