"""What the objects show of themselves in a notebook, a debugger and a message: useful, short, and never an error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

import streamlog
from streamlog import RebalanceListener, TopicPartition
from streamlog.runtime.threads import inside
from streamlog.testing import FaultyDisk, ManualClock, SimulatedDisk


@pytest.fixture
def orders(log: streamlog.StreamLog) -> streamlog.Topic[Any, Any]:
    topic = log.create_topic("orders", partitions=4)
    topic.send_many(["1", "2", "3"], partition=1)
    return topic


def test_a_topic_shows_its_partitions(log: streamlog.StreamLog, orders: streamlog.Topic[Any, Any]) -> None:
    assert repr(orders) == "<streamlog.Topic 'orders': 4 partitions>"
    orders.add_partitions(5)
    assert repr(orders) == "<streamlog.Topic 'orders': 5 partitions>"
    assert repr(log.create_topic("one")) == "<streamlog.Topic 'one': 1 partition>"


def test_a_topic_that_is_gone_says_so(log: streamlog.StreamLog, orders: streamlog.Topic[Any, Any]) -> None:
    log.delete_topic("orders")
    assert repr(orders) == "<streamlog.Topic 'orders': deleted>"
    again = log.create_topic("orders")
    assert repr(orders) == "<streamlog.Topic 'orders': deleted>"
    log.close()
    assert repr(again) == "<streamlog.Topic 'orders': the log is closed>"


def test_a_read_shows_its_ranges(log: streamlog.StreamLog, orders: streamlog.Topic[Any, Any]) -> None:
    read = orders.read(1, start=1)
    assert repr(read) == "<streamlog.Records orders-1 [1, 3)>"
    next(read)
    assert repr(read) == "<streamlog.Records orders-1 [1, 3)>"
    assert repr(orders.read(1, start=3, end=1)) == "<streamlog.Records orders-1 [3, 3)>"
    assert repr(orders.read()) == (
        "<streamlog.Records orders-0 [0, 0), orders-1 [0, 3), orders-2 [0, 0), orders-3 [0, 0)>"
    )
    orders.add_partitions(1000)
    assert repr(orders.read()).endswith("orders-3 [0, 0) and 996 more>")
    read = orders.read(1)
    log.close()
    assert repr(read) == "<streamlog.Records orders-1 [0, 3)>"


def test_a_group_shows_its_state_and_lag(log: streamlog.StreamLog, orders: streamlog.Topic[Any, Any]) -> None:
    group = log.group("billing")
    assert repr(group) == "<streamlog.ConsumerGroup 'billing': Dead, lag 0>"
    with group.consumer("orders") as consumer:
        [first, *_] = consumer.poll()
        consumer.commit(first)
        assert repr(group) == "<streamlog.ConsumerGroup 'billing': Stable, lag 2>"
        with inside():  # as in a signal handler in the middle of a call
            assert repr(group) == "<streamlog.ConsumerGroup 'billing'>"
        consumer.commit()
    assert repr(group) == "<streamlog.ConsumerGroup 'billing': Empty, lag 0>"
    assert len(repr(log.group("g" * 10_000))) < 300
    log.delete_topic("orders")
    assert repr(group).startswith("<streamlog.ConsumerGroup 'billing': ")
    log.close()
    assert repr(group) == "<streamlog.ConsumerGroup 'billing': the log is closed>"


def test_a_consumer_of_many_topics_shows_the_first_ones(log: streamlog.StreamLog) -> None:
    names = [f"t{n}" for n in range(6)]
    for name in names:
        log.create_topic(name)
    with log.consumer(*names[:4]) as some, log.consumer(*names) as many:
        assert repr(some) == "<streamlog.Consumer t0, t1, t2, t3 4 partitions>"
        assert repr(many) == "<streamlog.Consumer t0, t1, t2, t3 and 2 more 6 partitions>"


def test_a_consumer_counts_its_partitions(log: streamlog.StreamLog) -> None:
    log.create_topic("t")
    with log.consumer("t") as consumer:
        assert repr(consumer) == "<streamlog.Consumer t 1 partition>"
    assert repr(consumer) == "<streamlog.Consumer t closed>"


def test_workers_show_the_error_that_ended_them_until_it_is_raised(clock: ManualClock) -> None:
    with streamlog.open(clock=clock) as log:
        log.create_topic("t").send("v")
        workers = log.group("g").start(lambda record: 1 // 0, "t", workers=2)
        clock.advance(0)  # waits for what they do
        assert repr(workers) == (
            "<streamlog.Workers of group 'g': 0 running, failed: ZeroDivisionError: integer division or modulo by zero>"
        )
        with pytest.raises(ZeroDivisionError):
            workers.wait()
        assert repr(workers) == "<streamlog.Workers of group 'g': 0 running>"


class Flusher(RebalanceListener):
    def on_partitions_revoked(self, partitions: Sequence[TopicPartition]) -> None: ...


def test_a_listener_shows_what_it_listens_to() -> None:
    assert repr(RebalanceListener()) == "<streamlog.RebalanceListener: does nothing>"
    assert repr(Flusher()) == f"<{__name__}.Flusher: on_partitions_revoked>"


def test_nothing_that_shows_itself_touches_a_file(clock: ManualClock) -> None:
    disk = FaultyDisk(SimulatedDisk())
    with streamlog.open("/log", disk=disk, clock=clock) as log:
        topic = log.create_topic("orders", partitions=2)
        with log.group("billing").consumer("orders") as consumer:
            delivery = topic.send("1")
            consumer.poll()
            before = len(disk.calls)
            for each in (log, topic, delivery, log.group("billing"), consumer, topic.read()):
                repr(each)
            assert len(disk.calls) == before
    with streamlog.open("/log", disk=disk, clock=clock, read_only=True) as reader:
        topic, group = reader["orders"], reader.group("billing")
        before = len(disk.calls)
        assert repr(topic) == "<streamlog.Topic 'orders': 2 partitions>"
        assert repr(group) == "<streamlog.ConsumerGroup 'billing'>"
        assert len(disk.calls) == before


def test_the_names_of_topics_complete_after_a_bracket(
    log: streamlog.StreamLog, orders: streamlog.Topic[Any, Any]
) -> None:
    log.create_topic("audit")
    with log.group("billing").consumer("orders") as consumer:
        consumer.poll()  # an internal topic is made, which is not completed
    assert log._ipython_key_completions_() == ["audit", "orders"]
    log.close()
    assert log._ipython_key_completions_() == []


def test_a_transactional_producer_shows_its_name_and_what_it_is_doing(log: streamlog.StreamLog) -> None:
    log.create_topic("orders")
    producer = log.producer(transactional_id="billing")
    ready = "<streamlog.Producer streamlog-producer linger_ms=0, acks='all', transactional_id='billing'>"
    assert repr(producer) == ready
    assert repr(producer.transaction()) == "<streamlog transaction of 'billing': it begins in a `with` statement>"
    with producer.transaction():
        assert repr(producer) == ready.replace(">", ", in a transaction>")
        producer.send("orders", "1")
    assert repr(producer) == ready
    producer.begin_transaction()
    producer.send("orders", "2")
    log.abort_transaction("billing")
    with pytest.raises(streamlog.ProducerFencedError):
        producer.commit_transaction()
    assert repr(producer) == ready.replace(">", ", fenced>")
    producer.close()
    assert repr(producer) == "<streamlog.Producer streamlog-producer closed, transactional_id='billing'>"
