"""What a consumer has read and what is produced from it, in one transaction: `log.transaction`, `send_offsets_to_transaction`."""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

import streamlog
from streamlog import (
    CommitFailedError,
    ConfigError,
    Consumer,
    InvalidTxnStateError,
    RequestTimedOutError,
    StorageError,
    StreamLog,
    StreamlogError,
    TopicPartition,
    TransactionAbortedError,
)
from streamlog.runtime.api import Completion
from streamlog.testing import FaultyDisk, SimulatedDisk

IN = TopicPartition("in", 0)


@pytest.fixture(params=["one broker", "three brokers", "synced"])
def log(request: pytest.FixtureRequest) -> Iterator[StreamLog]:
    options: dict[str, Any] = {"one broker": {}, "three brokers": {"brokers": 3}, "synced": {"sync": True}}[
        request.param
    ]
    with streamlog.open(**options) as log:
        log.create_topic("in").send_many([b"%d" % n for n in range(10)])
        log.create_topic("out")
        yield log


@pytest.fixture
def consumer(log: StreamLog) -> Iterator[Consumer]:
    with log.consumer("in", group="g", enable_auto_commit=False) as consumer:
        yield consumer


def out(log: StreamLog) -> list[bytes]:
    return [record.value for record in log["out"].read()]


def test_records_and_offsets_count_together(log: StreamLog, consumer: Consumer) -> None:
    with log.transaction("a", consumer=consumer) as producer:
        for record in consumer.poll(max_records=4):
            producer.send("out", record.value)
        assert log.group("g").committed() == {}
    assert out(log) == [b"0", b"1", b"2", b"3"]
    assert log.group("g").committed() == {IN: 4}
    with log.transaction("a", consumer=consumer) as producer:
        for record in consumer.poll(max_records=4):
            producer.send("out", record.value)
    assert len(out(log)) == 8
    assert log.group("g").committed() == {IN: 8}


def test_an_abort_takes_the_consumer_back(log: StreamLog, consumer: Consumer) -> None:
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), log.transaction("a", consumer=consumer) as producer:
            assert [record.value for record in consumer.poll(max_records=2)] == [b"0", b"1"]
            producer.send("out", "aborted")
            raise KeyboardInterrupt
        assert consumer.position(IN) == 0
    assert log.group("g").committed() == {}
    assert out(log) == []


def test_an_abort_takes_the_consumer_back_behind_records_that_it_returned_before_the_block(
    log: StreamLog, consumer: Consumer
) -> None:
    with log.transaction("a", consumer=consumer):
        assert len(consumer.poll(max_records=3)) == 3
    records = consumer.poll(max_records=3) + consumer.poll(max_records=3)
    assert [int(record.value) for record in records] == [3, 4, 5, 6, 7, 8]
    with pytest.raises(ValueError), log.transaction("a", consumer=consumer) as producer:
        producer.send_many("out", [record.value for record in records])
        raise ValueError
    assert int(consumer.poll(max_records=1)[0].value) == 3


def test_a_block_for_each_record_of_a_loop_goes_back_to_that_record(log: StreamLog, consumer: Consumer) -> None:
    failed = 0
    for record in consumer.until_end():
        try:
            with log.transaction("a", consumer=consumer) as producer:
                producer.send("out", record.value)
                if record.offset % 3 == 1 and failed < record.offset:
                    failed = record.offset
                    raise ValueError
        except ValueError:
            pass
    assert out(log) == [b"%d" % n for n in range(10)]
    assert log.group("g").committed() == {IN: 10}


def test_a_consumer_that_the_program_has_moved_goes_back_to_where_it_was_moved(
    log: StreamLog, consumer: Consumer
) -> None:
    with log.transaction("a", consumer=consumer):
        consumer.poll()
    consumer.seek(IN, 2)
    with pytest.raises(ValueError), log.transaction("a", consumer=consumer):
        consumer.poll()
        raise ValueError
    assert consumer.position(IN) == 2
    assert log.group("g").committed() == {IN: 10}


