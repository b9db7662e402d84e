"""What clients find through their own APIs: confluent-kafka and kafka-python."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import confluent_kafka
import kafka
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from ..wire import WAIT_S, batch, create, now_ms, produce, record, until
from . import scenario, short_scenario
from .groups import coordinated

VECTORS = ((b"TT0124", 15), (b"fd7af248-ce5c-46a5-93d7-1c0c9005b99d", 32), (b"21", 10))


def error_of(call: Callable[[], Any]) -> Any:
    """The name of the error that a call of confluent-kafka raises, and what the client is to do; None without one."""
    try:
        call()
    except KafkaException as raised:
        error = raised.args[0]
        return error.name(), error.fatal(), error.retriable(), error.txn_requires_abort()
    return None


@contextmanager
def consuming(bootstrap: str, group: str, **settings: Any) -> Iterator[Any]:
    given = {"bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest", **settings}
    consumer = confluent_kafka.Consumer({each.replace("__", "."): value for each, value in given.items()})
    try:
        yield consumer
    finally:
        consumer.close()


def taken(consumer: Any, count: int) -> list[Any]:
    found: list[Any] = []
    end = time.monotonic() + WAIT_S
    while len(found) < count and time.monotonic() < end:
        message = consumer.poll(0.1)
        if message is not None and message.error() is None:
            found.append(message)
    return found


@short_scenario
def confluent_round_trip(bootstrap: str) -> Any:
    """confluent-kafka: each codec, idempotent; delivery reports, messages, watermarks, offsets by time, positions."""
    name = "confluent_round_trip"
    coordinated(bootstrap, name)
    found: dict[str, Any] = {}
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        topic = f"{name}.{codec}"
        create(bootstrap, topic)
        producer = confluent_kafka.Producer(
            {"bootstrap.servers": bootstrap, "compression.type": codec, "enable.idempotence": True}
        )
        reports: list[Any] = []
        now = int(time.time() * 1000)
        for number in range(3):
            producer.produce(
                topic, b"v" * 200 + b"%d" % number, b"k", partition=0, timestamp=now + number, headers=[("h", b"1")],
                on_delivery=lambda error, message, reports=reports: reports.append((error, message.offset())),
            )  # fmt: skip
        producer.flush(WAIT_S)
        with consuming(bootstrap, name, enable__auto__commit=False) as consumer:
            consumer.assign([TopicPartition(topic, 0, 0)])
            messages = taken(consumer, 3)
            found[codec] = {
                "reports": sorted(offset for error, offset in reports if error is None),
                "messages": [
                    (each.offset(), each.key(), each.value(), each.headers(), each.timestamp()[0], each.timestamp()[1] - now)
                    for each in messages
                ],
                "watermarks": consumer.get_watermark_offsets(TopicPartition(topic, 0), WAIT_S, cached=False),
                "by time": [
                    each.offset
                    for each in consumer.offsets_for_times(
                        [TopicPartition(topic, 0, now + 1)], WAIT_S
                    ) + consumer.offsets_for_times([TopicPartition(topic, 0, now + 100_000)], WAIT_S)
                ],
                "position": consumer.position([TopicPartition(topic, 0)])[0].offset,
                "committed": consumer.committed([TopicPartition(topic, 0)], WAIT_S)[0].offset,
            }  # fmt: skip
    return found


@short_scenario
def confluent_zombie(bootstrap: str) -> Any:
    """A zombie learns from each call that it is fenced, and that this is fatal."""
    name = "confluent_zombie"
    create(bootstrap, name)

    def transactional() -> Any:
        return confluent_kafka.Producer({"bootstrap.servers": bootstrap, "transactional.id": name})

    old, new = transactional(), transactional()
    old.init_transactions(WAIT_S)
    old.begin_transaction()
    old.produce(name, b"old", partition=0)
    old.flush(WAIT_S)
    new.init_transactions(WAIT_S)
    found: dict[str, Any] = {"commit": error_of(lambda: old.commit_transaction(WAIT_S))}
    found["begin"] = error_of(old.begin_transaction)
    new.begin_transaction()
    new.produce(name, b"new", partition=0)
    found["the new one"] = error_of(lambda: new.commit_transaction(WAIT_S))
    with consuming(bootstrap, name) as consumer:
        consumer.assign([TopicPartition(name, 0, 0)])
        found["seen"] = [(each.offset(), each.value()) for each in taken(consumer, 1)]
    return found


@short_scenario
def confluent_exactly_once(bootstrap: str) -> Any:
    """Consume, transform, produce: committed and aborted rounds, offsets with them."""
    name = "confluent_exactly_once"
    create(bootstrap, f"{name}.in")
    create(bootstrap, f"{name}.out")
    produce(bootstrap, f"{name}.in", *[batch(record(b"%d" % number)) for number in range(6)])
    producer = confluent_kafka.Producer({"bootstrap.servers": bootstrap, "transactional.id": name})
    producer.init_transactions(WAIT_S)
    found: dict[str, Any] = {}
    with consuming(bootstrap, name, enable__auto__commit=False) as consumer:
        consumer.subscribe([f"{name}.in"])
        for message in taken(consumer, 6):
            producer.begin_transaction()
            producer.produce(f"{name}.out", b"out " + message.value(), partition=0)
            producer.flush(WAIT_S)
            offsets = [TopicPartition(f"{name}.in", 0, message.offset() + 1)]
            producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata(), WAIT_S)
            end = producer.abort_transaction if message.offset() % 2 else producer.commit_transaction
            end(WAIT_S)
        at = until(
            lambda: [each for each in consumer.committed([TopicPartition(f"{name}.in", 0)], WAIT_S) if each.offset >= 5]
        )
        found["committed"] = [each.offset for each in at]
    with consuming(bootstrap, f"{name}.reader") as consumer:
        consumer.assign([TopicPartition(f"{name}.out", 0, 0)])
        found["out"] = [(each.offset(), each.value()) for each in taken(consumer, 3)]
        found["watermarks"] = consumer.get_watermark_offsets(TopicPartition(f"{name}.out", 0), WAIT_S, cached=False)
    return found


class Member:
    """A consumer that is polled on a thread of its own, which alone uses it."""

    def __init__(self, bootstrap: str, topic: str, **settings: Any) -> None:
        given = {"bootstrap.servers": bootstrap, "group.id": topic, "auto.offset.reset": "earliest", **settings}
        self._consumer = confluent_kafka.Consumer(given)
        self._ends = threading.Event()
        self.assigned: list[int] = []
        """The partitions that it has at present, sorted."""
        self.error: Any = None
        self._consumer.subscribe([topic])
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ends.is_set():
            message = self._consumer.poll(0.05)
            if message is not None and message.error() is not None:
                self.error = message.error().name()
            self.assigned = sorted(each.partition for each in self._consumer.assignment())
        self._consumer.close()
        self.assigned = []

    def stop(self) -> None:
        self._ends.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "a consumer did not close"


def _two(bootstrap: str, name: str, partitions: int, **settings: Any) -> Any:
    """Two members share the partitions, and one that is left has them all. With sorted members: whose id is first is chance."""
    create(bootstrap, name, partitions)
    first = Member(bootstrap, name, **settings)
    found: dict[str, Any] = {"alone": until(lambda: len(first.assigned) == partitions and first.assigned)}
    second = Member(bootstrap, name, **settings)
    until(lambda: first.assigned and second.assigned and not set(first.assigned) & set(second.assigned), 60)
    until(lambda: len(first.assigned) + len(second.assigned) == partitions, 60)
    found["shares"] = sorted(map(len, (first.assigned, second.assigned)))
    found["all"] = sorted(first.assigned + second.assigned)
    admin = AdminClient({"bootstrap.servers": bootstrap})
    described = admin.describe_consumer_groups([name], request_timeout=WAIT_S)[name].result()
    found["described"] = {
        "state": described.state.name,
        "type": described.type.name,
        "assignor": described.partition_assignor,
        "simple": described.is_simple_consumer_group,
        "members": sorted(len(each.assignment.topic_partitions) for each in described.members),
        "hosts": sorted({each.host for each in described.members}),
    }
    second.stop()
    found["left alone"] = until(lambda: len(first.assigned) == partitions and first.assigned, 60)
    first.stop()
    until(lambda: admin.describe_consumer_groups([name], request_timeout=WAIT_S)[name].result().state.name == "EMPTY")
    return found


@short_scenario
def confluent_range_pair(bootstrap: str) -> Any:
    """A classic group of two with the range assignor."""
    return _two(bootstrap, "confluent_range_pair", 3, **{"partition.assignment.strategy": "range"})


@scenario
def confluent_cooperative_pair(bootstrap: str) -> Any:
    """A classic group of two with cooperative-sticky."""
    return _two(bootstrap, "confluent_cooperative_pair", 4, **{"partition.assignment.strategy": "cooperative-sticky"})


@scenario
def confluent_modern_pair(bootstrap: str) -> Any:
    """A group of two with `group.protocol=consumer`."""
    return _two(bootstrap, "confluent_modern_pair", 4, **{"group.protocol": "consumer"})


@scenario
def confluent_mixed_assignors(bootstrap: str) -> Any:
    """A member whose assignors the group does not have is refused, and the one before goes on."""
    name = "confluent_mixed_assignors"
    create(bootstrap, name, 2)
    first = Member(bootstrap, name, **{"partition.assignment.strategy": "range"})
    until(lambda: len(first.assigned) == 2)
    second = Member(bootstrap, name, **{"partition.assignment.strategy": "cooperative-sticky"})
    error = until(lambda: second.error)
    second.stop()
    found = {"error": error, "the first": first.assigned}
    first.stop()
    return found


@short_scenario
def confluent_admin(bootstrap: str) -> Any:
    """confluent-kafka's AdminClient: topics, configurations, offsets, groups."""
    name = "confluent_admin"
    admin = AdminClient({"bootstrap.servers": bootstrap})

    def done(futures: dict[Any, Any]) -> Any:
        return {str(each): error_of(future.result) for each, future in futures.items()}

    found: dict[str, Any] = {
        "created": done(admin.create_topics([NewTopic(name, 2, 1, config={"retention.ms": "86400000"}), NewTopic("a b", 1, 1)])),
        "created again": done(admin.create_topics([NewTopic(name, 2, 1)])),
    }  # fmt: skip
    create(bootstrap, f"{name}.2")
    found["partitions"] = done(admin.create_partitions([NewPartitions(name, 3)]))
    until(lambda: len(admin.list_topics(name, WAIT_S).topics[name].partitions) == 3)
    resource = ConfigResource(ResourceType.TOPIC, name)
    described = admin.describe_configs([resource])[resource].result()
    found["config"] = {
        each: (described[each].value, described[each].source, described[each].is_default, described[each].is_read_only)
        for each in ("retention.ms", "cleanup.policy", "segment.bytes", "max.message.bytes")
    }
    change = ConfigResource(
        ResourceType.TOPIC, name,
        incremental_configs=[ConfigEntry("cleanup.policy", "compact", incremental_operation=AlterConfigOpType.APPEND)],
    )  # fmt: skip
    found["altered"] = [error_of(each.result) for each in admin.incremental_alter_configs([change]).values()]
    now = now_ms()
    produce(
        bootstrap, f"{name}.2", batch(record(timestamp=now), record(timestamp=now + 1)), batch(record(timestamp=now))
    )
    at = TopicPartition(f"{name}.2", 0)
    found["offsets"] = {
        title: admin.list_offsets({at: spec})[at].result().offset
        for title, spec in {
            "earliest": OffsetSpec.earliest(), "latest": OffsetSpec.latest(), "greatest": OffsetSpec.max_timestamp(),
            "by time": OffsetSpec.for_timestamp(1),
        }.items()
    }  # fmt: skip
    deleted = admin.delete_records([TopicPartition(f"{name}.2", 0, 2)])
    found["deleted records"] = [each.result().low_watermark for each in deleted.values()]
    listed = admin.list_topics(timeout=WAIT_S)
    found["listed"] = sorted(each for each in listed.topics if each.startswith(name))
    found["topics"] = [
        (each.name, each.is_internal, len(each.partitions), [part.leader.id for part in each.partitions])
        for each in (admin.describe_topics(confluent_kafka.TopicCollection([name]))[name].result(),)
    ]
    coordinated(bootstrap, f"{name}.no")  # librdkafka's AdminClient does not survive a NOT_COORDINATOR of OffsetFetch
    found["no group"] = error_of(lambda: admin.describe_consumer_groups([f"{name}.no"])[f"{name}.no"].result())
    found["offsets of no group"] = [
        each.offset
        for each in admin.list_consumer_group_offsets(
            [confluent_kafka.ConsumerGroupTopicPartitions(f"{name}.no", [TopicPartition(name, 0)])]
        )[f"{name}.no"].result().topic_partitions
    ]  # fmt: skip
    found["deleted"] = done(admin.delete_topics([name, f"{name}.none"]))
    found["deleted group"] = done(admin.delete_consumer_groups([f"{name}.no"]))
    return found


