"""A loop of kill -9: a process works on a log, is killed at any moment, and the next one finds everything again.

    python -m tests.stress.kill_cycles --cycles 5000 --seed 1

Each cycle a new process (`kill_child`) opens the same directory, tells what is in it, then sends, compacts, deletes,
commits from several threads with settings drawn from the seed, until it is killed: while it opens, at work, or while
it closes. `kill_history` compares. Now and then the whole log is read again and verified as the kill left it, or
everything derived is removed first. A seed repeats the settings and the moments, not what the machine makes of them.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import streamlog

from .kill_history import History, Violation
from .processes import JournalReader, Zygote

# A directory is left for a new one after so many cycles: a log that has just been made can be killed too.
LIVES, HOW_OFTEN = (1, 3, 200), (8, 3, 1)
# A log is verified at the first cycle that finds one, so many cycles after the last time.
VERIFY_EVERY = 10
# Every so many cycles the process is killed as soon as it has started, so that each run has kills of an opening.
KILL_AT_ONCE_EVERY = 10
_CHILD = "tests.stress.kill_child"
_DERIVED = ("*.index", "published")
_LONGEST = 30.0


@dataclass
class Figures:
    """What a run adds up to."""

    cycles: int = 0
    directories: int = 0
    acknowledged: int = 0
    while_opening: int = 0
    while_closing: int = 0
    closed: int = 0
    verified: int = 0

    def __str__(self) -> str:
        return (
            f"{self.cycles:,} cycles in {self.directories:,} directories, {self.acknowledged:,} records acknowledged, "
            f"killed {self.while_opening:,} times while opening, {self.while_closing:,} while closing, "
            f"{self.closed:,} closed in time, {self.verified:,} times verified"
        )


class KillCycles:
    """The loop over one directory after the other; the one in which something is wrong stays."""

    def __init__(self, work: Path, seed: int) -> None:
        self.figures = Figures()
        self._work = work
        self._seed = seed
        self._rng = random.Random(f"kill cycles {seed}")
        self._errors = work / "stderr"
        self._path = work / "data"
        self._history = History()
        self._verify_from = VERIFY_EVERY

    def run(self, cycles: int) -> None:
        with Zygote(self._errors, _CHILD) as zygote:
            left = 0
            for cycle in range(cycles):
                if not left:
                    [left] = self._rng.choices(LIVES, HOW_OFTEN)
                    shutil.rmtree(self._path, ignore_errors=True)
                    self._history = History()
                    self.figures.directories += 1
                left -= 1
                before = self._history.acknowledged
                self._cycle(zygote, cycle)
                self.figures.cycles += 1
                self.figures.acknowledged += self._history.acknowledged - before

    def _cycle(self, zygote: Zygote, cycle: int) -> None:
        rng = self._rng
        verifies = cycle >= self._verify_from and (self._path / "streamlog.json").exists()
        if verifies:
            self._verify()
            self._verify_from = cycle + VERIFY_EVERY
        if rng.random() < 0.05:
            self._remove_what_is_derived()
        folder = self._work / f"cycle-{cycle % 4}"  # the last few stay, to look at after a failure
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        positions = self._history.positions(everything=verifies)
        at_once = cycle % KILL_AT_ONCE_EVERY == 0
        sends = cycle % KILL_AT_ONCE_EVERY == 1
        dies_opening = (rng.random() < 0.2 or at_once) and not sends
        closes = rng.random() < 0.2 and not sends
        close_after = rng.uniform(0.002, 0.04) if closes else None
        process = zygote.start(
            f"{_CHILD}:live", str(self._path), str(folder), self._seed, cycle, positions, close_after
        )
        journal = JournalReader(folder / "journal")
        said: list[list[str]] = []
        if dies_opening:
            time.sleep(0.0 if at_once else rng.uniform(0.0, 0.03))
        else:
            said += journal.wait_for("ready", process, _LONGEST)
            if close_after is not None:
                said += journal.wait_for("closing", process, _LONGEST)
                time.sleep(rng.choice([0.0, rng.uniform(0.0, 0.006), 0.2]))
            else:
                if sends:
                    said += journal.wait_for("sent", process, _LONGEST)
                time.sleep(rng.uniform(0.002, 0.06))
        process.kill()
        code = process.wait(_LONGEST)
        said += journal.lines()
        self._look_back(code, said, folder)

    def _look_back(self, code: int, said: list[list[str]], folder: Path) -> None:
        """What the process found, and then what it did."""
        if code == 0:
            self.figures.closed += 1
        elif code != -signal.SIGKILL:
            raise Violation(f"the process ended with {code}:\n{self._errors.read_text()[-3000:]}")
        if ["ready"] not in said:
            self.figures.while_opening += 1
            return
        if code and ["closing"] in said:
            self.figures.while_closing += 1
        self._history.check(json.loads((folder / "report").read_text()))
        self._history.note(said)

    def _verify(self) -> None:
        """Check the directory as the kill left it."""
        report = streamlog.verify(self._path)
        if not report.ok:
            raise Violation(f"verify, before the next open: {report}")
        self.figures.verified += 1

    def _remove_what_is_derived(self) -> None:
        for pattern in _DERIVED:
            for path in self._path.rglob(pattern):
                path.unlink()


def run(cycles: int, seed: int, work: Path) -> Figures:
    """Run the loop in `work`. Raises Violation, with the seed and the cycle, when a promise is broken."""
    loop = KillCycles(work, seed)
    try:
        loop.run(cycles)
    except Exception as error:
        where = f"seed {seed}, cycle {loop.figures.cycles}: {error}; the files, and stderr, are in {work}"
        raise Violation(where) from error
    return loop.figures


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.stress.kill_cycles", description=__doc__.splitlines()[0])
    parser.add_argument("--cycles", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args()
    command = f"python -m tests.stress.kill_cycles --cycles {options.cycles} --seed {options.seed}"
    sys.stdout.write(f"{command}\n")
    sys.stdout.flush()
    work = Path(tempfile.mkdtemp(prefix="kill-cycles-"))
    began = time.monotonic()
    try:
        figures = run(options.cycles, options.seed, work)
    except Violation as violation:
        sys.stdout.write(f"VIOLATION: {violation}\n")
        return 1
    shutil.rmtree(work)
    took = time.monotonic() - began
    sys.stdout.write(f"{date.today()}: {command}: {figures}, 0 violations, {took:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
