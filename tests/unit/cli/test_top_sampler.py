"""Rates, histories and lag that `streamlog top` makes of samples, with numbers that are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

import pytest

from streamlog import TopicPartition
from streamlog.cli.top.sampler import (
    GROUP_RATE_S,
    HISTORY,
    RATE_S,
    Ends,
    Frame,
    GroupRow,
    GroupSample,
    Sample,
    Sampler,
    TopicRow,
    TopicSample,
    catch_up_s,
)


def ends(*offsets: int, start: int = 0, size: int | None = None) -> list[Ends | None]:
    """Partitions with these log end offsets, whose records have ten bytes each."""
    return [(start, end, 10 * (end - start) if size is None else size) for end in offsets]


def sample(
    at_s: float,
    topics: Mapping[str, TopicSample],
    groups: Mapping[str, GroupSample] | None = None,
    names: Sequence[str] | None = None,
) -> Sample:
    groups = groups or {}
    return Sample(at_s, round(at_s * 1000), topics, groups, list(groups) if names is None else names)


def topic_row(frame: Frame, name: str = "t") -> TopicRow:
    [row] = [row for row in frame.topics if row.name == name]
    return row


def group_row(frame: Frame, name: str = "g") -> GroupRow:
    [row] = [row for row in frame.groups if row.name == name]
    return row


def test_the_first_sample_has_sizes_and_no_rates() -> None:
    frame = Sampler().add(sample(5.0, {"t": TopicSample(1, ends(100, 20))}))
    row = topic_row(frame)
    assert (row.partitions, row.records, row.size_bytes) == (2, 120, 1200)
    assert (row.records_s, row.bytes_s, list(row.history)) == (None, None, [])
    assert (frame.total.records_s, frame.total.records) == (None, 120)


@pytest.mark.parametrize("elapsed_s", [0.5, 2.0, 7.0])
def test_a_rate_is_over_the_time_that_has_passed(elapsed_s: float) -> None:
    sampler = Sampler()
    sampler.add(sample(1.0, {"t": TopicSample(1, ends(100, 0))}))
    frame = sampler.add(sample(1.0 + elapsed_s, {"t": TopicSample(1, ends(150, 20))}))
    row = topic_row(frame)
    assert row.records_s == pytest.approx(70 / elapsed_s)
    assert row.bytes_s == pytest.approx(700 / elapsed_s)
    assert list(row.history) == [pytest.approx(70 / elapsed_s)]
    assert frame.total.records_s == row.records_s and list(frame.total.history) == list(row.history)


def test_a_rate_is_the_mean_of_the_last_seconds_and_ends_with_them() -> None:
    sampler = Sampler()
    for second in range(3):
        sampler.add(sample(second, {"t": TopicSample(1, ends(100 * second))}))
    idle = {"t": TopicSample(1, ends(200))}
    rates = [topic_row(sampler.add(sample(s, idle))).records_s or 0.0 for s in range(3, 4 + int(RATE_S))]
    assert rates[0] == pytest.approx(200 / 3)
    assert rates[-1] == 0.0
    assert rates == sorted(rates, reverse=True)


def test_intervals_of_unequal_length_count_by_their_length() -> None:
    sampler = Sampler()
    for at_s, end in ((0.0, 0), (1.0, 100), (5.0, 100), (6.0, 200)):
        frame = sampler.add(sample(at_s, {"t": TopicSample(1, ends(end))}))
    assert topic_row(frame).records_s == pytest.approx(200 / 6)


def test_a_topic_that_appears_later_has_the_rate_of_its_own_time() -> None:
    sampler = Sampler()
    for second in range(5):
        sampler.add(sample(second, {}))
    sampler.add(sample(5, {"t": TopicSample(1, ends(1000))}))
    assert topic_row(sampler.add(sample(6, {"t": TopicSample(1, ends(1050))}))).records_s == 50.0


def test_a_truncated_partition_has_no_rate_below_zero() -> None:
    sampler = Sampler()
    sampler.add(sample(0, {"t": TopicSample(1, ends(100, 100))}))
    row = topic_row(sampler.add(sample(1, {"t": TopicSample(1, ends(40, 110))})))
    assert (row.records_s, row.bytes_s) == (10.0, 100.0)
    assert topic_row(sampler.add(sample(2, {"t": TopicSample(1, ends(50, 110))}))).records_s == 10.0


def test_a_topic_that_was_created_again_begins_anew() -> None:
    sampler = Sampler()
    sampler.add(sample(0, {"t": TopicSample("first", ends(100))}))
    sampler.add(sample(1, {"t": TopicSample("first", ends(200))}))
    row = topic_row(sampler.add(sample(2, {"t": TopicSample("second", ends(900))})))
    assert (row.records_s, list(row.history)) == (None, [])
    assert topic_row(sampler.add(sample(3, {"t": TopicSample("second", ends(901))}))).records_s == 1.0


def test_a_deleted_topic_is_forgotten() -> None:
    sampler = Sampler()
    sampler.add(sample(0, {"t": TopicSample(1, ends(100))}))
    assert not sampler.add(sample(1, {})).topics
    assert topic_row(sampler.add(sample(2, {"t": TopicSample(1, ends(500))}))).records_s is None


def test_bytes_that_retention_deletes_are_not_taken_from_the_rate() -> None:
    sampler = Sampler()
    sampler.add(sample(0, {"t": TopicSample(1, [(0, 100, 1000)])}))
    # 80 were deleted and 30 written: 50 records of 10 bytes are left
    row = topic_row(sampler.add(sample(1, {"t": TopicSample(1, [(80, 130, 500)])})))
    assert (row.records_s, row.bytes_s, row.records) == (30.0, 300.0, 50)
    # compacted: smaller without a new start
    assert topic_row(sampler.add(sample(2, {"t": TopicSample(1, [(80, 140, 120)])}))).bytes_s == (300 + 20) / 2


def test_partitions_that_are_added_or_cannot_be_read_do_no_harm() -> None:
    sampler = Sampler()
    sampler.add(sample(0, {"t": TopicSample(1, [None, (0, 10, 100)])}))
    row = topic_row(sampler.add(sample(1, {"t": TopicSample(1, [(0, 500, 5000), (0, 12, 120), (0, 7, 70)])})))
    assert (row.partitions, row.records, row.records_s) == (3, 519, 2.0)
    assert topic_row(sampler.add(sample(2, {"t": TopicSample(1, [None, None, None])}))).records == 0


def test_a_second_sample_of_the_same_time_changes_no_rate() -> None:
    sampler = Sampler()
    sampler.add(sample(0, {"t": TopicSample(1, ends(0))}))
    sampler.add(sample(1, {"t": TopicSample(1, ends(10))}))
    row = topic_row(sampler.add(sample(1, {"t": TopicSample(1, ends(10))})))
    assert (row.records_s, len(row.history)) == (10.0, 1)


def test_histories_are_bounded_and_those_of_idle_topics_empty() -> None:
    sampler = Sampler()
    for second in range(3 * HISTORY):
        frame = sampler.add(
            sample(
                second,
                {"busy": TopicSample(1, ends(second * second)), "idle": TopicSample(2, ends(5))},
                {"g": GroupSample("Stable", 1, {TopicPartition("busy", 0): 0}, frozenset({"busy"}))},
            )
        )
    busy = topic_row(frame, "busy")
    last = 3 * HISTORY - 1
    assert list(busy.history) == [2.0 * second - 1 for second in range(last - HISTORY + 1, last + 1)]
    assert len(frame.total.history) == len(group_row(frame).history) == HISTORY
    assert list(topic_row(frame, "idle").history) == []
    for second in range(3 * HISTORY, 4 * HISTORY):
        frame = sampler.add(sample(second, {"busy": TopicSample(1, ends(last * last))}))
    assert (list(topic_row(frame, "busy").history), list(frame.total.history)) == ([], [])


def test_topics_are_in_the_order_of_their_rates_and_hidden_ones_are_left_out() -> None:
    sampler = Sampler()
    for second in range(2):
        frame = sampler.add(
            sample(
                second,
                {
                    "a": TopicSample(1, ends(0)),
                    "b": TopicSample(2, ends(10 * second)),
                    "c": TopicSample(3, ends(20 * second)),
                    "d": TopicSample(4, ends(0)),
                    "hidden": TopicSample(5, ends(1000 * second), is_shown=False),
                },
            )
        )
    assert [row.name for row in frame.topics] == ["c", "b", "a", "d"]
    assert (frame.total.records_s, list(frame.total.history)) == (30.0, [30.0])


# Groups


def group(committed: Mapping[int, int], *, members: int = 1, topic: str = "t") -> GroupSample:
    at = {TopicPartition(topic, number): offset for number, offset in committed.items()}
    return GroupSample("Stable", members, at, frozenset({topic}))


def test_lag_counts_from_what_is_committed_or_else_from_the_log_start() -> None:
    topics = {"t": TopicSample(1, [(10, 100, 0), (20, 50, 0), None])}
    frame = Sampler().add(sample(0, topics, {"g": group({0: 70})}))
    row = group_row(frame)
    assert (row.lag, list(row.lag_by_topic), row.records_s, row.catch_up_s) == (60, [("t", 60)], None, None)


def test_a_committed_offset_that_was_deleted_counts_from_the_log_start() -> None:
    row = group_row(Sampler().add(sample(0, {"t": TopicSample(1, [(50, 100, 0)])}, {"g": group({0: 3})})))
    assert row.lag == 50


def test_lag_is_shown_by_topic_the_greatest_first_and_without_deleted_topics() -> None:
    topics = {"a": TopicSample(1, ends(10)), "b": TopicSample(2, ends(30))}
    found = GroupSample(
        "Empty", 0, {TopicPartition("a", 0): 4, TopicPartition("gone", 0): 4}, frozenset("ab") | {"gone"}
    )
    row = group_row(Sampler().add(sample(0, topics, {"g": found})))
    assert (row.lag, list(row.lag_by_topic)) == (36, [("b", 30), ("a", 6)])


def test_a_group_s_rate_is_what_it_commits_and_a_reset_back_is_none() -> None:
    sampler = Sampler()
    topics = {"t": TopicSample(1, ends(1000))}
    for at_s, committed in ((0.0, 100), (2.0, 180), (4.0, 0), (5.0, 20)):
        row = group_row(sampler.add(sample(at_s, topics, {"g": group({0: committed})})))
    assert row.records_s == pytest.approx(100 / 5)
    assert list(row.history) == [900, 820, 1000, 980]


def test_before_the_first_commit_is_seen_a_group_with_members_is_not_said_to_stand_still() -> None:
    sampler = Sampler()
    topics = {"t": TopicSample(1, ends(1000))}
    seen = []
    for second in range(8):
        groups = {"g": group({0: 100}), "idle": group({0: 100}, members=0)}
        frame = sampler.add(sample(second, topics, groups))
        seen.append([(row.records_s, row.catch_up_s) for row in (group_row(frame), group_row(frame, "idle"))])
    assert seen[0] == [(None, None), (None, None)]
    assert seen[1] == seen[5] == [(None, None), (0.0, inf)]
    assert seen[6] == seen[7] == [(0.0, inf), (0.0, inf)]


def test_a_group_s_rate_forgets_what_was_long_ago() -> None:
    sampler = Sampler()
    topics = {"t": TopicSample(1, ends(1000))}
    sampler.add(sample(0, topics, {"g": group({0: 0})}))
    sampler.add(sample(1, topics, {"g": group({0: 600})}))
    for second in range(2, 3 + int(GROUP_RATE_S)):
        row = group_row(sampler.add(sample(second, topics, {"g": group({0: 600})})))
    assert (row.records_s, row.catch_up_s) == (0.0, inf)


def test_a_group_that_was_not_looked_at_this_time_is_shown_as_it_was() -> None:
    sampler = Sampler()
    topics = {"t": TopicSample(1, ends(100))}
    sampler.add(sample(0, topics, {"g": group({0: 40}), "h": group({0: 90})}))
    frame = sampler.add(sample(1, topics, {"h": group({0: 95})}, names=["g", "h"]))
    assert [(row.name, row.lag) for row in frame.groups] == [("g", 60), ("h", 5)]
    assert group_row(sampler.add(sample(2, topics, {"g": group({0: 60})}, names=["g"]))).records_s == 10.0


def test_a_group_that_is_gone_is_forgotten() -> None:
    sampler = Sampler()
    topics = {"t": TopicSample(1, ends(100))}
    sampler.add(sample(0, topics, {"g": group({0: 40})}))
    assert not sampler.add(sample(1, topics)).groups
    assert group_row(sampler.add(sample(2, topics, {"g": group({0: 60})}))).records_s is None


@pytest.mark.parametrize(
    ("past", "expected"),
    [
        ([(0.0, 0, 500)], None),
        ([(0.0, 0, 500), (1.0, 0, 0)], 0.0),
        ([(0.0, 0, 500), (1.0, 0, 500)], inf),
        ([(0.0, 0, 500), (1.0, 100, 900)], inf),
        ([(0.0, 0, 10_000), (1.0, 300, 9_900), (2.0, 600, 9_800)], 98.0),
        # It commits 1,000 every five seconds, and 200 come in a second: caught up, though the lag is never 0 when it is looked at.
        ([(float(s), s // 5 * 1000, s % 5 * 200 + 100) for s in range(30)], 0.0),
        # The same, and a backlog of 30,000 that gets 50 less in a second.
        ([(float(s), s // 5 * 1250, 30_000 + s * 200 - s // 5 * 1250) for s in range(30)], pytest.approx(590, rel=0.2)),
        ([(1.0, 0, 5), (1.0, 0, 5)], None),
    ],
)
def test_when_a_group_catches_up(past: list[tuple[float, int, int]], expected: float | None) -> None:
    assert catch_up_s(past) == expected
