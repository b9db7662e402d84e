"""One partition's log: segments on disk, and the tail that readers see.

Writing: `append` stamps sealed batches with their offsets, writes them with one pwrite at the end of
the active segment and then publishes a new `LogSnapshot` in one assignment. A write is flagged before it
starts; if the flag still stands at the next append (Ctrl-C came between write and publication, or
the disk refused), the file is first cut back to the tail. Nothing past the tail was ever served.

Every method that changes the log says REQUIRES: partition lock. `replication/partition.py` owns it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

from ..config import TopicConfig
from ..errors import StreamlogError
from ..records.batch import LOG_APPEND_TIME, NO_PRODUCER, SealedBatch, stamp
from ..records.single import OVERHEAD, encode_one
from ..runtime.api import Disk
from ..runtime.disk_errors import check, ignored
from ..runtime.values import refuse_to_copy
from ..types import SegmentInfo
from .checkpoint import StateFile
from .durability import DurableLog
from .files import as_storage_error
from .leader_epochs import LeaderEpochCache
from .producer_state import ProducerStateManager
from .recovery import resync
from .segment import Segment
from .tail import EMPTY as EMPTY
from .tail import AppendRequest as AppendRequest
from .tail import FetchData as FetchData
from .tail import LogSnapshot

logger = logging.getLogger("streamlog.storage")

_new_tail: Any = tuple.__new__  # namedtuple's own __new__ is a Python call
# Up to this size the batch of a lone record is kept in memory, one for each partition.
_LATEST_BYTES = 4096


class Log(DurableLog):
    """See the module; syncing is in `DurableLog`, reading in `LogReader`. Made by `recovery.open_log`."""

    __reduce_ex__ = refuse_to_copy

    def __init__(
        self,
        disk: Disk,
        directory: str,
        seed: int,
        state: StateFile,
        segments: Sequence[Segment],
        config: TopicConfig,
        fault: StreamlogError | None = None,
    ) -> None:
        self.disk = disk
        self.directory = directory
        self.seed = seed
        self.configure(config)
        self.fault = fault
        self.mend: Callable[[], None] | None = None
        self._state = state
        self._writing: AppendRequest | None = None
        self.was_cut = False
        self.may_have_lost_its_end = False
        self.synced_end = self.recovery_point
        self.acknowledged_is_synced = False
        self.is_marked = False  # at close: word was left of a sync that failed
        self._is_half_replaced = False
        self.replacing: tuple[Sequence[Segment], Segment] | None = (
            None  # what compaction renames and publishes just now
        )
        self._one = AppendRequest(())
        self.producers = ProducerStateManager()
        self.leader_epochs = LeaderEpochCache()
        last = segments[-1]
        start = state.state.log_start_offset
        self.tail = LogSnapshot(
            last.next_offset, last.size, tuple(segments), tuple(s.base_offset for s in segments), start,
            *last.stats[3:],
        )  # fmt: skip
        self.appended_batches = 0
        self.appended_bytes = 0
        self.deleted_segments = 0

    def configure(self, config: TopicConfig) -> None:
        """Take these settings from now on. REQUIRES: partition lock, or nobody else."""
        self.config = config
        self._segment_bytes = config.effective_segment_bytes
        self._segment_ms = config.effective_segment_ms
        self._segment_records = config.effective_segment_records

    # -- writing -------------------------------------------------------------------------------------

    def append(self, write: AppendRequest, leader_epoch: int, now_ms: int) -> int:
        """Put `write.batches` at the end, all or none; return the first one's base offset.

        REQUIRES: partition lock. One pwrite for all of them. Raises DiskFullError or StorageError with
        the log as it was; CorruptRecordError if damage at the very end left the next offset unknown; NotLeaderError
        for an epoch before the log's last. Batches of a producer that are in the log already are not put there
        again: the offset is the one they have. What else `ProducerStates.check` raises of them leaves the log as it was.
        """
        if self.fault is not None:
            self._mend()
        if self._writing is not None:
            self._settle()
        if leader_epoch != self.leader_epochs.current:
            self.leader_epochs.begin(leader_epoch, self.tail)
        for batch in write.batches:
            if batch.producer_id != NO_PRODUCER:
                if not self.producers.admit(write, self.tail, now_ms):
                    return write.base_offset
                break
        tail = self.tail
        if tail.end_position and self._is_full(tail, write.batches, now_ms):
            self.roll(now_ms)
            tail = self.tail
        offset, position, segments, bases, start, records, min_ts, max_ts, first_append = tail
        active = segments[-1]
        index, seed = active.index, self.seed
        buffers: list[bytes] = []
        places: list[tuple[int, int, int]] = []
        for batch in write.batches:
            header = stamp(batch, seed, offset, leader_epoch, now_ms)
            buffers += (header, batch.payload)
            low, high = batch.base_timestamp, batch.max_timestamp
            if batch.attributes & LOG_APPEND_TIME:
                low = high = now_ms
            records += batch.record_count
            if high >= 0:
                max_ts = max(max_ts, high)
                min_ts = low if min_ts < 0 else min(min_ts, low)
            places.append((offset, position, high))
            offset += batch.last_offset_delta + 1
            position += len(header) + len(batch.payload)
        try:
            file = active.file  # opened, it may be, and that may fail: then nothing was written
            write.append_ms = now_ms
            self._writing = write
            file.pwrite(buffers, tail.end_position)
        except OSError as error:
            check(error)
            if self._writing is not None:
                with contextlib.suppress(StreamlogError):  # the next append tries again
                    self._settle()
            raise as_storage_error(error, "append to", active.path) from error
        for place in places:
            index.add(*place)
        self.appended_batches += len(places)
        self.appended_bytes += position - tail.end_position
        write.base_offset = tail.end_offset
        first_append = now_ms if first_append < 0 else first_append
        self.tail = _new_tail(
            LogSnapshot, (offset, position, segments, bases, start, records, min_ts, max_ts, first_append)
        )
        self._writing = None
        if batch.producer_id != NO_PRODUCER:
            self.producers.note(self.tail)
        return write.base_offset

    def append_one(self, key: bytes | None, value: bytes, timestamp: int, leader_epoch: int, now_ms: int) -> int:
        """`append` for a single plain record: the same bytes, with less ceremony.

        REQUIRES: partition lock. Raises what `append` raises.
        """
        if self.fault is not None:
            self._mend()
        if self._writing is not None:
            self._settle()
        if leader_epoch != self.leader_epochs.current:
            self.leader_epochs.begin(leader_epoch, self.tail)
        tail = self.tail
        offset, position, segments, bases, start, records, min_ts, max_ts, first_append = tail
        if position and (
            position + OVERHEAD + (0 if key is None else len(key)) + len(value) > self._segment_bytes
            or 0 <= first_append <= now_ms - self._segment_ms
            or 0 < self._segment_records <= records
        ):
            self.roll(now_ms)
            offset, position, segments, bases, start, records, min_ts, max_ts, first_append = self.tail
        active = segments[-1]
        data = encode_one(self.seed, key, value, timestamp, offset, leader_epoch, now_ms)
        index = active.index
        write = self._one
        write.base_offset = -1
        self._writing = write
        try:
            active.file.pwrite((data,), position)
        except OSError as error:
            check(error)
            with contextlib.suppress(StreamlogError):
                self._settle()
            raise as_storage_error(error, "append to", active.path) from error
        index.add(offset, position, timestamp)
        self.appended_batches += 1
        self.appended_bytes += len(data)
        write.base_offset = offset
        self.tail = _new_tail(
            LogSnapshot,
            (
                offset + 1, position + len(data), segments, bases, start, records + 1,
                timestamp if min_ts < 0 or timestamp < min_ts else min_ts,
                timestamp if timestamp > max_ts else max_ts,
                now_ms if first_append < 0 else first_append,
            ),
        )  # fmt: skip
        self._writing = None
        self.latest = (position, active, data) if len(data) <= _LATEST_BYTES else None
        return offset

    def settle(self, write: AppendRequest) -> None:
        """Make `write.base_offset` true after an interrupt: an offset if it is in the log, else -1.

        REQUIRES: partition lock.
        """
        if self._writing is write:
            self._settle()

    def _settle(self) -> None:
        """Finish or undo the write whose flag still stands: the tail alone says which."""
        write = self._writing
        assert write is not None
        tail = self.tail
        if write.base_offset < 0 or tail.end_offset <= write.base_offset:
            active = tail.segments[-1]
            try:
                active.file.truncate(tail.end_position)
            except OSError as error:
                raise as_storage_error(error, "cut back", active.path) from error
            self.was_cut = True
            active.index.cut(tail.end_position)
            write.base_offset = -1
        self._writing = None

    def take_back(self, before: LogSnapshot) -> None:
        """Have nothing in the log that was appended since its tail was `before`, on the device too.

        For one append whose write or sync failed: it may be on the device all the same. REQUIRES: partition lock, no
        sync under way, nothing appended after it, nobody who read it. May be called again after a failure or an
        interrupt at any point. A log whose sync failed stays poisoned.

        Raises StorageError, DiskFullError, CorruptRecordError: then nothing tells what a power loss leaves of it.
        """
        tail = self.tail
        active = tail.segments[-1]  # the append may have begun it; sealed ones may have been compacted since
        is_new = tail.bases[-1] == before.end_offset
        position, *counts = (0, 0, -1, -1, -1) if is_new else (before.end_position, *before[5:])
        self.tail = LogSnapshot(before.end_offset, position, tail.segments, tail.bases, tail.start_offset, *counts)
        self.synced_end = min(self.synced_end, before.end_offset)
        active.index.cut(position)
        if not self._cut_in_place(active, position):
            self._is_half_replaced = True
            try:
                resync.replace(self.disk, self.directory, active, position, before.end_offset)
            except OSError as error:
                raise as_storage_error(error, "take back what was appended to", active.path) from error
            self._is_half_replaced = False
        self.was_cut = False
        self._writing = None

    def _cut_in_place(self, active: Segment, position: int) -> bool:
        """Cut the file back to `position`; whether that is on the device.

        After a sync that failed no further one of the same file proves anything; nor does one of a file whose name is
        not known to be on the device. What can be cut is cut then too: a process that is killed leaves nothing of it.
        """
        try:
            active.file.truncate(position)
            if self.poison is not None or self._is_half_replaced:
                return False
            self._sync(active)
        except (OSError, StreamlogError) as error:
            if isinstance(error, OSError):
                check(error)
            logger.warning("%s: could not be cut back to byte %d (%s)", active.path, position, error)
            return False
        return True

    def _mend(self) -> None:
        """Try again what opening could not finish, for want of space; else raise what forbids appending."""
        assert self.fault is not None
        if self.mend is None:
            raise self.fault.copy()
        self.mend()
        self.mend = self.fault = None

    def _is_full(self, tail: LogSnapshot, batches: Sequence[SealedBatch], now_ms: int) -> bool:
        size = tail.end_position + sum([batch.length for batch in batches])
        if size > self._segment_bytes or self.is_due(now_ms, tail):
            return True
        most = self._segment_records
        return most > 0 and tail.records + sum([batch.record_count for batch in batches]) > most

    def is_due(self, now_ms: int, tail: LogSnapshot | None = None) -> bool:
        """Whether the active segment has reached its age or number of records."""
        tail = tail or self.tail
        if 0 <= tail.first_append <= now_ms - self._segment_ms:
            return True
        return 0 < self._segment_records <= tail.records

    def roll(self, now_ms: int) -> bool:
        """Seal the active segment and open an empty one; False if it is empty already.

        REQUIRES: partition lock. The new file is there and its directory synced before it is published. A log
        that is damaged at its very end is not rolled: nothing could tell the new segment's first offset.
        """
        self.refuse_if_poisoned()
        if self._writing is not None:
            self._settle()
        tail = self.tail
        if not tail.end_position or self.fault is not None:
            return False
        old = tail.segments[-1]
        new = Segment(self.disk, self.directory, tail.end_offset, self.seed)
        self._sync_cut(old)
        old.adopt(tail.active_stats())
        try:
            if self.disk.exists(new.path):  # left by a roll that was interrupted before it was published
                self.disk.unlink(new.path)
            new.create()
            self.sync_directory()
            end, segments, bases = tail.end_offset, (*tail.segments, new), (*tail.bases, tail.end_offset)
            self.tail = LogSnapshot(end, 0, segments, bases, tail.start_offset, 0, -1, -1, -1)
        except BaseException as error:
            if self.tail is tail:  # an empty file here would be in the way of what is appended to the old one now
                with ignored(OSError):
                    self.disk.unlink(new.path)
            if isinstance(error, OSError):
                raise as_storage_error(error, "create", new.path) from error
            raise
        # Sealed after it was published: an interrupt in between leaves a segment that is read with pread,
        # the other way round one that is appended to and read through a mapping too short for it.
        old.seal()
        return True

    # -- what the log holds --------------------------------------------------------------------------

    def sealed(self) -> list[SegmentInfo]:
        """What a retention policy sees: the sealed segments, oldest first."""
        return [segment.info() for segment in self.tail.segments[:-1]]

    def size_bytes(self) -> int:
        tail = self.tail
        return sum(segment.size for segment in tail.segments[:-1]) + tail.end_position

    @property
    def cleaned_until(self) -> int:
        """The offset up to which compaction has looked at every key."""
        return self._state.state.cleaned_until

    @property
    def next_horizon(self) -> int | None:
        """When (ms) compaction will find tombstones that may be dropped, or None."""
        horizon = self._state.state.next_horizon
        return horizon if horizon >= 0 else None

    def set_cleaned(self, until: int, next_horizon: int | None) -> None:
        """What compaction found out: hints, not synced. Losing them costs a pass over what is clean already."""
        horizon = -1 if next_horizon is None else next_horizon
        if (until, horizon) != (self.cleaned_until, self._state.state.next_horizon):
            self._state.write(self._state.state._replace(cleaned_until=until, next_horizon=horizon), sync=False)

    def tell_compaction(self) -> None:
        """Have it on the device that offsets may be missing inside segments, before a compacted one is. Raises StorageError.

        REQUIRES: maintenance lock. Else `verify` would take them for lost once the topic is no longer compacted.
        """
        self._state.tell_compaction()

    # -- forgetting ----------------------------------------------------------------------------------

    def advance_start(self, offset: int) -> list[Segment]:
        """Raise the log start offset and take out sealed segments that end before it; return those.

        REQUIRES: partition lock. The new start is on the device on return, so the caller may `discard`
        the segments, after it left the lock.
        """
        tail = self.tail
        if offset > tail.start_offset:
            if self._writing is not None:
                self._settle()
            self._state.write(self._state.state._replace(log_start_offset=offset), sync=True)
        else:
            offset = tail.start_offset
        gone = 0
        while gone < len(tail.segments) - 1 and tail.segments[gone].next_offset <= offset:
            gone += 1
        self.tail = tail._replace(segments=tail.segments[gone:], bases=tail.bases[gone:], start_offset=offset)
        if gone:
            self.latest = None  # it may be of a segment that is gone, and would keep its file
        self.deleted_segments += gone
        return list(tail.segments[:gone])

    def discard(self, segments: Sequence[Segment]) -> None:
        """Unlink segments that are in no tail any more. No lock: readers that hold one keep its pages."""
        for segment in segments:
            segment.release()
            for path in (segment.path, segment.index_path):
                try:
                    self.disk.unlink(path)
                except FileNotFoundError as error:
                    check(error)
                    continue
                except OSError as error:
                    check(error)
                    logger.warning("could not remove %s (%s); it will be removed at the next open", path, error)

    def replace(self, old: Sequence[Segment], new: Segment) -> None:
        """Publish `new` in place of `old`, adjoining sealed segments. REQUIRES: partition lock."""
        tail = self.tail
        at = tail.segments.index(old[0])
        assert tail.segments[at : at + len(old)] == tuple(old), "compacted segments are no longer in the log"
        segments = (*tail.segments[:at], new, *tail.segments[at + len(old) :])
        self.tail = tail._replace(segments=segments, bases=tuple(s.base_offset for s in segments))
        self.latest = None  # it may be of a segment that is gone, and would keep its file

    # -- closing -------------------------------------------------------------------------------------

    def close(self) -> None:
        """Sync everything, move the recovery point to the end, leave an index for a quick open.

        REQUIRES: partition lock, no reader or writer after it; `release` follows. A disk that is full only
        costs the index and the recovery point. A poisoned log syncs nothing and raises its PoisonedLogError.
        """
        if self.poison is not None:
            synced_end, is_all = self.synced_end, self.acknowledged_is_synced
            self.is_marked = resync.mark(self.disk, self.directory, synced_end, is_all=is_all)
            raise self.poison.copy()
        if self._writing is not None:
            self._settle()
        self.sync_sealed()
        tail = self.tail
        if self.fault is not None:  # nothing vouches for an end that is not known, nor is the directory closed as clean
            return
        active = tail.segments[-1]
        active.adopt(tail.active_stats())
        self._sync_cut(active)
        self.sync_end(tail)
        if tail.end_position:
            active.keep_index()

    def _sync_cut(self, active: Segment) -> None:
        """Have a cut, also of an earlier process, on the device before the file is sealed or the log closed.

        Nothing looks for a torn end there afterwards.
        """
        if self.was_cut:
            self._sync(active)
            self.was_cut = False

    def close_idle_files(self) -> None:
        """Let go of descriptors until the next use: a log of many partitions would run out of them."""
        self.tail.segments[-1].release()

    def release(self) -> None:
        """Let go of every file without a word to the disk."""
        self.latest = None
        for segment in self.tail.segments:
            segment.release()
        self._state.close()
