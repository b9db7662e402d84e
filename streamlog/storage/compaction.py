"""Compaction: keep the last value of each key, remove the values that it replaced.

One pass reads the keys of the dirty part (everything that no pass has read before) into a map of key → last
offset. Then it rewrites the sealed segments from the start to the end of the dirty part, without the records whose
key has a later offset in the map. Small neighbouring segments are merged.

Each batch is replaced by at most one, with the same base and last offset, epoch, producer and sequence. So offsets
never change, and readers see only gaps. The last batch of every file stays, without records if need be: each
segment then still ends where the next one begins, so a missing file is distinguished from a compacted one. An
empty batch also stays if no other batch has the last sequence of its producer.

Tombstones: the first pass that keeps one writes a delete horizon, `delete_retention_ms` from now, into its batch
(KIP-534); a pass after that horizon drops it. A reader that is not further behind than that sees every deletion.

If the process is killed, nothing is lost: the result is written beside the originals, synced, and renamed to
`A-B.swap`. Before the first such rename the state file records on the device that offsets may be missing in this
log, so they are not reported as lost later, whatever the topic's policy is then. From the rename on the result
counts, and it is published at once. If the pass was interrupted in between, `publish_interrupted` publishes the
result before anything else is done to the files. The remaining steps (`files.finish_swap`) are repeated, if they
were interrupted, before the next pass or at the next open.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import NamedTuple, TypeVar

from ..config import FOREVER
from ..errors import StreamlogError
from ..records import columns as column_codec
from ..records.batch import (
    CODEC_MASK,
    FORM_MASK,
    LOG_APPEND_TIME,
    NO_HORIZON,
    NO_PRODUCER,
    BatchHeader,
    SealedBatch,
    corrupt,
    peek,
    restamp,
    verify_payload,
    with_horizon,
)
from ..records.columns import BatchColumns
from ..records.decode import decode
from ..runtime.api import File
from ..runtime.disk_errors import require_disk_error
from .files import as_storage_error, cleaned_name, finish_interrupted, finish_swap, swap_name
from .index import IndexBuilder
from .log import Log
from .segment import Segment

# The map holds whole keys: with hashes, a program that chooses its keys could make records disappear. When this estimate
# is exceeded, the pass ends early, and the next one continues there.
MAP_BYTES = 128 << 20
_ENTRY_BYTES = 120
_WRITE_BYTES = 1 << 20
# The files of a group are open while its result replaces them.
MAX_GROUP_SEGMENTS = 64

T = TypeVar("T")
Publish = Callable[[Sequence[Segment], Segment], None]


class Plan(NamedTuple):
    """The sealed segments that a pass would rewrite, and how many of their bytes are dirty."""

    segments: tuple[Segment, ...]
    total_bytes: int
    dirty_bytes: int

    @property
    def dirty_ratio(self) -> float:
        return self.dirty_bytes / max(1, self.total_bytes)


def plan(log: Log, now_ms: int, clean_until: int) -> Plan:
    """What may be compacted now: sealed, before `clean_until`, and older than `min_compaction_lag_ms`."""
    lag = log.config.min_compaction_lag_ms
    chosen: list[Segment] = []
    if lag == FOREVER:
        return Plan((), 0, 0)
    for segment in log.tail.segments[:-1]:
        if segment.next_offset > clean_until or (lag and segment.max_timestamp > now_ms - lag):
            break
        chosen.append(segment)
    dirty = sum(s.size for s in chosen if s.next_offset > log.cleaned_until)
    return Plan(tuple(chosen), sum(s.size for s in chosen), dirty)


class Result(NamedTuple):
    """What a pass did. `next_horizon` is the earliest delete horizon (ms) that is not reached yet, or None."""

    cleaned_until: int
    records_removed: int
    bytes_before: int
    bytes_after: int
    next_horizon: int | None


Pass = Generator[int, None, Result]
"""A pass under way: each `next` handles one batch and gives its size in bytes. `close` gives it up."""


def compact(log: Log, todo: Plan, now_ms: int, publish: Publish) -> Pass:
    """Rewrite the planned segments. `publish(old, new)` takes the partition lock and replaces them in the tail.

    REQUIRES: the partition's maintenance lock, no other, during each step. Between two steps appends, reads and syncs may
    come, and the log may be rolled; before segments of the plan are deleted the pass is closed. Raises CorruptRecordError,
    with everything as it was, if a batch does not verify: compaction never removes damage.
    """
    _finish_interrupted(log)
    latest, map_end = yield from _latest_offsets(log, todo.segments)
    removed = before = after = 0
    horizon: int | None = None
    for group in _groups([s for s in todo.segments if s.base_offset < map_end], log.config.effective_segment_bytes):
        cleaner = _Cleaner(log, group, latest, now_ms)
        yield from cleaner.run()
        before += sum(s.size for s in group)
        after += cleaner.size
        removed += cleaner.removed
        if cleaner.next_horizon is not None:
            horizon = cleaner.next_horizon if horizon is None else min(horizon, cleaner.next_horizon)
        if cleaner.changed or len(group) > 1:
            cleaner.swap_in(publish)
        else:
            cleaner.abandon()
    log.set_cleaned(max(map_end, log.cleaned_until), horizon)
    return Result(map_end, removed, before, after, horizon)


def publish_interrupted(log: Log, publish: Publish) -> None:
    """Publish what an interrupted pass has renamed, so that the log in memory is the same as on disk.

    REQUIRES: the maintenance lock. Call it before anything that finishes replacements or unlinks segments: applied to
    segments that are already replaced on disk, these leave offsets twice, or a segment in memory without its file.
    Raises StorageError.
    """
    if log.replacing is None:
        return
    old, new = log.replacing
    swap = _swap_path(log, old)
    try:
        is_renamed = log.disk.exists(swap)
    except OSError as error:
        raise as_storage_error(error, "check for", swap) from error
    if is_renamed and new not in log.tail.segments:
        publish(old, new)
    log.replacing = None


def _swap_path(log: Log, old: Sequence[Segment]) -> str:
    return f"{log.directory}/{swap_name(old[0].base_offset, old[-1].stats.next_offset)}"


def _finish_interrupted(log: Log) -> None:
    """Finish the file operations of an earlier pass that was interrupted: two results must never overlap."""
    try:
        finish_interrupted(log.disk, log.directory, log.disk.listdir(log.directory))
    except OSError as error:
        raise as_storage_error(error, "finish an earlier compaction in", log.directory) from error


def _latest_offsets(log: Log, segments: Sequence[Segment]) -> Generator[int, None, tuple[dict[bytes, int], int]]:
    """Key → its last offset in the dirty segments, and the offset up to which the map is complete."""
    latest: dict[bytes, int] = {}
    available = MAP_BYTES
    end = log.cleaned_until
    for segment in segments:
        if segment.next_offset <= log.cleaned_until:
            continue
        for header, (keys, offsets), _ in _batches(log, segment, lambda c: (c.keys(), c.offsets())):
            yield header.batch_len
            if (
                header.next_offset <= log.cleaned_until
            ):  # else a pass that ended early in this segment would never get past it
                continue
            if keys is not None and not header.is_control:
                known = len(latest)
                latest.update((k, o) for k, o in zip(keys, offsets, strict=True) if k is not None)
                grown = len(latest) - known
                available -= grown * _ENTRY_BYTES + (sum(len(k) for k in keys if k is not None) if grown else 0)
            end = header.next_offset
            if available <= 0:
                return latest, end
        end = segment.next_offset
    return latest, max(end, segments[-1].next_offset if segments else end)


def _batches(log: Log, segment: Segment, take: Callable[[BatchColumns], T]) -> Iterator[tuple[BatchHeader, T, bytes]]:
    """Each batch of the segment: its header, what `take` makes of its columns, its bytes."""
    for position, header in segment.headers(0, segment.size):
        data = segment.read(header.batch_len, position)
        verify_payload(header, memoryview(data)[header.header_len :], log.seed, segment.path, position)
        try:
            taken = take(decode(header, data))
        except (ValueError, TypeError) as error:
            raise corrupt(segment.path, position, f"the columns contradict the header ({error})", 0, 0) from error
        yield header, taken, data


def _groups(segments: Sequence[Segment], limit: int) -> Iterator[tuple[Segment, ...]]:
    """Neighbours that fit into one segment. Never across a gap: after merging, lost offsets would look compacted."""
    group: list[Segment] = []
    for segment in segments:
        if group and (
            len(group) == MAX_GROUP_SEGMENTS
            or sum(s.size for s in group) + segment.size > limit
            or group[-1].stats.next_offset != segment.base_offset
        ):
            yield tuple(group)
            group = []
        group.append(segment)
    if group:
        yield tuple(group)


class _Cleaner:
    """Writes the compacted form of one group of segments beside them."""

    def __init__(self, log: Log, group: Sequence[Segment], latest: dict[bytes, int], now_ms: int) -> None:
        self._log = log
        self._group = group
        self._latest = latest
        self._now_ms = now_ms
        self._path = f"{log.directory}/{cleaned_name(group[0].base_offset)}"
        self._file: File | None = None
        self._buffers: list[bytes] = []
        self._buffered = 0
        self._built = IndexBuilder(group[0].base_offset)
        self.size = 0
        self.removed = 0
        self.changed = False
        self.next_horizon: int | None = None

    def run(self) -> Generator[int, None, None]:
        try:
            self._file = self._log.disk.open(self._path, create=True, exclusive=True)
            for segment in self._group:
                for header, full, data in _batches(self._log, segment, BatchColumns.all):
                    yield header.batch_len
                    last = segment is self._group[-1] and header.next_offset == segment.stats.next_offset
                    self._clean(header, full, data, last)
            self._flush()
        except OSError as error:
            require_disk_error(error)
            self.abandon()
            raise as_storage_error(error, "compact into", self._path) from error
        except BaseException:
            self.abandon()
            raise

    def _clean(self, header: BatchHeader, full: column_codec.Columns, data: bytes, last: bool) -> None:
        if header.is_control:
            self._put(header, data)
            return
        expired = header.delete_horizon != NO_HORIZON and self._now_ms >= header.delete_horizon
        latest = self._latest
        keep = [
            i
            for i, (key, value, offset) in enumerate(zip(full.keys, full.values, full.offsets, strict=True))
            if key is not None and latest.get(key, -1) <= offset and not (value is None and expired)
        ]
        tombstones = any(full.values[i] is None for i in keep)
        horizon = header.delete_horizon
        if tombstones and horizon == NO_HORIZON and self._log.config.delete_retention_ms != FOREVER:
            horizon = self._now_ms + self._log.config.delete_retention_ms
        if tombstones and horizon != NO_HORIZON:
            self.next_horizon = horizon if self.next_horizon is None else min(self.next_horizon, horizon)
        self.removed += header.record_count - len(keep)
        if not keep and not last and header.producer_id == NO_PRODUCER:
            self.changed = True
            return
        if len(keep) == header.record_count and horizon == header.delete_horizon:
            self._put(header, data)
            return
        self.changed = True
        if len(keep) == header.record_count:
            data = with_horizon(header, data, self._log.seed, horizon)
            self._put(peek(data), data)
            return
        sealed = _keep(self._log.seed, header, full, keep, horizon)
        data = restamp(header, sealed, self._log.seed) + sealed.payload
        self._put(peek(data), data)

    def _put(self, header: BatchHeader, data: bytes) -> None:
        self._built.add(header, self.size)
        self._buffers.append(data)
        self._buffered += len(data)
        self.size += len(data)
        if self._buffered >= _WRITE_BYTES:
            self._flush()

    def _flush(self) -> None:
        assert self._file is not None
        self._file.pwrite(self._buffers, self.size - self._buffered)
        self._buffers, self._buffered = [], 0

    def swap_in(self, publish: Publish) -> None:
        """Make the result count on disk by one rename, publish it, then finish the file operations."""
        log, group, file = self._log, self._group, self._file
        assert file is not None
        low, high = group[0].base_offset, group[-1].stats.next_offset
        new = Segment(log.disk, log.directory, low, log.seed)
        new.set_stats(self._built.stats(self.size))
        new.set_index(self._built.index)
        new.use_file(file)
        swap = _swap_path(log, group)
        try:
            log.record_compaction()
            file.sync()
            # The files at these paths change now, while readers use the segments.
            for segment in (*group, new):
                segment.pin()
            file.close()
            log.replacing = (group, new)
            log.disk.rename(self._path, swap)
            publish_interrupted(log, publish)
        except BaseException as error:
            with contextlib.suppress(StreamlogError):  # the next call of anything here does it
                publish_interrupted(log, publish)
            if new not in log.tail.segments:
                self.abandon()
            if isinstance(error, OSError):
                raise as_storage_error(error, "swap in", swap) from error
            raise
        try:
            finish_swap(log.disk, log.directory, low, high, log.disk.listdir(log.directory))
        except OSError as error:
            raise as_storage_error(error, "swap in", swap) from error
        new.unpin()
        new.write_index()

    def abandon(self) -> None:
        """Remove the result; if the unlink fails, the next open removes it."""
        if self._file is not None:
            self._file.close()
        try:
            if self._log.disk.exists(self._path):
                self._log.disk.unlink(self._path)
        except OSError as error:
            require_disk_error(error)
            return


def _keep(seed: int, header: BatchHeader, full: column_codec.Columns, keep: Sequence[int], horizon: int) -> SealedBatch:
    """The batch at `header` with only the records at `keep`, in payload form 0.

    A batch that loses all its records keeps its timestamps: retention by age must not take it for older than they are.
    """
    base = header.base_offset
    values = [full.values[i] for i in keep]
    headers = [full.headers[i] for i in keep]
    append_time = header.attributes & LOG_APPEND_TIME
    sealed = column_codec.seal(
        seed,
        [full.keys[i] for i in keep],
        values if any(v is not None for v in values) else None,
        header.base_timestamp if append_time else [full.timestamps[i] for i in keep],
        headers if any(headers) else None,
        count=len(keep),
        offset_deltas=[full.offsets[i] - base for i in keep],
        last_offset_delta=header.last_offset_delta,
        codec=header.codec if keep else 0,
        attributes=header.attributes & ~FORM_MASK & ~CODEC_MASK,
        delete_horizon=horizon if keep else NO_HORIZON,
    )
    if keep:
        return sealed
    return sealed._replace(base_timestamp=header.base_timestamp, max_timestamp=header.max_timestamp)
