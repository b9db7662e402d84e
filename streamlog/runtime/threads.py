"""Locks, gates, waiting, threads and clocks.

All waiting is on raw locks: an interrupt inside `with condition` can leave the condition's lock held, inside `with lock`
it cannot.

A signal handler or a finalizer runs at any point of a thread, also while that thread holds a lock of a log, and may call
the log again. This call must not wait: not for a lock that its own thread holds, and not for another thread, which may
wait for such a lock. A lock that knows its owner would detect only the first case. So each thread has a mark, which it
holds around every lock: `with inside(), self._lock:`. A call that finds the mark of its thread held raises
ReentrantCallError before it does anything (`refuse_reentry`); a call that closes something is deferred instead. The mark
is a lock itself, so entering and leaving it is one step each.

A loop under a lock is in a function of its own. From Python 3.12 on, the handler of a `with` does not cover every jump back
of a loop in it: a Ctrl-C that came there left the lock held, and the mark with it, so that the thread could call no log any more.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import weakref
from _thread import RLock, allocate_lock, start_new_thread
from collections.abc import Callable, Collection, Mapping, Sequence
from types import FrameType
from typing import Any, TypeVar

from ..errors import ClosedError, ReentrantCallError
from .api import AllDone, Completion, Lock, Task
from .values import refuse_to_copy

K = TypeVar("K")
T = TypeVar("T")
logger = logging.getLogger("streamlog.runtime")

# How soon background work is tried again that raised.
_RETRY_MS = 1_000
# How long what an interrupt left is waited for: a disk that does not answer for so long has failed.
_SETTLE_S = 30.0


class LongestSleep:
    """The longest that a waiting thread sleeps before it checks its condition again (real seconds).

    Another thread ends every wait, or a deadline that the waiting thread knows. But an interrupt may reach that other thread
    just before it ends the wait, so no thread relies on being woken. Tests set these to infinity: there a missing wake-up is
    a wait without end instead of an unnoticed delay.
    """

    __slots__ = ("data_s", "turn_s", "work_s")

    def __init__(self) -> None:
        self.data_s = 60.0
        """A consumer that waits for an append, a change of its group or topics, `stop` or `close`: there may be 10,000."""
        self.turn_s = 0.05
        """A sender that waits for the thread that writes or syncs, or for free space in the buffer."""
        self.work_s = 1.0
        """A background thread that waits for its next deadline. The wall clock may jump as well."""


longest_sleep = LongestSleep()

get_ident = threading.get_ident
getpid = os.getpid


class SystemClock:
    """The clocks of the machine."""

    __slots__ = ()

    def time_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()


real_monotonic = time.monotonic
time_ns = time.time_ns


def new_lock() -> Lock:
    return allocate_lock()


def was_released_meanwhile(error: RuntimeError) -> bool:
    """Whether this is what a `with lock:` raises at its end if another thread has released the lock: it was given up, see `DiskWatch`."""
    return str(error) == "release unlocked lock"


def new_reentrant_lock() -> Lock:
    """A lock that the thread that holds it may take again."""
    return RLock()  # type: ignore[return-value]


class OwnedLock(RLock):  # type: ignore[misc]
    """A lock whose `with` raises ReentrantCallError in the thread that holds it.

    Looking up `__enter__` checks the owner; acquiring is one step in C, as with every lock, so an interrupt leaves it
    acquired or not. For locks under which a thread never waits for another one: then this check is sufficient.
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
    """`mark` is held whenever this thread may hold a lock of a log. No other thread takes it."""

    def __init__(self) -> None:
        self.mark: Any = RLock()


this_thread = _ThisThread()


def inside() -> Any:
    """The mark of this thread, to be held around a lock; see the module."""
    return this_thread.mark


def is_inside() -> bool:
    """Whether this call runs in the middle of another call of this thread that may hold a lock of a log."""
    owned: bool = this_thread.mark._is_owned()
    return owned


def refuse_reentry() -> None:
    """Raise ReentrantCallError if this call runs in the middle of one that it could have to wait for.

    REQUIRES: the caller has done nothing yet.
    """
    if this_thread.mark._is_owned():
        raise reentrant()


def reentrant() -> ReentrantCallError:
    return ReentrantCallError(
        "This thread is in the middle of a call on a log: a signal handler, a finalizer or a logging handler made another "
        "one, which would have to wait for the first. Nothing was done. Call stop() or close() there, which may be put off, "
        "or set a flag and have the program make the call later."
    )


class RawGate:
    """A one-shot gate on a raw lock: any thread opens it, one thread waits for it.

    Opening it twice is harmless, also if two threads do so at once.
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
            # Not `suppress`: its three calls would lie between an append and the thread that waits for it.
            try:  # noqa: SIM105
                self._lock.release()
            except RuntimeError:  # two threads opened it at once
                pass

    def is_open(self) -> bool:
        return self._open

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is open; whether it is. `timeout` is in real seconds. Ctrl-C interrupts the wait."""
        if self._open:
            return True
        if timeout is None:
            self._lock.acquire()
        elif timeout <= 0 or not self._lock.acquire(True, min(timeout, threading.TIMEOUT_MAX)):
            return self._open
        return True


