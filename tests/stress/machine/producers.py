"""Producers of every kind, and what becomes of what they send."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from streamlog import DeliveryError, RecordMetadata, StreamlogError, UnknownTopicIdError, UnknownTopicOrPartitionError

from .model import Sent, TopicModel, demand

if TYPE_CHECKING:
    from .program import Program

KEYS = [b"k0", b"k1", b"k2", b"k3"]
_MOST = 3


@dataclass
class Pending:
    """A send whose outcome is not known yet."""

    delivery: Any
    numbers: list[int]


@dataclass
class Sender:
    number: int
    producer: Any
    acks: Any
    lingers: bool
    pending: list[Pending] = field(default_factory=list)
    failing: bool = False
    """The disk failed, or a topic was deleted, while records lingered: those may fail, and `flush` and `close` say so."""


def identity(record: Any) -> int | None:
    """The number of a record, from its value, or from a header where it is a tombstone."""
    text = record.value if record.value is not None else record.header("number")
    head = (text or b"").partition(b":")[0]
    return int(head) if head.isdigit() else None


class Producers:
    def __init__(self, program: Program) -> None:
        self._program = program
        self._senders: list[Sender] = []
        self._alone = 0

    def clear(self) -> None:
        """They are gone with their process, or closed with their log."""
        self._senders, self._alone = [], 0

    def trouble(self) -> None:
        """A topic was deleted, or the disk failed: what lingers may fail."""
        for sender in self._senders:
            sender.failing = sender.failing or bool(sender.pending) or sender.acks == 0

    def allow_failures(self) -> None:
        if any(sender.failing for sender in self._senders):
            self._program.allow(DeliveryError, UnknownTopicOrPartitionError, UnknownTopicIdError)

    # -- operations ----------------------------------------------------------------------------------

    def open(self, rng: random.Random) -> None:
        if len(self._senders) >= _MOST:
            return
        assert self._program.log is not None
        config: dict[str, Any] = {
            "acks": rng.choice([0, 1, "all", "all"]),
            "linger_ms": rng.choice([0, 5, 5]),
            "batch_size": rng.choice([200, 1000, 16_384]),
            "compression_type": rng.choice([None, None, "gzip", "snappy", "lz4", "zstd"]),
        }
        self._program.note(config)
        producer = self._program.log.producer(**config)
        self._senders.append(Sender(self._program.number(), producer, config["acks"], bool(config["linger_ms"])))

    def send(self, rng: random.Random) -> None:
        sender, found = self._sender(rng), self._program.topics.pick(rng)
        if found is None:
            return
        topic, model = found
        for _ in range(rng.choice([1, 1, 2, 5])):
            sent, partition = self._record(rng, model, sender.number), self._partition(rng, topic)
            sent.partition = partition
            self._program.note(
                f"{sent.number} by producer {sender.number} to {topic.name}-{partition}, key {sent.key!r}"
            )
            timestamp = sent.timestamp if sent.timestamp != self._program.clock.time_ms() else None
            delivery = sender.producer.send(
                topic.name,
                sent.value,
                sent.key,
                headers=dict(sent.headers) or None,
                partition=partition,
                timestamp_ms=timestamp,
            )
            self._sent(sender, delivery, [sent.number])

    def send_many(self, rng: random.Random) -> None:
        sender, found = self._sender(rng), self._program.topics.pick(rng)
        if found is None:
            return
        topic, model = found
        partition = self._partition(rng, topic)
        records = [self._record(rng, model, sender.number, plain=True) for _ in range(rng.choice([2, 4, 10, 30]))]
        for sent in records:
            sent.partition = partition
        self._program.note(
            f"{records[0].number} to {records[-1].number} by producer {sender.number} to {topic.name}-{partition}"
        )
        delivery = sender.producer.send_many(
            topic.name, [sent.value for sent in records], [sent.key for sent in records], partition=partition
        )
        self._sent(sender, delivery, [sent.number for sent in records])

    def send_alone(self, rng: random.Random) -> None:
        """`Topic.send`, whose producer is the log's own."""
        found = self._program.topics.pick(rng)
        if found is None:
            return
        topic, model = found
        self._alone = self._alone or self._program.number()
        sent = self._record(rng, model, self._alone)
        sent.partition = self._partition(rng, topic)
        self._program.note(f"{sent.number} to {topic.name}-{sent.partition}, key {sent.key!r}")
        done = topic.send(
            sent.value,
            sent.key,
            headers=dict(sent.headers) or None,
            partition=sent.partition,
            timestamp_ms=sent.timestamp,
        )
        self._acknowledged(sent.number, done.result())

    def flush(self, rng: random.Random) -> None:
        sender = self._sender(rng)
        self._program.note(f"producer {sender.number}")
        sender.producer.flush()
        for pending in sender.pending:
            demand(pending.delivery.done(), "flush left a record behind")

    def close(self, rng: random.Random) -> None:
        sender = self._sender(rng)
        self._program.note(f"producer {sender.number}")
        try:
            sender.producer.close()
        finally:
            for pending in sender.pending:
                demand(pending.delivery.done(), "a closed producer left a record behind")
            self._harvest(sender)
            self._senders.remove(sender)

    # -- what is sent --------------------------------------------------------------------------------

    def _sender(self, rng: random.Random) -> Sender:
        self.allow_failures()
        if not self._senders:
            self.open(rng)
        return rng.choice(self._senders)

    @staticmethod
    def _partition(rng: random.Random, topic: Any) -> int | None:
        return rng.randrange(topic.partitions) if rng.random() < 0.6 else None

    def _record(self, rng: random.Random, topic: TopicModel, producer: int, *, plain: bool = False) -> Sent:
        """A new record, which counts as sent from now on. `plain`: without what `send_many` cannot give each one."""
        number, now = self._program.number(), self._program.clock.time_ms()
        keyed = topic.may_compact() or rng.random() < 0.6
        key = rng.choice(KEYS) if keyed else None
        value: bytes | None = b"%d:" % number + b"." * rng.choice([0, 10, 30, 100, 300, 900])
        headers: tuple[tuple[str, bytes | None], ...] = ()
        timestamp = now
        if not plain:
            if topic.may_compact() and rng.random() < 0.15:
                value, headers = None, (("number", b"%d" % number),)
            elif rng.random() < 0.1:
                headers = (("colour", b"red"), ("none", None))
            if rng.random() < 0.15:
                timestamp = now + rng.choice([-7_200_000, -1000, 1_800_000])
        sent = Sent(number, producer, topic.id, None, key, value, headers, timestamp)
        self._program.model.sent[number] = sent
        return sent

    # -- what becomes of it --------------------------------------------------------------------------

    def _sent(self, sender: Sender, delivery: Any, numbers: list[int]) -> None:
        if sender.acks == 0:
            demand(delivery.done(), "a record sent with acks=0 is not done at once")
            return
        sender.pending.append(Pending(delivery, numbers))
        if not sender.lingers:
            demand(delivery.done(), "send returned without a linger, and its record is not acknowledged")
            self._harvest(sender)

    def harvest(self, *, everything: bool = False) -> None:
        """Ask about what is done. `everything`: the log is closed, so nothing can be waiting."""
        for sender in self._senders:
            if everything:
                for pending in sender.pending:
                    demand(pending.delivery.done(), "a closed log left a record behind")
            self._harvest(sender)

    def _harvest(self, sender: Sender) -> None:
        left = []
        for pending in sender.pending:
            if not pending.delivery.done():
                left.append(pending)
                continue
            error = pending.delivery.exception()
            if error is None:
                result = pending.delivery.result()
                many = [result] if isinstance(result, RecordMetadata) else result
                for number, metadata in zip(pending.numbers, many, strict=True):
                    self._acknowledged(number, metadata)
                continue
            demand(isinstance(error, StreamlogError), f"a delivery failed with {error!r}")
            if isinstance(error, DeliveryError) and len(error.metadata) == len(pending.numbers):
                for number, metadata in zip(pending.numbers, error.metadata, strict=True):
                    if metadata is not None:
                        self._acknowledged(number, metadata)
        sender.pending = left

    def _acknowledged(self, number: int, metadata: Any) -> None:
        model = self._program.model
        if model.doomed:
            return
        sent = model.sent[number]
        topic = model.topics.get(sent.topic)
        if topic is None:  # deleted since
            return
        demand(
            sent.partition in (None, metadata.partition), f"record {number} was sent to another partition: {metadata}"
        )
        demand(metadata.offset >= 0, f"record {number} was acknowledged without an offset: {metadata}")
        sent.partition = metadata.partition
        partition = topic.partitions[metadata.partition]
        partition.acknowledged(metadata.offset, number, durable=self._program.sync)
