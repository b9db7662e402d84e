"""Kafka batches as clients send them are checked and stored; whatever is stored is served as a Kafka batch."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from struct import pack, pack_into
from typing import Any

import cramjam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlog.errors import (
    CorruptRecordError,
    InvalidRecordError,
    RecordTooLargeError,
    UnsupportedCompressionTypeError,
)
from streamlog.records import columns, control, kafka_v2, kafka_wire
from streamlog.records.batch import (
    FORM_KAFKA,
    LOG_APPEND_TIME,
    TRANSACTIONAL,
    BatchHeader,
    SealedBatch,
    read_header,
    seed_of,
    stamp,
    verify_payload,
)
from streamlog.records.columns import BatchColumns
from streamlog.records.decode import decode
from streamlog.storage.verify.batch_check import batch_fault
from tests.bytecodes import bytecodes
from tests.kafka_batches import Row, kafka_batch, kafka_payload, record, varint

SEED = seed_of(bytes(16), 0)
NOW = 1_700_000_000_000
CODECS = pytest.mark.parametrize("codec", range(5), ids=["none", "gzip", "snappy", "lz4", "zstd"])
ROWS = [
    Row(NOW, b"key", b"value"),
    Row(NOW + 7, None, b"x" * 200, (("trace", b"\x00\xff"), ("none", None), ("name ü", b""))),
    Row(NOW - 90_000_000, b"", None),
    Row(NOW + 7, b"k" * 9000, None),
    Row(NOW + 5, b"k" * 90, b"y" * 9000, (("h" * 300, b"v" * 300),)),
    *(Row(NOW, b"k", b"v") for _ in range(9000)),
]
LAST_OFFSET = len(ROWS) - 1


def sent(rows: Sequence[Row] = ROWS, codec: int = 0, **options: Any) -> bytes:
    """A batch as a client sends it, from its first byte on."""
    return framed(kafka_payload(rows, codec, **options)[0])


def framed(payload: bytes) -> bytes:
    return pack(">qii", 0, len(payload) + 4, -1) + payload


def with_records(records: bytes, count: int = 1) -> bytes:
    """A batch whose records are these bytes, with a checksum that fits."""
    payload = kafka_payload([Row(NOW)] * count)[0][: kafka_v2.FIXED.size] + records
    return framed(payload[:1] + pack(">I", kafka_v2.crc32c(payload[5:])) + payload[5:])


def changed(at: int, form: str, value: int, batch: bytes | None = None) -> bytes:
    """The batch with another number at byte `at`, and with a checksum that fits."""
    data = bytearray(batch or sent(ROWS[:2]))
    pack_into(form, data, at, value)
    if at > 20:
        pack_into(">I", data, 17, kafka_v2.crc32c(bytes(data[21:])))
    return bytes(data)


GOOD = sent(ROWS[:2])


def stored(sealed: SealedBatch, base: int = 100) -> tuple[BatchHeader, BatchColumns, bytes]:
    data = stamp(sealed, SEED, base, 3, NOW + 50) + sealed.payload
    header = read_header(data, 0, SEED, "x.log", 0)
    verify_payload(header, data[header.header_len :], SEED, "x.log", 0)
    return header, decode(header, data), data


def served(sealed: SealedBatch, base: int = 100) -> bytes:
    header, records, _ = stored(sealed, base)
    return b"".join(kafka_wire.served(header, records))


def rows_of(made: BatchColumns) -> list[Any]:
    return list(zip(*made.all(), strict=True))


# -- in --------------------------------------------------------------------------------------------------


@CODECS
def test_a_batch_is_stored_as_it_came_and_served_as_it_came(codec: int) -> None:
    data = sent(ROWS, codec, producer=(7, 2, 41), attributes=kafka_v2.KAFKA_TRANSACTIONAL)
    sealed = kafka_wire.sealed(SEED, bytearray(data))
    assert sealed.payload == data[16:]
    assert (sealed.producer_id, sealed.producer_epoch, sealed.base_sequence) == (7, 2, 41)
    assert sealed.attributes & TRANSACTIONAL
    header, records, whole = stored(sealed)
    assert [tuple(row)[:1] for row in rows_of(records)] == [(100 + n,) for n in range(len(ROWS))]
    assert [tuple(row)[1:] for row in rows_of(records)] == [tuple(row)[:3] + (tuple(row.headers),) for row in ROWS]
    assert (header.base_timestamp, header.max_timestamp, header.max_timestamp_delta) == (NOW - 90_000_000, NOW + 7, 1)
    assert batch_fault(whole, header, False) is None
    assert served(sealed) == pack(">qii", 100, len(data) - 12, 3) + data[16:]


@CODECS
@pytest.mark.parametrize("wanted", range(5), ids=["to none", "to gzip", "to snappy", "to lz4", "to zstd"])
def test_records_of_another_codec_than_is_wanted_are_compressed_anew(codec: int, wanted: int) -> None:
    rows = ROWS[:2] * 20
    data = sent(rows, codec, producer=(7, 2, 41), attributes=kafka_v2.KAFKA_TRANSACTIONAL)
    assert kafka_wire.codec_of(data) == codec
    assert kafka_wire.claimed_records(data) == len(rows)
    assert kafka_wire.claimed_records(data[: kafka_wire.OVERHEAD - 1]) == 0, "it is cut short"
    sealed = kafka_wire.sealed(SEED, data, codec=wanted)
    assert kafka_v2.fixed_fields(sealed.payload).attributes == wanted | kafka_v2.KAFKA_TRANSACTIONAL
    assert (sealed.payload == data[16:]) == (codec == wanted)
    header, records, whole = stored(sealed)
    assert header.codec == wanted
    assert batch_fault(whole, header, False) is None
    assert [tuple(row)[1:] for row in rows_of(records)] == [tuple(row)[:3] + (tuple(row.headers),) for row in rows]
    assert (sealed.producer_id, sealed.producer_epoch, sealed.base_sequence) == (7, 2, 41)


def test_records_that_are_too_large_once_they_are_compressed_anew_are_refused() -> None:
    data = sent([Row(NOW, b"k", b"v" * 10_000)], 1)
    assert kafka_wire.sealed(SEED, data, max_bytes=1_000).payload == data[16:]
    with pytest.raises(RecordTooLargeError) as caught:
        kafka_wire.sealed(SEED, data, codec=0, max_bytes=1_000)
    assert caught.value.size > 10_000


def test_the_checks_of_a_partition_take_it_without_decoding_it_again() -> None:
    """`seed` says that it was sealed here."""
    assert kafka_wire.sealed(SEED, sent(ROWS[:2])).seed == SEED


@pytest.mark.parametrize("data", [changed(35, ">q", NOW + 99), changed(21, ">h", 1 << 3)], ids=["greatest", "stamped"])
def test_what_a_client_wrongly_says_of_timestamps_is_corrected(data: bytes) -> None:
    sealed = kafka_wire.sealed(SEED, data)
    assert (sealed.max_timestamp, sealed.max_timestamp_delta) == (NOW + 7, 1)
    header, _, whole = stored(sealed)
    assert batch_fault(whole, header, False) is None
    assert served(sealed, 0)[16:] == GOOD[16:]


@pytest.mark.parametrize("data", [GOOD, GOOD + b"x", GOOD + GOOD[:-1]], ids=len)
def test_a_part_of_a_batch_after_the_first_one_is_ignored(data: bytes) -> None:
    assert kafka_wire.sealed(SEED, data).payload == GOOD[16:]


def test_attributes_that_are_not_known_are_kept() -> None:
    data = changed(21, ">h", 1 << 7)
    assert kafka_wire.sealed(SEED, data).payload == data[16:]


@pytest.mark.parametrize("producer", [(-1, 0, 0), (-2, 0, 0)])
def test_what_a_client_without_a_producer_id_has_for_epoch_and_sequence_does_not_count(
    producer: tuple[int, int, int],
) -> None:
    """kafkajs has 0 for both."""
    sealed = kafka_wire.sealed(SEED, sent(ROWS[:2], producer=producer))
    assert (sealed.producer_id, sealed.producer_epoch, sealed.base_sequence) == (-1, -1, -1)
    header, _, whole = stored(sealed)
    assert batch_fault(whole, header, False) is None


def test_snappy_in_the_framing_of_the_java_client_is_taken() -> None:
    records = kafka_payload(ROWS)[0][kafka_v2.FIXED.size :]
    blocks = [bytes(cramjam.snappy.compress_raw(part)) for part in (records[:900], records[900:])]
    framing = b"\x82SNAPPY\x00" + bytes(8) + b"".join(len(block).to_bytes(4, "big") + block for block in blocks)
    payload = kafka_payload(ROWS, 2)[0][: kafka_v2.FIXED.size] + framing
    data = framed(payload[:1] + pack(">I", kafka_v2.crc32c(payload[5:])) + payload[5:])
    sealed = kafka_wire.sealed(SEED, data)
    assert sealed.uncompressed_len == len(records)
    assert len(rows_of(stored(sealed)[1])) == len(ROWS)


@pytest.mark.parametrize(
    ("data", "error", "why"),
    [
        (b"", InvalidRecordError, "cut short"),
        (GOOD[:11], InvalidRecordError, "cut short"),
        (GOOD[:60], InvalidRecordError, "cut short"),
        (GOOD[:-1], InvalidRecordError, "cut short"),
        (changed(8, ">i", (1 << 31) - 1), InvalidRecordError, "cut short"),
        (changed(8, ">i", 30)[:42], CorruptRecordError, "shorter than its own fields"),
        (changed(8, ">i", 14)[:26], CorruptRecordError, "shorter than its own fields"),
        (changed(8, ">i", 13), CorruptRecordError, "none has fewer"),
        (changed(8, ">i", -1), CorruptRecordError, "none has fewer"),
        (changed(16, ">b", 3), CorruptRecordError, "magic 3"),
        (changed(16, ">b", 1), InvalidRecordError, "magic 1"),
        (changed(16, ">b", 0), InvalidRecordError, "magic 0"),
        (changed(17, ">I", 5), CorruptRecordError, "CRC-32C"),
        (GOOD[:-1] + b"\x02", CorruptRecordError, "CRC-32C"),
        (GOOD + GOOD, InvalidRecordError, "not the only one"),
        (GOOD + bytes(12), CorruptRecordError, "none has fewer"),
        (changed(0, ">q", 5), InvalidRecordError, "base offset 5"),
        (changed(21, ">h", 1 << 5), InvalidRecordError, "control batch"),
        (changed(21, ">h", 5), UnsupportedCompressionTypeError, "codec 5"),
        (changed(21, ">h", 1), InvalidRecordError, "cannot be decompressed"),
        (changed(21, ">h", 3), InvalidRecordError, "cannot be decompressed"),
        (changed(21, ">h", 1 << 4), InvalidRecordError, "names no producer"),
        (changed(23, ">i", 5), InvalidRecordError, "2 records at 6 offsets"),
        (changed(57, ">i", 0), InvalidRecordError, "0 records at 2 offsets"),
        (changed(57, ">i", (1 << 31) - 1), InvalidRecordError, "2147483647 records"),
        (changed(57, ">i", 1, changed(23, ">i", 0)), InvalidRecordError, "follow the last record"),
        (changed(57, ">i", 3, changed(23, ">i", 2)), InvalidRecordError, "contradict"),
        (changed(57, ">i", (1 << 31) - 1, changed(23, ">i", (1 << 31) - 2)), InvalidRecordError, "contradict"),
        (sent(ROWS[:2], producer=(7, 2, -1)), InvalidRecordError, "sequence -1"),
        (sent(ROWS[:2], producer=(7, -1, 0)), InvalidRecordError, "epoch -1"),
    ],
)
def test_a_batch_that_kafka_refuses_is_refused(data: bytes, error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        kafka_wire.sealed(SEED, data)


NONE = varint(-1)
BODY = b"\0\0\0"  # attributes, timestamp, offset


@pytest.mark.parametrize(
    "records",
    [
        b"",
        varint(50) + BODY,
        varint(-6) + BODY + NONE + NONE + b"\0",
        varint(6) + BODY + varint(-2) + NONE + b"\0",
        varint(6) + BODY + NONE + varint(-2) + b"\0",
        varint(5) + BODY + NONE + NONE + b"\0",
        varint(7) + BODY + NONE + NONE + b"\0\0",
        varint(7) + BODY + NONE + varint(40) + b"\0\0",
        varint(7) + BODY + varint(40) + NONE + b"\0\0",
        varint(6) + BODY + NONE + NONE + varint(-5),
        varint(6) + BODY + NONE + NONE + varint(60),
        varint(8) + BODY + NONE + NONE + varint(1) + NONE + NONE,
        varint(9) + BODY + NONE + NONE + varint(1) + varint(0) + varint(-2) + b"\0",
        varint(6) + BODY + NONE + NONE + b"\0extra",
        varint(6) + b"\0\0" + varint(1) + NONE + NONE + b"\0",
        varint(7) + b"\0\0" + varint(64) + NONE + NONE + b"\0",
        varint(8) + b"\0\0" + varint(1 << 13) + NONE + NONE + b"\0",
        b"\xff" * 12,
        b"\xff\xff",
    ],
)  # fmt: skip
def test_records_that_contradict_themselves_are_refused(records: bytes) -> None:
    with pytest.raises(InvalidRecordError, match="contradict themselves"):
        kafka_wire.sealed(SEED, with_records(records))


NUMBERS = st.sampled_from([0, 1, 63, 64, 8191, 8192, 1 << 20])
SIZED = st.none() | st.builds(bytes, st.sampled_from([0, 1, 62, 63, 64, 65, 130, 8191, 8192]))
MADE = st.builds(
    Row,
    st.builds(lambda n, sign: NOW + n * sign, NUMBERS, st.sampled_from([1, -1])),
    SIZED,
    SIZED,
    st.lists(st.tuples(st.sampled_from(["", "h", "h" * 70]), SIZED), max_size=2).map(tuple),
    st.none(),
)


@given(st.lists(MADE, min_size=1, max_size=4), st.integers(0, 4))
def test_the_walk_finds_what_decoding_finds(rows: list[Row], codec: int) -> None:
    sealed = kafka_wire.sealed(SEED, sent(rows, codec))
    header, records, whole = stored(sealed)
    assert batch_fault(whole, header, False) is None
    times = list(records.timestamps() or ())
    assert (header.base_timestamp, header.max_timestamp) == (min(times), max(times))
    assert header.max_timestamp_delta == times.index(max(times))


def walked(data: bytes, count: int, at: int, fewest_alike: int = kafka_wire._FEWEST_ALIKE) -> object:
    """What a walk finds or raises; with a great `fewest_alike` it looks at each record by itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kafka_wire, "_FEWEST_ALIKE", fewest_alike)
        try:
            return kafka_wire.walk(data, count, at)
        except (ValueError, IndexError) as error:
            return str(error)


