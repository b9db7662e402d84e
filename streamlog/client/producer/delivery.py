"""What `send` and `send_many` return: the outcome of records, once they are written or have failed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any, Generic, NamedTuple, TypeVar, overload

from ...errors import DeliveryError, StreamlogError, describe
from ...runtime.threads import real_monotonic
from ...types import ProducerRecord, RecordMetadata
from ..arguments import seconds, seconds_or_none
from .batch import Batch

T = TypeVar("T")
logger = logging.getLogger("streamlog.client")


class Delivery(Generic[T]):
    """The outcome of a `send`: where the record is, or why it could not be written. Thread-safe.

    `result` waits for it, and so ends the linger of its batch; so does `exception`, while `done` and a callback do not.
    That of `send_many` is the outcome of all its records: `result` gives a sequence of RecordMetadata in the order of the
    call, or raises DeliveryError, which has the errors by index. With `acks=0` it is done at once, with offset -1.

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
        """For the library's own use: `send` makes it."""
        self._batch = batch
        self._index = index

    def done(self) -> bool:
        """Whether the record was written, or failed."""
        return self._batch.done()

    def result(self, timeout: float | None = None) -> T:
        """The record's topic, partition, offset and timestamp. Ends the linger of its batch, and waits.

        Raises why it could not be written; RequestTimedOutError (a TimeoutError) after `timeout` real seconds: the record
        is still on its way then.
        """
        error = self.exception(timeout)
        if error is not None:
            try:
                raise error
            finally:
                del error  # it refers to this frame, and to those of the program that called
        return self._value()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Why the record could not be written, or None if it was written. Waits like `result`."""
        batch = self._batch
        if not batch.done():
            batch.queue.flush(batch, seconds_or_none(timeout))
        error = batch.error()
        if error is None:
            return None
        batch.observe(self._index)
        return error.copy() if isinstance(error, StreamlogError) else error

    def add_done_callback(self, fn: Callable[[Delivery[T]], object]) -> None:
        """Call `fn(self)` once the record is written or has failed, now if it is.

        The thread that finishes the record calls it. What it raises is logged.

        >>> import streamlog
        >>> with streamlog.open() as log:
        ...     _ = log.create_topic("orders")
        ...     with log.producer(linger_ms=1000) as producer:
        ...         delivery = producer.send("orders", "9.50")
        ...         delivery.add_done_callback(lambda each: print("written at", each.result().offset))
        written at 0
        """
        self._batch.observe(self._index)
        queue = self._batch.queue
        # Not in the middle of the write: a callback may send, flush and wait.
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
            return f"<streamlog.Delivery to {where}: failed, {_cut(describe(error))}>"
        return f"<streamlog.Delivery to {where}: offset {self._batch.result() + self._index}>"

    def __reduce__(self) -> Any:
        """Raise TypeError: a Delivery cannot be pickled."""
        raise TypeError("a Delivery cannot be pickled; pickle its result()")


def _cut(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "…"


def _call(fn: Callable[[Any], object], delivery: Any) -> None:
    try:
        fn(delivery)
    except Exception:
        logger.exception("a done callback of a delivery raised")


class CompletedDelivery(Delivery[RecordMetadata]):
    """A delivery that was done when `send` returned: there was no batch."""

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
        state = "not acknowledged (acks=0)" if offset < 0 else f"offset {offset}"
        return f"<streamlog.Delivery to {topic}-{partition}: {state}>"


class Part:
    """One batch of a `send_many`: `indexes` are the places, in the call, of the records in it."""

    __slots__ = ("batch", "first", "indexes")

    def __init__(self, batch: Batch, indexes: Sequence[int], first: int = 0) -> None:
        self.batch = batch
        self.indexes = indexes
        self.first = first  # where in the batch the first of them is

    def observe(self) -> None:
        """The program asks for the outcome of these records; others may share their batch."""
        for place in range(self.first, self.first + len(self.indexes)):
            self.batch.observe(place)


class Placed(NamedTuple):
    """Where one batch of a `send_many` was written.

    `indexes` are its records' places in the call, the first of which is record number `first` of the batch. `times` is
    one timestamp of all of them, or that of each record of the batch.
    """

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
        """The metadata of record number `inside` of the batch."""
        times = self.times
        time = times if isinstance(times, int) else times[inside]
        return RecordMetadata(self.topic, self.partition, self.base_offset + inside, time)


class ManyMetadata(Sequence[RecordMetadata]):
    """The metadata of a `send_many`'s records, in the order of the call. Each is made when it is read.

    A value: it can be copied, pickled and compared.
    """

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
    """The outcome of all records of one `send_many`. It is done when the last of them is.

    `result` raises DeliveryError if some of them could not be written: `.failed` has the errors by index, `.metadata`
    has None for those.
    """

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
                part.batch.queue.flush(part.batch, None if end is None else max(0.0, end - real_monotonic()))
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
            if next(written) == last:  # on the queue of the last one, whose writer calls the callbacks afterwards
                done.queue.calls.append(partial(_call, fn, self))

        for part in self._parts:
            part.observe()
            part.batch.on_done(one)
        if self._parts and self.done():
            for part in self._parts:
                part.batch.queue.call()

    def __repr__(self) -> str:
        errors = [(part, part.batch.error()) for part in self._parts if part.batch.done()]
        failed = [(len(part.indexes), error) for part, error in errors if error is not None]
        if failed:
            state = f"{sum(count for count, _ in failed)} failed, {_cut(describe(failed[0][1]))}"
        else:
            state = "written" if self.done() else "not written yet"
        return f"<streamlog.Delivery of {self._count} records{self._topic()}: {state}>"

    def _topic(self) -> str:
        return f" to {self._parts[0].batch.queue.topic.name}" if self._parts else ""


class UnacknowledgedDelivery(ManyDelivery):
    """`send_many` with acks=0: done at once, with offset -1, whatever becomes of the records."""

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

    def __repr__(self) -> str:
        return f"<streamlog.Delivery of {self._count} records{self._topic()}: not acknowledged (acks=0)>"


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
    """What `result` and `flush` raise; `not_kept`: how many more records failed that are not in `records`."""
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
