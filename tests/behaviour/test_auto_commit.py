"""Auto-commit never commits a record that the program has not finished."""

from __future__ import annotations

import gc
import logging
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import (
    CommitFailedError,
    DeserializationError,
    OffsetAndMetadata,
    SerializationError,
    StreamlogError,
    TopicPartition,
)
from streamlog.testing import ManualClock
from tests.contents import fill
from tests.times import LONG

from .member_time import Liveness

P0, P1 = TopicPartition("t", 0), TopicPartition("t", 1)


class Trouble(Exception):
    """What a handler raises here."""


def committed(log: streamlog.StreamLog, partition: TopicPartition = P0) -> int | None:
    return log.group("g").committed().get(partition)


def consumer_of(log: streamlog.StreamLog, **config: Any) -> streamlog.Consumer[Any, Any]:
    return log.consumer("t", group="g", **config)


# In a for loop a record is finished when the next is asked for.


def test_in_a_for_loop_a_record_is_finished_when_the_next_is_asked_for(log: streamlog.StreamLog) -> None:
    fill(log, 6)
    consumer = consumer_of(log)
    for record in consumer:
        if record.offset == 2:
            break
    consumer.close()
    assert committed(log) == 2


def test_a_loop_that_is_left_with_its_first_record_in_hand_has_finished_none(log: streamlog.StreamLog) -> None:
    fill(log, 6)
    consumer = consumer_of(log)
    next(consumer)
    consumer.close()
    assert committed(log) == 0


def test_until_end_finishes_its_last_record_when_it_is_asked_for_more(log: streamlog.StreamLog) -> None:
    fill(log, 6)
    consumer = consumer_of(log)
    assert len(list(consumer.until_end())) == 6
    consumer.close()
    assert committed(log) == 6


def test_until_end_left_early_does_not_finish_the_record_in_hand(log: streamlog.StreamLog) -> None:
    fill(log, 6)
    consumer = consumer_of(log)
    for record in consumer.until_end():
        if record.offset == 3:
            break
    consumer.close()
    assert committed(log) == 3


def test_a_stopped_loop_has_finished_its_last_record(log: streamlog.StreamLog) -> None:
    fill(log, 6)
    consumer = consumer_of(log)
    for record in consumer:
        if record.offset == 2:
            consumer.stop()
    consumer.close()
    assert committed(log) == 3


# After poll, at the next poll.


def test_polled_records_are_finished_at_the_next_poll(log: streamlog.StreamLog) -> None:
    fill(log, 6)
    consumer = consumer_of(log)
    consumer.poll(max_records=3)
    consumer.poll(max_records=2)
    consumer.close()
    assert committed(log) == 3


def test_an_empty_poll_finishes_too(log: streamlog.StreamLog) -> None:
    fill(log, 6)
    consumer = consumer_of(log)
    assert len(consumer.poll()) == 6
    assert consumer.poll() == []
    consumer.close()
    assert committed(log) == 6


def test_polled_batches_are_finished_at_the_next_poll(log: streamlog.StreamLog) -> None:
    fill(log, 6)
    consumer = consumer_of(log)
    consumer.poll_batches(max_records=3)
    consumer.poll_batches(max_records=2)
    consumer.close()
    assert committed(log) == 3


def test_a_poll_after_a_loop_finishes_the_record_of_the_loop(log: streamlog.StreamLog) -> None:
    fill(log, 6)
    consumer = consumer_of(log)
    next(consumer)
    next(consumer)
    consumer.poll(max_records=1)
    consumer.close()
    assert committed(log) == 2


def test_records_of_a_poll_that_was_not_finished_are_delivered_again(log: streamlog.StreamLog) -> None:
    fill(log, 6)
    consumer = consumer_of(log)
    consumer.poll(max_records=4)
    consumer.close()
    with consumer_of(log) as again:
        assert [record.offset for record in again.poll()] == [0, 1, 2, 3, 4, 5]


# Blocks and close.


def test_a_block_that_ends_well_finishes_everything_handed_out(log: streamlog.StreamLog) -> None:
    fill(log, 6)
    with consumer_of(log) as consumer:
        consumer.poll(max_records=4)
    assert committed(log) == 4


