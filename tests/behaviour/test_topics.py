"""Topics: made, found, described, changed, deleted."""

from __future__ import annotations

import contextlib
import errno
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import streamlog
from streamlog import SegmentInfo, StreamLog, Topic
from streamlog.testing import FaultyDisk, ManualClock, SimulatedDisk
from tests.contents import values_of

Reopen = Callable[..., StreamLog]


def topics_before_and_after(log: StreamLog, reopen: Reopen) -> Iterator[Topic]:
    """The topic `orders` as it is now, and once more after the log was closed and opened."""
    yield log["orders"]
    yield reopen(log)["orders"]


# Creation and description


def test_created_topic_says_what_it_is(log: StreamLog) -> None:
    topic = log.create_topic("orders", partitions=4, retention_ms=timedelta(days=7))
    assert topic.name == "orders"
    assert topic.partitions == 4
    assert isinstance(topic.id, UUID)
    assert topic.config["retention_ms"] == 7 * 24 * 3600 * 1000


def test_topic_has_one_partition_by_default(log: StreamLog) -> None:
    assert log.create_topic("orders").partitions == 1


def test_topic_keeps_records_for_ever_and_hashes_with_xxhash_by_default(log: StreamLog) -> None:
    config = log.create_topic("orders").config
    assert config["retention_ms"] in (None, -1)
    assert config["retention_bytes"] in (None, -1)
    assert config["cleanup_policy"] == "delete"
    assert config["partitioner"] == "xxhash"
    assert config["max_message_bytes"] == 1_048_588


def test_config_of_a_topic_is_changed_by_update_config_alone(log: StreamLog) -> None:
    with contextlib.suppress(TypeError):
        log.create_topic("orders").config["retention_ms"] = 5  # type: ignore[index]
    assert log["orders"].config["retention_ms"] is None


def test_kafkas_minus_one_means_unlimited(log: StreamLog, clock: Any) -> None:
    topic = log.create_topic("orders", retention_ms=-1, retention_bytes=-1)
    topic.send(b"kept")
    clock.advance(timedelta(weeks=100))
    topic.apply_retention()
    assert values_of(topic) == [b"kept"]


def test_second_creation_is_refused_and_names_the_topic(log: StreamLog) -> None:
    topic = log.create_topic("orders")
    topic.send(b"kept")
    with pytest.raises(streamlog.TopicAlreadyExistsError, match="orders"):
        log.create_topic("orders")
    assert values_of(log["orders"]) == [b"kept"]


def test_exist_ok_returns_the_topic_as_it_is(log: StreamLog) -> None:
    first = log.create_topic("orders", partitions=2)
    first.send(b"kept", partition=0)
    again = log.create_topic("orders", partitions=2, exist_ok=True)
    assert again == first
    assert again.id == first.id
    assert values_of(again) == [b"kept"]


def test_exist_ok_creates_a_topic_that_is_not_there(log: StreamLog) -> None:
    assert log.create_topic("orders", partitions=3, exist_ok=True).partitions == 3


def test_partition_info_follows_the_log(log: StreamLog) -> None:
    topic = log.create_topic("orders", partitions=2)
    before = topic.partition(1)
    assert (before.topic, before.partition) == ("orders", 1)
    assert (before.log_start_offset, before.high_watermark, before.log_end_offset) == (0, 0, 0)
    topic.send_many([b"a", b"b", b"c"], partition=1)
    after = topic.partition(1)
    assert (after.log_start_offset, after.high_watermark, after.last_stable_offset, after.log_end_offset) == (
        0,
        3,
        3,
        3,
    )
    assert after.size_bytes > before.size_bytes
    assert after.segments >= 1
    assert after.leader in after.isr
    assert set(after.isr) <= set(after.replicas)
    assert topic.partition(0).log_end_offset == 0


@pytest.mark.parametrize("partition", [2, -1, 10**9])
def test_partition_that_does_not_exist_has_no_info(log: StreamLog, partition: int) -> None:
    topic = log.create_topic("orders", partitions=2)
    with pytest.raises(streamlog.UnknownTopicOrPartitionError, match="orders"):
        topic.partition(partition)


# Names


@pytest.mark.parametrize("name", ["a", "A.b-c_9", "...", "-", "_", "0", "a" * 249])
def test_name_that_kafka_allows_is_allowed(log: StreamLog, reopen: Reopen, name: str) -> None:
    log.create_topic(name).send(b"kept")
    assert values_of(reopen(log)[name]) == [b"kept"]


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "../a", "a b", "a\n", "\na", "a\x00", "a:b", "ä", "a" * 250, "٣"],
    ids=ascii,
)
def test_name_that_kafka_refuses_is_refused(log: StreamLog, name: str) -> None:
    with pytest.raises(streamlog.InvalidTopicError) as refusal:
        log.create_topic(name)
    assert isinstance(refusal.value, ValueError)
    assert list(log) == []


