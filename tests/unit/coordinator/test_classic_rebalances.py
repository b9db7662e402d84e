"""How a classic group rebalances: the rules of Kafka's GroupCoordinator, over simulated time."""

from __future__ import annotations

from typing import Any

import pytest

from streamlog.coordinator.messages import ClassicGroupConfig, MemberIdentity
from streamlog.errors import (
    CoordinatorLoadInProgressError,
    DiskFullError,
    FencedInstanceIdError,
    GroupMaxSizeReachedError,
    GroupNotEmptyError,
    IllegalGenerationError,
    InconsistentGroupProtocolError,
    InvalidGroupIdError,
    InvalidSessionTimeoutError,
    MemberIdRequiredError,
    NotCoordinatorError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)
from streamlog.runtime.api import Completion
from streamlog.types import OffsetAndMetadata, TopicPartition

from .classic_client import Client, stable

DELAYED = ClassicGroupConfig(initial_rebalance_delay_ms=3000)


def pair(world: Any, **options: Any) -> tuple[Client, Client]:
    a, b = Client(world, "a", **options), Client(world, "b", **options)
    stable(a, b)
    return a, b


def fails(answer: Any, error: type[Exception]) -> None:
    assert answer.done() and isinstance(answer.error(), error), answer.error()


def test_a_sole_member_leads_the_first_generation(world: Any) -> None:
    a = Client(world, "a")
    joined = a.join().result()
    assert (joined.generation_id, joined.protocol, joined.leader) == (1, "range", a.id)
    assert joined.members == ((a.id, None, b"meta a"),)
    assert world.state == "CompletingRebalance" and not world.log
    assert a.sync().result() == ("consumer", "range", b"part of " + a.id.encode(), None)
    assert world.state == "Stable"
    [described] = world.shard.describe("g").members
    assert (described.metadata, described.assigned) == (b"meta a", b"part of " + a.id.encode())


def test_a_group_is_stable_after_a_replay_with_the_assignments_of_its_last_generation(world: Any) -> None:
    a, b = pair(world)
    before = world.shard.describe("g")
    world.open("2", world.compacted())
    assert world.shard.describe("g") == before
    assert a.heartbeat().error() is None
    assert b.sync().result().assignment == b"part of " + b.id.encode()
    assert b.join().result().generation_id == before.epoch  # a follower whose metadata is the same
    assert not a.join().done()  # the leader: a rebalance


def test_the_first_members_wait_for_others_and_longer_while_new_ones_come(world: Any) -> None:
    a, b = Client(world, "a", config=DELAYED), Client(world, "b", config=DELAYED)
    a.join()
    world.later(2.5)
    b.join()
    for _ in range(2):
        assert not a.asked.done() and not b.asked.done() and world.state == "PreparingRebalance"
        world.later(3)
        world.expire()
    assert a.generation == b.generation == 1 and a.leads and not b.leads


def test_the_initial_delay_is_no_longer_than_the_rebalance_timeout(world: Any) -> None:
    clients = [Client(world, str(n), config=DELAYED, rebalance_timeout_s=7.0) for n in range(8)]
    for client in clients:
        client.join()
        world.later(1)
        world.expire()
    assert clients[0].joined is not None and len(clients[0].joined.members) == 7
    assert not clients[7].asked.done()


def test_a_member_that_joins_starts_a_rebalance_in_which_all_join_again(world: Any) -> None:
    a, b = pair(world)
    c = Client(world, "c")
    c.join()
    fails(a.heartbeat(), RebalanceInProgressError)
    fails(a.sync(), RebalanceInProgressError)
    a.join()
    assert not a.asked.done()
    b.join()
    assert {a.generation, b.generation, c.generation} == {3} and a.leads
    b.sync()
    assert not b.asked.done()
    a.sync()
    assert b.asked.result().assignment == b"part of " + b.id.encode()
    fails(a.heartbeat(2), IllegalGenerationError)


