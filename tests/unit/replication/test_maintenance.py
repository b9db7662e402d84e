"""Maintenance goes in steps: a compaction gives the lock up between two of them, and what changes its segments ends it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from streamlog.broker.scheduler import Scheduler
from streamlog.config import TopicConfig
from streamlog.errors import ClosedError, CorruptRecordError
from streamlog.records import columns
from streamlog.records.batch import seed_of
from streamlog.replication import maintenance
from streamlog.replication.partition import Partition
from streamlog.runtime.disk import OsDisk
from streamlog.runtime.threads import new_lock
from streamlog.storage.log import AppendRequest
from streamlog.storage.recovery.recovery import PreviousShutdown, open_log
from streamlog.types import TopicPartition

NOW = 1_700_000_000_000
TOPIC_ID = bytes(16)
SEED = seed_of(TOPIC_ID, 0)
BATCHES = 40
WEEK_MS = 7 * 86_400_000


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "p"


@pytest.fixture
def partition(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Partition]:
    """Forty batches of 600 bytes, one a segment, of four keys; a step of a compaction reads one batch."""
    monkeypatch.setattr(maintenance, "STEP_BYTES", 1)
    config = TopicConfig(segment_bytes=1024, cleanup_policy="compact")
    log = open_log(OsDisk(), str(directory), TOPIC_ID, 0, SEED, config, PreviousShutdown(True, True))
    made = Partition(TopicPartition("t", 0), TOPIC_ID, log, new_lock)
    for n in range(BATCHES):
        append(made, n)
    yield made
    log.release()


def append(partition: Partition, n: int) -> None:
    batch = columns.seal(SEED, [b"k%d" % (n % 4)], [b"%600d" % n], NOW, count=1)
    partition.append(AppendRequest([batch]), NOW)


def steps_to_the_end(partition: Partition) -> int:
    for count in range(1, 1000):
        if partition.maintenance.step(NOW) != NOW:
            return count
    raise AssertionError("the steps do not come to an end")


def records(partition: Partition) -> int:
    """How many records the sealed segments have."""
    return sum(segment.stats.records for segment in partition.log.tail.segments)


def test_a_compaction_takes_a_step_for_each_batch_it_reads(partition: Partition) -> None:
    sealed = BATCHES - 1
    steps = steps_to_the_end(partition)
    assert 2 * sealed <= steps <= 2 * sealed + 2, "keys are read first, then whole batches"
    assert records(partition) == 4


def test_between_two_steps_the_lock_is_free_and_appends_and_rolls_come(partition: Partition) -> None:
    for n in range(30):
        assert partition.maintenance.step(NOW) == NOW
        assert not partition.maintenance.lock.locked()
        append(partition, BATCHES + n)
    steps_to_the_end(partition)
    assert records(partition) < BATCHES + 30
    assert partition.log.tail.end_offset == BATCHES + 30


@pytest.mark.parametrize("after", [10, 50])
def test_a_deletion_between_two_steps_ends_the_compaction_and_the_next_one_begins_anew(
    partition: Partition, directory: Path, after: int
) -> None:
    for _ in range(after):
        assert partition.maintenance.step(NOW) == NOW
    assert partition.delete_records(20).result() == 20
    assert not [*directory.glob("*.cleaned")]
    steps_to_the_end(partition)
    assert partition.log.tail.start_offset == 20
    assert records(partition) == 4


@pytest.mark.parametrize("after", [10, 50])
def test_a_close_between_two_steps_leaves_nothing_of_the_compaction(
    partition: Partition, directory: Path, after: int
) -> None:
    for _ in range(after):
        assert partition.maintenance.step(NOW) == NOW
    partition.maintenance.stop()
    partition.close(ClosedError("closed"))
    assert not [*directory.glob("*.cleaned")]
    assert partition.maintenance.step(NOW) is None
    assert len([*directory.glob("*.log")]) == BATCHES


def test_a_whole_compaction_that_is_asked_for_ends_the_one_in_steps(partition: Partition) -> None:
    for _ in range(50):
        assert partition.maintenance.step(NOW) == NOW
    result = partition.maintenance.compact(NOW)
    assert result is not None and result.cleaned_until == BATCHES - 1
    assert partition.maintenance.step(NOW) != NOW


def test_a_step_waits_for_no_call_that_has_the_lock(partition: Partition) -> None:
    with partition.maintenance.lock:
        due = partition.maintenance.step(NOW)
    assert due is not None and NOW < due <= NOW + 1000


def test_other_partitions_are_maintained_between_the_steps_of_a_compaction(partition: Partition) -> None:
    scheduler, order = Scheduler(new_lock(), new_lock()), []

    def other(now_ms: int) -> None:
        order.append("other")

    def step(now_ms: int) -> int | None:
        order.append("step")
        if len(order) == 3:
            scheduler.at(now_ms, other)
        return partition.maintenance.step(now_ms)

    scheduler.at(NOW, step)
    while (due := scheduler.run_due(NOW)) is not None and due <= NOW:
        pass
    assert order.index("other") <= 4
    assert order.count("step") > BATCHES


def test_a_damaged_batch_is_compacted_again_only_when_it_is_gone(
    partition: Partition, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = sorted(directory.glob("*.log"))[5]
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    steps_to_the_end(partition)
    assert "is damaged" in caplog.text and damaged.name in caplog.text
    assert damaged.name in partition.maintenance.failures["compaction"]
    for _ in range(3):
        assert partition.maintenance.step(NOW) == NOW + WEEK_MS, "only the next roll is due"
    assert caplog.text.count("not compacted") == 1
    with pytest.raises(CorruptRecordError):
        partition.maintenance.compact(NOW)
    partition.delete_records(6)
    steps_to_the_end(partition)
    assert records(partition) == 4
    assert partition.maintenance.failures == {}
