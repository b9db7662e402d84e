"""Sending records. `accumulator` holds them, `partitioner` says where they go, `serde` makes bytes of them."""

from __future__ import annotations

import logging
import weakref
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeAlias

from ..broker.api import Service
from ..broker.metadata import TopicView
from ..config import ProducerConfig
from ..errors import (
    InvalidRecordError,
    InvalidTimestampError,
    SerializationError,
    StreamlogError,
)
from ..records import compression
from ..records.columns import seal_one
from ..runtime.api import Completion
from ..runtime.threads import RawGate, SystemClock, new_lock, real_monotonic, time_ns
from ..storage.log import Write
from ..types import HeaderTuple, ProducerRecord, RecordMetadata
from .accumulator import RECORD_OVERHEAD, Batch, PartitionQueue, Row, Rows
from .delivery import Delivery, ManyDelivery, Part, Written, delivery_error
from .handle import Closing, closed
from .partitioner import make_partitioner
from .route import Route, header_tuple, headers_size

if TYPE_CHECKING:
    from .streamlog import StreamLog

_new: Any = object.__new__  # a Delivery is made a million times a second; its __init__ would be a fifth of a send
TopicLike: TypeAlias = Any
Headers: TypeAlias = Any
logger = logging.getLogger("streamlog.client")


