"""Transactions of the workload whose write trace is replayed, and what a log has to hold of them after a crash.

One producer at a time has a transaction open, over several steps of the workload, and with offsets of a group that reads
`events`. A new producer of the same transactional id takes over now and then, also in the middle of a transaction.

After any crash nothing is seen of a transaction that no one asked to commit, and nothing is left open that would hold back
readers. Of one that was asked to commit, all is seen or nothing, its offsets included; all, once the commit has returned. A power
loss without `sync=True` may take a part of it; what was committed before the last `log.sync()` stays.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import streamlog
from streamlog import StreamLog, TopicPartition
from streamlog.testing import SimulatedDisk
from tests.transaction_history import Outcome, Violation, demand

TOPIC, PARTITIONS = "moves", 2
MOVERS = "movers"
SOURCE = "events"
SETTLES_MS = 2_000
"""So long after an open, nothing is open of the process before."""
PAUSE_S = 0.02
_NEVER_MS = 900_000  # no transaction times out

Found = dict[int, tuple[list[bytes], list[bytes]]]
"""Of each partition what readers of committed, and of all, records see."""


@dataclass
class Move:
    """One transaction: what it has sent to each partition, and what it commits of each partition of the source."""

    sent: dict[int, list[bytes]] = field(default_factory=dict)
    offsets: dict[int, int] = field(default_factory=dict)
    outcome: Outcome = Outcome.OPEN
    synced: bool = False
    """It was committed before a `log.sync()`."""
    torn: bool = False
    """A power loss without `sync=True` may have taken a part of it."""


@dataclass
class Moves:
    """All transactions of the topic. `positions`: what the group had committed before the first of them."""

    created: bool = False
    all: list[Move] = field(default_factory=list)
    order: dict[int, list[bytes]] = field(default_factory=dict)
    positions: dict[int, int] = field(default_factory=dict)

    # -- what the workload tells

    def begins(self) -> None:
        self.all.append(Move())

    def sends(self, number: int, values: list[bytes]) -> None:
        self.all[-1].sent.setdefault(number, []).extend(values)
        self.order.setdefault(number, []).extend(values)

    def gives(self, offsets: Mapping[int, int]) -> None:
        self.all[-1].offsets.update(offsets)

    def ends(self, outcome: Outcome) -> None:
        self.all[-1].outcome = outcome

    def synced(self) -> None:
        for move in self.all:
            move.synced |= move.outcome is Outcome.COMMITTED

    def weakened(self) -> None:
        for move in self.all:
            if not move.synced and move.outcome is not Outcome.OPEN:
                move.torn = True

    def reborn(self, found: Found, positions: Mapping[int, int]) -> None:
        """The log was opened after a crash: what is seen of the transactions now is what there is."""
        seen, self.order = {number: values for number, (values, _) in found.items()}, {}
        for number, (_, stored) in found.items():
            self.order[number] = list(stored)
        self.positions = dict(positions)
        for move in self.all:
            move.sent = {
                number: [value for value in values if value in set(seen[number])]
                for number, values in move.sent.items()
            }
        self.all = [Move(move.sent, outcome=Outcome.COMMITTED) for move in self.all if any(move.sent.values())]

    # -- what must be so

    def compare(self, log: StreamLog, *, strong: bool) -> Found:
        """Raise Violation unless `log` is one that these transactions allow; what is in it.

        REQUIRES: `settle`. `strong`: all that was acknowledged has to be there.
        """
        if TOPIC not in log:
            demand(not self.created, f"topic {TOPIC} is gone")
            return {}
        topic = log[TOPIC]
        seen, found = {}, {}
        for number in range(PARTITIONS):
            values = [record.value for record in topic.read(number)]
            stored = [record.value for record in topic.read(number, isolation_level="read_uncommitted")]
            seen[number], found[number] = values, (values, stored)
            _in_order(f"{TOPIC}-{number}", stored, self.order.get(number, []))
            _in_order(f"{TOPIC}-{number}, as it is committed,", values, stored)
        for move in self.all:
            self._check(move, seen, strong)
        self._check_offsets(log, seen, strong)
        return found

    def _check(self, move: Move, seen: Mapping[int, list[bytes]], strong: bool) -> None:
        found = sum(len(set(values) & set(seen[number])) for number, values in move.sent.items())
        total = sum(map(len, move.sent.values()))
        if move.outcome in (Outcome.OPEN, Outcome.ABORTED):
            demand(not found, f"of {move} {found} records are seen, and it was never committed")
        elif (move.outcome is Outcome.COMMITTED and strong and not move.torn) or move.synced:
            demand(found == total, f"{move} was committed, and {found} of {total} records are seen")
        elif strong and not move.torn:
            demand(found in (0, total), f"of {move} {found} of {total} records are seen")

    def _check_offsets(self, log: StreamLog, seen: Mapping[int, list[bytes]], strong: bool) -> None:
        allowed = {number: {self.positions.get(number, 0)} for number in range(PARTITIONS)}
        for move in self.all:
            is_seen = any(set(values) & set(seen[number]) for number, values in move.sent.items())
            is_decided = strong and not move.torn and (move.outcome is Outcome.COMMITTED or bool(move.sent))
            for number, offset in move.offsets.items():
                if move.outcome in (Outcome.OPEN, Outcome.ABORTED) or (is_decided and not is_seen and move.sent):
                    continue
                allowed[number] = {offset} if is_decided else allowed[number] | {offset}
        committed = log.group(MOVERS).committed()
        for number, offsets in allowed.items():
            offset = committed.get(TopicPartition(SOURCE, number), 0)
            is_lowered = not strong and offset == log[SOURCE].partition(number).log_end_offset
            demand(
                offset in offsets or is_lowered,
                f"group {MOVERS} is at {offset} of {SOURCE}-{number}, and its transactions leave it at {offsets}",
            )


def _in_order(where: str, found: list[bytes], sent: list[bytes]) -> None:
    """That `found` is some of `sent`, each once, in that order."""
    left = iter(sent)
    for value in found:
        demand(value in left, f"{where} has {value!r:.40} twice, too late, or though it was not sent")


def settle(log: StreamLog, pause: Callable[[], object]) -> None:
    """Wait until no transaction is open. REQUIRES: none is being made. Raises Violation if one hangs."""
    if TOPIC not in log:
        return
    for _ in range(round(SETTLES_MS / 1000 / PAUSE_S)):
        infos = [log[TOPIC].partition(number) for number in range(PARTITIONS)]
        if all(info.last_stable_offset == info.high_watermark for info in infos):
            return
        pause()
    raise Violation(f"a transaction holds back readers: {infos}; {log.metrics()['transactions']}")


def go_on(log: StreamLog) -> None:
    """A transaction of each id, after the crash: it counts, and what was before it is as it was."""
    if TOPIC not in log:
        return
    before = {number: [record.value for record in log[TOPIC].read(number)] for number in range(PARTITIONS)}
    for transactional_id in Mover.IDS:
        with log.producer(transactional_id=transactional_id) as producer, producer.transaction():
            for number in range(PARTITIONS):
                producer.send(TOPIC, transactional_id.encode(), partition=number)
    for number, values in before.items():
        found = [record.value for record in log[TOPIC].read(number)]
        expected = values + [each.encode() for each in Mover.IDS]
        demand(found == expected, f"{TOPIC}-{number} has {found} after two more transactions, and not {expected}")


class ProducerState(NamedTuple):
    """What the leader of a partition remembers of producers: epoch and batches, of each of them; and of transactions."""

    start_offset: int
    producers: dict[int, tuple[int, list[Any]]]
    open: dict[int, int]
    aborted: list[Any]

    def since(self, offset: int) -> ProducerState:
        """Without what lies before `offset`: it may be known still, or not any more."""
        producers = {
            producer_id: (epoch, left)
            for producer_id, (epoch, batches) in self.producers.items()
            if (left := [batch for batch in batches if batch.base_offset >= offset])
        }
        return ProducerState(
            offset, producers, self.open, [each for each in self.aborted if each.last_offset >= offset]
        )


def producer_state(log: StreamLog) -> dict[tuple[str, int], ProducerState]:
    service: Any = log._engine.service  # type: ignore[attr-defined]
    found = {}
    for name, leader in service.brokers.leaders.items():
        kept = leader.log
        with leader.lock:
            kept.transactions.read()
            entries = dict(kept.producers.states(kept.tail, service.clock.time_ms())._known)
            snapshot = kept.reader.transactions  # None: there are none
        found[name] = ProducerState(
            kept.tail.start_offset,
            {producer_id: (entry.epoch, list(entry.batches)) for producer_id, entry in entries.items()},
            dict(kept.transactions.open),
            [] if snapshot is None else list(snapshot.aborted),
        )
    return found


def compare_producer_state(before: Mapping[tuple[str, int], ProducerState], log: StreamLog) -> None:
    """Raise Violation unless `log` knows of producers what it knew `before` it was closed."""
    for name, rebuilt in producer_state(log).items():
        known, rebuilt = (each.since(rebuilt.start_offset) for each in (before[name], rebuilt))
        demand(rebuilt == known, f"what {name} knows of producers was {known}, and is rebuilt as {rebuilt}")


def remove_what_is_derived(disk: SimulatedDisk, path: str, brokers: int) -> None:
    for root in [path] if brokers == 1 else [f"{path}/broker-{n}" for n in range(brokers)]:
        disk.unlink(f"{root}/published")
        for name in disk.listdir(f"{root}/topics"):
            for file in disk.listdir(f"{root}/topics/{name}"):
                if file.endswith(".index"):
                    disk.unlink(f"{root}/topics/{name}/{file}")


class Mover:
    """Makes the transactions. `tell` has the truth of the workload changed at a mark of the trace."""

    IDS = ("a", "b")

    def __init__(self, rng: random.Random, tell: Callable[[Callable[[Moves], object]], None]) -> None:
        self._rng = rng
        self._tell = tell
        self._numbers = 0
        self.forget()

    def forget(self) -> None:
        """The log was opened anew."""
        self._producers: dict[str, streamlog.Producer] = {}
        self._open: tuple[str, streamlog.Producer] | None = None

    def step(self, log: StreamLog) -> None:
        if TOPIC not in log:
            log.create_topic(TOPIC, partitions=PARTITIONS, segment_bytes=1024)
            self._tell(lambda moves: setattr(moves, "created", True))
        if self._open is None or self._rng.random() < 0.05:
            self._begin(log)
        elif self._rng.random() < 0.6:
            self._send(self._open[1])
        else:
            self._end(log, self._open[1])

    def _begin(self, log: StreamLog) -> None:
        """If one is open, a producer of the same id takes over, which aborts it."""
        self._tell(Moves.begins)
        transactional_id = self._rng.choice(self.IDS) if self._open is None else self._open[0]
        producer = self._producers.get(transactional_id)
        if producer is None or self._open is not None or self._rng.random() < 0.3:
            producer = log.producer(
                transactional_id=transactional_id,
                transaction_timeout_ms=_NEVER_MS,
                linger_ms=self._rng.choice([0, 0, 1000]),
            )
            self._producers[transactional_id] = producer
        producer.begin_transaction()
        self._open = transactional_id, producer
        self._send(producer)

    def _send(self, producer: streamlog.Producer) -> None:
        number, values = self._rng.randrange(PARTITIONS), []
        for _ in range(self._rng.choice([1, 1, 3])):
            self._numbers += 1
            values.append(b"%d:%s" % (self._numbers, self._rng.randbytes(8) + b"." * self._rng.choice([0, 0, 300])))
        self._tell(lambda moves: moves.sends(number, values))
        if len(values) == 1:
            producer.send(TOPIC, values[0], partition=number)
        else:
            producer.send_many(TOPIC, values, partition=number)

    def _end(self, log: StreamLog, producer: streamlog.Producer) -> None:
        commits = self._rng.random() < 0.7
        if self._rng.random() < 0.6:
            with log.consumer(SOURCE, group=MOVERS, enable_auto_commit=False) as consumer:
                records = consumer.poll(timeout=0, max_records=self._rng.choice([1, 5]))
                if records:
                    offsets = {record.topic_partition: record.offset + 1 for record in records}
                    self._tell(lambda moves: moves.gives({name.partition: at for name, at in offsets.items()}))
                    producer.send_offsets_to_transaction(offsets, consumer)
        if commits:
            self._tell(lambda moves: moves.ends(Outcome.DECIDING))
            producer.commit_transaction()
            self._tell(lambda moves: moves.ends(Outcome.COMMITTED))
        else:
            producer.abort_transaction()
            self._tell(lambda moves: moves.ends(Outcome.ABORTED))
        self._open = None
