"""One file of batches: `{base_offset}.log`, and beside a sealed one its `.index`.

The last segment of a log is active: it grows, its index lives in memory, it is read with pread. All
others are sealed: they never change again, are mapped for reading, and their index is loaded when
first needed. A sealed segment that is removed is dropped, never closed: a reader in it reads on.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import CorruptRecordError
from ..records.batch import FIXED_LEN, MAX_HEADER_LEN, BatchHeader, corrupt, header_fault, peek, read_header
from ..runtime.api import Disk, File, Mapping
from ..types import SegmentInfo
from . import index as index_files
from .faults import typed
from .index import Index, Stats

# Small enough that a walk over large batches reads little but their headers.
_WALK_BYTES = 8192
_SEARCH_BYTES = 1 << 18


def log_name(base_offset: int) -> str:
    return f"{base_offset:020d}.log"


def index_name(base_offset: int) -> str:
    return f"{base_offset:020d}.index"


class Segment:
    """A segment, active or sealed. Plain fields; the owner's lock guards every change.

    `size`, `next_offset`, `records` and the timestamps of an active one are what was published last.
    """

    def __init__(self, disk: Disk, directory: str, base_offset: int, seed: int) -> None:
        self.disk = disk
        self.base_offset = base_offset
        self.seed = seed
        self.path = f"{directory}/{log_name(base_offset)}"
        self.index_path = f"{directory}/{index_name(base_offset)}"
        self.sealed = False
        self.size = 0
        self.next_offset = base_offset
        self.records = 0
        self.min_timestamp = -1
        self.max_timestamp = -1
        self.first_append = -1
        self._file: File | None = None
        self._map: Mapping | None = None
        self._index: Index | None = None

    # -- facts ---------------------------------------------------------------------------------------

    def stats(self) -> Stats:
        return Stats(
            self.base_offset, self.next_offset, self.size, self.records,
            self.min_timestamp, self.max_timestamp, self.first_append,
        )  # fmt: skip

    def adopt(self, stats: Stats) -> None:
        _, self.next_offset, self.size, self.records, self.min_timestamp, self.max_timestamp, self.first_append = stats

    def info(self) -> SegmentInfo:
        return SegmentInfo(
            self.base_offset, self.next_offset, self.size, self.records, self.min_timestamp, self.max_timestamp
        )


    # -- files ---------------------------------------------------------------------------------------

    @property
    def file(self) -> File:
        """The open file; opened when first needed."""
        if self._file is None:
            self._file = self.disk.open(self.path, writable=not self.sealed)
        return self._file

    def create(self) -> None:
        self._file = self.disk.open(self.path, create=True, exclusive=True)
        self._index = Index()

    def release(self) -> None:
        """Let go of file and mapping. Dropped, not closed: whoever is reading keeps them until it is done,
        and a descriptor closed under a reader could come back as another file's."""
        self._file = None
        self._map = None

    def pin(self) -> None:
        """Map the file and load the index now: the path is about to mean something else."""
        assert self.sealed
        if self.size:
            self.read(1, 0)
        self._index = self.index

    @property
    def index(self) -> Index:
        """The index, from its file or, if that is missing or damaged, from the segment's headers."""
        if self._index is None:
            self._index = self._load_index()
        return self._index

    def give_index(self, index: Index) -> None:
        self._index = index

    def _load_index(self) -> Index:
        try:
            loaded = index_files.from_bytes(self.disk.read(self.index_path), self.seed)
        except OSError:
            loaded = None
        if loaded is not None and loaded[1].size == self.size:
            return loaded[0]
        index = Index()
        for position, header in self.headers(0, self.size, skip_damage=True):
            index.add(header.base_offset, position, header.max_timestamp)
        return index

    def write_index(self) -> None:
        """Write the index beside the segment, atomically. A failure only costs a later walk."""
        self.disk.write_atomic(self.index_path, index_files.to_bytes(self.index, self.stats(), self.seed))

    # -- reading -------------------------------------------------------------------------------------

    def read(self, length: int, position: int) -> bytes:
        """Up to `length` bytes at `position`; fewer only at the end. Disk errors come out typed."""
        try:
            if not self.sealed:
                return self.file.pread(length, position)
            mapping = self._map
            if mapping is None:
                mapping = self._map = self.file.map(self.size)
                # The mapping keeps the pages; a descriptor per sealed segment would run out first.
                self._file = None
            return mapping.read(length, position)
        except OSError as error:
            raise typed(error, "read", self.path) from error

    def headers(
        self, position: int, end: int, *, skip_damage: bool = False
    ) -> Iterator[tuple[int, BatchHeader]]:
        """Each verified header from `position` up to `end`, with its position in the file.

        Raises CorruptRecordError at the first one that does not verify, or goes on at the next that does.
        """
        chunk, at = b"", position  # the chunk starts at file position `at`
        while position < end:
            if position - at + MAX_HEADER_LEN > len(chunk) and at + len(chunk) < end:
                at = position
                chunk = self.read(min(_WALK_BYTES, end - position), position)
            try:
                header = read_header(chunk, position - at, self.seed, self.path, position)
                if position + header.batch_len > end:
                    raise corrupt(self.path, position, "the batch is cut short", header.batch_len, end - position)
            except CorruptRecordError:
                if not skip_damage:
                    raise
                found = self.next_batch(position + 1, end)
                if found is None:
                    return
                position = found
                continue
            yield position, header
            position += header.batch_len

    def next_batch(self, position: int, end: int) -> int | None:
        """The first position from `position` on at which a header verifies, or None.

        The checksums are seeded, so a batch that a user stored inside a value is not taken for one.
        """
        overlap = MAX_HEADER_LEN
        while position < end:
            chunk = self.read(min(_SEARCH_BYTES, end - position), position)
            at = chunk.find(b"SLB\x01")
            while at >= 0 and (at + overlap <= len(chunk) or position + len(chunk) >= end):
                if header_fault(chunk, at, self.seed) is None and position + at + peek(chunk, at).batch_len <= end:
                    return position + at
                at = chunk.find(b"SLB\x01", at + 1)
            if position + len(chunk) >= end:
                return None
            position += max(1, (at if at >= 0 else len(chunk) - 3))
        return None

    def locate(self, offset: int, end: int) -> int | None:
        """The position of the first batch whose last offset is at or past `offset`, or None before `end`.

        Headers on the way are verified: a wrong length or offset believed here would silently skip records.
        """
        start = self.index.position_for_offset(offset)
        for position, header in self.headers(start, end):
            if header.last_offset >= offset:
                return position
        return None

    def chunk(self, position: int, end: int, max_bytes: int) -> bytes:
        """Whole batches from `position` on: at least one, and no more than `max_bytes` unless one is larger.

        Lengths are not verified here; whoever decodes verifies every header before it believes it.
        """
        data = self.read(min(max(max_bytes, FIXED_LEN), end - position), position)
        first = peek(data).batch_len if len(data) >= FIXED_LEN else 0
        if first > len(data):
            if position + first > end:
                raise corrupt(self.path, position, "the batch is cut short", first, end - position)
            return self.read(first, position)
        at = 0
        while at + FIXED_LEN <= len(data):
            length = int.from_bytes(data[at + 7 : at + 11], "little")
            if length < FIXED_LEN or at + length > len(data):
                break
            at += length
        # Bytes that are no batch go along when nothing else would: the decoder names the damage.
        return data[:at] if at and at != len(data) else data
