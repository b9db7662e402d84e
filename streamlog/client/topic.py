"""A topic: its records, read and sent without a producer or consumer, and its settings and maintenance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain
from re import Pattern
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeAlias, Unpack
from uuid import UUID

from ..broker.metadata import TopicView
from ..config import choice, integer, typed
from ..errors import ConcurrentUseError, ConfigError, OffsetOutOfRangeError, UnknownTopicIdError, did_you_mean
from ..runtime.threads import result_of
from ..runtime.values import refuse_to_copy
from ..types import Headers, Isolation, K, OnCorrupt, PartitionInfo, Record, RecordMetadata, TopicPartition, V
from . import extras
from .arguments import is_offset, no_place, offset_at, out_of_range, partition_number
from .bounded_read import BoundedRead, PartitionRange
from .config_types import ColumnConfig, TopicConfig
from .consumer.decode import Decoder
from .consumer.fetcher import PartitionFetcher
from .consumer.record_batch import RecordBatch
from .handle import Parent, check_log
from .producer.delivery import Delivery
from .record_tuple import RecordTuple
from .serde import Serde, check_serde, resolve_deserializer

if TYPE_CHECKING:
    import altair
    import pandas
    import polars
    import pyarrow

At: TypeAlias = int | datetime | Literal["earliest", "latest"]
"""Where to read: an offset, an aware datetime, or one of the two ends."""
_SHOWN = 4  # partitions in the repr of a read
_MOST_RECORDS = 10_000  # that `head`, `tail` and `at` return
_ATTEMPTS = 3


class Records(chain[Record[K, V]], Generic[K, V]):
    """The records of a bounded read, from start to end as they were at the call.

    Made by `topic.read`. An iterator: it can be read once, by one thread, and not be copied. Raises ConcurrentUseError where two
    threads ask it for a record at the same time.

    >>> import streamlog
    >>> with streamlog.open() as log:
    ...     orders = log.create_topic("orders")
    ...     _ = orders.send_many(["9.50", "20.00"])
    ...     records = orders.read()
    ...     records, [record.value for record in records], list(records)
    (<streamlog.Records orders-0 [0, 2)>, [b'9.50', b'20.00'], [])
    """

    # A chain of lists of records, so that a loop over it needs no Python frame for each record.

    __reduce_ex__ = refuse_to_copy  # a copy would take records away from this one

    # What was asked for, with the bounds as they were at the call; None of one that `topic.read` did not make.
    _read: BoundedRead | None = None

    def __repr__(self) -> str:
        """What was asked for: the first partitions with their offsets, as half-open ranges."""
        ranges = () if self._read is None else self._read.ranges
        shown = ", ".join(f"{topic}-{n} [{start}, {max(start, end)})" for (topic, n), start, end, _ in ranges[:_SHOWN])
        more = len(ranges) - _SHOWN
        return f"<streamlog.Records {shown}{f' and {more} more' if more > 0 else ''}>"

    def _repr_html_(self) -> str:
        """For notebooks: the ranges, and the first records, which stay in the read. It raises nothing."""
        html: str = extras.notebook().of_records(self)
        return html

    def _bounds(self) -> BoundedRead:
        if self._read is None:
            raise ConfigError("Only what topic.read(…) returns can be exported: this was made otherwise.")
        return self._read

    # -- Arrow and data frames -----------------------------------------------------------------------

    def to_arrow(self, columns: Sequence[str] | None = None) -> pyarrow.Table:
        """All records of the read as a table of Arrow: partition, offset, timestamp (UTC, ms), key, value, headers. Needs pyarrow.

        They are all there, whether or not they were taken, one partition after another. Keys and values are bytes as they are stored;
        with `serde.string` and `serde.json` they are text, and with a `schema` typed. `columns`: only these, which saves the work for
        the others. Memory: all of it.

        Raises MissingExtraError, ConfigError for a column that there is not, DeserializationError for text that is not UTF-8, and
        what `read` raises.

        >>> import streamlog
        >>> with streamlog.open() as log:
        ...     orders = log.create_topic("orders")
        ...     _ = orders.send_many(["9.50", "20.00"])
        ...     orders.read(start=1).to_arrow(["value"]).to_pylist()
        [{'value': b'20.00'}]
        """
        table: pyarrow.Table = extras.frames().to_arrow(self._bounds(), columns)
        return table

    def to_pandas(self, columns: Sequence[str] | None = None) -> pandas.DataFrame:
        """`to_arrow`, as a data frame of pandas, which has to be installed."""
        extras.pandas()  # first: to read may take long
        frame: pandas.DataFrame = self.to_arrow(columns).to_pandas()
        return frame

    def to_polars(self, columns: Sequence[str] | None = None) -> polars.DataFrame:
        """`to_arrow`, as a data frame of polars, which has to be installed."""
        frame: polars.DataFrame = extras.polars().DataFrame(self.to_arrow(columns))
        return frame

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """For programs that take data of Arrow: pyarrow, pandas, polars, DuckDB and others (the PyCapsule interface).

        Each stream begins at the start of the read, whatever was taken from this iterator or an earlier stream.
        """
        return extras.frames().arrow_stream(self._bounds(), requested_schema)

    def __arrow_c_schema__(self) -> object:
        """The columns of `__arrow_c_stream__`."""
        return extras.frames().arrow_schema(self._bounds())


class _Runs:
    """Lists of records, for one caller at a time.

    A chain that is asked for a record while its source makes one asks the source as well, and where that raises, as a generator does
    that is running, lets go of it: a generator was freed while it ran, which ended the process. And where both get a list, the
    chain loses one. So both callers get an error.
    """

    __slots__ = ("_is_asked", "_runs", "_was_asked_twice")

    def __init__(self, runs: Iterator[list[Record[Any, Any]]]) -> None:
        self._runs = runs
        self._is_asked = self._was_asked_twice = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> list[Record[Any, Any]]:
        if self._is_asked:
            self._was_asked_twice = True
            raise _asked_twice()
        self._is_asked = True
        run = next(self._runs)  # after an error the chain does not come again
        # From here to the end no other thread runs: that takes a call, or a loop.
        if self._was_asked_twice:
            raise _asked_twice()
        self._is_asked = False
        return run


def _asked_twice() -> ConcurrentUseError:
    return ConcurrentUseError(
        "topic.read(…) was asked for a record while it was reading one: by another thread, or by a deserializer or finalizer of this one. "
        "It ends here, as records would be lost. Let each thread call topic.read(…) for itself, or hold a lock around next()."
    )


class Topic(Generic[K, V]):
    """A handle on one topic. Made by `log.topic(name)` or `log[name]`; equal and hashable by log and name. Thread-safe.

    `name` is its name and `id` its UUID. Every use raises UnknownTopicOrPartitionError once the topic is deleted, and
    UnknownTopicIdError once another topic was created under its name.

    - Records: `send`, `send_many`; `read`, `read_batches`. A producer and a consumer do it in batches, and continue.
    - A look at some of them: `head`, `tail`, `at`; at all, as a picture: `plot_records`, `plot_sizes`.
    - Data frames: `to_arrow`, `to_pandas`, `to_polars`, `scan`; programs that take Arrow's data take a topic as it is.
      `mismatches`: how many values did not fit its `schema`.
    - What it is: `partitions`, `partition`, `config`.
    - Changes: `update_config`, `add_partitions`, `delete_records`, `delete`.
    - What the background does anyway, at once: `apply_retention`, `compact`.

    >>> import streamlog
    >>> with streamlog.open() as log:
    ...     topic = log.create_topic("orders", partitions=2)
    ...     _ = topic.send("9.50", key="alice", partition=1)
    ...     [record.value for record in topic.read()]
    [b'9.50']
    """

    def __init__(
        self,
        log: Parent,
        name: str,
        *,
        key_serde: Serde[K] | None = None,
        value_serde: Serde[V] | None = None,
        **columns: Unpack[ColumnConfig],
    ) -> None:
        """The same as `log.topic(name, …)`. Raises UnknownTopicOrPartitionError."""
        check_log(log, "Topic", "topic(name)")
        check_serde(key_serde, "key_serde")
        check_serde(value_serde, "value_serde")
        self._log = log
        self.name = name
        self._key_serde = key_serde
        self._value_serde = value_serde
        self._value_fields = _value_fields(value_serde, **columns)
        self.id: UUID = result_of(log._use().topic(name)).id
        # The key in a producer's cache: equal handles may have other serdes, or mean another topic of the same name.
        self._cache_key = (log._identity(), self.id.int, id(key_serde), id(value_serde))

    # -- description ---------------------------------------------------------------------------------

    def _view(self) -> TopicView:
        """The topic as it is now. Raises UnknownTopicIdError if it was deleted and created again."""
        view = result_of(self._log._use().topic(self.name))
        if view.id != self.id:
            raise UnknownTopicIdError(
                f"Topic {self.name!r} was deleted, and another was created under its name; get that one with "
                f"log[{self.name!r}].",
                topic=self.name,
            )
        return view

    @property
    def partitions(self) -> int:
        """How many partitions the topic has now."""
        return self._view().partitions

    @property
    def config(self) -> Mapping[str, Any]:
        """The settings in effect, those of `streamlog.TopicConfig`; None means unlimited."""
        return MappingProxyType(self._view().config.public())

    def partition(self, n: int) -> PartitionInfo:
        """What partition `n` holds now: its offsets, its size, its leader. Raises UnknownTopicOrPartitionError."""
        number = partition_number(n, self._view())
        return result_of(self._log._use().partition_info(TopicPartition(self.name, number)))

    @property
    def mismatches(self) -> int:
        """How many values did not fit the `schema` of this handle and were read as null, in all its exports so far."""
        return 0 if self._value_fields is None else self._value_fields.mismatches

    # -- sending -------------------------------------------------------------------------------------

    def send(
        self,
        value: Any = None,
        key: Any = None,
        *,
        headers: Headers | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> Delivery[RecordMetadata]:
        """Send one record, which is in the log on return: `Producer.send` without a linger or a transaction.

        >>> import streamlog
        >>> with streamlog.open() as log:
        ...     log.create_topic("orders").send("9.50", key="alice", headers={"coupon": "SPRING"}).result().offset
        0
        """
        delivery: Delivery[RecordMetadata] = self._log._topic_producer().send(
            self, value, key, headers=headers, partition=partition, timestamp_ms=timestamp_ms
        )
        return delivery

    def send_many(
        self,
        values: Iterable[Any],
        keys: Iterable[Any] | None = None,
        *,
        headers: Headers | None = None,
        partition: int | None = None,
        timestamps_ms: Iterable[int] | None = None,
    ) -> Delivery[Sequence[RecordMetadata]]:
        """Send many records, which are in the log on return: `Producer.send_many` without a linger."""
        delivery: Delivery[Sequence[RecordMetadata]] = self._log._topic_producer().send_many(
            self, values, keys, headers=headers, partition=partition, timestamps_ms=timestamps_ms
        )
        return delivery

    # -- reading -------------------------------------------------------------------------------------

    def read(
        self,
        partition: int | None = None,
        *,
        start: At = "earliest",
        end: At = "latest",
        isolation_level: Isolation = "read_committed",
        on_corrupt: OnCorrupt = "raise",
        order: Literal["partition", "time"] = "partition",
    ) -> Records[K, V]:
        """The records from `start` up to, not including, `end`, of one partition, or of all, one partition after another.

        An int is an offset; an aware datetime means the first record at or after it. The bounds are checked and fixed at
        the call. Cost: a fifth of a microsecond for each record.

        With `order="time"` the partitions are merged by the timestamps of their records; at equal timestamps the lower partition
        is first. Each partition's records stay in the order of their offsets: one with an earlier timestamp than the record
        before it comes directly after that. Cost: O(log(partitions)) for each record, about a microsecond; one fetch of each partition in memory.

        Raises OffsetOutOfRangeError, and ConfigError (a ValueError) for a naive datetime. While it is read, it raises
        OffsetOutOfRangeError if records that come next were deleted meanwhile, and CorruptRecordError at a damaged batch, unless
        `on_corrupt="skip"`, which logs the batch and skips it.

        >>> import streamlog
        >>> from datetime import UTC, datetime, timedelta
        >>> with streamlog.open() as log:
        ...     orders = log.create_topic("orders")
        ...     _ = orders.send_many(["9.50", "20.00", "3.25"])
        ...     today = datetime.now(UTC) - timedelta(days=1)
        ...     [record.value for record in orders.read(start=1)], len(list(orders.read(0, start=today, end=2)))
        ([b'20.00', b'3.25'], 2)
        """
        choice("order", order, ("partition", "time"))
        read = self._bounded(partition, start, end, isolation_level, on_corrupt, order)
        records: Any = Records.from_iterable(_Runs(read.lists()))
        found: Records[K, V] = records
        found._read = read
        return found

    def read_batches(
        self,
        partition: int | None = None,
        *,
        start: At = "earliest",
        end: At = "latest",
        isolation_level: Isolation = "read_committed",
        on_corrupt: OnCorrupt = "raise",
    ) -> Iterator[RecordBatch[K, V]]:
        """`read`, as batches of columns; the first and the last batch are cut to `start` and `end`.

        Cost: about half of `read`'s, as there is no object for each record.

        >>> import streamlog
        >>> with streamlog.open() as log:
        ...     orders = log.create_topic("orders")
        ...     _ = orders.send_many([b"1", b"2", b"3"])
        ...     sum(int(value) for batch in orders.read_batches() for value in batch.values)
        6
        """
        return _batches(self._bounded(partition, start, end, isolation_level, on_corrupt).begin())

    def head(self, n: int = 10) -> RecordTuple[K, V]:
        """The first `n` records by time: those with which `read(order="time")` begins.

        n: int = 10
            How many, up to 10,000; fewer if the topic has fewer.

        Returns a RecordTuple, which can be shown and used again and again. Cost: O(n) records read of each partition.

        Raises CorruptRecordError, and DeserializationError if a serde fails on one of these records.

        >>> import streamlog
        >>> with streamlog.open() as log:
        ...     orders = log.create_topic("orders", partitions=2)
        ...     for ms, price in (3, "9.50"), (1, "20.00"), (2, "3.25"):
        ...         _ = orders.send(price, partition=ms % 2, timestamp_ms=ms)
        ...     [(record.timestamp, record.value) for record in orders.head(2)]
        [(2, b'3.25'), (3, b'9.50')]
        """
        return self._first(n, "earliest")

    def tail(self, n: int = 10) -> RecordTuple[K, V]:
        """The last `n` records by time, the newest one last.

        n: int = 10
            How many, up to 10,000; fewer if the topic has fewer.

        Those with which `read(order="time")` ends, if the timestamps of each partition ascend. Where they do not, the partitions are
        merged from the end: before each record comes the last one left in the partition where that has the greatest timestamp. Cost: O(n)
        records read of each partition, from its end, and what aborted transactions have left between them.

        Raises CorruptRecordError, and DeserializationError if a serde fails on one of these records.

        >>> import streamlog
        >>> with streamlog.open() as log:
        ...     orders = log.create_topic("orders")
        ...     _ = orders.send_many(["9.50", "20.00", "3.25"])
        ...     [record.value for record in orders.tail(2)]
        [b'20.00', b'3.25']
        """
        return self._some(n, lambda: self._bounded().last(n))

    def at(self, when: datetime, n: int = 10) -> RecordTuple[K, V]:
        """The first `n` records by time from the first one of each partition that is at or after `when`.

        when: datetime
            Aware: with a time zone.
        n: int = 10
            How many, up to 10,000; fewer if the topic has fewer.

        Those with which `read(start=when, order="time")` begins. One that was sent after these with a timestamp before `when` is among
        them, as it is for `Consumer.offsets_for_times`. Cost: as that of `head`, and a search in an index of each partition.

        Raises ConfigError (a ValueError) for a naive datetime, CorruptRecordError, and DeserializationError.

        >>> import streamlog
        >>> from datetime import UTC, datetime
        >>> with streamlog.open() as log:
        ...     orders = log.create_topic("orders")
        ...     _ = orders.send_many(["9.50", "20.00", "3.25"], timestamps_ms=[1_000, 2_000, 3_000])
        ...     [record.value for record in orders.at(datetime.fromtimestamp(2, UTC), 1)]
        [b'20.00']
        """
        if not isinstance(when, datetime):
            raise ConfigError(
                f"at(when={typed(when)}) takes an aware datetime. From an offset on: topic.read(partition, start=offset).",
                name="when",
            )
        return self._first(n, when)

    def _first(self, n: int, start: At) -> RecordTuple[K, V]:
        return self._some(n, lambda: self._bounded(start=start, order="time").first(n))

    def _some(self, n: int, take: Callable[[], Iterator[Record[Any, Any]]]) -> RecordTuple[K, V]:
        if not integer("n", n, 0, _MOST_RECORDS):
            self._view()
            return RecordTuple()
        for _ in range(_ATTEMPTS - 1):
            try:
                return RecordTuple(take())
            except OffsetOutOfRangeError:  # retention has deleted what is next; the topic begins later now
                continue
        return RecordTuple(take())

    def _bounded(
        self,
        partition: int | None = None,
        start: Any = "earliest",
        end: Any = "latest",
        isolation: str = "read_committed",
        on_corrupt: str = "raise",
        order: str = "partition",
    ) -> BoundedRead:
        """What to read, with its bounds as they are now."""
        choice("isolation_level", isolation, ("read_committed", "read_uncommitted"))
        choice("on_corrupt", on_corrupt, ("raise", "skip"))
        view = self._view()
        service = self._log._use()
        numbers = range(view.partitions) if partition is None else [partition_number(partition, view)]
        deserialize_key = resolve_deserializer(self._key_serde, self.name, "key")
        deserialize_value = resolve_deserializer(self._value_serde, self.name)
        ranges: list[PartitionRange] = []
        for number in numbers:
            name = TopicPartition(self.name, number)
            low, high = result_of(service.bounds(name, isolation))
            first = self._offset(name, start, low, high, "start")
            stop = self._offset(name, end, low, high, "end")
            decoder = Decoder(self.name, number, deserialize_key, deserialize_value, self._value_fields)
            ranges.append(PartitionRange(name, first, stop, decoder))
        return BoundedRead(self._log, view.id_bytes, tuple(ranges), isolation, on_corrupt, order)

    def _offset(self, name: TopicPartition, at: Any, low: int, high: int, what: str) -> int:
        """The offset that `at` means; `what` is the argument's name. Raises OffsetOutOfRangeError, ConfigError."""
        if at in ("earliest", "latest") or isinstance(at, datetime):
            return offset_at(self._log._use(), name, at, low, high)
        if not isinstance(at, (int, float)):
            raise no_place(what, at, "an int, ")
        if not is_offset(at) or not low <= at <= high:
            raise out_of_range(f"{what}=", at, name, low, high)
        return int(at)

    # -- Arrow and data frames -----------------------------------------------------------------------

    def to_arrow(self, columns: Sequence[str] | None = None) -> pyarrow.Table:
        """All records as a table of Arrow: partition, offset, timestamp (UTC, ms), key, value, headers. Needs pyarrow.

        Keys and values are bytes as they are stored; with `serde.string` and `serde.json` they are text, and with a `schema` typed.
        `columns`: only these, which saves the work for the others. Memory: all of it; a part is `topic.read(start=…).to_arrow()`.

        Raises MissingExtraError, ConfigError for a column that there is not, DeserializationError for text that is not UTF-8, and
        what `read` raises.

        >>> import streamlog
        >>> with streamlog.open() as log:
        ...     orders = log.create_topic("orders")
        ...     _ = orders.send_many(["9.50", "20.00"], ["alice", "bob"])
        ...     orders.to_arrow(["offset", "key"]).to_pylist()
        [{'offset': 0, 'key': b'alice'}, {'offset': 1, 'key': b'bob'}]
        """
        table: pyarrow.Table = extras.frames().to_arrow(self._bounded(), columns)
        return table

    def to_pandas(self, columns: Sequence[str] | None = None) -> pandas.DataFrame:
        """`to_arrow`, as a data frame of pandas, which has to be installed.

        >>> import streamlog
        >>> with streamlog.open() as log:
        ...     orders = log.create_topic("orders")
        ...     _ = orders.send_many(["9.50", "20.00"], ["alice", "bob"])
        ...     orders.to_pandas(["offset", "value"]).shape
        (2, 2)
        """
        extras.pandas()  # first: to read may take long
        frame: pandas.DataFrame = self.to_arrow(columns).to_pandas()
        return frame

    def to_polars(self, columns: Sequence[str] | None = None) -> polars.DataFrame:
        """`to_arrow`, as a data frame of polars, which has to be installed.

        >>> import streamlog
        >>> with streamlog.open() as log:
        ...     orders = log.create_topic("orders")
        ...     _ = orders.send_many(["9.50", "20.00"], ["alice", "bob"])
        ...     orders.to_polars(["offset", "value"]).shape
        (2, 2)
        """
        frame: polars.DataFrame = extras.polars().DataFrame(self.to_arrow(columns))
        return frame

    def scan(self) -> polars.LazyFrame:
        """The records that there are now as a lazy frame of polars, which reads when it is collected. Needs pyarrow and polars.

        Of each record only the columns that the query uses are decoded, and `head` ends the reading.

        >>> import streamlog, polars
        >>> with streamlog.open() as log:
        ...     orders = log.create_topic("orders")
        ...     _ = orders.send_many(["9.50", "20.00"], ["alice", "bob"])
        ...     orders.scan().filter(polars.col("key") == b"bob").select("offset").collect().to_dicts()
        [{'offset': 1}]
        """
        frame: polars.LazyFrame = extras.frames().scan(self._bounded())
        return frame

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """For programs that take data of Arrow: pyarrow, pandas, polars, DuckDB and others (the PyCapsule interface).

        The records are those that there are at the call, and are read as the stream is, in batches of up to 65,536.
        """
        return extras.frames().arrow_stream(self._bounded(), requested_schema)

    def __arrow_c_schema__(self) -> object:
        """The columns of `__arrow_c_stream__`."""
        return extras.frames().arrow_schema(self._bounded())

    # -- plots ---------------------------------------------------------------------------------------

    def plot_records(self, bins: int = 100) -> altair.Chart:
        """How many records there are over time, in so many spans, by partition. Needs the extra `notebook`.

        By their timestamps. With so many partitions that it would be more than 5,000 bars, all partitions together.

        >>> import streamlog
        >>> with streamlog.open() as log:
        ...     orders = log.create_topic("orders")
        ...     _ = orders.send_many(["9.50", "20.00"])
        ...     [bar["records"] for bar in orders.plot_records().to_dict()["data"]["values"]]
        [2]
        """
        chart: altair.Chart = extras.plots().records_over_time(self._bounded(), bins)
        return chart

    def plot_sizes(self) -> altair.Chart:
        """The bytes that each partition has on disk; of more than 5,000 the largest. Needs the extra `notebook`."""
        chart: altair.Chart = extras.plots().partition_sizes([self.partition(n) for n in range(self.partitions)])
        return chart

    # -- maintenance ---------------------------------------------------------------------------------

    def apply_retention(self) -> None:
        """Delete what the retention settings no longer keep, now. Rolls the active segment first.

        >>> import streamlog
        >>> with streamlog.open() as log:
        ...     orders = log.create_topic("orders", retention_records=1)
        ...     for price in "9.50", "20.00", "3.25":
        ...         _ = orders.send(price)
        ...     orders.apply_retention()
        ...     [record.value for record in orders.read()]
        [b'3.25']
        """
        self._view()
        result_of(self._log._use().apply_retention(self.name))

    def compact(self) -> None:
        """Compact the topic now: keep the newest record of each key. Rolls the active segment first.

        With several brokers, the leaders' replicas are compacted now, and the others by themselves in the background, as in
        Kafka: when another broker leads, records that were replaced may be there again, each before the newest of its key.

        Raises ConfigError if the topic is not compacted, and ClosedError if the log is closed meanwhile: closing ends the
        compaction.

        >>> import streamlog
        >>> with streamlog.open() as log:
        ...     prices = log.create_topic("prices", cleanup_policy="compact")
        ...     _ = prices.send_many(["100", "101"], keys=["ACME", "ACME"])
        ...     prices.compact()
        ...     [record.value for record in prices.read()]
        [b'101']
        """
        self._view()
        result_of(self._log._use().compact(self.name))

    def update_config(self, **topic_config: Unpack[TopicConfig]) -> None:
        """Change settings of `streamlog.TopicConfig`; the others stay. Raises ConfigError.

        Records that the settings no longer keep stay until retention or compaction runs.

        >>> import streamlog
        >>> with streamlog.open() as log:
        ...     orders = log.create_topic("orders")
        ...     orders.update_config(retention_ms=86_400_000)
        ...     orders.config["retention_ms"]
        86400000
        """
        self._view()
        result_of(self._log._use().update_topic(self.name, topic_config))

    def add_partitions(self, total: int) -> None:
        """Grow to `total` partitions. A key's later records may go to another partition than its earlier ones.

        Raises ConfigError for a total that is not larger than the present one: partitions cannot be removed.
        """
        self._view()
        result_of(self._log._use().add_partitions(self.name, total))

    def delete_records(self, before: Mapping[int, int]) -> None:
        """Delete the records before an offset, in each partition given: `{0: 1000}`. This cannot be undone.

        Raises OffsetOutOfRangeError for an offset past the end; then nothing was deleted.

        >>> import streamlog
        >>> with streamlog.open() as log:
        ...     orders = log.create_topic("orders")
        ...     _ = orders.send_many(["9.50", "20.00", "3.25"])
        ...     orders.delete_records({0: 2})
        ...     [record.value for record in orders.read()]
        [b'3.25']
        """
        view = self._view()
        service = self._log._use()
        if not isinstance(before, Mapping):
            raise ConfigError(
                f"delete_records takes a mapping of partition number to offset, such as {{0: 1000}}, not {typed(before)}.",
                name="before",
            )
        for number, offset in before.items():
            name = TopicPartition(view.name, partition_number(number, view))
            low, high = result_of(service.bounds(name, "read_uncommitted"))
            if not is_offset(offset) or offset > high:
                raise out_of_range("delete_records: offset ", offset, name, low, high)
        for number, offset in before.items():
            result_of(service.delete_records(TopicPartition(view.name, number), offset))

    def delete(self) -> None:
        """Delete the topic, its records and its committed offsets. This cannot be undone."""
        self._view()
        self._log.delete_topic(self.name)

    # -- equality ------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Topic) and other.name == self.name and other._log._same_log(self._log)

    def __hash__(self) -> int:
        return hash((self._log._identity(), self.name))

    def __reduce__(self) -> Any:
        """Raise TypeError: a handle cannot be pickled."""
        raise TypeError("a Topic is a handle on an open log and cannot be pickled; pass its name")

    def __repr__(self) -> str:
        """The name and the number of partitions, as far as it is known without a look at a file."""
        view = self._seen()
        if isinstance(view, str):
            return f"<streamlog.Topic {self.name!r}: {view}>"
        return f"<streamlog.Topic {self.name!r}: {view.partitions} {'partition' if view.partitions == 1 else 'partitions'}>"

    def _repr_html_(self) -> str:
        """For notebooks: the settings that were given, and the first partitions. It raises nothing."""
        html: str = extras.notebook().of_topic(self)
        return html

    def _seen(self) -> TopicView | str:
        """The topic, as far as it is known without a look at a file, or why it cannot be used any more."""
        service = self._log._if_open()
        if service is None:
            return "the log is closed"
        view = service.seen_image.topics.get(self.name)
        return "deleted" if view is None or view.id != self.id else view


