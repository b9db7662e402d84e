"""Transactions of a producer: all of their records or none, whatever ends them."""

from __future__ import annotations

import gc
import threading
import warnings
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

import streamlog
from streamlog import (
    ConfigError,
    InvalidTxnStateError,
    ProducerFencedError,
    StreamLog,
    TransactionAbortedError,
)
from streamlog.broker.transaction_coordinator import TransactionCoordinator
from streamlog.storage.log_transactions import LogTransactions
from streamlog.testing import FaultyDisk, ManualClock, SimulatedDisk


@pytest.fixture(params=["one broker", "three brokers", "synced"])
def log(request: pytest.FixtureRequest) -> Iterator[StreamLog]:
    options: dict[str, Any] = {"one broker": {}, "three brokers": {"brokers": 3}, "synced": {"sync": True}}[
        request.param
    ]
    with streamlog.open(auto_create_topics=True, **options) as log:
        log.create_topic("t", partitions=2)
        yield log


@pytest.fixture
def single() -> Iterator[StreamLog]:
    with streamlog.open(auto_create_topics=True) as log:
        log.create_topic("t", partitions=2)
        yield log


def values(log: StreamLog, topic: str = "t", **settings: Any) -> list[bytes]:
    return sorted(record.value for record in log[topic].read(**settings))


@pytest.mark.parametrize("linger_ms", [0, 60_000])
def test_a_block_commits_all_of_its_records_at_its_end(log: StreamLog, linger_ms: int) -> None:
    with log.producer(transactional_id="a", linger_ms=linger_ms) as producer:
        for round_ in range(3):
            with producer.transaction() as same:
                assert same is producer
                producer.send("t", f"{round_}-1", partition=0)
                producer.send_many("t", [f"{round_}-2", f"{round_}-3"])
                producer.send("other", f"{round_}")
                producer.flush()
                assert len(values(log)) == 3 * round_
            assert len(values(log)) == 3 * (round_ + 1)
    assert values(log, "other") == [b"0", b"1", b"2"]


@pytest.mark.parametrize("linger_ms", [0, 60_000])
def test_a_block_that_raises_leaves_nothing_for_readers(log: StreamLog, linger_ms: int) -> None:
    with log.producer(transactional_id="a", linger_ms=linger_ms) as producer:
        for error in (ValueError(), KeyboardInterrupt(), SystemExit()):
            with pytest.raises(type(error)), producer.transaction():
                producer.send("t", "aborted")
                producer.send_many("t", ["aborted"] * 3)
                raise error
        with producer.transaction():
            producer.send("t", "committed")
    assert values(log) == [b"committed"]


def test_the_calls_of_kafkas_producer_do_the_same(log: StreamLog) -> None:
    with log.producer(transactional_id="a") as producer:
        producer.begin_transaction()
        producer.send("t", "1")
        producer.abort_transaction()
        producer.begin_transaction()
        producer.send("t", "2")
        producer.commit_transaction()
    assert values(log) == [b"2"]


def test_records_keep_their_order_and_other_producers_records_are_between_them(single: StreamLog) -> None:
    with single.producer(transactional_id="a") as a, single.producer() as b, a.transaction():
        a.send("t", "1", partition=0)
        b.send("t", "2", partition=0)
        a.send("t", "3", partition=0)
        assert [record.value for record in single["t"].read(0)] == []
        assert [record.value for record in single["t"].read(0, isolation_level="read_uncommitted")] == [
            b"1",
            b"2",
            b"3",
        ]
    assert [record.value for record in single["t"].read(0)] == [b"1", b"2", b"3"]


def test_a_consumer_gets_a_transaction_when_it_is_committed_and_none_that_is_aborted(log: StreamLog) -> None:
    with log.consumer("t") as consumer, log.producer(transactional_id="a") as producer:
        with producer.transaction():
            producer.send_many("t", [b"1", b"2"])
            assert consumer.poll() == []
        assert sorted(record.value for record in consumer.poll(timeout=10)) == [b"1", b"2"]
        with pytest.raises(ValueError), producer.transaction():
            producer.send("t", "no")
            raise ValueError
        assert consumer.poll() == []


