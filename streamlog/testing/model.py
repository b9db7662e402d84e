"""Files and directories in memory, and what of them is on the device.

Only an `Op` changes a `Model`. The simulated disk applies each operation to its own model and adds it to a trace. Replaying
a part of the trace on another model gives the machine as it was at that moment; crash states are made from that.

Each file and each directory has a list of unsynced operations. A sync of the file empties the first, a sync of the
directory the second, and neither affects the other: POSIX promises no more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..runtime.disk_errors import disk_modules

disk_modules.add(__name__)

ROOT = 0
SECTOR = 512


class Op(NamedTuple):
    """One operation of a trace; `SimulatedDisk.operations` has all of them.

    `node` is the file or, for changes of entries and `sync_dir`, the directory. `name` is the entry, or the label of a
    mark. `child` is the file that a new entry refers to; `to` and `into` are the new name and directory of a rename.

    >>> from streamlog.testing import SimulatedDisk
    >>> disk = SimulatedDisk()
    >>> disk.open("/a", create=True).pwrite([b"five!"], 0)
    >>> list(disk.operations)
    [create /a, pwrite /a 5 bytes at 0]
    """

    kind: str  # create mkdir pwrite truncate sync failed_sync rename unlink rmdir sync_dir mark
    path: str
    node: int = ROOT
    position: int = 0
    data: bytes = b""
    name: str = ""
    child: int = -1
    into: int = ROOT
    to: str = ""

    def __repr__(self) -> str:
        detail = {
            "pwrite": f" {len(self.data)} bytes at {self.position}",
            "truncate": f" to {self.position}",
            "rename": f" to {self.to}",
        }.get(self.kind, "")
        return f"{self.kind} {self.path}{detail}"


class Entry(NamedTuple):
    """A change of a directory that is not on the device yet. `child` is -1 if the name was removed.

    The two halves of a rename within one directory are one change: a journal contains both or neither.
    """

    name: str
    child: int
    gone: str = ""  # the name that a rename removed


class FileImage(NamedTuple):
    """A file at one moment: what is on the device, the operations since, and what a reader sees."""

    durable: bytes
    pending: tuple[Op, ...]
    seen: bytes


class DirImage(NamedTuple):
    """A directory at one moment, as `FileImage`. Immutable."""

    durable: dict[str, int]
    pending: tuple[Entry, ...]
    seen: dict[str, int]


class Image(NamedTuple):
    """Every file and directory by number. Shared between states, so it is never changed."""

    files: dict[int, FileImage]
    dirs: dict[int, DirImage]
    next_node: int


EMPTY = Image({}, {ROOT: DirImage({}, (), {})}, 1)


def patch(data: bytearray, position: int, piece: bytes | memoryview) -> None:
    """Write `piece` at `position`. A hole between the old end and `position` reads as zeros."""
    if position > len(data):
        data.extend(bytes(position - len(data)))
    data[position : position + len(piece)] = piece


def resize(data: bytearray, size: int) -> None:
    if size < len(data):
        del data[size:]
    else:
        data.extend(bytes(size - len(data)))


def apply_to(data: bytearray, op: Op) -> None:
    """Apply a write or a truncation to a file's bytes."""
    if op.kind == "pwrite":
        patch(data, op.position, op.data)
    else:
        resize(data, op.position)


class FileNode:
    """A file. `seen` and `durable` are the bytes of the image until they are changed."""

    __slots__ = ("_image", "durable", "number", "pending", "seen")

    def __init__(self, number: int, image: FileImage) -> None:
        self.number = number
        self.durable: bytes | bytearray = image.durable
        self.seen: bytes | bytearray = image.seen
        self.pending = list(image.pending)
        self._image: FileImage | None = image

    def change(self, op: Op) -> None:
        self._image = None
        if not isinstance(self.seen, bytearray):
            self.seen = bytearray(self.seen)
        apply_to(self.seen, op)
        self.pending.append(op)

    def sync(self, *, fails: bool = False) -> None:
        """Put everything on the device. If it fails, readers still see it, but no later sync writes it."""
        if not self.pending:
            return
        self._image = None
        if not fails:
            if not isinstance(self.durable, bytearray):
                self.durable = bytearray(self.durable)
            for op in self.pending:
                apply_to(self.durable, op)
        self.pending.clear()

    def image(self) -> FileImage:
        image = self._image
        if image is None:
            seen = bytes(self.seen)
            durable = seen if self.durable == seen else bytes(self.durable)
            image = self._image = FileImage(durable, tuple(self.pending), seen)
        return image


