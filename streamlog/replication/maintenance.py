"""Background work on one partition: rolling segments, retention, compaction, and syncing sealed segments."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from ..errors import ClosedError, StreamlogError, describe
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


class Maintained(Protocol):
    """What maintenance needs of its partition."""

    name: TopicPartition
    log: Log
    lock: Lock
    commit: GroupCommit
    listener: LogListener
    closed: StreamlogError | None

    @property
    def high_watermark(self) -> int: ...

    def check_open(self) -> None:
        """Raise if the partition was closed or a sync of its log failed."""


class Maintenance:
    """The maintenance of one partition. Thread-safe.

    `lock` is held around everything that deletes or replaces segments; that may take long and never stops an append. It is
    taken before the partition's lock.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(self, partition: Maintained, lock: Lock) -> None:
        self._partition = partition
        self._log = partition.log
        self.lock = lock
        self.custom_policy: Policy | None = None
        """The topic's retention policy, where that is an object of the user's own."""
        self._policy_failure = ""
        self._stopped = False

    def run(self, now_ms: int) -> int | None:
        """Do what is due: roll an old segment, delete expired ones, compact, sync what was sealed.

        Returns when to come again (ms), or None if only an append can make that necessary. It is a task of the scheduler:
        an error is logged, and the work is tried again later.
        """
        partition = self._partition
        failed = False
        try:
            self._roll_if_due(now_ms)
            expired = self._ask_policy(now_ms)
            failed = expired is None
            if expired:
                self._delete_expired(expired)
            if self._should_compact(now_ms):
                self.compact(now_ms)
            with inside(), self.lock:
                partition.check_open()  # once it is closed, its state file's descriptor may be another file's
                partition.commit.sync_sealed()
        except Exception as error:
            failed = True
            if isinstance(error, StreamlogError):
                if self._stopped or partition.closed is not None or self._log.durability.poison is not None:
                    return None  # the next open starts anew
                logger.error("%s-%d: maintenance failed and will be tried again: %s", *partition.name, error)
            else:
                logger.exception("%s-%d: maintenance failed and will be tried again", *partition.name)
        finally:
            partition.commit.answer()
        return now_ms + RETRY_MS if failed else self._next_deadline(now_ms)

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
        return self._delete_expired(before) if before else 0

    def _expired(self, now_ms: int) -> int:
        """The offset up to which sealed segments have expired by the topic's policy; 0 if none has."""
        policy = policy_of(self._log.config, self.custom_policy)
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
            return self._expired(now_ms)
        except Exception as error:
            if describe(error) != self._policy_failure:  # once, not every time it is asked
                self._policy_failure = describe(error)
                logger.exception("%s-%d: a retention policy raised; nothing was deleted", *self._partition.name)
            return None

    def _delete_expired(self, before: int) -> int:
        with inside(), self.lock:
            deleted = self.delete_before(max(self._log.tail.start_offset, before))
        logger.info("%s-%d: retention removed %d segments", *self._partition.name, len(deleted))
        return len(deleted)

    def delete_before(self, offset: int) -> Sequence[Segment]:
        """Raise the log start to `offset`, and delete the segments that end before it. REQUIRES: the maintenance lock."""
        compaction.publish_interrupted(self._log, self._publish)
        with inside(), self._partition.lock:
            self._partition.check_open()
            deleted = self._log.advance_start(offset)
        self._partition.listener.changed()
        self._log.discard(deleted)
        return deleted

    # -- compaction ----------------------------------------------------------------------------------

    def compact(self, now_ms: int) -> compaction.Result | None:
        """One compaction pass over what can be compacted now; None if there is nothing."""
        log, commit = self._log, self._partition.commit
        if not log.config.compacts:
            return None
        try:
            with inside(), self.lock:
                self._check_going_on()
                compaction.publish_interrupted(log, self._publish)
                todo = compaction.plan(log, now_ms, self._partition.high_watermark)
                if not todo.segments:
                    log.set_cleaned(log.cleaned_until, None)  # nothing is left that a horizon could be about
                    return None
                # What supersedes a record has to be on the device before the record is dropped: a power loss that took
                # the later one would leave the key with none.
                commit.sync_sealed()
                try:
                    return compaction.compact(log, todo, now_ms, self._publish, self._check_going_on)
                finally:
                    self._partition.listener.changed(rewritten=True)
        finally:
            commit.answer()

    def _should_compact(self, now_ms: int) -> bool:
        config = self._log.config
        if not config.compacts:
            return False
        horizon = self._log.next_horizon
        if horizon is not None and now_ms >= horizon:
            return True
        todo = compaction.plan(self._log, now_ms, self._partition.high_watermark)
        return todo.dirty_bytes > 0 and todo.dirty_ratio >= config.min_cleanable_dirty_ratio

    def _check_going_on(self) -> None:
        if self._stopped:
            raise ClosedError(
                "The log is being closed, so the compaction was given up. Nothing is lost; the next one goes on."
            )
        self._partition.check_open()

    def _publish(self, old: Sequence[Segment], new: Segment) -> None:
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
