"""A log of several brokers goes on when one of them is stopped, loses its directory, or has a disk that fails."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import ConfigError, StreamLog, Topic
from streamlog.errors import DeliveryTimeoutError
from streamlog.testing import FaultyDisk

LONG_S = 30.0


def values(log: StreamLog, topic: str = "t") -> list[bytes | None]:
    return [record.value for record in log[topic].read()]


def eventually(look: Callable[[], Any], what: str = "it did not come to that") -> None:
    """Look until it is so: the background has to do its work first."""
    end = time.monotonic() + LONG_S
    while not look():
        assert time.monotonic() < end, what
        time.sleep(0.002)


def in_sync(topic: Topic[Any, Any]) -> set[frozenset[int]]:
    return {frozenset(topic.partition(n).isr) for n in range(topic.partitions)}


@pytest.mark.parametrize("sync", [False, True])
def test_each_broker_is_stopped_and_started_again_in_turn(path: Path, sync: bool) -> None:
    sent: list[bytes] = []

    def work(topic: Topic[Any, Any]) -> None:
        for n in range(20):
            sent.append(b"%d" % len(sent))
            topic.send(sent[-1], partition=n % topic.partitions)

    with streamlog.open(path, brokers=3, sync=sync) as log:
        topic = log.create_topic("t", partitions=3)
        work(topic)
        for broker in log.brokers:
            broker.stop()
            assert not broker.running
            assert all(broker.id not in isr for isr in in_sync(topic))
            assert all(topic.partition(n).leader not in (broker.id, -1) for n in range(3))
            work(topic)
            broker.start()
            assert broker.running
            eventually(lambda: in_sync(topic) == {frozenset({0, 1, 2})}, "it does not catch up")
            work(topic)
        assert sorted(values(log)) == sorted(sent)  # type: ignore[type-var]
    with streamlog.open(path, sync=sync) as log:
        assert sorted(values(log)) == sorted(sent)  # type: ignore[type-var]


def test_with_one_broker_left_there_are_too_few_in_sync(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic = log.create_topic("t")
        topic.send("x")
        log.brokers[0].stop()
        topic.send("y")
        log.brokers[1].stop()
        with (
            pytest.raises(DeliveryTimeoutError, match="NotEnoughReplicasError"),
            log.producer(delivery_timeout_ms=1) as short,
        ):
            short.send("t", "z")
        assert values(log) == [b"x", b"y"]
        with log.producer(acks=1) as producer:
            producer.send("t", "with acks=1")
        with pytest.raises(ConfigError, match="the last one that is running"):
            log.brokers[2].stop()
        log.brokers[1].start()
        eventually(lambda: len(topic.partition(0).isr) == 2)
        topic.send("z")
        assert values(log) == [b"x", b"y", b"with acks=1", b"z"]


def test_a_partition_whose_only_replica_is_stopped_says_so_and_comes_back(path: Path) -> None:
    with streamlog.open(path, brokers=2) as log:
        topic = log.create_topic("t", replication_factor=1)
        topic.send("x")
        broker = log.brokers[topic.partition(0).leader]
        broker.stop()
        with pytest.raises(DeliveryTimeoutError, match="has no leader"), log.producer(delivery_timeout_ms=1) as short:
            short.send("t", "y", partition=0)
        broker.start()
        assert topic.send(b"y").result().offset == 1
        assert values(log) == [b"x", b"y"]


def test_a_topic_that_was_made_while_a_broker_was_stopped_is_read_after_it_started(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        log.brokers[2].stop()
        log.create_topic("t").send("x")
        log.brokers[2].start()
        log.create_topic("u", partitions=3, replication_factor=3).send("y")
        log.delete_topic("t")
        assert values(log, "u") == [b"y"]


def test_groups_go_on_where_they_were(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic = log.create_topic("t", partitions=3)
        with log.consumer("t", group="g") as consumer:
            read: list[bytes | None] = []
            for broker in log.brokers:
                topic.send_many([b"%d.%d" % (broker.id, n) for n in range(30)])
                broker.stop()
                wanted = 30 * (broker.id + 1)
                eventually(lambda: read.extend(record.value for record in consumer.poll(0)) or len(read) >= wanted)  # noqa: B023
                consumer.commit()
                broker.start()
                eventually(
                    lambda: all(
                        in_sync(each) == {frozenset(each.partition(0).replicas)} for each in log.topics(internal=True)
                    )
                )
            assert len(read) == len(set(read)) == 90
        assert sum(log.group("g").lag().values()) == 0


def test_a_directory_that_vanishes_is_noticed_and_filled_again_by_start_alone(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic = log.create_topic("t", partitions=3)
        for n in range(30):
            topic.send(b"%d" % n, partition=n % 3)
        shutil.rmtree(path / "broker-1")
        eventually(lambda: not log.brokers[1].running, "it is not noticed")
        for n in range(30, 60):
            topic.send(b"%d" % n)
        assert not (path / "broker-1").exists()
        log.brokers[1].start()
        eventually(lambda: in_sync(topic) == {frozenset({0, 1, 2})})
        assert sorted(map(int, values(log))) == list(range(60))  # type: ignore[arg-type]
        name = topic.id.hex
        for number in range(3):
            logs = {
                b"".join(
                    each.read_bytes()
                    for each in sorted((path / f"broker-{broker}/topics/{name}-{number}").glob("*.log"))
                )
                for broker in range(3)
            }
            assert len(logs) == 1
    with streamlog.open(path) as log:
        assert len(values(log)) == 60


@pytest.mark.parametrize("broker", range(3))
@pytest.mark.parametrize("what", ["write", "sync"])
def test_a_disk_that_fails_under_one_broker_stops_that_one(path: Path, what: str, broker: int) -> None:
    disk = FaultyDisk()
    with streamlog.open(path, brokers=3, sync=what == "sync", disk=disk) as log:
        topic = log.create_topic("t", partitions=3)
        for n in range(9):
            topic.send(b"%d" % n, partition=n % 3)
        disk.fail(what, errno.EIO, path=f"*/broker-{broker}/topics/*.log")
        sent = 9
        while log.brokers[broker].running:
            topic.send(b"%d" % sent)
            sent += 1
        assert [each.running for each in log.brokers].count(False) == 1
        disk.heal()
        for n in range(sent, sent + 9):
            topic.send(b"%d" % n)
        assert sorted(map(int, values(log))) == list(range(sent + 9))  # type: ignore[arg-type]
        log.brokers[broker].start()
        eventually(lambda: in_sync(topic) == {frozenset({0, 1, 2})})
    with streamlog.open(path, sync=what == "sync") as log:
        assert sorted(map(int, values(log))) == list(range(sent + 9))  # type: ignore[arg-type]


def test_a_disk_that_is_full_under_all_is_a_full_disk_and_no_broker_stops(path: Path) -> None:
    disk = FaultyDisk()
    with streamlog.open(path, brokers=3, disk=disk) as log:
        topic = log.create_topic("t")
        topic.send("x")
        disk.fail("write", errno.ENOSPC, path="*")
        with pytest.raises(streamlog.DiskFullError):
            topic.send("y")
        disk.heal()
        topic.send("z")
        assert all(broker.running for broker in log.brokers)
        assert values(log) == [b"x", b"z"]


def test_a_log_of_one_broker_has_one_that_cannot_be_stopped(path: Path) -> None:
    with streamlog.open(path) as log:
        [broker] = log.brokers
        assert (broker.id, broker.path, broker.running) == (0, str(path), True)
        with pytest.raises(ConfigError, match="the last one"):
            broker.stop()
        broker.start()
