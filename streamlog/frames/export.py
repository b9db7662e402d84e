"""A read as a stream of Arrow (the PyCapsule interface), as a table, and as a lazy frame of polars.

A stream is made anew each time that it is asked for, from the same bounds: DuckDB asks several times for one query. It reads while its
user takes, one batch of Arrow at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa

from ..client import extras
from ..client.bounded_read import BoundedRead
from ..client.consumer.decode import Decoder
from ..client.consumer.record_batch import RecordBatch
from ..config import typed
from ..errors import ConfigError, did_you_mean
from .columns import Group, grouped, metadata_schema
from .fields import ValueFields

if TYPE_CHECKING:
    import polars

_CONSTANT = 1 << 20

Source: TypeAlias = BoundedRead | RecordBatch[Any, Any]


class Layout:
    """The columns of an export: `columns.NAMES`; for a topic with a schema, `value` as a struct, and its fields at the top level.

    A field whose name one of the others has is in the struct only.
    """

    def __init__(self, source: Source) -> None:
        decoder = _decoder_of(source)
        schema = metadata_schema(decoder)
        self._values: ValueFields | None = None if decoder is None else decoder.value_fields
        self._fields: pa.Schema | None = None
        if self._values is not None:
            self._fields = self._values.fields(batches_of(source))
        if self._fields is not None:
            at = schema.get_field_index("value")
            schema = schema.set(at, pa.field("value", pa.struct(list(self._fields))))
            for field in self._fields:
                if field.name not in schema.names:
                    schema = schema.append(field)
        self.schema = schema

    def select(self, names: Sequence[str]) -> pa.Schema:
        """The schema with these columns. Raises ConfigError for one that there is not."""
        if isinstance(names, str):
            raise ConfigError(f"columns is a list of names, such as ['value'], not {typed(names)}.", name="columns")
        for name in names:
            if name not in self.schema.names:
                hint = did_you_mean(str(name), self.schema.names)
                raise ConfigError(
                    f"There is no column {name!r}{hint}; there are {', '.join(self.schema.names)}.", name="columns"
                )
        return pa.schema([self.schema.field(name) for name in names])

    def batch(self, group: Group, schema: pa.Schema) -> pa.RecordBatch:
        """These records, with the columns of `schema`."""
        made: dict[str, pa.Array] = {}
        if self._values is not None and self._fields is not None and not self._metadata.issuperset(schema.names):
            value, *fields = self._values.columns(self._fields, group.batches)
            made = dict(zip(self._fields.names, fields, strict=True)) | {"value": value}
        arrays = [
            made[field.name]
            if field.name in made and field.name not in self._metadata
            else group.column(field.name, field.type)
            for field in schema
        ]
        if not arrays:  # only how many there are
            return pa.RecordBatch.from_struct_array(pa.array([{}] * group.count, pa.struct([])))
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    @property
    def _metadata(self) -> frozenset[str]:
        """The columns that are not made of the fields."""
        names = {"partition", "offset", "timestamp", "key", "headers"}
        return frozenset(names if self._fields is not None else names | {"value"})


def _decoder_of(source: Source) -> Decoder | None:
    if isinstance(source, RecordBatch):
        return getattr(source, "_decoder", None)  # one that was unpickled has none
    return source.ranges[0].decoder if source.ranges else None


def batches_of(source: Source) -> Iterator[RecordBatch[Any, Any]]:
    if isinstance(source, RecordBatch):
        yield source
    else:
        for reader, end in source.begin():
            yield from reader.batches_until(end)


def groups_of(source: Source) -> Iterator[Group]:
    if isinstance(source, RecordBatch):
        if len(source):
            yield Group([source])
        return
    for reader, end in source.begin():
        for batches in grouped(reader.batches_until(end)):
            yield Group(batches)


def batches(read: BoundedRead, layout: Layout, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The records, with the columns of `schema`. Where only the partition is asked for, as `count(*)` does, they are not read."""
    if schema.names == ["partition"]:
        for each, count in zip(read.ranges, read.counts(), strict=True):
            if count is None:
                yield from (layout.batch(group, schema) for group in groups_of(read._replace(ranges=(each,))))
            else:
                yield from _constant(schema, each.name.partition, count)
        return
    for group in groups_of(read):
        yield layout.batch(group, schema)


def _constant(schema: pa.Schema, partition: int, count: int) -> Iterator[pa.RecordBatch]:
    column = pa.repeat(pa.scalar(partition, schema.field(0).type), min(_CONSTANT, count))
    for at in range(0, count, _CONSTANT):
        yield pa.RecordBatch.from_arrays([column.slice(0, count - at)], schema=schema)


def reader(source: Source, columns: Sequence[str] | None = None) -> pa.RecordBatchReader:
    """The records as batches of Arrow, made as they are taken. Raises ConfigError for a column that there is not."""
    return _reader(source, Layout(source), columns)


def _reader(source: Source, layout: Layout, columns: Sequence[str] | None) -> pa.RecordBatchReader:
    schema = layout.schema if columns is None else layout.select(columns)
    return pa.RecordBatchReader.from_batches(schema, (layout.batch(group, schema) for group in groups_of(source)))


def arrow_schema(source: Source) -> Any:
    """`__arrow_c_schema__`."""
    return Layout(source).schema.__arrow_c_schema__()


def arrow_stream(source: Source, requested_schema: Any) -> Any:
    """`__arrow_c_stream__`."""
    return reader(source).__arrow_c_stream__(requested_schema)


def to_arrow(source: Source, columns: Sequence[str] | None) -> pa.Table:
    return reader(source, columns).read_all()


def scan(source: BoundedRead) -> polars.LazyFrame:
    """A frame of polars that reads when it is collected, and of each record only the columns that the query uses."""
    extras.polars()
    import polars
    from polars.io.plugins import register_io_source

    layout = Layout(source)
    empty = polars.DataFrame(layout.schema.empty_table())

    def frames(
        with_columns: list[str] | None, predicate: polars.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[polars.DataFrame]:
        # polars takes what it is given for the answer: all of this is asked for, not proposed.
        wanted = layout.schema.names if with_columns is None else with_columns
        used = wanted if predicate is None else list(dict.fromkeys([*wanted, *predicate.meta.root_names()]))
        left = n_rows
        for batch in _reader(source, layout, used or ["offset"]):
            frame = polars.DataFrame(batch)
            if left is not None:
                frame = frame.head(left)
                left -= frame.height
            if predicate is not None:
                frame = frame.filter(predicate)
            yield frame.select(wanted)
            if left == 0:
                return

    return register_io_source(frames, schema=empty.schema, validate_schema=True)
