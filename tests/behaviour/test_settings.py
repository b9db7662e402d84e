"""Every setting with extreme values: it means what was meant, or it is a ConfigError that names it, and nothing changes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any

import pytest

import streamlog
from streamlog import ConfigError, StreamLog
from streamlog.config import ConsumerConfig, ProducerConfig, TopicConfig
from streamlog.testing import ManualClock
from tests.times import LONG

DAY_S = 86_400
LONG_MAX = 2**63 - 1


class Nothing:
    def __repr__(self) -> str:
        raise RuntimeError("not even shown")


EXTREMES: dict[str, Any] = {
    "0": 0,
    "1": 1,
    "-1": -1,
    "-2": -2,
    "2**31": 2**31,
    "2**62": 2**62,
    "2**63-1": LONG_MAX,
    "2**63": 2**63,
    "2**64": 2**64,
    "-2**63": -(2**63),
    "10**5000": 10**5000,  # an int that Python refuses to show
    "True": True,
    "False": False,
    "None": None,
    "nan": math.nan,
    "inf": math.inf,
    "1.5": 1.5,
    "text": "7",
    "empty": "",
    "bytes": b"x",
    "list": [],
    "object": Nothing(),
    "-1us": timedelta(microseconds=-1),
    "1us": timedelta(microseconds=1),
    "timedelta.max": timedelta.max,
    "timedelta.min": timedelta.min,
}
REFUSED = object()


@dataclass(frozen=True)
class Integer:
    """An int in a range; None is unlimited where `unlimited`."""

    low: int
    high: int = LONG_MAX
    unlimited: bool = False

    def meant(self, value: Any) -> Any:
        if self.unlimited and (value is None or value == -1) and value is not True:
            return None
        return value if type(value) is int and self.low <= value <= self.high else REFUSED


@dataclass(frozen=True)
class Duration:
    """Milliseconds or a timedelta; None, -1 and Java's greatest long are unlimited."""

    low: int = 0

    def meant(self, value: Any) -> Any:
        if isinstance(value, timedelta):
            value = math.ceil(value / timedelta(milliseconds=1)) if value >= timedelta(0) else "refused"
        if value is None or (type(value) is int and (value == -1 or 2**60 <= value <= LONG_MAX)):
            return None
        return value if type(value) is int and self.low <= value < 2**60 else REFUSED


@dataclass(frozen=True)
class Number:
    low: float
    high: float

    def meant(self, value: Any) -> Any:
        return value if type(value) in (int, float) and self.low <= value <= self.high else REFUSED


@dataclass(frozen=True)
class OneOf:
    """One of these, equal and of the same type."""

    values: tuple[Any, ...]

    def meant(self, value: Any) -> Any:
        return value if any(type(value) is type(one) and value == one for one in self.values) else REFUSED


@dataclass(frozen=True)
class Text:
    none: bool = False

    def meant(self, value: Any) -> Any:
        return value if (isinstance(value, str) and value) or (value is None and self.none) else REFUSED


