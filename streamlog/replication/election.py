"""Elections, reassignments, and the placement of replicas: pure functions over the registration of a partition."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence

from .replica_set import NO_LEADER, PartitionRegistration


def elect(
    before: PartitionRegistration,
    alive: Container[int],
    *,
    unclean: Mapping[int, tuple[int, int]] | None = None,
) -> PartitionRegistration:
    """The partition after brokers have stopped or started; `before` itself if nothing changes. `alive`: the running brokers.

    A leader that is alive stays. Otherwise the first of the replicas leads that is alive and in the last committed in-sync
    set, the preferred leader if possible. Members that are not alive leave the set, unless no member is alive: such a set stays
    as it is, because its members alone have all committed records, and the first of them that is started leads.

    `unclean`: the replicas among which a leader may be chosen if no member of the set is alive, each with the epoch of its
    last record and its end offset. The greatest leads, and is the only member of the new set. Records that only the others
    have are lost (Kafka's unclean.leader.election.enable).
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
    """The partition led by `leader`, or by its preferred leader, the first of its replicas; `before` if that one cannot lead.

    REQUIRES: the new leader has all records, because appends were stopped until it had.
    """
    wanted = before.replicas[0] if leader is None else leader
    if wanted == before.leader or wanted not in before.isr or wanted not in alive:
        return before
    return before._replace(
        leader=wanted, leader_epoch=before.leader_epoch + 1, partition_epoch=before.partition_epoch + 1
    )


def reassign(before: PartitionRegistration, target: tuple[int, ...]) -> PartitionRegistration:
    """The partition while it is reassigned to the replicas `target`, the preferred leader first; `before` if nothing changes.

    It has the old and the new replicas until `finish`. A reassignment that is under way is replaced. The replicas that it began
    with as `target` cancel it: the replicas that it has added are removed again (KIP-455).
    """
    original = origin_of(before)
    adding = tuple(each for each in target if each not in original)
    removing = tuple(each for each in before.replicas if each not in target)
    after = before._replace(replicas=(*target, *removing), adding_replicas=adding, removing_replicas=removing)
    return before if after == before else after._replace(partition_epoch=before.partition_epoch + 1)


def origin_of(partition: PartitionRegistration) -> tuple[int, ...]:
    """The replicas that a partition has without those that a reassignment adds."""
    return tuple(each for each in partition.replicas if each not in partition.adding_replicas)


def target_of(partition: PartitionRegistration) -> tuple[int, ...]:
    """The replicas that a partition has, or will have when its reassignment is finished."""
    return tuple(each for each in partition.replicas if each not in partition.removing_replicas)


def successor(partition: PartitionRegistration) -> int | None:
    """The replica that has to lead before a reassignment can be finished: all that it adds are in sync, and the leader leaves."""
    if partition.leader not in partition.removing_replicas or not set(partition.adding_replicas) <= set(partition.isr):
        return None
    return next((each for each in target_of(partition) if each in partition.isr), None)


def finish(before: PartitionRegistration) -> PartitionRegistration:
    """The partition without the replicas that leave, once those that a reassignment adds are in sync, and one that stays leads.

    `before` itself until then.
    """
    replicas = target_of(before)
    is_moving = before.adding_replicas or before.removing_replicas
    if not is_moving or before.leader not in replicas or not set(before.adding_replicas) <= set(before.isr):
        return before
    isr = tuple(each for each in before.isr if each in replicas)
    return before._replace(
        replicas=replicas, isr=isr, adding_replicas=(), removing_replicas=(), partition_epoch=before.partition_epoch + 1
    )


def resize(
    brokers: Mapping[int, int], placed: Sequence[tuple[int, ...]], factor: int, counts: Counter[int] | None = None
) -> list[tuple[int, ...]]:
    """The replicas of a topic's partitions, `factor` of each and all on `brokers`. As few move as can be, and preferred leaders stay.

    `brokers`: the rank of each; one of a higher rank gets a replica only where all of lower ones have one, and loses one first.
    `counts`: how many replicas each has, by default of these partitions.

    >>> resize({0: 0, 1: 0, 2: 0}, [(0,), (1,), (2,)], 2)
    [(0, 1), (1, 2), (2, 0)]
    >>> resize({0: 0, 1: 0}, [(2, 0), (1, 2)], 2)
    [(0, 1), (1, 0)]
    """
    counts = Counter(each for replicas in placed for each in replicas) if counts is None else counts
    resized = []
    for replicas in placed:
        kept = [each for each in replicas if each in brokers]
        while len(kept) > factor:
            leaving = max(kept[1:], key=lambda each: (brokers[each], counts[each], kept.index(each)))
            kept.remove(leaving)
            counts[leaving] -= 1
        while len(kept) < factor:
            others = [each for each in brokers if each not in kept]
            joining = min(
                others, key=lambda each: (brokers[each], counts[each], (each - replicas[0]) % (max(brokers) + 1))
            )
            kept.append(joining)
            counts[joining] += 1
        resized.append(tuple(kept))
    return resized


def place_by_rank(brokers: Mapping[int, int], partitions: int, factor: int, first: int = 0) -> list[tuple[int, ...]]:
    """`place`, on the brokers of rank 0 as far as they suffice; the others get only what is left (Kafka's StripedReplicaPlacer).

    >>> place_by_rank({0: 0, 1: 1, 2: 0}, 2, 3)
    [(0, 2, 1), (2, 0, 1)]
    >>> place_by_rank({0: 0, 1: 1, 2: 0}, 0, 3)
    []
    """
    ranks = [[broker for broker in brokers if brokers[broker] == rank] for rank in sorted(set(brokers.values()))]
    placed: list[tuple[int, ...]] = [()] * partitions
    for of_rank in ranks if placed else ():
        more = min(factor - len(placed[0]), len(of_rank))
        if more:
            placed = [has + new for has, new in zip(placed, place(of_rank, partitions, more, first), strict=True)]
    return placed


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
