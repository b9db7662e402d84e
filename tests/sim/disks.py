"""The disks of all brokers of a simulated cluster: they fail, rot, are exchanged, and may be the end of the process."""

from __future__ import annotations

from errno import EIO, ENOSPC
from typing import NamedTuple

from streamlog.errors import CorruptRecordError
from streamlog.records.batch import read_header, verify_payload
from streamlog.testing import Fault, FaultyDisk, SimulatedDisk
from streamlog.testing.model import Op

Tree = dict[str, "bytes | Tree"]
"""The contents of a directory."""


class Crash(BaseException):
    """The process is dead: no code of it runs any more."""


class Flipped(NamedTuple):
    """A byte that is not what was written."""

    path: str
    seed: int
    position: int


class Disk(FaultyDisk):
    """A broker's disk is the files under its directory."""

    def __init__(self, inner: SimulatedDisk) -> None:
        super().__init__(inner)
        self.files = inner
        self.quiet = False
        self.dead = False
        self.calls_left = -1
        self.strikes = 0

    def _struck(self, op: str, path: str) -> Fault | None:
        if self.quiet:
            return None
        if self.dead:
            raise Crash
        if self.calls_left >= 0:
            self.calls_left -= 1
            if self.calls_left < 0:
                self.dead = True
                raise Crash
        if "/poisoned-" in path:  # the mark that a sync failed can always be written, or nobody knows of it
            return None
        fault = super()._struck(op, path)
        self.calls.clear()
        if fault is not None:
            self.strikes += 1
        return fault

    # -- faults of the files under a directory -------------------------------------------------------

    def break_at(self, directory: str, op: str, nth: int, times: int | None) -> None:
        self.fail(op, EIO, path=f"{directory}/*", nth=nth, times=times)

    def fill(self, directory: str, shorts: list[int]) -> None:
        """No space is left: a write brings so many bytes of it to the disk first."""
        for op, short in zip(("pwrite", "create"), shorts, strict=True):
            self.fail(op, ENOSPC, path=f"{directory}/*", times=None, short=short)

    def heal_under(self, directory: str) -> None:
        for fault in [each for each in self._faults if each.path == f"{directory}/*"]:
            self.heal(fault)

    def flip(self, path: str, seed: int, position: int, bits: int) -> Flipped:
        """Change a byte of a file behind the program's back, on the device too if it is there."""
        number = self.files._find(path)
        node = self.files._model.file(number)
        byte = node.seen[position] ^ bits
        if position < len(node.durable):
            node.durable = bytearray(node.durable)
            node.durable[position] ^= bits
        self.files._do(Op("pwrite", path, number, position, bytes([byte])))
        return Flipped(path, seed, position)

    def is_flipped(self, flipped: Flipped) -> bool:
        """Whether the batch at its place is damaged: the file may be a copy of what it was."""
        number = self.files._find(flipped.path)
        seen = b"" if number < 0 else bytes(self.files._model.file(number).seen)
        at = 0
        try:
            while at <= flipped.position < len(seen):
                header = read_header(seen, at, flipped.seed, flipped.path, at)
                payload = memoryview(seen)[at + header.header_len : at + header.batch_len]
                verify_payload(header, payload, flipped.seed, flipped.path, at)
                at += header.batch_len
        except CorruptRecordError:
            return True
        return False

    def copy(self, directory: str) -> Tree:
        tree: Tree = {}
        for name in self.files.listdir(directory):
            path = f"{directory}/{name}"
            tree[name] = self.copy(path) if self.files.is_dir(path) else self.files.read(path)
        return tree

    def put(self, directory: str, tree: Tree) -> None:
        """Have the directory be what it was when it was copied."""
        if self.files.is_dir(directory):
            self.files.rmtree(directory)
        self.files.makedirs(directory)
        for name, inner in tree.items():
            path = f"{directory}/{name}"
            if isinstance(inner, dict):
                self.put(path, inner)
            else:
                file = self.files.open(path, create=True)
                file.pwrite([inner], 0)
                file.sync()
        self.files.sync_dir(directory)
        self.files.sync_dir(directory.rpartition("/")[0] or "/")

    def exchange(self, directory: str, other: str) -> None:
        aside = f"{directory}-aside"
        for source, target in ((directory, aside), (other, directory), (aside, other)):
            self.files.rename(source, target)
        for path in {directory.rpartition("/")[0] or "/", other.rpartition("/")[0] or "/"}:
            self.files.sync_dir(path)
