"""How to test code that uses streamlog: a temporary log, and a clock that the test moves.

    python examples/testing_your_code.py
    python -m pytest examples/testing_your_code.py

`remember` and `recall` stand for your code; the functions after them are its tests. No test sleeps: a week passes in
the call of `clock.advance`, which also runs the retention that falls due.
"""

from collections.abc import Callable
from datetime import timedelta

import streamlog
from streamlog.testing import ManualClock


def remember(log: streamlog.StreamLog, event: str) -> None:
    """Keep an event for a week."""
    week = timedelta(days=7)
    log.create_topic("events", retention_ms=week, segment_ms=timedelta(days=1), exist_ok=True).send(event)


def recall(log: streamlog.StreamLog) -> list[str]:
    """All events that are kept, oldest first."""
    return [record.value.decode() for record in log["events"].read()]


def test_an_event_carries_the_time_of_the_clock() -> None:
    clock = ManualClock(start_ms=1_000_000)
    with streamlog.open(clock=clock) as log:
        clock.advance(2.5)
        remember(log, "signed up")
        (record,) = log["events"].read()
        assert record.timestamp == 1_002_500


def test_an_event_is_forgotten_after_a_week_but_not_before() -> None:
    clock = ManualClock(start_ms=1_000_000)
    with streamlog.open(clock=clock) as log:
        remember(log, "signed up")
        clock.advance(timedelta(days=5))
        remember(log, "logged in")
        assert recall(log) == ["signed up", "logged in"]
        clock.advance(timedelta(days=4))
        log["events"].apply_retention()
        assert recall(log) == ["logged in"]


def test_a_member_that_fails_gets_its_record_again() -> None:
    with streamlog.open(clock=ManualClock(start_ms=0)) as log:
        remember(log, "signed up")
        try:
            with log.consumer("events", group="mailer") as consumer:
                for _ in consumer.until_end():
                    raise ConnectionError("no mail today")
        except ConnectionError:
            pass
        with log.consumer("events", group="mailer") as consumer:
            assert [record.value for record in consumer.until_end()] == [b"signed up"]


def main() -> None:
    tests: list[Callable[[], None]] = [
        test_an_event_carries_the_time_of_the_clock,
        test_an_event_is_forgotten_after_a_week_but_not_before,
        test_a_member_that_fails_gets_its_record_again,
    ]
    for test in tests:
        test()
        print(f"passed: {test.__name__}")


if __name__ == "__main__":
    main()