def test_a_block_that_ends_well_finishes_the_record_in_hand_of_a_loop_and_no_prefetched_one(
    log: streamlog.StreamLog,
) -> None:
    fill(log, 6)
    with consumer_of(log) as consumer:
        for record in consumer:
            if record.offset == 2:
                break
    assert committed(log) == 3


@pytest.mark.parametrize("error", [Trouble, KeyboardInterrupt, SystemExit])
def test_a_block_that_ends_with_an_exception_does_not_finish_the_record_in_hand(
    log: streamlog.StreamLog, error: type[BaseException]
) -> None:
    fill(log, 6)
    with pytest.raises(error), consumer_of(log) as consumer:
        for record in consumer:
            if record.offset == 2:
                raise error
    assert committed(log) == 2


def test_an_exception_after_a_poll_leaves_all_its_records_unfinished(log: streamlog.StreamLog) -> None:
    fill(log, 6)
    with pytest.raises(Trouble), consumer_of(log) as consumer:
        consumer.poll(max_records=2)
        consumer.poll(max_records=2)
        raise Trouble
    assert committed(log) == 2


def test_closing_the_log_is_a_bare_close(tmp_path: Path, clock: ManualClock) -> None:
    log = streamlog.open(tmp_path / "data", clock=clock)
    fill(log, 6)
    consumer = consumer_of(log)
    consumer.poll(max_records=2)
    consumer.poll(max_records=2)
    log.close()
    with streamlog.open(tmp_path / "data", clock=clock) as again:
        assert committed(again) == 2


@pytest.mark.parametrize("reset", ["earliest", "latest"])
def test_nothing_handed_out_commits_the_position_that_was_established(log: streamlog.StreamLog, reset: Any) -> None:
    """So whatever its settings are, the next member goes on there."""
    log.create_topic("t")
    with consumer_of(log, auto_offset_reset=reset) as consumer:
        assert consumer.poll() == []
    assert committed(log) == 0
    log["t"].send(b"live")
    with consumer_of(log, auto_offset_reset="latest") as consumer:
        assert [record.value for record in consumer.poll()] == [b"live"]


def test_a_forgotten_consumer_does_not_finish_what_it_had_in_hand(log: streamlog.StreamLog) -> None:
    fill(log, 6)
    consumer = consumer_of(log)
    consumer.poll(max_records=2)
    consumer.poll(max_records=2)
    with pytest.warns(ResourceWarning):
        del consumer
        gc.collect()
    assert committed(log) in (None, 2)
    with consumer_of(log) as again:
        assert [record.offset for record in again.poll()][-4:] == [2, 3, 4, 5]


class Cancelled(BaseException):
    """What a program raises to end a call; no exception of Python's, and none of ours."""


# The last three may be a deserializer's own failure: they come as a DeserializationError after the records before.
RAISED = [KeyboardInterrupt, SystemExit, Cancelled, GeneratorExit, MemoryError, TimeoutError, Trouble]
HOW = ["poll", "batches", "iteration", "until_end"]


def raising_once(error: type[BaseException], at: int) -> Callable[[bytes], int]:
    """A deserializer of ints that raises `error` the first time it meets `at`."""
    left = [at]

    def deserialize(value: bytes) -> int:
        if int(value) in left:
            left.clear()
            raise error
        return int(value)

    return deserialize


def in_batches(log: streamlog.StreamLog, partitions: int = 1) -> None:
    """The numbers 0 to 8 in each partition, three to a batch."""
    topic = log.create_topic("t", partitions=partitions)
    for batch in range(3):
        for partition in range(partitions):
            topic.send_many([str(3 * batch + n) for n in range(3)], partition=partition).result()


def read_into(seen: list[Any], consumer: streamlog.Consumer[Any, Any], how: str, total: int) -> None:
    """Read `total` records in one of the ways there are, writing down what is handed out when it is."""
    if how == "poll":
        while records := consumer.poll():
            seen += [(record.partition, record.value) for record in records]
    elif how == "batches":
        while batches := consumer.poll_batches():
            seen += [(batch.partition, value) for batch in batches for value in batch.values]
    elif how == "iteration":
        while len(seen) < total:
            record = next(consumer)
            seen.append((record.partition, record.value))
    else:
        for record in consumer.until_end():
            seen.append((record.partition, record.value))


