"""A random machine over the whole public API; `python -m tests.stress.machine` does it for longer, and explains."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import streamlog
from streamlog.testing.handles import SimulatedFile

from .machine.operations import format_numbers, generate, parse_numbers
from .machine.program import Program
from .machine.shrink import failure_of, shrink
from .processes import REPOSITORY

# The same ones every time: a test that fails now and then says nothing about a change. The long runs take others.
FIRST_SEED, SEEDS = 1, 25


@pytest.mark.slow
@pytest.mark.timeout(300)  # ten seconds on a machine that does nothing else
def test_nothing_that_was_promised_is_broken() -> None:
    command = [sys.executable, "-m", "tests.stress.machine", "--seeds", str(SEEDS), "--seed", str(FIRST_SEED)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_seed_does_the_same_every_time(rng: random.Random) -> None:
    for _ in range(2):
        seed = rng.randrange(1 << 30)
        programs = [Program(seed), Program(seed)]
        for program in programs:
            try:
                program.run(generate(seed))
            except AssertionError as violation:
                program.story.append(str(violation))
        assert programs[0].story == programs[1].story, f"seed {seed}"
        assert len({len(program.disk.operations) for program in programs}) == 1


def test_numbers_of_operations_are_written_as_they_are_read() -> None:
    numbers = {0, 3, 4, 5, 9, 10, 80}
    assert format_numbers(numbers) == "0,3-5,9-10,80"
    assert parse_numbers(format_numbers(numbers)) == numbers


# What is wrong on purpose is seen

Bug = Callable[[pytest.MonkeyPatch], object]


def _wrap(monkeypatch: pytest.MonkeyPatch, cls: type, name: str, change: Callable[..., Any]) -> None:
    """Have a method's result changed by `change(self, result, …)`."""
    method = getattr(cls, name)
    monkeypatch.setattr(cls, name, lambda self, *args, **given: change(self, method(self, *args, **given), *args))


def _sync_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    sync = SimulatedFile.sync
    monkeypatch.setattr(SimulatedFile, "sync", lambda self: None if "/topics/" in self.path else sync(self))


BUGS: dict[str, tuple[Bug, list[str]]] = {
    "a poll that leaves a record out": (
        lambda patch: _wrap(patch, streamlog.Consumer, "poll", lambda self, out, *_: out[1:]), ["faults", "crashes"]
    ),
    "a poll that hands a record out twice": (
        lambda patch: _wrap(patch, streamlog.Consumer, "poll", lambda self, out, *_: out[:1] + out), ["faults", "crashes"]
    ),
    "a read that leaves the last record out": (
        lambda patch: _wrap(patch, streamlog.Topic, "read", lambda self, out, *_: list(out)[:-1]), ["faults", "crashes"]
    ),
    "a topic that is not deleted": (
        lambda patch: patch.setattr(streamlog.StreamLog, "delete_topic", lambda self, name: None), ["faults", "crashes"]
    ),
    "settings that are not changed": (
        lambda patch: patch.setattr(streamlog.Topic, "update_config", lambda self, **_: None), ["faults", "crashes"]
    ),
    "records that are not deleted": (
        lambda patch: patch.setattr(streamlog.Topic, "delete_records", lambda self, before: None), ["faults", "crashes"]
    ),
    "a commit that is none": (
        lambda patch: patch.setattr(streamlog.Consumer, "commit", lambda self, *_: None), ["faults", "crashes"]
    ),
    "a group that is not reset": (
        lambda patch: patch.setattr(streamlog.ConsumerGroup, "reset", lambda self, *_, to: None), ["faults", "crashes"]
    ),
    "a sync that is left out": (_sync_forgotten, ["faults"]),
}  # fmt: skip


@contextmanager
def _bug(name: str) -> Iterator[list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        put_in, without = BUGS[name]
        put_in(patch)
        yield without


def _seeds(without: list[str], many: int = 60) -> Iterator[int]:
    """The seeds that fail with a bug, and do not without one."""
    for seed in range(1, many):
        if failure_of(seed, generate(seed, without=without), without) is not None:
            yield seed


@pytest.mark.slow
@pytest.mark.parametrize("name", BUGS)
def test_a_bug_is_seen(name: str) -> None:
    with _bug(name) as without:
        assert next(_seeds(without), None) is not None


@pytest.mark.slow
def test_a_failure_shrinks_to_what_it_needs() -> None:
    with _bug("a topic that is not deleted") as without:
        seed = next(_seeds(without))
        operations = generate(seed, without=without)
        left = shrink(seed, operations, without, budget_s=20)
        assert failure_of(seed, left, without) is not None
        assert len(left) <= 4, [str(operation) for operation in left]
