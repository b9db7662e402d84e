"""One file of batches: `{base_offset}.log`, and beside a sealed one its `.index`.

The last segment of a log is active: it grows, its index lives in memory, it is read with pread. All
others are sealed: they never change again, are mapped for reading, and their index is loaded when
first needed. A sealed segment that is removed is dropped, never closed: a reader in it reads on.
"""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Iterator

from ..errors import CorruptRecordError
from ..records.batch import FIXED_LEN, MAGIC, MAX_HEADER_LEN, BatchHeader, corrupt, header_fault, peek, read_header
from ..runtime.api import Disk, File, Mapping
from ..runtime.disk_errors import check
from ..runtime.values import refuse_to_copy
from ..types import Buffer
from .facts import Facts
from .files import as_storage_error, index_name, log_name
from .index import Index, Stats
from .scan import Walk

logger = logging.getLogger("streamlog.storage")

# Small enough that a look at large batches reads little but their headers.
_WALK_BYTES = 8192
_SEARCH_BYTES = 1 << 18
# Python's mmap keeps a descriptor of its own, so mappings are bounded in number: over the whole process
# the one made longest ago is dropped first, and made again when it is needed.
MAX_MAPPED = 128
_mapped: deque[weakref.ref[Segment]] = deque()


_NEAR_BYTES = 20_480  # an index interval and a batch of the usual size
_LENGTH_AT = slice(7, 11)  # of `batch_len` in a batch's header


def size_of(disk: Disk, path: str) -> int:
    """A file's size; nothing stays open, or a log of many segments would run out of descriptors."""
    file = disk.open(path, writable=False)
    try:
        return file.size()
    finally:
        file.close()


