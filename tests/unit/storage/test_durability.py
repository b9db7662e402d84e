"""What is synced and in which order, what a failed sync leaves, and how the next open makes it good."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from streamlog.errors import CorruptRecordError, DiskFullError, PoisonedLogError, StorageError
from streamlog.storage import durability, files
from streamlog.storage.recovery import resync

from .conftest import KILLED, POWER_LOST, Box
from .faulty import FaultyDisk

MakeBox = Callable[..., Box]


def armed(box: MakeBox, **config: object) -> tuple[Box, FaultyDisk]:
    """A log on a disk that fails when it is told to; its calls are recorded from then on."""
    b = box(**config)
    disk = FaultyDisk()
    b.disk = disk
    b.reopen()
    return b, disk


def record(disk: FaultyDisk) -> None:
    """Write down the calls from now on; none fails."""
    disk.arm(0, OSError(errno.EIO, "injected"))


def calls(disk: FaultyDisk, word: str) -> list[str]:
    """The file names of the calls of that kind, in order."""
    return [call.rpartition("/")[2] for call in disk.calls if call.startswith(word + " ")]


def fail(disk: FaultyDisk, word: str, code: int) -> None:
    """Let the next call of that kind fail."""
    real = disk.fails

    def fails(what: str) -> bool:
        if not what.startswith(word + " "):
            return real(what)
        disk.fails = real  # type: ignore[method-assign]
        record(disk)
        disk.error = OSError(code, "injected")
        return True

    disk.fails = fails  # type: ignore[method-assign]


def rolled(b: Box, segments: int) -> None:
    for n in range(segments):
        b.append(b"%d" % n * 700)


def name(base_offset: int) -> str:
    return f"{base_offset:020d}.log"


# What is synced


def test_files_are_synced_from_the_oldest_that_is_asked_for_to_the_active_one(box: MakeBox) -> None:
    b, disk = armed(box, segment_bytes=1024)
    rolled(b, 4)
    record(disk)
    b.log.durability.sync_files(1, b.log.tail)
    assert calls(disk, "sync") == [name(1), name(2), name(3)]
    record(disk)
    b.log.durability.sync_files(1, b.log.tail, active=False)
    assert calls(disk, "sync") == [name(1), name(2)]
    record(disk)
    b.log.durability.sync_files(3, b.log.tail)
    assert calls(disk, "sync") == [name(3)]
    record(disk)
    b.log.durability.sync_files(4, b.log.tail)
    assert calls(disk, "sync") == []


def test_a_segment_that_ends_where_the_synced_part_does_is_not_synced_again(box: MakeBox) -> None:
    b, disk = armed(box, segment_bytes=1024)
    rolled(b, 2)
    b.log.roll(b.now)
    record(disk)
    b.log.durability.sync_files(2, b.log.tail)
    assert calls(disk, "sync") == []


def test_a_file_that_cannot_be_opened_for_its_sync_is_no_poison(box: MakeBox) -> None:
    b, disk = armed(box, segment_bytes=1024)
    rolled(b, 2)
    fail(disk, "open", errno.EMFILE)
    with pytest.raises(StorageError, match="sync"):
        b.log.durability.sync_files(0, b.log.tail)
    assert b.log.durability.poison is None
    b.log.durability.sync_files(0, b.log.tail)
    assert b.append(b"on") == 2


# What a failed sync leaves


def test_a_failed_sync_is_not_tried_again_and_forbids_appending_and_rolling(box: MakeBox) -> None:
    b, disk = armed(box)
    b.append(b"1")
    fail(disk, "sync", errno.EIO)
    with pytest.raises(PoisonedLogError, match="Look at the disk, then close the log and open it again") as raised:
        b.log.durability.sync_files(0, b.log.tail)
    assert (raised.value.errno, raised.value.path) == (errno.EIO, str(b.path / name(0)))
    record(disk)
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
    assert calls(disk, "sync") == []
    assert b.values() == [b"1"]


def test_ctrl_c_right_after_a_failed_sync_does_not_make_it_undone(
    box: MakeBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    b, disk = armed(box)
    b.append(b"1")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(b.log.durability, "_poison", interrupted)
    fail(disk, "sync", errno.EIO)
    with pytest.raises(KeyboardInterrupt):
        b.log.durability.sync_files(0, b.log.tail)
    with pytest.raises(PoisonedLogError, match="what the disk holds is unknown"):
        b.append(b"2")
    assert not marked(b)
    with pytest.raises(PoisonedLogError):
        b.log.close()
    assert marked(b)  # the close makes up for it


@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS])
def test_a_directory_that_cannot_be_synced_at_a_roll_poisons(box: MakeBox, code: int) -> None:
    b, disk = armed(box, segment_bytes=1024)
    b.append(b"1" * 700)
    fail(disk, "sync_dir", code)
    with pytest.raises(PoisonedLogError, match="A sync of"):
        b.append(b"2" * 700)
    assert b.names().count(name(1)) == 0
    with pytest.raises(PoisonedLogError):
        b.append(b"2")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE])
def test_a_roll_for_which_there_is_no_room_is_no_poison(box: MakeBox, code: int) -> None:
    b, disk = armed(box, segment_bytes=1024)
    b.append(b"1" * 700)
    fail(disk, "sync_dir", code)
    with pytest.raises((DiskFullError, StorageError), match="create a file in"):
        b.append(b"2" * 700)
    assert b.append(b"3" * 700) == 1
    assert b.values() == [b"1" * 700, b"3" * 700]


# The next open


def marked(b: Box) -> list[resync.Marker]:
    """The word that was left of syncs that failed."""
    return [marker for marker in map(resync.marker_of, b.names()) if marker is not None]


def poisoned(box: MakeBox, **config: object) -> tuple[Box, FaultyDisk]:
    b, disk = armed(box, segment_bytes=1024, **config)
    rolled(b, 2)
    b.log.durability.sync_sealed(b.log.tail)
    rolled(b, 2)
    fail(disk, "sync", errno.EIO)
    with pytest.raises(PoisonedLogError):
        b.log.durability.sync_files(2, b.log.tail)
    return b, disk


@pytest.mark.parametrize("crash", [KILLED, POWER_LOST])
def test_what_reaches_past_the_recovery_point_is_written_to_new_files(box: MakeBox, crash: object) -> None:
    b, disk = poisoned(box)
    values = b.values()
    record(disk)
    b.reopen(crash)  # type: ignore[arg-type]
    # The one that ends at the recovery point as well: it costs less than to find out.
    assert calls(disk, "rename") == [name(1), name(2), name(3)]
    copies = [call for call in calls(disk, "sync") if call.endswith(".tmp")]
    assert copies == [f"{name(n)}.tmp" for n in (1, 2, 3)]
    assert not marked(b)
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
    fail(disk, "pwrite", errno.ENOSPC)  # the state
    fail(disk, "pwrite", errno.ENOSPC)  # the copy
    b.reopen(KILLED)
    with pytest.raises(PoisonedLogError, match="free space"):
        b.append(b"no")
    assert b.values() == values
    assert marked(b)
    b.reopen(KILLED)
    assert b.append(b"on") == 4
    assert b.values() == [*values, b"on"]


def test_the_copy_of_an_interrupted_resync_is_made_anew(box: MakeBox) -> None:
    b, _ = poisoned(box)
    values = b.values()
    (b.path / (name(1) + ".tmp")).write_bytes(b"half of it")
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
    assert not marked(b)
    assert b.values() == [b"1"]


# What readers get of a log that goes on behind what is synced


@pytest.mark.parametrize("size", [10, 30_000])
def test_a_fetch_ends_at_the_offset_that_it_is_told_to_end_at(box: MakeBox, size: int) -> None:
    b = box()
    for n in range(5):
        b.append(b"%d" % n * size)
    each = len(b.log.reader.fetch(0, 1, 1).data)
    assert len(b.log.reader.fetch(0, 1 << 20, 5).data) == 5 * each
    first = b.log.reader.fetch(0, 1 << 20, 3)
    assert len(first.data) == 3 * each
    one = b.log.reader.fetch(0, 1, 3)
    assert len(b.log.reader.fetch(1, 1 << 20, 3, one).data) == 2 * each
    assert b.log.reader.fetch(3, 1 << 20, 3, first).data == b""
    assert len(b.log.reader.fetch(3, 1 << 20, 5, first).data) == 2 * each


@pytest.mark.damaged
@pytest.mark.parametrize("length", [0, 1 << 29])
def test_damage_before_the_end_is_handed_to_who_decodes_it(box: MakeBox, length: int) -> None:
    b = box()
    for n in range(4):
        b.append(b"%d" % n * 10)
    one = b.log.reader.fetch(0, 1, 3)
    with open(b.logs()[0], "r+b") as file:
        file.seek(len(one.data) + 7)
        file.write(length.to_bytes(4, "little"))
    with pytest.raises(CorruptRecordError):
        b.read(1)
    try:
        data = b.log.reader.fetch(1, 1 << 16, 3, one).data
    except CorruptRecordError:
        return
    assert bytes(data[7:11]) == length.to_bytes(4, "little")


def test_an_interrupt_while_it_is_found_out_whose_a_failed_syncs_error_is_poisons(
    box: MakeBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells of it once: it must not be forgotten."""
    b, disk = armed(box)
    b.append(b"x")
    fail(disk, "sync", errno.EIO)

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
    fail(disk, "sync", errno.EIO)
    with monkeypatch.context() as patched:
        patched.setattr(durability, "is_the_disks", lambda _: False)
        with pytest.raises(OSError, match="injected"):
            b.log.durability.sync_files(0, b.log.tail)
    b.log.durability.sync_files(0, b.log.tail)
    assert b.log.durability.poison is None


