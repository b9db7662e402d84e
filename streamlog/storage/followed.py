"""A file of a log that another process writes, as a reader of that log has it."""

from __future__ import annotations

import weakref
from array import array
from bisect import bisect_right
from errno import ESTALE

from ..records.batch import BatchHeader
from ..runtime.api import Disk, File
from .index import INTERVAL, Index
from .scan import walk
from .segment import Segment

# From a place that is known to one this far on, headers are walked each time rather than indexed once.
_NEARBY = 64 * 1024


class FollowedSegment(Segment):
    """A file that another process wrote, or still writes. Its size is that which was listed."""

    def __init__(self, disk: Disk, path: str, base_offset: int, seed: int) -> None:
        super().__init__(disk, path[: path.rindex("/")], base_offset, seed)
        self.path = path
        self._index = self.live = LiveIndex(self)

    @property
    def file(self) -> File:
        """The open file. Raises OSError ESTALE if another one took its place since it was listed."""
        file = self._file
        if file is None:
            file = self.disk.open(self.path, writable=False)
            if self.sealed and file.size() != self.size:
                raise OSError(ESTALE, "another file took its place", self.path)
            self._file = file
        return file

    def measure(self) -> int:
        """The file's size now; nothing stays open."""
        file = self.disk.open(self.path, writable=False)
        try:
            return file.size()
        finally:
            file.close()

    def finished(self, size: int, next_offset: int) -> None:
        """It will not change any more: it may be mapped, and has an index file, or will have."""
        self.size, self.next_offset = size, next_offset
        if not self.live.knows_some:  # else whoever is tailing goes on without a walk
            self._index = None
        self.seal()


class LiveIndex(Index):
    """The index of a segment that grows: walked only where it has to be, since who tails is never far from a place
    that the slot told of. One walk may be made by two threads at once; what it found is put down in one assignment.

    It refers to its segment weakly. In a cycle, a segment that the owner deleted would keep its descriptor and its
    disk space until the cyclic garbage collector runs. REQUIRES: the caller holds the segment.
    """

    __slots__ = ("_segment", "_told", "_walked")

    def __init__(self, segment: Segment) -> None:
        super().__init__()
        self._segment = weakref.ref(segment)
        self._told = (array("q", [segment.base_offset]), array("q", [0]))
        self._walked = (Index(), 0)

    @property
    def knows_some(self) -> bool:
        return len(self._told[0]) > 1 or self._walked[1] > 0

    def tell(self, offset: int, position: int) -> None:
        """A batch begins, or will, at `position` with `offset`."""
        offsets, positions = self._told
        if position - positions[-1] >= INTERVAL:
            positions.append(position)  # in this order: who bisects the offsets finds its position there
            offsets.append(offset)

    def _the_segment(self) -> Segment:
        segment = self._segment()
        assert segment is not None, "the segment of a live index is gone"
        return segment

    def position_for_offset(self, offset: int) -> int:
        offsets, positions = self._told
        at = max(0, bisect_right(offsets, offset) - 1)
        onward = positions[at + 1] if at + 1 < len(positions) else self._the_segment().size
        if onward - positions[at] <= _NEARBY:
            return positions[at]
        return self._all().position_for_offset(offset)

    def position_for_time(self, timestamp: int) -> int | None:
        return self._all().position_for_time(timestamp)

    def _all(self) -> Index:
        """An index of everything up to the segment's size."""
        known, position = self._walked
        segment = self._the_segment()
        size = segment.size
        if not position:
            known = walk(segment, size).entries
        elif position < size:
            index = Index()
            index.offsets, index.positions = known.offsets[:], known.positions[:]
            index.timestamps = known.timestamps[:]
            for at, found in segment.scan(position, size):
                if isinstance(found, BatchHeader):
                    index.add(found.base_offset, at, found.max_timestamp)
            known = index
        self.walked(known, size)
        return known

    def walked(self, index: Index, size: int) -> None:
        """This is the index of everything before the position `size`."""
        self._walked = (index, size)
