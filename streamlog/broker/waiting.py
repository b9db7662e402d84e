"""Fetches that wait until one of their partitions has new records."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from ..replication.listeners import Waiters
from ..runtime.api import Completion


class Watched(Protocol):
    """A partition whose appends can be waited for."""

    @property
    def waiters(self) -> Waiters: ...


class ParkedFetch(Completion[None]):
    """Done when one of its partitions was appended to, or closed, after this was made.

    It is among the waiters of every partition; the first that wakes it removes it from the others. `registry` is a set of
    all that wait, for a service that has to know whether there are any: the fetch is in it until it is cancelled.
    """

    __slots__ = ("_partitions", "_registry", "_wake")

    def __init__(self, partitions: Iterable[Watched], registry: set[ParkedFetch] | None = None) -> None:
        super().__init__()
        self._partitions = tuple(partitions)
        self._registry = registry
        self._wake: Callable[[], None] = self._on_append
        for partition in self._partitions:
            partition.waiters.add(self._wake)
        if registry is not None:
            registry.add(self)

    def _on_append(self) -> None:
        self.complete(None)
        if len(self._partitions) > 1:
            self.cancel()

    def cancel(self) -> None:
        """Stop waiting. Does nothing if it is done."""
        if not self._answers or len(self._partitions) > 1:  # a single partition removed the callback as it called it
            for partition in self._partitions:
                partition.waiters.remove(self._wake)
        if self._registry is not None:
            self._registry.discard(self)
