"""Compaction: keep the last value of each key, remove the values that it replaced.

One pass reads the keys of the dirty part (everything that no pass has read before) into a map of key → last
offset. Then it rewrites the sealed segments from the start to the end of the dirty part, without the records whose
key has a later offset in the map. Small neighbouring segments are merged.

Each batch is replaced by at most one, with the same base and last offset, epoch, producer and sequence. So offsets
never change, and readers see only gaps. The last batch of every file stays, without records if need be: each
segment then still ends where the next one begins, so a missing file is distinguished from a compacted one. So do the
last five batches of every producer that may still send: the next one continues their sequence, and one of them may be sent
again. (Kafka keeps the last one, and the other four in snapshots beside the log.)

Transactions, as in Kafka: records of aborted ones are removed and never count as the value of a key. A marker stays as
long as the log has a batch of its transaction, and `delete_retention_ms` longer: a reader that has read a part of the
transaction has to see how it ended. A pass ends before the first transaction that is open.

Tombstones: the first pass that keeps one writes a delete horizon, `delete_retention_ms` from now, into its batch
(KIP-534); a pass after that horizon drops it. A reader that is not further behind than that sees every deletion.

Each result takes the place of the segments that it was made of (`replacement`). Before the first one does, the state file
records on the device that offsets may be missing in this log, so they are not reported as lost later, whatever the topic's
policy is then.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import NamedTuple, TypeVar

from ..config import FOREVER
from ..records import columns as column_codec
from ..records.batch import (
    ABORT,
    CODEC_MASK,
    COMMIT,
    FORM_MASK,
    LOG_APPEND_TIME,
    MAX_OFFSET,
    NO_HORIZON,
    NO_PRODUCER,
    TRANSACTIONAL,
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
from ..runtime.disk_errors import require_disk_error
from .files import as_storage_error
from .last_batches import KEPT_BATCHES, MAX_PRODUCERS
from .log import Log
from .producer_state import EXPIRATION_MS
from .replacement import Publish, Replacement, finish_earlier
from .segment import Segment
from .transactions import Transactions

# The map holds whole keys: with hashes, a program that chooses its keys could make records disappear. When this estimate
# is exceeded, the pass ends early, and the next one continues there.
MAP_BYTES = 128 << 20
_ENTRY_BYTES = 120
_HEADERS_BYTES = 1 << 16  # of headers, read in one step
# The files of a group are open while its result replaces them.
MAX_GROUP_SEGMENTS = 64

T = TypeVar("T")


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
    next_horizon: int | None


Pass = Generator[int, None, Result]
"""A pass under way: each `next` handles one batch and gives its size in bytes. `close` gives it up."""


def compact(log: Log, todo: Plan, now_ms: int, publish: Publish) -> Pass:
    """Rewrite the planned segments. `publish(old, new)` takes the partition lock and replaces them in the tail.

    REQUIRES: the partition's maintenance lock, no other, during each step. Between two steps appends, reads and syncs may
    come, and the log may be rolled; before segments of the plan are deleted the pass is closed. Raises CorruptRecordError,
    with everything as it was, if a batch does not verify: compaction never removes damage.
    """
    finish_earlier(log)
    history = _History(now_ms)
    segments = yield from history.read(log, todo.segments)
    latest, map_end = yield from _latest_offsets(log, segments, history)
    removed = 0
    horizon: int | None = None
    groups = deque(_groups([s for s in segments if s.base_offset < map_end], log.config.effective_segment_bytes))
    del todo, segments  # a segment that was replaced keeps its file mapped as long as it is referred to
    while groups:
        group = groups.popleft()
        cleaner = _Cleaner(log, group, latest, history, now_ms)
        yield from cleaner.run()
        removed += cleaner.removed
        if cleaner.next_horizon is not None:
            horizon = cleaner.next_horizon if horizon is None else min(horizon, cleaner.next_horizon)
        if cleaner.changed or len(group) > 1:
            cleaner.swap_in(publish)
        else:
            cleaner.abandon()
    log.set_cleaned(max(map_end, log.cleaned_until), horizon)
    return Result(map_end, removed, horizon)


class _History:
    """What a pass has to know of producers before it removes anything: where the last batches of each are, and which
    transactions were aborted. Only the producers that `ProducerStates` would remember are remembered."""

    def __init__(self, now_ms: int) -> None:
        self.transactions = Transactions()
        self._now_ms = now_ms
        # Producer id → epoch, the offsets of its last batches, when the last one was appended (ms); the producer that was
        # silent for longest comes first.
        self._last: OrderedDict[int, tuple[int, tuple[int, ...], int]] = OrderedDict()
        self._present: set[int] = set()  # the producers that have batches of the transaction that the pass is in

    def read(self, log: Log, segments: Sequence[Segment]) -> Generator[int, None, Sequence[Segment]]:
        """Read the headers of `segments`; return those before the first open transaction. Raises what reading raises."""
        for segment in segments:
            yield from self._each(segment, segment.size, self._note)
        if self.transactions.open:
            yield from self._read_endings(log, segments[-1].next_offset)
        first_open = min(self.transactions.open.values(), default=MAX_OFFSET)
        return [segment for segment in segments if segment.next_offset <= first_open]

    def _read_endings(self, log: Log, offset: int) -> Generator[int, None, None]:
        """Look after the planned segments for the markers of transactions that are open at their end."""
        for segment, end in log.tail.places():
            if segment.base_offset < offset or not self.transactions.open:
                continue
            yield from self._each(segment, end, self._note_ending)

    def _note_ending(self, header: BatchHeader) -> None:
        """A transaction that begins after the planned segments is none of this pass."""
        if header.is_control and header.producer_id in self.transactions.open:
            self.transactions.note(header)

    @staticmethod
    def _each(segment: Segment, end: int, note: Callable[[BatchHeader], None]) -> Generator[int, None, None]:
        """Call `note` with the header of each batch that has a producer id. A step takes about a millisecond."""
        read = 0
        for _, header in segment.headers(0, end):
            read += header.header_len
            if read >= _HEADERS_BYTES:
                yield read
                read = 0
            if header.producer_id != NO_PRODUCER:
                note(header)

    def _note(self, header: BatchHeader) -> None:
        self.transactions.note(header)
        last = self._last
        epoch, offsets, _ = last.get(header.producer_id, (-1, (), 0))
        # A marker has no sequence: it counts only for a producer, or an epoch, that has written nothing else.
        if header.producer_epoch > epoch:
            offsets = ()
        elif header.producer_epoch < epoch or header.is_control:
            return
        offsets = (*offsets, header.base_offset)[-KEPT_BATCHES:]
        last[header.producer_id] = header.producer_epoch, offsets, header.append_timestamp
        last.move_to_end(header.producer_id)
        if len(last) > MAX_PRODUCERS:
            last.popitem(last=False)

    def is_last(self, header: BatchHeader) -> bool:
        """Whether the batch is one of its producer's last ones, which are recognised when they are sent again."""
        _, offsets, append_ms = self._last.get(header.producer_id, (-1, (), 0))
        return header.base_offset in offsets and self._now_ms - append_ms <= EXPIRATION_MS

    def is_marker_needed(self, header: BatchHeader) -> bool:
        """Whether the pass has met a batch of the transaction that this marker ends. REQUIRES: one call for each marker."""
        if header.producer_id in self._present:
            self._present.remove(header.producer_id)
            return True
        return False

    def met(self, header: BatchHeader) -> None:
        """The pass is at this batch, which is no marker."""
        if header.attributes & TRANSACTIONAL:
            self._present.add(header.producer_id)


