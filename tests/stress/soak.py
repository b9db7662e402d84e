"""A program that works for long, with threads and processes, and is as large at its end as after its first minutes.

    python -m tests.stress.soak --seconds 600 --seed 1

It goes in rounds. In each of them producers send, members of a group come and go, workers handle jobs and set some aside,
topics are made, read by groups of their own and deleted, logs are opened and closed; retention, compaction and
`delete_records` keep the directory small. Processes read along all the time. Between the rounds nothing runs, and what
the program takes is counted: anonymous memory, descriptors, threads, files. A value says who sent it, to which partition,
and which number it has there, so every reader checks that none is missing, and none comes twice.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import streamlog

from .processes import JournalReader, Zygote, head_of, value_of
from .soak_follower import Order, Size

ROUND_S = 5.0
PARTITIONS = 3
PRODUCERS = 3
MEMBERS = 3
FOLLOWERS = 2
_LONGEST = 60.0
_FOLLOWER = "tests.stress.soak_follower"
TOPICS: dict[str, dict[str, Any]] = {
    "events": {"partitions": PARTITIONS, "segment_bytes": 1 << 16},
    "jobs": {"partitions": PARTITIONS, "segment_bytes": 1 << 16},
    "bounded": {"partitions": 1, "retention_bytes": 1 << 17},
    "table": {"partitions": 1, "cleanup_policy": "compact", "segment_bytes": 1 << 15},
}


class Violation(AssertionError):
    """Something was lost, came twice, or was not given back."""


def demand(condition: object, message: str) -> None:
    if not condition:
        raise Violation(message)


@dataclass
class Soak:
    """What was sent and handled so far, and what the program took after each round."""

    path: Path
    rng: random.Random
    sent: dict[str, Counter[tuple[str, int]]] = field(default_factory=lambda: {"events": Counter(), "jobs": Counter()})
    read: Order = field(default_factory=Order)
    jobs: Counter[tuple[str, int]] = field(default_factory=Counter)
    aside: int = 0
    sizes: list[Size] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._errors: list[BaseException] = []
        self.log = streamlog.open(self.path)
        for name, settings in TOPICS.items():
            self.log.create_topic(name, **settings)

    # -- rounds --------------------------------------------------------------------------------------

    def round(self, seconds: float) -> None:
        """Everything at once for a while, then nothing, and a look at what is left of it."""
        self._stopping.clear()
        actors: list[Callable[[random.Random], None]] = [
            *(lambda rng, n=n: self._produce(rng, n) for n in range(PRODUCERS)),
            *(self._be_member for _ in range(MEMBERS)),
            self._work, self._come_and_go, self._keep_small, self._open_and_close,
        ]  # fmt: skip
        threads = [self._start(actor) for actor in actors]
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._errors:
            time.sleep(0.05)
        self._stopping.set()
        for thread in threads:
            thread.join(_LONGEST)
            demand(not thread.is_alive(), f"a thread is still at it {_LONGEST:.0f} s after the end of its round")
        if self._errors:
            raise self._errors[0]
        gc.collect()
        self.sizes.append(Size.now())

    def _start(self, actor: Callable[[random.Random], None]) -> threading.Thread:
        rng = random.Random(self.rng.random())

        def run() -> None:
            try:
                while not self._stopping.is_set():
                    actor(rng)
            except BaseException as error:
                self._errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    # -- what each thread does -----------------------------------------------------------------------

    def _produce(self, rng: random.Random, number: int) -> None:
        """A producer's life: it is the only one that counts for its number."""
        name, topic = f"p{number}", rng.choice(["events", "jobs"])
        with self.log.producer(
            linger_ms=rng.choice([0, 1, 5]), compression_type=rng.choice([None, "gzip"])
        ) as producer:
            for _ in range(rng.randrange(50)):
                partition = rng.randrange(PARTITIONS)
                count = self.sent[topic][name, partition]
                many = rng.choice([1, 1, 5])
                values = [value_of(f"{name}.{partition}.{count + n}", rng.randrange(200)) for n in range(many)]
                producer.send_many(topic, values, partition=partition)
                self.sent[topic][name, partition] += many
                self.counts["sent"] += many
                producer.send("bounded", value_of("b", rng.randrange(400)))
                producer.send("table", value_of("t", 100), key=b"k%d" % rng.randrange(50))
                time.sleep(0.002)

    def _be_member(self, rng: random.Random) -> None:
        """A member's life. It finishes all that it was handed, so nothing comes twice."""
        with self.log.consumer("events", group="readers", max_poll_records=rng.choice([10, 200])) as member:
            for _ in range(rng.randrange(1, 30)):
                for record in member.poll(timeout=0.02):
                    self.read.next(record.partition, head_of(record.value))
                    self.counts["read"] += 1
                if rng.random() < 0.1:
                    member.commit()

    def _work(self, rng: random.Random) -> None:
        """Workers for a while; some jobs are set aside."""
        workers = self.log.group("workers").start(
            self._handle, "jobs", workers=2, on_error="dead_letter", auto_commit_interval_ms=100
        )
        with workers:
            self._stopping.wait(rng.uniform(0.1, 1.0))

    def _handle(self, record: Any) -> None:
        name, partition, number = head_of(record.value).split(".")
        with self._lock:
            self.jobs[name, int(partition)] += 1
            self.counts["jobs"] += 1
            if int(number) % 50 == 0:
                self.aside += 1
                raise ValueError("a job that fails")

    def _come_and_go(self, rng: random.Random) -> None:
        """A topic, a group that reads it, and both are gone again."""
        name = f"passing-{self.counts['topics']}"
        self.counts["topics"] += 1
        topic = self.log.create_topic(name, partitions=2, segment_bytes=1024)
        topic.send_many([b"%d" % n for n in range(60)])
        with self.log.consumer(name, group=f"group of {name}") as consumer:
            found = sum(1 for _ in consumer.until_end())
        demand(found == 60, f"{found} of 60 records of {name} were read")
        self.log.group(f"group of {name}").delete()
        topic.delete()
        time.sleep(0.02)

    def _keep_small(self, rng: random.Random) -> None:
        self.log["bounded"].apply_retention()
        self.log["table"].compact()
        for group, topic in (("readers", "events"), ("workers", "jobs")):
            committed = self.log.group(group).committed()
            done = {name.partition: offset for name, offset in committed.items() if name.topic == topic}
            self.log[topic].delete_records(done)
        self.counts["cleanings"] += 1
        self._stopping.wait(0.1)

    def _open_and_close(self, rng: random.Random) -> None:
        """A log of its own, another handle on the common one, and a reader of that without a group."""
        with streamlog.open() as log:
            log.create_topic("t").send("1")
            demand(len(list(log["t"].read())) == 1, "a record of a temporary log is lost")
        with streamlog.open(self.path) as again, again.consumer("events", "table") as consumer:
            consumer.poll()
        self.counts["opens"] += 2
        time.sleep(0.05)

    # -- the end -------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Everything that was sent is handled, each once; then the log is closed, and is whole."""
        with self.log.consumer("events", group="readers") as member:
            for record in member.until_end():
                self.read.next(record.partition, head_of(record.value))
        self.log.group("workers").run(self._handle, "jobs", workers=2, on_error="dead_letter", until_end=True)
        demand(+self.sent["events"] == +self.read.counts, f"sent {self.sent['events']}, read {self.read.counts}")
        demand(+self.sent["jobs"] == +self.jobs, f"sent {self.sent['jobs']}, handled {self.jobs}")
        letters = sum(1 for _ in self.log["jobs.dead-letters"].read()) if self.aside else 0
        demand(letters == self.aside, f"{self.aside} jobs were set aside, and {letters} are there")
        self.log.close()
        report = streamlog.verify(self.path)
        demand(report.ok, str(report))


