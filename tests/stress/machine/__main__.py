"""`python -m tests.stress.machine`: many seeds, or one; see the package."""

from __future__ import annotations

import argparse
import logging
import os
import random
import sys
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from itertools import islice

from .model import Violation
from .operations import STEPS, Operation, format_numbers, generate, parse_numbers
from .program import Program
from .shrink import failure_of, shrink


@dataclass
class Figures:
    """What a run came to."""

    seeds: int = 0
    operations: int = 0
    crashes: int = 0
    strikes: int = 0
    records: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    violations: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: Figures) -> None:
        self.seeds += other.seeds
        self.operations += other.operations
        self.crashes += other.crashes
        self.strikes += other.strikes
        self.records += other.records
        self.errors += other.errors
        self.violations += other.violations

    def __str__(self) -> str:
        errors = ", ".join(f"{name} {count:,}" for name, count in self.errors.most_common(8))
        return (
            f"{self.seeds:,} seeds, {self.operations:,} operations, {self.records:,} records, {self.crashes:,} crashes, "
            f"{self.strikes:,} failed calls to the disk, refusals: {errors or 'none'}: {len(self.violations)} violations"
        )


def explore(seed: int, steps: int = STEPS, without: tuple[str, ...] = ()) -> Figures:
    """One seed, from its beginning to its end or its first violation."""
    operations = generate(seed, steps, without)
    program = Program(seed, without)
    figures = Figures(1, len(operations))
    try:
        program.run(operations)
    except Violation as violation:
        figures.violations.append((seed, str(violation)))
    except Exception:  # of the machine itself
        figures.violations.append((seed, traceback.format_exc(limit=-4)))
    figures.crashes, figures.strikes = program.crashes, program.strikes
    figures.records, figures.errors = len(program.model.sent), Counter(program.errors)
    return figures


def run(first: int, seeds: int, processes: int, steps: int, without: tuple[str, ...]) -> Figures:
    """`seeds` seeds from `first` on."""
    figures, started = Figures(), time.monotonic()
    numbers = iter(range(first, first + seeds))
    with ProcessPoolExecutor(processes) as pool:
        while chunk := list(islice(numbers, 50 * processes)):
            for found in pool.map(explore, chunk, [steps] * len(chunk), [without] * len(chunk), chunksize=5):
                figures.add(found)
                for seed, message in found.violations:
                    print(f"VIOLATION python -m tests.stress.machine --seed {seed}: {message[:600]}", flush=True)
            print(f"{time.monotonic() - started:6.0f} s: {figures}", flush=True)
    return figures


def replay(seed: int, operations: list[Operation], without: tuple[str, ...], *, shrinks: bool) -> int:
    """One seed, told step by step; what is violated, with fewer operations if wanted."""
    found = failure_of(seed, operations, without)
    if found is None:
        print(f"seed {seed}: {len(operations)} operations, no violation")
        return 0
    if shrinks:
        operations = shrink(seed, operations, without)
        found = failure_of(seed, operations, without) or found
    print("\n".join(found[1]))
    print(f"VIOLATION {found[0]}")
    left_out = f" --without {' '.join(without)}" if without else ""
    print(
        f"python -m tests.stress.machine --seed {seed}{left_out} --keep {format_numbers(operation.number for operation in operations)}"
    )
    return 1


def main() -> int:
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets have an order then that is the same every time
        os.execve(
            sys.executable,
            [sys.executable, "-m", __spec__.parent, *sys.argv[1:]],
            {**os.environ, "PYTHONHASHSEED": "0"},
        )
    parser = argparse.ArgumentParser(prog="python -m tests.stress.machine", description=__doc__)
    parser.add_argument("--seed", type=int, help="the only seed, or the first one; a random one if not given")
    parser.add_argument("--seeds", type=int, help="how many; without it one, step by step")
    parser.add_argument("--steps", type=int, default=STEPS, help="operations of each seed")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--keep", type=parse_numbers, help="only these operations, such as 3,8-11")
    parser.add_argument("--without", nargs="*", default=(), help="kinds of operations or faults to leave out")
    parser.add_argument("--shrink", action="store_true", help="leave out what a violation does not need")
    parser.add_argument("--log", action="store_true", help="print what the library logs")
    given = parser.parse_args()
    if given.log:
        logging.basicConfig(level=logging.DEBUG)
    first = given.seed if given.seed is not None else random.SystemRandom().randrange(2**32)
    if given.seeds is None:
        operations = generate(first, given.steps, tuple(given.without))
        kept = [operation for operation in operations if given.keep is None or operation.number in given.keep]
        return replay(first, kept, tuple(given.without), shrinks=given.shrink)
    print(f"seed {first}, {date.today()}", flush=True)
    figures = run(first, given.seeds, given.processes, given.steps, tuple(given.without))
    print(figures)
    return 1 if figures.violations else 0


if __name__ == "__main__":
    sys.exit(main())
