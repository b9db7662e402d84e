"""Whatever call of the disk fails, and however: a typed error, an intact log, and work that goes on afterwards.

`tests/stress/failing_calls.py` has the program that meets the faults and what is checked of it; here a random part of
them, `python -m tests.stress.failing_calls` takes them all.
"""

from __future__ import annotations

import errno
import random
import subprocess
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

import streamlog
from streamlog import DiskFullError, PoisonedLogError, StorageError, StreamlogError
from streamlog.testing import FaultyDisk, ManualClock, SimulatedDisk
from tests.contents import values
from tests.sampling import Sampled
from tests.stress.failing_calls import ERRORS, cases, clean_run


@pytest.fixture
def machine() -> SimulatedDisk:
    return SimulatedDisk()


@pytest.fixture
def disk(machine: SimulatedDisk) -> FaultyDisk:
    return FaultyDisk(machine)


@pytest.fixture
def log(disk: FaultyDisk, clock: ManualClock) -> streamlog.StreamLog:
    return streamlog.open("data", disk=disk, clock=clock)


def reopened(log: streamlog.StreamLog, disk: FaultyDisk, clock: ManualClock) -> streamlog.StreamLog:
    with suppress(PoisonedLogError):
        log.close()
    return streamlog.open("data", disk=disk, clock=clock)


# Any call


