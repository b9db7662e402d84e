"""A loop of processes that are killed, from the command line: what `python -m tests.stress.kill_cycles` and its like do."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, Protocol, TypeVar


class Violation(AssertionError):
    """A promise is broken; with the seed and the cycle."""


class Loop(Protocol):
    """`figures` counts what was done, and has `cycles`."""

    figures: Any

    def run(self, cycles: int) -> None: ...


L = TypeVar("L", bound=Loop)


def run(loop: L, cycles: int, seed: int, work: Path) -> L:
    """Run a loop in `work`; returns it. Raises Violation."""
    try:
        loop.run(cycles)
    except Exception as error:
        where = f"seed {seed}, cycle {loop.figures.cycles}: {error}; the files, and stderr, are in {work}"
        raise Violation(where) from error
    return loop


def main(module: str, summary: str, cycles: int, make: Callable[[Path, int, int], Loop]) -> int:
    """The exit code. `make` takes a directory, a seed and a number of brokers; `cycles` is the default.

    Ctrl-C ends the loop early; it prints the figures then too.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=summary)
    parser.add_argument("--cycles", type=int, default=cycles)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--brokers", type=int, default=1)
    options = parser.parse_args()
    command = f"python -m {module} --cycles {options.cycles} --seed {options.seed}"
    if options.brokers > 1:
        command += f" --brokers {options.brokers}"
    sys.stdout.write(f"{command}\n")
    sys.stdout.flush()
    work = Path(tempfile.mkdtemp(prefix="cycles-"))
    began = time.monotonic()
    loop = make(work, options.seed, options.brokers)
    interrupted = ""
    try:
        run(loop, options.cycles, options.seed, work)
    except Violation as violation:
        sys.stdout.write(f"VIOLATION: {violation}\n")
        return 1
    except KeyboardInterrupt:
        interrupted = ", interrupted"
    shutil.rmtree(work)
    took = time.monotonic() - began
    sys.stdout.write(f"{date.today()}: {command}: {loop.figures}, 0 violations, {took:.0f} s{interrupted}\n")
    return 0
