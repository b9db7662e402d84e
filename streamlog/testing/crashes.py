"""The states that a crash may leave: images of the file system, made from a trace of operations.

The rules, from mild to harsh:

- After a kill, everything that was written is there; device and page cache are unchanged.
- After a power loss, everything that was synced is there. Of a file's unsynced writes, any sector of 512 bytes may have
  reached the device as some write left it; a sector never mixes two versions. Of a directory's unsynced changes, the first
  few did, as with a journal. Directories are independent of each other.
- Harsh: any of a directory's unsynced changes, and any of the writes to a file, also a later write to a sector without an
  earlier one. No Linux file system behaves exactly like that. A program that survives it does not depend on a journal.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from random import Random
from typing import NamedTuple

from ..runtime.disk_errors import disk_modules
from ..runtime.threads import new_reentrant_lock
from ..runtime.values import refuse_to_copy
from .model import ROOT, SECTOR, DirImage, Entry, FileImage, Image, Model, Op, apply_entry, apply_to, patch, resize

disk_modules.add(__name__)

_NAME = re.compile(r"(\d+)/(kill|kill-half|strict|lax|\d+|harsh-\d+)(?:@([0-9a-f]{8}))?")


class Found(NamedTuple):
    """One state: its name, the files, the number of the boot, and the marks set before."""

    name: str
    image: Image
    boot: int
    marks: tuple[str, ...]


class Trace:
    """The operations on one disk, and the states that a crash at each of them may leave."""

    __reduce_ex__ = refuse_to_copy

    def __init__(self, seed: int, base: Image, boot: int, marks: tuple[str, ...]) -> None:
        self.ops: list[Op] = []
        self._seed = seed
        self._base = base
        self._boot = boot
        self._marks = marks
        self._labels: list[str] = list(marks)
        self._here: _Cursor | None = None
        self._lock = new_reentrant_lock()

    def add(self, op: Op) -> None:
        if op.kind == "mark":
            self._labels.append(op.name)
        self.ops.append(op)

    def marks(self) -> tuple[str, ...]:
        return tuple(self._labels)

    def state(self, name: str) -> Found:
        """The state of that name. Raises ValueError if there is none."""
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(
                f"{name!r} is not the name of a state: give a number of operations and what is left, such as '12/kill', "
                f"'12/strict', '12/lax', '12/7' or '12/harsh-7', as crashes() yields them"
            )
        done, choice, check = int(match[1]), match[2], match[3]
        if done > len(self.ops):
            raise ValueError(f"{name!r} is the state after {done} operations, but this disk has {len(self.ops)}")
        with self._lock:
            here = self._here
            if here is None or here.done > done or choice == "kill-half":
                here = _Cursor(self._base, self._marks)
            self._here = here
            before = None
            while here.done < done:
                before = here.image if here.done == done - 1 else None
                here.step(self.ops[here.done])
            if check is not None and check != here.check():
                raise ValueError(
                    f"{name!r} belongs to another trace: the first {done} operations differ. The program, its input or its "
                    f"seed has changed since; search for the failure again with crashes()"
                )
            if choice == "kill-half":
                if before is None or self.ops[done - 1].kind != "pwrite":
                    raise ValueError(f"{name!r}: operation {done} is not a write, so it cannot be half done")
                return self._half(before, here)
            return self._found(here, choice)

    def crashes(self, random: int, harsh: int, kills: bool, first: int, last: int | None) -> Iterator[Found]:
        """See `SimulatedDisk.crashes`."""
        here = _Cursor(self._base, self._marks)
        end = len(self.ops) if last is None else min(last, len(self.ops))
        before, shown = here.image, None
        while True:
            following = self.ops[here.done].kind if here.done < end else ""
            if here.done >= first and following != "mark" and (here.image, here.marks) != shown:
                if kills:
                    if here.done and self.ops[here.done - 1].kind == "pwrite" and here.done > first:
                        yield self._half(before, here)
                    yield self._found(here, "kill")
                yield self._found(here, "strict")
                if here.unsynced():
                    yield self._found(here, "lax")
                    for number in range(random):
                        yield self._found(here, str(number))
                    for number in range(harsh):
                        yield self._found(here, f"harsh-{number}")
                shown = here.image, here.marks
            if here.done >= end:
                return
            before = here.image
            here.step(self.ops[here.done])

    def _found(self, here: _Cursor, choice: str) -> Found:
        name = f"{here.done}/{choice}@{here.check()}"
        if choice == "kill":
            return Found(name, here.image, self._boot, here.marks)
        survivors = _Survivors(here.image, choice, f"{self._seed}/{here.done}/{choice}")
        return Found(name, survivors.build(), self._boot + 1, here.marks)

    def _half(self, before: Image, here: _Cursor) -> Found:
        """The process was killed during the last write: some of its bytes are there."""
        op = self.ops[here.done - 1]
        rng = Random(f"{self._seed}/{here.done}/half")
        model = Model(before)
        model.apply(op._replace(data=op.data[: rng.randrange(len(op.data))]))
        return Found(f"{here.done}/kill-half@{here.check()}", model.image(), self._boot, here.marks)


class _Cursor:
    """Replays a trace: the state after each operation."""

    def __init__(self, base: Image, marks: tuple[str, ...]) -> None:
        self._model = Model(base)
        self.image = base
        self.done = 0
        self.marks = marks
        self._check = 0
        self._unsynced_files = {number for number, file in base.files.items() if file.pending}
        self._unsynced_dirs = {number for number, directory in base.dirs.items() if directory.pending}

    def step(self, op: Op) -> None:
        self.done += 1
        # Without names and contents, which contain random ids: so the checksum repeats in every run of the same program.
        text = f"{op.kind} {op.node} {op.position} {len(op.data)} {op.child}"
        self._check = zlib.crc32(text.encode(), self._check)
        if op.kind == "mark":
            self.marks = (*self.marks, op.name)
            return
        self._model.apply(op)
        self.image = self._model.image()
        if op.kind in ("pwrite", "truncate"):
            self._unsynced_files.add(op.node)
        elif op.kind in ("sync", "failed_sync"):
            self._unsynced_files.discard(op.node)
        elif op.kind == "sync_dir":
            self._unsynced_dirs.discard(op.node)
        else:
            self._unsynced_dirs.add(op.node)
            if op.kind == "rename":
                self._unsynced_dirs.add(op.into)

    def check(self) -> str:
        return f"{self._check:08x}"

    def unsynced(self) -> bool:
        return bool(self._unsynced_files or self._unsynced_dirs)


class _Survivors:
    """What one power loss leaves. Only files reachable from the root are kept."""

    def __init__(self, image: Image, choice: str, seed: str) -> None:
        self._image = image
        self._choice = choice
        self._harsh = choice.startswith("harsh")
        self._rng = Random(seed) if choice not in ("strict", "lax") else Random(0)
        self._files: dict[int, FileImage] = {}
        self._dirs: dict[int, DirImage] = {}

    def build(self) -> Image:
        self._directory(ROOT)
        return Image(self._files, self._dirs, self._image.next_node)

    def _directory(self, number: int) -> None:
        old = self._image.dirs[number]
        entries = self._entries(old) if old.pending else old.durable
        self._dirs[number] = old if entries is old.seen and not old.pending else DirImage(entries, (), entries)
        files, dirs = self._image.files, self._image.dirs
        for child in entries.values():
            if child in dirs:
                if child not in self._dirs:  # after a rename between directories a directory may have two names
                    self._directory(child)
            elif child not in self._files:
                file = files[child]
                if file.pending:
                    data = self._contents(file)
                    file = FileImage(data, (), data)
                elif file.durable is not file.seen:
                    file = FileImage(file.durable, (), file.durable)
                self._files[child] = file

    def _entries(self, old: DirImage) -> dict[str, int]:
        if self._choice == "strict":
            return old.durable
        if self._choice == "lax":
            return old.seen
        entries = dict(old.durable)
        if self._harsh:
            chosen: list[Entry] = [entry for entry in old.pending if self._rng.random() < 0.5]
        else:
            chosen = list(old.pending[: self._rng.randint(0, len(old.pending))])
        for entry in chosen:
            apply_entry(entries, entry)
        return entries

    def _contents(self, file: FileImage) -> bytes:
        if self._choice == "strict":
            return file.durable
        data = bytearray(file.durable)
        rng, pending = self._rng, file.pending
        kind = rng.random()
        if self._choice == "lax" or kind < 0.15:
            for op in pending:
                apply_to(data, op)
        elif kind < 0.5:
            done = rng.randrange(len(pending))
            for op in pending[:done]:
                apply_to(data, op)
            if pending[done].kind == "pwrite":
                _tear(data, pending[done], rng)
        elif kind < 0.95:
            if kind < 0.9:
                self._scatter(data, pending)
            if kind > 0.8:  # the size reached the device before some or all of the data
                resize(data, max(len(data), rng.choice(_sizes(file))))
        return bytes(data)

    def _scatter(self, data: bytearray, pending: tuple[Op, ...]) -> None:
        """Each sector, independently of the others, as it was after some number of the writes."""
        rng = self._rng
        versions: dict[int, int] = {}
        for number, op in enumerate(pending):
            if op.kind == "truncate":
                if rng.random() < 0.5:
                    resize(data, op.position)
                continue
            view = memoryview(op.data)
            for at, piece in _sectors(op):
                if self._harsh:
                    survives = rng.random() < 0.5
                else:
                    version = versions.get(at)
                    if version is None:
                        version = versions[at] = rng.randint(number, len(pending))
                    survives = number < version
                if survives:
                    start = max(op.position, at * SECTOR)
                    patch(data, start, view[piece])


def _sectors(op: Op) -> Iterator[tuple[int, slice]]:
    """The numbers of the sectors that a write changes, each with the slice of its bytes that goes there."""
    end = op.position + len(op.data)
    for sector in range(op.position // SECTOR, (end - 1) // SECTOR + 1):
        start = max(op.position, sector * SECTOR) - op.position
        yield sector, slice(start, min(end, (sector + 1) * SECTOR) - op.position)


def _tear(data: bytearray, op: Op, rng: Random) -> None:
    """Apply some sectors of one write: the first few, or any."""
    sectors = list(_sectors(op))
    kept = sectors[: rng.randint(0, len(sectors))] if rng.random() < 0.5 else [s for s in sectors if rng.random() < 0.5]
    view = memoryview(op.data)
    for _, piece in kept:
        patch(data, op.position + piece.start, view[piece])


def _sizes(file: FileImage) -> list[int]:
    """The sizes that the file had since its last sync."""
    size = len(file.durable)
    sizes = [size]
    for op in file.pending:
        size = op.position if op.kind == "truncate" else max(size, op.position + len(op.data))
        sizes.append(size)
    return sizes
