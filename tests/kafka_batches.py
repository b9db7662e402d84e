"""Kafka record batches (magic 2) as a client makes them, sealed in payload form 1."""

from __future__ import annotations

from collections.abc import Sequence
from struct import pack
from typing import NamedTuple

from streamlog.records import compression, kafka_v2
from streamlog.records.batch import (
    CODEC_SHIFT,
    CONTROL,
    CONTROL_SHIFT,
    FORM_KAFKA,
    LOG_APPEND_TIME,
    NO_DELTA,
    NO_TIMESTAMP,
    TRANSACTIONAL,
    SealedBatch,
    directory_of,
    hash_payload,
)
from streamlog.records.kafka_v2 import crc32c

Headers = Sequence[tuple[str | bytes, bytes | None]]


class Row(NamedTuple):
    """One record of a Kafka batch. `delta`: its offset less the batch's; by default its number."""

    timestamp: int
    key: bytes | None = None
    value: bytes | None = None
    headers: Headers = ()
    delta: int | None = None


def varint(number: int) -> bytes:
    raw = number << 1 ^ number >> 63
    made = bytearray()
    while raw > 127:
        made.append(raw & 127 | 128)
        raw >>= 7
    return bytes([*made, raw])


def _sized(data: bytes | None) -> bytes:
    return varint(-1) if data is None else varint(len(data)) + data


def record(row: Row, base: int, number: int) -> bytes:
    """The bytes of one record, with its length."""
    body = b"\0" + varint(row.timestamp - base) + varint(number if row.delta is None else row.delta)
    body += _sized(row.key) + _sized(row.value) + varint(len(row.headers))
    for name, value in row.headers:
        body += _sized(name.encode() if isinstance(name, str) else name) + _sized(value)
    return varint(len(body)) + body


def kafka_payload(
    rows: Sequence[Row], codec: int = 0, attributes: int = 0, producer: tuple[int, int, int] = (-1, -1, -1),
    last_delta: int | None = None,
) -> tuple[bytes, int]:  # fmt: skip
    """A batch from its byte 16 on, and how long its records are before compression."""
    base = rows[0].timestamp
    records = b"".join(record(row, base, n) for n, row in enumerate(rows))
    last = len(rows) - 1 if last_delta is None else last_delta
    body = pack(">hiqq", attributes | codec, last, base, max(row.timestamp for row in rows))
    body += pack(">qhii", *producer, len(rows)) + compression.compress(codec, records)
    return pack(">bI", 2, crc32c(body)) + body, len(records)


def kafka_batch(
    seed: int, rows: Sequence[Row], *, codec: int = 0, producer: tuple[int, int, int] = (-1, -1, -1), flags: int = 0,
    control: int | None = None, knows: bool = False, last_delta: int | None = None,
) -> SealedBatch:  # fmt: skip
    """The batch sealed. `flags`: TRANSACTIONAL, LOG_APPEND_TIME; `control`: its type. `knows`: the times of all its records."""
    kafka_bits = kafka_v2.KAFKA_TRANSACTIONAL if flags & TRANSACTIONAL else 0
    if control is not None:
        flags |= CONTROL | control << CONTROL_SHIFT
        kafka_bits |= kafka_v2.KAFKA_CONTROL
    payload, raw_len = kafka_payload(rows, codec, kafka_bits, producer, last_delta)
    times = [row.timestamp for row in rows]
    first = times.index(max(times))
    delta = rows[first].delta
    return SealedBatch(
        payload, hash_payload(payload, seed), directory_of([]), FORM_KAFKA | codec << CODEC_SHIFT | flags, len(rows),
        len(rows) - 1 if last_delta is None else last_delta,
        min(times) if knows or flags & LOG_APPEND_TIME else NO_TIMESTAMP, max(times),
        (first if delta is None else delta) if knows else NO_DELTA, raw_len, *producer,
    )  # fmt: skip


def marker(seed: int, producer_id: int, epoch: int, timestamp: int, *, commits: bool) -> SealedBatch:
    """The control batch that ends a transaction."""
    row = Row(timestamp, pack(">hh", 0, commits), pack(">hi", 0, 1))
    return kafka_batch(seed, [row], producer=(producer_id, epoch, -1), flags=TRANSACTIONAL, control=int(commits))
