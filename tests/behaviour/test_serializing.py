"""Serializers of a producer, serdes of a topic, and what is no bytes without one."""

from __future__ import annotations

from typing import Any

import pytest

import streamlog
from streamlog import StreamLog, Topic, serde
from tests.contents import ends_of, values_of


@pytest.fixture
def topic(log: StreamLog) -> Topic:
    return log.create_topic("t")


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


@pytest.mark.parametrize(
    "serializer", [lambda value: 1 / 0, lambda value: 7, serde.json], ids=["raises", "int", "json"]
)
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
    as_storage_error = log.topic("t", key_serde=codec, value_serde=codec)
    as_storage_error.send(value, value)
    as_storage_error.send(None, None)
    first, second = as_storage_error.read()
    assert (first.key, first.value) == (value, value)
    assert (second.key, second.value) == (None, None)
    assert as_storage_error == topic


def test_value_that_does_not_deserialize_names_its_record(log: StreamLog, topic: Topic) -> None:
    topic.send(b"{broken", b"k")
    with pytest.raises(streamlog.DeserializationError) as error:
        list(log.topic("t", value_serde=serde.json).read())
    assert (error.value.record.offset, error.value.record.key, error.value.record.value) == (0, b"k", b"{broken")


def test_handles_of_one_topic_are_sent_to_as_each_of_them_says(log: StreamLog, topic: Topic) -> None:
    plain, as_storage_error, other = (
        topic,
        log.topic("t", value_serde=serde.json),
        log.topic("t", value_serde=serde.msgpack),
    )
    assert plain == as_storage_error == other
    with log.producer() as producer:
        for _ in range(2):  # the second time the producer knows them
            producer.send(plain, b"1")
            producer.send(as_storage_error, [1])
            producer.send(other, [1])
            producer.send("t", b"2")
    assert [record.value for record in topic.read()] == [b"1", b"[1]", b"\x91\x01", b"2"] * 2


@pytest.mark.parametrize("through", ["topic", "producer"])
def test_a_serde_that_lives_as_long_as_its_handle_is_never_taken_for_an_earlier_one(
    log: StreamLog, topic: Topic, through: str
) -> None:
    makers = [lambda value: b"a" + value, lambda value: b"b" + value]
    with log.producer() as producer:
        for n in range(40):
            handle = log.topic("t", value_serde={"t": makers[n % 2]})
            if through == "topic":
                handle.send(b"")
            else:
                producer.send(handle, b"")
            del handle
    assert [record.value for record in topic.read()] == [b"a", b"b"] * 20


def test_a_program_that_makes_handles_without_end_does_not_fill_the_producer(log: StreamLog, topic: Topic) -> None:
    with log.producer() as producer:
        for _ in range(2500):
            producer.send(log.topic("t", value_serde=lambda value: value), b"x")
        assert len(producer._topics) <= 1002
    assert topic.partition(0).log_end_offset == 2500


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no message")

    __repr__ = __str__


def unprintable(_: object) -> bytes:
    raise Unprintable


def test_an_error_whose_message_cannot_be_made_is_still_a_serializers(log: streamlog.StreamLog) -> None:
    topic = log.create_topic("t")
    with log.producer(value_serializer=unprintable) as producer:
        with pytest.raises(streamlog.SerializationError, match="serializer failed") as caught:
            producer.send("t", 1)
        assert isinstance(caught.value.__cause__, Unprintable)
    topic.send("x")
    with (
        log.consumer("t", value_deserializer=unprintable) as consumer,
        pytest.raises(streamlog.DeserializationError, match="deserializer failed"),
    ):
        consumer.poll()
