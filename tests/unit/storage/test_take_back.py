"""An append that failed, and may be on the device all the same, is taken back: from the file, its name, and the device."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from streamlog.config import TopicConfig
from streamlog.errors import CorruptRecordError, DiskFullError, PoisonedLogError, StorageError
from streamlog.storage.log import Log
from streamlog.storage.recovery.recovery import open_log
from streamlog.storage.tail import LogSnapshot
from streamlog.testing import FaultyDisk, SimulatedDisk

from .conftest import KILLED, PARTITION, POWER_LOST, SEED, TOPIC_ID, Box

MakeBox = Callable[..., Box]
SIZE = 600
CHOICES: tuple[int | str, ...] = ("strict", "lax", *range(8), *(f"harsh-{n}" for n in range(8)))


@pytest.fixture
def machine() -> SimulatedDisk:
    return SimulatedDisk()


@pytest.fixture
def b(machine: SimulatedDisk) -> Box:
    """A log with two records that are on the device, on a disk whose calls can be made to fail."""
    box = Box.__new__(Box)
    box.path, box.disk, box.config, box.now = Path("/p"), FaultyDisk(machine), TopicConfig(segment_bytes=2048), 1000
    box.open()
    machine.sync_dir("/")
    for n in range(2):
        box.append(b"%d" % n * SIZE)
    box.log.durability.sync_files(0, box.log.tail)
    return box


def opened(disk: SimulatedDisk, *, power_lost: bool) -> Log:
    crash = POWER_LOST if power_lost else KILLED
    return open_log(disk, "/p", TOPIC_ID, PARTITION, SEED, TopicConfig(segment_bytes=2048), crash)


def is_void(b: Box, machine: SimulatedDisk) -> None:
    """Nothing of the append is in the log, nor after any crash."""
    assert (b.log.tail.end_offset, [entry.offset for entry in b.read()]) == (2, [0, 1])
    for disk, power_lost in ((machine.kill(), False), *((machine.power_loss(n), True) for n in CHOICES)):
        log = opened(disk, power_lost=power_lost)
        assert (log.tail.end_offset, [entry.offset for entry in b.read(reader=log.reader)]) == (2, [0, 1])
        log.release()


def appended(b: Box, value: bytes = b"refused") -> LogSnapshot:
    """Append a record, and fail to have it on the device, as a full disk or a broken one would; the tail before."""
    before = b.log.tail
    with suppress(StorageError, DiskFullError, PoisonedLogError):
        b.append(value)
        b.log.durability.sync_files(before.end_offset, b.log.tail)
    return before


def test_a_record_whose_write_failed_after_its_last_byte_is_cut_off_durably(b: Box, machine: SimulatedDisk) -> None:
    b.disk.fail("pwrite", errno.EIO, short=1 << 20)
    b.disk.fail("truncate", errno.EIO)
    before = appended(b)
    assert opened(machine.kill(), power_lost=False).tail.end_offset == 3, "a kill would have brought it back"
    b.log.take_back(before)
    is_void(b, machine)
    assert b.append(b"next") == 2
    assert b.log.durability.poison is None


def test_a_record_whose_sync_failed_is_left_behind_in_the_old_file(b: Box, machine: SimulatedDisk) -> None:
    b.disk.fail("sync", errno.EIO)
    before = appended(b)
    b.log.take_back(before)
    is_void(b, machine)
    with pytest.raises(PoisonedLogError):
        b.append(b"next")


@pytest.mark.parametrize("op", ["sync", "pwrite"])
def test_a_record_that_began_a_segment_leaves_an_empty_one(b: Box, machine: SimulatedDisk, op: str) -> None:
    b.disk.fail(op, errno.EIO, path=f"*{2:020d}.log", short=1 << 20)
    before = appended(b, b"2" * SIZE)
    b.log.take_back(before)
    assert b.log.tail.bases == (0, 2)
    is_void(b, machine)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("op", ["truncate", "sync", "open"])
def test_where_the_file_cannot_be_cut_a_copy_takes_its_place(
    b: Box, machine: SimulatedDisk, op: str, number: int
) -> None:
    b.disk.fail("pwrite", errno.EIO, short=1 << 20)
    before = appended(b)
    b.log.close_idle_files()
    b.disk.fail(op, number)
    b.log.take_back(before)
    is_void(b, machine)


@pytest.mark.parametrize("op", ["create", "pread", "pwrite", "sync", "rename", "sync_dir"])
def test_taking_back_can_be_tried_again_after_it_failed(b: Box, machine: SimulatedDisk, op: str) -> None:
    b.disk.fail("pwrite", errno.EIO, short=1 << 20)
    before = appended(b)
    b.disk.fail("truncate", errno.EIO, times=2)
    b.disk.fail(op, errno.ENOSPC, times=2)
    for _ in range(2):
        with pytest.raises((StorageError, DiskFullError)):
            b.log.take_back(before)
    b.log.take_back(before)
    is_void(b, machine)
    assert b.append(b"next") == 2


def test_a_name_that_may_not_be_on_the_device_is_not_rested_on(b: Box, machine: SimulatedDisk) -> None:
    """The copy took the file's place, but a power loss may bring the old one back: cutting the copy would prove nothing."""
    b.disk.fail("pwrite", errno.EIO, short=1 << 20)
    before = appended(b)
    b.disk.fail("truncate", errno.EIO)
    b.disk.fail("sync_dir", errno.ENOSPC)
    with pytest.raises(DiskFullError):
        b.log.take_back(before)
    b.log.take_back(before)
    is_void(b, machine)


def test_a_copy_that_is_not_what_was_written_takes_no_place(b: Box, machine: SimulatedDisk) -> None:
    b.disk.fail("sync", errno.EIO)
    before = appended(b)
    file = machine.open(b.log.tail.segments[-1].path)
    whole = file.pread(1, 100)
    file.pwrite([b"?"], 100)
    with pytest.raises(CorruptRecordError, match="no longer what was written"):
        b.log.take_back(before)
    file.pwrite([whole], 100)
    b.log.take_back(before)
    is_void(b, machine)


def test_an_append_whose_file_could_not_be_opened_wrote_nothing(b: Box, machine: SimulatedDisk) -> None:
    b.log.close_idle_files()
    b.disk.fail("open", errno.EMFILE, path="*.log", times=2)
    write = b.write(b"refused")
    with pytest.raises(StorageError):
        b.log.append(write, 0, b.now)
    assert write.append_ms == -1
    assert b.append(b"next") == 2
