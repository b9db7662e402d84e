"""Sending: many records at once, and one by one with and without a linger."""

from collections.abc import Iterator, Sequence
from typing import Any

import streamlog
from benchmarks import baselines
from benchmarks.figures import Row, rate_row, skipped
from benchmarks.measure import Side, expect, interleave, optional, stopwatch
from benchmarks.records import Chunk, chunks, records
from benchmarks.run import Run, expect_records, fresh_topic

SEND_MANY = "send_many"
SEND_LINGER = "send, linger 5 ms, flush included"
CALLBACK = "confluent-kafka produce with callback"
FORGET = "confluent-kafka produce and forget"


def send_many_side(log: streamlog.StreamLog, batches: Sequence[Chunk], **config: Any) -> Side:
    """Send the chunks with `send_many` to a new topic; each is acknowledged when the call returns."""

    def side() -> float:
        with fresh_topic(log) as topic, log.producer(**config) as producer:
            with stopwatch() as watch:
                for keys, values in batches:
                    producer.send_many(topic, values, keys)
                producer.flush()
            expect_records(log, topic, sum(len(keys) for keys, _ in batches))
        return watch.seconds

    return side


def send_side(log: streamlog.StreamLog, keys: Sequence[bytes], values: Sequence[bytes], linger_ms: int) -> Side:
    """Send the records one by one to a new topic, and flush."""

    def side() -> float:
        with fresh_topic(log) as topic, log.producer(linger_ms=linger_ms) as producer:
            with stopwatch() as watch:
                for key, value in zip(keys, values, strict=True):
                    producer.send(topic, value, key)
                producer.flush()
            expect_records(log, topic, len(keys))
        return watch.seconds

    return side


def plain_write_side(run: Run, keys: Sequence[bytes], values: Sequence[bytes]) -> Side:
    """Write the records to a new plain file."""

    def side() -> float:
        path = run.fresh("plain")
        with stopwatch() as watch:
            baselines.plain_write(path, keys, values)
        expect(
            "bytes of the plain file", path.stat().st_size, sum(map(len, keys)) + sum(map(len, values)) + 8 * len(keys)
        )
        path.unlink()
        return watch.seconds

    return side


def _putmulti_side(run: Run, lmdb: object, keys: Sequence[bytes], values: Sequence[bytes]) -> Side:
    def side() -> float:
        with run.scratch("lmdb") as path:
            environment = baselines.lmdb_open(lmdb, path, sum(map(len, keys)) + sum(map(len, values)))
            with stopwatch() as watch:
                baselines.lmdb_putmulti(environment, keys, values)
            expect("records in LMDB", environment.stat()["entries"], len(keys))
            environment.close()
        return watch.seconds

    return side


def send_many(run: Run) -> Iterator[Row]:
    """`send_many` beside a plain file write and LMDB's `putmulti`."""
    count = run.size(1_000_000, 200_000)
    keys, values = records(count)
    lmdb = optional("lmdb")
    with run.log() as log:
        sides = {
            "streamlog": send_many_side(log, chunks(keys, values)),
            "plain write": plain_write_side(run, keys, values),
        }
        if lmdb is not None:
            sides["LMDB putmulti"] = _putmulti_side(run, lmdb, keys, values)
        samples = interleave(sides, run.rounds)
    counts = dict.fromkeys(samples, count)
    yield rate_row(SEND_MANY, samples, "plain write", counts=counts, goal=1.0)
    if lmdb is None:
        yield skipped(SEND_MANY, samples, "LMDB putmulti", "lmdb", count)
    else:
        yield rate_row(SEND_MANY, samples, "LMDB putmulti", counts=counts, goal=1.0)


def _callback_side(confluent_kafka: object, keys: Sequence[bytes], values: Sequence[bytes]) -> Side:
    def side() -> float:
        producer = baselines.mock_producer(confluent_kafka, len(keys))
        with stopwatch() as watch:
            delivered = baselines.mock_produce_with_callback(producer, keys, values)
        expect("records delivered", delivered, len(keys))
        return watch.seconds

    return side


def _forget_side(confluent_kafka: object, keys: Sequence[bytes], values: Sequence[bytes]) -> Side:
    def side() -> float:
        producer = baselines.mock_producer(confluent_kafka, len(keys))
        with stopwatch() as watch:
            left = baselines.mock_produce_and_forget(producer, keys, values)
        expect("records left in the queue", left, 0)
        return watch.seconds

    return side


def send_linger(run: Run) -> Iterator[Row]:
    """`send` with a linger of 5 ms beside a plain file write and confluent-kafka on librdkafka's mock cluster."""
    count = run.size(300_000, 50_000)
    keys, values = records(count)
    confluent_kafka = optional("confluent_kafka")
    with run.log() as log:
        sides = {"streamlog": send_side(log, keys, values, 5), "plain write": plain_write_side(run, keys, values)}
        if confluent_kafka is not None:
            sides[CALLBACK] = _callback_side(confluent_kafka, keys, values)
            sides[FORGET] = _forget_side(confluent_kafka, keys, values)
        samples = interleave(sides, run.rounds)
    counts = dict.fromkeys(samples, count)
    yield rate_row(SEND_LINGER, samples, "plain write", counts=counts, goal=0.2)
    if confluent_kafka is None:
        yield skipped(SEND_LINGER, samples, CALLBACK, "confluent_kafka", count)
        return
    yield rate_row(SEND_LINGER, samples, CALLBACK, counts=counts, goal=1.0)
    yield rate_row(SEND_LINGER, samples, FORGET, counts=counts)


def send_acknowledged(run: Run) -> Iterator[Row]:
    """`send` without a linger, each record in the log at return, beside a plain file write."""
    count = run.size(100_000, 20_000)
    keys, values = records(count)
    with run.log() as log:
        sides = {"streamlog": send_side(log, keys, values, 0), "plain write": plain_write_side(run, keys, values)}
        samples = interleave(sides, run.rounds)
    counts = dict.fromkeys(samples, count)
    yield rate_row("send, linger 0, each acknowledged at return", samples, "plain write", counts=counts, goal=0.05)
