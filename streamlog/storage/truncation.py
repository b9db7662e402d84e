"""Truncating a log: what a follower does whose leader has another history.

A crash at any point leaves what the log was, or what it is afterwards. For `truncate_fully_and_start_at` there is one more state
in between: a log without records that still begins where it did. The log is published with its new end first; if the disk
fails after that, the next append or truncation completes the files.

REQUIRES, for every function: the maintenance lock, with no compaction under way, the partition lock, and no sync under way.
On return the device has it. Raises DiskFullError, StorageError.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial

from ..errors import CorruptRecordError, StorageError
from ..runtime.api import Disk
from .checkpoint import StateFile
from .durability import Durability
from .files import as_storage_error, base_offset_of, cleaned_name, copy_bytes, finish_swap, log_name, swap_name
from .log import Log
from .refusals import Unfinished
from .replacement import finish_earlier
from .scan import Walk, walk
from .segment import Segment, size_of
from .tail import LogSnapshot


def truncate_to(log: Log, offset: int, *, discards_damage: bool = False) -> int:
    """Forget every record at or after `offset`; return the new log end offset, from which a follower goes on.

    A follower calls this when the new leader's history ends before its own. A batch that straddles `offset` goes whole:
    its checksum covers all of it, so half of one could never be verified again. Does nothing for an offset past the end.

    The recovery point is lowered on the device first, so that what is left is found whole after a crash.
    The active file is truncated; a sealed one, which readers may have mapped, never is: a copy of what stays takes its
    place, and that of all later files, by one rename. Kafka removes the later files one by one, and needs a recovery that
    explains each state in between.

    Raises OffsetOutOfRangeError below the log start offset; CorruptRecordError if what stays is damaged where it ends. With
    `discards_damage` that goes too: the follower fetches it again, and does not count as having what it discards.
    """
    log.check_end()
    tail = log.tail
    if offset < max(tail.start_offset, log.state_file.state.log_start_offset):
        raise log.reader.out_of_range(offset, tail.end_offset)
    if offset >= tail.end_offset:
        return tail.end_offset
    finish_earlier(log)
    at = max(0, bisect_right(tail.bases, offset) - 1)
    segment, size = tail.places(at)[0]
    try:
        found = segment.locate(offset, size)
    except CorruptRecordError as damage:
        if not discards_damage:
            raise
        found = damage.position
    kept = walk(segment, size if found is None else found)
    if kept.end != kept.stats.size and not discards_damage:
        raise kept.damage[-1]
    return _truncate_after(log, kept, at)


def discard_damaged_end(log: Log) -> int:
    """Truncate the log after its last batch that verifies, because its end is damaged; return the new log end offset.

    A follower fetches the rest again; it does not count as having what it discards.
    """
    log.durability.refuse_if_poisoned()
    if log.refusals.unfinished is not None:
        log.refusals.finish()
    if log.refusals.damage is None:
        return log.tail.end_offset
    finish_earlier(log)
    at = len(log.tail.segments) - 2  # the last one has no file: see `recovery._segment_after_damage`
    damaged = log.tail.segments[at]
    return _truncate_after(log, walk(damaged, damaged.size), at)


def truncate_fully_and_start_at(log: Log, offset: int) -> None:
    """Forget every record; the next one has `offset`, and the log starts there. Kafka's truncateFullyAndStartAt.

    A follower calls this when its log ends before its leader's starts, or starts after its leader's ends. The log starts
    earlier then than it did, if `offset` says so; as also where the leader's first batch straddles its log start: an
    append of it raised UnexpectedAppendOffsetError, with the offset.
    """
    log.check_end()
    tail = log.tail
    finish_earlier(log)
    lower_state(log.state_file, min(tail.bases[0], offset))
    new = Segment(log.disk, log.directory, offset, log.seed)
    new.make_active(walk(new, 0))
    truncated = LogSnapshot(offset, 0, (new,), (offset,), offset, *new.stats[3:])
    files = start_at(log.disk, log.directory, log.state_file, tail.segments, tail.end_offset, offset)
    _truncate(log, truncated, tail.segments, files)


def _truncate_after(log: Log, kept: Walk, at: int) -> int:
    """Have the log end where a walk over the segment number `at` has ended; the new end offset."""
    tail, old = log.tail, log.tail.segments[at:]
    lower_state(log.state_file, kept.stats.next_offset)
    new = Segment(log.disk, log.directory, old[0].base_offset, log.seed)
    new.make_active(kept)
    end = max(kept.stats.next_offset, tail.start_offset)  # the batch that straddles the log start has gone too
    truncated = LogSnapshot(
        end, kept.end, (*tail.segments[:at], new), tail.bases[: at + 1], tail.start_offset, *kept.stats[3:]
    )
    if len(old) == 1:
        files = partial(truncate_file, log.disk, log.durability, new)
    else:
        files = partial(replace_files, log.disk, log.directory, new, tail.end_offset)
    _truncate(log, truncated, old, files)
    return end


def _truncate(log: Log, truncated: LogSnapshot, old: Sequence[Segment], files: Callable[[], None]) -> None:
    """Publish the truncated log, and have its files made so, by this call or else the next append."""
    why = StorageError(
        f"The truncation of {log.directory} to offset {truncated.end_offset} is not finished on the disk. The next append "
        f"finishes it; look at the disk if that fails too.",
        path=log.directory,
        errno=0,
    )
    log.refusals.start(Unfinished(why, partial(_finish_truncation, log, truncated, old, files)))


def _finish_truncation(log: Log, truncated: LogSnapshot, old: Sequence[Segment], files: Callable[[], None]) -> None:
    """Publish the truncated log, then make the files so. May be called again after a failure at any point."""
    log.reader.tail, log.reader.latest = truncated, None
    for segment in old:  # before the files change: a reader of the old snapshot must not take new bytes for old ones
        segment.retire()
    log.leader_epochs.truncated()
    log.producers.truncated()
    log.transactions.truncated()
    durability = log.durability
    is_empty = truncated.start_offset == truncated.end_offset
    durability.synced_end = truncated.end_offset if is_empty else min(durability.synced_end, truncated.end_offset)
    durability.synced_base = min(durability.synced_base, truncated.bases[-1])
    try:
        files()
    except OSError as error:
        raise as_storage_error(error, "truncate", truncated.segments[-1].path) from error
    durability.has_unsynced_truncation = False


# -- the files: each of these may be called again after a failure at any point -----------------------


def lower_state(state_file: StateFile, end_offset: int) -> None:
    """Have on the device that nothing from `end_offset` on needs to be there, or is compacted. Raises StorageError."""
    state = state_file.state
    cleaned_until = min(state.cleaned_until, max(1, end_offset))
    if end_offset < state.log_start_offset:  # the next batch begins at the log start: there is a gap before it
        cleaned_until = max(1, cleaned_until)
    lowered = state._replace(recovery_point=min(state.recovery_point, end_offset), cleaned_until=cleaned_until)
    if lowered != state:
        state_file.write(lowered, sync=True)


def truncate_file(disk: Disk, durability: Durability, active: Segment) -> None:
    """Truncate the file of the active segment to its size, on the device. The sync comes before the next append: else a
    power loss could leave an old batch before a new one that continues its offsets."""
    if disk.exists(active.index_path):  # a clean close left it
        disk.unlink(active.index_path)
    active.file.truncate(active.size)
    durability.sync(active)


def replace_files(disk: Disk, directory: str, active: Segment, old_end: int) -> None:
    """Put a copy of the first bytes of the file of `active` in its place and that of all files up to `old_end`."""
    _replace(disk, directory, active.path, active.size, active.base_offset, old_end + 1)
    active.release()  # a reader may have opened the old file


def _replace(disk: Disk, directory: str, path: str, size: int, low: int, high: int) -> None:
    """Put the first `size` bytes of `path` in the place of all segments from `low` up to `high`, by one rename."""
    copy, swap = f"{directory}/{cleaned_name(low)}", f"{directory}/{swap_name(low, high)}"
    if not disk.exists(swap):
        copy_bytes(disk, path, copy, end=size)
        disk.rename(copy, swap)
    finish_swap(disk, directory, low, high, disk.listdir(directory))


def start_at(
    disk: Disk, directory: str, state_file: StateFile, old: Sequence[Segment], old_end: int, offset: int
) -> Callable[[], None]:
    """What removes all segments, `old`, and has the log begin at `offset` with one empty file.

    REQUIRES: the recovery point is not past the first of them, nor past `offset`. First an empty file takes their place, by one
    rename; then the state says where the log starts; then the file gets its name, which is where the log starts.
    """
    low = min(old[0].base_offset, offset)
    high = max(old_end, offset) + 1
    path, renamed = f"{directory}/{log_name(low)}", f"{directory}/{log_name(offset)}"
    is_empty = False

    def finish() -> None:
        nonlocal is_empty
        if not is_empty:
            bases = {base_offset_of(name, "log") for name in disk.listdir(directory)} - {None}
            if bases == {low} and not size_of(disk, path):  # a call failed just after it had done so
                disk.sync_dir(directory)
            else:
                _replace(disk, directory, old[0].path, 0, low, high)
            is_empty = True
        state = state_file.state
        if state.log_start_offset != offset:
            state_file.write(state._replace(log_start_offset=offset, next_horizon=-1), sync=True)
        if path != renamed and disk.exists(path):
            disk.rename(path, renamed)
        disk.sync_dir(directory)

    return finish
