"""What a broker does with a partition that another one leads: it compacts, and deletes what the leader deletes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from streamlog.config import TopicConfig
from streamlog.errors import NotLeaderError
from streamlog.records import columns
from streamlog.records.batch import seed_of
from streamlog.replication.follower import follow_log_start
from streamlog.replication.partition import Partition
from streamlog.replication.replica_set import PartitionRegistration
from streamlog.runtime.disk import OsDisk
from streamlog.runtime.threads import new_lock
from streamlog.storage.log import AppendRequest
from streamlog.storage.recovery.recovery import PreviousShutdown, open_log
from streamlog.types import SegmentInfo, TopicPartition
from tests.stress.interrupts import Interrupter

NOW = 1_700_000_000_000
TOPIC_ID = bytes(16)
SEED = seed_of(TOPIC_ID, 0)
HERE, THERE = 0, 1
LATER = NOW + 1_000_000


class Everything:
    """A policy of the user's, which lets everything go."""

    name = "everything"

    def __init__(self) -> None:
        self.asked = 0

    def expired(self, segments: Sequence[SegmentInfo], now_ms: int) -> int:
        self.asked += 1
        return len(segments)


def led_by(leader: int, leader_epoch: int) -> PartitionRegistration:
    return PartitionRegistration((HERE, THERE), (HERE, THERE), leader, leader_epoch, leader_epoch)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[..., Partition]]:
    """A partition with ten batches, one a segment, of two keys; another broker leads it in epoch 1."""
    partitions: list[Partition] = []

    def make(**config: Any) -> Partition:
        path = str(tmp_path / f"p{len(partitions)}")
        settings = TopicConfig(segment_bytes=1024, **config)
        log = open_log(OsDisk(), path, TOPIC_ID, 0, SEED, settings, PreviousShutdown(True, True))
        partition = Partition(TopicPartition("t", 0), TOPIC_ID, log, new_lock)
        for n in range(10):
            batch = columns.seal(SEED, [b"k%d" % (n % 2)], [b"%600d" % n], NOW, count=1)
            partition.append(AppendRequest([batch]), NOW)
        partition.follow(led_by(THERE, 1))
        partitions.append(partition)
        return partition

    yield make
    for each in partitions:
        each.log.release()


def test_the_topics_policy_deletes_nothing_and_does_not_call_for_steps(made: Callable[..., Partition]) -> None:
    for partition in (made(retention_ms=1000), made(retention_bytes=100)):
        assert partition.maintenance.step(LATER) is None
        assert partition.maintenance.apply_retention(LATER).result() == 0
        assert partition.log.tail.start_offset == 0


def test_a_policy_of_the_users_is_not_asked(made: Callable[..., Partition]) -> None:
    partition = made()
    policy = partition.maintenance.custom_policy = Everything()
    assert partition.maintenance.step(LATER) is None
    assert policy.asked == 0


def test_a_broker_that_comes_to_lead_deletes_what_has_expired(made: Callable[..., Partition]) -> None:
    partition = made(retention_ms=1000)
    work: list[Partition] = []
    partition.on_work = work.append
    partition.follow(led_by(THERE, 2))
    assert work == []
    partition.follow(led_by(HERE, 3))
    assert work == [partition]
    assert partition.maintenance.step(LATER) is None, "the followers come first, and call for the next step"
    assert partition.log.tail.start_offset == 0
    work.clear()
    partition.follow(led_by(HERE, 3)._replace(isr=(HERE,), partition_epoch=4))
    assert work == [partition]
    partition.maintenance.step(LATER)
    assert partition.log.tail.start_offset > 0


def test_it_is_compacted_up_to_the_high_watermark(made: Callable[..., Partition]) -> None:
    partition = made(cleanup_policy="compact")
    partition.high_watermark = 6
    while partition.maintenance.step(LATER) == LATER:
        pass
    records = sum(segment.stats.records for segment in partition.log.tail.segments[:-1])
    assert records < 9
    assert partition.log.cleaned_until <= 6


def test_records_are_deleted_by_the_leader_alone_and_its_log_start_is_followed(made: Callable[..., Partition]) -> None:
    partition = made()
    with pytest.raises(NotLeaderError, match="does not lead t-0"):
        partition.delete_records(4)
    assert follow_log_start(partition, 4) == 4
    assert len(partition.log.tail.segments) == 6
    assert follow_log_start(partition, 3) == 4
    partition.high_watermark = 7
    assert follow_log_start(partition, 9) == 7
    assert partition.log.tail.end_offset == 10


@pytest.mark.parametrize("function", [Partition.follow, Partition._take_role])
def test_a_change_of_leader_that_is_interrupted_at_any_place_is_done_by_the_next_call(
    made: Callable[..., Partition], function: FunctionType
) -> None:
    interrupter = Interrupter(within=function.__code__)

    def append(partition: Partition) -> int:
        return partition.append(AppendRequest([columns.seal(SEED, None, [b"x"], NOW, count=1)]), NOW)

    def follow(partition: Partition, registration: PartitionRegistration) -> bool:
        was_interrupted = interrupter.interrupt(lambda: partition.follow(registration), place)
        partition.follow(registration)
        return was_interrupted

    place, was_interrupted = 0, True
    while was_interrupted:
        place += 1
        partition = made(retention_ms=1000)
        work: list[Partition] = []
        woken: list[bool] = []
        partition.on_work = work.append
        partition.waiters.add(lambda woken=woken: woken.append(True))  # type: ignore[misc]
        was_interrupted = follow(partition, led_by(HERE, 2))
        assert append(partition) == 10
        assert partition.last_epoch() == 2
        assert partition in work
        assert not woken
        was_interrupted |= follow(partition, led_by(THERE, 3))
        with pytest.raises(NotLeaderError, match="in epoch 3"):
            append(partition)
        assert woken
        assert not partition.is_faulty
        follow(partition, led_by(HERE, 4))
        assert append(partition) == 11
        assert partition.last_epoch() == 4
    assert place > 3
