"""The core in C gives the bytes and the records of its twins in Python, and takes nothing that they would refuse."""

from __future__ import annotations

import copy
import gc
import operator
import pickle
import random
import struct
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlog.broker.fetched import FetchResult
from streamlog.errors import CorruptRecordError
from streamlog.records import batch as batches_module
from streamlog.records import columns, kafka_v2, single
from streamlog.records.batch import (
    LOG_APPEND_TIME,
    TRANSACTIONAL,
    SealedBatch,
    directory_of,
    find_batch,
    hash_payload,
    python_end_of_whole_batches,
    seed_of,
    stamp,
)
from streamlog.records.columns import HEADERS, KEYS, OFFSETS, VALUES, records_of
from streamlog.records.core import core
from streamlog.storage.tail import FetchData
from streamlog.types import Record
from tests.kafka_batches import Row, kafka_batch, kafka_payload

pytestmark = pytest.mark.skipif(core is None, reason="the core in C was not built, or STREAMLOG_PURE=1 leaves it out")

SEED = seed_of(bytes(16), 0)
BASE = 1 << 40
NOW = 1_795_000_000_000
ANY_EPOCH = -1

sizes = st.sampled_from([0, 1, 31, 32, 255, 256, 65_535, 65_536])
entries = st.one_of(st.none(), st.binary(max_size=40), sizes.map(bytes))
timestamps = st.one_of(
    st.integers(0, 300), st.sampled_from([127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**62])
)
rows = st.lists(st.tuples(entries, entries, timestamps), min_size=1, max_size=20)


def python_seal(*args: Any, **kwargs: Any) -> SealedBatch:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "core", None)
        return columns.seal(*args, **kwargs)


def whole(column: Sequence[Any]) -> Sequence[Any] | None:
    return None if all(entry is None for entry in column) else column


def stored(sealed: SealedBatch, base: int = BASE, epoch: int = 3) -> bytes:
    return stamp(sealed, SEED, base, epoch, NOW) + sealed.payload


def by_python(data: bytes, position: int = 0) -> list[Record[Any, Any]]:
    """What the twin in Python makes of a chunk of batches. Raises CorruptRecordError."""
    found: list[Record[Any, Any]] = []
    for batch in FetchResult(FetchData(data, SEED, "x.log", 0), 0, 0).batches():
        try:
            found += records_of(Record, "t", 4, batch.columns)
        except (ValueError, TypeError) as error:
            raise batch.damaged(error) from error
    return [record for record in found if record.offset >= position]


def reader(data: bytes, position: int = 0, at: int = 0, epoch: int = ANY_EPOCH, hides: bool = False) -> Any:
    return core.RecordReader(data, at, position, SEED, Record, "t", 4, epoch, hides)


def by_core(data: bytes, position: int = 0, **how: Any) -> list[Record[Any, Any]]:
    out: list[Record[Any, Any]] = []
    reader(data, position, **how).take(out, 1 << 30)
    return out


@given(rows, st.booleans(), st.booleans(), st.sampled_from([list, tuple]))
def test_seals_the_bytes_of_its_twin(rows: list[Any], at_one_time: bool, log_append: bool, kind: Any) -> None:
    keys, values, times = (kind(column) for column in zip(*rows, strict=True))
    taken = times[0] if at_one_time else times
    attributes = LOG_APPEND_TIME if log_append else 0
    args = (SEED, whole(keys), whole(values), taken)
    assert columns.seal(*args, count=len(rows), attributes=attributes) == python_seal(
        *args, count=len(rows), attributes=attributes
    )


def packed(rows: Sequence[Any]) -> Any:
    made = core.PackedRows()
    for index, row in enumerate(rows):
        assert made.append(row) == index
    return made


@given(rows, st.booleans(), st.booleans())
def test_seals_packed_rows_as_its_twin_seals_their_columns(rows: list[Any], at_one_time: bool, late: bool) -> None:
    keys, values, times = (list(column) for column in zip(*rows, strict=True))
    if at_one_time:
        times = times[:1] * len(rows)
    of = packed(
        [*zip(keys, values, times, strict=True), *([(b"too late", b"for this batch", 1 << 50)] if late else [])]
    )
    made = columns.seal_rows(SEED, of, len(rows), LOG_APPEND_TIME)
    assert made is not None
    sealed, found = made
    assert sealed == python_seal(SEED, whole(keys), whole(values), times, count=len(rows), attributes=LOG_APPEND_TIME)
    assert found == (times if len(set(times)) > 1 else times[0])


@given(st.lists(st.tuples(entries, entries, st.integers(-(2**63), 2**63 - 1)), max_size=20), st.data())
def test_packed_rows_are_a_sequence_of_rows(rows: list[Any], data: st.DataObject) -> None:
    if rows and data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(rows) - 1))
        rows[at] = (*rows[at], (("h", b"1"), ("h", None)))
    made = packed(rows)
    assert len(made) == len(rows)
    assert made[:] == rows
    low, high = data.draw(st.integers(-25, 25)), data.draw(st.integers(-25, 25))
    assert made[low:high] == rows[low:high]
    for index in (*range(len(rows)), *range(-len(rows), 0)):
        assert made[index] == rows[index]
    for index in (len(rows), -len(rows) - 1):
        with pytest.raises(IndexError):
            made[index]


