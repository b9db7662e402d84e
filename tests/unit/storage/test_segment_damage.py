"""Damage inside a segment: exactly the damaged batch is lost, and the error of a read names the file and the position."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from streamlog.errors import CorruptRecordError
from streamlog.records.batch import FIXED_LEN

from .conftest import CLEAN, KILLED, Box

pytestmark = pytest.mark.damaged
MakeBox = Callable[..., Box]


def batches_of(box: Box) -> list[tuple[int, int]]:
    """Position and length of each batch in the first segment."""
    segment = box.log.tail.segments[0]
    end = segment.size if segment.sealed else box.log.tail.end_position
    return [(at, header.batch_len) for at, header in segment.headers(0, end)]


def flip(box: Box, position: int) -> None:
    path = box.logs()[0]
    data = bytearray(path.read_bytes())
    data[position] ^= 0x55
    path.write_bytes(data)


@pytest.mark.parametrize("where", ["header", "payload"])
@pytest.mark.parametrize("victim", [0, 1, 2])
def test_only_the_damaged_batch_is_lost_and_it_is_named(box: MakeBox, where: str, victim: int) -> None:
    b = box()
    for n in range(4):
        b.append(b"a%d" % n, b"b%d" % n)
    at, length = batches_of(b)[victim]
    flip(b, at + 40 if where == "header" else at + length - 1)
    b.reopen(KILLED)

    expected = [v for n in range(4) if n != victim for v in (b"a%d" % n, b"b%d" % n)]
    assert b.values(skip=True) == expected
    with pytest.raises(CorruptRecordError) as error:
        b.values()
    assert (error.value.path, error.value.position) == (str(b.logs()[0]), at)


def test_every_flipped_byte_is_noticed_and_costs_one_batch(box: MakeBox) -> None:
    b = box()
    for n in range(4):
        b.append(b"v%d" % n, keys=[b"k"], headers=[(("h", b"x"),)])
    b.append(b"last")
    places = batches_of(b)
    b.close()
    path = b.logs()[0]
    whole, index = path.read_bytes(), path.with_suffix(".index").read_bytes()
    for position in range(len(whole)):
        victim = next(n for n, (at, length) in enumerate(places) if position < at + length)
        data = bytearray(whole)
        data[position] ^= 0xFF
        path.write_bytes(data)
        path.with_suffix(".index").write_bytes(index)
        b.open(CLEAN)
        everything = [b"v0", b"v1", b"v2", b"v3", b"last"]
        assert b.values(skip=True) == everything[:victim] + everything[victim + 1 :], position
        (problem,) = b.problems(CLEAN)
        assert problem.lost == (victim, victim + 1)
        assert problem.position == places[victim][0]
        b.log.release()


def test_a_log_truncated_at_any_length_serves_the_whole_batches_before(box: MakeBox) -> None:
    b = box()
    for n in range(3):
        b.append(b"v%d" % n)
    places = batches_of(b)
    b.log.release()
    path = b.logs()[0]
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        b.open(KILLED)
        kept = sum(at + size <= length for at, size in places)
        assert b.values() == [b"v0", b"v1", b"v2"][:kept]
        assert b.append(b"next") == kept
        assert b.values()[-1] == b"next"
        assert not b.problems()
        b.log.release()


def test_damage_before_an_offset_does_not_stop_a_read_from_that_offset(box: MakeBox) -> None:
    b = box()
    for n in range(3):
        b.append(b"v%d" % n)
    flip(b, 40)
    assert [entry.value for entry in b.read(1)] == [b"v1", b"v2"]


def test_a_batch_of_this_very_partition_inside_a_value_is_never_taken_for_one_behind_damage(box: MakeBox) -> None:
    b = box()
    b.append(b"first")
    copy = b.logs()[0].read_bytes()
    b.append(copy)
    b.append(b"third")
    at = batches_of(b)[1][0]
    flip(b, at + 40)
    b.reopen(KILLED)
    assert b.values(skip=True) == [b"first", b"third"]
    assert b.log.tail.records == 2


@pytest.mark.parametrize(
    ("position", "value"),
    [(5, b"\x00\x00"), (5, b"\xff\xff"), (7, b"\x00\x00\x00\x00"), (7, b"\xff\xff\xff\xff"), (7, b"\x01\x00\x00\x00")],
    ids=["header 0", "header huge", "batch 0", "batch huge", "batch 1"],
)
def test_a_hostile_length_costs_nothing_but_its_batch(box: MakeBox, position: int, value: bytes) -> None:
    b = box()
    for n in range(3):
        b.append(b"v%d" % n)
    at = batches_of(b)[1][0]
    path = b.logs()[0]
    data = bytearray(path.read_bytes())
    data[at + position : at + position + len(value)] = value
    path.write_bytes(data)
    b.reopen(KILLED)
    assert b.values(skip=True) == [b"v0", b"v2"]


def test_a_hostile_directory_count_costs_nothing_but_its_batch(box: MakeBox) -> None:
    b = box()
    for n in range(3):
        b.append(b"v%d" % n)
    flip(b, batches_of(b)[1][0] + FIXED_LEN)
    b.reopen(KILLED)
    assert b.values(skip=True) == [b"v0", b"v2"]


def test_a_segment_missing_in_the_middle_fails_reads_there(box: MakeBox) -> None:
    b = box(segment_bytes=1024)
    for n in range(12):
        b.append(b"%d" % n * 300)
    assert len(b.logs()) >= 4
    b.close()
    victim = b.logs()[1]
    following = int(b.logs()[2].stem)
    victim.unlink()
    b.open(CLEAN)
    with pytest.raises(CorruptRecordError, match="missing"):
        b.read()
    offsets = [entry.offset for entry in b.read(skip=True)]
    assert offsets == [*range(int(victim.stem)), *range(following, 12)]
    assert [problem.lost for problem in b.problems(CLEAN)] == [(int(victim.stem), following)]


def test_a_missing_first_segment_fails_reads_there(box: MakeBox) -> None:
    b = box(segment_bytes=1024)
    for n in range(12):
        b.append(b"%d" % n * 300)
    b.close()
    following = int(b.logs()[1].stem)
    b.logs()[0].unlink()
    b.open(CLEAN)
    with pytest.raises(CorruptRecordError, match="missing"):
        b.read(0)
    assert [entry.offset for entry in b.read(0, skip=True)] == [*range(following, 12)]
    assert [problem.lost for problem in b.problems(CLEAN)] == [(0, following)]


def test_a_missing_last_segment_of_a_closed_log_is_reported_and_appends_go_on_after_it(box: MakeBox) -> None:
    b = box(segment_bytes=1024)
    for n in range(12):
        b.append(b"%d" % n * 300)
    b.close()
    last = int(b.logs()[-1].stem)
    b.logs()[-1].unlink()
    assert [problem.lost for problem in b.problems(CLEAN)] == [(last, 12)]
    b.open(CLEAN)
    assert b.append(b"x") == 12
    with pytest.raises(CorruptRecordError, match="missing"):
        b.read()
    assert [entry.offset for entry in b.read(skip=True)] == [*range(last), 12]
    b.reopen(KILLED)
    assert [entry.offset for entry in b.read(skip=True)] == [*range(last), 12]


def test_a_missing_last_segment_after_a_crash_forbids_appends_lest_offsets_are_given_twice(box: MakeBox) -> None:
    b = box(segment_bytes=1024)
    for n in range(12):
        b.append(b"%d" % n * 300)
    b.log.durability.sync_sealed(b.log.tail)
    b.log.release()
    for path in b.logs()[-2:]:
        path.unlink()
    b.open(KILLED)
    with pytest.raises(CorruptRecordError, match="are missing"):
        b.read()
    left = [entry.offset for entry in b.read(skip=True)]
    assert left == list(range(len(left)))
    for _ in range(2):
        with pytest.raises(CorruptRecordError, match="ends at offset"):
            b.append(b"x")
        b.reopen(KILLED)


@pytest.mark.parametrize("indexed", [True, False])
def test_damage_at_the_end_of_a_closed_log_costs_its_batch_and_appends_go_on_behind_it(
    box: MakeBox, indexed: bool
) -> None:
    b = box()
    b.append(b"one")
    b.append(b"two")
    at = batches_of(b)[1][0]
    b.close()
    flip(b, at + 40)
    if not indexed:
        b.logs()[0].with_suffix(".index").unlink()
    b.open(CLEAN)
    assert b.append(b"three") == 2
    with pytest.raises(CorruptRecordError):
        b.values()
    assert b.values(skip=True) == [b"one", b"three"]
    b.reopen(KILLED)
    assert b.values(skip=True) == [b"one", b"three"]


def test_damage_at_the_very_end_still_forbids_appends_after_a_close_and_a_second_open(box: MakeBox) -> None:
    b = box()
    b.append(b"one")
    b.append(b"two")
    flip(b, batches_of(b)[1][0] + 40)
    b.reopen(KILLED)
    for _ in range(2):
        with pytest.raises(CorruptRecordError):
            b.append(b"three")
        assert not b.log.roll(b.now)
        with pytest.raises(CorruptRecordError):
            b.values()
        assert b.values(skip=True) == [b"one"]
        b.close()
        b.open(KILLED)  # the broker does not close a directory as clean while a log of it does not know its end
    with pytest.raises(CorruptRecordError):
        b.append(b"three")


def test_columns_that_contradict_their_checksummed_header_are_damage(box: MakeBox) -> None:
    b = box(cleanup_policy="compact")
    write = b.write(b"x", b"y", keys=[b"k", b"l"], timestamps=[b.now, b.now + 1])
    write.batches = [write.batches[0]._replace(record_count=3, last_offset_delta=2)]
    b.log.append(write, 0, b.now)
    b.append(b"good", keys=[b"k"])
    b.log.roll(b.now)
    with pytest.raises(CorruptRecordError, match="columns"):
        b.log.reader.find_time(0, 4)
    with pytest.raises(CorruptRecordError, match="columns"):
        b.partition.maintenance.compact(b.now)
    (problem,) = b.problems()
    assert (problem.kind, problem.lost) == ("columns", (0, 3))
