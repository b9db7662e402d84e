"""Groups move with the leadership of the partition of their topic that has their records."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

import streamlog
from streamlog.broker.controller import GROUPS_TOPIC
from streamlog.broker.group_coordinator import partition_for
from streamlog.broker.metadata import ALONE, PartitionRegistration, partition_record
from streamlog.coordinator import Heartbeat
from streamlog.errors import NotLeaderError
from streamlog.testing import ManualClock, SimulatedDisk
from streamlog.types import OffsetAndMetadata, TopicPartition
from tests.times import LONG

T0 = TopicPartition("t", 0)


def elected(before: PartitionRegistration, leader: int) -> PartitionRegistration:
    return before._replace(
        isr=(leader,),
        leader=leader,
        leader_epoch=before.leader_epoch + (leader != before.leader),
        partition_epoch=before.partition_epoch + 1,
    )


class Broker:
    """A log whose groups' topic another broker may come to lead."""

    def __init__(self, partitions: int = 1) -> None:
        self.disk = SimulatedDisk()
        self.clock = ManualClock()
        self.log = self.open()
        self.log.create_topic("t").send_many([b"1", b"2", b"3"])
        if partitions > 1:
            self.service._topics.create_internal(GROUPS_TOPIC, partitions, self.log["t"]._view().config)

    def open(self) -> streamlog.StreamLog:
        return streamlog.open("/log", disk=self.disk, clock=self.clock)

    def reopen(self) -> None:
        self.log.close()
        self.log = self.open()

    @property
    def service(self) -> Any:
        return self.log._engine.service

    def elect(self, leader: int, number: int = 0) -> None:
        topics = self.service._topics
        topic_id = self.service.image.topics[GROUPS_TOPIC].id_bytes
        if self.service.image.partition(topic_id, number) == ALONE:
            both = PartitionRegistration((0, 1), (0, 1), 0, 0, 0)
            topics._change(lambda image: [partition_record(topic_id, number, both)])
        before = self.service.image.partition(topic_id, number)
        topics.alter_partitions({(GROUPS_TOPIC, number): elected(before, leader)})

    def heartbeat(self, group: str = "g", member_id: str = "", epoch: int = 0) -> Any:
        return self.service.heartbeat(
            Heartbeat(group, member_id, epoch, None, None, frozenset({"t"}), ("range",), frozenset(), 45.0, 300.0)
        )

    def commit(self, group: str, offset: int) -> Any:
        return self.service.commit(group, None, -1, {T0: OffsetAndMetadata(offset)})

    def committed(self, group: str) -> int:
        offset: int = self.service.committed(group, [T0]).result()[T0].offset
        return offset


@pytest.fixture
def broker() -> Iterator[Broker]:
    made = Broker()
    yield made
    made.log.close()


def test_groups_are_refused_while_another_broker_leads_their_partition(broker: Broker) -> None:
    broker.commit("g", 2).result()
    broker.elect(1)
    for refused in (broker.heartbeat(), broker.commit("g", 3), broker.service.committed("g", None)):
        with pytest.raises(NotLeaderError, match="Another broker coordinates this group"):
            refused.result()
    assert broker.service.list_groups().result() == []
    broker.elect(0)
    assert broker.committed("g") == 2
    assert [listing.name for listing in broker.service.list_groups().result()] == ["g"]


def test_a_shard_stays_resigned_when_the_log_is_opened_again(broker: Broker) -> None:
    broker.commit("g", 2).result()
    broker.elect(1)
    broker.reopen()
    with pytest.raises(NotLeaderError):
        broker.heartbeat().result()
    broker.elect(0)
    assert broker.committed("g") == 2


def test_members_are_woken_and_their_answers_given_when_their_shard_is_resigned(broker: Broker) -> None:
    woken: list[str] = []
    joined = broker.heartbeat()
    broker.service.watch_group("g", lambda: woken.append("g"), joined.result().member_id)
    broker.elect(1)
    assert woken
    assert joined.result().member_id
    assert not broker.service.renew("g", joined.result().member_id, joined.result().version)


def test_a_member_goes_on_after_its_broker_was_elected_again(broker: Broker) -> None:
    joined = broker.heartbeat().result()
    broker.elect(1)
    broker.elect(0)
    again = broker.heartbeat("g", joined.member_id, joined.member_epoch).result()
    assert again.member_id == joined.member_id
    assert again.member_epoch == joined.member_epoch
    assert again.assignment == {T0}


def test_a_shard_follows_the_newest_epoch(broker: Broker) -> None:
    broker.commit("g", 2).result()
    [shard] = broker.service._groups.shards.values()
    shard.resign(5)
    shard.elect(4)
    with pytest.raises(NotLeaderError):
        broker.service.committed("g", None).result()
    shard.elect(6)
    shard.resign(5)
    assert broker.committed("g") == 2


