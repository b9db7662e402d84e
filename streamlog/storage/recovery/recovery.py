"""Opening a partition: from the files of its directory back to a `Log`.

After a clean close nothing is scanned: the sizes come from the directory, the rest from the index of the last segment.

After a crash of the process, the headers of the last segment are walked. The page cache has survived, so only the end of
the last write can be missing: a batch that the file is too short for. It is truncated. Anything else that does not verify
is damage. Damage is never truncated: reads before and after it work, and a read of it raises an error.

After a crash of the machine, `power_loss` decides where the log ends. After a failed sync, `resync` writes the files again
first.

Sealed segments are not read, so a log of ten thousand segments opens as fast as one of ten.
"""

from __future__ import annotations

import logging
from functools import partial
from itertools import pairwise
from typing import NamedTuple

from ...config import TopicConfig
from ...errors import CorruptRecordError, DiskFullError, StreamlogError
from ...records.batch import FIXED_LEN, MAGIC, MIN_HEADER_LEN, header_fault, header_len_for, peek
from ...runtime.api import Disk
from .. import index as index_files
from ..checkpoint import NAME as STATE_NAME
from ..checkpoint import State, StateFile
from ..files import as_storage_error, base_offset_of, finish_interrupted, log_name
from ..log import Log
from ..producer_summary import ProducerSummary
from ..refusals import Unfinished
from ..scan import Walk, walk
from ..segment import Segment, size_of
from . import power_loss, resync

logger = logging.getLogger("streamlog.storage")


class PreviousShutdown(NamedTuple):
    """How the directory was left.

    `clean`: it was closed. `same_boot`: the machine has not been booted since. `unsynced`: a sync failed, and no marker
    could be created in its partition.
    """

    clean: bool
    same_boot: bool
    unsynced: bool = False

    @property
    def power_lost(self) -> bool:
        return not self.clean and not self.same_boot


def open_log(
    disk: Disk, directory: str, topic_id: bytes, partition: int, seed: int, config: TopicConfig, shutdown: PreviousShutdown,
    *, is_known: bool = False,
) -> Log:  # fmt: skip
    """Open the partition directory: create what is missing, repair what a crash explains.

    If the partition `is_known` to exist, its state must be there: it is not created again.
    """
    try:
        disk.makedirs(directory)  # refuses a link in its place
        names = finish_interrupted(disk, directory, disk.listdir(directory))
        is_new = not is_known and _is_new(disk, directory, names)
        state_file = StateFile.open(disk, directory, topic_id, partition, is_new=is_new)
        state = state_file.state
        if not shutdown.clean:
            state_file.rewrite()
        resynced = resync.resync(disk, directory, names, state.recovery_point, unsynced=shutdown.unsynced)
        if resynced.done:
            shutdown = PreviousShutdown(clean=False, same_boot=False)
        segments = _segments(disk, directory, seed, names, state_file)
    except OSError as error:
        raise as_storage_error(error, "open", directory) from error
    if not segments:
        segments = [_new_segment(disk, directory, state.log_start_offset, seed)]
    for segment, following in pairwise(segments):
        segment.sealed = True
        segment.next_offset = following.base_offset
    end = _recover_end(disk, directory, seed, segments, state_file.state, shutdown)
    unfinished = end.unfinished if resynced.poison is None else None
    log = Log(
        disk, directory, seed, state_file, end.segments, config,
        poison=resynced.poison, damage=end.damage, unfinished=unfinished,
    )  # fmt: skip
    log.may_have_lost_its_end = shutdown.power_lost
    log.durability.has_unsynced_truncation = not shutdown.clean
    if resynced.poison is not None:
        log.durability.synced_end = max(state.recovery_point, min(resynced.synced_end, log.tail.end_offset))
        log.durability.acknowledged_is_synced = resynced.is_all
    elif shutdown.clean:
        log.durability.synced_end, log.durability.synced_base = log.tail.end_offset, log.tail.bases[-1]
    if unfinished is None and resynced.done:
        resync.remove_markers(disk, directory, names)
    return log


class _End(NamedTuple):
    """The end of a log as it was found and repaired. `damage` forbids appends; `unfinished`: the disk was too full to repair it."""

    segments: list[Segment]
    damage: StreamlogError | None
    unfinished: Unfinished | None


