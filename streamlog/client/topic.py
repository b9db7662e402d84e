"""A topic: its records, read and sent without a producer or consumer, and its upkeep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain
from types import MappingProxyType
from typing import Any, Generic, Unpack
from uuid import UUID

from ..broker.metadata import TopicView
from ..config import choice, shown
from ..errors import ConfigError, OffsetOutOfRangeError, UnknownTopicIdError
from ..runtime.values import refuse_to_copy
from ..types import K, PartitionInfo, Record, RecordMetadata, TopicPartition, V
from .arguments import to_ms
from .config_types import TopicConfig
from .consumer.decode import Decoder
from .consumer.fetcher import PartitionFetcher
from .consumer.record_batch import RecordBatch
from .handle import Parent
from .producer.delivery import Delivery
from .producer.producer import Producer
from .serde import resolve_deserializer

_TAKE = 512


class Records(chain[Record[K, V]], Generic[K, V]):
    """A bounded read: partition after partition, from start to end as they were at the call.

    An iterator. It is a chain of runs of records, so a loop over it pays no Python frame a record.
    """

    __reduce_ex__ = refuse_to_copy  # a copy would take records from this one

    def __repr__(self) -> str:
        return "<streamlog.Records>"


class Topic(Generic[K, V]):
    """A handle on one topic, equal and hashable by log and name; made by `log.topic(name)` or `log[name]`.

    >>> import streamlog
    >>> with streamlog.open() as log:
    ...     topic = log.create_topic("orders", partitions=2)
    ...     _ = topic.send("9.50", key="alice", partition=1)
    ...     [record.value for record in topic.read()]
    [b'9.50']
    """

    def __init__(self, log: Parent, name: str, *, key_serde: Any = None, value_serde: Any = None) -> None:
        self._log = log
        self.name = name
        self._key_serde = key_serde
        self._value_serde = value_serde
        self.id: UUID = log._use().topic(name).id
        # The key in a producer's cache: equal handles may have other serdes, or mean another topic of the same name.
        self._cache_key = (log._identity(), self.id.int, id(key_serde), id(value_serde))

    # -- what it is ----------------------------------------------------------------------------------

    def _view(self) -> TopicView:
        """The topic as it is now. Raises UnknownTopicIdError if it was deleted and made again."""
        view = self._log._use().topic(self.name)
        if view.id != self.id:
            raise UnknownTopicIdError(
                f"Topic {self.name!r} was deleted, and another was created under its name; get that one with "
                f"log[{self.name!r}].",
                topic=self.name,
            )
        return view

    @property
    def partitions(self) -> int:
        """How many partitions there are now."""
        return self._view().partitions

    @property
    def config(self) -> Mapping[str, Any]:
        """The settings in effect; None is unlimited."""
        return MappingProxyType(self._view().config.public())

    def partition(self, n: int) -> PartitionInfo:
        """A snapshot of partition `n`: offsets, size, leader."""
        self._view()
        return self._log._use().partition_info(TopicPartition(self.name, n))

    # -- sending -------------------------------------------------------------------------------------

    def send(
        self,
        value: Any = None,
        key: Any = None,
        *,
        headers: Any = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> Delivery[RecordMetadata]:
        """`Producer.send` without a linger or a transaction: in the log on return."""
        producer: Producer = self._log._topic_producer()
        return producer.send(self, value, key, headers=headers, partition=partition, timestamp_ms=timestamp_ms)

    def send_many(
        self,
        values: Iterable[Any],
        keys: Iterable[Any] | None = None,
        *,
        headers: Any = None,
        partition: int | None = None,
        timestamps_ms: Iterable[int] | None = None,
    ) -> Delivery[Sequence[RecordMetadata]]:
        """`Producer.send_many`: everything checked before the first append, in the log on return."""
        producer: Producer = self._log._topic_producer()
        return producer.send_many(self, values, keys, headers=headers, partition=partition, timestamps_ms=timestamps_ms)

    # -- reading -------------------------------------------------------------------------------------

    def read(
        self,
        partition: int | None = None,
        *,
        start: int | datetime | str = "earliest",
        end: int | datetime | str = "latest",
        isolation_level: str = "read_committed",
        on_corrupt: str = "raise",
    ) -> Records[K, V]:
        """The records from `start` up to, not including, `end`, of one partition or of all, one after another.

        An int is an offset, a datetime (aware) the first record at or after it. The bounds are checked
        and fixed at the call. Raises OffsetOutOfRangeError, ValueError; CorruptRecordError on the way
        unless `on_corrupt="skip"`. Cost: a fifth of a µs a record.
        """
        bounded = self._readers(partition, start, end, isolation_level, on_corrupt)
        runs = (run for reader, stop in bounded for run in _lists(reader, stop))
        records: Any = Records.from_iterable(runs)
        found: Records[K, V] = records
        return found

    def read_batches(
        self,
        partition: int | None = None,
        *,
        start: int | datetime | str = "earliest",
        end: int | datetime | str = "latest",
        isolation_level: str = "read_committed",
        on_corrupt: str = "raise",
    ) -> Iterator[RecordBatch[K, V]]:
        """`read`, by columns; the first and the last batch are cut to `start` and `end`."""
        bounded = self._readers(partition, start, end, isolation_level, on_corrupt)
        return chain.from_iterable(reader.batches_until(stop) for reader, stop in bounded)

    def _readers(
        self, partition: int | None, start: Any, end: Any, isolation: str, on_corrupt: str
    ) -> list[tuple[PartitionFetcher, int]]:
        choice("isolation_level", isolation, ("read_committed", "read_uncommitted"))
        choice("on_corrupt", on_corrupt, ("raise", "skip"))
        view = self._view()
        service = self._log._use()
        numbers = range(view.partitions) if partition is None else [partition]
        bounded: list[tuple[PartitionFetcher, int]] = []
        for number in numbers:
            name = TopicPartition(self.name, number)
            low, high = service.bounds(name, isolation)
            first = self._offset(name, start, low, high, "start")
            stop = self._offset(name, end, low, high, "end")
            decoder = Decoder(
                self.name,
                number,
                resolve_deserializer(self._key_serde, self.name, "key"),
                resolve_deserializer(self._value_serde, self.name),
            )
            bounded.append((PartitionFetcher(service, name, decoder, isolation, on_corrupt, first), stop))
        return bounded

    def _offset(self, name: TopicPartition, at: Any, low: int, high: int, what: str) -> int:
        if isinstance(at, str):
            choice(what, at, ("earliest", "latest"))
            return low if at == "earliest" else high
        if isinstance(at, datetime):
            found = self._log._use().find_time(name, to_ms(at))
            return high if found is None else found.offset
        if isinstance(at, bool) or not isinstance(at, int) or not low <= at <= high:
            raise OffsetOutOfRangeError(
                f"{what}={shown(at)} is outside {name.topic}-{name.partition}, which holds offsets {low} up to, not including, "
                f"{high}.",
                log_start_offset=low,
                log_end_offset=high,
            )
        return at

    # -- upkeep --------------------------------------------------------------------------------------

    def apply_retention(self) -> None:
        """Delete what the retention lets go, now, rolling the active segment first."""
        self._view()
        self._log._use().apply_retention(self.name)

    def compact(self) -> None:
        """Compact now, rolling the active segment first. Raises ConfigError unless the topic is compacted, ClosedError if
        the log is closed meanwhile: that does not wait for it."""
        self._view()
        self._log._use().compact(self.name)

    def update_config(self, **topic_config: Unpack[TopicConfig]) -> None:
        """Change settings; what is in the log stays until they are applied to it."""
        self._view()
        self._log._use().update_topic(self.name, topic_config)

    def add_partitions(self, total: int) -> None:
        """Grow to `total` partitions. Records of one key may from then on go to another one."""
        self._view()
        self._log._use().add_partitions(self.name, total)

    def delete_records(self, before: Mapping[int, int]) -> None:
        """Forget the records before an offset, by partition. Raises OffsetOutOfRangeError; then nothing went."""
        view = self._view()
        service = self._log._use()
        if not isinstance(before, Mapping):
            raise ConfigError(
                f"delete_records takes a mapping of partition number to offset, not {before!r:.80}.", name="before"
            )
        for number, offset in before.items():
            low, high = service.bounds(TopicPartition(view.name, number), "read_uncommitted")
            if isinstance(offset, bool) or not isinstance(offset, int) or not 0 <= offset <= high:
                raise OffsetOutOfRangeError(
                    f"delete_records: offset {shown(offset)} is outside {view.name}-{number}, which holds {low} up to, not "
                    f"including, {high}.",
                    log_start_offset=low,
                    log_end_offset=high,
                )
        for number, offset in before.items():
            service.delete_records(TopicPartition(view.name, number), offset)

    def delete(self) -> None:
        """Delete the topic, its records and its committed offsets. For good."""
        self._view()
        self._log.delete_topic(self.name)

    # -- as a value ----------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Topic) and other.name == self.name and other._log._same_log(self._log)

    def __hash__(self) -> int:
        return hash((self._log._identity(), self.name))

    def __reduce__(self) -> Any:
        raise TypeError("a Topic is a handle on an open log and cannot be pickled; pass its name")

    def __repr__(self) -> str:
        return f"<streamlog.Topic {self.name!r}>"


def _lists(reader: PartitionFetcher, stop: int) -> Iterator[list[Record[Any, Any]]]:
    """The records before `stop`, in runs."""
    while reader.position < stop:
        out: list[Record[Any, Any]] = []
        reader.take(out, min(_TAKE, stop - reader.position))
        if not out:
            return
        if out[-1].offset >= stop:
            yield [record for record in out if record.offset < stop]
            return
        yield out