EACH_BY_ITSELF = 1 << 40
ALIKE = st.builds(
    lambda row, times: times * [row],
    st.builds(
        Row,
        st.sampled_from([NOW, NOW + 1, NOW + 64, NOW + 9000]),
        SIZED,
        SIZED,
        st.sampled_from([(), (("h", b""),)]),
        st.none(),
    ),
    st.sampled_from([1, 31, 33, 34, 60, 70, 200]),
)


@given(
    st.lists(ALIKE, min_size=1, max_size=4),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=2),
    st.integers(-1, 1),
)
def test_records_that_are_alike_are_checked_as_each_by_itself(
    runs: list[list[Row]], changes: list[tuple[float, int]], more: int
) -> None:
    rows = [row for run in runs for row in run]
    data = bytearray(b"before" + b"".join(record(row, NOW, number) for number, row in enumerate(rows)))
    for place, byte in changes:
        data[6 + int(place * (len(data) - 6))] = byte
    found = walked(bytes(data), len(rows) + more, 6)
    assert found == walked(bytes(data), len(rows) + more, 6, EACH_BY_ITSELF)
    assert changes or more or isinstance(found, kafka_wire.Walked)


@pytest.mark.parametrize("number", [40, 70, 8191, 8192, 8193, 16384, 16500])
@pytest.mark.parametrize("key", [None, b"key"])
def test_one_wrong_byte_among_many_records_that_are_alike_is_found(number: int, key: bytes | None) -> None:
    records = [record(Row(NOW, key, b"v" * 20), NOW, each) for each in range(16_600)]
    whole = b"".join(records)
    assert kafka_wire.walk(whole, len(records)) == kafka_wire.Walked(0, 0, 0)
    begin = sum(map(len, records[:number]))
    checked = len(records[number]) - 21 - len(key or b"")  # all before the value but the key
    for at in [*range(checked), len(records[number]) - 1]:
        at += len(key or b"") if at == checked - 1 else 0  # the length of the value
        if at == 1 and not whole[begin] & 128:
            continue  # the attributes, of which a record uses none
        changed = bytearray(whole)
        changed[begin + at] ^= 2
        assert walked(bytes(changed), len(records), 0) == walked(bytes(changed), len(records), 0, EACH_BY_ITSELF)


