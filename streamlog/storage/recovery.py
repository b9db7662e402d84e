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
import re
from typing import NamedTuple

from ..config import TopicConfig
from ..errors import CorruptRecordError, StreamlogError
from ..records.batch import FIXED_LEN, MAGIC, corrupt, header_fault, peek, verify_payload
from ..runtime.api import Disk
from . import index as index_files
from .checkpoint import StateFile
from .faults import typed
from .index import HEADER_LEN, Index, Stats
from .log import Log
from .segment import Segment

logger = logging.getLogger("streamlog.storage")

_LOG_FILE = re.compile(r"(\d{20})\.log")
_SWAP_FILE = re.compile(r"(\d{20})-(\d{20})\.swap")


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
        names = disk.listdir(directory)
        names = finish_swaps(disk, directory, names)
    except OSError as error:
        raise typed(error, "open", directory) from error
    state = StateFile.open(disk, directory, topic_id, partition)
    bases = sorted(int(match[1]) for match in map(_LOG_FILE.fullmatch, names) if match)
    segments = [Segment(disk, directory, base, seed) for base in bases]
    segments = _drop_superseded(segments, state.state.log_start_offset)
    if not segments:
        first = Segment(disk, directory, state.state.log_start_offset, seed)
        try:
            first.create()
            disk.sync_dir(directory)
        except OSError as error:
            raise typed(error, "create", first.path) from error
        segments = [first]
    for segment, following in zip(segments, segments[1:], strict=False):
        _adopt_sealed(segment, following.base_offset)
    fault = _recover_tail(disk, segments, state.state.recovery_point, crash)
    return Log(disk, directory, seed, state, segments, config, fault)


def finish_swaps(disk: Disk, directory: str, names: list[str]) -> list[str]:
    """Finish compactions that were interrupted after their result was whole; drop those before.

    `A-B.swap` is a finished replacement for all segments from offset A up to B; anything else that
    compaction leaves is `.cleaned`, and worth nothing.
    """
    done = False
    for name in names:
        swap = _SWAP_FILE.fullmatch(name)
        if swap is not None:
            low, high = int(swap[1]), int(swap[2])
            for other in names:
                match = re.fullmatch(r"(\d{20})\.(log|index)", other)
                if match is not None and low <= int(match[1]) < high and disk.exists(f"{directory}/{other}"):
                    disk.unlink(f"{directory}/{other}")
            disk.rename(f"{directory}/{name}", f"{directory}/{low:020d}.log")
            done = True
        elif name.endswith((".cleaned", ".tmp")):
            disk.unlink(f"{directory}/{name}")
            done = True
    if not done:
        return names
    disk.sync_dir(directory)
    return disk.listdir(directory)


def _drop_superseded(segments: list[Segment], log_start_offset: int) -> list[Segment]:
    """Leave out sealed segments below the log start: a crash came between the decision and the unlink."""
    while len(segments) > 1 and segments[1].base_offset <= log_start_offset:
        segments.pop(0)
    return segments


def _adopt_sealed(segment: Segment, following: int) -> None:
    """Fill in a sealed segment from its index file, or from its headers where that is missing."""
    segment.sealed = True
    try:
        size = segment.file.size()
    except OSError as error:
        raise typed(error, "open", segment.path) from error
    segment.size = size
    stats = None
    try:
        file = segment.disk.open(segment.index_path, writable=False)
        try:
            stats = index_files.stats_from(file.pread(HEADER_LEN, 0), segment.seed)
        finally:
            file.close()
    except OSError:
        stats = None
    if stats is None or stats.size != size or stats.base_offset != segment.base_offset:
        stats = walk(segment, size).stats
        segment.adopt(stats)
        segment.next_offset = max(stats.next_offset, segment.base_offset)
        try:
            segment.write_index()
        except OSError as error:
            logger.warning("could not write %s (%s); it will be rebuilt when needed", segment.index_path, error)
    segment.adopt(stats)
    if segment.next_offset != following:
        logger.error(
            "%s ends at offset %d but the next segment opens at %d: what lay between is missing",
            segment.path, segment.next_offset, following,
        )  # fmt: skip


class Walk(NamedTuple):
    """What a walk over a segment's headers found. `end`: where the last batch that verified ends."""

    stats: Stats
    index: Index
    end: int
    damage: tuple[CorruptRecordError, ...]


def walk(segment: Segment, size: int, verify_from: int | None = None) -> Walk:
    """Walk the headers up to `size`, verifying the payloads of batches that reach past `verify_from`.

    Damage is stepped over and listed: a bad payload by its own length, a bad header by looking for
    the next one that verifies.
    """
    index, damage = Index(), list[CorruptRecordError]()
    next_offset, records, low, high, first_append = segment.base_offset, 0, -1, -1, -1
    position = end = 0
    while position < size:
        try:
            at, header = next(segment.headers(position, size))
            if verify_from is not None and header.next_offset > verify_from:
                data = segment.read(header.batch_len, at)
                verify_payload(header, memoryview(data)[header.header_len :], segment.seed, segment.path, at)
        except CorruptRecordError as error:
            damage.append(error)
            found = segment.next_batch(position + 1, size)
            if found is None:
                break
            position = found
            continue
        index.add(header.base_offset, at, header.max_timestamp)
        if header.record_count:
            records += header.record_count
            low = header.base_timestamp if low < 0 else min(low, header.base_timestamp)
            high = max(high, header.max_timestamp)
        if first_append < 0:
            first_append = header.append_timestamp
        next_offset = header.next_offset
        position = end = at + header.batch_len
    return Walk(Stats(segment.base_offset, next_offset, size, records, low, high, first_append), index, end, tuple(damage))


def _recover_tail(disk: Disk, segments: list[Segment], recovery_point: int, crash: Crash) -> StreamlogError | None:
    """Bring the active segment to where it can be appended to; return what forbids that, or None."""
    active = segments[-1]
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
    found = walk(active, size, None if crash.clean else recovery_point)
    active.give_index(found.index)
    active.adopt(found.stats)
    if found.end == size:
        return None
    return _settle_end(disk, active, found, size, recovery_point, crash)


def _settle_end(
    disk: Disk, active: Segment, found: Walk, size: int, recovery_point: int, crash: Crash
) -> StreamlogError | None:
    """The file goes on behind its last good batch: cut that off if the crash explains it, else refuse."""
    end = found.end
    torn = found.stats.next_offset >= recovery_point and (
        not crash.same_boot or _is_cut_short(active, end, size)
    )
    if torn and not crash.clean:
        try:
            if not crash.same_boot:
                saved = f"{active.path}.cut-{end}"
                disk.write_atomic(saved, active.read(size - end, end))
                logger.warning("%s: saved the %d bytes from byte %d on to %s", active.path, size - end, end, saved)
            active.file.truncate(end)
            active.file.sync()
        except OSError as error:
            raise typed(error, "cut the torn end of", active.path) from error
        logger.warning("%s: cut a torn write of %d bytes at byte %d; none of it was acknowledged", active.path, size - end, end)
        active.size = end
        return None
    error = found.damage[-1] if found.damage else corrupt(active.path, end, "no batch starts here", 0, 0)
    logger.error("%s", error)
    active.size = size
    return error


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
