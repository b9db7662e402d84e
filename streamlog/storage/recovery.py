"""From the files of a partition directory back to a `Log`.

After a clean close nothing is scanned: sizes come from the directory, the rest from the index files.
After a crash the headers are walked from the recovery point, payloads verified, and a torn tail is
cut. Torn means: past the recovery point, and explained by the crash. If the machine has not been
rebooted, the page cache has survived, so only the very end of the last write can be missing: a batch
that the file is too short for. Anything else that does not verify is damage, and damage is never
cut: it is walked around, and whoever reads there is told.
"""

from __future__ import annotations

import logging
from itertools import pairwise
from typing import NamedTuple

from ..config import TopicConfig
from ..errors import CorruptRecordError, StreamlogError
from ..records.batch import FIXED_LEN, MAGIC, header_fault, peek, verify_payload
from ..runtime.api import Disk
from . import index as index_files
from .checkpoint import StateFile
from .faults import typed
from .index import HEADER_LEN, Index, Stats
from .log import Log
from .segment import Segment
from .swap import base_offset_of, finish_all

logger = logging.getLogger("streamlog.storage")


class Crash(NamedTuple):
    """How the directory was left. `clean`: closed; `same_boot`: the machine has been up ever since."""

    clean: bool
    same_boot: bool


def open_log(
    disk: Disk, directory: str, topic_id: bytes, partition: int, seed: int, config: TopicConfig, crash: Crash
) -> Log:
    """Open the partition directory, creating what is missing, repairing what a crash explains."""
    try:
        disk.makedirs(directory)
        names = finish_all(disk, directory, disk.listdir(directory))
        is_new = all(base_offset_of(name, "log") is None for name in names)
        state_file = StateFile.open(disk, directory, topic_id, partition, is_new=is_new)
        state = state_file.state
        segments = _segments(disk, directory, seed, names, state.log_start_offset)
    except OSError as error:
        raise typed(error, "open", directory) from error
    if not segments:
        segments = [_new_segment(disk, directory, state.log_start_offset, seed)]
    for segment, following in pairwise(segments):
        _adopt_sealed(segment, following.base_offset)
    fault = _recover_tail(disk, segments[-1], state.recovery_point, crash)
    if segments[-1].next_offset < state.recovery_point:
        fault = _missing_end(segments[-1], state.recovery_point)
        if crash.clean:  # then the log ended at the recovery point: it can go on, and who reads in between is told
            segments.append(_new_segment(disk, directory, state.recovery_point, seed))
            segments[-2].sealed = True
            fault = None
    if fault is None and segments[-1].next_offset < state.log_start_offset:
        # Records were deleted, and a crash of the machine took the end of what was deleted.
        segments = [_new_segment(disk, directory, state.log_start_offset, seed)]
    return Log(disk, directory, seed, state_file, segments, config, fault)


def _new_segment(disk: Disk, directory: str, base_offset: int, seed: int) -> Segment:
    segment = Segment(disk, directory, base_offset, seed)
    try:
        segment.create()
        disk.sync_dir(directory)
    except OSError as error:
        raise typed(error, "create", segment.path) from error
    return segment


def _missing_end(last: Segment, recovery_point: int) -> CorruptRecordError:
    """The log ends before what was known to be on the device: a file is gone or was cut by someone else."""
    error = CorruptRecordError(
        f"{last.path} ends at offset {last.next_offset}, but everything up to offset {recovery_point} was on "
        f"the device once: the end of the log is missing. What is left can be read; after a crash nothing is "
        f"appended, so that no offset is given twice. Restore the files from a copy; streamlog.verify() tells "
        f"what is there.",
        path=last.path,
        position=last.size,
        expected=recovery_point,
        actual=last.next_offset,
    )
    logger.error("%s", error)
    return error


def _segments(disk: Disk, directory: str, seed: int, names: list[str], log_start_offset: int) -> list[Segment]:
    """The segments that count, oldest first.

    Not those below the log start (a crash came between the decision and the unlink), nor empty files
    that an interrupted roll left behind: they hold nothing, and their names may contradict what was
    appended to the segment before them since.
    """
    bases = sorted(base for base in (base_offset_of(name, "log") for name in names) if base is not None)
    segments = [Segment(disk, directory, base, seed) for base in bases]
    stale: list[Segment] = []
    while len(segments) > 1 and segments[1].base_offset <= log_start_offset:
        stale.append(segments.pop(0))
    for segment in segments:
        segment.size = size_of(disk, segment.path)
    stale += [segment for segment in segments[:-1] if not segment.size]
    segments = [segment for segment in segments[:-1] if segment.size] + segments[-1:]
    if len(segments) > 1 and not segments[-1].size and _goes_on(segments[-2], segments[-1].base_offset):
        stale.append(segments.pop())
    for segment in stale:
        disk.unlink(segment.path)
    kept = {segment.base_offset for segment in segments}
    for name in names:
        base = base_offset_of(name, "index")
        if base is not None and base not in kept:
            disk.unlink(f"{directory}/{name}")
    return segments


def _goes_on(segment: Segment, following: int) -> bool:
    """Whether the last segment but one was appended to after the roll that made the empty last one."""
    stats = _stored_stats(segment)
    if stats is not None:
        return stats.next_offset > following
    found = walk(segment, segment.size)
    end = found.stats.next_offset
    return end > following or (end == following and found.end < segment.size)


