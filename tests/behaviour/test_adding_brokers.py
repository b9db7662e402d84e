"""A broker is added to a log that is written and read: it is found at the next open, and nothing moves by itself."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import (
    ClosedError,
    ConfigError,
    DiskFullError,
    PoisonedLogError,
    ReadOnlyError,
    StorageError,
    StreamLog,
    TopicPartition,
)
from streamlog.broker.opening import _BrokerThreads
from streamlog.testing import FaultyDisk, ManualClock, SimulatedDisk

from .traffic import traffic, values


def replicas(log: StreamLog, topic: str = "t") -> list[tuple[int, ...]]:
    return [log[topic].partition(n).replicas for n in range(log[topic].partitions)]


@pytest.mark.parametrize("sync", [False, True])
def test_a_broker_is_added_while_producers_and_consumers_run(path: Path, sync: bool) -> None:
    with streamlog.open(path, brokers=2, sync=sync) as log:
        log.create_topic("t", partitions=1)
        with traffic(log) as running:
            running.until(20)
            added = log.add_broker(path.parent / "another disk" / "broker")
            assert (added.id, added.running) == (2, True)
            assert added.path == str(path.parent / "another disk" / "broker")
            assert [broker.id for broker in log.brokers] == [0, 1, 2]
            running.until(20)
            assert replicas(log) == [(0, 1)], "nothing moves by itself"
            log.create_topic("new", replication_factor=3).send("x")
            log.reassign("t", replicas={0: [2, 0]}).wait(30)
            running.until(20)
            log.elect_leader(TopicPartition("t", 0))
            running.until(20)
        assert log["t"].partition(0).leader == 2
    with streamlog.open(path, sync=sync) as log:
        assert [broker.running for broker in log.brokers] == [True] * 3
        assert replicas(log) == [(2, 0)]
        assert values(log) == running.acknowledged
        assert values(log, "new") == [b"x"]
        log.brokers[0].stop()
        log["t"].send("after")
        assert values(log)[-1] == b"after"


def test_a_relative_path_is_of_the_working_directory_and_is_found_from_another(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = path.parent / "there"
    there.mkdir()
    monkeypatch.chdir(there)
    with streamlog.open(path, brokers=2) as log:
        log.add_broker("disk")
        log.create_topic("t", replication_factor=3).send("x")
    monkeypatch.chdir(path.parent)
    with streamlog.open(path) as log:
        assert log.brokers[2].path == str(there / "disk")
        assert values(log) == [b"x"]


def test_a_log_in_several_directories_gets_another_that_the_next_open_finds(path: Path) -> None:
    given = [path / "a", path / "b"]
    with streamlog.open(brokers=given) as log:
        log.add_broker(path / "c")
        log.create_topic("t", replication_factor=3).send("x")
    for brokers in (given, [*given, path / "c"], [path / "c", path / "a", path / "b"]):
        with streamlog.open(brokers=brokers) as log:
            assert {broker.path for broker in log.brokers} == {str(path / name) for name in "abc"}
            assert values(log) == [b"x"]
    (path / "c").rename(path / "moved")
    with streamlog.open(brokers=[*given, path / "moved"]) as log:
        assert values(log) == [b"x"]
    with streamlog.open(brokers=given) as log:
        assert log.brokers[2].path == str(path / "moved"), "it is remembered where it was last"


def test_in_the_directory_of_the_log_a_broker_is_called_by_its_number(path: Path) -> None:
    with streamlog.open(path, brokers=2) as log:
        for name in ("broker-7", "disk2", "broker-2/deeper"):
            with pytest.raises(ConfigError, match=r"Give .*/broker-2, or one elsewhere"):
                log.add_broker(path / name)
        assert log.add_broker(path / "broker-2").id == 2
        log.create_topic("t", replication_factor=3).send("x")
    moved = path.rename(path.parent / "moved")
    with streamlog.open(moved) as log:
        assert [broker.path for broker in log.brokers] == [str(moved / f"broker-{n}") for n in range(3)]
        assert values(log) == [b"x"]


def test_directories_that_cannot_be_a_brokers_are_refused_and_left_alone(path: Path) -> None:
    outside = path.parent / "outside"
    (outside / "mine").mkdir(parents=True)
    (outside / "file").touch()
    with streamlog.open(path, brokers=2) as log, streamlog.open(outside / "other") as other:
        other.create_topic("u")
        link = outside / "link"
        link.symlink_to(path / "broker-0")
        for where, why in (
            (outside, "not an empty directory"),
            (outside / "file", "not an empty directory"),
            (outside / "other", "not an empty directory"),
            (path / "broker-1", "in the directory of broker 1"),
            (path / "broker-1" / "topics" / "x", "in the directory of broker 1"),
            (link, "in the directory of broker 0"),
            (path, "not an empty directory"),
            ("", "names no directory"),
            (None, "names no directory"),
            ("http://there", "URL"),
        ):
            with pytest.raises(ConfigError, match=why):
                log.add_broker(where)  # type: ignore[arg-type]
        assert len(log.brokers) == 2
        assert sorted(each.name for each in outside.iterdir()) == ["file", "link", "mine", "other"]
        assert log.add_broker(outside / "mine").id == 2, "an empty one is taken"
        with pytest.raises(ConfigError, match="in the directory of broker 2"):
            log.add_broker(outside / "mine")


def test_a_temporary_log_a_reader_and_a_log_of_one_broker_get_none(path: Path) -> None:
    with streamlog.open(brokers=2) as log, pytest.raises(ConfigError, match="temporary"):
        log.add_broker(path / "x")
    with streamlog.open(path / "one") as log:
        log.create_topic("t", partitions=3).send_many([b"%d" % n for n in range(30)])
        with pytest.raises(ConfigError, match="has one broker") as raised:
            log.add_broker(path / "two")
        assert f"streamlog.open(brokers=['{path}/one', '{path}/two'])" in str(raised.value)
    with streamlog.open(path / "one", read_only=True) as log, pytest.raises(ReadOnlyError):
        log.add_broker(path / "two")
    assert not (path / "two").exists()


def test_a_log_of_one_broker_is_opened_with_another_one_and_has_two(path: Path) -> None:
    with streamlog.open(path / "one") as log:
        log.create_topic("t", partitions=3).send_many([b"%d" % n for n in range(30)])
        before = values(log)
    with streamlog.open(brokers=[path / "one", path / "two"]) as log:
        assert replicas(log) == [(0,)] * 3
        assert values(log) == before
        log.reassign("t", replication_factor=2).wait(30)
        assert log.add_broker(path / "three").id == 2
        log.brokers[0].stop()
        assert sorted(values(log)) == sorted(before)  # type: ignore[type-var]


def test_a_reader_finds_what_only_an_added_broker_has(path: Path) -> None:
    with streamlog.open(path, brokers=2) as log:
        log.add_broker(path.parent / "added")
        log.create_topic("t", replication_factor=1).send("x")
        log.reassign("t", replicas={0: [2]}).wait(30)
    with streamlog.open(path, read_only=True) as reader:
        assert values(reader) == [b"x"]
        there = [str(path / "broker-0"), str(path / "broker-1"), str(path.parent / "added")]
        assert [broker.path for broker in reader.brokers] == there
        assert [about["path"] for about in reader.metrics()["brokers"].values()] == there


@pytest.mark.parametrize("what", ["write", "sync"])
def test_a_disk_that_fails_leaves_the_directory_as_it_can_be_taken_and_the_log_as_it_was(path: Path, what: str) -> None:
    disk, added = FaultyDisk(), path.parent / "added"
    with streamlog.open(path, brokers=2, disk=disk) as log:
        log.create_topic("t").send("x")
        added.mkdir()
        disk.fail(what, errno.EIO, path=f"{added}/*")
        with pytest.raises(StorageError):
            log.add_broker(added)
        disk.heal()
        assert len(log.brokers) == 2
        log.create_topic("u").send("y")
        assert set(os.listdir(added)) <= {"lock"}
        assert log.add_broker(added).id == 2
    with streamlog.open(path) as log:
        assert len(log.brokers) == 3
        assert (values(log), values(log, "u")) == ([b"x"], [b"y"])


def test_a_broker_of_which_it_turns_out_that_it_was_not_added_cannot_be_started(clock: ManualClock) -> None:
    disk = FaultyDisk(SimulatedDisk())
    with streamlog.open("data", brokers=3, disk=disk, clock=clock) as log:
        log.create_topic("t").send("x")
        service: Any = log._engine.service
        service.brokers.on_failure = lambda broker, error: (
            None
        )  # else others replace broker 0 meanwhile, and find it out
        disk.fail("sync", errno.EIO, path="*/broker-0/__cluster_metadata-0/*", times=None)
        with pytest.raises(PoisonedLogError):
            log.add_broker("added")
        assert [broker.id for broker in log.brokers] == [0, 1, 2, 3]  # it is not known yet
        disk.heal()
        with pytest.raises(ConfigError, match="There is no broker 3"):
            log.brokers[3].start()
        assert [broker.id for broker in log.brokers] == [0, 1, 2]
        assert values(log) == [b"x"]


@pytest.mark.slow
def test_what_was_made_of_a_broker_that_was_not_added_does_not_come_back_when_power_is_lost(clock: ManualClock) -> None:
    disk = SimulatedDisk()
    faulty = FaultyDisk(disk)
    with streamlog.open("data", brokers=3, disk=faulty, clock=clock) as log:
        log.create_topic("t").send("x")
        faulty.fail("pwrite", errno.ENOSPC, path="*/broker-0/__cluster_metadata-0/*")
        with pytest.raises(DiskFullError):
            log.add_broker("data/broker-3")
        faulty.heal()
        log.add_broker("elsewhere")
        begun = len(disk.operations)
        log.create_topic("u")
    for name, state in disk.crashes(1, first=begun):
        with streamlog.open("data", disk=state, clock=clock) as log:
            assert [broker.running for broker in log.brokers] == [True] * 4, name
            assert "broker-3" not in log.brokers[3].path


def test_every_crash_while_a_broker_is_added_leaves_the_log_with_it_or_without(clock: ManualClock) -> None:
    disk = SimulatedDisk()
    with streamlog.open("data", brokers=2, disk=disk, clock=clock, sync=True) as log:
        log.create_topic("t").send("x")
        begun = len(disk.operations)
        log.add_broker("added")
        log.create_topic("u", replication_factor=2)
    states = list(disk.crashes(1, first=begun))
    counts = set()
    for name, state in states[:: max(1, len(states) // 80)]:
        with streamlog.open("data", disk=state, clock=clock, sync=True) as log:
            counts.add(len(log.brokers))
            assert values(log) == [b"x"], name
    assert counts == {2, 3}


def test_a_broker_that_is_added_while_the_log_is_closed_leaves_no_thread(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = threading.active_count()
    log = streamlog.open(path, brokers=2)
    service, stop, added = log._use(), _BrokerThreads.stop, threading.Event()

    def add_meanwhile(self: _BrokerThreads, timeout: float = 10.0) -> None:
        if not added.is_set():
            added.set()
            adding = threading.Thread(target=lambda: service.add_broker(str(path / "broker-2")))
            adding.start()
            adding.join()
        stop(self, timeout)

    monkeypatch.setattr(_BrokerThreads, "stop", add_meanwhile)
    log.close()
    assert threading.active_count() == before
    monkeypatch.undo()
    with streamlog.open(path) as log:
        assert [broker.running for broker in log.brokers] == [True] * 3


def test_a_log_that_is_closed_as_a_broker_was_recorded_opens_with_that_broker(path: Path) -> None:
    """What adds it goes on when the log is closed, and leaves no directory locked."""
    log = streamlog.open(path, brokers=2)
    service = log._use()

    def close() -> None:
        service.off_metadata(close)
        log.close()

    service.on_metadata(close)
    with pytest.raises(ClosedError):
        log.add_broker(path / "broker-2")
    with streamlog.open(path) as log:
        assert [broker.running for broker in log.brokers] == [True] * 3
        log.create_topic("t", replication_factor=3).send("x").result()
