"""A log of several brokers whose directories are missing, empty, swapped or strange when it is opened."""

from __future__ import annotations

import errno
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import ConfigError, FormatError, StreamLog
from streamlog.errors import DeliveryTimeoutError, LogDirNotFoundError, ReplicaNotAvailableError, StorageError
from streamlog.testing import FaultyDisk, ManualClock, SimulatedDisk
from tests.sampling import Sampled

from .traffic import eventually, values


def all_in_sync(log: StreamLog, topic: str = "t") -> Callable[[], bool]:
    of = log[topic]
    return lambda: all(set(info.isr) == set(info.replicas) for info in map(of.partition, range(of.partitions)))


def owner(path: Path, broker: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / f"broker-{broker}" / "streamlog.json").read_text())
    return found


def make(path: Path, brokers: int = 3, **settings: Any) -> list[bytes]:
    """A log with a topic `t`, closed; what was sent."""
    sent = [b"%d" % n for n in range(30)]
    with streamlog.open(path, brokers=brokers) as log:
        log.create_topic("t", **{"partitions": brokers, **settings})
        for n, value in enumerate(sent):
            log["t"].send(value, partition=n % log["t"].partitions)
    return sent


def remove(directory: Path) -> None:
    shutil.rmtree(directory)


def empty(directory: Path) -> None:
    shutil.rmtree(directory)
    directory.mkdir()


def replicas_of(path: Path, log: StreamLog, topic: str = "t") -> dict[int, set[bytes]]:
    """The different bytes that the replicas of each partition have."""
    name = log[topic].id.hex
    return {
        number: {
            b"".join(each.read_bytes() for each in sorted(replica.glob("*.log")))
            for replica in path.glob(f"broker-*/topics/{name}-{number}")
        }
        for number in range(log[topic].partitions)
    }


# -- without one -------------------------------------------------------------------------------------


