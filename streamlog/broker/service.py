"""The Service protocol over the partitions of this process: one broker directory, one replica each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..coordinator import GroupDescription, Heartbeat, HeartbeatResult
from ..errors import ConfigError, StorageError, UnknownTopicIdError
from ..replication.partition import Partition, gone
from ..runtime.api import Completion, Lock
from ..runtime.disk import entropy
from ..storage.log import EMPTY, Chunk, Write
from ..types import Clock, OffsetAndMetadata, OffsetAndTimestamp, PartitionInfo, TopicPartition
from . import controller
from .broker import Broker
from .catalog import Catalog
from .groups import TOPIC_CONFIG as GROUPS_CONFIG
from .groups import Groups
from .metadata import Image, TopicView
from .scheduler import Scheduler
from .waiting import ParkedFetch


class LocalService:
    """See `api.Service`. Thread-safe. `open` first, `close` last."""

    def __init__(
        self,
        broker: Broker,
        clock: Clock,
        scheduler: Scheduler,
        defaults: Mapping[str, Any],
        new_lock: Callable[[], Lock],
        real_seconds: Callable[[], float],
    ) -> None:
        self._broker = broker
        self._catalog = Catalog(broker, clock, scheduler, defaults, new_lock)
        self._partitions = self._catalog.partitions
        self._partition = self._catalog.partition
        self.clock = clock
        self.scheduler = scheduler
        self.real_seconds = real_seconds
        self._new_lock = new_lock
        self._groups: Groups | None = None
        self.topic = self._catalog.topic
        self.create_topic = self._catalog.create_topic
        self.update_topic = self._catalog.update_topic
        self.add_partitions = self._catalog.add_partitions
        self.delete_topic = self._catalog.delete_topic
        self.on_metadata = self._catalog.on_metadata
        self.off_metadata = self._catalog.off_metadata

    @property
    def image(self) -> Image:
        return self._catalog.image

    # -- life ----------------------------------------------------------------------------------------

    def open(self) -> None:
        """Replay the metadata and open every partition. On failure everything is let go."""
        self._catalog.open()
        self._groups = Groups(self, self._new_lock())
        self.on_metadata(self._groups.metadata_changed)
        if controller.GROUPS_TOPIC in self.image.topics:
            self.scheduler.at(self.clock.time_ms(), self._groups.expire_offsets)

    def close(self) -> None:
        """Close every partition, then the directory. Raises the first error, after all were let go."""
        self._catalog.close()

    def abandon(self) -> None:
        """In a forked child: give up the lock's descriptor; write nothing, wait for nothing."""
        self._broker.abandon()

    # -- what groups need ----------------------------------------------------------------------------

    @property
    def incarnation(self) -> str:
        return self._broker.incarnation

    def groups_partition(self, create: bool) -> Partition | None:
        name = TopicPartition(controller.GROUPS_TOPIC, 0)
        if name.topic not in self.image.topics:
            if not create:
                return None
            self._catalog.create_internal(name.topic, 1, GROUPS_CONFIG)
            self.scheduler.at(self.clock.time_ms() + 60_000, self._the_groups.expire_offsets)
        return self._partition(name)

    def topic_counts(self) -> dict[str, int]:
        return {name: view.partitions for name, view in self.image.topics.items()}

    def new_id(self) -> str:
        return entropy(16).hex()

    @property
    def _the_groups(self) -> Groups:
        assert self._groups is not None, "the service was not opened"
        if self._catalog.closed is not None:
            raise self._catalog.closed.again()
        return self._groups

    # -- records -------------------------------------------------------------------------------------

    def produce(self, topic: TopicView, partition: int, write: Write) -> Completion[int]:
        here = self._partitions.get((topic.name, partition))
        if here is None or here.topic_id != topic.id_bytes:
            raise (
                self._catalog.closed.again()
                if self._catalog.closed is not None
                else gone(TopicPartition(topic.name, partition))
            )
        return Completion.of(here.append(write, self.clock.time_ms()))

    def produce_one(
        self, topic: TopicView, partition: int, key: bytes | None, value: bytes, timestamp: int, now_ms: int
    ) -> Completion[int]:
        here = self._partitions.get((topic.name, partition))
        if here is None or here.topic_id != topic.id_bytes:
            raise (
                self._catalog.closed.again()
                if self._catalog.closed is not None
                else gone(TopicPartition(topic.name, partition))
            )
        return Completion.of(here.append_one(key, value, timestamp, now_ms))

    def settle(self, topic: TopicView, partition: int, write: Write) -> None:
        here = self._partitions.get((topic.name, partition))
        if here is not None and here.topic_id == topic.id_bytes:
            here.settle(write)

    def fetch(
        self,
        partition: TopicPartition,
        offset: int,
        max_bytes: int,
        isolation_level: str,
        after: Chunk = EMPTY,
        topic_id: bytes | None = None,
    ) -> Chunk:
        here = self._partitions.get(partition) or self._partition(partition)
        if here.closed is not None:
            raise here.closed.again()
        if topic_id is not None and topic_id != here.topic_id:
            raise UnknownTopicIdError(
                f"Topic {partition[0]!r} was deleted, and another was created under its name; begin to read that one anew.",
                topic=partition[0],
            )
        try:
            return here.log.fetch(offset, max_bytes, here.high_watermark, after)
        except StorageError:
            if here.closed is not None:  # deleted, or closed, while it was being read
                raise here.closed.again() from None
            raise

    def await_data(self, partitions: Iterable[TopicPartition]) -> ParkedFetch:
        return ParkedFetch([p for p in map(self._partitions.get, partitions) if p is not None])

    def after_damage(self, partition: TopicPartition, offset: int) -> int:
        here = self._partition(partition)
        return here.log.after_damage(offset, here.high_watermark)

    def bounds(self, partition: TopicPartition, isolation_level: str) -> tuple[int, int]:
        here = self._partition(partition)
        return here.log.tail.start_offset, here.high_watermark

    def find_time(self, partition: TopicPartition, timestamp: int) -> OffsetAndTimestamp | None:
        here = self._partition(partition)
        return here.log.find_time(timestamp, here.high_watermark)

    def partition_info(self, partition: TopicPartition) -> PartitionInfo:
        here = self._partition(partition)
        tail = here.log.tail
        broker = (here.broker_id,)
        return PartitionInfo(
            *partition, here.broker_id, broker, broker, here.leader_epoch, tail.start_offset, here.high_watermark,
            here.high_watermark, tail.end_offset, here.log.size_bytes(), len(tail.segments),
        )  # fmt: skip

    def delete_records(self, partition: TopicPartition, before: int) -> int:
        return self._partition(partition).delete_records(before)

    def _each(self, name: str) -> list[Partition]:
        return [self._partition(TopicPartition(name, n)) for n in range(self.topic(name).partitions)]

    def apply_retention(self, name: str) -> None:
        now = self.clock.time_ms()
        for partition in self._each(name):
            partition.roll(now)
            partition.apply_retention(now)

    def compact(self, name: str) -> None:
        if not self.topic(name).config.compacts:
            raise ConfigError(
                f"Topic {name!r} is not compacted (cleanup_policy='delete'). "
                f"Change it with update_config(cleanup_policy='compact').",
                name="cleanup_policy",
            )
        now = self.clock.time_ms()
        for partition in self._each(name):
            partition.roll(now)
            partition.compact(now)
            deadline = partition.next_horizon
            if deadline is not None:
                self.scheduler.at(deadline, partition.maintain)

    # -- groups --------------------------------------------------------------------------------------

    def heartbeat(self, request: Heartbeat) -> Completion[HeartbeatResult]:
        return self._the_groups.heartbeat(request)

    def renew(self, group: str, member_id: str, seen_version: int) -> bool:
        return self._the_groups.renew(group, member_id, seen_version)

    def leave_group(self, group: str, member_id: str) -> Completion[None]:
        return self._the_groups.leave(group, member_id)

    def watch_group(self, group: str, callback: Callable[[], object]) -> None:
        self._the_groups.watch(group, callback)

    def unwatch_group(self, group: str, callback: Callable[[], object]) -> None:
        if self._groups is not None:
            self._groups.unwatch(group, callback)

    def commit(
        self, group: str, member_id: str | None, member_epoch: int, offsets: Mapping[TopicPartition, OffsetAndMetadata]
    ) -> Completion[None]:
        for name in offsets:
            self._partition(name)
        return self._the_groups.commit(group, member_id, member_epoch, offsets)

    def committed(
        self, group: str, partitions: Iterable[TopicPartition] | None
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        return self._the_groups.committed(group, partitions)

    def describe_group(self, group: str) -> GroupDescription:
        self._the_groups.expire_members()
        return self._the_groups.describe(group)

    def list_groups(self) -> list[str]:
        return self._the_groups.list()

    def delete_group(self, group: str) -> Completion[None]:
        return self._the_groups.delete(group)

    # -- figures -------------------------------------------------------------------------------------

    def metrics(self) -> dict[str, Any]:
        """Plain numbers by topic and partition, counted since the log was opened."""
        topics: dict[str, Any] = {}
        for (name, number), partition in sorted(self._partitions.items()):
            log = partition.log
            tail = log.tail
            topics.setdefault(name, {})[str(number)] = {
                "log_start_offset": tail.start_offset,
                "log_end_offset": tail.end_offset,
                "size_bytes": log.size_bytes(),
                "segments": len(tail.segments),
                "appended_batches": log.appended_batches,
                "appended_bytes": log.appended_bytes,
                "deleted_segments": log.deleted_segments,
            }
        return {"topics": topics}
