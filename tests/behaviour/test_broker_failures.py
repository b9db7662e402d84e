"""A log of several brokers goes on when one of them is stopped, loses its directory, or has a disk that fails."""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import ConfigError, StreamLog, Topic
from streamlog.errors import DeliveryTimeoutError, LogLockedError, NotLeaderError, StorageError, StreamlogError
from streamlog.testing import FaultyDisk

from .held_files import held_files
from .traffic import eventually, remove, values

Child = Callable[..., "subprocess.Popen[str]"]
LONG_S = 30.0


def in_sync(topic: Topic[Any, Any]) -> set[frozenset[int]]:
    return {frozenset(topic.partition(n).isr) for n in range(topic.partitions)}


def test_a_start_does_not_wait_for_a_directory_that_another_process_holds(path: Path, child: Child) -> None:
    """Nothing else would happen meanwhile: no leader would be replaced, and no topic created."""
    hold = """
        import sys, streamlog
        with streamlog.open(sys.argv[1]):
            print("held", flush=True)
            sys.stdin.read()
    """
    with streamlog.open(path, brokers=3) as log:
        log.create_topic("t", partitions=3)
        log.brokers[1].stop()
        directory = Path(str(log.brokers[1].path))
        directory.rename(path.parent / "away")
        holder = child(hold, directory)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        start = time.monotonic()
        with pytest.raises(LogLockedError, match=f"in use by process {holder.pid}"):
            log.brokers[1].start()
        assert time.monotonic() - start < LONG_S / 6
        log.create_topic("u")
        holder.communicate()
        shutil.rmtree(directory)
        (path.parent / "away").rename(directory)
        log.brokers[1].start()
        eventually(lambda: in_sync(log["t"]) == {frozenset({0, 1, 2})})