WITH_HEADERS = (b"k", b"v" * 3000, 2, (("h", b"1"),))


def test_row_that_joins_while_another_is_added_has_no_headers_of_it() -> None:
    """A garbage collection within `append` lets a finalizer append to the same batch."""

    class Sends:
        def __init__(self) -> None:
            self.myself = self

        def __del__(self) -> None:
            rows.append((b"other", b"other", 1))

    taken: list[Any] = []
    for threshold in range(1, 50):
        rows = core.PackedRows()
        gc.disable()
        gc.collect()
        before = gc.get_threshold()
        Sends()
        taken += [
            {} for _ in range(100)
        ]  # of which the interpreter keeps some for later: an append has to allocate one
        try:
            gc.set_threshold(threshold)
            gc.enable()
            index = rows.append(WITH_HEADERS)
        finally:
            gc.disable()
            gc.set_threshold(*before)
            gc.enable()
        assert rows[index] == WITH_HEADERS
        assert all(len(row) == 3 for at, row in enumerate(rows[:]) if at != index)


def test_row_that_found_no_memory_leaves_nothing_behind() -> None:
    hooks = pytest.importorskip("_testcapi")
    failed = 0
    for nth in range(20):
        rows = core.PackedRows()
        rows.append((b"first", None, 1))
        hooks.set_nomemory(nth, nth + 1)
        try:
            rows.append(WITH_HEADERS)
        except MemoryError:
            failed += 1
        finally:
            hooks.remove_mem_hooks()
        if len(rows) == 1:
            assert rows.append((b"next", b"next", 3)) == 1
            assert rows[:] == [(b"first", None, 1), (b"next", b"next", 3)]
    assert failed > 1


@pytest.mark.parametrize(
    "row",
    [
        (b"k", b"v"),
        (b"k", b"v", 1, (), ()),
        [b"k", b"v", 1],
        (b"k", bytearray(b"v"), 1),
        ("k", b"v", 1),
        (b"k", b"v", 1 << 63),
        (b"k", b"v", 1.0),
    ],
)
def test_refuses_what_is_no_row(row: Any) -> None:
    made = packed([(b"k", b"v", 1)])
    with pytest.raises((TypeError, OverflowError)):
        made.append(row)
    assert made[:] == [(b"k", b"v", 1)]


@pytest.mark.parametrize(
    ("rows", "count"),
    [
        ([], 0),
        ([(b"k", b"v", 1)], 0),
        ([(b"k", b"v", 1)], 2),
        ([(b"k", b"v", 1), (b"k", b"v", 1, (("h", b"1"),))], 2),
        ([(b"k", b"v", 1), (b"k", b"v", -1)], 2),
    ],
)
def test_leaves_to_its_twin_rows_that_are_not_usual(rows: Any, count: int) -> None:
    assert packed(rows).seal(SEED, count) is None


@pytest.mark.parametrize("count", [1, 15, 16, 65_535, 65_536])
def test_seals_the_bytes_of_its_twin_at_every_size_of_an_array(count: int) -> None:
    keys, values = [b"k"] * count, [None, *[b"v"] * (count - 1)]
    times = [NOW + at for at in range(count)]
    assert columns.seal(SEED, keys, values, times, count=count) == python_seal(SEED, keys, values, times, count=count)


class _Bytes(bytes):
    """What a program may send, and is not quite bytes."""


@pytest.mark.parametrize(
    ("keys", "values", "times"),
    [
        ([bytearray(b"k")], [b"v"], NOW),
        ([b"k"], [memoryview(b"v")], NOW),
        ([_Bytes(b"k")], [b"v"], NOW),
        ([b"k"], [b"v"], [True]),
        ([b"k"], [b"v"], 1 << 64),
        ([b"k"], [b"v"], [1 << 64]),
        ([b"k"], [b"v"], [-1]),
        ([b"k", b"l"], [b"v"], NOW),
        ([], [], NOW),
    ],
)
def test_leaves_to_its_twin_what_it_does_not_know(keys: Any, values: Any, times: Any) -> None:
    assert core.seal(SEED, keys, values, times, len(values)) is None


@given(
    st.one_of(st.none(), entries.filter(lambda entry: entry is not None)),
    entries.filter(lambda entry: entry is not None),
    st.sampled_from([(), (7, 3, 2**31 - 1, 0), (2**62, 2**15 - 1, 0, TRANSACTIONAL)]),
    st.sampled_from([bytes, bytearray, memoryview]),
)
def test_encodes_one_record_as_its_twin(key: bytes | None, value: bytes, sequenced: Any, kind: Any) -> None:
    args = (SEED, key, kind(value), NOW - 1, BASE, 3, NOW, *sequenced)
    assert core.encode_one(*args) == single.python_encode_one(*args)


