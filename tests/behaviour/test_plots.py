"""Plots of a topic and a group: bounded, complete, and in Vega-Lite that its schema accepts."""

from __future__ import annotations

import random
import sys
from typing import Any

import pytest

import streamlog
from streamlog import ConfigError, MissingExtraError
from tests.times import START_MS

altair = pytest.importorskip("altair")
pytest.importorskip("pyarrow")


def rows(chart: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = chart.to_dict()["data"]["values"]  # to_dict validates it
    return found


def test_records_over_time_has_each_record_once(log: streamlog.StreamLog, rng: random.Random) -> None:
    topic = log.create_topic("t", partitions=3)
    for partition in range(3):
        times = [START_MS + rng.randrange(1_000_000) for _ in range(1_000)]
        topic.send_many([b"x"] * 1_000, partition=partition, timestamps_ms=times)
    for bins in (1, 7, 100, 1_000):
        found = rows(topic.plot_records(bins))
        assert len({row["from"] for row in found}) <= bins
        for partition in range(3):
            assert sum(row["records"] for row in found if row["partition"] == partition) == 1_000
        assert all(row["from"] < row["to"] for row in found)


def test_no_plot_has_more_than_five_thousand_rows(log: streamlog.StreamLog) -> None:
    topic = log.create_topic("t", partitions=60)
    for partition in range(60):
        topic.send_many([b"x"] * 100, partition=partition, timestamps_ms=[START_MS + n for n in range(100)])
    found = rows(topic.plot_records(100))
    assert len(found) == 100
    assert sum(row["records"] for row in found) == 6_000
    assert len(rows(topic.plot_sizes())) == 60


def test_any_timestamp_can_be_shown(log: streamlog.StreamLog) -> None:
    topic = log.create_topic("t", message_timestamp_after_max_ms=None)
    topic.send_many([b"x"] * 3, timestamps_ms=[0, START_MS, (1 << 62) - 1])
    assert sum(row["records"] for row in rows(topic.plot_records())) == 3


def test_an_empty_topic_is_an_empty_plot(log: streamlog.StreamLog) -> None:
    topic = log.create_topic("t")
    assert rows(topic.plot_records()) == []
    assert [row["records"] for row in rows(topic.plot_sizes())] == [0]


def test_sizes_are_those_of_the_partitions(log: streamlog.StreamLog) -> None:
    topic = log.create_topic("t", partitions=2)
    topic.send_many([bytes(1_000)] * 10, partition=1)
    assert [row["bytes"] for row in rows(topic.plot_sizes())] == [topic.partition(n).size_bytes for n in range(2)]


def test_lag_is_that_of_the_group(log: streamlog.StreamLog) -> None:
    topic = log.create_topic("t", partitions=2)
    topic.send_many([b"x"] * 10, partition=1)
    with log.consumer("t", group="g") as consumer:
        assert len(consumer.poll(max_records=4)) == 4
        consumer.commit()
    assert rows(log.group("g").plot_lag()) == [
        {"topic": "t", "partition": 0, "lag": 0},
        {"topic": "t", "partition": 1, "lag": 6},
    ]


@pytest.mark.parametrize("bins", [0, -1, 5_001, 2.5, "many"])
def test_a_number_of_spans_that_cannot_be_is_refused(log: streamlog.StreamLog, bins: Any) -> None:
    with pytest.raises(ConfigError, match="bins"):
        log.create_topic("t").plot_records(bins)


def test_without_altair_the_message_says_what_to_install(
    log: streamlog.StreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = log.create_topic("t")
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'streamlog-py\[notebook\]'"):
        topic.plot_sizes()
