"""Members of a group in one process: joining, leaving, and what happens to the records meanwhile."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import StreamlogError, TopicPartition
from streamlog.testing import ManualClock
from tests.times import FOREVER, LONG

from .member_time import Liveness, PassingTime

InThread = Callable[[Callable[[], Any]], Future[Any]]
Consumer = streamlog.Consumer[Any, Any]
QUIET = {"enable_auto_commit": False}


def fill(log: streamlog.StreamLog, count: int, *, partitions: int, name: str = "t") -> streamlog.Topic[Any, Any]:
    topic = log.create_topic(name, partitions=partitions)
    send(topic, count)
    return topic


def send(topic: streamlog.Topic[Any, Any], count: int) -> None:
    for partition in range(topic.partitions):
        topic.send_many([f"{partition}:{n}" for n in range(count)], partition=partition).result()


def every(topic: str, partitions: int) -> set[TopicPartition]:
    return {TopicPartition(topic, n) for n in range(partitions)}


def take_turns(members: Iterable[Consumer], rounds: int = 2, **options: Any) -> list[Any]:
    """Poll the members in turn; at no moment may two of them have the same partition."""
    members = list(members)
    records: list[Any] = []
    for _ in range(rounds):
        for member in members:
            records += member.poll(**options)
            owners = Counter(partition for one in members for partition in one.assignment())
            assert all(count == 1 for count in owners.values()), owners
    return records


def drain(members: Iterable[Consumer], **options: Any) -> list[Any]:
    """Take turns until a whole round hands out nothing."""
    members = list(members)
    records: list[Any] = []
    for _ in range(500):
        handed_out = take_turns(members, 1, **options)
        records += handed_out
        if not handed_out:
            return records
    raise AssertionError("the members never ran dry")


def assert_exactly_once(records: Iterable[Any], expected: int) -> None:
    """Nothing skipped, nothing twice, and every partition in its order."""
    by_partition: dict[TopicPartition, list[int]] = {}
    for record in records:
        by_partition.setdefault(record.topic_partition, []).append(record.offset)
    for partition, offsets in by_partition.items():
        assert offsets == list(range(len(offsets))), partition
    assert sum(map(len, by_partition.values())) == expected


def close_all(members: Iterable[Consumer]) -> None:
    for member in members:
        member.close()


# Joining


def test_a_sole_member_has_records_at_its_first_poll(log: streamlog.StreamLog) -> None:
    fill(log, 1, partitions=3)
    with log.consumer("t", group="g") as member:
        assert member.poll() != []
        assert member.assignment() == every("t", 3)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_several_members_polled_in_turn_are_stable_after_two_rounds(log: streamlog.StreamLog, count: int) -> None:
    fill(log, 100, partitions=5)
    members = [log.consumer("t", group="g", max_poll_records=7) for _ in range(count)]
    take_turns(members)
    stable = [member.assignment() for member in members]
    assert set().union(*stable) == every("t", 5)
    assert sum(map(len, stable)) == 5
    assert all(stable)
    take_turns(members, 3)
    assert [member.assignment() for member in members] == stable
    close_all(members)


def test_more_members_than_partitions_leave_some_idle(log: streamlog.StreamLog) -> None:
    fill(log, 5, partitions=2)
    members = [log.consumer("t", group="g") for _ in range(4)]
    records = take_turns(members)
    assert sorted(len(member.assignment()) for member in members) == [0, 0, 1, 1]
    assert_exactly_once(records + drain(members), 10)
    close_all(members)


def test_groups_do_not_disturb_each_other(log: streamlog.StreamLog) -> None:
    fill(log, 10, partitions=2)
    with log.consumer("t", group="g") as first, log.consumer("t", group="h") as second:
        for member in (first, second):
            assert_exactly_once(drain([member]), 20)
            assert member.assignment() == every("t", 2)


def test_an_undisturbed_group_handles_every_record_exactly_once_while_members_come(log: streamlog.StreamLog) -> None:
    topic = fill(log, 50, partitions=6)
    members: list[Consumer] = []
    records: list[Any] = []
    for _ in range(6):
        members.append(log.consumer("t", group="g", max_poll_records=5))
        records += take_turns(members, 1)
        send_more = topic.partitions
        for partition in range(send_more):
            topic.send_many(["more"] * 5, partition=partition).result()
    records += drain(members)
    assert_exactly_once(records, 6 * 50 + 6 * 6 * 5)
    close_all(members)
    assert log.group("g").lag() == dict.fromkeys(every("t", 6), 0)


def test_an_undisturbed_group_handles_every_record_exactly_once_while_members_go(log: streamlog.StreamLog) -> None:
    fill(log, 100, partitions=6)
    members = [log.consumer("t", group="g", max_poll_records=5) for _ in range(5)]
    records = take_turns(members)
    while len(members) > 1:
        leaving = members.pop(0)
        with leaving:
            records += leaving.poll()
        records += take_turns(members)
    records += drain(members)
    assert_exactly_once(records, 600)
    close_all(members)


def test_a_member_that_joins_gets_nothing_that_another_has_in_hand(log: streamlog.StreamLog) -> None:
    fill(log, 4, partitions=1)
    with log.consumer("t", group="g", **QUIET) as first, log.consumer("t", group="g", **QUIET) as second:
        assert len(first.poll(max_records=2)) == 2
        for _ in range(5):
            assert second.poll() == []
        assert first.assignment() == every("t", 1)


def test_a_partition_whose_owner_has_nothing_in_hand_moves_at_once(log: streamlog.StreamLog) -> None:
    topic = log.create_topic("t", partitions=2)
    with log.consumer("t", group="g") as first, log.consumer("t", group="g") as second:
        assert first.poll() == []
        assert first.assignment() == every("t", 2)
        second.poll()
        # The first has not polled again.
        assert len(second.assignment()) == len(first.assignment()) == 1
        assert second.assignment() | first.assignment() == every("t", 2)
        (moved,) = second.assignment()
        topic.send("for the second", partition=moved.partition).result()
        assert [record.value for record in second.poll(timeout=LONG)] == [b"for the second"]
        assert first.poll() == []


def test_a_partition_whose_owner_has_records_in_hand_moves_at_its_next_poll(log: streamlog.StreamLog) -> None:
    fill(log, 3, partitions=2)
    first, second = (log.consumer("t", group="g") for _ in range(2))
    records: list[Any] = []
    while len(records) < 6:
        records += first.poll()
    # The last records are in hand; a member that joins must not get any of their partition.
    in_hand = records[-1].topic_partition
    second.poll()
    assert in_hand in first.assignment()
    assert first.poll() == []
    assert second.poll() == []
    assert len(first.assignment()) == len(second.assignment()) == 1
    close_all([first, second])
    assert log.group("g").lag() == dict.fromkeys(every("t", 2), 0)


def test_a_waiting_member_is_woken_by_the_partition_it_gets(log: streamlog.StreamLog, in_thread: InThread) -> None:
    fill(log, 5, partitions=1)
    first, second = (log.consumer("t", group="g") for _ in range(2))
    assert len(first.poll(max_records=2)) == 2
    waiting = in_thread(lambda: second.poll(timeout=FOREVER))
    first.commit()
    first.close()
    assert [record.offset for record in waiting.result(timeout=LONG)] == [2, 3, 4]
    second.close()


def test_until_end_shares_with_a_member_that_joins_in_the_middle(log: streamlog.StreamLog) -> None:
    fill(log, 20, partitions=2)
    first, second = (log.consumer("t", group="g", max_poll_records=3) for _ in range(2))
    reading = first.until_end()
    records = [next(reading) for _ in range(5)]
    records += take_turns([second], 2)
    for record in reading:
        records.append(record)
        records += second.poll()
    records += drain([first, second])
    assert_exactly_once(records, 40)
    close_all([first, second])


def test_the_position_of_a_partition_travels_with_its_commit(log: streamlog.StreamLog) -> None:
    fill(log, 1000, partitions=2)
    first = log.consumer("t", group="g", max_poll_records=10)
    records = take_turns([first], 3)
    second = log.consumer("t", group="g", max_poll_records=10)
    records += drain([first, second])
    assert_exactly_once(records, 2000)
    close_all([first, second])


# Leaving


def test_closing_a_member_gives_its_partitions_to_the_others(log: streamlog.StreamLog) -> None:
    fill(log, 10, partitions=4)
    first, second = (log.consumer("t", group="g") for _ in range(2))
    take_turns([first, second], 3)
    first.close()
    second.poll()
    assert second.assignment() == every("t", 4)
    second.close()


def test_what_a_leaving_member_did_not_finish_comes_again_and_nothing_else_does(log: streamlog.StreamLog) -> None:
    fill(log, 6, partitions=1)
    first = log.consumer("t", group="g")
    first.poll(max_records=2)
    first.poll(max_records=2)
    first.close()
    with log.consumer("t", group="g") as second:
        assert [record.offset for record in drain([second])] == [2, 3, 4, 5]


def test_a_collected_member_leaves_with_a_warning(log: streamlog.StreamLog) -> None:
    fill(log, 5, partitions=2)
    forgotten = log.consumer("t", group="g")
    forgotten.poll()
    with pytest.warns(ResourceWarning):
        del forgotten
        gc.collect()
    with log.consumer("t", group="g") as second:
        assert_exactly_once(drain([second]), 10)
        assert second.assignment() == every("t", 2)


def test_a_member_whose_thread_is_dead_leaves(log: streamlog.StreamLog) -> None:
    fill(log, 5, partitions=2)
    orphan = log.consumer("t", group="g")
    polling = threading.Thread(target=orphan.poll)
    polling.start()
    polling.join(LONG)
    with log.consumer("t", group="g") as second:
        records = list(second.poll(timeout=LONG)) + drain([second])
        assert_exactly_once(records, 10)
        assert second.assignment() == every("t", 2)
        assert [member.assignment for member in log.group("g").members()] == [every("t", 2)]
    orphan.close()


def test_a_member_may_be_polled_by_one_short_thread_after_another(
    log: streamlog.StreamLog, in_thread: InThread
) -> None:
    fill(log, 12, partitions=1)
    with log.consumer("t", group="g") as member:
        records = []
        for _ in range(3):
            records += in_thread(lambda: member.poll(max_records=3)).result(timeout=LONG)
        records += member.poll()
        assert_exactly_once(records, 12)
    assert log.group("g").committed() == {TopicPartition("t", 0): 12}


def test_a_dead_member_that_had_nothing_gets_nothing_later(log: streamlog.StreamLog) -> None:
    fill(log, 5, partitions=1)
    first, idle = log.consumer("t", group="g"), log.consumer("t", group="g")
    first.poll(max_records=1)
    polling = threading.Thread(target=idle.poll)
    polling.start()
    polling.join(LONG)
    assert idle.assignment() == set()
    first.close()
    with log.consumer("t", group="g") as third:
        assert len(third.poll(timeout=LONG / 2)) == 5
    idle.close()


@pytest.mark.parametrize("how", ["collected", "thread died"])
def test_a_group_whose_last_member_is_gone_is_described_as_empty(log: streamlog.StreamLog, how: str) -> None:
    fill(log, 5, partitions=1)
    last = log.consumer("t", group="g")
    polling = threading.Thread(target=last.poll)
    polling.start()
    polling.join(LONG)
    if how == "collected":
        with pytest.warns(ResourceWarning):
            del last
            gc.collect()
    group = log.group("g")
    assert group.members() == []
    assert group.state == "Empty"
    group.reset("t", to="earliest")
    if how == "thread died":
        last.close()
    group.delete()


def test_a_waiting_member_takes_over_when_the_thread_of_the_other_dies(
    log: streamlog.StreamLog, in_thread: InThread
) -> None:
    fill(log, 5, partitions=1)
    joined, leave = threading.Event(), threading.Event()
    orphan = log.consumer("t", group="g")

    def poll_and_die() -> None:
        orphan.poll(max_records=1)
        joined.set()
        leave.wait(LONG)

    in_thread(poll_and_die)
    assert joined.wait(LONG)
    with log.consumer("t", group="g") as second:
        assert second.poll() == []
        leave.set()
        assert [record.offset for record in second.poll(timeout=FOREVER)] == [0, 1, 2, 3, 4]
    orphan.close()


def test_a_member_that_does_not_poll_for_its_interval_is_evicted(log: streamlog.StreamLog) -> None:
    fill(log, 5, partitions=1)
    liveness = Liveness(log)
    stuck = log.consumer("t", group="g", max_poll_interval_ms=1_000)
    assert len(stuck.poll(max_records=2)) == 2
    with log.consumer("t", group="g") as second:
        liveness.pass_ms(999)
        assert second.poll() == []
        liveness.pass_ms(1)
        assert [record.offset for record in second.poll()] == [0, 1, 2, 3, 4]
        assert [member.assignment for member in log.group("g").members()] == [every("t", 1)]
        # It learns of it when it comes back, as one that has to wait.
        assert stuck.poll() == []
        assert stuck.assignment() == set()
        assert second.assignment() == every("t", 1)
    stuck.close()


def test_a_member_that_waits_in_poll_is_not_evicted(log: streamlog.StreamLog, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = log.create_topic("t")
    time = PassingTime(log, monkeypatch)
    with log.consumer("t", group="g", max_poll_interval_ms=1_000) as member:
        assert member.poll(timeout=10) == []
        assert max(time.waits) <= 0.5, "it has half an interval left whenever another one looks"
        (before,) = log.group("g").members()
        time.pass_ms(999)
        assert log.group("g").members() == [before]
        topic.send("x").result()
        assert len(member.poll()) == 1
        member.commit()


def test_a_member_that_waits_takes_over_when_another_is_overdue(
    log: streamlog.StreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing rings for that: a waiting member knows when the next one is due."""
    fill(log, 5, partitions=1)
    time = PassingTime(log, monkeypatch)
    stuck = log.consumer("t", group="g", max_poll_interval_ms=90_000)
    stuck.poll(max_records=1)
    began = time.now_s
    with log.consumer("t", group="g") as other:
        assert len(other.poll(timeout=FOREVER)) == 5
        assert time.now_s - began == pytest.approx(90, abs=0.01)
    stuck.close()