def test_offsets_may_be_given_as_to_a_commit(log: StreamLog, consumer: Consumer) -> None:
    records = consumer.poll()
    with log.producer(transactional_id="a") as producer:
        for given, committed in (
            (records[2], 3),
            ({IN: 5}, 5),
            ({IN: streamlog.OffsetAndMetadata(6, "why")}, 6),
            (None, 10),
        ):
            with producer.transaction():
                producer.send_offsets_to_transaction(given, consumer)
            assert log.group("g").committed() == {IN: committed}


def test_the_last_offsets_that_are_sent_count(log: StreamLog, consumer: Consumer) -> None:
    consumer.poll()
    with log.producer(transactional_id="a") as producer:
        with producer.transaction():
            producer.send_offsets_to_transaction({IN: 5}, consumer)
            producer.send_offsets_to_transaction({IN: 6}, consumer)
        assert log.group("g").committed() == {IN: 6}


def test_consumers_that_cannot_take_part_are_refused(log: StreamLog) -> None:
    with (
        log.producer(transactional_id="a") as producer,
        log.consumer("in") as alone,
        log.consumer("in", group="g") as auto,
        streamlog.open(auto_create_topics=True) as other,
        other.consumer("in", group="g", enable_auto_commit=False) as foreign,
    ):
        for consumer, match in (
            (alone, "group"),
            (auto, "enable_auto_commit"),
            (foreign, "another log"),
            ("in", "Consumer"),
        ):
            with pytest.raises(ConfigError, match=match):
                log.transaction("b", consumer=consumer)  # type: ignore[arg-type]
            with producer.transaction(), pytest.raises(ConfigError, match=match):
                producer.send_offsets_to_transaction(None, consumer)  # type: ignore[arg-type]


def test_a_commit_in_the_block_that_commits_the_offsets_is_refused(log: StreamLog, consumer: Consumer) -> None:
    for ends in (True, False):
        with (
            pytest.raises(InvalidTxnStateError, match=r"leave commit\(\) out"),
            log.transaction("a", consumer=consumer),
        ):
            [record] = consumer.poll(max_records=1)
            if ends:
                consumer.commit()
            else:
                consumer.commit(record)
        assert log.group("g").committed() == {}
    with log.transaction("a", consumer=consumer):
        consumer.poll(max_records=2)
    consumer.commit({IN: 1})  # the block has ended
    assert log.group("g").committed() == {IN: 1}
    with log.transaction("a"):
        consumer.commit({IN: 2})  # not one of this consumer
    assert log.group("g").committed() == {IN: 2}


def test_a_consumer_that_was_in_a_transaction_is_collected_when_it_is_dropped(log: StreamLog) -> None:
    consumer = log.consumer("in", group="h", enable_auto_commit=False)
    with log.transaction("a", consumer=consumer):
        consumer.poll(max_records=1)
    gone = weakref.ref(consumer)
    gc.disable()
    try:
        with pytest.warns(ResourceWarning, match="unclosed"):
            del consumer
        assert gone() is None
    finally:
        gc.enable()


def test_offsets_outside_of_a_transaction_are_refused(log: StreamLog, consumer: Consumer) -> None:
    with log.producer(transactional_id="a") as producer, pytest.raises(InvalidTxnStateError):
        producer.send_offsets_to_transaction(None, consumer)


def test_a_member_that_was_evicted_commits_nothing(log: StreamLog, consumer: Consumer) -> None:
    with pytest.raises(CommitFailedError), log.transaction("a", consumer=consumer) as producer:
        for record in consumer.poll(max_records=2):
            producer.send("out", record.value)
        [member] = log.group("g").members()
        log.group("g").evict(member.member_id)
        with log.consumer("in", group="g", enable_auto_commit=False) as successor:
            assert len(successor.poll()) == 10
            successor.commit()
    assert out(log) == []
    assert log.group("g").committed() == {IN: 10}


def test_each_transactional_id_has_one_producer_for_all_its_blocks(log: StreamLog) -> None:
    with log.transaction("a") as first:
        first.send("out", "1")
    with log.transaction("a") as second:
        second.send("out", "2")
    with log.transaction("b") as other:
        other.send("out", "3")
    assert first is second
    assert first is not other
    assert out(log) == [b"1", b"2", b"3"]


