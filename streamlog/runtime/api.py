"""The protocols through which everything above meets the world, and `Completion`.

Whoever needs a file, a lock, a thread or the time is handed one of these. Nothing above `runtime/`
imports os, time or threading, so a test can replace each of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from ..types import Buffer

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)
_LONGEST_CHAIN = 100
logger = logging.getLogger("streamlog.runtime")


class Lock(Protocol):
    """A raw mutual-exclusion lock: safe to interrupt in a `with`, which a Condition is not."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
    def release(self) -> None: ...
    def locked(self) -> bool: ...
    def __enter__(self) -> bool: ...
    def __exit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...


class Completion(Generic[T]):
    """The answer of a service call: there already, or promised.

    It owns no lock. An answer is claimed and made known in one step: the first that is appended is the answer, whatever
    another thread appends after it, so a deadline and an event may race, and an interrupt leaves it answered or not. A
    callback is appended before the answer is looked at, and the answer before the callbacks are popped, so whichever side
    comes second runs it; `list.pop` hands each callback to exactly one thread.

    >>> done = Completion.of(7)
    >>> done.done(), done.result()
    (True, 7)
    """

    __slots__ = ("_answers", "_callbacks")

    def __init__(self) -> None:
        # A value and no error, or an error; a completion that was made done has a tuple, and no callbacks.
        self._answers: list[tuple[T | None, BaseException | None]] | tuple[tuple[T | None, BaseException | None]] = []
        self._callbacks: list[Callable[[Completion[T]], object]] = []

    @classmethod
    def of(cls, value: T) -> Completion[T]:
        """A completion that is done already."""
        completion: Completion[T] = cls.__new__(cls)
        completion._answers = ((value, None),)
        return completion

    @classmethod
    def failed(cls, error: BaseException) -> Completion[T]:
        """A completion that has failed already."""
        completion: Completion[T] = cls.__new__(cls)
        completion._answers = ((None, without_traceback(error)),)
        return completion

    def done(self) -> bool:
        return bool(self._answers)

    def error(self) -> BaseException | None:
        return self._answers[0][1] if self._answers else None

    def result(self) -> T:
        """The value, or the error raised. REQUIRES: `done()`."""
        assert self._answers, "a completion was read before it was done"
        value, error = self._answers[0]
        if error is not None:
            raise error
        return value  # type: ignore[return-value]

    def complete(self, value: T) -> None:
        """Answer it, unless it is answered already: a deadline and an event may race."""
        self._answer((value, None))

    def fail(self, error: BaseException) -> None:
        """Fail it, unless it is answered already."""
        self._answer((None, without_traceback(error)))

    def _answer(self, answer: tuple[T | None, BaseException | None]) -> None:
        """The claim is the append. Callbacks are run by a second answer too: an interrupt may have kept the first from it."""
        answers = self._answers
        if type(answers) is tuple:
            return
        if not answers:
            answers.append(answer)
        self._run()

    def on_done(self, callback: Callable[[Completion[T]], object]) -> None:
        """Call `callback(self)` once it is done, now if it is. REQUIRES: it does not block. What it raises is logged."""
        if type(self._answers) is tuple:
            contained(callback, self)
            return
        self._callbacks.append(callback)
        if self._answers:
            self._run()

    def drive(self) -> bool:
        """Do on this thread what the answer waits for. False if that is nothing, or another thread's work.

        Only who would block otherwise calls it, and it may take as long as a sync. REQUIRES: no lock.
        """
        return False

    def on_turn(self, wake: Callable[[Completion[T]], object]) -> None:
        """Call `wake` when it is done or when it is for the waiting thread to `drive` it."""
        self.on_done(wake)

    def unattended(self) -> None:
        """Nobody is going to block on it: have it seen to in the background, soon."""

    def _run(self) -> None:
        while self._callbacks:
            try:
                callback = self._callbacks.pop(0)
            except IndexError:  # another thread took the last one
                return
            try:
                contained(callback, self)
            except BaseException:  # an interrupt: the other callbacks are called all the same
                self._run()
                raise


def without_traceback(error: E) -> E:
    """An error that is kept. With their tracebacks it and its causes would keep every frame that they came through, which
    refer to what keeps the error: a cycle, and the files in it stay open until the garbage collector comes by."""
    cause: BaseException | None = error
    for _ in range(_LONGEST_CHAIN):
        if cause is None:
            break
        cause.__traceback__ = None
        cause = cause.__cause__ or cause.__context__
    return error


