"""From the files back to a log: after a close, a kill, a power loss, and with files that should not be there."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamlog.config import TopicConfig
from streamlog.errors import CorruptRecordError, FormatError, StorageError, StreamlogError
from streamlog.records.batch import FIXED_LEN, MAGIC, VERSION
from streamlog.runtime.disk import OsFile
from streamlog.storage import scan
from streamlog.storage.checkpoint import SLOT_BYTES
from streamlog.storage.recovery.recovery import PreviousShutdown
from streamlog.storage.scan import Walk, walk
from streamlog.storage.segment import Segment

from ..conftest import CLEAN, KILLED, NOW, POWER_LOST, SEED, Box, four_segments
from ..counting_disk import CountingDisk, armed, calls_of, refuse, segments_on_counting_disk
from ..reopening import flip

MakeBox = Callable[..., Box]


def two_batches(b: Box) -> int:
    """Two batches; where the second begins."""
    b.append(b"one")
    at = b.log.tail.end_position
    b.append(b"two")
    return at


# The end of a log


@pytest.mark.parametrize("crash", [KILLED, POWER_LOST], ids=["killed", "power lost"])
def test_a_batch_that_was_not_finished_is_cut_off(box: MakeBox, crash: PreviousShutdown) -> None:
    b = box()
    at = two_batches(b)
    b.log.release()
    path = b.logs()[0]
    data = path.read_bytes()
    for length in range(at + 1, len(data)):
        path.write_bytes(data[:length])
        b.open(crash)
        assert b.values() == [b"one"]
        assert path.stat().st_size == at
        b.log.release()
    b.open(crash)


def test_what_is_cut_off_after_a_power_loss_is_saved_beside_the_log(box: MakeBox) -> None:
    b = box()
    at = two_batches(b)
    b.log.release()
    path = b.logs()[0]
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"\0" * 5000)
    b.open(POWER_LOST)
    assert b.values() == [b"one"]
    saved = path.with_name(f"{path.name}.cut-{at}")
    assert saved.read_bytes() == data[at:-1] + b"\0" * 5000
    assert b.append(b"again") == 1


def test_zeros_behind_the_end_are_a_torn_write_after_a_power_loss_and_damage_after_a_kill(box: MakeBox) -> None:
    b = box()
    two_batches(b)
    b.log.release()
    path = b.logs()[0]
    with path.open("ab") as file:
        file.write(bytes(4096))
    b.open(KILLED)
    assert b.values(skip=True) == [b"one", b"two"]
    with pytest.raises(CorruptRecordError):
        b.values()
    with pytest.raises(CorruptRecordError):
        b.append(b"three")
    b.log.release()
    b.open(POWER_LOST)
    assert b.append(b"three") == 2


def test_after_a_power_loss_a_payload_that_did_not_reach_the_disk_is_cut_off(box: MakeBox) -> None:
    b = box()
    at = two_batches(b)
    b.log.release()
    path = b.logs()[0]
    data = bytearray(path.read_bytes())
    data[-3:] = bytes(3)
    path.write_bytes(data)
    b.open(POWER_LOST)
    assert b.values() == [b"one"]
    assert path.stat().st_size == at


@pytest.mark.damaged
def test_after_a_kill_a_payload_that_does_not_verify_is_reported_and_never_truncated(box: MakeBox) -> None:
    b = box()
    two_batches(b)
    b.log.release()
    path = b.logs()[0]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    b.open(KILLED)
    assert b.append(b"three") == 2
    assert b.values(skip=True) == [b"one", b"three"]
    with pytest.raises(CorruptRecordError):
        b.values()


@pytest.mark.damaged
@pytest.mark.parametrize("crash", [KILLED, POWER_LOST], ids=["killed", "power lost"])
def test_what_was_on_the_device_is_never_cut(box: MakeBox, crash: PreviousShutdown) -> None:
    b = box()
    two_batches(b)
    b.reopen(CLEAN)
    b.log.release()
    path = b.logs()[0]
    path.write_bytes(path.read_bytes()[:-1])
    size = path.stat().st_size
    b.open(crash)
    assert path.stat().st_size == size
    with pytest.raises(CorruptRecordError):
        b.append(b"three")


def test_after_a_power_loss_that_took_the_end_of_what_was_deleted_offsets_go_on_behind_it(box: MakeBox) -> None:
    b = box()
    at = two_batches(b)
    b.append(b"three")
    b.log.advance_start(3)
    b.log.release()
    path = b.logs()[0]
    path.write_bytes(path.read_bytes()[:at])
    b.open(POWER_LOST)
    assert (b.log.tail.start_offset, b.log.tail.end_offset) == (3, 3)
    assert b.append(b"four") == 3
    b.reopen(KILLED)
    assert [(entry.offset, entry.value) for entry in b.read()] == [(3, b"four")]
    assert len(b.logs()) == 1


# Derived files


@pytest.mark.parametrize("crash", [CLEAN, KILLED], ids=["closed", "killed"])
@pytest.mark.parametrize("harm", ["missing", "empty", "garbage", "of another segment"])
def test_without_its_index_files_a_log_says_the_same(box: MakeBox, crash: PreviousShutdown, harm: str) -> None:
    b = box(segment_bytes=1024)
    for n in range(12):
        b.append(b"%d" % n * 300, timestamps=100 - n)
    expected = (b.read(), b.sealed(), [b.log.reader.find_time(t, 12) for t in range(85, 102)])
    b.close()
    indexes = sorted(b.path.glob("*.index"))
    assert len(indexes) > 3
    other = indexes[-1].read_bytes()
    for index in indexes:
        if harm == "missing":
            index.unlink()
        else:
            index.write_bytes({"empty": b"", "garbage": b"x" * 300, "of another segment": other}[harm])
    b.open(crash)
    assert (b.read(), b.sealed(), [b.log.reader.find_time(t, 12) for t in range(85, 102)]) == expected


def test_a_sealed_segments_index_is_made_again_once_somebody_needed_it(box: MakeBox) -> None:
    b = box(segment_bytes=1024)
    for n in range(6):
        b.append(b"%d" % n * 500)
    b.close()
    first = sorted(b.path.glob("*.index"))[0]
    data = first.read_bytes()
    first.unlink()
    b.open(CLEAN)
    assert not first.exists(), "opening looks into no sealed segment"
    assert b.values()[0] == b"0" * 500
    b.log.durability.sync_sealed(b.log.tail)
    assert first.read_bytes() == data


def test_an_index_of_another_segment_of_the_same_size_is_not_believed(box: MakeBox) -> None:
    b = box(segment_bytes=1024)
    for n in range(6):
        b.append(b"x" * 600, timestamps=1000 + n)
    expected = (b.read(), b.sealed(), [b.log.reader.find_time(t, 6) for t in range(999, 1007)])
    b.close()
    indexes = sorted(b.path.glob("*.index"))
    assert len({file.stat().st_size for file in b.logs()}) == 1
    first, last = indexes[0].read_bytes(), indexes[-2].read_bytes()
    indexes[0].write_bytes(last)
    indexes[-2].write_bytes(first)
    b.open(CLEAN)
    assert (b.read(), b.sealed(), [b.log.reader.find_time(t, 6) for t in range(999, 1007)]) == expected


def test_an_index_that_is_larger_than_any_of_its_segment_is_not_read(
    box: MakeBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = box(segment_bytes=1024)
    for n in range(6):
        b.append(b"%d" % n * 500)
    values = b.values()
    b.close()
    with sorted(b.path.glob("*.index"))[0].open("r+b") as file:
        file.truncate(1 << 30)
    b.open(CLEAN)
    read = 0
    pread = OsFile.pread

    def counted(file: OsFile, length: int, position: int) -> bytes:
        nonlocal read
        data = pread(file, length, position)
        read += len(data)
        return data

    monkeypatch.setattr(OsFile, "pread", counted)
    assert b.values() == values
    assert read < 1 << 20


@pytest.mark.damaged
def test_a_sealed_segment_that_ends_early_is_reported_when_it_is_read(
    box: MakeBox, caplog: pytest.LogCaptureFixture
) -> None:
    b = box(segment_bytes=1500)
    for n in range(6):
        b.append(b"%d" % n * 500)
    b.close()
    path = b.logs()[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    b.open(CLEAN)
    assert caplog.messages == []
    with pytest.raises(CorruptRecordError, match="records from offset 1 up to, not including, 2 are missing"):
        b.values()
    assert [message for message in caplog.messages if "ends at offset 1" in message]
    assert [problem.lost for problem in b.problems()] == [(1, 2)]
    assert [entry.offset for entry in b.read(skip=True)] == [0, 2, 3, 4, 5]


# What retention and compaction ask for


def test_retention_by_size_looks_into_no_segment_and_by_age_only_into_those_that_go(
    box: MakeBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = box(segment_bytes=1024, retention_bytes=2000)
    for n in range(8):
        b.append(b"%d" % n * 600, timestamps=NOW + n)
    b.close()
    for index in b.path.glob("*.index"):
        index.unlink()
    b.open(CLEAN)
    looked: list[int] = []

    def look(segment: Segment, size: int) -> Walk:
        looked.append(segment.base_offset)
        return walk(segment, size)

    monkeypatch.setattr(scan, "walk", look)
    assert b.partition.maintenance.apply_retention(NOW).result() > 0
    assert looked == []
    start = b.log.tail.start_offset
    b.partition.configure(TopicConfig(segment_bytes=1024, retention_ms=10))
    assert b.partition.maintenance.apply_retention(NOW + 10 + start + 1).result() == start + 1
    assert looked == [start, start + 1]


def test_an_index_without_its_segment_is_removed(box: MakeBox) -> None:
    b = box()
    b.append(b"x")
    (b.path / f"{77:020d}.index").write_bytes(b"stray")
    b.reopen(KILLED)
    assert [name for name in b.names() if name.endswith(".index")] == []


# Files that should not be there


def test_an_empty_segment_of_an_interrupted_roll_hides_nothing(box: MakeBox) -> None:
    b = box()
    two_batches(b)
    (b.path / f"{2:020d}.log").touch()
    b.append(b"three")
    b.reopen(KILLED)
    assert b.values() == [b"one", b"two", b"three"]
    assert b.append(b"four") == 3


def test_an_empty_segment_of_an_interrupted_roll_before_a_real_one_hides_nothing(box: MakeBox) -> None:
    b = box()
    two_batches(b)
    (b.path / f"{2:020d}.log").touch()
    b.append(b"three")
    b.log.roll(b.now)
    b.append(b"four")
    b.reopen(KILLED)
    assert b.values() == [b"one", b"two", b"three", b"four"]
    assert len(b.logs()) == 2


def test_an_empty_segment_behind_a_torn_write_is_out_of_the_way(box: MakeBox) -> None:
    b = box()
    at = two_batches(b)
    (b.path / f"{1:020d}.log").touch()
    b.log.release()
    path = b.logs()[0]
    path.write_bytes(path.read_bytes()[: at + 50])
    b.open(KILLED)
    assert b.values() == [b"one"]
    assert b.append(b"again") == 1
    assert b.values() == [b"one", b"again"]


def test_the_empty_segment_of_a_roll_just_before_the_kill_is_the_active_one(box: MakeBox) -> None:
    b = box()
    two_batches(b)
    b.log.roll(b.now)
    for _ in range(2):
        b.reopen(KILLED)
        assert b.append(b"next") >= 2
        b.log.roll(b.now)
    assert b.values() == [b"one", b"two", b"next", b"next"]


@pytest.mark.parametrize(
    "name",
    [
        "٠" * 20 + ".log", "9" * 20 + ".log", f"{1 << 62:020d}.log", "1.log", "notes.txt", "x.log",
        f"{0:020d}.log.cut-٣", f"{0:020d}.log.cut-", f"{0:020d}.log\n",
    ],
)  # fmt: skip
def test_files_with_other_names_are_left_alone(box: MakeBox, name: str) -> None:
    b = box()
    two_batches(b)
    (b.path / name).write_bytes(b"mine")
    b.reopen(KILLED)
    assert b.values() == [b"one", b"two"]
    assert (b.path / name).read_bytes() == b"mine"


@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
@pytest.mark.parametrize("crash", [CLEAN, KILLED, POWER_LOST], ids=["closed", "killed", "power lost"])
def test_what_is_no_file_where_an_index_belongs_is_as_good_as_none(
    box: MakeBox, kind: str, crash: PreviousShutdown
) -> None:

    b = box(segment_bytes=1024)
    for n in range(4):
        b.append(b"%d" % n * 500)
    values = b.values()
    b.close()
    index = sorted(b.path.glob("*.index"))[0]
    index.unlink()
    if kind == "link":
        index.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(index)
    else:
        index.mkdir()
    b.open(crash)
    assert b.values() == values
    assert b.log.reader.find_time(NOW, 4) is not None


@pytest.mark.damaged
def test_a_link_or_a_pipe_where_a_segment_belongs_is_refused(box: MakeBox) -> None:

    for make in (lambda path: path.symlink_to("/etc/hostname"), os.mkfifo):
        b = box()
        b.append(b"x")
        b.close()
        path = b.path / f"{1:020d}.log"
        make(path)
        with pytest.raises(StorageError, match=path.name):
            b.open(CLEAN)


# The state


@pytest.mark.damaged
@pytest.mark.parametrize("harm", ["missing", "empty", "zeros", "garbage", "of another partition"])
def test_without_its_state_a_log_with_segments_does_not_open(box: MakeBox, harm: str) -> None:
    b = box()
    b.append(b"a", b"b")
    b.log.advance_start(1)
    b.close()
    path = b.path / "partition.state"
    data = bytearray(path.read_bytes())
    if harm == "missing":
        path.unlink()
    elif harm == "of another partition":
        for slot in (0, SLOT_BYTES):
            data[slot + 16] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes({"empty": b"", "zeros": bytes(8192), "garbage": b"\xa5" * 8192}[harm])
    with pytest.raises(CorruptRecordError, match=r"partition\.state"):
        b.open(CLEAN)
    assert [problem.kind for problem in b.problems()] == ["state"]


def test_one_torn_slot_of_the_state_is_survived(box: MakeBox) -> None:
    b = box()
    b.append(b"a", b"b", b"c")
    b.log.advance_start(1)
    before = (b.path / "partition.state").read_bytes()
    b.log.advance_start(2)
    b.log.release()
    path = b.path / "partition.state"
    data = bytearray(path.read_bytes())
    newer = next(slot for slot in (0, SLOT_BYTES) if data[slot : slot + 76] != before[slot : slot + 76])
    data[newer + 40] ^= 1
    path.write_bytes(data)
    assert [(finding.kind, finding.is_note) for finding in b.check().findings] == [("state", True)]
    b.open(KILLED)
    assert b.log.tail.start_offset == 1
    b.log.advance_start(2)


def test_a_new_partition_has_a_state_before_its_first_record(box: MakeBox) -> None:
    b = box()
    assert (b.path / "partition.state").stat().st_size > 0
    b.reopen(KILLED)
    assert b.append(b"first") == 0


@pytest.mark.damaged
def test_a_segment_of_a_newer_version_is_refused_as_one(box: MakeBox) -> None:
    from streamlog.records import batch as batches

    b = box()
    b.append(b"x")
    b.close()
    path = b.logs()[0]
    data = bytearray(path.read_bytes())
    data[4] = 9
    header_len = int.from_bytes(data[5:7], "little")
    digest = batches.xxh3_64_intdigest(bytes(data[:11] + data[15:header_len]), SEED) & 0xFFFFFFFF
    data[11:15] = digest.to_bytes(4, "little")
    path.write_bytes(data)
    path.with_suffix(".index").unlink()
    with pytest.raises(FormatError, match="newer"):
        b.open(CLEAN)


def test_on_a_full_disk_files_below_the_log_start_stay_and_are_not_read(box: MakeBox) -> None:
    b, values = segments_on_counting_disk(box)
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


@pytest.mark.damaged
def test_a_disk_that_fails_anywhere_in_opening_a_damaged_end_says_so_typed(box: MakeBox) -> None:
    b = box()
    b.append(b"one")
    b.append(b"two")
    b.log.release()
    flip(b.logs()[0], b.logs()[0].stat().st_size // 2 + 20)
    disk = b.disk = CountingDisk()
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
    path.write_bytes(data + MAGIC + bytes([VERSION]) + bytes(FIXED_LEN))
    b.open(KILLED)
    with pytest.raises(CorruptRecordError):
        b.append(b"two")
    assert path.stat().st_size == len(data) + len(MAGIC) + 1 + FIXED_LEN
    b.log.release()
    path.write_bytes(data + data[: FIXED_LEN - 1])
    b.open(KILLED)
    assert path.stat().st_size == len(data), "the beginning of a batch is a torn write"


# A disk that fails


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
        last.write_bytes(last.read_bytes() + MAGIC + b"torn")
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


# What opening costs


class _Counting:
    """Reads of a segment, counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = self.bytes = 0
        plain = Segment.read

        def read(segment: Segment, length: int, position: int) -> bytes:
            data = plain(segment, length, position)
            self.calls += 1
            self.bytes += len(data)
            return data

        monkeypatch.setattr(Segment, "read", read)


