"""The replicas of a partition are compared offset by offset, and what one lacks is read from another."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from streamlog.errors import CorruptRecordError
from streamlog.runtime.disk import OsDisk
from streamlog.storage.verify import compare
from streamlog.storage.verify.compare import Difference, Replica, differences, whole_batches
from streamlog.testing import FaultyDisk

from ..conftest import SEED, Box
from ..test_append_as_follower import copy

MakeBox = Callable[..., Box]
FAR = 1 << 40


def found(*boxes: Box, end: int = FAR, disk: OsDisk | FaultyDisk | None = None) -> list[Difference]:
    replicas = [Replica(number, str(b.path), end) for number, b in enumerate(boxes)]
    return list(differences(disk or OsDisk(), replicas, SEED))  # type: ignore[arg-type]


def filled(box: MakeBox, *values: bytes, epoch: int = 0, **config: object) -> Box:
    b = box(segment_bytes=1024, **config)
    for value in values:
        b.log.append(b.write(value, keys=[b"k"]), epoch, b.now)
    return b


def test_copies_do_not_differ(box: MakeBox) -> None:
    b, other = filled(box, *(b"%d" % n * 200 for n in range(9))), box()
    copy(b, other)
    assert found(b, other) == []
    assert found(b, other, end=b.log.tail.bases[1]) == []
    assert found() == []


def test_records_epochs_and_batches_that_differ_are_found_before_the_end_alone(box: MakeBox) -> None:
    b = filled(box, b"same", b"x", b"z")
    [one] = found(b, filled(box, b"same", b"y", b"z"))
    assert (one.start, one.end, one.brokers, one.why) == (1, 2, (0, 1), "other records")
    assert found(b, filled(box, b"same", b"y", b"z"), end=1) == []
    assert [each.why for each in found(b, filled(box, b"same", epoch=3))] == ["leader epochs 0 and 3"]
    longer = box()
    longer.log.append(longer.write(b"same", b"x"), 0, longer.now)
    [ends] = found(b, longer)
    assert (ends.start, ends.end, ends.why) == (0, 2, "batches that end at the offsets 0 and 1")


def test_what_was_compacted_or_got_a_horizon_does_not_differ(box: MakeBox) -> None:
    config = {"cleanup_policy": "compact", "min_cleanable_dirty_ratio": 0.0}
    b = box(**config)
    b.append(b"1", b"2", None, keys=[b"a", b"b", b"c"])
    b.append(b"3", None, keys=[b"a", b"d"])
    b.append(None, keys=[b"e"])
    other = box(**config)
    copy(b, other)
    b.log.roll(b.now)
    b.partition.maintenance.compact(b.now)
    assert found(b, other) == []


@pytest.mark.damaged
def test_damage_is_passed_over(box: MakeBox) -> None:
    b, other = filled(box, b"a" * 30, b"b" * 30, b"c" * 30), filled(box, b"a" * 30, b"d" * 30, b"c" * 30)
    file = other.logs()[0]
    data = file.read_bytes()
    at = data.rindex(b"d" * 30)
    file.write_bytes(data[:at] + b"?" + data[at + 1 :])
    assert found(b, other) == [], "its payload is damaged"
    file.write_bytes(b"?" + data[1:])
    assert [each.start for each in found(b, other)] == [1], "one header is damaged"


@pytest.mark.damaged
def test_files_that_go_or_change_meanwhile_are_passed_over(box: MakeBox, monkeypatch: pytest.MonkeyPatch) -> None:
    b, other = filled(box, b"a" * 700, b"b" * 700), filled(box, b"x" * 700, b"y" * 700)
    disk = FaultyDisk()
    disk.fail("open", FileNotFoundError, path=f"{b.path}/{b.logs()[0].name}")
    assert [each.start for each in found(b, other, disk=disk)] == [1]
    disk.heal()
    disk.fail("pread", errno.EIO, path=f"{b.path}/*")
    assert [each.start for each in found(b, other, disk=disk)] == [1]
    disk.heal()
    disk.fail("open", errno.EIO, nth=2, path=f"{b.logs()[0]}")
    assert [each.start for each in found(b, other, disk=disk)] == [1], "it cannot be read a second time"
    names = b.names()
    monkeypatch.setattr(compare, "read_header", lambda *_: None)
    assert found(b, other) == [], "another batch is there by now"
    monkeypatch.undo()
    monkeypatch.setattr(compare, "decode", _raises)
    assert found(b, other) == []
    monkeypatch.undo()
    # A batch that begins before the end of the one before it.
    first = b.logs()[0]
    first.write_bytes(first.read_bytes() * 2)
    assert [each.start for each in found(b, other)] == [0, 1]
    assert names == b.names()


def _raises(*_: object) -> None:
    raise ValueError("the columns do not decode")


@pytest.mark.damaged
def test_a_finished_replacement_counts_and_what_it_replaces_does_not(box: MakeBox) -> None:
    b, other = filled(box, b"a" * 700, b"b" * 700), filled(box, b"a" * 700, b"b" * 700)
    first, second = b.logs()
    swap = first.with_name(f"{first.stem}-{2:020d}.swap")
    swap.write_bytes(first.read_bytes() + second.read_bytes())
    first.write_bytes(b"")
    assert found(b, other) == []
    assert len(list(whole_batches(OsDisk(), str(b.path), SEED, 0, None))) == 2


def batches(b: Box, start: int, after_epoch: int | None = None) -> list[int]:
    found = whole_batches(OsDisk(), str(b.path), SEED, start, after_epoch)
    return [header.base_offset for header, _ in found]


def test_the_batches_from_an_offset_on_are_those_of_the_same_history(box: MakeBox, tmp_path: Path) -> None:
    b = box(segment_bytes=1024)
    for n in range(4):
        b.log.append(b.write(b"%d" % n * 700), n // 2, b.now)
    assert batches(b, 0) == batches(b, 0, 5) == [0, 1, 2, 3]
    assert batches(b, 2, 0) == [2, 3]
    assert batches(b, 3, 1) == [3]
    assert batches(b, 3, 0) == [], "the batch before is of another leader"
    assert batches(b, 9) == []
    empty = tmp_path / "empty"
    empty.mkdir()
    assert list(whole_batches(OsDisk(), str(empty), SEED, 0, None)) == []


@pytest.mark.damaged
def test_the_batches_end_with_an_error_where_one_is_damaged(box: MakeBox) -> None:
    b = filled(box, b"a" * 700, b"b" * 700)
    file = b.logs()[1]
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    given = whole_batches(OsDisk(), str(b.path), SEED, 0, None)
    assert next(given)[0].base_offset == 0
    with pytest.raises(CorruptRecordError):
        next(given)
    small = filled(box, b"a", b"b", b"c")
    file = small.logs()[0]
    data = file.read_bytes()
    file.write_bytes(b"?" + data[1:])
    assert batches(small, 2) == [2], "what is damaged lies before"
    with pytest.raises(CorruptRecordError):
        batches(small, 0)
