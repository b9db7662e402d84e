"""The producer state of a log is what its batches say, after every way of closing, losing and deleting.

Scenario 11: producer state is lost, or runs ahead of the log, and duplicates are stored or false sequence errors raised.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from streamlog.errors import (
    DiskFullError,
    InvalidRecordError,
    InvalidTxnStateError,
    OutOfOrderSequenceError,
    PoisonedLogError,
    ProducerFencedError,
    StorageError,
)
from streamlog.records.batch import CODEC_SHIFT, CONTROL, MAX_FREE_RECORDS, TRANSACTIONAL, directory_of
from streamlog.records.single import SequencedRecord
from streamlog.storage import index as index_files
from streamlog.storage.last_batches import LastBatches, SequencedBatch, batches_from
from streamlog.storage.log import AppendRequest
from streamlog.storage.producer_state import EXPIRATION_MS, ProducerStateManager, ProducerStates, SingleRecords
from streamlog.storage.producer_summary import ProducerSummary
from streamlog.storage.recovery.recovery import PreviousShutdown

from .conftest import CLEAN, KILLED, NOW, SEED, Box
from .counting_disk import Killed, armed, calls_of, interrupted_at
from .reopening import WAYS, flip, reopening

MakeBox = Callable[..., Box]
HOUR = 3_600_000
PRODUCER = 7


def write(
    b: Box, sequence: int, *values: bytes, producer: int = PRODUCER, epoch: int = 0, **options: Any
) -> AppendRequest:
    """A write of one batch of a producer; its values say which record of the producer they are, unless given."""
    made = b.write(*(values or (b"%d" % sequence,)), **options)
    made.batches = [made.batches[0]._replace(producer_id=producer, producer_epoch=epoch, base_sequence=sequence)]
    return made


def send(b: Box, sequence: int, *values: bytes, leader_epoch: int = 0, **options: Any) -> int:
    return b.log.append(write(b, sequence, *values, **options), leader_epoch, b.now)


# In a transaction


def test_a_plain_batch_of_a_producer_is_refused_while_its_transaction_is_open(box: MakeBox) -> None:
    """As by Kafka: it could be read before the records of the transaction that it was sent after."""
    b = box()
    send(b, 0)
    in_transaction = write(b, 1)
    in_transaction.batches = [in_transaction.batches[0]._replace(attributes=TRANSACTIONAL)]
    b.log.append(in_transaction, 0, b.now)
    with pytest.raises(InvalidTxnStateError, match="open transaction"):
        send(b, 2)
    assert b.log.tail.end_offset == 2
    assert send(b, 0, producer=PRODUCER + 1) == 2


# Sent again


def test_batches_in_their_order_are_noted_many_at_a_time(box: MakeBox, monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[int] = []
    note = LastBatches.note

    def counted(known: LastBatches, batch: Any, base_offset: int, append_ms: int) -> None:
        noted.append(base_offset)
        note(known, batch, base_offset, append_ms)

    b = box()
    send(b, 0)
    monkeypatch.setattr(LastBatches, "note", counted)
    for sequence in range(1, 300):
        assert send(b, sequence) == sequence
    assert len(noted) <= 30
    with pytest.raises(OutOfOrderSequenceError):
        send(b, 302)
    assert send(b, 299) == 299
    assert [send(b, sequence) for sequence in range(295, 300)] == list(range(295, 300))
    with pytest.raises(OutOfOrderSequenceError):
        send(b, 294)


@pytest.mark.parametrize("crash", [CLEAN, KILLED], ids=["closed", "killed"])
def test_after_an_open_the_first_batch_of_a_producer_costs_no_walk(box: MakeBox, crash: PreviousShutdown) -> None:
    b, disk = armed(box)
    sequence = 0

    def reads_after_an_open(count: int) -> int:
        nonlocal sequence
        for _ in range(count):
            assert send(b, sequence) == sequence
            sequence += 1
        b.reopen(crash)
        calls_of(disk, lambda: send(b, sequence))
        with pytest.raises(OutOfOrderSequenceError):
            send(b, sequence + 2)
        assert send(b, sequence - 4) == sequence - 4
        sequence += 1
        return len([call for call in disk.calls if call.startswith("pread")])

    few = reads_after_an_open(5)
    assert reads_after_an_open(3_000) == few  # which are more than a walk reads at once


@reopening
def test_duplicate_sequence_returns_the_original_offset_and_appends_nothing(
    box: MakeBox, reopen: Callable[[Box], None]
) -> None:
    """Scenario 11: the state is read from the batches, whatever else is lost."""
    b = box(segment_bytes=1024)
    offsets = []
    for n in range(8):
        offsets.append(send(b, 2 * n, b"x" * 200, b"y"))
        b.append(b"nobody's")
    reopen(b)
    before = b.log.tail
    assert [send(b, 2 * n, b"x" * 200, b"y") for n in range(3, 8)] == offsets[3:]
    assert b.log.tail is before
    with pytest.raises(OutOfOrderSequenceError):
        send(b, 0, b"x" * 200, b"y")
    with pytest.raises(OutOfOrderSequenceError):
        send(b, 17)
    assert send(b, 16) == 24
    reopen(b)
    assert send(b, 16) == 24
    assert send(b, 17) == 25


@reopening
def test_an_older_epoch_is_fenced(box: MakeBox, reopen: Callable[[Box], None]) -> None:
    b = box()
    send(b, 40)
    send(b, 0, epoch=1)
    reopen(b)
    with pytest.raises(ProducerFencedError):
        send(b, 41)
    assert send(b, 1, epoch=1) == 2


def test_a_write_that_is_a_duplicate_says_where_and_when_its_original_was_appended(box: MakeBox) -> None:
    b = box()
    b.append(b"one")
    send(b, 0)
    b.now += 1000
    again = write(b, 0)
    assert b.partition.append(again, b.now) == 1
    assert (again.base_offset, again.append_ms) == (1, NOW)
    b.partition.settle(again)
    assert again.base_offset == 1


def test_a_duplicate_does_not_roll_a_segment_that_is_due(box: MakeBox) -> None:
    b = box(segment_ms=1000)
    send(b, 0)
    b.now += 2000
    assert send(b, 0) == 0
    assert len(b.logs()) == 1


def test_several_batches_of_a_producer_in_one_write_are_known_one_by_one(box: MakeBox) -> None:
    b = box()
    b.append(b"one")
    batches = [write(b, 2 * n, b"x", b"y").batches[0] for n in range(5)]
    assert b.log.append(AppendRequest(batches), 0, b.now) == 1
    for reopen in WAYS:
        reopen(b)
        assert b.log.append(AppendRequest(batches), 0, b.now) == 1
        assert [send(b, 2 * n, b"x", b"y") for n in range(5)] == [1, 3, 5, 7, 9]
    assert b.log.tail.end_offset == 11


def test_a_write_that_mixes_a_producers_batches_with_others_is_refused_whole(box: MakeBox) -> None:
    b = box()
    plain, sequenced = b.write(b"plain").batches[0], write(b, 0).batches[0]
    for batches in ([plain, sequenced], [sequenced, plain]):
        with pytest.raises(InvalidRecordError, match="mixes"):
            b.log.append(AppendRequest(batches), 0, b.now)
    assert b.values() == []
    assert send(b, 0) == 0


def test_batches_of_no_producer_never_look_into_the_log(box: MakeBox) -> None:
    b, disk = armed(box)
    send(b, 0)
    b.append(b"one")
    b.reopen()
    b.append(b"two")
    disk.arm(0, Killed())
    b.append(b"three")
    b.log.append_one(b"k", b"v", b.now, 0, b.now)
    disk.error = None
    assert [call.split()[0] for call in disk.calls] == ["pwrite", "pwrite"]


# Single records


def send_one(b: Box, sequence: int, *, epoch: int = 0) -> int:
    value = b"%d" % sequence * 300
    return b.log.append_one(None, value, b.now, 0, b.now, SequencedRecord(PRODUCER, epoch, sequence))


@reopening
def test_a_single_record_that_is_sent_again_is_stored_once(box: MakeBox, reopen: Callable[[Box], None]) -> None:
    b = box(segment_bytes=1024)
    assert [send_one(b, n) for n in range(3)] == [0, 1, 2]
    assert send(b, 3, b"x", b"y") == 3
    assert send_one(b, 5) == 5
    b.append(b"nobody's")
    reopen(b)
    before = b.log.tail
    assert [send_one(b, n) for n in (1, 2, 5)] == [1, 2, 5]
    assert b.log.tail is before
    with pytest.raises(OutOfOrderSequenceError):
        send_one(b, 7)
    assert send_one(b, 6) == 7
    with pytest.raises(ProducerFencedError):
        send_one(b, 0, epoch=1)
        send_one(b, 7)
    assert len(b.logs()) > 1


@reopening
def test_single_records_of_many_producers_in_turn_are_known_one_by_one(
    box: MakeBox, reopen: Callable[[Box], None]
) -> None:
    b = box(segment_bytes=4096)
    for sequence in range(3):
        for producer in range(100):
            record = SequencedRecord(producer, 0, sequence)
            assert b.log.append_one(None, b"v", b.now, 0, b.now, record) == 100 * sequence + producer
    reopen(b)
    for producer in range(100):
        assert b.log.append_one(None, b"v", b.now, 0, b.now, SequencedRecord(producer, 0, 2)) == 200 + producer
        with pytest.raises(OutOfOrderSequenceError):
            b.log.append_one(None, b"v", b.now, 0, b.now, SequencedRecord(producer, 0, 4))


def test_after_the_greatest_sequence_comes_0(box: MakeBox) -> None:
    b = box()
    last = (1 << 31) - 1
    for offset, sequence in enumerate((last - 1, last, 0, 1)):
        assert send_one(b, sequence) == offset
    assert send_one(b, last) == 1


def test_single_records_between_the_batches_of_their_producer_are_known(box: MakeBox) -> None:
    b = box()
    for sequence in range(12):
        assert (send(b, sequence) if sequence % 3 else send_one(b, sequence)) == sequence
    assert [send(b, 11), send_one(b, 9), send(b, 8)] == [11, 9, 8]
    assert send_one(b, 12) == 12
    with pytest.raises(ProducerFencedError):
        assert send_one(b, 0, epoch=1) == 13 and send_one(b, 13)


def test_a_single_record_that_failed_leaves_the_producer_where_it_was(box: MakeBox) -> None:
    b, disk = armed(box)
    send_one(b, 0)
    disk.arm(1, OSError(errno.ENOSPC, "injected"), half=True)
    with pytest.raises(DiskFullError):
        send_one(b, 1)
    disk.error = None
    b.log.append_one(None, b"nobody's", b.now, 0, b.now)  # lies now at the offset that the failed one would have had
    with pytest.raises(OutOfOrderSequenceError):
        send_one(b, 2)
    assert (send_one(b, 1), send_one(b, 1)) == (2, 2)


@pytest.mark.slow
@pytest.mark.parametrize("fresh", [False, True], ids=["known", "just opened"])
@pytest.mark.parametrize("other", [False, True], ids=["sent again at once", "others come first"])
def test_interrupted_at_any_line_a_single_record_that_is_sent_again_is_stored_once(
    box: MakeBox, fresh: bool, other: bool
) -> None:
    line = 0
    while True:
        line += 1
        b = box()
        send_one(b, 0)
        if fresh:
            b.reopen(KILLED)
        with interrupted_at(line, {*INTERRUPTED, "append_one"}) as seen, suppress(KeyboardInterrupt):
            send_one(b, 1)
        if other:
            b.log.append_one(b"k", b"nobody's", b.now, 0, b.now)
        offset = send_one(b, 1)
        assert send_one(b, 2) > offset
        assert send_one(b, 1) == offset
        assert [v[:1] for v in b.values() if v and v != b"nobody's"] == [b"0", b"1", b"2"]
        b.reopen(KILLED)
        assert send_one(b, 1) == offset
        if seen[0] < line:
            break
    assert line > 20, "nothing was interrupted"


# What failed, was interrupted or torn


@pytest.mark.parametrize("half", [False, True], ids=["nothing written", "half written"])
def test_an_append_that_failed_leaves_the_producer_where_it_was(box: MakeBox, half: bool) -> None:
    """Scenario 11: the state must not run ahead of the log, or the record is refused as a duplicate and lost."""
    b, disk = armed(box)
    send(b, 0)
    disk.arm(1, OSError(errno.ENOSPC, "injected"), half=half)
    failed = write(b, 1)
    with pytest.raises(DiskFullError):
        b.log.append(failed, 0, b.now)
    disk.error = None
    b.append(b"nobody's")  # lies now at the offset that the failed one would have had
    with pytest.raises(OutOfOrderSequenceError):
        send(b, 2)
    assert b.log.append(failed, 0, b.now) == 2
    assert b.values() == [b"0", b"nobody's", b"1"]
    assert send(b, 1) == 2


def test_a_write_that_was_in_the_log_once_and_fails_when_appended_again_is_cut_off(box: MakeBox) -> None:
    b, disk = armed(box)
    old = write(b, 0)
    b.log.append(old, 0, b.now)
    b.append(b"one")
    b.now += EXPIRATION_MS + 1
    disk.arm(1, OSError(errno.ENOSPC, "injected"), half=True)
    with pytest.raises(DiskFullError):
        b.log.append(old, 0, b.now)
    disk.error = None
    assert old.base_offset == -1
    assert b.logs()[0].stat().st_size == b.log.tail.end_position


def test_while_the_log_cannot_be_read_a_producer_is_refused_and_then_goes_on(box: MakeBox) -> None:
    b, disk = armed(box)
    send(b, 0)
    b.reopen()
    b.append(b"one")
    disk.arm(1, OSError(errno.EIO, "injected"), once=False)
    for _ in range(2):
        with pytest.raises(StorageError):
            send(b, 1)
    disk.error = None
    assert send(b, 0) == 0
    assert send(b, 1) == 2


INTERRUPTED = {
    "append", "admit", "note", "check", "_is_next", "begin_epoch", "begin", "producers", "_finish_or_undo", "expire", "get",
    "_read_producers", "_since", "_of_producers", "_last_epoch", "move_to_end", "truncate", "add",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("fresh", [False, True], ids=["known", "just opened"])
@pytest.mark.parametrize("other", [False, True], ids=["sent again at once", "others come first"])
def test_interrupted_at_any_line_a_batch_that_is_sent_again_is_stored_once(
    box: MakeBox, fresh: bool, other: bool
) -> None:
    """Scenario 11: noted before it is published, it would be lost; published and not noted, it would be there twice."""
    line = 0
    while True:
        line += 1
        b = box()
        send(b, 0)
        b.append(b"nobody's")
        if fresh:
            b.reopen(KILLED)
        first = write(b, 1)
        with interrupted_at(line, INTERRUPTED) as seen, suppress(KeyboardInterrupt):
            b.log.append(first, 0, b.now)
        assert len(b.log.producers.states(b.log.tail, b.now)) == 1  # reading the state in between changes nothing
        if other:
            b.append(b"nobody's")
            b.log.append_one(b"k", b"nobody's", b.now, 0, b.now)
        b.log.resolve_append(first)
        kept = first.base_offset
        offset = send(b, 1)
        assert kept in (-1, offset)
        assert send(b, 2) == offset + 1 + (2 if other and kept >= 0 else 0)
        assert send(b, 1) == offset
        assert [v for v in b.values() if v != b"nobody's"] == [b"0", b"1", b"2"]
        b.reopen(KILLED)
        assert send(b, 1) == offset
        if seen[0] < line:
            break
    assert line > 20, "nothing was interrupted"


@pytest.mark.parametrize("half", [False, True])
def test_killed_in_a_write_the_producer_goes_on_where_the_log_ends(box: MakeBox, half: bool) -> None:
    b, disk = armed(box)
    send(b, 0)
    disk.arm(1, Killed(), half=half)
    with pytest.raises(Killed):
        send(b, 1)
    disk.error = None
    b.reopen(KILLED)
    assert send(b, 0) == 0
    with pytest.raises(OutOfOrderSequenceError):
        send(b, 2)
    assert send(b, 1) == 1


def test_a_batch_that_was_cut_off_as_torn_is_forgotten(box: MakeBox) -> None:
    """Scenario 11: state that outlives a truncation would refuse the record as a duplicate."""
    b = box()
    send(b, 0)
    send(b, 1)
    size = b.log.tail.end_position
    send(b, 2)
    b.log.release()
    path = b.logs()[0]
    path.write_bytes(path.read_bytes()[: size + 90])
    b.open(KILLED)
    assert send(b, 1) == 1
    assert send(b, 2) == 2
    assert b.values() == [b"0", b"1", b"2"]


# Compaction, retention, deletion


def test_compaction_keeps_the_last_sequence_of_a_producer_whose_records_are_all_gone(box: MakeBox) -> None:
    """Scenario 11: the empty batch that is left says where the producer was."""
    for reopen in WAYS:
        b = box(cleanup_policy="compact", segment_bytes=1024)
        for n in range(0, 9, 3):
            send(b, n, b"a", b"b", b"c", keys=[b"k", b"l", b"m"])
        b.append(b"1", b"2", b"3", keys=[b"k", b"l", b"m"])
        b.partition.maintenance.roll(b.now)
        result = b.partition.maintenance.compact(b.now)
        assert result is not None and result.records_removed == 9
        assert b.values() == [b"1", b"2", b"3"]
        reopen(b)
        assert [send(b, n, b"a", b"b", b"c", keys=[b"k", b"l", b"m"]) for n in (0, 3, 6)] == [0, 3, 6]
        with pytest.raises(OutOfOrderSequenceError):
            send(b, 10, keys=[b"k"])
        assert send(b, 9, keys=[b"k"]) == 12


def test_merging_segments_changes_nothing_for_a_producer(box: MakeBox) -> None:
    b = box(cleanup_policy="compact")
    offsets = []
    for n in range(6):
        offsets.append(send(b, n, b"x" * 600, keys=[b"k"]))
        b.partition.maintenance.roll(b.now)
    b.partition.maintenance.compact(b.now)
    assert len(b.logs()) == 2
    for reopen in WAYS:
        reopen(b)
        assert [send(b, n, b"x" * 600, keys=[b"k"]) for n in range(1, 6)] == offsets[1:]
    assert send(b, 6, keys=[b"k"]) == 6


@reopening
def test_after_retention_a_producer_whose_last_batches_are_left_goes_on(
    box: MakeBox, reopen: Callable[[Box], None]
) -> None:
    b = box(segment_bytes=1024)
    for n in range(8):
        send(b, n, b"x" * 400)
    b.log.discard(b.log.advance_start(6))
    reopen(b)
    assert [send(b, n, b"x" * 400) for n in (6, 7)] == [6, 7]
    with pytest.raises(OutOfOrderSequenceError):
        send(b, 9)
    assert send(b, 8) == 8


@reopening
def test_after_retention_took_all_it_wrote_a_producer_goes_on_without_a_false_error(
    box: MakeBox, reopen: Callable[[Box], None]
) -> None:
    """Scenario 11 (KAFKA-7190, KIP-360)."""
    b = box(segment_bytes=1024)
    for n in range(8):
        send(b, n, b"x" * 400)
    b.log.roll(b.now)
    b.log.discard(b.log.advance_start(8))
    reopen(b)
    assert send(b, 8) == 8
    assert send(b, 9) == 9
    reopen(b)
    assert send(b, 8) == 8
    with pytest.raises(OutOfOrderSequenceError):
        send(b, 11)


@reopening
def test_after_delete_records_inside_a_segment_nothing_is_forgotten(
    box: MakeBox, reopen: Callable[[Box], None]
) -> None:
    """Scenario 11 (KAFKA-7298): deleting what a producer wrote must not stop it."""
    b = box()
    send(b, 0, b"a", b"b", b"c")
    send(b, 3)
    for before in (2, 4):
        b.partition.delete_records(before)
        reopen(b)
        assert send(b, 0, b"a", b"b", b"c") == 0
        assert send(b, 3) == 3
        with pytest.raises(OutOfOrderSequenceError):
            send(b, 5)
    assert send(b, 4) == 4


# Time


@reopening
def test_a_producer_is_known_for_as_long_as_the_expiration_however_much_others_wrote_since(
    box: MakeBox, reopen: Callable[[Box], None]
) -> None:
    """Scenario 11: expired too early, a duplicate is stored twice."""
    b = box(segment_bytes=1024)
    for _ in range(5):
        b.append(b"x" * 700)
    b.append(b"x")
    send(b, 5)
    for _ in range(23):
        b.now += HOUR
        b.append(b"x" * 700)
    b.now = NOW + EXPIRATION_MS
    reopen(b)
    end = b.log.tail.end_offset
    assert send(b, 5) == 6
    b.now += 1
    reopen(b)
    assert send(b, 5) == end


def test_segments_from_before_the_expiration_are_not_read(box: MakeBox) -> None:
    b, disk = armed(box, segment_bytes=1024)
    for n in range(20):
        send(b, n, b"x" * 700, producer=n)
        b.now += 2 * HOUR
    b.reopen()
    b.append(b"one")
    disk.arm(0, Killed())
    send(b, 0)
    disk.error = None
    read = {call.split()[-1][-11:] for call in disk.calls if call.startswith(("open", "pread"))}
    expected = {f"{n:05}.index" for n in range(6, 19)}  # of 6, only when it begins
    assert read == expected | {"0000019.log", "0000021.log"}
    assert len(b.log.producers.states(b.log.tail, b.now)) == 13


def test_a_clock_that_was_wrong_for_a_moment_does_not_hide_a_producer(box: MakeBox) -> None:
    b = box(segment_bytes=1024)
    send(b, 0, b"x" * 700)
    b.now = 0
    b.append(b"x" * 700)
    b.now = NOW
    b.append(b"x" * 700)
    b.reopen()
    assert send(b, 0, b"x" * 700) == 0
    assert send(b, 1) == 3


# Damage


@pytest.mark.damaged
def test_a_damaged_payload_hides_no_sequence(box: MakeBox) -> None:
    b = box()
    send(b, 0)
    send(b, 1)
    size = b.log.tail.end_position
    b.append(b"one")
    b.close()
    flip(b.logs()[0], size - 1)
    b.open(CLEAN)
    assert send(b, 1) == 1
    assert send(b, 2) == 3


@pytest.mark.damaged
def test_behind_a_damaged_header_a_producer_goes_on_without_a_false_error(box: MakeBox) -> None:
    """Scenario 11: the batch that is lost may have been its last."""
    b = box()
    send(b, 0)
    at = b.log.tail.end_position
    send(b, 1)
    b.append(b"one")
    b.close()
    flip(b.logs()[0], at + 20)
    b.open(CLEAN)
    assert send(b, 0) == 0
    assert send(b, 2) == 3
    with pytest.raises(OutOfOrderSequenceError):
        send(b, 4)


@pytest.mark.damaged
@pytest.mark.parametrize("lost", ["the file", "its end", "all but the beginning of its end", "its last header"])
def test_behind_a_lost_piece_of_the_log_a_producer_goes_on_without_a_false_error(box: MakeBox, lost: str) -> None:
    b = box(segment_bytes=1024)
    send(b, 0, b"x" * 700)
    send(b, 1, b"x" * 200)
    at = b.log.tail.end_position
    send(b, 2, b"x" * 200)
    b.append(b"x" * 700)
    b.close()
    path = b.logs()[1]
    if lost == "the file":
        path.unlink()
    elif lost == "its end":
        path.write_bytes(path.read_bytes()[:at])
    elif lost == "all but the beginning of its end":
        path.write_bytes(path.read_bytes()[: at + 50])
    else:
        flip(path, at + 20)
    for name in b.path.glob("*.index"):
        name.unlink()
    b.open(CLEAN)
    assert send(b, 0, b"x" * 700) == 0
    assert send(b, 3) == 4
    with pytest.raises(OutOfOrderSequenceError):
        send(b, 5)


@pytest.mark.damaged
def test_large_batches_and_large_headers_are_walked_like_others(box: MakeBox) -> None:
    def value(n: int) -> bytes:
        return b"x" * (40_000 if n % 3 or n > 30 else 10)

    b = box()
    for n in range(40):
        made = write(b, n, value(n))
        if n in (20, 38, 39):  # columns of later versions
            batch = made.batches[0]
            entries = [(4, len(batch.payload)), *[(100 + kind, 0) for kind in range(60)]]
            made.batches = [batch._replace(directory=directory_of(entries))]
        assert b.log.append(made, 0, b.now) == n
    b.log.append(AppendRequest([b.write(b"x").batches[0]._replace(directory=directory_of([(9, 0)] * 60))]), 0, b.now)
    b.log.release()
    b.open(KILLED)
    assert [send(b, n, value(n)) for n in range(35, 40)] == [*range(35, 40)]
    assert send(b, 40) == 41


@pytest.mark.damaged
@pytest.mark.parametrize("after", ["an open", "a truncation"])
def test_a_batch_of_millions_of_records_is_walked_like_others(box: MakeBox, after: str) -> None:
    b = box()
    made, count = write(b, 0), MAX_FREE_RECORDS + 1
    batch = made.batches[0]._replace(
        record_count=count, last_offset_delta=count - 1, attributes=1 << CODEC_SHIFT, uncompressed_len=count
    )
    made.batches = [batch]
    assert b.log.append(made, 0, b.now) == 0
    if after == "an open":
        b.log.release()
        b.open(KILLED)
    else:
        b.log.producers.truncated()
    with pytest.raises(OutOfOrderSequenceError):
        send(b, count + 1)
    assert send(b, count) == count


# Against a list


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 2), st.integers(1, 3)),
        st.tuples(st.just("again"), st.integers(1, 2), st.integers(1, 5)),
        st.tuples(st.just("gap"), st.integers(1, 2), st.integers(1, 3)),
        st.tuples(st.sampled_from(["plain", "fail", "roll", "compact", "delete"]), st.just(0), st.integers(1, 3)),
        st.tuples(st.just("reopen"), st.just(0), st.integers(1, len(WAYS) - 1)),
    ),
    max_size=40,
)


@example([("send", 1, 1), ("send", 1, 1), ("reopen", 0, 2), ("send", 1, 1), ("send", 1, 1), ("fail", 0, 1)])
@given(STEPS)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
def test_whatever_happens_to_a_log_no_batch_is_stored_twice_and_none_refused_falsely(
    box: MakeBox, steps: list[Any]
) -> None:
    b, disk = armed(box, cleanup_policy="compact", segment_bytes=1024)
    sent: dict[int, list[tuple[int, int, int]]] = {1: [], 2: []}  # sequence, records, offset
    for kind, who, n in steps:
        last = sent[who][-1] if who and sent[who] else (0, 0, 0)
        following = last[0] + last[1]
        values = [b"x" * 100] * n
        if kind == "send":
            offset = send(b, following, *values, producer=who, keys=[b"k"] * n)
            assert offset + n == b.log.tail.end_offset
            sent[who].append((following, n, offset))
        elif kind == "again" and len(sent[who]) >= n:
            before = b.log.tail
            sequence, records, offset = sent[who][-n]
            assert send(b, sequence, *[b"x" * 100] * records, producer=who, keys=[b"k"] * records) == offset
            assert b.log.tail is before
        elif kind == "gap" and sent[who]:
            with pytest.raises(OutOfOrderSequenceError):
                send(b, following + n, *values, producer=who, keys=[b"k"] * n)
        elif kind == "plain":
            b.append(*values, keys=[b"k"] * n)
        elif kind == "fail":
            disk.arm(n, OSError(errno.ENOSPC, "injected"), half=True)
            last = sent[1][-1] if sent[1] else (0, 0, 0)
            with suppress(DiskFullError, StorageError, PoisonedLogError):
                offset = send(b, last[0] + last[1], b"x" * 100, producer=1, keys=[b"k"])
                sent[1].append((last[0] + last[1], 1, offset))
            disk.error = None
            if b.log.refusals.first is not None:
                b.reopen(KILLED)
        elif kind == "roll":
            b.log.roll(b.now)
        elif kind == "compact":
            b.partition.maintenance.compact(b.now)
        elif kind == "delete":
            b.partition.delete_records(max(b.log.tail.start_offset, b.log.tail.end_offset - 20))
        elif kind == "reopen":
            WAYS[n](b)


def test_after_a_truncation_the_state_is_read_again(box: MakeBox) -> None:
    """What a follower's truncation leaves in the log decides which sequence is next."""
    b = box()
    send(b, 0)
    tail = b.log.tail
    send(b, 1)
    b.log.reader.tail = tail
    b.log.producers.truncated()
    tail.segments[-1].file.truncate(tail.end_position)
    tail.segments[-1].index.truncate(tail.end_position)
    with pytest.raises(OutOfOrderSequenceError):
        send(b, 2)
    assert send(b, 1) == 1


