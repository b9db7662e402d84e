"""A topic, or some of its records, are deleted while another process reads: its error says that they were deleted,
never that they are lost, also where the owner cannot write `published`."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

import streamlog
from streamlog import ClosedError, CorruptRecordError, StorageError, StreamLog, UnknownTopicOrPartitionError
from streamlog.client.time_order import lists_of
from streamlog.testing import FaultyDisk, ManualClock, SimulatedDisk

PATH = "/log"


class OtherProcess(FaultyDisk):
    """The same disk, seen by a process that has opened nothing on it. `before_open` comes before it opens a file."""

    def __init__(self, inner: SimulatedDisk) -> None:
        super().__init__(inner)
        self._filesystem = object()
        self.before_open: Callable[[str], object] = lambda path: None

    @property
    def filesystem(self) -> object:
        return self._filesystem

    def open(self, path: str, **options: Any) -> Any:
        self.before_open(path)
        return super().open(path, **options)


class Beside:
    """An owner on a disk that fails, and a reader of the same directory."""

    def __init__(self) -> None:
        disk = SimulatedDisk(1)
        self.clock = ManualClock()
        self.disk = FaultyDisk(disk)
        self.readers_disk = OtherProcess(disk)
        self.owner = streamlog.open(PATH, disk=self.disk, clock=self.clock)

    def reader(self) -> StreamLog:
        return streamlog.open(PATH, disk=self.readers_disk, clock=self.clock, read_only=True)


@pytest.fixture
def beside(caplog: pytest.LogCaptureFixture) -> Iterator[Beside]:
    caplog.set_level(logging.CRITICAL + 1, "streamlog")
    made = Beside()
    yield made
    made.disk.heal()
    made.owner.close()


def test_a_deletion_is_published_though_a_write_of_published_was_refused_just_before(beside: Beside) -> None:
    topic = beside.owner.create_topic("t")
    beside.disk.fail("pwrite", errno.ENOSPC, path="*/published")
    topic.send(b"x")
    topic.delete()
    with beside.reader() as reader:
        assert [each.name for each in reader.topics()] == []


@pytest.mark.parametrize("ask", [lambda topic: list(topic.read()), lambda topic: topic.partition(0)])
@pytest.mark.parametrize("opened", ["before", "after"])
def test_a_reader_notices_a_deletion_that_could_not_be_published(
    beside: Beside, opened: str, ask: Callable[[Any], object]
) -> None:
    topic = beside.owner.create_topic("t")
    topic.send(b"x")
    if opened == "before":
        reader = beside.reader()
    beside.disk.fail("any", errno.EIO, times=None, path="*/published")
    topic.delete()
    if opened == "after":
        reader = beside.reader()
    with reader:
        with pytest.raises(UnknownTopicOrPartitionError, match="deleted"):
            ask(reader["t"])
        assert "t" not in reader
        assert reader.topics() == []


DELETIONS: dict[str, Callable[[Any], object]] = {
    "some records": lambda topic: topic.delete_records({0: 3}),
    "all records": lambda topic: topic.delete_records({0: 6}),
    "all records, and those sent meanwhile": lambda topic: (
        topic.send_many([b"x" * 700] * 6), topic.delete_records({0: 9})
    ),
    "by retention": lambda topic: (topic.update_config(retention_records=2), topic.apply_retention()),
}  # fmt: skip


@pytest.mark.parametrize("deletion", DELETIONS)
@pytest.mark.parametrize("opened", ["before", "after"])
def test_a_reader_begins_behind_records_whose_deletion_could_not_be_published(
    beside: Beside, opened: str, deletion: str
) -> None:
    topic = beside.owner.create_topic("t", segment_bytes=1024)
    topic.send_many([b"x" * 700] * 6)
    if opened == "before":
        reader = beside.reader()
    beside.disk.fail("any", errno.EIO, times=None, path="*/published")
    DELETIONS[deletion](topic)
    if opened == "after":
        reader = beside.reader()
    left = [record.offset for record in topic.read() if record.offset < 6]
    with reader, reader.consumer("t") as consumer:
        assert [record.offset for record in reader["t"].read()] == left
        assert reader["t"].partition(0).log_start_offset == min(topic.partition(0).log_start_offset, 6)
        assert [record.offset for record in consumer.until_end(timeout=0)] == left


def test_a_consumer_reads_its_other_topics_after_a_deletion_that_could_not_be_published(beside: Beside) -> None:
    topics = [beside.owner.create_topic(name) for name in ("t", "u")]
    for topic in topics:
        topic.send(b"x")
    with beside.reader() as reader, reader.consumer("t", "u") as consumer:
        beside.disk.fail("any", errno.EIO, times=None, path="*/published")
        topics[0].delete()
        found = []
        for _ in range(4):
            with suppress(UnknownTopicOrPartitionError):
                found += [record.topic for record in consumer.poll(max_records=1)]
        assert found == ["u"]
        topics[1].send(b"y")
        beside.disk.heal()
        beside.owner.create_topic("v")  # a change of topics has everything published at once
        assert [record.value for record in consumer.poll()] == [b"y"]


def test_a_partition_whose_directory_was_removed_is_lost_while_its_topic_is_there(beside: Beside) -> None:
    topic = beside.owner.create_topic("t")
    topic.send(b"x")
    beside.readers_disk.rmtree(f"{PATH}/topics/{topic.id.hex}-0")
    with beside.reader() as reader, pytest.raises(CorruptRecordError, match="is missing"):
        list(reader["t"].read())
    with suppress(StorageError):  # the owner notices too
        beside.owner.close()


def test_the_metrics_of_a_reader_name_what_cannot_be_read_and_have_the_numbers_of_the_others(beside: Beside) -> None:
    topic = beside.owner.create_topic("t")
    topic.send(b"x")
    beside.owner.create_topic("u").send(b"y")
    beside.readers_disk.rmtree(f"{PATH}/topics/{topic.id.hex}-0")
    with beside.reader() as reader:
        topics = reader.metrics()["topics"]
        assert "is missing" in topics["t"]["0"]["failures"]["read"] and "log_end_offset" not in topics["t"]["0"]
        assert topics["t"]["0"]["leader"] == 0
        assert topics["u"]["0"]["log_end_offset"] == 1 and "failures" not in topics["u"]["0"]
    with pytest.raises(ClosedError):
        reader.metrics()
    with suppress(StorageError):  # the owner notices too
        beside.owner.close()


def test_a_reader_that_opens_a_file_of_a_topic_just_deleted_raises_that_the_topic_is_deleted(
    beside: Beside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists_of, "__defaults__", (1,))  # a record at a time
    topic = beside.owner.create_topic("t", segment_bytes=1024)
    for _ in range(4):
        topic.send(b"x" * 1000)
    with beside.reader() as reader:
        records = iter(reader["t"].read())
        next(records)

        def once(path: str) -> None:
            beside.readers_disk.before_open = lambda path: None
            topic.delete()

        beside.readers_disk.before_open = once
        with pytest.raises(UnknownTopicOrPartitionError, match="deleted"):
            list(records)
