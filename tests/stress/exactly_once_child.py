"""The process that `exactly_once` kills: it opens the log, tells what is in it, and works in transactions until it is killed.

Everything that it is about to do is said to a journal first, and each answer after it: see `ExactlyOnce.note`. Writers send in
transactions, two of them under the same transactional id, so that they fence each other. Loops of one group consume, transform and
produce; they leave and join again. A pipe does the same by itself. Of several brokers, one is stopped and started now and then, and
leaders move.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import threading
import time
import traceback
from collections.abc import Callable
from itertools import count
from typing import Any

import streamlog
from streamlog import (
    CommitFailedError,
    DeliveryError,
    InvalidTxnStateError,
    NotLeaderError,
    ProducerFencedError,
    RequestTimedOutError,
    TopicPartition,
)
from streamlog.client.retrying import answer_of

from .processes import RAISED, Journal, head_of, value_of

TOPICS = {"in": 3, "side": 2, "out": 3, "piped": 2}
LOOPS, PIPE = "loops", "pipe"
EFFECTS = (1, 2, 1, 0)
"""How many records come of a record: by its offset."""
# What a producer raises that another one has fenced: for records that it had not written yet, the other two.
_FENCED = (ProducerFencedError, DeliveryError, InvalidTxnStateError)
_SETTLES_S = 20.0
_DRAINS_S = 60.0


def live(path: str, folder: str, seed: int, cycle: int, brokers: int, drains: bool) -> None:
    """One life: open `path`, report, then work for ever; or, if it `drains`, until all is consumed, and report again."""
    say = Journal(f"{folder}/journal")
    log = streamlog.open(path, brokers=brokers)
    for name, partitions in TOPICS.items():
        log.create_topic(name, partitions=partitions, exist_ok=True, segment_bytes=8192)
    _settle(log)
    _tell(log, f"{folder}/report")
    say("ready")
    life = Life(log, say, random.Random(f"{seed}.{cycle}"), cycle)
    if not drains:
        life.run()
    life.drain()
    _settle(log)
    _tell(log, f"{folder}/drained")
    log.close()


def _settle(log: streamlog.StreamLog) -> None:
    """Wait until no transaction is open or undecided: those of the last process are ended without a timeout of their own."""
    until = time.monotonic() + _SETTLES_S
    while unsettled := [*_unstable(log), *_undecided(log)]:
        assert time.monotonic() < until, f"{_SETTLES_S} s after it was opened: {unsettled}"
        time.sleep(0.002)


def _unstable(log: streamlog.StreamLog) -> list[Any]:
    found = [log[name].partition(n) for name, partitions in TOPICS.items() for n in range(partitions)]
    return [each for each in found if each.last_stable_offset != each.log_end_offset]


def _undecided(log: streamlog.StreamLog) -> list[Any]:
    listed = answer_of(log._engine.service.list_transactions())
    return [each for each in listed if each.state in ("Ongoing", "PrepareCommit", "PrepareAbort")]


def _tell(log: streamlog.StreamLog, path: str) -> None:
    contents = {
        level: {
            f"{name}-{n}": [
                (record.offset, head_of(record.value)) for record in log[name].read(n, isolation_level=level)
            ]
            for name, partitions in TOPICS.items()
            for n in range(partitions)
        }
        for level in ("read_committed", "read_uncommitted")
    }
    ends = {
        f"{name}-{n}": log[name].partition(n).last_stable_offset
        for name, partitions in TOPICS.items()
        for n in range(partitions)
    }
    positions = {
        group: {str(name.partition): offset for name, offset in log.group(group).committed().items()}
        for group in (LOOPS, PIPE)
    }
    with open(path, "w") as file:
        json.dump({**contents, "ends": ends, "positions": positions}, file)


class Life:
    """What one process does, from several threads."""

    def __init__(self, log: streamlog.StreamLog, say: Journal, rng: random.Random, cycle: int) -> None:
        self.log = log
        self.say = say
        self.rng = rng
        self.cycle = cycle
        self._numbers = count(1)
        self._instances = count(1000 * cycle + 1)
        self._making = threading.Lock()

    def run(self) -> None:
        work: list[tuple[Callable[..., None], Any]] = [(self.write, "a"), (self.write, "b"), (self.read, None)]
        if self.rng.random() < 0.5:
            work.append((self.write, "b"))  # they fence each other
        work += [(self.loop, n) for n in range(self.rng.randrange(1, 4))]
        if self.rng.random() < 0.7:
            work.append((self.pipe, None))
        if len(self.log.brokers) > 1:
            work.append((self.stop_and_start, None))
        for function, argument in work:
            life = random.Random(f"{self.rng.random()}")
            threading.Thread(target=self._guard, args=(function, life, argument), daemon=True).start()
        time.sleep(60.0)
        raise AssertionError("nobody has killed it")

    def _guard(self, function: Callable[..., None], rng: random.Random, argument: Any) -> None:
        """An error ends the process."""
        try:
            function(rng, argument)
        except BaseException:
            traceback.print_exc()
            os._exit(RAISED)

    # -- transactions ----------------------------------------------------------------------------------

    def _produce_as(self, rng: random.Random, transactional_id: str) -> tuple[Any, int]:
        with self._making:  # of one id the instances are made in the order of their numbers
            instance = next(self._instances)
            producer = self.log.producer(transactional_id=transactional_id, linger_ms=rng.choice([0, 0, 5]))
            self.say("fenced", transactional_id, instance)
        return producer, instance

    def _begin(self, producer: Any, transactional_id: str, instance: int) -> str:
        reference = f"{self.cycle}.{next(self._numbers)}"
        producer.begin_transaction()
        self.say("begin", transactional_id, instance, reference)
        return reference

    def _send(
        self, rng: random.Random, producer: Any, reference: str, topic: str, partition: int, heads: list[str]
    ) -> None:
        for head in heads:
            self.say("sends", reference, topic, partition, head)
        values = [value_of(head, rng.randrange(120)) for head in heads]
        if len(values) == 1:
            producer.send(topic, values[0], partition=partition)
        else:
            producer.send_many(topic, values, partition=partition)

    def _commit(self, producer: Any, reference: str) -> None:
        self.say("commits", reference)
        producer.commit_transaction()
        self.say("committed", reference)

    def _abort(self, producer: Any, reference: str) -> None:
        producer.abort_transaction()
        self.say("aborted", reference)

    def write(self, rng: random.Random, transactional_id: str) -> None:
        """Transaction after transaction, as a new producer now and then, and whenever another one has taken over."""
        while True:
            producer, instance = self._produce_as(rng, transactional_id)
            fenced = _FENCED if transactional_id == "b" else ()
            with contextlib.suppress(*fenced), producer:
                for _ in range(rng.choice([1, 5, 50])):
                    self._write(rng, producer, transactional_id, instance)
            time.sleep(rng.choice([0.0, 0.002]))

    def _write(self, rng: random.Random, producer: Any, transactional_id: str, instance: int) -> None:
        reference = self._begin(producer, transactional_id, instance)
        for _ in range(rng.choice([1, 2, 8])):
            topic = rng.choice(["in", "in", "side"])
            heads = [f"{transactional_id}.{self.cycle}.{next(self._numbers)}" for _ in range(rng.choice([1, 1, 5]))]
            self._send(rng, producer, reference, topic, rng.randrange(TOPICS[topic]), heads)
            if rng.random() < 0.2:
                time.sleep(rng.choice([0.0005, 0.003]))
        if rng.random() < 0.2:
            self._abort(producer, reference)
        else:
            self._commit(producer, reference)

    # -- consume, transform, produce -------------------------------------------------------------------

    def loop(self, rng: random.Random, number: int) -> None:
        """A member of the group, which leaves and joins again now and then."""
        while True:
            producer, instance = self._produce_as(rng, f"loop-{number}")
            with (
                producer,
                self.log.consumer("in", group=LOOPS, enable_auto_commit=False, max_poll_records=20) as consumer,
            ):
                for _ in range(rng.choice([3, 20, 100])):
                    records = consumer.poll(0.005)
                    if records:
                        self._transform(rng, producer, consumer, f"loop-{number}", instance, records)

    def _transform(
        self, rng: random.Random, producer: Any, consumer: Any, transactional_id: str, instance: int, records: list[Any]
    ) -> None:
        reference = self._begin(producer, transactional_id, instance)
        for record in records:
            for n in range(EFFECTS[record.offset % 4]):
                head = f"{record.partition}/{record.offset}/{n}@{self.cycle}.{next(self._numbers)}"
                self._send(rng, producer, reference, "out", record.offset % 3, [head])
        offsets = {record.topic_partition: record.offset + 1 for record in records}
        for name, offset in offsets.items():
            self.say("positions", reference, LOOPS, *name, offset)
        try:
            producer.send_offsets_to_transaction(offsets, consumer)
        except CommitFailedError:  # it has lost the partition
            self._abort(producer, reference)
            self._rewind(consumer)
            return
        if rng.random() < 0.1:
            self._abort(producer, reference)
            self._rewind(consumer)
        else:
            self._commit(producer, reference)

    @staticmethod
    def _rewind(consumer: Any) -> None:
        for name in consumer.assignment():
            committed = consumer.committed(name)
            if committed is None:
                consumer.seek_to_beginning(name)
            else:
                consumer.seek(name, committed)

    def _handle(self, record: Any) -> list[bytes]:
        """What the pipe makes of a record: another value each time, with the same effect."""
        effects = [f"{record.partition}/{record.offset}/{n}" for n in range(EFFECTS[record.offset % 4])]
        return [value_of(f"{effect}@{self.cycle}.{next(self._numbers)}", 20) for effect in effects]

    def pipe(self, rng: random.Random, _: None) -> None:
        while True:
            workers = streamlog.start_pipe(
                self.log["in"], self._handle, self.log["piped"], group=PIPE, workers=rng.choice([1, 2])
            )
            with workers, contextlib.suppress(TimeoutError):
                workers.wait(rng.choice([0.05, 60.0]))

    def read(self, rng: random.Random, _: None) -> None:
        """Read along what is committed."""
        with self.log.consumer() as consumer:
            consumer.assign([TopicPartition(name, n) for name in ("in", "out", "side") for n in range(TOPICS[name])])
            consumer.seek_to_end()
            while True:
                for record in consumer.poll(0.01):
                    self.say("given", record.topic, record.partition, record.offset, head_of(record.value))

    def drain(self) -> None:
        """Have the pipe and one loop come to the end of the source."""
        streamlog.pipe(self.log["in"], self._handle, self.log["piped"], group=PIPE, until_end=True)
        producer, instance = self._produce_as(self.rng, "loop-0")
        until = time.monotonic() + _DRAINS_S
        with producer, self.log.consumer("in", group=LOOPS, enable_auto_commit=False) as consumer:
            while any(consumer.lag().values()) or not consumer.assignment():
                assert time.monotonic() < until, (
                    f"{_DRAINS_S} s after the last kill its group has not read {consumer.lag()}"
                )
                records = consumer.poll(0.05)
                if records:
                    self._transform(self.rng, producer, consumer, "loop-0", instance, records)

    # -- brokers ---------------------------------------------------------------------------------------

    def stop_and_start(self, rng: random.Random, _: None) -> None:
        """One broker after the other, all replicas in sync before; and other leaders."""
        for broker in self.log.brokers:
            broker.start()
        names = [TopicPartition(name, n) for name, partitions in TOPICS.items() for n in range(partitions)]
        while True:
            while self.log.metrics()["replication"]["under_replicated_partitions"]:
                time.sleep(0.001)
            time.sleep(rng.choice([0.0, 0.01, 0.05]))
            if rng.random() < 0.5:
                name = rng.choice(names)
                with contextlib.suppress(NotLeaderError, RequestTimedOutError):
                    self.log.elect_leader(name, rng.choice(self.log[name.topic].partition(name.partition).replicas))
                continue
            broker = rng.choice(self.log.brokers)
            broker.stop()
            time.sleep(rng.choice([0.0, 0.005]))
            broker.start()
