"""Sending one record and many: values, keys, headers, timestamps."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

import streamlog
from streamlog import Producer, RecordMetadata, StreamLog, Topic
from tests.contents import ends_of, values_of

HOUR_MS = 3_600_000


@pytest.fixture
def topic(log: StreamLog) -> Topic:
    return log.create_topic("t")


# One record


def test_sent_record_is_acknowledged_and_in_the_log_on_return(log: StreamLog, topic: Topic, clock: Any) -> None:
    with log.producer() as producer:
        delivery = producer.send("t", "9.50", key="alice")
        assert delivery.done()
        assert delivery.result() == RecordMetadata("t", 0, 0, clock.time_ms())
        assert delivery.exception() is None
        (record,) = topic.read()
    assert (record.topic, record.partition, record.offset) == ("t", 0, 0)
    assert (record.key, record.value, record.headers) == (b"alice", b"9.50", ())
    assert record.timestamp == clock.time_ms()


def test_topic_sends_without_a_producer(topic: Topic) -> None:
    assert [topic.send(b"v", b"k").result().offset for _ in range(3)] == [0, 1, 2]
    assert topic.send_many([b"a", b"b"]).result()[1].offset == 4
    assert values_of(topic) == [b"v", b"v", b"v", b"a", b"b"]


def test_producer_takes_topics_by_name_and_by_handle(log: StreamLog, topic: Topic) -> None:
    with Producer(log) as producer:
        producer.send("t", b"by name")
        producer.send(topic, b"by handle")
        producer.send_many(topic, [b"many"])
    assert values_of(topic) == [b"by name", b"by handle", b"many"]


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("grün", "grün".encode()),
        (b"raw", b"raw"),
        (bytearray(b"raw"), b"raw"),
        (memoryview(b"xrawx")[1:4], b"raw"),
        (memoryview(b"rxaxwx")[::2], b"raw"),
        (b"", b""),
        ("", b""),
        (None, None),
    ],
    ids=lambda value: f"{value.nbytes} strided" if isinstance(value, memoryview) else repr(value),
)
@pytest.mark.parametrize("linger_ms", [0, 5])
def test_everything_that_is_bytes_is_taken_as_key_and_value(
    log: StreamLog, topic: Topic, given: Any, stored: bytes | None, linger_ms: int
) -> None:
    with log.producer(linger_ms=linger_ms) as producer:
        producer.send("t", given, given, headers=[("h", given)])
        producer.send_many("t", [given], [given], headers={"h": given})
    for record in topic.read():
        assert (record.key, record.value, record.header("h", b"absent")) == (stored, stored, stored)


@pytest.mark.parametrize("linger_ms", [0, 1000])
def test_buffer_may_be_reused_after_send(log: StreamLog, topic: Topic, linger_ms: int) -> None:
    buffer = bytearray(b"first")
    with log.producer(linger_ms=linger_ms) as producer:
        producer.send("t", buffer, buffer, headers={"h": buffer})
        producer.send_many("t", [memoryview(buffer)])
        buffer[:] = b"XXXXX"
    first, second = topic.read()
    assert (first.key, first.value, first.header("h"), second.value) == (b"first", b"first", b"first", b"first")


@pytest.mark.parametrize("value", [7, 1.5, {"a": 1}, ["x"], object(), True])
@pytest.mark.parametrize("linger_ms", [0, 1000])
def test_value_that_is_not_bytes_needs_a_serializer(log: StreamLog, topic: Topic, value: Any, linger_ms: int) -> None:
    with log.producer(linger_ms=linger_ms) as producer:
        for pair in ((value, b"k"), (b"v", value)):
            with pytest.raises(streamlog.SerializationError) as error:
                producer.send("t", *pair)
            assert isinstance(error.value, TypeError)
    assert values_of(topic) == []


# Headers


def test_headers_keep_order_and_duplicates(topic: Topic) -> None:
    topic.send(b"v", headers=[("a", b"1"), ("b", None), ("a", "zwei")])
    topic.send(b"v", headers={"a": "1", "b": b"", "c": None})
    first, second = topic.read()
    assert first.headers == (("a", b"1"), ("b", None), ("a", b"zwei"))
    assert second.headers == (("a", b"1"), ("b", b""), ("c", None))


def test_header_returns_the_last_of_its_name(topic: Topic) -> None:
    topic.send(b"v", headers=[("a", b"1"), ("a", b"2"), ("none", None)])
    (record,) = topic.read()
    assert record.header("a") == b"2"
    assert record.header("none", b"default") is None
    assert record.header("missing") is None
    assert record.header("missing", b"default") == b"default"


def test_headers_given_as_an_iterator_are_shared_by_all_records(topic: Topic) -> None:
    topic.send_many([b"a", b"b"], headers=iter([("h", b"1")]))
    assert [record.headers for record in topic.read()] == [(("h", b"1"),)] * 2


@pytest.mark.parametrize("headers", [{1: b"x"}, {"a": 5}, [("a",)], [("a", b"1", b"2")], [None], 7], ids=repr)
def test_headers_of_another_shape_are_refused(topic: Topic, headers: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        topic.send(b"v", headers=headers)
    with pytest.raises((TypeError, ValueError)):
        topic.send_many([b"v"], headers=headers)
    assert values_of(topic) == []


# Timestamps


def test_timestamp_is_the_clocks_unless_given(log: StreamLog, topic: Topic, clock: Any) -> None:
    start = clock.time_ms()
    topic.send(b"now")
    clock.advance(timedelta(seconds=90))
    topic.send(b"later")
    topic.send(b"long ago", timestamp_ms=0)
    topic.send_many([b"a", b"b"], timestamps_ms=[5, 4])
    assert [record.timestamp for record in topic.read()] == [start, start + 90_000, 0, 5, 4]


def test_log_append_time_overrides_what_the_sender_says(log: StreamLog, clock: Any) -> None:
    topic = log.create_topic("t", message_timestamp_type="LogAppendTime")
    with log.producer(linger_ms=1000) as producer:
        lingering = producer.send("t", b"x", timestamp_ms=5)
        clock.advance(1.0)
    direct = topic.send(b"y", timestamp_ms=5)
    assert [record.timestamp for record in topic.read()] == [clock.time_ms()] * 2
    assert lingering.result().timestamp == direct.result().timestamp == clock.time_ms()


@pytest.mark.parametrize("linger_ms", [0, 1000])
@pytest.mark.parametrize("offset_ms", [HOUR_MS + 1, 10 * 365 * 24 * HOUR_MS])
def test_timestamp_too_far_ahead_is_refused(
    log: StreamLog, topic: Topic, clock: Any, offset_ms: int, linger_ms: int
) -> None:
    with log.producer(linger_ms=linger_ms) as producer:
        with pytest.raises(streamlog.InvalidTimestampError):
            producer.send("t", b"x", timestamp_ms=clock.time_ms() + offset_ms)
        with pytest.raises(streamlog.InvalidTimestampError):
            producer.send_many("t", [b"x", b"y"], timestamps_ms=[clock.time_ms(), clock.time_ms() + offset_ms])
    assert values_of(topic) == []


def test_timestamp_within_the_bound_is_taken(log: StreamLog, topic: Topic, clock: Any) -> None:
    topic.send(b"x", timestamp_ms=clock.time_ms() + HOUR_MS)
    wide = log.create_topic("wide", message_timestamp_after_max_ms=None)
    wide.send(b"x", timestamp_ms=clock.time_ms() + 10 * HOUR_MS)
    narrow = log.create_topic("narrow", message_timestamp_after_max_ms=timedelta(seconds=1))
    with pytest.raises(streamlog.InvalidTimestampError):
        narrow.send(b"x", timestamp_ms=clock.time_ms() + 1001)
    assert [len(values_of(t)) for t in (topic, wide, narrow)] == [1, 1, 0]


@pytest.mark.parametrize("timestamp", [-1, -HOUR_MS, 2**63])
def test_timestamp_that_is_no_time_is_refused(topic: Topic, timestamp: int) -> None:
    with pytest.raises(streamlog.InvalidTimestampError):
        topic.send(b"x", timestamp_ms=timestamp)
    with pytest.raises(streamlog.InvalidTimestampError):
        topic.send_many([b"x"], timestamps_ms=[timestamp])
    assert values_of(topic) == []


# Many records


def test_send_many_answers_by_index(topic: Topic, clock: Any) -> None:
    delivery = topic.send_many([b"a", b"b", None], [b"1", None, b"3"])
    assert delivery.done()
    assert list(delivery.result()) == [RecordMetadata("t", 0, offset, clock.time_ms()) for offset in range(3)]
    assert [(r.key, r.value) for r in topic.read()] == [(b"1", b"a"), (None, b"b"), (b"3", None)]


def test_send_many_takes_any_iterable(topic: Topic) -> None:
    topic.send_many((str(n) for n in range(3)), (f"k{n}" for n in range(3)), timestamps_ms=iter([7, 8, 9]))
    assert [(r.key, r.value, r.timestamp) for r in topic.read()] == [
        (b"k0", b"0", 7),
        (b"k1", b"1", 8),
        (b"k2", b"2", 9),
    ]


def test_send_many_of_nothing_is_done(topic: Topic) -> None:
    delivery = topic.send_many([])
    assert delivery.done()
    assert list(delivery.result()) == []
    assert ends_of(topic) == [0]


def test_send_many_chooses_partitions_as_send_does(log: StreamLog) -> None:
    keys = [f"key-{n}" for n in range(200)]
    one, many = log.create_topic("one", partitions=5), log.create_topic("many", partitions=5)
    by_send = [one.send(b"v", key).result().partition for key in keys]
    by_send_many = [metadata.partition for metadata in many.send_many([b"v"] * 200, keys).result()]
    assert by_send == by_send_many
    assert {(r.partition, r.key) for r in many.read()} == set(zip(by_send, map(str.encode, keys), strict=True))


def test_send_many_answers_with_the_offset_of_each_record(log: StreamLog) -> None:
    topic = log.create_topic("t", partitions=3)
    values = [str(n).encode() for n in range(100)]
    metadata = topic.send_many(values, [f"k{n % 17}" for n in range(100)]).result()
    stored = {(r.partition, r.offset): r.value for r in topic.read()}
    assert [stored[m.partition, m.offset] for m in metadata] == values


def test_send_many_to_one_partition_shares_partition_and_headers(log: StreamLog) -> None:
    topic = log.create_topic("t", partitions=3)
    topic.send_many([b"a", b"b"], [b"x", b"y"], partition=2, headers={"h": b"1"})
    assert [(r.partition, r.headers) for r in topic.read()] == [(2, (("h", b"1"),))] * 2


@pytest.mark.parametrize("linger_ms", [0, 1000])
def test_send_many_is_cut_into_batches_in_order(log: StreamLog, topic: Topic, linger_ms: int) -> None:
    values = [str(n).encode() * 50 for n in range(2000)]
    with log.producer(linger_ms=linger_ms, batch_size=4096) as producer:
        metadata = producer.send_many("t", values).result()
    assert [m.offset for m in metadata] == list(range(2000))
    assert values_of(topic) == values
    assert len(list(topic.read_batches())) > 10


@pytest.mark.parametrize("plural", ["values", "keys"])
@pytest.mark.parametrize(
    "text", ["abc", b"abc", bytearray(b"abc"), memoryview(b"abc")], ids=lambda text: type(text).__name__
)
def test_send_many_refuses_one_string_for_many(topic: Topic, plural: str, text: Any) -> None:
    arguments: dict[str, Any] = {"values": [b"a", b"b", b"c"], "keys": [b"1", b"2", b"3"], plural: text}
    with pytest.raises(TypeError):
        topic.send_many(**arguments)
    assert values_of(topic) == []


@pytest.mark.parametrize("linger_ms", [0, 1000])
@pytest.mark.parametrize(
    "arguments",
    [
        {"values": [b"a", 7]},
        {"values": [b"a", b"b"], "keys": [b"1", 7]},
        {"values": [b"a", b"x" * 2_000_000]},
        {"values": [b"a", b"b"], "timestamps_ms": [5, -5]},
        {"values": [b"a", b"b"], "timestamps_ms": [5, "6"]},
        {"values": [b"a", b"b"], "partition": 9},
        {"values": [b"a", b"b"], "headers": {"h": 7}},
        {"values": [b"a", b"b"], "keys": [b"1"]},
        {"values": [b"a", b"b"], "keys": [b"1", b"2", b"3"]},
        {"values": [b"a", b"b"], "keys": iter([b"1", b"2", b"3"])},
        {"values": [b"a", b"b"], "timestamps_ms": [5]},
    ],
    ids=lambda arguments: "-".join(arguments) + f"-{arguments.get('keys', '')!s:.12}",
)
def test_send_many_checks_everything_before_the_first_append(
    log: StreamLog, topic: Topic, arguments: dict[str, Any], linger_ms: int
) -> None:
    with log.producer(linger_ms=linger_ms, batch_size=1) as producer:
        with pytest.raises((streamlog.StreamlogError, ValueError, TypeError)):
            producer.send_many("t", **arguments)
        producer.flush()
        assert ends_of(topic) == [0]
        producer.send_many("t", [b"fine"])
    assert values_of(topic) == [b"fine"]


def test_send_many_whose_iterable_fails_appends_nothing(log: StreamLog, topic: Topic) -> None:
    def failing() -> Iterator[bytes]:
        yield from [b"x" * 1000] * 100
        raise ZeroDivisionError

    with log.producer(batch_size=1000) as producer, pytest.raises(ZeroDivisionError):
        producer.send_many("t", failing())
    assert ends_of(topic) == [0]
