"""Protocols for files, locks, threads and time, and `Completion`.

No module outside `runtime/` imports os, time or threading. Each gets an object with one of these protocols instead, so a
test can replace every one of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import wraps
from types import TracebackType
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

from ..errors import ReentrantCallError, StreamlogError
from ..types import Buffer

P = ParamSpec("P")
T = TypeVar("T")
E = TypeVar("E", bound=BaseException)
_LONGEST_CHAIN = 100
logger = logging.getLogger("streamlog.runtime")


class Lock(Protocol):
    """A raw mutual-exclusion lock. An interrupt inside `with lock` cannot leave it held; inside `with Condition` it can."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
    def release(self) -> None: ...
    def locked(self) -> bool: ...
    def __enter__(self) -> bool: ...
    def __exit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...


class Completion(Generic[T]):
    """The result of a call that may finish later: a value or an error.

    It has no lock. One `list.append` both claims and publishes the answer: the first appended entry is the answer, and
    later ones are ignored. So a deadline and an event may race, and after an interrupt it is either answered or not.
    `on_done` appends the callback before it looks for an answer, and an answer is appended before the callbacks are popped,
    so the thread that comes second runs the callback; `list.pop` gives each callback to exactly one thread.

    >>> done = Completion.of(7)
    >>> done.done(), done.result()
    (True, 7)
    """

    __slots__ = ("_answers", "_callbacks")

    work: Work | None = None
    """What it waits for that a thread which blocks on it can do itself."""

    def __init__(self) -> None:
        # Entries are (value, None) or (None, error). A completion that is created done has a tuple, and no callbacks.
        self._answers: list[tuple[T | None, BaseException | None]] | tuple[tuple[T | None, BaseException | None]] = []
        self._callbacks: list[Callable[[Completion[T]], object]] = []

    @classmethod
    def of(cls, value: T) -> Completion[T]:
        """A completion that is done with `value`."""
        completion: Completion[T] = cls.__new__(cls)
        completion._answers = ((value, None),)
        return completion

    @classmethod
    def failed(cls, error: BaseException) -> Completion[T]:
        """A completion that is done with `error`."""
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
            try:
                raise error
            finally:
                del self, error  # the error refers to this frame
        return value  # type: ignore[return-value]

    def complete(self, value: T) -> None:
        """Set the value. Does nothing if it is done already: a deadline and an event may race."""
        self._answer((value, None))

    def fail(self, error: BaseException) -> None:
        """Set the error. Does nothing if it is done already."""
        self._answer((None, without_traceback(error)))

    def _answer(self, answer: tuple[T | None, BaseException | None]) -> None:
        """Append the answer and run the callbacks. A second answer runs them too: an interrupt may have stopped the first."""
        answers = self._answers
        if type(answers) is tuple:
            return
        if not answers:
            answers.append(answer)
        self._run()

    def on_done(self, callback: Callable[[Completion[T]], object]) -> None:
        """Call `callback(self)` when it is done; now if it is done already. An exception of the callback is logged.

        REQUIRES: the callback does not block.
        """
        if type(self._answers) is tuple:
            contained(callback, self)
            return
        self._callbacks.append(callback)
        if self._answers:
            self._run()

    def _run(self) -> None:
        while self._callbacks:
            try:
                callback = self._callbacks.pop(0)
            except IndexError:  # another thread popped the last one
                return
            try:
                contained(callback, self)
            except BaseException:  # an interrupt: the other callbacks still have to run
                self._run()
                raise


