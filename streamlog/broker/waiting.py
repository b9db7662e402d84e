"""Which of a reader's partitions may have records that it has not seen."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from ..replication.listeners import Waiters
from ..types import TopicPartition


class Watched(Protocol):
    """A partition whose appends can be waited for."""

    @property
    def waiters(self) -> Waiters: ...


class FetchSession:
    """The partitions of one reader, and those of them that may have new records (the idea of KIP-227).

    The reader watches a partition and fetches from it, in this order. What is appended after that, or a partition that
    closes, puts the partition's name at the end of `ready`, once, and calls `wake` if the reader waits; then the reader
    removes it from `watched`. So the reader fetches only from partitions that are in `ready`, however many it has. A name
    may be there twice.

    One thread at a time uses it; `ready` grows in any thread. It takes no lock. `waiting` is the set of all sessions whose
    readers wait, for a service that has to know whether there are any; `nudge` is called when it gets its first member.

    `has_no_leader`, where leaders move, says of a partition that is not found that it will be there again: the reader hears of
    that by a change of the metadata, and watches it then.
    """

    __slots__ = ("_find", "_has_no_leader", "_nudge", "_waiting", "_wake", "ready", "waits", "watched")

    def __init__(
        self,
        find: Callable[[TopicPartition], Watched | None],
        wake: Callable[[], object],
        waiting: set[FetchSession] | None = None,
        nudge: Callable[[], object] | None = None,
        has_no_leader: Callable[[TopicPartition], bool] | None = None,
    ) -> None:
        self._find = find
        self._has_no_leader = has_no_leader
        self._wake = wake
        self._waiting = waiting
        self._nudge = nudge
        self.waits = False
        """Whether the reader waits, or is about to; any thread may look."""
        self.watched: dict[TopicPartition, tuple[Waiters, Callable[[], None]]] = {}
        self.ready: deque[TopicPartition] = deque()

    def watch(self, name: TopicPartition) -> None:
        """Note the next append to this partition. Does nothing if it is watched; one that is not there is ready at once."""
        if name in self.watched:
            return
        partition = self._find(name)
        if partition is None:
            if self._has_no_leader is None or not self._has_no_leader(name):
                self.ready.append(name)
            return
        callback = partial(self._on_append, name)
        waiters = partition.waiters
        waiters.add(callback)  # first: an interrupt may leave it watched and not noted, not the other way round
        self.watched[name] = waiters, callback
        if self._has_no_leader is not None and self._find(name) is not partition:  # it moved just before
            self._on_append(name)

    def _on_append(self, name: TopicPartition) -> None:
        self.ready.append(name)
        if self.waits:
            self._wake()

    def unwatch(self, name: TopicPartition) -> None:
        watched = self.watched.pop(name, None)
        if watched is not None:
            watched[0].remove(watched[1])

    def wake(self) -> None:
        """Wake the reader, and have it look at every partition that it watches."""
        self.ready.extend(list(self.watched))  # copied in one step: its thread may watch another one
        self._wake()

    def begin_wait(self) -> None:
        """The reader is about to wait until `wake` is called, unless it finds a name in `ready` after this call."""
        self.waits = True
        if self._waiting is not None:
            idle = not self._waiting
            self._waiting.add(self)
            if idle and self._nudge is not None:
                self._nudge()

    def end_wait(self) -> None:
        self.waits = False
        if self._waiting is not None:
            self._waiting.discard(self)

    def close(self) -> None:
        """Watch nothing any more. It may be called twice."""
        self.end_wait()
        for name in list(self.watched):
            self.unwatch(name)
