"""A disk whose Nth call fails, or at whose Nth call the process is killed, and logs on it.

A test of storage fails a call by its number, whatever call it is, to go through all of them. `streamlog.testing.FaultyDisk`
refuses calls by their kind and path.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from streamlog.runtime.disk import OsDisk
from streamlog.storage.recovery import resync

from .conftest import Box

MakeBox = Callable[..., Box]


class Killed(BaseException):
    """The process ends here: nothing after it happens."""


class CountingDisk:
    """`OsDisk`, with every call that can change something or fail counted; the `nth` (from 1) raises `error`.

    `half` has a write leave half of its bytes behind before it fails. After `Killed` every call raises it.
    """

    def __init__(
        self, nth: int = 0, error: BaseException | None = None, *, half: bool = False, once: bool = True
    ) -> None:
        self._disk = OsDisk()
        self.calls: list[str] = []
        self.nth = nth
        self.error = error
        self.half = half
        self.once = once

    def arm(self, nth: int, error: BaseException, *, half: bool = False, once: bool = True) -> None:
        self.calls = []
        self.nth, self.error, self.half, self.once = nth, error, half, once

    def fails(self, what: str) -> bool:
        if self.error is None:
            return False
        self.calls.append(what)
        now = len(self.calls)
        return now == self.nth or (now > self.nth > 0 and (isinstance(self.error, Killed) or not self.once))

    def check(self, what: str) -> None:
        if self.fails(what):
            assert self.error is not None
            raise self.error

    def open(self, path: str, *, create: bool = False, exclusive: bool = False, writable: bool = True) -> Any:
        self.check(f"open {path}")
        return CountingFile(self, self._disk.open(path, create=create, exclusive=exclusive, writable=writable))

    def rename(self, source: str, target: str) -> None:
        self.check(f"rename {source} {target}")
        self._disk.rename(source, target)

    def unlink(self, path: str) -> None:
        self.check(f"unlink {path}")
        self._disk.unlink(path)

    def boot_id(self) -> str:
        return self._disk.boot_id()

    def sync_dir(self, path: str) -> None:
        self.check(f"sync_dir {path}")
        self._disk.sync_dir(path)

    def write_atomic(self, path: str, data: bytes) -> None:
        if self.fails(f"write_atomic {path}"):
            assert self.error is not None
            if self.half:
                with open(path + ".tmp", "wb") as file:
                    file.write(data[: len(data) // 2])
            raise self.error
        self._disk.write_atomic(path, data)

    def listdir(self, path: str) -> list[str]:
        self.check(f"listdir {path}")
        return self._disk.listdir(path)

    def read(self, path: str, limit: int = 1 << 26) -> bytes:
        self.check(f"read {path}")
        return self._disk.read(path, limit)

    def exists(self, path: str) -> bool:
        self.check(f"exists {path}")
        return self._disk.exists(path)

    def makedirs(self, path: str) -> None:
        self._disk.makedirs(path)


class CountingFile:
    def __init__(self, disk: CountingDisk, file: Any) -> None:
        self._disk = disk
        self._file = file
        self.path = file.path

    def pread(self, length: int, position: int) -> bytes:
        self._disk.check(f"pread {self.path}")
        data: bytes = self._file.pread(length, position)
        return data

    def pwrite(self, buffers: Sequence[Any], position: int) -> None:
        if self._disk.fails(f"pwrite {self.path}"):
            assert self._disk.error is not None
            if self._disk.half:
                data = b"".join(buffers)
                self._file.pwrite([data[: len(data) // 2]], position)
            raise self._disk.error
        self._file.pwrite(buffers, position)

    def truncate(self, size: int) -> None:
        self._disk.check(f"truncate {self.path}")
        self._file.truncate(size)

    def sync(self) -> None:
        self._disk.check(f"sync {self.path}")
        self._file.sync()

    def map(self, length: int) -> Any:
        self._disk.check(f"map {self.path}")
        return self._file.map(length)

    def size(self) -> int:
        size: int = self._file.size()
        return size

    def close(self) -> None:
        self._file.close()


def armed(make: MakeBox, **config: Any) -> tuple[Box, CountingDisk]:
    """An empty log on a disk whose calls can be made to fail."""
    b = make(**config)
    b.log.release()
    disk = b.disk = CountingDisk()
    b.open()
    return b, disk


def calls_of(disk: CountingDisk, run: Callable[[], object]) -> int:
    """How many calls of the disk `run` makes."""
    disk.arm(0, Killed())
    run()
    disk.error = None
    return len(disk.calls)


@contextmanager
def interrupted_at(line: int, functions: set[str], package: str = "storage") -> Iterator[list[int]]:
    """Ctrl-C before the `line`th (from 1) line that runs in `functions` of a package."""
    seen = [0]

    def trace(frame: FrameType, event: str, _: object) -> Any:
        code = frame.f_code
        if f"/streamlog/{package}/" not in code.co_filename or code.co_name not in functions:
            return None
        if event == "line":
            seen[0] += 1
            if seen[0] == line:
                raise KeyboardInterrupt
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        yield seen
    finally:
        sys.settrace(previous)


def refuse(disk: CountingDisk, code: int, *starts: str) -> list[str]:
    """Have every call that begins like one of `starts` fail, until the list is cleared."""
    refused = list(starts)
    disk.arm(0, OSError(code, "refused"))
    disk.fails = lambda what: what.startswith(tuple(refused)) if refused else False  # type: ignore[method-assign]
    return refused


def segments_on_counting_disk(make: MakeBox) -> tuple[Box, list[bytes]]:
    """Eight batches, two a segment, on a disk whose calls can be made to fail."""
    b = make(segment_bytes=1500)
    b.log.release()
    b.disk = CountingDisk()
    b.open()
    values = [b"%d" % n * 500 for n in range(8)]
    for value in values:
        b.append(value)
    return b, values


def record_calls(disk: CountingDisk) -> None:
    """Record the calls from now on; none fails."""
    disk.arm(0, OSError(errno.EIO, "injected"))


def calls_named(disk: CountingDisk, word: str) -> list[str]:
    """The file names of the calls of that kind, in order."""
    return [call.rpartition("/")[2] for call in disk.calls if call.startswith(word + " ")]


def fail_next(disk: CountingDisk, word: str, code: int) -> None:
    """Let the next call of that kind fail."""
    real = disk.fails

    def fails(what: str) -> bool:
        if not what.startswith(word + " "):
            return real(what)
        disk.fails = real  # type: ignore[method-assign]
        record_calls(disk)
        disk.error = OSError(code, "injected")
        return True

    disk.fails = fails  # type: ignore[method-assign]


def append_segments(b: Box, segments: int) -> None:
    """Append batches of 700 bytes; with `segment_bytes=1024` each begins a segment."""
    for n in range(segments):
        b.append(b"%d" % n * 700)


def markers_of(b: Box) -> list[resync.Marker]:
    """The markers that failed syncs left in the directory of a log."""
    return [marker for marker in map(resync.marker_of, b.names()) if marker is not None]
