"""Offsets that a producer commits for a group in its transaction count when that is committed, and never otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import streamlog
from streamlog import TopicPartition
from streamlog.runtime.threads import result_of
from streamlog.testing import ManualClock, SimulatedDisk
from streamlog.types import OffsetAndMetadata
from tests.coordinated_writer import CoordinatedWriter, committed, described

P0, P1 = TopicPartition("orders", 0), TopicPartition("orders", 1)


@pytest.fixture
def log() -> Iterator[streamlog.StreamLog]:
    with streamlog.open(clock=ManualClock()) as log:
        log.create_topic("orders", partitions=2)
        yield log


def offsets(log: streamlog.StreamLog, group: str = "billing") -> dict[TopicPartition, int]:
    service: Any = log._engine.service
    return {name: at.offset for name, at in result_of(service.committed(group, None)).items()}


def commit(log: streamlog.StreamLog, positions: dict[TopicPartition, int], group: str = "billing") -> None:
    service: Any = log._engine.service
    at = {name: OffsetAndMetadata(offset, "", None) for name, offset in positions.items()}
    result_of(service.commit(group, None, -1, at))


def test_offsets_and_records_are_committed_together(log: streamlog.StreamLog) -> None:
    writer = CoordinatedWriter(log)
    writer.send("orders", b"a")
    writer.commit_offsets("billing", {P0: 7, P1: 8})
    assert offsets(log) == {}
    writer.commit()
    assert offsets(log) == {P0: 7, P1: 8}
    assert committed(log, "orders") == [b"a"]


def test_offsets_of_an_aborted_transaction_never_count(log: streamlog.StreamLog) -> None:
    commit(log, {P0: 3})
    writer = CoordinatedWriter(log)
    writer.commit_offsets("billing", {P0: 7})
    writer.abort()
    assert offsets(log) == {P0: 3}
    writer.commit_offsets("billing", {P0: 5})
    writer.commit_offsets("billing", {P0: 6})
    writer.commit()
    assert offsets(log) == {P0: 6}


def test_a_commit_that_was_written_later_counts_whichever_is_decided_later(log: streamlog.StreamLog) -> None:
    first, second = CoordinatedWriter(log, "1"), CoordinatedWriter(log, "2")
    first.commit_offsets("billing", {P0: 1, P1: 1})
    second.commit_offsets("billing", {P0: 2})
    commit(log, {P1: 3})
    second.commit()
    first.commit()
    assert offsets(log) == {P0: 2, P1: 3}


@pytest.mark.parametrize("remote", [False, True])
def test_what_is_pending_is_pending_after_the_log_is_opened_again(remote: bool) -> None:
    disk = SimulatedDisk()
    with streamlog.open("/data", disk=disk, clock=ManualClock()) as log:
        log.create_topic("orders", partitions=2)
        commit(log, {P0: 3})
        writer = CoordinatedWriter(log, remote=remote)
        writer.commit_offsets("billing", {P0: 7})
        kept = CoordinatedWriter(log, "other")
        kept.commit_offsets("billing", {P1: 5})
        kept.commit()
    with streamlog.open("/data", disk=disk, clock=ManualClock()) as log:
        assert offsets(log) == {P0: 3, P1: 5}
        writer.log = log
        if remote:
            writer.commit_offsets("billing", {P0: 8})
            writer.commit()
            assert offsets(log) == {P0: 8, P1: 5}
        else:
            assert described(log).state == "CompleteAbort"
            with pytest.raises(streamlog.ProducerFencedError, match="when the log was closed"):
                writer.commit()
            assert offsets(log) == {P0: 3, P1: 5}
    with streamlog.open("/data", disk=disk, clock=ManualClock()) as log:
        assert offsets(log)[P1] == 5


def test_offsets_of_a_group_that_is_not_in_the_transaction_are_refused(log: streamlog.StreamLog) -> None:
    writer = CoordinatedWriter(log)
    writer.send("orders", b"a")
    at = {P0: OffsetAndMetadata(1, "", None)}
    with pytest.raises(streamlog.InvalidTxnStateError, match="Add it to one first"):
        result_of(writer.service.txn_commit_offsets("enrich-1", writer.producer, "billing", None, -1, at))
    former = writer.producer
    writer.commit_offsets("billing", {P0: 7})
    writer.commit()
    with pytest.raises(streamlog.ProducerFencedError):
        result_of(writer.service.txn_commit_offsets("enrich-1", former, "billing", None, -1, at))
    with pytest.raises(streamlog.ProducerFencedError, match="no producer with"):
        result_of(writer.service.txn_commit_offsets("other", former, "billing", None, -1, at))
    assert offsets(log) == {P0: 7}


def test_a_member_that_lost_its_partitions_commits_nothing_in_a_transaction(log: streamlog.StreamLog) -> None:
    writer = CoordinatedWriter(log)
    result_of(writer.service.add_offsets_to_txn("enrich-1", writer.producer, "billing"))
    at = {P0: OffsetAndMetadata(1, "", None)}
    with pytest.raises(streamlog.CommitFailedError):
        result_of(writer.service.txn_commit_offsets("enrich-1", writer.producer, "billing", "member", 1, at))
    writer.abort()


def test_a_deleted_group_does_not_come_back_with_a_transaction(log: streamlog.StreamLog) -> None:
    commit(log, {P0: 3})
    writer = CoordinatedWriter(log)
    writer.commit_offsets("billing", {P0: 7, P1: 7})
    result_of(writer.service.delete_group("billing"))
    writer.commit()
    assert offsets(log) == {}


def test_a_log_that_is_only_read_shows_offsets_that_are_decided(tmp_path: Any) -> None:
    path = str(tmp_path / "log")
    with streamlog.open(path) as log:
        log.create_topic("orders", partitions=2)
        writer = CoordinatedWriter(log, remote=True)
        writer.commit_offsets("billing", {P0: 7})
        writer.commit()
        writer.commit_offsets("billing", {P0: 8})
    with streamlog.open(path, read_only=True) as reader:
        assert offsets(reader) == {P0: 7}


@pytest.mark.parametrize("options", [{"sync": True}, {"brokers": 2}])
def test_offsets_where_acknowledgements_come_later(options: dict[str, Any]) -> None:
    with streamlog.open(**options) as log:
        log.create_topic("orders", partitions=2)
        writer = CoordinatedWriter(log)
        for number in range(3):
            writer.send("orders", b"%d" % number)
            writer.commit_offsets("billing", {P0: number + 1})
            writer.commit()
        assert offsets(log) == {P0: 3}


def test_a_member_reads_from_offsets_that_are_decided(log: streamlog.StreamLog) -> None:
    log["orders"].send_many([b"%d" % number for number in range(10)], partition=0)
    commit(log, {P0: 3})
    writer = CoordinatedWriter(log)
    writer.commit_offsets("billing", {P0: 7})
    with log.consumer("orders", group="billing") as member:
        assert member.poll() == []
        assert member.poll(timeout=0.05) == []
        writer.commit()
        assert [record.offset for record in member.poll(timeout=5)] == [7, 8, 9]


def test_a_transaction_of_another_group_delays_no_member(log: streamlog.StreamLog) -> None:
    log["orders"].send_many([b"a"], partition=0)
    writer = CoordinatedWriter(log)
    writer.commit_offsets("billing", {P0: 1})
    with log.consumer("orders", group="shipping") as member:
        assert [record.offset for record in member.poll(timeout=5)] == [0]
    writer.abort()
    service: Any = log._engine.service
    assert result_of(service.committed("billing", None, require_stable=True)) == {}


def test_offsets_that_are_not_decided_are_not_stable(log: streamlog.StreamLog) -> None:
    commit(log, {P0: 3})
    writer = CoordinatedWriter(log)
    writer.commit_offsets("billing", {P0: 7})
    service: Any = log._engine.service
    with pytest.raises(streamlog.UnstableOffsetCommitError, match="orders-0") as caught:
        result_of(service.committed("billing", [P0], require_stable=True))
    assert caught.value.retriable
    assert result_of(service.committed("billing", [P1], require_stable=True)) == {}
    assert offsets(log) == {P0: 3}
