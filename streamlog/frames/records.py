"""Some records, whose values may be any objects of Python, as a table of Arrow: what `head`, `tail` and `at` of a topic give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from ..types import Record
from .columns import HEADERS, TIMESTAMP, metadata_schema
from .fields import MISFITS, without_null


def records_to_arrow(records: Sequence[Record[Any, Any]]) -> pa.Table:
    """The columns of an export, of these records. Keys and values have the type that pyarrow finds, or are text: their repr."""
    headers = [[{"key": name, "value": value} for name, value in record.headers] for record in records]
    key, value = _column([record.key for record in records]), _column([record.value for record in records])
    schema = metadata_schema(None)
    for name, column in ("key", key), ("value", value):
        schema = schema.set(schema.get_field_index(name), pa.field(name, column.type))
    arrays = [
        pa.array([record.partition for record in records], pa.int32()),
        pa.array([record.offset for record in records], pa.int64()),
        pa.array([record.timestamp for record in records], TIMESTAMP),
        key,
        value,
        pa.array(headers, HEADERS),
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _column(entries: list[Any]) -> pa.Array:
    """Bytes and text have the types that they have in an export of the topic; so has a column without any entry."""
    if all(entry is None or isinstance(entry, bytes) for entry in entries):
        return pa.array(entries, pa.large_binary())
    if all(entry is None or isinstance(entry, str) for entry in entries):
        return pa.array(entries, pa.large_string())
    try:
        found = pa.array(entries)
        return found.cast(without_null(found.type))
    except MISFITS:
        return pa.array([None if entry is None else repr(entry) for entry in entries], pa.large_string())
