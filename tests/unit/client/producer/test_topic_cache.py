"""What a producer remembers of topics, when it forgets it, and what it says a record may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import streamlog
from streamlog.client.producer import topic_cache
from streamlog.client.producer.accumulator import RecordAccumulator
from streamlog.client.producer.send_many import times_of
from streamlog.client.producer.topic_cache import CachedTopic, TopicCache
from streamlog.config import ProducerConfig
from streamlog.errors import (
    InvalidRecordError,
    InvalidTimestampError,
    SerializationError,
    UnknownTopicOrPartitionError,
)

NOW_MS = 1_000_000


class Handle:
    """What the cache needs of a Topic."""

    def __init__(self, name: str, serde: Any = None) -> None:
        self.name = name
        self.serde = serde
        self._cache_key = name, id(serde)


class Log:
    """What the cache needs of a log."""

    def __init__(self, service: Any) -> None:
        self._service = service

    def _name_of(self, topic: Any) -> tuple[str, Any, Any]:
        if isinstance(topic, str):
            return topic, None, None
        topic._view = lambda: self._topic_view(topic.name)
        return topic.name, None, topic.serde

    def _topic_view(self, name: str) -> Any:
        return self._service.image.topics[name]


@pytest.fixture
def find(service: Any, accumulator_of: Callable[..., RecordAccumulator]) -> Any:
    """`find(topic, **config)`; `find.cache(**config)` is its cache."""
    caches: dict[Any, TopicCache] = {}
    log: Any = Log(service)

    def cache(**config: Any) -> TopicCache:
        key = tuple(config.items())
        if key not in caches:
            caches[key] = TopicCache(service, ProducerConfig(**config), accumulator_of(**config), 0)
        return caches[key]

    def find(topic: Any, **config: Any) -> CachedTopic:
        return cache(**config).find(log, topic)

    find.cache = cache  # type: ignore[attr-defined]
    return find


# The cache


def test_a_change_of_one_topic_leaves_the_others_in_the_cache(service: Any, find: Any) -> None:
    service.add_topic("changes", number=1)
    service.add_topic("stays", number=2)
    before, stays = find("changes"), find("stays")
    service.add_topic("changes", number=1, partitions=3)
    find.cache().invalidate()
    assert find.cache().topics == {"stays": stays}
    after = find("changes")
    assert (before.count, after.count) == (1, 3)
    assert after.queue(0) is before.queue(0)


def test_of_a_deleted_topic_no_queue_is_kept(service: Any, find: Any) -> None:
    service.add_topic("t")
    gone = find("t")
    service.remove_topic("t")
    find.cache().invalidate()
    assert find.cache().topics == {}
    with pytest.raises(UnknownTopicOrPartitionError):
        gone.queue(0).add((b"k", b"v", NOW_MS), 10)


def test_a_queue_that_is_first_asked_for_after_its_topic_was_deleted_is_closed_and_not_kept(
    service: Any, find: Any
) -> None:
    service.add_topic("t", 3)
    gone = find("t")
    service.remove_topic("t")
    find.cache().invalidate()
    with pytest.raises(UnknownTopicOrPartitionError):
        gone.queue(2).add((b"k", b"v", NOW_MS), 10)
    service.add_topic("t", 3, number=2)
    gone.queue(1)  # a topic of this name is another one
    assert not find.cache()._accumulator.queues


def test_a_queue_follows_the_newest_settings_of_its_topic_whichever_call_asks_for_it(service: Any, find: Any) -> None:
    service.add_topic("t", 3)
    before = find("t")
    service.add_topic("t", 3, message_timestamp_type="LogAppendTime")
    find.cache().invalidate()
    after = find("t")
    assert not after.queue(1).plain
    assert before.queue(1) is after.queue(1)  # by a thread that looked the topic up before the change
    assert not after.queue(1).plain


def test_what_was_looked_up_while_its_topic_changed_is_not_kept(
    service: Any, find: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.add_topic("t")

    class ChangesFirst:
        @property
        def serialize(self) -> Callable[[Any], bytes]:
            service.add_topic("t", partitions=3)
            return bytes

    find(Handle("t", ChangesFirst()))
    assert find.cache().topics == {}


def test_handles_without_serdes_share_the_entry_of_the_name(service: Any, find: Any) -> None:
    service.add_topic("t")
    assert find(Handle("t")) is find("t") is find(Handle("t"))


def test_handles_with_serdes_have_entries_of_their_own_the_oldest_of_which_go(
    service: Any, find: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topic_cache, "MAX_HANDLES_WITH_SERDES", 3)
    monkeypatch.setattr(topic_cache, "HANDLES_FOR_EACH_TOPIC", 1)
    service.add_topic("t")
    named = find("t")
    handles = [Handle("t", serde) for serde in ({"t": bytes}, {"t": bytes}, {"t": bytes}, {"t": bytes})]
    made = [find(handle) for handle in handles]
    topics = find.cache().topics
    assert topics == {"t": named, **{handle._cache_key: one for handle, one in zip(handles[1:], made[1:], strict=True)}}


def test_an_internal_topic_is_refused(service: Any, find: Any) -> None:
    view = service.add_topic("t")
    service.image = service.image._replace(topics={"t": view._replace(internal=True)})
    with pytest.raises(InvalidRecordError, match="internal"):
        find("t")


@pytest.mark.parametrize(
    ("config", "partitions", "lingers"),
    [
        ({"linger_ms": 5}, 1, True),
        ({"linger_ms": 5}, 2, False),
        ({}, 1, False),
        ({"linger_ms": 5, "acks": 0}, 1, False),
        ({"linger_ms": 5, "value_serializer": bytes}, 1, False),
        ({"linger_ms": 5, "partitioner": lambda topic, key, count: 0}, 1, False),
    ],
)
def test_which_topics_have_the_short_way(
    service: Any, find: Any, config: dict[str, Any], partitions: int, lingers: bool
) -> None:
    service.add_topic("t", partitions)
    found = find("t", **config)
    assert found.lingering is (found.queue(0) if lingers else None)


# What a record may be


def test_the_producers_serializer_comes_before_the_handles(service: Any, find: Any) -> None:
    service.add_topic("t")
    handle = Handle("t", streamlog.serde.json)
    assert find(handle).value_bytes([1]) == b"[1]"
    assert find(handle, value_serializer=streamlog.serde.msgpack).value_bytes([1]) == b"\x91\x01"


def test_a_serializer_is_not_called_for_none_and_its_error_is_wrapped(service: Any, find: Any) -> None:
    service.add_topic("t")
    found = find("t", key_serializer=lambda key: 1 // 0, value_serializer=lambda value: 7)
    assert (found.key_bytes(None), found.value_bytes(None)) == (None, None)
    with pytest.raises(SerializationError, match="key serializer failed on a str"):
        found.key_bytes("k")
    with pytest.raises(SerializationError, match="type int"):
        found.value_bytes("v")


def test_a_compacted_topic_needs_keys(service: Any, find: Any) -> None:
    service.add_topic("t", cleanup_policy="compact")
    with pytest.raises(InvalidRecordError, match="every record needs a key"):
        find("t").key_bytes(None)


@pytest.mark.parametrize("given", [True, 1.5, "1", -1, 1 << 62, NOW_MS + 3_600_001])
def test_a_timestamp_that_is_not_one_or_is_too_far_ahead_is_refused(service: Any, find: Any, given: Any) -> None:
    service.add_topic("t", message_timestamp_after_max_ms=3_600_000)
    with pytest.raises(InvalidTimestampError):
        find("t").timestamp(given, NOW_MS)


def test_there_is_one_timestamp_for_each_value(service: Any, find: Any) -> None:
    service.add_topic("t")
    assert times_of(find("t"), iter([1, 2]), NOW_MS, 2) == [1, 2]
    for given in ([1], [1, 2, 3], iter([1, 2, 3])):
        with pytest.raises(InvalidTimestampError, match="2 values"):
            times_of(find("t"), given, NOW_MS, 2)


# Where it goes


def test_records_without_a_key_stay_on_a_partition_while_its_batch_is_open(service: Any, find: Any) -> None:
    service.add_topic("t", 3)
    found = find("t", linger_ms=5)
    first = found.queue_for(None, None)
    first.add((None, b"v", NOW_MS), 1)
    assert found.queue_for(None, None) is first
    first.close_batch()
    assert found.queue_for(None, None) is not first


def test_without_a_linger_each_record_without_a_key_is_a_batch(service: Any, find: Any) -> None:
    service.add_topic("t", 3)
    found = find("t")
    assert [found.queue_for(None, None).partition for _ in range(6)] == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("partition", [3, -1, True, "0", 1.0])
def test_a_partition_that_the_topic_has_not_is_refused(service: Any, find: Any, partition: Any) -> None:
    service.add_topic("t", 3)
    with pytest.raises(UnknownTopicOrPartitionError):
        find("t").queue_for(b"k", partition)


def test_many_records_are_spread_like_single_ones(service: Any, find: Any) -> None:
    service.add_topic("t", 3)
    found = find("t")
    keys: list[bytes | None] = [b"%d" % n for n in range(50)]
    spread = {queue.partition: list(indexes) for queue, indexes in found.spread(keys, None, 50)}
    assert sorted(index for indexes in spread.values() for index in indexes) == list(range(50))
    for number, indexes in spread.items():
        assert {found.queue_for(keys[index], None).partition for index in indexes} == {number}
    assert list(found.spread(keys, 2, 50)) == [(found.queue(2), range(50))]
    assert list(found.spread([], None, 0)) == []
