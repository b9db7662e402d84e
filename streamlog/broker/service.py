"""The Service protocol over the partitions of this process: one broker directory, one replica each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from uuid import UUID

from ..config import TopicConfig, check_partitions, check_replication_factor, topic_changes
from ..coordinator import GroupDescription, Heartbeat, HeartbeatResult
from ..errors import ClosedError, ConfigError, StreamlogError, TopicAlreadyExistsError
from ..records import columns
from ..replication.partition import Partition, gone
from ..runtime.api import Completion, Lock
from ..runtime.disk import entropy
from ..storage.log import Chunk, Write
from ..storage.retention import named
from ..types import Clock, OffsetAndMetadata, OffsetAndTimestamp, PartitionInfo, Policy, TopicPartition
from . import controller, metadata
from .broker import Broker
from .groups import TOPIC_CONFIG as GROUPS_CONFIG
from .groups import Groups
from .metadata import Image, LogRecord, TopicView
from .replay import all_records
from .scheduler import Scheduler
from .waiting import ParkedFetch

logger = logging.getLogger("streamlog.broker")


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
        self.clock = clock
        self.scheduler = scheduler
        self.image: Image = metadata.EMPTY
        self.real_seconds = real_seconds
        self._defaults = defaults
        self._new_lock = new_lock
        self._lock = new_lock()
        self._partitions: dict[tuple[str, int], Partition] = {}
        self._policies: dict[str, Policy] = {}
        self._listeners: list[Callable[[], object]] = []
        self._groups: Groups | None = None
        self._closed: StreamlogError | None = None
        self._behind = False
        self._warned: set[UUID] = set()

    # -- life ----------------------------------------------------------------------------------------

    def open(self) -> None:
        """Replay the metadata and open every partition. On failure everything is let go."""
        broker = self._broker
        try:
            self._metadata = broker.open_metadata()
            self.image = metadata.replay(metadata.EMPTY, all_records(self._metadata))
            broker.remove_orphans({view.id.hex for view in self.image.topics.values()})
            self._follow(self.image)
            self._groups = Groups(self, self._new_lock())
            if controller.GROUPS_TOPIC in self.image.topics:
                self.scheduler.at(self.clock.time_ms(), self._groups.expire_offsets)
        except BaseException:
            for partition in self._partitions.values():
                partition.log.release()
            broker.close(clean=False)
            raise

    def _add(self, view: TopicView, number: int) -> None:
        partition = self._broker.open_partition(view, number)
        partition.custom_policy = self._policies.get(view.name)
        partition.on_work = self._maintain_soon
        self._partitions[view.name, number] = partition
        deadline = partition.maintain(self.clock.time_ms()) if partition.log.tail.end_offset else None
        if deadline is not None:
            self.scheduler.at(deadline, partition.maintain)

    def _maintain_soon(self, partition: Partition) -> None:
        self.scheduler.at(self.clock.time_ms(), partition.maintain)

    def close(self) -> None:
        """Close every partition, then the directory. Raises the first error, after all were let go."""
        error = ClosedError("The log was closed.")
        with self._lock:
            self._closed = error
            partitions = [*self._partitions.values(), self._metadata]
        first: StreamlogError | None = None
        clean = False
        try:
            for partition in partitions:
                self.scheduler.cancel(partition.maintain)
                try:
                    partition.close(error)
                except StreamlogError as failure:
                    first = first or failure
            clean = first is None
        finally:  # also when Ctrl-C comes in the middle: the lock must not outlive the log
            self._broker.close(clean=clean)
        if first is not None:
            raise first

    def abandon(self) -> None:
        """In a forked child: give up the lock's descriptor; write nothing, wait for nothing."""
        self._broker.abandon()

    # -- what groups need ----------------------------------------------------------------------------

    @property
    def incarnation(self) -> str:
        return self._broker.incarnation

    def groups_partition(self, create: bool) -> Partition | None:
        partition = self._partitions.get((controller.GROUPS_TOPIC, 0))
        if partition is None and self._behind:
            with self._lock:
                self._catch_up()
            partition = self._partitions.get((controller.GROUPS_TOPIC, 0))
        if partition is None and create:
            self._create(controller.GROUPS_TOPIC, 1, GROUPS_CONFIG, True)
            partition = self._partitions[controller.GROUPS_TOPIC, 0]
            self.scheduler.at(self.clock.time_ms() + 60_000, self._the_groups.expire_offsets)
        return partition

    def topic_counts(self) -> dict[str, int]:
        return {name: view.partitions for name, view in self.image.topics.items()}

    def new_id(self) -> str:
        return entropy(16).hex()

    @property
    def _the_groups(self) -> Groups:
        assert self._groups is not None, "the service was not opened"
        if self._closed is not None:
            raise self._closed.again()
        return self._groups

    # -- topics --------------------------------------------------------------------------------------

    def on_metadata(self, callback: Callable[[], object]) -> None:
        self._listeners.append(callback)

    def off_metadata(self, callback: Callable[[], object]) -> None:
        if callback in self._listeners:
            self._listeners.remove(callback)

    def topic(self, name: str) -> TopicView:
        if self._closed is not None:
            raise self._closed.again()
        return controller.find(self.image, name)

    def create_topic(
        self,
        name: str,
        partitions: int | None = None,
        settings: Mapping[str, Any] | None = None,
        *,
        exist_ok: bool = False,
    ) -> TopicView:
        defaults = dict(self._defaults)
        count = check_partitions(partitions if partitions is not None else defaults.pop("partitions", 1))
        defaults.pop("partitions", None)
        wanted = {**defaults, **(settings or {})}
        check_replication_factor(wanted.pop("replication_factor", 1))
        changes, policy = topic_changes(wanted)
        config = TopicConfig(**changes)
        try:
            if policy is not None and name not in self.image.topics:
                self._policies[name] = policy
            return self._create(name, count, config, False)
        except TopicAlreadyExistsError:
            if not exist_ok:
                raise
            view = self.topic(name)
            if policy is not None and policy.name == view.config.retention:
                self._policies[name] = policy
                with self._lock:
                    self._follow(self.image)
            return view
        except BaseException:
            if name not in self.image.topics:
                self._policies.pop(name, None)
            raise

    def _create(self, name: str, partitions: int, config: TopicConfig, internal: bool) -> TopicView:
        topic_id = UUID(bytes=entropy(16), version=4)
        self._change(lambda image: controller.create(image, name, topic_id, partitions, config, internal))
        return self.image.topics[name]

    def update_topic(self, name: str, settings: Mapping[str, Any]) -> None:
        changes, policy = topic_changes(settings)
        if "retention" in changes:
            self.topic(name)
            self._policies.pop(name, None)
            if policy is not None:
                self._policies[name] = policy
        self._change(lambda image: controller.alter(image, name, changes))

    def add_partitions(self, name: str, total: int) -> None:
        check_partitions(total)
        self._change(lambda image: controller.grow(image, name, total))

    def delete_topic(self, name: str) -> None:
        self._change(lambda image: controller.delete(image, name))
        self._policies.pop(name, None)

    def _change(self, request: Callable[[Image], LogRecord]) -> None:
        """Request → record → append → replay → have the partitions follow, under the metadata lock.

        An interrupt in the middle leaves the image, or the partitions, behind the log; so both are
        brought up to it before the next change.
        """
        with self._lock:
            if self._closed is not None:
                raise self._closed.again()
            self._catch_up()
            key, value = request(self.image)
            now = self.clock.time_ms()
            batch = columns.seal(self._metadata.log.seed, [key], [value], now, count=1)
            self._behind = True
            try:
                self._metadata.append(Write([batch]), now)
            except StreamlogError:
                self._behind = False
                raise
            self.image = image = metadata.replay(self.image, [(key, value)])
            self._follow(image)
            self._behind = False
        for listener in list(self._listeners):
            listener()
        if self._groups is not None and key != metadata.topic_key(controller.GROUPS_TOPIC):
            self._groups.metadata_changed()

    def _catch_up(self) -> None:
        """After an interrupted change: replay the metadata anew. REQUIRES: the metadata lock."""
        if self._behind:
            self.image = metadata.replay(metadata.EMPTY, all_records(self._metadata), self.image.version)
            self._follow(self.image)
            self._behind = False

    def _follow(self, image: Image) -> None:
        """Have a partition for each that the image names and no other, with its settings. Does no more than it must."""
        for (name, number), partition in list(self._partitions.items()):
            view = image.topics.get(name)
            if view is None or view.id_bytes != partition.topic_id:
                self._remove(partition)
        for name, view in image.topics.items():
            self._find_policy(view)
            for number in range(view.partitions):
                known = self._partitions.get((name, number))
                if known is None:
                    self._add(view, number)
                elif known.log.config is not view.config or known.custom_policy is not self._policies.get(name):
                    known.log.config = view.config
                    known.custom_policy = self._policies.get(name)
                    self._maintain_soon(known)

    def _remove(self, partition: Partition) -> None:
        name = partition.name
        self.scheduler.cancel(partition.maintain)
        partition.shut(gone(name))
        with partition.maintenance, partition.lock:
            partition.log.release()
        self._broker.remove_partition_files(partition.topic_id.hex(), name.partition)
        self._partitions.pop(name, None)

    def custom_policy(self, name: str) -> Policy | None:
        return self._policies.get(name)

    def _default_policy(self) -> Policy | None:
        policy: Policy | None = self._defaults.get("retention")
        return policy

    def _find_policy(self, view: TopicView) -> None:
        """Have the topic's named policy at hand: one that was given, or one of our own by its name, or warn."""
        wanted = view.config.retention
        known = self._policies.get(view.name)
        if wanted is None or (known is not None and known.name == wanted):
            return
        given = self._default_policy()
        found = given if given is not None and given.name == wanted else named(wanted)
        if found is not None:
            self._policies[view.name] = found
        elif view.id not in self._warned:
            self._warned.add(view.id)
            logger.warning(
                "topic %r was created with the retention policy %r, an object that cannot be stored: nothing is deleted "
                "from it until the policy is given again (create_topic(..., exist_ok=True, retention=policy))",
                view.name,
                wanted,
            )

    # -- records -------------------------------------------------------------------------------------

    def _partition(self, name: TopicPartition) -> Partition:
        partition = self._partitions.get(name)
        if partition is None and self._behind:
            with self._lock:
                self._catch_up()
            partition = self._partitions.get(name)
        if partition is None:
            if self._closed is not None:
                raise self._closed.again()
            controller.find(self.image, name[0])
            raise gone(TopicPartition(*name))
        return partition

    def produce(self, topic: TopicView, partition: int, write: Write) -> Completion[int]:
        here = self._partitions.get((topic.name, partition))
        if here is None or here.topic_id != topic.id_bytes:
            raise self._closed.again() if self._closed is not None else gone(TopicPartition(topic.name, partition))
        return Completion.of(here.append(write, self.clock.time_ms()))

    def settle(self, topic: TopicView, partition: int, write: Write) -> None:
        here = self._partitions.get((topic.name, partition))
        if here is not None and here.topic_id == topic.id_bytes:
            here.settle(write)

    def fetch(self, partition: TopicPartition, offset: int, max_bytes: int, isolation_level: str) -> Chunk:
        here = self._partitions.get(partition) or self._partition(partition)
        if here.closed is not None:
            raise here.closed.again()
        return here.log.fetch(offset, max_bytes, here.high_watermark)

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
