"""The owner file: how a directory was left, also on a full disk, and that nothing of a closed log is missing."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog.errors import CorruptRecordError, DiskFullError, FormatError
from streamlog.testing import FaultyDisk, ManualClock, SimulatedDisk
from tests.times import LONG

OpenLog = Callable[..., streamlog.StreamLog]


def owner_of(disk: Any, path: str = "/data") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(disk.read(f"{path}/streamlog.json"))
    return found


def filled(disk: Any, clock: ManualClock, *, close: bool = True) -> streamlog.StreamLog:
    log = streamlog.open("data", disk=disk, clock=clock)
    log.create_topic("t", segment_bytes=1024)
    for n in range(12):
        log["t"].send(b"%d" % n * 200)
    if close:
        log.close()
    return log


def values_of(log: streamlog.StreamLog) -> list[Any]:
    return [record.value for record in log["t"].read()]


# The first open


def test_a_first_open_that_a_crash_cut_short_is_begun_again(clock: ManualClock) -> None:
    """Whatever subset of the directory's new names is there after it."""
    machine = SimulatedDisk()
    streamlog.open("data", disk=machine, clock=clock).close()
    states = 0
    for _, left in machine.crashes(4, harsh=8):
        with streamlog.open("data", disk=left, clock=clock) as log:
            assert list(log) == []
        states += 1
    assert states > 100


@pytest.mark.parametrize("key", ["cluster_id", "broker_id", "incarnation", "boot_id", "clean"])
@pytest.mark.parametrize("damaged", ["lost", "of another type"])
def test_an_owner_file_without_one_of_its_values_is_damaged(clock: ManualClock, key: str, damaged: str) -> None:
    disk = SimulatedDisk()
    filled(disk, clock)
    owner = owner_of(disk)
    del owner[key]
    if damaged == "of another type":
        owner[key] = None
    disk.write_atomic("/data/streamlog.json", json.dumps(owner).encode())
    with pytest.raises(FormatError, match="cannot be understood"):
        streamlog.open("data", disk=disk, clock=clock)


@pytest.mark.parametrize("epoch", ["x", None, 1.5, [], True, -1, 2**31 - 1, 2**31 - 1000, 2**62])
def test_a_broker_whose_owner_file_has_an_impossible_metadata_epoch_does_not_run(
    clock: ManualClock, epoch: object
) -> None:
    disk = SimulatedDisk()
    with streamlog.open("data", brokers=3, disk=disk, clock=clock) as log:
        log.create_topic("t").send("x").result()
    path = "/data/broker-0/streamlog.json"
    owner = {**json.loads(disk.read(path)), "metadata_epoch": epoch}
    disk.write_atomic(path, json.dumps(owner).encode())
    with streamlog.open("data", disk=disk, clock=clock) as log:
        assert [broker.running for broker in log.brokers] == [False, True, True]
        log["t"].send("y").result()
        assert [record.value for record in log["t"].read()] == [b"x", b"y"]


# A full disk


@pytest.mark.parametrize("how", ["closed", "killed", "power lost"])
def test_a_full_disk_keeps_no_log_from_being_opened_read_and_closed(clock: ManualClock, how: str) -> None:
    machine = SimulatedDisk()
    log = filled(machine, clock, close=how == "closed")
    if how != "closed":
        machine = machine.kill() if how == "killed" else machine.power_loss("lax")
    for round_ in range(3):
        disk = FaultyDisk(machine)
        disk.capacity = disk.used
        log = streamlog.open("data", disk=disk, clock=clock)
        assert values_of(log) == [b"%d" % n * 200 for n in range(12 + round_)]
        with pytest.raises(DiskFullError):
            log["t"].send(b"no room for this")
        disk.capacity = None
        log["t"].send(b"%d" % (12 + round_) * 200)
        disk.capacity = disk.used
        log.close()
        assert owner_of(machine)["clean"] is True
        assert streamlog.verify("data", disk=machine).ok


