"""What a power loss tore: found from the recovery point on, and cut off, with the bytes saved.

Everything before the recovery point was synced, so what is wrong there is damage and stays. From it
on, nothing says in which order the pages, and the sizes of files, reached the device. So payloads are
verified, through all segments, and the log ends at the first batch that does not verify, at the first
gap between two segments, or where a file is missing. What follows is moved aside, to files called
`….log.cut-N`: it may hold records that somebody can use, and nothing of ours ever removes it.

The order of the steps makes a cut one that may be interrupted anywhere and begun again: first the
bytes are saved, then the later segments are renamed, and only then the torn file itself is cut. Until then a walk finds the same cut. The owner file keeps the boot of the crash until
every partition has been through this.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import count
from typing import NamedTuple

from ...errors import DiskFullError, StreamlogError
from ...runtime.api import Disk
from ...runtime.disk_errors import check
from ..files import as_storage_error, base_offset_of, copy_bytes, cut_of, is_copy
from ..index import Index, Stats
from ..scan import Walk, walk
from ..segment import Segment, size_of

logger = logging.getLogger("streamlog.storage")


class Found(NamedTuple):
    """The segments that stay, the last one active, and what has to be done to the files for that.

    `cut`: the active one's file, with `position` bytes that are good, is torn behind them. `aside`: segments that
    are torn whole. `is_new`: the active one has no file yet. `last` is the walk over the active one.
    """

    segments: tuple[Segment, ...]
    last: Walk
    cut: Segment | None = None
    position: int = 0
    aside: tuple[Segment, ...] = ()
    is_new: bool = False
    why: str = ""

    @property
    def is_torn(self) -> bool:
        return self.cut is not None or bool(self.aside) or self.is_new


def search(segments: Sequence[Segment], recovery_point: int, log_start_offset: int) -> Found:
    """Walk from the recovery point on, verifying payloads. Changes no file; fills in the segments that are walked."""
    bases = [segment.base_offset for segment in segments]
    at = max(0, bisect_right(bases, recovery_point) - 1)
    expected = bases[at]
    if not at and expected > max(recovery_point, log_start_offset):
        return _end(segments, 0, max(recovery_point, log_start_offset), "the first segment is missing")
    found: Walk | None = None
    for number in range(at, len(segments)):
        segment = segments[number]
        # What is missing before the recovery point was on the device once: damage, and told.
        if segment.base_offset != expected and expected >= recovery_point:
            why = f"a segment begins at offset {segment.base_offset} where {expected} is due"
            return _end(segments, number, expected, why)
        found = walk(segment, segment.size, recovery_point)
        if found.stopped is not None:
            why = str(found.stopped).partition(". ")[0]
            if not found.end:
                return _end(segments, number, segment.base_offset, why)
            return Found(
                tuple(segments[: number + 1]), found, segment, found.end, tuple(segments[number + 1 :]), why=why
            )
        if found.stats.next_offset >= recovery_point:
            # Not where a later file says that it ends: that one may have to go.
            segment.next_offset = found.stats.next_offset
        segment.take(found)
        expected = max(expected, found.stats.next_offset)
    assert found is not None
    return Found(tuple(segments), found)


def _end(segments: Sequence[Segment], number: int, offset: int, why: str) -> Found:
    """The log ends at `offset`, before the segment of that number. The one before was sealed, so a new one begins."""
    first = segments[0]
    new = Segment(first.disk, first.path[: first.path.rindex("/")], offset, first.seed)
    stats = Stats(offset, offset, 0, 0, -1, -1, -1)
    return Found((*segments[:number], new), Walk(stats, Index(), 0, ()), None, 0, tuple(segments[number:]), True, why)


def cut(disk: Disk, directory: str, found: Found) -> None:
    """Bring the files in line with what was found; may be called again after a failure at any point.

    Raises DiskFullError, with nothing lost, where there is no room for a copy.
    """
    if not found.is_torn:
        return
    active = found.segments[-1]
    try:
        names = disk.listdir(directory)
        saved: list[tuple[int, str]] = []
        torn = found.cut
        size = size_of(disk, torn.path) if torn is not None else 0
        if torn is not None and size > found.position:
            saved.append((size - found.position, _save(disk, torn, found.position, size, names)))
        if found.is_new and not disk.exists(active.path):  # at no moment without a segment: that is a lost partition
            active.create()
            disk.sync_dir(directory)
        saved += _move_aside(disk, found.aside, names)
        disk.sync_dir(directory)
        if torn is not None and size > found.position:
            if _was_sealed(torn.base_offset, names):
                _copy(disk, torn.path, 0, found.position, torn.path)
            else:
                file = disk.open(torn.path)
                try:
                    file.truncate(found.position)
                    file.sync()
                finally:
                    file.close()
            torn.release()
        if found.is_new and not disk.exists(active.path):
            active.create()
            disk.sync_dir(directory)
    except OSError as error:
        raise as_storage_error(error, "cut the torn end of", active.path) from error
    _tell(found, saved)


def _tell(found: Found, saved: Sequence[tuple[int, str]]) -> None:
    total = sum(size for size, _ in saved)
    if not total:
        return
    active = found.segments[-1]
    logger.warning(
        "%s: the machine went down in the middle of writing; cut %d bytes, from byte %d (offset %d) on (%s). "
        "They were saved to %s",
        active.path, total, found.position, found.last.stats.next_offset, found.why.rstrip("."),
        ", ".join(path for _, path in saved),
    )  # fmt: skip


def _was_sealed(base_offset: int, names: Iterable[str]) -> bool:
    """Whether a segment ever followed the one at `base_offset`: then it may be mapped somewhere, and never shrinks."""
    for name in names:
        base = base_offset_of(name, "log")
        base = cut_of(name) if base is None else base
        if base is not None and base > base_offset:
            return True
    return False


def _move_aside(disk: Disk, segments: Sequence[Segment], names: list[str]) -> list[tuple[int, str]]:
    """Rename segments, and remove those without a byte. Where this was interrupted there is a gap, which is cut again."""
    moved: list[tuple[int, str]] = []
    for segment in segments:
        segment.release()
        if disk.exists(segment.index_path):
            disk.unlink(segment.index_path)
        if not disk.exists(segment.path):
            continue
        size = size_of(disk, segment.path)
        if not size:
            disk.unlink(segment.path)
            continue
        target = _free_name(disk, segment, 0)
        disk.rename(segment.path, target)
        moved.append((size, target))
    return moved


def _save(disk: Disk, segment: Segment, position: int, size: int, names: list[str]) -> str:
    """Copy the bytes from `position` on beside the segment, unless an interrupted cut has done so."""
    earlier = f"{segment.path}.cut-{position}"
    if disk.exists(earlier) and is_copy(disk, segment.path, earlier, position, size):
        return earlier
    target = _free_name(disk, segment, position)
    _copy(disk, segment.path, position, size, target)
    return target


def _free_name(disk: Disk, segment: Segment, position: int) -> str:
    """A name for bytes cut off the segment at `position`; what an earlier crash left keeps its own."""
    plain = f"{segment.path}.cut-{position}"
    return next(name for n in count(1) if not disk.exists(name := plain if n == 1 else f"{plain}-{n}"))


def _copy(disk: Disk, path: str, start: int, end: int, target: str) -> None:
    """Put the bytes of `path` from `start` to `end` in place of `target`, whole or not at all."""
    temporary = f"{target}.tmp"
    try:
        copy_bytes(disk, path, temporary, start, end)
        disk.rename(temporary, target)
    except BaseException:
        try:
            if disk.exists(temporary):
                disk.unlink(temporary)
        except OSError as error:
            check(error)
            logger.warning("could not remove %s (%s); the next open does", temporary, error)
        raise
    disk.sync_dir(target[: target.rindex("/")])


def settle(disk: Disk, directory: str, found: Found) -> StreamlogError | None:
    """`cut`, or, on a full disk, what says that it has to be done yet: the log can be read meanwhile, up to the cut."""
    try:
        cut(disk, directory, found)
    except DiskFullError as error:
        logger.warning("%s Until then the log is read up to the torn end, and nothing is appended.", error)
        return error
    return None
