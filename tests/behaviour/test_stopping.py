"""Stopping and waking a consumer, and using it wrongly."""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import (
    ClosedError,
    ConcurrentUseError,
    ConfigError,
    ConsumerStoppedError,
    StreamlogError,
    TopicPartition,
)
from streamlog.testing import ManualClock
from tests.contents import fill
from tests.times import FOREVER, LONG

InThread = Callable[[Callable[[], Any]], Future[Any]]
# Longer than any wake-up takes, short enough that a lost one is found: no passing test waits for it.


# Stopping


def test_stop_gives_one_empty_poll_and_then_the_error(log: streamlog.StreamLog) -> None:
    fill(log, 3)
    with log.consumer("t") as consumer:
        assert not consumer.stopped
        consumer.stop()
        consumer.stop()
        assert consumer.stopped
        assert consumer.poll(timeout=LONG) == []
        for _ in range(2):
            with pytest.raises(ConsumerStoppedError):
                consumer.poll()
        with pytest.raises(ConsumerStoppedError):
            consumer.poll_batches()
        assert consumer.stopped


def test_stop_ends_a_for_loop_before_the_next_record(log: streamlog.StreamLog) -> None:
    fill(log, 5)
    with log.consumer("t") as consumer:
        seen = []
        for record in consumer:
            seen.append(record.offset)
            if record.offset == 1:
                consumer.stop()
        assert seen == [0, 1]


def test_stop_ends_until_end(log: streamlog.StreamLog) -> None:
    fill(log, 5)
    with log.consumer("t") as consumer:
        seen = []
        for record in consumer.until_end():
            seen.append(record.offset)
            consumer.stop()
        assert seen == [0]


def test_a_stopped_consumer_can_still_commit_and_close(log: streamlog.StreamLog) -> None:
    fill(log, 5)
    consumer = log.consumer("t", group="g")
    consumer.poll(max_records=2)
    consumer.stop()
    consumer.commit()
    consumer.close()
    assert log.group("g").committed() == {TopicPartition("t", 0): 2}


def test_stop_from_another_thread_wakes_a_waiting_poll(log: streamlog.StreamLog, in_thread: InThread) -> None:
    log.create_topic("t")
    with log.consumer("t") as consumer:
        in_thread(consumer.stop)
        assert consumer.poll(timeout=FOREVER) == []
        with pytest.raises(ConsumerStoppedError):
            consumer.poll()


def test_stop_in_a_signal_handler_wakes_a_waiting_poll_and_a_waiting_loop(log: streamlog.StreamLog) -> None:
    log.create_topic("t")
    previous = signal.getsignal(signal.SIGALRM)
    try:
        for wait in (lambda c: c.poll(timeout=FOREVER), list):
            with log.consumer("t") as consumer:
                signal.signal(signal.SIGALRM, lambda *_, consumer=consumer: consumer.stop())
                signal.setitimer(signal.ITIMER_REAL, 0.02)
                assert wait(consumer) == []
                assert consumer.stopped
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


# Waking


def test_no_wake_up_is_lost_between_a_producer_and_a_waiting_consumer(
    log: streamlog.StreamLog, in_thread: InThread
) -> None:
    rounds = 200
    ping, pong = log.create_topic("ping"), log.create_topic("pong", partitions=3)

    def answer() -> None:
        with log.consumer("ping") as consumer:
            for _ in range(rounds):
                (record,) = consumer.poll(timeout=FOREVER)
                pong.send(record.value).result()

    answering = in_thread(answer)
    with log.consumer("pong") as consumer:
        for n in range(rounds):
            ping.send(str(n)).result()
            assert [record.value for record in consumer.poll(timeout=FOREVER)] == [str(n).encode()]
    answering.result(timeout=LONG)


@pytest.mark.parametrize("group", [None, "g"])
def test_closing_the_log_wakes_a_waiting_poll(
    tmp_path: Path, clock: ManualClock, in_thread: InThread, group: str | None
) -> None:
    log = streamlog.open(tmp_path / "data", clock=clock)
    log.create_topic("t")
    consumer = log.consumer("t", group=group)
    ready = threading.Event()

    def wait() -> list[Any]:
        ready.set()
        try:
            return consumer.poll(timeout=10 * LONG)
        except ClosedError:
            return []

    waiting = in_thread(wait)
    ready.wait(LONG)
    log.close()
    assert waiting.result(timeout=LONG) == []
    assert consumer.closed


def test_closing_the_log_ends_a_waiting_loop(tmp_path: Path, clock: ManualClock, in_thread: InThread) -> None:
    log = streamlog.open(tmp_path / "data", clock=clock)
    fill(log, 1)
    consumer = log.consumer("t")
    reached = threading.Event()

    def loop() -> None:
        with contextlib.suppress(ClosedError):
            for _ in consumer:
                reached.set()

    looping = in_thread(loop)
    assert reached.wait(LONG)
    log.close()
    looping.result(timeout=LONG)


