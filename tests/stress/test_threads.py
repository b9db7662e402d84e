"""Real threads that produce and consume in one group while members come and go; the history is checked afterwards.

Every handled record is appended to its history before its member polls again, so the history of a
partition is the order in which the group handled it.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import TopicPartition

pytestmark = pytest.mark.slow
PARTITIONS = 6
KEYS = 24
DEADLINE = 60.0


class PreviousShutdown(Exception):
    """A member that goes without finishing what it has in hand."""


class Run:
    """One log, its producers and members, and what they saw."""

    def __init__(self, log: streamlog.StreamLog, rng: random.Random, *, per_producer: int, crashes: bool) -> None:
        self.log = log
        self.rng = rng
        self.per_producer = per_producer
        self.crashes = crashes
        self.history: dict[TopicPartition, list[Any]] = defaultdict(list)
        self.acknowledged: dict[TopicPartition, list[tuple[int, bytes]]] = defaultdict(list)
        self.errors: list[BaseException] = []
        self.produced = threading.Event()
        self.finished = threading.Event()
        self.until = time.monotonic() + DEADLINE

    def guard(self, work: Any, *arguments: Any) -> threading.Thread:
        def run() -> None:
            try:
                work(*arguments)
            except BaseException as error:
                self.errors.append(error)
                self.finished.set()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def produce(self, number: int, seed: int) -> None:
        rng = random.Random(seed)
        with self.log.producer(linger_ms=rng.choice([0, 1])) as producer:
            deliveries = []
            for n in range(self.per_producer):
                key = f"{number}-{rng.randrange(KEYS)}"
                value = f"{number}:{n}".encode()
                deliveries.append((value, producer.send("t", value, key)))
                if rng.random() < 0.01:
                    producer.flush()
            for value, delivery in deliveries:
                metadata = delivery.result(DEADLINE)
                partition = TopicPartition(metadata.topic, metadata.partition)
                self.acknowledged[partition].append((metadata.offset, value))

    def consume(self, seed: int) -> None:
        """Be one member after the other, each for some polls, until everything is handled."""
        rng = random.Random(seed)
        while not self.finished.is_set():
            assert time.monotonic() < self.until, "the group never came to the end"
            try:
                self.be_member(rng)
            except PreviousShutdown:
                continue

    def be_member(self, rng: random.Random) -> None:
        with self.log.consumer("t", group="g", max_poll_records=rng.choice([1, 10, 200])) as member:
            for _ in range(rng.randrange(1, 40)):
                records = member.poll(timeout=0.02)
                for record in records:
                    self.history[record.topic_partition].append(record)
                    if self.crashes and rng.random() < 0.002:
                        raise PreviousShutdown
                if self.produced.is_set() and not records:
                    self.look_for_the_end()
                if self.finished.is_set():
                    return

    def look_for_the_end(self) -> None:
        handled = sum(len({record.offset for record in list(records)}) for records in list(self.history.values()))
        if handled >= self.total():
            self.finished.set()

    def total(self) -> int:
        return sum(map(len, list(self.acknowledged.values())))

    def go(self, producers: int, consumers: int) -> None:
        self.log.create_topic("t", partitions=PARTITIONS)
        seeds = [self.rng.randrange(2**32) for _ in range(producers + consumers)]
        consuming = [self.guard(self.consume, seeds.pop()) for _ in range(consumers)]
        producing = [self.guard(self.produce, number, seeds.pop()) for number in range(producers)]
        for thread in producing:
            thread.join(DEADLINE)
        self.produced.set()
        for thread in consuming:
            thread.join(DEADLINE)
        assert self.errors == []
        assert not any(thread.is_alive() for thread in producing + consuming)

    def check(self, *, exactly_once: bool) -> None:
        stored = {partition: dict(places) for partition, places in self.acknowledged.items()}
        assert sum(map(len, stored.values())) == self.total(), "two records were acknowledged at one offset"
        assert set(self.history) == set(stored)
        for partition, records in self.history.items():
            counts = Counter(record.offset for record in records)
            assert set(counts) == set(stored[partition]), "a record was lost or made up"
            assert all(stored[partition][record.offset] == record.value for record in records)
            if exactly_once:
                assert set(counts.values()) == {1}, "a record was handled twice in an undisturbed group"
                assert [record.offset for record in records] == sorted(counts)
            self.check_order(records)

    @staticmethod
    def check_order(records: list[Any]) -> None:
        """A reader that forgets what it saw before sees each key in the order in which it was sent."""
        highest: dict[bytes, int] = {}
        seen: set[int] = set()
        for record in records:
            if record.offset in seen:
                continue
            seen.add(record.offset)
            number = int(record.value.split(b":")[1])
            assert highest.get(record.key, -1) < number, record
            highest[record.key] = number


@pytest.mark.parametrize("crashes", [False, True], ids=["undisturbed", "with crashes"])
def test_a_group_with_churn_loses_nothing_and_keeps_the_order_of_each_key(
    tmp_path: Path, rng: random.Random, crashes: bool
) -> None:
    with streamlog.open(tmp_path / "data") as log:
        run = Run(log, rng, per_producer=4000, crashes=crashes)
        run.go(producers=3, consumers=4)
        run.check(exactly_once=not crashes)
        if not crashes:
            assert set(log.group("g").lag().values()) == {0}
    assert streamlog.verify(tmp_path / "data").ok


def test_members_that_die_with_their_threads_hold_nothing_up(tmp_path: Path, rng: random.Random) -> None:
    with streamlog.open(tmp_path / "data") as log:
        topic = log.create_topic("t", partitions=PARTITIONS)
        for partition in range(PARTITIONS):
            topic.send_many([str(n) for n in range(500)], partition=partition).result()
        handled: Counter[tuple[int, int]] = Counter()
        orphans = []

        def live_and_die(seed: int) -> None:
            life = random.Random(seed)
            # A dead thread is a crash: only what was committed by then is not handled again.
            member = log.consumer("t", group="g", max_poll_records=20, auto_commit_interval_ms=0)
            orphans.append(member)
            for _ in range(life.randrange(1, 6)):
                handled.update((record.partition, record.offset) for record in member.poll(timeout=0.02))

        until = time.monotonic() + DEADLINE
        while len(handled) < 500 * PARTITIONS:
            assert time.monotonic() < until, len(handled)
            threads = [threading.Thread(target=live_and_die, args=(rng.randrange(2**32),)) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(DEADLINE)
        assert set(handled) == {(partition, n) for partition in range(PARTITIONS) for n in range(500)}
        for orphan in orphans:
            orphan.close()


def test_consumers_alone_all_see_the_same_while_producers_run(tmp_path: Path) -> None:
    readers, producers, each = 3, 3, 3000
    with streamlog.open(tmp_path / "data") as log:
        log.create_topic("t", partitions=2)
        seen: list[list[Any]] = [[] for _ in range(readers)]

        def read(number: int) -> None:
            with log.consumer("t") as consumer:
                for record in consumer:
                    seen[number].append(record)
                    if len(seen[number]) == producers * each:
                        return

        def produce(number: int) -> None:
            with log.producer(linger_ms=number) as producer:
                for n in range(each):
                    producer.send("t", f"{number}:{n}", str(number))

        threads = [threading.Thread(target=read, args=(n,), daemon=True) for n in range(readers)]
        threads += [threading.Thread(target=produce, args=(n,), daemon=True) for n in range(producers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()
        for partition in range(2):
            stored = list(log["t"].read(partition))
            for records in seen:
                assert [record for record in records if record.partition == partition] == stored