# What is stored beside the index


def of_a_day(make: MakeBox, batches: int) -> tuple[Box, Any]:
    """A log of ten sealed segments, each with so many batches of two producers, closed and opened again."""
    b, disk = armed(make)
    for n in range(10):
        for k in range(batches):
            send(b, n * batches + k)
            send(b, n * batches + k, producer=8)
        b.log.roll(b.now)
    b.append(b"one")
    b.log.durability.sync_sealed(b.log.tail)
    b.reopen()
    return b, disk


def reads_of_a_first_append(b: Box, disk: Any, sequence: int) -> list[str]:
    disk.arm(0, Killed())
    send(b, sequence)
    disk.error = None
    return [call for call in disk.calls if call.startswith(("open", "pread", "map"))]


@pytest.mark.parametrize("batches", [10, 200])
def test_the_first_append_after_opening_reads_no_headers_of_sealed_segments(box: MakeBox, batches: int) -> None:
    b, disk = of_a_day(box, batches)
    calls = reads_of_a_first_append(b, disk, 10 * batches)
    assert len([call for call in calls if call.startswith("pread") and ".index" in call]) <= 2 * 10
    assert {call.split()[-1][-24:] for call in calls if ".log" in call} == {b.logs()[-1].name}
    assert send(b, 10 * batches - 1) == 20 * batches - 2, "and yet a batch that is sent again is known"


