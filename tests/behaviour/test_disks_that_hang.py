"""A disk under one of several brokers does not answer any more: no call fails, none comes back. The others go on without it.

What is in a call on that disk stays there; every other call of the log waits for `LIMIT_MS` at most.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import streamlog
from streamlog import StreamLog, Topic, TopicPartition
from streamlog.broker import disk_watch
from streamlog.errors import LogLockedError, StorageError
from streamlog.testing import SimulatedDisk
from tests.coordinated_writer import CoordinatedWriter
from tests.times import LONG

from .hung_disk import HungDisk
from .traffic import eventually, values

PATH = "/data"
LIMIT_MS = 200


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_watch, "LEAST_MS", LIMIT_MS)


@pytest.fixture
def disk() -> Iterator[HungDisk]:
    disk = HungDisk(SimulatedDisk())
    yield disk
    disk.let_go()


def opened(disk: HungDisk, **options: Any) -> StreamLog:
    return streamlog.open(PATH, disk=disk, replica_lag_time_max_ms=LIMIT_MS, **{"brokers": 3, **options})


def hang(disk: HungDisk, broker: int, calls: frozenset[str] | None = None) -> None:
    disk.hang(f"{PATH}/broker-{broker}", calls)


def beside(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """A thread that makes a call, and what the call has returned, or raised."""
    answers: list[Any] = []

    def run() -> None:
        try:
            answers.append(call())
        except BaseException as error:
            answers.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, answers


def answer(call: Callable[[], Any]) -> Any:
    """What a call returns, or raises, that must not wait for the disk."""
    thread, answers = beside(call)
    thread.join(LONG)
    assert answers, "it waits for the disk"
    if isinstance(answers[0], BaseException):
        raise answers[0]
    return answers[0]


def all_in_sync(topic: Topic[Any, Any]) -> bool:
    return all(set(topic.partition(n).isr) == {0, 1, 2} for n in range(topic.partitions))


def start_again(log: StreamLog, broker: int) -> None:
    """Start a broker whose disk answers again. Its files are closed first, by the threads that come back."""

    def started() -> bool:
        try:
            log.brokers[broker].start()
        except (StorageError, LogLockedError):
            return False
        return log.brokers[broker].running

    eventually(started)


def create_topic(log: StreamLog) -> None:
    log.create_topic("new", partitions=3)
    log["new"].send("x").result()


def add_partitions(log: StreamLog) -> None:
    log["t"].add_partitions(6)


def delete_topic(log: StreamLog) -> None:
    log.delete_topic("t")


def send(log: StreamLog) -> None:
    with log.producer() as producer:
        for number in range(3):
            producer.send("t", "next", partition=number).result()


def send_many(log: StreamLog) -> None:
    with log.producer() as producer:
        producer.send_many("t", [b"next"] * 9)


def commit(log: StreamLog) -> None:
    with log.consumer("t", group=f"g{len(log.groups())}", enable_auto_commit=False) as consumer:
        assert consumer.poll(LONG)
        consumer.commit()


def elect(log: StreamLog) -> None:
    try:
        log.elect_leader(("t", 0), 1)
    except streamlog.StreamlogError as error:
        assert error.retriable, error


CALLS = (create_topic, add_partitions, delete_topic, send, send_many, commit, elect)


@pytest.mark.slow
@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("broker", [0, 1])
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_a_call_goes_on_without_the_broker_whose_disk_hangs(
    disk: HungDisk, call: Callable[[StreamLog], None], broker: int, sync: bool
) -> None:
    with opened(disk, sync=sync) as log:
        topic = log.create_topic("t", partitions=3)
        topic.send_many([b"x"] * 9).result()
        commit(log)
        hang(disk, broker)
        if call in (send, send_many):  # a thread that is in the call when that is found out waits for the disk
            beside(lambda: call(log))
            eventually(lambda: not log.brokers[broker].running)
        answer(lambda: call(log))
        eventually(lambda: not log.brokers[broker].running)
        about = log.metrics()["brokers"][str(broker)]
        assert "does not answer" in about["failure"]
        disk.let_go()
        start_again(log, broker)
        last = log.create_topic("last", partitions=3)
        eventually(lambda: all_in_sync(last))
    with opened(disk) as log:
        assert len(log.brokers) == 3
    assert streamlog.verify(PATH, disk=disk).ok


@pytest.mark.parametrize("broker", [0, 1])
def test_a_record_whose_append_hangs_is_there_once_when_its_disk_answers_again(disk: HungDisk, broker: int) -> None:
    with opened(disk) as log:
        topic = log.create_topic("t", partitions=3)
        topic.send_many([b"before"] * 9).result()
        hang(disk, broker, frozenset({"pwrite"}))
        sender, sent = beside(lambda: log["t"].send("held", partition=broker).result())
        disk.until_held()
        eventually(lambda: not log.brokers[broker].running)
        with log.producer() as other:
            answer(lambda: other.send("t", "other", partition=broker).result())
        disk.let_go()
        sender.join(LONG)
        assert isinstance(sent[0], streamlog.RecordMetadata), sent
        start_again(log, broker)
        eventually(lambda: all_in_sync(topic))
        assert sorted(v for v in values(log) if v != b"before") == [b"held", b"other"]
    assert streamlog.verify(PATH, disk=disk).ok


def test_a_batch_that_lingers_goes_on_beside_one_whose_append_hangs(disk: HungDisk) -> None:
    with opened(disk) as log:
        log.create_topic("t", partitions=3)
        with log.producer(linger_ms=5) as first, log.producer(linger_ms=5) as second:
            first.send("t", "before", partition=0).result()
            hang(disk, 0, frozenset({"pwrite"}))
            held = first.send("t", "held", partition=0)
            disk.until_held()
            eventually(lambda: not log.brokers[0].running)
            sent = second.send("t", "next", partition=1)
            eventually(sent.done)
            disk.let_go()
            assert held.result().partition == 0
        assert sorted(v or b"" for v in values(log)) == [b"before", b"held", b"next"]


@pytest.mark.parametrize("broker", [0, 1])
def test_a_broker_whose_disk_hangs_is_stopped_and_not_started_until_it_answers(disk: HungDisk, broker: int) -> None:
    with opened(disk) as log:
        topic = log.create_topic("t", partitions=3)
        topic.send_many([b"x"] * 9).result()
        hang(disk, broker)
        answer(log.brokers[broker].stop)
        assert not log.brokers[broker].running
        with pytest.raises(StorageError, match="does not answer") as raised:
            answer(log.brokers[broker].start)
        assert raised.value.errno == errno.ETIMEDOUT
        answer(lambda: create_topic(log))
        disk.let_go()
        start_again(log, broker)
        eventually(lambda: all_in_sync(topic))


@pytest.mark.parametrize("topic", ["t", "__consumer_offsets"])
def test_a_transaction_ends_though_the_disk_hangs_while_its_marker_is_written(disk: HungDisk, topic: str) -> None:
    """The thread in the call holds no lock of a coordinator, and the other partitions get their markers."""
    with opened(disk) as log:
        log.create_topic("t", partitions=3).send_many([b"x"] * 9).result()
        commit(log)
        writer = CoordinatedWriter(log)
        for number in range(3):
            writer.send("t", b"y", partition=number)
        writer.commit_offsets("billing", {TopicPartition("t", 0): 1})
        disk.hang(writer.service.leader(TopicPartition(topic, 0)).log.directory, frozenset({"pwrite"}))
        beside(writer.commit)
        disk.until_held()
        answer(lambda: eventually(lambda: not log.transactions()))
        assert answer(log.group("billing").committed) == {TopicPartition("t", 0): 1}
        for number in range(3):
            partition = log["t"].partition(number)
            assert partition.last_stable_offset == partition.high_watermark
        disk.let_go()


@pytest.mark.parametrize("is_found_out", [False, True])
def test_a_log_is_closed_while_a_disk_hangs_and_the_others_are_closed_cleanly(
    disk: HungDisk, is_found_out: bool
) -> None:
    log = opened(disk)
    topic = log.create_topic("t", partitions=3)
    topic.send_many([b"x"] * 9).result()
    if is_found_out:
        hang(disk, 1)
        answer(lambda: create_topic(log))
    else:
        hang(disk, 1, frozenset({"sync", "close"}))
    answer(log.close)
    disk.let_go()
    eventually(lambda: not disk.held)

    def opens() -> bool:
        try:
            with opened(disk) as log:
                return values(log) == [b"x"] * 9
        except LogLockedError:
            return False

    eventually(opens)


def test_a_log_goes_on_with_the_one_of_three_brokers_whose_disk_answers(disk: HungDisk) -> None:
    with opened(disk, min_insync_replicas=1) as log:
        log.create_topic("t", partitions=3).send_many([b"x"] * 9).result()
        hang(disk, 0)
        answer(lambda: create_topic(log))
        hang(disk, 1)
        answer(lambda: log.create_topic("newer"))
        assert [broker.running for broker in log.brokers] == [False, False, True]
        answer(lambda: log["t"].send("y").result())
        assert sorted(v or b"" for v in values(log)) == [b"x"] * 9 + [b"y"]
        disk.let_go()
        for broker in (0, 1):
            start_again(log, broker)
        eventually(lambda: all_in_sync(log["t"]))


def test_the_last_broker_that_runs_is_waited_for(disk: HungDisk, caplog: pytest.LogCaptureFixture) -> None:
    """No other could go on: the log waits for its disk, as a log of one broker does."""
    with opened(disk, min_insync_replicas=1) as log:
        log.create_topic("t").send("x").result()
        log.brokers[0].stop()
        log.brokers[1].stop()
        hang(disk, 2)
        caller, _ = beside(lambda: create_topic(log))
        eventually(lambda: "the last one that runs" in caplog.text)
        disk.let_go()
        caller.join(LONG)
        assert not caller.is_alive()
        assert log["new"].partitions == 3
