"""Timers of real time: for the sessions of members, and for the timeouts that a caller gives to a request.

They have a thread of their own. So no sync and no linger delays them, and they run under a clock that a test moves too. The
thread begins with the first timer: most logs never have one.
"""

from __future__ import annotations

from collections.abc import Callable

from ..runtime.api import Lock, Task
from ..runtime.threads import BackgroundThread, inside
from ..runtime.values import refuse_to_copy
from .scheduler import Scheduler


class RealTimers:
    """Tasks by deadline, in ms of `real_seconds`. Thread-safe. They are `Timers`.

    `open` gives them their thread; without it a test calls `run_due`.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(self, new_lock: Callable[[], Lock], real_seconds: Callable[[], float]) -> None:
        self._scheduler = Scheduler(new_lock(), new_lock())
        self._real_seconds = real_seconds
        self._is_open = False
        self._beginning = new_lock()
        self._thread: BackgroundThread | None = None
        self._begun = False
        self.cancel = self._scheduler.cancel
        self.run_due = self._scheduler.run_due
        self.next_deadline_ms = self._scheduler.next_deadline_ms

    def __len__(self) -> int:
        return len(self._scheduler)

    def now_ms(self) -> int:
        return int(self._real_seconds() * 1000)

    def open(self) -> None:
        """Have a thread run them from now on, those too that there are already."""
        self._is_open = True
        if len(self):
            self._begin()

    def at(self, deadline_ms: int, task: Task) -> None:
        """See `Timers`. Raises ClosedError if the thread cannot be started any more, at the exit of the interpreter."""
        if self._is_open and not self._begun:  # before the entry: an interrupt here leaves nothing that no thread runs
            self._begin()
        self._scheduler.at(deadline_ms, task)

    def _begin(self) -> None:
        with inside(), self._beginning:
            if not self._is_open:  # closed since the caller looked
                return
            if self._thread is None:
                self._thread = BackgroundThread(self.run_due, self.now_ms, "streamlog-timers")
            self._scheduler.nudge = self._nudge
            self._thread.begin()
            self._begun = True

    def _nudge(self) -> None:
        """Wake the thread for a deadline, unless it wakes before that: for one that was cancelled, as most are."""
        thread = self._thread
        assert thread is not None
        wakes_at_ms, deadline_ms = thread.wakes_at_ms, self.next_deadline_ms()
        if wakes_at_ms is None or deadline_ms is None or deadline_ms < wakes_at_ms:
            thread.nudge()

    def close(self) -> None:
        """Run no timer any more."""
        self._is_open = False
        with inside(), self._beginning:
            thread = self._thread
        if thread is not None:
            thread.stop()