def test_names_that_differ_in_case_are_two_topics(log: StreamLog, reopen: Reopen) -> None:
    log.create_topic("orders").send(b"lower")
    log.create_topic("Orders").send(b"upper")
    log = reopen(log)
    assert sorted(log) == ["Orders", "orders"]
    assert values_of(log["orders"]) == [b"lower"]
    assert values_of(log["Orders"]) == [b"upper"]


# Finding


def test_topics_are_found_by_name(log: StreamLog) -> None:
    topic = log.create_topic("orders")
    assert log["orders"] == topic
    assert log.topic("orders") == topic
    assert Topic(log, "orders") == topic
    assert "orders" in log
    assert "payments" not in log


@pytest.mark.parametrize("thing", [None, 3, b"orders", object()])
def test_what_is_no_name_is_not_in_the_log(log: StreamLog, thing: object) -> None:
    log.create_topic("orders")
    assert thing not in log


@pytest.mark.parametrize("find", [StreamLog.__getitem__, StreamLog.topic, StreamLog.delete_topic])
def test_unknown_topic_is_a_lookup_error_with_its_name(log: StreamLog, find: Callable[..., object]) -> None:
    with pytest.raises(streamlog.UnknownTopicOrPartitionError, match="payments") as error:
        find(log, "payments")
    assert isinstance(error.value, LookupError)
    assert isinstance(error.value, streamlog.StreamlogError)


def test_iteration_and_topics_list_what_the_user_made(log: StreamLog) -> None:
    for name in ("b", "a", "c"):
        log.create_topic(name)
    assert sorted(log) == ["a", "b", "c"]
    assert sorted(topic.name for topic in log.topics()) == ["a", "b", "c"]
    assert {"a", "b", "c"} <= {topic.name for topic in log.topics(internal=True)}


def test_topics_may_be_made_and_deleted_while_iterating(log: StreamLog) -> None:
    for name in ("a", "b", "c"):
        log.create_topic(name)
    for name in log:
        log.delete_topic(name)
    assert list(log) == []


def test_empty_log_is_true_and_has_no_length(log: StreamLog) -> None:
    assert log
    with pytest.raises(TypeError):
        len(log)  # type: ignore[arg-type]


def test_topics_are_equal_by_log_and_name(log: StreamLog, open_log: Callable[..., StreamLog], tmp_path: Path) -> None:
    log.create_topic("a")
    log.create_topic("b")
    other = open_log(tmp_path / "other")
    other.create_topic("a")
    assert log["a"] == log["a"]
    assert hash(log["a"]) == hash(log["a"])
    assert log["a"] != log["b"]
    assert log["a"] != other["a"]
    assert log["a"] != "a"
    assert {log["a"]: 1}[log["a"]] == 1


def test_sending_to_an_unknown_topic_creates_it_only_with_auto_create_topics(log: StreamLog, reopen: Reopen) -> None:
    with log.producer() as producer, pytest.raises(streamlog.UnknownTopicOrPartitionError, match="orders"):
        producer.send("orders", b"lost")
    assert "orders" not in log
    log = reopen(log, auto_create_topics=True, partitions=2)
    with log.producer() as producer:
        producer.send("orders", b"kept")
    assert values_of(log["orders"]) == [b"kept"]
    assert log["orders"].partitions == 2


# Defaults


def test_defaults_of_open_are_stored_when_a_topic_is_created(
    open_log: Callable[..., StreamLog], reopen: Reopen
) -> None:
    log = open_log(partitions=3, retention_ms=timedelta(days=1), partitioner="murmur2")
    log.create_topic("plain")
    log.create_topic("chosen", partitions=1, retention_ms=5000)
    log = reopen(log, partitions=7, retention_ms=None, partitioner="crc32")
    assert log["plain"].partitions == 3
    assert log["plain"].config["retention_ms"] == 86_400_000
    assert log["plain"].config["partitioner"] == "murmur2"
    assert log["chosen"].partitions == 1
    assert log["chosen"].config["retention_ms"] == 5000
    assert log["chosen"].config["partitioner"] == "murmur2"
    assert log.create_topic("later").partitions == 7