class AllDone(Completion[Any]):
    """Done once all of `parts` are, with what `value` returns then; failed with the error of the first of them, in order, that has failed.

    It is its own `work`: that of the parts.
    """

    __slots__ = ("_at", "_parts", "_value", "work")

    def __init__(self, parts: Sequence[Completion[Any]], value: Callable[[], Any] = lambda: None) -> None:
        super().__init__()
        self._parts = parts
        self._value = value
        self.work = self  # that of the parts
        self._at = 0
        """All parts before this one are done. Two threads may both move it, and an interrupt may leave it behind."""
        for part in parts:
            if not part.done():  # most often all are done already; a look at all of them for each would be quadratic
                part.on_done(self._look)
        self._look()

    def _look(self, _: object = None) -> None:
        if self.done():
            return
        parts, at = self._parts, self._at
        while at < len(parts) and parts[at].done():
            at += 1
        self._at = at
        if at == len(parts):
            error = next((part.error() for part in parts if part.error() is not None), None)
            self._answer((self._value(), None) if error is None else (None, error))

    def drive(self) -> bool:
        self._look()
        return any(part.work.drive() for part in self._parts[self._at :] if part.work is not None and not part.done())

    def on_turn(self, gate: Gate) -> None:
        for part in self._parts[self._at :]:
            if part.work is not None and not part.done():
                part.work.on_turn(gate)

    def soon(self) -> None:
        for part in self._parts:
            if part.work is not None:
                part.work.soon()


def answering(call: Callable[P, T]) -> Callable[P, Completion[T]]:
    """`call`, whose value or StreamlogError is the answer of a Completion that is done.

    A ReentrantCallError is raised all the same: nothing was done, and the caller is to make the call later.
    """

    @wraps(call)
    def answer(*args: P.args, **kwargs: P.kwargs) -> Completion[T]:
        try:
            return Completion.of(call(*args, **kwargs))
        except ReentrantCallError:
            raise
        except StreamlogError as error:
            return Completion.failed(error)

    return answer


def failing(call: Callable[P, Completion[T]]) -> Callable[P, Completion[T]]:
    """`call`, which returns a Completion: a StreamlogError that it raises is its answer. As with `answering`."""

    @wraps(call)
    def answer(*args: P.args, **kwargs: P.kwargs) -> Completion[T]:
        try:
            return call(*args, **kwargs)
        except ReentrantCallError:
            raise
        except StreamlogError as error:
            return Completion.failed(error)

    return answer


def without_traceback(error: E) -> E:
    """Remove the tracebacks of `error` and its causes, for an error that is stored; return it.

    A traceback refers to every frame that the error passed through, and those refer to the object that stores the error.
    Files in such a cycle stay open until the cyclic garbage collector runs.
    """
    cause: BaseException | None = error
    for _ in range(_LONGEST_CHAIN):
        if cause is None:
            break
        cause.__traceback__ = None
        cause = cause.__cause__ or cause.__context__
    return error


def contained(callback: Callable[..., object], *args: object) -> None:
    """Call `callback`; log an Exception instead of raising it, since the caller's work is done and other callbacks follow.

    An interrupt (any other BaseException) is raised.
    """
    try:
        callback(*args)
    except Exception:
        logger.exception("a callback raised; the event that it was called for is not affected: %r", callback)


class File(Protocol):
    """An open regular file. Positions and lengths are in bytes. Every failure is an OSError."""

    path: str

    def pread(self, length: int, position: int) -> bytes:
        """Up to `length` bytes from `position`; fewer only at the end of the file."""

    def pwrite(self, buffers: Sequence[Buffer], position: int) -> None:
        """Write all of `buffers`, one after another, from `position`. A short write is continued."""

    def size(self) -> int: ...
    def truncate(self, size: int) -> None: ...
    def sync(self) -> None:
        """`fdatasync`: when it returns, the data and the size are on the device."""

    def map(self, length: int) -> Mapping:
        """Map the first `length` bytes for reading."""

    def close(self) -> None: ...


class Mapping(Protocol):
    """A read-only mapping. It is never closed, only dropped: another thread may be reading from it."""

    def read(self, length: int, position: int) -> bytes:
        """Copy a range. Its pages are populated first, so that a disk error is an OSError and not a SIGBUS."""


