"""Four processes follow a log while its owner rolls, compacts, deletes, reopens, and is killed.

    python -m tests.stress.tailers --changes 10000 --seed 1

Every record says where it belongs and when it was sent, so each follower checks by itself that nothing is torn,
misplaced, missing or early; at the end their tables and the offsets at which each life of the log began are compared
with the owner's. The delay is measured from before `send` to the record in hand, both by CLOCK_MONOTONIC.
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
from bisect import bisect
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import streamlog

from .processes import JournalReader, Process, Zygote
from .tail_reader import WAYS

FOLLOWERS = 4
_OWNER, _READER = "tests.stress.tail_owner", "tests.stress.tail_reader"
_LONGEST = 60.0
# What the owner wrote shortly before it was killed may not have been published; it is once the next owner has opened.
_UNPUBLISHED_NS = 25_000_000


class Violation(AssertionError):
    """A follower was given what it must not get, or not given what it must."""


class Tailing:
    """One run: the owner's processes one after the other, and four followers beside them."""

    def __init__(self, work: Path, seed: int) -> None:
        self.changes: Counter[str] = Counter()
        self._work = work
        self._path = work / "data"
        self._seed = seed
        self._rng = random.Random(f"tailers {seed}")
        self._errors = work / "stderr"
        self._journal = JournalReader(work / "owner-1")
        self._begins: list[tuple[str, int, int]] = []
        self._kills_ns: list[int] = []
        self._results: list[dict[str, Any]] = []

    def run(self, changes: int) -> None:
        with Zygote(self._errors, _OWNER, _READER) as zygote:
            life = 1
            owner = self._start_owner(zygote, life)
            followers = [
                zygote.start(f"{_READER}:follow", str(self._path), str(self._work), self._seed, number)
                for number in range(FOLLOWERS)
            ]
            while self.changes.total() < changes:
                until = time.monotonic() + self._rng.uniform(0.1, 4.0)
                while time.monotonic() < until and self.changes.total() < changes:
                    time.sleep(0.01)
                    self._listen()
                    self._check_running(owner, *followers)
                if self.changes.total() < changes:
                    self._kill(owner)
                    time.sleep(self._rng.choice([0.0, 0.05, 0.3]))
                    life += 1
                    owner = self._start_owner(zygote, life)
            (self._work / "stop").touch()
            for process in (owner, *followers):
                self._expect_end(process, 0)
        self._listen()
        self._compare()

    def _start_owner(self, zygote: Zygote, life: int) -> Process:
        self._journal = JournalReader(self._work / f"owner-{life}")
        owner = zygote.start(f"{_OWNER}:own", str(self._path), str(self._work), self._seed, life)
        self._note(self._journal.wait_for("ready", owner, _LONGEST))
        return owner

    def _kill(self, owner: Process) -> None:
        owner.kill()
        self._expect_end(owner, -signal.SIGKILL)
        self._listen()
        self._kills_ns.append(time.monotonic_ns())
        self.changes["kill"] += 1

    def _check_running(self, *processes: Process) -> None:
        for process in processes:
            if not process.is_alive():
                self._expect_end(process, None)

    def _expect_end(self, process: Process, expected: int | None) -> None:
        code = process.wait(_LONGEST)
        if code != expected:
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise Violation(f"a process ended with {name}:\n{self._errors.read_text()[-3000:]}")

    # -- what is known of the owner ------------------------------------------------------------------

    def _listen(self) -> None:
        self._note(self._journal.lines())

    def _note(self, lines: list[list[str]]) -> None:
        for what, *words in lines:
            if what == "change":
                self.changes[words[0]] += 1
            elif what == "begins":
                self._begins.append((words[1], int(words[0]), int(words[2])))

    # -- the end -------------------------------------------------------------------------------------

    def _compare(self) -> None:
        final = json.loads((self._work / "final").read_text())
        for number in range(FOLLOWERS):
            result = json.loads((self._work / f"result-{number}").read_text())
            if result["table"] != final["table"]:
                raise Violation(
                    f"follower {number} ({WAYS[number]}) has the table {result['table']}, not {final['table']}"
                )
            self._compare_lives(number)
            self._results.append(result)
        report = streamlog.verify(self._path)
        if not report.ok:
            raise Violation(f"verify, at the end: {report}")

    def _compare_lives(self, number: int) -> None:
        """Records of a life lie behind its beginning, those of others before it: no offset ever had two records."""
        begins = {(place, life): end for place, life, end in self._begins}
        for _, place, life, seen_to, offset in JournalReader(self._work / f"follower-{number}").lines():
            if not int(seen_to) <= begins[place, int(life)] <= int(offset):
                raise Violation(
                    f"follower {number}: {place} had been read up to {seen_to} when {offset} of life {life} came, "
                    f"and that life began at {begins[place, int(life)]}"
                )

    def total(self, what: str) -> int:
        """`received`, `read_again`, `jumps` or `passing`, over all followers."""
        return sum(result[what] for result in self._results)

    def delays_ms(self) -> list[float]:
        """From `send` to the record in a follower's hand, the shortest first."""
        return sorted(delay / 1e6 for result in self._results for delay in self._counted(result))

    def __str__(self) -> str:
        delays = self.delays_ms()
        p50, p99, worst = (delays[min(int(len(delays) * share), len(delays) - 1)] for share in (0.5, 0.99, 1.0))
        parts = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in self.changes.most_common())
        return (
            f"{self.changes.total():,} changes ({parts}) under {FOLLOWERS} processes that received "
            f"{self.total('received'):,} records, read {self.total('read_again'):,} again, and found the next one deleted "
            f"{self.total('jumps'):,} times; delay p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {worst:.1f} ms"
        )

    def _counted(self, result: dict[str, Any]) -> list[int]:
        """The delays of records that were not cut off by a kill of the owner."""
        kept = []
        for sent, delay in zip(result["sent_ns"], result["delays_ns"], strict=True):
            at = bisect(self._kills_ns, sent)
            if at == len(self._kills_ns) or self._kills_ns[at] - sent > _UNPUBLISHED_NS:
                kept.append(delay)
        return kept


def run(changes: int, seed: int, work: Path) -> Tailing:
    """One run in `work`. Raises Violation, with the seed, when a follower finds something wrong."""
    tailing = Tailing(work, seed)
    try:
        tailing.run(changes)
    except Exception as error:
        raise Violation(f"seed {seed}: {error}; the files are in {work}") from error
    return tailing


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.stress.tailers", description=__doc__.splitlines()[0])
    parser.add_argument("--changes", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args()
    command = f"python -m tests.stress.tailers --changes {options.changes} --seed {options.seed}"
    sys.stdout.write(f"{command}\n")
    sys.stdout.flush()
    work = Path(tempfile.mkdtemp(prefix="tailers-"))
    began = time.monotonic()
    try:
        figures = str(run(options.changes, options.seed, work))
    except Violation as violation:
        sys.stdout.write(f"VIOLATION: {violation}\n")
        return 1
    shutil.rmtree(work)
    sys.stdout.write(f"{date.today()}: {command}: {figures}, 0 violations, {time.monotonic() - began:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
