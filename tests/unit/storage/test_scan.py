"""Iteration over headers: every batch counts, and the next one after damage is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from streamlog.records import columns
from streamlog.records.batch import FORM_KAFKA, MAGIC, NO_TIMESTAMP, stamp
from streamlog.storage import scan
from streamlog.storage.scan import next_batch, walk
from streamlog.storage.segment import Segment

from .conftest import KILLED, NOW, SEED, Box

MakeBox = Callable[..., Box]


@pytest.mark.parametrize("trusted_to", [None, 0], ids=["headers", "payloads too"])
def test_a_batch_of_a_rare_form_is_counted_like_any_other(box: MakeBox, trusted_to: int | None) -> None:
    b = box()
    whole = []
    for offset, values, time in ((0, (b"a",), 5), (1, (), 0), (2, (b"b", b"c"), 3), (4, (b"d",), 9)):
        sealed = columns.seal(
            SEED, None, values or None, time, None, count=len(values), last_offset_delta=max(0, len(values) - 1)
        )
        if offset:
            sealed = sealed._replace(attributes=sealed.attributes | FORM_KAFKA)
        whole.append(stamp(sealed, SEED, offset, 0, NOW + offset) + sealed.payload)
    data = b"".join(whole)

    def look(data: bytes) -> Any:
        segment = Segment(b.disk, str(b.path), 0, SEED)
        path = b.path / "other"
        path.write_bytes(data)
        segment.use_file(b.disk.open(str(path), writable=False))
        return walk(segment, len(data), trusted_to)

    found = look(data)
    assert found[1:5] == (found.entries, len(data), (), None)
    stats = found.stats
    assert (stats.next_offset, stats.records) == (5, 4)
    assert (stats.min_timestamp, stats.max_timestamp, stats.first_append) == (0, 9, NOW)
    rare = look(b"".join(whole[1:]))
    assert (rare.stats.next_offset, rare.stats.records, rare.stats.first_append) == (5, 3, NOW + 1)
    assert (rare.stats.min_timestamp, rare.stats.max_timestamp) == (0, 9)
    assert rare.entries.positions[0] == 0
    (b.path / "other").unlink()


@pytest.mark.parametrize("form", [0, FORM_KAFKA], ids=["usual form", "rare form"])
def test_a_batch_without_a_time_counts_for_none(box: MakeBox, form: int) -> None:
    """What `repair` writes for offsets that are lost."""
    b = box()
    sealed = columns.seal(SEED, None, None, NO_TIMESTAMP, count=0, last_offset_delta=9)
    sealed = sealed._replace(attributes=sealed.attributes | form)
    (b.path / "other").write_bytes(stamp(sealed, SEED, 0, 0, NOW) + sealed.payload)
    segment = Segment(b.disk, str(b.path), 0, SEED)
    segment.use_file(b.disk.open(str(b.path / "other"), writable=False))
    segment.make_active(walk(segment, sealed.length))
    assert (segment.stats.next_offset, segment.stats.min_timestamp, segment.stats.max_timestamp) == (10, -1, -1)
    assert segment.info().max_timestamp == NOW, "it is as old as its first append"
    (b.path / "other").unlink()


@pytest.mark.damaged
def test_a_walk_over_a_batch_whose_offsets_go_back_takes_the_log_no_further_back(box: MakeBox) -> None:
    b = box()
    b.append(b"one")
    first = b.log.tail.end_position
    b.append(b"two")
    b.log.release()
    (path,) = b.logs()
    path.write_bytes(path.read_bytes() + path.read_bytes()[:first])
    b.open(KILLED)
    assert b.log.tail.end_offset == 2
    assert b.append(b"three") == 2


@pytest.mark.damaged
@pytest.mark.parametrize("search", [1500, 2000, 1 << 18])
@pytest.mark.parametrize("size", [10, 1200, 1500, 2990, 100_000])
def test_behind_damage_of_any_size_the_next_batch_is_found(
    box: MakeBox, monkeypatch: pytest.MonkeyPatch, search: int, size: int
) -> None:
    monkeypatch.setattr(scan, "_SEARCH_BYTES", search)
    b = box()
    b.append(b"one")
    at = b.log.tail.end_position
    b.append(MAGIC * (size // 4))
    b.append(b"three")
    path = b.logs()[0]
    data = bytearray(path.read_bytes())
    data[at + 30] ^= 1
    path.write_bytes(data)
    b.reopen(KILLED)
    assert b.values(skip=True) == [b"one", b"three"]


def test_a_search_in_a_file_that_is_shorter_than_expected_ends(box: MakeBox) -> None:
    b = box()
    b.append(b"x")
    assert next_batch(b.log.tail.segments[0], 1, 1 << 40) is None