@pytest.mark.parametrize("error", RAISED)
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("at", [0, 1, 4, 7])
def test_a_block_commits_no_more_than_was_handed_out_whatever_ends_it(
    log: streamlog.StreamLog, how: str, at: int, error: type[BaseException]
) -> None:
    in_batches(log)
    deserialize = raising_once(error, at)
    seen: list[Any] = []
    with suppress(error, DeserializationError), consumer_of(log, value_deserializer=deserialize) as consumer:
        read_into(seen, consumer, how, 9)
    handled = committed(log) or 0
    assert handled <= len(seen)
    with consumer_of(log, value_deserializer=deserialize) as consumer:
        assert [record.value for record in consumer.until_end()] == list(range(handled, 9))


@pytest.mark.parametrize("error", RAISED)
@pytest.mark.parametrize("how", ["poll", "iteration", "until_end"])
@pytest.mark.parametrize("at", [0, 1, 4, 7])
def test_the_same_consumer_goes_on_after_any_exception_with_what_it_had_not_handed_out(
    log: streamlog.StreamLog, how: str, at: int, error: type[BaseException]
) -> None:
    in_batches(log, partitions=2)
    seen: list[Any] = []
    with consumer_of(log, value_deserializer=raising_once(error, at), auto_commit_interval_ms=0) as consumer:
        with suppress(error, DeserializationError):
            read_into(seen, consumer, how, 18)
        for partition, offset in log.group("g").committed().items():
            assert offset <= len([number for number, _ in seen if number == partition.partition])
        read_into(seen, consumer, how, 18)
    assert sorted(seen) == [(partition, n) for partition in range(2) for n in range(9)]
    assert log.group("g").committed() == {P0: 9, P1: 9}


def test_a_poll_that_raised_counts_as_nothing_for_positions_and_commits(log: streamlog.StreamLog) -> None:
    in_batches(log)
    with consumer_of(log, value_deserializer=raising_once(SystemExit, 7)) as consumer:
        assert len(consumer.poll(max_records=2)) == 2
        with pytest.raises(SystemExit):
            consumer.poll()
        assert (consumer.position(P0), consumer.lag()) == (2, {P0: 7})
        consumer.commit()
        assert committed(log) == 2
        assert [record.value for record in consumer.poll()] == [2, 3, 4, 5, 6, 7, 8]


def test_a_record_that_a_deserializer_refuses_with_an_error_of_ours_does_not_bring_back_those_before(
    log: streamlog.StreamLog,
) -> None:
    in_batches(log)

    def deserialize(value: bytes) -> int:
        if int(value) == 5:
            raise SerializationError("five is refused")
        return int(value)

    with consumer_of(log, value_deserializer=deserialize) as consumer:
        assert [record.value for record in consumer.poll()] == [0, 1, 2, 3, 4]
        for _ in range(2):
            with pytest.raises(SerializationError):
                consumer.poll()
        consumer.seek(P0, 6)
        assert [record.value for record in consumer.poll()] == [6, 7, 8]


# Explicit commits.


def test_commit_commits_everything_handed_out_and_no_prefetched_record(log: streamlog.StreamLog) -> None:
    fill(log, 6, partitions=2)
    consumer = consumer_of(log)
    handed_out = consumer.poll(max_records=2) + consumer.poll(max_records=7)
    consumer.commit()
    last = {record.topic_partition: record.offset + 1 for record in handed_out}
    assert log.group("g").committed() == last
    consumer.close()
    assert log.group("g").committed() == last


def test_commit_in_a_for_loop_includes_the_record_in_hand(log: streamlog.StreamLog) -> None:
    fill(log, 6)
    consumer = consumer_of(log)
    for record in consumer:
        if record.offset == 2:
            consumer.commit()
            break
    consumer.close()
    assert committed(log) == 3


def test_commit_of_a_record_commits_through_it_and_its_partition_alone(log: streamlog.StreamLog) -> None:
    fill(log, 6, partitions=2)
    consumer = consumer_of(log, enable_auto_commit=False)
    records = list(consumer.until_end())
    third = next(record for record in records if (record.partition, record.offset) == (1, 2))
    consumer.commit(third)
    assert log.group("g").committed() == {P1: 3}
    consumer.close()


