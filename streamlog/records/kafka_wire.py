"""Kafka record batches as clients send them and as they are served: the edge between `kafka_v2` and Kafka's protocol.

`sealed` checks a batch of a Produce request as Kafka's LogValidator does, and makes of it what a partition appends. Every
record is walked, though a header could be believed: a batch whose records contradict its header would stop each reader at
its offset for ever, and Kafka takes none. It is most of the cost. Kafka 4.4 was asked what it does with each batch that
the tests have; it takes one record at a wrong offset, which is refused here, as nothing could be read at that offset.

`served` gives a stored batch of any form as a Kafka batch.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple, NoReturn

from ..errors import CorruptRecordError, InvalidRecordError, RecordTooLargeError
from ..types import Buffer, HeaderTuple
from . import compression
from .batch import (
    CODEC_SHIFT,
    FORM_KAFKA,
    FORM_MASK,
    LOG_APPEND_TIME,
    NO_PRODUCER,
    TRANSACTIONAL,
    BatchHeader,
    SealedBatch,
    directory_of,
    hash_payload,
)
from .columns import MAX_UNCOMPRESSED, BatchColumns
from .kafka_v2 import (
    CRC_FROM,
    FIXED,
    KAFKA_APPEND_TIME,
    KAFKA_CODEC,
    KAFKA_CONTROL,
    KAFKA_MAGIC,
    KAFKA_TRANSACTIONAL,
    Fixed,
    crc32c,
    varint,
)

# Before the payload: base offset, length of what follows the length, leader epoch.
PREFIX = Struct(">qii")
OVERHEAD = PREFIX.size + FIXED.size
_LENGTH_END = 12  # what `length` counts begins here
_START = Struct(">qi")  # of the prefix: base offset, length
_LEAST_LENGTH = 14  # of a batch of any magic
_NO_COLUMNS = directory_of([])
_CRC = Struct(">bI")
_AFTER_CRC = Struct(">hiqqqhii")
_NO_TIMESTAMP = -1
_TIMES = 1 << 63
_NULL = b"\1"  # the length of what is null


class Walked(NamedTuple):
    """What a walk through a batch's records has found: the least and greatest timestamp delta, and whose that one is."""

    least: int
    greatest: int
    newest: int


# -- in --------------------------------------------------------------------------------------------------


def sealed(
    seed: int,
    data: Buffer,
    *,
    codec: int | None = None,
    max_bytes: int = MAX_UNCOMPRESSED,
    max_uncompressed: int = MAX_UNCOMPRESSED,
) -> SealedBatch:
    """The batch in `data`, the records of one partition of a Produce request, for the partition of this seed.

    Its payload is a copy of the batch's bytes from 16 on. Where the client says of them what is not so (a greatest timestamp
    that no record has, that a broker stamped them), they are corrected, as Kafka does; and where its records have another codec
    than `codec`, they are compressed anew. Raises, with what Kafka answers:

    - CorruptRecordError (2): an impossible length or magic, or it does not match its CRC-32C.
    - InvalidRecordError (87): no whole batch, or several; magic 0 or 1; a base offset other than 0; a control batch; counts
      that contradict one another or the records; a producer without sequence; records that cannot be read.
    - RecordTooLargeError (10): over `max_bytes` as it came, or as it would be stored. UnsupportedCompressionTypeError (Kafka: -1),
      MissingExtraError.
    - InvalidRecordError for what cannot be decompressed to at most `max_uncompressed` bytes (Kafka: -1).

    What depends on the topic (keys, bounds of timestamps) is the partition's to check. Cost: 3 µs, 2.4 µs
    per 16 KiB, and 0.25 µs a record; and what decompression takes.
    """
    data = _only_batch(memoryview(data))
    fixed = _checked(data, max_bytes)
    payload = records = bytes(data[PREFIX.size :])
    begin = FIXED.size  # of the records, of which a copy would take as long as all the rest of a large batch
    theirs = fixed.attributes & KAFKA_CODEC
    if theirs:
        try:
            records = compression.decompress_up_to(theirs, memoryview(payload)[begin:], max_uncompressed)
        except ValueError as error:
            _refuse(f"cannot be decompressed ({error})")
        begin = 0
    try:
        walked = walk(records, fixed.record_count, begin)
    except (ValueError, IndexError) as error:
        _refuse(f"has records that contradict themselves or its count ({error})")
    least, greatest = fixed.base_timestamp + walked.least, fixed.base_timestamp + walked.greatest
    if not -_TIMES <= least <= greatest < _TIMES:
        _refuse(f"has timestamps from {least} to {greatest}, which 64 bits do not hold")
    codec = theirs if codec is None else codec
    if codec != theirs or fixed.attributes & KAFKA_APPEND_TIME or fixed.max_timestamp != greatest:
        stored = payload[FIXED.size :] if codec == theirs else compression.compress(codec, records[begin:])
        payload = _corrected(stored, fixed, codec, greatest)
        _check_size(PREFIX.size + len(payload), max_bytes)
    has_producer = fixed.producer_id >= 0
    transactional = TRANSACTIONAL if fixed.attributes & KAFKA_TRANSACTIONAL else 0
    return SealedBatch(
        payload,
        hash_payload(payload, seed),
        _NO_COLUMNS,
        FORM_KAFKA | codec << CODEC_SHIFT | transactional,
        fixed.record_count,
        fixed.last_offset_delta,
        least,
        greatest,
        walked.newest,
        len(records) - begin,
        fixed.producer_id if has_producer else NO_PRODUCER,
        fixed.producer_epoch if has_producer else -1,
        fixed.base_sequence if has_producer else -1,
        seed=seed,
    )


