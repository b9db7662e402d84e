"""A walk over the headers of one segment: what an index and its statistics are made of, and where good bytes end.

One loop over plain integers rather than a generator of headers: a log of one-record batches has
millions of them, and every call would be half of the time. Reads are large ones, one behind the
other, while batches are small; where they are large, only their headers are read.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple, Protocol

from xxhash import xxh3_64_intdigest

from ..errors import CorruptRecordError
from ..records.batch import (
    FIXED_LEN,
    FORM_MASK,
    MAGIC,
    MAX_BATCH_LEN,
    MAX_FREE_RECORDS,
    MAX_HEADER_LEN,
    MAX_OFFSET,
    MIN_HEADER_LEN,
    VERSION,
    BatchHeader,
    corrupt,
    read_header,
    verify_payload,
)
from .index import INTERVAL, Index, Stats

# The fields of a header that a walk looks at; what lies between them is skipped.
_FIELDS = Struct("<4sBHIIQIqi4xiqqq")
_PREFIX_LEN = 11  # what the header's hash covers first; the hash itself lies behind it
_HASHED_FROM = 15
_HEADER_BYTES = 256  # a header and its directory, of all but a strange batch
_AHEAD_BYTES = 1 << 18
# From this length of a batch on, reading headers alone is faster than reading everything. A disk that has to be
# asked for each (nothing of the file is in memory) prefers everything up to about four times of it.
_LARGE_BYTES = 1 << 15


class Source(Protocol):
    """The bytes of a segment."""

    base_offset: int
    seed: int
    path: str

    def read(self, length: int, position: int) -> bytes: ...
    def next_batch(self, position: int, end: int, floor: int = 0) -> int | None: ...


class Walk(NamedTuple):
    """What a walk found. `end`: where the last batch that verified ends. `stopped`: what ended it before its time."""

    stats: Stats
    entries: Index
    end: int
    damage: tuple[CorruptRecordError, ...]
    stopped: CorruptRecordError | None = None


def walk(source: Source, size: int, trusted_to: int | None = None) -> Walk:
    """Walk the headers up to `size`. Damage is stepped over and listed, to the next header that verifies.

    With `trusted_to`, an offset: the payloads of batches from it on are verified too, and the first batch from
    it on that does not verify, or whose offsets go back, ends the walk (`stopped`).

    Raises what reading raises, and FormatError for a batch of a newer version.
    """
    return _Walk(source, size, trusted_to).run()


class _Walk:
    """One walk. `next_offset` is where the next batch is expected, `end` where the last good one ended."""

    def __init__(self, source: Source, size: int, trusted_to: int | None) -> None:
        self.source = source
        self.size = size
        self.trusted_to = trusted_to
        self.entries = Index()
        self.damage: list[CorruptRecordError] = []
        self.next_offset = source.base_offset
        self.end = 0
        self.records, self.low, self.high, self.first_append = 0, -1, -1, -1

    def run(self) -> Walk:
        position: int | None = 0
        stopped: CorruptRecordError | None = None
        while position is not None and position < self.size:
            position = self._good(position)
            if position >= self.size:
                break
            error, header = self._look(position)
            if header is not None:
                self._take(position, header)
                position += header.batch_len
                continue
            assert error is not None
            if self.trusted_to is not None and self.next_offset >= self.trusted_to:
                stopped = error
                break
            self.damage.append(error)
            position = self.source.next_batch(position + 1, self.size, self.next_offset)
        stats = Stats(
            self.source.base_offset, self.next_offset, self.size, self.records, self.low, self.high, self.first_append
        )
        return Walk(stats, self.entries, self.end, tuple(self.damage), stopped)

    def _good(self, position: int) -> int:
        """Go on over batches of the usual kind that verify; the position of the first other one, or the end."""
        source, size, trusted_to, entries = self.source, self.size, self.trusted_to, self.entries
        read, seed, fields_of = source.read, source.seed, _FIELDS.unpack_from
        next_offset, records, low, high, first_append = (
            self.next_offset, self.records, self.low, self.high, self.first_append
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
            magic, version, header_len, length, digest, payload_digest, attributes, base_offset, delta, count, base_time, time, append_time = fields_of(chunk, at)  # fmt: skip
            if (
                magic != MAGIC or version != VERSION or attributes & FORM_MASK
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
            if xxh3_64_intdigest(chunk[at : at + _PREFIX_LEN] + chunk[at + _HASHED_FROM : at + header_len], seed) & 0xFFFFFFFF != digest:  # fmt: skip
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
                low = base_time if low < 0 or base_time < low else low
                high = time if time > high else high
            if first_append < 0:
                first_append = append_time
            if following > next_offset:
                next_offset = following
            position += length
            self.end = position
            need = FIXED_LEN
        self.next_offset, self.records, self.low, self.high, self.first_append = (
            next_offset, records, low, high, first_append
        )  # fmt: skip
        return position

    def _look(self, position: int) -> tuple[CorruptRecordError | None, BatchHeader | None]:
        """Why the batch at `position` is none, or its header: then it is only unusual."""
        source, size = self.source, self.size
        data = source.read(min(MAX_HEADER_LEN, size - position), position)
        try:
            header = read_header(data, 0, source.seed, source.path, position)
            if position + header.batch_len > size:
                raise corrupt(source.path, position, "the batch is cut short", header.batch_len, size - position)
            if self.trusted_to is not None and header.next_offset > self.trusted_to:
                if header.base_offset < self.next_offset:
                    why = "its offset goes back"
                    raise corrupt(source.path, position, why, self.next_offset, header.base_offset)
                data = source.read(header.batch_len, position)
                payload = memoryview(data)[header.header_len :]
                verify_payload(header, payload, source.seed, source.path, position)
        except CorruptRecordError as error:
            return error, None
        return None, header

    def _take(self, position: int, header: BatchHeader) -> None:
        """Count a batch that verifies."""
        self.entries.add(header.base_offset, position, header.max_timestamp)
        self.records += header.record_count
        if header.max_timestamp >= 0:
            self.low = header.base_timestamp if self.low < 0 else min(self.low, header.base_timestamp)
            self.high = max(self.high, header.max_timestamp)
        if self.first_append < 0:
            self.first_append = header.append_timestamp
        self.next_offset = max(self.next_offset, header.next_offset)
        self.end = position + header.batch_len
