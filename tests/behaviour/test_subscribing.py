"""What a consumer reads: assigned partitions, subscribed topics, patterns."""

from __future__ import annotations

import re
from typing import Any

import pytest

import streamlog
from streamlog import CommitFailedError, ConfigError, TopicPartition, UnknownTopicOrPartitionError
from tests.contents import drain
from tests.times import LONG

P0, P1 = TopicPartition("t", 0), TopicPartition("t", 1)


def make(log: streamlog.StreamLog, *names: str, partitions: int = 1) -> None:
    """Topics that hold one record per partition, its value the topic's name."""
    for name in names:
        topic = log.create_topic(name, partitions=partitions)
        for partition in range(partitions):
            topic.send(name, partition=partition).result()


def topics_seen(consumer: streamlog.Consumer[Any, Any]) -> list[str]:
    return sorted(record.topic for record in drain(consumer))


# Assigning


def test_assign_reads_exactly_these_partitions(log: streamlog.StreamLog) -> None:
    make(log, "t", partitions=3)
    with log.consumer() as consumer:
        consumer.assign([TopicPartition("t", 2), ("t", 0)])  # type: ignore[list-item]
        assert consumer.assignment() == {TopicPartition("t", 0), TopicPartition("t", 2)}
        assert {record.partition for record in drain(consumer)} == {0, 2}


def test_a_second_assign_replaces_and_keeps_the_position_of_what_stays(log: streamlog.StreamLog) -> None:
    make(log, "t", partitions=3)
    with log.consumer() as consumer:
        consumer.assign([TopicPartition("t", 0), TopicPartition("t", 1)])
        assert len(drain(consumer)) == 2
        consumer.assign([TopicPartition("t", 1), TopicPartition("t", 2)])
        assert consumer.assignment() == {TopicPartition("t", 1), TopicPartition("t", 2)}
        assert [record.partition for record in drain(consumer)] == [2]


def test_assign_with_a_group_commits_and_starts_at_its_commits_without_joining(log: streamlog.StreamLog) -> None:
    topic = log.create_topic("t")
    topic.send_many(["0", "1", "2"]).result()
    for expected in ([b"0", b"1"], [b"2"]):
        with log.consumer(group="g") as consumer:
            consumer.assign([TopicPartition("t", 0)])
            assert [record.value for record in consumer.poll(max_records=2)] == expected
            assert log.group("g").members() == []
            consumer.commit()
    assert log.group("g").committed() == {TopicPartition("t", 0): 3}


def test_unsubscribe_drops_assigned_partitions(log: streamlog.StreamLog) -> None:
    make(log, "t", "u")
    with log.consumer() as consumer:
        consumer.assign([TopicPartition("t", 0)])
        consumer.unsubscribe()
        assert consumer.assignment() == set()
        consumer.subscribe(["u"])
        assert topics_seen(consumer) == ["u"]


def test_an_assignment_that_is_refused_changes_nothing(log: streamlog.StreamLog) -> None:
    make(log, "t", partitions=2)
    with log.consumer("t", group="g") as consumer:
        consumer.poll()
        for refused in ([TopicPartition("t", 9)], [TopicPartition("nowhere", 0)]):
            with pytest.raises(UnknownTopicOrPartitionError):
                consumer.assign(refused)
        assert consumer.assignment() == {P0, P1}
        assert len(log.group("g").members()) == 1


def test_a_second_assign_commits_what_is_finished_of_what_goes(log: streamlog.StreamLog) -> None:
    make(log, "t", partitions=2)
    with log.consumer(group="g") as consumer:
        consumer.assign([P0])
        assert len(drain(consumer)) == 1
        consumer.assign([P1])
        assert log.group("g").committed() == {P0: 1}


# An assignment beside members of the group, who commit for it


def test_beside_members_a_commit_of_assigned_partitions_is_refused(log: streamlog.StreamLog) -> None:
    make(log, "t")
    with log.consumer("t", group="g", enable_auto_commit=False) as member, log.consumer(group="g") as beside:
        assert len(member.poll()) == 1
        beside.assign([P0])
        assert len(beside.poll()) == 1
        for offsets in (None, {P0: 1}):
            with pytest.raises(CommitFailedError, match="assign"):
                beside.commit(offsets)
        assert log.group("g").committed() == {}
        member.commit()
    assert log.group("g").committed() == {P0: 1}


