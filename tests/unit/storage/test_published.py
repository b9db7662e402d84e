"""What other processes read about a partition, as 64 bytes: every field comes back, and other bytes are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlog.storage.published import (
    CLOSED,
    EMPTY,
    OPEN,
    SLOT_BYTES,
    Header,
    Slot,
    kept_slots,
    pack_header,
    pack_slot,
    parse_header,
    parse_slot,
)

U32, U64, OFFSET = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**63 - 1)
SLOT = Slot(11, 3, 1, 500, 480, 470, 20, 400, 9_000)


@given(U64, U32, U32, OFFSET, OFFSET, OFFSET, OFFSET, U32, U32)
def test_a_slot_comes_back_as_it_was(
    seed: int, generation: int, rewrites: int, end: int, high: int, stable: int, start: int, length: int, at: int
) -> None:
    slot = Slot(seed, generation, rewrites, end, high, stable, start, end - length, at)
    data = pack_slot(slot)
    assert len(data) == SLOT_BYTES
    assert parse_slot(data) == slot


@given(U64, st.sampled_from([0, OPEN, CLOSED]), U32)
def test_a_header_comes_back_as_it_was(incarnation: int, state: int, pid: int) -> None:
    header = Header(incarnation, state, pid)
    assert parse_header(pack_header(header) + pack_slot(SLOT)) == header


def test_counters_begin_anew_where_they_end() -> None:
    found = parse_slot(pack_slot(SLOT._replace(generation=2**32 + 5, rewrites=2**32)))
    assert found is not None
    assert found.shape == (5, 0)


@pytest.mark.parametrize("bit", range(8 * SLOT_BYTES))
def test_a_slot_with_a_flipped_bit_is_none(bit: int) -> None:
    for pack, parse in ((pack_slot(SLOT), parse_slot), (pack_header(Header(3, OPEN, 99)), parse_header)):
        data = bytearray(pack)
        data[bit // 8] ^= 1 << bit % 8
        assert parse(bytes(data)) is None  # type: ignore[operator]


@pytest.mark.parametrize("at", range(1, SLOT_BYTES))
def test_a_torn_slot_is_none_or_one_of_the_two(at: int) -> None:
    old, new = pack_slot(SLOT), pack_slot(SLOT._replace(end_offset=501, active_base=401, end_position=9_100))
    assert parse_slot(new[:at] + old[at:]) in (None, SLOT, parse_slot(new))


def test_what_was_kept_of_a_partition_is_for_the_owner_alone() -> None:
    mine, kept = SLOT, SLOT._replace(seed=12, end_offset=700, active_base=690)
    assert parse_slot(pack_slot(kept, kept=True)) is None
    data = pack_header(Header(3, OPEN, 99)) + EMPTY + pack_slot(mine) + pack_slot(kept, kept=True)
    assert kept_slots(data) == {11: mine, 12: kept}
    assert kept_slots(data[:-1]) == {11: mine}
    assert kept_slots(b"") == {}


def test_a_free_slot_a_short_one_and_a_file_of_another_version_are_none() -> None:
    assert parse_slot(EMPTY) is None
    assert parse_slot(pack_slot(SLOT)[:-1]) is None
    assert parse_header(b"") is None
    assert parse_header(EMPTY) is None
    assert parse_header(pack_slot(SLOT)) is None