RATIO = Number(0.0, 1.0)
TOPIC: dict[str, Any] = {
    "retention_ms": Duration(),
    "retention_bytes": Integer(0, unlimited=True),
    "retention_records": Integer(0, unlimited=True),
    "retention": OneOf((None,)),
    "cleanup_policy": OneOf(("delete", "compact", "compact,delete")),
    "partitioner": OneOf(("xxhash", "murmur2", "crc32", "round_robin", "sticky")),
    "segment_bytes": Integer(1024, 1 << 31),
    "segment_ms": Duration(1),
    "max_message_bytes": Integer(1, 1 << 29),
    "message_timestamp_type": OneOf(("CreateTime", "LogAppendTime")),
    "message_timestamp_after_max_ms": Duration(),
    "min_cleanable_dirty_ratio": RATIO,
    "min_compaction_lag_ms": Duration(),
    "delete_retention_ms": Duration(),
    "min_insync_replicas": Integer(1, 1),
    "unclean_leader_election": OneOf((False, True)),
    "compression_type": OneOf(("producer", "none", "gzip", "snappy", "lz4", "zstd")),
}
PRODUCER: dict[str, Any] = {
    "acks": OneOf((0, 1, "all")),
    "linger_ms": Integer(0, 3_600_000),
    "batch_size": Integer(1, 1 << 27),
    "compression_type": OneOf((None, "none", "gzip")),
    "enable_idempotence": OneOf((True, False, None)),
    "transactional_id": Text(none=True),
    "transaction_timeout_ms": Integer(1, 900_000),
    "partitioner": OneOf((None, "xxhash")),
    "key_serializer": OneOf((None,)),
    "value_serializer": OneOf((None,)),
    "max_request_size": Integer(1, 1 << 29),
    "buffer_memory": Integer(1),
    "delivery_timeout_ms": Integer(1),
    "client_id": Text(),
}
CONSUMER: dict[str, Any] = {
    "group": Text(none=True),
    "key_deserializer": OneOf((None,)),
    "value_deserializer": OneOf((None,)),
    "auto_offset_reset": OneOf(("earliest", "latest", "none")),
    "enable_auto_commit": OneOf((True, False, None)),
    "auto_commit_interval_ms": Integer(0),
    "isolation_level": OneOf(("read_committed", "read_uncommitted")),
    "max_poll_records": Integer(1),
    "max_poll_interval_ms": Integer(1),
    "session_timeout_ms": Integer(1),
    "group_instance_id": Text(none=True),
    "fetch_max_bytes": Integer(1),
    "client_id": Text(),
    "partition_assignment_strategy": OneOf(("range", "sticky")),
    "listener": OneOf((None,)),
    "on_corrupt": OneOf(("raise", "skip")),
}
WORKERS: dict[str, Any] = {
    "workers": Integer(1, 1000),
    "on_error": OneOf(("stop", "skip", "dead_letter")),
    "retries": Integer(0),
    "retry_backoff_ms": Integer(0),
    "dead_letter_topic": Text(none=True),
}
OPEN: dict[str, Any] = {
    "brokers": OneOf((None, 1)),
    "replica_lag_time_max_ms": Integer(1, 86_400_000),
    "read_only": OneOf((False,)),
    "sync": OneOf((False, True)),
    "auto_create_topics": OneOf((False, True)),
    "force": OneOf((False, True)),
    "lock_timeout": Number(0.0, DAY_S),
    "clock": OneOf((None,)),
    "disk": OneOf((None,)),
    "partitions": Integer(1, 10_000),
    "replication_factor": Integer(1, 1),
}


def test_no_setting_is_left_out() -> None:
    assert list(TOPIC) == [field.name for field in fields(TopicConfig)]
    assert list(PRODUCER) == [field.name for field in fields(ProducerConfig)]
    assert list(CONSUMER) == [field.name for field in fields(ConsumerConfig)]


def refuses(name: str, call: Callable[[], object]) -> None:
    with pytest.raises(ConfigError) as caught:
        call()
    assert name in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", TOPIC)
def test_a_setting_of_a_topic(log: StreamLog, reopen: Any, clock: ManualClock, name: str) -> None:
    """Each is created, written, aged, compacted, and opened again with it; also by `update_config`, and as a default."""
    plain = log.create_topic("plain")
    accepted: dict[str, Any] = {}
    for number, (label, value) in enumerate(EXTREMES.items()):
        meant = TOPIC[name].meant(value)
        if meant is REFUSED:
            before = dict(plain.config)
            refuses(name, lambda value=value, number=number: log.create_topic(f"t{number}", **{name: value}))  # type: ignore[misc]
            refuses(name, lambda value=value: plain.update_config(**{name: value}))  # type: ignore[misc]
            refuses(name, lambda value=value: streamlog.open(**{name: value}))  # type: ignore[misc]
            assert f"t{number}" not in log
            assert dict(plain.config) == before
            continue
        config: dict[str, Any] = {"segment_bytes": 1024, "min_cleanable_dirty_ratio": 0.0, name: value}
        config.setdefault("cleanup_policy", "compact,delete")
        plain.update_config(**{name: value})
        assert plain.config[name] == meant, label
        with streamlog.open(**{name: value}) as other:
            assert other.create_topic("t").config[name] == meant, label
        topic = log.create_topic(f"t{number}", **config)
        assert topic.config[name] == meant, label
        accepted[f"t{number}"] = meant
        for n in range(8):
            for key in ("a", "b"):
                if topic.config["max_message_bytes"] > 300:
                    topic.send(None if n % 4 == 3 else "v" * 200, key)
                else:
                    with pytest.raises(streamlog.RecordTooLargeError):
                        topic.send("v" * 300, key)
    for topic_name in accepted:
        log[topic_name].compact()
        log[topic_name].apply_retention()
    for _ in range(3):
        clock.advance(DAY_S)
    log = reopen(log)
    for topic_name, meant in accepted.items():
        topic = log[topic_name]
        assert topic.config[name] == meant
        topic.compact()
        topic.apply_retention()
        for record in topic.read():
            assert record.value in (None, b"v" * 200)
        if topic.config["max_message_bytes"] > 300:
            topic.send("v" * 200, "c")


