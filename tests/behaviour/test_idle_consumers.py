"""A consumer that waits does nothing until it is woken, or until a deadline that it knows."""

from collections.abc import Callable
from typing import Any

import pytest

import streamlog
from streamlog.client.consumer import consumer as consumers
from streamlog.runtime.threads import LongestSleep, RawGate, longest_sleep
from streamlog.testing import ManualClock
from tests.bytecodes import bytecodes

AN_HOUR = 3600.0


class Waits:
    """Stands in for every wait of a consumer: `passes` is called with its timeout, and the time goes by."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.timeouts: list[float] = []
        self.now = 1_000.0
        self.passes: Callable[[float], None] = lambda timeout: None
        waits = self

        class Gate(RawGate):
            def wait(self, timeout: float | None = None) -> bool:
                assert timeout is not None
                waits.timeouts.append(timeout)
                waits.now += timeout
                waits.passes(timeout)
                return self.is_open()

        monkeypatch.setattr(consumers, "RawGate", Gate)
        monkeypatch.setattr(consumers, "real_monotonic", lambda: waits.now)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    return Waits(monkeypatch)


def test_a_consumer_without_a_group_waits_in_one_go(log: streamlog.StreamLog, waits: Waits) -> None:
    log.create_topic("t", partitions=3)
    with log.consumer("t") as consumer:
        assert consumer.poll(AN_HOUR) == []
    assert waits.timeouts == [AN_HOUR]


def test_a_member_wakes_at_half_its_poll_interval(log: streamlog.StreamLog, waits: Waits) -> None:
    log.create_topic("t")
    with log.consumer("t", group="g", max_poll_interval_ms=600_000, enable_auto_commit=False) as consumer:
        assert consumer.poll(1_000) == []
    assert waits.timeouts == [300, 300, 300, 100]


def test_a_member_that_waits_commits_what_it_has_finished_when_it_is_time(
    log: streamlog.StreamLog, clock: ManualClock, waits: Waits
) -> None:
    topic = log.create_topic("t")
    waits.passes = clock.advance
    with log.consumer("t", group="g", auto_commit_interval_ms=7_000) as consumer:
        consumer.poll()
        topic.send(b"x")
        assert len(consumer.poll()) == 1
        clock.advance(3)
        assert consumer.poll(100) == []
        assert log.group("g").committed()["t", 0] == 1
    assert waits.timeouts == [pytest.approx(4), pytest.approx(96)]


def test_ten_thousand_waiting_consumers_take_less_than_two_percent_of_a_core(
    log: streamlog.StreamLog, clock: ManualClock, waits: Waits, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits.passes = clock.advance
    monkeypatch.setattr(longest_sleep, "data_s", LongestSleep().data_s)
    log.create_topic("t", partitions=3)
    rate = 30_000_000  # bytecodes a second, of a slow core
    for group in (None, "g"):
        others = [log.consumer("t", group=group) for _ in range(20)]
        for other in others * 3:
            other.poll()
        waits.timeouts.clear()
        consumer: Any = others[0]
        taken = bytecodes(lambda consumer=consumer: consumer.poll(AN_HOUR))
        share = 10_000 * taken / AN_HOUR / rate
        assert share < 0.02, (taken, len(waits.timeouts))
        for other in others:
            other.close()
