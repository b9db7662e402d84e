"""A new directory from intact batches: they keep their offsets, lost offsets are covered, none is assigned twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamlog.records import columns
from streamlog.records.batch import BatchHeader, peek, stamp
from streamlog.runtime.disk import OsDisk
from streamlog.storage.checkpoint import State
from streamlog.storage.recovery.rebuild import SegmentWriter

from ..conftest import NOW, PARTITION, SEED, TOPIC_ID, Box

SPAN = (1 << 31) - 1
FAR = 64 * SPAN


@pytest.fixture
def rebuilt(tmp_path: Path) -> SegmentWriter:
    return new(tmp_path)


def new(path: Path, start_offset: int = 0, *, gaps: bool = False) -> SegmentWriter:
    return SegmentWriter(OsDisk(), str(path / "p"), TOPIC_ID, PARTITION, SEED, start_offset, gaps=gaps)


def batch(offset: int, *values: bytes) -> tuple[BatchHeader, bytes]:
    sealed = columns.seal(SEED, None, values, NOW, None, count=len(values))
    data = stamp(sealed, SEED, offset, 0, NOW) + sealed.payload
    return peek(data), data


def opened(path: Path) -> Box:
    """The log that was made, opened as after a close; there is nothing wrong with it."""
    b = Box(path / "p")
    assert b.check().findings == ()
    return b


def test_what_was_there_twice_is_kept_once(rebuilt: SegmentWriter, tmp_path: Path) -> None:
    assert rebuilt.keep(0, *batch(0, b"a", b"b")) is None
    assert rebuilt.keep(0, *batch(1, b"b again")) is None
    assert rebuilt.keep(0, *batch(2, b"c")) is None
    assert rebuilt.finish(None) == 3
    assert (rebuilt.batches, rebuilt.records) == (2, 3)
    b = opened(tmp_path)
    assert b.values() == [b"a", b"b", b"c"]
    b.close()


def test_a_first_segment_that_is_lost_is_covered_from_the_log_start_on(rebuilt: SegmentWriter, tmp_path: Path) -> None:
    assert rebuilt.keep(5, *batch(5, b"f")) is None
    assert rebuilt.finish(None) == 6
    b = opened(tmp_path)
    assert [file.name for file in b.logs()] == [f"{0:020d}.log", f"{5:020d}.log"]
    assert [(entry.offset, entry.value) for entry in b.read(0)] == [(5, b"f")]
    b.close()


def test_what_compaction_took_out_of_a_segment_is_no_gap_to_cover(tmp_path: Path) -> None:
    rebuilt = new(tmp_path, gaps=True)
    whole = [batch(0, b"a"), batch(7, b"h")]
    for each in whole:
        assert rebuilt.keep(0, *each) is None
    assert rebuilt.finish(State(0, 8, 8)) == 8
    b = Box(tmp_path / "p", cleanup_policy="compact")
    assert b.problems() == []
    assert b.logs()[0].read_bytes() == b"".join(data for _, data in whole), "byte for byte"
    assert [(entry.offset, entry.value) for entry in b.read()] == [(0, b"a"), (7, b"h")]
    b.close()


@pytest.mark.parametrize("kept", [False, True], ids=["nothing is left", "all of it was deleted"])
def test_where_nothing_is_to_be_read_the_log_begins_where_it_did(tmp_path: Path, kept: bool) -> None:
    rebuilt = new(tmp_path, 9)
    if kept:
        assert rebuilt.keep(0, *batch(0, b"deleted")) is None
    assert rebuilt.finish(None) == 9
    b = opened(tmp_path)
    assert (b.log.tail.start_offset, b.log.tail.end_offset) == (9, 9)
    assert b.append(b"on") == 9
    b.close()


def test_a_batch_too_far_away_is_refused_with_the_offset_that_is_due(rebuilt: SegmentWriter, tmp_path: Path) -> None:
    assert rebuilt.keep(0, *batch(0, b"a")) is None
    why = rebuilt.keep(0, *batch(FAR + 2, b"astray"))
    assert why == f"its offset {FAR + 2} is too far from the one that is due, 1"
    assert rebuilt.finish(None) == 1
    b = opened(tmp_path)
    assert b.values() == [b"a"]
    b.close()


def test_a_segment_that_begins_within_the_one_before_goes_on_in_that_one_s_file(
    rebuilt: SegmentWriter, tmp_path: Path
) -> None:
    assert rebuilt.keep(0, *batch(0, b"a", b"b", b"c")) is None
    assert rebuilt.keep(2, *batch(2, b"c again")) is None
    assert rebuilt.keep(2, *batch(3, b"d")) is None
    assert rebuilt.keep(4, *batch(4, b"e")) is None
    assert rebuilt.finish(None) == 5
    b = opened(tmp_path)
    assert [file.name for file in b.logs()] == [f"{0:020d}.log", f"{4:020d}.log"]
    assert [(entry.offset, entry.value) for entry in b.read()] == [*enumerate([b"a", b"b", b"c", b"d", b"e"])]
    b.close()


@pytest.mark.parametrize("lost", [10, SPAN, 2 * SPAN + 5, FAR])
def test_offsets_up_to_the_recovery_point_are_covered_in_as_few_batches_as_hold_them(
    rebuilt: SegmentWriter, tmp_path: Path, lost: int
) -> None:
    assert rebuilt.keep(0, *batch(0, b"a")) is None
    assert rebuilt.finish(State(0, 1 + lost)) == 1 + lost
    b = opened(tmp_path)
    assert b.values() == [b"a"]
    segments = b.log.tail.segments
    assert all(s.stats.next_offset - s.base_offset <= SPAN for s in segments), "an index says less than 2**31 offsets"
    covers = [
        header for s, end in b.log.tail.places() for _, header in s.headers(0, end) if not header.record_count
    ]  # fmt: skip
    assert len(covers) == -(-lost // SPAN)
    assert b.append(b"on") == 1 + lost
    b.close()


def test_a_recovery_point_too_far_away_to_cover_is_not_believed(rebuilt: SegmentWriter, tmp_path: Path) -> None:
    assert rebuilt.keep(0, *batch(0, b"a")) is None
    assert rebuilt.finish(State(0, FAR + 2)) == 1
    b = opened(tmp_path)
    assert b.log.durability.recovery_point == 1
    assert b.append(b"on") == 1
    b.close()


def test_large_batches_are_written_as_they_come_and_each_at_its_place(rebuilt: SegmentWriter, tmp_path: Path) -> None:
    values = [b"%d" % n * 400_000 for n in range(8)]
    for n, value in enumerate(values):
        assert rebuilt.keep(0, *batch(n, value)) is None
    held = rebuilt.size_bytes - (tmp_path / "p" / f"{0:020d}.log").stat().st_size
    assert 0 <= held < 1 << 20, "no more than a write is held in memory"
    assert rebuilt.finish(None) == 8
    b = opened(tmp_path)
    assert b.values() == values
    b.close()


def test_lost_batches_are_filled_where_another_replica_has_them(rebuilt: SegmentWriter, tmp_path: Path) -> None:
    assert rebuilt.last_epoch is None
    assert rebuilt.fill(*batch(0, b"a")) is None
    assert rebuilt.last_epoch == 0
    assert rebuilt.keep(1, *batch(1, b"b")) is None
    assert rebuilt.fill(*batch(2, b"c")) is None
    assert rebuilt.finish(None) == 3
    b = opened(tmp_path)
    assert [file.name for file in b.logs()] == [f"{0:020d}.log", f"{1:020d}.log"]
    assert b.values() == [b"a", b"b", b"c"]
    b.close()