@pytest.mark.parametrize("ending", ["close", "unsubscribe", "assign", "subscribe", "log.close"])
def test_beside_members_auto_commit_of_assigned_partitions_warns_and_reads_on(
    log: streamlog.StreamLog, caplog: pytest.LogCaptureFixture, ending: str
) -> None:
    make(log, "t")
    with log.consumer("t", group="g", enable_auto_commit=False) as member:
        member.poll()
        beside = log.consumer(group="g", auto_commit_interval_ms=0)
        beside.assign([P0])
        assert len(beside.poll()) == 1
        assert beside.poll() == []  # commits, and cannot
        assert "auto-commit" in caplog.text
        caplog.clear()
        if ending == "assign":
            beside.assign([P0])
        elif ending == "subscribe":
            beside.subscribe("t")
        else:
            {"close": beside.close, "unsubscribe": beside.unsubscribe, "log.close": log.close}[ending]()
        if ending != "log.close":  # that may close the member first
            assert "auto-commit" in caplog.text
        beside.close()


# From an assignment to a subscription


class Listener(streamlog.RebalanceListener):
    def __init__(self) -> None:
        self.told: list[tuple[str, list[TopicPartition]]] = []

    def on_partitions_assigned(self, partitions: Any) -> None:
        self.told.append(("assigned", list(partitions)))

    def on_partitions_revoked(self, partitions: Any) -> None:
        self.told.append(("revoked", list(partitions)))


def test_a_subscription_after_an_assignment_goes_on_at_the_commit_and_tells_the_listener(
    log: streamlog.StreamLog,
) -> None:
    topic = log.create_topic("t")
    topic.send_many(["0", "1", "2"]).result()
    listener = Listener()
    with log.consumer(group="g", enable_auto_commit=False, listener=listener) as consumer:
        consumer.assign([P0])
        consumer.commit({P0: 1})
        consumer.seek(P0, 2)
        consumer.subscribe("t")
        assert consumer.assignment() == set()
        assert listener.told == []
        assert [record.value for record in consumer.poll()] == [b"1", b"2"]
        assert listener.told == [("assigned", [P0])]
        consumer.assign([P0])
        assert listener.told.pop() == ("revoked", [P0])
        consumer.unsubscribe()
        consumer.assign([P0])
    assert listener.told == [("assigned", [P0])], "a listener is told of what the group gives and takes"


def test_a_subscription_after_an_assignment_commits_what_was_finished_of_it(log: streamlog.StreamLog) -> None:
    log.create_topic("t").send_many(["0", "1", "2"]).result()
    with log.consumer(group="g") as consumer:
        consumer.assign([P0])
        consumer.poll(max_records=1)
        consumer.poll(max_records=1)
        consumer.subscribe("t")
        assert log.group("g").committed() == {P0: 1}
        assert [record.value for record in consumer.poll()] == [b"1", b"2"]


def test_without_a_group_a_subscription_after_an_assignment_starts_anew(log: streamlog.StreamLog) -> None:
    log.create_topic("t").send_many(["0", "1", "2"]).result()
    with log.consumer() as consumer:
        consumer.assign([P0])
        consumer.seek(P0, 2)
        consumer.subscribe("t")
        assert [record.value for record in consumer.poll()] == [b"0", b"1", b"2"]


def test_a_subscription_that_is_refused_leaves_the_assignment(log: streamlog.StreamLog) -> None:
    make(log, "t")
    with log.consumer() as consumer:
        consumer.assign([P0])
        consumer.seek(P0, 1)
        with pytest.raises(UnknownTopicOrPartitionError):
            consumer.subscribe("nowhere")
        with pytest.raises(ConfigError):
            consumer.subscribe("t", Listener())
        assert (consumer.assignment(), consumer.position(P0)) == ({P0}, 1)


# Subscribing


@pytest.mark.parametrize("group", [None, "g"])
def test_subscribe_replaces_the_subscription(log: streamlog.StreamLog, group: str | None) -> None:
    make(log, "t", "u", "v")
    with log.consumer("t", group=group) as consumer:
        assert topics_seen(consumer) == ["t"]
        consumer.subscribe(["u", log["v"]])
        assert consumer.subscription() == {"u", "v"}
        assert topics_seen(consumer) == ["u", "v"]
        assert consumer.assignment() == {TopicPartition("u", 0), TopicPartition("v", 0)}


@pytest.mark.parametrize("group", [None, "g"])
def test_subscribe_takes_a_single_topic_and_is_not_misled_by_its_letters(
    log: streamlog.StreamLog, group: str | None
) -> None:
    make(log, "tu", "t", "u")
    with log.consumer(group=group) as consumer:
        consumer.subscribe("tu")
        assert consumer.subscription() == {"tu"}
        assert topics_seen(consumer) == ["tu"]


