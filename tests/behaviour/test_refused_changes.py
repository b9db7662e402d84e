"""A change of topics that was refused is void: on the disk too, whatever comes after it.

A grid of faults: each call of the disk that a change makes fails in turn, once or together with all calls after it, and
a sync that failed is followed by a fault in what takes the change back. After each of them the machine crashes,
the log is used further, closed, opened again, repaired. Of the grid some are run, and all by `python -m tests.stress.sweeps`.
"""

from __future__ import annotations

import dataclasses
import errno
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import pytest

import streamlog
from streamlog import PoisonedLogError, StreamlogError
from streamlog.broker import log_directory
from streamlog.records import columns
from streamlog.runtime.threads import result_of
from streamlog.storage.log import AppendRequest
from streamlog.testing import FaultyDisk, ManualClock, SimulatedDisk
from tests.sampling import Sampled

PATH = "/data"
ERRNOS = (errno.EIO, errno.ENOSPC)
UNKNOWN = "could not be undone"
Change = Callable[[streamlog.StreamLog], object]

CHANGES: dict[str, Change] = {
    "delete_topic": lambda log: log.delete_topic("a"),
    "update_config": lambda log: log["a"].update_config(retention_records=0),
    "add_partitions": lambda log: log["a"].add_partitions(3),
    "create_topic": lambda log: log.create_topic("new", partitions=2),
}


IN_FORCE: dict[str, Callable[[streamlog.StreamLog], bool]] = {
    "delete_topic": lambda log: "a" not in log,
    "update_config": lambda log: log["a"].config["retention_records"] == 0,
    "add_partitions": lambda log: log["a"].partitions == 3 and log["a"].partition(2).high_watermark == 0,
    "create_topic": lambda log: "new" in log and log["new"].partition(1).high_watermark == 0,
}


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL + 1, "streamlog")


class Fault(NamedTuple):
    """The `nth` call of a change fails, `times` in all, of a write `short` bytes are written; `then`, so many calls
    later, all do."""

    nth: int
    number: int
    in_metadata: bool
    times: int | None = 1
    short: int = 0
    then: int = 0


class World:
    """A log with the topic "a", what it holds, and a disk that will fail."""

    def __init__(self, sync: bool) -> None:
        self.simulated = SimulatedDisk()
        self.disk = FaultyDisk(self.simulated)
        self.clock = ManualClock()
        self.sync = sync
        self.log = self.open(self.disk)
        topic = self.log.create_topic("a", segment_bytes=1024)
        self.sent: list[bytes] = []
        for _ in range(3):
            self.send()
        assert topic.partitions == 1
        self.log.sync()

    def open(self, disk: Any, path: str = PATH) -> streamlog.StreamLog:
        return streamlog.open(path, disk=disk, clock=self.clock, sync=self.sync)

    def send(self) -> None:
        value = b"%d." % len(self.sent) * 200
        self.log["a"].send(value).result()
        self.sent.append(value)

    def check(self, log: streamlog.StreamLog, sent: list[bytes]) -> None:
        assert list(log) == ["a"]
        topic = log["a"]
        topic.apply_retention()
        assert (topic.partitions, topic.config["retention_records"]) == (1, None)
        assert [record.value for record in topic.read()][: len(sent)] == sent

    def check_on(self, disk: SimulatedDisk, *, sent: list[bytes], path: str = PATH) -> None:
        with self.open(disk, path) as log:
            self.check(log, sent)

    def check_crashes(self, durable: list[bytes], choices: Sequence[str | int] = ("strict",)) -> None:
        """The change is in force after no crash that may come now."""
        for choice in choices:
            self.check_on(self.simulated.power_loss(choice), sent=durable)
        self.check_on(self.simulated.kill(), sent=self.sent)

    def check_repaired(self) -> None:
        """Nor is it in what is copied out of the wreck."""
        killed = self.simulated.kill()
        report = streamlog.repair(PATH, "/repaired", disk=killed)
        assert report.recovered == ()
        self.check_on(killed, sent=self.sent, path="/repaired")


class OtherProcess(FaultyDisk):
    """The same disk, seen by a process that has opened nothing on it."""

    filesystem = object()


