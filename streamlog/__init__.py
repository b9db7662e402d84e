"""streamlog: Kafka's topics, partitions, groups, retention and compaction in a local directory.

    import streamlog

    with streamlog.open("data/") as log:
        log.create_topic("orders", partitions=4, exist_ok=True)
        with log.producer() as producer:
            producer.send("orders", "9.50", key="alice")       # in the log when it returns
        with log.consumer("orders", group="billing") as consumer:
            for record in consumer.until_end():                # `in consumer` waits for more
                charge(record.key, record.value)

The packages, from the bottom up. Each imports only from those above it in this list; the docstring of each says where
everything in it is.

- `types`, `errors`, `config`: values, errors and settings that everything else uses
- `records`: one batch of records as bytes
- `runtime`: the only code that uses files, time and threads
- `storage`: one partition in one directory: segments, indexes, recovery, retention, compaction
- `replication`: a partition, its lock, and what waits for its end to move
- `coordinator`: consumer groups as state machines
- `broker`: directories, topics and groups behind one protocol, `Service`
- `client`: what the user holds: the log, topics, producers, consumers, groups, workers
- `testing`: `ManualClock`, `SimulatedDisk` and `FaultyDisk` for the tests of programs
- `cli`: the command `streamlog`

A record's way in: `client/producer/producer.py` → `broker/service.py` → `replication/partition.py` → `storage/log.py`;
with a linger it waits in `client/producer/partition_queue.py` first. Its way out: `client/consumer/consumer.py` asks
`client/consumer/fetcher.py` → `storage/reader.py` → `client/consumer/decode.py`.

Every setting, with its unit and default: `help(streamlog.TopicConfig)`, `ProducerConfig`, `ConsumerConfig`, `open`,
`ConsumerGroup.start`. Beside the code: `KAFKA.md` (what differs from Kafka), `broker/OPERATIONS.md` (what survives what,
damage, processes, limits), `testing/TESTING.md`, `cli/COMMANDS.md`, `storage/FORMAT.md` (the bytes).
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
    CoordinatorLoadInProgressError,
    CorruptRecordError,
    DeliveryError,
    DeliveryTimeoutError,
    DeserializationError,
    DiskFullError,
    FencedInstanceIdError,
    FencedLeaderEpochError,
    ForkedError,
    FormatError,
    GroupIdNotFoundError,
    GroupNotEmptyError,
    GroupSubscribedToTopicError,
    InconsistentGroupProtocolError,
    InvalidRecordError,
    InvalidTimestampError,
    InvalidTopicError,
    InvalidTxnStateError,
    LogDirNotFoundError,
    LogLockedError,
    LogTruncationError,
    MissingExtraError,
    NotCoordinatorError,
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
    UnexpectedAppendOffsetError,
    UnknownLeaderEpochError,
    UnknownMemberIdError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
    UnsupportedCompressionTypeError,
)
from .runtime.installation import warn_of_other_distribution as _warn_of_other_distribution
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
    "CoordinatorLoadInProgressError",
    "CorruptRecordError",
    "Delivery",
    "DeliveryError",
    "DeliveryTimeoutError",
    "DeserializationError",
    "DiskFullError",
    "FencedInstanceIdError",
    "FencedLeaderEpochError",
    "ForkedError",
    "FormatError",
    "GroupIdNotFoundError",
    "GroupNotEmptyError",
    "GroupSubscribedToTopicError",
    "InconsistentGroupProtocolError",
    "InvalidRecordError",
    "InvalidTimestampError",
    "InvalidTopicError",
    "InvalidTxnStateError",
    "LogDirNotFoundError",
    "LogLockedError",
    "LogTruncationError",
    "MemberInfo",
    "MissingExtraError",
    "NotCoordinatorError",
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
    "UnexpectedAppendOffsetError",
    "UnknownLeaderEpochError",
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

_warn_of_other_distribution()
_logging.getLogger("streamlog").addHandler(_logging.NullHandler())
