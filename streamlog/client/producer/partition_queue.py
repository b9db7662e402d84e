"""Records on their way into one partition: a queue of batches, of which the last may be open, and who writes them.

Two locks. `lock` is a leaf: it is held for the nanoseconds in which a batch is put at the end of the
queue, and never during I/O; a record joins the open batch without it (`Batch` says how). `draining` is
held by the one thread that writes, which alone takes batches out. Who finds it taken leaves its batches
in the queue and waits, if at all, on a gate of its own; the writer looks at the queue again after it let
go, so nothing is left behind. (A single record without a linger is the exception: `Producer._send_now`.)

With `sync=True` a batch that is in the log still waits for its sync. It has left `queue` for `written` by
then, and `draining` is free: others' records are appended while it waits.

An interrupt can come between any two steps. A batch leaves the queue only after it is done, and what
became of an interrupted write is asked of the log, so records are neither lost nor written twice.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from ...broker.metadata import TopicView
from ...errors import (
    DeliveryTimeoutError,
    ReentrantCallError,
    RequestTimedOutError,
    SerializationError,
    StreamlogError,
    forked,
)
from ...records.batch import LOG_APPEND_TIME
from ...runtime.api import Completion
from ...runtime.disk_errors import ends_in
from ...runtime.threads import (
    RawGate,
    get_ident,
    inside,
    is_inside,
    look_again,
    new_lock,
    real_monotonic,
    refuse_reentry,
    wait_for,
)
from ...runtime.values import refuse_to_copy
from ...storage.log import AppendRequest
from ...types import TopicPartition
from .batch import Batch, Row
from .written import Written

logger = logging.getLogger("streamlog.client")

# What a record takes beside its key and value, roughly; only used to decide when a batch is full.
RECORD_OVERHEAD = 8
# How much one write takes at most: enough to make the call cheap, little enough to let others in.
_WRITE_BYTES = 1 << 20
# What a batch takes beside its records, roughly.
_BATCH_OVERHEAD = 128
_MANY = 1 << 62


class Owner(Protocol):
    """What a queue needs of its producer."""

    batch_size: int
    codec: int

    def append(self, queue: PartitionQueue, write: AppendRequest) -> Completion[int]: ...
    def settle(self, queue: PartitionQueue, write: AppendRequest) -> Completion[int] | None: ...
    def call_soon(self, queue: PartitionQueue) -> None: ...
    def reserve(self, size: int) -> bool: ...
    def arm(self, deadline_ms: int) -> None: ...
    def finished(self, batch: Batch) -> None: ...
    def observed(self, batch: Batch) -> None: ...
    def now_ms(self) -> int: ...


def attributes_of(topic: TopicView) -> int:
    """The attributes that the topic's settings give every batch."""
    return LOG_APPEND_TIME if topic.config.message_timestamp_type == "LogAppendTime" else 0


def not_in_time(timeout: float | None) -> RequestTimedOutError:
    return RequestTimedOutError(
        f"The record was not written within {timeout} s. It is still on its way: ask again, or flush() with a longer "
        f"timeout."
    )