def test_a_fenced_producer_is_replaced_at_the_next_block(log: StreamLog) -> None:
    with log.transaction("a") as producer:
        producer.send("out", "1")
    log.producer(transactional_id="a").close()
    with pytest.raises(streamlog.ProducerFencedError), log.transaction("a") as producer:
        producer.send("out", "2")
    with log.transaction("a") as producer:
        producer.send("out", "3")
    assert out(log) == [b"1", b"3"]


def test_a_transactional_id_is_checked(log: StreamLog) -> None:
    for bad in ("", None, 5):
        with pytest.raises(ConfigError):
            log.transaction(bad)  # type: ignore[arg-type]


def test_the_producer_of_a_name_is_made_once_also_if_it_is_asked_for_while_it_is_made(
    log: StreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second one would fence the first."""
    service: Any = log._engine.service
    real, asked = service.init_producer_id, []

    def asks_again(*args: Any, **named: Any) -> Any:
        asked.append(args)
        if len(asked) == 1:
            with pytest.raises(streamlog.ReentrantCallError):  # of this thread; another one waits
                log.transaction("a")
        return real(*args, **named)

    monkeypatch.setattr(service, "init_producer_id", asks_again)
    with log.transaction("a") as producer:
        producer.send("out", b"x")
    assert len(asked) == 1
    assert out(log) == [b"x"]


def pass_on(log: StreamLog, consumer: Consumer, *names: str) -> None:
    """Copy the rest of `in` to `out`, in transactions of two records that are polled before, of these names in turn."""
    for name in itertools.cycle(names):
        records = consumer.poll(max_records=2)
        if not records:
            break
        with contextlib.suppress(StreamlogError), log.transaction(name, consumer=consumer) as producer:
            producer.send_many("out", [record.value for record in records])


@pytest.fixture
def disk() -> FaultyDisk:
    return FaultyDisk(SimulatedDisk())


@pytest.fixture
def faulty(disk: FaultyDisk) -> Iterator[StreamLog]:
    with streamlog.open("data", disk=disk) as log:
        log.create_topic("in").send_many([b"%d" % n for n in range(10)])
        log.create_topic("out")
        for name in "ab":
            with log.transaction(name):
                pass
        yield log


@pytest.mark.parametrize("names", ["a", "b", "ba"])
def test_an_abort_that_cannot_be_written_takes_the_consumer_back_all_the_same(
    faulty: StreamLog, disk: FaultyDisk, names: str
) -> None:
    with faulty.consumer("in", group="g", enable_auto_commit=False) as consumer:
        records = consumer.poll(max_records=2)
        with pytest.raises(ValueError), faulty.transaction("a", consumer=consumer) as producer:
            producer.send_many("out", [record.value for record in records])
            disk.fail("write", errno.EIO, times=None)
            raise ValueError
        disk.heal()
        pass_on(faulty, consumer, *names)
    assert out(faulty) == [b"%d" % n for n in range(10)]
    assert faulty.group("g").committed() == {IN: 10}


@pytest.mark.parametrize("names", ["a", "b", "ba"])
@pytest.mark.parametrize("fails", ["commit", "and abort"])
def test_a_commit_that_cannot_be_written_is_aborted_and_takes_the_consumer_back(
    faulty: StreamLog, disk: FaultyDisk, names: str, fails: str
) -> None:
    with faulty.consumer("in", group="g", enable_auto_commit=False) as consumer:
        records = consumer.poll(max_records=2)
        with pytest.raises(StorageError), faulty.transaction("a", consumer=consumer) as producer:
            producer.send_many("out", [record.value for record in records])
            producer.flush()
            disk.fail(
                "pwrite", errno.EIO, nth=2, times=1 if fails == "commit" else None, path="*.log"
            )  # after the offsets
        disk.heal()
        pass_on(faulty, consumer, *names)
    assert out(faulty) == [b"%d" % n for n in range(10)]
    assert faulty.group("g").committed() == {IN: 10}


def test_a_block_that_cannot_begin_takes_the_consumer_back(log: StreamLog, consumer: Consumer) -> None:
    failed = 0
    for record in consumer.until_end():
        if record.offset % 3 == 1 and failed < record.offset:
            failed = record.offset
            with log.transaction("a"), pytest.raises(InvalidTxnStateError), log.transaction("a", consumer=consumer):
                raise AssertionError
            continue
        with log.transaction("a", consumer=consumer) as producer:
            producer.send("out", record.value)
    assert out(log) == [b"%d" % n for n in range(10)]


def test_a_block_whose_producer_cannot_be_made_takes_the_consumer_back(faulty: StreamLog, disk: FaultyDisk) -> None:
    with faulty.consumer("in", group="g", enable_auto_commit=False) as consumer:
        assert len(consumer.poll(max_records=4)) == 4
        disk.fail("write", errno.EIO, times=None)
        with pytest.raises(StorageError):
            faulty.transaction("new", consumer=consumer)
        disk.heal()
        pass_on(faulty, consumer, "new")
    assert out(faulty) == [b"%d" % n for n in range(10)]


def test_a_consumer_is_in_one_transaction_at_a_time(log: StreamLog, consumer: Consumer) -> None:
    with log.transaction("a", consumer=consumer) as producer:
        records = consumer.poll(max_records=2)
        for name in "ab":
            with pytest.raises(InvalidTxnStateError), log.transaction(name, consumer=consumer):
                raise AssertionError
        producer.send_many("out", [record.value for record in records])
    assert out(log) == [b"0", b"1"]
    pass_on(log, consumer, "b", "a")
    assert out(log) == [b"%d" % n for n in range(10)]


@pytest.fixture
def lost_ends(log: StreamLog, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Which ends of transactions get no answer within their time, and are not decided: those that commit (True), or abort."""
    service, lost = log._use(retries=False), list[bool]()
    end_txn = service.end_txn

    def end(transactional_id: str, producer: Any, commit: bool) -> Completion[Any]:
        monkeypatch.setattr("streamlog.client.retrying.DEFAULT_API_TIMEOUT_S", 0.0 if commit in lost else 60.0)
        return Completion() if commit in lost else end_txn(transactional_id, producer, commit)

    monkeypatch.setattr(service, "end_txn", end, raising=False)
    for name in "ab":
        with log.transaction(name):
            pass
    yield lost
    lost.clear()


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_commit_that_turns_out_to_be_aborted_makes_the_next_block_refuse_what_was_polled_meanwhile(
    log: StreamLog, consumer: Consumer, lost_ends: list[bool], name: str
) -> None:
    records = consumer.poll(max_records=2)
    lost_ends += [True]
    with pytest.raises(RequestTimedOutError), log.transaction("a", consumer=consumer) as producer:
        producer.send_many("out", [record.value for record in records])
    records = consumer.poll(max_records=2)
    assert [record.value for record in records] == [b"2", b"3"]
    lost_ends.clear()
    with pytest.raises(TransactionAbortedError, match="poll again"), log.transaction(name, consumer=consumer):
        raise AssertionError
    pass_on(log, consumer, name)
    assert out(log) == [b"%d" % n for n in range(10)]


@pytest.mark.parametrize("name", ["a", "b"])
def test_what_was_polled_for_blocks_that_could_not_begin_comes_again_however_the_commit_before_has_ended(
    log: StreamLog, consumer: Consumer, lost_ends: list[bool], name: str
) -> None:
    records = consumer.poll(max_records=2)
    lost_ends += [True, False]
    with pytest.raises(RequestTimedOutError), log.transaction("a", consumer=consumer) as producer:
        producer.send_many("out", [record.value for record in records])
    for _ in range(2):
        records = consumer.poll(max_records=2)
        assert [record.value for record in records] == [b"2", b"3"]
        with pytest.raises(RequestTimedOutError), log.transaction(name, consumer=consumer):
            raise AssertionError
    lost_ends.clear()
    pass_on(log, consumer, name)
    assert out(log) == [b"%d" % n for n in range(10)]
