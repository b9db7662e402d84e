"""Which OSErrors are the disk's.

A signal handler or a finalizer of the program runs in the middle of a file call too, and may raise an OSError of its
own: a TimeoutError of an alarm, a refused connection, ENOSPC of another disk. Such an error says nothing about the log's
files. The traceback tells: an error of the disk ends in the frame that made the file call, one of a handler in the
handler's. Only the first kind is answered for; everything else passes through like an interrupt.
"""

from __future__ import annotations

from types import FrameType, TracebackType

# Modules that are a disk, or speak for it: the real one, that which tells a file that took another's place, and those of
# `streamlog.testing`, which add themselves.
stand_ins = {
    "streamlog.runtime.disk", "streamlog.runtime.directory_lock", "streamlog.runtime.owned_disk", "streamlog.storage.tailing",
}  # fmt: skip
# Python modules of the standard library through which the real disk makes its calls.
_CO_NEWLOCALS = 0x2  # as in `inspect`, which is slow to import
_BELOW = frozenset({"os", "shutil", "tempfile", "posixpath", "genericpath"})


def is_the_disks(error: BaseException) -> bool:
    """Whether `error`, as it is caught, was raised by a file call and not by code that ran in the middle of one."""
    at_disk = False
    traceback = error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        module = frame.f_globals.get("__name__")
        at_disk = module in stand_ins or _is_a_disks(frame) or (at_disk and module in _BELOW)
        traceback = traceback.tb_next
    return at_disk


def _is_a_disks(frame: FrameType) -> bool:
    """Whether it is a method of a disk, or of a file, that a program or a test wrote."""
    if not frame.f_code.co_flags & _CO_NEWLOCALS:  # of a module or a class: its locals are its namespace itself
        return False
    local = frame.f_locals
    kind = type(local.get("self"))
    if isinstance(local, dict):
        # Before Python 3.13 a copy, which the frame keeps, with the caught error in it: a cycle of the error, its traceback,
        # and all that its frames hold, open files too.
        local.clear()
    return hasattr(kind, "sync_dir") or hasattr(kind, "pwrite")


def ends_in(error: BaseException, package: str) -> bool:
    """Whether `error` was raised by the code of a package, and not by what ran in the middle of it."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and str(traceback.tb_frame.f_globals.get("__name__")).startswith(package)


def check(error: BaseException) -> None:
    """Raise `error` again unless it is the disk's. The first thing to do where an OSError was caught."""
    if not is_the_disks(error):
        raise error


class ignored:
    """`with ignored(OSError):` ends the block at such an error of the disk's; others pass through."""

    __slots__ = ("_kind",)

    def __init__(self, kind: type[OSError]) -> None:
        self._kind = kind

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        return isinstance(error, self._kind) and is_the_disks(error)
