"""Sending records: a `route` says what is allowed and where they go, `accumulator` and `outbox` hold them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias, Unpack

from ...broker.api import Service
from ...config import ProducerConfig
from ...errors import SerializationError, StreamlogError
from ...runtime.api import Completion
from ...runtime.threads import SystemClock, is_inside, reentrant, refuse_reentry, this_thread, time_ns, wait_for
from ...types import HeaderTuple, RecordMetadata
from .. import config_types
from ..arguments import count_of, seconds_or_none, up_to
from ..handle import Closing, Parent, closed
from ..serde import resolve_serializer
from . import send_many
from .accumulator import RecordAccumulator
from .batch import Batch, Row
from .delivery import Delivery, ManyDelivery, Part, Written
from .partition_queue import RECORD_OVERHEAD, PartitionQueue, not_in_time
from .routes import TopicCache
from .topic_cache import Route, header_tuple, headers_size

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

    _ended = False

    def __init__(self, log: Parent, **config: Unpack[config_types.ProducerConfig]) -> None:
        self._config = ProducerConfig.of(config)
        resolve_serializer(self._config.key_serializer, "", "key")
        resolve_serializer(self._config.value_serializer, "")
        self._log = log
        self._service: Service = log._use()
        self._service.require_writable("A producer")
        self._deferred_closes = log._cleanup.deferred_closes
        clock = self._service.clock
        # The system's clock is read without a Python frame in between: it is a tenth of a send.
        self._now_ns = time_ns if isinstance(clock, SystemClock) else lambda: clock.time_ms() * 1_000_000
        self._outbox = RecordAccumulator(self._service, self._config)
        self._linger_ms = self._config.linger_ms
        self._acks = self._config.acks
        self._syncs = self._service.durable
        self._routes = TopicCache(log, self._service, self._config, self._outbox)
        self._known, self._lingering = self._routes.known, self._routes.lingering
        log._adopt(self)
        self._service.on_metadata(self._routes.forget)
        self._made = True

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
        if not self._linger_ms:
            return self._send(topic, value, key, headers, partition, timestamp_ms)
        try:
            queue = self._lingering[topic]
            batch = queue.queue[-1]
            rows = batch.rows
        except (
            LookupError,
            TypeError,
            AttributeError,
        ):  # no such queue, no name of one, no batch, one that was written
            return self._send(topic, value, key, headers, partition, timestamp_ms)
        if (
            type(value) is bytes
            and type(key) is bytes
            and headers is None
            and partition is None
            and timestamp_ms is None
        ):
            # Nearly every record of a program that sends many: bytes, for a batch that is open already. As `Batch.join`.
            size = len(value) + len(key) + RECORD_OVERHEAD
            if size <= queue.max_size:
                row = (key, value, self._now_ns() // 1_000_000)
                rows.append(row)
                index = len(rows) - 1
                if rows[index] is not row:
                    index = batch.index_of(row, rows)
                batch.size = size = batch.size + size
                if not batch.closed or batch.took(index, rows):
                    if size >= queue.batch_size or index + 1 >= queue.batch_records:
                        batch.closed = True
                        queue.drain()
                    delivery: Delivery[RecordMetadata] = _new(Delivery)
                    delivery._batch = batch
                    delivery._index = index
                    return delivery
        return self._send(topic, value, key, headers, partition, timestamp_ms)

    def _send(
        self, topic: TopicLike, value: Any, key: Any, headers: Any, partition: int | None, timestamp_ms: int | None
    ) -> Delivery[RecordMetadata]:
        """`send`, whatever it is given."""
        mark = this_thread.mark
        if mark._is_owned():  # as `refuse_reentry`, without a call
            raise reentrant()
        try:
            route = self._known[topic if type(topic) is str else topic._known]
        except (KeyError, AttributeError):
            route = self._route(topic)
        if not (type(value) is bytes and type(key) is bytes and route.plain):
            key, value = route.key_bytes(key), route.value_bytes(value)
        size = (0 if value is None else len(value)) + (0 if key is None else len(key)) + RECORD_OVERHEAD
        pairs: HeaderTuple = ()
        if headers is not None:
            pairs = header_tuple(headers)
            size += headers_size(pairs)
        if size > route.max_size:
            raise route.too_large(size)
        timestamp = now_ms = self._now_ns() // 1_000_000
        if timestamp_ms is not None:
            timestamp = route.timestamp(timestamp_ms, now_ms)
        queue = route.only
        if queue is None or partition is not None:
            queue = route.queue_for(key, partition)
        if not self._linger_ms and value is not None and not pairs and queue.plain and not queue.queue:
            written = self._send_now(mark, queue, key, value, timestamp, now_ms)
            if written is not None:
                return written
        row: Row = (key, value, timestamp, pairs) if pairs else (key, value, timestamp)
        if not self._linger_ms:
            return self._finish_now(*self._outbox.add(queue, row, size))
        batch, index = self._outbox.add(queue, row, size)
        if batch.closed:
            if key is None:
                route.batch_is_full()
            queue.drain()
        if self._acks == 0:
            batch.observe(index)
            return Written(route.topic.name, queue.partition, -1, timestamp)
        return Delivery(batch, index)

    def _send_now(
        self, mark: Any, queue: PartitionQueue, key: bytes | None, value: bytes, timestamp: int, now_ms: int
    ) -> Delivery[RecordMetadata] | None:
        """Write one record with nothing before it, without a batch object; None if something came before.

        A write of another thread is waited for. That beat leaving the record in a batch for that thread to
        write: four threads kept 0.43 of one thread's rate against 0.30. `mark` is the thread's (`inside`).
        """
        synced: Completion[int] | None = None
        with mark, queue.draining:
            if queue.queue or queue.inflight is not None:
                return None
            try:
                offset = self._service.produce_one(queue.topic, queue.partition, key, value, timestamp, now_ms)
                if self._syncs:
                    synced = self._service.acknowledge(queue.topic, queue.partition, offset)
            except StreamlogError as error:
                if self._acks != 0:
                    raise
                logger.error("a record sent with acks=0 was lost: %s", error)
                offset = -1
        if queue.queue:
            queue.drain()
        if synced is not None:
            self._await_sync(synced)
        if self._deferred_closes:
            self._log._cleanup.run_deferred_closes()
        written: Written = _new(Written)
        written._metadata = (queue.topic.name, queue.partition, offset if self._acks else -1, timestamp)
        return written

    def _await_sync(self, done: Completion[int]) -> None:
        """Have a lone record on the device, and not `draining` meanwhile: others' records are to share the sync."""
        if self._acks == 0:
            done.unattended()
            return
        if not done.drive() and not wait_for(done, self._config.delivery_timeout_ms / 1000):
            raise not_in_time(self._config.delivery_timeout_ms / 1000)
        done.result()

    def _finish_now(self, batch: Batch, index: int) -> Delivery[RecordMetadata]:
        """Without a linger: acknowledged, or refused, when `send` returns."""
        batch.observe(index)
        if self._acks == 0 and self._syncs:
            batch.queue.drain()
        else:
            batch.queue.finish(batch, self._config.delivery_timeout_ms / 1000)
        delivery: Delivery[RecordMetadata] = Delivery(batch, index)
        if self._acks == 0:
            error = batch.error()
            if error is not None:
                logger.error("a record sent with acks=0 was lost: %s", error)
            return Written(batch.queue.topic.name, batch.queue.partition, -1, batch.time_of(index))
        if self._deferred_closes:
            self._log._cleanup.run_deferred_closes()
        delivery.result()
        return delivery

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

        `headers` and `partition` hold for all. Everything is checked before the first append, but for a buffer
        that cannot be packed, such as an `array`: its batch fails by itself. The records
        are written when this returns; with a linger, the last ones may linger. Cost: a quarter of a microsecond
        a record, or less.
        """
        refuse_reentry()
        try:
            route = self._known[topic if type(topic) is str else topic._known]
        except (KeyError, AttributeError):
            route = self._route(topic)
        column = route.many(values, route.serialize_value, "value", bool(self._linger_ms))
        n = len(column.items)
        key_column = (
            None if keys is None else route.many(up_to(n + 1, keys), route.serialize_key, "key", bool(self._linger_ms))
        )
        if key_column is not None and len(key_column.items) != n:
            raise SerializationError(
                f"send_many got {n} values and {count_of(keys, key_column.items)} keys; it takes one key for each value."
            )
        if route.needs_key and n and (key_column is None or any(key is None for key in key_column.items)):
            raise route.no_key()
        pairs = () if headers is None else header_tuple(headers)
        now = self._now_ns() // 1_000_000
        times = now if timestamps_ms is None else route.timestamps(timestamps_ms, now, n)
        sizes = (
            send_many.sizes_of(column, key_column, RECORD_OVERHEAD + headers_size(pairs), route.max_size) if n else 0
        )
        if send_many.largest(sizes) > route.max_size:
            raise route.too_large(send_many.largest(sizes))
        parts: list[Part] = []
        items, key_items = column.items, None if key_column is None else key_column.items
        for queue, chosen in route.spread(key_items, partition, n):
            if isinstance(chosen, range):
                made = send_many.cut(queue, items, key_items, times, sizes, pairs, chosen)
            else:
                made = send_many.cut(
                    queue,
                    [items[i] for i in chosen],
                    None if key_items is None else [key_items[i] for i in chosen],
                    times if isinstance(times, int) else [times[i] for i in chosen],
                    sizes if isinstance(sizes, int) else [sizes[i] for i in chosen],
                    pairs,
                    chosen,
                )
            parts += send_many.put(self._outbox, queue, made, self._linger_ms)
        if self._acks == 0:
            for part in parts:
                part.batch.observe(None)
            return send_many.Unacknowledged(parts, n)
        delivery = ManyDelivery(parts, n)
        if self._deferred_closes:
            self._log._cleanup.run_deferred_closes()
        if not self._linger_ms:
            delivery.result()
        return delivery

    def _route(self, topic: TopicLike) -> Route:
        """A topic's route, by the long way."""
        self._check()
        route = self._routes.find(topic)
        if self._dead is not None:
            self._routes.forget()
            self._check()
        return route

    # -- ending --------------------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> None:
        """Write everything sent so far and wait until it is in the log; on the device only with `sync=True`.

        Raises RequestTimedOutError (a TimeoutError) after `timeout` real seconds; DeliveryError for records
        that failed since the last flush and that nobody asked about.
        """
        refuse_reentry()
        self._check()
        self._outbox.flush(seconds_or_none(timeout))
        if self._deferred_closes:
            self._log._cleanup.run_deferred_closes()
        self._outbox.report()

    def close(self, timeout: float | None = None) -> None:
        """Flush, then refuse. Raises what `flush` raises, closed all the same. Closing again does nothing, but for
        one that an exception of the program's own ended, Ctrl-C or out of a signal handler, which goes on. In a signal
        handler or finalizer it may be put off until the call that was interrupted ends."""
        limit = seconds_or_none(timeout)
        if self._ended:
            return
        if is_inside():
            self._log._cleanup.defer_close(self.close)
            return
        self._dead = dead = self._dead or closed("producer")
        self._routes.forget()
        try:
            self._outbox.close(limit, dead)
        except StreamlogError:
            self._end()
            raise
        self._end()
        self._outbox.report()

    def _end(self) -> None:
        self._service.off_metadata(self._routes.forget)
        self._log._forget(self)
        self._ended = True

    def _abandon(self) -> None:
        super()._abandon()
        self._ended = True
        self._routes.forget()
        self._outbox.abandon()

    def __del__(self) -> None:
        if self._made and not self._ended:
            outbox, service, forget = self._outbox, self._service, self._routes.forget

            def finalizer() -> None:
                service.off_metadata(forget)
                outbox.close(1.0, closed("producer"))

            self._log._cleanup.add_finalizer(finalizer)
            self._warn_open()  # last: where warnings are errors, it raises

    def __repr__(self) -> str:
        state = "closed" if self._dead is not None else f"linger_ms={self._linger_ms}, acks={self._acks!r}"
        return f"<streamlog.Producer {self._config.client_id} {state}>"
