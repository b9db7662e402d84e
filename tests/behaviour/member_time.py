"""The time by which members live and die, moved by a test: no test waits until a poll interval is over."""

from __future__ import annotations

import threading
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
        time = self

        class Gate(RawGate):
            def wait(self, timeout: float | None = None) -> bool:
                if not self.is_open():
                    assert timeout is not None, "a wait without end"
                    time.waits.append(timeout)
                    time.now_s += timeout
                return self.is_open()

        monkeypatch.setattr(consumer, "RawGate", Gate)
        monkeypatch.setattr(consumer, "real_monotonic", self)


def until_shared(group: streamlog.ConsumerGroup, *counts: int) -> None:
    """Wait, without looking again and again, until the members of `group` have as many partitions as `counts` says."""
    service: Any = group._log._use()
    heartbeat, changed = service.heartbeat, threading.Event()

    def noticed(request: Any) -> Any:
        answer = heartbeat(request)
        changed.set()
        return answer

    service.heartbeat = noticed
    try:
        while sorted(len(member.assignment) for member in group.members()) != sorted(counts):
            assert changed.wait(LONG), group.members()
            changed.clear()
    finally:
        service.heartbeat = heartbeat