def _recover_end(
    disk: Disk, directory: str, seed: int, segments: list[Segment], state: State, shutdown: PreviousShutdown
) -> _End:
    """Find where the log ends, remove what a crash explains after that, and prepare the last segment for appends."""
    end = None
    if shutdown.power_lost:
        end = power_loss.find_end(segments, state.recovery_point, state.log_start_offset)
    disk_full: StreamlogError | None = None
    if end is not None:
        segments = list(end.segments)
        segments[-1].make_active(end.last)
        disk_full = power_loss.truncate_if_space(disk, directory, end)
        damage = None if end.is_torn else _end_damage(segments[-1], end.last, state.recovery_point, shutdown)
    else:
        damage = _recover_tail(disk, segments[-1], state.recovery_point, shutdown)
    if segments[-1].next_offset < state.recovery_point:
        damage = _missing_end(segments[-1], state.recovery_point)
        if shutdown.clean:  # the log ended at the recovery point and continues there; reads of the gap raise an error
            segments.append(_new_segment(disk, directory, state.recovery_point, seed))
            segments[-2].sealed = True
            damage = None
    if damage is not None:
        segments.append(_segment_after_damage(disk, directory, segments[-1], state.recovery_point))
    if damage is None and disk_full is None and segments[-1].next_offset < state.log_start_offset:
        # All records before the log start were deleted, and a power loss removed the last of the deleted ones.
        segments = [_new_segment(disk, directory, state.log_start_offset, seed)]
    unfinished: Unfinished | None = None
    if end is not None and damage is None and disk_full is not None:
        unfinished = Unfinished(disk_full, partial(power_loss.truncate, disk, directory, end))
    return _End(segments, damage, unfinished)


def _is_new(disk: Disk, directory: str, names: list[str]) -> bool:
    """Whether nothing was ever appended here: there is no segment, or a power loss interrupted the creation.

    The directory is synced once for all its first files, so any of them may be there without the others. A crash while they
    are created again may leave a state file in which nothing was written yet.
    """
    segments = [name for name in names if base_offset_of(name, "log") is not None]
    if segments == [log_name(0)] and (
        STATE_NAME not in names or not disk.read(f"{directory}/{STATE_NAME}", 1 << 20).strip(b"\0")
    ):
        return size_of(disk, f"{directory}/{segments[0]}") == 0
    return not segments


def _new_segment(disk: Disk, directory: str, base_offset: int, seed: int) -> Segment:
    segment = Segment(disk, directory, base_offset, seed)
    try:
        segment.create()
        disk.sync_dir(directory)
    except OSError as error:
        raise as_storage_error(error, "create", segment.path) from error
    return segment


def _missing_end(last: Segment, recovery_point: int) -> CorruptRecordError:
    """The log ends before the recovery point: another program removed or truncated a file."""
    error = CorruptRecordError(
        f"{last.path} ends at offset {last.next_offset}, but everything up to offset {recovery_point} was on "
        f"the device once: the end of the log is missing. What is left can be read; after a crash nothing is "
        f"appended, so that no offset is assigned twice. Restore the files from a copy; streamlog.verify() tells "
        f"what is there, and streamlog.repair() copies it into a new log that continues at offset {recovery_point}.",
        path=last.path,
        position=last.size,
        expected=recovery_point,
        actual=last.next_offset,
    )
    logger.error("%s", error)
    return error


def _segment_after_damage(disk: Disk, directory: str, last: Segment, recovery_point: int) -> Segment:
    """The end of a log whose last batches are damaged: an empty segment without a file, at the smallest possible offset.

    So a reader gets an error for what is missing, instead of taking the last good batch for the end of the log.
    """
    try:
        last.size = size_of(disk, last.path)
    except OSError as error:
        raise as_storage_error(error, "open", last.path) from error
    last.sealed = True
    last.next_offset = max(last.next_offset + 1, recovery_point)
    after = Segment(disk, directory, last.next_offset, last.seed)
    after.make_active(walk(after, 0))
    return after


