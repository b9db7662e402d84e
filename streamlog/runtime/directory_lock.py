"""The `lock` file of a directory: it decides which process may write to the directory, and names that process.

The owner holds two kernel locks on the file. The kernel releases both when the process ends, however it ends. The flock
excludes other owners, also those of older versions. The open-file-description lock exists because another process can
query it (F_OFD_GETLK) without taking it, which is not possible with an flock. The kernel reports no pid for such a lock;
the pid is in the file. The owner writes it after it takes the first lock and before it takes the second, so a process that
finds the second lock held reads the pid of its holder.

Both locks belong to the open file description, which a forked child inherits: the child has to call `abandon`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct

from .disk_errors import check, ignored
from .values import refuse_to_copy

_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
# struct flock: type, whence, start, length (0: to the end), pid (0 for a lock of this kind)
_FLOCK = struct.Struct("hhqqi4x")
_GETLK: int | None = getattr(fcntl, "F_OFD_GETLK", None)
_SETLK: int | None = getattr(fcntl, "F_OFD_SETLK", None)


class DirectoryLock:
    """See the module and `api.DirectoryLock`."""

    __reduce_ex__ = refuse_to_copy

    def __init__(self, path: str) -> None:
        self.path = path
        # `list.pop` gives the descriptor to the one thread that closes it.
        self._fds: list[int] = []

    def acquire(self) -> int | None:
        """Take the lock. Return None on success, otherwise the pid that the holder wrote (0 if it cannot be read)."""
        self.release()
        # Stored before the lock is taken: after an interrupt in between, `release` and `__del__` still find it.
        self._fds.append(os.open(self.path, _FLAGS | os.O_RDWR | os.O_CREAT, 0o600))
        fd = self._fds[0]
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "not a regular file", self.path)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                check(error)
                if error.errno not in _TAKEN:
                    raise
                pid = _pid_in(fd)
                self.release()
                return pid
            _write_pid(fd)
            _take_queryable(fd)
        except BaseException:
            self.release()
            raise
        return None

    def is_current(self) -> bool:
        """Whether it is held on the file that is at its path now. Raises OSError if that cannot be determined."""
        try:
            held = os.fstat(self._fds[0])
            there = os.lstat(self.path)
        except IndexError:
            return False
        except (FileNotFoundError, NotADirectoryError) as error:
            check(error)
            return False
        return (held.st_dev, held.st_ino) == (there.st_dev, there.st_ino)

    def release(self) -> None:
        """Release the lock, also if a forked child still holds a copy of the descriptor."""
        fd = self._take_fd()
        if fd is not None:
            with ignored(OSError):
                if _SETLK is not None:
                    fcntl.fcntl(fd, _SETLK, _flock(fcntl.F_UNLCK))
            with ignored(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    def abandon(self) -> None:
        """In a forked child: close the descriptor without releasing the lock of the parent."""
        fd = self._take_fd()
        if fd is not None:
            os.close(fd)

    def _take_fd(self) -> int | None:
        try:
            return self._fds.pop()
        except IndexError:
            return None

    def holder(self) -> int | None:
        """The pid that the holder wrote (0 if it cannot be read); None if no process holds the lock."""
        try:
            fd = os.open(self.path, _FLAGS | os.O_RDONLY)
        except FileNotFoundError as error:
            check(error)
            return None
        try:
            held = _is_held(fd)
            pid = _pid_in(fd)
        finally:
            os.close(fd)
        if held is None:  # a system without such locks: the only hint is whether the process of that pid runs
            return pid if _is_running(pid) else None
        return pid if held else None

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # an interrupt came before `__init__` set the field
            self.abandon()


def _flock(kind: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0)


def _take_queryable(fd: int) -> None:
    """Take the open-file-description lock. REQUIRES: the flock is held, so that no other owner has this lock.

    A program that took this lock alone is an error here.
    """
    if _SETLK is None:
        return
    try:
        fcntl.fcntl(fd, _SETLK, _flock(fcntl.F_WRLCK))
    except OSError as error:
        check(error)
        if error.errno not in _UNSUPPORTED:
            raise


def _is_held(fd: int) -> bool | None:
    """Whether a process holds the open-file-description lock; None on a system without such locks."""
    if _GETLK is None:
        return None
    try:
        answer = fcntl.fcntl(fd, _GETLK, _flock(fcntl.F_WRLCK))
    except OSError as error:
        check(error)
        if error.errno not in _UNSUPPORTED:
            raise
        return None
    kind: int = _FLOCK.unpack(answer)[0]
    return kind != fcntl.F_UNLCK


def _write_pid(fd: int) -> None:
    """Replace the pid of the last owner, in one write. On a full disk the log opens without it."""
    text = b"%10d\n" % os.getpid()
    try:
        os.pwrite(fd, text, 0)
    except OSError as error:
        check(error)
        if error.errno not in _NO_ROOM:
            raise
        os.ftruncate(fd, 0)  # an unknown pid is better than a wrong one
    else:
        os.ftruncate(fd, len(text))


def _pid_in(fd: int) -> int:
    text = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
    return int(text) if text.isdigit() else 0


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it belongs to another user
        return True
    return pid > 0
