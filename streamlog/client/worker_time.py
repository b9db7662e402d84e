"""The time of workers: their pauses before a retry, and how they follow a clock that a test moves.

With the machine's clock a pause is real time, and a worker that waits for records wakes by itself to commit. A
`testing.ManualClock` stands still until a test moves it, so `advance` has the workers follow: they are one of its
schedulers. Before the clock moves to a deadline, and again at the deadline, `advance` waits until every worker waits, for
records or for the end of a pause. So what was sent before is handled, what failed is tried again at its time, and what was
handled is committed when `auto_commit_interval_ms` is over; all of it before `advance` returns.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from math import ceil
from typing import Any, Protocol

from ..runtime.api import Gate
from ..runtime.threads import RawGate, get_ident, longest_sleep, real_monotonic
from ..runtime.values import refuse_to_copy
from ..types import Clock
from .consumer.consumer import Consumer

logger = logging.getLogger("streamlog.client")

# How long (real seconds) `advance` waits for a worker that makes no progress: a test may hold its handler until the clock
# has moved. It is waited for again once it has gone on, and by the next `advance`.
STUCK_S = 1.0
# How long it waits in all, whatever progress there is: a handler may send itself records for ever.
LONGEST_S = 60.0
_NOISE_S = 1e-6  # by which a sum of floats may miss a deadline


class MovedClock(Clock, Protocol):
    """A clock that a test moves: `testing.ManualClock`."""

    def attach(self, scheduler: Any, /) -> None: ...
    def detach(self, scheduler: Any, /) -> None: ...


def moved_clock(clock: Clock) -> MovedClock | None:
    """The clock if a test moves it, else None."""
    moved: Any = clock
    return moved if hasattr(clock, "attach") else None


class WorkerTime:
    """One worker's pauses, and what a clock has to know of it. The worker's thread calls what is not marked otherwise."""

    __slots__ = ("_clock", "_gate", "_note", "_skips", "_stopping", "consumer", "ended", "is_stopping", "pause_ends_s", "stuck_at", "thread", "turn")  # fmt: skip

    __reduce_ex__ = refuse_to_copy

    def __init__(self, consumer: Consumer[Any, Any], stopping: Gate, *, skips: bool) -> None:
        """`skips`: a pause is not waited for, because the thread that would move the clock waits for the workers."""
        self.consumer = consumer
        self._stopping = stopping
        self.is_stopping = stopping.is_open
        """Whether the workers are to begin no further record. Asked before each, so without a frame of its own."""
        self._skips = skips
        self._gate = RawGate()
        self._clock: Clock | None = None
        self._note: Callable[[], None] = lambda: None
        self.thread = 0
        self.turn = 0
        """How often it went on, or began to wait."""
        self.stuck_at = -1
        """The turn at which a clock gave up to wait for it."""
        self.ended = False
        self.pause_ends_s: float | None = None
        """When its pause ends, in monotonic seconds of a clock that a test moves; None if it does not pause."""

    def follow(self, clock: Clock, note: Callable[[], None]) -> None:
        """Have pauses last until this clock has moved; `note` is called when the worker waits. Before its thread begins."""
        self._clock, self._note = clock, note
        self.consumer._on_wait = self.waits

    def begin(self) -> None:
        self.thread = get_ident()

    def waits(self) -> None:
        """It is about to wait, or has ended."""
        self.turn += 1
        self._note()

    def end(self) -> None:
        self.ended = True
        self.consumer._on_wait = None
        self.waits()

    def pause(self, seconds: float) -> bool:
        """Wait before a retry; whether the workers are to stop instead."""
        gate = self._gate = RawGate()  # before `stopping` is read: who opens that ends the pause afterwards
        if not self._stopping.is_open() and not self._skips:
            if self._clock is None:
                gate.wait(seconds)
            else:
                self.pause_ends_s = self._clock.monotonic() + seconds
                try:
                    self.waits()
                    while not gate.wait(longest_sleep.work_s):
                        continue
                finally:
                    self.pause_ends_s = None
                    self.turn += 1
        return self._stopping.is_open()

    # -- on any thread -------------------------------------------------------------------------------

    def end_pause(self) -> None:
        self._gate.open()

    def is_settled(self) -> bool:
        """Whether it does nothing until a record, the clock or the program has it go on; or a clock has given it up."""
        return (
            self.ended
            or self.stuck_at == self.turn
            or (self.pause_ends_s is not None and not self._gate.is_open())
            or self.consumer._is_waiting()
            or self.thread == get_ident()
        )

    def deadline_s(self) -> float | None:
        """When it goes on by itself, in monotonic seconds of the clock. REQUIRES: it is settled."""
        if self.pause_ends_s is not None:
            return None if self._gate.is_open() else self.pause_ends_s
        return self.consumer._coordinator.next_commit_s() if self.consumer._is_waiting() else None

    def go_on(self) -> None:
        """Its deadline has come."""
        if self.pause_ends_s is not None:
            self._gate.open()
        else:
            self.consumer._wakeup.wake()


class Following(Protocol):
    """What follows a clock that a test moves: a `WorkerTime`, whose methods say what is asked of it here, or a replay."""

    turn: int
    stuck_at: int

    def follow(self, clock: Clock, note: Callable[[], None]) -> None: ...
    def is_settled(self) -> bool: ...
    def deadline_s(self) -> float | None: ...
    def go_on(self) -> None: ...


class ClockFollower:
    """A scheduler of a clock that a test moves, for the workers of one `start`, or a replay. See the module."""

    __reduce_ex__ = refuse_to_copy

    def __init__(self, clock: MovedClock, workers: Sequence[Following]) -> None:
        self._clock = clock
        self._workers = workers
        self._changed = RawGate()
        for worker in workers:
            worker.follow(clock, self._note)
        clock.attach(self)

    def detach(self) -> None:
        self._clock.detach(self)

    def next_deadline_ms(self) -> int | None:
        deadlines = [at for worker in self._workers if (at := worker.deadline_s()) is not None]
        if not deadlines:
            return None
        left = min(deadlines) - self._clock.monotonic()
        return self._clock.time_ms() + ceil((left - _NOISE_S) * 1000)

    def run_due(self, now_ms: int) -> None:
        now = self._clock.monotonic()
        for worker in self._workers:
            deadline = worker.deadline_s()
            if deadline is not None and deadline <= now + _NOISE_S:
                worker.go_on()

    def settle(self, anew: bool) -> bool:
        """Wait until every worker waits, at one moment; whether there was anything to wait for. See `STUCK_S`.

        `anew`: also for those that were given up.
        """
        if anew:
            for worker in self._workers:
                worker.stuck_at = -1
        end = real_monotonic() + LONGEST_S
        waited = False
        while True:
            self._changed = changed = RawGate()  # before they are looked at: what changes afterwards opens it
            turns = [worker.turn for worker in self._workers]
            running = [worker for worker in self._workers if not worker.is_settled()]
            if not running and turns == [worker.turn for worker in self._workers]:  # none had another go on meanwhile
                return waited
            waited = True
            if running and not changed.wait(STUCK_S) and turns == [worker.turn for worker in self._workers]:
                logger.debug("the clock moves on: %d workers have made no progress for %s s", len(running), STUCK_S)
                for worker in running:
                    worker.stuck_at = worker.turn
            if real_monotonic() > end:
                return waited

    def _note(self) -> None:
        self._changed.open()
