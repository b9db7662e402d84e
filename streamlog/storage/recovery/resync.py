"""Opening a partition again after a sync of it failed.

The page cache still has the bytes that the device may not have, and marks them clean: reading them back proves nothing,
and syncing them again writes nothing. So they are copied to a new file, which is synced and renamed before its content
counts. A marker file in the directory says that this has to be done, and up to which offset everything is known to be on
the device: so far the log can be read if there is no space for the copy. The marker is not synced. It concerns the page
cache of this boot; after another boot the files have what the device has. Its content is in its name, since a full disk
may have space for a name and not for a byte.
"""

from __future__ import annotations

import logging
import re
from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple

from xxhash import xxh3_64_hexdigest

from ...errors import PoisonedLogError
from ...records.batch import corrupt
from ...runtime.api import Disk
from ...runtime.disk_errors import ignored, require_disk_error
from ..files import base_offset_of, copy_bytes, log_name
from ..scan import walk
from ..segment import Segment

logger = logging.getLogger("streamlog.storage")

_MARKER = re.compile(r"poisoned-(\d{20})-([0-9a-f]{16})(-all)?")
_TEXT = b"A sync failed here. The next open copies what was not known to be on the device, and removes this file.\n"


class Marker(NamedTuple):
    """A sync failed in this `boot` of the machine. Everything before `synced_end` is on the device.

    `is_all`: no record from `synced_end` on was acknowledged.
    """

    synced_end: int
    boot: str
    is_all: bool


def marker_of(name: str) -> Marker | None:
    match = _MARKER.fullmatch(name)
    return None if match is None else Marker(int(match[1]), match[2], match[3] is not None)


def mark(disk: Disk, directory: str, synced_end: int, *, is_all: bool) -> bool:
    """Create a marker for the next open; False if the disk refused it."""
    name = f"poisoned-{synced_end:020d}-{_boot(disk)}{'-all' if is_all else ''}"
    try:
        file = disk.open(f"{directory}/{name}", create=True)
    except OSError as error:
        require_disk_error(error)
        return False
    with ignored(OSError):  # the name is sufficient
        file.pwrite([_TEXT], 0)
    file.close()
    return True


def _boot(disk: Disk) -> str:
    return xxh3_64_hexdigest(disk.boot_id().encode())


class Resynced(NamedTuple):
    """The result of `resync`.

    `done`: the files were written again, or the machine was booted since. What does not verify after the recovery point was
    lost by the disk, as in a crash of the machine. `poison`: they could not be written, for example on a full disk; nothing
    may be appended. Then everything before `synced_end` is on the device, and `is_all` says that nothing else was
    acknowledged.
    """

    done: bool
    poison: PoisonedLogError | None = None
    synced_end: int = 0
    is_all: bool = False


def resync(disk: Disk, directory: str, names: list[str], recovery_point: int, *, unsynced: bool = False) -> Resynced:
    """Write every segment that reaches past the recovery point again, if a sync failed here since the last boot.

    `unsynced`: a sync failed in some partition of the log, and no marker could be created there.
    """
    markers = [marker for marker in map(marker_of, names) if marker is not None]
    boot = _boot(disk)
    if unsynced:
        markers.append(Marker(recovery_point, boot, is_all=False))
    if not markers:
        return Resynced(done=False)
    if all(marker.boot != boot for marker in markers):
        return Resynced(done=True)
    bases = sorted(base for base in (base_offset_of(name, "log") for name in names) if base is not None)
    path = directory
    try:
        for base in bases[max(0, bisect_right(bases, recovery_point) - 1) :]:
            path = f"{directory}/{log_name(base)}"
            size = _rewrite(disk, path)
            logger.warning("%s: a sync had failed here; its %d bytes were written again and synced", path, size)
        disk.sync_dir(directory)
    except OSError as error:
        require_disk_error(error)
        poison = PoisonedLogError(
            f"A sync of this partition failed before it was opened, and {path} could not be written again "
            f"({error.strerror or error}). What is known to be on the device can be read, and nothing is appended. Look at "
            f"the disk, free space, then close the log and open it again.",
            path=path,
            errno=error.errno or 0,
        )
        poison.__cause__ = error
        logger.error("%s", poison)
        synced_end = max(marker.synced_end for marker in markers)
        return Resynced(done=False, poison=poison, synced_end=synced_end, is_all=all(m.is_all for m in markers))
    return Resynced(done=True)


def remove_markers(disk: Disk, directory: str, names: Iterable[str]) -> None:
    """Remove the markers, after what did not verify was truncated. Until then an interrupted open begins again."""
    for name in names:
        if marker_of(name) is not None:
            with ignored(OSError):
                disk.unlink(f"{directory}/{name}")


def _rewrite(disk: Disk, path: str) -> int:
    temporary = path + ".tmp"
    size = copy_bytes(disk, path, temporary)
    disk.rename(temporary, path)
    return size


def replace(disk: Disk, directory: str, segment: Segment, size: int, end_offset: int) -> None:
    """Replace the segment's file by a copy of its first `size` bytes, which end at `end_offset`; sync file and directory.

    Raises OSError; CorruptRecordError, with the file unchanged, if the bytes that were read are not those once written.
    """
    temporary = segment.path + ".tmp"
    copy_bytes(disk, segment.path, temporary, end=size)
    copied = Segment(disk, directory, segment.base_offset, segment.seed)
    copied.path = temporary
    found = walk(copied, size, segment.base_offset)
    if found.damage or found.end != size or found.stats.next_offset != end_offset:
        why = f"its first {size} bytes are no longer what was written up to offset {end_offset}"
        raise corrupt(segment.path, found.end, why, end_offset, found.stats.next_offset)
    disk.rename(temporary, segment.path)
    segment.release()  # its descriptor refers to the old file
    disk.sync_dir(directory)
