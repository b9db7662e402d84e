"""OSErrors of the disk as the library's own errors."""

from __future__ import annotations

import errno

from ..errors import DiskFullError, StorageError, StreamlogError
from ..runtime.disk_errors import check

_FULL = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the file size limit is reached",
}


def typed(error: OSError, doing: str, path: str) -> StreamlogError:
    """What `error`, met while `doing` something to `path`, is called here. Raise it `from error`.

    An error that is not the disk's is raised as it is: see `runtime.disk_errors`.
    """
    check(error)
    if isinstance(error.filename, str):  # the file inside the directory that is being opened
        path = error.filename
    if error.errno in _FULL:
        return DiskFullError(
            f"Could not {doing} {path}: {_FULL[error.errno]}. Nothing of this call was kept and everything "
            f"acknowledged before is safe; free space, then go on.",
            path=path,
            errno=error.errno,
        )
    return StorageError(
        f"Could not {doing} {path}: {error.strerror or error}. Nothing of this call was kept; look at the disk and the "
        f"directory's permissions, then try again.",
        path=path,
        errno=error.errno or 0,
    )
