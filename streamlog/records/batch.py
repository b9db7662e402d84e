"""A batch: a header with two checksums, a column directory, a payload.

`header_hash` covers header and directory, `payload_hash` the payload. Both are seeded with the
topic's id and the partition, so a batch in the wrong file, or one that a user stored inside a value,
never verifies. Offsets and the leader epoch are stamped at append time: they are in the header, so the
payload is hashed before any lock is taken, and stamping costs a microsecond.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from struct import error as struct_error
from typing import Any, NamedTuple

from xxhash import xxh3_64_intdigest, xxh64_intdigest

from ..errors import CorruptRecordError, FormatError
from ..types import Buffer
from .core import core

MAGIC = b"SLB\x02"
VERSION = 2
NO_PRODUCER = -1
NO_HORIZON = -1
NO_TIMESTAMP = -1
NO_DELTA = -1
MAX_SEQUENCE = (1 << 31) - 1  # the one after it is 0

FORM_MASK, FORM_COLUMNS, FORM_KAFKA = 0x0F, 0, 1
UNKNOWN_FORM = FORM_MASK & ~FORM_KAFKA
CODEC_SHIFT, CODEC_MASK = 4, 0xF0
LOG_APPEND_TIME = 1 << 8
TRANSACTIONAL = 1 << 9
CONTROL = 1 << 10
NOT_PLAIN = TRANSACTIONAL | CONTROL  # what not every reader sees
CONTROL_SHIFT, CONTROL_MASK = 12, 0xF000
ABORT, COMMIT = 0, 1  # control types; leader change 2, snapshot 3, feature level 4

# The layout of a header: a prefix, `header_hash`, the other fields, and the column directory. No other module but `_core.c` knows it.
PREFIX_FORMAT, REST_FORMAT, ENTRY_FORMAT = "4sBHI", "QIqiiiqqiqqqhiIII", "BI"
_PREFIX = Struct("<" + PREFIX_FORMAT)
_HASH = Struct("<I")
_BODY = Struct("<" + REST_FORMAT)
_HEADER = Struct("<" + PREFIX_FORMAT + "I" + REST_FORMAT)
_ENTRY = Struct("<" + ENTRY_FORMAT)
_TWO = Struct("<B" + 2 * ENTRY_FORMAT)
# `header_hash` covers the header without itself: the bytes before the first of these positions, and from the second on.
HASH_AT = _PREFIX.size
HASHED_FROM = HASH_AT + _HASH.size
FIXED_LEN = _HEADER.size
# The fields that `storage/scan.py` decodes of millions of headers: magic, version, header_len, batch_len, header_hash,
# payload_hash, attributes, base_offset, last_offset_delta, record_count, base_timestamp, max_timestamp,
# append_timestamp and producer_id. Decoding all of them takes a third longer.
SCANNED_FIELDS = Struct("<" + PREFIX_FORMAT + "I" + "QIqi4xiqq4xq8xq")
# The fields that a follower needs of a record that its leader has in memory: attributes, base_offset, leader_epoch,
# record_count, base_timestamp, append_timestamp, producer_id, producer_epoch and base_sequence.
copied_fields = Struct("<23xIq4xiiq12xq8xqhi").unpack_from
_batch_len_of = Struct("<7xI").unpack_from
_base_offset_of = Struct("<27xq").unpack_from
MIN_HEADER_LEN = FIXED_LEN + 1
_ONE_HEADER_LEN = FIXED_LEN + 1 + _ENTRY.size
_TWO_HEADER_LEN = FIXED_LEN + 1 + 2 * _ENTRY.size
MAX_HEADER_LEN = FIXED_LEN + 1 + 255 * _ENTRY.size
MAX_BATCH_LEN = 1 << 30
# A column that is left out costs no byte, so a batch of more records than this has to have a byte for each.
MAX_FREE_RECORDS = 1 << 22
MAX_RECORDS = 1 << 25
MAX_OFFSET = 1 << 62  # no log grows to this: a greater number is not an offset, and sums stay within 64 bits

_header_into = _HEADER.unpack_from
_two = _TWO.unpack_from
_NO_HEADER: tuple[Any, ...] = (b"", 0, 0, 0, 0, 0, 0)
_new_tuple: Any = tuple.__new__  # namedtuple's own __new__ is a Python call
_hash32 = 0xFFFFFFFF


class BatchHeader(NamedTuple):
    """A batch's header as stored. Lengths are bytes; times ms; `batch_len` includes the header.

    `base_timestamp` is the least of its records, `max_timestamp` the greatest; `max_timestamp_delta` is the offset of the
    first record that has the greatest, less `base_offset`; -1 if that is not known, or there is none. In payload form 1 the
    least may be unknown too (-1), and then nothing may be concluded from it.
    """

    magic: bytes
    version: int
    header_len: int
    batch_len: int
    header_hash: int
    payload_hash: int
    attributes: int
    base_offset: int
    last_offset_delta: int
    leader_epoch: int
    record_count: int
    base_timestamp: int
    max_timestamp: int
    max_timestamp_delta: int
    append_timestamp: int
    delete_horizon: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    uncompressed_len: int
    schema_id: int
    key_id: int

    @property
    def last_offset(self) -> int:
        return self.base_offset + self.last_offset_delta

    @property
    def next_offset(self) -> int:
        return self.base_offset + self.last_offset_delta + 1

    @property
    def form(self) -> int:
        return self.attributes & FORM_MASK

    @property
    def codec(self) -> int:
        return (self.attributes & CODEC_MASK) >> CODEC_SHIFT

    @property
    def is_control(self) -> bool:
        return bool(self.attributes & CONTROL)

    @property
    def control_type(self) -> int:
        return (self.attributes & CONTROL_MASK) >> CONTROL_SHIFT


class SealedBatch(NamedTuple):
    """An encoded batch that is not in a log yet: everything except offset, epoch and append time.

    `seed` is that of `payload_hash` if this process computed it. 0 is a batch that comes from elsewhere: its payload is
    verified before it is appended.
    """

    payload: bytes
    payload_hash: int
    directory: bytes
    attributes: int
    record_count: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    max_timestamp_delta: int
    uncompressed_len: int
    producer_id: int = NO_PRODUCER
    producer_epoch: int = -1
    base_sequence: int = -1
    delete_horizon: int = NO_HORIZON
    seed: int = 0

    @property
    def length(self) -> int:
        """Its size on disk in bytes."""
        return FIXED_LEN + len(self.directory) + len(self.payload)

    @property
    def next_sequence(self) -> int:
        """The sequence of the producer's record after the last one of this batch."""
        return (self.base_sequence + self.last_offset_delta + 1) & MAX_SEQUENCE

    def sequenced(
        self, producer_id: int, producer_epoch: int, base_sequence: int, *, transactional: bool = False
    ) -> SealedBatch:
        """The batch as this producer's; its first record has the sequence `base_sequence` (KIP-98).

        Only the header will say so, so nothing is encoded or hashed again.
        """
        attributes = self.attributes | TRANSACTIONAL if transactional else self.attributes & ~TRANSACTIONAL
        # A third of what `_replace` costs, for each batch of nearly every producer.
        made: SealedBatch = _new_tuple(
            SealedBatch,
            (*self[:3], attributes, *self[4:10], producer_id, producer_epoch, base_sequence, *self[13:]),
        )
        return made