def test_each_group_is_in_the_shard_that_its_name_says(broker: Broker) -> None:
    broker.log.close()
    several = Broker(partitions=3)
    names = [f"g{number}" for number in range(12)]
    for offset, name in enumerate(names):
        several.commit(name, offset % 3).result()
    ends = [several.service._partitions[GROUPS_TOPIC, number].log.tail.end_offset for number in range(3)]
    assert ends == [sum(partition_for(name, 3) == number for name in names) for number in range(3)]
    assert all(ends)
    several.reopen()
    assert [several.committed(name) for name in names] == [offset % 3 for offset in range(12)]
    several.elect(1, number=2)
    listed = [listing.name for listing in several.service.list_groups().result()]
    assert listed == sorted(name for name in names if partition_for(name, 3) != 2)
    several.log.create_topic("another")
    several.log.delete_topic("t")
    several.clock.advance(700.0)
    several.log.close()
    broker.log = several.open()


@pytest.mark.parametrize(("group", "code"), [("hello", 99162322), ("\U0001f600", 1772899), ("polygenelubricants", 0)])
def test_the_partition_of_a_group_is_kafkas(group: str, code: int) -> None:
    """`code`: the absolute value of Java's hash, or 0 for the least integer."""
    assert partition_for(group, 50) == code % 50
    assert partition_for(group, 1) == 0


# The sessions of members in other processes


class RemoteMember:
    """A member in another process, under a time that a test moves."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.now_s = 1_000.0
        self.follow()
        self.joined = self.heartbeat()

    def follow(self) -> None:
        """Have the broker that is open now live in the time of the test."""
        self.broker.service.real_seconds = lambda: self.now_s

    def heartbeat(self, member_id: str = "", epoch: int = 0) -> Any:
        topics, session_s = frozenset({"t"}), 10.0
        request = Heartbeat(
            "g", member_id, epoch, None, None, topics, ("range",), frozenset(), session_s, 300.0, remote=True
        )
        return self.broker.service.heartbeat(request).result()

    def pass_s(self, seconds: float) -> int | None:
        """Let time pass, and run the timers; when the next one is (ms)."""
        self.now_s += seconds
        due: int | None = self.broker.service.real_timers.run_due(int(self.now_s * 1000))
        return due

    def state(self) -> str:
        [listing] = self.broker.service.list_groups().result()
        state: str = listing.state
        return state


def test_a_member_in_another_process_is_evicted_when_its_session_is_over(broker: Broker) -> None:
    member = RemoteMember(broker)
    assert member.state() == "Stable"
    assert member.pass_s(9.9) == 1_010_000
    assert member.state() == "Stable"
    assert member.pass_s(0.1) is None
    assert member.state() == "Empty"


def test_heartbeats_keep_a_member_and_one_timer(broker: Broker) -> None:
    member = RemoteMember(broker)
    for _ in range(100):
        assert member.pass_s(1.0) is not None
        member.heartbeat(member.joined.member_id, member.joined.member_epoch)
        assert len(broker.service.real_timers) == 1
    assert member.state() == "Stable"


def test_the_session_of_a_member_goes_on_when_its_broker_opens_again(broker: Broker) -> None:
    member = RemoteMember(broker)
    broker.reopen()
    member.follow()
    assert member.state() == "Stable"
    assert member.pass_s(9.9) is not None
    assert member.pass_s(0.1) is None
    assert member.state() == "Empty"


def test_a_resigned_shard_evicts_no_member_and_an_elected_one_gives_it_a_session(broker: Broker) -> None:
    member = RemoteMember(broker)
    broker.elect(1)
    assert member.pass_s(60.0) is None
    broker.elect(0)
    assert member.state() == "Stable"
    assert member.pass_s(9.9) is not None
    assert member.state() == "Stable"
    member.pass_s(0.1)
    assert member.state() == "Empty"


def test_a_member_of_this_process_has_no_timer(broker: Broker) -> None:
    with broker.log.consumer("t", group="g") as consumer:
        consumer.poll()
        assert broker.service.real_timers.next_deadline_ms() is None


def test_the_background_thread_evicts_a_member_whose_session_is_over() -> None:
    evicted = threading.Event()
    with streamlog.open("/log", disk=SimulatedDisk()) as log:
        log.create_topic("t")
        service: Any = log._engine.service
        now_s = service.real_seconds()
        service.real_seconds = lambda: now_s  # no session is over before it is watched
        request = Heartbeat("g", "", 0, None, None, frozenset({"t"}), ("range",), frozenset(), 0.05, 300.0, remote=True)
        joined = service.heartbeat(request).result()
        other = service.heartbeat(request._replace(session_timeout_s=300.0)).result()
        service.watch_group("g", evicted.set, other.member_id)
        now_s += 1.0
        assert evicted.wait(LONG)
        assert joined.member_id not in {each.member_id for each in service.describe_group("g").result().members}
