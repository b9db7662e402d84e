"""The replicas of one partition on simulated disks and simulated time, in an order that a seed chooses.

Each broker applies what the controller decides at a moment of its own, so there may be several that take themselves for the
leader. Senders send to any of those. Brokers are killed, lose power or their directory, and come back; clocks advance; the
in-sync set shrinks and grows; leaders are moved. After each step `check` compares what the replicas have with what was
acknowledged and with what readers have seen.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import date
from typing import NamedTuple

from streamlog.config import TopicConfig
from streamlog.errors import NotEnoughReplicasError, StreamlogError
from streamlog.records import columns
from streamlog.records.batch import read_header, seed_of, verify_payload
from streamlog.records.decode import decode
from streamlog.replication import election
from streamlog.replication.fetcher import ReplicaFetcher
from streamlog.replication.partition import Partition
from streamlog.replication.replica_set import NO_LEADER, PartitionRegistration
from streamlog.runtime.api import Completion
from streamlog.runtime.threads import new_lock
from streamlog.storage.log import AppendRequest
from streamlog.storage.recovery.recovery import PreviousShutdown, open_log
from streamlog.storage.tail import LogSnapshot
from streamlog.testing import SimulatedDisk
from streamlog.types import TopicPartition

NAME = TopicPartition("t", 0)
TOPIC_ID = bytes(range(16))
SEED = seed_of(TOPIC_ID, 0)
NOW = 1_700_000_000_000
LAG_MS = 10_000


class Violation(AssertionError):
    """A promise was broken."""


class Sent(NamedTuple):
    """One record that was appended, and the answer of its leader."""

    value: bytes
    offset: int
    answer: Completion[int]


class Simulation:
    """See the module. `fired` counts what happened."""

    def __init__(self, seed: int, brokers: int = 3, *, durable: bool = False, unclean: bool = False) -> None:
        self.seed = seed
        self.rng = random.Random(f"replicas {seed}")
        self.durable = durable
        self.unclean = unclean
        self.fired: Counter[str] = Counter()
        self.now = 0
        self.values = 0
        everyone = tuple(range(brokers))
        self.registration = PartitionRegistration(everyone, everyone, 0, 1, 1)
        self.disks = [SimulatedDisk(seed) for _ in everyone]
        self.replicas: dict[int, Partition] = {}
        self.pending: list[Sent] = []
        self.acknowledged: dict[int, bytes] = {}
        self.seen: dict[int, bytes] = {}
        self.deletions: list[Completion[int]] = []
        self.asked_before = self.deleted_before = 0
        self.fetchers: dict[int, ReplicaFetcher] = {}
        self.epochs: dict[int, int] = {}
        self.registrations = 0
        self._contents: dict[int, tuple[LogSnapshot, dict[int, bytes]]] = {}
        self.config = TopicConfig(segment_bytes=1024, min_insync_replicas=self.rng.choice([1, 2]))
        for broker in everyone:
            self._open(broker)
        self.elect()

    # -- brokers -------------------------------------------------------------------------------------

    def _open(self, broker: int) -> None:
        shutdown = PreviousShutdown(clean=False, same_boot=not self.durable)
        log = open_log(self.disks[broker], "/p", TOPIC_ID, 0, SEED, self.config, shutdown)
        self.disks[broker].sync_dir("/")
        replica = Partition(NAME, TOPIC_ID, log, new_lock, broker, durable=self.durable, synced_end=log.tail.end_offset)
        if self.durable:
            replica.commit.sync()
        replica.high_watermark = min(replica.high_watermark, log.tail.start_offset)  # learned anew
        replica.on_work = lambda replica: replica.deletions.drive()
        self.replicas[broker] = replica
        self.registrations += 1
        self.epochs[broker] = self.registrations
        self.fetchers[broker] = ReplicaFetcher(
            broker, self.registrations, lambda name: self._leader_known_to(broker), self, max_bytes=600
        )
        self._contents.pop(broker, None)
        self.apply(broker)

    def _leader(self, name: TopicPartition) -> Partition | None:
        return self.replicas.get(self.registration.leader)

    def _leader_known_to(self, broker: int) -> Partition | None:
        """The leader as this broker knows it, which another one may have replaced."""
        return self.replicas.get(self.replicas[broker].registration.leader)

    def replica_failed(self, replica: Partition, error: StreamlogError) -> None:
        raise Violation(f"broker {replica.broker_id}: {error}") from error

    def replica_damaged(self, replica: Partition, offset: int, error: StreamlogError) -> None:
        raise Violation(f"the log of broker {replica.broker_id}: {error}") from error

    def apply(self, broker: int) -> None:
        """The broker learns what the controller decided last."""
        replica = self.replicas[broker]
        replica.follow(self.registration, self.now)
        if replica.is_leader:
            self.fetchers[broker].forget(NAME)
        else:
            self.fetchers[broker].follow(replica)

    def kill(self, broker: int) -> None:
        """The broker is gone, with what its disk keeps: the page cache, or with `durable` what was synced."""
        replica = self.replicas.pop(broker)
        self.fetchers[broker].forget(NAME)
        replica.log.release()
        disk = self.disks[broker]
        self.disks[broker] = disk.power_loss(self.rng.randrange(1 << 30)) if self.durable else disk.kill()
        del self.epochs[broker]
        self.elect()
        if self.rng.random() < 0.7:
            successor = self._leader(NAME)
            if successor is not None:
                self.apply(successor.broker_id)
                replica.hand_over(successor)
                self.fired["handed over"] += 1
        lost = {operation for _, operation in replica.purgatory.waiting()}  # those senders get no answer
        self.pending = [sent for sent in self.pending if sent.answer not in lost]
        replica.shut(StreamlogError("gone"))

    def start(self, broker: int) -> None:
        self._open(broker)
        self.elect()

    def lose(self, broker: int) -> None:
        """The directory is gone, and is made anew: what this broker had does not count any more."""
        self.kill(broker)
        self.disks[broker] = SimulatedDisk(self.seed)
        isr = tuple(each for each in self.registration.isr if each != broker)
        if isr != self.registration.isr:
            self._decide(self.registration._replace(isr=isr, partition_epoch=self.registration.partition_epoch + 1))

    # -- the controller ------------------------------------------------------------------------------

    def _decide(self, registration: PartitionRegistration) -> None:
        self.registration = registration

    def elect(self) -> None:
        ends = None
        if self.unclean:
            ends = {
                broker: (self.replicas[broker].last_epoch() or 0, self.replicas[broker].reader.tail.end_offset)
                for broker in self.epochs
            }
        before = self.registration
        self._decide(election.elect(before, self.epochs, unclean=ends))
        if self.registration.leader not in before.isr and self.registration.leader != NO_LEADER:
            self.fired["unclean"] += 1
            self.forgive()

    def forgive(self) -> None:
        """An unclean election: what was promised counts no longer."""
        leader = self._leader(NAME)
        assert leader is not None
        contents = self.contents(leader)
        for promised in (self.acknowledged, self.seen):
            for offset in [offset for offset, value in promised.items() if contents.get(offset) != value]:
                del promised[offset]

    def change_isr(self, broker: int) -> None:
        """A leader, or one that takes itself for it, asks for another in-sync set."""
        replica = self.replicas[broker]
        wanted = replica.wanted_isr(self.now, LAG_MS, self.epochs)
        known = replica.registration
        if wanted is None or known != self.registration or not set(wanted) <= set(self.epochs):
            return  # the controller refuses who does not know the last state
        self.fired["grew" if len(wanted) > len(known.isr) else "shrank"] += 1
        self._decide(known._replace(isr=wanted, partition_epoch=known.partition_epoch + 1))

    def move_leader(self) -> None:
        """A planned move, to a member that has everything."""
        leader = self._leader(NAME)
        if leader is None or leader.registration != self.registration:
            return
        for broker in self.registration.isr:
            if broker in self.epochs and self.replicas[broker].reader.tail.end_offset == leader.reader.tail.end_offset:
                after = election.prefer(self.registration, self.epochs, broker)
                if after != self.registration and self.replicas[broker].last_epoch() == leader.last_epoch():
                    self.fired["moved"] += 1
                    self._decide(after)
                    return

    # -- clients -------------------------------------------------------------------------------------

    def send(self, broker: int) -> None:
        replica = self.replicas[broker]
        self.values += 1
        values = [b"%d.%d" % (self.values, n) for n in range(self.rng.choice([1, 1, 3]))]
        write = AppendRequest([columns.seal(SEED, None, values, NOW, count=len(values))])
        try:
            replica.require_in_sync()
            replica.append(write, NOW)
        except NotEnoughReplicasError:
            self.fired["not enough"] += 1
            return
        except StreamlogError:
            return
        answer = replica.acknowledge(write)
        self.pending += [Sent(value, write.base_offset + n, answer) for n, value in enumerate(values)]

    def contents(self, replica: Partition) -> dict[int, bytes]:
        """The values of a replica by offset, verified."""
        tail = replica.reader.tail
        known = self._contents.get(replica.broker_id)
        if known is not None and known[0] is tail:
            return known[1]
        found: dict[int, bytes] = {}
        offset = tail.start_offset
        while offset < tail.end_offset:
            data = replica.reader.fetch(offset, 1 << 16, tail.end_offset).data
            at = 0
            while at < len(data):
                header = read_header(data, at, SEED, "", at)
                verify_payload(header, memoryview(data)[at + header.header_len : at + header.batch_len], SEED, "", at)
                rows = decode(header, data, at).all()
                found |= {row[0]: row[3] for row in zip(*rows, strict=True) if row[0] >= tail.start_offset}
                at += header.batch_len
                offset = header.next_offset
        self._contents[replica.broker_id] = tail, found
        return found

    # -- one step ------------------------------------------------------------------------------------

    def step(self) -> None:
        rng = self.rng
        broker = rng.randrange(len(self.disks))
        kinds: dict[str, int] = {
            "send": 30, "fetch": 40, "apply": 15, "isr": 8, "tick": 6, "kill": 2, "start": 6, "move": 3, "lose": 1,
            "delete": 1,
        }  # fmt: skip
        [kind] = rng.choices([*kinds], [*kinds.values()])
        if kind == "tick":
            self.now += rng.choice([10, 1_000, 4_000, 20_000])
        elif kind == "move":
            self.move_leader()
        elif kind == "start":
            if broker not in self.epochs:
                self.fired["start"] += 1
                self.start(broker)
        elif broker in self.epochs:
            actions: dict[str, Callable[[int], object]] = {
                "send": self.send, "fetch": self._fetch, "apply": self.apply, "isr": self.change_isr,
                "kill": self.kill, "lose": self._may_lose, "delete": self.delete,
            }  # fmt: skip
            self.fired[kind] += 1
            actions[kind](broker)
        if self.durable:
            for replica in list(self.replicas.values()):
                if rng.random() < 0.5:
                    replica.commit.drive()
        self.check()

    def _fetch(self, broker: int) -> None:
        self.fetchers[broker].step(self.now)

    def _may_lose(self, broker: int) -> None:
        others = (set(self.registration.isr) & set(self.epochs)) - {broker}
        if others:
            self.lose(broker)

    def delete(self, broker: int) -> None:
        replica = self.replicas[broker]
        if replica.is_leader and replica.registration == self.registration and replica.high_watermark:
            before = self.rng.randrange(replica.high_watermark + 1)
            self.deletions.append(replica.delete_records(before))
            for promised in (self.acknowledged, self.seen):
                for offset in [each for each in promised if each < before]:
                    del promised[offset]
            self.asked_before = max(self.asked_before, before)

    def _check_deletions(self) -> None:
        """What was answered as deleted is on no replica in sync."""
        for deletion in [each for each in self.deletions if each.done()]:
            self.deletions.remove(deletion)
            if deletion.error() is None:
                self.fired["deleted"] += 1
                self.deleted_before = max(self.deleted_before, deletion.result())
        for broker in self.registration.isr:
            replica = self.replicas.get(broker)
            if replica is not None and replica.reader.tail.start_offset < self.deleted_before and not self.unclean:
                raise Violation(f"broker {broker}, in sync, has what was deleted before {self.deleted_before}")

    def check(self) -> None:
        """The invariants. Raises Violation."""
        left: list[Sent] = []
        self._check_deletions()
        start = self.asked_before
        for sent in self.pending:
            if not sent.answer.done():
                left.append(sent)
            elif sent.answer.error() is None and sent.offset >= start:
                self.acknowledged[sent.offset] = sent.value
                self.fired["acknowledged"] += 1
        self.pending = left
        for broker, replica in self.replicas.items():
            contents, tail = self.contents(replica), replica.reader.tail
            if not tail.start_offset <= replica.high_watermark <= tail.end_offset:
                raise Violation(f"the high watermark {replica.high_watermark} of broker {broker} is not in its log")
            if broker in self.registration.isr:
                self._require(
                    contents, tail, self.acknowledged, f"broker {broker}, in sync, lacks what was acknowledged"
                )
            visible = {offset: value for offset, value in contents.items() if offset < replica.high_watermark}
            for offset, value in visible.items():
                if offset >= start and self.seen.setdefault(offset, value) != value:
                    raise Violation(f"readers saw {self.seen[offset]!r} at {offset}, and broker {broker} has {value!r}")

    @staticmethod
    def _require(contents: dict[int, bytes], tail: LogSnapshot, promised: dict[int, bytes], what: str) -> None:
        for offset, value in promised.items():
            if offset >= tail.start_offset and contents.get(offset) != value:
                raise Violation(f"{what}: {value!r} at {offset}, it has {contents.get(offset)!r}")

    def heal(self) -> None:
        """Everything is back: all replicas come to have the same, and every sender gets an answer."""
        for broker in range(len(self.disks)):
            if broker not in self.epochs:
                self.start(broker)
        for _ in range(60):
            self.elect()
            self.now += 2_000
            for broker in self.epochs:
                self.apply(broker)
                self.fetchers[broker].step(self.now)
                self.replicas[broker].commit.drive()
            leader = self._leader(NAME)
            if leader is not None:
                self.change_isr(leader.broker_id)
            self.check()
        if self.pending:
            raise Violation(f"{len(self.pending)} senders have no answer, though all are back")
        logs = {broker: self.contents(replica) for broker, replica in self.replicas.items()}
        first = logs[0]
        start = max(replica.reader.tail.start_offset for replica in self.replicas.values())
        for broker, contents in logs.items():
            ours = {offset: value for offset, value in contents.items() if offset >= start}
            if ours != {offset: value for offset, value in first.items() if offset >= start}:
                raise Violation(f"broker {broker} has not what broker 0 has, though all are back")
        if set(self.registration.isr) != set(self.registration.replicas):
            raise Violation(f"the in-sync set is {self.registration.isr}, though all are back")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.replicas", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    options = parser.parse_args()
    fired: Counter[str] = Counter()
    began, violations = time.monotonic(), 0
    for seed in range(options.seed, options.seed + options.seeds):
        try:
            fired += run(seed, options.steps, durable=bool(seed & 1), unclean=bool(seed & 2))
        except Violation as violation:
            violations += 1
            sys.stdout.write(f"VIOLATION: {violation}\n")
    took = time.monotonic() - began
    sys.stdout.write(
        f"{date.today()}: python -m tests.sim.replicas --seeds {options.seeds} --steps {options.steps} --seed "
        f"{options.seed}: {violations} violations, {took:.0f} s; {dict(sorted(fired.items()))}\n"
    )
    return 1 if violations else 0


def run(seed: int, steps: int, *, durable: bool = False, unclean: bool = False) -> Counter[str]:
    """One simulation. Raises Violation, with the seed and the step."""
    simulation = Simulation(seed, durable=durable, unclean=unclean)
    done = 0
    try:
        for _ in range(steps):
            simulation.step()
            done += 1
        simulation.heal()
    except Exception as error:
        raise Violation(f"seed {seed}, {durable=}, {unclean=}, step {done}: {error}") from error
    return simulation.fired


if __name__ == "__main__":
    sys.exit(main())
