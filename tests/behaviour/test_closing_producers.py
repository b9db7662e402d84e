"""A producer that closes: what it accepted is in the log, and what comes later is refused."""

from __future__ import annotations

import array
import threading
from collections.abc import Callable
from typing import Any

import pytest

import streamlog
from tests.contents import values
from tests.times import LONG


def test_a_send_whose_serializer_closes_the_producer_is_refused(log: streamlog.StreamLog) -> None:
    log.create_topic("t")

    def close_at_two(value: bytes) -> bytes:
        if value == b"2":
            producer.close()
        return value

    producer = log.producer(linger_ms=60_000, value_serializer=close_at_two)
    first = producer.send("t", b"1")
    with pytest.raises(streamlog.ClosedError):
        producer.send("t", b"2")
    assert producer.closed
    assert first.done()
    assert values(log) == [b"1"]


def test_a_send_many_whose_serializer_closes_the_producer_is_refused(log: streamlog.StreamLog) -> None:
    log.create_topic("t")

    def close_at_two(value: bytes) -> bytes:
        if value == b"2":
            producer.close()
        return value

    producer = log.producer(linger_ms=60_000, value_serializer=close_at_two)
    producer.send("t", b"0")
    with pytest.raises(streamlog.ClosedError):
        producer.send_many("t", [b"1", b"2", b"3"])
    assert values(log) == [b"0"]


def test_a_producer_closed_between_two_threads_steps_accepts_nothing_more(
    log: streamlog.StreamLog, in_thread: Callable[[Callable[[], Any]], Any]
) -> None:
    log.create_topic("t")
    serializing, closed = threading.Event(), threading.Event()

    def pause(value: bytes) -> bytes:
        serializing.set()
        assert closed.wait(LONG)
        return value

    producer = log.producer(linger_ms=60_000, value_serializer=pause)
    sent = in_thread(lambda: producer.send("t", b"late"))
    assert serializing.wait(LONG)
    producer.close()
    closed.set()
    assert isinstance(sent.exception(10), streamlog.ClosedError)
    assert values(log) == []


@pytest.mark.parametrize("linger_ms", [0, 60_000])
def test_a_producer_closed_while_it_looks_up_a_topic_stays_closed(
    log: streamlog.StreamLog, in_thread: Callable[[Callable[[], Any]], Any], linger_ms: int
) -> None:
    log.create_topic("t")

    class ClosesFirst:
        """A Serde whose `serialize` is looked up when the producer is made, and when a topic is."""

        @property
        def serialize(self) -> Callable[[bytes], bytes]:
            if producers:
                in_thread(producers[0].close).result(timeout=LONG)
            return bytes

    producers: list[streamlog.Producer] = []
    producers.append(log.producer(linger_ms=linger_ms, value_serializer=ClosesFirst()))
    for _ in range(3):  # a later send must not find what was looked up meanwhile either
        with pytest.raises(streamlog.ClosedError):
            producers[0].send("t", b"v", b"k")
    assert values(log) == []


@pytest.mark.parametrize("linger_ms", [0, 60_000])
def test_every_record_accepted_while_another_thread_closes_is_in_the_log(
    log: streamlog.StreamLog, in_thread: Callable[[Callable[[], Any]], Any], linger_ms: int
) -> None:
    log.create_topic("t")
    producer = log.producer(linger_ms=linger_ms)
    accepted: list[streamlog.Delivery[streamlog.RecordMetadata]] = []
    some = threading.Event()

    def send_until_refused() -> None:
        while True:
            accepted.append(producer.send("t", b"x", b"k"))
            if len(accepted) == 200:
                some.set()

    sender = in_thread(send_until_refused)
    assert some.wait(LONG)
    producer.close()
    assert isinstance(sender.exception(10), streamlog.ClosedError)
    assert all(delivery.done() for delivery in accepted)
    assert len(values(log)) == len(accepted)


@pytest.mark.parametrize("linger_ms", [0, 5, 60_000])
def test_a_header_that_utf8_cannot_hold_is_refused_and_poisons_nothing(
    log: streamlog.StreamLog, linger_ms: int
) -> None:
    log.create_topic("t")
    producer = log.producer(linger_ms=linger_ms)
    with pytest.raises(streamlog.SerializationError):
        producer.send("t", b"bad", headers={"\ud800": b"x"})
    with pytest.raises(streamlog.SerializationError):
        producer.send_many("t", [b"bad"], headers={"\ud800": b"x"})
    producer.send("t", b"good", b"k")
    producer.flush()
    producer.close()
    assert values(log) == [b"good"]


@pytest.mark.parametrize("linger_ms", [0, 60_000])
def test_a_value_that_utf8_cannot_hold_is_refused_and_poisons_nothing(log: streamlog.StreamLog, linger_ms: int) -> None:
    log.create_topic("t")
    producer = log.producer(linger_ms=linger_ms)
    with pytest.raises(streamlog.SerializationError):
        producer.send("t", "\ud800")
    producer.send("t", b"good")
    producer.flush()
    assert values(log) == [b"good"]


def test_a_buffer_that_cannot_be_packed_fails_with_its_batch_alone(log: streamlog.StreamLog) -> None:
    log.create_topic("t")
    with log.producer() as producer:
        with pytest.raises(streamlog.DeliveryError, match="could not be encoded") as caught:
            producer.send_many("t", [array.array("i", [1, 2])])
        assert isinstance(caught.value.failed[0], streamlog.SerializationError)
        producer.send("t", b"good")
    assert values(log) == [b"good"]


@pytest.mark.parametrize("linger_ms", [0, 60_000])
def test_a_view_with_steps_is_sent_as_the_bytes_it_shows(log: streamlog.StreamLog, linger_ms: int) -> None:
    log.create_topic("t")
    producer = log.producer(linger_ms=linger_ms)
    producer.send("t", memoryview(b"abcdef")[::2])
    producer.send_many("t", [memoryview(b"abcdef")[1::2]])
    producer.flush()
    assert values(log) == [b"ace", b"bdf"]


def test_closing_the_log_after_a_refused_record_writes_the_others(
    open_log: Callable[..., streamlog.StreamLog],
) -> None:
    log = open_log()
    log.create_topic("t")
    log.create_topic("u")
    producer = log.producer(linger_ms=60_000)
    with pytest.raises(streamlog.SerializationError):
        producer.send("t", b"v", headers={"\ud800": b"x"})
    producer.send("u", b"innocent")
    log.close()
    assert log.closed
    assert producer.closed
    assert values(open_log(), "u") == [b"innocent"]


def test_a_log_closes_while_a_thread_makes_producers(
    open_log: Callable[..., streamlog.StreamLog], in_thread: Callable[[Callable[[], Any]], Any]
) -> None:
    log = open_log()
    log.create_topic("t")
    kept: list[streamlog.Producer] = []
    some = threading.Event()

    def make_until_refused() -> None:
        while True:
            kept.append(log.producer())
            log.producer().close()
            if len(kept) == 50:
                some.set()

    maker = in_thread(make_until_refused)
    assert some.wait(LONG)
    log.close()
    assert log.closed
    assert isinstance(maker.exception(10), streamlog.ClosedError)
    for producer in kept:  # the last one may have been made while the log closed: it must not take records either
        with pytest.raises(streamlog.ClosedError):
            producer.send("t", b"late", b"k")
