"""Where in a log a time lies, and where to go on behind damage: walks over the headers of several segments."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import CorruptRecordError
from ..records.batch import corrupt, read_header, verify_payload
from ..records.columns import BatchColumns
from ..types import OffsetAndTimestamp
from .segment import Segment

Places = Iterable[tuple[Segment, int]]
"""Segments, oldest first, each with the position up to which it may be read."""


def find_time(places: Places, timestamp: int, start_offset: int, end_offset: int) -> OffsetAndTimestamp | None:
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


def _first_at(
    segment: Segment, position: int, end: int, timestamp: int, start_offset: int, end_offset: int
) -> OffsetAndTimestamp | None:
    data = segment.chunk(position, end, 0)
    header = read_header(data, 0, segment.seed, segment.path, position)
    payload = memoryview(data)[header.header_len : header.batch_len]
    verify_payload(header, payload, segment.seed, segment.path, position)
    try:
        columns = BatchColumns(data, 0, header)
        for offset, time in zip(columns.offsets(), columns.timestamps_full(), strict=True):
            if time >= timestamp and start_offset <= offset < end_offset:
                return OffsetAndTimestamp(offset, time)
    except (ValueError, TypeError) as error:
        raise corrupt(segment.path, position, f"the columns contradict the header ({error})", 0, 0) from error
    return None


def after_damage(places: Places, offset: int, end_offset: int) -> int:
    """The offset to go on from behind the damaged batch that lies at `offset`; see `Log.after_damage`.

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
    """What a reader is told who comes to offsets that were once in a segment and are in no file."""
    return CorruptRecordError(
        f"The records from offset {start} up to, not including, {end} are missing beside {segment.path}: a "
        f"segment is gone or was cut short. Restore the file from a copy, or read with on_corrupt='skip' to go "
        f"past it; streamlog.verify() tells what else is hurt, and streamlog.repair() copies what is whole into a new "
        f"log.",
        path=segment.path,
        position=segment.size,
        expected=end,
        actual=start,
    )
