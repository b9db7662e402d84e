"""Compaction: the last value of each key, at its offset; tombstones; lags; gaps; kills."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import ClosedError, StreamLog, Topic, UnknownTopicOrPartitionError
from streamlog.runtime.disk import OsDisk
from tests.times import LONG

Reopen = Callable[..., StreamLog]
DAY_MS = 86_400_000


@pytest.fixture
def topic(log: StreamLog) -> Topic:
    return log.create_topic("t", cleanup_policy="compact")


def state(topic: Topic) -> list[tuple[int, bytes, bytes | None]]:
    return [(record.offset, record.key, record.value) for record in topic.read()]


def test_last_value_of_each_key_stays_at_its_offset(topic: Topic) -> None:
    for value, key in [(b"1", b"a"), (b"2", b"b"), (b"3", b"a"), (b"4", b"c"), (b"5", b"b")]:
        topic.send(value, key)
    topic.compact()
    assert state(topic) == [(2, b"a", b"3"), (3, b"c", b"4"), (4, b"b", b"5")]


def test_keys_inside_one_batch_are_compacted_too(topic: Topic) -> None:
    topic.send_many([b"1", b"2", b"3", b"4"], [b"a", b"b", b"a", b"a"])
    topic.compact()
    assert state(topic) == [(1, b"b", b"2"), (3, b"a", b"4")]


def test_kept_record_is_unchanged(topic: Topic) -> None:
    topic.send(b"old", b"k")
    topic.send(b"new", b"k", headers=[("h", b"1"), ("h", None)], timestamp_ms=12345)
    topic.send(b"", b"")
    before = list(topic.read(start=1))
    topic.compact()
    assert list(topic.read()) == before


def test_the_later_offset_wins_whatever_the_timestamps_say(topic: Topic) -> None:
    topic.send(b"first", b"k", timestamp_ms=2000)
    topic.send(b"second", b"k", timestamp_ms=1000)
    topic.compact()
    assert state(topic) == [(1, b"k", b"second")]


def test_empty_key_is_a_key(topic: Topic) -> None:
    topic.send_many([b"1", b"2", b"3"], [b"", b"a", b""])
    topic.compact()
    assert state(topic) == [(1, b"a", b"2"), (2, b"", b"3")]


def test_compaction_needs_many_segments_and_many_rounds(log: StreamLog, rng: Any) -> None:
    topic = log.create_topic("t", cleanup_policy="compact", segment_bytes=2048)
    last: dict[bytes, tuple[int, bytes]] = {}
    for n in range(3000):
        key, value = b"key-%d" % rng.randrange(40), b"%d" % n
        last[key] = (topic.send(value, key).result().offset, value)
        if n in (700, 701, 1900):
            topic.compact()
    topic.compact()
    assert {key: (offset, value) for offset, key, value in state(topic)} == last
    assert len(state(topic)) == len(last)
    assert topic.partition(0).log_end_offset == 3000
    assert topic.partition(0).size_bytes < 50_000


def test_compacting_twice_is_compacting_once(topic: Topic) -> None:
    topic.send_many([b"%d" % n for n in range(100)], [b"%d" % (n % 7) for n in range(100)])
    topic.compact()
    before = state(topic)
    topic.compact()
    assert state(topic) == before


def test_partitions_are_compacted_each_by_itself(log: StreamLog) -> None:
    topic = log.create_topic("t", partitions=2, cleanup_policy="compact")
    for partition in (0, 1, 0, 1):
        topic.send(b"v", b"k", partition=partition)
    topic.compact()
    assert [(record.partition, record.offset) for record in topic.read()] == [(0, 1), (1, 1)]


def test_compacted_topic_survives_reopening_and_goes_on(topic: Topic, log: StreamLog, reopen: Reopen) -> None:
    topic.send_many([b"%d" % n for n in range(50)], [b"%d" % (n % 5) for n in range(50)])
    topic.compact()
    before = state(topic)
    log = reopen(log)
    assert state(log["t"]) == before
    assert log["t"].send(b"again", b"0").result().offset == 50
    log["t"].compact()
    assert state(reopen(log)["t"]) == [*before[1:], (50, b"0", b"again")]


def test_compaction_happens_in_the_background(log: StreamLog, clock: Any) -> None:
    topic = log.create_topic("t", cleanup_policy="compact", segment_bytes=2048)
    for n in range(1000):
        topic.send(b"x" * 20, b"%d" % (n % 10))
    clock.advance(timedelta(days=1))
    assert len(state(topic)) < 200
    assert {key for _, key, _ in state(topic)} == {b"%d" % n for n in range(10)}
    assert state(topic)[-1][0] == 999


# Tombstones


def test_tombstone_removes_its_key_and_stays_for_a_while(topic: Topic, clock: Any) -> None:
    topic.send(b"v", b"gone")
    topic.send(b"v", b"kept")
    topic.send(None, b"gone")
    topic.compact()
    assert state(topic) == [(1, b"kept", b"v"), (2, b"gone", None)]
    clock.advance(timedelta(hours=23))
    topic.compact()
    assert state(topic) == [(1, b"kept", b"v"), (2, b"gone", None)]
    clock.advance(timedelta(hours=2))
    topic.compact()
    assert state(topic) == [(1, b"kept", b"v")]


@pytest.mark.parametrize("hours", [1, 100])
def test_tombstone_stays_as_long_as_the_topic_says(log: StreamLog, clock: Any, hours: int) -> None:
    topic = log.create_topic("t", cleanup_policy="compact", delete_retention_ms=timedelta(hours=hours))
    topic.send(None, b"k")
    topic.compact()
    clock.advance(timedelta(hours=hours) - timedelta(minutes=1))
    topic.compact()
    assert state(topic) == [(0, b"k", None)]
    clock.advance(timedelta(minutes=2))
    topic.compact()
    assert state(topic) == []


def test_tombstones_time_begins_with_its_first_compaction(topic: Topic, clock: Any) -> None:
    topic.send(b"v", b"k")
    topic.send(None, b"k")
    clock.jump(30 * DAY_MS)
    topic.compact()
    assert state(topic) == [(1, b"k", None)], "a reader that is behind must still learn of it"
    clock.jump(2 * DAY_MS)
    topic.compact()
    assert state(topic) == []


def test_tombstones_time_survives_reopening(topic: Topic, log: StreamLog, reopen: Reopen, clock: Any) -> None:
    topic.send(None, b"k")
    topic.compact()
    log = reopen(log)
    clock.jump(DAY_MS + 1)
    log["t"].compact()
    assert state(log["t"]) == []


def test_key_may_come_back_after_its_tombstone(topic: Topic, clock: Any) -> None:
    topic.send(b"1", b"k")
    topic.send(None, b"k")
    topic.send(b"2", b"k")
    topic.compact()
    clock.jump(2 * DAY_MS)
    topic.compact()
    assert state(topic) == [(2, b"k", b"2")]


def test_end_is_kept_though_the_last_records_are_gone(topic: Topic, log: StreamLog, reopen: Reopen, clock: Any) -> None:
    topic.send(b"v", b"a")
    topic.send(None, b"b")
    topic.compact()
    clock.jump(2 * DAY_MS)
    topic.compact()
    assert state(topic) == [(0, b"a", b"v")]
    log = reopen(log)
    assert log["t"].partition(0).log_end_offset == 2
    assert log["t"].send(b"w", b"c").result().offset == 2


# Lag


def test_young_records_are_left_alone(log: StreamLog, clock: Any) -> None:
    topic = log.create_topic("t", cleanup_policy="compact", min_compaction_lag_ms=timedelta(hours=1))
    topic.send(b"1", b"k")
    topic.send(b"2", b"k")
    topic.compact()
    assert state(topic) == [(0, b"k", b"1"), (1, b"k", b"2")]
    clock.advance(timedelta(minutes=59))
    topic.compact()
    assert state(topic) == [(0, b"k", b"1"), (1, b"k", b"2")]
    clock.advance(timedelta(minutes=2))
    topic.compact()
    assert state(topic) == [(1, b"k", b"2")]


def test_old_records_are_compacted_below_young_ones(log: StreamLog, clock: Any) -> None:
    topic = log.create_topic("t", cleanup_policy="compact", min_compaction_lag_ms=timedelta(hours=1))
    topic.send(b"1", b"k")
    topic.send(b"2", b"k")
    topic.compact()
    clock.jump(2 * 3_600_000)
    topic.send(b"3", b"k")
    topic.send(b"4", b"k")
    topic.compact()
    kept = [value for _, _, value in state(topic)]
    assert kept[-2:] == [b"3", b"4"]
    assert b"1" not in kept


# Gaps


@pytest.fixture
def gappy(log: StreamLog) -> Topic:
    """Of offsets 0 to 99 those from 90 on, and 17, are left."""
    topic = log.create_topic("gappy", cleanup_policy="compact")
    for start in range(0, 100, 20):
        topic.send_many([b"v"] * 20, [b"once" if n == 17 else b"%d" % (n % 10) for n in range(start, start + 20)])
    topic.compact()
    return topic


LEFT = [17, *range(90, 100)]


def test_reading_goes_over_gaps(gappy: Topic) -> None:
    assert [offset for offset, _, _ in state(gappy)] == LEFT
    for start in (0, 5, 17, 18, 60, 89, 90, 95, 99, 100):
        assert [r.offset for r in gappy.read(0, start=start)] == [n for n in LEFT if n >= start]
        assert [r.offset for r in gappy.read(0, end=start)] == [n for n in LEFT if n < start]


def test_batches_say_where_to_go_on_over_gaps(gappy: Topic) -> None:
    batches = list(gappy.read_batches())
    assert [offset for batch in batches for offset in batch.offsets] == LEFT
    for batch in batches:
        assert len(batch) == len(batch.keys) == len(batch.offsets)
        assert batch.next_offset > batch.offsets[-1]
        rest = [record.offset for record in gappy.read(0, start=batch.next_offset)]
        assert rest == [n for n in LEFT if n > batch.offsets[-1]]


def test_following_next_offset_reaches_the_end(gappy: Topic) -> None:
    position = 0
    seen: list[int] = []
    while batch := next(iter(gappy.read_batches(0, start=position)), None):
        assert batch.next_offset > position
        seen += batch.offsets
        position = batch.next_offset
    assert seen == LEFT


def test_consumer_reads_over_gaps(gappy: Topic, log: StreamLog) -> None:
    with log.consumer("gappy") as consumer:
        assert [record.offset for record in consumer.until_end()] == LEFT
        assert consumer.position(streamlog.TopicPartition("gappy", 0)) == 100


def test_reader_goes_on_while_its_records_are_compacted_away(log: StreamLog) -> None:
    topic = log.create_topic("t", cleanup_policy="compact", segment_bytes=2048)
    for n in range(1000):
        topic.send(b"%d" % n, b"%d" % (n % 10))
    records = topic.read()
    seen = [next(records) for _ in range(50)]
    topic.compact()
    seen.extend(records)
    offsets = [record.offset for record in seen]
    assert offsets == sorted(set(offsets))
    assert all(record.value == b"%d" % record.offset for record in seen)
    assert offsets[-10:] == list(range(990, 1000))


# Null keys


@pytest.mark.parametrize("policy", ["compact", "compact,delete"])
@pytest.mark.parametrize("linger_ms", [0, 1000])
def test_record_without_key_is_refused_at_the_call(log: StreamLog, policy: Any, linger_ms: int) -> None:
    topic = log.create_topic("t", cleanup_policy=policy)
    with log.producer(linger_ms=linger_ms) as producer:
        with pytest.raises(streamlog.StreamlogError, match="key"):
            producer.send("t", b"v")
        with pytest.raises(streamlog.StreamlogError, match="key"):
            producer.send_many("t", [b"v", b"v"], [b"k", None])
        with pytest.raises(streamlog.StreamlogError, match="key"):
            producer.send_many("t", [b"v", b"v"])
    assert topic.partition(0).log_end_offset == 0


# Together with deletion


def test_compact_and_delete_do_both(log: StreamLog, clock: Any) -> None:
    topic = log.create_topic("t", cleanup_policy="compact,delete", retention_ms=DAY_MS)
    topic.send_many([b"1", b"2", b"3"], [b"a", b"b", b"a"])
    topic.compact()
    assert state(topic) == [(1, b"b", b"2"), (2, b"a", b"3")]
    clock.jump(2 * DAY_MS)
    topic.apply_retention()
    assert state(topic) == []
    assert topic.partition(0).log_start_offset == 3


def test_compacted_topic_deletes_nothing_by_age(topic: Topic, clock: Any) -> None:
    topic.update_config(retention_ms=1000)
    topic.send(b"v", b"k")
    clock.advance(timedelta(weeks=10))
    topic.apply_retention()
    assert state(topic) == [(0, b"k", b"v")]


def test_topic_may_become_compacted(log: StreamLog) -> None:
    topic = log.create_topic("t")
    topic.send_many([b"1", b"2"], [b"k", b"k"])
    topic.update_config(cleanup_policy="compact")
    topic.compact()
    assert state(topic) == [(1, b"k", b"2")]


# Killed half-way


WRITER = """
    import sys, streamlog
    log = streamlog.open(sys.argv[1])
    topic = log.create_topic("t", cleanup_policy="compact", segment_bytes=2048, exist_ok=True)
    n = int(sys.argv[2])
    print("ready", flush=True)
    while True:
        n += 1
        key = f"key-{n * 7919 % 50}"
        offset = topic.send(str(n), key).result().offset
        print(offset, key, n, flush=True)
        if n % 25 == 0:
            topic.compact()
