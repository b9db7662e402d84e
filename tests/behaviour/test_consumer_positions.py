"""Where a consumer stands: starting, seeking, pausing, lag, offsets by time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import OffsetAndTimestamp, OffsetOutOfRangeError, StreamlogError, TopicPartition
from streamlog.testing import ManualClock
from tests.contents import drain, fill
from tests.times import LONG

P0, P1 = TopicPartition("t", 0), TopicPartition("t", 1)


def offsets_of(records: list[Any]) -> list[int]:
    return [record.offset for record in records]


# Starting


def test_a_new_consumer_starts_at_the_earliest_record_by_default(log: streamlog.StreamLog) -> None:
    fill(log, 3)
    with log.consumer("t") as consumer:
        assert offsets_of(drain(consumer)) == [0, 1, 2]


def test_earliest_is_the_log_start_offset(log: streamlog.StreamLog) -> None:
    fill(log, 5).delete_records({0: 2})
    with log.consumer("t", auto_offset_reset="earliest") as consumer:
        assert offsets_of(drain(consumer)) == [2, 3, 4]


def test_latest_sees_only_what_is_sent_after_its_first_poll(log: streamlog.StreamLog) -> None:
    topic = fill(log, 3)
    with log.consumer("t", auto_offset_reset="latest") as consumer:
        assert consumer.poll() == []
        topic.send("new").result()
        assert [record.value for record in consumer.poll(timeout=LONG)] == [b"new"]


def values_of(records: Iterable[Any]) -> list[Any]:
    return [record.value for record in records]


def test_latest_on_an_empty_partition_goes_on_there_after_a_restart(log: streamlog.StreamLog) -> None:
    topic = log.create_topic("t")
    with log.consumer("t", group="g", auto_offset_reset="latest") as consumer:
        assert consumer.poll() == []
    assert log.group("g").committed() == {P0: 0}
    topic.send_many(["0", "1"]).result()
    with log.consumer("t", group="g", auto_offset_reset="latest") as consumer:
        assert values_of(consumer.until_end()) == [b"0", b"1"]


def test_latest_on_an_empty_partition_goes_on_there_after_a_rebalance(log: streamlog.StreamLog) -> None:
    topic = log.create_topic("t", partitions=2)
    with (
        log.consumer("t", group="g", auto_offset_reset="latest") as first,
        log.consumer("t", group="g", auto_offset_reset="latest") as second,
    ):
        assert first.poll() == []
        for partition in range(2):
            topic.send(str(partition), partition=partition).result()
        seen = [*second.poll(), *first.poll(), *second.poll(), *first.poll()]
        assert (len(first.assignment()), len(second.assignment())) == (1, 1)
    assert sorted(values_of(seen)) == [b"0", b"1"]


def test_a_position_that_was_sought_is_committed_though_nothing_was_read(log: streamlog.StreamLog) -> None:
    log.create_topic("t").send_many(["0", "1"]).result()
    with log.consumer("t", group="g", auto_offset_reset="latest") as consumer:
        assert consumer.poll() == []
        consumer.seek_to_beginning()
    with log.consumer("t", group="g", auto_offset_reset="latest") as consumer:
        assert values_of(consumer.until_end()) == [b"0", b"1"]


def test_a_position_that_was_never_established_is_not_committed(log: streamlog.StreamLog) -> None:
    log.create_topic("t")
    with log.consumer("t", group="g", auto_offset_reset="none") as consumer, pytest.raises(OffsetOutOfRangeError):
        consumer.poll()
    assert log.group("g").committed() == {}


def test_with_none_a_poll_raises_until_a_position_is_given(log: streamlog.StreamLog) -> None:
    fill(log, 3)
    with log.consumer("t", auto_offset_reset="none") as consumer:
        with pytest.raises(StreamlogError):
            consumer.poll()
        consumer.seek(P0, 1)
        assert offsets_of(drain(consumer)) == [1, 2]


def test_a_group_goes_on_at_its_commit_whatever_the_reset_says(log: streamlog.StreamLog) -> None:
    fill(log, 4)
    with log.consumer("t", group="g") as consumer:
        consumer.poll(max_records=2)
    for reset in ("earliest", "latest", "none"):
        with log.consumer("t", group="g", auto_offset_reset=reset, enable_auto_commit=False) as consumer:
            assert offsets_of(drain(consumer)) == [2, 3]


# Seeking


def test_seek_moves_the_next_poll_backwards_and_forwards(log: streamlog.StreamLog) -> None:
    fill(log, 1000)
    with log.consumer("t") as consumer:
        for target in (0, 999, 500, 0, 998):
            consumer.seek(P0, target)
            assert consumer.position(P0) == target
            assert offsets_of(consumer.poll(max_records=1)) == [target]


def test_a_plain_tuple_passes_for_a_topic_partition(log: streamlog.StreamLog) -> None:
    fill(log, 3)
    with log.consumer("t") as consumer:
        consumer.seek(("t", 0), 2)  # type: ignore[arg-type]
        assert consumer.position(("t", 0)) == 2  # type: ignore[arg-type]
        assert offsets_of(consumer.poll()) == [2]


def test_seek_forgets_what_was_prefetched_of_that_partition_alone(log: streamlog.StreamLog) -> None:
    fill(log, 6, partitions=2)
    with log.consumer("t") as consumer:
        first = consumer.poll(max_records=1)
        consumer.seek(P0, 5)
        rest = first + drain(consumer)
    assert [record.offset for record in rest if record.partition == 1] == [0, 1, 2, 3, 4, 5]
    assert [record.offset for record in rest if record.partition == 0] in ([5], [0, 5])


def test_seek_to_beginning_and_to_end_take_some_partitions_or_all(log: streamlog.StreamLog) -> None:
    fill(log, 3, partitions=2).delete_records({1: 1})
    with log.consumer("t") as consumer:
        consumer.seek_to_end(P1)
        assert (consumer.position(P0), consumer.position(P1)) == (0, 3)
        consumer.seek_to_end()
        assert (consumer.position(P0), consumer.position(P1)) == (3, 3)
        assert consumer.poll() == []
        consumer.seek_to_beginning()
        assert (consumer.position(P0), consumer.position(P1)) == (0, 1)
        assert len(drain(consumer)) == 5


def test_seek_to_the_end_offset_waits_for_the_next_record(log: streamlog.StreamLog) -> None:
    topic = fill(log, 3)
    with log.consumer("t", auto_offset_reset="none") as consumer:
        consumer.seek(P0, 3)
        assert consumer.poll() == []
        topic.send("next").result()
        assert [record.value for record in consumer.poll(timeout=LONG)] == [b"next"]


def test_an_offset_out_of_range_is_reset_by_policy(log: streamlog.StreamLog) -> None:
    topic = fill(log, 5)
    topic.delete_records({0: 2})
    with log.consumer("t", auto_offset_reset="earliest") as consumer:
        consumer.seek(P0, 0)
        assert offsets_of(drain(consumer)) == [2, 3, 4]
        consumer.seek(P0, 100)
        assert offsets_of(drain(consumer)) == [2, 3, 4]
    with log.consumer("t", auto_offset_reset="latest") as consumer:
        consumer.seek(P0, 0)
        assert drain(consumer) == []
        assert consumer.position(P0) == 5


@pytest.mark.parametrize("offset", [0, 100])
def test_without_a_policy_an_offset_out_of_range_is_an_error_with_the_bounds(
    log: streamlog.StreamLog, offset: int
) -> None:
    fill(log, 5).delete_records({0: 2})
    with log.consumer("t", auto_offset_reset="none") as consumer:
        consumer.seek(P0, offset)
        with pytest.raises(OffsetOutOfRangeError) as raised:
            consumer.poll()
        assert (raised.value.log_start_offset, raised.value.log_end_offset) == (2, 5)
        consumer.seek(P0, 4)
        assert offsets_of(consumer.poll()) == [4]


@pytest.mark.damaged
def test_a_position_that_is_reset_is_not_kept_from_it_by_damage_elsewhere(
    open_log: Callable[..., streamlog.StreamLog], path: Path
) -> None:
    with open_log() as log:
        topic = fill(log, 3, partitions=3)
        topic.send("behind", partition=0)
        directory = f"{topic.id.hex}-0"
    segment = next((path / "topics" / directory).glob("*.log"))
    data = bytearray(segment.read_bytes())
    data[20] ^= 1  # in the first batch's header, so that it is not even found
    segment.write_bytes(data)
    with open_log() as log, log.consumer("t", on_corrupt="skip") as consumer:
        log["t"].delete_records({1: 2, 2: 2})
        for lost in (P1, TopicPartition("t", 2)):
            consumer.seek(lost, 0)
        assert sorted(record.value for record in drain(consumer)) == [b"1:2", b"2:2", b"behind"]


def test_a_negative_offset_is_refused_and_the_position_stays(log: streamlog.StreamLog) -> None:
    fill(log, 3)
    with log.consumer("t") as consumer:
        consumer.poll(max_records=1)
        with pytest.raises((ValueError, StreamlogError)):
            consumer.seek(P0, -1)
        assert consumer.position(P0) == 1


def test_a_partition_that_is_not_assigned_cannot_be_sought_or_paused(log: streamlog.StreamLog) -> None:
    fill(log, 3, partitions=2)
    with log.consumer() as consumer:
        consumer.assign([P0])
        for use in (lambda: consumer.seek(P1, 0), lambda: consumer.pause(P1), lambda: consumer.position(P1)):
            with pytest.raises((StreamlogError, LookupError, ValueError)):
                use()
        assert len(drain(consumer)) == 3


# Position


def test_position_follows_what_was_handed_out_never_what_was_prefetched(log: streamlog.StreamLog) -> None:
    fill(log, 1000)
    with log.consumer("t") as consumer:
        assert consumer.position(P0) == 0
        consumer.poll(max_records=2)
        assert consumer.position(P0) == 2
        next(consumer)
        assert consumer.position(P0) == 3
        for record in consumer.until_end():
            assert consumer.position(P0) == record.offset + 1
        assert consumer.position(P0) == 1000


def test_position_before_the_first_poll_is_where_reading_will_start(log: streamlog.StreamLog) -> None:
    fill(log, 4)
    with log.consumer("t", auto_offset_reset="latest") as consumer:
        assert consumer.position(P0) == 4
    with log.consumer("t") as consumer:
        assert consumer.position(P0) == 0


# Pausing


def test_a_paused_partition_hands_out_nothing_and_loses_nothing(log: streamlog.StreamLog) -> None:
    fill(log, 10, partitions=2)
    with log.consumer("t") as consumer:
        first = consumer.poll(max_records=1)
        consumer.pause(P0)
        assert consumer.paused() == {P0}
        meanwhile = drain(consumer)
        assert {record.partition for record in meanwhile} == {1}
        consumer.resume(P0)
        assert consumer.paused() == set()
        seen = first + meanwhile + drain(consumer)
    for partition in range(2):
        assert [record.offset for record in seen if record.partition == partition] == list(range(10))


def test_pause_and_resume_of_nothing_mean_all(log: streamlog.StreamLog) -> None:
    fill(log, 2, partitions=2)
    with log.consumer("t") as consumer:
        consumer.pause()
        assert consumer.paused() == consumer.assignment() == {P0, P1}
        assert consumer.poll() == []
        consumer.resume()
        assert len(drain(consumer)) == 4


def test_seeking_works_while_paused(log: streamlog.StreamLog) -> None:
    fill(log, 5)
    with log.consumer("t") as consumer:
        consumer.pause(P0)
        consumer.seek(P0, 3)
        assert consumer.poll() == []
        consumer.resume(P0)
        assert offsets_of(consumer.poll()) == [3, 4]


# Lag and bounds


def test_lag_is_counted_from_the_position(log: streamlog.StreamLog) -> None:
    topic = fill(log, 5, partitions=2)
    with log.consumer("t") as consumer:
        assert consumer.lag() == {P0: 5, P1: 5}
        consumer.seek(P0, 3)
        consumer.seek_to_end(P1)
        assert consumer.lag() == {P0: 2, P1: 0}
        topic.send("one more", partition=1).result()
        assert consumer.lag() == {P0: 2, P1: 1}


def test_beginning_and_end_offsets_of_all_assigned_or_of_any(log: streamlog.StreamLog) -> None:
    fill(log, 5, partitions=2).delete_records({1: 2})
    log.create_topic("other").send("x").result()
    with log.consumer("t") as consumer:
        assert consumer.beginning_offsets() == {P0: 0, P1: 2}
        assert consumer.end_offsets() == {P0: 5, P1: 5}
        assert consumer.beginning_offsets([P1]) == {P1: 2}
        assert consumer.end_offsets([TopicPartition("other", 0)]) == {TopicPartition("other", 0): 1}


def test_offsets_for_times_finds_the_first_record_at_or_after(log: streamlog.StreamLog, clock: ManualClock) -> None:
    topic = log.create_topic("t", partitions=2)
    start = clock.time_ms() - 100_000
    topic.send_many([str(n) for n in range(10)], partition=0, timestamps_ms=[start + n * 1000 for n in range(10)])
    with log.consumer("t") as consumer:
        found = consumer.offsets_for_times({P0: start + 2500, P1: start})
        assert found == {P0: OffsetAndTimestamp(3, start + 3000), P1: None}
        assert consumer.offsets_for_times({P0: start + 3000})[P0] == OffsetAndTimestamp(3, start + 3000)
        assert consumer.offsets_for_times({P0: 0})[P0] == OffsetAndTimestamp(0, start)
        assert consumer.offsets_for_times({P0: start + 9001})[P0] is None
        at = datetime.fromtimestamp(start // 1000, UTC) + timedelta(milliseconds=start % 1000 + 8000)
        assert consumer.offsets_for_times({P0: at})[P0] == OffsetAndTimestamp(8, start + 8000)
        consumer.poll(max_records=1)
        assert consumer.position(P0) == 1


def test_a_naive_datetime_is_refused(log: streamlog.StreamLog) -> None:
    fill(log, 1)
    with log.consumer("t") as consumer, pytest.raises(ValueError):
        consumer.offsets_for_times({P0: datetime(2026, 1, 1)})
