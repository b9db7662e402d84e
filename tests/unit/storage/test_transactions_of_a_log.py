"""The transactions of a log: read from its headers, or from what is stored of them, whatever happened to it in between."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlog.errors import DiskFullError
from streamlog.records.batch import ABORT, COMMIT, CONTROL, CONTROL_SHIFT, TRANSACTIONAL
from streamlog.storage import index as index_files
from streamlog.storage import transaction_events, truncation
from streamlog.storage.log_transactions import LogTransactions
from streamlog.storage.producer_summary import ProducerSummary, StoredSummary, summary_from
from streamlog.storage.transaction_events import TransactionEvent, TransactionEvents
from streamlog.storage.transactions import Transactions

from .conftest import CLEAN, KILLED, SEED, Box
from .counting_disk import Killed, armed, interrupted_at
from .reopening import flip, reopening
from .transactional import Transactional, committed, last_stable_offset

MakeBox = Callable[..., Box]
Reopen = Callable[[Box], None]


# Opened again


@reopening
def test_aborted_records_stay_hidden_and_open_ones_wait(box: MakeBox, reopen: Reopen) -> None:
    """Scenario 14: what says that records were aborted is in the log itself, and cannot be lost."""
    b = box(segment_bytes=1024)
    t = Transactional(b)
    t.send(b"1" * 300)
    t.end(commit=True)
    t.send(b"2" * 300)
    b.append(b"plain")
    t.end(commit=False)
    t.send(b"3" * 300, producer=8)
    t.send(b"4" * 300)
    t.end(commit=True)
    assert len(b.logs()) > 2
    for _ in range(2):
        reopen(b)
        assert last_stable_offset(b) == 5
        assert committed(b) == [(0, b"1" * 300), (3, b"plain")]
    t.end(commit=False, producer=8)
    reopen(b)
    assert committed(b) == [(0, b"1" * 300), (3, b"plain"), (6, b"4" * 300)]
    assert last_stable_offset(b) == b.log.tail.end_offset


@reopening
def test_a_transaction_goes_on_after_an_open_and_ends(box: MakeBox, reopen: Reopen) -> None:
    b = box()
    t = Transactional(b)
    for n in range(3):
        t.send(b"%d" % n)
        reopen(b)
        assert (last_stable_offset(b), committed(b)) == (0, [])
    t.end(commit=True)
    assert [value for _, value in committed(b)] == [b"0", b"1", b"2"]


@pytest.mark.parametrize("read", [False, True], ids=["not read", "read"])
def test_an_append_needs_no_transactions_and_tells_them(box: MakeBox, read: bool) -> None:
    """Whether they were read before the append or after it."""
    b = box(segment_bytes=1024)
    t = Transactional(b)
    t.send(b"x" * 700)
    b.reopen(KILLED)
    if read:
        assert last_stable_offset(b) == 0
    t.end(commit=False)
    t.send(b"y" * 700)
    t.send(b"z" * 700, producer=8)
    t.end(commit=True)
    assert last_stable_offset(b) == 3
    assert [value for _, value in committed(b)] == [b"y" * 700]


def stored_transactions(b: Box) -> list[list[TransactionEvent] | None]:
    """What is stored of the transactions of each sealed segment."""
    stored = [index_files.load_summary(b.disk, str(path), SEED) for path in sorted(b.path.glob("*.index"))]
    return [None if each is None else each[1].transactions for each in stored]


def sealed(make: MakeBox, count: int = 10) -> tuple[Box, Any, Transactional]:
    """A log of so many sealed segments; each third transaction, which spans two of them, was aborted. Opened anew."""
    b, disk = armed(make, segment_bytes=1 << 20)
    t = Transactional(b)
    for n in range(count):
        for k in range(20):
            t.send(b"%d-%d" % (n, k))
        b.log.roll(b.now)
        t.send(b"%d-last" % n)
        t.end(commit=bool(n % 3))
    b.append(b"one")
    b.log.durability.sync_sealed(b.log.tail)
    b.reopen()
    return b, disk, t


def test_the_first_read_of_committed_records_reads_no_headers_of_sealed_segments(box: MakeBox) -> None:
    b, disk, _ = sealed(box)
    disk.arm(0, Killed())
    last_stable_offset(b)
    disk.error = None
    calls = [call for call in disk.calls if call.startswith(("open", "pread", "map"))]
    assert len([call for call in calls if call.startswith("pread")]) == 2 * 10
    assert not [call for call in calls if ".log" in call]
    before = len(disk.calls)
    last_stable_offset(b)
    assert len(disk.calls) == before
    seen = [value for _, value in committed(b)]
    assert len(seen) == 1 + 6 * 21


@pytest.mark.parametrize("harm", ["flipped", "cut", "without", "too many"])
def test_without_what_is_stored_the_headers_say_the_same(
    box: MakeBox, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if harm == "too many":
        monkeypatch.setattr(transaction_events, "MAX_EVENTS", 1)
    b, _, _ = sealed(box)
    seen = committed(b)
    b.log.release()
    for path in b.path.glob("*.index"):
        data = path.read_bytes()
        changed = {"flipped": data[:-3] + bytes([data[-3] ^ 1]) + data[-2:], "cut": data[:-5], "without": data[:80]}
        path.write_bytes(changed.get(harm, data))
    if harm == "too many":
        assert None in stored_transactions(b)
    b.open(CLEAN)
    assert committed(b) == seen
    b.log.release()
    for path in b.path.glob("*.index"):
        path.unlink()
    b.open(CLEAN)
    assert committed(b) == seen


def test_what_is_stored_of_transactions_and_contradicts_the_segment_is_noted(box: MakeBox) -> None:
    b, _, _ = sealed(box)
    b.log.release()
    path = sorted(b.path.glob("*.index"))[3]
    stored, index = (
        index_files.load_summary(b.disk, str(path), SEED),
        index_files.load(b.disk, str(path), 1 << 20, SEED),
    )
    assert stored is not None and index is not None
    wrong = ProducerSummary.of(stored[1])
    wrong.transactions = TransactionEvents()
    path.write_bytes(index_files.to_bytes(*index, SEED, wrong))
    [note] = b.check(CLEAN).findings
    assert note.is_note and "producers contradicts" in note.message


# What is stored


BATCHES = st.lists(
    st.tuples(st.integers(1, 3), st.sampled_from(["data", "plain", "commit", "abort", "leader change"])), max_size=60
)
KINDS = {
    "data": TRANSACTIONAL,
    "plain": 0,
    "commit": TRANSACTIONAL | CONTROL | COMMIT << CONTROL_SHIFT,
    "abort": TRANSACTIONAL | CONTROL | ABORT << CONTROL_SHIFT,
    "leader change": CONTROL | 2 << CONTROL_SHIFT,
}


@given(BATCHES, st.lists(st.integers(0, 60), max_size=3), st.integers(0, 60), st.integers(1, 6))
@settings(max_examples=300, deadline=None)
def test_the_events_of_segments_give_the_transactions_that_all_batches_give(
    batches: list[tuple[int, str]], rolls: list[int], again: int, count: int
) -> None:
    whole, from_events = Transactions(), Transactions()
    segments = [TransactionEvents()]
    for offset, (producer, kind) in enumerate(batches):
        if offset in rolls:
            segments.append(TransactionEvents())
        batch = TransactionEvent(offset, producer, KINDS[kind])
        whole.note(batch)
        segments[-1].note(batch)
    for segment in segments:
        stored = summary_from(_with(segment))
        assert stored is not None and stored.transactions is not None
        for each in stored.transactions:
            from_events.note(each)
        assert TransactionEvents.of(stored.transactions).to_bytes() == segment.to_bytes()
    assert from_events.open == whole.open
    assert [each[:3] for each in from_events.aborted] == [each[:3] for each in whole.aborted]
    for found in (whole, from_events):
        for start in range(0, len(batches), 5):
            for end in range(start, len(batches) + 5, 5):
                overlapping = [each for each in found.aborted if each.last_offset >= start and each.first_offset < end]
                assert list(found.aborted.between(start, end)) == overlapping


def _with(events: TransactionEvents) -> bytes:
    summary = ProducerSummary()
    summary.transactions = events
    return summary.to_bytes()


@given(BATCHES, st.integers(0, 60), st.integers(1, 6))
@settings(max_examples=200, deadline=None)
def test_batches_that_are_noted_once_more_change_nothing(batches: list[tuple[int, str]], at: int, count: int) -> None:
    """An interrupt may have come after some of a write were noted."""
    made = [TransactionEvent(offset, producer, KINDS[kind]) for offset, (producer, kind) in enumerate(batches)]
    once, twice, events_once, events_twice = Transactions(), Transactions(), TransactionEvents(), TransactionEvents()
    for each in made:
        once.note(each)
        events_once.note(each)
    for each in [*made[: at + count], *made[at:]]:
        twice.note(each)
        events_twice.note(each)
    assert (twice.open, list(twice.aborted)) == (once.open, list(once.aborted))
    from_once, from_twice = Transactions(), Transactions()
    for each in events_once.events() or ():
        from_once.note(each)
    for each in events_twice.events() or ():
        from_twice.note(each)
    assert from_twice.open == from_once.open
    assert [each[:3] for each in from_twice.aborted] == [each[:3] for each in from_once.aborted]


def test_committed_transactions_take_no_space(box: MakeBox) -> None:
    events = TransactionEvents()
    for offset in range(0, 20_000, 2):
        events.note(TransactionEvent(offset, 7, TRANSACTIONAL))
        events.note(TransactionEvent(offset + 1, 7, KINDS["commit"]))
    assert len(events.events() or ()) == 2


def test_a_summary_of_another_form_is_none() -> None:
    made = ProducerSummary().to_bytes()
    assert summary_from(made) == StoredSummary([], [])
    assert summary_from(made[:3]) is None
    assert summary_from(b"\5\0\0\0" + b"x" * 5) is None
    assert summary_from(b"\x26\0\0\0") is None
    assert summary_from(made + b"x") == StoredSummary([], None)


# Failures and interrupts


INTERRUPTED = {
    "append",
    "append_one",
    "extend",
    "stage",
    "note",
    "snapshot",
    "_publish",
    "ended_by",
    "add",
    "_finish_or_undo",
    "_add",
}


@pytest.mark.slow
@pytest.mark.parametrize("step", ["first batch", "first record", "abort", "commit"])
@pytest.mark.parametrize("read", [False, True], ids=["not read", "read"])
def test_interrupted_at_any_line_an_append_leaves_the_transactions_that_the_log_has(
    box: MakeBox, step: str, read: bool
) -> None:
    line = 0
    while True:
        line += 1
        b = box()
        t = Transactional(b)
        t.send(b"a", producer=8)
        t.end(commit=False, producer=8)
        t.send(b"b", producer=9)
        if step in ("abort", "commit"):
            t.send(b"c", b"d")
        b.reopen(KILLED)
        if read:
            assert last_stable_offset(b) == 2
        with interrupted_at(line, INTERRUPTED) as seen, suppress(KeyboardInterrupt):
            if step == "first batch":
                t.send(b"c", b"d")
            elif step == "first record":
                t.send_one(b"k", b"c")
            else:
                t.end(commit=step == "commit")
        b.append(b"plain")
        now = last_stable_offset(b), committed(b)
        t.end(commit=True, producer=9)
        later = last_stable_offset(b), committed(b)
        b.reopen(KILLED)
        assert (last_stable_offset(b), committed(b)) == later
        assert now == (2, [])
        if seen[0] < line:
            break
    assert line > 20, "nothing was interrupted"


def test_transactions_that_are_read_after_an_interrupted_append_have_what_it_wrote(
    box: MakeBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was published, and its batch was not noted in the summary of the segment yet."""
    b = box()
    b.append(b"plain")
    b.reopen(CLEAN)
    t = Transactional(b)

    def struck(self: LogTransactions, tail: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LogTransactions, "note", struck)
        with pytest.raises(KeyboardInterrupt):
            t.send(b"open")
    assert b.log.tail.end_offset == 2
    assert last_stable_offset(b) == 1
    assert [value for _, value in committed(b)] == [b"plain"]


