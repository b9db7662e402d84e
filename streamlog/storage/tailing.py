"""Reading a log that another process writes: a `LogSnapshot` made from its slot in `published` and a directory listing.

Nothing here writes, locks or creates anything. If a slot only grew, the end moves. After any other change the directory is
listed again, and the listing counts if the slot is still the same afterwards. Between the listing and the open of a file,
retention may have removed the file, or compaction replaced it: then it is missing, or its size is not the listed one, and
the view is renewed. An index file is used only for a file of the size that it names. So a reader never mixes two states of
a file, and it reads whole batches only: bytes before the published end are never written again.

If no process owns the directory, the files alone say where the log ends: `follow_files`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from errno import ENOENT, ESTALE
from itertools import pairwise
from typing import TypeVar

from ..errors import CorruptRecordError, OffsetOutOfRangeError, RequestTimedOutError, StorageError, StreamlogError
from ..records.batch import MAX_OFFSET, BatchHeader, batches_before, header_fault, peek
from ..runtime.api import Disk
from ..runtime.disk_errors import require_disk_error
from ..types import OffsetAndTimestamp
from . import checkpoint
from .checkpoint import State
from .files import as_storage_error, base_offset_of, log_name, swap_of
from .lost import holds_records, lost_error
from .published import Slot
from .reader import LogReader
from .scan import walk
from .segment import Segment, size_of
from .tail import EMPTY, FetchData, LogSnapshot
from .tailed_segment import TailedSegment
from .tailed_transactions import TailedTransactions
from .transactions import UNREAD, TransactionSnapshot

T = TypeVar("T")
_ANY_TIME = (1 << 63) - 1  # an unknown maximum timestamp: at or after every timestamp that is searched for
# How often the directory is listed again because the slot changed, and how often a read is repeated because files did.
_LISTINGS = 20
_READS = 20


class TailedLog:
    """One partition of a log that another process writes. Reading takes no lock.

    REQUIRES: one thread at a time calls `follow`, `relist` and `follow_files`. A reader calls `renew(tail)` if the files of
    `tail` could not be read: it looks for a newer state and has it followed. `why_gone()` is called before the log is
    reported as lost: it returns the error for a topic that was deleted, or None.
    """

    def __init__(self, disk: Disk, directory: str, seed: int, topic_id: bytes, partition: int) -> None:
        self._disk = disk
        self.directory = directory
        self.seed = seed
        self._topic_id = topic_id
        self._partition = partition
        self._life: tuple[int, int] | None = None
        self._slot: Slot | None = None
        self.high_watermark = 0
        self.may_have_transactions = False
        self._transactions = TailedTransactions()
        self.is_known = False  # until then, no offset is out of range
        self._reader = LogReader(seed, self._tail([self._segment(0)], 0, 0, 0), retries=0)
        self.renew: Callable[[LogSnapshot], None] = lambda tail: None
        self.why_gone: Callable[[], StreamlogError | None] = lambda: None

    def _segment(self, base_offset: int) -> TailedSegment:
        return TailedSegment(self._disk, f"{self.directory}/{log_name(base_offset)}", base_offset, self.seed)

    def _tail(self, segments: Sequence[Segment], start_offset: int, end_offset: int, end_position: int) -> LogSnapshot:
        """The timestamps of the last segment are unknown, so a search for any time looks into it."""
        bases = tuple(segment.base_offset for segment in segments)
        return LogSnapshot(end_offset, end_position, tuple(segments), bases, start_offset, 0, -1, _ANY_TIME, -1)

    @property
    def tail(self) -> LogSnapshot:
        """The log as far as it is known here."""
        return self._reader.tail

    @property
    def transactions(self) -> TransactionSnapshot | None:
        """UNREAD if there may be some, else None."""
        slot = self._slot
        unstable = slot is not None and slot.last_stable_offset < slot.high_watermark
        return UNREAD if self.may_have_transactions or unstable else None

    def read_transactions(self, high_watermark: int) -> TransactionSnapshot | None:
        """The transactions of what is known here. REQUIRES: one thread at a time. Raises what reading raises."""

        def read() -> TransactionSnapshot | None:
            life = self._life  # before the snapshot, which is at least as new then
            tail = self.tail
            return self._transactions.catch_up(tail, life or tail.segments, high_watermark)

        return self._read(read)

    def release(self) -> None:
        """Close every file."""
        for segment in self.tail.segments:
            segment.release()

    # -- reading -------------------------------------------------------------------------------------

    def fetch(self, offset: int, max_bytes: int, end_offset: int, after: FetchData = EMPTY) -> FetchData:
        # An offset after `end_offset` and inside the log was visible under an earlier owner: wait until it is again.
        if not self.is_known or end_offset < offset <= self.tail.end_offset:
            return EMPTY
        reader = self._reader
        return _visible(self._read(lambda: reader.fetch(offset, max_bytes, end_offset, after)), end_offset)

    def place_at_end(self, offset: int) -> FetchData:
        return EMPTY  # another process writes there

    def size_after(self, read: FetchData, max_bytes: int) -> int | None:
        return self._reader.size_after(read, max_bytes) if self.is_known else None

    def find_time(self, timestamp: int, end_offset: int) -> OffsetAndTimestamp | None:
        return self._read(lambda: self._reader.find_time(timestamp, end_offset))

    def find_max_time(self, end_offset: int) -> OffsetAndTimestamp | None:
        return self._read(lambda: self._reader.find_max_time(end_offset))

    def end_for_time(self, timestamp: int, end_offset: int) -> int:
        return self._read(lambda: self._reader.end_for_time(timestamp, end_offset))

    def has_every_offset(self, start: int, end: int) -> bool:
        return self._read(lambda: self._reader.has_every_offset(start, end))

    def after_damage(self, offset: int, end_offset: int) -> int:
        return self._read(lambda: self._reader.after_damage(offset, end_offset))

    def out_of_range(self, offset: int, end_offset: int) -> OffsetOutOfRangeError:
        return self._reader.out_of_range(offset, end_offset)

    def _read(self, read: Callable[[], T]) -> T:
        """Read. If a file is missing or was replaced, renew the view, and read again if the files are others then."""
        for _ in range(_READS):
            tail = self.tail
            try:
                return read()
            except (StorageError, CorruptRecordError) as error:
                if isinstance(error, StorageError) and error.errno not in (ENOENT, ESTALE):
                    raise
                self.renew(tail)
                if self.tail.segments == tail.segments:
                    if isinstance(error, StorageError) and not any(map(holds_records, self._names())):
                        raise self._gone_error() from error
                    raise
        raise self._changing_error()

    def _gone_error(self) -> StreamlogError:
        """The error if the directory, or everything in it, is gone."""
        is_there = self._disk.exists(self.directory)
        return self.why_gone() or lost_error(self.directory, "this partition", is_there=is_there)

    def _changing_error(self) -> RequestTimedOutError:
        return RequestTimedOutError(
            f"The files of {self.directory} changed {_READS} times while they were read. Their owner rolls or compacts "
            f"faster than this process reads; try again."
        )

    # -- following the owner -------------------------------------------------------------------------

    def follow(self, slot: Slot, incarnation: int, reread: Callable[[], Slot | None]) -> bool:
        """Take over what the owner published. `reread` reads the slot again.

        If `reread` returns None, because this owner has no slot any more, the view is not changed, and the result is False.
        Raises StorageError, RequestTimedOutError (retriable), with the view unchanged.
        """
        last, tail = self._slot, self.tail
        life = (incarnation, slot.rewrites)
        if last is not None and life == self._life and slot.shape == last.shape:
            # Appends only move the end forward: a smaller end is from a slot that another thread read earlier.
            if slot.end_offset >= last.end_offset and slot.high_watermark >= last.high_watermark:
                self._publish(tail._replace(end_offset=slot.end_offset, end_position=slot.end_position), slot, life)
            return True
        missing: OSError | None = None
        for _ in range(_LISTINGS):
            life = (incarnation, slot.rewrites)
            try:
                tail = self._listed(slot, keep=life == self._life)
            except FileNotFoundError as error:
                require_disk_error(error)
                missing = error
            except OSError as error:
                raise as_storage_error(error, "list", self.directory) from error
            else:
                missing = None
            again = reread()
            if again is None:
                return False
            if missing is None and again.shape == slot.shape:
                self._publish(tail, slot, life)
                return True
            slot = again
        if missing is not None and not self._disk.exists(self.directory):
            raise self._gone_error()
        raise self._changing_error() if missing is None else as_storage_error(missing, "list", self.directory)

    def relist(self, is_between: Callable[[], bool]) -> None:
        """List the directory again: a file changed although the slot did not.

        If `is_between` is still true after the listing, there was no owner during it, and no slot has the last changes of
        the previous owner. Then all records in its sealed segments become visible: of what it compacted, only the later
        records may be left.
        """
        slot, old = self._slot, self.tail
        for _ in range(_LISTINGS):
            if slot is None:
                return
            try:
                next_base = max(_places(self._disk.listdir(self.directory), MAX_OFFSET), default=0)
                if next_base > slot.active_base and next_base >= slot.end_offset and is_between():
                    slot = slot._replace(
                        end_offset=next_base,
                        high_watermark=next_base,
                        last_stable_offset=next_base,
                        active_base=next_base,
                        end_position=0,
                    )
                tail = self._listed(slot, keep=False)
                # The partition's state has the last deletion: a new start is on the device before the first file is
                # removed. So the state is read after the listing.
                start = min(self._state(self._names()).log_start_offset, slot.end_offset)
            except FileNotFoundError as error:  # the owner is renaming files: list again
                require_disk_error(error)
                continue
            except OSError as error:
                raise as_storage_error(error, "list", self.directory) from error
            if start > slot.log_start_offset:
                slot = slot._replace(log_start_offset=start)
                continue
            if _identity(tail) != _identity(old):
                self._publish(tail, slot, self._life or (0, 0))
            return

    def _publish(self, tail: LogSnapshot, slot: Slot, life: tuple[int, int]) -> None:
        active = tail.segments[-1]
        assert isinstance(active, TailedSegment)
        active.size, active.next_offset = tail.end_position, tail.end_offset
        active.tailed_index.note(tail.end_offset, tail.end_position)
        self._reader.tail = tail
        self.high_watermark = slot.high_watermark
        self._life, self._slot = life, slot  # last: see `read_transactions`
        self.is_known = True

    def _listed(self, slot: Slot, *, keep: bool) -> LogSnapshot:
        """The log according to `slot` and the directory. `keep`: reuse the known segments whose file has the same name.

        Raises OSError: FileNotFoundError if a file was removed meanwhile.
        """
        places = _places(self._disk.listdir(self.directory), slot.active_base)
        places[slot.active_base] = log_name(slot.active_base)
        known = {segment.path: segment for segment in self.tail.segments} if keep else {}
        segments: list[Segment] = []
        bases, start = sorted(places), slot.log_start_offset
        if bases[0] > start:  # the owner could not write the slot after a deletion: the state has the new start
            start = max(start, min(self._stored_start(), slot.end_offset))
        bases = _from(bases, start)
        for n, base in enumerate(bases):
            path = f"{self.directory}/{places[base]}"
            segment = known.get(path) or TailedSegment(self._disk, path, base, self.seed)
            assert isinstance(segment, TailedSegment)
            if base != slot.active_base and not segment.sealed:
                segment.sealed_by_owner(size_of(self._disk, segment.path), bases[n + 1])
            segments.append(segment)
        return self._tail(segments, start, slot.end_offset, slot.end_position)

    def _stored_start(self) -> int:
        """The log start in the partition's state, which is written before files are removed; 0 if there is no state."""
        try:
            found = checkpoint.slots(self._disk.read(self._state_path), self._topic_id, self._partition).newest
        except FileNotFoundError as error:
            require_disk_error(error)
            found = None
        return found.log_start_offset if found is not None else 0

    @property
    def _state_path(self) -> str:
        return f"{self.directory}/{checkpoint.NAME}"

    # -- without an owner ----------------------------------------------------------------------------

    def follow_files(self, slot: Slot | None, *, verify: bool, is_alone: Callable[[], bool]) -> bool:
        """Take over everything that is intact in the files. REQUIRES: no process owns the directory.

        `slot` is how far the owner came at least, if that is known and still true. With `verify`, payloads after the
        recovery point are verified too, because the machine was booted since. If `is_alone` is false afterwards, the view
        is not changed, and the result is False: records that a new owner appends are in the files before they are visible.
        Nothing is truncated or written. Raises StorageError; CorruptRecordError, also if the directory has no segment.
        """
        try:
            names = self._names()
            if not any(map(holds_records, names)):
                if not is_alone():
                    return False
                raise self._gone_error()
            state = self._state(names)
            places = _places(names, MAX_OFFSET)
            bases = _from(sorted(places), state.log_start_offset)
            segments = [
                TailedSegment(self._disk, f"{self.directory}/{places[base]}", base, self.seed) for base in bases
            ]
            tail = self._walked(segments, state, slot, state.recovery_point if verify else None)
        except OSError as error:
            raise as_storage_error(error, "read", self.directory) from error
        if not is_alone():
            return False
        # As an owner would have published it: the next owner may rename files before it publishes anything.
        end, start = tail.end_offset, tail.start_offset
        self._slot = Slot(self.seed, 0, 0, end, end, end, start, tail.bases[-1], tail.end_position)
        self._life = None
        self._reader.tail = tail
        self.high_watermark = tail.end_offset
        self.is_known = True
        return True

    def _names(self) -> list[str]:
        try:
            return self._disk.listdir(self.directory)
        except FileNotFoundError as error:
            require_disk_error(error)
            return []

    def _state(self, names: Sequence[str]) -> State:
        if all(base_offset_of(name, "log") is None for name in names):  # a recovery was interrupted
            return State(0, 0)
        path = self._state_path
        found = checkpoint.slots(self._disk.read(path), self._topic_id, self._partition).newest
        if found is None:
            raise CorruptRecordError(
                f"{path} is damaged: neither of its two slots belongs to this partition and verifies. It says where the "
                f"log starts, so the partition is not read; look at the directory with streamlog.verify().",
                path=path, position=0, expected=0, actual=0,
            )  # fmt: skip
        return found

    def _walked(
        self, segments: list[TailedSegment], state: State, slot: Slot | None, trusted_to: int | None
    ) -> LogSnapshot:
        """The snapshot of these segments; the last one ends after its last intact batch."""
        for segment in segments:
            segment.size = size_of(self._disk, segment.path)
        if not segments:
            start = state.log_start_offset
            return self._tail([self._segment(start)], start, start, 0)
        # An interrupted roll leaves an empty file, and the segment before it may have been appended to since.
        while len(segments) > 1 and not segments[-1].size:
            end = _end_of(segments[-2], slot, trusted_to)
            if end[0] < segments[-1].base_offset:
                break
            empty = segments.pop()
            if end[0] == empty.base_offset and end[1] == segments[-1].size:
                segments.append(empty)
                break
        for segment, following in pairwise(segments):
            segment.sealed_by_owner(segment.size, following.base_offset)
        active = segments[-1]
        end_offset, end_position = _end_of(active, slot, trusted_to)
        active.size, active.next_offset = end_position, end_offset
        return self._tail(segments, state.log_start_offset, max(end_offset, state.log_start_offset), end_position)


