"""Calls about a partition that wait while it has no leader: Kafka's `default.api.timeout.ms` and `retry.backoff.ms`.

A log of several brokers elects another leader when one is stopped or fails, and moves leaders on request. Meanwhile its
Service fails calls about the partition, or about the groups of that partition, with NotLeaderError; so it does with changes of
topics that meet a disk which has just failed. Kafka's clients make such a call again until it succeeds, or until `default.api.timeout.ms` has passed, and so do these: the Service that
`with_retries` gives answers them with a `RetriedCall`. A log of one broker has no such moments, and keeps its Service.

A call is made again by the thread that waits for it, and by no other: once that thread has given it up, because of Ctrl-C
say, it is not made any more. So a commit that was interrupted never overtakes the next one.

An attempt that failed may have been in force all the same: the controller failed after it had recorded the change, and the next
one has the record. What another attempt is refused with then is an answer (`_IN_FORCE`): it is done. A topic is recognised by its
id, which each attempt gives: another call may have created one of the name meanwhile.

Three things have retries of their own and use the Service as it is: a producer's queue, which keeps the order of its records;
a poll, which returns to the program meanwhile; and what sends a member's leave in the background.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from ..broker.api import Service
from ..errors import (
    ConfigError,
    CoordinatorLoadInProgressError,
    GroupIdNotFoundError,
    NotEnoughReplicasError,
    NotLeaderError,
    RequestTimedOutError,
    StreamlogError,
    UnknownTopicOrPartitionError,
    UnstableOffsetCommitError,
)
from ..runtime.api import Completion, Gate
from ..runtime.disk import entropy
from ..runtime.threads import RawGate, real_monotonic, result_of, wait_for
from ..runtime.values import refuse_to_copy

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_API_TIMEOUT_S = 60.0
"""How long (real time) a call is made again. Kafka's default.api.timeout.ms."""
RETRY_BACKOFF_S = 0.02
"""How long (real time) until then. Kafka's retry.backoff.ms is 100: its answers come over a network."""

# The partition has no leader, or another one, or too few replicas in sync, or the request was not completed in time: it may succeed soon.
# Or a transaction of the group is not decided.
MOVES = (
    NotLeaderError, NotEnoughReplicasError, CoordinatorLoadInProgressError, RequestTimedOutError, UnstableOffsetCommitError
)  # fmt: skip

_RETRIED = (
    "add_partitions", "after_damage", "apply_retention", "bounds", "commit", "committed", "compact", "create_topic",
    "delete_group", "delete_offsets", "delete_records", "delete_topic", "describe_group", "epoch_end_offset", "fetch",
    "find_offset", "init_producer_id", "leave_group", "list_groups", "reassign", "update_topic",
)  # fmt: skip
_IN_FORCE: dict[str, Callable[[BaseException], bool]] = {
    "add_partitions": lambda error: isinstance(error, ConfigError) and error.name == "total",
    "delete_group": lambda error: isinstance(error, GroupIdNotFoundError),
    "delete_topic": lambda error: isinstance(error, UnknownTopicOrPartitionError),
}
"""Calls without a result, and which error of another attempt says that there is nothing left to do."""
_OF_TRANSACTIONS = (
    "abort_transaction", "add_offsets_to_txn", "add_partitions_to_txn", "describe_transaction", "end_txn",
    "init_producer_id", "list_transactions", "txn_commit_offsets",
)  # fmt: skip


class RetriedCall(Completion[T]):
    """A call that is made again while it fails with one of `MOVES`. It is its own `work`: the thread that waits makes it.

    It fails with RequestTimedOutError in the end, whose cause is the last error; or with what `closed` gives, before another
    attempt: the handle that it is a call of was closed meanwhile.
    """

    __slots__ = ("_attempt", "_call", "_closed", "_end_s", "_first", "_is_in_force", "_turns", "work")

    def __init__(
        self,
        call: Callable[[], Completion[T]],
        attempt: Completion[T],
        closed: Callable[[], StreamlogError | None],
        is_in_force: Callable[[BaseException], bool],
    ) -> None:
        super().__init__()
        self.work = self
        self._call = call
        self._first = attempt
        self._closed = closed
        self._is_in_force = is_in_force
        self._end_s = real_monotonic() + DEFAULT_API_TIMEOUT_S
        self._turns: list[Gate] = []
        self._follow(attempt)

    def _follow(self, attempt: Completion[T]) -> None:
        self._attempt = attempt
        attempt.on_done(self._on_answer)

    def _on_answer(self, attempt: Completion[T]) -> None:
        """On any thread: take over the answer; if the call is to be made again, wake the thread that waits."""
        error = attempt.error()
        if error is None:
            self.complete(attempt.result())
        elif attempt is not self._first and self._is_in_force(error):
            self.complete(cast(T, None))
        elif not isinstance(error, MOVES):
            self.fail(error)
        while self._turns:
            self._turns.pop().open()

    def drive(self) -> bool:
        attempt = self._attempt
        if not attempt.done():
            return attempt.work is not None and attempt.work.drive()
        self._on_answer(attempt)  # an interrupt may have stopped it
        if self.done():
            return True
        left = self._end_s - real_monotonic()
        if left <= 0:
            self.fail(_too_late(attempt.error()))
            return True
        RawGate().wait(min(RETRY_BACKOFF_S, left))
        closed = self._closed()
        if closed is not None:
            self.fail(closed.copy())
            return True
        self._follow(self._call())
        return True

    def on_turn(self, gate: Gate) -> None:
        self._turns.append(gate)
        attempt = self._attempt
        if attempt.work is not None and not attempt.done():
            attempt.work.on_turn(gate)

    def soon(self) -> None:
        """An attempt that is under way is completed. It is not made again: no thread waits."""
        if self._attempt.work is not None:
            self._attempt.work.soon()


