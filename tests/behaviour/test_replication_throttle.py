"""A reassignment copies no faster than it may, on the log's clock; followers that are in sync are not held up."""

from __future__ import annotations

from pathlib import Path

import pytest

import streamlog
from streamlog import ConfigError, ReadOnlyError, StreamLog
from streamlog.replication.throttle import BURST_S
from streamlog.testing import ManualClock

from .traffic import eventually, traffic, values

RATE = 10_000
BATCH = 1_000


def filled(log: StreamLog, topic: str, batches: int) -> None:
    log.create_topic(topic, replication_factor=1)
    for n in range(batches):
        log[topic].send(b"%d" % n + bytes(BATCH))


def copied(log: StreamLog, topic: str, broker: int) -> int:
    """The bytes that a broker has of a topic."""
    brokers = log._engine.service.brokers  # type: ignore[attr-defined]
    replica = brokers.by_id(broker).replicas.partitions.get((topic, 0))
    return 0 if replica is None else replica.reader.tail.size_bytes()


def is_waiting(log: StreamLog, broker: int) -> bool:
    """Whether a broker has copied all that it may now."""
    service = log._engine.service
    fetcher = service.brokers.by_id(broker).fetcher  # type: ignore[attr-defined]
    bucket = fetcher._throttle
    granted = (bucket._rate or 0) * (round(service.clock.monotonic() * 1e9) - bucket._since_ns) // 10**9
    return bool(fetcher._throttled) and not fetcher._ready and granted <= bucket._spent


@pytest.mark.parametrize("how", ["reassign", "retire"])
def test_bytes_are_copied_at_the_rate_of_the_logs_clock(path: Path, clock: ManualClock, how: str) -> None:
    with streamlog.open(path, brokers=2, clock=clock) as log:
        filled(log, "t", 100)
        source = log["t"].partition(0).leader
        size = copied(log, "t", source)
        log.replication_throttle_bytes_per_s = RATE
        moving = log.retire_broker(source) if how == "retire" else log.reassign("t", replicas={0: [1 - source]})
        began, least = clock.monotonic(), -2.0 * BATCH
        for seconds in (0.0, 0.3, 0.7, 1.0, 0.5, 2.0):
            clock.advance(seconds)
            # Until all that may be copied now is, so that the next step finds no thread in the middle.
            eventually(lambda: is_waiting(log, 1 - source))
            elapsed = clock.monotonic() - began
            least += RATE * min(seconds, BURST_S)  # a step of two seconds uses what one second is worth
            assert least <= copied(log, "t", 1 - source) <= RATE * elapsed + 2 * BATCH
        assert 0.0 < moving.progress < 1.0
        assert not moving.done()
        while copied(log, "t", 1 - source) < size:
            clock.advance(0.25)
            eventually(lambda: is_waiting(log, 1 - source) or copied(log, "t", 1 - source) == size)
        assert clock.monotonic() - began >= (size - RATE - 2 * BATCH) / RATE
        moving.wait(30)
        assert len(values(log, "t")) == 100


def test_a_limit_that_is_taken_away_or_raised_counts_at_once(path: Path, clock: ManualClock) -> None:
    with streamlog.open(path, brokers=2, clock=clock) as log:
        filled(log, "t", 50)
        source = log["t"].partition(0).leader
        log.replication_throttle_bytes_per_s = 1
        moving = log.reassign("t", replicas={0: [1 - source]})
        eventually(lambda: is_waiting(log, 1 - source))
        assert copied(log, "t", 1 - source) <= 2 * BATCH
        log.replication_throttle_bytes_per_s = None
        moving.wait(30)
        assert len(values(log, "t")) == 50


def test_followers_in_sync_and_those_that_come_back_are_not_throttled(path: Path, clock: ManualClock) -> None:
    with streamlog.open(path, brokers=3, clock=clock) as log:
        filled(log, "slow", 20)
        source = log["slow"].partition(0).leader
        log.create_topic("t")
        log.replication_throttle_bytes_per_s = 1
        moving = log.reassign("slow", replicas={0: [source, (source + 1) % 3]})
        eventually(lambda: is_waiting(log, (source + 1) % 3))
        with traffic(log) as running:
            running.until(100)
            log.brokers[(source + 1) % 3].stop()
            running.until(20)
            log.brokers[(source + 1) % 3].start()
            eventually(lambda: len(log["t"].partition(0).isr) == 3)
        assert not moving.done()
        moving.cancel()
        moving.wait(30)


def test_a_limit_that_is_none_is_refused(path: Path) -> None:
    with streamlog.open(path, brokers=2) as log:
        for wrong in (0, -1, 1.5, "1", True):
            with pytest.raises(ConfigError, match="replication_throttle_bytes_per_s"):
                log.replication_throttle_bytes_per_s = wrong  # type: ignore[assignment]
        assert log.replication_throttle_bytes_per_s is None
        with streamlog.open(path) as again:
            again.replication_throttle_bytes_per_s = 5
        assert log.replication_throttle_bytes_per_s == 5, "of the log, not of a handle"
    with streamlog.open(path, read_only=True) as log, pytest.raises(ReadOnlyError):
        log.replication_throttle_bytes_per_s = 5
