"""The files of a partition directory: their names, the copy of one, the replacement of several by one, and disk errors.

A finished replacement for all segments from offset A up to B is renamed to `A-B.swap`. From that rename on it counts,
and the segments that it replaces do not. The remaining steps (unlink those segments, rename the file to `A.log`) may be
interrupted at any point; the next compaction or the next open does them again from the start.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable

from ..errors import DiskFullError, LogDirNotFoundError, StorageError, StreamlogError
from ..records.batch import MAX_OFFSET
from ..runtime.api import Disk
from ..runtime.disk_errors import require_disk_error
from ..runtime.owned_disk import StaleOwnerError

_FILE = re.compile(r"([0-9]{20})\.(log|index)")
_SWAP = re.compile(r"([0-9]{20})-([0-9]{20})\.swap")
_CUT = re.compile(r"([0-9]{20})\.log\.cut-[0-9]+(-[0-9]+)?")
_UNFINISHED = (".cleaned", ".tmp")
_COPY_BYTES = 1 << 20

# -- names -------------------------------------------------------------------------------------------


def log_name(base_offset: int) -> str:
    return f"{base_offset:020d}.log"


def index_name(base_offset: int) -> str:
    return f"{base_offset:020d}.index"


def swap_name(base_offset: int, end_offset: int) -> str:
    return f"{base_offset:020d}-{end_offset:020d}.swap"


def cleaned_name(base_offset: int) -> str:
    return f"{base_offset:020d}.cleaned"


def base_offset_of(name: str, suffix: str) -> int | None:
    """The base offset in the name of a segment's `log` or `index` file; None for any other file."""
    match = _FILE.fullmatch(name)
    if match is None or match[2] != suffix or int(match[1]) >= MAX_OFFSET:
        return None
    return int(match[1])


def swap_of(name: str) -> tuple[int, int] | None:
    """The offsets that a `.swap` file replaces, from and up to; None for any other file."""
    match = _SWAP.fullmatch(name)
    return (int(match[1]), int(match[2])) if match is not None else None


def cut_of(name: str) -> int | None:
    """The base offset of the segment from which recovery removed the bytes in a `.cut-N` file; None for any other file."""
    match = _CUT.fullmatch(name)
    return int(match[1]) if match is not None else None


def is_unfinished(name: str) -> bool:
    """Whether a file is the unfinished result of an interrupted operation, to be removed at the next open."""
    return name.endswith(_UNFINISHED)


# -- copies and replacements -------------------------------------------------------------------------


def copy_bytes(disk: Disk, path: str, target: str, start: int = 0, end: int | None = None) -> int:
    """Write the bytes of `path` from `start` to `end`, or to its end, to the new file `target` and sync it; their number.

    A file that lies at `target` is replaced. The directory is not synced. Raises OSError; what was written until then
    stays in `target`.
    """
    if disk.exists(target):
        disk.unlink(target)
    source = disk.open(path, writable=False)
    try:
        copy = disk.open(target, create=True, exclusive=True)
        try:
            end = source.size() if end is None else end
            for at in range(start, end, _COPY_BYTES):
                copy.pwrite([source.pread(min(_COPY_BYTES, end - at), at)], at - start)
            copy.sync()
        finally:
            copy.close()
    finally:
        source.close()
    return end - start


def is_copy(disk: Disk, path: str, copy_path: str, start: int, end: int) -> bool:
    """Whether `copy_path` holds exactly the bytes of `path` from `start` to `end`. Raises OSError."""
    source = disk.open(path, writable=False)
    try:
        copy = disk.open(copy_path, writable=False)
        try:
            return copy.size() == end - start and all(
                source.pread(min(_COPY_BYTES, end - at), at) == copy.pread(min(_COPY_BYTES, end - at), at - start)
                for at in range(start, end, _COPY_BYTES)
            )
        finally:
            copy.close()
    finally:
        source.close()


def finish_swap(disk: Disk, directory: str, low: int, high: int, names: Iterable[str]) -> None:
    """Put `low-high.swap` in place of what it replaces. May be called again after a failure at any point."""
    swap = f"{directory}/{swap_name(low, high)}"
    disk.sync_dir(directory)
    if not disk.exists(swap):
        return
    for name in names:
        base = base_offset_of(name, "log")
        base = base_offset_of(name, "index") if base is None else base
        if base is not None and low <= base < high and disk.exists(f"{directory}/{name}"):
            disk.unlink(f"{directory}/{name}")
    disk.sync_dir(directory)  # the rename without the unlinks would leave offsets twice
    disk.rename(swap, f"{directory}/{log_name(low)}")
    disk.sync_dir(directory)


def finish_interrupted(disk: Disk, directory: str, names: list[str]) -> list[str]:
    """Finish every complete replacement and remove unfinished files; return the names that remain."""
    changed = False
    for name in names:
        swap = swap_of(name)
        if swap is not None:
            finish_swap(disk, directory, *swap, names)
            changed = True
        elif is_unfinished(name):
            disk.unlink(f"{directory}/{name}")
            changed = True
    if not changed:
        return names
    disk.sync_dir(directory)
    return disk.listdir(directory)


# -- errors ------------------------------------------------------------------------------------------

_FULL = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the file size limit is reached",
}
_ADVICE = {
    errno.EMFILE: "the process has no descriptor left, though the log closed what it can: raise the limit (ulimit -n)",
    errno.ENFILE: "the whole machine has no descriptor left: close other files",
}
_TO_OWN = {
    errno.EACCES: "to write, the log's files have to belong to the user of this process; to read only, open it with read_only=True",
    errno.EROFS: "to write, its file system has to be mounted writable; to read only, open it with read_only=True",
}


def as_storage_error(error: OSError, doing: str, path: str) -> StreamlogError:
    """The library's error for `error`, which the disk raised while the caller was `doing` something to `path`.

    The caller raises it `from error`. An OSError that did not come from the disk is raised again as it is; see
    `runtime.disk_errors`.
    """
    require_disk_error(error)
    if isinstance(error, StaleOwnerError):
        return stale_owner(error.filename)
    if isinstance(error.filename, str):  # the file inside the directory that is being opened
        path = error.filename
    if error.errno in _FULL:
        return DiskFullError(
            f"Could not {doing} {path}: {_FULL[error.errno]}. Nothing of this call was kept and everything "
            f"acknowledged before is safe; free space, then go on.",
            path=path,
            errno=error.errno,
        )
    known = _ADVICE | _TO_OWN if doing == "open" else _ADVICE
    advice = known.get(error.errno or 0, "look at the disk and the directory's permissions")
    return StorageError(
        f"Could not {doing} {path}: {error.strerror or error}. Nothing of this call was kept; {advice}, then try again.",
        path=path,
        errno=error.errno or 0,
    )


def stale_owner(path: str) -> LogDirNotFoundError:
    """The error for the owner of a directory that was removed or replaced. `path` is what the owner looked for."""
    return LogDirNotFoundError(
        f"{path}: the directory of this log was removed, renamed or replaced while this process had it open. It may belong "
        f"to another log by now, so nothing was written to it. Close every handle on the log, then open the path again. If "
        f"the directory was moved, it holds everything acknowledged before the move.",
        path=path,
        errno=errno.ESTALE,
    )