def _segments(disk: Disk, directory: str, seed: int, names: list[str], state_file: StateFile) -> list[Segment]:
    """The segments of the log, oldest first. Unlinks other files of segments, and index files without a segment.

    Segments below the log start are left out (a crash came between their deletion and the unlink), and so are empty files
    that an interrupted roll left: they contain nothing, and batches that were appended to the segment before may have the
    offsets in their names.
    """
    bases = sorted(base for base in (base_offset_of(name, "log") for name in names) if base is not None)
    segments = [Segment(disk, directory, base, seed) for base in bases]
    stale: list[Segment] = []
    while len(segments) > 1 and segments[1].base_offset <= state_file.state.log_start_offset:
        stale.append(segments.pop(0))
    if stale:
        disk.sync_dir(directory)  # the name of a segment that stays may not be on the device yet
        stale = stale if _is_start_durable(state_file) else []
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


def _is_start_durable(state_file: StateFile) -> bool:
    """Write the state that was read again, with a sync: if an earlier sync failed, reading it back proves nothing.

    Segments that are unlinked because of a state that a power loss reverts would be missing. On a full disk they stay.
    """
    try:
        state_file.write(state_file.state, sync=True)
    except DiskFullError:
        return False
    return True


def _goes_on(segment: Segment, following: int) -> bool:
    """Whether `segment` was appended to after the roll that created the empty segment `following`."""
    stats = segment.load_stats()
    if stats is not None:
        return stats.next_offset > following
    found = walk(segment, segment.size)
    end = found.stats.next_offset
    return end > following or (end == following and found.end < segment.size)


def _recover_tail(
    disk: Disk, active: Segment, recovery_point: int, shutdown: PreviousShutdown
) -> StreamlogError | None:
    """Prepare the active segment for appends; return the error that prevents them, or None."""
    try:
        size = active.file.size()
        if disk.exists(active.index_path):
            if shutdown.clean:
                loaded = index_files.load(disk, active.index_path, size, active.seed)
                if loaded is not None and loaded[1].size == size and loaded[1].base_offset == active.base_offset:
                    active.set_stats(loaded[1])
                    active.set_index(loaded[0])
                    stored = active.load_summary()
                    active.summary = None if stored is None else ProducerSummary.of(stored[1])
                    return None
            disk.unlink(active.index_path)
    except OSError as error:
        raise as_storage_error(error, "open", active.path) from error
    # A crash of the process leaves no batch without its payload. A payload that is damaged otherwise is an error for reads.
    found = walk(active, size)
    active.make_active(found)
    active.size = size
    if found.end == size:
        return None
    if not shutdown.clean and is_torn(active, found, recovery_point, shutdown):
        try:
            active.file.truncate(found.end)
            active.file.sync()
        except OSError as error:
            raise as_storage_error(error, "truncate the torn end of", active.path) from error
        active.size = found.end
        logger.warning(
            "%s: truncated a torn write at byte %d: %d bytes, none acknowledged",
            active.path,
            found.end,
            size - found.end,
        )
        return None
    return _end_damage(active, found, recovery_point, shutdown)


def _end_damage(active: Segment, found: Walk, recovery_point: int, shutdown: PreviousShutdown) -> StreamlogError | None:
    """The error that prevents appends if the file continues after its last good batch and no crash explains that."""
    active.size = found.stats.size
    if found.end == found.stats.size:
        return None
    fault = found.damage[-1]
    logger.error("%s", fault)
    if not shutdown.clean or found.stats.next_offset >= recovery_point:
        active.size = found.end  # the bytes after that are neither read nor overwritten
    return fault


def is_torn(active: Segment, found: Walk, recovery_point: int, shutdown: PreviousShutdown) -> bool:
    """Whether a crash explains that the last segment continues after its last good batch."""
    if found.stats.next_offset < recovery_point:
        return False
    return not shutdown.same_boot or _is_torn_write(active, found.end, found.stats.size)


def _is_torn_write(segment: Segment, position: int, size: int) -> bool:
    """Whether a batch begins at `position` that is longer than the rest of the file."""
    data = segment.read(min(size - position, 2048), position)
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        return False
    if len(data) < MIN_HEADER_LEN:
        return True
    header = peek(data)
    # Its lengths must be those of a batch that is longer than the rest of the file: flipped bits are damage.
    if header.header_len != header_len_for(data[FIXED_LEN]) or header.header_len > header.batch_len:
        return False
    if position + header.batch_len <= size:
        return False
    return header.header_len > len(data) or header_fault(data, 0, segment.seed) is None
