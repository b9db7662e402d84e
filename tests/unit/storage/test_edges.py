"""Corners: what happens between two calls, to files that change under the log, and to a write nobody settled."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from streamlog.errors import CorruptRecordError, StorageError, StreamlogError
from streamlog.records.batch import CONTROL
from streamlog.runtime.disk import OsDisk
from streamlog.storage import compaction, files, scan
from streamlog.storage.checkpoint import State, slots
from streamlog.storage.scan import next_batch

from .conftest import CLEAN, KILLED, Box
from .faulty import Killed
from .test_failures import armed, calls_of

MakeBox = Callable[..., Box]


def segmented(make: MakeBox, **config: Any) -> Box:
    b = make(segment_bytes=1024, **config)
    for n in range(6):
        b.append(b"%d" % n * 600, keys=[b"k%d" % (n % 2)])
    return b


# A write that was interrupted and never settled


def interrupted(make: MakeBox, **config: Any) -> Box:
    """A log with one record, and half of a batch behind it."""
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


# Files that change under the log


@pytest.mark.damaged
def test_an_index_that_vanishes_after_the_open_is_made_from_the_segment(box: MakeBox) -> None:
    b = segmented(box)
    b.reopen(CLEAN)
    for index in b.path.glob("*.index"):
        index.unlink()
    assert [entry.offset for entry in b.read()] == [*range(6)]


@pytest.mark.damaged
def test_a_segment_that_is_cut_after_the_open_is_damage(box: MakeBox) -> None:
    b = segmented(box)
    b.reopen(CLEAN)
    path = b.logs()[0]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CorruptRecordError, match="shorter"):
        b.read()


@pytest.mark.damaged
def test_a_disk_that_cannot_read_is_an_error_with_the_files_name(box: MakeBox) -> None:
    b, disk = armed(box)
    b.append(b"x")
    disk.arm(1, OSError(errno.EIO, "injected"))
    with pytest.raises(StorageError, match=r"\.log"):
        b.read()


@pytest.mark.parametrize("grows", [False, True], ids=["the new file is smaller", "the new file is larger"])
def test_a_reader_that_opens_a_path_while_compaction_takes_it_over_reads_the_old_segment(
    box: MakeBox, grows: bool
) -> None:
    b = segmented(box, cleanup_policy="compact")
    b.append(b"x" * 600, keys=[b"another"])
    b.append(b"x" * 600, keys=[b"yet another"])
    b.config = replace(b.config, segment_bytes=1 << 20 if grows else 1024)
    b.reopen(CLEAN)
    old = b.log.tail.segments[:-1]
    whole = [segment.size for segment in old]
    before = b.logs()[0].read_bytes()
    real = b.disk

    class Meanwhile(OsDisk):
        """Compaction runs between a reader's look at the segment and its open."""

        ran = False

        def open(self, path: str, **options: Any) -> Any:
            if not self.ran:
                self.ran = True
                b.log.disk = real
                b.partition.maintenance.compact(b.now)
            return real.open(path, **options)

    meanwhile = Meanwhile()
    old[0].disk = meanwhile
    assert old[0].read(1 << 20, 0) == before
    old[0].disk = real
    for segment, size in zip(old, whole, strict=True):
        assert len(segment.read(1 << 20, 0)) == size
    assert b.log.tail.segments[0] is not old[0]


def test_a_reader_whose_path_is_gone_for_a_moment_reads_the_old_segment(box: MakeBox) -> None:
    b = segmented(box, cleanup_policy="compact")
    b.reopen(CLEAN)
    old = b.log.tail.segments[1]
    real = b.disk

    class Gone(OsDisk):
        def open(self, path: str, **options: Any) -> Any:
            old.disk = real
            b.partition.maintenance.compact(b.now)
            raise FileNotFoundError(errno.ENOENT, "gone", path)

    old.disk = Gone()
    assert len(old.read(1 << 20, 0)) == old.size


def test_the_last_file_of_a_segment_that_retention_removed_needs_no_sync(box: MakeBox) -> None:
    b = segmented(box)
    b.logs()[0].unlink()
    b.log.durability.sync_files(0, b.log.tail)
    b.log.advance_start(1)


# Damage


