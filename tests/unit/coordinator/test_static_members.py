"""Static membership: the partitions belong to the instance id, whichever process has it."""

from __future__ import annotations

from typing import Any

import pytest

from streamlog.errors import CommitFailedError, FencedInstanceIdError, GroupNotEmptyError, UnknownMemberIdError


def test_a_static_member_that_comes_back_in_time_moves_nothing(world: Any, tp: Any) -> None:
    static, other = world.member(instance_id="one"), world.member()
    world.poll_in_turn(static, other)
    epoch = world.epoch
    static.leave()
    assert other.poll() == tp("t2", "t3")
    world.later(44)
    world.expire()
    back = world.joined(instance_id="one")
    assert back.held == tp("t0", "t1") and back.answer.stable
    assert (world.epoch, world.state) == (epoch, "Stable")


def test_the_place_of_a_static_member_is_free_after_its_session_timeout(world: Any, tp: Any) -> None:
    static, other = world.member(instance_id="one"), world.member()
    world.poll_in_turn(static, other)
    static.leave()
    world.later(45)
    world.expire()
    assert other.poll() == tp("t0", "t1", "t2", "t3")


def test_a_static_member_that_leaves_by_force_is_gone_at_once(world: Any, tp: Any) -> None:
    static, other = world.member(instance_id="one"), world.member()
    world.poll_in_turn(static, other)
    static.leave(force=True)
    assert other.poll() == tp("t0", "t1", "t2", "t3")


def test_a_newcomer_with_the_same_instance_id_takes_the_place_and_fences_the_old_one(world: Any, tp: Any) -> None:
    old, other = world.member(instance_id="one"), world.member()
    world.poll_in_turn(old, other)
    epoch = world.epoch
    new = world.joined(instance_id="one")
    assert new.held == old.held == tp("t0", "t1")
    assert (world.epoch, world.state) == (epoch, "Stable")
    with pytest.raises(FencedInstanceIdError, match="own instance id"):
        old.heartbeat()
    with pytest.raises(CommitFailedError):
        old.commit({next(iter(tp("t0"))): 9})
    assert world.shard.committed("g") == {}
    assert other.poll() == tp("t2", "t3")


def test_a_newcomer_in_an_old_place_with_another_subscription_gets_a_new_target(world: Any, tp: Any) -> None:
    world.topics["u"] = 1
    world.joined("t", instance_id="one")
    new = world.joined("u", instance_id="one")
    assert new.held == tp("u0")


def test_a_static_member_that_left_is_unknown_until_it_joins_again(world: Any, tp: Any) -> None:
    static = world.joined(instance_id="one")
    static.leave()
    with pytest.raises(UnknownMemberIdError):
        static.heartbeat()
    with pytest.raises(CommitFailedError):
        static.commit({next(iter(tp("t0"))): 1})
    static.leave()  # twice is once
    assert len(world.shard.describe("g").members) == 1


def test_what_a_kept_place_is_no_longer_to_have_is_free_at_once(world: Any, tp: Any) -> None:
    static = world.joined(instance_id="one")
    static.leave()
    assert world.joined().held == tp("t2", "t3")
    assert world.joined(instance_id="one").held == tp("t0", "t1")


def test_a_static_member_that_stops_polling_keeps_its_place_for_one_session_more(world: Any, tp: Any) -> None:
    stuck, other = world.member(instance_id="one"), world.member(max_poll_interval_s=1e6)
    world.poll_in_turn(stuck, other)
    world.later(344)
    world.expire()
    assert other.poll() == tp("t2", "t3")
    world.later(1)
    world.expire()
    assert other.poll() == tp("t0", "t1", "t2", "t3")


def test_a_group_of_kept_places_is_not_empty_and_says_why(world: Any) -> None:
    world.joined(instance_id="one").leave()
    with pytest.raises(GroupNotEmptyError, match="1 of them static"):
        world.shard.delete_group("g").result()


def test_a_kept_place_is_described_with_what_is_kept_for_it(world: Any, tp: Any) -> None:
    world.joined(instance_id="one").leave()
    (place,) = world.shard.describe("g").members
    assert (place.group_instance_id, place.assignment) == ("one", tp("t0", "t1", "t2", "t3"))


def test_after_a_crash_the_places_of_static_members_are_kept_for_a_session(world: Any, tp: Any) -> None:
    world.joined(instance_id="one")
    world.open("2")
    assert world.joined().held == tp("t2", "t3")
    world.later(45)
    world.expire()
    assert [member.group_instance_id for member in world.shard.describe("g").members] == [None]


def test_after_a_crash_a_static_member_takes_its_place_again_without_a_new_epoch(world: Any, tp: Any) -> None:
    first, second = world.member(instance_id="one"), world.member(instance_id="two")
    world.poll_in_turn(first, second)
    epoch = world.epoch
    world.open("2")
    assert world.joined(instance_id="two").held == tp("t2", "t3")
    assert world.joined(instance_id="one").held == tp("t0", "t1")
    assert world.epoch == epoch
