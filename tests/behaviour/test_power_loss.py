"""What a power loss may not do to a log: each of these was found by the replay of a write trace, `tests.stress.crash_states`."""

from __future__ import annotations

import errno
from typing import Any

import pytest

import streamlog
from streamlog.testing import FaultyDisk, ManualClock, SimulatedDisk

BIG = b"." * 700  # two of these fill a segment


@pytest.fixture
def disk() -> SimulatedDisk:
    return SimulatedDisk()


def opened(disk: Any, clock: ManualClock, **options: Any) -> streamlog.StreamLog:
    return streamlog.open("data", disk=disk, clock=clock, segment_bytes=1024, **options)


def values(log: streamlog.StreamLog, topic: str = "t") -> list[Any]:
    return [record.value for record in log[topic].read()]


def test_a_record_is_compacted_away_only_for_one_that_is_on_the_device(disk: SimulatedDisk, clock: ManualClock) -> None:
    with opened(disk, clock) as log:
        table = log.create_topic("t", cleanup_policy="compact", min_cleanable_dirty_ratio=0.01)
        table.send(b"synced" + BIG, key="k")
        table.send(b"other" + BIG, key="o")
        log.sync()
        table.send(b"not synced" + BIG, key="k")
        table.send(b"not synced" + BIG, key="o")
        table.compact()
        after = disk.power_loss()
    with opened(after, clock) as log:
        assert {record.key for record in log["t"].read()} == {b"k", b"o"}


def test_after_a_tear_before_a_roll_the_log_goes_on_where_it_was_torn(disk: SimulatedDisk, clock: ManualClock) -> None:
    with opened(disk, clock) as log:
        topic = log.create_topic("t")
        topic.send(b"synced")
        log.sync()
        for _ in range(3):
            topic.send(b"not synced" + BIG)  # the names of new files are on the device at once, what is in them is not
        after = disk.power_loss()
    with opened(after, clock) as log:
        assert values(log) == [b"synced"]
        log["t"].send(b"next")
    report = streamlog.verify("data", disk=after)
    assert report.ok, report
    with opened(after, clock) as log:
        assert values(log) == [b"synced", b"next"]


def test_a_partition_whose_creation_was_torn_is_made_anew(disk: SimulatedDisk, clock: ManualClock) -> None:
    with opened(disk, clock) as log:
        log.create_topic("first").send(b"kept")
        log.sync()
        start = len(disk.operations)
        log.create_topic("t", partitions=3)
        for _, state in disk.crashes(0, harsh=10, first=start):
            with opened(state, clock) as again:
                assert values(again, "first") == [b"kept"]
                again.create_topic("t", exist_ok=True).send(b"works")
                assert values(again) == [b"works"]


def test_files_are_removed_only_on_the_word_of_a_state_that_is_on_the_device(
    disk: SimulatedDisk, clock: ManualClock
) -> None:
    """The sync of the new log start fails; it is seen at the next open, but that proves nothing."""
    faulty = FaultyDisk(disk)
    sent = [b"%d" % number + BIG for number in range(6)]
    log = opened(faulty, clock)
    topic = log.create_topic("t")
    for value in sent:
        topic.send(value)
    log.sync()
    faulty.fail("sync", errno.EIO, path="*/topics/*/partition.state", times=None)
    with pytest.raises(streamlog.StorageError):
        topic.delete_records({0: 4})
    killed = disk.kill()
    with pytest.raises(streamlog.StorageError):
        log.close()
    with opened(killed, clock) as again:
        seen = values(again)
        after = killed.power_loss()
    with opened(after, clock) as again:
        assert values(again) in (sent[4:], sent, seen)
        assert streamlog.verify("data", disk=after).ok


@pytest.mark.parametrize("nth", range(1, 26))
def test_a_log_is_there_for_good_however_the_first_open_ended(
    disk: SimulatedDisk, clock: ManualClock, nth: int
) -> None:
    faulty = FaultyDisk(disk)
    fault = faulty.fail("write", errno.EIO, nth=nth)
    try:
        streamlog.open("some/where/data", disk=faulty, clock=clock).close()
    except streamlog.StorageError:
        faulty.heal()
    assert fault.fired, "the first open has fewer writes"
    with streamlog.open("some/where/data", disk=faulty, clock=clock) as log:
        log.create_topic("t").send("synced")
        log.sync()
        after = disk.power_loss()
    with streamlog.open("some/where/data", disk=after, clock=clock) as log:
        assert values(log) == [b"synced"]


def refuse_one(faulty: FaultyDisk, log: streamlog.StreamLog) -> None:
    """A write ends half-way on a full disk, and is cut back."""
    faulty.fail("pwrite", errno.ENOSPC, path="*.log", short=19)
    with pytest.raises(streamlog.DiskFullError):
        log["t"].send(b"refused")


def assert_only_what_was_synced(disk: SimulatedDisk, clock: ManualClock) -> None:
    for seed in range(30):  # in some the bytes are on the device, and that they were cut off is not
        after = disk.power_loss(seed)
        report = streamlog.verify("data", disk=after)
        assert report.ok, report
        with opened(after, clock) as log:
            log["t"].send(b"next")
            assert values(log) == [b"synced", b"next"]


@pytest.mark.parametrize("rolls", [False, True])
def test_what_was_cut_back_stays_cut_after_a_clean_close(disk: SimulatedDisk, clock: ManualClock, rolls: bool) -> None:
    faulty = FaultyDisk(disk)
    with opened(faulty, clock, segment_ms=60_000, retention_ms=600_000) as log:
        log.create_topic("t").send(b"synced")
    with opened(faulty, clock, segment_ms=60_000, retention_ms=600_000) as log:
        refuse_one(faulty, log)
        if rolls:
            clock.advance(120)
    assert_only_what_was_synced(disk, clock)


def test_what_a_process_cut_back_before_it_was_killed_stays_cut_after_a_clean_close(
    disk: SimulatedDisk, clock: ManualClock
) -> None:
    faulty = FaultyDisk(disk)
    with opened(faulty, clock) as log:
        log.create_topic("t").send(b"synced")
    with opened(faulty, clock) as log:
        refuse_one(faulty, log)
        killed = disk.kill()
    opened(killed, clock).close()
    assert_only_what_was_synced(killed, clock)
