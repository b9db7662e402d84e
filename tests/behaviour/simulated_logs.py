"""Logs on a simulated disk, what was acknowledged in them written down in the disk's trace, and what a crash may leave."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import streamlog
from streamlog import TopicPartition
from streamlog.testing import ManualClock, SimulatedDisk
from tests.times import START_MS

PATH = "/data"
T0 = TopicPartition("t", 0)
LARGE = b"." * 600  # one of these and no second fits into a segment of 1024 bytes


def opened(disk: Any, clock: ManualClock | None = None, **options: Any) -> streamlog.StreamLog:
    return streamlog.open(PATH, disk=disk, clock=clock or ManualClock(start_ms=START_MS), **options)


def contents(log: streamlog.StreamLog) -> dict[int, bytes]:
    return {record.offset: record.value for record in log["t"].read()}


def partition_files(disk: SimulatedDisk, suffix: str) -> list[str]:
    (directory,) = [name for name in disk.listdir(f"{PATH}/topics") if name.endswith("-0")]
    names = disk.listdir(f"{PATH}/topics/{directory}")
    return [f"{PATH}/topics/{directory}/{name}" for name in names if name.endswith(suffix)]


def groups_directory(log: streamlog.StreamLog, disk: Any) -> str:
    """The directory of the partition that has the commits of the groups."""
    users = {topic.id.hex for topic in log.topics()}
    (name,) = [name for name in disk.listdir(f"{PATH}/topics") if name.partition("-")[0] not in users]
    return f"{PATH}/topics/{name}"


def read_by_the_group(log: streamlog.StreamLog) -> list[Any]:
    """The values that a member of group "g" reads from where the group has committed."""
    with log.consumer("t", group="g") as consumer:
        return [record.value for record in consumer.until_end()]


def crashed(disk: SimulatedDisk, *, first: int = 0, kills: bool = False) -> Iterator[tuple[str, SimulatedDisk]]:
    """What a crash at each moment may have left, with its name."""
    return disk.crashes(3, kills=kills, first=first)


class Marks:
    """What was acknowledged, written down in the trace of the disk, so that each crash knows what was before it."""

    def __init__(self, disk: SimulatedDisk) -> None:
        self._disk = disk

    def __call__(self, what: str, number: int) -> None:
        self._disk.mark(f"{what} {number}")

    @staticmethod
    def last(disk: SimulatedDisk, what: str) -> int:
        """The largest number so marked, or -1."""
        marks = [label.rsplit(" ", 1) for label in disk.marks]
        return max((int(number) for label, number in marks if label == what), default=-1)


def check_sent(name: str, disk: SimulatedDisk, **options: Any) -> None:
    """Open what a crash left: every acknowledged record is at its offset, the log goes on, and all verifies."""
    sent = Marks.last(disk, "sent")
    start = Marks.last(disk, "asked to delete before")
    with opened(disk, **options) as log:
        found = contents(log)
        info = log["t"].partition(0)
        assert Marks.last(disk, "deleted before") <= info.log_start_offset <= max(start, 0), name
        missing = set(range(info.log_start_offset, sent + 1)) - set(found)
        assert not missing, f"{name}: acknowledged and not there: {sorted(missing)}"
        assert all(value == b"%d" % offset + LARGE for offset, value in found.items()), f"{name}: {found}"
        assert list(found) == [*range(info.log_start_offset, info.log_end_offset)], name
        committed = log.group("g").committed().get(T0, 0)
        assert Marks.last(disk, "committed") <= committed <= max(0, Marks.last(disk, "asked to commit")), name
        assert log["t"].send(b"next").result().offset == max(found, default=info.log_start_offset - 1) + 1, name
    report = streamlog.verify(PATH, disk=disk)
    assert report.ok, f"{name}: {report}"


def send(topic: streamlog.Topic[Any, Any], mark: Marks, numbers: range) -> None:
    for number in numbers:
        topic.send(b"%d" % number + LARGE).result()
        mark("sent", number)