def calls_of(change: Change, sync: bool) -> list[tuple[str, str]]:
    world = World(sync)
    world.disk.calls.clear()
    change(world.log)
    calls = list(world.disk.calls)
    world.log.close()
    return calls


def faults(change: Change, sync: bool) -> Iterator[Fault]:
    for nth, (op, path) in enumerate(calls_of(change, sync), 1):
        own = "metadata" in path
        for number in ERRNOS:
            yield Fault(nth, number, own)
            yield Fault(nth, number, own, times=None)
        if op == "pwrite":
            yield Fault(nth, errno.EIO, own, short=7)
            yield Fault(nth, errno.EIO, own, short=1 << 20)
        if own and op in ("pwrite", "sync"):  # and what takes it back fails
            for then in range(1, 13):
                yield Fault(nth, errno.EIO, own, short=1 << 20, then=then)


@pytest.mark.slow
@pytest.mark.parametrize("sync", [False, True], ids=["plain", "sync"])
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_that_was_refused_is_void_whatever_comes_after(name: str, sync: bool, sampled: Sampled) -> None:
    change = CHANGES[name]
    outcomes = {"made": 0, "void": 0, "unknown": 0}
    for fault in sampled(faults(change, sync), 5):
        try:
            outcomes[meets(fault, name, sync)] += 1
        except BaseException as error:
            raise AssertionError(f"{name}, sync={sync}: {fault}") from error
    assert outcomes["void"] and outcomes["unknown"], outcomes


def meets(fault: Fault, name: str, sync: bool) -> str:
    """Let the change meet the fault; what became of it."""
    change = CHANGES[name]
    world = World(sync)
    durable = list(world.sent)
    disk = world.disk
    disk.fail("any", fault.number, nth=fault.nth, times=fault.times, short=fault.short)
    if fault.then:
        disk.fail("any", errno.EIO, nth=fault.nth + fault.then, times=None)
    try:
        change(world.log)
    except StreamlogError as error:
        outcome = "unknown" if UNKNOWN in str(error) else "void"
    else:
        disk.heal()
        for left in (world.simulated.power_loss("strict"), world.simulated.kill()):
            with world.open(left) as log:
                assert IN_FORCE[name](log)
        with suppress(PoisonedLogError):
            world.log.close()
        return "made"
    if outcome == "void":
        world.check_crashes(durable, ("strict", "lax", 1, "harsh-1") if fault.in_metadata else ("strict",))
        world.check_repaired()
        if fault.times == 1 and not fault.then:
            world.send()
    elif name != "create_topic":
        with pytest.raises(StreamlogError, match=UNKNOWN):
            world.send()
    disk.heal()
    if outcome == "unknown" and name == "create_topic":
        with suppress(PoisonedLogError):
            change(world.log)
            return outcome
    world.send()  # takes back first what was not known to be void
    world.check(world.log, world.sent)
    if fault.in_metadata:
        world.check_crashes(world.sent if sync else durable)
    with suppress(PoisonedLogError):
        world.log.close()
    world.check_on(world.simulated, sent=world.sent)
    assert streamlog.verify(PATH, disk=world.simulated).ok
    with world.open(world.simulated) as log:  # and it can be made after all
        change(log)
        assert IN_FORCE[name](log)
    return outcome


@pytest.mark.parametrize("name", ["update_config", "create_topic"])
def test_a_change_that_begins_a_segment_of_the_metadata_log_is_void_too(
    name: str, monkeypatch: pytest.MonkeyPatch, sampled: Sampled
) -> None:
    config = dataclasses.replace(log_directory.METADATA_CONFIG, segment_bytes=1024)
    monkeypatch.setattr(log_directory, "METADATA_CONFIG", config)
    assert any(op == "create" and "metadata" in path for op, path in calls_of(CHANGES[name], True))
    for fault in sampled((fault for fault in faults(CHANGES[name], True) if fault.in_metadata), 3):
        meets(fault, name, True)


