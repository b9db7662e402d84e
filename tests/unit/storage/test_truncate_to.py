"""A follower forgets what its leader never had: the log is truncated, as one step for readers and for a crash."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamlog.config import TopicConfig
from streamlog.errors import (
    CorruptRecordError,
    DiskFullError,
    NotLeaderError,
    OffsetOutOfRangeError,
    OutOfOrderSequenceError,
    PoisonedLogError,
    StorageError,
    StreamlogError,
)
from streamlog.replication.follower import truncate_to
from streamlog.replication.partition import Partition
from streamlog.runtime.threads import new_lock
from streamlog.storage import truncation
from streamlog.storage.log import Log
from streamlog.storage.recovery.recovery import open_log
from streamlog.storage.tail import FetchData
from streamlog.testing import SimulatedDisk

from .conftest import CLEAN, KILLED, PARTITION, POWER_LOST, SEED, TOPIC_ID, Box
from .counting_disk import armed, calls_of, interrupted_at
from .reopening import flip, reopening
from .test_append_as_follower import contents, copy, sequenced

MakeBox = Callable[..., Box]
SIZE = 400  # two batches a segment of 1024 bytes


def filled(b: Box, batches: int = 9, epoch: int = 0) -> list[bytes]:
    """Batches of two records: offsets 0 and 1, 2 and 3, …"""
    values = []
    for n in range(batches):
        values += [b"%d" % n * SIZE, b"%d'" % n]
        b.log.append(b.write(*values[-2:]), epoch, b.now + n)
    return values


def starts(b: Box) -> list[tuple[int, int]]:
    return [tuple(entry) for entry in b.log.leader_epochs.epochs(b.log.tail).entries]


@reopening
@pytest.mark.parametrize("offset", range(20))
def test_records_from_the_offset_on_are_forgotten_and_the_log_goes_on(
    box: MakeBox, reopen: Callable[[Box], None], offset: int
) -> None:
    b = box(segment_bytes=1024)
    values = filled(b)
    b.log.durability.sync_sealed(b.log.tail)
    end = min(18, offset // 2 * 2)  # a batch that straddles goes whole
    assert truncate_to(b.partition, offset) == end
    assert b.values() == values[:end]
    assert b.log.durability.recovery_point <= end
    assert b.log.durability.synced_end <= end
    reopen(b)
    assert (b.log.tail.end_offset, b.values()) == (end, values[:end])
    assert b.append(b"next") == end
    reopen(b)
    assert b.values() == [*values[:end], b"next"]


def test_the_snapshot_and_the_index_are_those_of_a_log_that_never_had_the_records(box: MakeBox) -> None:
    for offset in range(0, 19, 2):
        b, other = box(segment_bytes=1024), box(segment_bytes=1024)
        filled(b)
        filled(other, offset // 2)
        truncate_to(b.partition, offset)
        mine, theirs = b.log.tail, other.log.tail
        if theirs.bases == mine.bases:
            assert mine[:2] + mine[3:] == theirs[:2] + theirs[3:]
        assert contents(b) == contents(other)
        assert b.log.reader.find_time(b.now + 3, mine.end_offset) == other.log.reader.find_time(
            other.now + 3, theirs.end_offset
        )


def test_an_offset_below_the_log_start_is_refused(box: MakeBox) -> None:
    b = box(segment_bytes=1024)
    filled(b)
    b.partition.delete_records(8)
    with pytest.raises(OffsetOutOfRangeError) as error:
        truncate_to(b.partition, 7)
    assert (error.value.log_start_offset, error.value.log_end_offset) == (8, 18)
    assert truncate_to(b.partition, 8) == 8
    assert b.values() == []


@reopening
def test_where_the_batch_of_the_log_start_goes_the_log_is_empty_and_begins_at_its_start(
    box: MakeBox, reopen: Callable[[Box], None]
) -> None:
    b = box(segment_bytes=1024)
    values = filled(b)
    b.partition.delete_records(9)
    b.log.durability.sync_sealed(b.log.tail)
    assert truncate_to(b.partition, 9) == 9
    reopen(b)
    assert (b.log.tail.start_offset, b.log.tail.end_offset, b.values()) == (9, 9, [])
    assert b.append(values[0]) == 9
    reopen(b)
    assert b.values() == values[:1]


def test_the_producers_are_those_of_the_records_that_are_left(box: MakeBox) -> None:
    b = box()
    for n in range(4):
        assert sequenced(b, n) == n
    truncate_to(b.partition, 2)
    with pytest.raises(OutOfOrderSequenceError):
        sequenced(b, 3)
    assert sequenced(b, 1) == 1
    assert sequenced(b, 2) == 2


def test_the_leader_epochs_are_truncated_with_the_log(box: MakeBox) -> None:
    """KAFKA-10706: an epoch that outlives its records sends followers to an offset that never was."""
    b = box(segment_bytes=1024)
    for n, epoch in enumerate((0, 0, 2, 2, 5)):
        b.log.append(b.write(b"%d" % n * SIZE), epoch, b.now)
    b.log.assign_epoch(7, 5)
    assert starts(b) == [(0, 0), (2, 2), (5, 4), (7, 5)]
    truncate_to(b.partition, 3)
    assert starts(b) == [(0, 0), (2, 2)]
    b.log.append(b.write(b"x"), 3, b.now)
    assert starts(b) == [(0, 0), (2, 2), (3, 3)]


def test_what_compaction_has_read_does_not_outlive_its_records(box: MakeBox) -> None:
    b = box(cleanup_policy="compact", segment_bytes=1024)
    for key in (b"a", b"b", b"a", b"c", b"b", b"a"):
        b.append(b"1" * SIZE, keys=[key])
    b.partition.maintenance.roll(b.now)
    b.partition.maintenance.compact(b.now)
    assert b.log.cleaned_until == 6
    end = truncate_to(b.partition, 4)
    assert 1 <= b.log.cleaned_until <= end
    for key in (b"a", b"a", b"a", b"c", b"c"):
        b.append(b"2" * SIZE, keys=[key])
    b.partition.maintenance.roll(b.now)
    b.partition.maintenance.compact(b.now)
    assert [entry.key for entry in b.read()].count(b"a") == 1


# Readers


@pytest.mark.parametrize("offset", [3, 7, 13, 17])
@pytest.mark.parametrize("is_mapped", [False, True])
def test_a_reader_with_an_older_snapshot_reads_nothing_wrong(box: MakeBox, offset: int, is_mapped: bool) -> None:
    """It gets bytes of before, or ENOENT, after which `LogReader` takes the new snapshot."""
    b = box(segment_bytes=1024)
    values = filled(b)
    b.log.durability.sync_sealed(b.log.tail)
    if is_mapped:
        assert b.values() == values
    older = b.log.tail
    before = [segment.read(1 << 16, 0)[:size] for segment, size in older.places()] if is_mapped else []
    end = truncate_to(b.partition, offset)
    for n in range(12):
        b.append(b"new %d" % n * 60)
    for at, (segment, size) in enumerate(older.places()):
        try:
            data = segment.read(size, 0)
        except StorageError as error:
            assert error.errno == errno.ENOENT
            assert segment not in b.log.tail.segments
        else:
            assert not before or data == before[at]
    assert b.values()[:end] == values[:end]
    assert len(b.values()) == end + 12


@pytest.mark.parametrize("grown", [0, 900], ids=["shorter file", "longer file"])
def test_a_reader_that_was_about_to_open_the_file_reads_the_new_log(box: MakeBox, grown: int) -> None:
    b = box(segment_bytes=2048)
    values = filled(b)
    reader, older = b.log.reader, b.log.tail
    truncate_to(b.partition, older.bases[1] + 2)
    newer = reader.tail
    if grown:
        b.append(b"x" * grown)
    for segment in older.segments:
        segment.release()
        segment._index = None
    for read in (lambda: older.segments[1].index, lambda: older.segments[1].read(10, 0)):
        with pytest.raises(StorageError, match="truncated while it was read") as error:
            read()
        assert error.value.errno == errno.ENOENT
    real, tails = reader._fetch, [older, newer]

    def fetch(offset: int, max_bytes: int, end_offset: int) -> FetchData:
        reader.tail = tails.pop(0)
        return real(offset, max_bytes, end_offset)

    data = reader._retry(lambda: fetch(older.bases[1], 100, newer.end_offset)).data
    assert not tails, "it has taken the new snapshot"
    assert values[older.bases[1]] in bytes(data)


def test_a_consumer_that_goes_on_after_its_last_chunk_gets_what_follows_now(box: MakeBox) -> None:
    b = box()
    values = filled(b, 3)
    chunk = b.log.reader.fetch(0, 1, 6)
    b.log.append_one(None, b"latest", b.now, 0, b.now)
    truncate_to(b.partition, 2)
    b.append(b"new", b"new")
    after = b.log.reader.fetch(2, 1 << 16, 4, chunk)
    assert b.values() == [*values[:2], b"new", b"new"]
    assert len(after.data) < SIZE


class Listener:
    quiet = False

    def __init__(self, b: Box) -> None:
        self.b = b
        self.seen: list[tuple[bool, int]] = []

    def appended(self) -> None: ...

    def changed(self, *, rewritten: bool = False) -> None:
        self.seen.append((rewritten, self.b.log.tail.end_offset))


def test_readers_in_other_processes_are_informed_that_files_were_rewritten(box: MakeBox) -> None:
    b = box(segment_bytes=1024)
    filled(b)
    b.partition.listener = listener = Listener(b)
    truncate_to(b.partition, 5)
    assert listener.seen == [(True, 4)]


def test_the_high_watermark_and_what_is_synced_go_back_with_the_log(box: MakeBox) -> None:
    b = box()
    b._partition = Partition(b.partition.name, TOPIC_ID, b.log, new_lock, durable=True)
    filled(b, 3)
    b.partition.commit.sync()
    assert b.partition.high_watermark == 6
    kept, gone = b.write(b"kept"), b.write(b"gone")
    b.partition.append(kept, b.now)
    b.partition.append(gone, b.now)
    waiting, lost = b.partition.acknowledge(kept), b.partition.acknowledge(gone)
    assert truncate_to(b.partition, 7) == 7
    assert b.partition.high_watermark == 6
    assert isinstance(lost.error(), NotLeaderError)
    assert not waiting.done()
    b.partition.commit.sync()
    assert waiting.result() == 6
    assert truncate_to(b.partition, 3) == 2
    assert (b.partition.high_watermark, b.partition.commit.synced_end) == (2, 2)
    everything = b.partition.commit.everything()
    assert everything.done()


# Failures


@pytest.mark.damaged
def test_damage_that_would_be_the_end_is_not_truncated_to(box: MakeBox) -> None:
    b = box()
    filled(b, 3)
    first = b.log.reader.fetch(0, 1, 6).data
    b.close()
    flip(b.logs()[0], len(first) + 20)
    b.open(KILLED)
    with pytest.raises(CorruptRecordError):
        truncate_to(b.partition, 4)
    assert b.log.tail.end_offset == 6
    assert truncate_to(b.partition, 4, discards_damage=True) == 2
    assert truncate_to(b.partition, 0) == 0


@pytest.mark.damaged
def test_damage_where_the_log_is_to_end_is_truncated_by_a_follower_that_fetches_it_again(box: MakeBox) -> None:
    b = box()
    values = filled(b, 3)
    size = b.log.tail.end_position
    b.close()
    flip(b.logs()[0], size - SIZE - 100)
    b.open(CLEAN)
    with pytest.raises(CorruptRecordError):
        truncate_to(b.partition, 5)
    assert b.log.tail.end_offset == 6
    assert truncate_to(b.partition, 5, discards_damage=True) == 4
    assert [entry.value for entry in b.read()] == values[:4]


@pytest.mark.damaged
def test_a_log_whose_end_is_damaged_is_neither_truncated_nor_copied_to(box: MakeBox) -> None:
    b = box()
    filled(b, 3)
    b.close()
    flip(b.logs()[0], -5)
    b.path.joinpath(b.logs()[0].with_suffix(".index").name).unlink()
    flip(b.logs()[0], b.logs()[0].stat().st_size - SIZE - 80)
    b.open(KILLED)
    assert b.log.refusals.damage is not None
    with pytest.raises(CorruptRecordError):
        truncate_to(b.partition, 0)
    with pytest.raises(CorruptRecordError):
        b.log.append_as_follower(b"")


def test_a_poisoned_log_is_not_truncated(box: MakeBox) -> None:
    b, disk = armed(box)
    filled(b, 2)
    disk.fails = lambda what: what.startswith("sync ")  # type: ignore[method-assign]
    disk.error = OSError(errno.EIO, "injected")
    for _ in range(2):
        with pytest.raises(PoisonedLogError):
            truncate_to(b.partition, 2)
    del disk.fails
    disk.error = None
    b.reopen(KILLED)
    assert len(b.values()) == 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
@pytest.mark.parametrize("offset", [3, 7, 17])
def test_a_truncation_that_failed_at_any_call_is_finished_by_the_next_call(
    box: MakeBox, offset: int, number: int
) -> None:
    def ready() -> tuple[Box, Any, list[bytes]]:
        b, disk = armed(box, segment_bytes=1024)
        values = filled(b)
        b.reopen()  # the recovery point is at the end, and the active segment has an index file
        return b, disk, values

    b, disk, _ = ready()
    total = calls_of(disk, lambda: truncate_to(b.partition, offset))
    assert total > 5
    end = offset // 2 * 2
    for nth in range(1, total + 1):
        for again in ("truncate", "append"):
            b, disk, values = ready()
            disk.arm(nth, OSError(number, "injected"))
            try:
                truncate_to(b.partition, offset)
            except PoisonedLogError:
                disk.error = None
                b.reopen(KILLED)
                assert b.values() == values[: b.log.tail.end_offset]
                continue
            except StreamlogError as error:
                assert isinstance(error, (DiskFullError, StorageError))
            disk.error = None
            assert b.log.tail.end_offset in (end, 18)
            assert b.values() == values[: b.log.tail.end_offset]
            if again == "truncate" or b.log.tail.end_offset == 18:
                assert truncate_to(b.partition, offset) == end
            assert b.append(b"next") == end
            b.reopen(KILLED)
            assert b.values() == [*values[:end], b"next"]


@pytest.mark.slow
@pytest.mark.parametrize("offset", [3, 17])
def test_ctrl_c_at_any_line_leaves_the_log_as_it_was_or_truncated(box: MakeBox, offset: int) -> None:
    functions = {
        "truncate_to", "_truncate_after", "_truncate", "lower_state", "_finish_truncation", "truncate_file", "replace_files", "_replace",
        "start", "finish", "_update", "retire", "truncated", "finish_swap", "copy_bytes",
    }  # fmt: skip
    end, line = offset // 2 * 2, 0
    while True:
        line += 1
        b = box(segment_bytes=1024)
        values = filled(b)
        with interrupted_at(line, functions) as seen, contextlib.suppress(KeyboardInterrupt):
            truncate_to(b.partition, offset)
        b.append(b"next")
        was = b.log.tail.end_offset - 1
        assert was in (end, 18)
        assert b.values() == [*values[:was], b"next"]
        b.reopen(KILLED)
        assert b.values() == [*values[:was], b"next"]
        if seen[0] < line:
            break
    assert line > 20


@pytest.mark.parametrize("offset", [0, 3, 4, 17])
@pytest.mark.parametrize("clean_open", [False, True])
def test_a_crash_at_any_write_or_sync_leaves_a_valid_log(offset: int, clean_open: bool) -> None:
    """As it was, or truncated, or as far as it was synced; never with a hole, and nothing that was synced is lost early."""
    machine = SimulatedDisk(seed=offset)
    b = Box.__new__(Box)
    b.path, b.disk, b.config, b.now = Path("/p"), machine, TopicConfig(segment_bytes=1024), 1000
    b.open()
    machine.sync_dir("/")
    values = filled(b)
    if clean_open:
        b.reopen()
    else:
        b.log.durability.sync_files(0, b.log.tail)
    first = len(machine.operations)
    end = truncation.truncate_to(b.log, offset)
    done = len(machine.operations)
    for n in range(3):
        b.append(b"new %d" % n * 100)
    b.log.durability.sync_files(end, b.log.tail)
    b.append(b"unsynced")
    synced = len(machine.operations) - 1
    whole = [*values[:end], *(b"new %d" % n * 100 for n in range(3)), b"unsynced"]
    states = 0
    for name, disk in machine.crashes(3, harsh=3, first=first):
        states += 1
        at = int(name.partition("/")[0])
        log = reopened(disk, power_lost="kill" not in name)
        b.disk = disk
        found = b.read(reader=log.reader)
        got = [entry.value for entry in found]
        assert [entry.offset for entry in found] == list(range(len(found))), name
        assert got in (values[: len(got)], whole[: len(got)]), name
        assert len(got) >= end, name
        if at >= done:
            assert got == whole[: len(got)], name
        else:
            assert got == values[: len(got)], name
            if "kill" in name:
                assert len(got) in (end, 18), name
        if at >= synced:
            assert len(got) >= end + 3, name
        log.append(b.write(b"goes on"), 9, 1000)
        log.release()
        again = reopened(disk, power_lost=False)
        assert again.tail.end_offset == len(got) + 1, name
        again.release()
    assert states > 30


def reopened(disk: SimulatedDisk, *, power_lost: bool) -> Log:
    crash = POWER_LOST if power_lost else KILLED
    return open_log(disk, "/p", TOPIC_ID, PARTITION, SEED, TopicConfig(segment_bytes=1024), crash)


def test_a_compaction_that_was_interrupted_is_finished_first(box: MakeBox) -> None:
    b, disk = armed(box, cleanup_policy="compact", segment_bytes=1024)
    for n in range(9):
        b.append(b"%d" % n * SIZE, keys=[b"k%d" % (n % 2)])
    before = b.table()
    disk.fails = lambda what: what.startswith("unlink ")  # type: ignore[method-assign]
    disk.error = OSError(errno.EIO, "injected")
    with pytest.raises(StorageError):
        b.partition.maintenance.compact(b.now)
    assert any(name.endswith(".swap") for name in b.names())
    with pytest.raises(StorageError):
        truncate_to(b.partition, 3)
    del disk.fails
    disk.error = None
    assert b.table() == before
    end = truncate_to(b.partition, 7)
    assert not any(name.endswith(".swap") for name in b.names())
    kept = b.read()
    b.reopen(KILLED)
    assert (b.log.tail.end_offset, b.read()) == (end, kept)


def test_a_follower_that_diverged_truncates_and_copies_on(box: MakeBox) -> None:
    leader, follower = box(segment_bytes=1024), box(segment_bytes=2048)
    filled(leader, 4)
    copy(leader, follower)
    filled(follower, 3, 1)
    for n in range(6):
        leader.log.append(leader.write(b"%d" % n * 90), 2, leader.now)
    diverging = leader.log.diverging_epoch(1, follower.log.tail.end_offset)
    assert diverging == (0, 8)
    truncate_to(follower.partition, diverging.end_offset)
    assert leader.log.diverging_epoch(0, 8) is None
    copy(leader, follower)
    assert contents(follower) == contents(leader)
