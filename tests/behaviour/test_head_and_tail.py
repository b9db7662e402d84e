"""`topic.head`, `tail` and `at`: some records by time, each at the cost of a few."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamlog
from streamlog import Record, RecordTuple, StreamLog, Topic
from streamlog.client.consumer.fetcher import PartitionFetcher
from streamlog.client.time_order import TAKE
from tests.behaviour.test_kafka_batches import KafkaFace
from tests.behaviour.test_read_in_time_order import merged
from tests.kafka_batches import Row


def moment(timestamp_ms: int) -> datetime:
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC)


def merged_from_the_end(records: list[Record[Any, Any]]) -> list[Record[Any, Any]]:
    """The mirror image of `merged`: times and partitions are negated, and each partition is turned round."""
    turned = [record._replace(partition=-record.partition, timestamp=-record.timestamp) for record in records[::-1]]
    return [
        record._replace(partition=-record.partition, timestamp=-record.timestamp) for record in merged(turned)[::-1]
    ]


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many records each read of a partition has decoded."""
    counts: list[int] = []
    take = PartitionFetcher.take
    monkeypatch.setattr(
        PartitionFetcher, "take", lambda self, out, n: counts.append(found := take(self, out, n)) or found
    )
    return counts


# What is done to a topic of 16 partitions, in which each record comes later than the one before it.
SENDING = st.tuples(st.just("send"), st.integers(0, 15), st.integers(1, 40))
ABORTING = st.tuples(st.just("abort"), st.integers(0, 15), st.integers(1, 40))
COMPACTING = st.tuples(st.just("compact"), st.just(0), st.just(0))
STEPS = st.lists(st.one_of(SENDING, SENDING, ABORTING, COMPACTING), max_size=25)


@given(STEPS, st.lists(st.integers(0, 120), min_size=1, max_size=6))
def test_head_tail_and_at_are_slices_of_a_read_by_time(steps: list[tuple[str, int, int]], sizes: list[int]) -> None:
    with streamlog.open() as log, log.producer(transactional_id="p") as producer:
        topic = log.create_topic("t", partitions=16, cleanup_policy="compact", delete_retention_ms=0)
        now = 0
        for step, partition, count in steps:
            if step == "compact":
                topic.compact()
                continue
            producer.begin_transaction()
            for n in range(count):
                producer.send("t", str(n), key=str(now % 11), partition=partition, timestamp_ms=now)
                now += n % 3
            producer.abort_transaction() if step == "abort" else producer.commit_transaction()
        whole = list(topic.read(order="time"))
        for n in sizes:
            assert list(topic.head(n)) == whole[:n]
            assert list(topic.tail(n)) == whole[len(whole) - min(n, len(whole)) :]
            assert list(topic.at(moment(n), n)) == list(topic.read(start=moment(n), order="time"))[:n]
            assert all(record.timestamp >= n for record in topic.at(moment(n), n))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), max_size=50), st.integers(0, 30))
def test_timestamps_in_any_order(sent: list[tuple[int, int]], n: int) -> None:
    with streamlog.open() as log:
        topic = log.create_topic("t", partitions=3)
        for partition, timestamp in sent:
            topic.send(b"x", partition=partition, timestamp_ms=timestamp)
        whole = list(topic.read())
        assert list(topic.head(n)) == merged(whole)[:n]
        assert list(topic.at(moment(5), n)) == merged(topic.read(start=moment(5)))[:n]
        last = merged_from_the_end(whole)
        assert list(topic.tail(n)) == last[len(last) - min(n, len(last)) :]


def test_the_default_is_ten(log: StreamLog) -> None:
    topic = log.create_topic("t")
    topic.send_many([str(n) for n in range(30)], timestamps_ms=range(30))
    assert [record.offset for record in topic.head()] == list(range(10))
    assert [record.offset for record in topic.tail()] == list(range(20, 30))
    assert [record.offset for record in topic.at(moment(7))] == list(range(7, 17))
    assert topic.at(moment(30)) == ()


def test_an_empty_topic_has_none(log: StreamLog) -> None:
    topic = log.create_topic("t", partitions=3)
    assert (topic.head(), topic.tail(), topic.at(moment(0))) == ((), (), ())
    topic.send("1")
    assert (topic.head(0), topic.tail(0), topic.at(moment(0), 0)) == ((), (), ())


