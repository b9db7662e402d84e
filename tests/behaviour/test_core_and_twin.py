"""A consumer gets the same from the core in C as from its twin in Python, whatever the log holds, and however it is read."""

from __future__ import annotations

import random
from typing import Any

import pytest

import streamlog
from streamlog import Consumer, TopicPartition
from streamlog.broker.fetched import FetchResult
from streamlog.records.core import core
from tests.mixed_topics import fill

pytestmark = pytest.mark.skipif(core is None, reason="the core in C was not built, or STREAMLOG_PURE=1 leaves it out")

AT = TopicPartition("t", 0)


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
    fill(log.create_topic("t", segment_bytes=1 << 14, cleanup_policy="compact"), rng)
    seed = rng.randrange(1 << 32)
    by_core = read(log, seed, isolation_level)
    monkeypatch.setattr(FetchResult, "has_reader", False)
    by_python = read(log, seed, isolation_level)
    assert [list(pair) for pair in zip(by_core, by_python, strict=True) if pair[0] != pair[1]] == []
