"""Scenarios that broke real systems, of producers and transactions; each is also run with its bug put back in, and fails then.

11: producer state is lost, and duplicates are accepted (KAFKA-5435, 7190, 7298). 12: a hanging transaction holds the last stable
offset for ever (KAFKA-12671, KIP-890). 13: a delayed EndTxn ends a later transaction, a zombie is not fenced (Jepsen on Bufstream
0.1). 15: offsets expire during a rebalance, a consumer that lost its assignment still commits (KAFKA-13636, librdkafka 5604). 18: the
buffer of an expired batch that is in flight is used again, and its bytes land in the wrong topic (CVE-2026-35554).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import streamlog
from streamlog import TopicPartition
from streamlog.broker.api import ProduceRequest
from streamlog.broker.transaction_coordinator import TransactionCoordinator
from streamlog.client.producer.batch import Batch
from streamlog.client.producer.partition_queue import PartitionQueue
from streamlog.coordinator import commits
from streamlog.coordinator.offsets import Offsets
from streamlog.coordinator.transaction import TransactionMetadata
from streamlog.coordinator.transaction_shard import TransactionShard
from streamlog.runtime.threads import result_of
from streamlog.storage.producer_state import ProducerStates
from streamlog.testing import ManualClock, SimulatedDisk
from streamlog.types import OffsetAndMetadata
from tests.coordinated_writer import CoordinatedWriter, committed

from .test_replica_scenarios import brokers

Patch = pytest.MonkeyPatch
P0 = TopicPartition("orders", 0)
WEEK_S = 7 * 24 * 60 * 60


def producer_state_survives_a_crash() -> None:
    """11: a batch that is sent again after a crash, because its answer was lost, is in the log once."""
    disk = SimulatedDisk()
    with streamlog.open("/data", disk=disk, clock=ManualClock()) as log:
        log.create_topic("orders")
        writer = CoordinatedWriter(log, remote=True)
        writer.send("orders", b"0")
        writer.send("orders", b"1")
        with streamlog.open("/data", disk=disk.kill(), clock=ManualClock()) as left:
            writer.log = left
            writer._sequences["orders", 0] = 1
            writer.send("orders", b"1")
            writer.send("orders", b"2")
            writer.commit()
            assert committed(left, "orders") == [b"0", b"1", b"2"]


def a_late_record_begins_no_transaction_that_never_ends() -> None:
    """12: a record of a transaction that arrives after its end is refused, so it holds back no reader."""
    clock = ManualClock()
    with streamlog.open(clock=clock) as log:
        log.create_topic("orders", partitions=2)
        writer = CoordinatedWriter(log)
        writer.send("orders", b"0")
        writer.end(True, bump=False)  # an older client: its epoch is the same in the next transaction
        writer._sequences["orders", 0] = 1
        for partition in range(2):
            with pytest.raises(streamlog.StreamlogError):
                writer.write("orders", b"late", partition=partition)
        clock.advance(3_600)
        for number in range(2):
            partition_info = log["orders"].partition(number)
            assert partition_info.last_stable_offset == partition_info.log_end_offset


def what_is_left_open_is_aborted_by_its_timeout() -> None:
    """12: the producer is gone without a word."""
    clock = ManualClock()
    with streamlog.open(clock=clock) as log:
        log.create_topic("orders")
        CoordinatedWriter(log, remote=True).send("orders", b"0")
        with log.producer() as producer:
            producer.send("orders", b"1")
        clock.advance(61)
        assert committed(log, "orders") == [b"1"]


def a_jump_of_the_clock_ends_no_transaction() -> None:
    """12: when the coordinator's log is read anew, as another broker leads it now, a transaction has what was left of its time."""
    with brokers(3) as b:
        b.log.create_topic("orders")
        writer = CoordinatedWriter(b.log, remote=True)  # of another process: its transaction has a minute
        writer.send("orders", b"0")
        b.schedule.clock.jump(3_600_000)
        at = TopicPartition("__transaction_state", 0)
        leader = b.log["__transaction_state"].partition(0).leader
        b.log.elect_leader(at, (leader + 1) % 3)
        b.schedule.elapse(50.0)
        writer.send("orders", b"1")
        writer.commit()
        assert committed(b.log, "orders") == [b"0", b"1"]
        writer.send("orders", b"2")
        b.schedule.clock.jump(-3_600_000)
        b.log.elect_leader(at, leader)
        b.schedule.elapse(61.0)
        info = b.log["orders"].partition(0)
        assert info.last_stable_offset == info.log_end_offset
        assert committed(b.log, "orders") == [b"0", b"1"]


