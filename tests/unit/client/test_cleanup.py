"""Work left for later: finalizers and deferred closes run once each, and one that fails stops no other."""

import pytest

from streamlog.client.cleanup import Cleanup
from streamlog.errors import ClosedError


def failing() -> None:
    raise ClosedError("it is closed")


def test_finalizers_run_once_in_order_and_one_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    cleanup, ran = Cleanup(), list[str]()
    cleanup.add_finalizer(lambda: ran.append("first"))
    cleanup.add_finalizer(failing)
    cleanup.add_finalizer(lambda: ran.append("second"))
    cleanup.run_finalizers()
    cleanup.run_finalizers()
    assert ran == ["first", "second"]
    assert "never closed: it is closed" in caplog.text


def test_what_is_left_for_later_wakes_the_background_thread() -> None:
    cleanup, nudges = Cleanup(), list[str]()
    cleanup.nudge = lambda: nudges.append("now")
    cleanup.add_finalizer(failing)
    cleanup.defer_close(failing)
    assert nudges == ["now", "now"]


def test_a_deferred_close_that_fails_is_logged_and_the_next_one_runs(caplog: pytest.LogCaptureFixture) -> None:
    cleanup, ran = Cleanup(), list[str]()
    cleanup.defer_close(failing)
    cleanup.defer_close(lambda: ran.append("closed"))
    cleanup.run_deferred_closes()
    assert ran == ["closed"]
    assert "deferred until another call had ended, and then failed: it is closed" in caplog.text


def test_a_close_that_defers_itself_again_waits_for_the_next_run() -> None:
    cleanup, tries = Cleanup(), list[int]()

    def close() -> None:
        tries.append(len(tries))
        cleanup.deferred_closes.append(close)

    cleanup.defer_close(close)
    cleanup.run_deferred_closes()
    assert tries == [0]
    cleanup.run_deferred_closes()
    assert tries == [0, 1]
