"""The Service protocol over a directory that another process owns, or nobody does: reading, and nothing else.

What is new comes from `watching.PublishedReader`, one pread of the file `published`: at most once in a millisecond
for who reads without waiting, at once where a read would come back empty, and every 5 ms from the
background thread while somebody waits, and only then. A partition takes the news over when it is next
used; the topics come from the metadata log, followed like any other.

What a reader may see never becomes less while the log does not: it would be told that its position is out of
range, and would start over. So slots count only while the process lives that wrote them, what was found in
files that nobody owned only if nobody came meanwhile, and of a partition that was not looked at yet nothing is said.

Locks: the look's, then a partition's; both are leaves of everything else, and nobody is woken under them. They refuse the
thread that holds them: who reads does not begin at `StreamLog._use`, where other calls in the middle of one end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Set
from typing import Any
from uuid import UUID

from ...errors import ClosedError, OffsetOutOfRangeError, RequestTimedOutError, StorageError, StreamlogError
from ...records.batch import seed_of
from ...replication.listeners import Waiters
from ...replication.partition import gone
from ...runtime.api import Disk, Gate, Lock, contained
from ...runtime.threads import inside
from ...runtime.values import refuse_to_copy
from ...storage.published import Slot
from ...storage.tail import EMPTY, FetchData, LogSnapshot
from ...storage.tailing import TailedLog
from ...types import Clock, OffsetAndTimestamp, PartitionInfo, TopicPartition
from .. import controller, metadata
from ..log_directory import METADATA_DIR, METADATA_ID
from ..metadata import Image, TopicView
from ..offline.replay import all_records
from ..reading import ReadingService
from ..scheduler import Scheduler
from ..waiting import ParkedFetch
from .groups import FollowedGroups
from .published_reader import PublishedReader, Situation
from .refusing import RefusingService

logger = logging.getLogger("streamlog.broker")

LOOK_MS = 5
_FRESH_S = 0.001
_PATIENCE_S = 10.0


class FollowedPartition:
    """One partition of another process's log, and who waits for its end to move. Thread-safe."""

    __reduce_ex__ = refuse_to_copy

    broker_id = 0
    leader_epoch = 0
    hides: StreamlogError | None = None

    def __init__(
        self, name: TopicPartition, topic_id: bytes, log: TailedLog, watcher: PublishedReader, lock: Lock,
        look: Callable[[], object],
    ) -> None:  # fmt: skip
        self.name = name
        self.topic_id = topic_id
        self.log = self.reader = log
        self.waiters = Waiters()
        self.closed: StreamlogError | None = None
        self._watcher = watcher
        self._lock = lock
        self._look = look
        self._seen: Slot | None = None
        self._stage = -1
        log.renew = self._renew

    @property
    def high_watermark(self) -> int:
        return self.log.high_watermark

    def catch_up(self) -> None:
        """Take over what is new. Raises StorageError, CorruptRecordError, RequestTimedOutError (retriable)."""
        watcher = self._watcher
        if watcher.stage == self._stage and watcher.slots.get(self.log.seed) is self._seen:
            return
        with inside(), self._lock:
            owner, stage, situation = watcher.owner, watcher.stage, watcher.situation
            slot = watcher.slots.get(self.log.seed)
            done = False
            # Closed as clean, the files are as good as a slot that does not verify.
            if situation is Situation.ALONE or (slot is None and owner.get("clean")):
                done = stage == self._stage or self.log.salvage(
                    watcher.trusted(self.log.seed),
                    verify=not (watcher.same_boot or watcher.is_clean),
                    is_alone=lambda: watcher.is_last(owner),
                )
            elif situation is Situation.PUBLISHED and slot is not None:
                done = self.log.follow(slot, watcher.incarnation, lambda: watcher.slot(self.log.seed))
            if done:  # else there is another owner, or the topic is gone: the next look tells
                self._stage, self._seen = stage, slot

    def _renew(self, failed: LogSnapshot) -> None:
        """The files of a view were not there, or others were."""
        self._look()
        self.catch_up()
        if self.log.tail.segments == failed.segments:
            with inside(), self._lock:
                self.log.list_anew(self._watcher.is_between)


class Awaited(ParkedFetch):
    """A fetch parked for what another process may write: while there is one, somebody has to look."""

    __slots__ = ("_all",)

    def __init__(self, partitions: Iterable[FollowedPartition], all_parked: set[Awaited]) -> None:
        self._all = all_parked
        super().__init__(partitions)
        all_parked.add(self)

    def cancel(self) -> None:
        super().cancel()
        self._all.discard(self)


