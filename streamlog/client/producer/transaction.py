"""The transactions of one producer: what it is in the middle of, and what of that is decided (KIP-98, KIP-890).

The names of the states are those of Kafka's TransactionManager. A transaction begins without a request. A partition is added
to it (`enter`) before the first record of it is queued, by the thread that sends; so a queue is never held up by the
coordinator. Each transaction has an epoch of its own, which the end of the one before brings: a request that comes late
is never taken for one of a later transaction.

The end is decided when the coordinator has it in its log, and not by the line at which a caller was interrupted. A commit
whose answer is not known is asked for again, by `commit`; or it is resolved, by an abort, which the coordinator refuses if it
has decided to commit. Both may be repeated. Only then is the outcome known (`_outcome`), and what follows from it
(the next epoch, where a consumer goes on) is done, which may be done again.

A manager does not refer to its producer, which can therefore be collected, and is aborted then.
"""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from functools import partial
from typing import Any, NamedTuple, NoReturn, Protocol

from ...broker.api import ProducerIdAndEpoch, Service
from ...errors import (
    ClosedError,
    ConcurrentUseError,
    InvalidTxnStateError,
    ProducerFencedError,
    RequestTimedOutError,
    StreamlogError,
    TransactionAbortedError,
    describe,
)
from ...runtime.threads import get_ident, inside, new_lock, real_monotonic, refuse_reentry
from ...runtime.values import refuse_to_copy
from ...types import OffsetAndMetadata, TopicPartition
from ..consumer.group_offsets import GroupOffsets
from ..retrying import answer_of, with_coordinator_retries
from .errors import ended
from .partition_queue import PartitionQueue

logger = logging.getLogger("streamlog.client")


class State(Enum):
    READY = "ready"
    IN_TRANSACTION = "in a transaction"
    COMMITTING_TRANSACTION = "committing"
    ABORTING_TRANSACTION = "aborting"
    FATAL_ERROR = "fenced"