@pytest.mark.slow
@pytest.mark.parametrize("forever", [False, True], ids=["once", "for a while"])
@pytest.mark.parametrize("sync", [False, True], ids=["plain", "sync"])
def test_whatever_call_fails_ends_in_a_typed_error_and_an_intact_log(
    sync: bool, forever: bool, rng: random.Random, sampled: Sampled
) -> None:
    every = list(cases(rng.randrange(2**32), sync=sync, forever=forever))
    for case in sampled(every, len(every) // 15, full=len(every) // 30):
        case.run()


@pytest.mark.slow
@pytest.mark.parametrize("forever", [False, True], ids=["once", "for a while"])
@pytest.mark.parametrize("sync", [False, True], ids=["plain", "sync"])
def test_a_call_that_fails_under_one_of_three_brokers_refuses_no_record(
    sync: bool, forever: bool, rng: random.Random, sampled: Sampled
) -> None:
    every = list(cases(rng.randrange(2**32), sync=sync, forever=forever, brokers=3))
    for case in sampled(every, len(every) // 5, full=len(every) // 10):
        case.run()


def test_the_program_that_meets_the_faults_makes_every_kind_of_call() -> None:
    assert {op for op, _ in clean_run(True)} == set(ERRORS)


def test_a_read_that_fails_while_a_log_is_opened_is_an_error_of_storage_not_of_the_format(
    disk: FaultyDisk, log: streamlog.StreamLog, clock: ManualClock
) -> None:
    """FormatError says that the directory is no log, or a damaged one: nothing says so but the disk."""
    with log:
        log.create_topic("t").send("a").result()
    paths = set()
    for nth in count(1):
        fault = disk.fail("read", errno.EIO, nth=nth)
        try:
            log = streamlog.open("data", disk=disk, clock=clock)
        except StorageError as error:
            assert error.errno == errno.EIO
            assert error.path is not None
            paths.add(error.path.rpartition("/")[2])
            log = streamlog.open("data", disk=disk, clock=clock)
        disk.heal(fault)
        with log:
            assert values(log) == [b"a"]
        if not fault.fired:
            break
    assert "streamlog.json" in paths


# A full disk


@pytest.mark.parametrize("sync", [False, True], ids=["plain", "sync"])
def test_a_disk_that_is_full_at_any_byte_of_a_roll_loses_nothing_and_goes_on_when_there_is_room(
    machine: SimulatedDisk, disk: FaultyDisk, clock: ManualClock, sync: bool
) -> None:
    log = streamlog.open("data", disk=disk, clock=clock, sync=sync)
    topic = log.create_topic("t", segment_bytes=1024)
    sent: list[bytes] = []
    refused = 0
    topic.send(b"first" * 120).result()
    for room in range(10_000):
        value = b"%d." % room * 120
        disk.capacity = disk.used + room
        try:
            topic.send(value).result()
        except DiskFullError:
            refused += 1
        else:
            sent.append(value)
            break
        finally:
            disk.capacity = None
        assert topic.send(value).result().offset == room + 1
        sent.append(value)
    assert refused > 500, "the last of these rolls did not write its record byte by byte"
    assert [record.offset for record in topic.read()] == [*range(len(sent) + 1)]
    assert values(log)[1:] == sent
    killed = machine.kill()
    log.close()
    for left in (killed, disk):
        with streamlog.open("data", disk=left, clock=clock) as log:
            assert values(log)[1:] == sent
        assert streamlog.verify("data", disk=left).ok


def test_closing_and_opening_work_on_a_full_disk(
    disk: FaultyDisk, log: streamlog.StreamLog, clock: ManualClock
) -> None:
    topic = log.create_topic("t", segment_bytes=1024)
    for n in range(5):
        topic.send(b"%d" % n * 600)
    everything = values(log)
    disk.capacity = disk.used
    for _ in range(2):
        log = reopened(log, disk, clock)
        assert values(log) == everything
        with pytest.raises(DiskFullError):
            log["t"].send(b"x" * 600)
    disk.capacity = None
    log["t"].send(b"x").result()
    log.close()
    assert streamlog.verify("data", disk=disk).ok


def test_a_file_that_may_not_grow_refuses_records_and_goes_on_when_it_may(
    path: Path, run_script: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = run_script(
        """
        import resource, sys, streamlog
        log = streamlog.open(sys.argv[1])
        topic = log.create_topic("t")
        sent = []
        def send_until_refused():
            while True:
                value = b"%d." % len(sent) * 200
                topic.send(value).result()
                sent.append(value)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_001, resource.RLIM_INFINITY))
        try:
            send_until_refused()
        except streamlog.DiskFullError as error:
            print(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        topic.send(b"there is room").result()
        assert [record.value for record in topic.read()] == [*sent, b"there is room"]
        assert len(sent) > 20
        log.close()
        assert streamlog.verify(sys.argv[1]).ok
        """,
        path,
    )
    assert done.returncode == 0, done.stderr
    assert "size limit" in done.stdout


# A sync that fails


def failing_sync(disk: FaultyDisk, clock: ManualClock) -> streamlog.StreamLog:
    """A log whose topic `t` holds one durable record and one whose sync failed."""
    log = streamlog.open("data", disk=disk, clock=clock, sync=True)
    log.create_topic("other")
    topic = log.create_topic("t")
    topic.send(b"durable").result()
    disk.fail("sync", errno.EIO, path="*.log")
    with pytest.raises(StreamlogError):
        topic.send(b"lost?").result()
    return log


def test_a_failed_sync_poisons_its_partition_alone_until_it_is_opened_again(
    disk: FaultyDisk, clock: ManualClock
) -> None:
    log = failing_sync(disk, clock)
    for _ in range(3):
        with pytest.raises(PoisonedLogError, match="sync"):
            log["t"].send(b"refused").result()
    log["other"].send(b"fine").result()
    assert values(log) == [b"durable"]
    log = reopened(log, disk, clock)
    log["t"].send(b"goes on").result()
    assert values(log) in ([b"durable", b"goes on"], [b"durable", b"lost?", b"goes on"])
    log.close()


def test_a_failed_sync_is_never_tried_again_on_the_same_file(disk: FaultyDisk, clock: ManualClock) -> None:
    log = failing_sync(disk, clock)
    failed = [path for op, path in disk.calls if op == "sync"][-1]
    before = len(disk.calls)
    with pytest.raises(PoisonedLogError):
        log["t"].send(b"refused").result()
    with pytest.raises(PoisonedLogError):
        log.sync()
    clock.advance(60)
    assert ("sync", failed) not in disk.calls[before:]
    assert ("pwrite", failed) not in disk.calls[before:]
    with pytest.raises(PoisonedLogError):  # closed all the same
        log.close()
    assert ("sync", failed) not in disk.calls[before:]
    assert log.closed


@pytest.mark.slow
@pytest.mark.parametrize("error", [errno.EIO, errno.EMFILE, errno.ENOSPC], ids=errno.errorcode.get)
def test_a_close_that_failed_is_recovered_from_as_a_crash_is(clock: ManualClock, error: int) -> None:
    for nth in range(1, 60):
        machine = SimulatedDisk(nth)
        disk = FaultyDisk(machine)
        log = streamlog.open("data", disk=disk, clock=clock)
        topic = log.create_topic("t", segment_bytes=1024)
        sent = [b"%d" % n * 500 for n in range(5)]
        for value in sent:
            topic.send(value).result()
        fault = disk.fail("any", error, nth=nth)
        with suppress(StreamlogError):
            log.close()
        if not fault.fired:
            break
        for choice in ("strict", "lax", 0, 1):
            left = machine.power_loss(choice)
            with streamlog.open("data", disk=left, clock=clock) as after:
                if "t" in after:
                    found = values(after)
                    assert found == sent[: len(found)], f"{fault}, {choice}"
                    assert after["t"].send(b"next").result().offset == len(found), f"{fault}, {choice}"
            report = streamlog.verify("data", disk=left)
            assert report.ok, f"{fault}, {choice}: {report}"
    assert nth > 10, "close makes more calls than these"


def test_after_a_failed_sync_and_a_power_loss_what_was_acknowledged_is_there(
    machine: SimulatedDisk, disk: FaultyDisk, clock: ManualClock
) -> None:
    log = failing_sync(disk, clock)
    for left in (machine.power_loss(), machine.power_loss("lax"), machine.kill()):
        with streamlog.open("data", disk=left, clock=clock, sync=True) as after:
            assert values(after)[0] == b"durable"
            after["t"].send(b"goes on").result()
            again = left.power_loss()
        with streamlog.open("data", disk=again, clock=clock) as last:
            assert values(last)[0] == b"durable"
            assert values(last)[-1] == b"goes on", "what a failed sync left is not on the device, read it back or not"
    with suppress(PoisonedLogError):
        log.close()


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE], ids=errno.errorcode.get)
def test_too_many_open_files_raise_an_error_that_says_so(
    log: streamlog.StreamLog, disk: FaultyDisk, error: int
) -> None:
    disk.fail("create", error, path="*/topics/*")
    with pytest.raises(StorageError, match="descriptor") as raised:
        log.create_topic("t")
    assert "permissions" not in str(raised.value)
    log.create_topic("t").send(b"goes on").result()
    log.close()


# A disk that cannot be read


def test_a_read_error_under_a_mapping_is_a_typed_error_and_the_record_is_read_later(
    disk: FaultyDisk, log: streamlog.StreamLog
) -> None:
    topic = log.create_topic("t", segment_bytes=1024)
    for n in range(5):
        topic.send(b"%d" % n * 600)
    everything = values(log)
    fault = disk.fail("map_read", errno.EIO)
    with pytest.raises(StorageError, match=r"\.log") as raised:
        values(log)
    assert fault.fired == 1
    assert raised.value.errno == errno.EIO
    assert values(log) == everything
    log.close()


@pytest.mark.parametrize("error", [errno.ENOMEM, errno.EMFILE, errno.EIO], ids=errno.errorcode.get)
def test_a_segment_that_cannot_be_mapped_is_a_typed_error_or_read_in_another_way(
    disk: FaultyDisk, log: streamlog.StreamLog, error: int
) -> None:
    topic = log.create_topic("t", segment_bytes=1024)
    for n in range(5):
        topic.send(b"%d" % n * 600)
    fault = disk.fail("map", error, times=None)
    try:
        assert len(values(log)) == 5
    except StreamlogError as raised:
        assert isinstance(raised, StorageError), raised
    disk.heal(fault)
    assert len(values(log)) == 5
    log.close()
