"""What was acknowledged survives every crash: a workload's write trace, replayed. `crash_states` explains."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from streamlog.testing import SimulatedDisk
from streamlog.testing.handles import SimulatedFile

from .crash_states import explore, quiet, workload

STATES = 120


def violations(seed: int, *, steps: int = 40, states: int = STATES) -> list[str]:
    """What about so many states of a workload break, each by its name; see `crash_states` for how to replay it."""
    with quiet():
        work = workload(seed, steps)
        figures = explore(work, sample=min(1.0, states / (5 * len(work.disk.operations))), thorough=8, nested=200)
    assert figures.states > states / 3
    return [f"--steps {steps} --replay {violation}" for violation in figures.violations[:5]]


KINDS = {"a new log": 0, "one that crashed before": 2, "a disk that fails": 4, "both": 6}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_acknowledged_is_lost_by_any_crash_with_sync(rng: random.Random, kind: str) -> None:
    assert violations(rng.randrange(1 << 30) * 8 + KINDS[kind] + 1) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_kill_loses_nothing_and_a_power_loss_leaves_a_gapless_prefix_without_sync(
    rng: random.Random, kind: str
) -> None:
    assert violations(rng.randrange(1 << 30) * 8 + KINDS[kind]) == []


FORGOTTEN: dict[str, Callable[[str], bool]] = {
    "a partition's log, so that it acknowledges before it syncs": lambda path: (
        "/topics/" in path and path.endswith("log")
    ),
    "a partition's state": lambda path: path.endswith("partition.state"),
    "the metadata log": lambda path: path.endswith("metadata-0/00000000000000000000.log"),
    "what compaction wrote": lambda path: path.endswith(".cleaned"),
    "the owner file": lambda path: path.endswith("json.tmp"),
    "a partition's directory": lambda path: "/topics/" in path and "." not in path,
    "the directory of the partitions": lambda path: path.endswith("/topics"),
    "the log's directory": lambda path: path == "/log",
}


@pytest.mark.parametrize("what", FORGOTTEN)
def test_a_sync_that_is_left_out_is_caught(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """The bug is put back in: the sync says that all is well, and does nothing."""
    is_forgotten, sync, sync_dir = FORGOTTEN[what], SimulatedFile.sync, SimulatedDisk.sync_dir

    def forgetful_sync(self: SimulatedFile) -> None:
        if not is_forgotten(self.path):
            sync(self)

    def forgetful_sync_dir(self: SimulatedDisk, path: str) -> None:
        if not is_forgotten(path):
            sync_dir(self, path)

    monkeypatch.setattr(SimulatedFile, "sync", forgetful_sync)
    monkeypatch.setattr(SimulatedDisk, "sync_dir", forgetful_sync_dir)
    found = violations(305, states=120) or violations(313, states=120)
    assert found
    if what.endswith("before it syncs"):
        assert any("was acknowledged" in violation for violation in found)