def test_a_record_committed_by_itself_counts_as_finished(log: streamlog.StreamLog) -> None:
    fill(log, 6)
    consumer = consumer_of(log)
    records = consumer.poll()
    consumer.commit(records[3])
    consumer.close()
    assert committed(log) == 4


def test_explicit_offsets_are_the_next_to_read_and_keys_may_be_tuples(log: streamlog.StreamLog) -> None:
    fill(log, 6, partitions=2)
    with consumer_of(log, enable_auto_commit=False) as consumer:
        consumer.poll(max_records=1)
        consumer.commit({P0: 5})
        consumer.commit({("t", 1): 2})  # type: ignore[dict-item]
        assert (consumer.committed(P0), consumer.committed(P1)) == (5, 2)
    with consumer_of(log) as again:
        offsets = [(record.partition, record.offset) for record in again.until_end()]
    assert sorted(offsets) == [(0, 5), (1, 2), (1, 3), (1, 4), (1, 5)]


def test_metadata_is_kept_beside_the_offset(log: streamlog.StreamLog) -> None:
    fill(log, 6)
    with consumer_of(log, enable_auto_commit=False) as consumer:
        consumer.poll()
        consumer.commit({P0: OffsetAndMetadata(4, "half of it")})
    found = log.group("g").offsets()[P0]
    assert (found.offset, found.metadata) == (4, "half of it")
    assert committed(log) == 4


def test_committed_is_none_until_something_is(log: streamlog.StreamLog) -> None:
    fill(log, 6, partitions=2)
    with consumer_of(log, enable_auto_commit=False) as consumer:
        assert consumer.committed(P0) is None
        consumer.poll()
        consumer.commit({P1: 1})
        assert (consumer.committed(P0), consumer.committed(P1)) == (None, 1)


@pytest.mark.parametrize("offsets", [{P0: -1}, {TopicPartition("nowhere", 0): 1}, {TopicPartition("t", 9): 1}])
def test_a_commit_that_makes_no_sense_is_refused_and_changes_nothing(
    log: streamlog.StreamLog, offsets: dict[TopicPartition, int]
) -> None:
    fill(log, 6)
    with consumer_of(log, enable_auto_commit=False) as consumer:
        consumer.poll()
        consumer.commit({P0: 2})
        with pytest.raises((StreamlogError, ValueError)):
            consumer.commit(offsets)
        assert log.group("g").committed() == {P0: 2}


# When auto-commit commits.


def test_auto_commit_commits_what_is_finished_once_the_interval_is_over(log: streamlog.StreamLog) -> None:
    fill(log, 6)
    with consumer_of(log, auto_commit_interval_ms=0) as consumer:
        consumer.poll(max_records=2)
        assert committed(log) is None
        consumer.poll(max_records=2)
        assert committed(log) == 2
        consumer.poll(max_records=2)
        assert committed(log) == 4


def test_auto_commit_does_not_commit_before_the_interval_is_over(log: streamlog.StreamLog) -> None:
    fill(log, 6)
    with consumer_of(log, auto_commit_interval_ms=3_600_000) as consumer:
        for _ in range(6):
            consumer.poll(max_records=1)
        assert committed(log) is None
    assert committed(log) == 6


def test_auto_commit_in_a_for_loop_never_commits_the_record_in_hand(log: streamlog.StreamLog) -> None:
    fill(log, 6)
    with consumer_of(log, auto_commit_interval_ms=0) as consumer:
        for record in consumer.until_end():
            assert (committed(log) or 0) <= record.offset


def test_without_auto_commit_only_explicit_commits_count(log: streamlog.StreamLog) -> None:
    fill(log, 6)
    with consumer_of(log, enable_auto_commit=False, auto_commit_interval_ms=0) as consumer:
        for _ in range(6):
            consumer.poll(max_records=1)
        assert committed(log) is None
    assert committed(log) is None
    with consumer_of(log, enable_auto_commit=False) as consumer:
        consumer.poll(max_records=2)
        consumer.commit()
        consumer.poll(max_records=2)
    assert committed(log) == 2


def test_committing_each_record_by_hand_never_loses_or_repeats_one(log: streamlog.StreamLog) -> None:
    fill(log, 6)
    seen: list[int] = []
    while len(seen) < 6:
        consumer = consumer_of(log, enable_auto_commit=False)
        record = next(consumer)
        seen.append(record.offset)
        consumer.commit(record)
        consumer.close()
    assert seen == [0, 1, 2, 3, 4, 5]