@pytest.mark.parametrize("harm", ["flipped", "cut", "longer", "without", "another segment's", "garbage"])
def test_without_what_is_stored_the_headers_say_the_same_and_it_is_stored_anew(box: MakeBox, harm: str) -> None:
    b, disk = of_a_day(box, 4)
    b.log.release()
    indexes = sorted(b.path.glob("*.index"))
    path, data = indexes[4], indexes[4].read_bytes()
    changed = {
        "flipped": data[:-3] + bytes([data[-3] ^ 1]) + data[-2:],
        "cut": data[:-5],
        "longer": data + b"\0",
        "without": data[:104],
        "garbage": b"x" * len(data),
        "another segment's": indexes[5].read_bytes(),
    }
    path.write_bytes(changed[harm])
    notes = [finding for finding in b.check(CLEAN).findings if finding.path == str(path)]
    assert [note.kind for note in notes] == ["index"]
    b.open(CLEAN)
    calls = reads_of_a_first_append(b, disk, 40)
    assert any(path.name.replace("index", "log") in call for call in calls)
    b.log.durability.advance_recovery_point(b.log.tail)
    assert path.read_bytes() == data
    assert b.check(KILLED).findings == ()


def test_what_is_stored_of_producers_and_contradicts_the_segment_is_noted(box: MakeBox) -> None:
    b, _ = of_a_day(box, 4)
    path = sorted(b.path.glob("*.index"))[4]
    stored = index_files.load(b.disk, str(path), 1 << 20, SEED)
    assert stored is not None
    path.write_bytes(index_files.to_bytes(*stored, SEED, ProducerSummary()))
    (note,) = b.check(KILLED).findings
    assert note.is_note and "producers contradicts" in note.message


