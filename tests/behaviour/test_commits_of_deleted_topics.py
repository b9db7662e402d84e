"""A committed offset belongs to a topic, not to a name: whatever is lost when a topic is deleted, none of the next is skipped."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

import streamlog
from streamlog import TopicPartition
from streamlog.broker.group_shard import GroupShard
from streamlog.testing import FaultyDisk, ManualClock, SimulatedDisk
from tests.times import LONG

from .simulated_logs import PATH, T0, Marks, groups_directory, opened, read_by_the_group

NEW = [b"new 0", b"new 1", b"new 2", b"new 3", b"new 4"]


def read_three_of_the_former(log: streamlog.StreamLog) -> None:
    log.create_topic("t").send_many([b"old"] * 3)
    with log.consumer("t", group="g") as consumer:
        assert len(consumer.poll()) == 3
    assert log.group("g").committed() == {T0: 3}


def test_no_record_of_a_topic_made_anew_is_skipped_after_a_power_loss(clock: ManualClock) -> None:
    disk = SimulatedDisk()
    with opened(disk, clock) as log:
        read_three_of_the_former(log)
        log.sync()
        log.delete_topic("t")
        log.create_topic("t")
        after = disk.power_loss()
    with opened(after, clock) as log:
        assert log.group("g").committed() == {}
        log["t"].send_many(NEW)
        assert read_by_the_group(log) == NEW
        assert log.group("g").committed() == {T0: 5}


@pytest.mark.slow
@pytest.mark.parametrize("sync", [False, True])
def test_no_record_of_a_topic_made_anew_is_skipped_after_any_crash(clock: ManualClock, sync: bool) -> None:
    """Every kill, between any two writes and in the middle of one, and every kind of power loss."""
    disk = SimulatedDisk()
    mark = Marks(disk)
    states = 0
    with opened(disk, clock, sync=sync) as log:
        read_three_of_the_former(log)
        log.sync()
        start = len(disk.operations)
        former = log["t"].id
        log.delete_topic("t")
        log.create_topic("t").send_many(NEW[:2])
        mark("sent", 1)
        with log.consumer("t", group="g") as consumer:
            assert len(consumer.poll(max_records=1)) == 1
        mark("committed", 1)
        for name, state in disk.crashes(2, harsh=2, kills=True, first=start):
            states += 1
            check_after_a_crash(name, state, clock, former, sync or "/kill" in name)
    assert states > 200


def check_after_a_crash(name: str, disk: SimulatedDisk, clock: ManualClock, former: Any, strong: bool) -> None:
    """The group has of the topic that is there what it committed in that one, and reads all the rest of it."""
    committed, sent = Marks.last(disk, "committed"), Marks.last(disk, "sent")
    with opened(disk, clock) as log:
        topic = log.create_topic("t", exist_ok=True)
        at = log.group("g").committed().get(T0, 0)
        there = [record.value for record in topic.read()]
        if topic.id == former:
            assert at <= 3, name
        else:
            assert at <= min(1, len(there)), name
            assert not strong or at >= max(0, committed), name
            assert not strong or len(there) > sent, name
        topic.send_many([b"after"] * 4)
        assert read_by_the_group(log) == there[at:] + [b"after"] * 4, name
    report = streamlog.verify(PATH, disk=disk)
    assert report.ok, f"{name}: {report}"


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_topic_is_deleted_although_its_commits_cannot_be_forgotten_now(
    clock: ManualClock, error: int, caplog: pytest.LogCaptureFixture
) -> None:
    disk = FaultyDisk(SimulatedDisk())
    with opened(disk, clock) as log:
        read_three_of_the_former(log)
        full = disk.fail("pwrite", error, path=f"{groups_directory(log, disk)}/*.log", times=None)
        log.delete_topic("t")
        assert full.fired == 1
        assert "could not be written down in the groups' topic" in caplog.text
        log.create_topic("t").send_many(NEW)
        disk.heal()
        assert log.group("g").committed() == {}
        assert read_by_the_group(log) == NEW
    with opened(disk, clock) as log:
        assert log.group("g").committed() == {T0: 5}


def test_what_a_deleted_topic_left_behind_is_forgotten_later(clock: ManualClock) -> None:
    disk = FaultyDisk(SimulatedDisk())
    with opened(disk, clock) as log:
        read_three_of_the_former(log)
        disk.fail("pwrite", path=f"{groups_directory(log, disk)}/*.log")
        log.delete_topic("t")
        clock.advance(600)
        before = log.metrics()["topics"]["__consumer_offsets"]["0"]["log_end_offset"]
        log.create_topic("another")
        clock.advance(6000)
        assert log.metrics()["topics"]["__consumer_offsets"]["0"]["log_end_offset"] == before, (
            "nothing was left to forget"
        )


def race_before(log: streamlog.StreamLog, call: str, change: Callable[[], object]) -> list[int]:
    """Have another thread change the topics just before the next `call` of the service, which an operation makes last.

    The number of such calls so far is in the list.
    """
    service: Any = log._engine.service
    made, calls = getattr(service, call), [0]

    def late(*args: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == 1:
            change()
        return made(*args, **options)

    setattr(service, call, late)
    return calls


def recreate(log: streamlog.StreamLog) -> None:
    log.delete_topic("t")
    log.create_topic("t").send_many(NEW)


def test_a_commit_for_a_topic_that_is_made_anew_meanwhile_is_refused(log: streamlog.StreamLog) -> None:
    log.create_topic("t").send_many([b"old"] * 3)
    with log.consumer("t", group="g", enable_auto_commit=False) as consumer:
        records = consumer.poll()
        made = race_before(log, "commit", lambda: recreate(log))
        with pytest.raises(streamlog.CommitFailedError, match=r"t-0 are of a topic that was deleted") as refused:
            consumer.commit(records[-1])
        assert made == [1]
        assert refused.value.partitions == (T0,)
    assert log.group("g").committed() == {}
    assert read_by_the_group(log) == NEW


def test_an_auto_commit_for_a_topic_that_is_made_anew_meanwhile_warns(
    log: streamlog.StreamLog, caplog: pytest.LogCaptureFixture
) -> None:
    log.create_topic("t").send_many([b"old"] * 3)
    with log.consumer("t", group="g") as consumer:
        assert len(consumer.poll()) == 3
        made = race_before(log, "commit", lambda: recreate(log))
    assert made == [1]
    assert "auto-commit: nothing was committed in group 'g': the offsets of t-0" in caplog.text
    assert log.group("g").committed() == {}
    assert read_by_the_group(log) == NEW


def test_an_auto_commit_for_a_topic_that_is_deleted_meanwhile_warns(
    log: streamlog.StreamLog, caplog: pytest.LogCaptureFixture
) -> None:
    log.create_topic("t").send_many([b"old"] * 3)
    with log.consumer("t", group="g") as consumer:
        assert len(consumer.poll()) == 3
        made = race_before(log, "commit", lambda: log.delete_topic("t"))
    assert made == [1]
    assert "auto-commit: nothing was committed" in caplog.text


@pytest.mark.parametrize("how", ["all", "a record", "a mapping"])
def test_a_commit_after_the_topic_was_made_anew_is_refused_and_the_next_poll_goes_on(
    log: streamlog.StreamLog, how: str
) -> None:
    log.create_topic("t").send_many([b"old"] * 3)
    with log.consumer("t", group="g", enable_auto_commit=False) as consumer:
        records = consumer.poll()
        log.delete_topic("t")
        log.create_topic("t").send_many(NEW)
        with pytest.raises(streamlog.CommitFailedError, match="t-0"):
            consumer.commit({"all": None, "a record": records[-1], "a mapping": {T0: 3}}[how])
        assert [record.value for record in consumer.poll()] == NEW
        consumer.commit()
    assert log.group("g").committed() == {T0: 5}


@pytest.mark.parametrize("polls", [0, 1])
@pytest.mark.parametrize("how", ["a record", "a mapping"])
def test_a_record_of_the_former_topic_is_never_committed_in_the_new_one(
    log: streamlog.StreamLog, how: str, polls: int
) -> None:
    """Asked once more, or after a poll took over the new topic, of which fewer records were handed out."""
    log.create_topic("t").send_many([b"old"] * 9)
    with log.consumer("t", group="g", enable_auto_commit=False) as consumer:
        last = consumer.poll()[-1]
        log.delete_topic("t")
        log.create_topic("t").send_many(NEW)
        if polls and how == "a mapping":
            assert len(consumer.poll(max_records=2)) == 2
            consumer.commit({T0: 4})  # by then it is the program's own word for the new topic
            assert log.group("g").committed() == {T0: 4}
            return
        for _ in range(2):
            for _ in range(polls):
                consumer.poll(max_records=2)
            with pytest.raises(streamlog.CommitFailedError, match="deleted"):
                consumer.commit({"a record": last, "a mapping": {T0: 9}}[how])
        assert log.group("g").committed() == {}
        consumer.poll()
        consumer.commit()
    assert log.group("g").committed() == {T0: 5}


def test_a_record_of_the_former_topic_is_not_committed_where_the_partition_came_back(log: streamlog.StreamLog) -> None:
    """The consumer had given the partition up, and another one was made meanwhile, when it got it again."""
    log.create_topic("t").send_many([b"old"] * 9)
    with log.consumer("t", group="g", enable_auto_commit=False) as consumer:
        last = consumer.poll()[-1]
        consumer.unsubscribe()
        log.delete_topic("t")
        log.create_topic("t").send_many(NEW)
        with pytest.raises(streamlog.CommitFailedError, match="deleted"):
            consumer.commit(last)
        consumer.subscribe("t")
        records = consumer.poll(max_records=2)
        with pytest.raises(streamlog.CommitFailedError, match="deleted"):
            consumer.commit(last)
        consumer.commit(records[-1])
    assert log.group("g").committed() == {T0: 2}


def test_an_auto_commit_after_the_topic_was_made_anew_warns(
    log: streamlog.StreamLog, caplog: pytest.LogCaptureFixture
) -> None:
    log.create_topic("t").send_many([b"old"] * 3)
    with log.consumer("t", group="g") as consumer:
        assert len(consumer.poll()) == 3
        log.delete_topic("t")
        log.create_topic("t").send_many(NEW)
        assert [record.value for record in consumer.poll()] == NEW
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
        "auto-commit: nothing is committed for t-0 in group 'g': the topic was deleted and created again, and offsets of the "
        "former one mean nothing in it"
    ]


def test_a_reset_sets_offsets_in_the_topic_of_today(clock: ManualClock) -> None:
    disk = FaultyDisk(SimulatedDisk())
    with opened(disk, clock) as log:
        read_three_of_the_former(log)
        disk.fail("pwrite", path=f"{groups_directory(log, disk)}/*.log")
        log.delete_topic("t")
        log.create_topic("t").send_many(NEW)
        assert log.group("g").lag() == {}
        log.group("g").reset("t", to={T0: 2})
        assert log.group("g").committed() == {T0: 2}
    with opened(disk, clock) as log:
        assert read_by_the_group(log) == NEW[2:]


def test_a_reset_for_a_topic_that_is_made_anew_meanwhile_is_refused(log: streamlog.StreamLog) -> None:
    read_three_of_the_former(log)
    race_before(log, "commit", lambda: recreate(log))
    with pytest.raises(streamlog.CommitFailedError, match="deleted"):
        log.group("g").reset("t", to="latest")
    assert log.group("g").committed() == {}


def test_another_process_sees_no_commits_of_a_former_topic(clock: ManualClock) -> None:
    disk = FaultyDisk(SimulatedDisk())
    with opened(disk, clock) as log:
        read_three_of_the_former(log)
        disk.fail("pwrite", path=f"{groups_directory(log, disk)}/*.log")
        log.delete_topic("t")
        log.create_topic("t").send_many(NEW)
        left = disk.inner.kill()  # type: ignore[attr-defined]
    with opened(left, clock, read_only=True) as log:
        assert log.group("g").committed() == {}


def test_a_commit_that_comes_while_another_thread_hears_of_an_older_change_is_kept(
    log: streamlog.StreamLog, in_thread: Callable[[Callable[[], Any]], Future[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread made a topic and is about to tell the groups; meanwhile another topic is made, read and committed."""
    log.create_topic("t").send(b"x")
    log.group("g").reset("t", to="latest")
    arrived, go_on = threading.Event(), threading.Event()
    ask = GroupShard._ask

    def ask_late(self: Any, *given: Any) -> Any:
        if threading.current_thread() is not threading.main_thread() and not arrived.is_set():
            arrived.set()
            assert go_on.wait(LONG)
        return ask(self, *given)

    monkeypatch.setattr(GroupShard, "_ask", ask_late)
    late = in_thread(lambda: log.create_topic("late"))
    assert arrived.wait(LONG)
    log.create_topic("u").send_many([b"1", b"2"])
    log.group("g").reset("u", to="latest")
    go_on.set()
    late.result(LONG)
    assert log.group("g").committed() == {T0: 1, TopicPartition("u", 0): 2}


