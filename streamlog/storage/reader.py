"""Reading a log: take `tail` once and use nothing else. No lock.

Retention and compaction may unlink a file that a reader was about to open. It then starts again, and
the new tail says what has become of the offset.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from errno import ENOENT
from typing import TypeVar

from ..errors import OffsetOutOfRangeError, StorageError
from ..records.batch import batches_before
from ..types import OffsetAndTimestamp
from . import lookup
from .segment import Segment
from .tail import EMPTY, FetchData, LogSnapshot

T = TypeVar("T")
_RETRIES = 3


class LogReader:
    """What may be asked of a log by any thread at any time."""

    seed: int
    tail: LogSnapshot
    latest: tuple[int, Segment, bytes] | None = None
    """The position, segment and bytes of the last batch that was a single record, if it is small: who waited for it
    need not ask the disk. Published after the tail, and of the log as long as its segment is."""

    def fetch(self, offset: int, max_bytes: int, end_offset: int, after: FetchData = EMPTY) -> FetchData:
        """Batches from the one that holds `offset` on, up to `end_offset`; EMPTY at the end.

        `after` is the chunk that the caller read to its end, at `offset`, just before: the next one begins
        where it ends, and need not be looked for.

        Raises OffsetOutOfRangeError outside [log start, end_offset]; CorruptRecordError. No lock. Cost:
        one bisection, a walk of at most one index interval, one or two reads.
        """
        if after.segment is not None:
            try:
                chunk = self._go_on(after, offset, max_bytes, end_offset)
            except StorageError as error:
                if error.errno != ENOENT:
                    raise
            else:
                if chunk is not None:
                    return chunk
        return self._retry(lambda: self._fetch(offset, max_bytes, end_offset))

    def _go_on(self, after: FetchData, offset: int, max_bytes: int, end_offset: int) -> FetchData | None:
        """The chunk behind `after` in the same file; None if that file ends there, or is no longer the log's."""
        segment, tail = after.segment, self.tail
        active = tail.segments[-1]
        if (segment is active or segment in tail.segments) and tail.start_offset <= offset < min(
            end_offset, tail.end_offset
        ):
            assert segment is not None
            position = after.position + len(after.data)
            end = tail.end_position if segment is active else segment.size
            latest = self.latest
            if (
                latest is not None
                and latest[0] == position
                and latest[1] is segment
                and position + len(latest[2]) == end
            ):
                return FetchData(latest[2], self.seed, segment.path, position, segment)
            if position < end:
                data = segment.chunk(position, end, max_bytes)
                if end_offset < tail.end_offset:
                    data = batches_before(data, end_offset)
                return FetchData(data, self.seed, segment.path, position, segment)
        return None

    def _retry(self, read: Callable[[], T]) -> T:
        """Read again if a file was gone: retention and compaction unlink under readers, and then the tail says so."""
        for _ in range(_RETRIES):
            try:
                return read()
            except StorageError as error:
                if error.errno != ENOENT:
                    raise
        return read()

    def _fetch(self, offset: int, max_bytes: int, end_offset: int) -> FetchData:
        tail = self.tail
        if not tail.start_offset <= offset <= end_offset:
            raise self.out_of_range(offset, end_offset)
        if offset >= min(end_offset, tail.end_offset):
            return EMPTY
        at = bisect_right(tail.bases, offset) - 1
        if at < 0:
            raise lookup.missing(tail.segments[0], tail.start_offset, tail.bases[0])
        segment = tail.segments[at]
        end = tail.end_position if segment is tail.segments[-1] else segment.size
        near = segment.near(offset, end, max_bytes)
        if near is not None:
            data = near[1] if end_offset >= tail.end_offset else batches_before(near[1], end_offset)
            return FetchData(data, self.seed, segment.path, near[0], segment, near[2])
        position = segment.locate(offset, end)
        if position is None:
            raise lookup.missing(segment, segment.stats.next_offset, (*tail.bases, tail.end_offset)[at + 1])
        data = segment.chunk(position, end, max_bytes)
        if end_offset < tail.end_offset:
            data = batches_before(data, end_offset)
        return FetchData(data, self.seed, segment.path, position, segment)

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

        No lock. Raises CorruptRecordError if it would lie behind a batch that does not verify.
        """

        def find() -> OffsetAndTimestamp | None:
            tail = self.tail
            places = (
                (s, end) for s, end in tail.places()
                if (tail.max_timestamp if s is tail.segments[-1] else s.max_timestamp) >= timestamp
            )  # fmt: skip
            return lookup.find_time(places, timestamp, tail.start_offset, end_offset)

        return self._retry(find)

    def after_damage(self, offset: int, end_offset: int) -> int:
        """Where to go on reading after the damaged batch that `fetch(offset)` ran into.

        A batch whose header verifies is skipped whole; past a damaged header, the next batch that
        verifies. With none left, `end_offset`. Exactly the damaged batch is lost.
        """

        def find() -> int:
            tail = self.tail
            return lookup.after_damage(tail.places(max(0, bisect_right(tail.bases, offset) - 1)), offset, end_offset)

        return self._retry(find)
