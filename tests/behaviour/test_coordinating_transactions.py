"""Transactions end to end through the Service: a producer asks the coordinator, and readers see all of it or nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import streamlog
from streamlog import TopicPartition
from streamlog.coordinator.transaction_shard import TransactionShard
from streamlog.runtime.api import Completion
from streamlog.runtime.threads import result_of
from streamlog.testing import ManualClock, SimulatedDisk
from tests.coordinated_writer import CoordinatedWriter, committed, described


@pytest.fixture
def log() -> Iterator[streamlog.StreamLog]:
    with streamlog.open(clock=ManualClock()) as log:
        log.create_topic("orders", partitions=2)
        yield log


def test_a_commit_makes_the_records_of_all_partitions_visible(log: streamlog.StreamLog) -> None:
    writer = CoordinatedWriter(log)
    writer.send("orders", b"a")
    writer.send("orders", b"b", partition=1)
    assert committed(log, "orders") == []
    assert described(log).state == "Ongoing"
    writer.commit()
    assert committed(log, "orders") == [b"a", b"b"]
    assert described(log).state == "CompleteCommit"


def test_nothing_of_an_aborted_transaction_is_read(log: streamlog.StreamLog) -> None:
    writer = CoordinatedWriter(log)
    writer.send("orders", b"a")
    writer.abort()
    writer.send("orders", b"b")
    writer.commit()
    assert committed(log, "orders") == [b"b"]


def test_each_transaction_has_an_epoch_of_its_own(log: streamlog.StreamLog) -> None:
    writer = CoordinatedWriter(log)
    first = writer.producer
    writer.send("orders", b"a")
    writer.commit()
    assert writer.producer == (first.producer_id, first.producer_epoch + 1)
    writer.send("orders", b"b")
    writer.commit()
    assert committed(log, "orders") == [b"a", b"b"]


def test_a_second_producer_fences_the_first_and_aborts_its_transaction(log: streamlog.StreamLog) -> None:
    zombie = CoordinatedWriter(log)
    zombie.send("orders", b"a")
    writer = CoordinatedWriter(log)
    for late in (
        zombie.commit,
        zombie.abort,
        lambda: zombie.send("orders", b"x"),
        lambda: zombie.write("orders", b"x"),
    ):
        with pytest.raises(streamlog.ProducerFencedError):
            late()
    writer.send("orders", b"b")
    writer.commit()
    assert committed(log, "orders") == [b"b"]


def test_a_transaction_that_is_open_for_too_long_is_aborted_and_its_producer_learns_why() -> None:
    clock = ManualClock()
    with streamlog.open(clock=clock) as log:
        log.create_topic("orders")
        writer = CoordinatedWriter(log, timeout_ms=10_000)
        writer.send("orders", b"a")
        with log.producer() as other:
            other.send("orders", b"b")
        clock.advance(9)
        assert committed(log, "orders") == []
        clock.advance(1)
        assert committed(log, "orders") == [b"b"]
        with pytest.raises(streamlog.ProducerFencedError, match="transaction_timeout_ms=10000") as caught:
            writer.commit()
        assert caught.value.timed_out


@pytest.mark.parametrize("jump_ms", [-3_600_000, 3_600_000])
def test_a_jump_of_the_wall_clock_neither_ends_nor_prolongs_a_transaction(jump_ms: int) -> None:
    clock = ManualClock()
    with streamlog.open(clock=clock) as log:
        log.create_topic("orders")
        writer = CoordinatedWriter(log, timeout_ms=10_000)
        writer.send("orders", b"a")
        clock.advance(5)
        clock.jump(jump_ms)
        clock.advance(4)
        assert described(log).state == "Ongoing"
        clock.advance(1)
        assert described(log).state == "CompleteAbort"


def test_transactions_are_there_after_the_log_is_opened_again() -> None:
    disk = SimulatedDisk()
    with streamlog.open("/data", disk=disk, clock=ManualClock()) as log:
        log.create_topic("orders")
        writer = CoordinatedWriter(log)
        writer.send("orders", b"a")
        writer.commit()
    with streamlog.open("/data", disk=disk, clock=ManualClock()) as log:
        assert described(log).state == "CompleteCommit"
        again = CoordinatedWriter(log)
        assert again.producer == (writer.producer.producer_id, writer.producer.producer_epoch + 1)
        again.send("orders", b"b")
        again.commit()
        assert committed(log, "orders") == [b"a", b"b"]


def test_an_operator_aborts_an_open_transaction(log: streamlog.StreamLog) -> None:
    writer = CoordinatedWriter(log)
    writer.send("orders", b"a")
    result_of(writer.service.abort_transaction("enrich-1"))
    with pytest.raises(streamlog.ProducerFencedError, match="abort_transaction"):
        writer.commit()
    with pytest.raises(streamlog.InvalidTxnStateError, match="no open transaction"):
        result_of(writer.service.abort_transaction("enrich-1"))
    assert committed(log, "orders") == []


def test_transactions_are_listed_by_their_ids(log: streamlog.StreamLog) -> None:
    for name in ("b", "a"):
        CoordinatedWriter(log, name).send("orders", b"a")
    service = log._engine.service
    listed = result_of(service.list_transactions())
    assert [(each.transactional_id, each.state) for each in listed] == [("a", "Ongoing"), ("b", "Ongoing")]
    assert listed[0].partitions == {TopicPartition("orders", 0)}
    assert described(log, "c") is None


def test_a_log_without_transactional_ids_has_no_topic_for_them(log: streamlog.StreamLog) -> None:
    service = log._engine.service
    assert result_of(service.list_transactions()) == []
    assert described(log) is None
    with pytest.raises(streamlog.ProducerFencedError, match="no producer with"):
        result_of(service.end_txn("enrich-1", (7, 0), True))
    with pytest.raises(streamlog.ConfigError):
        CoordinatedWriter(log, timeout_ms=0)
    assert "__transaction_state" not in service.image.topics
    CoordinatedWriter(log)
    assert "__transaction_state" in service.image.topics


def test_partitions_that_are_not_there_are_refused(log: streamlog.StreamLog) -> None:
    writer = CoordinatedWriter(log)
    with pytest.raises(streamlog.UnknownTopicOrPartitionError):
        writer.add("orders", 2)
    with pytest.raises(streamlog.UnknownTopicOrPartitionError):
        writer.add("__consumer_offsets")


def test_a_transaction_goes_on_without_a_topic_that_was_deleted(log: streamlog.StreamLog) -> None:
    log.create_topic("gone")
    writer = CoordinatedWriter(log)
    writer.send("gone", b"a")
    writer.send("orders", b"b")
    log.delete_topic("gone")
    writer.commit()
    assert committed(log, "orders") == [b"b"]
    assert described(log).state == "CompleteCommit"


@pytest.mark.parametrize("options", [{"sync": True}, {"brokers": 2}, {"brokers": 2, "sync": True}])
def test_a_commit_where_acknowledgements_come_later(options: dict[str, object]) -> None:
    with streamlog.open(**options) as log:  # type: ignore[arg-type]
        log.create_topic("orders", partitions=2)
        writer = CoordinatedWriter(log)
        for number in range(3):
            writer.send("orders", b"%d" % number)
            writer.send("orders", b"%d" % number, partition=1)
            writer.commit()
        writer.send("orders", b"x")
        writer.abort()
        assert committed(log, "orders") == [b"0", b"1", b"2"] * 2


def test_a_record_whose_partition_is_not_in_the_transaction_is_refused(log: streamlog.StreamLog) -> None:
    writer = CoordinatedWriter(log)
    with pytest.raises(streamlog.InvalidTxnStateError):
        writer.write("orders", b"a")
    writer.send("orders", b"a")
    with pytest.raises(streamlog.InvalidTxnStateError, match="orders-1"):
        writer.write("orders", b"a", partition=1)
    late = writer.producer
    writer.commit()
    with pytest.raises(streamlog.InvalidTxnStateError):
        writer.write("orders", b"b")
    writer.producer = late
    with pytest.raises(streamlog.ProducerFencedError):
        writer.write("orders", b"b")
    writer.producer = late._replace(producer_id=77)
    with pytest.raises(streamlog.InvalidTxnStateError, match="Producer 77"):
        writer.write("orders", b"b")
    assert committed(log, "orders") == [b"a"]
    assert log["orders"].partition(0).last_stable_offset == log["orders"].partition(0).log_end_offset


def test_a_refused_request_does_not_have_the_coordinators_log_read_again(
    log: streamlog.StreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a producer that was fenced and goes on costs the others a replay for each of its requests."""
    zombie, writer = CoordinatedWriter(log), CoordinatedWriter(log)
    writer.send("orders", b"a")
    replays: list[object] = []
    elect = TransactionShard.elect
    monkeypatch.setattr(TransactionShard, "elect", lambda self: (replays.append(self), elect(self)))
    for refused in (
        lambda: zombie.write("orders", b"x", partition=1),
        lambda: zombie.send("orders", b"x"),
        lambda: zombie.commit_offsets("g", {TopicPartition("orders", 0): 1}),
        lambda: result_of(zombie.service.txn_commit_offsets(zombie.id, zombie.producer, "g", None, -1, {})),
        zombie.commit,
    ):
        with pytest.raises(streamlog.StreamlogError):
            refused()
        assert described(log).state == "Ongoing"
    assert not replays


