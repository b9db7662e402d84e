"""Background work in the order of its deadlines.

A task is a callable: `task(now_ms) -> next deadline in ms, or None`. It never blocks for long. Who runs
it is somebody else's business: a thin thread in production, `ManualClock.advance` in tests.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from sortedcontainers import SortedList

from ..runtime.api import Lock, Task

logger = logging.getLogger("streamlog.broker")

RETRY_MS = 1_000


class Scheduler:
    """Tasks by deadline (wall-clock ms). Thread-safe; each task runs on one thread at a time.

    `nudge` is called when a deadline came up that is earlier than all others.
    """

    def __init__(self, lock: Lock, run_lock: Lock) -> None:
        self._lock = lock
        self._run_lock = run_lock
        self._queue: SortedList[tuple[int, int, Task]] = SortedList(key=lambda entry: entry[:2])
        self._entries: dict[Task, tuple[int, int, Task]] = {}
        self._count = 0
        self.nudge: Callable[[], None] = lambda: None

    def at(self, deadline_ms: int, task: Task) -> None:
        """Run `task` at `deadline_ms`, or earlier if it was to run earlier already."""
        with self._lock:
            entry = self._entries.get(task)
            if entry is not None:
                if entry[0] <= deadline_ms:
                    return
                self._queue.remove(entry)
            self._count += 1
            entry = self._entries[task] = (deadline_ms, self._count, task)
            self._queue.add(entry)
            first = self._queue[0] is entry
        if first:
            self.nudge()

    def cancel(self, task: Task) -> None:
        with self._lock:
            entry = self._entries.pop(task, None)
            if entry is not None:
                self._queue.remove(entry)

    def next_deadline_ms(self) -> int | None:
        with self._lock:
            return self._queue[0][0] if self._queue else None

    def run_due(self, now_ms: int) -> int | None:
        """Run what is due, in order; the next deadline. A task that raises is logged and tried again."""
        with self._run_lock:
            while True:
                with self._lock:
                    if not self._queue or self._queue[0][0] > now_ms:
                        return self._queue[0][0] if self._queue else None
                    entry = self._queue.pop(0)
                    task: Task = entry[2]
                    del self._entries[task]
                try:
                    again = task(now_ms)
                except Exception:
                    logger.exception("background work failed and will be tried again")
                    again = now_ms + RETRY_MS
                if again is not None:
                    # A task due at once again would keep this loop for ever.
                    self.at(max(again, now_ms + 1), task)
