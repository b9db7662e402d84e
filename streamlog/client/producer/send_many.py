"""Many records in one call: columns that are checked whole, cut into batches, and queued.

`Producer.send_many` takes the steps: `checked`, then for each partition `cut` and `put`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from operator import add, length_hint
from typing import Any, NamedTuple

from ...config import DEFAULT_BATCH_SIZE, shown, typed
from ...errors import InvalidTimestampError, SerializationError, StreamlogError
from ...types import HeaderTuple
from ..arguments import count_of, up_to
from ..serde import Serialize, header_tuple, serialize, to_bytes
from .accumulator import RecordAccumulator
from .batch import RECORD_OVERHEAD, Batch, Row, Rows, headers_size
from .delivery import Part
from .partition_queue import PartitionQueue
from .topic_cache import CachedTopic

# How many characters of a value an error shows.
_SHOWN = 80
# How many records of a column are weighed together.
_WINDOW = 128
# Records count as small where a whole window weighs no more than this.
_SMALL_BYTES = 1 << 19
# How many batches of one call are queued before they are written: bounds its memory.
_PUT_BATCHES = 64
# A batch has this many records at least, up to the size of a large batch, if the program has not set `batch_size`: of a
# few large records, the batch by itself would cost more than they do.
_FEWEST = 64
_LARGE_BATCH = 60_000  # two of them fit into what a reader fetches at once


def listed(items: Iterable[Any], what: str) -> list[Any]:
    """The items as a list. Raises SerializationError for what has none; what the program's iterable raises passes through."""
    try:
        return list(items)
    except TypeError:
        if hasattr(type(items), "__iter__") or hasattr(type(items), "__getitem__"):
            raise
    raise SerializationError(f"send_many takes an iterable of {what}, one for each record, not {typed(items)}.")


def name_last(error: StreamlogError, column_name: str, column: list[Any], left: Iterator[Any]) -> None:
    """`name` the item of `column` that `left`, an iterator over it, gave last: nothing need be counted meanwhile."""
    index = len(column) - length_hint(left) - 1
    name(error, column_name, index, column[index])


def name(error: StreamlogError, column_name: str, index: int, value: Any) -> None:
    """Have an error say which record of the call it is about, in its message and as `.index` and `.value`."""
    what = shown(value)
    what = what if len(what) <= _SHOWN else f"{what[: _SHOWN - 1]}…"
    error.args = (f"{column_name}[{index}], {what}: {error.args[0]}",)
    error.__dict__.update(index=index, value=value)


class Column(NamedTuple):
    """The keys, or the values, of many records as bytes. `weights`: see `weigh`; None also if one of the items is."""

    items: list[bytes | None]
    weights: list[int] | None

    def lengths(self) -> list[int]:
        """The bytes of each item."""
        return [0 if i is None else len(i) if type(i) is bytes else memoryview(i).nbytes for i in self.items]


def weigh(column: Sequence[Any]) -> list[int] | None:
    """The bytes of each `_WINDOW` items together, the last few by themselves; None unless all are bytes, or some
    other buffer.

    Joining a few is several times as fast as asking each for its type or its length, and answers both: that all are
    buffers, and that none is larger than all of them together. Another buffer is packed as bytes too, or refused when
    its batch is encoded.
    """
    try:
        return [len(b"".join(column[start : start + _WINDOW])) for start in range(0, len(column), _WINDOW)]
    except TypeError:
        return None


def column_of(items: Iterable[Any], serializer: Serialize | None, what: str, *, copied: bool) -> Column:
    """A column of keys or values as bytes. Raises SerializationError.

    `copied`: other buffers than bytes are copied, because the records may linger, and the caller could change the
    buffers meanwhile.
    """
    if isinstance(items, (str, bytes, bytearray, memoryview, Mapping)):
        raise SerializationError(
            f"send_many takes an iterable of {what}s, one for each record; {type(items).__name__} is a single one. "
            f"Use send, or put it into a list."
        )
    column = listed(items, f"{what}s")
    if serializer is None and not (copied and set(map(type, column)) != {bytes}):
        weights = weigh(column)
        if weights is not None:
            return Column(column, weights)
    left = iter(column)
    try:
        if serializer is None:
            made = [None if item is None else to_bytes(item, what) for item in left]
        else:
            made = [None if item is None else to_bytes(serialize(serializer, item, what), what) for item in left]
    except SerializationError as error:
        name_last(error, f"{what}s", column, left)
        raise
    return Column(made, weigh(made))


