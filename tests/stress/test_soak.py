"""Threads and processes at work on one log, which is no larger afterwards; `python -m tests.stress.soak` does it for longer."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from .soak import run


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_grows(tmp_path: Path, rng: random.Random) -> None:
    soak = run(12.0, rng.randrange(2**32), tmp_path, round_s=1.5)
    assert soak.counts["read"] > 100
    assert soak.counts["jobs"] > 100
    assert soak.counts["topics"] > 3