def _value_fields(value_serde: Any, **columns: Any) -> Any:
    """What makes columns of the values; None without a schema. Raises ConfigError."""
    unknown = sorted(columns.keys() - ColumnConfig.__annotations__.keys())
    if unknown:
        hint = did_you_mean(unknown[0], [*ColumnConfig.__annotations__, "key_serde", "value_serde"])
        raise ConfigError(f"A topic's handle has no setting {unknown[0]!r}{hint}.", name=unknown[0])
    schema, on_mismatch = columns.get("schema"), columns.get("on_mismatch", "raise")
    choice("on_mismatch", on_mismatch, ("raise", "null"))
    if schema is None:
        return None
    if value_serde is None:
        raise ConfigError(
            "schema= needs a value_serde whose values are mappings, such as streamlog.serde.json.", name="schema"
        )
    return extras.frames().ValueFields(schema, on_mismatch)


TopicLike: TypeAlias = str | Topic[Any, Any]
Subscription: TypeAlias = TopicLike | Pattern[str]
"""What a consumer subscribes to. A pattern matches whole names, of future topics too."""


def _batches(bounded: Sequence[tuple[PartitionFetcher, int]]) -> Iterator[RecordBatch[Any, Any]]:
    """A generator, and no chain of them: see `_Runs`."""
    for reader, stop in bounded:
        yield from reader.batches_until(stop)
