"""Damage inside a log: finding it, and putting the batches in its place that another replica of the partition has.

`pieces` reads a segment and gives its batches and its damaged places. `rewrite` writes the segment anew: what verifies
is copied, and each damaged place is filled by offset, since replicas are compacted independently and their batches lie at
other positions. The new file takes the place of the old one as the result of a compaction does (`replacement`): a crash
leaves the one or the other.

What fills a place has to be the same batch: where the header of the damaged one verifies, it has its offsets and its leader
epoch; elsewhere it lies between the neighbours and has an epoch between theirs. Two logs of a partition that have a record of
the same offset and leader epoch have the same records before it, so the caller offers only logs that are known to be the same
up to there. What no replica has stays as it is: damage that a read reports.

A batch that was compacted away here may come back, if the other replica has compacted less. So the caller takes none that
has compacted less than this log, where this log was compacted: else a value might come back whose tombstone is gone already.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple

from ..errors import CorruptRecordError, StreamlogError
from ..records.batch import BatchHeader, corrupt, read_header, verify_payload
from ..runtime.disk_errors import require_disk_error
from .files import as_storage_error
from .log import Log
from .reader import LogReader
from .replacement import Publish, Replacement, finish_earlier
from .segment import Segment

_READ_BYTES = 1 << 20


class Piece(NamedTuple):
    """A batch that verifies, with its bytes; or a damaged place, of which `data` is None.

    It lies in the file from `position` on for `size` bytes, and has the offsets from `start` up to `end`. Of a damaged place
    `header` is there if the header verifies. Its batches are of leader epochs from `least_epoch` to `most_epoch`.
    """

    position: int
    size: int
    start: int
    end: int
    header: BatchHeader | None
    data: bytes | None
    least_epoch: int = 0
    most_epoch: int = 1 << 31


def pieces(
    segment: Segment, end_offset: int, size: int | None = None, start_offset: int | None = None
) -> Iterator[Piece]:
    """What a segment consists of; `end_offset` is where the next one begins. Raises what reading raises.

    Of the active one: up to the end of a snapshot of the log, which is at `size` in the file. With a `start_offset` before the
    segment, what is missing from there on is a damaged place too.

    Every byte is read once. Offsets that are missing between two batches that verify were compacted; a segment that ends
    before `end_offset` was cut short, for compaction leaves its last batch.
    """
    expected, epoch, size = segment.base_offset, 0, segment.size if size is None else size
    if start_offset is not None and start_offset < expected:
        yield Piece(0, 0, start_offset, expected, None, None)
    damaged_at: int | None = None
    for at, found in segment.scan(0, size):
        if isinstance(found, CorruptRecordError):
            damaged_at = at
            continue
        if damaged_at is not None:
            start, end = expected, max(expected, found.base_offset)
            yield Piece(damaged_at, at - damaged_at, start, end, None, None, epoch, found.leader_epoch)
            damaged_at = None
        data = segment.read(found.batch_len, at)
        place = (at, found.batch_len, found.base_offset, found.next_offset, found)
        expected, epoch = max(expected, found.next_offset), found.leader_epoch
        yield Piece(*place, data if _is_whole(found, data, segment, at) else None, epoch, epoch)
    if damaged_at is not None or expected < end_offset:
        position = size if damaged_at is None else damaged_at
        yield Piece(position, size - position, expected, max(expected, end_offset), None, None, epoch)


def _is_whole(header: BatchHeader, data: bytes, segment: Segment, position: int) -> bool:
    try:
        verify_payload(header, memoryview(data)[header.header_len :], segment.seed, segment.path, position)
    except CorruptRecordError:
        return False
    return True


class Source(NamedTuple):
    """Another replica's log, known to have the same records up to offset `end`. `gaps`: compaction may have removed some."""

    reader: LogReader
    end: int
    gaps: bool


