"""The producer: the handle that sends records, and the one that the library makes for itself."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any, Unpack

from ...broker.api import Service
from ...config import ProducerConfig as ProducerSettings
from ...errors import StreamlogError
from ...runtime.api import Completion
from ...runtime.threads import (
    SystemClock,
    inside,
    is_inside,
    new_lock,
    reentrant,
    refuse_reentry,
    this_thread,
    time_ns,
    wait_for,
)
from ...runtime.values import refuse_to_copy
from ...types import Headers, HeaderTuple, RecordMetadata
from ..arguments import seconds_or_none
from ..config_types import ProducerConfig
from ..handle import Closing, Parent, check_log, closed
from ..serde import header_tuple, resolve_serializer
from ..topic import TopicLike
from .accumulator import RecordAccumulator
from .batch import RECORD_OVERHEAD, Batch, Row, headers_size
from .delivery import CompletedDelivery, Delivery, ManyDelivery, Part, UnacknowledgedDelivery
from .partition_queue import PartitionQueue, not_in_time
from .send_many import batches_of, checked, put
from .topic_cache import CachedTopic, TopicCache

# A Delivery is made without its __init__, which would be a fifth of a send with a linger.
_new: Any = object.__new__
logger = logging.getLogger("streamlog.client")


class Producer(Closing):
    """Sends records to topics. Thread-safe; made by `log.producer(…)`, its settings are those of `streamlog.ProducerConfig`.

    With `linger_ms=0` (the default) a record is in the log when `send` returns. With a linger, records
    gather in batches, and a batch is written when its linger is over or it is full; `result()`, `flush()` and
    `close()` end the linger. The producer needs no polling. Close it, or use a `with` block. Cost: about a microsecond to
    send with a linger, some microseconds without, and far less for a record of `send_many`.

    What is wrong with a call is raised at the call: SerializationError, RecordTooLargeError,
    InvalidTimestampError, UnknownTopicOrPartitionError, ClosedError. An append that fails is raised at the call
    without a linger, and by the `Delivery` with one. `flush` and `close` raise DeliveryError for the
    failed records whose `Delivery` the program has not asked.

    >>> import streamlog
    >>> with streamlog.open() as log:
    ...     _ = log.create_topic("orders")
    ...     with log.producer() as producer:
    ...         producer.send("orders", "9.50", key="alice").result().offset
    0
    """

    _ended = False

    def __init__(self, log: Parent, **config: Unpack[ProducerConfig]) -> None:
        """The same as `log.producer(…)`. Raises ConfigError, ReadOnlyError."""
        self._config = ProducerSettings.of(config)
        resolve_serializer(self._config.key_serializer, "", "key")
        resolve_serializer(self._config.value_serializer, "")
        check_log(log, "Producer", "producer(…)")
        self._log = log
        self._service: Service = log._use()
        self._service.require_writable("A producer")
        self._deferred_closes = log._cleanup.deferred_closes
        clock = self._service.clock
        # The system's clock is read without a Python frame of its own, which would be a tenth of a send.
        self._now_ns = time_ns if isinstance(clock, SystemClock) else lambda: clock.time_ms() * 1_000_000
        self._accumulator = RecordAccumulator(self._service, self._config)
        self._linger_ms = self._config.linger_ms
        self._acks = self._config.acks
        self._syncs = self._service.acknowledges_later
        # A single record is acknowledged as with acks="all", which other producers do not wait for.
        self._sends_now = not self._linger_ms and (self._acks == "all" or not self._service.is_replicated)
        self._cache = TopicCache(self._service, self._config, self._accumulator, log._next_number())
        self._topics = self._cache.topics
        log._adopt(self)
        self._service.on_metadata(self._cache.invalidate)
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
        """Send one record to a topic (its name or a `Topic`); see the class for when it is in the log, and what is raised.

        `value=None` is a tombstone. Records with one key go to one partition, those with `key=None` are spread over all.
        `headers`: a mapping, or pairs, of str to bytes, str or None. `timestamp_ms`: ms since the epoch, by default the
        time of the call. A full buffer blocks the call, which raises DeliveryTimeoutError after `delivery_timeout_ms`.

        >>> import streamlog
        >>> with streamlog.open(auto_create_topics=True) as log, log.producer() as producer:
        ...     producer.send("orders", "9.50", key="alice", headers={"coupon": "SPRING"}, timestamp_ms=5_000).result()
        RecordMetadata(topic='orders', partition=0, offset=0, timestamp=5000)
        """
        if not self._linger_ms:
            return self._send(topic, value, key, headers, partition, timestamp_ms)
        try:
            cached = self._topics[topic]
            queue = cached.lingering
            if queue is not None:
                batch = queue.queue[-1]
                rows = batch.rows
        except (KeyError, TypeError, IndexError, AttributeError):
            queue = None  # the topic is not known, or by its handle; there is no batch, or it is whole or written
        # Not inside the handler above: what a send raises would show what the handler caught.
        if (
            queue is not None
            and type(value) is bytes
            and type(key) is bytes
            and headers is None
            and partition is None
            and timestamp_ms is None
        ):
            # Nearly every record of a program that sends many: bytes, for a batch that is open. The steps of `Batch.join`
            # and of `PartitionQueue.add`, written out: by calls a send takes 1.7 times as long.
            size = len(value) + len(key) + RECORD_OVERHEAD
            if size <= cached.max_size:
                row = (key, value, self._now_ns() // 1_000_000)
                rows.append(row)
                index = len(rows) - 1
                if rows[index] is not row:
                    index = batch.index_of(row, rows)
                batch.size = size = batch.size + size
                if not batch.closed or batch.has(index, rows):
                    if size >= batch.limit or index + 1 >= queue.batch_records:
                        queue.reached_limit(batch, index)
                        if batch.closed:
                            queue.drain(filled=True)
                    delivery: Delivery[RecordMetadata] = _new(Delivery)
                    delivery._batch = batch
                    delivery._index = index
                    return delivery
        return self._send(topic, value, key, headers, partition, timestamp_ms)

    def _send(
        self, topic: TopicLike, value: Any, key: Any, headers: Any, partition: int | None, timestamp_ms: int | None
    ) -> Delivery[RecordMetadata]:
        """`send`, for all arguments."""
        mark = this_thread.mark
        if mark._is_owned():  # as `refuse_reentry`, without a call
            raise reentrant()
        cached: CachedTopic | None
        try:
            cached = self._topics[topic if type(topic) is str else topic._cache_key]  # type: ignore[union-attr]
        except (KeyError, AttributeError):
            cached = None
        if cached is None:  # not in the handler, as in `send`
            cached = self._find(topic)
        if not (type(value) is bytes and type(key) is bytes and cached.plain):
            key, value = cached.key_bytes(key), cached.value_bytes(value)
        size = (0 if value is None else len(value)) + (0 if key is None else len(key)) + RECORD_OVERHEAD
        pairs: HeaderTuple = ()
        if headers is not None:
            pairs = header_tuple(headers)
            size += headers_size(pairs)
        if size > cached.max_size:
            raise cached.too_large(size)
        timestamp = now_ms = self._now_ns() // 1_000_000
        if timestamp_ms is not None:
            timestamp = cached.timestamp(timestamp_ms, now_ms)
        queue = cached.only
        if queue is None or partition is not None:
            queue = cached.queue_for(key, partition)
        if self._sends_now and value is not None and not pairs and queue.plain and not queue.queue:
            written = self._send_now(mark, queue, key, value, timestamp, now_ms)
            if written is not None:
                return written
        row: Row = (key, value, timestamp, pairs) if pairs else (key, value, timestamp)
        if not self._linger_ms:
            return self._flush_now(*self._accumulator.add(queue, row, size))
        # The first call alone nearly always: a step through the accumulator would be 3% of a send.
        batch, index = queue.add(row, size) or self._accumulator.add(queue, row, size)
        if batch.closed:
            queue.drain(filled=True)
        if self._acks == 0:
            batch.observe(index)
            return CompletedDelivery(cached.topic.name, queue.partition, -1, timestamp)
        return Delivery(batch, index)

    def _send_now(
        self, mark: Any, queue: PartitionQueue, key: bytes | None, value: bytes, timestamp: int, now_ms: int
    ) -> Delivery[RecordMetadata] | None:
        """Write one record without a batch; None if it is to go as a batch. `mark`: see `inside`.

        That is so if other records are to be written before it, and if it is to be sent again.

        It waits for another thread that is writing. Leaving the record in a batch for that thread was slower: four
        threads kept 0.30 of one thread's rate, against 0.43 so.
        """
        synced: Completion[int] | None = None
        try:
            with mark, queue.draining:
                if queue.queue or queue.inflight is not None:
                    return None
                if self._syncs:
                    synced = self._service.produce_one_later(queue.at, key, value, timestamp, now_ms)
                else:
                    offset = self._service.produce_one(queue.at, key, value, timestamp, now_ms)
        except BaseException as error:
            queue.drain()  # what other threads have queued meanwhile, and leave to this one
            if queue.may_send_again(error):
                return None
            if self._acks != 0 or not isinstance(error, StreamlogError):
                raise
            logger.error("a record sent with acks=0 could not be written: %s", error)
            offset, synced = -1, None
        if queue.queue:
            queue.drain()
        if synced is not None:
            acknowledged = self._await_sync(queue, synced)
            if acknowledged is None:
                return None
            offset = acknowledged
        if self._deferred_closes:
            self._log._cleanup.run_deferred_closes()
        written: CompletedDelivery = _new(CompletedDelivery)
        written._metadata = (queue.topic.name, queue.partition, offset if self._acks else -1, timestamp)
        return written

    def _await_sync(self, queue: PartitionQueue, done: Completion[int]) -> int | None:
        """Wait until a single record is acknowledged; its offset. None if it was lost with its leader, and is to be sent again.

        REQUIRES: not `draining`, so that other threads' records share the sync.
        """
        work = done.work
        if self._acks == 0:
            if work is not None:
                work.soon()
            return -1
        if work is not None:
            work.drive()  # the usual case, without the preparations of a wait
        if not done.done() and not wait_for(done, self._config.delivery_timeout_ms / 1000):
            raise not_in_time(self._config.delivery_timeout_ms / 1000)
        if queue.may_send_again(done.error()):
            return None
        return done.result()

    def _flush_now(self, batch: Batch, index: int) -> Delivery[RecordMetadata]:
        """Without a linger: the record is acknowledged, or failed, when `send` returns."""
        batch.observe(index)
        if self._acks == 0 and self._syncs:
            batch.queue.drain()
        else:
            batch.queue.flush(batch, self._config.delivery_timeout_ms / 1000, retries=True)
        delivery: Delivery[RecordMetadata] = Delivery(batch, index)
        if self._acks == 0:
            error = batch.error()
            if error is not None:
                logger.error("a record sent with acks=0 could not be written: %s", error)
            return CompletedDelivery(batch.queue.topic.name, batch.queue.partition, -1, batch.time_of(index))
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

        `headers` and `partition` are those of every record. All records are checked before the first is appended; one
        exception is a buffer that cannot be packed, such as an `array`, which fails with its batch. The records are in
        the log when this returns; with a linger, the last ones may linger. Cost: a quarter of a microsecond for each
        record, or less.

        Raises what `send` raises, and DeliveryError if some of the records could not be written.

        >>> import streamlog
        >>> with streamlog.open(auto_create_topics=True) as log, log.producer() as producer:
        ...     sent = producer.send_many("orders", ["9.50", "20.00"], ["alice", "bob"])
        ...     [metadata.offset for metadata in sent.result()]
        [0, 1]
        """
        refuse_reentry()
        try:
            cached = self._topics[topic if type(topic) is str else topic._cache_key]  # type: ignore[union-attr]
        except (KeyError, AttributeError):
            cached = None
        if cached is None:  # not in the handler, as in `send`
            cached = self._find(topic)
        linger_ms, now_ms = self._linger_ms, self._now_ns() // 1_000_000
        records = checked(cached, values, keys, headers, timestamps_ms, now_ms, copied=bool(linger_ms))
        n = len(records.values)
        parts: list[Part] = []
        for queue, batches in batches_of(cached, records, partition):
            parts += put(self._accumulator, queue, batches, linger_ms)
        if self._acks == 0:
            for part in parts:
                part.batch.observe(None)
            return UnacknowledgedDelivery(parts, n)
        delivery = ManyDelivery(parts, n)
        if self._deferred_closes:
            self._log._cleanup.run_deferred_closes()
        if not linger_ms:
            delivery.result()
        return delivery

    def _find(self, topic: TopicLike) -> CachedTopic:
        """The topic, looked up in the log. Raises ClosedError, also if the producer is closed meanwhile."""
        self._check()
        cached = self._cache.find(self._log, topic)
        if self._closed_error is not None:
            self._topics.clear()
            self._check()
        return cached

    # -- ending --------------------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> None:
        """Write everything sent so far, and wait until it is in the log; on the device only with `open(sync=True)`.

        Raises RequestTimedOutError (a TimeoutError) after `timeout` real seconds; DeliveryError for the records
        that failed since the last flush and whose `Delivery` the program has not asked.
        """
        refuse_reentry()
        self._check()
        self._accumulator.flush(seconds_or_none(timeout))
        if self._deferred_closes:
            self._log._cleanup.run_deferred_closes()
        self._accumulator.report()

    def close(self, timeout: float | None = None) -> None:
        """Flush, and refuse every later call. Raises what `flush` raises; the producer is closed all the same.

        Closing again does nothing, unless Ctrl-C or a signal handler's exception ended the first close: then it goes on.
        In a signal handler or finalizer the close may be put off until the call that was interrupted ends.
        """
        limit = seconds_or_none(timeout)
        if self._ended:
            return
        if is_inside():
            self._log._cleanup.defer_close(self.close)
            return
        self._closed_error = dead = self._closed_error or closed("producer", self._log.path)
        self._topics.clear()
        try:
            self._accumulator.close(limit, dead)
        except StreamlogError:
            self._end()
            raise
        self._end()
        self._accumulator.report()

    def _end(self) -> None:
        self._service.off_metadata(self._cache.invalidate)
        self._log._forget(self)
        self._ended = True

    def _abandon(self) -> None:
        super()._abandon()
        self._ended = True
        self._topics.clear()
        self._accumulator.abandon()

    def __del__(self) -> None:
        """Close the producer, with a ResourceWarning, if it was not closed."""
        if self._made and not self._ended:
            accumulator, service, invalidate = self._accumulator, self._service, self._cache.invalidate
            path = self._log.path

            def finalizer() -> None:
                service.off_metadata(invalidate)
                accumulator.close(1.0, closed("producer", path))

            self._log._cleanup.add_finalizer(finalizer)
            self._warn_open()  # last: where warnings are errors, it raises

    def __repr__(self) -> str:
        state = "closed" if self._closed_error is not None else f"linger_ms={self._linger_ms}, acks={self._acks!r}"
        return f"<streamlog.Producer {self._config.client_id} {state}>"


class SharedProducer:
    """A producer of the library's own, shared by all that send through it. Thread-safe.

    It is made when it is first needed, and again if it was closed. It refers to no log, which may hold it.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(self, **config: Unpack[ProducerConfig]) -> None:
        self._config = config
        self._lock = new_lock()
        self._producer: Producer | None = None

    def of(self, log: Parent) -> Producer:
        """The producer, of `log`."""
        producer = self._producer
        if producer is not None and not producer.closed:
            return producer
        made = Producer(log, **self._config)
        made._made = False  # nothing lingers in it, so the program need not be warned that it is not closed
        with inside(), self._lock:
            producer = self._producer
            if producer is None or producer.closed:
                producer = self._producer = made
        if producer is not made:  # another thread was faster
            made.close()
        return producer

    def close(self) -> None:
        with inside(), self._lock:
            producer, self._producer = self._producer, None
        if producer is not None:
            producer.close()
