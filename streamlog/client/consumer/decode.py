"""From the bytes of a fetch to records: verify each batch, decode its columns, build Records in C.

The data of a fetch is decoded batch by batch. Nothing is used before its checksum is verified, neither a length nor an
offset. The iterators that are returned own their bytes and refer to no mapping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ...broker.fetched import FetchedBatch
from ...config import ConsumerConfig
from ...errors import DeserializationError, StreamlogError, message_of
from ...records.columns import records_of
from ...types import Record, TopicPartition
from ..serde import resolve_deserializer

Deserialize = Callable[[bytes], Any]


class Decoder:
    """How one partition's batches become records: its name and the deserializers, None for bytes.

    `value_fields`: the columns of its values in an export, if the handle of the topic has a schema: `frames.ValueFields`.
    """

    __slots__ = ("deserialize_key", "deserialize_value", "partition", "plain", "topic", "value_fields")

    def __init__(
        self, topic: str, partition: int, key: Deserialize | None, value: Deserialize | None, value_fields: Any = None
    ) -> None:
        self.value_fields = value_fields
        self.topic = topic
        self.partition = partition
        self.deserialize_key = key
        self.deserialize_value = value
        self.plain = key is None and value is None


def decoders_of(config: ConsumerConfig, serdes: Mapping[str, tuple[Any, Any]]) -> Callable[[TopicPartition], Decoder]:
    """How to deserialize the records of a partition: by the consumer's settings, else by the serdes of the Topic given."""
    resolve_deserializer(config.key_deserializer, "", "key")
    resolve_deserializer(config.value_deserializer, "")

    def decoder(name: TopicPartition) -> Decoder:
        key, value = serdes.get(name.topic, (None, None))
        key = config.key_deserializer if config.key_deserializer is not None else key
        value = config.value_deserializer if config.value_deserializer is not None else value
        return Decoder(
            name.topic,
            name.partition,
            resolve_deserializer(key, name.topic, "key"),
            resolve_deserializer(value, name.topic),
        )

    return decoder


def records(batch: FetchedBatch, decoder: Decoder, start: int, window: int) -> tuple[Iterator[Record[Any, Any]], int]:
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
    return (made if decoder.plain else deserialized(made, decoder)), onward


def deserialized(raw: Iterator[Record[Any, Any]], decoder: Decoder) -> Iterator[Record[Any, Any]]:
    """The records with keys and values as the deserializers make them. Raises DeserializationError at the one that fails."""
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


def undecodable(record: Record[Any, Any], error: Exception, onward: str = "") -> DeserializationError:
    """The error of a record whose deserializer raised `error`. `onward`: how its reader goes on, if not by a seek."""
    onward = onward or f"seek to offset {record.offset + 1} to go on after it"
    return DeserializationError(
        f"The deserializer failed on the record at offset {record.offset} of {record.topic}-{record.partition}: {message_of(error)}. "
        f".record has its bytes; {onward}.",
        record=record,
    )
