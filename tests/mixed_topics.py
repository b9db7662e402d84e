"""Topics with all kinds of batches: of one record and of many, compressed, with headers, of Kafka's clients, aborted, and with gaps."""

from __future__ import annotations

import random
from struct import pack

import streamlog
from streamlog.broker.api import ProduceRequest
from streamlog.records import kafka_wire
from streamlog.records.batch import seed_of
from tests.kafka_batches import Row, kafka_payload
from tests.times import START_MS


def fill(topic: streamlog.Topic, rng: random.Random, rounds: int = 60) -> None:
    """Write to all partitions. Keys and values may be None where the topic takes it; a compacted one is compacted now and then."""
    log: streamlog.StreamLog = topic._log  # type: ignore[assignment]
    is_compacted = topic.config["cleanup_policy"] == "compact"

    def key() -> bytes | None:
        return None if not is_compacted and rng.random() < 0.1 else b"key %d" % rng.randrange(400)

    def value() -> bytes | None:
        return None if rng.random() < 0.05 else rng.randbytes(rng.choice([0, 5, 5, 5, 300]))

    def partition() -> int:
        return rng.randrange(topic.partitions)

    def from_kafka() -> None:
        view = log._use().image.topics[topic.name]
        number = partition()
        rows = [Row(START_MS + rng.randrange(9), key(), value()) for _ in range(rng.randrange(1, 40))]
        payload, _ = kafka_payload(rows, codec=rng.choice([0, 0, 1]))
        data = pack(">qii", 0, len(payload) + 4, -1) + payload
        sealed = kafka_wire.sealed(seed_of(view.id_bytes, number), data)
        log._use().produce(ProduceRequest(view.partition(number), [sealed])).result()

    def in_a_transaction() -> None:
        producer.begin_transaction()
        for _ in range(rng.randrange(1, 5)):
            producer.send(topic, value(), key(), partition=partition())
        if rng.random() < 0.5:
            producer.commit_transaction()
        else:
            producer.abort_transaction()

    def compressed() -> None:
        with log.producer(compression_type="gzip", linger_ms=1) as other:
            other.send_many(topic, [value() for _ in range(30)], [key() for _ in range(30)], partition=partition())

    with log.producer(transactional_id=f"fills {topic.name}") as producer:
        for _ in range(rounds):
            kind = rng.randrange(6)
            if kind == 0:
                topic.send(value(), key(), partition=partition())
            elif kind == 1:
                topic.send_many([value() for _ in range(50)], [key() for _ in range(50)], partition=partition())
            elif kind == 2:
                topic.send(value(), key(), headers={"h": rng.randbytes(3), "none": None}, partition=partition())
            elif kind == 3:
                from_kafka()
            elif kind == 4:
                in_a_transaction()
            else:
                compressed()
            if is_compacted and rng.random() < 0.05:
                topic.compact()
