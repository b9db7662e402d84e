"""A log whose directory no process owns: what is intact in its files can be read."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from streamlog.errors import CorruptRecordError, StorageError
from streamlog.runtime.disk import OsDisk
from streamlog.storage.published import Slot
from streamlog.storage.tailing import TailedLog

from .conftest import KILLED, PARTITION, SEED, TOPIC_ID, Box
from .test_tailing import Along, small, value

MakeBox = Callable[..., Box]


def alone(b: Box) -> Along:
    """A reader of a directory without an owner: there is no news."""
    along = Along(b)
    along.log.renew = lambda failed: None
    return along


def left_alone(b: Box, slot: Slot | None = None, *, verify: bool = False) -> list[bytes | None]:
    along = alone(b)
    along.log.follow_files(slot, verify=verify, is_alone=lambda: True)
    assert along.log.high_watermark == along.log.tail.end_offset
    return along.values()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 9])
@pytest.mark.parametrize("clean", [True, False])
def test_everything_whole_is_read_when_there_is_no_owner(box: MakeBox, count: int, clean: bool) -> None:
    b = small(box, count)
    slot = Along(b).slot()
    for n in range(count, count + 3):
        b.append(value(n))
    everything = [value(n) for n in range(count + 3)]
    if clean:
        b.close()
    before = {path: path.read_bytes() for path in b.path.iterdir()}
    assert left_alone(b) == everything
    assert left_alone(b, verify=True) == everything
    assert left_alone(b, slot) == everything
    assert {path: path.read_bytes() for path in b.path.iterdir()} == before
    if clean:
        b.open()


def test_what_lies_behind_the_last_word_of_an_owner_is_found_from_there(box: MakeBox) -> None:
    b = box()
    b.append(value(0))
    slot = Along(b).slot()
    b.append(value(1))
    b.append(value(2))
    with b.logs()[-1].open("ab") as file:
        file.write(b.logs()[0].read_bytes()[:200])
    assert left_alone(b, slot) == [value(0), value(1), value(2)]
    assert left_alone(b, slot._replace(end_position=1 << 20)) == [value(0), value(1), value(2)]
    b.reopen(KILLED)


def test_a_torn_end_is_left_out_and_left_alone(box: MakeBox) -> None:
    b = small(box, 3)
    slot = Along(b).slot()
    with b.logs()[-1].open("ab") as file:
        file.write(b.logs()[0].read_bytes()[:200])
    assert left_alone(b) == left_alone(b, slot) == [value(n) for n in range(3)]
    b.reopen(KILLED)
    assert b.values() == [value(n) for n in range(3)]


@pytest.mark.damaged
def test_after_a_boot_payloads_past_the_recovery_point_are_verified(box: MakeBox) -> None:
    b = small(box, 3)
    data = bytearray(b.logs()[-1].read_bytes())
    data[-1] ^= 1
    b.logs()[-1].write_bytes(data)
    assert left_alone(b, verify=True) == [value(0), value(1)]
    along = Along(b)
    along.log.follow_files(None, verify=False, is_alone=lambda: True)
    assert along.log.tail.end_offset == 3
    with pytest.raises(CorruptRecordError):
        along.values()


@pytest.mark.damaged
def test_damage_in_the_middle_hides_nothing_behind_it(box: MakeBox) -> None:
    b = box()
    for n in range(4):
        b.append(value(n))
    data = bytearray(b.logs()[0].read_bytes())
    data[len(data) // 4 + 40] ^= 1
    b.logs()[0].write_bytes(data)
    along = Along(b)
    along.log.follow_files(None, verify=False, is_alone=lambda: True)
    assert along.log.tail.end_offset == 4
    assert len(b.read(skip=True, reader=along.log)) == 3


@pytest.mark.parametrize("left", ["empty and passed", "empty and not needed", "empty and next"])
def test_an_interrupted_roll_is_seen_as_the_next_open_sees_it(box: MakeBox, left: str) -> None:
    b = small(box, 1)
    if left == "empty and passed":
        (b.path / f"{1:020d}.log").write_bytes(b"")
        b.append(value(1))
    elif left == "empty and next":
        (b.path / f"{1:020d}.log").write_bytes(b"")
    else:
        (b.path / f"{1:020d}.log").write_bytes(b"")
        with b.logs()[0].open("ab") as file:
            file.write(b"SLB")
    found = left_alone(b)
    b.reopen(KILLED)
    assert found == b.values()


def test_a_finished_swap_is_the_truth(box: MakeBox) -> None:
    b = small(box, 12, cleanup_policy="compact")

    class Stops(OsDisk):
        def sync_dir(self, path: str) -> None:
            if any(name.endswith(".swap") for name in self.listdir(path)):
                raise OSError(errno.EIO, "stop")
            super().sync_dir(path)

    b.partition.maintenance.roll(b.now)
    b.log.disk = Stops()
    with pytest.raises(StorageError):
        b.partition.maintenance.compact(b.now)
    assert any(name.endswith(".swap") for name in b.names())
    found = left_alone(b)
    assert len(found) < 12
    b.log.disk = b.disk
    b.reopen(KILLED)
    assert found == b.values()


@pytest.mark.damaged
def test_a_gap_before_an_empty_last_segment_is_reported(box: MakeBox) -> None:
    b = small(box, 3)
    (b.path / f"{9:020d}.log").write_bytes(b"")
    along = alone(b)
    along.log.follow_files(None, verify=False, is_alone=lambda: True)
    assert along.log.tail.end_offset == 9
    with pytest.raises(CorruptRecordError):
        along.values()


def test_deleted_records_stay_deleted_without_an_owner(box: MakeBox) -> None:
    b = small(box, 8)
    b.partition.delete_records(5)
    assert left_alone(b) == [value(n) for n in range(5, 8)]
    b.partition.delete_records(8)
    assert left_alone(b) == []


@pytest.mark.damaged
@pytest.mark.parametrize("harm", ["no directory", "no segment"])
def test_a_log_that_is_lost_is_never_taken_for_an_empty_one(box: MakeBox, harm: str) -> None:
    b = small(box, 3)
    b.log.release()
    for path in b.logs():
        path.unlink()
    directory = b.path if harm == "no segment" else b.path / "none"
    log = TailedLog(Along(b).disk, str(directory), SEED, TOPIC_ID, PARTITION)  # type: ignore[arg-type]
    with pytest.raises(CorruptRecordError, match="lost"):
        log.follow_files(None, verify=False, is_alone=lambda: True)
    assert not log.follow_files(None, verify=False, is_alone=lambda: False), "its owner is deleting it, perhaps"


@pytest.mark.damaged
def test_a_log_whose_only_segment_a_recovery_was_moving_aside_is_empty(box: MakeBox) -> None:
    b = small(box, 3)
    for path in b.logs():
        path.rename(f"{path}.cut-0")
    assert left_alone(b) == []


@pytest.mark.damaged
def test_without_a_state_that_verifies_nothing_is_read(box: MakeBox) -> None:
    b = small(box, 3)
    b.close()
    (b.path / "partition.state").write_bytes(b"x" * 8192)
    along = Along(b)
    with pytest.raises(CorruptRecordError, match="where the log starts"):
        along.log.follow_files(None, verify=False, is_alone=lambda: True)
    b.log.release()


def test_an_owner_that_appears_is_followed_on(box: MakeBox) -> None:
    b = small(box, 5)
    along = Along(b)
    along.follow()
    b.append(value(5))
    b.log.release()
    along.log.follow_files(along.slot(), verify=False, is_alone=lambda: True)
    assert along.values() == [value(n) for n in range(6)]
    b.open(KILLED)
    b.append(value(6))
    along.incarnation = 2
    along.follow()
    assert along.values() == [value(n) for n in range(7)]


def test_letting_go_twice_is_letting_go_once(box: MakeBox) -> None:
    along = Along(small(box, 5))
    along.follow()
    along.values()
    along.log.release()
    along.log.release()
