"""The files of a log that is truncated: what a follower does whose leader has another history. `Log` publishes the result.

Each of these may be called again after a failure at any point, and a crash at any point leaves what the log was, or what it
is afterwards. For `start_at` there is one more state in between: a log without records that still begins where it did.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..runtime.api import Disk
from .checkpoint import StateFile
from .durability import Durability
from .files import base_offset_of, cleaned_name, copy_bytes, finish_swap, log_name, swap_name
from .segment import Segment, size_of


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
