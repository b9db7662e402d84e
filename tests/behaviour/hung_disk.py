"""A disk that does not answer any more, as a dead USB disk or file server: each call waits until the test lets it go."""

from __future__ import annotations

import threading
from typing import Any

from tests.times import FOREVER

FILE_CALLS = frozenset({"pread", "pwrite", "size", "truncate", "sync", "map", "close"})
PATH_CALLS = frozenset(
    {"exists", "listdir", "makedirs", "rename", "unlink", "rmtree", "sync_dir", "read", "write_atomic", "boot_id"}
)


class HungDisk:
    """A disk over `inner`. From `hang` to `let_go`, no call that names a path below one of `hang`'s comes back.

    `held` has what each of the threads waits for that are in such a call.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.held: dict[int, str] = {}
        self._below: list[str] = []
        self._calls: frozenset[str] | None = None
        self._changed = threading.Condition()

    def hang(self, below: object, calls: frozenset[str] | None = None) -> None:
        """Have this directory hang, beside those that do. `calls`: those that do not come back; None: all."""
        with self._changed:
            self._below.append(f"{below}/")
            self._calls = calls

    def let_go(self) -> None:
        with self._changed:
            self._below = []
            self._changed.notify_all()

    def until_held(self, count: int = 1) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.held) >= count, FOREVER), self.held

    def _hangs(self, path: str) -> bool:
        return any(f"{path}/".startswith(below) for below in self._below)

    def call(self, name: str, path: str) -> None:
        if not self._hangs(path) or (self._calls is not None and name not in self._calls):
            return
        me = threading.get_ident()
        with self._changed:
            self.held[me] = f"{name} {path}"
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._hangs(path), FOREVER)
            del self.held[me]

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.inner, name)
        if name not in PATH_CALLS:
            return real

        def call(*args: Any, **options: Any) -> Any:
            self.call(name, args[0] if args else "")
            return real(*args, **options)

        return call

    def open(self, path: str, **options: Any) -> Any:
        self.call("open", path)
        return _Through(self, self.inner.open(path, **options), path, FILE_CALLS)

    def lock(self, path: str) -> Any:
        return _Through(self, self.inner.lock(path), path, frozenset({"is_current", "acquire"}))


class _Through:
    """A file, or a lock, of such a disk."""

    def __init__(self, disk: HungDisk, inner: Any, path: str, calls: frozenset[str]) -> None:
        self._disk, self._inner, self.path, self._calls = disk, inner, path, calls

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._inner, name)
        if name not in self._calls:
            return real

        def call(*args: Any, **options: Any) -> Any:
            self._disk.call(name, self.path)
            return real(*args, **options)

        return call