def test_members_that_do_not_join_again_in_time_are_left_out(world: Any) -> None:
    a, b = pair(world)
    c = Client(world, "c", rebalance_timeout_s=20.0)
    c.join()
    b.join()
    for _ in range(9):
        world.later(6)
        world.expire()
        fails(a.heartbeat(), RebalanceInProgressError)
        assert not c.asked.done()
    world.later(6)
    world.expire()
    assert b.leads and b.joined is not None and len(b.joined.members) == 2
    fails(a.heartbeat(), UnknownMemberIdError)


def test_a_leader_that_joins_again_starts_a_rebalance_and_a_follower_does_not(world: Any) -> None:
    a, b = pair(world)
    generation = a.generation
    assert b.join().result().generation_id == generation and world.state == "Stable"
    a.join()
    fails(b.heartbeat(), RebalanceInProgressError)
    b.join()
    assert a.generation == generation + 1


def test_a_member_with_other_metadata_starts_a_rebalance(world: Any) -> None:
    a, b = pair(world)
    b.protocols = (("range", b"other"),)
    assert not b.join().done()
    a.join()
    assert a.joined is not None and {member.metadata for member in a.joined.members} == {b"meta a", b"other"}
    b.protocols = (("range", b"again"),)  # before the leader has assigned
    a.sync()
    assert not b.join().done() or b.generation == a.generation
    assert world.state == "PreparingRebalance"


def test_a_member_that_missed_the_answer_to_its_join_gets_it_again(world: Any) -> None:
    a, b = Client(world, "a"), Client(world, "b")
    a.join()
    b.join()
    a.join()
    first = b.joined
    assert b.join().result() == first and world.state == "CompletingRebalance"


def test_a_member_that_asks_again_while_the_barrier_stands_gets_one_answer(world: Any) -> None:
    a, b = pair(world)
    c = Client(world, "c")
    c.join()
    first, second = a.join(), a.join()
    fails(first, RebalanceInProgressError)
    b.join()
    assert second.result().leader == a.id


def test_a_rebalance_ends_the_wait_for_an_assignment(world: Any) -> None:
    a, b = Client(world, "a"), Client(world, "b")
    a.join()
    b.join()
    a.join()
    b.sync()
    b.sync()
    c = Client(world, "c")
    waiting = b.asked
    c.join()
    fails(waiting, RebalanceInProgressError)


def test_the_protocol_is_the_one_that_most_members_prefer_of_those_that_all_have(world: Any) -> None:
    x, y, z = (("x", b"1"), ("y", b"2")), (("y", b"3"), ("x", b"4")), (("y", b"5"), ("z", b""), ("x", b"6"))
    clients = [Client(world, name, protocols=each) for name, each in zip("abc", (x, y, z), strict=True)]
    stable(*clients)
    assert world.shard.describe("g").protocol == "y"
    assert clients[0].joined is not None and [m.metadata for m in clients[0].joined.members] == [b"2", b"3", b"5"]
    fails(Client(world, protocols=(("z", b""),)).join(), InconsistentGroupProtocolError)
    fails(Client(world, protocol_type="connect").join(), InconsistentGroupProtocolError)
    fails(Client(world, protocols=()).join(), InconsistentGroupProtocolError)


def test_groups_of_any_protocol_type_work(world: Any) -> None:
    worker = Client(world, "w", protocol_type="connect", protocols=(("compatible", b"url"),))
    stable(worker)
    assert world.shard.describe("g").protocol_type == "connect"
    fails(worker.sync(protocol_type="consumer"), InconsistentGroupProtocolError)
    fails(worker.sync(protocol="eager"), InconsistentGroupProtocolError)
    assert worker.sync(protocol_type="connect", protocol="compatible").error() is None


def test_a_new_member_gets_its_id_first(world: Any) -> None:
    a = Client(world, "a", known_ids=True)
    with pytest.raises(MemberIdRequiredError) as required:
        a.join().result()
    a.id = required.value.member_id
    assert a.id.startswith("a-") and world.shard.describe("g").state == "Empty"
    assert a.join().result().member_id == a.id
    a.sync()
    b = Client(world, "b", known_ids=True)
    fails(b.join(), MemberIdRequiredError)
    assert a.heartbeat().error() is None  # no rebalance yet


