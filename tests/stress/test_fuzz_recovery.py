"""Changed bytes in every kind of file, a few dozen rounds; `python -m tests.stress.fuzz_recovery` does it for longer."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest

from .fuzz_recovery import memory, run

ROUNDS = 40


@pytest.mark.slow
def test_whatever_bytes_are_changed_only_our_own_errors_come_out(rng: random.Random) -> None:
    with tempfile.TemporaryDirectory(dir=memory()) as work:
        figures = run(ROUNDS, rng.randrange(2**32), Path(work))
    assert figures.rounds == ROUNDS
    assert figures.opened > ROUNDS // 2 and figures.records > 50 * ROUNDS
