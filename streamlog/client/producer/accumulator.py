"""What a producer has accepted and not yet written: its queues, its buffer, its lingers, its failures.

The outbox knows nothing of the producer. So a producer that is forgotten can be collected while its
records are still on their way, and the scheduler, which holds the outbox, sees them off.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable

from ...broker.api import Service
from ...broker.metadata import TopicView
from ...config import ProducerConfig
from ...errors import StreamlogError
from ...records import compression
from ...replication.partition import gone
from ...runtime.api import Completion
from ...runtime.threads import RawGate, inside, look_again, new_lock, real_monotonic
from ...runtime.values import refuse_to_copy
from ...storage.log import AppendRequest
from ...types import ProducerRecord
from .batch import Batch, Row
from .delivery import delivery_error
from .partition_queue import PartitionQueue

logger = logging.getLogger("streamlog.client")


class RecordAccumulator:
    """The queues of one producer, and the memory they share. Thread-safe."""

    __reduce_ex__ = refuse_to_copy

    def __init__(self, service: Service, config: ProducerConfig) -> None:
        self._service = service
        self._config = config
        self.codec = compression.require(config.compression_type)
        self.batch_size = config.batch_size
        self.now_ms = service.clock.time_ms
        self._lock = new_lock()
        self.queues: dict[tuple[bytes, int], PartitionQueue] = {}
        self._buffered = 0
        # Failed batches with records that flush has to report, the oldest first; of the records that there is no room
        # for, only how many.
        self._failed: dict[Batch, None] = {}
        self._failed_bytes = 0
        self._not_kept = 0
        # Gates of those who wait for room in the buffer.
        self._rooms: deque[RawGate] = deque()
        self._closed: StreamlogError | None = None

    def queue(self, view: TopicView, number: int) -> PartitionQueue:
        """The queue of a partition, by the topic's id: what waits for a deleted topic fails, whatever bears its name."""
        codec = self.codec
        if view.config.compression_type != "producer":
            codec = compression.require(view.config.compression_type)
        with inside(), self._lock:
            queue = self.queues.get((view.id_bytes, number))
            if queue is None:
                queue = PartitionQueue(self, view, number, codec, self._config.linger_ms)
                queue.closed = self._closed
                self.queues[view.id_bytes, number] = queue
            queue.follow(view, codec)
        return queue

    def add(self, queue: PartitionQueue, row: Row, size: int) -> tuple[Batch, int]:
        """Put a record into the queue's open batch, waiting for room in the buffer if that has to be a new one."""
        added = queue.add(row, size)
        if added is None:
            end = self.time_for_room()
            while added is None:
                self.wait_for_room(max(self.batch_size, size), queue, end)
                added = queue.add(row, size)
        return added

    # -- what the queues ask for ---------------------------------------------------------------------

    def append(self, queue: PartitionQueue, write: AppendRequest) -> Completion[int]:
        return self._service.produce(queue.topic, queue.partition, write)

    def settle(self, queue: PartitionQueue, write: AppendRequest) -> Completion[int] | None:
        return self._service.settle(queue.topic, queue.partition, write)

    def call_soon(self, queue: PartitionQueue) -> None:
        """Nobody may be waiting for these records: have the callbacks called by the scheduler."""
        self._service.scheduler.at(self.now_ms(), queue.call_later)

    def reserve(self, size: int) -> bool:
        """Take room in the buffer, if there is any. A lone batch always fits."""
        with inside(), self._lock:
            if not self._has_room(size):
                return False
            self._buffered += size
        return True

    def finished(self, batch: Batch) -> None:
        """A batch is written, or failed: its room is free."""
        with inside(), self._lock:
            # Never less than nothing: `_recount` misses what is reserved and not queued yet.
            self._buffered = max(0, self._buffered - batch.reserved)
            batch.reserved = 0
        error = batch.error()
        if error is not None and not batch.is_failed:
            batch.is_failed = True
            logger.error("%d records for %s-%d were not written: %s", len(batch), *batch.queue.name, error)
            if self._config.acks != 0:
                self._keep(batch)
        while self._rooms:
            try:
                self._rooms.popleft().open()
            except IndexError:  # another thread took the last one
                break

    def _keep(self, batch: Batch) -> None:
        """Keep a failed batch until flush reports it, or every record of it was asked about.

        What is kept is bounded by `buffer_memory`: a program that never flushes must not be filled by a full disk.
        """
        with inside(), self._lock:
            if self._failed and self._failed_bytes + batch.size > self._config.buffer_memory:
                self._not_kept += len(batch)
                return
            self._failed[batch] = None
            self._failed_bytes += batch.size
        if batch.all_asked():  # meanwhile
            self.observed(batch)

    def observed(self, batch: Batch) -> None:
        """Every record of a failed batch was asked about: there is nothing to report."""
        with inside(), self._lock:
            if batch in self._failed:
                del self._failed[batch]
                self._failed_bytes -= batch.size

    # -- the buffer ----------------------------------------------------------------------------------

    def time_for_room(self) -> float:
        """Until when, in real monotonic seconds, a call may wait for room."""
        return real_monotonic() + self._config.delivery_timeout_ms / 1000

    def wait_for_room(self, size: int, queue: PartitionQueue, end: float) -> None:
        """Make room for a batch of `size` bytes: a full buffer ends every linger; then wait for whoever is writing.

        Raises DeliveryTimeoutError at `end`.
        """
        while True:
            gate = RawGate()
            self._rooms.append(gate)
            self._write_out(end)
            if self._has_room(size):
                return
            left = end - real_monotonic()
            if left <= 0:
                raise queue.expire(self._config.delivery_timeout_ms)
            if not gate.wait(min(left, look_again.turn_s)):
                self._recount()

    def _write_out(self, end: float) -> None:
        """Have everything written and synced that another thread is not at already, lingering or not."""
        for waiting in list(self.queues.values()):
            waiting.close_batch()
            waiting.drain()
            waiting.written.push(max(0.0, end - real_monotonic()))

    def _recount(self) -> None:
        """An interrupt between taking room and using it leaves room taken for nothing."""
        with inside(), self._lock:
            waiting = [batch for queue in self.queues.values() for batch in queue.batches()]
            self._buffered = sum(batch.reserved for batch in waiting if batch is not None)

    def forget_topics(self, known: Iterable[bytes]) -> None:
        """Drop the queues of topics that are not there any more, unless records wait in them."""
        ids = set(known)
        with inside(), self._lock:
            self._forget_but(ids)

    def _forget_but(self, known: set[bytes]) -> None:
        """A function of its own: from Python 3.12 on, a Ctrl-C where a loop in a `with` jumps back leaves it locked."""
        for place, queue in list(self.queues.items()):
            if place[0] in known or queue.closed is not None:
                continue
            # First said, then looked: whoever is to begin a batch either is seen holding the lock, or sees this.
            queue.closed = gone(queue.name)
            if queue.queue or queue.written.last() is not None or queue.draining.locked() or queue.lock.locked():
                queue.closed = None
            else:
                del self.queues[place]

    def _has_room(self, size: int) -> bool:
        return not self._buffered or self._buffered + size <= self._config.buffer_memory

    # -- linger --------------------------------------------------------------------------------------

    def arm(self, deadline_ms: int) -> None:
        """Have the scheduler come by when the first linger is over; one visit serves all open batches."""
        self._service.scheduler.at(deadline_ms, self.write_overdue)

    def write_overdue(self, now_ms: int) -> int | None:
        """Write the batches whose linger is over; when the next one's is (ms), or None."""
        due = [queue.due(now_ms) for queue in list(self.queues.values())]
        return min((deadline for deadline in due if deadline is not None), default=None)

    # -- ending --------------------------------------------------------------------------------------

    def flush(self, timeout: float | None) -> None:
        """Write everything accepted so far; RequestTimedOutError after `timeout` real seconds."""
        end = None if timeout is None else real_monotonic() + timeout
        first: Exception | None = None
        for queue in list(self.queues.values()):
            try:
                queue.finish_all(end)
                queue.drain()  # what an interrupt in a callback has left to be called
            except Exception as error:  # the others' records are not to wait for it
                first = first or error
        if first is not None:
            try:
                raise first
            finally:
                del first  # it refers to this frame

    def report(self) -> None:
        """Raise DeliveryError for the records that failed and that nobody asked about; once."""
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

    def close(self, timeout: float | None, error: StreamlogError) -> None:
        """Accept nothing more, from any thread, then flush."""
        with inside(), self._lock:
            self._closed = error
        for queue in list(self.queues.values()):
            queue.close(error)
        try:
            self.flush(timeout)
        finally:
            self._service.scheduler.cancel(self.write_overdue)

    def abandon(self) -> None:
        """In a forked child: forget everything, and refuse who still asks; the parent writes it."""
        for queue in list(self.queues.values()):
            queue.forked = True
        self.queues.clear()
