"""Settings by keyword, and as dictionaries that are checked where they are written."""

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import streamlog
from streamlog import ConsumerConfig, ProducerConfig, RebalanceListener, SegmentInfo, TopicConfig, TopicDefaults, serde
from streamlog.retention import MaxAge, MaxBytes
from streamlog.testing import ManualClock


class KeepAll:
    """A policy is any object with a name and `expired`."""

    name = "keep_all"

    def expired(self, segments: Sequence[SegmentInfo], now_ms: int) -> int:
        return 0


class Listener(RebalanceListener):
    def on_partitions_revoked(self, partitions: Sequence[streamlog.TopicPartition]) -> None:
        print("gone:", [partition.topic for partition in partitions])


def by_length(topic: str, key: bytes | None, count: int) -> int:
    return len(key or b"") % count


def topics(log: streamlog.StreamLog) -> None:
    short: TopicConfig = {"retention_ms": timedelta(days=7), "segment_ms": None, "cleanup_policy": "compact,delete"}
    topic = log.create_topic("short", partitions=2, **short)
    topic.update_config(retention_ms=60_000, retention_bytes=None, compression_type="gzip")
    log.create_topic("policies", retention=MaxAge(60_000) | MaxBytes(1 << 20))
    log.create_topic("kept", retention=KeepAll())
    log.create_topic("clicks", min_insync_replicas=1, unclean_leader_election=False, max_message_bytes=1 << 20)


def producers(log: streamlog.StreamLog) -> None:
    """A serializer may be a serde or a function; what it returns is stored like a value, so json.dumps is one."""
    batched: ProducerConfig = {"linger_ms": 5, "acks": "all", "compression_type": None}
    with log.producer(**batched) as producer:
        producer.send("short", b"", b"k")
    with log.producer(value_serializer=json.dumps, key_serializer=str.encode, acks=1) as producer:
        producer.send("short", {"cents": 950}, key="alice")
    with log.producer(value_serializer={"short": json.dumps, "kept": serde.msgpack}, partitioner=by_length) as producer:
        producer.send("short", [1, 2], key="alice")


def consumers(log: streamlog.StreamLog) -> None:
    careful: ConsumerConfig = {"enable_auto_commit": False, "auto_offset_reset": "none", "on_corrupt": "skip"}
    with log.consumer("short", group="a", **careful) as consumer:
        print(consumer)
    with log.consumer(
        "short",
        group="b",
        listener=Listener(),
        partition_assignment_strategy=["range"],
        isolation_level="read_committed",
    ) as consumer:
        consumer.subscribe(["short", log["kept"]], listener=Listener())


def main() -> None:
    defaults: TopicDefaults = {"partitions": 4, "retention_ms": 3_600_000}
    with TemporaryDirectory() as directory, streamlog.open(Path(directory) / "log", **defaults) as log:
        topics(log)
        producers(log)
        consumers(log)
    with streamlog.open(clock=ManualClock(), auto_create_topics=True, lock_timeout=1, brokers=1) as log:
        log["made"].send("at once")


if __name__ == "__main__":
    main()
