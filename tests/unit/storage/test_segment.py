"""One segment: its mapping, its index, and files that change under it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from streamlog.errors import CorruptRecordError, StorageError
from streamlog.runtime.disk import OsDisk
from streamlog.storage.segment import Segment

from .conftest import CLEAN, KILLED, SEED, Box, six_segments
from .counting_disk import armed, segments_on_counting_disk

MakeBox = Callable[..., Box]


def test_an_empty_segment_can_be_pinned_without_a_mapping(box: MakeBox) -> None:
    b = box()
    segment = Segment(b.disk, str(b.path), 100, SEED)
    segment.create()
    segment.pin()
    assert segment.read(10, 0) == b""
    assert segment.index.position_for_offset(100) == 0
    segment.unpin()
    segment.release()
    Path(segment.path).unlink()


def test_a_reader_that_opens_the_file_while_another_takes_its_place_does_not_keep_the_old_one(box: MakeBox) -> None:
    """What was appended next would go to a file without a name."""
    b = box()
    b.append(b"1")
    active = b.log.tail.segments[-1]
    active.release()

    class Replacing(OsDisk):
        def open(self, path: str, **options: Any) -> Any:
            file = super().open(path, **options)
            replaced = Path(path)
            (b.path / "copy").write_bytes(replaced.read_bytes())
            (b.path / "copy").rename(replaced)
            active.disk = b.disk
            active.release()
            return file

    active.disk = Replacing()  # type: ignore[assignment]
    assert active.read(10, 0) == b.logs()[0].read_bytes()[:10]
    b.append(b"2")
    b.reopen(KILLED)
    assert b.values() == [b"1", b"2"]


@pytest.mark.parametrize("position", [-1, 0, 3], ids=["before", "at its end", "behind"])
def test_of_a_sealed_segment_nothing_is_read_outside_of_it(box: MakeBox, position: int) -> None:
    b, _ = segments_on_counting_disk(box)
    segment = b.log.tail.segments[0]
    assert segment.sealed
    assert segment.read(10, position if position < 0 else segment.size + position) == b""
    assert len(segment.read(10, segment.size - 4)) == 4


def test_an_index_that_went_after_its_numbers_were_read_is_made_again_and_saved(box: MakeBox) -> None:
    b, values = segments_on_counting_disk(box)
    b.reopen(CLEAN)
    segment = b.log.tail.segments[0]
    assert segment.stats.records == 2
    index = Path(segment.index_path)
    before = index.read_bytes()
    index.unlink()
    assert b.values() == values
    assert segment.is_unsaved
    b.log.durability.sync_sealed(b.log.tail)
    assert index.read_bytes() == before
    assert not segment.is_unsaved


@pytest.mark.damaged
def test_an_index_that_vanishes_after_the_open_is_made_from_the_segment(box: MakeBox) -> None:
    b = six_segments(box)
    b.reopen(CLEAN)
    for index in b.path.glob("*.index"):
        index.unlink()
    assert [entry.offset for entry in b.read()] == [*range(6)]


@pytest.mark.damaged
def test_a_segment_that_is_cut_after_the_open_is_damage(box: MakeBox) -> None:
    b = six_segments(box)
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
    b = six_segments(box, cleanup_policy="compact")
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
    b = six_segments(box, cleanup_policy="compact")
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


def test_a_batch_that_ends_behind_what_may_be_read_is_cut_short(box: MakeBox) -> None:
    b = box()
    b.append(b"x" * 500)
    segment = b.log.tail.segments[0]
    with pytest.raises(CorruptRecordError, match="cut short"):
        segment.read_batches(0, 300, 1)
    with pytest.raises(CorruptRecordError, match="cut short"):
        list(segment.headers(0, 300))
    assert segment.read_batches(0, 50, 1000) == b.logs()[0].read_bytes()[:50]


@pytest.mark.parametrize("at", [0, -1], ids=["sealed", "active"])
def test_a_segment_that_was_closed_under_a_reader_is_read_and_holds_nothing_open(box: MakeBox, at: int) -> None:
    b = box()
    b.append(b"1")
    b.log.roll(b.now)
    b.append(b"2")
    segment = b.log.tail.segments[at]
    segment.close()
    data = b.logs()[at].read_bytes()
    assert segment.read(len(data), 0) == data
    assert (segment._opened, segment._map) == ([], None)