@pytest.mark.parametrize("name", ["retention_ms", "delete_retention_ms", "min_compaction_lag_ms"])
@pytest.mark.parametrize("value", [None, -1, LONG_MAX, 2**60])
def test_an_unlimited_time_is_for_ever(log: StreamLog, clock: ManualClock, name: str, value: Any) -> None:
    """Also Java's greatest long, which is Kafka's usual way to say so."""
    topic = log.create_topic(
        "t", cleanup_policy="compact,delete", min_cleanable_dirty_ratio=0.0, **{"min_compaction_lag_ms": 0, name: value}
    )
    topic.send("old", "a")
    topic.send("new", "a")
    topic.send(None, "b")
    for _ in range(3):
        topic.compact()
        topic.apply_retention()
        clock.advance(400 * DAY_S)
    kept = [(record.key, record.value) for record in topic.read()]
    expected = [(b"a", b"old"), (b"a", b"new"), (b"b", None)]
    if name == "delete_retention_ms":
        assert kept == expected[1:]  # the tombstone stays
    elif name == "min_compaction_lag_ms":
        assert kept == expected  # nothing is ever old enough
    else:
        assert kept[0] == (b"a", b"new")  # compaction's work, not retention's


def test_a_topic_that_was_stored_with_javas_greatest_long_is_unlimited() -> None:
    """As an earlier version stored it: its compaction failed again and again."""
    assert TopicConfig(delete_retention_ms=LONG_MAX).delete_retention_ms == -1


@pytest.mark.parametrize("name", PRODUCER)
def test_a_setting_of_a_producer(log: StreamLog, name: str) -> None:
    log.create_topic("t")
    for label, value in EXTREMES.items():
        if PRODUCER[name].meant(value) is REFUSED:
            refuses(name, lambda value=value: log.producer(**{name: value}))  # type: ignore[misc]
            continue
        with log.producer(**{name: value}) as producer:
            if name == "transactional_id" and value is not None:
                producer.begin_transaction()
                producer.send("t", label)
                producer.commit_transaction()
                continue
            sent = "" if name in ("max_request_size", "buffer_memory") and value < 100 else label
            try:
                producer.send("t", sent).result()
            except streamlog.RecordTooLargeError:
                assert name in ("max_request_size", "buffer_memory")
                assert value < 100
            else:
                assert list(log["t"].read())[-1].value == sent.encode()


def test_a_linger_that_is_longer_than_the_usual_delivery_timeout_is_waited_for(log: StreamLog) -> None:
    log.create_topic("t")
    with log.producer(linger_ms=3_600_000) as producer:
        assert producer._config.delivery_timeout_ms == 3_600_000
    refuses("linger_ms", lambda: log.producer(linger_ms=3_600_000, delivery_timeout_ms=120_000))


