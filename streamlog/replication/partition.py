"""A partition: a log, the lock that guards it, and the callbacks of those who wait for its end to move."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from ..config import TopicConfig
from ..errors import ClosedError, PoisonedLogError, StreamlogError, UnknownTopicOrPartitionError, describe
from ..runtime.api import Completion, Lock
from ..runtime.threads import inside
from ..runtime.values import refuse_to_copy
from ..storage import compaction
from ..storage.log import AppendRequest, Log
from ..storage.retention import Segments, checked, policy_of
from ..storage.segment import Segment
from ..storage.tail import LogSnapshot
from ..types import Policy, TopicPartition
from .commit import GroupCommit
from .listeners import LogListener, NullListener
from .waiters import Waiters

logger = logging.getLogger("streamlog.replication")

# How often a policy of the user's own is asked: nothing tells when its answer changes.
CUSTOM_POLICY_INTERVAL_MS = 300_000
# How soon after a failure (a full disk, say) maintenance tries again.
RETRY_MS = 15_000


class Partition(Waiters):
    """One partition that this broker leads. Thread-safe.

    An append publishes the new end, leaves the lock, and only then wakes who waits: nobody is woken
    under a lock. With `durable` nobody sees a record before it is on the device: the high watermark follows
    the syncs, and so do the wake-ups.
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
        super().__init__()
        self.name = name
        self.topic_id = topic_id
        self.log = log
        self.lock = new_lock()
        self.maintenance = new_lock()
        self.broker_id = broker_id
        self.leader_epoch = 0
        self.custom_policy: Policy | None = None
        self.closed: StreamlogError | None = None
        self.on_work: Callable[[Partition], None] | None = None
        self.listener: LogListener = NullListener()
        self._policy_failure = ""
        self._leaving = False
        self.hides: StreamlogError | None = None
        self._blocks: list[StreamlogError] = []
        self._before_blocks: tuple[StreamlogError | None, Callable[[], None] | None] = None, None
        self.durable = durable
        synced_end = log.recovery_point if synced_end is None else synced_end
        self.commit = GroupCommit(log, new_lock, synced_end, self._synced)

    def configure(self, config: TopicConfig) -> None:
        with inside(), self.lock:
            self.log.configure(config)

    @property
    def high_watermark(self) -> int:
        """What readers may see: with one replica everything that was published, or with `durable` synced."""
        return self.commit.synced_end if self.durable else self.log.tail.end_offset

    def hide_what_may_be_lost(self) -> None:
        """After opening: where records that were acknowledged may lie past the high watermark, tell who reads there why.

        Of a log whose sync failed nothing is readable that is not known to be on the device. Silence would be taken
        for its end, and a group that is further would be set back.
        """
        log = self.log
        if not self.durable:
            log.acknowledged_is_synced = False  # all can be read, and what is sent from now on counts at once
        elif log.poison is not None and not log.acknowledged_is_synced and self.high_watermark < log.tail.end_offset:
            self.hides = log.poison

    @property
    def knows_its_end(self) -> bool:
        """Whether the next record's offset is known, though maybe the files are still to be cut there."""
        return self.log.fault is None or self.log.mend is not None

    @property
    def next_horizon(self) -> int | None:
        """When (ms) there are tombstones to drop, or None."""
        return self.log.next_horizon

    def append(self, write: AppendRequest, now_ms: int) -> int:
        """Append as the leader; the base offset. Raises what `Log.append` raises."""
        before = self.log.tail
        with self.lock:
            if self.closed is not None:
                raise self.closed.copy()
            base_offset = self.log.append(write, self.leader_epoch, now_ms)
        if self.waiters and not self.durable:
            self.wake()
        if self.listener.quiet and not self.durable:
            self.listener.appended()
        self._note_work(before)
        return base_offset

    def append_one(self, key: bytes | None, value: bytes, timestamp: int, now_ms: int) -> int:
        """`append` for a single plain record; see `Log.append_one`."""
        before = self.log.tail
        with self.lock:
            if self.closed is not None:
                raise self.closed.copy()
            offset = self.log.append_one(key, value, timestamp, self.leader_epoch, now_ms)
        if before.first_append < 0 or before.segments is not self.log.tail.segments:
            self._note_work(before)
        if not self.durable:
            if self.waiters:
                self.wake()
            if self.listener.quiet:
                self.listener.appended()
        return offset

    def _note_work(self, before: LogSnapshot) -> None:
        """Tell that a segment began to age, or was sealed."""
        if (before.first_append < 0 or before.segments is not self.log.tail.segments) and self.on_work is not None:
            self.on_work(self)

    def acknowledge(self, write: AppendRequest) -> Completion[int]:
        """Done with the base offset of `write`, which is in the log, when readers may see it all."""
        if not self.durable:
            return Completion.of(write.base_offset)
        records = sum([batch.last_offset_delta + 1 for batch in write.batches])
        return self.commit.await_sync(write.base_offset + records, write.base_offset)

    def _synced(self) -> None:
        """More is on the device."""
        if self.durable:
            self.wake()
            if self.listener.quiet:
                self.listener.appended()

    def settle(self, write: AppendRequest) -> None:
        """Find out what became of an `append` that was interrupted; see `Log.settle`."""
        with inside(), self.lock:
            if self.closed is None:
                self.log.settle(write)
        self.wake()
        self.listener.appended()

    def take_back(self, before: LogSnapshot) -> bool:
        """Have what was appended since `before` out of the log again, on the device too; see `Log.take_back`.

        False, with nothing done, if it is known to be on the device: another thread's sync came before, and readers
        may have seen it. REQUIRES: a durable partition.
        """
        try:
            with inside(), self.maintenance, self.lock, self.commit.syncing:
                if self.commit.synced_end > before.end_offset:
                    return False
                self.log.take_back(before)
                self.commit.clip(before.end_offset)
        finally:
            self.commit.answer()
        self.listener.changed(rewritten=True)
        return True

    def block(self, error: StreamlogError) -> None:
        """Refuse appends with `error` until `unblock`; one whose sync failed refuses them anyway. Readers read on, and what
        is in the log is synced. REQUIRES: no PoisonedLogError, which would be taken for a failed sync of this log.
        """
        assert not isinstance(error, PoisonedLogError)
        with inside(), self.lock:
            log = self.log
            if log.poison is None:
                if not self._blocks:
                    self._before_blocks = log.fault, log.mend
                self._blocks.append(error)
                log.fault, log.mend = error, None

    def unblock(self, error: StreamlogError) -> None:
        """Take a `block` with this error back; others may be left, and a sync may have failed meanwhile."""
        with inside(), self.lock:
            if error not in self._blocks:
                return
            in_force = self.log.fault is self._blocks[-1]
            self._blocks.remove(error)
            if in_force:
                self.log.fault, self.log.mend = (self._blocks[-1], None) if self._blocks else self._before_blocks

    # -- forgetting ----------------------------------------------------------------------------------

    def delete_records(self, before: int) -> int:
        """Raise the log start to `before`; the new start. Raises OffsetOutOfRangeError past the end."""
        with inside(), self.maintenance:
            compaction.settle(self.log, self._publish)
            end = self.high_watermark
            if not 0 <= before <= end:
                raise self.log.out_of_range(before, end)
            with inside(), self.lock:
                self._check_open()
                gone = self.log.advance_start(before)
            self.listener.changed()
            self.log.discard(gone)
            return self.log.tail.start_offset

    def roll(self, now_ms: int) -> None:
        with inside(), self.lock:
            self._check_open()
            self.log.roll(now_ms)
        self.listener.changed()

    def apply_retention(self, now_ms: int) -> int:
        """Delete the sealed segments that the topic's policy lets go; how many. Raises what a policy of the user's raises."""
        before = self._expired(now_ms)
        return self._delete_segments(before) if before else 0

    def _expired(self, now_ms: int) -> int:
        """The offset up to which the topic's policy lets sealed segments go; 0 for none."""
        policy = policy_of(self.log.config, self.custom_policy)
        if policy is None:
            return 0
        segments = self.log.tail.segments[:-1]
        while segments and segments[-1].next_offset > self.high_watermark:
            segments = segments[:-1]
        # A user's policy is asked under no lock. Compaction may merge segments meanwhile, so what counts of
        # the answer is the offset.
        count = checked(policy, Segments(segments), now_ms)
        return segments[count - 1].next_offset if count else 0

    def _delete_segments(self, before: int) -> int:
        with inside(), self.maintenance:
            compaction.settle(self.log, self._publish)
            with inside(), self.lock:
                self._check_open()
                gone = self.log.advance_start(max(self.log.tail.start_offset, before))
            self.listener.changed()
            self.log.discard(gone)
            logger.info("%s-%d: retention removed %d segments", *self.name, len(gone))
            return len(gone)

    def compact(self, now_ms: int) -> compaction.Result | None:
        """One compaction pass over what may be compacted now; None if there is nothing."""
        if not self.log.config.compacts:
            return None
        try:
            with inside(), self.maintenance:
                self._go_on()
                compaction.settle(self.log, self._publish)
                todo = compaction.plan(self.log, now_ms, self.high_watermark)
                if not todo.segments:
                    self.log.set_cleaned(self.log.cleaned_until, None)  # nothing is left that a horizon could be about
                    return None
                # What supersedes a record has to be on the device before the record goes: a power loss that took
                # the later one would leave the key with none.
                self.commit.sync_sealed()
                try:
                    return compaction.compact(self.log, todo, now_ms, self._publish, self._go_on)
                finally:
                    self.listener.changed(rewritten=True)
        finally:
            self.commit.answer()

    def stop_compacting(self) -> None:
        """Have a compaction that is under way given up, and begin no other: the log is to be closed."""
        self._leaving = True

    def _go_on(self) -> None:
        if self._leaving:
            raise ClosedError(
                "The log is being closed, so the compaction was given up. Nothing is lost; the next one goes on."
            )
        self._check_open()

    def _publish(self, old: Sequence[Segment], new: Segment) -> None:
        with inside(), self.lock:
            self.log.replace(old, new)
        self.listener.changed(rewritten=True)  # before the files change their names

    def maintain(self, now_ms: int) -> int | None:
        """Background work: roll what is old, apply retention, compact, sync what was sealed.

        Returns when to come again (ms), None if only an append can make it necessary.
        """
        failed = False
        try:
            self._roll_if_due(now_ms)
            expired = self._ask_policy(now_ms)
            failed = expired is None
            if expired:
                self._delete_segments(expired)
            if self._should_compact(now_ms):
                self.compact(now_ms)
            with inside(), self.maintenance:
                self._check_open()  # its state file may be closed, and the descriptor another file's
                self.commit.sync_sealed()
        except Exception as error:
            failed = True
            if isinstance(error, StreamlogError):
                if self._leaving or self.closed is not None or self.log.poison is not None:  # the next open starts anew
                    return None
                logger.error("%s-%d: maintenance failed and will be tried again: %s", *self.name, error)
            else:
                logger.exception("%s-%d: maintenance failed and will be tried again", *self.name)
        finally:
            self.commit.answer()
        return now_ms + RETRY_MS if failed else self._next_deadline(now_ms)

    def _ask_policy(self, now_ms: int) -> int | None:
        """`_expired`; None if the policy raises, which is no reason to leave the rest undone."""
        try:
            return self._expired(now_ms)
        except Exception as error:
            if describe(error) != self._policy_failure:  # once, not every time it is asked
                self._policy_failure = describe(error)
                logger.exception("%s-%d: a retention policy raised; nothing was deleted", *self.name)
            return None

    def _roll_if_due(self, now_ms: int) -> None:
        if self._ages() and self.log.tail.end_position and self.log.is_due(now_ms):
            with inside(), self.lock:
                self._check_open()
                if self.log.is_due(now_ms):
                    self.log.roll(now_ms)
            self.listener.changed()

    def _ages(self) -> bool:
        """Whether an idle active segment has to be sealed for anything to happen to it."""
        return self.log.config.compacts or policy_of(self.log.config, self.custom_policy) is not None

    def _should_compact(self, now_ms: int) -> bool:
        config = self.log.config
        if not config.compacts:
            return False
        horizon = self.log.next_horizon
        if horizon is not None and now_ms >= horizon:
            return True
        todo = compaction.plan(self.log, now_ms, self.high_watermark)
        return todo.dirty_bytes > 0 and todo.dirty_ratio >= config.min_cleanable_dirty_ratio

    def _next_deadline(self, now_ms: int) -> int | None:
        log, config = self.log, self.log.config
        tail = log.tail
        due: list[int] = []
        if self._ages() and tail.first_append >= 0 and log.fault is None:
            due.append(tail.first_append + config.effective_segment_ms)
        sealed = tail.segments[:-1]
        if policy_of(config, self.custom_policy) is not None and config.retention_ms > 0 and sealed:
            due.append(sealed[0].max_timestamp + config.retention_ms + 1)
        if self.custom_policy is not None and sealed:
            due.append(now_ms + CUSTOM_POLICY_INTERVAL_MS)
        if config.compacts:
            if log.next_horizon is not None:
                due.append(log.next_horizon)
            if config.min_compaction_lag_ms > 0:
                late = [s.max_timestamp for s in sealed if s.next_offset > log.cleaned_until]
                due += [t + config.min_compaction_lag_ms for t in late if t + config.min_compaction_lag_ms > now_ms]
        return max(min(due), now_ms + 1) if due else None

    def _check_open(self) -> None:
        if self.closed is not None:
            raise self.closed.copy()
        self.log.refuse_if_poisoned()

    # -- the end -------------------------------------------------------------------------------------

    def shut(self, error: StreamlogError) -> None:
        """Refuse everything from now on with `error`, and wake who waits."""
        with inside(), self.lock:
            self.closed = error
        self.wake()

    def close(self, error: StreamlogError) -> None:
        """Shut, sync, and close the log. Raises what the disk raises, after everything was let go."""
        self.shut(error)
        try:
            with inside(), self.maintenance, self.lock:
                try:
                    self.commit.close()
                finally:
                    self.log.release()
        finally:
            self.commit.answer()

    def remove(self, error: StreamlogError) -> None:
        """Shut, and let go of the log without a word to the disk: it was deleted."""
        self.shut(error)
        with inside(), self.maintenance, self.lock:
            self.log.release()
        self.commit.refuse(error)


def gone(name: TopicPartition) -> UnknownTopicOrPartitionError:
    return UnknownTopicOrPartitionError(
        f"There is no partition {name.partition} of topic {name.topic!r}; it was deleted, or never was. "
        f"log.topics() tells what there is.",
        topic=name.topic,
        partition=name.partition,
    )
