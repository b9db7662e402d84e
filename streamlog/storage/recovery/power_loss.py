"""What a power loss tore: find where the log ends, and truncate it there, with the removed bytes saved.

Everything before the recovery point was synced, so what does not verify there is damage and stays. After it, pages and
file sizes may have reached the device in any order. So payloads are verified through all segments, and the log ends at the
first batch that does not verify, at the first gap between two segments, or where a file is missing. The bytes after that
point are moved to files named `….log.cut-N`. They may contain records that the user needs, so nothing removes them.

The order of the steps allows an interrupted truncation to begin again: first the bytes are saved, then the later segments
are renamed, and only then the torn file itself is truncated. Until then a search finds the same end. The owner file keeps
the boot in which the machine went down until this was done for every partition.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import count
from typing import NamedTuple

from ...errors import DiskFullError, StreamlogError
from ...runtime.api import Disk
from ...runtime.disk_errors import require_disk_error
from ..files import as_storage_error, base_offset_of, copy_bytes, cut_of, is_copy
from ..index import Index, Stats
from ..producer_summary import ProducerSummary
from ..scan import Walk, walk
from ..segment import Segment, size_of

logger = logging.getLogger("streamlog.storage")


class LogEnd(NamedTuple):
    """The segments that stay, the last one active, and what has to be done to the files for that.

    `torn`: the file of the active segment, which is torn after its first `position` bytes. `removed`: the segments after
    it. `is_new`: the active segment has no file yet. `last` is the walk over the active segment, `why` the reason why the
    log ends here.
    """

    segments: tuple[Segment, ...]
    last: Walk
    torn: Segment | None = None
    position: int = 0
    removed: tuple[Segment, ...] = ()
    is_new: bool = False
    why: str = ""

    @property
    def is_torn(self) -> bool:
        return self.torn is not None or bool(self.removed) or self.is_new


def find_end(segments: Sequence[Segment], recovery_point: int, log_start_offset: int) -> LogEnd:
    """Walk from the recovery point on and verify payloads. Changes no file; the segments take over what the walk found."""
    bases = [segment.base_offset for segment in segments]
    at = max(0, bisect_right(bases, recovery_point) - 1)
    # A segment that ends at the recovery point may have been appended to, truncated there and sealed, with none of it synced
    # since. If its index is of a file of its size it was not.
    if at and bases[at] == recovery_point and segments[at - 1].load_stats() is None:
        at -= 1
    expected = bases[at]
    if not at and expected > max(recovery_point, log_start_offset):
        return _end_before(segments, 0, max(recovery_point, log_start_offset), "the first segment is missing")
    found: Walk | None = None
    for number in range(at, len(segments)):
        segment = segments[number]
        # A gap before the recovery point is damage: the missing batches were on the device. Readers get an error for it.
        if segment.base_offset != expected and expected >= recovery_point:
            why = f"a segment begins at offset {segment.base_offset} where {expected} is due"
            return _end_before(segments, number, expected, why)
        found = walk(segment, segment.size, recovery_point)
        if found.stopped is not None:
            why = str(found.stopped).partition(". ")[0]
            if not found.end:
                return _end_before(segments, number, segment.base_offset, why)
            return LogEnd(
                tuple(segments[: number + 1]), found, segment, found.end, tuple(segments[number + 1 :]), why=why
            )
        if found.stats.next_offset >= recovery_point:
            # Not the base offset of the next file: that one may have to go.
            segment.next_offset = found.stats.next_offset
        segment.keep_walk(found)
        expected = max(expected, found.stats.next_offset)
    assert found is not None
    return LogEnd(tuple(segments), found)


def _end_before(segments: Sequence[Segment], number: int, offset: int, why: str) -> LogEnd:
    """The log ends at `offset`, before segment `number`. The segment before that was sealed, so a new one begins."""
    first = segments[0]
    new = Segment(first.disk, first.path[: first.path.rindex("/")], offset, first.seed)
    stats = Stats(offset, offset, 0, 0, -1, -1, -1)
    return LogEnd(
        (*segments[:number], new),
        Walk(stats, Index(), 0, (), summary=ProducerSummary()),
        None,
        0,
        tuple(segments[number:]),
        True,
        why,
    )


def truncate(disk: Disk, directory: str, end: LogEnd) -> None:
    """Make the files end where the log does. May be called again after a failure at any point.

    Raises DiskFullError, with nothing lost, if there is no space for a copy.
    """
    if not end.is_torn:
        return
    active = end.segments[-1]
    try:
        names = disk.listdir(directory)
        saved: list[tuple[int, str]] = []
        torn = end.torn
        size = size_of(disk, torn.path) if torn is not None else 0
        if torn is not None and size > end.position:
            saved.append((size - end.position, _save(disk, torn, end.position, size)))
        if end.is_new and not disk.exists(active.path):  # at no moment without a segment: that is a lost partition
            active.create()
            disk.sync_dir(directory)
        saved += _move_aside(disk, end.removed)
        disk.sync_dir(directory)
        if torn is not None and size > end.position:
            if _was_sealed(torn.base_offset, names):
                _copy_over(disk, torn.path, 0, end.position, torn.path)
            else:
                file = disk.open(torn.path)
                try:
                    file.truncate(end.position)
                    file.sync()
                finally:
                    file.close()
            torn.release()
        if end.is_new and not disk.exists(active.path):
            active.create()
            disk.sync_dir(directory)
    except OSError as error:
        raise as_storage_error(error, "truncate the torn end of", active.path) from error
    _log_truncation(end, saved)


def truncate_if_space(disk: Disk, directory: str, end: LogEnd) -> StreamlogError | None:
    """`truncate`; or, on a full disk, return the error. Until it is done the log can be read, up to its end."""
    try:
        truncate(disk, directory, end)
    except DiskFullError as error:
        logger.warning("%s Until then the log is read up to the torn end, and nothing is appended.", error)
        return error
    return None


def _log_truncation(end: LogEnd, saved: Sequence[tuple[int, str]]) -> None:
    total = sum(size for size, _ in saved)
    if not total:
        return
    active = end.segments[-1]
    logger.warning(
        "%s: the machine went down in the middle of writing; truncated %d bytes, from byte %d (offset %d) on (%s). "
        "They were saved to %s",
        active.path, total, end.position, end.last.stats.next_offset, end.why.rstrip("."),
        ", ".join(path for _, path in saved),
    )  # fmt: skip


def _was_sealed(base_offset: int, names: Iterable[str]) -> bool:
    """Whether a segment ever followed the one at `base_offset`: then a reader may have mapped it, so it must not shrink."""
    for name in names:
        base = base_offset_of(name, "log")
        base = cut_of(name) if base is None else base
        if base is not None and base > base_offset:
            return True
    return False


def _move_aside(disk: Disk, segments: Sequence[Segment]) -> list[tuple[int, str]]:
    """Rename segments, and unlink empty ones. An interruption leaves a gap, at which the next search ends the log again."""
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


def _save(disk: Disk, segment: Segment, position: int, size: int) -> str:
    """Copy the bytes from `position` on to a file beside the segment, unless an interrupted truncation has done so."""
    earlier = f"{segment.path}.cut-{position}"
    if disk.exists(earlier) and is_copy(disk, segment.path, earlier, position, size):
        return earlier
    target = _free_name(disk, segment, position)
    _copy_over(disk, segment.path, position, size, target)
    return target


def _free_name(disk: Disk, segment: Segment, position: int) -> str:
    """A name for the bytes of `segment` from `position` on. Files that an earlier crash left keep their names."""
    plain = f"{segment.path}.cut-{position}"
    return next(name for n in count(1) if not disk.exists(name := plain if n == 1 else f"{plain}-{n}"))


def _copy_over(disk: Disk, path: str, start: int, end: int, target: str) -> None:
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
            require_disk_error(error)
            logger.warning("could not remove %s (%s); the next open removes it", temporary, error)
        raise
    disk.sync_dir(target[: target.rindex("/")])
