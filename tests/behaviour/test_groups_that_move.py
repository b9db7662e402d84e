"""Groups move with the leader of their partition: no member becomes a ghost, no partition moves, no committed offset goes back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import StreamLog, TopicPartition
from streamlog.errors import NotLeaderError

from .test_broker_failures import eventually, in_sync
from .test_moving_leaders import registration
from .test_partitions_without_a_leader import GROUPS, hide_coordinator

InThread = Callable[[Callable[[], Any]], "Future[Any]"]
PARTITIONS, LONG_S = 4, 60


class Revocations(streamlog.RebalanceListener):
    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def on_partitions_revoked(self, partitions: Any) -> None:
        self.calls.append(("revoked", tuple(partitions)))

    def on_partitions_lost(self, partitions: Any) -> None:
        self.calls.append(("lost", tuple(partitions)))


class Reader:
    """A member on a thread of its own, which polls and commits until it is stopped."""

    def __init__(self, log: StreamLog, in_thread: InThread, **config: Any) -> None:
        self.log = log
        self.read: list[tuple[int, int]] = []
        self.listener = Revocations()
        self.config = config
        self.assigned = 0
        self.stopping = threading.Event()
        self.done = in_thread(self.run)

    def run(self) -> None:
        with self.log.consumer("t", group="g", listener=self.listener, **self.config) as member:
            while not self.stopping.is_set():
                records = member.poll(0.01)
                self.read += [(record.partition, record.offset) for record in records]
                self.assigned = len(member.assignment())
                if records and self.config.get("enable_auto_commit") is False:
                    member.commit()
            self.revoked = list(self.listener.calls)


class Watcher:
    """Looks at what is committed again and again: no offset ever goes back, nor past what was sent."""

    def __init__(self, log: StreamLog, in_thread: InThread) -> None:
        self.log = log
        self.stopping = threading.Event()
        self.looks = 0
        self.done = in_thread(self.run)

    def run(self) -> None:
        seen: dict[TopicPartition, int] = {}
        while not self.stopping.is_set():
            now = self.log.group("g").committed()
            assert all(now.get(name, -1) >= offset for name, offset in seen.items()), (seen, now)
            seen = now
            self.looks += 1


def settled(log: StreamLog) -> bool:
    """Every replica of every topic is in sync."""
    return all(in_sync(each) == {frozenset(each.partition(0).replicas)} for each in log.topics(internal=True))


@pytest.mark.parametrize("auto_commit", [False, True])
def test_each_broker_stops_in_turn_twice(path: Path, in_thread: InThread, auto_commit: bool) -> None:
    config = {"auto_commit_interval_ms": 5} if auto_commit else {"enable_auto_commit": False}
    with streamlog.open(path, brokers=3) as log:
        topic = log.create_topic("t", partitions=PARTITIONS)
        readers = [Reader(log, in_thread, **config) for _ in range(2)]
        eventually(lambda: [reader.assigned for reader in readers] == [2, 2])
        members = {member.member_id: member.assignment for member in log.group("g").members()}
        for reader in readers:
            reader.listener.calls.clear()
        watcher = Watcher(log, in_thread)
        sent = 0
        for _ in range(2):
            for broker in log.brokers:
                for stops in (True, False):
                    for _ in range(20):
                        topic.send(b"%d" % sent, partition=sent % PARTITIONS)
                        sent += 1
                    broker.stop() if stops else broker.start()
                    assert {each.member_id: each.assignment for each in log.group("g").members()} == members
                eventually(lambda: settled(log), "it does not catch up")
        eventually(lambda: sum(len(reader.read) for reader in readers) >= sent, "records are missing")
        eventually(lambda: sum(log.group("g").lag().values()) == 0, "commits are missing")
        for each in (watcher, *readers):
            each.stopping.set()
            each.done.result(LONG_S)
        read = [record for reader in readers for record in reader.read]
        assert len(read) == len(set(read)) == sent, "each record once: no partition has moved"
        assert [reader.revoked for reader in readers] == [[], []]
        assert watcher.looks > 6
        assert log.group("g").members() == []
    with streamlog.open(path) as log:
        assert sum(log.group("g").committed().values()) == sent


def test_a_commit_that_its_coordinator_lost_is_made_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its record was in the old leader's log alone; the consumer's call ends when the new one has it."""
    monkeypatch.setattr("streamlog.broker.broker_changes.HAND_OVER_S", 0.0)
    with streamlog.open(path, brokers=3) as log:
        log.create_topic("t").send_many([b"%d" % n for n in range(9)])
        service: Any = log._engine.service
        with log.consumer("t", group="g", enable_auto_commit=False) as member:
            assert len(member.poll(10)) == 9
            member.commit({("t", 0): 3})
            for _ in range(3):
                coordinator = registration(log, GROUPS, 0).leader
                partition = service._partitions[GROUPS, 0]
                for broker in service.brokers.all:
                    broker.fetcher.forget((GROUPS, 0))
                before = log.group("g").committed()[TopicPartition("t", 0)]
                stop = threading.Thread(target=log.brokers[coordinator].stop)
                append = partition.append

                def appended(*args: Any, append: Any = append, stop: Any = stop) -> Any:
                    found = append(*args)
                    stop.start()  # after the record is in the log, and before a follower has it
                    return found

                partition.append = appended
                member.commit({("t", 0): before + 1})
                stop.join(LONG_S)
                assert log.group("g").committed() == {("t", 0): before + 1}
                log.brokers[coordinator].start()
                eventually(lambda: settled(log))
            assert len(log.group("g").members()) == 1
            member.commit()
    with streamlog.open(path) as log:
        assert log.group("g").committed() == {("t", 0): 9}


