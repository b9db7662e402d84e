"""Background work of one kind waits for none of another, and what fails in it is in the metrics."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

import streamlog
from streamlog import SegmentInfo, StreamLog
from streamlog.testing import ManualClock
from tests.times import LONG


class Blocking:
    """A retention policy that does not answer until it may."""

    name = "blocking"

    def __init__(self) -> None:
        self.asked, self.may_answer = threading.Event(), threading.Event()

    def expired(self, segments: Sequence[SegmentInfo], now_ms: int) -> int:
        self.asked.set()
        self.may_answer.wait(LONG)
        return 0


@pytest.fixture
def blocking() -> Iterator[Blocking]:
    policy = Blocking()
    yield policy
    policy.may_answer.set()


def test_records_that_linger_do_not_wait_for_maintenance(tmp_path: Any, blocking: Blocking) -> None:
    with streamlog.open(tmp_path / "log") as log:
        slow = log.create_topic("slow", retention=blocking, segment_bytes=1024)
        log.create_topic("t")
        for _ in range(3):
            slow.send(b"x" * 1000)
        assert blocking.asked.wait(LONG)
        with log.producer(linger_ms=5) as producer, log.consumer("t") as consumer:
            producer.send("t", b"lingers")
            records = consumer.poll(timeout=LONG / 2)
        assert [record.value for record in records] == [b"lingers"]
        assert not blocking.may_answer.is_set()
        blocking.may_answer.set()


class Broken:
    name = "broken"

    def expired(self, segments: Sequence[SegmentInfo], now_ms: int) -> int:
        raise ValueError("no answer")


def test_metrics_name_a_policy_that_fails_for_as_long_as_it_does(log: StreamLog, clock: ManualClock) -> None:
    topic = log.create_topic("t", retention=Broken(), segment_bytes=1024)
    topic.send_many([b"x" * 500] * 10)
    clock.advance(1)
    assert log.metrics()["topics"]["t"]["0"]["failures"] == {"retention policy": "ValueError: no answer"}
    topic.update_config(retention=None)
    clock.advance(60)
    assert log.metrics()["topics"]["t"]["0"]["failures"] == {}