@pytest.mark.parametrize(
    "wrong", [(SEED, "text", b"v"), (SEED, None, "text"), (SEED, None, None), ("seed", None, b"v")]
)
def test_refuses_what_is_not_bytes(wrong: Any) -> None:
    with pytest.raises(TypeError):
        core.encode_one(*wrong, NOW, BASE, 3, NOW)


@given(st.lists(rows, min_size=1, max_size=3), st.data())
def test_gives_the_records_of_its_twin_however_they_are_taken(chunks: list[Any], data: st.DataObject) -> None:
    base, chunk = BASE, b""
    for each in chunks:
        keys, values, times = (list(column) for column in zip(*each, strict=True))
        chunk += stored(columns.seal(SEED, whole(keys), whole(values), times, count=len(each)), base)
        base += len(each) + data.draw(st.sampled_from([0, 5]))
    position = data.draw(st.integers(BASE - 1, base))
    expected = by_python(chunk, position)
    assert by_core(chunk, position) == expected
    taken: list[Record[Any, Any]] = []
    source = reader(chunk, position)
    while True:
        n = data.draw(st.integers(1, 5))
        before = len(taken)
        assert source.take(taken, n) == len(taken) - before <= n
        if len(taken) - before < n:
            break
        # Another reader goes on where this one is.
        assert by_core(chunk, source.position, at=source.at) == expected[len(taken) :]
    assert (taken, source.at) == (expected, len(chunk))
    assert [type(record) for record in taken] == [Record] * len(taken)


def test_gives_the_append_time_where_the_topic_has_that() -> None:
    sealed = columns.seal(SEED, None, [b"a", b"b"], [5, 9], count=2, attributes=LOG_APPEND_TIME)
    assert [record.timestamp for record in by_core(stored(sealed))] == [NOW, NOW]
    assert by_core(stored(sealed)) == by_python(stored(sealed))


def usual(base: int = BASE, epoch: int = 3, **how: Any) -> bytes:
    return stored(columns.seal(SEED, [b"k1", None], [b"v1", b"v2"], NOW, count=2, **how), base, epoch)


@pytest.mark.parametrize(
    "batch",
    [
        usual(codec=1),
        usual(headers=[(("h", b"1"),), ()]),
        stored(columns.seal(SEED, None, [b"a", b"b"], NOW, count=2, offset_deltas=[0, 2], last_offset_delta=2)),
        stored(columns.seal(SEED, None, None, -1, count=0, last_offset_delta=4)),
        usual(attributes=1 << 10),
    ],
    ids=["compressed", "headers", "gaps", "empty", "control"],
)
def test_stops_before_a_batch_that_is_not_usual(batch: bytes) -> None:
    source = reader(usual() + batch + usual(BASE + 9))
    out: list[Any] = []
    assert source.take(out, 100) == len(out) == 2
    assert (source.at, source.position, source.is_inside) == (len(usual()), BASE + 2, False)
    assert source.take(out, 100) == 0


def test_leaves_transactional_batches_to_python_where_some_may_have_to_be_hidden() -> None:
    batch = usual(attributes=TRANSACTIONAL)
    assert by_core(batch, hides=True) == []
    assert by_core(batch, hides=False) == by_python(batch)


def test_stops_where_another_leader_epoch_begins() -> None:
    data = usual(BASE, 3) + usual(BASE + 2, 4)
    assert len(by_core(data, epoch=3)) == 2
    assert len(by_core(data, epoch=4)) == 0
    assert len(by_core(data)) == 4


def test_no_flipped_bit_is_served() -> None:
    first, batch = usual(), stored(columns.seal(SEED, [b"k", b"l"], [b"v", b"w"], [1, 200], count=2), BASE + 2)
    expected = by_python(first)
    for at in range(len(batch)):
        for bit in range(8):
            flipped = bytearray(batch)
            flipped[at] ^= 1 << bit
            data = first + bytes(flipped)
            assert by_core(data) == expected, (at, bit)
            with pytest.raises(CorruptRecordError):
                by_python(data)


def test_no_truncation_is_served_and_none_is_read_past_its_end() -> None:
    batch = usual()
    for length in range(len(batch)):
        assert by_core(batch[:length]) == []


def forged(entries: Sequence[tuple[int, bytes]], count: int) -> bytes:
    """A batch whose checksums are right, whatever its columns are."""
    payload = b"".join(column for _, column in entries)
    directory = directory_of([(kind, len(column)) for kind, column in entries])
    sealed = SealedBatch(
        payload, hash_payload(payload, SEED), directory, 0, count, count - 1, NOW, NOW, 0, len(payload), seed=SEED
    )
    return stored(sealed)


