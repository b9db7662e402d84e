"""What `send` and `send_many` return: the promise of a place in the log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any, Generic, NamedTuple, TypeVar, overload

from ...errors import DeliveryError, StreamlogError
from ...runtime.threads import real_monotonic
from ...types import ProducerRecord, RecordMetadata
from ..arguments import seconds, seconds_or_none
from .batch import Batch

T = TypeVar("T")
logger = logging.getLogger("streamlog.client")


class Delivery(Generic[T]):
    """The promise of one record's place. Thread-safe, cheap: a batch and an index.

    >>> import streamlog
    >>> with streamlog.open() as log:
    ...     _ = log.create_topic("orders")
    ...     with log.producer(linger_ms=5) as producer:
    ...         delivery = producer.send("orders", "9.50", key="alice")
    ...         delivery.result().offset
    0
    """

    __slots__ = ("_batch", "_index")

    def __init__(self, batch: Batch, index: int) -> None:
        self._batch = batch
        self._index = index

    def done(self) -> bool:
        """Whether the record was written, or failed."""
        return self._batch.done()

    def result(self, timeout: float | None = None) -> T:
        """Where the record lies; ends the linger of its batch. Raises why it could not be written,
        or RequestTimedOutError (a TimeoutError) after `timeout` real seconds, the record still on its way."""
        error = self.exception(timeout)
        if error is not None:
            try:
                raise error
            finally:
                del error  # it refers to this frame, and to those of the program that called
        return self._value()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Why the record could not be written, or None; waits like `result`."""
        batch = self._batch
        if not batch.done():
            batch.queue.finish(batch, seconds_or_none(timeout))
        error = batch.error()
        if error is None:
            return None
        batch.observe(self._index)
        return error.copy() if isinstance(error, StreamlogError) else error

    def add_done_callback(self, fn: Callable[[Delivery[T]], object]) -> None:
        """Call `fn(self)` once done, now if it is; on whatever thread finishes it. What it raises is logged."""
        self._batch.observe(self._index)
        queue = self._batch.queue
        # Not in the middle of a write: a callback may send, flush and wait.
        self._batch.on_done(lambda _: queue.calls.append(partial(_call, fn, self)))
        if self._batch.done():
            queue.call()

    def _value(self) -> T:
        batch = self._batch
        queue = batch.queue
        return RecordMetadata(  # type: ignore[return-value]
            queue.topic.name, queue.partition, batch.result() + self._index, batch.time_of(self._index)
        )

    def __repr__(self) -> str:
        queue = self._batch.queue
        where = f"{queue.topic.name}-{queue.partition}"
        if not self._batch.done():
            return f"<streamlog.Delivery to {where}: not written yet>"
        error = self._batch.error()
        if error is not None:
            return f"<streamlog.Delivery to {where}: {type(error).__name__}>"
        return f"<streamlog.Delivery to {where}: offset {self._batch.result() + self._index}>"

    def __reduce__(self) -> Any:
        raise TypeError("a Delivery cannot be pickled; pickle its result()")


def _call(fn: Callable[[Any], object], delivery: Any) -> None:
    try:
        fn(delivery)
    except Exception:
        logger.exception("a done callback of a delivery raised")


class Written(Delivery[RecordMetadata]):
    """A delivery that was done when `send` returned."""

    __slots__ = ("_metadata",)

    def __init__(self, topic: str, partition: int, offset: int, timestamp: int) -> None:
        self._metadata = (topic, partition, offset, timestamp)

    def done(self) -> bool:
        return True

    def result(self, timeout: float | None = None) -> RecordMetadata:
        return RecordMetadata._make(self._metadata)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        return None

    def add_done_callback(self, fn: Callable[[Delivery[RecordMetadata]], object]) -> None:
        _call(fn, self)

    def __repr__(self) -> str:
        topic, partition, offset, _ = self._metadata
        return f"<streamlog.Delivery to {topic}-{partition}: offset {offset}>"


class Part:
    """One batch of a `send_many`: which of the call's records are in it."""

    __slots__ = ("batch", "first", "indexes")

    def __init__(self, batch: Batch, indexes: Sequence[int], first: int = 0) -> None:
        self.batch = batch
        self.indexes = indexes
        self.first = first  # the first one's place in the batch

    def observe(self) -> None:
        """Somebody looked after these records; others may share their batch."""
        for place in range(self.first, self.first + len(self.indexes)):
            self.batch.observe(place)