@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.integers(0, 2), st.booleans(), st.integers(1, 3)), min_size=1, max_size=40
    ),
    st.integers(0, 40),
)
@settings(max_examples=100, deadline=None)
def test_the_last_batches_give_the_state_that_all_batches_give(
    steps: list[tuple[int, int, bool, int]], cut: int
) -> None:
    """Producer, epoch, whether it is a marker, and how many records; in two segments."""
    whole, from_stored = ProducerStates(), ProducerStates()
    segments = [LastBatches(), LastBatches()]
    offset = 0
    for number, (producer, epoch, is_marker, count) in enumerate(steps):
        batch = SequencedBatch(
            producer, epoch, -1 if is_marker else offset, count - 1, CONTROL if is_marker else 0, offset, NOW + number
        )
        whole.note(batch, offset, NOW + number)
        segments[number >= cut].note(batch, offset, NOW + number)
        offset += count
    for segment in segments:
        stored = batches_from(segment.to_bytes())
        assert stored == segment.batches()
        assert stored is not None and LastBatches.of(stored).to_bytes() == segment.to_bytes()
        for batch in stored:
            from_stored.note(batch, batch.base_offset, batch.append_timestamp)
    for producer in range(1, 5):
        assert from_stored.get(producer, NOW) == whole.get(producer, NOW)


