"""`partition.state`: log start offset, recovery point and how far compaction came, in two checksummed slots written in turn.

A crash can tear the slot being written, never the other one. A slot that justifies an unlink (a
raised log start offset) is synced before the first file goes; the recovery point is moved only
after the sync that it claims.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from ..errors import CorruptRecordError
from ..runtime.api import Disk, File
from .faults import typed

NAME = "partition.state"
MAGIC = b"SLS\x01"
_SLOT = Struct("<4sIQ16sIqqq")
_CHECK = Struct("<Q")
SLOT_BYTES = 4096  # a slot to a sector group: tearing one cannot touch the other


class State(NamedTuple):
    """Offsets. `recovery_point`: everything before it is on the device. `cleaned_until`: compacted so far, a hint."""

    log_start_offset: int
    recovery_point: int
    cleaned_until: int = 0


class StateFile:
    """The open state file of one partition directory. REQUIRES: the caller serialises `write`."""

    def __init__(self, file: File, topic_id: bytes, partition: int, state: State, sequence: int) -> None:
        self._file = file
        self._topic_id = topic_id
        self._partition = partition
        self.state = state
        self._sequence = sequence

    @classmethod
    def open(cls, disk: Disk, directory: str, topic_id: bytes, partition: int) -> StateFile:
        """Open or create it. Raises CorruptRecordError if neither slot verifies."""
        path = f"{directory}/{NAME}"
        try:
            file = disk.open(path, create=True)
            data = file.pread(2 * SLOT_BYTES, 0)
        except OSError as error:
            raise typed(error, "open", path) from error
        best: tuple[int, State] | None = None
        for slot in range(2):
            found = _parse(data[slot * SLOT_BYTES :], topic_id, partition)
            if found is not None and (best is None or found[0] > best[0]):
                best = found
        if best is None and data.strip(b"\0"):
            raise CorruptRecordError(
                f"{path} is damaged: neither of its two slots belongs to this partition and verifies. The records are "
                f"untouched; run streamlog.verify() on the directory before you use it.",
                path=path,
                position=0,
                expected=0,
                actual=0,
            )
        sequence, state = best if best is not None else (0, State(0, 0))
        return cls(file, topic_id, partition, state, sequence)

    def write(self, state: State, *, sync: bool) -> None:
        """Replace the state. With `sync` it is on the device on return."""
        self._sequence += 1
        body = _SLOT.pack(MAGIC, 1, self._sequence, self._topic_id, self._partition, *state)
        slot = body + _CHECK.pack(xxh3_64_intdigest(body))
        try:
            self._file.pwrite([slot], (self._sequence % 2) * SLOT_BYTES)
            if sync:
                self._file.sync()
        except OSError as error:
            raise typed(error, "write", self._file.path) from error
        self.state = state

    def close(self) -> None:
        self._file.close()


def _parse(data: bytes, topic_id: bytes, partition: int) -> tuple[int, State] | None:
    if len(data) < _SLOT.size + _CHECK.size:
        return None
    body = data[: _SLOT.size]
    if _CHECK.unpack_from(data, _SLOT.size)[0] != xxh3_64_intdigest(body):
        return None
    magic, _, sequence, owner, number, start, recovery_point, cleaned = _SLOT.unpack(body)
    if magic != MAGIC or owner != topic_id or number != partition:
        return None
    return sequence, State(start, recovery_point, cleaned)
