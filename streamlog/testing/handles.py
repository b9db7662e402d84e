"""Open files and mappings of a simulated disk."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

from ..runtime.disk_errors import disk_modules
from ..runtime.values import refuse_to_copy
from ..types import Buffer
from .model import FileNode, Op

disk_modules.add(__name__)

_MESSAGES = {
    errno.ENOENT: "no such file or directory",
    errno.EEXIST: "it exists already",
    errno.ENOTDIR: "not a directory",
    errno.EISDIR: "a directory",
    errno.ENOTEMPTY: "the directory is not empty",
    errno.EBADF: "the file is closed",
    errno.EINVAL: "invalid argument",
}


class BusError(AssertionError):
    """A mapping was read beyond the end of its file, which was truncated. A real process would die of SIGBUS."""


class SimulatedFile:
    """An open file. It stays readable and writable after its name is removed."""

    __slots__ = ("_closed", "_do", "_node", "_writable", "path")
    __reduce_ex__ = refuse_to_copy

    def __init__(self, path: str, node: FileNode, writable: bool, do: Callable[[Op], None]) -> None:
        self._do = do
        self._node = node
        self._writable = writable
        self._closed = False
        self.path = path

    def pread(self, length: int, position: int) -> bytes:
        self._check()
        return bytes(self._node.seen[position : position + length])

    def pwrite(self, buffers: Sequence[Buffer], position: int) -> None:
        self._check(write=True)
        data = b"".join(buffers)
        if data:
            self._do(Op("pwrite", self.path, self._node.number, position, data))

    def size(self) -> int:
        self._check()
        return len(self._node.seen)

    def truncate(self, size: int) -> None:
        self._check()
        if not self._writable:
            raise error(errno.EINVAL, self.path)
        if size != len(self._node.seen):
            self._do(Op("truncate", self.path, self._node.number, size))

    def sync(self) -> None:
        self._check()
        self._do(Op("sync", self.path, self._node.number))

    def fail_sync(self) -> None:
        """Do what a sync that fails with EIO does on Linux: the unsynced pages count as clean from now on.

        Readers see them, but they never reach the device, although the next sync succeeds.
        """
        self._check()
        self._do(Op("failed_sync", self.path, self._node.number))

    def map(self, length: int) -> SimulatedMapping:
        self._check()
        if length <= 0 or length > len(self._node.seen):
            raise ValueError("mmap length is greater than file size")
        return SimulatedMapping(self.path, self._node, length)

    def close(self) -> None:
        self._closed = True

    def _check(self, *, write: bool = False) -> None:
        if self._closed or (write and not self._writable):
            raise error(errno.EBADF, self.path)


class SimulatedMapping:
    """Shared pages of a file: it reads what was written to the file after the mapping was made."""

    __slots__ = ("_length", "_node", "path")

    def __init__(self, path: str, node: FileNode, length: int) -> None:
        self.path = path
        self._node = node
        self._length = length

    def read(self, length: int, position: int) -> bytes:
        end = min(position + length, self._length)
        if end > len(self._node.seen):
            raise BusError(
                f"{self.path} was mapped with {self._length} bytes and truncated to {len(self._node.seen)}: reading up to "
                f"byte {end} would end the process with SIGBUS"
            )
        return bytes(self._node.seen[position:end])


def error(number: int, path: str) -> OSError:
    return OSError(number, _MESSAGES[number], path)
