"""A check of every checksum and every invariant of a partition directory.

It opens no file for writing and needs no lock. This process or another may append to the log, roll, retain or compact it
meanwhile: bytes after the last whole batch are what a crash would leave, and if files disappear the check begins again.

A finding is damage (records are lost or wrong) or a note (something derived, torn or left over, which the next open
repairs).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ...errors import CorruptRecordError, StorageError
from ...records.batch import BatchHeader, verify_payload
from ...records.decode import decode
from ...runtime.api import Disk
from ...runtime.disk_errors import require_disk_error
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
    """The directory changed during the check."""


def check_partition(disk: Disk, request: CheckRequest) -> Checked:
    """Check one partition directory. Reads every byte of it once; holds one batch at a time.

    Raises OSError if the directory cannot be read, FormatError if a newer version wrote it.
    """
    for _ in range(_TRIES):
        try:
            return _Check(disk, request).run()
        except (FileNotFoundError, _Changed) as error:
            if isinstance(error, FileNotFoundError):
                require_disk_error(error)
            if request.restart is not None:
                request.restart()
            if not disk.exists(request.directory):
                return Checked(0, 0, 0, 0, ())
    message = "the directory changed on every attempt to read it; verify it again"
    return Checked(0, 0, 0, 0, (Finding(request.directory, 0, "busy", message, None, True),))


class _Check:
    """One pass over one directory."""

    def __init__(self, disk: Disk, request: CheckRequest) -> None:
        shutdown = request.shutdown
        self.disk = disk
        self.request = request
        self.power_lost = not shutdown.clean and not shutdown.same_boot
        self.findings = Findings(power_lost=self.power_lost, on_lost=self._recover)
        self.batches = self.records = self.size_bytes = 0
        self.point = 0
        self.is_torn = self.end_is_damaged = False
        self.epoch = -1

    def run(self) -> Checked:
        names = self.disk.listdir(self.request.directory)
        state = self._state(names)
        if self.disk.listdir(self.request.directory) != names:
            raise _Changed
        gaps = self.request.gaps or (state is not None and state.cleaned_until > 0)
        segments = self._segments(names)
        # Where the log starts is unknown, so nothing before the first segment counts as missing.
        if state is None and segments:
            self.findings.start_offset = segments[0].base_offset
        if state is not None:
            self.findings.start_offset, self.point = state.log_start_offset, state.recovery_point
            if self.request.shutdown.clean:
                self.findings.end_offset = state.recovery_point
        if segments and segments[0].base_offset > self.findings.start_offset:
            self.findings.missing(segments[0].path, 0, self.findings.start_offset, segments[0].base_offset)
        end = 0
        for number, segment in enumerate(segments, 1):
            end = self._segment(segment, segments[number] if number < len(segments) else None, gaps)
            if self.is_torn:
                break
        if state is not None and end < state.recovery_point and not self.end_is_damaged:
            path = segments[-1].path if segments else self.request.directory
            self.findings.missing(path, segments[-1].size if segments else 0, end, state.recovery_point)
        return Checked(len(segments), self.batches, self.records, self.size_bytes, tuple(self.findings.all))

    # -- names and state -----------------------------------------------------------------------------

    def _state(self, names: Sequence[str]) -> State | None:
        path = f"{self.request.directory}/{STATE_NAME}"
        if STATE_NAME not in names:
            if any(base_offset_of(name, "log") is not None for name in names):
                self.findings.add(
                    path, 0, "state", "it is missing, and with it where the log starts, so the log does not open"
                )
            return None
        found = slots(self.disk.read(path), self.request.topic_id, self.request.partition)
        if found.newest is None and (found.damaged or any(base_offset_of(name, "log") is not None for name in names)):
            message = "neither of its two slots belongs to this partition and verifies, so the log does not open"
            self.findings.add(path, 0, "state", message)
        elif found.damaged:
            message = "one of its two slots does not verify; the other is used"
            self.findings.note(path, found.damaged[0], "state", message)
        return found.newest

    def _segments(self, names: Sequence[str]) -> list[Segment]:
        """The segments of the log; a finished `.swap` takes the place of those that it replaces."""
        directory = self.request.directory
        paths: dict[int, str] = {}
        for name in names:
            base = base_offset_of(name, "log")
            if base is not None:
                paths[base] = name
            elif is_unfinished(name):
                self.findings.note(
                    f"{directory}/{name}", 0, "leftover", "an unfinished result; the next open removes it"
                )
            elif cut_of(name) is not None:
                known = "bytes that a recovery removed from a segment and saved; streamlog neither reads nor removes this file"
                self.findings.note(f"{directory}/{name}", 0, "cut", known)
            elif marker_of(name) is not None:
                known = "a sync failed here; the next open writes again what was not known to be on the device"
                self.findings.note(f"{directory}/{name}", 0, "poisoned", known)
            elif base_offset_of(name, "index") is None and name != STATE_NAME and swap_of(name) is None:
                self.findings.note(f"{directory}/{name}", 0, "leftover", "not a file of a log")
        for name in names:
            swap = swap_of(name)
            if swap is not None:
                low, high = swap
                paths = {base: file for base, file in paths.items() if not low <= base < high}
                paths[low] = name
                self.findings.note(f"{directory}/{name}", 0, "leftover", "a compaction that the next open finishes")
        for name in names:
            base = base_offset_of(name, "index")
            if base is not None and base not in paths:
                self.findings.note(f"{directory}/{name}", 0, "leftover", "an index without its segment")
        found: list[Segment] = []
        for base in sorted(paths):
            segment = Segment(self.disk, directory, base, self.request.seed)
            segment.path = f"{directory}/{paths[base]}"
            segment.size = size_of(self.disk, segment.path)
            if found and not found[-1].size:
                self.findings.note(found.pop().path, 0, "leftover", "an empty file that an interrupted roll left")
            found.append(segment)
        return found

    # -- segments ------------------------------------------------------------------------------------

    def _segment(self, segment: Segment, following: Segment | None, gaps: bool) -> int:
        """Check one segment; return the offset at which it ends."""
        file = self.disk.open(segment.path, writable=False)
        try:
            segment.use_file(file)
            size = segment.size = file.size()
            walk = self._walk(segment, size, following, gaps)
        except StorageError as error:
            lost = self.findings.lost(segment.base_offset, following.base_offset if following else None)
            self.findings.add(segment.path, 0, "unreadable", str(error), lost)
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
            self.findings.torn(segment, size, size)
            self.is_torn = True
            return end
        if end < following.base_offset and not walk.damage:
            self.findings.missing(segment.path, size, end, following.base_offset)
        elif end > following.base_offset and following.size:
            self.findings.out_of_order(following, 0, end, following.base_offset)
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
                self.findings.damaged(segment, pending, "header", expected, found.base_offset, at - pending.position)
                pending = None
            elif found.base_offset < expected or (found.base_offset > expected and not gaps):
                self.findings.out_of_order(segment, at, expected, found.base_offset)
            kind, error = self._batch(segment, at, found, gaps)
            if error is not None:
                damage.append(error)
                last = following is None and at + found.batch_len == size
                if kind == "payload" and self._is_torn(segment, end, expected, size, last):
                    self.findings.torn(segment, end, size)
                    break
                self.findings.damaged(segment, error, kind, found.base_offset, found.next_offset, found.batch_len)
            built.add(found, at)
            expected, end = built.next_offset, at + found.batch_len
            if self.request.progress is not None:
                self.request.progress(found.batch_len)
        if pending is not None:
            if self._is_torn(segment, end, expected, size, following is None):
                self.findings.torn(segment, end, size)
            else:
                until = following.base_offset if following else None
                self.findings.damaged(segment, pending, "header", expected, until, size - pending.position)
                self.end_is_damaged = following is None
        return Walk(built.stats(size), built.index, end, tuple(damage), summary=built.summary)

    def _batch(
        self, segment: Segment, at: int, header: BatchHeader, gaps: bool
    ) -> tuple[str, CorruptRecordError | None]:
        """Verify a batch whose header verified. Return the kind of damage and the error, if there is any."""
        if header.leader_epoch < self.epoch:
            self.findings.add(segment.path, at, "epoch", f"leader epoch {header.leader_epoch} after {self.epoch}")
        self.epoch = max(self.epoch, header.leader_epoch)
        data = segment.read(header.batch_len, at)
        try:
            verify_payload(header, memoryview(data)[header.header_len :], segment.seed, segment.path, at)
        except CorruptRecordError as error:
            return "payload", error
        fault = batch_fault(data, header, gaps)
        if fault is not None:
            return "columns", CorruptRecordError(fault, path=segment.path, position=at, expected=0, actual=0)
        if self.request.keep is not None:
            fault = self.request.keep(segment.base_offset, header, data)
            if fault is not None:
                return "record", CorruptRecordError(fault, path=segment.path, position=at, expected=0, actual=0)
        self.batches += 1
        self.records += header.record_count
        if self.request.visit is not None:
            self.request.visit(header, decode(header, data))
        return "", None

    def _recover(self, start: int, end: int) -> None:
        for header, data in self.request.recover(start, end) if self.request.recover is not None else ():
            if self.request.visit is not None:
                self.request.visit(header, decode(header, data))

    def _is_torn(self, segment: Segment, end: int, expected: int, size: int, last: bool) -> bool:
        """Whether the crash explains that no valid batch with offset `expected` follows at `end`."""
        if self.power_lost:
            self.is_torn = expected >= self.point
            return self.is_torn
        if self.request.shutdown.clean or not last:
            return False
        stats = index_files.Stats(segment.base_offset, expected, size, 0, -1, -1, -1)
        return is_torn(segment, Walk(stats, Index(), end, ()), self.point, self.request.shutdown)

    def _index(self, segment: Segment, walk: Walk, is_last: bool) -> None:
        """Compare the index file, if there is one, with what the headers say."""
        path = f"{self.request.directory}/{index_name(segment.base_offset)}"
        if not segment.path.endswith(log_name(segment.base_offset)):
            return
        try:
            loaded = index_files.load(self.disk, path, segment.size, segment.seed)
        except FileNotFoundError as error:
            require_disk_error(error)
            return
        if loaded is not None and is_last and not self.request.shutdown.clean and loaded[1].size < walk.stats.size:
            return  # written at the last close; the segment has grown since
        if loaded is None:
            self.findings.note(path, 0, "index", "it does not verify; the segment is walked instead")
        elif loaded[1] != walk.stats or not _agrees(loaded[0], walk.entries):
            self.findings.note(path, 0, "index", "it contradicts the segment; remove it, and it will be made again")
        else:
            self._summary(path, segment.seed, walk)

    def _summary(self, path: str, seed: int, walk: Walk) -> None:
        stored = index_files.load_summary(self.disk, path, seed)
        assert walk.summary is not None
        if stored is None:
            self.findings.note(
                path, 0, "index", "what it says of producers does not verify; the segment is walked instead"
            )
        elif stored[1] != walk.summary.stored():
            self.findings.note(path, 0, "index", "what it says of producers contradicts the segment; remove it")


def _agrees(stored: Index, walked: Index) -> bool:
    """Whether every lookup in `stored` gives a correct answer. A time may be too high: then the walk is only longer."""
    return (
        stored.offsets == walked.offsets
        and stored.positions == walked.positions
        and len(stored.timestamps) == len(walked.timestamps)
        and all(have >= need for have, need in zip(stored.timestamps, walked.timestamps, strict=True))
        and all(a <= b for a, b in pairwise(stored.timestamps))
    )
