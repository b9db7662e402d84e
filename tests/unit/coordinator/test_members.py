"""Joining, moving partitions, leaving, eviction: a partition has at most one owner, and no member waits in vain."""

from __future__ import annotations

from typing import Any

import pytest

from streamlog.errors import ConfigError, GroupIdNotFoundError, UnknownMemberIdError


def test_a_sole_member_has_everything_in_the_answer_to_its_first_heartbeat(world: Any, tp: Any) -> None:
    answer = world.joined().answer
    assert answer.assignment == tp("t0", "t1", "t2", "t3")
    assert answer.stable
    assert world.state == "Stable"


def test_a_newcomer_waits_until_the_owner_says_that_it_let_go(world: Any, tp: Any) -> None:
    first = world.joined()
    second = world.joined()
    assert second.held == frozenset() and not second.answer.stable
    assert world.state == "Reconciling"

    answer = first.heartbeat()
    assert answer.assignment == tp("t0", "t1") and not answer.stable
    assert second.heartbeat().assignment == frozenset()

    assert first.heartbeat().stable
    assert second.heartbeat().assignment == tp("t2", "t3")
    assert world.state == "Stable"


@pytest.mark.parametrize("assignor", ["range", "roundrobin", "sticky", "cooperative-sticky"])
def test_two_rounds_make_a_group_stable(world: Any, assignor: str) -> None:
    world.topics["t"] = 10
    members = [world.member(assignors=(assignor,)) for _ in range(4)]
    world.poll_in_turn(*members)
    assert world.state == "Stable"
    assert all(member.answer.stable for member in members)
    assert sorted(len(member.held) for member in members) == [2, 2, 3, 3]


def test_a_member_keeps_what_stays_its_own_while_the_rest_moves(world: Any, tp: Any) -> None:
    first = world.joined()
    second = world.joined()
    first.heartbeat()
    first.commit({next(iter(tp("t0"))): 5})
    world.poll_in_turn(first, second)
    assert first.held == tp("t0", "t1")


def test_an_owner_that_does_not_poll_keeps_its_partitions(world: Any, tp: Any) -> None:
    lazy = world.joined()
    second = world.joined()
    for _ in range(3):
        lazy.ask().result()  # it learns of the rebalance, and keeps its partitions
        assert second.heartbeat().assignment == frozenset()
    described = world.shard.describe("g").members[0]
    assert (described.member_id, described.assignment) == (lazy.id, tp("t0", "t1", "t2", "t3"))


def test_what_a_member_claims_without_having_been_given_it_is_not_given_away(world: Any, tp: Any) -> None:
    first, second = world.member(), world.member()
    world.poll_in_turn(first, second)
    second.held = tp("t0", "t2", "t3")
    assert second.heartbeat().assignment == tp("t2", "t3")
    assert first.heartbeat().assignment == tp("t0", "t1")


def test_a_member_that_missed_its_answer_gets_it_again(world: Any, tp: Any) -> None:
    member = world.joined()
    member.held = frozenset()
    assert member.heartbeat().assignment == tp("t0", "t1", "t2", "t3")


def test_partitions_of_a_member_that_leaves_are_free_at_once(world: Any, tp: Any) -> None:
    first, second = world.member(), world.member()
    world.poll_in_turn(first, second)
    first.leave()
    assert second.heartbeat().assignment == tp("t0", "t1", "t2", "t3")


def test_leaving_in_the_middle_of_a_move_loses_no_partition(world: Any, tp: Any) -> None:
    first, second = world.joined(), world.joined()
    first.heartbeat()
    second.leave()
    assert first.poll() == tp("t0", "t1", "t2", "t3")
    assert world.state == "Stable"


@pytest.mark.parametrize("reopens", [False, True])
def test_partitions_of_members_that_leave_a_large_group_are_free_at_the_next_heartbeat(
    world: Any, reopens: bool
) -> None:
    world.topics = {"t": 40, "u": 4}
    members = [world.member() for _ in range(20)]
    world.poll_in_turn(*members, rounds=3)
    first, second, *others = members
    first.leave()
    second.leave()
    assert world.state == "Reconciling"
    epoch = world.epoch
    if reopens:
        world.open("1", world.compacted())  # what is left to do is in the log
        world.shard.check()
    world.poll_in_turn(*others)
    assert world.state == "Stable"
    assert world.epoch == epoch + 1
    assert sorted(len(each.held) for each in others) == [2] * 14 + [3] * 4


