"""A broker is retired while the log is written and read: what it has moves to the others, and then it is not there any more."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import ConfigError, NotEnoughReplicasError, ReadOnlyError, StreamLog, TopicPartition
from streamlog.testing import ManualClock, SimulatedDisk

from .traffic import remove, traffic, values


def counts(log: StreamLog, *, leaders: bool = False) -> Counter[int]:
    """How many replicas each broker has, or leads."""
    infos = [topic.partition(n) for topic in log.topics(internal=True) for n in range(topic.partitions)]
    return Counter(info.leader for info in infos) if leaders else Counter(b for info in infos for b in info.replicas)


def stuck(log: StreamLog) -> None:
    """No follower fetches any more, so nothing that needs one comes to its end."""
    for broker in log._engine.service.brokers.all:  # type: ignore[attr-defined]
        broker.fetcher._leader_of = lambda name: None


@pytest.mark.slow
@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("broker", [0, 3])
def test_a_broker_is_retired_while_producers_and_consumers_run(path: Path, broker: int, sync: bool) -> None:
    left = {0, 1, 2, 3} - {broker}
    with streamlog.open(path, brokers=4, sync=sync) as log:
        log.create_topic("t")
        log.create_topic("u", partitions=8, replication_factor=2).send_many([b"%d" % n for n in range(80)])
        with log.consumer("u", group="g") as consumer, traffic(log) as running:
            assert len(consumer.poll(5))
            consumer.commit()
            running.until(20)
            handle = log.brokers[broker]
            retired = log.retire_broker(broker)
            running.until(20)
            retired.wait(60)
            assert (retired.done(), retired.progress) == (True, 1.0)
            assert {each.id for each in log.brokers} == left
            assert not handle.running
            with pytest.raises(ConfigError, match=f"There is no broker {broker}"):
                handle.start()
            running.until(20)
            consumer.commit()
        assert set(counts(log)) <= left
        assert set(counts(log, leaders=True)) <= left
        assert max(counts(log).values()) - min(counts(log).values()) <= 1, "evenly"
        assert not log.reassignments()
        before = sorted(values(log, "u"))  # type: ignore[type-var]
    with streamlog.open(path, sync=sync) as log:
        assert {each.id for each in log.brokers} == left
        assert values(log) == running.acknowledged
        assert sorted(values(log, "u")) == before  # type: ignore[type-var]
        assert log.group("g").committed()


def test_the_directory_is_left_and_is_not_taken_for_a_broker_again(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        log.create_topic("t", replication_factor=2).send("x")
        log.retire_broker(0).wait(30)
        assert (path / "broker-0" / "streamlog.json").exists()
        assert log.add_broker(path / "broker-3").id == 3, "a number is used once"
        log.retire_broker(3).wait(30)
    for options in ({}, {"brokers": 2}):
        with streamlog.open(path, **options) as log:  # type: ignore[arg-type]
            assert [broker.id for broker in log.brokers] == [1, 2]
            assert values(log) == [b"x"]
            assert log.add_broker(path.parent / f"added{len(options)}").id == 4 + len(options)
            log.retire_broker(4 + len(options)).wait(30)
    with streamlog.open(path, read_only=True) as log:
        assert values(log) == [b"x"]
    shutil.rmtree(path / "broker-0")
    with streamlog.open(path) as log:
        assert values(log) == [b"x"]


def test_brokers_are_retired_until_one_is_left_and_added_again(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        log.create_topic("t", replication_factor=1).send("x")
        for broker in (0, 1):
            log.retire_broker(broker).wait(30)
        with pytest.raises(ConfigError, match="no other one runs"):
            log.retire_broker(2)
        log["t"].send("y")
    with streamlog.open(path) as log:
        assert [broker.id for broker in log.brokers] == [2]
        log["t"].send("z")
        log.create_topic("new").send("x")
        log.add_broker(path / "broker-3")
        log.reassign("t", replication_factor=2).wait(30)
        log.reassign("new", replicas={0: [3]}).wait(30)
        assert values(log) == [b"x", b"y", b"z"]


def test_the_directory_of_a_retired_broker_may_go_unless_the_log_is_found_by_it(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without it `open` made a new log, of nothing, though it was said that the directory can be removed."""
    elsewhere = path.parent / "elsewhere"
    caplog.set_level("INFO", "streamlog")
    with streamlog.open(path, brokers=2) as log:
        log.create_topic("t", replication_factor=1).send("x")
        log.add_broker(elsewhere)
        for broker, said in (
            (0, f"{path / 'broker-0'} is left, and can be removed"),
            (1, f"keep its directory {path / 'broker-1'}"),
        ):
            log.retire_broker(broker).wait(30)
            assert said in caplog.records[-1].getMessage()
    shutil.rmtree(path / "broker-0")
    with streamlog.open(path) as log:
        assert [broker.path for broker in log.brokers] == [str(elsewhere)]
        assert values(log) == [b"x"]
        log.add_broker(path / "broker-3")
    shutil.rmtree(path / "broker-1")
    with streamlog.open(path) as log:
        assert [broker.path for broker in log.brokers] == [str(elsewhere), str(path / "broker-3")]
        assert values(log) == [b"x"]


