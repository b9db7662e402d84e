"""A partition as its leader has it: a log, the lock around its changes, group commit, and maintenance."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..config import TopicConfig
from ..errors import NotLeaderError, RequestTimedOutError, StreamlogError, UnknownTopicOrPartitionError
from ..records.single import SequencedRecord
from ..runtime.api import Completion, Lock
from ..runtime.threads import inside
from ..runtime.values import refuse_to_copy
from ..storage.leader_epochs import EpochEnd
from ..storage.log import AppendRequest, Log
from ..storage.tail import LogSnapshot
from ..types import Buffer, TopicPartition
from .commit import GroupCommit
from .listeners import LogListener, NullListener, Waiters
from .maintenance import Maintenance
from .purgatory import DelayedOperation, Purgatory
from .validation import RecordValidator

T = TypeVar("T")


class Partition:
    """One partition that this broker leads. Thread-safe.

    An append publishes the new end, releases the lock, and then calls the waiters: no callback runs under a lock.

    `high_watermark` is the end of what readers may see, and of what counts as acknowledged. It goes back only where a follower truncates its log. Where this
    is the only replica, it follows the end of the log; with `durable`, the syncs. The waiters follow it.

    `on_work` is called after an append that gave `maintenance` something to do. `hides` is the reason why records past the
    high watermark, which may have been acknowledged, cannot be read, or None.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(
        self,
        name: TopicPartition,
        topic_id: bytes,
        log: Log,
        new_lock: Callable[[], Lock],
        broker_id: int = 0,
        *,
        durable: bool = False,
        synced_end: int | None = None,
    ) -> None:
        self.name = name
        self.topic_id = topic_id
        self.log = log
        self.reader = log.reader
        self.lock = new_lock()
        self.broker_id = broker_id
        self.leader_epoch = 0
        self._not_leader: NotLeaderError | None = None
        self.waiters = Waiters()
        self.closed: StreamlogError | None = None
        self.on_work: Callable[[Partition], None] | None = None
        self.listener: LogListener = NullListener()
        self.hides: StreamlogError | None = None
        self.durable = durable
        synced_end = log.durability.recovery_point if synced_end is None else synced_end
        self.commit = GroupCommit(log, new_lock, synced_end, self)
        self.high_watermark = synced_end if durable else log.tail.end_offset
        # The lock under which it is raised. Without `durable` an append does so: it holds the partition's lock anyway.
        self._advancing = new_lock() if durable else self.lock
        self._announced = self.high_watermark  # to the waiters and the listener, where an append does not
        self.purgatory = Purgatory(new_lock())
        self.maintenance = Maintenance(self, new_lock())
        self.validator = RecordValidator(name, log.seed, log.config)

    @property
    def is_leader(self) -> bool:
        return self._not_leader is None

    @property
    def is_faulty(self) -> bool:
        """Whether appends are refused for another reason than that this broker is not the leader."""
        refusal = self.log.refusal
        return refusal is not self._not_leader or not self.log.knows_its_end

    def set_leader(self, leader: int, leader_epoch: int) -> None:
        """Follow what the metadata says: while this broker is not the leader, appends fail with NotLeaderError; reads go on.

        Records are appended in `leader_epoch` from now on. Does nothing for what is known already, or an older epoch.
        """
        is_leader = leader == self.broker_id
        if leader_epoch < self.leader_epoch or (leader_epoch == self.leader_epoch and is_leader == self.is_leader):
            return
        with inside(), self.lock:
            self.leader_epoch = leader_epoch
            before = self._not_leader
            self._not_leader = None if is_leader else _not_leader(self.name, leader, leader_epoch)
            if before is not None:
                self.log.unblock(before)
            if self._not_leader is not None:
                self.log.block(self._not_leader)
            else:
                self.log.assign_epoch(leader_epoch, self.log.tail.end_offset)
        if is_leader and self.on_work is not None:  # retention is the leader's
            self.on_work(self)

    def configure(self, config: TopicConfig) -> None:
        with inside(), self.lock:
            self.log.configure(config)
            self.validator = RecordValidator(self.name, self.log.seed, config)

    # -- the high watermark --------------------------------------------------------------------------

    def _in_sync_end(self) -> int:
        """The end of what every in-sync replica has; on its device, if that is what acknowledged means.

        With followers it is the least of their ends and this one's.
        """
        return self.commit.synced_end if self.durable else self.reader.tail.end_offset

    def maybe_advance_high_watermark(self) -> None:
        """Raise the high watermark to what every in-sync replica has, and answer and wake what waits for it.

        Called after an append, a sync, and a fetch of a follower. It may be called again: an interrupt may have stopped the
        last call in the middle. REQUIRES: no lock.
        """
        end = self._in_sync_end()
        is_behind = self.high_watermark < end
        if is_behind:
            with inside(), self._advancing:
                end = self._in_sync_end()  # the log may have been truncated since
                if self.high_watermark < end:
                    self.high_watermark = end
        high_watermark = self.high_watermark
        self.purgatory.complete_through(high_watermark)
        if is_behind or (self.durable and self._announced < high_watermark):
            self.waiters.wake()
            if self.listener.quiet:
                self.listener.appended()
            self._announced = high_watermark

    def await_high_watermark(
        self, end: int, value: T, deadline_ms: int | None = None, late: StreamlogError | None = None
    ) -> Completion[T]:
        """Done with `value` once readers may see everything before `end`. REQUIRES: it is in the log.

        With a deadline (ms) it is answered then in any case: with `late`, if that is given.
        """
        if end <= self.high_watermark or not self.durable:
            return Completion.of(value)
        operation = DelayedOperation(value, self.commit, late)
        self.purgatory.add(end, operation, deadline_ms)
        self.commit.request(end)
        if end <= self.high_watermark or self.commit.refusal is not None:  # since the look above
            self.commit.answer()
        return operation

    def acknowledge(self, write: AppendRequest, deadline_ms: int | None = None) -> Completion[int]:
        """A Completion of the base offset of `write`, done when readers may see all of it. REQUIRES: it is in the log.

        With a deadline (ms of real time) it fails with RequestTimedOutError then; the records stay in the log.
        """
        base_offset = write.base_offset
        if not self.durable:
            return Completion.of(base_offset)
        end = base_offset + sum([batch.last_offset_delta + 1 for batch in write.batches])
        late = None if deadline_ms is None else _late(self.name, base_offset, end)
        return self.await_high_watermark(end, base_offset, deadline_ms, late)

    def synced(self) -> None:
        """See `SyncListener`."""
        self.maybe_advance_high_watermark()

    def sync_failed(self, error: StreamlogError) -> None:
        """See `SyncListener`."""
        self.purgatory.fail(error)

    def hide_what_may_be_lost(self) -> None:
        """After opening: set `hides` if records that were acknowledged may lie past the high watermark.

        Of a log whose sync failed, only what is known to be on the device can be read. A reader that gets no error there
        would take the high watermark for the end, and a group that has read further would be set back.
        """
        durability = self.log.durability
        if not self.durable:
            durability.acknowledged_is_synced = False  # all can be read, and what is sent from now on counts at once
        elif (
            durability.poison is not None
            and not durability.acknowledged_is_synced
            and self.high_watermark < self.reader.tail.end_offset
        ):
            self.hides = durability.poison

    def append(self, write: AppendRequest, now_ms: int) -> int:
        """Append as the leader; the base offset. Raises what `Log.append` raises."""
        with self.lock:
            if self.closed is not None:
                raise self.closed.copy()
            try:
                base_offset = self.log.append(write, self.leader_epoch, now_ms)
            finally:  # also where an interrupt comes after the log has published it
                if not self.durable:
                    self.high_watermark = self.reader.tail.end_offset
        if not self.durable:
            if self.waiters.callbacks:
                self.waiters.wake()
            if self.listener.quiet:
                self.listener.appended()
        if self.log.began_segment:
            self._note_work()
        return base_offset

    def append_as_follower(self, data: Buffer, now_ms: int) -> int:
        """Append batches as their leader stored them; the new log end offset. Raises what `Log.append_as_follower` raises.

        After an interrupt the caller looks at the end of the log, and goes on from there.
        """
        if self.log.begins_gaps(data):
            with inside(), self.maintenance.lock:
                self.check_open()
                self.log.record_compaction()
        with inside(), self.lock:
            if self.closed is not None:
                raise self.closed.copy()
            end_offset = self.log.append_as_follower(data, now_ms)
        if self.log.began_segment:
            self._note_work()
        self.maybe_advance_high_watermark()
        return end_offset

    def append_one(
        self, key: bytes | None, value: bytes, timestamp: int, now_ms: int, sequenced: SequencedRecord | None = None
    ) -> int:
        """`append` for a single plain record; see `Log.append_one`."""
        with self.lock:
            if self.closed is not None:
                raise self.closed.copy()
            try:
                offset = self.log.append_one(key, value, timestamp, self.leader_epoch, now_ms, sequenced)
            finally:  # as in `append`
                if not self.durable:
                    self.high_watermark = self.reader.tail.end_offset
        if self.log.began_segment:  # a flag of the log's: comparing snapshots before and after took 1% of a send
            self._note_work()
        if not self.durable:
            if self.waiters.callbacks:
                self.waiters.wake()
            if self.listener.quiet:
                self.listener.appended()
        return offset

    def _note_work(self) -> None:
        """A segment began to age, and the one before it may have been sealed: call `on_work`."""
        self.log.began_segment = False  # first: another thread's append may set it again
        if self.on_work is not None:
            self.on_work(self)

    def settle(self, write: AppendRequest) -> None:
        """Find out whether an interrupted `append` took place; see `Log.resolve_append`."""
        with inside(), self.lock:
            if self.closed is None:
                self.log.resolve_append(write)
        self.maybe_advance_high_watermark()
        self.waiters.wake()
        self.listener.appended()

    def take_back(self, before: LogSnapshot) -> bool:
        """Remove what was appended since `before` from the log, on the device too; see `Log.take_back`.

        False, with nothing done, if it is known to be on the device: another thread synced it before, and readers
        may have seen it. REQUIRES: a durable partition.
        """
        try:
            with inside(), self.maintenance.lock, self.lock, self.commit.syncing:
                if self.commit.synced_end > before.end_offset:
                    return False
                self.log.take_back(before)
                self.commit.clip(before.end_offset)
                self.purgatory.clip(before.end_offset)
        finally:
            self.commit.answer()
        self.listener.changed(rewritten=True)
        return True

    def block(self, error: StreamlogError) -> None:
        """Refuse appends with `error` until `unblock`. Reads and syncs go on. A poisoned log refuses appends anyway."""
        with inside(), self.lock:
            self.log.block(error)

    def unblock(self, error: StreamlogError) -> None:
        """Undo the `block` with this error. Other blocks may be left."""
        with inside(), self.lock:
            self.log.unblock(error)

    def delete_records(self, before: int) -> int:
        """Raise the log start to `before`; the new start. Raises OffsetOutOfRangeError past the end, NotLeaderError."""
        if self._not_leader is not None:
            raise self._not_leader.copy()
        try:
            with inside(), self.maintenance.lock:
                end = self.high_watermark
                if not 0 <= before <= end:
                    raise self.reader.out_of_range(before, end)
                self.maintenance.delete_before(before)
                return self.log.tail.start_offset
        finally:
            self.commit.answer()

    def follow_log_start(self, leader_log_start: int) -> int:
        """As a follower: raise the log start to that of the leader, which alone decides what is deleted; the new start.

        Not past the high watermark: what is not committed is not deleted. Where the leader's log starts after the end of this
        one, `truncate_fully_and_start_at` is called instead.
        """
        try:
            with inside(), self.maintenance.lock:
                before = min(leader_log_start, self.high_watermark)
                if before > self.log.tail.start_offset:
                    self.maintenance.delete_before(before)
                return self.log.tail.start_offset
        finally:
            self.commit.answer()

    def truncate_to(self, offset: int) -> int:
        """Forget every record at or after `offset`; the new log end offset. See `Log.truncate_to`.

        The high watermark goes back with it, and what waits for a record that went fails with NotLeaderError. REQUIRES: this
        broker does not lead the partition; so no sender waits while the locks are held across a sync.
        """
        try:
            with inside(), self.maintenance.lock:
                self.maintenance.finish_compaction()
                with inside(), self.lock, self.commit.syncing:
                    self.check_open()
                    try:
                        return self.log.truncate_to(offset)
                    finally:  # also where the disk failed after the log has published it
                        self.commit.clip(self.reader.tail.end_offset)
        finally:
            self._lower_high_watermark()
            self.commit.answer()
            self.listener.changed(rewritten=True)

    def truncate_fully_and_start_at(self, offset: int) -> None:
        """Forget every record; the log goes on at `offset`, which is its start and the high watermark.

        See `Log.truncate_fully_and_start_at`. What waits fails with NotLeaderError, even if the disk fails. REQUIRES: as `truncate_to`.
        """
        self.purgatory.fail(_truncated(self.name))  # first: the high watermark may be past its records afterwards
        try:
            with inside(), self.maintenance.lock:
                self.maintenance.finish_compaction()
                with inside(), self.lock, self.commit.syncing:
                    self.check_open()
                    try:
                        self.log.truncate_fully_and_start_at(offset)
                    finally:  # as in `truncate_to`
                        if self.reader.tail[:2] == (offset, 0):
                            self.commit.restart(offset)
        finally:
            self._lower_high_watermark()
            self.commit.answer()  # which raises the high watermark, if it is below
            self.listener.changed(rewritten=True)

    def _lower_high_watermark(self) -> None:
        with inside(), self._advancing:
            end = self.high_watermark = min(self.high_watermark, self.reader.tail.end_offset)
        self._announced = min(self._announced, end)
        self.purgatory.fail_past(self.reader.tail.end_offset, _truncated(self.name))

    def epoch_end(self, leader_epoch: int) -> EpochEnd | None:
        """See `Log.epoch_end_offset`."""
        with inside(), self.lock:
            return self.log.epoch_end_offset(leader_epoch)

    def diverging_epoch(self, last_fetched_epoch: int, fetch_offset: int) -> EpochEnd | None:
        """See `Log.diverging_epoch`."""
        with inside(), self.lock:
            return self.log.diverging_epoch(last_fetched_epoch, fetch_offset)

    def check_open(self) -> None:
        if self.closed is not None:
            raise self.closed.copy()
        self.log.durability.refuse_if_poisoned()

    # -- the end -------------------------------------------------------------------------------------

    def shut(self, error: StreamlogError) -> None:
        """Refuse every call with `error` from now on, and call the waiters."""
        with inside(), self.lock:
            self.closed = error
        self.waiters.wake_all()

    def close(self, error: StreamlogError) -> None:
        """Shut, sync, and close the log. Raises what the disk raises, after every file was closed."""
        self.shut(error)
        try:
            with inside(), self.maintenance.lock, self.lock:
                self.maintenance.end_compaction()
                try:
                    self.commit.close()
                finally:
                    self.log.release()
        finally:
            self.commit.answer()

    def remove(self, error: StreamlogError) -> None:
        """Shut, and close the files without a sync: the partition was deleted."""
        self.shut(error)
        with inside(), self.maintenance.lock, self.lock:
            self.maintenance.end_compaction()
            self.log.release()
        self.commit.refuse(error)