def test_an_append_that_failed_neither_begins_nor_ends_a_transaction(box: MakeBox) -> None:
    b, disk = armed(box)
    t = Transactional(b)
    t.send(b"a")
    for fail in (
        lambda: t.end(commit=True),
        lambda: t.send(b"b", producer=8),
        lambda: t.send_one(b"k", b"b", producer=8),
    ):
        disk.arm(1, OSError(errno.ENOSPC, "injected"), half=True)
        with pytest.raises(DiskFullError):
            fail()
        disk.error = None
        assert last_stable_offset(b) == 0
    b.append(b"plain")
    t.mark(commit=True)
    assert [value for _, value in committed(b)] == [b"a", b"plain"]
    assert last_stable_offset(b) == 3


# What happens while they are read


def test_what_is_read_while_the_log_is_truncated_or_compacted_is_read_again(
    box: MakeBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = box(cleanup_policy="compact", segment_bytes=1024)
    t = Transactional(b)
    for n in range(4):
        t.send(b"%d" % n * 400)
        t.end(commit=True)
    b.reopen(KILLED)
    manager, happens = b.log.transactions, 0
    read_sealed = LogTransactions.read_sealed

    def meanwhile(self: LogTransactions) -> Any:
        nonlocal happens
        found = read_sealed(self)
        happens += 1
        if happens == 1:
            truncation.truncate_to(b.log, 7)  # the marker of the last one goes
            b.forget_high_watermark()
        elif happens == 2:
            b.append(b"x" * 700, keys=[b"l"])
            b.append(b"y" * 700, keys=[b"l"])
            b.partition.maintenance.compact(b.now)
        return found

    monkeypatch.setattr(LogTransactions, "read_sealed", meanwhile)
    assert last_stable_offset(b) == 6
    assert 2 <= happens <= 3
    manager.have_none()
    assert last_stable_offset(b) == 6, "they were read"


def test_what_ended_before_the_log_start_is_forgotten(box: MakeBox) -> None:
    b = box(segment_bytes=1024)
    t = Transactional(b)
    for n in range(6):
        t.send(b"%d" % n * 700)
        t.end(commit=False)
    known = b.log.reader.transactions
    assert known is not None and len(known.aborted) == 6
    b.partition.delete_records(8)
    assert len(known.aborted) == 6, "a reader that is under way knows them still"
    kept = b.log.reader.transactions
    assert kept is not None and [each.last_offset for each in kept.aborted] == [9, 11]
    b.partition.delete_records(12)
    assert b.log.reader.transactions is None
    b.partition.delete_records(12)


def test_a_copy_of_several_batches_of_open_transactions_begins_none(box: MakeBox) -> None:
    leader, follower = box(), box()
    t = Transactional(leader)
    for _ in range(3):
        t.send(b"a")
        t.send(b"b", producer=8)
        t.end(commit=False)
        leader.append(b"plain")
        at = follower.log.tail.end_offset
        chunk = leader.log.reader.fetch(at, 1 << 20, leader.log.tail.end_offset)
        follower.log.append_as_follower(chunk.data)
        assert committed(follower) == committed(leader)
        assert last_stable_offset(follower) == last_stable_offset(leader)
    t.send(b"a", batches=2)
    t.send(b"b", producer=8)
    chunk = leader.log.reader.fetch(follower.log.tail.end_offset, 1 << 20, leader.log.tail.end_offset)
    follower.log.append_as_follower(chunk.data)
    assert last_stable_offset(follower) == 1


@pytest.mark.damaged
def test_damage_hides_no_other_transaction(box: MakeBox) -> None:
    b = box(segment_bytes=1024)
    t = Transactional(b)
    positions = []
    for n in range(4):
        positions.append((b.logs()[-1], b.log.tail.end_position))
        t.send(b"%d" % n * 200, producer=n)
        t.end(commit=bool(n % 2), producer=n)
    b.close()
    for path in b.path.glob("*.index"):
        path.unlink()
    flip(positions[1][0], positions[1][1] + 20)
    b.open(CLEAN)
    known = b.partition.read_transactions()
    assert known is not None and [each.first_offset for each in known.aborted] == [0, 4]
    assert last_stable_offset(b) == 8


def test_a_batch_of_an_open_transaction_that_is_sent_again_after_the_clock_jumped_is_stored_once(box: MakeBox) -> None:
    b = box()
    t = Transactional(b)
    again = t.write(b"a")
    assert b.partition.append(again, b.now) == 0
    b.now += 10 * 86_400_000
    assert b.partition.append(again, b.now) == 0
    t.end(commit=True)
    assert [value for _, value in committed(b)] == [b"a"]


@reopening
def test_a_transaction_begins_with_the_first_of_many_batches_or_with_a_single_record(
    box: MakeBox, reopen: Reopen
) -> None:
    b = box()
    t = Transactional(b)
    t.send(b"a", batches=9)
    assert last_stable_offset(b) == 0
    t.end(commit=False)
    t.send_one(b"k", b"b")
    t.send_one(b"k", b"c")
    assert last_stable_offset(b) == 10
    reopen(b)
    assert last_stable_offset(b) == 10
    t.end(commit=True)
    assert [value for _, value in committed(b)] == [b"b", b"c"]
