"""What a log of several brokers says about its replicas: `metrics()`, `Topic.partition(n)`, and to readers in other processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import ReplicaNotAvailableError, StreamLog

from .owner_process import Child, Owner, eventually


def without_replica(log: StreamLog) -> int:
    """A broker that has no replica of partition 0 of topic `t`."""
    return next(each for each in range(3) if each not in log["t"].partition(0).replicas)


def test_metrics_say_who_leads_who_follows_and_that_nothing_is_behind(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        log.create_topic("t", partitions=3).send_many([b"%d" % n for n in range(30)])
        found = log.metrics()
        assert found["replication"] == {
            "offline_partitions": 0,
            "under_replicated_partitions": 0,
            "under_min_isr_partitions": 0,
            "isr_shrinks": 0,
            "isr_expands": 0,
            "unclean_leader_elections": 0,
            "damaged": 0,
            "repaired": 0,
            "scrubbed_bytes": 0,
        }
        assert [each["leaders"] for each in found["brokers"].values()] == [1, 1, 1]
        assert [each["replicas"] for each in found["brokers"].values()] == [3, 3, 3]
        assert found["brokers"]["1"]["path"] == str(path / "broker-1")
        for number, partition in found["topics"]["t"].items():
            info = log["t"].partition(int(number))
            assert (partition["leader"], partition["leader_epoch"]) == (info.leader, 0)
            assert tuple(partition["isr"]) == tuple(sorted(partition["isr"], key=info.replicas.index)) == info.isr
            followers = {str(each) for each in info.replicas if each != info.leader}
            assert partition["lag"] == {each: {"records": 0, "ms": 0} for each in followers}


def test_a_log_of_one_broker_has_the_same_numbers(path: Path) -> None:
    with streamlog.open(path) as log:
        log.create_topic("t").send("x")
        found = log.metrics()
        assert found["brokers"] == {
            "0": {
                "path": str(path),
                "running": True,
                "failure": None,
                "retiring": False,
                "leaders": 1,
                "replicas": 1,
                "lag_records": 0,
                "lag_ms": 0,
            }
        }
        partition = found["topics"]["t"]["0"]
        assert (partition["leader"], partition["replicas"], partition["isr"]) == (0, [0], [0])
        assert "lag" not in partition


def test_a_follower_that_does_not_fetch_lags_and_leaves_the_in_sync_set(path: Path) -> None:
    with streamlog.open(path, brokers=3, replica_lag_time_max_ms=100) as log:
        topic = log.create_topic("t", replication_factor=3, min_insync_replicas=1)
        leader = topic.partition(0).leader
        stuck = next(each for each in range(3) if each != leader)
        brokers = log._engine.service.brokers  # type: ignore[attr-defined]
        fetcher = brokers.all[stuck].fetcher
        follow = fetcher.follow
        fetcher.follow = lambda replica: None
        fetcher.forget(("t", 0))
        with log.producer(acks=1) as producer:
            for _ in range(7):
                producer.send("t", "x")
        at_once = log.metrics()
        assert at_once["topics"]["t"]["0"]["lag"][str(stuck)]["records"] == 7
        assert at_once["brokers"][str(stuck)]["lag_records"] == 7
        eventually(lambda: stuck in topic.partition(0).isr, False)
        found = log.metrics()
        assert found["replication"]["under_replicated_partitions"] == 1
        assert found["replication"]["under_min_isr_partitions"] == 0
        assert (found["replication"]["isr_shrinks"], found["replication"]["isr_expands"]) == (1, 0)
        assert found["topics"]["t"]["0"]["lag"][str(stuck)]["ms"] > 100
        topic.update_config(min_insync_replicas=3)
        assert log.metrics()["replication"]["under_min_isr_partitions"] == 1
        fetcher.follow = follow
        fetcher.follow(brokers.all[stuck].replicas.partitions["t", 0])
        eventually(lambda: log.metrics()["replication"]["under_replicated_partitions"], 0)
        assert log.metrics()["replication"]["isr_expands"] == 1
        assert log.metrics()["brokers"][str(stuck)]["lag_records"] == 0


@pytest.fixture
def owner(child: Child, path: Path) -> Owner:
    made = Owner(child, path, brokers=3)
    made("t = log.create_topic('t', replication_factor=2)")
    return made


def values(log: StreamLog) -> list[Any]:
    return [record.value for record in log["t"].read()]


def test_a_reader_of_one_broker_follows_its_replica(path: Path, owner: Owner) -> None:
    with streamlog.open(path, read_only=True) as log:
        info = log["t"].partition(0)
        assert (len(info.replicas), info.isr, info.leader) == (2, info.replicas, info.replicas[0])
    for broker in info.replicas:
        with streamlog.open(path / f"broker-{broker}", read_only=True) as log:
            owner(f"t.send('{broker}')")
            expected = [b"%d" % each for each in info.replicas[: 1 + info.replicas.index(broker)]]
            eventually(lambda log=log: values(log), expected)
            assert log["t"].partition(0).replicas == info.replicas
            found = log.metrics()
            assert found["topics"]["t"]["0"]["leader"] == info.leader
            assert found["brokers"][str(info.leader)]["leaders"] == 1
            assert found["replication"]["offline_partitions"] == 0
    owner.close()


def test_a_broker_without_a_replica_says_which_have_one(path: Path, owner: Owner) -> None:
    with streamlog.open(path, read_only=True) as log:
        other = without_replica(log)
    with streamlog.open(path / f"broker-{other}", read_only=True) as log:
        assert "t" in log
        with pytest.raises(ReplicaNotAvailableError, match=rf"is the directory of broker {other}"):
            log["t"].partition(0)
        with pytest.raises(ReplicaNotAvailableError, match="read_only=True"):
            list(log["t"].read())
        assert log.metrics()["topics"]["t"]["0"]["leader"] != other
    owner.close()


def test_a_reader_of_the_whole_log_has_every_partition(path: Path, owner: Owner) -> None:
    owner("s = log.create_topic('s', partitions=6, replication_factor=1)")
    owner("s.send_many([b'%d' % n for n in range(60)])")
    with streamlog.open(path, read_only=True) as log:
        assert log.path == str(path)
        eventually(lambda: len(list(log["s"].read())), 60)
        assert {log["s"].partition(n).leader for n in range(6)} == {0, 1, 2}
        with log.consumer("s") as consumer:
            owner("s.send_many([b'%d' % n for n in range(60, 90)])")
            found: list[Any] = []
            while len(found) < 90:
                found += consumer.poll(10)
        owner.kill()
        assert len(list(log["s"].read())) == 90


def test_a_reader_of_the_whole_log_uses_the_directories_that_are_there(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        log.create_topic("t").send("x")
    (path / "broker-0").rename(path.parent / "elsewhere")
    (path / "broker-0").mkdir()
    with streamlog.open(path, read_only=True) as log:
        assert values(log) == [b"x"]


def test_verify_checks_every_broker_and_expects_of_each_what_is_placed_there(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic = log.create_topic("t", partitions=3, replication_factor=1)
        topic.send_many([b"%d" % n for n in range(30)])
        placed = topic.partition(0).leader
    report = streamlog.verify(path)
    assert report.ok, str(report)
    assert (report.topics, report.partitions) == (1, 6)
    assert all(streamlog.verify(path / f"broker-{each}").ok for each in range(3))
    segment = next((path / f"broker-{placed}" / "topics").glob("*-0/*.log"))
    segment.write_bytes(segment.read_bytes()[:-1] + b"?")
    (problem,) = streamlog.verify(path).problems
    assert (problem.topic, problem.partition, problem.path) == ("t", 0, str(segment))


def test_verify_reports_a_broker_whose_directory_is_empty(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        log.create_topic("t").send("x")
    (path / "broker-1").rename(path.parent / "elsewhere")
    (path / "broker-1").mkdir()
    (problem,) = streamlog.verify(path).problems
    assert (problem.kind, problem.path) == ("missing", str(path / "broker-1"))
