"""streamlog: what Kafka gives a company, as a library over a local directory.

    import streamlog

    with streamlog.open("data/") as log:
        log.create_topic("orders", partitions=4, exist_ok=True)
        with log.producer() as producer:
            producer.send("orders", "9.50", key="alice")       # in the log on return
        with log.consumer("orders", group="billing") as consumer:
            for record in consumer.until_end():                # `in consumer` waits for more
                charge(record.key, record.value)

How it is built, from the bottom up; a file imports only from rooms above it in this list:

- `types`, `errors`, `config`: the words
- `records`: one batch of records as bytes
- `runtime`: the only users of files, time and threads
- `storage`: a log on disk, one partition in one directory
- `replication`: a partition, its lock, and who waits for it
- `coordinator`: consumer groups as state machines
- `broker`: directories, topics and groups behind one Service protocol
- `client`: what you hold

Where a record goes: `client/producer/producer.py` → `client/producer/partition_queue.py` → `broker/service.py` →
`replication/partition.py` → `storage/log.py`; and back: `storage/log.py` → `client/consumer/fetcher.py` →
`client/consumer/decode.py` → `client/consumer/consumer.py`.
"""

import logging as _logging

from . import errors, retention, serde
from .broker.offline.repair import RepairedPartition, RepairReport, repair
from .broker.offline.verify import Problem, Report, verify
from .client.config_types import ConsumerConfig, ProducerConfig, TopicConfig, TopicDefaults
from .client.consumer.consumer import Consumer
from .client.consumer.listener import RebalanceListener
from .client.consumer.record_batch import RecordBatch
from .client.group import ConsumerGroup
from .client.producer.delivery import Delivery
from .client.producer.producer import Producer
from .client.serde import Serde
from .client.streamlog import StreamLog, open
from .client.topic import Records, Topic
from .client.workers import Workers
from .errors import (
    ClosedError,
    CommitFailedError,
    ConcurrentUseError,
    ConfigError,
    ConsumerStoppedError,
    CorruptRecordError,
    DeliveryError,
    DeliveryTimeoutError,
    DeserializationError,
    DiskFullError,
    FencedInstanceIdError,
    ForkedError,
    FormatError,
    GroupIdNotFoundError,
    GroupNotEmptyError,
    InvalidRecordError,
    InvalidTimestampError,
    InvalidTopicError,
    InvalidTxnStateError,
    LogDirNotFoundError,
    LogLockedError,
    LogTruncationError,
    MissingExtraError,
    NotEnoughReplicasError,
    NotLeaderError,
    OffsetOutOfRangeError,
    OutOfOrderSequenceError,
    PoisonedLogError,
    ProducerFencedError,
    ReadOnlyError,
    RebalanceInProgressError,
    RecordTooLargeError,
    ReentrantCallError,
    RequestTimedOutError,
    SerializationError,
    StorageError,
    StreamlogError,
    TopicAlreadyExistsError,
    UnknownMemberIdError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
    UnsupportedCompressionTypeError,
)
from .types import (
    Clock,
    MemberInfo,
    OffsetAndMetadata,
    OffsetAndTimestamp,
    PartitionInfo,
    Policy,
    ProducerRecord,
    Record,
    RecordMetadata,
    SegmentInfo,
    TopicPartition,
)

__version__ = "0.1.0"

__all__ = [
    "Clock",
    "ClosedError",
    "CommitFailedError",
    "ConcurrentUseError",
    "ConfigError",
    "Consumer",
    "ConsumerConfig",
    "ConsumerGroup",
    "ConsumerStoppedError",
    "CorruptRecordError",
    "Delivery",
    "DeliveryError",
    "DeliveryTimeoutError",
    "DeserializationError",
    "DiskFullError",
    "FencedInstanceIdError",
    "ForkedError",
    "FormatError",
    "GroupIdNotFoundError",
    "GroupNotEmptyError",
    "InvalidRecordError",
    "InvalidTimestampError",
    "InvalidTopicError",
    "InvalidTxnStateError",
    "LogDirNotFoundError",
    "LogLockedError",
    "LogTruncationError",
    "MemberInfo",
    "MissingExtraError",
    "NotEnoughReplicasError",
    "NotLeaderError",
    "OffsetAndMetadata",
    "OffsetAndTimestamp",
    "OffsetOutOfRangeError",
    "OutOfOrderSequenceError",
    "PartitionInfo",
    "PoisonedLogError",
    "Policy",
    "Problem",
    "Producer",
    "ProducerConfig",
    "ProducerFencedError",
    "ProducerRecord",
    "ReadOnlyError",
    "RebalanceInProgressError",
    "RebalanceListener",
    "Record",
    "RecordBatch",
    "RecordMetadata",
    "RecordTooLargeError",
    "Records",
    "ReentrantCallError",
    "RepairReport",
    "RepairedPartition",
    "Report",
    "RequestTimedOutError",
    "SegmentInfo",
    "Serde",
    "SerializationError",
    "StorageError",
    "StreamLog",
    "StreamlogError",
    "Topic",
    "TopicAlreadyExistsError",
    "TopicConfig",
    "TopicDefaults",
    "TopicPartition",
    "UnknownMemberIdError",
    "UnknownTopicIdError",
    "UnknownTopicOrPartitionError",
    "UnsupportedCompressionTypeError",
    "Workers",
    "errors",
    "open",
    "repair",
    "retention",
    "serde",
    "verify",
]

_logging.getLogger("streamlog").addHandler(_logging.NullHandler())
