"""The coordinator of transactions: requests of producers, the markers of what was decided, and timeouts.

Its internal topic `__transaction_state` is created with the first transactional id, so a log without transactions has none. The hash
of the id says which partition, and so which shard, has it, as in Kafka.

How a transaction ends. The records of the transaction are replicated, and under `sync=True` on the device; then the Prepare
record is appended, and once it counts as written the outcome is fixed. A marker is appended to each partition, at its leader; where
there is none it is tried again after a pause, or when the metadata changes. Then comes the answer. The Complete record is written
by the next `step`, or at close, unless the next transaction of the id has begun, whose record replaces it.
These are the steps of one generator (`Steps`), without a lock between them. Whatever ends it early, an interrupt or
the end of the process, `step` finds the Prepare record and goes through the same steps: a marker that is written twice is harmless.

`step` also aborts what is open for too long, by the monotonic clock. It is due before the record that it may be needed for is
written, so no interrupt loses it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from math import ceil
from typing import Any, Protocol, TypeVar

from ..coordinator import transaction
from ..coordinator.transaction import DEFAULT_TIMEOUT_MS, ProducerIdAndEpoch, TransactionMetadata
from ..coordinator.transaction_shard import TransactionShard
from ..errors import (
    ConcurrentTransactionsError,
    InvalidTxnStateError,
    ProducerFencedError,
    StreamlogError,
    UnknownTopicOrPartitionError,
)
from ..replication.partition import Partition
from ..replication.transactions import TransactionMarker
from ..runtime.api import AllDone, Completion, Gate, Lock, Task, Timers, failing
from ..runtime.threads import refuse_reentry
from ..runtime.values import refuse_to_copy
from ..types import Clock, OffsetAndMetadata, TopicPartition
from . import controller
from .api import TransactionDescription
from .coordinator_log import COMMIT_TIMEOUT_MS, AppendAsCoordinator
from .coordinator_shard import CoordinatorShard
from .group_coordinator import GroupCoordinator, partition_for
from .lost_transactions import end_unknown, open_in
from .metadata import Image
from .monotonic_timers import MonotonicTimers
from .real_timers import RealTimers
from .scheduler import RETRY_MS
from .steps import Steps

T = TypeVar("T")
Waiting = Generator[Completion[Any], Any, T]
Shard = CoordinatorShard[TransactionShard]
logger = logging.getLogger("streamlog.broker")

EXPIRY_INTERVAL_MS = 3_600_000
"""How often transactional ids are looked for that made no transaction for a week."""


class Host(Protocol):
    """What transactions need of the broker they live in."""

    clock: Clock
    acknowledges_later: bool

    @property
    def closed(self) -> StreamlogError | None:
        """Why every call is refused, once the log is closed."""

    @property
    def image(self) -> Image: ...
    @property
    def incarnation(self) -> str: ...
    @property
    def timers(self) -> Timers: ...
    @property
    def real_timers(self) -> RealTimers: ...
    @property
    def monotonic_timers(self) -> MonotonicTimers | RealTimers:
        """Timers that no jump of the wall clock touches."""

    def transactions_partition(self, number: int, create: bool) -> Partition | None:
        """The leader's replica of a partition of the transactions' topic; None if there is no such topic, and it is not created."""

    @property
    def append_as_coordinator(self) -> AppendAsCoordinator: ...
    def real_seconds(self) -> float: ...
    @property
    def groups(self) -> GroupCoordinator: ...
    def groups_partition(self, number: int, create: bool) -> Partition | None: ...
    def leader(self, name: TopicPartition) -> Partition: ...
    def append_marker(self, name: TopicPartition, marker: TransactionMarker, deadline_ms: int) -> Completion[Any]: ...


class _NoSpareId(StreamlogError):
    """A shard needs a producer id, and another request took the one that was there."""


class _Pause(Completion[None]):
    """A pause before another attempt, which `step` ends. So does a thread that blocks on it, when `now_ms` (real time) is `end_ms`:
    under a `ManualClock` that thread may be the one that would move the clock."""

    __slots__ = ("_end_ms", "_now_ms", "work")

    def __init__(self, now_ms: Callable[[], int]) -> None:
        super().__init__()
        self.work = self
        self._now_ms = now_ms
        self._end_ms = now_ms() + RETRY_MS

    def drive(self) -> bool:
        if self._now_ms() < self._end_ms:
            return False
        self.complete(None)
        return True

    def on_turn(self, gate: Gate) -> None:
        """The thread looks again before long."""

    def soon(self) -> None:
        """`step` ends it."""


class TransactionCoordinator:
    """All transactional ids of a log. Thread-safe."""

    __reduce_ex__ = refuse_to_copy

    def __init__(self, host: Host, new_producer_id: Callable[[], int], new_lock: Callable[[], Lock]) -> None:
        self._host = host
        self._new_producer_id = new_producer_id
        self._new_lock = new_lock
        self._shards: dict[int, Shard] = {}
        # A producer id, for a shard to take under its lock: making one may take the metadata lock, which comes first.
        self._spare_ids: list[int] = []
        # The completions that are under way, by the transaction.
        self._finishing: dict[tuple[str, ProducerIdAndEpoch, int], Steps[None]] = {}
        self._paused: list[Completion[None]] = []
        # After a power loss, until all is done: the partitions, by name, with their leaders.
        self._lost: Mapping[tuple[str, int], Partition] | None = None

    # -- shards --------------------------------------------------------------------------------------

    def _shard_of(self, transactional_id: str) -> Shard:
        view = self._host.image.topics.get(controller.TRANSACTIONS_TOPIC)
        return self._shard(partition_for(transactional_id, 1 if view is None else view.partitions))

    def _all_shards(self) -> list[Shard]:
        view = self._host.image.topics.get(controller.TRANSACTIONS_TOPIC)
        return [] if view is None else [self._shard(number) for number in range(view.partitions)]

    def _shard(self, number: int) -> Shard:
        shard = self._shards.get(number)
        if shard is None:
            host = self._host
            made: Shard = CoordinatorShard(
                host,
                lambda create: host.transactions_partition(number, create),
                lambda append: TransactionShard(append, self._take_id, incarnation=host.incarnation),
                self._load,
                self._new_lock(),
            )
            shard = self._shards.setdefault(number, made)
        return shard

    def _load(
        self, state: TransactionShard, records: Iterator[tuple[bytes, bytes | None]], written: Completion[int]
    ) -> None:
        clock = self._host.clock
        state.replay(records, clock.time_ms(), clock.monotonic(), written)
        state.loaded()
        if self._lost is not None:
            state.may_lack_records()
        self._step_soon()

    def _take_id(self) -> int:
        try:
            return self._spare_ids.pop()
        except IndexError:
            raise _NoSpareId from None

    # -- requests of producers -----------------------------------------------------------------------

    def init_producer_id(
        self,
        transactional_id: str | None = None,
        timeout_ms: int = DEFAULT_TIMEOUT_MS,
        *,
        current: ProducerIdAndEpoch | None = None,
        remote: bool = False,
    ) -> Completion[ProducerIdAndEpoch]:
        """See `api.Transactions` for this and the other requests."""
        if transactional_id is None:
            return Completion.of(ProducerIdAndEpoch(self._new_producer_id(), 0))
        refuse_reentry()
        return self._steps(self._init(transactional_id, timeout_ms, current, remote))

    def _init(
        self, transactional_id: str, timeout_ms: int, current: ProducerIdAndEpoch | None, remote: bool
    ) -> Waiting[ProducerIdAndEpoch]:
        def request(state: TransactionShard) -> Completion[ProducerIdAndEpoch]:
            now_ms = self._host.clock.time_ms()
            return state.init_producer_id(transactional_id, timeout_ms, current, remote, now_ms)

        transaction.check_timeout(timeout_ms)  # before the topic is created
        shard = self._shard_of(transactional_id)
        self._expire_later()
        self._step_soon()
        return (yield from self._ask_complete(shard, request, transactional_id, create=True))

    def add_partitions(
        self,
        transactional_id: str,
        producer: ProducerIdAndEpoch,
        partitions: Sequence[TopicPartition],
        groups: Sequence[str] = (),
    ) -> Completion[None]:
        topics = self._host.image.topics
        for topic, number in partitions:
            view = topics.get(topic)
            if view is None or view.internal or number >= view.partitions:
                raise controller.unknown_partition(TopicPartition(topic, number))
        offsets = [self._partition_of(group, create=True) for group in groups]
        return self._add(transactional_id, producer, [*partitions, *offsets])

    def _add(
        self, transactional_id: str, producer: ProducerIdAndEpoch, partitions: Sequence[TopicPartition]
    ) -> Completion[None]:
        def request(state: TransactionShard) -> Completion[None]:
            return state.add_partitions(transactional_id, producer, partitions, clock.time_ms(), clock.monotonic())

        refuse_reentry()
        clock = self._host.clock
        self._step_soon()
        shard = self._shard_of(transactional_id)
        added = shard.ask(request, lambda: Completion.failed(transaction.unknown_id(transactional_id)))
        if added.done() and isinstance(added.error(), ConcurrentTransactionsError):
            return self._steps(self._ask_complete(shard, request, transactional_id))
        return added

    def _ask_complete(
        self,
        shard: Shard,
        request: Callable[[TransactionShard], Completion[T]],
        transactional_id: str,
        *,
        create: bool = False,
    ) -> Waiting[T]:
        """`_ask`; the last transaction is completed first. Its producer may know it as complete: a new leader of the coordinator's
        topic may lack the record of that."""
        while True:
            try:
                return (yield from self._ask(shard, request, transactional_id, create=create))
            except ConcurrentTransactionsError:
                yield self._finish_id(shard, transactional_id)
            self._step_soon()

    def add_offsets(self, transactional_id: str, producer: ProducerIdAndEpoch, group: str) -> Completion[None]:
        return self._add(transactional_id, producer, [self._partition_of(group, create=True)])

    def commit_offsets(
        self,
        transactional_id: str,
        producer: ProducerIdAndEpoch,
        group: str,
        member_id: str | None,
        member_epoch: int,
        offsets: Mapping[TopicPartition, OffsetAndMetadata],
        topic_ids: Mapping[TopicPartition, bytes] | None = None,
        *,
        instance_id: str | None = None,
        by_epoch: bool = False,
    ) -> Completion[None]:
        shard, name = self._shard_of(transactional_id), self._partition_of(group, create=False)

        def require(state: TransactionShard) -> None:
            state.require_added(transactional_id, producer, name)

        def verify() -> None:
            # Under the lock of the group's shard, which the marker takes too. So the offsets come before it, or not at all:
            # a transaction that was decided since is not open any more.
            require(shard.state)

        refuse_reentry()
        _check(shard, require, lambda: Completion.failed(transaction.unknown_id(transactional_id)))
        return self._host.groups.commit_pending(
            producer, verify, group, member_id, member_epoch, offsets, topic_ids, instance_id, by_epoch
        )

    def _partition_of(self, group: str, *, create: bool) -> TopicPartition:
        if create:
            self._host.groups_partition(0, True)
        return self._host.groups.partition_of(group)

    def verify(self, producer_id: int, producer_epoch: int, name: TopicPartition) -> None:
        """Before a batch of a transaction is appended in a partition: raises InvalidTxnStateError if it is not open there.

        A batch that came after the end would begin a transaction that no coordinator knows, and that holds back readers for ever
        (KIP-890). A batch that passes, and whose transaction is decided before it is appended, has an older epoch than
        the marker. Raises ProducerFencedError for an older epoch. Cost: a look-up in each shard, without a lock, if it is open;
        else O(transactional ids).
        """
        producer = ProducerIdAndEpoch(producer_id, producer_epoch)
        for shard in list(self._shards.values()):
            if shard.state.has(producer, name):
                return
        for shard in self._all_shards():  # it may have to be loaded
            if _check(shard, lambda state: state.verify(producer, name), lambda: Completion.of(False)):
                return
        raise InvalidTxnStateError(
            f"Producer {producer_id} has no open transaction with {name.topic}-{name.partition}. Nothing was written; begin a "
            f"transaction, and add the partition to it first.",
            producer_id=producer_id,
        )

    def end(
        self, transactional_id: str, producer: ProducerIdAndEpoch, commit: bool, *, bump: bool = True
    ) -> Completion[ProducerIdAndEpoch]:
        refuse_reentry()
        return self._steps(self._end(transactional_id, producer, commit, bump))

    def _end(
        self, transactional_id: str, producer: ProducerIdAndEpoch, commit: bool, bump: bool
    ) -> Waiting[ProducerIdAndEpoch]:
        decided: TransactionMetadata | None = None

        def request(state: TransactionShard) -> Completion[ProducerIdAndEpoch]:
            nonlocal decided
            answer = state.end(transactional_id, producer, commit, bump, self._host.clock.time_ms())
            decided = state.decided_of(transactional_id)
            return answer

        shard = self._shard_of(transactional_id)
        if commit and self._host.acknowledges_later:
            yield self._await_records(shard, transactional_id, producer)
        self._step_soon()
        following: ProducerIdAndEpoch = yield from self._ask_complete(shard, request, transactional_id)
        yield self._finish_now(shard, decided, is_written=True)
        return following

    def _await_records(self, shard: Shard, transactional_id: str, producer: ProducerIdAndEpoch) -> Completion[None]:
        """Done once what was written to the partitions of the transaction is acknowledged."""
        nothing: frozenset[TopicPartition] = frozenset()
        names = shard.ask(lambda state: state.open_partitions(transactional_id, producer), lambda: nothing)
        leaders = [self._host.leader(name) for name in sorted(names) if name.topic in self._host.image.topics]
        return AllDone([leader.await_high_watermark(leader.end_offset, None) for leader in leaders])

    # -- an operator's ---------------------------------------------------------------------------------

    def all(self) -> list[TransactionDescription]:
        refuse_reentry()
        found: list[TransactionDescription] = []
        for shard in self._all_shards():
            found += shard.ask(lambda state: [description_of(each) for each in state.transactions.values()], list)
        return sorted(found)

    def describe(self, transactional_id: str) -> TransactionDescription | None:
        def request(state: TransactionShard) -> TransactionDescription | None:
            known = state.transactions.get(transactional_id)
            return None if known is None else description_of(known)

        refuse_reentry()
        return self._shard_of(transactional_id).ask(request, lambda: None)

    def abort(self, transactional_id: str) -> Completion[None]:
        refuse_reentry()
        return self._steps(self._abort(self._shard_of(transactional_id), transactional_id, transaction.BY_OPERATOR))

    def _abort(self, shard: Shard, transactional_id: str, by: str) -> Waiting[None]:
        """Abort what is open, or complete an abort. Raises InvalidTxnStateError if there is neither, or a commit is decided."""

        def request(state: TransactionShard) -> Completion[None]:
            known = state.transactions.get(transactional_id)
            if known is None or not known.partitions:
                why = "has no open transaction to abort: log.transactions() lists those that are open"
                return _not_aborted(transactional_id, why)
            if known.is_commit:  # `step` completes it
                return _not_aborted(transactional_id, "has committed its transaction, so it was not aborted")
            return state.abort(transactional_id, by, self._host.clock.time_ms())

        self._step_soon()
        yield from self._ask(shard, request, transactional_id)
        yield self._finish_id(shard, transactional_id)

    def metrics(self, leaders: Mapping[tuple[str, int], Partition]) -> dict[str, Any]:
        """Plain numbers, without a lock: transactions that are open, or are being completed, and for how long the oldest is open.

        `hanging`: those that are open in a partition, and of which the coordinator does not know: they hold back readers for
        ever (KAFKA-12671). One that is open in a log before and after a look at the coordinator was known to that, if to any.
        O(partitions and transactional ids).
        """
        begun = open_in(leaders)
        known = self._known()
        live = {(each.producer_id, name) for each in known for name in each.partitions}
        still = open_in(leaders)
        open_ = [each.start_ms for each in known if each.state == transaction.ONGOING]
        return {
            "open": len(open_),
            "completing": sum(each.is_decided for each in known),
            "oldest_open_ms": max(0, self._host.clock.time_ms() - min(open_)) if open_ else 0,
            "hanging": [
                {"topic": name.topic, "partition": name.partition, "producer_id": producer_id, "first_offset": first}
                for (producer_id, name), first in sorted(begun.items())
                if (producer_id, name) not in live and still.get((producer_id, name)) == first
            ],
        }

    # -- from the decision to the end ------------------------------------------------------------------

    def _steps(self, steps: Waiting[T]) -> Completion[T]:
        return Steps(steps, self._later)

    def _later(self, task: Task) -> None:
        timers = self._host.real_timers
        if self._host.closed is None:
            timers.at(timers.now_ms(), task)
        else:  # no thread runs the timers any more, and the log refuses whatever the task asks for
            task(timers.now_ms())

    def _ask(
        self,
        shard: Shard,
        request: Callable[[TransactionShard], Completion[T]],
        transactional_id: str,
        *,
        create: bool = False,
    ) -> Waiting[T]:
        """Make a request that may need a producer id."""
        while True:
            try:
                answer: T = yield shard.ask(
                    request, lambda: Completion.failed(transaction.unknown_id(transactional_id)), create=create
                )
                return answer
            except _NoSpareId:
                self._spare_ids.append(self._new_producer_id())

    def _finish_id(self, shard: Shard, transactional_id: str) -> Completion[None]:
        """Done when the transaction of this id, if it is decided, is complete."""
        return self._finish_now(shard, shard.ask(lambda state: state.decided_of(transactional_id), lambda: None))

    def _finish_now(
        self, shard: Shard, decided: TransactionMetadata | None, *, is_written: bool = False
    ) -> Completion[None]:
        """`decided`: None if there is nothing to complete. `is_written`: see `_finish`."""
        if decided is None:
            return Completion.of(None)
        self._end_pauses()  # what kept a marker from being written may be gone: a request that is made again need not wait
        return self._finish(shard, decided, is_written=is_written)

    def _finish(self, shard: Shard, decided: TransactionMetadata, *, is_written: bool = False) -> Completion[None]:
        """The completion of this transaction: the one that is under way, or a new one. Two at once would write the markers twice.

        `is_written`: the caller knows that the decision counts as written, and has known since that it is not complete.
        """
        key = (decided.transactional_id, decided.producer, decided.start_ms)
        made = Steps(self._complete(shard, decided, is_written=is_written), self._later, begin=False)
        made.on_done(partial(self._finished, key))
        while (running := self._finishing.setdefault(key, made)) is not made:
            if running.error() is None and not running.is_lost:
                return running
            self._finished(key, running)
        made.drive()
        return made

    def _finished(self, key: tuple[str, ProducerIdAndEpoch, int], running: Completion[None]) -> None:
        if self._finishing.get(key) is running:  # else it was interrupted, and another one goes on
            self._finishing.pop(key, None)

    def _complete(self, shard: Shard, decided: TransactionMetadata, *, is_written: bool) -> Waiting[None]:
        def request(state: TransactionShard) -> Completion[None] | None:
            is_decided = state.decided_of(decided.transactional_id) == decided
            return state.all_written() if is_decided else None

        # The usual case first, in a tenth of the time: the very decision that was made is what the shard has, and it is written.
        if not (is_written and shard.state.decided_of(decided.transactional_id) is decided):
            ready = shard.ask(request, lambda: None)
            if ready is None:  # another thread completed it before this one was noted
                return
            yield ready
        left: Sequence[TopicPartition] = sorted(decided.partitions)
        while left := (yield from self._write_markers(shard, decided, left)):
            yield self._pause()
        while True:
            completed = shard.ask(lambda state: state.complete(decided, self._host.clock.time_ms()), _done)
            error = completed.error()
            if error is None:  # it need not count as written: if it is lost, the markers are written again
                return
            logger.warning("transaction of %r could not be completed yet: %s", decided.transactional_id, error)
            yield self._pause()

    def _write_markers(
        self, shard: Shard, decided: TransactionMetadata, left: Sequence[TopicPartition]
    ) -> Waiting[list[TopicPartition]]:
        """Write the markers that are `left`; those that have to be tried again."""
        deadline_ms = self._host.real_timers.now_ms() + COMMIT_TIMEOUT_MS
        marker = TransactionMarker(*decided.producer, decided.is_commit, shard.leader_epoch, decided.is_bumped)
        again = []
        for name, appended in [(name, self._append_marker(name, marker, deadline_ms)) for name in left]:
            try:
                yield appended
            except (UnknownTopicOrPartitionError, ProducerFencedError):
                continue  # the topic was deleted; or the marker is there, and a later transaction began
            except StreamlogError as error:
                logger.warning(
                    "transaction of %r has no marker in %s-%d yet: %s", decided.transactional_id, *name, error
                )
                again.append(name)
        return again

    @failing
    def _append_marker(self, name: TopicPartition, marker: TransactionMarker, deadline_ms: int) -> Completion[Any]:
        return self._host.append_marker(name, marker, deadline_ms)

    def _pause(self) -> Completion[None]:
        """Done at the next step, when the metadata has changed, or with the next request for this; fails once the log is closed."""
        pause = _Pause(self._host.real_timers.now_ms)
        self._paused.append(pause)
        if self._host.closed is not None:  # after it was added: `close` sees it, or this does
            return Completion.failed(self._host.closed.copy())
        self._step_soon()
        return pause

    def _end_pauses(self) -> None:
        for pause in list(self._paused):  # also one that a thread ended which blocked on it
            pause.complete(None)  # first: after an interrupt the next call ends those that are left
            with contextlib.suppress(ValueError):  # another thread has done the same
                self._paused.remove(pause)

    def _known(self) -> list[TransactionMetadata]:
        return [each for shard in list(self._shards.values()) for each in list(shard.state.transactions.values())]

    def close(self, error: StreamlogError) -> None:
        """Fail what waits to be tried again. What is decided is completed after the next open. REQUIRES: `Host.closed` is set."""
        for pause in list(self._paused):
            pause.fail(error.copy())

    # -- background work -------------------------------------------------------------------------------

    def _step_soon(self) -> None:
        timers = self._host.monotonic_timers
        timers.at(timers.now_ms() + RETRY_MS, self.step)

    def open(self) -> None:
        """Abort what producers of this process left open, and complete what is decided: no reader waits for a timeout."""
        if self._all_shards():
            timers = self._host.monotonic_timers
            timers.at(timers.now_ms(), self.step)
            self._expire_later()
            self.step(timers.now_ms())

    def recover(self, leaders: Mapping[tuple[str, int], Partition]) -> None:
        """The log is opened after a power loss: have partitions and coordinator agree again; see `lost_transactions`.

        What cannot be done yet is tried again. REQUIRES: before the log counts as recovered, and any other request.
        """
        if self._all_shards():
            self._lost = leaders
            self.step(self._host.monotonic_timers.now_ms())

    def _recover(self, leaders: Mapping[tuple[str, int], Partition]) -> None:
        """Abort what only partitions know."""

        def abort(name: TopicPartition, producer: ProducerIdAndEpoch) -> Completion[Any]:
            deadline_ms = self._host.real_timers.now_ms() + COMMIT_TIMEOUT_MS
            epoch = max(shard.leader_epoch for shard in shards)
            return self._append_marker(name, TransactionMarker(*producer, False, epoch, is_bumped=True), deadline_ms)

        shards = self._all_shards()
        for shard in shards:  # has them loaded
            shard.ask(lambda state: state.require_ready(), lambda: None)
        if end_unknown(leaders, self._known, abort, self._host.clock.time_ms()):
            self._lost = None

    def _renew(self, shard: Shard) -> None:
        """Have each transactional id that is not in a transaction go on with a new producer id, if a power loss asks for that."""
        ids: list[str] = shard.ask(lambda state: state.to_renew(), list)
        for transactional_id in ids:
            renewing = self._steps(
                self._ask(shard, partial(_renewed, transactional_id, self._host.clock.time_ms()), transactional_id)
            )
            error = renewing.error()
            if error is not None:
                logger.warning("the producer id of %r could not be replaced yet: %s", transactional_id, error)

    def metadata_changed(self) -> None:
        """There may be leaders for markers that could not be written, and another one of this topic."""
        if self._paused or self._lost is not None or not all(shard.is_current for shard in list(self._shards.values())):
            self._later(self._resume)

    def _resume(self, now_ms: int) -> None:
        self.step(now_ms)

    def step(self, now_ms: int) -> int | None:
        """Abort what is overdue, go on with what is decided; when to come again (ms of the monotonic timers), or None."""
        self._end_pauses()
        deadlines_s: list[float] = []
        if self._lost is not None:
            try:
                self._recover(self._lost)
            except StreamlogError as error:
                logger.warning("what a power loss has left of transactions could not be looked at yet: %s", error)
        again = self._lost is not None
        for shard in self._all_shards():
            try:
                again |= self._step_of(shard)
            except StreamlogError as error:
                logger.warning("transactions could not be looked at yet: %s", error)
                again = True
            deadline_s = shard.state.next_deadline_s()
            if deadline_s is not None:
                deadlines_s.append(deadline_s)
        now_ms = self._host.monotonic_timers.now_ms()
        if again:
            return now_ms + RETRY_MS
        left_s = min(deadlines_s, default=None)
        return None if left_s is None else now_ms + max(1, ceil((left_s - self._host.clock.monotonic()) * 1000))

    def _step_of(self, shard: Shard) -> bool:
        """Whether something of this shard is to be tried again soon."""
        now_s = self._host.clock.monotonic()
        overdue, left_open = shard.ask(lambda state: (state.overdue(now_s), state.left_open()), _nothing)
        failed = False
        for ids, by in (left_open, transaction.BY_REOPENING), (overdue, transaction.BY_TIMEOUT):
            for transactional_id in ids:
                error = self._steps(self._abort(shard, transactional_id, by)).error()
                if error is not None and not isinstance(error, InvalidTxnStateError):  # it has ended since
                    failed = True
                    logger.warning("the open transaction of %r could not be aborted yet: %s", transactional_id, error)
        for each in self._decided(shard):
            finishing = self._finish(shard, each)
            if finishing.work is not None and not finishing.done():
                finishing.work.drive()
        self._renew(shard)
        if shard.state.has_completed:
            error = self._write_completed(shard).error()
            if error is not None:
                failed = True
                logger.warning("what is complete of transactions could not be written yet: %s", error)
        return failed or bool(self._decided(shard))

    def _write_completed(self, shard: Shard) -> Completion[None]:
        return shard.ask(lambda state: state.write_completed(), _done)

    def write_completed(self) -> None:
        """Before the log is closed: write what would have the next open write markers once more."""
        for shard in list(self._shards.values()):
            if shard.state.has_completed:
                with contextlib.suppress(StreamlogError):
                    self._write_completed(shard)

    def _decided(self, shard: Shard) -> list[TransactionMetadata]:
        return shard.ask(lambda state: state.decided(), list)

    def _expire_later(self) -> None:
        self._host.timers.at(self._host.clock.time_ms() + EXPIRY_INTERVAL_MS, self.expire)

    def expire(self, now_ms: int) -> int:
        """Forget transactional ids that made no transaction for a week; when to come again (ms)."""
        for shard in self._all_shards():
            try:
                error = shard.ask(lambda state: state.expire(now_ms), _done).error()
            except StreamlogError as refused:
                error = refused
            if error is not None:
                logger.warning("transactional ids that are not used any more could not be forgotten yet: %s", error)
        return now_ms + EXPIRY_INTERVAL_MS


def description_of(each: TransactionMetadata) -> TransactionDescription:
    """What the Service says of a transactional id."""
    return TransactionDescription(
        each.transactional_id,
        each.state,
        each.producer_id,
        each.producer_epoch,
        each.timeout_ms,
        each.start_ms,
        each.partitions,
    )


def _not_aborted(transactional_id: str, why: str) -> Completion[Any]:
    return Completion.failed(
        InvalidTxnStateError(f"The producer of {transactional_id!r} {why}.", transactional_id=transactional_id)
    )


def _check(shard: Shard, check: Callable[[TransactionShard], T], otherwise: Callable[[], Completion[T]]) -> T:
    """Run a check. Its error is an answer: if it were raised under the shard's lock, the whole log would be replayed after it."""
    return shard.ask(failing(lambda state: Completion.of(check(state))), otherwise).result()


def _done() -> Completion[None]:
    return Completion.of(None)


def _renewed(transactional_id: str, now_ms: int, state: TransactionShard) -> Completion[None]:
    return state.renew(transactional_id, now_ms)


def _nothing() -> tuple[list[str], list[str]]:
    return [], []
