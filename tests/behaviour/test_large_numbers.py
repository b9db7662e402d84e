"""Numbers that no offset, count or timeout can be: a typed error at the call, or what the caller meant, never another
library's OverflowError; and nothing of them is left for `close`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import streamlog
from streamlog import ConfigError, OffsetAndMetadata, OffsetOutOfRangeError, Record, TopicPartition

P0 = TopicPartition("t", 0)
HUGE = [2**63 - 1, 2**63, 2**64, 10**400, 10**5000]
NO_OFFSET = [2**63, 2**64, 10**400, 10**5000, -1, -(2**63), -(10**5000), True, 1.0, "1", None]
NO_TIMEOUT: list[Any] = [float("nan"), "1", b"1", True, [], 1j]


@pytest.fixture
def topic(log: streamlog.StreamLog) -> streamlog.Topic[Any, Any]:
    topic = log.create_topic("t")
    topic.send_many(["0", "1", "2"]).result()
    return topic


@pytest.mark.parametrize("most", HUGE, ids=lambda most: f"2**{most.bit_length()}")
def test_more_records_than_there_can_be_are_all_there_are(
    log: streamlog.StreamLog, topic: streamlog.Topic[Any, Any], most: int
) -> None:
    with log.consumer("t", max_poll_records=min(most, 2**63 - 1)) as consumer:
        assert len(consumer.poll(max_records=most)) == 3
        for read in (
            lambda: consumer.poll(),
            lambda: list(consumer.until_end()),
            lambda: [record for batch in consumer.poll_batches(max_records=most) for record in batch],
        ):
            consumer.seek_to_beginning()
            assert len(read()) == 3


@pytest.mark.parametrize("offset", NO_OFFSET, ids=lambda offset: f"{type(offset).__name__} {offset == -1!s}")
def test_what_is_no_offset_is_refused_and_leaves_nothing_behind(
    log: streamlog.StreamLog, topic: streamlog.Topic[Any, Any], offset: Any
) -> None:
    consumer = log.consumer("t", group="g")
    assert len(consumer.poll(max_records=1)) == 1
    with pytest.raises(OffsetOutOfRangeError):
        consumer.seek(P0, offset)
    for wanted in ({P0: offset}, {P0: OffsetAndMetadata(offset)}, Record("t", 0, offset, 0, None, None, ())):
        with pytest.raises(ConfigError):
            consumer.commit(wanted)
    for call in (
        lambda: topic.read(start=offset),
        lambda: topic.read(end=offset),
        lambda: topic.delete_records({0: offset}),
    ):
        if offset is not None and not isinstance(offset, str):
            with pytest.raises(OffsetOutOfRangeError):
                call()
    assert consumer.position(P0) == 1
    consumer.poll(max_records=1)
    consumer.close()
    assert log.group("g").committed() == {P0: 1}


def test_the_largest_offset_is_one(log: streamlog.StreamLog, topic: streamlog.Topic[Any, Any]) -> None:
    with log.consumer("t", group="g", auto_offset_reset="latest") as consumer:
        consumer.poll()
        consumer.seek(P0, 2**63 - 1)
        consumer.commit()
        assert log.group("g").committed() == {P0: 2**63 - 1}
        assert consumer.poll() == []
        assert consumer.position(P0) == 3


@pytest.mark.parametrize(
    "position",
    [
        OffsetAndMetadata(1, 2**64),
        OffsetAndMetadata(1, b"x"),
        OffsetAndMetadata(1, "", 2**31),
        OffsetAndMetadata(1, "", -1),
    ],  # type: ignore[arg-type]
    ids=str,
)
def test_what_can_not_be_stored_with_a_commit_is_refused(
    log: streamlog.StreamLog, topic: streamlog.Topic[Any, Any], position: OffsetAndMetadata
) -> None:
    with log.consumer("t", group="g", enable_auto_commit=False) as consumer:
        consumer.poll()
        with pytest.raises(ConfigError):
            consumer.commit({P0: position})
    assert log.group("g").committed() == {}


def waits(log: streamlog.StreamLog) -> dict[str, Callable[[Any], object]]:
    """Every call that takes a timeout, with what it waits for there already."""
    topic, consumer, other = log["t"], log.consumer("t"), log.consumer("t")
    producer = log.producer(linger_ms=60_000)
    return {
        "poll": lambda timeout: consumer.poll(timeout),
        "poll_batches": lambda timeout: other.poll_batches(timeout),
        "until_end": lambda timeout: list(consumer.until_end(timeout)),
        "result": lambda timeout: producer.send("t", "x").result(timeout),
        "exception": lambda timeout: producer.send("t", "x").exception(timeout),
        "send_many": lambda timeout: producer.send_many("t", ["x"]).result(timeout),
        "flush": lambda timeout: producer.flush(timeout),
        "wait": lambda timeout: (
            log.group("w").start(lambda record: None, topic, workers=1, until_end=True).wait(timeout)
        ),
        "close": lambda timeout: producer.close(timeout),
    }


def test_a_timeout_longer_than_any_program_runs_is_a_wait(
    log: streamlog.StreamLog, topic: streamlog.Topic[Any, Any]
) -> None:
    for timeout in (2**63, 10**400, float("inf")):
        for call in waits(log).values():
            call(timeout)


@pytest.mark.parametrize("timeout", NO_TIMEOUT, ids=repr)
def test_what_is_no_timeout_is_refused_at_the_call(
    log: streamlog.StreamLog, topic: streamlog.Topic[Any, Any], timeout: Any
) -> None:
    for name, call in waits(log).items():
        with pytest.raises(ConfigError, match="timeout"):
            call(timeout)
            pytest.fail(f"{name} took it")
