"""Values that every package uses, and two protocols, `Clock` and `Policy`.

Nothing here does I/O, takes a lock or imports another module of the library. Every value is a NamedTuple: immutable,
compared and hashed by content, picklable, and built by C code (`tuple.__new__`), which makes a million `Record`s
affordable.

The docstring of each value lists its fields, and a test compares them. Annotations are evaluated in this module, so that
`help()` shows `topic: str`.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC
from datetime import datetime as _datetime
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Protocol, TypeAlias

MaybeNone: TypeAlias = Any
"""May be None (no key, a tombstone), but no check for it is forced; as in typeshed."""

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    K = TypeVar("K", default=bytes | MaybeNone)
    V = TypeVar("V", default=bytes | MaybeNone)
else:
    from typing import TypeVar

    K = TypeVar("K")
    V = TypeVar("V")

Buffer: TypeAlias = bytes | bytearray | memoryview
Bytes: TypeAlias = Buffer | str
"""What is stored as bytes; a str becomes UTF-8."""
Headers: TypeAlias = Mapping[str, Bytes | None] | Iterable[tuple[str, Bytes | None]]
Isolation: TypeAlias = Literal["read_committed", "read_uncommitted"]
OnCorrupt: TypeAlias = Literal["raise", "skip"]
HeaderTuple: TypeAlias = tuple[tuple[str, bytes | None], ...]
_REPR_BYTES = 64


class Clock(Protocol):
    """The time of a log, as `streamlog.open(clock=…)` takes it. A protocol: any object with these methods is one.

    `streamlog.testing.ManualClock` is a clock that a test moves.

    >>> import streamlog
    >>> from streamlog.testing import ManualClock
    >>> with streamlog.open(clock=ManualClock(start_ms=1_000)) as log:
    ...     log.create_topic("orders").send("9.50").result().timestamp
    1000
    """

    def time_ms(self) -> int:
        """The wall clock in ms since the epoch, which may jump."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""


class TopicPartition(NamedTuple):
    """A partition of a topic. Functions that take one accept an equal plain tuple.

    topic: str
        The topic's name.
    partition: int
        The partition's number, from 0.

    >>> TopicPartition("orders", 0) == ("orders", 0)
    True
    """

    topic: str
    partition: int


class OffsetAndTimestamp(NamedTuple):
    """A result of `Consumer.offsets_for_times`: the first record at or after the given time.

    offset: int
        The record's offset.
    timestamp: int
        Its timestamp, in ms since the epoch.

    >>> import streamlog
    >>> with streamlog.open() as log:
    ...     _ = log.create_topic("orders").send("9.50", timestamp_ms=5_000)
    ...     with log.consumer("orders") as consumer:
    ...         consumer.offsets_for_times({("orders", 0): 1_000})
    {TopicPartition(topic='orders', partition=0): OffsetAndTimestamp(offset=0, timestamp=5000)}
    """

    offset: int
    timestamp: int


class OffsetAndMetadata(NamedTuple):
    """A committed position. `Consumer.commit` takes it wherever it takes an int; `ConsumerGroup.offsets` gives it.

    offset: int
        The NEXT offset to read, as in Kafka: that of the last record that was handled, plus one.
    metadata: str
        A text of the program's, kept with the offset.
    leader_epoch: int or None
        The leader epoch of the last record, if the program gave one.

    >>> import streamlog
    >>> with streamlog.open() as log:
    ...     _ = log.create_topic("orders").send("9.50")
    ...     with log.consumer("orders", group="billing") as consumer:
    ...         _ = consumer.poll()
    ...         consumer.commit({("orders", 0): OffsetAndMetadata(1, "by hand")})
    ...     log.group("billing").offsets()["orders", 0].metadata
    'by hand'
    """

    offset: int
    metadata: str = ""
    leader_epoch: int | None = None


class RecordMetadata(NamedTuple):
    """Where a sent record is in the log: what `Delivery.result` gives.

    topic: str
        The topic's name.
    partition: int
        The partition's number.
    offset: int
        The record's offset; -1 with `acks=0`.
    timestamp: int
        Its timestamp, in ms since the epoch.

    >>> import streamlog
    >>> with streamlog.open() as log:
    ...     log.create_topic("orders").send("9.50", timestamp_ms=5_000).result()
    RecordMetadata(topic='orders', partition=0, offset=0, timestamp=5000)
    """

    topic: str
    partition: int
    offset: int
    timestamp: int


