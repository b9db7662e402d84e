"""What a producer knows of the topics it sends to: worked out at the first send, dropped when the topic changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ...broker.api import Service
from ...broker.metadata import TopicView
from ...config import ProducerConfig, shown, typed
from ...errors import (
    InvalidRecordError,
    InvalidTimestampError,
    RecordTooLargeError,
)
from ...runtime.api import Lock
from ...runtime.threads import inside, new_lock, new_reentrant_lock
from ...runtime.values import refuse_to_copy
from ..arguments import partition_number
from ..handle import Parent
from ..serde import resolve_serializer, serialize, to_bytes
from .accumulator import RecordAccumulator
from .partition_queue import PartitionQueue
from .partitioner import Partitioner, Sticky, make_partitioner

# How many topic handles with serdes are remembered, whatever the number of topics, and for each topic there is. Each has an
# entry of its own, and a program may make them without end. With the first bound alone, a program that sends to more topics
# than that, one after the other, had each send look its topic up. Entries by name, and those of handles without serdes,
# are bounded by the number of topics.
MAX_HANDLES_WITH_SERDES, HANDLES_FOR_EACH_TOPIC = 1000, 4


class CachedTopic:
    """One topic as one producer sees it: serializers, partitioner, queues, limits.

    The queue of a partition is made when the first record goes to it: the first send to a topic of 5,000 partitions took
    30 ms otherwise. `plain`: there is no serializer, so bytes are stored as they are. `only`: the queue of a topic with
    one partition, where no partitioner need be asked. `lingering`: that queue if a record of bytes may join its open batch
    without any further check, as `Producer.send` does; else None.
    """

    __slots__ = ("__dict__", "lingering", "max_size")  # where the core in C finds them
    __reduce_ex__ = refuse_to_copy

    def __init__(
        self,
        topic: TopicView,
        config: ProducerConfig,
        partitioner: Partitioner,
        partition_lock: Lock,
        queue_of: Callable[[TopicView, int], PartitionQueue],
        key_serializer: Any = None,
        value_serializer: Any = None,
    ) -> None:
        self.topic = topic
        self.count = topic.partitions
        self._queue_of = queue_of
        self._queues: list[PartitionQueue | None] = [None] * topic.partitions
        self.only = self.queue(0) if topic.partitions == 1 and not callable(config.partitioner) else None
        self.partitioner = partitioner
        # Records without a key, or all records, stay on a partition while a batch is open there. Not without a linger.
        self._sticky = isinstance(partitioner, Sticky)
        self.sticks = bool(config.linger_ms) and self._sticky
        self.ignores_keys = isinstance(partitioner, Sticky) and partitioner.ignores_keys
        self.partition_lock = partition_lock
        self.serdes = key_serializer, value_serializer  # kept alive, because the cache knows them by their ids
        self.serialize_key = resolve_serializer(key_serializer, topic.name, "key")
        self.serialize_value = resolve_serializer(value_serializer, topic.name)
        self.plain = self.serialize_key is None and self.serialize_value is None
        self.lingering = self.only if self.plain and config.linger_ms and config.acks != 0 else None
        self.needs_key = topic.config.compacts
        self.max_size = min(config.max_request_size, topic.config.max_message_bytes, config.buffer_memory)
        self.after_max_ms = topic.config.message_timestamp_after_max_ms

    # -- what a record may be ------------------------------------------------------------------------

    def key_bytes(self, key: Any) -> bytes | None:
        """The key as it is stored. Raises SerializationError; InvalidRecordError if it is missing and needed."""
        if key is None:
            if self.needs_key:
                raise self.no_key()
            return None
        return to_bytes(key if self.serialize_key is None else serialize(self.serialize_key, key, "key"), "key")

    def value_bytes(self, value: Any) -> bytes | None:
        """The value as it is stored. Raises SerializationError."""
        if value is None:
            return None
        made = value if self.serialize_value is None else serialize(self.serialize_value, value, "value")
        return to_bytes(made, "value")

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
        """The timestamp that the caller gave. Raises InvalidTimestampError."""
        if isinstance(given, bool) or not isinstance(given, int):
            raise InvalidTimestampError(
                f"timestamp_ms is an int of milliseconds since the epoch, as int(time.time() * 1000), not {typed(given)}."
            )
        if given < 0 or given >= 1 << 62:
            raise InvalidTimestampError(
                f"timestamp_ms={shown(given)} is not a time in milliseconds since the epoch: it must be from 0 to 2**62 - 1."
            )
        if 0 <= self.after_max_ms < given - now_ms:
            raise InvalidTimestampError(
                f"timestamp_ms={given} is {given - now_ms} ms ahead of the clock; {self.topic.name!r} allows "
                f"{self.after_max_ms} (message_timestamp_after_max_ms). Check the unit (milliseconds), or raise the setting.",
                timestamp=given,
            )
        return given

    # -- where it goes -------------------------------------------------------------------------------

    def queue(self, number: int) -> PartitionQueue:
        """The queue of a partition that the topic has."""
        queue = self._queues[number]
        if queue is None:
            queue = self._queues[number] = self._queue_of(self.topic, number)
        return queue

    def queue_for(self, key: bytes | None, partition: Any) -> PartitionQueue:
        """The queue of `partition`, or if that is None of the partition that the partitioner picks.

        Raises UnknownTopicOrPartitionError.
        """
        if partition is None:
            with self.partition_lock:
                number = self.partitioner.partition(self.topic.name, key, self.count)
                queue = self._queues[number] or self.queue(number)
                if (key is None or self.ignores_keys) and self.sticks:
                    try:
                        begins = queue.queue[-1].closed  # `queue.open`, without its call
                    except IndexError:
                        begins = True
                    if begins:  # a batch, because the one before was full, or its linger is over
                        self.partitioner.on_new_batch(self.topic.name, self.count)
                        queue = self.queue(self.partitioner.partition(self.topic.name, key, self.count))
                return queue
        number = partition_number(partition, self.topic)
        return self._queues[number] or self.queue(number)

    def takes_turns(self, keys: list[bytes | None] | None) -> bool:
        """Whether each batch of records with these keys may go to another partition."""
        return self._sticky and self.only is None and (keys is None or self.ignores_keys)

    def next_queue(self) -> PartitionQueue:
        """The queue of the next batch of records without a key, after one that `queue_for` or this gave is whole."""
        with self.partition_lock:
            if self.sticks:
                self.partitioner.on_new_batch(self.topic.name, self.count)
            return self.queue(self.partitioner.partition(self.topic.name, None, self.count))

    def spread(
        self, keys: list[bytes | None] | None, partition: int | None, n: int
    ) -> Iterable[tuple[PartitionQueue, range | list[int]]]:
        """Which of `n` records go to which partition: a range of all of them, or a list of indexes for each queue."""
        if not n:
            return []
        only = self.only if partition is None else self.queue_for(None, partition)
        if only is not None:
            return [(only, range(n))]
        with self.partition_lock:
            partitions = self.partitioner.partition_many(self.topic.name, keys, self.count, n)
        chosen: list[list[int]] = [[] for _ in range(self.count)]
        for index, number in enumerate(partitions):
            chosen[number].append(index)
        return [(self.queue(number), indexes) for number, indexes in enumerate(chosen) if indexes]


class TopicCache:
    """The topics of one producer. Thread-safe.

    `topics` has a CachedTopic under the topic's name, and under `Topic._cache_key` for handles, which may have serdes of
    their own. The cache refers neither to the producer nor to the log: the service refers to the cache, through
    `invalidate`, and must not keep a producer that the program has dropped.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(self, service: Service, config: ProducerConfig, accumulator: RecordAccumulator, start: int) -> None:
        """`start`: the partition at which the partitioners begin."""
        self.topics: dict[Any, CachedTopic] = {}
        self._with_serdes: dict[
            Any, None
        ] = {}  # the oldest first; those of changed topics too, until they are the oldest
        self._service = service
        self._config = config
        self._accumulator = accumulator
        self._start = start
        self._lock = new_lock()
        # A partitioner can be the program's own code, and a signal handler that interrupts it can send too.
        self._partition_lock = new_reentrant_lock()
        self._partitioners: dict[str | Callable[[str, bytes | None, int], int], Partitioner] = {}

    def find(self, log: Parent, topic: Any) -> CachedTopic:
        """The topic, by its name or handle, looked up in the log and remembered.

        Raises UnknownTopicOrPartitionError, InvalidTopicError; InvalidRecordError for an internal topic.
        """
        name, key_serde, value_serde = log._name_of(topic)
        view = log._topic_view(name) if isinstance(topic, str) else topic._view()
        with inside(), self._lock:
            if key_serde is None and value_serde is None:
                cached = self.topics.get(name)
                if cached is None or cached.topic is not view:
                    cached = self.topics[name] = self._make(view, None, None)
            else:
                cached = self._make(view, key_serde, value_serde)
                self._with_serdes[topic._cache_key] = None
                most = max(MAX_HANDLES_WITH_SERDES, HANDLES_FOR_EACH_TOPIC * len(self._service.image.topics))
                if len(self._with_serdes) > most:
                    oldest = next(iter(self._with_serdes))
                    self.topics.pop(oldest, None)
                    del self._with_serdes[oldest]
            if not isinstance(topic, str):
                self.topics[topic._cache_key] = cached
        if self._service.image.topics.get(name) is not view:  # it changed meanwhile: `invalidate` came too early
            self.invalidate()
        return cached

    def _make(self, view: TopicView, key_serde: Any, value_serde: Any) -> CachedTopic:
        """REQUIRES: the lock."""
        config = self._config
        if view.internal:
            raise InvalidRecordError(f"{view.name!r} is internal to the log; records cannot be sent to it.")
        spec = config.partitioner if config.partitioner is not None else view.config.partitioner
        partitioner = self._partitioners.get(spec)
        if partitioner is None:
            partitioner = make_partitioner(spec, self._start, unbatched=not config.linger_ms)
            self._partitioners[spec] = partitioner
        return CachedTopic(
            view,
            config,
            partitioner,
            self._partition_lock,
            self._accumulator.queue,
            config.key_serializer if config.key_serializer is not None else key_serde,
            config.value_serializer if config.value_serializer is not None else value_serde,
        )

    def invalidate(self) -> None:
        """Forget the topics that changed or were deleted. The service calls this after each change of its metadata.

        It takes no lock of the cache's: a serializer or partitioner, which `find` may be calling, can wait for the thread
        that changes the metadata.
        """
        # Before the image is read: what is known now and not in the image is gone, and not too new for it.
        known, queues = list(self.topics.items()), list(self._accumulator.queues)
        image = self._service.image
        topics = image.topics
        try:
            for key, cached in known:
                if topics.get(cached.topic.name) is not cached.topic:
                    self.topics.pop(key, None)
        except BaseException:  # an interrupt: the entries that were not looked at may be stale
            self.topics.clear()
            raise
        self._accumulator.forget_queues(place for place in queues if place[0] not in image.names)
        for partitioner in list(self._partitioners.values()):
            partitioner.keep_only(topics)