def a_delayed_end_touches_no_later_transaction() -> None:
    """13: the request that ends a transaction arrives twice, the second time in the middle of the next one."""
    with streamlog.open(clock=ManualClock()) as log:
        log.create_topic("orders")
        writer = CoordinatedWriter(log)
        for delayed in (True, False):
            writer.send("orders", b"first")
            former = writer.producer
            writer.end(delayed)
            writer.send("orders", b"second")
            for commit in (True, False):
                with pytest.raises(streamlog.ProducerFencedError):
                    result_of(writer.service.end_txn(writer.id, former, commit))
            assert b"second" not in committed(log, "orders")
            writer.abort()
        assert committed(log, "orders") == [b"first"]


def a_zombie_is_fenced() -> None:
    """13: a producer that was replaced, and does not know it, changes nothing."""
    with streamlog.open(clock=ManualClock()) as log:
        log.create_topic("orders")
        zombie = CoordinatedWriter(log)
        zombie.send("orders", b"zombie")
        writer = CoordinatedWriter(log)
        writer.send("orders", b"new")
        for request in (
            zombie.commit,
            zombie.abort,
            lambda: zombie.send("orders", b"more"),
            lambda: zombie.write("orders", b"x"),
        ):
            with pytest.raises(streamlog.StreamlogError):
                request()
        writer.commit()
        assert committed(log, "orders") == [b"new"]


def a_member_that_lost_its_partitions_commits_nothing() -> None:
    """15: in a transaction either."""
    with streamlog.open(clock=ManualClock()) as log:
        log.create_topic("orders")
        log["orders"].send_many([b"0", b"1"])
        writer = CoordinatedWriter(log)
        with log.consumer("orders", group="billing") as member:
            member.poll()
            lost = log.group("billing").members()[0].member_id
            log.group("billing").evict(lost)
            result_of(writer.service.add_offsets_to_txn(writer.id, writer.producer, "billing"))
            at = {P0: OffsetAndMetadata(2, "", None)}
            with pytest.raises(streamlog.CommitFailedError):
                result_of(writer.service.txn_commit_offsets(writer.id, writer.producer, "billing", lost, 1, at))
            writer.commit()
            assert log.group("billing").committed() == {}


def offsets_outlive_a_rebalance() -> None:
    """15: what a transaction committed long ago is kept while the group has members, whoever has the partition now."""
    clock = ManualClock()
    with streamlog.open(clock=clock) as log:
        log.create_topic("orders")
        log["orders"].send_many([b"0", b"1", b"2"])
        writer = CoordinatedWriter(log)
        writer.commit_offsets("billing", {P0: 2})
        writer.commit()
        with log.consumer("orders", group="billing", enable_auto_commit=False) as first:
            assert len(first.poll()) == 1
            clock.advance(3 * WEEK_S)
            with log.consumer("orders", group="billing", enable_auto_commit=False) as second:
                second.poll()
                clock.advance(1)
                assert log.group("billing").committed() == {P0: 2}


def what_expired_does_not_land_where_others_are_sent() -> None:
    """18: records wait to be sent again when they expire, and others take their part of the buffer."""
    with brokers(3) as b:
        for name, least in (("orders", 2), ("payments", 1)):
            b.log.create_topic(name, min_insync_replicas=least)
        for broker in (1, 2):
            b.log.brokers[broker].stop()
        with b.log.producer(linger_ms=5, delivery_timeout_ms=1_000, buffer_memory=1_000) as producer:
            expired = [producer.send("orders", b"order %d" % n) for n in range(5)]
            b.schedule.elapse(2.0)
            for delivery in expired:
                assert isinstance(delivery.exception(timeout=0), streamlog.DeliveryTimeoutError)
            paid = [producer.send("payments", b"payment %d" % n) for n in range(5)]
            for broker in (1, 2):
                b.log.brokers[broker].start()
            b.schedule.elapse(10.0)
            assert [delivery.result(timeout=0).topic for delivery in paid] == ["payments"] * 5
            producer.send("orders", b"order 5").result()
        assert [record.value for record in b.log["payments"].read()] == [b"payment %d" % n for n in range(5)]
        assert [record.value for record in b.log["orders"].read()] == [b"order 5"]


