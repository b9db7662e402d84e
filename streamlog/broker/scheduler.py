"""Background work in the order of its deadlines.

A task is a callable: `task(now_ms) -> next deadline in ms, or None`. It never blocks for long; long work is done in steps. The scheduler has no thread:
a background thread calls `run_due`, and in tests `ManualClock.advance` does.

An interrupt may come between any two steps, those inside the sorted list too. So `_entries` alone says what is to be done,
and `_order` is only its order: if a change of it was interrupted, it is built again from `_entries`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from sortedcontainers import SortedList

from ..runtime.api import Lock, Task
from ..runtime.threads import inside
from ..runtime.values import refuse_to_copy

logger = logging.getLogger("streamlog.broker")

RETRY_MS = 1_000

Entry = tuple[int, int, Task]


def _due(entry: Entry) -> tuple[int, int]:
    return entry[:2]


class Scheduler:
    """Tasks by deadline, in ms of one clock: the log's, or real time (`real_timers`).

    Thread-safe; each task runs on one thread at a time.

    `nudge` is called for a new deadline that is earlier than all others.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(self, lock: Lock, run_lock: Lock) -> None:
        self._lock = lock
        self._run_lock = run_lock
        self._entries: dict[Task, Entry] = {}
        self._order: SortedList[Entry] = SortedList(key=_due)
        self._changing = False
        self._count = 0
        self.nudge: Callable[[], None] = lambda: None

    def at(self, deadline_ms: int, task: Task) -> None:
        """Run `task` at `deadline_ms`, or earlier if it has an earlier deadline already."""
        known = self._entries.get(task)
        if known is not None and known[0] <= deadline_ms:  # as a rule it is, and no lock changes the answer
            return
        with inside(), self._lock:
            known = self._entries.get(task)
            if known is not None and known[0] <= deadline_ms:
                return
            self._count += 1
            entry = (deadline_ms, self._count, task)
            self._replace(task, entry)
            first = self._first() is entry
        if first:
            self.nudge()

    def leave(self, run_lock: Lock) -> None:
        """The thread that runs tasks does not come back from one: have the others be run, under this lock."""
        self._run_lock = run_lock

    def cancel(self, task: Task) -> None:
        with inside(), self._lock:
            if task in self._entries:
                self._replace(task, None)

    def __len__(self) -> int:
        return len(self._entries)

    def next_deadline_ms(self) -> int | None:
        with inside(), self._lock:
            first = self._first()
            return None if first is None else first[0]

    def _replace(self, task: Task, entry: Entry | None) -> None:
        """Give the task this entry, or take its entry away. REQUIRES: the lock."""
        order = self._sorted()
        self._changing = True
        known = self._entries.get(task)
        if entry is None:
            self._entries.pop(task, None)
        else:
            self._entries[task] = entry
            order.add(entry)
        if known is not None:
            order.remove(known)
        self._changing = False

    def _sorted(self) -> SortedList[Entry]:
        if self._changing:
            self._order = SortedList(self._entries.values(), key=_due)
            self._changing = False
        return self._order

    def _first(self) -> Entry | None:
        """The entry that is due next. REQUIRES: the lock."""
        order = self._sorted()
        return order[0] if order else None

    def run_due(self, now_ms: int) -> int | None:
        """Run what is due, in order; the next deadline (ms), or None. A task that raises is logged and tried again.

        A task that is interrupted stays due. One that returns `now_ms` has more to do at once: it is due in the next call,
        after those that are due then, so a task of many steps keeps no other waiting.
        """
        with self._run_lock:
            return self._run_due(now_ms)

    def _run_due(self, now_ms: int) -> int | None:
        with inside(), self._lock:
            last = self._count
        while True:
            task: Task | None = None
            try:
                with inside(), self._lock:
                    entry = self._first()
                    if entry is None or entry[0] > now_ms or entry[1] > last:
                        return None if entry is None else entry[0]
                    task = entry[2]
                    self._replace(task, None)
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
                # A deadline in the past is a mistake, and would keep the caller running for ever.
                self.at(again if again >= now_ms else now_ms + 1, task)
