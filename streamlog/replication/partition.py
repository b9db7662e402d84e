"""A partition as one broker has it, its leader or a follower: a log, the lock around its changes, group commit, maintenance.

What only a follower does is in `follower`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar
from weakref import ref

from ..config import TopicConfig
from ..errors import CorruptRecordError, NotLeaderError, StorageError, StreamlogError
from ..records.single import SequencedFields
from ..runtime.api import Completion, Lock
from ..runtime.threads import inside
from ..runtime.values import refuse_to_copy
from ..storage.leader_epochs import EpochEnd
from ..storage.log import AppendRequest, Log
from ..storage.reader import LogReader
from ..storage.tail import ANY_EPOCH, EMPTY, FetchData, LogSnapshot
from ..storage.transactions import TransactionSnapshot
from ..types import TopicPartition
from . import election, errors
from .commit import GroupCommit
from .deletions import Deletions
from .listeners import LogListener, NullListener, Waiters
from .maintenance import Maintenance
from .purgatory import DelayedOperation, Purgatory
from .repairs import Peer, fetch_elsewhere
from .replica_set import ALONE, NO_LEADER, PartitionRegistration, ReplicaFetch, ReplicaSet
from .transactions import TransactionMarker, append_marker, read_transactions, transactions_elsewhere
from .turns import FollowerTurn, FollowerTurns
from .validation import RecordValidator

T = TypeVar("T")


class Partition:
    """One replica of a partition: the leader's, where `registration` says so, or a follower's. Thread-safe.

    An append publishes the new end, releases the lock, and then calls the waiters: no callback runs under a lock.

    `high_watermark` is the end of what readers may see, and of what counts as acknowledged. It goes back only where a follower
    truncates its log. Where this is the only replica, it follows the end of the log; with `durable`, the syncs. A leader raises
    it when its followers fetch, and a follower learns it with what it fetches. The waiters follow it. `followers`, by broker,
    are those that fetch from here: each append calls them, or the sender takes their turns (`turns.py`).

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
        self.refusals = log.refusals
        self.lock = new_lock()
        self.broker_id = broker_id
        self.registration = ALONE
        self._followed = ALONE  # the registration of which `follow` has done all
        self.leader_epoch = 0
        self.replicas: ReplicaSet | None = None
        """What a leader with followers knows of them."""
        self.leader_high_watermark = 0
        self._successor: ref[Partition] | None = None  # weak: else each former leader would keep all that came after it
        self._at_once = not durable  # what was appended is acknowledged, and may be read
        self.waiters = Waiters()
        self.followers: dict[int, FollowerTurn] = {}
        self._turns: FollowerTurns | None = None  # of a leader with followers whose records need no sync
        self.on_isr_change: Callable[[Partition], object] = lambda partition: None
        """Called, under no lock, when the in-sync set may grow, or another member is to lead; see `wanted`."""
        self.unclear_epoch = -1
        """The last epoch in which this broker leads and cannot tell a follower where their logs part, for its own is damaged there."""
        self.on_failure: Callable[[StreamlogError], object] = lambda error: None
        """Called when a sync fails, of a follower or of a leader that has followers: its broker is to be replaced."""
        self.closed: StreamlogError | None = None
        self.is_fenced = False  # its disk does not answer: see `fencing`
        self.on_work: Callable[[Partition], None] | None = None
        self.listener: LogListener = NullListener()
        self.hides: StreamlogError | None = None
        self.durable = durable
        synced_end = log.durability.recovery_point if synced_end is None else synced_end
        self.commit = GroupCommit(log, new_lock, synced_end, self)
        self.high_watermark = synced_end if durable else log.tail.end_offset
        # The lock under which it is raised. Without `durable` an append does so: it holds the partition's lock anyway.
        self.advancing = new_lock() if durable else self.lock
        self._announced = self.high_watermark  # to the waiters and the listener, where an append does not
        self.purgatory = Purgatory(new_lock())
        self.deletions = Deletions(self, new_lock())
        self.maintenance = Maintenance(self, new_lock())
        self.validator = RecordValidator(name, log.seed, log.config)

    @property
    def is_leader(self) -> bool:
        return self.refusals.not_leader is None

    @property
    def is_faulty(self) -> bool:
        """Whether appends are refused for another reason than that this broker is not the leader."""
        return self.refusals.first is not self.refusals.not_leader or not self.refusals.knows_end

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
        self.wake_followers()
        self.maybe_advance_high_watermark()
        self.deletions.answer()
        if self.is_leader and not was_leader and self.on_work is not None:  # retention is the leader's
            self.on_work(self)
        self._followed = registration

    def _take_role(self, registration: PartitionRegistration, now_ms: int) -> None:
        """REQUIRES: the lock. In between, this broker appends nothing as the leader in an epoch that it does not lead."""
        epoch = registration.leader_epoch
        is_leader, alone = registration.leader == self.broker_id, registration.replicas == (self.broker_id,)
        if not is_leader:
            self.refusals.set_not_leader(errors.not_leader(self.name, registration.leader, epoch))
            self.leader_high_watermark = self.high_watermark
        self.registration = registration
        self.leader_epoch = epoch
        self._at_once = is_leader and alone and not self.durable
        if not is_leader or alone:
            self.replicas = None
        elif self.replicas is None or self.replicas.registration.leader_epoch != epoch:
            self.deletions.wanted = 0
            self.replicas = ReplicaSet(self.broker_id, registration, self.log.tail.end_offset, now_ms)
        else:
            self.replicas.update(registration, now_ms)
        self._turns = None if self.replicas is None or self.durable else FollowerTurns(self)
        if is_leader:
            self.log.assign_epoch(epoch, self.log.tail.end_offset)
            self.refusals.set_not_leader(None)

    # -- damage --------------------------------------------------------------------------------------

    def note_damage(self, offset: int) -> None:
        """A batch with `offset` does not verify: have it repaired, if another replica has it. Takes no lock of the partition."""
        self.maintenance.repairs.note(offset)
        if self.on_work is not None:
            self.on_work(self)

    def fetch_elsewhere(self, offset: int, max_bytes: int, end_offset: int) -> FetchData:
        """What a read at `offset`, which failed or met damage, gets from another replica, verified; EMPTY if none has it."""
        self.note_damage(offset)
        return fetch_elsewhere(self.maintenance.repairs.others(), offset, max_bytes, end_offset)

    def fetch_undamaged(self, offset: int, max_bytes: int, end_offset: int) -> FetchData:
        """As `fetch_elsewhere`, but from this replica if it is whole now.

        A reader that reads ahead meets the damage after it was repaired, and where the partition has fewer replicas since, no
        other one has the records.
        """
        self.note_damage(offset)
        peers = (Peer(self, end_offset), *self.maintenance.repairs.others())
        return fetch_elsewhere(peers, offset, max_bytes, end_offset)

    def logs_elsewhere(self, end_offset: int) -> list[LogReader]:
        """Those of other replicas that are known to have the same records up to `end_offset`."""
        return [peer.replica.reader for peer in self.maintenance.repairs.others() if peer.end >= end_offset]

    def repaired(self) -> None:
        """See `Maintained`."""
        self.wake_followers()

    def configure(self, config: TopicConfig) -> None:
        with inside(), self.lock:
            self.log.configure(config)
            self.validator = RecordValidator(self.name, self.log.seed, config)

    # -- the high watermark --------------------------------------------------------------------------

    def _in_sync_end(self) -> int:
        """The end of what every in-sync replica has; on its device, with `durable`: then the role may change in the middle."""
        if self.refusals.not_leader is None:
            own, replicas = self.commit.synced_end if self.durable else self.reader.tail.end_offset, self.replicas
            if replicas is not None:
                return replicas.in_sync_end(own)
            if len(self.registration.replicas) == 1:  # else it became a follower just now, or the leader
                return own
        return min(self.leader_high_watermark, self.reader.tail.end_offset)

    def maybe_advance_high_watermark(self) -> None:
        """Raise the high watermark to what every in-sync replica has, and answer and wake what waits for it.

        Called after an append, a sync, and a fetch of a follower; and again after an interrupt. REQUIRES: no lock.
        """
        end = self._in_sync_end()
        is_behind = self.high_watermark < end
        if is_behind:
            with inside(), self.advancing:
                end = self._in_sync_end()  # the log may have been truncated since
                if self.high_watermark < end:
                    self.high_watermark = end
        high_watermark = self.high_watermark
        self.purgatory.complete_through(high_watermark)
        if is_behind or (not self._at_once and self._announced < high_watermark):
            if self.waiters.callbacks:
                self.waiters.wake()
            if self.listener.quiet:
                self.listener.appended()
            self._announced = high_watermark

    def await_high_watermark(
        self, end: int, value: T, deadline_ms: int | None = None, late: StreamlogError | None = None,
        turns: FollowerTurns | None = None,
    ) -> Completion[T]:  # fmt: skip
        """Done with `value` once readers may see everything before `end`. REQUIRES: it is in the log.

        With a deadline (ms) it is answered then in any case: with `late`, if that is given. `turns`: the followers were not
        called, and the thread that waits takes their turns.
        """
        if end <= self.high_watermark or self._at_once:
            return Completion.of(value)
        operation = DelayedOperation(value, self.commit if self.durable else turns, late)
        self._await(end, operation, deadline_ms)
        return operation

    def _await(self, end: int, operation: DelayedOperation[T], deadline_ms: int | None = None) -> None:
        self.purgatory.add(end, operation, deadline_ms)
        if self.durable:
            self.commit.request(end)
        if end <= self.high_watermark or self.commit.refusal is not None:  # since the caller looked
            self.commit.answer()
        if self._successor is not None:
            successor = self._successor()
            if successor is not None:
                self.hand_over(successor)
            else:  # it was stopped too
                self.purgatory.fail(self.refusals.not_leader or errors.truncated(self.name))

    def acknowledge(self, write: AppendRequest, deadline_ms: int | None = None) -> Completion[int]:
        """A Completion of the base offset of `write`, done when readers may see all of it. REQUIRES: it is in the log. With a
        deadline (ms of real time) it fails with RequestTimedOutError then; the records stay in the log."""
        base_offset = write.base_offset
        if self._at_once and write.leader_epoch in (ANY_EPOCH, self.leader_epoch):
            return Completion.of(base_offset)
        end = base_offset + sum([batch.last_offset_delta + 1 for batch in write.batches])
        late = None if deadline_ms is None else errors.late(self.name, base_offset, end)
        done = self.await_high_watermark(end, base_offset, deadline_ms, late)
        return done if self._has(end - 1, write.leader_epoch) else Completion.failed(errors.truncated(self.name))

    def _has(self, offset: int, leader_epoch: int) -> bool:
        """Whether the record that was appended at `offset` in this epoch is there still: only another leader removes it.

        Called after something waits for it: what is removed later fails that.
        """
        return leader_epoch in (ANY_EPOCH, self.leader_epoch) or self.epoch_of(offset) == leader_epoch

    def acknowledge_alone(self, write: AppendRequest, done: Completion[int]) -> Completion[int]:
        """For acks=1: `done`, which is what `acknowledge` gave, done as soon as this leader has what it promises by itself.

        If its sync fails, `done` waits for the next leader, as with acks="all": see `sync_failed`.
        """
        base_offset = write.base_offset
        if not self.durable:
            return Completion.of(base_offset)
        end = base_offset + sum([batch.last_offset_delta + 1 for batch in write.batches])

        def synced(alone: Completion[int]) -> None:
            if alone.error() is None:
                done.complete(base_offset)

        self.commit.await_sync(end, base_offset).on_done(synced)
        return done

    def synced(self) -> None:
        """See `SyncListener`."""
        self.maybe_advance_high_watermark()

    def sync_failed(self, error: StreamlogError) -> None:
        """See `SyncListener`. With followers in sync, what waits goes on waiting for one of them: see `hand_over`."""
        may_go_on = self.has_successors and (self.closed is None or isinstance(self.closed, NotLeaderError))
        if may_go_on or (not self.is_leader and self.closed is None):
            self.on_failure(error)
        if not may_go_on:
            self.purgatory.fail(error)

    @property
    def end_offset(self) -> int:
        return self.reader.tail.end_offset

    @property
    def is_replicated(self) -> bool:
        """Whether every member of the in-sync set has everything."""
        return self.high_watermark == self.end_offset

    @property
    def has_successors(self) -> bool:
        """Whether another member of the in-sync set could lead."""
        return self.replicas is not None and len(self.registration.isr) > 1

    def doubt_high_watermark(self) -> None:
        """After opening a replica of several: what is committed is learned from the others. REQUIRES: it waits for nothing."""
        with inside(), self.advancing:
            self.high_watermark = self._announced = self.reader.tail.start_offset
            self.leader_high_watermark = self.high_watermark

    def learn_high_watermark(self, committed: int) -> None:
        """Take over the last leader's high watermark: what was committed is in this log too, as a member of the in-sync set.

        A new leader of Kafka's has its readers come back until it knows by itself (KIP-207).
        """
        with inside(), self.advancing:
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

    def append(self, write: AppendRequest, now_ms: int, check: Callable[[], object] | None = None) -> int:
        """Append as the leader; the base offset. Raises what `Log.append` raises, and `check`, which is called under the lock."""
        with inside(), self.lock:
            if self.closed is not None:
                raise self.closed.copy()
            if check is not None:
                check()
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
            self.note_work()
        return base_offset

    @property
    def last_stable_offset(self) -> int:
        """The end of what readers of committed records may see. REQUIRES, raises: as `read_transactions`."""
        end = self.high_watermark  # first: what begins meanwhile lies past it
        known = self.read_transactions()
        return end if known is None else known.last_stable_offset(end, self.reader.tail.start_offset)

    def append_marker(self, marker: TransactionMarker, now_ms: int, deadline_ms: int | None = None) -> Completion[int]:
        """See `transactions.append_marker`."""
        return append_marker(self, marker, now_ms, deadline_ms)

    def read_transactions(self) -> TransactionSnapshot | None:
        """See `transactions.read_transactions`. Where the files of this replica cannot be read, another one says it."""
        try:
            with errors.fenced_is_closed(self):
                return read_transactions(self)
        except StorageError:
            if self.closed is not None:
                raise self.closed.copy() from None
            with contextlib.suppress(LookupError):
                return transactions_elsewhere(self.maintenance.repairs.others(), self.high_watermark)
            raise

    def _take_epoch(self, write: AppendRequest) -> None:
        """Note in which epoch `write` is appended. Raises FencedLeaderEpochError if it is to be in another. REQUIRES: the lock."""
        epoch = self.leader_epoch
        if write.leader_epoch not in (ANY_EPOCH, epoch):
            raise errors.not_after(self.name, epoch, write.leader_epoch)
        write.leader_epoch = epoch

    # -- replicas ------------------------------------------------------------------------------------

    def require_in_sync(self) -> None:
        """Before an append with acks="all". Raises NotEnoughReplicasError if the in-sync set is smaller than the topic asks."""
        least, members = self.log.config.min_insync_replicas, len(self.registration.isr)
        if members < least:
            raise errors.not_enough_replicas(self.name, self.registration.isr, least)

    def fetch_as_replica(
        self, broker: int, broker_epoch: int, offset: int, last_epoch: int | None, leader_epoch: int, max_bytes: int,
        now_ms: int, after: FetchData = EMPTY, start_offset: int = -1,
    ) -> ReplicaFetch:  # fmt: skip
        """What follows `offset` in this leader's log; and the follower `broker` has everything before that, it says so by this.
        Its log starts at `start_offset`.

        `last_epoch` is that of its last record; if the logs part, the answer says where, and has no batches. Raises
        NotLeaderError, FencedLeaderEpochError or UnknownLeaderEpochError if this broker does not lead in `leader_epoch`,
        OffsetOutOfRangeError if `offset` is not in its log. `now_ms` is real time. `after`: see `LogReader.fetch`; it is of
        this leader in this epoch. REQUIRES: no lock.
        """
        self._require_leader_in(leader_epoch)
        start = self.deletions.start()  # first: it is not past the high watermark
        high_watermark, tail = self.high_watermark, self.reader.tail
        # A follower whose last record is of this very epoch has it from here, and a leader never truncates its log.
        if last_epoch is not None and (last_epoch != leader_epoch or offset > tail.end_offset):
            diverging = self.diverging_epoch(last_epoch, offset)
            if diverging is not None:
                return ReplicaFetch(EMPTY, high_watermark, start, leader_epoch, diverging)
        read = EMPTY
        if offset != tail.end_offset:
            read = self.reader.fetch(offset, max_bytes, tail.end_offset, after)
        with inside(), self.lock:
            self._require_leader_in(leader_epoch)
            replicas = self.replicas
            if replicas is not None:
                replicas.fetched(broker, offset, tail.end_offset, now_ms, broker_epoch, start_offset)
        self.maybe_advance_high_watermark()
        self.deletions.answer()
        if replicas is not None and replicas.may_join(self.high_watermark, start=start):
            self.on_isr_change(self)
        return ReplicaFetch(read, self.high_watermark, start, leader_epoch)

    def read_as_leader(self, offset: int, leader_epoch: int, max_bytes: int, after: FetchData) -> FetchData:
        """The read of `fetch_as_replica` for a follower that goes on where it read last, in the same epoch. Raises the same."""
        read = self.reader.fetch(offset, max_bytes, self.reader.tail.end_offset, after)
        self._require_leader_in(leader_epoch)  # after the read: it was the leader's log then
        return read

    def note_followers(self, ends: Sequence[tuple[tuple[int, int], int]], leader_epoch: int, now_ms: int) -> None:
        """Brokers, each by its id and epoch, have everything before an offset. Does nothing if this one does not lead any more.

        The caller calls `maybe_advance_high_watermark`. REQUIRES: no lock.
        """
        with inside(), self.lock:
            if self.replicas is not None and leader_epoch == self.leader_epoch:
                self.replicas.all_fetched(ends, self.reader.tail.end_offset, now_ms)

    def _require_leader_in(self, leader_epoch: int) -> None:
        if self.closed is not None:
            raise self.closed.copy()
        if leader_epoch != self.leader_epoch:
            raise errors.other_epoch(self.name, self.broker_id, leader_epoch, self.leader_epoch)
        if self.refusals.not_leader is not None:
            raise self.refusals.not_leader.copy()

    def wanted(self, now_ms: int, lag_ms: int, epochs: Mapping[int, int]) -> PartitionRegistration | None:
        """What this leader asks the controller for: see `wanted_isr`; or that another member leads, and it leaves the in-sync set,
        because the others have what is damaged here.
        """
        before = self.registration
        if self.unclear_epoch == before.leader_epoch:
            after = election.elect(before, epochs.keys() - {self.broker_id})
            if after.leader != NO_LEADER:
                return after
        isr = self.wanted_isr(now_ms, lag_ms, epochs)
        return None if isr is None else before._replace(isr=isr, partition_epoch=before.partition_epoch + 1)

    def wanted_isr(self, now_ms: int, lag_ms: int, epochs: Mapping[int, int]) -> tuple[int, ...] | None:
        """The in-sync set that this leader asks the controller for; None if that is the set there is.

        Members that lag for longer than `lag_ms` (real time) leave it, followers that have caught up join it, and count from
        now on. `epochs`: those of the brokers that are alive; see `ReplicaSet.may_join`.
        """
        with inside(), self.lock:
            replicas = self.replicas
            if replicas is None:
                return None
            own_end = self.commit.synced_end if self.durable else self.reader.tail.end_offset
            start, since_ms = self.deletions.start(), now_ms - lag_ms
            replicas.begin_joining(replicas.may_join(self.high_watermark, epochs, own_end, since_ms, start=start))
            wanted = replicas.wanted(replicas.lagging(own_end, now_ms, lag_ms))
            return None if wanted == replicas.registration.isr else wanted

    def await_successor(self, deadline_ms: int, late: StreamlogError) -> None:
        """This broker is gone, and no other leads now: what waits here waits for `hand_over`, for it is in this log, which may come
        back. What has no deadline gets this one (ms of real time), and fails with `late` then.
        """
        if waiting := self.purgatory.waiting():
            self.epoch_of(waiting[0][0] - 1)  # reads the epochs, for `hand_over`, while the files are open
            self.purgatory.bound(deadline_ms, late)

    def hand_over(self, successor: Partition) -> None:
        """This broker does not lead any more: what waits here for the high watermark waits at `successor`, the new leader.

        Where the new leader's log has the same record last, it has all that is waited for: records of the same offset and leader
        epoch are the same, and so is everything before them. What it does not have fails with NotLeaderError: it is in no log
        that counts, so it can be sent again. It may be called again after an interrupt. A broker that goes on as a follower
        needs it not: its log gets the new leader's records and high watermark, or is truncated. One that is gone does.
        """
        self._successor = ref(successor)  # first: what comes from now on finds it
        waiting = self.purgatory.waiting()
        for end, operation in waiting:
            if successor.epoch_of(end - 1) == self.epoch_of(end - 1):
                successor._await(end, operation)
            else:
                operation.fail((self.refusals.not_leader or errors.truncated(self.name)).copy())
        self.purgatory.forget({operation for _, operation in waiting})

    def epoch_of(self, offset: int) -> int | None:
        """The leader epoch in which the record at `offset` was appended; None if the log does not reach so far."""
        with inside(), self.lock:
            tail, replicas = self.reader.tail, self.replicas
            if replicas is not None and replicas.epoch_start <= offset < tail.end_offset:
                return self.leader_epoch  # known without the disk, which may be what has failed
            is_there = offset < tail.end_offset and not self.is_fenced
            return self.log.leader_epochs.written(tail).epoch_of(offset) if is_there else None

    def last_epoch(self) -> int | None:
        """The leader epoch of the last record; None if there is none."""
        last = self.log.leader_epochs.last
        if last is not None:
            return last
        with inside(), self.lock:
            return self.log.leader_epochs.latest(self.reader.tail)

    def follow_high_watermark(self, high_watermark: int) -> None:
        """Take over the leader's high watermark, as far as this log goes. REQUIRES: no lock."""
        if high_watermark != self.leader_high_watermark:
            self.leader_high_watermark = high_watermark
            self.maybe_advance_high_watermark()

    def append_one(
        self, key: bytes | None, value: bytes, timestamp: int, now_ms: int, sequenced: SequencedFields | None = None
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
            self.note_work()
        if self._at_once:
            if self.waiters.callbacks:
                self.waiters.wake()
            if self.listener.quiet:
                self.listener.appended()
        else:
            self._appended_later()
        return offset

    def append_one_later(
        self, key: bytes | None, value: bytes, timestamp: int, now_ms: int, sequenced: SequencedFields | None = None
    ) -> Completion[int]:
        """`append_one`; a Completion of the offset, done when readers may see the record.

        The caller drives its `work`, if it has one, or calls `soon` of it: no other thread may know of the record.
        """
        if self._at_once:
            return Completion.of(self.append_one(key, value, timestamp, now_ms, sequenced))
        turns = self._turns if len(self.registration.isr) > 1 else None
        try:
            with self.lock:
                if self.closed is not None:
                    raise self.closed.copy()
                epoch = self.leader_epoch
                offset = self.log.append_one(key, value, timestamp, epoch, now_ms, sequenced)
            if self.log.began_segment:
                self.note_work()
            if turns is None:
                self._appended_later()
            done = self.await_high_watermark(offset + 1, offset, turns=turns)
            return done if self._has(offset, epoch) else Completion.failed(errors.truncated(self.name))
        except BaseException:  # the record may be in the log, and the caller drives nothing
            self.wake_followers()
            raise

    def wake_followers(self) -> None:
        """Have the threads of the followers look for what was appended."""
        for follower in list(self.followers.values()):
            follower()

    def _appended_later(self) -> None:
        """What was appended is not acknowledged at once: wake the followers. A leader alone in sync waits for none of them."""
        if self.followers:
            self.wake_followers()
        if not self.durable and len(self.registration.isr) == 1:
            self.maybe_advance_high_watermark()

    def note_work(self) -> None:
        """A segment began to age, and the one before it may have been sealed: call `on_work`."""
        self.log.began_segment = False  # first: another thread's append may set it again
        if self.on_work is not None:
            self.on_work(self)

    def settle(self, write: AppendRequest) -> None:
        """Find out whether an interrupted `append` took place; see `Log.resolve_append`."""
        with inside(), self.lock:
            if self.closed is None:
                self.log.resolve_append(write)
            elif write.base_offset >= self.reader.tail.end_offset:  # its broker was stopped before it was in the log
                write.base_offset = -1
        self.wake_followers()
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
            self.refusals.block(error)

    def unblock(self, error: StreamlogError) -> None:
        """Undo the `block` with this error. Other blocks may be left."""
        with inside(), self.lock:
            self.refusals.unblock(error)

    def delete_records(self, before: int, deadline_ms: int | None = None) -> Completion[int]:
        """Raise the log start to `before`; see `Deletions.wait`. Raises OffsetOutOfRangeError past the end, NotLeaderError."""
        if self.refusals.not_leader is not None:
            raise self.refusals.not_leader.copy()
        end = self.high_watermark
        if not 0 <= before <= end:
            raise self.reader.out_of_range(before, end)
        return self.deletions.wait(before, deadline_ms)

    def delete_before(self, offset: int) -> int:
        """Raise the log start of this replica, whatever others have, to `offset` or the high watermark; the new start."""
        try:
            with inside(), self.maintenance.lock:
                self.maintenance.delete_before(min(offset, self.high_watermark))
                return self.log.tail.start_offset
        finally:
            self.commit.answer()

    def lower_high_watermark(self) -> None:
        with inside(), self.advancing:
            end = self.high_watermark = min(self.high_watermark, self.reader.tail.end_offset)
        self._announced = min(self._announced, end)

    def epoch_end(self, leader_epoch: int) -> EpochEnd | None:
        """See `Log.epoch_end_offset`."""
        with errors.fenced_is_closed(self):
            return self._epoch_end(leader_epoch)

    def _epoch_end(self, leader_epoch: int) -> EpochEnd | None:
        with inside(), self.lock:
            return self.log.epoch_end_offset(leader_epoch)

    def diverging_epoch(self, last_fetched_epoch: int, fetch_offset: int) -> EpochEnd | None:
        """See `Log.diverging_epoch`."""
        try:
            with inside(), self.lock:
                return self.log.diverging_epoch(last_fetched_epoch, fetch_offset)
        except CorruptRecordError:
            if self.unclear_epoch != self.leader_epoch:  # else it was asked for another leader, and there may be none
                self.unclear_epoch = self.leader_epoch
                self.on_isr_change(self)
            raise

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
        self.deletions.answer()

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

    def fail_waiting(self, error: StreamlogError) -> None:
        """The log is closed: fail what waits for followers, which fetch no more, and all that would.

        Takes no lock that is held around a call to the disk, which may not come back.
        """
        self.closed = self.closed or error
        self.commit.refuse(self.commit.refusal or error)
        self.purgatory.fail(error)

    def remove(self, error: StreamlogError) -> None:
        """Shut, and close the files without a sync: the partition was deleted."""
        self.shut(error)
        with inside(), self.maintenance.lock, self.lock:
            self.maintenance.end_compaction()
            self.log.release()
        self.commit.refuse(error)
