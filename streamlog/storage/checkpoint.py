"""`partition.state`: log start offset, recovery point, progress of compaction; two checksummed slots, written in turn.

A crash can tear the slot that is being written, never the other one. A slot that allows files to be unlinked (a
raised log start offset) is synced before the first file is unlinked; the recovery point is moved only after the
data before it was synced.
"""

from __future__ import annotations

import logging
from struct import Struct
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from ..errors import CorruptRecordError, StorageError, StreamlogError
from ..records.batch import MAX_OFFSET
from ..runtime.api import Disk
from ..runtime.disk_errors import require_disk_error
from .files import as_storage_error

logger = logging.getLogger("streamlog.storage")

NAME = "partition.state"
MAGIC = b"SLS\x02"
_SLOT = Struct("<4sIQ16sIqqqq")
_CHECK = Struct("<Q")
SLOT_BYTES = 4096  # a slot to a sector group: tearing one cannot touch the other


class State(NamedTuple):
    """Offsets. `recovery_point`: everything before it is on the device.

    Compaction has read every key before `cleaned_until`, and finds tombstones to drop at `next_horizon` (ms, -1 for
    never). Both values are hints. But if `cleaned_until` is not 0, offsets may be missing inside segments, which
    is damage otherwise. So it is set on the device before the first compacted segment is.
    """

    log_start_offset: int
    recovery_point: int
    cleaned_until: int = 0
    next_horizon: int = -1


class StateFile:
    """The state file of one partition directory, open only while it is read or written. REQUIRES: one `write` at a time."""

    def __init__(self, disk: Disk, path: str, topic_id: bytes, partition: int, state: State, sequence: int) -> None:
        self._disk = disk
        self._path = path
        self._topic_id = topic_id
        self._partition = partition
        self.state = state
        self._sequence = sequence
        self._closed = False
        self.is_compaction_recorded = False

    @classmethod
    def open(cls, disk: Disk, directory: str, topic_id: bytes, partition: int, *, is_new: bool) -> StateFile:
        """Open it; create it for a partition that has no segment yet. On return a state is on the device.

        Raises CorruptRecordError if neither slot verifies, or the file is missing though there are segments:
        the log start would be a guess, and deleted records could appear once more.
        """
        path = f"{directory}/{NAME}"
        try:
            file = disk.open(path, create=is_new)
            try:
                if is_new and file.size() < SLOT_BYTES:  # space for both slots: a full disk must not stop a later write
                    file.pwrite([bytes(SLOT_BYTES)], 0)
                data = file.pread(2 * SLOT_BYTES, 0)
            finally:
                file.close()
        except FileNotFoundError as error:
            require_disk_error(error)
            raise _damaged(path, "it is missing") from error
        except OSError as error:
            raise as_storage_error(error, "open", path) from error
        found = slots(data, topic_id, partition)
        opened = cls(disk, path, topic_id, partition, found.newest or State(0, 0), found.sequence)
        if found.newest is None:
            if not is_new:  # else the creation was interrupted, and the file was never used
                opened.close()
                raise _damaged(path, "neither of its two slots belongs to this partition and verifies")
            opened.write(opened.state, sync=True)
        return opened

    def write(self, state: State, *, sync: bool) -> None:
        """Replace the state. With `sync` it is on the device on return.

        A failed write leaves the sequence as it was, so the next write goes to the same slot and never to the
        only good one.
        """
        assert not self._closed, "the state of a closed partition was written"
        sequence = self._sequence + 1
        try:
            self._put(sequence, state, sync=sync)
        except OSError as error:
            if state.log_start_offset > self.state.log_start_offset:
                self._put_back(sequence, error)
            raise as_storage_error(error, "write", self._path) from error
        self._sequence, self.state = sequence, state
        if sync and state.cleaned_until:
            self.is_compaction_recorded = True

    def _put(self, sequence: int, state: State, *, sync: bool) -> None:
        body = _SLOT.pack(MAGIC, 1, sequence, self._topic_id, self._partition, *state)
        slot = body + _CHECK.pack(xxh3_64_intdigest(body))
        file = self._disk.open(self._path)
        try:
            file.pwrite([slot], (sequence % 2) * SLOT_BYTES)
            if sync:
                file.sync()
        finally:
            file.close()

    def _put_back(self, sequence: int, refused: OSError) -> None:
        """Write the old state over a new one whose write or sync failed: if the deletion of records raised an error, the
        next open must not find them deleted.

        The slot is written anew, so a sync that succeeds covers these bytes. Raises StorageError.
        """
        try:
            self._put(sequence, self.state, sync=True)
        except OSError as error:
            require_disk_error(error)
            require_disk_error(refused)
            raise StorageError(
                f"Could not write {self._path} ({refused.strerror or refused}), nor put back what was there "
                f"({error.strerror or error}). The records that were to be deleted are there and can be read; it is not known "
                f"whether they are after the log is opened once more. Look at the disk, then repeat the deletion.",
                path=self._path,
                errno=refused.errno or 0,
            ) from error

    def record_compaction(self) -> None:
        """Record on the device that compaction may have removed offsets. What was read at opening may not be on it."""
        if not self.is_compaction_recorded:
            self.write(self.state._replace(cleaned_until=max(self.state.cleaned_until, 1)), sync=True)

    def rewrite(self) -> None:
        """Have the state that was read on the device: a killed process may have written it and not synced it.

        It is written anew, because its sync may have failed, and a second sync of the same bytes would prove nothing.
        If it cannot be written now, it is synced as it is.
        """
        try:
            self.write(self.state, sync=True)
            return
        except StreamlogError as error:
            logger.warning("%s", error)
        try:
            file = self._disk.open(self._path)
            try:
                file.sync()
            finally:
                file.close()
        except OSError as error:
            raise as_storage_error(error, "sync", self._path) from error

    def close(self) -> None:
        self._closed = True


