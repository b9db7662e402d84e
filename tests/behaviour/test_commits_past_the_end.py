"""After a crash that took the end of a log no group stays beyond it: what is sent next is read by all."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from typing import Any

import pytest

import streamlog
from streamlog import TopicPartition
from streamlog.replication.partition import Partition
from streamlog.testing import FaultyDisk, ManualClock, SimulatedDisk
from tests.contents import values
from tests.sampling import Sampled

from .simulated_logs import PATH, T0, groups_directory, opened, read_by_the_group

BEFORE = [b"%d before" % number for number in range(5)]
AFTER = [b"%d after" % number for number in range(3)]


def commit_what_is_not_synced(disk: SimulatedDisk, clock: ManualClock) -> int:
    """Two records are on the device, five are read and committed; how many operations there were before that."""
    with opened(disk, clock) as log:
        topic = log.create_topic("t")
        topic.send_many(BEFORE[:2])
        log.sync()
        topic.send_many(BEFORE[2:])
        with log.consumer("t", group="g") as consumer:
            assert len(consumer.poll()) == 5
            start = len(disk.operations)
    return start


class Lowered(logging.Handler):
    """What was said to be lowered: group, from where, to where."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[tuple[str, int, int]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "had committed offset" in record.msg and isinstance(record.args, tuple):
            group, before, _, _, after, _ = record.args
            self.said.append((str(group), int(str(before)), int(str(after))))


@pytest.fixture
def lowered() -> Iterator[Lowered]:
    handler = Lowered()
    logger = logging.getLogger("streamlog.broker")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def test_a_commit_past_the_end_is_lowered_to_it_with_a_warning(
    clock: ManualClock, lowered: Lowered, sampled: Sampled
) -> None:
    disk = SimulatedDisk()
    start = commit_what_is_not_synced(disk, clock)
    seen = 0
    for name, state in sampled(disk.crashes(12, harsh=12, first=start), 6, full=3):
        lowered.said.clear()
        with opened(state, clock) as log:
            topic = log.create_topic("t", exist_ok=True)
            there = values(log)
            end, at = len(there), log.group("g").committed().get(T0, 0)
            assert at <= end, name
            if lowered.said:
                seen += 1
                ((group, before, after),) = lowered.said
                assert (group, after, at) == ("g", end, end), name
                assert end < before <= 5, name
            topic.send_many(AFTER)
            assert read_by_the_group(log) == [*there[at:], *AFTER], name
        report = streamlog.verify(PATH, disk=state)
        assert report.ok, f"{name}: {report}"
    assert seen


@pytest.mark.slow
def test_the_lowered_commit_is_on_the_device_before_the_first_record(
    clock: ManualClock, lowered: Lowered, sampled: Sampled
) -> None:
    """The recovery, and what is sent after it, crash at every step: a commit never lies past a record of a later life."""
    disk = SimulatedDisk()
    start = commit_what_is_not_synced(disk, clock)
    states, names = 0, []
    for name, state in disk.crashes(3, harsh=3, first=start):
        lowered.said.clear()
        opened(state, clock).close()
        names += [name] * bool(lowered.said)
    for name in sampled(names, 16, full=4):
        state = disk.state(name)
        with opened(state, clock) as log:
            for value in AFTER:
                log["t"].send(value)
            for inner, again in state.crashes(2, harsh=2, kills=True):
                states += 1
                with opened(again, clock) as third:
                    there, at = values(third), third.group("g").committed().get(T0, 0)
                    skipped = [value for value in there[:at] if value in AFTER]
                    assert not skipped, f"{name} {inner}: {at} is committed in {there}"
                    third["t"].send(b"last")
                    assert read_by_the_group(third) == [*there[at:], b"last"], f"{name} {inner}"
    assert states > 10, states


def life_after_a_power_loss(clock: ManualClock) -> FaultyDisk:
    disk = SimulatedDisk()
    with opened(disk, clock) as log:
        topic = log.create_topic("t")
        topic.send_many(BEFORE[:2])
        log.sync()
        topic.send_many(BEFORE[2:])
        log.group("g").reset("t", to="latest")
        file = disk.open(f"{groups_directory(log, disk)}/00000000000000000000.log")
        file.sync()  # the kernel wrote back the file with the commits, and not the one with the records
        file.close()
        return FaultyDisk(disk.power_loss())


