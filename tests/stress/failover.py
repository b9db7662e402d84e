"""Brokers are stopped, lose their directories and have failing disks at random, while producers and consumers carry on.

    python -m tests.stress.failover --seconds 600 --seed 1

A log of three to five brokers on real files, with real threads: producers with acks="all" (one record and many, with a
linger and without), one with acks=1, members of a group that come and go, a reader with assigned partitions, and a
process that reads by the log's path. One broker after the other is stopped, has its directory removed or taken away, a
disk that refuses or is full, slow or stuck, and comes back (`failover_faults`); leaders are moved and replicas reassigned
meanwhile. No partition has fewer than `min_insync_replicas` in sync, so nothing may fail that a program asks for.

The ledger (`failover_ledger`) holds every record that was acknowledged or read, and compares: nothing is lost, nothing
changes that was seen, the order of each sender is kept, no commit goes back. Between the rounds everything is in sync
again, each member has its partitions, and memory, descriptors and threads are what they were. At the end each replica is
read by itself. A seed repeats the settings and what is drawn, not what the machine makes of them.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import random
import shutil
import sys
import tempfile
import threading
import time
import traceback
from array import array
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import streamlog
from streamlog import CommitFailedError, StorageError, StreamlogError, TopicPartition

from .failover_faults import KINDS, LAG_MS, LONGEST_S, Saboteur, StressedDisk, await_until
from .failover_ledger import Ledger, demand
from .processes import JournalReader, Zygote, head_of, value_of
from .soak import check_flat
from .soak_follower import Size

ROUND_S = 5.0
PARTITIONS = 4
PRODUCERS = 3
MEMBERS = 2
GROUP = "readers"
_READER = "tests.stress.failover_reader"
EVENTS = [TopicPartition("events", number) for number in range(PARTITIONS)]
WEAK = TopicPartition("weak", 0)


class Sent:
    """What was sent and not asked about yet."""

    def __init__(self, name: TopicPartition, heads: list[str], delivery: Any, epoch: int) -> None:
        self.name = name
        self.heads = heads
        self.delivery = delivery
        self.epoch = epoch


class Failover:
    """The log under stress, and everything that works on it."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.rng = random.Random(f"failover {seed}")
        self.ledger = Ledger()
        self.counts: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        """Of consumers."""
        self.send_ms: list[float] = []
        self.sizes: list[Size] = []
        self._numbers: Counter[tuple[str, TopicPartition]] = Counter()
        self._handled = dict.fromkeys(EVENTS, 0)
        self._committed: dict[TopicPartition, int] = {}
        self._position = dict.fromkeys([*EVENTS, WEAK], 0)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._failures: list[BaseException] = []
        self._disk = StressedDisk()
        self.brokers, self.sync = self.rng.choice((3, 3, 4, 5)), self.rng.random() < 0.3
        self.log = streamlog.open(
            path, brokers=self.brokers, sync=self.sync, disk=self._disk, replica_lag_time_max_ms=LAG_MS
        )
        self.log.create_topic("events", partitions=PARTITIONS, segment_bytes=1 << 16)
        self.log.create_topic("weak", segment_bytes=1 << 16)
        self.saboteur = Saboteur(self.log, self._disk, self._stopping)

    # -- rounds --------------------------------------------------------------------------------------

    def round(self, seconds: float, kind: str | None = None) -> None:
        """Everything at once for a while; then everything comes to rest, and is looked at."""
        self._stopping.clear()
        started: list[threading.Thread] = [
            *(self._start(self._produce, number) for number in range(PRODUCERS)),
            self._start(self._produce_weakly),
            *(self._start(self._consume, self._be_member) for _ in range(MEMBERS)),
            self._start(self._consume, self._read_assigned),
            self._start(self._look_along),
            self._start(self._move),
            self._start(self._hurt, kind),
        ]
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._failures:
            time.sleep(0.05)
        self._stopping.set()
        for thread in started:
            thread.join(2 * LONGEST_S)
            demand(not thread.is_alive(), f"{thread.name} is still at it after the end of its round: {_where(thread)}")
        if self._failures:
            raise self._failures[0]
        self._rest()

    def _start(self, actor: Callable[..., None], *arguments: Any) -> threading.Thread:
        rng = random.Random(self.rng.random())

        def run() -> None:
            try:
                while not self._stopping.is_set():
                    actor(rng, *arguments)
            except BaseException as error:
                error.add_note(f"in {actor.__name__}")
                self._failures.append(error)

        thread = threading.Thread(target=run, name=actor.__name__, daemon=True)
        thread.start()
        return thread

    def _rest(self) -> None:
        """Nothing works any more: all partitions come in sync, the group is read to its end, and no member is left."""
        await_until(self._is_in_sync, "not everything is in sync", lambda: str(self.log.metrics()))
        self._look(complete=True)
        for name in (*EVENTS, WEAK):
            self.ledger[name].check_doubles()
        with self.log.consumer("events", group=GROUP, enable_auto_commit=False) as member:
            for record in member.until_end(timeout=LONGEST_S):
                self._handle(record)
            demand(member.assignment() == set(EVENTS), f"the only member has {member.assignment()}")
            members = self.log.group(GROUP).members()
            demand(len(members) == 1, f"the only member is one of {members}")
            member.commit()
        for name in EVENTS:
            end = self.ledger[name].checked
            demand(self._handled[name] == end, f"{name} was handled up to {self._handled[name]} of {end}")
        demand(not self.log.group(GROUP).members(), f"members are left: {self.log.group(GROUP).members()}")
        gc.collect()
        self.sizes.append(Size.now())

    def _is_in_sync(self) -> bool:
        lacking = self.log.metrics()["replication"]
        return not lacking["offline_partitions"] and not lacking["under_replicated_partitions"]

    # -- sending -------------------------------------------------------------------------------------

    def _epoch(self, name: TopicPartition) -> int:
        return int(self.log.metrics()["topics"][name.topic][str(name.partition)]["leader_epoch"])

    def _heads(self, sender: str, name: TopicPartition, count: int) -> list[str]:
        first = self._numbers[sender, name]
        self._numbers[sender, name] += count
        return [f"{sender}.{name.partition}.{number}" for number in range(first, first + count)]

    def _produce(self, rng: random.Random, number: int) -> None:
        """One producer's life: whatever happens to brokers, each record is acknowledged, and no error is raised."""
        pending: list[Sent] = []
        linger = rng.choice([0, 0, 5])
        with self.log.producer(linger_ms=linger, compression_type=rng.choice([None, None, "gzip"])) as producer:
            for _ in range(rng.randrange(1, 60)):
                name = rng.choice(EVENTS)
                heads = self._heads(f"p{number}", name, rng.choice([1, 1, 1, 7]))
                epoch = self._epoch(name)
                values = [value_of(head, rng.randrange(300)) for head in heads]
                began = time.monotonic()
                if len(heads) == 1:
                    delivery: Any = producer.send("events", values[0], partition=name.partition)
                else:
                    delivery = producer.send_many("events", values, partition=name.partition)
                if not linger:
                    self.send_ms.append((time.monotonic() - began) * 1000)
                pending.append(Sent(name, heads, delivery, epoch))
                if rng.random() < (0.1 if linger else 1):
                    self._settle(pending)
                time.sleep(rng.choice([0, 0.001, 0.004]))
            self._settle(pending)

    def _settle(self, pending: list[Sent]) -> None:
        for sent in pending:
            found = sent.delivery.result(2 * LONGEST_S)
            place = self.ledger[sent.name]
            if self._epoch(sent.name) - sent.epoch > 1:
                place.may_double(sent.heads)
            for head, metadata in zip(sent.heads, found if len(sent.heads) > 1 else [found], strict=True):
                place.acknowledged(metadata.offset, head)
            self.counts["acknowledged"] += len(sent.heads)
        pending.clear()

    def _produce_weakly(self, rng: random.Random) -> None:
        """acks=1: what only a leader had may be lost with it, and nothing else goes wrong."""
        with self.log.producer(acks=1, linger_ms=rng.choice([0, 5])) as producer:
            for _ in range(rng.randrange(1, 60)):
                [head] = self._heads("w", WEAK, 1)
                epoch = self._epoch(WEAK)
                producer.send("weak", value_of(head, 50), partition=0).result(2 * LONGEST_S)
                if self._epoch(WEAK) - epoch > 1:
                    self.ledger[WEAK].may_double([head])
                self.counts["weakly"] += 1
                time.sleep(0.004)

    # -- reading -------------------------------------------------------------------------------------

    def _tolerate(self, error: StreamlogError, what: str) -> None:
        """Count what a consumer meets while a partition has no leader, or its leader's disk fails: it can try again."""
        if not (error.retriable or isinstance(error, StorageError)):
            raise error
        self.errors[f"{what}: {type(error).__name__}"] += 1

    def _consume(self, rng: random.Random, life: Callable[[random.Random], None]) -> None:
        try:
            life(rng)
        except StreamlogError as error:
            self._tolerate(error, life.__name__)

    def _handle(self, record: Any) -> None:
        name = record.topic_partition
        self.ledger[name].know(record.offset, head_of(record.value))
        with self._lock:
            due = self._handled[name]
            demand(record.offset <= due, f"offset {record.offset} of {name} was handed out before {due}")
            self._handled[name] = max(due, record.offset + 1)

    def _be_member(self, rng: random.Random) -> None:
        """A member's life. It may be handed again what was not committed, and never skips a record."""
        with self.log.consumer(
            "events", group=GROUP, enable_auto_commit=False, max_poll_records=rng.choice([10, 200])
        ) as member:
            for _ in range(rng.randrange(1, 60)):
                for record in member.poll(timeout=0.02):
                    self._handle(record)
                    self.counts["handled"] += 1
                if rng.random() < 0.2:
                    self._commit(member)
                if self._stopping.is_set():
                    break

    def _commit(self, member: streamlog.Consumer[Any, Any]) -> None:
        try:
            done = {name: member.position(name) for name in member.assignment()}
            member.commit(done)
        except CommitFailedError:
            return  # it has lost a partition meanwhile
        with self._lock:
            for name, offset in done.items():
                self._committed[name] = max(self._committed.get(name, 0), offset)
        self.counts["commits"] += 1

    def _read_assigned(self, rng: random.Random) -> None:
        with self.log.consumer(max_poll_records=rng.choice([50, 1000])) as reader:
            reader.assign(EVENTS)
            due = {name: max(0, self.ledger[name].checked - rng.randrange(200)) for name in EVENTS}
            for name, offset in due.items():
                reader.seek(name, offset)
            for _ in range(rng.randrange(1, 100)):
                for record in reader.poll(timeout=0.02):
                    name, place = record.topic_partition, self.ledger[record.topic_partition]
                    place.know(record.offset, head_of(record.value))
                    demand(
                        record.offset == due[name] or due[name] < record.offset <= place.deleted_to,
                        f"offset {record.offset} of {name} came where {due[name]} was due",
                    )
                    due[name] = record.offset + 1
                if self._stopping.is_set():
                    break

    def _look_along(self, rng: random.Random) -> None:
        """Read what is new in order; see that commits stay; delete what is read, now and then."""
        try:
            self._look(complete=True)
            self._check_commits()
        except StreamlogError as error:
            self._tolerate(error, "look")
        if rng.random() < 0.1:
            name = rng.choice(EVENTS)
            place = self.ledger[name]
            before = min(place.checked, self._committed.get(name, 0))
            place.deleted_to = max(place.deleted_to, before)
            try:
                self.log["events"].delete_records({name.partition: before})
                self.counts["deletions"] += 1
            except StreamlogError as error:
                self._tolerate(error, "delete_records")
        self._stopping.wait(0.2)

    def _look(self, *, complete: bool) -> None:
        for name in (*EVENTS, WEAK):
            place = self.ledger[name]
            start = max(place.checked, self.log[name.topic].partition(name.partition).log_start_offset)
            for record in self.log[name.topic].read(name.partition, start=start):
                place.look(record.offset, head_of(record.value), complete=complete and name is not WEAK)
        self.counts["looks"] += 1

    def _check_commits(self) -> None:
        with self._lock:
            before = dict(self._committed)
        found = self.log.group(GROUP).committed()
        for name, offset in before.items():
            demand(found.get(name, 0) >= offset, f"{name} was committed at {offset}, and now at {found.get(name)}")

    # -- brokers -------------------------------------------------------------------------------------

    def _move(self, rng: random.Random) -> None:
        """Leaders are moved, and replicas."""
        name = rng.choice([*EVENTS, WEAK, TopicPartition("__consumer_offsets", 0)])
        if name.topic not in {topic.name for topic in self.log.topics(internal=True)}:
            return
        try:
            if rng.random() < 0.7:
                self.log.elect_leader(name, rng.choice([None, *self.log[name.topic].partition(name.partition).isr]))
                self.counts["elections"] += 1
            elif name.topic == "events":
                factor = len(self.log["events"].partition(name.partition).replicas)
                target = rng.sample(range(self.brokers), min(factor, 3))
                moved = self.log.reassign("events", replicas={name.partition: target})
                self.counts["reassignments"] += 1
                if rng.random() < 0.3:
                    self._stopping.wait(rng.random() / 5)
                    moved.cancel()
                else:
                    moved.wait(2 * LONGEST_S)
        except StreamlogError as error:
            self._tolerate(error, "move")
        self._stopping.wait(rng.choice([0.02, 0.1, 0.5]))

    def _hurt(self, rng: random.Random, kind: str | None) -> None:
        self.saboteur.hurt_one(rng, kind)
        self._stopping.wait(rng.choice([0.0, 0.1]))

    # -- the end -------------------------------------------------------------------------------------

    def ends(self) -> dict[str, int]:
        return {f"{name.topic}-{name.partition}": self.ledger[name].checked for name in (*EVENTS, WEAK)}

    def finish(self) -> None:
        """Everything that was acknowledged is there, after a close, at each replica."""
        for name in EVENTS:
            place = self.ledger[name]
            demand(
                place.end <= place.checked, f"{name} was acknowledged up to {place.end}, and ends at {place.checked}"
            )
        registrations = {name: self.log[name.topic].partition(name.partition) for name in EVENTS}
        self.log.close()
        for broker in range(self.brokers):
            with streamlog.open(self.path / f"broker-{broker}", read_only=True) as log:
                for name, info in registrations.items():
                    if broker in info.replicas:
                        self._read_whole(log, name, info.log_start_offset)
        report = streamlog.verify(self.path)
        demand(report.ok, str(report))
        with streamlog.open(self.path) as log:
            for name, info in registrations.items():
                self._read_whole(log, name, info.log_start_offset)

    def _read_whole(self, log: streamlog.StreamLog, name: TopicPartition, start: int) -> None:
        place, due = self.ledger[name], start
        for record in log[name.topic].read(name.partition, start=start):
            demand(record.offset == due, f"offset {record.offset} of {name} came where {due} was due, in {log.path}")
            place.know(record.offset, head_of(record.value))
            due += 1
        demand(due == place.checked, f"{name} ends at {due} in {log.path}, and not at {place.checked}")

    def compare(self, known: dict[str, bytes]) -> None:
        """What another process has read is what was read here."""
        for name in (*EVENTS, WEAK):
            there, here = array("Q", known[f"{name.topic}-{name.partition}"]), self.ledger[name].known()
            differing = [at for at, (a, b) in enumerate(zip(there, here, strict=False)) if a and b and a != b]
            demand(not differing, f"a reader of {name} saw other records at {differing[:5]}")


