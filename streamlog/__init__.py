"""Kafka's topics, partitions, consumer groups, retention and compaction in a local directory.

>>> import streamlog
>>> with streamlog.open("data") as log:
...     orders = log.create_topic("orders", partitions=4, exist_ok=True)
...     with log.producer() as producer:
...         sent = producer.send("orders", "9.50", key="alice")  # in the log when it returns
...     with log.consumer("orders", group="billing") as consumer:
...         for record in consumer.until_end():  # `in consumer` waits for more
...             print(record.key, record.value)
b'alice' b'9.50'

`help()` of each name, rather than of the whole package, which has all of them:

- `open` and `StreamLog`: a log, where all begins; `Replayed` and `SqlResult`: what its `replay` and `sql` give. `Topic`: its records and settings. `Broker`: one of its
  directories. `Reassignment`: replicas that move.
- `Producer`, `Delivery`; `Consumer`, `RebalanceListener`, `ConsumerGroup`, `Workers`: writing, reading, sharing work.
- `external_offsets` and `ExternalOffsets`: exactly once into a database of yours.
- `TopicConfig`, `ColumnConfig`, `ProducerConfig`, `ConsumerConfig`, `open`, `ConsumerGroup.start`: every setting, with its unit and default.
- `Record`, `RecordBatch`, `Records`, `RecordTuple`, `TopicPartition`, `PartitionInfo` and the other values: what each field means.
- `Serde` and the module `serde`: values as JSON, text, msgpack. The module `retention`: policies.
- `verify` and `repair`: damage. `StreamlogError`: the errors, in the module `errors`.
- The logger `streamlog`: what has no caller to raise to, such as a worker that failed. Shown after `logging.basicConfig()`.
- The module `streamlog.testing`: fixtures for pytest, a clock that a test moves, disks that fail. `streamlog.kafka`: Kafka's clients.

Names of types, for annotations: what may be sent (`Bytes`, `Headers`), a place in a partition (`At`), what to read
(`TopicLike`, `Subscription`), `Offsets`, a duration (`Ms`), what makes bytes of values and values of bytes (`Ser`, `De`),
and the values of settings (`Isolation`, `OnCorrupt`, `OnError`).

Beside the code: `KAFKA.md` (what differs from Kafka), `broker/OPERATIONS.md` (what survives what, damage, processes,
limits), `replication/REPLICATION.md`, `testing/TESTING.md`, `cli/COMMANDS.md`, `storage/FORMAT.md` (the bytes),
`runtime/FREE_THREADING.md`.

For readers of the code, the packages, from the bottom up. Each imports only from those above it in this list; the docstring
of each says where everything in it is.

- `types`, `errors`, `config`: values, errors and settings that everything else uses
- `records`: one batch of records as bytes
- `runtime`: the only code that uses files, time and threads
- `storage`: one partition in one directory: segments, indexes, recovery, retention, compaction
- `replication`: a partition, its lock, and what waits for its end to move
- `coordinator`: consumer groups as state machines
- `broker`: directories, topics and groups behind one protocol, `Service`
- `client`: what the user holds: the log, topics, producers, consumers, groups, workers
- `kafka`: the same service behind Kafka's wire protocol, for clients in any language
- `frames`: records as data of Arrow, for data frames and SQL. `notebook`: what a notebook shows of the handles. The methods that need
  these find them through `client/extras.py`
- `testing`: fixtures for pytest, `ManualClock`, `SimulatedDisk` and `FaultyDisk` for the tests of programs
- `cli`: the command `streamlog`

A record's way in: `client/producer/producer.py` → `broker/service.py` → `replication/partition.py` → `storage/log.py`;
with a linger it waits in `client/producer/partition_queue.py` first. Its way out: `client/consumer/consumer.py` asks
`client/consumer/fetcher.py` → `storage/reader.py` → `client/consumer/decode.py`.
"""

import logging as _logging
from typing import TYPE_CHECKING