def test_what_was_deleted_while_a_broker_was_stopped_is_removed_there_when_it_starts(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        log.create_topic("t", partitions=3)
        log.create_topic("kept", partitions=2)
        log.brokers[1].stop()
        log.delete_topic("t")
        topic = log.create_topic("t", partitions=3)
        topic.send_many([b"new"] * 3, partition=1).result()
        log.brokers[1].start()
        eventually(lambda: in_sync(topic) == {frozenset({0, 1, 2})})
        there = [sorted(each.name for each in (path / f"broker-{n}" / "topics").iterdir()) for n in range(3)]
        assert there[1] == there[0]
        assert len(there[1]) == 3 + 2
        assert values(log) == [b"new"] * 3


@pytest.mark.parametrize("sync", [False, True])
def test_each_broker_is_stopped_and_started_again_in_turn(path: Path, sync: bool) -> None:
    sent: list[bytes] = []

    def work(topic: Topic[Any, Any]) -> None:
        for n in range(20):
            sent.append(b"%d" % len(sent))
            topic.send(sent[-1], partition=n % topic.partitions)

    with streamlog.open(path, brokers=3, sync=sync) as log:
        topic = log.create_topic("t", partitions=3)
        work(topic)
        for broker in log.brokers:
            broker.stop()
            assert not broker.running
            assert all(broker.id not in isr for isr in in_sync(topic))
            assert all(topic.partition(n).leader not in (broker.id, -1) for n in range(3))
            work(topic)
            broker.start()
            assert broker.running
            eventually(lambda: in_sync(topic) == {frozenset({0, 1, 2})}, "it does not catch up")
            work(topic)
        assert sorted(values(log)) == sorted(sent)  # type: ignore[type-var]
    with streamlog.open(path, sync=sync) as log:
        assert sorted(values(log)) == sorted(sent)  # type: ignore[type-var]


def test_with_one_broker_left_there_are_too_few_in_sync(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic = log.create_topic("t")
        topic.send("x")
        log.brokers[0].stop()
        topic.send("y")
        log.brokers[1].stop()
        with (
            pytest.raises(DeliveryTimeoutError, match="NotEnoughReplicasError"),
            log.producer(delivery_timeout_ms=1) as short,
        ):
            short.send("t", "z")
        assert values(log) == [b"x", b"y"]
        with log.producer(acks=1) as producer:
            producer.send("t", "with acks=1")
        with pytest.raises(ConfigError, match="the last one that is running"):
            log.brokers[2].stop()
        log.brokers[1].start()
        eventually(lambda: len(topic.partition(0).isr) == 2)
        topic.send("z")
        assert values(log) == [b"x", b"y", b"with acks=1", b"z"]


def test_a_partition_whose_only_replica_is_stopped_says_so_and_comes_back(path: Path) -> None:
    with streamlog.open(path, brokers=2) as log:
        topic = log.create_topic("t", replication_factor=1)
        topic.send("x")
        broker = log.brokers[topic.partition(0).leader]
        broker.stop()
        with pytest.raises(DeliveryTimeoutError, match="has no leader"), log.producer(delivery_timeout_ms=1) as short:
            short.send("t", "y", partition=0)
        broker.start()
        assert topic.send(b"y").result().offset == 1
        assert values(log) == [b"x", b"y"]


def test_a_topic_that_was_made_while_a_broker_was_stopped_is_read_after_it_started(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        log.brokers[2].stop()
        log.create_topic("t").send("x")
        log.brokers[2].start()
        log.create_topic("u", partitions=3, replication_factor=3).send("y")
        log.delete_topic("t")
        assert values(log, "u") == [b"y"]


def test_groups_go_on_where_they_were(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic = log.create_topic("t", partitions=3)
        with log.consumer("t", group="g") as consumer:
            read: list[bytes | None] = []
            for broker in log.brokers:
                topic.send_many([b"%d.%d" % (broker.id, n) for n in range(30)])
                broker.stop()
                wanted = 30 * (broker.id + 1)
                eventually(lambda: read.extend(record.value for record in consumer.poll(0)) or len(read) >= wanted)  # noqa: B023
                consumer.commit()
                broker.start()
                eventually(
                    lambda: all(
                        in_sync(each) == {frozenset(each.partition(0).replicas)} for each in log.topics(internal=True)
                    )
                )
            assert len(read) == len(set(read)) == 90
        assert sum(log.group("g").lag().values()) == 0


def test_a_directory_that_vanishes_is_noticed_and_filled_again_by_start_alone(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic = log.create_topic("t", partitions=3)
        for n in range(30):
            topic.send(b"%d" % n, partition=n % 3)
        remove(path / "broker-1")
        eventually(lambda: not log.brokers[1].running, "it is not noticed")
        for n in range(30, 60):
            topic.send(b"%d" % n)
        assert not (path / "broker-1").exists()
        log.brokers[1].start()
        eventually(lambda: in_sync(topic) == {frozenset({0, 1, 2})})
        assert sorted(map(int, values(log))) == list(range(60))  # type: ignore[arg-type]
        name = topic.id.hex
        for number in range(3):
            logs = {
                b"".join(
                    each.read_bytes()
                    for each in sorted((path / f"broker-{broker}/topics/{name}-{number}").glob("*.log"))
                )
                for broker in range(3)
            }
            assert len(logs) == 1
    with streamlog.open(path) as log:
        assert len(values(log)) == 60


@pytest.mark.parametrize("broker", range(3))
@pytest.mark.parametrize("what", ["write", "sync"])
def test_a_disk_that_fails_under_one_broker_stops_that_one(path: Path, what: str, broker: int) -> None:
    disk = FaultyDisk()
    with streamlog.open(path, brokers=3, sync=what == "sync", disk=disk) as log:
        topic = log.create_topic("t", partitions=3)
        for n in range(9):
            topic.send(b"%d" % n, partition=n % 3)
        disk.fail(what, errno.EIO, path=f"*/broker-{broker}/topics/*.log")
        sent = 9
        while log.brokers[broker].running:
            topic.send(b"%d" % sent)
            sent += 1
        assert [each.running for each in log.brokers].count(False) == 1
        disk.heal()
        for n in range(sent, sent + 9):
            topic.send(b"%d" % n)
        assert sorted(map(int, values(log))) == list(range(sent + 9))  # type: ignore[arg-type]
        log.brokers[broker].start()
        eventually(lambda: in_sync(topic) == {frozenset({0, 1, 2})})
    with streamlog.open(path, sync=what == "sync") as log:
        assert sorted(map(int, values(log))) == list(range(sent + 9))  # type: ignore[arg-type]


def test_brokers_that_stop_start_and_lose_their_directories_keep_no_removed_file_open(path: Path) -> None:
    """Nor more files than the segments that there are."""
    with streamlog.open(path, brokers=3, segment_bytes=2000) as log:
        topic = log.create_topic("t", partitions=2)
        with log.consumer("t") as consumer:
            for turn in range(9):
                topic.send_many([b"." * 50] * 100).result()
                consumer.poll(LONG_S)
                broker = log.brokers[turn % 3]
                if turn % 2:
                    remove(Path(str(broker.path)))
                    eventually(lambda broker=broker: not broker.running)
                else:
                    broker.stop()
                topic.send_many([b"." * 50] * 50).result()
                log.brokers[turn % 3].start()
                eventually(lambda: in_sync(topic) == {frozenset({0, 1, 2})})
                log.reassign("t", replication_factor=2).wait(LONG_S)
                log.reassign("t", replication_factor=3).wait(LONG_S)
                eventually(lambda: in_sync(topic) == {frozenset({0, 1, 2})})
        gc.collect()
        held = held_files(path)
        assert not [name for name in held if "(deleted)" in name]
        assert len(held) <= 2 * len([*path.rglob("*.log")]) + 3 * len(log.brokers), sorted(held)


def test_a_reader_that_comes_late_keeps_no_file_of_a_stopped_broker_open(path: Path) -> None:
    """It has looked up the leader just before, and opens what the stop has closed."""
    with streamlog.open(path, brokers=3, segment_bytes=2000) as log:
        topic = log.create_topic("t")
        for _ in range(9):
            topic.send_many([b"." * 100] * 10).result()
        service: Any = log._engine.service
        leader = service.leader(("t", 0))
        log.brokers[leader.broker_id].stop()
        for segment in leader.reader.tail.segments:
            assert leader.reader.fetch(segment.base_offset, 1 << 20, leader.end_offset).data
        assert not held_files(path / f"broker-{leader.broker_id}")


@pytest.mark.parametrize("what", ["write", "any"])
def test_a_broker_whose_disk_failed_keeps_no_file_open(path: Path, what: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL + 1, "streamlog")  # pytest keeps what is logged, errors with their frames too
    disk = FaultyDisk()
    with streamlog.open(path, brokers=3, disk=disk) as log:
        topic = log.create_topic("t", partitions=3)
        disk.fail(what, errno.EIO, path="*/broker-1/*", times=None)
        gc.disable()  # an error that is kept would keep the frames that it came through, with their files, until a collection
        try:
            for n in range(9):
                topic.send(b"%d" % n, partition=n % 3)
            eventually(lambda: not log.brokers[1].running)
            eventually(lambda: not held_files(path / "broker-1"), "its files are still open")
        finally:
            gc.enable()


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("follows", [True, False])
def test_what_a_leader_alone_acknowledges_is_acknowledged_by_the_next_one_if_its_sync_fails(
    path: Path, count: int, follows: bool
) -> None:
    disk = FaultyDisk()
    with streamlog.open(path, brokers=3, sync=True, disk=disk) as log:
        topic = log.create_topic("t")
        topic.send(b"x")
        leader = topic.partition(0).leader
        service: Any = log._engine.service
        if not follows:  # what is sent is in the log of the leader alone
            for broker in service.brokers.all:
                broker.fetcher.forget(("t", 0))
        disk.fail("sync", errno.EIO, path=f"*/broker-{leader}/topics/*.log", times=None)
        with log.producer(acks=1) as producer:
            sent = [b"%d" % n for n in range(count)]
            places = producer.send_many("t", sent).result(LONG_S)
        assert not log.brokers[leader].running
        assert values(log) == [b"x", *sent], "each is there once"
        assert [each.offset for each in places] == list(range(1, count + 1))


def test_what_the_last_leader_alone_acknowledges_fails_with_its_sync(path: Path) -> None:
    disk = FaultyDisk()
    log = streamlog.open(path, brokers=2, sync=True, disk=disk)
    topic = log.create_topic("t", min_insync_replicas=1)
    leader = topic.partition(0).leader
    log.brokers[1 - leader].stop()
    disk.fail("sync", errno.EIO, path=f"*/broker-{leader}/topics/*.log", times=None)
    producer = log.producer(acks=1)
    with pytest.raises(streamlog.PoisonedLogError):
        producer.send("t", b"x")
    for handle in (producer, log):
        with contextlib.suppress(streamlog.PoisonedLogError):
            handle.close()


@pytest.mark.parametrize("distance", [0, 1], ids=["the leader", "a follower"])
def test_a_log_is_synced_again_when_the_broker_whose_sync_failed_is_replaced(path: Path, distance: int) -> None:
    disk = FaultyDisk()
    with streamlog.open(path, brokers=3, disk=disk) as log:
        topic = log.create_topic("t")
        topic.send("x")
        broker = log.brokers[(topic.partition(0).leader + distance) % 3]
        disk.fail("sync", errno.EIO, path=f"*/broker-{broker.id}/topics/*", times=None)

        def is_synced() -> bool:
            with contextlib.suppress(StreamlogError):
                log.sync()
                return True
            return False

        assert not is_synced()
        eventually(is_synced)
        assert not broker.running
        assert values(log) == [b"x"]


def test_a_broker_can_be_stopped_while_the_disk_of_another_takes_no_metadata(path: Path) -> None:
    """It is the controller, and the other one's copy lacks the last change; every disk is full, so that one is not replaced."""
    disk = FaultyDisk()
    with streamlog.open(path, brokers=3, disk=disk) as log:
        log.create_topic("t").send("x")
        disk.fail("pwrite", errno.ENOSPC, path="*/broker-1/__cluster*", times=None)
        disk.fail("create", errno.ENOSPC, path="*/probe*", times=None)
        log.create_topic("lacking.on.1")
        log.brokers[0].stop()
        log.create_topic("without.0")
        disk.heal()
        log.create_topic("on.1.and.2")
        log.brokers[0].start()
        log.brokers[1].start()
        log.brokers[2].stop()
        log.create_topic("without.2")
        assert values(log) == [b"x"]
    with streamlog.open(path) as log:
        assert len(log.topics()) == 5


@pytest.mark.parametrize("distance", [0, 1], ids=["the leader", "a follower"])
def test_a_disk_that_is_full_under_one_broker_stops_that_one(path: Path, distance: int) -> None:
    disk = FaultyDisk()
    with streamlog.open(path, brokers=3, disk=disk) as log:
        topic = log.create_topic("t")
        topic.send("x")
        broker = log.brokers[(topic.partition(0).leader + distance) % 3]
        disk.fail("write", errno.ENOSPC, path=f"*/broker-{broker.id}/*", times=None)
        topic.send("y")  # a follower that only lagged would stay in the in-sync set for 30 s
        eventually(lambda: not broker.running)
        assert topic.partition(0).leader != broker.id
        disk.heal()
        broker.start()
        eventually(lambda: in_sync(topic) == {frozenset({0, 1, 2})})
        assert values(log) == [b"x", b"y"]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize("meanwhile", ["another broker leads", "it is worth another try"])
@pytest.mark.parametrize("linger_ms", [0, 5])
def test_an_append_that_fails_at_the_moment_of_an_election_is_made_at_the_next_leader(
    path: Path, error: int, meanwhile: str, linger_ms: int
) -> None:
    disk = FaultyDisk()
    with streamlog.open(path, brokers=3, disk=disk) as log, log.producer(linger_ms=linger_ms) as producer:
        topic = log.create_topic("t")
        producer.send("t", "x").result()
        service: Any = log._engine.service
        leader, brokers = topic.partition(0).leader, log.brokers
        disk.fail("pwrite", error, path=f"*/broker-{leader}/topics/*.log", times=2)

        def may_append() -> bool:
            del service._may_append
            if meanwhile == "it is worth another try":
                return True
            stopping = threading.Thread(target=brokers[leader].stop)
            stopping.start()
            stopping.join(LONG_S)
            return False

        service._may_append = may_append
        assert producer.send("t", "y").result().offset == 1
        eventually(lambda: topic.partition(0).leader != leader)
        assert values(log) == [b"x", b"y"]


def test_several_senders_may_ask_at_once_whether_another_disk_has_space(path: Path) -> None:
    class Disk(FaultyDisk):
        broker: Any = None

        def unlink(self, path: str) -> None:
            broker, self.broker = self.broker, None
            if broker is not None:
                answers.append(broker.has_space())  # another sender, in the middle of the first one's look
            super().unlink(path)

    answers: list[bool] = []
    disk = Disk()
    with streamlog.open(path, brokers=2, disk=disk) as log:
        service: Any = log._engine.service
        disk.broker = service.brokers.all[1]
        answers.append(disk.broker.has_space())
        assert answers == [True, True]
        assert not list(path.rglob("probe*"))


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize("op", ["pwrite", "sync", "write"])
def test_a_change_that_the_disk_of_the_controller_refuses_and_keeps_stops_that_broker_alone(
    path: Path, op: str, error: int
) -> None:
    disk = FaultyDisk()
    with streamlog.open(path, brokers=3, disk=disk) as log:
        topic = log.create_topic("t", partitions=3)
        topic.send("x", partition=0)
        disk.fail(op, error, path="*/broker-0/__cluster_metadata-0/*.log", times=None)
        topic.update_config(retention_ms=60_000)
        for number in range(3):
            topic.send("y", partition=number)
        eventually(lambda: not log.brokers[0].running)
        topic.update_config(retention_ms=70_000)
        assert [broker.running for broker in log.brokers] == [False, True, True]
        disk.heal()
        log.brokers[0].start()
        eventually(lambda: in_sync(topic) == {frozenset({0, 1, 2})})
        for number in range(3):
            topic.send("z", partition=number)
        assert values(log) == [b"x", b"y", b"z", b"y", b"z", b"y", b"z"]
    with streamlog.open(path) as log:
        assert log["t"].config["retention_ms"] == 70_000


def test_what_is_still_said_of_the_disk_of_a_broker_does_not_stop_it_again_once_it_was_started(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        topic = log.create_topic("t")
        service: Any = log._engine.service
        before = service.brokers.all[1]
        replica = before.replicas.partitions["t", 0]
        log.brokers[1].stop()
        log.brokers[1].start()
        error = streamlog.StorageError("an append that had begun before it was stopped", path="", errno=errno.EIO)
        before.replicas.on_failure(error)
        before.directory.on_stale()
        service.brokers.replica_failed(replica, error)
        service._changes._replace_failed(0)
        topic.send("x")
        assert log.brokers[1].running


def test_a_broker_that_is_stopped_or_started_as_the_log_is_closed_is_answered(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        service, [one, two, _] = log._engine.service, log.brokers  # type: ignore[attr-defined]
        two.stop()
        service.real_timers.close()  # the first that closing does
        answers: list[BaseException] = []

        def change(call: Callable[[], None]) -> None:
            with pytest.raises(streamlog.ClosedError) as raised:
                call()
            answers.append(raised.value)

        threads = [threading.Thread(target=change, args=(call,)) for call in (one.stop, two.start)]
        for thread in threads:
            thread.start()
        eventually(lambda: len(service._changes._whole_work) == 2)
        log.close()
        for thread in threads:
            thread.join(LONG_S)
        assert len(answers) == 2


def commit(log: StreamLog) -> None:
    with log.consumer("t", group="g", enable_auto_commit=False) as consumer:
        assert [record.value for record in consumer.poll(LONG_S)] == [b"x"]
        consumer.commit()


CALLS: dict[str, Callable[[StreamLog], object]] = {
    "commit": commit,
    "group": lambda log: log.group("g").members(),
    "create_topic": lambda log: log.create_topic("u"),
    "delete_topic": lambda log: log["t"].delete(),
    "update_config": lambda log: log["t"].update_config(retention_ms=1000),
    "add_partitions": lambda log: log["t"].add_partitions(4),
    "delete_records": lambda log: log["t"].delete_records({0: 1}),
    "apply_retention": lambda log: log["t"].apply_retention(),
    "idempotent producer": lambda log: log.producer(enable_idempotence=True).close(),
}


@pytest.mark.parametrize("broker", [0, 1, 2])
@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_meets_a_broker_whose_disk_fails_goes_on_with_another(path: Path, name: str, broker: int) -> None:
    disk = FaultyDisk()
    with streamlog.open(path, brokers=3, disk=disk) as log:
        log.create_topic("t", partitions=3)
        log["t"].send("x", partition=0)
        disk.fail("pwrite", errno.EIO, path=f"*/broker-{broker}/*", times=None)
        CALLS[name](log)
        log["t"].send("y") if name != "delete_topic" else log.create_topic("t")
        disk.heal()


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("operation", ["pwrite", "sync"])
def test_an_election_that_meets_the_controllers_disk_as_it_fails_can_be_tried_again(
    path: Path, operation: str, code: int
) -> None:
    disk = FaultyDisk()
    with streamlog.open(path, brokers=3, disk=disk) as log:
        topic = log.create_topic("t")
        topic.send("x")
        service: Any = log._engine.service
        controller = service.brokers.controller.id
        target = next(each for each in topic.partition(0).isr if each not in (topic.partition(0).leader, controller))
        disk.fail(operation, code, path=f"*/broker-{controller}/__cluster_metadata*", times=None)
        with pytest.raises(NotLeaderError, match="try again"):
            log.elect_leader(("t", 0), target)

        def is_led_by_it() -> bool:
            with contextlib.suppress(NotLeaderError):  # the failed broker is being replaced
                log.elect_leader(("t", 0), target)
            return topic.partition(0).leader == target

        eventually(is_led_by_it)
        assert not log.brokers[controller].running
        topic.send("y").result()
        disk.heal()


@pytest.mark.parametrize("broker", [0, 1, 2])
@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_meets_a_broker_whose_directory_vanished_goes_on_with_another(
    path: Path, name: str, broker: int
) -> None:
    with streamlog.open(path, brokers=3) as log:
        log.create_topic("t", partitions=3)
        log["t"].send("x", partition=0)
        remove(Path(str(log.brokers[broker].path)))
        CALLS[name](log)


def test_a_group_whose_coordinator_is_alone_is_said_that_its_disk_fails(path: Path) -> None:
    disk = FaultyDisk()
    with streamlog.open(path, brokers=2, replication_factor=1, disk=disk) as log:
        log.create_topic("t")
        log["t"].send("x")
        with log.consumer("t", group="g", enable_auto_commit=False) as consumer:
            assert len(consumer.poll(LONG_S)) == 1
            known = log.metrics()["topics"]["__consumer_offsets"]["0"]
            for number in {0, 1} - {known["leader"]}:
                log.brokers[number].stop()
            disk.fail("pwrite", errno.EIO, path="*/topics/*.log", times=None)
            with pytest.raises(StorageError):
                consumer.commit()
            disk.heal()
            consumer.commit()


def test_a_disk_that_is_full_under_all_is_a_full_disk_and_no_broker_stops(path: Path) -> None:
    disk = FaultyDisk()
    with streamlog.open(path, brokers=3, disk=disk) as log:
        topic = log.create_topic("t")
        topic.send("x")
        disk.fail("write", errno.ENOSPC, times=None)
        with pytest.raises(streamlog.DiskFullError):
            topic.send("y")
        disk.heal()
        topic.send("z")
        assert all(broker.running for broker in log.brokers)
        assert values(log) == [b"x", b"z"]


def test_a_log_of_one_broker_has_one_that_cannot_be_stopped(path: Path) -> None:
    with streamlog.open(path) as log:
        [broker] = log.brokers
        assert (broker.id, broker.path, broker.running) == (0, str(path), True)
        with pytest.raises(ConfigError, match="the last one"):
            broker.stop()
        broker.start()
