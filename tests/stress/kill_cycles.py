"""A loop of kill -9: a process works on a log, is killed at any moment, and the next one finds everything again.

    python -m tests.stress.kill_cycles --cycles 5000 --seed 1
    python -m tests.stress.kill_cycles --cycles 1000 --seed 1 --brokers 3

Each cycle a new process (`kill_child`) opens the same directory, tells what is in it, then sends, compacts, deletes,
commits and makes transactions from several threads with settings drawn from the seed, until it is killed: while it opens, at work, or while
it closes. `kill_history` compares. Now and then the whole log is read again and verified as the kill left it, or
everything derived is removed first. With several brokers, they stop and start, leaders and replicas move, and now and then
all replicas are compared; between two cycles, when every replica is in sync, one of their directories is removed, emptied,
or taken away and brought back. A seed repeats the settings and the moments, not what the machine makes of them.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import streamlog

from .cycles import main
from .cycles import run as run_cycles
from .kill_child import COMMITS_EVERY
from .kill_history import History, Violation
from .lost_directories import LostDirectories
from .processes import JournalReader, Zygote

# A directory is left for a new one after so many cycles: a log that has just been made can be killed too.
LIVES, LIVES_OF_BROKERS = ((1, 3, 200), (8, 3, 1)), ((1, 3, 40), (4, 2, 2))
# A log is verified at the first cycle that finds one, so many cycles after the last time.
VERIFY_EVERY = 10
# Every so many cycles the process is killed as soon as it has started, so that each run has kills of an opening.
KILL_AT_ONCE_EVERY = 10
_CHILD = "tests.stress.kill_child"
_DERIVED = ("*.index", "published")
_LONGEST = 120.0  # of a machine that does much else


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
    lost: int = 0
    committed: int = 0
    aborted: int = 0

    def __str__(self) -> str:
        return (
            f"{self.cycles:,} cycles in {self.directories:,} directories, {self.acknowledged:,} records acknowledged, "
            f"{self.committed:,} transactions committed and {self.aborted:,} aborted, "
            f"killed {self.while_opening:,} times while opening, {self.while_closing:,} while closing, "
            f"{self.closed:,} closed in time, {self.verified:,} times verified"
            + (f", {self.lost:,} times without the directory of a broker" if self.lost else "")
        )


class KillCycles:
    """The loop over one directory after the other; the one in which something is wrong stays."""

    def __init__(self, work: Path, seed: int, brokers: int = 1) -> None:
        self._brokers = brokers
        self.figures = Figures()
        self._work = work
        self._seed = seed
        self._rng = random.Random(f"kill cycles {seed}")
        self._errors = work / "stderr"
        self._path = work / "data"
        self._history = History(self._brokers)
        self._verify_from = VERIFY_EVERY
        self._loses = False
        self._directories = self._new_directories()

    def _new_directories(self) -> LostDirectories:
        return LostDirectories(self._path, self._work / "away", self._brokers, self._rng)

    def run(self, cycles: int) -> None:
        with Zygote(self._errors, _CHILD) as zygote:
            left = 0
            for cycle in range(cycles):
                if not left:
                    [left] = self._rng.choices(*(LIVES_OF_BROKERS if self._brokers > 1 else LIVES))
                    shutil.rmtree(self._path, ignore_errors=True)
                    self._history = History(self._brokers)
                    self.figures.directories += 1
                    self._loses = self._brokers > 1 and self._rng.random() < 0.7
                    self._directories = self._new_directories()
                left -= 1
                before, ended = self._history.acknowledged, Counter(self._history.transactions)
                self._cycle(zygote, cycle)
                self.figures.committed += self._history.transactions["committed"] - ended["committed"]
                self.figures.aborted += self._history.transactions["aborted"] - ended["aborted"]
                self.figures.cycles += 1
                self.figures.acknowledged += self._history.acknowledged - before

    def _cycle(self, zygote: Zygote, cycle: int) -> None:
        rng = self._rng
        if self._brokers > 1 and self._loses:
            self.figures.lost += self._directories.lose_one()
        verifies = (
            cycle >= self._verify_from and self._directories.lost is None and any(self._path.rglob("streamlog.json"))
        )
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
        sends = cycle % COMMITS_EVERY == 1
        dies_opening = (rng.random() < 0.2 or at_once) and not sends
        closes = rng.random() < 0.2 and not sends
        close_after = rng.uniform(0.002, 0.04) if closes else None
        process = zygote.start(
            f"{_CHILD}:live", str(self._path), str(folder), self._seed, cycle, positions, close_after,
            self._brokers, self._loses, not self._directories.is_away,
        )  # fmt: skip
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
                for word in ("sent", "decided") if sends else ():
                    if not any(line[:1] == [word] for line in said):
                        said += journal.wait_for(word, process, _LONGEST)
                if self._loses and not self._directories.is_away and rng.random() < 0.6:
                    said += journal.wait_for("level", process, _LONGEST)
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
        self._directories.note(said)
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


def run(cycles: int, seed: int, work: Path, brokers: int = 1) -> Figures:
    """Run the loop in `work`. Raises cycles.Violation, with the seed and the cycle, when a promise is broken."""
    return run_cycles(KillCycles(work, seed, brokers), cycles, seed, work).figures


if __name__ == "__main__":
    sys.exit(main("tests.stress.kill_cycles", str(__doc__).splitlines()[0], 5000, KillCycles))