def test_a_manual_clock_never_evicts_a_member(log: streamlog.StreamLog, clock: ManualClock) -> None:
    fill(log, 5, partitions=1)
    with log.consumer("t", group="g") as first, log.consumer("t", group="g") as second:
        first.poll(max_records=2)
        clock.advance(3600)
        assert second.poll() == []
        first.commit()
    assert log.group("g").committed() == {TopicPartition("t", 0): 2}


# Subscriptions


def test_each_topic_goes_to_the_members_that_subscribe_to_it(log: streamlog.StreamLog) -> None:
    fill(log, 4, partitions=2, name="t")
    fill(log, 4, partitions=2, name="u")
    both, one = log.consumer("t", "u", group="g"), log.consumer("t", group="g")
    records = drain([both, one])
    take_turns([both, one])
    assert every("u", 2) <= both.assignment()
    assert one.assignment() <= every("t", 2)
    assert both.assignment() | one.assignment() == every("t", 2) | every("u", 2)
    assert_exactly_once(records, 16)
    close_all([both, one])


def test_a_member_that_changes_its_subscription_hands_over_without_loss(log: streamlog.StreamLog) -> None:
    fill(log, 30, partitions=2, name="t")
    fill(log, 30, partitions=2, name="u")
    first, second = (log.consumer("t", group="g", max_poll_records=4) for _ in range(2))
    records = take_turns([first, second], 3)
    second.subscribe(["u"])
    records += drain([first, second])
    assert_exactly_once(records, 120)
    assert first.assignment() == every("t", 2)
    assert second.assignment() == every("u", 2)
    close_all([first, second])


