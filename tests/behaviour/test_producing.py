"""Sending: one and many, at once and with a linger, to the right partition, within bounds."""

from __future__ import annotations

import threading
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

import streamlog
from streamlog import Delivery, Producer, RecordMetadata, StreamLog, Topic, serde

OpenLog = Callable[..., StreamLog]
HOUR_MS = 3_600_000


@pytest.fixture
def topic(log: StreamLog) -> Topic:
    return log.create_topic("t")


def values_of(topic: Topic) -> list[Any]:
    return [record.value for record in topic.read()]


def ends_of(topic: Topic) -> list[int]:
    return [topic.partition(n).log_end_offset for n in range(topic.partitions)]


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
    ids=repr,
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
        for send in (lambda: producer.send("t", value), lambda: producer.send("t", b"v", value)):
            with pytest.raises(streamlog.SerializationError) as error:
                send()
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
@pytest.mark.parametrize("text", ["abc", b"abc", bytearray(b"abc"), memoryview(b"abc")], ids=repr)
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


# Serializers


def test_serializers_of_a_producer(log: StreamLog, topic: Topic) -> None:
    with log.producer(key_serializer=serde.string, value_serializer=serde.json) as producer:
        producer.send("t", {"a": [1, None]}, "clé")
        producer.send_many("t", [[1], "x"], ["k", "l"])
    first, second, third = log.topic("t", value_serde=serde.json).read()
    assert first.key == "clé".encode()
    assert [first.value, second.value, third.value] == [{"a": [1, None]}, [1], "x"]


def test_serializer_may_be_any_function(log: StreamLog, topic: Topic) -> None:
    with log.producer(key_serializer=lambda n: b"%d" % n, value_serializer=lambda n: b"%x" % n) as producer:
        producer.send("t", 255, 7)
    (record,) = topic.read()
    assert (record.key, record.value) == (b"7", b"ff")


def test_serializers_may_be_given_by_topic(log: StreamLog, topic: Topic) -> None:
    other = log.create_topic("other")
    with log.producer(value_serializer={"t": serde.json, "other": serde.msgpack}) as producer:
        producer.send("t", {"a": 1})
        producer.send("other", {"a": 1})
    assert log.topic("t", value_serde=serde.json).read().__next__().value == {"a": 1}
    assert log.topic("other", value_serde=serde.msgpack).read().__next__().value == {"a": 1}
    assert values_of(topic) != values_of(other)


def test_serializer_is_never_called_with_none(log: StreamLog, topic: Topic) -> None:
    def strict(value: Any) -> bytes:
        assert value is not None
        return b"serialized"

    with log.producer(key_serializer=strict, value_serializer=strict) as producer:
        producer.send("t")
        producer.send_many("t", [None, 1], [1, None])
    assert [(r.key, r.value) for r in topic.read()] == [
        (None, None),
        (b"serialized", None),
        (None, b"serialized"),
    ]


@pytest.mark.parametrize("serializer", [lambda value: 1 / 0, lambda value: 7, serde.json], ids=["raises", "int", "json"])
def test_failing_serializer_is_a_serialization_error(log: StreamLog, topic: Topic, serializer: Any) -> None:
    with log.producer(value_serializer=serializer) as producer:
        with pytest.raises(streamlog.SerializationError):
            producer.send("t", object())
        with pytest.raises(streamlog.SerializationError):
            producer.send_many("t", [object(), object()])
    assert ends_of(topic) == [0]


@pytest.mark.parametrize(
    ("codec", "value"),
    [
        (serde.bytes_, b"\x00\xff"),
        (serde.string, "naïve"),
        (serde.json, {"a": [1, 2.5, None, "ü"]}),
        (serde.msgpack, {"a": [1, 2.5, None, "ü", b"raw"]}),
    ],
    ids=["bytes_", "string", "json", "msgpack"],
)
def test_topic_with_serdes_speaks_values_both_ways(log: StreamLog, topic: Topic, codec: Any, value: Any) -> None:
    typed = log.topic("t", key_serde=codec, value_serde=codec)
    typed.send(value, value)
    typed.send(None, None)
    first, second = typed.read()
    assert (first.key, first.value) == (value, value)
    assert (second.key, second.value) == (None, None)
    assert typed == topic


def test_value_that_does_not_deserialize_names_its_record(log: StreamLog, topic: Topic) -> None:
    topic.send(b"{broken", b"k")
    with pytest.raises(streamlog.DeserializationError) as error:
        list(log.topic("t", value_serde=serde.json).read())
    assert (error.value.record.offset, error.value.record.key, error.value.record.value) == (0, b"k", b"{broken")


