"""Which leader wrote which part of a log: the table alone, and as a log reads it from its headers."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlog.errors import CorruptRecordError, DiskFullError, NotLeaderError, OffsetOutOfRangeError
from streamlog.replication.replica_set import PartitionRegistration
from streamlog.storage.leader_epochs import EpochEnd, EpochStart, LeaderEpochs
from streamlog.storage.log import Log

from .conftest import CLEAN, KILLED, Box
from .counting_disk import armed
from .reopening import flip, reopened_without_index_files, reopening

MakeBox = Callable[..., Box]


def epochs(*entries: tuple[int, int]) -> LeaderEpochs:
    return LeaderEpochs([EpochStart(*entry) for entry in entries])


def test_an_epoch_begins_where_the_log_ends() -> None:
    table = LeaderEpochs()
    assert table.latest is None
    table.assign(3, 0)
    table.assign(3, 10)
    table.assign(7, 20)
    assert table.entries == [(3, 0), (7, 20)]
    assert table.latest == 7


def test_an_epoch_that_goes_back_is_refused() -> None:
    table = epochs((0, 0), (5, 10))
    with pytest.raises(NotLeaderError) as error:
        table.assign(4, 20)
    assert (error.value.leader_epoch, error.value.current_epoch) == (4, 5)
    assert table.entries == [(0, 0), (5, 10)]


def test_an_epoch_in_which_nothing_was_written_is_replaced() -> None:
    table = epochs((0, 0), (5, 10))
    table.assign(4, 10)
    assert table.entries == [(0, 0), (4, 10)]


def test_epochs_are_cut_with_the_log() -> None:
    """KAFKA-10706: an epoch that outlives its records sends followers to an offset that never was."""
    table = epochs((0, 0), (2, 10), (5, 20))
    table.truncate_from_end(20)
    assert table.entries == [(0, 0), (2, 10)]
    table.truncate_from_end(5)
    assert table.entries == [(0, 0)]
    table.truncate_from_end(0)
    assert table.entries == []


def test_the_first_epoch_begins_where_the_log_does() -> None:
    table = epochs((0, 0), (2, 10), (5, 20))
    table.truncate_from_start(0)
    assert table.entries == [(0, 0), (2, 10), (5, 20)]
    table.truncate_from_start(12)
    assert table.entries == [(2, 12), (5, 20)]
    table.truncate_from_start(20)
    assert table.entries == [(5, 20)]
    table.truncate_from_start(25)
    assert table.entries == [(5, 25)]


@pytest.mark.parametrize(
    ("epoch", "end"),
    [
        (-1, None),
        (0, EpochEnd(0, 5)),  # older than all there is: where the first begins
        (1, EpochEnd(1, 10)),
        (2, EpochEnd(1, 10)),  # never was here: the one before
        (4, EpochEnd(4, 30)),
        (6, EpochEnd(4, 30)),
        (7, EpochEnd(7, 99)),
        (8, None),  # newer than all there is
    ],
)
def test_an_epoch_ended_where_the_next_began_and_the_last_one_at_the_end(epoch: int, end: EpochEnd | None) -> None:
    assert epochs((1, 5), (4, 10), (7, 30)).end_offset_for(epoch, 99) == end


def test_a_log_without_batches_knows_no_epoch() -> None:
    assert LeaderEpochs().end_offset_for(0, 0) is None


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["append", "cut", "start"]), st.integers(0, 30))))
@settings(max_examples=300, deadline=None)
def test_the_answers_are_those_of_a_list_with_an_epoch_for_every_offset(steps: list[tuple[int, str, int]]) -> None:
    table, log, start, epoch = LeaderEpochs(), list[int](), 0, 0
    for up, kind, number in steps:
        if kind == "append":
            epoch += up
            table.assign(epoch, len(log))
            log += [epoch] * (1 + number % 4)
        elif kind == "cut":
            del log[max(start, len(log) - number) :]
            table.truncate_from_end(len(log))
        else:
            start = min(len(log), start + number % 3)
            table.truncate_from_start(start)
        if start == len(log):
            continue
        kept = log[start:]
        assert table.entries == [(e, start + kept.index(e)) for e in sorted(set(kept))]
        for asked in range(epoch + 2):
            below = [e for e in kept if e <= asked]
            above = [start + at for at, e in enumerate(kept) if e > asked]
            answer = table.end_offset_for(asked, len(log))
            if asked == kept[-1]:
                assert answer == (asked, len(log))
            elif not above:
                assert answer is None
            else:
                assert answer == (below[-1] if below else asked, above[0])


# Read from a log


def led(b: Box, *epochs: int) -> None:
    for epoch in epochs:
        b.log.append(b.write(b"x" * 200), epoch, b.now)


def starts(log: Log) -> list[tuple[int, int]]:
    return [tuple(entry) for entry in log.leader_epochs.epochs(log.tail).entries]


@reopening
def test_the_epochs_of_a_log_are_those_of_its_batches(box: MakeBox, reopen: Callable[[Box], None]) -> None:
    b = box(segment_bytes=1024)
    led(b, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2, 3, 4, 4, 4)
    b.log.append_one(b"k", b"v", b.now, 9, b.now)
    reopen(b)
    assert starts(b.log) == [(0, 0), (2, 3), (3, 11), (4, 12), (9, 15)]
    assert b.log.leader_epochs.epochs(b.log.tail).end_offset_for(3, 16) == EpochEnd(3, 12)
    led(b, 9, 10)
    assert starts(b.log) == [(0, 0), (2, 3), (3, 11), (4, 12), (9, 15), (10, 17)]


@reopening
def test_an_append_of_an_older_epoch_is_refused(box: MakeBox, reopen: Callable[[Box], None]) -> None:
    b = box()
    led(b, 0, 5)
    reopen(b)
    for _ in range(2):
        with pytest.raises(NotLeaderError):
            led(b, 4)
        with pytest.raises(NotLeaderError):
            b.log.append_one(None, b"v", b.now, 4, b.now)
        starts(b.log)
    assert b.log.tail.end_offset == 2
    led(b, 5)


def test_after_a_roll_the_last_epoch_is_that_of_the_segment_before(box: MakeBox) -> None:
    b = box()
    led(b, 5)
    b.log.roll(b.now)
    reopened_without_index_files(b)
    with pytest.raises(NotLeaderError):
        led(b, 4)


def test_an_epoch_in_which_nothing_was_written_is_none_of_the_log(box: MakeBox) -> None:
    b, disk = armed(box)
    led(b, 1)
    assert starts(b.log) == [(1, 0)]
    for _ in range(2):
        disk.arm(1, OSError(errno.ENOSPC, "injected"))
        with pytest.raises(DiskFullError):
            led(b, 8)
        disk.error = None
        assert starts(b.log) == [(1, 0)]
    led(b, 3, 8)
    assert starts(b.log) == [(1, 0), (3, 1), (8, 2)]


def test_an_epoch_that_was_begun_before_anybody_asked_is_there_once_it_is_written(box: MakeBox) -> None:
    b, disk = armed(box)
    led(b, 1)
    disk.arm(2, OSError(errno.ENOSPC, "injected"))  # the first call reads the last epoch
    with pytest.raises(DiskFullError):
        led(b, 8)
    disk.error = None
    assert starts(b.log) == [(1, 0)]
    led(b, 8)
    assert starts(b.log) == [(1, 0), (8, 1)]


def test_an_epoch_whose_batches_were_cut_off_as_torn_is_forgotten(box: MakeBox) -> None:
    """Scenario 3 (KAFKA-10706): the epochs are cut with the log."""
    b = box()
    led(b, 0, 0)
    size = b.log.tail.end_position
    led(b, 7)
    assert starts(b.log) == [(0, 0), (7, 2)]
    b.log.release()
    path = b.logs()[0]
    path.write_bytes(path.read_bytes()[: size + 90])
    b.open(KILLED)
    assert starts(b.log) == [(0, 0)]
    led(b, 3)
    assert starts(b.log) == [(0, 0), (3, 2)]


def test_the_first_epoch_of_a_log_begins_where_the_log_does(box: MakeBox) -> None:
    b = box(segment_bytes=1024)
    led(b, *[0] * 5, *[1] * 5, *[2] * 5)
    for start, expected in ((2, [(0, 2), (1, 5), (2, 10)]), (7, [(1, 7), (2, 10)]), (15, [(2, 15)])):
        b.partition.delete_records(start)
        assert starts(b.log) == expected
        b.reopen(KILLED)
        assert starts(b.log) == expected
    led(b, 2)
    assert starts(b.log) == [(2, 15)]


def test_behind_a_gap_that_compaction_left_an_epoch_begins_no_later_than_it_did(box: MakeBox) -> None:
    """A follower that is cut back too far fetches it again; too little, and it keeps what its leader never had."""
    b = box(cleanup_policy="compact")
    for epoch, key in ((0, b"a"), (0, b"b"), (1, b"b"), (1, b"c"), (1, b"b")):
        b.log.append(b.write(b"x", keys=[key]), epoch, b.now)
    b.partition.maintenance.roll(b.now)
    b.partition.maintenance.compact(b.now)
    assert [entry.offset for entry in b.read()] == [0, 3, 4]
    b.reopen(KILLED)
    assert starts(b.log) == [(0, 0), (1, 1)]


@pytest.mark.damaged
def test_damage_hides_no_epoch_but_the_one_that_lies_in_it(box: MakeBox) -> None:
    b = box()
    led(b, 0, 1)
    at = b.log.tail.end_position
    led(b, 2, 3)
    b.close()
    flip(b.logs()[0], at + 20)
    b.open(CLEAN)
    assert starts(b.log) == [(0, 0), (1, 1), (3, 2)]


@pytest.mark.damaged
def test_a_follower_is_not_told_to_truncate_what_damage_may_hide(box: MakeBox) -> None:
    b = box()
    led(b, 0, 1)
    at = b.log.tail.end_position
    led(b, 2, 3)
    b.close()
    flip(b.logs()[0], at + 20)
    b.open(CLEAN)
    assert b.log.diverging_epoch(3, 4) is None
    with pytest.raises(CorruptRecordError):
        b.log.diverging_epoch(2, 3)  # maybe the very record that is damaged here
    assert b.log.diverging_epoch(0, 2) == EpochEnd(0, 1)  # before it
    led(b, 5)
    at = b.log.tail.end_position
    led(b, 8)
    assert b.log.diverging_epoch(6, 6) == EpochEnd(5, 5)  # after it
    b.close()
    flip(b.logs()[0], at + 20)
    b.open(CLEAN)
    b.log.assign_epoch(9, 6)
    with pytest.raises(CorruptRecordError):
        b.log.diverging_epoch(8, 6)


@pytest.mark.damaged
def test_a_log_without_a_header_that_verifies_has_no_epoch(box: MakeBox) -> None:
    b = box()
    led(b, 4)
    b.log.roll(b.now)
    b.close()
    flip(b.logs()[0], 20)
    b.open(CLEAN)
    assert starts(b.log) == []
    led(b, 0)
    assert starts(b.log) == [(0, 1)]


def test_after_a_truncation_the_epochs_are_read_again(box: MakeBox) -> None:
    b = box()
    led(b, 0)
    tail = b.log.tail
    led(b, 2)
    assert starts(b.log) == [(0, 0), (2, 1)]
    b.log.reader.tail = tail
    b.log.leader_epochs.truncated()
    tail.segments[-1].file.truncate(tail.end_position)
    tail.segments[-1].index.truncate(tail.end_position)
    assert starts(b.log) == [(0, 0)]
    led(b, 1)
    assert starts(b.log) == [(0, 0), (1, 1)]


# A leader that begins an epoch, and followers that ask it


def test_an_epoch_that_a_leader_begins_ends_the_one_before_it(box: MakeBox) -> None:
    """KIP-279: a follower with records of epoch 4, which this leader never had, learns where epoch 3 ended here."""
    b = box()
    led(b, 0, 3)
    assert b.log.epoch_end_offset(4) is None
    b.log.assign_epoch(5, 2)
    assert b.log.epoch_end_offset(4) == EpochEnd(3, 2)
    assert b.log.epoch_end_offset(5) == EpochEnd(5, 2)
    led(b, 5)
    assert b.log.epoch_end_offset(4) == EpochEnd(3, 2)
    assert b.log.epoch_end_offset(5) == EpochEnd(5, 3)
    assert starts(b.log) == [(0, 0), (3, 1), (5, 2)]


def test_a_partition_whose_broker_becomes_the_leader_begins_the_epoch(box: MakeBox) -> None:
    b = box()
    led(b, 0)
    b.partition.follow(PartitionRegistration((0, 1), (0, 1), 1, 3, 1))
    assert b.partition.epoch_end(3) is None
    b.partition.follow(PartitionRegistration((0, 1), (0, 1), 0, 4, 2))
    assert b.partition.epoch_end(3) == EpochEnd(0, 1)
    assert b.partition.epoch_end(4) == EpochEnd(4, 1)
    assert b.partition.diverging_epoch(3, 5) == EpochEnd(0, 1)
    assert b.partition.diverging_epoch(0, 1) is None


def test_a_fetch_of_a_log_that_diverged_is_answered_with_the_end_of_the_common_epoch(box: MakeBox) -> None:
    """KIP-595."""
    b = box()
    led(b, 1, 1, 3)
    for epoch, offset, expected in (
        (3, 3, None),
        (3, 2, None),  # behind, and a part of this log
        (1, 2, None),
        (1, 3, EpochEnd(1, 2)),  # it has more of epoch 1
        (2, 2, EpochEnd(1, 2)),  # its epoch never was here
        (3, 4, EpochEnd(3, 3)),
        (0, 0, None),
        (0, 1, EpochEnd(0, 0)),
    ):
        assert b.log.diverging_epoch(epoch, offset) == expected, (epoch, offset)
    with pytest.raises(OffsetOutOfRangeError):
        b.log.diverging_epoch(4, 3)


def test_a_leader_that_wrote_nothing_follows_one_of_older_batches(box: MakeBox) -> None:
    """After an unclean election the new leader may have batches of an epoch before one that was begun here in vain."""
    leader, b = box(), box()
    led(leader, 0, 2)
    led(b, 0)
    b.log.assign_epoch(3, 1)
    data = leader.log.reader.fetch(1, 1 << 16, 2).data
    assert b.log.append_as_follower(data) == 2
    assert starts(b.log) == [(0, 0), (2, 1)]