def _latest_offsets(
    log: Log, segments: Sequence[Segment], history: _History
) -> Generator[int, None, tuple[dict[bytes, int], int]]:
    """Key → its last offset in the dirty segments, and the offset up to which the map is complete."""
    latest: dict[bytes, int] = {}
    available = MAP_BYTES
    end = log.cleaned_until
    for segment in segments:
        if segment.next_offset <= log.cleaned_until:
            continue
        for header, (keys, offsets), _ in _batches(log, segment, lambda c: (c.keys(), c.offsets())):
            yield header.batch_len
            # They were looked at: without this, a pass that ended early in this segment would never get past it.
            if header.next_offset <= log.cleaned_until:
                continue
            if keys is not None and not header.is_control and not history.transactions.aborted.have(header):
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

    def __init__(
        self, log: Log, group: Sequence[Segment], latest: dict[bytes, int], history: _History, now_ms: int
    ) -> None:
        self._log = log
        self._group = group
        self._latest = latest
        self._history = history
        self._now_ms = now_ms
        self._new = Replacement(log, group)
        self.removed = 0
        self.changed = False
        self.next_horizon: int | None = None

    def run(self) -> Generator[int, None, None]:
        try:
            self._new.begin()
            for segment in self._group:
                for header, full, data in _batches(self._log, segment, BatchColumns.all):
                    yield header.batch_len
                    last = segment is self._group[-1] and header.next_offset == segment.stats.next_offset
                    self._clean(header, full, data, last)
        except OSError as error:
            require_disk_error(error)
            self.abandon()
            raise as_storage_error(error, "compact into", self._new.path) from error
        except BaseException:
            self.abandon()
            raise

    def _clean(self, header: BatchHeader, full: column_codec.Columns, data: bytes, last: bool) -> None:
        history = self._history
        if header.is_control:
            self._clean_marker(header, full, data, last)
            return
        history.met(header)
        expired = header.delete_horizon != NO_HORIZON and self._now_ms >= header.delete_horizon
        latest = self._latest
        keep = (
            []
            if history.transactions.aborted.have(header)
            else [
                i
                for i, (key, value, offset) in enumerate(zip(full.keys, full.values, full.offsets, strict=True))
                if key is not None and latest.get(key, -1) <= offset and not (value is None and expired)
            ]
        )
        tombstones = any(full.values[i] is None for i in keep)
        horizon = header.delete_horizon
        if tombstones and horizon == NO_HORIZON and self._log.config.delete_retention_ms != FOREVER:
            horizon = self._now_ms + self._log.config.delete_retention_ms
        if tombstones and horizon != NO_HORIZON:
            self._wait_until(horizon)
        self.removed += header.record_count - len(keep)
        if not keep and not last and not history.is_last(header):
            self.changed = True
            return
        if len(keep) == header.record_count and horizon == header.delete_horizon:
            self._new.put(header, data)
            return
        self._replace(header, full, data, keep, horizon)

    def _clean_marker(self, header: BatchHeader, full: column_codec.Columns, data: bytes, last: bool) -> None:
        """Keep a marker while there are batches of its transaction, and for `delete_retention_ms` after the pass that finds
        that there are none. Other control batches stay."""
        if header.control_type not in (ABORT, COMMIT) or self._history.is_marker_needed(header):
            self._new.put(header, data)
            return
        horizon = header.delete_horizon
        if horizon == NO_HORIZON and header.record_count and self._log.config.delete_retention_ms != FOREVER:
            horizon = self._now_ms + self._log.config.delete_retention_ms
        if header.record_count and (horizon == NO_HORIZON or self._now_ms < horizon):
            if horizon != NO_HORIZON:
                self._wait_until(horizon)
            keep: Sequence[int] = range(header.record_count)
        elif last or self._history.is_last(header):
            keep, horizon = (), NO_HORIZON
        else:
            self.changed = True
            return
        if len(keep) == header.record_count and horizon == header.delete_horizon:
            self._new.put(header, data)
        else:
            self._replace(header, full, data, keep, horizon)

    def _wait_until(self, horizon: int) -> None:
        self.next_horizon = horizon if self.next_horizon is None else min(self.next_horizon, horizon)

    def _replace(
        self, header: BatchHeader, full: column_codec.Columns, data: bytes, keep: Sequence[int], horizon: int
    ) -> None:
        """Write the batch with only the records at `keep`; if these are all, its payload is not encoded anew."""
        self.changed = True
        seed = self._log.seed
        if len(keep) == header.record_count:
            data = with_horizon(header, data, seed, horizon)
        else:
            sealed = _keep(seed, header, full, keep, horizon)
            data = restamp(header, sealed, seed) + sealed.payload
        self._new.put(peek(data), data)

    def swap_in(self, publish: Publish) -> None:
        """See `Replacement.swap_in`."""
        try:
            self._log.record_compaction()
        except BaseException:
            self.abandon()
            raise
        self._new.swap_in(publish)

    def abandon(self) -> None:
        self._new.abandon()


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