def seed_of(topic_id: bytes, partition: int) -> int:
    """The seed of both checksums of a partition's batches. `topic_id` is the 16 bytes of the uuid."""
    return xxh64_intdigest(topic_id + partition.to_bytes(4, "little"))


def directory_of(entries: Sequence[tuple[int, int]]) -> bytes:
    """The column directory: the number of columns, then kind and length in bytes of each."""
    if len(entries) == 2:  # keys and values: almost every batch
        return _TWO.pack(2, *entries[0], *entries[1])
    return bytes([len(entries)]) + b"".join(_ENTRY.pack(kind, length) for kind, length in entries)


def header_len_for(columns: int) -> int:
    """The length of a header whose directory has this many columns."""
    return MIN_HEADER_LEN + columns * _ENTRY.size


def hash_payload(payload: Buffer, seed: int) -> int:
    return xxh3_64_intdigest(payload, seed)


def stamp(batch: SealedBatch, seed: int, base_offset: int, leader_epoch: int, append_ms: int) -> bytes:
    """The header of `batch` at its place in the log; the payload follows it unchanged.

    With LogAppendTime the batch's timestamps become `append_ms`.
    """
    (payload, payload_hash, directory, attributes, count, last_delta, base_ts, max_ts, max_delta, raw_len, producer_id, producer_epoch, sequence, horizon, _) = batch  # fmt: skip
    if attributes & LOG_APPEND_TIME:
        base_ts = max_ts = append_ms
        max_delta = 0 if count else NO_DELTA
    header_len = FIXED_LEN + len(directory)
    prefix = _PREFIX.pack(MAGIC, VERSION, header_len, header_len + len(payload))
    body = _BODY.pack(payload_hash, attributes, base_offset, last_delta, leader_epoch, count, base_ts, max_ts, max_delta, append_ms, horizon, producer_id, producer_epoch, sequence, raw_len, 0, 0)  # fmt: skip
    digest = xxh3_64_intdigest(prefix + body + directory, seed) & _hash32
    return prefix + _HASH.pack(digest) + body + directory


