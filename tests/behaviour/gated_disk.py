"""A disk whose syncs, or writes, wait until the test lets them go."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from tests.times import LONG

RECORDS = "*/topics/*.log"
DIRECTORIES = "*/topics/*-[0-9]"


class GatedDisk:
    """A disk over `inner` that holds the syncs of files and directories whose path matches, or the writes, from `hold` to
    `let_go`.

    Counts those of records, and the writes, so that a test can wait for one without sleeping.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.syncs = 0
        self.writes = 0
        self._held = 0
        self._path = ""
        self._closed = False
        self._holds_writes = False
        self._changed = threading.Condition()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def open(self, path: str, **options: Any) -> GatedFile:
        return GatedFile(self, self.inner.open(path, **options))

    def sync_dir(self, path: str) -> None:
        self.syncing(path)
        self.inner.sync_dir(path)

    # -- what a test does ----------------------------------------------------------------------------

    def hold(self, path: str = RECORDS, *, writes: bool = False) -> None:
        with self._changed:
            self._closed, self._path, self._holds_writes = True, path, writes

    def let_go(self) -> None:
        with self._changed:
            self._closed = False
            self._changed.notify_all()

    def until_held(self, count: int = 1) -> None:
        """Wait until so many syncs, or writes, wait here at the same time."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._held >= count, LONG), f"{self._held} of {count} come"

    def until_written(self, writes: int) -> None:
        """Wait until there were `writes` writes to the files whose syncs are counted."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.writes >= writes, LONG), f"{self.writes} of {writes} writes"

    # -- what the files do ---------------------------------------------------------------------------

    def wrote(self, path: str) -> None:
        if fnmatchcase(path, RECORDS):
            with self._changed:
                self.writes += 1
                self._changed.notify_all()

    def syncing(self, path: str) -> None:
        with self._changed:
            self.syncs += fnmatchcase(path, RECORDS)
            self._wait(path, writes=False)

    def writing(self, path: str) -> None:
        with self._changed:
            self._wait(path, writes=True)

    def _wait(self, path: str, *, writes: bool) -> None:
        if self._closed and writes == self._holds_writes and fnmatchcase(path, self._path):
            self._held += 1
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: not self._closed, LONG), "nobody let it go"
            self._held -= 1


class GatedFile:
    def __init__(self, disk: GatedDisk, inner: Any) -> None:
        self._disk = disk
        self._inner = inner
        self.path: str = inner.path

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def pwrite(self, buffers: Sequence[Any], position: int) -> None:
        self._disk.writing(self.path)
        self._inner.pwrite(buffers, position)
        self._disk.wrote(self.path)

    def sync(self) -> None:
        self._disk.syncing(self.path)
        self._inner.sync()
