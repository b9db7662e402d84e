"""What `listener.control` does to Kafka's clients: errors, delays, lost connections and responses; brokers, groups, time, versions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import streamlog
from streamlog.kafka import Control, Listener
from tests.kafka.clients import WAIT_S, consumed

confluent_kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")


@pytest.fixture
def log() -> Iterator[streamlog.StreamLog]:
    with streamlog.open(brokers=3) as log:
        yield log


@pytest.fixture
def listener(log: streamlog.StreamLog) -> Iterator[Listener]:
    with Listener(log, initial_rebalance_delay_ms=20) as listener:
        yield listener


@pytest.fixture
def control(listener: Listener) -> Control:
    return listener.control


Send = Callable[..., list[Any]]


@pytest.fixture
def send(listener: Listener) -> Send:
    """Send values one by one with confluent-kafka; the error of each, or None."""

    def send(topic: str, values: list[bytes], **settings: Any) -> list[Any]:
        errors: list[Any] = []
        producer = confluent_kafka.Producer(
            {"bootstrap.servers": listener.bootstrap_servers, "retry.backoff.ms": 10, **settings}
        )
        for value in values:
            producer.produce(topic, value, callback=lambda error, message: errors.append(error))
            assert producer.flush(WAIT_S) == 0
        return [error and error.name() for error in errors]

    return send


def values_of(log: streamlog.StreamLog, topic: str = "t") -> list[bytes | None]:
    return [record.value for record in log[topic].read()]


# -- errors ----------------------------------------------------------------------------------------------


def test_a_producer_tries_again_after_an_error_that_it_may_and_loses_nothing(
    log: streamlog.StreamLog, control: Control, send: Send
) -> None:
    log.create_topic("t")
    fault = control.inject_error("Produce", "NOT_LEADER_OR_FOLLOWER", topic="t", nth=2, times=2)
    assert send("t", [b"a", b"b", b"c"]) == [None] * 3
    assert values_of(log) == [b"a", b"b", b"c"]
    assert fault.fired == 2
    assert control.unfired() == []
    assert len(control.requests("Produce", topic="t")) == 5


def test_an_error_that_is_final_is_what_the_delivery_report_says(
    log: streamlog.StreamLog, control: Control, send: Send
) -> None:
    log.create_topic("t")
    control.inject_error("Produce", "TOPIC_AUTHORIZATION_FAILED", partition=0)
    assert send("t", [b"a"]) == ["TOPIC_AUTHORIZATION_FAILED"]
    assert send("t", [b"b"]) == [None]
    assert values_of(log) == [b"b"]


def test_an_error_after_the_work_leaves_the_records_in_the_log(
    log: streamlog.StreamLog, control: Control, send: Send
) -> None:
    log.create_topic("t")
    control.inject_error("Produce", "INVALID_RECORD", after=True)
    assert send("t", [b"a", b"b"]) == ["INVALID_RECORD", None]
    assert values_of(log) == [b"a", b"b"]


@pytest.mark.parametrize(("idempotent", "copies"), [(True, 1), (False, 2)])
def test_a_response_that_is_lost_gives_a_duplicate_unless_the_producer_is_idempotent(
    log: streamlog.StreamLog, control: Control, send: Send, idempotent: bool, copies: int
) -> None:
    log.create_topic("t")
    fault = control.drop_response("Produce", nth=2)
    assert send("t", [b"a", b"b", b"c"], **{"enable.idempotence": idempotent}) == [None] * 3
    assert values_of(log) == [b"a", *[b"b"] * copies, b"c"]
    assert fault.fired == 1


def test_a_connection_that_is_closed_before_the_work_loses_nothing(
    log: streamlog.StreamLog, control: Control, listener: Listener, send: Send
) -> None:
    log.create_topic("t")
    control.disconnect("Produce", times=2)
    control.disconnect("Fetch")
    assert send("t", [b"a", b"b"]) == [None] * 2
    assert [each.value() for each in consumed(listener, "t", 2)] == [b"a", b"b"]
    assert control.unfired() == []
