"""A member is one until it leaves or the coordinator says otherwise: no failure leaves a partition without an owner."""

from __future__ import annotations

import errno
import gc
import logging
import threading
from collections.abc import Sequence
from typing import Any

import pytest

import streamlog
from streamlog import ClosedError, DiskFullError, FencedInstanceIdError, RebalanceListener, TopicPartition
from streamlog.runtime.threads import result_of
from streamlog.testing import FaultyDisk, ManualClock, SimulatedDisk

from .member_time import Liveness

Consumer = streamlog.Consumer[Any, Any]
P0 = TopicPartition("t", 0)
GROUPS = "*/topics/*.log"


@pytest.fixture
def disk() -> FaultyDisk:
    return FaultyDisk(SimulatedDisk())


@pytest.fixture
def log(disk: FaultyDisk, clock: ManualClock) -> Any:
    with streamlog.open("data", disk=disk, clock=clock) as log:
        log.create_topic("t", partitions=2).send_many(["a", "b", "c"], partition=0).result()
        with log.consumer("t", group="other") as consumer:
            consumer.poll()  # the topic of the groups is there
        yield log


def every(partitions: int = 2) -> set[TopicPartition]:
    return {TopicPartition("t", n) for n in range(partitions)}


def names(log: streamlog.StreamLog) -> list[str]:
    return [member.member_id for member in log.group("g").members()]


def assert_shared(log: streamlog.StreamLog, *members: Consumer) -> None:
    """These members, and no ghost beside them, have all partitions."""
    partitions = log["t"].partitions
    for _ in range(3):
        for member in members:
            member.poll()
    assert set().union(*(member.assignment() for member in members)) == every(partitions)
    assert len(log.group("g").members()) == len(members)


# An append that fails


def test_a_heartbeat_that_cannot_be_written_keeps_the_member_and_what_it_has(
    log: streamlog.StreamLog, disk: FaultyDisk
) -> None:
    with log.consumer("t", group="g") as first, log.consumer("t", group="g") as second:
        first.poll()
        before, (name,) = first.assignment(), names(log)
        first.subscribe(["t", log.create_topic("u")])
        fault = disk.fail("pwrite", errno.ENOSPC, path=GROUPS)
        with pytest.raises(DiskFullError):
            first.poll()
        assert fault.fired == 1
        assert first.assignment() == before
        first.poll()
        assert names(log) == [name]
        first.subscribe(["t"])
        assert_shared(log, first, second)


def test_a_rebalance_that_could_not_be_written_is_made_by_a_later_poll(
    log: streamlog.StreamLog, disk: FaultyDisk
) -> None:
    with log.consumer("t", group="g", enable_auto_commit=False) as first, log.consumer("t", group="g") as second:
        first.poll(max_records=1)
        second.poll()
        disk.fail("pwrite", errno.ENOSPC, path=GROUPS, times=2)
        for _ in range(2):
            with pytest.raises(DiskFullError):
                first.poll()
        assert_shared(log, first, second)


def test_a_join_that_cannot_be_written_leaves_no_member(log: streamlog.StreamLog, disk: FaultyDisk) -> None:
    with log.consumer("t", group="g") as member:
        disk.fail("pwrite", errno.ENOSPC, path=GROUPS, times=3)
        for _ in range(3):
            with pytest.raises(DiskFullError):
                member.poll()
        assert names(log) == []
        assert_shared(log, member)


def test_groups_are_shown_and_read_while_the_end_of_a_session_cannot_be_written(
    log: streamlog.StreamLog, disk: FaultyDisk
) -> None:
    """A look at a group evicts members that are overdue first. Where that cannot be written they are shown, and evicted later."""
    time = Liveness(log)
    with log.consumer("t", group="g", enable_auto_commit=False, max_poll_interval_ms=1_000) as member:
        member.poll()
        member.commit()
        (name,) = names(log)
        time.pass_ms(2_000)
        full = disk.fail("pwrite", errno.ENOSPC, path=GROUPS, times=None)
        assert names(log) == [name]
        assert "g" in [group.name for group in log.groups()]
        assert log.group("g").committed()[P0] == 3
        assert full.fired
        disk.heal(full)
        assert names(log) == []


# A leave that fails


@pytest.mark.parametrize("how", ["close", "unsubscribe", "collected", "thread ended"])
def test_a_leave_that_cannot_be_written_is_tried_again(log: streamlog.StreamLog, disk: FaultyDisk, how: str) -> None:
    leaving = log.consumer("t", group="g", enable_auto_commit=False)
    polling = threading.Thread(target=leaving.poll)
    polling.start()
    polling.join()
    fault = disk.fail("pwrite", errno.ENOSPC, path=GROUPS)
    if how == "close":
        leaving.close()
    elif how == "unsubscribe":
        leaving.unsubscribe()
    elif how == "collected":
        with pytest.warns(ResourceWarning):
            del leaving
            gc.collect()
    group = log.group("g")
    group.members()  # any call makes those members leave that cannot do it themselves, or could not before
    assert fault.fired == 1
    assert group.members() == []
    with log.consumer("t", group="g") as heir:
        assert [record.value for record in heir.poll()] == [b"a", b"b", b"c"]
        assert_shared(log, heir)
    if how not in ("close", "collected"):
        leaving.close()