def test_an_id_that_no_member_joins_with_is_forgotten_and_holds_up_no_rebalance_for_longer(world: Any) -> None:
    fails(Client(world, "a", known_ids=True).join(), MemberIdRequiredError)
    world.later(10)
    world.expire()
    assert world.state == "Dead"
    a = Client(world, "a")
    stable(a)
    fails(Client(world, "b", known_ids=True).join(), MemberIdRequiredError)
    a.join()
    assert not a.asked.done()
    world.later(10)
    world.expire()
    assert a.asked.result().leader == a.id


def test_a_member_without_heartbeats_is_removed_when_its_session_is_over(world: Any) -> None:
    a, b = pair(world)
    world.later(6)
    a.heartbeat()
    world.later(4)
    world.expire()
    fails(b.heartbeat(), UnknownMemberIdError)
    fails(a.heartbeat(), RebalanceInProgressError)
    a.join()
    a.sync()
    assert a.asked.result().assignment
    world.later(10)
    world.expire()
    assert (world.state, world.epoch) == ("Empty", a.generation + 1)


def test_a_member_that_waits_for_an_answer_is_not_overdue(world: Any) -> None:
    a, b = pair(world)
    a.join()
    world.later(9)
    b.heartbeat()
    world.later(9)
    world.expire()
    assert not a.asked.done()
    b.join()
    assert a.asked.result().generation_id == b.generation


def test_a_new_member_that_waits_too_long_for_the_barrier_is_removed(world: Any) -> None:
    a, b = pair(world, rebalance_timeout_s=900.0)
    c = Client(world, "c")
    c.join()
    for _ in range(50):
        world.later(6)
        a.heartbeat()
        b.heartbeat()
        world.expire()
    fails(c.asked, UnknownMemberIdError)


def test_members_that_do_not_sync_in_time_are_removed(world: Any) -> None:
    a, b = Client(world, "a"), Client(world, "b", rebalance_timeout_s=30.0)
    a.join()
    b.join()
    a.join()
    a.sync()
    for _ in range(10):
        world.later(6)
        a.heartbeat()
        b.heartbeat()
        world.expire()
    fails(b.heartbeat(), UnknownMemberIdError)
    fails(a.heartbeat(), RebalanceInProgressError)


def test_several_members_leave_in_one_request(world: Any) -> None:
    a, b = pair(world)
    static = Client(world, "s", instance_id="one")
    stable(a, b, static)
    left = world.leave_classic(
        MemberIdentity(b.id), MemberIdentity("x"), MemberIdentity("", "one"), MemberIdentity("", "two")
    )
    assert [error and type(error) for error in left] == [None, UnknownMemberIdError, None, UnknownMemberIdError]
    fails(a.heartbeat(), RebalanceInProgressError)
    a.join()
    assert a.joined is not None and len(a.joined.members) == 1
    a.sync()
    assert a.leave() is None
    assert world.state == "Empty"


def test_a_group_that_its_last_member_leaves_takes_members_of_either_type(world: Any) -> None:
    a = Client(world, "a")
    stable(a)
    assert isinstance(world.shard.delete_group("g").error(), GroupNotEmptyError)
    a.leave()
    assert (world.shard.describe("g").type, world.state, world.epoch) == ("classic", "Empty", 2)
    member = world.joined()
    fails(Client(world, "b", protocol_type="connect").join(), InconsistentGroupProtocolError)
    member.leave()
    b = Client(world, "b")
    assert b.join().result().generation_id > 2
    b.sync().result()
    assert world.shard.describe("g").type == "classic"


def test_session_timeouts_have_bounds_and_groups_have_names(world: Any) -> None:
    for seconds in (5.999, 1800.001):
        fails(Client(world, session_timeout_s=seconds).join(), InvalidSessionTimeoutError)
    for seconds in (6.0, 1800.0):
        assert Client(world, session_timeout_s=seconds).join().error() is None
    request = world.shard.join_group
    client = Client(world)
    world.shard.join_group = lambda asked, *rest: request(asked._replace(group=""), *rest)
    fails(client.join(), InvalidGroupIdError)


