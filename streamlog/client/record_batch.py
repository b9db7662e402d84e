"""`RecordBatch`: records by columns, for readers to whom a Python object per record is too much."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any, Generic

from ..types import HeaderTuple, K, Record, V
from .decode import Columns, Decoder, VerifiedBatch


class RecordBatch(Generic[K, V]):
    """Records of one partition as parallel columns. Immutable, owns its bytes, iterates to Records.

    A column is decoded when it is first touched, so a reader that only wants keys pays only for
    keys. `next_offset` is where to go on reading: after compaction that may lie past `last_offset + 1`.

    >>> import streamlog
    >>> with streamlog.open() as log:
    ...     topic = log.create_topic("orders")
    ...     _ = topic.send_many(["9.50", "3.20"], ["alice", "bob"])
    ...     [(batch.base_offset, batch.keys) for batch in topic.read_batches()]
    [(0, [b'alice', b'bob'])]
    """

    __slots__ = ("_columns", "_length", "_offsets", "base_offset", "last_offset", "next_offset", "partition", "topic")

    topic: str
    partition: int
    base_offset: int
    last_offset: int
    next_offset: int
    _columns: Any
    _offsets: Sequence[int]
    _length: int

    def __init__(self, batch: VerifiedBatch, decoder: Decoder, start: int = 0, end: int | None = None) -> None:
        columns = Columns(batch, decoder, start, end)
        offsets = columns.offsets
        next_offset = batch.header.next_offset
        put = object.__setattr__
        put(self, "_columns", columns)
        put(self, "_offsets", offsets)
        put(self, "_length", len(offsets))
        put(self, "topic", decoder.topic)
        put(self, "partition", decoder.partition)
        put(self, "base_offset", offsets[0] if len(offsets) else batch.header.base_offset)
        put(self, "last_offset", offsets[-1] if len(offsets) else batch.header.last_offset)
        put(self, "next_offset", next_offset if end is None else min(next_offset, end))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a RecordBatch is immutable; {name} cannot be set")

    @property
    def offsets(self) -> Sequence[int]:
        """Each record's offset, ascending."""
        return self._offsets

    @property
    def timestamps(self) -> Sequence[int]:
        """Each record's timestamp, ms since the epoch."""
        times: Sequence[int] = self._columns.timestamps
        return times

    @property
    def keys(self) -> Sequence[K]:
        """Each record's key. Raises DeserializationError if a deserializer fails on one."""
        keys: Sequence[K] = self._columns.keys()
        return keys

    @property
    def values(self) -> Sequence[V]:
        """Each record's value. Raises DeserializationError if a deserializer fails on one."""
        values: Sequence[V] = self._columns.values()
        return values

    @property
    def headers(self) -> Sequence[HeaderTuple]:
        """Each record's headers."""
        headers: Sequence[HeaderTuple] = self._columns.headers()
        return headers

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Record[K, V]]:
        columns = self._columns
        new: Any = tuple.__new__
        return map(
            new,
            repeat(Record),
            zip(
                repeat(self.topic), repeat(self.partition), self._offsets, columns.timestamps,
                columns.keys(), columns.values(), columns.headers(), strict=False,
            ),
        )  # fmt: skip

    def __reduce__(self) -> Any:
        return _restore, (
            self.topic, self.partition, self.next_offset, list(self.offsets), list(self.timestamps),
            list(self.keys), list(self.values), list(self.headers), self.base_offset, self.last_offset,
        )  # fmt: skip

    def __repr__(self) -> str:
        return (
            f"RecordBatch(topic={self.topic!r}, partition={self.partition}, "
            f"base_offset={self.base_offset}, last_offset={self.last_offset}, records={len(self)})"
        )


class _Plain:
    """Columns that are there already: what a pickled batch comes back with."""

    def __init__(self, timestamps: Any, keys: Any, values: Any, headers: Any) -> None:
        self.timestamps = timestamps
        self.keys = lambda: keys
        self.values = lambda: values
        self.headers = lambda: headers


def _restore(
    topic: str, partition: int, next_offset: int, offsets: Any, timestamps: Any, keys: Any, values: Any, headers: Any, base: int, last: int
) -> RecordBatch[Any, Any]:  # fmt: skip
    batch: RecordBatch[Any, Any] = RecordBatch.__new__(RecordBatch)
    put = object.__setattr__
    for name, value in (
        ("_columns", _Plain(timestamps, keys, values, headers)), ("_offsets", offsets), ("_length", len(offsets)),
        ("topic", topic), ("partition", partition), ("base_offset", base), ("last_offset", last), ("next_offset", next_offset),
    ):  # fmt: skip
        put(batch, name, value)
    return batch
