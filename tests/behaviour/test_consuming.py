"""Polling, iterating, stopping and waking a consumer."""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
import time
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

InThread = Callable[[Callable[[], Any]], Future[Any]]
# Longer than any wake-up takes, short enough that a lost one is found: no passing test waits for it.
LONG = 20.0


def fill(log: streamlog.StreamLog, count: int, *, partitions: int = 1, name: str = "t") -> streamlog.Topic[Any, Any]:
    """A topic whose value at offset n of partition p is b"p:n"."""
    topic = log.create_topic(name, partitions=partitions)
    for partition in range(partitions):
        topic.send_many([f"{partition}:{n}" for n in range(count)], partition=partition).result()
    return topic


def drain(consumer: streamlog.Consumer[Any, Any]) -> list[Any]:
    records: list[Any] = []
    while handed_out := consumer.poll():
        records += handed_out
    return records


# Polling


def test_poll_hands_out_records_with_all_their_fields(log: streamlog.StreamLog) -> None:
    topic = log.create_topic("t")
    sent = topic.send("value", "key", headers={"h": b"1"}, timestamp_ms=1_700_000_000_000).result()
    with log.consumer("t") as consumer:
        (record,) = consumer.poll()
    assert record == ("t", 0, sent.offset, 1_700_000_000_000, b"key", b"value", (("h", b"1"),))
    assert record.topic_partition == TopicPartition("t", 0)


def test_poll_of_an_empty_topic_returns_an_empty_list_at_its_timeout(log: streamlog.StreamLog) -> None:
    log.create_topic("t")
    with log.consumer("t") as consumer:
        assert consumer.poll() == []
        started = time.monotonic()
        assert consumer.poll(timeout=0.02) == []
        assert time.monotonic() - started >= 0.019


def test_poll_hands_out_every_record_once_and_in_the_order_of_its_partition(log: streamlog.StreamLog) -> None:
    fill(log, 700, partitions=3)
    with log.consumer("t") as consumer:
        records = drain(consumer)
    for partition in range(3):
        values = [record.value for record in records if record.partition == partition]
        assert values == [f"{partition}:{n}".encode() for n in range(700)]
    assert len(records) == 2100


def test_a_consumer_alone_has_all_partitions(log: streamlog.StreamLog) -> None:
    fill(log, 1, partitions=4)
    with log.consumer("t") as consumer:
        consumer.poll()
        assert consumer.assignment() == {TopicPartition("t", n) for n in range(4)}


def test_consumers_alone_do_not_share(log: streamlog.StreamLog) -> None:
    fill(log, 3)
    with log.consumer("t") as first, log.consumer("t") as second:
        assert len(drain(first)) == len(drain(second)) == 3


def test_a_consumer_is_made_from_names_topic_objects_or_the_class(log: streamlog.StreamLog) -> None:
    topic = fill(log, 1)
    fill(log, 1, name="u")
    with log.consumer(topic, "u") as consumer:
        assert {record.topic for record in drain(consumer)} == {"t", "u"}
    with streamlog.Consumer(log, "t") as made_by_hand:
        assert [record.value for record in made_by_hand.poll()] == [b"0:0"]


def test_max_records_of_one_poll_leaves_the_rest_for_the_next(log: streamlog.StreamLog) -> None:
    fill(log, 5)
    with log.consumer("t") as consumer:
        assert [record.offset for record in consumer.poll(max_records=2)] == [0, 1]
        assert [record.offset for record in consumer.poll(max_records=1)] == [2]
        assert [record.offset for record in consumer.poll()] == [3, 4]


def test_max_poll_records_bounds_every_poll(log: streamlog.StreamLog) -> None:
    fill(log, 5, partitions=2)
    with log.consumer("t", max_poll_records=3) as consumer:
        sizes = []
        while handed_out := consumer.poll():
            sizes.append(len(handed_out))
    assert max(sizes) <= 3
    assert sum(sizes) == 10


def test_a_poll_hands_out_no_more_than_500_records_unless_told(log: streamlog.StreamLog) -> None:
    fill(log, 501)
    with log.consumer("t") as consumer:
        assert len(consumer.poll()) <= 500


def test_a_record_larger_than_fetch_max_bytes_is_still_handed_out(log: streamlog.StreamLog) -> None:
    log.create_topic("t").send(b"x" * 10_000).result()
    with log.consumer("t", fetch_max_bytes=1) as consumer:
        assert [len(record.value) for record in drain(consumer)] == [10_000]


def test_partitions_added_later_are_read_too(log: streamlog.StreamLog) -> None:
    topic = fill(log, 1)
    with log.consumer("t") as consumer:
        drain(consumer)
        topic.add_partitions(2)
        topic.send("late", partition=1).result()
        assert [record.value for record in consumer.poll(timeout=LONG)] == [b"late"]


# Batches