@pytest.mark.parametrize(("begin", "less"), [(64, 64), (8192, 8128), (16384, 8192)])
def test_many_records_whose_offsets_begin_anew_are_refused(begin: int, less: int) -> None:
    numbers = [*range(begin), *range(begin - less, begin - less + 100)]
    records = [record(Row(NOW, None, b"v"), NOW, each) for each in numbers]
    assert walked(b"".join(records), len(records), 0) == f"record {begin} has another offset"


@pytest.mark.parametrize(("before", "wrong"), [(16383, 8192), (8191, 0), (24575, 16384)])
def test_the_high_bits_of_an_offset_are_not_those_of_the_one_before(before: int, wrong: int) -> None:
    numbers = [before, *range(wrong, wrong + 100)]
    first, *others = [record(Row(NOW, None, b"v"), NOW, each) for each in numbers]
    number, count = before + 1, before + 101
    assert kafka_wire._alike(first + b"".join(others), 0, len(first), number, count) == 0


def test_headers_of_many_records_are_checked() -> None:
    records = [record(Row(NOW, None, b"v", (("name", b"value"),)), NOW, each) for each in range(100)]
    records[90] = records[90].replace(varint(4) + b"name", varint(5) + b"name")
    assert walked(b"".join(records), len(records), 0) == "record 90 does not end where its length says"


