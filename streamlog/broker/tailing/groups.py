"""Consumer groups of a log that another process owns, made by replaying its offsets topic.

The shard is the coordinator's own, so its answers are those that the owner would give if it opened the log now. Members
live in the owner's process: they are shown as it recorded them, and as gone once it is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from ...coordinator import GroupDescription, GroupListing, Shard
from ...coordinator.schema import LogRecord
from ...runtime.api import Completion, Lock
from ...runtime.threads import inside
from ...runtime.values import refuse_to_copy
from ...types import Clock, OffsetAndMetadata, TopicPartition
from ..reading import Readable
from ..replay import replay_groups


class Host(Protocol):
    """What the groups need of the service they are part of."""

    clock: Clock

    def groups_partition(self) -> Readable | None:
        """The partition of the offsets topic, as it is now; None before the first group."""

    def topic_id(self, name: str) -> bytes | None:
        """The id of the topic that has this name now."""

    def living_owner(self) -> str:
        """The incarnation whose members are alive; empty if no process owns the log."""


class TailedGroups:
    """Thread-safe. Each call looks at the log, and replays what was appended since the last one; all of it if there is another
    owner, or the files are others (a roll, a compaction).
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(self, host: Host, lock: Lock, real_seconds: Callable[[], float]) -> None:
        self._host = host
        self._lock = lock
        self._seconds = real_seconds
        # What the shard was made of, and up to where; None while that is not certain.
        self._of: object = None
        self._end = 0
        self._is_ahead = False
        self._shard = self._new_shard("")

    def _new_shard(self, owner: str) -> Shard:
        return Shard(self._in_memory, self._host.topic_id, incarnation=owner, new_id=str)

    def _in_memory(self, records: Sequence[LogRecord]) -> Completion[int]:
        """Takes the records that remove members which are gone. They change the shard in memory, and are written nowhere.

        So later records of the log, which were written without them, are not replayed on top of them.
        """
        self._is_ahead = bool(records) or self._is_ahead
        return Completion.of(0)

    def _current(self) -> Shard:
        """The shard of the log as it is now. REQUIRES: the lock."""
        partition = self._host.groups_partition()
        owner = self._host.living_owner()
        end = 0 if partition is None else partition.high_watermark
        of = (None if partition is None else partition.reader.tail.segments, owner)
        if of == self._of and end == self._end:
            return self._shard
        goes_on = of == self._of and end > self._end and not self._is_ahead
        self._of = None  # an interrupt may come in between
        if not goes_on:
            self._shard, self._end, self._is_ahead = self._new_shard(owner), 0, False
        if partition is not None:
            self._end = replay_groups(self._shard, partition, end, start=self._end)
        self._shard.loaded(self._host.clock.time_ms(), self._seconds(), writes=False)
        self._of = of
        return self._shard

    def committed(
        self,
        group: str,
        partitions: Iterable[TopicPartition] | None,
        topic_ids: Mapping[TopicPartition, bytes] | None = None,
        *,
        require_stable: bool = False,
        member: tuple[str, int] | None = None,
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        with inside(), self._lock:
            shard = self._current()
            if member is not None:
                shard.require_member(group, *member)
            if require_stable:
                shard.require_stable(group, partitions)
            return shard.committed(group, partitions, topic_ids)

    def describe(self, group: str) -> GroupDescription:
        with inside(), self._lock:
            return self._current().describe(group)

    def list(self, states: Iterable[str] = (), types: Iterable[str] = ()) -> list[GroupListing]:
        with inside(), self._lock:
            return self._current().list_groups(states, types)
