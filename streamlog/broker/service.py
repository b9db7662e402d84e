"""The Service protocol over directories that this process owns: of one broker, or of several that replicate."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..coordinator import GroupDescription, GroupListing, Heartbeat, HeartbeatResult
from ..errors import (
    ClosedError,
    ConfigError,
    DiskFullError,
    LogDirNotFoundError,
    NotLeaderError,
    PoisonedLogError,
    StorageError,
    StreamlogError,
    forked,
)
from ..records.single import SequencedRecord
from ..replication.partition import Partition
from ..runtime.api import AllDone, Completion, Gate, Lock, answering, failing
from ..runtime.disk import entropy
from ..runtime.threads import getpid
from ..runtime.values import raise_first, refuse_to_copy
from ..storage.files import stale_owner
from ..types import Clock, OffsetAndMetadata, TopicPartition
from . import controller, metrics
from .api import ProduceRequest, ProducerIdAndEpoch
from .brokers import Broker, Brokers
from .delayed_fetch import DelayedFetch, FetchRequest
from .group_coordinator import GroupCoordinator
from .group_shard import TOPIC_CONFIG as GROUPS_CONFIG
from .leader_moves import LeaderMoves
from .log_directory import LogDirectory
from .lost_partitions import accept_losses, known_ends
from .metadata import Image, TopicIdPartition
from .policies import RetentionPolicies
from .producer_ids import ProducerIdManager
from .reading import PartitionReads
from .real_timers import RealTimers
from .reassignments import Reassignments
from .replica_manager import ReplicaManager
from .scheduler import Scheduler
from .tailing.published_writer import PublishedWriter
from .topics import Topics
from .waiting import FetchSession

logger = logging.getLogger("streamlog.broker")

CATCH_UP_MS = 5_000
"""How long (real time) an open waits at most until the in-sync followers have what their leaders have."""
HAND_OVER_S = 5.0
"""How long (real time) stopping a broker waits at most until others have everything that it leads."""
WATCH_MS = 1000
"""How often a log with a background thread looks whether its directory is still there: two system calls."""


class LocalService:
    """See `api.Service`. Thread-safe. `open` first, `close` last."""

    __reduce_ex__ = refuse_to_copy

    def __init__(
        self,
        directories: Sequence[LogDirectory],
        clock: Clock,
        scheduler: Scheduler,
        maintenance: Scheduler,
        defaults: Mapping[str, Any],
        new_lock: Callable[[], Lock],
        new_gate: Callable[[], Gate],
        real_seconds: Callable[[], float],
        *,
        force: bool = False,
        replica_lag_ms: int = 30_000,
    ) -> None:
        self.durable = directories[0].sync
        self.clock = clock
        self.timers = scheduler
        self._maintenance = maintenance
        self.real_seconds = real_seconds
        self.real_timers = RealTimers(new_lock, lambda: self.real_seconds())
        self._new_lock = new_lock
        self._new_gate = new_gate
        self._force = force
        policies = RetentionPolicies(defaults.get("retention"))

        def new_broker(directory: LogDirectory) -> Broker:
            publisher = PublishedWriter(directory.disk, directory.path, new_lock, real_seconds)
            replicas = ReplicaManager(directory, publisher, policies, clock, scheduler, maintenance, self.real_timers)
            return Broker(directory, publisher, replicas)

        brokers = [new_broker(directory) for directory in directories]
        self.brokers = Brokers(brokers, lambda before: new_broker(before.directory.again()), self.real_timers.now_ms)
        self._failures: dict[int, StreamlogError] = {}
        self._replica_lag_ms = replica_lag_ms
        factor = self.brokers.factor(defaults.get("replication_factor"))
        controller.check_insync(defaults.get("min_insync_replicas", 1), factor)
        self.is_replicated = self.brokers.is_replicated
        self.acknowledges_later = self.durable or self.is_replicated
        self._partitions = self.brokers.leaders
        topics = self._topics = Topics(self.brokers, policies, defaults, clock, scheduler, new_lock())
        self._partition = topics.partition
        self.topic = answering(topics.topic)
        self.create_topic = answering(topics.create_topic)
        self.update_topic = answering(topics.update_topic)
        self.add_partitions = answering(topics.add_partitions)
        self.delete_topic = answering(topics.delete_topic)
        self._leader_moves = LeaderMoves(topics, self.brokers, self.real_timers)
        self.elect_leader = failing(self._leader_moves.begin)
        moving = self._reassignments = Reassignments(topics, self.brokers, self._leader_moves, self.real_timers)
        self.reassign = answering(moving.begin)
        self.cancel_reassignment = answering(moving.cancel)
        self.reassignments = moving.all
        self.reassignment_progress = moving.progress
        self.await_reassignment = moving.wait
        self.on_metadata = topics.on_metadata
        self.off_metadata = topics.off_metadata
        reads = PartitionReads(self._partitions, self._partition, self.is_replicated)
        self.fetch = reads.fetch
        self.after_damage = answering(reads.after_damage)
        self.bounds = answering(reads.bounds)
        self.find_offset = answering(reads.find_offset)
        self.epoch_end_offset = answering(reads.epoch_end_offset)
        self.partition_info = answering(reads.partition_info)
        self._producer_ids = ProducerIdManager(topics.allocate_producer_ids)
        self._groups: GroupCoordinator | None = None
        self._blocked: list[tuple[Partition, StreamlogError]] = []

    @property
    def image(self) -> Image:
        return self._topics.image

    seen_image = image

    def has_background_thread(self) -> None:
        """A thread runs the scheduler: appends leave the waking of many readers to it. Call it before `open`."""
        for broker in self.brokers.all:
            broker.replicas.has_thread = True

    # -- life ----------------------------------------------------------------------------------------

    def open(self) -> None:
        """Replay the metadata, open every partition, look at the groups. If it fails, everything is released."""
        brokers = self.brokers
        try:
            self._open_brokers()
            self._open_groups()
            brokers.recovered()
        except BaseException:
            brokers.release()
            raise
        for broker in brokers.all:
            self._watch_stale(broker)
        self.on_metadata(self._the_groups.metadata_changed)
        if brokers.all[0].replicas.has_thread:
            self.timers.at(self.clock.time_ms() + WATCH_MS, self._watch_directory)
        if controller.GROUPS_TOPIC in self.image.topics:
            self.timers.at(self.clock.time_ms(), self._the_groups.expire_offsets)
        if self.is_replicated:
            self._reassignments.open()
            brokers.on_isr_change = self._check_isrs_soon
            brokers.on_failure = self.report_failure
            self._check_isrs_soon()  # followers may have caught up while it was opened

    def _open_brokers(self) -> None:
        brokers, topics = self.brokers, self._topics
        directory = brokers.all[0].directory
        published = known_ends(directory.disk, directory.path) if self._force and not self.is_replicated else {}
        for broker in brokers.all:
            broker.publisher.open(int(broker.directory.incarnation), getpid())
        image = topics.open(brokers.open_metadata())
        brokers.require_all(image)
        brokers.remove_orphans(image)
        if self._force and not self.is_replicated:
            accept_losses(directory, image, published)
        brokers.start_fetchers(topics.register_brokers())
        brokers.follow(image)
        if self.is_replicated:
            topics.alter_partitions(brokers.leaders_after_opening(image))
            brokers.catch_up(self.real_timers.now_ms() + CATCH_UP_MS)

    # -- brokers that stop, fail and come back -------------------------------------------------------

    def _watch_stale(self, broker: Broker) -> None:
        if not self.is_replicated:
            broker.directory.on_stale = self.shut
            return
        path, broker_id = broker.directory.path, broker.id
        broker.directory.on_stale = lambda: self.report_failure(broker_id, stale_owner(path))

    def report_failure(self, broker_id: int, error: StreamlogError) -> None:
        """The disk under a broker fails: have others lead its partitions, soon, on the thread of the timers. Takes no lock.

        The last broker that runs is kept, and so are all whose disk is full, if it is full under every other one too.
        """
        self._failures.setdefault(broker_id, error)
        self.real_timers.at(self.real_timers.now_ms(), self._replace_failed)

    def _replace_failed(self, now_ms: int) -> int | None:
        for broker_id, error in list(self._failures.items()):
            self._failures.pop(broker_id, None)
            running = self.brokers.running
            others = [broker for broker in running if broker.id != broker_id]
            if self._topics.closed is not None or not others or len(others) == len(running):
                continue
            if isinstance(error, DiskFullError) and not any(broker.has_space() for broker in others):
                continue
            logger.error("broker %d has failed, and others lead its partitions: %s", broker_id, error)
            broker = self.brokers.by_id(broker_id)
            if self._topics.stop_broker(broker_id, error):
                self.brokers.close_broker(broker, error)
        return None

    def stop_broker(self, broker_id: int) -> None:
        """Stop a broker: others lead its partitions, when they have everything. Raises ConfigError for the last one that runs."""
        broker = self.brokers.by_id(broker_id)
        error = NotLeaderError(f"Broker {broker_id} was stopped. Another one leads its partitions; try again.")
        led = self.brokers.led_by(broker_id)
        for partition in led:
            partition.block(error)
        try:
            deadline = self.real_seconds() + HAND_OVER_S
            while self.real_seconds() < deadline and any(
                each.has_successors and not each.is_replicated for each in led
            ):
                self._new_gate().wait(0.001)
            if self._topics.stop_broker(broker_id, None):
                raise_first(self.brokers.close_broker(broker, error))
        finally:
            for partition in led:
                partition.unblock(error)

    def start_broker(self, broker_id: int, lock_timeout: float) -> None:
        """Start a broker that was stopped or has failed. A directory that is missing or empty is made anew, and filled."""
        self._topics.start_broker(broker_id, lock_timeout)
        self._watch_stale(self.brokers.by_id(broker_id))

    def broker_paths(self) -> dict[int, str]:
        return {broker.id: broker.directory.path for broker in self.brokers.all}

    def is_running(self, broker_id: int) -> bool:
        return self._topics.closed is None and self.brokers.by_id(broker_id).running

    # -- replicas ------------------------------------------------------------------------------------

    def _check_isrs_soon(self) -> None:
        self.real_timers.at(self.real_timers.now_ms(), self._check_isrs)

    def _check_isrs(self, now_ms: int) -> int:
        """Record the in-sync sets that the leaders ask for; when to come again (ms of real time)."""
        later = now_ms + self._replica_lag_ms // 2
        if self._topics.closed is None:
            self._topics.alter_partitions(self.brokers.wanted_isrs(now_ms, self._replica_lag_ms))
        return later

    def _open_groups(self) -> None:
        """Make the groups; after a crash, lower commits past the end of a log before that takes its first record."""
        self._groups = GroupCoordinator(self, self._new_lock)
        if all(broker.directory.crash.clean for broker in self.brokers.all):
            return
        partitions = self._partitions.values()
        ends = {each.name: each.log.tail.end_offset for each in partitions if each.log.knows_its_end}
        lossy = [each.name for each in partitions if each.log.may_have_lost_its_end]
        for name, error in self._groups.recover(ends, lossy).items():
            partition, refusal = self._partition(name), _commits_beyond(name, error)
            partition.block(refusal)
            self._blocked.append((partition, refusal))

    def _may_append(self) -> bool:
        """Try again to remove what a partition refused records for: a change of unknown outcome, or commits past the end."""
        changed = self._topics.resolve_refused()
        if self._blocked and self._the_groups.recover_again():
            changed = True
            for each in self._blocked[:]:
                partition, refusal = each
                partition.unblock(refusal)
                with contextlib.suppress(ValueError):  # another thread was faster
                    self._blocked.remove(each)
        return changed

    def close(self) -> None:
        """Close every partition, then the directory. Raises the first error, after everything was closed."""
        error = ClosedError("The log was closed.")
        errors: list[BaseException] = []
        clean = False
        try:
            self._leader_moves.close(error)
            self._reassignments.close(error)
            partitions = self._topics.close(error)
            errors += self.brokers.close(partitions, error)
            clean = not errors and self._topics.is_resolved
        finally:  # also when Ctrl-C comes in the middle: the lock must not outlive the log
            self.brokers.close_directories(clean=clean)
        raise_first(errors)

    def check_owned(self) -> None:
        """Raise LogDirNotFoundError, and refuse every call with it, if the directory is not the one that was opened."""
        for broker in self.brokers.running:
            try:
                broker.directory.check_owned()
            except LogDirNotFoundError as error:
                if not self.is_replicated:
                    raise
                self.report_failure(broker.id, error)

    def _watch_directory(self, now_ms: int) -> int | None:
        """Look, once a second, whether the directory is the one that was opened: a send does not.

        Without this a program that only sends would write to removed files, and lose all of it without a word.
        """
        was_shut = self._topics.closed is not None
        with contextlib.suppress(StreamlogError):  # not known: the next look may tell
            self.check_owned()
        if self._topics.closed is None:
            return now_ms + WATCH_MS
        if not was_shut:
            logger.error("%s", self._topics.closed)
        return None

    def shut(self) -> None:
        """The directory is not the one that was opened: refuse every call. Takes no lock: the caller may hold any."""
        error = stale_owner(self.brokers.stale_path())
        self._topics.closed = self._topics.closed or error
        for broker in self.brokers.all:
            broker.replicas.shut(error)

    def abandon(self) -> None:
        """In a forked child: give up the descriptor of the lock; write nothing, wait for nothing."""
        error = self._topics.closed = forked()
        self.brokers.abandon(error)

    # -- what groups need ----------------------------------------------------------------------------

    @property
    def incarnation(self) -> str:
        return "/".join(broker.directory.incarnation for broker in self.brokers.all)

    def groups_partition(self, number: int, create: bool) -> Partition | None:
        name = TopicPartition(controller.GROUPS_TOPIC, number)
        if name.topic not in self.image.topics:
            if not create:
                return None
            self._topics.create_internal(name.topic, 1, GROUPS_CONFIG)
            self.timers.at(self.clock.time_ms() + 60_000, self._the_groups.expire_offsets)
        return self._partition(name)

    def new_id(self) -> str:
        return entropy(16).hex()

    def _require_open(self) -> None:
        if self._topics.closed is not None:
            raise self._topics.closed.copy()

    @property
    def _the_groups(self) -> GroupCoordinator:
        assert self._groups is not None, "the service was not opened"
        self._require_open()
        return self._groups

    # -- records -------------------------------------------------------------------------------------

    def fetch_many(
        self, requests: Sequence[FetchRequest], isolation_level: str, *, min_bytes: int = 1,
        max_wait_ms: int | None = None, replica_id: int = -1,
    ) -> DelayedFetch:  # fmt: skip
        return DelayedFetch(self, requests, isolation_level, min_bytes, max_wait_ms, replica_id, self._new_lock())

    def fetch_session(self, wake: Callable[[], object]) -> FetchSession:
        return FetchSession(self._partitions.get, wake)

    def require_writable(self, what: str) -> None:
        """This process owns the log."""

    def _find(self, at: TopicIdPartition) -> Partition:
        """The partition of this very topic, not of another under its name. Raises UnknownTopicOrPartitionError, ClosedError."""
        topic, number, topic_id = at
        here = self._partitions.get((topic, number))
        if here is not None and here.topic_id == topic_id:
            return here
        self._require_open()
        view = self.image.topics.get(topic)
        if view is None or view.id_bytes != topic_id or number >= view.partitions:
            raise controller.unknown_partition(TopicPartition(topic, number))
        raise controller.no_leader(self.image, TopicPartition(topic, number))

    @failing
    def produce(self, request: ProduceRequest) -> Completion[int]:
        now_ms, append = self.clock.time_ms(), request.append
        here = self._find(request.partition)
        append.batches = here.validator.validated(append.batches, now_ms)
        if request.acks == "all" and here.replicas is not None:
            here.require_in_sync()
        try:
            here.append(append, now_ms)
        except StreamlogError as error:
            if not self._may_append():
                self._report(here, error)
                raise
        else:
            return self._acknowledged(here, request)
        here = self._find(request.partition)
        here.append(append, self.clock.time_ms())
        return self._acknowledged(here, request)

    def _acknowledged(self, here: Partition, request: ProduceRequest) -> Completion[int]:
        """REQUIRES: the request is in the log."""
        request.log_start_offset = here.reader.tail.start_offset
        timeout_ms = request.timeout_ms
        deadline_ms = None if timeout_ms is None else self.real_timers.now_ms() + timeout_ms
        done = here.acknowledge(request.append, deadline_ms)
        if request.acks == 0 and not done.done():  # readers see it only after its sync, which no caller waits for
            if done.work is not None:
                done.work.soon()
            return Completion.of(request.base_offset)
        if request.acks == 1 and here.replicas is not None:
            return here.acknowledge_alone(request.append, deadline_ms)
        return done

    def produce_one(
        self, partition: TopicIdPartition, key: bytes | None, value: bytes, timestamp: int, now_ms: int,
        sequenced: SequencedRecord | None = None,
    ) -> int:  # fmt: skip
        topic, number, topic_id = partition
        here = self._partitions.get((topic, number))
        if here is None or here.topic_id != topic_id:
            here = self._find(partition)
        rules = here.validator
        if (rules.keyless_bytes if key is None else len(key)) + len(
            value
        ) > rules.max_bytes or not 0 <= timestamp <= now_ms + rules.after_max_ms:
            rules.check_one(key, value, timestamp, now_ms)
        try:
            return here.append_one(key, value, timestamp, now_ms, sequenced)
        except StreamlogError as error:
            if not self._may_append():
                self._report(here, error)
                raise
        return self._find(partition).append_one(key, value, timestamp, now_ms, sequenced)

    def _report(self, here: Partition, error: StreamlogError) -> None:
        """An append has failed: if the disk has, and another replica can lead, raise NotLeaderError, which can be retried."""
        if not here.has_successors or not isinstance(error, (StorageError, PoisonedLogError)):
            return
        if isinstance(error, DiskFullError) and not any(
            broker.has_space() for broker in self.brokers.running if broker.id != here.broker_id
        ):
            return
        self.report_failure(here.broker_id, error)
        raise NotLeaderError(
            f"Broker {here.broker_id}, which led {here.name.topic}-{here.name.partition}, has failed ({error}). Another one is "
            f"about to lead it; try again."
        ) from error

    def produce_one_later(
        self, partition: TopicIdPartition, key: bytes | None, value: bytes, timestamp: int, now_ms: int
    ) -> Completion[int]:
        here = self._find(partition)
        here.validator.check_one(key, value, timestamp, now_ms)
        if here.replicas is not None:
            here.require_in_sync()
        try:
            return here.append_one_later(key, value, timestamp, now_ms)
        except StreamlogError as error:
            if not self._may_append():
                self._report(here, error)
                raise
        return self._find(partition).append_one_later(key, value, timestamp, now_ms)

    def settle(self, request: ProduceRequest) -> Completion[int] | None:
        topic, number, topic_id = request.partition
        here = self._partitions.get((topic, number))
        if here is None or here.topic_id != topic_id:
            return None
        here.settle(request.append)
        return self._acknowledged(here, request) if request.base_offset >= 0 else None

    def sync(self) -> Completion[None]:
        if self._topics.closed is not None:
            return Completion.failed(self._topics.closed.copy())
        copies, others = self.brokers.partitions()
        return AllDone([partition.commit.everything() for partition in (*copies, *others)])

    @answering
    def delete_records(self, partition: TopicPartition, before: int) -> int:
        return self._partition(partition).delete_records(before)

    def _each(self, name: str) -> list[Partition]:
        return [self._partition(TopicPartition(name, n)) for n in range(self._topics.topic(name).partitions)]

    @answering
    def apply_retention(self, name: str) -> None:
        now = self.clock.time_ms()
        for partition in self._each(name):
            partition.maintenance.roll(now)
            partition.maintenance.apply_retention(now)

    @answering
    def compact(self, name: str) -> None:
        if not self._topics.topic(name).config.compacts:
            raise ConfigError(
                f"Topic {name!r} is not compacted (cleanup_policy='delete'). "
                f"Change it with update_config(cleanup_policy='compact').",
                name="cleanup_policy",
            )
        now = self.clock.time_ms()
        for partition in self._each(name):
            partition.maintenance.roll(now)
            partition.maintenance.compact(now)
            deadline = partition.log.next_horizon
            if deadline is not None:
                self._maintenance.at(deadline, partition.maintenance.step)

    @answering
    def init_producer_id(self) -> ProducerIdAndEpoch:
        return ProducerIdAndEpoch(self._producer_ids.next_id(), 0)

    # -- groups --------------------------------------------------------------------------------------

    @failing
    def heartbeat(self, request: Heartbeat) -> Completion[HeartbeatResult]:
        return self._the_groups.heartbeat(request)

    def renew(self, group: str, member_id: str, seen_version: int) -> bool:
        return self._the_groups.renew(group, member_id, seen_version)

    @failing
    def leave_group(self, group: str, member_id: str, *, force: bool = False) -> Completion[None]:
        return self._the_groups.leave(group, member_id, force)

    def watch_group(self, group: str, callback: Callable[[], object], member_id: str | None = None) -> None:
        self._the_groups.watch(group, callback, member_id)

    def unwatch_group(self, group: str, callback: Callable[[], object], member_id: str | None = None) -> None:
        if self._groups is not None:
            self._groups.unwatch(group, callback, member_id)

    @failing
    def commit(
        self,
        group: str,
        member_id: str | None,
        member_epoch: int,
        offsets: Mapping[TopicPartition, OffsetAndMetadata],
        topic_ids: Mapping[TopicPartition, bytes] | None = None,
    ) -> Completion[None]:
        for name in offsets:
            if topic_ids is None or name not in topic_ids:
                self._partition(name)
        return self._the_groups.commit(group, member_id, member_epoch, offsets, topic_ids)

    @answering
    def committed(
        self,
        group: str,
        partitions: Iterable[TopicPartition] | None,
        topic_ids: Mapping[TopicPartition, bytes] | None = None,
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        return self._the_groups.committed(group, partitions, topic_ids)

    @answering
    def describe_group(self, group: str) -> GroupDescription:
        return self._the_groups.describe(group)

    @answering
    def list_groups(self, states: Iterable[str] = (), types: Iterable[str] = ()) -> list[GroupListing]:
        return self._the_groups.list(states, types)

    @failing
    def delete_offsets(
        self, group: str, partitions: Iterable[TopicPartition]
    ) -> Completion[dict[TopicPartition, StreamlogError]]:
        return self._the_groups.delete_offsets(group, partitions)

    @failing
    def delete_group(self, group: str) -> Completion[None]:
        return self._the_groups.delete(group)

    # -- figures -------------------------------------------------------------------------------------

    def metrics(self) -> dict[str, Any]:
        """See `metrics.gather`: plain numbers, counted since the log was opened, and what fails in the background now."""
        now_ms = self.real_timers.now_ms()

        def numbers(topic: str, number: int) -> Mapping[str, Any]:
            leader = self._partitions.get((topic, number))
            return {} if leader is None else metrics.of_leader(leader, now_ms)

        brokers = self.brokers
        found = metrics.gather(
            self.image,
            numbers,
            {each.id: {"path": each.directory.path, "running": each.running} for each in brokers.all},
        )
        found["replication"] |= {"isr_shrinks": brokers.isr_shrinks, "isr_expands": brokers.isr_expands}
        return found


def _commits_beyond(name: TopicPartition, error: StreamlogError) -> StreamlogError:
    """The error of an append while groups have committed past the end of the partition."""
    kind = DiskFullError if isinstance(error, DiskFullError) else StorageError
    made = kind(
        f"{name.topic}-{name.partition} takes no records yet: the machine went down and took its last ones, a group had "
        f"committed past the end that is left, and would skip what comes now. Lowering its commit failed ({error}). Make room, "
        f"or look at the disk, and send again: it is tried again first.",
        path=getattr(error, "path", ""),
        errno=getattr(error, "errno", 0),
    )
    made.__cause__ = error
    return made
