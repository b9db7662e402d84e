"""What seeds do in fine, line by line: each call to their disks, their story, and the files that are left.

    python -m tests.sim.trace cluster --seed 1 --seeds 3 --steps 100

A seed does the same in every process. Where two runs differ, `diff` of their output shows the first call that they do not share.
"""

from __future__ import annotations

import argparse
import logging
import zlib
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

from . import cluster, transactions
from .disks import Disk
from .seeds import Simulation

SIMULATIONS = {"cluster": cluster.SIMULATION, "transactions": transactions.SIMULATION}


def trace(simulation: Simulation, seed: int, steps: int) -> Iterator[str]:
    """The lines of one seed."""
    calls: list[str] = []
    worlds: list[Any] = []
    struck = Disk._struck

    def noted(self: Disk, op: str, path: str) -> Any:
        if not self.quiet:
            calls.append(f"{op} {path}")
        return struck(self, op, path)

    def make_world(seed: int) -> Any:
        worlds.append(simulation.make_world(seed))
        return worlds[0]

    with patch.object(Disk, "_struck", noted):
        result = simulation._replace(make_world=make_world).explore(seed, steps)
    yield from calls
    yield from result.story
    yield f"{sorted(result.fired.items())} {sorted(result.errors.items())} {result.violation}"
    files = worlds[0].disk.files
    for path in _paths(files, cluster.PATH):
        data = files.read(path)
        yield f"{path}: {len(data)} bytes, {zlib.crc32(data):08x}"


def _paths(files: Any, directory: str) -> Iterator[str]:
    """The logs under a directory; other files have the number of the process in them."""
    for name in sorted(files.listdir(directory)):
        path = f"{directory}/{name}"
        if files.is_dir(path):
            yield from _paths(files, path)
        elif name.endswith(".log"):
            yield path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.trace", description=str(__doc__).splitlines()[0])
    parser.add_argument("simulation", choices=SIMULATIONS)
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    for seed in range(options.seed, options.seed + options.seeds):
        print(f"seed {seed}")
        for line in trace(SIMULATIONS[options.simulation], seed, options.steps):
            print(line)


if __name__ == "__main__":
    main()