def _damaged(path: str, what: str) -> CorruptRecordError:
    return CorruptRecordError(
        f"{path} is damaged: {what}. It says where the log starts, so the partition is not opened; the records are "
        f"untouched. Restore the file from a copy; streamlog.verify() reports all damage, and streamlog.repair() "
        f"copies the records into a new log that begins with the first segment.",
        path=path,
        position=0,
        expected=0,
        actual=0,
    )


class Slots(NamedTuple):
    """What a state file holds: the newest state that verifies, its sequence, and where slots do not verify."""

    sequence: int
    newest: State | None
    damaged: tuple[int, ...]


def slots(data: bytes, topic_id: bytes, partition: int) -> Slots:
    """Read a state file's bytes. A slot that was never written is all zero, or beyond the file's end."""
    best: tuple[int, State] | None = None
    damaged: list[int] = []
    for position in (0, SLOT_BYTES):
        slot = data[position : position + SLOT_BYTES]
        found = parse_slot(slot, topic_id, partition)
        if found is None:
            if slot.strip(b"\0"):
                damaged.append(position)
        elif best is None or found[0] > best[0]:
            best = found
    return Slots(best[0] if best else 0, best[1] if best else None, tuple(damaged))


def parse_slot(data: bytes, topic_id: bytes, partition: int) -> tuple[int, State] | None:
    if len(data) < _SLOT.size + _CHECK.size:
        return None
    body = data[: _SLOT.size]
    if _CHECK.unpack_from(data, _SLOT.size)[0] != xxh3_64_intdigest(body):
        return None
    magic, _, sequence, owner, number, *fields = _SLOT.unpack(body)
    if magic != MAGIC or owner != topic_id or number != partition or sequence >= MAX_OFFSET:
        return None
    state = State(*fields)
    return (sequence, state) if all(0 <= offset < MAX_OFFSET for offset in state[:3]) else None
