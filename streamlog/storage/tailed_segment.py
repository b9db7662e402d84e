"""A segment that another process writes, as far as it was published, and its index."""

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

# Up to this distance from a known position, headers are walked on each lookup; beyond it, an index is built once.
_NEARBY = 64 * 1024


class TailedSegment(Segment):
    """A segment that another process wrote or still writes. `size` is the size that was listed."""

    def __init__(self, disk: Disk, path: str, base_offset: int, seed: int) -> None:
        super().__init__(disk, path[: path.rindex("/")], base_offset, seed)
        self.path = path
        self._index = self.tailed_index = TailedIndex(self)

    def _open(self) -> File:
        """Open the file. Raises OSError ESTALE if it was replaced since it was listed."""
        file = self.disk.open(self.path, writable=False)
        if self.sealed and file.size() != self.size:
            raise OSError(ESTALE, "another file took its place", self.path)
        return file

    def sealed_by_owner(self, size: int, next_offset: int) -> None:
        """The owner has sealed it, with this size: it may be mapped now, and has an index file, or will have."""
        self.size, self.next_offset = size, next_offset
        if not self.tailed_index.has_entries:  # otherwise a reader that is tailing continues without a walk
            self._index = None
        self.seal()


class TailedIndex(Index):
    """The index of a segment that grows. A reader that is tailing is always near a position from a slot, so the segment is
    walked only when necessary. Two threads may walk at once; each stores its result in one assignment.

    It refers to its segment weakly: in a reference cycle, a segment that the owner deleted would keep its descriptor and its
    disk space until the cyclic garbage collector runs. REQUIRES: the caller refers to the segment.
    """

    __slots__ = ("_noted", "_segment", "_walked")

    def __init__(self, segment: Segment) -> None:
        super().__init__()
        self._segment = weakref.ref(segment)
        self._noted = (array("q", [segment.base_offset]), array("q", [0]))
        self._walked = (Index(), 0)

    @property
    def has_entries(self) -> bool:
        return len(self._noted[0]) > 1 or self._walked[1] > 0

    def note(self, offset: int, position: int) -> None:
        """A batch with `offset` begins, or will begin, at `position`."""
        offsets, positions = self._noted
        if position - positions[-1] >= INTERVAL:
            positions.append(position)  # first: a reader that finds the offset must find the position
            offsets.append(offset)

    def _the_segment(self) -> Segment:
        segment = self._segment()
        assert segment is not None, "the segment of a tailed index is gone"
        return segment

    def interval_of(self, offset: int) -> tuple[int, int | None]:
        offsets, positions = self._noted
        at = max(0, bisect_right(offsets, offset) - 1)
        next_position = positions[at + 1] if at + 1 < len(positions) else None
        if (self._the_segment().size if next_position is None else next_position) - positions[at] <= _NEARBY:
            return positions[at], next_position
        return self.whole().interval_of(offset)

    def position_for_time(self, timestamp: int) -> int | None:
        return self.whole().position_for_time(timestamp)

    def whole(self) -> Index:
        """The index of everything up to the segment's size."""
        known, position = self._walked
        segment = self._the_segment()
        size = segment.size
        if not position:
            known = walk(segment, size).entries
        elif position < size:
            index = Index()
            index.offsets, index.positions = known.offsets[:], known.positions[:]
            index.timestamps = known.timestamps[:]
            made_for, least = known.least_times
            index.least_times = index.positions, least if made_for is known.positions else array("q")
            for at, found in segment.scan(position, size):
                if isinstance(found, BatchHeader):
                    index.add(found.base_offset, at, found.max_timestamp)
            known = index
        self.set_walked(known, size)
        return known

    def set_walked(self, index: Index, size: int) -> None:
        """`index` covers everything before the position `size`."""
        self._walked = (index, size)
