"""Simulated threads and simulated time: the threads of the library take turns on one thread, in an order that a seed chooses.

A background thread of the library is an entry here: when it is due next, and what it does then. Whenever a call of the program
would wait, at a gate, the others have their turns instead, until the gate is open; when none of them is due, time goes on to
the next deadline. So nothing ever waits in real time, and a wait that nothing would end is found at once.

Real time, which timeouts and the lag of followers are measured in, is simulated. The log's own clock, a ManualClock, goes on
with it; `ManualClock.jump` moves it alone.
"""

from __future__ import annotations

import gc
import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from math import inf
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from streamlog.broker import opening, real_timers
from streamlog.replication.fetcher import Following
from streamlog.replication.turns import LEFT
from streamlog.runtime import threads
from streamlog.runtime.threads import RawGate, is_inside, longest_sleep
from streamlog.testing import ManualClock
from tests.stress.machine.repeatable import OrderedWeakSet

# By how much real time goes on whenever it is looked at.
TICK_S = 0.0002
# A call that waits for longer than this (simulated) waits for ever.
HANGS_S = 400.0
_RETRY_S = 1.0
# So many turns without a step of time would be taken for ever.
_MOST_TURNS = 5_000


class Hang(BaseException):
    """A call waits for what never comes, or does not end. No code that goes on after an error takes it for one."""


@contextmanager
def bounded(seconds: int) -> Iterator[None]:
    """Raise Hang in the middle of whatever is still under way after so many seconds of the processor's time, or if it waits for ten
    times as long. On the main thread alone. By real time alone, a seed seemed to hang on a machine that did much else.
    """

    def end(*_: object) -> None:
        raise Hang(f"it has not come to an end in {seconds} s")

    before = signal.signal(signal.SIGALRM, end), signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(10 * seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGALRM, before[0])
        signal.signal(signal.SIGPROF, before[1])


class Thread:
    """A background thread of the library; it has the interface of `BackgroundThread`."""

    def __init__(self, schedule: Schedule, run_due: Any, now_ms: Callable[[], int], name: str) -> None:
        self._schedule = schedule
        self._run_due = run_due
        self._now_ms = now_ms
        self.name = name
        self.begun = self.running = False
        self.is_stopped = False
        self.due_s: float = -inf
        self.wakes_at_ms: int | None = None
        """It is woken for every deadline: when it looks next is the schedule's to say."""
        self.held_until_s: float = -inf
        """It gets no turn before this time: it is slow, or stuck."""

    def begin(self) -> None:
        self.begun = True

    def nudge(self) -> None:
        self.due_s = -inf

    def stop(self, timeout: float = 10.0) -> None:
        self.is_stopped = True
        self._schedule.threads = [each for each in self._schedule.threads if each is not self]

    @property
    def next_s(self) -> float:
        """When it can have its next turn."""
        return max(self.due_s, self.held_until_s) if self.begun and not self.running else inf

    def run(self) -> None:
        self.running, self.due_s = True, inf  # a nudge meanwhile is not lost
        try:
            deadline_ms = self._run_due(self._now_ms())
        except Exception as error:
            self._schedule.failures.append(f"{self.name}: {type(error).__name__}: {error}")
            self.due_s = min(self.due_s, self._schedule.now_s + _RETRY_S)
        else:
            if deadline_ms is not None:
                self.due_s = min(self.due_s, self._schedule.now_s + max(0.0, (deadline_ms - self._now_ms()) / 1000))
        finally:
            self.running = False