# Linger, flush, close


def test_linger_ends_when_its_time_has_come(log: StreamLog, topic: Topic, clock: Any) -> None:
    with log.producer(linger_ms=100) as producer:
        first = producer.send("t", b"a")
        clock.advance(0.060)
        second = producer.send("t", b"b")
        clock.advance(0.039)
        assert (first.done(), second.done()) == (False, False)
        assert values_of(topic) == []
        clock.advance(0.001)
        assert (first.done(), second.done()) == (True, True)
        assert values_of(topic) == [b"a", b"b"]
        assert [batch.last_offset for batch in topic.read_batches()] == [1]


@pytest.mark.parametrize("end", ["result", "exception", "flush", "close", "full"])
def test_linger_is_ended_early(log: StreamLog, topic: Topic, end: str) -> None:
    producer = log.producer(linger_ms=10_000, batch_size=1000)
    first, second = producer.send("t", b"a"), producer.send("t", b"b")
    assert not first.done()
    if end == "result":
        assert second.result().offset == 1
    elif end == "exception":
        assert second.exception() is None
    elif end == "flush":
        producer.flush()
    elif end == "close":
        producer.close()
    else:
        for _ in range(20):
            producer.send("t", b"x" * 100)
    assert first.done()
    assert second.done()
    assert values_of(topic)[:2] == [b"a", b"b"]
    producer.close()


def test_closing_the_log_flushes_its_producers(log: StreamLog, topic: Topic, open_log: OpenLog) -> None:
    delivery = log.producer(linger_ms=10_000).send("t", b"x")
    log.close()
    assert delivery.done()
    assert delivery.result().offset == 0
    assert values_of(open_log()["t"]) == [b"x"]


def test_linger_keeps_order_within_a_partition(log: StreamLog, rng: Any, clock: Any) -> None:
    topic = log.create_topic("t", partitions=3)
    sent = defaultdict(list)
    with log.producer(linger_ms=50, batch_size=300) as producer:
        for n in range(600):
            partition = rng.randrange(3)
            value = b"%d" % n + b"." * rng.randrange(60)
            if rng.random() < 0.1:
                producer.send_many("t", [value, value], partition=partition)
                sent[partition] += [value, value]
            else:
                producer.send("t", value, partition=partition)
                sent[partition].append(value)
            if rng.random() < 0.05:
                clock.advance(0.030)
            if rng.random() < 0.02:
                producer.flush()
    for partition in range(3):
        assert [record.value for record in topic.read(partition)] == sent[partition]


def test_send_many_waits_with_the_linger_too(log: StreamLog, topic: Topic, clock: Any) -> None:
    with log.producer(linger_ms=100) as producer:
        producer.send("t", b"a")
        many = producer.send_many("t", [b"b", b"c"])
        assert not many.done()
        clock.advance(0.1)
        assert [metadata.offset for metadata in many.result()] == [1, 2]


def test_closed_producer_refuses_and_the_log_goes_on(log: StreamLog, topic: Topic) -> None:
    with log.producer() as producer:
        producer.send("t", b"x")
    for use in (lambda: producer.send("t", b"y"), lambda: producer.send_many("t", []), producer.flush):
        with pytest.raises(streamlog.ClosedError):
            use()
    topic.send(b"z")
    assert values_of(topic) == [b"x", b"z"]


# Deliveries


def test_callback_is_called_once_when_done_and_at_once_if_done_already(log: StreamLog, topic: Topic) -> None:
    called: list[Delivery[RecordMetadata]] = []
    with log.producer(linger_ms=1000) as producer:
        delivery = producer.send("t", b"x")
        delivery.add_done_callback(called.append)
        assert called == []
        producer.flush()
        assert called == [delivery]
        delivery.add_done_callback(called.append)
        assert called == [delivery, delivery]
        topic.send(b"y").add_done_callback(called.append)
        assert len(called) == 3


def test_failing_callback_harms_nobody(log: StreamLog, topic: Topic) -> None:
    called: list[object] = []
    with log.producer(linger_ms=1000) as producer:
        delivery = producer.send("t", b"x")
        delivery.add_done_callback(lambda _: 1 / 0)
        delivery.add_done_callback(called.append)
        producer.send("t", b"y")
        producer.flush()
    assert called == [delivery]
    assert values_of(topic) == [b"x", b"y"]


def test_callback_may_use_the_log(log: StreamLog, topic: Topic) -> None:
    with log.producer(linger_ms=1000) as producer:
        producer.send("t", b"x").add_done_callback(lambda _: topic.send(b"from the callback"))
        producer.flush()
    assert values_of(topic) == [b"x", b"from the callback"]


