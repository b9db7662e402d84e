"""`sync=True`: what is acknowledged is on the device, no consumer sees it before, and many waiting senders share one sync."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

import streamlog
from streamlog.testing import ManualClock, SimulatedDisk
from tests.contents import values
from tests.stress import interrupted_calls as calls
from tests.stress.interrupts import sweep

from .gated_disk import LONG, GatedDisk

InThread = Callable[[Callable[[], Any]], "Future[Any]"]
PATH = "/data"


@pytest.fixture
def machine() -> SimulatedDisk:
    return SimulatedDisk()


@pytest.fixture
def disk(machine: SimulatedDisk) -> Iterator[GatedDisk]:
    disk = GatedDisk(machine)
    yield disk
    disk.let_go()


def open_on(disk: Any, clock: ManualClock, **options: Any) -> streamlog.StreamLog:
    return streamlog.open(PATH, disk=disk, clock=clock, **{"sync": True, **options})


def after_power_loss(machine: SimulatedDisk, clock: ManualClock, topic: str = "t") -> list[bytes]:
    """The records that are left when the power goes now and takes everything that was not synced."""
    with streamlog.open(PATH, disk=machine.power_loss("strict"), clock=clock) as log:
        return values(log, topic)


# -- acknowledged means synced ---------------------------------------------------------------------------


@pytest.mark.parametrize("key", [b"k", None])
@pytest.mark.parametrize("headers", [None, {"a": "b"}])
def test_what_send_acknowledged_survives_a_power_loss(
    machine: SimulatedDisk, clock: ManualClock, key: bytes | None, headers: dict[str, str] | None
) -> None:
    with open_on(machine, clock) as log:
        topic = log.create_topic("t")
        for number in range(3):
            assert topic.send(b"%d" % number, key=key, headers=headers).result().offset == number
            assert len(after_power_loss(machine, clock)) == number + 1


def test_without_sync_a_power_loss_may_take_what_was_acknowledged(machine: SimulatedDisk, clock: ManualClock) -> None:
    with open_on(machine, clock, sync=False) as log:
        log.create_topic("t").send(b"1")
        assert after_power_loss(machine, clock) == []


def test_send_returns_after_the_sync_and_no_consumer_reads_the_record_before(
    disk: GatedDisk, clock: ManualClock, in_thread: InThread
) -> None:
    with open_on(disk, clock) as log:
        topic = log.create_topic("t")
        topic.send(b"first")
        reader = log.consumer("t")
        assert [record.value for record in reader.poll(0)] == [b"first"]
        waiting = in_thread(lambda: [record.value for record in reader.poll(timeout=10 * LONG)])
        disk.hold()
        sending = in_thread(lambda: topic.send(b"second"))
        disk.until_held()
        assert not sending.done()
        assert not waiting.done()
        assert values(log) == [b"first"]
        assert log.metrics()["topics"]["t"]["0"]["log_end_offset"] == 2
        disk.let_go()
        assert sending.result(LONG).result().offset == 1
        assert waiting.result(LONG) == [b"second"]
        assert values(log) == [b"first", b"second"]


def test_a_reader_of_many_batches_stops_at_the_synced_end_and_goes_on_there(
    machine: SimulatedDisk, clock: ManualClock
) -> None:
    with open_on(machine, clock) as log, log.producer() as sure, log.producer(acks=0) as unsure:
        topic = log.create_topic("t")
        for number in range(30):
            sure.send("t", b"%d" % number)
        for number in range(30, 60):
            unsure.send("t", b"%d" % number)  # in the log, and synced when the clock is next advanced
        reader = log.consumer("t", max_poll_records=7)
        seen: list[bytes] = []
        while found := reader.poll(0):
            seen += [record.value for record in found]
        assert seen == values(log) == [b"%d" % number for number in range(30)]
        assert topic.partition(0).high_watermark == 30
        clock.advance(0.1)
        while found := reader.poll(0):
            seen += [record.value for record in found]
        assert seen == values(log) == [b"%d" % number for number in range(60)]


@pytest.mark.parametrize("how", ["result", "flush", "close", "send_many", "full", "with"])
def test_every_way_to_wait_for_a_record_waits_for_its_sync(
    machine: SimulatedDisk, clock: ManualClock, how: str
) -> None:
    with open_on(machine, clock) as log:
        log.create_topic("t")
        producer = log.producer(linger_ms=1000, batch_size=200 if how == "full" else 16384)
        if how == "send_many":
            producer.send_many("t", [b"1", b"2"]).result()
        elif how == "full":
            deliveries = [producer.send("t", b"x" * 60) for _ in range(6)]
            deliveries[1].result()
        else:
            deliveries = [producer.send("t", b"%d" % number) for number in (1, 2)]
            assert after_power_loss(machine, clock) == []
            {"result": deliveries[1].result, "flush": producer.flush, "close": producer.close, "with": log.close}[how]()
        assert len(after_power_loss(machine, clock)) >= 2


def test_a_roll_loses_nothing_that_was_acknowledged(machine: SimulatedDisk, clock: ManualClock) -> None:
    with open_on(machine, clock, segment_bytes=1024) as log:
        topic = log.create_topic("t")
        sent = [b"%03d" % number + b"x" * 300 for number in range(12)]
        for number, value in enumerate(sent):
            topic.send(value)
            assert after_power_loss(machine, clock) == sent[: number + 1]
        assert log.metrics()["topics"]["t"]["0"]["segments"] > 3


def test_a_write_that_begins_a_segment_waits_for_the_one_before_too(
    disk: GatedDisk, machine: SimulatedDisk, clock: ManualClock, in_thread: InThread
) -> None:
    with open_on(disk, clock, segment_bytes=1024) as log:
        topic = log.create_topic("t")
        disk.hold()
        threads = [in_thread(lambda n=n: topic.send(b"%d" % n * 400)) for n in range(6)]
        disk.until_written(6)
        assert log.metrics()["topics"]["t"]["0"]["segments"] > 2
        assert values(log) == []
        disk.let_go()
        assert sorted(thread.result(LONG).result().offset for thread in threads) == [0, 1, 2, 3, 4, 5]
        assert len(after_power_loss(machine, clock)) == 6


def test_what_recovery_found_is_synced_before_it_counts(machine: SimulatedDisk, clock: ManualClock) -> None:
    log = open_on(machine, clock, sync=False)
    log.create_topic("t").send(b"1")
    killed = machine.kill()
    log.close()
    with open_on(killed, clock) as again:
        assert values(again) == [b"1"]
        assert after_power_loss(killed, clock) == [b"1"]


def test_what_is_acknowledged_after_a_kill_at_any_moment_survives_a_power_loss(
    machine: SimulatedDisk, clock: ManualClock
) -> None:
    """Files and directories that the killed process made, and did not come to sync, are rested on by the next one."""
    with open_on(machine, clock, segment_bytes=1024) as log:
        topic = log.create_topic("t")
        for number in range(3):
            topic.send(b"%d" % number * 600)
    kills = 0
    for name, left in machine.crashes(random=0):
        if "kill" in name:
            kills += 1
            with open_on(left, clock, segment_bytes=1024) as log:
                log.create_topic("t", exist_ok=True).send(b"after")
                there = values(log)
                assert after_power_loss(left, clock) == there, name
    assert kills > 50


def test_a_committed_offset_survives_a_power_loss(machine: SimulatedDisk, clock: ManualClock) -> None:
    with open_on(machine, clock) as log:
        log.create_topic("t").send_many([b"1", b"2", b"3"])
        with log.consumer("t", group="g", enable_auto_commit=False) as consumer:
            taken = consumer.poll(0)
            consumer.commit(taken[1])
            with streamlog.open(PATH, disk=machine.power_loss("strict"), clock=clock) as left:
                again = left.consumer("t", group="g")
                assert [record.value for record in again.poll(0)] == [b"3"]


def test_a_commit_waits_for_its_sync(disk: GatedDisk, clock: ManualClock, in_thread: InThread) -> None:
    with open_on(disk, clock) as log:
        log.create_topic("t").send(b"1")
        with log.consumer("t", group="g", enable_auto_commit=False) as consumer:
            consumer.poll(0)
            disk.hold()
            committing = in_thread(consumer.commit)
            disk.until_held()
            assert not committing.done()
            disk.let_go()
            assert committing.result(LONG) is None


@pytest.mark.parametrize("sync", [False, True])
def test_a_topic_survives_a_power_loss_however_the_log_was_opened(
    machine: SimulatedDisk, clock: ManualClock, sync: bool
) -> None:
    with open_on(machine, clock, sync=sync) as log:
        topic = log.create_topic("t", partitions=2)
        log.create_topic("gone")
        topic.update_config(retention_ms=5000)
        log.delete_topic("gone")
        with streamlog.open(PATH, disk=machine.power_loss("strict"), clock=clock) as left:
            assert list(left) == ["t"]
            assert left["t"].config["retention_ms"] == 5000
            assert left["t"].partitions == 2


@pytest.mark.parametrize("path", ["/data", "/deep/down/data"])
def test_a_directory_that_the_log_made_survives_a_power_loss(
    machine: SimulatedDisk, clock: ManualClock, path: str
) -> None:
    with streamlog.open(path, disk=machine, clock=clock, sync=True) as log:
        log.create_topic("t").send(b"1")
        with streamlog.open(path, disk=machine.power_loss("strict"), clock=clock) as left:
            assert values(left) == [b"1"]


# -- sharing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("producers", [1, 8])
@pytest.mark.parametrize("headers", [None, {"a": "b"}])
def test_eight_senders_share_two_syncs(
    disk: GatedDisk, clock: ManualClock, in_thread: InThread, producers: int, headers: dict[str, str] | None
) -> None:
    with open_on(disk, clock) as log:
        log.create_topic("t")
        made = [log.producer() for _ in range(producers)]
        disk.hold()
        before = disk.syncs

        def send(number: int) -> Future[Any]:
            return in_thread(lambda: made[number % producers].send("t", b"%d" % number, headers=headers).result())

        first = send(0)
        disk.until_held()
        others = [send(number) for number in range(1, 8)]
        disk.until_written(8)
        disk.let_go()
        offsets = [sending.result(LONG).offset for sending in (first, *others)]
        assert sorted(offsets) == list(range(8))
        assert disk.syncs - before == 2
        assert sorted(values(log)) == [b"%d" % number for number in range(8)]


def test_a_sender_does_not_wait_for_the_sync_of_another_partition(
    disk: GatedDisk, clock: ManualClock, in_thread: InThread
) -> None:
    with open_on(disk, clock, partitions=2) as log, log.producer() as producer:
        topic = log.create_topic("t")
        disk.hold(f"*/topics/{topic.id.hex}-0/*.log")
        slow = in_thread(lambda: producer.send("t", b"1", partition=0))
        disk.until_held()
        assert producer.send("t", b"2", partition=1).result().offset == 0
        assert not slow.done()
        disk.let_go()
        slow.result(LONG)


def test_a_send_in_time_of_a_sync_that_hangs_gives_up_and_the_record_is_there_later(
    disk: GatedDisk, clock: ManualClock, in_thread: InThread
) -> None:
    with open_on(disk, clock) as log, log.producer(linger_ms=1000) as producer:
        log.create_topic("t")
        disk.hold()
        hanging = in_thread(lambda: log["t"].send(b"1"))
        disk.until_held()
        delivery = producer.send("t", b"2")
        with pytest.raises(streamlog.RequestTimedOutError):
            delivery.result(timeout=0.01)
        assert not delivery.done()
        disk.let_go()
        hanging.result(LONG)
        assert delivery.result().offset == 1
        assert values(log) == [b"1", b"2"]


# -- no call waits ----------------------------------------------------------------------------------------


def test_advancing_the_clock_syncs_a_batch_whose_linger_is_over(machine: SimulatedDisk, clock: ManualClock) -> None:
    with open_on(machine, clock) as log, log.producer(linger_ms=5) as producer:
        log.create_topic("t")
        called: list[int] = []
        delivery = producer.send("t", b"1")
        delivery.add_done_callback(lambda done: called.append(done.result().offset))
        clock.advance(0.004)
        assert not delivery.done()
        clock.advance(0.001)
        assert delivery.done()
        assert called == [0]
        assert after_power_loss(machine, clock) == [b"1"]


def test_the_background_thread_syncs_a_batch_whose_linger_is_over(machine: SimulatedDisk) -> None:
    with streamlog.open(PATH, disk=machine, sync=True) as log, log.producer(linger_ms=1) as producer:
        log.create_topic("t")
        called = threading.Event()
        producer.send("t", b"1").add_done_callback(lambda _: called.set())
        assert called.wait(LONG)
        with streamlog.open(PATH, disk=machine.power_loss("strict")) as left:
            assert values(left) == [b"1"]


@pytest.mark.parametrize("headers", [None, {"a": "b"}])
@pytest.mark.parametrize("linger_ms", [0, 5])
def test_acks_0_waits_for_no_sync_but_gets_one(
    disk: GatedDisk, machine: SimulatedDisk, clock: ManualClock, headers: dict[str, str] | None, linger_ms: int
) -> None:
    with open_on(disk, clock) as log, log.producer(acks=0, linger_ms=linger_ms) as producer:
        log.create_topic("t")
        before = disk.syncs
        assert producer.send("t", b"1", headers=headers).result().offset == -1
        assert producer.send_many("t", [b"2"]).result()[0].offset == -1
        assert disk.syncs == before
        clock.advance(0.1)
        assert values(log) == [b"1", b"2"]
        assert after_power_loss(machine, clock) == [b"1", b"2"]


def test_a_full_buffer_is_emptied_by_a_sync(machine: SimulatedDisk, clock: ManualClock) -> None:
    with open_on(machine, clock) as log:
        log.create_topic("t")
        with log.producer(linger_ms=1000, batch_size=1000, buffer_memory=4000, delivery_timeout_ms=30_000) as producer:
            for number in range(50):
                producer.send("t", b"%03d" % number + b"x" * 400)
        assert len(values(log)) == 50


# -- interrupts ------------------------------------------------------------------------------------------


@pytest.fixture
def ctrl_c(in_thread: InThread) -> Iterator[Callable[[Callable[[], object]], None]]:
    """`ctrl_c(when)` interrupts the main thread, once, when `when` returns in another thread.

    The signal is sent again until it is noticed: Python may have looked for one just before it blocks.
    """
    main = threading.main_thread().ident
    assert main is not None
    noticed = threading.Event()

    def handle(*_: object) -> None:
        if not noticed.is_set():
            noticed.set()
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, handle)

    def interrupt(when: Callable[[], object]) -> None:
        when()
        signal.pthread_kill(main, signal.SIGINT)
        while not noticed.wait(0.05):
            signal.pthread_kill(main, signal.SIGINT)

    yield lambda when: in_thread(lambda: interrupt(when)) and None
    signal.signal(signal.SIGINT, before)


CtrlC = Callable[[Callable[[], object]], None]


@pytest.mark.parametrize("headers", [None, {"a": "b"}])
def test_ctrl_c_while_another_syncs_leaves_a_usable_log_and_the_record_in_it(
    disk: GatedDisk,
    machine: SimulatedDisk,
    clock: ManualClock,
    in_thread: InThread,
    ctrl_c: CtrlC,
    headers: dict[str, str] | None,
) -> None:
    with open_on(disk, clock) as log, log.producer() as producer:
        log.create_topic("t")
        disk.hold()
        other = in_thread(lambda: producer.send("t", b"other"))
        disk.until_held()
        ctrl_c(lambda: disk.until_written(2))
        with pytest.raises(KeyboardInterrupt):
            producer.send("t", b"interrupted", headers=headers)
        assert not other.done()
        disk.let_go()
        assert other.result(LONG).result().offset == 0
        producer.send("t", b"afterwards")
        assert values(log) == [b"other", b"interrupted", b"afterwards"]
        assert after_power_loss(machine, clock) == values(log)


def test_ctrl_c_in_a_sync_of_ones_own_leaves_a_usable_log(disk: GatedDisk, clock: ManualClock, ctrl_c: CtrlC) -> None:
    with open_on(disk, clock) as log:
        topic = log.create_topic("t")
        disk.hold()
        ctrl_c(disk.until_held)
        with pytest.raises(KeyboardInterrupt):
            topic.send(b"interrupted")
        disk.let_go()
        clock.advance(0.1)
        assert values(log) == [b"interrupted"]
        assert topic.send(b"afterwards").result().offset == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", [calls.SendWithKeyAndHeaders, calls.SendMany, calls.LingerAndFlush, calls.Commit])
def test_an_interrupt_anywhere_leaves_the_log_usable_and_loses_nothing(
    kind: type[calls.Action], rng: random.Random
) -> None:
    synced = type(kind.__name__, (kind,), {"sync": True})
    assert sweep(synced, first=rng.randint(1, 3), step=3).interrupts > 50


# -- log.sync() ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sync", [False, True])
def test_log_sync_puts_everything_acknowledged_on_the_device(
    machine: SimulatedDisk, clock: ManualClock, sync: bool
) -> None:
    with open_on(machine, clock, sync=sync, segment_bytes=1024) as log:
        for name in "ab":
            log.create_topic(name, partitions=2).send_many([b"%d" % number * 300 for number in range(10)])
        log.sync()
        assert len(after_power_loss(machine, clock, "a")) == len(after_power_loss(machine, clock, "b")) == 10


def test_log_sync_does_nothing_twice_and_shares_the_sync_of_another_call(
    disk: GatedDisk, clock: ManualClock, in_thread: InThread
) -> None:
    with open_on(disk, clock, sync=False) as log:
        topic = log.create_topic("t")
        topic.send(b"1")
        before = disk.syncs
        log.sync()
        log.sync()
        assert disk.syncs - before == 1
        topic.send(b"2")
        disk.hold()
        first = in_thread(log.sync)
        disk.until_held()
        second = in_thread(log.sync)
        disk.let_go()
        first.result(LONG)
        second.result(LONG)
        assert disk.syncs - before == 2


def test_log_sync_of_a_closed_log_is_refused(machine: SimulatedDisk, clock: ManualClock) -> None:
    log = open_on(machine, clock)
    log.close()
    with pytest.raises(streamlog.ClosedError):
        log.sync()


# -- the option ------------------------------------------------------------------------------------------


def test_two_opens_in_one_process_agree_about_sync(machine: SimulatedDisk, clock: ManualClock) -> None:
    first, second = open_on(machine, clock), open_on(machine, clock)
    with pytest.raises(streamlog.ConfigError, match="another sync"):
        open_on(machine, clock, sync=False)
    first.close()
    second.close()


@pytest.mark.parametrize("sync", ["yes", 1, None])
def test_sync_is_a_bool(machine: SimulatedDisk, clock: ManualClock, sync: Any) -> None:
    with pytest.raises(streamlog.ConfigError, match="sync"):
        open_on(machine, clock, sync=sync)