def test_a_leave_that_still_cannot_be_written_is_kept_for_the_next_to_poll(
    log: streamlog.StreamLog, disk: FaultyDisk
) -> None:
    leaving = log.consumer("t", group="g", enable_auto_commit=False)
    leaving.poll()
    fault = disk.fail("pwrite", errno.ENOSPC, path=GROUPS, times=6)
    leaving.close()
    with log.consumer("t", group="g") as heir:
        for _ in range(2):  # the leave is tried again first, as when the consumer was made; then its own join fails
            with pytest.raises(DiskFullError):
                heir.poll()
        heir.poll()
        assert fault.fired == 6
        assert_shared(log, heir)


# A listener that closes, or ends the subscription


class Calling(RebalanceListener):
    """Calls `action` once, when the event named comes."""

    def __init__(self, event: str, action: Any) -> None:
        self.event, self.action = event, action
        self.events: list[str] = []

    def _called(self, event: str) -> None:
        self.events.append(event)
        if event == self.event:
            self.event = ""
            self.action()

    def on_partitions_assigned(self, partitions: Sequence[TopicPartition]) -> None:
        self._called("assigned")

    def on_partitions_revoked(self, partitions: Sequence[TopicPartition]) -> None:
        self._called("revoked")

    def on_partitions_lost(self, partitions: Sequence[TopicPartition]) -> None:
        self._called("lost")


def until(log: streamlog.StreamLog, event: str, listener: Calling) -> tuple[Consumer, Consumer]:
    """A member whose next poll calls the listener for `event`, and another one."""
    member = log.consumer("t", group="g", listener=listener)
    other = log.consumer("t", group="g")
    if event != "assigned":
        member.poll()
        other.poll()
    if event == "lost":
        log._engine.service.leave_group("g", member._coordinator.membership.member_id)  # type: ignore[union-attr]
    return member, other


@pytest.mark.parametrize("event", ["assigned", "revoked", "lost"])
def test_a_member_closed_by_its_listener_does_not_join_again(log: streamlog.StreamLog, event: str) -> None:
    listener = Calling(event, lambda: member.close())
    member, other = until(log, event, listener)
    with pytest.raises(ClosedError):
        member.poll()
    assert member.closed
    with other:
        assert_shared(log, other)


@pytest.mark.parametrize("event", ["assigned", "revoked", "lost"])
def test_a_member_that_its_listener_unsubscribes_does_not_join_again(log: streamlog.StreamLog, event: str) -> None:
    listener = Calling(event, lambda: member.unsubscribe())
    member, other = until(log, event, listener)
    assert member.poll() == []
    assert member.assignment() == set()
    with other:
        assert_shared(log, other)
    member.close()


@pytest.mark.parametrize(("event", "more"), [("assigned", ["revoked"]), ("revoked", ["revoked"]), ("lost", [])])
def test_a_member_that_its_listener_assigns_partitions_reads_those(
    log: streamlog.StreamLog, event: str, more: list[str]
) -> None:
    """Each partition goes once: what is being revoked, or is lost, is not revoked anew by what the listener does."""
    listener = Calling(event, lambda: member.assign([P0]))
    member, other = until(log, event, listener)
    member.poll()
    log["t"].send("new", partition=0)
    assert [record.value for record in member.poll() + member.poll()][-1:] == [b"new"]
    assert member.assignment() == {P0}
    assert listener.events == [*([] if event == "assigned" else ["assigned"]), event, *more]
    with other:
        assert_shared(log, other)
    member.close()


def test_a_listener_may_use_the_consumer_after_it_was_called_within_itself(log: streamlog.StreamLog) -> None:
    def end_and_ask() -> None:
        member.unsubscribe()  # which tells the listener that the partitions go
        seen.append((member.paused(), member.lag()))

    seen: list[object] = []
    listener = Calling("assigned", end_and_ask)
    member, other = until(log, "assigned", listener)
    assert member.poll() == []
    assert seen == [(set(), {})]
    assert listener.events == ["assigned", "revoked"]
    member.close()
    other.close()


# Fencing


def test_the_older_of_two_with_one_instance_id_stays_fenced(log: streamlog.StreamLog) -> None:
    older = log.consumer("t", group="g", group_instance_id="one")
    older.poll()
    newer = log.consumer("t", group="g", group_instance_id="one")
    newer.poll()
    (name,) = names(log)
    for _ in range(3):
        with pytest.raises(FencedInstanceIdError, match="'one'"):
            older.poll()
        with pytest.raises(FencedInstanceIdError):
            older.commit({P0: 1})
        assert older.assignment() == set()
        assert newer.poll() == []
        assert newer.assignment() == every()
    assert names(log) == [name]
    older.close()
    assert names(log) == [name]
    newer.close()


