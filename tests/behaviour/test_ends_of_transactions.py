"""A transaction that is interrupted, loses its process or its brokers while it ends is committed whole or aborted whole, once."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import Any

import pytest

import streamlog
from streamlog import TopicPartition
from streamlog.broker.service import LocalService
from streamlog.broker.transaction_coordinator import TransactionCoordinator
from streamlog.errors import NotLeaderError
from streamlog.runtime.api import Completion
from streamlog.runtime.threads import result_of
from streamlog.testing import FaultyDisk, ManualClock, SimulatedDisk
from tests.coordinated_writer import CoordinatedWriter, committed, described

from .simulated_logs import crashed

P0, P1 = TopicPartition("orders", 0), TopicPartition("orders", 1)


def check_whole(name: str, log: streamlog.StreamLog, acknowledged: int) -> None:
    """Each transaction n has the record n in both partitions and the offset n + 1: all three or none, in their order."""
    first, second = committed(log, "orders", 0), committed(log, "orders", 1)
    assert first == second == [b"%d" % number for number in range(len(first))], name
    assert log.group("billing").committed() == ({P0: len(first)} if first else {}), name
    assert len(first) >= acknowledged, name
    for number in range(2):
        partition = log["orders"].partition(number)
        assert partition.last_stable_offset == partition.log_end_offset, name


def run(writer: CoordinatedWriter, number: int) -> None:
    writer.send("orders", b"%d" % number)
    writer.send("orders", b"%d" % number, partition=1)
    writer.commit_offsets("billing", {P0: number + 1})
    writer.commit()


@pytest.mark.slow
@pytest.mark.parametrize("sync", [False, True])
def test_a_crash_at_any_moment_leaves_each_transaction_whole_or_not_at_all(sync: bool) -> None:
    disk = SimulatedDisk()
    with streamlog.open("/data", disk=disk, clock=ManualClock(), sync=sync) as log:
        log.create_topic("orders", partitions=2)
        writer = CoordinatedWriter(log)
        run(writer, 0)
        first = len(disk.operations)
        run(writer, 1)
        disk.mark("acknowledged")
        writer.send("orders", b"x")
        writer.abort()
        writer.send("orders", b"y", partition=1)
        writer.commit_offsets("billing", {P0: 77})
        tried = 0
        for name, crash in crashed(disk, first=first, kills=True):
            if (
                not sync and "/kill" not in name
            ):  # after a power loss, without sync=True, a transaction may be there in part
                continue
            tried += 1
            acknowledged = 2 if any("acknowledged" in mark for mark in crash.marks) else 1
            with streamlog.open("/data", disk=crash, clock=ManualClock()) as left:
                check_whole(name, left, acknowledged)
                again = CoordinatedWriter(left)
                run(again, len(committed(left, "orders", 0)))
                check_whole(name, left, acknowledged + 1)
        assert tried > 10


def test_what_a_former_process_decided_is_completed_before_the_log_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SimulatedDisk()
    with streamlog.open("/data", disk=disk, clock=ManualClock()) as log:
        log.create_topic("orders", partitions=2)
        writer = CoordinatedWriter(log)
        with monkeypatch.context() as patch:
            patch.setattr(TransactionCoordinator, "_write_markers", raises(KeyboardInterrupt()))
            with pytest.raises(KeyboardInterrupt):
                run(writer, 0)
        assert described(log).state == "PrepareCommit"
        assert committed(log, "orders") == []
        with streamlog.open("/data", disk=disk.kill(), clock=ManualClock()) as left:
            assert described(left).state == "CompleteCommit"
            check_whole("killed", left, 1)
            writer.log = left
            writer.commit()  # the answer was lost: the same request again
            run(writer, 1)
            check_whole("after", left, 2)


def raises(error: BaseException) -> Callable[..., Any]:
    def raise_it(*args: Any) -> Any:
        raise error

    return raise_it


@pytest.mark.parametrize("place", ["_finish_now", "_write_markers", "_ask", "_await_records"])
@pytest.mark.parametrize("after", [False, True])
def test_an_interrupted_commit_is_finished_in_the_background_or_when_it_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, place: str, after: bool
) -> None:
    clock = ManualClock()
    with streamlog.open(clock=clock) as log:
        log.create_topic("orders", partitions=2)
        writer = CoordinatedWriter(log)
        run(writer, 0)
        writer.send("orders", b"1")
        writer.send("orders", b"1", partition=1)
        writer.commit_offsets("billing", {P0: 2})
        real = getattr(TransactionCoordinator, place)
        with monkeypatch.context() as patch:

            def struck(self: Any, *args: Any, **named: Any) -> Any:
                if after:
                    real(self, *args, **named)
                raise KeyboardInterrupt

            patch.setattr(TransactionCoordinator, place, struck)
            if place == "_await_records":  # not asked for in a log that acknowledges at once
                writer.commit()
            else:
                with pytest.raises(KeyboardInterrupt):
                    writer.commit()
        clock.advance(2)
        if described(log).state != "Ongoing":
            assert committed(log, "orders", 0) == [b"0", b"1"]
        if place != "_await_records":
            writer.commit()
        check_whole(place, log, 2)


def test_an_interrupt_of_the_background_work_leaves_no_transaction_without_its_markers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = ManualClock()
    with streamlog.open(clock=clock) as log:
        log.create_topic("orders", partitions=2)
        writer = CoordinatedWriter(log)
        run(writer, 0)
        writer.send("orders", b"1")
        writer.send("orders", b"1", partition=1)
        writer.commit_offsets("billing", {P0: 2})

        def refused(*args: Any) -> Any:
            raise NotLeaderError("an election is under way")

        def struck(self: Completion[Any], value: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(LocalService, "append_marker", refused)
            ended = writer.service.end_txn(writer.id, writer.producer, True)
        assert not ended.done()
        with monkeypatch.context() as patch:
            patch.setattr(Completion, "complete", struck)
            with pytest.raises(KeyboardInterrupt):
                clock.advance(2)
        clock.advance(2)
        assert described(log).state == "CompleteCommit"
        assert result_of(ended) > writer.producer
        check_whole("the background work", log, 2)


@pytest.mark.parametrize("place", ["append_marker", "_finish", "_write_markers"])
def test_the_background_work_beside_an_end_writes_no_marker_twice(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """It runs wherever an end has come to, on another thread, when an end takes longer than the time for which it waits."""
    clock = ManualClock()
    with streamlog.open(clock=clock) as log:
        log.create_topic("orders", partitions=2)
        writer = CoordinatedWriter(log)
        at = LocalService if place == "append_marker" else TransactionCoordinator
        real = getattr(at, place)
        ending = threading.current_thread()
        stepped: list[int] = []

        def beside(self: Any, *args: Any, **options: Any) -> Any:
            if threading.current_thread() is ending:
                step = threading.Thread(target=clock.advance, args=(2,))
                step.start()
                step.join(10)
                assert not step.is_alive()
                stepped.append(1)
            return real(self, *args, **options)

        monkeypatch.setattr(at, place, beside)
        for number in range(3):
            run(writer, number)
        writer.send("orders", b"x")
        writer.abort()
        assert stepped
        check_whole(place, log, 3)
        assert [log["orders"].partition(number).log_end_offset for number in range(2)] == [3 * 2 + 2, 3 * 2]


PLACES = ["_finish_now", "_write_markers", "_pause", "_await_records"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("topic", ["__transaction_state", "__consumer_offsets", "orders"])
def test_a_broker_that_is_lost_while_a_transaction_ends(
    monkeypatch: pytest.MonkeyPatch, place: str, topic: str
) -> None:
    with streamlog.open(brokers=3, replication_factor=3) as log:
        log.create_topic("orders", partitions=2)
        writer = CoordinatedWriter(log)
        run(writer, 0)
        real = getattr(TransactionCoordinator, place)
        stopped: list[int] = []

        def struck(self: Any, *args: Any, **options: Any) -> Any:
            if not stopped:
                stopped.append(writer.service.leader(TopicPartition(topic, 0)).broker_id)
                log.brokers[stopped[0]].stop()
            return real(self, *args, **options)

        monkeypatch.setattr(TransactionCoordinator, place, struck)
        send_again_until_done(writer, 1)
        check_whole(place, log, 2)
        if stopped:
            log.brokers[stopped[0]].start()
        send_again_until_done(writer, 2)
        check_whole(place, log, 3)


def send_again_until_done(writer: CoordinatedWriter, number: int) -> None:
    writer.send("orders", b"%d" % number)
    writer.send("orders", b"%d" % number, partition=1)
    writer.commit_offsets("billing", {P0: number + 1})
    again(writer.commit)


def again(call: Callable[[], None]) -> None:
    """Make the call until it succeeds, as a client does."""
    for _ in range(200):
        try:
            return call()
        except streamlog.StreamlogError as error:
            assert error.retriable, error
    raise AssertionError("it was refused 200 times")


def test_markers_wait_for_a_leader_and_nobody_else_does() -> None:
    with streamlog.open(brokers=2, replication_factor=1) as log:
        log.create_topic("orders", partitions=2)
        writer = CoordinatedWriter(log)
        writer.send("orders", b"0")
        writer.send("orders", b"0", partition=1)
        coordinator = writer.service.leader(TopicPartition("__transaction_state", 0)).broker_id
        other = next(n for n in (0, 1) if writer.service.leader(TopicPartition("orders", n)).broker_id != coordinator)
        log.brokers[1 - coordinator].stop()
        ended = writer.service.end_txn(writer.id, writer.producer, False)
        assert not ended.done()
        assert described(log).state == "PrepareAbort"
        log.brokers[1 - coordinator].start()
        writer.abort()
        assert described(log).state == "CompleteAbort"
        partition = log["orders"].partition(other)
        assert partition.last_stable_offset == partition.log_end_offset


def decided_without_markers(log: streamlog.StreamLog, disk: FaultyDisk) -> tuple[CoordinatedWriter, Completion[Any]]:
    """A commit that waits: the disk is full for the partition, and not for the coordinator."""
    log.create_topic("orders")
    writer = CoordinatedWriter(log)
    writer.send("orders", b"0")
    of_orders = [path for op, path, *_ in disk.calls if op == "pwrite" and path.endswith(".log")][-1]
    disk.fail("pwrite", errno.ENOSPC, path=of_orders, times=None)
    request = writer.service.end_txn(writer.id, writer.producer, True)
    assert not request.done()
    assert described(log).state == "PrepareCommit"
    return writer, request


def test_a_commit_that_waits_for_a_marker_fails_when_the_log_is_closed_and_is_completed_by_the_next_open(
    clock: ManualClock,
) -> None:
    disk = FaultyDisk(SimulatedDisk())
    with streamlog.open("/data", disk=disk, clock=clock) as log:
        _, request = decided_without_markers(log, disk)
        disk.heal()
    assert isinstance(request.error(), streamlog.ClosedError)
    with streamlog.open("/data", disk=disk, clock=clock) as log:
        assert committed(log, "orders") == [b"0"]


def test_a_commit_that_is_asked_for_again_once_its_marker_can_be_written_does_not_wait(clock: ManualClock) -> None:
    disk = FaultyDisk(SimulatedDisk())
    with streamlog.open("/data", disk=disk, clock=clock) as log:
        writer, request = decided_without_markers(log, disk)
        disk.heal()
        writer.commit()  # by this clock no time passes meanwhile
        assert committed(log, "orders") == [b"0"]
        assert result_of(request) == writer.producer


@pytest.fixture
def steps_by_the_clock_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A topic that was made has the coordinator look at its transactions too, as soon as its thread has a turn: in the middle of one
    if that comes late, which writes what is complete once more."""
    monkeypatch.setattr(TransactionCoordinator, "_resume", lambda self, now_ms: None)