def _not_leader(name: TopicPartition, leader: int, leader_epoch: int) -> NotLeaderError:
    there = f"broker {leader} is its leader" if leader >= 0 else "it has no leader"
    return NotLeaderError(
        f"This broker does not lead {name.topic}-{name.partition}: {there} in epoch {leader_epoch}. Send to the leader, or "
        f"try again when there is one."
    )


def _late(name: TopicPartition, base_offset: int, end: int) -> RequestTimedOutError:
    return RequestTimedOutError(
        f"The records of {name.topic}-{name.partition} from {base_offset} to {end - 1} were not acknowledged within the timeout "
        f"of their request: they are in the log, but the high watermark has not passed them. Readers may see them later. "
        f"Records that are sent again are in the log twice, unless their producer is idempotent."
    )


def _truncated(name: TopicPartition) -> NotLeaderError:
    return NotLeaderError(
        f"Records of {name.topic}-{name.partition} that waited to be acknowledged were removed: another broker leads the "
        f"partition and does not have them. Send them again."
    )


def gone(name: TopicPartition) -> UnknownTopicOrPartitionError:
    return UnknownTopicOrPartitionError(
        f"There is no partition {name.partition} of topic {name.topic!r}: it was deleted, or never existed. "
        f"log.topics() lists the topics there are.",
        topic=name.topic,
        partition=name.partition,
    )
