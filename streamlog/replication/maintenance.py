"""Background work on one partition: rolling segments, retention, compaction, and syncing sealed segments.

It is done in steps, so that one thread can maintain many partitions and none waits for the compaction of another.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from ..errors import ClosedError, CorruptRecordError, StreamlogError, describe
from ..runtime.api import Lock
from ..runtime.threads import inside
from ..runtime.values import refuse_to_copy
from ..storage import compaction
from ..storage.log import Log
from ..storage.retention import Segments, checked, policy_of
from ..storage.segment import Segment
from ..types import Policy, TopicPartition
from .commit import GroupCommit
from .listeners import LogListener

logger = logging.getLogger("streamlog.replication")

# How often a policy of the user's own is asked: nothing tells when its answer changes.
CUSTOM_POLICY_INTERVAL_MS = 300_000
# How soon after a failure (a full disk, for example) maintenance tries again.
RETRY_MS = 15_000
# How soon it tries again while another thread has the maintenance lock, in a call such as `Topic.compact`.
_BUSY_MS = 100
# How many bytes of batches a step of a compaction reads: some milliseconds.
STEP_BYTES = 1 << 18


class Maintained(Protocol):
    """What maintenance needs of its partition."""

    name: TopicPartition
    log: Log
    lock: Lock
    commit: GroupCommit
    listener: LogListener
    closed: StreamlogError | None
    high_watermark: int

    @property
    def is_leader(self) -> bool: ...
    def check_open(self) -> None:
        """Raise if the partition was closed or a sync of its log failed."""


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
        self._pass: compaction.Pass | None = None
        self._handled = 0  # bytes, by the pass
        self._rewrote = False  # whether the pass has replaced files since readers were last informed
        self._damaged_path = ""  # the file of the batch that ended the last pass
        self.failures: dict[str, str] = {}
        """What fails now, by the work that fails: "retention policy", "compaction" or "maintenance"."""

    def step(self, now_ms: int) -> int | None:
        """Do what is due: roll an old segment, delete expired ones, sync what was sealed, and a step of a compaction.

        Returns when to come again (ms): `now_ms` if a compaction is under way, None if only an append can make it necessary.
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
                    self._delete_expired(expired)
            if (self._pass is not None or self._should_compact(now_ms)) and not self._compact_some(now_ms):
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
                return now_ms + RETRY_MS
        finally:
            partition.commit.answer()
        return now_ms + RETRY_MS if policy_failed else self._next_deadline(now_ms)

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
        if self._ages() and log.tail.end_position and log.is_due(now_ms):
            with inside(), self._partition.lock:
                self._partition.check_open()
                if log.is_due(now_ms):
                    log.roll(now_ms)
            self._partition.listener.changed()

    def _ages(self) -> bool:
        """Whether an idle active segment has to be sealed for anything to happen to it."""
        return self._log.config.compacts or policy_of(self._log.config, self.custom_policy) is not None

    # -- retention -----------------------------------------------------------------------------------

    def apply_retention(self, now_ms: int) -> int:
        """Delete the sealed segments that have expired by the topic's policy; how many. Raises what a policy of the user's raises."""
        before = self._expired(now_ms)
        try:
            return self._delete_expired(before) if before else 0
        finally:
            self._partition.commit.answer()

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

    def _delete_expired(self, before: int) -> int:
        with inside(), self.lock:
            deleted = self.delete_before(max(self._log.tail.start_offset, before))
        logger.info("%s-%d: retention removed %d segments", *self._partition.name, len(deleted))
        return len(deleted)

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
        """One whole compaction pass over what can be compacted now; None if there is nothing. Raises what fails."""
        if not self._log.config.compacts:
            return None
        try:
            with inside(), self.lock:
                self.end_compaction()
                if not self._begin_compaction(now_ms):
                    return None
                try:
                    return self._advance_to_end()
                finally:
                    self.end_compaction()
        finally:
            self._partition.commit.answer()

    def _advance_to_end(self) -> compaction.Result | None:
        """The rest of the pass. REQUIRES: as `_advance`."""
        while True:
            self._check_going_on()
            result = self._advance()
            if self._pass is None:
                return result

    def _compact_some(self, now_ms: int) -> bool:
        """Begin a pass, or go on with one, for `STEP_BYTES`; whether it has ended."""
        with inside(), self.lock:
            self._check_going_on()
            if self._pass is None and not self._begin_compaction(now_ms):
                return True
            self._advance_by(STEP_BYTES)
            return self._pass is None

    def _advance_by(self, size: int) -> None:
        """The next `size` bytes of the pass. REQUIRES: as `_advance`."""
        end = self._handled + size
        while self._pass is not None and self._handled < end:
            self._advance()

    def _begin_compaction(self, now_ms: int) -> bool:
        """Begin a pass; False if nothing can be compacted. REQUIRES: the maintenance lock."""
        log, commit = self._log, self._partition.commit
        self._check_going_on()
        compaction.publish_interrupted(log, self._publish)
        todo = compaction.plan(log, now_ms, self._partition.high_watermark)
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
            self._report("compaction", error, "a batch is damaged, so the partition is not compacted until it is gone")
            raise
        except BaseException:
            self._pass = None
            raise
        finally:
            self._inform_readers()

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
        compaction.publish_interrupted(self._log, self._publish)

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
        todo = compaction.plan(self._log, now_ms, self._partition.high_watermark)
        return todo.dirty_bytes > 0 and todo.dirty_ratio >= config.min_cleanable_dirty_ratio

    def _is_damaged(self) -> bool:
        """Whether the batch that ended the last pass is still there: no pass gets past it, so none is begun.

        KIP-346 calls such a partition uncleanable.
        """
        if self._damaged_path and all(segment.path != self._damaged_path for segment in self._log.tail.segments):
            self._mend()
        return bool(self._damaged_path)

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
        due: list[int] = []
        if self._ages() and tail.first_append >= 0 and log.refusal is None:
            due.append(tail.first_append + config.effective_segment_ms)
        sealed = tail.segments[:-1]
        policy = self._policy()
        if policy is not None and config.retention_ms > 0 and sealed:
            due.append(sealed[0].max_timestamp + config.retention_ms + 1)
        if policy is not None and self.custom_policy is not None and sealed:
            due.append(now_ms + CUSTOM_POLICY_INTERVAL_MS)
        if config.compacts and not self._is_damaged():
            if log.next_horizon is not None:
                due.append(log.next_horizon)
            if config.min_compaction_lag_ms > 0:
                late = [s.max_timestamp for s in sealed if s.next_offset > log.cleaned_until]
                due += [t + config.min_compaction_lag_ms for t in late if t + config.min_compaction_lag_ms > now_ms]
        return max(min(due), now_ms + 1) if due else None
