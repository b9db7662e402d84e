"""Many records at once: columns cut into batches, batches spread over partitions."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from operator import add

from ...config import DEFAULT_BATCH_SIZE
from ...types import HeaderTuple, RecordMetadata
from .accumulator import RecordAccumulator
from .batch import Batch, Row, Rows
from .delivery import ManyDelivery, Part
from .partition_queue import PartitionQueue
from .topic_cache import Column

# How many batches of one send_many are queued before they are written: bounds its memory.
_PUT_BATCHES = 64
_FEWEST = 64
_LARGE_BATCH = 60_000  # two of them fit into what a reader fetches at once
# What those that are weighed together may weigh if they are to count as small.
_SMALL_BYTES = 1 << 19


def put(outbox: RecordAccumulator, queue: PartitionQueue, parts: list[Part], linger_ms: int) -> list[Part]:
    """Queue a call's batches and write them; with a linger the last one, if not full, stays open."""
    last: Part | None = None
    if linger_ms and parts[-1].batch.size < queue.batch_size and len(parts[-1].batch) < queue.batch_records:
        last = parts.pop()
    for at in range(0, len(parts), _PUT_BATCHES):
        batches = [part.batch for part in parts[at : at + _PUT_BATCHES]]
        for few in _that_fit(outbox, batches, queue):
            queue.put(few)
            queue.drain()
    return parts if last is None else parts + _linger_with(outbox, queue, last)


def _that_fit(outbox: RecordAccumulator, batches: list[Batch], queue: PartitionQueue) -> Iterable[list[Batch]]:
    """The batches, as many at a time as the buffer has room for; waits for room."""
    if outbox.reserve(sum(batch.reserved for batch in batches)):
        yield batches
        return
    for batch in batches:
        end = outbox.time_for_room()
        while not outbox.reserve(batch.reserved):
            outbox.wait_for_room(batch.reserved, queue, end)
        yield [batch]


def _linger_with(outbox: RecordAccumulator, queue: PartitionQueue, last: Part) -> list[Part]:
    """Add the records of a batch that is not full to the open one, as if each had been sent alone."""
    n, keys, values, times, headers = last.batch.columns()
    each = last.batch.size // n
    parts: list[Part] = []
    indexes: list[int] = []
    for i, index in enumerate(last.indexes):
        row: Row = (None if keys is None else keys[i], values[i], times if isinstance(times, int) else times[i])
        if headers is not None:
            row = (*row, headers[i])
        batch, place = outbox.add(queue, row, each)
        if not parts or parts[-1].batch is not batch or place != parts[-1].first + len(indexes):
            indexes = []  # a batch of its own, or behind a record of another thread
            parts.append(Part(batch, indexes, place))
        indexes.append(index)
        if batch.closed:
            queue.drain()
    return parts


class Unacknowledged(ManyDelivery):
    """`send_many` under acks=0: done at once, offset -1, whatever becomes of it."""

    __slots__ = ()

    def done(self) -> bool:
        return True

    def exception(self, timeout: float | None = None) -> BaseException | None:
        return None

    def result(self, timeout: float | None = None) -> Sequence[RecordMetadata]:
        places: list[RecordMetadata] = [RecordMetadata("", 0, -1, 0)] * self._count
        for part in self._parts:
            queue = part.batch.queue
            for inside, index in enumerate(part.indexes, part.first):
                places[index] = RecordMetadata(queue.topic.name, queue.partition, -1, part.batch.time_of(inside))
        return places


def sizes_of(values: Column, keys: Column | None, overhead: int, largest: int) -> list[int] | int:
    """What each record will take, in bytes; or the mean, where all are known to be small. REQUIRES: there is one."""
    weights = values.weights
    if weights is not None and keys is not None:
        weights = None if keys.weights is None else list(map(add, weights, keys.weights))
    if weights is not None and max(weights) <= min(_SMALL_BYTES, largest - overhead):
        return -(-sum(weights) // len(values.items)) + overhead
    own = values.lengths()
    if keys is not None:
        own = list(map(add, own, keys.lengths()))
    return [n + overhead for n in own]


def largest(sizes: list[int] | int) -> int:
    return sizes if isinstance(sizes, int) else max(sizes, default=0)


def cut(
    queue: PartitionQueue,
    values: Sequence[bytes | None],
    keys: Sequence[bytes | None] | None,
    times: Sequence[int] | int,
    sizes: Sequence[int] | int,
    pairs: HeaderTuple,
    indexes: Sequence[int],
) -> list[Part]:
    """Cut columns into batches of about `batch_size` bytes; `indexes` are the records' places in the call."""
    parts: list[Part] = []
    for start, end, size in _slices(sizes, len(values), queue):
        columns = Rows(
            end - start,
            None if keys is None else keys[start:end],
            values[start:end],
            times if isinstance(times, int) else times[start:end],
            [pairs] * (end - start) if pairs else None,
        )
        parts.append(Part(Batch.whole(queue, columns, size), indexes[start:end]))
    return parts


def _slices(sizes: Sequence[int] | int, n: int, queue: PartitionQueue) -> Iterable[tuple[int, int, int]]:
    """Start, end and bytes of each batch."""
    batch_size = queue.batch_size
    if isinstance(sizes, int):
        step = max(1, -(-batch_size // sizes))
        if batch_size == DEFAULT_BATCH_SIZE:
            # A handful of large records would not repay what a batch costs by itself.
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
