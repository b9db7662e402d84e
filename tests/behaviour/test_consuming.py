"""Polling, as records and as batches, and iterating."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

import streamlog
from streamlog import TopicPartition
from tests.contents import drain, fill
from tests.times import LONG

from .member_time import PassingTime

InThread = Callable[[Callable[[], Any]], Future[Any]]
# Longer than any wake-up takes, short enough that a lost one is found: no passing test waits for it.


# Polling


def test_poll_hands_out_records_with_all_their_fields(log: streamlog.StreamLog) -> None:
    topic = log.create_topic("t")
    sent = topic.send("value", "key", headers={"h": b"1"}, timestamp_ms=1_700_000_000_000).result()
    with log.consumer("t") as consumer:
        (record,) = consumer.poll()
    assert tuple(record) == ("t", 0, sent.offset, 1_700_000_000_000, b"key", b"value", (("h", b"1"),))
    assert record.topic_partition == TopicPartition("t", 0)


def test_poll_of_an_empty_topic_returns_an_empty_list_at_its_timeout(
    log: streamlog.StreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.create_topic("t")
    time = PassingTime(log, monkeypatch)
    with log.consumer("t") as consumer:
        assert consumer.poll() == []
        assert time.waits == []
        assert consumer.poll(timeout=7) == []
        assert time.waits == pytest.approx([7])


def test_poll_hands_out_every_record_once_and_in_the_order_of_its_partition(log: streamlog.StreamLog) -> None:
    fill(log, 700, partitions=3)
    with log.consumer("t") as consumer:
        records = drain(consumer)
    for partition in range(3):
        values = [record.value for record in records if record.partition == partition]
        assert values == [f"{partition}:{n}".encode() for n in range(700)]
    assert len(records) == 2100


def test_a_consumer_alone_has_all_partitions(log: streamlog.StreamLog) -> None:
    fill(log, 1, partitions=4)
    with log.consumer("t") as consumer:
        consumer.poll()
        assert consumer.assignment() == {TopicPartition("t", n) for n in range(4)}


def test_consumers_alone_do_not_share(log: streamlog.StreamLog) -> None:
    fill(log, 3)
    with log.consumer("t") as first, log.consumer("t") as second:
        assert len(drain(first)) == len(drain(second)) == 3


def test_a_consumer_is_made_from_names_topic_objects_or_the_class(log: streamlog.StreamLog) -> None:
    topic = fill(log, 1)
    fill(log, 1, name="u")
    with log.consumer(topic, "u") as consumer:
        assert {record.topic for record in drain(consumer)} == {"t", "u"}
    with streamlog.Consumer(log, "t") as made_by_hand:
        assert [record.value for record in made_by_hand.poll()] == [b"0:0"]


def test_max_records_of_one_poll_leaves_the_rest_for_the_next(log: streamlog.StreamLog) -> None:
    fill(log, 5)
    with log.consumer("t") as consumer:
        assert [record.offset for record in consumer.poll(max_records=2)] == [0, 1]
        assert [record.offset for record in consumer.poll(max_records=1)] == [2]
        assert [record.offset for record in consumer.poll()] == [3, 4]


def test_max_poll_records_bounds_every_poll(log: streamlog.StreamLog) -> None:
    fill(log, 5, partitions=2)
    with log.consumer("t", max_poll_records=3) as consumer:
        sizes = []
        while handed_out := consumer.poll():
            sizes.append(len(handed_out))
    assert max(sizes) <= 3
    assert sum(sizes) == 10


def test_a_poll_returns_at_most_500_records_by_default(log: streamlog.StreamLog) -> None:
    fill(log, 501)
    with log.consumer("t") as consumer:
        assert len(consumer.poll()) <= 500


def test_a_record_larger_than_fetch_max_bytes_is_still_handed_out(log: streamlog.StreamLog) -> None:
    log.create_topic("t").send(b"x" * 10_000).result()
    with log.consumer("t", fetch_max_bytes=1) as consumer:
        assert [len(record.value) for record in drain(consumer)] == [10_000]


def test_partitions_added_later_are_read_too(log: streamlog.StreamLog) -> None:
    topic = fill(log, 1)
    with log.consumer("t") as consumer:
        drain(consumer)
        topic.add_partitions(2)
        topic.send("late", partition=1).result()
        assert [record.value for record in consumer.poll(timeout=LONG)] == [b"late"]


# Batches


def test_poll_batches_gives_the_same_records_as_columns(log: streamlog.StreamLog) -> None:
    topic = log.create_topic("t")
    topic.send_many(["a", "b", "c"], keys=["1", "2", "3"]).result()
    with log.consumer("t") as consumer:
        batches = consumer.poll_batches()
    assert [value for batch in batches for value in batch.values] == [b"a", b"b", b"c"]
    assert [key for batch in batches for key in batch.keys] == [b"1", b"2", b"3"]
    assert [offset for batch in batches for offset in batch.offsets] == [0, 1, 2]
    assert batches[-1].next_offset == 3
    with log.consumer("t") as consumer:
        assert [record for batch in batches for record in batch] == consumer.poll()


def test_poll_batches_is_cut_to_max_records_and_to_the_position(log: streamlog.StreamLog) -> None:
    fill(log, 10)
    with log.consumer("t") as consumer:
        consumer.seek(TopicPartition("t", 0), 3)
        assert [offset for batch in consumer.poll_batches(max_records=4) for offset in batch.offsets] == [3, 4, 5, 6]
        assert consumer.position(TopicPartition("t", 0)) == 7
        assert [record.offset for record in consumer.poll()] == [7, 8, 9]


# Iterating


def test_a_consumer_is_its_own_iterator(log: streamlog.StreamLog) -> None:
    fill(log, 2)
    with log.consumer("t") as consumer:
        assert iter(consumer) is consumer
        assert [next(consumer).offset, next(consumer).offset] == [0, 1]


def test_iterating_waits_for_more(log: streamlog.StreamLog, in_thread: InThread) -> None:
    topic = fill(log, 1)
    with log.consumer("t") as consumer:
        seen = []
        for record in consumer:
            seen.append(record.value)
            if len(seen) == 1:
                in_thread(lambda: topic.send("later").result())
            else:
                break
    assert seen == [b"0:0", b"later"]


def test_polling_goes_on_where_iterating_left_off(log: streamlog.StreamLog) -> None:
    fill(log, 4)
    with log.consumer("t") as consumer:
        assert next(consumer).offset == 0
        assert [record.offset for record in consumer.poll(max_records=2)] == [1, 2]
        assert next(consumer).offset == 3


def test_until_end_stops_at_the_end_offsets_of_its_call(log: streamlog.StreamLog) -> None:
    topic = fill(log, 3, partitions=2)
    with log.consumer("t") as consumer:
        seen = []
        for record in consumer.until_end():
            seen.append(record.value)
            topic.send("too late", partition=0).result()
        assert sorted(seen) == [b"0:0", b"0:1", b"0:2", b"1:0", b"1:1", b"1:2"]
        assert [record.value for record in consumer.until_end()] == [b"too late"] * 6


@pytest.mark.parametrize("timeout", [None, 0.0, LONG])
def test_until_end_of_nothing_ends_at_once(
    log: streamlog.StreamLog, monkeypatch: pytest.MonkeyPatch, timeout: float | None
) -> None:
    log.create_topic("t", partitions=2)
    with log.consumer("t") as consumer:
        time = PassingTime(log, monkeypatch)
        assert list(consumer.until_end(timeout)) == []
        assert time.waits == []


def test_until_end_starts_at_the_position(log: streamlog.StreamLog) -> None:
    fill(log, 5)
    with log.consumer("t") as consumer:
        consumer.poll(max_records=2)
        assert [record.offset for record in consumer.until_end(timeout=LONG)] == [2, 3, 4]


def test_until_end_waits_no_longer_than_its_timeout_for_one_record(log: streamlog.StreamLog) -> None:
    fill(log, 2)
    with log.consumer("t") as consumer:
        consumer.poll(max_records=1)
        consumer.pause()
        seen = []
        with contextlib.suppress(TimeoutError):
            seen += list(consumer.until_end(timeout=0.02))
        assert seen == []


def test_records_of_every_kind_come_in_order_however_they_are_polled(
    log: streamlog.StreamLog, rng: random.Random
) -> None:
    """What is read fast is followed by what takes the long way: compressed, with headers, of transactions."""
    topic, partition = log.create_topic("t"), TopicPartition("t", 0)
    sent: list[tuple[bytes | None, bytes | None]] = []
    with log.producer(linger_ms=1000, transactional_id="x") as transactional, log.producer(linger_ms=1000) as plain:
        for number in range(60):
            how = rng.choice(["one", "many", "many", "headers", "compressed", "committed", "aborted"])
            values = [b"%d-%d" % (number, at) for at in range(rng.choice([1, 2, 30]))]
            keys: list[bytes | None] = [rng.choice([None, b"k%d-%d" % (number, at)]) for at in range(len(values))]
            if how == "one":
                keys, values = keys[:1], values[:1]
                topic.send(values[0], key=keys[0])
            elif how == "headers":
                plain.send_many("t", values, keys, headers={"h": b"1"}).result()
            elif how == "compressed":
                with log.producer(compression_type="gzip") as zipped:
                    zipped.send_many("t", values, keys)
            elif how in ("committed", "aborted"):
                transactional.begin_transaction()
                transactional.send_many("t", values, keys).result()
                if how == "aborted":
                    transactional.abort_transaction()
                    continue
                transactional.commit_transaction()
            else:
                plain.send_many("t", values, keys).result()
            sent += zip(keys, values, strict=True)
    with log.consumer() as consumer:
        consumer.assign([partition])
        consumer.seek_to_beginning()
        got: list[tuple[Any, Any]] = []
        while len(got) < len(sent):
            n = rng.choice([1, 2, 7, 100])
            if rng.random() < 0.5:
                got += [(record.key, record.value) for record in consumer.poll(max_records=n)]
            else:
                for batch in consumer.poll_batches(max_records=n):
                    got += zip(batch.keys, batch.values, strict=True)
            if rng.random() < 0.2:
                consumer.seek(partition, consumer.position(partition))
        assert got == sent
        assert consumer.poll() == [] == consumer.poll_batches()


def test_the_buffers_of_a_batch_are_its_columns_as_arrow_has_them(log: streamlog.StreamLog) -> None:
    topic = log.create_topic("t")
    values = [None if at % 3 == 0 else b"v" * at for at in range(20)]
    topic.send_many(values, [b"k%d" % at for at in range(20)])
    topic.send_many(["text"], headers={"h": b"1"})
    first, second = topic.read_batches(start=0)
    (cut,) = topic.read_batches(start=5, end=8)
    for batch in (first, second, cut):
        for name, column in (("key", batch.keys), ("value", batch.values)):
            validity, ends, data = batch.buffers(name)  # type: ignore[arg-type]
            assert (len(ends), ends.itemsize, ends[0], ends[-1]) == (len(batch) + 1, 8, 0, len(data))
            assert (validity is None) == (None not in column)
            for at, entry in enumerate(column):
                is_valid = validity is None or validity[at // 8] >> at % 8 & 1
                assert (bytes(data[ends[at] : ends[at + 1]]) if is_valid else None) == entry
    with pytest.raises(streamlog.ConfigError, match="'key' or 'value', not 'keys'"):
        first.buffers("keys")  # type: ignore[arg-type]


def test_the_buffers_of_a_batch_are_before_its_deserializer(log: streamlog.StreamLog) -> None:
    log.create_topic("t").send('{"a": 1}')
    (batch,) = log.topic("t", value_serde=streamlog.serde.json).read_batches()
    assert (list(batch.values), bytes(batch.buffers("value")[2])) == ([{"a": 1}], b'{"a": 1}')


@pytest.mark.parametrize("size", [10, 2_000, 5_700, 40_000])
def test_a_poll_that_ends_where_a_fetch_ends_is_followed_by_the_next_record(
    log: streamlog.StreamLog, size: int
) -> None:
    """Batches of one size: each is where, in the next fetch, another one of them would be too."""
    topic = log.create_topic("t")
    for _ in range(24):
        topic.send(b"x" * size)
    with log.consumer("t") as consumer:
        polled = [record.offset for _ in range(24) for record in consumer.poll(max_records=1)]
    assert polled == list(range(24))
