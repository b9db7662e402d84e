"""Listeners: they get the Service of a log, and are closed with it, before anything else and within a bound."""

from __future__ import annotations

import os
from typing import Any

import pytest

import streamlog
from streamlog.broker.api import ProduceRequest, Service
from streamlog.records import columns
from streamlog.records.batch import seed_of


class Listening:
    """Notes when it is closed, and what can still be done then."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.closes: list[float] = []
        self.in_close: Any = lambda: None

    def close(self, timeout_s: float) -> None:
        self.closes.append(timeout_s)
        self.in_close()

    def send(self, topic: str, value: bytes) -> int:
        at = self.service.image.topics[topic].partition(0)
        batch = columns.seal(seed_of(at.topic_id, 0), None, [value], self.service.clock.time_ms(), count=1)
        return self.service.produce(ProduceRequest(at, [batch])).result()


def test_a_listener_serves_others_through_the_service(log: streamlog.StreamLog) -> None:
    topic = log.create_topic("t")
    listener = log.attach(Listening)
    assert listener.send("t", b"from elsewhere") == 0
    assert [record.value for record in topic.read()] == [b"from elsewhere"]


def test_a_listener_is_closed_while_producers_and_the_service_still_work(log: streamlog.StreamLog) -> None:
    log.create_topic("t")
    producer = log.producer(linger_ms=60_000)
    listener = log.attach(Listening)

    def last_requests() -> None:
        assert not producer.closed
        assert listener.send("t", b"last") == 0

    listener.in_close = last_requests
    log.close()
    assert len(listener.closes) == 1
    assert producer.closed
    assert isinstance(listener.service.topic("t").error(), streamlog.ClosedError)


def test_listeners_share_one_bound(log: streamlog.StreamLog, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr("streamlog.client.handle.real_monotonic", lambda: now_s)
    first, second = log.attach(Listening), log.attach(Listening)

    def take_long() -> None:
        nonlocal now_s
        now_s += 8.0

    first.in_close = take_long
    log.close()
    assert (first.closes, second.closes) == ([10.0], [2.0])


def test_a_listener_that_fails_to_close_keeps_nothing_open(log: streamlog.StreamLog) -> None:
    first, second = log.attach(Listening), log.attach(Listening)
    first.in_close = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        log.close()
    log.close()
    assert log.closed
    assert [len(each.closes) for each in (first, second)] == [1, 1]


def test_a_listener_whose_close_was_interrupted_is_closed_by_the_next_one(log: streamlog.StreamLog) -> None:
    listener = log.attach(Listening)

    def interrupt() -> None:
        listener.in_close = lambda: None
        raise KeyboardInterrupt

    listener.in_close = interrupt
    with pytest.raises(KeyboardInterrupt):
        log.close()
    assert not log.closed
    with pytest.raises(streamlog.ClosedError):
        log.attach(Listening)
    log.close()
    assert log.closed
    assert len(listener.closes) == 2


def test_a_listener_that_was_detached_is_left_alone(log: streamlog.StreamLog) -> None:
    listener = log.attach(Listening)
    log.detach(listener)
    log.detach(listener)
    log.close()
    assert listener.closes == []


def test_a_listener_made_while_the_log_is_closed_is_closed_at_once(log: streamlog.StreamLog) -> None:
    made: list[Listening] = []

    def make(service: Service) -> Listening:
        log.close()
        made.append(Listening(service))
        return made[0]

    with pytest.raises(streamlog.ClosedError):
        log.attach(make)
    assert made[0].closes == [0.0]
    with pytest.raises(streamlog.ClosedError):
        log.attach(Listening)


def test_what_making_a_listener_raises_is_raised(log: streamlog.StreamLog) -> None:
    with pytest.raises(ZeroDivisionError):
        log.attach(lambda service: 1 / 0)  # type: ignore[arg-type, return-value]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_close_the_listeners_of_its_parent(log: streamlog.StreamLog) -> None:
    listener = log.attach(Listening)
    pid = os.fork()
    if not pid:
        log.close()
        os._exit(len(listener.closes))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    log.close()
    assert len(listener.closes) == 1