def wait_for(completion: Completion[Any], timeout: float | None) -> bool:
    """Block until `completion` is done or `timeout` real seconds have passed; whether it is done.

    Work that it waits for and that no other thread does is done on this thread (`Completion.work`). The timeout does not
    interrupt a sync that has begun.
    """
    work = completion.work
    end = None if timeout is None else time.monotonic() + timeout
    gate: RawGate | None = None
    if not completion.done():
        refuse_reentry()
    while not completion.done():
        if work is not None and work.drive():
            continue
        if gate is None or gate.is_open():
            gate = RawGate()
            completion.on_done(gate.open)
            if work is not None:
                work.on_turn(gate)
            continue  # the thread that worked may have looked for the next one just before
        left = longest_sleep.turn_s if end is None else end - time.monotonic()
        if left <= 0:
            return False
        gate.wait(min(left, longest_sleep.turn_s))
    return True


def result_of(completion: Completion[T]) -> T:
    """Block until `completion` is done, however long it takes. Return its value or raise its error."""
    if not completion.done():
        wait_for(completion, None)
    try:
        return completion.result()
    finally:
        del completion  # an error refers to this frame


def results_of(calls: Mapping[K, Completion[T]]) -> dict[K, T]:
    """`result_of` each of these, which are under way together: a bound that each has holds for all of them. Raises the first error."""
    result_of(AllDone(list(calls.values())))
    return {key: call.result() for key, call in calls.items()}


class BackgroundThread:
    """A daemon thread that calls `run_due` whenever a deadline has come or `nudge` was called.

    `run_due(now_ms)` does what is due and returns the next deadline in wall-clock ms, or None. The thread is created idle
    and works after `begin`, so that `open` has its threads before it changes a file: after the main thread has ended,
    Python may refuse to create one. Raises ClosedError then. An exception of `run_due` is logged, and it is called again.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(self, run_due: Task, now_ms: Callable[[], int], name: str) -> None:
        self._run_due = run_due
        self._now_ms = now_ms
        self._name = name
        self._gate = RawGate()
        self._stopping = False
        self._begun = RawGate()
        self.works = 0
        """How often `run_due` was called, and has come back: odd while it is under way."""
        self.wakes_at_ms: int | None = None
        """When it looks at its deadlines next, if nothing wakes it before; None while it works, and where it has none."""
        self.left: Callable[[], object] = lambda: None
        """Called before another thread takes over from one that does not come back."""
        self._thread = new_thread(self._loop, name, daemon=True)
        try:
            start_thread(self._thread)
        except BaseException:  # it may run all the same, and is to end
            self._stopping = True
            self._begun.open()
            raise

    def begin(self) -> None:
        self._begun.open()

    def take_over(self) -> None:
        """`run_due` does not come back: have another thread call it from now on."""
        self.left()
        thread = new_thread(self._loop, self._name, daemon=True)
        self._thread = thread
        start_thread(thread)

    def nudge(self) -> None:
        """Call `run_due` now: there may be an earlier deadline."""
        self._gate.open()

    def _loop(self) -> None:
        self._begun.wait()
        me = threading.current_thread()
        while not self._stopping and self._thread is me:
            self.works |= 1
            self.wakes_at_ms = None
            self._gate = gate = RawGate()  # before `run_due`: a nudge during the call opens this gate
            try:
                deadline = self._run_due(self._now_ms())
            except Exception:  # without its thread, nothing that lingers or waits would end any more
                logger.exception("the background work of %s failed and is tried again", self._name)
                deadline = self._now_ms() + _RETRY_MS
            if self._thread is me:
                self.works += 1
                self.wakes_at_ms = deadline  # who has added an earlier one since then has opened the gate
            wait = longest_sleep.work_s if deadline is None else (deadline - self._now_ms()) / 1000
            gate.wait(max(0.0, min(wait, longest_sleep.work_s)))

    def stop(self, timeout: float = 10.0) -> None:
        self._stopping = True
        self._begun.open()
        self._gate.open()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)


def is_current(thread: threading.Thread) -> bool:
    """Whether this is called on `thread`."""
    return thread.ident == threading.get_ident()


def new_thread(target: Callable[[], None], name: str, *, daemon: bool | None = None) -> threading.Thread:
    """A thread, for `start_thread`. `daemon` as in `threading.Thread`."""
    return threading.Thread(target=target, name=name, daemon=daemon)


def start_thread(thread: threading.Thread) -> None:
    """Start a thread. Ctrl-C interrupts this, and then it may run all the same.

    Another thread, to which Python delivers no signal, calls `Thread.start`: an interrupt in there can leave a lock held
    that the new thread needs, or be lost for "release unlocked lock".

    Raises ClosedError if the interpreter creates no more threads: in Python 3.12, after the main thread has ended.
    """
    started = RawGate()
    errors: list[RuntimeError] = []

    def start() -> None:
        try:
            thread.start()
        except RuntimeError as error:
            errors.append(error)
        finally:
            started.open()

    try:
        start_new_thread(start, ())
        started.wait()
        if errors:
            raise errors[0]
    except RuntimeError as error:
        if "shutdown" not in str(error):
            raise
        raise ClosedError(
            f"The interpreter is shutting down: its main thread has ended, and no new thread ({thread.name}) can be started. "
            f"Open logs and start workers before the main thread ends, or have it wait."
        ) from error
    finally:
        errors.clear()  # an error refers to this frame


class SideTask:
    """What one thread of a `SideBySide` does. `answers` has its error, or None; empty before it has `ended`, or was given up.

    `left`: its thread has come back.
    """

    __slots__ = ("_work", "answers", "ended", "left")

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = [work]
        self.answers: list[BaseException | None] = []
        self.ended = RawGate()
        self.left = RawGate()

    def run(self) -> None:
        try:
            work = self._work.pop()
        except IndexError:  # it was given up before its thread began
            return
        try:
            work()
        except BaseException as error:
            self.answers.append(error)
        else:
            self.answers.append(None)
        finally:
            self.ended.open()
            self.left.open()

    def give_up(self) -> bool:
        """Have it not begin any more; whether it had not begun."""
        try:
            self._work.pop()
        except IndexError:
            return False
        return True

    def end_with(self, error: BaseException) -> None:
        """Wait for it no longer. Its thread, which may never come back, goes on."""
        self.answers.append(error)
        self.ended.open()


def start_beside(work: Callable[[], None]) -> None:
    """Have a thread of its own do this, which no program waits for; none at the exit of the interpreter."""
    try:
        start_new_thread(work, ())
    except RuntimeError as error:
        logger.debug("no thread begins any more: %s", error)


class SideBySide:
    """Does several things at the same time that each wait for a disk. REQUIRES: one thread at a time calls it.

    The threads are its own, so no interrupt reaches them. An interrupt of the caller may leave some that have not ended: the
    next call, of `await_interrupted` too, waits for them first.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(self) -> None:
        self._tasks: list[SideTask] = []

    def run(
        self,
        works: Sequence[Callable[[], object]],
        watched: Callable[[Sequence[SideTask]], object] = lambda tasks: None,
    ) -> list[BaseException | None]:
        """Do all of these; the error of each, when all have ended or were given up. `watched` gets the tasks before they begin.

        Cost: a thread for each, about 50 µs.
        """
        self.await_interrupted()
        tasks = self._tasks = [SideTask(work) for work in works]
        watched(tasks)
        for task in tasks:
            try:
                start_new_thread(task.run, ())
            except RuntimeError:  # at the exit of the interpreter no new thread begins
                task.run()
        for task in tasks:
            while not task.ended.wait(longest_sleep.turn_s):
                pass  # a signal that came just before the wait is looked at only now
        self._tasks = []
        return [task.answers[0] for task in tasks]

    def await_interrupted(self) -> None:
        """Wait until nothing of an interrupted call is under way any more."""
        for task in self._tasks:
            if not task.give_up():
                task.ended.wait(_SETTLE_S)
        self._tasks = []


