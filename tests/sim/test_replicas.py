"""Nothing acknowledged is lost, and no reader sees two values at one offset, whatever happens to the replicas.

`python -m tests.sim.replicas --seeds 20000 --steps 500` does it for longer.
"""

from __future__ import annotations

from collections import Counter

import pytest

from . import bugs
from .bugs import Bug
from .replicas import Violation, run

SEEDS, STEPS = 25, 300
KINDS = [(False, False), (True, False), (False, True), (True, True)]


@pytest.mark.slow
@pytest.mark.parametrize(("durable", "unclean"), KINDS)
def test_nothing_acknowledged_is_lost_by_replicas(durable: bool, unclean: bool) -> None:
    fired: Counter[str] = Counter()
    for seed in range(SEEDS):
        fired += run(seed, STEPS, durable=durable, unclean=unclean)
    wanted = {"acknowledged", "delete", "grew", "handed over", "kill", "lose", "moved", "not enough", "shrank", "start"}
    assert wanted | ({"unclean"} if unclean else set()) <= set(fired)


@pytest.mark.parametrize(("seed", "durable"), [(1115, True), (1778, False)])
def test_a_follower_without_a_record_does_not_ask_for_ever_where_the_logs_part(seed: int, durable: bool) -> None:
    """All it had was deleted, and the leader of an unclean election has never had its last epoch."""
    run(seed, STEPS, durable=durable, unclean=True)


# -- what is wrong on purpose is seen --------------------------------------------------------------------

BUGS: list[Bug] = [
    bugs.truncates_to_its_high_watermark,
    bugs.the_leader_compares_offsets_alone,
    bugs.epochs_outlive_a_truncation,
    bugs.a_replica_outside_the_set_leads,
    bugs.who_came_back_joins_by_what_it_had,
    bugs.who_is_about_to_join_does_not_count,
    bugs.a_leader_acknowledges_alone,
    bugs.a_follower_does_not_sync,
    bugs.what_waited_is_acknowledged_by_whatever_leads_next,
]


def first_violation(most: int = 400) -> int | None:
    """The number of seeds, of each kind in turn, until one fails; None if none does."""
    for number in range(most):
        durable, unclean = KINDS[number % len(KINDS)]
        try:
            run(number, STEPS, durable=durable, unclean=unclean)
        except Violation:
            return number + 1
    return None


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: str(bug.__name__))
def test_a_bug_is_seen(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    assert first_violation() is not None
