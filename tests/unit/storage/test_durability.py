"""What is synced and in which order, and what a failed sync leaves."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from streamlog.errors import PoisonedLogError, StorageError
from streamlog.storage import durability
from streamlog.storage.files import log_name

from .conftest import Box, six_segments
from .counting_disk import append_segments, armed, calls_named, fail_next, markers_of, record_calls

MakeBox = Callable[..., Box]


# What is synced


def test_a_sync_begins_with_the_names_of_new_segments_and_goes_on_from_the_oldest_to_the_active_one(
    box: MakeBox,
) -> None:
    b, disk = armed(box, segment_bytes=1024)
    record_calls(disk)
    append_segments(b, 4)
    assert calls_named(disk, "sync") == calls_named(disk, "sync_dir") == []
    b.log.durability.sync_files(0, b.log.tail, active=False)
    assert [call.partition(" ")[0] for call in disk.calls if call.startswith("sync")] == ["sync_dir"] + ["sync"] * 3
    assert calls_named(disk, "sync") == [log_name(0), log_name(1), log_name(2)]
    record_calls(disk)
    b.log.durability.sync_files(0, b.log.tail)
    assert (calls_named(disk, "sync"), calls_named(disk, "sync_dir")) == ([log_name(3)], [])
    record_calls(disk)
    b.log.durability.sync_files(4, b.log.tail)
    assert calls_named(disk, "sync") == []


def test_a_sealed_segment_is_synced_once_more_and_then_never_again(box: MakeBox) -> None:
    """A write may have been removed from its end since it was synced."""
    b, disk = armed(box, segment_bytes=1024)
    append_segments(b, 2)
    b.log.durability.sync_files(0, b.log.tail)
    b.log.roll(b.now)
    record_calls(disk)
    for _ in range(2):
        b.log.durability.sync_files(2, b.log.tail)
    assert calls_named(disk, "sync") == [log_name(1)]
    assert len(calls_named(disk, "sync_dir")) == 1


def test_a_file_that_cannot_be_opened_for_its_sync_is_no_poison(box: MakeBox) -> None:
    b, disk = armed(box, segment_bytes=1024)
    append_segments(b, 2)
    for _ in range(2):
        fail_next(disk, "open", errno.EMFILE)
    with pytest.raises(StorageError, match="sync"):
        b.log.durability.sync_files(0, b.log.tail)
    assert b.log.durability.poison is None
    b.log.durability.sync_files(0, b.log.tail)
    assert b.append(b"on") == 2


# What a failed sync leaves


def test_a_failed_sync_is_not_tried_again_and_forbids_appending_and_rolling(box: MakeBox) -> None:
    b, disk = armed(box)
    b.append(b"1")
    fail_next(disk, "sync", errno.EIO)
    with pytest.raises(PoisonedLogError, match="Look at the disk, then close the log and open it again") as raised:
        b.log.durability.sync_files(0, b.log.tail)
    assert (raised.value.errno, raised.value.path) == (errno.EIO, str(b.path / log_name(0)))
    record_calls(disk)
    for refused in (
        lambda: b.append(b"2"),
        lambda: b.log.append_one(None, b"2", b.now, 0, b.now),
        lambda: b.log.roll(b.now),
        lambda: b.log.durability.sync_files(0, b.log.tail),
        lambda: b.log.durability.sync_sealed(b.log.tail),
        b.log.close,
    ):
        with pytest.raises(PoisonedLogError):
            refused()
    assert calls_named(disk, "sync") == []
    assert b.values() == [b"1"]


def test_ctrl_c_right_after_a_failed_sync_does_not_make_it_undone(
    box: MakeBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    b, disk = armed(box)
    b.append(b"1")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(b.log.durability, "_poison", interrupted)
    fail_next(disk, "sync", errno.EIO)
    with pytest.raises(KeyboardInterrupt):
        b.log.durability.sync_files(0, b.log.tail)
    with pytest.raises(PoisonedLogError, match="what the disk holds is unknown"):
        b.append(b"2")
    assert not markers_of(b)
    with pytest.raises(PoisonedLogError):
        b.log.close()
    assert markers_of(b)  # the close makes up for it


@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS, errno.ENOSPC, errno.EDQUOT])
def test_a_directory_that_cannot_be_synced_after_a_roll_poisons(box: MakeBox, code: int) -> None:
    b, disk = armed(box, segment_bytes=1024)
    append_segments(b, 2)
    fail_next(disk, "sync_dir", code)
    with pytest.raises(PoisonedLogError, match="A sync of"):
        b.log.durability.sync_files(0, b.log.tail)
    assert b.log.durability.synced_end == 0
    with pytest.raises(PoisonedLogError):
        b.append(b"2")


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
def test_a_directory_that_cannot_be_opened_for_its_sync_is_no_poison(box: MakeBox, code: int) -> None:
    b, disk = armed(box, segment_bytes=1024)
    append_segments(b, 2)
    fail_next(disk, "sync_dir", code)
    b.log.durability.sync_files(0, b.log.tail)  # with the descriptors that the segments gave up
    append_segments(b, 1)
    disk.fails = lambda what: what.startswith("sync_dir")  # type: ignore[method-assign]
    disk.error = OSError(code, "injected")
    with pytest.raises(StorageError, match="Could not sync"):
        b.log.durability.sync_files(2, b.log.tail)
    assert b.log.durability.synced_end == 2
    del disk.fails
    record_calls(disk)
    b.log.durability.sync_files(2, b.log.tail)
    assert len(calls_named(disk, "sync_dir")) == 1
    assert b.append(b"on") == 3


def test_the_directory_of_a_deleted_topic_is_not_missed(box: MakeBox) -> None:
    b, disk = armed(box, segment_bytes=1024)
    append_segments(b, 2)
    fail_next(disk, "sync_dir", errno.ENOENT)
    b.log.durability.sync_files(0, b.log.tail)
    assert b.log.durability.poison is None


# Interrupts in a sync


def test_an_interrupt_while_it_is_found_out_whose_a_failed_syncs_error_is_poisons(
    box: MakeBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel reports a failed sync once only, so it must not be lost."""
    b, disk = armed(box)
    b.append(b"x")
    fail_next(disk, "sync", errno.EIO)

    def interrupted(_: BaseException) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(durability, "is_the_disks", interrupted)
        with pytest.raises(KeyboardInterrupt):
            b.log.durability.sync_files(0, b.log.tail)
    with pytest.raises(PoisonedLogError):
        b.log.durability.sync_files(0, b.log.tail)


def test_an_error_of_a_handler_in_a_sync_poisons_nothing(box: MakeBox, monkeypatch: pytest.MonkeyPatch) -> None:
    b, disk = armed(box)
    b.append(b"x")
    fail_next(disk, "sync", errno.EIO)
    with monkeypatch.context() as patched:
        patched.setattr(durability, "is_the_disks", lambda _: False)
        with pytest.raises(OSError, match="injected"):
            b.log.durability.sync_files(0, b.log.tail)
    b.log.durability.sync_files(0, b.log.tail)
    assert b.log.durability.poison is None


def test_the_last_file_of_a_segment_that_retention_removed_needs_no_sync(box: MakeBox) -> None:
    b = six_segments(box)
    b.logs()[0].unlink()
    b.log.durability.sync_files(0, b.log.tail)
    b.log.advance_start(1)
