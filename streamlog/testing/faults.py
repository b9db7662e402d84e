"""A disk on which chosen calls fail, over the real file system or a simulated one."""

from __future__ import annotations

import errno as errors
import posixpath
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from ..runtime.api import Disk, File, Mapping
from ..runtime.disk import OsDisk
from ..runtime.disk_errors import disk_modules
from ..runtime.threads import new_reentrant_lock
from ..runtime.values import refuse_to_copy
from ..types import Buffer

disk_modules.add(__name__)

OPERATIONS = (
    "open", "create", "pread", "pwrite", "size", "truncate", "sync", "map", "map_read",
    "exists", "listdir", "makedirs", "rename", "unlink", "rmtree", "sync_dir", "lock",
)  # fmt: skip
GROUPS = {
    "any": OPERATIONS,
    "write": ("create", "pwrite", "truncate", "sync", "makedirs", "rename", "unlink", "rmtree", "sync_dir"),
    "read": ("open", "pread", "size", "map", "map_read", "exists", "listdir"),
    "mkdir": ("makedirs",),
}


class Fault:
    """An injected fault, made by `FaultyDisk.fail`. `fired` counts the calls that it made fail.

    >>> from streamlog.testing import FaultyDisk, SimulatedDisk
    >>> FaultyDisk(SimulatedDisk()).fail("sync", path="*.log")
    <Fault: sync of *.log, call 1, fired 0 times>
    """

    def __init__(
        self,
        op: str,
        error: int | BaseException | type[BaseException],
        nth: int,
        times: int | None,
        path: str,
        short: int,
    ) -> None:
        self.op = op
        self.error = error
        self.nth = nth
        self.times = times
        self.path = path
        self.short = short
        self.seen = 0
        self.fired = 0
        self._operations = frozenset(GROUPS.get(op, (op,)))

    def __repr__(self) -> str:
        return f"<Fault: {self.op} of {self.path}, call {self.nth}, fired {self.fired} times>"

    def strikes(self, op: str, path: str) -> bool:
        """For the disk: count one call; return whether it fails."""
        if op not in self._operations or not fnmatchcase(path, self.path):
            return False
        self.seen += 1
        if self.seen < self.nth or (self.times is not None and self.fired >= self.times):
            return False
        self.fired += 1
        return True

    def exception(self, path: str) -> BaseException:
        """For the disk: what a failing call raises."""
        if isinstance(self.error, int):
            return OSError(self.error, f"injected {errors.errorcode.get(self.error, self.error)}", path)
        return self.error if isinstance(self.error, BaseException) else self.error()


