"""The log itself: what was appended is read back, by offset and by time, whatever the segments look like."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlog.errors import OffsetOutOfRangeError, StorageError
from streamlog.records.batch import CONTROL, LOG_APPEND_TIME
from streamlog.storage import segment as segments
from streamlog.storage.log import EMPTY, AppendRequest

from .conftest import CLEAN, KILLED, NOW, SEED, Box

MakeBox = Callable[..., Box]


# Appending and fetching


def test_offsets_count_up_from_zero_across_batches_and_segments(box: MakeBox) -> None:
    b = box(segment_bytes=1024)
    assert [b.append(b"x" * 300, b"y") for _ in range(10)] == [*range(0, 20, 2)]
    assert [entry.offset for entry in b.read()] == [*range(20)]
    assert len(b.logs()) > 3


def test_several_batches_of_one_write_lie_in_one_segment(box: MakeBox) -> None:
    b = box(segment_bytes=1024)
    b.append(b"x")
    write = AppendRequest([b.write(b"y" * 400).batches[0] for _ in range(5)])
    assert b.log.append(write, 0, b.now) == 1
    assert write.base_offset == 1
    assert [path.stem[-2:] for path in b.logs()] == ["00", "01"]
    assert [entry.offset for entry in b.read()] == [*range(6)]


def test_a_fetch_gives_whole_batches_from_the_one_that_holds_the_offset(box: MakeBox) -> None:
    b = box()
    for n in range(4):
        b.append(b"%d" % n, b"x", b"y")
    chunk = b.log.reader.fetch(4, 1, 12)
    assert chunk.position == b.log.tail.end_position // 4
    assert len(chunk.data) == b.log.tail.end_position // 4
    assert len(b.log.reader.fetch(4, 1 << 20, 12).data) == 3 * len(chunk.data)
    assert b.log.reader.fetch(12, 1, 12) is EMPTY


def test_a_fetch_is_at_least_one_batch_and_otherwise_within_its_bound(box: MakeBox) -> None:
    b = box()
    for _ in range(20):
        b.append(b"x" * 1000)
    size = b.log.tail.end_position // 20
    assert len(b.log.reader.fetch(0, 1, 20).data) == size
    assert len(b.log.reader.fetch(0, 3 * size, 20).data) == 3 * size
    assert len(b.log.reader.fetch(0, 3 * size + size - 1, 20).data) == 3 * size


def test_a_reader_that_waited_for_a_lone_record_has_it_without_a_word_to_the_disk(
    box: MakeBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = box()
    b.append(b"a")
    seen = b.log.reader.fetch(0, 1 << 16, 1)
    b.log.append_one(b"k", b"b", b.now, 0, b.now)
    end = b.log.tail.end_offset
    with monkeypatch.context() as patch:
        patch.setattr(segments.Segment, "read", None)
        found = b.log.reader.fetch(1, 1 << 16, end, seen)
    assert found == b.log.reader.fetch(1, 1 << 16, end)._replace(first=None)
    assert b.log.reader.fetch(1, 1 << 16, 1, seen) is EMPTY  # it may not be seen before it is synced
    b.append(b"c")
    assert (
        b.log.reader.fetch(1, 1 << 16, end + 1, seen).data == b.log.reader.fetch(1, 1 << 16, end + 1).data
    )  # it is not alone now
    assert b.log.reader.fetch(2, 1 << 16, end + 1, found).position == found.position + len(found.data)


@pytest.mark.parametrize("offset", [-1, 5, 100])
def test_an_offset_outside_the_log_is_refused_with_the_bounds(box: MakeBox, offset: int) -> None:
    b = box()
    b.append(b"a", b"b", b"c", b"d")
    b.log.advance_start(2)
    with pytest.raises(OffsetOutOfRangeError) as error:
        b.log.reader.fetch(offset, 1, 4)
    assert (error.value.log_start_offset, error.value.log_end_offset) == (2, 4)


def test_a_reader_that_holds_an_old_tail_reads_on_while_the_log_rolls(box: MakeBox) -> None:
    b = box()
    b.append(b"a")
    tail = b.log.tail
    b.log.roll(b.now)
    b.append(b"b")
    assert len(list(tail.segments[0].headers(0, tail.end_position))) == 1


def test_an_empty_segment_is_not_rolled(box: MakeBox) -> None:
    b = box()
    assert not b.log.roll(b.now)
    b.append(b"a")
    assert b.log.roll(b.now)
    assert not b.log.roll(b.now)


def test_a_segment_rolls_at_its_age_and_not_before(box: MakeBox) -> None:
    b = box(segment_ms=1000)
    b.append(b"a")
    b.now += 999
    b.append(b"b")
    assert len(b.logs()) == 1
    b.now += 1
    b.append(b"c")
    assert len(b.logs()) == 2
    b.reopen(KILLED)
    b.now += 999
    b.append(b"d")
    assert len(b.logs()) == 2


def test_a_segment_rolls_at_its_number_of_records(box: MakeBox) -> None:
    b = box(retention_records=16)
    for _ in range(7):
        b.append(b"x")
    assert [int(path.stem) for path in b.logs()] == [0, 2, 4, 6]


def test_more_segments_than_a_process_may_have_mapped_are_read(box: MakeBox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "MAX_MAPPED", 3)
    b = box(segment_bytes=1024)
    for n in range(40):
        b.append(b"%d" % n * 400)
    offsets = [entry.offset for entry in b.read()]
    assert offsets == [*range(40)]
    assert sum(segment._map is not None for segment in b.log.tail.segments) <= 3
    random.Random(1).shuffle(offsets)
    for offset in offsets:
        assert b.read(offset)[0].value == b"%d" % offset * 400


def test_no_descriptor_of_a_sealed_segment_is_kept_open(box: MakeBox) -> None:
    b = box(segment_bytes=1024)
    for n in range(20):
        b.append(b"%d" % n * 400)
    for _ in range(2):
        assert [segment._file for segment in b.log.tail.segments[:-1]] == [None] * (len(b.logs()) - 1)
        b.reopen(KILLED)


def test_batches_far_larger_than_a_walk_reads_at_once_are_found(box: MakeBox) -> None:
    b = box()
    for n in range(4):
        b.append(bytes([n]) * 50_000)
        b.append(b"small")
    assert [len(entry.value or b"") for entry in b.read()] == [50_000, 5] * 4
    b.reopen(KILLED)
    assert b.read(5)[0].value == b"small"


@pytest.mark.damaged
def test_a_file_that_vanished_is_an_error_of_the_disk_and_no_wrong_answer(box: MakeBox) -> None:
    b = box(segment_bytes=1024)
    for _ in range(4):
        b.append(b"x" * 600)
    b.logs()[0].unlink()
    with pytest.raises(StorageError, match=r"00\.log"):
        b.log.reader.fetch(0, 1, 4)


# Times


def test_the_first_record_at_or_after_a_time_is_found_inside_batches(box: MakeBox) -> None:
    b = box()
    b.append(b"a", b"b", b"c", timestamps=[10, 30, 20])
    b.append(b"d", b"e", timestamps=[25, 40])
    assert b.log.reader.find_time(0, 5) == (0, 10)
    assert b.log.reader.find_time(11, 5) == (1, 30)
    assert b.log.reader.find_time(31, 5) == (4, 40)
    assert b.log.reader.find_time(41, 5) is None
    assert b.log.reader.find_time(31, 4) is None
    assert b.log.reader.find_time(31, 3) is None


def test_a_time_is_found_among_records_that_were_not_deleted(box: MakeBox) -> None:
    b = box()
    b.append(b"a", b"b", b"c", timestamps=[10, 20, 30])
    b.log.advance_start(1)
    assert b.log.reader.find_time(0, 3) == (1, 20)
    b.log.advance_start(3)
    assert b.log.reader.find_time(0, 3) is None


def test_under_log_append_time_the_append_counts_and_not_the_sender(box: MakeBox) -> None:
    b = box(message_timestamp_type="LogAppendTime", segment_bytes=1024)
    for n in range(6):
        b.now = NOW + n
        b.append(b"x" * 300, b"y" * 300, timestamps=[5, 99], attributes=LOG_APPEND_TIME)
    assert [entry.timestamp for entry in b.read()] == [NOW + n // 2 for n in range(12)]
    for _ in range(2):
        assert [b.log.reader.find_time(NOW + n, 12) for n in range(7)] == [*((2 * n, NOW + n) for n in range(6)), None]
        assert [info.max_timestamp for info in b.sealed()] == [NOW + n for n in range(5)]
        b.reopen(KILLED)


def test_control_batches_have_no_time(box: MakeBox) -> None:
    b = box()
    b.append(b"marker", timestamps=50, attributes=CONTROL)
    b.append(b"record", timestamps=10)
    assert b.log.reader.find_time(0, 2) == (1, 10)
    assert b.log.reader.find_time(20, 2) is None


times = st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=4), min_size=1, max_size=30)


@given(times=times, reopen=st.sampled_from([None, CLEAN, KILLED]), without_index=st.booleans())
@settings(max_examples=60)
def test_a_time_is_found_as_a_scan_would_find_it(
    tmp_path_factory: pytest.TempPathFactory, times: list[list[int]], reopen: object, without_index: bool
) -> None:
    b = Box(tmp_path_factory.mktemp("times") / "p", segment_bytes=1024)
    flat: list[int] = []
    for batch in times:
        b.append(*[b"x" * 200 for _ in batch], timestamps=batch)
        flat += batch
    if reopen is not None:
        b.reopen(reopen)  # type: ignore[arg-type]
    if without_index:
        b.close()
        for index in b.path.glob("*.index"):
            index.unlink()
        b.open(CLEAN)
    for timestamp in range(62):
        expected = next(((n, t) for n, t in enumerate(flat) if t >= timestamp), None)
        assert b.log.reader.find_time(timestamp, len(flat)) == expected
    assert not b.problems()
    b.log.release()


# Forgetting


def test_delete_records_inside_a_batch_hides_what_is_before_and_keeps_the_file(box: MakeBox) -> None:
    b = box(segment_bytes=1024)
    b.append(b"a", b"b", b"c")
    assert b.partition.delete_records(1) == 1
    assert [entry.offset for entry in b.read()] == [1, 2]
    assert b.partition.delete_records(0) == 1
    b.reopen(KILLED)
    assert [entry.offset for entry in b.read()] == [1, 2]
    assert b.append(b"d") == 3


def test_delete_records_up_to_the_end_leaves_an_empty_log_that_goes_on(box: MakeBox) -> None:
    b = box(segment_bytes=1024)
    for _ in range(5):
        b.append(b"x" * 500)
    assert b.partition.delete_records(5) == 5
    assert b.read() == []
    assert len(b.logs()) == 1
    for crash in (CLEAN, KILLED):
        b.reopen(crash)
        assert (b.log.tail.start_offset, b.log.tail.end_offset) == (5, 5)
    assert b.append(b"next") == 5


@pytest.mark.parametrize("before", [-1, 4])
def test_delete_records_past_the_end_is_refused(box: MakeBox, before: int) -> None:
    b = box()
    b.append(b"a", b"b", b"c")
    with pytest.raises(OffsetOutOfRangeError):
        b.partition.delete_records(before)
    assert b.log.tail.start_offset == 0


def test_a_reader_in_a_segment_that_is_deleted_is_told_the_new_start(box: MakeBox) -> None:
    b = box(segment_bytes=1024)
    for _ in range(5):
        b.append(b"x" * 500)
    with pytest.raises(OffsetOutOfRangeError) as error:
        b.partition.delete_records(3)
        b.log.reader.fetch(1, 1, 5)
    assert error.value.log_start_offset == 3


def test_a_file_that_cannot_be_removed_is_removed_at_the_next_open(
    box: MakeBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = box(segment_bytes=1024)
    for _ in range(5):
        b.append(b"x" * 500)

    def refuse(path: str) -> None:
        raise PermissionError(1, "no", path)

    with monkeypatch.context() as patched:
        patched.setattr(b.disk, "unlink", refuse)
        b.log.discard(b.log.advance_start(3))
    assert len(b.logs()) > len(b.log.tail.segments)
    b.reopen(KILLED)
    assert len(b.logs()) == len(b.log.tail.segments)
    assert [entry.offset for entry in b.read()] == [3, 4]


# Counters


def test_sizes_and_counters_count(box: MakeBox) -> None:
    b = box(segment_bytes=1024)
    for _ in range(5):
        b.append(b"x" * 500)
    assert b.log.tail.size_bytes() == sum(path.stat().st_size for path in b.logs())
    assert b.log.appended_batches == 5
    assert b.log.appended_bytes == b.log.tail.size_bytes()
    b.partition.delete_records(3)
    assert b.log.deleted_segments == 3
    assert b.log.seed == SEED


def test_reading_on_behind_a_chunk_is_what_a_fetch_from_there_gives(box: MakeBox) -> None:
    b = box(segment_bytes=2048)
    for n in range(30):
        b.append(b"%d" % n * 100)
    for bound in (1, 700, 1 << 20):
        offset, chunk = 0, EMPTY
        while offset < 30:
            plain = b.log.reader.fetch(offset, bound, 30)
            chunk = b.log.reader.fetch(offset, bound, 30, chunk)
            assert chunk[:5] == plain[:5]
            offset += _records_in(b, chunk.data)
        assert b.log.reader.fetch(30, bound, 30, chunk) == EMPTY


def _records_in(b: Box, data: bytes) -> int:
    at = count = 0
    while at < len(data):
        count, at = count + 1, at + int.from_bytes(data[at + 7 : at + 11], "little")
    return count


def test_reading_on_behind_a_chunk_whose_records_were_deleted_is_refused(box: MakeBox) -> None:
    b = box()
    for n in range(4):
        b.append(b"%d" % n)
    chunk = b.log.reader.fetch(0, 1, 4)
    b.log.advance_start(3)
    with pytest.raises(OffsetOutOfRangeError):
        b.log.reader.fetch(1, 1, 4, chunk)
