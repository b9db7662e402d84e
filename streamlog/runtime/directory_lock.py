"""The `lock` file of a directory: it decides which process may write to the directory, names it, and orders those that wait.

The owner holds two kernel locks on the file. The kernel releases both when the process ends, however it ends. The flock
excludes other owners, also those of older versions. The open-file-description lock exists because another process can
query it (F_OFD_GETLK) without taking it, which is not possible with an flock. The kernel reports no pid for such a lock;
the pid is in the file. The owner writes it after it takes the first lock and before it takes the second, so a process that
finds the second lock held reads the pid of its holder.

A process that waits holds a lock on one byte past the owner's range: its place in line. A new place is taken after the last
one, and the process whose place is the first is the next owner. So a process that gives the lock up and wants it again comes
after those that waited, and the place of a process that ends is free at once. No call blocks: the kernel cannot limit how
long a process is blocked on such a lock, so the caller calls `acquire` from time to time. If the lock stays free because the
next process in line does not take it (it was stopped, or a forked child holds its place), others take it out of turn.

All these locks belong to the open file description, which a forked child inherits: the child has to call `abandon`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct

from .disk_errors import ignored, require_disk_error
from .values import refuse_to_copy

_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
# struct flock: type, whence, start, length (0: to the end), pid (0 for a lock of this kind)
_FLOCK = struct.Struct("hhqqi4x")
# Ranges of the open-file-description locks: the owner's, and behind it one byte for each process that waits.
_LINE = 1 << 32
_LONGEST_LINE = 10_000
# How often a process looks at a free lock that is another one's turn before it takes the lock out of turn.
_PATIENCE = 10
_GETLK: int | None = getattr(fcntl, "F_OFD_GETLK", None)
_SETLK: int | None = getattr(fcntl, "F_OFD_SETLK", None)


class DirectoryLock:
    """See the module and `api.DirectoryLock`."""

    __reduce_ex__ = refuse_to_copy

    def __init__(self, path: str) -> None:
        self.path = path
        # `list.pop` gives the descriptor to the one thread that closes it.
        self._fds: list[int] = []
        self._place = 0
        self._unused = 0
        self.is_next = False

    def acquire(self) -> int | None:
        """Take the lock. Return None on success, otherwise the pid that the holder wrote (0 if it cannot be read, or if
        the lock is free but another process waits for it and comes first)."""
        if not self._place or not self.is_current():
            self.release()
            self._open()
        fd = self._fds[0]
        try:
            stat_of_file = os.fstat(fd)
            if not stat.S_ISREG(stat_of_file.st_mode):
                raise OSError(errno.EINVAL, "not a regular file", self.path)
            pid = self._wait_for_turn(fd)
            if pid is None and not _take(fd):
                pid = _pid_in(fd)
            if pid is not None:
                if not self._place:
                    self.release()
                return pid
            _write_pid(fd, stat_of_file.st_size)
            _take_queryable(fd)
            self._leave_line(fd)
        except BaseException:
            self.release()
            raise
        return None

    def enqueue(self) -> None:
        """Take the last place in line, if this lock has none. It is kept until `acquire` succeeds, or `release`.

        Without open-file-description locks there is no line: the first that calls `acquire` on a free lock has it.
        """
        if self._place:
            return
        self.release()
        self._open()
        try:
            for _ in range(_LONGEST_LINE):
                place = _place_after_last(self._fds[0])
                if place is None:
                    break
                if _set(self._fds[0], fcntl.F_WRLCK, place, 1):
                    self._place = place
                    return
        except BaseException:
            self.release()
            raise
        self.release()

    def _open(self) -> None:
        # Stored before any lock is taken: after an interrupt in between, `release` and `__del__` still find it.
        self._fds.append(os.open(self.path, _FLAGS | os.O_RDWR | os.O_CREAT, 0o600))

    def _wait_for_turn(self, fd: int) -> int | None:
        """None if no process comes before this one, otherwise what `acquire` answers."""
        length = self._place - _LINE if self._place else 0
        self.is_next = self._place == _LINE or not _is_locked(fd, _LINE, length)
        if self.is_next:
            return None
        if _is_locked(fd, 0, _LINE):
            self._unused = 0
            return _pid_in(fd)
        self._unused += 1
        return None if self._unused > _PATIENCE else 0

    def _leave_line(self, fd: int) -> None:
        if self._place:
            _set(fd, fcntl.F_UNLCK, _LINE, 0)
            self._place = 0

    def is_current(self) -> bool:
        """Whether it is held on the file that is at its path now. Raises OSError if that cannot be determined."""
        try:
            held = os.fstat(self._fds[0])
            there = os.lstat(self.path)
        except IndexError:
            return False
        except (FileNotFoundError, NotADirectoryError) as error:
            require_disk_error(error)
            return False
        return (held.st_dev, held.st_ino) == (there.st_dev, there.st_ino)

    def release(self) -> None:
        """Release the lock, also if a forked child still holds a copy of the descriptor."""
        self._place = 0
        self.is_next = False
        fd = self._take_fd()
        if fd is not None:
            with ignored(OSError):
                _set(fd, fcntl.F_UNLCK, 0, 0)
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
            require_disk_error(error)
            return None
        try:
            held = _is_locked(fd, 0, _LINE)
            pid = _pid_in(fd)
        finally:
            os.close(fd)
        if held is None:  # a system without such locks: the only hint is whether the process of that pid runs
            return pid if _is_running(pid) else None
        return pid if held else None

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # an interrupt came before `__init__` set the field
            self.abandon()


def _take(fd: int) -> bool:
    """Take the flock; False if another process has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        require_disk_error(error)
        if error.errno not in _TAKEN:
            raise
        return False
    return True