# Cost


@pytest.mark.parametrize("partitions", [1, 16])
def test_a_few_records_of_a_large_topic_are_read_and_not_the_whole(
    log: StreamLog, taken: list[int], partitions: int
) -> None:
    topic = log.create_topic("t", partitions=partitions, segment_bytes=100_000)
    for partition in range(partitions):
        for start in range(0, 20_000, 500):
            topic.send_many([b"x" * 20] * 500, partition=partition, timestamps_ms=range(start, start + 500))
    for call in (topic.head, topic.tail, lambda n: topic.at(moment(9_000), n)):
        taken.clear()
        assert len(call(5)) == 5
        assert sum(taken) <= 3 * TAKE


def test_the_tail_is_found_across_what_was_compacted_and_aborted(log: StreamLog, taken: list[int]) -> None:
    topic = log.create_topic("t", cleanup_policy="compact", delete_retention_ms=0)
    topic.send_many([b"first"] * 20_000, [str(n) for n in range(20_000)], timestamps_ms=range(20_000))
    topic.send_many([b"hot"] * 20_000, [b"k"] * 20_000, timestamps_ms=range(20_000, 40_000))
    topic.compact()
    with log.producer(transactional_id="p") as producer:
        producer.begin_transaction()
        producer.send_many("t", [b"aborted"] * 2_000, [b"a"] * 2_000)
        producer.abort_transaction()
    assert [record.value for record in topic.tail(3)] == [b"first", b"first", b"hot"]
    assert len(taken) < 60  # of which most find no record
    assert sum(taken) < 500  # 20,000 and 20,001 are before the gap of 20,000
    assert [record.offset for record in topic.tail(5)] == [19_996, 19_997, 19_998, 19_999, 39_999]


def test_a_record_that_cannot_be_deserialized_is_met_only_where_it_is_asked_for(log: StreamLog) -> None:
    plain = log.create_topic("t", partitions=2)
    topic = log.topic("t", value_serde=streamlog.serde.json)
    for timestamp, value in enumerate(["1", "2", "no json", "4", "5"]):
        plain.send(value, partition=timestamp % 2, timestamp_ms=timestamp)
    assert [record.value for record in topic.head(2)] == [1, 2]
    assert [record.value for record in topic.tail(2)] == [4, 5]
    for call in (topic.head, topic.tail):
        with pytest.raises(streamlog.DeserializationError):
            call(3)


# Logs of other kinds


def test_batches_of_kafka_clients_and_compressed_ones_are_found(log: StreamLog) -> None:
    pytest.importorskip("crc32c")
    topic = log.create_topic("t")
    kafka = log.attach(KafkaFace)
    with log.producer(compression_type="gzip", linger_ms=1_000) as producer:
        for start in range(0, 1_000, 50):
            kafka.produce(*(Row(start + n, b"k", b"kafka") for n in range(25)))
            for n in range(25, 50):
                producer.send("t", b"own", timestamp_ms=start + n)
            producer.flush()
    whole = list(topic.read(order="time"))
    assert [record.timestamp for record in whole] == list(range(1_000))
    for n in (1, 24, 26, 60, 999):
        assert (list(topic.head(n)), list(topic.tail(n))) == (whole[:n], whole[-n:])
        assert list(topic.at(moment(n), 3)) == whole[n : n + 3]


def test_the_replicas_of_a_topic_have_the_same_head_and_tail(open_log: Callable[..., StreamLog]) -> None:
    log = open_log(brokers=3)
    topic = log.create_topic("t", partitions=2)
    for n in range(50):
        topic.send(str(n), partition=n % 2, timestamp_ms=n)
        if n % 20 == 10:
            log.brokers[topic.partition(0).leader].stop()
        elif n % 20 == 15:
            for broker in log.brokers:
                broker.start()
    whole = list(topic.read(order="time"))
    assert (list(topic.head(7)), list(topic.tail(7))) == (whole[:7], whole[-7:])


