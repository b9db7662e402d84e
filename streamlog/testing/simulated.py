"""A file system in memory that knows what would survive a crash."""

from __future__ import annotations

import errno
import posixpath
from collections.abc import Iterator, Sequence
from functools import lru_cache
from random import Random

from ..runtime.disk_errors import disk_modules
from ..runtime.threads import getpid, new_reentrant_lock
from ..runtime.values import refuse_to_copy
from .crashes import Found, Trace
from .handles import SimulatedFile, error
from .model import EMPTY, ROOT, Image, Model, Op

disk_modules.add(__name__)


@lru_cache(maxsize=4096)
def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in posixpath.normpath("/" + path).split("/") if part)


class SimulatedDisk:
    """A file system in memory, for `streamlog.open(disk=…)` and for files of your own.

    It records every change as a numbered operation. From this it derives what a kill or a power loss leaves: now (`kill`,
    `power_loss`), or at any moment so far (`crashes`, `state`). Each of these states is a SimulatedDisk too, so a crash
    during recovery can be simulated like any other.

    Paths are absolute, or relative to the root, which always exists. There are no links, permissions or times. `seed`
    determines the random states. Thread-safe.

    >>> import streamlog
    >>> from streamlog.testing import ManualClock, SimulatedDisk
    >>> disk, clock = SimulatedDisk(), ManualClock()
    >>> with streamlog.open("data", disk=disk, clock=clock) as log:
    ...     orders = log.create_topic("orders")
    ...     _ = orders.send("9.50")
    ...     after = disk.kill()                # the state that a kill -9 would leave now
    >>> with streamlog.open("data", disk=after, clock=clock) as log:
    ...     [record.value for record in log["orders"].read()]
    [b'9.50']
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(self, seed: int = 0) -> None:
        self._start(seed, EMPTY, 1, (), "")

    def _start(self, seed: int, image: Image, boot: int, marks: tuple[str, ...], name: str) -> None:
        self.seed = seed
        self.name = name
        self._boot = boot
        self._model = Model(image)
        self._lock = new_reentrant_lock()
        self._locks: dict[int, SimulatedLock] = {}
        self._lines: dict[int, list[SimulatedLock]] = {}
        self._trace = Trace(seed, image, boot, marks)

    def _of(self, found: Found) -> SimulatedDisk:
        disk = SimulatedDisk.__new__(SimulatedDisk)
        disk._start(self.seed, found.image, found.boot, found.marks, found.name)
        return disk

    def __repr__(self) -> str:
        name = f" {self.name}" if self.name else ""
        return f"<SimulatedDisk{name}: {len(self._trace.ops)} operations>"

    # -- the trace -----------------------------------------------------------------------------------

    @property
    def operations(self) -> Sequence[Op]:
        """All operations on this disk, in order, without those before the crash that it was made from."""
        return self._trace.ops

    @property
    def image(self) -> Image:
        """All files and directories now, with what is on the device and what is not, as immutable values."""
        with self._lock:
            return self._model.image()

    def mark(self, label: str) -> None:
        """Add `label` to the trace. The states of all later moments have it in their `marks`.

        >>> from streamlog.testing import SimulatedDisk
        >>> disk = SimulatedDisk()
        >>> disk.mark("acknowledged 0")
        >>> disk.power_loss().marks
        ('acknowledged 0',)
        """
        with self._lock:
            self._trace.add(Op("mark", "", name=label))

    @property
    def marks(self) -> tuple[str, ...]:
        """The labels so far, in order, including those from before a crash."""
        return self._trace.marks()

    # -- crashes -------------------------------------------------------------------------------------

    def kill(self) -> SimulatedDisk:
        """The state after a `kill -9` now: every write is there, and no lock is held."""
        return self.state(f"{len(self._trace.ops)}/kill")

    def power_loss(self, choice: str | int = "strict") -> SimulatedDisk:
        """The state after a power loss now: what was synced is there, and `choice` selects what else is.

        `"strict"` keeps nothing unsynced, `"lax"` keeps everything. A number is the seed of a random choice, `"harsh-7"`
        that of a harsher one; see `crashes`.

        >>> from streamlog.testing import SimulatedDisk
        >>> disk = SimulatedDisk()
        >>> file = disk.open("/a", create=True)
        >>> disk.sync_dir("/")
        >>> file.pwrite([b"synced "], 0)
        >>> file.sync()
        >>> file.pwrite([b"not"], 7)
        >>> disk.read("/a"), disk.power_loss().read("/a")
        (b'synced not', b'synced ')
        """
        return self.state(f"{len(self._trace.ops)}/{choice}")

    def crashes(
        self, random: int = 4, *, harsh: int = 0, kills: bool = True, first: int = 0, last: int | None = None
    ) -> Iterator[tuple[str, SimulatedDisk]]:
        """Yield the states that a crash may leave at every moment of the trace, each with its name.

        For each number of operations done, from `first` to `last`:

        - `"12/kill"`: after a `kill -9` (only with `kills`). If the twelfth operation was a write, `"12/kill-half"` has
          some of its bytes, as if the process was killed during the write.
        - `"12/strict"` and `"12/lax"`: a power loss after which nothing unsynced is left, or everything.
        - `"12/0"`, `"12/1"`, …, `random` of them: of every file, any of the unsynced writes survive, by sectors of 512
          bytes, each sector as some write left it. Holes read as zeros. The size follows from what survived, or is one
          that the file had. Of every directory, the first few unsynced changes survive.
        - `"12/harsh-0"`, …, `harsh` of them: of every directory, any of the unsynced changes survive.

        A file whose directory entry did not survive is gone, however often it was synced. States that equal the one
        before, because nothing changed or nothing was unsynced, are left out.

        `state(name)` gives a state again, on this disk and on any disk with the same seed and the same operations. The name
        ends with a checksum of the operations.
        """
        for found in self._trace.crashes(random, harsh, kills, first, last):
            yield found.name, self._of(found)

    def state(self, name: str) -> SimulatedDisk:
        """The state of that name; see `crashes`. Raises ValueError if this disk has no such state."""
        return self._of(self._trace.state(name))

    # -- Disk ----------------------------------------------------------------------------------------

    @property
    def filesystem(self) -> object:
        return self

    def boot_id(self) -> str:
        """Changes with every power loss."""
        return str(Random(f"{self.seed} {self._boot}").getrandbits(64))

    def is_network_filesystem(self, path: str) -> bool:
        return False

    def space(self, path: str) -> tuple[int, int]:
        return -1, -1

    def absolute(self, path: str) -> str:
        return "/" + "/".join(_parts(path))

    def new_temporary_directory(self) -> str:
        number = 0
        while self.exists(f"/tmp/streamlog-{number}"):
            number += 1
        self.makedirs(f"/tmp/streamlog-{number}")
        return f"/tmp/streamlog-{number}"

    def lock(self, path: str) -> SimulatedLock:
        return SimulatedLock(self, self.absolute(path))

    def open(self, path: str, *, create: bool = False, exclusive: bool = False, writable: bool = True) -> SimulatedFile:
        with self._lock:
            directory, name = self._parent(path)
            number = self._model.dir(directory).seen.get(name, -1)
            if number < 0:
                if not create:
                    raise error(errno.ENOENT, path)
                number = self._model.next_node
                self._do(Op("create", path, directory, name=name, child=number))
            elif create and exclusive:
                raise error(errno.EEXIST, path)
            elif self._model.is_dir(number):
                raise error(errno.EISDIR if writable or create else errno.EINVAL, path)
            return SimulatedFile(path, self._model.file(number), writable, self._do_alone)

    def exists(self, path: str) -> bool:
        with self._lock:
            return self._find(path) >= 0

    def listdir(self, path: str) -> list[str]:
        with self._lock:
            return sorted(self._model.dir(self._directory(path)).seen)

    def makedirs(self, path: str) -> None:
        with self._lock:
            at = ROOT
            for part in _parts(path):
                if not self._model.is_dir(at):
                    raise error(errno.ENOTDIR, path)
                child = self._model.dir(at).seen.get(part, -1)
                if child < 0:
                    child = self._model.next_node
                    self._do(Op("mkdir", path, at, name=part, child=child))
                at = child
            if not self._model.is_dir(at):
                raise error(errno.EEXIST, path)

    def rename(self, source: str, target: str) -> None:
        with self._lock:
            directory, name = self._parent(source)
            into, to = self._parent(target)
            child = self._model.dir(directory).seen.get(name, -1)
            if child < 0:
                raise error(errno.ENOENT, source)
            if _parts(target)[: len(_parts(source))] == _parts(source) != _parts(target):
                raise error(errno.EINVAL, target)
            if _parts(source)[: len(_parts(target))] == _parts(target) != _parts(source):
                raise error(errno.ENOTEMPTY, target)
            replaced = self._model.dir(into).seen.get(to, -1)
            if replaced == child:
                return
            if replaced >= 0 and self._model.is_dir(replaced) != self._model.is_dir(child):
                raise error(errno.EISDIR if self._model.is_dir(replaced) else errno.ENOTDIR, target)
            if replaced >= 0 and self._model.is_dir(replaced) and self._model.dir(replaced).seen:
                raise error(errno.ENOTEMPTY, target)
            self._do(Op("rename", source, directory, name=name, child=child, into=into, to=to))

    def unlink(self, path: str) -> None:
        with self._lock:
            directory, name = self._parent(path)
            number = self._model.dir(directory).seen.get(name, -1)
            if number < 0:
                raise error(errno.ENOENT, path)
            if self._model.is_dir(number):
                raise error(errno.EISDIR, path)
            self._do(Op("unlink", path, directory, name=name))

    def rmdir(self, path: str) -> None:
        with self._lock:
            directory, name = self._parent(path)
            if self._model.dir(self._directory(path)).seen:
                raise error(errno.ENOTEMPTY, path)
            self._do(Op("rmdir", path, directory, name=name))

    def is_dir(self, path: str) -> bool:
        with self._lock:
            number = self._find(path)
            return number >= 0 and self._model.is_dir(number)

    def rmtree(self, path: str) -> None:
        for name in self.listdir(path):
            inner = f"{path}/{name}"
            if self.is_dir(inner):
                self.rmtree(inner)
            else:
                self.unlink(inner)
        self.rmdir(path)

    def sync_dir(self, path: str) -> None:
        with self._lock:
            self._do(Op("sync_dir", path, self._directory(path)))

    def read(self, path: str, limit: int = 1 << 26) -> bytes:
        file = self.open(path, writable=False)
        if file.size() > limit:
            raise OSError(errno.EFBIG, f"larger than the {limit} bytes it may have", path)
        return file.pread(limit, 0)

    def write_atomic(self, path: str, data: bytes) -> None:
        temporary = path + ".tmp"
        if self.exists(temporary):
            self.unlink(temporary)
        file = self.open(temporary, create=True, exclusive=True)
        file.pwrite([data], 0)
        file.sync()
        file.close()
        self.rename(temporary, path)
        self.sync_dir(posixpath.dirname(path) or "/")

    def used_bytes(self) -> int:
        """The bytes in all files that have a name."""
        with self._lock:
            return self._model.used_bytes()

    # -- inside --------------------------------------------------------------------------------------

    def _do_alone(self, op: Op) -> None:
        with self._lock:
            self._do(op)

    def _do(self, op: Op) -> None:
        self._model.apply(op)
        self._trace.add(op)

    def _walk(self, parts: Sequence[str], path: str) -> int:
        at = ROOT
        for part in parts:
            if not self._model.is_dir(at):
                raise error(errno.ENOTDIR, path)
            at = self._model.dir(at).seen.get(part, -1)
            if at < 0:
                return -1
        return at

    def _find(self, path: str) -> int:
        try:
            return self._walk(_parts(path), path)
        except NotADirectoryError:
            return -1

    def _directory(self, path: str) -> int:
        number = self._walk(_parts(path), path)
        if number < 0:
            raise error(errno.ENOENT, path)
        if not self._model.is_dir(number):
            raise error(errno.ENOTDIR, path)
        return number

    def _parent(self, path: str) -> tuple[int, str]:
        parts = _parts(path)
        if not parts:
            raise error(errno.EISDIR, path)
        number = self._walk(parts[:-1], path)
        if number < 0:
            raise error(errno.ENOENT, path)
        if not self._model.is_dir(number):
            raise error(errno.ENOTDIR, path)
        return number, parts[-1]


class SimulatedLock:
    """A directory lock on a simulated disk, among its users in this process. Like a real one, it belongs to the file and
    not to its name, and those that wait get it in turn."""

    __reduce_ex__ = refuse_to_copy

    def __init__(self, disk: SimulatedDisk, path: str) -> None:
        self._disk = disk
        self._node = -1
        self.path = path
        self.is_next = False

    def acquire(self) -> int | None:
        file = self._disk.open(self.path, create=True)
        with self._disk._lock:
            node = self._disk._find(self.path)
            line = self._disk._lines.get(node, [])
            self._give_up()
            self.is_next = not line or line[0] is self
            holder = self._disk._locks.setdefault(node, self) if self.is_next else self._disk._locks.get(node)
        if holder is not self:
            pid = file.pread(20, 0).decode("ascii", "replace").strip() if holder is not None else ""
            return int(pid) if pid.isdigit() else 0
        self._leave_lines()
        self._node = node
        try:
            file.truncate(0)
            file.pwrite([b"%10d\n" % getpid()], 0)
        except BaseException:
            self.release()
            raise
        return None

    def enqueue(self) -> None:
        self._disk.open(self.path, create=True)
        with self._disk._lock:
            line = self._disk._lines.setdefault(self._disk._find(self.path), [])
            if self not in line:
                line.append(self)

    def release(self) -> None:
        with self._disk._lock:
            self._give_up()
            self._leave_lines()

    def _give_up(self) -> None:
        if self._disk._locks.get(self._node) is self:
            del self._disk._locks[self._node]
        self._node = -1

    def _leave_lines(self) -> None:
        with self._disk._lock:
            for node, line in list(self._disk._lines.items()):
                if self in line:
                    line.remove(self)
                if not line:
                    del self._disk._lines[node]

    def is_current(self) -> bool:
        with self._disk._lock:
            return self._node >= 0 and self._disk._find(self.path) == self._node

    def holder(self) -> int | None:
        with self._disk._lock:
            return getpid() if self._disk._find(self.path) in self._disk._locks else None

    def abandon(self) -> None:
        """Release the lock: a forked child has a copy of the whole disk, and releases the lock there."""
        self.release()