def test_on_a_full_disk_the_owner_file_is_overwritten_where_it_lies(clock: ManualClock) -> None:
    machine = SimulatedDisk()
    filled(machine, clock)
    assert len(machine.read("/data/streamlog.json")) == 512
    disk = FaultyDisk(machine)
    disk.capacity = disk.used
    first = len(machine.operations)
    log = streamlog.open("data", disk=disk, clock=clock)
    for name, state in machine.crashes(random=2, harsh=2, first=first):
        found = owner_of(state)
        assert (found["incarnation"], found["clean"]) in [(1, True), (2, False)], name
    log.close()
    assert owner_of(machine)["clean"]
    assert len(machine.read("/data/streamlog.json")) == 512


@pytest.mark.parametrize("opens", [1, 9])
def test_an_owner_file_whose_overwriting_stopped_half_way_is_as_it_was(clock: ManualClock, opens: int) -> None:
    """Also where a number has one digit more than before."""
    machine = SimulatedDisk()
    filled(machine, clock)
    for _ in range(opens - 1):
        streamlog.open("data", disk=machine, clock=clock).close()
    before = owner_of(machine)
    for short in range(1, 512, 3):
        disk = FaultyDisk(machine.kill())
        disk.fail("create", errno.ENOSPC, path="*/streamlog.json.tmp", times=None)
        torn = disk.fail("pwrite", errno.ENOSPC, path="*/streamlog.json", short=short)
        with pytest.raises(DiskFullError):
            streamlog.open("data", disk=disk, clock=clock)
        assert torn.fired == 1
        assert owner_of(disk) == before
        if short % 50 == 1:
            with streamlog.open("data", disk=disk, clock=clock) as log:
                assert len(values_of(log)) == 12


def test_an_owner_file_of_another_length_is_shortened_to_its_sector(clock: ManualClock) -> None:
    machine = SimulatedDisk()
    filled(machine, clock)
    file = machine.open("/data/streamlog.json")
    file.pwrite([machine.read("/data/streamlog.json").ljust(2000)], 0)
    disk = FaultyDisk(machine)
    disk.capacity = disk.used
    streamlog.open("data", disk=disk, clock=clock).close()
    assert len(machine.read("/data/streamlog.json")) == 512
    assert owner_of(machine)["clean"]


@pytest.fixture
def small_filesystem(tmp_path: Path) -> Iterator[Path]:
    """Four megabytes of a file system of its own, where the test may mount one."""
    path = tmp_path / "small"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(path)]
    if (
        os.geteuid()
        or not shutil.which("mount")
        or subprocess.run(command, capture_output=True, check=False).returncode
    ):
        pytest.skip("mounting takes privileges")
    yield path
    subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize("how", ["closed", "killed"])
def test_a_log_on_a_file_system_that_is_full_opens_and_goes_on_when_there_is_room(
    small_filesystem: Path, open_log: OpenLog, how: str, child: Callable[..., Any]
) -> None:
    path, filler = small_filesystem / "data", small_filesystem / "filler"
    end = "log.close()" if how == "closed" else "os._exit(0)"
    code = f"""
        import os, sys, streamlog
        log = streamlog.open(sys.argv[1])
        log.create_topic("t", segment_bytes=20_000)
        for n in range(50):
            log["t"].send(b"%d" % n * 500)
        {end}
        """
    assert child(code, path).wait(LONG) == 0
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(512)):
                pass
        except OSError:
            pass
    log = open_log(path)
    assert len(values_of(log)) == 50
    with pytest.raises(DiskFullError):
        log["t"].send(b"x" * 30_000)
    log.close()
    log = open_log(path)
    filler.unlink()
    log["t"].send(b"room")
    assert values_of(log)[-1] == b"room"
    log.close()


# What is missing


@pytest.fixture
def closed(path: Path, open_log: OpenLog) -> Path:
    """A closed log with one topic of two partitions."""
    log = open_log()
    log.create_topic("t", partitions=2)
    log["t"].send(b"x", partition=0)
    log.close()
    return path


def partition_of(path: Path, number: int) -> Path:
    return next(path.glob(f"topics/*-{number}"))