def test_the_last_stable_offset_is_that_of_the_first_open_transaction(single: StreamLog) -> None:
    single["t"].send("0", partition=0)
    with single.producer(transactional_id="a") as producer:
        with producer.transaction():
            producer.send("t", "1", partition=0)
            info = single["t"].partition(0)
            assert (info.last_stable_offset, info.high_watermark) == (1, 2)
        info = single["t"].partition(0)
        assert info.last_stable_offset == info.high_watermark == 3


def test_a_new_producer_of_the_same_id_fences_the_old_one_and_aborts_its_transaction(log: StreamLog) -> None:
    old = log.producer(transactional_id="a")
    old.begin_transaction()
    old.send("t", "zombie")
    new = log.producer(transactional_id="a")
    for call in (lambda: old.send("t", "zombie"), old.commit_transaction, old.begin_transaction, old.abort_transaction):
        with pytest.raises((ProducerFencedError, InvalidTxnStateError)):
            call()
    with new.transaction():
        new.send("t", "1")
    old.close()  # quiet
    new.close()
    assert values(log) == [b"1"]


def test_closing_the_log_with_a_fenced_producer_is_quiet(single: StreamLog) -> None:
    old = single.producer(transactional_id="a", linger_ms=60_000)
    old.begin_transaction()
    old.send("t", "zombie")
    single.producer(transactional_id="a")
    single.close()


def test_closing_a_producer_or_the_log_aborts(tmp_path: Any) -> None:
    path = str(tmp_path / "log")
    with streamlog.open(path, auto_create_topics=True) as log:
        producer = log.producer(transactional_id="a")
        producer.begin_transaction()
        producer.send("t", "1")
        producer.close()
        assert log["t"].partition(0).last_stable_offset == log["t"].partition(0).high_watermark
        assert values(log) == []
        producer = log.producer(transactional_id="a")
        producer.begin_transaction()
        producer.send("t", "2")
        list(log["t"].read(isolation_level="read_uncommitted"))
    assert producer.closed


@pytest.mark.filterwarnings("ignore:unclosed")
@pytest.mark.parametrize("what", ["producer", "log"])
def test_a_block_whose_producer_is_closed_in_it_says_that_nothing_of_it_counts(tmp_path: Any, what: str) -> None:
    with streamlog.open(tmp_path, auto_create_topics=True) as log:
        producer = log.producer(transactional_id="a")
        with pytest.raises(streamlog.ClosedError, match="nothing of it counts"), producer.transaction():
            producer.send("t", "aborted")
            (producer if what == "producer" else log).close()
    with streamlog.open(tmp_path) as log:
        producer = log.producer(transactional_id="a")
        with producer.transaction():
            producer.send("t", "committed")
            producer.commit_transaction()
            producer.close()
        assert values(log) == [b"committed"]


def test_a_producer_whose_block_ends_without_a_commit_warns(single: StreamLog) -> None:
    says = r"of 'a' ended with a transaction open.*commit_transaction\(\)"
    with pytest.warns(UserWarning, match=says) as caught, single.producer(transactional_id="a") as producer:
        producer.begin_transaction()
        producer.send("t", "forgotten")
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with single.producer(transactional_id="a") as producer:
            producer.begin_transaction()  # and nothing is sent
        with pytest.raises(ValueError), single.producer(transactional_id="a") as producer:
            producer.begin_transaction()
            producer.send("t", "failed")
            raise ValueError
        producer = single.producer(transactional_id="a")
        producer.begin_transaction()
        producer.send("t", "left out")
        producer.close()
    assert values(single) == []


@pytest.mark.parametrize("linger_ms", [0, 60_000])
def test_a_producer_that_was_fenced_in_its_transaction_is_fenced_whatever_it_calls(
    single: StreamLog, linger_ms: int, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        single.producer(transactional_id="a", linger_ms=linger_ms) as old,
        single.producer(transactional_id="b") as other,
    ):
        old.begin_transaction()
        old.send("t", "aborted", partition=0)
        with single.producer(transactional_id="a") as new, new.transaction():
            new.send("t", "new")
        with suppress(ProducerFencedError):
            old.send("t", "late", partition=0)
        for call in (old.commit_transaction, old.abort_transaction, old.begin_transaction):
            with pytest.raises(ProducerFencedError):
                call()
        with pytest.raises(ProducerFencedError), other.transaction():
            other.send("t", "aborted")
            single.abort_transaction("b")
    assert values(single) == [b"new"]
    assert "could not be aborted" not in caplog.text


