"""Damage in one replica costs nothing: reads are served from another one, and the damaged place is filled from there."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import CorruptRecordError, StreamLog, Topic, TopicPartition
from streamlog.testing import FaultyDisk, ManualClock
from tests.sampling import Sampled

from .traffic import eventually, values


def replica_of(path: Path, topic: Topic[Any, Any], broker: int, number: int = 0) -> Path:
    return path / f"broker-{broker}" / "topics" / f"{topic.id.hex}-{number}"


def segments(path: Path, topic: Topic[Any, Any], broker: int) -> list[Path]:
    return sorted(replica_of(path, topic, broker).glob("*.log"))


def contents(path: Path, topic: Topic[Any, Any], broker: int) -> bytes:
    return b"".join(file.read_bytes() for file in segments(path, topic, broker))


def flip(file: Path, position: int, bits: int = 0x40) -> None:
    with file.open("r+b") as opened:
        opened.seek(position)
        (byte,) = opened.read(1)
        opened.seek(position)
        opened.write(bytes([byte ^ bits]))


def filled(log: StreamLog, **settings: Any) -> tuple[Topic[Any, Any], list[bytes]]:
    """Some segments of batches of one record and of several, on all brokers."""
    topic = log.create_topic("t", segment_bytes=1024, **settings)
    sent = [b"%d" % n * 50 for n in range(20)]
    for n in range(0, 20, 2):
        if n % 4:
            topic.send_many(sent[n : n + 2])
        else:
            topic.send(sent[n])
            topic.send(sent[n + 1])
    return topic, sent


def killed(path: Path) -> None:
    """As if the process had been killed: no index of the last segment, and no clean close."""
    for owner in path.glob("broker-*/streamlog.json"):
        owner.write_text(owner.read_text().replace('"clean": true', '"clean": false'))


def repaired(log: StreamLog) -> int:
    count: int = log.metrics()["replication"]["repaired"]
    return count


@pytest.mark.parametrize("position", [5, 60, 120], ids=["header", "header 2", "payload"])
@pytest.mark.parametrize("segment", [0, 1, -1], ids=["sealed", "sealed 2", "active"])
def test_a_read_that_meets_damage_on_the_leader_gets_the_records_and_has_them_repaired(
    path: Path, segment: int, position: int
) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic, sent = filled(log)
        leader = topic.partition(0).leader
        whole = contents(path, topic, leader)
        flip(segments(path, topic, leader)[segment], position)
        assert values(log) == sent
        eventually(lambda: repaired(log) == 1, "it is not repaired")
        assert contents(path, topic, leader) == whole
        assert values(log) == sent
        assert topic.send(b"next").result().offset == 20
        assert topic.partition(0).leader == leader
    report = streamlog.verify(path)
    assert report.ok, report


def test_a_consumer_of_a_group_reads_on_over_damage(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic, sent = filled(log)
        for file in segments(path, topic, topic.partition(0).leader):
            flip(file, 100)
        with log.consumer("t", group="g") as consumer:
            assert [record.value for record in consumer.until_end()] == sent
        assert [batch.values for batch in topic.read_batches()]
        assert topic.offset_at(0) == 0 if hasattr(topic, "offset_at") else True


@pytest.mark.parametrize("name", ["t", "__consumer_offsets"])
def test_damage_of_a_new_leader_is_no_error_before_the_others_have_fetched_from_it(path: Path, name: str) -> None:
    """Each replica in sync has what is committed, also if it has not said so to this leader yet."""
    with streamlog.open(path, brokers=3) as log:
        _, sent = filled(log)
        with log.consumer("t", group="g") as consumer:
            assert len(list(consumer.until_end())) == len(sent)
        led = log[name]
        eventually(lambda: len(led.partition(0).isr) == 3)
        service: Any = log._engine.service
        for broker in service.brokers.all:
            broker.fetcher.follow = lambda replica: None  # the next leader gets no fetch
        new = (led.partition(0).leader + 1) % 3
        flip(segments(path, led, new)[0], 100)
        log.elect_leader(TopicPartition(name, 0), new)
        assert led.partition(0).leader == new
        assert log.group("g").committed() == {TopicPartition("t", 0): len(sent)}
        assert values(log) == sent
        eventually(lambda: repaired(log) == 1, "it is not repaired")


def test_what_no_replica_has_is_an_error_as_with_one_broker(path: Path) -> None:
    with streamlog.open(path, brokers=2) as log:
        topic, sent = filled(log)
        for broker in range(2):
            flip(segments(path, topic, broker)[1], 100)
        with pytest.raises(CorruptRecordError):
            values(log)
        read = [record.value for record in topic.read(on_corrupt="skip")]
        assert 0 < len(sent) - len(read) <= 2
        eventually(lambda: log.metrics()["topics"]["t"]["0"]["failures"].get("repair"))
        assert repaired(log) == 0


def test_a_log_of_one_broker_raises_as_before(path: Path) -> None:
    with streamlog.open(path) as log:
        topic, _ = filled(log)
        flip(sorted((path / "topics" / f"{topic.id.hex}-0").glob("*.log"))[0], 100)
        with pytest.raises(CorruptRecordError):
            values(log)


def test_a_follower_that_fetches_over_damage_of_the_leader_gets_it_after_the_repair(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic = log.create_topic("t", segment_bytes=1024)
        leader = topic.partition(0).leader
        away = next(each for each in range(3) if each != leader)
        log.brokers[away].stop()
        sent = [b"%d" % n * 50 for n in range(20)]
        for value in sent:
            topic.send(value)
        flip(segments(path, topic, leader)[1], 100)
        log.brokers[away].start()
        eventually(lambda: set(topic.partition(0).isr) == {0, 1, 2}, "it does not catch up")
        assert repaired(log) == 1
        assert len({contents(path, topic, broker) for broker in range(3)}) == 1
        assert values(log) == sent


def test_damage_of_a_follower_is_found_by_the_scrub_and_repaired(path: Path, clock: ManualClock) -> None:
    with streamlog.open(path, brokers=3, clock=clock) as log:
        topic, sent = filled(log)
        leader = topic.partition(0).leader
        whole = contents(path, topic, leader)
        for broker in range(3):
            flip(segments(path, topic, broker)[broker], 100)
        clock.advance(120)
        eventually(lambda: clock.advance(1) or repaired(log) == 3)
        assert [contents(path, topic, broker) for broker in range(3)] == [whole] * 3
        read = log.metrics()["replication"]["scrubbed_bytes"]
        assert read >= 3 * sum(file.stat().st_size for file in segments(path, topic, leader)[:-1])
        clock.advance(24 * 3600)
        assert log.metrics()["replication"]["scrubbed_bytes"] == read, "it begins anew after three weeks"
        clock.advance(21 * 24 * 3600)
        assert log.metrics()["replication"]["scrubbed_bytes"] > read
        assert values(log) == sent


def test_a_broker_that_comes_back_with_damage_is_repaired(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic, sent = filled(log)
        leader = topic.partition(0).leader
        away = next(each for each in range(3) if each != leader)
        log.brokers[away].stop()
        flip(segments(path, topic, away)[0], 100)
        flip(segments(path, topic, away)[2], 20)
        log.brokers[away].start()
        eventually(lambda: repaired(log) == 2, "it is not repaired")
        eventually(lambda: set(topic.partition(0).isr) == {0, 1, 2})
        assert len({contents(path, topic, broker) for broker in range(3)}) == 1
        assert values(log) == sent


def test_a_segment_that_is_missing_is_filled(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic, sent = filled(log)
    leader_file = segments(path, topic, 0)[1]
    leader_file.unlink()
    leader_file.with_suffix(".index").unlink()
    with streamlog.open(path) as log:
        topic = log["t"]
        log.elect_leader(("t", 0), 0)
        assert values(log) == sent
        eventually(lambda: repaired(log) == 1)
        assert len({contents(path, topic, broker) for broker in range(3)}) == 1


@pytest.mark.parametrize("broker", range(3))
def test_a_replica_whose_end_is_damaged_at_an_open_leaves_the_set_and_fetches_it_again(path: Path, broker: int) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic, sent = filled(log)
    killed(path)
    last = segments(path, topic, broker)[-1]
    flip(last, last.read_bytes().rindex(b"SLB"))
    with last.open("ab") as file:
        file.write(b"garbage")
    with streamlog.open(path) as log:
        topic = log["t"]
        assert topic.partition(0).leader != broker
        assert values(log) == sent
        topic.send(b"next")
        eventually(lambda: set(topic.partition(0).isr) == {0, 1, 2}, "it does not catch up")
        assert len({contents(path, topic, each) for each in range(3)}) == 1
        assert values(log) == [*sent, b"next"]
    report = streamlog.verify(path)
    assert report.ok, report


@pytest.mark.slow
@pytest.mark.parametrize("position", [5, 60], ids=["header", "header 2"])
def test_a_leader_whose_damage_hides_an_epoch_has_no_follower_truncate_what_was_committed(
    path: Path, position: int
) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic = log.create_topic("t", segment_bytes=1024)
        at = streamlog.TopicPartition("t", 0)
        for broker in range(3):  # a segment, and an epoch, for each record
            log.elect_leader(at, broker)
            topic.send(b"%d" % broker * 1000)
    flip(segments(path, topic, 0)[2], position)
    with streamlog.open(path) as log:
        topic = log["t"]
        assert topic.partition(0).leader == 2
        shutil.rmtree(path / "broker-2")
        topic.send(b"3" * 1000)  # broker 0 leads next, and does not know of the epoch of its last record
        assert topic.partition(0).leader == 1
        assert values(log) == [b"%d" % n * 1000 for n in range(4)]
        assert len({contents(path, topic, broker) for broker in range(2)}) == 1


def test_a_damaged_copy_of_the_metadata_is_repaired_from_another(path: Path, sampled: Sampled) -> None:
    with streamlog.open(path, brokers=3) as log:
        _topic, sent = filled(log)
    for broker in range(3):
        copy = sorted((path / f"broker-{broker}" / "__cluster_metadata-0").glob("*.log"))[0]
        before = copy.read_bytes()
        for position in sampled(range(0, len(before), 97), 20, full=6):
            flip(copy, position)
            with streamlog.open(path) as log:
                assert [each.name for each in log.topics()] == ["t"]
                assert values(log) == sent


@pytest.mark.parametrize("position", [0, 97, 200, 600, 1000, 1400])
def test_a_broker_starts_though_a_byte_of_the_controllers_metadata_has_flipped(path: Path, position: int) -> None:
    with streamlog.open(path, brokers=3) as log:
        _topic, sent = filled(log)
        log.brokers[2].stop()
        shutil.rmtree(path / "broker-2")
        flip(path / "broker-0" / "__cluster_metadata-0" / f"{0:020}.log", position)
        log.brokers[2].start()
        assert log.brokers[2].running
        eventually(lambda: log.metrics()["replication"]["repaired"] == 1, "it is not repaired")
        assert values(log) == sent


def test_a_disk_that_fails_while_it_is_read_hands_the_leadership_over(path: Path) -> None:
    disk = FaultyDisk()
    with streamlog.open(path, brokers=3, disk=disk) as log:
        topic, sent = filled(log)
        leader = topic.partition(0).leader
        disk.fail("map", errno.EIO, times=None, path=f"*/broker-{leader}/topics/*.log")
        disk.fail("map_read", errno.EIO, times=None, path=f"*/broker-{leader}/topics/*.log")
        disk.fail("pread", errno.EIO, times=None, path=f"*/broker-{leader}/topics/*.log")
        assert values(log) == sent
        eventually(lambda: not log.brokers[leader].running, "it is not stopped")
        assert values(log) == sent
        topic.send(b"next")


@pytest.mark.parametrize("opens", [True, False])
def test_a_leader_whose_files_can_be_written_and_not_read_is_replaced_before_a_sender_notices(
    path: Path, opens: bool
) -> None:
    """Its followers cannot fetch what is sent. It cannot be repaired either, and where no file can be opened, not even be maintained."""
    disk = FaultyDisk()
    with streamlog.open(path, brokers=3, disk=disk) as log:
        topic, sent = filled(log)
        leader = topic.partition(0).leader
        for call in ("map", "map_read", "pread", *([] if opens else ["open"])):
            disk.fail(call, errno.EIO, times=None, path=f"*/broker-{leader}/topics/*.log")
        more = [b"more %d" % n for n in range(10)]
        for value in more:
            topic.send_many([value]).result()
        assert not log.brokers[leader].running
        assert values(log) == [*sent, *more]


@pytest.mark.parametrize("role", ["leader", "follower"])
def test_a_disk_that_refuses_what_is_due_in_the_background_stops_its_broker(path: Path, role: str) -> None:
    disk = FaultyDisk()
    with streamlog.open(path, brokers=3, disk=disk) as log:
        topic, sent = filled(log)
        broker = (topic.partition(0).leader + (role == "follower")) % 3
        disk.fail("open", errno.EIO, times=None, path=f"*/broker-{broker}/topics/*.state")
        topic.send_many([b"." * 1000] * 10).result()  # what is sealed is synced, and that is recorded
        eventually(lambda: not log.brokers[broker].running, "it is not stopped")
        disk.heal()
        log.brokers[broker].start()
        eventually(lambda: set(topic.partition(0).isr) == {0, 1, 2})
        assert values(log)[: len(sent)] == sent


def test_a_sealed_file_that_is_cut_while_the_log_is_open_costs_nothing(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic, sent = filled(log)
        leader = topic.partition(0).leader
        with segments(path, topic, leader)[1].open("r+b") as file:
            file.truncate(100)
        assert values(log) == sent
        eventually(lambda: not log.brokers[leader].running, "it is not stopped")
        assert values(log) == sent
        log.brokers[leader].start()
        eventually(lambda: repaired(log) == 1, "it is not repaired")
        eventually(lambda: set(topic.partition(0).isr) == {0, 1, 2})
        assert len({contents(path, topic, broker) for broker in range(3)}) == 1


def test_a_disk_that_does_not_take_the_repair_hands_the_leadership_over(path: Path) -> None:
    disk = FaultyDisk()
    with streamlog.open(path, brokers=3, disk=disk) as log:
        topic, sent = filled(log)
        leader = topic.partition(0).leader
        flip(segments(path, topic, leader)[0], 100)
        disk.fail("create", errno.EIO, times=None, path=f"*/broker-{leader}/topics/*.cleaned")
        assert values(log) == sent
        eventually(lambda: not log.brokers[leader].running, "it is not stopped")
        assert values(log) == sent


def test_a_segment_that_is_damaged_again_and_again_counts_as_a_disk_that_failed(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic, sent = filled(log)
        leader = topic.partition(0).leader
        for count in range(1, 4):
            flip(segments(path, topic, leader)[0], 100)
            assert values(log) == sent
            eventually(lambda: repaired(log) == count)  # noqa: B023
        eventually(lambda: not log.brokers[leader].running, "it is not stopped")
        assert values(log) == sent


def files_of(path: Path, topic: Topic[Any, Any], broker: int) -> list[Path]:
    """All files that one broker has of a partition and of the metadata, and what it publishes."""
    directory = path / f"broker-{broker}"
    inner = [*replica_of(path, topic, broker).iterdir(), *(directory / "__cluster_metadata-0").iterdir()]
    return sorted([*inner, directory / "published"])


@pytest.mark.slow
@pytest.mark.parametrize("clean", [True, False], ids=["closed", "killed"])
@pytest.mark.parametrize("broker", [0, 1], ids=["leader", "follower"])
def test_any_byte_of_one_replica_of_three_is_flipped_and_nothing_is_lost(
    path: Path, clock: ManualClock, sampled: Sampled, broker: int, clean: bool
) -> None:
    """Figure 6. Each file of a replica: segments, indexes, the state; the metadata's copy; what is published."""
    with streamlog.open(path, brokers=3, clock=clock) as log:
        topic, sent = filled(log)
        assert topic.partition(0).leader == 0
    if not clean:
        killed(path)
    kept = path.with_name("kept")
    shutil.copytree(path, kept)
    places = [(file, at) for file in files_of(path, topic, broker) for at in range(file.stat().st_size)]
    for file, at in sampled(places, 400):
        shutil.rmtree(path)
        shutil.copytree(kept, path)
        flip(file, at)
        name = f"{file.relative_to(path)}, byte {at}"
        with streamlog.open(path, clock=clock) as log:
            assert values(log) == sent, name
            assert log["t"].send(b"next").result().offset == len(sent), name
            eventually(lambda: 0 in log["t"].partition(0).isr, name)  # it may have left, and comes back
            log.elect_leader(("t", 0), 0)
            clock.advance(90)  # the scrub reads all, and what it finds is repaired
            assert values(log) == [*sent, b"next"], name
        report = streamlog.verify(path)
        assert report.ok, f"{name}: {report}"