@pytest.mark.parametrize(
    ("entries", "count"),
    [
        ([(VALUES, b"\x91\xc4\x01a")], 2),
        ([(VALUES, b"\x92\xc4\x01a\xc4\x05b")], 2),
        ([(VALUES, b"\x92\xc4\x01a\xc6\xff\xff\xff\xffb")], 2),
        ([(VALUES, b"\x92\xc4\x01a")], 2),
        ([(VALUES, b"\x91\xc4\x01a\x00")], 1),
        ([(VALUES, b"\x91\xa1a")], 1),
        ([(VALUES, b"\x91\x07")], 1),
        ([(VALUES, b"\xdd\xff\xff\xff\xff")], 1),
        ([(VALUES, b"")], 1),
        ([(VALUES, b"\xdc\x00")], 1),
        ([(KEYS, b"\x91\xc4\x01a"), (KEYS, b"\x91\xc4\x01b")], 1),
        ([(KEYS, b"\x91\xc4\x01a"), (99, b"\x91\xc4\x01b")], 1),
        ([(2, b"\x91\xff"), (VALUES, b"\x91\xc4\x01b")], 1),
        ([(2, b"\x91\xcf\xff\xff\xff\xff\xff\xff\xff\xff"), (VALUES, b"\x91\xc4\x01b")], 1),
        ([(2, b"\x91\xcf\x00"), (VALUES, b"\x91\xc4\x01b")], 1),
        ([(2, b"\x91\xcd\x00"), (VALUES, b"\x91\xc4\x01b")], 1),
        ([(HEADERS, b"\x91\x90"), (OFFSETS, b"\x91\x00"), (KEYS, b"\x91\xc0"), (VALUES, b"\x91\xc0")], 1),
    ],
)
def test_nothing_of_a_forged_batch_is_served(entries: Any, count: int) -> None:
    assert by_core(forged(entries, count)) == []


def test_never_gives_records_that_its_twin_does_not_whatever_the_columns() -> None:
    """Random columns with right checksums: what the core serves, Python serves too."""
    rng = random.Random(20261130)
    served = 0
    for _ in range(3000):
        count = rng.choice([1, 2, 3, 15, 16])
        column = columns.seal(SEED, None, [rng.randbytes(rng.choice([0, 1, 5])) for _ in range(count)], 0, count=count)
        payload = bytearray(column.payload)
        for _ in range(rng.choice([0, 1, 1, 2])):
            payload[rng.randrange(len(payload))] = rng.randrange(256)
        batch = forged([(rng.choice([KEYS, VALUES]), bytes(payload))], count)
        records = by_core(batch)
        if records:
            assert records == by_python(batch)
            served += 1
    assert 300 < served < 3000


class Undecided:
    def __bool__(self) -> bool:
        raise ValueError("neither")


