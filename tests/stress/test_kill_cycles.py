"""A process that is killed at any moment, forty times; `python -m tests.stress.kill_cycles` does it for longer."""

from __future__ import annotations

import random
from pathlib import Path

from .kill_cycles import run

CYCLES = 40


def test_what_was_acknowledged_is_there_once_after_every_kill(tmp_path: Path, rng: random.Random) -> None:
    figures = run(CYCLES, rng.randrange(2**32), tmp_path)
    assert figures.cycles == CYCLES
    assert figures.acknowledged and figures.while_opening and figures.verified
