"""The disk of a directory's owner: it refuses to open, write, sync or remove a path after the directory was replaced.

While a log is open, its directory may be removed or renamed and another log created at the same path. Writes by path
would then destroy the other log. The directory lock detects this: its descriptor still refers to the file that was locked.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from .api import DirectoryLock, Disk, File
from .values import refuse_to_copy


class StaleOwnerError(OSError):
    """The directory at the path is not the one that was opened."""


class OwnedDisk:
    """A `Disk` that passes every call on. While `is_guarding`, calls that open, change or sync a path check the lock first, and
    raise StaleOwnerError if the directory at the path is no longer the one that was opened. Once it `is_inherited`, by a
    forked child, they raise it always: what the child collects, a compaction under way for example, would remove files of
    the owner.

    Cost: two system calls for each of these calls. Reads and writes of open files are not checked.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(self, disk: Disk, lock: DirectoryLock, on_stale: Callable[[], object]) -> None:
        self._disk = disk
        self._lock = lock
        self._on_stale = on_stale
        self.is_guarding = False
        self.is_inherited = False
        self.exists = disk.exists
        self.listdir = disk.listdir
        self.absolute = disk.absolute
        self.new_temporary_directory = disk.new_temporary_directory
        self.lock = disk.lock
        self.boot_id = disk.boot_id
        self.is_network_filesystem = disk.is_network_filesystem
        self.space = disk.space

    @property
    def filesystem(self) -> object:
        return self._disk.filesystem

    def check(self, path: str) -> None:
        """Raise StaleOwnerError unless the directory is still the one that was opened, OSError if that is unknown."""
        if self.is_inherited:
            raise StaleOwnerError(
                errno.ESTALE, "the directory belongs to the process that this one was forked from", path
            )
        if self.is_guarding and not self._lock.is_current():
            self._on_stale()
            raise StaleOwnerError(
                errno.ESTALE, "the directory was removed, renamed or replaced since it was opened", path
            )

    def open(self, path: str, *, create: bool = False, exclusive: bool = False, writable: bool = True) -> File:
        self.check(path)
        return self._disk.open(path, create=create, exclusive=exclusive, writable=writable)

    def read(self, path: str, limit: int = 1 << 26) -> bytes:
        self.check(path)
        return self._disk.read(path, limit)

    def makedirs(self, path: str) -> None:
        self.check(path)
        self._disk.makedirs(path)

    def rename(self, source: str, target: str) -> None:
        self.check(source)
        self._disk.rename(source, target)

    def unlink(self, path: str) -> None:
        self.check(path)
        self._disk.unlink(path)

    def rmtree(self, path: str) -> None:
        self.check(path)
        self._disk.rmtree(path)

    def sync_dir(self, path: str) -> None:
        self.check(path)
        self._disk.sync_dir(path)

    def write_atomic(self, path: str, data: bytes) -> None:
        self.check(path)
        self._disk.write_atomic(path, data)
