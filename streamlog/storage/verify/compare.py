"""A comparison of the replicas of one partition: the same offset has the same record, written by the same leader.

It is made of the headers, which have the checksum of the payload: the batches of replicas are the same bytes. Only where one
was compacted are the records themselves compared, those that both still have. Damage is passed over: the check of each
directory reports it. It reads like that: nothing is locked or changed, and files may change meanwhile.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from heapq import merge
from itertools import groupby
from typing import NamedTuple

from ...errors import CorruptRecordError, StreamlogError
from ...records.batch import BatchHeader, read_header, verify_payload
from ...records.decode import decode
from ...runtime.api import Disk
from ...runtime.disk_errors import require_disk_error
from ..files import base_offset_of, swap_of
from ..segment import Segment


class Replica(NamedTuple):
    """The directory of a replica, and the offset up to which it is compared: its high watermark."""

    broker_id: int
    directory: str
    end_offset: int


class Difference(NamedTuple):
    """Two replicas have other records from offset `start` up to `end`. `path` and `position`: where those of `broker` are."""

    start: int
    end: int
    brokers: tuple[int, int]
    path: str
    position: int
    why: str


class _Entry(NamedTuple):
    base_offset: int
    broker_id: int
    header: BatchHeader
    path: str
    position: int


def differences(disk: Disk, replicas: list[Replica], seed: int) -> Iterator[Difference]:
    """Where replicas differ before the least of their end offsets. Raises OSError if a directory cannot be read."""
    end = min((replica.end_offset for replica in replicas), default=0)
    walks = [_entries(disk, replica, seed, end) for replica in replicas]
    for _, found in groupby(merge(*walks), key=lambda entry: entry.base_offset):
        first, *others = found
        for other in others:
            why = _difference(disk, seed, first, other)
            if why is not None:
                until = max(first.header.next_offset, other.header.next_offset)
                yield Difference(
                    first.base_offset, until, (first.broker_id, other.broker_id), other.path, other.position, why
                )


def _entries(disk: Disk, replica: Replica, seed: int, end_offset: int) -> Iterator[_Entry]:
    """The batches of a replica that verify, in the order of offsets."""
    expected = -1
    for segment in _segments(disk, replica.directory, seed):
        if segment.base_offset >= end_offset:
            return
        try:
            file = disk.open(segment.path, writable=False)
        except FileNotFoundError as error:  # it was deleted or compacted since
            require_disk_error(error)
            continue
        try:
            segment.use_file(file)
            for position, found in segment.scan(0, file.size()):
                if not isinstance(found, BatchHeader) or found.base_offset < expected:
                    continue
                if found.next_offset > end_offset:
                    return
                expected = found.next_offset
                yield _Entry(found.base_offset, replica.broker_id, found, segment.path, position)
        except StreamlogError:  # the check of the directory reports it
            continue
        finally:
            segment.release()
            file.close()


def whole_batches(
    disk: Disk, directory: str, seed: int, start: int, after_epoch: int | None
) -> Iterator[tuple[BatchHeader, bytes]]:
    """The batches that a replica has from offset `start` on, verified, up to the first damage, which is raised.

    None if its history is another one: with `after_epoch`, the batch before `start` has to be of that leader epoch. Raises
    OSError, StreamlogError.
    """
    segments = _segments(disk, directory, seed)
    at = max(0, bisect_right([segment.base_offset for segment in segments], start) - 1)
    epoch: int | None = None
    damage: CorruptRecordError | None = None
    for segment in segments[max(0, at - 1) :]:
        file = disk.open(segment.path, writable=False)
        try:
            segment.use_file(file)
            for position, header in segment.scan(0, file.size()):
                if isinstance(header, CorruptRecordError):
                    damage = header
                    continue
                if header.next_offset <= start:
                    epoch, damage = header.leader_epoch, None
                    continue
                if damage is not None:
                    raise damage
                if after_epoch is not None and epoch is not None and epoch != after_epoch:
                    return
                after_epoch = None
                data = file.pread(header.batch_len, position)
                verify_payload(header, memoryview(data)[header.header_len :], seed, segment.path, position)
                yield header, data
        finally:
            segment.release()
            file.close()


def _segments(disk: Disk, directory: str, seed: int) -> list[Segment]:
    """The files of a replica; a finished replacement takes the place of what it replaces."""
    names = disk.listdir(directory)
    paths = {base: name for name in names if (base := base_offset_of(name, "log")) is not None}
    for name in names:
        swap = swap_of(name)
        if swap is not None:
            low, high = swap
            paths = {base: file for base, file in paths.items() if not low <= base < high} | {low: name}
    found = []
    for base, name in sorted(paths.items()):
        segment = Segment(disk, directory, base, seed)
        segment.path = f"{directory}/{name}"
        found.append(segment)
    return found


def _difference(disk: Disk, seed: int, first: _Entry, other: _Entry) -> str | None:
    mine, theirs = first.header, other.header
    if mine == theirs:
        return None
    if mine.leader_epoch != theirs.leader_epoch:
        return f"leader epochs {mine.leader_epoch} and {theirs.leader_epoch}"
    if mine.last_offset != theirs.last_offset:
        return f"batches that end at the offsets {mine.last_offset} and {theirs.last_offset}"
    if mine.payload_hash == theirs.payload_hash:
        return None  # compaction has given one of them a delete horizon
    left, right = _records(disk, seed, first), _records(disk, seed, other)
    return "other records" if any(left[offset] != right[offset] for offset in left.keys() & right.keys()) else None


def _records(disk: Disk, seed: int, entry: _Entry) -> Mapping[int, tuple[object, ...]]:
    """The records of a batch by offset; none if it is damaged, or is not there any more."""
    header = entry.header
    try:
        file = disk.open(entry.path, writable=False)
        try:
            data = file.pread(header.batch_len, entry.position)
        finally:
            file.close()
        if read_header(data, 0, seed, entry.path, entry.position) != header:
            return {}
        verify_payload(header, memoryview(data)[header.header_len :], seed, entry.path, entry.position)
        full = decode(header, data).all()
        return {row[0]: row[1:] for row in zip(*full, strict=True)}
    except OSError as error:
        require_disk_error(error)
        return {}
    except (ValueError, TypeError, StreamlogError):
        return {}
