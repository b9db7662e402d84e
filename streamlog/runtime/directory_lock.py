"""The `lock` file of a directory: who may write to it, and who does.

Two locks of the kernel are held on it, each of which goes with the process, so that a killed owner hinders nobody. An
flock keeps other owners out, also those of an older version. An open-file-description lock can be asked about
(F_OFD_GETLK) without being taken, which an flock cannot. The kernel gives no pid for it: the file does, and it is
written between the two, so whoever finds the second one held finds the pid of the one who holds it.

Both belong to the open file description, which a forked child inherits; it has to `abandon` its copy.
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
        # Taken out by whoever closes it: `list.pop` gives it to one thread, once.
        self._fds: list[int] = []

    def acquire(self) -> int | None:
        """Take the lock; None on success, else the pid its holder wrote (0 if unreadable)."""
        self.release()
        # Kept before the lock is taken, so that an interrupt in between leaves nothing locked.
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
            _leave_pid(fd)
            _take_visibly(fd)
        except BaseException:
            self.release()
            raise
        return None

    def is_current(self) -> bool:
        """Whether it is held, on the file that lies at its path now. Raises OSError if that cannot be looked at."""
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
        """Give the lock up, also if a forked child still holds a copy of the descriptor."""
        fd = self._let_go()
        if fd is not None:
            with ignored(OSError):
                if _SETLK is not None:
                    fcntl.fcntl(fd, _SETLK, _flock(fcntl.F_UNLCK))
            with ignored(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    def abandon(self) -> None:
        """In a forked child: let go of the descriptor; the lock stays the parent's."""
        fd = self._let_go()
        if fd is not None:
            os.close(fd)

    def _let_go(self) -> int | None:
        try:
            return self._fds.pop()
        except IndexError:
            return None

    def holder(self) -> int | None:
        """The pid of the process that holds it, as that one wrote it (0 if unreadable); None if nobody does."""
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
        if held is None:  # a machine without such locks: all there is to go by is whether the process lives
            return pid if _is_running(pid) else None
        return pid if held else None

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # an interrupt may have come before it had its field
            self.abandon()


def _flock(kind: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0)


def _take_visibly(fd: int) -> None:
    """Take the lock that can be asked about. The flock is held, so nobody else has it, but for a process that holds it alone."""
    if _SETLK is None:
        return
    try:
        fcntl.fcntl(fd, _SETLK, _flock(fcntl.F_WRLCK))
    except OSError as error:
        check(error)
        if error.errno not in _UNSUPPORTED:
            raise


def _is_held(fd: int) -> bool | None:
    """Whether a process holds the lock that can be asked about; None where there are none."""
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


def _leave_pid(fd: int) -> None:
    """Write the pid, in one write over the last owner's. A full disk, without room even for this, keeps no log from opening."""
    text = b"%10d\n" % os.getpid()
    try:
        os.pwrite(fd, text, 0)
    except OSError as error:
        check(error)
        if error.errno not in _NO_ROOM:
            raise
        os.ftruncate(fd, 0)  # rather nobody's than another's
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
    except OSError:  # it is another user's
        return True
    return pid > 0