@pytest.mark.parametrize(
    "wrong",
    [
        {"at": -1},
        {"position": -1},
        {"record_type": list},
        {"record_type": type("Wider", (tuple,), {})},
        {"topic": b"t"},
        {"seed": "x"},
        {"data": "text"},
        {"hides": Undecided()},
        {"one_more": 1},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_reader_is_not_made_of_anything_else(wrong: dict[str, Any]) -> None:
    usual_arguments = {
        "data": usual(), "at": 0, "position": 0, "seed": SEED, "record_type": Record, "topic": "t", "partition": 4,
        "leader_epoch": ANY_EPOCH, "hides": False,
    }  # fmt: skip
    core.RecordReader(*usual_arguments.values())
    with pytest.raises((TypeError, ValueError)):
        core.RecordReader(*(usual_arguments | wrong).values())
    with pytest.raises(TypeError):
        core.RecordReader(**usual_arguments)


def test_what_is_given_outlives_its_reader_and_its_bytes() -> None:
    data = bytearray(usual())
    out: list[Record[Any, Any]] = []
    source = reader(data)  # type: ignore[arg-type]
    source.take(out, 10)
    del source
    data[:] = bytes(len(data))  # the buffer is released, and what was given is a copy
    assert [(record.key, record.value) for record in out] == [(b"k1", b"v1"), (None, b"v2")]


def columns_by_core(data: bytes, position: int = 0) -> Any:
    return reader(data, position).next_batch()


def bytes_of(buffers: Any) -> Any:
    """What is in the buffers of a column, however they are made."""
    validity, offsets, data = buffers
    return validity, memoryview(offsets).tobytes(), bytes(data)


@given(rows)
def test_columns_are_those_of_its_twin(rows: list[Any]) -> None:
    keys, values, times = (list(column) for column in zip(*rows, strict=True))
    data = stored(columns.seal(SEED, whole(keys), whole(values), times, count=len(rows)))
    found = columns_by_core(data)
    twin = next(FetchResult(FetchData(data, SEED, "x.log", 0), 0, 0).batches()).columns
    assert (found.offsets(), found.timestamps()) == (twin.offsets(), twin.timestamps_full())
    assert (found.base_offset, found.next_offset, found.record_count) == (BASE, BASE + len(rows), len(rows))
    for mine, its, buffers in (
        (found.keys(), twin.keys(), found.key_buffers()),
        (found.values(), twin.values(), found.value_buffers()),
    ):
        assert mine == its
        if its is None:
            continue
        assert its == mine and (mine != its) is False and len(mine) == len(its) and list(mine) == its
        assert [mine[at] for at in range(-len(its), len(its))] == its + its
        assert (mine[1:], mine[::-2], mine[-3:2]) == (its[1:], its[::-2], its[-3:2])
        assert (mine.index(its[-1]), mine.count(its[-1])) == (its.index(its[-1]), its.count(its[-1]))
        assert list(reversed(mine)) == its[::-1] and its[0] in mine and b"not in it" not in mine
        assert repr(mine) == repr(its)
        assert pickle.loads(pickle.dumps(mine)) == its == copy.copy(mine)
        assert columns.buffers(mine) == columns.buffers(its)
        assert bytes_of(buffers) == columns.buffers(its)
        assert mine == found.keys() or mine == found.values()


def test_a_column_is_a_sequence_and_refuses_what_a_list_refuses() -> None:
    column = columns_by_core(usual()).keys()
    assert isinstance(column, Sequence)
    for wrong in (2, -3, 1 << 70):
        with pytest.raises(IndexError):
            column[wrong]
    with pytest.raises(TypeError):
        column["k1"]
    with pytest.raises(TypeError):
        hash(column)
    with pytest.raises(ValueError, match="not in list"):
        column.index(b"none of them")
    with pytest.raises(TypeError):
        type(column)()
    assert column != (b"k1", None)


def test_a_column_outlives_its_batch_and_its_reader() -> None:
    data = stored(columns.seal(SEED, None, [b"%d" % at for at in range(1000)], NOW, count=1000))
    column = columns_by_core(data).values()
    entries = iter(column)
    assert operator.length_hint(entries) == 1000
    del data
    assert (column[999], column[0], sum(map(len, column))) == (b"999", b"0", 2890)
    del column
    assert list(entries)[-1] == b"999"


def test_batches_come_whole_and_in_order_up_to_the_one_that_python_has_to_look_at() -> None:
    data = usual() + usual(BASE + 2) + usual(BASE + 4, codec=1) + usual(BASE + 6)
    source = reader(data, BASE)
    assert [source.next_batch().base_offset for _ in range(2)] == [BASE, BASE + 2]
    assert (source.next_batch(), source.position, source.at) == (None, BASE + 4, 2 * len(usual()))
    assert taken_batches(data, 100) == ([BASE, BASE + 2], 4, 2 * len(usual()), BASE + 4)


def taken_batches(data: bytes, n: int, exactly: bool = False, position: int = BASE) -> tuple[list[int], int, int, int]:
    """The base offsets of what `take_batches` gives, how many records it says, and where the reader is then."""
    source = reader(data, position)
    out: list[tuple[Any, str]] = []
    taken = source.take_batches(out, n, exactly, lambda made, context: (made, context), "as it was given")
    assert {context for _, context in out} <= {"as it was given"}
    assert sum(made.record_count for made, _ in out) == taken
    return [made.base_offset for made, _ in out], taken, source.at, source.position


@pytest.mark.parametrize(
    ("n", "exactly", "given"), [(1, False, 1), (2, False, 1), (3, False, 2), (2, True, 1), (4, True, 2), (9, True, 3), (0, False, 0)]
)  # fmt: skip
def test_as_many_batches_are_taken_as_make_the_records_that_are_wanted(n: int, exactly: bool, given: int) -> None:
    data = usual() + usual(BASE + 2) + usual(BASE + 4)
    offsets = [BASE + 2 * at for at in range(given)]
    assert taken_batches(data, n, exactly) == (offsets, 2 * given, given * len(usual()), BASE + 2 * given)


def test_batches_that_were_taken_stay_where_making_one_fails() -> None:
    source, out, calls = reader(usual() + usual(BASE + 2), BASE), [], []  # type: ignore[var-annotated]

    def make(made: Any, context: None) -> Any:
        calls.append(made)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return made

    with pytest.raises(KeyboardInterrupt):
        source.take_batches(out, 100, False, make, None)
    assert out == calls[:1]


@pytest.mark.parametrize(
    "wrong", [((), 1, False, len, 0), ([], "1", False, len, 0), ([], 1, 0, len, 0), ([], 1, False, len)]
)
def test_batches_are_not_taken_with_other_arguments(wrong: Any) -> None:
    with pytest.raises(TypeError):
        reader(usual()).take_batches(*wrong)


def test_a_batch_of_which_records_were_taken_gives_no_columns() -> None:
    source = reader(usual(), BASE)
    source.take([], 1)
    assert (source.is_inside, source.next_batch()) == (True, None)


@given(st.lists(st.tuples(rows, st.booleans()), min_size=1, max_size=3), st.data())
def test_batches_are_cut_where_reading_begins_and_where_there_are_enough(
    chunks: list[Any], data: st.DataObject
) -> None:
    base, chunk = BASE, b""
    for each, is_kafka in chunks:
        keys, values, times = (list(column) for column in zip(*each, strict=True))
        if is_kafka:
            chunk += kafka([Row(time, key, value) for key, value, time in each], base)
        else:
            chunk += stored(columns.seal(SEED, whole(keys), whole(values), times, count=len(each)), base)
        base += len(each)
    position = data.draw(st.integers(BASE - 1, base))
    expected = by_python(chunk, position)
    source, got = reader(chunk, position), []  # type: ignore[var-annotated]
    while True:
        out: list[Any] = []
        n = data.draw(st.integers(1, 25))
        taken = source.take_batches(out, n, True, lambda made, context: made, None)
        assert taken == sum(made.record_count for made in out) <= n
        for made in out:
            offsets, times, keys, values = columns_of(made)
            assert (made.base_offset, made.next_offset) == (offsets[0], offsets[-1] + 1)
            for column, buffers in ((keys, made.key_buffers()), (values, made.value_buffers())):
                assert buffers is None or bytes_of(buffers) == columns.buffers(column)
            got += [Record("t", 4, *each, ()) for each in zip(offsets, times, keys, values, strict=True)]
        if taken < n:
            break
        assert by_core(chunk, source.position, at=source.at) == expected[len(got) :]
    assert (got, source.at) == (expected, len(chunk))


@pytest.mark.parametrize("width", [0, 1, 14, 15, 16, 17, 100, 255, 256])
@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 40])
@pytest.mark.parametrize(
    "odd", [(), (None,), (b"",), (b"another width",)], ids=["even", "nil", "empty", "another width"]
)
def test_buffers_and_columns_are_right_whatever_the_widths(width: int, count: int, odd: Any) -> None:
    rng = random.Random(width * 100 + count)
    entries = [*(rng.randbytes(width) for _ in range(count)), *odd]
    for order in (entries, entries[::-1]):
        found = columns_by_core(stored(columns.seal(SEED, order, order, NOW, count=len(order))))
        assert list(found.keys()) == [found.values()[at] for at in range(len(order))] == order
        assert bytes_of(found.key_buffers()) == bytes_of(found.value_buffers()) == columns.buffers(order)