@pytest.mark.parametrize("name", CONSUMER)
def test_a_setting_of_a_consumer(log: StreamLog, reopen: Any, name: str) -> None:
    topic = log.create_topic("t")
    topic.send("x")
    for number, value in enumerate(EXTREMES.values()):
        group = {} if name == "group" else {"group": f"g{number}"}
        if CONSUMER[name].meant(value) is REFUSED:
            refuses(name, lambda value=value, group=group: log.consumer("t", **group, **{name: value}))  # type: ignore[misc]
            if name == "group" and value is not None:
                refuses(name, lambda value=value: log.group(value))  # type: ignore[misc]
            continue
        with log.consumer("t", **group, **{name: value}) as consumer:
            assert [record.value for record in consumer.poll(timeout=1.0)] == [b"x"]
            assert consumer.poll() == []
            topic.send("y")
            assert [record.value for record in consumer.until_end()] == [b"y"]
            topic.delete_records({0: topic.partition(0).log_end_offset})
            topic.send("x")
    log = reopen(log)  # what of it went into the log can be read


@pytest.mark.parametrize("name", WORKERS)
def test_a_setting_of_workers(log: StreamLog, name: str) -> None:
    topic = log.create_topic("t")
    also: dict[str, Any] = {"on_error": "dead_letter"} if name == "dead_letter_topic" else {}
    for number, value in enumerate(EXTREMES.values()):
        group = log.group(f"g{number}")
        if WORKERS[name].meant(value) is REFUSED:
            with pytest.raises((ConfigError, streamlog.InvalidTopicError)) as caught:
                group.start(print, "t", **{name: value})
            assert len(str(caught.value)) < 1000
            assert group.members() == []
            continue
        topic.send("x")
        handled: list[Any] = []
        with group.start(
            handled.append, "t", until_end=True, max_poll_interval_ms=LONG_MAX, **also, **{name: value}
        ) as workers:
            workers.wait(LONG)
        assert handled


@pytest.mark.parametrize("name", OPEN)
def test_a_setting_of_a_log(name: str) -> None:
    for value in EXTREMES.values():
        if OPEN[name].meant(value) is REFUSED:
            refuses(name, lambda value=value: streamlog.open(**{name: value}))  # type: ignore[misc]
            continue
        with streamlog.open(**{name: value}) as log:
            log.create_topic("t").send("x")


@pytest.mark.parametrize("label", EXTREMES)
def test_an_age_of_a_retention_policy(label: str) -> None:
    value = EXTREMES[label]
    meant = Duration().meant(value)
    if meant is REFUSED or meant is None:
        refuses("age", lambda: streamlog.retention.MaxAge(value))
    else:
        assert streamlog.retention.MaxAge(value).age == meant


@pytest.mark.parametrize("policy", [streamlog.retention.MaxBytes, streamlog.retention.MaxRecords])
@pytest.mark.parametrize("label", EXTREMES)
def test_a_bound_of_a_retention_policy(policy: Any, label: str) -> None:
    value = EXTREMES[label]
    if Integer(0).meant(value) is REFUSED:
        with pytest.raises(ConfigError):
            policy(value)
    else:
        assert policy(value).expired([], 0) == 0


@pytest.mark.parametrize("event", ["on_partitions_assigned", "on_partitions_revoked", "on_partitions_lost"])
@pytest.mark.parametrize("way", ["setting", "subscribe"])
def test_a_listener_whose_methods_would_never_run_is_refused(log: StreamLog, event: str, way: str) -> None:
    async def never_run(self: object, partitions: object) -> None:
        pytest.fail("nothing runs this")

    log.create_topic("t")
    listener = type("Async", (streamlog.RebalanceListener,), {event: never_run})()
    if way == "setting":
        refuses(event, lambda: log.consumer("t", group="g", listener=listener))
        return
    with log.consumer(group="g") as consumer:
        refuses(event, lambda: consumer.subscribe("t", listener))
        assert consumer.subscription() == set()


@pytest.mark.parametrize("name", ["key_serializer", "value_serializer", "key_deserializer", "value_deserializer"])
@pytest.mark.parametrize("given", ["function", "serde", "mapping"])
def test_an_async_serde_is_refused(log: StreamLog, name: str, given: str) -> None:
    async def never_run(*_: object) -> bytes:
        pytest.fail("nothing runs this")

    serde = type("Async", (), {"serialize": never_run, "deserialize": never_run})()
    value: Any = {"function": never_run, "serde": serde, "mapping": {"t": never_run}}[given]
    log.create_topic("t")
    make = log.producer if "_serializer" in name else lambda **options: log.consumer("t", **options)
    refuses(name, lambda: make(**{name: value}))
