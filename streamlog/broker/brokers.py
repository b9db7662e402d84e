"""The brokers of one log: their directories, their copies of the metadata log, and what is asked of all of them.

A log has one broker, or several, each with a directory of its own. All of them live in this process and follow one image.
Every call about a partition goes to the replica of the broker that leads it: `leaders` has that (`leadership`). The followers
fetch from there, each broker's on a thread of its own (`replication/fetcher.py`). Of a log with one broker, `leaders` is that
broker's table of partitions, and most of what is here has nothing to do.

The metadata log has a copy on every broker. The first broker's is the one that is appended to; a change is in force when every
copy has it on its device. `presence` says which brokers have to be here for the log to be opened.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TypeVar

from ..errors import (
    ConfigError,
    CorruptRecordError,
    DiskFullError,
    FormatError,
    PoisonedLogError,
    StorageError,
    StreamlogError,
)
from ..replication import election
from ..replication.errors import fenced_is_closed
from ..replication.fetcher import ReplicaFetcher
from ..replication.partition import Partition
from ..replication.repairs import Peer, RepairCounts
from ..replication.replica_set import PartitionRegistration
from ..replication.throttle import ReplicationQuota, ReplicationThrottle
from ..runtime.api import Task, without_traceback
from ..runtime.disk import entropy
from ..runtime.threads import SideBySide
from ..runtime.values import refuse_to_copy
from . import controller, metadata_copies, presence
from .broker import Broker
from .disk_watch import DiskWatch, Work
from .leadership import Leadership
from .log_directory import METADATA_ID
from .metadata import RUN_ID_BYTES, BrokerRegistration, Image
from .owner import OWNER_FILE
from .presence import Presence

T = TypeVar("T")
logger = logging.getLogger("streamlog.broker")

DISK_ERRORS = (StorageError, DiskFullError, PoisonedLogError)
"""What a call raises because of the disk under one broker."""
WATCH_MS = 1000
"""How often a log with background threads looks whether its directories are still there: two system calls for each."""
# How many leader epochs of the metadata log are reserved at a time: a broker that fails takes two, and writes nothing for that.
_RESERVED_EPOCHS = 1000


class Brokers:
    """See the module. Changes REQUIRE the metadata lock; `leaders` is read without a lock."""

    __reduce_ex__ = refuse_to_copy

    def __init__(
        self,
        brokers: list[Broker],
        new_broker: Callable[[str, int], Broker],
        now_ms: Callable[[], int],
        new_throttle: Callable[[ReplicationQuota, Task], ReplicationThrottle],
        root: str | None = None,
    ) -> None:
        """`new_broker`: one with this directory and id, which is not open. `new_throttle`: of a broker, with what wakes the thread that
        fetches for it. `root`: the directory of a log with several brokers, in which theirs are if nothing else was said; None if
        theirs were given."""
        self.all = brokers
        self._new_broker = new_broker
        self.quota = ReplicationQuota()
        self._new_throttle = new_throttle
        self.is_replicated = root is not None or len(brokers) > 1
        self._presence = Presence(brokers, new_broker, root, is_replicated=self.is_replicated)
        self.take_directories = self._presence.take_directories
        self.run_id = entropy(RUN_ID_BYTES)
        """Names this run of a log with several brokers, for those who read along: each of them was opened a number of times."""
        self._is_untouched = True
        self._reserved_epoch = 0
        self._is_level = True
        """Whether the copies of the metadata log that are here follow one of them; else the next change has them do so first."""
        self._together = SideBySide()
        self.watch = DiskWatch(lambda: self.running, lambda broker, error: self.on_failure(broker, error))
        self.leaders: dict[tuple[str, int], Partition] = {} if self.is_replicated else brokers[0].replicas.partitions
        self.leadership = Leadership(self.leaders, lambda: self.running, now_ms)
        self._now_ms = now_ms
        self.isr_shrinks = self.isr_expands = self.unclean_elections = 0
        self.repair_counts = RepairCounts()
        self.on_isr_change: Callable[[], object] = lambda: None
        self.on_failure: Callable[[Broker, StreamlogError], object] = lambda broker, error: None
        self.check_owned: Callable[[Broker], object] = lambda broker: None
        """Called on each broker's own thread: the call may not come back."""
        self.on_removal: Callable[[str], object] = lambda path: None
        """Called when a broker has left the log, with its directory."""

    @property
    def root(self) -> str | None:
        """The directory of the log, in which those of its brokers are; None if they are elsewhere."""
        return self._presence.root

    @property
    def are_found(self) -> bool:
        """Whether `open` finds one of them by itself: in the directory of the log, if it is not given theirs."""
        root = self._presence.root
        return root is None or any(broker.directory.path.startswith(f"{root}/") for broker in self.all)

    @property
    def running(self) -> list[Broker]:
        """Those that are neither stopped nor failed."""
        return [broker for broker in self.all if broker.running]

    def by_id(self, broker_id: int) -> Broker:
        for broker in self.all:
            if broker.id == broker_id:
                return broker
        raise ConfigError(
            f"There is no broker {broker_id} in this log (it has {', '.join(str(broker.id) for broker in self.all)}). If there was one, it "
            f"was retired.",
            name="broker_id",
        )

    # -- opening -------------------------------------------------------------------------------------

    def open_metadata(
        self, lock_timeout: float, *, force: bool = False, count: int | None = None,
        check: Callable[[int], object] = lambda brokers: None,
    ) -> Partition:  # fmt: skip
        """Have every copy of the metadata log that is here end where the newest does; the first broker's. See `Presence.find`."""
        if not self.is_replicated:
            return self.all[0].open_metadata()
        self._presence.find(lock_timeout, force=force, count=count, check=check)
        self._is_untouched = False
        self._level(self._copies(), skipped_epochs=presence.FORCED_EPOCHS if self._presence.is_forced else 0)
        return self.controller_log()

    def _level(self, copies: list[Partition], joining: Broker | None = None, skipped_epochs: int = 0) -> None:
        """Have each copy of the metadata log end where the newest does, and follow the first, in new leader epochs.

        An epoch is reserved in every directory before the first record is appended in it. So whichever copies are here at the next open,
        more than half, they know of every epoch that was used: records of the same epoch and offset are the same in all copies, and
        what only a copy that is missing has is of an older epoch than what is done without it. Raises the error of the copy of `joining`;
        that of another one is of a broker that has failed.
        """
        self._is_level = False
        brokers = [*self.running, *([] if joining is None else [joining])]
        unknown_epochs = [each.directory.reserved_epoch for each in brokers]
        unknown_epochs = [epoch for epoch in unknown_epochs if epoch != self._reserved_epoch]
        epoch = 1 + max([metadata_copies.last_epoch(copies), *unknown_epochs]) + skipped_epochs
        if epoch + 1 > self._reserved_epoch:
            self._reserved_epoch = epoch + _RESERVED_EPOCHS
        lacking = [each for each in brokers if each.directory.reserved_epoch != self._reserved_epoch]
        self._each((each, partial(each.directory.reserve_epoch, self._reserved_epoch)) for each in lacking)
        failed: list[tuple[Partition, StreamlogError]] = []
        joins = None if joining is None else joining.replicas.metadata
        if not self._do(
            [(tuple(brokers), lambda: failed.extend(metadata_copies.level(copies, epoch, self._now_ms(), joins)))]
        ):
            self._level([copy for copy in copies if not copy.is_fenced], joining, skipped_epochs)
            return
        self._is_level = True
        for copy, error in failed:
            if joining is not None and copy is joining.replicas.metadata:
                raise error
            self._failed(copy, error)

    def start_fetchers(self, epochs: Mapping[int, int]) -> None:
        """Give each broker what fetches for it. REQUIRES: no partition is open yet."""
        if self.is_replicated:
            for broker in self.running:
                self._start_fetcher(broker, epochs[broker.id])

    def _start_fetcher(self, broker: Broker, epoch: int) -> None:
        broker.epoch = epoch
        throttle = self._new_throttle(self.quota, broker.wake)
        broker.fetcher = ReplicaFetcher(
            broker.id, epoch, self.leaders.get, self, broker.nudge, throttle=throttle, now_ms=self._now_ms
        )
        broker.replicas.is_replicated = True
        broker.replicas.peers = self.peers
        broker.replicas.repair_counts = self.repair_counts
        broker.replicas.on_isr_change = lambda partition: self.on_isr_change()
        broker.replicas.on_failure = lambda error: self.on_failure(broker, error)
        if broker.replicas.metadata is not None:
            broker.replicas.repair_from_peers(broker.replicas.metadata)

    # -- stopping and starting -----------------------------------------------------------------------

    def take_out(self, broker: Broker, failure: StreamlogError | None) -> None:
        """Count a broker as not running from now on, nor its copy of the metadata.

        Raises ConfigError for the last one. The change that fences it comes next.
        """
        others = [each for each in self.running if each is not broker]
        if not others:
            raise ConfigError(
                f"Broker {broker.id} is the last one that is running, and nothing could be recorded without it. Start another "
                f"one first, or close the log.",
                name="broker",
            )
        broker.running, broker.is_leaving = False, True
        broker.failure = None if failure is None else without_traceback(failure.copy())
        self._is_level = False

    def lead_metadata(self) -> Partition:
        """The metadata log of the controller, for a change: of another one than at the last change, if that is gone."""
        self._together.await_interrupted()
        if not self._is_level:
            self._level(self._copies())
        return self.controller_log()

    def take_back(self, broker: Broker) -> Partition:
        """A broker that was to be stopped runs on, for that could not be recorded; the metadata log of the controller."""
        broker.running, broker.is_leaving = True, False
        self._level(self._copies())
        return self.controller_log()

    def controller_log(self) -> Partition:
        """The metadata log that is appended to: that of the controller."""
        return self._copies()[0]

    @property
    def controller(self) -> Broker:
        return self.by_id(self.controller_log().broker_id)

    def of(self, replica: Partition) -> Broker | None:
        """The broker that has this replica open; None if it was stopped, or the replica was removed."""
        for broker in self.all:
            if broker.replicas.metadata is replica or broker.replicas.partitions.get(replica.name) is replica:
                return broker
        return None

    def reopen(self, before: Broker, image: Image) -> Broker:
        """Open the directory of a broker that does not run. It takes no part yet: see `join_metadata`, and `run`.

        Raises FormatError for a directory that is another one than the metadata says, or another log's.
        """
        broker = self._new_broker(before.directory.path, before.id)
        broker.running = False
        broker.publisher.is_silent = before.publisher.is_silent
        self._each([(broker, partial(self._open_again, broker, before, image))])
        return broker

    def _open_again(self, broker: Broker, before: Broker, image: Image) -> None:
        directory = broker.directory
        owner = next((each for each in self.running if each.directory.path == directory.path), None)
        if owner is not None:  # the two were exchanged, and this one was not found at the last open
            raise presence.others_directory(before.id, owner.directory)
        try:
            broker.directory.open(0.0)
            broker.was_new = directory.is_new
            cluster_id = self.running[0].directory.cluster_id
            if directory.is_new:
                directory.join(cluster_id)
            elif directory.cluster_id != cluster_id or directory.broker_id != before.id:
                raise presence.other_log(before.id, directory)
            elif (refused := presence.refusal(image, directory)) is not None:
                raise refused
        except BaseException:
            broker.drop(untouched=True)
            raise

    def join_metadata(self, broker: Broker) -> None:
        """Have the metadata log of a broker that was opened again be a copy again. It is not registered yet."""
        self._each([(broker, partial(broker.open_metadata, made_anew=True))])
        self._level([*self._copies(), *self._metadata_of(broker)], broker)

    # -- brokers that come and go --------------------------------------------------------------------

    def add(self, path: str, broker_id: int) -> Broker:
        """Make a new broker, with a copy of the metadata, in a directory that is empty or not there. It is not registered yet."""
        broker = self._new_broker(path, broker_id)
        broker.running = False
        try:
            broker.directory.open(0.0)
            broker.directory.join(self.running[0].directory.cluster_id)
            self.all.append(broker)
            self.join_metadata(broker)
        except BaseException:
            self.give_up(broker, is_known=False)
            raise
        return broker

    def give_up(self, broker: Broker, *, is_known: bool) -> None:
        """Close a broker that could not be added. One that is registered stays as one that does not run, and can be started."""
        if broker.running:
            return
        broker.drop(clears=not is_known)
        if not is_known and broker in self.all:
            self.all.remove(broker)
        self._level(self._copies())  # the changes to come do not wait for it

    def remove(self, broker: Broker) -> None:
        """A broker that was closed is no part of the log any more. Its directory is left, and says so."""
        self.all.remove(broker)
        self.on_removal(broker.directory.path)
        directory = broker.directory.beside(broker.directory.path, broker.id)

        def retire() -> None:
            if directory.is_there():
                directory.open(0.0)
                directory.retire()

        try:
            self.watch.run_on(broker, retire)
        except StreamlogError as error:
            logger.warning("%s could not be marked as that of a broker that was retired: %s", directory.path, error)

    def _copies(self) -> list[Partition]:
        """The metadata log of each broker that runs, that of the controller first; of the first one, if that is gone."""
        copies = [copy for each in self.running if (copy := each.replicas.metadata) is not None]
        return sorted(copies, key=lambda copy: not copy.is_leader)

    def run(self, broker: Broker, before: Broker, image: Image) -> None:
        """A registered broker takes part: it opens its replicas, and follows the leaders."""
        broker.publisher.wake, broker.nudge = before.publisher.wake, before.nudge
        self._each([(broker, partial(self._remove_orphans, broker, image))])  # deleted while it did not run
        self._start_fetcher(broker, image.brokers[broker.id].epoch)
        broker.running = True
        self.all[self.all.index(before)] = broker
        self.follow(image)
        completely = not broker.replicas.is_recovering
        self._each([(broker, partial(broker.directory.recovered, completely=completely))])
        broker.publisher.opened()

    def close_broker(self, broker: Broker, error: StreamlogError) -> list[BaseException]:
        """Close a broker that was taken out: cleanly, unless it failed. Does nothing if it was closed."""
        if not broker.is_leaving:
            return []
        if broker.fetcher is not None:
            for partition in broker.replicas.all():
                broker.fetcher.forget(partition.name)
        broker.is_leaving = False
        if broker.hung is not None:  # closed once its disk answers: see `disk_watch`
            return []
        refusal = without_traceback(error.copy())  # what is stored keeps no frames, and with them files
        errors: list[BaseException] = []

        def close() -> None:
            replicas = [*broker.replicas.partitions.values(), *self._metadata_of(broker)]
            errors.extend(broker.replicas.close(replicas, refusal).values())
            try:
                broker.close_directory(clean=not errors and broker.failure is None, stopped=True)
            except (StreamlogError, OSError) as failure:
                errors.append(failure)

        self.watch.run_on(broker, close)
        return errors

    @staticmethod
    def _metadata_of(broker: Broker) -> list[Partition]:
        return [] if broker.replicas.metadata is None else [broker.replicas.metadata]

    def publish(self, path: str, now_ms: int) -> int | None:
        """The work of the thread that publishes for the broker in a directory, whichever run of it this is."""
        broker = self._running_at(path)
        return None if broker is None else broker.publisher.tick(now_ms)

    def fetch(self, path: str, now_ms: int) -> int | None:
        """The work of the thread that fetches for the broker in a directory."""
        broker = self._running_at(path)
        if broker is None or broker.fetcher is None:
            return None
        if self.watch.is_looking and now_ms >= broker.watched_ms + WATCH_MS:
            broker.watched_ms = now_ms
            with contextlib.suppress(StreamlogError):  # not known: the next look may tell
                self.check_owned(broker)
        deadline_ms = broker.fetcher.step(now_ms)
        if not self.watch.is_looking:
            return deadline_ms
        look_ms = broker.watched_ms + WATCH_MS
        return look_ms if deadline_ms is None else min(deadline_ms, look_ms)

    def _running_at(self, path: str) -> Broker | None:
        return next((each for each in list(self.all) if each.directory.path == path and each.running), None)

    def replicate_metadata(self) -> None:
        """See `metadata_log.Partitions`. A copy that fails does not count any more; half of those there were have to be left."""
        if not self.is_replicated:
            return
        first, *others = copies = self._copies()
        failed: list[tuple[Partition, StreamlogError]] = []

        def bring_up(copy: Partition) -> None:
            try:
                metadata_copies.bring_up(first, copy, self._now_ms())
            except StreamlogError as error:
                if self.failed_in(error) is self.by_id(first.broker_id):
                    raise  # its log cannot be read, and the others are whole
                failed.append((copy, without_traceback(error.copy())))

        by_copy = {broker.replicas.metadata: broker for broker in self.running}
        self._each((by_copy[copy], partial(bring_up, copy)) for copy in others)
        hung = [copy for copy in copies if copy.is_fenced]
        for copy, failure in failed:
            self._failed(metadata_copies.failed_copy(first, copy, failure), failure)
        lost = [*(copy for copy, _ in failed), *hung]
        if 2 * (len(copies) - len(lost)) < len(copies) and failed:
            self._level([first])
            self._is_level = False  # the next change tries the others again
            raise failed[0][1]
        metadata_copies.announce(first, [copy for copy in copies if copy not in lost])

    def require_all(self, image: Image) -> None:
        """Raise ConfigError if this is one broker of several, FormatError if it is one that the log does not have."""
        if self.is_replicated:
            return
        directory = self.all[0].directory
        if len(image.brokers) > 1:
            raise ConfigError(
                f"{directory.path} is the directory of broker {directory.broker_id} of a log of {len(image.brokers)} brokers. Open the "
                f"log by its path, or by all its directories (brokers=[…]); to read this one alone, open it with read_only=True.",
                name="path",
            )
        if directory.broker_id != 0:
            raise FormatError(
                f"{directory.path}/{OWNER_FILE} says that it is of broker {directory.broker_id}, and the log has one broker, 0: the file is "
                f"damaged. No record was read or changed; restore it from a copy, or copy what is whole with streamlog.repair().",
                path=f"{directory.path}/{OWNER_FILE}",
            )
        self._is_untouched = False

    def remove_orphans(self, image: Image) -> None:
        """Remove partitions that the metadata does not name where they are."""
        for broker in self.running:
            self._remove_orphans(broker, image)

    def _remove_orphans(self, broker: Broker, image: Image) -> None:
        if self._presence.is_forced:  # there may be topics that the metadata which is here does not know
            return
        here = {
            view.id.hex: range(view.partitions)
            if not self.is_replicated
            else {n for n in range(view.partitions) if broker.id in image.partition(view.id_bytes, n).replicas}
            for view in image.topics.values()
        }
        broker.directory.remove_orphans(here)

    def leaders_after_opening(self, image: Image) -> dict[tuple[str, int], PartitionRegistration]:
        """See `Leadership.after_opening`."""
        return self.leadership.after_opening(image, is_forced=self._presence.is_forced)

    @property
    def may_have_lost_records(self) -> bool:
        """Whether records that were in the log may not have survived: the machine was booted since, or a sync had failed."""
        crashes = [broker.directory.crash for broker in self.running]
        return any((not crash.clean and not crash.same_boot) or crash.unsynced for crash in crashes)

    def recovered(self) -> None:
        """Everything is open."""
        for broker in self.running:
            directory, replicas = broker.directory, broker.replicas
            directory.recovered(
                completely=not replicas.is_recovering and not (directory.crash.unsynced and replicas.is_faulty)
            )
            broker.publisher.opened()

    # -- the end -------------------------------------------------------------------------------------

    def release(self) -> None:
        """After an open that failed: close the files, and sync nothing."""
        for broker in self.running:
            broker.drop(untouched=self._is_untouched)

    def stale_path(self) -> str:
        """The directory that is not the one that was opened any more, as far as that can be found out."""
        stale = [broker.directory.path for broker in self.running if not broker.directory.is_ours()]
        return stale[0] if stale else self.all[0].directory.path

    def stop_compacting(self) -> None:
        """Give up compactions: the log is about to be closed, and closing does not wait for them."""
        for broker in self.all:
            broker.replicas.stop_compacting()

    def close(self, partitions: list[Partition], error: StreamlogError) -> list[BaseException]:
        """Close these partitions, each whatever the others raise; the errors of those that no other replica makes good."""
        self._together.await_interrupted()
        if self.is_replicated:
            self.leadership.announce_high_watermarks()
        for former in list(self.leadership.offline_leaders.values()):
            former.purgatory.fail(error)
        failed: dict[Partition, StreamlogError] = {}
        for broker in [each for each in self.all if each.hung is None]:
            own = [each for each in partitions if each.broker_id == broker.id]

            def close(broker: Broker = broker, own: list[Partition] = own) -> None:
                failed.update(broker.replicas.close(own, error))

            try:
                self.watch.run_on(broker, close)
            except StreamlogError as failure:
                if broker.hung is None:
                    raise
                logger.warning("broker %d is not closed: %s", broker.id, failure)
        for partition in partitions:  # once all are closed: a leader may have what its followers take now no more
            partition.fail_waiting(error)
        return [failure for replica, failure in failed.items() if not self._is_made_good(replica, failure, failed)]

    def _is_made_good(
        self, replica: Partition, failure: StreamlogError, failed: Mapping[Partition, StreamlogError]
    ) -> bool:
        """Whether a replica could not be closed because of the disk under its broker, and others that were closed have all that it has.

        Of the copies of the metadata more than half have to be left, for without them the log does not open.
        """
        broker, peers = self.of(replica), [peer for peer in self.peers(replica) if peer.replica not in failed]
        if broker is None or not isinstance(failure, DISK_ERRORS):
            return False
        if replica.topic_id == METADATA_ID.bytes:
            if 2 * len(peers) <= len(self._copies()):
                return False
        elif not any(peer.end >= replica.end_offset for peer in peers):
            return False
        if broker.failure is None:
            broker.failure = failure
            logger.error(
                "the disk under broker %d failed as the log was closed; others have its records: %s", broker.id, failure
            )
        return True

    def close_directories(self, *, clean: bool) -> None:
        """Mark each directory as closed, if everything in it was, and give up its lock, whatever the others raise."""
        for broker in self.all:
            broker.running = broker.running and broker.hung is None  # that one is closed once its disk answers
        left = self.running
        try:
            while left:
                is_clean = clean and left[0].failure is None
                self.watch.run_on(left[0], partial(left[0].close_directory, clean=is_clean))
                left.pop(0)
        finally:
            for broker in left:
                if broker.hung is None:
                    broker.directory.close(clean=False)

    def abandon(self, error: StreamlogError) -> None:
        """In a forked child: give up the descriptors of the locks; write nothing, wait for nothing."""
        for broker in self.all:
            broker.replicas.abandon(error)
            broker.publisher.abandon()
            broker.directory.abandon()

    # -- for the topics ------------------------------------------------------------------------------

    def factor(self, wanted: int | None, image: Image) -> int:
        """How many replicas a partition of a new topic has. Raises ConfigError for more than there are brokers.

        Brokers that do not run count, as Kafka's that are fenced do: a topic has the factor that it would have had with them.
        """
        return controller.check_factor(wanted, len(self.ranks(image)))

    def ranks(self, image: Image) -> dict[int, int]:
        """The brokers that may get replicas: 0 for those that run, 1 for the others, which get some only if there are too few."""
        leaving = {broker.id for broker in image.brokers.values() if broker.retiring}
        return {broker.id: 0 if broker.running else 1 for broker in self.all if broker.id not in leaving}

    def place(self, image: Image, partitions: int, factor: int, first: int) -> list[tuple[int, ...]]:
        """The replicas of so many new partitions; empty for a log of one broker. `first`: see `election.place`."""
        if not self.is_replicated:
            return []
        return election.place_by_rank(self.ranks(image), partitions, factor, first)

    def registrations(self, brokers: Iterable[Broker]) -> list[BrokerRegistration]:
        """What is recorded of brokers that run from now on, with an id of this run of each, which begins with that of the log's."""
        return [
            BrokerRegistration(
                broker.id,
                self.run_id + entropy(16 - len(self.run_id)),
                0,
                directory_id=broker.directory.directory_id,
                path=presence.recorded_path(broker.directory.path, self._presence.root),
            )
            for broker in brokers
        ]

    @property
    def moved(self) -> dict[int, str]:
        """What is recorded of those that are not here, and are looked for elsewhere from now on: their paths."""
        root = self._presence.root
        return {number: presence.recorded_path(path, root) for number, path in self._presence.moved.items()}

    def partitions(self) -> tuple[list[Partition], list[Partition]]:
        """The copies of the metadata log, and every other replica of every broker."""
        copies = [broker.replicas.metadata for broker in self.running]
        others = [each for broker in self.running for each in broker.replicas.partitions.values()]
        return [copy for copy in copies if copy is not None], others

    def of_topic(self, name: str) -> list[Partition]:
        """Every replica of a topic's partitions."""
        return [partition for broker in self.running for partition in broker.replicas.of_topic(name)]

    def replicas(self) -> list[Partition]:
        """Every replica of every broker that runs, those of the metadata log too."""
        return [replica for broker in self.running for replica in broker.replicas.all()]

    def stage(self, image: Image, name: str) -> None:
        self._each((broker, partial(broker.replicas.stage, image, name)) for broker in self.running)

    def _each(self, works: Iterable[tuple[Broker, Callable[[], object]]]) -> None:
        """Do each of these, which are of different brokers, and wait for their disks. See `_do`."""
        self._do([((broker,), work) for broker, work in works])

    def _do(self, works: list[Work]) -> bool:
        """Do each of these. A broker whose disk does not answer is taken out, and the rest goes on without it: False then.

        Without a thread that finds out, no order is left to chance: they are done one after another, on this thread.
        """
        if not self.watch.is_looking:
            for _, work in works:
                work()
            return True
        errors = self.watch.run_all(self._together, works) if works else []
        try:
            for (brokers, _), error in zip(works, errors, strict=True):
                late = [broker for broker in brokers if broker.hung is not None]
                for broker in late:
                    if broker.running and len(self.running) > 1:
                        self.take_out(broker, broker.hung)
                if error is not None and (not late or any(broker not in self.all for broker in late)):
                    raise error
            return not any(errors)
        finally:
            errors.clear()  # an error refers to this frame

    def at_controller(self, work: Callable[[], object]) -> None:
        """Do this at the copy of the metadata log that is appended to. Raises StorageError if its disk does not answer."""
        controller = self.controller
        if not self._do([((controller,), work)]):
            assert controller.hung is not None
            raise controller.hung.copy()

    def append_as_coordinator(
        self, partition: Partition, append: Callable[[], T], beside: SideBySide | None = None
    ) -> T:
        """What `append` returns, which appends to this partition for a coordinator: a group's records, or a marker.

        The caller waits no longer than the disk has to answer in, so a coordinator's lock is held no longer, and no request of
        several steps stays in the call. Raises what it raises; StorageError if the disk does not answer.
        """
        broker = self.of(partition) if self.watch.is_looking else None
        if broker is None:
            return append()
        answers: list[T] = []
        with fenced_is_closed(partition):
            self.watch.run_on(broker, lambda: answers.append(append()), beside)
        return answers[0]

    def unstage(self, image: Image) -> None:
        self._each(
            (broker, partial(broker.replicas.unstage, image)) for broker in self.running if broker.replicas.is_staging
        )

    def release_staged(self) -> None:
        self._each((broker, broker.replicas.release_staged) for broker in self.running if broker.replicas.is_staging)

    def follow(self, image: Image, changed: Iterable[str] | None = None) -> None:
        """Have the replicas of each broker, and the table of leaders, be as the image says; see `ReplicaManager.follow`."""
        names = None if changed is None else list(changed)
        self._each((broker, partial(broker.replicas.follow, image, names)) for broker in self.running)
        if self.is_replicated:
            for name in [*self.leadership.topics, *image.topics] if names is None else names:
                self.leadership.follow(name, image)

    def open_replicas(self, image: Image) -> list[tuple[Broker, CorruptRecordError]]:
        """Have each broker open its replicas; those that cannot, and why. Raises the error if they are all that there are."""
        failed: list[tuple[Broker, CorruptRecordError]] = []
        running = self.running
        for broker in running:
            try:
                broker.replicas.follow(image)
            except CorruptRecordError as error:
                failed.append((broker, error))
                if len(failed) == len(running):
                    raise
        return failed

    # -- what fails ----------------------------------------------------------------------------------

    def replica_failed(self, replica: Partition, error: StreamlogError) -> None:
        """See `FetchListener`."""
        logger.warning("%s-%d on broker %d does not follow: %s", *replica.name, replica.broker_id, error)
        if isinstance(error, DISK_ERRORS):
            self._failed(replica, error)

    def metadata_failed(self, error: StreamlogError) -> None:
        """The metadata log could not be appended to: another broker is to be the controller."""
        if isinstance(error, DISK_ERRORS):
            self.on_failure(self.failed_in(error) or self.controller, error)

    def _failed(self, replica: Partition, error: StreamlogError) -> None:
        broker = self.of(replica)
        if broker is not None:
            self.on_failure(broker, error)

    def change_failed(self, error: StreamlogError) -> None:
        """A change of the metadata could not be made, maybe because of the disk under a broker that was to have a part in it."""
        broker = self.failed_in(error)
        if broker is not None and broker.running:
            self.on_failure(broker, error)

    def failed_in(self, error: StreamlogError) -> Broker | None:
        """The broker on whose disk something has failed, as far as the error says: it names a file, or the directory."""
        path = getattr(error, "path", None) or ""
        if not isinstance(error, DISK_ERRORS) or not path:
            return None
        return next((each for each in self.all if f"{path}/".startswith(f"{each.directory.path}/")), None)

    def replica_damaged(self, replica: Partition, offset: int, error: StreamlogError) -> None:
        """See `FetchListener`."""
        logger.error("%s-%d on broker %d is damaged: %s", *replica.name, replica.broker_id, error)
        replica.note_damage(offset)

    def peers(self, replica: Partition) -> list[Peer]:
        """The other replicas that run, the leader first, and up to where they are known to be as this one."""
        if replica.topic_id == METADATA_ID.bytes:
            return metadata_copies.peers_of(replica, self._copies())
        return self.leadership.peers(replica)