@scenario
def confluent_refused_records(bootstrap: str) -> Any:
    """The errors of delivery reports."""
    name = "confluent_refused_records"
    create(bootstrap, name, max__message__bytes="1000")
    create(bootstrap, f"{name}.compacted", cleanup__policy="compact")
    producer = confluent_kafka.Producer({"bootstrap.servers": bootstrap, "message.timeout.ms": 20_000})
    reports: dict[str, Any] = {}
    for title, topic, given in (
        ("too large", name, {"value": b"x" * 2000}),
        ("no key", f"{name}.compacted", {"value": b"x"}),
        ("too late", name, {"value": b"x", "timestamp": int(time.time() * 1000) + 7_200_000}),
        ("right", name, {"value": b"x"}),
    ):
        producer.produce(
            topic, partition=0,
            on_delivery=lambda error, message, title=title: reports.update({title: error and (error.name(), error.retriable())}),
            **given,
        )  # fmt: skip
        producer.flush(WAIT_S)
    return reports


@short_scenario
def partitions_of_keys(bootstrap: str) -> Any:
    """librdkafka's CRC32 and Java's murmur2 (by kafka-python and by librdkafka) choose partitions as everywhere."""
    found: dict[str, Any] = {}
    for key, count in VECTORS:
        name = f"partitions_of_keys.{count}"
        create(bootstrap, name, count)
        for partitioner in ("consistent_random", "murmur2_random"):
            producer = confluent_kafka.Producer({"bootstrap.servers": bootstrap, "partitioner": partitioner})
            seen: list[int] = []
            producer.produce(
                name, b"v", key, on_delivery=lambda _, message, seen=seen: seen.append(message.partition())
            )
            producer.flush(WAIT_S)
            found[f"{partitioner} of {count}"] = seen
        python = kafka.KafkaProducer(bootstrap_servers=bootstrap)
        found[f"kafka-python of {count}"] = python.send(name, b"v", key).get(WAIT_S).partition
        python.close()
    return found


