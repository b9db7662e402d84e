"""Requests parked until one of the partitions they name has something new."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from ..runtime.api import Completion


class Watched(Protocol):
    """A partition that can be waited for."""

    def watch(self, callback: Callable[[], object]) -> None: ...
    def unwatch(self, callback: Callable[[], object]) -> None: ...


class ParkedFetch(Completion[None]):
    """Done when any of its partitions was appended to, or was closed, since it was parked.

    Registered with every partition it awaits; the first one to wake it takes it off the others.
    """

    __slots__ = ("_partitions", "_wake")

    def __init__(self, partitions: Iterable[Watched]) -> None:
        super().__init__()
        self._partitions = tuple(partitions)
        self._wake: Callable[[], None] = self._on_append
        for partition in self._partitions:
            partition.watch(self._wake)

    def _on_append(self) -> None:
        self.complete(None)
        if len(self._partitions) > 1:
            self.cancel()

    def cancel(self) -> None:
        """Stop waiting; harmless when it is done."""
        if not self._answers or len(self._partitions) > 1:  # a lone partition has forgotten who it called
            for partition in self._partitions:
                partition.unwatch(self._wake)
