"""A log of several broker directories: what is acknowledged is in every in-sync one, and is there at the next open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import ConfigError, FormatError, StreamLog, TopicPartition
from streamlog.replication.fetcher import ReplicaFetcher
from streamlog.replication.partition import Partition
from streamlog.testing import ManualClock, SimulatedDisk


def values(log: StreamLog, topic: str = "t") -> list[bytes | None]:
    return [record.value for record in log[topic].read()]


def logs_of(path: Path, log: StreamLog, topic: str = "t") -> dict[int, list[bytes]]:
    """The bytes of each replica, by partition."""
    name = log[topic].id.hex
    return {
        number: [
            b"".join(each.read_bytes() for each in sorted(replica.glob("*.log")))
            for replica in sorted(path.glob(f"broker-*/topics/{name}-{number}"))
        ]
        for number in range(log[topic].partitions)
    }


def test_each_in_sync_replica_has_what_is_acknowledged(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic = log.create_topic("t", partitions=3)
        for n in range(30):
            sent = topic.send(b"%d" % n, key=b"%d" % n).result()
            replicas = logs_of(path, log)[sent.partition]
            assert len(replicas) == 3
            assert len(set(replicas)) == 1, "byte for byte"
        assert sorted(map(int, values(log))) == list(range(30))  # type: ignore[arg-type]


def test_it_is_there_at_the_next_open_which_finds_the_brokers_itself(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        log.create_topic("t").send("x")
    with streamlog.open(path) as log:
        assert log["t"].partition(0).replicas == (0, 1, 2)
        assert values(log) == [b"x"]
        log["t"].send("y")
        assert values(log) == [b"x", b"y"]


@pytest.mark.parametrize("linger_ms", [0, 1])
@pytest.mark.parametrize("acks", [0, 1, "all"])
@pytest.mark.parametrize("sync", [False, True])
def test_every_acks_with_and_without_a_linger(path: Path, acks: Any, linger_ms: int, sync: bool) -> None:
    with streamlog.open(path, brokers=3, sync=sync) as log:
        log.create_topic("t", partitions=2)
        with log.producer(acks=acks, linger_ms=linger_ms) as producer:
            for n in range(20):
                producer.send("t", b"%d" % n, key=b"%d" % n)
            producer.send_many("t", [b"%d" % n for n in range(20, 40)])
        with log.consumer("t") as consumer:
            found: list[int] = []
            while len(found) < 40:
                found += [int(record.value) for record in consumer.poll(10)]
        assert sorted(found) == list(range(40))


def test_directories_may_lie_anywhere(tmp_path: Path) -> None:
    places = [tmp_path / "disk1" / "a", tmp_path / "disk2" / "b"]
    with streamlog.open(brokers=places) as log:
        log.create_topic("t").send("x")
        assert log["t"].partition(0).replicas == (0, 1)
    with streamlog.open(brokers=places[::-1]) as log:
        assert values(log) == [b"x"]


def test_the_files_of_a_follower_verify_without_a_note(path: Path) -> None:
    with streamlog.open(path, brokers=2) as log:
        log.create_topic("t", segment_bytes=1024).send_many([b"x" * 100] * 50)
    for broker in range(2):
        report = streamlog.verify(path / f"broker-{broker}")
        assert (report.ok, report.notes) == (True, ())


def test_one_directory_of_several_is_not_opened_alone(path: Path) -> None:
    with streamlog.open(path, brokers=2) as log:
        log.create_topic("t").send("x")
    with pytest.raises(ConfigError, match="broker 1 of a log of 2 brokers"):
        streamlog.open(path / "broker-1")
    with streamlog.open(path) as log:
        assert values(log) == [b"x"]


def test_an_owner_file_with_another_broker_id_is_damaged(path: Path) -> None:
    with streamlog.open(path) as log:
        log.create_topic("t").send("x")
    owner = path / "streamlog.json"
    owner.write_text(owner.read_text().replace('"broker_id": 0', '"broker_id": 7'))
    with pytest.raises(FormatError, match="of broker 7"):
        streamlog.open(path)
    owner.write_text(owner.read_text().replace('"broker_id": 7', '"broker_id": 0'))
    with streamlog.open(path) as log:
        assert values(log) == [b"x"]


def test_replicas_and_leaders_are_spread(path: Path) -> None:
    with streamlog.open(path, brokers=4) as log:
        topic = log.create_topic("t", partitions=8, replication_factor=2)
        info = [topic.partition(n) for n in range(8)]
        assert sorted(each.leader for each in info) == [0, 0, 1, 1, 2, 2, 3, 3]
        assert all(each.isr == each.replicas and len(set(each.replicas)) == 2 for each in info)
        topic.add_partitions(9)
        assert len(topic.partition(8).replicas) == 2
        assert topic.config["min_insync_replicas"] == 1
        assert log.create_topic("three", replication_factor=3).config["min_insync_replicas"] == 2


def test_a_broker_has_the_partitions_that_are_placed_on_it_and_no_other(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic = log.create_topic("t", partitions=3, replication_factor=1)
        topic.send_many([b"%d" % n for n in range(99)])
        assert all(len(replicas) == 1 for replicas in logs_of(path, log).values())
        log.delete_topic("t")
        assert not [*path.glob("broker-*/topics/*")]


def test_groups_and_their_offsets_are_replicated(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        log.create_topic("t", partitions=2).send_many([b"%d" % n for n in range(10)])
        with log.consumer("t", group="g") as consumer:
            assert len(list(consumer.until_end())) == 10
    with streamlog.open(path) as log:
        assert sum(log.group("g").lag().values()) == 0
        assert (
            len({replica for replicas in logs_of(path, log, "__consumer_offsets").values() for replica in replicas})
            == 1
        )


def test_retention_and_compaction_leave_the_replicas_with_the_same_records(path: Path) -> None:
    with streamlog.open(path, brokers=2) as log:
        topic = log.create_topic("t", cleanup_policy="compact", segment_bytes=1024)
        for n in range(200):
            topic.send(b"%d" % n, key=b"%d" % (n % 3))
        topic.compact()
        assert {record.key: record.value for record in topic.read()} == {b"0": b"198", b"1": b"199", b"2": b"197"}
        plain = log.create_topic("plain", segment_bytes=1024)
        plain.send_many([b"x" * 100] * 100)
        plain.delete_records({0: 90})
        plain.send("after")
        starts = {
            replica.partitions["plain", 0].reader.tail.start_offset
            for replica in (broker.replicas for broker in log._engine.service.brokers.all)  # type: ignore[attr-defined]
        }
        assert starts == {90}


def test_each_replica_compacts_by_itself_and_the_newest_record_of_each_key_is_there_whoever_leads(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic = log.create_topic("t", cleanup_policy="compact")
        for value, key in [("1", "a"), ("2", "b"), (None, "a"), ("4", "b"), ("5", "a")]:
            topic.send(value, key)
        first, *others = topic.partition(0).replicas
        topic.compact()
        assert [(record.offset, record.value) for record in topic.read()] == [(3, b"4"), (4, b"5")]
        for broker in others:
            log.elect_leader(("t", 0), broker)
            assert [record.offset for record in topic.read()] == [0, 1, 2, 3, 4], "all of them in its active segment"
            topic.compact()
            assert [(record.offset, record.value) for record in topic.read()] == [(3, b"4"), (4, b"5")]
        log.elect_leader(("t", 0), first)
        assert [(record.offset, record.value) for record in topic.read()] == [(3, b"4"), (4, b"5")], (
            "nothing comes back in a replica"
        )


def test_partitions_cannot_be_removed_from_replicas_either(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic = log.create_topic("t", partitions=3)
        for total in (3, 2):
            with pytest.raises(ConfigError, match="has 3 partitions"):
                topic.add_partitions(total)


def test_a_kill_loses_nothing_acknowledged(clock: ManualClock) -> None:
    disk = SimulatedDisk()
    log = streamlog.open("data", brokers=3, disk=disk, clock=clock)
    log.create_topic("t", partitions=2)
    for n in range(20):
        log["t"].send(b"%d" % n, key=b"%d" % n)
    after = disk.kill()
    log.close()
    with streamlog.open("data", disk=after, clock=clock) as log:
        assert sorted(map(int, values(log))) == list(range(20))  # type: ignore[arg-type]
        assert log["t"].partition(0).leader_epoch == 1, "a broker that was not closed may have lost records"


def test_what_was_synced_survives_a_power_loss(clock: ManualClock) -> None:
    disk = SimulatedDisk()
    log = streamlog.open("data", brokers=3, sync=True, disk=disk, clock=clock)
    log.create_topic("t")
    for n in range(10):
        log["t"].send(b"%d" % n)
    after = [disk.power_loss(seed) for seed in range(8)]
    log.close()
    for each in after:
        with streamlog.open("data", disk=each, clock=clock, sync=True) as log:
            assert values(log) == [b"%d" % n for n in range(10)]


@pytest.mark.slow
def test_every_crash_while_the_log_is_made_leaves_one_that_opens(clock: ManualClock) -> None:
    disk = SimulatedDisk()
    with streamlog.open("data", brokers=3, disk=disk, clock=clock) as log:
        log.create_topic("t", partitions=2)
    seen = 0
    states = list(disk.crashes())
    for name, state in states[:: max(1, len(states) // 200)]:
        with streamlog.open("data", brokers=3, disk=state, clock=clock) as log:
            log.create_topic("t", partitions=2, exist_ok=True)
            log["t"].send("x", partition=0)
            assert values(log) == [b"x"], name
        seen += 1
    assert seen > 50


def test_what_cannot_be_is_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a number"):
        streamlog.open(path, brokers="3")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no path besides"):
        streamlog.open(path, brokers=[tmp_path / "a"])
    with pytest.raises(ConfigError, match="needs as many brokers"):
        streamlog.open(path, brokers=2, replication_factor=3)
    with streamlog.open(path, brokers=2) as log:
        with pytest.raises(ConfigError, match="needs as many brokers"):
            log.create_topic("t", replication_factor=3)
        with pytest.raises(ConfigError, match="no record could be sent"):
            log.create_topic("t", replication_factor=1, min_insync_replicas=2)
    with pytest.raises(ConfigError, match=r"a log of 2 brokers.*log\.add_broker"):
        streamlog.open(path, brokers=3)
    with streamlog.open(tmp_path / "one"):
        pass
    with pytest.raises(ConfigError, match="a log of 1 broker"):
        streamlog.open(tmp_path / "one", brokers=3)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(FormatError, match=r"notes\.txt"):
        streamlog.open(tmp_path / "other", brokers=2)
    with streamlog.open(brokers=[tmp_path / "a", tmp_path / "b"]):
        pass
    with streamlog.open(brokers=[tmp_path / "c", tmp_path / "d"]):
        pass
    with pytest.raises(ConfigError, match="do not belong to one log"):
        streamlog.open(brokers=[tmp_path / "a", tmp_path / "d"])
    with pytest.raises(ConfigError, match=r"a log of 2 brokers.*log\.add_broker\('.*/new'\)"):
        streamlog.open(brokers=[tmp_path / "new", tmp_path / "a", tmp_path / "b"])
    assert not (tmp_path / "new").exists()
    with streamlog.open(brokers=[tmp_path / "a", tmp_path / "b"]) as log:
        log.add_broker(tmp_path / "new")
    with streamlog.open(brokers=[tmp_path / "new", tmp_path / "a", tmp_path / "b"]) as log:
        assert len(log.brokers) == 3


def test_a_reader_of_another_process_sees_what_is_below_the_high_watermark(path: Path) -> None:
    with streamlog.open(path, brokers=2) as log:
        log.create_topic("t").send("x")
        log.sync()
    for broker in range(2):
        with streamlog.open(path / f"broker-{broker}", read_only=True) as tail:
            assert values(tail) == [b"x"]
    with streamlog.open(path, read_only=True) as tail:
        assert tail["t"].partition(0).high_watermark == 1


def test_a_temporary_log_of_several_brokers_is_removed() -> None:
    with streamlog.open(brokers=3) as log:
        path = Path(log._engine.path)
        log.create_topic("t").send("x")
        assert len([*path.iterdir()]) == 3
    assert not path.exists()


def test_opening_twice_gives_the_same_log(path: Path) -> None:
    with streamlog.open(path, brokers=2) as log, streamlog.open(path) as again:
        log.create_topic("t")
        again["t"].send("x")
        assert values(log) == [b"x"]
        assert log["t"].partition(0) == again["t"].partition(0)
        assert TopicPartition("t", 0) == log["t"].partition(0)[:2]


@pytest.mark.parametrize("sync", [False, True])
def test_all_that_is_in_every_replica_can_be_read_at_once_after_opening(
    path: Path, sync: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many partitions there are: no fetch is waited for. It took 5 s at most, and readers saw less after that."""
    with streamlog.open(path, brokers=3, sync=sync) as log:
        log.create_topic("t", partitions=20)
        for n in range(20):
            log["t"].send(b"%d" % n, partition=n)
    fetches: list[object] = []
    fetch = Partition.fetch_as_replica
    monkeypatch.setattr(Partition, "fetch_as_replica", lambda self, *args: fetches.append(0) or fetch(self, *args))
    monkeypatch.setattr(ReplicaFetcher, "step", lambda self, now_ms: None)
    with streamlog.open(path, sync=sync) as log:
        assert len(values(log)) == 20
    assert len(fetches) <= 20, "of the metadata alone"
