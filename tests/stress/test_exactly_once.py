"""Transactions in a process that is killed at any moment, many times; `python -m tests.stress.exactly_once` does it for longer."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from .exactly_once import run


@pytest.mark.slow
@pytest.mark.parametrize(("cycles", "brokers"), [(50, 1), (10, 3)])
def test_every_record_has_its_effect_exactly_once_over_every_kill(
    tmp_path: Path, rng: random.Random, cycles: int, brokers: int
) -> None:
    figures = run(cycles, rng.randrange(2**32), tmp_path, brokers)
    assert figures.cycles == cycles
    assert figures.counts["committed"] and figures.counts["aborted"] and figures.transformed and figures.piped
