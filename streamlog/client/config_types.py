"""The settings as callers give them: what `**config` may have, for editors, type checkers and `help()`.

The docstring of each class is the reference of its settings, one line of the form `name: type (unit) = default` for
each. A test compares these lines with the fields, and with the defaults in `streamlog/config.py`, which has what the
settings become: checked and frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Literal, TypeAlias, TypedDict

from ..types import Isolation, OnCorrupt, Policy
from .consumer.listener import RebalanceListener
from .serde import Ser

Ms: TypeAlias = int | timedelta | None
OnError: TypeAlias = Literal["stop", "skip", "dead_letter"]


class TopicConfig(TypedDict, total=False):
    """The settings of a topic, as `log.create_topic` and `topic.update_config` take them. None is unlimited.

    As settings of `open`, they are the defaults of new topics. A topic stores its settings when it is created;
    `topic.config` shows those in effect. Limits are per partition. Names are Kafka's.

    >>> import streamlog
    >>> settings: streamlog.TopicConfig = {"retention_ms": timedelta(days=7), "retention_bytes": 1 << 30}
    >>> with streamlog.open() as log:
    ...     log.create_topic("audit", **settings).config["retention_ms"]
    604800000

    Retention deletes whole segments, the oldest first, and never the one that is written to:

    retention_ms: int (ms), timedelta or None = None
        Delete a segment whose newest record is older than this.
    retention_bytes: int (bytes) or None = None
        Delete the oldest segment while those that remain hold at least this much.
    retention_records: int or None = None
        Delete the oldest segment while those that remain hold at least so many records.
    retention: Policy = None
        A policy of your own, or of `streamlog.retention`. It may delete what the three limits would keep. Only its name
        is stored: after a reopen nothing is deleted until the policy is given again.
    segment_bytes: int (bytes) = 1_073_741_824
        Begin a new segment at this size. If it is not given, at most an eighth of `retention_bytes`.
    segment_ms: int (ms), timedelta or None = 604_800_000
        Begin a new segment this long after the first append; None: not by age. If it is not given, at most an eighth of
        `retention_ms`.

    Compaction keeps the newest record of each key:

    cleanup_policy: "delete", "compact" or "compact,delete" = "delete"
        Retention, compaction, or both.
    min_cleanable_dirty_ratio: float = 0.5
        Compact when this share of the bytes was not compacted yet, 0.0 to 1.0.
    min_compaction_lag_ms: int (ms), timedelta or None = 0
        Do not compact records that are younger than this.
    delete_retention_ms: int (ms), timedelta or None = 86_400_000
        How long a tombstone (a record whose value is None) is kept after the compaction that could remove it.

    Records:

    partitioner: str = "xxhash"
        Which partition a record with a key goes to: "xxhash", "murmur2" (as Kafka's Java client), "crc32" (as
        librdkafka), "round_robin" or "sticky". Fixed for the topic's life.
    max_message_bytes: int (bytes) = 1_048_588
        The largest record. A larger one raises RecordTooLargeError.
    message_timestamp_type: str = "CreateTime"
        "CreateTime": the timestamp is the sender's. "LogAppendTime": it is the log's clock at the append.
    message_timestamp_after_max_ms: int (ms), timedelta or None = 3_600_000
        Refuse a record whose timestamp is further in the future (InvalidTimestampError). None: take any.
    compression_type: str = "producer"
        "producer": as the producer sent it. Or a codec, as in `ProducerConfig`, whatever the producer's is.

    Replication, in a log of several brokers:

    min_insync_replicas: int = 1
        How many replicas have to be in sync for a record with acks="all" to be taken; see NotEnoughReplicasError. If it is
        not given, the `replication_factor` less 1, at least 1. At most the `replication_factor`.
    unclean_leader_election: bool = False
        Whether a replica that is not in sync may lead when no other is left. Records that it does not have are lost then: a
        consumer that has read them goes on where the logs part, or gets LogTruncationError under `auto_offset_reset="none"`.
    """

    retention_ms: Ms
    retention_bytes: int | None
    retention_records: int | None
    retention: Policy
    cleanup_policy: Literal["delete", "compact", "compact,delete"]
    partitioner: str
    segment_bytes: int
    segment_ms: Ms
    max_message_bytes: int
    message_timestamp_type: str
    message_timestamp_after_max_ms: Ms
    min_cleanable_dirty_ratio: float
    min_compaction_lag_ms: Ms
    delete_retention_ms: Ms
    min_insync_replicas: int
    unclean_leader_election: bool
    compression_type: str


class TopicDefaults(TopicConfig, total=False):
    """The settings that `open` takes as defaults of new topics: all those of `TopicConfig`, and two more.

    partitions: int = 1
        How many partitions a topic gets, 1 to 10,000.
    replication_factor: int = 1
        How many replicas each partition has, each on another broker. If it is not given, the number of brokers, at most 3.

    >>> import streamlog
    >>> with streamlog.open(partitions=4, retention_bytes=1 << 30) as log:
    ...     log.create_topic("orders").partitions
    4
    """

    partitions: int
    replication_factor: int


class ProducerConfig(TypedDict, total=False):
    """The settings of a producer, as `log.producer(…)` and `Producer(log, …)` take them. Names are Kafka's.

    >>> import streamlog
    >>> settings: streamlog.ProducerConfig = {"linger_ms": 5, "value_serializer": streamlog.serde.json}
    >>> with streamlog.open() as log, log.producer(**settings) as producer:
    ...     producer
    <streamlog.Producer streamlog-producer linger_ms=5, acks='all'>

    acks: 0, 1 or "all" = "all"
        When a record is acknowledged: "all", when every replica that is in sync has it; 1, when the leader has. The same with
        one broker. A failed append raises. 0: it is only logged, and the offset of a record is -1.
    linger_ms: int (ms) = 0
        How long a record may wait for others of its batch. 0: it is in the log when `send` returns.
    batch_size: int (bytes) = 16_384
        Write a batch of this size before its linger ends.
    compression_type: str or None = None
        "none", "gzip", "snappy", "lz4" or "zstd". All but "gzip" need the extra `compression`.
    key_serializer: a Serde, a function to bytes, or a mapping of these by topic = None
        How keys become bytes. None: a key is bytes, or a str, which becomes UTF-8.
    value_serializer: a Serde, a function to bytes, or a mapping of these by topic = None
        The same for values.
    partitioner: str, or a function (topic, key, partitions) -> partition = None
        Used instead of the topic's. The names are those of `TopicConfig`. A function gets key=None for a record without
        a key.
    max_request_size: int (bytes) = 1_048_576
        The largest record. A larger one raises RecordTooLargeError.
    buffer_memory: int (bytes) = 33_554_432
        How much may wait to be written. A full buffer blocks `send`.
    delivery_timeout_ms: int (ms) = 120_000
        How long `send` may block, and how long a record may wait, also for a leader or for enough replicas in sync; then
        DeliveryTimeoutError. At least `linger_ms`.
    client_id: str = "streamlog-producer"
        A name for the producer, shown in its repr.
    enable_idempotence: bool = None
        Whether records that are sent again, because a broker failed, are stored once, in their order (KIP-98). By default
        True with `acks="all"`, else False. It needs `acks="all"`.
    transactional_id: str = None
        A name that the producer has over restarts: it sends in transactions then (`Producer.transaction`). Making it fences
        another producer of this name, whose transaction is aborted. It needs `acks="all"`, and idempotence.
    transaction_timeout_ms: int (ms) = 60_000
        A transaction that is open for longer is aborted, and its producer fenced. At most 900,000.
    """

    acks: Literal[0, 1, "all"]
    linger_ms: int
    batch_size: int
    compression_type: str | None
    enable_idempotence: bool
    transactional_id: str
    transaction_timeout_ms: int
    partitioner: str | Callable[[str, bytes | None, int], int]
    key_serializer: Ser
    value_serializer: Ser
    max_request_size: int
    buffer_memory: int
    delivery_timeout_ms: int
    client_id: str


class ConsumerConfig(TypedDict, total=False):
    """The settings of a consumer, as `log.consumer(…)`, `Consumer(log, …)`, `group.consumer`, `group.start` and
    `group.run` take them beside their own parameters. Names are Kafka's.

    >>> import streamlog
    >>> settings: streamlog.ConsumerConfig = {"auto_offset_reset": "latest", "max_poll_records": 100}
    >>> with streamlog.open(auto_create_topics=True) as log, log.consumer("orders", **settings) as consumer:
    ...     consumer.poll()
    []

    Reading:

    auto_offset_reset: "earliest", "latest" or "none" = "earliest"
        Where to start if no offset is committed, or the position is outside the log. "none" raises
        OffsetOutOfRangeError.
    max_poll_records: int = 500
        The most records that one `poll` returns.
    fetch_max_bytes: int (bytes) = 52_428_800
        The most that one read from a partition fetches. More than 128 KiB has no effect, as larger reads are slower; a
        larger batch is fetched alone.
    on_corrupt: "raise" or "skip" = "raise"
        At a damaged batch: raise CorruptRecordError, or log a warning and skip exactly that batch.
    isolation_level: "read_committed" or "read_uncommitted" = "read_committed"
        The default hides the records of transactions that are open or were aborted, and what comes after an open one.
    client_id: str = "streamlog-consumer"
        A name for the consumer, shown by `group.members()`.

    In a group:

    enable_auto_commit: bool = None
        Whether the consumer commits finished records by itself. None: yes in a group.
    auto_commit_interval_ms: int (ms) = 5_000
        How often.
    max_poll_interval_ms: int (ms) = 300_000
        A member that does not poll for so long, in real time, loses its partitions.
    group_instance_id: str = None
        Makes the consumer a static member: if it leaves, its partitions wait for it.
    session_timeout_ms: int (ms) = 45_000
        How long they wait.
    partition_assignment_strategy: str or a sequence of str = ("cooperative-sticky", "range")
        How partitions are shared, the preferred assignor first; also "roundrobin" and "sticky".
    listener: RebalanceListener = None
        Called when partitions are assigned to the consumer, or taken away.
    """

    auto_offset_reset: Literal["earliest", "latest", "none"]
    enable_auto_commit: bool
    auto_commit_interval_ms: int
    isolation_level: Isolation
    max_poll_records: int
    max_poll_interval_ms: int
    session_timeout_ms: int
    group_instance_id: str
    fetch_max_bytes: int
    client_id: str
    partition_assignment_strategy: str | Sequence[str]
    listener: RebalanceListener
    on_corrupt: OnCorrupt


class ColumnConfig(TypedDict, total=False):
    """How the values of a topic become columns of Arrow and SQL: settings of `log.topic`.

    schema: pyarrow.Schema or "infer" = None
        The fields of the values, which have to be mappings. None: one column of bytes, or of text.
    on_mismatch: "raise" or "null" = "raise"
        What becomes of a value that does not fit.

    >>> import streamlog
    >>> with streamlog.open(auto_create_topics=True) as log:
    ...     orders = log.topic("orders", value_serde=streamlog.serde.json, schema="infer", on_mismatch="null")
    ...     _ = orders.send_many([{"price": 9.5}, {"price": "none"}])
    ...     orders.to_arrow(["price"]).to_pylist(), orders.mismatches
    ([{'price': 9.5}, {'price': None}], 1)
    """

    schema: Any  # without pyarrow its types have no names
    on_mismatch: Literal["raise", "null"]
