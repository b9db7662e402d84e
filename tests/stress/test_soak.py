"""Threads and processes at work on one log, which is no larger afterwards; `python -m tests.stress.soak` does it for longer."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from .soak import run


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_grows(tmp_path: Path, rng: random.Random) -> None:
    soak = run(8.0, rng.randrange(2**32), tmp_path, round_s=0.8)
    assert min(soak.counts[what] for what in ("read", "jobs", "topics", "opens", "cleanings"))
