"""A partition directory whose records are lost as a whole: it is not there, or nothing is in it that says where the log ends.

A directory is on the device, with its first segment, before anything names it, and never without a segment
after that. So no crash explains one that is missing or has none: somebody removed it, or a file system was repaired. It
is refused by every open, for an empty log in its place would give offsets a second time.
"""

from __future__ import annotations

from ..errors import CorruptRecordError
from ..runtime.api import Disk
from ..runtime.disk_errors import check
from .checkpoint import NAME as STATE_NAME
from .checkpoint import State, StateFile, slots
from .files import base_offset_of, cut_of, swap_of
from .segment import Segment


def is_lost(disk: Disk, directory: str, topic_id: bytes, partition: int, *, was_clean: bool) -> bool:
    """Whether the directory of a partition that was there once tells nothing of where its log ends. Raises OSError.

    After a clean close the state alone tells: the recovery point is the end.
    """
    try:
        names = disk.listdir(directory)
    except FileNotFoundError as error:
        check(error)
        return True
    return not any(map(holds_records, names)) and not (was_clean and _state(disk, directory, topic_id, partition))


def holds_records(name: str) -> bool:
    """Whether a file of that name holds records, or did: a segment, what replaces some, or what was cut off one."""
    return base_offset_of(name, "log") is not None or swap_of(name) is not None or cut_of(name) is not None


def _state(disk: Disk, directory: str, topic_id: bytes, partition: int) -> State | None:
    try:
        return slots(disk.read(f"{directory}/{STATE_NAME}", 1 << 16), topic_id, partition).newest
    except FileNotFoundError as error:
        check(error)
        return None


def begin_again(disk: Disk, directory: str, topic_id: bytes, partition: int, seed: int, offset: int) -> int:
    """Put an empty log in place of a lost one, on the device on return; the offset at which it begins.

    That is `offset`, or what is left of the state if it says a later one. What is in the directory stays. The segment
    comes last: interrupted before it, the partition is lost as before. Raises OSError, StorageError, DiskFullError.
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


def lost(directory: str, name: str, *, is_there: bool) -> CorruptRecordError:
    """What an open raises. `name` says whose directory it is."""
    what = "has no segment any more" if is_there else "is missing"
    return CorruptRecordError(
        f"{directory} {what}: the records of {name} were in it, and are lost. Restore the directory from a copy; or open "
        f"the log with force=True, which accepts the loss: the partition then goes on, empty, at the greatest offset that is "
        f"known of it. streamlog.verify() tells what else is hurt, and streamlog.repair() copies what is whole into a new "
        f"log.",
        path=directory,
        position=0,
        expected=0,
        actual=0,
    )
