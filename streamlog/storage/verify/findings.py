"""The request for a check of a partition directory, and its result."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
Recover = Callable[[int, int], Iterable[tuple[BatchHeader, bytes]]]


class Finding(NamedTuple):
    """One thing that is wrong.

    `lost` are the offsets (from, up to) of the records that cannot be read, if there are any. `size` is the number of
    damaged bytes, as far as it is known. `is_note`: no record is lost, and the next open or the next compaction repairs it.
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
    """Which partition directory to check, and what is known about it.

    `gaps`: compaction may have left offsets out. The callbacks are called in the order of offsets: `visit` with each intact
    batch, `progress` with numbers of bytes, and `keep` with the base offset of the segment, the header and the bytes of
    each intact batch; if `keep` returns a reason, the batch counts as damaged. If the directory changes during the check,
    `restart` is called and the check begins again. `recover` is called with the offsets of lost records, before the next
    `keep`, and gives the batches that were had from elsewhere: they are visited like those that are intact.
    """

    directory: str
    topic_id: bytes
    partition: int
    seed: int
    shutdown: PreviousShutdown
    gaps: bool
    visit: Visit | None = None
    progress: Progress | None = None
    restart: Callable[[], object] | None = None
    keep: Keep | None = None
    recover: Recover | None = None


class Findings:
    """The findings of one pass so far. Records below `start_offset` are deleted, so none of them can be lost."""

    def __init__(self, *, power_lost: bool, on_lost: Callable[[int, int], object]) -> None:
        self.on_lost = on_lost
        self.all: list[Finding] = []
        self.start_offset = 0
        self.end_offset = FOREVER_OFFSET
        self._power_lost = power_lost

    def add(
        self, path: str, position: int, kind: str, message: str, lost: tuple[int, int] | None = None, size: int = 0
    ) -> None:
        """Something that is damaged, missing or contradictory."""
        self.all.append(Finding(path, position, kind, message, lost, False, size))
        if lost is not None:
            self.on_lost(*lost)

    def note(self, path: str, position: int, kind: str, message: str, size: int = 0) -> None:
        """Something that the next open or compaction repairs."""
        self.all.append(Finding(path, position, kind, message, None, True, size))

    def lost(self, start: int, end: int | None) -> tuple[int, int] | None:
        """The offsets from `start` up to `end` (None: the end of the log) without those that were deleted."""
        start = max(start, self.start_offset)
        if end is None:
            end = self.end_offset if self.end_offset > start else FOREVER_OFFSET
        return (start, end) if start < end else None

    def damaged(
        self, segment: Segment, error: CorruptRecordError, kind: str, start: int, end: int | None, size: int
    ) -> None:
        lost = self.lost(start, end)
        message = str(error).partition(". ")[0].removeprefix(f"{error.path} is damaged at byte {error.position}: ")
        if lost is None:
            self.note(segment.path, error.position, kind, message, size)
        else:
            self.add(segment.path, error.position, kind, message, lost, size)

    def missing(self, path: str, position: int, start: int, end: int) -> None:
        lost = self.lost(start, end)
        if lost is not None:
            message = f"offsets {start} up to {end} are missing: a segment is gone or was cut short"
            self.add(path, position, "missing", message, lost)

    def out_of_order(self, segment: Segment, at: int, expected: int, found: int) -> None:
        """A batch, or a segment, begins with offset `found` where `expected` is due."""
        if found > expected:
            self.missing(segment.path, at, expected, found)
        else:
            message = f"a batch with offset {found} follows offset {expected - 1}: offsets only grow"
            self.add(segment.path, at, "offsets", message)

    def torn(self, segment: Segment, end: int, size: int) -> None:
        message = f"torn tail: {size - end} bytes of an unfinished write, will be truncated at the next open"
        if self._power_lost:
            message = (
                f"torn tail: {size - end} bytes from here on, and all segments after them, were not known to be on the "
                f"device when the machine went down; they will be truncated, and saved to other files, at the next open"
            )
        self.note(segment.path, end, "torn", message, size - end)
