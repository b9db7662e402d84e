"""Pipes in a process that is killed again and again: at the end each input has had its effect once.

    python -m tests.stress.pipe_cycles --cycles 1000 --seed 1
    python -m tests.stress.pipe_cycles --cycles 200 --seed 1 --brokers 3

Each cycle a new process opens the same directory. One thread sends numbers to the topic `a`; pipes with a number of workers drawn
from the seed bring them from `a` to `b` and, some of them several times, some to dead letters, from `b` to `c`; a loop with
`log.transaction` brings `c` to `d`. Some of it begins, ends and fails on the way. It is killed at any moment: while it
opens, at work, or while it closes. Every few cycles, and at the end, what is in `b`, `c`, `d` and the dead letters
is compared with what is in `a`: nothing is missing before what the groups have committed, and nothing is there twice.

Several brokers stop and start meanwhile, and other ones lead. Between two cycles, where every replica is in sync, the directory of one
of them is removed, emptied, or taken away and brought back.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import streamlog
from streamlog import CommitFailedError, NotLeaderError, Record, RequestTimedOutError, TopicPartition

from .cycles import Violation, main
from .cycles import run as run_cycles
from .lost_directories import LostDirectories
from .processes import RAISED, Journal, JournalReader, Zygote

_CHILD = "tests.stress.pipe_cycles"
_LONGEST = 60.0
_CHECK_EVERY = 10
# Every so many cycles it is killed only after something has come to `b`, however slow the machine is.
_PIPES_EVERY = 5
PARTITIONS = 3
TOPICS = ("a", "b", "c", "d", "bad")


# -- what is done with a number ---------------------------------------------------------------------------


def to_b(record: Record[Any, Any]) -> bytes:
    """Every seventh is a dead letter."""
    if int(record.value) % 7 == 0:
        raise ValueError("every seventh")
    value: bytes = record.value
    return value


def to_c(record: Record[Any, Any]) -> list[bytes] | None:
    """Nothing of every fifth; of the others one, or two."""
    number = int(record.value)
    return None if number % 5 == 0 else [record.value] * copies(number)


def copies(number: int) -> int:
    return 0 if number % 5 == 0 else 1 + number % 2


# -- the process that is killed ---------------------------------------------------------------------------


def live(
    path: str, folder: str, seed: int, cycle: int, brokers: int, close_after: float | None, rebuilds: bool
) -> None:
    """`rebuilds`: a broker whose directory is missing is started again."""
    say, rng = Journal(f"{folder}/journal"), random.Random(f"{seed}.{cycle}")
    log = streamlog.open(path, sync=rng.random() < 0.2, brokers=brokers)
    for name in TOPICS:
        log.create_topic(name, partitions=1 if name == "bad" else PARTITIONS, exist_ok=True, segment_bytes=1 << 16)
    say("ready")
    closing = threading.Event()

    def guarded(work: Callable[[streamlog.StreamLog, random.Random], None], rng: random.Random) -> None:
        try:
            while not closing.is_set():
                work(log, rng)
        except BaseException as error:
            if not (closing.is_set() and isinstance(error, streamlog.StreamlogError)):
                traceback.print_exc()
                os._exit(RAISED)

    works = [_send, partial(_pipe_to_b, say), _pipe_to_c, _loop_to_d]
    if brokers > 1 and rebuilds:
        works.append(partial(_stop_and_start, say))
    for work in works:
        threading.Thread(target=guarded, args=(work, random.Random(rng.random())), daemon=True).start()
    time.sleep(_LONGEST if close_after is None else close_after)
    closing.set()
    say("closing")
    log.close()


def _send(log: streamlog.StreamLog, rng: random.Random) -> None:
    """Numbers that no one has had: those after the last in each partition."""
    partition = rng.randrange(PARTITIONS)
    start = log["a"].partition(partition).high_watermark
    log["a"].send_many(
        [b"%d" % (number * PARTITIONS + partition) for number in range(start, start + rng.randrange(1, 60))],
        partition=partition,
    )
    time.sleep(rng.choice([0.0, 0.001, 0.005]))


def _pipe_to_b(say: Journal, log: streamlog.StreamLog, rng: random.Random) -> None:
    with streamlog.start_pipe(
        log["a"],
        to_b,
        log["b"],
        group="to-b",
        workers=rng.randrange(1, 4),
        on_error="dead_letter",
        dead_letter_topic="bad",
    ):
        time.sleep(rng.choice([0.005, 0.02, 0.1]))
    if any(log["b"].partition(number).last_stable_offset for number in range(PARTITIONS)):
        say("piped")


def _pipe_to_c(log: streamlog.StreamLog, rng: random.Random) -> None:
    if rng.random() < 0.3:
        streamlog.pipe(log["b"], to_c, log["c"], group="to-c", until_end=True)
    else:
        with streamlog.start_pipe(log["b"], to_c, log["c"], group="to-c", workers=2):
            time.sleep(rng.choice([0.005, 0.02]))


def _stop_and_start(say: Journal, log: streamlog.StreamLog, rng: random.Random) -> None:
    """One broker, or another leader; all replicas are in sync before."""
    for broker in log.brokers:
        broker.start()
    while log.metrics()["replication"]["under_replicated_partitions"]:
        time.sleep(0.001)
    say("level")
    time.sleep(rng.choice([0.0, 0.02, 0.1]))
    if rng.random() < 0.4:
        name = TopicPartition(rng.choice("abcd"), rng.randrange(PARTITIONS))
        with contextlib.suppress(NotLeaderError, RequestTimedOutError):
            log.elect_leader(name, rng.choice(log[name.topic].partition(name.partition).replicas))
        return
    broker = rng.choice(log.brokers)
    say("hurts", broker.id)
    broker.stop()
    time.sleep(rng.choice([0.0, 0.005, 0.02]))


class _Undone(Exception):
    """The program gives up a transaction."""


def _loop_to_d(log: streamlog.StreamLog, rng: random.Random) -> None:
    with log.consumer("c", group="to-d", enable_auto_commit=False) as consumer:
        for _ in range(rng.randrange(1, 30)):
            with contextlib.suppress(_Undone, CommitFailedError), log.transaction("d", consumer=consumer) as producer:
                for record in consumer.poll(timeout=0.01, max_records=rng.choice([1, 20, 500])):
                    producer.send("d", record.value, partition=record.partition)
                if rng.random() < 0.3:
                    raise _Undone


# -- what has come of it ----------------------------------------------------------------------------------


def check(log: streamlog.StreamLog) -> int:
    """Compare the topics; returns how many inputs have come to `b` or to the dead letters. Raises Violation."""
    handled = _handled(log, "to-b", "a")
    fine = Counter({number: 1 for number in handled if number % 7})
    _compare("b", _numbers(log, "b"), fine)
    _compare("bad", _numbers(log, "bad"), Counter({number: 1 for number in handled if number % 7 == 0}))
    _compare("c", _numbers(log, "c"), Counter({n: copies(n) for n in _handled(log, "to-c", "b") if copies(n)}))
    _compare("d", _numbers(log, "d"), Counter(_handled(log, "to-d", "c")))
    until = time.monotonic() + _LONGEST
    while log.transactions() and time.monotonic() < until:  # what was decided may wait for followers
        time.sleep(0.01)
    if log.transactions():
        raise Violation(f"still open: {log.transactions()}")
    return len(handled)


def _handled(log: streamlog.StreamLog, group: str, topic: str) -> list[int]:
    """The inputs before what the group has committed."""
    committed = log.group(group).committed()
    return [
        int(record.value)
        for number in range(PARTITIONS)
        for record in log[topic].read(number)
        if record.offset < committed.get(TopicPartition(topic, number), 0)
    ]


def _numbers(log: streamlog.StreamLog, topic: str) -> Counter[int]:
    return Counter(int(record.value) for record in log[topic].read())


def _compare(topic: str, found: Counter[int], expected: Counter[int]) -> None:
    if found != expected:
        missing, more = expected - found, found - expected
        raise Violation(
            f"{topic}: {len(missing)} are missing, {[*missing][:5]}; {len(more)} are too many, {[*more][:5]}"
        )


@dataclass
class Figures:
    """What a run adds up to."""

    cycles: int = 0
    inputs: int = 0
    lost: int = 0

    def __str__(self) -> str:
        lost = f", {self.lost:,} directories of brokers lost" if self.lost else ""
        return f"{self.cycles:,} processes killed{lost}: {self.inputs:,} inputs, each once"


class PipeCycles:
    """The loop, over one directory."""

    def __init__(self, work: Path, seed: int, brokers: int = 1) -> None:
        self.figures = Figures()
        self._work = work
        self._seed = seed
        self._brokers = brokers
        self._rng = random.Random(f"pipe cycles {seed}")
        self._errors = work / "stderr"
        self._path = work / "data"
        self._directories = LostDirectories(self._path, work / "away", brokers, self._rng)

    def run(self, cycles: int) -> None:
        with Zygote(self._errors, _CHILD) as zygote:
            for cycle in range(cycles):
                self._cycle(zygote, cycle)
                self.figures.cycles += 1
                if (cycle + 1) % _CHECK_EVERY == 0 or cycle == cycles - 1:
                    self._directories.bring_back()
                    with streamlog.open(self._path) as log:
                        self.figures.inputs = check(log) if "bad" in log else 0

    def _cycle(self, zygote: Zygote, cycle: int) -> None:
        rng = self._rng
        if self._brokers > 1:
            self.figures.lost += self._directories.lose_one()
        rebuilds = not self._directories.is_away
        folder = self._work / f"cycle-{cycle % 4}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        close_after = rng.uniform(0.0, 0.1) if rng.random() < 0.2 else None
        pipes = cycle % _PIPES_EVERY == 1
        close_after = None if pipes else close_after
        process = zygote.start(
            f"{_CHILD}:live", str(self._path), str(folder), self._seed, cycle, self._brokers, close_after, rebuilds
        )
        journal = JournalReader(folder / "journal")
        said: list[list[str]] = []
        if pipes:
            said += journal.wait_for("piped", process, _LONGEST)
        elif rng.random() < 0.85:
            said += journal.wait_for("ready" if close_after is None else "closing", process, _LONGEST)
            if self._brokers > 1 and rebuilds and close_after is None and rng.random() < 0.6:
                said += journal.wait_for("level", process, _LONGEST)
        time.sleep(rng.choice([0.0, rng.uniform(0.0, 0.05), rng.uniform(0.0, 0.3)]))
        process.kill()
        code = process.wait(_LONGEST)
        self._directories.note(said + journal.lines())
        if code not in (0, -signal.SIGKILL):
            raise Violation(f"the process ended with {code}:\n{self._errors.read_text()[-3000:]}")


def run(cycles: int, seed: int, work: Path, brokers: int = 1) -> Figures:
    """Run the loop in `work`. Raises cycles.Violation, with the seed and the cycle."""
    return run_cycles(PipeCycles(work, seed, brokers), cycles, seed, work).figures


if __name__ == "__main__":
    sys.exit(main("tests.stress.pipe_cycles", str(__doc__).splitlines()[0], 1000, PipeCycles))