def is_in_use(objects: Collection[object]) -> bool:
    """Whether a thread is in a method of one of these, or has called one that has not come back."""
    mine = {id(each) for each in objects}
    for frame in list(sys._current_frames().values()):
        at: FrameType | None = frame
        while at is not None:
            if id(at.f_locals.get("self")) in mine:
                return True
            at = at.f_back
    return False


def join_thread(thread: threading.Thread, timeout: float) -> None:
    """Wait up to `timeout` real seconds for a thread to end. Returns at once if it is the calling thread."""
    if thread is not threading.current_thread():
        thread.join(max(0.0, min(timeout, threading.TIMEOUT_MAX)))


def after_fork_in_child(callback: Callable[[], None]) -> None:
    os.register_at_fork(after_in_child=callback)


class _Token:
    """An object that lives as long as its thread."""

    __slots__ = ("__weakref__",)


_local = threading.local()


def current_thread_alive_check(ended: Callable[[], object]) -> Callable[[], bool]:
    """Return a function that says whether the thread that calls this now is still running.

    As long as that function exists, `ended` is called when the thread ends, on that thread; it must not take a lock.
    This does not use `Thread.is_alive`: a Ctrl-C inside it can mark a running thread as ended for good. Instead an object
    in a `threading.local` is collected when its thread ends. When the interpreter ends, that of the main thread is collected among
    the modules, whose names are gone by then: `ended` is not called any more.
    """
    token = getattr(_local, "token", None)
    if token is None:
        token = _local.token = _Token()
    is_finalizing = sys.is_finalizing
    reference = weakref.ref(token, lambda _: None if is_finalizing() else ended())
    return lambda: reference() is not None
