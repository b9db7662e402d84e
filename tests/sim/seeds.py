"""Many seeds of a simulation, or one of them step by step: what `python -m tests.sim.…` does."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from typing import Any, NamedTuple, Protocol

from tests import transaction_history
from tests.stress.machine.operations import format_numbers, parse_numbers
from tests.stress.machine.shrink import kind_of

from . import history
from .schedule import Hang
from .steps import Step

_VIOLATIONS = (history.Violation, transaction_history.Violation, Hang)


class Result(NamedTuple):
    """What came of one seed: what happened, which errors were raised, and what is violated ("" if nothing)."""

    seed: int
    fired: Counter[str]
    errors: Counter[str]
    violation: str
    story: list[str]


class World(Protocol):
    """What a seed is played in."""

    fired: Counter[str]
    errors: Counter[str]
    story: list[str]

    def run(self, steps: Sequence[Step]) -> None:
        """Raises Violation, Hang."""


class Simulation(NamedTuple):
    """`module` is its name on the command line."""

    module: str
    summary: str
    steps: int
    must_fire: Sequence[str]
    generate: Callable[[int, int], list[Step]]
    make_world: Callable[[int], World]

    @property
    def command(self) -> str:
        return f"python -m {self.module}"

    def simulate(self, seed: int, steps: Sequence[Step]) -> Result:
        world, violation = self.make_world(seed), ""
        try:
            world.run(steps)
        except _VIOLATIONS as error:
            violation = f"{type(error).__name__}: {error}"
        except Exception:  # at the end of all faults, nothing may fail
            violation = traceback.format_exc(limit=-8)
        return Result(seed, world.fired, world.errors, violation, world.story)

    def explore(self, seed: int, steps: int | None = None) -> Result:
        steps = self.steps if steps is None else steps
        return self.simulate(seed, self.generate(seed, steps))


def shrink(
    simulate: Callable[[int, Sequence[Step]], Result], seed: int, steps: Sequence[Step], budget_s: float = 120.0
) -> list[Step]:
    """Leave out steps while the same kind of violation is left."""
    kind = kind_of(simulate(seed, steps).violation)
    left, until = list(steps), time.monotonic() + budget_s
    size = max(1, len(left) // 2)
    while time.monotonic() < until:
        at, before = 0, len(left)
        while at < len(left) and time.monotonic() < until:
            candidate = [*left[:at], *left[at + size :]]
            if kind_of(simulate(seed, candidate).violation) == kind:
                left = candidate
            else:
                at += size
        if size == 1 and len(left) == before:
            break
        size = max(1, size // 2)
    return left


def main(simulation: Simulation) -> int:
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets have an order then that is the same every time
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        os.execve(sys.executable, [sys.executable, "-m", simulation.module, *sys.argv[1:]], environment)
    parser = argparse.ArgumentParser(prog=simulation.command, description=simulation.summary)
    parser.add_argument("--seed", type=int, default=1, help="the only seed, or the first one")
    parser.add_argument("--seeds", type=int, help="how many; without it one, step by step")
    parser.add_argument("--steps", type=int, default=simulation.steps)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--keep", type=parse_numbers, help="only these steps, such as 3,8-11")
    parser.add_argument("--shrink", action="store_true", help="leave out steps that a violation does not need")
    parser.add_argument("--all-fired", action="store_true", help="fail if something never happened")
    parser.add_argument("--log", action="store_true", help="print what the library logs")
    options = parser.parse_args()
    if options.log:
        logging.basicConfig(level=logging.INFO, format="    %(name)s: %(message)s")
    return _replay(simulation, options) if options.seeds is None else _run_many(simulation, options)


def _run_many(simulation: Simulation, options: Any) -> int:
    fired: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    began, violations = time.monotonic(), 0
    seeds = range(options.seed, options.seed + options.seeds)
    command = f"{simulation.command} --steps {options.steps}"
    with ProcessPoolExecutor(options.processes) as pool:
        for result in pool.map(simulation.explore, seeds, [options.steps] * len(seeds), chunksize=4):
            fired += result.fired
            errors += result.errors
            if result.violation:
                violations += 1
                print(f"VIOLATION: {command} --seed {result.seed}: {result.violation}", flush=True)
    missing = [kind for kind in simulation.must_fire if not fired[kind]] if options.all_fired else []
    print(
        f"{date.today()}: {command} --seeds {options.seeds} --seed {options.seed}: {violations} violations, "
        f"{time.monotonic() - began:.0f} s\n{dict(sorted(fired.items()))}\nerrors: {dict(errors.most_common())}"
    )
    if missing:
        print(f"never happened: {missing}")
    return 1 if violations or missing else 0


def _replay(simulation: Simulation, options: Any) -> int:
    steps = simulation.generate(options.seed, options.steps)
    steps = [step for step in steps if options.keep is None or step.number in options.keep]
    result = simulation.simulate(options.seed, steps)
    if result.violation and options.shrink:
        steps = shrink(simulation.simulate, options.seed, steps)
        result = simulation.simulate(options.seed, steps)
    print("\n".join(result.story))
    print(f"{dict(sorted(result.fired.items()))}\nerrors: {dict(result.errors.most_common())}")
    if not result.violation:
        print(f"seed {options.seed}: {len(steps)} steps, no violation")
        return 0
    kept = format_numbers(step.number for step in steps)
    print(f"VIOLATION {result.violation}")
    print(f"{simulation.command} --seed {options.seed} --steps {options.steps} --keep {kept}")
    return 1