@pytest.mark.parametrize(
    "config",
    [
        {"partitions": 0},
        {"partitions": -1},
        {"partitions": 1.5},
        {"partitions": "3"},
        {"replication_factor": 0},
        {"replication_factor": 2},
        {"cleanup_policy": "shred"},
        {"partitioner": "dice"},
        {"message_timestamp_type": "BirthTime"},
        {"segment_bytes": 0},
        {"segment_bytes": -5},
        {"max_message_bytes": -1},
        {"retention_ms": -2},
        {"retention_bytes": "1GB"},
        {"min_cleanable_dirty_ratio": 1.5},
        {"delete_retention_ms": -7},
    ],
    ids=str,
)
def test_impossible_config_is_refused_by_name(log: StreamLog, config: dict[str, Any]) -> None:
    (name,) = config
    with pytest.raises(streamlog.ConfigError, match=name) as refusal:
        log.create_topic("orders", **config)
    assert isinstance(refusal.value, ValueError)
    assert "orders" not in log


@pytest.mark.parametrize("wrong", ["retention.ms", "retention_mss", "retentionMs"])
def test_unknown_config_is_answered_with_the_name_that_was_meant(log: StreamLog, wrong: str) -> None:
    with pytest.raises(streamlog.ConfigError, match="retention_ms"):
        log.create_topic("orders", **{wrong: 1000})  # type: ignore[arg-type]
    assert "orders" not in log


# Change


def test_changed_config_holds_and_survives_reopening(log: StreamLog, reopen: Reopen) -> None:
    topic = log.create_topic("orders", max_message_bytes=5000, retention_bytes=10_000)
    topic.update_config(retention_ms=timedelta(hours=1), max_message_bytes=200)
    for current in topics_before_and_after(log, reopen):
        assert current.config["retention_ms"] == 3_600_000
        assert current.config["max_message_bytes"] == 200
        assert current.config["retention_bytes"] == 10_000
        with pytest.raises(streamlog.RecordTooLargeError):
            current.send(b"x" * 1000)


def test_refused_change_changes_nothing(log: StreamLog, reopen: Reopen) -> None:
    topic = log.create_topic("orders", retention_ms=1000)
    with pytest.raises(streamlog.ConfigError):
        topic.update_config(retention_ms=2000, cleanup_policy="shred")
    with pytest.raises(streamlog.ConfigError, match="retention_ms"):
        topic.update_config(**{"retention.ms": 2000})
    assert log["orders"].config["retention_ms"] == 1000
    assert reopen(log)["orders"].config["retention_ms"] == 1000


def test_added_partitions_are_empty_and_stay(log: StreamLog, reopen: Reopen) -> None:
    topic = log.create_topic("orders", partitions=1)
    topic.send(b"old")
    with log.producer() as producer:
        producer.send("orders", b"older producer", partition=0)
        topic.add_partitions(3)
        producer.send("orders", b"new partition", partition=2)
    assert log["orders"].partitions == 3
    log = reopen(log)
    assert log["orders"].partitions == 3
    assert [log["orders"].partition(n).log_end_offset for n in range(3)] == [2, 0, 1]
    assert values_of(log["orders"]) == [b"old", b"older producer", b"new partition"]


@pytest.mark.parametrize("total", [0, -1, 1, 2])
def test_partitions_never_become_fewer(log: StreamLog, total: int) -> None:
    topic = log.create_topic("orders", partitions=3)
    with pytest.raises(streamlog.StreamlogError):
        topic.add_partitions(total)
    assert log["orders"].partitions == 3


# Deletion


@pytest.mark.parametrize("how", ["topic", "log"])
def test_deleted_topic_is_gone(log: StreamLog, reopen: Reopen, how: str) -> None:
    topic = log.create_topic("orders")
    topic.send(b"gone")
    if how == "topic":
        topic.delete()
    else:
        log.delete_topic("orders")
    for _ in range(2):
        assert "orders" not in log
        assert list(log) == []
        with pytest.raises(LookupError):
            log["orders"]
        log = reopen(log)


def test_handle_of_a_deleted_topic_raises_lookup_errors(log: StreamLog) -> None:
    topic = log.create_topic("orders")
    topic.send(b"gone")
    topic.delete()
    for use in (topic.read, topic.delete, topic.compact, topic.apply_retention, lambda: topic.send(b"late")):
        with pytest.raises(LookupError) as error:
            use()
        assert isinstance(error.value, streamlog.StreamlogError)


def test_topic_made_again_under_the_same_name_is_another_topic(log: StreamLog, reopen: Reopen) -> None:
    old = log.create_topic("orders", partitions=2)
    old.send_many([b"old"] * 10, partition=0)
    old_id = old.id
    log.delete_topic("orders")
    new = log.create_topic("orders")
    assert new.id != old_id
    assert new.send(b"new").result().offset == 0
    log = reopen(log)
    assert values_of(log["orders"]) == [b"new"]
    assert log["orders"].partitions == 1
    assert log["orders"].id == new.id


