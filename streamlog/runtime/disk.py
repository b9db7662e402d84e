"""The real file system behind `api.Disk`.

Files are written with pwrite, never through a mapping: a write to a mapping on a full disk is a SIGBUS, and `mmap.flush`
holds the interpreter lock. Only files that no longer change are mapped, read-only. A mapped range is populated before it
is read, so that a disk error is an OSError and not a signal. Files are created with mode 0600, directories with 0700.
Links are not followed when a file of the log is opened.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import re
import resource
import stat
from collections.abc import Sequence
from functools import cache

from ..errors import ConfigError
from ..types import Buffer
from .directory_lock import DirectoryLock
from .disk_errors import ignored, require_disk_error
from .values import refuse_to_copy

_MADV_POPULATE_READ = 22
_IOV_MAX = 512
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW
_PAGE = mmap.PAGESIZE
# A pathlib.Path of a URL has one of the two slashes left.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|[A-Za-z][A-Za-z0-9+.-]+:/")
_NETWORK_FILESYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "fuse.sshfs", "glusterfs"}


class OsFile:
    """An open regular file. Each call gives a position; there is no file offset. With `syncs=False` a sync does nothing."""

    __slots__ = ("_open", "_syncs", "fd", "path")
    __reduce_ex__ = refuse_to_copy

    def __init__(self, fd: int, path: str, *, syncs: bool = True) -> None:
        # `list.pop` gives the descriptor to the one thread that closes it, so it is never closed twice.
        self._open = [fd]
        self._syncs = syncs
        self.fd = fd
        self.path = path

    def pread(self, length: int, position: int) -> bytes:
        data = os.pread(self.fd, length, position)
        if len(data) == length or not data:
            return data
        parts = [data]
        got = len(data)
        while got < length:
            data = os.pread(self.fd, length - got, position + got)
            if not data:
                break
            parts.append(data)
            got += len(data)
        return b"".join(parts)

    def pwrite(self, buffers: Sequence[Buffer], position: int) -> None:
        if len(buffers) == 1:
            data = buffers[0]
            written = os.pwrite(self.fd, data, position)
            if written != len(data):
                self._finish(bytes(data), written, position)
            return
        for start in range(0, len(buffers), _IOV_MAX):
            chunk = buffers[start : start + _IOV_MAX]
            total = sum(map(len, chunk))
            written = os.pwritev(self.fd, chunk, position)
            if written != total:
                self._finish(b"".join(chunk), written, position)
            position += total

    def _finish(self, data: bytes, written: int, position: int) -> None:
        """Continue a short write. A call that writes nothing is an error: otherwise this could loop for ever."""
        view = memoryview(data)
        while written < len(data):
            n = os.pwrite(self.fd, view[written:], position + written)
            if n <= 0:
                raise OSError(errno.EIO, "the file system accepted no bytes", self.path)
            written += n

    def size(self) -> int:
        return os.fstat(self.fd).st_size

    def truncate(self, size: int) -> None:
        os.ftruncate(self.fd, size)

    def sync(self) -> None:
        if not self._open:  # fdatasync(-1) raises ValueError, and callers expect OSError
            raise OSError(errno.EBADF, "the file is closed", self.path)
        if not self._syncs:
            return
        if hasattr(fcntl, "F_FULLFSYNC"):
            fcntl.fcntl(self.fd, fcntl.F_FULLFSYNC)
        else:
            os.fdatasync(self.fd)

    def map(self, length: int) -> OsMapping | PreadMapping:
        if can_populate():
            return OsMapping(mmap.mmap(self.fd, length, mmap.MAP_SHARED, mmap.PROT_READ), self.path)
        if length > self.size():
            raise ValueError("mmap length is greater than file size")
        return PreadMapping(OsFile(os.dup(self.fd), self.path), length)

    def close(self) -> None:
        try:
            fd = self._open.pop()
        except IndexError:
            return
        self.fd = -1  # a later call fails with EBADF instead of reading another file
        os.close(fd)

    def __del__(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # an interrupt came before `__init__` set the fields
            self.close()


class OsMapping:
    """A read-only mapping of a file that no longer changes.

    `read` gives a copy, and nothing else is shown the mapped memory: a page that the kernel evicts after it was populated, and
    then cannot read again, is a SIGBUS, which ends the process. To decode in place saves nothing that would be worth that. The
    core's `take` from the mapping itself, from a new bytes object of `pread` and from one buffer that `preadv` filled again and
    again took the same time (in 25 rounds of each in turn, within 2%, for records of 1 KiB and of 100 bytes): the copy brings the
    bytes into the cache, where they are hashed and copied once more, and without it that waits for the memory.
    """

    __slots__ = ("_map", "path")
    __reduce_ex__ = refuse_to_copy

    def __init__(self, mapping: mmap.mmap, path: str) -> None:
        self._map = mapping
        self.path = path

    def read(self, length: int, position: int) -> bytes:
        start = position - position % _PAGE
        end = min(position + length, len(self._map))
        try:
            self._map.madvise(_MADV_POPULATE_READ, start, end - start)
        except OSError as error:
            require_disk_error(error)
            raise OSError(errno.EIO, "the disk could not read a mapped range", self.path) from error
        return self._map[position : position + length]


class PreadMapping:
    """Reads with pread where a mapping cannot be populated: there a disk error would be a SIGBUS."""

    __slots__ = ("_file", "_length", "path")
    __reduce_ex__ = refuse_to_copy

    def __init__(self, file: OsFile, length: int) -> None:
        self._file = file
        self._length = length
        self.path = file.path

    def read(self, length: int, position: int) -> bytes:
        return self._file.pread(max(0, min(length, self._length - position)), position)


@cache
def can_populate() -> bool:
    """Whether the kernel has MADV_POPULATE_READ (Linux 5.14). Tried once, on a page of memory."""
    with mmap.mmap(-1, _PAGE) as page:
        try:
            page.madvise(_MADV_POPULATE_READ)
        except OSError as error:
            require_disk_error(error)
            return False
        except AttributeError:  # a platform without madvise
            return False
    return True


class OsDisk:
    """The machine's own files.

    `syncs=False`: nothing waits for the device, and a power loss may take everything. For a log that a test throws away: to open one
    and to create a topic are a dozen syncs, which take longer than all the rest.
    """

    filesystem: object = "the machine's own"
    _syncs = True  # of subclasses that have a beginning of their own, too

    def __init__(self, *, syncs: bool = True) -> None:
        self._syncs = syncs

    def open(self, path: str, *, create: bool = False, exclusive: bool = False, writable: bool = True) -> OsFile:
        flags = _FLAGS | (os.O_RDWR if writable else os.O_RDONLY) | os.O_NONBLOCK
        if create:
            flags |= os.O_CREAT
        if exclusive:
            flags |= os.O_EXCL
        fd = os.open(path, flags, 0o600)
        file = OsFile(fd, path, syncs=self._syncs)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            file.close()
            raise OSError(errno.EINVAL, "not a regular file", path)
        return file

    def exists(self, path: str) -> bool:
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            require_disk_error(error)
            return False
        return True

    def listdir(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def makedirs(self, path: str) -> None:
        os.makedirs(path, mode=0o700, exist_ok=True)
        if os.path.islink(path):
            raise OSError(errno.ELOOP, "a link where a directory of the log belongs", path)

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def rmtree(self, path: str) -> None:
        """Remove a directory with its contents.

        Not with `shutil.rmtree`: interrupted while it closes a directory, that closes the same descriptor again, which may
        be another file's by then.
        """
        if os.path.islink(path):
            raise OSError(errno.ENOTDIR, "a link where a directory of the log belongs", path)
        for name in os.listdir(path):
            inner = f"{path}/{name}"
            if stat.S_ISDIR(os.lstat(inner).st_mode):
                self.rmtree(inner)
            else:
                os.unlink(inner)
        os.rmdir(path)

    def sync_dir(self, path: str) -> None:
        if not self._syncs:
            return
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def read(self, path: str, limit: int = 1 << 26) -> bytes:
        file = self.open(path, writable=False)
        try:
            size = file.size()
            if size > limit:
                raise OSError(errno.EFBIG, f"larger than the {limit} bytes it may have", path)
            return file.pread(size, 0)
        finally:
            file.close()

    def write_atomic(self, path: str, data: bytes) -> None:
        temporary = path + ".tmp"
        with ignored(FileNotFoundError):
            os.unlink(temporary)
        file = self.open(temporary, create=True, exclusive=True)
        try:
            file.pwrite([data], 0)
            file.sync()
        finally:
            file.close()
        os.rename(temporary, path)
        self.sync_dir(os.path.dirname(path))

    def absolute(self, path: str) -> str:
        return os.path.realpath(path)

    def new_temporary_directory(self) -> str:
        from tempfile import mkdtemp  # here: it would take 3 ms of each import of streamlog

        return mkdtemp(prefix="streamlog-")

    def lock(self, path: str) -> DirectoryLock:
        return DirectoryLock(path)

    def boot_id(self) -> str:
        try:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
                return file.read().strip()
        except OSError:
            return ""

    def space(self, path: str) -> tuple[int, int]:
        found = os.statvfs(path)
        return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize

    def is_network_filesystem(self, path: str) -> bool:
        return filesystem_type(path) in _NETWORK_FILESYSTEMS


def path_of(given: object, name: str = "path") -> str:
    """The argument `name` as the path of a directory. Raises ConfigError if it is no path, or has a URL scheme."""
    found = _SCHEME.match(str(given)) if isinstance(given, (str, os.PathLike)) else None
    if found is not None:
        raise ConfigError(
            f"{str(given)!r} is a URL, and streamlog cannot open {found[0].rstrip(':/')}:// URLs: a log is a directory of "
            f"this machine. Give its path, without a scheme. (A directory with this name: give the whole path, from / on.)",
            name=name,
        )
    try:
        path = os.fspath(given)  # type: ignore[call-overload]
        if isinstance(path, str) and path and b"\0" not in os.fsencode(path):
            return path
    except (TypeError, UnicodeEncodeError):
        pass
    raise ConfigError(
        f"{name}={given!r} ({type(given).__name__}) names no directory: give a str or a pathlib.Path.", name=name
    )


PathLike = os.PathLike


def filesystem_type(path: str) -> str:
    """The type of the file system that holds `path`; empty if the system does not tell it."""
    best, kind = "", ""
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as mounts:
            for line in mounts:
                fields = line.split(" ")
                mount = fields[1].replace("\\040", " ")
                inside = path == mount or path.startswith(mount.rstrip("/") + "/")
                if inside and len(mount) >= len(best):
                    best, kind = mount, fields[2]
    except OSError:
        return ""
    return kind


def descriptor_limit() -> int:
    """How many descriptors this process may have; many, if there is no limit."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return limit if limit != resource.RLIM_INFINITY else 1 << 20


def raise_descriptor_limit() -> None:
    """Have this process be allowed as many descriptors as it may allow itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # the kernel's own limit is lower
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def new_id() -> str:
    """32 random hexadecimal digits."""
    return os.urandom(16).hex()


def entropy(n: int) -> bytes:
    return os.urandom(n)


def unused_temporary_path() -> str:
    """Where nothing is yet, in the directory for temporary files. Nothing is created."""
    from tempfile import gettempdir

    return os.path.join(gettempdir(), f"streamlog-{os.urandom(8).hex()}")
