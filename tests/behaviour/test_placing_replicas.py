"""Replicas are placed on brokers that run, while those are enough; the number of replicas does not depend on it."""

from __future__ import annotations

from pathlib import Path

import pytest

import streamlog
from streamlog import ConfigError, StreamLog
from streamlog.testing import ManualClock, SimulatedDisk

from .traffic import eventually, traffic, values


def placed(log: StreamLog, topic: str) -> list[tuple[int, ...]]:
    return [log[topic].partition(n).replicas for n in range(log[topic].partitions)]


def test_new_topics_are_on_brokers_that_run_while_those_are_enough(path: Path) -> None:
    with streamlog.open(path, brokers=4) as log:
        log.brokers[1].stop()
        log.create_topic("t", partitions=6, replication_factor=3)
        assert {broker for replicas in placed(log, "t") for broker in replicas} == {0, 2, 3}
        assert {replicas[0] for replicas in placed(log, "t")} == {0, 2, 3}, "leaders are spread"
        log["t"].add_partitions(12)
        assert {broker for replicas in placed(log, "t") for broker in replicas} == {0, 2, 3}


def test_where_too_few_run_the_others_get_replicas_that_are_not_in_sync(path: Path) -> None:
    """As in Kafka: the number of replicas is that which was asked for, and a broker that comes back fills its own."""
    with streamlog.open(path, brokers=3) as log:
        log.brokers[0].stop()
        topic = log.create_topic("t", partitions=4)
        assert all(set(replicas) == {0, 1, 2} and replicas[0] != 0 for replicas in placed(log, "t"))
        assert all(set(topic.partition(n).isr) == {1, 2} for n in range(4))
        assert {topic.partition(n).leader for n in range(4)} == {1, 2}
        log.create_topic("one")
        with traffic(log, "one") as running:
            running.until(20)
            log.brokers[0].start()
            eventually(lambda: all(len(topic.partition(n).isr) == 3 for n in range(4)))
            eventually(lambda: len(log["one"].partition(0).isr) == 3)
        topic.add_partitions(6)
        assert len(topic.partition(5).isr) == 3
    with streamlog.open(path) as log:
        assert values(log, "one") == running.acknowledged


def test_partitions_are_added_while_a_broker_does_not_run(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        log.create_topic("t")
        log.brokers[2].stop()
        log["t"].add_partitions(4)
        assert all(len(replicas) == 3 for replicas in placed(log, "t"))
        assert all(2 not in log["t"].partition(n).isr for n in range(1, 4))


@pytest.mark.parametrize("how", ["close", "kill"])
def test_a_replica_that_was_placed_while_its_broker_did_not_run_is_made_at_the_next_open(
    clock: ManualClock, how: str
) -> None:
    disk = SimulatedDisk()
    log = streamlog.open("data", brokers=3, disk=disk, clock=clock)
    log.brokers[0].stop()
    log.create_topic("t", partitions=2)
    log["t"].send("x")
    after = disk.kill() if how == "kill" else disk
    log.close()
    with streamlog.open("data", disk=after, clock=clock) as log:
        eventually(lambda: all(len(log["t"].partition(n).isr) == 3 for n in range(2)))
        assert values(log) == [b"x"]


def test_the_default_of_the_factor_does_not_shrink_while_a_broker_does_not_run(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        log.brokers[1].stop()
        topic = log.create_topic("t")
        assert len(topic.partition(0).replicas) == 3
        assert topic.config["min_insync_replicas"] == 2
        with log.consumer("t", group="g") as consumer:
            consumer.poll(0)
        assert len(log["__consumer_offsets"].partition(0).replicas) == 3
        with pytest.raises(ConfigError, match="this log has 3"):
            log.create_topic("u", replication_factor=4)


def test_a_factor_that_grows_gets_brokers_that_run_and_one_that_shrinks_keeps_them(path: Path) -> None:
    with streamlog.open(path, brokers=4) as log:
        log.create_topic("t", partitions=4, replication_factor=2)
        log.brokers[3].stop()
        before = placed(log, "t")
        log.reassign("t", replication_factor=3).wait(30)
        added = [set(new) - set(old) for old, new in zip(before, placed(log, "t"), strict=True)]
        assert all(len(each) == 1 and 3 not in each for each in added)
        log.create_topic("u", partitions=4, replication_factor=1)
        log.reassign("u", replication_factor=3).wait(30)
        assert all(set(replicas) == {0, 1, 2} for replicas in placed(log, "u"))
        log.reassign("t", replication_factor=2).wait(30)
        assert all(3 not in replicas[1:] for replicas in placed(log, "t"))
