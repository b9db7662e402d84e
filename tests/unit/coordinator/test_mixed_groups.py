"""Classic members beside members of the other protocol: how a group changes its type, and what each is answered."""

from __future__ import annotations

from typing import Any

import pytest

from streamlog.coordinator.messages import ClassicGroupConfig
from streamlog.errors import (
    DiskFullError,
    FencedInstanceIdError,
    GroupMaxSizeReachedError,
    IllegalGenerationError,
    InconsistentGroupProtocolError,
    MemberIdRequiredError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)
from streamlog.types import TopicPartition

from .classic_client import Client, stable


def fails(answer: Any, error: type[Exception]) -> None:
    assert answer.done() and isinstance(answer.error(), error), answer.error()


def numbers(partitions: Any) -> list[int]:
    return sorted(partition.partition for partition in partitions)


def told(client: Client) -> list[int]:
    """What its SyncGroup brings."""
    return numbers(client.sync().result().partitions)


def test_a_consumer_enters_a_classic_group_and_takes_over_what_its_member_gives_up(world: Any) -> None:
    a = Client(world, "a")
    stable(a)
    member = world.joined()
    world.wake()
    assert (world.shard.describe("g").type, world.state) == ("consumer", "Reconciling")
    assert member.held == frozenset() and member.answer.waits_for == {a.id}
    fails(a.heartbeat(), RebalanceInProgressError)
    world.commit_as(a.id, a.generation)  # what it has handled, before it joins again
    joined = a.join().result()
    assert joined.leader == "" and joined.members == () and joined.protocol == "range"
    kept = told(a)
    assert len(kept) == 2 and a.heartbeat().error() is None
    assert sorted([*kept, *numbers(member.poll())]) == [0, 1, 2, 3]
    fails(a.heartbeat(joined.generation_id - 1), IllegalGenerationError)
    with pytest.raises(IllegalGenerationError):
        world.commit_as(a.id, joined.generation_id - 1)


def test_a_classic_member_that_nothing_changes_for_goes_on_when_a_consumer_enters(world: Any) -> None:
    a = Client(world, "a")
    stable(a)
    member = world.joined("u")
    world.wake()
    assert numbers(member.held) == [0, 1, 2, 3]
    assert a.heartbeat().error() is None


def test_members_that_wait_to_join_are_answered_when_a_consumer_enters(world: Any) -> None:
    a, b = Client(world, "a"), Client(world, "b")
    stable(a, b)
    c = Client(world, "c")
    waiting = [c.join(), b.join()]
    member = world.joined()
    world.wake()
    for answer in waiting:
        assert answer.result().leader == ""
    fails(a.heartbeat(), RebalanceInProgressError)
    a.join()
    shares = [told(a), told(b), told(c), numbers(member.poll())]
    for client in (a, b, c):  # each is told of what came free later
        if client.heartbeat().error() is not None:
            client.join()
            shares["abc".index(client.name)] = told(client)
    assert sorted(number for share in shares for number in share) == [0, 1, 2, 3]


def test_members_that_wait_for_an_assignment_join_again_when_a_consumer_enters(world: Any) -> None:
    a, b = Client(world, "a"), Client(world, "b")
    a.join()
    b.join()
    a.join()
    waiting = b.sync()
    world.joined()
    world.wake()
    fails(waiting, RebalanceInProgressError)


def test_a_classic_member_joins_a_group_of_consumers(world: Any) -> None:
    member = world.joined()
    a = Client(world, "a", known_ids=True)
    with pytest.raises(MemberIdRequiredError) as required:
        a.join().result()
    a.id = required.value.member_id
    assert a.join().result().member_id == a.id
    assert told(a) == [] and a.heartbeat().error() is None  # nothing is free yet
    kept = numbers(member.poll())
    fails(a.heartbeat(), RebalanceInProgressError)
    a.join()
    assert sorted([*kept, *told(a)]) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "options",
    [
        {"protocol_type": "connect"},
        {"protocols": (("mine", b"x"),)},
        {"protocols": ()},
        {"protocols": (("range", b""),)},
    ],
)
def test_a_member_that_the_coordinator_cannot_assign_to_is_refused(world: Any, options: Any) -> None:
    world.joined()
    fails(Client(world, "a", **options).join(), InconsistentGroupProtocolError)


def test_classic_members_have_a_protocol_in_common_for_the_time_when_they_are_alone(world: Any) -> None:
    world.joined()
    Client(world, "a").join()
    fails(Client(world, "b", protocols=(("roundrobin", b"x"),)).join(), InconsistentGroupProtocolError)


def test_an_assignor_is_known_by_the_name_that_kafkajs_gives_it(world: Any) -> None:
    world.joined(assignors=("roundrobin",))
    a = Client(world, "a", protocols=(("RoundRobinAssigner", b"x"),))
    assert a.join().result().protocol == "RoundRobinAssigner"


