"""Background work on one partition: rolling segments, retention, compaction, repair, and syncing sealed segments.

It is done in steps, so that one thread can maintain many partitions and none waits for the compaction of another.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Generator, Sequence
from typing import Protocol

from ..errors import ClosedError, CorruptRecordError, StorageError, StreamlogError, describe
from ..runtime.api import Completion, Lock
from ..runtime.threads import inside
from ..runtime.values import refuse_to_copy
from ..storage import compaction
from ..storage.log import Log
from ..storage.replacement import publish_interrupted
from ..storage.retention import Segments, checked, policy_of
from ..storage.segment import Segment
from ..types import Policy, TopicPartition
from .commit import GroupCommit
from .deletions import Deletions
from .listeners import LogListener
from .repairs import Repairs

logger = logging.getLogger("streamlog.replication")

# How often a policy of the user's own is asked: nothing tells when its answer changes.
CUSTOM_POLICY_INTERVAL_MS = 300_000
# How long a segment is written to at least before it is sealed because all of its records have expired: what was written with
# old timestamps is readable that long, and does not take a file per batch. Kafka's log.retention.check.interval.ms.
ACTIVE_EXPIRY_INTERVAL_MS = 300_000
# How soon after a failure (a full disk, for example) maintenance tries again.
RETRY_MS = 15_000
# How soon it tries again while another thread has the maintenance lock, in a call such as `Topic.compact`.
_BUSY_MS = 100
# Errors that a disk goes on to give, so that what is due here would never be done: others take over from its broker.
_BROKEN = (errno.EIO, errno.EROFS, errno.ENXIO, errno.ENODEV)
# How many bytes of batches a step of a compaction reads: some milliseconds.
STEP_BYTES = 1 << 18


class Maintained(Protocol):
    """What maintenance needs of its partition."""

    name: TopicPartition
    log: Log
    lock: Lock
    commit: GroupCommit
    deletions: Deletions
    listener: LogListener
    closed: StreamlogError | None
    high_watermark: int

    @property
    def last_stable_offset(self) -> int: ...
    @property
    def is_leader(self) -> bool: ...
    def check_open(self) -> None:
        """Raise if the partition was closed or a sync of its log failed."""

    def repaired(self) -> None:
        """Damaged batches are there again. Called under no lock."""


class Maintenance:
    """The maintenance of one partition. Thread-safe.

    `lock` is held around everything that deletes or replaces segments; that never stops an append. It is taken before the
    partition's lock. A compaction that the scheduler runs gives it up between two steps; a call that deletes segments
    then ends the compaction, and the next one begins anew.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(self, partition: Maintained, lock: Lock) -> None:
        self._partition = partition
        self._log = partition.log
        self.lock = lock
        self.custom_policy: Policy | None = None
        """The topic's retention policy, where that is an object of the user's own."""
        self._stopped = False
        self.repairs = Repairs(partition.name, partition.log)
        self._pass: Generator[int, None, compaction.Result | None] | None = None
        self._handled = 0  # bytes, by the pass
        self._is_repaired = False  # whether a repair has ended since followers were last informed
        self._rewrote = False  # whether the pass has replaced files since readers were last informed
        self._damaged_path = ""  # the file of the batch that ended the last pass
        self.failures: dict[str, str] = {}
        """What fails now, by the work that fails: "retention policy", "compaction", "repair" or "maintenance"."""

    def step(self, now_ms: int) -> int | None:
        """Do what is due: roll an old segment, delete expired ones, sync what was sealed, a step of a repair or a compaction.

        Returns when to come again (ms): `now_ms` if one of these two is under way, None if only an append can make it necessary.
        It is a task of the scheduler: an error is logged, unless it is the last one again, and the work is tried again later.
        """
        partition = self._partition
        if self.lock.locked():
            return now_ms + _BUSY_MS
        policy_failed = False
        try:
            if self._pass is None:
                self._roll_if_due(now_ms)
                expired = self._ask_policy(now_ms)
                policy_failed = expired is None
                if expired:
                    partition.deletions.have_deleted(expired)
            self.delete_wanted()
            partition.deletions.answer()
            has_work = self._pass is not None or self.repairs.is_due(now_ms) or self._should_compact(now_ms)
            if has_work and not self._rewrite_some(now_ms):
                return now_ms
            with inside(), self.lock:
                partition.check_open()  # once it is closed, its state file's descriptor may be another file's
                partition.commit.sync_sealed()
            self.failures.pop("maintenance", None)
        except Exception as error:
            if isinstance(error, StreamlogError) and (
                self._stopped or partition.closed is not None or self._log.durability.poison is not None
            ):
                return None  # the next open starts anew
            if not (isinstance(error, CorruptRecordError) and self._is_damaged()):
                self._report("maintenance", error, "maintenance failed and will be tried again")
                if isinstance(error, StorageError) and error.errno in _BROKEN:
                    self.repairs.on_failure(error)
                return now_ms + RETRY_MS
        finally:
            self._answer()
        return now_ms + RETRY_MS if policy_failed else self._next_deadline(now_ms)

    def _answer(self) -> None:
        """What a step has done is announced. REQUIRES: no lock."""
        self._partition.commit.answer()
        if self._is_repaired:
            self._is_repaired = False
            self._partition.repaired()

    def _report(self, work: str, error: Exception, what: str) -> None:
        """Note that `work` failed; log it, with the traceback of an error that is not ours, unless it is the last one again."""
        text = describe(error)
        if self.failures.get(work) == text:
            return
        self.failures[work] = text
        if isinstance(error, StreamlogError):
            logger.error("%s-%d: %s: %s", *self._partition.name, what, error)
        else:
            logger.error("%s-%d: %s: %s", *self._partition.name, what, text, exc_info=error)

    def stop(self) -> None:
        """Give up a compaction that is under way, and start no other: the log is about to be closed."""
        self._stopped = True

    # -- rolling -------------------------------------------------------------------------------------

    def roll(self, now_ms: int) -> None:
        """Seal the active segment, unless it is empty."""
        with inside(), self._partition.lock:
            self._partition.check_open()
            self._log.roll(now_ms)
        self._partition.listener.changed()

    def _roll_if_due(self, now_ms: int) -> None:
        log = self._log
        if self._ages() and log.tail.end_position and self._should_roll(now_ms):
            with inside(), self._partition.lock:
                self._partition.check_open()
                if self._should_roll(now_ms):
                    log.roll(now_ms)
            self._partition.listener.changed()

    def _should_roll(self, now_ms: int) -> bool:
        """Whether the active segment has reached its age, or all of its records have expired, as in Kafka."""
        expiry_ms = self._active_expiry_ms()
        return self._log.is_due(now_ms) or (expiry_ms is not None and expiry_ms <= now_ms)

    def _active_expiry_ms(self) -> int | None:
        """When the records of the active segment have expired, if no more are appended; None if it is empty, or age does not count."""
        tail, retention_ms = self._log.tail, self._log.config.retention_ms
        if tail.first_append < 0 or retention_ms < 0 or self._policy() is None:
            return None
        newest_ms = tail.max_timestamp if tail.max_timestamp >= 0 else tail.first_append
        return max(newest_ms + retention_ms + 1, tail.first_append + ACTIVE_EXPIRY_INTERVAL_MS)

    def _ages(self) -> bool:
        """Whether an idle active segment has to be sealed for anything to happen to it."""
        return self._log.config.compacts or policy_of(self._log.config, self.custom_policy) is not None

    # -- retention -----------------------------------------------------------------------------------

    def apply_retention(self, now_ms: int, deadline_ms: int | None = None) -> Completion[int]:
        """Delete the sealed segments that have expired by the topic's policy; done, with the log start, as `Deletions.wait` is.

        Raises what a policy of the user's raises.
        """
        return self._partition.deletions.wait(self._expired(now_ms), deadline_ms)

    def _policy(self) -> Policy | None:
        """What says which segments have expired; None if nothing does, or another broker decides it."""
        return policy_of(self._log.config, self.custom_policy) if self._partition.is_leader else None

    def _expired(self, now_ms: int) -> int:
        """The offset up to which sealed segments have expired by the topic's policy; 0 if none has.

        Only the leader of a partition asks the policy. A follower follows the leader's log start: with a policy of its own, by
        its own clock and segments, it would delete records that the leader still has, and could not lead with them.
        """
        policy = self._policy()
        if policy is None:
            return 0
        segments = self._log.tail.segments[:-1]
        while segments and segments[-1].next_offset > self._partition.high_watermark:
            segments = segments[:-1]
        # A user's policy is asked under no lock. Compaction may merge segments meanwhile, so its answer is used
        # as an offset.
        count = checked(policy, Segments(segments), now_ms)
        return segments[count - 1].next_offset if count else 0

    def _ask_policy(self, now_ms: int) -> int | None:
        """`_expired`; None if the policy raises, which does not keep the other work from being done."""
        try:
            expired = self._expired(now_ms)
        except Exception as error:
            self._report("retention policy", error, "a retention policy raised; nothing was deleted")
            return None

        self.failures.pop("retention policy", None)
        return expired

    def delete_wanted(self) -> None:
        """As the leader: delete what every other in-sync replica has deleted before. `commit.answer` follows, under no lock."""
        partition = self._partition
        if partition.deletions.ready() <= self._log.tail.start_offset:
            return
        with inside(), self.lock:
            with inside(), partition.lock:  # no replica joins the in-sync set meanwhile
                ready = partition.deletions.ready()
            if ready > self._log.tail.start_offset:
                deleted = self.delete_before(ready)
                logger.info("%s-%d starts at %d now; %d segments were removed", *partition.name, ready, len(deleted))

    def delete_before(self, offset: int) -> Sequence[Segment]:
        """Raise the log start to `offset`, and delete the segments that end before it.

        REQUIRES: the maintenance lock; `commit.answer` follows, under no lock.
        """
        self.finish_compaction()
        self._partition.check_open()  # it cannot be closed meanwhile: that takes the maintenance lock
        self._log.store_start(offset)
        with inside(), self._partition.lock:
            self._partition.check_open()
            deleted = self._log.advance_start(offset)
        self._partition.listener.changed()
        if deleted:
            self._partition.commit.sync_names()  # else a power loss might leave no segment at all
            self._log.discard(deleted)
        return deleted

    # -- compaction ----------------------------------------------------------------------------------

    def compact(self, now_ms: int) -> compaction.Result | None:
        """One whole compaction pass over what can be compacted now; None if there is nothing. Raises what fails.

        What is damaged is repaired first, if that can be done.
        """
        if not self._log.config.compacts:
            return None
        try:
            with inside(), self.lock:
                try:
                    return self._compact(now_ms)
                except CorruptRecordError:
                    if not self.repairs.is_due(now_ms):
                        raise
                    self._begin_repair(now_ms)
                    self._advance_to_end()
                    return self._compact(now_ms)
        finally:
            self._answer()

    def _compact(self, now_ms: int) -> compaction.Result | None:
        """REQUIRES: the maintenance lock."""
        self.end_compaction()
        if not self._begin_compaction(now_ms):
            return None
        try:
            return self._advance_to_end()
        finally:
            self.end_compaction()

    def _advance_to_end(self) -> compaction.Result | None:
        """The rest of the pass. REQUIRES: as `_advance`."""
        result = None
        while self._pass is not None:
            self._check_going_on()
            result = self._advance()
        return result

    def _rewrite_some(self, now_ms: int) -> bool:
        """Begin a repair or a compaction, or go on with it, for `STEP_BYTES`; whether it has ended, and there is no other."""
        with inside(), self.lock:
            self._check_going_on()
            if self._pass is None:
                if self.repairs.is_due(now_ms):
                    self._begin_repair(now_ms)
                elif not self._begin_compaction(now_ms):
                    return True
            self._advance_by(STEP_BYTES)
            return self._pass is None and not self.repairs.is_due(now_ms)

    def _advance_by(self, size: int) -> None:
        """The next `size` bytes of the pass. REQUIRES: as `_advance`."""
        end = self._handled + size
        while self._pass is not None and self._handled < end:
            self._advance()

    def _begin_compaction(self, now_ms: int) -> bool:
        """Begin a pass; False if nothing can be compacted. REQUIRES: the maintenance lock."""
        log, commit = self._log, self._partition.commit
        self._check_going_on()
        publish_interrupted(log, self._publish)
        todo = compaction.plan(log, now_ms, self._partition.last_stable_offset)
        if not todo.segments:
            log.set_cleaned(log.cleaned_until, None)  # nothing is left that a horizon could be about
            return False
        # What supersedes a record has to be on the device before the record is dropped: a power loss that took
        # the later one would leave the key with none.
        commit.sync_sealed()
        self._handled = 0
        self._pass = compaction.compact(log, todo, now_ms, self._publish)
        return True

    def _advance(self) -> compaction.Result | None:
        """Have the pass handle one batch; what it did, when it has ended. REQUIRES: the maintenance lock, and a pass."""
        assert self._pass is not None
        try:
            self._handled += next(self._pass)
            return None
        except StopIteration as end:
            self._pass = None
            self._mend()
            result: compaction.Result | None = end.value  # None: an interrupt ended the pass before
            return result
        except CorruptRecordError as error:
            self._pass = None
            self._damaged_path = error.path
            self._note_damage(error.path)
            self._report("compaction", error, "a batch is damaged, so the partition is not compacted until it is gone")
            raise
        except BaseException:
            self._pass = None
            raise
        finally:
            self._inform_readers()

    # -- repair --------------------------------------------------------------------------------------

    def _begin_repair(self, now_ms: int) -> None:
        """Begin to repair what is due next, if it is in the log still. REQUIRES: the maintenance lock, no pass is under way."""
        log, commit, repairs = self._log, self._partition.commit, self.repairs
        publish_interrupted(log, self._publish)
        offset = repairs.take(now_ms)
        if offset is None:
            return
        if repairs.place_of(offset) is None:
            with inside(), self._partition.lock:
                self._partition.check_open()
                log.roll(now_ms)
            self._partition.listener.changed()
        place = repairs.place_of(offset)
        if place is not None:
            commit.sync_sealed()
            self._handled = 0
            self._pass = self._repair(*place)

    def _repair(self, segment: Segment, start: int, end_offset: int) -> Generator[int, None, None]:
        done = yield from self.repairs.run(segment, start, end_offset, self._publish)
        if done.filled < done.damaged:
            self.failures["repair"] = (
                f"{segment.path}: {done.damaged - done.filled} damaged places are in no other replica"
            )
        else:
            self.failures.pop("repair", None)
        if done.filled:
            with inside(), self._partition.lock:
                self._log.producers.truncated()
                self._log.transactions.truncated()
                self._log.leader_epochs.repaired()
            self._is_repaired = True

    def end_compaction(self) -> None:
        """Give up the pass that is under way, if there is one. REQUIRES: the maintenance lock."""
        if self._pass is not None:
            try:
                self._pass.close()
            finally:
                self._pass = None

    def finish_compaction(self) -> None:
        """Give up the pass, and publish what it renamed: segments are about to be deleted. REQUIRES: the maintenance lock."""
        self.end_compaction()
        publish_interrupted(self._log, self._publish)

    def _inform_readers(self) -> None:
        """After files were replaced, and their names changed: readers in other processes open them anew."""
        if self._rewrote:
            self._rewrote = False
            self._partition.listener.changed(rewritten=True)

    def _should_compact(self, now_ms: int) -> bool:
        config = self._log.config
        if not config.compacts or self._is_damaged():
            return False
        horizon = self._log.next_horizon
        if horizon is not None and now_ms >= horizon:
            return True
        todo = compaction.plan(self._log, now_ms, self._partition.last_stable_offset)
        return todo.dirty_bytes > 0 and todo.dirty_ratio >= config.min_cleanable_dirty_ratio

    def _is_damaged(self) -> bool:
        """Whether the batch that ended the last pass is still there: no pass gets past it, so none is begun.

        KIP-346 calls such a partition uncleanable.
        """
        if self._damaged_path and all(segment.path != self._damaged_path for segment in self._log.tail.segments):
            self._mend()
        return bool(self._damaged_path)

    def _note_damage(self, path: str) -> None:
        for segment in self._log.tail.segments:
            if segment.path == path:
                self.repairs.note(segment.base_offset)

    def _mend(self) -> None:
        self._damaged_path = ""
        self.failures.pop("compaction", None)

    def _check_going_on(self) -> None:
        if self._stopped:
            raise ClosedError(
                "The log is being closed, so the compaction was given up. Nothing is lost; the next one goes on."
            )
        self._partition.check_open()

    def _publish(self, old: Sequence[Segment], new: Segment) -> None:
        self._rewrote = True
        with inside(), self._partition.lock:
            self._log.replace(old, new)
        self._partition.listener.changed(rewritten=True)  # before the files change their names

    # -- when to come again --------------------------------------------------------------------------

    def _next_deadline(self, now_ms: int) -> int | None:
        log, config = self._log, self._log.config
        tail = log.tail
        repair_ms = self.repairs.next_deadline_ms()
        due: list[int] = [] if repair_ms is None else [repair_ms]
        if self._ages() and tail.first_append >= 0 and log.refusals.first is None:
            due.append(tail.first_append + config.effective_segment_ms)
            expiry_ms = self._active_expiry_ms()
            if expiry_ms is not None:
                due.append(expiry_ms)
        sealed = tail.segments[:-1]
        policy = self._policy()
        # What the followers are deleting is deleted here when they have: see `Deletions`.
        kept = next((segment for segment in sealed if segment.next_offset > self._partition.deletions.wanted), None)
        if policy is not None and config.retention_ms > 0 and kept is not None:
            due.append(kept.max_timestamp + config.retention_ms + 1)
        if policy is not None and self.custom_policy is not None and sealed:
            due.append(now_ms + CUSTOM_POLICY_INTERVAL_MS)
        if config.compacts and not self._is_damaged():
            if log.next_horizon is not None:
                due.append(log.next_horizon)
            if config.min_compaction_lag_ms > 0:
                late = [s.max_timestamp for s in sealed if s.next_offset > log.cleaned_until]
                due += [t + config.min_compaction_lag_ms for t in late if t + config.min_compaction_lag_ms > now_ms]
        return max(min(due), now_ms + 1) if due else None
