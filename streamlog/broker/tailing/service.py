"""The Service protocol over a directory that another process owns, or none: it reads, and refuses what would write.

News come from `published_reader.PublishedReader`, one pread of the file `published`: at most once in a millisecond for a
call that does not wait, at once where a read would come back empty, and every 5 ms from the background thread while a
call waits, and only then. A partition takes the news over when it is next used. The topics come from the metadata log,
which is tailed like any other.

What a reader may see never becomes less while the log does not: its position would be out of range, and it would start
over. So slots count only while the process that wrote them lives; what was found in files without an owner counts only
if no owner came meanwhile; and no statement is made about a partition that was not looked at yet.

Lock order: `_looking`, then a partition's lock. Both are leaves of everything else, and no waiter is called under them. They
are owned locks, which refuse the thread that holds them: a read does not begin at `StreamLog._use`, which refuses calls that
come in the middle of another.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, NoReturn
from uuid import UUID

from ...coordinator.messages import ClassicGroupConfig
from ...errors import (
    ClosedError,
    CorruptRecordError,
    FormatError,
    OffsetOutOfRangeError,
    ReplicaNotAvailableError,
    RequestTimedOutError,
    StorageError,
    StreamlogError,
)
from ...records.batch import seed_of
from ...replication.replica_set import PartitionRegistration
from ...runtime.api import Completion, Disk, Gate, Lock, answering, contained, failing
from ...runtime.threads import inside
from ...runtime.values import refuse_to_copy
from ...storage.leader_epochs import EpochEnd
from ...storage.tailing import TailedLog
from ...types import Clock, OffsetAndTimestamp, PartitionInfo, TopicPartition
from .. import controller, metadata, metrics
from ..api import ProduceRequest
from ..delayed_fetch import DelayedFetch, FetchRequest
from ..fetched import NOTHING, FetchResult
from ..log_directory import METADATA_DIR, METADATA_ID
from ..metadata import Image, TopicIdPartition, TopicView
from ..owner import OWNER_FILE, read_owner
from ..reading import OffsetSpec, PartitionReads
from ..real_timers import RealTimers
from ..reassignments import Moves, moves_in, progress_of
from ..replay import all_records
from ..scheduler import Scheduler
from ..waiting import FetchSession
from .groups import TailedGroups
from .partition import TailedPartition
from .published_reader import PublishedReader, Situation
from .refusing import read_only, refuses
from .transactions import TailedTransactionalIds

logger = logging.getLogger("streamlog.broker")

LOOK_MS = 5
_FRESH_S = 0.001
_PATIENCE_S = 10.0
# How often another directory is looked for while the one that is followed has no owner: one that is being closed, say.
_SEARCH_S = 0.05


class TailingService:
    """See `api.Service` and the module. Thread-safe. `open` first, `close` last."""

    __reduce_ex__ = refuse_to_copy

    acknowledges_later = is_replicated = durable = False
    replication_throttle: int | None = None

    # What would write.
    create_topic = refuses("Creating topic {0!r}")
    find_coordinator = refuses("A request of {0!r}")
    validate_topic = refuses("Creating topic {0!r}")
    update_topic = refuses("Changing the settings of {0!r}")
    update_kafka_config = refuses("Changing the settings of {1!r}")
    add_partitions = refuses("Adding partitions to {0!r}")
    delete_topic = refuses("Deleting topic {0!r}")
    elect_leader = refuses("Electing a leader of {0.topic!r}")
    reassign = refuses("Reassigning {0!r}")
    retire_broker = refuses("Retiring broker {0}")
    cancel_reassignment = await_reassignment = refuses("Reassigning partitions")
    produce = refuses("Sending to {0.partition.topic!r}")
    produce_one_later = refuses("Sending to {0.topic!r}")
    sync = refuses("Syncing")
    delete_records = refuses("Deleting records of {0[0]!r}")
    apply_retention = refuses("Applying the retention of {0!r}")
    compact = refuses("Compacting {0!r}")
    heartbeat = refuses("Joining group {0.group!r}")
    join_group = refuses("Joining group {0.group!r}")
    sync_group = refuses("Joining group {0.group!r}")
    classic_heartbeat = refuses("Joining group {0!r}")
    classic_group_config = ClassicGroupConfig()
    leave_group = refuses("Leaving group {0!r}")
    leave_classic_group = refuses("Leaving group {0!r}")
    load_groups = refuses("Loading groups")
    rebalance_group = refuses("Rebalancing group {0!r}")
    commit = refuses("Committing in group {0!r}")
    delete_group = refuses("Deleting group {0!r}")
    delete_offsets = refuses("Deleting offsets of group {0!r}")
    init_producer_id = refuses("Allocating a producer id")
    add_partitions_to_txn = add_offsets_to_txn = txn_commit_offsets = refuses("A transaction of {0!r}")
    end_txn = abort_transaction = refuses("Ending the transaction of {0!r}")
    producer_state = refuses("Sending to {0.topic!r}")
    describe_log_dir = describe_quorum = describe_producers = refuses("What Kafka's clients ask of a broker")

    def __init__(
        self,
        path: str,
        disk: Disk,
        clock: Clock,
        scheduler: Scheduler,
        new_lock: Callable[[], Lock],
        new_gate: Callable[[], Gate],
        real_seconds: Callable[[], float],
        others: Sequence[str] = (),
    ) -> None:
        """`path`: the broker's directory that is followed. `others`: those of other brokers, for what this one has no replica of."""
        self._path = path
        self._disk = disk
        self.clock = clock
        self.timers = scheduler
        self._new_lock = new_lock
        self._new_gate = new_gate
        self.real_seconds = real_seconds
        self.real_timers = RealTimers(new_lock, lambda: self.real_seconds())
        self._published = PublishedReader(disk, path, real_seconds)
        self._others = [PublishedReader(disk, other, real_seconds) for other in others]
        # Those of them that have a partition which is read there, and so are looked at.
        self._followed_too: list[PublishedReader] = []
        self._search_s = 0.0  # not before is another directory looked for
        self._retry_s = 0.0  # when a better replica of a partition is looked for, if there was none; else 0
        self._looking = new_lock()
        self._looked_s = 0.0
        self._image: Image = metadata.EMPTY
        # The ids of topics whose deletion was found in the metadata log before it was published.
        self._deleted: set[bytes] = set()
        self._replayed: object = None
        # What the metadata log says up to `_recorded_end`, of the owner and the segments that `_recorded_of` names.
        self._recorded = metadata.EMPTY
        self._recorded_end = 0
        self._recorded_of: object = None
        self._partitions: dict[tuple[str, int], TailedPartition] = {}
        self._by_seed: dict[int, TailedPartition] = {}
        self._listeners: list[Callable[[], object]] = []
        self._closed: StreamlogError | None = None
        self._waiting: set[FetchSession] = set()
        self.nudge: Callable[[], None] = lambda: None
        # It is read under `_looking`: when its files change, only the slots are read again.
        name = TopicPartition(controller.METADATA_TOPIC, 0)
        self._metadata = self._tail(name, self._published, METADATA_DIR, METADATA_ID, self._published.look)
        # Another replica that is read from now on may not know yet how much is committed of what was read at the one before.
        self._reads = PartitionReads(self._partitions, self._partition, bool(others))
        self.fetch_elsewhere = self._reads.fetch_elsewhere
        self.after_damage = answering(self._reads.after_damage)
        groups = TailedGroups(self, new_lock(), real_seconds)
        self.committed = answering(groups.committed)
        self.describe_group = answering(groups.describe)
        self.list_groups = answering(groups.list)
        transactions = TailedTransactionalIds(self)
        self.list_transactions = answering(transactions.all)
        self.describe_transaction = answering(transactions.describe)

    def _tail_topic(self, view: TopicView, number: int, replicas: tuple[int, ...]) -> TailedPartition | None:
        """The replica that is followed; None if none of those that are on `replicas` is in a directory that was given."""
        here = self._replica(replicas)
        if here is None:
            return None
        name = TopicPartition(view.name, number)
        partition = self._tail(name, here, f"topics/{view.id.hex}-{number}", view.id, self.look)
        partition.log.why_gone = lambda: self._why_gone(partition)
        return partition

    def _replica(self, replicas: tuple[int, ...]) -> PublishedReader | None:
        """The directory to read a partition from, which has its `replicas` on these brokers: one that is read already, if it can be."""
        if not self._others or self._published.broker_id in replicas:
            return self._published if self._published.broker_id in replicas else None
        for other in self._others:
            if other in self._followed_too and other.broker_id in replicas:
                return other
        for other in self._others:
            if self._looks(other) and other.broker_id in replicas:
                self._followed_too.append(other)
                return other
        return self._added_replica(replicas)

    def _added_replica(self, replicas: tuple[int, ...]) -> PublishedReader | None:
        """Of a broker that was added elsewhere: where, only the metadata says."""
        known = {self._published.directory, *(other.directory for other in self._others)}
        for path in [broker.path for each in replicas if (broker := self._image.brokers.get(each)) is not None]:
            if path.startswith("/") and path not in known:
                self._others.append(PublishedReader(self._disk, path, self.real_seconds))
                return self._replica(replicas)
        return None

    @staticmethod
    def _looks(other: PublishedReader) -> bool:
        """Look at another broker's directory; False if it is gone, or damaged."""
        try:
            other.look()
        except StreamlogError as error:
            logger.debug("looking at %s: %s", other.directory, error)
            return False
        return True

    # -- brokers that stop ---------------------------------------------------------------------------

    def _leave_stopped(self) -> bool:
        """Where the owner of the log has closed the directory that is followed, and not all: follow another; whether it does.

        A broker that is stopped, or whose directory is gone, leaves a replica that does not grow any more, and a metadata log
        that does not say so. REQUIRES: `_looking`, and that other directories were given.
        """
        now_s = self.real_seconds()
        if self._published.is_followed or now_s < self._search_s:
            return False
        self._search_s = now_s + _SEARCH_S
        for at, other in enumerate(self._others):
            if self._looks(other) and other.is_followed:
                logger.info("%s is not written any more; following %s", self._published.directory, other.directory)
                self._others[at], self._published = self._published, other
                self._followed_too = [each for each in self._followed_too if each.is_followed and each is not other]
                self._metadata.log.release()
                self._metadata = self._tail(self._metadata.name, other, METADATA_DIR, METADATA_ID, other.look)
                self._replayed = self._recorded_of = None
                return True
        return False

    def _has_stopped(self, partition: TailedPartition, image: Image) -> bool:
        """Whether the broker whose replica is read does not run any more, while another one that has a replica does."""
        if not self._others:
            return False
        fenced = {each for each, broker in image.brokers.items() if broker.fenced}
        replicas = image.partition(partition.topic_id, partition.name.partition).replicas
        return partition.broker_id in fenced and not fenced.issuperset(replicas)

    def _left_behind(self, partition: TailedPartition) -> ReplicaNotAvailableError | None:
        """The error for a reader that has come to the end of a replica which does not grow any more; None if it may grow."""
        published = self._published
        if self._others or published.is_followed or len(partition.registration.replicas) < 2:
            return None
        if not published.is_gone and not published.owner.get("stopped"):
            return None
        what = "is gone" if published.is_gone else "was stopped while the others go on"
        return ReplicaNotAvailableError(
            f"{self._path}, the directory of broker {published.broker_id}, {what}, so {partition.name.topic}-"
            f"{partition.name.partition} does not go on here. Open the path of the whole log, or the directory of one of the brokers "
            f"{partition.registration.replicas}, with read_only=True.",
        )

    def _tail(
        self,
        name: TopicPartition,
        published: PublishedReader,
        directory: str,
        topic_id: UUID,
        look: Callable[[], object],
    ) -> TailedPartition:
        seed = seed_of(topic_id.bytes, name.partition)
        log = TailedLog(self._disk, f"{published.directory}/{directory}", seed, topic_id.bytes, name.partition)
        if topic_id is METADATA_ID:
            log.why_gone = self._being_made_anew
        return TailedPartition(name, topic_id.bytes, log, published, self._new_lock, look)

    # -- life ----------------------------------------------------------------------------------------

    def open(self, patience_s: float = 0.0) -> None:
        """Look for the first time; wait, with a bound, for an owner that is just opening the log.

        Raises FormatError where there is no log, RequestTimedOutError, and what reading raises.
        """
        self.look()
        self._wait_for(self._metadata, self.look, max(patience_s, _PATIENCE_S))

    @staticmethod
    def _running(registration: PartitionRegistration, image: Image) -> tuple[int, ...]:
        """The replicas to read from, the best first: those in sync, of brokers that run; all others if there are none."""
        running = [each for each in registration.replicas if each in image.brokers and not image.brokers[each].fenced]
        return tuple(each for each in running if each in registration.isr) or tuple(running) or registration.replicas

    def _wait_for(
        self, partition: TailedPartition, look: Callable[[], object], patience_s: float = _PATIENCE_S
    ) -> None:
        """Call `look` until something is known of the partition: an owner is opening the log, and has not published it yet."""
        deadline = self.real_seconds() + patience_s
        while not partition.log.is_known:
            if self.real_seconds() >= deadline:
                raise RequestTimedOutError(
                    f"The process that owns {self._path} has been opening it for {patience_s:g} s, or does not say how far it "
                    f"goes (its file 'published' is missing or cannot be read). Try again; the file is written anew "
                    f"when the owner opens the log."
                )
            self._new_gate().wait(LOOK_MS / 1000)
            look()

    def close(self) -> None:
        self._closed = ClosedError("The log was closed.")
        for partition in [*self._partitions.values(), self._metadata]:
            partition.closed = self._closed
            partition.waiters.wake()
            partition.log.release()
        for published in (self._published, *self._others):
            published.close()

    def abandon(self) -> None:
        """In a forked child: there is nothing to give up."""

    # -- news ----------------------------------------------------------------------------------------

    def look(self) -> None:
        """Read `published`, take over changes of topics, call the waiters of partitions that changed."""
        if self._closed is not None:
            raise self._closed.copy()
        with inside(), self._looking:
            changed = self._read_published()
            if self._others and self._leave_stopped():
                changed = None
            self._looked_s = self.real_seconds()
            changed_topics = self._replay_topics()
        self._wake(changed)
        if changed_topics:
            for listener in list(self._listeners):
                contained(listener)

    def _read_published(self) -> Set[int] | None:
        """See `PublishedReader.look`: of every broker that is followed. REQUIRES: `_looking`."""
        try:
            changed = self._published.look()
        except StreamlogError:
            if not self._others or not self._leave_stopped():
                raise
            changed = None
        for other in self._followed_too:
            also = None
            with contextlib.suppress(StreamlogError):  # it is gone: the metadata will say so, or a read there
                also = other.look()
            changed = None if changed is None or also is None else changed | also
        return changed

    def _look_if_stale(self) -> None:
        if self.real_seconds() - self._looked_s >= _FRESH_S:
            self.look()

    def tick(self, now_ms: int) -> int | None:
        """The background thread's work: look while a call waits; when to come again (ms), or None."""
        if not self._waiting or self._closed is not None:
            return None
        try:
            self.look()
        except StreamlogError as error:  # the calls that wait look too, and raise it
            logger.debug("looking at %s: %s", self._path, error)
            for session in list(self._waiting):
                session.wake()
        return now_ms + LOOK_MS

    def _wake(self, changed: Set[int] | None) -> None:
        """Call the waiters of partitions: all, or those with these seeds. O(changed): a look comes often."""
        if changed is None:
            found = list(self._partitions.values())
        else:
            found = [partition for seed in changed if (partition := self._by_seed.get(seed)) is not None]
        for partition in found:
            if partition.waiters.callbacks:
                partition.waiters.wake()

    def _replay_topics(self) -> bool:
        """Replay the metadata log if it has changed; whether the topics did. REQUIRES: `_looking`.

        If there were only appends since the last time, the records since then are replayed.
        """
        self._metadata.catch_up()
        segments, end = self._metadata.log.tail.segments, self._metadata.high_watermark
        state = (segments, end, len(self._deleted))
        if state == self._replayed and not 0 < self._retry_s <= self.real_seconds():
            return False
        of = (self._published.stage, segments)
        if of != self._recorded_of or end < self._recorded_end:
            self._recorded_of, self._recorded, self._recorded_end = None, metadata.EMPTY, 0
        records = all_records(self._metadata, end, start=self._recorded_end)
        image = metadata.replay(self._recorded, records, self._image.version + 1)
        self._recorded_of = None  # until the three fit together again: an interrupt may come in between
        self._recorded, self._recorded_end = image, end
        self._recorded_of = of
        left = {name: view for name, view in image.topics.items() if view.id_bytes not in self._deleted}
        image = image._replace(topics=left, names={view.id_bytes: name for name, view in left.items()})
        self._replayed, self._retry_s = state, 0.0
        before, self._image = self._image, image
        for key, known in list(self._partitions.items()):
            view = image.topics.get(key[0])
            if view is None or view.id_bytes != known.topic_id:
                known.closed = controller.unknown_partition(known.name)
            elif known.broker_id not in image.partition(view.id_bytes, key[1]).replicas:  # it was moved
                known.closed = self._not_here(known.name)
            elif not self._has_stopped(known, image):
                continue
            del self._partitions[key]
            self._by_seed.pop(known.log.seed, None)
            known.waiters.wake()
        for name, view in image.topics.items():
            for number in range(view.partitions):
                registration = image.partition(view.id_bytes, number)
                partition = self._partitions.get((name, number))
                partition = partition or self._tail_topic(view, number, self._running(registration, image))
                if partition is None and self._others:  # a broker has just started, and cannot be read yet
                    partition = self._tail_topic(view, number, registration.replicas)
                    self._retry_s = self.real_seconds() + _SEARCH_S
                if partition is not None:
                    partition.registration = registration
                    partition.log.may_have_transactions = controller.TRANSACTIONS_TOPIC in image.topics
                    self._by_seed[partition.log.seed] = partition
                    self._partitions[name, number] = partition
        return before.topics != image.topics

    def _why_gone(self, partition: TailedPartition) -> StreamlogError | None:
        """The error for a partition whose files are gone because its topic was deleted; None if it was not, or that is not known.

        An owner that cannot write `published` cannot publish a deletion. But the record of the deletion is on the device
        before the first file goes, so the files of the metadata log are read past what was published. The next look does
        not find the topic any more.
        """
        if partition.closed is not None:
            return partition.closed.copy()
        metadata_log = self._tail(self._metadata.name, self._published, METADATA_DIR, METADATA_ID, lambda: None)
        try:
            metadata_log.log.follow_files(None, verify=True, is_alone=lambda: True)
            image = metadata.replay(metadata.EMPTY, all_records(metadata_log))
        except StreamlogError as error:
            logger.debug("reading the metadata log of %s: %s", self._path, error)
            return self._being_made_anew()
        finally:
            metadata_log.log.release()
        if partition.topic_id in image.names:
            return None
        self._deleted.add(partition.topic_id)
        self._looked_s = -_FRESH_S  # what was seen is stale
        return controller.unknown_partition(partition.name)

    def _being_made_anew(self) -> ReplicaNotAvailableError | None:
        """The error for files that are gone with the metadata log of their directory; None if no others have what this broker had."""
        if len(self._image.brokers) < 2:
            return None
        return ReplicaNotAvailableError(
            f"{self._published.directory}, the directory of broker {self._published.broker_id}, is gone, or is being filled from the other "
            f"brokers. Try again; or open the path of the whole log, or the directory of another broker, with read_only=True."
        )

    # -- topics --------------------------------------------------------------------------------------

    @property
    def image(self) -> Image:
        if self._closed is None:
            self._look_if_stale()
        return self._image

    @property
    def seen_image(self) -> Image:
        return self._image

    @answering
    def topic(self, name: str) -> TopicView:
        return self._topic(name)

    def _topic(self, name: str) -> TopicView:
        if self._closed is not None:
            raise self._closed.copy()
        self._look_if_stale()
        if name not in self._image.topics:
            self.look()
        return controller.find(self._image, name)

    def on_metadata(self, callback: Callable[[], object]) -> None:
        self._listeners.append(callback)

    def off_metadata(self, callback: Callable[[], object]) -> None:
        if callback in self._listeners:
            self._listeners.remove(callback)

    def _partition(self, name: TopicPartition) -> TailedPartition:
        partition = self._partitions.get(name)
        if partition is None:
            self._topic(name[0])
            partition = self._partitions.get(name)
        if partition is None and self._others:  # another thread may be about to follow another replica of it
            self.look()
            partition = self._partitions.get(name)
        if partition is None:
            raise self._not_here(TopicPartition(*name))
        return partition

    def _not_here(self, name: TopicPartition) -> StreamlogError:
        """The error of a partition that is not read here."""
        view = controller.find(self._image, name.topic)
        if name.partition >= view.partitions:
            return controller.unknown_partition(name)
        replicas = self._image.partition(view.id_bytes, name.partition).replicas
        if self._published.broker_id in replicas:  # it was just started, or gets the replica just now
            return ReplicaNotAvailableError(
                f"{name.topic}-{name.partition} is not in {self._path} yet, where broker {self._published.broker_id} has a replica of "
                f"it. Try again in a moment, or open the path of the whole log with read_only=True.",
            )
        return ReplicaNotAvailableError(
            f"{name.topic}-{name.partition} has its replicas on brokers {replicas}, and {self._path} is the directory of broker "
            f"{self._published.broker_id}. Open the directory of one of those, or the path of the whole log, with read_only=True.",
        )

    # -- records -------------------------------------------------------------------------------------

    def require_writable(self, what: str) -> NoReturn:
        raise read_only(what, self._path)

    def produce_one(self, partition: TopicIdPartition, *_: object) -> NoReturn:
        self.require_writable(f"Sending to {partition.topic!r}")

    def settle(self, request: ProduceRequest) -> None:
        """Nothing was ever appended."""

    def _fresh(self, name: TopicPartition) -> TailedPartition:
        """The partition as it is now. Raises RequestTimedOutError if an owner is opening the log for too long."""
        self.look()
        return self._known(self._partition(name))

    def _known(self, partition: TailedPartition) -> TailedPartition:
        """The partition, with what was published last; the first time this may have to wait for an owner."""

        def look() -> None:
            self.look()
            if partition.closed is not None:
                raise partition.closed.copy()
            self._catch_up(partition)

        self._catch_up(partition)
        self._wait_for(partition, look)
        return partition

    def _catch_up(self, partition: TailedPartition) -> None:
        try:
            partition.catch_up()
        except StorageError:
            self.look()
            if partition.closed is not None:  # it was deleted meanwhile
                raise partition.closed.copy() from None
            partition.catch_up()

    @failing
    def fetch(
        self,
        partition: TopicIdPartition,
        offset: int,
        max_bytes: int,
        isolation_level: str,
        after: FetchResult = NOTHING,
        *,
        current_leader_epoch: int | None = None,
        last_fetched_epoch: int | None = None,
        replica_id: int = -1,
    ) -> Completion[FetchResult]:
        name = TopicPartition(partition.topic, partition.partition)

        def read() -> Completion[FetchResult]:
            self._catch_up(self._partition(name))
            return self._reads.fetch(
                partition, offset, max_bytes, isolation_level, after, current_leader_epoch=current_leader_epoch,
                last_fetched_epoch=last_fetched_epoch, replica_id=replica_id,
            )  # fmt: skip

        known = self._partitions.get(name)
        try:
            self._look_if_stale()
            found = read()
            error = found.error()
            if isinstance(error, OffsetOutOfRangeError) or (error is None and not found.result().size):
                self.look()  # it was out of the log, or at its end, as it was seen last
                found = read()
        except (StorageError, CorruptRecordError, FormatError):  # of a directory that is gone, or is just being removed
            if known is None or (left := self._left_behind(known)) is None:
                raise
            raise left from None
        if known is not None and (found.error() is not None or not found.result().size):
            left = self._left_behind(known)
            if left is not None:
                raise left
        return found

    def fetch_size(
        self, partition: TopicIdPartition, found: FetchResult, max_bytes: int, current_leader_epoch: int | None
    ) -> int | None:
        try:
            self._catch_up(self._partition(TopicPartition(partition.topic, partition.partition)))
        except StreamlogError:  # the fetch finds it too
            return None
        return self._reads.fetch_size(partition, found, max_bytes, current_leader_epoch)

    def before_wait(self, partition: TopicIdPartition, offset: int, found: FetchResult) -> FetchResult:
        return self._reads.before_wait(partition, offset, found)

    def fetch_many(
        self, requests: Sequence[FetchRequest], isolation_level: str, *, min_bytes: int = 1,
        max_wait_ms: int | None = None, replica_id: int = -1, max_bytes: int | None = None,
    ) -> DelayedFetch:  # fmt: skip
        lock = self._new_lock()
        return DelayedFetch(self, requests, isolation_level, min_bytes, max_wait_ms, replica_id, lock, max_bytes)

    def fetch_session(self, wake: Callable[[], object]) -> FetchSession:
        return FetchSession(self._partitions.get, wake, self._waiting, lambda: self.nudge())

    @answering
    def bounds(self, partition: TopicPartition, isolation_level: str) -> tuple[int, int]:
        self._fresh(partition)
        return self._reads.bounds(partition, isolation_level)

    @answering
    def find_offset(
        self,
        partition: TopicPartition,
        spec: OffsetSpec,
        isolation_level: str,
        current_leader_epoch: int | None = None,
    ) -> OffsetAndTimestamp | None:
        self._fresh(partition)
        return self._reads.find_offset(partition, spec, isolation_level, current_leader_epoch)

    @answering
    def end_for_time(self, partition: TopicPartition, timestamp: int, end_offset: int) -> int:
        return self._reads.end_for_time(partition, timestamp, end_offset)

    @answering
    def has_every_offset(self, partition: TopicPartition, start: int, end: int) -> bool:
        return self._reads.has_every_offset(partition, start, end)

    @answering
    def epoch_end_offset(
        self, partition: TopicPartition, leader_epoch: int, current_leader_epoch: int | None = None
    ) -> EpochEnd | None:
        self._fresh(partition)
        return self._reads.epoch_end_offset(partition, leader_epoch, current_leader_epoch)

    @answering
    def partition_info(self, partition: TopicPartition) -> PartitionInfo:
        self._fresh(partition)
        return self._reads.partition_info(partition)

    @property
    def cluster_id(self) -> str:
        return str(read_owner(self._disk, f"{self._path}/{OWNER_FILE}")["cluster_id"])

    def broker_paths(self) -> dict[int, str]:
        """Those of the brokers of which it is known; of a log with one broker, the one that is followed."""
        return {each: about["path"] for each, about in self._brokers().items() if "path" in about}

    def groups_loaded(self) -> bool:
        return True  # there are none: `committed` and the like look at the log of the groups by themselves

    def is_running(self, broker_id: int) -> bool:
        """No broker runs in a process that only reads."""
        return False

    def add_broker(self, path: str) -> int:
        self.require_writable("Adding a broker")

    def stop_broker(self, broker_id: int) -> None:
        self.require_writable("Stopping a broker")

    def start_broker(self, broker_id: int) -> None:
        self.require_writable("Starting a broker")

    def reassignments(self) -> list[Moves]:
        return moves_in(self.image, self.image.topics)

    def reassignment_progress(self, moves: Moves) -> float:
        """Whole partitions alone: what each replica has is the owner's to know."""
        return progress_of(self.image, moves, lambda name, partition: 0.0)

    def metrics(self) -> dict[str, Any]:
        """See `metrics.gather`."""
        self.look()

        def numbers(topic: str, number: int) -> Mapping[str, Any]:
            partition = self._partitions.get((topic, number))
            if partition is None:
                return {}
            try:
                return metrics.of_log(self._known(partition).log.tail)
            except (
                RequestTimedOutError
            ):  # an owner is opening the log for too long: it would be waited for with each partition
                raise
            except StreamlogError as error:
                if self._closed is not None:
                    raise
                return {} if partition.closed is not None else {"failures": {"read": str(error)}}

        return metrics.gather(self._image, numbers, self._brokers())

    def _brokers(self) -> dict[int, dict[str, Any]]:
        """What is known of the brokers: their directories, and whether they ran when the owner recorded it last."""
        paths = {each: broker.path for each, broker in self._image.brokers.items() if broker.path.startswith("/")}
        for directory in [reader.directory for reader in (*self._others, self._published)]:
            with contextlib.suppress(FormatError):
                paths[read_owner(self._disk, f"{directory}/{OWNER_FILE}")["broker_id"]] = directory
        recorded = {each: {"running": not broker.fenced} for each, broker in self._image.brokers.items()} or {0: {}}
        return {each: about | ({"path": paths[each]} if each in paths else {}) for each, about in recorded.items()}

    # -- groups --------------------------------------------------------------------------------------

    def groups_partition(self) -> TailedPartition | None:
        if controller.GROUPS_TOPIC not in self.image.topics:
            return None
        return self._fresh(TopicPartition(controller.GROUPS_TOPIC, 0))

    def transactions_partitions(self) -> list[TailedPartition]:
        view = self.image.topics.get(controller.TRANSACTIONS_TOPIC)
        names = [] if view is None else [TopicPartition(view.name, number) for number in range(view.partitions)]
        return [self._fresh(name) for name in names]

    def living_owner(self) -> str:
        found = self._published
        if found.is_clean or found.situation is Situation.ALONE:
            return ""
        running = [broker.incarnation_id for broker in self._image.brokers.values() if not broker.fenced]
        return running[0][: metadata.RUN_ID_BYTES].hex() if running else str(found.owner["incarnation"])

    def topic_id(self, name: str) -> bytes | None:
        view = self._image.topics.get(name)  # it is as recent as the groups' partition
        return None if view is None else view.id_bytes

    def renew(self, group: str, member_id: str, seen_version: int) -> bool:
        return False

    def watch_group(self, group: str, callback: Callable[[], object], member_id: str | None = None) -> None:
        """A reader has no members in a group, so there is nothing to call back for."""

    def unwatch_group(self, group: str, callback: Callable[[], object], member_id: str | None = None) -> None: ...