# -- the bugs


def producer_state_is_not_rebuilt(patch: Patch) -> None:
    patch.setattr(ProducerStates, "check", lambda self, batches, now_ms: None)


def no_append_is_verified(patch: Patch) -> None:
    patch.setattr(TransactionCoordinator, "verify", lambda *batch: None)


def nothing_times_out(patch: Patch) -> None:
    patch.setattr(TransactionCoordinator, "step", lambda self, now_ms: None)


def the_wall_clock_says_how_long_a_transaction_is_open(patch: Patch) -> None:
    real = TransactionShard.elect

    def elect(self: TransactionShard) -> None:
        real(self)
        self._kept.clear()

    patch.setattr(TransactionShard, "elect", elect)


def an_end_keeps_the_epoch(patch: Patch) -> None:
    real: Callable[..., Any] = TransactionMetadata.ended

    def ended(self: Any, commit: bool, now_ms: int, new_id: Any, *, bump: bool = True, by: str = "") -> Any:
        return real(self, commit, now_ms, new_id, bump=False, by=by)

    patch.setattr(TransactionMetadata, "ended", ended)


def an_epoch_is_not_compared(patch: Patch) -> None:
    patch.setattr(TransactionMetadata, "require", lambda self, producer: None)


def members_are_not_checked(patch: Patch) -> None:
    patch.setattr(commits, "_check_owned", lambda *member: None)


def offsets_expire_whoever_subscribes(patch: Patch) -> None:
    real = Offsets.deadlines
    patch.setattr(Offsets, "deadlines", lambda self, subscribed, since, kept: real(self, (), since, kept))


def the_buffer_of_what_expired_is_used_again(patch: Patch) -> None:
    """The request goes on, and is made of what is in the buffer when it goes out."""
    free: list[Batch] = []
    begin, complete = Batch.__init__, PartitionQueue._complete

    def __init__(self: Batch, *others: Any) -> None:
        begin(self, *others)
        if free:
            free.pop().rows = self.rows

    def _complete(self: PartitionQueue, batch: Batch, error: BaseException | None) -> None:
        complete(self, batch, error)
        if error is not None:
            free.append(batch)
            batch.sealed = batch._columns = None
            batch._ends.clear()
            at, service = self.at, self.owner.service

            def arrives(now_ms: int) -> None:
                service.produce(ProduceRequest(at, [batch.seal()]))

            service.timers.at(self.owner.now_ms() + 5_000, arrives)

    patch.setattr(Batch, "__init__", __init__)
    patch.setattr(PartitionQueue, "_complete", _complete)


SCENARIOS: dict[Callable[[], None], Callable[[Patch], None]] = {
    producer_state_survives_a_crash: producer_state_is_not_rebuilt,
    a_late_record_begins_no_transaction_that_never_ends: no_append_is_verified,
    what_is_left_open_is_aborted_by_its_timeout: nothing_times_out,
    a_jump_of_the_clock_ends_no_transaction: the_wall_clock_says_how_long_a_transaction_is_open,
    a_delayed_end_touches_no_later_transaction: an_end_keeps_the_epoch,
    a_zombie_is_fenced: an_epoch_is_not_compared,
    a_member_that_lost_its_partitions_commits_nothing: members_are_not_checked,
    offsets_outlive_a_rebalance: offsets_expire_whoever_subscribes,
    what_expired_does_not_land_where_others_are_sent: the_buffer_of_what_expired_is_used_again,
}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_a_scenario_does_no_harm(scenario: Callable[[], None]) -> None:
    scenario()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_a_scenario_fails_with_its_bug_put_back_in(scenario: Callable[[], None], monkeypatch: Patch) -> None:
    SCENARIOS[scenario](monkeypatch)
    with pytest.raises((AssertionError, streamlog.StreamlogError, pytest.fail.Exception)):
        scenario()
