"""While leaders move between brokers, senders carry on: no error, and what is acknowledged is there once, in order."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import StreamLog
from streamlog.replication.replica_set import PartitionRegistration
from streamlog.runtime.threads import result_of
from streamlog.testing import ManualClock, SimulatedDisk
from streamlog.types import TopicPartition
from tests.times import LONG

InThread = Callable[[Callable[[], Any]], Future[Any]]


def registration(log: StreamLog, topic: str, number: int) -> PartitionRegistration:
    image = log._engine.service.image
    return image.partition(image.topics[topic].id_bytes, number)


def move(log: StreamLog, topic: str, number: int, leader: int) -> None:
    """Have another broker lead; -1: none. What the followers do not have is lost."""
    before = registration(log, topic, number)
    after = before._replace(
        leader=leader, leader_epoch=before.leader_epoch + 1, partition_epoch=before.partition_epoch + 1
    )
    service: Any = log._engine.service
    service._topics.alter_partitions({(topic, number): after})


def run(*calls: Callable[[], object]) -> list[BaseException]:
    """Run each on a thread of its own, until all have ended; what they raised."""
    errors: list[BaseException] = []

    def contained(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=contained, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return errors


@pytest.mark.parametrize("linger_ms", [0, 5])
def test_everything_acknowledged_is_there_once_and_in_the_order_of_its_sender(
    path: Path, monkeypatch: pytest.MonkeyPatch, linger_ms: int
) -> None:
    monkeypatch.setattr("streamlog.client.producer.partition_queue.RETRY_BACKOFF_MS", 20)
    senders, records = 3, 200
    rng = random.Random(linger_ms)
    with streamlog.open(path, brokers=3) as log:
        log.create_topic("t", partitions=2)
        acknowledged: list[list[Any]] = [[] for _ in range(senders)]
        going = threading.Event()

        def send(sender: int) -> None:
            with log.producer(linger_ms=linger_ms, batch_size=400) as producer:
                sent = []
                for n in range(records):
                    sent.append(producer.send("t", b"%d" % n, key=b"%d" % sender, partition=n % 2))
                    if n == 20:
                        going.set()
                acknowledged[sender] = [each.result() for each in sent]

        def move_leaders() -> None:
            going.wait(30)
            for _ in range(30):
                number = rng.randrange(2)
                known = registration(log, "t", number)
                others = [each for each in known.isr if each != known.leader]
                if others:  # also those with records that the one before them has removed, and that are sent again
                    move(log, "t", number, rng.choice(others))
                    threading.Event().wait(rng.choice([0, 0.001, 0.01]))

        assert run(move_leaders, *[lambda sender=sender: send(sender) for sender in range(senders)]) == []  # type: ignore[misc]
        there = {(record.partition, record.offset): record for record in log["t"].read()}
        assert len(there) == senders * records
        for sender in range(senders):
            found = [there[each.partition, each.offset] for each in acknowledged[sender]]
            assert [(record.key, record.value) for record in found] == [
                (b"%d" % sender, b"%d" % n) for n in range(records)
            ]
            for number in range(2):
                offsets = [each.offset for each in acknowledged[sender] if each.partition == number]
                assert offsets == sorted(offsets)


def test_a_broker_that_metrics_say_is_in_sync_can_be_elected_at_that_very_moment(
    path: Path, in_thread: InThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    with streamlog.open(path, brokers=2) as log:
        log.create_topic("t")
        log.brokers[1].stop()
        brokers: Any = log._engine.service.brokers  # type: ignore[attr-defined]
        follow, is_in_force, may_follow = brokers.follow, threading.Event(), threading.Event()

        def follow_later(image: Any, changed: Any = None) -> None:
            if image.partition(image.topics["t"].id_bytes, 0).isr == (0, 1):
                is_in_force.set()
                assert may_follow.wait(LONG)
            follow(image, changed)

        monkeypatch.setattr(brokers, "follow", follow_later)
        try:
            started = in_thread(log.brokers[1].start)
            assert is_in_force.wait(LONG)
            assert log.metrics()["replication"]["under_replicated_partitions"] == 0
            elected = in_thread(lambda: log.elect_leader(streamlog.TopicPartition("t", 0), 1))
            with pytest.raises(TimeoutError):
                elected.result(0.05)
        finally:
            may_follow.set()
        started.result(LONG)
        elected.result(LONG)
        assert log["t"].partition(0).leader == 1


@pytest.mark.parametrize("wait", ["an election", "a reassignment"])
def test_what_begins_while_the_log_is_being_closed_ends(path: Path, wait: str) -> None:
    """A signal handler may close the log between the look whether it is open and the call."""
    with streamlog.open(path, brokers=2) as log:
        log.create_topic("t", partitions=1)
        service: Any = log._engine.service
        known = registration(log, "t", 0)
        other = next(each for each in known.replicas if each != known.leader)
        moves = result_of(service.reassign("t", {0: [other]}, None)) if wait == "a reassignment" else None
    done = service.await_reassignment(moves) if moves else service.elect_leader(streamlog.TopicPartition("t", 0), other)
    assert done.done()
    assert isinstance(done.error(), streamlog.ClosedError)


def test_a_leader_that_is_recorded_late_shows_readers_no_less_than_the_last_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with streamlog.open("data", brokers=3, disk=SimulatedDisk(), clock=ManualClock()) as log:
        log.create_topic("t", partitions=1).send(b"seen")
        service: Any = log._engine.service
        leadership, at = service.brokers.leadership, TopicPartition("t", 0)
        leader = leadership.table[at].broker_id
        with monkeypatch.context() as patch:
            others = [broker for broker in service.brokers.running if broker.id != leader]
            patch.setattr(leadership, "_running", lambda: others)
            leadership.follow("t", service.image)
        assert at not in leadership.table
        for broker in others:
            broker.replicas.partitions[at].doubt_high_watermark()
            monkeypatch.setattr(broker, "fetcher", None)
        log.brokers[leader].stop()
        assert log["t"].partition(0).high_watermark == 1
