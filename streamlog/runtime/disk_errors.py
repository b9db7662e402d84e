"""Whether an OSError came from the disk.

A signal handler or a finalizer of the program may run in the middle of a file call and raise an OSError of its own: the
TimeoutError of an alarm, a refused connection, ENOSPC of another disk. Such an error says nothing about the log's files.
The traceback distinguishes the two: that of a disk error ends in the frame that made the file call, that of a handler's
error in the handler. The library handles disk errors only; any other error passes through like an interrupt.
"""

from __future__ import annotations

from types import FrameType, TracebackType

# Modules whose own frames raise disk errors: the real disk, `storage.tailed_segment` (for a file that was replaced), and the disks
# of `streamlog.testing`, which add themselves.
disk_modules = {
    "streamlog.runtime.disk", "streamlog.runtime.directory_lock", "streamlog.runtime.owned_disk", "streamlog.storage.tailed_segment",
}  # fmt: skip
_CO_NEWLOCALS = 0x2  # as in `inspect`, which is slow to import
# Python modules of the standard library through which the real disk makes its calls.
_BELOW = frozenset({"os", "shutil", "tempfile", "posixpath", "genericpath"})


def is_the_disks(error: BaseException) -> bool:
    """Whether a file call raised `error`, and not code that ran in the middle of one. REQUIRES: `error` was just caught."""
    at_disk = False
    traceback = error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        module = frame.f_globals.get("__name__")
        at_disk = module in disk_modules or _is_disk_method(frame) or (at_disk and module in _BELOW)
        traceback = traceback.tb_next
    return at_disk


def _is_disk_method(frame: FrameType) -> bool:
    """Whether it is a method of a disk or a file class that a program or a test defined."""
    if not frame.f_code.co_flags & _CO_NEWLOCALS:  # the body of a module or a class: its locals are its namespace
        return False
    local = frame.f_locals
    kind = type(local.get("self"))
    if isinstance(local, dict):
        # Before Python 3.13 this is a copy that the frame keeps. It contains the caught error: a cycle of the error, its
        # traceback and everything that its frames refer to, open files too.
        local.clear()
    return hasattr(kind, "sync_dir") or hasattr(kind, "pwrite")


def ends_in(error: BaseException, package: str) -> bool:
    """Whether code of `package` raised `error`, and not code that ran in the middle of it."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and str(traceback.tb_frame.f_globals.get("__name__")).startswith(package)


def require_disk_error(error: BaseException) -> None:
    """Raise `error` again unless it came from the disk. To be called first wherever an OSError is caught."""
    if not is_the_disks(error):
        raise error


class ignored:
    """`with ignored(OSError):` suppresses such an error if it came from the disk. Other errors pass through."""

    __slots__ = ("_kind",)

    def __init__(self, kind: type[OSError]) -> None:
        self._kind = kind

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        return isinstance(error, self._kind) and is_the_disks(error)
