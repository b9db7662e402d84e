"""Waiting for a group: it ends when the partitions are shared, and says how the group is if they are not in time."""

from __future__ import annotations

import threading

import pytest

import streamlog
from streamlog.testing import wait_for_group

LONG = 60.0


def test_the_members_that_are_returned_have_all_partitions(log: streamlog.StreamLog) -> None:
    log.create_topic("orders", partitions=4)
    with log.group("billing").start(lambda _: None, "orders", workers=2):
        members = wait_for_group(log, "billing", timeout=LONG, members=2)
    assert sorted(len(member.assignment) for member in members) == [2, 2]
    assert frozenset().union(*(member.assignment for member in members)) == {("orders", n) for n in range(4)}


def test_a_member_that_joins_during_the_wait_ends_it(log: streamlog.StreamLog) -> None:
    log.create_topic("orders")
    found: list[list[streamlog.MemberInfo]] = []
    waiting = threading.Thread(target=lambda: found.append(wait_for_group(log, "billing", timeout=LONG)))
    waiting.start()
    with log.consumer("orders", group="billing") as consumer:
        while waiting.is_alive():
            consumer.poll(0.01)
    waiting.join()
    [[member]] = found
    assert member.assignment == {("orders", 0)}


def test_a_group_that_does_not_come_is_a_timeout_with_its_state(log: streamlog.StreamLog) -> None:
    with pytest.raises(TimeoutError, match=r"'billing' is not stable with 1 members.*after 0 s.*Dead.*none"):
        wait_for_group(log, "billing", timeout=0)


def test_a_group_with_too_few_members_is_a_timeout_that_names_them(log: streamlog.StreamLog) -> None:
    log.create_topic("orders")
    with log.consumer("orders", group="billing") as consumer:
        consumer.poll()
        (member,) = wait_for_group(log, "billing", timeout=LONG)
        with pytest.raises(TimeoutError, match=f"with 2 members.*Stable.*{member.member_id} with 1 partitions"):
            wait_for_group(log, "billing", timeout=0.01, members=2)


def test_members_whose_partitions_are_still_moving_are_waited_for(log: streamlog.StreamLog) -> None:
    log.create_topic("orders", partitions=2)
    log["orders"].send_many(["1", "2"], partition=0)
    with log.consumer("orders", group="billing") as first, log.consumer("orders", group="billing") as second:
        assert first.poll(LONG)  # it has records in hand, so its partition moves at its next poll
        second.poll()
        assert log.group("billing").state == "Reconciling"
        with pytest.raises(TimeoutError, match="Reconciling"):
            wait_for_group(log, "billing", timeout=0.01)
        first.poll()
        second.poll()
        assert len(wait_for_group(log, "billing", timeout=LONG, members=2)) == 2


@pytest.mark.parametrize(("name", "value"), [("timeout", None), ("timeout", "1"), ("members", 0)])
def test_what_is_no_number_is_refused(log: streamlog.StreamLog, name: str, value: object) -> None:
    with pytest.raises(streamlog.ConfigError, match=name):
        wait_for_group(log, "billing", **{name: value})  # type: ignore[arg-type]
