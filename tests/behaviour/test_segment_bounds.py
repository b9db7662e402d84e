"""Segments are bounded, however large the call that wrote them: so a small retention bound really bounds."""

from __future__ import annotations

from typing import Any

import pytest

from streamlog import SegmentInfo, StreamLog, Topic

SIZES = (0, 100, 2000)


class Watch:
    """A policy that removes nothing and notes what sealed segments there are."""

    name = "watch"

    def __init__(self) -> None:
        self.seen: list[SegmentInfo] = []

    def expired(self, segments: Any, now_ms: int) -> int:
        self.seen = list(segments)
        return 0


def sealed(topic: Topic) -> list[SegmentInfo]:
    """The sealed segments of a topic, the one that was active until now among them."""
    watch = Watch()
    topic.update_config(retention=watch)
    topic.apply_retention()
    return watch.seen


def send_in_every_way(log: StreamLog, topic: str, size: int, linger_ms: int) -> int:
    """Send many records of `size` bytes, in few calls and in many; how many."""
    value = b"x" * size
    with log.producer(linger_ms=linger_ms) as producer:
        producer.send_many(topic, [value] * 402)
        producer.send_many(topic, [value] * 50, [b"key"] * 50, headers={"h": b"1"})
        for _ in range(50):
            producer.send(topic, value, key=b"key")
        for _ in range(50):
            producer.send(topic, value)
    return 552


@pytest.mark.parametrize("linger_ms", [0, 5])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("config", [{"segment_bytes": 8192}, {"retention_bytes": 65_536}], ids=["set", "derived"])
def test_no_segment_is_larger_than_segment_bytes(log: StreamLog, config: Any, size: int, linger_ms: int) -> None:
    topic = log.create_topic("t", **config)
    sent = send_in_every_way(log, "t", size, linger_ms)
    segments = sealed(topic)
    assert max(segment.size_bytes for segment in segments) <= 8192
    assert [record.offset for record in topic.read()] == list(range(topic.partition(0).log_start_offset, sent))


@pytest.mark.parametrize("linger_ms", [0, 5])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bound", [1, 100, 1000])
def test_no_segment_holds_more_than_an_eighth_of_retention_records(
    log: StreamLog, bound: int, size: int, linger_ms: int
) -> None:
    topic = log.create_topic("t", retention_records=bound, retention_ms=None)
    send_in_every_way(log, "t", size, linger_ms)
    assert max(segment.records for segment in sealed(topic)) <= max(1, bound // 8)


def test_one_call_leaves_no_more_than_the_retention_bound_and_a_segment(log: StreamLog) -> None:
    topic = log.create_topic("t", retention_bytes=65_536)
    topic.send_many([b"x" * 100] * 10_000)
    topic.apply_retention()
    assert 50_000 < topic.partition(0).size_bytes <= 65_536 + 8192


def test_a_record_larger_than_a_segment_has_one_of_its_own(log: StreamLog) -> None:
    topic = log.create_topic("t", segment_bytes=1024)
    topic.send_many([b"a", b"b" * 5000, b"c"])
    assert [segment.records for segment in sealed(topic)] in ([1, 1, 1], [2, 1])
    assert [len(record.value) for record in topic.read()] == [1, 5000, 1]


def test_a_setting_changed_later_bounds_what_is_sent_from_then_on(log: StreamLog) -> None:
    topic = log.create_topic("t")
    with log.producer(linger_ms=5) as producer:
        producer.send_many("t", [b"x" * 100] * 1000)
        producer.flush()
        topic.update_config(segment_bytes=4096)
        before = topic.partition(0).log_end_offset
        producer.send_many("t", [b"x" * 100] * 1000)
    later = [segment for segment in sealed(topic) if segment.base_offset >= before]
    assert len(later) > 20
    assert max(segment.size_bytes for segment in later) <= 4096