def test_a_producer_that_is_collected_is_aborted() -> None:
    with streamlog.open(clock=ManualClock()) as log:  # without a background thread, which would do it at some time
        log.create_topic("t")
        producer = log.producer(transactional_id="a")
        producer.begin_transaction()
        producer.send("t", "1", partition=0)
        del producer
        gc.collect()
        log.producer().close()  # making or closing the next object finalizes the dropped ones
        log["t"].send("2")
        info = log["t"].partition(0)
        assert info.last_stable_offset == info.high_watermark
        assert values(log) == [b"2"]


def test_records_that_were_not_written_say_that_they_were_aborted(single: StreamLog) -> None:
    with single.producer(transactional_id="a", linger_ms=60_000) as producer:
        producer.begin_transaction()
        delivery = producer.send("t", "1")
        producer.abort_transaction()
        with pytest.raises(TransactionAbortedError):
            delivery.result()


def test_what_is_not_allowed_now_says_what_to_do(single: StreamLog) -> None:
    with single.producer(transactional_id="a") as producer:
        with pytest.raises(InvalidTxnStateError, match=r"begin_transaction\(\)"):
            producer.send("t", "1")
        with pytest.raises(InvalidTxnStateError, match=r"begin_transaction\(\)"):
            producer.send_many("t", ["1"])
        with pytest.raises(InvalidTxnStateError):
            producer.commit_transaction()
        with pytest.raises(InvalidTxnStateError):
            producer.abort_transaction()
        producer.begin_transaction()
        with pytest.raises(InvalidTxnStateError, match="open already"):
            producer.begin_transaction()
        producer.abort_transaction()
    with single.producer() as plain:
        for call in (plain.begin_transaction, plain.commit_transaction, plain.abort_transaction, plain.transaction):
            with pytest.raises(ConfigError, match="transactional_id"):
                call()
    assert values(single, isolation_level="read_uncommitted") == []