@pytest.mark.slow
@pytest.mark.parametrize("clean", [True, False], ids=["closed", "killed"])
@pytest.mark.parametrize("broker", [0, 1], ids=["leader", "follower"])
def test_any_file_of_one_replica_of_three_is_cut_or_gone_and_nothing_is_lost(
    path: Path, clock: ManualClock, sampled: Sampled, broker: int, clean: bool
) -> None:
    """Figure 6. Without the file that says where its log starts, a replica is made anew when its broker is started."""
    with streamlog.open(path, brokers=3, clock=clock) as log:
        topic, sent = filled(log)
    if not clean:
        killed(path)
    kept = path.with_name("kept")
    shutil.copytree(path, kept)
    files = files_of(path, topic, broker)
    places = [(file, length) for file in files for length in range(-1, file.stat().st_size)]
    states = [(file, 0) for file in files if file.suffix == ".state"]
    for file, length in [*sampled(places, 700), *states]:
        shutil.rmtree(path)
        shutil.copytree(kept, path)
        if length < 0:
            file.unlink()
        else:
            with file.open("r+b") as opened:
                opened.truncate(length)
        name = f"{file.relative_to(path)}, length {length}"
        with streamlog.open(path, clock=clock) as log:
            assert values(log) == sent, name
            assert log["t"].send(b"next").result().offset == len(sent), name
            if not log.brokers[broker].running:
                assert file.suffix == ".state", name
                log.brokers[broker].start()
            clock.advance(90)
            eventually(lambda: set(log["t"].partition(0).isr) == {0, 1, 2}, name)
            assert values(log) == [*sent, b"next"], name
        report = streamlog.verify(path)
        assert report.ok, f"{name}: {report}"


