"""Everything a producer has worked out about one topic, so that `send` need not do it again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ...broker.metadata import TopicView
from ...config import ProducerConfig
from ...errors import (
    InvalidRecordError,
    InvalidTimestampError,
    RecordTooLargeError,
    SerializationError,
    UnknownTopicOrPartitionError,
    message_of,
)
from ...runtime.api import Lock
from ...runtime.values import refuse_to_copy
from ...types import HeaderTuple
from ..arguments import count_of, up_to
from ..serde import resolve_serializer, to_bytes
from .partition_queue import RECORD_OVERHEAD, PartitionQueue
from .partitioner import Partitioner

Serialize = Callable[[Any], bytes]


# How many records of a column are weighed together.
_WINDOW = 128


class Column(NamedTuple):
    """Keys or values of many records, as bytes. `weights`: see `weigh`; None also if one of the items is."""

    items: list[bytes | None]
    weights: list[int] | None

    def lengths(self) -> list[int]:
        """The bytes of each item."""
        return [0 if i is None else len(i) if type(i) is bytes else memoryview(i).nbytes for i in self.items]


def weigh(column: Sequence[Any]) -> list[int] | None:
    """The bytes of each `_WINDOW` items together, the last few by themselves; None unless all are bytes, or some
    other buffer.

    Joining a few is several times as fast as asking each for its type or its length, and tells both: that all are
    buffers, and that none is larger than all of them together. Another buffer is packed as bytes too, or refused when
    its batch is encoded.
    """
    try:
        return [len(b"".join(column[start : start + _WINDOW])) for start in range(0, len(column), _WINDOW)]
    except TypeError:
        return None


class Route:
    """One topic as one producer sees it, until the topic changes.

    `plain` means that bytes can go as they are: no serializer. `only` is the queue of a topic with a
    single partition.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(
        self,
        topic: TopicView,
        config: ProducerConfig,
        partitioner: Partitioner,
        partition_lock: Lock,
        queues: Sequence[PartitionQueue],
        key_serializer: Any = None,
        value_serializer: Any = None,
    ) -> None:
        self.topic = topic
        self.queues = queues
        self.count = len(queues)
        self.only = queues[0] if len(queues) == 1 and not callable(config.partitioner) else None
        self.partitioner = partitioner
        self.partition_lock = partition_lock
        self.serdes = key_serializer, value_serializer  # kept, for a route is known by their ids
        self.serialize_key: Serialize | None = resolve_serializer(key_serializer, topic.name, "key")
        self.serialize_value: Serialize | None = resolve_serializer(value_serializer, topic.name)
        self.plain = self.serialize_key is None and self.serialize_value is None
        self.needs_key = topic.config.compacts
        self.max_size = min(config.max_request_size, topic.config.max_message_bytes, config.buffer_memory)
        self.after_max_ms = topic.config.message_timestamp_after_max_ms

    # -- one record ----------------------------------------------------------------------------------

    def prepare(self, key: Any, value: Any) -> tuple[bytes | None, bytes | None]:
        """Key and value as bytes. Raises SerializationError, InvalidRecordError."""
        return self.key_bytes(key), self.value_bytes(value)

    def key_bytes(self, key: Any) -> bytes | None:
        if key is None:
            if self.needs_key:
                raise self.no_key()
            return None
        return to_bytes(key if self.serialize_key is None else _serialize(self.serialize_key, key, "key"), "key")

    def value_bytes(self, value: Any) -> bytes | None:
        if value is None:
            return None
        return to_bytes(
            value if self.serialize_value is None else _serialize(self.serialize_value, value, "value"), "value"
        )

    def no_key(self) -> InvalidRecordError:
        return InvalidRecordError(
            f"Topic {self.topic.name!r} is compacted: it keeps the last value of each key, so every record needs a key.",
            topic=self.topic.name,
        )

    def too_large(self, size: int) -> RecordTooLargeError:
        return RecordTooLargeError(
            f"A record of {size} bytes is larger than the {self.max_size} allowed for {self.topic.name!r}: the smallest of "
            f"the producer's max_request_size and buffer_memory and the topic's max_message_bytes. Raise those, or send it in parts.",
            size=size,
            max_size=self.max_size,
        )

    def timestamp(self, given: Any, now_ms: int) -> int:
        """A timestamp that was given, checked. Raises InvalidTimestampError."""
        if isinstance(given, bool) or not isinstance(given, int):
            raise InvalidTimestampError(f"timestamp_ms is an int of milliseconds since the epoch, not {given!r}.")
        if given < 0 or given >= 1 << 62:
            raise InvalidTimestampError(f"timestamp_ms={given} is no time since the epoch in milliseconds.")
        if 0 <= self.after_max_ms < given - now_ms:
            raise InvalidTimestampError(
                f"timestamp_ms={given} is {given - now_ms} ms ahead of the clock; {self.topic.name!r} allows "
                f"{self.after_max_ms} (message_timestamp_after_max_ms). Check the unit (milliseconds), or raise the setting.",
                timestamp=given,
            )
        return given

    def queue_for(self, key: bytes | None, partition: Any) -> PartitionQueue:
        """The queue of the partition asked for, or of the one the partitioner picks."""
        if partition is None:
            if self.only is not None:
                return self.only
            with self.partition_lock:
                return self.queues[self.partitioner.partition(self.topic.name, key, self.count)]
        if isinstance(partition, bool) or not isinstance(partition, int):
            raise UnknownTopicOrPartitionError(f"partition is an int, not {partition!r}.")
        if not 0 <= partition < self.count:
            raise UnknownTopicOrPartitionError(
                f"Topic {self.topic.name!r} has partitions 0 to {self.count - 1}, and no {partition}.",
                topic=self.topic.name,
                partition=partition,
            )
        return self.queues[partition]

    def batch_is_full(self) -> None:
        """Records without a key move on to another partition."""
        if self.only is None:
            with self.partition_lock:
                self.partitioner.on_new_batch(self.topic.name, self.count)

    def timestamps(self, given: Iterable[Any], now_ms: int, n: int) -> list[int]:
        """The timestamps of `n` records, checked. Raises InvalidTimestampError."""
        times = [self.timestamp(each, now_ms) for each in up_to(n + 1, given)]
        if len(times) != n:
            raise InvalidTimestampError(
                f"send_many got {n} values and {count_of(given, times)} timestamps; one for each value."
            )
        return times

    # -- many ----------------------------------------------------------------------------------------

    def many(self, items: Iterable[Any], serialize: Serialize | None, what: str, owned: bool) -> Column:
        """A column of keys or values as bytes; `owned`: not as buffers that the caller could still change."""
        if isinstance(items, (str, bytes, bytearray, memoryview, Mapping)):
            raise SerializationError(
                f"send_many takes an iterable of {what}s, one for each record; {type(items).__name__} is a single one. "
                f"Use send, or put it into a list."
            )
        column = list(items)
        if serialize is None and not (owned and set(map(type, column)) != {bytes}):
            weights = weigh(column)
            if weights is not None:
                return Column(column, weights)
        if serialize is None:
            made = [None if item is None else to_bytes(item, what) for item in column]
        else:
            made = [None if item is None else to_bytes(_serialize(serialize, item, what), what) for item in column]
        return Column(made, weigh(made))

    def spread(
        self, keys: list[bytes | None] | None, partition: int | None, n: int
    ) -> Iterable[tuple[PartitionQueue, range | list[int]]]:
        """Which of `n` records go to which partition: all of them in a range, or a list of indexes each."""
        if not n:
            return []
        if partition is not None or self.only is not None:
            return [(self.queue_for(None, partition), range(n))]
        with self.partition_lock:
            where = self.partitioner.partition_many(self.topic.name, keys, self.count, n)
            if keys is None:
                self.partitioner.on_new_batch(self.topic.name, self.count)
        chosen: list[list[int]] = [[] for _ in range(self.count)]
        for index, number in enumerate(where):
            chosen[number].append(index)
        return [(self.queues[number], indexes) for number, indexes in enumerate(chosen) if indexes]


def _serialize(serialize: Serialize, item: Any, what: str) -> Any:
    try:
        return serialize(item)
    except Exception as error:
        raise SerializationError(
            f"The {what} serializer failed on a {type(item).__name__}: {message_of(error)}. The record was not sent."
        ) from error


def header_tuple(headers: Any) -> HeaderTuple:
    """Headers as given (a mapping, or pairs) in the form they are stored in. Raises SerializationError."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    made: list[tuple[str, bytes | None]] = []
    try:
        for name, value in pairs:
            if not isinstance(name, str):
                raise SerializationError(f"A header's name is a str, not {name!r}.")
            name.encode()  # a lone surrogate is a str, and no text that could be written
            made.append((name, to_bytes(value, f"header {name!r}")))
    except (TypeError, ValueError) as error:
        if isinstance(error, SerializationError):
            raise
        raise SerializationError(
            f"headers= takes a mapping of names to bytes, or pairs of them, not {headers!r:.100}."
        ) from error
    return tuple(made)


def headers_size(headers: HeaderTuple) -> int:
    return sum(len(name) * 4 + (len(value) if value is not None else 0) + RECORD_OVERHEAD for name, value in headers)