# Losing the partition.


def lose_partition(log: streamlog.StreamLog, **config: Any) -> tuple[Any, Any]:
    """A consumer with two records in hand whose partition went to the other one: its polling thread died."""
    loser = consumer_of(log, **config)
    polling = threading.Thread(target=lambda: loser.poll(max_records=2))
    polling.start()
    polling.join(LONG)
    winner = consumer_of(log, enable_auto_commit=False)
    assert [record.offset for record in winner.poll(timeout=LONG)] == [0, 1, 2, 3, 4, 5]
    assert winner.assignment() == {P0}
    return loser, winner


@pytest.mark.parametrize("auto", [True, False])
def test_an_explicit_commit_of_a_lost_partition_fails_and_commits_nothing(log: streamlog.StreamLog, auto: bool) -> None:
    fill(log, 6)
    loser, winner = lose_partition(log, enable_auto_commit=auto)
    for offsets in (None, {P0: 2}):
        with pytest.raises(CommitFailedError):
            loser.commit(offsets)
    assert committed(log) is None
    winner.commit()
    assert committed(log) == 6
    winner.close()
    loser.close()
    assert committed(log) == 6


def test_auto_commit_of_a_lost_partition_warns_and_rejoins(
    log: streamlog.StreamLog, caplog: pytest.LogCaptureFixture
) -> None:
    fill(log, 6)
    loser, winner = lose_partition(log)
    winner.commit()
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.WARNING, logger="streamlog"):
        warnings.simplefilter("always")
        assert loser.poll() == []
    logged = [entry for entry in caplog.records if entry.name.startswith("streamlog")]
    assert caught or logged
    assert committed(log) == 6
    # It is a member again, and takes over when the other one leaves.
    assert len(log.group("g").members()) == 2
    winner.close()
    log["t"].send("new").result()
    assert [record.value for record in loser.poll(timeout=LONG)] == [b"new"]
    loser.close()


def test_a_member_that_was_evicted_for_not_polling_cannot_commit(log: streamlog.StreamLog) -> None:
    fill(log, 6)
    liveness = Liveness(log)
    stuck = consumer_of(log, max_poll_interval_ms=1_000)
    assert len(stuck.poll()) == 6
    liveness.pass_ms(1_000)
    with consumer_of(log) as other:
        assert len(other.poll()) == 6
        with pytest.raises(CommitFailedError):
            stuck.commit()
        stuck.close()
    assert committed(log) == 6


def test_a_block_around_a_lost_partition_ends_quietly(log: streamlog.StreamLog) -> None:
    fill(log, 6)
    loser, winner = lose_partition(log)
    winner.commit()
    with loser:
        pass
    assert loser.closed
    assert committed(log) == 6
    winner.close()


# Coming back.


def test_commits_come_back_after_reopening(tmp_path: Path, clock: ManualClock) -> None:
    with streamlog.open(tmp_path / "data", clock=clock) as log:
        fill(log, 6, partitions=2)
        with consumer_of(log, enable_auto_commit=False) as consumer:
            consumer.poll()
            consumer.commit({P0: OffsetAndMetadata(2, "note"), P1: OffsetAndMetadata(6, "")})
    for _ in range(2):
        with streamlog.open(tmp_path / "data", clock=clock) as log:
            assert log.group("g").committed() == {P0: 2, P1: 6}
            assert log.group("g").offsets()[P0].metadata == "note"
            assert [group.name for group in log.groups()] == ["g"]
            with consumer_of(log, enable_auto_commit=False) as consumer:
                assert [(r.partition, r.offset) for r in consumer.until_end()] == [(0, n) for n in range(2, 6)]


def test_many_commits_come_back_as_the_last_of_each(tmp_path: Path, clock: ManualClock) -> None:
    with streamlog.open(tmp_path / "data", clock=clock) as log:
        fill(log, 300, partitions=2)
        with consumer_of(log) as consumer:
            for record in consumer.until_end():
                consumer.commit(record)
    with streamlog.open(tmp_path / "data", clock=clock) as log:
        assert log.group("g").committed() == {P0: 300, P1: 300}