def batches(source: Source, start: int, end: int, log_start: int = 0) -> Iterator[tuple[BatchHeader, bytes]]:
    """The batches that a replica has from offset `start` up to `end`, verified. It need not have what is before `log_start`.

    Raises CorruptRecordError where it has them not, or not whole, OffsetOutOfRangeError, StorageError.
    """
    reader = source.reader
    least, offset = start, max(start, min(log_start, reader.tail.start_offset))
    while offset < end:
        chunk = reader.fetch(offset, _READ_BYTES, end)
        data, at, is_end = chunk.data, 0, not chunk.data
        while at < len(data):
            header = read_header(data, at, reader.seed, chunk.path, chunk.position + at)
            if header.base_offset >= end:  # the first one that it has
                is_end = True
                break
            whole = bytes(data[at : at + header.batch_len])
            verify_payload(header, memoryview(whole)[header.header_len :], reader.seed, chunk.path, chunk.position + at)
            has_gap = header.base_offset > offset and not source.gaps
            if has_gap or header.base_offset < least or header.next_offset > end:
                why = "its batches are not those that are missing"
                raise corrupt(chunk.path, chunk.position + at, why, offset, header.base_offset)
            yield header, whole
            least = offset = header.next_offset
            at += header.batch_len
        if is_end:
            if not source.gaps:
                raise corrupt(chunk.path, chunk.position, "it has a gap", end, offset)
            return


class Repaired(NamedTuple):
    """What a rewrite found: how many damaged places there were, how many of them are whole again, and with what."""

    damaged: int
    filled: int
    batches: int


Sources = Callable[[Piece], list[Source]]
"""The replicas that may fill a damaged place, the best first."""


def rewrite(
    log: Log, segment: Segment, start_offset: int, end_offset: int, sources: Sources, publish: Publish
) -> Generator[int, None, Repaired]:
    """Write a sealed segment anew, with damaged places filled; does nothing if none can be. Each step gives a number of bytes.

    It has the offsets from `start_offset`, which is before its own if a segment before it is missing, up to `end_offset`.

    REQUIRES: the maintenance lock during each step; between two of them the segment stays in the log, or the generator is
    closed. What lies before the log start is not repaired. Raises StorageError, DiskFullError if the disk does not take it.
    """
    finish_earlier(log)
    new = Replacement(log, (segment,), start_offset)
    damaged = filled = count = 0
    has_gaps = False
    try:
        new.begin()
        for piece in pieces(segment, end_offset, start_offset=start_offset):
            yield piece.size
            if piece.header is not None and piece.data is not None:
                new.put(piece.header, piece.data)
                continue
            if piece.end <= log.tail.start_offset:  # deleted, and gone with the segment
                new.put_damaged(segment.read(piece.size, piece.position))
                continue
            damaged += 1
            put, is_filled, left_out = _fill(new, piece, sources, log.tail.start_offset)
            count += put
            if is_filled:
                filled += 1
                has_gaps = has_gaps or left_out
            elif piece.start < segment.base_offset:  # a gap at its begin would not be known to be one
                filled = 0
                break
            else:
                new.put_damaged(segment.read(piece.size, piece.position))
        if not filled:
            new.abandon()
            return Repaired(damaged, 0, 0)
        if new.next_offset < end_offset and not new.is_damaged:
            new.put_empty(end_offset)
        if has_gaps:
            log.record_compaction()
    except OSError as error:
        require_disk_error(error)
        new.abandon()
        raise as_storage_error(error, "repair into", new.path) from error
    except BaseException:
        new.abandon()
        raise
    new.swap_in(publish)
    return Repaired(damaged, filled, count)


def _fill(new: Replacement, piece: Piece, sources: Sources, log_start: int) -> tuple[int, bool, bool]:
    """Put in what replicas have of a damaged place: how many batches, whether that is all, and whether offsets are left out.

    One that turns out not to have all may be continued by the next one.
    """
    offset, count, left_out = piece.start, 0, False
    if offset == piece.end:  # bytes that were put between two batches
        return 0, True, False
    for source in sources(piece):
        if source.end < piece.end:
            continue
        try:
            for header, data in batches(source, offset, piece.end, log_start):
                if not _fits(header, piece):
                    break
                left_out = left_out or header.base_offset > offset
                new.put(header, data)
                offset, count = header.next_offset, count + 1
            else:
                return count, True, left_out or offset < piece.end
        except StreamlogError:  # damaged there too, deleted, or closed: the next one
            continue
    return count, False, left_out


def _fits(header: BatchHeader, piece: Piece) -> bool:
    """Whether a batch of another replica is the one that was damaged, or one of those."""
    known = piece.header
    if known is None:
        return piece.least_epoch <= header.leader_epoch <= piece.most_epoch
    return (header.base_offset, header.last_offset, header.leader_epoch) == (
        known.base_offset,
        known.last_offset,
        known.leader_epoch,
    )
