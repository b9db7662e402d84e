"""A FaultyDisk fails the chosen calls and no others, over real files and simulated ones."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog.runtime.disk import OsDisk
from streamlog.testing import FaultyDisk, ManualClock, SimulatedDisk


@pytest.fixture(params=["real", "simulated"])
def disk(request: pytest.FixtureRequest) -> FaultyDisk:
    """A disk without a fault so far."""
    return FaultyDisk(SimulatedDisk() if request.param == "simulated" else None)


@pytest.fixture
def root(disk: FaultyDisk, tmp_path: Path) -> str:
    disk.makedirs(str(tmp_path))
    return str(tmp_path)


def refused(call: Callable[[], Any]) -> int | None:
    """The errno that a call fails with, or None."""
    try:
        call()
    except OSError as error:
        return error.errno
    return None


def test_without_a_fault_it_is_the_disk_within(disk: FaultyDisk, root: str) -> None:
    disk.write_atomic(f"{root}/a", b"content")
    disk.makedirs(f"{root}/dir/deep")
    disk.rename(f"{root}/a", f"{root}/dir/deep/b")
    assert disk.read(f"{root}/dir/deep/b") == b"content"
    assert disk.open(f"{root}/dir/deep/b").map(7).read(4, 3) == b"tent"
    disk.rmtree(f"{root}/dir")
    assert disk.listdir(root) == []
    assert disk.absolute(root) == disk.inner.absolute(root)
    assert disk.boot_id() == disk.inner.boot_id()
    assert not disk.is_network_filesystem(root)
    assert disk.space(root) == disk.inner.space(root)
    assert disk.inner.exists(disk.new_temporary_directory())


OPERATIONS: dict[str, Callable[[FaultyDisk, str], Any]] = {
    "open": lambda disk, root: disk.open(f"{root}/f"),
    "create": lambda disk, root: disk.open(f"{root}/g", create=True),
    "pread": lambda disk, root: disk.open(f"{root}/f").pread(1, 0),
    "pwrite": lambda disk, root: disk.open(f"{root}/f").pwrite([b"x"], 0),
    "size": lambda disk, root: disk.open(f"{root}/f").size(),
    "truncate": lambda disk, root: disk.open(f"{root}/f").truncate(1),
    "sync": lambda disk, root: disk.open(f"{root}/f").sync(),
    "map": lambda disk, root: disk.open(f"{root}/f").map(1),
    "map_read": lambda disk, root: disk.open(f"{root}/f").map(1).read(1, 0),
    "exists": lambda disk, root: disk.exists(f"{root}/f"),
    "listdir": lambda disk, root: disk.listdir(root),
    "makedirs": lambda disk, root: disk.makedirs(f"{root}/dir"),
    "mkdir": lambda disk, root: disk.makedirs(f"{root}/dir"),
    "rename": lambda disk, root: disk.rename(f"{root}/f", f"{root}/g"),
    "unlink": lambda disk, root: disk.unlink(f"{root}/f"),
    "rmtree": lambda disk, root: disk.rmtree(f"{root}/empty"),
    "sync_dir": lambda disk, root: disk.sync_dir(root),
    "lock": lambda disk, root: disk.lock(f"{root}/lock").acquire(),
}


@pytest.mark.parametrize("op", OPERATIONS)
def test_every_operation_can_fail_and_works_again(disk: FaultyDisk, root: str, op: str) -> None:
    disk.write_atomic(f"{root}/f", b"content")
    disk.makedirs(f"{root}/empty")
    fault = disk.fail(op, errno.EIO)
    call = OPERATIONS[op]
    assert refused(lambda: call(disk, root)) == errno.EIO
    assert disk.inner.listdir(root) == ["empty", "f"], "a call that fails changes nothing"
    assert fault.fired == 1
    assert refused(lambda: call(disk, root)) is None
    assert fault.fired == 1


def test_the_nth_call_fails_and_so_many_after_it(disk: FaultyDisk, root: str) -> None:
    file = disk.open(f"{root}/f", create=True)
    fault = disk.fail("pwrite", errno.EDQUOT, nth=3, times=2)
    found = [refused(lambda: file.pwrite([b"x"], 0)) for _ in range(6)]
    assert found == [None, None, errno.EDQUOT, errno.EDQUOT, None, None]
    assert (fault.seen, fault.fired) == (6, 2)


def test_a_fault_for_ever_ends_when_it_is_healed(disk: FaultyDisk, root: str) -> None:
    first = disk.fail("sync_dir", errno.EIO, times=None)
    second = disk.fail("listdir", errno.EIO, times=None)
    assert [refused(lambda: disk.sync_dir(root)) for _ in range(5)] == [errno.EIO] * 5
    disk.heal(first)
    assert refused(lambda: disk.sync_dir(root)) is None
    assert refused(lambda: disk.listdir(root)) == errno.EIO
    disk.heal()
    assert refused(lambda: disk.listdir(root)) is None
    assert (first.fired, second.fired) == (5, 1)


def test_only_paths_that_match_fail(disk: FaultyDisk, root: str) -> None:
    disk.fail("create", errno.EACCES, times=None, path="*/deep/*.log")
    disk.makedirs(f"{root}/deep")
    assert refused(lambda: disk.open(f"{root}/deep/1.log", create=True)) == errno.EACCES
    assert refused(lambda: disk.open(f"{root}/deep/1.index", create=True)) is None
    assert refused(lambda: disk.open(f"{root}/1.log", create=True)) is None


def test_a_group_fails_whatever_belongs_to_it(disk: FaultyDisk, root: str) -> None:
    file = disk.open(f"{root}/f", create=True)
    disk.fail("write", errno.EROFS, times=None)
    assert refused(lambda: file.pwrite([b"x"], 0)) == errno.EROFS
    assert refused(lambda: disk.unlink(f"{root}/f")) == errno.EROFS
    assert refused(lambda: file.pread(1, 0)) is None
    disk.heal()
    disk.fail("any", errno.EIO, nth=2)
    assert [refused(file.size), refused(file.sync), refused(file.size)] == [None, errno.EIO, None]


def test_an_exception_of_ones_own_is_raised_as_it_is(disk: FaultyDisk, root: str) -> None:
    disk.fail("listdir", KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        disk.listdir(root)


def test_the_steps_of_an_atomic_write_fail_one_by_one(disk: FaultyDisk, root: str) -> None:
    disk.write_atomic(f"{root}/f", b"old")
    for op in ("create", "pwrite", "sync", "rename"):
        disk.fail(op, errno.EIO)
        assert refused(lambda: disk.write_atomic(f"{root}/f", b"new")) == errno.EIO
        assert disk.read(f"{root}/f") == b"old"
    disk.write_atomic(f"{root}/f", b"new")
    assert (disk.read(f"{root}/f"), disk.listdir(root)) == (b"new", ["f"])


def test_removing_a_tree_may_end_half_way(disk: FaultyDisk, root: str) -> None:
    for name in ("1", "2", "3"):
        disk.write_atomic(f"{root}/{name}", b"")
    disk.fail("unlink", errno.EIO, nth=2)
    assert refused(lambda: disk.rmtree(root)) == errno.EIO
    assert disk.listdir(root) == ["2", "3"]


def test_a_write_may_leave_some_of_its_bytes_before_it_fails(disk: FaultyDisk, root: str) -> None:
    file = disk.open(f"{root}/f", create=True)
    disk.fail("pwrite", errno.ENOSPC, short=5)
    assert refused(lambda: file.pwrite([b"abc", b"defgh"], 0)) == errno.ENOSPC
    assert disk.read(f"{root}/f") == b"abcde"


def test_a_full_disk_takes_what_there_is_room_for_and_goes_on_when_space_is_freed(disk: FaultyDisk, root: str) -> None:
    disk.write_atomic(f"{root}/old", bytes(100))
    disk.capacity = 110
    file = disk.open(f"{root}/f", create=True)
    assert refused(lambda: file.pwrite([bytes(6), bytes(6)], 0)) == errno.ENOSPC
    assert (file.size(), disk.used) == (10, 110)
    assert refused(lambda: file.pwrite([b"x" * 10], 0)) is None, "overwriting takes no space"
    assert refused(lambda: file.pwrite([b"x"], 10)) == errno.ENOSPC
    disk.unlink(f"{root}/old")
    assert refused(lambda: file.pwrite([b"x" * 100], 10)) is None
    assert disk.used == 110
    file.truncate(0)
    assert disk.used == 0


def test_a_file_renamed_over_another_frees_it(disk: FaultyDisk, root: str) -> None:
    for _ in range(5):
        disk.write_atomic(f"{root}/f", bytes(100))
    assert disk.used == 100


def test_a_failed_sync_of_a_simulated_disk_loses_what_it_was_to_sync() -> None:
    inner = SimulatedDisk()
    disk = FaultyDisk(inner)
    file = disk.open("/f", create=True)
    disk.sync_dir("/")
    file.pwrite([b"lost"], 0)
    disk.fail("sync", errno.EIO)
    assert refused(file.sync) == errno.EIO
    assert refused(file.sync) is None
    assert disk.read("/f") == b"lost"
    assert inner.power_loss("lax").read("/f") == b""


def test_what_it_cannot_fail_is_refused() -> None:
    with pytest.raises(ValueError, match="'fsync' is not an operation"):
        FaultyDisk().fail("fsync")
    with pytest.raises(ValueError, match="counted from 1"):
        FaultyDisk().fail("sync", nth=0)


def test_calls_are_counted_by_name_and_path(disk: FaultyDisk, root: str) -> None:
    disk.calls.clear()
    disk.exists(f"{root}/f")
    disk.write_atomic(f"{root}/f", b"x")
    assert disk.calls == [
        ("exists", f"{root}/f"),
        ("create", f"{root}/f.tmp"),
        ("pwrite", f"{root}/f.tmp"),
        ("sync", f"{root}/f.tmp"),
        ("rename", f"{root}/f.tmp"),
        ("sync_dir", root),
    ]


def test_a_log_on_a_faulty_disk_over_real_files_is_the_log_in_that_directory(
    path: Path, open_log: Any, clock: ManualClock
) -> None:
    disk = FaultyDisk()
    log = open_log(disk=disk)
    orders = log.create_topic("orders")
    orders.send("kept")
    fault = disk.fail("pwrite", errno.ENOSPC, path="*.log", short=20)
    with pytest.raises(streamlog.DiskFullError):
        orders.send("refused")
    assert fault.fired == 1
    orders.send("goes on")
    log.close()
    assert isinstance(disk.inner, OsDisk)
    assert [record.value for record in open_log()["orders"].read()] == [b"kept", b"goes on"]
