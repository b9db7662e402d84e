"""Values with a schema as typed columns: `log.topic(name, value_serde=…, schema=…)`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..client.consumer.decode import undecodable
from ..client.consumer.record_batch import RecordBatch
from ..config import choice, typed
from ..errors import ConfigError, DeserializationError, message_of

logger = logging.getLogger("streamlog.frames")

INFERRED_FROM = 1_000
"""From how many records at the start of an export `schema="infer"` finds the fields."""

# What pyarrow and Python raise for a value of another type.
MISFITS = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, TypeError, ValueError, OverflowError)

_INTEGERS = {int, type(None)}


class ValueFields:
    """How the values of a topic become typed columns: the fields, and what is done with values that do not fit. Thread-safe.

    A value fits if it is a mapping whose entries have the types of the fields. Entries that are missing are null, and entries
    without a field are left out. Times and dates may be text in ISO 8601, since JSON has no type for them.
    """

    def __init__(self, schema: pa.Schema | str, on_mismatch: str) -> None:
        """Raises ConfigError."""
        choice("on_mismatch", on_mismatch, ("raise", "null"))
        if not isinstance(schema, pa.Schema) and schema != "infer":
            raise ConfigError(f"schema is a pyarrow.Schema or 'infer', not {typed(schema)}.", name="schema")
        names = [] if isinstance(schema, str) else schema.names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice or (not names and not isinstance(schema, str)):
            why = f"the field {twice[0]!r} twice" if twice else "no field"
            raise ConfigError(f"The schema has {why}; each column of an export needs a name of its own.", name="schema")
        self.raises = on_mismatch == "raise"
        self.mismatches = 0
        """How many values did not fit, in all exports so far."""
        self._fields = None if isinstance(schema, str) else _nullable(schema)

    def fields(self, batches: Iterable[RecordBatch[Any, Any]]) -> pa.Schema | None:
        """The fields; if they are to be inferred and were not yet, from the first of these batches. None if those have no values."""
        if self._fields is None:
            found = infer(islice(chain.from_iterable(map(_values, batches)), INFERRED_FROM))
            if found is not None and self._fields is None:
                self._fields = found
        return self._fields

    def columns(self, fields: pa.Schema, batches: Sequence[RecordBatch[Any, Any]]) -> list[pa.Array]:
        """One array of structs, then one array for each field. Raises DeserializationError if a value does not fit, or counts it."""
        values = [
            self._fitting(batch, at, entry) for batch in batches for at, entry in enumerate(batch._encoded("value"))
        ]
        arrays: list[pa.Array] = []
        unfit: dict[int, str] = {}
        for field in fields:
            column = [None if value is None else value.get(field.name) for value in values]
            try:
                arrays.append(_array(column, field.type))
            except MISFITS:
                unfit |= {at: why for at, why in _misfits(column, field) if at not in unfit}
        if unfit:
            for at in sorted(unfit):
                self._mismatch(batches, at, unfit[at])
                values[at] = None
            arrays = [
                _array([None if value is None else value.get(field.name) for value in values], field.type)
                for field in fields
            ]
        is_null = pa.array([value is None for value in values], pa.bool_())
        return [pa.StructArray.from_arrays(arrays, fields=list(fields), mask=is_null), *arrays]

    def _fitting(self, batch: RecordBatch[Any, Any], at: int, entry: bytes | None) -> Mapping[str, Any] | None:
        if entry is None:
            return None
        try:
            value = batch._decoder.deserialize_value(entry) if batch._decoder.deserialize_value is not None else entry
        except Exception as error:
            if self.raises:
                raise undecodable(batch._raw(at), error) from error
            self._count(batch, at, message_of(error))
            return None
        if isinstance(value, Mapping):
            return value
        self._mismatch([batch], at, f"it is {typed(value)}, not a mapping from names to values")
        return None

    def _mismatch(self, batches: Sequence[RecordBatch[Any, Any]], at: int, why: str) -> None:
        for batch in batches:
            if at < len(batch):
                break
            at -= len(batch)
        if not self.raises:
            self._count(batch, at, why)
            return
        record = batch._raw(at)
        raise DeserializationError(
            f"The value at offset {record.offset} of {record.topic}-{record.partition} does not fit the schema: {why}. .record has its "
            f"bytes. Give log.topic({record.topic!r}, …) a schema that fits, or on_mismatch='null' to read such values as null.",
            record=record,
        )

    def _count(self, batch: RecordBatch[Any, Any], at: int, why: str) -> None:
        self.mismatches += 1
        logger.debug(
            "%s-%d: the value at offset %d is read as null: %s", batch.topic, batch.partition, batch.offsets[at], why
        )


def _nullable(schema: pa.Schema) -> pa.Schema:
    """With fields that may be null: a tombstone has none, and of other values an entry may be missing."""
    return pa.schema([field.with_nullable(True) for field in schema])


def _values(batch: RecordBatch[Any, Any]) -> Iterator[Any]:
    """The values of a batch, without those that cannot be decoded."""
    deserialize = batch._decoder.deserialize_value
    for entry in batch._encoded("value"):
        try:
            yield entry if entry is None or deserialize is None else deserialize(entry)
        except Exception:
            yield None


def infer(values: Iterable[Any]) -> pa.Schema | None:
    """The fields that have all of these values; of one that has values of several types, the type of the first. None without any."""
    columns: dict[str, list[Any]] = {}
    for value in values:
        if isinstance(value, Mapping):
            for name, entry in value.items():
                if isinstance(name, str):
                    columns.setdefault(name, []).append(entry)
    return pa.schema([pa.field(name, _type_of(column)) for name, column in columns.items()]) if columns else None


def _type_of(column: list[Any]) -> pa.DataType:
    """The type that all have; if there is none, the one of those that are like the first."""
    try:
        return without_null(pa.array(column).type)
    except MISFITS:
        kinds = [(bool,), (int, float), (str,), (Mapping,), (list, tuple)]
        first = next(entry for entry in column if entry is not None)
        kind = next((kind for kind in kinds if isinstance(first, kind)), (type(first),))
        alike = [
            entry for entry in column if isinstance(entry, kind) and (kind == (bool,) or not isinstance(entry, bool))
        ]
    try:
        return without_null(pa.array(alike).type)
    except MISFITS:
        pass
    try:
        return without_null(pa.array([first]).type)
    except MISFITS:
        return pa.string()


def without_null(found: pa.DataType) -> pa.DataType:
    """With text where nothing is known of the type: it was null, or in an empty list, wherever it was."""
    if pa.types.is_null(found):
        return pa.string()
    if pa.types.is_struct(found):
        return pa.struct([field.with_type(without_null(field.type)) for field in found])
    if pa.types.is_list(found):
        return pa.list_(without_null(found.value_type))
    return found


def _array(column: list[Any], type_: pa.DataType) -> pa.Array:
    """The entries as `type_`. Raises one of `MISFITS` if one has another type, also where pyarrow would make it fit."""
    if pa.types.is_temporal(type_) and any(isinstance(entry, str) for entry in column):
        texts = pa.array([entry if isinstance(entry, str) else None for entry in column], pa.string()).cast(type_)
        others = pa.array([None if isinstance(entry, str) else entry for entry in column], type_)
        return pc.coalesce(texts, others)
    if pa.types.is_integer(type_) and set(map(type, column)) <= _INTEGERS:
        return pa.array(column, type_)  # the usual column, without a call for each entry
    if _has_integer(type_):
        for entry in column:
            _require_integers(entry, type_)
    return pa.array(column, type_)


def _has_integer(type_: pa.DataType) -> bool:
    return pa.types.is_integer(type_) or any(_has_integer(type_.field(n).type) for n in range(type_.num_fields))


def _require_integers(entry: Any, type_: pa.DataType) -> None:
    """Raise TypeError where the type has an integer and the entry has none: pyarrow makes 2 of 2.5, and 1 of True."""
    if pa.types.is_integer(type_):
        if entry is not None and (not isinstance(entry, int) or isinstance(entry, bool)):
            raise TypeError(f"{entry!r} is no integer")
    elif isinstance(entry, Mapping):
        if pa.types.is_struct(type_):
            for field in type_:
                _require_integers(entry.get(field.name), field.type)
    elif isinstance(entry, (list, tuple)) and _is_any_list(type_):
        for each in entry:
            _require_integers(each, type_.value_type)


def _is_any_list(type_: pa.DataType) -> bool:
    is_list: bool = pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_)
    return is_list


def _misfits(column: list[Any], field: pa.Field) -> Iterator[tuple[int, str]]:
    """The index of each entry that has another type than the field, and why."""
    for at, entry in enumerate(column):
        try:
            _array([entry], field.type)
        except MISFITS as error:
            yield at, f"its field {field.name!r} is {typed(entry)}, and not {field.type} ({message_of(error)})"
