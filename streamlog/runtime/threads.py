"""Locks, gates, the background thread, and what happens after a fork.

Waiting is done on raw locks only: an interrupt inside `with Condition` can leave it locked, inside
`with Lock` it cannot.

Signal handlers and finalizers run in the middle of anything, on the thread that holds a lock of a log, and may call the
log again. That call must not wait: neither for a lock of the thread's own, nor for another thread, which may wait for
such a lock itself. A lock that knows its owner would see only the first. So each thread has a mark, held around whatever
holds a lock: `with inside(), self._lock:`. A call that finds it held raises ReentrantCallError before it has done anything
(`refuse_reentry`), or, to close something, is put off. Entering and leaving it is one step each, as with a lock.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from _thread import RLock, allocate_lock
from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import ClosedError, ReentrantCallError
from .api import Completion, Lock, Task
from .values import refuse_to_copy

T = TypeVar("T")


class LookAgain:
    """How long a waiter sleeps at most before it looks for itself, whatever it was promised (real seconds).

    Every wait has somebody who ends it. But an interrupt may come to that one just before it does, so nobody
    sleeps for good on the word of another thread. Tests set them to infinity: there a wake-up that is missing is
    a wait without end, and not a delay that nobody notices.
    """

    __slots__ = ("data_s", "turn_s", "work_s")

    def __init__(self) -> None:
        self.data_s = 0.5
        """A consumer, for an append, its group, its topics, `stop` and `close`."""
        self.turn_s = 0.05
        """A sender, for the thread that writes or syncs, or for room in the buffer."""
        self.work_s = 1.0
        """A background thread, for its next deadline: the wall clock may jump as well."""


look_again = LookAgain()

get_ident = threading.get_ident
getpid = os.getpid


class SystemClock:
    """The machine's own clocks."""

    __slots__ = ()

    def time_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()


real_monotonic = time.monotonic
time_ns = time.time_ns


def new_lock() -> Lock:
    return allocate_lock()


def new_reentrant_lock() -> Lock:
    """For what may run in the middle of itself: the thread that holds it may take it again."""
    return RLock()  # type: ignore[return-value]


class OwnedLock(RLock):  # type: ignore[misc]
    """A lock that raises ReentrantCallError in a `with` of the thread that holds it.

    The look at the owner comes with looking up `__enter__`; taking it is one step in C, as of every lock: an interrupt leaves
    it taken or not. For locks under which a thread waits for no other one, so that this is all that has to be known.
    """

    __slots__ = ()

    @property
    def __enter__(self) -> Callable[[], bool]:  # type: ignore[override]
        if self._is_owned():  # type: ignore[attr-defined]
            raise reentrant()
        taken: Callable[[], bool] = self.acquire
        return taken


def new_owned_lock() -> Lock:
    return OwnedLock()  # type: ignore[return-value]


class _ThisThread(threading.local):
    """`mark` is held where this thread may hold a lock of a log. Only the thread itself ever takes it."""

    def __init__(self) -> None:
        self.mark: Any = RLock()


this_thread = _ThisThread()


def inside() -> Any:
    """What to hold around a lock; see the module."""
    return this_thread.mark


def is_inside() -> bool:
    """Whether the caller interrupted a call of this thread that may hold a lock of a log."""
    owned: bool = this_thread.mark._is_owned()
    return owned


def refuse_reentry() -> None:
    """Raise ReentrantCallError if the caller interrupted a call that it would have to wait for. REQUIRES: nothing was done."""
    if this_thread.mark._is_owned():
        raise reentrant()


def reentrant() -> ReentrantCallError:
    return ReentrantCallError(
        "This thread is in the middle of a call on a log: a signal handler, a finalizer or a logging handler made another "
        "one, which would have to wait for the first. Nothing was done. Call stop() or close() there, which may be put off, "
        "or leave word for the program to make the call later."
    )


class RawGate:
    """A one-shot gate on a raw lock: opened from any thread, waited for in one.

    Opening twice is harmless, also when two threads do it at once.
    """

    __slots__ = ("_lock", "_open")
    __reduce_ex__ = refuse_to_copy

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._lock.acquire()
        self._open = False

    def open(self, _: object = None) -> None:
        if not self._open:
            self._open = True
            # Not by `suppress`: that is three calls more between an append and the thread that waits for it.
            try:  # noqa: SIM105
                self._lock.release()
            except RuntimeError:  # two threads opened it at once: it is open, as was asked
                pass

    def is_open(self) -> bool:
        return self._open

    def wait(self, timeout: float | None = None) -> bool:
        """True once open. Ctrl-C is honoured; `timeout` is real seconds."""
        if self._open:
            return True
        if timeout is None:
            self._lock.acquire()
        elif timeout <= 0 or not self._lock.acquire(True, min(timeout, threading.TIMEOUT_MAX)):
            return self._open
        return True