def test_reader_of_a_deleted_topic_never_sees_its_successor(log: StreamLog) -> None:
    log.create_topic("orders", segment_bytes=1024).send_many([b"old" * 30] * 100)
    records = log["orders"].read()
    assert next(records).value == b"old" * 30
    log.delete_topic("orders")
    log.create_topic("orders").send_many([b"new" * 30] * 100)
    rest = set()
    try:
        rest = {record.value for record in records}
    except LookupError as error:
        assert isinstance(error, streamlog.StreamlogError)
    assert rest <= {b"old" * 30}


def test_deletion_frees_the_disk(log: StreamLog, path: Path) -> None:
    log.create_topic("orders").send_many([b"x" * 1000] * 500)
    assert sum(file.stat().st_size for file in path.rglob("*.log")) > 400_000
    log.delete_topic("orders")
    log.close()
    assert sum(file.stat().st_size for file in path.rglob("*.log")) < 100_000


# Policies that users write


class DropAll:
    """Every sealed segment may go."""

    name = "drop-all"

    def expired(self, segments: Sequence[SegmentInfo], now_ms: int) -> int:
        return len(segments)


def test_custom_policy_is_asked_while_the_log_is_open(log: StreamLog) -> None:
    topic = log.create_topic("orders", retention=DropAll())
    topic.send_many([b"x"] * 10)
    topic.apply_retention()
    assert values_of(topic) == []
    assert topic.partition(0).log_start_offset == 10


def test_reopened_topic_deletes_nothing_and_warns_until_its_policy_is_given_again(
    log: StreamLog, reopen: Reopen, clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    log.create_topic("orders", retention=DropAll(), segment_bytes=1024).send_many([b"x" * 100] * 100)
    caplog.set_level(logging.WARNING, logger="streamlog")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        log = reopen(log)
        topic = log["orders"]
        topic.apply_retention()
        clock.advance(timedelta(weeks=4))
    said = [str(warning.message) for warning in caught] + [entry.getMessage() for entry in caplog.records]
    assert any("drop-all" in line for line in said), said
    assert len(values_of(topic)) == 100
    topic.update_config(retention=DropAll())
    topic.apply_retention()
    assert values_of(topic) == []


# Changes that are cut short


@pytest.fixture
def disk() -> FaultyDisk:
    return FaultyDisk(SimulatedDisk())


def test_an_interrupted_change_is_seen_at_once_and_by_producers_that_were_there(
    disk: FaultyDisk, clock: ManualClock
) -> None:
    with streamlog.open("/log", disk=disk, clock=clock) as log, log.producer() as producer:
        log.create_topic("t")
        producer.send("t", b"1", timestamp_ms=5)
        for change in (
            lambda: log["t"].update_config(message_timestamp_type="LogAppendTime"),
            lambda: log.create_topic("made"),
            lambda: log["t"].add_partitions(2),
        ):
            disk.fail("sync", KeyboardInterrupt, path="*metadata*")
            with pytest.raises(KeyboardInterrupt):
                change()
        assert (sorted(log), log["t"].partitions) == (["made", "t"], 2)
        producer.send("t", b"2", timestamp_ms=5, partition=1)
        [record] = log["t"].read(1)
        assert record.timestamp == clock.time_ms(), "the producer goes by the settings of before"


def test_a_topic_that_could_not_be_made_nor_taken_back_is_not_shown(disk: FaultyDisk, clock: ManualClock) -> None:
    log = streamlog.open("/log", disk=disk, clock=clock)
    log.create_topic("a")
    disk.fail("mkdir", errno.ENOSPC, times=None)
    disk.fail("pwrite", errno.ENOSPC, nth=2, times=None, path="*.log")
    with pytest.raises(streamlog.StreamlogError):
        log.create_topic("t")
    assert (list(log), "t" in log) == (["a"], False)
    disk.heal()
    log.close()


def test_a_growth_that_failed_is_void_and_can_be_asked_for_again(disk: FaultyDisk, clock: ManualClock) -> None:
    with streamlog.open("/log", disk=disk, clock=clock) as log, log.producer(partitioner="round_robin") as producer:
        log.create_topic("t")
        producer.send("t", b"1")
        disk.fail("mkdir", errno.ENOSPC, times=None)
        with pytest.raises(streamlog.DiskFullError):
            log["t"].add_partitions(3)
        disk.heal()
        with pytest.raises(streamlog.TopicAlreadyExistsError):
            log.create_topic("t")
        assert log["t"].partitions == 1, "it was refused"
        log["t"].add_partitions(3)
        assert {producer.send("t", b"%d" % n).result().partition for n in range(9)} == {0, 1, 2}
