"""A call counts as one that does not come back once it has been seen for the whole limit, however often it was looked for."""

from __future__ import annotations

from typing import Any

import pytest

from streamlog.broker.disk_watch import LEAST_MS, DiskWatch


@pytest.mark.parametrize("step_ms", [1, 100, 1000, 2500])
def test_a_broker_has_not_failed_before_the_limit_is_over(monkeypatch: pytest.MonkeyPatch, step_ms: int) -> None:
    """The thread that looks sleeps for a second at most."""
    watch = DiskWatch(list, lambda broker, error: None)
    failed: list[int] = []
    now = 50_000
    call: Any = object()
    monkeypatch.setattr(watch, "_under_way", lambda: [("replica", "broker", call, "/data")], raising=False)
    monkeypatch.setattr(watch, "_fail", lambda broker, path: failed.append(now), raising=False)
    for now in range(50_000, 50_001 + LEAST_MS + 5 * step_ms, step_ms):
        assert watch.look(now) > now
        if failed:
            break
    assert failed
    assert LEAST_MS <= failed[0] - 50_000 <= LEAST_MS + 5 * step_ms