def restamp(header: BatchHeader, sealed: SealedBatch, seed: int) -> bytes:
    """The header of `sealed`, a compacted form of the batch at `header`, with that batch's own place and times."""
    directory = sealed.directory
    header_len = FIXED_LEN + len(directory)
    prefix = _PREFIX.pack(MAGIC, VERSION, header_len, header_len + len(sealed.payload))
    body = _BODY.pack(
        sealed.payload_hash, sealed.attributes, header.base_offset, header.last_offset_delta, header.leader_epoch,
        sealed.record_count, sealed.base_timestamp, sealed.max_timestamp, sealed.max_timestamp_delta,
        header.append_timestamp, sealed.delete_horizon, header.producer_id, header.producer_epoch, header.base_sequence,
        sealed.uncompressed_len, header.schema_id, header.key_id,
    )  # fmt: skip
    digest = xxh3_64_intdigest(prefix + body + directory, seed) & _hash32
    return prefix + _HASH.pack(digest) + body + directory


def with_horizon(header: BatchHeader, data: bytes, seed: int, horizon: int) -> bytes:
    """The batch in `data` with another delete horizon: nothing but its header is written anew, in any payload form."""
    fixed = _HEADER.pack(*header._replace(delete_horizon=horizon))
    directory = data[FIXED_LEN : header.header_len]
    digest = xxh3_64_intdigest(fixed[:HASH_AT] + fixed[HASHED_FROM:] + directory, seed) & _hash32
    return b"".join((fixed[:HASH_AT], _HASH.pack(digest), fixed[HASHED_FROM:], data[FIXED_LEN:]))


def peek(buffer: Buffer, position: int = 0) -> BatchHeader:
    """The header at `position`, unverified. REQUIRES: at least `FIXED_LEN` bytes there."""
    return BatchHeader._make(_header_into(buffer, position))


def batch_len_at(buffer: Buffer, position: int = 0) -> int:
    """The length of the batch at `position`, unverified. REQUIRES: as `peek`."""
    length: int = _batch_len_of(buffer, position)[0]
    return length