class Records(NamedTuple):
    """The records of one call, by columns, checked. `sizes`: of each record, or the mean where all are small."""

    values: list[bytes | None]
    keys: list[bytes | None] | None
    times: list[int] | int
    sizes: list[int] | int
    headers: HeaderTuple

    def at(self, indexes: range | list[int]) -> Records:
        """The records at these indexes; a range means all of them."""
        if isinstance(indexes, range):
            return self
        values, keys, times, sizes, headers = self
        return Records(
            [values[i] for i in indexes],
            None if keys is None else [keys[i] for i in indexes],
            times if isinstance(times, int) else [times[i] for i in indexes],
            sizes if isinstance(sizes, int) else [sizes[i] for i in indexes],
            headers,
        )


def checked(
    topic: CachedTopic,
    values: Iterable[Any],
    keys: Iterable[Any] | None,
    headers: Any,
    timestamps_ms: Iterable[Any] | None,
    now_ms: int,
    *,
    copied: bool,
) -> Records:
    """The call's records as they are stored, all checked. `copied`: see `column_of`.

    Raises SerializationError, InvalidRecordError, InvalidTimestampError, RecordTooLargeError.
    """
    column = column_of(values, topic.serialize_value, "value", copied=copied)
    n = len(column.items)
    key_column = None
    if keys is not None:
        key_column = column_of(up_to(n + 1, keys), topic.serialize_key, "key", copied=copied)
        if len(key_column.items) != n:
            raise SerializationError(
                f"send_many got {n} values and {count_of(keys, key_column.items)} keys; it takes one key for each value."
            )
    if topic.needs_key and n and (key_column is None or None in key_column.items):
        missing = topic.no_key()
        name(missing, "keys", 0 if key_column is None else key_column.items.index(None), None)
        raise missing
    pairs = () if headers is None else header_tuple(headers)
    times = now_ms if timestamps_ms is None else times_of(topic, timestamps_ms, now_ms, n)
    sizes = _sizes_of(column, key_column, RECORD_OVERHEAD + headers_size(pairs), topic.max_size) if n else 0
    largest = sizes if isinstance(sizes, int) else max(sizes)
    if not isinstance(sizes, int) and largest > topic.max_size:
        index = next(i for i, size in enumerate(sizes) if size > topic.max_size)
        too_large = topic.too_large(sizes[index])
        name(too_large, "values", index, column.items[index])
        raise too_large
    return Records(column.items, None if key_column is None else key_column.items, times, sizes, pairs)


def times_of(topic: CachedTopic, given: Iterable[Any], now_ms: int, n: int) -> list[int]:
    """The timestamps that the caller gave for `n` records. Raises InvalidTimestampError."""
    if isinstance(given, (str, bytes, bytearray, memoryview)):
        raise InvalidTimestampError(f"timestamps_ms takes an iterable of ints, one for each value, not {typed(given)}.")
    column = listed(up_to(n + 1, given), "timestamps")
    if len(column) != n:
        raise InvalidTimestampError(
            f"send_many got {n} values and {count_of(given, column)} timestamps; it takes one for each value."
        )
    if set(map(type, column)) == {int}:
        # If the least and the greatest are allowed, all are. Asking for each took a third of what a record costs.
        with suppress(InvalidTimestampError):
            topic.timestamp(min(column), now_ms)
            topic.timestamp(max(column), now_ms)
            return column
    left = iter(column)
    try:
        return [topic.timestamp(each, now_ms) for each in left]
    except InvalidTimestampError as error:
        name_last(error, "timestamps_ms", column, left)
        raise


