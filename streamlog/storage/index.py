"""The index of a segment: where an offset or a time is, with one entry about every 4 KiB.

An entry says that the batch at `position` begins with `base_offset`, and that no record before the next entry has a
timestamp greater than `timestamp`. The timestamps are a running maximum: they never decrease, even where a
program's event times do, so both columns can be bisected.

An index is derived: a missing or damaged file is replaced by a walk over the headers, with the same answers.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from struct import Struct
from typing import NamedTuple, TypeAlias

from xxhash import xxh3_64_intdigest

from ..records.batch import NO_PRODUCER, BatchHeader
from ..records.core import core
from ..runtime.api import Disk
from ..runtime.disk_errors import require_disk_error
from .producer_summary import ProducerSummary, StoredSummary, summary_from

_bisect: Callable[[array[int], int], int] = bisect_right if core is None else core.bisect_offsets
INTERVAL = 4096
MAGIC = b"SLX\x03"
_HEADER = Struct("<4sI7qQ")
_CHECK = Struct("<Q")
HEADER_LEN = _HEADER.size + _CHECK.size
_MAX_SUMMARY_BYTES = 1 << 22  # more than ten thousand producers take


class Stats(NamedTuple):
    """What retention and opening need to know of a segment without reading it. Bytes, ms.

    `min_timestamp` is -1 without any timestamp, and if a batch does not say its least one.
    """

    base_offset: int
    next_offset: int
    size: int
    records: int
    min_timestamp: int
    max_timestamp: int
    first_append: int


StatsAndSummary: TypeAlias = tuple[Stats, StoredSummary]
"""What an index file says of its segment, and of the producers in it."""


class Index:
    """The entries in memory, as three parallel arrays. One writer; readers need no lock.

    Entries are added in place, in the order timestamps, positions, offsets; `truncate` replaces the arrays.
    A lookup takes `positions` first and bisects `offsets` last, so every entry that it finds has a position.
    """

    __slots__ = ("least_times", "offsets", "positions", "timestamps")

    def __init__(self) -> None:
        self.offsets = array("q")
        self.positions = array("q")
        self.timestamps = array("q")
        # For each interval, as far as it was asked for: a time that no record in it is before. And the `positions` it was made for.
        self.least_times: tuple[array[int], array[int]] = self.positions, array("q")

    @property
    def size_bytes(self) -> int:
        """About how many bytes of memory it takes."""
        return 32 * len(self.positions) + 400

    def whole(self) -> Index:
        """The index with an entry for each interval: of a segment that another process writes, this one may have none yet."""
        return self

    def add(self, base_offset: int, position: int, max_timestamp: int) -> None:
        """Add the batch at `position`, which follows all batches added before."""
        if self.positions and position - self.positions[-1] < INTERVAL:
            if max_timestamp > self.timestamps[-1]:
                self.timestamps[-1] = max_timestamp
            return
        latest = self.timestamps[-1] if self.timestamps else max_timestamp
        self.timestamps.append(max(latest, max_timestamp))
        self.positions.append(position)
        self.offsets.append(base_offset)

    def position_for_offset(self, offset: int) -> int:
        """The position of a batch at or before the one that contains `offset`."""
        return self.interval_of(offset)[0]

    def interval_of(self, offset: int) -> tuple[int, int | None]:
        """`position_for_offset`, and the position of the next entry, None without one: the batch that contains `offset` begins before that."""
        positions = self.positions
        at = _bisect(self.offsets, offset)
        return positions[at - 1] if at else 0, positions[at] if at < len(positions) else None

    def position_for_time(self, timestamp: int) -> int | None:
        """The position of a batch before which every record is earlier than `timestamp`; None if all records are."""
        positions, timestamps = self.positions, self.timestamps
        count = min(len(self.offsets), len(timestamps), len(positions))
        at = bisect_left(timestamps, timestamp, 0, count)
        return positions[at] if at < count else None

    def truncate(self, end_position: int) -> None:
        """Remove the entries at or after `end_position`."""
        keep = bisect_left(self.positions, end_position)
        self.offsets = self.offsets[:keep]
        self.positions = self.positions[:keep]
        self.timestamps = self.timestamps[:keep]


class IndexBuilder:
    """What an index file holds, the index and the stats, made of a segment's batches one after the other.

    `next_offset` is where the next batch is expected.
    """

    __slots__ = (
        "base_offset", "first_append", "index", "max_timestamp", "min_timestamp", "next_offset", "records", "summary"
    )  # fmt: skip

    def __init__(self, base_offset: int) -> None:
        self.index = Index()
        self.summary = ProducerSummary()
        self.base_offset = self.next_offset = base_offset
        self.records = 0
        self.min_timestamp = self.max_timestamp = self.first_append = -1

    def add(self, header: BatchHeader, position: int) -> None:
        """Count the batch at `position`, which follows all batches added before."""
        self.index.add(header.base_offset, position, header.max_timestamp)
        self.records += header.record_count
        if header.max_timestamp >= 0:
            low = header.base_timestamp
            self.min_timestamp = low if self.max_timestamp < 0 else min(self.min_timestamp, low)
            self.max_timestamp = max(self.max_timestamp, header.max_timestamp)
        if self.first_append < 0:
            self.first_append = header.append_timestamp
        self.next_offset = max(self.next_offset, header.next_offset)
        if header.producer_id != NO_PRODUCER:
            self.summary.note(header)

    def stats(self, size: int) -> Stats:
        """The stats of a segment of `size` bytes."""
        return Stats(
            self.base_offset, self.next_offset, size, self.records,
            self.min_timestamp, self.max_timestamp, self.first_append,
        )  # fmt: skip


def to_bytes(index: Index, stats: Stats, seed: int, summary: ProducerSummary | None = None) -> bytes:
    """The bytes of a segment's index file. The checksums are seeded with the `seed` of the partition.

    The summary of the producers has a checksum of its own; without it the headers say the same.
    """
    body = index.offsets.tobytes() + index.positions.tobytes() + index.timestamps.tobytes()
    header = _HEADER.pack(MAGIC, len(index.offsets), *stats, xxh3_64_intdigest(body, seed))
    made = header + _CHECK.pack(xxh3_64_intdigest(header, seed)) + body
    if summary is None:
        return made
    stored = summary.to_bytes()
    return made + _CHECK.pack(xxh3_64_intdigest(stored, seed)) + stored


def load(disk: Disk, path: str, size: int, seed: int) -> tuple[Index, Stats] | None:
    """The index file at `path`, of a segment of `size` bytes, or None if it cannot be read or does not verify.

    Raises FileNotFoundError. It reads no more bytes than the index of such a segment can have.
    """
    try:
        file = disk.open(path, writable=False)
        try:
            return from_bytes(file.pread(HEADER_LEN + 24 * (size // INTERVAL + 1), 0), seed)
        finally:
            file.close()
    except FileNotFoundError:
        raise
    except OSError as error:
        require_disk_error(error)
        return None


def load_summary(disk: Disk, path: str, seed: int) -> StatsAndSummary | None:
    """The summary of the producers in the index file at `path`, and its stats; None without or if they do not verify.

    Cost: two reads, of which the first one is small; the entries of the index are not read.
    """
    try:
        file = disk.open(path, writable=False)
        try:
            header = file.pread(HEADER_LEN, 0)
            stats = stats_from(header, seed)
            if stats is None:
                return None
            stored = file.pread(_MAX_SUMMARY_BYTES, HEADER_LEN + 24 * _HEADER.unpack_from(header)[1])
        finally:
            file.close()
    except OSError as error:
        require_disk_error(error)
        return None
    entries = stored[_CHECK.size :]
    if len(stored) < _CHECK.size or _CHECK.unpack_from(stored)[0] != xxh3_64_intdigest(entries, seed):
        return None
    summary = summary_from(entries)
    return None if summary is None else (stats, summary)


def stats_from(data: bytes, seed: int) -> Stats | None:
    """The stats in an index file's first `HEADER_LEN` bytes, or None if they do not verify."""
    if len(data) < HEADER_LEN:
        return None
    header = data[: _HEADER.size]
    if _CHECK.unpack_from(data, _HEADER.size)[0] != xxh3_64_intdigest(header, seed):
        return None
    fields = _HEADER.unpack(header)
    return Stats(*fields[2:9]) if fields[0] == MAGIC else None


def from_bytes(data: bytes, seed: int) -> tuple[Index, Stats] | None:
    """The index and stats in a file's bytes, or None if anything does not verify."""
    stats = stats_from(data, seed)
    if stats is None:
        return None
    count, body_hash = _HEADER.unpack_from(data)[1], _HEADER.unpack_from(data)[9]
    body = data[HEADER_LEN : HEADER_LEN + 24 * count]
    if len(body) != 24 * count or xxh3_64_intdigest(body, seed) != body_hash:
        return None
    index = Index()
    for n, column in enumerate((index.offsets, index.positions, index.timestamps)):
        column.frombytes(body[8 * count * n : 8 * count * (n + 1)])
    return index, stats