def python_end_of_whole_batches(buffer: Buffer, position: int, end: int) -> int:
    """The end of the last batch that ends at or before `end`, if one begins at `position`. Nothing is verified."""
    end = min(end, len(buffer))
    while position + FIXED_LEN <= end:
        length: int = _batch_len_of(buffer, position)[0]
        if length < FIXED_LEN or position + length > end:
            break
        position += length
    return position


end_of_whole_batches = python_end_of_whole_batches if core is None else core.end_of_whole_batches


def find_batch(
    buffer: Buffer, offset: int, seed: int, path: str, file_position: int
) -> tuple[int, int, BatchHeader | None] | None:
    """Where the first batch in `buffer` begins and ends whose last offset is at or past `offset`; its header, unless the core has read it.

    The headers up to it are verified. None if the buffer ends before its header does, or one of them is damaged. The end may be past
    that of the buffer.
    """
    if core is not None:
        found = core.find_batch(buffer, seed, offset)
        if found is not None:
            return found
    at = 0
    while at + MIN_HEADER_LEN <= len(buffer):
        try:
            header = read_header(buffer, at, seed, path, file_position + at)
        except CorruptRecordError:
            return None
        stop = at + header.batch_len
        if header.base_offset + header.last_offset_delta >= offset:
            return at, stop, header
        at = stop
    return None


def batches_before(buffer: Buffer, end_offset: int) -> Buffer:
    """The batches in `buffer` that begin before `end_offset`. REQUIRES: the first one does. Nothing is verified."""
    at = 0
    while at + FIXED_LEN <= len(buffer):
        length, base_offset = _batch_len_of(buffer, at)[0], _base_offset_of(buffer, at)[0]
        if at and base_offset >= end_offset:
            return memoryview(buffer)[:at]
        if length < FIXED_LEN:
            break
        at += length
    return buffer


def first_and_last(buffer: Buffer) -> tuple[BatchHeader, BatchHeader]:
    """The headers of the first and of the last of the batches in `buffer`. REQUIRES: whole batches. Nothing is verified."""
    at, position = 0, 0
    while position + FIXED_LEN <= len(buffer):
        at = position
        position += max(FIXED_LEN, _batch_len_of(buffer, at)[0])
    return peek(buffer), peek(buffer, at)


def header_fault(buffer: Buffer, position: int, seed: int) -> tuple[str, int, int] | None:
    """Why the header at `position` cannot be trusted: (reason, expected, actual), or None if it can.

    Lengths are checked before they are used, so a malicious one does no harm.
    """
    try:
        header = peek(buffer, position)
    except struct_error:
        return "the header is cut short", FIXED_LEN, max(0, len(buffer) - position)
    if header.magic != MAGIC:
        return "no batch starts here", int.from_bytes(MAGIC, "big"), int.from_bytes(header.magic, "big")
    if not MIN_HEADER_LEN <= header.header_len <= MAX_HEADER_LEN:
        return "the header's length is impossible", MIN_HEADER_LEN, header.header_len
    if not header.header_len <= header.batch_len <= MAX_BATCH_LEN:
        return "the batch's length is impossible", MAX_BATCH_LEN, header.batch_len
    end = position + header.header_len
    if end > len(buffer):
        return "the header is cut short", header.header_len, len(buffer) - position
    view = bytes(buffer[position:end])
    digest = xxh3_64_intdigest(view[:HASH_AT] + view[HASHED_FROM:], seed) & _hash32
    if digest != header.header_hash:
        return "the header does not match its checksum", header.header_hash, digest
    if not 0 <= header.base_offset < MAX_OFFSET or header.last_offset_delta < 0:
        return "its offsets are impossible", 0, header.base_offset & (1 << 64) - 1
    most = header.uncompressed_len if header.codec else header.batch_len - header.header_len
    if header.record_count > min(max(most, MAX_FREE_RECORDS), MAX_RECORDS):
        return "its number of records is impossible", most, header.record_count
    return None