class Reader(Protocol):
    """The consumer whose offsets a transaction commits."""

    def take_part(self, open_transaction: Callable[[], str | None]) -> None:
        """It is that of a scope; `open_transaction` says of which transactional id, and None once that has ended."""

    def begin(self, manager: TransactionManager) -> None:
        """A transaction of `manager` with this consumer is about to begin: see `TransactionManager.end_left` of the one before."""

    def is_of(self, consumer: object) -> bool: ...
    def position(self) -> Mapping[TopicPartition, int]:
        """Where the consumer is. Raises StreamlogError."""

    def has_moved_from(self, position: Mapping[TopicPartition, int] | None) -> bool:
        """Whether the consumer may have returned records since it was there."""

    def committed(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        """The transaction is committed, and these offsets with it."""

    def rewind(self, *, ask: bool) -> None:
        """The transaction is aborted: go back to what is committed. `ask` the group for it: another may have committed."""

    def not_begun(self) -> None:
        """A transaction could not begin: have what was returned for it come again. Raises no StreamlogError."""


class Records(Protocol):
    """What a producer has sent and not written: the RecordAccumulator."""

    def flush(self, timeout: float | None) -> None: ...
    def report(self) -> None: ...
    def forget_failed(self) -> None: ...


class _Outcome(NamedTuple):
    producer: ProducerIdAndEpoch
    """The id and epoch of the next transaction."""
    committed: bool


class TransactionManager:
    """See the module. Thread-safe: one thread begins and ends transactions, any number send meanwhile.

    `producer` is the id and epoch of the transaction that is open, or else of the next one.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(self, service: Service, transactional_id: str, timeout_ms: int) -> None:
        """Fences other producers of this id, and has their transaction ended."""
        self.transactional_id = transactional_id
        self.closed: StreamlogError | None = None
        """Once the producer is closed: then no call is made again."""
        self._closed_in: Callable[[], object] | None = None
        """The scope whose transaction the close has aborted."""
        self.was_left_open = False
        """Whether the close has aborted one that the program had begun without a scope, and had sent something in."""
        # How long (real seconds) an end waits for the coordinator; None: as long as any call.
        self._end_timeout_s: float | None = None
        self._service = with_coordinator_retries(service, lambda: self.closed)
        self.producer: ProducerIdAndEpoch = answer_of(self._service.init_producer_id(transactional_id, timeout_ms))
        self.state = State.READY
        self.error: StreamlogError | None = None
        """Why the transaction can only be aborted; in FATAL_ERROR, why the producer can do nothing more."""
        self.records: Records  # set once, by the accumulator
        # Guards the state, and which queues are in the transaction. A queue's `draining` and `lock` nest in it.
        self._lock = new_lock()
        # Held by the thread that begins or ends a transaction, without its mark: it waits meanwhile.
        self._turn = new_lock()
        self._owner = 0
        self._queues: dict[PartitionQueue, None] = {}
        self._groups: set[str] = set()
        self._offsets: list[tuple[Reader, GroupOffsets]] = []
        # The transactions that the coordinator may know of; a thread that sends may add one that has ended.
        self._known: set[ProducerIdAndEpoch] = set()
        self._commit_sent = False  # it may know that this one is to commit
        self._outcome: _Outcome | None = None
        self._reader: Reader | None = None
        self._group: str | None = None
        self._scope: Callable[[], object] | None = None
        self.left_at: Mapping[TopicPartition, int] | None = None
        """Where the reader was when its scope had ended and the transaction had not."""

    # -- beginning -----------------------------------------------------------------------------------

    def begin(self, scope: Any = None, reader: Reader | None = None, group: str | None = None) -> None:
        """Begin a transaction. `reader`: the consumer that an abort rewinds. `group`: it is going to commit offsets of this one.

        One of a scope that was left without its end is ended first: see `end_left`, which says what is raised. Raises what fenced the
        producer.
        """
        here = get_ident()
        with self._take_turn():
            self._owner = here
            if self.state is State.FATAL_ERROR:
                self._raise_fatal()
            self._end_left()
            self.error = self._outcome = None
            self._queues, self._groups, self._offsets = {}, set(), []
            self._known, self._commit_sent = set(), False
            self._reader, self._group, self.left_at = reader, group, None
            self._scope = None if scope is None else weakref.ref(scope)
            if reader is not None:
                reader.take_part(partial(self._id_within, self._scope))
            self.state = State.IN_TRANSACTION

    def end_left(self) -> None:
        """End a transaction whose scope was left without its end, because of an interrupt, or because the coordinator did not answer.

        Raises InvalidTxnStateError if there is any other. TransactionAbortedError if it is aborted only now and its reader has returned
        records since: they come again, behind those of the transaction, so the caller has to drop them.
        """
        here = get_ident()
        with self._take_turn():
            self._owner = here
            if self.state is not State.FATAL_ERROR:
                self._end_left()

    def _end_left(self) -> None:
        """REQUIRES: a turn."""
        if self.state is State.READY:
            return
        if self._scope is None or self._scope() is not None:
            raise self._open_already()
        reader = self._reader
        has_moved = reader is not None and reader.has_moved_from(self.left_at)
        if not self._resolve() and has_moved:
            raise TransactionAbortedError(
                f"The last transaction of {self.transactional_id!r} is aborted, which could not be said when it ended, and its consumer has "
                f"gone back to what was committed before. Drop what it has returned meanwhile, and poll again."
            )

    def enter(self, queues: Iterable[PartitionQueue]) -> None:
        """Add the partitions of these queues, before their first records; one request for all that are not in it yet.

        Raises InvalidTxnStateError outside of a transaction, or after an error in it; what the coordinator answers.
        """
        new = [queue for queue in dict.fromkeys(queues) if queue.outside]
        if not new:
            return
        refuse_reentry()
        producer = (
            self.producer
        )  # first: another thread may end the transaction, and the next one is not to begin by this
        self.require_open("send")
        self._known.add(producer)
        names = [queue.name for queue in new]
        groups = () if self._group is None or self._group in self._groups else (self._group,)
        try:
            answer_of(self._service.add_partitions_to_txn(self.transactional_id, producer, names, groups))
        except (ProducerFencedError, InvalidTxnStateError) as error:
            if self.state is not State.IN_TRANSACTION or self.producer != producer:  # that is why
                raise ended() from error
            self.note_failure(error)
            raise
        with inside(), self._lock:
            self._enter(new, producer)
            self._groups.update(groups)

    def _enter(self, queues: list[PartitionQueue], producer: ProducerIdAndEpoch) -> None:
        """REQUIRES: the lock."""
        if self.state is not State.IN_TRANSACTION or self.producer != producer:  # another thread has ended it meanwhile
            raise ended()
        for queue in queues:
            self._queues[queue] = None  # before it takes records: an interrupt leaves none that the end does not see
            queue.enter_transaction(producer)

    def send_offsets(self, reader: Reader, given: GroupOffsets) -> None:
        """Have offsets of a group committed with the transaction. Raises what `enter` raises, and CommitFailedError."""
        producer = self.producer
        self.require_open("send offsets")
        if not given.offsets:
            return
        self._known.add(producer)
        try:
            if given.group not in self._groups:
                answer_of(self._service.add_offsets_to_txn(self.transactional_id, producer, given.group))
                self._groups.add(given.group)
            answer_of(self._service.txn_commit_offsets(self.transactional_id, producer, *given))
        except StreamlogError as error:
            self.note_failure(error)
            raise
        self._offsets.append((reader, given))

    def note_failure(self, error: BaseException) -> None:
        """Something of the transaction was not written, so it can only be aborted. It takes no lock."""
        if isinstance(error, StreamlogError) and self.error is None:
            self.error = error

    def require_open(self, what: str) -> None:
        """Raise unless a transaction is open, and nothing of it has failed."""
        if self.state is State.FATAL_ERROR:
            self._raise_fatal()
        if self.state is not State.IN_TRANSACTION:
            raise self._not_open(what)
        if self.error is not None:
            raise self._only_abort()

    # -- ending --------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Write what was sent, and commit. After an interrupt it may be called again, and goes on.

        Raises InvalidTxnStateError outside of a transaction; DeliveryError, or InvalidTxnStateError with the first error as its cause, if something
        was not written: then only an abort is possible. ProducerFencedError, after which nothing is. Any other error leaves open what becomes of it: `commit` again, or `abort`.
        """
        here = get_ident()
        with self._take_turn():
            self._owner = here
            if self.state is State.FATAL_ERROR:
                self._raise_fatal()
            if self.state is not State.COMMITTING_TRANSACTION:
                if self.state is not State.IN_TRANSACTION:
                    raise self._not_open("commit")
                self.state = State.COMMITTING_TRANSACTION
            if self._outcome is None:
                if not self._commit_sent:
                    self._write_all()
                self._outcome = _Outcome(self._end(commit=True), True)
            self._finish(self._outcome)

    def _write_all(self) -> None:
        """Write and await the records. After an error the transaction is open again, to be aborted."""
        queues = self._leave()
        self.records.flush(None)
        for queue in queues:
            _stop(queue)
        if self.error is not None:
            self.state = State.IN_TRANSACTION
            if not isinstance(self.error, ProducerFencedError):  # which says more than the records that failed of it
                self.records.report()
            raise self._only_abort()

    def _leave(self) -> list[PartitionQueue]:
        """Have the queues take no more records; returns them."""
        with inside(), self._lock:
            queues = list(self._queues)
        for queue in queues:
            queue.leave_transaction()
        return queues

    def _end(self, *, commit: bool) -> ProducerIdAndEpoch:
        """Have the coordinator end it; the id and epoch of the next one. May be done twice."""
        if self.producer not in self._known:
            return self.producer
        self._commit_sent = self._commit_sent or commit
        try:
            ended = self._service.end_txn(self.transactional_id, self.producer, commit)
            return answer_of(ended, self._end_timeout_s)
        except ProducerFencedError as error:
            self._fail_for_good(error)
            raise
        except InvalidTxnStateError as error:
            if commit:  # the coordinator has no such transaction: an interrupt came before it began there
                self._commit_sent = False
                self.note_failure(error)
                self.state = State.IN_TRANSACTION
            raise

    def abort(self) -> None:
        """Abort. After an interrupt it may be called again, and goes on.

        Raises InvalidTxnStateError outside of a transaction, and if it is committed: a commit that was interrupted may have been.
        """
        here = get_ident()
        with self._take_turn():
            self._owner = here
            if self.state is State.FATAL_ERROR:
                self._raise_fatal()
            if self.state is State.READY:
                raise self._not_open("abort")
            if self._resolve():
                raise InvalidTxnStateError(
                    "The transaction is committed, so it was not aborted: its commit was interrupted, or timed out, after the "
                    "coordinator had decided it."
                )

    def resolve(self) -> bool | None:
        """Abort a transaction, unless it is committed; whether it is. None if there is none, or the producer is fenced."""
        here = get_ident()
        with self._take_turn():
            self._owner = here
            return None if self.state in (State.READY, State.FATAL_ERROR) else self._resolve()

    def _resolve(self) -> bool:
        """REQUIRES: a turn, and a transaction that is not finished."""
        if self._outcome is None:
            if not self._commit_sent:
                self.state = State.ABORTING_TRANSACTION
                self._drop(self._aborted())
            try:
                self._outcome = self._abort_unless_committed()
            except BaseException:
                if (
                    not self._commit_sent
                ):  # it is aborted, whenever the coordinator answers: the next records are those of it
                    self._rewind()
                raise
        return self._finish(self._outcome)

    def _abort_unless_committed(self) -> _Outcome:
        try:
            return _Outcome(self._end(commit=False), False)
        except InvalidTxnStateError:
            if self._commit_sent:  # a commit that is decided is refused an abort
                return _Outcome(self._end(commit=True), True)
            return _Outcome(self.producer, False)  # it has no such transaction: see `_end`

    def _drop(self, error: StreamlogError) -> None:
        """Fail all records that are not written."""
        for queue in self._leave():
            queue.fail_all(error)
            _stop(queue)
        self.records.forget_failed()

    def _finish(self, outcome: _Outcome) -> bool:
        """Do what follows from the outcome; returns whether it is committed. May be done twice."""
        self.producer = outcome.producer
        if outcome.committed:
            for reader, given in self._offsets:
                reader.committed(given.offsets)
        else:
            self._rewind()
        self._let_go()
        self.state = State.READY
        return outcome.committed

    def _rewind(self) -> None:
        """Take the reader back, once."""
        if self._reader is not None:
            self._reader.rewind(ask=False)
            self._reader = None

    def _fail_for_good(self, error: StreamlogError) -> None:
        """The producer is fenced: nothing more can be done with it. Its consumer goes back to what is committed."""
        reader = self._reader
        self.error, self.state = error, State.FATAL_ERROR
        self._drop(error)
        self._let_go()
        if reader is not None:
            reader.rewind(ask=True)

    def _let_go(self) -> None:
        """Of the consumers, which the program may drop."""
        self._reader = self._scope = None
        self._offsets = []

    def _id_within(self, scope: Callable[[], object] | None) -> str | None:
        """The transactional id, while the transaction of this scope is open."""
        return self.transactional_id if self._scope is scope else None

    def is_of(self, scope: object) -> bool:
        """Whether the transaction that is open was begun by this scope."""
        return self._scope is not None and self._scope() is scope

    def was_closed_in(self, scope: object) -> bool:
        """Whether the producer was closed in this scope, so that its transaction was aborted."""
        return self._closed_in is not None and self._closed_in() is scope

    def leave(self, scope: object) -> None:
        """The scope has ended. If its transaction has not, what comes next resolves it: see `end_left`."""
        if self.is_of(scope):
            if self._reader is not None:
                with contextlib.suppress(StreamlogError):
                    self.left_at = self._reader.position()
            self._scope = _gone

    def shown(self) -> str:
        """For the repr of the producer: its name, and what it is in the middle of."""
        state = "" if self.state is State.READY or self.closed is not None else f", {self.state.value}"
        return f"transactional_id={self.transactional_id!r}{state}"

    def is_read_by(self, consumer: object) -> bool:
        """Whether an abort of a transaction that is not ended takes this consumer back."""
        return self._reader is not None and self._reader.is_of(consumer)

    @property
    def may_be_committed(self) -> bool:
        """Whether the coordinator may have decided to commit, of which the answer is not known."""
        return self._commit_sent

    # -- one thread at a time ------------------------------------------------------------------------

    def _take_turn(self) -> Any:
        """What to hold while a transaction begins or ends. Raises ConcurrentUseError, ReentrantCallError.

        The caller notes itself as the owner once it holds it: of two threads that ask at once the second one waits. It knows its
        id before, so that no signal handler comes between the two.
        """
        refuse_reentry()
        if self._turn.locked():
            raise ConcurrentUseError(
                f"Another call begins or ends a transaction of {self.transactional_id!r}. Any thread may send, and one at a time "
                f"begins and ends transactions."
            )
        return self._turn

    def is_ending_here(self) -> bool:
        """Whether the caller interrupted a call of its own thread that begins or ends a transaction."""
        return self._turn.locked() and self._owner == get_ident()

    def close(self, timeout: float | None, error: StreamlogError) -> None:
        """Abort what is open, after another thread's call.

        Waits up to `timeout` real seconds for that call and for the coordinator; None: for the call, and as long for the
        coordinator as any end does. `error`: of calls that wait for a coordinator. An abort that fails is logged. REQUIRES: not
        `is_ending_here`.
        """
        self.closed = error
        end_s = None if timeout is None else real_monotonic() + timeout
        taken: list[bool] = []
        try:
            # One step in C, as in `Consumer._close_with_log`.
            taken.extend(map(self._turn.acquire, (True,), (-1 if timeout is None else timeout,)))
            if taken[0]:
                self._owner = get_ident()
                if self.state not in (State.READY, State.FATAL_ERROR):
                    if end_s is not None:
                        self._end_timeout_s = max(0.0, end_s - real_monotonic())
                    scope, sent = self._scope, self.producer in self._known
                    if not self._resolve():
                        self._closed_in, self.was_left_open = scope, sent and scope is None
        except StreamlogError as failure:
            # Its timeout aborts it then, or the producer that has fenced this one has.
            if not isinstance(failure, ProducerFencedError):
                logger.warning("a transaction of %r is left to its timeout: %s", self.transactional_id, failure)
        finally:
            if taken and taken[0]:
                self._turn.release()

    # -- errors --------------------------------------------------------------------------------------

    def _raise_fatal(self) -> NoReturn:
        assert self.error is not None
        raise self.error.copy()

    def _not_open(self, what: str) -> InvalidTxnStateError:
        if self.state is State.READY:
            return InvalidTxnStateError(
                f"No transaction of {self.transactional_id!r} is open, so it cannot {what}: use `with producer.transaction():`, or "
                f"begin_transaction() first. A producer with a transactional_id sends only in transactions."
            )
        return InvalidTxnStateError(
            f"The transaction of {self.transactional_id!r} is being ended ({self.state.value}), so it cannot {what}. After an interrupt, call "
            f"commit_transaction() or abort_transaction() again."
        )

    def _open_already(self) -> InvalidTxnStateError:
        if self.state is State.IN_TRANSACTION:
            return InvalidTxnStateError(
                f"A transaction of {self.transactional_id!r} is open already: commit or abort it before the next one begins. Give threads "
                f"that work at the same time a producer each, with a transactional_id of its own, and a consumer."
            )
        return InvalidTxnStateError(
            f"The last transaction of {self.transactional_id!r} is not ended yet ({self.state.value}): call commit_transaction() or "
            f"abort_transaction() again before the next one begins."
        )

    def _only_abort(self) -> StreamlogError:
        error = self.error
        assert error is not None
        if isinstance(error, ProducerFencedError):  # nor can it be aborted, by this producer
            return error.copy()
        failed = InvalidTxnStateError(
            f"The transaction of {self.transactional_id!r} can only be aborted, because a part of it failed: {describe(error)}"
        )
        failed.__cause__ = error.copy()
        return failed

    def _aborted(self) -> TransactionAbortedError:
        return TransactionAbortedError(
            f"The record was not kept: its transaction, of {self.transactional_id!r}, was aborted before it was written."
        )


def _gone() -> None:
    """In place of the reference to a scope that has ended."""


def _stop(queue: PartitionQueue) -> None:
    """Have no single record written that does not go through the queue: see `Producer._send_now`."""
    assert queue.sequences is not None
    with inside(), queue.draining:
        queue.sequences.in_doubt = True


class TransactionScope:
    """`with producer.transaction():` begins a transaction, commits at the end, and aborts on an exception of any kind.

    The value of the block is `target`. `before_commit` is called before the commit. `reader`, `group`: see `TransactionManager.begin`.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(
        self,
        manager: TransactionManager,
        target: Any,
        reader: Reader | None = None,
        before_commit: Callable[[], object] = lambda: None,
        group: str | None = None,
    ) -> None:
        self._manager = manager
        self._target = target
        self._reader = reader
        self._before_commit = before_commit
        self._group = group

    def __enter__(self) -> Any:
        manager, reader = self._manager, self._reader
        try:
            if reader is not None:
                reader.begin(manager)
            manager.begin(self, reader, self._group)
        except BaseException:
            try:
                self._abort()
            finally:
                manager.leave(self)
                if reader is not None:
                    reader.not_begun()
            raise
        return self._target

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        manager = self._manager
        try:
            if kind is not None:
                self._abort()
            elif manager.is_of(self) or manager.state is State.FATAL_ERROR:  # not if the block has ended it itself
                self._commit()
            elif manager.was_closed_in(self):
                raise ClosedError(
                    f"The producer, or its log, was closed before the end of a transaction of {manager.transactional_id!r}, which was aborted "
                    f"so: nothing of it counts. Close it after the block."
                )
        finally:
            manager.leave(self)

    def _commit(self) -> None:
        manager = self._manager
        try:
            self._before_commit()
            manager.commit()
        except RequestTimedOutError:  # it would be asked for as long once more; what comes next resolves it
            if not manager.may_be_committed:
                self._abort()
            raise
        except BaseException:  # what was decided is found out now
            self._abort()
            raise

    def _abort(self) -> None:
        """Abort, unless it is committed. What the abort raises is logged: the exception that ended the block is raised."""
        if not self._manager.is_of(self):
            return
        try:
            self._manager.resolve()
        except ProducerFencedError:
            pass  # what has fenced the producer has aborted it
        except StreamlogError as error:
            logger.warning("a transaction of %r could not be aborted: %s", self._manager.transactional_id, error)

    def __repr__(self) -> str:
        return f"<streamlog transaction of {self._manager.transactional_id!r}: it begins in a `with` statement>"
