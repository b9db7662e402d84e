"""A lost partition: its directory is missing, or contains nothing that says where the log ends.

A new directory is on the device, with its first segment, before the metadata refers to it, and it has a segment at every
moment after that. So no crash explains a directory that is missing or has no segment: it was removed, or a file system
check removed it. Every open refuses it, because an empty log in its place would assign the same offsets again.
"""

from __future__ import annotations

from ..errors import CorruptRecordError
from ..runtime.api import Disk
from ..runtime.disk_errors import require_disk_error
from .checkpoint import NAME as STATE_NAME
from .checkpoint import State, StateFile, slots
from .files import base_offset_of, cut_of, swap_of
from .segment import Segment


def is_lost(disk: Disk, directory: str, topic_id: bytes, partition: int, *, was_clean: bool) -> bool:
    """Whether nothing in the directory of an existing partition says where its log ends. Raises OSError.

    After a clean close the state is sufficient: its recovery point is the end.
    """
    try:
        names = disk.listdir(directory)
    except FileNotFoundError as error:
        require_disk_error(error)
        return True
    return not any(map(holds_records, names)) and not (was_clean and _state(disk, directory, topic_id, partition))


def holds_records(name: str) -> bool:
    """Whether a file of that name contains records: a segment, a finished compaction, or bytes removed from a segment."""
    return base_offset_of(name, "log") is not None or swap_of(name) is not None or cut_of(name) is not None


def _state(disk: Disk, directory: str, topic_id: bytes, partition: int) -> State | None:
    try:
        return slots(disk.read(f"{directory}/{STATE_NAME}", 1 << 16), topic_id, partition).newest
    except FileNotFoundError as error:
        require_disk_error(error)
        return None


def create_empty(disk: Disk, directory: str, topic_id: bytes, partition: int, seed: int, offset: int) -> int:
    """Create an empty log in place of a lost one; it is on the device on return. Return the offset at which it begins.

    That is `offset`, or a later one from the state if that is left. Other files in the directory stay. The segment is
    created last: if the call is interrupted before, the partition is still lost. Raises OSError, StorageError,
    DiskFullError.
    """
    disk.makedirs(directory)
    known = _state(disk, directory, topic_id, partition)
    if known is not None:
        offset = max(offset, known.log_start_offset, known.recovery_point)
    state_file = StateFile.open(disk, directory, topic_id, partition, is_new=True)
    state_file.write(State(offset, offset), sync=True)
    state_file.close()
    disk.sync_dir(directory)
    segment = Segment(disk, directory, offset, seed)
    segment.create()
    segment.release()
    disk.sync_dir(directory)
    return offset


def lost_error(directory: str, name: str, *, is_there: bool) -> CorruptRecordError:
    """The error that an open raises. `name` is the partition."""
    what = "has no segment any more" if is_there else "is missing"
    return CorruptRecordError(
        f"{directory} {what}: the records of {name} were in it, and are lost. Restore the directory from a copy; or open "
        f"the log with force=True, which accepts the loss: the partition then continues, empty, at the greatest offset that "
        f"is known of it. streamlog.verify() tells what else is damaged, and streamlog.repair() copies what is intact into a "
        f"new log.",
        path=directory,
        position=0,
        expected=0,
        actual=0,
    )
