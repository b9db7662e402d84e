"""Planned moves of leaders: of a preferred election, or of a reassignment that takes the leader's replica away.

An election after a failure takes a replica that is in sync. A planned one loses nothing, not even what only acks=1 has promised: the old
leader takes no records until every member of the in-sync set, and so the next leader, has what it has. Meanwhile an append
fails with NotLeaderError, which producers answer by trying again. That takes about as long as two fetches of the followers, and
`MOVE_MS` at most: then the leader stays, and takes records again.

The moves are made on the thread of the timers, one after another, so no caller's interrupt can leave a leader blocked.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import ConfigError, NotLeaderError, RequestTimedOutError, StreamlogError
from ..replication import election
from ..replication.partition import Partition
from ..runtime.api import Completion
from ..runtime.values import refuse_to_copy
from ..types import TopicPartition
from .brokers import Brokers
from .real_timers import RealTimers
from .topics import Topics

MOVE_MS = 5_000
"""How long (real time) a leader takes no records at most, while its successor catches up."""


class LeaderMove:
    """One move under way. `leader` is the replica that takes no records for it, and `end` the end of its log, -1 before that."""

    def __init__(self, target: int, deadline_ms: int) -> None:
        self.target = target
        self.deadline_ms = deadline_ms
        self.done: Completion[None] = Completion()
        self.refusal: NotLeaderError | None = None
        self.leader: Partition | None = None
        self.end = -1


class LeaderMoves:
    """Thread-safe: any thread begins a move, that of the timers makes it."""

    __reduce_ex__ = refuse_to_copy

    def __init__(
        self, topics: Topics, brokers: Brokers, timers: RealTimers,
        moved: Callable[[StreamlogError], NotLeaderError | None],
    ) -> None:  # fmt: skip
        """`moved`: see `BrokerChanges.moved`."""
        self._moved = moved
        self._topics = topics
        self._brokers = brokers
        self._timers = timers
        self._moves: dict[TopicPartition, LeaderMove] = {}
        self._closed: StreamlogError | None = None

    def begin(self, name: TopicPartition, broker_id: int | None = None) -> Completion[None]:
        """Have this broker lead, by default the preferred one: the first of the replicas. Done at once if it does.

        Fails with NotLeaderError if it is not in sync, or another move of the partition is under way, with
        RequestTimedOutError if the replicas do not catch up within `MOVE_MS`, with ConfigError for a broker that has no replica. With
        NotLeaderError also if a disk failed meanwhile, and others take over what its broker did.
        """
        leader = self._topics.partition(name)
        before = self._topics.registration(name)
        target = before.replicas[0] if broker_id is None else broker_id
        if target not in before.replicas:
            raise ConfigError(
                f"Broker {target} has no replica of {name.topic}-{name.partition}, which is on {before.replicas}: it cannot lead "
                f"it. log.reassign(…) moves replicas.",
                name="broker_id",
            )
        if target == leader.broker_id:
            return Completion.of(None)
        if all(broker.id != target for broker in self._brokers.running):
            raise NotLeaderError(
                f"Broker {target} does not run, so it cannot lead {name.topic}-{name.partition}. Start it "
                f"(log.brokers[{target}].start()), and try again when it has caught up."
            )
        if target not in before.isr:
            raise NotLeaderError(
                f"Broker {target} is not in sync with {name.topic}-{name.partition} (brokers {before.isr} are), so it may lack "
                f"records, and cannot lead it. Try again when it has caught up."
            )
        now_ms = self._timers.now_ms()
        move = self._moves.setdefault(name, LeaderMove(target, now_ms + MOVE_MS))
        if move.target != target:
            raise NotLeaderError(
                f"{name.topic}-{name.partition} is about to be led by broker {move.target}. Try again after that."
            )
        self._timers.at(now_ms, self.step)
        if self._closed is not None:  # since the caller looked: no timer comes any more
            self.close(self._closed)
        return move.done

    def step(self, now_ms: int) -> int | None:
        """Do what can be done of each move; when to come again (ms of real time)."""
        for name, move in list(self._moves.items()):
            try:
                is_done = self._make(name, move, now_ms)
            except StreamlogError as error:
                self._end(name, move, self._moved(error) or error)
            else:
                if is_done:
                    self._end(name, move, None)
        return min((move.deadline_ms for move in list(self._moves.values())), default=None)

    def _make(self, name: TopicPartition, move: LeaderMove, now_ms: int) -> bool:
        leader = self._topics.partition(name)
        if leader.broker_id == move.target:
            return True
        if leader is not move.leader:
            self._release(move)  # the leader that was asked to wait has failed meanwhile
            move.leader, move.refusal = leader, _moving(name, move.target)
            leader.block(move.refusal)
            move.end = leader.reader.tail.end_offset
            leader.await_high_watermark(move.end, None, move.deadline_ms).on_done(self._soon)
        if leader.high_watermark >= move.end:
            alive = {broker.id for broker in self._brokers.running}
            after = election.prefer(leader.registration, alive, move.target)
            if after is leader.registration:
                raise NotLeaderError(
                    f"Broker {move.target} has left the in-sync set of {name.topic}-{name.partition} before it could lead."
                )
            self._topics.alter_partitions({name: after})
            return (
                self._topics.partition(name).broker_id == move.target
            )  # else the in-sync set has changed first: again
        if now_ms >= move.deadline_ms:
            raise RequestTimedOutError(
                f"Broker {leader.broker_id} still leads {name.topic}-{name.partition}: the in-sync replicas {leader.registration.isr} "
                f"did not catch up within {MOVE_MS} ms. Look at what slows them down, and try again."
            )
        return False

    def _soon(self, _: object) -> None:
        self._timers.at(self._timers.now_ms(), self.step)

    def _end(self, name: TopicPartition, move: LeaderMove, error: StreamlogError | None) -> None:
        self._release(move)
        self._moves.pop(name, None)
        if error is None:
            move.done.complete(None)
        else:
            move.done.fail(error)

    @staticmethod
    def _release(move: LeaderMove) -> None:
        if move.leader is not None and move.refusal is not None:
            move.leader.unblock(move.refusal)

    def close(self, error: StreamlogError) -> None:
        """The log is being closed: every leader stays. REQUIRES: the timers have ended."""
        self._closed = error
        for name, move in list(self._moves.items()):
            self._end(name, move, error)


def _moving(name: TopicPartition, target: int) -> NotLeaderError:
    return NotLeaderError(
        f"Broker {target} is about to lead {name.topic}-{name.partition}. Nothing was appended; try again in a moment."
    )