def test_record_whose_topic_is_deleted_while_it_lingers_fails_in_its_delivery(log: StreamLog, topic: Topic) -> None:
    producer = log.producer(linger_ms=1000)
    delivery = producer.send("t", b"x")
    topic.delete()
    error = delivery.exception()
    assert isinstance(error, streamlog.StreamlogError)
    assert isinstance(error, LookupError)
    with pytest.raises(type(error)):
        delivery.result()
    producer.flush()
    producer.close()


@pytest.mark.parametrize("end", ["flush", "close"])
def test_failure_that_nobody_asked_about_is_raised_by_flush_and_close(log: StreamLog, topic: Topic, end: str) -> None:
    kept = log.create_topic("kept")
    producer = log.producer(linger_ms=1000)
    producer.send("t", b"lost", b"k", headers={"h": b"1"})
    producer.send("kept", b"safe")
    topic.delete()
    with pytest.raises(streamlog.DeliveryError) as caught:
        producer.flush() if end == "flush" else producer.close()
    (failure,) = caught.value.failed.values()
    assert isinstance(failure, LookupError)
    (record,) = caught.value.records
    assert (record.topic, record.value, record.key) == ("t", b"lost", b"k")
    assert values_of(kept) == [b"safe"]
    producer.close()
    assert producer.closed


def test_failed_send_many_says_which_records_failed(log: StreamLog, topic: Topic) -> None:
    producer = log.producer(linger_ms=1000)
    delivery = producer.send_many("t", [b"a", b"b", b"c"])
    topic.delete()
    with pytest.raises(streamlog.DeliveryError) as caught:
        delivery.result()
    error = caught.value
    assert sorted(error.failed) == [0, 1, 2]
    assert all(isinstance(failure, LookupError) for failure in error.failed.values())
    assert [record.value for record in error.records] == [b"a", b"b", b"c"]
    assert list(error.metadata) == [None, None, None]
    assert isinstance(delivery.exception(), streamlog.DeliveryError)
    producer.close()


# Acks


def test_acks_0_is_done_at_once_and_knows_no_offset(log: StreamLog, topic: Topic) -> None:
    with log.producer(acks=0, linger_ms=1000) as producer:
        delivery = producer.send("t", b"x", partition=0)
        assert delivery.done()
        assert delivery.result().offset == -1
        assert [metadata.offset for metadata in producer.send_many("t", [b"y", b"z"]).result()] == [-1, -1]
    assert values_of(topic) == [b"x", b"y", b"z"]


