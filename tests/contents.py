"""What a log, a topic or a directory contains, in a form that a test can compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from streamlog import Consumer, StreamLog, Topic


def values(log: StreamLog, topic: str = "t", **bounds: Any) -> list[Any]:
    """The values of the records of a topic, partition after partition. `bounds` are those of `Topic.read`."""
    return [record.value for record in log[topic].read(**bounds)]


def values_of(topic: Topic[Any, Any]) -> list[Any]:
    """The values of the records of a topic, partition after partition."""
    return [record.value for record in topic.read()]


def ends_of(topic: Topic[Any, Any]) -> list[int]:
    """The log end offset of each partition."""
    return [topic.partition(number).log_end_offset for number in range(topic.partitions)]


def fill(log: StreamLog, count: int, *, partitions: int = 1, name: str = "t") -> Topic[Any, Any]:
    """A new topic with `count` records in each partition: the value at offset n of partition p is b"p:n"."""
    topic = log.create_topic(name, partitions=partitions)
    for partition in range(partitions):
        topic.send_many([f"{partition}:{n}" for n in range(count)], partition=partition).result()
    return topic


def fill_with_everything(log: StreamLog) -> None:
    """Topics with records of every form: keys, headers and values that are there, empty and absent; some records deleted."""
    plain = log.create_topic("plain", partitions=3, segment_bytes=2000)
    for n in range(120):
        plain.send(b"v%d" % n, b"k%d" % n, headers={"n": str(n)}, timestamp_ms=1_600_000_000_000 + n * 7 % 50)
    plain.send_many([b"x" * 300, None, b""] * 30, [None, b"", b"k"] * 30)
    log.create_topic("empty", retention_bytes=5000)
    plain.delete_records({0: plain.partition(0).log_end_offset // 2})


def drain(consumer: Consumer[Any, Any]) -> list[Any]:
    """All records that a consumer is handed out until a poll has none."""
    records: list[Any] = []
    while handed_out := consumer.poll():
        records += handed_out
    return records


def file_contents(directory: Path) -> dict[str, bytes]:
    """The bytes of every file below `directory`, by its path from there."""
    return {
        str(file.relative_to(directory)): file.read_bytes() for file in sorted(directory.rglob("*")) if file.is_file()
    }