def test_a_group_has_a_largest_size(world: Any) -> None:
    two = ClassicGroupConfig(max_size=2)
    a, b = pair(world, config=two)
    fails(Client(world, config=two).join(), GroupMaxSizeReachedError)
    assert a.heartbeat().error() is None and b.heartbeat().error() is None
    one = ClassicGroupConfig(max_size=1)
    a.join()
    b.config = one
    fails(b.join(), GroupMaxSizeReachedError)
    assert a.asked.result().leader == a.id


def test_a_static_member_takes_its_place_again_without_a_rebalance(world: Any) -> None:
    a, b = Client(world, "a", instance_id="one"), Client(world, "b")
    stable(a, b)
    again = Client(world, "b2", instance_id="one", protocols=a.protocols)
    joined = again.join().result()
    assert joined.generation_id == b.generation and world.state == "Stable"
    assert joined.leader == a.id and not joined.members  # which it is not any more, so it does not assign
    assert again.sync().result().assignment == b"part of " + a.id.encode()
    fails(a.heartbeat(), FencedInstanceIdError)
    fails(a.join(), FencedInstanceIdError)
    fails(a.sync(), FencedInstanceIdError)
    assert b.heartbeat().error() is None
    world.open("2")
    assert again.heartbeat().error() is None


def test_a_static_leader_that_can_skip_the_assignment_stays_the_leader(world: Any) -> None:
    a, b = Client(world, "a", instance_id="one"), Client(world, "b")
    stable(a, b)
    again = Client(world, "a", instance_id="one", skips=True)
    joined = again.join().result()
    assert joined.skip_assignment and joined.leader == again.id and len(joined.members) == 2


def test_a_static_member_that_changes_the_protocol_starts_a_rebalance(world: Any) -> None:
    both = (("x", b""), ("y", b""))
    a, b = Client(world, "a", protocols=both), Client(world, "b", protocols=both, instance_id="one")
    stable(a, b)
    again = Client(world, "b", protocols=(("y", b""),), instance_id="one")
    assert not again.join().done()
    fails(a.heartbeat(), RebalanceInProgressError)


def test_a_static_member_that_starts_anew_fences_the_one_that_waits(world: Any) -> None:
    a, b = pair(world)
    static = Client(world, "s", instance_id="one")
    first = static.join()
    again = Client(world, "s", instance_id="one")
    again.join()
    fails(first, FencedInstanceIdError)
    a.join()
    b.join()
    assert again.asked.result().generation_id == a.generation
    again.sync()
    waiting = again.asked
    third = Client(world, "s", instance_id="one")
    third.join()
    fails(waiting, FencedInstanceIdError)
    assert not third.asked.done()


def test_static_members_that_are_silent_keep_their_places_for_their_sessions(world: Any) -> None:
    a, static = Client(world, "a"), Client(world, "s", instance_id="one", session_timeout_s=100.0)
    stable(a, static)
    a.join()
    world.later(60)
    world.expire()
    assert a.joined is not None and len(a.joined.members) == 2
    a.leave()
    world.later(60)
    world.expire()
    assert world.state == "PreparingRebalance"
    world.later(100)
    world.expire()
    assert world.state == "Empty"


def test_what_is_committed_in_a_generation_that_has_no_assignment_yet_is_refused(world: Any) -> None:
    a, b = pair(world)
    a.join()
    world.commit_as(b.id, b.generation)  # before it joins again
    b.join()
    with pytest.raises(RebalanceInProgressError):
        world.commit_as(b.id, b.generation)
    with pytest.raises(GroupNotEmptyError):
        world.commit("g", {})


def test_an_assignment_that_cannot_be_written_is_given_to_no_member(world: Any) -> None:
    a, b = Client(world, "a"), Client(world, "b")
    a.join()
    b.join()
    a.join()
    b.sync()
    waiting = b.asked
    world.failing = DiskFullError("full")
    fails(a.sync(), DiskFullError)
    fails(waiting, DiskFullError)
    world.failing = None
    assert world.state == "PreparingRebalance"
    b.join()
    a.join()
    a.sync()
    assert b.sync().result().assignment