@pytest.mark.parametrize("name", ["delete_topic", "update_config", "add_partitions", "create_topic"])
@pytest.mark.parametrize("killed", [False, True], ids=["closed", "killed"])
def test_a_change_that_is_not_known_to_be_void_is_when_the_log_was_closed_or_its_process_killed(
    name: str, killed: bool
) -> None:
    """What may not be on the device can be cut off in the page cache; and a close tries once more."""
    for op, path in (("create", "*.log.tmp"), ("pwrite", "*.log.tmp"), ("sync", "*.log.tmp"), ("rename", "*.log.tmp")):
        world = World(True)
        world.disk.fail("sync", errno.EIO, path="*/__cluster_metadata-0/*.log")
        world.disk.fail(op, errno.EIO, path=path)
        with pytest.raises(PoisonedLogError, match=UNKNOWN):
            CHANGES[name](world.log)
        world.disk.heal()
        if killed:
            world.check_on(world.simulated.kill(), sent=world.sent)
        with suppress(PoisonedLogError):
            world.log.close()
        world.check_crashes(world.sent)


def test_a_process_that_reads_along_follows_a_metadata_log_whose_file_was_replaced() -> None:
    world = World(True)
    with streamlog.open(PATH, disk=OtherProcess(world.simulated), clock=world.clock, read_only=True) as reader:
        assert list(reader) == ["a"]
        world.disk.fail("pwrite", errno.EIO, short=1 << 20, path="*/__cluster_metadata-0/*.log")
        world.disk.fail("truncate", errno.EIO, times=2)
        with pytest.raises(streamlog.StorageError, match="append to"):
            world.log.delete_topic("a")
        assert [path for op, path in world.disk.calls if op == "rename"][-1].endswith(".log.tmp")
        world.send()
        world.log.create_topic("later")
        world.log["a"].add_partitions(2)
        assert sorted(reader) == ["a", "later"]
        assert reader["a"].partitions == 2
        assert [record.value for record in reader["a"].read(0)] == world.sent
    world.log.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_that_was_interrupted_is_and_stays_what_the_log_shows_afterwards(name: str, sampled: Sampled) -> None:
    """Ctrl-C at every call; also where the next call, which would see it to its end, fails."""
    calls = range(1, len(calls_of(CHANGES[name], True)) + 1)
    cases = itertools.product(calls, (None, errno.EIO, KeyboardInterrupt), (0, 1 << 20))
    seen = {interrupted(name, nth, more, short) for nth, more, short in sampled(cases, 4)}
    assert seen == {False, True}


def interrupted(name: str, nth: int, more: Any, short: int) -> bool:
    world = World(True)
    world.disk.fail("any", KeyboardInterrupt, nth=nth, short=short)
    if more is not None:
        world.disk.fail("any", more, nth=nth + 1)
    with suppress(KeyboardInterrupt):
        CHANGES[name](world.log)
    world.disk.heal()
    with suppress(
        StreamlogError
    ):  # a third interrupt, or a disk that would not say, is made good before the next change
        world.log.delete_topic("none")
    there = IN_FORCE[name](world.log)
    for left in (world.simulated.power_loss("strict"), world.simulated.power_loss("lax"), world.simulated.kill()):
        with world.open(left) as log:
            assert IN_FORCE[name](log) is there, f"{name}, call {nth}, {more}, {short}"
    with suppress(PoisonedLogError):
        world.log.close()
    with world.open(world.simulated) as log:
        assert IN_FORCE[name](log) is there
    return there


@pytest.mark.parametrize("name", ["add_partitions", "create_topic"])
def test_what_a_refused_change_left_on_the_disk_is_not_recovered_where_the_metadata_is_damaged(name: str) -> None:
    world = World(True)
    world.disk.fail("pwrite", errno.EIO, path="*/__cluster_metadata-0/*.log")
    for op in ("unlink", "rmtree"):
        world.disk.fail(op, errno.EIO, times=None, path="*/topics/*")
    with pytest.raises(streamlog.StorageError):
        CHANGES[name](world.log)
    topic_id = world.log["a"].id.hex
    world.log.close()
    disk = world.simulated
    assert len(disk.listdir(f"{PATH}/topics")) == 3
    [file] = [each for each in disk.listdir(f"{PATH}/__cluster_metadata-0") if each.endswith(".log")]
    disk.open(f"{PATH}/__cluster_metadata-0/{file}").pwrite([b"?"], 100)
    report = streamlog.repair(PATH, "/repaired", disk=disk)
    with world.open(disk, "/repaired") as log:
        [topic] = log.topics()
        assert (topic.name, report.recovered) == (f"recovered-{topic_id}", (topic.name,))
        assert [record.value for record in topic.read()] == world.sent