def test_records_prefetched_for_a_dropped_topic_are_not_handed_out(log: streamlog.StreamLog) -> None:
    make(log, "u")
    log.create_topic("t").send_many([str(n) for n in range(100)]).result()
    with log.consumer("t") as consumer:
        consumer.poll(max_records=1)
        consumer.subscribe(["u"])
        assert topics_seen(consumer) == ["u"]


@pytest.mark.parametrize("group", [None, "g"])
def test_unsubscribe_reads_nothing_more(log: streamlog.StreamLog, group: str | None) -> None:
    make(log, "t")
    with log.consumer("t", group=group) as consumer:
        drain(consumer)
        consumer.unsubscribe()
        assert consumer.subscription() == set()
        assert consumer.assignment() == set()
    if group:
        assert log.group(group).members() == []


def test_a_member_that_unsubscribes_leaves_its_partitions_to_the_others(log: streamlog.StreamLog) -> None:
    log.create_topic("t", partitions=2)
    with log.consumer("t", group="g") as first, log.consumer("t", group="g") as second:
        for _ in range(2):
            first.poll()
            second.poll()
        first.unsubscribe()
        second.poll()
        assert second.assignment() == {TopicPartition("t", 0), TopicPartition("t", 1)}


# Patterns


@pytest.mark.parametrize("group", [None, "g"])
def test_a_pattern_must_match_the_whole_name(log: streamlog.StreamLog, group: str | None) -> None:
    make(log, "orders", "orders-eu", "my-orders")
    with log.consumer(re.compile("orders(-[a-z]+)?"), group=group) as consumer:
        assert topics_seen(consumer) == ["orders", "orders-eu"]
        assert consumer.subscription() == {"orders", "orders-eu"}


def test_a_pattern_and_a_name_go_together(log: streamlog.StreamLog) -> None:
    make(log, "a-1", "a-2", "b")
    with log.consumer(re.compile("a-.*"), "b") as consumer:
        assert topics_seen(consumer) == ["a-1", "a-2", "b"]


def test_a_string_is_a_name_and_never_a_pattern(log: streamlog.StreamLog) -> None:
    make(log, "a.c", "abc")
    with log.consumer("a.c") as consumer:
        assert topics_seen(consumer) == ["a.c"]


@pytest.mark.parametrize("group", [None, "g"])
def test_a_pattern_finds_topics_made_later(log: streamlog.StreamLog, group: str | None) -> None:
    make(log, "a-1")
    with log.consumer(re.compile("a-.*"), group=group) as consumer:
        assert topics_seen(consumer) == ["a-1"]
        make(log, "a-2", "b-2")
        assert [record.topic for record in consumer.poll(timeout=LONG)] == ["a-2"]
        assert consumer.subscription() == {"a-1", "a-2"}
        assert consumer.poll() == []


def test_a_pattern_that_matches_nothing_yet_waits_for_the_first_topic(log: streamlog.StreamLog) -> None:
    with log.consumer(re.compile("a-.*"), group="g") as consumer:
        assert consumer.poll() == []
        make(log, "a-1")
        assert [record.topic for record in consumer.poll(timeout=LONG)] == ["a-1"]


def test_a_pattern_never_finds_internal_topics(log: streamlog.StreamLog) -> None:
    make(log, "t")
    with log.consumer("t", group="other") as consumer:
        drain(consumer)
    with log.consumer(re.compile(".*"), group="g") as consumer:
        assert topics_seen(consumer) == ["t"]
        assert consumer.subscription() == {"t"}


def test_a_deleted_topic_leaves_the_assignment(log: streamlog.StreamLog) -> None:
    make(log, "a-1", "a-2")
    with log.consumer(re.compile("a-.*"), group="g") as consumer:
        assert len(drain(consumer)) == 2
        log.delete_topic("a-1")
        consumer.poll()
        consumer.poll()
        assert consumer.assignment() == {TopicPartition("a-2", 0)}


def test_a_topic_deleted_and_made_again_is_read_from_its_start(log: streamlog.StreamLog) -> None:
    log.create_topic("t").send_many(["old"] * 3).result()
    with log.consumer(re.compile("t")) as consumer:
        assert len(drain(consumer)) == 3
        log.delete_topic("t")
        log.create_topic("t").send("new").result()
        assert [record.value for record in consumer.poll(timeout=LONG)] == [b"new"]