def test_a_log_that_is_only_read_has_them_too(open_log: Callable[..., StreamLog], path: Path) -> None:
    log = open_log()
    log.create_topic("t").send_many([str(n) for n in range(30)], timestamps_ms=range(30))
    log.close()
    with streamlog.open(path, read_only=True) as reader:
        topic = reader["t"]
        assert [record.offset for record in topic.tail(3)] == [27, 28, 29]
        assert [record.offset for record in topic.at(moment(7), 2)] == [7, 8]
        with pytest.raises(streamlog.ReadOnlyError):
            reader.replay("t", into="live")
        for value in (reader, topic, topic.read(), reader.group("g")):
            assert "Error" not in value._repr_html_()


# While records are deleted


def deleting(topic: Topic, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Have the first reads each find that retention has just deleted ten records more."""
    left = iter(range(10, 10 * times + 1, 10))
    take = PartitionFetcher.take

    def take_later(self: PartitionFetcher, out: list[Any], n: int) -> int:
        if (before := next(left, None)) is not None:
            topic.delete_records({0: before})
        return take(self, out, n)

    monkeypatch.setattr(PartitionFetcher, "take", take_later)


@pytest.mark.parametrize("times", [1, 2])
def test_what_is_deleted_meanwhile_is_left_out(log: StreamLog, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    topic = log.create_topic("t")
    topic.send_many([str(n) for n in range(35)], timestamps_ms=range(35))
    deleting(topic, monkeypatch, times)
    assert [record.offset for record in topic.head(3)] == [10 * times + n for n in range(3)]
    topic = log.create_topic("u")
    topic.send_many([str(n) for n in range(35)], timestamps_ms=range(35))
    deleting(topic, monkeypatch, times)
    assert [record.offset for record in topic.tail(100)] == list(range(10 * times, 35))


def test_a_topic_that_loses_records_faster_than_they_are_read_says_so(
    log: StreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = log.create_topic("t")
    topic.send_many(["x"] * 100)
    deleting(topic, monkeypatch, 9)
    with pytest.raises(streamlog.OffsetOutOfRangeError):
        topic.head(3)


# What is refused


@pytest.mark.parametrize("n", [-1, 10_001, 10**30, 1.5, "3", None, True], ids=repr)
@pytest.mark.parametrize("call", [Topic.head, Topic.tail, lambda topic, n: topic.at(moment(0), n)])
def test_a_count_is_an_int_up_to_ten_thousand(log: StreamLog, call: Any, n: Any) -> None:
    with pytest.raises(streamlog.ConfigError, match="n"):
        call(log.create_topic("t"), n)


@pytest.mark.parametrize("when", [0, "2026-01-01", None, datetime(2026, 1, 1), datetime(2026, 1, 1).date()], ids=repr)
def test_a_moment_is_an_aware_datetime(log: StreamLog, when: Any) -> None:
    topic = log.create_topic("t")
    topic.send("1")
    with pytest.raises(streamlog.ConfigError, match=r"aware datetime|no time zone"):
        topic.at(when)


def test_a_topic_that_is_gone_says_so(log: StreamLog) -> None:
    topic = log.create_topic("t")
    log.delete_topic("t")
    for call in (topic.head, topic.tail):
        for n in (0, 3):
            with pytest.raises(streamlog.UnknownTopicOrPartitionError):
                call(n)


# What they return


def test_records_that_were_returned_are_a_value(log: StreamLog) -> None:
    topic = log.create_topic("t")
    topic.send_many(["a", "b", "c"], timestamps_ms=[1, 2, 3])
    found = topic.head(3)
    assert isinstance(found, RecordTuple)
    assert list(found) == list(found) == list(topic.read())
    assert (len(found), found[0], found[-1].value) == (3, next(topic.read()), b"c")
    assert found == topic.tail(3) == copy.deepcopy(found) == pickle.loads(pickle.dumps(found))
    assert type(pickle.loads(pickle.dumps(found))) is type(found[1:]) is RecordTuple
    assert hash(found) == hash(topic.tail(3))
    log.delete_topic("t")
    assert [record.value for record in found] == [b"a", b"b", b"c"]


def test_the_repr_has_a_line_for_each_of_the_first_records(log: StreamLog) -> None:
    topic = log.create_topic("t")
    topic.send_many([b"x" * 10_000] * 100, timestamps_ms=[1] * 100)
    assert repr(topic.head(0)) == "()"
    assert repr(topic.head(1)) == f"({topic.head(1)[0]!r},)"
    shown = repr(topic.head(100))
    assert len(shown) < 3_000
    assert shown.splitlines()[-1] == " … and 90 more)"
