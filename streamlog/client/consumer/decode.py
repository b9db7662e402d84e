"""From the bytes of a fetch to records: verify each batch, decode its columns, build Records in C.

The data of a fetch is decoded batch by batch. Nothing is used before its checksum is verified, neither a length nor an
offset. The iterators that are returned own their bytes and refer to no mapping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ...errors import CorruptRecordError, DeserializationError, StreamlogError, message_of
from ...records.batch import BatchHeader, corrupt, read_header, verify_payload
from ...records.columns import BatchColumns, records_of
from ...records.decode import decode
from ...storage.log import FetchData
from ...types import Record

Deserialize = Callable[[bytes], Any]

_new: Any = tuple.__new__  # namedtuple's own __new__ is a Python call


class Decoder:
    """How one partition's batches become records: its name and the deserializers, None for bytes."""

    __slots__ = ("deserialize_key", "deserialize_value", "partition", "plain", "topic")

    def __init__(self, topic: str, partition: int, key: Deserialize | None, value: Deserialize | None) -> None:
        self.topic = topic
        self.partition = partition
        self.deserialize_key = key
        self.deserialize_value = value
        self.plain = key is None and value is None


class VerifiedBatch(NamedTuple):
    """One batch of a fetch, its checksums verified, its columns not decoded yet. `next_offset` is the one after it."""

    header: BatchHeader
    columns: BatchColumns
    next_offset: int
    path: str
    position: int

    def damaged(self, error: Exception) -> CorruptRecordError:
        """For columns that contradict a header whose checksums are right: this library did not write the batch."""
        why = f"its columns cannot be decoded ({error})"
        return corrupt(self.path, self.position, why, self.header.payload_hash, 0)


def verified(fetched: FetchData, at: int) -> VerifiedBatch:
    """The batch that begins at index `at` of the data. Raises CorruptRecordError if it does not verify."""
    data, seed, path, start, _, first, _ = fetched
    position = start + at
    header = read_header(data, at, seed, path, position) if first is None or at else first
    stop = at + header.batch_len
    if stop > len(data):
        raise corrupt(path, position, "the batch is cut short", header.batch_len, len(data) - at)
    verify_payload(header, memoryview(data)[at + header.header_len : stop], seed, path, position)
    try:
        columns = decode(header, data, at)
    except ValueError as error:
        raise corrupt(path, position, str(error), header.payload_hash, 0) from error
    next_offset = header.base_offset + header.last_offset_delta + 1
    made: VerifiedBatch = _new(VerifiedBatch, (header, columns, next_offset, path, position))
    return made


def records(batch: VerifiedBatch, decoder: Decoder, start: int, window: int) -> tuple[Iterator[Record[Any, Any]], int]:
    """The batch's records from offset `start` on, deserialized, and the offset at which to go on.

    At most `window` records, so that reading one record in the middle of a batch does not decode all of it; the offset is
    the one after them. The iterator runs in C where nothing has to be deserialized. With deserializers it may raise
    DeserializationError between two records: all records before the one that failed were given.
    """
    header = batch.header
    count, onward = header.record_count, batch.next_offset
    low, high = 0, None
    try:
        if header.last_offset_delta + 1 == count:
            if start > header.base_offset:
                low = start - header.base_offset
            if low + window < count:
                high = low + window
                onward = header.base_offset + high
        elif start > header.base_offset:
            low = sum(1 for offset in batch.columns.offsets() if offset < start)
        made: Iterator[Record[Any, Any]] = records_of(
            Record, decoder.topic, decoder.partition, batch.columns, low, high
        )
    except (ValueError, TypeError) as error:
        raise batch.damaged(error) from error
    return (made if decoder.plain else _deserialized(made, decoder)), onward


def _deserialized(raw: Iterator[Record[Any, Any]], decoder: Decoder) -> Iterator[Record[Any, Any]]:
    key_of, value_of = decoder.deserialize_key, decoder.deserialize_value
    new = tuple.__new__
    for record in raw:
        topic, partition, offset, timestamp, key, value, headers = record
        try:
            if key_of is not None and key is not None:
                key = key_of(key)
            if value_of is not None and value is not None:
                value = value_of(value)
        except StreamlogError:
            raise
        except Exception as error:
            raise undecodable(record, error) from error
        yield new(Record, (topic, partition, offset, timestamp, key, value, headers))


def undecodable(record: Record[Any, Any], error: Exception) -> DeserializationError:
    return DeserializationError(
        f"The deserializer failed on the record at offset {record.offset} of {record.topic}-{record.partition}: {message_of(error)}. "
        f".record has its bytes; seek to offset {record.offset + 1} to go on after it.",
        record=record,
    )
