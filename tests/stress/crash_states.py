"""Write-trace replay: a workload's every crash, opened and checked.

    python -m tests.stress.crash_states --states 1000000 --seed 1
    python -m tests.stress.crash_states --states 100000 --seed 1 --brokers 3

Each workload runs once on a simulated disk, which records every write and sync. For every number of operations done
the machine is then put as a kill or a power loss may have left it (see `streamlog.testing.SimulatedDisk.crashes`), a
log is opened on it and compared with what had been acknowledged. Half of the workloads run with `sync=True`, where
everything acknowledged has to be there after any of these crashes; the other half without, where that holds for kills,
and after a power loss a gapless prefix, no shorter than the last `log.sync()` said.

With several brokers all of them crash together, and a disk that fails is that of one of them. They are stopped and started,
leaders and replicas move; the threads of the library take turns as the seed says. After an open the replicas are equal.

A violation prints as `SEED NAME`; `--replay SEED NAME` goes there again.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date

from streamlog.testing import SimulatedDisk

from .crash_truth import Truth, check
from .crash_workload import Workload

STEPS = 40


@dataclass
class Figures:
    """What a run came to. States that are equal in every byte and every promise count once."""

    workloads: int = 0
    operations: int = 0
    states: int = 0
    recoveries: int = 0
    violations: list[str] = field(default_factory=list)

    def __add__(self, other: Figures) -> Figures:
        return Figures(
            self.workloads + other.workloads,
            self.operations + other.operations,
            self.states + other.states,
            self.recoveries + other.recoveries,
            self.violations + other.violations,
        )

    def __str__(self) -> str:
        return (
            f"{self.states:,} distinct states of {self.workloads:,} workloads with {self.operations:,} operations, "
            f"{self.recoveries:,} of them in the middle of recovery: {len(self.violations)} violations"
        )


def workload(seed: int, steps: int = STEPS, brokers: int = 1) -> Workload:
    """The workload of a seed: every second one with `sync=True`; half on a log that crashed before, or a disk that fails; eight
    of sixteen with transactions."""
    sync, crashed_before, fails = seed % 2 == 1, seed // 2 % 4 in (1, 3), seed // 2 % 4 in (2, 3)
    shape = {"sync": sync, "brokers": brokers, "transactions": seed // 8 % 2 == 1}
    disk = SimulatedDisk(seed)
    if not crashed_before:
        return Workload(disk, seed, steps=steps, fails=fails, **shape)
    first = Workload(disk, seed, steps=steps // 2, **shape)
    rng = random.Random(seed)
    name = f"{rng.randrange(len(disk.operations))}/{rng.choice(('kill', 'lax', '0', '1', '2', 'harsh-0'))}"
    state = disk.state(name)
    before = first.truth_at(len(state.marks))
    if not is_strong(name, sync):
        before.weakened()
    return Workload(state, seed + 1, steps=steps // 2, before=before, fails=fails, **shape)


def is_strong(name: str, sync: bool) -> bool:
    """Whether everything acknowledged has to be there in the state of that name."""
    return sync or "/kill" in name


def fingerprint(state: SimulatedDisk) -> int:
    """Equal for two machines that hold the same, durable and not."""
    image = state.image
    return hash(
        (frozenset(image.files.items()), *((n, frozenset(d.seen.items())) for n, d in sorted(image.dirs.items())))
    )


def explore(
    work: Workload, *, random_states: int = 4, harsh: int = 2, thorough: int = 4, nested: int = 150, sample: float = 1.0
) -> Figures:
    """Check the crashes of a workload: a `sample` of them, every `thorough`-th also by verify and a second open.

    After every `nested`-th the recovery itself is crashed.
    """
    seed = work.disk.seed
    figures = Figures(workloads=1, operations=len(work.disk.operations))
    rng = random.Random(seed)
    seen: set[tuple[int, int, str]] = set()
    truth, marks, number = work.truth_at(0), 0, 0
    for name, state in work.disk.crashes(random_states, harsh=harsh):
        if sample < 1.0 and rng.random() >= sample:
            continue
        key = (fingerprint(state), len(state.marks), state.boot_id())
        if key in seen:
            continue
        seen.add(key)
        truth, marks = work.truth_at(len(state.marks), truth, marks), len(state.marks)
        number += 1
        figures.states += 1
        strong = is_strong(name, work.sync)
        try:
            check(state, truth, strong=strong, sync=work.sync, thorough=number % thorough == 0, brokers=work.brokers)
        except Exception as error:
            figures.violations.append(f"{seed} {name}: {type(error).__name__}: {error}")
            continue
        if number % nested == 0:
            figures += _crash_again(work, name, truth, strong)
    return figures


def _crash_again(work: Workload, name: str, truth: Truth, strong: bool) -> Figures:
    """Crashes in the middle of the recovery from one, some of them."""
    figures = Figures()
    rng = random.Random(name)
    state = work.disk.state(name)
    check(state, truth, strong=strong, sync=work.sync, thorough=False, brokers=work.brokers)
    seen: set[tuple[int, str]] = set()
    for inner, again in state.crashes(1):
        key = (fingerprint(again), again.boot_id())
        if key in seen or rng.random() < 0.7:
            continue
        seen.add(key)
        figures.states += 1
        figures.recoveries += 1
        try:
            strong_again = strong and is_strong(inner, work.sync)
            check(again, truth, strong=strong_again, sync=work.sync, thorough=False, brokers=work.brokers)
        except Exception as error:
            figures.violations.append(f"{work.disk.seed} {name} {inner}: {type(error).__name__}: {error}")
    return figures


def replay(seed: int, names: list[str], steps: int = STEPS, brokers: int = 1) -> None:
    """Go to one state again, or to a crash of its recovery, and raise what was found there."""
    work = workload(seed, steps, brokers)
    state = work.disk.state(names[0])
    truth = work.truth_at(len(state.marks))
    strong = is_strong(names[0], work.sync)
    check(state, truth, strong=strong, sync=work.sync, thorough=len(names) == 1, brokers=brokers)
    for name in names[1:]:
        again = state.state(name)
        strong = strong and is_strong(name, work.sync)
        check(again, truth, strong=strong, sync=work.sync, thorough=True, brokers=brokers)


@contextmanager
def quiet() -> Iterator[None]:
    """Thousands of recoveries have a lot to tell."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(disabled)


