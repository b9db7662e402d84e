"""Real threads that send on one producer, with as many switches between them as Python can be made to do.

Each record is checked against its delivery, each thread's records are in its order, what was sent before a flush is
written after it, every linger ends by itself, and the buffer is empty in the end.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import Delivery, Producer, RecordMetadata
from tests.times import LONG

pytestmark = pytest.mark.slow
THREADS = 4
LEAST = 25  # records of each thread
SECONDS = float(os.environ.get("STREAMLOG_STRESS_S", "0.4"))  # of each case; more for a long run
Sent = list[tuple[Delivery[RecordMetadata], bytes, bytes | None, bool]]

CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "small batches": ({"linger_ms": 1, "batch_size": 300}, {}, {}),
    "a small buffer": ({"linger_ms": 1, "batch_size": 300, "buffer_memory": 2000}, {}, {}),
    "compressed, with the log's times": (
        {"linger_ms": 1, "compression_type": "gzip"},
        {"message_timestamp_type": "LogAppendTime"},
        {},
    ),
    "synced": ({"linger_ms": 2, "batch_size": 1000}, {}, {"sync": True}),
    "without a linger": ({"linger_ms": 0}, {}, {}),
    "without a linger, synced": ({"linger_ms": 0, "batch_size": 200, "buffer_memory": 1000}, {}, {"sync": True}),
    "three partitions": ({"linger_ms": 1, "batch_size": 200, "buffer_memory": 900}, {"partitions": 3}, {}),
}


@pytest.fixture(autouse=True)
def many_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def send(producer: Producer, me: int, rng: random.Random, sent: Sent, errors: list[BaseException]) -> None:
    """Send until the time is over, and `LEAST` records, flushing and asking for results now and then."""
    end = time.monotonic() + SECONDS
    try:
        while time.monotonic() < end or len(sent) < LEAST:
            value = b"%d:%d:" % (me, len(sent)) + b"x" * rng.choice((0, 5, 60))
            kind = rng.random()
            key = b"%d" % me if kind < 0.9 else None
            headers = {"n": b"%d" % len(sent)} if kind < 0.1 else None
            delivery = producer.send("t", value, key, headers=headers)
            sent.append((delivery, value, key, headers is not None))
            if kind > 0.995:
                producer.flush()
                assert all(each[0].done() for each in sent[-50:]), "the flush came back too early"
            elif kind > 0.99:
                delivery.result()
    except BaseException as error:
        errors.append(error)


def until_all_are_done(sent: Sent) -> bool:
    end = time.monotonic() + LONG
    while not all(each[0].done() for each in sent) and time.monotonic() < end:
        time.sleep(0.01)
    return all(each[0].done() for each in sent)


@pytest.mark.parametrize("case", CASES)
def test_threads_that_send_on_one_producer_find_each_record_where_its_delivery_says(
    tmp_path: Path, rng: random.Random, case: str
) -> None:
    of_producer, of_topic, of_log = CASES[case]
    with streamlog.open(tmp_path / "data", **of_log) as log:
        log.create_topic("t", **of_topic)
        sent: list[Sent] = [[] for _ in range(THREADS)]
        errors: list[BaseException] = []
        with log.producer(max_request_size=500, **of_producer) as producer:
            threads = [
                threading.Thread(target=send, args=(producer, me, random.Random(rng.random()), sent[me], errors))
                for me in range(THREADS)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(LONG)
            assert not any(thread.is_alive() for thread in threads)
            assert not errors, errors
            assert all(map(until_all_are_done, sent)), "a linger does not end"
            assert producer._accumulator._buffered == 0
        found = {(r.partition, r.offset): r for n in range(log["t"].partitions) for r in log["t"].read(n)}
    assert len(found) == sum(map(len, sent)) >= THREADS * LEAST
    for own in sent:
        last: dict[int, int] = {}
        for delivery, value, key, with_headers in own:
            place = delivery.result()
            record = found[place.partition, place.offset]
            assert (record.value, record.key, bool(record.headers)) == (value, key, with_headers)
            assert record.timestamp == place.timestamp
            assert last.get(place.partition, -1) < place.offset, "out of order"
            last[place.partition] = place.offset
