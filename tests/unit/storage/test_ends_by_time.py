"""From which offset on every record is later than a time, and whether each offset has a record: what lets a query not read."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from streamlog.storage.index import INTERVAL
from streamlog.storage.truncation import truncate_to

from .conftest import KILLED, NOW, Box, six_segments
from .transactional import Transactional

MakeBox = Callable[..., Box]


def end_for_time(b: Box, timestamp: int, end: int | None = None) -> int:
    return b.log.reader.end_for_time(timestamp, b.log.tail.end_offset if end is None else end)


def filled(box: MakeBox, times: Sequence[int], **config: int) -> Box:
    """A batch of ten records, of a fifth of an interval, for each ten times."""
    b = box(**config)
    for at in range(0, len(times), 10):
        b.append(*[bytes(INTERVAL // 50)] * 10, timestamps=times[at : at + 10])
    return b


def check(b: Box, times: Sequence[int], timestamp: int) -> None:
    """All at or before the time are in front of the end, and of the others no more than the interval has in which the last is."""
    end = end_for_time(b, timestamp)
    last = max((n for n, time in enumerate(times) if time <= timestamp), default=-1)
    assert last < end <= min(len(times), last + 1 + 80) or (last == -1 and end == 0)


def test_the_end_of_times_in_order_is_near_the_last_one(box: MakeBox) -> None:
    times = [NOW + n for n in range(3_000)]
    b = filled(box, times, segment_bytes=1 << 16)
    assert len(b.logs()) > 3
    for n in (-1, 0, 1, 500, 1_234, 2_990, 2_999, 4_000):
        check(b, times, NOW + n)
    assert end_for_time(b, NOW + 2_999, 700) == 700


def test_the_end_of_times_in_any_order_loses_none(box: MakeBox, rng: random.Random) -> None:
    times = [NOW + rng.randrange(3_000) for _ in range(2_000)]
    b = filled(box, times, segment_bytes=1 << 16)
    for n in range(-10, 3_010, 7):
        end = end_for_time(b, NOW + n)
        assert all(time > NOW + n for time in times[end:])


def test_what_is_appended_after_a_look_counts(box: MakeBox) -> None:
    b = box()
    for n in range(50):
        b.append(*[bytes(INTERVAL // 50)] * 10, timestamps=NOW + 100 + n)
        if n % 3 == 0:
            assert end_for_time(b, NOW) == 0
    b.append(b"early", timestamps=NOW)
    assert end_for_time(b, NOW) == 501
    for _ in range(10):
        b.append(*[bytes(INTERVAL // 50)] * 100, timestamps=NOW + 200)
    assert 501 <= end_for_time(b, NOW) < 701


def test_a_log_that_was_truncated_and_written_again_has_the_new_times(box: MakeBox) -> None:
    b = filled(box, [NOW + 100 + n for n in range(1_000)])
    assert end_for_time(b, NOW) == 0
    truncate_to(b.log, 500)
    b.forget_high_watermark()
    for _ in range(50):
        b.append(*[bytes(INTERVAL // 50)] * 10, timestamps=NOW)
    assert end_for_time(b, NOW) == 1_000


def test_a_look_at_a_segment_that_was_sealed_since_remembers_nothing_of_its_last_interval(box: MakeBox) -> None:
    b = box()
    b.append(b"x", timestamps=NOW + 100)
    before = b.log.tail
    b.append(b"early", timestamps=NOW)
    b.log.roll(b.now)
    assert before.segments[0].end_for_time(NOW, before.end_position) is None
    assert end_for_time(b, NOW) == 2


def test_a_log_that_is_opened_again_gives_the_same(box: MakeBox) -> None:
    times = [NOW + n for n in range(1_000)]
    b = filled(box, times, segment_bytes=1 << 16)
    before = [end_for_time(b, NOW + n) for n in range(0, 1_000, 50)]
    for _ in range(2):
        b.reopen(KILLED)
        assert [end_for_time(b, NOW + n) for n in range(0, 1_000, 50)] == before


@pytest.mark.damaged
def test_at_a_damaged_header_nothing_is_left_out(box: MakeBox) -> None:
    b = filled(box, [NOW + n for n in range(1_000)], segment_bytes=1 << 16)
    first = b.logs()[0]
    data = bytearray(first.read_bytes())
    data[INTERVAL * 3 :: 64] = bytes(len(data[INTERVAL * 3 :: 64]))
    b.close()
    first.write_bytes(data)
    b.open()
    assert end_for_time(b, NOW) == 1_000


def test_an_empty_log_ends_where_it_starts(box: MakeBox) -> None:
    b = box()
    assert end_for_time(b, NOW) == 0
    assert b.log.reader.has_every_offset(0, 0)


# -- every offset ----------------------------------------------------------------------------------------


def test_a_log_without_gaps_has_every_offset(box: MakeBox) -> None:
    b = six_segments(box)
    for start in range(6):
        for end in range(start, 7):
            assert b.log.reader.has_every_offset(start, end)
    assert not b.log.reader.has_every_offset(0, 7)
    b.log.advance_start(2)
    assert not b.log.reader.has_every_offset(1, 6)
    assert b.log.reader.has_every_offset(2, 6)


def test_a_log_with_transactions_may_have_markers_among_its_records(box: MakeBox) -> None:
    b = box()
    t = Transactional(b)
    t.send(b"x")
    assert not b.log.reader.has_every_offset(0, 1)


def test_a_compacted_log_has_not(box: MakeBox) -> None:
    b = six_segments(box, cleanup_policy="compact")
    b.log.roll(b.now)
    b.partition.maintenance.compact(b.now)
    assert not b.log.reader.has_every_offset(0, 6)


# -- of a segment ----------------------------------------------------------------------------------------


def test_a_segment_without_so_early_a_record_has_no_end(box: MakeBox) -> None:
    b = filled(box, [NOW + n for n in range(1_000)])
    (segment,) = b.log.tail.segments
    end = b.log.tail.end_position
    assert segment.end_for_time(NOW - 1, end) is None
    assert segment.end_for_time(NOW, end) is not None


def test_what_is_known_of_an_index_is_forgotten_when_it_is_cut(box: MakeBox) -> None:
    b = filled(box, [NOW + 100] * 500 + [NOW] * 500)
    (segment,) = b.log.tail.segments
    assert segment.end_for_time(NOW, b.log.tail.end_position) is not None
    cut = segment.index.positions[len(segment.index.positions) // 4]
    segment.index.truncate(cut)
    assert segment.end_for_time(NOW, cut) is None
    assert segment.end_for_time(NOW + 100, cut) is not None
