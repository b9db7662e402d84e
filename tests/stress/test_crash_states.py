"""What was acknowledged survives every crash: a workload's write trace, replayed. `crash_states` explains."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

import streamlog
from streamlog.testing import ManualClock, SimulatedDisk
from streamlog.testing.handles import SimulatedFile

from .crash_states import explore, quiet, workload
from .crash_truth import PATH, Truth, Violation

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


@pytest.mark.parametrize(
    ("fails", "stored", "allowed"),
    [(True, b"c", True), (True, b"ac", True), (True, b"ca", False), (True, b"aa", False), (False, b"ab", True), (False, b"c", False)],
)  # fmt: skip
@pytest.mark.parametrize("policy", ["delete", "compact"])
def test_of_a_call_that_has_not_returned_a_part_in_order_may_be_there_where_the_disk_fails(
    fails: bool, stored: bytes, allowed: bool, policy: str
) -> None:
    with streamlog.open(PATH, disk=SimulatedDisk(1), clock=ManualClock()) as log:
        topic = log.create_topic("t", cleanup_policy=policy)
        truth = Truth(0, fails=fails)
        truth.created(topic.id, "t", 1, policy == "compact", None)
        truth.sending(topic.id, 0, [(b"k", b"a"), (b"k", b"b"), (b"k", b"c")])
        for value in stored:
            topic.send(bytes([value]), b"k")
        try:
            contents = truth.compare(log, strong=True)
        except Violation:
            assert not allowed
            return
        assert allowed
        truth.reborn(contents, {topic.id: ("t", 1, policy == "compact", None)}, {})
        assert truth.compare(log, strong=True) == contents


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
