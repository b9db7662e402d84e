"""Every checksum and every invariant of a partition directory, looked at without changing anything.

Nothing is opened for writing and no lock is needed. A log that is being written, rolled, retained
or compacted meanwhile, by this process or another, is fine: what lies beyond the last whole batch is
what a crash would leave, and files that vanish under the check make it start again.

What is found is damage (records are lost or wrong) or a note (something derived, torn or left over,
which the next open puts right by itself).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ...errors import CorruptRecordError, StorageError
from ...records.batch import BatchHeader, verify_payload
from ...records.columns import BatchColumns
from ...runtime.api import Disk
from ...runtime.disk_errors import check
from .. import index as index_files
from ..checkpoint import NAME as STATE_NAME
from ..checkpoint import State, slots
from ..files import base_offset_of, cut_of, index_name, is_unfinished, log_name, swap_of
from ..index import Index, IndexBuilder
from ..recovery.recovery import is_torn
from ..recovery.resync import marker_of
from ..scan import Walk
from ..segment import Segment, size_of
from .batch_check import batch_fault
from .findings import FOREVER_OFFSET as FOREVER_OFFSET
from .findings import Checked as Checked
from .findings import CheckRequest as CheckRequest
from .findings import Finding as Finding
from .findings import Findings

_TRIES = 8


class _Changed(Exception):
    """The directory changed under the check."""


def check_partition(disk: Disk, question: CheckRequest) -> Checked:
    """Check one partition directory. Reads every byte of it once; holds one batch at a time.

    Raises OSError if the directory cannot be read, FormatError if a newer version wrote it.
    """
    for _ in range(_TRIES):
        try:
            return _Check(disk, question).run()
        except (FileNotFoundError, _Changed) as error:
            if isinstance(error, FileNotFoundError):
                check(error)
            if question.restart is not None:
                question.restart()
            if not disk.exists(question.directory):
                return Checked(0, 0, 0, 0, ())
    message = "the directory changed on every try to read it; verify it again"
    return Checked(0, 0, 0, 0, (Finding(question.directory, 0, "busy", message, None, True),))


class _Check(Findings):
    """One pass over one directory."""

    def __init__(self, disk: Disk, question: CheckRequest) -> None:
        super().__init__(question.crash)
        self.disk = disk
        self.q = question
        self.batches = self.records = self.size_bytes = 0
        self.point = 0
        self.is_torn = self.end_is_damaged = False
        self.epoch = -1

    def run(self) -> Checked:
        names = self.disk.listdir(self.q.directory)
        state = self._state(names)
        if self.disk.listdir(self.q.directory) != names:
            raise _Changed
        gaps = self.q.gaps or (state is not None and state.cleaned_until > 0)
        segments = self._segments(names)
        if state is None and segments:  # nothing says where the log starts, so nothing says that something is missing
            self.start_offset = segments[0].base_offset
        if state is not None:
            self.start_offset, self.point = state.log_start_offset, state.recovery_point
            if self.q.crash.clean:
                self.end_offset = state.recovery_point
        if segments and segments[0].base_offset > self.start_offset:
            self._missing(segments[0].path, 0, self.start_offset, segments[0].base_offset)
        end = 0
        for number, segment in enumerate(segments, 1):
            end = self._segment(segment, segments[number] if number < len(segments) else None, gaps)
            if self.is_torn:
                break
        if state is not None and end < state.recovery_point and not self.end_is_damaged:
            path = segments[-1].path if segments else self.q.directory
            self._missing(path, segments[-1].size if segments else 0, end, state.recovery_point)
        return Checked(len(segments), self.batches, self.records, self.size_bytes, tuple(self.findings))

    # -- names and state -----------------------------------------------------------------------------

    def _state(self, names: Sequence[str]) -> State | None:
        path = f"{self.q.directory}/{STATE_NAME}"
        if STATE_NAME not in names:
            if any(base_offset_of(name, "log") is not None for name in names):
                self._add(path, 0, "state", "it is missing, and with it where the log starts, so the log does not open")
            return None
        found = slots(self.disk.read(path), self.q.topic_id, self.q.partition)
        if found.newest is None and (found.damaged or any(base_offset_of(name, "log") is not None for name in names)):
            message = "neither of its two slots belongs to this partition and verifies, so the log does not open"
            self._add(path, 0, "state", message)
        elif found.damaged:
            message = "one of its two slots does not verify; the other is used"
            self._add(path, found.damaged[0], "state", message, note=True)
        return found.newest

    def _segments(self, names: Sequence[str]) -> list[Segment]:
        """The segments that count, with a finished `.swap` in place of what it replaces."""
        directory = self.q.directory
        paths: dict[int, str] = {}
        for name in names:
            base = base_offset_of(name, "log")
            if base is not None:
                paths[base] = name
            elif is_unfinished(name):
                self._add(f"{directory}/{name}", 0, "leftover", "an unfinished result; it will be removed", note=True)
            elif cut_of(name) is not None:
                known = "bytes that a recovery cut off and saved; nothing of streamlog reads or removes them"
                self._add(f"{directory}/{name}", 0, "cut", known, note=True)
            elif marker_of(name) is not None:
                known = "a sync failed here; the next open writes anew what was not known to be on the device"
                self._add(f"{directory}/{name}", 0, "poisoned", known, note=True)
            elif base_offset_of(name, "index") is None and name != STATE_NAME and swap_of(name) is None:
                self._add(f"{directory}/{name}", 0, "leftover", "not a file of a log", note=True)
        for name in names:
            swap = swap_of(name)
            if swap is not None:
                low, high = swap
                paths = {base: file for base, file in paths.items() if not low <= base < high}
                paths[low] = name
                self._add(f"{directory}/{name}", 0, "leftover", "a compaction that the next open finishes", note=True)
        for name in names:
            base = base_offset_of(name, "index")
            if base is not None and base not in paths:
                self._add(f"{directory}/{name}", 0, "leftover", "an index without its segment", note=True)
        found: list[Segment] = []
        for base in sorted(paths):
            segment = Segment(self.disk, directory, base, self.q.seed)
            segment.path = f"{directory}/{paths[base]}"
            segment.size = size_of(self.disk, segment.path)
            if found and not found[-1].size:
                self._add(found.pop().path, 0, "leftover", "an empty file that an interrupted roll left", note=True)
            found.append(segment)
        return found

    # -- segments ------------------------------------------------------------------------------------

    def _segment(self, segment: Segment, following: Segment | None, gaps: bool) -> int:
        """Check one segment; the offset it ends at."""
        file = self.disk.open(segment.path, writable=False)
        try:
            segment.give_file(file)
            size = segment.size = file.size()
            walk = self._walk(segment, size, following, gaps)
        except StorageError as error:
            lost = self._lost(segment.base_offset, following.base_offset if following else None)
            self._add(segment.path, 0, "unreadable", str(error), lost)
            return following.base_offset if following else segment.base_offset
        finally:
            segment.release()
            file.close()
        self.size_bytes += size
        end = walk.stats.next_offset
        if not walk.damage:
            self._index(segment, walk, following is None)
        if following is None or self.is_torn:
            return end
        if self.power_lost and end >= self.point and end != following.base_offset:
            self._torn(segment, size, size)
            self.is_torn = True
            return end
        if end < following.base_offset and not walk.damage:
            self._missing(segment.path, size, end, following.base_offset)
        elif end > following.base_offset and following.size:
            self._out_of_order(following, 0, end, following.base_offset)
        return max(end, following.base_offset)

    def _walk(self, segment: Segment, size: int, following: Segment | None, gaps: bool) -> Walk:
        built = IndexBuilder(segment.base_offset)
        expected, end = segment.base_offset, 0
        damage: list[CorruptRecordError] = []
        pending: CorruptRecordError | None = None
        for at, found in segment.scan(0, size):
            if isinstance(found, CorruptRecordError):
                pending = found
                damage.append(found)
                if self.power_lost and expected >= self.point:
                    break
                continue
            if pending is not None:
                self._damaged(segment, pending, "header", expected, found.base_offset, at - pending.position)
                pending = None
            elif found.base_offset < expected or (found.base_offset > expected and not gaps):
                self._out_of_order(segment, at, expected, found.base_offset)
            kind, error = self._batch(segment, at, found, gaps)
            if error is not None:
                damage.append(error)
                last = following is None and at + found.batch_len == size
                if kind == "payload" and self._is_torn(segment, end, expected, size, last):
                    self._torn(segment, end, size)
                    break
                self._damaged(segment, error, kind, found.base_offset, found.next_offset, found.batch_len)
            built.add(found, at)
            expected, end = built.next_offset, at + found.batch_len
            if self.q.progress is not None:
                self.q.progress(found.batch_len)
        if pending is not None:
            if self._is_torn(segment, end, expected, size, following is None):
                self._torn(segment, end, size)
            else:
                until = following.base_offset if following else None
                self._damaged(segment, pending, "header", expected, until, size - pending.position)
                self.end_is_damaged = following is None
        return Walk(built.stats(size), built.index, end, tuple(damage))

    def _batch(
        self, segment: Segment, at: int, header: BatchHeader, gaps: bool
    ) -> tuple[str, CorruptRecordError | None]:
        """Verify one batch whose header is good; what is wrong, if its payload or its columns are not."""
        if header.leader_epoch < self.epoch:
            self._add(segment.path, at, "epoch", f"leader epoch {header.leader_epoch} after {self.epoch}")
        self.epoch = max(self.epoch, header.leader_epoch)
        data = segment.read(header.batch_len, at)
        try:
            verify_payload(header, memoryview(data)[header.header_len :], segment.seed, segment.path, at)
        except CorruptRecordError as error:
            return "payload", error
        fault = batch_fault(data, header, gaps)
        if fault is not None:
            return "columns", CorruptRecordError(fault, path=segment.path, position=at, expected=0, actual=0)
        if self.q.keep is not None:
            fault = self.q.keep(segment.base_offset, header, data)
            if fault is not None:
                return "record", CorruptRecordError(fault, path=segment.path, position=at, expected=0, actual=0)
        self.batches += 1
        self.records += header.record_count
        if self.q.visit is not None:
            self.q.visit(header, BatchColumns(data, 0, header))
        return "", None

    def _is_torn(self, segment: Segment, end: int, expected: int, size: int, last: bool) -> bool:
        """Whether the crash explains that the segment does not go on at `end`, with offset `expected`."""
        if self.power_lost:
            self.is_torn = expected >= self.point
            return self.is_torn
        if self.q.crash.clean or not last:
            return False
        stats = index_files.Stats(segment.base_offset, expected, size, 0, -1, -1, -1)
        return is_torn(segment, Walk(stats, Index(), end, ()), self.point, self.q.crash)

    def _index(self, segment: Segment, walk: Walk, is_last: bool) -> None:
        """Compare the index file, if there is one, with what the headers say."""
        path = f"{self.q.directory}/{index_name(segment.base_offset)}"
        if not segment.path.endswith(log_name(segment.base_offset)):
            return
        try:
            loaded = index_files.load(self.disk, path, segment.size, segment.seed)
        except FileNotFoundError as error:
            check(error)
            return
        if loaded is not None and is_last and not self.q.crash.clean and loaded[1].size < walk.stats.size:
            return  # from the last close; the segment went on growing
        if loaded is None:
            self._add(path, 0, "index", "it does not verify; the segment is walked instead", note=True)
        elif loaded[1] != walk.stats or not _agrees(loaded[0], walk.entries):
            self._add(path, 0, "index", "it contradicts the segment; remove it, and it is made again", note=True)


def _agrees(stored: Index, walked: Index) -> bool:
    """Whether every lookup in `stored` has a right answer. A time may be too high: the walk is only longer then."""
    return (
        stored.offsets == walked.offsets
        and stored.positions == walked.positions
        and len(stored.timestamps) == len(walked.timestamps)
        and all(have >= need for have, need in zip(stored.timestamps, walked.timestamps, strict=True))
        and all(a <= b for a, b in pairwise(stored.timestamps))
    )
