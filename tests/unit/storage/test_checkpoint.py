"""The state of a partition, in two slots: what is read, what is refused, and what a failed write leaves."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from streamlog.errors import StorageError
from streamlog.storage.checkpoint import State, StateFile, slots
from streamlog.testing import faults

from .conftest import KILLED, PARTITION, TOPIC_ID, Box
from .counting_disk import armed, refuse, segments_on_counting_disk

MakeBox = Callable[..., Box]


@pytest.mark.parametrize("call", ["open", "pread"])
def test_a_checkpoint_that_cannot_be_read_raises_the_error_of_the_disk(box: MakeBox, call: str) -> None:
    b, _ = segments_on_counting_disk(box)
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
    b, _ = segments_on_counting_disk(box)
    file = StateFile.open(b.disk, str(b.path), TOPIC_ID, PARTITION, is_new=False)
    before = file.state
    refused = refuse(b.disk, errno.EIO, f"{call} {b.path}/partition.state")
    with pytest.raises(StorageError, match=r"partition\.state"):
        file.rewrite()
    refused.clear()
    assert file.state == before
    file.rewrite()


def test_a_slot_that_is_cut_is_damaged_and_one_of_zeros_was_never_written() -> None:
    assert slots(b"", bytes(16), 0) == (0, None, ())
    assert slots(bytes(8192), bytes(16), 0) == (0, None, ())
    assert slots(b"SLS\x02", bytes(16), 0) == (0, None, (0,))
    assert State(1, 2) == (1, 2, 0, -1)


def test_a_state_of_another_partition_is_not_this_ones(box: MakeBox) -> None:
    b = box()
    b.log.release()
    data = (b.path / "partition.state").read_bytes()
    assert slots(data, bytes(range(16)), 3).newest == State(0, 0)
    assert slots(data, bytes(range(16)), 4) == (0, None, (4096,))
    assert slots(data, bytes(16), 3).newest is None
    b.open(KILLED)


def test_a_state_write_that_fails_never_touches_the_only_good_slot(box: MakeBox) -> None:
    b, disk = armed(box)
    for n in range(6):
        b.append(b"%d" % n)
    b.log.advance_start(2)
    for _ in range(3):
        disk.arm(2, OSError(errno.EIO, "injected"), half=True)  # the first call opens the file
        with pytest.raises(StorageError):
            b.log.advance_start(4)
        disk.error = None
    b.reopen(KILLED)
    assert b.log.tail.start_offset == 2


def test_a_log_start_that_can_neither_be_written_nor_put_back_is_said_to_be_unknown(box: MakeBox) -> None:
    b = box()
    b.append(b"0", b"1", b"2")
    b.disk = faults.FaultyDisk()
    b.reopen()
    b.disk.fail("sync", errno.EIO, path="*partition.state", times=None)
    with pytest.raises(StorageError, match="nor put back what was there"):
        b.partition.delete_records(2)
    assert b.values() == [b"0", b"1", b"2"]
    b.disk.heal()
