"""Retries of a handler, and what comes after the last one."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from streamlog.client.consumer.decode import Decoder
from streamlog.client.record_handler import Handler, RecordHandler, Stopped, WorkersConfig
from streamlog.errors import ConfigError
from streamlog.types import Record

RECORD: Record[Any, Any] = Record("t", 0, 7, 1_000_000, b"k", b"v", ())


class Pause:
    """Notes the pauses; the workers stop at the pause number `stops_at`."""

    def __init__(self, stops_at: int = 100) -> None:
        self.seconds: list[float] = []
        self._stops_at = stops_at

    def __call__(self, seconds: float) -> bool:
        self.seconds.append(seconds)
        return len(self.seconds) >= self._stops_at


class Failing:
    """Fails `times` times."""

    def __init__(self, times: int) -> None:
        self.left = times
        self.calls = 0

    def __call__(self, record: Record[Any, Any]) -> None:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise ZeroDivisionError("no")


class DeadLetters:
    def __init__(self) -> None:
        self.sent: list[tuple[Any, BaseException]] = []

    def send(self, record: Any, error: BaseException, producer: object = None) -> str:
        self.sent.append((record, error))
        return "t.dead-letters"


def handler_of(function: Handler, letters: Any = None, deserialize: Any = None, **config: Any) -> RecordHandler:
    decoder = Decoder("t", 0, None, deserialize)
    return RecordHandler(function, lambda name: decoder, WorkersConfig(**config), letters)


def test_each_retry_waits_twice_as_long() -> None:
    pause, failing = Pause(), Failing(3)
    handler_of(failing, retries=3, retry_backoff_ms=100).handle(RECORD, pause)
    assert failing.calls == 4
    assert pause.seconds == [0.1, 0.2, 0.4]


def test_a_stop_ends_the_wait_for_a_retry() -> None:
    failing = Failing(100)
    with pytest.raises(Stopped):
        handler_of(failing, retries=50).handle(RECORD, Pause(stops_at=2))
    assert failing.calls == 2


def test_stop_raises_the_error_after_the_last_retry() -> None:
    failing = Failing(100)
    with pytest.raises(ZeroDivisionError):
        handler_of(failing, retries=2, on_error="stop").handle(RECORD, Pause())
    assert failing.calls == 3


def test_skip_logs_the_error_and_finishes_the_record(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "streamlog"):
        handler_of(Failing(1), on_error="skip").handle(RECORD, Pause())
    assert "t-0 at offset 7, which is skipped" in caplog.text


def test_a_dead_letter_has_the_bytes_of_a_record_that_cannot_be_deserialized() -> None:
    letters = DeadLetters()
    handler_of(Failing(0), letters, deserialize=int, on_error="dead_letter").handle(RECORD, Pause())
    assert [record.value for record, _ in letters.sent] == [b"v"]


def test_a_result_that_nothing_would_run_is_refused_whatever_on_error_says() -> None:
    with pytest.raises(ConfigError, match="nothing runs"):
        handler_of(lambda record: (n for n in range(3)), on_error="skip").handle(RECORD, Pause())


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("workers", 0),
        ("workers", True),
        ("retries", -1),
        ("retry_backoff_ms", -1),
        ("on_error", "skipp"),
        ("dead_letter_topic", "no/name"),
        ("ordering", "partitions"),
    ],
)
def test_settings_are_checked(setting: str, value: Any) -> None:
    with pytest.raises((ConfigError, ValueError)):
        WorkersConfig(**{setting: value})


@pytest.mark.parametrize(("setting", "value"), [("ordering", "key"), ("concurrency", 8)])
def test_settings_whose_feature_does_not_exist_yet_are_refused(setting: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{setting}={value!r} is not available in this version"):
        WorkersConfig(**{setting: value})
