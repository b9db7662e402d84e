"""Whatever call of the disk fails, and wherever the process is killed or interrupted: the log is whole and continues."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from streamlog.errors import CorruptRecordError, DiskFullError, StorageError, StreamlogError
from streamlog.storage.log import AppendRequest

from .conftest import CLEAN, KILLED, Box
from .counting_disk import CountingDisk, Killed, armed, calls_of, interrupted_at

MakeBox = Callable[..., Box]
ERRORS = [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG]


# Failing calls


@pytest.mark.parametrize("code", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("half", [False, True], ids=["nothing written", "half written"])
def test_a_failed_append_leaves_the_log_as_it_was_and_the_next_goes_on(box: MakeBox, code: int, half: bool) -> None:
    for nth in range(1, 4):
        b, disk = armed(box)
        b.append(b"one")
        disk.arm(nth, OSError(code, "injected"), half=half)
        with suppress(StreamlogError):
            b.append(b"lost")
        disk.error = None
        before = b.values()
        assert before in ([b"one"], [b"one", b"lost"])
        assert b.append(b"two") == len(before)
        assert b.values() == [*before, b"two"]
        b.reopen(KILLED)
        assert b.values() == [*before, b"two"]


@pytest.mark.parametrize("code", ERRORS, ids=errno.errorcode.get)
def test_a_failed_append_names_the_file_and_the_reason(box: MakeBox, code: int) -> None:
    b, disk = armed(box)
    disk.arm(1, OSError(code, "injected"))
    with pytest.raises(DiskFullError if code != errno.EIO else StorageError, match=r"\.log") as error:
        b.append(b"lost")
    assert error.value.__cause__ is disk.error


def test_while_the_disk_refuses_everything_appends_fail_and_reads_go_on(box: MakeBox) -> None:
    b, disk = armed(box)
    b.append(b"one")
    disk.arm(1, OSError(errno.ENOSPC, "injected"), half=True, once=False)
    for _ in range(3):
        with pytest.raises(StreamlogError):
            b.append(b"lost")
    disk.error = None
    assert b.values() == [b"one"]
    assert b.append(b"two") == 1


@pytest.mark.parametrize("nth", range(1, 8))
def test_a_failed_roll_leaves_no_file_in_the_way(box: MakeBox, nth: int) -> None:
    b, disk = armed(box, segment_bytes=1024)
    b.append(b"a" * 700)
    disk.arm(nth, OSError(errno.ENOSPC, "injected"))
    with suppress(StreamlogError):
        b.append(b"b" * 700)  # has to roll
    disk.error = None
    assert len(b.logs()) == len(b.log.tail.segments)
    count = len(b.values())
    b.append(b"c")
    b.append(b"d" * 900)
    offsets = [entry.offset for entry in b.read()]
    assert offsets == [*range(count + 2)]
    b.reopen(KILLED)
    assert [entry.offset for entry in b.read()] == offsets
    assert b.values()[-2:] == [b"c", b"d" * 900]


@pytest.mark.parametrize("nth", range(1, 30))
def test_whatever_fails_while_closing_the_next_open_has_every_record(box: MakeBox, nth: int) -> None:
    b, disk = armed(box, segment_bytes=1024)
    for n in range(6):
        b.append(b"%d" % n * 400)
    everything = b.values()
    disk.arm(nth, OSError(errno.ENOSPC, "injected"))
    try:
        b.log.close()
        clean = True
    except StreamlogError:
        clean = False
    b.log.release()
    disk.error = None
    b.open(CLEAN if clean else KILLED)
    assert b.values() == everything


def test_an_index_that_cannot_be_written_costs_nothing(box: MakeBox) -> None:
    b, disk = armed(box, segment_bytes=1024)
    for n in range(6):
        b.append(b"%d" % n * 400)
    refuse = OSError(errno.ENOSPC, "injected")
    disk.write_atomic = _raiser(refuse)  # type: ignore[method-assign]
    b.log.durability.sync_sealed(b.log.tail)
    assert not list(b.path.glob("*.index"))
    b.log.release()
    b.open(KILLED)
    assert len(b.values()) == 6


def _raiser(error: BaseException) -> Callable[..., Any]:
    def call(*_: object, **__: object) -> None:
        raise error

    return call


# Killed at any call


def test_killed_at_any_call_of_a_roll_nothing_is_lost(box: MakeBox) -> None:
    _at_every_call(box, lambda b: b.append(b"b" * 700), allowed=1)


def test_killed_at_any_call_of_delete_records_the_start_is_the_old_or_the_new(box: MakeBox) -> None:
    def forget(b: Box) -> None:
        b.log.discard(b.log.advance_start(5))

    for nth in range(1, _count(box, forget) + 1):
        b, disk = _filled(box)
        disk.arm(nth, Killed())
        with pytest.raises(Killed):
            forget(b)
        disk.error = None
        b.log.release()
        b.open(KILLED)
        assert b.log.tail.start_offset in (0, 5)
        assert [entry.offset for entry in b.read()] == [*range(b.log.tail.start_offset, 7)]
        if b.log.tail.start_offset:
            assert len(b.logs()) == len(b.log.tail.segments)


def _filled(make: MakeBox) -> tuple[Box, CountingDisk]:
    b, disk = armed(make, segment_bytes=1024)
    for n in range(7):
        b.append(b"%d" % n * 450)
    return b, disk


def _count(make: MakeBox, run: Callable[[Box], object]) -> int:
    b, disk = _filled(make)
    return calls_of(disk, lambda: run(b))


def _at_every_call(make: MakeBox, run: Callable[[Box], object], allowed: int) -> None:
    for nth in range(1, _count(make, run) + 1):
        b, disk = _filled(make)
        before = b.values()
        disk.arm(nth, Killed(), half=True)
        with pytest.raises(Killed):
            run(b)
        disk.error = None
        b.log.release()
        b.open(KILLED)
        after = b.values()
        assert after[: len(before)] == before
        assert len(after) <= len(before) + allowed
        b.append(b"next")
        assert [entry.offset for entry in b.read()] == [*range(len(after) + 1)]


# Interrupted at any line


def _interrupt_everywhere(run: Callable[[int], bool]) -> None:
    """Call `run(n)` with growing n until it says that the nth line was not reached."""
    line = 1
    while run(line):
        line += 1
    assert line > 3, "nothing was interrupted"


@pytest.mark.parametrize("rolls", [False, True])
def test_interrupted_at_any_line_of_append_the_write_is_in_or_out_and_says_which(box: MakeBox, rolls: bool) -> None:
    functions = {
        "append",
        "roll",
        "_finish_or_undo",
        "create",
        "_is_full",
        "is_due",
        "add",
        "set_stats",
        "active_stats",
    }

    def run(line: int) -> bool:
        b = box(segment_bytes=1024)
        b.append(b"one")
        write: AppendRequest = b.write(b"two" * (400 if rolls else 1))
        try:
            with interrupted_at(line, functions) as seen:
                b.log.append(write, 0, b.now)
        except KeyboardInterrupt:
            b.log.resolve_append(write)
        kept = write.base_offset >= 0
        assert b.values() == [b"one", write_value(rolls)][: 1 + kept]
        assert write.base_offset in (-1, 1)
        b.append(b"three")
        expected = [b"one", *([write_value(rolls)] if kept else []), b"three"]
        assert b.values() == expected
        assert b.log.reader.find_time(0, b.log.tail.end_offset) == (0, b.now)
        for _ in range(3):
            b.append(b"x" * 900)
        assert b.values()[: len(expected)] == expected
        b.reopen(KILLED)
        assert b.values()[: len(expected)] == expected
        assert len(b.values()) == len(expected) + 3
        return seen[0] >= line

    _interrupt_everywhere(run)


def write_value(rolls: bool) -> bytes:
    return b"two" * (400 if rolls else 1)


def test_interrupted_at_any_line_of_a_roll_the_log_goes_on(box: MakeBox) -> None:
    def run(line: int) -> bool:
        b = box()
        b.append(b"one")
        with suppress(KeyboardInterrupt), interrupted_at(line, {"roll", "create"}) as seen:
            b.log.roll(b.now)
        b.append(b"two")
        assert b.values() == [b"one", b"two"]
        b.append(b"three")
        b.log.roll(b.now)
        b.append(b"four")
        b.reopen(KILLED)
        assert b.values() == [b"one", b"two", b"three", b"four"]
        return seen[0] >= line

    _interrupt_everywhere(run)


def test_interrupted_at_any_line_of_delete_records_the_log_goes_on(box: MakeBox) -> None:
    def run(line: int) -> bool:
        b = box(segment_bytes=1024)
        for n in range(6):
            b.append(b"%d" % n * 500)
        with (
            suppress(KeyboardInterrupt),
            interrupted_at(line, {"advance_start", "write", "discard", "release"}) as seen,
        ):
            b.log.discard(b.log.advance_start(4))
        offsets = [entry.offset for entry in b.read()]
        assert offsets in ([*range(6)], [4, 5])
        b.log.discard(b.log.advance_start(5))
        assert [entry.offset for entry in b.read()] == [5]
        b.reopen(KILLED)
        assert [entry.offset for entry in b.read()] == [5]
        return seen[0] >= line

    _interrupt_everywhere(run)


# The short way of a single record


def one(b: Box, key: bytes, value: bytes) -> int:
    """`append_one` as a producer without linger calls it."""
    return b.log.append_one(key, value, b.now, 0, b.now)


def test_a_record_by_the_short_way_is_the_same_record(box: MakeBox) -> None:
    b, other = box(segment_bytes=1024), box(segment_bytes=1024)
    for n in range(12):
        b.now = other.now = b.now + (7 if n % 3 else -5)
        assert one(b, b"k%d" % n, b"v" * 50 * n) == n
        other.append(b"v" * 50 * n, keys=[b"k%d" % n])
    assert b.read() == other.read()
    assert [info.max_timestamp for info in b.sealed()] == [info.max_timestamp for info in other.sealed()]
    assert b.log.tail.active_stats()[3:] == other.log.tail.active_stats()[3:]
    b.reopen(KILLED)
    assert b.read() == other.read()
    assert b.logs()[0].read_bytes() == other.logs()[0].read_bytes()


@pytest.mark.parametrize("half", [False, True], ids=["nothing written", "half written"])
def test_a_record_that_failed_by_the_short_way_leaves_the_log_as_it_was(box: MakeBox, half: bool) -> None:
    b, disk = armed(box)
    one(b, b"k", b"one")
    disk.arm(1, OSError(errno.ENOSPC, "injected"), half=half, once=False)
    for _ in range(2):
        with pytest.raises(DiskFullError if not half else StreamlogError):
            one(b, b"k", b"lost")
    disk.error = None
    assert one(b, b"k", b"two") == 1
    assert b.values() == [b"one", b"two"]


@pytest.mark.parametrize("rolls", [False, True])
def test_interrupted_at_any_line_of_the_short_way_the_record_is_in_or_out(box: MakeBox, rolls: bool) -> None:
    functions = {
        "append_one",
        "roll",
        "_finish_or_undo",
        "create",
        "_is_full",
        "is_due",
        "add",
        "set_stats",
        "active_stats",
    }

    def run(line: int) -> bool:
        b = box(segment_bytes=1024)
        one(b, b"k", b"one")
        with suppress(KeyboardInterrupt), interrupted_at(line, functions) as seen:
            one(b, b"k", write_value(rolls))
        before = b.values()
        assert before in ([b"one"], [b"one", write_value(rolls)])
        one(b, b"k", b"three")
        assert b.values() == [*before, b"three"]
        b.append(b"four")
        b.reopen(KILLED)
        assert b.values() == [*before, b"three", b"four"]
        return seen[0] >= line

    _interrupt_everywhere(run)


@pytest.mark.damaged
def test_a_log_whose_end_is_unknown_refuses_the_short_way_too(box: MakeBox) -> None:
    b = box()
    b.append(b"one")
    at = b.log.tail.end_position
    b.append(b"two")
    b.log.release()
    data = bytearray(b.logs()[0].read_bytes())
    data[at + 30] ^= 1
    b.logs()[0].write_bytes(data)
    b.open(KILLED)
    with pytest.raises(CorruptRecordError):
        one(b, b"k", b"three")
