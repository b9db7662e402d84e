"""Readers of committed records see each transaction whole or not at all, and nothing after one that is open."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

import streamlog
from streamlog import DiskFullError, ProducerFencedError, StreamLog
from streamlog.broker.api import FetchRequest
from streamlog.runtime.threads import result_of
from streamlog.testing import FaultyDisk, ManualClock, SimulatedDisk
from tests.behaviour.test_waking_consumers import Waiting
from tests.times import FOREVER, LONG
from tests.transactional_writer import TransactionalWriter

InThread = Callable[[Callable[[], Any]], Any]


def values(log: StreamLog, topic: str = "t", isolation_level: Any = "read_committed") -> list[bytes]:
    return [record.value for record in log[topic].read(0, isolation_level=isolation_level)]


def stable(log: StreamLog, topic: str = "t") -> int:
    return log[topic].partition(0).last_stable_offset


@pytest.fixture
def writer(log: StreamLog) -> TransactionalWriter:
    log.create_topic("t", partitions=1)
    return TransactionalWriter(log)


@pytest.mark.parametrize("commit", [True, False])
def test_records_of_a_transaction_are_seen_when_it_commits_and_never_if_it_aborts(
    log: StreamLog, writer: TransactionalWriter, commit: bool
) -> None:
    log["t"].send("before")
    writer.send("t", [b"a", b"b"])
    log["t"].send("between")
    writer.send("t", [b"c"])
    assert values(log) == [b"before"]
    assert values(log, isolation_level="read_uncommitted") == [b"before", b"a", b"b", b"between", b"c"]
    assert stable(log) == 1
    writer.end("t", commit=commit)
    log["t"].send("after")
    assert values(log) == (
        [b"before", b"a", b"b", b"between", b"c", b"after"] if commit else [b"before", b"between", b"after"]
    )
    assert values(log, isolation_level="read_uncommitted")[-1] == b"after"
    assert stable(log) == 7


def test_the_stable_offset_is_where_the_oldest_open_transaction_begins(log: StreamLog) -> None:
    log.create_topic("t", partitions=1)
    first, second = TransactionalWriter(log, 1), TransactionalWriter(log, 2)
    first.send("t", [b"a"])
    second.send("t", [b"b"])
    assert stable(log) == 0
    first.commit("t")
    assert stable(log) == 1
    first.send("t", [b"c"])
    second.abort("t")
    assert stable(log) == 3
    assert values(log) == [b"a"]
    first.abort("t")
    assert values(log) == [b"a"]
    assert stable(log) == 6


def test_single_records_are_of_a_transaction_too(log: StreamLog, writer: TransactionalWriter) -> None:
    for round_ in range(3):
        for number in range(5):
            writer.send_one("t", b"%d-%d" % (round_, number))
        assert stable(log) == round_ * 6
        writer.end("t", commit=round_ != 1)
        assert stable(log) == (round_ + 1) * 6
    assert [value[:1] for value in values(log)] == [b"0"] * 5 + [b"2"] * 5


def test_single_records_of_an_older_clients_next_transaction_begin_one(log: StreamLog) -> None:
    """The epoch stays, so the sequences go on."""
    log.create_topic("t", partitions=1)
    writer = TransactionalWriter(log, bumps=False)
    writer.send_one("t", b"a")
    writer.abort("t")
    writer.send_one("t", b"b")
    assert stable(log) == 2
    writer.commit("t")
    assert values(log) == [b"b"]


def test_a_write_of_many_batches_begins_its_transaction_with_the_first(
    log: StreamLog, writer: TransactionalWriter
) -> None:
    writer.send("t", [b"a"], batches=9)
    assert stable(log) == 0
    writer.abort("t")
    assert values(log) == []


@pytest.mark.parametrize("single", [True, False])
def test_a_write_that_failed_begins_no_transaction(single: bool) -> None:
    disk = FaultyDisk(SimulatedDisk())
    with streamlog.open("/log", disk=disk) as log:
        log.create_topic("t", partitions=1)
        writer = TransactionalWriter(log)
        disk.fail("pwrite", errno.ENOSPC, path="*.log")
        with pytest.raises(DiskFullError):
            writer.send_one("t", b"a") if single else writer.send("t", [b"a"])
        log["t"].send("b")
        assert stable(log) == 1
        assert values(log) == [b"b"]
        writer.mark("t", commit=False)
        assert values(log) == [b"b"]


def test_a_marker_that_comes_late_ends_no_later_transaction_and_one_that_comes_twice_is_harmless(
    log: StreamLog, writer: TransactionalWriter
) -> None:
    writer.send("t", [b"a"])
    writer.commit("t")
    writer.mark("t", commit=True)
    writer.send("t", [b"b"])
    with pytest.raises(ProducerFencedError, match="too late"):
        writer.mark("t", commit=False)
    writer.epoch -= 1
    with pytest.raises(ProducerFencedError):
        writer.mark("t", commit=True)
    assert values(log) == [b"a"]
    writer.epoch += 1
    writer.commit("t")
    assert values(log) == [b"a", b"b"]


def test_a_fetch_says_how_far_committed_records_go_and_what_was_aborted(
    log: StreamLog, writer: TransactionalWriter
) -> None:
    other = TransactionalWriter(log, 901)
    writer.send("t", [b"a"])
    other.send("t", [b"b"])
    writer.abort("t")
    at = log["t"]._view().partition(0)

    def fetch(isolation_level: str, offset: int = 0) -> Any:
        delayed = writer.service.fetch_many([FetchRequest(at, offset, 1 << 20)], isolation_level, max_wait_ms=0)
        [found] = delayed.read()
        return result_of(found)

    found = fetch("read_committed")
    assert (found.high_watermark, found.last_stable_offset, found.end_offset) == (3, 1, 1)
    assert [each[:3] for each in found.aborted] == [(900, 0, 2)]
    assert len(list(found.batches())) == 1
    beyond = fetch("read_committed", 2)
    assert (beyond.size, beyond.last_stable_offset, beyond.aborted) == (0, 1, ())
    uncommitted = fetch("read_uncommitted")
    assert (uncommitted.end_offset, uncommitted.last_stable_offset, uncommitted.aborted) == (3, 1, ())
    assert len([each for each in uncommitted.batches() if not uncommitted.hides(each.header)]) == 2
    other.abort("t")
    found = fetch("read_committed")
    assert [each[:3] for each in found.aborted] == [(900, 0, 2), (901, 1, 3)]


def test_a_consumer_that_has_read_past_an_open_transaction_waits_for_its_end(
    log: StreamLog, writer: TransactionalWriter
) -> None:
    writer.send("t", [b"a"])
    log["t"].send("b")
    with log.consumer("t") as consumer:
        consumer.poll()
        [partition] = consumer.assignment()
        consumer.seek(partition, 1)
        assert consumer.poll() == []
        writer.commit("t")
        assert [record.value for record in consumer.poll()] == [b"b"]
    with log.consumer("t", isolation_level="read_uncommitted") as consumer:
        assert [record.value for record in consumer.poll()] == [b"a", b"b"]


def test_the_end_of_a_partition_is_that_of_the_isolation_level(log: StreamLog, writer: TransactionalWriter) -> None:
    log["t"].send("a")
    writer.send("t", [b"b"])
    for level, end in (("read_committed", 1), ("read_uncommitted", 2)):
        with log.consumer("t", isolation_level=level) as consumer:
            assert [record.value for record in consumer.until_end()] == [b"a", b"b"][:end]
            assert set(consumer.end_offsets().values()) == {end}


def test_a_consumer_that_waits_behind_an_open_transaction_looks_once_for_each_append_and_is_woken_by_the_end(
    log: StreamLog, writer: TransactionalWriter, in_thread: InThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetches: list[int] = []
    fetch = writer.service.fetch

    def counted(*args: Any, **options: Any) -> Any:
        fetches.append(1)
        return fetch(*args, **options)

    writer.send("t", [b"a"])
    with log.consumer("t") as consumer:
        assert consumer.poll() == []
        monkeypatch.setattr(writer.service, "fetch", counted)
        waiting = Waiting(monkeypatch)
        polled = in_thread(lambda: consumer.poll(FOREVER))
        waiting.until_it_waits()
        for _ in range(20):
            log["t"].send("b")
        writer.commit("t")
        assert len(polled.result(LONG)) == 21
        assert len(fetches) <= 20 + 4


def test_a_fetch_that_waits_for_more_is_answered_when_the_transaction_before_it_ends(
    log: StreamLog, writer: TransactionalWriter
) -> None:
    writer.send("t", [b"a"])
    at = log["t"]._view().partition(0)
    waiting = writer.service.fetch_many([FetchRequest(at, 0, 1 << 20)], "read_committed")
    unstable = writer.service.fetch_many([FetchRequest(at, 0, 1 << 20)], "read_uncommitted", min_bytes=1000)
    for _ in range(20):
        log["t"].send("b")
    assert not waiting.done() and unstable.done()
    writer.commit("t")
    result_of(waiting)
    [found] = waiting.read()
    assert len(list(result_of(found).batches())) == 22


def test_a_marker_that_is_written_again_after_the_next_transaction_has_begun_does_not_end_that(log: StreamLog) -> None:
    """Scenario 13: two threads of a coordinator may both write the markers of a transaction."""
    log.create_topic("t", partitions=1)
    service: Any = log._engine.service
    written: list[tuple[Any, ...]] = []
    append_marker = service.append_marker

    def noted(*args: Any) -> Any:
        written.append(args)
        return append_marker(*args)

    service.append_marker = noted
    with log.producer(transactional_id="x") as producer:
        producer.begin_transaction()
        producer.send("t", "a")
        producer.abort_transaction()
        [late] = written
        producer.begin_transaction()
        producer.send("t", "b")
        with pytest.raises(ProducerFencedError, match="too late"):
            append_marker(*late)
        producer.commit_transaction()
    assert values(log) == [b"b"]


def test_where_the_disk_of_the_leader_cannot_be_read_another_replica_says_which_transactions_there_were() -> None:
    disk = FaultyDisk(SimulatedDisk())
    with (
        streamlog.open("/data", disk=disk, clock=ManualClock(), brokers=3, segment_bytes=1024) as log,
        log.producer(transactional_id="writer") as producer,
    ):
        log.create_topic("t", partitions=1)
        for commits in (True, False, True):
            producer.begin_transaction()
            for _ in range(3):
                producer.send("t", b"%d" % commits + b"." * 600)
            (producer.commit_transaction if commits else producer.abort_transaction)()
        leader = f"/data/broker-{log['t'].partition(0).leader}/topics/*"
    with streamlog.open("/data", disk=disk, clock=ManualClock()) as log:
        faults = [disk.fail(op, errno.EIO, path=leader, times=None) for op in ("pread", "map_read", "read")]
        assert [value[:1] for value in values(log)] == [b"1"] * 6
        assert any(each.fired for each in faults)
        disk.heal()
