"""The log itself: what was appended is read back, by offset and by time, whatever the segments look like."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from typing import Any

import pytest

from streamlog.errors import OffsetOutOfRangeError, StorageError
from streamlog.records import columns
from streamlog.storage import segment as segments
from streamlog.storage.log import AppendRequest
from streamlog.storage.reader import LogReader

from .conftest import CLEAN, KILLED, SEED, Box
from .counting_disk import Killed, armed, segments_on_counting_disk
from .reopening import flip

MakeBox = Callable[..., Box]


# Appending


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
    monkeypatch.setattr(segments.mappings, "limit", 3)
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
        assert not any(segment._opened for segment in b.log.tail.segments[:-1])
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


# Deleting


def test_delete_records_inside_a_batch_hides_what_is_before_and_keeps_the_file(box: MakeBox) -> None:
    b = box(segment_bytes=1024)
    b.append(b"a", b"b", b"c")
    assert b.partition.delete_records(1).result() == 1
    assert [entry.offset for entry in b.read()] == [1, 2]
    assert b.partition.delete_records(0).result() == 1
    b.reopen(KILLED)
    assert [entry.offset for entry in b.read()] == [1, 2]
    assert b.append(b"d") == 3


def test_delete_records_up_to_the_end_leaves_an_empty_log_that_goes_on(box: MakeBox) -> None:
    b = box(segment_bytes=1024)
    for _ in range(5):
        b.append(b"x" * 500)
    assert b.partition.delete_records(5).result() == 5
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


def test_the_error_of_a_reader_in_a_deleted_segment_names_the_new_start(box: MakeBox) -> None:
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


def test_the_log_start_does_not_go_back(box: MakeBox) -> None:
    b = box(segment_bytes=1024)
    for _ in range(5):
        b.append(b"x" * 500)
    b.log.discard(b.log.advance_start(3))
    assert b.log.advance_start(2) == []
    assert b.log.tail.start_offset == 3
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


def test_the_size_of_a_log_is_that_of_its_files(box: MakeBox) -> None:
    b, _ = segments_on_counting_disk(box)
    assert b.log.tail.size_bytes() == sum(file.stat().st_size for file in b.logs())


def test_a_batch_without_records_takes_offsets_and_counts_for_nothing_else(box: MakeBox) -> None:
    b = box()
    b.append(b"one", timestamps=5)
    before = b.log.tail
    empty = columns.seal(SEED, None, None, -1, count=0, last_offset_delta=3)
    assert b.log.append(AppendRequest([empty]), 0, b.now) == 1
    after = b.log.tail
    assert after.end_offset == 5
    assert (after.records, after.min_timestamp, after.max_timestamp) == (1, 5, 5)
    assert after.end_position > before.end_position
    assert b.append(b"two") == 5
    assert b.values() == [b"one", b"two"]


class Late(LogReader):
    """Interrupts the log as soon as it has published something."""

    __slots__ = ()

    @property
    def tail(self) -> Any:
        return LogReader.tail.__get__(self)  # type: ignore[attr-defined]

    @tail.setter
    def tail(self, tail: Any) -> None:
        LogReader.tail.__set__(self, tail)  # type: ignore[attr-defined]
        raise KeyboardInterrupt


def rolled_late(b: Box) -> None:
    b.log.reader.__class__ = Late
    with pytest.raises(KeyboardInterrupt):
        b.log.roll(b.now)
    b.log.reader.__class__ = LogReader


def test_a_roll_that_is_interrupted_right_after_it_was_published_stays(box: MakeBox) -> None:
    b = box()
    b.append(b"one")
    rolled_late(b)
    assert len(b.logs()) == len(b.log.tail.segments) == 2
    assert b.append(b"two") == 1
    assert b.values() == [b"one", b"two"]
    b.reopen(KILLED)
    assert b.values() == [b"one", b"two"]


@pytest.mark.damaged
def test_behind_damage_in_a_segment_that_was_not_sealed_yet_a_reader_goes_on_in_the_empty_one(box: MakeBox) -> None:
    b = box()
    b.append(b"one")
    at = b.log.tail.end_position
    b.append(b"two")
    rolled_late(b)
    flip(b.logs()[0], at)
    assert not b.log.tail.segments[0].sealed
    assert b.log.reader.after_damage(1, 9) == 2, "where the next record will be, not where the reader would stop"
    assert b.append(b"three") == 2
    assert b.values(skip=True) == [b"one", b"three"]


# An append, a roll or a close that is interrupted


def interrupted(make: MakeBox, **config: Any) -> Box:
    """A log with one record, and half of a batch after it."""
    b, disk = armed(make, **config)
    b.append(b"one")
    disk.arm(1, KeyboardInterrupt(), half=True)
    with pytest.raises(KeyboardInterrupt):
        b.append(b"two" * 50)
    disk.error = None
    assert b.logs()[0].stat().st_size > b.log.tail.end_position
    return b


@pytest.mark.parametrize(
    "act",
    [
        lambda b: b.append(b"next"),
        lambda b: b.log.roll(b.now),
        lambda b: b.log.advance_start(1),
        lambda b: b.log.close(),
        lambda b: b.partition.settle(b.write()),
        lambda b: b.partition.delete_records(1),
    ],
    ids=["append", "roll", "advance_start", "close", "settle another", "delete_records"],
)
def test_whatever_comes_next_cuts_a_half_write_off(box: MakeBox, act: Callable[[Box], object]) -> None:
    b = interrupted(box)
    act(b)
    b.log.release()
    b.open(KILLED)
    assert [entry.value for entry in b.read(b.log.tail.start_offset)] in ([b"one"], [b"one", b"next"], [])
    assert not [finding for finding in b.check(KILLED).findings if finding.kind != "torn"]
    b.append(b"after")
    assert b.values()[-1] == b"after"


def test_a_half_write_that_cannot_be_cut_off_is_an_error_until_it_can(box: MakeBox) -> None:
    b = interrupted(box)
    disk = b.disk
    disk.arm(1, OSError(errno.EIO, "injected"), once=False)
    for _ in range(2):
        with pytest.raises(StorageError, match="Could not truncate"):
            b.append(b"next")
    disk.error = None
    assert b.append(b"next") == 1
    assert b.values() == [b"one", b"next"]


def test_killed_between_any_two_calls_of_a_close_nothing_is_lost(box: MakeBox) -> None:
    nth = 1
    while True:
        b, disk = armed(box, segment_bytes=1024)
        for n in range(4):
            b.append(b"%d" % n * 600)
        expected = b.values()
        disk.arm(nth, Killed(), half=True)
        try:
            b.log.close()
            ended = True
        except Killed:
            ended = False
        disk.error = None
        b.log.release()
        b.open(CLEAN if ended else KILLED)
        assert b.values() == expected
        if ended:
            break
        nth += 1
    assert nth > 10


def test_a_file_that_an_interrupted_roll_left_is_no_obstacle_to_the_next(box: MakeBox) -> None:
    b = box()
    b.append(b"one")
    (b.path / f"{1:020d}.log").touch()
    assert b.log.roll(b.now)
    b.append(b"two")
    assert b.values() == [b"one", b"two"]


def test_a_roll_that_is_interrupted_in_a_call_leaves_nothing(box: MakeBox) -> None:
    for nth in range(1, 4):
        b, disk = armed(box)
        b.append(b"one")
        disk.arm(nth, KeyboardInterrupt())
        try:
            b.log.roll(b.now)
        except KeyboardInterrupt:
            assert len(b.logs()) == len(b.log.tail.segments)
        disk.error = None
        b.append(b"two")
        assert b.values() == [b"one", b"two"]
