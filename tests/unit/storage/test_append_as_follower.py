"""A follower stores batches exactly as their leader did: the bytes come out of one log and go into another."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable

import pytest

from streamlog.errors import (
    CorruptRecordError,
    DiskFullError,
    NotLeaderError,
    OutOfOrderSequenceError,
    UnexpectedAppendOffsetError,
)
from streamlog.records.single import SequencedRecord
from streamlog.replication.follower import append
from streamlog.replication.replica_set import PartitionRegistration
from streamlog.storage.copying import append_copy
from streamlog.storage.log import AppendRequest

from .conftest import KILLED, POWER_LOST, Box
from .counting_disk import Killed, armed, calls_of, interrupted_at
from .reopening import reopening

MakeBox = Callable[..., Box]


def fetched(leader: Box, offset: int, max_bytes: int = 1 << 16) -> bytes:
    reader = leader.log.reader
    return bytes(reader.fetch(offset, max_bytes, reader.tail.end_offset).data)


def copy(leader: Box, follower: Box, max_bytes: int = 1 << 16) -> None:
    """Append to the follower what its leader has after the follower's end."""
    while data := fetched(leader, follower.log.tail.end_offset, max_bytes):
        append(follower.partition, data)


def contents(b: Box) -> bytes:
    return b"".join(path.read_bytes() for path in b.logs())


def sequenced(b: Box, sequence: int, leader_epoch: int = 0, producer_id: int = 7) -> int:
    batch = b.write(b"s%d" % sequence).batches[0]
    batch = batch._replace(producer_id=producer_id, producer_epoch=0, base_sequence=sequence)
    return b.log.append(AppendRequest([batch]), leader_epoch, b.now)


