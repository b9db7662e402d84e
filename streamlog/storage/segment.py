"""One file of batches: `{base_offset}.log`, and beside a sealed one its `.index`.

The last segment of a log is active: it grows, its index is in memory, it is read with pread. All others are
sealed: they never change, are mapped for reading, and their index is loaded when it is first needed. A sealed
segment that is removed is dropped, never closed: a reader that holds it goes on reading.

What a segment contains (its statistics, its index) is derived: it comes from the index file or from a walk over
the headers, and only when it is asked for, so opening a log reads no sealed segment. Several threads may ask at
the same time; they find the same, and the last answer is kept.
"""

from __future__ import annotations

import logging
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from errno import EMFILE, ENFILE, ENOENT
from typing import TypeVar

from ..errors import CorruptRecordError, StorageError
from ..records.batch import (
    FIXED_LEN,
    BatchHeader,
    batch_len_at,
    corrupt,
    end_of_whole_batches,
    find_batch,
    peek,
)
from ..runtime.api import Disk, File, Mapping
from ..runtime.disk import descriptor_limit
from ..runtime.disk_errors import require_disk_error
from ..runtime.threads import after_fork_in_child
from ..runtime.values import refuse_to_copy
from ..types import Buffer, SegmentInfo
from . import index as index_files
from . import scan
from .files import as_storage_error, index_name, log_name
from .held import Held
from .index import HEADER_LEN, INTERVAL, Index, Stats, StatsAndSummary
from .producer_summary import ProducerSummary
from .scan import Walk
from .transaction_events import TransactionEvent

T = TypeVar("T")
logger = logging.getLogger("streamlog.storage")

