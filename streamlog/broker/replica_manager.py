"""What topics there are, and a partition for each: the image of the metadata log, and what follows from it.

`metadata_log` says how a change comes into force, or to nothing. Each step can be done again without harm, so an
interrupt between two of them is made good before the next change.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from uuid import UUID

from ..config import TopicConfig, check_partitions, check_replication_factor, topic_changes
from ..errors import ClosedError, StreamlogError, TopicAlreadyExistsError
from ..replication.partition import Partition, gone
from ..runtime.api import Completion, Lock, Task, contained
from ..runtime.disk import entropy
from ..runtime.threads import getpid, inside, refuse_reentry
from ..runtime.values import refuse_to_copy
from ..storage.retention import named
from ..types import Clock, Policy, TopicPartition
from . import controller, metadata
from .log_directory import LogDirectory
from .lost_partitions import accept_losses, known_ends
from .metadata import Image, LogRecord, TopicView
from .metadata_log import MetadataLog
from .scheduler import Scheduler
from .tailing.published_writer import PublishedWriter

logger = logging.getLogger("streamlog.broker")


class ReplicaManager:
    """The topics of a broker and their partitions. Thread-safe: changes are made under the metadata lock,
    the image is replaced whole, and the dict of partitions is read without a lock."""

    __reduce_ex__ = refuse_to_copy

    def __init__(
        self,
        broker: LogDirectory,
        clock: Clock,
        scheduler: Scheduler,
        defaults: Mapping[str, Any],
        new_lock: Callable[[], Lock],
        publisher: PublishedWriter,
        *,
        force: bool = False,
    ) -> None:
        self._broker = broker
        self._publisher = publisher
        self.clock = clock
        self.scheduler = scheduler
        self.image: Image = metadata.EMPTY
        self._defaults = defaults
        self._force = force
        self._lock = new_lock()
        self.partitions: dict[tuple[str, int], Partition] = {}
        self._policies: dict[str, Policy] = {}
        self._listeners: list[Callable[[], object]] = []
        self.closed: StreamlogError | None = None
        self._staging: TopicView | None = None
        self._staged: dict[tuple[str, int], Partition] = {}
        self._untold = False
        self._warned: set[UUID] = set()

    # -- life ----------------------------------------------------------------------------------------

    def open(self, before_appends: Callable[[], None]) -> None:
        """Replay the metadata, open every partition, call `before_appends`. On failure everything is let go."""
        broker = self._broker
        try:
            published = known_ends(broker.disk, broker.path) if self._force else {}
            self._publisher.open(int(broker.incarnation), getpid())
            self._metadata = MetadataLog(broker.open_metadata(), self)
            self._metadata.partition.on_work = self._maintain_soon
            self._publisher.add(self._metadata.partition, eager=True)
            self._refuse_half()
            self.image = self._metadata.replay()
            broker.remove_orphans({view.id.hex: view.partitions for view in self.image.topics.values()})
            if self._force:
                accept_losses(broker, self.image, published)
            self._follow(self.image)
            before_appends()
            broker.recovered(completely=not self._unsettled() and not (broker.crash.unsynced and self._faulty()))
            self._publisher.opened()
        except BaseException:
            self._publisher.abandon()
            for partition in self.partitions.values():
                partition.log.release()
            broker.close(clean=False)
            raise

    def stop_compacting(self) -> None:
        """The log is about to be closed, and that is not to wait for a compaction."""
        for partition in [*self.partitions.values(), self._metadata.partition]:
            partition.maintenance.stop()

    def close(self) -> None:
        """Close every partition, then the directory. Raises the first error, after all were let go."""
        error = ClosedError("The log was closed.")
        first: StreamlogError | None = None
        clean = unsynced = False
        try:
            with inside(), self._lock:
                self.closed = error
                with contextlib.suppress(StreamlogError):  # still not known: the next open goes by what the disk holds
                    self._settle()
                self._metadata.let_go(error)
                for staged in self._staged.values():
                    staged.log.release()
                partitions = [*self.partitions.values(), self._metadata.partition]
            for partition in partitions:
                self.scheduler.cancel(partition.maintenance.run)
                self.scheduler.cancel(partition.commit.maybe_sync)
                try:
                    partition.close(error)
                except StreamlogError as failure:
                    first = first or failure
            unsynced = any(
                each.log.durability.poison is not None and not each.log.durability.is_marked for each in partitions
            )
            clean = first is None and self._metadata.is_settled and not self._faulty()
        finally:  # also when Ctrl-C comes in the middle: the lock must not outlive the log
            try:
                self._publisher.close(clean=clean)
            finally:
                self._broker.close(clean=clean, unsynced=unsynced)
        if first is not None:
            try:
                raise first
            finally:
                del first  # it refers to this frame

    def abandon(self, error: StreamlogError) -> None:
        """In a forked child: append nothing, whoever asks. Takes no lock: a thread that is not here may have it."""
        self.closed = error
        for partition in list(self.partitions.values()):
            partition.closed = error

    def shut(self, error: StreamlogError) -> None:
        """The directory is another's by now: refuse everything with `error`. Takes no lock, for the caller may have any."""
        self.closed = self.closed or error
        for partition in [*list(self.partitions.values()), self._metadata.partition]:
            partition.closed = partition.closed or error
        self.scheduler.at(self.clock.time_ms(), self._wake_all)

    def _wake_all(self, now_ms: int) -> None:
        for partition in list(self.partitions.values()):
            partition.waiters.wake()

    def _refuse_half(self) -> None:
        """Raise what is wrong with the end of the metadata log: topics lost there would be removed as orphans."""
        log = self._metadata.partition.log
        if log.refusal is not None and log.unfinished is None:
            raise log.refusal.copy()

    def _unsettled(self) -> bool:
        """Whether some recovery could not be finished, for want of space: the next open then begins it again."""
        return any(each.log.unfinished is not None for each in (self._metadata.partition, *self.partitions.values()))

    def _faulty(self) -> bool:
        """Whether some log does not know its end: once closed as clean, it would give offsets that it gave before."""
        return any(each.log.refusal is not None for each in (self._metadata.partition, *self.partitions.values()))

    def _add(self, view: TopicView, number: int) -> None:
        staged = self._staged.get((view.name, number))
        if staged is not None and staged.topic_id == view.id_bytes:
            partition = staged
        else:
            partition = self._broker.open_partition(view, number)
        partition.maintenance.custom_policy = self._policy_of(view)
        partition.on_work = self._maintain_soon
        partition.commit.schedule = partial(self._sync_soon, partition.commit.maybe_sync)
        partition.log.close_idle_files()
        self._publisher.add(partition)
        self.partitions[view.name, number] = partition
        if partition.log.tail.end_offset:
            self._maintain_soon(partition)  # not now: opening does not wait for a compaction

    def _sync_soon(self, maybe_sync: Task, delay_ms: int) -> None:
        self.scheduler.at(self.clock.time_ms() + delay_ms, maybe_sync)

    def _maintain_soon(self, partition: Partition) -> None:
        self.scheduler.at(self.clock.time_ms(), partition.maintenance.run)

    def acknowledged(self) -> list[Completion[int]]:
        """Everything that is in the logs now, the metadata first: done when it is on the device."""
        if self.closed is not None:
            raise self.closed.copy()
        return [partition.commit.everything() for partition in (self._metadata.partition, *self.partitions.values())]

    # -- topics --------------------------------------------------------------------------------------

    def on_metadata(self, callback: Callable[[], object]) -> None:
        self._listeners.append(callback)

    def off_metadata(self, callback: Callable[[], object]) -> None:
        if callback in self._listeners:
            self._listeners.remove(callback)

    def topic(self, name: str) -> TopicView:
        if self.closed is not None:
            raise self.closed.copy()
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
        changes, policy = topic_changes(wanted, also=("partitions", "exist_ok"))
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
                with inside(), self._lock:
                    self._follow(self.image)
            return view
        except BaseException:
            if name not in self.image.topics:
                self._policies.pop(name, None)
            raise

    def create_internal(self, name: str, partitions: int, config: TopicConfig) -> None:
        """Create a topic of the log's own, unless another thread was faster."""
        with contextlib.suppress(TopicAlreadyExistsError):
            self._create(name, partitions, config, True)

    def _create(self, name: str, partitions: int, config: TopicConfig, internal: bool) -> TopicView:
        topic_id = UUID(bytes=entropy(16), version=4)
        self._change(lambda image: controller.create(image, name, topic_id, partitions, config, internal))
        return self.image.topics[name]

    def update_topic(self, name: str, settings: Mapping[str, Any]) -> None:
        changes, policy = topic_changes(settings)
        if "retention" not in changes:
            self._change(lambda image: controller.alter(image, name, changes))
            return
        self.topic(name)
        before = self._policies.pop(name, None)
        if policy is not None:
            self._policies[name] = policy
        try:
            self._change(lambda image: controller.alter(image, name, changes))
        except BaseException as error:
            view = self.image.topics.get(name)
            refused = isinstance(error, StreamlogError) or (
                view is not None and view.config.retention != changes["retention"]
            )
            if refused:
                self._policies.pop(name, None)
                if before is not None:
                    self._policies[name] = before
            raise

    def add_partitions(self, name: str, total: int) -> None:
        check_partitions(total)
        self._change(lambda image: controller.grow(image, name, total))

    def delete_topic(self, name: str) -> None:
        try:
            self._change(lambda image: controller.delete(image, name))
        finally:
            if name not in self.image.topics:
                self._policies.pop(name, None)

    def _change(self, request: Callable[[Image], LogRecord]) -> None:
        """Request → record → append → replay → have the partitions follow, under the metadata lock.

        An interrupt in the middle leaves the image, or the partitions, behind the log. Both are brought up to it
        before the interrupt goes on to the caller, also if there is a second one; after a third, before the next change.
        """
        try:
            self._make(request)
            self._tell()
        except StreamlogError:
            self._tell_if_untold()
            raise
        except BaseException:
            try:
                self._finish()
            except BaseException:
                self._finish()
            raise

    def _finish(self) -> None:
        """After an interrupt: see what came of the change, and tell of it."""
        with (
            inside(),
            contextlib.suppress(StreamlogError),
            self._lock,
        ):  # the disk refuses to say: the next change asks again
            if self.closed is None:
                self._settle()
        self._tell()

    def _tell(self) -> None:
        """Call everybody who has to hear of a change, also after one that raised; again does no harm."""
        self._untold = False
        for listener in list(self._listeners):
            contained(listener)

    def _tell_if_untold(self) -> None:
        if self._untold:
            self._tell()

    def _make(self, request: Callable[[Image], LogRecord]) -> None:
        with inside(), self._lock:
            if self.closed is not None:
                raise self.closed.copy()
            try:
                self._settle()
            except StreamlogError:
                if self._metadata.is_blocking:  # the image is what is in force: what it refuses needs no disk
                    request(self.image)
                raise
            self._metadata.make(request, self.clock.time_ms())

    def _settle(self) -> None:
        """See to an end what an interrupt or the disk left. REQUIRES: the metadata lock. Raises what keeps it from being known."""
        if self._metadata.settle():
            self._untold = True
        self.unstage()

    def settle_refused(self) -> bool:
        """Try again to take back a change that is not known to be void, for a record that was refused because of it;
        whether that is known now. Not while somebody is at a change: the caller may have a lock that comes after that one.
        """
        if not self._metadata.is_blocking or self._lock.locked():
            return False
        with inside(), self._lock, contextlib.suppress(StreamlogError):
            if self.closed is None:
                self._settle()
        if self._untold:
            self.scheduler.at(self.clock.time_ms(), self._tell_late)
        return not self._metadata.is_blocking

    def _tell_late(self, now_ms: int) -> None:
        self._tell_if_untold()

    def take(self, image: Image) -> None:
        """The image of a change that is in force: have the partitions follow it. REQUIRES: the metadata lock."""
        self.image = image
        self._follow(image)

    def of_topic(self, name: str) -> list[Partition]:
        return [partition for (topic, _), partition in list(self.partitions.items()) if topic == name]

    def stage(self, view: TopicView | None) -> None:
        """Make the partitions of `view` that are not there yet. Nothing names them before the change is in force."""
        self._staging = view
        if view is None:
            return
        for number in range(view.partitions):
            known = self.partitions.get((view.name, number))
            if known is None or known.topic_id != view.id_bytes:
                partition = self._staged[view.name, number] = self._broker.make_partition(view, number)
                partition.log.close_idle_files()

    def unstage(self) -> None:
        """Remove what was made for a change that is not in force, and let go of the rest."""
        view = self._staging
        if view is None:
            return
        there = self.image.topics.get(view.name)
        kept = there.partitions if there is not None and there.id == view.id else 0
        for number in range(kept, view.partitions):
            partition = self._staged.get((view.name, number))
            if partition is not None:
                partition.log.release()
            self._broker.remove_partition_files(view.id.hex, number)
        self._staged = {}
        self._staging = None

    def _follow(self, image: Image) -> None:
        """Have a partition for each that the image names and no other, with its settings. Does no more than it must."""
        for (name, _), partition in list(self.partitions.items()):
            view = image.topics.get(name)
            if view is None or view.id_bytes != partition.topic_id:
                self._remove(partition)
        for name, view in image.topics.items():
            self._find_policy(view)
            for number in range(view.partitions):
                known = self.partitions.get((name, number))
                if known is None:
                    self._add(view, number)
                elif known.log.config is not view.config or known.maintenance.custom_policy is not self._policy_of(
                    view
                ):
                    known.configure(view.config)
                    known.maintenance.custom_policy = self._policy_of(view)
                    self._maintain_soon(known)

    def _remove(self, partition: Partition) -> None:
        name = partition.name
        self.scheduler.cancel(partition.maintenance.run)
        self.scheduler.cancel(partition.commit.maybe_sync)
        partition.remove(gone(name))
        self._publisher.remove(partition)
        self._broker.remove_partition_files(partition.topic_id.hex(), name.partition)
        self.partitions.pop(name, None)

    def _default_policy(self) -> Policy | None:
        policy: Policy | None = self._defaults.get("retention")
        return policy

    def _policy_of(self, view: TopicView) -> Policy | None:
        """The policy object that was given for this topic, and not for one before it or in a change that was refused."""
        given = self._policies.get(view.name)
        return given if given is not None and given.name == view.config.retention else None

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

    def partition(self, name: TopicPartition) -> Partition:
        partition = self.partitions.get(name)
        if partition is None and self._metadata.is_interrupted:
            refuse_reentry()
            with inside(), self._lock:
                self._settle()
            self._tell_if_untold()
            partition = self.partitions.get(name)
        if partition is None:
            if self.closed is not None:
                raise self.closed.copy()
            controller.find(self.image, name[0])
            raise gone(TopicPartition(*name))
        return partition
