"""One partition of another process's log."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...errors import StreamlogError
from ...records.batch import MAX_OFFSET
from ...replication.listeners import Waiters
from ...replication.repairs import fetch_whole
from ...replication.replica_set import ALONE
from ...runtime.api import Lock
from ...runtime.threads import inside
from ...runtime.values import refuse_to_copy
from ...storage.leader_epochs import EpochEnd, LeaderEpochCache
from ...storage.published import Slot
from ...storage.tail import EMPTY, FetchData, LogSnapshot
from ...storage.tailing import TailedLog
from ...storage.transactions import TransactionSnapshot
from ...types import TopicPartition
from .published_reader import PublishedReader, Situation


class TailedPartition:
    """A partition that this process only reads, and the callbacks that wait for its end to move. Thread-safe.

    `look` reads the file `published` again, for when a file of the partition is not there any more.
    """

    __reduce_ex__ = refuse_to_copy

    registration = ALONE
    hides: StreamlogError | None = None

    def __init__(
        self, name: TopicPartition, topic_id: bytes, log: TailedLog, published: PublishedReader,
        new_lock: Callable[[], Lock], look: Callable[[], object],
    ) -> None:  # fmt: skip
        self.name = name
        self.topic_id = topic_id
        self.log = self.reader = log
        self.waiters = Waiters()
        self.closed: StreamlogError | None = None
        self._published = published
        self._lock = new_lock()
        self._reading_transactions = new_lock()  # around `_lock`
        self._look = look
        self._seen: Slot | None = None
        self._most = MAX_OFFSET
        self._stage = -1
        log.renew = self._renew

    def read_transactions(self) -> TransactionSnapshot | None:
        """See `reading.Readable`."""
        high_watermark = self.high_watermark
        with inside(), self._reading_transactions:
            return self.log.read_transactions(high_watermark)

    @property
    def leader_epoch(self) -> int:
        return self.registration.leader_epoch

    @property
    def high_watermark(self) -> int:
        return min(self.log.high_watermark, self._most)

    @property
    def broker_id(self) -> int:
        """The broker whose replica this is."""
        return self._published.broker_id

    def epoch_end(self, leader_epoch: int) -> EpochEnd | None:
        """See `Partition.epoch_end`. Cost: a header of each segment."""
        return LeaderEpochCache().epochs(self.log.tail).end_offset_for(leader_epoch, self.high_watermark)

    def logs_elsewhere(self, end_offset: int) -> Sequence[TailedLog]:
        """See `reading.Readable`: a reader has one directory."""
        return ()

    def fetch_elsewhere(self, offset: int, max_bytes: int, end_offset: int) -> FetchData:
        """See `reading.Readable`: a reader has one directory."""
        return EMPTY

    def fetch_undamaged(self, offset: int, max_bytes: int, end_offset: int) -> FetchData:
        """See `reading.Readable`. What was read may have been repaired since by the process that owns it."""
        return fetch_whole(self.reader, offset, max_bytes, end_offset)

    def catch_up(self) -> None:
        """Take over what was published last. Raises StorageError, CorruptRecordError, RequestTimedOutError (retriable)."""
        published, seed = self._published, self.log.seed
        if published.stage == self._stage and published.slots.get(seed) is self._seen:
            return
        with inside(), self._lock:
            owner, stage, situation = published.owner, published.stage, published.situation
            slot = published.slots.get(seed)
            done = False
            most = MAX_OFFSET
            # If the log was closed as clean, the files say as much as a slot, which may not verify.
            if situation is Situation.ALONE or (slot is None and owner.get("clean")):
                done = stage == self._stage or self.log.follow_files(
                    published.trusted(seed),
                    verify=not (published.same_boot or published.is_clean),
                    is_alone=lambda: published.is_last(owner),
                )
                trusted = published.trusted(seed)
                if trusted is not None and len(self.registration.replicas) > 1:
                    most = (
                        trusted.high_watermark
                    )  # what lies past it may be in no other replica: the next owner may remove it
            elif situation is Situation.PUBLISHED and slot is not None:
                done = self.log.follow(slot, published.incarnation, lambda: published.slot(seed))
            if done:  # otherwise there is another owner, or the topic is gone, and the next look finds that out
                self._stage, self._seen, self._most = stage, slot, most

    def _renew(self, failed: LogSnapshot) -> None:
        """The files of a snapshot were not there, or had other contents: take over a newer one."""
        self._look()
        self.catch_up()
        if self.log.tail.segments == failed.segments:
            with inside(), self._lock:
                self.log.relist(self._published.is_between)
