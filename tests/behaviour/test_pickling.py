"""Values, records and errors pickle; handles refuse."""

from __future__ import annotations

import copy
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import streamlog
from streamlog import StreamLog

Child = Callable[..., "subprocess.Popen[str]"]
OpenLog = Callable[..., StreamLog]
Reopen = Callable[..., StreamLog]


def contents(directory: Path) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


def test_handles_refuse_to_pickle(log: StreamLog) -> None:
    topic = log.create_topic("t")
    with log.producer() as producer, log.consumer("t") as consumer:
        for handle in (log, topic, producer, consumer, log.group("g"), topic.send(b"x"), topic.read()):
            with pytest.raises(TypeError):
                pickle.dumps(handle)


def test_values_pickle(log: StreamLog) -> None:
    topic = log.create_topic("t")
    metadata = topic.send(b"v", b"k", headers={"h": b"1"}).result()
    (record,) = topic.read()
    values = [
        metadata,
        record,
        topic.partition(0),
        record.topic_partition,
        streamlog.ProducerRecord(b"v"),
        streamlog.OffsetAndMetadata(3),
        streamlog.OffsetAndTimestamp(3, 4),
    ]
    for value in values:
        again = pickle.loads(pickle.dumps(value))
        assert again == value
        assert type(again) is type(value)
        assert copy.deepcopy(value) == value


def test_batches_pickle(log: StreamLog) -> None:
    topic = log.create_topic("t")
    topic.send_many([b"a", None, b"c"], [b"1", b"2", None], headers={"h": b"1"})
    (batch,) = topic.read_batches()
    again = pickle.loads(pickle.dumps(batch))
    assert list(again) == list(batch)
    assert (again.base_offset, again.last_offset, again.next_offset) == (0, 2, 3)


def test_errors_pickle_with_their_fields(log: StreamLog) -> None:
    topic = log.create_topic("t", max_message_bytes=500)
    topic.send(b"x")
    causes: list[Callable[[], object]] = [
        lambda: log["u"],
        lambda: log.create_topic("t"),
        lambda: log.create_topic("a b"),
        lambda: topic.read(0, start=99),
        lambda: topic.send(b"x" * 1000),
        lambda: topic.send(7),
        lambda: topic.send(b"x", timestamp_ms=-5),
        lambda: topic.send(b"x", partition=9),
        lambda: log.producer(linger=5),
    ]
    for cause in causes:
        with pytest.raises(streamlog.StreamlogError) as caught:
            cause()
        error = caught.value
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert again.retriable == error.retriable
        assert vars(again) == vars(error)
