"""Which partition a record goes to."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import streamlog
from streamlog import StreamLog
from streamlog.testing import ManualClock
from tests.contents import ends_of

UUID_KEY = "fd7af248-ce5c-46a5-93d7-1c0c9005b99d"
# From the unit test of the Java client: key, its murmur2 as a signed number.
MURMUR2 = [
    ("21", -973932308),
    ("foobar", -790332482),
    ("a-little-bit-long-string", -985981536),
    ("a-little-bit-longer-string", -1486304829),
    ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
    ("abc", 479470107),
]


def partition_of(log: StreamLog, key: Any, partitions: int, **config: Any) -> int:
    topic = log.create_topic(f"of-{partitions}", partitions=partitions, exist_ok=True)
    with log.producer(**config) as producer:
        return producer.send(topic, b"v", key).result().partition


@pytest.mark.parametrize(
    ("key", "partitions", "murmur2", "crc32"), [("TT0124", 15, 10, 9), (UUID_KEY, 32, 26, 23), ("21", 10, 0, 2)]
)
def test_kafkas_partition_vectors(log: StreamLog, key: str, partitions: int, murmur2: int, crc32: int) -> None:
    assert partition_of(log, key, partitions, partitioner="murmur2") == murmur2
    assert partition_of(log, key, partitions, partitioner="crc32") == crc32


@pytest.mark.parametrize(("key", "digest"), MURMUR2)
@pytest.mark.parametrize("partitions", [7, 32])
def test_murmur2_is_javas(log: StreamLog, key: str, digest: int, partitions: int) -> None:
    assert partition_of(log, key, partitions, partitioner="murmur2") == (digest & 0x7FFFFFFF) % partitions


def test_crc32_is_librdkafkas(log: StreamLog) -> None:
    for key in (b"\x00", b"\xff" * 9, b"alice"):
        assert partition_of(log, key, 13, partitioner="crc32") == zlib.crc32(key) % 13


@pytest.mark.parametrize("partitioner", ["xxhash", "murmur2", "crc32"])
def test_key_has_one_partition_for_ever_and_keys_are_spread(
    log: StreamLog, reopen: Callable[..., StreamLog], partitioner: str
) -> None:
    topic = log.create_topic("t", partitions=5, partitioner=partitioner)
    keys = [f"key-{n}" for n in range(500)]
    first = [topic.send(b"v", key).result().partition for key in keys]
    assert min(Counter(first).values()) > 50
    assert len(set(first)) == 5
    topic = reopen(log)["t"]
    assert [topic.send(b"v", key).result().partition for key in keys] == first


def test_str_and_bytes_keys_are_one_key(log: StreamLog) -> None:
    topic = log.create_topic("t", partitions=7)
    for key in ("", "k", "grün"):
        assert topic.send(b"v", key).result().partition == topic.send(b"v", key.encode()).result().partition


def test_partitioner_of_the_topic_is_used_and_the_producers_wins(log: StreamLog) -> None:
    log.create_topic("t", partitions=32, partitioner="murmur2")
    with log.producer() as plain, log.producer(partitioner="crc32") as own:
        assert plain.send("t", b"v", UUID_KEY).result().partition == 26
        assert own.send("t", b"v", UUID_KEY).result().partition == 23


def test_explicit_partition_beats_every_partitioner(log: StreamLog) -> None:
    topic = log.create_topic("t", partitions=4)
    with log.producer(partitioner=lambda topic, key, count: 0) as producer:
        assert producer.send("t", b"v", b"k", partition=3).result().partition == 3
        assert [m.partition for m in producer.send_many("t", [b"v"] * 3, partition=2).result()] == [2, 2, 2]
    assert ends_of(topic) == [0, 0, 3, 1]


def test_partitioner_may_be_a_function_of_topic_key_and_count(log: StreamLog) -> None:
    log.create_topic("t", partitions=4)
    asked: list[tuple[str, bytes | None, int]] = []

    def choose(topic: str, key: bytes | None, count: int) -> int:
        asked.append((topic, key, count))
        return 3

    with log.producer(partitioner=choose) as producer:
        assert producer.send("t", b"v", "alice").result().partition == 3
        assert producer.send_many("t", [b"v"], ["bob"]).result()[0].partition == 3
    assert asked == [("t", b"alice", 4), ("t", b"bob", 4)]


@pytest.mark.parametrize("choice", [4, -1, None, "0"])
def test_partitioner_that_chooses_no_partition_is_an_error(log: StreamLog, choice: Any) -> None:
    topic = log.create_topic("t", partitions=4)
    producer = log.producer(partitioner=lambda topic, key, count: choice)
    with pytest.raises((streamlog.StreamlogError, ValueError, TypeError)):
        producer.send("t", b"v", b"k")
    producer.close()
    assert ends_of(topic) == [0, 0, 0, 0]


def test_round_robin_deals_evenly_whatever_the_key(log: StreamLog) -> None:
    topic = log.create_topic("t", partitions=3)
    with log.producer(partitioner="round_robin") as producer:
        for _ in range(9):
            producer.send("t", b"v", b"same key")
    assert ends_of(topic) == [3, 3, 3]


@pytest.mark.parametrize(
    "config", [{}, {"partitioner": "murmur2"}, {"partitioner": "crc32"}, {"partitioner": "sticky"}]
)
def test_null_keys_stick_to_one_partition_until_the_batch_is_full(log: StreamLog, config: Any) -> None:
    topic = log.create_topic("t", partitions=8)
    with log.producer(linger_ms=1000, batch_size=2000, **config) as producer:
        for _ in range(5):
            producer.send("t", b"small")
        producer.flush()
        assert sorted(ends_of(topic)) == [0] * 7 + [5]
        for _ in range(400):
            producer.send("t", b"x" * 500)
    assert sum(end > 0 for end in ends_of(topic)) >= 4


@pytest.mark.parametrize("partitioner", ["xxhash", "murmur2", "crc32", "sticky"])
def test_records_without_a_key_or_a_linger_are_spread_evenly(log: StreamLog, partitioner: str) -> None:
    topic = log.create_topic("t", partitions=4, partitioner=partitioner)
    for _ in range(100):
        topic.send(b"job")
    assert ends_of(topic) == [25, 25, 25, 25]
    for _ in range(4):
        topic.send_many([b"job"] * 10)
        topic.send_many([b"job"] * 10, keys=[None] * 10)
    assert ends_of(topic) == [45, 45, 45, 45]


@pytest.mark.parametrize("config", [{}, {"linger_ms": 5}, {"partitioner": "sticky"}])
def test_many_records_without_a_key_are_spread_by_batches(log: StreamLog, config: Any) -> None:
    topic = log.create_topic("t", partitions=4)
    values = [b"%06d" % n for n in range(20_000)]
    keys = values if config.get("partitioner") else None
    with log.producer(**config) as producer:
        sent = producer.send_many("t", values, keys).result()
    ends = ends_of(topic)
    assert sum(ends) == 20_000 and min(ends) > 3_000
    for partition in range(4):
        there = [(record.offset, record.value) for record in topic.read(partition)]
        assert there == [(m.offset, value) for m, value in zip(sent, values, strict=True) if m.partition == partition]
        assert [value for _, value in there] == sorted(value for _, value in there), "in the order of the call"


def test_few_records_without_a_key_are_one_batch(log: StreamLog) -> None:
    topic = log.create_topic("t", partitions=4)
    topic.send_many([b"job"] * 50)
    assert sorted(ends_of(topic)) == [0, 0, 0, 50]
    with log.producer(linger_ms=1000) as producer:
        for _ in range(5):
            producer.send_many("t", [b"job"] * 10)
            producer.send("t", b"job")
    assert sorted(ends_of(topic)) == [0, 0, 50, 55]


def test_each_worker_of_a_group_gets_jobs_without_a_key(log: StreamLog) -> None:
    jobs = log.create_topic("jobs", partitions=4)
    for _ in range(100):
        jobs.send("job")
    workers = [log.consumer("jobs", group="g") for _ in range(4)]
    for _ in range(2):
        for worker in workers:
            worker.poll()
    assert {len(worker.assignment()) for worker in workers} == {1}
    assert [sum(ends_of(jobs)[at.partition] for at in worker.assignment()) for worker in workers] == [25] * 4
    for worker in workers:
        worker.close()


@pytest.mark.parametrize("key", [None, "the same"])
def test_records_without_a_key_move_on_when_a_linger_ends(log: StreamLog, clock: ManualClock, key: Any) -> None:
    topic = log.create_topic("t", partitions=4, partitioner="xxhash" if key is None else "sticky")
    with log.producer(linger_ms=5) as producer:
        for _ in range(8):
            producer.send("t", b"v", key)
            producer.send("t", b"v", key)
            clock.advance(0.005)
        assert ends_of(topic) == [4, 4, 4, 4]


def test_sticky_ignores_the_key(log: StreamLog) -> None:
    topic = log.create_topic("t", partitions=8)
    with log.producer(partitioner="sticky", linger_ms=1000) as producer:
        for n in range(20):
            producer.send("t", b"v", f"key-{n}")
    assert sorted(ends_of(topic)) == [0] * 7 + [20]


@pytest.mark.parametrize("partition", [3, -1, 10**10])
@pytest.mark.parametrize("linger_ms", [0, 1000])
def test_partition_that_does_not_exist_is_refused(log: StreamLog, partition: int, linger_ms: int) -> None:
    topic = log.create_topic("t", partitions=3)
    with log.producer(linger_ms=linger_ms) as producer:
        with pytest.raises(streamlog.UnknownTopicOrPartitionError):
            producer.send("t", b"v", partition=partition)
        with pytest.raises(streamlog.UnknownTopicOrPartitionError):
            producer.send_many("t", [b"v"], partition=partition)
    assert ends_of(topic) == [0, 0, 0]


@pytest.mark.parametrize("linger_ms", [0, 1000])
def test_topic_that_does_not_exist_is_refused_at_the_call(log: StreamLog, linger_ms: int) -> None:
    with log.producer(linger_ms=linger_ms) as producer:
        with pytest.raises(streamlog.UnknownTopicOrPartitionError, match="absent"):
            producer.send("absent", b"v")
        with pytest.raises(streamlog.UnknownTopicOrPartitionError, match="absent"):
            producer.send_many("absent", [b"v"])
