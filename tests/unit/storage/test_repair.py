"""Damage in a segment is found, and filled with the batches that another replica has."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from streamlog.errors import CorruptRecordError, DiskFullError, StorageError
from streamlog.storage import repair, truncation
from streamlog.storage.files import swap_of
from streamlog.storage.repair import Piece, Repaired, Source
from streamlog.storage.segment import Segment
from streamlog.testing import FaultyDisk

from .conftest import KILLED, Box
from .counting_disk import Killed
from .test_append_as_follower import copy

MakeBox = Callable[..., Box]


def pair(box: MakeBox, **config: Any) -> tuple[Box, Box]:
    """A log of three segments, two of them sealed, and one that is the same."""
    first, second = box(segment_bytes=1500, **config), box(segment_bytes=1500, **config)
    for n in range(8):
        if n == 4:
            first.log.leader_epochs.current = None
        first.log.append(first.write(b"%d" % n * 300, b"x", keys=[b"k%d" % (n % 3), b"l"]), n // 3, first.now)
    copy(first, second)
    return first, second


def flip(b: Box, segment: int, *positions: int) -> None:
    file = b.logs()[segment]
    data = bytearray(file.read_bytes())
    for position in positions:
        data[position] ^= 0x10
    file.write_bytes(data)
    b.reopen(KILLED)


def sizes(b: Box, segment: int) -> list[int]:
    """Where the batches of a segment begin, and where the last ends."""
    found = b.log.tail.segments[segment]
    return [*(at for at, _ in found.headers(0, found.size)), found.size]


def bounds(b: Box, number: int) -> tuple[Segment, int]:
    tail = b.log.tail
    return tail.segments[number], tail.bases[number + 1]


def mend(b: Box, number: int, *sources: Source) -> Repaired:
    """Repair a segment from these."""
    segment, end_offset = bounds(b, number)
    start = segment.base_offset if number else min(segment.base_offset, b.log.tail.start_offset)
    publish = b.partition.maintenance._publish
    run = repair.rewrite(b.log, segment, start, end_offset, lambda piece: list(sources), publish)
    while True:
        try:
            next(run)
        except StopIteration as end:
            done: Repaired = end.value
            return done


def of(b: Box, *, gaps: bool = False) -> Source:
    return Source(b.log.reader, b.log.tail.end_offset, gaps)


def damaged(b: Box, number: int) -> list[tuple[int, int]]:
    return [(piece.start, piece.end) for piece in repair.pieces(*bounds(b, number)) if piece.data is None]


def contents(b: Box) -> bytes:
    return b"".join(path.read_bytes() for path in b.logs())


@pytest.mark.damaged
@pytest.mark.parametrize("batches", [[0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]])
@pytest.mark.parametrize("at", [3, 200], ids=["header", "payload"])
def test_damaged_batches_are_filled_with_those_of_another_replica(box: MakeBox, batches: list[int], at: int) -> None:
    b, other = pair(box)
    places = sizes(b, 0)
    flip(b, 0, *(places[each] + at for each in batches))
    assert damaged(b, 0)
    done = mend(b, 0, of(other))
    assert (done.damaged, done.filled, done.batches) == (done.filled, done.filled, len(batches))
    assert contents(b) == contents(other)
    assert not damaged(b, 0)
    assert b.read() == other.read()
    b.reopen()
    assert b.read() == other.read()
    assert not b.problems()


@pytest.mark.damaged
def test_a_segment_that_was_cut_short_or_is_missing_is_filled(box: MakeBox) -> None:
    b, other = pair(box)
    files = b.logs()
    files[0].write_bytes(files[0].read_bytes()[: sizes(b, 0)[1] + 40])
    b.reopen(KILLED)
    assert mend(b, 0, of(other)).filled == 1
    assert contents(b) == contents(other)
    b.log.release()
    b.logs()[1].unlink()
    b.open(KILLED)
    done = mend(b, 0, of(other))
    assert done.filled == 1
    assert contents(b) == contents(other)
    assert b.read() == other.read()


@pytest.mark.damaged
@pytest.mark.parametrize("whole", [True, False])
def test_a_first_segment_that_is_missing_is_filled(box: MakeBox, whole: bool) -> None:
    b, other = pair(box)
    b.log.release()
    b.logs()[0].unlink()
    b.open(KILLED)
    with pytest.raises(CorruptRecordError):
        b.read()
    end = b.log.tail.bases[0]
    assert mend(b, 0, Source(other.log.reader, end if whole else end - 1, False)).filled == whole
    if whole:
        assert contents(b) == contents(other)
        assert b.read() == other.read()
        b.reopen(KILLED)
        assert b.read() == other.read()


@pytest.mark.damaged
def test_bytes_between_two_batches_are_left_out(box: MakeBox) -> None:
    b, other = pair(box)
    place, file = sizes(b, 0)[1], b.logs()[0]
    data = file.read_bytes()
    file.write_bytes(data[:place] + b"garbage" + data[place:])
    b.reopen(KILLED)
    assert mend(b, 0) == (1, 1, 0)
    assert contents(b) == contents(other)


@pytest.mark.damaged
def test_what_no_replica_has_stays_damaged(box: MakeBox) -> None:
    b, other = pair(box)
    places = sizes(b, 0)
    flip(b, 0, places[0] + 200, places[1] + 3)
    flip(other, 0, places[1] + 200)
    before = contents(b)
    assert mend(b, 0) == (2, 0, 0)
    assert contents(b) == before
    assert mend(b, 0, Source(other.log.reader, 1, False)) == (2, 0, 0), "it is not known to have them"
    done = mend(b, 0, of(other))
    assert (done.damaged, done.filled) == (2, 1)
    with pytest.raises(CorruptRecordError):
        b.read()
    assert len(damaged(b, 0)) == 1
    assert b.read(skip=True) == other.read(skip=True)
    b.reopen(KILLED)
    assert len(damaged(b, 0)) == 1


@pytest.mark.damaged
def test_one_replica_goes_on_where_another_is_damaged_too(box: MakeBox) -> None:
    b, other = pair(box)
    third = box(segment_bytes=9000)
    copy(other, third)
    places = sizes(b, 0)
    flip(b, 0, places[0] + 3, places[1] + 3)
    flip(other, 0, places[1] + 200)
    flip(third, 0, places[0] + 3)
    done = mend(b, 0, of(other), of(third))
    assert (done.damaged, done.filled, done.batches) == (1, 1, 2)
    assert b.read() == third.read(2) if False else not damaged(b, 0)


@pytest.mark.damaged
def test_batches_of_another_history_are_not_taken(box: MakeBox) -> None:
    b, _ = pair(box)
    other = box(segment_bytes=1500)
    for _ in range(8):
        other.log.append(other.write(b"other" * 60, b"x"), 9, other.now)
    places = sizes(b, 0)
    flip(b, 0, places[0] + 200)
    assert mend(b, 0, of(other)) == (1, 0, 0)
    flip(b, 0, places[0] + 3)
    assert mend(b, 0, of(other)) == (1, 0, 0)
    shifted = box(segment_bytes=1500)
    shifted.log.append(shifted.write(b"a", b"b", b"c"), 0, shifted.now)
    shifted.log.append(shifted.write(b"a", b"b", b"c"), 0, shifted.now)
    assert mend(b, 0, of(shifted)) == (1, 0, 0)


@pytest.mark.damaged
def test_a_replica_that_was_compacted_fills_what_it_has_left(box: MakeBox) -> None:
    b, other = pair(box, cleanup_policy="compact", min_cleanable_dirty_ratio=0.0)
    other.partition.maintenance.compact(other.now)
    places = sizes(b, 0)
    flip(b, 0, *(place + 3 for place in places[:-1]))
    assert mend(b, 0, of(other)) == (1, 0, 0), "without gaps it would have to have all"
    done = mend(b, 0, of(other, gaps=True))
    assert (done.damaged, done.filled) == (1, 1)
    assert b.log.cleaned_until == 1
    assert b.table() == other.table()
    assert not damaged(b, 0)
    b.reopen()
    assert not b.problems()


@pytest.mark.damaged
def test_what_was_deleted_is_neither_repaired_nor_asked_for(box: MakeBox) -> None:
    b, other = pair(box)
    places = sizes(b, 0)
    b.partition.delete_records(3)
    other.partition.delete_records(3)
    flip(b, 0, places[0] + 200)
    assert mend(b, 0, of(other)) == (0, 0, 0)
    flip(b, 0, places[1] + 3)
    done = mend(b, 0, of(other))
    assert (done.damaged, done.filled) == (1, 1)
    assert b.read(3) == other.read(3)


@pytest.mark.damaged
@pytest.mark.parametrize("op", ["create", "pwrite", "sync", "rename", "listdir"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_does_not_take_it_leaves_the_log_as_it_was(box: MakeBox, op: str, error: int) -> None:
    b, other = pair(box)
    flip(b, 0, sizes(b, 0)[0] + 200)
    disk = FaultyDisk(b.disk)
    b.disk = disk
    b.reopen(KILLED)
    disk.fail(op, error, path="*")
    with pytest.raises((StorageError, DiskFullError)):
        mend(b, 0, of(other))
    disk.heal()
    assert damaged(b, 0)
    assert mend(b, 0, of(other)).filled == 1
    assert b.read() == other.read()


@pytest.mark.damaged
def test_killed_at_any_call_of_the_disk_it_is_as_before_or_repaired(box: MakeBox, tmp_path: Path) -> None:
    step = 1
    while True:
        b, other = pair(box)
        flip(b, 0, sizes(b, 0)[0] + 200, sizes(b, 0)[1] + 3)
        disk = FaultyDisk(b.disk)
        b.disk = disk
        b.reopen(KILLED)
        fault = disk.fail("write", Killed(), nth=step, times=None)
        with suppress(Killed):
            mend(b, 0, of(other))
        disk.heal()
        b.reopen(KILLED)
        assert b.read(skip=True) in (other.read(), other.read()[4:])
        assert not any(swap_of(name) for name in b.names())
        if damaged(b, 0):
            assert mend(b, 0, of(other)).filled
        assert b.read() == other.read()
        if not fault.fired:
            break
        step += 1
    assert step > 5


def test_pieces_of_a_whole_segment_are_its_batches(box: MakeBox) -> None:
    b, _ = pair(box)
    found = list(repair.pieces(*bounds(b, 0)))
    assert all(isinstance(piece, Piece) and piece.data for piece in found)
    assert found[-1].end == b.log.tail.bases[1]
    assert b"".join(piece.data or b"" for piece in found) == b.logs()[0].read_bytes()


@pytest.mark.damaged
@pytest.mark.parametrize("first", [0, 1])
def test_a_segment_whose_last_batch_was_compacted_elsewhere_still_ends_where_the_next_begins(
    box: MakeBox, first: int
) -> None:
    b, _ = pair(box, cleanup_policy="compact", min_cleanable_dirty_ratio=0.0)
    other = box(segment_bytes=1 << 16, cleanup_policy="compact", min_cleanable_dirty_ratio=0.0)
    copy(b, other)
    other.log.append(other.write(b"1", b"2", b"3", b"4", keys=[b"k0", b"k1", b"k2", b"l"]), 2, other.now)
    other.log.roll(other.now)
    other.partition.maintenance.compact(other.now)
    flip(b, 0, *(place + 3 for place in sizes(b, 0)[first:-1]))
    end = b.log.tail.bases[1]
    with pytest.raises(CorruptRecordError, match="gap"):
        list(repair.batches(of(other), 0, 2))
    assert mend(b, 0, of(other, gaps=True)) == (1, 1, 0)
    assert b.log.tail.segments[0].stats.next_offset == end
    assert b.read(2)[0].offset >= end
    b.reopen(KILLED)
    assert not b.problems()


@pytest.mark.damaged
def test_a_replica_without_the_batches_that_are_missing_does_not_fill(box: MakeBox) -> None:
    b, other = pair(box)
    empty = box()
    flip(b, 0, sizes(b, 0)[0] + 3)
    assert mend(b, 0, Source(empty.log.reader, 100, False)) == (1, 0, 0)
    with pytest.raises(CorruptRecordError, match="not those"):
        list(repair.batches(of(other), 0, 1))
    assert mend(b, 0, of(other)).filled == 1


@pytest.mark.damaged
@pytest.mark.parametrize("segments", [1, 3])
def test_a_follower_discards_a_damaged_end_and_has_it_again(box: MakeBox, segments: int) -> None:
    b, other = pair(box)
    assert truncation.discard_damaged_end(b.log) == b.log.tail.end_offset, "nothing is damaged"
    last = b.logs()[-1]
    data = last.read_bytes()
    last.write_bytes(data[: data.rindex(b"SLB")] + b"X" + data[data.rindex(b"SLB") + 1 :])
    if segments == 1:
        b.log.durability.sync_end(b.log.tail)
    b.reopen(KILLED)
    assert b.log.refusals.damage is not None
    end = truncation.discard_damaged_end(b.log)
    assert end == other.log.tail.end_offset - 2
    assert b.log.refusals.damage is None
    b.reopen(KILLED)
    assert b.log.tail.end_offset == end
    copy(other, b)
    assert b.read() == other.read()
    b.reopen(KILLED)
    assert contents(b) == contents(other)


@pytest.mark.damaged
def test_a_disk_that_fails_while_a_damaged_end_is_discarded_is_tried_again(box: MakeBox) -> None:
    b, other = pair(box)
    last = b.logs()[-1]
    data = last.read_bytes()
    last.write_bytes(data[: data.rindex(b"SLB")] + b"X" + data[data.rindex(b"SLB") + 1 :])
    disk = FaultyDisk(b.disk)
    b.disk = disk
    b.reopen(KILLED)
    disk.fail("rename", errno.EIO, path="*.cleaned")
    with pytest.raises(StorageError):
        truncation.discard_damaged_end(b.log)
    assert b.log.refusals.unfinished is not None
    assert truncation.discard_damaged_end(b.log) == other.log.tail.end_offset - 2
    copy(other, b)
    assert b.read() == other.read()


@pytest.mark.damaged
def test_a_repaired_log_knows_its_producers_and_its_epochs(box: MakeBox) -> None:
    b, other = pair(box)
    flip(b, 0, sizes(b, 0)[0] + 3)
    b.log.leader_epochs.assigned = 7
    mend(b, 0, of(other))
    b.log.leader_epochs.repaired()
    assert b.log.epoch_end_offset(7) == (7, b.log.tail.end_offset)
    assert b.log.epoch_end_offset(0) == other.log.epoch_end_offset(0)
