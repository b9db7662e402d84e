"""Appending to partitions: the calls of the Service protocol that producers make, to a log that this process owns."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

from ..errors import NotLeaderError, StreamlogError
from ..records.batch import TRANSACTIONAL
from ..records.single import SequencedFields
from ..replication.errors import fenced_is_closed
from ..replication.partition import Partition
from ..replication.transactions import TransactionMarker
from ..runtime.api import Completion
from ..runtime.threads import inside, was_released_meanwhile
from ..runtime.values import refuse_to_copy
from ..storage.producer_state import ProducerStateEntry
from ..types import Clock, TopicPartition
from . import controller
from .api import ProduceRequest, ProducerState
from .broker_changes import BrokerChanges
from .brokers import DISK_ERRORS, Brokers
from .metadata import TopicIdPartition
from .real_timers import RealTimers
from .topics import Topics

T = TypeVar("T")

_FAILURES = (StreamlogError, RuntimeError)
"""What an append raises. RuntimeError comes from the partition's lock: the disk answered after `DiskWatch` had released the lock,
whose thread was in a call that did not come back. See `fenced_is_closed`; any other RuntimeError is raised."""


class PartitionAppends:
    """Thread-safe.

    `resolve_refused` tries to remove what partitions refuse records for, and returns whether it has: an append that was refused
    is tried once more then. `verify` raises if the coordinator has no open transaction for a batch of one. An append that
    failed with the disk of its leader is reported to `changes`.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(
        self,
        topics: Topics,
        brokers: Brokers,
        changes: BrokerChanges,
        clock: Clock,
        timers: RealTimers,
        resolve_refused: Callable[[], bool],
        verify: Callable[[int, int, TopicPartition], None],
    ) -> None:
        self._topics = topics
        self._brokers = brokers
        self._partitions = brokers.leaders
        self._changes = changes
        self._clock = clock
        self._timers = timers
        self._resolve_refused = resolve_refused
        self._verify = verify

    def produce(self, request: ProduceRequest) -> Completion[int]:
        now_ms, write = self._clock.time_ms(), request.append
        here = self._find(request.partition)
        write.batches = here.validator.validated(write.batches, now_ms)
        first = write.batches[0]
        if first.attributes & TRANSACTIONAL and not here.log.producers.go_on(write.batches, here.reader.tail):
            self._verify(first.producer_id, first.producer_epoch, here.name)
        if request.acks == "all" and here.replicas is not None:
            here.require_in_sync()

        def append(here: Partition) -> Partition:
            here.append(write, now_ms)
            return here

        return self._acknowledged(self._retried(here, request.partition, append), request)

    def produce_one(
        self, partition: TopicIdPartition, key: bytes | None, value: bytes, timestamp: int, now_ms: int,
        sequenced: SequencedFields | None = None,
    ) -> int:  # fmt: skip
        topic, number, topic_id = partition
        here = self._partitions.get((topic, number))
        if here is None or here.topic_id != topic_id:
            here = self._find(partition)
        rules = here.validator
        if (rules.keyless_bytes if key is None else len(key)) + len(
            value
        ) > rules.max_bytes or not 0 <= timestamp <= now_ms + rules.after_max_ms:
            rules.check_one(key, value, timestamp, now_ms)
        if sequenced is not None and sequenced[3] and not here.log.producers.is_next(sequenced):
            self._verify(sequenced[0], sequenced[1], here.name)
        try:  # as `_retried`, written out: it is part of each send
            return here.append_one(key, value, timestamp, now_ms, sequenced)
        except _FAILURES as error:
            retry_at = self._to_retry_at(here, partition, error)
            if retry_at is None:
                raise
            here = retry_at
        with self._reporting(here):
            return here.append_one(key, value, timestamp, now_ms, sequenced)

    def produce_one_later(
        self, partition: TopicIdPartition, key: bytes | None, value: bytes, timestamp: int, now_ms: int,
        sequenced: SequencedFields | None = None,
    ) -> Completion[int]:  # fmt: skip
        here = self._find(partition)
        here.validator.check_one(key, value, timestamp, now_ms)
        if sequenced is not None and sequenced[3] and not here.log.producers.is_next(sequenced):
            self._verify(sequenced[0], sequenced[1], here.name)
        if here.replicas is not None:
            here.require_in_sync()
        return self._retried(
            here, partition, lambda here: here.append_one_later(key, value, timestamp, now_ms, sequenced)
        )

    def append_marker(self, name: TopicPartition, marker: TransactionMarker, deadline_ms: int) -> Completion[int]:
        """End the transaction of a producer in one partition; see `replication/transactions.py`."""
        here = self._topics.partition(name)
        self._resolve_refused()
        try:
            return self._brokers.append_as_coordinator(
                here,
                lambda: here.append_marker(marker, self._clock.time_ms(), deadline_ms),
            )
        except StreamlogError as error:
            self._report(here, error)
            raise

    def settle(self, request: ProduceRequest) -> Completion[int] | None:
        topic, number, topic_id = request.partition
        here = self._partitions.get((topic, number)) or self._brokers.leadership.offline_leaders.get((topic, number))
        if here is None or here.topic_id != topic_id:
            return None
        try:
            here.settle(request.append)
        except RuntimeError as error:
            if not (here.is_fenced and was_released_meanwhile(error)):
                raise
            here.settle(request.append)  # it is closed, and has another lock
        return self._acknowledged(here, request) if request.base_offset >= 0 else None

    def producer_state(self, partition: TopicIdPartition, producer_id: int) -> ProducerState | None:
        here = self._find(partition)
        with self._reporting(here):
            known = _producer_state(here, producer_id, self._clock.time_ms())
        if known is None:
            return None
        return ProducerState(producer_id, known.epoch, known.batches[-1].last_sequence if known.batches else -1)

    def _find(self, at: TopicIdPartition) -> Partition:
        """The partition of this very topic, not of another under its name. Raises UnknownTopicOrPartitionError, ClosedError."""
        topic, number, topic_id = at
        here = self._partitions.get((topic, number))
        if here is not None and here.topic_id == topic_id:
            return here
        if self._topics.closed is not None:
            raise self._topics.closed.copy()
        view = self._topics.image.topics.get(topic)
        if view is None or view.id_bytes != topic_id or number >= view.partitions:
            raise controller.unknown_partition(TopicPartition(topic, number))
        raise controller.no_leader(self._topics.image, TopicPartition(topic, number))

    def _acknowledged(self, here: Partition, request: ProduceRequest) -> Completion[int]:
        """REQUIRES: the request is in the log."""
        request.log_start_offset = here.reader.tail.start_offset
        timeout_ms = request.timeout_ms
        deadline_ms = None if timeout_ms is None else self._timers.now_ms() + timeout_ms
        done = here.acknowledge(request.append, deadline_ms)
        if request.acks == 0 and not done.done():  # readers see it only after its sync, which no caller waits for
            if done.work is not None:
                done.work.soon()
            return Completion.of(request.base_offset)
        if request.acks == 1 and here.replicas is not None:
            return here.acknowledge_alone(request.append, done)
        return done

    def _retried(self, here: Partition, at: TopicIdPartition, append: Callable[[Partition], T]) -> T:
        """What `append` returns, tried once more if what the partition refused it for is gone."""
        try:
            return append(here)
        except _FAILURES as error:
            retry_at = self._to_retry_at(here, at, error)
            if retry_at is None:
                raise
        with self._reporting(retry_at):
            return append(retry_at)

    def _to_retry_at(
        self, here: Partition, at: TopicIdPartition, error: StreamlogError | RuntimeError
    ) -> Partition | None:
        """An append has failed: the replica to try once more at, if nothing forbids it now; None if the caller is to raise `error`.

        Not raised here: it would refer to this frame, which refers to it. Raises what a retry may follow, instead of the error: that
        the replica was fenced, or that another one is about to lead.
        """
        if not isinstance(error, StreamlogError):
            if here.is_fenced and here.closed is not None and was_released_meanwhile(error):
                raise here.closed.copy() from error
            return None
        if self._resolve_refused():
            return self._find(at)
        self._report(here, error)
        return None

    @contextlib.contextmanager
    def _reporting(self, here: Partition) -> Iterator[None]:
        try:
            with fenced_is_closed(here):
                yield
        except StreamlogError as error:
            self._report(here, error)
            raise

    def _report(self, here: Partition, error: StreamlogError) -> None:
        """An append has failed: if the disk has, and another replica can lead, or does, raise NotLeaderError, which can be retried.

        While a change of topics cannot be undone, it is the disk of the controller that has failed: see `metadata_log`.
        """
        if not self._brokers.is_replicated or not isinstance(error, DISK_ERRORS):
            return
        if self._topics.is_blocking:
            if not self._changes.can_replace(self._brokers.controller, error):
                return
            raise NotLeaderError(
                f"{here.name.topic}-{here.name.partition} takes no records: {error} Another broker is about to take over the "
                f"metadata; try again."
            ) from error
        broker = self._brokers.of(here)
        if broker is not None and self._partitions.get(here.name) is here:
            if not here.has_successors or not self._changes.can_replace(broker, error):
                return
            self._changes.report_failure(broker, error)
        raise NotLeaderError(
            f"Broker {here.broker_id}, which led {here.name.topic}-{here.name.partition}, has failed ({error}). Another one is "
            f"about to lead it; try again."
        ) from error


def _producer_state(here: Partition, producer_id: int, now_ms: int) -> ProducerStateEntry | None:
    """Raises NotLeaderError: only the leader's log says what was appended."""
    with inside(), here.lock:
        refusal = here.closed or here.log.refusals.not_leader
        if refusal is not None:
            raise refusal.copy()
        return here.log.producer_state(producer_id, now_ms)
