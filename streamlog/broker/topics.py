"""The topics of a broker: the image in force, the requests that change it, and the listeners of changes.

`metadata_log` says how a change comes into force, or to nothing. Each step can be repeated without harm, so what an
interrupt between two of them left is completed before the next change.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from ..config import TopicConfig, check_partitions, topic_changes
from ..errors import StreamlogError, TopicAlreadyExistsError
from ..replication.partition import Partition
from ..replication.replica_set import PartitionRegistration
from ..runtime.api import Lock, contained
from ..runtime.disk import entropy
from ..runtime.threads import inside, refuse_reentry
from ..runtime.values import refuse_to_copy
from ..types import Clock, TopicPartition
from . import controller, metadata
from .brokers import Brokers
from .metadata import Image, LogRecord, TopicView
from .metadata_log import MetadataLog
from .metrics import isr_changes
from .policies import RetentionPolicies
from .scheduler import Scheduler


class Topics:
    """Thread-safe. Changes are made under the metadata lock; `image` is replaced as a whole and read without a lock.

    `closed` is the error of every call once the log was closed.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(
        self,
        brokers: Brokers,
        policies: RetentionPolicies,
        defaults: Mapping[str, Any],
        clock: Clock,
        scheduler: Scheduler,
        lock: Lock,
    ) -> None:
        self._brokers = brokers
        self._policies = policies
        self._defaults = defaults
        self._clock = clock
        self._scheduler = scheduler
        self._lock = lock
        self.image: Image = metadata.EMPTY
        self.closed: StreamlogError | None = None
        self._listeners: list[Callable[[], object]] = []
        self._unannounced = False
        self.stage = brokers.stage
        self.of_topic = brokers.of_topic
        self.replicate_metadata = brokers.replicate_metadata

    def open(self, metadata_partition: Partition) -> Image:
        """Replay the metadata log; the image. The partitions do not follow it yet."""
        self._log = MetadataLog(metadata_partition, self)
        log = metadata_partition.log
        if log.refusal is not None and log.unfinished is None:
            raise log.refusal.copy()  # topics that were lost at its end would be removed as orphans
        self.image = self._log.replay()
        return self.image

    def close(self, error: StreamlogError) -> list[Partition]:
        """Refuse every call with `error` from now on; the partitions, which are to be closed."""
        with inside(), self._lock:
            self.closed = error
            with contextlib.suppress(StreamlogError):  # still not known: the next open reads it from the disk
                self._resolve()
            self._log.let_go(error)
            self._brokers.release_staged()
            copies, others = self._brokers.partitions()
            return [*others, *copies]

    @property
    def is_resolved(self) -> bool:
        """Whether the image is what the metadata log says."""
        return self._log.is_resolved

    # -- questions -----------------------------------------------------------------------------------

    def on_metadata(self, callback: Callable[[], object]) -> None:
        self._listeners.append(callback)

    def off_metadata(self, callback: Callable[[], object]) -> None:
        if callback in self._listeners:
            self._listeners.remove(callback)

    def topic(self, name: str) -> TopicView:
        if self.closed is not None:
            raise self.closed.copy()
        return controller.find(self.image, name)

    def partition(self, name: TopicPartition) -> Partition:
        partition = self._brokers.leaders.get(name)
        if partition is None and self._log.is_interrupted:
            refuse_reentry()
            with inside(), self._lock:
                self._resolve()
            self._announce_if_due()
            partition = self._brokers.leaders.get(name)
        if partition is None:
            if self.closed is not None:
                raise self.closed.copy()
            raise self._not_here(TopicPartition(*name))
        return partition

    def _not_here(self, name: TopicPartition) -> StreamlogError:
        if name.partition >= controller.find(self.image, name.topic).partitions:
            return controller.unknown_partition(name)
        return controller.no_leader(self.image, name)

    # -- changes -------------------------------------------------------------------------------------

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
        factor = self._brokers.factor(wanted.pop("replication_factor", None))
        changes, policy = topic_changes(wanted, also=("partitions", "exist_ok"))
        changes.setdefault("min_insync_replicas", controller.least_in_sync(factor))
        config = TopicConfig(**changes)
        controller.check_insync(config.min_insync_replicas, factor)
        try:
            if policy is not None and name not in self.image.topics:
                self._policies.given[name] = policy
            return self._create(name, count, config, False, factor)
        except TopicAlreadyExistsError:
            if not exist_ok:
                raise
        except BaseException:
            if name not in self.image.topics:
                self._policies.given.pop(name, None)
            raise
        view = self.topic(name)
        given = {each: getattr(config, each) for each in settings or () if each in changes}
        controller.require_same(view, partitions, given)
        if policy is not None and policy.name == view.config.retention:
            self._policies.given[name] = policy
            with inside(), self._lock:
                self._brokers.follow(self.image, [name])
        return view

    def create_internal(self, name: str, partitions: int, config: TopicConfig) -> None:
        """Create an internal topic, unless another thread was faster."""
        with contextlib.suppress(TopicAlreadyExistsError):
            factor = self._brokers.factor(None)
            config = dataclasses.replace(config, min_insync_replicas=controller.least_in_sync(factor))
            self._create(name, partitions, config, True, factor)

    def _create(self, name: str, partitions: int, config: TopicConfig, internal: bool, factor: int) -> TopicView:
        topic_id = UUID(bytes=entropy(16), version=4)

        def request(image: Image) -> list[LogRecord]:
            replicas = self._brokers.place(partitions, factor, len(image.topics))
            return controller.create(image, name, topic_id, partitions, config, internal, replicas)

        self._change(request)
        return self.image.topics[name]

    def update_topic(self, name: str, settings: Mapping[str, Any]) -> None:
        changes, policy = topic_changes(settings)
        if "retention" not in changes:
            self._change(lambda image: controller.alter(image, name, changes))
            return
        self.topic(name)
        before = self._policies.given.pop(name, None)
        if policy is not None:
            self._policies.given[name] = policy
        try:
            self._change(lambda image: controller.alter(image, name, changes))
        except BaseException as error:
            view = self.image.topics.get(name)
            refused = isinstance(error, StreamlogError) or (
                view is not None and view.config.retention != changes["retention"]
            )
            if refused:
                self._policies.given.pop(name, None)
                if before is not None:
                    self._policies.given[name] = before
            raise

    def add_partitions(self, name: str, total: int) -> None:
        check_partitions(total)

        def request(image: Image) -> list[LogRecord]:
            view = controller.find(image, name)
            factor = len(image.partition(view.id_bytes, 0).replicas)
            first = view.partitions + image.partition(view.id_bytes, 0).replicas[0]  # the turns go on
            return controller.grow(image, name, total, self._brokers.place(total - view.partitions, factor, first))

        self._change(request)

    def alter_partitions(self, changes: Mapping[tuple[str, int], PartitionRegistration]) -> None:
        """Record other leaders, or in-sync sets; the partitions follow (Kafka's AlterPartition).

        Each change has the partition epoch after the one that it was made from, and is left out if another was faster.
        """
        self._change(lambda image: controller.alter_partitions(image, changes))

    def reassign(self, name: str, targets: Callable[[Image], Mapping[int, tuple[int, ...]]]) -> None:
        """Put partitions of a topic on their way to other replicas (KIP-455). `targets`: from the image in force."""
        self._change(lambda image: controller.reassign(image, name, targets(image)))

    def finish_reassignment(self, name: str) -> None:
        """Have the replicas leave that a reassignment of this topic removes, where it can be finished."""
        self._change(lambda image: controller.finish_reassignment(image, name))

    def register_brokers(self) -> dict[int, int]:
        """Record that the brokers are here, those of a log with several; the epoch of each."""
        if self._brokers.is_replicated:
            self._change(lambda image: controller.register_brokers(image, self._brokers.incarnations()))
        return {broker_id: broker.epoch for broker_id, broker in self.image.brokers.items()}

    def stop_broker(self, broker_id: int, failure: StreamlogError | None) -> bool:
        """Fence a broker, which does not run any more, or has failed: others lead its partitions. False if it did not run."""
        brokers = self._brokers
        broker = brokers.by_id(broker_id)
        with inside(), self._lock:
            if self.closed is not None:
                raise self.closed.copy()
            if not broker.running:
                return False
            self._log = MetadataLog(brokers.take_out(broker, failure), self)
        self._change(lambda image: controller.fence_broker(image, broker_id, {each.id for each in brokers.running}))
        return True

    def start_broker(self, broker_id: int, lock_timeout: float) -> None:
        """Open the directory of a broker that does not run, made anew if it is gone; it follows, and leads what nobody leads."""
        brokers = self._brokers
        before = brokers.by_id(broker_id)
        with inside(), self._lock:
            if self.closed is not None:
                raise self.closed.copy()
            if before.running:
                return
            broker = brokers.put_back(before, lock_timeout)
            self._log = MetadataLog(brokers.controller_log(), self)
        if broker.was_new:
            self._change(lambda image: controller.forget_replicas(image, broker_id))
        self._change(lambda image: controller.register_brokers(image, {broker_id: entropy(16)}))
        with inside(), self._lock:
            brokers.run(broker, before, self.image)
            self._log = MetadataLog(brokers.controller_log(), self)
        self._change(lambda image: controller.elections(image, {each.id for each in brokers.running}))

    def delete_topic(self, name: str) -> None:
        try:
            self._change(lambda image: controller.delete(image, name))
        finally:
            if name not in self.image.topics:
                self._policies.given.pop(name, None)

    def allocate_producer_ids(self, count: int) -> range:
        """Producer ids that no other call gets, also after a crash; see `producer_ids`."""
        first = 0

        def request(image: Image) -> list[LogRecord]:
            nonlocal first
            first = image.next_producer_id
            return [metadata.producer_ids_record(first + count)]

        self._change(request)
        return range(first, first + count)

    def _change(self, request: Callable[[Image], Sequence[LogRecord]]) -> None:
        """Request → record → append → replay → the partitions follow the image, under the metadata lock.

        An interrupt in the middle may leave the image, or the partitions, without the log's last record. Both catch up before the interrupt
        is passed on to the caller, also if there is a second one; after a third, before the next change.
        """
        try:
            self._make(request)
            self._announce()
        except StreamlogError:
            self._announce_if_due()
            raise
        except BaseException:
            try:
                self._finish()
            except BaseException:
                self._finish()
            raise

    def _finish(self) -> None:
        """After an interrupt: find out whether the change took place, and announce it."""
        # If the disk does not let that be known, the next change tries again.
        with inside(), contextlib.suppress(StreamlogError), self._lock:
            if self.closed is None:
                self._resolve()
        self._announce()

    def _announce(self) -> None:
        """Call the listeners of changes, also after a change that raised; an extra call does no harm."""
        self._unannounced = False
        for listener in list(self._listeners):
            contained(listener)

    def _announce_if_due(self) -> None:
        if self._unannounced:
            self._announce()

    def _make(self, request: Callable[[Image], Sequence[LogRecord]]) -> None:
        with inside(), self._lock:
            if self.closed is not None:
                raise self.closed.copy()
            try:
                self._resolve()
            except StreamlogError:
                if self._log.is_blocking:  # what the image in force refuses is refused without the disk
                    request(self.image)
                raise
            self._log.make(request, self._clock.time_ms())

    def _resolve(self) -> None:
        """Complete, or undo, a change that an interrupt or the disk left unfinished. REQUIRES: the metadata lock.

        Raises the error that keeps the outcome from being known.
        """
        if self._log.resolve():
            self._unannounced = True
        self.unstage()

    def resolve_refused(self) -> bool:
        """Try again to undo a change whose outcome is not known, after a record was refused because of it; whether it is known.

        Does nothing while another thread makes a change: the caller may hold a lock that comes after the metadata lock.
        """
        if not self._log.is_blocking or self._lock.locked():
            return False
        with inside(), self._lock, contextlib.suppress(StreamlogError):
            if self.closed is None:
                self._resolve()
        if self._unannounced:
            self._scheduler.at(self._clock.time_ms(), self._announce_late)
        return not self._log.is_blocking

    def _announce_late(self, now_ms: int) -> None:
        self._announce_if_due()

    # -- for the metadata log ------------------------------------------------------------------------

    def take(self, image: Image, changed: Iterable[str] | None) -> None:
        """Put the image of a change in force, and have the partitions follow it. REQUIRES: the metadata lock."""
        shrinks, expands = isr_changes(self.image, image, changed)
        self.image = image
        self._brokers.isr_shrinks += shrinks
        self._brokers.isr_expands += expands
        self._brokers.follow(image, changed)

    def unstage(self) -> None:
        """Remove what was staged for a change that is not in force. REQUIRES: the metadata lock."""
        self._brokers.unstage(self.image)