def test_metrics_say_which_transactions_are_open_and_name_those_that_hang() -> None:
    clock = ManualClock()
    with streamlog.open(clock=clock) as log:
        log.create_topic("orders")
        assert log.metrics()["transactions"] == {"open": 0, "completing": 0, "oldest_open_ms": 0, "hanging": []}
        writer = CoordinatedWriter(log)
        writer.send("orders", b"a")
        clock.advance(2)
        assert log.metrics()["transactions"] == {"open": 1, "completing": 0, "oldest_open_ms": 2000, "hanging": []}
        writer.commit()
        assert log.metrics()["transactions"]["open"] == 0
        stray = CoordinatedWriter(log, "stray")
        stray.producer = stray.producer._replace(producer_id=77)
        stray.service._transactions.verify = lambda *batch: None  # as a client of a broker that does not ask
        stray.write("orders", b"b")
        [hanging] = log.metrics()["transactions"]["hanging"]
        assert hanging == {"topic": "orders", "partition": 0, "producer_id": 77, "first_offset": 2}


@pytest.mark.parametrize("follows", ["partitions", "offsets", "abort"])
def test_a_producer_goes_on_though_the_record_that_its_last_transaction_is_complete_was_lost(
    monkeypatch: pytest.MonkeyPatch, follows: str
) -> None:
    """As after a failover: the answer does not wait for that record to be replicated."""
    with streamlog.open(clock=ManualClock()) as log:
        orders = log.create_topic("orders")
        with (
            log.producer(transactional_id="a") as producer,
            log.consumer("orders", group="g", enable_auto_commit=False) as consumer,
        ):
            with monkeypatch.context() as lost:
                lost.setattr(TransactionShard, "complete", lambda *_: Completion.of(None))
                with producer.transaction():
                    producer.send("orders", b"1")
            assert [info.state for info in log.transactions()] == ["PrepareCommit"]
            assert len(consumer.poll()) == 1
            producer.begin_transaction()
            if follows == "partitions":
                producer.send("orders", b"2")
                producer.commit_transaction()
            elif follows == "offsets":
                producer.send_offsets_to_transaction(None, consumer)
                producer.commit_transaction()
            else:
                producer.abort_transaction()
                with producer.transaction():
                    producer.send("orders", b"2")
            assert log.transactions() == []
        assert [record.value for record in orders.read()] == ([b"1"] if follows == "offsets" else [b"1", b"2"])
        assert log.group("g").committed() == ({TopicPartition("orders", 0): 2} if follows == "offsets" else {})
