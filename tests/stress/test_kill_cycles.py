"""A process that is killed at any moment, many times; `python -m tests.stress.kill_cycles` does it for longer."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from .kill_cycles import run


@pytest.mark.slow
@pytest.mark.parametrize(("cycles", "brokers"), [(40, 1), (25, 3)])
def test_what_was_acknowledged_is_there_once_after_every_kill(
    tmp_path: Path, rng: random.Random, cycles: int, brokers: int
) -> None:
    figures = run(cycles, rng.randrange(2**32), tmp_path, brokers)
    assert figures.cycles == cycles
    assert figures.acknowledged and figures.while_opening and figures.verified and figures.committed