# Python's mmap keeps a descriptor of its own, so mappings and open files together take less than half of the descriptors
# that the process may have, commonly 1,024. Nearly all are for the active segments: to append to one that is not open takes
# five system calls more, 15 µs. The bytes of indexes: those of some 10 GiB of segments.
MAX_OPEN = min(8192, descriptor_limit() // 4)
MAX_MAPPED = min(128, descriptor_limit() // 8)
MAX_INDEX_BYTES = 64 << 20

UNKNOWN_OFFSET = 1 << 62
"""Past every offset."""
NO_LEAST_TIME = -(1 << 62)

_NEAR_BYTES = 20_480  # an index interval and a batch of the usual size


def size_of(disk: Disk, path: str) -> int:
    """The size of a file. It is closed at once: a log of many segments would run out of descriptors."""
    file = disk.open(path, writable=False)
    try:
        return file.size()
    finally:
        file.close()


class Segment:
    """A segment, active or sealed. Plain fields; the owner's lock guards every change.

    `size`, `next_offset` and `stats` of an active segment are what was published last. `next_offset` of a sealed
    segment is where the next segment begins: opening does not check that its batches reach that far, `stats` does.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(self, disk: Disk, directory: str, base_offset: int, seed: int) -> None:
        self.disk = disk
        self.base_offset = base_offset
        self.seed = seed
        self.path = f"{directory}/{log_name(base_offset)}"
        self.index_path = f"{directory}/{index_name(base_offset)}"
        self.sealed = False
        self.size = 0
        self.next_offset = base_offset
        # Its index was made by a walk and is in no file yet.
        self.is_unsaved = False
        self._is_damaged = False
        self._is_retired = False
        self._is_closed = False
        self._stats: Stats | None = None
        # The file, once it is opened. Released by a new list, never by emptying this one: a thread that has it puts the file
        # that it is about to open there, and another one may get the path meanwhile.
        self._opened: list[File] = []
        self._map: Mapping | None = None
        self._pinned: Mapping | None = None
        self._index: Index | None = None
        # Of all its batches, while it is active and until its index file is written; None if not known.
        self.summary: ProducerSummary | None = None

    # -- files ---------------------------------------------------------------------------------------

    @property
    def file(self) -> File:
        """The file, opened when it is first needed."""
        opened = self._opened  # another reader may replace the list at any moment, so it is read once
        if not opened:
            opened.append(with_descriptors(self._open))
            if self._is_closed:
                self._opened = []
            else:
                open_files.hold(self)
        return opened[0]

    def _open(self) -> File:
        return self.disk.open(self.path, writable=not self.sealed)

    def use_file(self, file: File) -> None:
        """Read from `file`, whatever is at the path."""
        self._opened = [file]

    def create(self) -> None:
        self._opened = [with_descriptors(lambda: self.disk.open(self.path, create=True, exclusive=True))]
        open_files.hold(self)
        self._index = Index()
        self.summary = ProducerSummary()
        self._stats = Stats(self.base_offset, self.base_offset, 0, 0, -1, -1, -1)

    def make_active(self, found: Walk) -> None:
        """Make it the segment that is appended to, from the end of the last good batch that a walk found."""
        self.sealed = False
        self.release()
        self.set_stats(found.stats._replace(size=found.end))
        self._index = found.entries
        self.summary = None if found.damage else found.summary
        self._is_damaged = bool(found.damage)

    def seal(self) -> None:
        """It does not change any more: from now on it is read through a mapping, and keeps no descriptor open."""
        self.sealed = True
        self._opened = []
        if self._index is not None:
            self._hold(self._index)

    def _drop_file(self) -> None:
        self._opened = []

    def _drop_mapping(self) -> None:
        self._map = None

    def _drop_index(self) -> None:
        # A pinned segment needs it, an active one appends to it, and one that is in no file would cost a walk.
        if self.sealed and self._pinned is None and not self.is_unsaved:
            self._index = None

    def _hold(self, index: Index) -> None:
        indexes.hold(self, index.size_bytes)

    def release(self) -> None:
        """Drop the file and the mapping. They are not closed: a reader keeps them until it is done, and a descriptor that
        was closed under a reader could be given to another file."""
        self._opened = []
        self._map = None
        self._pinned = None

    def close(self) -> None:
        """`release` for good: a reader that has the segment may open it once more, but only for itself.

        The segment lives as long as the log that it was a part of; its file may be removed meanwhile.
        """
        self._is_closed = True  # first: who has opened something looks at this afterwards
        self.release()

    def pin(self) -> None:
        """Map the file and load the index, and keep both: another file is about to get this path."""
        self.sealed = True
        if self.size:
            self._pinned = self._pinned or self.file.map(self.size)
            self._opened = []
        self._index = self.index

    def unpin(self) -> None:
        """This segment is at its path now, and its index is in a file; see `pin`."""
        self._pinned = None
        self._hold(self.index)

    def retire(self) -> None:
        """The log was truncated, and another segment gets this one's file: refuse to read what is not mapped yet.

        A reader that has an older snapshot of the log gets ENOENT, as for a file that was removed, and takes the new one.
        """
        self._is_retired = True

    def _retired(self) -> StorageError:
        return StorageError(f"{self.path} was truncated while it was read; read again.", path=self.path, errno=ENOENT)

    # -- what it contains ----------------------------------------------------------------------------

    @property
    def stats(self) -> Stats:
        """From the index file or, if that is missing or damaged, from a walk over the headers. Raises what `read` raises."""
        stats = self._stats
        if stats is None:
            stats = self.load_stats()
            if stats is None:
                return self._walk().stats
            self._keep_stats(stats)
        return stats

    def set_stats(self, stats: Stats) -> None:
        """Set the statistics, and the size and next offset with them."""
        self._stats = stats
        self.next_offset, self.size = stats.next_offset, stats.size

    @property
    def max_timestamp(self) -> int:
        """The greatest timestamp; without any (only `repair` writes such batches) the time of the first append."""
        stats = self.stats
        return stats.max_timestamp if stats.max_timestamp >= 0 else stats.first_append

    def info(self) -> SegmentInfo:
        """What a retention policy sees."""
        stats = self.stats
        return SegmentInfo(
            self.base_offset, self.next_offset, self.size, stats.records, stats.min_timestamp, self.max_timestamp
        )

    def load_stats(self) -> Stats | None:
        """The stats in the index file, if that was made of this very segment."""
        try:
            file = self.disk.open(self.index_path, writable=False)
            try:
                stats = index_files.stats_from(file.pread(HEADER_LEN, 0), self.seed)
            finally:
                file.close()
        except OSError as error:
            require_disk_error(error)
            return None
        return stats if stats is not None and self._is_mine(stats) else None

    def load_summary(self) -> StatsAndSummary | None:
        """The summary of the producers: in memory until the index file is written, then in that, if it was made of this
        very segment. None if it is in neither."""
        known = self.summary  # read once: another thread may be about to write the file
        if self.sealed and known is not None:
            return self.stats, known.stored()
        loaded = index_files.load_summary(self.disk, self.index_path, self.seed)
        return loaded if loaded is not None and self._is_mine(loaded[0]) else None

    def transaction_events(self) -> Sequence[TransactionEvent] | None:
        """Where transactions begin and end in it; None if only its headers say that."""
        if not self.sealed:
            return None if self.summary is None else self.summary.transactions.events()
        stored = self.load_summary()
        return None if stored is None else stored[1].transactions

    def _is_mine(self, stats: Stats) -> bool:
        return stats.size == self.size and stats.base_offset == self.base_offset

    def _keep_stats(self, stats: Stats) -> None:
        if self.sealed and stats.next_offset != self.next_offset:
            logger.error(
                "%s ends at offset %d but the next segment begins at %d: the records in between are missing",
                self.path, stats.next_offset, self.next_offset,
            )  # fmt: skip
        self._stats = stats

    def _walk(self) -> Walk:
        """Walk all headers: there is no index file."""
        found = scan.walk(self, self.size)
        self.keep_walk(found)
        return found

    def keep_walk(self, found: Walk) -> None:
        """Keep what a walk over the whole segment found."""
        if self._stats is None:
            for error in found.damage:
                logger.error("%s", error)
            self._keep_stats(found.stats)
        self._index = found.entries
        self.summary = None if found.damage else found.summary
        self._is_damaged = bool(found.damage)
        self.is_unsaved = self.sealed and not found.damage

    @property
    def index(self) -> Index:
        """The index, from its file or, if that is missing or damaged, from the segment's headers."""
        index = self._index
        if index is None:
            index = self._index = self._load_index()
            if self._is_retired:
                raise self._retired()
            self._hold(index)
        return index

    def set_index(self, index: Index) -> None:
        self._index = index

    def _load_index(self) -> Index:
        try:
            loaded = index_files.load(self.disk, self.index_path, self.size, self.seed)
        except FileNotFoundError as error:
            require_disk_error(error)
            loaded = None
        if loaded is not None and self._is_mine(loaded[1]):
            return loaded[0]
        return self._walk().entries

    def write_index(self) -> None:
        """Write the index file, atomically. A failure only costs a later walk, so it is logged and not raised.

        REQUIRES: the batches that the index describes are on the device. A segment in which batches are missing gets
        no index file: the next open has to find and report the loss too.
        """
        index, stats, summary = self.index, self.stats, self.summary
        if self.is_unsaved:
            self.is_unsaved = False
            self._hold(index)
        if self.sealed:
            self.summary = None  # it is read from the file from now on, if at all
        if self._is_damaged or (self.sealed and stats.next_offset != self.next_offset):
            return
        try:
            self.disk.write_atomic(self.index_path, index_files.to_bytes(index, stats, self.seed, summary))
        except OSError as error:
            require_disk_error(error)
            logger.warning("could not write %s (%s); it will be rebuilt when needed", self.index_path, error)

    # -- reading -------------------------------------------------------------------------------------

    def read(self, length: int, position: int) -> bytes:
        """Up to `length` bytes at `position`; fewer only at the end. Raises StorageError, CorruptRecordError."""
        try:
            if not self.sealed:
                opened = self._opened  # as in `file`, whose call was a hundredth of a read at random
                data = (opened[0] if opened else self.file).pread(length, position)
                if self._is_retired:  # looked at afterwards: then the bytes are from before the file changed
                    raise self._retired()
                return data
            mapping = self._map or self._pinned
            if mapping is None:
                if not self.size:  # an empty file cannot be mapped
                    return b""
                mapping = self._mapping()
            if not 0 <= position < self.size:  # a position from an index whose checksum is right may still be wrong
                return b""
            return mapping.read(length, position)
        except OSError as error:
            raise as_storage_error(error, "read", self.path) from error

    def _mapping(self) -> Mapping:
        try:
            mapping = with_descriptors(lambda: self.file.map(self.size))
        except (OSError, ValueError) as error:
            if isinstance(error, OSError):
                require_disk_error(error)
            if self._is_retired:
                raise self._retired() from error
            if self._pinned is not None:
                return self._pinned
            if isinstance(error, OSError):
                raise
            raise corrupt(self.path, 0, "the file is shorter than it was when sealed", self.size, 0) from error
        self._opened = []
        # Another file gets this path only after the segment was pinned. So if it is not pinned by now, the file that
        # was opened is this segment's own.
        if self._pinned is not None:
            return self._pinned
        if self._is_retired:
            raise self._retired()
        self._map = mapping
        if self._is_closed:
            self._map = None
        else:
            mappings.hold(self)
        return mapping

    def headers(self, position: int, end: int) -> Iterator[tuple[int, BatchHeader]]:
        """Each verified header; see `scan.headers`."""
        return scan.headers(self, position, end)

    def scan(self, position: int, end: int) -> Iterator[tuple[int, BatchHeader | CorruptRecordError]]:
        """Each verified header, and each damaged place as an error; see `scan.scan`."""
        return scan.scan(self, position, end)

    def end_for_time(self, timestamp: int, end: int) -> int | None:
        """An offset from which on no record before position `end` is at or before `timestamp`, or UNKNOWN_OFFSET; None if none is at all.

        Cost: the first time a walk over the headers, which is remembered with the index; then a look at each interval that is
        later. Raises CorruptRecordError if a header does not verify.
        """
        index = self.index.whole()
        positions, offsets = index.positions, index.offsets
        count = bisect_left(positions, end, 0, min(len(offsets), len(positions)))
        if not count:
            return None
        # The last interval of an active segment grows. One that was sealed since the caller looked has more in it than the
        # caller sees.
        whole = count if self.sealed and end >= self.size else count - 1
        made_for, known = index.least_times
        if made_for is not positions:
            known = array("q")
        if len(known) < whole:
            known = known + self._least_times(positions, len(known), whole, end)
            index.least_times = positions, known
        least = known + self._least_times(positions, whole, count, end) if whole < count else known
        for at in range(count - 1, -1, -1):
            if least[at] <= timestamp:
                return offsets[at + 1] if at + 1 < count else UNKNOWN_OFFSET
        return None

    def _least_times(self, positions: array[int], first: int, stop: int, end: int) -> array[int]:
        """For each interval from the `first` up to `stop`: a time that no record in it is before."""
        least = array("q")
        for at, header in self.headers(
            positions[first], positions[stop] if stop < len(positions) and positions[stop] < end else end
        ):
            known = header.base_timestamp if header.base_timestamp >= 0 else NO_LEAST_TIME
            if first + len(least) < stop and at >= positions[first + len(least)]:
                least.append(known)
            elif known < least[-1]:
                least[-1] = known
        return least

    def locate(self, offset: int, end: int) -> int | None:
        """The position of the first batch whose last offset is at or past `offset`, or None before `end`.

        The headers before it are verified: a wrong length or offset would silently skip records. Damage that lies
        entirely before `offset` is skipped; any other raises CorruptRecordError.
        """
        position = self.index.position_for_offset(offset)
        floor = 0
        while True:
            try:
                for at, header in self.headers(position, end):
                    if header.last_offset >= offset:
                        return at
                    floor = header.next_offset
                return None
            except CorruptRecordError as error:
                found = scan.next_batch(self, error.position + 1, end, floor)
                if found is None or self._base_offset_at(found) > offset:
                    raise
                position = found

    def _base_offset_at(self, position: int) -> int:
        return peek(self.read(FIXED_LEN, position)).base_offset

    def find_and_read(self, offset: int, end: int, max_bytes: int) -> tuple[int, Buffer, BatchHeader | None] | None:
        """The batch that contains `offset` and whole batches after it, up to `max_bytes`, by one read, or two for much: the
        position, the bytes, and the verified header of the first, if that is known.

        None if one read from the index entry on does not contain its header, or there is damage before it: the caller
        then uses `locate`. The headers before the batch are verified, as there.
        """
        index = self._index  # as in `index`
        start, stop = (self.index if index is None else index).interval_of(offset)
        near = min(_NEAR_BYTES, end - start)
        if stop is not None:  # no more than the interval of the index, unless the caller can have more
            near = min(near, max(stop - start, INTERVAL + max_bytes))
        data = self.read(near, start)
        found = find_batch(data, offset, self.seed, self.path, start)
        if found is None:
            return None
        at, whole, header = found
        if whole > len(data) or (at + max_bytes > len(data) and start + len(data) < end):
            return start + at, self.read_batches(start + at, end, max(max_bytes, whole - at)), header
        if whole < at + max_bytes:
            whole = end_of_whole_batches(data, whole, at + max_bytes)
        return start + at, memoryview(data)[at:whole], header

    def read_batches(self, position: int, end: int, max_bytes: int) -> Buffer:
        """Whole batches from `position` on: at least one, and no more than `max_bytes` unless the first is larger.

        It is a view of the bytes that were read, which saves a copy. Lengths are not verified here; the decoder
        verifies every header before it uses it.
        """
        data = self.read(min(max(max_bytes, FIXED_LEN), end - position), position)
        at = end_of_whole_batches(data, 0, len(data))
        if not at:
            first = batch_len_at(data) if len(data) >= FIXED_LEN else 0
            if first > len(data):
                if position + first > end:
                    raise corrupt(self.path, position, "the batch is cut short", first, end - position)
                return self.read(first, position)
        # If no batch is whole, the bytes are returned as they are: the decoder reports the damage.
        return memoryview(data)[: at or len(data)]


def with_descriptors(call: Callable[[], T]) -> T:
    """`call()`, and once more if the process or the system has no descriptor left: the segments drop theirs in between."""
    try:
        return call()
    except OSError as error:
        require_disk_error(error)
        if error.errno not in (EMFILE, ENFILE):
            raise
        open_files.drop_all()
        mappings.drop_all()
        return call()


open_files: Held[Segment] = Held(MAX_OPEN, Segment._drop_file)
mappings: Held[Segment] = Held(MAX_MAPPED, Segment._drop_mapping)
indexes: Held[Segment] = Held(MAX_INDEX_BYTES, Segment._drop_index)
for _held in (open_files, mappings, indexes):
    after_fork_in_child(_held.forked)