class Segment(Facts):
    """A segment, active or sealed. Plain fields; the owner's lock guards every change.

    `size`, `next_offset` and `stats` of an active one are what was published last. `next_offset` of a sealed one
    is where the next segment begins: opening does not look whether its batches reach that far, `stats` does.
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
        # Derived: its index was made by a walk and is in no file yet.
        self.is_unsaved = False
        self._is_damaged = False
        self._stats: Stats | None = None
        self._file: File | None = None
        self._map: Mapping | None = None
        self._pinned: Mapping | None = None
        self._index: Index | None = None

    # -- files ---------------------------------------------------------------------------------------

    @property
    def file(self) -> File:
        """The open file; opened when first needed."""
        file = self._file
        if file is None:  # another reader may set the field to None at any moment: it is looked at once
            file = self._file = self.disk.open(self.path, writable=not self.sealed)
        return file

    def give_file(self, file: File) -> None:
        """Read through `file`, whatever the path says."""
        self._file = file

    def create(self) -> None:
        self._file = self.disk.open(self.path, create=True, exclusive=True)
        self._index = Index()
        self._stats = Stats(self.base_offset, self.base_offset, 0, 0, -1, -1, -1)

    def wake(self, found: Walk) -> None:
        """It is the last segment, as a walk found it: appended to from where its last good batch ends."""
        self.sealed = False
        self.release()
        self.adopt(found.stats._replace(size=found.end))
        self._index = found.entries
        self._is_damaged = bool(found.damage)

    def seal(self) -> None:
        """It never changes again: read through a mapping from now on, with no descriptor of its own kept open."""
        self.sealed = True
        self._file = None

    def release(self) -> None:
        """Let go of file and mapping. Dropped, not closed: whoever is reading keeps them until it is done,
        and a descriptor closed under a reader could come back as another file's."""
        self._file = None
        self._map = None
        self._pinned = None

    def pin(self) -> None:
        """Map the file and load the index for good: the path is about to mean something else."""
        self.sealed = True
        if self.size:
            self._pinned = self._pinned or self.file.map(self.size)
            self._file = None
        self._index = self.index

    def unpin(self) -> None:
        """The path means this segment again."""
        self._pinned = None

    # -- reading -------------------------------------------------------------------------------------

    def read(self, length: int, position: int) -> bytes:
        """Up to `length` bytes at `position`; fewer only at the end. Disk errors come out typed."""
        try:
            if not self.sealed:
                return self.file.pread(length, position)
            mapping = self._map or self._pinned
            if mapping is None:
                if not self.size:  # nothing can be mapped, and nothing read
                    return b""
                mapping = self._mapping()
            if not 0 <= position < self.size:  # nothing checks that an index, whose checksum is right, makes sense
                return b""
            return mapping.read(length, position)
        except OSError as error:
            raise as_storage_error(error, "read", self.path) from error

    def _mapping(self) -> Mapping:
        try:
            mapping = self.file.map(self.size)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError):
                check(error)
            if self._pinned is not None:
                return self._pinned
            if isinstance(error, OSError):
                raise
            raise corrupt(self.path, 0, "the file is shorter than it was when sealed", self.size, 0) from error
        self._file = None
        # The path changes its meaning only after the segment was pinned. So if it is not pinned by now, what was
        # opened is this segment's own file.
        if self._pinned is not None:
            return self._pinned
        self._map = mapping
        self._bound_mappings()
        return mapping

    def _bound_mappings(self) -> None:
        _mapped.append(weakref.ref(self))
        while len(_mapped) > MAX_MAPPED:
            try:
                oldest = _mapped.popleft()()
            except IndexError:  # another reader took it
                return
            if oldest is not None:
                oldest._map = None

    def headers(self, position: int, end: int) -> Iterator[tuple[int, BatchHeader]]:
        """Each verified header from `position` up to `end`, with its position in the file.

        Raises CorruptRecordError, whose `position` says where, at the first one that does not verify.
        """
        chunk, at = b"", position  # the chunk starts at file position `at`
        while position < end:
            if position - at + MAX_HEADER_LEN > len(chunk) and at + len(chunk) < end:
                at = position
                chunk = self.read(min(_WALK_BYTES, end - position), position)
            header = read_header(chunk, position - at, self.seed, self.path, position)
            if position + header.batch_len > end:
                raise corrupt(self.path, position, "the batch is cut short", header.batch_len, end - position)
            yield position, header
            position += header.batch_len

    def scan(self, position: int, end: int) -> Iterator[tuple[int, BatchHeader | CorruptRecordError]]:
        """Like `headers`, but damage is handed out too, as the error, and stepped over to the next batch."""
        floor = 0
        while position < end:
            try:
                for at, header in self.headers(position, end):
                    yield at, header
                    floor = header.next_offset
                return
            except CorruptRecordError as error:
                damage = error
            yield damage.position, damage
            found = self.next_batch(damage.position + 1, end, floor)
            if found is None:
                return
            position = found

    def next_batch(self, position: int, end: int, floor: int = 0) -> int | None:
        """The first position from `position` on at which a header with an offset from `floor` on verifies, or None.

        Two guards against a batch that lies inside a value: the checksums are seeded, so one of another
        partition does not verify; and a copy of this partition's own past is below the floor.
        """
        while position < end:
            chunk = self.read(min(_SEARCH_BYTES, end - position), position)
            at = chunk.find(MAGIC)
            while at >= 0 and (at + MAX_HEADER_LEN <= len(chunk) or position + len(chunk) >= end):
                if header_fault(chunk, at, self.seed) is None:
                    header = peek(chunk, at)
                    if position + at + header.batch_len <= end and header.base_offset >= floor:
                        return position + at
                at = chunk.find(MAGIC, at + 1)
            if not chunk or position + len(chunk) >= end:
                return None
            position += max(1, at if at >= 0 else len(chunk) - len(MAGIC) + 1)
        return None

    def locate(self, offset: int, end: int) -> int | None:
        """The position of the first batch whose last offset is at or past `offset`, or None before `end`.

        Headers on the way are verified: a wrong length or offset believed here would silently skip
        records. Damage that lies wholly before `offset` is stepped over; else CorruptRecordError.
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
                found = self.next_batch(error.position + 1, end, floor)
                if found is None or self._base_offset_at(found) > offset:
                    raise
                position = found

    def _base_offset_at(self, position: int) -> int:
        return peek(self.read(FIXED_LEN, position)).base_offset

    def near(self, offset: int, end: int, max_bytes: int) -> tuple[int, Buffer, BatchHeader] | None:
        """The batch that holds `offset`, and whole ones behind it, found and read in one go: position, bytes, and the
        first one's header, verified.

        None where one read from the index entry on does not hold it, or damage lies on the way: `locate` then
        has to look. Headers on the way are verified, as there.
        """
        start = self.index.position_for_offset(offset)
        data = self.read(min(_NEAR_BYTES, end - start), start)
        at = 0
        while at + MAX_HEADER_LEN <= len(data):
            try:
                header = read_header(data, at, self.seed, self.path, start + at)
            except CorruptRecordError:
                return None
            stop = at + header.batch_len
            if header.last_offset >= offset:
                if stop > len(data):
                    return None
                whole = self._whole(data, stop, max(stop, at + max_bytes))
                return start + at, memoryview(data)[at:whole], header
            at = stop
        return None

    @staticmethod
    def _whole(data: bytes, at: int, end: int) -> int:
        """Where the last batch in `data[:end]` that is whole ends, given that one begins at `at`. No length is verified."""
        end = min(end, len(data))
        while at + FIXED_LEN <= end:
            length = int.from_bytes(data[at + 7 : at + 11], "little")
            if length < FIXED_LEN or at + length > end:
                break
            at += length
        return at

    def chunk(self, position: int, end: int, max_bytes: int) -> Buffer:
        """Whole batches from `position` on: at least one, and no more than `max_bytes` unless one is larger.

        A view of what was read, for what is cut off its end is not worth a copy of the rest.
        Lengths are not verified here; whoever decodes verifies every header before it believes it.
        """
        data = self.read(min(max(max_bytes, FIXED_LEN), end - position), position)
        first = int.from_bytes(data[_LENGTH_AT], "little") if len(data) >= FIXED_LEN else 0
        if first > len(data):
            if position + first > end:
                raise corrupt(self.path, position, "the batch is cut short", first, end - position)
            return self.read(first, position)
        at = self._whole(data, 0, len(data))
        # Bytes that are no batch go along when nothing else would: the decoder names the damage.
        return memoryview(data)[: at or len(data)]