def test_a_topic_of_a_former_name_keeps_what_was_committed_in_others(log: streamlog.StreamLog) -> None:
    log.create_topic("t").send_many([b"old"] * 3)
    log.create_topic("u").send(b"u")
    log.group("g").reset("t", "u", to="latest")
    log.delete_topic("t")
    log.create_topic("t")
    assert log.group("g").committed() == {TopicPartition("u", 0): 1}


@pytest.mark.parametrize("anew", [False, True], ids=["deleted", "made anew"])
def test_every_poll_of_an_assigned_partition_of_a_deleted_topic_raises(
    log: streamlog.StreamLog, clock: ManualClock, caplog: pytest.LogCaptureFixture, anew: bool
) -> None:
    """Auto-commit lets go of it no more than a program without a group does; and it commits what is left of the others."""
    log.create_topic("t").send_many([b"1", b"2"])
    log.create_topic("u").send_many([b"3"])
    with log.consumer(group="g", auto_commit_interval_ms=10) as consumer:
        consumer.assign([T0, ("u", 0)])
        while consumer.position(("u", 0)) == 0 or consumer.position(T0) == 0:
            consumer.poll()
        log.delete_topic("t")
        if anew:
            log.create_topic("t").send(b"another")
        for _ in range(3):
            clock.advance(10)
            with pytest.raises((streamlog.UnknownTopicOrPartitionError, streamlog.UnknownTopicIdError)):
                consumer.poll()
        assert log.group("g").committed() == {("u", 0): 1}
    assert caplog.text.count("offsets of the former one") == anew