def busy(box: MakeBox) -> Box:
    """A leader with several segments, epochs and kinds of batches."""
    b = box(segment_bytes=1024)
    for n in range(6):
        b.log.append(b.write(b"x" * 150, b"y"), n // 2, b.now + n)
        b.log.append_one(b"k", b"z" * n, b.now - n, n // 2, b.now)
        sequenced(b, n, n // 2)
    return b


@reopening
@pytest.mark.parametrize("max_bytes", [1, 700, 1 << 16])
def test_a_follower_has_the_bytes_of_its_leader(box: MakeBox, reopen: Callable[[Box], None], max_bytes: int) -> None:
    leader, follower = busy(box), box(segment_bytes=2048)
    copy(leader, follower, max_bytes)
    reopen(follower)
    assert contents(follower) == contents(leader)
    assert follower.read() == leader.read()
    mine, theirs = follower.log.tail, leader.log.tail
    assert mine.end_offset == theirs.end_offset
    assert follower.log.leader_epochs.epochs(mine).entries == leader.log.leader_epochs.epochs(theirs).entries
    assert follower.log.reader.find_time(follower.now + 4, mine.end_offset) == leader.log.reader.find_time(
        leader.now + 4, theirs.end_offset
    )


def test_segments_are_rolled_by_the_followers_own_settings_and_the_leaders_times(box: MakeBox) -> None:
    leader = box()
    for n in range(4):
        leader.append(b"%d" % n * 300, b"x")
        leader.now += 1000
    for config, segments in (
        ({"segment_bytes": 1024}, 2), ({"retention_records": 16}, 4), ({"segment_ms": 1000}, 4), ({}, 1)
    ):  # fmt: skip
        follower = box(**config)
        for offset in range(0, 8, 2):
            follower.log.append_as_follower(fetched(leader, offset, 1))
        assert len(follower.logs()) == segments, config
        assert contents(follower) == contents(leader)


def test_the_published_tail_counts_records_and_timestamps_as_the_leaders_does(box: MakeBox) -> None:
    leader, follower = box(), box()
    for n in (5, 1, 9):
        leader.append(b"a", b"b", timestamps=[n, n + 1])
    copy(leader, follower)
    mine, theirs = follower.log.tail, leader.log.tail
    assert mine[5:8] == theirs[5:8] == (6, 1, 10)
    assert follower.log.appended_batches == leader.log.appended_batches
    assert follower.log.appended_bytes == leader.log.appended_bytes


def test_no_data_is_no_append(box: MakeBox) -> None:
    follower = box()
    before = follower.log.tail
    assert follower.log.append_as_follower(b"") == 0
    assert follower.log.tail is before


def test_offsets_that_the_log_has_are_refused_each_time_they_come(box: MakeBox) -> None:
    leader, follower = busy(box), box()
    copy(leader, follower)
    before = follower.log.tail
    for _ in range(2):
        with pytest.raises(UnexpectedAppendOffsetError) as error:
            follower.log.append_as_follower(fetched(leader, 2))
        assert (error.value.first_offset, error.value.log_end_offset) == (2, before.end_offset)
    assert follower.log.tail is before
    assert contents(follower) == contents(leader)


def test_data_that_repeats_a_batch_inside_itself_is_refused_whole(box: MakeBox) -> None:
    leader, follower = busy(box), box()
    data = fetched(leader, 0, 1)
    with pytest.raises(UnexpectedAppendOffsetError):
        follower.log.append_as_follower(data + data)
    assert follower.log.tail.end_offset == 0


def test_a_leader_epoch_that_goes_back_is_refused_whole(box: MakeBox) -> None:
    leader, other, follower = box(), box(), box()
    for b, epochs in ((leader, (0, 5)), (other, (0, 5, 3, 6))):
        for n, epoch in enumerate(epochs):
            b.log.leader_epochs.truncated()
            b.log.leader_epochs.current = epoch  # `other` is the log of a broker that has gone wrong
            b.log.append(b.write(b"%d" % n), epoch, b.now)
    copy(leader, follower)
    for _ in range(2):
        with pytest.raises(NotLeaderError):
            follower.log.append_as_follower(fetched(other, 2))
    with pytest.raises(NotLeaderError):
        box().log.append_as_follower(fetched(other, 0))
    assert follower.log.tail.end_offset == 2
    other.path.joinpath("00000000000000000000.log").unlink()  # it is no valid log


@pytest.mark.parametrize("where", ["header", "payload", "length"])
def test_damaged_data_is_refused_whole(box: MakeBox, where: str) -> None:
    leader, follower = box(), box()
    leader.append(b"a" * 100)
    leader.append(b"b" * 100)
    data = bytearray(fetched(leader, 0))
    if where == "length":
        data = data[:-1]
    else:
        data[len(data) // 2 + 30 if where == "header" else -3] ^= 1
    with pytest.raises(CorruptRecordError, match="What was fetched for"):
        append(follower.partition, data)
    assert follower.log.tail.end_offset == 0
    copy(leader, follower)
    assert contents(follower) == contents(leader)


@reopening
def test_gaps_that_compaction_left_are_copied_and_are_no_loss(box: MakeBox, reopen: Callable[[Box], None]) -> None:
    leader, follower = box(cleanup_policy="compact", segment_bytes=1024), box(segment_bytes=1024)
    for key in (b"a", b"b", b"a", b"a", b"b", b"c"):
        leader.append(b"x" * 300, keys=[key])
    leader.partition.maintenance.roll(leader.now)
    leader.partition.maintenance.compact(leader.now)
    assert [entry.offset for entry in leader.read()] == [3, 4, 5]
    copy(leader, follower, 1)
    reopen(follower)
    assert follower.read() == leader.read()
    assert follower.log.cleaned_until, "verify would report the gaps as lost records"
    leader.append(b"next")
    copy(leader, follower)
    assert contents(follower) == contents(leader)


def test_a_gap_is_recorded_before_the_batch_after_it_is_written(box: MakeBox) -> None:
    leader = box(cleanup_policy="compact")
    for key in (b"a", b"a", b"a"):
        leader.append(b"x", keys=[key])
    leader.partition.maintenance.roll(leader.now)
    leader.partition.maintenance.compact(leader.now)
    follower, disk = armed(box)
    data = fetched(leader, 0)
    assert not follower.log.begins_gaps(b"")
    assert follower.log.begins_gaps(data)
    calls_of(disk, lambda: append(follower.partition, data))
    written = [call.rpartition("/")[2] for call in disk.calls if call.split()[0] in ("pwrite", "sync")]
    assert written == ["partition.state", "partition.state", "00000000000000000000.log"]
    assert not follower.log.begins_gaps(data)


def test_the_producers_of_a_follower_are_those_of_its_leader(box: MakeBox) -> None:
    """A follower that becomes the leader knows what was sent already."""
    leader, follower = box(), box()
    assert sequenced(follower, 0) == 0  # so its producers are known, and not read from the headers later
    for n in range(3):
        assert sequenced(leader, n) == n
    leader.append(b"plain")
    copy(leader, follower)
    assert [sequenced(follower, n, 1) for n in range(3)] == [0, 1, 2]
    with pytest.raises(OutOfOrderSequenceError):
        sequenced(follower, 4, 1)
    assert sequenced(follower, 3, 1) == 4
    follower.reopen(KILLED)
    assert sequenced(follower, 3, 1) == 4


def test_a_follower_that_leads_from_now_on_refuses_older_epochs(box: MakeBox) -> None:
    leader, follower = busy(box), box()
    copy(leader, follower)
    for reopened in (False, True):
        if reopened:
            follower.reopen(POWER_LOST)
        with pytest.raises(NotLeaderError):
            follower.log.append(follower.write(b"x"), 1, follower.now)
    follower.log.append(follower.write(b"x"), 3, follower.now)
    assert follower.log.leader_epochs.epochs(follower.log.tail).entries[-1] == (3, 24)


def test_a_broker_that_does_not_lead_the_partition_appends_as_a_follower(box: MakeBox) -> None:
    leader, follower = busy(box), box(segment_bytes=1024)
    follower.partition.follow(PartitionRegistration((0, 9), (0, 9), 9, 4, 1))
    with pytest.raises(NotLeaderError):
        follower.partition.append(follower.write(b"x"), follower.now)
    copy(leader, follower, 1)
    assert len(follower.logs()) > 3
    assert contents(follower) == contents(leader)
    follower.reopen()
    assert follower.log.durability.recovery_point == follower.log.tail.end_offset


def test_readers_that_wait_are_woken(box: MakeBox) -> None:
    leader, follower = busy(box), box()
    woken: list[int] = []
    follower.partition.waiters.add(lambda: woken.append(follower.log.tail.end_offset))
    worked: list[object] = []
    follower.partition.on_work = worked.append
    copy(leader, follower)
    assert woken
    assert worked == [follower.partition]


def test_a_write_that_waits_for_a_sync_of_a_follower_shares_it(box: MakeBox) -> None:
    leader, follower = busy(box), box()
    copy(leader, follower)
    done = follower.partition.commit.everything()
    assert not done.done()
    follower.partition.commit.sync()
    assert done.done()
    assert follower.partition.commit.synced_end == follower.log.tail.end_offset


@pytest.mark.parametrize("half", [False, True], ids=["nothing written", "half written"])
def test_an_append_that_failed_changes_nothing_and_is_done_again(box: MakeBox, half: bool) -> None:
    leader = busy(box)
    follower, disk = armed(box, segment_bytes=1024)
    follower.log.append_as_follower(fetched(leader, 0, 1))
    end = follower.log.tail.end_offset
    data = fetched(leader, end)
    total = calls_of(disk, lambda: append(follower.partition, data))
    for nth in range(1, total + 1):
        follower, disk = armed(box, segment_bytes=1024)
        follower.log.append_as_follower(fetched(leader, 0, 1))
        disk.arm(nth, OSError(errno.ENOSPC, "injected"), half=half)
        with pytest.raises(DiskFullError):
            append(follower.partition, data)
        disk.error = None
        assert follower.log.tail.end_offset == end
        assert follower.log.leader_epochs.epochs(follower.log.tail).entries == [(0, 0)]
        copy(leader, follower)
        assert contents(follower) == contents(leader)


def test_a_kill_at_any_call_leaves_whole_appends(box: MakeBox) -> None:
    leader = busy(box)
    nth = 0
    while True:
        nth += 1
        follower, disk = armed(box, segment_bytes=1024)
        disk.arm(nth, Killed(), half=True)
        try:
            copy(leader, follower, 500)
        except Killed:
            pass
        else:
            break
        disk.error = None
        follower.reopen(KILLED)
        assert follower.read() == leader.read()[: len(follower.read())]
        copy(leader, follower)
        assert contents(follower) == contents(leader)
    assert nth > 15


def test_ctrl_c_at_any_line_leaves_a_log_that_goes_on(box: MakeBox) -> None:
    leader = busy(box)
    functions = {
        "append",
        "append_in_turn",
        "append_as_follower",
        "extend",
        "begin_batches",
        "stage",
        "note",
        "verified",
    }
    line = 0
    while True:
        line += 1
        follower = box()
        follower.log.append_as_follower(fetched(leader, 0, 1))
        sequenced(follower, 0, producer_id=9)
        data = fetched(leader, follower.log.tail.end_offset)
        with interrupted_at(line, functions) as seen, contextlib.suppress(KeyboardInterrupt):
            follower.log.append_as_follower(data)
        copy(leader, follower)
        assert follower.log.leader_epochs.epochs(follower.log.tail).entries == [(0, 0), (1, 8), (2, 16)]
        assert sequenced(follower, 5, 3) == 23, "the producer's last batch is known"
        if seen[0] < line:
            break
    assert line > 30


# A record as its leader has it in memory


def one(leader: Box, n: int = 0, sequence: SequencedRecord | None = None) -> bytes:
    """The leader appends a record, and has it in memory."""
    leader.log.append_one(b"k", b"v%d" % n, leader.now + n, 0, leader.now, sequence)
    latest = leader.log.reader.latest
    assert latest is not None
    return latest[2]


def test_a_record_from_the_leaders_memory_gives_the_log_that_a_fetch_gives(box: MakeBox) -> None:
    leader, copied, fetching = box(), box(), box()
    one(leader)
    copy(leader, copied)
    for n in (5, -5, 2):
        data = one(leader, n)
        assert append_copy(copied.log, data, 0) == leader.log.tail.end_offset
    copy(leader, fetching)
    assert contents(copied) == contents(fetching) == contents(leader)
    tails = [each.log.tail for each in (copied, fetching)]
    assert tails[0]._replace(segments=()) == tails[1]._replace(segments=())
    assert copied.log.appended_bytes == fetching.log.appended_bytes
    assert copied.read() == leader.read()
    one(leader)
    copy(leader, copied)
    assert contents(copied) == contents(leader)


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({}, "it is not the next one"),
        ({}, "it is there already"),
        ({}, "it begins an epoch"),
        ({}, "the segment is empty"),
        ({"segment_bytes": 1024}, "the segment is full"),
        ({"segment_ms": 1000}, "the segment is old"),
        ({"retention_records": 8}, "the segment has its records"),
    ],
)
def test_a_record_that_is_more_work_than_to_copy_it_is_left(box: MakeBox, config: dict[str, int], what: str) -> None:
    leader, follower = box(), box(**config)
    one(leader)
    if what == "the segment is full":
        leader.append(b"x" * 700)
    if what != "the segment is empty":
        copy(leader, follower)
    if what == "the segment is old":
        leader.now += 1000
    data = one(leader)
    if what == "it is not the next one":
        data = one(leader)
    elif what == "it is there already":
        copy(leader, follower)
    before = follower.log.tail
    assert append_copy(follower.log, data, 1 if what == "it begins an epoch" else 0) == -1
    assert follower.log.tail is before


@pytest.mark.parametrize("segment_bytes", [1024, 1 << 20])
def test_a_follower_that_copies_records_knows_their_producers_as_its_leader_does(
    box: MakeBox, segment_bytes: int
) -> None:
    leader, follower = box(segment_bytes=segment_bytes), box(segment_bytes=segment_bytes)
    sequences = dict.fromkeys((7, 8, 9), 0)
    for n in range(300):
        producer = 9 if n == 150 else 7 + n % 2
        data = one(leader, n, SequencedRecord(producer, 0, sequences[producer]))
        sequences[producer] += 1
        if append_copy(follower.log, data, 0) < 0:  # the first one of a segment
            copy(leader, follower)
    now = leader.now
    for each in sequences:
        known = leader.log.producer_state(each, now)
        assert known is not None
        assert known.batches[-1].last_sequence == sequences[each] - 1
        assert follower.log.producer_state(each, now) == known
        assert follower.log.producer_states(now).get(each) == known
    assert sequenced(follower, 148) == 298
    assert contents(follower) == contents(leader)


@pytest.mark.parametrize("copied", [True, False])
def test_a_leader_that_followed_in_between_knows_what_the_other_leader_took_from_a_producer(
    box: MakeBox, copied: bool
) -> None:
    first, second = box(), box()
    for n in range(3):
        one(first, n, SequencedRecord(7, 0, n))
    copy(first, second)
    one(second, 3, SequencedRecord(7, 0, 3))
    copy(second, first)
    data = one(second, 4, SequencedRecord(7, 0, 4))
    if copied:
        assert append_copy(first.log, data, 0) == 5
    else:
        copy(second, first)
    for sequence in (3, 4, 1, 5):
        record = SequencedRecord(7, 0, sequence)
        assert first.log.append_one(b"k", b"v%d" % sequence, first.now, 0, first.now, record) == sequence


@pytest.mark.parametrize("refused", [1, 8])
def test_records_that_the_disk_refuses_do_not_hide_those_of_their_producer_that_were_copied_before(
    box: MakeBox, refused: int
) -> None:
    leader = box()
    follower, disk = armed(box)
    one(leader, 0, SequencedRecord(7, 0, 0))
    copy(leader, follower)
    assert follower.log.producer_state(7, leader.now) is not None
    for n in range(1, 12):
        append_copy(follower.log, one(leader, n, SequencedRecord(7, 0, n)), 0)
    before = leader.log.producer_state(7, leader.now)
    for n in range(12, 12 + refused):
        data = one(leader, n, SequencedRecord(7, 0, n))
    disk.arm(1, OSError(errno.ENOSPC, "injected"), half=True)
    with pytest.raises(DiskFullError):
        if refused == 1:
            append_copy(follower.log, data, 0)
        else:
            copy(leader, follower)
    disk.error = None
    assert follower.log.producer_state(7, leader.now) == before


def test_a_copy_that_the_disk_refuses_leaves_the_log_as_it_was(box: MakeBox) -> None:
    leader = box()
    follower, disk = armed(box)
    one(leader)
    copy(leader, follower)
    data = one(leader)
    before = follower.log.tail
    disk.arm(1, OSError(errno.ENOSPC, "injected"), half=True)
    with pytest.raises(DiskFullError):
        append_copy(follower.log, data, 0)
    assert follower.log.tail is before
    assert append_copy(follower.log, data, 0) == 2
    assert contents(follower) == contents(leader)