def test_buffers_outlive_all_else_and_cannot_be_written_to() -> None:
    validity, offsets, data = columns_by_core(usual()).key_buffers()
    assert (validity, offsets.tolist(), bytes(data)) == (b"\x01", [0, 2, 2], b"k1")
    assert (offsets.format, offsets.itemsize, offsets.shape, data.format) == ("q", 8, (3,), "B")
    assert offsets.readonly and data.readonly
    assert columns_by_core(stored(columns.seal(SEED, None, [b"v"], NOW, count=1))).key_buffers() is None


@given(st.binary(max_size=400), st.integers(0, 400), st.integers(-1, 500), st.integers(0, 3))
def test_finds_the_end_of_whole_batches_as_its_twin(data: bytes, position: int, end: int, batches: int) -> None:
    data = usual() * batches + data
    for of in (data, memoryview(data), bytearray(data)):
        assert core.end_of_whole_batches(of, position, end) == python_end_of_whole_batches(of, position, end)


def test_the_end_of_whole_batches_is_not_looked_for_in_anything_else() -> None:
    for wrong in (("text", 0, 1), (b"", "0", 1), (b"", 0)):
        with pytest.raises(TypeError):
            core.end_of_whole_batches(*wrong)


def test_no_flipped_bit_makes_a_column() -> None:
    batch = usual()
    for at in range(len(batch)):
        for bit in range(8):
            flipped = bytearray(batch)
            flipped[at] ^= 1 << bit
            assert columns_by_core(bytes(flipped)) is None, (at, bit)


# -- payload form 1 ----------------------------------------------------------------------------------


def kafka(rows: Sequence[Row], base: int = BASE, **how: Any) -> bytes:
    return stored(kafka_batch(SEED, rows, **how), base)


PLAIN_ROWS = [Row(NOW, b"key", b"value"), Row(NOW + 7, None, b"x" * 200), Row(NOW - 9, b"", None), Row(NOW, None, None)]


def columns_of(found: Any) -> list[Any]:
    """All columns, absent ones filled in."""
    n = found.record_count
    return [
        list(found.offsets()), found.timestamps(), list(found.keys() or [None] * n),
        list(found.values() or [None] * n),
    ]  # fmt: skip


kafka_times = st.one_of(st.integers(NOW - 300, NOW + 300), st.sampled_from([0, 2**62, 2**63 - 1]))
kafka_rows = st.lists(st.tuples(kafka_times, entries, entries).map(lambda row: Row(*row)), min_size=1, max_size=20)


@given(kafka_rows, st.booleans(), st.sampled_from([0, LOG_APPEND_TIME, TRANSACTIONAL]), st.integers(0, 20))
def test_rows_are_given_as_its_twin_gives_them(rows: list[Row], knows: bool, flags: int, skipped: int) -> None:
    data = usual() + kafka(rows, BASE + 2, knows=knows, flags=flags) + usual(BASE + 30)
    assert by_core(data, BASE + skipped) == by_python(data, BASE + skipped)
    found = columns_by_core(kafka(rows, knows=knows, flags=flags))
    twin = next(FetchResult(FetchData(kafka(rows, knows=knows, flags=flags), SEED, "x.log", 0), 0, 0).batches()).columns
    assert columns_of(found) == [list(column) for column in twin.all()[:4]]
    for mine, its in ((found.key_buffers(), twin.keys()), (found.value_buffers(), twin.values())):
        assert (mine is None) == (its is None)
        if its is not None:
            assert bytes_of(mine) == columns.buffers(its)


