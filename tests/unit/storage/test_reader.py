"""Reading a log: whole batches from an offset on, the first record of a time, and where to continue after damage."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlog.errors import (
    CorruptRecordError,
    OffsetOutOfRangeError,
    StorageError,
)
from streamlog.records.batch import (
    CONTROL,
    LOG_APPEND_TIME,
    read_header,
)
from streamlog.storage import segment as segments
from streamlog.storage.index import INTERVAL
from streamlog.storage.log import EMPTY

from .conftest import CLEAN, KILLED, NOW, SEED, Box, six_segments
from .counting_disk import segments_on_counting_disk

MakeBox = Callable[..., Box]


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


@pytest.mark.parametrize(("count", "size"), [(400, 60), (40, 16_000), (100, 4_000), (60, 25_000)])
def test_a_fetch_at_random_reads_little_more_than_what_it_brings(
    box: MakeBox, monkeypatch: pytest.MonkeyPatch, count: int, size: int
) -> None:
    b = box()
    for _ in range(count):
        b.append(b"x" * size)
    length = b.log.tail.end_position // count
    reads: list[int] = []
    read = segments.Segment.read
    monkeypatch.setattr(segments.Segment, "read", lambda self, n, at: reads.append(n) or read(self, n, at))
    for offset in range(count):
        reads.clear()
        chunk = b.log.reader.fetch(offset, 4096, count)
        assert chunk.position == offset * length
        assert len(chunk.data) == min(max(1, 4096 // length), count - offset) * length
        assert len(reads) == (1 if length < 20_000 else 2)
        assert sum(reads) <= max(length, 8192) + (20_480 if length > 20_000 else INTERVAL)


def test_a_fetch_brings_as_many_small_batches_as_its_bound_allows(box: MakeBox) -> None:
    """It brought those of one read, 20 KiB, and a client that read 1 MiB at a time came fifty times for it."""
    b = box()
    for _ in range(400):
        b.append(b"x" * 100)
    size = b.log.tail.end_position // 400
    assert len(b.log.reader.fetch(0, 1 << 20, 400).data) == 400 * size
    assert len(b.log.reader.fetch(7, 300 * size, 400).data) == 300 * size
    assert len(b.log.reader.fetch(390, 300 * size, 400).data) == 10 * size
    assert len(b.log.reader.fetch(7, 2 * size, 400).data) == 2 * size


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


def test_the_place_at_the_end_is_after_the_last_batch_and_of_no_other_offset(box: MakeBox) -> None:
    b = box()
    b.append(b"a", b"b")
    assert [b.log.reader.place_at_end(offset) for offset in (0, 1, 3)] == [EMPTY] * 3
    assert b.log.reader.size_after(EMPTY, 1 << 16) is None
    place = b.log.reader.place_at_end(2)
    assert (place.data, place.position) == (b"", b.log.tail.end_position)
    assert b.log.reader.size_after(place, 1 << 16) == 0
    b.append(b"c", b"d")
    assert b.log.reader.size_after(place, 1 << 16) == b.log.tail.end_position - place.position
    assert b.log.reader.fetch(2, 1 << 16, 4, place)[:5] == b.log.reader.fetch(2, 1 << 16, 4)[:5]
    last = b.log.reader.place_at_end(4)
    b.log.roll(b.now)
    assert b.log.reader.size_after(place, 1 << 16) == last.position - place.position
    assert b.log.reader.size_after(last, 1 << 16) is None
    b.append(b"e")
    assert b.log.reader.fetch(4, 1 << 16, 5, last)[:5] == b.log.reader.fetch(4, 1 << 16, 5)[:5]


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
    for end in {len(flat), len(times[0])}:
        greatest = min(((n, t) for n, t in enumerate(flat[:end])), key=lambda record: (-record[1], record[0]))
        assert b.log.reader.find_max_time(end) == greatest
    for timestamp in range(62):
        expected = next(((n, t) for n, t in enumerate(flat) if t >= timestamp), None)
        assert b.log.reader.find_time(timestamp, len(flat)) == expected
    assert not b.problems()
    b.log.release()


def test_the_greatest_timestamp_is_found_among_records_that_were_not_deleted(box: MakeBox) -> None:
    b = box()
    assert b.log.reader.find_max_time(0) is None
    b.append(b"a", b"b", b"c", timestamps=[90, 20, 30])
    b.append(b"marker", timestamps=99, attributes=CONTROL)
    b.append(b"d", timestamps=30)
    assert b.log.reader.find_max_time(5) == (0, 90)
    b.log.advance_start(1)
    assert b.log.reader.find_max_time(5) == (2, 30)
    b.log.advance_start(3)
    assert b.log.reader.find_max_time(5) == (4, 30)
    assert b.log.reader.find_max_time(4) is None


def test_of_a_batch_that_the_log_begins_in_only_what_is_left_counts(box: MakeBox) -> None:
    b = box()
    b.append(b"a", timestamps=50)
    b.append(b"b", b"c", timestamps=[90, 20])
    b.append(b"d", timestamps=40)
    b.log.roll(b.now)
    b.append(b"e", timestamps=10)
    b.log.advance_start(2)
    assert b.log.reader.find_max_time(5) == (3, 40)


def test_a_segment_whose_index_knows_no_such_time_is_passed_over(box: MakeBox) -> None:
    b = box()
    b.append(b"x", timestamps=10)
    b.log.roll(b.now)
    b.append(b"y", timestamps=5)
    assert b.log.reader.find_time(20, 2) is None


# Up to an offset


@pytest.mark.parametrize("size", [10, 30_000])
def test_a_fetch_ends_at_the_given_offset(box: MakeBox, size: int) -> None:
    b = box()
    for n in range(5):
        b.append(b"%d" % n * size)
    each = len(b.log.reader.fetch(0, 1, 1).data)
    assert len(b.log.reader.fetch(0, 1 << 20, 5).data) == 5 * each
    first = b.log.reader.fetch(0, 1 << 20, 3)
    assert len(first.data) == 3 * each
    one = b.log.reader.fetch(0, 1, 3)
    assert len(b.log.reader.fetch(1, 1 << 20, 3, one).data) == 2 * each
    assert b.log.reader.fetch(3, 1 << 20, 3, first).data == b""
    assert len(b.log.reader.fetch(3, 1 << 20, 5, first).data) == 2 * each


@pytest.mark.damaged
@pytest.mark.parametrize("length", [0, 1 << 29])
def test_damage_before_the_end_is_found_when_the_batch_is_decoded(box: MakeBox, length: int) -> None:
    b = box()
    for n in range(4):
        b.append(b"%d" % n * 10)
    one = b.log.reader.fetch(0, 1, 3)
    with open(b.logs()[0], "r+b") as file:
        file.seek(len(one.data) + 7)
        file.write(length.to_bytes(4, "little"))
    with pytest.raises(CorruptRecordError):
        b.read(1)
    try:
        data = b.log.reader.fetch(1, 1 << 16, 3, one).data
    except CorruptRecordError:
        return
    assert bytes(data[7:11]) == length.to_bytes(4, "little")


# Files that are gone


def test_a_file_that_went_between_two_reads_is_looked_for_again(box: MakeBox) -> None:
    b, values = segments_on_counting_disk(box)
    chunk = b.log.reader.fetch(0, 100, 8)
    assert read_header(chunk.data, 0, SEED, "", 0).next_offset == 1
    for code in (errno.ENOENT, errno.EIO):
        b.log.tail.segments[0].release()
        b.disk.arm(1, OSError(code, "refused"))
        if code == errno.ENOENT:
            again = b.log.reader.fetch(1, 100, 8, chunk)
            assert again.position == len(chunk.data)
            assert values[1] in bytes(again.data)
        else:
            with pytest.raises(StorageError) as caught:
                b.log.reader.fetch(1, 100, 8, chunk)
            assert caught.value.errno == errno.EIO
        assert b.disk.calls


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EIO])
def test_a_time_is_looked_for_again_only_if_a_file_went(box: MakeBox, code: int) -> None:
    b, _ = segments_on_counting_disk(box)
    b.log.tail.segments[0].release()
    b.disk.arm(1, OSError(code, "refused"))
    if code == errno.ENOENT:
        assert b.log.reader.find_time(0, 8) is not None
    else:
        with pytest.raises(StorageError) as caught:
            b.log.reader.find_time(0, 8)
        assert caught.value.errno == errno.EIO


# After damage


@pytest.mark.damaged
@pytest.mark.parametrize("end", [3, 4])
def test_a_fetch_behind_damage_ends_at_the_given_offset(box: MakeBox, end: int) -> None:
    b = box()
    for n in range(4):
        b.append(b"%d" % n * 10)
    size = b.log.tail.end_position // 4
    with open(b.logs()[0], "r+b") as file:
        file.seek(30)  # in the header of the first
        file.write(b"damage")
    data = bytes(b.log.reader.fetch(2, 1 << 16, end).data)
    assert len(data) == (end - 2) * size
    assert b"2" * 10 in data


@pytest.mark.damaged
def test_behind_a_gap_before_an_empty_active_segment_a_reader_goes_on_at_its_start(box: MakeBox) -> None:
    b = box()
    b.append(b"one")
    b.append(b"two")
    b.log.roll(b.now)
    b.close()
    path = b.logs()[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    path.with_suffix(".index").unlink()
    b.open(CLEAN)
    assert [entry.value for entry in b.read(skip=True)] == [b"one"]
    with pytest.raises(CorruptRecordError, match="missing"):
        b.read()
    assert b.log.reader.after_damage(1, 2) == 2
    b.append(b"three")
    assert [entry.value for entry in b.read(skip=True)] == [b"one", b"three"]
    b.log.roll(b.now)
    b.log.durability.sync_sealed(b.log.tail)
    assert b.log.durability.recovery_point == 3


@pytest.mark.damaged
def test_behind_a_damaged_last_batch_of_a_sealed_segment_a_reader_goes_on_in_the_next(box: MakeBox) -> None:
    b = six_segments(box)
    path = b.logs()[1]
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.write_bytes(data)
    assert [entry.offset for entry in b.read(skip=True)] == [0, 2, 3, 4, 5]
    b.reopen(KILLED)
    assert [entry.offset for entry in b.read(skip=True)] == [0, 2, 3, 4, 5]


# A log of many segments


class _Segments(tuple[Any, ...]):
    """Segments that count how many of them are looked at."""

    looked_at = 0

    def __getitem__(self, at: Any) -> Any:
        if not isinstance(at, slice):
            _Segments.looked_at += 1
        return super().__getitem__(at)

    def __iter__(self) -> Any:
        for segment in super().__iter__():
            _Segments.looked_at += 1
            yield segment

    def __contains__(self, segment: object) -> bool:
        return any(each is segment for each in self)


@pytest.mark.parametrize("segments", [10, 200])
def test_a_read_looks_at_the_same_few_segments_whatever_their_number(box: MakeBox, segments: int) -> None:
    b = box(segment_bytes=1024)
    for n in range(segments):
        b.append(b"%600d" % n, timestamps=NOW + n)
    b.log.reader.tail = b.log.tail._replace(segments=_Segments(b.log.tail.segments))
    reader, end = b.log.reader, b.log.tail.end_offset
    assert reader.find_time(NOW + 1, end) == (1, NOW + 1)  # the first one looks at all
    _Segments.looked_at = 0
    for at in (0, segments // 2, segments - 2):
        chunk = reader.fetch(at, 1 << 16, end)
        reader.fetch(at + 1, 1 << 16, end, after=chunk)
        assert reader.find_time(NOW + at, end) == (at, NOW + at)
    assert _Segments.looked_at < 60
