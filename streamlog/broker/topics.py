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

from ..config import CODECS, TopicConfig, check_partitions, check_topic_name, topic_changes
from ..errors import StreamlogError, TopicAlreadyExistsError
from ..records import compression
from ..replication import election
from ..replication.partition import Partition
from ..replication.replica_set import PartitionRegistration
from ..runtime.api import Lock, contained
from ..runtime.disk import entropy
from ..runtime.threads import inside, refuse_reentry
from ..runtime.values import refuse_to_copy
from ..types import Clock, Policy, TopicPartition
from . import controller, metadata
from .brokers import Brokers
from .metadata import Image, KafkaConfig, LogRecord, NewTopic, TopicView
from .metadata_log import MetadataLog
from .metrics import isr_changes
from .policies import RetentionPolicies
from .scheduler import Scheduler

_FIELDS = frozenset(field.name for field in dataclasses.fields(TopicConfig))


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
        self.metadata_failed = brokers.metadata_failed
        self.at_controller = brokers.at_controller

    def open(self, metadata_partition: Partition) -> Image:
        """Replay the metadata log; the image. The partitions do not follow it yet."""
        self._log = MetadataLog(metadata_partition, self)
        refusals = metadata_partition.log.refusals
        if refusals.first is not None and refusals.unfinished is None:
            raise refusals.first.copy()  # topics that were lost at its end would be removed as orphans
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

    @property
    def is_blocking(self) -> bool:
        """Whether a topic takes no records, because a change of it could not be undone."""
        return self._log.is_blocking

    # -- questions -----------------------------------------------------------------------------------

    def on_metadata(self, callback: Callable[[], object]) -> None:
        self._listeners.append(callback)

    def off_metadata(self, callback: Callable[[], object]) -> None:
        if callback in self._listeners:
            self._listeners.remove(callback)

    def check_open(self) -> None:
        """Raise the error with which every call is refused, once the log is closed."""
        if self.closed is not None:
            raise self.closed.copy()

    def topic(self, name: str) -> TopicView:
        self.check_open()
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
            self.check_open()
            raise self._not_here(TopicPartition(*name))
        return partition

    def registration(self, name: TopicPartition) -> PartitionRegistration:
        """What the metadata says of a partition, which follows it on return: a change may be in force a moment before that."""
        with inside(), self._lock:
            return self.image.partition(controller.find(self.image, name.topic).id_bytes, name.partition)

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
        kafka: KafkaConfig | None = None,
        topic_id: bytes | None = None,
    ) -> TopicView:
        """See `api.Service`."""
        new_id = UUID(bytes=entropy(16) if topic_id is None else topic_id, version=4)
        count, factor, changes, policy = self._new_topic(partitions, settings, kafka)
        config = TopicConfig(**changes)
        given = KafkaConfig(_FIELDS.intersection(settings or ())) if kafka is None else kafka
        try:
            if policy is not None and name not in self.image.topics:
                self._policies.given[name] = policy
            return self._create(name, new_id, count, config, False, factor, given)
        except TopicAlreadyExistsError:
            if not exist_ok and self.topic(name).id != new_id:
                raise
        except BaseException:
            if name not in self.image.topics:
                self._policies.given.pop(name, None)
            raise
        view = self.topic(name)
        wanted = {each: getattr(config, each) for each in settings or () if each in changes}
        controller.require_same(view, partitions, wanted)
        if policy is not None and policy.name == view.config.retention:
            self._policies.given[name] = policy
            with inside(), self._lock:
                self._brokers.follow(self.image, [name])
        return view

    def _new_topic(
        self, partitions: int | None, settings: Mapping[str, Any] | None, kafka: KafkaConfig | None
    ) -> tuple[int, int, dict[str, Any], Policy | None]:
        """Partitions, replicas, settings and policy of a topic that is to be created. Raises ConfigError."""
        defaults = dict(self._defaults)
        count = check_partitions(partitions if partitions is not None else defaults.pop("partitions", 1))
        defaults.pop("partitions", None)
        wanted = {**defaults, **(settings or {})}
        factor = self._brokers.factor(wanted.pop("replication_factor", None), self.image)
        changes, policy = topic_changes(
            wanted, also=("partitions", "replication_factor", "exist_ok"), of_kafka=kafka is not None
        )
        changes.setdefault("min_insync_replicas", controller.least_in_sync(factor))
        _require_codec(changes)
        if kafka is None:
            controller.check_insync(TopicConfig(**changes).min_insync_replicas, factor)
        return count, factor, changes, policy

    def validate_topic(
        self,
        name: str,
        partitions: int | None,
        settings: Mapping[str, Any] | None,
        *,
        kafka: KafkaConfig | None = None,
    ) -> NewTopic:
        """Raises what `create_topic` would, for the arguments."""
        check_topic_name(name)
        count, factor, changes, _ = self._new_topic(partitions, settings, kafka)
        return NewTopic(count, factor, TopicConfig(**changes))

    def create_internal(self, name: str, partitions: int, config: TopicConfig) -> None:
        """Create an internal topic, unless another thread was faster."""
        with contextlib.suppress(TopicAlreadyExistsError):
            factor = self._brokers.factor(None, self.image)
            config = dataclasses.replace(config, min_insync_replicas=controller.least_in_sync(factor))
            self._create(name, UUID(bytes=entropy(16), version=4), partitions, config, True, factor)

    def _create(
        self,
        name: str,
        topic_id: UUID,
        partitions: int,
        config: TopicConfig,
        internal: bool,
        factor: int,
        given: KafkaConfig | None = None,
    ) -> TopicView:
        explicit, texts = (None, {}) if given is None else (given.explicit, given.over({}))

        def request(image: Image) -> list[LogRecord]:
            replicas = self._brokers.place(image, partitions, factor, len(image.topics))
            alive = {broker.id for broker in self._brokers.running}
            return controller.create(
                image, name, topic_id, partitions, config, internal, replicas, alive, explicit, texts
            )

        self._change(request)
        return self.image.topics[name]

    def update_topic(self, name: str, settings: Mapping[str, Any], *, kafka: KafkaConfig | None = None) -> None:
        changes, policy = topic_changes(settings, of_kafka=kafka is not None)
        _require_codec(changes)
        if "retention" not in changes:
            self._change(lambda image: controller.alter(image, name, changes, kafka))
            if changes.get("unclean_leader_election") and self._brokers.is_replicated:
                self.elect()
            return
        self.topic(name)
        before = self._policies.given.pop(name, None)
        if policy is not None:
            self._policies.given[name] = policy
        try:
            self._change(lambda image: controller.alter(image, name, changes, kafka))
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
            like = election.target_of(image.partition(view.id_bytes, 0))
            first = view.partitions + like[0]  # the turns go on
            replicas = self._brokers.place(image, max(0, total - view.partitions), len(like), first)
            return controller.grow(image, name, total, replicas, {broker.id for broker in self._brokers.running})

        self._change(request)

    def alter_partitions(self, changes: Mapping[tuple[str, int], PartitionRegistration]) -> None:
        """Record other leaders, or in-sync sets; the partitions follow (Kafka's AlterPartition).

        Each change has the partition epoch after the one that it was made from, and is left out if another was faster.
        """
        self._change(lambda image: controller.alter_partitions(image, changes))

    def reassign(self, name: str, targets: Callable[[Image], Mapping[int, tuple[int, ...]]]) -> None:
        """Put partitions of a topic on their way to other replicas (KIP-455). `targets`: from the image in force."""
        self._change(lambda image: controller.reassign(image, name, targets(image)))

    def finish_reassignment(self, name: str, check: Callable[[Image], object]) -> None:
        """Have the replicas leave that a reassignment of this topic removes, where it can be finished, unless `check` raises."""

        def request(image: Image) -> Sequence[LogRecord]:
            check(image)
            return controller.finish_reassignment(image, name)

        self._change(request)

    def register_brokers(self) -> dict[int, int]:
        """Record which brokers are here, of a log with several; the epoch of each."""
        if self._brokers.is_replicated:
            here = self._brokers.registrations(self._brokers.running)
            moved = self._brokers.moved
            self._change(lambda image: controller.open_brokers(image, here, moved))
        return {broker_id: broker.epoch for broker_id, broker in self.image.brokers.items()}

    def stop_broker(self, broker_id: int, failure: StreamlogError | None) -> bool:
        """Fence a broker, which does not run any more, or has failed: others lead its partitions. False if it was fenced before.

        If that cannot be recorded, because the disk under the next controller fails too, it raises: a broker that has not failed runs on,
        and the next call with one that has goes on.
        """
        brokers = self._brokers
        broker = brokers.by_id(broker_id)
        with inside(), self._lock:
            self.check_open()
            may_go_on = broker.running and failure is None
            if broker.running:
                brokers.take_out(broker, failure)
            elif broker_id not in self.image.brokers or self.image.brokers[broker_id].fenced:
                return False
        alive = {each.id for each in brokers.running}
        try:
            self._change(lambda image: controller.fence_broker(image, broker_id, alive, brokers.leadership.log_ends))
        except StreamlogError:
            with inside(), self._lock:
                if may_go_on and self.closed is None:
                    self._log.move_to(brokers.take_back(broker))
                    if self.image.brokers[broker_id].fenced:  # a copy that is left has the record, so it is in force
                        brokers.take_out(broker, failure)
                        return True
            raise
        return True

    def start_broker(self, broker_id: int) -> None:
        """Open the directory of a broker that does not run, made anew if it is gone; it follows, and leads what has no leader."""
        brokers = self._brokers
        before = brokers.by_id(broker_id)
        with inside(), self._lock:
            self.check_open()
            if before.running:
                return
            if broker_id not in self.image.brokers:
                self._resolve()
                if broker_id not in self.image.brokers:  # it could not be added, as is known now
                    brokers.give_up(before, is_known=False)
                    before = brokers.by_id(broker_id)
            broker = brokers.reopen(before, self.image)
        try:
            if broker.was_new:  # first: what is at its place until it has a copy of the metadata is an empty directory
                new_id = broker.directory.directory_id
                self._change(lambda image: controller.replace_directory(image, broker_id, new_id))
            with inside(), self._lock:
                self.check_open()
                brokers.join_metadata(broker)
            self._change(lambda image: controller.register_brokers(image, brokers.registrations([broker])))
            with inside(), self._lock:
                self.check_open()  # closed since, it would be closed by nobody
                brokers.run(broker, before, self.image)
                brokers.replicate_metadata()  # its copy counts from its registration on, and gets that now
        except BaseException:
            if not broker.running:
                broker.drop()
            raise
        self.elect()

    def elect(self) -> None:
        """Have a leader where there is none, and one can be elected."""
        brokers = self._brokers
        alive = {each.id for each in brokers.running}
        self._change(lambda image: controller.elections(image, alive, brokers.leadership.log_ends))

    def record_alone(self) -> None:
        """Record which broker has partitions of which that was not recorded. REQUIRES: they are open."""
        self._change(controller.record_alone)

    def add_broker(self, path: str) -> int:
        """Have an empty directory, or one that is not there, be that of a new broker; its id.

        If it fails, or is interrupted before it is recorded, the directory is empty.
        """
        brokers = self._brokers
        try:
            with inside(), self._lock:
                self.check_open()
                self._resolve()
                broker = brokers.add(path, self.image.next_broker_id)
            self._change(lambda image: controller.register_brokers(image, brokers.registrations([broker])))
            with inside(), self._lock:
                self.check_open()  # closed since, it would be closed by nobody
                brokers.run(broker, broker, self.image)
                brokers.replicate_metadata()
        except BaseException:
            for left in [each for each in brokers.all if each.directory.path == path]:
                with inside(), self._lock:
                    brokers.give_up(left, is_known=left.id in self.image.brokers or not self._log.is_resolved)
            raise
        return broker.id

    def retire_broker(self, broker_id: int) -> None:
        """Record that a broker is to leave the log; see `controller.retire_broker`."""
        self._change(lambda image: controller.retire_broker(image, broker_id, self._brokers.ranks(image)))

    def keep_broker(self, broker_id: int) -> None:
        self._change(lambda image: controller.keep_broker(image, broker_id))

    def update_kafka_config(self, kind: str, name: str, changes: Mapping[str, str | None]) -> None:
        self._change(lambda image: controller.alter_kafka_config(image, kind, name, changes))

    def unregister_broker(self, broker_id: int) -> None:
        """Record that a broker which has no replicas, and does not run, is no part of the log any more."""
        self._change(lambda image: controller.unregister_broker(image, broker_id))

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
            self.check_open()
            try:
                self._resolve()
            except StreamlogError:
                if self._log.is_blocking:  # what the image in force refuses is refused without the disk
                    request(self.image)
                raise
            try:
                self._log.make(request, self._clock.time_ms())
            except StreamlogError as error:
                self._brokers.change_failed(error)
                raise

    def _resolve(self) -> None:
        """Complete, or undo, a change that an interrupt or the disk left unfinished. REQUIRES: the metadata lock.

        Raises the error that keeps the outcome from being known.
        """
        metadata_log = self._brokers.lead_metadata()
        if metadata_log is not self._log.partition:
            self._log.move_to(metadata_log)
            self._unannounced = True
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
        shrinks, expands, unclean = isr_changes(self.image, image, changed)
        self.image = image
        self._brokers.isr_shrinks += shrinks
        self._brokers.isr_expands += expands
        self._brokers.unclean_elections += unclean
        self._brokers.follow(image, changed)

    def unstage(self) -> None:
        """Remove what was staged for a change that is not in force. REQUIRES: the metadata lock."""
        self._brokers.unstage(self.image)


def _require_codec(changes: Mapping[str, Any]) -> None:
    """Raise MissingExtraError if records could not be compressed as these settings of a topic say."""
    codec = changes.get("compression_type", "producer")
    if codec in CODECS:  # TopicConfig refuses what is neither a codec nor "producer"
        compression.require(codec)