class Producer(Closing):
    """Sends records to topics. Thread-safe; made by `log.producer(...)`.

    With `linger_ms=0` (the default) a record is in the log when `send` returns. With a linger, records
    gather into batches: `result()`, `flush()`, `close()` or a full batch end it. There is nothing to
    poll. Cost: about a microsecond to send with a linger, some more without, and far less a record
    with `send_many`.

    Raises at the call what is wrong with the call (SerializationError, RecordTooLargeError,
    InvalidTimestampError, UnknownTopicOrPartitionError, ClosedError); a failed append at the call
    without a linger, in the `Delivery` with one. `flush` and `close` raise DeliveryError for failures
    that nobody asked about.

    >>> import streamlog
    >>> with streamlog.open() as log:
    ...     _ = log.create_topic("orders")
    ...     with log.producer() as producer:
    ...         producer.send("orders", "9.50", key="alice").result().offset
    0
    """

    def __init__(self, log: StreamLog, **config: Any) -> None:
        self._config = ProducerConfig.of(config)
        self._log = log
        self._service: Service = log._use()
        clock = self._service.clock
        self._clock_ms = clock.time_ms
        # The system's clock is read without a Python frame in between: it is a tenth of a send.
        self._now_ns = time_ns if isinstance(clock, SystemClock) else lambda: clock.time_ms() * 1_000_000
        self.codec = compression.require(self._config.compression_type)
        self.batch_size = self._config.batch_size
        self._linger_ms = self._config.linger_ms
        self._acks = self._config.acks
        self._routes: dict[Any, Route] = {}
        self._queues: dict[tuple[bytes, int], PartitionQueue] = {}
        self._lock = new_lock()
        self._partition_lock = new_lock()
        self._partitioners: dict[Any, Any] = {}
        self._buffered = 0
        self._failed: list[Batch] = []
        self._room: RawGate | None = None
        self._armed = False
        self._start = log._next_number()
        self._on_due = _Linger(weakref.ref(self))
        log._adopt(self)
        self._service.on_metadata(self._on_due.forget_routes)

    # -- sending -------------------------------------------------------------------------------------

    def send(
        self,
        topic: TopicLike,
        value: Any = None,
        key: Any = None,
        *,
        headers: Headers | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> Delivery[RecordMetadata]:
        """Send one record; see the class. `value=None` is a tombstone, `key=None` spreads over partitions.

        `headers`: a mapping, or pairs, of str to bytes, str or None. `timestamp_ms`: event time, ms since
        the epoch, now if not given. A full buffer blocks, and raises DeliveryTimeoutError after
        `delivery_timeout_ms`.
        """
        try:
            route = self._routes[topic]
        except (KeyError, TypeError):
            route = self._route(topic)
        if type(value) is bytes and type(key) is bytes and route.plain:
            size = len(value) + len(key) + RECORD_OVERHEAD
        else:
            key, value = route.key_bytes(key), route.value_bytes(value)
            size = (0 if value is None else len(value)) + (0 if key is None else len(key)) + RECORD_OVERHEAD
        pairs: HeaderTuple = ()
        if headers is not None:
            pairs = header_tuple(headers)
            size += headers_size(pairs)
        if size > route.max_size:
            raise route.too_large(size)
        timestamp = self._now_ns() // 1_000_000
        if timestamp_ms is not None:
            timestamp = route.timestamp(timestamp_ms, timestamp)
        queue = route.only
        if queue is None or partition is not None:
            queue = route.queue_for(key, partition)
        if not self._linger_ms:
            if not pairs and not self.codec and queue.idle():
                written = self._send_now(queue, key, value, timestamp)
                if written is not None:
                    return written
            return self._finish_now(*self._add(queue, (key, value, timestamp, pairs), size))
        with queue.lock:
            batch = queue.open
            if batch is not None:
                rows = batch.rows
                index = len(rows)
                rows.append((key, value, timestamp, pairs))
                batch.size = size = batch.size + size
                if size >= self.batch_size:
                    queue.seal_open()
        if batch is None:
            batch, index = self._add(queue, (key, value, timestamp, pairs), size)
            if index == 0:
                self._arm(batch.deadline_ms)
        if queue.open is not batch:
            self._batch_full(queue, route, key)
        if self._acks == 0:
            batch.asked(index)
            return Written(route.topic.name, queue.partition, -1, timestamp)
        delivery: Delivery[RecordMetadata] = _new(Delivery)
        delivery._batch = batch
        delivery._index = index
        return delivery

    def _add(self, queue: PartitionQueue, row: Row, size: int) -> tuple[Batch, int]:
        """Into the open batch, waiting for room in the buffer if it has to be a new one."""
        added = queue.add(row, size)
        while added is None:
            self._wait_for_room(size, queue)
            added = queue.add(row, size)
        return added

    def _send_now(
        self, queue: PartitionQueue, key: bytes | None, value: bytes | None, timestamp: int
    ) -> Delivery[RecordMetadata] | None:
        """Write one record with nothing before it, without a batch object; None if something came before."""
        with queue.draining:
            if queue.open is not None or queue.queue or queue.inflight is not None:
                return None
            write = Write((seal_one(queue.seed, key, value, timestamp, queue.attributes),))
            try:
                offset = self._service.produce(queue.topic, queue.partition, write).result()
            except StreamlogError as error:
                if self._acks == 0:
                    logger.error("a record sent with acks=0 was lost: %s", error)
                    return Written(queue.topic.name, queue.partition, -1, timestamp)
                raise
            if queue.attributes:
                timestamp = write.append_ms
        if queue.open is not None or queue.queue:
            queue.drain()
        if not self._acks:
            offset = -1
        return Written(queue.topic.name, queue.partition, offset, timestamp)

    def _finish_now(self, batch: Batch, index: int) -> Delivery[RecordMetadata]:
        """Without a linger: acknowledged, or refused, when `send` returns."""
        batch.asked(index)
        batch.queue.finish(batch, self._config.delivery_timeout_ms / 1000)
        delivery: Delivery[RecordMetadata] = Delivery(batch, index)
        if self._acks == 0:
            error = batch.error()
            if error is not None:
                logger.error("a record sent with acks=0 was lost: %s", error)
            return Written(batch.queue.topic.name, batch.queue.partition, -1, batch.time_of(index))
        delivery.result()
        return delivery

    def _batch_full(self, queue: PartitionQueue, route: Route, key: bytes | None) -> None:
        if key is None and route.only is None:
            with self._partition_lock:
                route.partitioner.on_new_batch(route.topic.name, route.count)
        queue.drain()

    def _wait_for_room(self, size: int, queue: PartitionQueue) -> None:
        """Make room for `size` bytes: a full buffer ends every linger; then wait for whoever is writing."""
        if size > self._config.buffer_memory:
            raise queue.never_fits(size, self._config.buffer_memory)
        end = real_monotonic() + self._config.delivery_timeout_ms / 1000
        self._room = gate = RawGate()
        for waiting in list(self._queues.values()):
            with waiting.lock:
                waiting.seal_open()
            waiting.drain()
        while not self._has_room(size):
            left = end - real_monotonic()
            if left <= 0:
                raise queue.expire(self._config.delivery_timeout_ms)
            gate.wait(min(left, 0.05))
            self._room = gate = RawGate()
            queue.drain()

    def _has_room(self, size: int) -> bool:
        return not self._buffered or self._buffered + size <= self._config.buffer_memory

    def send_many(
        self,
        topic: TopicLike,
        values: Iterable[Any],
        keys: Iterable[Any] | None = None,
        *,
        headers: Headers | None = None,
        partition: int | None = None,
        timestamps_ms: Iterable[int] | None = None,
    ) -> Delivery[Sequence[RecordMetadata]]:
        """Send many records at once: `values`, and `keys` and `timestamps_ms` of the same length if given.

        `headers` and `partition` hold for all. Everything is checked before the first append. The records
        are written when this returns, also with a linger. Cost: about a tenth of a microsecond a record.
        """
        try:
            route = self._routes[topic]
        except (KeyError, TypeError):
            route = self._route(topic)
        column = route.many(values, route.serialize_value, "value")
        key_column = None if keys is None else route.many(keys, route.serialize_key, "key")
        n = len(column)
        if key_column is not None and len(key_column) != n:
            raise SerializationError(
                f"send_many got {n} values and {len(key_column)} keys; it takes one key for each value."
            )
        if route.needs_key and n and (key_column is None or None in key_column):
            raise route.no_key()
        pairs = () if headers is None else header_tuple(headers)
        now = self._clock_ms()
        times: list[int] | int = now
        if timestamps_ms is not None:
            times = [route.timestamp(t, now) for t in timestamps_ms]
            if len(times) != n:
                raise InvalidTimestampError(
                    f"send_many got {n} values and {len(times)} timestamps; one for each value."
                )
        sizes = _sizes(column, key_column, RECORD_OVERHEAD + headers_size(pairs))
        if n and max(sizes) > route.max_size:
            raise route.too_large(max(sizes))
        parts: list[Part] = []
        for queue, chosen in self._spread(route, key_column, partition, n):
            if isinstance(chosen, range):
                made = _cut(queue, column, key_column, times, sizes, pairs, chosen)
            else:
                made = _cut(
                    queue,
                    [column[i] for i in chosen],
                    None if key_column is None else [key_column[i] for i in chosen],
                    times if isinstance(times, int) else [times[i] for i in chosen],
                    [sizes[i] for i in chosen],
                    pairs,
                    chosen,
                )
            parts += self._put(queue, made)
        if self._acks == 0:
            for part in parts:
                part.batch.asked(None)
            return _Unacknowledged(parts, n)
        delivery = ManyDelivery(parts, n)
        if not self._linger_ms:
            delivery.result()
        return delivery

    def _put(self, queue: PartitionQueue, parts: list[Part]) -> list[Part]:
        """Queue a call's batches and write them; with a linger the last one, if not full, stays open."""
        last: Part | None = None
        if self._linger_ms and parts[-1].batch.size < self.batch_size:
            last = parts.pop()
        for at in range(0, len(parts), _PUT_BATCHES):
            batches = [part.batch for part in parts[at : at + _PUT_BATCHES]]
            size = sum(batch.reserved for batch in batches)
            while not self.reserve(size):
                self._wait_for_room(min(size, self._config.buffer_memory), queue)
            queue.put(batches)
            queue.drain()
        if last is None:
            return parts
        return parts + self._linger_with(queue, last)

    def _linger_with(self, queue: PartitionQueue, last: Part) -> list[Part]:
        """Add the records of a batch that is not full to the open one, as if each had been sent alone."""
        n, keys, values, times, headers = last.batch.columns()
        each = last.batch.size // n
        grouped: list[Part] = []
        for i, index in enumerate(last.indexes):
            row = (
                None if keys is None else keys[i],
                values[i],
                times if isinstance(times, int) else times[i],
                () if headers is None else headers[i],
            )
            batch, place = self._add(queue, row, each)
            if not grouped or grouped[-1].batch is not batch:
                grouped.append(Part(batch, [], place))
            grouped[-1].indexes.append(index)  # type: ignore[attr-defined]
            if place == 0:
                self._arm(batch.deadline_ms)
            if queue.open is not batch:
                queue.drain()
        return grouped

    def _spread(
        self, route: Route, keys: list[bytes | None] | None, partition: int | None, n: int
    ) -> Iterable[tuple[PartitionQueue, range | list[int]]]:
        """Which records go to which partition: all of them in a range, or a list of indexes each."""
        if not n:
            return []
        if partition is not None or route.only is not None:
            return [(route.queue_for(None, partition), range(n))]
        with self._partition_lock:
            where = route.partitioner.partition_many(route.topic.name, keys, route.count, n)
            if keys is None:
                route.partitioner.on_new_batch(route.topic.name, route.count)
        chosen: list[list[int]] = [[] for _ in range(route.count)]
        for index, number in enumerate(where):
            chosen[number].append(index)
        return [(route.queues[number], indexes) for number, indexes in enumerate(chosen) if indexes]

    # -- routes and queues ---------------------------------------------------------------------------

    def _route(self, topic: TopicLike) -> Route:
        """Work out a topic's route; later sends find it in `_routes`, which any change to a topic empties."""
        self._check()
        name, key_serde, value_serde = self._log._name_of(topic)
        # Topics are equal by name, whatever their serdes, so one that has any goes by those too.
        known = name if key_serde is None and value_serde is None else (name, id(key_serde), id(value_serde))
        if known in self._routes:
            return self._routes[known]
        view = self._log._topic_view(name)
        if view.internal:
            raise InvalidRecordError(f"{name!r} is internal to the log; records cannot be sent to it.")
        config = self._config
        spec = config.partitioner if config.partitioner is not None else view.config.partitioner
        with self._lock:
            partitioner = self._partitioners.get(spec)
            if partitioner is None:
                partitioner = self._partitioners[spec] = make_partitioner(spec, self._start)
            queues = [self._queue(view, n) for n in range(view.partitions)]
            route = Route(
                view,
                config,
                partitioner,
                self._partition_lock,
                queues,
                config.key_serializer if config.key_serializer is not None else key_serde,
                config.value_serializer if config.value_serializer is not None else value_serde,
            )
            self._routes[known] = route
        self._check()
        return route

    def _queue(self, view: TopicView, number: int) -> PartitionQueue:
        queue = self._queues.get((view.id_bytes, number))
        codec = self.codec
        if view.config.compression_type != "producer":
            codec = compression.require(view.config.compression_type)
        if queue is None:
            queue = self._queues[view.id_bytes, number] = PartitionQueue(self, view, number, codec, self._linger_ms)
        queue.topic, queue.codec = view, codec
        return queue

    # -- what the queues need of their owner ---------------------------------------------------------

    def append(self, queue: PartitionQueue, write: Write) -> Completion[int]:
        return self._service.produce(queue.topic, queue.partition, write)

    def settle(self, queue: PartitionQueue, write: Write) -> None:
        self._service.settle(queue.topic, queue.partition, write)

    def now_ms(self) -> int:
        return self._clock_ms()

    def reserve(self, size: int) -> bool:
        """Take room in the buffer, if there is any. A lone batch always fits."""
        with self._lock:
            if not self._has_room(size):
                return False
            self._buffered += size
        return True

    def finished(self, batch: Batch) -> None:
        with self._lock:
            self._buffered -= batch.reserved
            batch.reserved = 0
        error = batch.error()
        if error is not None:
            logger.error("%d records for %s-%d were not written: %s", len(batch), *batch.queue.name, error)
            if self._acks != 0:
                self._failed.append(batch)
        room = self._room
        if room is not None:
            room.open()

    # -- linger --------------------------------------------------------------------------------------

    def _arm(self, deadline_ms: int) -> None:
        """Have the scheduler come by when the first linger is over; one visit serves all open batches."""
        if not self._armed:
            self._armed = True
            self._service.scheduler.at(deadline_ms, self._on_due)

    def _write_overdue(self, now_ms: int) -> int | None:
        self._armed = False
        due = [queue.due(now_ms) for queue in list(self._queues.values())]
        left = [deadline for deadline in due if deadline is not None]
        if not left:
            return None
        self._armed = True
        return min(left)

    # -- ending --------------------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> None:
        """Write everything sent so far and wait until it is in the log. Not an fsync: that is `log.sync()`.

        Raises RequestTimedOutError (a TimeoutError) after `timeout` real seconds; DeliveryError for records
        that failed since the last flush and that nobody asked about.
        """
        self._check()
        self._flush(timeout)
        self._report()

    def _flush(self, timeout: float | None) -> None:
        end = None if timeout is None else real_monotonic() + timeout
        for queue in list(self._queues.values()):
            queue.finish_all(end)

    def _report(self) -> None:
        failed, self._failed = self._failed, []
        errors: dict[int, StreamlogError] = {}
        records: list[ProducerRecord] = []
        for batch in failed:
            error = batch.error()
            assert isinstance(error, StreamlogError)
            for index in batch.unasked():
                errors[len(records)] = error
                records.append(batch.record(index))
            batch.asked(None)
        if errors:
            raise delivery_error(errors, records, [None] * len(records))

    def close(self, timeout: float | None = None) -> None:
        """Flush, then refuse. Raises what `flush` raises, closed all the same. Closing again does nothing."""
        if self._dead is not None:
            return
        self._dead = closed("producer")
        self._routes.clear()
        try:
            self._flush(timeout)
        finally:
            self._detach()
        self._report()

    def _detach(self) -> None:
        self._service.off_metadata(self._on_due.forget_routes)
        self._service.scheduler.cancel(self._on_due)
        self._log._forget(self)

    def _abandon(self) -> None:
        super()._abandon()
        self._routes.clear()
        self._queues.clear()

    def __del__(self) -> None:
        if self._dead is None and hasattr(self, "_on_due"):
            self._warn_open()
            try:
                self.close(timeout=1.0)
            except StreamlogError as error:
                logger.error("a producer was collected unclosed, and records of it were not written: %s", error)

    def __repr__(self) -> str:
        state = "closed" if self._dead is not None else f"linger_ms={self._linger_ms}, acks={self._acks!r}"
        return f"<streamlog.Producer {self._config.client_id} {state}>"


# How many batches of one send_many are queued before they are written: bounds its memory.
_PUT_BATCHES = 64


class _Linger:
    """What the scheduler and the service hold of a producer: a weak reference, so a forgotten one is collected."""

    def __init__(self, producer: weakref.ref[Producer]) -> None:
        self._producer = producer

    def __call__(self, now_ms: int) -> int | None:
        producer = self._producer()
        return None if producer is None else producer._write_overdue(now_ms)

    def forget_routes(self) -> None:
        producer = self._producer()
        if producer is not None:
            producer._routes.clear()


class _Unacknowledged(ManyDelivery):
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


def _sizes(values: Sequence[bytes | None], keys: Sequence[bytes | None] | None, overhead: int) -> list[int]:
    value_sizes = _lengths(values)
    if keys is None:
        return [n + overhead for n in value_sizes]
    return [n + m + overhead for n, m in zip(value_sizes, _lengths(keys), strict=True)]


def _lengths(column: Sequence[bytes | None]) -> Iterable[int]:
    if None in column:
        return [0 if item is None else len(item) for item in column]
    return map(len, column)  # type: ignore[arg-type]


def _cut(
    queue: PartitionQueue,
    values: Sequence[bytes | None],
    keys: Sequence[bytes | None] | None,
    times: Sequence[int] | int,
    sizes: Sequence[int],
    pairs: HeaderTuple,
    indexes: Sequence[int],
) -> list[Part]:
    """Cut columns into batches of about `batch_size` bytes; `indexes` are the records' places in the call."""
    ends = list(accumulate(sizes))
    parts: list[Part] = []
    start, before, stop = 0, 0, len(values)
    while start < stop:
        end = max(start + 1, min(bisect_left(ends, before + queue.batch_size) + 1, stop))
        columns = Rows(
            end - start,
            None if keys is None else keys[start:end],
            values[start:end],
            times if isinstance(times, int) else times[start:end],
            [pairs] * (end - start) if pairs else None,
        )
        parts.append(Part(Batch.whole(queue, columns, ends[end - 1] - before), indexes[start:end]))
        start, before = end, ends[end - 1]
    return parts
