"""delete_records: everything before an offset is gone, at once and for good."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

import streamlog
from streamlog import StreamLog, Topic
from streamlog.testing import SimulatedDisk

from .gated_disk import LONG, GatedDisk

Reopen = Callable[..., StreamLog]


@pytest.fixture
def topic(log: StreamLog) -> Topic:
    """Two partitions of 100 records in batches of ten, several segments each."""
    topic = log.create_topic("t", partitions=2, segment_bytes=2048)
    for partition in range(2):
        for start in range(0, 100, 10):
            topic.send_many([b"%d" % n + b"." * 50 for n in range(start, start + 10)], partition=partition)
    return topic


def offsets(topic: Topic, partition: int = 0) -> list[int]:
    return [record.offset for record in topic.read(partition)]


@pytest.mark.parametrize("before", [1, 9, 10, 11, 55, 90, 95, 99, 100])
def test_records_before_the_offset_are_gone_even_in_the_middle_of_a_batch(
    topic: Topic, log: StreamLog, reopen: Reopen, before: int
) -> None:
    topic.delete_records({0: before})
    for _ in range(2):
        current = log["t"]
        info = current.partition(0)
        assert (info.log_start_offset, info.log_end_offset, info.high_watermark) == (before, 100, 100)
        assert offsets(current) == list(range(before, 100))
        assert [o for batch in current.read_batches(0) for o in batch.offsets] == list(range(before, 100))
        assert offsets(current, 1) == list(range(100))
        with pytest.raises(streamlog.OffsetOutOfRangeError) as error:
            current.read(0, start=before - 1)
        assert error.value.log_start_offset == before
        log = reopen(log)


def test_several_partitions_at_once(topic: Topic) -> None:
    topic.delete_records({0: 10, 1: 77})
    assert (offsets(topic, 0)[0], offsets(topic, 1)[0]) == (10, 77)


def test_start_never_goes_back(topic: Topic) -> None:
    topic.delete_records({0: 50})
    for before in (50, 20, 0):
        topic.delete_records({0: before})
        assert topic.partition(0).log_start_offset == 50


@pytest.mark.parametrize("before", [101, 10**12])
def test_offset_beyond_the_end_is_refused_with_the_valid_bounds_and_nothing_is_deleted(
    topic: Topic, before: int
) -> None:
    topic.delete_records({0: 3})
    with pytest.raises(streamlog.OffsetOutOfRangeError) as error:
        topic.delete_records({1: 50, 0: before})
    assert (error.value.log_start_offset, error.value.log_end_offset) == (3, 100)
    assert [topic.partition(n).log_start_offset for n in range(2)] == [3, 0]


def test_unknown_partition_is_refused_and_nothing_is_deleted(topic: Topic) -> None:
    with pytest.raises(streamlog.UnknownTopicOrPartitionError):
        topic.delete_records({0: 50, 2: 5})
    assert topic.partition(0).log_start_offset == 0


@pytest.mark.parametrize("before", [1.5, "5", None], ids=repr)
def test_what_is_no_offset_is_refused(topic: Topic, before: Any) -> None:
    with pytest.raises((streamlog.StreamlogError, TypeError, ValueError)):
        topic.delete_records({0: before})
    assert topic.partition(0).log_start_offset == 0


def test_emptied_partition_goes_on_at_its_end(topic: Topic, log: StreamLog, reopen: Reopen) -> None:
    topic.delete_records({0: 100})
    assert offsets(topic) == []
    topic = reopen(log)["t"]
    assert topic.send(b"next", partition=0).result().offset == 100
    assert offsets(topic) == [100]


def test_whole_segments_give_their_room_back(topic: Topic) -> None:
    before = topic.partition(0)
    assert before.segments > 3
    topic.delete_records({0: 95})
    after = topic.partition(0)
    assert after.size_bytes < before.size_bytes / 2
    assert after.segments < before.segments


def test_deleted_records_are_not_found_by_time(log: StreamLog) -> None:
    topic = log.create_topic("u")
    topic.send_many([b"v"] * 10, timestamps_ms=[1000 * n for n in range(10)])
    topic.delete_records({0: 4})
    assert [record.offset for record in topic.read(start=datetime(1970, 1, 1, tzinfo=UTC))] == list(range(4, 10))


def test_reader_whose_records_are_deleted_gets_records_or_an_error_but_nothing_wrong(topic: Topic) -> None:
    records = topic.read(0)
    seen = [next(records)]
    topic.delete_records({0: 90})
    try:
        seen.extend(records)
    except streamlog.OffsetOutOfRangeError as error:
        assert (error.log_start_offset, error.log_end_offset) == (90, 100)
    assert all(record.value.startswith(b"%d." % record.offset) for record in seen)


def test_a_send_does_not_wait_for_the_sync_of_a_deletion(in_thread: Callable[[Callable[[], Any]], Any]) -> None:
    disk: Any = GatedDisk(SimulatedDisk())
    with streamlog.open("data", disk=disk) as log:
        topic = log.create_topic("t")
        topic.send_many([b"x"] * 5).result()
        disk.hold("*/partition.state")
        deleting = in_thread(lambda: topic.delete_records({0: 3}))
        try:
            disk.until_held()
            assert in_thread(lambda: topic.send(b"y")).result(LONG / 4).result().offset == 5
            assert not deleting.done()
            assert topic.partition(0).log_start_offset == 0
        finally:
            disk.let_go()
        deleting.result(LONG)
        assert topic.partition(0).log_start_offset == 3
