"""A Kafka batch is stored as it came, and decoded to the same columns as any other."""

from __future__ import annotations

import sys
from struct import pack_into
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlog.records import columns, kafka_v2
from streamlog.records.batch import (
    LOG_APPEND_TIME,
    TRANSACTIONAL,
    BatchHeader,
    SealedBatch,
    directory_of,
    read_header,
    seed_of,
    stamp,
    verify_payload,
)
from streamlog.records.columns import BatchColumns, records_of
from streamlog.records.decode import decode
from streamlog.storage.verify.batch_check import batch_fault
from streamlog.types import Record
from tests.kafka_batches import Row, kafka_batch, kafka_payload, marker, varint

SEED = seed_of(bytes(16), 0)
NOW = 1_700_000_000_000
ROWS = [
    Row(NOW, b"key", b"value"),
    Row(NOW + 7, None, b"x" * 200, (("trace", b"\x00\xff"), ("none", None), ("name ü", b""))),
    Row(NOW - 90_000_000, b"", None),
    Row(NOW + 7, None, None),
]


def stored(sealed: SealedBatch, base: int = 100) -> tuple[BatchHeader, bytes]:
    data = stamp(sealed, SEED, base, 3, NOW + 50) + sealed.payload
    header = read_header(data, 0, SEED, "x.log", 0)
    verify_payload(header, data[header.header_len :], SEED, "x.log", 0)
    return header, data


def opened(sealed: SealedBatch) -> BatchColumns:
    return decode(*stored(sealed))


def rows_of(made: BatchColumns) -> list[Any]:
    return list(zip(*made.all(), strict=True))


EXPECTED = [
    (100, NOW, b"key", b"value", ()),
    (101, NOW + 7, None, b"x" * 200, (("trace", b"\x00\xff"), ("none", None), ("name ü", b""))),
    (102, NOW - 90_000_000, b"", None, ()),
    (103, NOW + 7, None, None, ()),
]


@pytest.mark.parametrize("knows", [False, True], ids=["times unread", "times known"])
@pytest.mark.parametrize("codec", range(5), ids=["none", "gzip", "snappy", "lz4", "zstd"])
def test_records_come_out_as_they_went_in(codec: int, knows: bool) -> None:
    sealed = kafka_batch(SEED, ROWS, codec=codec, knows=knows)
    header, data = stored(sealed)
    assert data.endswith(kafka_payload(ROWS, codec)[0]), "from its byte 16 on it is what the client sent"
    assert rows_of(decode(header, data)) == EXPECTED
    assert rows_of(decode(header, b"before" + data, 6)) == EXPECTED
    made = list(records_of(Record, "t", 0, decode(header, data), 1, 3))
    assert [tuple(each)[2:] for each in made] == EXPECTED[1:3]
    assert batch_fault(data, header, False) is None
    assert (header.base_timestamp, header.max_timestamp_delta) == ((NOW - 90_000_000, 1) if knows else (-1, -1))
    assert (header.max_timestamp, header.leader_epoch, header.last_offset) == (NOW + 7, 3, 103)


def test_snappy_in_the_framing_of_the_java_client_is_read() -> None:
    import cramjam

    payload, raw_len = kafka_payload(ROWS)
    records = payload[kafka_v2.FIXED.size :]
    blocks = [bytes(cramjam.snappy.compress_raw(part)) for part in (records[:100], records[100:])]
    framed = b"\x82SNAPPY\x00" + bytes(8) + b"".join(len(block).to_bytes(4, "big") + block for block in blocks)
    sealed = kafka_batch(SEED, ROWS, codec=2)
    made = opened(sealed._replace(payload=sealed.payload[: kafka_v2.FIXED.size] + framed, uncompressed_len=raw_len)
                  ._replace(payload_hash=columns.hash_payload(sealed.payload[: kafka_v2.FIXED.size] + framed, SEED)))  # fmt: skip
    assert rows_of(made) == EXPECTED


def test_columns_without_information_are_left_out() -> None:
    made = opened(kafka_batch(SEED, [Row(NOW, None, None), Row(NOW)]))
    assert (made.keys(), made.values(), made.headers(), made.offsets()) == (None, None, None, range(100, 102))
    assert not made.only_keys_and_values
    assert made.timestamps() == [NOW, NOW]


