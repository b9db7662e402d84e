"""The records of one producer on their way into one partition: a queue of batches, and the thread that writes them.

A batch goes through three places: the last batch of `queue` may be open, the others wait to be written; the thread that
holds `draining` has what it writes in `inflight`; with `sync=True` a batch that is in the log waits in `unsynced` for its
sync. `draining` is free by then, so other records are appended meanwhile.

Two calls write. `drain` writes what is closed, and waits for no answer. `flush` has one batch written, lingering or not, and
waits until it is completed: in the log, and acknowledged as `acks` asks; `flush_all` does so for all of them.

Three locks. `lock` is a leaf: it is held while a batch is put at the end of the queue, and never during I/O. A record
joins the open batch without it (`Batch` says how). `draining` is held by the one thread that writes, and only that
thread takes batches out of the queue. A thread that finds it taken leaves its batches in the queue, and waits on a gate
of its own if it has to wait at all. The writer looks at the queue again after it released `draining`, so no batch stays
behind. (`Producer._send_now` writes a single record without a batch.) `_completing` is held while synced batches are
completed; the accumulator's lock nests in it.

A request that failed is sent again (`Retry`) where that leaves its records in the log once: after an error that says that
they are in no log that counts, because another broker leads the partition, or too few replicas are in sync. Nothing after
it is written before, so the order is kept. A batch that was in the log, and was removed before it was acknowledged (another
broker leads the partition now and does not have it), goes back to the head of the queue with those after it. What is written
while others wait to be acknowledged is appended in the leader epoch in which those were, or not at all: they may be lost with
their leader. So `acks="all"` keeps the order of a queue, whoever leads. Each batch fails with DeliveryTimeoutError when it,
or what is before it, was sent for `delivery_timeout_ms`.

The batches of an idempotent producer get `sequences` just before they are written: those that follow what is in the log. One
request of a queue is under way at a time. So a batch that was not appended leaves no gap, and one of which that is not known is
written again with the same sequences, which the log recognises.

With several brokers and `acks="all"`, `MOST_IN_FLIGHT` requests of a queue wait to be acknowledged at most, and the next one is
written when the first of them is. So a producer is no faster than the followers in sync: without that bound one that does not
wait got further ahead of them all the time, until they left the in-sync set, and a follower that came back never caught up.

An interrupt can come between any two steps. A batch leaves the queue only after it is done or in `unsynced`, and the log
says what became of an interrupted write, so records are neither lost nor written twice.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence

from ...broker.api import ProduceRequest, ProducerIdAndEpoch
from ...broker.metadata import TopicView
from ...errors import (
    OutOfOrderSequenceError,
    RequestTimedOutError,
    SerializationError,
    StreamlogError,
    forked,
)
from ...records.batch import LOG_APPEND_TIME, seed_of
from ...runtime.api import Completion
from ...runtime.disk_errors import ends_in
from ...runtime.threads import (
    RawGate,
    get_ident,
    inside,
    is_inside,
    longest_sleep,
    new_lock,
    real_monotonic,
    refuse_reentry,
    wait_for,
)
from ...runtime.values import refuse_to_copy
from ...types import TopicPartition
from .batch import Batch, Retry, Row
from .errors import IN_NO_LOG, RETRY_BACKOFF_MS, attempts, ended, not_delivered, not_in_time
from .owner import QueueOwner
from .sequences import Sequences
from .writer_turns import WriterTurns

logger = logging.getLogger("streamlog.client")

# How much one write takes at most: enough to make the call cheap, and little enough that others get their turn.
_WRITE_BYTES = 1 << 20
# What a batch takes of the buffer at first, and by which factor that grows until it is full. With whole batches reserved,
# a buffer of 32 MiB held one open batch for each of 2,000 partitions: the next record had all of them written, and a send
# to one of 3,000 topics took 70 µs instead of one. Where the last batch was filled the next one takes all of it, as long as
# the buffer has plenty: two steps for every batch were 3% of a send with a linger.
_FIRST_BYTES, _GROWTH = 1024, 4
# What a batch takes besides its records, roughly.
_BATCH_OVERHEAD = 128
_UNLIMITED = 1 << 62
# How many requests of a queue wait at most for the followers. Kafka's max.in.flight.requests.per.connection.
MOST_IN_FLIGHT = 5


class PartitionQueue:
    """The batches of one producer for one partition. Thread-safe."""

    __slots__ = ("__dict__", "batch_records", "queue")  # where the core in C finds them
    __reduce_ex__ = refuse_to_copy

    def __init__(self, owner: QueueOwner, topic: TopicView, partition: int, codec: int, linger_ms: int) -> None:
        self.owner = owner
        self.partition = partition
        self.at = topic.partition(partition)
        self.seed = seed_of(topic.id_bytes, partition)
        self.follow(topic, codec)
        self.linger_ms = linger_ms
        self.lock = new_lock()
        self.draining = new_lock()
        self._completing = new_lock()
        # All but the last are closed: a batch is added when the one before it is.
        self.queue: deque[Batch] = deque()
        self._turns = WriterTurns(self.draining, self.queue)
        self._fills = False  # the last batch was filled, and did not linger to its end
        self.inflight: tuple[list[Batch], ProduceRequest] | None = None
        self.retry: Retry | None = None
        self.sequences: Sequences | None = None
        if owner.producer is not None:
            self.sequences = Sequences(owner.producer, owner.service, transactional=owner.is_transactional)
        # Whether the partition is not in a transaction that is open: then its queue takes no record. Changed under `lock`.
        self.outside = owner.is_transactional
        # In the order in which they were written, and so synced. After an interrupt a batch may be in it twice.
        self.unsynced: deque[Batch] = deque()
        # The leader epoch in which the last of them was appended.
        self._leader_epoch = -1
        # What the last requests wait for, the oldest first.
        self._in_flight: deque[Completion[int]] = deque(maxlen=MOST_IN_FLIGHT)
        # The gates of the threads that wait for another thread to write their batch.
        self.waiters: deque[RawGate] = deque()
        # Set under `lock` when the producer closes: a closed queue has no open batch, and accepts none.
        self.closed: StreamlogError | None = None
        # In a forked child, which must not write the parent's records when it uses a Delivery.
        self.forked = False
        # Users' callbacks, called when no lock is held: they may send, flush, and wait.
        self.calls: deque[Callable[[], object]] = deque()
        self._callers: set[int] = set()

    def follow(self, topic: TopicView, codec: int) -> None:
        """Take the topic's settings from now on."""
        self.topic = topic
        self.codec = codec
        # A write is all or nothing, so it goes into one segment. A batch and a write are therefore no larger than a
        # segment: otherwise the segment, and with it the retention bound that it was derived from, would be as large as
        # the write. Half a segment leaves room for a batch's header and for the record that closes it.
        segment_bytes, records = topic.config.effective_segment_bytes, topic.config.effective_segment_records
        self.batch_size = min(self.owner.batch_size, max(1, segment_bytes // 2))
        self.batch_records = records if records > 0 else _UNLIMITED
        self.write_bytes = min(_WRITE_BYTES, segment_bytes)
        self.attributes = LOG_APPEND_TIME if topic.config.message_timestamp_type == "LogAppendTime" else 0
        # A record is written as it is: not compressed, with its own timestamp.
        self.plain = not codec and not self.attributes

    @property
    def name(self) -> TopicPartition:
        return TopicPartition(self.topic.name, self.partition)

    # -- accepting -----------------------------------------------------------------------------------

    @property
    def open(self) -> Batch | None:
        """The batch that a record may join."""
        try:
            batch = self.queue[-1]
        except IndexError:
            return None
        return None if batch.closed else batch

    def add(self, row: Row, size: int, reserved: int = 0) -> tuple[Batch, int] | None:
        """Put a record into the open batch, and close that when it is full; the batch, and the record's index in it.

        The index is 0 if it begins a new batch, which takes the `reserved` bytes of the producer's buffer, or some itself if
        none are. None if a new batch would not fit into the buffer, or the queue is `outside`. Raises ClosedError.
        """
        while True:
            batch = self.open
            if batch is None:
                with inside(), self.lock:
                    batch = self.open  # another thread may have been faster
                    if batch is None:
                        return self._begin(row, size, reserved)
            index = batch.join(row, size)
            if index >= 0:
                if batch.size >= batch.limit or index + 1 >= self.batch_records:
                    self.reached_limit(batch, index)
                return batch, index

    def reached_limit(self, batch: Batch, index: int) -> None:
        """Raise the limit of the batch, whose last record is the one at `index`; close it if it is full, or the buffer is."""
        full = batch.size >= self.batch_size or index + 1 >= self.batch_records
        if full or not self.owner.grow(batch, min(self.batch_size, max(_GROWTH * batch.limit, batch.size))):
            batch.closed = True
            self._fills = full

    def filled(self, batch: Batch, index: int) -> None:
        """A record has joined the batch at `index`, and that has reached a limit: write it if it is full."""
        self.reached_limit(batch, index)
        if batch.closed:
            self.drain(filled=True)

    def first_bytes(self, size: int) -> int:
        """What a batch takes of the buffer that begins with a record of `size` bytes."""
        if self._fills and self.owner.has_plenty:
            return max(self.batch_size, size)
        return max(min(_FIRST_BYTES, self.batch_size), size)

    def _begin(self, row: Row, size: int, reserved: int) -> tuple[Batch, int] | None:
        """`add`, to a new batch. REQUIRES: `lock`, and no open batch."""
        if self.closed is not None:
            raise self.closed.copy()
        if self.outside:
            return None
        if not reserved:
            reserved = self.first_bytes(size)
            if not self.owner.reserve(reserved):
                return None
        linger = self.linger_ms
        batch = Batch(self, self.owner.now_ms() + linger if linger else 0, not linger)
        batch.reserved = batch.limit = reserved
        batch.join(row, size)
        batch.closed = size >= self.batch_size or self.batch_records == 1
        if linger:  # before it is queued: after an interrupt no queued batch is without a deadline
            self.owner.arm(self, batch.deadline_ms)
        self.owner.note(self)
        self.queue.append(batch)  # not before it has a record: after an interrupt no batch is empty
        return batch, 0

    def put(self, batches: Sequence[Batch]) -> None:
        """Queue whole batches after everything sent before. Raises ClosedError, InvalidTxnStateError."""
        with inside(), self.lock:
            if self.closed is not None:
                raise self.closed.copy()
            if self.outside:
                raise ended()
            self.close_batch()
            self.owner.note(self)
            self.queue.extend(batches)

    def close_batch(self) -> None:
        """Have the open batch written as it is."""
        batch = self.open
        if batch is not None:
            batch.closed = True

    def close(self, error: StreamlogError) -> None:
        """Refuse records with `error` from now on; what was accepted can still be written."""
        with inside(), self.lock:
            self.close_batch()
            self.closed = error

    def enter_transaction(self, producer: ProducerIdAndEpoch) -> None:
        """The partition is in a transaction of this id and epoch: take records. May be done twice."""
        assert self.sequences is not None
        with inside(), self.draining:
            self.sequences.begin(producer)
        with inside(), self.lock:
            self.outside = False

    def leave_transaction(self) -> None:
        """Refuse records from now on; what was accepted can still be written."""
        with inside(), self.lock:
            self.close_batch()
            self.outside = True

    def fail_all(self, error: StreamlogError) -> None:
        """Fail what is not completed, and do not report it: its transaction is aborted. REQUIRES: it is `outside`."""
        with inside(), self.draining, self._completing:
            self._fail_all(error)
        self.call()

    def _fail_all(self, error: StreamlogError) -> None:
        inflight = [] if self.inflight is None else self.inflight[0]
        for batch in [*self.batches(), *inflight]:
            if not batch.done():
                batch.is_failed = True  # the accumulator neither logs nor keeps it
                batch.fail(error)
            self.owner.completed(batch)
        self.queue.clear()
        self.unsynced.clear()
        self.retry = self.inflight = None

    @property
    def is_idle(self) -> bool:
        """Nothing is queued or waits for its sync, and no thread is adding or writing."""
        # The locks first: a thread that is seen to hold none has put its batch where it is seen next.
        return not (self.lock.locked() or self.draining.locked() or self.queue or self.unsynced)

    @property
    def is_empty(self) -> bool:
        """Nothing is left to be written, synced or called. REQUIRES: `lock`."""
        return not (self.queue or self.unsynced or self.calls or self.inflight is not None)

    def batches(self) -> list[Batch]:
        """All batches that take a part of the buffer."""
        return [*self.queue.copy(), *self.unsynced.copy()]

    # -- writing -------------------------------------------------------------------------------------

    def drain(self, *, filled: bool = False) -> None:
        """Write the batches that are closed, or leave them to the thread that is writing already.

        `filled`: the thread has filled a batch. If the writer does not keep up, it then waits for its turn to write
        (`writer_turns`).

        Where it interrupts another call of this thread, they are written when the linger ends at the latest.
        """
        if is_inside():
            return
        while self._has_work():
            if filled and self._turns.are_due and self._turns.are_taken:
                if not self._turns.wait():
                    return
                filled = False
            elif self.draining.locked():
                return
            elif self._take_turn():
                break
        self.call()

    def _take_turn(self) -> bool:
        """Write until nothing is left, or another thread waits for its turn; whether that goes on. REQUIRES: no lock."""
        try:
            with inside(), self.draining:
                self._drain()
        finally:
            passed = self._turns.pass_on()
        return passed

    def _has_work(self) -> bool:
        try:
            first = self.queue[0]
        except IndexError:
            return self.inflight is not None or self._is_first_lost()
        if self.unsynced and self._is_first_lost():
            return True
        if self.retry is not None and self.retry.at_ms > self.owner.now_ms():
            return False
        if self.inflight is None and self._awaits_followers() is not None:
            return False
        return first.closed or first.urgent or self.inflight is not None

    def _awaits_followers(self) -> Completion[int] | None:
        """What has to be acknowledged before the next request is written; None if it may be written now."""
        in_flight = self._in_flight
        if len(in_flight) < MOST_IN_FLIGHT:
            return None
        try:
            first = in_flight[0]
        except IndexError:  # a batch was lost, and is written again first
            return None
        return None if first.done() else first

    def _drain(self) -> None:
        """REQUIRES: `draining`."""
        if self.inflight is not None:
            self._settle()
        if self.unsynced and self._is_first_lost():
            self._take_back()
        while batches := self._next_batches():
            self._write(batches)
            if self._turns.waiting:
                return

    def _next_batches(self) -> list[Batch]:
        """The batches that are written together: closed or urgent ones, no more than a segment holds."""
        if self.retry is not None:
            return self.retry.batches if self.retry.at_ms <= self.owner.now_ms() else []
        if self._awaits_followers() is not None:
            return []
        batches: list[Batch] = []
        size = records = 0
        for batch in self.queue.copy():  # in one step, which `list` is only with the interpreter's lock
            if not (batch.closed or batch.urgent):
                break
            if batch.sequenced is not None:  # some of those that were sent with it may be in the log
                return batches or [batch]
            if batches and batch.failures != batches[0].failures:  # they fail one after the other
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
        sealed = [batch.seal() for batch in batches]
        error: StreamlogError | None = None
        if self.sequences is not None:
            error = self.sequences.resolve(self.at, batches[0].sequenced)
            # A sequence in doubt may be that of another record, and would be kept as one that was sent.
            if error is None:
                sealed = self.sequences.stamp(sealed)
                for batch, stamped in zip(batches, sealed, strict=True):
                    batch.sequenced = stamped
        epoch = self._leader_epoch if self.unsynced else -1
        request = ProduceRequest(self.at, sealed, self.owner.acks, leader_epoch=epoch)
        self.inflight = (batches, request)
        # An exception, of a signal handler in the middle of it, is no answer: `_settle` asks the log.
        self._appended(batches, request, self.owner.produce(request) if error is None else Completion.failed(error))

    def _encodes(self, batch: Batch) -> bool:
        """Encode a batch. One that cannot be encoded, though its records were checked, fails alone.

        A signal handler, the program's own code, can run in here, and what it raises says nothing about the records. The
        batch stays queued then, and the next call encodes it.
        """
        try:
            batch.seal()
        except Exception as error:
            from_records = ends_in(error, "streamlog.records.") or ends_in(error, "msgpack")
            if not batch.disturbed and (isinstance(error, MemoryError) or not from_records):
                batch.disturbed = True  # once: an error that comes again is the records', and must not block the queue
                raise
            failed = SerializationError(
                f"{len(batch)} records for {self.topic.name}-{self.partition} could not be encoded: {error}. "
                f"Send them one by one to find the one at fault."
            )
            failed.__cause__ = error
            self._complete_all([batch], failed)
            return False
        return True

    def _appended(self, batches: list[Batch], request: ProduceRequest, done: Completion[int]) -> None:
        """The log has answered: complete the batches, or have them wait for their sync. REQUIRES: `draining`."""
        base_offset, is_done = request.base_offset, done.done()
        error = done.error() if is_done else None
        if base_offset >= 0:
            for batch in batches:
                batch.base_offset = base_offset
                base_offset += len(batch)
                if batch.sealed is not None and batch.sealed.attributes & LOG_APPEND_TIME:
                    batch.append_time = request.append_ms
        matters = self.sequences is not None or self.retry is not None or error is not None
        if matters and not self._goes_on(batches, error):
            self.inflight = None
        elif is_done or request.base_offset < 0:
            self._complete_all(batches, error)
        else:
            self._leader_epoch = request.leader_epoch
            self._await_sync(batches, done)

    def _goes_on(self, batches: list[Batch], error: BaseException | None) -> bool:
        """Note what an idempotent producer has in the log. False if the request is to be sent again.

        May be done twice with one answer, but for the count of failures. REQUIRES: `draining`.
        """
        sequences, last = self.sequences, batches[-1].sequenced
        # The sequence after them, if an attempt was appended, whatever the answer was.
        known = last.next_sequence if last is not None and batches[-1].base_offset >= 0 else -1
        if error is None and self.retry is None:
            if known >= 0 and sequences is not None:
                sequences.go_on_at(known)
            return True
        is_too_old = isinstance(error, OutOfOrderSequenceError) and known >= 0
        if isinstance(error, OutOfOrderSequenceError) and sequences is not None:
            sequences.in_doubt = True
            for batch in () if is_too_old else batches:  # in no log, so they may get other sequences
                batch.sequenced = None
        if not is_too_old and self._sends_again(batches[0], error):
            at_ms = self.owner.now_ms() + RETRY_BACKOFF_MS
            self.retry = Retry(batches, at_ms)
            for batch in self.queue.copy():
                batch.failures += attempts(error)
            self.owner.arm(self, at_ms)
            return False
        if known >= 0 and sequences is not None:
            sequences.go_on_at(known)
        self.retry = None
        return True

    def is_in_no_log(self, error: BaseException | None) -> bool:
        """Whether this error says of records that no log that counts has them, and another attempt may succeed."""
        if self.sequences is not None and isinstance(error, OutOfOrderSequenceError):  # what came before them was lost
            return True
        return self.owner.leaders_move and isinstance(error, IN_NO_LOG)

    def may_send_again(self, error: BaseException | None) -> bool:
        """Whether batches that are sent again after this error are in the log once."""
        return self.is_in_no_log(error) or (self.sequences is not None and isinstance(error, RequestTimedOutError))

    def _sends_again(self, batch: Batch, error: BaseException | None) -> bool:
        most = self.owner.delivery_timeout_ms // RETRY_BACKOFF_MS
        return error is not None and batch.failures + attempts(error) < most and self.may_send_again(error)

    def _complete_all(self, batches: list[Batch], error: BaseException | None) -> None:
        """Complete or fail batches, and take them out of the queue. REQUIRES: `draining`."""
        for batch in batches:
            self._complete(batch, error)
        self._drop_done()
        self.inflight = None

    def _complete(self, batch: Batch, error: BaseException | None) -> None:
        """May be done twice: an interrupt may have stopped the first one."""
        if error is not None:
            batch.fail(
                not_delivered(len(batch), self.name, self.owner.delivery_timeout_ms, error)
                if self.may_send_again(error)
                else error
            )
        else:
            batch.release_payload()
            batch.complete(batch.base_offset)
        self.owner.completed(batch)

    def _drop_done(self) -> None:
        """REQUIRES: `draining`."""
        while self.queue and self.queue[0].done():
            self.queue.popleft()

    def _settle(self) -> None:
        """An interrupt stopped a write: ask the log whether it was appended. REQUIRES: `draining`."""
        assert self.inflight is not None
        batches, request = self.inflight
        if any(batch.sealed is None for batch in batches):  # the log has answered: their payload was being released
            self._complete_all(batches, None)
            return
        left = [batch for batch in batches if not batch.done()]
        done = self.owner.settle(request) if left else None
        if done is not None:
            self._appended(batches, request, done)
            self._complete_synced()
            return
        # Together: it may be in the log all the same, if no broker leads just now, and the log recognises only its end.
        if left and (first := left[0].sequenced) is not None and self.sequences is not None:
            self.sequences.go_on_at(first.base_sequence)
            self.retry = Retry(left, 0)
        for batch in batches:
            if batch.done() and batch.reserved:
                self.owner.completed(batch)
        self._drop_done()
        self.inflight = None

    # -- syncs ---------------------------------------------------------------------------------------

    def _await_sync(self, batches: list[Batch], done: Completion[int]) -> None:
        """The batches are in the log and wait for their sync; the next ones can be written. REQUIRES: `draining`."""
        # `inflight` is reset last. An interrupt before that is settled, and all of this is done again; one after it, with
        # a step left, would leave batches for whose sync no thread is asked.
        for batch in batches:
            self.unsynced.append(batch)
            batch.awaits = done
        while self.queue and self.queue[0].awaits is not None:
            self.queue.popleft()
        if self.owner.leaders_move and self.owner.acks == "all":
            self._in_flight.append(done)
        done.on_done(self._on_synced)
        if done.work is not None and not all(batch.urgent for batch in batches):
            done.work.soon()
        while self.waiters:
            self.waiters.popleft().open()
        self.inflight = None

    def _on_synced(self, _: object) -> None:
        """On the thread that synced, which may hold locks of the broker's: users' callbacks are called later."""
        self._complete_synced()
        if self._is_first_lost() or self._was_held_back():
            self.owner.arm(self, self.owner.now_ms())
        if self.calls:
            self.owner.call_soon(self)

    def _was_held_back(self) -> bool:
        """Whether batches wait in the queue that may be written now. The thread that is writing looks again after it."""
        return bool(self._in_flight) and not self.draining.locked() and self._has_work()

    def _complete_synced(self) -> None:
        """Complete the batches whose sync is done. Any thread may do it, and again: an interrupt may have stopped another."""
        while self._is_first_synced():
            with inside(), self._completing:
                if self._is_first_synced():
                    batch = self.unsynced[0]
                    if batch.done() or batch.awaits is None:
                        self.owner.completed(batch)
                    else:
                        self._complete(batch, batch.awaits.error())
                    self.unsynced.popleft()

    def _is_first_synced(self) -> bool:
        try:
            first = self.unsynced[0]
        except IndexError:
            return False
        # An interrupted `_await_sync` that found it synced, when it was settled, has completed it itself.
        if first.done():
            return True
        done = first.awaits
        return done is not None and done.done() and not self._sends_again(first, done.error())

    def _is_first_lost(self) -> bool:
        """Whether the first batch that waits to be acknowledged is to be sent again."""
        try:
            first = self.unsynced[0]
        except IndexError:
            return False
        done = first.awaits
        return done is not None and not first.done() and self._sends_again(first, done.error())

    def _take_back(self) -> None:
        """Put the batches that wait to be acknowledged back to the head of the queue, the first of which is lost.

        Those after it were appended in the same leader epoch, so they are lost with it. Those of an idempotent producer may be
        acknowledged all the same: each is sent by itself, for the log recognises what it has, but not a request of which it
        has a part. An interrupt has all of this done again, as long as the first one is in
        `unsynced`. REQUIRES: `draining`.
        """
        at_ms = self.owner.now_ms() + RETRY_BACKOFF_MS
        with inside(), self._completing:
            self._queue_again(at_ms)
        self.owner.arm(self, at_ms)

    def _queue_again(self, at_ms: int) -> None:
        """REQUIRES: as `_take_back`, and `_completing`."""
        lost = [batch for batch in self.unsynced if not batch.done()]
        queued = set(map(id, self.queue.copy()))
        self.queue.extendleft(batch for batch in reversed(lost) if id(batch) not in queued)
        sealed, done = lost[0].sequenced, lost[0].awaits
        assert done is not None
        for batch in self.queue.copy():
            batch.failures += attempts(done.error())
        if sealed is not None and self.sequences is not None:
            self.sequences.go_on_at(sealed.base_sequence)
            self.sequences.in_doubt = True
        is_in_no_log = isinstance(done.error(), IN_NO_LOG)
        self.retry = Retry(lost[:1], at_ms)
        for batch in lost:
            if is_in_no_log:  # otherwise it may be in the log still
                batch.base_offset = -1
        for batch in lost[1:]:
            batch.awaits = None
        self._in_flight.clear()
        self.unsynced.clear()
        lost[0].awaits = None

    def sync(self, timeout: float) -> None:
        """Have the batches in the log synced: a sender waits for their part of the buffer."""
        try:
            done = self.unsynced[-1].awaits
        except IndexError:
            return
        if done is not None:
            wait_for(done, timeout)
        self._complete_synced()

    # -- waiting -------------------------------------------------------------------------------------

    def flush(self, batch: Batch, timeout: float | None, *, retries: bool = False) -> None:
        """Have `batch` written now, by this thread or the one that is writing, and wait until it is done.

        Raises RequestTimedOutError after `timeout` real seconds; with `retries`, not while it waits to be sent again, which
        has a bound of its own.
        """
        if self.forked:
            raise forked()
        refuse_reentry()
        end = None if timeout is None else real_monotonic() + timeout
        batch.urgent = True
        while not batch.done():
            retry = self.retry
            if retry is not None and retry.at_ms > self.owner.now_ms():
                self._await_retry(batch, retry, None if retries else end, timeout)
                continue
            done = self._awaited_by(batch)
            if done is None and not self._is_first_lost():
                done = self._awaits_followers()
            if done is None and not self.draining.locked():
                if not self._take_turn():
                    self.drain()
                continue
            left = None if end is None else end - real_monotonic()
            if left is not None and left <= 0:
                raise not_in_time(timeout)
            if done is not None:
                if wait_for(done, left):
                    self._complete_synced()
                continue
            gate = RawGate()
            batch.on_done(gate.open)
            self.waiters.append(gate)
            if self._awaited_by(batch) is None:
                # An interrupted writer may have left the queue without looking at it again.
                gate.wait(longest_sleep.turn_s if left is None else min(left, longest_sleep.turn_s))
            with contextlib.suppress(ValueError):  # the writer has taken it out
                self.waiters.remove(gate)
        self.call()

    def _awaited_by(self, batch: Batch) -> Completion[int] | None:
        """What a batch waits for to be acknowledged; None if it is to be written, now or again.

        A lost batch is sent again after the first of those that wait, so it waits for that one.
        """
        done = batch.awaits
        if done is None or not self._sends_again(batch, done.error()):
            return done
        try:
            first = self.unsynced[0]
        except IndexError:
            return None
        awaited = first.awaits
        return None if awaited is None or self._sends_again(first, awaited.error()) else awaited

    def _await_retry(self, batch: Batch, retry: Retry, end: float | None, timeout: float | None) -> None:
        """Wait in real time for a request to be sent again, which the log's clock may not come to: a caller waits for it.

        Raises RequestTimedOutError at `end`.
        """
        left = None if end is None else end - real_monotonic()
        if left is not None and left <= 0:
            raise not_in_time(timeout)
        backoff = RETRY_BACKOFF_MS / 1000
        gate = RawGate()
        batch.on_done(gate.open)
        if gate.wait(backoff if left is None else min(left, backoff)) or self.draining.locked():
            return
        with inside(), self.draining:
            if self.retry is retry and (left is None or left > backoff):
                self.retry = retry._replace(at_ms=0)

    def flush_all(self, end: float | None) -> None:
        """Write everything queued so far and wait for it; `end` is in real monotonic seconds.

        Raises RequestTimedOutError.
        """
        self.close_batch()
        last = self._last()
        if last is None:
            if self.inflight is not None:
                self.drain()
            return
        self.flush(last, None if end is None else max(0.0, end - real_monotonic()))
        self._complete_synced()  # another thread may be completing those before it
        try:
            late = self.unsynced[-1]
        except IndexError:
            return
        # The last one failed, and those before it still wait for their sync.
        self.flush(late, None if end is None else max(0.0, end - real_monotonic()))

    def _last(self) -> Batch | None:
        """The batch that was queued last, or else the one that was written last."""
        for batches in (self.queue, self.unsynced):
            try:
                return batches[-1]
            except IndexError:
                continue
        return None

    def write_due(self, now_ms: int) -> int | None:
        """Background work: write the open batch if its linger is over, and what an interrupted call left.

        Returns when the linger of the open batch is over (ms), or None.
        """
        with inside(), self.lock:
            batch = self.open
        if batch is not None and batch.deadline_ms <= now_ms:
            batch.closed, self._fills = True, False
        self.drain()
        batch, retry = self.open, self.retry
        if retry is not None and retry.at_ms > now_ms:
            return retry.at_ms
        return None if batch is None else batch.deadline_ms

    # -- users' callbacks ----------------------------------------------------------------------------

    def call(self) -> None:
        """Call the users' callbacks that are due. REQUIRES: no lock.

        A callback that sends or flushes comes here again. The outer loop goes on with the others then, so the stack does
        not grow.
        """
        me = get_ident()
        if not self.calls or me in self._callers:
            return
        try:
            self._callers.add(me)
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
            self._callers.discard(me)

    def call_later(self, now_ms: int) -> None:
        """`call`, as background work."""
        self.call()
