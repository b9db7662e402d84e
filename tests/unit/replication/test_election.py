"""Who leads, and where replicas lie: pure answers to what the metadata says."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlog.replication.election import (
    elect,
    finish,
    origin_of,
    place,
    place_by_rank,
    prefer,
    reassign,
    resize,
    successor,
    target_of,
)
from streamlog.replication.replica_set import NO_LEADER, PartitionRegistration

BEFORE = PartitionRegistration((0, 1, 2), (0, 1, 2), 0, 3, 7)


def test_a_leader_that_is_alive_stays_and_who_is_gone_leaves_the_set() -> None:
    assert elect(BEFORE, {0, 1, 2}) is BEFORE
    after = elect(BEFORE, {0, 2})
    assert after == BEFORE._replace(isr=(0, 2), partition_epoch=8), "the leader epoch is the same: nothing is truncated"


def test_the_first_replica_of_the_set_that_is_alive_leads_in_a_new_epoch() -> None:
    after = elect(BEFORE._replace(replicas=(0, 2, 1)), {1, 2})
    assert (after.leader, after.leader_epoch, after.isr, after.partition_epoch) == (2, 4, (1, 2), 8)


def test_a_replica_outside_the_set_does_not_lead() -> None:
    """The last member may have what no other has (scenario 4)."""
    after = elect(BEFORE._replace(isr=(0,)), {1, 2})
    assert (after.leader, after.isr) == (NO_LEADER, (0,))
    assert elect(after, {1, 2}) is after
    back = elect(after, {0, 1, 2})
    assert (back.leader, back.leader_epoch) == (0, 5)


def test_where_the_topic_allows_it_the_replica_with_the_latest_epoch_and_then_the_longest_log_leads() -> None:
    before = BEFORE._replace(isr=(0,))
    assert elect(before, {1, 2}, unclean={1: (3, 50), 2: (4, 10)}).leader == 2
    assert elect(before, {1, 2}, unclean={1: (3, 50), 2: (3, 50)}).leader == 1, "the preferred one of equals"
    after = elect(before, {1, 2}, unclean={1: (3, 50), 2: (3, 10)})
    assert (after.leader, after.isr) == (1, (1,))
    assert elect(BEFORE, {1}, unclean={2: (9, 99)}).leader == 1, "a member of the set comes first"


def test_the_preferred_leader_takes_over_if_it_is_in_the_set() -> None:
    after = elect(BEFORE, {1, 2})
    assert prefer(after, {0, 1, 2}) is after, "it has not caught up"
    back = prefer(after._replace(isr=(1, 2, 0)), {0, 1, 2})
    assert (back.leader, back.leader_epoch) == (0, after.leader_epoch + 1)
    assert prefer(BEFORE, {0, 1, 2}, leader=2).leader == 2
    assert prefer(BEFORE, {0, 1}, leader=2) is BEFORE


@given(st.integers(1, 6), st.integers(1, 40), st.data())
def test_leaders_and_followers_are_spread_evenly(brokers: int, partitions: int, data: st.DataObject) -> None:
    factor = data.draw(st.integers(1, brokers))
    placed = place(range(brokers), partitions, factor, first=data.draw(st.integers(0, 20)))
    assert len(placed) == partitions
    assert all(len(set(replicas)) == factor for replicas in placed)
    leaders = Counter(replicas[0] for replicas in placed)
    assert max(leaders.values()) - min(leaders[broker] for broker in range(brokers)) <= 1
    everywhere = Counter(broker for replicas in placed for broker in replicas)
    assert max(everywhere.values()) - min(everywhere[broker] for broker in range(brokers)) <= factor + 1


def test_a_broker_that_fails_leaves_its_work_to_all_others() -> None:
    placed = place(range(4), 12, 2)
    assert Counter(second for first, second in placed if first == 0) == {1: 1, 2: 1, 3: 1}


def test_more_replicas_than_brokers_are_refused() -> None:
    with pytest.raises(ValueError, match="3 replicas on 2 brokers"):
        place([0, 1], 1, 3)


# -- reassignments ---------------------------------------------------------------------------------------


def test_a_reassigned_partition_has_the_replicas_of_both_until_the_new_ones_are_in_sync() -> None:
    moving = reassign(BEFORE, (3, 1))
    assert moving == PartitionRegistration((3, 1, 0, 2), (0, 1, 2), 0, 3, 8, (3,), (0, 2))
    assert (origin_of(moving), target_of(moving)) == ((1, 0, 2), (3, 1))
    assert reassign(moving, (3, 1)) is moving, "it is on that way"
    assert finish(moving) is moving
    assert successor(moving) is None
    joined = moving._replace(isr=(0, 1, 2, 3), partition_epoch=9)
    assert finish(joined) is joined, "the leader is one of those that leave"
    assert successor(joined) == 3
    led = prefer(joined, {0, 1, 2, 3}, 3)
    assert successor(led) is None
    assert finish(led) == PartitionRegistration((3, 1), (1, 3), 3, 4, 11)
    assert finish(finish(led)) == finish(led)


def test_a_reassignment_to_where_it_began_is_a_cancellation_also_if_a_new_replica_leads() -> None:
    moving = reassign(BEFORE, (3,))
    assert finish(reassign(moving, origin_of(moving)))._replace(partition_epoch=7) == BEFORE
    led = moving._replace(isr=(3,), leader=3, leader_epoch=4)
    back = reassign(led, (0, 1, 2))
    assert back.removing_replicas == (3,)
    assert finish(back) is back
    assert successor(back) is None, "no replica that stays has everything yet"
    assert successor(back._replace(isr=(3, 1))) == 1


@given(st.data())
def test_a_reassignment_ends_with_its_target_whatever_it_replaced(data: st.DataObject) -> None:
    replicas = st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True).map(tuple)
    first = data.draw(replicas)
    partition = PartitionRegistration(first, first, first[0], 0, 0)
    for target in data.draw(st.lists(replicas, min_size=1, max_size=4)):
        partition = reassign(partition, target)
        assert set(partition.isr) <= set(partition.replicas)
        assert target_of(partition) == target
        if data.draw(st.booleans()):
            isr = data.draw(st.permutations(partition.replicas))
            partition = partition._replace(isr=tuple(isr))
        finished = finish(partition)
        assert finished.leader in finished.isr
        partition = finished
    partition = partition._replace(isr=partition.replicas)
    leader = successor(partition)
    if leader is not None:
        partition = prefer(partition, range(6), leader)
    assert finish(partition)[:2] == (target, tuple(each for each in partition.isr if each in target))


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6), st.integers(1, 12))
def test_another_factor_moves_no_more_than_it_must(count: int, before: int, after: int, partitions: int) -> None:
    brokers = list(range(max(count, before, after)))
    placed = place(brokers, partitions, before)
    resized = resize(dict.fromkeys(brokers, 0), placed, after)
    assert all(len(set(each)) == len(each) == after for each in resized)
    assert all(new[0] == old[0] for new, old in zip(resized, placed, strict=True)), "preferred leaders stay"
    assert all(len(set(new) & set(old)) == min(before, after) for new, old in zip(resized, placed, strict=True))


def test_a_broker_that_is_left_out_has_no_replica_any_more() -> None:
    assert resize(dict.fromkeys([0, 2, 3], 0), [(1, 0), (0, 2), (2, 1)], 2) == [(0, 3), (0, 2), (2, 3)]


@given(
    st.dictionaries(st.integers(0, 8), st.integers(0, 1), min_size=1),
    st.integers(1, 9),
    st.integers(1, 12),
    st.integers(0, 20),
)
def test_brokers_of_a_higher_rank_get_replicas_only_where_the_others_have_one(
    brokers: dict[int, int], factor: int, partitions: int, first: int
) -> None:
    factor = min(factor, len(brokers))
    low = {broker for broker, rank in brokers.items() if rank == min(brokers.values())}
    for made in (
        place_by_rank(brokers, partitions, factor, first),
        resize(brokers, [(99,)] * partitions, factor),
    ):
        assert len(made) == partitions
        for replicas in made:
            assert len(set(replicas)) == len(replicas) == factor
            assert set(replicas) <= low or low <= set(replicas)
            assert replicas[0] in low
    leaders = Counter(replicas[0] for replicas in place_by_rank(brokers, partitions, factor, first))
    assert max(leaders.values()) - min(leaders[each] for each in low) <= 1