def test_offsets_that_compaction_on_another_broker_left_out_are_kept() -> None:
    rows = [Row(NOW, b"a", delta=1), Row(NOW, b"b", delta=4)]
    sealed = kafka_batch(SEED, rows, last_delta=6, knows=True)
    header, data = stored(sealed)
    assert list(decode(header, data).offsets()) == [101, 104]
    assert (header.next_offset, header.max_timestamp_delta) == (107, 1)
    assert batch_fault(data, header, True) is None
    assert batch_fault(data, header, False) == "2 records for 7 offsets, and nothing was compacted"


def test_under_log_append_time_the_header_counts_and_the_payload_stays() -> None:
    sealed = kafka_batch(SEED, ROWS, flags=LOG_APPEND_TIME)
    header, data = stored(sealed)
    assert set(decode(header, data).all().timestamps) == {NOW + 50}
    assert (header.base_timestamp, header.max_timestamp, header.max_timestamp_delta) == (NOW + 50, NOW + 50, 0)
    assert batch_fault(data, header, False) is None


def test_a_batch_that_another_broker_stamped_has_its_greatest_timestamp() -> None:
    payload, raw_len = kafka_payload(ROWS, attributes=kafka_v2.KAFKA_APPEND_TIME)
    sealed = kafka_batch(SEED, ROWS)._replace(payload=payload, payload_hash=columns.hash_payload(payload, SEED))
    assert opened(sealed).timestamps() == [NOW + 7] * 4
    assert raw_len == sealed.uncompressed_len


@pytest.mark.parametrize("commits", [False, True])
def test_a_marker_is_a_control_batch(commits: bool) -> None:
    header, data = stored(marker(SEED, 9, 2, NOW, commits=commits))
    assert (header.is_control, header.control_type, header.producer_id) == (True, int(commits), 9)
    assert rows_of(decode(header, data)) == [(100, NOW, b"\0\0\0" + bytes([commits]), b"\0\0\0\0\0\1", ())]
    assert batch_fault(data, header, False) is None


def test_a_name_of_a_header_that_is_not_text_is_read_as_java_reads_it() -> None:
    assert opened(kafka_batch(SEED, [Row(NOW, headers=((b"\xff", b"v"),))])).headers() == [(("�", b"v"),)]


@pytest.mark.parametrize("number", [0, -1, 1, 63, 64, -64, -65, 1 << 31, -(1 << 31), (1 << 63) - 1, -(1 << 63)])
def test_varints_are_zigzag(number: int) -> None:
    data = varint(number)
    assert kafka_v2.varint(b"x" + data + b"y", 1) == (number, 1 + len(data))


def with_records(records: bytes, count: int = 1, **fields: Any) -> BatchColumns:
    """A batch of form 1 whose records are these bytes, with checksums that fit."""
    sealed = kafka_batch(SEED, [Row(NOW)] * count)
    payload = sealed.payload[: kafka_v2.FIXED.size] + records
    sealed = sealed._replace(payload=payload, payload_hash=columns.hash_payload(payload, SEED), **fields)
    return opened(sealed)


