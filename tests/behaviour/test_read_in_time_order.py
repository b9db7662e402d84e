"""`read(order="time")`: the partitions merged by timestamp, each in the order of its offsets, lazily."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamlog
from streamlog import ConcurrentUseError, Record, StreamLog, Topic
from streamlog.client.consumer.fetcher import PartitionFetcher


def merged(records: Iterable[Record[Any, Any]]) -> list[Record[Any, Any]]:
    """What the docstring says, in the plainest way: of the next record of each partition, the one with the least timestamp."""
    waiting: dict[int, deque[Record[Any, Any]]] = {}
    for record in records:
        waiting.setdefault(record.partition, deque()).append(record)
    out = []
    while any(waiting.values()):
        at = min((queue[0].timestamp, partition) for partition, queue in waiting.items() if queue)[1]
        out.append(waiting[at].popleft())
    return out


def fill(topic: Topic, sent: Iterable[tuple[int, int]]) -> None:
    """Send (partition, timestamp) pairs."""
    for n, (partition, timestamp) in enumerate(sent):
        topic.send(str(n), partition=partition, timestamp_ms=timestamp)


def times(records: Iterable[Record[Any, Any]]) -> list[tuple[int, int]]:
    return [(record.partition, record.timestamp) for record in records]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=60), st.integers(1, 700))
def test_partitions_are_merged_by_the_timestamp_of_their_next_record(
    sent: list[tuple[int, int]], together: int
) -> None:
    with streamlog.open() as log:
        topic = log.create_topic("t", partitions=4)
        fill(topic, sent)
        for partition in range(4):  # a batch, of which one fetch may bring a part
            topic.send_many(
                [b"x"] * together, partition=partition, timestamps_ms=[n % 7 + n // 9 for n in range(together)]
            )
        assert list(topic.read(order="time")) == merged(topic.read())
        assert list(topic.read(2, order="time")) == list(topic.read(2))


def test_equal_timestamps_come_in_the_order_of_the_partitions(log: StreamLog) -> None:
    topic = log.create_topic("t", partitions=3)
    fill(topic, [(2, 5), (1, 5), (0, 5), (1, 5), (0, 4)])
    # Partition 0 has 5 and then 4: that comes directly after.
    assert times(topic.read(order="time")) == [(0, 5), (0, 4), (1, 5), (1, 5), (2, 5)]


def test_the_bounds_are_those_of_a_read(log: StreamLog) -> None:
    topic = log.create_topic("t", partitions=2)
    fill(topic, [(n % 2, n) for n in range(20)])
    at = datetime.fromtimestamp(0.010, UTC)
    read = topic.read(start=at, order="time")
    assert repr(read) == "<streamlog.Records t-0 [5, 10), t-1 [5, 10)>"
    topic.send("later")
    assert times(read) == [(n % 2, n) for n in range(10, 20)]
    assert times(topic.read(end=at, order="time")) == [(n % 2, n) for n in range(10)]
    assert times(topic.read(0, start=2, end=4, order="time")) == [(0, 4), (0, 6)]
    assert list(topic.read(start="latest", order="time")) == []


def test_records_of_aborted_transactions_and_what_is_compacted_are_left_out(log: StreamLog) -> None:
    topic = log.create_topic("t", partitions=3, cleanup_policy="compact", delete_retention_ms=0)
    with log.producer(transactional_id="p") as producer:
        for n in range(60):
            producer.begin_transaction()
            producer.send("t", str(n), key=str(n % 7), partition=n % 3, timestamp_ms=n)
            producer.abort_transaction() if n % 4 == 0 else producer.commit_transaction()
    topic.compact()
    found = list(topic.read(order="time"))
    assert found == merged(topic.read())
    assert [record.timestamp for record in found] == sorted(record.timestamp for record in found)
    assert len(list(topic.read(order="time", isolation_level="read_uncommitted"))) >= len(found) > 0


def test_a_read_in_time_order_is_lazy(log: StreamLog, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = log.create_topic("t", partitions=4)
    for partition in range(4):
        topic.send_many([b"x"] * 20_000, partition=partition, timestamps_ms=range(20_000))
    taken: list[int] = []
    take = PartitionFetcher.take
    monkeypatch.setattr(
        PartitionFetcher, "take", lambda self, out, n: taken.append(found := take(self, out, n)) or found
    )
    read = topic.read(order="time")
    assert not taken
    first = next(read)
    assert (first.partition, first.timestamp) == (0, 0)
    assert sum(taken) < 3_000


@pytest.mark.parametrize("order", ["times", "Time", "", None, 1, True], ids=repr)
def test_another_order_is_refused(log: StreamLog, order: Any) -> None:
    topic = log.create_topic("t")
    with pytest.raises(streamlog.ConfigError, match="order="):
        topic.read(order=order)


def test_values_are_deserialized_and_a_failure_comes_at_its_place(log: StreamLog) -> None:
    log.create_topic("t", partitions=2)
    topic = log.topic("t", value_serde=streamlog.serde.json)
    plain = log["t"]
    for timestamp, value in enumerate(["1", "2", "no json", "4"]):
        plain.send(value, partition=timestamp % 2, timestamp_ms=timestamp)
    read = topic.read(order="time")
    assert [next(read).value, next(read).value] == [1, 2]
    with pytest.raises(streamlog.DeserializationError) as error:
        next(read)
    assert error.value.record.value == b"no json"


@pytest.mark.damaged
def test_damage_comes_after_the_records_before_it_or_is_skipped(log: StreamLog, path: Any) -> None:
    topic = log.create_topic("t", partitions=2)
    for n in range(10):
        topic.send(b"%d" % n * 100, partition=n % 2, timestamp_ms=n)
    log.sync()
    (file,) = (each for each in path.rglob("*.log") if b"5" * 100 in each.read_bytes())
    file.write_bytes(file.read_bytes().replace(b"5" * 100, b"5" * 50 + b"!" + b"5" * 49))
    read = topic.read(order="time")
    found = []
    with pytest.raises(streamlog.CorruptRecordError):
        found.extend(read)
    assert [record.timestamp for record in found][:3] == [0, 1, 2]
    skipping = topic.read(order="time", on_corrupt="skip")
    assert [record.timestamp for record in skipping] == [0, 1, 2, 3, 4, 6, 7, 8, 9]


def test_a_deserializer_that_uses_the_read_is_refused(log: StreamLog) -> None:
    class Greedy:
        def serialize(self, value: Any) -> bytes:
            return bytes(value)

        def deserialize(self, data: bytes) -> Any:
            return next(read)

    log.create_topic("t").send_many([b"1", b"2"])
    read = log.topic("t", value_serde=Greedy()).read(order="time")
    with pytest.raises((ConcurrentUseError, streamlog.DeserializationError)):
        list(read)


def test_a_read_of_many_partitions_takes_few_of_each(log: StreamLog, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = log.create_topic("t", partitions=64)
    for partition in range(64):
        topic.send_many([b"x"] * 100, partition=partition, timestamps_ms=range(100))
    asked: list[int] = []
    take = PartitionFetcher.take
    monkeypatch.setattr(PartitionFetcher, "take", lambda self, out, n: asked.append(n) or take(self, out, n))
    assert [record.timestamp for record in topic.read(order="time")] == sorted(list(range(100)) * 64)
    assert max(asked) <= 512 // 64
