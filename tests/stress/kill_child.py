"""The process that `kill_cycles` kills: it opens the log, tells what is in it, and works on it until it is killed.

Everything that the next process has to find again is said to a journal first: a record once it is acknowledged, a
commit before and after it, a deletion before it. Of several brokers, one is stopped and started now and then, leaders are
moved and replicas reassigned: all of them plans, which lose nothing, not even what is acknowledged with acks=1.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import streamlog
from streamlog import (
    DeliveryError,
    InvalidTxnStateError,
    NotLeaderError,
    RequestTimedOutError,
    TopicPartition,
    TransactionAbortedError,
)
from streamlog.broker.owner import OWNER_FILE

from . import replicas
from .processes import RAISED, Journal, head_of, value_of

RETENTION_BYTES = 1 << 17
TOPICS: dict[str, dict[str, Any]] = {
    "kept": {"partitions": 1, "segment_bytes": 8192},
    "plain": {"partitions": 2, "segment_bytes": 4096, "retention_bytes": RETENTION_BYTES},
    "table": {
        "partitions": 1,
        "cleanup_policy": "compact",
        "segment_bytes": 2048,
        "delete_retention_ms": 40,
        "min_cleanable_dirty_ratio": 0.3,
    },
}
GROUP = "g"
# Records of transactions alone: their markers take offsets.
MOVES, MOVES_PARTITIONS = "moves", 2
HEAD = "head"  # the header that says what a tombstone is, as it has no value to say it
_KEYS = 12
# Every so many cycles it is killed only after a record and a transaction, however slow the machine is.
COMMITS_EVERY = 10
_SETTLES_S = 20.0
_LIVES_S = 300.0
# Closing the log aborts a transaction that is being made.
_OF_A_CLOSE = (streamlog.ClosedError, InvalidTxnStateError, DeliveryError, TransactionAbortedError)
# How long a writer waits after each record while a broker comes back: writers that fill a segment with a few records each, as
# fast as they can, may keep a follower that is not in sync away for as long as they write.
_WAITS_S = 0.005
_CODECS = [None, None, "gzip", "zstd", "lz4", "snappy"]


def live(
    path: str,
    folder: str,
    seed: int,
    cycle: int,
    positions: dict[str, int],
    close_after: float | None,
    brokers: int = 1,
    loses: bool = False,
    rebuilds: bool = True,
) -> None:
    """One life: open `path`, report from `positions` on, then work until it is time to close, or for ever.

    `loses`: a broker may lose its directory, which acks=1 does not survive. `rebuilds`: it is started again.
    """
    say = Journal(f"{folder}/journal")
    rng = random.Random(f"{seed}.{cycle}")
    log = streamlog.open(path, sync=rng.random() < 0.2, brokers=brokers)
    # A replica that is away for longer than `delete_retention_ms` may miss tombstones, as in Kafka: longer than a log lives.
    kept = {"delete_retention_ms": 86_400_000} if brokers > 1 else {}
    for name, settings in TOPICS.items():
        log.create_topic(name, exist_ok=True, **{**settings, **(kept if name == "table" else {})})
    log.create_topic(MOVES, partitions=MOVES_PARTITIONS, exist_ok=True, segment_bytes=4096)
    _settle(log)
    with open(f"{folder}/report", "w") as file:
        json.dump(report(log, positions), file)
    if brokers > 1 and rng.random() < 0.2 and all(broker.running for broker in log.brokers):
        replicas.compare(log)
    say("ready")
    Life(log, say, rng, cycle, loses, rebuilds).run(close_after)


def report(log: streamlog.StreamLog, positions: dict[str, int]) -> dict[str, Any]:
    """What is stored from `positions` on, partition by partition, and what is committed."""
    partitions = {}
    for name, settings in TOPICS.items():
        for partition in range(settings["partitions"]):
            key = f"{name}-{partition}"
            found = _report_partition(log, name, partition, positions.get(key, 0))
            # A compaction that goes on meanwhile may have taken a tombstone from behind what was read before it.
            while name == "table" and found != (again := _report_partition(log, name, partition, 0)):
                found = again
            partitions[key] = found
    committed = {f"{tp.topic}-{tp.partition}": offset for tp, offset in log.group(GROUP).committed().items()}
    moves = {
        str(n): [(record.offset, head_of(record.value)) for record in log[MOVES].read(n)]
        for n in range(MOVES_PARTITIONS)
    }
    ends = {str(n): log[MOVES].partition(n).last_stable_offset for n in range(MOVES_PARTITIONS)}
    return {"partitions": partitions, "committed": committed, "moves": moves, "ends": ends}


def _settle(log: streamlog.StreamLog) -> None:
    """Wait until nothing is open of the process before."""
    until = time.monotonic() + _SETTLES_S
    for n in range(MOVES_PARTITIONS):
        while (info := log[MOVES].partition(n)).last_stable_offset != info.log_end_offset:
            assert time.monotonic() < until, f"a transaction holds back readers: {info}"
            time.sleep(0.001)


def _report_partition(log: streamlog.StreamLog, name: str, partition: int, position: int) -> dict[str, Any]:
    topic = log[name]
    while True:
        info = topic.partition(partition)
        start = max(position, info.log_start_offset)
        try:
            records = [
                (r.offset, r.key and r.key.decode(), (r.header(HEAD) if r.value is None else r.value).decode())
                for r in topic.read(partition, start=start)
            ]
        except streamlog.OffsetOutOfRangeError:
            if topic.partition(partition).log_start_offset == info.log_start_offset:
                raise
            continue  # retention goes on in the background
        if topic.partition(partition).leader_epoch != info.leader_epoch:
            continue  # it may have been read from two leaders
        return {
            "log_start": info.log_start_offset,
            "end": info.high_watermark,
            "size": info.size_bytes,
            "position": start,
            "directory": _directory_id(log, info.leader),
            "records": records,
        }


def _directory_id(log: streamlog.StreamLog, broker_id: int) -> str:
    """A directory that was made anew has another one."""
    [path] = [broker.path for broker in log.brokers if broker.id == broker_id]
    assert path is not None
    return str(json.loads((Path(path) / OWNER_FILE).read_text())["directory_id"])


class Sent(NamedTuple):
    """A delivery, of one record or of many, and what it is about."""

    delivery: Any
    heads: list[str]
    keys: list[str]


class Life:
    """What one process does to its log, from several threads."""

    def __init__(
        self, log: streamlog.StreamLog, say: Journal, rng: random.Random, cycle: int, loses: bool, rebuilds: bool
    ) -> None:
        self.log = log
        self.say = say
        self.rng = rng
        self.cycle = cycle
        self.loses, self.rebuilds = loses, rebuilds
        self.closing = False
        self.is_level = len(log.brokers) == 1 or not rebuilds
        self.asked_at_once = rng.random() < 0.5
        self.brokers = log.brokers
        self.config: dict[str, Any] = {
            "linger_ms": rng.choice([0, 0, 5]),
            "compression_type": rng.choice(_CODECS),
            "acks": "all" if loses else rng.choice(["all", "all", 1]),
        }
        self.shared = log.producer(**self.config) if rng.random() < 0.5 else None

    def run(self, close_after: float | None) -> None:
        writers = self.rng.randrange(1, 4)
        work: list[tuple[Callable[..., None], Any]] = [(self.write, n) for n in range(writers)]
        work.append((self.administer, None))
        transacts = self.rng.randrange(3)
        if self.cycle % COMMITS_EVERY == 1:
            transacts = max(1, transacts)
        work += [(self.transact, n) for n in range(transacts)]
        if self.rng.random() < 0.6:
            work.append((self.consume, None))
        if len(self.brokers) > 1 and self.rebuilds:
            work.append((self.stop_and_start, None))
        if len(self.brokers) > 1 and self.rng.random() < 0.7:
            work.append((self.move, None))
        for function, number in work:
            life = random.Random(f"{self.rng.random()}")
            threading.Thread(target=self._guard, args=(function, life, number), daemon=True).start()
        time.sleep(_LIVES_S if close_after is None else close_after)
        assert close_after is not None, "nobody has killed it"
        self.closing = True
        self.say("closing")
        self.log.close()
        self.say("closed")

    def _guard(self, function: Callable[..., None], rng: random.Random, number: int | None) -> None:
        with self._reported():
            function(rng, number)

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        """An error ends the process, but for one that closing the log explains."""
        try:
            yield
        except BaseException as error:
            if self.closing and isinstance(error, _OF_A_CLOSE):
                return
            traceback.print_exc()
            os._exit(RAISED)

    # -- writing -------------------------------------------------------------------------------------

    def write(self, rng: random.Random, number: int) -> None:
        """Send, now one record and now many, and say what is acknowledged."""
        producer = self.shared or self.log.producer(**self.config)
        counts: Counter[tuple[str, object]] = Counter()
        pending: list[Sent] = []
        while True:
            name = rng.choices(["kept", "plain", "table"], [0.15, 0.55, 0.3])[0]
            partition = rng.randrange(TOPICS[name]["partitions"])
            many = rng.randrange(2, 30) if rng.random() < 0.3 else 1
            heads = []
            for _ in range(many):
                heads.append(f"{self.cycle}.{number}.{name}.{partition}.{counts[name, partition]}")
                counts[name, partition] += 1
            sent = self._send(producer, rng, name, partition, heads)
            if self.asked_at_once:
                sent.delivery.add_done_callback(lambda _, sent=sent: self._acknowledge(sent))
            else:
                pending.append(sent)
                if rng.random() < 0.3:
                    producer.flush()
                    for known in pending:
                        self._acknowledge(known)
                    pending.clear()
            if not self.is_level:
                time.sleep(_WAITS_S)
            elif rng.random() < 0.5:
                time.sleep(rng.choice([0.0002, 0.001, 0.003]))

    def _send(
        self, producer: streamlog.Producer, rng: random.Random, name: str, partition: int, heads: list[str]
    ) -> Sent:
        keys = [f"k{rng.randrange(_KEYS)}" for _ in heads]
        if name == "table" and len(heads) == 1 and rng.random() < 0.2:
            heads = [heads[0] + "t"]
            self.say("buries", keys[0])
            delivery = producer.send(name, None, keys[0], partition=partition, headers={HEAD: heads[0]})
            return Sent(delivery, heads, keys)
        values = [value_of(head, rng.randrange(200)) for head in heads]
        if len(heads) > 1:
            return Sent(producer.send_many(name, values, keys, partition=partition), heads, keys)
        return Sent(producer.send(name, values[0], keys[0], partition=partition), heads, keys)

    def _acknowledge(self, sent: Sent) -> None:
        error = sent.delivery.exception()
        if error is not None:
            if not (self.closing and isinstance(error, (streamlog.ClosedError, streamlog.DeliveryError))):
                self.say("failed", repr(error))
            return
        found = sent.delivery.result()
        for metadata, head, key in zip(found if len(sent.heads) > 1 else [found], sent.heads, sent.keys, strict=True):
            self.say("sent", f"{metadata.topic}-{metadata.partition}", metadata.offset, head, key)

    # -- transactions --------------------------------------------------------------------------------

    def transact(self, rng: random.Random, number: int) -> None:
        """Transaction after transaction, by a producer whose predecessor was killed."""
        transactional_id, count = f"t{number}", 0
        with self.log.producer(transactional_id=transactional_id, linger_ms=rng.choice([0, 5])) as producer:
            self.say("fenced", transactional_id, self.cycle)
            while True:
                producer.begin_transaction()
                self.say("begins", transactional_id, self.cycle)
                for _ in range(rng.choice([1, 3, 10])):
                    head, partition = f"{transactional_id}.{self.cycle}.{count}", rng.randrange(MOVES_PARTITIONS)
                    count += 1
                    self.say("moves", transactional_id, partition, head)
                    producer.send(MOVES, value_of(head, rng.randrange(100)), partition=partition)
                if rng.random() < 0.3:
                    producer.abort_transaction()
                    self.say("aborted", transactional_id)
                else:
                    self.say("deciding", transactional_id)
                    producer.commit_transaction()
                    self.say("decided", transactional_id)
                time.sleep(rng.choice([0.0, 0.001, 0.004]))

    # -- reading in a group --------------------------------------------------------------------------

    def consume(self, rng: random.Random, _number: None) -> None:
        """Handle records in a group, without a gap, and commit."""
        expected: dict[TopicPartition, int] = dict(self.log.group(GROUP).committed())
        with self.log.consumer("kept", "plain", group=GROUP, enable_auto_commit=False) as consumer:
            while True:
                records = consumer.poll(0.005, max_records=rng.choice([1, 20, 200]))
                for record in records:
                    self._expect(record, expected.get(record.topic_partition, 0))
                    expected[record.topic_partition] = record.offset + 1
                if not records or rng.random() < 0.3:
                    continue
                done = {tp: offset for tp, offset in expected.items() if tp in consumer.assignment()}
                for tp, offset in done.items():
                    self.say("commits", f"{tp.topic}-{tp.partition}", offset)
                if not self._commit(consumer, done if rng.random() < 0.5 else None):
                    continue
                for tp in {record.topic_partition for record in records}:
                    self.say("committed", f"{tp.topic}-{tp.partition}", done[tp])

    def _commit(self, consumer: streamlog.Consumer[Any, Any], offsets: dict[TopicPartition, int] | None) -> bool:
        try:
            consumer.commit(offsets)
        except NotLeaderError:  # the coordinator moves, and the commit is made again later
            return False
        return True

    def _expect(self, record: streamlog.Record[Any, Any], expected: int) -> None:
        if record.offset != expected:
            start = self.log[record.topic].partition(record.partition).log_start_offset
            assert expected < record.offset <= start, f"{record} came where offset {expected} was due; {start=}"

    # -- everything else -----------------------------------------------------------------------------

    def administer(self, rng: random.Random, _number: None) -> None:
        while True:
            with contextlib.suppress(NotLeaderError):  # it moves just now
                self._administer(rng, rng.randrange(10))
            time.sleep(rng.choice([0.0005, 0.002, 0.006]))

    def _administer(self, rng: random.Random, choice: int) -> None:
        plain = self.log["plain"]
        if choice == 0:
            plain.apply_retention()
        elif choice in (1, 2):
            self.log["table"].compact()
        elif choice == 3 and rng.random() < 0.3:
            partition = rng.randrange(2)
            info = plain.partition(partition)
            before = rng.randrange(info.log_start_offset, info.high_watermark + 1)
            self.say("deletes", f"plain-{partition}", before)
            plain.delete_records({partition: before})
        elif choice == 4:
            self.log.sync()
        elif choice == 5 and "passing" in self.log:
            self.log.delete_topic("passing")
        elif choice == 5:
            self.log.create_topic("passing", partitions=2).send_many(["a", "b", "c"])

    # -- brokers -------------------------------------------------------------------------------------

    def stop_and_start(self, rng: random.Random, _number: None) -> None:
        """One broker after the other; first those that had lost their directories when the log was opened.

        It says "level" when every replica is in sync: then any one of the directories may be lost.
        """
        for broker in self.brokers:
            broker.start()
        while True:
            while self.log.metrics()["replication"]["under_replicated_partitions"]:
                time.sleep(0.001)
            self.is_level = True
            self.say("level")
            time.sleep(rng.choice([0.05, 0.2] if self.loses else [0.0, 0.01, 0.05]))
            broker = rng.choice(self.brokers)
            self.say("hurts", broker.id)
            self.is_level = False
            broker.stop()
            time.sleep(rng.choice([0.0, 0.005]))
            broker.start()

    def move(self, rng: random.Random, _number: None) -> None:
        """Other brokers lead, and others have the replicas."""
        names = [TopicPartition(name, n) for name, settings in TOPICS.items() for n in range(settings["partitions"])]
        while True:
            time.sleep(rng.choice([0.001, 0.005]))
            name = rng.choice(names)
            info = self.log[name.topic].partition(name.partition)
            with contextlib.suppress(NotLeaderError, RequestTimedOutError):
                if rng.random() < 0.7:
                    self.log.elect_leader(name, rng.choice(info.replicas))
                else:
                    self.log.reassign(
                        name.topic, replicas={name.partition: rng.sample(info.replicas, len(info.replicas))}
                    )
