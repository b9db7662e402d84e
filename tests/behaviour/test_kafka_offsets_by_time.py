"""ListOffsets through a listener: the special timestamps by version, the epochs of what is found, and where it is looked up."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import streamlog
from streamlog.broker.reading import PartitionReads
from streamlog.kafka import Listener, messages
from streamlog.kafka.errors import ErrorCode
from tests.kafka.clients import WAIT_S, asked, asked_at
from tests.kafka.fixtures import listener_of_log, temporary_log

log, listener = temporary_log, listener_of_log
LATEST, EARLIEST, MAX_TIMESTAMP, EARLIEST_LOCAL, LATEST_TIERED, EARLIEST_PENDING = -1, -2, -3, -4, -5, -6


def request(*timestamps: int) -> Any:
    """One for each partition of topic t."""
    Request = messages.ListOffsetsRequest
    partitions = [Request.ListOffsetsPartition(partition_index=n, timestamp=each) for n, each in enumerate(timestamps)]
    return Request(replica_id=-1, topics=[Request.ListOffsetsTopic(name="t", partitions=partitions)])


def listed(listener: Listener, version: int, timestamp: int) -> Any:
    (topic,) = asked(listener, 2, version, request(timestamp)).topics
    return topic.partitions[0]


@pytest.mark.parametrize(
    ("timestamp", "first", "offset"),
    [
        (LATEST, 1, 3),
        (EARLIEST, 1, 0),
        (MAX_TIMESTAMP, 7, 1),
        (EARLIEST_LOCAL, 8, 0),
        (LATEST_TIERED, 9, -1),
        (EARLIEST_PENDING, 11, -1),
        (-7, 99, -1),
    ],
)
def test_special_timestamps_are_known_from_a_version_on(
    log: streamlog.StreamLog, listener: Listener, timestamp: int, first: int, offset: int
) -> None:
    topic = log.create_topic("t")
    for at in (1000, 3000, 2000):
        topic.send(b"v", timestamp_ms=at).result()
    for version in range(1, 12):
        found = listed(listener, version, timestamp)
        if version < first:
            assert (found.error_code, found.offset) == (ErrorCode.UNSUPPORTED_VERSION, -1)
        else:
            assert (found.error_code, found.offset) == (ErrorCode.NONE, offset)
            if version >= 4:
                assert found.leader_epoch == (-1 if offset < 0 else 0)


def test_a_partition_that_is_asked_twice_is_answered_with_an_error(
    log: streamlog.StreamLog, listener: Listener
) -> None:
    log.create_topic("t")
    asks = request(LATEST)
    asks.topics[0].partitions *= 2
    (topic,) = asked(listener, 2, 7, asks).topics
    assert {each.error_code for each in topic.partitions} == {ErrorCode.INVALID_REQUEST}


def test_an_offset_has_the_epoch_in_which_its_record_was_written() -> None:
    with streamlog.open(brokers=3) as log, Listener(log) as listener:
        topic = log.create_topic("t", replication_factor=3)
        epochs = []
        for at in (1000, 2000, 3000):
            topic.send(b"v", timestamp_ms=at).result()
            epochs.append(topic.partition(0).leader_epoch)
            leader = topic.partition(0).leader
            log.brokers[leader].stop()
            log.brokers[leader].start()
        assert len(set(epochs)) == 3
        current = topic.partition(0).leader_epoch
        addresses = dict(
            zip(sorted(each.id for each in log.brokers), listener.bootstrap_servers.split(","), strict=True)
        )

        def found(timestamp: int) -> tuple[int, int]:
            (one,) = asked_at(addresses[topic.partition(0).leader], 2, 9, request(timestamp)).topics
            return one.partitions[0].offset, one.partitions[0].leader_epoch

        for offset, epoch in enumerate(epochs):
            assert found(1000 * (offset + 1)) == (offset, epoch)
        assert found(EARLIEST) == (0, epochs[0])
        assert found(MAX_TIMESTAMP) == (2, epochs[2])
        assert found(LATEST) == (3, current)


def test_others_are_answered_while_a_timestamp_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, may_end = threading.Event(), threading.Event()
    find = PartitionReads.find_offset

    def slow(*arguments: Any, **named: Any) -> Any:
        begun.set()
        assert may_end.wait(WAIT_S)
        return find(*arguments, **named)

    monkeypatch.setattr(PartitionReads, "find_offset", slow)
    with streamlog.open() as log, Listener(log) as listener:
        log.create_topic("t").send(b"v", timestamp_ms=5).result()
        answers: list[Any] = []
        asking = threading.Thread(target=lambda: answers.append(listed(listener, 7, 1)), daemon=True)
        asking.start()
        assert begun.wait(WAIT_S)
        assert asked(listener, 18, 0, messages.ApiVersionsRequest()).error_code == ErrorCode.NONE
        may_end.set()
        asking.join(WAIT_S)
        assert answers[0].offset == 0
