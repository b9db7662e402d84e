"""The brokers of one log: what is asked of all of them, and which of them leads a partition.

A log has one broker, or several, each with a directory of its own. All of them live in this process and follow one image.
Every call about a partition goes to the replica of the broker that leads it: `leaders` has that. The followers fetch from
there, each broker's on a thread of its own (`replication/fetcher.py`). Of a log with one broker, `leaders` is that broker's
table of partitions, and nothing else here has anything to do.

The metadata log has a copy on every broker. The first broker's is the one that is appended to; a change is in force when every
copy has it on its device.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping

from ..config import check_replication_factor
from ..errors import (
    ConfigError,
    CorruptRecordError,
    FormatError,
    LogDirNotFoundError,
    NotLeaderError,
    PoisonedLogError,
    StorageError,
    StreamlogError,
)
from ..replication import election
from ..replication.fetcher import ReplicaFetcher
from ..replication.partition import Partition, ReplicaFetch
from ..replication.replica_set import PartitionRegistration
from ..runtime.disk import entropy
from ..runtime.disk_errors import require_disk_error
from ..runtime.threads import getpid
from ..runtime.values import refuse_to_copy
from ..storage.tail import EMPTY
from ..types import TopicPartition
from . import metadata
from .log_directory import LogDirectory
from .metadata import Image
from .owner import OWNER_FILE
from .replay import all_records
from .replica_manager import ReplicaManager
from .tailing.published_writer import PublishedWriter

logger = logging.getLogger("streamlog.broker")

# How much of the metadata log one append to a copy takes.
_COPY_BYTES = 1 << 20
_PROBE, _PROBE_BYTES = "probe", 1 << 14
MOST_REPLICAS = 3
"""How many replicas a partition has if nothing else is said and there are so many brokers."""


class Broker:
    """One broker: its directory, its replicas, what publishes them to other processes, and what fetches for them."""

    __reduce_ex__ = refuse_to_copy

    def __init__(self, directory: LogDirectory, publisher: PublishedWriter, replicas: ReplicaManager) -> None:
        self.directory = directory
        self.publisher = publisher
        self.replicas = replicas
        self.fetcher: ReplicaFetcher | None = None
        self.epoch = 0
        self.running = True
        self.was_new = False
        """Whether its directory was empty when it was started again."""
        self.failure: StreamlogError | None = None
        """Why it does not run, if it was not stopped."""

    @property
    def id(self) -> int:
        return self.directory.broker_id

    def has_space(self) -> bool:
        """Whether its disk takes a file of some KB now."""
        path = f"{self.directory.path}/{_PROBE}"
        try:
            self.directory.disk.write_atomic(path, bytes(_PROBE_BYTES))
            self.directory.disk.unlink(path)
        except OSError as error:
            require_disk_error(error)
            return False
        return True


class Brokers:
    """See the module. Changes REQUIRE the metadata lock; `leaders` is read without a lock."""

    __reduce_ex__ = refuse_to_copy

    def __init__(self, brokers: list[Broker], renewed: Callable[[Broker], Broker], now_ms: Callable[[], int]) -> None:
        self.all = brokers
        self._renewed = renewed
        self.is_replicated = len(brokers) > 1
        self.leaders: dict[tuple[str, int], Partition] = {} if self.is_replicated else brokers[0].replicas.partitions
        self._now_ms = now_ms
        self._counts: dict[str, int] = {}
        self.isr_shrinks = self.isr_expands = 0
        self.on_isr_change: Callable[[], object] = lambda: None
        self.on_failure: Callable[[int, StreamlogError], object] = lambda broker_id, error: None

    @property
    def running(self) -> list[Broker]:
        """Those that are neither stopped nor failed."""
        return [broker for broker in self.all if broker.running]

    def by_id(self, broker_id: int) -> Broker:
        return next(broker for broker in self.all if broker.id == broker_id)

    # -- opening -------------------------------------------------------------------------------------

    def open_metadata(self) -> Partition:
        """Open every broker's copy of the metadata log, and have all end where the longest one does; the first broker's.

        Raises ConfigError for directories of different logs, CorruptRecordError if one is missing that belongs to the log.
        """
        if not self.is_replicated:
            return self.all[0].replicas.open_metadata()
        there = [broker for broker in self.all if not broker.directory.is_new]
        self._require_one_log(there)
        copies = [broker.replicas.open_metadata() for broker in there]
        if copies:
            self._level(copies)
            known = metadata.replay(metadata.EMPTY, all_records(copies[0])).brokers
            here = {broker.id: broker.directory.path for broker in there}
            missing = [each for each in known if each not in here]
            if missing:
                raise LogDirNotFoundError(
                    f"The directory of broker {missing[0]} is missing, or is empty (it may be a disk that is not mounted). The log has "
                    f"{len(known)} brokers; those in {', '.join(sorted(here.values()))} are here. Bring it back and open again.",
                    path=self.all[0].directory.path,
                )
        for broker in self.all:
            if broker.directory.is_new:
                if there:
                    broker.directory.join(there[0].directory.cluster_id)
                copies.append(broker.replicas.open_metadata())
        self._level(copies)
        first = self.all[0].replicas.metadata
        assert first is not None
        return first

    def _require_one_log(self, brokers: list[Broker]) -> None:
        clusters = {broker.directory.cluster_id: broker.directory.path for broker in brokers}
        ids = {broker.id: broker.directory.path for broker in brokers}
        if len(clusters) > 1 or len(ids) < len(brokers):
            raise ConfigError(
                f"The directories {', '.join(sorted(broker.directory.path for broker in brokers))} do not belong to one log. Give "
                f"those that were given when it was created.",
                name="brokers",
            )

    def _level(self, copies: list[Partition]) -> None:
        """Have each copy of the metadata log end where the longest one does, and follow the first, in a new leader epoch."""

        def end(copy: Partition) -> tuple[int, int]:
            epoch = copy.last_epoch()
            return -1 if epoch is None else epoch, copy.log.tail.end_offset

        ids = tuple(copy.broker_id for copy in copies)
        longest = max(copies, key=end)
        epoch = max(copy.leader_epoch for copy in copies)
        epoch = 1 + max(epoch, end(longest)[0])
        for number, leader in enumerate((longest, copies[0])):
            registration = PartitionRegistration(ids, ids, leader.broker_id, epoch + number, epoch + number)
            for copy in copies:
                copy.follow(registration, self._now_ms())
            for copy in copies:
                if copy is not leader:
                    self._copy(leader, copy)
            _announce(leader, copies)

    def start_fetchers(self, epochs: Mapping[int, int]) -> None:
        """Give each broker what fetches for it. REQUIRES: no partition is open yet."""
        if self.is_replicated:
            for broker in self.all:
                self._start_fetcher(broker, epochs[broker.id])

    def _start_fetcher(self, broker: Broker, epoch: int) -> None:
        broker.epoch = epoch
        broker.fetcher = ReplicaFetcher(broker.id, epoch, self.leaders.get, self)
        broker.replicas.is_replicated = True
        broker.replicas.on_isr_change = lambda partition: self.on_isr_change()
        broker.replicas.on_failure = lambda error: self.on_failure(broker.id, error)

    # -- stopping and starting -----------------------------------------------------------------------

    def take_out(self, broker: Broker, failure: StreamlogError | None) -> Partition:
        """Count a broker as not running from now on; the metadata log of the controller, which may be another one now.

        Raises ConfigError for the last one. The change that fences it comes next.
        """
        others = [each for each in self.running if each is not broker]
        if not others:
            raise ConfigError(
                f"Broker {broker.id} is the last one that is running, and nothing could be recorded without it. Start another "
                f"one first, or close the log.",
                name="broker",
            )
        broker.running = False
        broker.failure = failure
        self._level(self._copies())
        return self.controller_log()

    def controller_log(self) -> Partition:
        """The metadata log that is appended to: that of the controller."""
        return self._copies()[0]

    def put_back(self, before: Broker, lock_timeout: float) -> Broker:
        """Open the directory of a broker that does not run, and have its metadata log be a copy again. It is not registered yet."""
        broker = self._renewed(before)
        broker.running = False
        broker.directory.open(lock_timeout)
        try:
            broker.was_new = broker.directory.is_new
            broker.publisher.open(int(broker.directory.incarnation), getpid())
            copy = broker.replicas.open_metadata()
            self._level([*(each for each in self._copies()), copy])
        except BaseException:
            self._drop(broker)
            raise
        return broker

    def _copies(self) -> list[Partition]:
        """The metadata log of each broker that runs, that of the controller first; of the first one, if that is gone."""
        copies = [copy for each in self.running if (copy := each.replicas.metadata) is not None]
        return sorted(copies, key=lambda copy: not copy.is_leader)

    def run(self, broker: Broker, before: Broker, image: Image) -> None:
        """A registered broker takes part: it opens its replicas, and follows the leaders."""
        self._start_fetcher(broker, image.brokers[broker.id].epoch)
        assert broker.fetcher is not None
        broker.publisher.wake = before.publisher.wake
        if before.fetcher is not None:
            broker.fetcher.nudge = before.fetcher.nudge
        broker.replicas.rebuilds = True
        broker.running = True
        self.all[self.all.index(before)] = broker
        self.follow(image)
        broker.directory.recovered(completely=not broker.replicas.is_recovering)
        broker.publisher.opened()

    def close_broker(self, broker: Broker, error: StreamlogError) -> list[BaseException]:
        """Close a broker that was taken out: cleanly, unless it failed."""
        if broker.fetcher is not None:
            for partition in broker.replicas.all():
                broker.fetcher.forget(partition.name)
        errors = broker.replicas.close([*broker.replicas.partitions.values(), *self._metadata_of(broker)], error)
        clean = not errors and broker.failure is None
        try:
            _close_directory(broker, clean=clean)
        except (StreamlogError, OSError) as failure:
            errors.append(failure)
        return errors

    @staticmethod
    def _metadata_of(broker: Broker) -> list[Partition]:
        return [] if broker.replicas.metadata is None else [broker.replicas.metadata]

    @staticmethod
    def _drop(broker: Broker) -> None:
        broker.publisher.abandon()
        broker.replicas.release()
        broker.directory.close(clean=False)

    def led_by(self, broker_id: int) -> list[Partition]:
        return [leader for leader in list(self.leaders.values()) if leader.broker_id == broker_id]

    def publish(self, number: int, now_ms: int) -> int | None:
        """The work of the thread that publishes for a broker, whichever opens its directory now."""
        broker = self.all[number]
        return broker.publisher.tick(now_ms) if broker.running else None

    def fetch(self, number: int, now_ms: int) -> int | None:
        """The work of the thread that fetches for a broker."""
        broker = self.all[number]
        return broker.fetcher.step(now_ms) if broker.running and broker.fetcher is not None else None

    def replicate_metadata(self) -> None:
        """See `metadata_log.Partitions`. A copy that fails does not count any more; half of those there were have to be left."""
        if not self.is_replicated:
            return
        first, copies = self.controller_log(), self._copies()
        failed: list[tuple[int, StreamlogError]] = []
        for copy in copies[1:]:
            try:
                self._copy(first, copy)
            except StreamlogError as error:
                failed.append((copy.broker_id, error))
        for broker_id, failure in failed:
            self.on_failure(broker_id, failure)
        if 2 * (len(copies) - len(failed)) < len(copies):
            self._level([first])
            raise failed[0][1]
        lost = {broker_id for broker_id, _ in failed}
        _announce(first, [copy for copy in copies if copy.broker_id not in lost])

    def _copy(self, leader: Partition, copy: Partition) -> None:
        """Have a copy of the metadata log end where its leader does, on its device."""
        while True:
            fetched = leader.fetch_as_replica(
                copy.broker_id,
                0,
                copy.reader.tail.end_offset,
                copy.last_epoch(),
                copy.leader_epoch,
                _COPY_BYTES,
                self._now_ms(),
            )
            if not copy.take(fetched):
                return

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

    def remove_orphans(self, image: Image) -> None:
        """Remove partitions that the metadata does not name where they are."""
        for broker in self.all:
            here = {
                view.id.hex: range(view.partitions)
                if not self.is_replicated
                else {n for n in range(view.partitions) if broker.id in image.partition(view.id_bytes, n).replicas}
                for view in image.topics.values()
            }
            broker.directory.remove_orphans(here)

    def recovered(self) -> None:
        """Everything is open."""
        for broker in self.all:
            directory, replicas = broker.directory, broker.replicas
            directory.recovered(
                completely=not replicas.is_recovering and not (directory.crash.unsynced and replicas.is_faulty)
            )
            broker.publisher.opened()

    # -- the end -------------------------------------------------------------------------------------

    def release(self) -> None:
        """After an open that failed: close the files, and sync nothing."""
        for broker in self.all:
            broker.publisher.abandon()
            broker.replicas.release()
            broker.directory.close(clean=False)

    def stale_path(self) -> str:
        """The directory that is not the one that was opened any more, as far as that can be found out."""
        stale = [broker.directory.path for broker in self.all if not broker.directory.is_ours()]
        return stale[0] if stale else self.all[0].directory.path

    def stop_compacting(self) -> None:
        """Give up compactions: the log is about to be closed, and closing does not wait for them."""
        for broker in self.all:
            broker.replicas.stop_compacting()

    def close(self, partitions: list[Partition], error: StreamlogError) -> list[BaseException]:
        """Close these partitions, each whatever the others raise; their errors."""
        self._announce_high_watermarks()
        return [
            failure
            for broker in self.all
            for failure in broker.replicas.close([each for each in partitions if each.broker_id == broker.id], error)
        ]

    def _announce_high_watermarks(self) -> None:
        """Have the followers take over the high watermarks of their leaders: readers in other processes read up to there.

        Only those that are known to have so much: another one may have other records there.
        """
        replicas = {broker.id: broker.replicas.partitions for broker in self.running}
        for at, leader in list(self.leaders.items()) if self.is_replicated else ():
            known = leader.replicas.followers if leader.replicas is not None else {}
            fetched = ReplicaFetch(EMPTY, leader.high_watermark, leader.reader.tail.start_offset, leader.leader_epoch)
            for broker_id, follower in known.items():
                replica = replicas.get(broker_id, {}).get(at)
                if (
                    replica is not None
                    and replica.leader_epoch == leader.leader_epoch
                    and replica.high_watermark < leader.high_watermark <= follower.end_offset
                ):
                    with contextlib.suppress(StreamlogError):  # it is about to be closed, and its readers see less
                        replica.follow_leader(fetched)

    def close_directories(self, *, clean: bool) -> None:
        """Mark each directory as closed, if everything in it was, and give up its lock, whatever the others raise."""
        left = self.running
        try:
            while left:
                _close_directory(left[0], clean=clean)
                left.pop(0)
        finally:
            for broker in left:
                broker.directory.close(clean=False)

    def abandon(self, error: StreamlogError) -> None:
        """In a forked child: give up the descriptors of the locks; write nothing, wait for nothing."""
        for broker in self.all:
            broker.replicas.abandon(error)
            broker.publisher.abandon()
            broker.directory.abandon()

    # -- for the topics ------------------------------------------------------------------------------

    def factor(self, wanted: int | None) -> int:
        """How many replicas a partition of a new topic has. Raises ConfigError for more than there are brokers."""
        count = len(self.running)
        if wanted is None:
            return min(count, MOST_REPLICAS)
        if check_replication_factor(wanted) > count:
            raise ConfigError(
                f"replication_factor={wanted} needs as many brokers, and this log has {count}. Open a log with more brokers "
                f"(streamlog.open(path, brokers={wanted})), or ask for fewer replicas.",
                name="replication_factor",
            )
        return wanted

    def place(self, partitions: int, factor: int, first: int) -> list[tuple[int, ...]]:
        """The replicas of so many new partitions; empty for a log of one broker. `first`: see `election.place`."""
        if not self.is_replicated:
            return []
        return election.place([broker.id for broker in self.running], partitions, factor, first)

    def incarnations(self) -> dict[int, bytes]:
        """The brokers that are here, and the id of this run of each."""
        return {broker.id: entropy(16) for broker in self.running}

    def partitions(self) -> tuple[list[Partition], list[Partition]]:
        """The copies of the metadata log, and every other replica of every broker."""
        copies = [broker.replicas.metadata for broker in self.running]
        others = [each for broker in self.running for each in broker.replicas.partitions.values()]
        return [copy for copy in copies if copy is not None], others

    def of_topic(self, name: str) -> list[Partition]:
        """Every replica of a topic's partitions."""
        return [partition for broker in self.running for partition in broker.replicas.of_topic(name)]

    def stage(self, image: Image, name: str) -> None:
        for broker in self.running:
            broker.replicas.stage(image, name)

    def unstage(self, image: Image) -> None:
        for broker in self.running:
            broker.replicas.unstage(image)

    def release_staged(self) -> None:
        for broker in self.running:
            broker.replicas.release_staged()

    def follow(self, image: Image, changed: Iterable[str] | None = None) -> None:
        """Have the replicas of each broker, and who leads them, be as the image says; see `ReplicaManager.follow`."""
        names = None if changed is None else list(changed)
        for broker in self.running:
            broker.replicas.follow(image, names)
        if self.is_replicated:
            for name in [*self._counts, *image.topics] if names is None else names:
                self._follow_leaders(name, image)

    def _follow_leaders(self, name: str, image: Image) -> None:
        view = image.topics.get(name)
        count = 0 if view is None else view.partitions
        for number in range(max(count, self._counts.get(name, 0))):
            at = TopicPartition(name, number)
            running = self.running
            replicas = [broker.replicas.partitions.get(at) for broker in running]
            before, leader = (
                self.leaders.get(at),
                next((each for each in replicas if each is not None and each.is_leader), None),
            )
            if leader is None:
                self.leaders.pop(at, None)
            else:
                if before is not None and before is not leader:
                    leader.learn_high_watermark(before.high_watermark)  # first: readers that come to it see no less
                self.leaders[at] = leader
            if before is not None and before is not leader:
                before.waiters.wake_all()
                if before.broker_id not in {broker.id for broker in running}:
                    before.shut(_moved(at, leader))
                    before.hand_over(leader)
            for broker, replica in zip(running, replicas, strict=True):
                if broker.fetcher is None:
                    continue
                if replica is None or replica is leader:
                    broker.fetcher.forget(at)
                else:
                    broker.fetcher.follow(replica)
        if view is None:
            self._counts.pop(name, None)
        else:
            self._counts[name] = count

    # -- who leads, and who is in sync ---------------------------------------------------------------

    def leaders_after_opening(self, image: Image) -> dict[tuple[str, int], PartitionRegistration]:
        """The partitions that need another leader, or another epoch, because a broker was not closed: it may have lost records.

        Of the members of the in-sync set the one with the greatest epoch and end leads, for it has what every other one has.
        It begins a new epoch, so that a follower which has more in the last one is found out.
        """
        changes: dict[tuple[str, int], PartitionRegistration] = {}
        crashed = {broker.id for broker in self.all if not broker.directory.crash.clean}
        replicas = {broker.id: broker.replicas.partitions for broker in self.all}
        for view in image.topics.values():
            for number in range(view.partitions):
                before = image.partition(view.id_bytes, number)
                if not crashed.intersection(before.isr):
                    continue
                found = {each: replicas[each][view.name, number] for each in before.isr}
                ends = {each: (found[each].last_epoch() or 0, found[each].log.tail.end_offset) for each in before.isr}
                order = sorted(before.isr, key=lambda each: (each != before.leader, before.replicas.index(each)))
                leader = max(order, key=lambda each: ends[each])  # the first of several that are equal
                changes[view.name, number] = before._replace(
                    leader=leader, leader_epoch=before.leader_epoch + 1, partition_epoch=before.partition_epoch + 1
                )
        return changes

    def catch_up(self, deadline_ms: int) -> None:
        """Fetch, on this thread, until the followers in sync have what their leaders have, or the deadline (real time) passes.

        After opening, readers see up to where that is known.
        """
        while self.is_replicated and self._now_ms() < deadline_ms:
            for broker in self.all:
                if broker.fetcher is not None:
                    broker.fetcher.step(self._now_ms())
            if all(leader.high_watermark == leader.reader.tail.end_offset for leader in list(self.leaders.values())):
                return

    def wanted_isrs(self, now_ms: int, lag_ms: int) -> dict[tuple[str, int], PartitionRegistration]:
        """The changes of in-sync sets that the leaders ask for now."""
        epochs = {broker.id: broker.epoch for broker in self.running}
        changes: dict[tuple[str, int], PartitionRegistration] = {}
        for at, leader in list(self.leaders.items()):
            wanted = leader.wanted_isr(now_ms, lag_ms, epochs)
            if wanted is not None:
                before = leader.registration
                changes[at] = before._replace(isr=wanted, partition_epoch=before.partition_epoch + 1)
        return changes

    # -- what fails ----------------------------------------------------------------------------------

    def replica_failed(self, replica: Partition, error: StreamlogError) -> None:
        """See `FetchListener`."""
        logger.warning("%s-%d on broker %d does not follow: %s", *replica.name, replica.broker_id, error)
        if isinstance(error, (StorageError, PoisonedLogError)):
            self.on_failure(replica.broker_id, error)

    def leader_corrupt(self, leader: Partition, error: CorruptRecordError) -> None:
        """See `FetchListener`."""
        logger.error("%s-%d on broker %d is damaged: %s", *leader.name, leader.broker_id, error)


def _announce(leader: Partition, copies: list[Partition]) -> None:
    """Have copies of the metadata log take over the high watermark, which the last of them raised: they have readers too."""
    for copy in copies:
        if copy is not leader:
            copy.follow_leader(
                ReplicaFetch(EMPTY, leader.high_watermark, leader.reader.tail.start_offset, leader.leader_epoch)
            )


def _close_directory(broker: Broker, *, clean: bool) -> None:
    replicas = broker.replicas
    unsynced = any(
        each.log.durability.poison is not None and not each.log.durability.is_marked for each in replicas.all()
    )
    is_clean = clean and not replicas.is_faulty
    try:
        broker.publisher.close(clean=is_clean)
    finally:
        broker.directory.close(clean=is_clean, unsynced=unsynced)


def _moved(at: TopicPartition, leader: Partition | None) -> NotLeaderError:
    now = "no broker leads it now" if leader is None else f"broker {leader.broker_id} leads it now"
    return NotLeaderError(f"The broker that led {at.topic}-{at.partition} does not run any more; {now}. Try again.")
