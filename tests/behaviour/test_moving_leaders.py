"""While leaders move between brokers, senders carry on: no error, and what is acknowledged is there once, in order."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import StreamLog
from streamlog.replication.replica_set import PartitionRegistration


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


def await_followers(log: StreamLog, topic: str, number: int) -> None:
    """Wait until every in-sync replica has what the leader has now, and nothing else.

    Before, a replica may have records that another one has removed, and may be elected with them: only idempotent producers
    can send such records again and have them in the log once.
    """
    service: Any = log._engine.service
    leader = service._partitions[topic, number]
    end = leader.reader.tail.end_offset
    for _ in range(30_000):
        if leader.replicas.in_sync_end(end) >= end:
            return
        threading.Event().wait(0.001)
    raise AssertionError("the followers do not fetch")


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
                if others:
                    move(log, "t", number, rng.choice(others))
                    await_followers(log, "t", number)

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
