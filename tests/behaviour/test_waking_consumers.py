"""A consumer that waits is woken by an append, and has the record at once: nothing that a poll owes the group is left out."""

from __future__ import annotations

import errno
import gc
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import ClosedError, RebalanceListener, TopicPartition
from streamlog.broker.waiting import FetchSession
from streamlog.client.consumer import consumer, membership
from streamlog.replication.listeners import Waiters
from streamlog.runtime.threads import RawGate
from streamlog.testing import FaultyDisk, ManualClock, SimulatedDisk
from tests.times import FOREVER, LONG

InThread = Callable[[Callable[[], Any]], Any]


class Waiting:
    """Tells when a consumer waits, having looked for the last time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._waits = waits = threading.Event()

        class Gate(RawGate):
            def wait(self, timeout: float | None = None) -> bool:
                waits.set()
                return super().wait(timeout)

        monkeypatch.setattr(consumer, "RawGate", Gate)

    def until_it_waits(self) -> None:
        assert self._waits.wait(LONG), "nobody waits"


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Waiting:
    return Waiting(monkeypatch)


@pytest.mark.parametrize("group", [None, "g"], ids=["alone", "member"])
def test_a_record_wakes_the_polls_that_wait_for_it(
    log: streamlog.StreamLog, in_thread: InThread, monkeypatch: pytest.MonkeyPatch, group: str | None
) -> None:
    topic = log.create_topic("t")
    with log.consumer("t", group=group) as consumer:
        assert consumer.poll() == []
        waiting = Waiting(monkeypatch)
        polled = in_thread(lambda: consumer.poll(FOREVER))
        waiting.until_it_waits()
        topic.send(b"x", b"k", headers={"h": b"1"})
        assert [(record.value, record.headers) for record in polled.result(LONG)] == [(b"x", (("h", b"1"),))]


def test_a_member_that_is_woken_has_its_full_poll_interval_from_then_on(
    log: streamlog.StreamLog, in_thread: InThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = log.create_topic("t")
    renewed: list[str] = []
    service: Any = log._engine.service
    renew = service.renew

    def noted(group: str, member_id: str, seen_version: int) -> bool:
        renewed.append("sent" if sent else "before")
        return bool(renew(group, member_id, seen_version))

    sent: list[bytes] = []
    with log.consumer("t", group="g") as consumer:
        assert consumer.poll() == []
        service.renew = noted
        waiting = Waiting(monkeypatch)
        polled = in_thread(lambda: consumer.poll(FOREVER))
        waiting.until_it_waits()
        sent.append(b"x")
        topic.send(b"x")
        assert [record.value for record in polled.result(LONG)] == [b"x"]
    assert renewed[-1] == "sent", renewed


def test_a_record_that_an_interrupt_kept_from_the_loop_comes_again(
    log: streamlog.StreamLog, in_thread: InThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = log.create_topic("t")
    consumer = log.consumer("t", group="g")
    assert consumer.poll() == []
    interrupts = [KeyboardInterrupt()]
    end_wait = FetchSession.end_wait

    def end_wait_interrupted(session: FetchSession) -> None:
        end_wait(session)
        if interrupts:
            raise interrupts.pop()

    waiting = Waiting(monkeypatch)
    monkeypatch.setattr(FetchSession, "end_wait", end_wait_interrupted)
    looped = in_thread(lambda: next(consumer))
    waiting.until_it_waits()
    topic.send(b"0")
    assert isinstance(looped.exception(LONG), KeyboardInterrupt)
    topic.send(b"1")
    assert [next(consumer).value, next(consumer).value] == [b"0", b"1"]
    consumer.close()
    assert sum(log.group("g").committed().values()) == 1, "only the first one is finished"


# Each of these ends one wait, and no waiting call looks again by itself in tests (see the conftest): without that wake-up the
# future has no result.


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("how", ["send", "send_many", "linger", "headers"])
def test_every_way_to_send_wakes_a_poll_that_waits(
    tmp_path: Path, clock: ManualClock, in_thread: InThread, waiting: Waiting, sync: bool, how: str
) -> None:
    with streamlog.open(tmp_path / "log", clock=clock, sync=sync) as log:
        topic = log.create_topic("t")
        with log.consumer("t") as reader, log.producer(linger_ms=1_000) as producer:
            polled = in_thread(lambda: reader.poll(FOREVER))
            waiting.until_it_waits()
            if how == "send":
                topic.send(b"x")
            elif how == "send_many":
                topic.send_many([b"x"])
            elif how == "headers":
                topic.send(b"x", headers={"h": b"1"})
            else:
                producer.send("t", b"x")
                clock.advance(1)
            assert [record.value for record in polled.result(LONG)] == [b"x"]


def test_an_append_to_any_of_its_partitions_wakes_a_poll_that_waits(
    log: streamlog.StreamLog, in_thread: InThread, waiting: Waiting
) -> None:
    topic = log.create_topic("t", partitions=3)
    with log.consumer("t", group="g") as reader:
        for n in (2, 0, 1):
            polled = in_thread(lambda: reader.poll(FOREVER))
            waiting.until_it_waits()
            waiting._waits.clear()
            topic.send(b"x", partition=n)
            assert [record.partition for record in polled.result(LONG)] == [n]


def test_the_records_of_an_interrupted_send_wake_a_poll_that_waits_when_they_are_settled(
    log: streamlog.StreamLog, in_thread: InThread, waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = log.create_topic("t")
    producer = log.producer(linger_ms=1_000)
    interrupts = [KeyboardInterrupt()]
    wake = Waiters.wake
    service: Any = log._engine.service
    of_topic = service._partitions["t", 0].waiters

    def interrupted(waiters: Waiters) -> None:
        if interrupts and waiters is of_topic:
            raise interrupts.pop()
        wake(waiters)

    with log.consumer("t") as reader:
        polled = in_thread(lambda: reader.poll(FOREVER))
        waiting.until_it_waits()
        monkeypatch.setattr(Waiters, "wake", interrupted)
        producer.send("t", b"x")
        with pytest.raises(KeyboardInterrupt):
            producer.flush()
        assert not interrupts
        producer.flush()
        assert [record.value for record in polled.result(LONG)] == [b"x"]
    producer.close()
    assert topic.partition(0).log_end_offset == 1


@pytest.mark.parametrize("loop", [False, True])
def test_stop_wakes_a_poll_that_waits(
    log: streamlog.StreamLog, in_thread: InThread, waiting: Waiting, loop: bool
) -> None:
    log.create_topic("t")
    with log.consumer("t") as reader:
        ended = in_thread(lambda: list(reader) if loop else reader.poll(FOREVER))
        waiting.until_it_waits()
        reader.stop()
        assert ended.result(LONG) == []


def test_closing_the_log_wakes_the_polls_that_wait_before_anything_else_is_closed(
    tmp_path: Path, clock: ManualClock, in_thread: InThread, waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    closing = streamlog.Consumer._close_with_log
    monkeypatch.setattr(closing, "__defaults__", (FOREVER, None))  # how long the close waits for the reader to end
    log = streamlog.open(tmp_path / "log", clock=clock)
    log.create_topic("t")
    reader = log.consumer("t", group="g")
    ended = in_thread(lambda: reader.poll(FOREVER))
    waiting.until_it_waits()
    log.close()
    assert isinstance(ended.exception(LONG), ClosedError)


def test_a_new_topic_wakes_the_polls_that_wait_for_its_name(
    log: streamlog.StreamLog, in_thread: InThread, waiting: Waiting
) -> None:
    with log.consumer(re.compile("t.*")) as reader:
        polled = in_thread(lambda: reader.poll(FOREVER))
        waiting.until_it_waits()
        waiting._waits.clear()
        topic = log.create_topic("t1")
        waiting.until_it_waits()
        assert reader._subscriptions.assigned() == {TopicPartition("t1", 0)}
        topic.send(b"x")
        assert [record.value for record in polled.result(LONG)] == [b"x"]


def test_new_partitions_wake_a_member_that_waits(
    log: streamlog.StreamLog, in_thread: InThread, waiting: Waiting
) -> None:
    topic = log.create_topic("t")
    with log.consumer("t", group="g") as reader:
        polled = in_thread(lambda: reader.poll(FOREVER))
        waiting.until_it_waits()
        waiting._waits.clear()
        topic.add_partitions(2)
        waiting.until_it_waits()
        topic.send(b"x", partition=1)
        assert [record.value for record in polled.result(LONG)] == [b"x"]


@pytest.mark.parametrize("how", ["closes", "commits and polls", "ends its thread", "is evicted"])
def test_a_partition_that_comes_free_wakes_the_member_that_waits_for_it(
    log: streamlog.StreamLog, in_thread: InThread, waiting: Waiting, how: str
) -> None:
    log.create_topic("t").send_many([b"0", b"1"]).result()
    log.create_topic("u")
    leave = threading.Event()
    owner, heir = log.consumer("t", "u", group="g"), log.consumer("t", group="g")

    def own() -> None:
        owner.poll(max_records=1)
        taken.set()
        leave.wait(LONG)
        if how == "closes":
            with owner:
                pass

    taken = threading.Event()
    in_thread(own)
    assert taken.wait(LONG)
    polled = in_thread(lambda: heir.poll(FOREVER))
    waiting.until_it_waits()
    if how == "closes":
        leave.set()
    elif how == "commits and polls":
        owner.subscribe(["u"])
        owner.poll()
    elif how == "ends its thread":
        leave.set()
    else:
        service: Any = log._engine.service
        service.leave_group("g", owner._coordinator.membership.member_id)  # type: ignore[union-attr]
    expected = [b"1"] if how in ("closes", "commits and polls") else [b"0", b"1"]
    assert [record.value for record in polled.result(LONG)] == expected
    leave.set()
    heir.close()
    owner.close()


def test_what_a_listener_subscribes_to_is_read_by_the_same_poll(log: streamlog.StreamLog) -> None:
    log.create_topic("t")
    log.create_topic("u").send(b"x")

    class Subscribing(RebalanceListener):
        def on_partitions_assigned(self, partitions: Any) -> None:
            reader.subscribe(["u"])

    reader = log.consumer("t", group="g", listener=Subscribing())
    assert [record.value for record in reader.poll(FOREVER)] == [b"x"]
    reader.close()


def test_a_loop_that_subscribes_to_another_topic_goes_on_there(log: streamlog.StreamLog) -> None:
    log.create_topic("t").send_many([b"0", b"1", b"2"]).result()
    log.create_topic("u").send(b"x")
    with log.consumer("t", group="g") as reader:
        seen = [next(reader).value, next(reader).value]
        reader.subscribe(["u"])  # what was taken ahead of the old one is not handed out
        seen.append(next(reader).value)
    assert seen == [b"0", b"1", b"x"]


def test_the_end_of_a_thread_wakes_members_of_its_groups_and_no_others(
    log: streamlog.StreamLog, in_thread: InThread
) -> None:
    log.create_topic("t", partitions=2)
    members = {group: log.consumer("t", group=group) for group in ("g", "h")}
    orphan = log.consumer("t", group="g")
    for member in members.values():
        member.poll()
        member._wakeup.pending = False
    polling = threading.Thread(target=orphan.poll)
    polling.start()
    polling.join()
    assert members["g"]._wakeup.pending
    assert not members["h"]._wakeup.pending
    for member in (*members.values(), orphan):
        member.close()


# The background thread


def test_a_shorter_linger_than_all_others_wakes_the_background_thread(tmp_path: Path) -> None:
    with streamlog.open(tmp_path / "log") as log:
        log.create_topic("t")
        with log.consumer("t") as reader, log.producer(linger_ms=3_600_000) as slow, log.producer(linger_ms=1) as fast:
            slow.send("t", b"slow")
            fast.send("t", b"fast")
            assert [record.value for record in reader.poll(FOREVER)] == [b"fast"]


def test_what_a_collected_member_leaves_to_be_done_wakes_the_background_thread(
    tmp_path: Path, in_thread: InThread, waiting: Waiting
) -> None:
    with streamlog.open(tmp_path / "log") as log:
        log.create_topic("t").send(b"x").result()
        forgotten, heir = (log.consumer("t", group="g") for _ in range(2))
        forgotten.poll()
        polled = in_thread(lambda: heir.poll(FOREVER))
        waiting.until_it_waits()
        with pytest.warns(ResourceWarning):
            del forgotten
            gc.collect()
        assert [record.value for record in polled.result(LONG)] == [b"x"]
        heir.close()


def test_a_leave_that_could_not_be_written_wakes_the_background_thread(
    in_thread: InThread, waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "RETRY_MS", 1)
    disk = FaultyDisk(SimulatedDisk())
    with streamlog.open("data", disk=disk) as log:
        log.create_topic("t").send(b"x").result()
        leaving, heir = (log.consumer("t", group="g", enable_auto_commit=False) for _ in range(2))
        leaving.poll()
        polled = in_thread(lambda: heir.poll(FOREVER))
        waiting.until_it_waits()
        full = disk.fail("pwrite", errno.ENOSPC, path="*/topics/*.log", times=3)
        leaving.close()
        assert [record.value for record in polled.result(LONG)] == [b"x"]
        assert full.fired == 3
        heir.close()
