"""`RecordBatch`: records by columns, without a Python object for each record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, Self, TypeAlias

from ...broker.fetched import FetchedBatch
from ...errors import ConfigError, StreamlogError
from ...records import columns
from ...types import HeaderTuple, K, Record, V
from .. import extras
from .decode import Decoder, Deserialize, deserialized, undecodable

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

    from ..._core import Columns as CoreColumns

Buffers: TypeAlias = tuple[bytes | None, memoryview, memoryview]
"""A column as Arrow has it: validity, offsets, data; see `RecordBatch.buffers`."""


class _Columns(Protocol):
    """What a batch needs of its columns, whose methods raise ValueError if they contradict its header. None: an absent one."""

    def offsets(self) -> Sequence[int]: ...
    def timestamps(self) -> Sequence[int] | None: ...
    def keys(self) -> Sequence[bytes | None] | None: ...
    def values(self) -> Sequence[bytes | None] | None: ...
    def headers(self) -> Sequence[HeaderTuple] | None: ...


class _Header(Protocol):
    """What a batch needs of its header; columns of the core have it too."""

    @property
    def base_offset(self) -> int: ...
    @property
    def base_timestamp(self) -> int: ...
    @property
    def record_count(self) -> int: ...


class RecordBatch(Generic[K, V]):
    """Records of one partition as parallel columns. Immutable, owns its bytes, iterates to Records.

    Made by `topic.read_batches` and `consumer.poll_batches`. `len(batch)` is the number of its records. A column is
    decoded when it is first used, so a program that uses only keys pays only for keys.

    >>> import streamlog
    >>> with streamlog.open() as log:
    ...     topic = log.create_topic("orders")
    ...     _ = topic.send_many(["9.50", "3.20"], ["alice", "bob"])
    ...     [(batch.base_offset, batch.keys) for batch in topic.read_batches()]
    [(0, [b'alice', b'bob'])]
    """

    __slots__ = ("_batch", "_columns", "_decoder", "_header", "_keys", "_length", "_low", "_next_offset", "_offsets", "_times",
        "_usual", "_values")  # fmt: skip

    def __init__(self, batch: FetchedBatch, decoder: Decoder, start: int = 0, end: int | None = None) -> None:
        """For the library's own use."""
        header = batch.header
        self._batch: FetchedBatch | None = batch
        self._usual: CoreColumns | None = None
        self._columns: _Columns = batch.columns
        self._header: _Header = header
        self._decoder = decoder
        self._offsets: Sequence[int] | None = None
        self._times: Sequence[int] | None = None
        self._keys: Sequence[Any] | None = None
        self._values: Sequence[Any] | None = None
        self._low = 0
        self._length = header.record_count
        self._next_offset = batch.next_offset
        if start > header.base_offset or (end is not None and end < batch.next_offset):
            self._cut(start, batch.next_offset if end is None else min(end, batch.next_offset))

    @classmethod
    def _of(cls, source: CoreColumns, decoder: Decoder) -> Self:
        """For the library's own use: of columns that are known to be sound. The core calls it for each batch."""
        made = cls.__new__(cls)
        made._batch = None
        made._usual = made._columns = made._header = source
        made._decoder = decoder
        made._offsets = made._times = made._keys = made._values = None
        made._low = 0
        made._length = source.record_count
        made._next_offset = source.next_offset
        return made

    def _cut(self, start: int, end: int) -> None:
        """Leave out the records before offset `start`, and those at or after `end`."""
        self._usual = None
        offsets = self._column(self._columns.offsets, 0)
        self._low = sum(1 for offset in offsets if offset < start)
        self._length = max(0, sum(1 for offset in offsets if offset < end) - self._low)
        self._next_offset = end

    @property
    def topic(self) -> str:
        """The topic's name."""
        return self._decoder.topic

    @property
    def partition(self) -> int:
        """The partition's number."""
        return self._decoder.partition

    @property
    def base_offset(self) -> int:
        """The offset of the first record."""
        return self.offsets[0] if self._length else self._header.base_offset

    @property
    def last_offset(self) -> int:
        """The offset of the last record."""
        return self.offsets[-1] if self._length else self._next_offset - 1

    @property
    def next_offset(self) -> int:
        """Where to go on reading: after a compaction this may be past `last_offset + 1`."""
        return self._next_offset

    @property
    def offsets(self) -> Sequence[int]:
        """Each record's offset, ascending."""
        offsets = self._offsets
        if offsets is None:
            usual = self._usual  # here and below: what `_column` would give, by three calls less
            offsets = self._column(self._columns.offsets, 0) if usual is None else usual.offsets()
            self._offsets = offsets
        return offsets

    @property
    def timestamps(self) -> Sequence[int]:
        """Each record's timestamp, ms since the epoch."""
        times = self._times
        if times is None:
            usual = self._usual
            if usual is None:
                times = self._column(self._columns.timestamps, self._header.base_timestamp)
            else:
                times = usual.timestamps()
            self._times = times
        return times

    @property
    def keys(self) -> Sequence[K]:
        """Each record's key. Raises DeserializationError if a deserializer fails on one."""
        keys = self._keys
        if keys is None:
            usual: Any = self._usual
            keys = (usual is not None and usual.keys()) or self._column(self._columns.keys, None)
            if self._decoder.deserialize_key is not None:
                keys = self._decoded(keys, self._decoder.deserialize_key)
            self._keys = keys
        return keys

    @property
    def values(self) -> Sequence[V]:
        """Each record's value. Raises DeserializationError if a deserializer fails on one."""
        values = self._values
        if values is None:
            usual: Any = self._usual
            values = (usual is not None and usual.values()) or self._column(self._columns.values, None)
            if self._decoder.deserialize_value is not None:
                values = self._decoded(values, self._decoder.deserialize_value)
            self._values = values
        return values

    @property
    def headers(self) -> Sequence[HeaderTuple]:
        """Each record's headers: pairs of a name and bytes or None."""
        return self._column(self._columns.headers, ())

    def buffers(self, name: Literal["key", "value"]) -> Buffers:
        """A column as Arrow has one of large binary values: (validity, offsets, data), with no object for each record. Before any deserializer.

        `validity` has a bit for each record, the least significant first, and is None if no entry is None. `offsets` are one
        more than there are records, of 64 bits: entry i is `data[offsets[i]:offsets[i + 1]]`. Cost: a copy of the bytes.

        >>> import streamlog
        >>> with streamlog.open() as log:
        ...     topic = log.create_topic("orders")
        ...     _ = topic.send_many(["9.50", None, "3.20"])
        ...     validity, offsets, data = next(topic.read_batches()).buffers("value")
        ...     validity, offsets.tolist(), bytes(data)
        (b'\\x05', [0, 4, 4, 8], b'9.503.20')
        """
        usual = self._usual
        if usual is not None:
            found = usual.key_buffers() if name == "key" else usual.value_buffers() if name == "value" else None
            if found is not None:
                return found
        if name not in ("key", "value"):
            raise ConfigError(f"buffers() takes 'key' or 'value', not {name!r}.", name="name")
        validity, offsets, data = columns.buffers(self._encoded(name))
        return validity, memoryview(offsets).cast("q"), memoryview(data)

    # -- Arrow and data frames -----------------------------------------------------------------------

    def to_arrow(self, columns: Sequence[str] | None = None) -> pyarrow.Table:
        """The batch as a table of Arrow: partition, offset, timestamp (UTC, ms), key, value, headers. Needs pyarrow.

        Keys and values are bytes as they are stored; with `serde.string` and `serde.json` they are text, and with a `schema` typed.
        `columns`: only these, which saves the work for the others. Cost: a copy of the bytes.

        Raises MissingExtraError, ConfigError for a column that there is not, DeserializationError for text that is not UTF-8, and
        what `values` raises.

        >>> import streamlog
        >>> with streamlog.open() as log:
        ...     orders = log.create_topic("orders")
        ...     _ = orders.send_many(["9.50", "20.00"])
        ...     [batch.to_arrow(["value"]).to_pylist() for batch in orders.read_batches()]
        [[{'value': b'9.50'}, {'value': b'20.00'}]]
        """
        table: pyarrow.Table = extras.frames().to_arrow(self, columns)
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

        The stream is one batch of Arrow.
        """
        return extras.frames().arrow_stream(self, requested_schema)

    def __arrow_c_schema__(self) -> object:
        """The columns of `__arrow_c_stream__`."""
        return extras.frames().arrow_schema(self)

    # -- the columns as they are stored --------------------------------------------------------------

    def _encoded(self, name: Literal["key", "value"]) -> Sequence[bytes | None]:
        """The keys or the values before any deserializer."""
        return self._column(self._columns.keys if name == "key" else self._columns.values, None)

    def _column(self, read: Callable[[], Sequence[Any] | None], absent: Any) -> Sequence[Any]:
        try:
            column = read()
        except (ValueError, TypeError) as error:
            if self._batch is None:
                raise
            raise self._batch.damaged(error) from error
        if column is None:
            return [absent] * self._length
        cut: Sequence[Any] = column if self._length == len(column) else column[self._low : self._low + self._length]
        return cut

    def _decoded(self, column: Sequence[Any], deserialize: Deserialize) -> Sequence[Any]:
        made: list[Any] = []
        for at, item in enumerate(column):
            try:
                made.append(None if item is None else deserialize(item))
            except StreamlogError:
                raise
            except Exception as error:
                raise undecodable(self._raw(at), error) from error
        return made

    def _raw(self, at: int) -> Record[Any, Any]:
        """The record at index `at` as bytes."""
        keys, values = self._encoded("key"), self._encoded("value")
        return Record(
            self.topic, self.partition, self.offsets[at], self.timestamps[at], keys[at], values[at], self.headers[at]
        )

    def _first(self, n: int) -> list[Record[Any, Any]]:
        """The first records; no others are deserialized."""
        raw = map(self._raw, range(min(n, self._length)))
        return list(deserialized(raw, self._decoder))

    def _repr_html_(self) -> str:
        """For notebooks: a table of the first records. It raises nothing."""
        html: str = extras.notebook().of_batch(self)
        return html

    @property
    def _size(self) -> int:
        """About how many bytes its records are, uncompressed; of a cut batch, of all."""
        batch = self._batch
        return 0 if batch is None else max(batch.header.batch_len, batch.header.uncompressed_len)

    def __len__(self) -> int:
        """How many records there are."""
        return self._length

    def __iter__(self) -> Iterator[Record[K, V]]:
        """The records, made one by one. Raises DeserializationError."""
        new: Any = tuple.__new__
        return map(
            new,
            repeat(Record),
            zip(
                repeat(self.topic), repeat(self.partition), self.offsets, self.timestamps, self.keys, self.values,
                self.headers, strict=False,
            ),
        )  # fmt: skip

    def __reduce__(self) -> Any:
        """For copy and pickle: the columns, decoded; and keys and values as bytes, for `buffers`."""
        fields: dict[str, Any] = {}
        for name in _FIELDS:
            value = getattr(self, name)
            fields[name] = value if isinstance(value, (int, str)) else list(value)
        # The same list where nothing is deserialized: pickle writes it once.
        decoder = self._decoder
        fields["key"] = fields["keys"] if decoder.deserialize_key is None else list(self._encoded("key"))
        fields["value"] = fields["values"] if decoder.deserialize_value is None else list(self._encoded("value"))
        return _restore, (fields,)

    def __repr__(self) -> str:
        return (
            f"RecordBatch(topic={self.topic!r}, partition={self.partition}, "
            f"base_offset={self.base_offset}, last_offset={self.last_offset}, records={len(self)})"
        )


_FIELDS = (
    "topic", "partition", "base_offset", "last_offset", "next_offset", "offsets", "timestamps", "keys", "values", "headers",
)  # fmt: skip


class _Pickled(RecordBatch[Any, Any]):
    """A batch that was unpickled: its columns are decoded already."""

    __slots__ = ("_fields",)

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields
        self._length = len(fields["offsets"])
        self._usual = None

    def _first(self, n: int) -> list[Record[Any, Any]]:
        return list(islice(self, n))

    def _encoded(self, name: Literal["key", "value"]) -> Sequence[bytes | None]:
        column: list[bytes | None] = self._fields[name]
        return column

    def __reduce__(self) -> Any:
        return _restore, (self._fields,)


def _field(name: str) -> property:
    return property(lambda self: self._fields[name], doc=getattr(RecordBatch, name).__doc__)


for _name in _FIELDS:
    setattr(_Pickled, _name, _field(_name))


def _restore(fields: dict[str, Any]) -> RecordBatch[Any, Any]:
    return _Pickled(fields)
