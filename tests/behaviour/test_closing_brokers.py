"""A log of several brokers is closed while the disk of one of them fails: what the others have is as safe as without that."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

import pytest

import streamlog
from streamlog.errors import PoisonedLogError, StorageError
from streamlog.testing import FaultyDisk

from .traffic import eventually, remove, values


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL + 1, "streamlog")


def _sent(log: streamlog.StreamLog, count: int = 30) -> list[bytes]:
    topic = log.create_topic("t", partitions=3, exist_ok=True)
    sent = [b"%d" % n for n in range(count)]
    topic.send_many(sent, partition=1).result()
    return sent


def _in_sync_again(log: streamlog.StreamLog, *started: int) -> None:
    for broker_id in started:
        log.brokers[broker_id].start()
    eventually(lambda: all(set(log["t"].partition(n).isr) == {*range(len(log.brokers))} for n in range(3)))


@pytest.mark.parametrize("brokers", [2, 3])
@pytest.mark.parametrize("broker", [0, 1])
def test_a_directory_that_was_removed_a_moment_ago_is_no_error_of_a_close(
    path: Path, brokers: int, broker: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its broker has it as open files, and has not noticed. The next open needs no force, also of two brokers."""
    monkeypatch.setattr("streamlog.broker.brokers.WATCH_MS", 1 << 40)
    with streamlog.open(path, brokers=brokers, min_insync_replicas=1) as log:
        sent = _sent(log)
        remove(path / f"broker-{broker}")
    with streamlog.open(path) as log:
        assert values(log) == sent
        assert not log.brokers[broker].running
        _in_sync_again(log, broker)


@pytest.mark.parametrize("broker", range(3))
@pytest.mark.parametrize(
    ("op", "error", "file"),
    [
        ("open", errno.ENOENT, "topics/*/partition.state"),
        ("open", errno.EIO, "topics/*/partition.state"),
        ("sync", errno.EIO, "topics/*.log"),
        ("any", errno.EIO, "*"),
    ],
)
def test_a_disk_that_fails_under_one_broker_in_the_middle_of_a_close_is_no_error_of_it(
    path: Path, op: str, error: int, file: str, broker: int
) -> None:
    """With ENOENT: the directory is removed after it was looked whether it is there."""
    disk = FaultyDisk()
    log = streamlog.open(path, brokers=3, disk=disk)
    sent = _sent(log)
    fault = disk.fail(op, error, path=f"*/broker-{broker}/{file}", times=None)
    log.close()
    assert fault.fired
    disk.heal()
    with streamlog.open(path, disk=disk) as log:
        assert values(log) == sent
        _in_sync_again(log)


def test_a_close_raises_what_the_disk_under_the_only_replica_raises(path: Path) -> None:
    disk = FaultyDisk()
    log = streamlog.open(path, brokers=3, disk=disk)
    topic = log.create_topic("t", replication_factor=1)
    topic.send(b"x")
    disk.fail("sync", errno.EIO, path=f"*/broker-{topic.partition(0).leader}/topics/*.log", times=None)
    with pytest.raises(PoisonedLogError):
        log.close()


def test_a_close_raises_where_no_replica_can_be_closed(path: Path) -> None:
    disk = FaultyDisk()
    log = streamlog.open(path, brokers=3, disk=disk)
    _sent(log)
    disk.fail("open", errno.EIO, path="*/topics/*/partition.state", times=None)
    with pytest.raises(StorageError, match=r"partition\.state"):
        log.close()


def test_a_close_raises_where_too_few_copies_of_the_metadata_are_left_to_open_it(path: Path) -> None:
    disk = FaultyDisk()
    log = streamlog.open(path, brokers=3, disk=disk)
    _sent(log)
    for broker in (1, 2):
        disk.fail("open", errno.EIO, path=f"*/broker-{broker}/__cluster_metadata-0/partition.state", times=None)
    with pytest.raises(StorageError, match="__cluster_metadata"):
        log.close()


def test_a_close_raises_where_the_leader_alone_has_a_record_and_its_disk_fails(path: Path) -> None:
    disk = FaultyDisk()
    log = streamlog.open(path, brokers=2, min_insync_replicas=1, disk=disk)
    topic = log.create_topic("t")
    topic.send(b"x")
    leader = topic.partition(0).leader
    log.brokers[1 - leader].stop()
    topic.send(b"y")
    disk.fail("sync", errno.EIO, path=f"*/broker-{leader}/topics/*.log", times=None)
    with pytest.raises(PoisonedLogError):
        log.close()