from .runtime import exits as _exits  # noqa: F401  its exit handler has to be there before those of the program
from .runtime.installation import warn_of_other_distribution as _warn_of_other_distribution
from .runtime.lazy import lazy_names as _lazy_names

__version__ = "0.1.0"

__all__ = [
    "At",
    "Broker",
    "Bytes",
    "Clock",
    "ClosedError",
    "ColumnConfig",
    "CommitFailedError",
    "ConcurrentTransactionsError",
    "ConcurrentUseError",
    "ConfigError",
    "Consumer",
    "ConsumerConfig",
    "ConsumerGroup",
    "ConsumerStoppedError",
    "CoordinatorLoadInProgressError",
    "CorruptRecordError",
    "De",
    "Delivery",
    "DeliveryError",
    "DeliveryTimeoutError",
    "DeserializationError",
    "DiskFullError",
    "ExternalOffsets",
    "FencedInstanceIdError",
    "FencedLeaderEpochError",
    "ForkedError",
    "FormatError",
    "GroupIdNotFoundError",
    "GroupMaxSizeReachedError",
    "GroupNotEmptyError",
    "GroupSubscribedToTopicError",
    "Headers",
    "IllegalGenerationError",
    "InconsistentGroupProtocolError",
    "InvalidGroupIdError",
    "InvalidPidMappingError",
    "InvalidRecordError",
    "InvalidSessionTimeoutError",
    "InvalidTimestampError",
    "InvalidTopicError",
    "InvalidTxnStateError",
    "Isolation",
    "LogDirNotFoundError",
    "LogLockedError",
    "LogTruncationError",
    "MemberIdRequiredError",
    "MemberInfo",
    "MissingExtraError",
    "Ms",
    "NotCoordinatorError",
    "NotEnoughReplicasError",
    "NotLeaderError",
    "OffsetAndMetadata",
    "OffsetAndTimestamp",
    "OffsetOutOfRangeError",
    "Offsets",
    "OnCorrupt",
    "OnError",
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
    "Reassignment",
    "RebalanceInProgressError",
    "RebalanceListener",
    "Record",
    "RecordBatch",
    "RecordMetadata",
    "RecordTooLargeError",
    "RecordTuple",
    "Records",
    "ReentrantCallError",
    "RepairReport",
    "RepairedPartition",
    "Replayed",
    "ReplicaNotAvailableError",
    "Report",
    "RequestTimedOutError",
    "SegmentInfo",
    "Ser",
    "Serde",
    "SerializationError",
    "SqlResult",
    "StaleMemberEpochError",
    "StorageError",
    "StreamLog",
    "StreamlogError",
    "Subscription",
    "Topic",
    "TopicAlreadyExistsError",
    "TopicConfig",
    "TopicDefaults",
    "TopicLike",
    "TopicPartition",
    "TransactionAbortedError",
    "TransactionInfo",
    "UnexpectedAppendOffsetError",
    "UnknownLeaderEpochError",
    "UnknownMemberIdError",
    "UnknownTopicIdError",
    "UnknownTopicOrPartitionError",
    "UnstableOffsetCommitError",
    "UnsupportedCompressionTypeError",
    "Workers",
    "errors",
    "external_offsets",
    "open",
    "pipe",
    "repair",
    "retention",
    "serde",
    "start_pipe",
    "verify",
]

_warn_of_other_distribution()
_logging.getLogger("streamlog").addHandler(_logging.NullHandler())