def test_replicas_that_were_compacted_apart_are_repaired_by_offset(path: Path, clock: ManualClock) -> None:
    with streamlog.open(path, brokers=3, clock=clock) as log:
        topic = log.create_topic("t", cleanup_policy="compact", segment_bytes=1024, min_cleanable_dirty_ratio=0.9)
        for n in range(40):
            topic.send(b"%d" % n * 50, key=b"%d" % (n % 7))
        last = {record.key: record.value for record in topic.read()}
        leader = topic.partition(0).leader
        follower = next(each for each in range(3) if each != leader)
        topic.compact()
        assert contents(path, topic, leader) != contents(path, topic, follower), "only the leader's is compacted"
        flip(segments(path, topic, follower)[0], 100)
        flip(segments(path, topic, follower)[2], 5)
        clock.advance(90)
        eventually(lambda: clock.advance(1) or repaired(log) == 2)
        log.elect_leader(("t", 0), follower)
        assert {record.key: record.value for record in topic.read()} == last
    report = streamlog.verify(path)
    assert report.ok, report


@pytest.mark.parametrize("read_only", [False, True], ids=["here", "in another process"])
def test_a_reader_that_read_ahead_meets_damage_after_it_was_repaired_and_reads_on(path: Path, read_only: bool) -> None:
    """It had the damaged bytes still, and by then no other replica had the records."""
    with streamlog.open(path, brokers=3) as log:
        topic, sent = filled(log)
        leader = topic.partition(0).leader
        file = segments(path, topic, leader)[0]
        flip(file, file.stat().st_size - 1)
        reading = streamlog.open(path / f"broker-{leader}", read_only=True) if read_only else log
        with reading.consumer("t", max_poll_records=1) as consumer:
            assert [record.value for record in consumer.poll(1.0)] == sent[:1]
            flip(file, file.stat().st_size - 1)
            log.reassign("t", replicas={0: [leader]}).wait()
            assert [record.value for record in consumer.until_end()] == sent[1:]
        if read_only:
            reading.close()


@pytest.mark.parametrize("brokers", [1, 3])
def test_a_reader_that_read_ahead_meets_damage_of_records_that_were_deleted_and_goes_on_after_them(
    path: Path, brokers: int
) -> None:
    with streamlog.open(path, brokers=brokers) as log:
        topic, sent = filled(log)
        directory = path if brokers == 1 else path / f"broker-{topic.partition(0).leader}"
        file = min((directory / "topics" / f"{topic.id.hex}-0").glob("*.log"))
        flip(file, file.stat().st_size - 1)
        with log.consumer("t", max_poll_records=1) as consumer:
            assert [record.value for record in consumer.poll(1.0)] == sent[:1]
            topic.delete_records({0: 10})
            assert [record.value for record in consumer.until_end()][-10:] == sent[10:]
