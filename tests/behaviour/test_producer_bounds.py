"""What a producer refuses, what it holds at most, and how threads share it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import Delivery, RecordMetadata, StreamLog, Topic
from streamlog.runtime.disk import OsDisk
from tests.contents import ends_of, values_of
from tests.times import LONG

from .gated_disk import GatedDisk

OpenLog = Callable[..., StreamLog]


@pytest.fixture
def topic(log: StreamLog) -> Topic:
    return log.create_topic("t")


# Bounds


@pytest.mark.parametrize("linger_ms", [0, 1000])
def test_record_larger_than_the_topic_allows_is_refused_at_the_call(log: StreamLog, linger_ms: int) -> None:
    topic = log.create_topic("t", max_message_bytes=2000)
    with log.producer(linger_ms=linger_ms) as producer:
        for value, key in ((b"x" * 2001, None), (b"v", b"x" * 2001)):
            with pytest.raises(streamlog.RecordTooLargeError, match="2000"):
                producer.send("t", value, key)
        with pytest.raises(streamlog.RecordTooLargeError):
            producer.send("t", b"v", headers={"h": b"x" * 2001})
        producer.send("t", b"x" * 1500)
    assert values_of(topic) == [b"x" * 1500]


def test_record_larger_than_the_producers_bound_is_refused(log: StreamLog) -> None:
    topic = log.create_topic("t", max_message_bytes=10_000_000)
    with log.producer(max_request_size=1000) as small, log.producer(max_request_size=5_000_000) as large:
        with pytest.raises(streamlog.RecordTooLargeError, match="1000"):
            small.send("t", b"x" * 1001)
        large.send("t", b"x" * 4_000_000)
    assert ends_of(topic) == [1]


@pytest.mark.parametrize("linger_ms", [0, 1000])
def test_a_record_is_as_large_as_its_bytes_whatever_its_items_are(log: StreamLog, topic: Topic, linger_ms: int) -> None:
    numbers = memoryview(bytes(4_000_000)).cast("d")
    with log.producer(linger_ms=linger_ms) as producer:
        with pytest.raises(streamlog.RecordTooLargeError):
            producer.send_many("t", [numbers])
        producer.send_many("t", [numbers[:1000], b"x"]).result()
    assert [len(value) for value in values_of(topic)] == [8000, 1]


def test_kafkas_usual_bound_is_about_a_megabyte(log: StreamLog, topic: Topic) -> None:
    topic.send(b"x" * 1_000_000)
    with pytest.raises(streamlog.RecordTooLargeError):
        topic.send(b"x" * 1_100_000)
    assert ends_of(topic) == [1]


@pytest.mark.parametrize("linger_ms", [0, 1000])
def test_batches_are_kept_below_the_topics_bound(log: StreamLog, linger_ms: int) -> None:
    topic = log.create_topic("t", max_message_bytes=2000)
    values = [b"%d" % n + b"x" * 100 for n in range(300)]
    with log.producer(linger_ms=linger_ms) as producer:
        producer.send_many("t", values[:150])
        for value in values[150:]:
            producer.send("t", value)
    assert values_of(topic) == values


def test_record_larger_than_the_buffer_is_refused(log: StreamLog, topic: Topic) -> None:
    producer = log.producer(linger_ms=1000, buffer_memory=10_000)
    with pytest.raises(streamlog.RecordTooLargeError):
        producer.send("t", b"x" * 20_000)
    producer.close()
    assert ends_of(topic) == [0]


def test_what_waits_in_a_producer_stays_within_its_buffer_and_nothing_is_lost(log: StreamLog) -> None:
    topic = log.create_topic("t", partitions=8)
    waiting: list[Delivery[RecordMetadata]] = []
    with log.producer(linger_ms=3_600_000, batch_size=16_384, buffer_memory=32_768) as producer:
        for n in range(200):
            waiting.append(producer.send("t", b"x" * 1000, partition=n % 8))
            waiting = [delivery for delivery in waiting if not delivery.done()]
            assert (len(waiting) - 1) * 1000 <= 32_768
    assert ends_of(topic) == [25] * 8


def test_send_many_larger_than_the_buffer_goes_through_it_piece_by_piece(log: StreamLog, topic: Topic) -> None:
    values = [b"%d" % n + b"x" * 1000 for n in range(300)]
    with log.producer(linger_ms=3_600_000, buffer_memory=32_768) as producer:
        producer.send_many("t", values)
    assert values_of(topic) == values


# Threads


@pytest.mark.parametrize("linger_ms", [0, 2])
def test_threads_share_a_producer_and_each_keeps_its_order(open_log: OpenLog, linger_ms: int) -> None:
    log = open_log(clock=None)
    topic = log.create_topic("t", partitions=2)
    deliveries: dict[int, list[Delivery[RecordMetadata]]] = {}

    def work(thread: int) -> None:
        deliveries[thread] = [producer.send("t", f"{thread}:{n}", partition=(thread + n // 10) % 2) for n in range(300)]

    with log.producer(linger_ms=linger_ms, batch_size=2000) as producer:
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    stored = {(r.partition, r.offset): r.value.decode() for r in topic.read()}
    assert len(stored) == 1200
    for number, sent in deliveries.items():
        for n, delivery in enumerate(sent):
            metadata = delivery.result()
            assert stored[metadata.partition, metadata.offset] == f"{number}:{n}"
        for partition in range(2):
            offsets = [d.result().offset for d in sent if d.result().partition == partition]
            assert offsets == sorted(offsets)


def test_linger_needs_no_help_from_the_program(open_log: OpenLog) -> None:
    log = open_log(clock=None)
    log.create_topic("t")
    done = threading.Event()
    with log.producer(linger_ms=10) as producer:
        producer.send("t", b"x").add_done_callback(lambda _: done.set())
        assert done.wait(LONG)


def test_a_buffer_with_room_for_the_record_but_not_for_its_batch_is_a_full_one(
    path: Path, in_thread: Callable[[Callable[[], Any]], Any]
) -> None:
    disk = GatedDisk(OsDisk())
    with streamlog.open(path, disk=disk) as log:
        log.create_topic("t", partitions=2)
        bounds = {"buffer_memory": 1 << 20, "batch_size": 100_000, "max_request_size": 1 << 19}
        with log.producer(linger_ms=200, delivery_timeout_ms=300, **bounds) as producer:
            producer.send("t", b"x", b"k", partition=0).result()
            disk.hold(writes=True)
            writing = in_thread(lambda: producer.send_many("t", [b"y" * 52_400] * 20, [b"k"] * 20, partition=0))
            disk.until_held()
            refused = in_thread(lambda: producer.send("t", b"z", b"k", partition=1))
            with pytest.raises(streamlog.DeliveryTimeoutError):
                refused.result(LONG)
            disk.let_go()
            writing.result(LONG)