def _where(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)
    return "".join(traceback.format_stack(frame)) if frame is not None else "it has ended"


def run(seconds: float, seed: int, work: Path, round_s: float = ROUND_S) -> Failover:
    """So many seconds of it, in rounds; the first of them have one kind of fault each. Raises Violation."""
    stress = Failover(work / "data", seed)
    print(f"{stress.brokers} brokers, sync={stress.sync}", flush=True)
    rounds = max(len(KINDS), round(seconds / round_s))
    with Zygote(work / "stderr", _READER) as zygote:
        reader = zygote.start(f"{_READER}:follow", str(stress.path), str(work), [*EVENTS, WEAK])
        for number in range(rounds):
            stress.round(seconds / rounds, KINDS[number] if number < len(KINDS) else None)
            demand(reader.is_alive(), f"the reader ended: {_errors(work)}")
            if number % max(1, rounds // 20) == 0:
                print(f"{number + 1:4} of {rounds} rounds: {stress.sizes[-1]}; {dict(stress.counts)}", flush=True)
        (work / "ends.tmp").write_text(json.dumps(stress.ends()))
        (work / "ends.tmp").rename(work / "ends")
        demand(reader.wait(2 * LONGEST_S) == 0, f"the reader failed: {_errors(work)}")
    stress.compare({each: (work / f"known-{each}").read_bytes() for each in stress.ends()})
    stress.errors.update({f"reader: {name}": n for name, n in json.loads((work / "errors").read_text()).items()})
    stress.finish()
    # The first segments are opened until as many are as may be.
    slack, descriptors = (4.0, 16) if seconds >= 300 else (16.0, 64)
    check_flat("the log", stress.sizes, memory_mib=slack, descriptors=descriptors)
    sizes = [Size(*map(int, words)) for words in JournalReader(work / "reader").lines()]
    check_flat("the reader", sizes, memory_mib=slack, descriptors=descriptors)
    return stress


def _errors(work: Path) -> str:
    return (work / "stderr").read_text()[-4000:]


def quantiles(figures: list[float]) -> str:
    """p50, p99 and max."""
    ordered = sorted(figures)
    return " / ".join(f"{ordered[min(len(ordered) - 1, int(part * len(ordered)))]:.1f}" for part in (0.5, 0.99, 1.0))


def report(stress: Failover) -> list[str]:
    """What a run came to."""
    lines = [f"{dict(stress.counts)}, {dict(stress.saboteur.counts)}"]
    doubles = sum(place.check_doubles() for place in stress.ledger.places.values())
    lines.append(f"{doubles} records twice after two elections at once; consumers met {dict(stress.errors)}")
    for kind, moves in sorted(stress.saboteur.moves.items()):
        lines.append(
            f"leaders elsewhere after {kind!r}: p50 / p99 / max {quantiles([1000 * each for each in moves])} ms of {len(moves)}"
        )
    lines.append(f"a send without a linger took p50 / p99 / max {quantiles(stress.send_ms)} ms")
    lines.append(f"from {stress.sizes[0]} to {stress.sizes[-1]}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    given = parser.parse_args()
    command = f"python -m tests.stress.failover --seconds {given.seconds:g} --seed {given.seed}"
    print(f"{command}, {date.today()}", flush=True)
    work = Path(tempfile.mkdtemp(prefix="streamlog-failover-"))
    logging.basicConfig(filename=work / "log", format="%(relativeCreated)d %(threadName)s %(message)s")
    try:
        stress = run(given.seconds, given.seed, work)
    except BaseException as error:
        traceback.print_exc()
        print(f"VIOLATION: {error}; {command}; the files are in {work}", flush=True)
        os._exit(1)  # threads may be stuck
    shutil.rmtree(work)
    print("\n".join(report(stress)))
    print(f"{date.today()}: {command}: nothing lost")
    return 0


if __name__ == "__main__":
    sys.exit(main())
