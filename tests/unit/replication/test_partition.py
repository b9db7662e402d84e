"""A partition: a waiting call is woken once and never under a lock; what was closed stays closed; work is reported."""

from __future__ import annotations

import errno
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamlog.config import TopicConfig
from streamlog.errors import ClosedError, OffsetOutOfRangeError, PoisonedLogError
from streamlog.records import columns
from streamlog.records.batch import seed_of
from streamlog.replication.maintenance import RETRY_MS
from streamlog.replication.partition import Partition
from streamlog.runtime.threads import new_lock
from streamlog.storage.log import AppendRequest
from streamlog.storage.recovery.recovery import PreviousShutdown, open_log
from streamlog.testing import FaultyDisk
from streamlog.types import TopicPartition

NOW = 1_700_000_000_000
TOPIC_ID = bytes(16)
SEED = seed_of(TOPIC_ID, 0)
NAME = TopicPartition("t", 0)


@pytest.fixture
def disk() -> FaultyDisk:
    return FaultyDisk()


@pytest.fixture
def partition(tmp_path: Path, disk: FaultyDisk) -> Iterator[Partition]:
    config = TopicConfig(segment_bytes=1024, retention_ms=1000)
    log = open_log(disk, str(tmp_path / "p"), TOPIC_ID, 0, SEED, config, PreviousShutdown(True, True))
    yield Partition(NAME, TOPIC_ID, log, new_lock)
    log.release()


def write(value: bytes = b"x" * 600, timestamp: int = NOW) -> AppendRequest:
    return AppendRequest([columns.seal(SEED, None, [value], timestamp, count=1)])


@pytest.mark.parametrize("short", [False, True])
def test_every_waiter_is_woken_once_outside_the_lock(partition: Partition, short: bool) -> None:
    woken: list[bool] = []
    for _ in range(3):
        partition.waiters.add(lambda: woken.append(partition.lock.locked()))
    if short:
        assert partition.append_one(b"k", b"v", NOW, NOW) == 0
    else:
        assert partition.append(write(), NOW) == 0
    assert woken == [False] * 3
    partition.append(write(), NOW)
    assert len(woken) == 3
    assert partition.high_watermark == 2


def test_a_waiter_that_gave_up_is_not_woken_and_may_give_up_twice(partition: Partition) -> None:
    woken: list[int] = []

    def wake() -> None:
        woken.append(1)

    partition.waiters.add(wake)
    partition.waiters.remove(wake)
    partition.waiters.remove(wake)
    partition.append(write(), NOW)
    assert not woken


def test_a_waiter_that_waits_again_while_it_is_woken_is_woken_by_the_next(partition: Partition) -> None:
    woken: list[int] = []

    def wake() -> None:
        woken.append(partition.high_watermark)
        partition.waiters.add(wake)

    partition.waiters.add(wake)
    partition.append(write(), NOW)
    partition.append(write(), NOW)
    assert woken == [1, 2]


def test_waking_when_another_took_the_last_waiter_does_nothing(partition: Partition) -> None:
    class Emptied(OrderedDict[object, None]):
        def __len__(self) -> int:
            return 1

    partition.waiters.callbacks = Emptied()  # type: ignore[assignment]
    partition.waiters.wake()


def test_a_closed_partition_refuses_every_call_and_wakes_the_calls_that_wait(partition: Partition) -> None:
    woken: list[int] = []
    partition.append(write(), NOW)
    partition.waiters.add(lambda: woken.append(1))
    partition.close(ClosedError("the log was closed"))
    assert woken == [1]
    for refused in (
        lambda: partition.append(write(), NOW),
        lambda: partition.append_one(b"k", b"v", NOW, NOW),
        lambda: partition.maintenance.roll(NOW),
        lambda: partition.delete_records(1),
    ):
        with pytest.raises(ClosedError):
            refused()
    assert partition.maintenance.step(NOW) is None
    partition.settle(write())


def test_what_a_closing_disk_refuses_is_raised_after_everything_was_let_go(
    partition: Partition, disk: FaultyDisk
) -> None:
    partition.append(write(), NOW)
    disk.fail("sync", errno.EIO)
    with pytest.raises(PoisonedLogError):
        partition.close(ClosedError("closed"))
    assert not partition.lock.locked() and not partition.maintenance.lock.locked()
    assert not partition.log.tail.segments[-1]._opened


def test_an_interrupted_write_is_settled_from_outside(partition: Partition) -> None:
    partition.append(write(), NOW)
    lost = write()
    partition.log._writing = lost
    with open(partition.log.tail.segments[0].path, "ab") as file:
        file.write(b"half a batch")
    partition.settle(lost)
    assert lost.base_offset == -1
    assert partition.append(write(), NOW) == 1


def test_a_partition_reports_work_when_a_segment_begins_to_age_and_when_it_is_sealed(partition: Partition) -> None:
    told: list[int] = []
    partition.on_work = lambda p: told.append(p.high_watermark)
    partition.append(write(b"small"), NOW)
    partition.append(write(b"small"), NOW)
    partition.append(write(b"large" * 200), NOW)
    assert told == [1, 3]


def test_a_single_record_tells_of_work_when_its_segment_begins_to_age(partition: Partition) -> None:
    told: list[int] = []
    partition.on_work = lambda p: told.append(p.high_watermark)
    for value in (b"small", b"small", b"large" * 200):
        partition.append_one(None, value, NOW, NOW)
    partition.maintenance.roll(NOW)
    partition.append_one(None, b"small", NOW, NOW)
    assert told == [1, 3, 4]


def test_deleting_past_the_end_is_refused_with_the_bounds(partition: Partition) -> None:
    partition.append(write(), NOW)
    with pytest.raises(OffsetOutOfRangeError) as error:
        partition.delete_records(2)
    assert (error.value.log_start_offset, error.value.log_end_offset) == (0, 1)


def test_maintenance_that_the_disk_refuses_is_tried_again(
    partition: Partition, disk: FaultyDisk, caplog: pytest.LogCaptureFixture
) -> None:
    partition.append(write(), NOW)
    partition.append(write(), NOW)
    disk.fail("open", errno.EMFILE, path="*.log", times=2)
    partition.log.tail.segments[0].release()
    assert partition.maintenance.step(NOW) == NOW + RETRY_MS
    assert "t-0" in caplog.text and "injected" in caplog.text


def test_a_topic_that_is_not_compacted_has_nothing_to_compact(partition: Partition) -> None:
    partition.append(write(), NOW)
    assert partition.maintenance.compact(NOW) is None
