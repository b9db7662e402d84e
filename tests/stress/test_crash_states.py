"""What was acknowledged survives every crash: a workload's write trace, replayed. `crash_states` explains."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

import streamlog
from streamlog.broker.brokers import Brokers
from streamlog.storage import producer_state
from streamlog.testing import ManualClock, SimulatedDisk
from streamlog.testing.handles import SimulatedFile
from tests.sim import transaction_bugs

from .crash_states import explore, quiet, workload
from .crash_truth import PATH, Truth, Violation

pytestmark = pytest.mark.slow

STATES = 120


def violations(seed: int, *, steps: int = 40, states: int = STATES, brokers: int = 1) -> list[str]:
    """What about so many states of a workload break, each by its name; see `crash_states` for how to replay it."""
    with quiet():
        try:
            work = workload(seed, steps, brokers)
        except (AssertionError, streamlog.StreamlogError) as error:  # a promise was broken in the middle of it
            return [f"--steps {steps} --replay {seed}: {error}"]
        figures = explore(work, sample=min(1.0, states / (5 * len(work.disk.operations))), thorough=8, nested=200)
    assert figures.states > states / 3
    return [f"--steps {steps} --replay {violation}" for violation in figures.violations[:5]]


KINDS = {"a new log": 0, "one that crashed before": 2, "a disk that fails": 4, "both": 6}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_acknowledged_is_lost_by_any_crash_with_sync(rng: random.Random, kind: str) -> None:
    assert violations(rng.randrange(1 << 30) * 16 + KINDS[kind] + 1) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_kill_loses_nothing_and_a_power_loss_leaves_a_gapless_prefix_without_sync(
    rng: random.Random, kind: str
) -> None:
    assert violations(rng.randrange(1 << 30) * 16 + KINDS[kind]) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sync", [0, 1], ids=["plain", "sync"])
def test_of_transactions_all_is_seen_or_nothing_and_none_hangs(rng: random.Random, kind: str, sync: int) -> None:
    assert violations(rng.randrange(1 << 30) * 16 + 8 + KINDS[kind] + sync, states=80) == []


@pytest.mark.parametrize("kind", ["a new log", "one that crashed before", "a disk that fails"])
@pytest.mark.parametrize("sync", [0, 1], ids=["plain", "sync"])
def test_so_it_is_with_three_brokers(rng: random.Random, kind: str, sync: int) -> None:
    assert violations(rng.randrange(1 << 31) * 8 + KINDS[kind] + sync, steps=16, states=40, brokers=3) == []


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
    found = violations(305, states=120) or violations(321, states=120)
    assert found
    if what.endswith("before it syncs"):
        assert any("was acknowledged" in violation for violation in found)


def a_power_loss_is_not_looked_after(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Brokers, "may_have_lost_records", False)


def producers_are_rebuilt_without_their_last_batch(patch: pytest.MonkeyPatch) -> None:
    read = producer_state._read

    def wrong(tail: Any, *others: Any) -> Any:
        states = read(tail, *others)
        for producer_id, known in states._known.items():
            states._known[producer_id] = known._replace(batches=known.batches[:-1])
        return states

    patch.setattr(producer_state, "_read", wrong)


# With a seed that meets it in many of its states.
BUGS: dict[Callable[[pytest.MonkeyPatch], object], int] = {
    transaction_bugs.readers_see_up_to_the_high_watermark: 25,
    transaction_bugs.aborted_transactions_are_lost_by_an_open: 9,
    transaction_bugs.what_a_process_left_open_waits_for_its_timeout: 9,
    transaction_bugs.offsets_count_before_the_marker: 25,
    transaction_bugs.offsets_count_though_the_transaction_is_aborted: 25,
    transaction_bugs.offsets_of_a_transaction_are_lost: 41,
    a_power_loss_is_not_looked_after: 8,
    producers_are_rebuilt_without_their_last_batch: 9,
}


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: str(bug.__name__))
def test_a_bug_of_transactions_is_caught(
    monkeypatch: pytest.MonkeyPatch, bug: Callable[[pytest.MonkeyPatch], object]
) -> None:
    bug(monkeypatch)
    assert violations(BUGS[bug], states=80)
