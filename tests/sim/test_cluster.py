"""A whole log of several brokers keeps its promises, whatever happens to them; `python -m tests.sim.cluster` does it for longer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from . import bugs
from .bugs import Bug
from .cluster import explore, generate, simulate
from .history import Sent, twice
from .seeds import shrink

REPOSITORY = Path(__file__).resolve().parent.parent.parent
# The same ones every time: a test that fails now and then says nothing about a change. The long runs take others.
FIRST_SEED, SEEDS, STEPS = 1, 80, 150


@pytest.mark.slow
@pytest.mark.timeout(600)  # 25 s on one core that does nothing else
def test_nothing_that_was_promised_is_broken_and_every_fault_has_happened() -> None:
    command = [
        sys.executable, "-m", "tests.sim.cluster", "--seeds", str(SEEDS), "--steps", str(STEPS), "--seed", str(FIRST_SEED),
        "--all-fired",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_seed_does_the_same_every_time() -> None:
    for seed in range(1, 6):
        first, second = explore(seed, 100), explore(seed, 100)
        assert first.story == second.story, seed
        assert first.fired == second.fired


def test_a_record_may_be_there_twice_only_if_it_was_sent_again_after_two_elections() -> None:
    plain, idempotent = Sent(1, 1, False), Sent(1, 1, True)
    assert [twice(plain, 3, epoch) for epoch in (3, 4, 5, 9)] == [False, False, True, True]
    assert not twice(idempotent, 3, 9)


# -- what is wrong on purpose is seen --------------------------------------------------------------------

BUGS: list[tuple[Bug, int]] = [
    (bugs.a_leader_acknowledges_alone, 1),
    (bugs.a_replica_outside_the_set_leads, 2),
    (bugs.a_new_leader_forgets_what_was_committed, 6),
    (bugs.a_move_waits_for_no_follower, 112),
    (bugs.a_follower_does_not_sync, 25),
]
"""With the first seed that fails. After a change of the library, or of the simulation, that may be another one."""


@pytest.mark.slow
@pytest.mark.parametrize(("bug", "seed"), BUGS, ids=[bug.__name__ for bug, _ in BUGS])
def test_a_bug_is_seen(bug: Bug, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    seeds = (seed, *range(1, 60))
    assert any(explore(each, 200).violation for each in seeds)


@pytest.mark.slow
def test_a_failure_shrinks_to_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    bugs.a_leader_acknowledges_alone(monkeypatch)
    seed = 1
    steps = generate(seed, 200)
    left = shrink(simulate, seed, steps, budget_s=20)
    assert simulate(seed, left).violation
    assert len(left) < 40
