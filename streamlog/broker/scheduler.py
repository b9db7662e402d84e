"""Background work in the order of its deadlines.

A task is a callable: `task(now_ms) -> next deadline in ms, or None`. It never blocks for long. The scheduler has no thread:
a background thread calls `run_due`, and in tests `ManualClock.advance` does.

An interrupt may come between any two steps. So `_entries` alone says what is to be done. `_heap` is only its order: an entry
counts while it is the one that `_entries` has for its task, and is dropped otherwise. Each step on either is one call of C.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable

from ..runtime.api import Lock, Task
from ..runtime.threads import inside
from ..runtime.values import refuse_to_copy

logger = logging.getLogger("streamlog.broker")

RETRY_MS = 1_000

Entry = tuple[int, int, Task]


# Entries that do not count any more are removed from the heap when they are the majority of more than this many.
_LEAST_HEAP = 64


class Scheduler:
    """Tasks by deadline (wall-clock ms). Thread-safe; each task runs on one thread at a time.

    `nudge` is called for a new deadline that is earlier than all others.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(self, lock: Lock, run_lock: Lock) -> None:
        self._lock = lock
        self._run_lock = run_lock
        self._entries: dict[Task, Entry] = {}
        self._heap: list[Entry] = []
        self._count = 0  # in every entry, so no two are equal and no two tasks are compared
        self.nudge: Callable[[], None] = lambda: None

    def at(self, deadline_ms: int, task: Task) -> None:
        """Run `task` at `deadline_ms`, or earlier if it has an earlier deadline already."""
        with inside(), self._lock:
            known = self._entries.get(task)
            if known is not None and known[0] <= deadline_ms:
                return
            self._count += 1
            entry = (deadline_ms, self._count, task)
            heapq.heappush(self._heap, entry)  # first: an entry that is not in the heap would never run
            self._entries[task] = entry
            first = self._first() is entry
        if first:
            self.nudge()

    def cancel(self, task: Task) -> None:
        with inside(), self._lock:
            self._entries.pop(task, None)

    def next_deadline_ms(self) -> int | None:
        with inside(), self._lock:
            first = self._first()
            return None if first is None else first[0]

    def _first(self) -> Entry | None:
        """The entry that is due next. REQUIRES: the lock."""
        entries, heap = self._entries, self._heap
        if len(heap) > max(_LEAST_HEAP, 2 * len(entries)):
            heap = list(entries.values())
            heapq.heapify(heap)
            self._heap = heap
        while heap and entries.get(heap[0][2]) is not heap[0]:
            heapq.heappop(heap)
        return heap[0] if heap else None

    def run_due(self, now_ms: int) -> int | None:
        """Run what is due, in order; the next deadline (ms), or None. A task that raises is logged and tried again.

        A task that is interrupted stays due.
        """
        with self._run_lock:
            while True:
                task: Task | None = None
                try:
                    with inside(), self._lock:
                        entry = self._first()
                        if entry is None or entry[0] > now_ms:
                            return None if entry is None else entry[0]
                        task = entry[2]
                        del self._entries[task]
                    again = task(now_ms)
                except Exception:
                    logger.exception("background work failed and will be tried again")
                    again = now_ms + RETRY_MS
                    if task is None:  # looking up what is due failed, and may fail again
                        return again
                except BaseException:
                    if task is not None:
                        self.at(now_ms, task)
                    raise
                if again is not None and task is not None:
                    # A task that is due again at once would keep this loop running for ever.
                    self.at(max(again, now_ms + 1), task)
