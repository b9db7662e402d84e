"""What segments hold is bounded: past the limit the first that were noted drop theirs."""

from __future__ import annotations

import errno
import gc
from collections.abc import Callable

import pytest

from streamlog.errors import StorageError
from streamlog.storage import segment as segments
from streamlog.storage.held import Held
from streamlog.testing import FaultyDisk

from .conftest import CLEAN, Box, six_segments

MakeBox = Callable[..., Box]


class Holder:
    def __init__(self) -> None:
        self.has = True


def drop(holder: Holder) -> None:
    holder.has = False


def noted(held: Held[Holder], *costs: int) -> list[Holder]:
    holders = [Holder() for _ in costs]
    for holder, cost in zip(holders, costs, strict=True):
        held.hold(holder, cost)
    return holders


def test_past_the_limit_the_first_that_were_noted_drop_theirs() -> None:
    assert [holder.has for holder in noted(Held(3, drop), 1, 1, 1, 1, 1)] == [False, False, True, True, True]


def test_costs_count_and_not_the_number() -> None:
    assert [holder.has for holder in noted(Held(100, drop), 60, 30, 20, 70)] == [False, False, True, True]


def test_what_costs_more_than_the_limit_is_dropped_at_once_and_what_comes_next_is_kept() -> None:
    assert [holder.has for holder in noted(Held(10, drop), 5, 11, 9)] == [False, False, True]


def test_an_object_that_is_added_anew_counts_once() -> None:
    held = Held(5, drop)
    holders = noted(held, 1, 1, 1, 1)
    for _ in range(3):
        for holder in holders:
            held.hold(holder)
    assert all(holder.has for holder in holders)
    assert [holder.has for holder in noted(held, 1, 1)] == [True, True]
    assert [holder.has for holder in holders] == [False, True, True, True]


def test_objects_that_are_gone_are_passed_over() -> None:
    held = Held(2, drop)
    noted(held, 1, 1)
    gc.collect()
    assert [holder.has for holder in noted(held, 1, 1)] == [True, True]


def test_everything_is_dropped_when_the_system_refuses_more() -> None:
    held = Held(5, drop)
    holders = noted(held, 1, 2)
    held.drop_all()
    assert [holder.has for holder in holders] == [False, False]
    assert [holder.has for holder in noted(held, 1, 2, 2)] == [True] * 3


def test_a_log_reads_with_one_open_file_one_mapping_and_no_index_at_a_time(
    box: MakeBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = six_segments(box)
    expected = b.read()
    for held in (segments.open_files, segments.mappings, segments.indexes):
        monkeypatch.setattr(held, "limit", 1 if held is not segments.indexes else 0)
    b.reopen(CLEAN)
    for offset in (5, 0, 3, 2, 4, 1):
        assert b.read(offset)[0] == expected[offset]
        sealed = b.log.tail.segments[:-1]
        assert sum(segment._map is not None for segment in sealed) <= 1
        assert sum(bool(segment._opened) for segment in b.log.tail.segments) <= 1
        assert all(segment._index is None for segment in sealed)
    assert b.append(b"goes on") == 6
    assert b.read(6)[0].value == b"goes on"


def test_the_index_of_a_segment_that_compaction_wrote_is_bounded_too(
    box: MakeBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = six_segments(box, cleanup_policy="compact")
    monkeypatch.setattr(segments.indexes, "limit", 0)
    b.partition.maintenance.roll(b.now)
    assert b.partition.maintenance.compact(b.now) is not None
    assert all(segment._index is None for segment in b.log.tail.segments[:-1])


def test_when_the_process_has_no_descriptor_left_the_log_drops_its_own_and_goes_on(box: MakeBox) -> None:
    b = six_segments(box)
    b.log.release()
    disk = b.disk = FaultyDisk()
    b.open(CLEAN)
    expected = b.read()
    mapped = [segment for segment in b.log.tail.segments if segment._map is not None]
    assert mapped
    b.log.tail.segments[0].release()
    disk.fail("open", errno.EMFILE, path="*.log")
    assert b.read() == expected
    assert len([call for call in disk.calls if call[0] == "open"]) > len(mapped)


def test_a_forked_child_goes_on_although_a_thread_of_its_parent_had_the_lock() -> None:
    held = Held(1, drop)
    held._lock.acquire()
    held.forked()
    assert [holder.has for holder in noted(held, 1, 1)] == [False, True]


def test_the_index_of_a_segment_that_was_truncated_meanwhile_is_not_used(box: MakeBox) -> None:
    b = six_segments(box)
    b.reopen(CLEAN)
    segment = b.log.tail.segments[0]
    segment.retire()
    with pytest.raises(StorageError, match="truncated while it was read"):
        segment.index.position_for_offset(0)
