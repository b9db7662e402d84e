"""A Kafka batch in the log is a batch like any other: appended, found, compacted, verified, recovered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from streamlog.records.batch import FORM_COLUMNS, FORM_KAFKA, LOG_APPEND_TIME, BatchHeader
from streamlog.storage.log import AppendRequest
from tests.kafka_batches import Row, kafka_batch

from .conftest import CLEAN, KILLED, NOW, POWER_LOST, SEED, Box
from .reopening import reopening

MakeBox = Callable[..., Box]


def put(b: Box, *rows: Row, **options: Any) -> int:
    """Append one Kafka batch; its base offset."""
    return b.log.append(AppendRequest([kafka_batch(SEED, rows, **options)]), 0, b.now)


def headers_of(b: Box) -> list[BatchHeader]:
    return [header for segment, end in b.log.tail.places() for _, header in segment.headers(0, end)]


def both_forms(b: Box) -> None:
    put(b, Row(NOW, b"a", b"1"), Row(NOW + 9, b"b", None, (("h", b"v"),)))
    b.append(b"2", b"3", keys=[b"a", None], timestamps=[NOW + 5, NOW + 7])
    put(b, Row(NOW + 20, b"c", b"4" * 300), Row(NOW - 8, None, b"5"), codec=1)


EXPECTED = [
    (0, NOW, b"a", b"1", ()),
    (1, NOW + 9, b"b", None, (("h", b"v"),)),
    (2, NOW + 5, b"a", b"2", ()),
    (3, NOW + 7, None, b"3", ()),
    (4, NOW + 20, b"c", b"4" * 300, ()),
    (5, NOW - 8, None, b"5", ()),
]


@reopening
def test_both_forms_are_read_one_after_the_other(box: MakeBox, reopen: Callable[[Box], None]) -> None:
    b = box(segment_bytes=1024)
    both_forms(b)
    reopen(b)
    assert [tuple(entry) for entry in b.read()] == EXPECTED
    assert [tuple(entry) for entry in b.read(5)] == EXPECTED[5:]
    assert put(b, Row(NOW)) == 6
    assert [header.form for header in headers_of(b)] == [FORM_KAFKA, FORM_COLUMNS, FORM_KAFKA, FORM_KAFKA]


@reopening
def test_times_are_found_in_both_forms(box: MakeBox, reopen: Callable[[Box], None]) -> None:
    b = box()
    both_forms(b)
    reopen(b)
    find = b.log.reader.find_time
    assert [find(NOW + after, 6) for after in (-8, 1, 6, 8, 10, 21)] == [
        (0, NOW), (1, NOW + 9), (1, NOW + 9), (1, NOW + 9), (4, NOW + 20), None
    ]  # fmt: skip
    assert [b.log.reader.find_max_time(end) for end in (6, 4)] == [(4, NOW + 20), (1, NOW + 9)]
    b.log.advance_start(5)
    assert b.log.reader.find_max_time(6) == (5, NOW - 8)
    assert b.log.reader.find_max_time(5) is None


def test_a_greatest_timestamp_that_only_a_client_claimed_is_not_given(box: MakeBox) -> None:
    b = box()
    lying = kafka_batch(SEED, [Row(NOW)])._replace(max_timestamp=NOW + 100)
    b.log.append(AppendRequest([lying]), 0, b.now)
    b.append(b"later", timestamps=NOW + 3)
    assert b.log.reader.find_max_time(2) == (1, NOW + 3)
    assert b.log.reader.find_time(NOW + 1, 2) == (1, NOW + 3)


def test_the_greatest_timestamp_is_read_from_the_header_where_it_says_which_record_has_it(box: MakeBox) -> None:
    b = box()
    put(b, Row(NOW), Row(NOW + 9), knows=True)
    b.append(b"x", b"y", timestamps=[NOW + 30, NOW + 10])
    reads: list[int] = []
    segment = b.log.tail.segments[-1]
    read = segment.read
    segment.read = lambda length, position: reads.append(position) or read(length, position)  # type: ignore[func-returns-value, method-assign]
    assert b.log.reader.find_max_time(4) == (2, NOW + 30)
    assert b.log.reader.find_max_time(2) == (1, NOW + 9)
    assert set(reads) == {0}, "the headers from the start of the interval on, and no payload"


@reopening
def test_a_least_timestamp_that_is_not_known_is_not_made_up(box: MakeBox, reopen: Callable[[Box], None]) -> None:
    """A reader that leaves out segments by their least timestamp would miss the record of NOW - 50."""
    b = box(segment_bytes=1024)
    b.append(b"x", timestamps=NOW)
    put(b, Row(NOW), Row(NOW - 50))
    b.append(b"x", timestamps=NOW + 5)
    b.log.append_one(None, b"x", NOW + 6, 0, NOW)
    put(b, Row(NOW + 8), Row(NOW - 5), knows=True)
    b.log.roll(b.now)
    put(b, Row(NOW + 8), Row(NOW - 5), knows=True)
    b.append(b"x", timestamps=NOW - 7)
    b.log.roll(b.now)
    reopen(b)
    assert [(info.min_timestamp, info.max_timestamp) for info in b.sealed()] == [(-1, NOW + 8), (NOW - 7, NOW + 8)]


def test_records_of_a_kafka_batch_that_stay_are_written_as_columns(box: MakeBox) -> None:
    b = box(cleanup_policy="compact")
    put(b, Row(NOW, b"a", b"1"), Row(NOW + 3, b"b", b"1", (("h", None),)), producer=(7, 1, 4), codec=3)
    put(b, Row(NOW, b"c", b"1"), producer=(7, 1, 6))
    put(b, Row(NOW + 1, b"a", b"2"), Row(NOW + 2, b"d", None))
    b.log.roll(b.now)
    b.partition.maintenance.compact(b.now)
    assert [tuple(entry) for entry in b.read()] == [
        (1, NOW + 3, b"b", b"1", (("h", None),)),
        (2, NOW, b"c", b"1", ()),
        (3, NOW + 1, b"a", b"2", ()),
        (4, NOW + 2, b"d", None, ()),
    ]
    first, second, third = headers_of(b)
    assert (first.form, first.codec, first.base_sequence, first.last_offset_delta) == (FORM_COLUMNS, 3, 4, 1)
    assert (first.base_timestamp, first.max_timestamp, first.max_timestamp_delta) == (NOW + 3, NOW + 3, 1)
    assert second.form == third.form == FORM_KAFKA
    assert third.delete_horizon > 0, "the tombstone's batch is as it was, with a horizon in its header"
    b.now = third.delete_horizon
    b.partition.maintenance.compact(b.now)
    assert [entry.offset for entry in b.read()] == [1, 2, 3]
    assert [tuple(entry) for entry in b.read(3)] == [(3, NOW + 1, b"a", b"2", ())]


def test_append_times_of_a_kafka_batch_are_kept_by_compaction(box: MakeBox) -> None:
    b = box(cleanup_policy="compact", message_timestamp_type="LogAppendTime")
    put(b, Row(1, b"a", b"1"), Row(2, b"b", b"1"), flags=LOG_APPEND_TIME)
    put(b, Row(3, b"a", b"2"), flags=LOG_APPEND_TIME)
    b.log.roll(b.now)
    b.partition.maintenance.compact(b.now)
    assert [(entry.offset, entry.timestamp) for entry in b.read()] == [(1, NOW), (2, NOW)]


@pytest.mark.parametrize("crash", [KILLED, POWER_LOST])
def test_a_torn_kafka_batch_is_truncated(box: MakeBox, crash: Any) -> None:
    b = box()
    both_forms(b)
    b.log.release()
    (path,) = b.logs()
    path.write_bytes(path.read_bytes()[:-5])
    b.open(crash)
    assert b.log.tail.end_offset == 4
    assert put(b, Row(NOW)) == 4


@pytest.mark.damaged
def test_a_damaged_kafka_batch_is_found_and_only_it_is_lost(box: MakeBox) -> None:
    b = box()
    both_forms(b)
    both_forms(b)
    b.close()
    (path,) = b.logs()
    data = bytearray(path.read_bytes())
    data[150] ^= 1  # in the payload of the first batch
    path.write_bytes(data)
    b.open(CLEAN)
    assert [entry.offset for entry in b.read(skip=True)] == list(range(2, 12))
    (problem,) = b.problems(CLEAN)
    assert (problem.kind, problem.lost) == ("payload", (0, 2))
