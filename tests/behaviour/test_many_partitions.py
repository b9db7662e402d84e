"""What a consumer does for a record does not grow with the partitions it has, nor with the records it holds."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import streamlog
from streamlog import TopicPartition
from streamlog.testing import ManualClock
from tests.bytecodes import bytecodes
from tests.times import FOREVER, LONG

from .test_consuming import InThread
from .test_waking_consumers import Waiting

FEW, MANY = 10, 100


@contextmanager
def reading(partitions: int, group: str | None) -> Iterator[tuple[streamlog.Topic[Any, Any], Any]]:
    """A topic and its consumer, which has read everything."""
    with streamlog.open(clock=ManualClock()) as log:
        topic = log.create_topic("t", partitions=partitions)
        with log.consumer("t", group=group, enable_auto_commit=None if group is None else False) as consumer:
            for _ in range(3):
                assert consumer.poll() == []
            yield topic, consumer


def costs(act: Callable[[streamlog.Topic[Any, Any], Any], Callable[[], object]], group: str | None) -> list[int]:
    """The steps of what `act` prepares, for a consumer with few partitions and with many."""
    found = []
    for partitions in (FEW, MANY):
        with reading(partitions, group) as (topic, consumer):
            act(topic, consumer)()  # what is done once is done
            found.append(bytecodes(act(topic, consumer)))
    return found


def poll_a_record(topic: streamlog.Topic[Any, Any], consumer: Any) -> Callable[[], object]:
    topic.send(b"x", partition=1)
    return lambda: consumer.poll()


def poll_a_batch(topic: streamlog.Topic[Any, Any], consumer: Any) -> Callable[[], object]:
    topic.send(b"x", partition=1)
    return lambda: consumer.poll_batches()


def poll_nothing(_: object, consumer: Any) -> Callable[[], object]:
    return lambda: consumer.poll()


def iterate(topic: streamlog.Topic[Any, Any], consumer: Any) -> Callable[[], object]:
    topic.send(b"x", partition=1)
    topic.send(b"y", partition=1)
    return lambda: (next(consumer), next(consumer))


def seek_and_poll(topic: streamlog.Topic[Any, Any], consumer: Any) -> Callable[[], object]:
    topic.send(b"x", partition=1)
    consumer.poll()
    return lambda: (consumer.seek(TopicPartition("t", 1), 0), consumer.poll(max_records=1))


def ask_for_the_position(topic: streamlog.Topic[Any, Any], consumer: Any) -> Callable[[], object]:
    topic.send(b"x", partition=1)
    consumer.poll()
    return lambda: consumer.position(TopicPartition("t", 1))


def pause_and_resume(_: object, consumer: Any) -> Callable[[], object]:
    name = TopicPartition("t", 1)
    return lambda: (consumer.pause(name), consumer.poll(), consumer.resume(name), consumer.poll())


EVERY = [poll_a_record, poll_a_batch, poll_nothing, iterate, seek_and_poll, ask_for_the_position, pause_and_resume]


@pytest.mark.slow
@pytest.mark.parametrize("group", [None, "g"])
@pytest.mark.parametrize("act", EVERY, ids=lambda act: act.__name__)
def test_a_consumer_of_many_partitions_does_as_much_as_one_of_few(act: Any, group: str | None) -> None:
    few, many = costs(act, group)
    assert many <= few * 1.2, (few, many)


@pytest.mark.parametrize("group", [None, "g"])
def test_a_poll_that_finds_nothing_does_as_much_as_with_one_partition(group: str | None) -> None:
    found = []
    for partitions in (1, MANY):
        with reading(partitions, group) as (_, consumer):
            consumer.poll()
            found.append(bytecodes(consumer.poll))
    one, many = found
    assert many <= one * 1.2, found


@pytest.mark.parametrize("linger_ms", [0, 1000])
def test_the_first_send_of_a_producer_to_a_topic_makes_the_queue_of_one_partition(linger_ms: int) -> None:
    found = []
    with streamlog.open(clock=ManualClock()) as log:
        for partitions in (FEW, MANY):
            log.create_topic(f"t{partitions}", partitions=partitions)
            with log.producer(linger_ms=linger_ms) as producer:
                found.append(bytecodes(lambda: producer.send(f"t{partitions}", b"x", b"key")))  # noqa: B023
    few, many = found
    assert many <= few * 1.1, found


def test_a_commit_writes_what_has_moved() -> None:
    def commit(topic: streamlog.Topic[Any, Any], consumer: Any) -> Callable[[], object]:
        consumer.commit()  # of all, once
        topic.send(b"x", partition=1)
        consumer.poll()
        return lambda: consumer.commit()

    few, many = costs(commit, "g")
    assert many <= few * 1.2, (few, many)


def test_committing_record_by_record_costs_the_same_however_many_a_poll_returned() -> None:
    found = []
    for n in (3, 300):
        with reading(n, "g") as (topic, consumer):
            for partition in range(n):
                topic.send(b"x", partition=partition)
            records = consumer.poll()
            assert len(records) == n
            consumer.commit(records[0])
            for record in records[1:-1]:
                consumer.commit(record)
            found.append(bytecodes(lambda record=records[-1], consumer=consumer: consumer.commit(record)))
    few, many = found
    assert many <= few * 1.2, found


@pytest.mark.parametrize("partitions", [1, 50])
def test_a_consumer_that_waited_fetches_once_for_what_woke_it(
    log: streamlog.StreamLog, in_thread: InThread, monkeypatch: pytest.MonkeyPatch, partitions: int
) -> None:
    topic = log.create_topic("t", partitions=partitions)
    service: Any = log._engine.service
    fetch, fetched = service.fetch, []

    def counted(*args: Any) -> Any:
        fetched.append(args[0])
        return fetch(*args)

    service.fetch = counted
    with log.consumer("t") as consumer:
        assert consumer.poll(1e-9) == []
        for _ in range(3):
            fetched.clear()
            waiting = Waiting(monkeypatch)
            polled = in_thread(lambda: consumer.poll(FOREVER))
            waiting.until_it_waits()
            topic.send(b"x", partition=partitions - 1)
            assert len(polled.result(LONG)) == 1
            assert [each[:2] for each in fetched] == [("t", partitions - 1)]