def _too_late(error: BaseException | None) -> RequestTimedOutError:
    late = RequestTimedOutError(
        f"The call was made again for {DEFAULT_API_TIMEOUT_S:g} s, and did not succeed. The last answer: {error}"
    )
    late.__cause__ = error
    return late


def answer_of(request: Completion[T], timeout_s: float | None = None) -> T:
    """Block until a request about a transaction is answered, which may take until a partition of it has a leader again.

    Raises its error; RequestTimedOutError after `timeout_s` (real seconds), and after `DEFAULT_API_TIMEOUT_S` at the latest: it
    may be done later, and may be made again.
    """
    if request.done():  # the usual case, without the preparations of a wait
        return result_of(request)
    limit_s = DEFAULT_API_TIMEOUT_S if timeout_s is None else min(timeout_s, DEFAULT_API_TIMEOUT_S)
    try:
        is_answered = wait_for(request, limit_s)
    finally:  # also after an interrupt
        if request.work is not None and not request.done():
            request.work.soon()
    if not is_answered:
        raise RequestTimedOutError(
            f"The coordinator has not answered for {limit_s:g} s: a partition of the transaction has no leader, or too few "
            f"replicas in sync. The request goes on; make it again once its brokers run."
        )
    return result_of(request)


def _open() -> None:
    """A handle that is not closed."""


def _never(_: BaseException) -> bool:
    return False


def _retried(
    call: Callable[P, Completion[T]], closed: Callable[[], StreamlogError | None], name: str
) -> Callable[P, Completion[T]]:
    is_in_force = _IN_FORCE.get(name, _never)

    @wraps(call)
    def answer(*args: P.args, **kwargs: P.kwargs) -> Completion[T]:
        if name == "create_topic":
            kwargs["topic_id"] = entropy(16)
        attempt = call(*args, **kwargs)
        if attempt.done() and not isinstance(attempt.error(), MOVES):
            return attempt
        return RetriedCall(lambda: call(*args, **kwargs), attempt, closed, is_in_force)

    return answer


class RetryingService:
    """A Service some of whose calls are made again. Everything else is the Service's own."""

    __reduce_ex__ = refuse_to_copy

    def __init__(
        self, service: Service, closed: Callable[[], StreamlogError | None], names: tuple[str, ...] = _RETRIED
    ) -> None:
        self.__dict__.update({name: _retried(getattr(service, name), closed, name) for name in names}, _service=service)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_service"], name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self.__dict__["_service"], name, value)


def with_retries(service: Service, closed: Callable[[], StreamlogError | None] = _open) -> Service:
    """A Service whose calls wait while a partition has no leader; `service` itself for a log of one broker.

    `closed` gives the error of calls that wait while their handle is closed, else None. It must not refer to the handle, which
    is collected otherwise.
    """
    return cast(Service, RetryingService(service, closed)) if service.is_replicated else service


def with_coordinator_retries(service: Service, closed: Callable[[], StreamlogError | None] = _open) -> Service:
    """A Service whose calls on transactions wait for their coordinator, and for the end of the transaction before.

    A log of one broker has such moments too.
    """
    return cast(Service, RetryingService(service, closed, _OF_TRANSACTIONS))


def commits_of(service: Service) -> Service:
    """A Service whose `committed` waits for the coordinator of the group, and for the end of a transaction of it.

    A log of one broker has such moments too.
    """
    return cast(Service, RetryingService(service, _open, ("committed",)))


def no_leader_in_time() -> RequestTimedOutError:
    return RequestTimedOutError(
        f"A partition, or the group's coordinator, has had no leader for {DEFAULT_API_TIMEOUT_S:g} s, so the rest of the records "
        f"cannot be read. log.metrics() says which partitions are offline; start a broker of their in-sync sets."
    )