def test_every_group_and_partition_is_looked_at_and_others_are_left_alone(clock: ManualClock) -> None:
    disk = SimulatedDisk()
    with opened(disk, clock) as log:
        log.create_topic("t", partitions=3).send_many([b"x"] * 2, partition=0)
        log.create_topic("u").send_many([b"x"] * 2)
        for partition in (1, 2):
            log["t"].send_many([b"x"] * 4, partition=partition)
        log.sync()
        log["t"].send_many([b"lost"] * 3, partition=1)
        log["u"].send_many([b"lost"] * 3)
        log.group("g").reset("t", "u", to="latest")
        log.group("h").reset("t", to={TopicPartition("t", 1): 5, TopicPartition("t", 2): 3})
        file = disk.open(f"{groups_directory(log, disk)}/00000000000000000000.log")
        file.sync()
        file.close()
        after = disk.power_loss()
    t0, t1, t2, u0 = TopicPartition("t", 0), TopicPartition("t", 1), TopicPartition("t", 2), TopicPartition("u", 0)
    with opened(after, clock) as log:
        assert log.group("g").committed() == {t0: 2, t1: 4, t2: 4, u0: 2}
        assert log.group("h").committed() == {t1: 4, t2: 3}


def test_a_commit_keeps_its_note_when_it_is_lowered(clock: ManualClock) -> None:
    disk = SimulatedDisk()
    with opened(disk, clock) as log:
        log.create_topic("t").send_many(BEFORE)
        with log.consumer("t", group="g", enable_auto_commit=False) as consumer:
            consumer.poll()
            consumer.commit({T0: streamlog.OffsetAndMetadata(5, "a note")})
        file = disk.open(f"{groups_directory(log, disk)}/00000000000000000000.log")
        file.sync()
        file.close()
        after = disk.power_loss()
    with opened(after, clock) as log:
        assert log.group("g").offsets() == {T0: streamlog.OffsetAndMetadata(0, "a note")}


@pytest.mark.parametrize("sync", [False, True])
def test_on_a_full_disk_nothing_is_taken_until_the_commit_is_lowered(clock: ManualClock, sync: bool) -> None:
    disk = life_after_a_power_loss(clock)
    full = disk.fail("pwrite", path="*/topics/*.log", times=None)
    with opened(disk, clock, sync=sync) as log:
        assert values(log) == BEFORE[:2]
        assert log.group("g").committed() == {T0: 2}, "as it will be"
        for _ in range(2):
            with pytest.raises(streamlog.DiskFullError, match="past the end that is left") as refused:
                log["t"].send(b"refused")
            assert refused.value.retriable
        with pytest.raises(streamlog.DeliveryError):
            log["t"].send_many([b"refused"] * 2)
        disk.heal(full)
        log["t"].send_many(AFTER)
        assert read_by_the_group(log) == AFTER
    with opened(disk, clock, sync=sync) as log:
        assert log.group("g").committed() == {T0: 5}


def test_a_full_disk_hinders_no_other_partition(clock: ManualClock) -> None:
    disk = life_after_a_power_loss(clock)
    with opened(disk.inner.kill(), clock) as log:  # type: ignore[attr-defined]
        directory = groups_directory(log, disk)
    disk.fail("pwrite", path=f"{directory}/*.log", times=None)
    with opened(disk, clock) as log:
        log.create_topic("u").send(b"taken")
        with pytest.raises(streamlog.DiskFullError):
            log["t"].send(b"refused")
        assert [record.value for record in log["u"].read()] == [b"taken"]


def test_what_could_not_be_lowered_is_lowered_by_the_next_open(clock: ManualClock) -> None:
    disk = life_after_a_power_loss(clock)
    full = disk.fail("pwrite", path="*/topics/*.log", times=None)
    opened(disk, clock).close()
    disk.heal(full)
    with opened(disk, clock) as log:
        assert log.group("g").committed() == {T0: 2}
        log["t"].send_many(AFTER)
        assert read_by_the_group(log) == AFTER


