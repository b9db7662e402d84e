"""A log whose sync failed, opened again where there is no room to write anew what is not known to be on the device.

What is known to be there is readable; where more may have been acknowledged, a read beyond it raises; and no group is
set back.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

import pytest

import streamlog
from streamlog import OffsetAndMetadata, PoisonedLogError
from streamlog.testing import FaultyDisk, ManualClock, SimulatedDisk
from tests.contents import values

from .simulated_logs import PATH, T0, groups_directory, opened


@pytest.fixture
def machine() -> SimulatedDisk:
    return SimulatedDisk()


def directory_of(log: streamlog.StreamLog, topic: str = "t") -> str:
    return f"{PATH}/topics/{log[topic].id.hex}-0"


def handled_one(disk: Any, clock: ManualClock, **options: Any) -> streamlog.StreamLog:
    """A record was acknowledged, read by a group, and committed."""
    log = opened(disk, clock, **options)
    log.create_topic("t").send(b"0")
    with log.consumer("t", group="g") as consumer:
        assert len(consumer.poll()) == 1
    assert log.group("g").committed() == {T0: 1}
    return log


def close(log: streamlog.StreamLog) -> None:
    with pytest.raises(streamlog.StreamlogError):
        log.close()


def read(log: streamlog.StreamLog) -> Iterator[bytes]:
    for record in log["t"].read():
        yield record.value


def fill(disk: FaultyDisk, directory: str) -> None:
    """No more room for a byte there."""
    disk.fail("pwrite", errno.ENOSPC, path=f"{directory}/*", times=None)


def test_what_was_acknowledged_is_readable_and_no_commit_goes_back(machine: SimulatedDisk, clock: ManualClock) -> None:
    disk = FaultyDisk(machine)
    log = handled_one(disk, clock, sync=True)
    directory = directory_of(log)
    disk.fail("sync", errno.EIO, path=f"{directory}/*.log")
    with pytest.raises(PoisonedLogError):
        log["t"].send(b"1")
    close(log)
    fill(disk, directory)
    for _ in range(2):
        log = opened(disk, clock, sync=True)
        assert values(log) == [b"0"]
        assert log["t"].partition(0).high_watermark == 1
        with log.consumer("t", group="g") as consumer:
            assert consumer.poll() == []
            assert consumer.position(T0) == 1
        assert log.group("g").committed() == {T0: 1}
        with pytest.raises(PoisonedLogError, match="free space"):
            log["t"].send(b"2")
        close(log)
    disk.heal()
    with opened(disk, clock, sync=True) as log:
        assert values(log) == [b"0", b"1"]
        assert log["t"].send(b"2").result().offset == 2
        assert log.group("g").committed() == {T0: 1}


def test_reading_raises_where_it_is_not_known_what_was_acknowledged(machine: SimulatedDisk, clock: ManualClock) -> None:
    """The process is killed, and it is the sync of the next open that fails."""
    log = handled_one(machine, clock, sync=True)
    directory = directory_of(log)
    disk = FaultyDisk(machine.kill())
    disk.fail("sync", errno.EIO, path=f"{directory}/*.log")
    for attempt in range(2):
        log = opened(disk, clock, sync=True)
        with pytest.raises(PoisonedLogError):
            list(read(log))
        with log.consumer("t", group="g") as consumer:
            with pytest.raises(PoisonedLogError):
                consumer.poll()
            with pytest.raises(PoisonedLogError):
                consumer.offsets_for_times({T0: clock.time_ms()})
            assert consumer.position(T0) == 1
        assert log.group("g").committed() == {T0: 1}, attempt
        close(log)
        fill(disk, directory)
    disk.heal()
    with opened(disk, clock, sync=True) as log:
        assert values(log) == [b"0"]
        assert log.group("g").committed() == {T0: 1}


@pytest.mark.parametrize("between", [False, True])
def test_records_that_counted_without_a_sync_are_not_left_out_in_silence(
    machine: SimulatedDisk, clock: ManualClock, between: bool
) -> None:
    disk = FaultyDisk(machine)
    log = handled_one(disk, clock)
    log.sync()
    directory = directory_of(log)
    log["t"].send_many([b"1", b"2"])
    disk.fail("sync", errno.EIO, path=f"{directory}/*.log")
    with pytest.raises(PoisonedLogError):
        log.sync()
    close(log)
    fill(disk, directory)
    if between:
        log = opened(disk, clock)
        assert values(log) == [b"0", b"1", b"2"], "as before: without sync=True all that was sent counts"
        close(log)
    log = opened(disk, clock, sync=True)
    seen: list[bytes] = []
    with pytest.raises(PoisonedLogError):
        seen.extend(read(log))
    assert seen == [b"0"], "what is known to be on the device"
    close(log)
    disk.heal()
    with opened(disk, clock, sync=True) as log:
        assert values(log) == [b"0", b"1", b"2"]


def test_a_reader_that_was_further_without_a_sync_is_not_set_back(machine: SimulatedDisk, clock: ManualClock) -> None:
    disk = FaultyDisk(machine)
    with handled_one(disk, clock, sync=True) as log:
        directory = directory_of(log)
    log = opened(disk, clock, sync=True)
    disk.fail("sync", errno.EIO, path=f"{directory}/*.log")
    with pytest.raises(PoisonedLogError):
        log["t"].send(b"1")
    close(log)
    fill(disk, directory)
    log = opened(disk, clock)
    with log.consumer("t", group="g", enable_auto_commit=False) as consumer:
        assert [record.value for record in consumer.poll()] == [b"1"]
        consumer.commit()
    close(log)
    log = opened(disk, clock, sync=True)
    assert log.group("g").committed() == {T0: 2}
    with log.consumer("t", group="g") as consumer, pytest.raises(PoisonedLogError):
        consumer.poll()
    assert log.group("g").committed() == {T0: 2}
    close(log)


def test_commits_that_are_known_to_be_on_the_device_count(machine: SimulatedDisk, clock: ManualClock) -> None:
    disk = FaultyDisk(machine)
    log = handled_one(disk, clock, sync=True)
    log.sync()  # the leave of the consumer too, which its close does not wait for
    directory = groups_directory(log, disk)
    disk.fail("sync", errno.EIO, path=f"{directory}/*.log")
    with pytest.raises(PoisonedLogError):
        log.group("g").reset("t", to="earliest")
    close(log)
    fill(disk, directory)
    log = opened(disk, clock, sync=True)
    assert log.group("g").committed() == {T0: 1}
    with pytest.raises(PoisonedLogError):
        log.group("g").reset("t", to="earliest")
    close(log)
    disk.heal()
    with opened(disk, clock, sync=True) as log:
        assert log.group("g").committed() in ({T0: 1}, {T0: 0})


def test_no_group_is_served_while_its_last_commits_may_be_among_what_cannot_be_read(
    machine: SimulatedDisk, clock: ManualClock
) -> None:
    log = handled_one(machine, clock, sync=True)
    directory = groups_directory(log, machine)
    disk = FaultyDisk(machine.kill())
    disk.fail("sync", errno.EIO, path=f"{directory}/*.log")
    for _ in range(2):
        log = opened(disk, clock, sync=True)
        with pytest.raises(PoisonedLogError):
            log.group("g").committed()
        with pytest.raises(PoisonedLogError), log.consumer("t", group="g") as consumer:
            consumer.poll()
        log["t"].send(b"no record of this one was lost")
        clock.advance(3600)
        close(log)
        fill(disk, directory)
    disk.heal()
    with opened(disk, clock, sync=True) as log:
        assert log.group("g").committed() == {T0: 1}


def test_after_a_restart_of_the_machine_nothing_has_to_be_written_anew(
    machine: SimulatedDisk, clock: ManualClock
) -> None:
    disk = FaultyDisk(machine)
    log = handled_one(disk, clock, sync=True)
    disk.fail("sync", errno.EIO, path=f"{directory_of(log)}/*.log")
    with pytest.raises(PoisonedLogError):
        log["t"].send(b"1")
    close(log)
    for choice in ("strict", "lax", 1, 2, 3):
        again = FaultyDisk(machine.power_loss(choice))
        again.fail("create", errno.ENOSPC, path="*.tmp", times=None)
        with opened(again, clock, sync=True) as log:
            assert values(log) == [b"0"]
            assert log["t"].send(b"2").result().offset == 1
            assert log.group("g").committed() == {T0: 1}
        with opened(again.inner.power_loss(), clock) as log:  # type: ignore[attr-defined]
            assert values(log) == [b"0", b"2"]


def test_a_partition_that_lost_records_takes_none_while_commits_cannot_be_read(
    machine: SimulatedDisk, clock: ManualClock
) -> None:
    """The page cache lost what was read of one partition, and the commits of it cannot be written anew."""
    log = handled_one(machine, clock)
    log.create_topic("u").send(b"u")
    directory, groups = directory_of(log), groups_directory(log, machine)
    log["t"].send_many([b"1", b"2"])
    log.group("g").reset("t", to={T0: 3})
    name = f"{groups}/00000000000000000000.log"
    file = machine.open(name)
    file.sync()
    file.close()
    disk = FaultyDisk(machine.power_loss())
    disk.fail("sync", errno.EIO, path=name)
    log = opened(disk, clock, sync=True)
    assert log["t"].partition(0).log_end_offset < 3, directory
    with pytest.raises(streamlog.StorageError, match="takes no records yet"):
        log["t"].send(b"would be skipped")
    close(log)
    disk.heal()
    with opened(disk, clock, sync=True) as log:
        end = log["t"].partition(0).log_end_offset
        assert log.group("g").offsets() == {T0: OffsetAndMetadata(end)}


def look_at(log: streamlog.StreamLog, nth: int) -> int:
    """All that is there is read, or an error says why it is not; how often one did."""
    refused = 0
    seen: list[bytes] = []
    try:
        seen.extend(read(log))
        assert seen[:1] == [b"0"], nth
    except streamlog.StreamlogError:
        refused += 1
        assert seen in ([], [b"0"]), nth
    try:
        with log.consumer("t", group="g") as consumer:
            consumer.poll()
    except streamlog.StreamlogError:
        refused += 1
    try:
        assert log.group("g").committed()[T0] >= 1, nth
    except streamlog.StreamlogError:
        refused += 1
    try:
        log.close()
    except streamlog.StreamlogError:
        refused += 1
    return refused


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, None])
@pytest.mark.parametrize("op", ["pwrite", "create", "write", "sync_dir", "rename"])
def test_no_want_of_room_at_any_call_of_an_open_hides_records_or_sets_a_group_back(
    machine: SimulatedDisk, clock: ManualClock, op: str, times: int | None
) -> None:
    before = FaultyDisk(machine)
    log = handled_one(before, clock, sync=True)
    before.fail("sync", errno.EIO, path=f"{directory_of(log)}/*.log")
    with pytest.raises(PoisonedLogError):
        log["t"].send(b"1")
    left = machine.kill()
    close(log)
    refused = nth = 0
    while True:
        nth += 1
        disk = FaultyDisk(left.kill())
        fault = disk.fail(op, errno.ENOSPC, nth=nth, times=times)
        try:
            log = opened(disk, clock, sync=True)
        except streamlog.StreamlogError:
            refused += 1
        else:
            refused += look_at(log, nth)
        if not fault.fired:
            break
        disk.heal()
        with opened(disk, clock, sync=True) as log:
            assert values(log) == [b"0", b"1"], nth
            assert log.group("g").committed()[T0] >= 1, nth
    assert nth > 1