if TYPE_CHECKING:  # what type checkers see; at run time the same names are imported when they are first used
    from . import errors, retention, serde
    from .broker.offline.repair import RepairedPartition, RepairReport, repair
    from .broker.offline.verify import Problem, Report, verify
    from .client.broker import Broker
    from .client.config_types import (
        ColumnConfig,
        ConsumerConfig,
        Ms,
        OnError,
        ProducerConfig,
        TopicConfig,
        TopicDefaults,
    )
    from .client.consumer.consumer import Consumer
    from .client.consumer.listener import RebalanceListener
    from .client.consumer.record_batch import RecordBatch
    from .client.external_offsets import ExternalOffsets, external_offsets
    from .client.group import ConsumerGroup
    from .client.opening import open
    from .client.pipe import pipe, start_pipe
    from .client.producer.delivery import Delivery
    from .client.producer.producer import Producer
    from .client.reassignment import Reassignment
    from .client.record_tuple import RecordTuple
    from .client.replay import Replayed
    from .client.serde import De, Ser, Serde
    from .client.sql import SqlResult
    from .client.streamlog import StreamLog
    from .client.topic import At, Records, Subscription, Topic, TopicLike
    from .client.workers import Workers
    from .errors import (
        ClosedError,
        CommitFailedError,
        ConcurrentTransactionsError,
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
        GroupMaxSizeReachedError,
        GroupNotEmptyError,
        GroupSubscribedToTopicError,
        IllegalGenerationError,
        InconsistentGroupProtocolError,
        InvalidGroupIdError,
        InvalidPidMappingError,
        InvalidRecordError,
        InvalidSessionTimeoutError,
        InvalidTimestampError,
        InvalidTopicError,
        InvalidTxnStateError,
        LogDirNotFoundError,
        LogLockedError,
        LogTruncationError,
        MemberIdRequiredError,
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
        ReplicaNotAvailableError,
        RequestTimedOutError,
        SerializationError,
        StaleMemberEpochError,
        StorageError,
        StreamlogError,
        TopicAlreadyExistsError,
        TransactionAbortedError,
        UnexpectedAppendOffsetError,
        UnknownLeaderEpochError,
        UnknownMemberIdError,
        UnknownTopicIdError,
        UnknownTopicOrPartitionError,
        UnstableOffsetCommitError,
        UnsupportedCompressionTypeError,
    )
    from .types import (
        Bytes,
        Clock,
        Headers,
        Isolation,
        MemberInfo,
        OffsetAndMetadata,
        OffsetAndTimestamp,
        Offsets,
        OnCorrupt,
        PartitionInfo,
        Policy,
        ProducerRecord,
        Record,
        RecordMetadata,
        SegmentInfo,
        TopicPartition,
        TransactionInfo,
    )
else:
    _MODULES = {
        "broker.offline.repair": "RepairReport RepairedPartition repair",
        "broker.offline.verify": "Problem Report verify",
        "client.broker": "Broker",
        "client.config_types": "ColumnConfig ConsumerConfig Ms OnError ProducerConfig TopicConfig TopicDefaults",
        "client.consumer.consumer": "Consumer",
        "client.consumer.listener": "RebalanceListener",
        "client.consumer.record_batch": "RecordBatch",
        "client.external_offsets": "ExternalOffsets external_offsets",
        "client.group": "ConsumerGroup",
        "client.opening": "open",
        "client.pipe": "pipe start_pipe",
        "client.producer.delivery": "Delivery",
        "client.producer.producer": "Producer",
        "client.reassignment": "Reassignment",
        "client.record_tuple": "RecordTuple",
        "client.replay": "Replayed",
        "client.sql": "SqlResult",
        "client.serde": "De Ser Serde",
        "client.streamlog": "StreamLog",
        "client.topic": "At Records Subscription Topic TopicLike",
        "client.workers": "Workers",
        "types": "Bytes Clock Headers Isolation MemberInfo OffsetAndMetadata OffsetAndTimestamp Offsets OnCorrupt PartitionInfo Policy ProducerRecord Record RecordMetadata SegmentInfo TopicPartition TransactionInfo",
        "errors": " ".join(name for name in __all__ if name.endswith("Error") and name != "OnError"),
    }
    __getattr__, __dir__ = _lazy_names(globals(), _MODULES, ("errors", "retention", "serde"))
