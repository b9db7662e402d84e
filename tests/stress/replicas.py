"""Whether the replicas of a log of several brokers are equal, as `open` logs have them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import streamlog
from streamlog.broker.replay import all_records
from streamlog.records.batch import peek

_LONGEST_S = 30.0


def compare(log: streamlog.StreamLog, pause: Callable[[], object] = lambda: time.sleep(0.001)) -> None:
    """Raise AssertionError unless all replicas catch up, and have the same batches then; of a compacted topic, the same last
    record of each key.

    REQUIRES: all brokers run, and nothing is sent meanwhile.
    """
    brokers: Any = log._engine.service.brokers  # type: ignore[attr-defined]
    for topic in log.topics(internal=True):
        for number in range(topic.partitions):
            at = (topic.name, number)
            replicas = [each.replicas.partitions[at] for each in brokers.all if at in each.replicas.partitions]
            _await_all(log, brokers.leaders[at], replicas, pause)
            start = max(each.log.tail.start_offset for each in replicas)
            # Each is compacted by itself.
            look = _last_of_each_key if "compact" in topic.config["cleanup_policy"] else _batches
            found = [look(each, start) for each in replicas]
            ids = [each.broker_id for each, records in zip(replicas, found, strict=True) if records != found[0]]
            assert not ids, f"{topic.name}-{number} on brokers {ids} has other records than on {replicas[0].broker_id}"


def _await_all(log: streamlog.StreamLog, leader: Any, replicas: list[Any], pause: Callable[[], object]) -> None:
    until = time.monotonic() + _LONGEST_S
    while any(each.high_watermark < leader.log.tail.end_offset for each in replicas):
        assert time.monotonic() < until, f"a replica of {leader.name} does not catch up: {log.metrics()['topics']}"
        pause()


def _last_of_each_key(replica: Any, start: int) -> object:
    return {key: value for key, value in dict(all_records(replica, start=start)).items() if value is not None}


def _batches(replica: Any, start: int) -> object:
    batches, offset, end = [], start, replica.high_watermark
    while offset < end:
        data, at = bytes(replica.reader.fetch(offset, 1 << 20, end).data), 0
        while at < len(data):
            header = peek(data, at)
            batches.append(data[at : at + header.batch_len])
            offset = header.next_offset
            at += header.batch_len
    return batches