@pytest.mark.parametrize(
    ("records", "why"),
    [
        (b"", "past the end"),
        (varint(50) + b"\0\0\0", "longer than the rest"),
        (varint(6) + b"\0\0\0" + varint(-2) + varint(-1) + b"\0", "a length is -2"),
        (varint(5) + b"\0\0\0" + varint(-1) + varint(-1) + b"\0", "where its length says"),
        (varint(7) + b"\0\0\0" + varint(-1) + varint(-1) + b"\0\0", "where its length says"),
        (varint(7) + b"\0\0\0" + varint(-1) + varint(40) + b"\0\0", "past the end|where its length says"),
        (varint(6) + b"\0\0\0" + varint(-1) + varint(-1) + varint(-5), "counts -5 headers"),
        (varint(6) + b"\0\0\0" + varint(-1) + varint(-1) + varint(60), "counts 60 headers"),
        (varint(8) + b"\0\0\0" + varint(-1) + varint(-1) + varint(1) + varint(-1) + varint(-1), "no name"),
        (varint(6) + b"\0\0\0\1\1\0extra", "5 bytes follow"),
        (b"\xff" * 12, "more than ten bytes"),
        (b"\xff\xff", "past the end"),
    ],
)
def test_records_that_contradict_themselves_are_refused(records: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        with_records(records).keys()


@given(st.binary(max_size=60), st.integers(1, 3))
def test_bytes_of_anything_are_columns_or_a_value_error(records: bytes, count: int) -> None:
    try:
        full = with_records(records, count).all()
    except ValueError:
        return
    assert {len(column) for column in full} == {count}


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"payload": b"\2"}, "cut short"),
        ({"payload": b"\1" + bytes(60)}, "magic 1"),
        ({"record_count": 3}, "counts its records"),
        ({"last_offset_delta": 5}, "counts its records"),
        ({"attributes": 1 | 1 << 4}, "its codec"),
        ({"directory": directory_of([(1, 1)])}, "column directory"),
    ],
)
def test_a_payload_that_contradicts_the_header_is_refused(fields: dict[str, Any], why: str) -> None:
    sealed = kafka_batch(SEED, ROWS)._replace(**fields)
    header, data = stored(sealed._replace(payload_hash=columns.hash_payload(sealed.payload, SEED)))
    with pytest.raises(ValueError, match=why):
        decode(header, data).all()
    assert why in str(batch_fault(data, header, True))


def flipped(sealed: SealedBatch, at: int, code: str, value: int) -> SealedBatch:
    """The batch with another number in its fixed fields, and with the Kafka checksum of before."""
    payload = bytearray(sealed.payload)
    pack_into(code, payload, at, value)
    return sealed._replace(payload=bytes(payload), payload_hash=columns.hash_payload(bytes(payload), SEED))


@pytest.mark.parametrize(
    ("sealed", "why"),
    [
        (flipped(kafka_batch(SEED, ROWS), 11, ">q", 5), "Kafka checksum"),
        (kafka_batch(SEED, ROWS)._replace(producer_id=5), "names producer"),
        (kafka_batch(SEED, ROWS, producer=(1, 2, 3))._replace(base_sequence=4), "names producer"),
        (kafka_batch(SEED, ROWS)._replace(attributes=1 | TRANSACTIONAL), "transactional or control"),
        (kafka_batch(SEED, ROWS)._replace(uncompressed_len=1), "1 bytes uncompressed"),
        (kafka_batch(SEED, ROWS, control=1), "control type 1"),
        (kafka_batch(SEED, [Row(NOW)], control=0), "control type 0"),
        (kafka_batch(SEED, ROWS)._replace(max_timestamp=NOW), "timestamps run"),
        (kafka_batch(SEED, ROWS)._replace(base_timestamp=NOW), "timestamps run"),
        (kafka_batch(SEED, ROWS, knows=True)._replace(max_timestamp=NOW + 8), "timestamps run"),
        (kafka_batch(SEED, ROWS, knows=True)._replace(max_timestamp_delta=3), "has the greatest timestamp"),
    ],
)
def test_verify_finds_what_a_reader_does_not_look_at(sealed: SealedBatch, why: str) -> None:
    header, data = stored(sealed)
    assert decode(header, data).offsets()
    assert why in str(batch_fault(data, header, False))


def test_a_client_may_claim_a_greater_timestamp_than_its_records_have() -> None:
    header, data = stored(kafka_batch(SEED, ROWS)._replace(max_timestamp=NOW + 8))
    assert batch_fault(data, header, False) is None


def test_the_kafka_checksum_is_castagnolis() -> None:
    assert kafka_v2.crc32c(b"") == 0
    assert kafka_v2.crc32c(b"123456789") == 0xE3069283
    assert kafka_v2.crc32c(bytes(32)) == 0x8A9136AA
    assert kafka_v2.crc32c(b"56789", kafka_v2.crc32c(b"1234")) == 0xE3069283


def test_verify_computes_the_checksum_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "crc32c", None)
    kafka_v2._crc32c_of.cache_clear()
    try:
        assert kafka_v2.crc32c(memoryview(b"123456789")) == 0xE3069283
        assert kafka_v2.crc32c(b"56789", kafka_v2.crc32c(b"1234")) == 0xE3069283
    finally:
        kafka_v2._crc32c_of.cache_clear()