def claimed_records(data: Buffer) -> int:
    """How many records a batch says that it has, which `sealed` would walk; 0 for what is too short. Nothing is checked."""
    return Fixed._make(FIXED.unpack_from(data, PREFIX.size)).record_count if len(data) >= OVERHEAD else 0


def codec_of(data: Buffer) -> int:
    """The codec that a client's batch came with. REQUIRES: `claimed_records` of it is not 0. Nothing is checked."""
    attributes: int = FIXED.unpack_from(data, PREFIX.size)[2]
    return attributes & KAFKA_CODEC


def _only_batch(data: memoryview) -> memoryview:
    """The one batch in `data`. Bytes after it that are no whole batch are ignored, as Kafka does."""
    batch = _first_batch(data)
    if batch is None:
        _refuse(f"of {len(data)} bytes is cut short")
    if _first_batch(data[len(batch) :]) is not None:
        _refuse("is not the only one that was sent for the partition")
    return batch


def _first_batch(data: memoryview) -> memoryview | None:
    """None if not even its length is there, or not all of it."""
    if len(data) < _LENGTH_END:
        return None
    _, length = _START.unpack_from(data)
    if length < _LEAST_LENGTH:
        _refuse_damaged(f"has {length} bytes, and none has fewer than {_LEAST_LENGTH}")
    return data[: length + _LENGTH_END] if length + _LENGTH_END <= len(data) else None


def _checked(data: memoryview, max_bytes: int) -> Fixed:
    """The fixed fields of the batch, which are in order."""
    magic = data[PREFIX.size]
    if magic in (0, 1):
        _refuse(f"has magic {magic}, that of clients before Kafka 0.11, and only {KAFKA_MAGIC} is taken")
    if magic != KAFKA_MAGIC:
        _refuse_damaged(f"has magic {magic}, and only {KAFKA_MAGIC} is known")
    if len(data) < OVERHEAD:
        _refuse_damaged(f"of {len(data)} bytes is shorter than its own fields")
    fixed = Fixed._make(FIXED.unpack_from(data, PREFIX.size))
    actual = crc32c(data[PREFIX.size + CRC_FROM :])
    if actual != fixed.crc:
        _refuse_damaged("does not match its CRC-32C", fixed.crc, actual)
    _check_size(len(data), max_bytes)
    base_offset, _ = _START.unpack_from(data)
    if base_offset:
        _refuse(f"has base offset {base_offset}; a producer's begins at 0")
    compression.codec_name(fixed.attributes & KAFKA_CODEC)
    if fixed.attributes & KAFKA_CONTROL:
        _refuse("is a control batch, which only a broker writes")
    if fixed.record_count < 1 or fixed.last_offset_delta != fixed.record_count - 1:
        _refuse(f"counts {fixed.record_count} records at {fixed.last_offset_delta + 1} offsets")
    if fixed.producer_id >= 0:
        if min(fixed.producer_epoch, fixed.base_sequence) < 0:
            _refuse(f"of producer {fixed.producer_id} has epoch {fixed.producer_epoch}, sequence {fixed.base_sequence}")
    elif fixed.attributes & KAFKA_TRANSACTIONAL:
        _refuse("is transactional and names no producer")
    return fixed


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise RecordTooLargeError(
            f"A batch of {size} bytes is larger than the {max_bytes} allowed (max_message_bytes). Raise that, or send "
            f"smaller batches. Nothing was appended.",
            size=size,
            max_size=max_bytes,
        )