def _adopt_sealed(segment: Segment, following: int) -> None:
    """Fill in a sealed segment from its index file, or from its headers where that is missing."""
    segment.sealed = True
    stats = _stored_stats(segment)
    if stats is not None:
        segment.adopt(stats)
    else:
        found = walk(segment, segment.size)
        segment.adopt(found.stats)
        segment.give_index(found.entries)
        if not found.damage:  # an index would hide that batches are missing
            segment.keep_index()
    if segment.next_offset != following:
        logger.error(
            "%s ends at offset %d but the next segment opens at %d: what lay between is missing",
            segment.path, segment.next_offset, following,
        )  # fmt: skip


def size_of(disk: Disk, path: str) -> int:
    """A file's size; nothing stays open, or a log of many segments would run out of descriptors."""
    file = disk.open(path, writable=False)
    try:
        return file.size()
    finally:
        file.close()


def _stored_stats(segment: Segment) -> Stats | None:
    """The stats in the segment's index file, if that was made of this very segment."""
    try:
        file = segment.disk.open(segment.index_path, writable=False)
        try:
            stats = index_files.stats_from(file.pread(HEADER_LEN, 0), segment.seed)
        finally:
            file.close()
    except OSError:
        return None
    if stats is None or stats.size != segment.size or stats.base_offset != segment.base_offset:
        return None
    return stats


class Walk(NamedTuple):
    """What a walk over a segment's headers found. `end`: where the last batch that verified ends."""

    stats: Stats
    entries: Index
    end: int
    damage: tuple[CorruptRecordError, ...]


def walk(segment: Segment, size: int, verify_from: int | None = None) -> Walk:
    """Walk the headers up to `size`, verifying the payloads of batches that reach past `verify_from`.

    Damage is stepped over and listed: a bad payload by its own length, a bad header by looking for
    the next one that verifies.
    """
    entries, damage = Index(), list[CorruptRecordError]()
    next_offset, records, low, high, first_append = segment.base_offset, 0, -1, -1, -1
    end = 0
    for at, header in segment.scan(0, size):
        if isinstance(header, CorruptRecordError):
            damage.append(header)
            continue
        if verify_from is not None and header.next_offset > verify_from:
            try:
                data = segment.read(header.batch_len, at)
                verify_payload(header, memoryview(data)[header.header_len :], segment.seed, segment.path, at)
            except CorruptRecordError as error:
                damage.append(error)
                continue
        entries.add(header.base_offset, at, header.max_timestamp)
        if header.record_count:
            records += header.record_count
            low = header.base_timestamp if low < 0 else min(low, header.base_timestamp)
            high = max(high, header.max_timestamp)
        if first_append < 0:
            first_append = header.append_timestamp
        next_offset = header.next_offset
        end = at + header.batch_len
    stats = Stats(segment.base_offset, next_offset, size, records, low, high, first_append)
    return Walk(stats, entries, end, tuple(damage))


def _recover_tail(disk: Disk, active: Segment, recovery_point: int, crash: Crash) -> StreamlogError | None:
    """Bring the active segment to where it can be appended to; return what forbids that, or None."""
    try:
        size = active.file.size()
        if crash.clean:
            loaded = None
            if disk.exists(active.index_path):
                loaded = index_files.from_bytes(disk.read(active.index_path), active.seed)
            if loaded is not None and loaded[1].size == size and loaded[1].base_offset == active.base_offset:
                active.adopt(loaded[1])
                active.give_index(loaded[0])
                return None
        if disk.exists(active.index_path):
            disk.unlink(active.index_path)
    except OSError as error:
        raise typed(error, "open", active.path) from error
    # On the same boot the page cache has survived: no payload that a header announces can be missing, and one that
    # was hurt otherwise is told to whoever reads it.
    found = walk(active, size, None if crash.clean or crash.same_boot else recovery_point)
    active.give_index(found.entries)
    active.adopt(found.stats)
    if found.end == size:
        return None
    return _settle_end(disk, active, found, size, recovery_point, crash)


def _settle_end(
    disk: Disk, active: Segment, found: Walk, size: int, recovery_point: int, crash: Crash
) -> StreamlogError | None:
    """The file goes on behind its last good batch: cut that off if the crash explains it, else refuse."""
    end = found.end
    if not crash.clean and is_torn(active, found, recovery_point, crash):
        try:
            if not crash.same_boot:
                saved = f"{active.path}.cut-{end}"
                disk.write_atomic(saved, active.read(size - end, end))
                logger.warning("%s: saved the %d bytes from byte %d on to %s", active.path, size - end, end, saved)
            active.file.truncate(end)
            active.file.sync()
        except OSError as error:
            raise typed(error, "cut the torn end of", active.path) from error
        logger.warning("%s: cut a torn write at byte %d: %d bytes, none acknowledged", active.path, end, size - end)
        active.size = end
        return None
    fault = found.damage[-1]
    logger.error("%s", fault)
    if not crash.clean or found.stats.next_offset >= recovery_point:
        active.size = end  # what lies beyond is neither read nor written to
    return fault


def is_torn(active: Segment, found: Walk, recovery_point: int, crash: Crash) -> bool:
    """Whether a crash explains that the last segment goes on behind its last good batch."""
    if found.stats.next_offset < recovery_point:
        return False
    return not crash.same_boot or _is_cut_short(active, found.end, found.stats.size)


def _is_cut_short(segment: Segment, position: int, size: int) -> bool:
    """Whether what lies at `position` is the beginning of a batch that the file is too short for."""
    data = segment.read(min(size - position, 2048), position)
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        return False
    if len(data) < FIXED_LEN:
        return True
    header = peek(data)
    if header.header_len > len(data) and position + len(data) == size:
        return True
    return header_fault(data, 0, segment.seed) is None and position + header.batch_len > size
