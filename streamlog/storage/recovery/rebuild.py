"""Writing a new partition directory from the intact batches of another one.

Each batch keeps its bytes and its offset, and segments begin at the same offsets as those they were copied from. Lost
offsets, between two batches or two segments, are covered by an empty batch: a batch without records, as compaction leaves
them, that spans all offsets of the gap. So the log is contiguous: readers skip the gap as they skip compacted offsets,
offsets are assigned once, and followers copy the gap like any batch. The alternative was to begin a new segment after each
gap. But a lost file leaves the same kind of gap, so readers, recovery and `verify` would have to distinguish the two.
"""

from __future__ import annotations

from ...records import columns
from ...records.batch import NO_TIMESTAMP, BatchHeader, stamp
from ...runtime.api import Disk, File
from ..checkpoint import State, StateFile
from ..scan import walk
from ..segment import Segment

_WRITE_BYTES = 1 << 20
_SPAN = (1 << 31) - 1  # the offsets that one batch can cover
_MOST_SPANS = 64


class SegmentWriter:
    """Writes the segments of a new partition directory: `keep` the batches in order, then `finish`. Raises OSError.

    `gaps`: offsets may be missing inside a segment because compaction removed them. The log starts at `start_offset`;
    `next_offset` is the end of what was kept so far.
    """

    def __init__(
        self, disk: Disk, directory: str, topic_id: bytes, partition: int, seed: int, start_offset: int, *, gaps: bool
    ) -> None:
        disk.makedirs(directory)
        self.start_offset = self.next_offset = start_offset
        self.batches = self.records = self.size_bytes = 0
        self._disk = disk
        self._directory = directory
        self._owner = (topic_id, partition)
        self._seed = seed
        self.gaps = gaps
        self._segment: Segment | None = None
        self._source = -1
        self._file: File | None = None
        self._position = 0
        self._buffers: list[bytes] = []
        self._buffered = 0
        self._epoch, self._append_ms = 0, NO_TIMESTAMP

    def keep(self, base_offset: int, header: BatchHeader, data: bytes) -> str | None:
        """Write an intact batch of the segment that begins at `base_offset`. Return why it cannot be kept, or None."""
        first = self._segment is None
        if not first and header.base_offset < self.next_offset:
            return None  # a duplicate is kept once
        if header.base_offset - self.next_offset > _SPAN * _MOST_SPANS:
            return f"its offset {header.base_offset} is too far from the one that is due, {self.next_offset}"
        if first:
            self._epoch, self._append_ms = header.leader_epoch, header.append_timestamp
            if base_offset <= self.start_offset:
                self.next_offset = base_offset  # some of the deleted records may still be there
        if base_offset != self._source:
            self._source = base_offset
            if first or base_offset >= self.next_offset:
                if not first or base_offset > self.next_offset:
                    self._span(base_offset)
                self._begin(base_offset)
        if not self.gaps:
            self._span(header.base_offset)
        self._put(data)
        self._epoch, self._append_ms = header.leader_epoch, header.append_timestamp
        self.next_offset = header.next_offset
        self.batches += 1
        self.records += header.record_count
        self.size_bytes += len(data)
        return None

    def fill(self, header: BatchHeader, data: bytes) -> str | None:
        """Write a batch that another replica has in place of a lost one. As `keep`."""
        return self.keep(self._source if self._segment is not None else header.base_offset, header, data)

    @property
    def last_epoch(self) -> int | None:
        """The leader epoch of the last batch that was kept; None before the first."""
        return self._epoch if self.batches else None

    def finish(self, state: State | None) -> int:
        """Sync everything and write the state of a closed log; return the offset at which it ends.

        The offsets up to the recovery point of `state` were assigned once, so they are not assigned again.
        """
        point = state.recovery_point if state is not None else 0
        if point - self.next_offset <= _SPAN * _MOST_SPANS:
            self._span(point)
        if self._segment is None or self.next_offset < self.start_offset:  # everything kept was deleted before
            self.next_offset = max(self.next_offset, self.start_offset)
            self._begin(self.next_offset)
        self._end()
        self._disk.sync_dir(self._directory)
        # Not 0 if offsets may be missing, according to the state or to the topic's policy.
        cleaned = min(max(state.cleaned_until if state is not None else 0, self.gaps), self.next_offset)
        file = StateFile.open(self._disk, self._directory, *self._owner, is_new=True)
        file.write(State(self.start_offset, self.next_offset, cleaned), sync=True)
        file.close()
        self._disk.sync_dir(self._directory)
        return self.next_offset

    def _span(self, offset: int) -> None:
        """Cover the missing offsets up to `offset` with empty batches."""
        while self.next_offset < offset:
            if self._segment is None:
                self._begin(self.next_offset)
            assert self._segment is not None
            count = min(offset - self.next_offset, _SPAN)
            if self.next_offset + count - self._segment.base_offset > _SPAN:  # more offsets than a segment may hold
                self._begin(self.next_offset)
            empty = columns.seal(self._seed, None, None, NO_TIMESTAMP, count=0, last_offset_delta=count - 1)
            header = stamp(empty, self._seed, self.next_offset, self._epoch, self._append_ms)
            self._put(header + empty.payload)
            self.next_offset += count

    def _begin(self, base_offset: int) -> None:
        self._end()
        self._segment = Segment(self._disk, self._directory, base_offset, self._seed)
        self._segment.create()
        self._file = self._segment.file
        self._position = 0

    def _put(self, data: bytes) -> None:
        self._buffers.append(data)
        self._buffered += len(data)
        if self._buffered >= _WRITE_BYTES:
            self._flush()

    def _flush(self) -> None:
        assert self._file is not None
        self._file.pwrite(self._buffers, self._position)
        self._position += self._buffered
        self._buffers, self._buffered = [], 0

    def _end(self) -> None:
        """Seal the segment: sync its bytes and write its index."""
        segment, file = self._segment, self._file
        if segment is None or file is None:
            return
        self._flush()
        file.sync()
        segment.size = self._position
        segment.make_active(walk(segment, self._position))
        if self._position:
            segment.write_index()
        segment.release()
        file.close()
        self._file = None