@short_scenario
def kafka_python_round_trip(bootstrap: str) -> Any:
    """kafka-python: produce, consume by assignment, seek, offsets by time, commit."""
    name = "kafka_python_round_trip"
    create(bootstrap, name, 2)
    now = int(time.time() * 1000)
    producer = kafka.KafkaProducer(bootstrap_servers=bootstrap, compression_type="gzip")
    sent = [
        producer.send(name, b"%d" % number, b"k", [("h", b"x")], 1, now + number).get(WAIT_S) for number in range(4)
    ]
    producer.close()
    at = kafka.TopicPartition(name, 1)
    consumer = kafka.KafkaConsumer(
        bootstrap_servers=bootstrap, group_id=name, auto_offset_reset="earliest", enable_auto_commit=False
    )
    consumer.assign([at])
    rows: list[Any] = []
    end = time.monotonic() + WAIT_S
    while len(rows) < 4 and time.monotonic() < end:
        for found in consumer.poll(200).values():
            rows += found
    consumer.commit({at: kafka.structs.OffsetAndMetadata(3, "note", -1)})
    by_time = consumer.offsets_for_times({at: now + 2})[at]
    result = {
        "sent": [(each.partition, each.offset) for each in sent],
        "rows": [(each.offset, each.key, each.value, each.headers, each.timestamp - now, each.timestamp_type) for each in rows],
        "committed": consumer.committed(at),
        "ends": [list(each.values()) for each in (consumer.beginning_offsets([at]), consumer.end_offsets([at]))],
        "by time": (by_time.offset, by_time.timestamp - now),
        "partitions": sorted(consumer.partitions_for_topic(name)),
    }  # fmt: skip
    consumer.close()
    return result


@scenario
def kafka_python_pair(bootstrap: str) -> Any:
    """A group of two of kafka-python. They poll at once: a poll that ends while it waits for another member joins anew."""
    name = "kafka_python_pair"
    create(bootstrap, name, 4)
    members = [kafka.KafkaConsumer(name, bootstrap_servers=bootstrap, group_id=name) for _ in range(2)]

    def assigned() -> Any:
        with ThreadPoolExecutor(len(members)) as pool:
            list(pool.map(lambda each: each.poll(500), members))
        shares = [sorted(at.partition for at in each.assignment()) for each in members]
        return (
            sorted(shares)
            if sorted(number for each in shares for number in each) == [0, 1, 2, 3] and all(shares)
            else None
        )

    found = {"shares": until(assigned, 60)}
    members.pop().close()

    def alone() -> Any:
        members[0].poll(100)
        return len(members[0].assignment()) == 4

    until(alone, 60)
    members[0].close()
    return found