def _short(value: object) -> str:
    if isinstance(value, (bytes, str)) and len(value) > _REPR_BYTES:
        return f"{value[:_REPR_BYTES]!r}… ({len(value)} {'bytes' if isinstance(value, bytes) else 'characters'})"
    text = repr(value)
    return text if len(text) <= 4 * _REPR_BYTES else text[: 4 * _REPR_BYTES] + "…"


class Record(NamedTuple, Generic[K, V]):
    """One record as a reader gets it. It has these seven fields and will get no others. The repr shortens long values.

    topic: str
        The topic's name.
    partition: int
        The partition's number.
    offset: int
        Its place in the partition. Offsets ascend; compaction leaves gaps.
    timestamp: int
        In ms since the epoch; `datetime` is the same as a datetime.
    key: bytes, or what the deserializer makes of them
        None if it has no key.
    value: bytes, or what the deserializer makes of them
        None if it is a tombstone.
    headers: tuple of (str, bytes or None)
        In the order in which they were sent; `header(name)` finds one.

    >>> Record("orders", 0, 7, 0, b"alice", b"9.50", (("trace", b"1"),)).header("trace")
    b'1'
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: K
    value: V
    headers: HeaderTuple

    @property
    def topic_partition(self) -> TopicPartition:
        """The record's topic and partition as one value."""
        return TopicPartition(self.topic, self.partition)

    @property
    def datetime(self) -> _datetime:
        """The timestamp as an aware datetime in UTC.

        >>> Record("t", 0, 0, 1_700_000_000_000, None, b"", ()).datetime.isoformat()
        '2023-11-14T22:13:20+00:00'
        """
        return _datetime.fromtimestamp(self.timestamp / 1000, UTC)

    def header(self, name: str, default: bytes | None = None) -> bytes | None:
        """The value of the last header called `name`, or `default`."""
        for header, value in reversed(self.headers):
            if header == name:
                return value
        return default

    def __repr__(self) -> str:
        return (
            f"Record(topic={self.topic!r}, partition={self.partition}, offset={self.offset}, "
            f"timestamp={self.timestamp}, key={_short(self.key)}, value={_short(self.value)}, "
            f"headers={_short(self.headers)})"
        )


class ProducerRecord(NamedTuple):
    """A record to send. `DeliveryError.records` has those that failed, to send them again.

    value: Any
        None is a tombstone.
    key: Any
        None if it has no key.
    headers: mapping or iterable
        Names and values, or pairs of them. A name is a str; a value is bytes, a str, which becomes UTF-8, or None.
    partition: int or None
        None: the partitioner decides.
    timestamp_ms: int or None
        In ms since the epoch; None: the time of the send.
    topic: str or None
        The topic's name. None, in a pipe: the sink.

    >>> ProducerRecord("9.50", key="alice").topic is None
    True
    """

    value: Any = None
    key: Any = None
    headers: Headers = ()
    partition: int | None = None
    timestamp_ms: int | None = None
    topic: str | None = None


class PartitionInfo(NamedTuple):
    """A snapshot of one partition, as `Topic.partition` gives it.

    topic: str
        The topic's name.
    partition: int
        The partition's number.
    leader: int
        The id of the broker that leads it; -1 while none does, and then the numbers of its log are -1 and 0.
    isr: tuple of int
        The brokers whose copies are in sync.
    replicas: tuple of int
        The brokers that have a copy.
    leader_epoch: int
        The number of the leader's term, as in Kafka.
    log_start_offset: int
        The first offset.
    high_watermark: int
        The end of what readers see: the offset after the last such record.
    last_stable_offset: int
        The end of what `read_committed` readers see.
    log_end_offset: int
        The offset that the next record gets.
    size_bytes: int
        The size of its segments on disk.
    segments: int
        How many segments it has, the active one included.

    >>> import streamlog
    >>> with streamlog.open() as log:
    ...     orders = log.create_topic("orders")
    ...     _ = orders.send_many(["9.50", "20.00"])
    ...     orders.partition(0).log_end_offset
    2
    """

    topic: str
    partition: int
    leader: int
    isr: tuple[int, ...]
    replicas: tuple[int, ...]
    leader_epoch: int
    log_start_offset: int
    high_watermark: int
    last_stable_offset: int
    log_end_offset: int
    size_bytes: int
    segments: int