"""


@pytest.mark.slow
def test_kill_9_in_the_middle_of_compaction_loses_no_last_value(
    path: Any,
    child: Callable[..., Any],
    lines_until_killed: Callable[..., list[str]],
    open_log: Callable[..., StreamLog],
) -> None:
    last: dict[str, tuple[int, str]] = {}
    end = 0
    for round_, lines in enumerate((26, 51, 260, 403)):
        writer = child(WRITER, path, (round_ + 1) * 1_000_000)
        assert writer.stdout.readline() == "ready\n", writer.communicate()[1]
        for line in lines_until_killed(writer, lines):
            offset, key, value = line.split()
            last[key] = (int(offset), value)
            end = int(offset) + 1
        with open_log() as log:
            topic = log["t"]
            assert topic.partition(0).log_end_offset in (end, end + 1)
            for _ in range(2):
                records = {record.key.decode(): (record.offset, record.value.decode()) for record in topic.read()}
                # One more record than was printed may have been written before the kill.
                unprinted = {key for key, (offset, _) in records.items() if offset >= end}
                assert len(unprinted) <= 1
                assert {k: v for k, v in records.items() if k not in unprinted} == {
                    k: v for k, v in last.items() if k not in unprinted
                }
                topic.compact()
            assert len(list(topic.read())) == len(records)
            last = records
            end = topic.partition(0).log_end_offset


@pytest.mark.slow
@pytest.mark.parametrize("end", [StreamLog.close, lambda log: log.delete_topic("t")], ids=["close", "delete_topic"])
def test_closing_the_log_or_deleting_the_topic_does_not_wait_for_a_compaction(
    path: Path, in_thread: Callable[[Callable[[], Any]], Future[Any]], end: Callable[[StreamLog], object]
) -> None:
    class Disk(OsDisk):
        """Holds a compaction before its first write until the other call is on its way."""

        compacting = threading.Event()
        ending = threading.Event()

        def open(self, path: str, **options: Any) -> Any:
            if path.endswith(".cleaned"):
                self.compacting.set()
                assert self.ending.wait(LONG)
            return super().open(path, **options)

    log = streamlog.open(path, disk=Disk())
    topic = log.create_topic("t", cleanup_policy="compact")
    with log.producer(linger_ms=1000, batch_size=1) as producer:
        for n in range(30_000):
            producer.send(topic, b"", b"%d" % (n % 1000))
    compaction = in_thread(topic.compact)
    assert Disk.compacting.wait(LONG)
    ended = in_thread(lambda: end(log))
    Disk.ending.set()
    with pytest.raises((ClosedError, UnknownTopicOrPartitionError)):
        compaction.result(LONG)
    ended.result(LONG)
    log.close()
    with streamlog.open(path) as log:
        assert [each.partition(0).log_end_offset for each in log.topics()] == [30_000] * (end is StreamLog.close)
