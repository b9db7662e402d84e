"""A partition as one broker has it, its leader or a follower: a log, the lock around its changes, group commit, maintenance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from ..config import TopicConfig
from ..errors import (
    FencedLeaderEpochError,
    NotEnoughReplicasError,
    NotLeaderError,
    RequestTimedOutError,
    StreamlogError,
    UnknownLeaderEpochError,
)
from ..records.batch import peek
from ..records.single import SequencedRecord
from ..runtime.api import Completion, Lock
from ..runtime.threads import inside
from ..runtime.values import refuse_to_copy
from ..storage.leader_epochs import EpochEnd
from ..storage.log import AppendRequest, Log
from ..storage.tail import ANY_EPOCH, EMPTY, FetchData, LogSnapshot
from ..types import Buffer, TopicPartition
from .commit import GroupCommit
from .listeners import LogListener, NullListener, Waiters
from .maintenance import Maintenance
from .purgatory import DelayedOperation, Purgatory
from .replica_set import ALONE, PartitionRegistration, ReplicaSet
from .validation import RecordValidator

T = TypeVar("T")


class ReplicaFetch(NamedTuple):
    """What a follower gets from its leader: whole batches as they are stored, or where their logs part."""

    read: FetchData
    high_watermark: int
    log_start_offset: int
    leader_epoch: int
    """That in which the leader answered: what it says holds for a follower in the same one."""
    diverging_epoch: EpochEnd | None = None

    @property
    def data(self) -> Buffer:
        return self.read.data


class Partition:
    """One replica of a partition: the leader's, where `registration` says so, or a follower's. Thread-safe.

    An append publishes the new end, releases the lock, and then calls the waiters: no callback runs under a lock.

    `high_watermark` is the end of what readers may see, and of what counts as acknowledged. It goes back only where a follower
    truncates its log. Where this is the only replica, it follows the end of the log; with `durable`, the syncs. A leader raises
    it when its followers fetch, and a follower learns it with what it fetches. The waiters follow it. `follower_waiters` follow
    the end of the log: they are those of the followers, and of what fetches for them.

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
        self.registration = ALONE
        self._followed = ALONE  # the registration of which `follow` has done all
        self.leader_epoch = 0
        self.replicas: ReplicaSet | None = None
        """What a leader with followers knows of them."""
        self._leader_high_watermark = 0
        self._successor: Partition | None = None
        self._is_handed_over = False
        self._at_once = not durable  # what was appended is acknowledged, and may be read
        self.waiters = Waiters()
        self.follower_waiters = Waiters()
        self.on_isr_change: Callable[[Partition], object] = lambda partition: None
        """Called, under no lock, when the in-sync set may grow; see `wanted_isr`."""
        self.on_failure: Callable[[StreamlogError], object] = lambda error: None
        """Called when the disk under a leader that has followers fails: another replica is to lead."""
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
        return self.log.not_leader is None

    @property
    def is_faulty(self) -> bool:
        """Whether appends are refused for another reason than that this broker is not the leader."""
        refusal = self.log.refusal
        return refusal is not self.log.not_leader or not self.log.knows_its_end

    def follow(self, registration: PartitionRegistration, now_ms: int = 0) -> None:
        """Lead the partition, or follow its leader, as the metadata says; `now_ms` is real time.

        While this broker is not the leader, appends fail with NotLeaderError, and reads go on. Records are appended in the
        registration's leader epoch from now on. Does nothing for what is known already, or is older. What waits here for the
        high watermark goes on waiting: see `hand_over`. After an interrupt, the next call with the same registration does all
        of it again.
        """
        before = self._followed
        if registration == before or registration[3:5] < self.registration[3:5]:
            return
        with inside(), self.lock:
            self._take_role(registration, now_ms)
        was_leader = before.leader == self.broker_id
        if was_leader and not self.is_leader:
            self.waiters.wake_all()  # they look for the new leader
        self.follower_waiters.wake_all()
        self.maybe_advance_high_watermark()
        if self.is_leader and not was_leader and self.on_work is not None:  # retention is the leader's
            self.on_work(self)
        self._followed = registration

    def _take_role(self, registration: PartitionRegistration, now_ms: int) -> None:
        """REQUIRES: the lock. In between, this broker appends nothing as the leader in an epoch that it does not lead."""
        epoch = registration.leader_epoch
        is_leader, alone = registration.leader == self.broker_id, registration.replicas == (self.broker_id,)
        if not is_leader:
            self.log.set_not_leader(_not_leader(self.name, registration.leader, epoch))
            self._leader_high_watermark = self.high_watermark
        self.registration = registration
        self.leader_epoch = epoch
        self._at_once = is_leader and alone and not self.durable
        if not is_leader or alone:
            self.replicas = None
        elif self.replicas is None or self.replicas.registration.leader_epoch != epoch:
            self.replicas = ReplicaSet(self.broker_id, registration, self.log.tail.end_offset, now_ms)
        else:
            self.replicas.update(registration, now_ms)
        if is_leader:
            self.log.assign_epoch(epoch, self.log.tail.end_offset)
            self.log.set_not_leader(None)

    def configure(self, config: TopicConfig) -> None:
        with inside(), self.lock:
            self.log.configure(config)
            self.validator = RecordValidator(self.name, self.log.seed, config)

    # -- the high watermark --------------------------------------------------------------------------

    def _in_sync_end(self) -> int:
        """The end of what every in-sync replica has; on its device, if that is what acknowledged means."""
        if self.log.not_leader is not None:
            return min(self._leader_high_watermark, self.reader.tail.end_offset)
        own, replicas = self.commit.synced_end if self.durable else self.reader.tail.end_offset, self.replicas
        return own if replicas is None else replicas.in_sync_end(own)

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
        if is_behind or (not self._at_once and self._announced < high_watermark):
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
        if end <= self.high_watermark or self._at_once:
            return Completion.of(value)
        operation = DelayedOperation(value, self.commit if self.durable else None, late)
        self._await(end, operation, deadline_ms)
        return operation

    def _await(self, end: int, operation: DelayedOperation[T], deadline_ms: int | None = None) -> None:
        self.purgatory.add(end, operation, deadline_ms)
        if self.durable:
            self.commit.request(end)
        if end <= self.high_watermark or self.commit.refusal is not None:  # since the caller looked
            self.commit.answer()
        if self._is_handed_over:
            self.hand_over(self._successor)

    def acknowledge(self, write: AppendRequest, deadline_ms: int | None = None) -> Completion[int]:
        """A Completion of the base offset of `write`, done when readers may see all of it. REQUIRES: it is in the log.

        With a deadline (ms of real time) it fails with RequestTimedOutError then; the records stay in the log.
        """
        base_offset = write.base_offset
        if self._at_once:
            return Completion.of(base_offset)
        end = base_offset + sum([batch.last_offset_delta + 1 for batch in write.batches])
        late = None if deadline_ms is None else _late(self.name, base_offset, end)
        done = self.await_high_watermark(end, base_offset, deadline_ms, late)
        return done if self._has(end - 1, write.leader_epoch) else Completion.failed(_truncated(self.name))

    def _has(self, offset: int, leader_epoch: int) -> bool:
        """Whether the record that was appended at `offset` in this epoch is there still: only another leader removes it.

        Called after something waits for it: what is removed later fails that.
        """
        return leader_epoch in (ANY_EPOCH, self.leader_epoch) or self.epoch_of(offset) == leader_epoch

    def acknowledge_alone(self, write: AppendRequest, deadline_ms: int | None = None) -> Completion[int]:
        """`acknowledge` for acks=1: what this leader promises by itself, whatever its followers have."""
        base_offset = write.base_offset
        if not self.durable:
            return Completion.of(base_offset)
        end = base_offset + sum([batch.last_offset_delta + 1 for batch in write.batches])
        late = None if deadline_ms is None else _late(self.name, base_offset, end)
        return self.commit.await_sync(end, base_offset, deadline_ms, late)

    def synced(self) -> None:
        """See `SyncListener`."""
        self.maybe_advance_high_watermark()

    def sync_failed(self, error: StreamlogError) -> None:
        """See `SyncListener`. With followers in sync, what waits goes on waiting for one of them: see `hand_over`."""
        if self.has_successors and self.closed is None:
            self.on_failure(error)
        else:
            self.purgatory.fail(error)

    @property
    def is_replicated(self) -> bool:
        """Whether every member of the in-sync set has everything."""
        return self.high_watermark == self.reader.tail.end_offset

    @property
    def has_successors(self) -> bool:
        """Whether another member of the in-sync set could lead."""
        return self.replicas is not None and len(self.registration.isr) > 1

    def doubt_high_watermark(self) -> None:
        """After opening a replica of several: what is committed is learned from the others. REQUIRES: it waits for nothing."""
        with inside(), self._advancing:
            self.high_watermark = self._announced = self.reader.tail.start_offset
            self._leader_high_watermark = self.high_watermark

    def learn_high_watermark(self, committed: int) -> None:
        """Another leader's high watermark: this one has everything that was committed, though it may not know it yet.

        A new leader of Kafka's tells its readers to come back until it knows (KIP-207); in one process it can be told.
        """
        with inside(), self._advancing:
            self.high_watermark = max(self.high_watermark, min(committed, self.reader.tail.end_offset))
        self.maybe_advance_high_watermark()

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
            if not self._at_once or write.leader_epoch != ANY_EPOCH:
                self._take_epoch(write)
            try:
                base_offset = self.log.append(write, self.leader_epoch, now_ms)
            finally:  # also where an interrupt comes after the log has published it
                if self._at_once:
                    self.high_watermark = self.reader.tail.end_offset
        if self._at_once:
            if self.waiters.callbacks:
                self.waiters.wake()
            if self.listener.quiet:
                self.listener.appended()
        else:
            self._appended_later()
        if self.log.began_segment:
            self._note_work()
        return base_offset

    def _take_epoch(self, write: AppendRequest) -> None:
        """Note in which epoch `write` is appended. Raises FencedLeaderEpochError if it is to be in another. REQUIRES: the lock."""
        epoch = self.leader_epoch
        if write.leader_epoch not in (ANY_EPOCH, epoch):
            raise FencedLeaderEpochError(
                f"{self.name.topic}-{self.name.partition} is in leader epoch {epoch}, and the records are to follow others that were "
                f"appended in epoch {write.leader_epoch}. Send those again first, if they are not acknowledged."
            )
        write.leader_epoch = epoch

    # -- replicas ------------------------------------------------------------------------------------

    def require_in_sync(self) -> None:
        """Before an append with acks="all". Raises NotEnoughReplicasError if the in-sync set is smaller than the topic asks."""
        least, members = self.log.config.min_insync_replicas, len(self.registration.isr)
        if members < least:
            raise NotEnoughReplicasError(
                f"{self.name.topic}-{self.name.partition} has {members} in-sync replicas (brokers {self.registration.isr}), and its "
                f"min_insync_replicas is {least}. Nothing was appended. Bring a broker back, or lower min_insync_replicas."
            )

    def fetch_as_replica(
        self, broker: int, broker_epoch: int, offset: int, last_epoch: int | None, leader_epoch: int, max_bytes: int,
        now_ms: int, after: FetchData = EMPTY,
    ) -> ReplicaFetch:  # fmt: skip
        """What follows `offset` in this leader's log; and the follower `broker` has everything before that, it says so by this.

        `last_epoch` is that of its last record; if the logs part, the answer says where, and has no batches. Raises
        NotLeaderError, FencedLeaderEpochError or UnknownLeaderEpochError if this broker does not lead in `leader_epoch`,
        OffsetOutOfRangeError if `offset` is not in its log. `now_ms` is real time. `after`: see `LogReader.fetch`; it is of
        this leader in this epoch. REQUIRES: no lock.
        """
        self._require_leader_in(leader_epoch)
        high_watermark, tail = self.high_watermark, self.reader.tail
        # A follower whose last record is of this very epoch has it from here, and a leader never truncates its log.
        if last_epoch is not None and (last_epoch != leader_epoch or offset > tail.end_offset):
            diverging = self.diverging_epoch(last_epoch, offset)
            if diverging is not None:
                return ReplicaFetch(EMPTY, high_watermark, tail.start_offset, leader_epoch, diverging)
        read = EMPTY
        if offset != tail.end_offset:
            read = self.reader.fetch(offset, max_bytes, tail.end_offset, after)
        with inside(), self.lock:
            self._require_leader_in(leader_epoch)
            replicas = self.replicas
            if replicas is not None:
                replicas.fetched(broker, offset, tail.end_offset, now_ms, broker_epoch)
        self.maybe_advance_high_watermark()
        if replicas is not None and replicas.may_join(self.high_watermark):
            self.on_isr_change(self)
        return ReplicaFetch(read, self.high_watermark, tail.start_offset, leader_epoch)

    def _require_leader_in(self, leader_epoch: int) -> None:
        if self.closed is not None:
            raise self.closed.copy()
        if leader_epoch == self.leader_epoch:
            if self.log.not_leader is not None:
                raise self.log.not_leader.copy()
            return
        kind = FencedLeaderEpochError if leader_epoch < self.leader_epoch else UnknownLeaderEpochError
        raise kind(
            f"The fetch was made for leader epoch {leader_epoch} of {self.name.topic}-{self.name.partition}, and broker "
            f"{self.broker_id} is at {self.leader_epoch}. Look at the metadata, and fetch from the leader again.",
            leader_epoch=leader_epoch,
            current_epoch=self.leader_epoch,
        )

    def wanted_isr(self, now_ms: int, lag_ms: int, epochs: Mapping[int, int]) -> tuple[int, ...] | None:
        """The in-sync set that this leader asks the controller for; None if that is the set there is.

        Members that lag for longer than `lag_ms` (real time) leave it, followers that have caught up join it, and count from
        now on. `epochs`: those of the brokers that are alive; see `ReplicaSet.may_join`.
        """
        with inside(), self.lock:
            replicas = self.replicas
            if replicas is None:
                return None
            replicas.begin_joining(replicas.may_join(self.high_watermark, epochs))
            own_end = self.commit.synced_end if self.durable else self.reader.tail.end_offset
            wanted = replicas.wanted(replicas.lagging(own_end, now_ms, lag_ms))
            return None if wanted == replicas.registration.isr else wanted

    def hand_over(self, successor: Partition | None) -> None:
        """This broker does not lead any more: what waits here for the high watermark waits at `successor`, the new leader.

        Where the new leader's log has the same record last, it has all that is waited for: records of the same offset and leader
        epoch are the same, and so is everything before them. What it does not have fails with NotLeaderError: it is in no log
        that counts, so it can be sent again. It may be called again after an interrupt. A broker that goes on as a follower
        needs it not: its log gets the new leader's records and high watermark, or is truncated. One that is gone does.
        """
        self._successor, self._is_handed_over = successor, True  # first: what comes from now on finds it
        waiting = self.purgatory.waiting()
        for end, operation in waiting:
            if successor is not None and successor.epoch_of(end - 1) == self.epoch_of(end - 1):
                successor._await(end, operation)
            else:
                operation.fail((self.log.not_leader or _truncated(self.name)).copy())
        self.purgatory.forget({operation for _, operation in waiting})

    def epoch_of(self, offset: int) -> int | None:
        """The leader epoch in which the record at `offset` was appended; None if the log does not reach so far."""
        with inside(), self.lock:
            tail = self.reader.tail
            return self.log.leader_epochs.written(tail).epoch_of(offset) if offset < tail.end_offset else None

    def last_epoch(self) -> int | None:
        """The leader epoch of the last record; None if there is none."""
        last = self.log.leader_epochs.last
        if last is not None:
            return last
        with inside(), self.lock:
            return self.log.leader_epochs.latest(self.reader.tail)

    def take(self, fetched: ReplicaFetch) -> bool:
        """As a follower, do what the leader's answer to a fetch from the end of this log says; whether there may be more.

        Raises what the log and its disk raise; CorruptRecordError for a batch that is damaged.
        """
        end, diverging = self.reader.tail.end_offset, fetched.diverging_epoch
        if diverging is not None:
            own = self.epoch_end(diverging.epoch)
            target = min(end, diverging.end_offset, end if own is None else own.end_offset)
            if target >= self.reader.tail.start_offset:
                self.truncate_to(target, fetched.leader_epoch)
            else:
                self.truncate_fully_and_start_at(max(target, fetched.log_start_offset), fetched.leader_epoch)
            return True
        if fetched.data:
            base_offset = peek(fetched.data, 0).base_offset
            is_empty = self.reader.tail.start_offset == end
            if base_offset < end and (is_empty or base_offset < fetched.log_start_offset):
                # Records were deleted up to the middle of this batch, which can only be stored whole (KAFKA-6975).
                self.truncate_fully_and_start_at(base_offset, fetched.leader_epoch)
            self._leader_high_watermark = fetched.high_watermark  # which the append takes over
            self.append_as_follower(fetched.data, fetched.leader_epoch)
            if self.durable:
                self.commit.sync()
        self.follow_leader(fetched)
        return bool(fetched.data)

    def _require_following(self, leader_epoch: int | None) -> None:
        """REQUIRES: the lock. An election may have come between a fetch and what it brings."""
        if leader_epoch is not None and (leader_epoch != self.leader_epoch or self.log.not_leader is None):
            raise NotLeaderError(
                f"What was fetched for {self.name.topic}-{self.name.partition} is from leader epoch {leader_epoch}, and broker "
                f"{self.broker_id} does not follow in that any more. It is fetched again."
            )

    def follow_leader(self, fetched: ReplicaFetch) -> None:
        """Take over the leader's high watermark and log start, as far as this log goes."""
        if fetched.high_watermark != self._leader_high_watermark:
            self._leader_high_watermark = fetched.high_watermark
            self.maybe_advance_high_watermark()
        if fetched.log_start_offset > self.reader.tail.start_offset:
            self.follow_log_start(fetched.log_start_offset)

    def append_as_follower(self, data: Buffer, leader_epoch: int | None = None) -> int:
        """Append batches as their leader stored them; the new log end offset. Raises what `Log.append_as_follower` raises.

        With the `leader_epoch` of the fetch that brought them, NotLeaderError if this broker does not follow in it any more.

        After an interrupt the caller looks at the end of the log, and goes on from there.
        """
        if self.log.begins_gaps(data):
            with inside(), self.maintenance.lock:
                self.check_open()
                self.log.record_compaction()
        with inside(), self.lock:
            if self.closed is not None:
                raise self.closed.copy()
            self._require_following(leader_epoch)
            end_offset = self.log.append_as_follower(data)
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
                if self._at_once:
                    self.high_watermark = self.reader.tail.end_offset
        if self.log.began_segment:  # a flag of the log's: comparing snapshots before and after took 1% of a send
            self._note_work()
        if self._at_once:
            if self.waiters.callbacks:
                self.waiters.wake()
            if self.listener.quiet:
                self.listener.appended()
        else:
            self._appended_later()
        return offset

    def append_one_later(self, key: bytes | None, value: bytes, timestamp: int, now_ms: int) -> Completion[int]:
        """`append_one`; a Completion of the offset, done when readers may see the record."""
        if self._at_once:
            return Completion.of(self.append_one(key, value, timestamp, now_ms))
        with self.lock:
            if self.closed is not None:
                raise self.closed.copy()
            epoch = self.leader_epoch
            offset = self.log.append_one(key, value, timestamp, epoch, now_ms)
        if self.log.began_segment:
            self._note_work()
        self._appended_later()
        done = self.await_high_watermark(offset + 1, offset)
        return done if self._has(offset, epoch) else Completion.failed(_truncated(self.name))

    def _appended_later(self) -> None:
        """What was appended is not acknowledged at once: wake the followers. A leader alone in sync waits for none of them."""
        if self.follower_waiters.callbacks:
            self.follower_waiters.wake()
        if not self.durable and len(self.registration.isr) == 1:
            self.maybe_advance_high_watermark()

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
        if self.log.not_leader is not None:
            raise self.log.not_leader.copy()
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

    def truncate_to(self, offset: int, leader_epoch: int | None = None) -> int:
        """Forget every record at or after `offset`; the new log end offset. See `Log.truncate_to`.

        The high watermark goes back with it, and what waits for a record that went fails with NotLeaderError. REQUIRES: this
        broker does not lead the partition; so no sender waits while the locks are held across a sync.
        """
        lost: list[DelayedOperation[Any]] = []
        try:
            with inside(), self.maintenance.lock:
                self.maintenance.finish_compaction()
                with inside(), self.lock, self.commit.syncing:
                    self.check_open()
                    self._require_following(leader_epoch)
                    try:
                        return self.log.truncate_to(offset)
                    finally:  # also where the disk failed after the log has published it
                        end = self.reader.tail.end_offset
                        self.commit.clip(end)
                        # Under the lock: this broker may be elected next, and append other records there.
                        lost = self.purgatory.past(end)
        finally:
            self._lower_high_watermark()
            for operation in lost:
                operation.fail(_truncated(self.name))
            self.commit.answer()
            self.listener.changed(rewritten=True)

    def truncate_fully_and_start_at(self, offset: int, leader_epoch: int | None = None) -> None:
        """Forget every record; the log goes on at `offset`, which is its start and the high watermark.

        See `Log.truncate_fully_and_start_at`. What waits fails with NotLeaderError, even if the disk fails. REQUIRES: as `truncate_to`.
        """
        waiting: list[DelayedOperation[Any]] = []
        try:
            with inside(), self.maintenance.lock:
                self.maintenance.finish_compaction()
                with inside(), self.lock, self.commit.syncing:
                    self.check_open()
                    self._require_following(leader_epoch)
                    # Before the high watermark is past the records that they wait for.
                    waiting = self.purgatory.give_up()
                    self._leader_high_watermark = offset  # the leader deletes nothing past its own
                    try:
                        self.log.truncate_fully_and_start_at(offset)
                    finally:  # as in `truncate_to`
                        if self.reader.tail[:2] == (offset, 0):
                            self.commit.restart(offset)
        finally:
            for operation in waiting:
                operation.fail(_truncated(self.name))
            self._lower_high_watermark()
            self.commit.answer()  # which raises the high watermark, if it is below
            self.listener.changed(rewritten=True)

    def _lower_high_watermark(self) -> None:
        with inside(), self._advancing:
            end = self.high_watermark = min(self.high_watermark, self.reader.tail.end_offset)
        self._announced = min(self._announced, end)

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
