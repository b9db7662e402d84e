"""Reading a log, from any thread and with no lock: fetch, find by time, go on after damage.

Every call takes `tail` once and uses nothing else. Retention and compaction may unlink a file that a reader was
about to open; the reader then starts anew, and the new tail says what became of the offset.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from errno import ENOENT
from functools import partial
from itertools import accumulate
from typing import Any, TypeVar

from ..errors import CorruptRecordError, OffsetOutOfRangeError, StorageError
from ..records.batch import NO_DELTA, BatchHeader, batches_before, corrupt, read_header, verify_payload
from ..records.decode import decode
from ..types import OffsetAndTimestamp
from .segment import Segment
from .tail import EMPTY, UNKNOWN_END, FetchData, LogSnapshot
from .transactions import TransactionSnapshot

T = TypeVar("T")
_RETRIES = 3
# namedtuple's own __new__ is a Python call: 1% of a random read.
_fetched: Callable[[tuple[Any, ...]], FetchData] = partial(tuple.__new__, FetchData)

Places = Iterable[tuple[Segment, int]]
"""Segments, oldest first, each with the position up to which it may be read."""


class LogReader:
    """The readable side of a log. `tail` is what is published: the log replaces it in one assignment.

    `latest` is the position, segment and bytes of the last batch if it was a single small record, so that a consumer
    that waited for it needs no read: 12% of the time from one send to the end of the poll. The log publishes it
    after the tail. It is part of the log as long as its segment is.

    `transactions` says how far committed records go, and which transactions were aborted; None if there are none.
    """

    __slots__ = ("_greatest", "_retries", "latest", "seed", "tail", "transactions")

    def __init__(self, seed: int, tail: LogSnapshot, retries: int = _RETRIES) -> None:
        self.seed = seed
        self.tail = tail
        self.latest: tuple[int, Segment, bytes] | None = None
        self.transactions: TransactionSnapshot | None = None
        self._retries = retries
        self._greatest: tuple[tuple[Segment, ...], list[int]] = ((), [])

    def fetch(self, offset: int, max_bytes: int, end_offset: int, after: FetchData = EMPTY) -> FetchData:
        """Batches from the one that holds `offset` on, up to `end_offset`; EMPTY at the end.

        `after` is the data that the caller read to its end, at `offset`, just before: the next batch begins
        where it ends, so no search is needed.

        Raises OffsetOutOfRangeError outside [log start, end_offset]; CorruptRecordError. No lock. Cost:
        one bisection, a walk of at most one index interval, one or two reads.
        """
        if after.segment is not None:
            chunk = self._go_on(after, offset, max_bytes, end_offset)
            if chunk is not None:
                return chunk
        left = self._retries
        while True:
            try:
                return self._fetch(offset, max_bytes, end_offset)
            except StorageError as error:  # as in `_retry`, without its two calls
                if error.errno != ENOENT or not left:
                    raise
                left -= 1

    def _go_on(self, after: FetchData, offset: int, max_bytes: int, end_offset: int) -> FetchData | None:
        """The batches that follow `after` in the same file; None if the file ends there, or is gone, or no longer part of the log."""
        tail = self.tail
        # In one step each: the same fields by their names, one after the other, are a part of a read at random that can be seen.
        read, _, _, start, segment, _, _ = after
        log_end, end_position, segments, _, log_start, _, _, _, _ = tail
        assert segment is not None
        is_active = segment is segments[-1]
        if (is_active or _is_in(tail, segment)) and log_start <= offset < end_offset and offset < log_end:
            position = start + len(read)
            end = end_position if is_active else segment.size
            latest = self.latest
            if (
                latest is not None
                and latest[0] == position
                and latest[1] is segment
                and position + len(latest[2]) == end
            ):
                return _fetched((latest[2], self.seed, segment.path, position, segment, None, log_end))
            if position < end:
                try:
                    data = segment.read_batches(position, end, max_bytes)
                except StorageError as error:
                    if error.errno != ENOENT:
                        raise
                    return None
                if end_offset < log_end:
                    data, log_end = batches_before(data, end_offset), end_offset
                return _fetched((data, self.seed, segment.path, position, segment, None, log_end))
        return None

    def place_at_end(self, offset: int) -> FetchData:
        """Where the next batch will begin, to be the `after` of its fetch, if `offset` is the end of the log; EMPTY if it is not.

        REQUIRES: `offset` is committed, so that no truncation moves that place.
        """
        tail = self.tail
        if offset != tail.end_offset:
            return EMPTY
        segment = tail.segments[-1]
        return _fetched((b"", self.seed, segment.path, tail.end_position, segment, None, UNKNOWN_END))

    def size_after(self, read: FetchData, max_bytes: int) -> int | None:
        """The bytes that a fetch from where `read` begins would bring now, up to `max_bytes`, or a little more; None if that place
        is not in the log, or is the end of a segment after which there is another. Nothing is read. Cost: a bisection."""
        segment, tail = read.segment, self.tail
        if segment is None or not _is_in(tail, segment):
            return None
        is_active = segment is tail.segments[-1]
        end = tail.end_position if is_active else segment.size
        if not is_active and read.position >= end:
            return None
        return max(len(read.data), min(end - read.position, max_bytes))

    def _retry(self, read: Callable[[], T]) -> T:
        """Read once more if a file is missing: retention and compaction unlink files, and the new tail is without them."""
        for _ in range(self._retries):
            try:
                return read()
            except StorageError as error:
                if error.errno != ENOENT:
                    raise
        return read()

    def _fetch(self, offset: int, max_bytes: int, end_offset: int) -> FetchData:
        log_end, end_position, segments, bases, log_start, _, _, _, _ = self.tail  # as in `_go_on`
        if not log_start <= offset <= end_offset:
            raise self.out_of_range(offset, end_offset)
        if offset >= end_offset or offset >= log_end:
            return EMPTY
        at = bisect_right(bases, offset) - 1
        if at < 0:
            raise missing(segments[0], log_start, bases[0])
        segment = segments[at]
        end = end_position if at == len(segments) - 1 else segment.size
        near = segment.find_and_read(offset, end, max_bytes)
        if near is not None:
            position, data, first = near
        else:
            found, first = segment.locate(offset, end), None
            if found is None:
                raise missing(segment, segment.stats.next_offset, (*bases, log_end)[at + 1])
            position, data = found, segment.read_batches(found, end, max_bytes)
        if end_offset < log_end:
            data, log_end = batches_before(data, end_offset), end_offset
        return _fetched((data, self.seed, segment.path, position, segment, first, log_end))

    def out_of_range(self, offset: int, end_offset: int) -> OffsetOutOfRangeError:
        start = self.tail.start_offset
        return OffsetOutOfRangeError(
            f"Offset {offset} is outside the log, which holds {start} up to, not including, {end_offset}. "
            f"Seek to an offset in that range, or to its beginning or end.",
            log_start_offset=start,
            log_end_offset=end_offset,
        )

    def find_time(self, timestamp: int, end_offset: int) -> OffsetAndTimestamp | None:
        """The first record, by offset, whose timestamp is at or after `timestamp`; inside batches too.

        No lock. Raises CorruptRecordError if a batch before it does not verify.
        """

        def find() -> OffsetAndTimestamp | None:
            tail = self.tail
            first = bisect_left(self._greatest_so_far(tail.segments), timestamp)
            places = (
                (s, tail.end_position if s is tail.segments[-1] else s.size)
                for s in map(tail.segments.__getitem__, range(first, len(tail.segments)))
                if (tail.max_timestamp if s is tail.segments[-1] else s.max_timestamp) >= timestamp
            )
            return _find_time(places, timestamp, tail.start_offset, end_offset)

        return self._retry(find)

    def _greatest_so_far(self, segments: tuple[Segment, ...]) -> list[int]:
        """For each sealed segment the greatest timestamp in it and those before it. Made once for each change of `segments`."""
        known, greatest = self._greatest
        if known is not segments:
            greatest = list(accumulate((segment.max_timestamp for segment in segments[:-1]), max))
            self._greatest = segments, greatest
        return greatest

    def end_for_time(self, timestamp: int, end_offset: int) -> int:
        """An offset up to `end_offset` from which on every record is later than `timestamp`: the end of the last index interval
        that may have another.

        No lock. Cost: see `Segment.end_for_time`, in the segments that have such a record. At damage, `end_offset`.
        """

        def find() -> int:
            tail = self.tail
            for segment, end in reversed(tail.places()):
                least = tail.min_timestamp if segment is tail.segments[-1] else segment.stats.min_timestamp
                if least > timestamp:
                    continue
                found = segment.end_for_time(timestamp, end)
                if found is not None:
                    return min(found, (segment.next_offset if segment.sealed else end_offset), end_offset)
            return tail.start_offset

        try:
            return self._retry(find)
        except CorruptRecordError:
            return end_offset

    def has_every_offset(self, start: int, end: int) -> bool:
        """Whether readers see a record at each offset from `start` up to `end`. False if that is not known without reading.

        No lock. Cost: the statistics of each segment.
        """

        def find() -> bool:
            tail = self.tail
            if start < tail.start_offset or end > tail.end_offset:
                return False
            first = max(0, bisect_right(tail.bases, start) - 1)
            for at in range(first, max(first, bisect_left(tail.bases, end))):
                segment = tail.segments[at]
                stats = tail.active_stats() if segment is tail.segments[-1] else segment.stats
                here, onward = tail.bases[at], (*tail.bases, tail.end_offset)[at + 1]
                if stats.base_offset != here or stats.next_offset != onward or stats.records != onward - here:
                    return False
                if segment.transaction_events() != []:  # markers are no records, and aborted ones are hidden
                    return False
            return True

        return self._retry(find)

    def find_max_time(self, end_offset: int) -> OffsetAndTimestamp | None:
        """The first record, by offset, of the greatest timestamp (KIP-734); None if there is no record.

        No lock. Raises CorruptRecordError if a header before it does not verify. Cost, as a rule: one index interval of the
        last segment; no payload is read where the header has the offset.
        """

        def find() -> OffsetAndTimestamp | None:
            tail = self.tail
            active, found = tail.segments[-1], None
            for segment, end, most in sorted(
                ((s, end, tail.max_timestamp if s is active else s.max_timestamp) for s, end in tail.places()),
                key=lambda place: (-place[2], place[0].base_offset),
            ):
                if found is None or most > found.timestamp:
                    found = _find_max_time(segment, end, tail.start_offset, end_offset, found, most)
            return found

        return self._retry(find)

    def after_damage(self, offset: int, end_offset: int) -> int:
        """Where to go on reading after the damaged batch that `fetch(offset)` ran into.

        A batch whose header verifies is skipped; after a damaged header, reading goes on at the next batch that
        verifies. With none left, `end_offset`. Exactly the damaged batch is lost.
        """

        def find() -> int:
            tail = self.tail
            return _after_damage(tail.places(max(0, bisect_right(tail.bases, offset) - 1)), offset, end_offset)

        return self._retry(find)


def _is_in(tail: LogSnapshot, segment: Segment) -> bool:
    """Whether `segment` is a part of the log: a bisection, since there may be many."""
    at = bisect_right(tail.bases, segment.base_offset) - 1
    return at >= 0 and tail.segments[at] is segment


def _find_time(places: Places, timestamp: int, start_offset: int, end_offset: int) -> OffsetAndTimestamp | None:
    """The first record from `start_offset` up to `end_offset` whose timestamp is at or after `timestamp`."""
    for segment, end in places:
        start = segment.index.position_for_time(timestamp)
        if start is None:
            continue
        for position, header in segment.headers(start, end):
            if header.max_timestamp < timestamp or header.last_offset < start_offset or header.is_control:
                continue
            if header.base_offset >= end_offset:
                return None
            found = _first_at(segment, position, end, timestamp, start_offset, end_offset)
            if found is not None:
                return found
    return None


def _find_max_time(
    segment: Segment, end: int, start_offset: int, end_offset: int, found: OffsetAndTimestamp | None, greatest: int
) -> OffsetAndTimestamp | None:
    """`found`, or the first record of a greater timestamp in this segment, from `start_offset` up to `end_offset`.

    No record of the segment is later than `greatest`, and as a rule the first batch that has it has a record of it: the
    index says near where. If it was emptied or deleted, or is a control batch, all headers are looked at.
    """
    near = segment.index.position_for_time(greatest)
    for start in (near, 0) if near else (0,):
        for position, header in segment.headers(start, end):
            if header.base_offset >= end_offset:
                break
            if header.max_timestamp <= (-1 if found is None else found.timestamp) or header.last_offset < start_offset:
                continue
            if header.is_control or not header.record_count:
                continue
            best = _max_of(segment, position, end, header, start_offset, end_offset)
            if best is not None and (found is None or best.timestamp > found.timestamp):
                found = best
                if found.timestamp == greatest:
                    return found
    return found


def _max_of(
    segment: Segment, position: int, end: int, header: BatchHeader, start_offset: int, end_offset: int
) -> OffsetAndTimestamp | None:
    """The first record of the batch's greatest timestamp in the bounds: from the header, if that says which one it is."""
    newest = header.base_offset + header.max_timestamp_delta
    if header.max_timestamp_delta != NO_DELTA and start_offset <= newest < end_offset:
        return OffsetAndTimestamp(newest, header.max_timestamp)
    records = [each for each in _records_at(segment, position, end) if start_offset <= each[0] < end_offset]
    if not records:
        return None
    most = max(time for _, time in records)
    return next(OffsetAndTimestamp(offset, time) for offset, time in records if time == most)


