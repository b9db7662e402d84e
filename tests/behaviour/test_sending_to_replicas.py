"""Records that are sent one by one to several brokers: the sender has the followers take them, and wakes no thread."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import StreamLog
from streamlog.replication import fetcher
from tests.times import LONG

BROKERS = 3


@pytest.fixture
def log(path: Path) -> Iterator[StreamLog]:
    with streamlog.open(path, brokers=BROKERS) as opened:
        yield opened


def brokers(log: StreamLog) -> list[Any]:
    found: list[Any] = log._engine.service.brokers.all  # type: ignore[attr-defined]
    return found


def wake_ups(log: StreamLog) -> list[int]:
    """Has the id of a broker for each time that the thread which fetches for it is woken from now on."""
    woken: list[int] = []
    for broker in brokers(log):
        nudge = broker.fetcher.nudge
        broker.fetcher.nudge = lambda broker_id=broker.id, nudge=nudge: (woken.append(broker_id), nudge())
    return woken


def replicas(log: StreamLog, topic: str, partition: int = 0) -> list[Any]:
    return [broker.replicas.partitions[topic, partition] for broker in brokers(log)]


def test_a_record_is_on_every_replica_when_send_returns_and_no_thread_is_woken_for_each(
    log: StreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took four switches of threads."""
    monkeypatch.setattr(
        fetcher, "SLOW_S", math.inf
    )  # on a busy machine a fetch may take as long as on a disk that fails
    log.create_topic("t")
    with log.producer() as producer:
        producer.send("t", b"first").result()
        woken = wake_ups(log)
        for n in range(1, 51):
            producer.send("t", b"%d" % n)
            leader, *followers = replicas(log, "t")
            assert [each.reader.tail.end_offset for each in (leader, *followers)] == [n + 1] * BROKERS
            assert leader.high_watermark == n + 1
            # A thread that fetches just now, from the topic's beginning on, may still have to take over the last one.
            assert all(each.high_watermark >= n for each in followers)
        # The one that fetches just now may be left a record, and is woken for it.
        assert len(woken) < 25


def test_many_senders_to_many_partitions_have_each_record_on_every_replica_once_and_in_order(log: StreamLog) -> None:
    """They take turns, leave records to one another and to the followers' threads, and all of them come to their end."""
    senders, partitions, count = 8, 3, 60
    topic = log.create_topic("t", partitions=partitions)
    failures: list[BaseException] = []

    def send(sender: int, producer: Any) -> None:
        try:
            for n in range(count):
                metadata = producer.send("t", b"%d %d" % (sender, n), partition=n % partitions).result()
                committed = [each.high_watermark for each in replicas(log, "t", n % partitions)]
                assert max(committed) > metadata.offset, "acknowledged, and readers do not see it"
                if n % 10 == 0:
                    producer.send_many("t", [b"%d many %d" % (sender, n)] * 5, partition=n % partitions)
        except BaseException as error:
            failures.append(error)

    with log.producer() as shared, log.producer() as other:
        threads = [threading.Thread(target=send, args=(n, (shared, other)[n % 2])) for n in range(senders)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
            assert not thread.is_alive()
    assert not failures
    for number in range(partitions):
        logs = [
            b"".join(file.read_bytes() for file in sorted(Path(each.log.directory).glob("*.log")))
            for each in replicas(log, "t", number)
        ]
        assert len(set(logs)) == 1
    found: dict[int, list[int]] = {sender: [] for sender in range(senders)}
    for record in topic.read():
        words = record.value.split()
        if len(words) == 2:
            found[int(words[0])].append(int(words[1]))
    for sent in found.values():
        assert sorted(sent) == list(range(count))
        for number in range(partitions):
            mine = [n for n in sent if n % partitions == number]
            assert mine == sorted(mine)
