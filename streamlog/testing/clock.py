"""A clock that a test moves, and the work that becomes due when it moves.

A log opened with a ManualClock starts no background thread. It attaches a scheduler to the clock, and `advance` runs the
log's due work, in order, before it returns. So a test can advance a week in a microsecond, and there are no races.
"""

from __future__ import annotations

from datetime import timedelta
from math import isfinite
from typing import Protocol

from ..config import integer, typed
from ..errors import ConfigError
from ..runtime.threads import get_ident, inside, new_lock, refuse_reentry
from ..runtime.values import refuse_to_copy

_NS_PER_MS = 1_000_000
_NS_PER_S = 1_000_000_000
NEW_YEAR_2026_MS = 1_767_225_600_000


class Scheduler(Protocol):
    """Work with deadlines, in wall-clock milliseconds as `time_ms` returns them. Compared by identity.

    One whose work other threads do has a method `settle(anew: bool) -> bool` besides: it waits until they have done what
    they began, and returns whether it had to. The clock calls it before it asks for deadlines. `anew`: `advance` begins,
    so threads that did not come to an end in the one before are waited for again.
    """

    def next_deadline_ms(self) -> int | None:
        """When its earliest work is due, past or future, or None if it has none."""

    def run_due(self, now_ms: int, /) -> object:
        """Do all work whose deadline is at or before `now_ms`. The return value is ignored."""