def test_rows_that_another_broker_stamped_have_its_time() -> None:
    payload, _ = kafka_payload(PLAIN_ROWS, attributes=kafka_v2.KAFKA_APPEND_TIME)
    sealed = kafka_batch(SEED, PLAIN_ROWS)._replace(payload=payload, payload_hash=hash_payload(payload, SEED))
    assert [record.timestamp for record in by_core(stored(sealed))] == [NOW + 7] * 4
    assert by_core(stored(sealed)) == by_python(stored(sealed))


@pytest.mark.parametrize(
    "batch",
    [
        kafka(PLAIN_ROWS, codec=1),
        kafka([*PLAIN_ROWS, Row(NOW, b"k", b"v", [("h", b"1")])]),
        kafka([Row(NOW, b"k", delta=0), Row(NOW, b"k", delta=2)], last_delta=2),
        kafka([Row(-1, b"k")]),
        kafka([Row(5, b"k"), Row(-1, b"k")]),
        kafka([Row(NOW, b"\0\0\0\1", b"\0\0\0\0\0\0")], control=1),
    ],
    ids=["compressed", "headers", "gaps", "no time", "a time before 1970", "control"],
)
def test_stops_before_rows_that_are_not_usual(batch: bytes) -> None:
    source = reader(usual() + batch)
    out: list[Any] = []
    assert (source.take(out, 100), source.at) == (2, len(usual()))
    assert columns_by_core(batch) is None


def test_columns_of_rows_outlive_their_batch_and_are_taken_in_parts() -> None:
    data = kafka(PLAIN_ROWS) + kafka(PLAIN_ROWS, BASE + 4) + usual(BASE + 8)
    source, out = reader(data), []  # type: ignore[var-annotated]
    while source.take(out, 3) == 3:
        pass
    assert (out, source.at) == (by_python(data), len(data))
    source = reader(data)
    first, second = source.next_batch(), source.next_batch()
    del source, data
    assert columns_of(first)[1:] == columns_of(second)[1:] == [list(each) for each in zip(*PLAIN_ROWS, strict=True)][:3]


def test_no_flipped_bit_of_rows_is_served() -> None:
    batch = kafka(PLAIN_ROWS[:1])
    for at in range(len(batch)):
        for bit in range(8):
            flipped = bytearray(batch)
            flipped[at] ^= 1 << bit
            assert by_core(bytes(flipped)) == [], (at, bit)
            with pytest.raises(CorruptRecordError):
                by_python(bytes(flipped))


