"""Pipes whose process is killed at any moment, many times; `python -m tests.stress.pipe_cycles` does it for longer."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from .pipe_cycles import run


@pytest.mark.slow
@pytest.mark.parametrize(("cycles", "brokers"), [(50, 1), (15, 3)])
def test_each_input_has_its_effect_once_whatever_kill_comes(
    tmp_path: Path, rng: random.Random, cycles: int, brokers: int
) -> None:
    figures = run(cycles, rng.randrange(2**32), tmp_path, brokers)
    assert figures.cycles == cycles and figures.inputs
    assert brokers == 1 or figures.lost
