"""Timers by the monotonic side of a clock that a test moves: a jump of its wall clock neither hastens nor delays them.

Under the clock of the machine `RealTimers` are that already.
"""

from __future__ import annotations

from collections.abc import Callable

from ..runtime.api import Lock
from ..runtime.values import refuse_to_copy
from ..types import Clock
from .scheduler import Scheduler


class MonotonicTimers:
    """`Timers`, in ms of `clock.monotonic()`, and what a ManualClock attaches to run them. Thread-safe."""

    __reduce_ex__ = refuse_to_copy

    def __init__(self, new_lock: Callable[[], Lock], clock: Clock) -> None:
        self._scheduler = Scheduler(new_lock(), new_lock())
        self._clock = clock
        self.at = self._scheduler.at
        self.cancel = self._scheduler.cancel

    def now_ms(self) -> int:
        return int(self._clock.monotonic() * 1000)

    def next_deadline_ms(self) -> int | None:
        """When the first is due, by the wall clock as it is now."""
        deadline_ms = self._scheduler.next_deadline_ms()
        return None if deadline_ms is None else self._clock.time_ms() + deadline_ms - self.now_ms()

    def run_due(self, now_ms: int) -> None:
        self._scheduler.run_due(self.now_ms())