def _sizes_of(values: Column, keys: Column | None, overhead: int, largest: int) -> list[int] | int:
    """What each record will take, in bytes; or the mean, where all are known to be small. REQUIRES: there is one."""
    weights = values.weights
    if weights is not None and keys is not None:
        weights = None if keys.weights is None else list(map(add, weights, keys.weights))
    if weights is not None and max(weights) <= min(_SMALL_BYTES, largest - overhead):
        return -(-sum(weights) // len(values.items)) + overhead
    lengths = values.lengths()
    if keys is not None:
        lengths = list(map(add, lengths, keys.lengths()))
    return [length + overhead for length in lengths]


def batches_of(topic: CachedTopic, records: Records, partition: Any) -> Iterable[tuple[PartitionQueue, list[Part]]]:
    """The batches of a call, for each partition. Records that need not be together take the partitions in turn, by batch."""
    n = len(records.values)
    if partition is None and topic.takes_turns(records.keys) and n:
        queue = topic.queue_for(None, None)
        turns: dict[PartitionQueue, list[Part]] = {}
        for start, end, size in _slices(records.sizes, n, queue):
            if start:
                queue = topic.next_queue()
            turns.setdefault(queue, []).append(_part(queue, records, start, end, size, range(n)))
        return turns.items()
    return [
        (queue, cut(queue, records.at(indexes), indexes)) for queue, indexes in topic.spread(records.keys, partition, n)
    ]


def cut(queue: PartitionQueue, records: Records, indexes: Sequence[int]) -> list[Part]:
    """Cut columns into batches of about `batch_size` bytes; `indexes` are the records' places in the call."""
    slices = _slices(records.sizes, len(records.values), queue)
    return [_part(queue, records, start, end, size, indexes) for start, end, size in slices]


def _part(queue: PartitionQueue, records: Records, start: int, end: int, size: int, indexes: Sequence[int]) -> Part:
    """A batch of the records from `start` to `end`."""
    values, keys, times, _, headers = records
    columns = Rows(
        end - start,
        None if keys is None else keys[start:end],
        values[start:end],
        times if isinstance(times, int) else times[start:end],
        [headers] * (end - start) if headers else None,
    )
    return Part(Batch.whole(queue, columns, size), indexes[start:end])


def _slices(sizes: Sequence[int] | int, n: int, queue: PartitionQueue) -> Iterable[tuple[int, int, int]]:
    """Start, end and bytes of each batch."""
    batch_size = queue.batch_size
    if isinstance(sizes, int):
        step = max(1, -(-batch_size // sizes))
        if batch_size == DEFAULT_BATCH_SIZE:
            few = -(-min(_LARGE_BATCH, queue.write_bytes) // sizes)
            step = max(step, min(_FEWEST, few))
        step = min(step, queue.batch_records)
        for start in range(0, n, step):
            end = min(start + step, n)
            yield start, end, (end - start) * sizes
        return
    ends = list(accumulate(sizes))
    start, before = 0, 0
    while start < n:
        end = max(start + 1, min(bisect_left(ends, before + batch_size) + 1, start + queue.batch_records, n))
        yield start, end, ends[end - 1] - before
        start, before = end, ends[end - 1]


def put(accumulator: RecordAccumulator, queue: PartitionQueue, parts: list[Part], linger_ms: int) -> list[Part]:
    """Queue a call's batches and write them; with a linger the last one, if not full, stays open."""
    last: Part | None = None
    if linger_ms and parts[-1].batch.size < queue.batch_size and len(parts[-1].batch) < queue.batch_records:
        last = parts.pop()
    for at in range(0, len(parts), _PUT_BATCHES):
        batches = [part.batch for part in parts[at : at + _PUT_BATCHES]]
        for few in _that_fit(accumulator, batches, queue):
            queue.put(few)
            queue.drain()
    return parts if last is None else parts + _linger_with(accumulator, queue, last)


def _that_fit(accumulator: RecordAccumulator, batches: list[Batch], queue: PartitionQueue) -> Iterable[list[Batch]]:
    """The batches, all at once if they fit into the buffer, or one by one, each as soon as it fits."""
    if accumulator.reserve(sum(batch.reserved for batch in batches)):
        yield batches
        return
    for batch in batches:
        if not accumulator.reserve(batch.reserved):
            accumulator.wait_for_buffer(batch.reserved, queue, accumulator.buffer_deadline())
        yield [batch]


def _linger_with(accumulator: RecordAccumulator, queue: PartitionQueue, last: Part) -> list[Part]:
    """Add the records of a batch that is not full to the open one, as if each had been sent alone."""
    n, keys, values, times, headers = last.batch.columns()
    each = last.batch.size // n
    parts: list[Part] = []
    indexes: list[int] = []
    for i, index in enumerate(last.indexes):
        row: Row = (None if keys is None else keys[i], values[i], times if isinstance(times, int) else times[i])
        if headers is not None:
            row = (*row, headers[i])
        batch, place = accumulator.add(queue, row, each)
        if not parts or parts[-1].batch is not batch or place != parts[-1].first + len(indexes):
            indexes = []  # in another batch, or not right after the one before: another thread's is between them
            parts.append(Part(batch, indexes, place))
        indexes.append(index)
        if batch.closed:
            queue.drain()
    return parts
