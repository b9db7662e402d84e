"""Retention: by time, size, count and by any policy; in the background and on demand."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

import streamlog
from streamlog import SegmentInfo, StreamLog, Topic
from streamlog.retention import MaxAge, MaxBytes, MaxRecords
from streamlog.testing import FaultyDisk, ManualClock, SimulatedDisk

Reopen = Callable[..., StreamLog]
DAY_MS = 86_400_000


def bounds(topic: Topic, partition: int = 0) -> tuple[int, int]:
    info = topic.partition(partition)
    return info.log_start_offset, info.log_end_offset


def offsets(topic: Topic, partition: int = 0) -> list[int]:
    return [record.offset for record in topic.read(partition)]


# Nothing asked for, nothing deleted


def test_records_are_kept_for_ever_by_default(log: StreamLog, clock: Any) -> None:
    topic = log.create_topic("t", segment_bytes=1024)
    topic.send_many([b"x" * 500] * 100)
    clock.advance(timedelta(days=3650))
    topic.apply_retention()
    assert offsets(topic) == list(range(100))


# By time


def test_old_records_go_in_the_background(log: StreamLog, clock: Any) -> None:
    topic = log.create_topic("t", retention_ms=timedelta(weeks=1))
    topic.send_many([b"x"] * 10)
    clock.advance(timedelta(days=6))
    assert offsets(topic) == list(range(10))
    clock.advance(timedelta(weeks=2))
    assert offsets(topic) == []
    assert bounds(topic) == (10, 10)


def test_records_that_are_written_old_are_readable_for_5_minutes_and_then_go(log: StreamLog, clock: Any) -> None:
    """The active segment is sealed when all of it has expired, long before its age is reached, as by Kafka."""
    topic = log.create_topic("t", retention_ms=timedelta(days=7))
    for days in (9, 8):
        topic.send(b"x", timestamp_ms=clock.time_ms() - days * DAY_MS)
    clock.advance(timedelta(minutes=4))
    assert bounds(topic) == (0, 2)
    clock.advance(timedelta(minutes=2))
    assert bounds(topic) == (2, 2)


def test_one_record_that_has_not_expired_keeps_the_segment(log: StreamLog, clock: Any) -> None:
    topic = log.create_topic("t", retention_ms=timedelta(days=7))
    topic.send(b"x", timestamp_ms=clock.time_ms() - 8 * DAY_MS)
    topic.send(b"x", timestamp_ms=clock.time_ms() - 13 * DAY_MS // 2)
    clock.advance(timedelta(hours=11))
    assert bounds(topic) == (0, 2)
    clock.advance(timedelta(hours=2))
    assert bounds(topic) == (2, 2)


def test_records_that_are_written_old_are_kept_where_age_does_not_count(log: StreamLog, clock: Any) -> None:
    topic = log.create_topic("t", retention_bytes=1 << 30)
    topic.send(b"x", timestamp_ms=clock.time_ms() - 8 * DAY_MS)
    clock.advance(timedelta(minutes=10))
    assert bounds(topic) == (0, 1)


def test_idle_topic_is_emptied_too(log: StreamLog, clock: Any) -> None:
    topic = log.create_topic("t", retention_ms=1000)
    topic.send(b"x")
    clock.advance(timedelta(weeks=1))
    assert offsets(topic) == []


@pytest.mark.slow
def test_time_bound_really_bounds_while_records_arrive(log: StreamLog, clock: Any) -> None:
    topic = log.create_topic("t", retention_ms=timedelta(days=8))
    for _ in range(24 * 30):
        clock.advance(timedelta(hours=1))
        topic.send(b"x")
        ages = [clock.time_ms() - record.timestamp for record in topic.read()]
        assert max(ages) <= 10 * DAY_MS
        assert len(ages) >= min(8 * 24, topic.partition(0).log_end_offset)
    assert topic.partition(0).log_start_offset > 0


def test_old_records_go_on_demand_from_the_active_segment_too(log: StreamLog, clock: Any) -> None:
    topic = log.create_topic("t", retention_ms=1000)
    topic.send_many([b"x"] * 10)
    topic.apply_retention()
    assert offsets(topic) == list(range(10))
    clock.jump(1001)
    assert offsets(topic) == list(range(10)), "the wall clock alone runs no background work"
    topic.apply_retention()
    assert offsets(topic) == []
    assert topic.send(b"y").result().offset == 10


def test_record_is_never_deleted_early(log: StreamLog, clock: Any) -> None:
    topic = log.create_topic("t", retention_ms=10_000, segment_bytes=1024)
    sent = {}
    for _ in range(300):
        metadata = topic.send(b"x" * 100).result()
        sent[metadata.offset] = metadata.timestamp
        clock.advance(0.5)
        topic.apply_retention()
        young = [offset for offset, timestamp in sent.items() if clock.time_ms() - timestamp < 10_000]
        assert offsets(topic)[-len(young) :] == young


def test_age_is_that_of_the_records_not_of_the_file(log: StreamLog, clock: Any) -> None:
    topic = log.create_topic("t", retention_ms=DAY_MS)
    topic.send(b"old event", timestamp_ms=clock.time_ms() - 2 * DAY_MS)
    topic.apply_retention()
    assert offsets(topic) == []


def test_young_record_keeps_what_is_older_in_its_segment_and_after(log: StreamLog, clock: Any) -> None:
    topic = log.create_topic("t", retention_ms=DAY_MS)
    topic.send_many([b"old", b"young"], timestamps_ms=[clock.time_ms() - 2 * DAY_MS, clock.time_ms()])
    topic.apply_retention()
    topic.send(b"old", timestamp_ms=clock.time_ms() - 2 * DAY_MS)
    topic.apply_retention()
    assert offsets(topic) == [0, 1, 2]


def test_partitions_are_retained_each_by_itself(log: StreamLog, clock: Any) -> None:
    topic = log.create_topic("t", partitions=2, retention_ms=1000)
    topic.send(b"x", partition=0)
    clock.jump(5000)
    topic.send(b"x", partition=1)
    topic.apply_retention()
    assert (offsets(topic, 0), offsets(topic, 1)) == ([], [0])


# By size and by count


def test_size_is_bounded_on_demand(log: StreamLog) -> None:
    topic = log.create_topic("t", retention_bytes=200_000)
    for _ in range(100):
        topic.send_many([b"x" * 1000] * 10)
    assert topic.partition(0).size_bytes > 1_000_000
    topic.apply_retention()
    assert 150_000 <= topic.partition(0).size_bytes <= 250_000
    assert offsets(topic)[-1] == 999


def test_size_is_bounded_in_the_background(log: StreamLog, clock: Any) -> None:
    topic = log.create_topic("t", retention_bytes=200_000)
    for _ in range(100):
        topic.send_many([b"x" * 1000] * 10)
    clock.advance(timedelta(hours=1))
    assert topic.partition(0).size_bytes <= 250_000
    assert len(offsets(topic)) >= 150


@pytest.mark.parametrize("config", [{}, {"segment_bytes": 1024}], ids=["own segments", "small segments"])
@pytest.mark.parametrize("background", [False, True], ids=["on demand", "background"])
def test_count_is_bounded(log: StreamLog, clock: Any, config: Any, background: bool) -> None:
    topic = log.create_topic("t", retention_records=1000, **config)
    for _ in range(5000):
        topic.send(b"x")
    if background:
        clock.advance(timedelta(hours=1))
    else:
        topic.apply_retention()
    assert 750 <= len(offsets(topic)) <= 1250
    assert offsets(topic)[-1] == 4999


def test_small_topic_is_left_alone(log: StreamLog) -> None:
    topic = log.create_topic("t", retention_bytes=1_000_000, retention_records=1000, retention_ms=1_000_000)
    topic.send_many([b"x"] * 100)
    topic.apply_retention()
    assert offsets(topic) == list(range(100))


def test_the_tightest_of_several_bounds_counts(log: StreamLog, clock: Any) -> None:
    topic = log.create_topic("t", retention_bytes=10_000_000, retention_records=100, retention_ms=1000)
    for _ in range(500):
        topic.send(b"x")
    topic.apply_retention()
    assert 75 <= len(offsets(topic)) <= 125
    clock.jump(1001)
    topic.apply_retention()
    assert offsets(topic) == []


def test_unset_segments_follow_the_retention(log: StreamLog) -> None:
    by_time = log.create_topic("by-time", retention_ms=8_000_000)
    by_size = log.create_topic("by-size", retention_bytes=8_000_000)
    both = log.create_topic("own", retention_bytes=8_000_000, segment_bytes=5000, retention_ms=8000, segment_ms=77)
    assert by_time.config["segment_ms"] == 1_000_000
    assert by_size.config["segment_bytes"] == 1_000_000
    assert (both.config["segment_bytes"], both.config["segment_ms"]) == (5000, 77)
    by_size.update_config(retention_bytes=800_000)
    assert log["by-size"].config["segment_bytes"] == 100_000


def test_changed_retention_is_applied(log: StreamLog, clock: Any) -> None:
    topic = log.create_topic("t")
    topic.send_many([b"x"] * 10)
    clock.advance(timedelta(days=2))
    topic.apply_retention()
    assert offsets(topic) == list(range(10))
    topic.update_config(retention_ms=DAY_MS)
    topic.apply_retention()
    assert offsets(topic) == []


# What deletion leaves behind


def test_start_and_end_survive_reopening_even_of_an_emptied_topic(log: StreamLog, reopen: Reopen, clock: Any) -> None:
    topic = log.create_topic("t", retention_ms=1000)
    topic.send_many([b"x"] * 10)
    clock.jump(5000)
    topic.apply_retention()
    for end in (10, 11, 12):
        log = reopen(log)
        assert bounds(log["t"]) == (10, end)
        assert log["t"].send(b"y").result().offset == end


def test_deleted_offset_is_out_of_range_and_earliest_begins_after_it(log: StreamLog) -> None:
    topic = log.create_topic("t", retention_records=100, segment_bytes=1024)
    for _ in range(500):
        topic.send(b"x")
    topic.apply_retention()
    start = topic.partition(0).log_start_offset
    assert start > 0
    assert offsets(topic)[0] == start
    with pytest.raises(streamlog.OffsetOutOfRangeError) as error:
        topic.read(0, start=start - 1)
    assert (error.value.log_start_offset, error.value.log_end_offset) == (start, 500)


def test_reader_whose_records_are_deleted_gets_records_or_an_error_but_nothing_wrong(log: StreamLog) -> None:
    topic = log.create_topic("t", retention_records=10, segment_bytes=1024)
    values = [b"%d" % n + b"." * 50 for n in range(2000)]
    for value in values:
        topic.send(value)
    records = topic.read()
    seen = [next(records)]
    topic.apply_retention()
    try:
        seen.extend(records)
    except streamlog.OffsetOutOfRangeError as error:
        assert error.log_start_offset == topic.partition(0).log_start_offset
    assert [record.value for record in seen] == [values[record.offset] for record in seen]


def test_deletion_frees_the_disk(log: StreamLog, path: Any, clock: Any) -> None:
    topic = log.create_topic("t", retention_ms=1000)
    for _ in range(100):
        topic.send(b"x" * 10_000)
    clock.advance(timedelta(weeks=1))
    assert topic.partition(0).size_bytes < 20_000
    log.close()
    assert sum(file.stat().st_size for file in (path / "topics").rglob("*") if file.is_file()) < 50_000


# Policies


def segments(*sizes: int, step_ms: int = 1000) -> list[SegmentInfo]:
    """Sealed segments of so many records each, ten bytes a record, one after another in time."""
    base, found = 0, []
    for n, size in enumerate(sizes):
        found.append(SegmentInfo(base, base + size, size * 10, size, n * step_ms, (n + 1) * step_ms - 1))
        base += size
    return found


def test_built_in_policies_count_the_oldest_segments_that_may_go() -> None:
    four = segments(5, 5, 5, 5)
    assert MaxRecords(10).expired(four, 0) == 2
    assert MaxRecords(20).expired(four, 0) == 0
    assert MaxBytes(100).expired(four, 0) == 2
    assert MaxBytes(1000).expired(four, 0) == 0
    assert MaxAge(timedelta(seconds=10)).expired(four, 12_500) == 2
    assert MaxAge(timedelta(seconds=10)).expired(four, 1_000) == 0
    assert MaxAge(timedelta(seconds=10)).expired(four, 10**9) == 4
    for policy in (MaxRecords(10), MaxBytes(10), MaxAge(timedelta(seconds=1))):
        assert policy.expired([], 10**9) == 0
        assert isinstance(policy.name, str)


def test_age_policy_stops_at_the_first_segment_that_is_young() -> None:
    old, young = SegmentInfo(0, 5, 50, 5, 0, 10), SegmentInfo(5, 10, 50, 5, 0, 99_000)
    assert MaxAge(timedelta(seconds=10)).expired([young, old, old], 100_000) == 0
    assert MaxAge(timedelta(seconds=10)).expired([old, young, old], 100_000) == 1


def test_or_deletes_what_either_may_and_and_what_both_may() -> None:
    four = segments(5, 5, 5, 5)
    one, three = MaxRecords(15), MaxBytes(50)
    assert (one.expired(four, 0), three.expired(four, 0)) == (1, 3)
    assert (one | three).expired(four, 0) == (three | one).expired(four, 0) == 3
    assert (one & three).expired(four, 0) == (three & one).expired(four, 0) == 1
    assert ((one & three) | MaxRecords(10)).expired(four, 0) == 2
    assert isinstance((one | three).name, str)


@pytest.mark.parametrize(
    "policy", [MaxRecords(100), MaxBytes(10_000), MaxRecords(100) | MaxBytes(10**9)], ids=lambda policy: policy.name
)
@pytest.mark.parametrize("given", ["at creation", "by change", "to open"])
def test_topic_takes_a_built_in_policy(open_log: Callable[..., StreamLog], policy: Any, given: str) -> None:
    log = open_log(**({"retention": policy} if given == "to open" else {}))
    topic = log.create_topic("t", segment_bytes=1024, **({"retention": policy} if given == "at creation" else {}))
    for _ in range(1000):
        topic.send(b"x")
    if given == "by change":
        topic.update_config(retention=policy)
    topic.apply_retention()
    assert 50 <= len(offsets(topic)) <= 150


def test_topic_takes_a_policy_built_of_others(log: StreamLog, clock: Any) -> None:
    topic = log.create_topic("t", retention=MaxAge(timedelta(days=1)) & MaxRecords(100), segment_bytes=1024)
    for _ in range(1000):
        topic.send(b"x")
    topic.apply_retention()
    assert len(offsets(topic)) == 1000, "too many, but too young"
    clock.jump(2 * DAY_MS)
    topic.apply_retention()
    assert 1 <= len(offsets(topic)) <= 150, "old, but a hundred are kept"


class Recording:
    """Remembers its arguments, and returns the number that it was given."""

    name = "recording"

    def __init__(self, answer: int = 0) -> None:
        self.answer = answer
        self.asked: list[tuple[list[SegmentInfo], int]] = []

    def expired(self, segments: Sequence[SegmentInfo], now_ms: int) -> int:
        self.asked.append((list(segments), now_ms))
        return min(self.answer, len(segments))


def test_custom_policy_sees_sealed_segments_oldest_first(log: StreamLog, clock: Any) -> None:
    policy = Recording()
    topic = log.create_topic("t", retention=policy, segment_bytes=1024)
    for n in range(200):
        topic.send(b"x" * 50, timestamp_ms=1000 + n)
    topic.apply_retention()
    seen, now_ms = policy.asked[-1]
    assert now_ms == clock.time_ms()
    assert len(seen) > 5
    assert seen[0].base_offset == 0
    assert seen[-1].next_offset == 200, "the active segment was rolled first"
    assert [s.next_offset for s in seen[:-1]] == [s.base_offset for s in seen[1:]]
    for segment in seen:
        assert isinstance(segment, SegmentInfo)
        assert segment.records == segment.next_offset - segment.base_offset > 0
        assert segment.min_timestamp == 1000 + segment.base_offset
        assert segment.max_timestamp == 1000 + segment.next_offset - 1
        assert segment.size_bytes > segment.records * 50
    assert sum(s.size_bytes for s in seen) == topic.partition(0).size_bytes


def test_as_many_of_the_oldest_go_as_the_policy_says(log: StreamLog) -> None:
    policy = Recording()
    topic = log.create_topic("t", retention=policy, segment_bytes=1024)
    for _ in range(200):
        topic.send(b"x" * 50)
    topic.apply_retention()
    seen, _ = policy.asked[-1]
    policy.answer = 3
    topic.apply_retention()
    assert bounds(topic) == (seen[3].base_offset, 200)


def test_custom_policy_is_asked_in_the_background(log: StreamLog, clock: Any) -> None:
    policy = Recording(answer=10**6)
    topic = log.create_topic("t", retention=policy, segment_bytes=1024)
    for _ in range(200):
        topic.send(b"x" * 50)
    clock.advance(timedelta(days=1))
    assert policy.asked
    assert topic.partition(0).log_start_offset > 100


class Broken:
    name = "broken"

    def expired(self, segments: Sequence[SegmentInfo], now_ms: int) -> int:
        raise ZeroDivisionError


@pytest.mark.parametrize("answer", [10**9, -3, None])
def test_policy_that_answers_nonsense_deletes_at_most_what_there_is(log: StreamLog, answer: Any) -> None:
    policy = Recording()
    policy.expired = lambda segments, now_ms: answer  # type: ignore[method-assign]
    topic = log.create_topic("t", retention=policy, segment_bytes=1024)
    for _ in range(100):
        topic.send(b"x" * 50)
    with contextlib.suppress(streamlog.StreamlogError, TypeError, ValueError):
        topic.apply_retention()
    assert bounds(topic) == ((100, 100) if answer == 10**9 else (0, 100))
    assert topic.send(b"y").result().offset == 100


def test_policy_that_fails_deletes_nothing_and_stops_no_other_policy(log: StreamLog, clock: Any) -> None:
    broken = log.create_topic("broken", retention=Broken(), segment_bytes=1024)
    other = log.create_topic("other", retention_ms=1000)
    for _ in range(100):
        broken.send(b"x" * 50)
    other.send(b"x")
    clock.advance(timedelta(hours=1))
    assert len(offsets(broken)) == 100
    assert offsets(other) == []
    with pytest.raises(ZeroDivisionError):
        broken.apply_retention()
    assert len(offsets(broken)) == 100


def test_policy_that_fails_does_not_keep_a_topic_from_being_compacted(log: StreamLog, clock: Any) -> None:
    topic = log.create_topic("t", retention=Broken(), cleanup_policy="compact,delete", segment_ms=1000)
    with log.producer(enable_idempotence=False) as producer:  # whose last batches would not be removed
        for n in range(10):
            producer.send("t", str(n), "k")
        clock.advance(timedelta(hours=1))
        producer.send("t", "last", "k")
    clock.advance(timedelta(hours=1))
    assert [record.value for record in topic.read()] == [b"last"]


@pytest.mark.parametrize("policy", [object(), "a week", 7, timedelta(days=1)], ids=lambda policy: type(policy).__name__)
def test_what_is_no_policy_is_refused(log: StreamLog, policy: Any) -> None:
    with pytest.raises(streamlog.ConfigError, match="retention"):
        log.create_topic("t", retention=policy)
    assert "t" not in log


# Policies of changes that did not happen


class Named:
    """Lets everything go, or nothing."""

    def __init__(self, name: str, everything: bool) -> None:
        self.name, self._everything = name, everything

    def expired(self, segments: Any, now_ms: int) -> int:
        return len(segments) if self._everything else 0


@pytest.fixture
def disk() -> FaultyDisk:
    return FaultyDisk(SimulatedDisk())


def filled(topic: Topic) -> Topic:
    for n in range(100):
        topic.send(b"%d" % n * 20)
    return topic


@pytest.mark.parametrize("name", ["keeps", "deletes"])
def test_a_policy_that_was_refused_deletes_nothing(disk: FaultyDisk, clock: ManualClock, name: str) -> None:
    with streamlog.open("/log", disk=disk, clock=clock) as log:
        topic = filled(log.create_topic("t", segment_bytes=1024, retention=Named("keeps", False)))
        with pytest.raises(streamlog.ConfigError):
            topic.update_config(retention=Named(name, True), partitioner="round_robin")
        disk.fail("pwrite", errno.ENOSPC, path="*__cluster_metadata*.log")
        with pytest.raises(streamlog.DiskFullError):
            topic.update_config(retention=Named(name, True))
        log.create_topic("u")
        clock.advance(400)
        topic.apply_retention()
        assert topic.config["retention"] == "keeps"
        assert len(list(topic.read())) == 100


def test_a_policy_stays_when_taking_it_away_was_refused(disk: FaultyDisk, clock: ManualClock) -> None:
    with streamlog.open("/log", disk=disk, clock=clock) as log:
        topic = filled(log.create_topic("t", segment_bytes=1024, retention=Named("deletes", True)))
        disk.fail("pwrite", errno.ENOSPC, path="*__cluster_metadata*.log")
        with pytest.raises(streamlog.DiskFullError):
            topic.update_config(retention=None)
        log.create_topic("u")
        topic.apply_retention()
        assert len(list(topic.read())) < 100


def test_the_policy_of_a_topic_whose_deletion_was_interrupted_is_not_the_next_ones(
    disk: FaultyDisk, clock: ManualClock
) -> None:
    with streamlog.open("/log", disk=disk, clock=clock) as log:
        log.create_topic("t", segment_bytes=1024, retention=Named("deletes", True))
        disk.fail("rmtree", KeyboardInterrupt, path="*/topics/*")
        with pytest.raises(KeyboardInterrupt):
            log.delete_topic("t")
        topic = filled(log.create_topic("t", segment_bytes=1024))
        topic.apply_retention()
        assert len(list(topic.read())) == 100


# What compaction emptied


def emptied_segments(log: StreamLog) -> Topic:
    """A topic whose first segments hold nothing any more, because all their keys have later values."""
    topic = log.create_topic("t", cleanup_policy="compact,delete", segment_bytes=1024, retention_ms=DAY_MS)
    for n in range(40):
        topic.send(b"%d" % n * 100, b"key")
    topic.send(b"live", b"other")
    topic.compact()
    assert [record.value for record in topic.read()] == [b"39" * 100, b"live"]
    return topic


def test_an_emptied_segment_is_as_old_as_what_it_held(log: StreamLog, clock: Any) -> None:
    topic = emptied_segments(log)
    topic.apply_retention()
    assert bounds(topic) == (0, 41)
    clock.advance(timedelta(hours=23))
    topic.apply_retention()
    assert bounds(topic) == (0, 41)
    clock.advance(timedelta(hours=2))
    topic.apply_retention()
    assert offsets(topic) == []


def test_an_emptied_segment_is_as_old_after_reopening_without_its_index(
    log: StreamLog, reopen: Reopen, path: Any, clock: Any
) -> None:
    emptied_segments(log)
    log.close()
    for index in path.rglob("*.index"):
        index.unlink()
    topic = reopen(log)["t"]
    topic.apply_retention()
    assert bounds(topic) == (0, 41)


def test_a_group_behind_an_emptied_segment_skips_no_live_record(log: StreamLog, clock: Any) -> None:
    topic = emptied_segments(log)
    log.group("g").reset(topic, to={streamlog.TopicPartition("t", 0): 5})
    topic.apply_retention()
    with log.consumer("t", group="g", auto_offset_reset="latest") as consumer:
        assert [record.value for record in consumer.until_end()] == [b"39" * 100, b"live"]


def test_segments_that_compaction_emptied_do_not_hold_up_retention_for_ever(log: StreamLog, clock: Any) -> None:
    topic = emptied_segments(log)
    clock.advance(timedelta(hours=25))
    topic.send(b"young", b"third")
    topic.apply_retention()
    assert [record.value for record in topic.read()] == [b"young"]
