"""OSErrors of the disk as the library's own errors."""

from __future__ import annotations

import errno

from ..errors import DiskFullError, LogDirNotFoundError, StorageError, StreamlogError
from ..runtime.disk_errors import check
from ..runtime.owned_disk import StaleOwnerError

_FULL = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the file size limit is reached",
}
_ADVICE = {
    errno.EMFILE: "an open partition takes two descriptors: raise the limit (ulimit -n), or close what else has files open",
    errno.ENFILE: "the whole machine has no descriptor left: close what has files open",
}


def as_storage_error(error: OSError, doing: str, path: str) -> StreamlogError:
    """What `error`, met while `doing` something to `path`, is called here. Raise it `from error`.

    An error that is not the disk's is raised as it is: see `runtime.disk_errors`.
    """
    check(error)
    if isinstance(error, StaleOwnerError):
        return stale(error.filename)
    if isinstance(error.filename, str):  # the file inside the directory that is being opened
        path = error.filename
    if error.errno in _FULL:
        return DiskFullError(
            f"Could not {doing} {path}: {_FULL[error.errno]}. Nothing of this call was kept and everything "
            f"acknowledged before is safe; free space, then go on.",
            path=path,
            errno=error.errno,
        )
    advice = _ADVICE.get(error.errno or 0, "look at the disk and the directory's permissions")
    return StorageError(
        f"Could not {doing} {path}: {error.strerror or error}. Nothing of this call was kept; {advice}, then try again.",
        path=path,
        errno=error.errno or 0,
    )


def stale(path: str) -> LogDirNotFoundError:
    """What the owner of a directory is told who finds another one, or none, in its place. `path` is what it looked for."""
    return LogDirNotFoundError(
        f"{path}: the directory of this log was removed, renamed or replaced while this process had it open, so it may be "
        f"another log's by now and nothing was written to it. Close every handle on the log, then open the path again. If the "
        f"directory was moved, what was acknowledged is in it, but for what was sent since.",
        path=path,
        errno=errno.ESTALE,
    )
