"""The producer: the handle that sends records, and the one that the library makes for itself."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Self, Unpack

from ...broker.api import ProducerIdAndEpoch, Service
from ...config import ProducerConfig as ProducerSettings
from ...errors import ConfigError, DiskFullError, PoisonedLogError, StorageError, StreamlogError
from ...records.batch import MAX_SEQUENCE
from ...records.core import core
from ...records.single import SequencedFields
from ...runtime.api import Completion
from ...runtime.threads import (
    SystemClock,
    inside,
    is_inside,
    new_lock,
    new_owned_lock,
    reentrant,
    refuse_reentry,
    result_of,
    this_thread,
    time_ns,
    wait_for,
)
from ...runtime.values import refuse_to_copy
from ...types import Headers, HeaderTuple, Offsets, Record, RecordMetadata
from ..arguments import seconds_or_none
from ..call_site import warn
from ..config_types import ProducerConfig
from ..consumer.consumer import Consumer
from ..consumer.transactional import GroupReader, check_reader
from ..handle import Closing, Parent, check_log, closed
from ..retrying import with_retries
from ..serde import header_tuple, resolve_serializer
from ..topic import TopicLike
from .accumulator import RecordAccumulator
from .batch import RECORD_OVERHEAD, Batch, Row, headers_size
from .delivery import CompletedDelivery, Delivery, ManyDelivery, Part, UnacknowledgedDelivery
from .errors import not_in_time
from .partition_queue import PartitionQueue
from .send_many import batches_of, checked, put
from .topic_cache import CachedTopic, TopicCache
from .transaction import TransactionManager, TransactionScope

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

    __slots__ = ("_now_ns", "_topics")  # where the core in C finds them
    _ended = False

    def __init__(self, log: Parent, **config: Unpack[ProducerConfig]) -> None:
        """The same as `log.producer(…)`. Raises ConfigError, ReadOnlyError, and of the disk as the change of a topic does."""
        self._config = ProducerSettings.of(config)
        resolve_serializer(self._config.key_serializer, "", "key")
        resolve_serializer(self._config.value_serializer, "")
        check_log(log, "Producer", "producer(…)")
        self._log = log
        self._service: Service = log._use(retries=False)
        self._service.require_writable("A producer")
        self._deferred_closes = log._cleanup.deferred_closes
        clock = self._service.clock
        # The system's clock is read without a Python frame of its own, which would be a tenth of a send.
        self._now_ns = time_ns if isinstance(clock, SystemClock) else lambda: clock.time_ms() * 1_000_000
        self._transaction = transaction = self._begin_transactional()
        producer = self._init_producer_id() if transaction is None else None
        self._accumulator = RecordAccumulator(self._service, self._config, producer, transaction)
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

    def _begin_transactional(self) -> TransactionManager | None:
        """Of a transactional producer: fence its predecessors."""
        config = self._config
        if config.transactional_id is None:
            return None
        return TransactionManager(self._service, config.transactional_id, config.transaction_timeout_ms)

    def _init_producer_id(self) -> ProducerIdAndEpoch | None:
        """The id of an idempotent producer. None where the disk takes none and it is not needed.

        A log of one broker sends nothing again, so a full disk, or metadata that take no change, need not stop its senders.
        """
        if not self._config.is_idempotent:
            return None
        try:
            return result_of(with_retries(self._service).init_producer_id())
        except (DiskFullError, StorageError, PoisonedLogError) as error:
            if self._config.enable_idempotence or self._service.is_replicated:
                raise
            logger.warning("%s sends without idempotence, for it got no producer id: %s", self._config.client_id, error)
            return None

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
        if core is not None or not self._linger_ms:
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
                        queue.filled(batch, index)
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
        one: SequencedFields | None = None
        try:
            with mark, queue.draining:
                if queue.queue or queue.inflight is not None:
                    return None
                sequences = queue.sequences
                if sequences is not None:
                    if sequences.in_doubt:
                        return None
                    one = sequences.one
                    sequences.in_doubt = True
                if self._syncs:
                    synced = self._service.produce_one_later(queue.at, key, value, timestamp, now_ms, one)
                else:
                    offset = self._service.produce_one(queue.at, key, value, timestamp, now_ms, one)
                if sequences is not None and one is not None:
                    sequences.one = (one[0], one[1], one[2] + 1 & MAX_SEQUENCE, one[3])
                    sequences.in_doubt = False
        except BaseException as error:
            if synced is not None and synced.work is not None:
                synced.work.soon()
            queue.drain()  # what other threads have queued meanwhile, and leave to this one
            if queue.is_in_no_log(error):
                return None
            if self._transaction is not None:
                self._transaction.note_failure(error)
            if self._acks != 0 or not isinstance(error, StreamlogError):
                raise
            logger.error("a record sent with acks=0 could not be written: %s", error)
            offset, synced = -1, None
        if synced is not None:
            acknowledged = self._await_sync(queue, synced)
            if acknowledged is None:
                return None
            offset = acknowledged
        elif queue.queue:
            queue.drain()
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
        try:
            if queue.queue:
                queue.drain()
            if self._acks == 0:
                if work is not None:
                    work.soon()
                return -1
            if work is not None:
                work.drive()  # the usual case, without the preparations of a wait
            if not done.done() and not wait_for(done, self._config.delivery_timeout_ms / 1000):
                raise not_in_time(self._config.delivery_timeout_ms / 1000)
        except BaseException:
            if work is not None:
                work.soon()
            raise
        if queue.is_in_no_log(done.error()):
            with inside(), queue.draining:
                if queue.sequences is not None:
                    queue.sequences.in_doubt = True  # the next leader does not have what the last one had
            return None
        if self._transaction is not None and (error := done.error()) is not None:
            self._transaction.note_failure(error)
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
        spread = batches_of(cached, records, partition)
        if self._transaction is not None:
            self._transaction.enter(queue for queue, _ in spread)
        for queue, batches in spread:
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

    # -- transactions --------------------------------------------------------------------------------

    def transaction(self) -> AbstractContextManager[Self]:
        """A block that is one transaction: it commits at the end, and aborts on an exception, of whatever kind.

        Once the commit is decided it counts, whatever is raised after that. The block's records have offsets at once, and
        consumers see them after the commit, all or none. Only what this producer sends is in it: `Topic.send` and other producers
        send outside of it. A block may end itself, by `commit_transaction` or `abort_transaction`.

        Raises InvalidTxnStateError if a transaction is open already; at the end what `commit_transaction` raises.

        >>> import streamlog
        >>> with streamlog.open(auto_create_topics=True) as log, log.producer(transactional_id="billing") as producer:
        ...     with producer.transaction():
        ...         _ = producer.send("orders", "9.50")
        ...         _ = producer.send("invoices", "9.50")
        ...     [record.value for record in log["invoices"].read()]
        [b'9.50']
        """
        return TransactionScope(self._transactional(), self)

    def begin_transaction(self) -> None:
        """Begin a transaction: what is sent from now on is in it. Costs nothing: the coordinator learns of it with the first record.

        Where Kafka's producer has `init_transactions`, this one is ready when it is made. One that is not committed is aborted when
        the producer is closed. `transaction` does both ends.

        Raises ConfigError without a `transactional_id`, InvalidTxnStateError if one is open, ProducerFencedError.
        """
        self._transactional().begin()

    def send_offsets_to_transaction(
        self, offsets: Offsets | Record[Any, Any] | None, consumer: Consumer[Any, Any]
    ) -> None:
        """Have the transaction commit how far a consumer has read, together with what is sent: see `Consumer.commit` for `offsets`.

        The consumer's group counts them as committed when the transaction is. Members that get one of these partitions
        wait until that is decided.

        Raises ConfigError for a consumer without a group, or one that commits by itself (`enable_auto_commit=False` is
        needed); CommitFailedError if the group gave a partition to another member: then only an abort is possible.
        """
        manager = self._transactional()
        check_reader(consumer, self._log)
        manager.require_open("send offsets")
        reader = GroupReader(consumer)
        manager.send_offsets(reader, reader.offsets(offsets))

    def commit_transaction(self) -> None:
        """Write what was sent, and commit: consumers see all of it, and its offsets count as committed.

        After an interrupt, or RequestTimedOutError, it may be called again, and goes on. Cost: some appends to the topic of
        the coordinator, and one to each partition of the transaction.

        Raises InvalidTxnStateError if no transaction is open, or a record of it was not written; in the latter case DeliveryError if
        its `Delivery` was not asked. Then only `abort_transaction` is possible. ProducerFencedError if another producer has taken over
        the `transactional_id`, or the transaction took longer than `transaction_timeout_ms`: it is aborted.
        """
        self._transactional().commit()
        if self._deferred_closes:
            self._log._cleanup.run_deferred_closes()

    def abort_transaction(self) -> None:
        """Abort: consumers see nothing of it. Records that are not written yet fail with TransactionAbortedError.

        Raises InvalidTxnStateError if no transaction is open, or if it is committed, by a `commit_transaction` that was interrupted.
        """
        self._transactional().abort()
        if self._deferred_closes:
            self._log._cleanup.run_deferred_closes()

    def _transactional(self) -> TransactionManager:
        refuse_reentry()
        self._check()
        if self._transaction is None:
            raise ConfigError(
                "This producer has no transactions: make it with a transactional_id, log.producer(transactional_id=…), which names "
                "it over restarts.",
                name="transactional_id",
            )
        return self._transaction

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

        A transaction that is open is aborted. Closing a fenced producer raises nothing.

        Closing again does nothing, unless Ctrl-C or a signal handler's exception ended the first close: then it goes on.
        In a signal handler or finalizer the close may be put off until the call that was interrupted ends.
        """
        limit = seconds_or_none(timeout)
        if self._ended:
            return
        transaction = self._transaction
        if is_inside() or (transaction is not None and transaction.is_ending_here()):
            self._log._cleanup.defer_close(self.close)
            return
        self._closed_error = dead = self._closed_error or closed("producer", self._log.path)
        self._topics.clear()
        try:
            if transaction is not None:
                transaction.close(limit, dead)
            self._accumulator.close(limit, dead)
        except StreamlogError:
            self._end()
            raise
        self._end()
        self._accumulator.report()

    def __exit__(self, *exc: object) -> None:
        """Close it. Warns of a transaction that is open at the end of the block, which is aborted."""
        transaction = None if self.closed or exc[0] is not None else self._transaction
        self.close()
        if transaction is not None and transaction.was_left_open:
            warn(
                f"The block of the producer of {transaction.transactional_id!r} ended with a transaction open, which was aborted: nothing of "
                f"it counts. Call commit_transaction() before, or use `with producer.transaction():`, which commits."
            )

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
            path, transaction = self._log.path, self._transaction

            def finalizer() -> None:
                service.off_metadata(invalidate)
                if transaction is not None:
                    transaction.close(1.0, closed("producer", path))
                accumulator.close(1.0, closed("producer", path))

            self._log._cleanup.add_finalizer(finalizer)
            self._warn_open()  # last: where warnings are errors, it raises

    def __repr__(self) -> str:
        state = "closed" if self._closed_error is not None else f"linger_ms={self._linger_ms}, acks={self._acks!r}"
        transaction = "" if self._transaction is None else f", {self._transaction.shown()}"
        return f"<streamlog.Producer {self._config.client_id} {state}{transaction}>"


if core is not None:
    Producer.send = core.SendMethod(  # type: ignore[method-assign]
        Producer.send, Producer._send, Producer, CachedTopic, PartitionQueue, Batch, Delivery, RECORD_OVERHEAD
    )


class SharedProducer:
    """A producer of the library's own, shared by all that send through it. Thread-safe.

    It is made when it is first needed, and again if it was closed. It refers to no log, which may hold it.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(self, **config: Unpack[ProducerConfig]) -> None:
        self._config = config
        self._lock = new_lock()
        # Held, of a transactional id, while one is made, which waits for the coordinator: a second one would fence the first.
        self._making = new_owned_lock()
        self._producer: Producer | None = None

    def of(self, log: Parent) -> Producer:
        """The producer, of `log`."""
        producer = self._producer
        if producer is not None and not producer.closed:
            return producer
        if "transactional_id" not in self._config:
            return self._make(log)
        with self._making:
            producer = self._producer
            return producer if producer is not None and not producer.closed else self._make(log)

    def _make(self, log: Parent) -> Producer:
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