class TailingService(ReadingService, RefusingService):
    """See `api.Service` and the module. Thread-safe. `open` first, `close` last."""

    __reduce_ex__ = refuse_to_copy

    def __init__(
        self,
        path: str,
        disk: Disk,
        clock: Clock,
        scheduler: Scheduler,
        new_lock: Callable[[], Lock],
        new_gate: Callable[[], Gate],
        real_seconds: Callable[[], float],
    ) -> None:
        self._path = path
        self._disk = disk
        self.clock = clock
        self.scheduler = scheduler
        self._new_lock = new_lock
        self._new_gate = new_gate
        self.real_seconds = real_seconds
        self._watcher = PublishedReader(disk, path, real_seconds)
        self._looking = new_lock()
        self._looked_s = 0.0
        self._image: Image = metadata.EMPTY
        self._deleted: set[bytes] = (
            set()
        )  # ids of topics whose deletion was found in the metadata log before it was published
        self._replayed: object = None
        self._partitions: dict[tuple[str, int], FollowedPartition] = {}
        self._listeners: list[Callable[[], object]] = []
        self._closed: StreamlogError | None = None
        self._waiting: set[Awaited] = set()
        self.nudge: Callable[[], None] = lambda: None
        # Read in the middle of a look, under its lock: when its files change, only the slots are looked at again.
        name = TopicPartition(controller.METADATA_TOPIC, 0)
        self._metadata = self._follow(name, METADATA_DIR, METADATA_ID, self._watcher.look)
        groups = FollowedGroups(self, new_lock(), real_seconds)
        self.committed = groups.committed
        self.describe_group = groups.describe
        self.list_groups = groups.list

    def _follow_topic(self, view: TopicView, number: int) -> FollowedPartition:
        name = TopicPartition(view.name, number)
        partition = self._follow(name, f"topics/{view.id.hex}-{number}", view.id, self.look)
        partition.log.why_gone = lambda: self._why_gone(partition)
        return partition

    def _follow(
        self, name: TopicPartition, directory: str, topic_id: UUID, look: Callable[[], object]
    ) -> FollowedPartition:
        seed = seed_of(topic_id.bytes, name.partition)
        log = TailedLog(self._disk, f"{self._path}/{directory}", seed, topic_id.bytes, name.partition)
        return FollowedPartition(name, topic_id.bytes, log, self._watcher, self._new_lock(), look)

    # -- life ----------------------------------------------------------------------------------------

    def open(self, patience_s: float = 0.0) -> None:
        """Look for the first time; wait, with a bound, for an owner that is just opening the log.

        Raises FormatError where there is no log, RequestTimedOutError, and what reading raises.
        """
        self.look()
        self._wait_for(self._metadata, self.look, max(patience_s, _PATIENCE_S))

    def _wait_for(
        self, partition: FollowedPartition, look: Callable[[], object], patience_s: float = _PATIENCE_S
    ) -> None:
        """Have something known of the partition: `look`, as long as only an owner that is opening the log could tell."""
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
        self._watcher.close()

    def abandon(self) -> None:
        """In a forked child: nothing is held that has to be given up."""

    # -- news ----------------------------------------------------------------------------------------

    def look(self) -> None:
        """Read `published`, follow the topics, wake who waits for what changed."""
        if self._closed is not None:
            raise self._closed.copy()
        with inside(), self._looking:
            changed = self._watcher.look()
            self._looked_s = self.real_seconds()
            told = self._follow_topics()
        self._wake(changed)
        if told:
            for listener in list(self._listeners):
                contained(listener)

    def _look_if_stale(self) -> None:
        if self.real_seconds() - self._looked_s >= _FRESH_S:
            self.look()

    def tick(self, now_ms: int) -> int | None:
        """The background thread's part: look while somebody waits; when to come again (ms), or None."""
        self._waiting -= {parked for parked in list(self._waiting) if parked.done()}
        if not self._waiting or self._closed is not None:
            return None
        try:
            self.look()
        except StreamlogError as error:  # who waits looks for himself, and is told then
            logger.debug("looking at %s: %s", self._path, error)
        return now_ms + LOOK_MS

    def _wake(self, changed: Set[int] | None) -> None:
        for partition in list(self._partitions.values()):
            if partition.waiters.callbacks and (changed is None or partition.log.seed in changed):
                partition.waiters.wake()

    def _follow_topics(self) -> bool:
        """Replay the metadata log if there is more of it; whether the topics changed. REQUIRES: the look's lock."""
        self._metadata.catch_up()
        state = (self._metadata.log.tail.segments, self._metadata.high_watermark, len(self._deleted))
        if state == self._replayed:
            return False
        image = metadata.replay(metadata.EMPTY, all_records(self._metadata), self._image.version)
        left = {name: view for name, view in image.topics.items() if view.id_bytes not in self._deleted}
        image = image._replace(topics=left)
        self._replayed = state
        before, self._image = self._image, image
        for key, partition in list(self._partitions.items()):
            view = image.topics.get(key[0])
            if view is None or view.id_bytes != partition.topic_id:
                del self._partitions[key]
                partition.closed = gone(partition.name)
                partition.waiters.wake()
        for name, view in image.topics.items():
            for number in range(view.partitions):
                if (name, number) not in self._partitions:
                    self._partitions[name, number] = self._follow_topic(view, number)
        return before.topics != image.topics

    def _why_gone(self, partition: FollowedPartition) -> StreamlogError | None:
        """Why a partition's files are gone, if its topic was deleted; None if it was not, or nothing tells.

        An owner to whom the disk refuses `published` cannot say so there. But the record of a deletion is on the
        device before the first file goes, so the files of the metadata log are read beyond what was published. Who looks
        next does not see the topic any more.
        """
        if partition.closed is not None:
            return partition.closed.copy()
        metadata_log = self._follow(self._metadata.name, METADATA_DIR, METADATA_ID, lambda: None)
        try:
            metadata_log.log.salvage(None, verify=True, is_alone=lambda: True)
            image = metadata.replay(metadata.EMPTY, all_records(metadata_log))
        except StreamlogError as error:
            logger.debug("reading the metadata log of %s: %s", self._path, error)
            return None
        finally:
            metadata_log.log.release()
        if any(view.id_bytes == partition.topic_id for view in image.topics.values()):
            return None
        self._deleted.add(partition.topic_id)
        self._looked_s = -_FRESH_S  # what was seen is stale
        return gone(partition.name)

    # -- topics --------------------------------------------------------------------------------------

    @property
    def image(self) -> Image:
        if self._closed is None:
            self._look_if_stale()
        return self._image

    def topic(self, name: str) -> TopicView:
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

    def _partition(self, name: TopicPartition) -> FollowedPartition:
        partition = self._partitions.get(name)
        if partition is None:
            self.topic(name[0])
            partition = self._partitions.get(name)
        if partition is None:
            raise gone(TopicPartition(*name))
        return partition

    # -- records -------------------------------------------------------------------------------------

    def _fresh(self, name: TopicPartition) -> FollowedPartition:
        """The partition as it is now. Raises RequestTimedOutError, after a wait, if only an owner that is opening could tell."""
        self.look()
        return self._known(self._partition(name))

    def _known(self, partition: FollowedPartition) -> FollowedPartition:
        """The partition, caught up with; the first time this may take the wait."""

        def look() -> None:
            self.look()
            if partition.closed is not None:
                raise partition.closed.copy()
            self._catch_up(partition)

        self._catch_up(partition)
        self._wait_for(partition, look)
        return partition

    def _catch_up(self, partition: FollowedPartition) -> None:
        try:
            partition.catch_up()
        except StorageError:
            self.look()
            if partition.closed is not None:  # deleted meanwhile
                raise partition.closed.copy() from None
            partition.catch_up()

    def fetch(
        self,
        partition: TopicPartition,
        offset: int,
        max_bytes: int,
        isolation_level: str,
        after: FetchData = EMPTY,
        topic_id: bytes | None = None,
    ) -> FetchData:
        self._look_if_stale()
        here = self._partition(partition)
        self._catch_up(here)
        try:
            chunk = super().fetch(partition, offset, max_bytes, isolation_level, after, topic_id)
        except OffsetOutOfRangeError:  # of what was seen last
            chunk = EMPTY
        if not chunk.data:
            self.look()
            self._catch_up(here)
            chunk = super().fetch(partition, offset, max_bytes, isolation_level, after, topic_id)
        return chunk

    def await_data(self, partitions: Iterable[TopicPartition]) -> ParkedFetch:
        here = [p for p in map(self._partitions.get, partitions) if p is not None]
        idle = not self._waiting
        parked = Awaited(here, self._waiting)
        if idle:
            self.nudge()
        return parked

    def bounds(self, partition: TopicPartition, isolation_level: str) -> tuple[int, int]:
        self._fresh(partition)
        return super().bounds(partition, isolation_level)

    def find_time(self, partition: TopicPartition, timestamp: int) -> OffsetAndTimestamp | None:
        self._fresh(partition)
        return super().find_time(partition, timestamp)

    def partition_info(self, partition: TopicPartition) -> PartitionInfo:
        self._fresh(partition)
        return super().partition_info(partition)

    def metrics(self) -> dict[str, Any]:
        """Plain numbers by topic and partition."""
        self.look()
        topics: dict[str, Any] = {}
        for (name, number), partition in sorted(self._partitions.items()):
            tail = self._known(partition).log.tail
            topics.setdefault(name, {})[str(number)] = {
                "log_start_offset": tail.start_offset,
                "log_end_offset": tail.end_offset,
                "size_bytes": tail.size_bytes(),
                "segments": len(tail.segments),
            }
        return {"topics": topics}

    # -- groups --------------------------------------------------------------------------------------

    def groups_partition(self) -> FollowedPartition | None:
        if controller.GROUPS_TOPIC not in self.image.topics:
            return None
        return self._fresh(TopicPartition(controller.GROUPS_TOPIC, 0))

    def living_owner(self) -> str:
        watcher = self._watcher
        return "" if watcher.is_clean or watcher.situation is Situation.ALONE else str(watcher.owner["incarnation"])

    def topic_id(self, name: str) -> bytes | None:
        view = self._image.topics.get(name)  # looked at when the groups' partition was
        return None if view is None else view.id_bytes
