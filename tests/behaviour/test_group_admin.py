"""Looking at a group from outside: members, state, offsets, lag, reset, deletion, expiry."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import streamlog
from streamlog import ConsumerGroup, OffsetAndMetadata, StreamlogError, TopicPartition
from streamlog.testing import ManualClock

P0, P1 = TopicPartition("t", 0), TopicPartition("t", 1)
WEEK = timedelta(days=7)


def fill(log: streamlog.StreamLog, count: int = 5, *, name: str = "t") -> streamlog.Topic[Any, Any]:
    topic = log.create_topic(name, partitions=2)
    for partition in range(2):
        topic.send_many([str(n) for n in range(count)], partition=partition).result()
    return topic


def consume(log: streamlog.StreamLog, *topics: str) -> list[tuple[int, int]]:
    """Read to the end as the group, leaving everything committed."""
    with log.consumer(*(topics or ("t",)), group="g") as consumer:
        return sorted((record.partition, record.offset) for record in consumer.until_end())


# Describing


def test_a_handle_needs_no_group(log: streamlog.StreamLog) -> None:
    for group in (log.group("g"), ConsumerGroup(log, "g")):
        assert group.name == "g"
        assert group.members() == []
        assert group.committed() == {}
        assert group.offsets() == {}
        assert group.lag() == {}
    assert log.groups() == []


def test_members_are_described_with_what_they_have(log: streamlog.StreamLog) -> None:
    fill(log)
    group = log.group("g")
    with (
        log.consumer("t", group="g", client_id="left") as left,
        log.consumer("t", group="g", client_id="right", group_instance_id="r") as right,
    ):
        for _ in range(3):
            left.poll()
            right.poll()
        described = {member.client_id: member for member in group.members()}
        assert described["left"].assignment == left.assignment()
        assert described["right"].assignment == right.assignment()
        assert described["left"].group_instance_id is None
        assert described["right"].group_instance_id == "r"
        assert described["left"].member_id != described["right"].member_id
        assert group.state == "Stable"


def test_a_group_without_members_is_empty(log: streamlog.StreamLog) -> None:
    fill(log)
    consume(log)
    assert log.group("g").members() == []
    assert log.group("g").state == "Empty"


def test_groups_lists_every_group(log: streamlog.StreamLog) -> None:
    fill(log)
    for name in ("b", "a"):
        with log.consumer("t", group=name) as consumer:
            consumer.poll()
    assert sorted(group.name for group in log.groups()) == ["a", "b"]
    with log.consumer("t", group="c", enable_auto_commit=False) as consumer:
        consumer.poll()
        assert sorted(group.name for group in log.groups()) == ["a", "b", "c"]


def test_a_group_makes_its_own_consumers(log: streamlog.StreamLog) -> None:
    fill(log)
    with log.group("g").consumer("t", max_poll_records=3, value_deserializer=int) as consumer:
        assert [record.value for record in consumer.poll()] == [0, 1, 2]
    assert sum(log.group("g").committed().values()) == 3


def test_committed_offsets_and_lag_count_from_the_commit(log: streamlog.StreamLog) -> None:
    topic = fill(log)
    consume(log)
    topic.send("one more", partition=1).result()
    group = log.group("g")
    assert group.committed() == {P0: 5, P1: 5}
    assert {key: value.offset for key, value in group.offsets().items()} == {P0: 5, P1: 5}
    assert group.lag() == {P0: 0, P1: 1}
    with log.consumer("t", group="g", enable_auto_commit=False) as consumer:
        consumer.poll()
        assert group.lag() == {P0: 0, P1: 1}
        consumer.commit({P1: OffsetAndMetadata(6, "m")})
        assert group.lag() == {P0: 0, P1: 0}


def test_lag_counts_what_waits_for_a_member_that_has_not_committed(log: streamlog.StreamLog) -> None:
    topic = fill(log)
    group = log.group("g")
    with log.consumer("t", group="g", enable_auto_commit=False) as consumer:
        assert len(consumer.poll(max_records=3)) == 3
        assert group.lag() == {P0: 5, P1: 5}, "what is not committed would be read again"
        topic.delete_records({0: 2})
        assert group.lag() == {P0: 3, P1: 5}


def test_lag_has_every_partition_of_the_topics_that_members_subscribe_to(log: streamlog.StreamLog) -> None:
    log.create_topic("t", partitions=1).send("1")
    with (
        log.consumer("t", group="g", enable_auto_commit=False) as owner,
        log.consumer("t", group="g", enable_auto_commit=False) as standby,
    ):
        owner.poll()
        standby.poll()
        assert log.group("g").lag() == {P0: 1}
        fill(log, name="u")
        standby.subscribe(["u"])
        standby.poll()
        assert log.group("g").lag() == {P0: 1, TopicPartition("u", 0): 5, TopicPartition("u", 1): 5}


def test_lag_of_topics_that_are_asked_for_needs_no_group(log: streamlog.StreamLog) -> None:
    topic = fill(log)
    fill(log, name="u")
    group = log.group("g")
    assert group.lag("t") == {P0: 5, P1: 5}
    assert group.lag(topic, "u") == {P0: 5, P1: 5, TopicPartition("u", 0): 5, TopicPartition("u", 1): 5}
    consume(log)
    assert group.lag("u") == {TopicPartition("u", 0): 5, TopicPartition("u", 1): 5}, "only what is asked for"
    with pytest.raises(streamlog.UnknownTopicOrPartitionError, match="absent"):
        group.lag("t", "absent")


def test_lag_of_members_that_start_at_the_end_counts_from_there(log: streamlog.StreamLog) -> None:
    topic = fill(log)
    group = log.group("g")
    with log.consumer("t", group="g", auto_offset_reset="latest", enable_auto_commit=False) as consumer:
        consumer.poll()
        assert group.lag() == {P0: 0, P1: 0}
        topic.send("one more", partition=1)
        assert group.lag() == {P0: 0, P1: 1}
        assert len(consumer.poll()) == 1
        assert group.lag() == {P0: 0, P1: 1}, "it is not committed"
        consumer.commit()
        assert group.lag() == {P0: 0, P1: 0}
        assert group.lag(fill(log, name="u")) == {TopicPartition("u", 0): 0, TopicPartition("u", 1): 0}


def test_lag_under_no_reset_counts_from_the_first_offset(log: streamlog.StreamLog) -> None:
    fill(log)
    with log.consumer("t", group="g", auto_offset_reset="none") as consumer:
        with pytest.raises(streamlog.OffsetOutOfRangeError):
            consumer.poll()
        assert log.group("g").lag() == {P0: 5, P1: 5}


# Reset


def test_reset_to_the_ends_moves_every_partition(log: streamlog.StreamLog) -> None:
    fill(log).delete_records({0: 2})
    consume(log)
    group = log.group("g")
    group.reset("t", to="earliest")
    assert group.committed() == {P0: 2, P1: 0}
    group.reset("t", to="latest")
    assert group.committed() == {P0: 5, P1: 5}
    assert consume(log) == []
    group.reset(to="earliest")
    assert consume(log) == [(0, 2), (0, 3), (0, 4), (1, 0), (1, 1), (1, 2), (1, 3), (1, 4)]


def test_reset_touches_only_the_topics_it_names(log: streamlog.StreamLog) -> None:
    fill(log)
    other = fill(log, name="u")
    consume(log, "t", "u")
    log.group("g").reset(other, to="earliest")
    assert log.group("g").committed() == {P0: 5, P1: 5, TopicPartition("u", 0): 0, TopicPartition("u", 1): 0}


def test_reset_to_a_time_finds_the_first_record_at_or_after(log: streamlog.StreamLog, clock: ManualClock) -> None:
    topic = log.create_topic("t", partitions=2)
    start = clock.time_ms() - 100_000
    topic.send_many([str(n) for n in range(10)], partition=0, timestamps_ms=[start + 1000 * n for n in range(10)])
    topic.send("early", partition=1, timestamp_ms=start).result()
    group = log.group("g")
    group.reset("t", to=datetime.fromtimestamp(start / 1000 + 3.5, UTC))
    assert group.committed() == {P0: 4, P1: 1}
    with pytest.raises(ValueError):
        group.reset("t", to=datetime(2026, 1, 1))
    assert group.committed() == {P0: 4, P1: 1}


def test_reset_to_offsets_moves_exactly_these(log: streamlog.StreamLog) -> None:
    fill(log)
    consume(log)
    log.group("g").reset(to={P1: 3})
    assert log.group("g").committed() == {P0: 5, P1: 3}
    assert consume(log) == [(1, 3), (1, 4)]


def test_a_group_that_never_was_can_be_placed_before_it_starts(log: streamlog.StreamLog) -> None:
    fill(log)
    log.group("g").reset("t", to="latest")
    assert consume(log) == []
    assert [group.name for group in log.groups()] == ["g"]


def test_reset_of_a_misspelt_group_says_what_was_meant(log: streamlog.StreamLog) -> None:
    fill(log)
    with log.consumer("t", group="billing") as consumer:
        consumer.poll()
        with pytest.raises(
            streamlog.GroupIdNotFoundError,
            match=r"There is no group 'biling' \(did you mean 'billing'\?\), .* name the topics: reset\(\"",
        ):
            log.group("biling").reset(to="earliest")
        with pytest.raises(streamlog.GroupIdNotFoundError, match="Group 'billing' has not committed anything"):
            log.group("billing").reset(to="earliest")
    assert [group.name for group in log.groups()] == ["billing"]


def test_reset_and_delete_are_refused_while_members_are_active(log: streamlog.StreamLog) -> None:
    fill(log)
    group = log.group("g")
    with log.consumer("t", group="g") as consumer:
        consumer.poll()
        consumer.commit()
        before = group.committed()
        actions: list[Callable[[], None]] = [
            lambda: group.reset("t", to="earliest"),
            lambda: group.reset(to={P0: 0}),
            group.delete,
        ]
        for action in actions:
            with pytest.raises(StreamlogError):
                action()
        assert group.committed() == before
    group.reset("t", to="earliest")
    assert group.committed() == {P0: 0, P1: 0}


@pytest.mark.parametrize("offset", [-1, 99])
def test_reset_outside_the_log_is_refused_and_changes_nothing(log: streamlog.StreamLog, offset: int) -> None:
    fill(log)
    consume(log)
    with pytest.raises((StreamlogError, ValueError)):
        log.group("g").reset(to={P0: 0, P1: offset})
    assert log.group("g").committed() == {P0: 5, P1: 5}


def test_reset_comes_back_after_reopening(log: streamlog.StreamLog, reopen: Callable[..., Any]) -> None:
    fill(log)
    consume(log)
    log.group("g").reset("t", to="earliest")
    assert reopen(log).group("g").committed() == {P0: 0, P1: 0}


# Deletion


def test_a_deleted_group_is_forgotten(log: streamlog.StreamLog, reopen: Callable[..., Any]) -> None:
    fill(log)
    consume(log)
    log.group("g").delete()
    assert log.group("g").committed() == {}
    assert log.groups() == []
    log = reopen(log)
    assert log.groups() == []
    assert len(consume(log)) == 10


def test_deleting_a_topic_forgets_its_offsets(log: streamlog.StreamLog) -> None:
    fill(log)
    fill(log, name="u")
    consume(log, "t", "u")
    log.delete_topic("t")
    assert set(log.group("g").committed()) == {TopicPartition("u", 0), TopicPartition("u", 1)}
    fill(log)
    assert len(consume(log, "t")) == 10


# Expiry


def test_offsets_of_a_group_that_is_empty_for_seven_days_expire(
    log: streamlog.StreamLog, clock: ManualClock, reopen: Callable[..., Any]
) -> None:
    fill(log)
    consume(log)
    clock.advance(WEEK - timedelta(hours=1))
    assert log.group("g").committed() == {P0: 5, P1: 5}
    clock.advance(timedelta(hours=2))
    assert log.group("g").committed() == {}
    assert log.groups() == []
    log = reopen(log)
    assert log.group("g").committed() == {}
    assert len(consume(log)) == 10


def test_offsets_of_an_active_group_never_expire(log: streamlog.StreamLog, clock: ManualClock) -> None:
    fill(log)
    with log.consumer("t", group="g") as consumer:
        list(consumer.until_end())
        consumer.commit()
        for _ in range(10):
            clock.advance(timedelta(days=3))
        assert log.group("g").committed() == {P0: 5, P1: 5}
    # The week is counted from the moment the last member left.
    clock.advance(WEEK - timedelta(hours=1))
    assert log.group("g").committed() == {P0: 5, P1: 5}
    clock.advance(timedelta(hours=2))
    assert log.group("g").committed() == {}


def test_a_member_that_comes_back_stops_the_expiry(log: streamlog.StreamLog, clock: ManualClock) -> None:
    fill(log)
    for _ in range(3):
        consume(log)
        clock.advance(timedelta(days=5))
    assert log.group("g").committed() == {P0: 5, P1: 5}


def test_a_jump_of_the_wall_clock_is_not_a_week(log: streamlog.StreamLog, clock: ManualClock) -> None:
    fill(log)
    with log.consumer("t", group="g") as consumer:
        list(consumer.until_end())
        consumer.commit()
        clock.jump(-int(WEEK.total_seconds() * 1000))
        consumer.poll()
        clock.jump(2 * int(WEEK.total_seconds() * 1000))
        assert consumer.committed(P0) == 5
    clock.advance(timedelta(hours=1))
    assert log.group("g").committed() == {P0: 5, P1: 5}