def test_too_few_brokers_for_a_factor_are_refused_with_what_to_do(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        log.create_topic("t", replication_factor=3).send("x")
        with pytest.raises(ConfigError, match=r"topic 't' has 3 replicas, and 2 brokers would be left") as raised:
            log.retire_broker(1)
        assert "log.reassign('t', replication_factor=2)" in str(raised.value)
        for wrong in (3, -1, "0", None, True):
            with pytest.raises(ConfigError, match="broker"):
                log.retire_broker(wrong)  # type: ignore[arg-type]
        assert not log.reassignments()
        log.reassign("t", replication_factor=2).wait(30)
        log.retire_broker(1).wait(30)
        assert values(log) == [b"x"]
    with streamlog.open(path.parent / "one") as log, pytest.raises(ConfigError, match="has one broker"):
        log.retire_broker(0)
    with streamlog.open(path, read_only=True) as log, pytest.raises(ReadOnlyError):
        log.retire_broker(0)


def test_the_logs_own_topics_make_do_with_fewer_replicas(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic = log.create_topic("t", replication_factor=2)
        topic.send("x")
        with log.consumer("t", group="g") as consumer:
            assert len(consumer.poll(5)) == 1
            consumer.commit()
            assert len(log["__consumer_offsets"].partition(0).replicas) == 3
            log.retire_broker(0).wait(30)
            assert len(log["__consumer_offsets"].partition(0).replicas) == 2
            topic.send("y")
            assert [record.value for record in consumer.poll(5)] == [b"y"]
            consumer.commit()
        assert log.group("g").lag() == {TopicPartition("t", 0): 0}


@pytest.mark.parametrize("is_missing", [False, True])
def test_a_broker_that_is_stopped_or_lost_its_directory_is_retired(path: Path, is_missing: bool) -> None:
    with streamlog.open(path, brokers=4) as log:
        log.create_topic("t", partitions=4).send_many([b"%d" % n for n in range(40)])
        log.create_topic("t2")
        with traffic(log, "t2") as running:
            running.until(10)
            log.brokers[1].stop()
            if is_missing:
                remove(path / "broker-1")
            log.retire_broker(1).wait(60)
            running.until(10)
        assert set(counts(log)) == {0, 2, 3}
        assert len(values(log)) == 40
        assert all(len(log["t"].partition(n).isr) == 3 for n in range(4))
    with streamlog.open(path) as log:
        assert [broker.id for broker in log.brokers] == [0, 2, 3]
        assert values(log, "t2") == running.acknowledged


def test_a_stopped_broker_with_the_last_replica_is_not_retired(path: Path) -> None:
    with streamlog.open(path, brokers=2) as log:
        log.create_topic("t", replication_factor=1).send("x")
        leader = log["t"].partition(0).leader
        broker = next(each for each in log.brokers if each.id == leader)
        broker.stop()
        with pytest.raises(ConfigError, match="has the only replica of t-0 that is in sync"):
            log.retire_broker(leader)
        broker.start()
        log.retire_broker(leader).wait(30)
        assert values(log) == [b"x"]


def test_new_topics_do_not_use_a_broker_that_is_being_retired(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        log.create_topic("t", replication_factor=2).send("x")
        stuck(log)
        retiring = log.retire_broker(1)
        assert retiring.progress < 1.0
        log.create_topic("new", partitions=6)
        assert {b for n in range(6) for b in log["new"].partition(n).replicas} == {0, 2}
        with pytest.raises(ConfigError, match="needs as many brokers, and this log has 2"):
            log.create_topic("three", replication_factor=3)
        with pytest.raises(ConfigError, match="different brokers of this log"):
            log.reassign("t", replicas={0: [1]})


def test_retiring_is_listed_and_cancelled(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        for name in ("t", "u", "v"):
            log.create_topic(name, partitions=3, replication_factor=2).send("x")
        before = {name: [log[name].partition(n).replicas for n in range(3)] for name in log}
        stuck(log)
        retiring = log.retire_broker(2)
        with pytest.raises(TimeoutError):
            retiring.wait(0.05)
        assert repr(log.retire_broker(2)) == repr(retiring), "once is enough"
        assert [repr(each) for each in log.reassignments()] == [repr(retiring)]
        retiring.cancel()
        retiring.wait(30)
        for each in log.reassignments():
            each.wait(30)
        assert {broker.id for broker in log.brokers} == {0, 1, 2}
        after = {name: [log[name].partition(n).replicas for n in range(3)] for name in log}
        assert {name: [set(each) for each in of] for name, of in after.items()} == {
            name: [set(each) for each in of] for name, of in before.items()
        }


@pytest.mark.parametrize("how", ["close", "kill"])
def test_retiring_goes_on_at_the_next_open(clock: ManualClock, how: str) -> None:
    disk = SimulatedDisk()
    log = streamlog.open("data", brokers=3, disk=disk, clock=clock)
    for name in ("t", "u", "v"):
        log.create_topic(name, partitions=2, replication_factor=2).send("x")
    stuck(log)
    assert not log.retire_broker(1).done()
    after = disk.kill() if how == "kill" else disk
    log.close()
    with streamlog.open("data", disk=after, clock=clock) as log:
        for found in log.reassignments():
            found.wait(30)
        assert [broker.id for broker in log.brokers] == [0, 2]
        assert set(counts(log)) == {0, 2}
        assert [values(log, name) for name in log] == [[b"x"]] * 3


@pytest.mark.slow
def test_every_crash_while_a_broker_is_retired_leaves_all_that_was_acknowledged(clock: ManualClock) -> None:
    disk = SimulatedDisk()
    with streamlog.open("data", brokers=3, disk=disk, clock=clock, sync=True) as log:
        log.create_topic("t", replication_factor=1).send("x")
        log.create_topic("u", replication_factor=2).send("y")
        begun = len(disk.operations)
        log.retire_broker(0).wait(30)
    states = list(disk.crashes(1, first=begun))
    ends = set()
    for name, state in states[:: max(1, len(states) // 60)]:
        with streamlog.open("data", disk=state, clock=clock, sync=True) as log:
            for found in log.reassignments():
                found.wait(30)
            assert (values(log), values(log, "u")) == ([b"x"], [b"y"]), name
            ends.add(tuple(broker.id for broker in log.brokers))
    assert ends == {(0, 1, 2), (1, 2)}


def test_no_topic_is_created_where_all_brokers_that_run_are_about_to_leave(path: Path) -> None:
    with streamlog.open(path, brokers=2) as log:
        topic = log.create_topic("t", replication_factor=1)
        topic.send_many([b"x" * 1000] * 10)
        leaving = topic.partition(0).leader
        log.replication_throttle_bytes_per_s = 1
        log.retire_broker(leaving)
        log.brokers[1 - leaving].stop()
        service: Any = log._engine.service
        with pytest.raises(NotEnoughReplicasError, match="about to leave the log"):  # a call is made again for a while
            service._topics.create_topic("u", 1, {})
        log.brokers[1 - leaving].start()
        assert log.create_topic("u").send("y").result().offset == 0