@pytest.mark.parametrize(
    "config",
    [
        {"acks": 1},
        {"acks": 0},
        {"enable_idempotence": False},
        {"transactional_id": ""},
        {"transactional_id": 5},
        {"transaction_timeout_ms": 0},
        {"transaction_timeout_ms": 900_001},
    ],
)
def test_settings_that_contradict_a_transactional_id_are_refused(single: StreamLog, config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        single.producer(**{"transactional_id": "a", **config})


def test_a_bad_record_is_refused_at_the_call_and_the_transaction_goes_on(single: StreamLog) -> None:
    with single.producer(transactional_id="a") as producer, producer.transaction():
        with pytest.raises(streamlog.SerializationError):
            producer.send("t", object())
        with pytest.raises(streamlog.RecordTooLargeError):
            producer.send("t", bytes(2_000_000))
        producer.send("t", "1")
    assert values(single) == [b"1"]


def test_a_record_that_could_not_be_written_leaves_only_an_abort() -> None:
    disk = FaultyDisk(SimulatedDisk())
    with streamlog.open("/log", disk=disk) as log:
        log.create_topic("t")
        with log.producer(transactional_id="a") as producer:
            producer.begin_transaction()
            producer.send("t", "1")
            disk.fail("write", path="*.log")
            with pytest.raises(streamlog.DiskFullError):
                producer.send("t", "2")
            disk.heal()
            with pytest.raises(InvalidTxnStateError, match="only be aborted"):
                producer.commit_transaction()
            producer.abort_transaction()
            with producer.transaction():
                producer.send("t", "3")
        assert values(log) == [b"3"]


def test_many_threads_send_in_one_transaction(log: StreamLog) -> None:
    with log.producer(transactional_id="a") as producer:
        with producer.transaction():
            threads = [
                threading.Thread(target=lambda n=n: [producer.send("t", f"{n}-{i}") for i in range(20)])
                for n in range(4)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert values(log) == []
        assert len(values(log)) == 80


def test_two_producers_are_in_transactions_at_the_same_time(log: StreamLog) -> None:
    with log.producer(transactional_id="a") as a, log.producer(transactional_id="b") as b:
        with a.transaction():
            a.send("t", "a1", partition=0)
            with pytest.raises(ValueError), b.transaction():
                b.send("t", "b1", partition=0)
                raise ValueError
            with b.transaction():
                b.send("t", "b2", partition=0)
            assert values(log) == []  # the first open one hides what comes after it
        assert values(log) == [b"a1", b"b2"]


def test_a_transaction_that_takes_too_long_is_aborted_and_its_producer_fenced() -> None:
    clock = ManualClock()
    with streamlog.open(clock=clock) as log:
        log.create_topic("t")
        with log.producer(transactional_id="a", transaction_timeout_ms=1000) as producer:
            producer.begin_transaction()
            producer.send("t", "1")
            clock.jump(10_000)  # the wall clock does not count
            clock.advance(0.5)
            producer.send("t", "2")
            clock.advance(30)
            info = log["t"].partition(0)
            assert info.last_stable_offset == info.high_watermark
            with pytest.raises(ProducerFencedError) as raised:
                producer.commit_transaction()
            assert raised.value.timed_out
        assert values(log) == []


def test_a_topic_that_is_deleted_meanwhile_takes_its_records_with_it(single: StreamLog) -> None:
    with single.producer(transactional_id="a") as producer:
        with producer.transaction():
            producer.send("t", "1")
            producer.send("other", "1")
            single.delete_topic("other")
        assert values(single) == [b"1"]


def test_a_reader_cannot_make_a_transactional_producer(tmp_path: Any) -> None:
    path = str(tmp_path / "log")
    with streamlog.open(path):
        pass
    with streamlog.open(path, read_only=True) as log, pytest.raises(streamlog.ReadOnlyError):
        log.producer(transactional_id="a")


def test_the_coordinator_is_asked_once_for_the_single_records_of_a_transaction_in_one_partition(
    single: StreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(TransactionCoordinator, "verify", lambda coordinator, *batch: asked.append(batch))
    with single.producer(transactional_id="a") as producer:
        for _ in range(2):
            with producer.transaction():
                for number in range(50):
                    producer.send("t", b"%d" % number, partition=number % 2)
    assert len(asked) <= 8  # in each: before the first record of a partition, and the first that follows such a one


def test_the_coordinator_is_asked_once_for_the_batches_of_a_transaction_in_one_partition(
    single: StreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    published: list[object] = []
    publish = LogTransactions._publish

    def counted(manager: LogTransactions, *begins_at: int) -> None:
        published.append(manager)
        publish(manager, *begins_at)

    monkeypatch.setattr(TransactionCoordinator, "verify", lambda coordinator, *batch: asked.append(batch))
    monkeypatch.setattr(LogTransactions, "_publish", counted)
    with single.producer(transactional_id="a") as producer, producer.transaction():
        for number in range(20):
            producer.send_many("t", [b"%d" % number] * 10, partition=0)
        assert len(asked) == 1
        assert published.count(published[-1]) == 2, (
            "what readers need of it changes where the transaction begins, and not with each batch"
        )


@pytest.mark.parametrize("at", ["before the request", "after the request"])
@pytest.mark.parametrize("begins", [False, True], ids=["no next one", "the next one begins"])
def test_a_send_in_the_middle_of_which_another_thread_ends_the_transaction_harms_no_other(
    single: StreamLog, monkeypatch: pytest.MonkeyPatch, at: str, begins: bool
) -> None:
    service = single._use(retries=False)
    add = service.add_partitions_to_txn
    ended = threading.Event()
    ended.set()

    def end() -> None:
        producer.commit_transaction()
        if begins:
            producer.begin_transaction()

    def add_while_it_ends(*args: Any) -> Any:
        if ended.is_set():
            return add(*args)
        ended.set()
        answer = add(*args) if at == "after the request" else None
        thread = threading.Thread(target=end)
        thread.start()
        thread.join(60)
        return add(*args) if answer is None else answer

    monkeypatch.setattr(service, "add_partitions_to_txn", add_while_it_ends, raising=False)
    with single.producer(transactional_id="a") as producer:
        producer.begin_transaction()
        producer.send("t", "first", partition=1)
        ended.clear()
        with pytest.raises(InvalidTxnStateError, match="another thread has ended"):
            producer.send("t", "too late", partition=0)
        assert single.transactions() == []
        if not begins:
            producer.begin_transaction()
        producer.commit_transaction()
        with producer.transaction():
            producer.send("t", "in time", partition=0)
    assert values(single) == [b"first", b"in time"]
