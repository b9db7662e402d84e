"""What a segment holds, and where in it: from its index file, or from a walk over its headers.

Derived, and found when somebody asks: opening a log looks into no sealed segment. Several threads may
ask at a time; they find the same, and the last one's answer stays.
"""

from __future__ import annotations

import logging

from ..runtime.api import Disk
from ..runtime.disk_errors import check
from ..types import SegmentInfo
from . import index as index_files
from .index import HEADER_LEN, Index, Stats
from .scan import Source, Walk, walk

logger = logging.getLogger("streamlog.storage")


class Facts(Source):
    """The part of a `Segment` that knows what is in it."""

    disk: Disk
    next_offset: int
    size: int
    index_path: str
    sealed: bool
    # An index that a walk made and that is in no file yet.
    is_unsaved = False
    _is_damaged = False
    _stats: Stats | None = None
    _index: Index | None = None

    @property
    def stats(self) -> Stats:
        """What it holds. From its index file or, if that is missing or damaged, from a walk over its headers.

        No lock: whoever comes second finds the same. Raises what reading raises.
        """
        stats = self._stats
        if stats is None:
            stats = self.stored_stats()
            if stats is None:
                return self._look_through().stats
            self._keep_stats(stats)
        return stats

    def adopt(self, stats: Stats) -> None:
        """Take these for what the segment holds."""
        self._stats = stats
        self.next_offset, self.size = stats.next_offset, stats.size

    @property
    def max_timestamp(self) -> int:
        """The latest time in it; without any (only `repair` writes such batches) the time of its first append."""
        stats = self.stats
        return stats.max_timestamp if stats.max_timestamp >= 0 else stats.first_append

    def info(self) -> SegmentInfo:
        """What a retention policy sees."""
        stats = self.stats
        return SegmentInfo(
            self.base_offset, self.next_offset, self.size, stats.records, stats.min_timestamp, self.max_timestamp
        )

    def stored_stats(self) -> Stats | None:
        """The stats in the index file, if that was made of this very segment."""
        try:
            file = self.disk.open(self.index_path, writable=False)
            try:
                stats = index_files.stats_from(file.pread(HEADER_LEN, 0), self.seed)
            finally:
                file.close()
        except OSError as error:
            check(error)
            return None
        return stats if stats is not None and self._is_mine(stats) else None

    def _is_mine(self, stats: Stats) -> bool:
        return stats.size == self.size and stats.base_offset == self.base_offset

    def _keep_stats(self, stats: Stats) -> None:
        if self.sealed and stats.next_offset != self.next_offset:
            logger.error(
                "%s ends at offset %d but the next segment opens at %d: what lay between is missing",
                self.path, stats.next_offset, self.next_offset,
            )  # fmt: skip
        self._stats = stats

    def _look_through(self) -> Walk:
        """Walk all headers, for want of an index file."""
        found = walk(self, self.size)
        self.take(found)
        return found

    def take(self, found: Walk) -> None:
        """Take over what a walk over the whole segment found."""
        if self._stats is None:
            for error in found.damage:
                logger.error("%s", error)
            self._keep_stats(found.stats)
        self._index = found.entries
        self._is_damaged = bool(found.damage)
        self.is_unsaved = self.sealed and not found.damage

    @property
    def index(self) -> Index:
        """The index, from its file or, if that is missing or damaged, from the segment's headers."""
        if self._index is None:
            self._index = self._load_index()
        return self._index

    def give_index(self, index: Index) -> None:
        self._index = index

    def _load_index(self) -> Index:
        try:
            loaded = index_files.load(self.disk, self.index_path, self.size, self.seed)
        except FileNotFoundError as error:
            check(error)
            loaded = None
        if loaded is not None and self._is_mine(loaded[1]):
            return loaded[0]
        return self._look_through().entries

    def keep_index(self) -> None:
        """Write the index beside the segment, atomically. A failure only costs a later walk, so it is no error.

        REQUIRES: what it vouches for is on the device. One in which batches are missing gets none: nobody would
        be told again.
        """
        index, stats = self.index, self.stats
        self.is_unsaved = False
        if self._is_damaged or (self.sealed and stats.next_offset != self.next_offset):
            return
        try:
            self.disk.write_atomic(self.index_path, index_files.to_bytes(index, stats, self.seed))
        except OSError as error:
            check(error)
            logger.warning("could not write %s (%s); it will be rebuilt when needed", self.index_path, error)