def test_partitions_added_later_are_shared_out(log: streamlog.StreamLog) -> None:
    topic = fill(log, 5, partitions=2)
    members = [log.consumer("t", group="g") for _ in range(2)]
    records = drain(members)
    topic.add_partitions(6)
    for partition in range(2, 6):
        topic.send("new", partition=partition).result()
    records += drain(members) + drain(members)
    assert_exactly_once(records, 14)
    assert [len(member.assignment()) for member in members] == [3, 3]
    close_all(members)


# Static membership


def test_a_static_member_that_comes_back_finds_its_partitions_and_causes_no_rebalance(log: streamlog.StreamLog) -> None:
    fill(log, 5, partitions=4)
    first = log.consumer("t", group="g", group_instance_id="one")
    second = log.consumer("t", group="g", group_instance_id="two")
    drain([first, second])
    take_turns([first, second])
    before = first.assignment(), second.assignment()
    first.close()
    first = log.consumer("t", group="g", group_instance_id="one")
    take_turns([first, second])
    assert (first.assignment(), second.assignment()) == before
    assert {member.group_instance_id for member in log.group("g").members()} == {"one", "two"}
    close_all([first, second])


def test_a_static_member_that_stays_away_loses_its_partitions(log: streamlog.StreamLog) -> None:
    fill(log, 5, partitions=1)
    liveness = Liveness(log)
    first = log.consumer("t", group="g", group_instance_id="one", session_timeout_ms=30_000)
    first.poll(max_records=1)
    first.close()
    with log.consumer("t", group="g", group_instance_id="two") as second:
        liveness.pass_ms(29_999)
        assert second.poll() == []
        liveness.pass_ms(1)
        assert len(second.poll()) == 5


