"""The replicas of a partition as its leader sees them: the end offset of each follower, and which replicas are in sync.

A follower is in sync while it reaches the end of the leader's log at least once in every `replica.lag.time.max.ms`
(KIP-16: a time, because a burst of appends would exceed any number of records). The controller changes the in-sync set; the
leader asks it to. Until the controller has answered, the leader counts the members of the committed set and the replicas that
it has asked to add: the greatest set that may be in force (KIP-497). So the high watermark never rises by a removal that was
not committed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..storage.leader_epochs import EpochEnd
from ..storage.tail import FetchData
from ..types import Buffer

NO_LEADER = -1


class PartitionRegistration(NamedTuple):
    """The replicas, the in-sync set and the leader of a partition, as the metadata log has them (KRaft's PartitionRecord).

    `replicas` begins with the preferred leader. `leader` is NO_LEADER while no member of the in-sync set is running.
    `leader_epoch` grows with each new leader, `partition_epoch` with each change."""

    replicas: tuple[int, ...]
    isr: tuple[int, ...]
    leader: int
    leader_epoch: int
    partition_epoch: int
    adding_replicas: tuple[int, ...] = ()
    """The replicas that a reassignment adds, until it is finished (KIP-455)."""
    removing_replicas: tuple[int, ...] = ()
    """The replicas that it removes when it is finished."""


ALONE = PartitionRegistration((0,), (0,), 0, 0, 0)
"""A partition without a record in the metadata log: broker 0 has the only replica."""


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


class Follower:
    """One follower, as its leader sees it. Times are in ms of real time."""

    __slots__ = ("broker_epoch", "caught_up_ms", "end_offset", "fetched_ms", "leader_end", "start_offset")

    def __init__(self, now_ms: int) -> None:
        self.broker_epoch = -1
        """The epoch of the broker at its last fetch. In a later epoch it may have lost records."""
        self.end_offset = -1
        """Its end offset, -1 until it fetches from this leader; with `sync=True` the end offset on its device."""
        self.start_offset = -1
        """The log start of its last fetch by its own thread, -1 until then. It only rises."""
        self.caught_up_ms = now_ms
        """The last time at which it had all records of the leader."""
        self.fetched_ms = now_ms
        self.leader_end = -1
        """The end offset of the leader at the last fetch."""


class ReplicaSet:
    """The replicas of a partition in one leader epoch, as its leader sees them. REQUIRES: one lock, for every call.

    >>> replicas = ReplicaSet(0, PartitionRegistration((0, 1, 2), (0, 1), 0, 4, 9), epoch_start=10, now_ms=0)
    >>> replicas.fetched(1, 12, leader_end=15, now_ms=1, broker_epoch=6)
    >>> replicas.in_sync_end(15)
    12
    """

    def __init__(self, broker_id: int, registration: PartitionRegistration, epoch_start: int, now_ms: int) -> None:
        self._broker_id = broker_id
        self.epoch_start = epoch_start
        self._joining: tuple[int, ...] = ()
        self.followers: dict[int, Follower] = {}
        self.update(registration, now_ms)

    def update(self, registration: PartitionRegistration, now_ms: int) -> None:
        """Take over the committed replicas and in-sync set. REQUIRES: this broker leads in the same epoch."""
        self.registration = registration
        self._joining = ()
        others = [broker for broker in registration.replicas if broker != self._broker_id]
        self.followers = {broker: self.followers.get(broker) or Follower(now_ms) for broker in others}
        self._counted = self._members()

    def _members(self) -> list[Follower]:
        return [self.followers[each] for each in (*self.registration.isr, *self._joining) if each in self.followers]

    def in_sync_end(self, own_end: int) -> int:
        """The smallest end offset in the in-sync set; `own_end` is the leader's."""
        return min([own_end, *(follower.end_offset for follower in self._counted)])

    def in_sync_start(self, own_start: int) -> int:
        """The smallest log start in the in-sync set; `own_start` is the leader's. Kafka's low watermark. Needs no lock."""
        return min([own_start, *(follower.start_offset for follower in self._counted)])

    def fetched(
        self, broker: int, offset: int, leader_end: int, now_ms: int, broker_epoch: int, start_offset: int = -1
    ) -> None:
        """A follower fetches from `offset`, so it has all records before it. Kafka's `updateFetchState`.

        It has caught up if `offset` is the end of the log. If `offset` is the end that the log had at its last fetch, it had
        caught up at that time, and the leader has appended since. A fetch that its broker sent before it registered last says
        nothing of what it has now (KIP-903). `start_offset`: its log start, if the fetch says that too (KIP-107).
        """
        follower = self.followers.get(broker)
        # It was a replica when it sent the fetch, and is not any more.
        if follower is None or broker_epoch < follower.broker_epoch:
            return
        if offset >= leader_end:
            follower.caught_up_ms = now_ms
        elif follower.leader_end >= 0 and offset >= follower.leader_end:
            follower.caught_up_ms = max(follower.caught_up_ms, follower.fetched_ms)
        follower.broker_epoch = broker_epoch
        follower.end_offset = offset
        follower.start_offset = max(follower.start_offset, start_offset)
        follower.fetched_ms = now_ms
        follower.leader_end = leader_end

    def all_fetched(self, ends: Sequence[tuple[tuple[int, int], int]], leader_end: int, now_ms: int) -> None:
        """`fetched`, for several brokers, each by its id and epoch."""
        for (broker, broker_epoch), end in ends:
            self.fetched(broker, end, leader_end, now_ms, broker_epoch)

    def lagging(self, leader_end: int, now_ms: int, lag_ms: int) -> tuple[int, ...]:
        """The members of the in-sync set that caught up last more than `lag_ms` ago."""
        return tuple(
            broker
            for broker in self.registration.isr
            if (follower := self.followers.get(broker)) is not None
            and follower.end_offset < leader_end
            and now_ms - follower.caught_up_ms > lag_ms
        )

    def lags(self, leader_start: int, leader_end: int, now_ms: int) -> dict[int, tuple[int, int]]:
        """The lag of each follower: records, and ms since it caught up last; (0, 0) if it has all records. Needs no lock.

        A follower that has not fetched from this leader yet counts as empty.
        """
        return {
            broker: (
                (leader_end - max(follower.end_offset, leader_start), max(0, now_ms - follower.caught_up_ms))
                if follower.end_offset < leader_end
                else (0, 0)
            )
            for broker, follower in self.followers.items()
        }

    def may_join(
        self,
        high_watermark: int,
        epochs: Mapping[int, int] | None = None,
        leader_end: int = 0,
        since_ms: int = 0,
        *,
        start: int = -1,
    ) -> tuple[int, ...]:
        """The followers outside the in-sync set that reach the high watermark and the start of this leader's epoch.

        The first high watermark of a leader may be lower than what was committed before it; the start of its epoch is not
        (KIP-279). One whose log starts before `start` does not join: it would bring back what was deleted, if it led next.
        `epochs`: by broker, of the running brokers. A follower that has not fetched since its broker registered
        last does not join, because the broker may have lost its log in between (KIP-903). Nor does one that ends before
        `leader_end` and has not fetched since `since_ms`: of several followers that are stuck at the high watermark, each would join
        when another one leaves.
        """
        if len(self._counted) == len(self.followers):  # the usual case, at each fetch
            return ()
        least = max(high_watermark, self.epoch_start)
        return tuple(
            broker
            for broker, follower in self.followers.items()
            if follower.end_offset >= least
            and follower.start_offset >= start
            and (follower.end_offset >= leader_end or follower.fetched_ms >= since_ms)
            and broker not in self.registration.isr
            and broker not in self._joining
            and (epochs is None or epochs.get(broker) == follower.broker_epoch)
        )

    def wanted(self, leaving: tuple[int, ...]) -> tuple[int, ...]:
        """The in-sync set that the leader asks for: without `leaving`, and with the followers that are about to join."""
        return tuple(each for each in (*self.registration.isr, *self._joining) if each not in leaving)

    def begin_joining(self, brokers: tuple[int, ...]) -> None:
        """Count these followers from now on: the leader is about to ask the controller to add them to the in-sync set."""
        if brokers:
            self._joining = (*self._joining, *brokers)
            self._counted = self._members()
