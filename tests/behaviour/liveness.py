"""The time by which members live and die, moved by a test: no test waits until a poll interval is over."""

from __future__ import annotations

from typing import Any

import streamlog


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
