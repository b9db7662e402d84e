"""The thread that runs background work."""

from __future__ import annotations

import logging
import threading

import pytest

from streamlog.runtime.threads import BackgroundThread
from tests.times import LONG


def test_an_error_of_the_work_is_logged_and_the_thread_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    failed, done = threading.Event(), threading.Event()

    def work(now_ms: int) -> int | None:
        if not failed.is_set():
            failed.set()
            raise MemoryError
        done.set()
        return None

    thread = BackgroundThread(work, lambda: 0, "worker")
    with caplog.at_level(logging.ERROR, "streamlog"):
        thread.begin()
        assert failed.wait(LONG)
        thread.nudge()
        assert done.wait(LONG)
        thread.stop()
    assert "worker failed and is tried again" in caplog.text


def test_a_thread_whose_start_was_interrupted_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """An open that is interrupted while it starts its threads leaves none of them waiting for ever."""
    started: list[threading.Thread] = []

    def start(thread: threading.Thread) -> None:
        started.append(thread)
        thread.start()
        raise KeyboardInterrupt

    monkeypatch.setattr("streamlog.runtime.threads.start_thread", start)
    with pytest.raises(KeyboardInterrupt):
        BackgroundThread(lambda now_ms: None, lambda: 0, "worker")
    started[0].join(LONG)
    assert not started[0].is_alive()
