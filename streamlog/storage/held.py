"""What segments hold in memory or of the system, bounded for the whole process: open files, mappings, indexes.

A log of thousands of partitions, or of thousands of segments, would otherwise run out of descriptors, and its indexes would
take six bytes for each KiB of records. Whatever is dropped here can be had again from the file.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from ..runtime.threads import inside, new_lock

T = TypeVar("T")


class Held(Generic[T]):
    """Objects that hold something, each with its cost. Past `limit` in all, `drop` is called with those that were added first.

    The order is that in which they were added, not that of use: a use costs nothing. An object that dropped its own and is
    added anew counts once: when it was in here twice, more than half of `limit` objects dropped each other's in turn, without end.
    Thread-safe; the lock is a leaf, `drop` only sets fields. The objects are referred to weakly.
    """

    def __init__(self, limit: int, drop: Callable[[T], object]) -> None:
        self.limit = limit
        self._drop = drop
        self._lock = new_lock()
        self._holders: OrderedDict[weakref.ref[T], int] = OrderedDict()
        self._total = 0

    def hold(self, holder: T, cost: int = 1) -> None:
        """`holder` holds something now; drop the oldest if that is too much."""
        reference = weakref.ref(holder)
        with inside(), self._lock:
            self._total += cost  # first: after an interrupt it is too much rather than too little
            before = self._holders.get(reference, 0)
            self._holders[reference] = cost
            self._holders.move_to_end(reference)
            self._total -= before
            self._shrink(self.limit)

    def forked(self) -> None:
        """In a forked child: the lock may have been held by a thread that the child does not have."""
        self._lock = new_lock()

    def drop_all(self) -> None:
        """Drop everything: the system refused to give more."""
        with inside(), self._lock:
            self._shrink(0)

    def _shrink(self, limit: int) -> None:
        while self._total > limit and self._holders:
            reference, cost = self._holders.popitem(last=False)
            self._total -= cost
            holder = reference()
            if holder is not None:
                self._drop(holder)
        if not self._holders:
            self._total = 0