def test_a_join_that_its_coordinator_lost_is_made_again_and_leaves_no_ghost(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamlog.broker.broker_changes.HAND_OVER_S", 0.0)
    with streamlog.open(path, brokers=3) as log:
        log.create_topic("t").send("x")
        with log.consumer("t", group="g") as other:
            assert len(other.poll(10)) == 1
        service: Any = log._engine.service
        partition = service._partitions[GROUPS, 0]
        coordinator = registration(log, GROUPS, 0).leader
        for broker in service.brokers.all:
            broker.fetcher.forget((GROUPS, 0))
        stop = threading.Thread(target=log.brokers[coordinator].stop)
        append = partition.append

        def appended(*args: Any) -> Any:
            found = append(*args)
            stop.start()
            return found

        partition.append = appended
        with log.consumer("t", group="g") as member:
            eventually(lambda: member.poll(0.01) or member.assignment())
            stop.join(LONG_S)
            assert len(log.group("g").members()) == 1
        assert log.group("g").members() == []


def test_an_answer_that_no_follower_confirms_has_a_bound(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamlog.broker.coordinator_log.COMMIT_TIMEOUT_MS", 50)
    monkeypatch.setattr("streamlog.client.retrying.DEFAULT_API_TIMEOUT_S", 0.2)
    with streamlog.open(path, brokers=2) as log:
        log.create_topic("t").send("x")
        with log.consumer("t", group="g", enable_auto_commit=False) as member:
            assert len(member.poll(10)) == 1
            service: Any = log._engine.service
            stuck = [broker.fetcher for broker in service.brokers.all]
            for fetcher in stuck:
                fetcher.forget((GROUPS, 0))
            with pytest.raises(streamlog.RequestTimedOutError):
                member.commit()
            for broker in service.brokers.all:
                replica = broker.replicas.partitions[GROUPS, 0]
                if not replica.is_leader:
                    broker.fetcher.follow(replica)
            member.commit()
            assert log.group("g").committed() == {("t", 0): 1}
            assert len(log.group("g").members()) == 1


def test_polls_that_find_no_coordinator_send_no_leaves(path: Path) -> None:
    """Each attempt to join asks for the same member id, so nothing has to be taken back."""
    with streamlog.open(path, brokers=3) as log:
        log.create_topic("t").send("x")
        log.group("g").reset("t", to="earliest")
        bring_back = hide_coordinator(log)
        service: Any = log._engine.service
        leaves: list[Any] = []
        leave = service.leave_group
        service.leave_group = lambda *args, **options: leaves.append(args) or leave(*args, **options)
        with log.consumer("t", group="g") as member:
            for _ in range(50):
                member.poll()
            bring_back()
            eventually(lambda: member.poll(0.01))
            assert leaves == []


def test_a_coordinator_without_a_leader_is_said_by_its_service(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        log.create_topic("t")
        log.group("g").reset("t", to="earliest")
        bring_back = hide_coordinator(log)
        assert isinstance(log._engine.service.committed("g", None).error(), NotLeaderError)
        bring_back()
        assert log._engine.service.committed("g", None).error() is None