class FaultyDisk:
    """A disk on which chosen calls fail, for `streamlog.open(disk=…)`.

    `inner` is the disk that does the work: the real files by default, or a `SimulatedDisk`, whose crashes then show what a
    fault and a power loss leave.

    Composite calls (`read`, `write_atomic` and `rmtree`) consist of the simple ones, so that each of their steps can fail.
    Every call is recorded in `calls`. Thread-safe.

    >>> import errno, streamlog
    >>> from streamlog.testing import FaultyDisk, SimulatedDisk
    >>> disk = FaultyDisk(SimulatedDisk())
    >>> with streamlog.open("data", disk=disk) as log:
    ...     orders = log.create_topic("orders")
    ...     full = disk.fail("pwrite", errno.ENOSPC, path="*/topics/*.log")
    ...     try:
    ...         orders.send("9.50")
    ...     except streamlog.DiskFullError:
    ...         print("full, but nothing is lost:", full.fired)
    ...     orders.send("9.50").result().offset    # the disk has space again
    full, but nothing is lost: 1
    0
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(self, inner: Disk | None = None) -> None:
        self.inner: Disk = inner if inner is not None else OsDisk()
        self.calls: list[tuple[str, str]] = []
        self.capacity: int | None = None
        """The largest value that `used` may have, in bytes; None for no limit."""
        self.used = 0
        """The bytes by which files have grown through this disk since it was created, minus those that were freed."""
        self._faults: list[Fault] = []
        self._lock = new_reentrant_lock()

    # -- faults --------------------------------------------------------------------------------------

    def fail(
        self,
        op: str,
        error: int | BaseException | type[BaseException] = errors.ENOSPC,
        *,
        nth: int = 1,
        times: int | None = 1,
        path: str = "*",
        short: int = 0,
    ) -> Fault:
        """Make the `nth` matching call from now on fail, and the calls after it, `times` in all (None: for ever).

        `op` is one of OPERATIONS, or a group: "any", "write" (everything that changes something) or "read". "open" opens
        an existing file, "create" one that it may create. `path` is a glob over the whole path, in which `*` matches
        slashes too. `error` is an errno or an exception to raise. `short`: a failing write writes that many of its bytes
        first.

        If the inner disk is simulated, a `sync` that fails with EIO has the same effect as on Linux: what was not synced
        stays visible, never reaches the device, and the next sync succeeds.

        Returns the Fault; its `fired` counts the calls that failed. Raises ValueError for an unknown `op`.
        """
        if op not in OPERATIONS and op not in GROUPS:
            raise ValueError(f"{op!r} is not an operation of a disk; give one of {', '.join((*GROUPS, *OPERATIONS))}")
        if nth < 1:
            raise ValueError(f"nth={nth}: calls are counted from 1")
        fault = Fault(op, error, nth, times, path, short)
        with self._lock:
            self._faults = [*self._faults, fault]
        return fault

    def heal(self, fault: Fault | None = None) -> None:
        """Remove one fault, or all of them and the capacity."""
        with self._lock:
            self._faults = [known for known in self._faults if fault is not None and known is not fault]
            if fault is None:
                self.capacity = None

    def _struck(self, op: str, path: str) -> Fault | None:
        with self._lock:
            self.calls.append((op, path))
            struck: Fault | None = None
            for fault in self._faults:  # each counts the call; the first one that strikes decides
                if fault.strikes(op, path) and struck is None:
                    struck = fault
            return struck

    def _check(self, op: str, path: str) -> None:
        fault = self._struck(op, path)
        if fault is not None:
            raise fault.exception(path)

    # -- Disk ----------------------------------------------------------------------------------------

    @property
    def filesystem(self) -> object:
        return self.inner.filesystem

    def boot_id(self) -> str:
        return self.inner.boot_id()

    def is_network_filesystem(self, path: str) -> bool:
        return self.inner.is_network_filesystem(path)

    def space(self, path: str) -> tuple[int, int]:
        return self.inner.space(path)

    def absolute(self, path: str) -> str:
        return self.inner.absolute(path)

    def new_temporary_directory(self) -> str:
        return self.inner.new_temporary_directory()

    def lock(self, path: str) -> Any:
        return _FaultyLock(self, self.inner.lock(path), path)

    def open(self, path: str, *, create: bool = False, exclusive: bool = False, writable: bool = True) -> FaultyFile:
        self._check("create" if create else "open", path)
        file = self.inner.open(path, create=create, exclusive=exclusive, writable=writable)
        return FaultyFile(self, file)

    def exists(self, path: str) -> bool:
        self._check("exists", path)
        return self.inner.exists(path)

    def listdir(self, path: str) -> list[str]:
        self._check("listdir", path)
        return self.inner.listdir(path)

    def makedirs(self, path: str) -> None:
        self._check("makedirs", path)
        self.inner.makedirs(path)

    def rename(self, source: str, target: str) -> None:
        self._check("rename", source)
        freed = self._size(target)
        self.inner.rename(source, target)
        self._grow(-freed)

    def unlink(self, path: str) -> None:
        self._check("unlink", path)
        freed = self._size(path)
        self.inner.unlink(path)
        self._grow(-freed)

    def rmtree(self, path: str) -> None:
        for name in self.listdir(path):
            inner = f"{path}/{name}"
            try:
                self.inner.listdir(inner)
            except NotADirectoryError:
                self.unlink(inner)
            else:
                self.rmtree(inner)
        self._check("rmtree", path)
        self.inner.rmtree(path)

    def sync_dir(self, path: str) -> None:
        self._check("sync_dir", path)
        self.inner.sync_dir(path)

    def read(self, path: str, limit: int = 1 << 26) -> bytes:
        file = self.open(path, writable=False)
        try:
            size = file.size()
            if size > limit:
                raise OSError(errors.EFBIG, f"larger than the {limit} bytes it may have", path)
            return file.pread(size, 0)
        finally:
            file.close()

    def write_atomic(self, path: str, data: bytes) -> None:
        temporary = path + ".tmp"
        if self.inner.exists(temporary):
            self.unlink(temporary)
        file = self.open(temporary, create=True, exclusive=True)
        try:
            file.pwrite([data], 0)
            file.sync()
        finally:
            file.close()
        self.rename(temporary, path)
        self.sync_dir(posixpath.dirname(path) or "/")

    # -- space ---------------------------------------------------------------------------------------

    def _size(self, path: str) -> int:
        try:
            file = self.inner.open(path, writable=False)
        except OSError:
            return 0
        try:
            return file.size()
        finally:
            file.close()

    def _grow(self, n: int) -> None:
        with self._lock:
            self.used += n

    def _available(self, n: int) -> int:
        """How many of `n` more bytes there is space for."""
        return n if self.capacity is None else max(0, min(n, self.capacity - self.used))


class FaultyFile:
    """A file of a `FaultyDisk`."""

    __reduce_ex__ = refuse_to_copy

    def __init__(self, disk: FaultyDisk, inner: File) -> None:
        self._disk = disk
        self._inner = inner
        self.path = inner.path

    def pread(self, length: int, position: int) -> bytes:
        self._disk._check("pread", self.path)
        return self._inner.pread(length, position)

    def pwrite(self, buffers: Sequence[Buffer], position: int) -> None:
        data = b"".join(buffers)
        fault = self._disk._struck("pwrite", self.path)
        if fault is not None:
            self._write(data[: fault.short], position)
            raise fault.exception(self.path)
        written = self._write(data, position)
        if written < len(data):
            raise OSError(errors.ENOSPC, "the capacity of the disk is used up", self.path)

    def _write(self, data: bytes, position: int) -> int:
        """Write as much as there is space for; return the number of bytes."""
        size = self._inner.size()
        growth = max(0, position + len(data) - size)
        available = self._disk._available(growth)
        if available < growth:
            data = data[: max(0, len(data) - (growth - available))]
        if data:
            self._inner.pwrite([data], position)
            self._disk._grow(max(0, position + len(data) - size))
        return len(data)

    def size(self) -> int:
        self._disk._check("size", self.path)
        return self._inner.size()

    def truncate(self, size: int) -> None:
        self._disk._check("truncate", self.path)
        before = self._inner.size()
        self._inner.truncate(size)
        self._disk._grow(size - before)

    def sync(self) -> None:
        fault = self._disk._struck("sync", self.path)
        if fault is not None:
            fail_sync = getattr(self._inner, "fail_sync", None)
            if fail_sync is not None and fault.error == errors.EIO:
                fail_sync()
            raise fault.exception(self.path)
        self._inner.sync()

    def map(self, length: int) -> FaultyMapping:
        self._disk._check("map", self.path)
        return FaultyMapping(self._disk, self._inner.map(length), self.path)

    def close(self) -> None:
        self._inner.close()


class FaultyMapping:
    """A mapping of a `FaultyDisk`. A read fails with an OSError, as on a bad disk."""

    def __init__(self, disk: FaultyDisk, inner: Mapping, path: str) -> None:
        self._disk = disk
        self._inner = inner
        self.path = path

    def read(self, length: int, position: int) -> bytes:
        self._disk._check("map_read", self.path)
        return self._inner.read(length, position)


class _FaultyLock:
    __reduce_ex__ = refuse_to_copy

    def __init__(self, disk: FaultyDisk, inner: Any, path: str) -> None:
        self._disk = disk
        self._inner = inner
        self._path = path

    def acquire(self) -> int | None:
        self._disk._check("lock", self._path)
        holder: int | None = self._inner.acquire()
        return holder

    def enqueue(self) -> None:
        self._inner.enqueue()

    @property
    def is_next(self) -> bool:
        first: bool = self._inner.is_next
        return first

    def release(self) -> None:
        self._inner.release()

    def is_current(self) -> bool:
        current: bool = self._inner.is_current()
        return current

    def holder(self) -> int | None:
        holder: int | None = self._inner.holder()
        return holder

    def abandon(self) -> None:
        self._inner.abandon()