def test_a_group_that_became_empty_on_a_full_disk_is_written_later(world: Any) -> None:
    a = Client(world, "a")
    stable(a)
    world.failing = DiskFullError("full")
    assert isinstance(
        world.shard.leave_classic_group("g", [MemberIdentity(a.id)], world.now_ms, world.now_s).error(), DiskFullError
    )
    assert world.state == "Empty"
    world.failing = None
    world.later(1)
    world.expire()
    assert world.epoch == 2 and not world.shard.snapshot()["g"][1]


def test_an_assignment_is_answered_when_it_counts_as_written(world: Any) -> None:
    a, b = Client(world, "a"), Client(world, "b")
    a.join()
    b.join()
    a.join()
    b.sync()
    waiting = b.asked
    world.parking = True
    a.sync()
    assert not a.asked.done() and not waiting.done()
    late = b.sync()
    assert not late.done()
    world.parking = False
    world.parked[0].complete(1)
    for answer in (a.asked, waiting, late):
        assert answer.result().protocol == "range"


def test_answers_that_are_parked_fail_when_the_shard_is_unloaded(world: Any) -> None:
    a, b = pair(world)
    a.join()
    world.shard.resign()
    world.wake()
    fails(a.asked, NotCoordinatorError)
    fails(b.heartbeat(), NotCoordinatorError)
    world.open("2")
    a.join()
    b.sync()
    world.shard.elect()
    world.wake()
    fails(a.asked, CoordinatorLoadInProgressError)


def test_an_answer_whose_wake_up_was_lost_comes_with_the_next_request(world: Any) -> None:
    a, b = pair(world)
    a.join()
    wake, world.wake = world.wake, lambda: world.shard.take_wakeups()
    b.join()
    assert not a.asked.done()
    world.wake = wake
    a.heartbeat()
    assert a.asked.result().generation_id == b.generation


def test_members_of_the_log_hold_what_their_leader_gave_them_and_no_partition_twice(world: Any) -> None:
    a, _b = pair(world)
    a.join()
    assert [sorted(tp.partition for tp in each.assignment) for each in world.shard.describe("g").members].count([]) == 1


def test_a_commit_of_a_client_renews_its_session(world: Any) -> None:
    a = Client(world, "a")
    a.join()
    a.sync()
    offsets = {TopicPartition("t", 0): OffsetAndMetadata(1)}
    for _ in range(5):
        world.later(7)
        committed = world.shard.commit("g", a.id, a.generation, offsets, world.now_ms, by_epoch=True, now_s=world.now_s)
        committed.result()
        world.expire()
    assert world.state == "Stable"
    world.later(7)
    world.shard.commit_pending(
        1, lambda records: Completion.of(0), "g", a.id, a.generation, offsets, world.now_ms, by_epoch=True
    ).result()
    world.later(7)
    world.expire()
    assert world.state == "Empty", "what a producer commits for a member says nothing of the member"


def test_a_rebalance_that_is_asked_for_has_all_members_join_again(world: Any) -> None:
    a, b = pair(world)
    generation = a.generation
    world.shard.rebalance("g", world.now_ms, world.now_s).result()
    assert world.state == "PreparingRebalance"
    world.shard.rebalance("g", world.now_ms, world.now_s).result()  # it does already
    fails(a.heartbeat(), RebalanceInProgressError)
    stable(a, b)
    assert a.generation == b.generation == generation + 1


def test_members_that_do_not_join_again_after_a_rebalance_was_asked_for_are_removed(world: Any) -> None:
    a, b = pair(world)
    world.shard.rebalance("g", world.now_ms, world.now_s).result()
    a.join()
    world.later(60)
    world.shard.expire(world.now_s, world.now_ms)
    assert [each.member_id for each in world.shard.describe("g").members] == [a.id]
    assert b.heartbeat().error() is not None
