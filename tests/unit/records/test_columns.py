"""Columns: what is sealed comes out again, absent columns filled in, and nothing hostile costs more than an error."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlog.records import columns
from streamlog.records.batch import (
    LOG_APPEND_TIME,
    TRANSACTIONAL,
    SealedBatch,
    directory_of,
    hash_payload,
    read_header,
    seed_of,
    stamp,
)
from streamlog.records.columns import (
    HEADERS,
    KEYS,
    OFFSETS,
    TIMESTAMPS,
    VALUES,
    BatchColumns,
    buffers,
    records_of,
    seal,
)
from streamlog.records.single import SequencedRecord, encode_one
from streamlog.types import Record

SEED = seed_of(bytes(16), 0)
BASE = 100

blobs = st.one_of(st.none(), st.binary(max_size=40))
header_lists = st.lists(st.tuples(st.text(max_size=5), blobs), max_size=3).map(tuple)
rows = st.lists(st.tuples(blobs, blobs, st.integers(0, 2**45), header_lists), min_size=1, max_size=20)


def opened(sealed: SealedBatch, base: int = BASE, now: int = 5) -> BatchColumns:
    data = stamp(sealed, SEED, base, 0, now) + sealed.payload
    return BatchColumns(data, 0, read_header(data, 0, SEED, "x.log", 0))


def kinds(sealed: SealedBatch) -> list[int]:
    return [sealed.directory[1 + 5 * n] for n in range(sealed.directory[0])]


@given(rows, st.sampled_from([0, 1, 2, 3, 4]))
def test_what_is_sealed_comes_out_again(rows: list[tuple[Any, ...]], codec: int) -> None:
    keys, values, times, headers = (list(column) for column in zip(*rows, strict=True))
    full = opened(seal(SEED, keys, values, times, headers, count=len(rows), codec=codec)).all()
    assert list(full.offsets) == list(range(BASE, BASE + len(rows)))
    assert list(full.timestamps) == times
    assert (list(full.keys), list(full.values), list(full.headers)) == (keys, values, headers)


@given(rows, st.data())
def test_records_are_built_from_any_index_on(rows: list[tuple[Any, ...]], data: st.DataObject) -> None:
    keys, values, times, headers = (list(column) for column in zip(*rows, strict=True))
    gaps = sorted(data.draw(st.sets(st.integers(0, 50), min_size=len(rows), max_size=len(rows))))
    skip = data.draw(st.integers(0, len(rows)))
    sealed = seal(
        SEED, keys, values, times, headers, count=len(rows), offset_deltas=gaps, last_offset_delta=gaps[-1] + 3
    )
    expected = [
        Record("t", 2, BASE + gap, time, key, value, headers)
        for gap, (key, value, time, headers) in zip(gaps, rows, strict=True)
    ]
    assert list(records_of(Record, "t", 2, opened(sealed), skip)) == expected[skip:]


@pytest.mark.parametrize("size", [0, 1, 31, 32, 254, 255, 256, 257, 65_535, 65_536])
@pytest.mark.parametrize("other", [0, 300])
def test_a_single_record_is_encoded_as_sealing_and_stamping_would_do_it(size: int, other: int) -> None:
    key, value = b"k" * other, b"v" * size
    sealed = seal(SEED, [key], [value], 1000, count=1)
    one = encode_one(SEED, key, value, 1000, BASE, 3, 2000)
    assert one == stamp(sealed, SEED, BASE, 3, 2000) + sealed.payload


@pytest.mark.parametrize("transactional", [False, True])
@pytest.mark.parametrize("key", [None, b"k"])
def test_a_single_record_carries_its_producer_as_a_batch_does(key: bytes | None, transactional: bool) -> None:
    keys = None if key is None else [key]
    sealed = seal(SEED, keys, [b"v"], 1000, count=1).sequenced(7, 2, 5, transactional=transactional)
    sequenced = SequencedRecord(7, 2, 5, TRANSACTIONAL if transactional else 0)
    one = encode_one(SEED, key, b"v", 1000, BASE, 3, 2000, *sequenced)
    assert one == stamp(sealed, SEED, BASE, 3, 2000) + sealed.payload


def test_columns_that_say_nothing_are_left_out() -> None:
    assert kinds(seal(SEED, None, None, 5, count=3)) == []
    assert kinds(seal(SEED, [b"k"] * 2, [b"v"] * 2, [7, 7], count=2)) == [KEYS, VALUES]
    everything = seal(
        SEED, [b"k"] * 2, [b"v"] * 2, [7, 8], [(), ()], count=2, offset_deltas=[0, 4], last_offset_delta=4
    )
    assert kinds(everything) == [OFFSETS, TIMESTAMPS, KEYS, VALUES, HEADERS]
    full = opened(seal(SEED, None, None, 5, count=3)).all()
    assert full == (range(BASE, BASE + 3), [5] * 3, [None] * 3, [None] * 3, [()] * 3)


def test_an_empty_batch_covers_its_offsets_and_holds_nothing() -> None:
    opened_ = opened(seal(SEED, [], None, (), count=0, offset_deltas=[], last_offset_delta=9))
    assert (opened_.header.last_offset, opened_.header.max_timestamp) == (BASE + 9, -1)
    assert [list(column) for column in opened_.all()] == [[], [], [], [], []]
    assert list(records_of(Record, "t", 0, opened_)) == []


def test_under_log_append_time_every_record_has_the_time_of_the_append() -> None:
    made = opened(seal(SEED, None, [b"a", b"b"], [1, 9], count=2, attributes=LOG_APPEND_TIME), now=77)
    assert made.timestamps() is None
    assert made.timestamps_full() == [77, 77]
    assert [record.timestamp for record in records_of(Record, "t", 0, made)] == [77, 77]


def test_a_compressed_batch_says_how_long_it_was() -> None:
    plain = seal(SEED, [b"k"] * 9, [b"v" * 100] * 9, 5, count=9)
    assert plain.uncompressed_len == len(plain.payload)
    packed = seal(SEED, [b"k"] * 9, [b"v" * 100] * 9, 5, count=9, codec=1)
    assert packed.uncompressed_len == plain.uncompressed_len
    assert len(packed.payload) < len(plain.payload)


def test_reading_one_column_does_not_decode_another() -> None:
    sealed = seal(SEED, [b"k"], [b"v"], 5, count=1)
    broken = sealed.payload[:-2] + b"\xc1\xc1"
    made = opened(sealed._replace(payload=broken, payload_hash=hash_payload(broken, SEED)))
    assert made.keys() == [b"k"]
    with pytest.raises(ValueError, match=r"."):
        made.values()


def hostile(kind: int, data: bytes, codec: int = 0, count: int = 2) -> BatchColumns:
    sealed = seal(SEED, None, None, 5, count=count, last_offset_delta=1)._replace(
        payload=data, payload_hash=hash_payload(data, SEED), directory=directory_of([(kind, len(data))]),
        attributes=codec << 4,
    )  # fmt: skip
    return opened(sealed)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x93",
        b"\xdd\xff\xff\xff\xff",
        b"\xdc\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x91" * 5000,
        msgpack.packb([b"a"]),
        msgpack.packb([b"a"] * 3),
        msgpack.packb([b"a"] * 2) + b"\0",
        msgpack.packb({"a": 1, "b": 2}),
        msgpack.packb(2),
        msgpack.packb(msgpack.ExtType(5, b"x")),
        b"\x92\xd5\x05\x00\x00\xc0",
        b"\x92\xd6\xff\x00\x00\x00\x00\xc0",
        b"\x92\xa1\xff\xa1\xff",
        b"\x92\xc7\x00\x05\xc0",
    ],
    ids=range(17),
)
@pytest.mark.parametrize("kind", [OFFSETS, TIMESTAMPS, KEYS, VALUES, HEADERS])
def test_a_hostile_column_is_a_value_error(kind: int, data: bytes) -> None:
    made = hostile(kind, data)
    with pytest.raises((ValueError, TypeError)):
        made.all()


@given(st.binary(max_size=60), st.sampled_from([0, 1, 2, 3, 4]), st.sampled_from([OFFSETS, TIMESTAMPS, KEYS, HEADERS]))
def test_random_bytes_for_a_column_are_decoded_or_refused(data: bytes, codec: int, kind: int) -> None:
    try:
        hostile(kind, data, codec).all()
    except (ValueError, TypeError):
        return


def test_a_compressed_column_that_claims_too_much_room_is_refused() -> None:
    with pytest.raises(ValueError, match="uncompressed"):
        hostile(VALUES, (2**32 - 1).to_bytes(4, "little") + b"x", codec=1).values()


def test_the_largest_column_allowed_is_a_gibibyte() -> None:
    assert columns.MAX_UNCOMPRESSED == 1 << 30


@st.composite
def tricky_columns(draw: st.DrawFn) -> list[bytes | None]:
    """Columns of one width, or of widths whose mean is one, whose entries look like the beginnings of others."""
    width = draw(st.integers(0, 12))
    one = st.lists(st.sampled_from([0xC4, width, 0, 1]), min_size=width, max_size=width).map(bytes)
    column: list[bytes | None] = draw(st.lists(one, min_size=16, max_size=40))
    for _ in range(draw(st.integers(0, 3))):
        at, other = draw(st.integers(0, len(column) - 1)), draw(st.integers(0, len(column) - 1))
        column[at], column[other] = (
            bytes([0xC4, width] * 10)[: width + 2],
            bytes([0xC4, width] * 10)[: max(0, width - 2)],
        )
    if draw(st.booleans()):
        column[draw(st.integers(0, len(column) - 1))] = None
    return column


@given(tricky_columns(), st.data())
def test_a_few_entries_are_the_same_as_those_of_the_whole_column(
    column: list[bytes | None], data: st.DataObject
) -> None:
    low = data.draw(st.integers(0, len(column) - 1))
    high = data.draw(st.integers(low + 1, len(column)))
    batch = opened(seal(SEED, column, column, 7, count=len(column)))
    assert list(batch.some(KEYS, low, high)) == column[low:high]
    assert list(batch.some(VALUES, low, high)) == column[low:high]
    records = list(records_of(Record, "t", 0, batch, low, high))
    assert [(r.offset, r.key, r.value) for r in records] == [(BASE + n, column[n], column[n]) for n in range(low, high)]


def test_a_column_whose_array_claims_another_count_is_refused_for_a_few_entries_too() -> None:
    column = msgpack.packb([b"12345678"] * 20)
    lying = b"\xdc\x00\x13" + column[3:]
    directory = directory_of([(VALUES, len(lying))])
    sealed = SealedBatch(lying, hash_payload(lying, SEED), directory, 0, 20, 19, 7, 7, 0, len(lying))
    with pytest.raises(ValueError):
        opened(sealed).some(VALUES, 5, 6)


# -- as Arrow has a column -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "validity", "offsets", "data"),
    [
        ([b"a", b"", b"bc"], None, [0, 1, 1, 3], b"abc"),
        ([None, b"a", None], b"\x02", [0, 0, 1, 1], b"a"),
        ([b"a"] * 8 + [None, b"b"], b"\xff\x02", [*range(9), 8, 9], b"a" * 8 + b"b"),
        ([None], b"\x00", [0, 0], b""),
        ([], None, [0], b""),
    ],
)
def test_the_buffers_of_a_column(column: Any, validity: bytes | None, offsets: list[int], data: bytes) -> None:
    found = buffers(column)
    assert (found[0], memoryview(found[1]).cast("q").tolist(), found[2]) == (validity, offsets, data)
