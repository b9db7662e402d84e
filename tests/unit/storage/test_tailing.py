"""A log that another process writes is read as published, whole batches only, and never from a replaced file."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from typing import Any

import pytest

from streamlog.errors import CorruptRecordError, OffsetOutOfRangeError, RequestTimedOutError, StorageError
from streamlog.runtime.disk import OsDisk
from streamlog.storage.index import INTERVAL
from streamlog.storage.published import Slot
from streamlog.storage.tail import LogSnapshot
from streamlog.storage.tailing import TailedLog

from .conftest import NOW, PARTITION, SEED, TOPIC_ID, Box

MakeBox = Callable[..., Box]


class ReaderDisk:
    """The disk of a reader: it refuses every change, and records what was mapped.

    `before(call, path)` is called ahead of each call: other processes do things between two of ours.
    """

    def __init__(self, before: Callable[[str, str], object] = lambda call, path: None) -> None:
        self._disk = OsDisk()
        self.before = before
        self.mapped: list[str] = []

    def open(self, path: str, *, create: bool = False, exclusive: bool = False, writable: bool = True) -> Any:
        assert not create, f"a reader creates {path}"
        assert not writable, f"a reader opens {path} for writing"
        self.before("open", path)
        return ReaderFile(self, self._disk.open(path, writable=False))

    def listdir(self, path: str) -> list[str]:
        self.before("listdir", path)
        return self._disk.listdir(path)

    def read(self, path: str, limit: int = 1 << 26) -> bytes:
        self.before("read", path)
        return self._disk.read(path, limit)

    def exists(self, path: str) -> bool:
        return self._disk.exists(path)


class ReaderFile:
    def __init__(self, disk: ReaderDisk, file: Any) -> None:
        self._disk = disk
        self._file = file
        self.path = file.path
        self.pread, self.size, self.close = file.pread, file.size, file.close

    def map(self, length: int) -> Any:
        self._disk.mapped.append(self.path.rpartition("/")[2])
        return self._file.map(length)


class Along:
    """A reader of `box`, and the slot that its owner would write."""

    def __init__(self, box: Box, disk: ReaderDisk | None = None) -> None:
        self.box = box
        self.disk = disk or ReaderDisk()
        self.log = TailedLog(self.disk, str(box.path), SEED, TOPIC_ID, PARTITION)  # type: ignore[arg-type]
        self.log.renew = self.renew
        self.published: LogSnapshot | None = None
        self.generation = self.rewrites = 0
        self.incarnation = 1

    def slot(self) -> Slot:
        """As `broker/tailing/published_writer.py` makes it of the log as it is now."""
        tail, last = self.box.log.tail, self.published
        if last is not None and (tail.segments is not last.segments or tail.start_offset != last.start_offset):
            self.generation += 1
        self.published = tail
        return Slot(
            SEED, self.generation, self.rewrites, tail.end_offset, tail.end_offset, tail.end_offset,
            tail.start_offset, tail.bases[-1], tail.end_position,
        )  # fmt: skip

    def rewritten(self) -> None:
        self.rewrites += 1
        self.generation += 1

    def follow(self) -> bool:
        return self.log.follow(self.slot(), self.incarnation, self.slot)

    def renew(self, failed: LogSnapshot) -> None:
        self.follow()
        if self.log.tail.segments == failed.segments:
            self.log.relist(lambda: False)

    def values(self, start: int | None = None) -> list[bytes | None]:
        return [entry.value for entry in self.box.read(start, reader=self.log)]


def small(make: MakeBox, count: int = 0, **config: Any) -> Box:
    """A log with a segment for each value."""
    made = make(segment_bytes=1024, **config)
    for n in range(count):
        made.append(value(n), keys=[b"k%d" % (n % 3)])
    return made


def value(n: int) -> bytes:
    return b"%03d" % n * 140


# -- what is published, and no more


def test_nothing_is_seen_before_it_is_published(box: MakeBox) -> None:
    b = box()
    along = Along(b)
    b.append(b"a")
    assert along.log.tail.end_offset == 0
    assert not along.log.fetch(0, 100, 0).data
    along.follow()
    assert along.values() == [b"a"]
    b.append(b"b")
    assert along.values() == [b"a"]
    assert along.log.high_watermark == 1
    along.follow()
    assert along.values() == [b"a", b"b"]


def test_batches_past_the_high_watermark_are_left_out(box: MakeBox) -> None:
    b = box()
    for n in range(5):
        b.append(b"%d" % n)
    along = Along(b)
    along.log.follow(along.slot()._replace(high_watermark=3), 1, along.slot)
    assert along.log.high_watermark == 3
    chunk = along.log.fetch(0, 1 << 16, 3)
    after = along.log.fetch(3, 1 << 16, 3)
    assert len(chunk.data) == len(along.log.fetch(0, 1 << 16, 5).data) * 3 // 5
    assert not after.data


def test_a_roll_is_followed_and_only_sealed_segments_are_mapped(box: MakeBox) -> None:
    b = small(box, 1)
    along = Along(b)
    for n in range(1, 9):
        along.follow()
        assert along.values() == [value(k) for k in range(n)]
        b.append(value(n), keys=[b"k"])
    along.follow()
    assert along.values() == [value(n) for n in range(9)]
    active = along.log.tail.segments[-1].path.rpartition("/")[2]
    assert set(along.disk.mapped) == {path.name for path in b.logs()} - {active}


def test_an_append_alone_lists_nothing(box: MakeBox) -> None:
    b = box()
    b.append(b"a")
    calls: list[str] = []
    along = Along(b, ReaderDisk(lambda call, path: calls.append(call)))
    along.follow()
    along.values()
    calls.clear()
    for n in range(10):
        b.append(b"%d" % n)
        along.follow()
        assert len(along.values(n)) == 2
    assert calls == []


def test_tailing_does_not_scan_the_batches_before(box: MakeBox) -> None:
    b = box()
    for _ in range(60):
        b.append(b"x" * 4000)
    along = Along(b)
    along.follow()
    b.append(b"y" * 4000)
    along.follow()
    reads: list[int] = []
    active = along.log.tail.segments[-1]
    read = active.read

    def counted(length: int, position: int) -> bytes:
        reads.append(position)
        return read(length, position)

    active.read = counted  # type: ignore[method-assign]
    assert along.values(60) == [b"y" * 4000]
    assert min(reads) > 50 * 4000


def test_any_offset_of_the_active_segment_is_found(box: MakeBox) -> None:
    b = box()
    for n in range(100):
        b.append(b"%03d" % n * 1000)
    along = Along(b)
    along.follow()
    for n in (0, 57, 99, 3):
        assert along.values(n)[0] == b"%03d" % n * 1000
    b.append(b"last")
    along.follow()
    assert along.values(42)[-1] == b"last"


def test_times_are_found_in_sealed_segments_and_in_the_active_one(box: MakeBox) -> None:
    b = box(segment_bytes=1024)
    for n in range(9):
        b.append(value(n), timestamps=NOW + 10 * n)
    along = Along(b)
    along.follow()
    for n in range(9):
        for at in (NOW + 10 * n - 9, NOW + 10 * n):
            found = along.log.find_time(at, 9)
            assert found is not None
            assert (found.offset, found.timestamp) == (n, NOW + 10 * n)
    assert along.log.find_time(NOW + 81, 9) is None
    newest = along.log.find_max_time(9)
    assert newest is not None and newest.timestamp == NOW + 80
    assert along.log.find_max_time(9) == (8, NOW + 80)
    assert along.log.find_max_time(5) == (4, NOW + 40)
    assert 4 <= along.log.end_for_time(NOW + 39, 9) <= 9
    assert not along.log.has_every_offset(0, 9)  # what the active segment has is not known


@pytest.mark.parametrize("harm", ["missing", "of another size", "garbage"])
def test_without_a_good_index_file_the_answers_are_the_same(box: MakeBox, harm: str) -> None:
    b = small(box, 9)
    b.log.durability.sync_sealed(b.log.tail)
    indexes = sorted(b.path.glob("*.index"))
    assert indexes
    for path in indexes:
        if harm == "missing":
            path.unlink()
        else:
            path.write_bytes(b"" if harm == "garbage" else indexes[0].read_bytes())
    along = Along(b)
    along.follow()
    assert along.values() == [value(n) for n in range(9)]
    assert along.values(5) == [value(n) for n in range(5, 9)]
    found = along.log.find_time(NOW, 9)
    assert found is not None
    assert found.offset == 0
    assert sorted(b.path.glob("*.index")) == [path for path in indexes if harm != "missing"]


# -- files that come and go


def test_a_raised_log_start_is_followed(box: MakeBox) -> None:
    b = small(box, 9)
    along = Along(b)
    along.follow()
    b.partition.delete_records(5)
    along.follow()
    assert along.values() == [value(n) for n in range(5, 9)]
    with pytest.raises(OffsetOutOfRangeError) as raised:
        along.log.fetch(3, 100, 9)
    assert (raised.value.log_start_offset, raised.value.log_end_offset) == (5, 9)


def test_a_segment_that_retention_removed_before_it_was_opened_is_looked_for_anew(box: MakeBox) -> None:
    b = small(box, 9)
    along = Along(b)
    along.follow()
    b.partition.delete_records(6)  # the reader does not know, and has opened nothing yet
    assert not b.logs()[0].name.startswith("0" * 20)
    with pytest.raises(OffsetOutOfRangeError):
        along.log.fetch(0, 100, 9)
    assert along.values() == [value(n) for n in range(6, 9)]


def test_a_reader_inside_a_removed_segment_reads_on(box: MakeBox) -> None:
    b = box(segment_bytes=4096)
    for n in range(20):
        b.append(value(n))
    along = Along(b)
    along.follow()
    first = along.log.fetch(0, 1, 20)
    b.partition.delete_records(20)
    after = along.log.fetch(1, 1, 20, first)
    assert after.position == len(first.data)
    assert len(after.data) == len(first.data)


def compacted(b: Box, along: Along) -> None:
    """Compact as the owner does: it publishes before the files get their names, and once more after."""
    b.partition.listener = Told(along)  # type: ignore[assignment]
    b.partition.maintenance.roll(b.now)
    assert b.partition.maintenance.compact(b.now) is not None


class Told:
    quiet = False

    def __init__(self, along: Along, then: Callable[[], object] = lambda: None) -> None:
        self.along = along
        self.then = then

    def appended(self) -> None: ...

    def changed(self, *, rewritten: bool = False) -> None:
        if rewritten:
            self.along.rewritten()
        self.then()


def test_after_a_compaction_no_read_uses_the_old_file(box: MakeBox) -> None:
    b = small(box, 12, cleanup_policy="compact")
    along = Along(b)
    along.follow()
    assert len(along.values()) == 12
    compacted(b, along)
    along.follow()
    assert along.values() == b.values()
    assert len(along.values()) == 3


def test_a_file_that_compaction_put_in_place_of_the_listed_one_is_noticed(box: MakeBox) -> None:
    b = small(box, 12, cleanup_policy="compact")
    along = Along(b)
    along.follow()
    compacted(b, along)  # the reader does not know, and has opened no file yet
    assert along.values() == b.values()


def test_an_index_of_the_old_file_is_never_used_for_the_new_one(box: MakeBox) -> None:
    b = box(segment_bytes=32_768, cleanup_policy="compact")

    def fill(numbers: range) -> None:
        for n in numbers:  # equal batches: where one begins in the old file, another does in the new one
            b.append(b"%03d" % n * 140, keys=[b"%03d" % n])

    fill(range(20))
    b.partition.maintenance.roll(b.now)
    fill(range(3))
    fill(range(20, 40))
    along = Along(b)
    along.follow()
    assert len(along.values()) == 43
    along.log.tail.segments[0].release()  # as when too many files are mapped
    compacted(b, along)
    assert [entry.offset for entry in b.read(10, reader=along.log)][:4] == [10, 11, 12, 13]
    assert along.values() == b.values()


def test_files_are_consistent_at_every_step_of_a_swap(box: MakeBox) -> None:
    b = small(box, 12, cleanup_policy="compact")
    along = Along(b)
    everything, table = [value(n) for n in range(12)], [value(n) for n in (9, 10, 11)]
    seen: list[list[bytes | None]] = []

    def look() -> None:
        along.follow()
        seen.append(along.values())
        seen.append(second_reader(along).values())

    class Stepwise(OsDisk):
        def unlink(self, path: str) -> None:
            look()
            super().unlink(path)

        def rename(self, source: str, target: str) -> None:
            look()
            super().rename(source, target)
            look()

    b.log.disk = Stepwise()
    b.partition.listener = Told(along, look)  # type: ignore[assignment]
    b.partition.maintenance.roll(b.now)
    b.partition.maintenance.compact(b.now)
    look()
    assert seen[0] == everything
    assert seen[-1] == table
    for found in seen:
        assert found == sorted(set(found))  # type: ignore[type-var]
        assert set(table) <= set(found) <= set(everything)


def test_a_swap_that_got_its_name_before_it_was_opened_is_found_under_it(box: MakeBox) -> None:
    b = small(box, 12, cleanup_policy="compact")
    along = Along(b)
    views: list[list[str]] = []

    def once() -> None:
        if not views:
            along.follow()
            views.append([segment.path for segment in along.log.tail.segments])

    b.partition.maintenance.roll(b.now)
    b.partition.listener = Told(along, once)  # type: ignore[assignment]
    b.partition.maintenance.compact(b.now)
    assert any(path.endswith(".swap") for path in views[0])
    along.rewrites, along.generation = along.log._life[1], along.log._slot.generation  # type: ignore[index, union-attr]
    along.published = b.log.tail  # the owner has not published it a second time yet
    assert along.values() == b.values()


def test_files_below_the_log_start_that_are_about_to_go_are_left_out(box: MakeBox) -> None:
    b = small(box, 8)
    along = Along(b)
    listed: list[list[bytes | None]] = []

    def look() -> None:
        assert len(b.logs()) == 8
        along.follow()
        listed.append(along.values())

    b.partition.listener = Told(along, look)  # type: ignore[assignment]
    b.partition.delete_records(5)
    assert listed == [[value(n) for n in range(5, 8)]]
    assert len(along.log.tail.segments) == 3


def second_reader(along: Along) -> Along:
    """A second reader, which reads the same slot and opens the files for the first time."""
    other = Along(along.box)
    other.slot = along.slot  # type: ignore[method-assign]
    other.follow()
    return other


def test_a_change_during_the_listing_has_it_made_again(box: MakeBox) -> None:
    b = small(box, 4)
    todo: list[Callable[[], object]] = [
        lambda: b.append(value(4)),
        lambda: b.partition.delete_records(3),
        lambda: b.append(value(5), value(6)),
        lambda: b.partition.maintenance.roll(b.now),
    ]

    def before(call: str, path: str) -> None:
        if call == "listdir" and todo:
            todo.pop(0)()

    along = Along(b, ReaderDisk(before))
    assert along.follow()
    assert todo == []
    assert along.values() == [value(n) for n in range(3, 7)]


def test_a_segment_that_goes_between_the_listing_and_its_measuring_has_it_made_again(box: MakeBox) -> None:
    b = small(box, 8)
    todo = [lambda: b.partition.delete_records(7)]

    def before(call: str, path: str) -> None:
        if call == "open" and todo:
            todo.pop()()

    along = Along(b, ReaderDisk(before))
    assert along.follow()
    assert along.values() == [value(7)]


def test_an_owner_that_never_rests_is_a_retriable_error_and_the_view_stays(box: MakeBox) -> None:
    b = small(box, 4)
    along = Along(b)
    along.follow()
    along.disk.before = lambda call, path: call == "listdir" and b.append(value(9), value(9))
    b.append(value(4), value(5))
    with pytest.raises(RequestTimedOutError) as raised:
        along.follow()
    assert raised.value.retriable
    assert along.log.tail.end_offset == 4
    along.disk.before = lambda call, path: None
    assert along.follow()
    assert len(along.values()) == b.log.tail.end_offset


def test_files_that_never_rest_while_they_are_read_are_a_retriable_error(box: MakeBox) -> None:
    b = small(box, 8)
    along = Along(b)
    along.follow()

    def renew(failed: LogSnapshot) -> None:
        along.log._reader.tail = failed._replace(segments=(*failed.segments,))
        segments = tuple(along.log._segment(s.base_offset) for s in failed.segments)
        for segment, old in zip(segments, failed.segments, strict=True):
            segment.sealed_by_owner(old.size + 1, old.next_offset)
        along.log._reader.tail = failed._replace(segments=segments)

    along.log.renew = renew
    renew(along.log.tail)
    with pytest.raises(RequestTimedOutError, match="try again"):
        along.log.fetch(0, 100, 8)


def test_an_owner_that_is_gone_leaves_the_view_as_it_was(box: MakeBox) -> None:
    b = small(box, 4)
    along = Along(b)
    along.follow()
    b.append(value(4), value(5))
    assert not along.log.follow(along.slot(), 2, lambda: None)
    assert along.values() == [value(n) for n in range(4)]


def test_a_new_owner_means_new_files(box: MakeBox) -> None:
    b = small(box, 6)
    along = Along(b)
    along.follow()
    along.values()
    before = along.log.tail.segments
    b.reopen()
    along.incarnation = 2
    along.follow()
    assert not set(before) & set(along.log.tail.segments)
    assert along.values() == [value(n) for n in range(6)]


@pytest.mark.damaged
def test_a_missing_segment_fails_reads_there(box: MakeBox) -> None:
    b = small(box, 8)
    b.logs()[1].unlink()
    along = Along(b)
    along.follow()
    assert along.values(6) == [value(6), value(7)]
    with pytest.raises(CorruptRecordError):
        along.values(0)
    b.logs()[0].unlink()
    with pytest.raises(CorruptRecordError):
        second_reader(along).values(0)


@pytest.mark.damaged
@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_a_missing_first_segment_is_reported_without_a_state_that_says_where_the_log_starts(
    box: MakeBox, harm: str
) -> None:
    b = small(box, 8)
    b.logs()[0].unlink()
    state = b.path / "partition.state"
    state.unlink() if harm == "missing" else state.write_bytes(b"x" * 8192)
    along = Along(b)
    along.follow()
    assert along.values(6) == [value(6), value(7)]
    with pytest.raises(CorruptRecordError, match="missing"):
        along.values(0)


@pytest.mark.damaged
def test_damage_is_reported_and_can_be_skipped(box: MakeBox) -> None:
    b = small(box, 8)
    data = bytearray(b.logs()[1].read_bytes())
    data[300] ^= 1
    b.logs()[1].write_bytes(data)
    along = Along(b)
    along.follow()
    with pytest.raises(CorruptRecordError):
        along.values()
    left = [entry.value for entry in b.read(skip=True, reader=along.log)]
    assert left == [value(n) for n in range(8) if n != 1]


def test_tailing_continues_after_a_roll_without_a_scan(box: MakeBox) -> None:
    b = box()
    along = Along(b)
    for n in range(60):
        b.append(b"%02d" % n * 2000)
        along.follow()
    b.partition.maintenance.roll(b.now)
    b.append(b"new")
    along.follow()
    sealed = along.log.tail.segments[0]
    reads: list[int] = []
    read = sealed.read

    def counted(length: int, position: int) -> bytes:
        reads.append(position)
        return read(length, position)

    sealed.read = counted  # type: ignore[method-assign]
    assert along.values(58) == [b"58" * 2000, b"59" * 2000, b"new"]
    assert min(reads) > 50 * 4000


@pytest.mark.damaged
def test_damage_in_the_active_segment_hides_no_time_behind_it(box: MakeBox) -> None:
    b = box()
    for n in range(3):
        b.append(b"%d" % n * 9000, timestamps=NOW + n)
    along = Along(b)
    along.follow()
    assert along.log.find_time(NOW + 1, 3) is not None
    start = b.logs()[0].stat().st_size
    for n in range(3, 6):
        b.append(b"%d" % n * 9000, timestamps=NOW + n)
    data = bytearray(b.logs()[0].read_bytes())
    data[start + 40] ^= 1
    b.logs()[0].write_bytes(data)
    along.follow()
    found = along.log.find_time(NOW + 5, 6)
    assert found is not None
    assert found.offset == 5


def test_a_disk_that_does_not_read_is_a_storage_error(box: MakeBox) -> None:
    b = small(box, 3)
    along = Along(b)
    along.follow()

    def before(call: str, path: str) -> None:
        raise OSError(errno.EIO, "no", path)

    along.disk.before = before
    with pytest.raises(StorageError) as raised:
        along.values()
    assert raised.value.errno == errno.EIO


@pytest.mark.damaged
def test_an_active_segment_that_is_missing_is_a_storage_error(box: MakeBox) -> None:
    b = small(box, 3)
    along = Along(b)
    along.follow()
    b.logs()[-1].unlink()
    with pytest.raises(StorageError) as raised:
        along.values(2)
    assert raised.value.errno == errno.ENOENT


@pytest.mark.damaged
def test_a_partition_without_any_segment_left_is_lost(box: MakeBox) -> None:
    b = small(box, 3)
    along = Along(b)
    along.follow()
    for file in b.path.iterdir():
        file.unlink()
    with pytest.raises(CorruptRecordError, match="has no segment any more"):
        along.values(2)


@pytest.mark.damaged
def test_a_partition_whose_directory_is_gone_is_lost(box: MakeBox) -> None:
    b = small(box, 3)
    along = Along(b)
    b.path.rename(b.path.with_name("elsewhere"))
    with pytest.raises(CorruptRecordError, match="is missing: the records of this partition were in it"):
        along.follow()
    b.path.with_name("elsewhere").rename(b.path)


@pytest.mark.damaged
def test_a_directory_that_is_missing_or_may_not_be_listed_is_a_storage_error(box: MakeBox) -> None:
    b = small(box, 3)

    def before(call: str, path: str) -> None:
        if call == "listdir":
            raise OSError(error, "no", path)

    for error in (errno.ENOENT, errno.EACCES):
        with pytest.raises(StorageError) as raised:
            Along(b, ReaderDisk(before)).follow()
        assert raised.value.errno == error
    with pytest.raises(StorageError):
        Along(b, ReaderDisk(before)).log.follow_files(None, verify=False, is_alone=lambda: True)
    along = Along(b)
    along.follow()
    along.disk.before = before
    with pytest.raises(StorageError):
        along.log.relist(lambda: False)


@pytest.mark.parametrize("for_ever", [False, True])
def test_files_that_are_moved_about_are_listed_until_they_rest(box: MakeBox, for_ever: bool) -> None:
    b = small(box, 12, cleanup_policy="compact")
    along = Along(b)
    along.follow()
    compacted(b, along)
    left = [3]

    def before(call: str, path: str) -> None:
        if call == "open" and left[0]:
            left[0] -= not for_ever
            raise FileNotFoundError(errno.ENOENT, "no", path)

    along.disk.before = before
    view = along.log.tail.segments
    along.log.relist(lambda: False)
    assert (along.log.tail.segments == view) is for_ever


def test_what_the_owner_before_deleted_last_is_gone_though_no_slot_says_so(box: MakeBox) -> None:
    b = small(box, 6)
    along = Along(b)
    along.follow()
    b.log.discard(b.log.advance_start(4))  # and it ended before it published that
    assert along.log.tail.start_offset == 0
    along.log.relist(lambda: False)
    assert along.log.tail.start_offset == 4
    assert along.values() == [value(4), value(5)]
    with pytest.raises(OffsetOutOfRangeError):
        along.log.fetch(3, 100, 6)


def test_a_view_that_was_never_made_has_nothing_to_list(box: MakeBox) -> None:
    along = Along(box())
    along.log.relist(lambda: False)
    assert along.log.tail.end_offset == 0


def test_an_offset_outside_the_log_is_refused_with_its_bounds(box: MakeBox) -> None:
    b = box()
    b.append(b"0")
    along = Along(b)
    along.follow()
    error = along.log.out_of_range(5, 1)
    assert (error.log_start_offset, error.log_end_offset) == (0, 1)
    assert "Offset 5 is outside the log" in str(error)


@pytest.mark.parametrize("segment_bytes", [1 << 14, 1 << 30])
def test_the_end_of_times_in_a_log_that_grows_loses_none(box: MakeBox, rng: random.Random, segment_bytes: int) -> None:
    b = box(segment_bytes=segment_bytes)
    along = Along(b)
    times: list[int] = []
    for _ in range(60):
        late = [NOW + rng.randrange(1_000) for _ in range(10)]
        b.append(*[bytes(INTERVAL // 50)] * 10, timestamps=late)
        times += late
        along.follow()
        for after in (0, 10, 500, 990):
            end = along.log.end_for_time(NOW + after, len(times))
            assert all(time > NOW + after for time in times[end:])
    assert along.log.end_for_time(NOW - 1, len(times)) == 0
