"""Each assignor spreads partitions as Kafka's does."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlog.coordinator.assignors import ASSIGNORS, Assignment, Subscription, choose
from streamlog.errors import ConfigError
from streamlog.types import TopicPartition

STICKY = ["sticky", "cooperative-sticky"]


def spread(
    name: str, topics: Mapping[str, str], partitions: Mapping[str, int], owned: Mapping[str, str] | None = None
) -> dict[str, str]:
    """`spread("range", {"a": "t u"}, {"t": 1, "u": 1})` is `{"a": "t0 u0"}`; member `a:i` has instance id i."""
    members = {
        member: Subscription(
            frozenset(words.split()),
            frozenset(TopicPartition(word[:-1], int(word[-1])) for word in (owned or {}).get(member, "").split()),
            member.partition(":")[2] or None,
        )
        for member, words in topics.items()
    }
    assignment = ASSIGNORS[name].assign(members, partitions)
    return {
        member: " ".join(f"{topic}{number}" for topic, number in sorted(held)) for member, held in assignment.items()
    }


# -- range


def test_range_gives_neighbours_and_the_larger_shares_to_the_first_members() -> None:
    assert spread("range", {"a": "t u", "b": "t u"}, {"t": 3, "u": 3}) == {"a": "t0 t1 u0 u1", "b": "t2 u2"}


def test_range_counts_only_the_subscribers_of_a_topic() -> None:
    topics = {"a": "t", "b": "t u", "c": "t"}
    assert spread("range", topics, {"t": 3, "u": 2}) == {"a": "t0", "b": "t1 u0 u1", "c": "t2"}


def test_range_leaves_members_beyond_the_partitions_empty() -> None:
    assert spread("range", {"a": "t", "b": "t", "c": "t"}, {"t": 2}) == {"a": "t0", "b": "t1", "c": ""}


def test_range_co_partitions_topics_of_equal_count() -> None:
    assert spread("range", {"a": "t u", "b": "t u"}, {"t": 2, "u": 2}) == {"a": "t0 u0", "b": "t1 u1"}


def test_static_members_come_first_in_order_of_their_instance_ids() -> None:
    topics = {"a": "t", "z:1": "t", "y:2": "t"}
    assert spread("range", topics, {"t": 3}) == {"z:1": "t0", "y:2": "t1", "a": "t2"}


# -- roundrobin


def test_roundrobin_deals_all_partitions_of_all_topics_in_turn() -> None:
    topics = {"a": "t u", "b": "t u"}
    assert spread("roundrobin", topics, {"t": 3, "u": 3}) == {"a": "t0 t2 u1", "b": "t1 u0 u2"}


def test_roundrobin_skips_members_that_do_not_subscribe_to_the_topic() -> None:
    # the example of RoundRobinAssignor's own documentation
    topics = {"a": "t", "b": "t u", "c": "t u v"}
    partitions = {"t": 1, "u": 2, "v": 3}
    assert spread("roundrobin", topics, partitions) == {"a": "t0", "b": "u0", "c": "u1 v0 v1 v2"}


# -- sticky


@pytest.mark.parametrize("name", STICKY)
def test_sticky_assigns_in_turn_when_no_member_has_partitions(name: str) -> None:
    topics = {"a": "t u", "b": "t u"}
    assert spread(name, topics, {"t": 3, "u": 3}) == {"a": "t0 t2 u1", "b": "t1 u0 u2"}


@pytest.mark.parametrize("name", STICKY)
def test_sticky_gives_only_the_departed_members_partitions_away(name: str) -> None:
    # the first example of StickyAssignor's documentation: consumer b leaves
    topics = {"a": "t u v w", "c": "t u v w"}
    partitions = {"t": 2, "u": 2, "v": 2, "w": 2}
    owned = {"a": "t0 u1 w0", "c": "u0 v1"}
    after = spread(name, topics, partitions, owned)
    assert set(owned["a"].split()) <= set(after["a"].split())
    assert set(owned["c"].split()) <= set(after["c"].split())
    assert {len(held.split()) for held in after.values()} == {4}


@pytest.mark.parametrize("name", STICKY)
def test_sticky_takes_from_the_members_with_most_for_a_newcomer(name: str) -> None:
    after = spread(name, dict.fromkeys("abc", "t"), {"t": 6}, {"a": "t0 t1 t2", "b": "t3 t4 t5"})
    assert after == {"a": "t0 t1", "b": "t3 t4", "c": "t2 t5"}


@pytest.mark.parametrize("name", STICKY)
def test_sticky_moves_nothing_when_one_partition_more_is_as_fair_here_as_there(name: str) -> None:
    assert spread(name, dict.fromkeys("ab", "t"), {"t": 3}, {"a": "t0", "b": "t1 t2"}) == {"a": "t0", "b": "t1 t2"}


@pytest.mark.parametrize("name", STICKY)
def test_sticky_drops_what_is_no_longer_subscribed_or_there(name: str) -> None:
    assert spread(name, {"a": "t"}, {"t": 1}, {"a": "t0 t5 u0"}) == {"a": "t0"}


@pytest.mark.parametrize("name", STICKY)
def test_sticky_lets_only_one_of_two_claimants_keep_a_partition(name: str) -> None:
    assert spread(name, dict.fromkeys("ab", "t"), {"t": 2}, {"a": "t0", "b": "t0"}) == {"a": "t0", "b": "t1"}


@pytest.mark.parametrize("name", STICKY)
def test_sticky_balances_unequal_subscriptions_through_members_in_between(name: str) -> None:
    # a can give nothing to c itself, but t1 to b, and b its u0 to c
    topics = {"a": "t", "b": "t u", "c": "u"}
    after = spread(name, topics, {"t": 2, "u": 1}, {"a": "t0 t1", "b": "u0"})
    assert after == {"a": "t0", "b": "t1", "c": "u0"}


def test_unknown_topics_give_nothing() -> None:
    for name in ASSIGNORS:
        assert spread(name, {"a": "t nowhere"}, {"t": 1}) == {"a": "t0"}


def test_a_group_without_members_is_assigned_nothing() -> None:
    for name in ASSIGNORS:
        assert spread(name, {}, {"t": 1}) == {}


# -- all of them, on anything

TOPICS = "tuvw"
SUBSCRIPTIONS = st.dictionaries(
    st.sampled_from("abcdef"), st.frozensets(st.sampled_from(TOPICS), max_size=4), min_size=1
)
PARTITIONS = st.dictionaries(st.sampled_from(TOPICS), st.integers(1, 7))


def best_possible(topics: Mapping[str, frozenset[str]], partitions: Mapping[str, int]) -> list[int]:
    """The loads of an optimal spread, ascending, found by moving single partitions along any chain until none helps.

    Written the slow and obvious way: all partitions to anyone, then Bellman-Ford-like relaxation over member pairs.
    """
    held = {member: [] for member in topics}  # type: dict[str, list[str]]
    for topic, number in partitions.items():
        takers = [member for member in topics if topic in topics[member]]
        for _ in range(number if takers else 0):
            held[takers[0]].append(topic)
    while True:
        reach = {
            (giver, taker): topic
            for giver in held
            for taker in held
            for topic in held[giver]
            if giver != taker and topic in topics[taker]
        }
        paths = {pair: [pair] for pair in reach}
        for middle in held:
            for giver in held:
                for taker in held:
                    if giver != taker and (giver, middle) in paths and (middle, taker) in paths:
                        paths.setdefault((giver, taker), paths[giver, middle] + paths[middle, taker])
        better = [path for (giver, taker), path in paths.items() if len(held[giver]) >= len(held[taker]) + 2]
        if not better:
            return sorted(len(items) for items in held.values())
        for giver, taker in min(better, key=len):
            topic = next(topic for topic in held[giver] if topic in topics[taker])
            held[giver].remove(topic)
            held[taker].append(topic)


def members_of(topics: Mapping[str, frozenset[str]], owned: Assignment | None = None) -> dict[str, Subscription]:
    return {member: Subscription(names, (owned or {}).get(member, frozenset())) for member, names in topics.items()}


@given(SUBSCRIPTIONS, PARTITIONS)
def test_every_subscribed_partition_goes_to_exactly_one_subscriber(
    topics: dict[str, frozenset[str]], partitions: dict[str, int]
) -> None:
    for assignor in ASSIGNORS.values():
        assignment = assignor.assign(members_of(topics), partitions)
        assert set(assignment) == set(topics)
        given_out = [partition for held in assignment.values() for partition in held]
        subscribed = partitions.keys() & frozenset().union(*topics.values())
        everything = [TopicPartition(topic, number) for topic in subscribed for number in range(partitions[topic])]
        assert sorted(given_out) == sorted(everything)
        for member, held in assignment.items():
            assert {partition.topic for partition in held} <= topics[member]


@given(SUBSCRIPTIONS, PARTITIONS)
def test_sticky_is_as_balanced_as_the_subscriptions_allow(
    topics: dict[str, frozenset[str]], partitions: dict[str, int]
) -> None:
    assignment = ASSIGNORS["sticky"].assign(members_of(topics), partitions)
    assert sorted(len(held) for held in assignment.values()) == best_possible(topics, partitions)


@given(SUBSCRIPTIONS, PARTITIONS)
def test_sticky_moves_nothing_when_nothing_changed(
    topics: dict[str, frozenset[str]], partitions: dict[str, int]
) -> None:
    before = ASSIGNORS["sticky"].assign(members_of(topics), partitions)
    assert ASSIGNORS["sticky"].assign(members_of(topics, before), partitions) == before


@given(st.integers(1, 6), st.integers(0, 20), st.sampled_from("abcdefg"))
def test_sticky_moves_only_what_balance_demands_when_subscriptions_are_equal(
    size: int, partitions: int, newcomer: str
) -> None:
    topics = dict.fromkeys("bcdefg"[:size], frozenset("t"))
    before = ASSIGNORS["sticky"].assign(members_of(topics), {"t": partitions})
    topics[newcomer] = frozenset("t")
    after = ASSIGNORS["sticky"].assign(members_of(topics, before), {"t": partitions})
    moved = sum(len(held - after[member]) for member, held in before.items())
    newcomers_share = sum(len(after[member]) for member in topics.keys() - before.keys())
    assert moved == newcomers_share


# -- choosing


def test_the_first_common_name_is_chosen() -> None:
    assert choose([("cooperative-sticky", "range"), ("cooperative-sticky", "range")]).name == "cooperative-sticky"
    assert choose([("cooperative-sticky", "range"), ("range",)]).name == "range"


def test_members_vote_when_several_names_are_common() -> None:
    preferences = [("range", "sticky"), ("sticky", "range"), ("sticky", "range")]
    assert choose(preferences).name == "sticky"


def test_a_tie_goes_to_what_the_first_member_prefers() -> None:
    assert choose([("range", "sticky"), ("sticky", "range")]).name == "range"


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as refused:
        action()
    return str(refused.value)


def test_an_unknown_name_is_refused_with_the_nearest_known_one() -> None:
    assert "did you mean 'roundrobin'" in refusal(lambda: choose([("round-robin",)]))


def test_members_without_a_common_name_are_refused_with_what_they_have() -> None:
    message = refusal(lambda: choose([("range",), ("sticky",)]))
    assert "range; sticky" in message


def test_no_name_at_all_is_refused() -> None:
    assert "is empty" in refusal(lambda: choose([()]))
