"""Idempotent producers (KIP-98): on by default; what is sent again is in the log once, in order, whatever went wrong."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import ConfigError, DiskFullError, StreamLog
from streamlog.records.batch import NO_PRODUCER
from streamlog.runtime.threads import result_of
from streamlog.testing import FaultyDisk, SimulatedDisk

Sent = list[tuple[int, int, int]]


def sent_by(log: StreamLog, topic: str) -> Sent:
    """Producer id, epoch and first sequence of each batch in partition 0."""
    service: Any = log._engine.service
    result = result_of(service.fetch(log[topic]._view().partition(0), 0, 1 << 20, "read_uncommitted"))
    headers = [batch.header for batch in result.batches()]
    return [(each.producer_id, each.producer_epoch, each.base_sequence) for each in headers]


def test_records_have_the_id_of_their_producer_and_sequences_without_a_gap(log: StreamLog) -> None:
    log.create_topic("t", partitions=1)
    with log.producer() as first, log.producer() as second:
        first.send("t", "a")
        first.send_many("t", ["b", "c"])
        second.send("t", "d")
        first.send("t", None, key="e")
        first.send("t", "f", headers={"h": "1"})
        first.send("t", "g")
    ids = [producer for producer, _, _ in sent_by(log, "t")]
    one, other = ids[0], ids[2]
    assert one != other
    assert sent_by(log, "t") == [(one, 0, 0), (one, 0, 1), (other, 0, 0), (one, 0, 3), (one, 0, 4), (one, 0, 5)]


def test_a_topics_own_sends_are_idempotent_too(log: StreamLog) -> None:
    topic = log.create_topic("t", partitions=1)
    topic.send("a")
    topic.send_many(["b", "c"])
    assert [sequence for _, _, sequence in sent_by(log, "t")] == [0, 1]
    assert NO_PRODUCER not in [producer for producer, _, _ in sent_by(log, "t")]


@pytest.mark.parametrize("config", [{"enable_idempotence": False}, {"acks": 1}, {"acks": 0}])
def test_where_it_is_off_records_have_no_producer(log: StreamLog, config: dict[str, Any]) -> None:
    log.create_topic("t", partitions=1)
    with log.producer(**config) as producer:
        producer.send("t", "a")
        producer.send_many("t", ["b", "c"])
    assert set(sent_by(log, "t")) == {(NO_PRODUCER, -1, -1)}


@pytest.mark.parametrize("acks", [0, 1])
def test_it_needs_the_acknowledgement_of_all(log: StreamLog, acks: Any) -> None:
    with pytest.raises(ConfigError, match="needs acks='all'"):
        log.producer(enable_idempotence=True, acks=acks)


def test_no_id_is_given_out_again_by_the_next_open(path: Path) -> None:
    seen: Sent = []
    for _ in range(3):
        with streamlog.open(path, auto_create_topics=True) as log:
            for _ in range(2):
                with log.producer() as producer:
                    producer.send("t", "a")
            seen = sent_by(log, "t")
    assert len({producer for producer, _, _ in seen}) == len(seen) == 6


def test_a_topic_that_is_made_again_takes_the_records_of_a_producer_that_wrote_to_the_one_before(
    log: StreamLog,
) -> None:
    with log.producer() as producer:
        for _ in range(2):
            log.create_topic("t", partitions=1)
            producer.send("t", "a")
            producer.send_many("t", ["b"])
            assert [sequence for _, _, sequence in sent_by(log, "t")] == [0, 1]
            log.delete_topic("t")


def test_a_disk_that_takes_no_change_of_the_metadata_does_not_stop_the_senders_of_one_broker() -> None:
    disk = FaultyDisk(SimulatedDisk())
    with streamlog.open("/log", disk=disk) as log:
        log.create_topic("t", partitions=1)
        disk.fail("pwrite", errno.ENOSPC, times=None, path="*__cluster_metadata-0/*")
        log["t"].send("a")
        with log.producer() as producer:
            producer.send("t", "b")
        with pytest.raises(DiskFullError):
            log.producer(enable_idempotence=True)
        assert [record.value for record in log["t"].read()] == [b"a", b"b"]
        assert set(sent_by(log, "t")) == {(NO_PRODUCER, -1, -1)}
