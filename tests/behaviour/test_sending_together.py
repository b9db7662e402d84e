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

CLIENT = str(Path(streamlog.__file__).parent / "client")
# How long the other thread may take before it is held to wait for the one that sends, which is then let on.
A_WHILE = 0.003

Other = Callable[[Producer], "list[Delivery[RecordMetadata]]"]
Send = Callable[[Producer], "Delivery[RecordMetadata]"]


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
    sys.settrace(enter)
    try:
        result = call()
    finally:
        sys.settrace(before)
        if passed >= nth:
            second.join(10)
            assert not second.is_alive(), f"bytecode {nth}: the other thread does not come to an end"
    return result, passed >= nth


def flush(producer: Producer) -> list[Delivery[RecordMetadata]]:
    producer.flush()
    return []


def send_one(producer: Producer) -> list[Delivery[RecordMetadata]]:
    return [producer.send("t", b"other", b"k")]


def fill_the_batch(producer: Producer) -> list[Delivery[RecordMetadata]]:
    return [producer.send("t", b"%03d" % n * 100, b"k") for n in range(3)]


def fill_it_and_flush(producer: Producer) -> list[Delivery[RecordMetadata]]:
    sent = fill_the_batch(producer)
    producer.flush()
    return sent


def short(producer: Producer) -> Delivery[RecordMetadata]:
    return producer.send("t", b"mine", b"k")


def with_headers(producer: Producer) -> Delivery[RecordMetadata]:
    return producer.send("t", b"mine", b"k", headers={"a": b"b"})


def that_fills_the_batch(producer: Producer) -> Delivery[RecordMetadata]:
    return producer.send("t", b"mine" * 150, b"k")


def places(
    log: streamlog.StreamLog, before: list[bytes], send: Send, other: Other, first: int, step: int
) -> Iterator[int]:
    """Each bytecode of `send`, once `other` was run there and everything was found to be as it should."""
    for nth in count(first, step):
        start = log["t"].partition(0).high_watermark
        acted: list[Delivery[RecordMetadata]] = []
        with log.producer(linger_ms=60_000, batch_size=600) as producer:
            sent = [producer.send("t", value, b"k") for value in before]
            mine, reached = at_bytecode(
                nth, lambda: send(producer), lambda: acted.extend(other(producer))  # noqa: B023
            )
            producer.flush()
        found = {record.offset: record.value for record in log["t"].read(0, start=start)}
        assert len(found) == len(sent) + 1 + len(acted), f"bytecode {nth}: {found}"
        where = [delivery.result().offset for delivery in (*sent, mine, *acted)]
        assert len(set(where)) == len(where), f"bytecode {nth}: {where}"
        assert found[mine.result().offset].startswith(b"mine"), f"bytecode {nth}"
        for delivery in acted:
            assert not found[delivery.result().offset].startswith(b"mine"), f"bytecode {nth}"
        if not reached:
            return
        yield nth


@pytest.mark.parametrize("other", [flush, send_one, fill_the_batch, fill_it_and_flush], ids=lambda f: f.__name__)
@pytest.mark.parametrize("send", [short, with_headers, that_fills_the_batch], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("before", "step"), [([b"before"], 1), ([], 8)], ids=["into an open batch", "with the first one of a producer"]
)
def test_another_thread_at_any_bytecode_of_a_send_loses_nothing_and_doubles_nothing(
    log: streamlog.StreamLog, rng: random.Random, before: list[bytes], step: int, send: Send, other: Other
) -> None:
    log.create_topic("t")
    assert sum(1 for _ in places(log, before, send, other, rng.randint(1, step), step)) > 50


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

        def attempt() -> Delivery[RecordMetadata] | None:
            try:
                return send(producer)  # noqa: B023
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
