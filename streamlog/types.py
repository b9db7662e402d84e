"""Values that every package uses, and two protocols, `Clock` and `Policy`.

Nothing here does I/O, takes a lock or imports another module of the library. Every value is a NamedTuple: immutable,
compared and hashed by content, picklable, and built by C code (`tuple.__new__`), which makes a million `Record`s
affordable.
"""

from __future__ import annotations

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
    """The time of a log. `streamlog.testing.ManualClock` is a clock that a test moves.

    `time_ms` is the wall clock in milliseconds since the epoch, which may jump. `monotonic` is in seconds and never
    goes back.
    """

    def time_ms(self) -> int: ...
    def monotonic(self) -> float: ...


class TopicPartition(NamedTuple):
    """A topic's name and a partition's number. Functions that take one accept an equal plain tuple.

    >>> TopicPartition("orders", 0) == ("orders", 0)
    True
    """

    topic: str
    partition: int


class OffsetAndTimestamp(NamedTuple):
    """A result of `offsets_for_times`: the first record at or after the given time."""

    offset: int
    timestamp: int


class OffsetAndMetadata(NamedTuple):
    """A committed position: the NEXT offset to read, as in Kafka, and metadata of the program."""

    offset: int
    metadata: str = ""
    leader_epoch: int | None = None


class RecordMetadata(NamedTuple):
    """Where a sent record is in the log. `offset` is -1 with `acks=0`; `timestamp` is in ms since the epoch."""

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
    """One record as a reader gets it. It has these seven fields and will get no others.

    `timestamp` is in ms since the epoch. `key` may be None (no key), and so may `value` (a tombstone). The repr
    shortens long values.

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
    """A record to send, as a handler of a pipe may return it. `topic=None` means the sink of the pipe."""

    value: Any = None
    key: Any = None
    headers: Headers = ()
    partition: int | None = None
    timestamp_ms: int | None = None
    topic: str | None = None


class PartitionInfo(NamedTuple):
    """A snapshot of one partition. Offsets are exclusive ends, sizes are bytes on disk."""

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
    """One sealed segment, as a retention policy sees it. Timestamps in ms; -1 if the segment has no record.

    `min_timestamp` is -1 too if it is not known: then nothing may be concluded from it.
    """

    base_offset: int
    next_offset: int
    size_bytes: int
    records: int
    min_timestamp: int
    max_timestamp: int


class Policy(Protocol):
    """Retention: from the sealed segments, oldest first, how many of the oldest may be deleted.

    The topic stores `name`; it cannot store the object. After the log is reopened, the topic deletes nothing, with a
    warning, until the policy is given again. `streamlog.retention` has policies and a base class for your own.
    """

    @property
    def name(self) -> str: ...
    def expired(self, segments: Sequence[SegmentInfo], now_ms: int) -> int: ...


class MemberInfo(NamedTuple):
    """One member of a consumer group and the partitions assigned to it."""

    member_id: str
    client_id: str | None
    group_instance_id: str | None
    assignment: frozenset[TopicPartition]


Offsets: TypeAlias = Mapping[TopicPartition, int] | Mapping[TopicPartition, OffsetAndMetadata]
"""For each partition the NEXT offset to read."""
