"""The ways in which a log is opened again, as parameters of a test, and damage done to its files in between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import CLEAN, KILLED, POWER_LOST, Box

MakeBox = Callable[..., Box]


def reopened_clean(b: Box) -> None:
    b.reopen(CLEAN)


def reopened_after_a_kill(b: Box) -> None:
    b.reopen(KILLED)


def reopened_after_a_power_loss(b: Box) -> None:
    b.reopen(POWER_LOST)


def reopened_without_index_files(b: Box) -> None:
    b.close()
    for path in b.path.glob("*.index"):
        path.unlink()
    b.open(CLEAN)


def only_kept_open(b: Box) -> None:
    """Nothing happens to it."""


WAYS = [
    only_kept_open,
    reopened_clean,
    reopened_after_a_kill,
    reopened_after_a_power_loss,
    reopened_without_index_files,
]
reopening = pytest.mark.parametrize("reopen", WAYS, ids=lambda way: way.__name__.replace("_", " "))


def flip(path: Path, position: int, mask: int = 0x40) -> None:
    """Change one byte of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= mask
    path.write_bytes(data)