@pytest.mark.usefixtures("steps_by_the_clock_alone")
def test_a_transaction_is_three_records_beside_its_own_and_closing_the_log_adds_what_is_complete() -> None:
    disk = SimulatedDisk()
    with streamlog.open("/data", disk=disk, clock=ManualClock()) as log:
        log.create_topic("orders")
        with log.producer(transactional_id="a") as producer:
            for number in range(10):
                with producer.transaction():
                    producer.send("orders", b"%d" % number)
        assert log["orders"].partition(0).log_end_offset == 2 * 10
        assert state_records(log) == 1 + 2 * 10
    with streamlog.open("/data", disk=disk, clock=ManualClock()) as log:
        assert log["orders"].partition(0).log_end_offset == 2 * 10, "no marker is written again after a clean close"
        assert state_records(log) == 1 + 2 * 10 + 1


@pytest.mark.usefixtures("steps_by_the_clock_alone")
def test_what_is_complete_is_written_in_the_background() -> None:
    clock, disk = ManualClock(), SimulatedDisk()
    with streamlog.open("/data", disk=disk, clock=clock) as log:
        log.create_topic("orders")
        with log.producer(transactional_id="a") as producer:
            with producer.transaction():
                producer.send("orders", b"1")
            before = state_records(log)
            clock.advance(2)
            assert state_records(log) == before + 1
            clock.advance(100)
            assert state_records(log) == before + 1
            with streamlog.open("/data", disk=disk.kill(), clock=ManualClock()) as left:
                assert left["orders"].partition(0).log_end_offset == 2