@pytest.mark.parametrize("acks", [1, "all"])
def test_acks_1_and_all_know_the_offset(log: StreamLog, topic: Topic, acks: Any) -> None:
    with log.producer(acks=acks) as producer:
        assert [producer.send("t", b"x").result().offset for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("acks", [2, -5, "none", "", None, True, 1.0], ids=repr)
def test_other_acks_are_refused(log: StreamLog, acks: Any) -> None:
    with pytest.raises(streamlog.ConfigError, match="acks"):
        log.producer(acks=acks)


@pytest.mark.parametrize("config", [{"linger": 5}, {"linger.ms": 5}, {"lingerMs": 5}], ids=str)
def test_unknown_producer_config_is_answered_with_the_name_that_was_meant(log: StreamLog, config: Any) -> None:
    with pytest.raises(streamlog.ConfigError, match="linger_ms"):
        log.producer(**config)
    with pytest.raises(streamlog.ConfigError, match="linger_ms"):
        Producer(log, **config)


# Partitions

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
    with log.producer(partitioner=lambda topic, key, count: choice) as producer:
        with pytest.raises((streamlog.StreamlogError, ValueError, TypeError)):
            producer.send("t", b"v", b"k")
    assert ends_of(topic) == [0, 0, 0, 0]


def test_round_robin_deals_evenly_whatever_the_key(log: StreamLog) -> None:
    topic = log.create_topic("t", partitions=3)
    with log.producer(partitioner="round_robin") as producer:
        for _ in range(9):
            producer.send("t", b"v", b"same key")
    assert ends_of(topic) == [3, 3, 3]


@pytest.mark.parametrize("config", [{}, {"partitioner": "murmur2"}, {"partitioner": "crc32"}, {"partitioner": "sticky"}])
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


# Bounds


@pytest.mark.parametrize("linger_ms", [0, 1000])
def test_record_larger_than_the_topic_allows_is_refused_at_the_call(log: StreamLog, linger_ms: int) -> None:
    topic = log.create_topic("t", max_message_bytes=2000)
    with log.producer(linger_ms=linger_ms) as producer:
        for arguments in ({"value": b"x" * 2001}, {"value": b"v", "key": b"x" * 2001}):
            with pytest.raises(streamlog.RecordTooLargeError, match="2000"):
                producer.send("t", **arguments)
        with pytest.raises(streamlog.RecordTooLargeError):
            producer.send("t", b"v", headers={"h": b"x" * 2001})
        producer.send("t", b"x" * 1500)
    assert values_of(topic) == [b"x" * 1500]


def test_record_larger_than_the_producers_bound_is_refused(log: StreamLog) -> None:
    topic = log.create_topic("t", max_message_bytes=10_000_000)
    with log.producer(max_request_size=1000) as small, log.producer(max_request_size=5_000_000) as large:
        with pytest.raises(streamlog.RecordTooLargeError, match="1000"):
            small.send("t", b"x" * 1001)
        large.send("t", b"x" * 4_000_000)
    assert ends_of(topic) == [1]


def test_kafkas_usual_bound_is_about_a_megabyte(log: StreamLog, topic: Topic) -> None:
    topic.send(b"x" * 1_000_000)
    with pytest.raises(streamlog.RecordTooLargeError):
        topic.send(b"x" * 1_100_000)
    assert ends_of(topic) == [1]


@pytest.mark.parametrize("linger_ms", [0, 1000])
def test_batches_are_kept_below_the_topics_bound(log: StreamLog, linger_ms: int) -> None:
    topic = log.create_topic("t", max_message_bytes=2000)
    values = [b"%d" % n + b"x" * 100 for n in range(300)]
    with log.producer(linger_ms=linger_ms) as producer:
        producer.send_many("t", values[:150])
        for value in values[150:]:
            producer.send("t", value)
    assert values_of(topic) == values


def test_record_larger_than_the_buffer_is_refused(log: StreamLog, topic: Topic) -> None:
    with log.producer(linger_ms=1000, buffer_memory=10_000) as producer:
        with pytest.raises(streamlog.RecordTooLargeError):
            producer.send("t", b"x" * 20_000)
    assert ends_of(topic) == [0]


def test_what_waits_in_a_producer_stays_within_its_buffer_and_nothing_is_lost(log: StreamLog) -> None:
    topic = log.create_topic("t", partitions=8)
    waiting: list[Delivery[RecordMetadata]] = []
    with log.producer(linger_ms=3_600_000, batch_size=16_384, buffer_memory=32_768) as producer:
        for n in range(200):
            waiting.append(producer.send("t", b"x" * 1000, partition=n % 8))
            waiting = [delivery for delivery in waiting if not delivery.done()]
            assert len(waiting) * 1000 <= 32_768
    assert ends_of(topic) == [25] * 8


def test_send_many_larger_than_the_buffer_goes_through_it_piece_by_piece(log: StreamLog, topic: Topic) -> None:
    values = [b"%d" % n + b"x" * 1000 for n in range(300)]
    with log.producer(linger_ms=3_600_000, buffer_memory=32_768) as producer:
        producer.send_many("t", values)
    assert values_of(topic) == values


# Threads


@pytest.mark.parametrize("linger_ms", [0, 2])
def test_threads_share_a_producer_and_each_keeps_its_order(open_log: OpenLog, linger_ms: int) -> None:
    log = open_log(clock=None)
    topic = log.create_topic("t", partitions=2)
    deliveries: dict[int, list[Delivery[RecordMetadata]]] = {}

    def work(thread: int) -> None:
        deliveries[thread] = [
            producer.send("t", f"{thread}:{n}", partition=(thread + n // 10) % 2) for n in range(300)
        ]

    with log.producer(linger_ms=linger_ms, batch_size=2000) as producer:
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    stored = {(r.partition, r.offset): r.value.decode() for r in topic.read()}
    assert len(stored) == 1200
    for thread, sent in deliveries.items():
        for n, delivery in enumerate(sent):
            metadata = delivery.result()
            assert stored[metadata.partition, metadata.offset] == f"{thread}:{n}"
        for partition in range(2):
            offsets = [d.result().offset for d in sent if d.result().partition == partition]
            assert offsets == sorted(offsets)


def test_linger_needs_no_help_from_the_program(open_log: OpenLog) -> None:
    log = open_log(clock=None)
    log.create_topic("t")
    done = threading.Event()
    with log.producer(linger_ms=10) as producer:
        producer.send("t", b"x").add_done_callback(lambda _: done.set())
        assert done.wait(30)