def test_a_fenced_member_stays_fenced_whatever_it_subscribes_to_and_when_the_newer_is_gone(
    log: streamlog.StreamLog,
) -> None:
    log.create_topic("u")
    older, newer = (log.consumer("t", group="g", group_instance_id="one") for _ in range(2))
    older.poll()
    newer.poll()
    with pytest.raises(FencedInstanceIdError):
        older.poll()
    newer.close()
    for action in (lambda: older.subscribe(["u"]), older.unsubscribe, lambda: older.subscribe(["t"])):
        action()
        with pytest.raises(streamlog.StreamlogError):
            older.poll()
        assert older.assignment() == set()
    with pytest.raises(FencedInstanceIdError):
        next(older)
    older.close()


def test_the_error_of_a_fenced_member_does_not_say_that_it_polled_too_late(
    log: streamlog.StreamLog, caplog: pytest.LogCaptureFixture
) -> None:
    older, newer = (log.consumer("t", group="g", group_instance_id="one") for _ in range(2))
    older.poll()
    newer.poll()
    with caplog.at_level(logging.WARNING), pytest.raises(FencedInstanceIdError):
        older.poll()
    assert "max_poll_interval_ms" not in caplog.text
    older.close()
    newer.close()


# A member whose thread has ended, or that does not poll


def ended_after(call: Any) -> None:
    polling = threading.Thread(target=call)
    polling.start()
    polling.join()


def test_a_member_whose_thread_has_ended_is_not_brought_back_by_the_polls_of_others(log: streamlog.StreamLog) -> None:
    log["t"].add_partitions(3)  # one for each, so that the newcomer has one to wait for
    busy, orphan, newcomer = (log.consumer("t", group="g") for _ in range(3))
    busy.poll(max_records=1)  # has a record in hand, so that its partitions stay where they are
    ended_after(orphan.poll)
    for _ in range(4):  # waits for the partition, and asks all the others for it
        newcomer.poll()
        here = result_of(log._engine.service.describe_group("g"))  # `log.group("g").members()` would take it out first
        assert len(here.members) == 2
        assert orphan.assignment() == set()
    busy.commit()
    assert_shared(log, busy, newcomer)
    for member in (busy, orphan, newcomer):
        member.close()


def test_a_member_that_comes_back_after_its_thread_ended_hears_the_true_cause(
    log: streamlog.StreamLog, caplog: pytest.LogCaptureFixture
) -> None:
    orphan = log.consumer("t", group="g")
    ended_after(orphan.poll)
    with log.consumer("t", group="g") as other:
        other.poll()
        with caplog.at_level(logging.WARNING):
            orphan.poll()
    assert "ended without closing it" in caplog.text
    assert "max_poll_interval_ms" not in caplog.text
    orphan.close()


def test_a_member_that_polled_too_late_hears_that(log: streamlog.StreamLog, caplog: pytest.LogCaptureFixture) -> None:
    liveness = Liveness(log)
    late = log.consumer("t", group="g", max_poll_interval_ms=1_000)
    late.poll()
    liveness.pass_ms(1_000)
    with log.consumer("t", group="g") as other:
        other.poll()
        with caplog.at_level(logging.WARNING):
            late.poll()
    assert "did not poll within max_poll_interval_ms=1000" in caplog.text
    late.close()


def test_being_asked_to_hand_over_is_not_a_poll(log: streamlog.StreamLog) -> None:
    liveness = Liveness(log)
    log.create_topic("u", partitions=2).send(b"x", partition=0)
    busy, newcomer = (log.consumer("u", group="g") for _ in range(2))
    idle = log.consumer("t", group="g", max_poll_interval_ms=1_000)
    busy.poll(max_records=1)
    while idle.poll():
        pass
    for _ in range(3):  # waits for a partition of which a record is in hand, and asks the idle one too
        liveness.pass_ms(400)
        newcomer.poll()
        assert newcomer.assignment() == set()
    assert idle._coordinator.membership is not None
    assert idle._coordinator.membership.member_id not in names(log)
    for member in (busy, idle, newcomer):
        member.close()


def test_what_another_member_meets_when_it_is_asked_is_its_own_affair(
    log: streamlog.StreamLog, disk: FaultyDisk
) -> None:
    fenced = log.consumer("t", group="g", group_instance_id="one")
    fenced.poll(max_records=3)
    fenced.poll()
    newer = log.consumer("t", group="g", group_instance_id="one")
    newer.poll()
    with log.consumer("t", group="g") as third:
        for _ in range(3):
            third.poll()
            newer.poll()
        assert len(third.assignment()) == 1
    with pytest.raises(FencedInstanceIdError):
        fenced.poll()
    fenced.close()
    newer.close()