def test_a_commit_whose_lowering_cannot_be_synced_is_lowered_by_the_next_open(clock: ManualClock) -> None:
    disk = life_after_a_power_loss(clock)
    with opened(disk.inner.kill(), clock) as log:  # type: ignore[attr-defined]
        directory = groups_directory(log, disk)
    disk.fail("sync", errno.EIO, path=f"{directory}/*.log")
    log = opened(disk, clock)
    for _ in range(2):
        with pytest.raises(streamlog.StorageError, match="Lowering its commit failed"):
            log["t"].send(b"refused")
    assert values(log) == BEFORE[:2]
    with pytest.raises(streamlog.PoisonedLogError):
        log.close()
    with opened(disk, clock) as log:
        assert log.group("g").committed() == {T0: 2}
        log["t"].send_many(AFTER)
        assert read_by_the_group(log) == AFTER


def test_a_log_that_was_closed_is_opened_without_a_look_at_its_commits(clock: ManualClock) -> None:
    disk = FaultyDisk(SimulatedDisk())
    with opened(disk, clock) as log:
        log.create_topic("t").send_many(BEFORE)
        with log.consumer("t", group="g", enable_auto_commit=False) as consumer:
            consumer.poll()
            consumer.commit({T0: 1000})
        directory = groups_directory(log, disk)
    disk.calls.clear()
    with opened(disk, clock) as log:
        assert [
            call
            for call in disk.calls
            if call[0] == "pread" and call[1].startswith(directory) and call[1].endswith("log")
        ] == []
        assert log.group("g").committed() == {T0: 1000}, "what somebody chose to commit stays"


def test_a_damaged_topic_of_commits_keeps_no_record_out(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    disk = SimulatedDisk()
    with opened(disk, clock) as log:
        log.create_topic("t").send_many(BEFORE)
        log.group("g").reset("t", to="latest")
        log.group("h").reset("t", to="latest")
        log.sync()
        file = disk.open(f"{groups_directory(log, disk)}/00000000000000000000.log")
        file.pwrite([b"?"], file.size() // 4)
        file.close()
        after = disk.kill()
    with opened(after, clock) as log:
        assert "could not be compared with the ends of the logs" in caplog.text
        log["t"].send(b"next")
        with pytest.raises(streamlog.CorruptRecordError):
            log.group("g").committed()


def test_a_member_goes_on_behind_what_was_lost(clock: ManualClock) -> None:
    after = life_after_a_power_loss(clock)
    with opened(after, clock) as log, log.consumer("t", group="g") as consumer:
        assert consumer.poll() == []
        assert consumer.position(T0) == 2
        log["t"].send_many(AFTER)
        polled: list[Any] = [record.value for record in consumer.poll()]
        assert polled == AFTER


def test_a_topic_made_anew_is_not_held_to_the_end_of_the_former_one(clock: ManualClock) -> None:
    disk = life_after_a_power_loss(clock)
    full = disk.fail("pwrite", path="*/topics/*.log", times=None)
    with opened(disk, clock) as log:
        assert log.group("g").committed() == {T0: 2}
        disk.heal(full)
        log.delete_topic("t")
        log.create_topic("t").send_many([*BEFORE, *AFTER])
        log.create_topic("u")
        log.group("g").reset("t", to={T0: 7})
        assert log.group("g").committed() == {T0: 7}
        once = disk.fail("pwrite", path="*/topics/*.log")
        log["u"].send(b"what was refused may be settled now, so it is sent again")
        assert once.fired
        assert log.group("g").committed() == {T0: 7}
        assert read_by_the_group(log) == AFTER[2:]
    with opened(disk, clock) as log:
        assert log.group("g").committed() == {T0: 8}


def test_two_senders_may_find_at_once_that_commits_are_lowered(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = life_after_a_power_loss(clock)
    full = disk.fail("pwrite", path="*/topics/*.log", times=None)
    with opened(disk, clock) as log:
        disk.heal(full)
        service: Any = log._engine.service
        unblock = Partition.unblock

        def overtaken(self: Partition, error: streamlog.StreamlogError) -> None:
            monkeypatch.setattr(Partition, "unblock", unblock)
            assert service._may_append()  # another thread, from beginning to end
            unblock(self, error)

        monkeypatch.setattr(Partition, "unblock", overtaken)
        log["t"].send(b"next")
        assert values(log) == [*BEFORE[:2], b"next"]