def test_poll_batches_gives_the_same_records_as_columns(log: streamlog.StreamLog) -> None:
    topic = log.create_topic("t")
    topic.send_many(["a", "b", "c"], keys=["1", "2", "3"]).result()
    with log.consumer("t") as consumer:
        batches = consumer.poll_batches()
    assert [value for batch in batches for value in batch.values] == [b"a", b"b", b"c"]
    assert [key for batch in batches for key in batch.keys] == [b"1", b"2", b"3"]
    assert [offset for batch in batches for offset in batch.offsets] == [0, 1, 2]
    assert batches[-1].next_offset == 3
    with log.consumer("t") as consumer:
        assert [record for batch in batches for record in batch] == consumer.poll()


def test_poll_batches_is_cut_to_max_records_and_to_the_position(log: streamlog.StreamLog) -> None:
    fill(log, 10)
    with log.consumer("t") as consumer:
        consumer.seek(TopicPartition("t", 0), 3)
        assert [offset for batch in consumer.poll_batches(max_records=4) for offset in batch.offsets] == [3, 4, 5, 6]
        assert consumer.position(TopicPartition("t", 0)) == 7
        assert [record.offset for record in consumer.poll()] == [7, 8, 9]


# Iterating


def test_a_consumer_is_its_own_iterator(log: streamlog.StreamLog) -> None:
    fill(log, 2)
    with log.consumer("t") as consumer:
        assert iter(consumer) is consumer
        assert [next(consumer).offset, next(consumer).offset] == [0, 1]


def test_iterating_waits_for_more(log: streamlog.StreamLog, in_thread: InThread) -> None:
    topic = fill(log, 1)
    with log.consumer("t") as consumer:
        seen = []
        for record in consumer:
            seen.append(record.value)
            if len(seen) == 1:
                in_thread(lambda: topic.send("later").result())
            else:
                break
    assert seen == [b"0:0", b"later"]


def test_polling_goes_on_where_iterating_left_off(log: streamlog.StreamLog) -> None:
    fill(log, 4)
    with log.consumer("t") as consumer:
        assert next(consumer).offset == 0
        assert [record.offset for record in consumer.poll(max_records=2)] == [1, 2]
        assert next(consumer).offset == 3


def test_until_end_stops_at_the_end_offsets_of_its_call(log: streamlog.StreamLog) -> None:
    topic = fill(log, 3, partitions=2)
    with log.consumer("t") as consumer:
        seen = []
        for record in consumer.until_end():
            seen.append(record.value)
            topic.send("too late", partition=0).result()
        assert sorted(seen) == [b"0:0", b"0:1", b"0:2", b"1:0", b"1:1", b"1:2"]
        assert [record.value for record in consumer.until_end()] == [b"too late"] * 6


@pytest.mark.parametrize("timeout", [None, 0.0, LONG])
def test_until_end_of_nothing_ends_at_once(log: streamlog.StreamLog, timeout: float | None) -> None:
    log.create_topic("t", partitions=2)
    with log.consumer("t") as consumer:
        started = time.monotonic()
        assert list(consumer.until_end(timeout)) == []
        assert time.monotonic() - started < LONG / 2


def test_until_end_starts_at_the_position(log: streamlog.StreamLog) -> None:
    fill(log, 5)
    with log.consumer("t") as consumer:
        consumer.poll(max_records=2)
        assert [record.offset for record in consumer.until_end(timeout=LONG)] == [2, 3, 4]


def test_until_end_waits_no_longer_than_its_timeout_for_one_record(log: streamlog.StreamLog) -> None:
    fill(log, 2)
    with log.consumer("t") as consumer:
        consumer.poll(max_records=1)
        consumer.pause()
        seen = []
        with contextlib.suppress(TimeoutError):
            seen += list(consumer.until_end(timeout=0.02))
        assert seen == []


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
        started = time.monotonic()
        in_thread(consumer.stop)
        assert consumer.poll(timeout=LONG) == []
        assert time.monotonic() - started < LONG / 2
        with pytest.raises(ConsumerStoppedError):
            consumer.poll()


def test_stop_in_a_signal_handler_wakes_a_waiting_poll_and_a_waiting_loop(log: streamlog.StreamLog) -> None:
    log.create_topic("t")
    previous = signal.getsignal(signal.SIGALRM)
    try:
        for wait in (lambda c: c.poll(timeout=LONG), list):
            with log.consumer("t") as consumer:
                signal.signal(signal.SIGALRM, lambda *_, consumer=consumer: consumer.stop())
                started = time.monotonic()
                signal.setitimer(signal.ITIMER_REAL, 0.02)
                assert wait(consumer) == []
                assert consumer.stopped
                assert time.monotonic() - started < LONG / 2
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
                (record,) = consumer.poll(timeout=LONG)
                pong.send(record.value).result()

    answering = in_thread(answer)
    started = time.monotonic()
    with log.consumer("pong") as consumer:
        for n in range(rounds):
            ping.send(str(n)).result()
            assert [record.value for record in consumer.poll(timeout=LONG)] == [str(n).encode()]
    answering.result(timeout=LONG)
    # One lost wake-up would have cost a whole timeout.
    assert time.monotonic() - started < LONG


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