class PartitionQueue:
    """The way of one producer's records into one partition. Thread-safe."""

    __reduce_ex__ = refuse_to_copy

    def __init__(self, owner: Owner, topic: TopicView, partition: int, codec: int, linger_ms: int) -> None:
        self.owner = owner
        self.partition = partition
        self.seed = topic.seeds[partition]
        self.follow(topic, codec)
        self.linger_ms = linger_ms
        self.max_size = 0
        self.lock = new_lock()
        self.draining = new_lock()
        # All but the last are closed: a batch is added when the one before it is.
        self.queue: deque[Batch] = deque()
        self.inflight: tuple[list[Batch], AppendRequest] | None = None
        self.written = Written(self._conclude)
        # Gates of those who wait for another thread to write their batch.
        self.waiters: deque[Callable[[], object]] = deque()
        # Set under `lock` when the producer closes: a closed queue has no open batch, and takes none.
        self.closed: StreamlogError | None = None
        # In a forked child: what a Delivery is asked there must not make it write the parent's records.
        self.forked = False
        # Users' callbacks, called when no lock is held: they may send, flush, and wait.
        self.calls: deque[Callable[[], object]] = deque()
        self.callers: set[int] = set()

    def follow(self, topic: TopicView, codec: int) -> None:
        """Take the topic's settings from now on."""
        self.topic = topic
        self.codec = codec
        # A write is all or nothing, so it goes into one segment. A batch and a write are therefore no larger than a
        # segment: else the segment, and with it the retention bound that it was derived from, would be as large as
        # the write. Half a segment leaves room for a batch's header and for the record that closes it.
        segment_bytes, records = topic.config.effective_segment_bytes, topic.config.effective_segment_records
        self.batch_size = min(self.owner.batch_size, max(1, segment_bytes // 2))
        self.batch_records = records if records > 0 else _MANY
        self.write_bytes = min(_WRITE_BYTES, segment_bytes)
        self.attributes = attributes_of(topic)
        # Whether a record is written as it is: not compressed, with its own timestamp.
        self.plain = not codec and not self.attributes

    @property
    def name(self) -> TopicPartition:
        return TopicPartition(self.topic.name, self.partition)

    @property
    def open(self) -> Batch | None:
        """The batch that a record may join."""
        try:
            batch = self.queue[-1]
        except IndexError:
            return None
        return None if batch.closed else batch

    def add(self, row: Row, size: int) -> tuple[Batch, int] | None:
        """Put a record into the open batch: the batch, and the record's index in it. Closes a full one.

        None if a new batch would not fit into the producer's buffer.
        """
        while True:
            batch = self.open
            if batch is None:
                with inside(), self.lock:
                    batch = self.open  # another thread may have been faster
                    if batch is None:
                        return self._begin(row, size)
            index = batch.join(row, size)
            if index >= 0:
                if batch.size >= self.batch_size or index + 1 >= self.batch_records:
                    batch.closed = True
                return batch, index

    def _begin(self, row: Row, size: int) -> tuple[Batch, int] | None:
        """`add`, to a new batch. REQUIRES: `lock`, and no open batch."""
        if self.closed is not None:
            raise self.closed.copy()
        room = max(self.batch_size, size)
        if not self.owner.reserve(room):
            return None
        linger = self.linger_ms
        batch = Batch(self, self.owner.now_ms() + linger if linger else 0, not linger)
        batch.reserved = room
        batch.join(row, size)
        batch.closed = size >= self.batch_size or self.batch_records == 1
        if (
            linger
        ):  # before it is queued: an interrupt must not leave it to itself. Who comes by meanwhile waits in `due`
            self.owner.arm(batch.deadline_ms)
        self.queue.append(batch)  # not before it has a record: an interrupt must not leave an empty one
        return batch, 0

    def put(self, batches: Sequence[Batch]) -> None:
        """Queue whole batches behind everything sent before."""
        with inside(), self.lock:
            if self.closed is not None:
                raise self.closed.copy()
            self.close_batch()
            self.queue.extend(batches)

    def close_batch(self) -> None:
        """Have the open batch written as it is."""
        batch = self.open
        if batch is not None:
            batch.closed = True

    def close(self, error: StreamlogError) -> None:
        """Accept nothing from now on; what was accepted can still be written."""
        with inside(), self.lock:
            self.close_batch()
            self.closed = error

    # -- writing -------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Write what is sealed, or leave it to the thread that is writing already.

        Where it would be in the middle of another call of this thread, to the end of the linger at the latest.
        """
        if is_inside():
            return
        while self._has_work():
            if self.draining.locked():
                return
            with inside(), self.draining:
                self._drain()
        self.call()

    def call(self) -> None:
        """Call what users asked to be called. REQUIRES: no lock.

        One that sends or flushes comes by here again: the outer loop goes on with the others, or the stack would not do.
        """
        me = get_ident()
        if not self.calls or me in self.callers:
            return
        try:
            self.callers.add(me)
            while self.calls:
                try:
                    call = self.calls.popleft()
                except IndexError:  # another thread took the last one
                    return
                call()
        except BaseException:  # an interrupt in one of them: the others are called all the same
            if self.calls:
                self.owner.call_soon(self)
            raise
        finally:
            self.callers.discard(me)

    def call_later(self, now_ms: int) -> None:
        """`call`, as background work."""
        self.call()

    def _has_work(self) -> bool:
        try:
            first = self.queue[0]
        except IndexError:
            return self.inflight is not None
        return first.closed or first.urgent or self.inflight is not None

    def _drain(self) -> None:
        """REQUIRES: `draining`."""
        if self.inflight is not None:
            self._settle()
        while batches := self._next_batches():
            self._write(batches)

    def _next_batches(self) -> list[Batch]:
        """What may be written together: batches that are closed, or urgent; no more than a segment holds."""
        batches: list[Batch] = []
        size = records = 0
        for batch in list(self.queue):
            if not (batch.closed or batch.urgent):
                break
            size += batch.size + _BATCH_OVERHEAD
            records += len(batch)
            if batches and (size > self.write_bytes or records > self.batch_records):
                break
            batches.append(batch)
        return batches

    def _write(self, batches: list[Batch]) -> None:
        batches = [batch for batch in batches if self._encodes(batch)]
        if not batches:
            return
        try:
            write = AppendRequest([batch.seal() for batch in batches])
            self.inflight = (batches, write)
            done = self.owner.append(self, write)
        except ReentrantCallError:  # of a signal handler in the middle of it, and no answer: `_settle` finds out
            raise
        except StreamlogError as error:
            self._finish(batches, error, None)
            return
        if done.done():
            self._finish(batches, done.error(), write)
        else:
            self._await(batches, write, done)

    def _await(self, batches: list[Batch], write: AppendRequest, done: Completion[int]) -> None:
        """The batches are in the log and wait for a sync: make room for the next ones. REQUIRES: `draining`."""
        self.written.add(batches, write, done)
        for batch in batches:
            batch.parked = done
        while self.queue and self.queue[0].parked is not None:
            self.queue.popleft()
        self.inflight = None
        done.on_done(self._on_synced)
        if not all(batch.urgent for batch in batches):
            done.unattended()
        while self.waiters:
            self.waiters.popleft()()

    def _on_synced(self, _: object) -> None:
        """On whatever thread synced, and maybe under locks of the broker's, so users' callbacks have to wait."""
        self.written.collect()
        if self.calls:
            self.owner.call_soon(self)

    def _encodes(self, batch: Batch) -> bool:
        """Encode a batch. One that cannot be, though its records were checked, fails alone and blocks nobody.

        Code of the program's own can run in here, a signal handler; what that raises is no fault of the records. The
        batch stays where it is then, and is encoded by whoever comes next.
        """
        try:
            batch.seal()
        except Exception as error:
            if not batch.disturbed and (isinstance(error, MemoryError) or not ends_in(error, "streamlog.records.")):
                batch.disturbed = True  # once: what comes again is in the records themselves, and must block nobody
                raise
            failed = SerializationError(
                f"{len(batch)} records for {self.topic.name}-{self.partition} could not be encoded: {error}. "
                f"Send them one by one to find the one at fault."
            )
            failed.__cause__ = error
            self._finish([batch], failed, None)
            return False
        return True

    def _finish(self, batches: list[Batch], error: BaseException | None, write: AppendRequest | None) -> None:
        """REQUIRES: `draining`."""
        self._conclude(batches, error, write)
        self._forget_done()
        self.inflight = None

    def _conclude(self, batches: list[Batch], error: BaseException | None, write: AppendRequest | None) -> None:
        base_offset = -1 if write is None else write.base_offset
        for batch in batches:
            if write is not None and batch.sealed is not None and batch.sealed.attributes & LOG_APPEND_TIME:
                batch.append_time = write.append_ms
            if error is not None:
                batch.fail(error)
            else:
                count = len(batch)
                batch.release_payload()
                batch.complete(base_offset)
                base_offset += count
            self.owner.finished(batch)

    def _forget_done(self) -> None:
        """REQUIRES: `draining`."""
        while self.queue and self.queue[0].done():
            self.queue.popleft()

    def _settle(self) -> None:
        """An interrupt cut a write short: ask the log what became of it."""
        assert self.inflight is not None
        batches, write = self.inflight
        if not all(batch.done() for batch in batches):
            done = self.owner.settle(self, write)
            if done is not None and not done.done():
                self._await(batches, write, done)
                return
            if done is not None:
                self._finish(batches, done.error(), write)
        for batch in batches:
            if batch.done() and batch.reserved:
                self.owner.finished(batch)
        self._forget_done()
        self.inflight = None

    # -- waiting -------------------------------------------------------------------------------------

    def finish(self, batch: Batch, timeout: float | None) -> None:
        """Have `batch` written now, by this thread or the one that is at it, and wait until it is.

        Raises RequestTimedOutError after `timeout` real seconds.
        """
        if self.forked:
            raise forked()
        refuse_reentry()
        end = None if timeout is None else real_monotonic() + timeout
        batch.urgent = True
        while not batch.done():
            parked = batch.parked
            if parked is None and not self.draining.locked():
                with inside(), self.draining:
                    self._drain()
                self.drain()
                continue
            left = None if end is None else end - real_monotonic()
            if left is not None and left <= 0:
                raise not_in_time(timeout)
            if parked is not None:
                if wait_for(parked, left):
                    self.written.collect()
                continue
            gate = RawGate()
            batch.on_done(gate.open)
            self.waiters.append(gate.open)
            if batch.parked is None:
                # An interrupted writer may have left the queue without looking at it again.
                gate.wait(look_again.turn_s if left is None else min(left, look_again.turn_s))
        self.call()

    def finish_all(self, end: float | None) -> None:
        """Write everything queued so far; `end` is in real monotonic seconds."""
        self.close_batch()
        try:
            last: Batch | None = self.queue[-1]
        except IndexError:
            last = self.written.last()
        if last is None:
            if self.inflight is not None:
                self.drain()
            return
        self.finish(last, None if end is None else max(0.0, end - real_monotonic()))
        self.written.collect()  # another thread may be at those before it
        late = self.written.last()
        if late is not None:  # the last one failed, and those before it still wait for their sync
            self.finish(late, None if end is None else max(0.0, end - real_monotonic()))

    def batches(self) -> list[Batch]:
        """All that take room."""
        return [*self.queue, *self.written.batches()]

    def due(self, now_ms: int) -> int | None:
        """Write the open batch if its linger is over, and what an interrupted sender left; when it will be (ms), or None."""
        with inside(), self.lock:
            batch = self.open
        if batch is not None and batch.deadline_ms <= now_ms:
            batch.closed = True
        self.drain()
        batch = self.open
        return None if batch is None else batch.deadline_ms

    def expire(self, delivery_timeout_ms: int) -> DeliveryTimeoutError:
        return DeliveryTimeoutError(
            f"The buffer stayed full for {delivery_timeout_ms} ms (delivery_timeout_ms): "
            f"{self.topic.name}-{self.partition} accepts nothing. The record was not taken. Look at the disk, or raise buffer_memory."
        )
