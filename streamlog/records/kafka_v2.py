"""Payload form 1: a Kafka record batch (magic 2) as a client sent it, from its byte 16 on; `kafka_wire` makes and serves it.

The 16 bytes before (base offset, length, leader epoch) lie outside Kafka's checksum; the listener makes them from our header
when it serves the batch, so a produced batch is stored and served without being encoded anew. Our header repeats what
offsets, indexes, retention and idempotence need of the payload, and is what counts: under LogAppendTime the payload
still has the producer's timestamps and the header the time of the append.

Numbers in the payload are big-endian. After 45 bytes of fixed fields come the records, all compressed together if they are.
Each is a row of varints and bytes, so a column cannot be decoded alone: the first one that is asked for decodes all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from struct import Struct
from typing import Any, NamedTuple

from ..types import Buffer, HeaderTuple
from . import compression
from .batch import CONTROL, LOG_APPEND_TIME, MIN_HEADER_LEN, NO_PRODUCER, TRANSACTIONAL, BatchHeader
from .columns import HEADERS, KEYS, MAX_UNCOMPRESSED, OFFSETS, TIMESTAMPS, VALUES, BatchColumns

KAFKA_MAGIC = 2
# Kafka's attributes.
KAFKA_CODEC, KAFKA_APPEND_TIME, KAFKA_TRANSACTIONAL, KAFKA_CONTROL = 7, 1 << 3, 1 << 4, 1 << 5
# magic, CRC-32C of all that follows it, attributes, last offset delta, base timestamp, greatest timestamp, producer id,
# producer epoch, base sequence, number of records
FIXED = Struct(">bIhiqqqhii")
CRC_FROM = 5
_MAX_SHIFT = 63


class Fixed(NamedTuple):
    """The fixed fields of the payload, with Kafka's meaning: `base_timestamp` is the first record's."""

    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int


def fixed_fields(payload: Buffer) -> Fixed:
    """The fixed fields. Raises ValueError if the payload is too short or of another magic."""
    if len(payload) < FIXED.size:
        raise ValueError(f"a Kafka batch of {len(payload)} bytes is cut short")
    fields = Fixed._make(FIXED.unpack_from(payload))
    if fields.magic != KAFKA_MAGIC:
        raise ValueError(f"a Kafka batch has magic {fields.magic}, and only {KAFKA_MAGIC} is stored")
    return fields


class KafkaColumns(BatchColumns):
    """The columns of a batch of payload form 1. The first that is asked for decodes all: 1 to 3 µs a record."""

    __slots__ = ("_columns",)

    def __init__(self, buffer: Buffer, position: int, header: BatchHeader) -> None:
        self.header = header
        self._buffer = buffer
        self._start = position + header.header_len
        self._entries = []  # there is no directory: no column lies anywhere
        self._columns: dict[int, Sequence[Any]] | None = None
        if header.header_len != MIN_HEADER_LEN:
            raise ValueError("a batch of payload form 1 has a column directory")

    def _column(self, kind: int) -> Any:
        if self._columns is None:
            self._columns = _columns(self.header, self.payload())
        return self._columns.get(kind)

    @property
    def only_keys_and_values(self) -> bool:
        return False

    def timestamps(self) -> Sequence[int] | None:
        if self.header.attributes & LOG_APPEND_TIME:
            return None
        times: Sequence[int] = self._column(TIMESTAMPS)
        return times


def _columns(header: BatchHeader, payload: bytes) -> dict[int, Sequence[Any]]:
    """The columns of a payload; one without information is left out, except the timestamps."""
    fixed = fixed_fields(payload)
    count = fixed.record_count
    if (count, fixed.last_offset_delta, fixed.attributes & KAFKA_CODEC) != (
        header.record_count, header.last_offset_delta, header.codec
    ):  # fmt: skip
        raise ValueError("a Kafka batch counts its records, its offsets or its codec other than its header")
    data = payload[FIXED.size :]
    if header.codec:
        data = compression.decompress(header.codec, data, header.uncompressed_len, MAX_UNCOMPRESSED)
    deltas, times, keys, values, headers = _rows(data, count)
    columns: dict[int, Sequence[Any]] = {}
    if deltas != list(range(count)):
        columns[OFFSETS] = deltas
    base = fixed.base_timestamp
    append_time = fixed.attributes & KAFKA_APPEND_TIME
    columns[TIMESTAMPS] = [fixed.max_timestamp] * count if append_time else [base + delta for delta in times]
    columns |= {kind: column for kind, column in ((KEYS, keys), (VALUES, values)) if column.count(None) != count}
    if any(headers):
        columns[HEADERS] = headers
    return columns


def _rows(data: bytes, count: int) -> tuple[list[int], list[int], list[Any], list[Any], list[HeaderTuple]]:
    """The records in `data` by columns: offset deltas, timestamp deltas, keys, values, headers."""
    deltas: list[int] = []
    times: list[int] = []
    keys: list[bytes | None] = []
    values: list[bytes | None] = []
    headers: list[HeaderTuple] = []
    at, end = 0, len(data)
    try:
        for _ in range(count):
            length, at = varint(data, at)
            stop = at + length
            if stop > end:
                raise ValueError("a record is longer than the rest of its Kafka batch")
            time, at = varint(data, at + 1)  # a byte of attributes, which have no meaning yet
            delta, at = varint(data, at)
            key, at = _sized(data, at)
            value, at = _sized(data, at)
            header_count, at = varint(data, at)
            named: HeaderTuple = ()
            if header_count:
                named, at = _headers(data, at, header_count)
            if at != stop:
                raise ValueError("a record does not end where its length says")
            deltas.append(delta)
            times.append(time)
            keys.append(key)
            values.append(value)
            headers.append(named)
    except IndexError as error:
        raise ValueError("a record runs past the end of its Kafka batch") from error
    if at != end:
        raise ValueError(f"{end - at} bytes follow the last record of a Kafka batch")
    return deltas, times, keys, values, headers


def _headers(data: bytes, at: int, count: int) -> tuple[HeaderTuple, int]:
    """A name that is not UTF-8 is given as Kafka's Java client gives it, with replacement characters."""
    if not 0 < count <= len(data) - at:
        raise ValueError(f"a record counts {count} headers")
    pairs: list[tuple[str, bytes | None]] = []
    for _ in range(count):
        name, at = _sized(data, at)
        if name is None:
            raise ValueError("a header has no name")
        value, at = _sized(data, at)
        pairs.append((name.decode(errors="replace"), value))
    return tuple(pairs), at


