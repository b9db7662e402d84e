"""A consumer gets the same from the core in C as from its twin in Python, whatever the log holds, and however it is read."""

from __future__ import annotations

import random
from struct import pack
from typing import Any

import pytest

import streamlog
from streamlog import Consumer, TopicPartition
from streamlog.broker.api import ProduceRequest
from streamlog.broker.fetched import FetchResult
from streamlog.records import kafka_wire
from streamlog.records.batch import seed_of
from streamlog.records.core import core
from tests.kafka_batches import Row, kafka_payload
from tests.times import START_MS

pytestmark = pytest.mark.skipif(core is None, reason="the core in C was not built, or STREAMLOG_PURE=1 leaves it out")

AT = TopicPartition("t", 0)


def fill(log: streamlog.StreamLog, rng: random.Random) -> None:
    """All kinds of batches: of one record and of many, compressed, with headers, of Kafka's clients, aborted, and with gaps."""
    topic = log.create_topic("t", segment_bytes=1 << 14, cleanup_policy="compact")

    def key() -> bytes:
        return b"key %d" % rng.randrange(400)

    def value() -> bytes:
        return rng.randbytes(rng.choice([0, 5, 5, 5, 300]))

    def from_kafka() -> None:
        view = log._use().image.topics["t"]
        rows = [Row(START_MS + rng.randrange(9), key(), value()) for _ in range(rng.randrange(1, 40))]
        payload, _ = kafka_payload(rows, codec=rng.choice([0, 0, 1]))
        data = pack(">qii", 0, len(payload) + 4, -1) + payload
        sealed = kafka_wire.sealed(seed_of(view.id_bytes, 0), data)
        log._use().produce(ProduceRequest(view.partition(0), [sealed])).result()

    def in_a_transaction() -> None:
        producer.begin_transaction()
        for _ in range(rng.randrange(1, 5)):
            producer.send("t", value(), key())
        if rng.random() < 0.5:
            producer.commit_transaction()
        else:
            producer.abort_transaction()

    def compressed() -> None:
        with log.producer(compression_type="gzip", linger_ms=1) as other:
            other.send_many("t", [value() for _ in range(30)], [key() for _ in range(30)])

    with log.producer(transactional_id="x") as producer:
        for _ in range(60):
            kind = rng.randrange(6)
            if kind == 0:
                topic.send(value(), key())
            elif kind == 1:
                topic.send_many([value() for _ in range(50)], [key() for _ in range(50)])
            elif kind == 2:
                topic.send(value(), key(), headers={"h": value()})
            elif kind == 3:
                from_kafka()
            elif kind == 4:
                in_a_transaction()
            else:
                compressed()
            if rng.random() < 0.05:
                topic.compact()


def columns(batch: Any) -> list[Any]:
    buffers = [[None if part is None else bytes(part) for part in batch.buffers(name)] for name in ("key", "value")]
    return [
        list(batch.offsets),
        list(batch.timestamps),
        list(batch.keys),
        list(batch.values),
        list(batch.headers),
        buffers,
    ]


def read(log: streamlog.StreamLog, seed: int, isolation_level: Any) -> list[Any]:
    """What random calls of a consumer give."""
    rng = random.Random(seed)
    found: list[Any] = []
    end = log["t"].partition(0).log_end_offset
    with Consumer(log, isolation_level=isolation_level) as consumer:
        consumer.assign([AT])
        for _ in range(200):
            what = rng.randrange(5)
            most = rng.choice([None, 1, 3, 60, 500])
            if what == 0 or consumer.position(AT) >= end:
                consumer.seek(AT, rng.randrange(end))
            elif what == 1:
                found.append([columns(batch) for batch in consumer.poll_batches(max_records=most)])
            elif what == 2 and rng.random() < 0.1:
                start = rng.randrange(end)
                batches = log["t"].read_batches(
                    start=start, end=rng.randrange(start, end + 1), isolation_level=isolation_level
                )
                found.append([columns(batch) for batch in batches])
            else:
                found.append(consumer.poll(max_records=most))
            found.append(consumer.position(AT))
    return found


@pytest.mark.parametrize("isolation_level", ["read_committed", "read_uncommitted"])
def test_a_consumer_gets_the_same_with_and_without_the_core(
    log: streamlog.StreamLog, rng: random.Random, monkeypatch: pytest.MonkeyPatch, isolation_level: str
) -> None:
    fill(log, rng)
    seed = rng.randrange(1 << 32)
    by_core = read(log, seed, isolation_level)
    monkeypatch.setattr(FetchResult, "has_reader", False)
    by_python = read(log, seed, isolation_level)
    assert [list(pair) for pair in zip(by_core, by_python, strict=True) if pair[0] != pair[1]] == []
