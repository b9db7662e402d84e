"""Threads that send on one producer with a linger add their records to one batch without waiting for each other.

So whatever another thread does between any two steps of a `send`, the record is written once, and its delivery says
where. The tests let a second thread act at each bytecode of a `send` in turn.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import streamlog
from streamlog import ClosedError, Delivery, Producer, RecordMetadata
from streamlog.records.core import core
from streamlog.testing import ManualClock
from tests.sampling import takes_all
from tests.times import LONG

CLIENT = str(Path(streamlog.__file__).parent / "client")
# How long the other thread may take before it is held to wait for the one that sends, which is then let on.
A_WHILE = 0.003

Sent = tuple[list[bytes], Delivery[Any]]
Other = Callable[[Producer], list[Sent]]
Send = Callable[[Producer], Sent]


def at_bytecode(nth: int, call: Callable[[], Any], act: Callable[[], object]) -> tuple[Any, bool]:
    """What `call` gives if a second thread runs `act` before its bytecode `nth`; and whether it has that many."""
    passed = 0
    second = threading.Thread(target=act, daemon=True)

    def enter(frame: FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(CLIENT):
            return None
        frame.f_trace = trace
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return trace

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal passed
        if event == "opcode":
            passed += 1
            if passed == nth:
                second.start()
                second.join(A_WHILE)
        return trace

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # Python 3.12 asks at `settrace` whether anybody has said so
    sys.settrace(enter)
    try:
        result = call()
    finally:
        sys.settrace(before)
        if passed >= nth:
            second.join(LONG)
            assert not second.is_alive(), f"bytecode {nth}: the other thread does not come to an end"
    return result, passed >= nth


def sent(producer: Producer, value: bytes, **options: Any) -> Sent:
    return [value], producer.send("t", value, b"k", **options)


def sent_many(producer: Producer, values: list[bytes]) -> Sent:
    return values, producer.send_many("t", values, [b"k"] * len(values))


def flush(producer: Producer) -> list[Sent]:
    producer.flush()
    return []


def send_one(producer: Producer) -> list[Sent]:
    return [sent(producer, b"other")]


def fill_the_batch(producer: Producer) -> list[Sent]:
    return [sent(producer, b"other%d" % n * 50) for n in range(3)]


def fill_it_and_flush(producer: Producer) -> list[Sent]:
    sent = fill_the_batch(producer)
    producer.flush()
    return sent


def send_many_full_batches(producer: Producer) -> list[Sent]:
    return [sent_many(producer, [b"other%d" % n * 120 for n in range(3)])]


def short(producer: Producer) -> Sent:
    return sent(producer, b"mine")


def with_headers(producer: Producer) -> Sent:
    return sent(producer, b"mine", headers={"a": b"b"})


def that_fills_the_batch(producer: Producer) -> Sent:
    return sent(producer, b"mine" * 150)


def many_that_linger(producer: Producer) -> Sent:
    return sent_many(producer, [b"mine%d" % n for n in range(4)])


def many_in_full_batches(producer: Producer) -> Sent:
    return sent_many(producer, [b"mine%d" % n * 120 for n in range(3)])


def placed(sends: list[Sent]) -> list[tuple[int, bytes]]:
    """Offset and value of each record, as the deliveries have it."""
    found: list[tuple[int, bytes]] = []
    for values, delivery in sends:
        result = delivery.result()
        places = [result] if isinstance(result, RecordMetadata) else [*result]
        found += [(place.offset, value) for place, value in zip(places, values, strict=True)]
    return found


def places(
    log: streamlog.StreamLog, before: list[bytes], send: Send, other: Other, first: int, step: int
) -> Iterator[int]:
    """Each bytecode of `send`, once `other` was run there and everything was found to be as it should."""
    for nth in count(first, step):
        start = log["t"].partition(0).high_watermark
        acted: list[Sent] = []
        with log.producer(linger_ms=60_000, batch_size=600) as producer:
            sends = [sent(producer, value) for value in before]
            mine, reached = at_bytecode(
                nth,
                lambda: send(producer),
                lambda: acted.extend(other(producer)),  # noqa: B023
            )
            producer.flush()
        found = [(record.offset, record.value) for record in log["t"].read(0, start=start)]
        assert sorted(placed([*sends, mine, *acted])) == found, f"bytecode {nth}"
        if not reached:
            return
        yield nth


@pytest.mark.slow
@pytest.mark.parametrize(
    "other", [flush, send_one, fill_the_batch, fill_it_and_flush, send_many_full_batches], ids=lambda f: f.__name__
)
@pytest.mark.parametrize(
    ("send", "before", "step"),
    [
        (short, [b"before"], 1),
        *((send, [b"before"], 5) for send in (with_headers, that_fills_the_batch)),
        *((send, [b"before"], 15) for send in (many_that_linger, many_in_full_batches)),
        *((send, [], 25) for send in (short, with_headers, that_fills_the_batch, many_that_linger)),
    ],
    ids=lambda value: value.__name__ if callable(value) else "into an open batch" if value else "as the first",
)
def test_another_thread_at_any_bytecode_of_a_send_loses_nothing_and_doubles_nothing(
    log: streamlog.StreamLog, rng: random.Random, before: list[bytes], step: int, send: Send, other: Other
) -> None:
    """`python -m tests.stress.sweeps` takes every bytecode."""
    log.create_topic("t")
    step = 1 if takes_all() else step * 2
    in_c = core is not None and send is short and before  # but for the test's clock
    assert sum(1 for _ in places(log, before, send, other, rng.randint(1, step), step)) > (1 if in_c else 7)


@pytest.mark.parametrize("send", [short, with_headers], ids=lambda f: f.__name__)
def test_a_send_while_the_producer_is_closed_is_written_or_refused(log: streamlog.StreamLog, send: Send) -> None:
    log.create_topic("t")
    refused = nth = 0
    reached = True
    while reached:
        nth += 1
        start = log["t"].partition(0).high_watermark
        producer = log.producer(linger_ms=60_000)
        producer.send("t", b"before", b"k")

        def attempt() -> Delivery[Any] | None:
            try:
                return send(producer)[1]  # noqa: B023
            except ClosedError:
                return None

        mine, reached = at_bytecode(nth, attempt, producer.close)
        producer.close()
        found = [record.value for record in log["t"].read(0, start=start)]
        assert found == [b"before"] + [b"mine"] * (mine is not None), f"bytecode {nth}"
        if mine is None:
            refused += 1
        else:
            assert mine.result().offset == start + 1, f"bytecode {nth}"
    assert refused, "closing came too late each time"


@pytest.mark.slow
@pytest.mark.parametrize("key", [b"k", None])
@pytest.mark.parametrize("before", [False, True], ids=["first", "second"])
def test_a_linger_ends_whatever_time_it_is_at_any_bytecode_of_a_send(
    log: streamlog.StreamLog, clock: ManualClock, rng: random.Random, before: bool, key: bytes | None
) -> None:
    log.create_topic("t")
    reached, nth = True, rng.randint(-3, 0)
    while reached:
        nth += 4
        with log.producer(linger_ms=5) as producer:
            if before:
                producer.send("t", b"before", b"k")
            mine, reached = at_bytecode(nth, lambda: producer.send("t", b"v", key), lambda: clock.advance(0.006))
            clock.advance(0.006)
            assert mine.done(), f"bytecode {nth}"
    in_c = core is not None and before and key is not None  # but for the test's clock
    assert nth > (5 if in_c else 50)
