"""After a failed sync the next open writes the files again, and says so until it has."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from streamlog.errors import PoisonedLogError
from streamlog.storage import files
from streamlog.storage.files import log_name
from streamlog.storage.recovery import resync

from ..conftest import KILLED, POWER_LOST, Box
from ..counting_disk import CountingDisk, append_segments, armed, calls_named, fail_next, markers_of, record_calls

MakeBox = Callable[..., Box]


def poisoned(box: MakeBox, **config: object) -> tuple[Box, CountingDisk]:
    b, disk = armed(box, segment_bytes=1024, **config)
    append_segments(b, 2)
    b.log.durability.sync_sealed(b.log.tail)
    append_segments(b, 2)
    fail_next(disk, "sync", errno.EIO)
    with pytest.raises(PoisonedLogError):
        b.log.durability.sync_files(2, b.log.tail)
    return b, disk


@pytest.mark.parametrize("crash", [KILLED, POWER_LOST])
def test_what_reaches_past_the_recovery_point_is_written_to_new_files(box: MakeBox, crash: object) -> None:
    b, disk = poisoned(box)
    values = b.values()
    record_calls(disk)
    b.reopen(crash)  # type: ignore[arg-type]
    # The one that ends at the recovery point as well: it costs less than to find out.
    assert calls_named(disk, "rename") == [log_name(1), log_name(2), log_name(3)]
    copies = [call for call in calls_named(disk, "sync") if call.endswith(".tmp")]
    assert copies == [f"{log_name(n)}.tmp" for n in (1, 2, 3)]
    assert not markers_of(b)
    assert b.values() == values
    assert b.append(b"on") == 4


def test_a_copy_larger_than_one_piece_is_whole(box: MakeBox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_COPY_BYTES", 100)
    b, _ = poisoned(box)
    values = b.values()
    b.reopen(KILLED)
    assert b.values() == values


def test_a_partition_that_cannot_be_written_anew_can_be_read_and_is_tried_again(box: MakeBox) -> None:
    b, disk = poisoned(box)
    values = b.values()
    fail_next(disk, "pwrite", errno.ENOSPC)  # the state
    fail_next(disk, "pwrite", errno.ENOSPC)  # the copy
    b.reopen(KILLED)
    with pytest.raises(PoisonedLogError, match="free space"):
        b.append(b"no")
    assert b.values() == values
    assert markers_of(b)
    b.reopen(KILLED)
    assert b.append(b"on") == 4
    assert b.values() == [*values, b"on"]


def test_the_copy_of_an_interrupted_resync_is_made_anew(box: MakeBox) -> None:
    b, _ = poisoned(box)
    values = b.values()
    (b.path / (log_name(1) + ".tmp")).write_bytes(b"half of it")
    resync.resync(b.disk, str(b.path), b.names(), 2)
    assert b.values() == values
    b.reopen(KILLED)
    assert b.values() == values


def test_word_that_cannot_be_left_is_no_second_error(box: MakeBox) -> None:
    b, disk = armed(box)
    b.append(b"1")
    disk.arm(1, OSError(errno.EIO, "injected"), once=False)
    with pytest.raises(PoisonedLogError):
        b.log.durability.sync_files(0, b.log.tail)
    disk.error = None
    assert not markers_of(b)
    assert b.values() == [b"1"]


@pytest.mark.parametrize("is_all", [False, True])
def test_word_of_a_failed_sync_says_up_to_where_everything_is_on_the_device(box: MakeBox, is_all: bool) -> None:
    b, disk = armed(box, segment_bytes=1024)
    b.log.durability.acknowledged_is_synced = is_all
    append_segments(b, 3)
    b.log.durability.sync_files(0, b.log.tail, active=False)
    assert b.log.durability.synced_end == 2
    b.log.durability.sync_files(0, b.log.tail)
    assert b.log.durability.synced_end == 3
    append_segments(b, 2)
    fail_next(disk, "sync", errno.EIO)
    with pytest.raises(PoisonedLogError):
        b.log.durability.sync_files(3, b.log.tail)
    with pytest.raises(PoisonedLogError):
        b.log.close()
    (marker,) = markers_of(b)
    assert (marker.synced_end, marker.is_all) == (3, is_all)
    fail_next(disk, "pwrite", errno.ENOSPC)  # the state
    fail_next(disk, "pwrite", errno.ENOSPC)  # the copy
    b.reopen(KILLED)
    assert (b.log.durability.synced_end, b.log.durability.acknowledged_is_synced, b.log.tail.end_offset) == (
        3,
        is_all,
        5,
    )
    assert not b.log.may_have_lost_its_end


def test_word_of_a_sync_that_failed_before_the_machine_was_started_asks_for_no_copy(
    box: MakeBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    b, disk = poisoned(box)
    values = b.values()
    monkeypatch.setattr(CountingDisk, "boot_id", lambda self: "another")
    record_calls(disk)
    b.reopen(POWER_LOST)
    assert calls_named(disk, "rename") == []
    assert not markers_of(b)
    assert b.log.may_have_lost_its_end
    assert b.values() == values
    assert b.append(b"on") == 4


def test_what_is_no_word_of_a_failed_sync_is_not_taken_for_one() -> None:
    for name in ("poisoned", "poisoned-1-ab", f"poisoned-{1:020d}-{1:016x}-half", f"{1:020d}.log"):
        assert resync.marker_of(name) is None
    assert resync.marker_of(f"poisoned-{7:020d}-{1:016x}-all") == (7, f"{1:016x}", True)


def test_an_open_after_a_failed_sync_without_a_marker_copies_the_segment(box: MakeBox) -> None:
    b, disk = armed(box)
    b.append(b"1")
    fail_next(disk, "sync", errno.EIO)
    with pytest.raises(PoisonedLogError):
        b.log.durability.sync_files(0, b.log.tail)
    for marker in [name for name in b.names() if resync.marker_of(name) is not None]:
        (b.path / marker).unlink()
    disk.arm(1, OSError(errno.EIO, "injected"), once=False)
    with pytest.raises(PoisonedLogError):
        b.log.close()
    assert (b.log.durability.is_marked, markers_of(b)) == (False, [])
    record_calls(disk)
    b.reopen(KILLED._replace(unsynced=True))
    assert calls_named(disk, "rename") == [log_name(0)]
    assert (b.values(), b.log.durability.poison) == ([b"1"], None)
