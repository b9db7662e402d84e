"""The Service protocol over directories that this process owns: of one broker, or of several that replicate."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from ..coordinator import GroupDescription, GroupListing, Heartbeat, HeartbeatResult
from ..coordinator.messages import (
    ClassicGroupConfig,
    JoinGroup,
    JoinGroupResult,
    MemberIdentity,
    SyncGroup,
    SyncGroupResult,
)
from ..errors import (
    ClosedError,
    ConfigError,
    DiskFullError,
    FormatError,
    LogDirNotFoundError,
    NotLeaderError,
    StorageError,
    StreamlogError,
    forked,
)
from ..replication.partition import Partition
from ..replication.replica_set import NO_LEADER
from ..replication.scrub import START_MS, Scrub
from ..replication.throttle import ReplicationQuota, ReplicationThrottle
from ..replication.transactions import TransactionMarker
from ..runtime.api import AllDone, Completion, Gate, Lock, Task, answering, failing
from ..runtime.disk import entropy
from ..runtime.values import raise_first, refuse_to_copy
from ..storage.files import stale_owner
from ..types import Clock, OffsetAndMetadata, PartitionInfo, TopicPartition
from . import controller, disk_watch, metrics
from .api import REQUEST_TIMEOUT_MS
from .appending import PartitionAppends
from .broker import Broker
from .broker_changes import BrokerChanges
from .brokers import WATCH_MS, Brokers
from .delayed_fetch import DelayedFetch, FetchRequest
from .descriptions import Descriptions
from .group_coordinator import GroupCoordinator, partition_for
from .leader_moves import LeaderMoves
from .log_directory import LogDirectory
from .lost_partitions import accept_losses, known_ends
from .metadata import Image
from .monotonic_timers import MonotonicTimers
from .policies import RetentionPolicies
from .producer_ids import ProducerIdManager
from .reading import PartitionReads
from .real_timers import RealTimers
from .reassignments import Reassignments
from .replica_manager import ReplicaManager
from .scheduler import Scheduler
from .tailing.published_writer import PublishedWriter
from .topics import Topics
from .transaction_coordinator import TransactionCoordinator
from .waiting import FetchSession

logger = logging.getLogger("streamlog.broker")

CATCH_UP_MS = 5_000
"""How long (real time) an open waits at most until the in-sync followers have what their leaders have."""
# The calls, but for those of producers and readers, that may meet a disk which has failed under one broker of several.
_MAY_MEET_A_FAILURE = (
    "abort_transaction", "add_offsets_to_txn", "add_partitions", "add_partitions_to_txn", "apply_retention", "classic_heartbeat",
    "commit", "committed", "compact", "create_topic", "delete_group", "delete_offsets", "delete_records", "delete_topic", "describe_group",
    "describe_transaction", "end_txn", "heartbeat", "init_producer_id", "join_group", "leave_classic_group",
    "leave_group", "list_groups", "list_transactions", "load_groups", "reassign", "rebalance_group", "sync_group", "txn_commit_offsets",
    "update_kafka_config", "update_topic",
)  # fmt: skip


class BrokerThreads(Protocol):
    """The threads of one broker: what publishes for it, and what fetches for it."""

    def begin(self, broker: Broker) -> None: ...
    def stop(self) -> None: ...


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
        root: str | None = None,
        count: int | None = None,
        lock_timeout: float = 0.0,
        force: bool = False,
        replica_lag_ms: int = 30_000,
        is_temporary: bool = False,
    ) -> None:
        """`root`: see `Brokers`. `count`: how many brokers the log is said to have, or None."""
        self.durable = directories[0].sync
        self.clock = clock
        self.timers = scheduler
        self._maintenance = maintenance
        self.real_seconds = real_seconds
        self.real_timers = RealTimers(new_lock, lambda: self.real_seconds())
        self.monotonic_timers = MonotonicTimers(new_lock, clock) if hasattr(clock, "attach") else self.real_timers
        self._new_lock = new_lock
        self._new_gate = new_gate
        self._count = count
        self._lock_timeout = lock_timeout
        self._force = force
        self._has_thread = False
        self._defaults = defaults
        policies = RetentionPolicies(defaults.get("retention"))
        self._is_temporary = is_temporary
        self.brokers = Brokers(
            [self._broker_in(directory, policies) for directory in directories],
            lambda path, broker_id: self._broker_in(directories[0].beside(path, broker_id), policies),
            self.real_timers.now_ms,
            self._new_throttle,
            root,
        )
        self.new_threads: Callable[[str], BrokerThreads] | None = None
        self.incarnation = ""
        """Names this run of the log."""
        self._replica_lag_ms = replica_lag_ms
        self.is_replicated = self.brokers.is_replicated
        self.acknowledges_later = self.durable or self.is_replicated
        self._partitions = self.brokers.leaders
        self._topics = Topics(self.brokers, policies, defaults, clock, scheduler, new_lock())
        self._partition = self.leader = self._topics.partition
        self._changes = BrokerChanges(self._topics, self.brokers, self.real_timers, new_gate, self.shut, self._started)
        self._leader_moves = LeaderMoves(self._topics, self.brokers, self.real_timers, self._changes.moved)
        self._reassignments = Reassignments(self._topics, self.brokers, self._leader_moves, self.real_timers)
        self._scrub = Scrub(lambda: self.brokers.replicas())
        self._transactions = TransactionCoordinator(
            self, ProducerIdManager(self._topics.allocate_producer_ids, new_lock()).next_id, new_lock
        )
        self._groups: GroupCoordinator | None = None
        self.classic_group_config = ClassicGroupConfig()
        self._blocked: list[tuple[Partition, StreamlogError]] = []
        self._serve_administrators()
        self._serve_producers()
        self._serve_readers()
        self._serve_transactions()

    def _serve_administrators(self) -> None:
        topics, moving = self._topics, self._reassignments
        self.topic = answering(topics.topic)
        self.create_topic = answering(topics.create_topic)
        self.update_topic = answering(topics.update_topic)
        self.update_kafka_config = answering(topics.update_kafka_config)
        self.validate_topic = answering(topics.validate_topic)
        self.add_partitions = answering(topics.add_partitions)
        self.delete_topic = answering(topics.delete_topic)
        self.on_metadata = topics.on_metadata
        self.off_metadata = topics.off_metadata
        descriptions = Descriptions(self.brokers, topics.partition)
        self.describe_log_dir = answering(descriptions.log_dir)
        self.describe_quorum = answering(descriptions.quorum)
        self.describe_producers = answering(lambda at: descriptions.producers(at, self.clock.time_ms()))
        self.elect_leader = failing(self._leader_moves.begin)
        self.reassign = answering(moving.begin)
        self.cancel_reassignment = answering(moving.cancel)
        self.reassignments = moving.all
        self.retire_broker = answering(moving.retire)
        self.reassignment_progress = moving.progress
        self.await_reassignment = moving.wait

    def _serve_producers(self) -> None:
        appends = PartitionAppends(
            self._topics,
            self.brokers,
            self._changes,
            self.clock,
            self.real_timers,
            lambda: self._may_append(),
            lambda *batch: self._transactions.verify(*batch),
        )
        self.produce = failing(appends.produce)
        self.produce_one = appends.produce_one
        self.produce_one_later = appends.produce_one_later
        self.settle = appends.settle
        self._append_marker = appends.append_marker
        self.producer_state = answering(appends.producer_state)

    def _serve_readers(self) -> None:
        reads = PartitionReads(self._partitions, self._partition, self.is_replicated)
        self.fetch = reads.fetch
        self.fetch_elsewhere = reads.fetch_elsewhere
        self.fetch_size = reads.fetch_size
        self.before_wait = reads.before_wait
        self.after_damage = answering(reads.after_damage)
        self.bounds = answering(reads.bounds)
        self.find_offset = answering(reads.find_offset)
        self.end_for_time = answering(reads.end_for_time)
        self.has_every_offset = answering(reads.has_every_offset)
        self.epoch_end_offset = answering(reads.epoch_end_offset)
        self._partition_info = reads.partition_info

    def _serve_transactions(self) -> None:
        transactions = self._transactions
        self.init_producer_id = failing(transactions.init_producer_id)
        self.add_partitions_to_txn = failing(transactions.add_partitions)
        self.add_offsets_to_txn = failing(transactions.add_offsets)
        self.txn_commit_offsets = failing(transactions.commit_offsets)
        self.end_txn = failing(transactions.end)
        self.list_transactions = answering(transactions.all)
        self.describe_transaction = answering(transactions.describe)
        self.abort_transaction = failing(transactions.abort)

    def _broker_in(self, directory: LogDirectory, policies: RetentionPolicies) -> Broker:
        publisher = PublishedWriter(directory.disk, directory.path, self._new_lock, self.real_seconds)
        publisher.is_silent = self._is_temporary
        replicas = ReplicaManager(
            directory, publisher, policies, self.clock, self.timers, self._maintenance, self.real_timers
        )
        replicas.has_thread = self._has_thread
        return Broker(directory, publisher, replicas)

    @property
    def image(self) -> Image:
        return self._topics.image

    seen_image = image

    def has_background_thread(self) -> None:
        """A thread runs the scheduler: appends leave the waking of many readers to it. Call it before `open`."""
        self._has_thread = True
        self.brokers.watch.limit_ms = max(disk_watch.LEAST_MS, self._replica_lag_ms)
        for broker in self.brokers.all:
            broker.replicas.has_thread = True

    # -- life ----------------------------------------------------------------------------------------

    def take_directories(self) -> None:
        """Open the directories of the brokers, as far as they are there. Comes before `open`."""
        self.brokers.take_directories(self._lock_timeout, self._check_defaults)

    def _check_defaults(self, brokers: int) -> None:
        """Raise ConfigError if the defaults of new topics ask for more replicas than there are brokers."""
        factor = controller.check_factor(self._defaults.get("replication_factor"), brokers)
        controller.check_insync(self._defaults.get("min_insync_replicas", 1), factor)

    def open(self) -> None:
        """Replay the metadata, open every partition, look at the groups. If it fails, everything is released."""
        brokers = self.brokers
        try:
            self._open_brokers()
            self._open_groups()
            if brokers.may_have_lost_records:
                self._transactions.recover(self._partitions)
            brokers.recovered()
        except BaseException:
            brokers.release()
            raise
        for broker in brokers.running:
            self._changes.watch_stale(broker)
        self.on_metadata(self.groups.metadata_changed)
        self.on_metadata(self._transactions.metadata_changed)
        if self._has_thread and not self.is_replicated:
            self.timers.at(self.clock.time_ms() + WATCH_MS, self._watch_directory)
        if controller.GROUPS_TOPIC in self.image.topics:
            self.timers.at(self.clock.time_ms(), self.groups.expire_offsets)
        if self.is_replicated:
            self._reassignments.open()
            moves = self._changes.answering_moves
            self.__dict__.update({name: moves(getattr(self, name)) for name in _MAY_MEET_A_FAILURE})
            brokers.on_isr_change = self._check_isrs_soon
            brokers.on_failure = self._changes.report_failure
            brokers.check_owned = self._check_owned
            self._maintenance.at(self.clock.time_ms() + START_MS, self._scrub.step)
            self._check_isrs_soon()  # followers may have caught up while it was opened
        self._transactions.open()

    def _open_brokers(self) -> None:
        brokers, topics = self.brokers, self._topics
        directory = brokers.all[0].directory
        published = known_ends(directory.disk, directory.path) if self._force and not self.is_replicated else {}
        first = brokers.open_metadata(
            self._lock_timeout, force=self._force, count=self._count, check=self._check_defaults
        )
        image = topics.open(first)
        self.incarnation = brokers.run_id.hex() if brokers.is_replicated else brokers.all[0].directory.incarnation
        brokers.require_all(image)
        brokers.remove_orphans(image)
        if self._force and not self.is_replicated:
            accept_losses(directory, image, published)
        brokers.start_fetchers(topics.register_brokers())
        for broker, error in brokers.open_replicas(image):
            logger.error("broker %d does not run, for a replica of it cannot be opened: %s", broker.id, error)
            topics.stop_broker(broker.id, error)
            brokers.close_broker(broker, error)
        image = topics.image
        brokers.follow(image)
        if self.is_replicated:
            topics.record_alone()
            topics.alter_partitions(brokers.leaders_after_opening(image))
            topics.elect()  # of partitions of which no in-sync replica is here: where that is allowed
            brokers.leadership.catch_up(self.real_timers.now_ms() + CATCH_UP_MS)

    def stop_broker(self, broker_id: int) -> None:
        self._changes.stop(broker_id)

    def start_broker(self, broker_id: int) -> None:
        self._changes.start(broker_id)

    def _started(self, broker: Broker) -> None:
        self._scrub.look_at(broker.replicas.all())
        self._maintenance.at(self.clock.time_ms(), self._scrub.step)

    # -- the set of brokers --------------------------------------------------------------------------

    def add_broker(self, path: str) -> int:
        """Have a new, empty directory be that of another broker; its id. See `StreamLog.add_broker`."""
        path = self.brokers.all[0].directory.absolute(path)
        self._check_new_directory(path)
        threads = None if self.new_threads is None else self.new_threads(path)
        try:
            broker_id = self._topics.add_broker(path)
        finally:
            for broker in [each for each in self.brokers.all if each.directory.path == path]:
                self._changes.watch_stale(broker)
                if threads is not None:
                    threads.begin(broker)
                    threads = None
            if threads is not None:
                threads.stop()
        return broker_id

    def _check_new_directory(self, path: str) -> None:
        """Raise ConfigError if no broker can be added there."""
        brokers, root = self.brokers.all, self.brokers.root
        first = brokers[0].directory
        if self._is_temporary:
            raise ConfigError(
                "This log is temporary: it is removed at close, with the directories of its brokers, so none of yours can be one of them. "
                "Open a log with a path, or a temporary one of more brokers: streamlog.open(brokers=4).",
                name="path",
            )
        if not self.is_replicated:
            raise ConfigError(
                f"This log has one broker, whose directory is the log's own, and cannot get others while it is open. Close it, and "
                f"open it with a second directory: streamlog.open(brokers=[{first.path!r}, {path!r}]). Then it can get more.",
                name="path",
            )
        for broker in brokers:
            if f"{path}/".startswith(f"{broker.directory.path}/"):
                raise ConfigError(f"{path} is in the directory of broker {broker.id}. Give another one.", name="path")
        try:
            is_empty = not first.beside(path, 0).is_there()
        except FormatError:  # it has other files
            is_empty = False
        if not is_empty:
            raise ConfigError(
                f"{path} is not an empty directory. Give one that is empty, or a path where nothing is yet.",
                name="path",
            )
        own = f"{root}/broker-{self.image.next_broker_id}"
        if root is not None and path.startswith(f"{root}/") and path != own:
            raise ConfigError(
                f"{path} is in {root}, which has only the directories of brokers, by their numbers. Give {own}, or one elsewhere.",
                name="path",
            )

    @property
    def cluster_id(self) -> str:
        return next(broker.directory.cluster_id for broker in self.brokers.all if broker.running)

    def broker_paths(self) -> dict[int, str]:
        return {broker.id: broker.directory.path for broker in self.brokers.all}

    def is_running(self, broker_id: int) -> bool:
        return self._topics.closed is None and any(broker.id == broker_id for broker in self.brokers.running)

    # -- replicas ------------------------------------------------------------------------------------

    def _new_throttle(self, quota: ReplicationQuota, wake: Task) -> ReplicationThrottle:
        clock = self.clock
        return ReplicationThrottle(quota, clock.monotonic, lambda ms: self.timers.at(clock.time_ms() + ms, wake))

    @property
    def replication_throttle(self) -> int | None:
        return self.brokers.quota.bytes_per_s

    @replication_throttle.setter
    def replication_throttle(self, bytes_per_s: int | None) -> None:
        self.brokers.quota.bytes_per_s = bytes_per_s
        for broker in list(self.brokers.all):
            broker.wake()

    def _check_isrs_soon(self) -> None:
        self.real_timers.at(self.real_timers.now_ms(), self._check_isrs)

    def _check_isrs(self, now_ms: int) -> int:
        """Record the in-sync sets that the leaders ask for; when to come again (ms of real time)."""
        later = now_ms + self._replica_lag_ms // 2
        if self._topics.closed is None:
            wanted = self.brokers.leadership.wanted_isrs(now_ms, self._replica_lag_ms)
            try:
                self._topics.alter_partitions(wanted)
            except StreamlogError as error:
                self.brokers.leadership.bound_waits(
                    [leader for at, leader in list(self._partitions.items()) if at in wanted], error
                )
                raise
        return later

    def _open_groups(self) -> None:
        """Make the groups; after a crash, lower commits past the end of a log before that takes its first record."""
        self.append_as_coordinator = self.brokers.append_as_coordinator
        self._groups = GroupCoordinator(self, self._new_lock)
        brokers = self.brokers
        if all(broker.running and broker.directory.crash.clean for broker in brokers.all):
            return
        partitions = self._partitions.values()
        ends = {each.name: each.log.tail.end_offset for each in partitions if each.log.refusals.knows_end}
        lossy = [each.name for each in partitions if each.log.may_have_lost_its_end]
        for name, error in self._groups.recover(ends, lossy).items():
            partition, refusal = self._partition(name), _commits_beyond(name, error)
            partition.block(refusal)
            self._blocked.append((partition, refusal))

    def _may_append(self) -> bool:
        """Try again to remove what a partition refused records for: a change of unknown outcome, or commits past the end."""
        changed = self._topics.resolve_refused()
        if self._blocked and self.groups.recover_again():
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
            self._maintenance.cancel(self._scrub.step)
            self._changes.replace_gone()
            self._transactions.write_completed()
            partitions = self._topics.close(error)
            if self._groups is not None:
                self._groups.close(error)
            self._transactions.close(error)
            for broker in self.brokers.all:
                self.brokers.close_broker(broker, error)  # one that failed a moment ago
            self._changes.close(error)
            errors += self.brokers.close(partitions, error)
            clean = not errors and self._topics.is_resolved
        finally:  # also when Ctrl-C comes in the middle: the lock must not outlive the log
            self.brokers.close_directories(clean=clean)
        raise_first(errors)

    def check_owned(self) -> None:
        """Raise LogDirNotFoundError, and refuse every call with it, if the directory is not the one that was opened."""
        for broker in self.brokers.running:
            self._check_owned(broker, self.brokers.watch.run_on)

    def _check_owned(
        self, broker: Broker, do: Callable[[Broker, Callable[[], None]], object] = lambda broker, check: check()
    ) -> None:
        """`do` makes the check, which may not come back."""
        try:
            do(broker, broker.directory.check_owned)
        except StorageError as error:
            if not self.is_replicated or (
                broker.running and broker.hung is None and not isinstance(error, LogDirNotFoundError)
            ):
                raise
            if broker.running:  # else it was stopped meanwhile, and its directory is closed
                self._changes.report_failure(broker, error)

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

    @property
    def closed(self) -> StreamlogError | None:
        """Why every call is refused: the log is closed, or its directory is another one."""
        return self._topics.closed

    def abandon(self) -> None:
        """In a forked child: give up the descriptor of the lock; write nothing, wait for nothing."""
        error = self._topics.closed = forked()
        self.brokers.abandon(error)

    # -- what groups need ----------------------------------------------------------------------------

    def groups_partition(self, number: int, create: bool) -> Partition | None:
        name = TopicPartition(controller.GROUPS_TOPIC, number)
        known = self.brokers.leaders.get(name)  # the usual case first: it is looked up for each request
        if known is not None:
            return known
        if name.topic not in self.image.topics:
            if not create:
                return None
            self._topics.create_internal(name.topic, 1, controller.COORDINATOR_CONFIG)
            self.timers.at(self.clock.time_ms() + 60_000, self.groups.expire_offsets)
        return self._partition(name)

    def transactions_partition(self, number: int, create: bool) -> Partition | None:
        name = TopicPartition(controller.TRANSACTIONS_TOPIC, number)
        known = self.brokers.leaders.get(name)
        if known is not None:
            return known
        if name.topic not in self.image.topics:
            self._require_open()
            if not create:
                return None
            self._topics.create_internal(name.topic, 1, controller.COORDINATOR_CONFIG)
        return self._partition(name)

    def append_marker(self, name: TopicPartition, marker: TransactionMarker, deadline_ms: int) -> Completion[Any]:
        """End the transaction of a producer in one partition."""
        if name.topic == controller.GROUPS_TOPIC:
            return self.groups.append_marker(name.partition, marker, deadline_ms)
        return self._append_marker(name, marker, deadline_ms)

    def new_id(self) -> str:
        return entropy(16).hex()

    def _require_open(self) -> None:
        if self._topics.closed is not None:
            raise self._topics.closed.copy()

    @property
    def groups(self) -> GroupCoordinator:
        assert self._groups is not None, "the service was not opened"
        self._require_open()
        return self._groups

    @answering
    def partition_info(self, partition: TopicPartition) -> PartitionInfo:
        try:
            return self._partition_info(partition)
        except NotLeaderError:
            image = self.image
            known = image.partition(controller.find(image, partition.topic).id_bytes, partition.partition)
            return PartitionInfo(
                *partition, NO_LEADER, known.isr, known.replicas, known.leader_epoch, -1, -1, -1, -1, 0, 0
            )

    # -- records -------------------------------------------------------------------------------------

    def fetch_many(
        self, requests: Sequence[FetchRequest], isolation_level: str, *, min_bytes: int = 1,
        max_wait_ms: int | None = None, replica_id: int = -1, max_bytes: int | None = None,
    ) -> DelayedFetch:  # fmt: skip
        lock = self._new_lock()
        return DelayedFetch(self, requests, isolation_level, min_bytes, max_wait_ms, replica_id, lock, max_bytes)

    def fetch_session(self, wake: Callable[[], object]) -> FetchSession:
        has_no_leader = self._has_no_leader if self.is_replicated else None
        return FetchSession(self._partitions.get, wake, has_no_leader=has_no_leader)

    def _has_no_leader(self, name: TopicPartition) -> bool:
        view = self.image.topics.get(name.topic)
        return view is not None and name.partition < view.partitions and name not in self._partitions

    def require_writable(self, what: str) -> None:
        """This process owns the log."""

    def sync(self) -> Completion[None]:
        if self._topics.closed is not None:
            return Completion.failed(self._topics.closed.copy())
        copies, others = self.brokers.partitions()
        return AllDone([partition.commit.everything() for partition in (*copies, *others)])

    @failing
    def delete_records(self, partition: TopicPartition, before: int) -> Completion[int]:
        return self._partition(partition).delete_records(before, self.real_timers.now_ms() + REQUEST_TIMEOUT_MS)

    def _each(self, name: str) -> list[Partition]:
        return [self._partition(TopicPartition(name, n)) for n in range(self._topics.topic(name).partitions)]

    @failing
    def apply_retention(self, name: str) -> Completion[None]:
        now, deadline_ms = self.clock.time_ms(), self.real_timers.now_ms() + REQUEST_TIMEOUT_MS
        begun = []
        for partition in self._each(name):
            partition.maintenance.roll(now)
            begun.append(partition.maintenance.apply_retention(now, deadline_ms))
        return AllDone(begun)

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

    # -- groups --------------------------------------------------------------------------------------

    @failing
    def heartbeat(self, request: Heartbeat) -> Completion[HeartbeatResult]:
        return self.groups.heartbeat(request)

    def renew(self, group: str, member_id: str, seen_version: int) -> bool:
        return self.groups.renew(group, member_id, seen_version)

    @failing
    def leave_group(self, group: str, member_id: str, *, force: bool = False) -> Completion[None]:
        return self.groups.leave(group, member_id, force)

    @failing
    def join_group(self, request: JoinGroup) -> Completion[JoinGroupResult]:
        return self.groups.join_group(request)

    @failing
    def sync_group(self, request: SyncGroup) -> Completion[SyncGroupResult]:
        return self.groups.sync_group(request)

    @failing
    def classic_heartbeat(
        self, group: str, member_id: str, instance_id: str | None, generation_id: int
    ) -> Completion[None]:
        return self.groups.classic_heartbeat(group, member_id, instance_id, generation_id)

    @failing
    def leave_classic_group(
        self, group: str, members: Sequence[MemberIdentity]
    ) -> Completion[list[StreamlogError | None]]:
        return self.groups.leave_classic_group(group, members)

    @failing
    def rebalance_group(self, group: str) -> Completion[None]:
        return self.groups.rebalance(group)

    def watch_group(self, group: str, callback: Callable[[], object], member_id: str | None = None) -> None:
        self.groups.watch(group, callback, member_id)

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
        *,
        instance_id: str | None = None,
        by_epoch: bool = False,
        knows_epochs: bool = True,
    ) -> Completion[None]:
        for name in offsets:
            if topic_ids is None or name not in topic_ids:
                self._partition(name)
        return self.groups.commit(
            group, member_id, member_epoch, offsets, topic_ids, instance_id, by_epoch, knows_epochs
        )

    @failing
    def committed(
        self,
        group: str,
        partitions: Iterable[TopicPartition] | None,
        topic_ids: Mapping[TopicPartition, bytes] | None = None,
        *,
        require_stable: bool = False,
        member: tuple[str, int] | None = None,
    ) -> Completion[dict[TopicPartition, OffsetAndMetadata]]:
        return self.groups.committed(group, partitions, topic_ids, require_stable, member)

    @failing
    def describe_group(self, group: str) -> Completion[GroupDescription]:
        return self.groups.describe(group)

    def groups_loaded(self) -> bool:
        return self._groups is None or self._groups.is_loaded

    @failing
    def load_groups(self) -> Completion[None]:
        self.groups.load()
        return Completion.of(None)

    @failing
    def find_coordinator(self, key: str, *, of_transactions: bool = False) -> Completion[int]:
        partition = (self.transactions_partition if of_transactions else self.groups_partition)(0, True)
        assert partition is not None
        number = partition_for(key, self.image.topics[partition.name.topic].partitions)
        return Completion.of(self._partition(TopicPartition(partition.name.topic, number)).broker_id)

    @failing
    def list_groups(self, states: Iterable[str] = (), types: Iterable[str] = ()) -> Completion[list[GroupListing]]:
        return self.groups.list(states, types)

    @failing
    def delete_offsets(
        self, group: str, partitions: Iterable[TopicPartition]
    ) -> Completion[dict[TopicPartition, StreamlogError]]:
        return self.groups.delete_offsets(group, partitions)

    @failing
    def delete_group(self, group: str) -> Completion[None]:
        return self.groups.delete(group)

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
            {each.id: each.about() for each in brokers.all},
        )
        found["replication"] |= {
            "isr_shrinks": brokers.isr_shrinks,
            "isr_expands": brokers.isr_expands,
            "unclean_leader_elections": brokers.unclean_elections,
            "damaged": brokers.repair_counts.found,
            "repaired": brokers.repair_counts.filled,
            "scrubbed_bytes": self._scrub.read_bytes,
        }
        found["transactions"] = self._transactions.metrics(self._partitions)
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
