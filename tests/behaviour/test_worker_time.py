"""Workers follow a clock that the test moves: when `advance` returns, they have done what was due. No test waits for them."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import TopicPartition
from streamlog.client import worker_time
from streamlog.testing import ManualClock
from tests.times import LONG

from .member_time import until_shared

Record = streamlog.Record[Any, Any]
P0 = TopicPartition("t", 0)


class Failing:
    """A handler that raises `times` times, and notes when it was called, in ms since the clock's start."""

    def __init__(self, clock: ManualClock, times: int) -> None:
        self._clock, self._start, self.left = clock, clock.time_ms(), times
        self.calls: list[int] = []

    def __call__(self, record: Record) -> None:
        self.calls.append(self._clock.time_ms() - self._start)
        self.left -= 1
        if self.left >= 0:
            raise ValueError("not yet")


# Commits


def test_advance_finishes_what_was_sent_and_its_commit(log: streamlog.StreamLog, clock: ManualClock) -> None:
    topic, seen = log.create_topic("t"), []
    topic.send("a")
    with log.group("g").start(lambda record: seen.append(record.value), "t", workers=1):
        clock.advance(0)
        assert (seen, log.group("g").committed()) == ([b"a"], {})
        clock.advance(5)  # auto_commit_interval_ms
        assert log.group("g").committed() == {P0: 1}
        topic.send_many(["b", "c"])
        clock.advance(4.999)
        assert (seen, log.group("g").committed()) == ([b"a", b"b", b"c"], {P0: 1})
        clock.advance(0.001)
        assert log.group("g").committed() == {P0: 3}


@pytest.mark.parametrize("interval_ms", [1, 100, 333, 60_000])
def test_the_commit_comes_at_its_interval(log: streamlog.StreamLog, clock: ManualClock, interval_ms: int) -> None:
    topic = log.create_topic("t")
    clock.advance(0.1)
    with log.group("g").start(lambda record: None, "t", workers=1, auto_commit_interval_ms=interval_ms):
        clock.advance(0)
        for sent in range(1, 20):
            topic.send("a")
            clock.advance(interval_ms / 1000)
            assert log.group("g").committed() == {P0: sent}


def test_every_worker_follows(log: streamlog.StreamLog, clock: ManualClock) -> None:
    topic, seen = log.create_topic("t", partitions=8), Counter[str]()
    lock = threading.Lock()

    def handle(record: Record) -> None:
        with lock:
            seen[record.value.decode()] += 1

    with log.group("g").start(handle, "t", workers=4):
        for turn in range(10):
            for n in range(8):
                topic.send(f"{turn}-{n}", partition=n)
            clock.advance(5)
            assert set(log.group("g").lag().values()) == {0}, turn
    assert len(seen) == 80
    assert sum(seen.values()) == 80


def test_what_one_group_sends_to_another_is_handled_before_the_clock_moves(
    log: streamlog.StreamLog, clock: ManualClock
) -> None:
    first, second, seen = log.create_topic("first"), log.create_topic("second"), []

    def hand_on(record: Record) -> None:
        second.send(record.value)

    with (
        log.group("b").start(lambda record: seen.append((record.value, clock.monotonic())), "second", workers=1),
        log.group("a").start(hand_on, "first", workers=1),
    ):
        for n in range(5):
            first.send(str(n))
            clock.advance(1)
    assert seen == [(b"0", 0.0), (b"1", 1.0), (b"2", 2.0), (b"3", 3.0), (b"4", 4.0)]


def test_workers_with_nothing_to_commit_have_no_deadline(
    log: streamlog.StreamLog, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[int] = []
    run_due = worker_time.ClockFollower.run_due
    monkeypatch.setattr(
        worker_time.ClockFollower, "run_due", lambda follower, now: (turns.append(now), run_due(follower, now))
    )
    log.create_topic("t").send("a")
    with log.group("g").start(lambda record: None, "t", workers=1):
        clock.advance(86_400)
        assert len(turns) == 1
        clock.advance(86_400)
        assert len(turns) == 1


# Retries


def test_a_retry_comes_when_the_clock_says_so(log: streamlog.StreamLog, clock: ManualClock) -> None:
    log.create_topic("t").send("a")
    failing = Failing(clock, 3)
    with log.group("g").start(failing, "t", workers=1, retries=3, retry_backoff_ms=100):
        clock.advance(0)
        assert failing.calls == [0]
        clock.advance(0.099)
        assert failing.calls == [0]
        clock.advance(0.001)
        assert failing.calls == [0, 100]
        clock.advance(1)
        assert failing.calls == [0, 100, 300, 700]
        clock.advance(5)
        assert log.group("g").committed() == {P0: 1}


def test_run_does_not_wait_for_a_clock_that_its_own_thread_would_move(
    log: streamlog.StreamLog, clock: ManualClock
) -> None:
    log.create_topic("t").send("a")
    failing = Failing(clock, 10)
    log.group("g").run(failing, "t", workers=1, retries=10, retry_backoff_ms=3_600_000, until_end=True)
    assert failing.calls == [0] * 11
    assert log.group("g").committed() == {P0: 1}


def test_the_error_after_the_last_retry_ends_the_workers_within_advance(
    log: streamlog.StreamLog, clock: ManualClock
) -> None:
    log.create_topic("t").send("a")
    workers = log.group("g").start(Failing(clock, 10), "t", workers=2, retries=1, retry_backoff_ms=1000)
    clock.advance(1)
    with pytest.raises(ValueError, match="not yet"):
        workers.wait(LONG)
    workers.close()


@pytest.mark.parametrize("manual", [True, False], ids=["clock of the test", "clock of the machine"])
def test_stop_ends_the_pause_of_every_worker(path: Path, clock: ManualClock, manual: bool) -> None:
    """Of the workers that paused, only one was woken."""
    with streamlog.open(path, clock=clock if manual else None) as log:
        topic = log.create_topic("t", partitions=4)
        all_tried = threading.Barrier(5)

        def fail(record: Record) -> None:
            all_tried.wait(LONG)
            raise ValueError

        workers = log.group("g").start(fail, "t", workers=4, retries=1, retry_backoff_ms=3_600_000)
        until_shared(log.group("g"), 1, 1, 1, 1)
        for n in range(4):
            topic.send("a", partition=n)
        all_tried.wait(LONG)
        workers.stop()
        workers.wait(LONG)
        workers.close()


# Handlers that do not return


def test_a_handler_that_the_test_holds_does_not_keep_the_clock(
    log: streamlog.StreamLog, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_time, "STUCK_S", 0.01)
    log.create_topic("t").send("a")
    held = threading.Event()
    with log.group("g").start(lambda record: held.wait(LONG), "t", workers=1):
        clock.advance(60)
        assert clock.monotonic() == 60
        assert log.group("g").committed() == {}
        held.set()
        monkeypatch.undo()
        clock.advance(10)
        assert log.group("g").committed() == {P0: 1}


def test_a_handler_may_move_the_clock(log: streamlog.StreamLog, clock: ManualClock) -> None:
    log.create_topic("t").send_many(["a", "b"])
    log.group("g").run(lambda record: clock.advance(3), "t", workers=1, until_end=True)
    assert clock.monotonic() == 6
    assert log.group("g").committed() == {P0: 2}


def test_a_clock_forgets_workers_that_have_ended(log: streamlog.StreamLog, clock: ManualClock) -> None:
    log.create_topic("t").send("a")
    before = clock._schedulers
    for _ in range(3):
        log.group("g").run(lambda record: None, "t", workers=2, until_end=True)
        log.group("h").start(lambda record: None, "t", workers=2).close()
    assert clock._schedulers == before