def test_records_of_one_form_are_not_looked_at_one_by_one() -> None:
    records = [record(Row(NOW, None, b"v" * 100), NOW, each) for each in range(8000)]
    data = b"".join(records)
    assert bytecodes(lambda: kafka_wire.walk(data, len(records))) < 2 * len(records)


@given(st.binary(max_size=60), st.integers(1, 3))
def test_the_walk_takes_only_what_can_be_decoded(records: bytes, count: int) -> None:
    try:
        sealed = kafka_wire.sealed(SEED, with_records(records, count))
    except InvalidRecordError:
        return
    header, made, whole = stored(sealed)
    assert {len(column) for column in made.all()} == {count}
    assert batch_fault(whole, header, False) is None


@given(st.integers(0, 400), st.binary(min_size=1, max_size=8))
def test_a_batch_with_changed_bytes_is_refused_or_whole(at: int, change: bytes) -> None:
    data = GOOD[:at] + change + GOOD[at + len(change) :]
    tracemalloc.start()
    try:
        kafka_wire.sealed(SEED, data)
    except (CorruptRecordError, InvalidRecordError):
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < len(data) + (1 << 20)


def test_a_batch_that_is_larger_than_allowed_is_refused() -> None:
    with pytest.raises(RecordTooLargeError) as caught:
        kafka_wire.sealed(SEED, GOOD, max_bytes=100)
    assert (caught.value.size, caught.value.max_size) == (len(GOOD), 100)
    assert kafka_wire.sealed(SEED, GOOD, max_bytes=len(GOOD))