def _one(seed: int, steps: int, brokers: int) -> Figures:
    with quiet():
        try:
            work = workload(seed, steps, brokers)
        except Exception as error:  # not one that the library may raise, or a promise broken in the middle of it
            return Figures(workloads=1, violations=[f"{seed}: {type(error).__name__}: {error}"])
        return explore(work)


def run(states: int, seed: int, processes: int, steps: int = STEPS, brokers: int = 1) -> Figures:
    """Explore workloads from `seed` on until there were so many states."""
    figures, started = Figures(), time.monotonic()
    with ProcessPoolExecutor(processes) as pool:
        while figures.states < states:
            first = seed + figures.workloads
            seeds = range(first, first + 2 * processes)
            for found in pool.map(_one, seeds, [steps] * len(seeds), [brokers] * len(seeds)):
                figures += found
                for violation in found.violations[:5]:
                    print("VIOLATION", violation[:400])
            print(f"{time.monotonic() - started:6.0f} s: {figures}", flush=True)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--brokers", type=int, default=1)
    parser.add_argument("--replay", nargs="+", metavar=("SEED", "NAME"))
    arguments = parser.parse_args()
    if arguments.replay:
        logging.basicConfig(level=logging.INFO)
        replay(int(arguments.replay[0]), arguments.replay[1:], arguments.steps, arguments.brokers)
        return 0
    print(f"seed {arguments.seed}, {date.today()}", flush=True)
    figures = run(arguments.states, arguments.seed, arguments.processes, arguments.steps, arguments.brokers)
    print(figures)
    return 1 if figures.violations else 0


if __name__ == "__main__":
    sys.exit(main())