def _corrected(records: bytes, fixed: Fixed, codec: int, max_timestamp: int) -> bytes:
    """The payload with what a broker says of its records, which are compressed with `codec`."""
    attributes = fixed.attributes & ~(KAFKA_APPEND_TIME | KAFKA_CODEC) | codec
    said = fixed._replace(attributes=attributes, max_timestamp=max_timestamp)
    rest = _AFTER_CRC.pack(*said[2:]) + records
    return _CRC.pack(KAFKA_MAGIC, crc32c(rest)) + rest


def walk(data: bytes, count: int, at: int = 0) -> Walked:
    """Check that `data` is, from `at` on, `count` records of a new batch, without keeping any.

    Raises ValueError or IndexError otherwise. Cost: 0.25 µs a record; a varint of one byte or two is read here, as calls of
    `varint` for them would take half as much again. Records that are alike are compared together: 20 ns a record.
    """
    newest = first = begin = 0
    least, greatest = _MORE, -_MORE
    alone = 1  # so many records are looked at by themselves before others are compared with the last of them
    while first < count:
        end = min(count, first + alone)
        for number in range(first, end):
            begin = at
            size, after = data[at], data[at + 1]
            if size < 128:
                at += 1
            elif after < 128:
                size += (after << 7) - 128
                at += 2
            else:
                size, at = _zigzag(data, at)
            stop = at + (size >> 1)
            time, after = data[at + 1], data[at + 2]  # after a byte of attributes
            if time < 128:
                at += 2
            elif after < 128:
                time += (after << 7) - 128
                at += 3
            else:
                time, at = _zigzag(data, at + 1)
            delta, after = data[at], data[at + 1]
            if delta < 128:
                at += 1
            elif after < 128:
                delta += (after << 7) - 128
                at += 2
            else:
                delta, at = _zigzag(data, at)
            if delta != number << 1:
                raise ValueError(f"record {number} has another offset")
            length = data[at]
            if length == 1:
                at += 1
            else:
                at = _after_bytes(data, at) if length & 129 else at + 1 + (length >> 1)
            length, after = data[at], data[at + 1]
            if length < 128 and not length & 1:
                at += 1 + (length >> 1)
            elif after < 128 and not length & 1:
                at += 2 + (length + (after << 7) - 128 >> 1)
            else:
                at = _after_bytes(data, at)
            at = _after_headers(data, at) if data[at] else at + 1
            if at != stop or size & 1:
                raise ValueError(f"record {number} does not end where its length says")
            time = time >> 1 ^ -(time & 1)
            if time > greatest:
                greatest, newest = time, number
            if time < least:
                least = time
        alike = _alike(data, begin, at, end, count)
        first = end + alike
        at += alike * (at - begin)
        alone = 1 if alike else min(2 * alone, _MOST_ALONE)
    if at != len(data):
        raise ValueError(f"{len(data) - at} bytes follow the last record")
    return Walked(least, greatest, newest)