def test_a_member_without_partitions_leaves_a_large_group_and_nothing_else_changes(world: Any) -> None:
    world.topics = {"t": 4, "u": 4}
    members = [world.member() for _ in range(20)]
    world.poll_in_turn(*members, rounds=3)
    epoch = world.epoch
    idle = next(each for each in members if not each.held)
    idle.leave()
    assert (world.state, world.epoch) == ("Stable", epoch)


def test_a_member_that_left_is_unknown(world: Any) -> None:
    member = world.joined()
    member.leave()
    with pytest.raises(UnknownMemberIdError, match="join again"):
        member.heartbeat()
    with pytest.raises(UnknownMemberIdError):
        member.leave()
    assert world.state == "Empty"


def test_an_epoch_from_the_future_is_unknown(world: Any) -> None:
    member = world.joined()
    member.epoch += 1
    with pytest.raises(UnknownMemberIdError):
        member.heartbeat()


def test_a_member_that_joins_holds_nothing_whatever_it_says(world: Any, tp: Any) -> None:
    first = world.joined()
    claimer = world.member()
    claimer.held = tp("t0", "t1", "t2", "t3")
    assert claimer.heartbeat().assignment == frozenset()
    assert first.held == tp("t0", "t1", "t2", "t3")


# -- subscriptions and topics


def test_a_changed_subscription_changes_the_target(world: Any, tp: Any) -> None:
    world.topics["u"] = 1
    member = world.joined("t")
    member.topics = frozenset("u")
    assert member.poll() == tp("u0")
    assert world.state == "Stable"


def test_a_topic_that_does_not_exist_yet_gives_partitions_once_it_does(world: Any, tp: Any) -> None:
    member = world.joined("later")
    assert member.held == frozenset() and member.answer.stable
    world.topics["later"] = 2
    assert member.poll() == {("later", 0), ("later", 1)}


def test_a_heartbeat_notices_by_itself_that_its_topic_grew(world: Any, tp: Any) -> None:
    member = world.joined()
    member.poll()
    world.topics["t"] = 5
    assert member.poll() == tp("t0", "t1", "t2", "t3", "t4")


def test_metadata_gives_a_new_target_without_any_heartbeat(world: Any, tp: Any) -> None:
    member = world.joined("t", "u")
    epoch = world.epoch
    world.topics.update(t=2, u=1)
    world.metadata_changed()
    assert world.epoch == epoch + 1
    assert member.poll() == tp("t0", "t1", "u0")


def test_added_partitions_reach_the_members(world: Any) -> None:
    first, second = world.member(), world.member()
    world.poll_in_turn(first, second)
    world.topics["t"] = 7
    world.metadata_changed()
    world.poll_in_turn(first, second)
    assert sorted(len(member.held) for member in (first, second)) == [3, 4]


def test_a_deleted_topic_takes_its_partitions_along(world: Any) -> None:
    member = world.joined()
    del world.topics["t"]
    world.metadata_changed()
    assert member.poll() == frozenset()
    assert world.state == "Stable"


def test_topics_that_no_group_reads_change_no_group(world: Any) -> None:
    world.joined()
    epoch, written = world.epoch, len(world.log)
    world.topics["other"] = 8
    world.metadata_changed()
    assert (world.epoch, len(world.log)) == (epoch, written)


def test_a_heartbeat_that_knows_only_its_own_topics_changes_nothing_for_the_others(world: Any, tp: Any) -> None:
    world.topics["u"] = 2
    reader = world.joined("t")
    world.topics = {"u": 2}
    world.poll_in_turn(reader_of_u := world.joined("u"))
    epoch = world.epoch
    world.topics = {"t": 4}
    assert reader.poll() == tp("t0", "t1", "t2", "t3")
    assert world.epoch == epoch
    assert reader_of_u.held == tp("u0", "u1")


# -- assignors


def test_a_member_without_a_common_assignor_is_refused_and_nothing_changes(world: Any) -> None:
    world.joined(assignors=("range",))
    before = world.shard.snapshot()
    with pytest.raises(ConfigError, match="in common"):
        world.joined(assignors=("sticky",))
    with pytest.raises(ConfigError, match="did you mean 'sticky'"):
        world.joined(assignors=("stickie",))
    assert world.shard.snapshot() == before


def test_the_assignor_follows_the_members(world: Any) -> None:
    world.joined()
    old = world.joined(assignors=("range",))
    assert world.shard.describe("g").protocol == "range"
    old.leave()
    assert world.shard.describe("g").protocol == "cooperative-sticky"


# -- liveness