@pytest.mark.parametrize("take_away", [remove, empty])
@pytest.mark.parametrize("broker", range(3))
def test_a_log_opens_without_the_directory_of_one_broker_and_makes_nothing_in_its_place(
    path: Path, broker: int, take_away: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    sent = make(path)
    take_away(path / f"broker-{broker}")
    with caplog.at_level(logging.WARNING, "streamlog"), streamlog.open(path) as log:
        assert f"The directory of broker {broker} is missing, or is empty" in caplog.text
        assert f"log.brokers[{broker}].start()" in caplog.text
        assert [each.running for each in log.brokers] == [each != broker for each in range(3)]
        assert log.brokers[broker].path == str(path / f"broker-{broker}")
        about = log.metrics()["brokers"][str(broker)]
        assert not about["running"]
        assert str(path / f"broker-{broker}") in about["failure"]
        topic = log["t"]
        for n in range(3):
            assert topic.partition(n).leader not in (broker, -1)
            assert broker not in topic.partition(n).isr
        sent.append(b"without it")
        topic.send(sent[-1])
        assert sorted(values(log)) == sorted(sent)  # type: ignore[type-var]
        assert log.metrics()["replication"]["under_replicated_partitions"] == 3
    assert not [*path.glob(f"broker-{broker}/*")]
    assert (path / f"broker-{broker}").exists() == (take_away is empty)
    with streamlog.open(path) as log:
        assert sorted(values(log)) == sorted(sent)  # type: ignore[type-var]


@pytest.mark.parametrize("take_away", [remove, empty])
@pytest.mark.parametrize("broker", range(3))
def test_start_alone_makes_it_anew_and_fills_it(path: Path, broker: int, take_away: Callable[[Path], None]) -> None:
    sent = make(path)
    before = owner(path, broker)
    take_away(path / f"broker-{broker}")
    with streamlog.open(path) as log:
        log.brokers[broker].start()
        assert log.brokers[broker].running
        assert log.metrics()["brokers"][str(broker)]["failure"] is None
        eventually(all_in_sync(log), "it does not catch up")
        sent.append(b"after")
        log["t"].send(sent[-1])
        assert sorted(values(log)) == sorted(sent)  # type: ignore[type-var]
        assert all(len(different) == 1 for different in replicas_of(path, log).values())
        log.elect_leader(streamlog.TopicPartition("t", 0), broker)
        log["t"].send("from the new one", partition=0)
    after = owner(path, broker)
    assert after["directory_id"] != before["directory_id"]
    assert (after["cluster_id"], after["broker_id"]) == (before["cluster_id"], broker)
    with streamlog.open(path) as log:
        assert all(each.running for each in log.brokers)
        assert log["t"].partition(0).leader == broker
        assert len(values(log)) == 32


@pytest.mark.parametrize("how", ["start", "open"])
@pytest.mark.parametrize("broker", range(3))
def test_a_directory_that_comes_back_catches_up(path: Path, tmp_path: Path, broker: int, how: str) -> None:
    sent = make(path)
    before = owner(path, broker)["directory_id"]
    here, away = path / f"broker-{broker}", tmp_path / "away"
    here.rename(away)
    with streamlog.open(path) as log:
        sent += [b"while it was away", b"more"]
        log["t"].send_many(sent[-2:])
        log.create_topic("later").send("x")
        log.delete_topic("later")
        if how == "start":
            away.rename(here)
            log.brokers[broker].start()
            eventually(all_in_sync(log))
    if how == "open":
        away.rename(here)
    with streamlog.open(path) as log:
        eventually(all_in_sync(log))
        assert all(each.running for each in log.brokers)
        assert sorted(values(log)) == sorted(sent)  # type: ignore[type-var]
        assert "later" not in log
        log.sync()
        assert all(len(different) == 1 for different in replicas_of(path, log).values())
    assert owner(path, broker)["directory_id"] == before
    report = streamlog.verify(path)
    assert report.ok, report


def test_a_group_goes_on_without_the_directory_of_its_coordinator(path: Path) -> None:
    make(path)
    with streamlog.open(path) as log, log.consumer("t", group="g") as consumer:
        assert len(list(consumer.until_end())) == 30
        coordinator = log.topic("__consumer_offsets").partition(0).leader
    remove(path / f"broker-{coordinator}")
    with streamlog.open(path) as log:
        assert sum(log.group("g").lag().values()) == 0
        log["t"].send("new")
        with log.consumer("t", group="g") as consumer:
            assert [record.value for record in consumer.until_end()] == [b"new"]


# -- too few -----------------------------------------------------------------------------------------


def test_half_of_the_copies_are_too_few_and_force_opens_all_the_same(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sent = make(path)
    before = [owner(path, broker) for broker in range(3)]
    remove(path / "broker-0")
    empty(path / "broker-2")
    with pytest.raises(LogDirNotFoundError, match="1 of 3 copies") as refused:
        streamlog.open(path)
    for named in ("directory of broker 0 is missing", "directory of broker 2 is missing", "force=True", "is lost"):
        assert named in str(refused.value)
    assert owner(path, 1)["clean"], "a refusal leaves the directories as they were"
    assert owner(path, 1)["directory_id"] == before[1]["directory_id"]
    assert not (path / "broker-0").exists()
    with caplog.at_level(logging.WARNING, "streamlog"), streamlog.open(path, force=True) as log:
        assert "as force=True says" in caplog.text
        assert [each.running for each in log.brokers] == [False, True, False]
        assert sorted(values(log)) == sorted(sent)  # type: ignore[type-var]
        with log.producer(acks=1) as producer:
            producer.send("t", "alone")
    with streamlog.open(path) as log:  # it has been said
        assert len(values(log)) == 31
        log.brokers[0].start()
        log.brokers[2].start()
        eventually(all_in_sync(log))
        assert all(len(different) == 1 for different in replicas_of(path, log).values())


def test_of_two_brokers_one_is_too_few_unless_the_other_was_stopped_before(path: Path) -> None:
    make(path, 2)
    shutil.copytree(path, path.parent / "copy")
    remove(path / "broker-1")
    with pytest.raises(LogDirNotFoundError, match="1 of 2 copies"):
        streamlog.open(path)
    path = path.parent / "copy"
    with streamlog.open(path) as log:
        log.brokers[1].stop()
        with log.producer(acks=1) as producer:
            producer.send("t", "x", partition=0)
    shutil.copytree(path, path.parent / "second")
    remove(path / "broker-1")
    with streamlog.open(path) as log:
        assert len(values(log)) == 31
    path = path.parent / "second"
    remove(path / "broker-0")
    with pytest.raises(LogDirNotFoundError, match="directory of broker 0 is missing"):  # which went on alone
        streamlog.open(path)


def test_what_only_missing_directories_had_is_removed_when_they_come_back_after_a_forced_open(
    path: Path, tmp_path: Path
) -> None:
    """Two histories of one log, in which the same epochs and offsets have different records: that of `force` counts."""
    sent = make(path)
    away = tmp_path / "away"
    away.mkdir()
    (path / "broker-2").rename(away / "broker-2")
    with streamlog.open(path) as log:
        log.create_topic("ours")
        log["t"].send_many([b"ours %d" % n for n in range(9)])
    for broker in range(2):
        (path / f"broker-{broker}").rename(away / f"broker-{broker}")
    (away / "broker-2").rename(path / "broker-2")
    with pytest.raises(LogDirNotFoundError, match="1 of 3 copies"):
        streamlog.open(path)
    with streamlog.open(path, force=True) as log:
        log.create_topic("theirs")
        with log.producer(acks=1) as producer:
            producer.send_many("t", [b"theirs %d" % n for n in range(4)])
        theirs = values(log)
    for broker in range(2):
        (away / f"broker-{broker}").rename(path / f"broker-{broker}")
    with streamlog.open(path) as log:
        eventually(all_in_sync(log))
        assert "theirs" in log
        assert "ours" not in log
        assert sorted(values(log)) == sorted(theirs)  # type: ignore[type-var]
        assert set(sent) < set(theirs)
        log.sync()
        assert all(len(different) == 1 for different in replicas_of(path, log).values())
    report = streamlog.verify(path)
    assert report.ok, report


def test_a_forced_open_removes_no_partition_that_its_metadata_does_not_know(path: Path, tmp_path: Path) -> None:
    make(path, 2)
    before = tmp_path / "before"
    shutil.copytree(path / "broker-1" / "__cluster_metadata-0", before)
    with streamlog.open(path) as log:
        log.create_topic("later").send("x")
        later = log["later"].id.hex
    shutil.rmtree(path / "broker-1" / "__cluster_metadata-0")
    before.rename(path / "broker-1" / "__cluster_metadata-0")
    remove(path / "broker-0")
    with streamlog.open(path, force=True) as log:
        assert "later" not in log
    assert [*path.glob(f"broker-1/topics/{later}-0/*.log")]


@pytest.mark.parametrize("given", [None, 3])
def test_without_any_directory_nothing_is_made_of_one_that_is_not_mounted(path: Path, given: int | None) -> None:
    make(path)
    for broker in range(3):
        empty(path / f"broker-{broker}")
    if given is None:
        with pytest.raises(LogDirNotFoundError, match="all of them are empty"):
            streamlog.open(path)
        assert not [*path.glob("broker-*/*")]
    else:
        with streamlog.open(path, brokers=given) as log:  # it cannot be told from a new one, which was asked for
            assert not list(log)


# -- who leads ---------------------------------------------------------------------------------------


def test_only_a_member_of_the_in_sync_set_leads(path: Path, tmp_path: Path) -> None:
    with streamlog.open(path, brokers=5) as log:
        topic = log.create_topic("t", replication_factor=2)
        topic.send("x")
        leader, other = topic.partition(0).replicas
        log.brokers[other].stop()
        topic.send("y")
    (path / f"broker-{leader}").rename(tmp_path / "away")
    with streamlog.open(path) as log:
        info = log.metrics()["topics"]["t"]["0"]
        assert (info["leader"], info["isr"]) == (-1, [leader]), "the other one lacks a record that was acknowledged"
        assert log.brokers[other].running
        assert log.metrics()["replication"]["offline_partitions"] == 1
        with pytest.raises(DeliveryTimeoutError, match="has no leader"), log.producer(delivery_timeout_ms=1) as short:
            short.send("t", "z")
        (tmp_path / "away").rename(path / f"broker-{leader}")
        log.brokers[leader].start()
        assert log["t"].send("z").result().offset == 2
        assert values(log) == [b"x", b"y", b"z"]
        eventually(all_in_sync(log))


def test_a_partition_whose_only_replica_is_missing_is_offline_until_it_is_back(path: Path, tmp_path: Path) -> None:
    sent = make(path, replication_factor=1)
    (path / "broker-1").rename(tmp_path / "away")
    with streamlog.open(path) as log:
        assert log.metrics()["replication"]["offline_partitions"] == 1
        assert len(list(log["t"].read(0))) + len(list(log["t"].read(2))) == 20
        log.create_topic("u").send("y")
    (tmp_path / "away").rename(path / "broker-1")
    with streamlog.open(path) as log:
        assert log.metrics()["replication"]["offline_partitions"] == 0
        assert sorted(values(log)) == sorted(sent)  # type: ignore[type-var]
    # Made anew, it has no record of which there is no other copy: the partition stays offline, and is not begun again.
    remove(path / "broker-1")
    with streamlog.open(path) as log:
        log.brokers[1].start()
        assert log.brokers[1].running
        assert log.metrics()["replication"]["offline_partitions"] == 1


# -- strange ones ------------------------------------------------------------------------------------


def swap(path: Path) -> None:
    """Have brokers 1 and 2 each lie where the other one did."""
    (path / "broker-1").rename(path / "swap")
    (path / "broker-2").rename(path / "broker-1")
    (path / "swap").rename(path / "broker-2")


def test_of_two_that_were_swapped_the_one_that_could_not_be_read_starts_where_it_is_now(path: Path) -> None:
    """It was looked for in the directory of the other one alone, and refused to start there."""
    sent = make(path)
    swap(path)
    disk = FaultyDisk()
    disk.fail("read", errno.EIO, path="*/broker-1/*", times=None)
    with streamlog.open(path, disk=disk) as log:
        assert [each.running for each in log.brokers] == [True, True, False]
        assert [each.path for each in log.brokers] == [str(path / f"broker-{n}") for n in (0, 2, 1)]
        assert "broker-1/" in log.metrics()["brokers"]["2"]["failure"]
        with pytest.raises(StorageError):
            log.brokers[2].start()
        disk.heal()
        log.brokers[2].start()
        eventually(all_in_sync(log))
        assert sorted(values(log)) == sorted(sent)  # type: ignore[type-var]


@pytest.mark.parametrize("hidden", ["unreadable", "missing"])
@pytest.mark.parametrize("which", ["the one that lies elsewhere", "the one in the log's directory"])
def test_of_two_that_were_swapped_the_one_that_was_not_found_is_found_by_a_later_open(
    path: Path, tmp_path: Path, hidden: str, which: str
) -> None:
    """The record of the other one named its new place, and nothing named the old one any more."""
    sent = make(path, brokers=3)
    with streamlog.open(path) as log:
        log.add_broker(tmp_path / "disk")
        log.reassign("t", replicas={0: [3, 1]}).wait()
    (path / "broker-1").rename(tmp_path / "swap")
    (tmp_path / "disk").rename(path / "broker-1")
    (tmp_path / "swap").rename(tmp_path / "disk")
    lost, place = (1, tmp_path / "disk") if which == "the one that lies elsewhere" else (3, path / "broker-1")
    disk = FaultyDisk()
    if hidden == "missing":
        place.rename(tmp_path / "hidden")
    else:
        disk.fail("read", errno.EIO, path=f"{place}/*", times=None)
    for _ in range(2):
        with streamlog.open(path, disk=disk) as log:
            assert [each.id for each in log.brokers if not each.running] == [lost]
            assert log.brokers[lost].path == str(place)
    if hidden == "missing":
        (tmp_path / "hidden").rename(place)
    with streamlog.open(path) as log:
        assert [each.id for each in log.brokers if each.running] == [0, 1, 2, 3]
        eventually(all_in_sync(log))
        assert sorted(values(log)) == sorted(sent)  # type: ignore[type-var]


def test_directories_that_were_swapped_are_found_by_what_is_in_them(path: Path) -> None:
    sent = make(path)
    swap(path)
    for _ in range(2):
        with streamlog.open(path) as log:
            assert [(each.id, each.running) for each in log.brokers] == [(0, True), (1, True), (2, True)]
            assert [each.path for each in log.brokers] == [str(path / f"broker-{n}") for n in (0, 2, 1)]
            assert sorted(values(log)) == sorted(sent)  # type: ignore[type-var]
    remove(path / "broker-2")
    with streamlog.open(path) as log:
        assert [each.running for each in log.brokers] == [True, False, True]
        assert log.brokers[1].path == str(path / "broker-2")


def test_a_directory_that_was_swapped_with_one_that_lies_elsewhere_is_found(path: Path, tmp_path: Path) -> None:
    sent = make(path, brokers=2)
    with streamlog.open(path) as log:
        log.add_broker(tmp_path / "disk")
    (path / "broker-1").rename(tmp_path / "swap")
    (tmp_path / "disk").rename(path / "broker-1")
    (tmp_path / "swap").rename(tmp_path / "disk")
    for _ in range(2):
        with streamlog.open(path) as log:
            there = [str(path / "broker-0"), str(tmp_path / "disk"), str(path / "broker-1")]
            assert [(each.path, each.running) for each in log.brokers] == [(each, True) for each in there]
            assert sorted(values(log)) == sorted(sent)  # type: ignore[type-var]


def test_a_directory_of_another_log_is_refused_and_both_are_left_as_they_were(path: Path, tmp_path: Path) -> None:
    sent = make(path)
    make(tmp_path / "other")
    shutil.rmtree(path / "broker-1")
    shutil.copytree(tmp_path / "other" / "broker-1", path / "broker-1")
    with pytest.raises(ConfigError, match=r"do not belong to one log: .*broker-1 to log"):
        streamlog.open(path)
    assert all(owner(path, broker)["clean"] for broker in range(3))
    (path / "broker-1").rename(tmp_path / "away")
    with streamlog.open(path) as log:
        (tmp_path / "away").rename(path / "broker-1")
        with pytest.raises(FormatError, match="not the directory of broker 1 of this log"):
            log.brokers[1].start()
        assert not log.brokers[1].running
        assert sorted(values(log)) == sorted(sent)  # type: ignore[type-var]


def test_two_directories_of_one_broker_are_refused(path: Path) -> None:
    sent = make(path)
    shutil.copytree(path / "broker-1", path / "broker-3")
    with pytest.raises(ConfigError, match=r"broker-1 and .*broker-3 are all directories of broker 1"):
        streamlog.open(path)
    assert all(owner(path, broker)["clean"] for broker in range(4))
    remove(path / "broker-1")
    with streamlog.open(path) as log:
        assert log.brokers[1].path == str(path / "broker-3")
        assert sorted(values(log)) == sorted(sent)  # type: ignore[type-var]


def test_a_broker_is_found_though_an_older_directory_of_it_lies_in_the_log(path: Path, tmp_path: Path) -> None:
    sent = make(path)
    with streamlog.open(path) as log:
        log.brokers[2].stop()
        (path / "broker-2").rename(tmp_path / "old")
        log.brokers[2].start()
    (path / "broker-2").rename(tmp_path / "disk")
    (tmp_path / "old").rename(path / "broker-2")
    every = [path / "broker-2", tmp_path / "disk", path / "broker-0", path / "broker-1"]
    for where in ({"brokers": every}, {"path": path}, {"path": path}):
        with streamlog.open(**where) as log:  # type: ignore[arg-type]
            assert [each.running for each in log.brokers] == [True] * 3
            assert log.brokers[2].path == str(tmp_path / "disk")
            assert sorted(values(log)) == sorted(sent)  # type: ignore[type-var]


def test_a_change_that_only_the_metadata_of_a_broker_that_is_started_has_does_not_come_into_force(
    path: Path, tmp_path: Path
) -> None:
    """Such as one that was refused: the open log does not know of it, and what is recorded next would contradict it."""
    sent = make(path)
    shutil.copytree(path, tmp_path / "other")
    with streamlog.open(tmp_path / "other") as log:
        for _ in range(3):  # each takes leader epochs
            log.brokers[1].stop()
            log.brokers[1].start()
        log.create_topic("refused")
    with streamlog.open(path) as log:
        log.brokers[2].stop()
        remove(path / "broker-2")
        shutil.copytree(tmp_path / "other" / "broker-2", path / "broker-2")
        log.brokers[2].start()
        log.create_topic("next")
    with streamlog.open(path) as log:
        assert [topic.name for topic in log.topics()] == ["next", "t"]
        assert sorted(values(log)) == sorted(sent)  # type: ignore[type-var]


def test_an_older_directory_of_a_broker_is_not_taken_for_its_own(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sent = make(path)
    (path / "broker-1").rename(tmp_path / "old")
    with streamlog.open(path) as log:
        log.brokers[1].start()
        eventually(all_in_sync(log))
        sent.append(b"later")
        log["t"].send(sent[-1])
    (path / "broker-1").rename(tmp_path / "new")
    (tmp_path / "old").rename(path / "broker-1")
    with caplog.at_level(logging.WARNING, "streamlog"), streamlog.open(path) as log:
        assert "an older directory of broker 1" in caplog.text
        assert not log.brokers[1].running
        assert sorted(values(log)) == sorted(sent)  # type: ignore[type-var]
        with pytest.raises(FormatError, match="an older directory of broker 1"):
            log.brokers[1].start()
        assert owner(path, 1)["clean"]
        problems = streamlog.verify(path).problems
        assert [(each.kind, each.path) for each in problems] == [("replaced", str(path / "broker-1"))]
        empty(path / "broker-1")
        log.brokers[1].start()
        eventually(all_in_sync(log))
    with streamlog.open(path) as log:
        assert all(each.running for each in log.brokers)
        assert sorted(values(log)) == sorted(sent)  # type: ignore[type-var]


@pytest.mark.parametrize("older", [(0,), (1, 2)], ids=["one", "two of three"])
@pytest.mark.parametrize("part", ["", "topics"], ids=["the directory", "its topics"])
def test_an_older_copy_of_a_directory_makes_no_record_lost(
    path: Path, tmp_path: Path, older: tuple[int, ...], part: str
) -> None:
    sent = make(path)
    for broker in older:
        shutil.copytree(path / f"broker-{broker}" / part, tmp_path / f"older-{broker}")
    with streamlog.open(path) as log:
        for number in range(3):
            sent.append(b"later %d" % number)
            log["t"].send(sent[-1], partition=number).result()
    for broker in older:
        remove(path / f"broker-{broker}" / part)
        (tmp_path / f"older-{broker}").rename(path / f"broker-{broker}" / part)
    with streamlog.open(path) as log:
        assert sorted(values(log)) == sorted(sent)  # type: ignore[type-var]
        assert all(log["t"].partition(number).leader not in older for number in range(3))
    for broker in range(3):
        with streamlog.open(path / f"broker-{broker}", read_only=True) as log:
            assert sorted(values(log)) == sorted(sent)  # type: ignore[type-var]


def older_copy_of_the_only_one_in_sync(path: Path, copy: Path) -> tuple[int, Path]:
    """The broker, of which the copy is put back, and its newer directory. It has acknowledged `later` alone in between."""
    make(path, 3, partitions=1, replication_factor=1)
    with streamlog.open(path) as log:
        broker = log["t"].partition(0).leader
        log.create_topic("u")
        log.brokers[broker].stop()
        shutil.copytree(path / f"broker-{broker}", copy)
        log.brokers[broker].start()
        log["t"].send(b"later").result()
        eventually(lambda: broker in log["u"].partition(0).isr)
    newer = (path / f"broker-{broker}").rename(path.parent / "newer")
    copy.rename(path / f"broker-{broker}")
    return broker, newer


def test_an_older_copy_of_the_only_one_in_sync_does_not_lead_and_is_named(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker, newer = older_copy_of_the_only_one_in_sync(path, tmp_path / "older")
    for _ in range(2):
        with caplog.at_level(logging.WARNING, "streamlog"), streamlog.open(path) as log:
            assert f"broker-{broker} is an older copy" in caplog.text
            assert "No other broker that was in sync with t-0" in caplog.text
            assert not log.brokers[broker].running
            assert log["t"].partition(0).leader == -1
            log["u"].send(b"goes on").result()
        caplog.clear()
    remove(path / f"broker-{broker}")
    newer.rename(path / f"broker-{broker}")
    with streamlog.open(path) as log:
        assert values(log)[-1] == b"later"


@pytest.mark.parametrize("how", ["start", "force"])
def test_the_loss_of_what_an_older_copy_lacks_can_be_accepted(path: Path, tmp_path: Path, how: str) -> None:
    broker, _ = older_copy_of_the_only_one_in_sync(path, tmp_path / "older")
    with streamlog.open(path, force=how == "force") as log:
        if how == "start":
            log.brokers[broker].start()
        assert log.brokers[broker].running
        assert len(values(log)) == 30
        log["t"].send(b"next").result()
    with streamlog.open(path) as log:
        assert all(each.running for each in log.brokers)
        assert values(log)[-1] == b"next"


@pytest.mark.parametrize("killed", [False, True])
def test_a_directory_that_was_stopped_or_killed_is_no_older_copy(
    path: Path, tmp_path: Path, killed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    make(path)
    with streamlog.open(path) as log:
        log.brokers[1].stop()
        log.create_topic("u")
        log.brokers[1].start()
        log.create_topic("v")
        log.brokers[2].stop()
        log.create_topic("w")
        if killed:
            shutil.copytree(path, tmp_path / "killed")
    with (
        caplog.at_level(logging.WARNING, "streamlog"),
        streamlog.open(tmp_path / "killed" if killed else path) as log,
    ):
        assert "older copy" not in caplog.text
        assert all(each.running for each in log.brokers)


def _a_file(directory: Path) -> None:
    directory.write_text("mine")


def _a_loop(directory: Path) -> None:
    directory.symlink_to(directory)


def _a_dangling_link(directory: Path) -> None:
    directory.symlink_to(directory.parent.parent / "not mounted")


def _strangers(directory: Path) -> None:
    directory.mkdir()
    (directory / "notes.txt").write_text("mine")


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (_a_file, "is a file"),
        (_a_loop, "symbolic links"),
        (_a_dangling_link, "is missing, or is empty"),
        (_strangers, "is not empty and no log"),
    ],
)
def test_what_is_no_directory_of_a_broker_is_named_and_left_alone(
    path: Path, what: Callable[[Path], None], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    sent = make(path)
    remove(path / "broker-1")
    what(path / "broker-1")
    with caplog.at_level(logging.WARNING, "streamlog"), streamlog.open(path) as log:
        assert said in caplog.text
        assert str(path / "broker-1") in caplog.text
        assert [each.running for each in log.brokers] == [True, False, True]
        assert sorted(values(log)) == sorted(sent)  # type: ignore[type-var]
        with pytest.raises(streamlog.StreamlogError):
            log.brokers[1].start()
        assert not log.brokers[1].running
        assert not streamlog.verify(path).ok
        if (path / "broker-1").is_dir():
            shutil.rmtree(path / "broker-1")
        else:
            (path / "broker-1").unlink()
        log.brokers[1].start()
        eventually(all_in_sync(log))


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES])
@pytest.mark.parametrize("where", ["*/broker-1", "*/broker-1/streamlog.json", "*/broker-1/__cluster_metadata-0/*"])
def test_a_directory_that_cannot_be_read_is_left_out(
    path: Path, where: str, error: int, caplog: pytest.LogCaptureFixture
) -> None:
    sent = make(path)
    disk = FaultyDisk()
    disk.fail("read", error, path=where, times=None)
    with caplog.at_level(logging.WARNING, "streamlog"), streamlog.open(path, disk=disk) as log:
        assert "broker 1 does not run" in caplog.text
        assert [each.running for each in log.brokers] == [True, False, True]
        assert sorted(values(log)) == sorted(sent)  # type: ignore[type-var]
        disk.heal()
        log.brokers[1].start()
        eventually(all_in_sync(log))


def test_a_directory_that_another_process_has_refuses_the_log(path: Path) -> None:
    disk = SimulatedDisk()
    with streamlog.open("data", brokers=3, disk=disk) as log:
        log.create_topic("t").send("x")
    lock = disk.lock("/data/broker-1/lock")
    assert lock.acquire() is None
    with pytest.raises(streamlog.errors.LogLockedError):
        streamlog.open("data", disk=disk)
    lock.release()
    with streamlog.open("data", disk=disk) as log:
        assert values(log) == [b"x"]
        assert all(each.running for each in log.brokers)


# -- lists of directories ----------------------------------------------------------------------------


def test_of_a_list_too_a_directory_may_be_missing(tmp_path: Path) -> None:
    places = [tmp_path / f"disk{n}" / "log" for n in range(3)]
    with streamlog.open(brokers=places) as log:
        log.create_topic("t", partitions=3).send_many([b"%d" % n for n in range(30)])
    remove(places[1])
    with streamlog.open(brokers=places) as log:
        assert [each.path for each in log.brokers] == list(map(str, places))
        assert len(values(log)) == 30
    assert not places[1].exists()
    with streamlog.open(brokers=[places[2], places[0]]) as log:  # what the others know of it
        assert [each.path for each in log.brokers] == list(map(str, places))
        assert [each.running for each in log.brokers] == [True, False, True]


def test_an_empty_directory_in_the_list_takes_the_place_of_a_missing_one_when_it_is_started(tmp_path: Path) -> None:
    places = [tmp_path / f"disk{n}" for n in range(3)]
    with streamlog.open(brokers=places) as log:
        log.create_topic("t", partitions=3).send_many([b"%d" % n for n in range(30)])
    remove(places[0])
    new = [places[2], tmp_path / "new", places[1]]
    with streamlog.open(brokers=new) as log:
        assert log.brokers[0].path == str(tmp_path / "new")
        assert not (tmp_path / "new").exists()
        log.brokers[0].start()
        eventually(all_in_sync(log))
    with streamlog.open(brokers=places[1:]) as log:
        assert log.brokers[0].path == str(tmp_path / "new")
        assert all(each.running for each in log.brokers)
        assert len(values(log)) == 30


def test_a_log_that_was_moved_is_found_where_it_is_now(path: Path, tmp_path: Path) -> None:
    sent = make(path)
    remove(path / "broker-2")
    path.rename(tmp_path / "moved")
    with streamlog.open(tmp_path / "moved") as log:
        assert [each.path for each in log.brokers] == [str(tmp_path / "moved" / f"broker-{n}") for n in range(3)]
        assert sorted(values(log)) == sorted(sent)  # type: ignore[type-var]
        log.brokers[2].start()
        eventually(all_in_sync(log))
    assert not path.exists()


def test_the_number_of_brokers_is_that_of_the_log_and_not_of_what_is_left(path: Path) -> None:
    make(path)
    remove(path / "broker-1")
    with pytest.raises(ConfigError, match="a log of 3 brokers"):
        streamlog.open(path, brokers=2)
    assert owner(path, 0)["clean"]
    with streamlog.open(path, brokers=3, replication_factor=3) as log:
        assert not log.brokers[1].running
    assert not (path / "broker-1").exists()


# -- refusals, checks and readers --------------------------------------------------------------------


def test_one_directory_that_is_refused_alone_is_as_cleanly_closed_as_it_was(path: Path) -> None:
    make(path, 2)
    with pytest.raises(ConfigError, match="broker 1 of a log of 2 brokers"):
        streamlog.open(path / "broker-1")
    assert owner(path, 1)["clean"]
    with streamlog.open(path) as log:
        assert log["t"].partition(0).leader_epoch == 0, "no broker was taken for one that may have lost records"


@pytest.mark.parametrize("take_away", [remove, empty])
def test_verify_says_which_directory_is_missing(path: Path, take_away: Callable[[Path], None]) -> None:
    make(path)
    take_away(path / "broker-1")
    report = streamlog.verify(path)
    assert [(each.kind, each.path) for each in report.problems] == [("missing", str(path / "broker-1"))]


def test_verify_finds_the_directories_that_lie_elsewhere(tmp_path: Path) -> None:
    places = [tmp_path / "log" / "broker-0", tmp_path / "disk" / "b"]
    with streamlog.open(brokers=places) as log:
        log.create_topic("t").send("x")
    whole = streamlog.verify(tmp_path / "log")
    assert whole.ok
    assert whole.partitions == 4, "two replicas, and two copies of the metadata"
    remove(places[1])
    [problem] = streamlog.verify(tmp_path / "log").problems
    assert (problem.kind, problem.path) == ("missing", str(places[1]))


@pytest.mark.parametrize("take_away", [remove, empty, lambda directory: (remove(directory), _a_loop(directory))])
@pytest.mark.parametrize("broker", range(3))
def test_a_reader_reads_what_is_left(path: Path, broker: int, take_away: Callable[[Path], None]) -> None:
    sent = make(path)
    take_away(path / f"broker-{broker}")
    with streamlog.open(path, read_only=True) as log:
        assert sorted(values(log)) == sorted(sent)  # type: ignore[type-var]


@pytest.mark.parametrize("how", ["stopped", "missing at the last open"])
def test_a_reader_of_a_closed_log_takes_the_directory_with_the_newest_metadata(
    path: Path, tmp_path: Path, how: str
) -> None:
    sent = make(path)
    if how != "stopped":
        (path / "broker-0").rename(tmp_path / "away")
    with streamlog.open(path) as log:
        if how == "stopped":
            log.brokers[0].stop()
        log.create_topic("later").send("x")
        sent.append(b"later")
        log["t"].send(sent[-1])
    if how != "stopped":
        (tmp_path / "away").rename(path / "broker-0")
    with streamlog.open(path, read_only=True) as log:
        assert values(log, "later") == [b"x"]
        assert sorted(values(log)) == sorted(sent)  # type: ignore[type-var]


def test_a_reader_says_which_partition_has_no_replica_left(path: Path) -> None:
    make(path, replication_factor=1)
    remove(path / "broker-1")
    with streamlog.open(path, read_only=True) as log:
        assert len(list(log["t"].read(0))) == 10
        with pytest.raises(ReplicaNotAvailableError, match="t-1"):
            list(log["t"].read(1))


# -- copies of the metadata --------------------------------------------------------------------------


@pytest.mark.slow
def test_whichever_directory_is_missing_after_a_crash_the_copies_agree_and_nothing_acknowledged_is_lost(
    clock: ManualClock,
) -> None:
    disk = SimulatedDisk()
    with streamlog.open("data", brokers=3, disk=disk, clock=clock) as log:
        disk.mark("opened")
        log.create_topic("t")
        disk.mark("t is made")
        log.create_topic("u")
        disk.mark("u is made")
        log.delete_topic("t")
        disk.mark("t is deleted")
    states = [(name, state) for name, state in disk.crashes() if "opened" in state.marks]
    seen = set()
    for at, (name, state) in enumerate(states[:: max(1, len(states) // 60)]):
        missing = at % 3
        state.rmtree(f"/data/broker-{missing}")
        with streamlog.open("data", disk=state, clock=clock) as log:
            topics = set(log)
            seen.add(frozenset(topics))
            assert "t" in topics or "t is made" not in state.marks or "u is made" in state.marks, name
            assert "u" in topics or "u is made" not in state.marks, name
            assert "t" not in topics or "t is deleted" not in state.marks, name
            assert [each.running for each in log.brokers] == [each != missing for each in range(3)]
            log.brokers[missing].start()
            log.create_topic("after").send("z")
        with streamlog.open("data", disk=state, clock=clock) as log:
            assert set(log) == {*topics, "after"}, name
            assert values(log, "after") == [b"z"]
    assert seen == {frozenset(), frozenset("t"), frozenset("tu"), frozenset("u")}


def test_a_log_opens_while_the_partition_of_the_groups_is_offline(path: Path, tmp_path: Path) -> None:
    make(path, 5)
    with streamlog.open(path) as log:
        with log.consumer("t", group="g") as consumer:
            assert len(list(consumer.until_end())) == 30
        last, *others = log.topic("__consumer_offsets").partition(0).replicas
        for each in others:
            log.brokers[each].stop()
        log["t"].send("x")
    (path / f"broker-{last}").rename(tmp_path / "away")
    with streamlog.open(path, force=True) as log:
        assert log.metrics()["topics"]["__consumer_offsets"]["0"]["leader"] == -1
        (tmp_path / "away").rename(path / f"broker-{last}")
        log.brokers[last].start()
        assert sum(log.group("g").lag().values()) == 1
        assert len(values(log)) == 31


def test_a_broker_that_alone_has_a_partition_does_not_start_with_an_empty_one(path: Path, tmp_path: Path) -> None:
    make(path, replication_factor=1)
    with streamlog.open(path) as log:
        topic = log["t"]
        log.brokers[1].stop()
        [lost] = path.glob(f"broker-1/topics/{topic.id.hex}-*")
        lost.rename(tmp_path / "lost")
        with pytest.raises(streamlog.CorruptRecordError, match="t-1"):
            log.brokers[1].start()
        assert not log.brokers[1].running
        assert not lost.exists()
        assert len(list(topic.read(0))) == 10
        (tmp_path / "lost").rename(lost)
        log.brokers[1].start()
        assert len(values(log)) == 30


@pytest.mark.slow
def test_a_crash_while_a_directory_is_made_anew_leaves_one_that_can_be_started(clock: ManualClock) -> None:
    disk = SimulatedDisk()
    with streamlog.open("data", brokers=3, disk=disk, clock=clock) as log:
        log.create_topic("t", partitions=2).send_many([b"%d" % n for n in range(10)], partition=1)
    disk.rmtree("/data/broker-1")
    with streamlog.open("data", disk=disk, clock=clock) as log:
        disk.mark("opened")
        log.brokers[1].start()
        disk.mark("started")
    states = [(name, state) for name, state in disk.crashes() if "opened" in state.marks]
    seen = set()
    for name, state in states[:: max(1, len(states) // 60)]:
        with streamlog.open("data", disk=state, clock=clock) as log:
            seen.add(log.brokers[1].running)
            assert log.brokers[1].running or "started" not in state.marks, name
            assert len(values(log)) == 10, name
            log.brokers[1].start()
            eventually(all_in_sync(log), name)
            log.elect_leader(streamlog.TopicPartition("t", 1), 1)
            log["t"].send("x", partition=1)
            assert len(values(log)) == 11, name
    assert seen == {False, True}


def test_what_a_crashed_open_left_on_a_copy_that_was_missing_next_time_gives_way_to_what_was_done_since(
    clock: ManualClock, sampled: Sampled
) -> None:
    """An open begins an epoch. A copy that has its first record alone must not pass for one of those that went on without it."""
    disk = SimulatedDisk()
    with streamlog.open("data", brokers=3, disk=disk, clock=clock) as log:
        log.create_topic("t")
    disk.mark("closed")
    begun = len(disk.operations)
    with streamlog.open("data", disk=disk, clock=clock):
        disk.mark("opened")
    states = [(name, state) for name, state in disk.crashes(0, first=begun) if "opened" not in state.marks]
    for name, state in sampled(states, 8, full=3):
        missing = "/data/broker-0"  # the first to have it
        state.rename(missing, "/away")
        with streamlog.open("data", disk=state, clock=clock) as log:
            log.create_topic("meanwhile")
            known = set(log)
        state.rename("/away", missing)
        with streamlog.open("data", disk=state, clock=clock) as log:
            assert set(log) == known, name
        for broker in range(3):
            with streamlog.open(f"data/broker-{broker}", disk=state, clock=clock, read_only=True) as log:
                assert set(log) == known, name
        assert len({_metadata_of(state, broker) for broker in range(3)}) == 1, name


def _metadata_of(disk: SimulatedDisk, broker: int) -> bytes:
    directory = f"/data/broker-{broker}/__cluster_metadata-0"
    return b"".join(disk.read(f"{directory}/{name}") for name in disk.listdir(directory) if name.endswith(".log"))
