"""Reading a topic: by offset, by time, bounded at the call, as records and as batches."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from types import FrameType
from typing import Any

import pytest

import streamlog
from streamlog import OffsetAndTimestamp, Record, StreamLog, Topic, TopicPartition

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def at(timestamp_ms: float) -> datetime:
    return EPOCH + timedelta(milliseconds=timestamp_ms)


def offsets(records: Any) -> list[int]:
    return [record.offset for record in records]


@pytest.fixture
def topic(log: StreamLog) -> Topic:
    """100 records: offset n has value n; batches of 1, of 30 and of 7 records."""
    topic = log.create_topic("t")
    values = [str(n).encode() for n in range(100)]
    for value in values[:20]:
        topic.send(value)
    topic.send_many(values[20:50])
    for start in range(50, 99, 7):
        topic.send_many(values[start : start + 7])
    topic.send(values[99])
    return topic


# By offset


def test_read_returns_everything_in_order(topic: Topic) -> None:
    records = list(topic.read())
    assert offsets(records) == list(range(100))
    assert [record.value for record in records] == [str(n).encode() for n in range(100)]
    assert {type(record) for record in records} == {Record}


@pytest.mark.parametrize("start", [0, 1, 19, 20, 21, 49, 50, 77, 99, 100])
def test_read_starts_at_any_offset_inside_a_batch_too(topic: Topic, start: int) -> None:
    assert offsets(topic.read(0, start=start)) == list(range(start, 100))
    assert offsets(topic.read(start=start)) == list(range(start, 100))


@pytest.mark.parametrize(("start", "end"), [(0, 0), (0, 1), (5, 25), (21, 22), (30, 49), (45, 60), (51, 55), (99, 100)])
def test_read_ends_before_its_end(topic: Topic, start: int, end: int) -> None:
    assert offsets(topic.read(0, start=start, end=end)) == list(range(start, end))
    assert [offset for batch in topic.read_batches(0, start=start, end=end) for offset in batch.offsets] == list(
        range(start, end)
    )


def test_earliest_and_latest(topic: Topic) -> None:
    assert offsets(topic.read(start="earliest", end="latest")) == list(range(100))
    assert offsets(topic.read(start="latest")) == []
    assert offsets(topic.read(end="earliest")) == []


def test_empty_topic_reads_as_nothing(log: StreamLog) -> None:
    topic = log.create_topic("t", partitions=3)
    assert list(topic.read()) == []
    assert list(topic.read_batches()) == []
    assert list(topic.read(1, start=0)) == []


def test_read_is_bounded_at_the_call(topic: Topic) -> None:
    records, batches = topic.read(start=98), topic.read_batches(start=98)
    topic.send(b"after the call")
    assert offsets(records) == [98, 99]
    assert [offset for batch in batches for offset in batch.offsets] == [98, 99]


def test_reading_what_one_writes_ends(topic: Topic) -> None:
    for record in topic.read():
        topic.send(record.value)
    assert topic.partition(0).log_end_offset == 200


def test_records_are_an_iterator_that_stays_finished(topic: Topic) -> None:
    records = topic.read(start=99)
    assert iter(records) is records
    assert next(records).offset == 99
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(records)


def test_partitions_are_read_one_after_another(log: StreamLog) -> None:
    topic = log.create_topic("t", partitions=3)
    for n in range(30):
        topic.send(str(n), partition=n % 3)
    assert [(r.partition, r.offset) for r in topic.read()] == [(p, n) for p in range(3) for n in range(10)]
    assert [int(r.value) for r in topic.read(1)] == list(range(1, 30, 3))
    assert {b.partition for b in topic.read_batches(2)} == {2}


def test_two_readers_do_not_disturb_each_other(topic: Topic) -> None:
    first, second = topic.read(), topic.read(start=10)
    assert [(next(first).offset, next(second).offset) for _ in range(50)] == [(n, n + 10) for n in range(50)]


@pytest.mark.parametrize("read", [Topic.read, Topic.read_batches])
class TestRefusals:
    @pytest.mark.parametrize("start", [101, 10**15])
    def test_offset_beyond_the_end_is_refused_at_the_call_with_the_valid_bounds(
        self, topic: Topic, read: Any, start: int
    ) -> None:
        topic.delete_records({0: 7})
        with pytest.raises(streamlog.OffsetOutOfRangeError) as error:
            read(topic, 0, start=start)
        assert (error.value.log_start_offset, error.value.log_end_offset) == (7, 100)
        assert "7" in str(error.value)
        assert "100" in str(error.value)

    def test_offset_before_the_start_is_refused_at_the_call_with_the_valid_bounds(
        self, topic: Topic, read: Any
    ) -> None:
        topic.delete_records({0: 30})
        with pytest.raises(streamlog.OffsetOutOfRangeError) as error:
            read(topic, 0, start=29)
        assert (error.value.log_start_offset, error.value.log_end_offset) == (30, 100)

    @pytest.mark.parametrize("bounds", [{"start": -1}, {"end": -1}, {"start": -(10**9)}], ids=str)
    def test_negative_offset_is_refused(self, topic: Topic, read: Any, bounds: Any) -> None:
        with pytest.raises((streamlog.StreamlogError, ValueError)):
            read(topic, 0, **bounds)

    @pytest.mark.parametrize("bound", ["start", "end"])
    @pytest.mark.parametrize("value", ["newest", "", 1.5, None, b"earliest"], ids=repr)
    def test_what_is_no_position_is_refused(self, topic: Topic, read: Any, bound: str, value: Any) -> None:
        with pytest.raises((streamlog.StreamlogError, ValueError, TypeError)):
            read(topic, 0, **{bound: value})

    @pytest.mark.parametrize("bound", ["start", "end"])
    def test_naive_datetime_is_refused(self, topic: Topic, read: Any, bound: str) -> None:
        with pytest.raises(ValueError, match=r"aware|naive|time ?zone|tzinfo"):
            read(topic, 0, **{bound: datetime(2026, 1, 1)})

    @pytest.mark.parametrize("partition", [1, -1, 99])
    def test_partition_that_does_not_exist_is_refused_at_the_call(
        self, topic: Topic, read: Any, partition: int
    ) -> None:
        with pytest.raises(streamlog.UnknownTopicOrPartitionError):
            read(topic, partition)

    @pytest.mark.parametrize("option", [{"isolation_level": "dirty"}, {"on_corrupt": "ignore"}], ids=str)
    def test_unknown_option_is_refused_at_the_call(self, topic: Topic, read: Any, option: Any) -> None:
        with pytest.raises((streamlog.StreamlogError, ValueError)):
            read(topic, 0, **option)

    def test_options_of_the_api_are_taken(self, topic: Topic, read: Any) -> None:
        assert list(read(topic, 0, isolation_level="read_committed", on_corrupt="skip"))


# By time


@pytest.fixture
def timed(log: StreamLog) -> Topic:
    """One batch and two single records whose timestamps go up, back, and up again."""
    topic = log.create_topic("timed")
    topic.send_many([b"v"] * 6, timestamps_ms=[1000, 2000, 3000, 2500, 1500, 4000])
    topic.send(b"v", timestamp_ms=3500)
    topic.send(b"v", timestamp_ms=5000)
    return topic


FIRST_AT_OR_AFTER = [(0, 0), (1000, 0), (1001, 1), (2000, 1), (2001, 2), (3000, 2), (3001, 5), (4000, 5), (4001, 7)]


@pytest.mark.parametrize(("time", "first"), FIRST_AT_OR_AFTER)
def test_read_starts_at_the_first_record_at_or_after_a_time(timed: Topic, time: int, first: int) -> None:
    assert offsets(timed.read(start=at(time))) == list(range(first, 8))
    assert [o for batch in timed.read_batches(start=at(time)) for o in batch.offsets] == list(range(first, 8))


@pytest.mark.parametrize(("time", "first"), FIRST_AT_OR_AFTER)
def test_read_ends_before_the_first_record_at_or_after_a_time(timed: Topic, time: int, first: int) -> None:
    assert offsets(timed.read(end=at(time))) == list(range(first))


def test_time_after_every_record_is_the_end(timed: Topic) -> None:
    assert offsets(timed.read(start=at(5001))) == []
    assert offsets(timed.read(end=at(5001))) == list(range(8))


def test_time_between_two_milliseconds_comes_after_the_earlier(timed: Topic) -> None:
    assert offsets(timed.read(start=at(1000.5))) == list(range(1, 8))


def test_time_is_the_same_instant_in_every_zone(timed: Topic) -> None:
    tokyo = at(3000).astimezone(timezone(timedelta(hours=9)))
    assert offsets(timed.read(start=tokyo)) == list(range(2, 8))


def test_time_applies_to_each_partition_by_itself(log: StreamLog) -> None:
    topic = log.create_topic("t", partitions=2)
    topic.send_many([b"v"] * 4, timestamps_ms=[10, 20, 30, 40], partition=0)
    topic.send_many([b"v"] * 4, timestamps_ms=[15, 16, 17, 35], partition=1)
    found = [(record.partition, record.offset) for record in topic.read(start=at(20), end=at(40))]
    assert found == [(0, 1), (0, 2), (1, 3)]


def test_time_is_found_across_segments_and_after_reopening(log: StreamLog, reopen: Callable[..., StreamLog]) -> None:
    topic = log.create_topic("t", segment_bytes=2000)
    for n in range(300):
        topic.send(b"x" * 50, timestamp_ms=1000 + 10 * n)
    for _ in range(2):
        current = log["t"]
        for n in (0, 1, 57, 150, 299):
            assert next(current.read(start=at(1000 + 10 * n))).offset == n
            assert next(current.read(start=at(1000 + 10 * n - 9))).offset == n
        log = reopen(log)


@pytest.mark.parametrize("close_first", [False, True])
@pytest.mark.parametrize(("time", "first"), FIRST_AT_OR_AFTER)
def test_offsets_for_times_finds_the_first_record_at_or_after(
    log: StreamLog, timed: Topic, reopen: Callable[..., StreamLog], time: int, first: int, close_first: bool
) -> None:
    stamps = [1000, 2000, 3000, 2500, 1500, 4000, 3500, 5000]
    log = reopen(log) if close_first else log
    partition = TopicPartition("timed", 0)
    with log.consumer() as consumer:
        consumer.assign([partition])
        expected = {partition: OffsetAndTimestamp(first, stamps[first])}
        assert consumer.offsets_for_times({partition: time}) == expected
        assert consumer.offsets_for_times({partition: at(time)}) == expected
        assert consumer.offsets_for_times({partition: 5001}) == {partition: None}
        with pytest.raises(ValueError):
            consumer.offsets_for_times({partition: datetime(2026, 1, 1)})


def test_offsets_for_times_ignores_deleted_records(log: StreamLog, timed: Topic) -> None:
    timed.delete_records({0: 3})
    with log.consumer() as consumer:
        consumer.assign([TopicPartition("timed", 0)])
        found = consumer.offsets_for_times({TopicPartition("timed", 0): 1000})
    assert found == {("timed", 0): OffsetAndTimestamp(3, 2500)}


# What is read


def test_record_says_where_and_when(topic: Topic, clock: Any) -> None:
    record = next(topic.read(start=42))
    assert record.topic_partition == TopicPartition("t", 0)
    assert isinstance(record.topic_partition, TopicPartition)
    assert record.datetime == at(clock.time_ms())
    assert record.datetime.utcoffset() == timedelta(0)
    assert record._fields == ("topic", "partition", "offset", "timestamp", "key", "value", "headers")


def test_repr_of_a_record_is_short_however_long_its_value(topic: Topic) -> None:
    topic.send(b"x" * 100_000, b"y" * 100_000, headers={"h": b"z" * 100_000})
    record = next(topic.read(start=100))
    assert len(repr(record)) < 1500
    assert "offset=100" in repr(record)


def test_batches_are_columns_of_the_same_records(topic: Topic) -> None:
    topic.send_many([b"a", None], [None, b"k"], headers={"h": b"1"}, timestamps_ms=[5, 6])
    records = list(topic.read())
    batches = list(topic.read_batches())
    assert [record for batch in batches for record in batch] == records
    for batch in batches:
        inside = [record for record in records if batch.base_offset <= record.offset <= batch.last_offset]
        assert (batch.topic, batch.partition) == ("t", 0)
        assert len(batch) == len(inside) == len(batch.offsets)
        assert list(batch.offsets) == offsets(inside)
        assert list(batch.timestamps) == [record.timestamp for record in inside]
        assert list(batch.keys) == [record.key for record in inside]
        assert list(batch.values) == [record.value for record in inside]
        assert list(batch.headers) == [record.headers for record in inside]
        assert batch.offsets[0] == inside[0].offset
        assert batch.values[-1] == inside[-1].value
        assert list(batch) == list(batch)
    assert [after.base_offset for after in batches[1:]] == [before.next_offset for before in batches[:-1]]


def test_batches_are_those_that_were_sent(topic: Topic) -> None:
    assert [len(batch) for batch in topic.read_batches()] == [1] * 20 + [30] + [7] * 7 + [1]


def test_first_and_last_batch_are_cut_to_start_and_end(topic: Topic) -> None:
    (batch,) = topic.read_batches(0, start=25, end=40)
    assert list(batch.offsets) == list(range(25, 40))
    assert [int(value) for value in batch.values] == list(range(25, 40))
    assert len(batch) == len(batch.keys) == len(batch.timestamps) == len(batch.headers) == 15
    assert offsets(batch) == list(range(25, 40))
    assert batch.next_offset == 40
    first, *_, last = topic.read_batches(0, start=45, end=60)
    assert list(first.offsets) == list(range(45, 50))
    assert list(last.offsets) == [57, 58, 59]


def test_batch_is_immutable_and_outlives_the_log(log: StreamLog, topic: Topic) -> None:
    batches = list(topic.read_batches())
    topic.delete()
    log.close()
    assert [int(record.value) for batch in batches for record in batch] == list(range(100))
    with pytest.raises(AttributeError):
        batches[0].base_offset = 7


def test_records_outlive_deletion_and_the_log(log: StreamLog, reopen: Callable[..., StreamLog]) -> None:
    log.create_topic("t", segment_bytes=1024).send_many([b"x" * 500] * 20)
    log = reopen(log)
    records = list(log["t"].read())
    log["t"].delete_records({0: 20})
    log["t"].delete()
    log.close()
    assert [bytes(record.value) for record in records] == [b"x" * 500] * 20


def test_topic_handle_with_serdes_reads_values(log: StreamLog, topic: Topic) -> None:
    as_storage_error = Topic(log, "t", value_serde=streamlog.serde.json)
    assert [record.value for record in as_storage_error.read()] == list(range(100))
    assert list(next(iter(as_storage_error.read_batches(start=20))).values) == list(range(20, 50))


def test_empty_and_missing_are_different(log: StreamLog) -> None:
    topic = log.create_topic("t")
    topic.send_many([None, b"", None, b""], [b"", None, None, b""])
    assert [(r.key, r.value) for r in topic.read()] == [(b"", None), (None, b""), (None, None), (b"", b"")]


@pytest.mark.parametrize("size", [127, 128, 255, 256, 65_535, 65_536, 900_000])
def test_values_of_every_size_come_back(log: StreamLog, size: int) -> None:
    topic = log.create_topic("t", max_message_bytes=5_000_000)
    value = bytes(n % 251 for n in range(size))
    with log.producer(max_request_size=5_000_000) as producer:
        producer.send("t", value, value, headers={"h": value})
    (record,) = topic.read()
    assert (record.key, record.value, record.header("h")) == (value, value, value)


# By several at once


class Asking:
    """A serde that calls `ask` when it deserializes for the second time."""

    def __init__(self) -> None:
        self.ask: Callable[[], object] = lambda: None
        self.calls = 0

    def serialize(self, value: bytes) -> bytes:
        return value

    def deserialize(self, data: bytes) -> bytes:
        self.calls += 1
        if self.calls == 2:
            self.ask()
        return data


def in_another_thread(call: Callable[[], object]) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


@pytest.mark.parametrize("by", [lambda call: call(), in_another_thread], ids=["its own thread", "another thread"])
def test_read_that_is_asked_while_it_reads_is_an_error_for_both(
    log: StreamLog, topic: Topic, by: Callable[[Any], None]
) -> None:
    serde = Asking()
    records = log.topic("t", value_serde=serde).read()
    raised = []

    def ask() -> None:
        try:
            next(records)
        except streamlog.ConcurrentUseError as error:
            raised.append(error)

    serde.ask = lambda: by(ask)
    with pytest.raises(streamlog.ConcurrentUseError, match="hold a lock around next"):
        list(records)
    assert len(raised) == 1
    assert list(records) == []
    assert len(list(topic.read())) == 100


def test_batches_that_are_asked_for_while_they_are_read_go_on(topic: Topic) -> None:
    batches = topic.read_batches()
    raised = []

    def ask(frame: FrameType, event: str, arg: object) -> None:
        if event == "call" and frame.f_code.co_filename.endswith(("topic.py", "fetcher.py")):
            sys.setprofile(None)
            for _ in range(2):
                with pytest.raises(ValueError, match="already executing") as found:
                    next(batches)
                raised.append(found)

    sys.setprofile(ask)
    try:
        read = [offset for batch in batches for offset in batch.offsets]
    finally:
        sys.setprofile(None)
    assert read == list(range(100))
    assert len(raised) == 2
