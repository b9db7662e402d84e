"""`Producer.send` is a method like any other for what programs and their tests do with methods, with the core in C and without.

The core puts an object of its own in the place of the function. Mocks, weak references, copies and clocks of tests have to find
what they find with the function.
"""

from __future__ import annotations

import copy
import ctypes
import functools
import inspect
import pickle
import random
import time
import types
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest

import streamlog
from streamlog import Producer, RecordMetadata

A_TIME_MS = 978_307_200_123


def test_double_made_from_the_class_takes_only_what_send_takes() -> None:
    for double in (mock.create_autospec(Producer, instance=True), mock.create_autospec(Producer).return_value):
        double.send("t", b"v", b"k")
        double.send.assert_called_once_with("t", b"v", key=b"k")
        with pytest.raises(TypeError, match="unexpected keyword argument 'prio'"):
            double.send("t", b"v", prio=1)
        with pytest.raises(TypeError, match="missing a required argument: 'topic'"):
            double.send()


def test_patch_of_the_class_is_given_the_producer() -> None:
    with streamlog.open(auto_create_topics=True) as log, log.producer(linger_ms=5) as producer:
        with mock.patch.object(Producer, "send", autospec=True) as send:
            producer.send("t", b"v", b"k")
        send.assert_called_once_with(producer, "t", b"v", b"k")
        producer.send("t", b"v", b"k")
        assert len(list(log["t"].read())) == 0
        producer.flush()
        assert len(list(log["t"].read())) == 1


def test_send_looks_like_a_function() -> None:
    assert inspect.isfunction(Producer.send)
    assert "send" in dict(inspect.getmembers(Producer, inspect.isfunction))
    assert isinstance(Producer.send, types.FunctionType)
    assert list(inspect.signature(Producer.send).parameters)[:4] == ["self", "topic", "value", "key"]
    assert repr(Producer.send).startswith("<function Producer.send at 0x")
    Producer.send.noted = "by a program"  # type: ignore[attr-defined]
    assert Producer.send.noted == "by a program"  # type: ignore[attr-defined]
    del Producer.send.noted  # type: ignore[attr-defined]
    assert not hasattr(Producer.send, "noted")


def test_send_is_copied_and_pickled_by_its_name() -> None:
    makes: list[Callable[[Any], Any]] = [copy.copy, copy.deepcopy, lambda send: pickle.loads(pickle.dumps(send))]
    for make in makes:
        assert make(Producer.send) is Producer.send


def test_bound_send_is_referred_to_weakly() -> None:
    with streamlog.open(auto_create_topics=True) as log, log.producer() as producer:
        send = weakref.WeakMethod(producer.send)
        found = send()
        assert found is not None
        assert found("t", b"v").result().offset == 0
    assert weakref.ref(Producer.send)() is Producer.send


class Prefixing(Producer):
    emit = functools.partialmethod(Producer.send, "t")

    def send(self, topic: Any, value: Any = None, key: Any = None, **named: Any) -> streamlog.Delivery[RecordMetadata]:
        return super().send(topic, b"> " + value, key, **named)


def test_subclass_sends_through_its_base() -> None:
    with streamlog.open(auto_create_topics=True) as log:
        with Prefixing(log, linger_ms=1000) as producer:
            for _ in range(2):
                producer.send("t", b"a", b"k")
                producer.emit(b"b", b"k")
                producer.emit(b"c", key=b"k")
                Producer.send(producer, "t", b"d", b"k")
        assert [record.value for record in log["t"].read()] == [b"> a", b"b", b"c", b"d"] * 2


@contextmanager
def another_clock(time_ms: int) -> Iterator[None]:
    """As time-machine does it: what the built-in function `time.time_ns` calls is replaced, and the function stays."""
    made = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_void_p)(
        lambda of, ignored: time_ms * 1_000_000
    )
    definition = ctypes.c_void_p.from_address(id(time.time_ns) + object.__basicsize__).value
    assert definition is not None
    called = ctypes.c_void_p.from_address(definition + ctypes.sizeof(ctypes.c_void_p))
    before = called.value
    called.value = ctypes.cast(made, ctypes.c_void_p).value
    try:
        yield
    finally:
        called.value = before


def test_clock_of_a_test_gives_the_timestamps_of_a_batch_that_is_open() -> None:
    with streamlog.open(auto_create_topics=True) as log, log.producer(linger_ms=1000) as producer:
        producer.send("t", b"v", b"k")
        with another_clock(A_TIME_MS):
            sent = [producer.send("t", b"v", b"k") for _ in range(2)]
        after = producer.send("t", b"v", b"k")
        assert [each.result().timestamp for each in sent] == [A_TIME_MS] * 2
        assert after.result().timestamp > A_TIME_MS


def batches_of(
    send: Callable[..., object], records: list[tuple[Any, Any, bool]], segment_bytes: int, batch_size: int
) -> list[Any]:
    """What becomes of records that are sent so: the batches of the topic. Some are flushed at once."""
    with streamlog.open() as log:
        log.create_topic("t", segment_bytes=segment_bytes)
        with log.producer(linger_ms=3_600_000, batch_size=batch_size) as producer:
            for key, value, flushes in records:
                send(producer, "t", value, key)
                if flushes:
                    producer.flush()
        return [(list(batch.offsets), list(batch.keys), list(batch.values)) for batch in log["t"].read_batches()]


@pytest.mark.parametrize("segment_bytes", [1 << 12, 1 << 20])
@pytest.mark.parametrize("batch_size", [1, 100, 1_000, 16_384])
def test_records_come_into_the_same_batches_whichever_way_they_are_sent(
    rng: random.Random, batch_size: int, segment_bytes: int
) -> None:
    def entry() -> bytes | None:
        return None if rng.random() < 0.05 else rng.randbytes(rng.choice([0, 3, 20, 20, 20, 300, 1_500]))

    def in_python(producer: Any, *record: Any) -> object:
        return producer._send(*record, None, None, None)

    records = [(entry(), entry(), rng.random() < 0.02) for _ in range(500)]
    sent = batches_of(streamlog.Producer.send, records, segment_bytes, batch_size)
    assert sent == batches_of(in_python, records, segment_bytes, batch_size)
    assert [(key, value) for batch in sent for key, value in zip(*batch[1:], strict=True)] == [
        each[:2] for each in records
    ]
