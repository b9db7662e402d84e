"""What a check of a partition directory is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ...errors import CorruptRecordError
from ...records.batch import BatchHeader
from ...records.columns import BatchColumns
from ..recovery.recovery import PreviousShutdown
from ..segment import Segment

FOREVER_OFFSET = (1 << 63) - 1

Visit = Callable[[BatchHeader, BatchColumns], object]
Keep = Callable[[int, BatchHeader, bytes], str | None]
Progress = Callable[[int], object]


class Finding(NamedTuple):
    """One thing that is not as it should be.

    `lost` are the offsets (from, up to) of records that cannot be read, if any are, and `size` the bytes of what is
    damaged, as far as it is known; `is_note` says that no record is lost and the next open, or the next compaction,
    puts it right.
    """

    path: str
    position: int
    kind: str
    message: str
    lost: tuple[int, int] | None = None
    is_note: bool = False
    size: int = 0


class Checked(NamedTuple):
    """What a check of one partition counted and found. `size_bytes` are the bytes of its segments."""

    segments: int
    batches: int
    records: int
    size_bytes: int
    findings: tuple[Finding, ...]


class CheckRequest(NamedTuple):
    """Which partition directory is checked, and what is known about it.

    `gaps`: compaction may have left offsets out. `visit` is called with each batch that is whole, `keep` with the
    base offset of its segment, its header and its bytes, and `progress` with bytes done, in the order of offsets; all
    again from the start if the directory changes under the check, after `restart`. What `keep` answers is wrong with
    the batch, if it is not None.
    """

    directory: str
    topic_id: bytes
    partition: int
    seed: int
    crash: PreviousShutdown
    gaps: bool
    visit: Visit | None = None
    progress: Progress | None = None
    restart: Callable[[], object] | None = None
    keep: Keep | None = None


class Findings:
    """The findings of one pass so far. Offsets below `start_offset` are deleted, so nothing is lost there."""

    def __init__(self, crash: PreviousShutdown) -> None:
        self.findings: list[Finding] = []
        self.start_offset = 0
        self.end_offset = FOREVER_OFFSET
        self.power_lost = not crash.clean and not crash.same_boot

    def _add(
        self, path: str, position: int, kind: str, message: str, lost: tuple[int, int] | None = None,
        note: bool = False, size: int = 0,
    ) -> None:  # fmt: skip
        self.findings.append(Finding(path, position, kind, message, lost, note, size))

    def _lost(self, start: int, end: int | None) -> tuple[int, int] | None:
        """Offsets that are lost, without those that were deleted anyway. No end: to the end of the log."""
        start = max(start, self.start_offset)
        if end is None:
            end = self.end_offset if self.end_offset > start else FOREVER_OFFSET
        return (start, end) if start < end else None

    def _damaged(
        self, segment: Segment, error: CorruptRecordError, kind: str, start: int, end: int | None, size: int
    ) -> None:
        lost = self._lost(start, end)
        message = str(error).partition(". ")[0].removeprefix(f"{error.path} is damaged at byte {error.position}: ")
        self._add(segment.path, error.position, kind, message, lost, note=lost is None, size=size)

    def _missing(self, path: str, position: int, start: int, end: int) -> None:
        lost = self._lost(start, end)
        if lost is not None:
            message = f"offsets {start} up to {end} are missing: a segment is gone or was cut short"
            self._add(path, position, "missing", message, lost)

    def _out_of_order(self, segment: Segment, at: int, expected: int, found: int) -> None:
        if found > expected:
            self._missing(segment.path, at, expected, found)
        else:
            message = f"a batch with offset {found} follows offset {expected - 1}: offsets only grow"
            self._add(segment.path, at, "offsets", message)

    def _torn(self, segment: Segment, end: int, size: int) -> None:
        message = f"torn tail: {size - end} bytes of an unfinished write, will be cut at the next open"
        if self.power_lost:
            message = (
                f"torn tail: {size - end} bytes from here on, and all segments after them, were not known to be on the "
                f"device when the machine went down; they will be cut off, and saved, at the next open"
            )
        self._add(segment.path, end, "torn", message, note=True, size=size - end)