# What the word of a failed sync says


@pytest.mark.parametrize("is_all", [False, True])
def test_word_of_a_failed_sync_says_up_to_where_everything_is_on_the_device(box: MakeBox, is_all: bool) -> None:
    b, disk = armed(box, segment_bytes=1024)
    b.log.durability.acknowledged_is_synced = is_all
    rolled(b, 3)
    b.log.durability.sync_files(0, b.log.tail, active=False)
    assert b.log.durability.synced_end == 2
    b.log.durability.sync_files(0, b.log.tail)
    assert b.log.durability.synced_end == 3
    rolled(b, 2)
    fail(disk, "sync", errno.EIO)
    with pytest.raises(PoisonedLogError):
        b.log.durability.sync_files(3, b.log.tail)
    with pytest.raises(PoisonedLogError):
        b.log.close()
    (marker,) = marked(b)
    assert (marker.synced_end, marker.is_all) == (3, is_all)
    fail(disk, "pwrite", errno.ENOSPC)  # the state
    fail(disk, "pwrite", errno.ENOSPC)  # the copy
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
    monkeypatch.setattr(FaultyDisk, "boot_id", lambda self: "another")
    record(disk)
    b.reopen(POWER_LOST)
    assert calls(disk, "rename") == []
    assert not marked(b)
    assert b.log.may_have_lost_its_end
    assert b.values() == values
    assert b.append(b"on") == 4


def test_what_is_no_word_of_a_failed_sync_is_not_taken_for_one() -> None:
    for name in ("poisoned", "poisoned-1-ab", f"poisoned-{1:020d}-{1:016x}-half", f"{1:020d}.log"):
        assert resync.marker_of(name) is None
    assert resync.marker_of(f"poisoned-{7:020d}-{1:016x}-all") == (7, f"{1:016x}", True)


def test_where_no_word_could_be_left_an_open_that_is_told_so_copies(box: MakeBox) -> None:
    b, disk = armed(box)
    b.append(b"1")
    fail(disk, "sync", errno.EIO)
    with pytest.raises(PoisonedLogError):
        b.log.durability.sync_files(0, b.log.tail)
    for marker in [name for name in b.names() if resync.marker_of(name) is not None]:
        (b.path / marker).unlink()
    disk.arm(1, OSError(errno.EIO, "injected"), once=False)
    with pytest.raises(PoisonedLogError):
        b.log.close()
    assert (b.log.durability.is_marked, marked(b)) == (False, [])
    record(disk)
    b.reopen(KILLED._replace(unsynced=True))
    assert calls(disk, "rename") == [name(0)]
    assert (b.values(), b.log.durability.poison) == ([b"1"], None)
