"""Rebalance listeners: called inside poll, in the polling thread, with the right partitions."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

import streamlog
from streamlog import RebalanceListener, TopicPartition

from .member_time import Liveness

Consumer = streamlog.Consumer[Any, Any]


def every(topic: str, partitions: int) -> set[TopicPartition]:
    return {TopicPartition(topic, n) for n in range(partitions)}


class Watching(RebalanceListener):
    """Keeps what the calls say is owned, and refuses calls that contradict each other."""

    def __init__(self) -> None:
        self.owned: set[TopicPartition] = set()
        self.calls: list[tuple[str, set[TopicPartition]]] = []
        self.threads: set[int] = set()
        self.polling = False

    def _called(self, name: str, partitions: Sequence[TopicPartition]) -> set[TopicPartition]:
        assert self.polling, f"{name} called outside poll"
        self.threads.add(threading.get_ident())
        self.calls.append((name, set(partitions)))
        return set(partitions)

    def on_partitions_assigned(self, partitions: Sequence[TopicPartition]) -> None:
        new = self._called("assigned", partitions)
        assert not new & self.owned
        self.owned |= new

    def on_partitions_revoked(self, partitions: Sequence[TopicPartition]) -> None:
        gone = self._called("revoked", partitions)
        assert gone <= self.owned
        self.owned -= gone

    def on_partitions_lost(self, partitions: Sequence[TopicPartition]) -> None:
        gone = self._called("lost", partitions)
        assert gone <= self.owned
        self.owned -= gone

    def partitions(self, name: str) -> set[TopicPartition]:
        return set().union(*(partitions for called, partitions in self.calls if called == name))


def poll(member: Consumer, watching: Watching, **options: Any) -> list[Any]:
    watching.polling = True
    try:
        return member.poll(**options)
    finally:
        watching.polling = False


def test_the_first_poll_announces_every_partition(log: streamlog.StreamLog) -> None:
    log.create_topic("t", partitions=3)
    watching = Watching()
    with log.consumer("t", group="g", listener=watching) as member:
        assert watching.calls == []
        poll(member, watching)
        assert watching.owned == every("t", 3) == member.assignment()
        assert watching.threads == {threading.get_ident()}
        before = list(watching.calls)
        poll(member, watching)
        assert watching.calls == before
        watching.polling = True


def test_subscribe_takes_a_listener_too(log: streamlog.StreamLog) -> None:
    log.create_topic("t", partitions=2)
    watching = Watching()
    with log.consumer(group="g") as member:
        member.subscribe(["t"], watching)
        poll(member, watching)
        assert watching.owned == every("t", 2)
        watching.polling = True


@pytest.mark.parametrize("strategy", ["range", "roundrobin", "sticky", "cooperative-sticky"])
def test_listeners_agree_with_assignments_while_members_come_and_go(log: streamlog.StreamLog, strategy: str) -> None:
    log.create_topic("t", partitions=6)
    members: list[tuple[Consumer, Watching]] = []

    def take_turns() -> None:
        for _ in range(3):
            for member, watching in members:
                poll(member, watching)
                assert watching.owned == member.assignment()

    for _ in range(3):
        watching = Watching()
        member = log.consumer("t", group="g", listener=watching, partition_assignment_strategy=strategy)
        members.append((member, watching))
        take_turns()
        assert set().union(*(watching.owned for _, watching in members)) == every("t", 6)
    while len(members) > 1:
        member, watching = members.pop(0)
        watching.polling = True
        member.close()
        take_turns()
        assert set().union(*(watching.owned for _, watching in members)) == every("t", 6)
    members[0][1].polling = True
    members[0][0].close()


def test_a_partition_of_a_listening_owner_moves_at_its_next_poll(log: streamlog.StreamLog) -> None:
    log.create_topic("t", partitions=2)
    watching = Watching()
    first, second = log.consumer("t", group="g", listener=watching), log.consumer("t", group="g")
    poll(first, watching)
    for _ in range(3):
        second.poll()
        assert second.assignment() == set()
    poll(first, watching)
    second.poll()
    assert watching.partitions("revoked") >= second.assignment()
    assert len(watching.owned) == len(second.assignment()) == 1
    watching.polling = True
    first.close()
    second.close()


def test_cooperative_members_are_asked_only_for_what_moves(log: streamlog.StreamLog) -> None:
    log.create_topic("t", partitions=4)
    watching = Watching()
    first = log.consumer("t", group="g", listener=watching, partition_assignment_strategy="cooperative-sticky")
    poll(first, watching)
    second = log.consumer("t", group="g", partition_assignment_strategy="cooperative-sticky")
    for _ in range(3):
        second.poll()
        poll(first, watching)
    assert len(second.assignment()) == 2
    assert watching.partitions("revoked") == second.assignment()
    watching.polling = True
    first.close()
    second.close()


def test_a_revoked_partition_can_still_be_committed(log: streamlog.StreamLog) -> None:
    topic = log.create_topic("t", partitions=2)
    for partition in range(2):
        topic.send_many(["a", "b", "c"], partition=partition).result()

    class Committing(RebalanceListener):
        consumer: Consumer

        def on_partitions_revoked(self, partitions: Sequence[TopicPartition]) -> None:
            self.consumer.commit({partition: handled[partition] for partition in partitions if partition in handled})

    handled: dict[TopicPartition, int] = {}
    listener = Committing()
    first = log.consumer("t", group="g", listener=listener, enable_auto_commit=False)
    listener.consumer = first
    for record in first.until_end():
        handled[record.topic_partition] = record.offset + 1
    second = log.consumer("t", group="g", enable_auto_commit=False)
    for _ in range(3):
        assert second.poll() == []
        assert first.poll() == []
    assert len(second.assignment()) == 1
    assert set(log.group("g").committed()) >= second.assignment()
    first.close()
    second.close()


def test_a_listener_may_seek_what_it_was_given(log: streamlog.StreamLog) -> None:
    log.create_topic("t").send_many(["a", "b", "c"]).result()

    class Seeking(RebalanceListener):
        consumer: Consumer

        def on_partitions_assigned(self, partitions: Sequence[TopicPartition]) -> None:
            for partition in partitions:
                self.consumer.seek(partition, 2)

    listener = Seeking()
    with log.consumer("t", group="g", listener=listener) as member:
        listener.consumer = member
        assert [record.value for record in member.poll()] == [b"c"]


def test_an_evicted_member_learns_that_it_lost_its_partitions(log: streamlog.StreamLog) -> None:
    log.create_topic("t").send("x").result()
    watching = Watching()
    liveness = Liveness(log)
    stuck = log.consumer("t", group="g", listener=watching, max_poll_interval_ms=1_000)
    poll(stuck, watching)
    liveness.pass_ms(1_000)
    with log.consumer("t", group="g") as other:
        assert len(other.poll()) == 1
        poll(stuck, watching)
        assert watching.partitions("lost") == every("t", 1)
        assert watching.partitions("revoked") == set()
        watching.polling = True
        stuck.close()


def test_an_error_in_a_listener_reaches_the_caller_of_poll(log: streamlog.StreamLog) -> None:
    log.create_topic("t").send("x").result()

    class Failing(RebalanceListener):
        def on_partitions_assigned(self, partitions: Sequence[TopicPartition]) -> None:
            raise ZeroDivisionError

    member = log.consumer("t", group="g", listener=Failing())
    with pytest.raises(ZeroDivisionError):
        member.poll()
    member.close()
    with log.consumer("t", group="g") as other:
        assert len(other.poll()) == 1


@pytest.mark.parametrize("auto_commit", [True, False])
@pytest.mark.parametrize("anew", [True, False])
def test_a_topic_may_be_deleted_while_a_member_gives_up_its_partitions(
    log: streamlog.StreamLog, auto_commit: bool, anew: bool
) -> None:
    """Here by the listener; a topic that another thread deletes may go at that moment too."""
    for name in ("stays", "goes"):
        log.create_topic(name).send(b"v")

    class Deletes(RebalanceListener):
        def on_partitions_assigned(self, partitions: Sequence[TopicPartition]) -> None:
            if "goes" in log and log["goes"].id == first:
                log.delete_topic("goes")
                if anew:
                    log.create_topic("goes")

        def on_partitions_revoked(self, partitions: Sequence[TopicPartition]) -> None:
            assert partitions
            for name in partitions:
                member.position(name)  # it is held still

    first = log["goes"].id
    with log.consumer("stays", "goes", group="g", listener=Deletes(), enable_auto_commit=auto_commit) as member:
        assert [record.topic for record in member.poll()] == ["stays"]
        assert member.poll() == []
        assert member.assignment() == every("stays", 1) | (every("goes", 1) if anew else set())
        log.delete_topic("stays")


def test_a_member_whose_topic_is_deleted_is_closed_without_revoking_what_is_gone(log: streamlog.StreamLog) -> None:
    told: list[set[TopicPartition]] = []

    class Told(RebalanceListener):
        def on_partitions_revoked(self, partitions: Sequence[TopicPartition]) -> None:
            told.append(set(partitions))
            for name in partitions:
                member.position(name)

    for name in ("stays", "goes"):
        log.create_topic(name).send(b"v")
    with log.consumer("stays", "goes", group="g", listener=Told()) as member:
        assert len(member.poll()) == 2
        log.delete_topic("goes")
    assert told == [every("stays", 1)]
