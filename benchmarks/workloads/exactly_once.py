"""What exactly once costs: idempotence, transactions, reading what is committed, and pipes, each beside the same without."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import streamlog
from benchmarks.figures import Row, rate_row
from benchmarks.measure import MeasurementError, Side, expect, interleave, stopwatch
from benchmarks.records import chunks, records
from benchmarks.run import Run, expect_records, fresh_topic
from benchmarks.workloads.consume import fill, poll_side

IDEMPOTENCE_GOAL = 0.95
TRANSACTION_GOAL = 1 / 1.3
COMMITTED_GOAL = 1 / 1.1
PIPE_GOAL = 0.7
PER_TRANSACTION = 1000
WITHOUT = "without"

Send = Callable[[Any, str, Sequence[bytes], Sequence[bytes]], None]


def _one_by_one(producer: Any, topic: str, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
    for key, value in zip(keys, values, strict=True):
        producer.send(topic, value, key)


def _many(producer: Any, topic: str, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
    producer.send_many(topic, values, keys)


# The ways to send, the records of a full and of a quick run, and the linger.
_WAYS: tuple[tuple[str, Send, int, int, int], ...] = (
    ("send, linger 0", _one_by_one, 50_000, 10_000, 0),
    ("send, linger 5 ms", _one_by_one, 200_000, 50_000, 5),
    ("send_many", _many, 500_000, 100_000, 0),
)


def _sending(
    log: streamlog.StreamLog, batches: Sequence[tuple[Sequence[bytes], Sequence[bytes]]], send: Send, **config: Any
) -> Side:
    """Send to a new topic, in one transaction for each of `batches` if the producer has a transactional id."""
    count, transactional = sum(len(keys) for keys, _ in batches), "transactional_id" in config

    def side() -> float:
        with fresh_topic(log) as topic, log.producer(**config) as producer:
            with stopwatch() as watch:
                for keys, values in batches:
                    if transactional:
                        with producer.transaction():
                            send(producer, topic, keys, values)
                    else:
                        send(producer, topic, keys, values)
                producer.flush()
            expect_records(log, topic, count + (len(batches) if transactional else 0))
        return watch.seconds

    return side


def idempotence(run: Run) -> Iterator[Row]:
    """An idempotent producer, which is the default, beside one that is not."""
    for work, send, full, quick, linger_ms in _WAYS:
        count = run.size(full, quick)
        batches = chunks(*records(count))
        with run.log() as log:
            sides = {
                "streamlog": _sending(log, batches, send, linger_ms=linger_ms, enable_idempotence=True),
                WITHOUT: _sending(log, batches, send, linger_ms=linger_ms, enable_idempotence=False),
            }
            samples = interleave(sides, 2 * run.rounds)
        counts = dict.fromkeys(sides, count)
        yield rate_row(f"{work}, idempotent", samples, WITHOUT, counts=counts, goal=IDEMPOTENCE_GOAL)


def transactions(run: Run) -> Iterator[Row]:
    """Transactions of 1,000 records beside the same records without. One by one they are acknowledged in the same way."""
    for work, send, full, quick, linger_ms in _WAYS:
        count = run.size(full, quick)
        keys, values = records(count)
        cuts = [slice(at, at + PER_TRANSACTION) for at in range(0, count, PER_TRANSACTION)]
        batches = [(keys[cut], values[cut]) for cut in cuts]
        with run.log() as log:
            sides = {
                "streamlog": _sending(log, batches, send, linger_ms=linger_ms, transactional_id="benchmark"),
                WITHOUT: _sending(log, batches, send, linger_ms=linger_ms),
            }
            samples = interleave(sides, run.rounds)
        counts = dict.fromkeys(sides, count)
        yield rate_row(f"{work}, transactions of 1,000", samples, WITHOUT, counts=counts, goal=TRANSACTION_GOAL)


def read_committed(run: Run) -> Iterator[Row]:
    """Polling what is committed beside polling everything, where nothing was aborted: of a topic without transactions, and of one with."""
    count = run.size(500_000, 100_000)
    keys, values = records(count)
    for work, transactional in (("poll", False), ("poll, transactions of 1,000", True)):
        with run.log() as log, fresh_topic(log) as topic:
            if transactional:
                with log.producer(transactional_id="benchmark") as producer:
                    for at in range(0, count, PER_TRANSACTION):
                        with producer.transaction():
                            producer.send_many(
                                topic, values[at : at + PER_TRANSACTION], keys[at : at + PER_TRANSACTION]
                            )
            else:
                fill(log, topic, keys, values)
            sides = {
                "streamlog": poll_side(log, topic, values, isolation_level="read_committed"),
                "read_uncommitted": poll_side(log, topic, values, isolation_level="read_uncommitted"),
            }
            samples = interleave(sides, 2 * run.rounds)
        counts = dict.fromkeys(sides, count)
        yield rate_row(f"{work}, read_committed", samples, "read_uncommitted", counts=counts, goal=COMMITTED_GOAL)


def _in_capitals(record: streamlog.Record) -> bytes:
    """The least that a handler may do."""
    value: bytes = record.value
    return value.upper()


def _json(record: streamlog.Record) -> bytes:
    """What handlers usually do at least: JSON in, JSON out."""
    found = json.loads(record.value)
    found["price"] *= 2
    return json.dumps(found).encode()


def pipes(run: Run) -> Iterator[Row]:
    """`pipe` beside a loop of poll, handler, send_many and commit, which doubles records after a crash."""
    count = run.size(100_000, 20_000)
    keys, values = records(count)
    documents = [
        json.dumps({"price": number, "name": value.hex()[:60]}).encode() for number, value in enumerate(values)
    ]
    yield _pipe(run, "pipe, JSON in and out", keys, documents, _json, PIPE_GOAL)
    yield _pipe(run, "pipe, values in capitals", keys, values, _in_capitals, None)


def _pipe(
    run: Run,
    work: str,
    keys: Sequence[bytes],
    values: Sequence[bytes],
    handler: Callable[[streamlog.Record], bytes],
    goal: float | None,
) -> Row:
    count = len(keys)

    def in_loop(log: streamlog.StreamLog, source: str, sink: str) -> None:
        done = 0
        with log.consumer(source, group=sink, enable_auto_commit=False) as consumer, log.producer() as producer:
            while done < count:
                found = consumer.poll(timeout=10)
                if not found:
                    raise MeasurementError(f"poll found nothing after {done} of {count} records")
                producer.send_many(
                    sink,
                    [handler(record) for record in found],
                    [record.key for record in found],
                    timestamps_ms=[record.timestamp for record in found],
                )
                consumer.commit()
                done += len(found)

    def in_pipe(log: streamlog.StreamLog, source: str, sink: str) -> None:
        streamlog.pipe(log[source], handler, log[sink], group=sink, until_end=True)

    def side(log: streamlog.StreamLog, source: str, way: Callable[[streamlog.StreamLog, str, str], None]) -> Side:
        def timed() -> float:
            with fresh_topic(log) as sink:
                with stopwatch() as watch:
                    way(log, source, sink)
                expect("records in the sink", sum(1 for _ in log[sink].read()), count)
            return watch.seconds

        return timed

    with run.log() as log, fresh_topic(log) as source:
        fill(log, source, keys, values)
        sides = {"streamlog": side(log, source, in_pipe), "loop": side(log, source, in_loop)}
        samples = interleave(sides, run.rounds)
    return rate_row(work, samples, "loop", counts=dict.fromkeys(sides, count), goal=goal)
