"""A follower that has nothing in common with its leader any more forgets all and starts where the leader's log does."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamlog.config import TopicConfig
from streamlog.errors import (
    DiskFullError,
    NotLeaderError,
    OutOfOrderSequenceError,
    PoisonedLogError,
    StorageError,
    StreamlogError,
    UnexpectedAppendOffsetError,
)
from streamlog.replication.follower import append, truncate_fully_and_start_at
from streamlog.replication.partition import Partition
from streamlog.runtime.threads import new_lock
from streamlog.storage import truncation
from streamlog.testing import SimulatedDisk

from .conftest import KILLED, TOPIC_ID, Box
from .counting_disk import armed, calls_of, interrupted_at
from .reopening import reopening
from .test_append_as_follower import contents, copy, fetched, sequenced
from .test_truncate_to import Listener, filled, reopened, starts

MakeBox = Callable[..., Box]
# Past the end, at it, inside, at the start, below it, and at the very beginning. The log has the offsets 5 to 17.
OFFSETS = [1000, 18, 12, 5, 3, 0]


def trimmed(b: Box) -> Box:
    """A log of several segments that begins in the middle of a batch."""
    filled(b)
    b.log.durability.sync_sealed(b.log.tail)
    b.partition.delete_records(5)
    return b


def assert_empty_at(b: Box, offset: int) -> None:
    tail = b.log.tail
    assert (tail.start_offset, tail.end_offset, b.values()) == (offset, offset, [])
    assert b.log.durability.recovery_point <= offset


@reopening
@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("first", [0, 8])
def test_all_records_are_forgotten_and_the_log_goes_on_at_the_offset(
    box: MakeBox, reopen: Callable[[Box], None], offset: int, first: int
) -> None:
    b = box(segment_bytes=1024)
    trimmed(b)
    if first:
        b.partition.delete_records(first)  # the first segments are gone too
    truncate_fully_and_start_at(b.partition, offset)
    assert_empty_at(b, offset)
    assert [path.name for path in b.logs()] == [f"{offset:020d}.log"]
    reopen(b)
    assert_empty_at(b, offset)
    assert b.append(b"x" * 600) == offset
    assert b.append(b"y" * 600) == offset + 1
    reopen(b)
    assert b.log.tail.start_offset == offset
    assert b.values() == [b"x" * 600, b"y" * 600]


def test_the_high_watermark_goes_with_it_and_what_waits_fails(box: MakeBox) -> None:
    for durable in (False, True):
        for offset in (1000, 2):
            b = box()
            b._partition = Partition(b.partition.name, TOPIC_ID, b.log, new_lock, durable=durable)
            filled(b, 3)
            b.partition.commit.sync()
            lost = b.write(b"lost")
            b.partition.append(lost, b.now)
            waiting = b.partition.acknowledge(lost)
            b.partition.listener = listener = Listener(b)
            truncate_fully_and_start_at(b.partition, offset)
            assert isinstance(waiting.error(), NotLeaderError) == durable
            assert (b.partition.high_watermark, b.partition.commit.synced_end) == (offset, offset)
            assert listener.seen == [(True, offset)]
            assert b.partition.commit.everything().done()
            more = b.write(b"more")
            b.partition.append(more, b.now)
            answer = b.partition.acknowledge(more)
            b.partition.commit.drive()
            assert answer.result() == offset


def test_neither_producers_nor_epochs_outlive_the_records(box: MakeBox) -> None:
    b = box()
    for n in range(4):
        sequenced(b, n, leader_epoch=3)
    truncate_fully_and_start_at(b.partition, 2)
    assert starts(b) == []
    assert sequenced(b, 9, leader_epoch=1) == 2, "a producer that is not known is believed"
    with pytest.raises(OutOfOrderSequenceError):
        sequenced(b, 11, leader_epoch=1)
    assert starts(b) == [(1, 2)]


@pytest.mark.parametrize("ends", [18, 6, 0])
def test_a_follower_that_fell_behind_the_start_of_its_leader_copies_from_there(box: MakeBox, ends: int) -> None:
    leader, follower = box(segment_bytes=1024), box(segment_bytes=1024)
    filled(leader, 12)
    filled(follower, ends // 2)
    leader.partition.delete_records(20)
    truncate_fully_and_start_at(follower.partition, leader.log.tail.start_offset)
    copy(leader, follower)
    assert follower.values() == leader.values()
    assert contents(follower) in contents(leader)


def test_where_a_batch_straddles_the_start_of_the_leader_the_follower_starts_with_that_batch(box: MakeBox) -> None:
    leader, follower = box(), box()
    values = filled(leader, 6)
    leader.partition.delete_records(5)
    truncate_fully_and_start_at(follower.partition, 5)
    data = fetched(leader, 5)
    with pytest.raises(UnexpectedAppendOffsetError) as error:
        append(follower.partition, data)
    truncate_fully_and_start_at(follower.partition, error.value.first_offset)
    append(follower.partition, data)
    copy(leader, follower)
    follower.partition.delete_records(5)
    assert follower.values() == values[5:]


# Failures


def test_a_poisoned_log_does_not_start_anew(box: MakeBox) -> None:
    b, disk = armed(box)
    values = filled(b, 2)
    disk.fails = lambda what: what.startswith("sync ") and what.endswith(".log")  # type: ignore[method-assign]
    disk.error = OSError(errno.EIO, "injected")
    with pytest.raises(PoisonedLogError):
        b.partition.commit.sync()
    with pytest.raises(PoisonedLogError):
        truncate_fully_and_start_at(b.partition, 2)
    del disk.fails
    disk.error = None
    assert b.values() == values


@pytest.mark.parametrize("offset", OFFSETS)
def test_one_that_failed_at_any_call_is_finished_by_the_next_call(box: MakeBox, offset: int) -> None:
    def ready() -> tuple[Box, Any, list[bytes | None]]:
        b, disk = armed(box, segment_bytes=1024)
        trimmed(b)
        return b, disk, b.values()

    b, disk, _ = ready()
    total = calls_of(disk, lambda: truncate_fully_and_start_at(b.partition, offset))
    assert total > 5
    for nth in range(1, total + 1):
        for again in ("start", "append", "crash"):
            b, disk, values = ready()
            disk.arm(nth, OSError(errno.ENOSPC, "injected"))
            with contextlib.suppress(DiskFullError, StorageError):
                truncate_fully_and_start_at(b.partition, offset)
            disk.error = None
            published = b.log.tail.end_offset == offset and not b.values()
            assert published or b.values() == values
            if again == "crash":
                b.reopen(KILLED)
                assert b.values() in ([], values)
                assert b.log.tail.start_offset in (5, offset)
            if again == "start" or b.log.tail.end_offset != offset:
                truncate_fully_and_start_at(b.partition, offset)
            if b.values() != values:
                end = b.append(b"next")
                assert end in (5, offset)
                b.reopen(KILLED)
                assert (b.log.tail.start_offset, b.values()) == (end, [b"next"])


@pytest.mark.slow
@pytest.mark.parametrize("offset", OFFSETS)
def test_ctrl_c_at_any_line_leaves_the_log_as_it_was_or_empty(box: MakeBox, offset: int) -> None:
    functions = {
        "truncate_fully_and_start_at", "lower_state", "_finish_truncation", "_truncate", "start", "finish", "_replace",
        "_update", "retire", "truncated", "finish_swap", "copy_bytes",
    }  # fmt: skip
    line = 0
    while True:
        line += 1
        b = box(segment_bytes=1024)
        values = trimmed(b).values()
        with interrupted_at(line, functions) as seen, contextlib.suppress(KeyboardInterrupt):
            truncate_fully_and_start_at(b.partition, offset)
        at = b.append(b"next")
        expected = [b"next"] if at == offset != 18 else b.values()
        assert expected in ([b"next"], [*values, b"next"])
        assert b.values() == expected
        b.reopen(KILLED)
        assert b.values() == expected
        if seen[0] < line:
            break
    assert line > 20


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("clean_open", [False, True])
def test_a_crash_at_any_write_or_sync_leaves_the_old_log_an_empty_one_or_the_new_one(
    offset: int, clean_open: bool
) -> None:
    machine = SimulatedDisk(seed=offset)
    b = Box.__new__(Box)
    b.path, b.disk, b.config, b.now = Path("/p"), machine, TopicConfig(segment_bytes=1024), 1000
    b.open()
    b._partition = Partition(b._partition.name, TOPIC_ID, b.log, new_lock)
    machine.sync_dir("/")
    trimmed(b)
    if clean_open:
        b.reopen()
    else:
        b.log.durability.sync_files(0, b.log.tail)
    values = b.values()
    first = len(machine.operations)
    truncation.truncate_fully_and_start_at(b.log, offset)
    done = len(machine.operations)
    new = [b"new %d" % n * 100 for n in range(3)]
    for value in new:
        b.append(value)
    b.log.durability.sync_files(offset, b.log.tail)
    synced = len(machine.operations)
    states = 0
    for name, disk in machine.crashes(3, harsh=3, first=first):
        states += 1
        at = int(name.partition("/")[0])
        log = reopened(disk, power_lost="kill" not in name)
        b.disk = disk
        got = [entry.value for entry in b.read(reader=log.reader)]
        start = log.tail.start_offset
        assert start in (5, offset), name
        assert got in (values, new[: len(got)]), name
        if got and got != values:
            assert start == offset, name
        if at >= done:
            assert (start, got) == (offset, new[: len(got)]), name
        if at >= synced:
            assert got == new, name
        end = log.tail.end_offset
        assert log.append(b.write(b"goes on"), 9, 1000) == end, name
        log.release()
        again = reopened(disk, power_lost=False)
        assert (again.tail.start_offset, again.tail.end_offset) == (start, end + 1), name
        again.release()
    assert states > 30


def test_readers_that_have_the_old_snapshot_read_the_old_bytes_or_are_sent_to_the_new_log(box: MakeBox) -> None:
    b = box(segment_bytes=1024)
    trimmed(b)
    older = b.log.tail
    truncate_fully_and_start_at(b.partition, older.bases[1])
    b.append(b"new" * 100)
    for segment, size in older.places():
        with pytest.raises(StreamlogError) as error:
            segment.read(size, 0)
        assert isinstance(error.value, StorageError)
        assert error.value.errno == errno.ENOENT