def test_never_gives_rows_that_its_twin_does_not_whatever_they_are() -> None:
    """Random changes under right checksums: what the core serves, Python serves too."""
    rng = random.Random(20261130)
    served = 0
    for _ in range(4000):
        rows = [
            Row(NOW + rng.randrange(200), rng.choice([None, b"", b"k" * 70]), b"v")
            for _ in range(rng.choice([1, 2, 5]))
        ]
        sealed = kafka_batch(SEED, rows)
        payload = bytearray(sealed.payload)
        for _ in range(rng.choice([0, 1, 1, 2])):
            at = rng.randrange(len(payload)) if rng.random() < 0.5 else rng.randrange(45, len(payload))
            payload[at] = rng.choice([0, 1, 2, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        if rng.random() < 0.1:
            del payload[rng.randrange(len(payload)) :]
        changed = stored(sealed._replace(payload=bytes(payload), payload_hash=hash_payload(bytes(payload), SEED)))
        records = by_core(changed)
        if records:
            assert records == by_python(changed)
            served += 1
    assert 1000 < served < 4000


@pytest.mark.parametrize("number", [b"\x80" * 9 + b"\x02", b"\x80" * 10 + b"\x00", b"\xff"])
def test_numbers_of_rows_that_are_too_long_are_not_served(number: bytes) -> None:
    sealed = kafka_batch(SEED, [Row(NOW)])
    payload = sealed.payload[: kafka_v2.FIXED.size] + number + sealed.payload[kafka_v2.FIXED.size + 1 :]
    assert by_core(stored(sealed._replace(payload=payload, payload_hash=hash_payload(payload, SEED)))) == []


# -- finding -----------------------------------------------------------------------------------------


def chunk_of(counts: Sequence[int], gap: int = 0) -> bytes:
    """Batches of so many records each, whose offsets may have gaps in between; 0 is one of a record with headers."""
    data, base = b"", BASE
    for count in counts:
        headers = None if count else [((("a", b"1")),)]
        made = columns.seal(SEED, None, [b"v" * 30] * max(count, 1), NOW, headers, count=max(count, 1))
        data += stored(made, base)
        base += max(count, 1) + gap
    return data


def find(data: bytes, offset: int, *, python: bool = False) -> tuple[int, int] | None:
    with pytest.MonkeyPatch.context() as patch:
        if python:
            patch.setattr(batches_module, "core", None)
        found = find_batch(data, offset, SEED, "x.log", 0)
    return None if found is None else found[:2]


@given(st.lists(st.integers(0, 5), max_size=6), st.integers(0, 2), st.integers(-2, 40), st.integers(0, 400))
def test_finds_the_batch_that_its_twin_finds(counts: list[int], gap: int, at: int, missing: int) -> None:
    data = chunk_of(counts, gap)
    data = data[: len(data) - missing]
    found = find(data, BASE + at)
    assert found == find(data, BASE + at, python=True)
    if found is not None:
        assert data[found[0] :].startswith(b"SLB")


def test_finds_no_batch_after_one_with_a_flipped_bit() -> None:
    data, offset = chunk_of([2, 2]), BASE + 3
    second = find(data, offset)
    assert second is not None
    for at in range(second[0]):
        flipped = bytearray(data)
        flipped[at] ^= 1 << at % 8
        assert find(bytes(flipped), offset) == find(bytes(flipped), offset, python=True), at


@pytest.mark.parametrize("wrong", [(b"", "x", 0), (b"", SEED, "x"), ("text", SEED, 0), (b"", SEED)], ids=str)
def test_looks_for_a_batch_in_nothing_else(wrong: Any) -> None:
    with pytest.raises(TypeError):
        core.find_batch(*wrong)


offsets = st.one_of(st.integers(0, 50), st.sampled_from([-(1 << 63), (1 << 63) - 1, -(1 << 70), 1 << 70]))


@given(st.lists(st.integers(0, 50), max_size=20), offsets)
def test_looks_up_an_offset_as_bisect_does(numbers: list[int], offset: int) -> None:
    numbers.sort()
    assert core.bisect_offsets(array("q", numbers), offset) == bisect_right(numbers, offset)


def test_an_array_grows_after_it_was_looked_into() -> None:
    numbers = array("q", [1])
    assert core.bisect_offsets(numbers, 5) == 1
    numbers.extend(range(2, 1000))
    assert core.bisect_offsets(numbers, 5) == 5


@pytest.mark.parametrize("wrong", [(array("q"), "x"), ([1], 1), (array("q"),)], ids=str)
def test_looks_up_an_offset_in_nothing_else(wrong: Any) -> None:
    with pytest.raises(TypeError):
        core.bisect_offsets(*wrong)


@given(rows, st.integers(0, 20), st.integers(1, 20))
def test_records_in_the_middle_of_a_batch_are_those_of_its_twin(rows: list[Any], skipped: int, most: int) -> None:
    keys, values, times = (list(column) for column in zip(*rows, strict=True))
    data = stored(columns.seal(SEED, whole(keys), whole(values), times, count=len(rows)))
    out: list[Any] = []
    reader(data, BASE + skipped).take(out, most)
    assert out == by_python(data, BASE + skipped)[:most]


@given(st.lists(rows, max_size=4))
def test_columns_of_many_batches_are_those_of_each_in_turn(batches: list[list[Any]]) -> None:
    found = []
    for each in batches:
        keys, values, times = (list(column) for column in zip(*each, strict=True))
        data = stored(columns.seal(SEED, whole(keys), whole(values), times, count=len(each)))
        made = columns_by_core(data)
        if made is None:  # the core leaves it to Python
            return
        found.append(made)
    assert core is not None
    offsets, times = core.gather(found, columns.OFFSETS), core.gather(found, columns.TIMESTAMPS)
    assert offsets.tolist() == [offset for each in found for offset in each.offsets()]
    assert times.tolist() == [time for each in found for time in each.timestamps()]
    for kind, name in ((columns.KEYS, "keys"), (columns.VALUES, "values")):
        entries = [getattr(each, name)() for each in found]
        gathered = core.gather(found, kind)
        if not any(column is not None for column in entries):
            assert gathered is None
            continue
        joined = [
            entry
            for each, column in zip(found, entries, strict=True)
            for entry in ([None] * each.record_count if column is None else column)
        ]
        assert bytes_of(gathered) == columns.buffers(joined)


@pytest.mark.parametrize("wrong", [([5], 3), ((), 3), ([], 0), ([], 5), ([],), ([], "keys")], ids=str)
def test_gathers_nothing_else(wrong: Any) -> None:
    assert core is not None
    with pytest.raises(TypeError):
        core.gather(*wrong)


@pytest.mark.parametrize(
    ("field", "number"),
    [
        *(("leader_epoch", number) for number in (1 << 31, -(1 << 31) - 1)),
        *(("producer_epoch", number) for number in (1 << 15, -(1 << 15) - 1)),
        *(("base_sequence", number) for number in (1 << 31, -(1 << 31) - 1)),
        *(("attributes", number) for number in (1 << 32, -1)),
        *(("timestamp", number) for number in (1 << 63, -(1 << 63) - 1)),
    ],
)
def test_a_number_that_the_header_does_not_hold_is_refused_by_both(field: str, number: int) -> None:
    fields = {"timestamp": 5, "base_offset": 7, "leader_epoch": 0, "append_ms": 6}
    fields |= {"producer_id": 1, "producer_epoch": 2, "base_sequence": 3, "attributes": 0}
    assert core is not None
    for encode in (core.encode_one, single.python_encode_one):
        assert encode(SEED, None, b"x", *fields.values())
        with pytest.raises((OverflowError, struct.error)):
            encode(SEED, None, b"x", *(fields | {field: number}).values())
