"""One partition's log: segments on disk, and the tail that readers see.

A `Log` holds a `LogReader` (reading, and the published tail), a `Durability` (what is on the device), `Refusals` (what
forbids appending), the state file, and what it knows of producers and leader epochs. It appends, rolls and deletes.

`append` stamps sealed batches with their offsets, writes them with one pwrite at the end of the active segment,
and then publishes a new `LogSnapshot` in one assignment. The write is noted before it starts. If it is still noted
at the next append (Ctrl-C came between write and publication, or the disk refused), the file is first truncated
to the tail. Nothing after the tail was ever read.

Every method that changes the log says REQUIRES: partition lock. `replication/partition.py` owns it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from itertools import repeat
from typing import Any

from ..config import TopicConfig
from ..errors import PoisonedLogError, StreamlogError
from ..records.batch import (
    LOG_APPEND_TIME,
    NO_PRODUCER,
    TRANSACTIONAL,
    stamp,
)
from ..records.single import OVERHEAD, SequencedFields, encode_one
from ..runtime.api import Disk
from ..runtime.disk_errors import ignored, require_disk_error
from ..runtime.values import refuse_to_copy
from ..types import Buffer
from .checkpoint import StateFile
from .durability import Durability
from .files import as_storage_error
from .last_batches import KEPT_BATCHES, SequencedBatch
from .leader_batches import has_gaps, verified
from .leader_epochs import EpochEnd, LeaderEpochCache
from .log_transactions import LogTransactions
from .producer_state import ProducerStateEntry, ProducerStateManager, staged_batches
from .reader import LogReader
from .recovery import resync
from .refusals import Refusals, Unfinished
from .segment import Segment
from .tail import EMPTY as EMPTY
from .tail import AppendRequest as AppendRequest
from .tail import FetchData as FetchData
from .tail import LogSnapshot

logger = logging.getLogger("streamlog.storage")

_UNLIMITED = 1 << 62
_new_tail: Any = tuple.__new__  # namedtuple's own __new__ is a Python call
# Up to this size the batch of a single record is kept in memory, one for each partition.
_LATEST_BYTES = 4096


class Log:
    """See the module. Made by `recovery.open_log`."""

    __reduce_ex__ = refuse_to_copy

    def __init__(
        self,
        disk: Disk,
        directory: str,
        seed: int,
        state: StateFile,
        segments: Sequence[Segment],
        config: TopicConfig,
        *,
        poison: PoisonedLogError | None = None,
        damage: StreamlogError | None = None,
        unfinished: Unfinished | None = None,
    ) -> None:
        self.disk = disk
        self.directory = directory
        self.seed = seed
        self.configure(config)
        last = segments[-1]
        start = state.state.log_start_offset
        self.reader = LogReader(
            seed,
            LogSnapshot(
                last.next_offset, last.size, tuple(segments), tuple(s.base_offset for s in segments), start,
                *last.stats[3:],
            ),
        )  # fmt: skip
        self.durability = Durability(disk, directory, state, poison)
        self.transactions = LogTransactions(self.reader)
        self.producers = ProducerStateManager(self.transactions.has_open)
        self.leader_epochs = LeaderEpochCache()
        self.refusals = Refusals(self.durability, damage, unfinished)
        # Recovery had to search for the end: the machine, or the disk, may have lost records that were read.
        self.may_have_lost_its_end = False
        self.state_file = state
        self._writing: AppendRequest | None = None
        # The segments that compaction renames and publishes just now, and the one that replaces them.
        self.replacing: tuple[Sequence[Segment], Segment] | None = None
        self._one = AppendRequest(())
        # An append has put the first record into a segment, which ages from then on. The partition resets it.
        self.began_segment = False
        self.appended_batches = 0
        self.appended_bytes = 0
        self.deleted_segments = 0

    @property
    def tail(self) -> LogSnapshot:
        """The published state of the log."""
        return self.reader.tail

    def configure(self, config: TopicConfig) -> None:
        """Use these settings from now on. REQUIRES: partition lock, or no other thread."""
        self.config = config
        self._segment_bytes = config.effective_segment_bytes
        self._segment_ms = config.effective_segment_ms
        records = config.effective_segment_records
        self._segment_records = records if records > 0 else _UNLIMITED

    # -- writing -------------------------------------------------------------------------------------

    def append(self, write: AppendRequest, leader_epoch: int, now_ms: int) -> int:
        """Append `write.batches`, all or none; return the base offset of the first.

        REQUIRES: partition lock. One pwrite for all of them. Raises DiskFullError or StorageError with
        the log as it was; CorruptRecordError if damage at the very end left the next offset unknown; NotLeaderError
        for an epoch before the log's last. Batches of a producer that are in the log already are not appended
        a second time: the offset is the one they have. Whatever `ProducerStates.check` raises leaves the log as it was.
        """
        if self.refusals.current is not None or self.durability.poison is not None:
            self.refusals.require_append()
        if self._writing is not None:
            self._finish_or_undo()
        reader = self.reader
        if leader_epoch != self.leader_epochs.current:
            self.leader_epochs.begin(leader_epoch, reader.tail)
        for batch in write.batches:
            if batch.producer_id != NO_PRODUCER:
                if not self.producers.admit(write, reader.tail, now_ms):
                    return write.base_offset
                break
        batches, seed = write.batches, self.seed
        records = sum([each.record_count for each in batches])
        self._roll_if_full(sum([each.length for each in batches]), records, now_ms)
        offset, position = reader.tail[:2]
        buffers: list[Buffer] = []
        entries: list[tuple[int, int, int, int]] = []
        for batch in batches:
            header = stamp(batch, seed, offset, leader_epoch, now_ms)
            buffers += (header, batch.payload)
            low, high = batch.base_timestamp, batch.max_timestamp
            if batch.attributes & LOG_APPEND_TIME:
                low = high = now_ms
            entries.append((offset, position, low, high))
            offset += batch.last_offset_delta + 1
            position += len(header) + len(batch.payload)
        last = -KEPT_BATCHES  # all of a write are of one producer
        staged = staged_batches(batches[last:], entries[last:], repeat(now_ms))
        if batches[0].attributes & TRANSACTIONAL and len(batches) > KEPT_BATCHES:
            staged = [*staged_batches(batches[:1], entries, repeat(now_ms)), *staged]  # its transaction may begin there
        self.extend(write, buffers, entries, offset, position, records, now_ms, staged)
        return write.base_offset

    def append_as_follower(self, data: Buffer) -> int:
        """Append whole batches exactly as their leader stored them, all or none; return the new log end offset.

        REQUIRES: partition lock, and the maintenance lock for data that `begins_gaps`. Their checksums are verified before anything is written. Offsets and leader epochs are
        those of the leader: no batch may begin before the end of the log (after it, where compaction left a gap), and no
        epoch be less than the one before. Segments are rolled by the follower's own settings, and by the times at which the leader
        appended, so that they have the age that their headers say. What the broker
        blocks with `block` is about records of producers and does not apply.

        Raises CorruptRecordError, UnexpectedAppendOffsetError if the log has an offset already, NotLeaderError for an epoch
        that goes back, what `append` raises for the disk; with the log as it was, so that the same data may come again.
        """
        self.check_end()
        tail = self.reader.tail
        epoch = self.leader_epochs.latest(tail)
        source = f"What was fetched for {self.directory}"
        headers, has_gap = verified(data, self.seed, tail.end_offset, epoch, source)
        if not headers:
            return tail.end_offset
        if has_gap:
            self.record_compaction()
        records = sum([header.record_count for header in headers])
        self._roll_if_full(len(data), records, headers[0].append_timestamp)
        position = self.reader.tail.end_position
        entries: list[tuple[int, int, int, int]] = []
        for header in headers:
            entries.append((header.base_offset, position, header.base_timestamp, header.max_timestamp))
            position += header.batch_len
        self.leader_epochs.begin_batches(headers, tail)
        appended_ms = headers[0].append_timestamp
        staged = staged_batches(headers, entries, (each.append_timestamp for each in headers))
        self.extend(
            AppendRequest(()), (data,), entries, headers[-1].next_offset, position, records, appended_ms, staged
        )
        self.leader_epochs.appended(headers)
        self.producers.note(self.reader.tail)
        return self.reader.tail.end_offset

    def begins_gaps(self, data: Buffer) -> bool:
        """Whether these batches leave out offsets, and the state file does not say yet that offsets may be missing."""
        return not self.state_file.is_compaction_recorded and has_gaps(data, self.tail.end_offset)

    def extend(
        self, write: AppendRequest, buffers: Sequence[Buffer], entries: Sequence[tuple[int, int, int, int]],
        end_offset: int, end_position: int, records: int, now_ms: int,
        staged: Sequence[SequencedBatch],
    ) -> None:  # fmt: skip
        """Write, index, publish: the log grows by whole batches or not at all. `append_one` has a copy of this.

        `entries` are the offset, the position and the least and greatest timestamp of each batch; `staged` are those of
        producers. Sets `write.base_offset`. Raises DiskFullError, StorageError, with the log as it was.
        """
        reader = self.reader
        _, position, segments, bases, start, known, min_ts, max_ts, first_append = reader.tail
        active = segments[-1]
        index = active.index
        write.base_offset = -1
        try:
            file = active.file  # this may open it, and that may fail: then nothing was written
            write.append_ms = now_ms
            self._writing = write
            if staged:
                self.producers.stage(staged, reader.tail)
                self.transactions.stage(staged)
            file.pwrite(buffers, position)
        except OSError as error:
            require_disk_error(error)
            if self._writing is not None:
                with contextlib.suppress(StreamlogError):  # the next append retries it
                    self._finish_or_undo()
            raise as_storage_error(error, "append to", active.path) from error
        for offset, at, low, high in entries:
            index.add(offset, at, high)
            if high >= 0:
                min_ts = low if max_ts < 0 else min(min_ts, low)  # -1 for good if one batch does not know its least
                max_ts = max(max_ts, high)
        self.appended_batches += len(entries)
        self.appended_bytes += end_position - position
        write.base_offset = entries[0][0]
        if first_append < 0:
            first_append = now_ms
            self.began_segment = True
        reader.tail = _new_tail(
            LogSnapshot,
            (end_offset, end_position, segments, bases, start, known + records, min_ts, max_ts, first_append),
        )
        if self.transactions.has_staged:
            self.transactions.note(reader.tail)
        self._writing = None

    def append_one(
        self, key: bytes | None, value: bytes, timestamp: int, leader_epoch: int, now_ms: int,
        sequenced: SequencedFields | None = None,
    ) -> int:  # fmt: skip
        """`append` for a single plain record: the same bytes, in less time. `sequenced`: see `SequencedRecord`.

        REQUIRES: partition lock. Raises what `append` raises. What `extend` does is written out: with a call of it, a send
        took 12% longer, and this method 20%.
        """
        if self.refusals.current is not None or self.durability.poison is not None:
            self.refusals.require_append()
        if self._writing is not None:
            self._finish_or_undo()
        reader = self.reader
        if leader_epoch != self.leader_epochs.current:
            self.leader_epochs.begin(leader_epoch, reader.tail)
        write, singles, attributes = self._one, None, 0
        if sequenced is not None:
            producer_id, epoch, sequence, attributes = sequenced
            singles = self.producers.singles.get(producer_id)
            if singles is None or singles.next != sequenced:
                singles = self.producers.admit_one(write, reader.tail, now_ms, sequenced)
                if singles is None:
                    return write.base_offset
        offset, position, segments, bases, start, records, min_ts, max_ts, first_append = reader.tail
        if position and (
            position + OVERHEAD + (0 if key is None else len(key)) + len(value) > self._segment_bytes
            or 0 <= first_append <= now_ms - self._segment_ms
            or self._segment_records <= records
        ):
            self.roll(now_ms)
            offset, position, segments, bases, start, records, min_ts, max_ts, first_append = reader.tail
        active = segments[-1]
        if singles is None:
            data = encode_one(self.seed, key, value, timestamp, offset, leader_epoch, now_ms)
        else:
            data = encode_one(
                self.seed, key, value, timestamp, offset, leader_epoch, now_ms, producer_id, epoch, sequence, attributes
            )
        index = active.index
        write.base_offset = -1
        self._writing = write
        if singles is not None:
            singles.recent.append((sequence, offset, now_ms))
            singles.next = (
                producer_id,
                epoch,
                sequence + 1,
                attributes,
            )  # not one after 2^31 - 1: that takes the long way
            if attributes and producer_id not in self.transactions.in_segment:
                self.transactions.stage((SequencedBatch(producer_id, epoch, sequence, 0, attributes, offset, now_ms),))
        try:
            active.file.pwrite((data,), position)
        except OSError as error:
            require_disk_error(error)
            with contextlib.suppress(StreamlogError):
                self._finish_or_undo()
            raise as_storage_error(error, "append to", active.path) from error
        index.add(offset, position, timestamp)
        self.appended_batches += 1
        self.appended_bytes += len(data)
        write.base_offset = offset
        if first_append < 0:
            first_append = now_ms
            self.began_segment = True
        reader.tail = _new_tail(
            LogSnapshot,
            (
                offset + 1, position + len(data), segments, bases, start, records + 1,
                timestamp if max_ts < 0 or timestamp < min_ts else min_ts,
                timestamp if timestamp > max_ts else max_ts,
                first_append,
            ),
        )  # fmt: skip
        if attributes and self.transactions.has_staged:
            self.transactions.note(reader.tail)
        self._writing = None
        reader.latest = (position, active, data) if len(data) <= _LATEST_BYTES else None
        return offset

    def producer_state(self, producer_id: int, now_ms: int) -> ProducerStateEntry | None:
        """What is known of a producer; see `ProducerStates.get`. REQUIRES: partition lock. Raises what reading raises."""
        return self.producers.states(self.tail, now_ms).get(producer_id, now_ms)

    def producer_states(self, now_ms: int) -> dict[int, ProducerStateEntry]:
        """What is known of all producers, by their ids. As `producer_state`."""
        return self.producers.states(self.tail, now_ms).all(now_ms)

    def resolve_append(self, write: AppendRequest) -> None:
        """Make `write.base_offset` true after an interrupt: an offset if the batches are in the log, else -1.

        REQUIRES: partition lock.
        """
        if self._writing is write:
            self._finish_or_undo()

    def _finish_or_undo(self) -> None:
        """Finish or undo the write that is still noted: the tail alone says which."""
        write = self._writing
        assert write is not None
        tail = self.reader.tail
        if write.base_offset < 0 or tail.end_offset <= write.base_offset:
            active = tail.segments[-1]
            try:
                active.file.truncate(tail.end_position)
            except OSError as error:
                raise as_storage_error(error, "truncate", active.path) from error
            self.durability.has_unsynced_truncation = True
            active.index.truncate(tail.end_position)
            write.base_offset = -1
        self.producers.note(tail)  # which forgets what was staged and is not in the log
        self.transactions.note(tail)
        self._writing = None

    def check_end(self) -> None:
        """Finish what was interrupted at the end of the log; raise if that cannot be done, or the end is not known."""
        self.refusals.require_end()
        if self._writing is not None:
            self._finish_or_undo()

    def take_back(self, before: LogSnapshot) -> None:
        """Remove what was appended since the tail was `before`, from the device too.

        For one append whose write or sync failed: it may be on the device all the same. REQUIRES: partition lock, no
        sync under way, nothing appended after it, and no reader has seen it. May be called once more after a failure
        or an interrupt at any point. A log whose sync failed stays poisoned.

        Raises StorageError, DiskFullError, CorruptRecordError: then it is unknown what a power loss leaves of it.
        """
        tail, durability = self.tail, self.durability
        active = tail.segments[-1]  # the append may have created it; sealed ones may have been compacted since
        is_new = tail.bases[-1] == before.end_offset
        position, *counts = (0, 0, -1, -1, -1) if is_new else (before.end_position, *before[5:])
        self.reader.tail = LogSnapshot(
            before.end_offset, position, tail.segments, tail.bases, tail.start_offset, *counts
        )
        durability.synced_end = min(durability.synced_end, before.end_offset)
        active.index.truncate(position)
        active.summary = None
        if not durability.truncate(active, position):
            durability.is_half_replaced = True
            try:
                resync.replace(self.disk, self.directory, active, position, before.end_offset)
            except OSError as error:
                raise as_storage_error(error, "take back what was appended to", active.path) from error
            durability.is_half_replaced = False
        durability.has_unsynced_truncation = False
        self.producers.truncated()
        self.transactions.truncated()
        self._writing = None

    # -- leader epochs -------------------------------------------------------------------------------

    def assign_epoch(self, epoch: int, start_offset: int) -> None:
        """This broker leads the partition in `epoch`, from the end of the log on. REQUIRES: partition lock.

        It counts at once for `epoch_end_offset`: until a batch is written in it, an earlier epoch ends here. A batch is
        what makes it durable, so no record is acknowledged whose epoch a crash could forget.
        """
        assert start_offset == self.tail.end_offset, "a leader epoch begins where the log ends"
        self.leader_epochs.assigned = epoch

    def epoch_end_offset(self, epoch: int) -> EpochEnd | None:
        """Where `epoch`, or else the largest one below it, ended (OffsetForLeaderEpoch, KIP-101 and KIP-279).

        None for an epoch that is newer than all. REQUIRES: partition lock. Raises what reading the headers raises.
        """
        tail = self.tail
        return self.leader_epochs.epochs(tail).end_offset_for(epoch, tail.end_offset)

    def diverging_epoch(self, last_fetched_epoch: int, fetch_offset: int) -> EpochEnd | None:
        """What to answer to a fetch at `fetch_offset` of a follower whose last batch is of `last_fetched_epoch` (KIP-595).

        None if its log is a part of this one. Else where the largest epoch that both may have ended here: the follower
        truncates to that offset or before. REQUIRES: partition lock. Raises OffsetOutOfRangeError if that is not known, and
        CorruptRecordError if a damaged batch may hide an epoch that both have: then the follower may have the only copy of it.
        """
        end = self.epoch_end_offset(last_fetched_epoch)
        if end is None:
            raise self.reader.out_of_range(fetch_offset, self.tail.end_offset)
        if end.epoch == last_fetched_epoch and end.end_offset >= fetch_offset:
            return None
        self.leader_epochs.require_whole(self.tail, end.epoch, fetch_offset)
        return end

    # -- rolling -------------------------------------------------------------------------------------

    def _roll_if_full(self, size: int, records: int, now_ms: int) -> None:
        if self.is_full(size, records, now_ms):
            self._begin_segment()

    def is_full(self, size: int, records: int, now_ms: int) -> bool:
        """Whether so many bytes and records would be too much for the active segment, or it is too old."""
        tail = self.reader.tail
        return tail.end_position > 0 and (
            tail.end_position + size > self._segment_bytes
            or self.is_due(now_ms, tail)
            or self._segment_records < tail.records + records
        )

    def is_due(self, now_ms: int, tail: LogSnapshot | None = None) -> bool:
        """Whether the active segment has reached its maximal age or number of records."""
        tail = tail or self.tail
        if 0 <= tail.first_append <= now_ms - self._segment_ms:
            return True
        return self._segment_records <= tail.records

    def roll(self, now_ms: int) -> bool:
        """Seal the active segment and open an empty one; False if it is empty already.

        REQUIRES: partition lock. Nothing is synced: the next sync has the name of the new file on the device, and all of the
        old one, before it counts. A log that refuses appends is not rolled, but for a follower's: if its end is damaged, the
        base offset of a new segment is unknown.
        """
        self.durability.refuse_if_poisoned()
        if self._writing is not None:
            self._finish_or_undo()
        refusals = self.refusals
        if not (self.tail.end_position and refusals.has_sound_end and refusals.current in (None, refusals.not_leader)):
            return False
        self._begin_segment()
        return True

    def _begin_segment(self) -> None:
        tail = self.tail
        old = tail.segments[-1]
        new = Segment(self.disk, self.directory, tail.end_offset, self.seed)
        self.producers.note(tail)
        self.transactions.rolls()
        old.set_stats(tail.active_stats())
        try:
            if self.disk.exists(new.path):  # left by a roll that was interrupted before it was published
                self.disk.unlink(new.path)
            new.create()
            end, segments, bases = tail.end_offset, (*tail.segments, new), (*tail.bases, tail.end_offset)
            self.reader.tail = LogSnapshot(end, 0, segments, bases, tail.start_offset, 0, -1, -1, -1)
        except BaseException as error:
            if self.tail is tail:  # the old segment is appended to, and an empty file here would be in the way
                with ignored(OSError):
                    self.disk.unlink(new.path)
            if isinstance(error, OSError):
                raise as_storage_error(error, "create", new.path) from error
            raise
        self.durability.has_unsynced_truncation = False  # a sealed segment is synced whole, whatever was synced before
        # Sealed after it was published: an interrupt in between leaves a segment that is read with pread,
        # the other way round one that is appended to and read through a mapping too short for it.
        old.seal()

    # -- what the log holds --------------------------------------------------------------------------

    @property
    def cleaned_until(self) -> int:
        """The offset up to which compaction has looked at every key."""
        return self.state_file.state.cleaned_until

    @property
    def next_horizon(self) -> int | None:
        """When (ms) compaction will find tombstones that may be dropped, or None."""
        horizon = self.state_file.state.next_horizon
        return horizon if horizon >= 0 else None

    def set_cleaned(self, until: int, next_horizon: int | None) -> None:
        """Store the results of a compaction: hints, not synced. Losing them costs a pass over what is clean already."""
        horizon = -1 if next_horizon is None else next_horizon
        if (until, horizon) != (self.cleaned_until, self.state_file.state.next_horizon):
            self.state_file.write(self.state_file.state._replace(cleaned_until=until, next_horizon=horizon), sync=False)

    def record_compaction(self) -> None:
        """Record on the device that offsets may be missing inside segments, before a compacted one is. Raises StorageError.

        REQUIRES: maintenance lock. Without it `verify` would report them as lost once the topic is no longer compacted.
        """
        self.state_file.record_compaction()

    # -- deleting ------------------------------------------------------------------------------------

    def store_start(self, offset: int) -> None:
        """Have the log start that `advance_start` is about to raise on the device. It takes a sync, under no partition lock.

        REQUIRES: maintenance lock. If that is all that happens, the next open raises it.
        """
        if offset > self.state_file.state.log_start_offset:
            self.state_file.write(self.state_file.state._replace(log_start_offset=offset), sync=True)

    def advance_start(self, offset: int) -> list[Segment]:
        """Raise the log start offset and take the sealed segments that end before it out of the tail; return them.

        REQUIRES: partition lock, maintenance lock. The new start is on the device on return, so the caller may `discard`
        the segments, after it released the lock. There is no sync under the lock if `store_start` came before.
        """
        tail = self.tail
        if offset > tail.start_offset:
            if self._writing is not None:
                self._finish_or_undo()
            self.store_start(offset)
        else:
            offset = tail.start_offset
        gone = 0
        while gone < len(tail.segments) - 1 and tail.segments[gone].next_offset <= offset:
            gone += 1
        self.reader.tail = tail._replace(segments=tail.segments[gone:], bases=tail.bases[gone:], start_offset=offset)
        self.transactions.start_raised(offset)
        if gone:
            self.reader.latest = None  # its segment may be gone, and it would keep the file open
        self.deleted_segments += gone
        return list(tail.segments[:gone])

    def discard(self, segments: Sequence[Segment]) -> None:
        """Unlink segments that are no longer in the tail. No lock: a reader that holds one keeps its pages.

        REQUIRES: a segment that stays has its name on the device (`Durability.sync_names`).
        """
        for segment in segments:
            segment.release()
            for path in (segment.path, segment.index_path):
                try:
                    self.disk.unlink(path)
                except FileNotFoundError as error:
                    require_disk_error(error)
                    continue
                except OSError as error:
                    require_disk_error(error)
                    logger.warning("could not remove %s (%s); it will be removed at the next open", path, error)

    def replace(self, old: Sequence[Segment], new: Segment) -> None:
        """Publish `new` in place of `old`, neighbouring sealed segments. REQUIRES: partition lock."""
        tail = self.tail
        at = tail.segments.index(old[0])
        assert tail.segments[at : at + len(old)] == tuple(old), "compacted segments are no longer in the log"
        segments = (*tail.segments[:at], new, *tail.segments[at + len(old) :])
        self.reader.tail = tail._replace(segments=segments, bases=tuple(s.base_offset for s in segments))
        self.reader.latest = None  # its segment may be gone, and it would keep the file open

    # -- closing -------------------------------------------------------------------------------------

    def close(self) -> None:
        """Sync everything, move the recovery point to the end, leave an index for a quick open.

        REQUIRES: partition lock, no reader or writer after it; `release` follows. A full disk only costs the
        index and the recovery point. A poisoned log syncs nothing and raises its PoisonedLogError.
        """
        durability = self.durability
        if durability.poison is not None:
            durability.mark_poisoned()
            raise durability.poison.copy()
        if self._writing is not None:
            self._finish_or_undo()
        tail = self.tail
        durability.sync_sealed(tail)
        if not self.refusals.has_sound_end:  # no recovery point is set there
            return
        active = tail.segments[-1]
        self.producers.note(tail)
        active.set_stats(tail.active_stats())
        durability.sync_truncation(active)
        durability.sync_end(tail)
        if tail.end_position:
            active.write_index()

    def close_idle_files(self) -> None:
        """Close descriptors until the next use: a log of many partitions would run out of them."""
        self.tail.segments[-1].release()

    def release(self) -> None:
        """Close every file, with no write or sync."""
        self.reader.latest = None
        for segment in self.tail.segments:
            segment.close()
        self.state_file.close()