def test_more_producers_than_are_remembered_are_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamlog.storage.last_batches.MAX_PRODUCERS", 2)
    made = LastBatches()
    for producer in (1, 2, 1, 3):
        offset = len(made.batches())
        made.note(SequencedBatch(producer, 0, offset, 0, 0, offset, NOW), offset, NOW)
    assert {each.producer_id for each in made.batches()} == {1, 3}
    assert batches_from(b"x") is None


def test_interrupted_at_any_line_while_the_last_batches_are_noted_all_of_them_are_stored(box: MakeBox) -> None:
    line = 0
    while True:
        line += 1
        b = box()
        for n in range(5):
            send(b, n)
        noting = {"note", "_note", "note_run", "_put", "_last_of"}
        with interrupted_at(line, noting) as seen, suppress(KeyboardInterrupt):
            b.log.roll(b.now)
        b.log.roll(b.now)
        b.append(b"one")
        known = b.log.producer_state(PRODUCER, b.now)
        b.log.durability.sync_sealed(b.log.tail)
        b.reopen()
        assert b.log.producer_state(PRODUCER, b.now) == known
        if seen[0] < line:
            break
    assert line > 20, "nothing was interrupted"


def test_after_a_truncation_nothing_is_stored_of_the_batches_that_are_gone(box: MakeBox) -> None:
    b = box()
    send(b, 0)
    before = b.log.tail
    send(b, 1)
    b.log.tail.segments[-1].file.truncate(before.end_position)
    b.log.tail.segments[-1].index.truncate(before.end_position)
    b.log.reader.tail = before
    b.log.producers.truncated()
    b.log.roll(b.now)
    b.log.durability.sync_sealed(b.log.tail)
    b.reopen()
    assert send(b, 1) == 1, "it is no repetition: the first one is gone"


