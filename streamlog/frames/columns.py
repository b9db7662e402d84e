"""From batches of records to `pyarrow.RecordBatch`: the columns that every export has.

`partition` int32, `offset` int64, `timestamp` in milliseconds of UTC, `key` and `value` as they are stored, `headers` as a list of
structs. A batch of the usual shape is copied by the core in C from its encoded bytes to Arrow's buffers, with no object for each
record; of any other batch pyarrow takes Python's lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa

from ..client.consumer.decode import Decoder
from ..client.consumer.record_batch import RecordBatch
from ..client.serde import json, string
from ..errors import DeserializationError, message_of
from ..records.columns import KEYS, OFFSETS, TIMESTAMPS, VALUES
from ..records.core import core

TIMESTAMP = pa.timestamp("ms", tz="UTC")
HEADERS = pa.list_(pa.struct([pa.field("key", pa.string(), nullable=False), pa.field("value", pa.large_binary())]))
NAMES = ("partition", "offset", "timestamp", "key", "value", "headers")
# One batch of Arrow holds about as many records or bytes. Memory is bounded, and the caches of a processor hold the bytes from the
# read to the copy: with 8 MiB an export took twice the time.
MAX_RECORDS, MAX_BYTES = 1 << 16, 1 << 19


def metadata_schema(decoder: Decoder | None) -> pa.Schema:
    """The schema of `NAMES`. Keys and values are bytes; of the serdes `string` and `json`, text."""
    return pa.schema(
        [
            pa.field("partition", pa.int32(), nullable=False),
            pa.field("offset", pa.int64(), nullable=False),
            pa.field("timestamp", TIMESTAMP, nullable=False),
            pa.field("key", _stored(decoder and decoder.deserialize_key)),
            pa.field("value", _stored(decoder and decoder.deserialize_value)),
            pa.field("headers", HEADERS, nullable=False),
        ]
    )


def _stored(deserialize: Any) -> pa.DataType:
    is_text = deserialize in (string.deserialize, json.deserialize)
    return pa.large_string() if is_text else pa.large_binary()


def grouped(batches: Iterable[RecordBatch[Any, Any]]) -> Iterator[list[RecordBatch[Any, Any]]]:
    """Batches of one partition, together up to `MAX_RECORDS` or `MAX_BYTES`."""
    group: list[RecordBatch[Any, Any]] = []
    records = size = 0
    for batch in batches:
        group.append(batch)
        usual = batch._usual
        records += batch._length
        size += batch._size if usual is None else usual.batch_len
        if records >= MAX_RECORDS or size >= MAX_BYTES:
            yield group
            group = []
            records = size = 0
    if group:
        yield group


class Group:
    """Batches of one partition that become one batch of Arrow. Each column is made when it is asked for."""

    def __init__(self, batches: Sequence[RecordBatch[Any, Any]]) -> None:
        self.batches = batches
        self.count = sum(map(len, batches))
        usual = [batch._usual for batch in batches if batch._usual is not None]
        self._usual = usual if core is not None and len(usual) == len(batches) else None

    def column(self, name: str, type_: pa.DataType) -> pa.Array:
        """The column of `NAMES` called `name`. Raises DeserializationError for text that is not UTF-8."""
        if name == "key" or name == "value":
            return self._stored(name, type_)
        if name == "partition":
            return pa.repeat(pa.scalar(self.batches[0].partition, type_), self.count)
        if name == "headers":
            return self._headers()
        return self._integers(name, type_)

    def _integers(self, name: str, type_: pa.DataType) -> pa.Array:
        if self._usual is not None and core is not None:
            data = core.gather(self._usual, OFFSETS if name == "offset" else TIMESTAMPS)
            return pa.Array.from_buffers(type_, self.count, [None, pa.py_buffer(data)])
        each: Iterable[Sequence[int]] = (b.offsets if name == "offset" else b.timestamps for b in self.batches)
        return pa.array(list(chain.from_iterable(each)), type_)

    def _stored(self, name: Any, type_: pa.DataType) -> pa.Array:
        is_text = type_ == pa.large_string()
        try:
            if self._usual is not None and core is not None:
                buffers: Any = core.gather(self._usual, KEYS if name == "key" else VALUES)
                if buffers is None:
                    return pa.nulls(self.count, type_)
                made = pa.Array.from_buffers(
                    type_, self.count, [each if each is None else pa.py_buffer(each) for each in buffers]
                )
            else:
                made = pa.array(list(chain.from_iterable(b._encoded(name) for b in self.batches)), type_)
            if is_text:  # programs that take the column trust it
                made.validate(full=True)
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            if not is_text:
                raise
            raise self._not_text(name, error) from error
        return made

    def _not_text(self, name: Any, error: Exception) -> Exception:
        """The error of the first key or value that is not UTF-8."""
        for batch in self.batches:
            for at, entry in enumerate(batch._encoded(name)):
                try:
                    if entry is not None:
                        str(entry, "utf-8")
                except UnicodeDecodeError as wrong:
                    record = batch._raw(at)
                    return DeserializationError(
                        f"The {name} at offset {record.offset} of {record.topic}-{record.partition} is not text in UTF-8: "
                        f"{message_of(wrong)}. .record has its bytes. Without the {name}_serde the column is bytes: "
                        f"log.topic({record.topic!r}).",
                        record=record,
                    )
        return error

    def _headers(self) -> pa.Array:
        if self._usual is not None:
            return pa.ListArray.from_arrays(
                pa.repeat(pa.scalar(0, pa.int32()), self.count + 1), pa.array([], HEADERS.value_type)
            ).cast(HEADERS)
        ends, keys, values = [0], list[str](), list[bytes | None]()
        for headers in chain.from_iterable(batch.headers for batch in self.batches):
            for key, value in headers:
                keys.append(key)
                values.append(value)
            ends.append(len(keys))
        entries = pa.StructArray.from_arrays(
            [pa.array(keys, pa.string()), pa.array(values, pa.large_binary())], fields=list(HEADERS.value_type)
        )
        return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), entries, type=HEADERS)
