"""The bytes of DIR/published: how far other processes may read, with one slot of 64 bytes for each partition.

Slot 0 is the header: which opening of the directory wrote the file, and whether the directory was closed since. A
slot is written by one pwrite and ends with a checksum, so a reader in another process needs no lock: a slot that
does not verify is being written, and the reader reads it once more. The file is derived: if it is missing and no
process owns the directory, a reader walks the segments and finds the same.

Pure functions of bytes. `broker/tailing/published_writer.py` writes the file, `broker/tailing/service.py` reads it.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

NAME = "published"
MAGIC = b"SLP\x02"
VERSION = 1
SLOT_BYTES = 64
EMPTY = bytes(SLOT_BYTES)
OPENING, OPEN, CLOSED = 0, 1, 2

_HEADER = Struct("<4sIQII32x")
_SLOT = Struct("<QIIqqqqII")
_CHECK = Struct("<Q")
_U32 = 0xFFFFFFFF
_KEPT = 1  # the seed of the checksum of a kept slot: readers take it for a slot that is being written


class Header(NamedTuple):
    """`incarnation`: the opening, as in `streamlog.json`. `state`: OPENING while the partitions are opened and
    not all have a slot yet, OPEN, or CLOSED. `pid`: the process that opened the directory."""

    incarnation: int
    state: int
    pid: int


class Slot(NamedTuple):
    """What other processes may see of one partition.

    `generation` grows with every change that is not an append: a roll, a raised log start, a truncation, a
    rewrite. `rewrites` grows when a file of the same name has other bytes (compaction), so that what a reader
    keeps of the files is invalid. Both are modulo 2^32, and only compared for equality.
    `end_position` is that of `end_offset` in the segment that begins at `active_base`.
    """

    seed: int
    generation: int
    rewrites: int
    end_offset: int
    high_watermark: int
    last_stable_offset: int
    log_start_offset: int
    active_base: int
    end_position: int

    @property
    def shape(self) -> tuple[int, int]:
        """Equal in two slots if there were only appends between them."""
        return self.generation, self.rewrites


def pack_header(header: Header) -> bytes:
    body = _HEADER.pack(MAGIC, VERSION, header.incarnation, header.state, header.pid)
    return body + _CHECK.pack(xxh3_64_intdigest(body))


def parse_header(data: bytes) -> Header | None:
    """The header in a file's first 64 bytes, or None if they do not verify or are of another version."""
    if len(data) < SLOT_BYTES:
        return None
    magic, version, incarnation, state, pid = _HEADER.unpack_from(data)
    if magic != MAGIC or version != VERSION or not _verifies(data[:SLOT_BYTES]):
        return None
    return Header(incarnation, state, pid)


def pack_slot(slot: Slot, *, kept: bool = False) -> bytes:
    """`kept`: as an earlier owner left it, for `kept_slots` and no reader.

    REQUIRES: the active segment is under 4 GiB and holds fewer than 2^32 offsets.
    """
    seed, generation, rewrites, end, high_watermark, last_stable, start, active_base, position = slot
    body = _SLOT.pack(
        seed, generation & _U32, rewrites & _U32, end, high_watermark, last_stable, start,
        min(end - active_base, _U32), min(position, _U32),
    )  # fmt: skip
    return body + _CHECK.pack(xxh3_64_intdigest(body, _KEPT if kept else 0))


def parse_slot(data: bytes) -> Slot | None:
    """The slot in 64 bytes, or None if they do not verify: the slot is free, kept, or being written."""
    return _slot(data) if len(data) == SLOT_BYTES and _verifies(data) else None


def kept_slots(data: bytes) -> dict[int, Slot]:
    """The slot of each partition in a file, by its seed: of the last owner, or kept by an open that failed."""
    found: dict[int, Slot] = {}
    for at in range(SLOT_BYTES, len(data) - SLOT_BYTES + 1, SLOT_BYTES):
        raw = data[at : at + SLOT_BYTES]
        if _verifies(raw) or _verifies(raw, _KEPT):
            slot = _slot(raw)
            found[slot.seed] = slot
    return found


def _slot(data: bytes) -> Slot:
    seed, generation, rewrites, end, high_watermark, last_stable, start, length, position = _SLOT.unpack_from(data)
    return Slot(seed, generation, rewrites, end, high_watermark, last_stable, start, end - length, position)


def _verifies(data: bytes, seed: int = 0) -> bool:
    at = SLOT_BYTES - _CHECK.size
    found: int = _CHECK.unpack_from(data, at)[0]
    return found == xxh3_64_intdigest(data[:at], seed)