@pytest.mark.damaged
@pytest.mark.parametrize("what", ["directory", "partition.state", "everything in it"])
@pytest.mark.parametrize("number", [0, 1], ids=["with a record", "empty"])
def test_what_is_missing_from_a_closed_log_is_named(closed: Path, open_log: OpenLog, what: str, number: int) -> None:
    directory = partition_of(closed, number)
    if what == "directory":
        shutil.rmtree(directory)
    elif what == "partition.state":
        (directory / what).unlink()
    else:
        for file in directory.iterdir():
            file.unlink()
    with pytest.raises(CorruptRecordError, match=directory.name):
        open_log()


@pytest.mark.damaged
def test_reading_records_whose_files_are_missing_from_a_closed_log_raises(closed: Path, open_log: OpenLog) -> None:
    for file in partition_of(closed, 0).glob("*.log"):
        file.unlink()
    log = open_log()
    with pytest.raises(CorruptRecordError, match="missing"):
        list(log["t"].read())
    assert log["t"].send(b"y", partition=0).result().offset == 1


@pytest.mark.damaged
@pytest.mark.parametrize("clean", [True, False])
def test_topics_whose_metadata_is_missing_are_never_taken_for_deleted_ones(
    closed: Path, open_log: OpenLog, clean: bool
) -> None:
    shutil.rmtree(closed / "__cluster_metadata-0")
    owner = closed / "streamlog.json"
    owner.write_text(json.dumps({**json.loads(owner.read_text()), "clean": clean}))
    with pytest.raises(CorruptRecordError, match="__cluster_metadata-0 is missing"):
        open_log()
    assert len(list(closed.glob("topics/*/*.log"))) == 2


@pytest.mark.damaged
def test_topics_whose_end_of_the_metadata_is_missing_are_never_taken_for_deleted_ones(
    closed: Path, open_log: OpenLog
) -> None:
    file = next(closed.glob("__cluster_metadata-0/*.log"))
    file.write_bytes(b"")
    owner = closed / "streamlog.json"
    owner.write_text(json.dumps({**json.loads(owner.read_text()), "clean": False}))
    with pytest.raises(CorruptRecordError):
        open_log()
    assert len(list(closed.glob("topics/*/*.log"))) == 2


def test_a_topic_that_was_being_created_when_the_process_was_killed_is_there(clock: ManualClock) -> None:
    machine = SimulatedDisk()
    log = streamlog.open("data", disk=machine, clock=clock)
    first = len(machine.operations)
    log.create_topic("t", partitions=2)
    seen = set()
    for name, state in machine.crashes(random=2, first=first):
        with streamlog.open("data", disk=state, clock=clock) as again:
            seen.add("t" in again)
            if "t" in again:
                assert again["t"].send(b"x", partition=1).result().offset == 0, name
        assert streamlog.verify("data", disk=state).ok, name
    assert seen == {True, False}


@pytest.mark.damaged
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"format": 1, "min_reader": "x"}', b"[" * 5000, b"\xff"]
)
def test_an_owner_file_that_makes_no_sense_is_refused(closed: Path, open_log: OpenLog, content: bytes) -> None:
    (closed / "streamlog.json").write_bytes(content)
    with pytest.raises(FormatError):
        open_log()


@pytest.mark.damaged
@pytest.mark.parametrize("value", [None, "x", 1.5, -1, 1 << 31, [], True, "gone"])
@pytest.mark.parametrize("name", ["broker_id", "cluster_id", "directory_id", "incarnation", "boot_id", "clean"])
def test_an_owner_file_of_which_a_field_makes_no_sense_is_refused_or_read(
    closed: Path, open_log: OpenLog, name: str, value: Any
) -> None:
    file = closed / "streamlog.json"
    owner = {**json.loads(file.read_text()), name: value}
    if value == "gone":
        del owner[name]
    file.write_text(json.dumps(owner))
    with contextlib.suppress(FormatError), open_log() as log:
        assert list(log) == ["t"]
    with contextlib.suppress(FormatError):
        streamlog.verify(closed)
    streamlog.repair(closed, closed.parent / "repaired")
    assert streamlog.verify(closed.parent / "repaired").ok