def test_the_group_is_classic_again_when_its_last_consumer_leaves(world: Any) -> None:
    a, member = Client(world, "a"), world.joined()
    a.join()
    a.sync()
    member.poll()
    a.heartbeat()
    a.join()
    kept = told(a)
    generation, epoch = a.generation, world.epoch
    member.leave()
    world.wake()
    group = world.shard.describe("g")
    assert (group.type, group.state, group.epoch) == ("classic", "PreparingRebalance", epoch + 1)
    assert numbers(group.members[0].assignment) == kept
    fails(a.heartbeat(), RebalanceInProgressError)
    world.commit_as(a.id, generation)  # it may still hold them
    joined = a.join().result()
    assert (joined.leader, joined.generation_id) == (a.id, epoch + 2)
    assert a.sync().result().assignment and world.state == "Stable"


def test_a_group_that_is_classic_again_rebalances_also_after_a_replay(world: Any) -> None:
    a, member = Client(world, "a"), world.joined()
    a.join()
    a.sync()
    member.leave()
    world.open("1")
    assert world.state == "PreparingRebalance"
    fails(a.heartbeat(), RebalanceInProgressError)
    world.later(60)
    world.expire()
    assert world.state == "Empty"


def test_a_group_is_classic_again_when_its_last_consumer_is_overdue(world: Any) -> None:
    a, member = Client(world, "a"), world.joined(remote=True, session_timeout_s=5.0)
    a.join()
    a.sync()
    assert member.id
    world.later(5)
    world.expire()
    assert world.shard.describe("g").type == "classic"


def test_a_classic_member_without_heartbeats_is_evicted(world: Any) -> None:
    a, member = Client(world, "a"), world.joined()
    a.join()
    a.sync()
    world.later(10)
    world.expire()
    fails(a.heartbeat(), UnknownMemberIdError)
    assert numbers(member.poll()) == [0, 1, 2, 3]


def test_a_classic_member_that_does_not_join_again_is_evicted_after_its_rebalance_timeout(world: Any) -> None:
    a = Client(world, "a")
    stable(a)
    member = world.joined()
    for _ in range(10):
        fails(a.heartbeat(), RebalanceInProgressError)
        world.later(6)
        world.expire()
    fails(a.heartbeat(), UnknownMemberIdError)
    assert numbers(member.poll()) == [0, 1, 2, 3]


def test_a_classic_member_that_does_not_sync_is_evicted_after_its_rebalance_timeout(world: Any) -> None:
    world.joined()
    a = Client(world, "a")
    a.join()
    for _ in range(10):
        a.heartbeat()
        world.later(6)
        world.expire()
    fails(a.heartbeat(), UnknownMemberIdError)


def test_members_are_told_again_what_they_have_after_the_shard_was_loaded_again(world: Any) -> None:
    member, a = world.joined(), Client(world, "a")
    a.join()
    a.sync()
    member.poll()
    a.heartbeat()
    a.join()
    kept = told(a)
    world.open("1")
    fails(a.heartbeat(), RebalanceInProgressError)
    a.join()
    assert told(a) == kept


def test_a_static_classic_member_takes_its_place_again(world: Any) -> None:
    member, a = world.joined(), Client(world, "a", instance_id="one")
    a.join()
    a.sync()
    again = Client(world, "a", instance_id="one")
    again.join()
    fails(a.heartbeat(), FencedInstanceIdError)
    member.poll()
    again.join()
    assert len(told(again)) == 2


def test_a_consumer_takes_the_place_of_a_static_classic_member(world: Any) -> None:
    a, b = Client(world, "a", instance_id="one"), Client(world, "b")
    stable(a, b)
    member = world.joined(instance_id="one")
    world.wake()
    assert numbers(member.held) == [0, 2]
    assert b.heartbeat().error() is None
    fails(a.heartbeat(), FencedInstanceIdError)


def test_a_consumer_group_has_a_largest_size_for_classic_members(world: Any) -> None:
    world.joined()
    fails(Client(world, "a", config=ClassicGroupConfig(max_size=1)).join(), GroupMaxSizeReachedError)


def test_a_classic_member_leaves_and_its_partitions_are_free(world: Any) -> None:
    member, a = world.joined(), Client(world, "a")
    a.join()
    a.sync()
    member.poll()
    assert a.leave() is None
    assert isinstance(a.leave(), UnknownMemberIdError)
    assert numbers(member.poll()) == [0, 1, 2, 3]


def test_an_answer_says_the_protocol_that_the_member_asks_for(world: Any) -> None:
    world.joined()
    a = Client(world, "a")
    a.join()
    fails(a.sync(protocol_type="connect"), InconsistentGroupProtocolError)
    fails(a.sync(protocol="sticky"), InconsistentGroupProtocolError)
    assert a.sync(protocol_type="consumer", protocol="range").error() is None


def test_a_consumer_that_enters_on_a_full_disk_leaves_the_group_classic(world: Any) -> None:
    a = Client(world, "a")
    stable(a)
    world.failing = DiskFullError("full")
    with pytest.raises(DiskFullError):
        world.joined()
    world.failing = None
    assert (world.shard.describe("g").type, world.state) == ("classic", "Stable")
    assert a.heartbeat().error() is None
    assert TopicPartition("t", 0) in world.shard.describe("g").members[0].assignment
