"""What a producer has accepted and not yet written: its queues, its buffer, its lingers, its failed records.

The accumulator does not refer to the producer. A producer that the program has dropped can therefore be collected while
its records are on their way; the scheduler, which holds the accumulator, has them written.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from weakref import WeakSet

from ...broker.api import ProducerIdAndEpoch, Service
from ...broker.controller import unknown_partition
from ...broker.metadata import TopicView
from ...config import ProducerConfig
from ...errors import StreamlogError
from ...records import compression
from ...runtime.threads import RawGate, inside, longest_sleep, new_lock, real_monotonic
from ...runtime.values import raise_first, refuse_to_copy
from ...types import ProducerRecord
from .batch import Batch, Row
from .delivery import delivery_error
from .errors import buffer_stayed_full, ended
from .partition_queue import PartitionQueue
from .transaction import TransactionManager

logger = logging.getLogger("streamlog.client")


class _Claim:
    """What one thread waits for: `size` bytes of the buffer, which it has once they are `granted`.

    `gate` is opened then, or to have the thread end the lingers of others.
    """

    __slots__ = ("__weakref__", "gate", "granted", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.granted = False
        self.gate = RawGate()


class RecordAccumulator:
    """The queues of one producer, and the memory they share. Thread-safe.

    `queues` has them by the topic's id, not its name: the records that wait for a deleted topic must not go to another
    one of the same name.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(
        self,
        service: Service,
        config: ProducerConfig,
        producer: ProducerIdAndEpoch | None = None,
        transaction: TransactionManager | None = None,
    ) -> None:
        """`producer`: the id and epoch of an idempotent producer, from `Service.init_producer_id`; see `partition_queue`.

        `transaction`: of a transactional one, instead of these.
        """
        self.service = service
        self._config = config
        self.acks = config.acks
        self._transaction = transaction
        self.is_transactional = transaction is not None
        if transaction is not None:
            transaction.records = self
        self.producer = producer if transaction is None else transaction.producer
        self.delivery_timeout_ms = config.delivery_timeout_ms
        self.leaders_move = service.is_replicated
        self.produce = service.produce
        self.settle = service.settle
        self.codec = compression.require(config.compression_type)
        self.batch_size = config.batch_size
        self.now_ms = service.clock.time_ms
        self._lock = new_lock()
        self.queues: dict[tuple[bytes, int], PartitionQueue] = {}
        # Those that may have something to be written, synced or called. A queue is added before it gets a batch, and taken
        # out while it is empty, both under its lock. So a flush costs nothing for the queues that have nothing.
        self._active: dict[PartitionQueue, None] = {}
        self._buffered = 0
        # Failed batches whose records `report` has to raise, the oldest first, and the number of the records that were
        # not kept, because failed batches take up to `buffer_memory`.
        self._failed: dict[Batch, None] = {}
        self._failed_bytes = 0
        self._not_kept = 0
        # Of the threads that wait for the buffer, in the order in which they came; those that were granted are taken out.
        self._claims: deque[_Claim] = deque()
        # Those that were granted and whose threads have not begun their batches yet, or were interrupted before: they hold them.
        self._grants: WeakSet[_Claim] = WeakSet()
        self._closed: StreamlogError | None = None

    # -- queues --------------------------------------------------------------------------------------

    def queue(self, view: TopicView, number: int) -> PartitionQueue:
        """The queue of a partition, which follows the topic's settings of now. Of a deleted topic, one that is closed."""
        with inside(), self._lock:
            # The image is read under the lock: settings that are older than those of another call come to no queue, and
            # `forget_queues`, which is called after a deletion, finds every queue that was made before it.
            image = self.service.image
            name = image.names.get(view.id_bytes)
            view = view if name is None else image.topics[name]
            codec = self.codec
            if view.config.compression_type != "producer":
                codec = compression.require(view.config.compression_type)
            queue = self.queues.get((view.id_bytes, number))
            if queue is None:
                queue = PartitionQueue(self, view, number, codec, self._config.linger_ms)
                queue.closed = self._closed
                if name is None:
                    queue.closed = unknown_partition(queue.name)
                    return queue
                self.queues[view.id_bytes, number] = queue
            else:
                queue.follow(view, codec)
        return queue

    def forget_queues(self, places: Iterable[tuple[bytes, int]]) -> None:
        """Drop these queues, which are of deleted topics, unless records wait in them."""
        places = list(places)
        if places:
            with inside(), self._lock:
                self._forget_queues(places)

    def _forget_queues(self, places: list[tuple[bytes, int]]) -> None:
        """REQUIRES: the lock."""
        for place in places:
            queue = self.queues.get(place)
            if queue is None or queue.closed is not None:
                continue
            # Closed before it is looked at: a thread that is about to begin a batch either sees this, or is seen.
            queue.closed = unknown_partition(queue.name)
            if queue.is_idle:
                del self.queues[place]
            else:
                queue.closed = None

    def add(self, queue: PartitionQueue, row: Row, size: int) -> tuple[Batch, int]:
        """Put a record into the queue's open batch; waits for the buffer if that has to be a new one.

        Raises ClosedError, DeliveryTimeoutError.
        """
        return queue.add(row, size) or self._add_later(queue, row, size)

    def _add_later(self, queue: PartitionQueue, row: Row, size: int) -> tuple[Batch, int]:
        if self._transaction is not None:
            self._transaction.enter((queue,))
            entered = queue.add(row, size)
            if entered is not None:
                return entered
        reserved = queue.first_bytes(size)
        claim = self.wait_for_buffer(reserved, queue, self.buffer_deadline())
        try:
            added = queue.add(row, size, reserved)
        except StreamlogError:
            self._give_back(reserved)
            raise
        del claim
        if added is None:
            self._give_back(reserved)
            raise ended()
        if added[1]:  # it joined a batch that another thread has begun meanwhile
            self._give_back(reserved)
        self._wake_next()
        return added

    # -- what the queues ask for ---------------------------------------------------------------------

    def call_soon(self, queue: PartitionQueue) -> None:
        """Have the scheduler call the users' callbacks: the program may not be waiting for these records."""
        self.note(queue)
        self.service.timers.at(self.now_ms(), queue.call_later)

    def note(self, queue: PartitionQueue) -> None:
        """The queue is about to get a batch, or has callbacks left."""
        self._active[queue] = None

    @property
    def has_plenty(self) -> bool:
        """Whether most of the buffer is free."""
        return 4 * self._buffered < self._config.buffer_memory

    def reserve(self, size: int) -> bool:
        """Take a part of the buffer, if it has that much left and no thread waits for it. An empty one takes a batch of any size."""
        with inside(), self._lock:
            if self._claims or not self._has_left(size):
                return False
            self._buffered += size
        return True

    def grow(self, batch: Batch, limit: int) -> bool:
        """Let an open batch become as large as `limit`, if the buffer has that much left."""
        with inside(), self._lock:
            more = max(0, limit - batch.reserved)
            if not batch.reserved or not self._has_left(more):  # none is reserved for a batch that is written already
                return False
            self._buffered += more
            batch.reserved += more
            batch.limit = limit
        return True

    def completed(self, batch: Batch) -> None:
        """A batch is written, or failed: give its part of the buffer back. May be done twice."""
        with inside(), self._lock:
            # Never less than zero: `_recount` does not see what is reserved and not queued yet.
            self._buffered = max(0, self._buffered - batch.reserved)
            batch.reserved = 0
        error = batch.error()
        if error is not None and not batch.is_failed:
            batch.is_failed = True
            if self._transaction is not None:
                self._transaction.note_failure(error)
            logger.error("%d records for %s-%d were not written: %s", len(batch), *batch.queue.name, error)
            if self._config.acks != 0:
                self._keep(batch)
        if self._claims:
            self._grant()

    def observed(self, batch: Batch) -> None:
        """The program has asked for the outcome of every record of a failed batch: there is nothing to report."""
        with inside(), self._lock:
            if batch in self._failed:
                del self._failed[batch]
                self._failed_bytes -= batch.size

    # -- the buffer ----------------------------------------------------------------------------------

    def buffer_deadline(self) -> float:
        """Until when, in real monotonic seconds, a call that begins now may wait for the buffer."""
        return real_monotonic() + self._config.delivery_timeout_ms / 1000

    def wait_for_buffer(self, size: int, queue: PartitionQueue, end: float) -> object:
        """Take `size` bytes of the buffer when it has them left: end every linger, then wait for the threads that are writing.

        Threads get theirs in the order in which they came, as from Kafka's BufferPool. When each of those that wait took what
        it found, one of 64 threads sent 44 times as much as another. The first of them ends the lingers, and counts anew what
        an interrupt left; the others only wait. The caller keeps what is returned until its batch is queued: until then the
        bytes are in no queue. Raises DeliveryTimeoutError at `end`.
        """
        claim = _Claim(size)
        self._claims.append(claim)
        try:
            while True:
                claim.gate = gate = RawGate()
                self._grant()
                if claim.granted:
                    return claim
                is_first = self._is_first(claim)
                if is_first:
                    self._write_out(end)
                left = end - real_monotonic()
                if left <= 0 and not claim.granted:
                    raise buffer_stayed_full(queue.name, self._config.delivery_timeout_ms)
                if not gate.wait(min(left, longest_sleep.turn_s)) and is_first:
                    self._recount()
        except BaseException:
            if self._withdraw(claim):
                self._grant()
            else:
                self._give_back(size)
            self._wake_next()
            raise

    def _withdraw(self, claim: _Claim) -> bool:
        """Its thread waits no more. False if it was granted meanwhile.

        Under the lock: a claim that was taken out between the two steps of `_granted`, which takes out the first one, had the
        next one taken out in its place, and that thread waited until its timeout.
        """
        with inside(), self._lock:
            if claim in self._claims:
                self._claims.remove(claim)
            return not claim.granted

    def _is_first(self, claim: _Claim) -> bool:
        try:
            return self._claims[0] is claim
        except IndexError:  # it was granted just now
            return False

    def _wake_next(self) -> None:
        """A thread that waited has begun a batch, which may linger, or waits no more: have the next one write what lingers."""
        try:
            self._claims[0].gate.open()
        except IndexError:  # none waits
            return

    def _give_back(self, size: int) -> None:
        """Give back what was taken for no batch."""
        with inside(), self._lock:
            self._buffered = max(0, self._buffered - size)
        self._grant()

    def _grant(self) -> None:
        """Give the threads that wait for the buffer what it has left, those that came first before others."""
        with inside(), self._lock:
            granted = self._granted()
        for claim in granted:
            claim.gate.open()

    def _granted(self) -> list[_Claim]:
        """REQUIRES: the lock."""
        granted: list[_Claim] = []
        while self._claims and self._has_left(self._claims[0].size):
            claim = self._claims[0]
            self._buffered += claim.size
            granted.append(claim)
            self._grants.add(claim)
            claim.granted = True  # before it is taken out: a claim that is in no queue is granted
            self._claims.popleft()
        return granted

    def _has_left(self, size: int) -> bool:
        return not self._buffered or self._buffered + size <= self._config.buffer_memory

    def _write_out(self, end: float) -> None:
        """Have everything written and synced, lingering or not, that no other thread is writing already."""
        for queue in list(self._active):
            queue.close_batch()
            queue.drain()
            queue.sync(max(0.0, end - real_monotonic()))
            self._forget_if_empty(queue)

    def _forget_if_empty(self, queue: PartitionQueue) -> None:
        with inside(), queue.lock:
            if queue.is_empty:
                self._active.pop(queue, None)

    def _recount(self) -> None:
        """An interrupt after a part was reserved, and before its batch was queued, leaves it reserved: count anew."""
        with inside(), self._lock:
            granted = sum(claim.size for claim in list(self._grants))
            batches = [batch for queue in list(self._active) for batch in queue.batches()]
            self._buffered = granted + sum(batch.reserved for batch in batches)

    # -- linger --------------------------------------------------------------------------------------

    def arm(self, queue: PartitionQueue, deadline_ms: int) -> None:
        """Have the scheduler write the queue's open batch when its linger is over."""
        self.service.timers.at(deadline_ms, queue.write_due)

    # -- flush and failed records --------------------------------------------------------------------

    def flush(self, timeout: float | None) -> None:
        """Write everything accepted so far. Raises RequestTimedOutError after `timeout` real seconds."""
        end = None if timeout is None else real_monotonic() + timeout
        errors: list[BaseException] = []
        for queue in list(self._active):
            try:
                queue.flush_all(end)
                queue.drain()  # calls the callbacks that an interrupt in one of them has left
                self._forget_if_empty(queue)
            except Exception as error:  # the other queues are written all the same
                errors.append(error)
        raise_first(errors)

    def _keep(self, batch: Batch) -> None:
        """Keep a failed batch until `report`, or until the program has asked for the outcome of all its records.

        Kept batches take `buffer_memory` bytes at most: on a full disk, a program that never flushes would otherwise fill
        its memory with them.
        """
        with inside(), self._lock:
            if self._failed and self._failed_bytes + batch.size > self._config.buffer_memory:
                self._not_kept += len(batch)
                return
            self._failed[batch] = None
            self._failed_bytes += batch.size
        if batch.all_observed():  # meanwhile
            self.observed(batch)

    def report(self) -> None:
        """Raise DeliveryError for the records that failed and whose outcome the program has not asked for; once."""
        with inside(), self._lock:
            failed, self._failed, self._failed_bytes = list(self._failed), {}, 0
            not_kept, self._not_kept = self._not_kept, 0
        errors: dict[int, StreamlogError] = {}
        records: list[ProducerRecord] = []
        for batch in failed:
            error = batch.error()
            assert isinstance(error, StreamlogError)
            for index in batch.unobserved():
                errors[len(records)] = error
                records.append(batch.record(index))
            batch.observe(None)
        if errors:
            raise delivery_error(errors, records, [None] * len(records), not_kept)

    def forget_failed(self) -> None:
        """Report none of the records that failed until now: their transaction is aborted."""
        with inside(), self._lock:
            self._failed, self._failed_bytes, self._not_kept = {}, 0, 0

    # -- ending --------------------------------------------------------------------------------------

    def close(self, timeout: float | None, error: StreamlogError) -> None:
        """Refuse records with `error`, from any thread, then flush."""
        with inside(), self._lock:
            self._closed = error
        for queue in list(self.queues.values()):
            queue.close(error)
        try:
            self.flush(timeout)
        finally:
            for queue in list(self.queues.values()):
                self.service.timers.cancel(queue.write_due)

    def abandon(self) -> None:
        """In a forked child: forget everything, and have deliveries raise ForkedError. The parent writes the records."""
        for queue in list(self.queues.values()):
            queue.forked = True
        self.queues.clear()
