"""What a power loss tore is truncated and saved, through all segments; what was on the device never is."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

import streamlog
from streamlog.errors import CorruptRecordError, DiskFullError, StorageError
from streamlog.runtime.disk import OsDisk
from streamlog.storage import files
from streamlog.testing import ManualClock, SimulatedDisk

from ..conftest import CLEAN, KILLED, POWER_LOST, Box, four_segments
from ..counting_disk import CountingDisk, refuse, segments_on_counting_disk
from ..reopening import flip

MakeBox = Callable[..., Box]
Values = list[bytes | None]


def cut_files(b: Box) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in sorted(b.path.glob("*.cut-*"))}


# Where the log ends


def test_the_log_ends_at_the_first_batch_that_does_not_verify_in_whatever_segment(
    box: MakeBox, caplog: pytest.LogCaptureFixture
) -> None:
    b, values = four_segments(box)
    first, second, third, fourth = b.logs()
    sizes = [file.stat().st_size for file in b.logs()]
    half = sizes[1] // 2
    torn = second.read_bytes()[half:]
    flip(second, sizes[1] - 1)
    b.open(POWER_LOST)
    assert b.values() == values[:3]
    assert second.stat().st_size == half
    assert cut_files(b) == {
        f"{second.name}.cut-{half}": sizes[1] - half,
        f"{third.name}.cut-0": sizes[2],
        f"{fourth.name}.cut-0": sizes[3],
    }
    assert (b.path / f"{second.name}.cut-{half}").read_bytes()[:-1] == torn[:-1]
    message = next(record.getMessage() for record in caplog.records if "They were saved" in record.getMessage())
    assert f"truncated {sizes[1] - half + sizes[2] + sizes[3]} bytes, from byte {half} (offset 3)" in message
    assert all(name in message for name in cut_files(b))
    assert b.append(b"again") == 3
    b.reopen(KILLED)
    assert b.values() == [*values[:3], b"again"]
    assert first.exists()


def test_a_missing_segment_behind_the_recovery_point_ends_the_log_there(box: MakeBox) -> None:
    b, values = four_segments(box, synced=1)
    _, second, third, fourth = b.logs()
    second.unlink()
    b.open(POWER_LOST)
    assert b.values() == values[:2]
    assert set(cut_files(b)) == {f"{third.name}.cut-0", f"{fourth.name}.cut-0"}
    assert b.append(b"again") == 2
    assert [file.name for file in b.logs()] == [f"{0:020d}.log", f"{2:020d}.log"]


def test_a_segment_that_ends_early_ends_the_log(box: MakeBox) -> None:
    b, values = four_segments(box)
    second = b.logs()[1]
    second.write_bytes(second.read_bytes()[: second.stat().st_size // 2])
    before = second.stat().st_ino
    b.open(POWER_LOST)
    assert b.values() == values[:3]
    assert b.append(b"again") == 3
    assert second.stat().st_ino == before
    assert b.logs()[-1].name == f"{3:020d}.log", "a file that was sealed grows no more: a new one begins"


@pytest.mark.parametrize("left", ["half a batch", "a batch"])
@pytest.mark.parametrize("indexed", [False, True])
def test_what_was_taken_back_before_a_roll_ends_the_log_at_the_recovery_point(
    box: MakeBox, left: str, indexed: bool
) -> None:
    """The truncation of the segment before did not reach the device, the name of the next one did."""
    b = box()
    b.append(b"0" * 700)
    b.reopen(CLEAN)
    assert b.log.durability.recovery_point == 1
    size = b.logs()[0].stat().st_size
    b.append(b"1" * 100)
    refused = b.logs()[0].read_bytes()[size:]
    b.log.release()
    os.truncate(b.logs()[0], size)
    b.open(KILLED)
    b.log.roll(b.now)
    assert b.append(b"2" * 700) == 1
    b.log.release()
    if not indexed:
        for index in b.path.glob("*.index"):
            index.unlink()
    with b.logs()[0].open("ab") as file:
        file.write(refused if left == "a batch" else refused[:50])
    b.open(POWER_LOST)
    assert b.values() == [b"0" * 700] + [b"1" * 100] * (left == "a batch")
    assert b.append(b"next") == b.log.tail.end_offset - 1
    expected = b.values()
    b.reopen(CLEAN)
    assert b.values() == expected


def test_an_empty_segment_whose_bytes_never_reached_the_device_ends_the_log(box: MakeBox) -> None:
    b, values = four_segments(box)
    b.logs()[2].write_bytes(b"")
    b.open(POWER_LOST)
    assert b.values() == values[:4]
    assert b.append(b"again") == 4
    b.reopen(KILLED)
    assert b.values() == [*values[:4], b"again"]


def test_an_empty_segment_behind_a_torn_one_is_removed_and_not_kept(box: MakeBox) -> None:
    b, values = four_segments(box)
    _, second, _, fourth = b.logs()
    flip(second, second.stat().st_size - 1)
    fourth.write_bytes(b"")
    b.open(POWER_LOST)
    assert b.values() == values[:3]
    assert not fourth.exists()
    assert len(cut_files(b)) == 2, "of the second and of the third"


def test_where_only_empty_segments_are_torn_nothing_is_saved_and_nothing_said(
    box: MakeBox, caplog: pytest.LogCaptureFixture
) -> None:
    b, values = four_segments(box)
    first, second, third, fourth = b.logs()
    second.unlink()
    for file in (third, fourth):
        file.write_bytes(b"")
    b.open(POWER_LOST)
    assert b.values() == values[:2]
    assert cut_files(b) == {}
    assert "in the middle of writing" not in caplog.text
    assert b.append(b"on") == 2
    assert first.exists()


@pytest.mark.parametrize("first_is_left", [True, False])
def test_at_no_moment_of_a_cut_is_there_no_segment(
    box: MakeBox, monkeypatch: pytest.MonkeyPatch, first_is_left: bool
) -> None:
    """A directory without one is a lost partition, and a process may be killed at any moment."""
    b, _ = four_segments(box)
    for file in b.logs():
        file.write_bytes(b"")
    if not first_is_left:
        b.logs()[0].unlink()
    unlink = OsDisk.unlink

    def watched(disk: OsDisk, path: str) -> None:
        unlink(disk, path)
        assert b.logs(), f"{path} was the last"

    monkeypatch.setattr(OsDisk, "unlink", watched)
    b.open(POWER_LOST)
    assert b.values() == []
    assert b.append(b"on") == 0


def test_a_batch_whose_offset_goes_back_ends_the_log(box: MakeBox) -> None:
    b, values = four_segments(box)
    last = b.logs()[-1]
    data = last.read_bytes()
    last.write_bytes(data + data[: len(data) // 2])
    b.open(POWER_LOST)
    assert b.values() == values
    assert b.append(b"again") == 8


def test_everything_torn_leaves_an_empty_log_and_all_of_its_bytes(box: MakeBox) -> None:
    b, _ = four_segments(box)
    total = sum(file.stat().st_size for file in b.logs())
    flip(b.logs()[0], 3)
    b.open(POWER_LOST)
    assert (b.log.tail.start_offset, b.log.tail.end_offset) == (0, 0)
    assert sum(cut_files(b).values()) == total
    assert b.append(b"again") == 0


def test_nothing_torn_changes_no_file(box: MakeBox) -> None:
    b, values = four_segments(box, synced=1)
    before = {file.name: file.read_bytes() for file in b.logs()}
    b.open(POWER_LOST)
    assert b.values() == values
    assert {file.name: file.read_bytes() for file in b.logs()} == before
    assert cut_files(b) == {}


@pytest.mark.parametrize("harm", ["header", "payload", "missing", "short", "empty"])
def test_what_will_be_cut_is_no_damage(box: MakeBox, harm: str) -> None:
    b, values = four_segments(box, synced=1)
    second, third = b.logs()[1:3]
    if harm == "header" or harm == "payload":
        flip(second, 3 if harm == "header" else -1)
    elif harm == "missing":
        second.unlink()
    else:
        data = third.read_bytes() if harm == "short" else b""
        third.write_bytes(data[: len(data) // 2])
    checked = b.check(POWER_LOST)
    assert {(finding.kind, finding.is_note) for finding in checked.findings} <= {("torn", True), ("leftover", True)}
    assert "torn" in {finding.kind for finding in checked.findings}
    b.open(POWER_LOST)
    assert checked.records == len(b.values()) < len(values)


# What is not truncated


@pytest.mark.damaged
@pytest.mark.parametrize("position", [3, -1], ids=["header", "payload"])
def test_damage_before_the_recovery_point_is_reported_and_stays(box: MakeBox, position: int) -> None:
    b, values = four_segments(box, synced=2)
    first, second, *_ = b.logs()
    flip(first, position)
    flip(second, position)
    before = {file.name: file.read_bytes() for file in b.logs()}
    b.open(POWER_LOST)
    assert {file.name: file.read_bytes() for file in b.logs()} == before
    assert cut_files(b) == {}
    with pytest.raises(CorruptRecordError):
        b.values()
    lost = (0, 2) if position == 3 else (1, 3)
    assert b.values(skip=True) == [value for n, value in enumerate(values) if n not in lost]
    assert b.append(b"on") == 8


@pytest.mark.damaged
def test_damage_before_the_recovery_point_is_reported_with_the_torn_end_in_the_same_file(box: MakeBox) -> None:
    b = box()
    b.append(b"one")
    b.append(b"two")
    b.reopen()
    synced = b.log.tail.end_position
    b.append(b"three")
    b.log.release()
    path = b.logs()[0]
    flip(path, synced - 1)
    flip(path, path.stat().st_size - 1)
    b.open(POWER_LOST)
    assert path.stat().st_size == synced
    assert b.values(skip=True) == [b"one"]
    assert b.append(b"on") == 2


@pytest.mark.damaged
def test_a_segment_missing_before_the_recovery_point_is_reported_and_what_follows_stays(box: MakeBox) -> None:
    b, values = four_segments(box, synced=2)
    b.logs()[0].unlink()
    b.open(POWER_LOST)
    assert cut_files(b) == {}
    with pytest.raises(CorruptRecordError):
        b.values()
    assert [entry.value for entry in b.read(2)] == values[2:]


def test_a_file_that_was_sealed_is_never_shortened(box: MakeBox) -> None:
    b, values = four_segments(box)
    second = b.logs()[1]
    flip(second, second.stat().st_size - 1)
    size = second.stat().st_size
    with second.open("rb") as held:
        b.open(POWER_LOST)
        assert os.fstat(held.fileno()).st_size == size
    assert b.values() == values[:3]


def test_cut_files_of_an_earlier_crash_are_kept(box: MakeBox) -> None:
    b, _ = four_segments(box)
    kept: dict[str, bytes] = {}
    for n in range(3):
        path = b.logs()[0]
        with path.open("ab") as file:
            file.write(b"torn %d" % n * 100)
        b.open(POWER_LOST)
        b.log.release()
        found = {file.name: file.read_bytes() for file in b.path.glob("*.cut-*")}
        assert kept.items() <= found.items()
        assert len(found) > len(kept)
        kept = found
    assert b.problems() == []
    assert {note.kind for note in b.check().findings} == {"cut"}


# A truncation that is interrupted


def written(disk: SimulatedDisk, clock: ManualClock, seed: int) -> None:
    """A log of small segments, synced now and then, left as it is."""
    rng = random.Random(seed)
    log = streamlog.open("data", disk=disk, clock=clock)
    log.create_topic("t", segment_bytes=1024)
    with log.producer() as producer:
        for n in range(30):
            producer.send("t", b"%d" % n * rng.randrange(1, 300))
            if n < 15 and rng.random() < 0.2:
                clock.advance(1)  # in which what was sealed is synced


def values_in(disk: SimulatedDisk, clock: ManualClock) -> tuple[Values, int]:
    """What opening the log finds; it is left open, as by a crash. And the offset that the next record gets."""
    log = streamlog.open("data", disk=disk, clock=clock)
    if "t" not in log:
        return [], -1
    values = [record.value for record in log.topic("t").read()]
    return values, log.topic("t").send(b"next").result().offset


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_recovery_that_is_interrupted_anywhere_comes_to_the_same_end(seed: int) -> None:
    clock = ManualClock()
    disk = SimulatedDisk(seed)
    written(disk, clock, seed)
    cuts = 0
    for n in (*(f"harsh-{n}" for n in range(4)), *range(100)):
        if cuts == 4:
            break
        after = disk.power_loss(n)
        expected, end = values_in(after.power_loss("lax"), clock)
        recovery = after.power_loss("lax")
        log = streamlog.open("data", disk=recovery, clock=clock)
        names = [f"/data/topics/{name}" for name in recovery.listdir("/data/topics")]
        if not any(".cut-" in name for directory in names for name in recovery.listdir(directory)):
            continue
        cuts += 1
        for name, again in recovery.crashes(random=1, harsh=1):
            found, next_offset = values_in(again, clock)
            assert (found, next_offset) == (expected, end), f"disk {seed}, power loss {n}, then {name}"
        del log
    assert cuts, "nothing was torn"


# A full disk


@pytest.mark.parametrize("where", ["middle", "last"])
def test_on_a_full_disk_the_log_is_read_up_to_the_cut_and_goes_on_when_there_is_room(box: MakeBox, where: str) -> None:
    b, values = four_segments(box)
    torn = b.logs()[1 if where == "middle" else -1]
    flip(torn, torn.stat().st_size - 1)
    good = values[:3] if where == "middle" else values[:7]
    before = {file.name: file.read_bytes() for file in b.logs()}
    disk = b.disk = CountingDisk()
    disk.arm(0, OSError(errno.ENOSPC, "full"))
    full = True

    def fails(what: str) -> bool:
        return full and what.startswith(("pwrite", "write_atomic"))

    disk.fails = fails  # type: ignore[method-assign]
    b.open(POWER_LOST)
    assert b.values() == good
    blocked = StorageError("blocked", path="", errno=0)
    b.partition.block(blocked)
    with pytest.raises(StorageError, match="blocked"):
        b.append(b"no room")
    b.partition.unblock(blocked)
    for _ in range(2):
        with pytest.raises(DiskFullError):
            b.append(b"no room")
    assert {file.name: file.read_bytes() for file in b.logs()} == before, "nothing is cut before it is saved"
    full = False
    assert b.append(b"room") == len(good)
    assert b.values() == [*good, b"room"]
    b.reopen(KILLED)
    assert b.values() == [*good, b"room"]
    assert cut_files(b)


def test_a_log_that_was_not_cut_for_want_of_room_can_be_closed_and_is_cut_later(box: MakeBox) -> None:
    b, values = segments_on_counting_disk(box)
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


def test_a_first_segment_that_never_reached_the_device_leaves_an_empty_log(box: MakeBox) -> None:
    b, _ = segments_on_counting_disk(box)
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
    b, values = segments_on_counting_disk(box)
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
    b, values = segments_on_counting_disk(box)
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
    for call in ("pwrite", "open"):  # if there is no space at all, no file is created either
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