# Misuse


def test_a_second_thread_in_poll_is_refused_and_the_first_is_not_disturbed(
    log: streamlog.StreamLog, in_thread: InThread
) -> None:
    fill(log, 1)
    inside, leave = threading.Event(), threading.Event()

    def slow(value: bytes) -> bytes:
        inside.set()
        leave.wait(LONG)
        return value

    with log.consumer("t", value_deserializer=slow) as consumer:
        polling = in_thread(consumer.poll)
        assert inside.wait(LONG)
        with pytest.raises(ConcurrentUseError):
            consumer.poll()
        with pytest.raises(ConcurrentUseError):
            consumer.seek(TopicPartition("t", 0), 0)
        leave.set()
        assert [record.value for record in polling.result(timeout=LONG)] == [b"0:0"]


def test_threads_may_use_a_consumer_one_after_the_other(log: streamlog.StreamLog, in_thread: InThread) -> None:
    fill(log, 4)
    with log.consumer("t") as consumer:
        assert [record.offset for record in consumer.poll(max_records=2)] == [0, 1]
        others = in_thread(lambda: consumer.poll(max_records=1)).result(timeout=LONG)
        assert [record.offset for record in others] == [2]
        assert [record.offset for record in consumer.poll()] == [3]


def test_a_closed_consumer_says_so_and_closes_again_quietly(log: streamlog.StreamLog) -> None:
    fill(log, 1)
    consumer = log.consumer("t", group="g")
    assert not consumer.closed
    consumer.close()
    consumer.close()
    assert consumer.closed
    for use in (
        consumer.poll,
        consumer.poll_batches,
        consumer.commit,
        consumer.assignment,
        consumer.unsubscribe,
        lambda: consumer.position(TopicPartition("t", 0)),
        lambda: consumer.seek(TopicPartition("t", 0), 0),
        lambda: consumer.subscribe(["t"]),
        lambda: next(consumer),
        lambda: list(consumer.until_end()),
    ):
        with pytest.raises(ClosedError):
            use()


def test_a_consumer_alone_refuses_commits(log: streamlog.StreamLog) -> None:
    fill(log, 1)
    with log.consumer("t") as consumer:
        (record,) = consumer.poll()
        for offsets in (None, record, {TopicPartition("t", 0): 1}):
            with pytest.raises(StreamlogError):
                consumer.commit(offsets)
    assert log.groups() == []


@pytest.mark.parametrize(
    "config",
    [
        {"auto_offset_reset": "newest"},
        {"max_poll_record": 5},
        {"max_poll_records": 0},
        {"partition_assignment_strategy": "nearest", "group": "g"},
        {"isolation_level": "serializable"},
        {"on_corrupt": "ignore"},
    ],
)
def test_a_bad_configuration_is_refused_when_the_consumer_is_made(
    log: streamlog.StreamLog, config: dict[str, Any]
) -> None:
    log.create_topic("t")
    with pytest.raises(ConfigError):
        log.consumer("t", **config)
    assert log.groups() == []


def test_an_unknown_option_is_answered_with_the_one_that_was_meant(log: streamlog.StreamLog) -> None:
    log.create_topic("t")
    with pytest.raises(ConfigError, match="max_poll_records"):
        log.consumer("t", max_poll_recods=5)
    with pytest.raises(ConfigError, match="group"):
        log.consumer("t", **{"group.id": "g"})


def test_a_consumer_collected_open_warns(log: streamlog.StreamLog) -> None:
    fill(log, 1)
    consumer = log.consumer("t")
    consumer.poll()
    with pytest.warns(ResourceWarning):
        del consumer
        gc.collect()


def test_a_commit_while_the_log_closes_is_refused_and_not_forgotten(tmp_path: Path, in_thread: InThread) -> None:
    log = streamlog.open(tmp_path / "log")
    fill(log, 3)
    inside, go_on = threading.Event(), threading.Event()
    own_commits: list[object] = []

    class Slow(streamlog.RebalanceListener):
        def on_partitions_revoked(self, partitions: object) -> None:
            inside.set()
            go_on.wait(LONG)
            own_commits.append(consumer.commit(records[0]))

    consumer = log.consumer("t", group="g", enable_auto_commit=False, listener=Slow())
    records = consumer.poll()
    closing = in_thread(log.close)
    assert inside.wait(LONG)
    with pytest.raises(ClosedError):
        consumer.commit()
    go_on.set()
    closing.result(LONG)
    assert own_commits == [None]  # the listener's commit counted
    with streamlog.open(tmp_path / "log") as log:
        assert log.group("g").committed() == {TopicPartition("t", 0): 1}