def _first_at(
    segment: Segment, position: int, end: int, timestamp: int, start_offset: int, end_offset: int
) -> OffsetAndTimestamp | None:
    for offset, time in _records_at(segment, position, end):
        if time >= timestamp and start_offset <= offset < end_offset:
            return OffsetAndTimestamp(offset, time)
    return None


def _records_at(segment: Segment, position: int, end: int) -> list[tuple[int, int]]:
    """Offset and timestamp of each record of the batch at `position`. Raises CorruptRecordError."""
    data = segment.read_batches(position, end, 0)
    header = read_header(data, 0, segment.seed, segment.path, position)
    payload = memoryview(data)[header.header_len : header.batch_len]
    verify_payload(header, payload, segment.seed, segment.path, position)
    try:
        columns = decode(header, data)
        return list(zip(columns.offsets(), columns.timestamps_full(), strict=True))
    except (ValueError, TypeError) as error:
        raise corrupt(segment.path, position, f"the columns contradict the header ({error})", 0, 0) from error


def _after_damage(places: Places, offset: int, end_offset: int) -> int:
    """The offset at which reading goes on after the damaged batch at `offset`; see `LogReader.after_damage`.

    `places` begin with the segment that `offset` belongs to.
    """
    for number, (segment, end) in enumerate(places):
        if number and segment.base_offset > offset and not end:
            return min(segment.base_offset, end_offset)
        for _, found in segment.scan(segment.index.position_for_offset(offset), end):
            if isinstance(found, CorruptRecordError):
                continue
            if found.base_offset > offset:
                return min(found.base_offset, end_offset)
            if found.last_offset >= offset:
                return min(found.next_offset, end_offset)
        if segment.sealed and segment.next_offset > offset:
            return min(segment.next_offset, end_offset)
    return end_offset


def missing(segment: Segment, start: int, end: int) -> CorruptRecordError:
    """The error for offsets that were in a segment once and are in no file."""
    return CorruptRecordError(
        f"The records from offset {start} up to, not including, {end} are missing beside {segment.path}: a "
        f"segment was removed or truncated. Restore the file from a copy, or read with on_corrupt='skip' to go "
        f"past it; streamlog.verify() reports all damage, and streamlog.repair() copies what is whole into a new log.",
        path=segment.path,
        position=segment.size,
        expected=end,
        actual=start,
    )
