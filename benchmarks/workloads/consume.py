"""Reading from the start to the end: records, and batches of columns."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import streamlog
from benchmarks import baselines
from benchmarks.figures import Row, rate_row
from benchmarks.measure import MeasurementError, Side, expect, interleave, stopwatch
from benchmarks.records import KEY_BYTES, chunks, records
from benchmarks.run import Run, expect_records, fresh_topic

WAIT_SECONDS = 10.0
"""How long a poll may wait for a record that exists: reached only if the library lost one."""


def fill(
    log: streamlog.StreamLog,
    topic: str,
    keys: Sequence[bytes],
    values: Sequence[bytes],
    compression_type: str | None = None,
) -> None:
    """Send all records to `topic`."""
    with log.producer(compression_type=compression_type) as producer:
        for some_keys, some_values in chunks(keys, values):
            producer.send_many(topic, some_values, some_keys)
    expect_records(log, topic, len(keys))


def poll_side(log: streamlog.StreamLog, topic: str, values: Sequence[bytes], **config: Any) -> Side:
    """Poll all records and look at each value, with the default `max_poll_records`."""
    count, payload_bytes = len(values), sum(map(len, values))

    def side() -> float:
        seen = size = 0
        with log.consumer(topic, **config) as consumer, stopwatch() as watch:
            while seen < count:
                records = consumer.poll(WAIT_SECONDS)
                if not records:
                    raise MeasurementError(f"poll found nothing after {seen} of {count} records")
                seen += len(records)
                for record in records:
                    size += len(record.value)
        expect("bytes polled", size, payload_bytes)
        return watch.seconds

    return side


def _all_batches(consumer: streamlog.Consumer[Any, Any], count: int) -> Iterator[list[streamlog.RecordBatch[Any, Any]]]:
    """What polls give until they have given `count` records."""
    seen = 0
    while seen < count:
        batches = consumer.poll_batches(WAIT_SECONDS)
        if not batches:
            raise MeasurementError(f"poll_batches found nothing after {seen} of {count} records")
        yield batches
        seen += sum(map(len, batches))


def poll_batches_side(log: streamlog.StreamLog, topic: str, values: Sequence[bytes]) -> Side:
    """Poll all batches and touch their columns, which makes a bytes object of every key and value."""
    count, payload_bytes = len(values), sum(map(len, values))

    def side() -> float:
        keys = size = last_offset = latest = 0
        with log.consumer(topic) as consumer, stopwatch() as watch:
            for batches in _all_batches(consumer, count):
                for batch in batches:
                    keys += sum(map(len, batch.keys))  # of each, for a column that makes an entry when it is asked for
                    size += sum(map(len, batch.values))
                    last_offset = batch.offsets[-1]
                    latest = max(latest, batch.timestamps[-1])
        expect("bytes polled", size, payload_bytes)
        expect("bytes of keys polled", keys, KEY_BYTES * count)
        expect("last offset", last_offset, count - 1)
        return watch.seconds

    return side


def buffers_side(log: streamlog.StreamLog, topic: str, values: Sequence[bytes]) -> Side:
    """Poll all batches and take their keys and values as Arrow has them, with no object for each record."""
    count, payload_bytes = len(values), sum(map(len, values))

    def side() -> float:
        keys = size = 0
        with log.consumer(topic) as consumer, stopwatch() as watch:
            for batches in _all_batches(consumer, count):
                for batch in batches:
                    keys += len(batch.buffers("key")[1]) - 1
                    size += len(batch.buffers("value")[2])
        expect("keys polled", keys, count)
        expect("bytes polled", size, payload_bytes)
        return watch.seconds

    return side


def plain_walk_side(path: Path, values: Sequence[bytes]) -> Side:
    """Walk the plain file and look at each value."""
    payload_bytes = sum(map(len, values))

    def side() -> float:
        size = 0
        with stopwatch() as watch:
            for _key, value in baselines.plain_walk(path):
                size += len(value)
        expect("bytes walked", size, payload_bytes)
        return watch.seconds

    return side


def poll(run: Run) -> Iterator[Row]:
    """`poll` and `poll_batches` beside the plain walk through the same records."""
    count = run.size(1_000_000, 200_000)
    keys, values = records(count)
    with run.log() as log, fresh_topic(log) as topic, run.scratch("plain") as directory:
        fill(log, topic, keys, values)
        baselines.plain_write(directory / "records", keys, values)
        sides = {
            "poll": poll_side(log, topic, values),
            "plain walk": plain_walk_side(directory / "records", values),
            "poll_batches": poll_batches_side(log, topic, values),
            "buffers": buffers_side(log, topic, values),
        }
        samples = interleave(sides, run.rounds)
    counts = dict.fromkeys(samples, count)
    yield rate_row("poll, Records", samples, "plain walk", counts=counts, goal=1.3, ours="poll")
    yield rate_row("poll_batches, columns touched", samples, "plain walk", counts=counts, goal=4.5, ours="poll_batches")
    yield rate_row("poll_batches, columns as buffers", samples, "plain walk", counts=counts, goal=10.0, ours="buffers")
