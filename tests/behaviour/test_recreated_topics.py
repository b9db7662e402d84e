"""A topic that is deleted and made again is another topic: for handles, producers, readers, groups, commits."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

import streamlog
from streamlog import StreamLog, TopicPartition
from streamlog.testing import ManualClock
from tests.times import LONG

P0 = TopicPartition("t", 0)


def recreate(log: streamlog.StreamLog, *values: bytes, partitions: int = 1) -> None:
    log.delete_topic("t")
    log.create_topic("t", partitions=partitions).send_many(list(values))


@pytest.mark.parametrize(
    "use",
    [
        lambda log, topic: topic.read(),
        lambda log, topic: topic.send(b"x"),
        lambda log, topic: log.producer().send(topic, b"x"),
        lambda log, topic: log.consumer(topic),
        lambda log, topic: topic.delete(),
    ],
    ids=["read", "send", "producer", "consumer", "delete"],
)
def test_a_handle_of_the_former_topic_is_refused(log: streamlog.StreamLog, use: Callable[[Any, Any], object]) -> None:
    former = log.create_topic("t")
    recreate(log, b"new")
    with pytest.raises(streamlog.UnknownTopicIdError):
        use(log, former)
    assert [record.value for record in log["t"].read()] == [b"new"]


def test_a_producer_that_knows_both_topics_refuses_the_former_handle(log: streamlog.StreamLog) -> None:
    former = log.create_topic("t")
    producer = log.producer()
    producer.send(former, b"old")
    recreate(log)
    for _ in range(2):
        with pytest.raises(streamlog.UnknownTopicIdError):
            producer.send(former, b"lost")
        producer.send("t", b"new")
    assert [record.value for record in log["t"].read()] == [b"new", b"new"]


def test_a_handle_of_a_topic_that_is_recreated_while_it_sends_does_not_send_to_the_other(
    log: streamlog.StreamLog,
) -> None:
    former = log.create_topic("t")
    service: Any = log._engine.service
    find = service.topic

    def find_and_recreate(name: str) -> Any:
        found = find(name)
        service.topic = find
        recreate(log)
        return found

    service.topic = find_and_recreate
    for _ in range(3):
        with pytest.raises(streamlog.UnknownTopicIdError):
            former.send(b"lost")
    assert list(log["t"].read()) == []


def test_a_topic_that_is_recreated_while_it_is_looked_up_is_looked_up_again(
    log: streamlog.StreamLog, in_thread: Callable[[Callable[[], Any]], Any]
) -> None:
    log.create_topic("t")
    left: list[object] = []

    class RecreatesFirst:
        """A Serde whose `serialize` is looked up when the producer is made, and when a topic is."""

        @property
        def serialize(self) -> Callable[[bytes], bytes]:
            if left:
                left.pop()
                in_thread(lambda: recreate(log, partitions=3)).result(timeout=LONG)
            return bytes

    producer = log.producer(value_serializer=RecreatesFirst())
    left.append(None)
    with pytest.raises(streamlog.UnknownTopicOrPartitionError):
        producer.send("t", b"v", b"k")  # it was looked up as the former topic
    here = producer.send("t", b"v", b"k").result()
    assert here.partition == log.producer().send("t", b"v", b"k").result().partition


def test_a_group_reads_the_new_topic_from_its_start_and_commits_its_own_offsets(log: streamlog.StreamLog) -> None:
    log.create_topic("t").send(b"old")
    with log.consumer("t", group="g") as consumer:
        assert [record.value for record in consumer.poll()] == [b"old"]
        consumer.commit()
        recreate(log, b"new")
        seen = [record.value for _ in range(3) for record in consumer.poll()]
    assert seen == [b"new"]
    assert log.group("g").committed() == {P0: 1}
    with log.consumer("t", group="g") as consumer:
        assert consumer.poll() == []


@pytest.mark.parametrize("how", ["end of the block", "commit", "commit a record"])
def test_a_last_commit_of_the_former_topic_does_not_skip_records_of_the_new_one(
    log: streamlog.StreamLog, how: str
) -> None:
    log.create_topic("t").send_many([b"old"] * 3)
    with contextlib.suppress(streamlog.StreamlogError), log.consumer("t", group="g") as consumer:
        records = consumer.poll()
        assert len(records) == 3
        recreate(log, b"a", b"b", b"c", b"d")
        if how == "commit":
            consumer.commit()
        elif how == "commit a record":
            consumer.commit(records[-1])
    with log.consumer("t", group="g") as consumer:
        assert [record.value for record in consumer.poll()] == [b"a", b"b", b"c", b"d"]


@pytest.mark.parametrize("how", ["unsubscribe", "poll"])
def test_a_consumer_that_goes_on_commits_nothing_of_the_former_topic(log: streamlog.StreamLog, how: str) -> None:
    log.create_topic("t").send_many([b"old"] * 3)
    consumer = log.consumer("t", group="g")
    assert len(consumer.poll()) == 3
    recreate(log, b"a", b"b", b"c", b"d")
    if how == "poll":
        consumer.poll()
    else:
        consumer.unsubscribe()
    consumer.close()
    # Of the new topic the position at which it began to read.
    assert log.group("g").committed() == ({P0: 0} if how == "poll" else {})


def test_a_consumer_alone_reads_the_new_topic_from_its_start(log: streamlog.StreamLog) -> None:
    log.create_topic("t").send_many([b"a0", b"a1", b"a2"])
    consumer = log.consumer("t")
    assert len(consumer.poll()) == 3
    recreate(log, b"b0", b"b1", b"b2", b"b3", b"b4")
    assert [record.value for record in consumer.poll()] == [b"b0", b"b1", b"b2", b"b3", b"b4"]


def test_a_read_never_mixes_the_former_topic_with_the_new_one(log: streamlog.StreamLog) -> None:
    log.create_topic("t").send_many([b"old%d" % n for n in range(2000)])
    records = log["t"].read()
    assert next(records).value == b"old0"
    recreate(log, *[b"new"] * 5000)
    seen: list[bytes | None] = []
    with pytest.raises(streamlog.UnknownTopicIdError):
        seen.extend(record.value for record in records)  # what came before the error stays in the list
    assert b"new" not in seen


def test_a_deleted_group_forgets_its_offsets_and_its_consumer_may_come_back(log: streamlog.StreamLog) -> None:
    log.create_topic("t").send_many([b"a", b"b"])
    with log.consumer("t", group="g") as consumer:
        assert len(consumer.poll()) == 2
        consumer.commit()
        consumer.unsubscribe()
        log.group("g").delete()
        consumer.subscribe("t")
        assert len(consumer.poll()) == 2
        assert consumer.poll() == []
        consumer.unsubscribe()
    assert log.group("g").committed() == {P0: 2}


def test_the_kind_of_timestamp_changes_for_producers_that_know_the_topic(
    log: streamlog.StreamLog, clock: ManualClock
) -> None:
    topic = log.create_topic("t")
    producer, lingering = log.producer(), log.producer(linger_ms=60_000)
    assert producer.send("t", b"1", timestamp_ms=5).result().timestamp == 5
    assert lingering.send("t", b"1", timestamp_ms=5).result().timestamp == 5
    topic.update_config(message_timestamp_type="LogAppendTime")
    now = clock.time_ms()
    for known in (producer, lingering, log.producer()):
        assert known.send("t", b"2", timestamp_ms=5).result().timestamp == now
    assert [record.timestamp for record in topic.read()] == [5, 5, now, now, now]


def test_a_send_that_is_overtaken_by_a_new_topic_of_that_name_fails_or_is_written(log: StreamLog) -> None:
    """The serializer stands in for another thread that makes the topic anew and sends to it meanwhile."""
    log.create_topic("t")

    def serialize(value: str) -> bytes:
        if value == "first":
            log.delete_topic("t")
            log.create_topic("t")
            producer.send("t", "second")
        return value.encode()

    with log.producer(linger_ms=5, value_serializer=serialize) as producer:
        producer.send("t", "zero").result()
        with pytest.raises(streamlog.UnknownTopicOrPartitionError):
            producer.send("t", "first")
    assert [record.value for record in log["t"].read()] == [b"second"]