@pytest.mark.slow
@pytest.mark.parametrize("sync", [False, True], ids=["plain", "sync"])
def test_a_deletion_of_records_that_was_refused_deletes_none_later(sync: bool) -> None:
    def delete(world: World) -> None:
        world.log["a"].delete_records({0: 2})

    world = World(sync)
    world.disk.calls.clear()
    delete(world)
    void = unknown = 0
    for nth in range(1, len(world.disk.calls) + 1):
        for number in ERRNOS:
            for more in range(4):
                for short in (0, 1 << 20):
                    world = World(sync)
                    world.disk.fail("any", number, nth=nth, short=short)
                    if more:
                        world.disk.fail("any", number, nth=nth + more)
                    try:
                        delete(world)
                    except StreamlogError as error:
                        assert world.log["a"].partition(0).log_start_offset == 0
                        if "it is not known" in str(error):
                            unknown += 1
                        else:
                            void += 1
                            world.check_crashes(world.sent, ("strict", "lax"))
                            world.disk.heal()
                            world.log.close()
                            world.check_on(world.simulated, sent=world.sent)
                    else:
                        world.disk.heal()
                        for left in (world.simulated.power_loss(), world.simulated.kill()):
                            with world.open(left) as log:
                                assert log["a"].partition(0).log_start_offset == 2
    assert void
    assert unknown


def test_a_topic_is_deleted_though_its_groups_cannot_be_changed() -> None:
    world = World(True)
    with world.log.consumer("a", group="g") as consumer:
        assert consumer.poll(0)
    fault = world.disk.fail("pwrite", errno.ENOSPC, times=None, path="*/topics/*.log")  # of what groups are told
    world.log.delete_topic("a")
    assert (list(world.log), fault.fired > 0) == ([], True)
    world.disk.heal()
    world.log.close()


def test_the_error_of_a_change_that_is_not_known_to_be_void_says_so_and_what_to_do() -> None:
    world = World(True)
    world.disk.fail("sync", errno.EIO, path="*metadata*")
    world.disk.fail("rename", errno.ENOSPC, path="*metadata*")
    with pytest.raises(PoisonedLogError) as raised:
        world.log.delete_topic("a")
    for said in ("topic 'a'", "A sync of", UNKNOWN, "no space left", "takes no records", "send again"):
        assert said in str(raised.value)
    still = world.disk.fail("any", errno.EIO, times=None, path="*metadata*")
    assert world.log.create_topic("a", exist_ok=True).partitions == 1, "what is there can be asked for"
    with pytest.raises(PoisonedLogError, match=UNKNOWN):
        world.log.create_topic("b", exist_ok=True)
    world.disk.heal(still)
    world.send()
    with pytest.raises(PoisonedLogError):
        world.log.close()
    world.check_on(world.simulated, sent=world.sent)


def test_what_waits_for_its_sync_is_not_refused_for_a_change_of_its_topic_nor_is_anything_after_it() -> None:
    """Only new records are: those that are in the log already do not depend on the change."""
    world = World(True)
    producer = world.log.producer(linger_ms=60_000)
    partition = world.log._engine.service._partition(streamlog.TopicPartition("a", 0))  # type: ignore[attr-defined]
    in_the_log = AppendRequest(
        [columns.seal(partition.log.seed, [None], [b"in the log"], world.clock.time_ms(), count=1)]
    )
    partition.append(in_the_log, world.clock.time_ms())
    waiting = partition.acknowledge(in_the_log)
    world.disk.fail("sync", errno.EIO, path="*__cluster_metadata-0/*")
    refused = world.disk.fail("rename", errno.EIO, times=None, path="*__cluster_metadata-0/*")
    with pytest.raises(PoisonedLogError, match=UNKNOWN):
        world.log.delete_topic("a")
    assert not waiting.done()
    assert result_of(waiting) == 3
    with pytest.raises(StreamlogError, match=UNKNOWN):
        world.log["a"].send(b"refused")
    world.disk.heal(refused)
    delivery = producer.send("a", b"taken")
    producer.flush()
    assert delivery.result().offset == 4
    producer.close()
    with suppress(PoisonedLogError):
        world.log.close()
