"""Iteration over the headers of a segment: the one place that reads them one after the other.

`headers` stops at damage, `scan` goes on after it, and `walk` reads a whole segment: it makes the index and the
statistics, and finds where the good bytes end.

`walk` decodes the usual batch in one loop over plain integers rather than from a generator of headers: a log of
one-record batches has millions of them, and a call for each would be half of the time. It reads large blocks while
batches are small, and only the headers where batches are large.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from xxhash import xxh3_64_intdigest

from ..errors import CorruptRecordError
from ..records.batch import (
    FIXED_LEN,
    HASH_AT,
    HASHED_FROM,
    MAGIC,
    MAX_BATCH_LEN,
    MAX_FREE_RECORDS,
    MAX_HEADER_LEN,
    MAX_OFFSET,
    MIN_HEADER_LEN,
    NO_PRODUCER,
    SCANNED_FIELDS,
    UNKNOWN_FORM,
    VERSION,
    BatchHeader,
    corrupt,
    header_fault,
    peek,
    read_header,
    verify_payload,
)
from .index import INTERVAL, Index, IndexBuilder, Stats
from .producer_summary import ProducerSummary

# Small enough that a look at large batches reads little but their headers.
_WALK_BYTES = 8192
_SEARCH_BYTES = 1 << 18
_HEADER_BYTES = 256  # a header and its column directory, except of an unusual batch
_AHEAD_BYTES = 1 << 18
# From this length of a batch on, reading the headers alone is faster than reading everything. If the file is not in the
# page cache, reading everything is faster up to about four times this length.
_LARGE_BYTES = 1 << 15


class Source(Protocol):
    """The bytes of a segment, and what their checksums and the errors need to know."""

    base_offset: int
    seed: int
    path: str

    def read(self, length: int, position: int) -> bytes: ...


def headers(source: Source, position: int, end: int) -> Iterator[tuple[int, BatchHeader]]:
    """Each verified header from `position` up to `end`, with its position in the file.

    Raises CorruptRecordError, whose `position` says where, at the first one that does not verify.
    """
    chunk, at = b"", position  # the chunk starts at file position `at`
    while position < end:
        if position - at + MAX_HEADER_LEN > len(chunk) and at + len(chunk) < end:
            at = position
            chunk = source.read(min(_WALK_BYTES, end - position), position)
        header = read_header(chunk, position - at, source.seed, source.path, position)
        if position + header.batch_len > end:
            raise corrupt(source.path, position, "the batch is cut short", header.batch_len, end - position)
        yield position, header
        position += header.batch_len


def scan(source: Source, position: int, end: int) -> Iterator[tuple[int, BatchHeader | CorruptRecordError]]:
    """Like `headers`, but damage is yielded too, as the error, and the scan goes on at the next batch that verifies."""
    floor = 0
    while position < end:
        try:
            for at, header in headers(source, position, end):
                yield at, header
                floor = header.next_offset
            return
        except CorruptRecordError as error:
            damage = error
        yield damage.position, damage
        found = next_batch(source, damage.position + 1, end, floor)
        if found is None:
            return
        position = found


def first_header(source: Source, end: int) -> BatchHeader | None:
    """The first header before `end` that verifies; None if there is none."""
    return next((found for _, found in scan(source, 0, end) if isinstance(found, BatchHeader)), None)


def next_batch(source: Source, position: int, end: int, floor: int = 0) -> int | None:
    """The first position from `position` on at which a header with an offset from `floor` on verifies, or None.

    A batch that a user stored inside a value is not taken for one of the log: the checksums are seeded, so one of
    another partition does not verify, and a copy of an earlier batch of this partition is below the floor.
    """
    while position < end:
        chunk = source.read(min(_SEARCH_BYTES, end - position), position)
        at = chunk.find(MAGIC)
        while at >= 0 and (at + MAX_HEADER_LEN <= len(chunk) or position + len(chunk) >= end):
            if header_fault(chunk, at, source.seed) is None:
                header = peek(chunk, at)
                if position + at + header.batch_len <= end and header.base_offset >= floor:
                    return position + at
            at = chunk.find(MAGIC, at + 1)
        if not chunk or position + len(chunk) >= end:
            return None
        position += max(1, at if at >= 0 else len(chunk) - len(MAGIC) + 1)
    return None


class Walk(NamedTuple):
    """What a walk found. `end`: where the last batch that verified ends. `stopped`: the damage that ended it early."""

    stats: Stats
    entries: Index
    end: int
    damage: tuple[CorruptRecordError, ...]
    stopped: CorruptRecordError | None = None
    summary: ProducerSummary | None = None


OnProducer = Callable[[BatchHeader | None], object]


def walk(source: Source, size: int, trusted_to: int | None = None, on_producer: OnProducer | None = None) -> Walk:
    """Walk the headers up to `size`. Damage is listed, and the walk goes on at the next header that verifies.

    With `trusted_to`, an offset: the payloads of batches from there on are verified too, and the first of these batches
    that does not verify, or whose offset is lower than expected, ends the walk (`stopped`).

    `on_producer` is called with the header of each batch that has a producer id, and with None for each damaged place.

    Raises what reading raises, and FormatError for a batch of a newer version.
    """
    return _Walk(source, size, trusted_to, on_producer).run()


class _Walk:
    """One walk. `end` is where the last batch that verified ended."""

    def __init__(self, source: Source, size: int, trusted_to: int | None, on_producer: OnProducer | None) -> None:
        self.source = source
        self.size = size
        self.trusted_to = trusted_to
        self.on_producer = on_producer
        self.built = IndexBuilder(source.base_offset)
        self.damage: list[CorruptRecordError] = []
        self.end = 0

    def run(self) -> Walk:
        position: int | None = 0
        stopped: CorruptRecordError | None = None
        while position is not None and position < self.size:
            position = self._usual_batches(position)
            if position >= self.size:
                break
            error, header = self._other_batch(position)
            if header is not None:
                self.built.add(header, position)
                if self.on_producer is not None and header.producer_id != NO_PRODUCER:
                    self.on_producer(header)
                position += header.batch_len
                self.end = position
                continue
            assert error is not None
            if self.trusted_to is not None and self.built.next_offset >= self.trusted_to:
                stopped = error
                break
            self.damage.append(error)
            if self.on_producer is not None:
                self.on_producer(None)
            position = next_batch(self.source, position + 1, self.size, self.built.next_offset)
        return Walk(
            self.built.stats(self.size),
            self.built.index,
            self.end,
            tuple(self.damage),
            stopped,
            self.built.summary,
        )

    def _usual_batches(self, position: int) -> int:
        """Count batches of the usual kind that verify; return the position of the first other one, or the end.

        Recovery and every check of a segment spend their time in this loop: its steps are written out.
        """
        source, size, trusted_to, built = self.source, self.size, self.trusted_to, self.built
        on_producer = self.on_producer
        read, seed, fields_of, entries = source.read, source.seed, SCANNED_FIELDS.unpack_from, built.index
        next_offset, records, low, high, first_append = (
            built.next_offset, built.records, built.min_timestamp, built.max_timestamp, built.first_append
        )  # fmt: skip
        latest = entries.timestamps[-1] if entries.timestamps else -(1 << 63)
        next_entry = entries.positions[-1] + INTERVAL if entries.positions else 0
        chunk, start, length = b"", position, 0
        ahead = _HEADER_BYTES
        need = FIXED_LEN
        while position < size:
            at = position - start
            if at + need > len(chunk):
                if start + len(chunk) >= size and at + need > size - start:
                    break  # it is cut short
                wanted = max(need, ahead if length < _LARGE_BYTES or trusted_to is not None else _HEADER_BYTES)
                chunk, start, at = read(min(wanted, size - position), position), position, 0
                ahead = _AHEAD_BYTES
                if len(chunk) < need:
                    break
            magic, version, header_len, length, digest, payload_digest, attributes, base_offset, delta, count, base_time, time, append_time, producer_id = fields_of(chunk, at)  # fmt: skip
            if (
                magic != MAGIC or version != VERSION or attributes & UNKNOWN_FORM
                or not MIN_HEADER_LEN <= header_len <= MAX_HEADER_LEN or not header_len <= length <= MAX_BATCH_LEN
                or position + length > size or not 0 <= base_offset < MAX_OFFSET or delta < 0
                or count > MAX_FREE_RECORDS
            ):  # fmt: skip
                break
            following = base_offset + delta + 1
            check = trusted_to is not None and following > trusted_to
            need = length if check else header_len
            if at + need > len(chunk):
                continue  # read more of it
            if xxh3_64_intdigest(chunk[at : at + HASH_AT] + chunk[at + HASHED_FROM : at + header_len], seed) & 0xFFFFFFFF != digest:  # fmt: skip
                break
            if check and (
                base_offset < next_offset
                or xxh3_64_intdigest(memoryview(chunk)[at + header_len : at + length], seed) != payload_digest
            ):
                break
            if position >= next_entry:
                entries.add(base_offset, position, time)
                next_entry = position + INTERVAL
                latest = entries.timestamps[-1]
            elif time > latest:
                entries.timestamps[-1] = latest = time
            records += count
            if time >= 0:
                low = base_time if high < 0 or base_time < low else low
                high = time if time > high else high
            if first_append < 0:
                first_append = append_time
            if following > next_offset:
                next_offset = following
            if producer_id != NO_PRODUCER:
                found = peek(chunk, at)
                built.summary.note(found)
                if on_producer is not None:
                    on_producer(found)
            position += length
            self.end = position
            need = FIXED_LEN
        built.next_offset, built.records, built.min_timestamp, built.max_timestamp, built.first_append = (
            next_offset, records, low, high, first_append
        )  # fmt: skip
        return position

    def _other_batch(self, position: int) -> tuple[CorruptRecordError | None, BatchHeader | None]:
        """What is damaged at `position`, or the header of a batch that is only unusual."""
        source, size = self.source, self.size
        data = source.read(min(MAX_HEADER_LEN, size - position), position)
        try:
            header = read_header(data, 0, source.seed, source.path, position)
            if position + header.batch_len > size:
                raise corrupt(source.path, position, "the batch is cut short", header.batch_len, size - position)
            if self.trusted_to is not None and header.next_offset > self.trusted_to:
                if header.base_offset < self.built.next_offset:
                    why = "its offset goes back"
                    raise corrupt(source.path, position, why, self.built.next_offset, header.base_offset)
                data = source.read(header.batch_len, position)
                payload = memoryview(data)[header.header_len :]
                verify_payload(header, payload, source.seed, source.path, position)
        except CorruptRecordError as error:
            return error, None
        return None, header