class DirNode:
    """A directory: its entries as they are seen and as they are on the device."""

    __slots__ = ("_image", "durable", "number", "pending", "seen")

    def __init__(self, number: int, image: DirImage) -> None:
        self.number = number
        self.durable = image.durable
        self.pending = image.pending
        self.seen = image.seen
        self._image: DirImage | None = image

    def change(self, entry: Entry) -> None:
        self._image = None
        seen = dict(self.seen)
        apply_entry(seen, entry)
        self.seen = seen
        self.pending = (*self.pending, entry)

    def sync(self) -> None:
        self._image = None
        self.durable = self.seen
        self.pending = ()

    def image(self) -> DirImage:
        image = self._image
        if image is None:
            image = self._image = DirImage(self.durable, self.pending, self.seen)
        return image


def apply_entry(entries: dict[str, int], entry: Entry) -> None:
    if entry.gone:
        entries.pop(entry.gone, None)
    if entry.child < 0:
        entries.pop(entry.name, None)
    else:
        entries[entry.name] = entry.child


class Model:
    """A file system to which operations are applied. No lock and no checks: the caller has checked them."""

    def __init__(self, image: Image = EMPTY) -> None:
        self._image = image
        self._files: dict[int, FileNode] = {}  # made from the image when first needed
        self._dirs: dict[int, DirNode] = {}
        self._changed_files: set[int] = set()
        self._changed_dirs: set[int] = set()
        self.next_node = image.next_node

    def file(self, number: int) -> FileNode:
        node = self._files.get(number)
        if node is None:
            node = self._files[number] = FileNode(number, self._image.files[number])
        return node

    def dir(self, number: int) -> DirNode:
        node = self._dirs.get(number)
        if node is None:
            node = self._dirs[number] = DirNode(number, self._image.dirs[number])
        return node

    def is_dir(self, number: int) -> bool:
        return number in self._dirs or number in self._image.dirs

    def apply(self, op: Op) -> None:
        kind, number = op.kind, op.node
        if kind in ("pwrite", "truncate"):
            self._changed_files.add(number)
            self.file(number).change(op)
        elif kind in ("sync", "failed_sync"):
            self._changed_files.add(number)
            self.file(number).sync(fails=kind == "failed_sync")
        elif kind == "create":
            self._files[op.child] = FileNode(op.child, FileImage(b"", (), b""))
            self._changed_files.add(op.child)
            self._enter(number, Entry(op.name, op.child))
        elif kind == "mkdir":
            self._dirs[op.child] = DirNode(op.child, DirImage({}, (), {}))
            self._changed_dirs.add(op.child)
            self._enter(number, Entry(op.name, op.child))
        elif kind == "rename":
            if op.into == number:
                self._enter(number, Entry(op.to, op.child, gone=op.name))
            else:
                self._enter(op.into, Entry(op.to, op.child))
                self._enter(number, Entry(op.name, -1))
        elif kind in ("unlink", "rmdir"):
            self._enter(number, Entry(op.name, -1))
        elif kind == "sync_dir":
            self._changed_dirs.add(number)
            self.dir(number).sync()

    def _enter(self, number: int, entry: Entry) -> None:
        self.next_node = max(self.next_node, entry.child + 1)
        self._changed_dirs.add(number)
        self.dir(number).change(entry)

    def image(self) -> Image:
        """Everything as it is now. Cost: what changed since the last call, and one reference for each other file."""
        if self._changed_files or self._changed_dirs:
            files, dirs = dict(self._image.files), dict(self._image.dirs)
            for number in self._changed_files:
                files[number] = self._files[number].image()
            for number in self._changed_dirs:
                dirs[number] = self._dirs[number].image()
            self._changed_files.clear()
            self._changed_dirs.clear()
            self._image = Image(files, dirs, self.next_node)
        return self._image

    def used_bytes(self) -> int:
        """The bytes in all files that have a name."""
        return sum(len(self.file(number).seen) for number in self._named(ROOT))

    def _named(self, number: int) -> Iterator[int]:
        for child in self.dir(number).seen.values():
            if self.is_dir(child):
                yield from self._named(child)
            else:
                yield child
