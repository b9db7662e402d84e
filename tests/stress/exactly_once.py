"""A loop of kill -9 over transactions: a process writes, transforms and pipes in transactions, is killed, and the next one looks.

    python -m tests.stress.exactly_once --cycles 1000 --seed 1
    python -m tests.stress.exactly_once --cycles 200 --seed 1 --brokers 3

Each cycle a new process (`exactly_once_child`) opens the same directory, tells what is in it, then works until it is killed: while
it opens, or at any moment after that. `tests/transaction_history.py` says what must be so: nothing open or aborted is seen, what was
committed is whole, and each record that a group has consumed had its effect exactly once. When a directory is left for a new one, its
last process runs until all is consumed. A seed repeats the settings and the moments, not what the machine makes of them. No
promise is made of a power loss here: it needs `sync=True` (`tests/sim/transactions.py`).
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import streamlog
from tests.transaction_history import Place, Transaction, TransactionHistory, Violation, check_effects, demand

from .cycles import main
from .cycles import run as run_cycles
from .exactly_once_child import EFFECTS, LOOPS, PIPE, TOPICS
from .processes import JournalReader, Zygote

# A directory is left for a new one after so many cycles.
LIVES = ((1, 5, 25), (2, 3, 2))
_CHILD = "tests.stress.exactly_once_child"
_LONGEST = 90.0


@dataclass
class Figures:
    """What a run adds up to."""

    cycles: int = 0
    directories: int = 0
    while_opening: int = 0
    transformed: int = 0
    piped: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return (
            f"{self.cycles:,} cycles in {self.directories:,} directories, killed {self.while_opening:,} times while opening, "
            f"{self.counts['committed']:,} transactions committed and {self.counts['aborted']:,} aborted, {self.counts['undecided']:,} "
            f"killed while they were committing, {self.transformed:,} records transformed, {self.piped:,} piped"
        )


def effects(place: Place, offset: int, head: str) -> list[str]:
    return [f"{place[1]}/{offset}/{n}" for n in range(EFFECTS[offset % 4])]


class Directory:
    """What is known of one directory over all its processes."""

    def __init__(self) -> None:
        self.history = TransactionHistory()
        self._transactions: dict[str, Transaction] = {}
        self.counts: Counter[str] = Counter()
        self.transformed = self.piped = 0

    def note(self, lines: list[list[str]]) -> None:
        """Take in what a process has said, in its order."""
        for what, *words in lines:
            getattr(self, f"_note_{what}")(*words)

    def _note_ready(self) -> None:
        pass

    def _note_fenced(self, transactional_id: str, instance: str) -> None:
        self.history.fenced(transactional_id, int(instance))

    def _note_begin(self, transactional_id: str, instance: str, reference: str) -> None:
        self._transactions[reference] = self.history.begin(transactional_id, int(instance))

    def _note_sends(self, reference: str, topic: str, partition: str, head: str) -> None:
        self.history.sends(self._transactions[reference], (topic, int(partition)), head)

    def _note_positions(self, reference: str, group: str, topic: str, partition: str, offset: str) -> None:
        self.history.positions(self._transactions[reference], group, {(topic, int(partition)): int(offset)})

    def _note_commits(self, reference: str) -> None:
        self.counts["undecided"] += 1
        self.history.commits(self._transactions[reference])

    def _note_committed(self, reference: str) -> None:
        self.counts["undecided"] -= 1
        self.history.committed(self._transactions[reference])

    def _note_aborted(self, reference: str) -> None:
        self.history.aborted(self._transactions[reference])

    def _note_given(self, topic: str, partition: str, offset: str, head: str) -> None:
        self.history.given((topic, int(partition)), int(offset), head)

    def process_ended(self) -> None:
        self.history.process_ended()
        self._transactions.clear()

    def check(self, found: dict[str, Any], *, is_drained: bool = False) -> None:
        """Compare what a process has found with all that is known. Nothing is open then."""
        history = self.history
        for topic, partitions in TOPICS.items():
            for n in range(partitions):
                if topic != "piped":  # what the pipe does in its transactions is not told
                    key = f"{topic}-{n}"
                    history.see_all((topic, n), found["read_uncommitted"][key])
                    history.see_committed((topic, n), found["read_committed"][key], found["ends"][key])
        for partition, position in found["positions"][LOOPS].items():
            history.see_position(LOOPS, ("in", int(partition)), position)
        history.settled()
        self.transformed = self._check_effects(found, LOOPS, "out")
        self.piped = self._check_effects(found, PIPE, "piped")
        if is_drained:
            total = sum(len(history.contents(("in", n))) for n in range(TOPICS["in"]))
            demand(
                self.transformed == self.piped == total,
                f"of {total} records {self.transformed} are transformed and {self.piped} piped",
            )

    def _check_effects(self, found: dict[str, Any], group: str, sink: str) -> int:
        return check_effects(
            {("in", n): self.history.contents(("in", n)) for n in range(TOPICS["in"])},
            {("in", int(partition)): position for partition, position in found["positions"][group].items()},
            {
                (sink, n): [head.partition("@")[0] for _, head in found["read_committed"][f"{sink}-{n}"]]
                for n in range(TOPICS[sink])
            },
            effects,
        )


class ExactlyOnce:
    """The loop over one directory after the other; the one in which something is wrong stays."""

    def __init__(self, work: Path, seed: int, brokers: int = 1) -> None:
        self.figures = Figures()
        self._brokers = brokers
        self._work = work
        self._seed = seed
        self._rng = random.Random(f"exactly once {seed}")
        self._errors = work / "stderr"
        self._path = work / "data"
        self._directory = Directory()

    def run(self, cycles: int) -> None:
        with Zygote(self._errors, _CHILD) as zygote:
            left = 0
            for cycle in range(cycles):
                if not left:
                    [left] = self._rng.choices(*LIVES)
                    shutil.rmtree(self._path, ignore_errors=True)
                    self._directory = Directory()
                    self.figures.directories += 1
                left -= 1
                self._cycle(zygote, cycle, drains=False)
                self.figures.cycles += 1
                if not left or cycle == cycles - 1:
                    self._cycle(zygote, cycle + 1, drains=True)
                    self._leave()
                    left = 0

    def _cycle(self, zygote: Zygote, cycle: int, *, drains: bool) -> None:
        rng = self._rng
        folder = self._work / f"cycle-{cycle % 4}"  # the last few stay, to look at after a failure
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        process = zygote.start(f"{_CHILD}:live", str(self._path), str(folder), self._seed, cycle, self._brokers, drains)
        journal = JournalReader(folder / "journal")
        said: list[list[str]] = []
        if not drains:
            if rng.random() < 0.15:
                time.sleep(rng.uniform(0.0, 0.06))
            else:
                said += journal.wait_for("ready", process, _LONGEST)
                time.sleep(rng.choice([rng.uniform(0.0, 0.03), rng.uniform(0.05, 0.5)]))
            process.kill()
        code = process.wait(_LONGEST)
        said += journal.lines()
        if code != (0 if drains else -signal.SIGKILL):
            raise Violation(f"the process ended with {code}:\n{self._errors.read_text()[-3000:]}")
        if ["ready"] in said:
            self._directory.check(json.loads((folder / "report").read_text()))
        else:
            self.figures.while_opening += 1
        self._directory.note(said)
        if drains:
            self._directory.check(json.loads((folder / "drained").read_text()), is_drained=True)
        self._directory.process_ended()

    def _leave(self) -> None:
        """What the directory adds up to; and it verifies."""
        report = streamlog.verify(self._path)
        demand(report.ok, f"verify, after the last close: {report}")
        directory = self._directory
        self.figures.counts += directory.counts + directory.history.counts
        self.figures.transformed += directory.transformed
        self.figures.piped += directory.piped


def run(cycles: int, seed: int, work: Path, brokers: int = 1) -> Figures:
    """Run the loop in `work`. Raises cycles.Violation, with the seed and the cycle, when a promise is broken."""
    return run_cycles(ExactlyOnce(work, seed, brokers), cycles, seed, work).figures


if __name__ == "__main__":
    sys.exit(main("tests.stress.exactly_once", str(__doc__).splitlines()[0], 1000, ExactlyOnce))
