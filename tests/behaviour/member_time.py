"""The time by which members live and die, moved by a test: no test waits until a poll interval is over."""

from __future__ import annotations

import time
from typing import Any

import pytest

import streamlog
from streamlog.client.consumer import consumer
from streamlog.runtime.threads import RawGate
from tests.times import LONG


class Liveness:
    """Stands in for the monotonic clock by which the log's coordinator evicts members. It stands still until moved."""

    def __init__(self, log: streamlog.StreamLog) -> None:
        service: Any = log._engine.service
        self.now_s = service.real_seconds()
        service.real_seconds = self

    def __call__(self) -> float:
        return float(self.now_s)

    def pass_ms(self, ms: float) -> None:
        self.now_s += ms / 1000


class PassingTime(Liveness):
    """The time of one log's consumers, too: it passes at once while one of them waits, and stands still otherwise.

    `waits` has how long each wait was to be at most (seconds). A wait that somebody ended before it began takes no time.
    """

    def __init__(self, log: streamlog.StreamLog, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(log)
        self.waits: list[float] = []
        passing = self

        class Gate(RawGate):
            def wait(self, timeout: float | None = None) -> bool:
                if not self.is_open():
                    assert timeout is not None, "a wait without end"
                    passing.waits.append(timeout)
                    passing.now_s += timeout
                return self.is_open()

        monkeypatch.setattr(consumer, "RawGate", Gate)
        monkeypatch.setattr(consumer, "real_monotonic", self)


def until_shared(group: streamlog.ConsumerGroup, *counts: int) -> None:
    """Wait until the members of `group` have as many partitions as `counts` says.

    It looks again and again: a heartbeat that is under way has no place where a test could hear of its end.
    """
    end = time.monotonic() + LONG
    while sorted(len(member.assignment) for member in group.members()) != sorted(counts):
        assert time.monotonic() < end, group.members()
        time.sleep(0.001)