class Placed(NamedTuple):
    """Where one batch of a `send_many` lies. `indexes` are its records' places in the call, the first of which is the
    record number `first` of the batch; `times` one timestamp of all, or that of each record of the batch."""

    topic: str
    partition: int
    base_offset: int
    first: int
    times: int | Sequence[int]
    indexes: Sequence[int]

    @classmethod
    def of(cls, part: Part) -> Placed:
        """REQUIRES: the batch is written."""
        batch = part.batch
        queue = batch.queue
        return cls(queue.topic.name, queue.partition, batch.result(), part.first, batch.times(), part.indexes)

    def metadata(self, inside: int) -> RecordMetadata:
        """Of record number `inside` of the batch."""
        times = self.times
        time = times if isinstance(times, int) else times[inside]
        return RecordMetadata(self.topic, self.partition, self.base_offset + inside, time)


class ManyMetadata(Sequence[RecordMetadata]):
    """The places of a `send_many`'s records, in the order of the call; made as they are asked for. A value: it copies,
    pickles and compares by what is in it."""

    def __init__(self, placed: Sequence[Placed], count: int) -> None:
        self._placed = placed
        self._count = count
        self._where: list[tuple[int, int]] | None = None

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> RecordMetadata: ...
    @overload
    def __getitem__(self, at: slice) -> list[RecordMetadata]: ...
    def __getitem__(self, at: int | slice) -> RecordMetadata | list[RecordMetadata]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(self._count))]
        if self._where is None:
            where = [(0, 0)] * self._count
            for number, placed in enumerate(self._placed):
                for inside, index in enumerate(placed.indexes, placed.first):
                    where[index] = (number, inside)
            self._where = where
        number, inside = self._where[at]
        return self._placed[number].metadata(inside)

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, ManyMetadata) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"<metadata of {self._count} records>"


class ManyDelivery(Delivery[Sequence[RecordMetadata]]):
    """The promise of all places of one `send_many`."""

    __slots__ = ("_count", "_parts")

    def __init__(self, parts: Sequence[Part], count: int) -> None:
        self._parts = parts
        self._count = count

    def done(self) -> bool:
        return all(part.batch.done() for part in self._parts)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        end = None if timeout is None else real_monotonic() + seconds(timeout)
        for part in self._parts:
            if not part.batch.done():
                part.batch.queue.finish(part.batch, None if end is None else max(0.0, end - real_monotonic()))
        failed = [part for part in self._parts if part.batch.error() is not None]
        if not failed:
            return None
        for part in failed:
            part.observe()
        return _many_error(self._parts, self._count)

    def result(self, timeout: float | None = None) -> Sequence[RecordMetadata]:
        error = self.exception(timeout)
        if error is not None:
            try:
                raise error
            finally:
                del error  # it refers to this frame, and to those of the program that called
        return ManyMetadata([Placed.of(part) for part in self._parts], self._count)

    def add_done_callback(self, fn: Callable[[Delivery[Sequence[RecordMetadata]]], object]) -> None:
        written, last = count(1), len(self._parts)
        if not self._parts:
            _call(fn, self)

        def one(done: Any) -> None:
            # Counted in one step: two threads may have written two batches at once.
            if next(written) == last:  # to the queue of the last one, whose writer calls what is there when it is done
                done.queue.calls.append(partial(_call, fn, self))

        for part in self._parts:
            part.observe()
            part.batch.on_done(one)
        if self._parts and self.done():
            for part in self._parts:
                part.batch.queue.call()

    def __repr__(self) -> str:
        failed = sum(len(part.indexes) for part in self._parts if part.batch.done() and part.batch.error() is not None)
        state = f"{failed} failed" if failed else "written" if self.done() else "not written yet"
        return f"<streamlog.Delivery of {self._count} records: {state}>"


def _many_error(parts: Sequence[Part], count: int) -> DeliveryError:
    failed: dict[int, StreamlogError] = {}
    metadata: list[RecordMetadata | None] = [None] * count
    records: list[tuple[int, ProducerRecord]] = []
    for part in parts:
        error = part.batch.error()
        placed = Placed.of(part) if error is None else None
        for inside, index in enumerate(part.indexes, part.first):
            if placed is not None:
                metadata[index] = placed.metadata(inside)
            else:
                assert isinstance(error, StreamlogError)
                failed[index] = error
                records.append((index, part.batch.record(inside)))
    return delivery_error(failed, [r for _, r in sorted(records, key=lambda pair: pair[0])], metadata)


def delivery_error(
    failed: dict[int, StreamlogError],
    records: Sequence[ProducerRecord],
    metadata: Sequence[RecordMetadata | None],
    not_kept: int = 0,
) -> DeliveryError:
    first = next(iter(failed.values()))
    more = ""
    if not_kept:
        more = (
            f" {not_kept} more records failed that are not in .records, because failed records are kept up to "
            f"buffer_memory bytes: flush more often, or ask each Delivery."
        )
    return DeliveryError(
        f"{len(failed)} records could not be written; the first because: {first} "
        f".failed has the error of each, .records what to send again.{more}",
        failed=failed,
        records=tuple(records),
        metadata=tuple(metadata),
    )