def test_a_second_member_of_the_same_instance_fences_the_first(log: streamlog.StreamLog) -> None:
    fill(log, 5, partitions=1)
    first = log.consumer("t", group="g", group_instance_id="one")
    assert len(first.poll(max_records=2)) == 2
    second = log.consumer("t", group="g", group_instance_id="one")
    assert len(second.poll(timeout=LONG)) == 5
    with pytest.raises(StreamlogError):
        first.commit()
    with pytest.raises(StreamlogError):
        first.poll()
    assert len(log.group("g").members()) == 1
    first.close()
    second.close()
    assert log.group("g").committed().get(TopicPartition("t", 0), 0) == 0


# Threads, and after reopening


def test_members_in_threads_handle_every_record_exactly_once(log: streamlog.StreamLog, in_thread: InThread) -> None:
    fill(log, 300, partitions=6)
    handled: list[Any] = []
    done = threading.Event()

    def work() -> None:
        with log.consumer("t", group="g", max_poll_records=10) as member:
            while not done.is_set():
                handled.extend(member.poll(timeout=0.05))
                if len(handled) >= 1800:
                    done.set()

    working = [in_thread(work) for _ in range(3)]
    for one in working:
        one.result(timeout=2 * LONG)
    assert_exactly_once(handled, 1800)
    assert log.group("g").lag() == dict.fromkeys(every("t", 6), 0)


def test_a_group_goes_on_after_reopening(tmp_path: Path, clock: ManualClock) -> None:
    seen = []
    for opening in range(3):
        with streamlog.open(tmp_path / "data", clock=clock) as log:
            if opening == 0:
                fill(log, 10, partitions=1)
            assert log.group("g").members() == []
            with log.consumer("t", group="g") as member:
                seen += [record.offset for record in member.poll(max_records=4)]
    assert seen == list(range(10))
