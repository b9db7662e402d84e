"""The partitions of a broker, which follow the image of its topics."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial

from ..errors import CorruptRecordError, StreamlogError
from ..replication.partition import Partition
from ..replication.repairs import Peer, RepairCounts
from ..replication.replica_set import PartitionRegistration
from ..runtime.api import Task, without_traceback
from ..runtime.values import refuse_to_copy
from ..types import Clock
from . import controller
from .log_directory import LogDirectory
from .metadata import Image, TopicView
from .policies import RetentionPolicies
from .real_timers import RealTimers
from .scheduler import Scheduler
from .tailing.published_writer import PublishedWriter

logger = logging.getLogger("streamlog.broker")
# How long (real time) retention waits for the followers under a clock that a test moves.
PATIENCE_S = 1.0


class ReplicaManager:
    """A partition for each that the image names, and the partition of the metadata log.

    `partitions` is read without a lock. Changes REQUIRE the metadata lock; each can be repeated, so an interrupt in the
    middle of one is made good by the next.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(
        self,
        directory: LogDirectory,
        publisher: PublishedWriter,
        policies: RetentionPolicies,
        clock: Clock,
        scheduler: Scheduler,
        maintenance: Scheduler,
        real_timers: RealTimers,
    ) -> None:
        self._directory = directory
        self._publisher = publisher
        self._policies = policies
        self._clock = clock
        self._scheduler = scheduler
        self._maintenance = maintenance
        self._real_timers = real_timers
        self.partitions: dict[tuple[str, int], Partition] = {}
        self._of_topic: dict[str, dict[int, Partition]] = {}
        self.metadata: Partition | None = None
        self.on_isr_change: Callable[[Partition], object] = lambda partition: None
        """Called by a leader whose in-sync set may grow."""
        self.on_failure: Callable[[StreamlogError], object] = lambda error: None
        """Called when the disk under a replica of several fails."""
        self.peers: Callable[[Partition], list[Peer]] = lambda partition: []
        """The other replicas of a partition, as far as they are known to be the same."""
        self.repair_counts = RepairCounts()
        self.is_replicated = False
        """Whether there are other brokers, from which the high watermarks are learned."""
        self._rebuilt = False
        """Whether replicas were made whose directories may not be on the device yet."""
        self.has_thread = False
        """Whether a background thread runs the scheduler."""
        self._staging: tuple[TopicView, list[int]] | None = None
        self._staged: dict[tuple[str, int], Partition] = {}

    def open_metadata(self, *, made_anew: bool = False) -> Partition:
        """The partition of the metadata log; `made_anew`, empty, if it cannot be opened."""
        try:
            partition = self._directory.open_metadata()
        except CorruptRecordError as error:
            if not made_anew:
                raise
            logger.warning("this copy of the metadata is made anew, for it cannot be opened: %s", error)
            partition = self._directory.make_metadata()
        self.metadata = partition
        partition.on_work = self._maintain_soon
        self._publisher.add(partition, eager=True)
        return partition

    def all(self) -> list[Partition]:
        """Every partition, that of the metadata log first."""
        first = [] if self.metadata is None else [self.metadata]
        return [*first, *list(self.partitions.values())]

    def of_topic(self, name: str) -> list[Partition]:
        """The partitions of a topic that this broker has, in order."""
        return [partition for _, partition in sorted(self._of_topic.get(name, {}).items())]

    @property
    def is_recovering(self) -> bool:
        """Whether the recovery of some log could not be finished, for want of space: the next open starts it again."""
        return any(each.log.refusals.unfinished is not None for each in self.all())

    @property
    def is_faulty(self) -> bool:
        """Whether some log does not know its end: if it were closed as clean, it would assign offsets a second time."""
        return any(each.is_faulty for each in self.all())

    # -- following the image -------------------------------------------------------------------------

    def follow(self, image: Image, changed: Iterable[str] | None = None) -> None:
        """Have a partition for each that the image names and no other, with its settings. Does no more than it must.

        `changed`: the topics that may differ from those of the image that was followed last; None if that is not known.
        O(their partitions), whatever else there is.
        """
        names = changed if changed is not None else [*self._of_topic, *image.topics]
        for name in names:
            self._follow_topic(name, image)
        if self._rebuilt:
            self._directory.sync_topics()
            self._rebuilt = False

    def _follow_topic(self, name: str, image: Image) -> None:
        view = image.topics.get(name)
        me = self._directory.broker_id
        for partition in reversed(self.of_topic(name)):
            if view is None or view.id_bytes != partition.topic_id:
                self._remove(partition, controller.unknown_partition(partition.name))
            elif not self._is_here(image, view, partition.name.partition):
                self._remove(partition, controller.no_replica(partition.name, me))
        if view is None:
            return
        self._policies.find(view)
        policy = self._policies.of(view)
        for number in range(view.partitions):
            known = self.partitions.get((name, number))
            registration = image.partition(view.id_bytes, number)
            if me not in registration.replicas:
                continue
            if known is None:
                self._add(view, number, registration, controller.TRANSACTIONS_TOPIC in image.topics)
                continue
            known.follow(registration, self._real_timers.now_ms())
            if known.log.config is not view.config or known.maintenance.custom_policy is not policy:
                known.configure(view.config)
                known.maintenance.custom_policy = policy
                self._maintain_soon(known)

    def _add(
        self, view: TopicView, number: int, registration: PartitionRegistration, may_have_transactions: bool
    ) -> None:
        staged = self._staged.get((view.name, number))
        if staged is not None and staged.topic_id == view.id_bytes:
            partition = staged
        else:
            partition = self._open(view, number, registration)
        if not may_have_transactions:
            partition.log.transactions.have_none()
        if self.is_replicated and len(registration.replicas) > 1:
            partition.doubt_high_watermark()
        partition.follow(registration, self._real_timers.now_ms())
        partition.maintenance.custom_policy = self._policies.of(view)
        partition.on_work = self._maintain_soon
        partition.on_isr_change = self.on_isr_change
        partition.on_failure = self.on_failure
        if self.is_replicated:
            self.repair_from_peers(partition)
        partition.commit.schedule = partial(self._sync_soon, partition.commit.maybe_sync)
        for purgatory in (partition.purgatory, partition.deletions.purgatory, partition.commit.purgatory):
            purgatory.schedule = partial(self._expire_at, purgatory.expire)
        if self.has_thread:
            partition.waiters.later = partial(self._wake_soon, partition.waiters.wake_some)
        else:
            partition.deletions.patience_s = PATIENCE_S
        partition.log.close_idle_files()
        self._publisher.add(partition)
        self._of_topic.setdefault(view.name, {})[number] = partition
        self.partitions[view.name, number] = partition
        if partition.log.tail.end_offset:
            self._maintain_soon(partition)  # not now: opening does not wait for a compaction

    def _open(self, view: TopicView, number: int, registration: PartitionRegistration) -> Partition:
        """Open a replica; make it anew if it is lost, or cannot be opened, and does not count.

        A replica that is not in sync has nothing that counts: its topic may have been made while its broker did not run. A member of
        the in-sync set may have what no other replica has, and an empty one must not take its place.
        """
        counts = self._directory.broker_id in registration.isr
        try:
            if counts or not self._directory.is_lost(view, number):
                return self._directory.open_partition(view, number)
        except CorruptRecordError as error:  # the file that says where its log starts is damaged
            if counts:
                raise
            logger.warning(
                "%s-%d is made anew, for it is not in sync and cannot be opened: %s", view.name, number, error
            )
        self._rebuilt = True
        return self._directory.make_partition(view, number)

    def repair_from_peers(self, partition: Partition) -> None:
        """Have what is damaged in this replica repaired from the others."""
        repairs = partition.maintenance.repairs
        repairs.counts = self.repair_counts
        repairs.peers = partial(self.peers, partition)
        repairs.on_failure = self.on_failure

    def _remove(self, partition: Partition, error: StreamlogError) -> None:
        name = partition.name
        self._cancel_work(partition)
        for purgatory in (partition.purgatory, partition.deletions.purgatory, partition.commit.purgatory):
            self._real_timers.cancel(purgatory.expire)
        partition.remove(error)
        self._publisher.remove(partition)
        self._directory.remove_partition_files(partition.topic_id.hex(), name.partition)
        self.partitions.pop(name, None)
        numbers = self._of_topic.get(name.topic, {})
        numbers.pop(name.partition, None)
        if not numbers:
            self._of_topic.pop(name.topic, None)

    def _cancel_work(self, partition: Partition) -> None:
        """But for the deadlines of what waits there to be acknowledged: it may go on waiting for the next leader."""
        self._maintenance.cancel(partition.maintenance.step)
        self._scheduler.cancel(partition.commit.maybe_sync)
        self._scheduler.cancel(partition.waiters.wake_some)

    def _expire_at(self, expire: Task, deadline_ms: int) -> None:
        self._real_timers.at(deadline_ms, expire)

    def _wake_soon(self, wake_some: Task) -> None:
        self._scheduler.at(self._clock.time_ms(), wake_some)

    def _sync_soon(self, maybe_sync: Task, delay_ms: int) -> None:
        self._scheduler.at(self._clock.time_ms() + delay_ms, maybe_sync)

    def _maintain_soon(self, partition: Partition) -> None:
        self._maintenance.at(self._clock.time_ms(), partition.maintenance.step)

    # -- a change that is not in force yet -----------------------------------------------------------

    @property
    def is_staging(self) -> bool:
        return self._staging is not None or bool(self._staged)

    def stage(self, image: Image, name: str) -> None:
        """Make the partitions of a topic that do not exist yet. No record names them before `image` is in force."""
        view = image.topics.get(name)
        if view is None:
            return
        new = []
        for number in range(view.partitions):
            known = self.partitions.get((view.name, number))
            if self._is_here(image, view, number) and (known is None or known.topic_id != view.id_bytes):
                new.append(number)
        self._staging = view, new
        for number in new:
            partition = self._staged[view.name, number] = self._directory.make_partition(view, number)
            partition.log.close_idle_files()
        if new:
            self._directory.sync_topics()

    def _is_here(self, image: Image, view: TopicView, number: int) -> bool:
        """Whether this broker has a replica of a partition, as the image has it."""
        return self._directory.broker_id in image.partition(view.id_bytes, number).replicas

    def unstage(self, image: Image) -> None:
        """Remove what was made for a change that is not in `image`, and forget the rest."""
        if self._staging is None:
            return
        view, new = self._staging
        there = image.topics.get(view.name)
        kept = there.partitions if there is not None and there.id == view.id else 0
        for number in new:
            if number < kept and self._is_here(image, view, number):
                continue
            partition = self._staged.get((view.name, number))
            if partition is not None:
                partition.log.release()
            self._directory.remove_partition_files(view.id.hex, number)
        self._staged = {}
        self._staging = None

    def release_staged(self) -> None:
        """The log is being closed: close the files of what was staged."""
        for staged in self._staged.values():
            staged.log.release()

    # -- the end -------------------------------------------------------------------------------------

    def stop_compacting(self) -> None:
        """Give up compactions: the log is about to be closed, and closing does not wait for them."""
        for partition in self.all():
            partition.maintenance.stop()

    def close(self, partitions: list[Partition], error: StreamlogError) -> dict[Partition, StreamlogError]:
        """Close these partitions, each whatever the others raise; the errors of those that raised."""
        failed: dict[Partition, StreamlogError] = {}
        for partition in partitions:
            self._cancel_work(partition)
            try:
                partition.close(error)
            except StreamlogError as failure:
                failed[partition] = without_traceback(failure.copy())
        return failed

    def release(self) -> None:
        """After an open that failed: close the files, and sync nothing."""
        for partition in self.all():
            partition.log.release()

    def shut(self, error: StreamlogError) -> None:
        """Refuse every call with `error`, and wake the waiters from the background. Takes no lock: the caller may hold any."""
        for partition in self.all():
            partition.closed = partition.closed or error
        self._scheduler.at(self._clock.time_ms(), self._wake_all)

    def _wake_all(self, now_ms: int) -> None:
        for partition in list(self.partitions.values()):
            partition.waiters.wake_all()

    def abandon(self, error: StreamlogError) -> None:
        """In a forked child: refuse every call. Takes no lock: a thread that the child does not have may hold it."""
        for partition in list(self.partitions.values()):
            partition.closed = error
