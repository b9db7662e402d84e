"""Operations that wait for an offset of a partition to be passed. Kafka's DelayedOperationPurgatory, one for each partition.

A produce waits for the high watermark to pass its records; `log.sync()` waits for the end of what is on the device. Each
operation is a Completion with an optional deadline. Its event and its deadline may race: the first answer counts, as with
every Completion.

An operation leaves the heap only once it is done. So after an interrupt, at any place, it is either done or will be found
again. The heaps are plain lists of tuples: each `heapq` call is one step in C, while a sorted container takes many steps in
Python, and an interrupt between two of them would break it.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any, TypeVar

from ..errors import StreamlogError
from ..runtime.api import Completion, Lock, Work
from ..runtime.threads import inside
from ..runtime.values import refuse_to_copy

T = TypeVar("T")
# The offset or deadline, the order in which they were added, and the operation, which is never compared.
_Entry = tuple[int, int, "DelayedOperation[Any]"]
_SPARE = 16
_ALL = 1 << 63
REQUEST_TIMEOUT_MS = 30_000
"""How long (real time) records without a deadline of their own wait to be acknowledged where that takes another leader, or another
in-sync set. Kafka's request.timeout.ms."""


class DelayedOperation(Completion[T]):
    """Done with `value` when its offset was passed. At its deadline it fails with `late`, or without that is done all the same.

    `work` is what a thread that blocks on it can do for it.
    """

    __slots__ = ("_late", "_value", "work")

    def __init__(self, value: T, work: Work | None = None, late: StreamlogError | None = None) -> None:
        # Not by the base's __init__: there is one for every record that is sent alone, and its thread waits.
        self._answers = []
        self._callbacks = []
        self._value = value
        self._late = late
        self.work = work

    def passed(self) -> None:
        self.complete(self._value)

    def fails_with(self, late: StreamlogError) -> None:
        """Fail with `late` at the deadline."""
        self._late = late

    def expire(self) -> None:
        if self._late is None:
            self.complete(self._value)
        else:
            self.fail(self._late.copy())


class Purgatory:
    """The operations of one partition that wait for one of its offsets. Thread-safe; the lock is a leaf.

    `schedule(deadline_ms)` is called for an operation with a deadline, to have `expire` called then. Deadlines are in ms of
    real time: they are timeouts that a caller gives to a request.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self._waiting: list[_Entry] = []
        self._deadlines: list[_Entry] = []
        self._expired = 0  # at least as many as are done in `_waiting`, by their deadline
        self._order = count()
        self.schedule: Callable[[int], None] = lambda deadline_ms: None

    def __len__(self) -> int:
        """How many wait, and some that are done and not removed yet: no more than those, but for a few."""
        return len(self._waiting)

    def add(self, offset: int, operation: DelayedOperation[T], deadline_ms: int | None = None) -> None:
        """Have `operation` wait until everything before `offset` was passed. Cost: O(log n).

        The caller looks at the offset once more after this call: it may have been passed just before.
        """
        with inside(), self._lock:
            heappush(self._waiting, (offset, next(self._order), operation))
            if deadline_ms is not None:
                if len(self._deadlines) > 2 * len(self._waiting) + _SPARE:  # most were done before their deadline
                    self._deadlines = _unfinished(self._deadlines)
                heappush(self._deadlines, (deadline_ms, next(self._order), operation))
        if deadline_ms is not None:
            self.schedule(deadline_ms)

    def fail(self, error: StreamlogError) -> None:
        """Fail all operations that wait. REQUIRES: no lock."""
        self.complete_through(_ALL, error)

    def complete_through(self, through: int, error: StreamlogError | None = None) -> None:
        """Complete the operations that wait for `through` or an offset before it, in order; or fail them. REQUIRES: no lock.

        Cost: O(log n) for each that is completed, whatever the number of those that go on waiting.
        """
        while self._waiting:
            try:
                offset, _, first = self._waiting[0]
            except IndexError:  # another thread removed the last one
                return
            if offset > through and not first.done():
                return
            if error is None:  # also if it is done: an interrupt may have come before its callbacks
                first.passed()
            else:
                first.fail(error.copy())
            with inside(), self._lock:
                _remove(self._waiting, first)

    def expire(self, now_ms: int) -> int | None:
        """Answer the operations whose deadline has come; the next deadline (ms), or None. REQUIRES: no lock."""
        while self._deadlines:
            try:
                deadline_ms, _, first = self._deadlines[0]
            except IndexError:  # another thread removed the last one
                return None
            if deadline_ms > now_ms and not first.done():
                return deadline_ms
            first.expire()
            with inside(), self._lock:
                _remove(self._deadlines, first)
                self._expired += 1
                if self._expired > len(self._waiting) // 2:
                    self._waiting, self._expired = _unfinished(self._waiting), 0
        return None

    def past(self, end: int) -> list[DelayedOperation[Any]]:
        """What waits now for records from `end` on."""
        return [operation for offset, _, operation in self._waiting.copy() if offset > end]

    def waiting(self) -> list[tuple[int, DelayedOperation[Any]]]:
        """What waits now, each with its offset, in the order of the offsets."""
        return [(offset, operation) for offset, _, operation in sorted(self._waiting, key=lambda entry: entry[:2])]

    def bound(self, deadline_ms: int, late: StreamlogError) -> None:
        """What waits now without a deadline gets this one, and fails with `late` then."""
        with inside(), self._lock:
            bounded = {operation for _, _, operation in self._deadlines}
        for _, _, operation in self._waiting.copy():
            if operation not in bounded:
                operation.fails_with(late)
                with inside(), self._lock:
                    heappush(self._deadlines, (deadline_ms, next(self._order), operation))
        self.schedule(deadline_ms)

    def give_up(self) -> list[DelayedOperation[Any]]:
        """Forget what waits, and return it: the caller answers it."""
        entries = self._waiting
        with inside(), self._lock:
            entries, self._waiting = self._waiting, []
        return [operation for _, _, operation in entries]

    def forget(self, operations: set[DelayedOperation[Any]]) -> None:
        """These wait elsewhere now, or are done. Their deadlines stay here."""
        with inside(), self._lock:
            self._waiting = _without(self._waiting, operations)

    def clip(self, end: int) -> None:
        """The records from `end` on were removed from the log: what waits for them waits for what is before."""
        with inside(), self._lock:
            self._waiting = [(min(offset, end), order, operation) for offset, order, operation in self._waiting]


def _remove(heap: list[_Entry], operation: DelayedOperation[Any]) -> None:
    """Remove `operation`, which is done, if it is still the first. REQUIRES: the lock."""
    if heap and heap[0][2] is operation:
        heappop(heap)


def _without(heap: list[_Entry], operations: set[DelayedOperation[Any]]) -> list[_Entry]:
    left = [entry for entry in heap if entry[2] not in operations]
    heapify(left)
    return left


def _unfinished(heap: list[_Entry]) -> list[_Entry]:
    left = [entry for entry in heap if not entry[2].done()]
    heapify(left)
    return left