_MORE = 1 << 64  # than any timestamp
# How many records are compared together, at least and at most; and how many are looked at by themselves where the last ones were not alike.
_FEWEST_ALIKE, _MOST_ALIKE = 32, 1024
_MOST_ALONE = 256
# The first bytes of the offsets of records as varints: of the first 64, of one byte; then of the low 13 bits of others.
_SMALL, _BLOCK = 64, 1 << 13
_SMALL_DELTAS = bytes(range(0, 2 * _SMALL, 2))
_FIRST_BYTES = bytes(range(128, 256, 2)) * (_BLOCK // _SMALL)
_LAST_BYTES = b"".join(bytes((each,)) * _SMALL for each in range(128))
_SECOND_BYTES = b"".join(bytes((each,)) * _SMALL for each in range(128, 256))


def _alike(data: bytes, begin: int, end: int, number: int, count: int) -> int:
    """How many records from `number` on differ from the one before, `data[begin:end]`, in the bytes of keys and values alone.

    Their offsets are as they have to be, and their lengths and timestamps are those of the one before, which was checked: nothing of
    them has to be. One byte of all of them is a slice, so that no record is looked at by itself. Applications send many such
    records; of others only a few are compared. A record with headers is alike to none.
    """
    length, before = end - begin, number - 1
    last = _SMALL if before < _SMALL else (before | _BLOCK - 1) + 1  # up to there offsets have the same number of bytes
    most = min(min(count, last) - number, (len(data) - end) // length, _MOST_ALIKE)
    if most < _FEWEST_ALIKE:
        return 0
    time = varint(data, begin)[1] + 1  # after a byte of attributes
    offset = varint(data, time)[1]
    key_len = varint(data, offset)[1]
    key_size, key = varint(data, key_len)
    value_len = key + max(0, key_size)
    value_size, value = varint(data, value_len)
    headers = value + max(0, value_size)
    if data[headers]:
        return 0
    if before < _SMALL:
        offsets: tuple[bytes, ...] = (_SMALL_DELTAS,)
    else:
        offsets = (_FIRST_BYTES, _LAST_BYTES if before < _BLOCK else _SECOND_BYTES)
    same = [
        *range(begin, time - 1), *range(time, offset), *range(offset + len(offsets), key), *range(value_len, value), headers,
    ]  # fmt: skip
    for at in same:
        byte = data[at : at + 1]
        column = data[at + length : at + most * length + 1 : length]
        if column != byte * most:
            most -= len(column.lstrip(byte))
            if most < _FEWEST_ALIKE:
                return 0
    first = number % _BLOCK
    for at, expected in enumerate(offsets, offset):
        if data[at + length : at + most * length + 1 : length] != expected[first : first + most]:
            return 0
    return most


def _zigzag(data: Buffer, at: int) -> tuple[int, int]:
    """The number at `at` before it is made a signed one, and where it ends."""
    number, at = varint(data, at)
    return number << 1 ^ number >> 63, at


def _after_bytes(data: Buffer, at: int) -> int:
    """Where the key or the value whose length is at `at` ends."""
    length, at = varint(data, at)
    if length < -1:
        raise ValueError(f"a length is {length}")
    return at + max(0, length)


def _after_headers(data: Buffer, at: int) -> int:
    """Where the headers that begin at `at` end."""
    count, at = varint(data, at)
    if not 0 <= count <= len(data) - at:
        raise ValueError(f"a record counts {count} headers")
    for _ in range(count):
        length, at = varint(data, at)
        if length < 0:
            raise ValueError("a header has no name")
        at = _after_bytes(data, at + length)
    return at


def _refuse_damaged(why: str, expected: int = 0, actual: int = 0) -> NoReturn:
    raise CorruptRecordError(
        f"A batch {why}: it was damaged on its way, or is none. Nothing was appended.",
        path="",
        position=0,
        expected=expected,
        actual=actual,
    )


def _refuse(why: str) -> NoReturn:
    raise InvalidRecordError(f"A batch {why}. Nothing was appended.")


# -- out -------------------------------------------------------------------------------------------------


def served(header: BatchHeader, columns: BatchColumns) -> list[Buffer]:
    """The stored batch as a Kafka batch: buffers to be sent one after the other, none of which is a view of a mapping.

    A batch of form 1 is as its client sent it, but for what the broker stamps. One of form 0 is encoded, and compressed
    with the codec that it is stored with; that of no records, which compaction leaves, is an empty batch, and a marker
    a control batch. REQUIRES: it was verified. Cost: 1 µs for form 1, 49 µs per MB more under LogAppendTime; 0.5 µs a record for
    form 0.
    """
    if header.attributes & FORM_MASK:
        return _served_payload(header, columns.payload())
    count, base = header.record_count, header.base_timestamp
    timestamps = columns.timestamps()
    if timestamps:
        base = timestamps[0]
    codec = header.codec if count else 0
    records = _encoded(columns, base) if count else b""
    if codec:
        records = compression.compress(codec, records)
    attributes = codec
    if header.attributes & LOG_APPEND_TIME:
        attributes |= KAFKA_APPEND_TIME
    if header.attributes & TRANSACTIONAL:
        attributes |= KAFKA_TRANSACTIONAL
    if header.is_control:
        attributes |= KAFKA_CONTROL
    fixed = _AFTER_CRC.pack(
        attributes,
        header.last_offset_delta,
        base,
        header.max_timestamp if count else _NO_TIMESTAMP,
        header.producer_id,
        header.producer_epoch,
        header.base_sequence,
        count,
    )
    return [_opening(header, fixed, records), records]


def _opening(header: BatchHeader, fixed: bytes, records: Buffer) -> bytes:
    """All that comes before the records: the prefix, magic, checksum, and the `fixed` fields after it."""
    length = PREFIX.size - _LENGTH_END + FIXED.size + len(records)
    crc = crc32c(records, crc32c(fixed))
    return PREFIX.pack(header.base_offset, length, header.leader_epoch) + _CRC.pack(KAFKA_MAGIC, crc) + fixed


def _served_payload(header: BatchHeader, payload: bytes) -> list[Buffer]:
    if header.attributes & LOG_APPEND_TIME:
        _, _, attributes, *between, _, id_, epoch, sequence, count = FIXED.unpack_from(payload)
        fixed = _AFTER_CRC.pack(
            attributes | KAFKA_APPEND_TIME, *between, header.max_timestamp, id_, epoch, sequence, count
        )
        records = memoryview(payload)[FIXED.size :]
        return [_opening(header, fixed, records), records]
    length = PREFIX.size - _LENGTH_END + len(payload)
    return [PREFIX.pack(header.base_offset, length, header.leader_epoch), payload]


def _encoded(columns: BatchColumns, base_timestamp: int) -> bytes:
    """The records as rows."""
    header, full = columns.header, columns.all()
    base_offset, varints = header.base_offset, _VARINTS
    parts: list[bytes] = []
    add = parts.append
    for offset, timestamp, key, value, headers in zip(*full, strict=True):
        time, delta = timestamp - base_timestamp, offset - base_offset
        if key is None:
            key_len, key = _NULL, b""
        else:
            key_len = varints[len(key)] if len(key) < _FEW else put_varint(len(key))
        if value is None:
            value_len, value = _NULL, b""
        else:
            value_len = varints[len(value)] if len(value) < _FEW else put_varint(len(value))
        body = b"".join(
            (
                b"\0",
                varints[time] if 0 <= time < _FEW else put_varint(time),
                varints[delta] if delta < _FEW else put_varint(delta),
                key_len,
                key,
                value_len,
                value,
                _encoded_headers(headers) if headers else b"\0",
            )
        )
        add(varints[len(body)] if len(body) < _FEW else put_varint(len(body)))
        add(body)
    return b"".join(parts)


def _encoded_headers(headers: HeaderTuple) -> bytes:
    parts = [put_varint(len(headers))]
    for name, value in headers:
        encoded = name.encode()
        parts += [put_varint(len(encoded)), encoded]
        parts += [_NULL] if value is None else [put_varint(len(value)), value]
    return b"".join(parts)


def put_varint(number: int) -> bytes:
    """The zigzag form of a number of up to 64 bits."""
    raw = number << 1 ^ number >> 63
    made = bytearray()
    while raw > 127:
        made.append(raw & 127 | 128)
        raw >>= 7
    made.append(raw)
    return bytes(made)


# Of lengths and deltas as most records have them: of one byte, and of two. `put_varint` would take 1 ms for all.
_FEW = 2048
_VARINTS = tuple(
    [bytes((2 * number,)) for number in range(64)]
    + [bytes((2 * number & 127 | 128, number >> 6)) for number in range(64, _FEW)]
)