class Schedule:
    """See the module. `rng` is replaced at each step of a simulation, so that steps can be left out."""

    def __init__(self, seed: int, start_ms: int) -> None:
        self.rng = random.Random(f"schedule {seed}")
        self.ids = random.Random(f"ids {seed}")
        self.now_s = 1_000.0
        self.clock = ManualClock(start_ms=start_ms)
        self.threads: list[Thread] = []
        self.failures: list[str] = []
        """What background threads raised; the library logs it and goes on."""
        self.between: Callable[[], object] = lambda: None
        """Called when a call waits: another thread of the program may do something meanwhile."""
        self.check: Callable[[], object] = lambda: None
        """Called again and again while a call waits: it raises if the process is dead."""
        self._advancing = False
        self._owed_s = 0.0

    def monotonic(self) -> float:
        self.now_s += TICK_S
        return self.now_s

    @property
    def clock_catches_up_to_s(self) -> float:
        """What the log's monotonic clock will show as soon as it can go on: it cannot while a call waits under a lock."""
        return self.clock.monotonic() + self._owed_s

    def new_process(self) -> None:
        """Nothing of the last process runs any more."""
        self.threads = []
        self.clock = ManualClock(start_ms=self.clock.time_ms())
        self._advancing, self._owed_s = False, 0.0

    def follower(self, path: str) -> Thread | None:
        """The thread that fetches for the broker in this directory."""
        return next((thread for thread in self.threads if thread.name == f"streamlog-replica {path}"), None)

    def hold(self, path: str, seconds: float) -> None:
        """Have the follower of the broker in this directory get no turn for a time."""
        thread = self.follower(path)
        if thread is not None:
            thread.held_until_s = self.now_s + seconds

    def is_held(self, path: str) -> bool:
        thread = self.follower(path)
        return thread is not None and thread.held_until_s > self.now_s

    # -- turns ---------------------------------------------------------------------------------------

    def turn(self) -> bool:
        """Give one thread that is due a turn; False if none is."""
        due = [thread for thread in self.threads if thread.next_s <= self.now_s]
        if not due:
            return False
        self.rng.choice(due).run()
        return True

    def turns(self, most: int) -> None:
        for _ in range(most):
            if not self.turn():
                return

    def elapse(self, seconds: float) -> None:
        """Let time go by, and each thread have its turns when they are due."""
        end = self.now_s + seconds
        while True:
            self._run_what_is_due()
            if self.now_s >= end:
                return
            self._move_to(min(end, self._next_s()))

    def _run_what_is_due(self) -> None:
        for _ in range(_MOST_TURNS):
            if not self.turn():
                return
        raise Hang(f"{[thread.name for thread in self.threads if thread.next_s <= self.now_s]} never come to an end")

    def _next_s(self) -> float:
        return min((thread.next_s for thread in self.threads), default=inf)

    def _move_to(self, at_s: float) -> None:
        step = max(0.0, at_s - self.now_s)
        self.now_s += step
        self._owed_s += step
        if self._advancing or is_inside():  # a call waits in the middle of the log's own work, or under a lock
            return
        self._advancing = True
        try:
            owed, self._owed_s = self._owed_s, 0.0
            self.clock.advance(owed)
        finally:
            self._advancing = False

    def _clock_next_s(self) -> float:
        """When the log's own clock has something to do, in real time: it goes on with that."""
        deadlines = [each.next_deadline_ms() for each in self.clock._schedulers]
        left = [max(0, each - self.clock.time_ms()) / 1000 for each in deadlines if each is not None]
        return self.now_s + min(left, default=inf) if not (self._advancing or is_inside()) else inf

    def wait(self, gate: Any, timeout: float | None = None) -> bool:
        """See `RawGate.wait`."""
        began = self.now_s
        end = inf if timeout is None else began + timeout
        if not gate.is_open():
            self.between()
        while not gate.is_open():
            self.check()
            if self.now_s >= end:
                return False
            if not is_inside() and self.turn():  # where it waits under a lock, the others might wait for that lock
                continue
            at_s = min(end, self._next_s(), self._clock_next_s())
            if at_s == inf or self.now_s - began > HANGS_S:
                raise Hang("a call waits, and nothing will wake it")
            self._move_to(max(at_s, self.now_s + TICK_S))
        while (
            self.rng.random() < 0.2 and self.turn()
        ):  # it is open, and the thread that waits at it comes a little later
            pass
        return True

    # -- in place of the library's -------------------------------------------------------------------

    def _thread(self, run_due: Any, now_ms: Callable[[], int], name: str) -> Thread:
        if isinstance(run_due, partial) and run_due.args:  # of one broker: the path of its directory
            name = f"{name} {run_due.args[0]}"
        thread = Thread(self, run_due, now_ms, name)
        self.threads.append(thread)
        return thread

    @contextmanager
    def playing(self) -> Iterator[None]:
        """The library's threads, time and ids are those of this schedule."""
        with ExitStack() as stack:
            stack.enter_context(patch("os.urandom", self.ids.randbytes))
            stack.enter_context(patch("weakref.WeakSet", OrderedWeakSet))
            for module in (opening, real_timers):
                stack.enter_context(patch.object(module, "BackgroundThread", self._thread))
            stack.enter_context(patch.object(RawGate, "wait", lambda gate, timeout=None: self.wait(gate, timeout)))
            take = Following.take

            def take_turn(following: Any, leader: Any, leader_epoch: int) -> int:
                """A sender takes a follower's turn: not of one that is held, and now and then its thread is faster."""
                path = following.replica.log.directory.partition("/topics/")[0]
                is_left = self.is_held(path) or self.rng.random() < 0.5
                return LEFT if is_left else take(following, leader, leader_epoch)

            stack.enter_context(patch.object(Following, "take", take_turn))
            for name, module in sorted(sys.modules.items()):
                if name.startswith("streamlog.") and hasattr(module, "real_monotonic"):
                    stack.enter_context(patch.object(module, "real_monotonic", self.monotonic))
            time = SimpleNamespace(monotonic=self.monotonic, time_ns=lambda: self.clock.time_ms() * 1_000_000)
            stack.enter_context(patch.object(threads, "time", time))
            for name in longest_sleep.__slots__:  # a wake-up that is missing is a wait without end
                stack.enter_context(patch.object(longest_sleep, name, inf))
            gc.disable()
            try:
                yield
            finally:
                gc.enable()
