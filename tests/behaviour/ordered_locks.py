"""Locks that know their order: metadata, coordinator shard, producer drain, partition (rule 14 of the design)."""

from __future__ import annotations

import threading
from _thread import allocate_lock
from typing import Any

import streamlog

METADATA, SHARD, PARTITION = 1, 2, 4
NAMES = {METADATA: "metadata", SHARD: "shard", PARTITION: "partition"}


class OrderedLock:
    """A raw lock that refuses to be taken twice by one thread, or after one that comes later in the order.

    It raises where the raw lock would wait for ever, and where two threads may one day wait for each other.
    """

    held = threading.local()

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self.rank = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        held = self._held()
        waits = blocking and timeout < 0
        assert self not in held or not waits, f"the {self} lock is this thread's already: it would wait for ever"
        later = [str(lock) for lock in held if lock.rank > self.rank > 0]
        assert not later or not waits, f"the {self} lock is taken under that of {later}"
        if not self._lock.acquire(blocking, timeout):
            return False
        held.append(self)
        return True

    def release(self) -> None:
        held = self._held()
        if self in held:
            held.remove(self)
        self._lock.release()

    def locked(self) -> bool:
        return self._lock.locked()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc: object) -> None:
        self.release()

    def __str__(self) -> str:
        return NAMES.get(self.rank, "unranked")

    @classmethod
    def _held(cls) -> list[OrderedLock]:
        held: list[OrderedLock] = cls.held.__dict__.setdefault("locks", [])
        return held


def watch_the_order(log: streamlog.StreamLog) -> None:
    """Give a log that was opened with OrderedLocks their ranks. Its partitions, once more after each was added."""
    service: Any = log._engine.service
    service._topics._lock.rank = METADATA
    service._groups.shards[0]._lock.rank = SHARD
    add = service.brokers.all[0].replicas._add

    def ranked(*arguments: Any) -> None:
        add(*arguments)
        for partition in service._partitions.values():
            partition.lock.rank = PARTITION

    service.brokers.all[0].replicas._add = ranked