def _visible(chunk: FetchData, end_offset: int) -> FetchData:
    """The batches of `chunk` before `end_offset`. A file that replaced a listed one may contain more."""
    data = chunk.data
    if data and header_fault(data, 0, chunk.seed) is None and peek(data).base_offset >= end_offset:
        return EMPTY
    return chunk._replace(data=batches_before(data, end_offset))


def _identity(tail: LogSnapshot) -> tuple[list[tuple[str, int]], str, int]:
    """Identifies a view: it differs between two views unless only the last file has grown."""
    return [(s.path, s.size) for s in tail.segments[:-1]], tail.segments[-1].path, tail.end_position


def _places(names: Sequence[str], last_base: int) -> dict[int, str]:
    """The files of the log by base offset, up to `last_base`, without those that a finished swap replaces."""
    bases = {base: name for name in names if (base := base_offset_of(name, "log")) is not None and base <= last_base}
    for name in names:
        swap = swap_of(name)
        if swap is not None and swap[0] < last_base:
            for base in [base for base in bases if swap[0] <= base < swap[1]]:
                del bases[base]
            bases[swap[0]] = name
    return bases


def _from(bases: list[int], log_start_offset: int) -> list[int]:
    """The segments that extend past the log start."""
    while len(bases) > 1 and bases[1] <= log_start_offset:
        bases = bases[1:]
    return bases


def _end_of(segment: TailedSegment, slot: Slot | None, trusted_to: int | None) -> tuple[int, int]:
    """The offset and the position at which the last intact batch of `segment` ends; see `walk`."""
    size = segment.size
    if slot is not None and slot.active_base == segment.base_offset and slot.end_position <= size:
        offset, position = slot.end_offset, slot.end_position
        for at, found in segment.scan(position, size):
            if isinstance(found, BatchHeader):
                offset, position = found.next_offset, at + found.batch_len
        return offset, position
    stats = segment.load_stats()
    if stats is not None:
        return stats.next_offset, size
    seen = walk(segment, size, trusted_to)
    segment.tailed_index.set_walked(seen.entries, seen.end)
    return seen.stats.next_offset, seen.end