def check_flat(what: str, sizes: list[Size], *, memory_mib: float, descriptors: int) -> None:
    """The last third took no more than the middle one, but for what a busy allocator varies by."""
    third = len(sizes) // 3
    middle, last = sizes[third : 2 * third], sizes[-third:]
    for name, slack in (("rss_anon_kib", memory_mib * 1024), ("descriptors", descriptors), ("threads", 0)):
        before, after = (median(getattr(size, name) for size in part) for part in (middle, last))
        series = [getattr(size, name) for size in sizes]
        demand(after <= before + slack, f"{name} of {what} went from {before} to {after}: {series}")


def run(seconds: float, seed: int, work: Path, round_s: float = ROUND_S) -> Soak:
    """A soak of so many seconds, with its followers. Raises Violation."""
    soak = Soak(work / "data", random.Random(f"soak {seed}"))
    rounds = max(6, round(seconds / round_s))
    with Zygote(work / "stderr", _FOLLOWER) as zygote:
        followers = [
            zygote.start(f"{_FOLLOWER}:follow", str(soak.path), str(work), number) for number in range(FOLLOWERS)
        ]
        said = [0] * FOLLOWERS
        journals = [JournalReader(work / f"follower-{number}") for number in range(FOLLOWERS)]
        number = 0
        while number < rounds or min(said) < 6:
            soak.round(seconds / rounds)
            said = [before + len(journal.lines()) for before, journal in zip(said, journals, strict=True)]
            for follower in followers:
                demand(follower.is_alive(), f"a follower ended: {_errors(work)}")
            if number % max(1, rounds // 20) == 0:
                print(f"{number + 1:4} of {rounds} rounds: {soak.sizes[-1]}; {dict(soak.counts)}", flush=True)
            number += 1
        (work / "stop").touch()
        for follower in followers:
            demand(follower.wait(_LONGEST) == 0, f"a follower failed: {_errors(work)}")
    soak.finish()
    slack = 2.0 if seconds >= 300 else 12.0
    check_flat("the owner", soak.sizes, memory_mib=slack, descriptors=6)
    for number in range(FOLLOWERS):
        sizes = [Size(*map(int, words)) for words in JournalReader(work / f"follower-{number}").lines()]
        check_flat(f"follower {number}", sizes, memory_mib=slack, descriptors=6)
    return soak


def _errors(work: Path) -> str:
    return (work / "stderr").read_text()[-4000:]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    given = parser.parse_args()
    print(f"seed {given.seed}, {date.today()}", flush=True)
    with tempfile.TemporaryDirectory() as work:
        soak = run(given.seconds, given.seed, Path(work))
    print(f"{given.seconds:.0f} s: {dict(soak.counts)}, nothing lost; from {soak.sizes[0]} to {soak.sizes[-1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
