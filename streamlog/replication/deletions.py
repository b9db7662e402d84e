"""Deletions from the front of a replicated log, by retention or by `delete_records`: the followers first, the leader last.

What was deleted for a reader must not come back with the next leader. So a leader asks its followers to delete, with what their
fetches bring, and raises its own log start, which readers see, once every in-sync replica starts as late: the log start of the
leader is that of a reader, and no replica in sync starts before it. (Kafka's leader deletes first, and only the answer to a
DeleteRecords waits for the followers, KIP-107: after a failover the records of a retention may be there again for a while.)

A replica that is not in sync is not waited for, and has to start as late before it joins: see `ReplicaSet.may_join`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ..errors import ReentrantCallError, StreamlogError
from ..runtime.api import Completion, Gate, Lock
from ..runtime.threads import wait_for, was_released_meanwhile
from ..runtime.values import refuse_to_copy
from ..storage.log import Log
from ..types import TopicPartition
from . import errors
from .commit import GroupCommit
from .purgatory import DelayedOperation, Purgatory
from .replica_set import ReplicaSet


class DeletesWanted(Protocol):
    def delete_wanted(self) -> None:
        """Delete up to `ready`. Raises what the disk raises."""


class Leader(Protocol):
    """What deletions need of the leader's replica."""

    name: TopicPartition
    log: Log
    closed: StreamlogError | None
    is_fenced: bool
    high_watermark: int
    replicas: ReplicaSet | None
    on_work: Callable[[Any], None] | None
    on_failure: Callable[[StreamlogError], object]
    commit: GroupCommit

    @property
    def maintenance(self) -> DeletesWanted: ...
    @property
    def has_successors(self) -> bool: ...
    def wake_followers(self) -> None: ...


class Deletions:
    """What one leader is to delete, and the calls that wait for that. Thread-safe. It is a `Work`.

    `wanted` is the log start that the leader asks of its followers; 0 if it asks for nothing. `patience_s`: how long (real
    time) background work waits for that, under a clock that a test moves: what is due is done when `ManualClock.advance` returns.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(self, leader: Leader, lock: Lock) -> None:
        self._leader = leader
        self.wanted = 0
        self.patience_s = 0.0
        self.purgatory = Purgatory(lock)
        self._turns: list[Gate] = []

    def start(self) -> int:
        """Where the log of a follower is to start."""
        return max(self.wanted, self._leader.log.tail.start_offset)

    def want(self, before: int) -> None:
        """Have everything before this offset deleted, soon. REQUIRES: it is not past the high watermark."""
        if before > self.wanted:
            self.wanted = before
            self._leader.wake_followers()

    def have_deleted(self, before: int) -> None:
        """`want`, of background work."""
        self.want(before)
        if self.patience_s and self._leader.replicas is not None:
            wait_for(self.wait(before), self.patience_s)

    def ready(self) -> int:
        """The offset up to which the leader may delete, never past the high watermark; 0 if this broker does not lead."""
        leader, wanted = self._leader, min(self.wanted, self._leader.high_watermark)
        if not wanted or leader.log.refusals.not_leader is not None:
            return 0
        replicas = leader.replicas
        return wanted if replicas is None else replicas.in_sync_start(wanted)

    def wait(self, before: int, deadline_ms: int | None = None) -> Completion[int]:
        """Have everything before this offset deleted; done with the log start when it is. REQUIRES: no lock; as `want`.

        Where no follower is in sync that is done at once; it raises what the disk raises. Fails with NotLeaderError where another
        broker leads meanwhile, and with RequestTimedOutError at the deadline (ms of real time): then it is deleted later.
        """
        leader = self._leader
        self.want(before)
        try:
            self._delete()
        except StreamlogError:
            self.wanted = 0
            raise
        start = leader.log.tail.start_offset
        if before <= start:
            return Completion.of(start)
        operation = DelayedOperation(before, self, errors.late_deletion(leader.name, before))
        self.purgatory.add(before, operation, deadline_ms)
        self.answer()
        return operation

    def _delete(self) -> None:
        leader = self._leader
        try:
            leader.maintenance.delete_wanted()
        finally:
            leader.commit.answer()
        self.answer()

    def answer(self) -> None:
        """Answer what is deleted, and have deleted what may be; answer all of it, with an error, if this broker does not lead.

        Called when a follower has fetched, the in-sync set has changed, the leader has deleted. REQUIRES: no lock.
        """
        leader, purgatory = self._leader, self.purgatory
        start = leader.log.tail.start_offset
        if self.wanted <= start and not purgatory:
            return
        refusal = leader.closed or leader.log.refusals.not_leader
        if refusal is not None:
            purgatory.fail(refusal)
            return
        purgatory.complete_through(start)
        if self.ready() > start:
            while self._turns:
                self._turns.pop().open()
            self.soon()  # also then: the thread that waited may have been interrupted

    def drive(self) -> bool:
        """Delete what may be deleted, on the thread of a call that waits for it. See `Work`.

        If the disk fails, others lead soon, and what waits fails with NotLeaderError; without them it fails with that error.
        """
        leader = self._leader
        if self.ready() <= leader.log.tail.start_offset:
            return False
        try:
            self._delete()
        except ReentrantCallError:
            raise
        except RuntimeError as error:
            if not (leader.is_fenced and was_released_meanwhile(error)):
                raise
            self.answer()
        except StreamlogError as error:
            self.wanted = 0
            if leader.closed is None and leader.has_successors:
                leader.on_failure(error)
            else:
                self.purgatory.fail(error)
            self.soon()
        return True

    def on_turn(self, gate: Gate) -> None:
        self._turns.append(gate)

    def soon(self) -> None:
        """Have the maintenance do it."""
        if self._leader.on_work is not None:
            self._leader.on_work(self._leader)
