"""Opening a partition again whose sync failed.

The page cache still has the bytes that the device may not have, and calls them clean: reading them back
proves nothing, and syncing them again writes nothing. So they are written again, to a new file, synced and
renamed before they count. A marker in the directory says that this is to be done, and up to where everything is
known to be on the device, which can be read where there is no room for the copy. It is not synced: the page cache that
it warns of does not outlive it by a boot, and after one the files are what the device has. What it says is in its
name, for which there is room on a disk that has none for a byte.
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
from ...runtime.disk_errors import check, ignored
from ..files import base_offset_of, copy_bytes, log_name
from ..scan import walk
from ..segment import Segment

logger = logging.getLogger("streamlog.storage")

_MARKER = re.compile(r"poisoned-(\d{20})-([0-9a-f]{16})(-all)?")
_TEXT = b"A sync failed here. The next open copies what was not known to be on the device, and removes this file.\n"


class Marker(NamedTuple):
    """Word of a sync that failed in a `boot` of the machine: what is before `synced_end` is on the device.

    `is_all`: nothing from there on was ever acknowledged.
    """

    synced_end: int
    boot: str
    is_all: bool


def marker_of(name: str) -> Marker | None:
    match = _MARKER.fullmatch(name)
    return None if match is None else Marker(int(match[1]), match[2], match[3] is not None)


def mark(disk: Disk, directory: str, synced_end: int, *, is_all: bool) -> bool:
    """Leave word for the next open; False if the disk does not let us."""
    name = f"poisoned-{synced_end:020d}-{_boot(disk)}{'-all' if is_all else ''}"
    try:
        file = disk.open(f"{directory}/{name}", create=True)
    except OSError as error:
        check(error)
        return False
    with ignored(OSError):  # what counts is the name
        file.pwrite([_TEXT], 0)
    file.close()
    return True


def _boot(disk: Disk) -> str:
    return xxh3_64_hexdigest(disk.boot_id().encode())


class Salvaged(NamedTuple):
    """`done`: what does not verify behind the recovery point was lost by the disk, as in a crash of the machine.
    `poison`: it could not be done, on a full disk say; nothing may be appended until it is. What is before
    `synced_end` is on the device all the same, and `is_all` says that nothing else was acknowledged."""

    done: bool
    poison: PoisonedLogError | None = None
    synced_end: int = 0
    is_all: bool = False


def salvage(disk: Disk, directory: str, names: list[str], recovery_point: int, *, unsynced: bool = False) -> Salvaged:
    """Rewrite every segment that reaches past the recovery point, if a sync failed here since the machine was started.

    `unsynced`: one failed somewhere in the log, and word of it could not be left beside the files.
    """
    markers = [marker for marker in map(marker_of, names) if marker is not None]
    boot = _boot(disk)
    if unsynced:
        markers.append(Marker(recovery_point, boot, is_all=False))
    if not markers:
        return Salvaged(done=False)
    if all(marker.boot != boot for marker in markers):
        return Salvaged(done=True)
    bases = sorted(base for base in (base_offset_of(name, "log") for name in names) if base is not None)
    path = directory
    try:
        for base in bases[max(0, bisect_right(bases, recovery_point) - 1) :]:
            path = f"{directory}/{log_name(base)}"
            size = _rewrite(disk, path)
            logger.warning("%s: a sync had failed here; its %d bytes were written anew and synced", path, size)
        disk.sync_dir(directory)
    except OSError as error:
        check(error)
        poison = PoisonedLogError(
            f"A sync of this partition failed before it was opened, and {path} could not be written anew "
            f"({error.strerror or error}). What is known to be on the device can be read, and nothing is appended. Look at "
            f"the disk, make room, then close the log and open it again.",
            path=path,
            errno=error.errno or 0,
        )
        poison.__cause__ = error
        logger.error("%s", poison)
        synced_end = max(marker.synced_end for marker in markers)
        return Salvaged(done=False, poison=poison, synced_end=synced_end, is_all=all(m.is_all for m in markers))
    return Salvaged(done=True)


def done(disk: Disk, directory: str, names: Iterable[str]) -> None:
    """What did not verify was cut off: forget about it. Until then an interrupted open begins again."""
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
    """Put a copy of the segment's first `size` bytes, which end at `end_offset`, in place of its file; name and all synced.

    Raises OSError; CorruptRecordError, with the file as it was, if what was read is not what was written once.
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
    segment.release()  # its descriptor is that of the old file
    disk.sync_dir(directory)