class SegmentInfo(NamedTuple):
    """One sealed segment, as a retention policy sees it.

    base_offset: int
        The first offset.
    next_offset: int
        The offset after the last record.
    size_bytes: int
        Its size on disk.
    records: int
        How many records it has.
    min_timestamp: int
        The oldest timestamp, in ms since the epoch; -1 if it is not known, or if there is no record.
    max_timestamp: int
        The newest; -1 if there is no record.

    >>> SegmentInfo(0, 100, 5_000, 100, 1_000, 9_000).next_offset
    100
    """

    base_offset: int
    next_offset: int
    size_bytes: int
    records: int
    min_timestamp: int
    max_timestamp: int


class Policy(Protocol):
    """A retention policy, as `create_topic(retention=…)` takes it. A protocol: any object with these members is one.

    `streamlog.retention` has policies, and a base class for your own that can be combined by `|` and `&`.

    >>> import streamlog
    >>> class KeepTwoSegments:
    ...     name = "keep_two_segments"
    ...     def expired(self, segments, now_ms):
    ...         return max(0, len(segments) - 2)
    >>> with streamlog.open() as log:
    ...     log.create_topic("orders", retention=KeepTwoSegments()).config["retention"]
    'keep_two_segments'
    """

    @property
    def name(self) -> str:
        """What the topic stores, as it cannot store the object.

        After the log is reopened, the topic deletes nothing, with a warning, until the policy is given again.
        """

    def expired(self, segments: Sequence[SegmentInfo], now_ms: int) -> int:
        """How many of the oldest may be deleted, of these sealed segments, oldest first. `now_ms`: the log's clock."""


class MemberInfo(NamedTuple):
    """One member of a consumer group, as `ConsumerGroup.members` gives it.

    member_id: str
        Its id, made when it joined.
    client_id: str or None
        The `client_id` of its consumer.
    group_instance_id: str or None
        Its name, if it is a static member.
    assignment: frozenset of TopicPartition
        The partitions assigned to it.
    created_at: str or None
        The program's line that made its consumer, `file:line`; None for a member of another process.

    >>> import streamlog
    >>> with streamlog.open(auto_create_topics=True) as log, log.consumer("orders", group="billing") as consumer:
    ...     _ = consumer.poll()
    ...     [member.assignment for member in log.group("billing").members()]
    [frozenset({TopicPartition(topic='orders', partition=0)})]
    """

    member_id: str
    client_id: str | None
    group_instance_id: str | None
    assignment: frozenset[TopicPartition]
    created_at: str | None = None


class TransactionInfo(NamedTuple):
    """A transaction that is open, or decided and not complete yet, as `StreamLog.transactions` gives it.

    transactional_id: str
        Of its producer.
    state: str
        "Ongoing", "PrepareCommit" or "PrepareAbort", as in Kafka.
    producer_id: int
        That of its producer.
    producer_epoch: int
        Each transaction of a producer has another one.
    age_ms: int (ms)
        For how long it has been open, by the log's clock.
    partitions: frozenset of TopicPartition
        The partitions that it has records in. Those of `__consumer_offsets` have offsets of groups.

    >>> import streamlog
    >>> with streamlog.open(auto_create_topics=True) as log, log.producer(transactional_id="billing") as producer:
    ...     with producer.transaction():
    ...         _ = producer.send("orders", "9.50")
    ...         [(open_.transactional_id, open_.state, open_.partitions) for open_ in log.transactions()]
    [('billing', 'Ongoing', frozenset({TopicPartition(topic='orders', partition=0)}))]
    """

    transactional_id: str
    state: str
    producer_id: int
    producer_epoch: int
    age_ms: int
    partitions: frozenset[TopicPartition]


Offsets: TypeAlias = Mapping[TopicPartition, int] | Mapping[TopicPartition, OffsetAndMetadata]
"""For each partition the NEXT offset to read."""
