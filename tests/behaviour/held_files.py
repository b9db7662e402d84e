"""Which files this process holds: a leak shows as a name, and threads that end meanwhile do not disturb the count."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def descriptors() -> list[str]:
    """What stands behind every descriptor."""
    names = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the descriptor of the listing, or one that a thread closed since
            names.append(os.readlink(f"/proc/self/fd/{number}"))
    return names


def held_files(path: Path) -> list[str]:
    """The files below `path` that this process holds, by a descriptor or a mapping."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    mapped = [line.split(maxsplit=5)[5].strip() for line in maps if "/" in line]
    return [name for name in descriptors() + mapped if name.startswith(str(path))]