def contained(callback: Callable[..., object], *args: object) -> None:
    """Call it. What it raises is logged, and goes no further: the caller's work is done, and others wait to be called.

    An interrupt, which may come in it as anywhere, goes on to the caller.
    """
    try:
        callback(*args)
    except Exception:
        logger.exception("a callback raised, which changes nothing for what it was told of: %r", callback)


class File(Protocol):
    """An open regular file. Positions and lengths are bytes; every failure is an OSError."""

    path: str

    def pread(self, length: int, position: int) -> bytes:
        """Up to `length` bytes from `position`; fewer only at the end of the file."""

    def pwrite(self, buffers: Sequence[Buffer], position: int) -> None:
        """Write all of `buffers`, one after another, from `position`; short writes are continued."""

    def size(self) -> int: ...
    def truncate(self, size: int) -> None: ...
    def sync(self) -> None:
        """`fdatasync`: data, and the size, are on the device."""

    def map(self, length: int) -> Mapping:
        """Map the first `length` bytes for reading."""

    def close(self) -> None: ...


class Mapping(Protocol):
    """A read-only mapping. It is dropped, never closed, while a reader may be in it."""

    def read(self, length: int, position: int) -> bytes:
        """Copy out a range, populated first so that a disk error is an OSError and no signal."""


class DirectoryLock(Protocol):
    """The right to write to a directory: one holder at a time, gone with the process that holds it."""

    def acquire(self) -> int | None:
        """Take the lock; None on success, else the pid its holder wrote (0 if unreadable)."""

    def release(self) -> None:
        """Give the lock up, also if a forked child still holds a copy of the descriptor."""

    def abandon(self) -> None:
        """In a forked child: let go of the descriptor; the lock stays the parent's."""

    def is_current(self) -> bool:
        """Whether it is held, and on the file that lies at its path now: nobody removed or replaced the directory."""

    def holder(self) -> int | None:
        """The pid of the process that holds it, as that process calls itself (0 if unreadable); None if nobody does.

        Found out without taking it: that could be in the way of one that starts.
        """


class Disk(Protocol):
    """The one door to files and directories, and to what the machine says about them."""

    @property
    def filesystem(self) -> object:
        """Whose files these are, compared by equality: two disks over the same files have the same one."""

    def open(self, path: str, *, create: bool = False, exclusive: bool = False, writable: bool = True) -> File: ...
    def exists(self, path: str) -> bool:
        """Whether that name is taken, also by a link. What cannot be looked at is an OSError: it is not absent."""

    def listdir(self, path: str) -> list[str]: ...
    def makedirs(self, path: str) -> None: ...
    def rename(self, source: str, target: str) -> None: ...
    def unlink(self, path: str) -> None: ...
    def rmtree(self, path: str) -> None: ...
    def sync_dir(self, path: str) -> None: ...
    def read(self, path: str, limit: int = 1 << 26) -> bytes: ...
    def write_atomic(self, path: str, data: bytes) -> None:
        """Replace `path` by a file that holds `data`: write beside it, sync, rename, sync the directory."""

    def absolute(self, path: str) -> str:
        """`path` without links or dots: what tells whether two opens mean the same directory."""

    def new_temporary_directory(self) -> str: ...
    def lock(self, path: str) -> DirectoryLock:
        """The lock that the file `path` stands for, not taken yet."""

    def boot_id(self) -> str:
        """What tells one boot of the machine from another; empty where that cannot be told."""

    def is_network_filesystem(self, path: str) -> bool:
        """Whether `path` is on a file system whose locks and caches other machines share."""


class Gate(Protocol):
    """A one-shot: `open()` from any thread, `wait` in one. A raw lock, so Ctrl-C is honoured in it."""

    def open(self) -> None: ...
    def is_open(self) -> bool: ...
    def wait(self, timeout: float | None = None) -> bool: ...


class Task(Protocol):
    """Background work: do what is due, return when to be called next (ms, wall clock), or None."""

    def __call__(self, now_ms: int, /) -> int | None: ...


class SteppedClock(Protocol):
    """A clock that a test moves: it runs the log's due work itself, so no thread is started."""

    def attach(self, scheduler: Any) -> None: ...
    def detach(self, scheduler: Any) -> None: ...
