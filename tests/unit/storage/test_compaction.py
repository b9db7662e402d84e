"""Compaction keeps the last value of each key and every offset, removes the other values, and survives any interruption."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlog.errors import ClosedError, CorruptRecordError, StorageError, StreamlogError
from streamlog.records import columns
from streamlog.records.batch import (
    CONTROL,
    CONTROL_SHIFT,
    FORM_KAFKA,
    NO_PRODUCER,
    NO_TIMESTAMP,
    TRANSACTIONAL,
    BatchHeader,
)
from streamlog.runtime.disk import OsDisk
from streamlog.storage import compaction, replacement
from streamlog.storage.files import finish_interrupted
from streamlog.storage.log import AppendRequest
from streamlog.storage.producer_state import EXPIRATION_MS
from streamlog.storage.transactions import Transactions
from tests.kafka_batches import marker

from .conftest import CLEAN, KILLED, NOW, SEED, Box, six_segments
from .counting_disk import Killed, armed, interrupted_at

MakeBox = Callable[..., Box]
DAY = 86_400_000


def put(b: Box, *pairs: tuple[bytes, bytes | None], **options: Any) -> int:
    """One batch of keys and values."""
    return b.append(*[value for _, value in pairs], keys=[key for key, _ in pairs], **options)


def compact(b: Box) -> compaction.Result | None:
    b.partition.maintenance.roll(b.now)
    return b.partition.maintenance.compact(b.now)


def maintain(b: Box) -> int | None:
    """All steps that are due, as the scheduler takes them; when the next is."""
    for _ in range(1000):
        due = b.partition.maintenance.step(b.now)
        if due != b.now:
            return due
    raise AssertionError("the steps do not come to an end")


def filled(b: Box) -> Box:
    """Several segments, keys written over and over, one deleted."""
    for n in range(8):
        put(b, (b"a", b"%d" % n * 150), (b"k%d" % n, b"x" * 150), (b"b", None if n == 5 else b"b%d" % n))
    b.log.roll(b.now)
    return b


# What stays and what goes


def test_offsets_that_a_repair_found_lost_give_a_compacted_segment_no_time(box: MakeBox) -> None:
    b = box(cleanup_policy="compact")
    b.log.append(AppendRequest([columns.seal(SEED, None, None, NO_TIMESTAMP, count=0, last_offset_delta=4)]), 0, b.now)
    put(b, (b"a", b"1"))
    put(b, (b"a", b"2"))
    b.log.append(AppendRequest([columns.seal(SEED, None, None, NO_TIMESTAMP, count=0, last_offset_delta=4)]), 0, b.now)
    assert compact(b) is not None
    (sealed,) = b.sealed()
    assert (sealed.next_offset, sealed.records, sealed.min_timestamp, sealed.max_timestamp) == (12, 1, NOW, NOW)


def test_the_last_value_of_each_key_stays_at_its_offset(box: MakeBox) -> None:
    b = box(cleanup_policy="compact")
    put(b, (b"a", b"1"), (b"b", b"1"))
    put(b, (b"a", b"2"), (b"c", b"1"))
    put(b, (b"c", b"2"))
    result = compact(b)
    assert result is not None and result.records_removed == 2
    assert [(e.offset, e.key, e.value) for e in b.read()] == [(1, b"b", b"1"), (2, b"a", b"2"), (4, b"c", b"2")]
    assert b.append(b"9", keys=[b"z"]) == 5
    b.reopen(KILLED)
    assert [(e.offset, e.value) for e in b.read()] == [(1, b"1"), (2, b"2"), (4, b"2"), (5, b"9")]


def test_of_two_records_of_one_key_in_one_batch_the_later_stays(box: MakeBox) -> None:
    b = box(cleanup_policy="compact")
    put(b, (b"a", b"1"), (b"a", b"2"), (b"a", b"3"))
    compact(b)
    assert [(e.offset, e.value) for e in b.read()] == [(2, b"3")]


def test_timestamps_and_headers_of_what_stays_are_unchanged(box: MakeBox) -> None:
    b = box(cleanup_policy="compact")
    put(b, (b"a", b"1"), (b"b", b"2"), timestamps=[NOW, NOW - 50], headers=[(), (("h", b"v"), ("n", None))])
    put(b, (b"a", b"3"))
    compact(b)
    assert [tuple(e) for e in b.read()] == [
        (1, NOW - 50, b"b", b"2", (("h", b"v"), ("n", None))),
        (2, NOW, b"a", b"3", ()),
    ]
    assert b.log.reader.find_time(NOW - 50, 3) == (1, NOW - 50)
    assert b.log.reader.find_time(NOW - 49, 3) == (2, NOW)


@pytest.mark.parametrize("codec", [1, 2, 3, 4], ids=["gzip", "snappy", "lz4", "zstd"])
def test_compressed_batches_stay_compressed(box: MakeBox, codec: int) -> None:
    b = box(cleanup_policy="compact")
    put(b, (b"a", b"1" * 500), (b"b", b"2" * 500), codec=codec)
    put(b, (b"a", b"3"), codec=codec)
    compact(b)
    assert [e.value for e in b.read()] == [b"2" * 500, b"3"]
    headers = [header for _, header in b.log.tail.segments[0].headers(0, b.log.tail.segments[0].size)]
    assert [header.codec for header in headers] == [codec, codec]


def test_append_times_stay_as_they_were(box: MakeBox) -> None:
    from streamlog.records.batch import LOG_APPEND_TIME

    b = box(cleanup_policy="compact", message_timestamp_type="LogAppendTime")
    put(b, (b"a", b"1"), (b"b", b"2"), timestamps=[1, 2], attributes=LOG_APPEND_TIME)
    b.now += 1000
    put(b, (b"a", b"3"), timestamps=7, attributes=LOG_APPEND_TIME)
    b.now += 1000
    compact(b)
    assert [(e.offset, e.timestamp) for e in b.read()] == [(1, NOW), (2, NOW + 1000)]
    assert b.log.reader.find_time(NOW + 1, 3) == (2, NOW + 1000)


def test_records_without_a_key_go(box: MakeBox) -> None:
    b = box(cleanup_policy="compact")
    b.append(b"nameless", b"named", keys=[None, b"k"])
    compact(b)
    assert [e.value for e in b.read()] == [b"named"]


def test_the_end_of_a_compacted_log_stays_even_if_all_its_records_go(box: MakeBox) -> None:
    b = box(cleanup_policy="compact")
    for n in range(3):
        put(b, (b"a", b"%d" % n))
    b.log.roll(b.now)
    put(b, (b"a", b"last"))
    compact(b)
    assert [(e.offset, e.value) for e in b.read()] == [(3, b"last")]
    assert [entry.offset for entry in b.read(1)] == [3]
    assert b.log.tail.end_offset == 4


def test_an_empty_batch_stays_where_it_is_all_that_remembers_a_producer(box: MakeBox) -> None:
    b = box(cleanup_policy="compact")
    write = b.write(b"1", keys=[b"a"])
    write.batches = [write.batches[0]._replace(producer_id=7, producer_epoch=1, base_sequence=3)]
    b.log.append(write, 0, b.now)
    put(b, (b"a", b"2"))
    put(b, (b"b", b"3"))
    compact(b)
    headers = [header for _, header in b.log.tail.segments[0].headers(0, b.log.tail.segments[0].size)]
    assert (headers[0].producer_id, headers[0].base_sequence, headers[0].record_count) == (7, 3, 0)
    assert headers[1].producer_id == NO_PRODUCER


def test_small_neighbours_become_one_segment(box: MakeBox) -> None:
    b = filled(box(cleanup_policy="compact", segment_bytes=1024))
    assert len(b.logs()) > 4
    put(b, *[(b"k%d" % n, b"y") for n in range(8)], (b"a", b"z"))
    b.log.config = replace(b.log.config, segment_bytes=1 << 20)
    compact(b)
    assert len(b.logs()) == 2
    assert len(b.logs()) == len(b.log.tail.segments)
    b.reopen(KILLED)
    assert b.table()[b"a"] == b"z"


def test_segments_with_a_gap_between_them_are_not_merged_because_the_loss_would_look_like_compaction(
    box: MakeBox,
) -> None:
    b = box(cleanup_policy="compact", segment_bytes=4096)
    for n in range(3):
        put(b, (b"k%d" % n, b"x"))
        b.log.roll(b.now)
    b.close()
    b.logs()[1].unlink()
    b.open(CLEAN)
    compact(b)
    with pytest.raises(CorruptRecordError, match="missing"):
        b.read()
    put(b, (b"k1", b"x"))
    b.log.advance_start(3)


def test_compacting_again_changes_nothing(box: MakeBox) -> None:
    b = filled(box(cleanup_policy="compact", segment_bytes=4096))
    compact(b)
    files = {path.name: path.read_bytes() for path in b.logs()}
    result = compact(b)
    assert result is not None and result.records_removed == 0
    assert {path.name: path.read_bytes() for path in b.logs()} == files


def test_records_younger_than_the_lag_stay(box: MakeBox) -> None:
    b = box(cleanup_policy="compact", min_compaction_lag_ms=1000)
    put(b, (b"a", b"1"))
    put(b, (b"a", b"2"))
    b.partition.maintenance.roll(b.now)
    b.now += 999
    assert b.partition.maintenance.compact(b.now) is None
    b.now += 1
    assert b.partition.maintenance.compact(b.now) is not None
    assert [e.value for e in b.read()] == [b"2"]


def test_an_unlimited_lag_compacts_never(box: MakeBox) -> None:
    b = box(cleanup_policy="compact", min_compaction_lag_ms=-1)
    put(b, (b"a", b"1"), (b"a", b"2"))
    assert compact(b) is None


# Tombstones


def test_a_tombstone_is_seen_for_its_retention_and_then_goes(box: MakeBox) -> None:
    b = box(cleanup_policy="compact", delete_retention_ms=DAY)
    put(b, (b"a", b"1"), (b"a", None), (b"b", b"1"))
    compact(b)
    assert [(e.key, e.value) for e in b.read()] == [(b"a", None), (b"b", b"1")]
    b.now += DAY - 1
    b.partition.maintenance.compact(b.now)
    assert [e.key for e in b.read()] == [b"a", b"b"]
    b.now += 1
    b.partition.maintenance.compact(b.now)
    assert [e.key for e in b.read()] == [b"b"]
    assert b.log.next_horizon is None


def test_the_horizon_of_tombstones_outlives_a_restart(box: MakeBox) -> None:
    b = box(cleanup_policy="compact", delete_retention_ms=DAY)
    put(b, (b"a", None), (b"b", b"1"))
    compact(b)
    b.reopen(KILLED)
    assert maintain(b) == NOW + DAY
    b.now += DAY
    maintain(b)
    assert [e.key for e in b.read()] == [b"b"]


def test_tombstones_kept_for_ever_are_kept_for_ever(box: MakeBox) -> None:
    b = box(cleanup_policy="compact", delete_retention_ms=-1)
    put(b, (b"a", None), (b"b", b"1"))
    for _ in range(3):
        compact(b)
        b.now += 1000 * DAY
    assert [e.key for e in b.read()] == [b"a", b"b"]
    assert b.log.next_horizon is None


def test_a_horizon_that_nothing_is_left_of_does_not_keep_maintenance_busy(box: MakeBox) -> None:
    b = box(cleanup_policy="compact,delete", delete_retention_ms=DAY, retention_ms=10 * DAY)
    put(b, (b"a", None))
    compact(b)
    b.now += 20 * DAY
    maintain(b)
    assert maintain(b) is None


# A map that is too small


def test_a_pass_whose_map_is_full_goes_on_where_it_ended(box: MakeBox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "MAP_BYTES", 400)
    b = box(cleanup_policy="compact")
    for n in range(20):
        put(b, (b"k%d" % n, b"1"))
    for n in range(20):
        put(b, (b"k%d" % n, b"2"))
    b.partition.maintenance.roll(b.now)
    reached = []
    while b.log.cleaned_until < 40:
        b.partition.maintenance.compact(b.now)
        reached.append(b.log.cleaned_until)
        assert len(reached) < 50, "no progress"
    assert reached == sorted(set(reached)) and len(reached) > 5
    assert [e.value for e in b.read()] == [b"2"] * 20


# Whatever happens to it


def _count(make: MakeBox, run: Callable[[Box], object]) -> int:
    b, disk = armed(make, cleanup_policy="compact", segment_bytes=1024)
    filled(b)
    b.table()
    disk.arm(0, Killed())
    run(b)
    disk.error = None
    return len(disk.calls)


def _compact_only(b: Box) -> None:
    b.partition.maintenance.compact(b.now)


def test_killed_at_any_call_the_same_records_are_there(box: MakeBox) -> None:
    for nth in range(1, _count(box, _compact_only) + 1):
        b, disk = armed(box, cleanup_policy="compact", segment_bytes=1024)
        filled(b)
        table, end = b.table(), b.log.tail.end_offset
        disk.arm(nth, Killed(), half=True)
        with pytest.raises(Killed):
            _compact_only(b)
        disk.error = None
        b.log.release()
        b.open(KILLED)
        assert (b.table(), b.log.tail.end_offset) == (table, end), disk.calls[nth - 1]
        assert not [name for name in b.names() if name.endswith((".cleaned", ".swap", ".tmp"))]
        compact(b)
        assert b.table() == table


def test_killed_at_any_call_of_the_recovery_from_a_killed_compaction(box: MakeBox) -> None:
    b, disk = armed(box, cleanup_policy="compact", segment_bytes=4096)
    filled(b)
    table = b.table()
    disk.arm(1, Killed())
    disk.nth = 1 + next(
        n for n, call in enumerate(_calls(box), 1) if call.startswith("rename") and call.endswith(".swap")
    )
    with pytest.raises(Killed):
        _compact_only(b)
    assert any(name.endswith(".swap") for name in b.names())
    names = b.names()
    nth = 1
    while True:
        disk.arm(nth, Killed())
        b.log.release()
        try:
            b.open(KILLED)
        except Killed:
            nth += 1
            continue
        break
    disk.error = None
    assert nth > 3 and b.names() != names
    assert b.table() == table


def _calls(make: MakeBox) -> list[str]:
    b, disk = armed(make, cleanup_policy="compact", segment_bytes=4096)
    filled(b)
    disk.arm(0, Killed())
    _compact_only(b)
    disk.error = None
    return disk.calls


def test_interrupted_at_any_call_the_log_reads_on_and_the_next_pass_is_right(box: MakeBox) -> None:
    for nth in range(1, _count(box, _compact_only) + 1):
        b, disk = armed(box, cleanup_policy="compact", segment_bytes=1024)
        filled(b)
        table, end = b.table(), b.log.tail.end_offset
        disk.arm(nth, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            _compact_only(b)
        disk.error = None
        assert (b.table(), b.log.tail.end_offset) == (table, end), disk.calls[nth - 1]
        compact(b)
        assert b.table() == table
        b.reopen()
        assert b.table() == table


@pytest.mark.parametrize("once", [True, False], ids=["one call fails", "all calls fail from there on"])
def test_failed_at_any_call_the_log_reads_on_and_the_next_pass_and_the_next_open_are_right(
    box: MakeBox, once: bool
) -> None:
    for nth in range(1, _count(box, _compact_only) + 1):
        b, disk = armed(box, cleanup_policy="compact", segment_bytes=1024)
        filled(b)
        table, end = b.table(), b.log.tail.end_offset
        disk.arm(nth, OSError(errno.EIO, "injected"), half=True, once=once)
        with suppress(StreamlogError):
            _compact_only(b)
        disk.error = None
        assert b.table() == table
        b.check()
        if b.log.durability.poison is not None:  # it was the sync of what supersedes the records that go
            b.reopen(KILLED)
            assert b.table() == table
        put(b, (b"new", b"1"))
        table[b"new"] = b"1"
        if nth % 2:
            compact(b)
            assert b.table() == table
        if nth % 3:
            put(b, (b"a", b"newest"))
            compact(b)
            table[b"a"] = b"newest"
        b.reopen(KILLED if nth % 5 else CLEAN)
        assert b.table() == table
        assert b.log.tail.end_offset >= end + 1


def test_a_later_pass_over_more_segments_is_not_undone_by_what_an_earlier_one_left(box: MakeBox) -> None:
    b, disk = armed(box, cleanup_policy="compact", segment_bytes=8192)
    put(b, (b"a", b"1"), (b"b", b"1"))
    b.log.roll(b.now)
    put(b, (b"a", b"2"))
    b.log.roll(b.now)
    disk.arm(1, OSError(errno.EIO, "injected"), once=False)
    disk.nth = next(
        n for n, call in enumerate(_count_two(box), 1) if call.startswith("unlink") and call.endswith(".log")
    )
    with pytest.raises(StreamlogError):
        b.partition.maintenance.compact(b.now)
    disk.error = None
    assert any(name.endswith(".swap") for name in b.names())
    put(b, (b"a", b"3"), (b"c", b"1"))
    compact(b)
    table = b.table()
    assert table == {b"a": b"3", b"b": b"1", b"c": b"1"}
    b.reopen(KILLED)
    assert b.table() == table


def _count_two(make: MakeBox) -> list[str]:
    b, disk = armed(make, cleanup_policy="compact", segment_bytes=8192)
    put(b, (b"a", b"1"), (b"b", b"1"))
    b.log.roll(b.now)
    put(b, (b"a", b"2"))
    b.log.roll(b.now)
    disk.arm(0, Killed())
    b.partition.maintenance.compact(b.now)
    disk.error = None
    return disk.calls


def test_interrupted_at_any_line_the_log_reads_on(box: MakeBox) -> None:
    functions = {
        "compact",
        "swap_in",
        "run",
        "finish_swap",
        "finish_interrupted",
        "pin",
        "replace",
        "abandon",
        "finish_earlier",
    }
    line = 1
    while True:
        b = filled(box(cleanup_policy="compact", segment_bytes=4096))
        table = b.table()
        with suppress(KeyboardInterrupt), interrupted_at(line, functions) as seen:
            _compact_only(b)
        assert b.table() == table, line
        if line % 2:
            put(b, (b"a", b"new"))
            compact(b)
            table[b"a"] = b"new"
            assert b.table() == table
        b.reopen(KILLED)
        assert b.table() == table
        if seen[0] < line:
            break
        line += 7
    assert line > 50


@pytest.mark.slow
@pytest.mark.parametrize("segment_bytes", [1024, 1500, 8192])
@pytest.mark.parametrize("deleted", [0, 1, 3])
def test_a_pass_that_is_interrupted_while_it_replaces_and_the_next_leave_each_offset_once(
    box: MakeBox, segment_bytes: int, deleted: int
) -> None:
    """What was renamed and not published yet is published before anything else is done to the files."""
    line = 1
    while True:
        b = box(cleanup_policy="compact", segment_bytes=1024)
        for n in range(8):
            put(b, (b"a%d" % n, b"x" * 150), (b"b%d" % n, b"x" * 150))
        b.log.configure(replace(b.log.config, segment_bytes=8192))
        b.log.roll(b.now)
        with suppress(KeyboardInterrupt), interrupted_at(line, {"swap_in", "_publish", "replace"}) as seen:
            _compact_only(b)
        b.log.configure(replace(b.log.config, segment_bytes=segment_bytes))
        put(b, (b"a", b"new"))
        if deleted < len(b.log.tail.segments):
            b.partition.delete_records(b.log.tail.segments[deleted].base_offset)
        table = b.table()
        compact(b)
        assert b.table() == table, line
        b.reopen(KILLED if line % 2 else CLEAN)
        assert b.table() == table, line
        offsets = [e.offset for e in b.read()]
        assert offsets == sorted(set(offsets)), line
        if seen[0] < line:
            break
        line += 1
    assert line > 20


def test_a_reader_in_a_segment_that_is_compacted_away_reads_on(box: MakeBox) -> None:
    b = filled(box(cleanup_policy="compact", segment_bytes=1024))
    tail = b.log.tail
    headers = tail.segments[0].headers(0, tail.segments[0].size)
    next(headers)
    compact(b)
    assert list(headers) is not None
    for segment in tail.segments[:-1]:
        assert sum(header.record_count for _, header in segment.headers(0, segment.size)) == segment.stats.records


def test_damage_is_never_compacted_away(box: MakeBox) -> None:
    b = filled(box(cleanup_policy="compact", segment_bytes=1024))
    b.close()
    data = bytearray(b.logs()[1].read_bytes())
    data[-1] ^= 1
    b.logs()[1].write_bytes(data)
    b.open(CLEAN)
    before = {path.name: path.read_bytes() for path in b.logs()}
    with pytest.raises(CorruptRecordError):
        compact(b)
    assert {path.name: path.read_bytes() for path in b.logs()} == before
    data[-1] ^= 1
    b.logs()[1].write_bytes(data)


def test_leftovers_of_a_killed_compaction_are_notes_to_a_check_and_gone_after_an_open(box: MakeBox) -> None:
    b = filled(box(cleanup_policy="compact", segment_bytes=1024))
    b.close()
    (b.path / f"{0:020d}.cleaned").write_bytes(b"half")
    (b.path / f"{0:020d}.index.tmp").write_bytes(b"half")
    assert {finding.kind for finding in b.check(KILLED).findings} == {"leftover"}
    finish_interrupted(b.disk, str(b.path), b.names())
    assert not b.check(KILLED).findings
    b.open(CLEAN)


keys = st.sampled_from([b"a", b"b", b"c", b"d"])
values = st.one_of(st.none(), st.binary(max_size=300))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.lists(st.tuples(keys, values), min_size=1, max_size=4)),
        st.tuples(st.just("compact"), st.none()),
        st.tuples(st.just("reopen"), st.booleans()),
        st.tuples(st.just("wait"), st.sampled_from([1, DAY // 2, DAY])),
    ),
    max_size=25,
)


@given(steps=steps)
@settings(max_examples=60)
def test_a_compacted_log_is_a_dict(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any]]) -> None:
    b = Box(tmp_path_factory.mktemp("dict") / "p", cleanup_policy="compact", segment_bytes=1024)
    model: dict[bytes, bytes | None] = {}
    for step, argument in steps:
        if step == "put":
            put(b, *argument)
            model.update(argument)
        elif step == "compact":
            compact(b)
        elif step == "reopen":
            b.reopen(CLEAN if argument else KILLED)
        else:
            b.now += argument
        assert b.table() == {key: value for key, value in model.items() if value is not None}
    assert not b.problems()
    b.log.release()


# Giving up


@pytest.mark.parametrize("at", ["the keys", "the records"])
def test_a_compaction_is_given_up_when_the_log_is_to_be_closed(box: MakeBox, at: str) -> None:
    b = filled(box(cleanup_policy="compact"))
    before = b.read()
    files = {path.name: path.read_bytes() for path in b.path.glob("*.log")}
    go_on, asked = b.partition.maintenance._check_going_on, 0

    def leave() -> None:
        nonlocal asked
        asked += 1
        if asked == (3 if at == "the keys" else 12):  # there are 8 batches
            b.partition.maintenance.stop()
        go_on()

    b.partition.maintenance._check_going_on = leave  # type: ignore[method-assign]
    with pytest.raises(ClosedError, match="given up"):
        b.partition.maintenance.compact(b.now)
    assert asked == (3 if at == "the keys" else 12), "it went on"
    assert {path.name: path.read_bytes() for path in b.path.glob("*.log")} == files
    assert not [*b.path.glob("*.cleaned")]
    assert maintain(b) is None, "it would be tried again"
    assert b.read() == before
    b.reopen()
    assert compact(b) is not None
    latest = {entry.key: entry for entry in before}
    assert b.read() == sorted(latest.values(), key=lambda entry: entry.offset)


def test_control_batches_that_are_no_markers_are_never_compacted(box: MakeBox) -> None:
    b = box(cleanup_policy="compact")
    b.append(b"leader", keys=[b"a"], attributes=CONTROL | 2 << CONTROL_SHIFT)
    b.append(b"1", keys=[b"a"])
    b.append(b"2", keys=[b"a"])
    b.log.roll(b.now)
    b.partition.maintenance.compact(b.now)
    assert b.values() == [b"leader", b"2"]


def test_a_large_segment_is_written_piece_by_piece(box: MakeBox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replacement, "_WRITE_BYTES", 100)
    b = six_segments(box, cleanup_policy="compact")
    b.log.roll(b.now)
    table = b.table()
    b.partition.maintenance.compact(b.now)
    assert b.table() == table


def test_interrupted_right_after_the_rename_the_result_is_published(box: MakeBox) -> None:
    b = six_segments(box, cleanup_policy="compact")
    b.log.roll(b.now)
    table = b.table()

    class Interrupting(OsDisk):
        def rename(self, source: str, target: str) -> None:
            super().rename(source, target)
            if target.endswith(".swap"):
                raise KeyboardInterrupt

    b.log.disk = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        b.partition.maintenance.compact(b.now)
    b.log.disk = b.disk
    assert b.table() == table
    assert len(b.log.tail.segments) == 7, "the first group was one segment without a record left"
    b.append(b"new", keys=[b"k0"])
    b.log.roll(b.now)
    b.partition.maintenance.compact(b.now)
    table[b"k0"] = b"new"
    assert b.table() == table
    b.reopen(KILLED)
    assert b.table() == table


def test_a_rename_that_cannot_be_looked_at_is_settled_before_the_next_pass(box: MakeBox) -> None:
    b = six_segments(box, cleanup_policy="compact")
    b.log.roll(b.now)
    table = b.table()

    class Unsure(OsDisk):
        renames = 0

        def rename(self, source: str, target: str) -> None:
            super().rename(source, target)
            if target.endswith(".swap"):
                self.renames += 1
                raise OSError(errno.EIO, "told nothing of the rename")

        def exists(self, path: str) -> bool:
            if path.endswith(".swap") and self.renames:
                raise OSError(errno.EIO, "cannot be looked at")
            return super().exists(path)

    b.log.disk = Unsure()
    for _ in range(2):
        with pytest.raises(StorageError):
            b.partition.maintenance.compact(b.now)
        assert b.log.disk.renames == 1, "nothing more is done until it is known"
        with pytest.raises(StorageError):
            b.partition.delete_records(b.log.tail.segments[1].base_offset)
    b.log.disk = b.disk
    assert b.table() == table
    b.partition.maintenance.compact(b.now)
    assert b.table() == table
    b.reopen(KILLED)
    assert b.table() == table


def test_a_compaction_that_is_interrupted_in_a_call_leaves_the_log_as_it_was(box: MakeBox) -> None:
    b, disk = armed(box, cleanup_policy="compact", segment_bytes=1024)
    for n in range(6):
        b.append(b"%d" % n * 600, keys=[b"k%d" % (n % 2)])
    table = b.table()
    nth = 1
    while True:
        disk.arm(nth, KeyboardInterrupt())
        try:
            b.partition.maintenance.compact(b.now)
            break
        except KeyboardInterrupt:
            disk.error = None
            assert b.table() == table
            nth += 1
    disk.error = None
    assert nth > 3
    b.reopen(KILLED)
    assert b.table() == table


def test_a_topic_without_a_dirty_byte_is_not_compacted_by_maintenance(box: MakeBox) -> None:
    b = six_segments(box, cleanup_policy="compact", min_cleanable_dirty_ratio=0.9)
    b.log.roll(b.now)
    b.partition.maintenance.compact(b.now)
    before = {path.name: path.stat().st_ino for path in b.logs()}
    maintain(b)
    assert {path.name: path.stat().st_ino for path in b.logs()} == before
    b.append(b"x", keys=[b"k0"])
    b.log.roll(b.now)
    assert 0 < compaction.plan(b.log, b.now, b.log.tail.end_offset).dirty_ratio < 0.9
    maintain(b)
    assert b.log.cleaned_until == 6


# Producers and transactions


def send(
    b: Box, sequence: int, key: bytes, value: bytes | None, producer: int = 7, epoch: int = 0, flags: int = 0
) -> int:
    """One record of a producer; its offset."""
    write = b.write(value, keys=[key], attributes=flags)
    write.batches = [write.batches[0]._replace(producer_id=producer, producer_epoch=epoch, base_sequence=sequence)]
    return b.log.append(write, 0, b.now)


def in_transaction(b: Box, sequence: int, key: bytes, value: bytes, producer: int = 7) -> int:
    return send(b, sequence, key, value, producer, flags=TRANSACTIONAL)


def end(b: Box, *, commits: bool, producer: int = 7, epoch: int = 0) -> int:
    """The marker that ends a transaction."""
    return b.log.append(AppendRequest([marker(SEED, producer, epoch, b.now, commits=commits)]), 0, b.now)


def headers_of(b: Box) -> list[BatchHeader]:
    return [header for segment, stop in b.log.tail.places() for _, header in segment.headers(0, stop)]


@pytest.mark.parametrize("updates", [50, 500])
def test_updates_of_one_key_leave_what_they_are_even_if_a_producer_has_an_id(box: MakeBox, updates: int) -> None:
    b = box(cleanup_policy="compact")
    for n in range(updates):
        send(b, n, b"k", b"%d" % n)
    compact(b)
    assert b.values() == [b"%d" % (updates - 1)]
    assert [header.record_count for header in headers_of(b)] == [0, 0, 0, 0, 1]
    assert b.log.tail.segments[0].size < 800, "not a batch for each update"
    assert [send(b, n, b"k", b"%d" % n) for n in range(updates - 5, updates)] == list(range(updates - 5, updates))
    b.reopen(KILLED)
    assert [send(b, n, b"k", b"%d" % n) for n in range(updates - 5, updates)] == list(range(updates - 5, updates))
    assert send(b, updates, b"k", b"next") == updates


def test_empty_batches_of_a_producer_go_when_it_has_written_others_or_is_forgotten(box: MakeBox) -> None:
    b = box(cleanup_policy="compact")
    for n in range(7):
        send(b, n, b"k", b"1")
        send(b, 0, b"k", b"1", producer=100 + n)
    put(b, (b"k", b"2"))
    compact(b)
    assert [header.producer_id for header in headers_of(b)].count(7) == 5
    for n in range(7, 10):
        send(b, n, b"k", b"3")
    compact(b)
    of_seven = [header.base_sequence for header in headers_of(b) if header.producer_id == 7]
    assert of_seven == [5, 6, 7, 8, 9]
    assert sum(header.producer_id >= 100 for header in headers_of(b)) == 7
    b.now += EXPIRATION_MS + 1
    put(b, (b"k", b"4"))
    compact(b)
    assert {header.producer_id for header in headers_of(b)} == {NO_PRODUCER}


def test_more_producers_than_are_remembered_leave_no_empty_batches(
    box: MakeBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "MAX_PRODUCERS", 3)
    b = box(cleanup_policy="compact")
    for n in range(9):
        send(b, 0, b"k", b"%d" % n, producer=n)
    compact(b)
    assert [header.producer_id for header in headers_of(b)] == [6, 7, 8]


def test_an_epoch_that_a_newer_one_replaced_leaves_no_empty_batch(box: MakeBox) -> None:
    b = box(cleanup_policy="compact")
    send(b, 0, b"k", b"1")
    send(b, 0, b"k", b"2", epoch=1)
    late = b.write(b"3", keys=[b"k"])
    late.batches = [late.batches[0]._replace(producer_id=7, producer_epoch=0, base_sequence=1)]
    b.log.producers = type(b.log.producers)(b.log.transactions.has_open)  # a leader that did not know better
    with suppress(StreamlogError):
        b.log.append(late, 0, b.now)
    put(b, (b"k", b"4"))
    compact(b)
    assert [(header.producer_epoch, header.record_count) for header in headers_of(b)] == [(1, 0), (-1, 1)]


def test_the_value_of_an_aborted_transaction_never_replaces_one_that_counts(box: MakeBox) -> None:
    """Scenario 14: if it did, the key would have no value after the pass."""
    b = box(cleanup_policy="compact")
    put(b, (b"a", b"counts"), (b"b", b"counts"))
    in_transaction(b, 0, b"a", b"aborted")
    send(b, 0, b"a", b"counts too", producer=8)
    in_transaction(b, 1, b"b", b"aborted")
    end(b, commits=False)
    in_transaction(b, 2, b"c", b"committed")
    end(b, commits=True)
    compact(b)
    assert [(e.key, e.value) for e in b.read() if e.key in (b"a", b"b", b"c")] == [
        (b"b", b"counts"), (b"a", b"counts too"), (b"c", b"committed")
    ]  # fmt: skip


def test_a_marker_after_the_planned_segments_aborts_what_is_in_them(
    box: MakeBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = box(cleanup_policy="compact")
    put(b, (b"a", b"counts"))
    in_transaction(b, 0, b"a", b"aborted")
    in_transaction(b, 0, b"b", b"committed", producer=8)
    b.log.roll(b.now)
    put(b, (b"z", b"z"))
    send(b, 0, b"z", b"z", producer=9)
    end(b, commits=False)
    end(b, commits=True, producer=8)
    monkeypatch.setattr(compaction, "_HEADERS_BYTES", 200)
    assert b.partition.maintenance.compact(b.now) is not None
    assert [(e.key, e.value) for e in b.read() if e.key in (b"a", b"b")] == [(b"a", b"counts"), (b"b", b"committed")]


def test_a_control_batch_that_is_no_marker_ends_no_transaction(box: MakeBox) -> None:
    b = box()
    in_transaction(b, 0, b"a", b"1")
    end(b, commits=True)
    data, marking = headers_of(b)
    known = Transactions()
    known.note(data)
    known.note(marking._replace(attributes=CONTROL | 2 << CONTROL_SHIFT))
    assert known.open == {7: 0}
    known.note(marking)
    assert (known.open, len(known.aborted)) == ({}, 0)


def test_a_pass_ends_before_a_transaction_that_is_open(box: MakeBox) -> None:
    b = box(cleanup_policy="compact")
    put(b, (b"a", b"1"))
    put(b, (b"a", b"2"))
    b.log.roll(b.now)
    in_transaction(b, 0, b"a", b"open")
    put(b, (b"b", b"1"))
    put(b, (b"b", b"2"))
    compact(b)
    assert [e.value for e in b.read()] == [b"2", b"open", b"1", b"2"]
    end(b, commits=False)
    compact(b)
    assert [(e.key, e.value) for e in b.read()][:2] == [(b"a", b"2"), (b"b", b"2")]


@pytest.mark.parametrize("commits", [True, False])
def test_a_marker_stays_while_its_transaction_has_batches_and_for_a_while_after(box: MakeBox, commits: bool) -> None:
    """As in Kafka: a reader that has read a part of the transaction has to see how it ended."""
    b = box(cleanup_policy="compact", delete_retention_ms=1000)
    in_transaction(b, 0, b"a", b"1")
    ended = end(b, commits=commits)
    for n in range(1, 6):  # batches of its own that are last
        send(b, n, b"a", b"2")
    assert compact(b) is not None
    markers = [header for header in headers_of(b) if header.is_control]
    assert [(header.base_offset, header.delete_horizon, header.form) for header in markers] == [(ended, -1, FORM_KAFKA)]
    assert all(header.base_offset for header in headers_of(b)), "the batch of the transaction is gone"
    put(b, (b"z", b"z"))
    assert compact(b) is not None
    markers = [header for header in headers_of(b) if header.is_control]
    assert [(header.base_offset, header.delete_horizon) for header in markers] == [(ended, b.now + 1000)]
    assert b.log.next_horizon == b.now + 1000
    b.now += 999
    put(b, (b"y", b"y"))
    compact(b)
    assert sum(header.is_control for header in headers_of(b)) == 1
    b.now += 1
    put(b, (b"x", b"x"))
    compact(b)
    assert not [header for header in headers_of(b) if header.is_control]
    assert b.log.next_horizon is None


def test_a_marker_that_is_all_of_its_producer_or_ends_a_file_stays_without_its_record(box: MakeBox) -> None:
    b = box(cleanup_policy="compact", delete_retention_ms=0)
    end(b, commits=False, epoch=3)
    put(b, (b"a", b"1"))
    in_transaction(b, 0, b"b", b"1", producer=8)
    end(b, commits=True, producer=8)
    b.log.roll(b.now)
    for _ in range(4):
        put(b, (b"b", b"2"))
        compact(b)
    left = [(header.producer_id, header.record_count) for header in headers_of(b) if header.is_control]
    assert left == [(7, 0), (8, 1)], "the empty batch of the transaction is the last of its producer"
    before = b.log.tail.segments[0]
    put(b, (b"c", b"2"))
    compact(b)
    assert [header.producer_id for header in headers_of(b) if header.is_control] == [7, 8]
    assert before.base_offset == 0
    b.reopen(KILLED)
    with pytest.raises(StreamlogError, match="epoch 3"):
        send(b, 0, b"a", b"zombie", epoch=2)


def test_with_unlimited_delete_retention_markers_stay(box: MakeBox) -> None:
    b = box(cleanup_policy="compact", delete_retention_ms=-1)
    end(b, commits=True)
    put(b, (b"a", b"1"))
    for _ in range(2):
        put(b, (b"a", b"2"))
        compact(b)
    assert sum(header.is_control for header in headers_of(b)) == 1
    assert b.log.next_horizon is None