def _take_queryable(fd: int) -> None:
    """Take the open-file-description lock. REQUIRES: the flock is held, so that no other owner has this lock.

    A program that took this lock alone is an error here.
    """
    if _SETLK is not None and not _set(fd, fcntl.F_WRLCK, 0, _LINE) and _is_locked(fd, 0, _LINE):
        raise OSError(errno.EAGAIN, "a program that is no streamlog has locked the file")


def _set(fd: int, kind: int, start: int, length: int) -> bool:
    """Take or give up the open-file-description lock of a range, which ends at the end of the file if `length` is 0.

    False if another process has a lock on the range, or the system has no such locks.
    """
    if _SETLK is None:
        return False
    try:
        fcntl.fcntl(fd, _SETLK, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))
    except OSError as error:
        require_disk_error(error)
        if error.errno not in _TAKEN + _UNSUPPORTED:
            raise
        return False
    return True


def _found(fd: int, start: int, length: int) -> tuple[int, int] | None:
    """Start and length of some open-file-description lock of another process in a range; length -1 if there is none.

    None on a system without such locks.
    """
    if _GETLK is None:
        return None
    try:
        answer = fcntl.fcntl(fd, _GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0))
    except OSError as error:
        require_disk_error(error)
        if error.errno not in _UNSUPPORTED:
            raise
        return None
    kind, _, found, size, _ = _FLOCK.unpack(answer)
    return (start, -1) if kind == fcntl.F_UNLCK else (found, size)


def _is_locked(fd: int, start: int, length: int) -> bool | None:
    """Whether another process has an open-file-description lock in a range; None on a system without such locks."""
    found = _found(fd, start, length)
    return None if found is None else found[1] >= 0


def _place_after_last(fd: int) -> int | None:
    """The first byte after every place in line; None on a system without such locks."""
    place = _LINE
    for _ in range(_LONGEST_LINE):
        found = _found(fd, place, 0)
        if found is None:
            return None
        start, length = found
        if length < 0:
            return place
        if not length:  # to the end of the file: no streamlog took this one
            return None
        place = start + length
    return None


def _write_pid(fd: int, size: int) -> None:
    """Replace the pid of the last owner in a file of `size` bytes, in one write. On a full disk the log opens without it."""
    text = b"%10d\n" % os.getpid()
    try:
        os.pwrite(fd, text, 0)
    except OSError as error:
        require_disk_error(error)
        if error.errno not in _NO_ROOM:
            raise
        os.ftruncate(fd, 0)  # an unknown pid is better than a wrong one
    else:
        if size > len(text):
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
