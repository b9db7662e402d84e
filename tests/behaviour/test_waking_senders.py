"""A sender that waits for another thread, which writes, syncs, or has the room it needs, is woken by that thread.

In tests no waiting call looks again by itself (see the conftest): a wake-up that is missing is a wait without end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from errno import ENOSPC
from typing import Any

import pytest

import streamlog
from streamlog.client.producer import accumulator, partition_queue
from streamlog.replication.commit import GroupCommit
from streamlog.runtime import threads
from streamlog.runtime.threads import RawGate
from streamlog.testing import FaultyDisk, ManualClock, SimulatedDisk
from tests.times import LONG

from .gated_disk import GatedDisk

InThread = Callable[[Callable[[], Any]], Future[Any]]
HOUR_MS = 3_600_000


class Waits:
    """Counts the waits that were begun, in a producer or for a sync."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._changed = changed = threading.Condition()
        self._begun = 0
        waits = self

        class Gate(RawGate):
            def wait(self, timeout: float | None = None) -> bool:
                with changed:
                    waits._begun += 1
                    changed.notify_all()
                return super().wait(timeout)

        for module in (accumulator, partition_queue, threads):
            monkeypatch.setattr(module, "RawGate", Gate)

    def until(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._begun >= count, LONG), f"{self._begun} of {count} wait"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    return Waits(monkeypatch)


@pytest.fixture
def disk() -> Iterator[GatedDisk]:
    disk = GatedDisk(SimulatedDisk())
    yield disk
    disk.let_go()


def opened(disk: GatedDisk, clock: ManualClock, **options: Any) -> streamlog.StreamLog:
    return streamlog.open("data", disk=disk, clock=clock, **options)


@pytest.mark.parametrize("sync", [False, True])
def test_every_send_that_waits_for_memory_is_woken(
    disk: GatedDisk, clock: ManualClock, in_thread: InThread, waits: Waits, sync: bool
) -> None:
    """The first to be woken takes all the room for a batch that lingers, and the next one ends that linger."""
    with opened(disk, clock, sync=sync) as log:
        log.create_topic("t")
        limits = {"batch_size": 1_000, "buffer_memory": 1_000, "delivery_timeout_ms": HOUR_MS}
        with log.producer(linger_ms=HOUR_MS, **limits) as producer:
            producer.send("t", b"0" * 400)
            disk.hold(writes=True)
            writing = in_thread(producer.flush)
            disk.until_held()
            waiting = [in_thread(lambda n=n: producer.send("t", b"%d" % n)) for n in (1, 2, 3)]
            waits.until(3)
            disk.let_go()
            writing.result(LONG)
            deliveries = [future.result(LONG) for future in waiting]
            producer.flush()
            assert sorted(delivery.result().offset for delivery in deliveries) == [1, 2, 3]


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("how", ["result", "flush", "close"])
def test_a_sender_that_waits_for_a_batch_of_another_thread_is_woken(
    disk: GatedDisk, clock: ManualClock, in_thread: InThread, waits: Waits, sync: bool, how: str
) -> None:
    with opened(disk, clock, sync=sync) as log:
        log.create_topic("t")
        with log.producer(linger_ms=HOUR_MS) as producer:
            producer.send("t", b"0")
            disk.hold(writes=True)
            writing = in_thread(producer.flush)
            disk.until_held()
            delivery = producer.send("t", b"1")
            waiting = in_thread({"result": delivery.result, "flush": producer.flush, "close": producer.close}[how])
            waits.until(1)
            disk.let_go()
            waiting.result(LONG)
            writing.result(LONG)
            assert delivery.result(0).offset == 1


def test_a_batch_is_written_after_the_record_of_another_thread_before_it_was_refused(
    clock: ManualClock, in_thread: InThread, waits: Waits
) -> None:
    """A record alone is written by its sender without a batch; a record with headers goes into one."""
    disk = GatedDisk(FaultyDisk(SimulatedDisk()))
    with opened(disk, clock) as log:
        topic = log.create_topic("t")
        topic.send(b"0")
        disk.fail("pwrite", ENOSPC, path="*.log", times=1)
        disk.hold(writes=True)
        refused = in_thread(lambda: topic.send(b"1"))
        disk.until_held()
        batched = in_thread(lambda: topic.send(b"2", headers={"a": "b"}))
        waits.until(1)
        disk.let_go()
        assert isinstance(refused.exception(LONG), streamlog.DiskFullError)
        assert batched.result(LONG).result().offset == 1


def test_a_sender_that_waits_for_the_sync_of_another_thread_is_woken_or_has_the_next_turn(
    disk: GatedDisk, clock: ManualClock, in_thread: InThread, waits: Waits
) -> None:
    with opened(disk, clock, sync=True) as log:
        topic = log.create_topic("t")
        disk.hold()
        first = in_thread(lambda: topic.send(b"0"))
        disk.until_held()
        others = [in_thread(lambda: topic.send(b"x")) for _ in range(3)]
        waits.until(3)
        disk.let_go()
        offsets = [sent.result(LONG).result().offset for sent in (first, *others)]
        assert sorted(offsets) == [0, 1, 2, 3]


def test_a_record_on_which_no_call_waits_is_synced_after_its_linger(disk: GatedDisk, in_thread: InThread) -> None:
    with streamlog.open("data", disk=disk, sync=True) as log, log.producer(linger_ms=1) as producer:
        log.create_topic("t")
        with log.consumer("t") as reader:
            producer.send("t", b"x")
            assert [record.value for record in reader.poll(3600)] == [b"x"]


def test_a_sender_that_waits_for_a_batch_is_woken_when_it_is_in_the_log_and_syncs_it(
    disk: GatedDisk, clock: ManualClock, in_thread: InThread, waits: Waits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that writes it, because a linger is over, leaves the sync to the call that blocks on the record."""
    monkeypatch.setattr(GroupCommit, "maybe_sync", lambda commit, now_ms: None)
    with opened(disk, clock, sync=True) as log:
        log.create_topic("t")
        with log.producer(linger_ms=1_000) as producer:
            producer.send("t", b"0")
            disk.hold(writes=True)
            writing = in_thread(lambda: clock.advance(1))
            disk.until_held()
            delivery = producer.send("t", b"1")
            waiting = in_thread(delivery.result)
            waits.until(1)
            disk.let_go()
            assert waiting.result(LONG).offset == 1
            writing.result(LONG)
