"""A change of one topic costs what it costs, however many topics there are: counted in lines of Python."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import pytest

import streamlog
from streamlog import serde
from streamlog.testing import ManualClock, SimulatedDisk
from tests.bytecodes import without_collections

FEW, MANY = 10, 1_000


def lines_of(work: Callable[[], object]) -> int:
    """How many lines of the library run in `work`, without those of the simulated disk. A loop counts each turn."""
    count = 0

    def line(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return line

    def enter(frame: FrameType, event: str, argument: Any) -> Any:
        path = frame.f_code.co_filename
        return line if "streamlog/" in path and "streamlog/testing/" not in path else None

    before = sys.gettrace()
    with without_collections():
        sys.settrace(enter)
        try:
            work()
        finally:
            sys.settrace(before)
    return count


class Log:
    """A log with a producer and a group, and with topics that no call is about."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.log = streamlog.open("/log", disk=SimulatedDisk(), clock=self.clock)
        self.made = 0
        self.log.create_topic("used").send("x")
        self.consumer = self.log.consumer("used", group="g")
        self.consumer.poll(timeout=0.0)
        self.producer = self.log.producer()
        self.producer.send("used", "y")

    def grow_to(self, topics: int) -> None:
        for number in range(self.made, topics):
            self.log.create_topic(f"other-{number}")
        self.made = topics

    def close(self) -> None:
        self.consumer.close()
        self.producer.close()
        self.log.close()

    def costs(self) -> dict[str, int]:
        """The lines of one call each; each was made before, so that nothing is made for the first time."""
        log = self.log
        found = {}
        for _ in range(2):
            found = {
                "create": lines_of(lambda: log.create_topic("t", partitions=2)),
                "send": lines_of(lambda: log["t"].send("x")),
                "configure": lines_of(lambda: log["t"].update_config(retention_ms=60_000)),
                "grow": lines_of(lambda: log["t"].add_partitions(3)),
                "again": lines_of(lambda: log.create_topic("t", exist_ok=True)),
                "delete": lines_of(lambda: log.delete_topic("t")),
            }
        return found


@pytest.fixture
def log() -> Iterator[Log]:
    made = Log()
    yield made
    made.close()


def test_changing_a_topic_costs_the_same_among_ten_topics_and_a_thousand(log: Log) -> None:
    log.grow_to(FEW)
    few = log.costs()
    log.grow_to(MANY)
    many = log.costs()
    assert {call: many[call] for call in many if many[call] > 1.2 * few[call]} == {}, few


def sends_to(producer: streamlog.Producer, topics: Sequence[Any]) -> float:
    """The lines of one send, when each topic gets a record in turn, and every batch one at least. One flush ends it."""

    def send_to_each() -> None:
        for topic in topics:
            producer.send(topic, b"x" * 50, b"key")

    send_to_each()
    lines = lines_of(lambda: [send_to_each() for _ in range(4)]) / (4 * len(topics))
    producer.flush()
    return lines


def test_a_lingering_send_costs_the_same_to_ten_topics_and_to_more_than_whole_batches_fit_into_the_buffer(
    log: Log,
) -> None:
    """With room for a whole batch reserved for each topic, every record was a batch of its own."""
    log.grow_to(300)
    names = [f"other-{number}" for number in range(300)]
    with log.log.producer(linger_ms=60_000, buffer_memory=100 * 16_384) as producer:
        few, many = sends_to(producer, names[:FEW]), sends_to(producer, names)
    assert many <= 1.2 * few


def test_a_send_costs_the_same_to_ten_handles_with_serdes_and_to_a_handle_of_each_topic(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamlog.client.producer.topic_cache.MAX_HANDLES_WITH_SERDES", 50)
    log.grow_to(300)
    handles = [
        log.log.topic(f"other-{number}", key_serde=serde.bytes_, value_serde=serde.bytes_) for number in range(300)
    ]
    with log.log.producer(linger_ms=60_000) as producer:
        few, many = sends_to(producer, handles[:FEW]), sends_to(producer, handles)
    assert many <= 1.2 * few


@pytest.mark.slow
def test_a_flush_costs_the_same_after_ten_topics_and_after_a_thousand(log: Log) -> None:
    log.grow_to(MANY)
    with log.log.producer(linger_ms=60_000) as producer:
        costs = []
        for topics in (FEW, MANY):
            for number in range(topics):
                producer.send(f"other-{number}", b"x")
            producer.flush()
            producer.send("used", b"x")
            costs.append(lines_of(producer.flush))
    assert costs[1] <= 1.2 * costs[0]


@pytest.mark.slow
def test_a_linger_that_ends_costs_the_same_beside_ten_open_batches_and_beside_a_thousand(log: Log) -> None:
    log.grow_to(MANY)
    clock = log.clock
    costs = []
    for topics in (FEW, MANY):
        with log.log.producer(linger_ms=60_000) as producer:
            producer.send("used", b"x")
            clock.advance(1)
            for number in range(topics):
                producer.send(f"other-{number}", b"x")
            costs.append(lines_of(lambda: clock.advance(59)))
    assert costs[1] <= 1.2 * costs[0]


def test_opening_costs_the_same_for_each_of_ten_partitions_and_a_thousand() -> None:
    disk = SimulatedDisk()
    costs = []
    for partitions in (FEW, MANY):
        with streamlog.open(f"/{partitions}", disk=disk, clock=ManualClock()) as log:
            for number in range(partitions // 5):
                log.create_topic(f"t{number}", partitions=5)
        opened: list[streamlog.StreamLog] = []
        lines = lines_of(
            lambda partitions=partitions, opened=opened: opened.append(  # type: ignore[misc]
                streamlog.open(f"/{partitions}", disk=disk, clock=ManualClock())
            )
        )
        opened[0].close()
        costs.append(lines / partitions)
    assert costs[1] <= 1.2 * costs[0]