@pytest.mark.damaged
@pytest.mark.parametrize("search", [1500, 2000, 1 << 18])
@pytest.mark.parametrize("size", [10, 1200, 1500, 2990, 100_000])
def test_behind_damage_of_any_size_the_next_batch_is_found(
    box: MakeBox, monkeypatch: pytest.MonkeyPatch, search: int, size: int
) -> None:
    monkeypatch.setattr(scan, "_SEARCH_BYTES", search)
    b = box()
    b.append(b"one")
    at = b.log.tail.end_position
    b.append(b"SLB\x01" * (size // 4))
    b.append(b"three")
    path = b.logs()[0]
    data = bytearray(path.read_bytes())
    data[at + 30] ^= 1
    path.write_bytes(data)
    b.reopen(KILLED)
    assert b.values(skip=True) == [b"one", b"three"]


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
    b = segmented(box)
    path = b.logs()[1]
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.write_bytes(data)
    assert [entry.offset for entry in b.read(skip=True)] == [0, 2, 3, 4, 5]
    b.reopen(KILLED)
    assert [entry.offset for entry in b.read(skip=True)] == [0, 2, 3, 4, 5]


@pytest.mark.damaged
def test_closing_a_log_whose_end_is_unknown_vouches_for_nothing(box: MakeBox) -> None:
    b = box()
    b.append(b"one")
    b.append(b"two")
    at = b.log.tail.end_position // 2
    b.reopen(CLEAN)
    assert b.log.durability.recovery_point == 2
    b.append(b"three")
    b.log.release()
    path = b.logs()[0]
    data = bytearray(path.read_bytes())
    data[at + 30 :] = b"\xff" * (len(data) - at - 30)
    path.write_bytes(data)
    b.open(KILLED)
    b.close()
    b.open(KILLED)  # the broker does not close a directory as clean while a log of it does not know its end
    with pytest.raises(CorruptRecordError):
        b.append(b"never at offset 2 again")
    assert b.values(skip=True) == [b"one"]


def test_a_batch_that_ends_behind_what_may_be_read_is_cut_short(box: MakeBox) -> None:
    b = box()
    b.append(b"x" * 500)
    segment = b.log.tail.segments[0]
    with pytest.raises(CorruptRecordError, match="cut short"):
        segment.read_batches(0, 300, 1)
    with pytest.raises(CorruptRecordError, match="cut short"):
        list(segment.headers(0, 300))
    assert segment.read_batches(0, 50, 1000) == b.logs()[0].read_bytes()[:50]


def test_a_search_in_a_file_that_is_shorter_than_expected_ends(box: MakeBox) -> None:
    b = box()
    b.append(b"x")
    assert next_batch(b.log.tail.segments[0], 1, 1 << 40) is None


# Opening on a bad disk


def test_failing_at_any_call_of_an_open_is_a_typed_error_and_the_next_open_is_right(box: MakeBox) -> None:
    def ready() -> tuple[Box, Any]:
        b, disk = armed(box, segment_bytes=1024)
        for n in range(5):
            b.append(b"%d" % n * 600)
        b.log.advance_start(2)
        for path in b.logs()[3:4]:
            path.with_suffix(".index").write_bytes(b"bad")
        (b.path / f"{0:020d}.cleaned").touch()
        (b.path / f"{50:020d}.index").touch()
        b.log.release()
        last = b.logs()[-1]
        last.write_bytes(last.read_bytes() + b"SLB\x01torn")
        return b, disk

    b, disk = ready()
    count = calls_of(disk, lambda: b.open(KILLED))
    assert count > 15
    for nth in range(1, count + 1):
        b, disk = ready()
        disk.arm(nth, OSError(errno.EIO, "injected"), half=True)
        with contextlib.suppress(StreamlogError):
            b.open(KILLED)
        disk.error = None
        b.open(KILLED)
        assert [entry.offset for entry in b.read()] == [2, 3, 4]
        b.append(b"next")


def test_failing_at_any_call_of_the_creation_is_a_typed_error_and_the_next_one_is_right(
    box: MakeBox, tmp_path: Path
) -> None:
    b, disk = armed(box)
    for nth in range(1, 12):
        b.log.release()
        b.path = tmp_path / f"new{nth}"
        disk.arm(nth, OSError(errno.ENOSPC, "injected"), half=True)
        with contextlib.suppress(StreamlogError):
            b.open(CLEAN)
        disk.error = None
        b.open(KILLED)
        assert b.append(b"first") == 0
        b.reopen(KILLED)
        assert b.values() == [b"first"]


# Compaction


def test_control_batches_are_never_compacted(box: MakeBox) -> None:
    b = box(cleanup_policy="compact")
    b.append(b"marker", keys=[b"a"], attributes=CONTROL)
    b.append(b"1", keys=[b"a"])
    b.append(b"2", keys=[b"a"])
    b.log.roll(b.now)
    b.partition.maintenance.compact(b.now)
    assert b.values() == [b"marker", b"2"]


def test_a_large_segment_is_written_piece_by_piece(box: MakeBox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "_WRITE_BYTES", 100)
    b = segmented(box, cleanup_policy="compact")
    b.log.roll(b.now)
    table = b.table()
    b.partition.maintenance.compact(b.now)
    assert b.table() == table


def test_interrupted_right_after_the_rename_the_result_is_published(box: MakeBox) -> None:
    b = segmented(box, cleanup_policy="compact")
    b.log.roll(b.now)
    table = b.table()

    class Interrupting(OsDisk):
        def rename(self, source: str, target: str) -> None:
            super().rename(source, target)
            if target.endswith(".swap"):
                raise KeyboardInterrupt

    b.log.disk = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        b.partition.maintenance.compact(b.now)
    b.log.disk = b.disk
    assert b.table() == table
    assert len(b.log.tail.segments) == 7, "the first group was one segment without a record left"
    b.append(b"new", keys=[b"k0"])
    b.log.roll(b.now)
    b.partition.maintenance.compact(b.now)
    table[b"k0"] = b"new"
    assert b.table() == table
    b.reopen(KILLED)
    assert b.table() == table


def test_a_rename_that_cannot_be_looked_at_is_settled_before_the_next_pass(box: MakeBox) -> None:
    b = segmented(box, cleanup_policy="compact")
    b.log.roll(b.now)
    table = b.table()

    class Unsure(OsDisk):
        renames = 0

        def rename(self, source: str, target: str) -> None:
            super().rename(source, target)
            if target.endswith(".swap"):
                self.renames += 1
                raise OSError(errno.EIO, "told nothing of the rename")

        def exists(self, path: str) -> bool:
            if path.endswith(".swap") and self.renames:
                raise OSError(errno.EIO, "cannot be looked at")
            return super().exists(path)

    b.log.disk = Unsure()
    for _ in range(2):
        with pytest.raises(StorageError):
            b.partition.maintenance.compact(b.now)
        assert b.log.disk.renames == 1, "nothing more is done until it is known"
        with pytest.raises(StorageError):
            b.partition.delete_records(b.log.tail.segments[1].base_offset)
    b.log.disk = b.disk
    assert b.table() == table
    b.partition.maintenance.compact(b.now)
    assert b.table() == table
    b.reopen(KILLED)
    assert b.table() == table


def test_finishing_a_replacement_again_does_nothing(box: MakeBox) -> None:
    b = segmented(box)
    before = b.names()
    files.finish_swap(b.disk, str(b.path), 0, 3, b.names())
    assert b.names() == before
    assert list(compaction._groups([], 100)) == []


# Lookups and states on their own


def test_a_segment_whose_index_knows_no_such_time_is_passed_over(box: MakeBox) -> None:
    b = box()
    b.append(b"x", timestamps=10)
    b.log.roll(b.now)
    b.append(b"y", timestamps=5)
    assert b.log.reader.find_time(20, 2) is None


def test_a_directory_without_anything_is_whole(tmp_path: Path, box: MakeBox) -> None:
    b = box()
    b.log.release()
    for path in b.path.iterdir():
        path.unlink()
    assert b.check(KILLED) == (0, 0, 0, 0, ())
    b.open(CLEAN)


def test_a_slot_that_is_cut_is_damaged_and_one_of_zeros_was_never_written() -> None:
    assert slots(b"", bytes(16), 0) == (0, None, ())
    assert slots(bytes(8192), bytes(16), 0) == (0, None, ())
    assert slots(b"SLS\x01", bytes(16), 0) == (0, None, (0,))
    assert State(1, 2) == (1, 2, 0, -1)


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


def test_a_compaction_that_is_interrupted_in_a_call_leaves_the_log_as_it_was(box: MakeBox) -> None:
    b, disk = armed(box, cleanup_policy="compact", segment_bytes=1024)
    for n in range(6):
        b.append(b"%d" % n * 600, keys=[b"k%d" % (n % 2)])
    table = b.table()
    nth = 1
    while True:
        disk.arm(nth, KeyboardInterrupt())
        try:
            b.partition.maintenance.compact(b.now)
            break
        except KeyboardInterrupt:
            disk.error = None
            assert b.table() == table
            nth += 1
    disk.error = None
    assert nth > 3
    b.reopen(KILLED)
    assert b.table() == table


def test_a_state_of_another_partition_is_not_this_ones(box: MakeBox) -> None:
    b = box()
    b.log.release()
    data = (b.path / "partition.state").read_bytes()
    assert slots(data, bytes(range(16)), 3).newest == State(0, 0)
    assert slots(data, bytes(range(16)), 4) == (0, None, (4096,))
    assert slots(data, bytes(16), 3).newest is None
    b.open(KILLED)


def test_a_topic_without_a_dirty_byte_is_not_compacted_by_maintenance(box: MakeBox) -> None:
    b = segmented(box, cleanup_policy="compact", min_cleanable_dirty_ratio=0.9)
    b.log.roll(b.now)
    b.partition.maintenance.compact(b.now)
    before = {path.name: path.stat().st_ino for path in b.logs()}
    b.partition.maintenance.run(b.now)
    assert {path.name: path.stat().st_ino for path in b.logs()} == before
    b.append(b"x", keys=[b"k0"])
    b.log.roll(b.now)
    assert 0 < compaction.plan(b.log, b.now, b.log.tail.end_offset).dirty_ratio < 0.9
    b.partition.maintenance.run(b.now)
    assert b.log.cleaned_until == 6