def test_opening_looks_into_no_sealed_segment_with_or_without_indexes(
    box: MakeBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    b, values = four_segments(box, synced=3)
    for crash in (KILLED, POWER_LOST):
        for index in b.path.glob("*.index"):
            index.unlink()
        counting = _Counting(monkeypatch)
        b.open(crash)
        active = b.logs()[-1].stat().st_size
        assert counting.bytes <= 2 * active
        assert b.append(b"x") >= 8
        b.log.release()
        monkeypatch.undo()
    b.open(KILLED)
    assert b.values()[:8] == values


@pytest.mark.parametrize("count", [200, 400])
def test_headers_of_small_batches_are_walked_in_few_large_reads(
    box: MakeBox, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    b = box()
    for _ in range(count):
        b.append(b"small")
    size = b.log.tail.end_position
    b.log.release()
    counting = _Counting(monkeypatch)
    b.open(KILLED)
    assert counting.calls <= 2 + size // 100_000
    assert counting.bytes <= size + 4096


@pytest.mark.parametrize("count", [10, 20])
def test_of_large_batches_only_the_headers_are_read(box: MakeBox, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    b = box()
    for _ in range(count):
        b.append(b"x" * 200_000)
    b.log.release()
    counting = _Counting(monkeypatch)
    b.open(KILLED)
    assert counting.calls <= count + 2
    assert counting.bytes <= 1024 * count