def test_a_marker_that_is_written_again_after_a_kill_changes_nothing_for_readers() -> None:
    disk = SimulatedDisk()
    with streamlog.open("/data", disk=disk, clock=ManualClock()) as log:
        log.create_topic("orders")
        with log.producer(transactional_id="a") as producer:
            for number in range(2):
                with producer.transaction():
                    producer.send("orders", b"%d" % number)
            with pytest.raises(ZeroDivisionError), producer.transaction():
                producer.send("orders", b"aborted")
                raise ZeroDivisionError
            with streamlog.open("/data", disk=disk.kill(), clock=ManualClock()) as left:
                assert committed(left, "orders") == [b"0", b"1"]
                with left.producer(transactional_id="a") as other, other.transaction():
                    other.send("orders", b"2")
                assert committed(left, "orders") == [b"0", b"1", b"2"]


def state_records(log: streamlog.StreamLog) -> int:
    offsets = log._use().leader(TopicPartition("__transaction_state", 0)).end_offset
    assert isinstance(offsets, int)
    return offsets


def test_a_commit_tries_its_marker_again_though_no_time_passes_by_the_clock(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that waits for the commit is the one that would move the clock."""
    monkeypatch.setattr("streamlog.broker.transaction_coordinator.RETRY_MS", 0)
    monkeypatch.setattr("streamlog.client.retrying.DEFAULT_API_TIMEOUT_S", 5.0)
    disk = FaultyDisk(SimulatedDisk())
    with streamlog.open("/data", disk=disk, clock=clock) as log:
        orders = log.create_topic("orders")
        with log.producer(transactional_id="a") as producer, producer.transaction():
            producer.send("orders", b"1")
            fault = disk.fail("pwrite", errno.EIO, times=3, path=f"*{orders.id.hex}*")
        assert fault.fired == 3
        assert [record.value for record in orders.read()] == [b"1"]
