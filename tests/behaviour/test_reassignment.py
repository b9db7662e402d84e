"""Leaders and replicas that are moved on purpose, while producers and consumers run: nothing acknowledged is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import (
    ClosedError,
    ConfigError,
    NotLeaderError,
    StreamLog,
    TopicPartition,
    UnknownTopicOrPartitionError,
)
from streamlog.testing import ManualClock, SimulatedDisk

from .traffic import eventually, remove, traffic, values

T0 = TopicPartition("t", 0)


# -- leaders ---------------------------------------------------------------------------------------------


def test_a_leader_is_moved_and_the_preferred_one_leads_again(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic = log.create_topic("t")
        topic.send("before")
        log.elect_leader(T0, 2)
        info = topic.partition(0)
        assert (info.leader, info.leader_epoch, info.replicas) == (2, 1, (0, 1, 2))
        assert set(info.isr or ()) == {0, 1, 2}
        topic.send("between")
        log.elect_leader(T0)
        assert topic.partition(0).leader == 0
        topic.send("after")
        log.elect_leader(T0)
        assert topic.partition(0).leader_epoch == 2, "an election that is not needed changes nothing"
        assert values(log) == [b"before", b"between", b"after"]
    with streamlog.open(path) as log:
        assert log["t"].partition(0).leader == 0
        assert values(log) == [b"before", b"between", b"after"]


@pytest.mark.parametrize("sync", [False, True])
def test_leaders_are_moved_while_producers_and_consumers_run(path: Path, sync: bool) -> None:
    with streamlog.open(path, brokers=3, sync=sync) as log:
        log.create_topic("t")
        with traffic(log) as running:
            for leader in (1, 2, 0, 2, 1, 0):
                running.until(10)
                log.elect_leader(T0, leader)
                assert log["t"].partition(0).leader == leader


def test_what_only_acks_1_promised_is_at_the_next_leader(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        log.create_topic("t")
        with log.producer(acks=1, linger_ms=0) as producer:
            for n in range(200):
                producer.send("t", b"%d" % n)
                if n % 40 == 39:
                    log.elect_leader(T0, n // 40 % 3)
        assert values(log) == [b"%d" % n for n in range(200)]


def test_a_group_goes_on_when_its_coordinator_moves(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic = log.create_topic("t")
        with log.consumer("t", group="g") as consumer:
            for n in range(6):
                topic.send(b"%d" % n)
                assert [record.value for record in consumer.poll(5)] == [b"%d" % n]
                consumer.commit()
                log.elect_leader(TopicPartition("__consumer_offsets", 0), n % 3)
            assert consumer.committed(T0) == 6


def test_who_cannot_lead_is_refused(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        log.create_topic("t", replication_factor=2)
        with pytest.raises(ConfigError, match="Broker 2 has no replica of t-0"):
            log.elect_leader(T0, 2)
        with pytest.raises(ConfigError, match="broker_id"):
            log.elect_leader(T0, "1")  # type: ignore[arg-type]
        for name in (TopicPartition("t", 7), TopicPartition("t", -1), TopicPartition("u", 0)):
            with pytest.raises(UnknownTopicOrPartitionError):
                log.elect_leader(name)
        with pytest.raises(ConfigError, match="a TopicPartition"):
            log.elect_leader("t")  # type: ignore[arg-type]
        brokers = log._engine.service.brokers  # type: ignore[attr-defined]
        brokers.on_isr_change = lambda: None  # it stays away
        before = brokers.all[0].replicas.partitions["t", 0].registration
        log._engine.service._topics.alter_partitions(  # type: ignore[attr-defined]
            {("t", 0): before._replace(isr=(0,), partition_epoch=before.partition_epoch + 1)}
        )
        with pytest.raises(NotLeaderError, match="not in sync") as raised:
            log.elect_leader(T0, 1)
        assert raised.value.retriable


def test_a_log_of_one_broker_has_only_one_that_can_lead(path: Path) -> None:
    with streamlog.open(path) as log:
        log.create_topic("t")
        log.elect_leader(T0)
        log.elect_leader(T0, 0)
        with pytest.raises(ConfigError, match="Broker 1 has no replica"):
            log.elect_leader(T0, 1)


# -- replicas --------------------------------------------------------------------------------------------


def directories_of(path: Path, log: StreamLog, topic: str = "t") -> dict[int, set[int]]:
    """The brokers that have files of each partition."""
    name = log[topic].id.hex
    return {
        number: {int(each.parent.parent.name[7:]) for each in path.glob(f"broker-*/topics/{name}-{number}")}
        for number in range(log[topic].partitions)
    }


@pytest.mark.parametrize("sync", [False, True])
def test_replicas_move_while_producers_and_consumers_run(path: Path, sync: bool) -> None:
    with streamlog.open(path, brokers=4, sync=sync) as log:
        topic = log.create_topic("t", replication_factor=2)
        with traffic(log) as running:
            for replicas in ((2, 3), (3, 0, 1), (1,), (2, 0)):
                running.until(10)
                moved = log.reassign("t", replicas={0: replicas})
                moved.wait(30)
                assert moved.done()
                assert moved.progress == 1.0
                assert topic.partition(0).replicas == replicas
                assert topic.partition(0).leader in replicas
                assert directories_of(path, log)[0] == set(replicas)
    with streamlog.open(path) as log:
        assert log["t"].partition(0).replicas == (2, 0)
        assert values(log) == running.acknowledged


def test_a_partition_that_was_alone_gets_followers_while_it_is_written(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic = log.create_topic("t", replication_factor=1)
        with traffic(log) as running:
            for factor, least in ((3, 2), (1, 1), (2, 1), (3, 2)):
                running.until(10)
                log.reassign(topic, replication_factor=factor).wait(30)
                info = topic.partition(0)
                assert len(info.replicas or ()) == len(info.isr or ()) == factor
                assert topic.config["min_insync_replicas"] == least, "the default of the factor"
        assert directories_of(path, log) == {0: {0, 1, 2}}


def test_a_factor_spreads_replicas_and_leaves_leaders(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic = log.create_topic("t", partitions=6, replication_factor=1)
        topic.send_many([b"%d" % n for n in range(60)])
        before = [topic.partition(n).leader for n in range(6)]
        log.reassign("t", replication_factor=2).wait(30)
        assert [topic.partition(n).leader for n in range(6)] == before
        on = [broker for n in range(6) for broker in topic.partition(n).replicas or ()]
        assert sorted(on) == sorted([0, 1, 2] * 4)
        assert len(values(log)) == 60


def test_a_min_insync_replicas_of_its_own_stays_and_is_not_made_impossible(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic = log.create_topic("t", replication_factor=3, min_insync_replicas=3)
        with pytest.raises(ConfigError, match="min_insync_replicas=3 with 2 replicas"):
            log.reassign("t", replication_factor=2)
        assert topic.partition(0).replicas == (0, 1, 2)
        topic.update_config(min_insync_replicas=1)
        log.reassign("t", replication_factor=2).wait(30)
        assert topic.config["min_insync_replicas"] == 1


def test_the_offsets_of_groups_can_be_moved(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic = log.create_topic("t")
        topic.send("x")
        with log.consumer("t", group="g") as consumer:
            assert len(consumer.poll(5)) == 1
            consumer.commit()
            log.reassign("__consumer_offsets", replicas={0: [2]}).wait(30)
            topic.send("y")
            assert len(consumer.poll(5)) == 1
            consumer.commit()
        assert log.group("g").lag() == {T0: 0}


def stuck(log: StreamLog) -> None:
    """No follower fetches any more, so nothing that needs one comes to its end."""
    for broker in log._engine.service.brokers.all:  # type: ignore[attr-defined]
        broker.fetcher._leader_of = lambda name: None


def test_what_is_under_way_goes_on_after_a_crash(clock: ManualClock) -> None:
    disk = SimulatedDisk()
    log = streamlog.open("data", brokers=3, disk=disk, clock=clock)
    topic = log.create_topic("t", replication_factor=1)
    topic.send("x")
    stuck(log)
    moving = log.reassign("t", replicas={0: [2, 1]})
    assert not moving.done()
    assert moving.progress < 1.0
    assert topic.partition(0).replicas == (2, 1, 0)
    topic.send("y")
    with pytest.raises(TimeoutError, match="goes on in the background"):
        moving.wait(0)
    after = disk.kill()
    log.close()
    with pytest.raises(ClosedError):
        moving.done()
    assert "closed" in repr(moving)
    with streamlog.open("data", disk=after, clock=clock) as log:
        for found in log.reassignments():
            found.wait(30)
        assert not log.reassignments()
        assert log["t"].partition(0).replicas == (2, 1)
        assert values(log) == [b"x", b"y"]


def test_waits_that_end_before_the_reassignment_leave_nothing_behind(clock: ManualClock) -> None:
    with streamlog.open("data", brokers=3, disk=SimulatedDisk(), clock=clock) as log:
        log.create_topic("t", replication_factor=1)
        stuck(log)
        moving = log.reassign("t", replicas={0: [2, 1]})
        for _ in range(20):
            with pytest.raises(TimeoutError):
                moving.wait(0)
        assert len(log._engine.service._reassignments._waiting) == 1  # type: ignore[attr-defined]


@pytest.mark.slow
def test_every_crash_while_replicas_move_leaves_all_that_was_acknowledged(clock: ManualClock) -> None:
    disk = SimulatedDisk()
    with streamlog.open("data", brokers=3, disk=disk, clock=clock, sync=True) as log:
        log.create_topic("t", replication_factor=1).send("x")
        begun = len(disk.operations)
        log.reassign("t", replicas={0: [1, 2]}).wait(30)
    states = list(disk.crashes(1, first=begun))
    ends = set()
    for name, state in states[:: max(1, len(states) // 60)]:
        with streamlog.open("data", disk=state, clock=clock, sync=True) as log:
            for found in log.reassignments():
                found.wait(30)
            assert values(log) == [b"x"], name
            ends.add(log["t"].partition(0).replicas)
    assert ends == {(0,), (1, 2)}


def test_a_reassignment_is_listed_and_cancelled(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic = log.create_topic("t", replication_factor=1)
        topic.send("x")
        stuck(log)
        moving = log.reassign("t", replicas={0: [2, 1]})
        assert [repr(each) for each in log.reassignments()] == [repr(moving)]
        assert directories_of(path, log) == {0: {0, 1, 2}}
        moving.cancel()
        moving.wait(30)
        assert not log.reassignments()
        assert topic.partition(0).replicas == (0,)
        assert directories_of(path, log) == {0: {0}}
        again = log.reassign("t", replicas={0: [1]})
        log.reassign("t", replicas={0: [0]}).wait(30)  # Kafka's way
        assert again.done(), "it was replaced"
        log.reassign("t", replicas={0: [1]})
        log.delete_topic("t")
        assert not log.reassignments()


def test_replicas_that_cannot_be_are_refused(path: Path) -> None:
    with streamlog.open(path, brokers=2) as log:
        log.create_topic("t", replication_factor=1)
        for wanted in ({0: [2]}, {0: []}, {0: [0, 0]}, {}, [0], {0: 1}, {0: "1"}, {0: ["1"]}):
            with pytest.raises(ConfigError, match="replicas"):
                log.reassign("t", replicas=wanted)  # type: ignore[arg-type]
        with pytest.raises(UnknownTopicOrPartitionError):
            log.reassign("t", replicas={1: [0]})
        with pytest.raises(UnknownTopicOrPartitionError):
            log.reassign("u", replication_factor=1)
        with pytest.raises(ConfigError, match="needs as many brokers"):
            log.reassign("t", replication_factor=3)
        with pytest.raises(ConfigError, match="either replicas"):
            log.reassign("t")
        assert log["t"].partition(0).replicas == (0,)


@pytest.mark.parametrize("late", [False, True])
def test_no_replica_is_removed_while_the_directory_of_those_that_stay_is_gone(
    path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """It was removed a moment ago, and the broker that has it as open files has not noticed yet; `late`: while the last step waited
    for another change of the metadata."""
    monkeypatch.setattr("streamlog.broker.brokers.WATCH_MS", 1 << 40)
    with streamlog.open(path, brokers=3) as log:
        topic = log.create_topic("t", replication_factor=2)
        sent = [b"%d" % n for n in range(10)]
        topic.send_many(sent).result()
        stay = ({0, 1, 2} - set(topic.partition(0).replicas)).pop()
        service: Any = log._engine.service
        at, name = (service._topics, "finish_reassignment") if late else (service._reassignments, "_go_on")
        go_on, removed = getattr(at, name), []

        def go_on_late(*args: Any) -> None:
            if not removed and topic.partition(0).leader == stay:  # the next step removes the others
                removed.append(stay)
                remove(path / f"broker-{stay}")
            go_on(*args)

        monkeypatch.setattr(at, name, go_on_late)
        moving = log.reassign("t", replicas={0: [stay]})
        eventually(lambda: removed and not log.brokers[stay].running, "it is not noticed")
        assert values(log) == sent
        assert topic.send(b"next").result().offset == 10
        log.brokers[stay].start()
        moving.wait(30)
        assert topic.partition(0).replicas == (stay,)
        assert values(log) == [*sent, b"next"]