@pytest.mark.parametrize("first", [0, 3], ids=["some of them once more", "new ones"])
@pytest.mark.parametrize("epoch", [0, 1, 2], ids=["an older epoch", "the same epoch", "a newer epoch"])
def test_a_run_of_batches_is_noted_as_each_of_them_is(epoch: int, first: int) -> None:
    before = [SequencedBatch(PRODUCER, 1, n, 0, 0, n, NOW) for n in range(3)]
    run = [SequencedBatch(PRODUCER, epoch, n, 0, 0, n, NOW + n) for n in range(first, 8)]
    stored, stored_one_by_one = LastBatches.of(before), LastBatches.of(before)
    known, known_one_by_one = ProducerStates(), ProducerStates()
    for each in before:
        known.note(each, each.base_offset, each.append_timestamp)
        known_one_by_one.note(each, each.base_offset, each.append_timestamp)
    stored.note_run(run)
    known.note_run(run)
    for each in run:
        stored_one_by_one.note(each, each.base_offset, each.append_timestamp)
        known_one_by_one.note(each, each.base_offset, each.append_timestamp)
    assert stored.batches() == stored_one_by_one.batches()
    assert known.get(PRODUCER, NOW) == known_one_by_one.get(PRODUCER, NOW)


def test_a_single_record_comes_next_if_its_producer_has_sent_the_one_before() -> None:
    known = ProducerStateManager(lambda producer_id: False)
    second = SequencedRecord(PRODUCER, 0, 1)
    assert not known.is_next(second)
    known.singles[PRODUCER] = SingleRecords(second)
    assert known.is_next(second)
    assert not known.is_next(SequencedRecord(PRODUCER, 0, 2))