def wait_for(completion: Completion[Any], timeout: float | None) -> bool:
    """Block until `completion` is done or `timeout` real seconds have passed; whether it is done.

    If what it waits for is nobody's work, it is done here: a sync that has begun is not cut short.
    """
    end = None if timeout is None else time.monotonic() + timeout
    gate: RawGate | None = None
    if not completion.done():
        refuse_reentry()
    while not completion.done():
        if completion.drive():
            continue
        if gate is None or gate.is_open():
            gate = RawGate()
            completion.on_turn(gate.open)
            continue  # whoever was at it may have looked for the next one just before
        left = look_again.turn_s if end is None else end - time.monotonic()
        if left <= 0:
            return False
        gate.wait(min(left, look_again.turn_s))
    return True


def result_of(completion: Completion[T]) -> T:
    """Block until `completion` is done, however long; its value, or its error raised."""
    if not completion.done():
        wait_for(completion, None)
    return completion.result()


class BackgroundThread:
    """A thin daemon thread around `run_due`: it sleeps until the next deadline or a nudge.

    `run_due(now_ms)` does what is due and returns the next deadline in wall-clock ms, or None. The thread is
    made idle and works from `begin` on, so that an `open` has its threads before it touches a file: once the
    main thread has ended there may be none to have. Raises ClosedError then.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(self, run_due: Task, now_ms: Callable[[], int], name: str) -> None:
        self._run_due = run_due
        self._now_ms = now_ms
        self._gate = RawGate()
        self._stopping = False
        self._begun = RawGate()
        self._thread = start_thread(self._loop, name, daemon=True)

    def begin(self) -> None:
        self._begun.open()

    def nudge(self) -> None:
        """An earlier deadline may have come up; look again."""
        self._gate.open()

    def _loop(self) -> None:
        self._begun.wait()
        while not self._stopping:
            self._gate = gate = RawGate()  # before the look: a nudge during it opens this one
            deadline = self._run_due(self._now_ms())
            wait = look_again.work_s if deadline is None else (deadline - self._now_ms()) / 1000
            gate.wait(max(0.0, min(wait, look_again.work_s)))

    def stop(self, timeout: float = 10.0) -> None:
        self._stopping = True
        self._begun.open()
        self._gate.open()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)


def start_thread(target: Callable[[], None], name: str, *, daemon: bool | None = None) -> threading.Thread:
    """A running thread; without `daemon` it outlives the main thread if the thread that makes it does, as Python's do.

    Raises ClosedError where the interpreter makes no more threads: in Python 3.12, once the main thread has ended.
    """
    thread = threading.Thread(target=target, name=name, daemon=daemon)
    try:
        thread.start()
    except RuntimeError as error:
        if "shutdown" not in str(error):
            raise
        raise ClosedError(
            f"The interpreter is shutting down: its main thread has ended, and no new thread ({name}) can be made. Open logs, "
            f"and start workers, before the main thread ends, or have it wait."
        ) from error
    return thread


def join_thread(thread: threading.Thread, timeout: float) -> None:
    """Wait for a thread to end, for `timeout` real seconds at most, however many; not for the thread that asks."""
    if thread is not threading.current_thread():
        thread.join(max(0.0, min(timeout, threading.TIMEOUT_MAX)))


def after_fork_in_child(callback: Callable[[], None]) -> None:
    os.register_at_fork(after_in_child=callback)


class _Token:
    """Lives as long as its thread."""

    __slots__ = ("__weakref__",)


_local = threading.local()


def current_thread_alive_check(ended: Callable[[], object]) -> Callable[[], bool]:
    """A function that tells whether the thread calling now is still running.

    As long as the function is there, `ended` is called when the thread ends, as its last act; it may take no lock.
    Not `Thread.is_alive`: a Ctrl-C inside that one can leave a living thread marked as ended for good.
    What a thread keeps in a `threading.local` goes when it does.
    """
    token = getattr(_local, "token", None)
    if token is None:
        token = _local.token = _Token()
    reference = weakref.ref(token, lambda _: ended())
    return lambda: reference() is not None
