"""What a power loss may not do to a log: each of these was found by the replay of a write trace, `tests.stress.crash_states`."""

from __future__ import annotations

import errno
import json
from typing import Any

import pytest

import streamlog
from streamlog.testing import FaultyDisk, ManualClock, SimulatedDisk
from tests.contents import values
from tests.sampling import Sampled

BIG = b"." * 700  # two of these fill a segment


@pytest.fixture
def disk() -> SimulatedDisk:
    return SimulatedDisk()


def opened(disk: Any, clock: ManualClock, **options: Any) -> streamlog.StreamLog:
    return streamlog.open("data", disk=disk, clock=clock, segment_bytes=1024, **options)


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


@pytest.mark.slow
def test_what_compaction_left_is_never_taken_for_lost_however_it_was_interrupted(
    disk: SimulatedDisk, clock: ManualClock, sampled: Sampled
) -> None:
    """The topic is not compacted any more: then a hole in a segment is damage, unless a compaction is known to have been."""
    with opened(disk, clock) as log:
        table = log.create_topic("t", cleanup_policy="compact", min_cleanable_dirty_ratio=0.01)
        for number in range(9):  # several to a segment, or each of them would be its segment's last, which stays
            table.send(b"%d" % number * 200, key=f"k{number % 2}")
        log.sync()
        start = len(disk.operations)
        table.compact()
        assert [record.offset for record in table.read()] == [7, 8]
        log.delete_topic("t")  # what was left to be written unsynced is
        end = len(disk.operations)
    judged = 0
    for name, state in sampled(disk.crashes(2, harsh=1, first=start, last=end), 4):
        with opened(state, clock) as log:
            if "t" not in log:
                continue
            log["t"].update_config(cleanup_policy="delete")
            found = {record.offset for record in log["t"].read()}
        report = streamlog.verify("data", disk=state)
        assert report.ok, f"{name}: {report}"
        assert not streamlog.repair("data", "copy", disk=state).problems, name
        with opened(state, clock) as log:
            assert {record.offset for record in log["t"].read()} == found >= {7, 8}
        judged += 1
    assert judged > 10


@pytest.mark.parametrize("left", ["state", "nothing"])
def test_a_copy_of_a_compacted_log_is_whole_once_it_is_no_longer_compacted(
    disk: SimulatedDisk, clock: ManualClock, left: str
) -> None:
    with opened(disk, clock) as log:
        table = log.create_topic("t", cleanup_policy="compact", min_cleanable_dirty_ratio=0.01)
        for number in range(9):
            table.send(b"%d" % number * 200, key=f"k{number % 2}")
        table.compact()
    if (
        left == "nothing"
    ):  # no slot of the state verifies, so where the log starts is not known, nor that it was compacted
        directory = next(name for name in disk.listdir("/data/topics"))
        disk.open(f"/data/topics/{directory}/partition.state").pwrite([b"?" * 8192], 0)
    streamlog.repair("data", "copy", disk=disk)
    with streamlog.open("copy", disk=disk, clock=clock) as log:
        log["t"].update_config(cleanup_policy="delete")
    report = streamlog.verify("copy", disk=disk)
    assert report.ok, report


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


@pytest.mark.slow
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
    faulty.fail("pwrite", errno.ENOSPC, path="*/topics/*.log", short=19)
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


def left_by(disk: SimulatedDisk, clock: ManualClock) -> None:
    """A log that was closed, all of it on the device."""
    with streamlog.open("data", disk=disk, clock=clock, segment_bytes=1024) as log:
        log.create_topic("t").send(b"before" * 100)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_what_is_appended_is_never_taken_for_damage_of_a_log_that_was_closed(clock: ManualClock, error: int) -> None:
    """Whichever write of an open fails, what says that the log is in use is on the device before the first append."""
    outcomes = set()
    for nth in range(1, 40):
        machine = SimulatedDisk()
        left_by(machine, clock)
        disk = FaultyDisk(machine)
        fault = disk.fail("write", error, nth=nth)
        try:
            log = streamlog.open("data", disk=disk, clock=clock)
        except streamlog.StreamlogError:
            outcomes.add("refused")
            continue
        outcomes.add("opened" if fault.fired else "no fault")
        disk.heal()
        assert json.loads(machine.power_loss().read("/data/streamlog.json"))["clean"] is False, fault
        for _ in range(4):
            log["t"].send(b"after" * 200)
        for choice in ("strict", "lax", *range(8)):
            after = machine.power_loss(choice)
            with streamlog.open("data", disk=after, clock=clock) as again:
                assert next(iter(again["t"].read())).value == b"before" * 100, (fault, choice)
            assert streamlog.verify("data", disk=after).ok, (fault, choice)
        log.close()
        if not fault.fired:
            break
    assert outcomes >= {"refused", "no fault"}
    assert (error == errno.EIO) or "opened" in outcomes, "a full disk is no reason to refuse"


def test_on_a_disk_that_stays_full_a_log_opens_marked_and_closes_marked(clock: ManualClock) -> None:
    """The owner file is overwritten where it lies, which takes no room."""
    machine = SimulatedDisk()
    left_by(machine, clock)
    disk = FaultyDisk(machine)
    disk.capacity = disk.used
    log = streamlog.open("data", disk=disk, clock=clock)
    assert json.loads(machine.power_loss().read("/data/streamlog.json"))["clean"] is False
    log.close()
    assert json.loads(machine.power_loss().read("/data/streamlog.json"))["clean"] is True
