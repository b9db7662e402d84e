"""Who leads a partition, and where its replicas are. Pure functions over what the metadata says."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from .replica_set import NO_LEADER, PartitionRegistration


def elect(
    before: PartitionRegistration,
    alive: Container[int],
    *,
    unclean: Mapping[int, tuple[int, int]] | None = None,
) -> PartitionRegistration:
    """The partition after some brokers are gone, or are back. `before` itself, if nothing changes.

    A leader that is alive stays. Else the first of the replicas that is in the last committed in-sync set leads: the
    preferred one, if it can. Members that are gone leave the set, but for the last ones: a set of which no member is alive
    stays as it is, because only its members have everything, and one of them leads when it is back.

    `unclean`: the replicas among which a leader may be chosen if no member of the set is alive, each with the epoch of its
    last record and its end offset. The greatest leads, and is all of the new set: what the others have beyond it is lost
    (Kafka's unclean.leader.election.enable).
    """
    isr = tuple(broker for broker in before.isr if broker in alive)
    leader = before.leader
    if isr:
        if leader not in alive:
            leader = next(broker for broker in before.replicas if broker in isr)
    elif unclean:
        leader = max(unclean, key=lambda broker: (*unclean[broker], -before.replicas.index(broker)))
        isr = (leader,)
    else:
        isr, leader = before.isr, NO_LEADER
    if (isr, leader) == (before.isr, before.leader):
        return before
    return before._replace(
        isr=isr,
        leader=leader,
        leader_epoch=before.leader_epoch + (leader != before.leader),
        partition_epoch=before.partition_epoch + 1,
    )


def prefer(before: PartitionRegistration, alive: Container[int], leader: int | None = None) -> PartitionRegistration:
    """The partition with its preferred leader, the first of its replicas, or with `leader`; `before` if that cannot lead.

    REQUIRES: the new leader has everything, because appends were stopped until it had.
    """
    wanted = before.replicas[0] if leader is None else leader
    if wanted == before.leader or wanted not in before.isr or wanted not in alive:
        return before
    return before._replace(
        leader=wanted, leader_epoch=before.leader_epoch + 1, partition_epoch=before.partition_epoch + 1
    )


def place(brokers: Sequence[int], partitions: int, factor: int, first: int = 0) -> list[tuple[int, ...]]:
    """The replicas of each of a topic's partitions, the preferred leader first.

    Leaders take turns, and so do the followers of one leader: each time a broker leads again, its followers are shifted by
    one, so that a broker that fails leaves its work to all others. `first`: the turn of the first partition, so that topics
    of one partition do not all lie on the same broker.

    >>> place([0, 1, 2], 4, 2)
    [(0, 1), (1, 2), (2, 0), (0, 2)]
    """
    if not 1 <= factor <= len(brokers):
        raise ValueError(f"{factor} replicas on {len(brokers)} brokers")
    placed = []
    for number in range(first, first + partitions):
        rounds, at = divmod(number, len(brokers))
        others = len(brokers) - 1
        shift = rounds % others if others else 0
        turn = [brokers[(at + 1 + (shift + step) % others) % len(brokers)] for step in range(factor - 1)]
        placed.append((brokers[at], *turn))
    return placed