def _sized(data: bytes, at: int) -> tuple[bytes | None, int]:
    """The bytes after a length; None for the length -1. They may be cut short: the caller compares where they end."""
    size, at = varint(data, at)
    if size < 0:
        if size != -1:
            raise ValueError(f"a length is {size}")
        return None, at
    return data[at : at + size], at + size


def varint(data: Buffer, at: int) -> tuple[int, int]:
    """A zigzag number and where it ends. Raises IndexError at the end of `data`."""
    byte = data[at]
    if byte < 128:
        return byte >> 1 ^ -(byte & 1), at + 1
    raw, shift = byte & 127, 7
    while byte >= 128:
        at += 1
        byte = data[at]
        raw |= (byte & 127) << shift
        shift += 7
        if shift > _MAX_SHIFT + 7:
            raise ValueError("a number takes more than ten bytes")
    if raw >> 64:
        raise ValueError("a number takes more than 64 bits")
    return raw >> 1 ^ -(raw & 1), at + 1


def payload_fault(header: BatchHeader, payload: bytes, columns: BatchColumns) -> str | None:
    """Where the payload contradicts itself or our header, for verify; None if it does not. REQUIRES: it decodes."""
    fixed = fixed_fields(payload)
    actual = crc32c(payload[CRC_FROM:])
    if actual != fixed.crc:
        return f"its Kafka checksum is {fixed.crc:#x}, and that of its bytes {actual:#x}"
    if not header.codec and header.uncompressed_len != len(payload) - FIXED.size:
        return f"the header says {header.uncompressed_len} bytes uncompressed, its Kafka batch has {len(payload) - FIXED.size}"
    producer = (header.producer_id, header.producer_epoch, header.base_sequence)
    theirs = (fixed.producer_id, fixed.producer_epoch, fixed.base_sequence)
    if theirs != producer and (theirs[0] >= 0 or producer[0] != NO_PRODUCER):  # some clients have 0 for the other two
        return f"the header names producer, epoch and sequence {producer}, its Kafka batch others"
    ours, kafkas = header.attributes, fixed.attributes
    if (bool(ours & TRANSACTIONAL), bool(ours & CONTROL)) != (
        bool(kafkas & KAFKA_TRANSACTIONAL), bool(kafkas & KAFKA_CONTROL)
    ):  # fmt: skip
        return "the header and its Kafka batch disagree on what is transactional or control"
    if header.is_control:
        keys = columns.keys() or [None]
        if (keys[0] or b"")[2:4] != header.control_type.to_bytes(2, "big"):  # after two bytes of a version
            return f"the header says control type {header.control_type}, its Kafka batch another"
    return None


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_CRC_TABLE = _crc_table()


def _crc32c_in_python(data: Buffer, value: int = 0) -> int:
    crc, table = value ^ 0xFFFFFFFF, _CRC_TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


@cache
def _crc32c_of() -> Callable[[Buffer, int], int]:
    """That of the package crc32c (extra `kafka`), imported when it is first used: 14 ms."""
    try:
        from crc32c import crc32c
    except ImportError:
        return _crc32c_in_python
    made: Callable[[Buffer, int], int] = crc32c
    return made


def crc32c(data: Buffer, value: int = 0) -> int:
    """CRC-32C (Castagnoli), Kafka's checksum, of `data` after what has the checksum `value`.

    Cost: 2 µs for 16 KiB with the package crc32c; 800 µs without it, which verify alone can do.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    return _crc32c_of()(data, value)