class ManualClock:
    """A clock that stands still until `advance` or `jump` is called. Thread-safe; a read takes no lock.

    `start_ms` is the initial wall clock in ms since the epoch. The default is the beginning of 2026 in UTC, so that runs
    repeat. The monotonic clock begins at 0.0.

    >>> clock = ManualClock(start_ms=1_000)
    >>> clock.advance(2.5)
    >>> clock.time_ms(), clock.monotonic()
    (3500, 2.5)
    >>> clock.jump(-3_000)
    >>> clock.time_ms(), clock.monotonic()
    (500, 2.5)
    """

    __reduce_ex__ = refuse_to_copy

    # A scheduler that is still due after this many rounds at one instant will be due for ever.
    MAX_ROUNDS = 10_000

    def __init__(self, start_ms: int = NEW_YEAR_2026_MS) -> None:
        if integer("start_ms", start_ms, -(2**63)) < 0:
            raise ConfigError(
                f"start_ms={start_ms} is before the epoch; give milliseconds since 1970.", name="start_ms"
            )
        # Wall clock and monotonic clock in ns, replaced together: a reader never sees half a move.
        self._now = (start_ms * _NS_PER_MS, 0)
        self._moving = new_lock()
        self._advancing = new_lock()
        self._advancing_thread: int | None = None
        self._schedulers: tuple[Scheduler, ...] = ()

    def time_ms(self) -> int:
        """The wall clock: milliseconds since the epoch."""
        return self._now[0] // _NS_PER_MS

    def monotonic(self) -> float:
        """The seconds by which `advance` has moved the clock. `jump` does not change it."""
        return self._now[1] / _NS_PER_S

    def advance(self, seconds: float | timedelta) -> None:
        """Move both clocks forward and run, on this thread, all work that becomes due.

        The clock stops at each deadline in turn, and the work runs at that time. Work that is scheduled meanwhile runs too
        if it is due before the end. Work that is overdue when the call begins, after a `jump`, runs first, at the current
        time and in the order of its deadlines; `advance(0)` does only that. If several schedulers are due at once, the one
        that was attached first does all its work first.

        The workers of a group follow: before each step the call waits until they have handled what there is, and at their
        deadlines until they have committed, or tried again. One whose handler does not return is waited for during one
        real second.

        If the work raises an error, the call ends with the clock at that instant; the remaining work stays due. A second
        thread that calls `advance` waits for the first.

        Raises ConfigError if `seconds` is negative or not finite; RuntimeError if the work itself calls it, or if a
        scheduler becomes due again without end at one instant.
        """
        remaining = _nanoseconds(seconds)
        refuse_reentry()
        if self._advancing_thread == get_ident():
            raise RuntimeError("work that advance() is running called advance(): schedule a later deadline instead")
        with self._advancing:
            try:
                self._advancing_thread = get_ident()
                self._settle(anew=True)
                self._run_until(remaining)
            finally:
                self._advancing_thread = None

    def jump(self, ms: int) -> None:
        """Move only the wall clock, by `ms` (back if negative), as an administrator or NTP would.

        No work runs: work that is due after a jump forward runs at the next `advance`, also `advance(0)`; a jump back
        delays work that was not done yet. Raises ConfigError for a time before the epoch.
        """
        self._move(integer("ms", ms, -(2**63)) * _NS_PER_MS, 0)

    def attach(self, scheduler: Scheduler) -> None:
        """Have `advance` run this scheduler's work until `detach`. A second call has no effect.

        The clock refers to the scheduler strongly.
        """
        with inside(), self._moving:
            if not any(known is scheduler for known in self._schedulers):
                self._schedulers = (*self._schedulers, scheduler)

    def detach(self, scheduler: Scheduler) -> None:
        """Detach a scheduler. It is not an error if it is not attached."""
        with inside(), self._moving:
            self._schedulers = tuple(known for known in self._schedulers if known is not scheduler)

    def __repr__(self) -> str:
        return f"ManualClock(time_ms={self.time_ms()}, monotonic={self.monotonic()})"

    def _move(self, wall_ns: int, monotonic_ns: int) -> None:
        with inside(), self._moving:
            wall, monotonic = self._now
            if wall + wall_ns < 0:
                raise ConfigError(
                    f"A jump of {wall_ns // _NS_PER_MS} ms from {wall // _NS_PER_MS} ends before the epoch.", name="ms"
                )
            self._now = (wall + wall_ns, monotonic + monotonic_ns)

    def _run_until(self, remaining: int) -> None:
        """Advance by `remaining` ns. Counted down, not compared with an end time: the work may call `jump`."""
        rounds: dict[int, int] = {}
        while (due := self._earliest()) is not None:
            deadline_ms, scheduler = due
            step = max(0, deadline_ms * _NS_PER_MS - self._now[0])
            if step > remaining:
                break
            if step:
                rounds.clear()
                self._move(step, step)
                remaining -= step
            rounds[id(scheduler)] = rounds.get(id(scheduler), 0) + 1
            if rounds[id(scheduler)] > self.MAX_ROUNDS:
                raise RuntimeError(
                    f"{scheduler!r} is due again at {self.time_ms()} ms after {self.MAX_ROUNDS} rounds "
                    "at that instant: its work schedules itself for the present; give it a later deadline"
                )
            scheduler.run_due(self.time_ms())
        self._move(remaining, remaining)

    def _settle(self, *, anew: bool = False) -> None:
        """Wait for the threads of schedulers that have some, until none has given another one something to do."""
        settling = [scheduler.settle for scheduler in self._schedulers if hasattr(scheduler, "settle")]
        for _ in range(self.MAX_ROUNDS):
            if not any(settle(anew) for settle in settling):
                return
            anew = False

    def _earliest(self) -> tuple[int, Scheduler] | None:
        """The earliest deadline and its scheduler; among equal deadlines, the scheduler that was attached first."""
        self._settle()
        earliest: tuple[int, Scheduler] | None = None
        for scheduler in self._schedulers:
            deadline = scheduler.next_deadline_ms()
            if deadline is not None and (earliest is None or deadline < earliest[0]):
                earliest = deadline, scheduler
        return earliest


def _nanoseconds(seconds: float | timedelta) -> int:
    if isinstance(seconds, timedelta):
        duration = seconds // timedelta(microseconds=1) * 1000
    elif isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not isfinite(seconds):
        raise ConfigError(
            f"advance({typed(seconds)}): give a finite number of seconds, or a timedelta.", name="seconds"
        )
    else:
        duration = round(seconds * _NS_PER_S)
    if duration < 0:
        raise ConfigError(
            f"advance({seconds!r}): time does not go back; jump() moves the wall clock alone.", name="seconds"
        )
    return duration