class DirectoryLock(Protocol):
    """The lock of a directory: one process at a time may write to it. The kernel releases it when that process ends."""

    @property
    def is_next(self) -> bool:
        """Whether the last `acquire` found no process in line before this one."""

    def acquire(self) -> int | None:
        """Take the lock. Return None on success, otherwise the pid that the holder wrote (0 if it cannot be read, or if
        the lock is free but another process waits for it and comes first)."""

    def enqueue(self) -> None:
        """Take the last place in line, if this lock has none. It is kept until `acquire` succeeds, or `release`."""

    def release(self) -> None:
        """Release the lock, also if a forked child still holds a copy of the descriptor."""

    def abandon(self) -> None:
        """In a forked child: close the descriptor without releasing the lock of the parent."""

    def is_current(self) -> bool:
        """Whether it is held on the file that is at its path now. False if the directory was removed or replaced."""

    def holder(self) -> int | None:
        """The pid that the holder wrote (0 if it cannot be read); None if no process holds the lock.

        The lock is not taken for this: taking it could make a process that starts just now fail to open the directory.
        """


class Disk(Protocol):
    """Files and directories, and the facts about the machine that the log needs."""

    @property
    def filesystem(self) -> object:
        """Identifies the files: two disks over the same files return equal objects."""

    def open(self, path: str, *, create: bool = False, exclusive: bool = False, writable: bool = True) -> File: ...
    def exists(self, path: str) -> bool:
        """Whether a file, directory or link has that name. Raises OSError if that cannot be determined."""

    def listdir(self, path: str) -> list[str]: ...
    def makedirs(self, path: str) -> None: ...
    def rename(self, source: str, target: str) -> None: ...
    def unlink(self, path: str) -> None: ...
    def rmtree(self, path: str) -> None: ...
    def sync_dir(self, path: str) -> None: ...
    def read(self, path: str, limit: int = 1 << 26) -> bytes: ...
    def write_atomic(self, path: str, data: bytes) -> None:
        """Replace `path` by a file that holds `data`: write a temporary file, sync it, rename it, sync the directory."""

    def absolute(self, path: str) -> str:
        """`path` without links or dots. Two paths of the same directory give the same result."""

    def new_temporary_directory(self) -> str: ...
    def lock(self, path: str) -> DirectoryLock:
        """The lock whose lock file is `path`, not taken yet."""

    def boot_id(self) -> str:
        """Identifies the current boot of the machine; empty if the system does not tell it."""

    def is_network_filesystem(self, path: str) -> bool:
        """Whether `path` is on a network file system, whose files other machines may change."""

    def space(self, path: str) -> tuple[int, int]:
        """The bytes of the file system that `path` is on, and those that are free; -1 each if there is no such number."""


class Gate(Protocol):
    """A one-shot event: any thread calls `open`, one thread calls `wait`. Ctrl-C interrupts the wait."""

    def open(self) -> None: ...
    def is_open(self) -> bool: ...
    def wait(self, timeout: float | None = None) -> bool: ...


class Timers(Protocol):
    """Tasks by deadline. A task that is there already keeps the earlier deadline."""

    def at(self, deadline_ms: int, task: Task) -> None: ...
    def cancel(self, task: Task) -> None: ...


class Work(Protocol):
    """Work that answers wait for, and that a thread which would block on one of them does itself: a group commit."""

    def drive(self) -> bool:
        """Do it on this thread, which may take as long as a sync. False if there is none, or another thread does it.

        REQUIRES: the caller holds no lock.
        """

    def on_turn(self, gate: Gate) -> None:
        """Open `gate` when the thread that waits at it is the next to `drive`."""

    def soon(self) -> None:
        """No thread is going to block: have it done in the background, soon."""


class Task(Protocol):
    """Background work: do what is due, return when to call it next (ms, wall clock), or None."""

    def __call__(self, now_ms: int, /) -> int | None: ...