@pytest.mark.parametrize("codec", [1, 2, 3, 4])
def test_a_batch_that_decompresses_to_more_than_allowed_is_refused(codec: int) -> None:
    data = sent([Row(NOW, b"k", bytes(40 << 20))], codec)
    tracemalloc.start()
    with pytest.raises(InvalidRecordError, match="cannot be decompressed"):
        kafka_wire.sealed(SEED, data, max_uncompressed=1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * len(data) + (3 << 20)


# -- out -------------------------------------------------------------------------------------------------


def reread(data: bytes) -> tuple[kafka_v2.Fixed, list[Any]]:
    """A served batch read back: its fixed fields, and its records as a client sees them."""
    base, length, _ = kafka_wire.PREFIX.unpack_from(data)
    assert length == len(data) - 12
    payload = data[16:]
    fixed = kafka_v2.fixed_fields(payload)
    assert fixed.crc == kafka_v2.crc32c(payload[5:])
    raw = payload[45:]
    if fixed.attributes & 7:
        raw = kafka_wire.compression.decompress_up_to(fixed.attributes & 7, raw, 1 << 30)
    deltas, times, *rest = kafka_v2._rows(raw, fixed.record_count)
    stamped = bool(fixed.attributes & kafka_v2.KAFKA_APPEND_TIME)
    when = [fixed.max_timestamp if stamped else fixed.base_timestamp + time for time in times]
    return fixed, list(zip([base + delta for delta in deltas], when, *rest, strict=True))


FEW = ROWS[:5]


@CODECS
@pytest.mark.parametrize("flags", [0, LOG_APPEND_TIME], ids=["create time", "append time"])
def test_what_the_python_face_wrote_is_served_with_its_codec(codec: int, flags: int) -> None:
    made = columns.seal(
        SEED,
        [row.key for row in FEW],
        [row.value for row in FEW],
        [row.timestamp for row in FEW],
        [tuple(row.headers) for row in FEW],  # type: ignore[misc]
        count=len(FEW),
        codec=codec,
        attributes=flags | TRANSACTIONAL,
    ).sequenced(7, 2, 41, transactional=True)
    header, records, _ = stored(made)
    fixed, rows = reread(served(made))
    assert rows == rows_of(records)
    assert (fixed.attributes & 7, bool(fixed.attributes & 8), bool(fixed.attributes & 16)) == (codec, bool(flags), True)
    assert (fixed.producer_id, fixed.producer_epoch, fixed.base_sequence) == (7, 2, 41)
    assert (fixed.last_offset_delta, fixed.max_timestamp) == (4, header.max_timestamp)


def test_a_record_without_key_headers_and_time_of_its_own_is_served() -> None:
    made = columns.seal(SEED, None, [b"v", b"w" * 90], NOW, count=2)
    assert reread(served(made))[1] == [(100, NOW, None, b"v", ()), (101, NOW, None, b"w" * 90, ())]


@CODECS
def test_under_log_append_time_the_served_batch_says_so_with_the_time_of_the_append(codec: int) -> None:
    sealed = kafka_wire.sealed(SEED, sent(FEW, codec, producer=(7, 2, 41)))
    data = served(sealed._replace(attributes=sealed.attributes | LOG_APPEND_TIME))
    fixed, rows = reread(data)
    assert {row[1] for row in rows} == {NOW + 50}
    assert [row[2:] for row in rows] == [(row.key, row.value, tuple(row.headers)) for row in FEW]
    assert (fixed.attributes, fixed.max_timestamp, fixed.base_timestamp) == (codec | 8, NOW + 50, NOW)
    assert data[61:] == sent(FEW, codec)[61:]
    assert (fixed.producer_id, fixed.producer_epoch, fixed.base_sequence) == (7, 2, 41)


@pytest.mark.parametrize("commit", [True, False])
def test_a_marker_is_served_as_a_control_batch(commit: bool) -> None:
    made = control.end_transaction_marker(SEED, 9, 2, NOW, commit=commit, coordinator_epoch=5)
    fixed, rows = reread(served(made))
    assert (fixed.attributes, fixed.producer_id, fixed.producer_epoch, fixed.base_sequence) == (0x30, 9, 2, -1)
    assert rows == [(100, NOW, pack(">hh", 0, commit), pack(">hi", 0, 5), ())]


def test_a_batch_that_compaction_emptied_is_served_as_an_empty_batch() -> None:
    made = columns.seal(SEED, None, None, (), count=0, last_offset_delta=6, codec=4)
    fixed, rows = reread(served(made._replace(producer_id=7, producer_epoch=2, base_sequence=41)))
    assert (rows, fixed.record_count, fixed.last_offset_delta, fixed.attributes) == ([], 0, 6, 0)
    assert (fixed.producer_id, fixed.base_sequence, fixed.max_timestamp) == (7, 41, -1)


def test_offsets_that_compaction_left_out_are_left_out() -> None:
    made = columns.seal(SEED, [b"a", b"b"], [b"1", b"2"], NOW, count=2, offset_deltas=[1, 300], last_offset_delta=400)
    fixed, rows = reread(served(made))
    assert ([row[0] for row in rows], fixed.last_offset_delta) == ([101, 400], 400)


def test_a_batch_of_another_broker_that_kept_gaps_is_served_as_it_is() -> None:
    sealed = kafka_batch(SEED, [Row(NOW, b"a", delta=1), Row(NOW, b"b", delta=4)], last_delta=6)
    assert [row[0] for row in reread(served(sealed))[1]] == [101, 104]


def test_timestamps_of_more_than_64_bits_are_refused() -> None:
    record_ = b"\0" + varint((1 << 63) - 1) + varint(0) + NONE + NONE + b"\0"
    with pytest.raises(InvalidRecordError, match="64 bits do not hold"):
        kafka_wire.sealed(SEED, with_records(varint(len(record_)) + record_))
    record_ = b"\0" + b"\xff" * 9 + b"\x02" + varint(0) + NONE + NONE + b"\0"
    with pytest.raises(InvalidRecordError, match="more than 64 bits"):
        kafka_wire.sealed(SEED, with_records(varint(len(record_)) + record_))


def test_lengths_that_most_records_have_are_zigzag() -> None:
    for number in range(0, 2100, 7):
        made = columns.seal(SEED, None, [b"x" * number], NOW, count=1)
        assert served(made).endswith(b"\1" + varint(number) + b"x" * number + b"\0")


@pytest.mark.parametrize("number", [0, 1, 63, 64, -1, -64, -65, 1 << 31, -(1 << 31), (1 << 63) - 1, -(1 << 63)])
def test_varints_are_zigzag(number: int) -> None:
    assert kafka_wire.put_varint(number) == varint(number)


# -- beside kafka-python ---------------------------------------------------------------------------------


def test_what_kafka_python_wrote_is_taken_and_what_is_served_it_reads() -> None:
    records = pytest.importorskip("kafka.record", reason="kafka-python, which this compares with, is not installed")
    builder = records.MemoryRecordsBuilder(magic=2, compression_type=1, batch_size=1 << 20)
    for row in FEW:
        builder.append(row.timestamp, row.key, row.value, [(name, value or b"") for name, value in row.headers])
    builder.close()
    sealed = kafka_wire.sealed(SEED, bytes(builder.buffer()))
    assert sealed.attributes == FORM_KAFKA | 1 << 4
    expected = [
        (100 + n, row.timestamp, row.key, row.value, [(name, value or b"") for name, value in row.headers])
        for n, row in enumerate(FEW)
    ]
    ours = columns.seal(
        SEED,
        [row.key for row in FEW],
        [row.value for row in FEW],
        [row.timestamp for row in FEW],
        [tuple((name, value or b"") for name, value in row.headers) for row in FEW],
        count=len(FEW),
        codec=1,
    )
    marker = control.end_transaction_marker(SEED, 9, 2, NOW, commit=True, coordinator_epoch=5)
    empty = columns.seal(SEED, None, None, (), count=0, last_offset_delta=6)
    data = served(sealed) + served(ours, 200) + served(marker, 300) + served(empty, 301)
    read = list(records.MemoryRecords(data))
    assert all(batch.validate_crc() for batch in read)
    got = [[(r.offset, r.timestamp, r.key, r.value, list(r.headers)) for r in batch] for batch in read[:2]]
    assert got == [expected, [(row[0] + 100, *row[1:]) for row in expected]]
    assert (read[2].is_control_batch, next(iter(read[2])).commit) == (True, True)
    assert (read[3].base_offset, read[3].last_offset_delta, list(read[3])) == (301, 6, [])


# -- cost, counted -----------------------------------------------------------------------------------------


def test_what_a_record_of_a_clients_batch_costs() -> None:
    """188 bytecodes and no call; decoding it takes 405."""
    few, many = (sent([Row(NOW + 500, b"key %04d" % n, b"x" * 100) for n in range(count)]) for count in (100, 200))
    kafka_wire.sealed(SEED, few)
    costs = [bytecodes(lambda data=data: kafka_wire.sealed(SEED, data)) for data in (few, many)]
    assert (costs[1] - costs[0]) / 100 < 215


def test_a_batch_of_form_1_is_served_at_the_same_cost_whatever_it_holds() -> None:
    costs = []
    for rows in (ROWS[:1], ROWS):
        header, records, _ = stored(kafka_wire.sealed(SEED, sent(rows)))
        kafka_wire.served(header, records)
        costs.append(bytecodes(lambda header=header, records=records: kafka_wire.served(header, records)))
    assert costs[0] == costs[1]
