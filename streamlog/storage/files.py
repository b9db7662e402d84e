"""The files of a partition directory by name, and the one step that replaces several segments by one.

A finished replacement for all segments from offset A up to B is renamed to `A-B.swap`. From that
rename on it is the truth: whatever follows (unlink the originals, rename it to `A.log`) may be
interrupted anywhere and is done again from the start, by the next compaction or the next open.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..records import batch
from ..runtime.api import Disk

_FILE = re.compile(r"([0-9]{20})\.(log|index)")
_SWAP = re.compile(r"([0-9]{20})-([0-9]{20})\.swap")
_CUT = re.compile(r"([0-9]{20})\.log\.cut-[0-9]+(-[0-9]+)?")
_WORTHLESS = (".cleaned", ".tmp")
MAX_OFFSET = (1 << 63) - 1


def log_name(base_offset: int) -> str:
    return f"{base_offset:020d}.log"


def index_name(base_offset: int) -> str:
    return f"{base_offset:020d}.index"


def swap_name(base_offset: int, end_offset: int) -> str:
    return f"{base_offset:020d}-{end_offset:020d}.swap"


def cleaned_name(base_offset: int) -> str:
    return f"{base_offset:020d}.cleaned"


def base_offset_of(name: str, suffix: str) -> int | None:
    """The base offset in the name of a segment's `log` or `index` file; None for any other file."""
    match = _FILE.fullmatch(name)
    if match is None or match[2] != suffix or int(match[1]) >= batch.MAX_OFFSET:
        return None
    return int(match[1])


def swap_of(name: str) -> tuple[int, int] | None:
    """The offsets that a `.swap` file replaces, from and up to; None for any other file."""
    match = _SWAP.fullmatch(name)
    return (int(match[1]), int(match[2])) if match is not None else None


def cut_of(name: str) -> int | None:
    """The base offset of the segment that a `.cut-N` file was cut off from; None for any other file."""
    match = _CUT.fullmatch(name)
    return int(match[1]) if match is not None else None


def is_worthless(name: str) -> bool:
    """Whether a file is the unfinished result of something that was interrupted."""
    return name.endswith(_WORTHLESS)


def finish(disk: Disk, directory: str, low: int, high: int, names: Iterable[str]) -> None:
    """Put `low-high.swap` in place of what it replaces. May be called again after a failure at any point."""
    swap = f"{directory}/{swap_name(low, high)}"
    disk.sync_dir(directory)
    if not disk.exists(swap):
        return
    for name in names:
        base = base_offset_of(name, "log")
        base = base_offset_of(name, "index") if base is None else base
        if base is not None and low <= base < high and disk.exists(f"{directory}/{name}"):
            disk.unlink(f"{directory}/{name}")
    disk.sync_dir(directory)  # the rename without the unlinks would leave offsets twice
    disk.rename(swap, f"{directory}/{log_name(low)}")
    disk.sync_dir(directory)


def finish_all(disk: Disk, directory: str, names: list[str]) -> list[str]:
    """Finish every replacement that is whole, drop what is not; the names that there are afterwards."""
    changed = False
    for name in names:
        swap = swap_of(name)
        if swap is not None:
            finish(disk, directory, *swap, names)
            changed = True
        elif is_worthless(name):
            disk.unlink(f"{directory}/{name}")
            changed = True
    if not changed:
        return names
    disk.sync_dir(directory)
    return disk.listdir(directory)
