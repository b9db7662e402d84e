"""Who gets which partition, strategy by strategy, as Kafka's assignors decide."""

from __future__ import annotations

from typing import Any

import pytest

import streamlog
from streamlog import StreamlogError, TopicPartition

Consumer = streamlog.Consumer[Any, Any]
STRATEGIES = ["range", "roundrobin", "sticky", "cooperative-sticky"]


def join(log: streamlog.StreamLog, members: list[Consumer], *topics: str, strategy: Any) -> Consumer:
    member = log.consumer(*topics, group="g", partition_assignment_strategy=strategy)
    members.append(member)
    settle(members)
    return member


def settle(members: list[Consumer]) -> None:
    for _ in range(3):
        for member in members:
            member.poll()


def by_topic(member: Consumer, topic: str) -> list[int]:
    return sorted(partition.partition for partition in member.assignment() if partition.topic == topic)


def close_all(members: list[Consumer]) -> None:
    for member in members:
        member.close()


@pytest.mark.parametrize("strategy", [*STRATEGIES, None])
def test_every_partition_has_one_owner_and_the_load_is_even(log: streamlog.StreamLog, strategy: str | None) -> None:
    log.create_topic("t", partitions=7)
    members: list[Consumer] = []
    for count in (1, 2, 3, 4):
        if strategy is None:
            members.append(log.consumer("t", group="g"))
            settle(members)
        else:
            join(log, members, "t", strategy=strategy)
        sizes = [len(member.assignment()) for member in members]
        assert sum(sizes) == 7
        assert max(sizes) - min(sizes) <= 1, (count, sizes)
        assert len(set().union(*(member.assignment() for member in members))) == 7
    close_all(members)


def test_range_gives_each_member_a_contiguous_share_of_each_topic(log: streamlog.StreamLog) -> None:
    log.create_topic("t", partitions=4)
    log.create_topic("u", partitions=4)
    members: list[Consumer] = []
    for _ in range(3):
        join(log, members, "t", "u", strategy="range")
    shares = sorted(by_topic(member, "t") for member in members)
    assert shares == [[0, 1], [2], [3]]
    # Partitions of the same number go together, so that two topics with the same keys can be joined.
    assert all(by_topic(member, "t") == by_topic(member, "u") for member in members)
    close_all(members)


def test_range_follows_the_order_of_the_member_ids(log: streamlog.StreamLog) -> None:
    log.create_topic("t", partitions=5)
    members: list[Consumer] = []
    for _ in range(2):
        join(log, members, "t", strategy="range")
    in_order = sorted(log.group("g").members(), key=lambda member: member.member_id)
    shares = [sorted(partition.partition for partition in member.assignment) for member in in_order]
    assert shares == [[0, 1, 2], [3, 4]]
    close_all(members)


def test_roundrobin_deals_all_partitions_out_in_turn(log: streamlog.StreamLog) -> None:
    log.create_topic("t", partitions=3)
    log.create_topic("u", partitions=3)
    members: list[Consumer] = []
    for _ in range(2):
        join(log, members, "t", "u", strategy="roundrobin")
    shares = sorted(sorted(member.assignment()) for member in members)
    assert shares == [[("t", 0), ("t", 2), ("u", 1)], [("t", 1), ("u", 0), ("u", 2)]]
    close_all(members)


def test_roundrobin_passes_over_members_that_do_not_subscribe(log: streamlog.StreamLog) -> None:
    log.create_topic("t", partitions=2)
    log.create_topic("u", partitions=2)
    members: list[Consumer] = []
    join(log, members, "t", "u", strategy="roundrobin")
    join(log, members, "t", strategy="roundrobin")
    assert by_topic(members[1], "u") == []
    assert by_topic(members[0], "u") == [0, 1]
    assert sorted(by_topic(members[0], "t") + by_topic(members[1], "t")) == [0, 1]
    close_all(members)


@pytest.mark.parametrize("strategy", ["sticky", "cooperative-sticky"])
def test_sticky_moves_no_partition_between_members_that_stay(log: streamlog.StreamLog, strategy: str) -> None:
    log.create_topic("t", partitions=9)
    members: list[Consumer] = []
    for _ in range(3):
        before = [member.assignment() for member in members]
        join(log, members, "t", strategy=strategy)
        for member, had in zip(members, before, strict=False):
            assert member.assignment() <= had
    before = [member.assignment() for member in members[1:]]
    members.pop(0).close()
    settle(members)
    for member, had in zip(members, before, strict=True):
        assert member.assignment() >= had
    assert sorted(len(member.assignment()) for member in members) == [4, 5]
    close_all(members)


@pytest.mark.parametrize("strategy", ["sticky", "cooperative-sticky"])
def test_sticky_balances_unequal_subscriptions(log: streamlog.StreamLog, strategy: str) -> None:
    log.create_topic("t", partitions=3)
    log.create_topic("u", partitions=3)
    members: list[Consumer] = []
    join(log, members, "t", "u", strategy=strategy)
    join(log, members, "t", strategy=strategy)
    assert members[0].assignment() == {TopicPartition("u", n) for n in range(3)}
    assert members[1].assignment() == {TopicPartition("t", n) for n in range(3)}
    close_all(members)


def test_members_use_a_strategy_that_all_of_them_know(log: streamlog.StreamLog) -> None:
    log.create_topic("t", partitions=4)
    log.create_topic("u", partitions=4)
    members: list[Consumer] = []
    join(log, members, "t", "u", strategy=["roundrobin", "range"])
    join(log, members, "t", "u", strategy="range")
    assert sorted(by_topic(member, "t") for member in members) == [[0, 1], [2, 3]]
    assert all(by_topic(member, "t") == by_topic(member, "u") for member in members)
    close_all(members)


def test_a_member_that_shares_no_strategy_with_the_group_is_refused(log: streamlog.StreamLog) -> None:
    log.create_topic("t", partitions=2)
    with log.consumer("t", group="g", partition_assignment_strategy="range") as first:
        first.poll()
        stranger = log.consumer("t", group="g", partition_assignment_strategy="roundrobin")
        with pytest.raises(StreamlogError):
            stranger.poll()
        stranger.close()
        first.poll()
        assert len(first.assignment()) == 2
