"""Batches of one queue that are in the log and wait for their sync, in the order in which they were written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ...runtime.api import Completion
from ...runtime.threads import inside, new_lock, wait_for
from ...runtime.values import refuse_to_copy
from ...storage.log import AppendRequest
from .batch import Batch

Conclude = Callable[[list[Batch], BaseException | None, AppendRequest | None], None]


class Written:
    """See the module. Thread-safe. `conclude` tells batches what became of them, and may be called twice for some.

    The lock is held while batches are told, and nests the outbox's.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(self, conclude: Conclude) -> None:
        self._conclude = conclude
        self._waiting: deque[tuple[list[Batch], AppendRequest, Completion[int]]] = deque()
        self._lock = new_lock()

    def add(self, batches: list[Batch], write: AppendRequest, done: Completion[int]) -> None:
        self._waiting.append((batches, write, done))

    def collect(self) -> None:
        """Tell those that were synced. Any thread may, again and again: an interrupt may have stopped the one before."""
        waiting = self._waiting
        while waiting and waiting[0][2].done():
            with inside(), self._lock:
                if not waiting or not waiting[0][2].done():
                    return
                batches, write, done = waiting[0]
                self._conclude(batches, done.error(), write)
                waiting.popleft()

    def push(self, timeout: float) -> None:
        """Have them on the device: somebody waits for their room."""
        if self._waiting:
            wait_for(self._waiting[-1][2], timeout)
        self.collect()

    def batches(self) -> list[Batch]:
        return [batch for batches, _, _ in list(self._waiting) for batch in batches]

    def last(self) -> Batch | None:
        """The batch that was written last, if it still waits."""
        try:
            return self._waiting[-1][0][-1]
        except IndexError:
            return None
