"""The replicas of a partition, and what its leader knows of them: how far each has come, and which are in sync.

A follower is in sync while it reaches the end of the leader's log at least once in every `replica.lag.time.max.ms`
(KIP-16: time, not a number of records, which a burst of appends would exceed). The in-sync set is the controller's to
change; the leader asks for it. Until the answer is known, the leader counts the members of the set as it is and those that
are about to join: the greatest set that may be in force (KIP-497). So the high watermark never rises by a removal that did
not take place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

NO_LEADER = -1


class PartitionRegistration(NamedTuple):
    """Who has a partition and who leads it (KRaft's PartitionRecord). `leader` is NO_LEADER while no member of the in-sync
    set is there. `leader_epoch` grows with each new leader, `partition_epoch` with each change."""

    replicas: tuple[int, ...]
    isr: tuple[int, ...]
    leader: int
    leader_epoch: int
    partition_epoch: int
    adding_replicas: tuple[int, ...] = ()
    """Those of the replicas that a reassignment adds, and has not finished adding (KIP-455)."""
    removing_replicas: tuple[int, ...] = ()
    """Those that leave when it is finished."""


ALONE = PartitionRegistration((0,), (0,), 0, 0, 0)
"""A partition of which nothing is recorded: broker 0 leads it alone."""


class Follower:
    """What the leader knows of one follower. Times are in ms of real time."""

    __slots__ = ("broker_epoch", "caught_up_ms", "end_offset", "fetched_ms", "leader_end")

    def __init__(self, now_ms: int) -> None:
        self.broker_epoch = -1
        """The epoch of the broker at its last fetch: in another one it may have lost what it had."""
        self.end_offset = -1
        """What it has, -1 until it fetches from this leader; with `sync=True` what it has on its device."""
        self.caught_up_ms = now_ms
        """When it had everything that the leader had then."""
        self.fetched_ms = now_ms
        self.leader_end = -1
        """The end of the leader's log at the last fetch."""


class ReplicaSet:
    """The replicas of a partition in one leader epoch, as its leader sees them. REQUIRES: one lock, for every call.

    >>> replicas = ReplicaSet(0, PartitionRegistration((0, 1, 2), (0, 1), 0, 4, 9), epoch_start=10, now_ms=0)
    >>> replicas.fetched(1, 12, leader_end=15, now_ms=1, broker_epoch=6)
    >>> replicas.in_sync_end(15)
    12
    """

    def __init__(self, broker_id: int, registration: PartitionRegistration, epoch_start: int, now_ms: int) -> None:
        self._broker_id = broker_id
        self._epoch_start = epoch_start
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
        """The end of what each member of the in-sync set has; `own_end` is the leader's."""
        return min([own_end, *(follower.end_offset for follower in self._counted)])

    def fetched(self, broker: int, offset: int, leader_end: int, now_ms: int, broker_epoch: int) -> None:
        """A follower fetches from `offset`, so it has everything before that. Kafka's `updateFetchState`.

        It has caught up if that is the end of the log; if it is what was the end at its last fetch, it had caught up then,
        and the leader has taken records since.
        """
        follower = self.followers.get(broker)
        if follower is None:  # it was a replica when it sent the fetch
            return
        if offset >= leader_end:
            follower.caught_up_ms = now_ms
        elif follower.leader_end >= 0 and offset >= follower.leader_end:
            follower.caught_up_ms = max(follower.caught_up_ms, follower.fetched_ms)
        follower.broker_epoch = broker_epoch
        follower.end_offset = offset
        follower.fetched_ms = now_ms
        follower.leader_end = leader_end

    def lagging(self, leader_end: int, now_ms: int, lag_ms: int) -> tuple[int, ...]:
        """The members of the in-sync set that have not had everything for longer than `lag_ms`."""
        return tuple(
            broker
            for broker in self.registration.isr
            if (follower := self.followers.get(broker)) is not None
            and follower.end_offset < leader_end
            and now_ms - follower.caught_up_ms > lag_ms
        )

    def lags(self, leader_start: int, leader_end: int, now_ms: int) -> dict[int, tuple[int, int]]:
        """How far each follower is behind: records, and ms since it had everything; (0, 0) if it has. Needs no lock.

        A follower that has not fetched from this leader yet is taken to have nothing.
        """
        return {
            broker: (
                (leader_end - max(follower.end_offset, leader_start), max(0, now_ms - follower.caught_up_ms))
                if follower.end_offset < leader_end
                else (0, 0)
            )
            for broker, follower in self.followers.items()
        }

    def may_join(self, high_watermark: int, epochs: Mapping[int, int] | None = None) -> tuple[int, ...]:
        """The followers outside the in-sync set that have all that was committed, and what this leader began with.

        A leader's first high watermark may be behind what was committed before: the start of its epoch is not (KIP-279).
        `epochs`: those of the brokers that are alive. A follower that has not fetched since its broker registered last does
        not join: it may have come back without its log (KIP-903).
        """
        if len(self._counted) == len(self.followers):  # the usual case, at each fetch
            return ()
        least = max(high_watermark, self._epoch_start)
        return tuple(
            broker
            for broker, follower in self.followers.items()
            if follower.end_offset >= least
            and broker not in self.registration.isr
            and broker not in self._joining
            and (epochs is None or epochs.get(broker) == follower.broker_epoch)
        )

    def wanted(self, leaving: tuple[int, ...]) -> tuple[int, ...]:
        """The in-sync set without these, and with those that are about to join."""
        return tuple(each for each in (*self.registration.isr, *self._joining) if each not in leaving)

    def begin_joining(self, brokers: tuple[int, ...]) -> None:
        """The controller is about to be asked to add these to the in-sync set: they count from now on."""
        if brokers:
            self._joining = (*self._joining, *brokers)
            self._counted = self._members()
