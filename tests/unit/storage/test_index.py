"""The sparse index: every lookup lands at or before what is looked for, and a file of another segment is not believed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlog.storage.index import HEADER_LEN, INTERVAL, Index, Stats, from_bytes, stats_from, to_bytes

SEED = 99
STATS = Stats(0, 40, 9000, 40, 1, 60, 5)
batches = st.lists(
    st.tuples(st.integers(1, 5), st.integers(100, 6000), st.integers(-1, 100)), max_size=60
)  # offsets, bytes, time


def built(shape: list[tuple[int, int, int]]) -> tuple[Index, list[tuple[int, int, int]]]:
    """An index of batches of this shape, and (base offset, position, time) of each."""
    index, places = Index(), []
    offset = position = 0
    for count, length, time in shape:
        index.add(offset, position, time)
        places.append((offset, position, time))
        offset, position = offset + count, position + length
    return index, places


@given(batches)
def test_an_offset_is_looked_for_from_at_most_one_interval_before_its_batch(shape: list[tuple[int, int, int]]) -> None:
    index, places = built(shape)
    for base, position, _ in places:
        start = index.position_for_offset(base)
        assert start <= position < start + INTERVAL or start == position
        assert start in [p for _, p, _ in places]


@given(batches, st.integers(0, 100))
def test_no_record_before_the_position_for_a_time_is_as_late(shape: list[tuple[int, int, int]], time: int) -> None:
    index, places = built(shape)
    start = index.position_for_time(time)
    late = [position for _, position, t in places if t >= time]
    if start is None:
        assert not late
    else:
        assert late and late[0] >= start


def test_times_that_go_back_hide_no_earlier_record() -> None:
    index, _ = built([(1, 5000, time) for time in (50, 10, 20, 60, 5)])
    assert [index.position_for_time(time) for time in (0, 15, 50, 51, 60, 61)] == [0, 0, 0, 15000, 15000, None]


@given(batches, st.integers(0, 60))
def test_what_is_cut_off_is_forgotten_and_added_again_alike(shape: list[tuple[int, int, int]], keep: int) -> None:
    index, places = built(shape)
    whole, _ = built(shape)
    kept = places[:keep]
    if keep < len(places):
        index.truncate(places[keep][1])
        for place in places[len(kept) :]:
            index.add(*place)
    assert (index.offsets, index.positions) == (whole.offsets, whole.positions)
    assert all(have >= need for have, need in zip(index.timestamps, whole.timestamps, strict=True))


@given(batches)
def test_a_stored_index_comes_back_as_it_was(shape: list[tuple[int, int, int]]) -> None:
    index, _ = built(shape)
    loaded = from_bytes(to_bytes(index, STATS, SEED), SEED)
    assert loaded is not None
    assert loaded[1] == STATS
    for name in ("offsets", "positions", "timestamps"):
        assert getattr(loaded[0], name) == getattr(index, name)


def test_an_index_with_any_byte_changed_is_not_believed() -> None:
    index, _ = built([(1, 5000, n) for n in range(4)])
    data = to_bytes(index, STATS, SEED)
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 0x10
        assert from_bytes(bytes(changed), SEED) is None
        if position < HEADER_LEN:
            assert stats_from(bytes(changed), SEED) is None


def test_an_index_that_is_cut_or_of_another_partition_is_not_believed() -> None:
    data = to_bytes(built([(1, 5000, n) for n in range(4)])[0], STATS, SEED)
    assert all(from_bytes(data[:n], SEED) is None for n in range(len(data)))
    assert from_bytes(data + b"\0", SEED) is not None, "what comes after the entries has a checksum of its own"
    assert from_bytes(data, SEED + 1) is None


@pytest.mark.parametrize("method", ["position_for_offset", "position_for_time"])
def test_an_empty_index_points_at_the_start_or_at_nothing(method: str) -> None:
    assert getattr(Index(), method)(5) == (0 if method == "position_for_offset" else None)
