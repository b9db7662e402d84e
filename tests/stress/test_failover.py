"""Brokers that come and go under real producers and consumers; `python -m tests.stress.failover` does it for longer."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from .failover import run
from .failover_faults import KINDS
from .failover_ledger import Ledger, Violation


@pytest.mark.slow
def test_nothing_is_lost_while_brokers_come_and_go(tmp_path: Path, rng: random.Random) -> None:
    stress = run(10.0, rng.randrange(2**32), tmp_path)
    assert set(stress.saboteur.counts) == set(KINDS)
    assert min(stress.counts[what] for what in ("acknowledged", "weakly", "handled", "commits", "looks"))


def test_the_ledger_finds_what_is_lost_changed_late_or_twice() -> None:
    place = Ledger()["t", 0]
    for offset in range(3):
        place.acknowledged(offset, f"p.0.{offset}")
    place.look(0, "p.0.0", complete=True)
    with pytest.raises(Violation, match="another record"):
        place.look(1, "p.0.7", complete=True)
    with pytest.raises(Violation, match="offset 2 where 1 was due"):
        place.look(2, "p.0.2", complete=True)
    place.look(1, "p.0.1", complete=True)
    place.look(2, "p.0.2", complete=True)
    with pytest.raises(Violation, match="where number 3 was due"):
        place.look(3, "p.0.4", complete=True)
    place = Ledger()["t", 0]
    for offset, number in enumerate((0, 1, 0)):
        place.look(offset, f"p.0.{number}", complete=True)
    with pytest.raises(Violation, match="twice"):
        place.check_doubles()
    place.may_double(["p.0.0"])
    assert place.check_doubles() == 1
