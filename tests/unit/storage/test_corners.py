"""Corners that the other tests come to by chance or not at all: refusals of the disk, races, and odd files."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamlog.errors import CorruptRecordError, DiskFullError, StorageError
from streamlog.records import columns
from streamlog.records.batch import FIXED_LEN, FORM_KAFKA, MAGIC, NO_TIMESTAMP, read_header, stamp
from streamlog.storage import files
from streamlog.storage import segment as segments
from streamlog.storage.checkpoint import StateFile
from streamlog.storage.log import AppendRequest
from streamlog.storage.reader import LogReader
from streamlog.storage.scan import walk
from streamlog.storage.segment import Segment

from .conftest import CLEAN, KILLED, NOW, PARTITION, POWER_LOST, SEED, TOPIC_ID, Box
from .faulty import FaultyDisk

MakeBox = Callable[..., Box]


def refuse(disk: FaultyDisk, code: int, *starts: str) -> list[str]:
    """Have every call that begins like one of `starts` fail, until the list is cleared."""
    refused = list(starts)
    disk.arm(0, OSError(code, "refused"))
    disk.fails = lambda what: what.startswith(tuple(refused)) if refused else False  # type: ignore[method-assign]
    return refused


def segmented(make: MakeBox) -> tuple[Box, list[bytes]]:
    """Eight batches, two a segment, on a disk that can be told to refuse."""
    b = make(segment_bytes=1500)
    b.log.release()
    b.disk = FaultyDisk()
    b.open()
    values = [b"%d" % n * 500 for n in range(8)]
    for value in values:
        b.append(value)
    return b, values


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x40
    path.write_bytes(data)


# The state


@pytest.mark.parametrize("call", ["open", "pread"])
def test_a_state_that_cannot_be_read_is_told_as_what_the_disk_said(box: MakeBox, call: str) -> None:
    b, _ = segmented(box)
    b.close()
    path = f"{b.path}/partition.state"
    refused = refuse(b.disk, errno.EIO, f"{call} {path}")
    with pytest.raises(StorageError) as caught:
        StateFile.open(b.disk, str(b.path), TOPIC_ID, PARTITION, is_new=False)
    assert (caught.value.errno, caught.value.path) == (errno.EIO, path)
    refused.clear()
    assert StateFile.open(b.disk, str(b.path), TOPIC_ID, PARTITION, is_new=False).state.recovery_point == 8
    b.open()


@pytest.mark.parametrize("call", ["open", "sync"])
def test_a_state_that_can_neither_be_written_nor_synced_is_not_relied_upon(box: MakeBox, call: str) -> None:
    b, _ = segmented(box)
    file = StateFile.open(b.disk, str(b.path), TOPIC_ID, PARTITION, is_new=False)
    before = file.state
    refused = refuse(b.disk, errno.EIO, f"{call} {b.path}/partition.state")
    with pytest.raises(StorageError, match=r"partition\.state"):
        file.rewrite()
    refused.clear()
    assert file.state == before
    file.rewrite()


def test_on_a_full_disk_files_below_the_log_start_stay_and_are_not_read(box: MakeBox) -> None:
    b, values = segmented(box)
    b.log.advance_start(4)
    b.log.release()
    refused = refuse(b.disk, errno.ENOSPC, f"pwrite {b.path}/partition.state")
    b.open(KILLED)
    assert len(b.logs()) == 4, "the start that justifies an unlink has to be on the device first"
    assert b.values() == values[4:]
    refused.clear()
    b.reopen(KILLED)
    assert len(b.logs()) == 2
    assert b.values() == values[4:]


# The end of a log


@pytest.mark.damaged
def test_a_disk_that_fails_anywhere_in_opening_a_damaged_end_says_so_typed(box: MakeBox) -> None:
    b = box()
    b.append(b"one")
    b.append(b"two")
    b.log.release()
    flip(b.logs()[0], b.logs()[0].stat().st_size // 2 + 20)
    disk = b.disk = FaultyDisk()
    told = 0
    for nth in range(1, 200):
        disk.arm(nth, OSError(errno.EIO, "refused"))
        try:
            b.open(KILLED)
        except StorageError as error:
            assert error.errno == errno.EIO
            told += 1
        else:
            with pytest.raises(CorruptRecordError):
                b.append(b"never")
            b.log.release()
        if len(disk.calls) < nth:
            break
    assert told > 3 and len(disk.calls) < nth, "every call was refused once"
    disk.arm(0, OSError(errno.EIO, "refused"))
    b.open(KILLED)
    assert b.values(skip=True) == [b"one"]


@pytest.mark.damaged
def test_a_batch_whose_lengths_are_impossible_is_damage_and_no_torn_write(box: MakeBox) -> None:
    b = box()
    b.append(b"one")
    b.log.release()
    (path,) = b.logs()
    data = path.read_bytes()
    path.write_bytes(data + MAGIC + b"\x01" + bytes(FIXED_LEN))
    b.open(KILLED)
    with pytest.raises(CorruptRecordError):
        b.append(b"two")
    assert path.stat().st_size == len(data) + len(MAGIC) + 1 + FIXED_LEN
    b.log.release()
    path.write_bytes(data + data[: FIXED_LEN - 1])
    b.open(KILLED)
    assert path.stat().st_size == len(data), "the beginning of a batch is a torn write"


def test_a_log_that_was_not_cut_for_want_of_room_can_be_closed_and_is_cut_later(box: MakeBox) -> None:
    b, values = segmented(box)
    b.log.release()
    flip(b.logs()[-1], -1)
    before = {file.name: file.read_bytes() for file in b.path.iterdir() if file.suffix == ".log"}
    refused = refuse(b.disk, errno.ENOSPC, "pwrite")
    b.open(POWER_LOST)
    assert b.values() == values[:7]
    refused.clear()
    b.close()
    assert {file.name: file.read_bytes() for file in b.logs()} == before
    b.open(POWER_LOST)
    assert b.values() == values[:7]
    assert b.append(b"next") == 7


# After a power loss


def test_a_first_segment_that_never_reached_the_device_leaves_an_empty_log(box: MakeBox) -> None:
    b, _ = segmented(box)
    b.log.release()
    first, *others = b.logs()
    saved = {f"{file.name}.cut-0": file.read_bytes() for file in others}
    first.unlink()
    b.open(POWER_LOST)
    assert (b.log.tail.start_offset, b.log.tail.end_offset) == (0, 0)
    assert {file.name: file.read_bytes() for file in b.path.glob("*.cut-*")} == saved
    assert b.append(b"again") == 0


@pytest.mark.damaged
def test_a_segment_cut_short_below_the_recovery_point_does_not_cost_those_behind_it(box: MakeBox) -> None:
    b = box(segment_bytes=1500)
    values = [b"%d" % n * 500 for n in range(8)]
    for n, value in enumerate(values):
        b.append(value)
        if n == 2:
            b.reopen(CLEAN)
    assert b.log.durability.recovery_point == 3
    b.log.release()
    second = b.logs()[1]
    second.write_bytes(second.read_bytes()[:10])
    b.open(POWER_LOST)
    assert not list(b.path.glob("*.cut-*"))
    with pytest.raises(CorruptRecordError):
        b.values()
    assert b.values(skip=True) == [*values[:2], *values[4:]]
    assert b.append(b"on") == 8


def test_an_index_of_a_segment_that_is_moved_aside_goes(box: MakeBox) -> None:
    b, values = segmented(box)
    state = b.path / "partition.state"
    before = state.read_bytes()
    b.log.durability.sync_sealed(b.log.tail)
    state.write_bytes(before)  # the indexes reached the device, the recovery point did not
    b.log.release()
    assert len(list(b.path.glob("*.index"))) == 3
    flip(b.logs()[1], 3)
    b.open(POWER_LOST)
    assert [file.name for file in b.path.glob("*.index")] == [f"{0:020d}.index"]
    assert b.values() == values[:2]
    assert b.append(b"again") == 2


@pytest.mark.parametrize("stubborn", [False, True], ids=["", "what failed stays"])
def test_a_cut_that_was_refused_half_way_is_taken_up_where_it_was_left(
    box: MakeBox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, stubborn: bool
) -> None:
    monkeypatch.setattr(files, "_COPY_BYTES", 100)
    b, values = segmented(box)
    b.log.release()
    first, second, third, fourth = b.logs()
    half = second.stat().st_size // 2
    flip(second, -1)
    damaged = second.read_bytes()
    saved = {
        f"{second.name}.cut-{half}": damaged[half:],
        f"{third.name}.cut-0": third.read_bytes(),
        f"{fourth.name}.cut-0": fourth.read_bytes(),
    }
    refused = refuse(b.disk, errno.ENOSPC, f"pwrite {second}.tmp")
    if stubborn:
        refused.append(f"unlink {second}.tmp")
    b.open(POWER_LOST)
    assert Path(f"{second}.tmp").exists() == stubborn
    assert (f"could not remove {second}.tmp" in caplog.text) == stubborn
    assert second.read_bytes() == damaged
    for call in ("pwrite", "open"):  # where there is room for nothing at all, no file was made either
        with pytest.raises(DiskFullError):
            b.append(b"no room")
        if not stubborn:
            refused[:] = [f"{'open' if call == 'pwrite' else 'pwrite'} {second}.tmp"]
    assert {file.name: file.read_bytes() for file in b.path.glob("*.cut-*")} == saved, "saved, and saved once"
    assert ("could not remove" in caplog.text) == stubborn, "what was not made needs no removing"
    refused.clear()
    assert b.append(b"room") == 3
    assert {file.name: file.read_bytes() for file in b.path.glob("*.cut-*")} == saved
    assert b.values() == [*values[:3], b"room"]
    assert [file for file in b.logs() if file in (first, second)] == [first, second]
    assert second.read_bytes()[:half] == damaged[:half]
    assert not Path(f"{second}.tmp").exists()


# Walks


@pytest.mark.parametrize("trusted_to", [None, 0], ids=["headers", "payloads too"])
def test_a_batch_of_a_rare_form_is_counted_like_any_other(box: MakeBox, trusted_to: int | None) -> None:
    b = box()
    whole = []
    for offset, values, time in ((0, (b"a",), 5), (1, (), 0), (2, (b"b", b"c"), 3), (4, (b"d",), 9)):
        sealed = columns.seal(
            SEED, None, values or None, time, None, count=len(values), last_offset_delta=max(0, len(values) - 1)
        )
        if offset:
            sealed = sealed._replace(attributes=sealed.attributes | FORM_KAFKA)
        whole.append(stamp(sealed, SEED, offset, 0, NOW + offset) + sealed.payload)
    data = b"".join(whole)

    def look(data: bytes) -> Any:
        segment = Segment(b.disk, str(b.path), 0, SEED)
        path = b.path / "other"
        path.write_bytes(data)
        segment.use_file(b.disk.open(str(path), writable=False))
        return walk(segment, len(data), trusted_to)

    found = look(data)
    assert found[1:] == (found.entries, len(data), (), None)
    stats = found.stats
    assert (stats.next_offset, stats.records) == (5, 4)
    assert (stats.min_timestamp, stats.max_timestamp, stats.first_append) == (0, 9, NOW)
    rare = look(b"".join(whole[1:]))
    assert (rare.stats.next_offset, rare.stats.records, rare.stats.first_append) == (5, 3, NOW + 1)
    assert (rare.stats.min_timestamp, rare.stats.max_timestamp) == (0, 9)
    assert rare.entries.positions[0] == 0
    (b.path / "other").unlink()


@pytest.mark.parametrize("form", [0, FORM_KAFKA], ids=["usual form", "rare form"])
def test_a_batch_without_a_time_counts_for_none(box: MakeBox, form: int) -> None:
    """What `repair` writes for offsets that are lost."""
    b = box()
    sealed = columns.seal(SEED, None, None, NO_TIMESTAMP, count=0, last_offset_delta=9)
    sealed = sealed._replace(attributes=sealed.attributes | form)
    (b.path / "other").write_bytes(stamp(sealed, SEED, 0, 0, NOW) + sealed.payload)
    segment = Segment(b.disk, str(b.path), 0, SEED)
    segment.use_file(b.disk.open(str(b.path / "other"), writable=False))
    segment.make_active(walk(segment, sealed.length))
    assert (segment.stats.next_offset, segment.stats.min_timestamp, segment.stats.max_timestamp) == (10, -1, -1)
    assert segment.info().max_timestamp == NOW, "it is as old as its first append"
    (b.path / "other").unlink()


@pytest.mark.damaged
def test_a_walk_over_a_batch_whose_offsets_go_back_takes_the_log_no_further_back(box: MakeBox) -> None:
    b = box()
    b.append(b"one")
    first = b.log.tail.end_position
    b.append(b"two")
    b.log.release()
    (path,) = b.logs()
    path.write_bytes(path.read_bytes() + path.read_bytes()[:first])
    b.open(KILLED)
    assert b.log.tail.end_offset == 2
    assert b.append(b"three") == 2


# Segments


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


@pytest.mark.parametrize("position", [-1, 0, 3], ids=["before", "at its end", "behind"])
def test_of_a_sealed_segment_nothing_is_read_outside_of_it(box: MakeBox, position: int) -> None:
    b, _ = segmented(box)
    segment = b.log.tail.segments[0]
    assert segment.sealed
    assert segment.read(10, position if position < 0 else segment.size + position) == b""
    assert len(segment.read(10, segment.size - 4)) == 4


def test_two_threads_that_make_room_for_their_mappings_at_a_time_do_not_mind(
    box: MakeBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Taken(deque[Any]):
        """What is in it when it is counted has been taken when it is asked for."""

        def popleft(self) -> Any:
            self.clear()
            return super().popleft()

    b, values = segmented(box)
    monkeypatch.setattr(segments, "_mapped", Taken())
    monkeypatch.setattr(segments, "MAX_MAPPED", 0)
    assert b.values() == values


def test_an_index_that_went_after_its_numbers_were_read_is_made_again_and_saved(box: MakeBox) -> None:
    b, values = segmented(box)
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


def test_the_size_of_a_log_is_that_of_its_files(box: MakeBox) -> None:
    b, _ = segmented(box)
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


# Reading


def test_a_file_that_went_between_two_reads_is_looked_for_again(box: MakeBox) -> None:
    b, values = segmented(box)
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


# Rolling


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


# The check


@pytest.mark.damaged
def test_what_a_copy_cannot_take_is_found_as_a_lost_record(box: MakeBox) -> None:
    b, _ = segmented(box)
    b.close()
    kept: list[tuple[int, int]] = []

    def keep(base_offset: int, header: Any, data: bytes) -> str | None:
        if header.base_offset == 3:
            return "it makes no sense"
        kept.append((base_offset, header.base_offset))
        return None

    checked = b.check(CLEAN, keep=keep)
    assert kept == [(n // 2 * 2, n) for n in range(8) if n != 3]
    (finding,) = checked.findings
    assert (finding.kind, finding.lost) == ("record", (3, 4))
    assert finding.path == str(b.logs()[1])
    assert "it makes no sense" in finding.message
    assert checked.records == 7


@pytest.mark.parametrize("state", [None, b"", bytes(4096)], ids=["none", "empty", "zeros"])
def test_a_creation_that_was_torn_twice_is_made_anew(box: MakeBox, state: bytes | None) -> None:
    """The first crash left an empty segment alone; the second came while its state was written again."""
    b = box()
    b.log.release()
    path = b.path / "partition.state"
    path.unlink()
    if state is not None:
        path.write_bytes(state)
    b.open(POWER_LOST)
    assert b.append(b"first") == 0
    assert b.values() == [b"first"]


def test_a_state_without_a_word_beside_records_is_damage(box: MakeBox) -> None:
    b = box()
    b.append(b"one")
    b.log.release()
    path = b.path / "partition.state"
    whole = path.read_bytes()
    path.write_bytes(bytes(4096))
    with pytest.raises(CorruptRecordError, match=r"partition\.state"):
        b.open(POWER_LOST)
    path.write_bytes(whole)
    b.open(POWER_LOST)
    assert b.values() == [b"one"]
