"""Groups of many members: what joining writes, what a heartbeat looks at. Counted, never timed."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

import msgpack
import pytest

import streamlog
from streamlog.coordinator.schema import GROUP, MEMBER, OFFSET
from streamlog.coordinator.transition import Transition
from tests.bytecodes import bytecodes
from tests.unit.coordinator.conftest import Member, World


def join(log: streamlog.StreamLog, count: int) -> list[Any]:
    """Members of group g that have polled in turn until the group was stable, at most twice each."""
    members = [log.consumer("t", group="g") for _ in range(count)]
    for _ in range(2):
        for member in members:
            member.poll()
        if log.group("g").state == "Stable":
            break
    assert log.group("g").state == "Stable"
    return members


@pytest.mark.parametrize(("members", "partitions"), [(10, 10), (100, 100), (500, 100)])
def test_members_that_join_write_at_most_ten_records_each(
    log: streamlog.StreamLog, members: int, partitions: int
) -> None:
    log.create_topic("t", partitions=partitions)
    joined = join(log, members)
    written = log["__consumer_offsets"].partition(0).log_end_offset
    assert written <= 10 * members
    sizes = sorted(len(member.assignment()) for member in joined)
    assert sum(sizes) == partitions and sizes[-1] - sizes[0] <= 1
    for member in joined:
        member.close()


def test_members_that_join_and_share_many_partitions_write_one_offset_for_each_that_moves_besides(
    log: streamlog.StreamLog,
) -> None:
    """A member that gives a partition up commits where it would have begun: the next one may reset to elsewhere."""
    log.create_topic("t", partitions=1_000)
    joined = join(log, 100)
    kinds = Counter(msgpack.unpackb(record.key)[0] for record in log["__consumer_offsets"].read())
    assert kinds[GROUP] + kinds[MEMBER] <= 10 * 100
    assert kinds[OFFSET] <= 1_000
    for member in joined:
        member.close()


def test_members_that_join_a_large_group_together_cost_few_targets(
    log: streamlog.StreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []
    retarget = Transition._retarget
    monkeypatch.setattr(Transition, "_retarget", lambda self, *rest: (computed.append(1), retarget(self, *rest))[1])
    log.create_topic("t", partitions=100)
    joined = join(log, 100)
    assert len(computed) <= 20
    for member in joined:
        member.close()


def test_members_that_leave_a_large_group_one_after_the_other_cost_few_targets(
    log: streamlog.StreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.create_topic("t", partitions=100)
    joined = join(log, 100)
    computed = []
    retarget = Transition._retarget
    monkeypatch.setattr(Transition, "_retarget", lambda self, *rest: (computed.append(1), retarget(self, *rest))[1])
    written = log["__consumer_offsets"].partition(0).log_end_offset
    for member in joined[:80]:
        member.close()
    assert computed == []
    assert log["__consumer_offsets"].partition(0).log_end_offset <= written + 2 * 80
    for _ in range(2):
        for member in joined[80:]:
            member.poll()
    assert len(computed) == 1
    assert [len(member.assignment()) for member in joined[80:]] == [5] * 20
    for member in joined[80:]:
        member.close()
    assert len(computed) <= 20


def test_a_member_that_waits_in_a_poll_takes_over_from_one_that_leaves_a_large_group(log: streamlog.StreamLog) -> None:
    topic = log.create_topic("t", partitions=40)
    first, *others = join(log, 40)
    [partition] = first.assignment()
    got: list[Any] = []
    threads = [threading.Thread(target=lambda each=each: got.extend(each.poll(timeout=60))) for each in others]
    for thread in threads:
        thread.start()
    first.close()
    topic.send("value", partition=partition.partition)
    while not got:
        time.sleep(0.001)
    for each in others:
        each.stop()
    for thread in threads:
        thread.join()
    assert got[0].value == b"value"  # again by others, maybe: its thread has ended without finishing it
    for each in others:
        each.close()


def test_a_member_that_joins_a_large_group_alone_has_partitions_at_its_second_poll(log: streamlog.StreamLog) -> None:
    log.create_topic("t", partitions=40)
    joined = join(log, 39)
    last = log.consumer("t", group="g")
    last.poll()
    last.poll()
    assert len(last.assignment()) == 1
    for member in [*joined, last]:
        member.close()


def test_a_member_that_joins_a_large_group_reads_its_partition_until_the_end(log: streamlog.StreamLog) -> None:
    topic = log.create_topic("t", partitions=40)
    joined = join(log, 39)
    for partition in range(40):
        topic.send("value", partition=partition)
    last = log.consumer("t", group="g")
    assert [record.value for record in last.until_end()] == [b"value"]
    for member in [*joined, last]:
        member.close()


def settled(members: int) -> tuple[World, Member]:
    """A group of that many members with a partition each, and the last one."""
    world = World()
    world.shard.check = lambda: None  # type: ignore[method-assign]  # it looks at all members
    world.topics = {"t": members}
    joined = [world.member() for _ in range(members)]
    world.poll_in_turn(*joined, rounds=3)
    assert world.state == "Stable"
    return world, joined[-1]


@pytest.mark.parametrize("what", ["nothing", "what it says of itself", "a poll in place of a heartbeat", "a commit"])
def test_a_heartbeat_costs_the_same_in_a_group_of_500_members(what: str) -> None:
    def cost(members: int) -> int:
        world, member = settled(members)
        if what == "what it says of itself":
            member.session_timeout_s += 1
        if what == "a poll in place of a heartbeat":
            version = member.answer.version if member.answer is not None else -1
            return bytecodes(lambda: world.shard.renew("g", member.id, version, world.now_s))
        if what == "a commit":
            return bytecodes(lambda: member.commit({next(iter(member.held)): 1}))
        return bytecodes(member.ask)

    assert cost(500) <= cost(10) * 1.2


def test_a_change_wakes_the_members_that_can_act_on_it_and_no_others() -> None:
    world, last = settled(12)
    woken = watched(world)
    last.leave()  # its one partition goes to one of the others
    wake(world)
    assert len(woken) == 2 and last.id in woken


def test_a_member_that_leaves_a_large_group_wakes_all_once_until_one_of_them_comes() -> None:
    world, last = settled(40)
    members = world.shard.describe("g").members
    woken = watched(world)
    last.leave()
    wake(world)
    assert sorted(woken) == sorted(member.member_id for member in members)
    assert world.state == "Reconciling"
    assert not any(world.shard.renew("g", each.member_id, 0, world.now_s) for each in members)
    woken.clear()
    world.shard.leave("g", members[0].member_id, world.now_ms, world.now_s)
    wake(world)
    assert woken == [members[0].member_id], "the others have been woken"


def watched(world: World) -> list[str]:
    """The members that are woken from now on."""
    woken: list[str] = []
    for member in world.shard.describe("g").members:
        world.shard.watch("g", lambda name=member.member_id: woken.append(name), member.member_id)  # type: ignore[misc]
    world.shard.take_wakeups()
    return woken


def wake(world: World) -> None:
    for wakeup in world.shard.take_wakeups():
        wakeup()
