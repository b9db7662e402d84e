"""Keys and values as objects, and a record that will not become one."""

from __future__ import annotations

import json
from typing import Any

import pytest

import streamlog
from streamlog import DeserializationError, Record, TopicPartition, serde

P0 = TopicPartition("t", 0)


def test_callables_make_keys_and_values(log: streamlog.StreamLog) -> None:
    log.create_topic("t").send("[1, 2]", "7").result()
    with log.consumer("t", key_deserializer=int, value_deserializer=json.loads) as consumer:
        (record,) = consumer.poll()
    assert (record.key, record.value) == (7, [1, 2])


def test_a_serde_makes_values(log: streamlog.StreamLog) -> None:
    topic = log.create_topic("t")
    topic.send('{"a": 1}', "key").result()
    with log.consumer("t", key_deserializer=serde.string, value_deserializer=serde.json) as consumer:
        (record,) = consumer.poll()
    assert (record.key, record.value) == ("key", {"a": 1})


def test_a_mapping_chooses_by_topic(log: streamlog.StreamLog) -> None:
    for name, value in (("t", "[1]"), ("u", "text")):
        log.create_topic(name).send(value).result()
    with log.consumer("t", "u", value_deserializer={"t": serde.json, "u": bytes.decode}) as consumer:
        values = {record.topic: record.value for record in consumer.until_end()}
    assert values == {"t": [1], "u": "text"}


def test_a_missing_key_or_value_stays_none(log: streamlog.StreamLog) -> None:
    def never(data: bytes) -> Any:
        raise AssertionError(f"called with {data!r}")

    log.create_topic("t").send(None, None).result()
    with log.consumer("t", key_deserializer=never, value_deserializer=never) as consumer:
        (record,) = consumer.poll()
    assert (record.key, record.value) == (None, None)


def test_iterating_and_batches_deserialize_too(log: streamlog.StreamLog) -> None:
    log.create_topic("t").send_many(["1", "2"], keys=["3", "4"]).result()
    with log.consumer("t", key_deserializer=int, value_deserializer=int) as consumer:
        assert [(record.key, record.value) for record in consumer.until_end()] == [(3, 1), (4, 2)]
        consumer.seek_to_beginning()
        batches = consumer.poll_batches()
    assert [value for batch in batches for value in batch.values] == [1, 2]
    assert [key for batch in batches for key in batch.keys] == [3, 4]


def read_past_bad_records(consumer: streamlog.Consumer[Any, Any]) -> tuple[list[Any], list[Any]]:
    good: list[Any] = []
    bad: list[Any] = []
    for _ in range(100):
        try:
            if not (handed_out := consumer.poll()):
                return good, bad
            good += handed_out
        except DeserializationError as error:
            bad.append(error.record)
            consumer.seek(error.record.topic_partition, error.record.offset + 1)
    raise AssertionError("a record was never passed")


def test_a_bad_record_is_carried_by_its_error_and_can_be_sought_past(log: streamlog.StreamLog) -> None:
    topic = log.create_topic("t")
    topic.send_many(["0", "1", "two", "3"]).result()
    topic.send("four", "key", headers={"h": b"1"}, timestamp_ms=1_700_000_000_000).result()
    topic.send("5").result()
    with log.consumer("t", value_deserializer=int) as consumer:
        good, bad = read_past_bad_records(consumer)
    assert [(record.offset, record.value) for record in good] == [(0, 0), (1, 1), (3, 3), (5, 5)]
    assert [record.offset for record in bad] == [2, 4]
    assert bad[1] == Record("t", 0, 4, 1_700_000_000_000, b"key", b"four", (("h", b"1"),))


def test_a_bad_key_is_an_error_as_well(log: streamlog.StreamLog) -> None:
    log.create_topic("t").send_many(["0", "1"], keys=["zero", "1"]).result()
    with log.consumer("t", key_deserializer=int) as consumer:
        good, bad = read_past_bad_records(consumer)
    assert [record.key for record in good] == [1]
    assert [(record.key, record.value) for record in bad] == [(b"zero", b"0")]


def test_a_bad_record_is_not_passed_by_itself(log: streamlog.StreamLog) -> None:
    log.create_topic("t").send_many(["bad", "1"]).result()
    with log.consumer("t", value_deserializer=int) as consumer:
        for _ in range(3):
            with pytest.raises(DeserializationError) as raised:
                consumer.poll()
            assert raised.value.record.offset == 0
            assert isinstance(raised.value.__cause__, ValueError)
            assert consumer.position(P0) == 0


def test_a_bad_record_ends_a_for_loop_with_its_error_after_the_good_ones(log: streamlog.StreamLog) -> None:
    log.create_topic("t").send_many(["0", "1", "bad", "3"]).result()
    seen: list[int] = []
    with log.consumer("t", value_deserializer=int) as consumer:
        with pytest.raises(DeserializationError):
            seen.extend(record.value for record in consumer.until_end())
        consumer.seek(P0, 3)
        seen += [record.value for record in consumer.until_end()]
    assert seen == [0, 1, 3]


def test_a_bad_record_in_one_partition_does_not_hide_the_others(log: streamlog.StreamLog) -> None:
    topic = log.create_topic("t", partitions=2)
    topic.send_many(["bad", "1"], partition=0).result()
    topic.send_many(["10", "11"], partition=1).result()
    with log.consumer("t", value_deserializer=int) as consumer:
        good, bad = read_past_bad_records(consumer)
    assert sorted(record.value for record in good) == [1, 10, 11]
    assert len(bad) == 1


def test_a_bad_record_is_not_committed(log: streamlog.StreamLog) -> None:
    log.create_topic("t").send_many(["0", "bad", "2"]).result()
    with pytest.raises(DeserializationError), log.consumer("t", group="g", value_deserializer=int) as consumer:
        for _ in consumer:
            pass
    assert log.group("g").committed() == {P0: 1}