def read_header(buffer: Buffer, position: int, seed: int, path: str, file_position: int) -> BatchHeader:
    """The verified header at `position` of `buffer`, which is at `file_position` of `path`.

    Raises CorruptRecordError, or FormatError if a newer streamlog wrote it.
    """
    try:
        fields = _header_into(buffer, position)
    except struct_error:
        fields = _NO_HEADER
    header_len = fields[2]
    # A valid header takes one unpacking and one hash; what is wrong with another is found out below.
    if (
        fields[0] == MAGIC
        and fields[1] == VERSION
        and MIN_HEADER_LEN <= header_len <= MAX_HEADER_LEN
        and header_len <= fields[3] <= MAX_BATCH_LEN
        and position + header_len <= len(buffer)
        and not fields[6] & UNKNOWN_FORM
        and 0 <= fields[7] < MAX_OFFSET
        and fields[8] >= 0
        and fields[10] <= MAX_FREE_RECORDS
    ):
        at = position + HASH_AT
        hashed = bytes(buffer[position:at]) + bytes(buffer[at + _HASH.size : position + header_len])
        if xxh3_64_intdigest(hashed, seed) & _hash32 == fields[4]:
            known: BatchHeader = _new_tuple(BatchHeader, fields)
            return known
    fault = header_fault(buffer, position, seed)
    if fault is not None:
        raise corrupt(path, file_position, *fault)
    header = peek(buffer, position)
    if header.version > VERSION or header.attributes & UNKNOWN_FORM:
        raise FormatError(
            f"{path} holds a batch of format version {header.version} (payload form {header.form}) at byte "
            f"{file_position}; this streamlog knows version {VERSION}. Open it with a newer streamlog.",
            path=path,
            position=file_position,
        )
    return header


def verify_payload(header: BatchHeader, payload: Buffer, seed: int, path: str, file_position: int) -> None:
    """Raise CorruptRecordError unless `payload` has the checksum that is in the header."""
    actual = xxh3_64_intdigest(payload, seed)
    if actual != header.payload_hash:
        raise corrupt(path, file_position, "the payload does not match its checksum", header.payload_hash, actual)


def corrupt(path: str, position: int, why: str, expected: int, actual: int) -> CorruptRecordError:
    return CorruptRecordError(
        f"{path} is damaged at byte {position}: {why} (expected {expected:#x}, found {actual:#x}). "
        f"Nothing from this batch was served. Read with on_corrupt='skip' to go past it; streamlog.verify() "
        f"reports all damage, and streamlog.repair() copies what is whole into a new log.",
        path=path,
        position=position,
        expected=expected,
        actual=actual,
    )


def directory_entries(buffer: Buffer, position: int, header: BatchHeader) -> list[tuple[int, int]]:
    """The column directory of the batch at `position`: (kind, length) of each column, in payload order.

    Raises ValueError if it does not add up to the payload's length.
    """
    count = buffer[position + FIXED_LEN]
    if count == 2:  # keys and values: almost every batch
        _, kind, length, kind2, length2 = _two(buffer, position + FIXED_LEN)
        if header.header_len == _TWO_HEADER_LEN and length + length2 == header.batch_len - _TWO_HEADER_LEN:
            return [(kind, length), (kind2, length2)]
    elif count == 1 and header.header_len == _ONE_HEADER_LEN:
        kind, length = _ENTRY.unpack_from(buffer, position + MIN_HEADER_LEN)
        if length == header.batch_len - _ONE_HEADER_LEN:
            return [(kind, length)]
    if header.header_len != header_len_for(count):
        raise ValueError(f"a directory of {count} columns does not fit a header of {header.header_len} bytes")
    at = position + MIN_HEADER_LEN
    entries = [_ENTRY.unpack_from(buffer, at + i * _ENTRY.size) for i in range(count)]
    if sum(length for _, length in entries) != header.batch_len - header.header_len:
        raise ValueError("the columns' lengths do not add up to the payload's")
    return entries