def test_a_member_that_does_not_poll_in_time_is_evicted(world: Any, tp: Any) -> None:
    stuck, other = world.member(), world.member()
    world.poll_in_turn(stuck, other)
    world.later(200)
    other.poll()
    assert world.shard.next_expiry_s() <= 1300.0
    world.later(100)
    world.expire()
    assert other.poll() == tp("t0", "t1", "t2", "t3")
    with pytest.raises(UnknownMemberIdError):
        stuck.heartbeat()


def test_the_poll_of_another_member_evicts_an_overdue_member(world: Any, tp: Any) -> None:
    stuck, other = world.member(), world.member()
    world.poll_in_turn(stuck, other)
    world.later(299)
    other.poll()
    world.later(1)
    assert other.heartbeat().assignment == tp("t0", "t1", "t2", "t3")
    assert len(world.shard.describe("g").members) == 1


def test_a_late_poll_is_in_time_if_no_other_call_came_before(world: Any, tp: Any) -> None:
    member = world.joined()
    world.later(1000)
    assert member.poll() == tp("t0", "t1", "t2", "t3")
    world.expire()
    assert world.state == "Stable"


def test_heartbeats_without_polls_do_not_save_a_stuck_member(world: Any) -> None:
    member = world.joined()
    for _ in range(3):
        world.later(100)
        member.heartbeat(polling=False)
    world.expire()
    assert world.state == "Empty"


def test_a_member_of_this_process_has_no_session_to_lose(world: Any) -> None:
    world.joined(session_timeout_s=10.0)
    world.later(100)
    world.expire()
    assert world.state == "Stable"


def test_a_remote_member_loses_its_session(world: Any) -> None:
    member = world.joined(remote=True, session_timeout_s=10.0)
    world.later(9)
    member.heartbeat(polling=False)
    world.later(9)
    world.expire()
    assert world.state == "Stable"
    world.later(1)
    world.expire()
    assert world.state == "Empty"


def test_the_answer_says_when_somebody_will_be_overdue(world: Any) -> None:
    world.joined(max_poll_interval_s=50.0)
    other = world.joined()
    assert other.answer.next_check_s == world.shard.next_expiry_s() == world.now_s + 50.0


def test_a_shorter_poll_interval_counts_from_the_heartbeat_that_brings_it(world: Any) -> None:
    member = world.joined()
    member.max_poll_interval_s = 5.0
    assert member.heartbeat().next_check_s == world.now_s + 5.0


def test_a_setting_that_is_changed_back_holds_again(world: Any) -> None:
    member = world.joined()
    both = member.assignors
    member.poll()  # its answer is kept from here on
    member.assignors = ("cooperative-sticky",)
    member.poll()
    member.assignors = both
    member.poll()
    world.joined(assignors=("range",))
    assert world.shard.describe("g").protocol == "range"


def test_without_members_there_is_no_deadline(world: Any) -> None:
    assert world.shard.next_expiry_s() is None
    world.joined().leave()
    assert world.shard.next_expiry_s() is None


# -- groups


def test_an_unknown_group_is_dead_and_has_no_members(world: Any) -> None:
    description = world.shard.describe("nothing")
    assert (description.state, description.members) == ("Dead", ())
    assert world.shard.list_groups() == []


def test_groups_do_not_disturb_each_other(world: Any, tp: Any) -> None:
    first = world.joined(group="b")
    second = world.joined(group="a")
    assert first.held == second.held == tp("t0", "t1", "t2", "t3")
    assert [group.name for group in world.shard.list_groups()] == ["a", "b"]


def test_a_rebalance_that_is_asked_for_moves_every_partition_once_its_owner_has_let_go(world: Any) -> None:
    first, second = world.joined(), world.joined()
    world.poll_in_turn(first, second)
    before = first.held, second.held
    world.shard.rebalance("g", world.now_ms, world.now_s).result()
    assert world.state == "Reconciling"
    world.poll_in_turn(first, second)
    assert (second.held, first.held) == before
    assert world.state == "Stable"


def test_a_rebalance_that_is_asked_for_leaves_members_their_own_topics(world: Any, tp: Any) -> None:
    one, other = world.joined("t"), world.joined("u")
    world.poll_in_turn(one, other)
    world.shard.rebalance("g", world.now_ms, world.now_s).result()
    world.poll_in_turn(one, other)
    assert (one.held, other.held) == (tp("t0", "t1", "t2", "t3"), tp("u0", "u1", "u2", "u3"))


def test_a_rebalance_of_no_group_is_an_error(world: Any) -> None:
    with pytest.raises(GroupIdNotFoundError):
        world.shard.rebalance("none", world.now_ms, world.now_s).result()
