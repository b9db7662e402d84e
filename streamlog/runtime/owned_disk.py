"""The disk as the owner of a directory uses it: nothing is opened, written or removed by path in another's directory.

A path is only a name. While a log is open somebody may remove its directory, or rename it, and make another log under
the name; what the former owner then wrote by path would destroy that one. The lock knows the directory that was
opened: its descriptor stays with the file it was taken on.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from .api import DirectoryLock, Disk, File
from .values import refuse_to_copy


class StaleOwnerError(OSError):
    """The directory at the path is not the one that was opened."""


class OwnedDisk:
    """A `Disk` that passes everything on, after a look at the lock while it `is_guarding`: what names a path and would
    change something, or open a file, raises StaleOwnerError if the directory is another one by now.

    Cost: two calls to the system, for each of these. What is open is read and written without.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(self, disk: Disk, lock: DirectoryLock, on_stale: Callable[[], object]) -> None:
        self._disk = disk
        self._lock = lock
        self._on_stale = on_stale
        self.is_guarding = False
        self.exists = disk.exists
        self.listdir = disk.listdir
        self.sync_dir = disk.sync_dir
        self.absolute = disk.absolute
        self.new_temporary_directory = disk.new_temporary_directory
        self.lock = disk.lock
        self.boot_id = disk.boot_id
        self.is_network_filesystem = disk.is_network_filesystem

    @property
    def filesystem(self) -> object:
        return self._disk.filesystem

    def check(self, path: str) -> None:
        """Raise StaleOwnerError unless the directory is still the one that was opened. OSError: that cannot be told."""
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

    def write_atomic(self, path: str, data: bytes) -> None:
        self.check(path)
        self._disk.write_atomic(path, data)
