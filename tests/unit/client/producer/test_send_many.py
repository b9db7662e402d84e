"""The columns of a `send_many`: what is checked, how large records are, and where batches end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import streamlog
from streamlog.client.producer import send_many
from streamlog.client.producer.accumulator import RecordAccumulator
from streamlog.client.producer.batch import RECORD_OVERHEAD
from streamlog.client.producer.partitioner import make_partitioner
from streamlog.client.producer.send_many import Records, checked, column_of, cut
from streamlog.client.producer.topic_cache import CachedTopic
from streamlog.config import ProducerConfig
from streamlog.errors import InvalidRecordError, RecordTooLargeError, SerializationError
from streamlog.runtime.threads import new_lock

NOW_MS = 1_000_000
Make = Callable[..., CachedTopic]


@pytest.fixture
def topic(service: Any, accumulator_of: Callable[..., RecordAccumulator]) -> Make:
    """A topic with these settings, as a producer with those of `producer` knows it."""

    def make(producer: dict[str, Any] | None = None, **config: Any) -> CachedTopic:
        view = service.add_topic("t", **config)
        queue = accumulator_of(**(producer or {})).queue(view, 0)
        settings = ProducerConfig(**(producer or {}))
        return CachedTopic(view, settings, make_partitioner("xxhash"), new_lock(), lambda *_: queue, None, None)

    return make


def check(topic: CachedTopic, values: Any, keys: Any = None, *, headers: Any = None, copied: bool = False) -> Records:
    return checked(topic, values, keys, headers, None, NOW_MS, copied=copied)


def test_a_column_of_bytes_is_taken_as_it_is_and_others_are_converted() -> None:
    values = [b"a", b"b"]
    assert column_of(iter(values), None, "value", copied=True).items == values
    assert column_of(["a", None, bytearray(b"c")], None, "value", copied=False).items == [b"a", None, b"c"]
    assert column_of([1], lambda item: b"%d" % item, "value", copied=False).items == [b"1"]


def test_buffers_are_copied_where_the_records_may_linger() -> None:
    buffer = bytearray(b"before")
    kept, copied = (column_of([buffer], None, "value", copied=copied).items[0] for copied in (False, True))
    buffer[:] = b"after!"
    assert (bytes(kept or b""), copied) == (b"after!", b"before")


@pytest.mark.parametrize("single", ["text", b"bytes", bytearray(b"x"), memoryview(b"x"), {"a": "mapping"}])
def test_a_single_value_is_not_a_column(single: Any) -> None:
    with pytest.raises(SerializationError, match="is a single one"):
        column_of(single, None, "value", copied=False)


@pytest.mark.parametrize(
    ("keys", "count"), [([b"k"], "1 keys"), ([b"k"] * 3, "3 keys"), (iter([b"k"] * 9), "3 or more")]
)
def test_there_is_one_key_for_each_value(topic: Make, keys: Any, count: str) -> None:
    with pytest.raises(SerializationError, match=f"2 values and {count}"):
        check(topic(), [b"a", b"b"], keys)


@pytest.mark.parametrize("keys", [None, [b"k", None]])
def test_a_compacted_topic_needs_all_keys(topic: Make, keys: Any) -> None:
    with pytest.raises(InvalidRecordError):
        check(topic(cleanup_policy="compact"), [b"a", b"b"], keys)


def test_small_records_have_their_mean_size_and_large_ones_their_own(topic: Make) -> None:
    assert check(topic(), [b"x" * 10, b"x" * 20], [b"k", b"k"]).sizes == 16 + RECORD_OVERHEAD
    sizes = check(topic(), [b"x" * 600_000, None, b"x"]).sizes
    assert sizes == [600_000 + RECORD_OVERHEAD, RECORD_OVERHEAD, 1 + RECORD_OVERHEAD]


def test_one_record_that_is_too_large_is_found_among_small_ones(topic: Make) -> None:
    found = topic({"max_request_size": 1000})
    check(found, [b"x" * (1000 - RECORD_OVERHEAD)] * 300)
    with pytest.raises(RecordTooLargeError) as caught:
        check(found, [b"x"] * 200 + [b"x" * (1001 - RECORD_OVERHEAD)] + [b"x"] * 200)
    assert (caught.value.size, caught.value.max_size) == (1001, 1000)


def test_headers_count_in_every_record(topic: Make) -> None:
    found = topic({"max_request_size": 1000})
    with pytest.raises(RecordTooLargeError):
        check(found, [b"x" * 900], headers={"h": b"x" * 100})


def test_no_records_are_no_batches(topic: Make) -> None:
    found = topic()
    records = check(found, [], [])
    assert records.sizes == 0
    assert list(found.spread(records.keys, None, 0)) == []


@pytest.mark.parametrize(
    ("producer", "values", "expected"),
    [
        ({"batch_size": 56}, [b"x" * 20] * 5, [2, 2, 1]),  # a batch ends with the record that fills it
        ({"batch_size": 1}, [b"x"] * 3, [1, 1, 1]),
        ({"batch_size": 1000}, [b"x" * 600_000, b"x", b"x"], [1, 2]),
        ({}, [b"x" * 5_000] * 25, [12, 12, 1]),  # of the default size, a few large records
    ],
)
def test_where_batches_end(topic: Make, producer: dict[str, Any], values: list[bytes], expected: list[int]) -> None:
    found = topic(producer)
    parts = cut(found.queue(0), check(found, values), range(len(values)))
    assert [len(part.batch) for part in parts] == expected
    assert [index for part in parts for index in part.indexes] == list(range(len(values)))


def test_batches_are_no_longer_than_a_segment(topic: Make) -> None:
    found = topic(retention_records=80)
    parts = cut(found.queue(0), check(found, [b"x"] * 25), range(25))
    assert [len(part.batch) for part in parts] == [10, 10, 5]


def test_records_of_one_partition_are_taken_out_of_all_columns() -> None:
    records = Records([b"a", b"b", b"c"], [b"1", b"2", b"3"], [10, 20, 30], [1, 2, 3], ())
    assert records.at([0, 2]) == Records([b"a", b"c"], [b"1", b"3"], [10, 30], [1, 3], ())
    assert records.at(range(3)) is records


def test_the_last_batch_lingers_with_those_that_were_sent_alone(
    service: Any, accumulator_of: Callable[..., RecordAccumulator]
) -> None:
    accumulator = accumulator_of(linger_ms=1000, batch_size=56)
    queue = accumulator.queue(service.add_topic("t"), 0)
    alone, _ = accumulator.add(queue, (None, b"alone", NOW_MS), 8)
    records = Records([b"x" * 20] * 3, None, NOW_MS, 28, ())
    parts = send_many.put(accumulator, queue, cut(queue, records, range(3)), 1000)
    assert service.writes == [[1, 2]]
    assert alone.done()
    assert [(list(part.indexes), part.batch.done()) for part in parts] == [([0, 1], True), ([2], False)]


def test_timestamps_that_are_all_allowed_are_checked_by_their_extremes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    check = CachedTopic.timestamp

    def counted(self: CachedTopic, given: int, now_ms: int) -> int:
        asked.append(given)
        return check(self, given, now_ms)

    with streamlog.open() as log, log.producer() as producer:
        log.create_topic("t")
        monkeypatch.setattr(CachedTopic, "timestamp", counted)
        producer.send_many("t", [b"v"] * 1000, timestamps_ms=range(1000))
        assert asked == [0, 999]
        with pytest.raises(streamlog.InvalidTimestampError, match=r"timestamps_ms\[1\]"):
            producer.send_many("t", [b"v"] * 3, timestamps_ms=[0, -1, 5])
        with pytest.raises(streamlog.InvalidTimestampError, match=r"timestamps_ms\[2\]"):
            producer.send_many("t", [b"v"] * 3, timestamps_ms=[0, 1, True])
