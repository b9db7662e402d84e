"""A consumer without I/O, locks and threads: what it does in a step, and what it waits for after one.

A driver steps it. The blocking one is `driver`, with the loops of `consumer`; one for an event loop needs no other core.

    core.begin()                           a call of the program begins: what was returned is finished
    core.step(take)                        records; or nothing, and `core.waits()` says what to wait for
        wanted: a Completion, a call       do it, step again
        nothing                            wait until `session` or `wakeup` wakes, or until the deadline; step again

A step is given no time, though it depends on it: a membership lives by real time, and an auto-commit is due by the clock of the
log. Both come from the Service, as everything else that a step asks for, and so from a test. A caller that passed them would
read both for every step, and a consumer without a group needs neither.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from ...errors import LogTruncationError, OffsetOutOfRangeError, UnknownTopicIdError, UnknownTopicOrPartitionError
from .coordinator import ConsumerCoordinator
from .offsets import OffsetFetcher
from .procedure import Procedure, Wanted
from .subscription_state import EndOffsets, SubscriptionState

A = TypeVar("A")
_ELSEWHERE = (OffsetOutOfRangeError, LogTruncationError, UnknownTopicOrPartitionError, UnknownTopicIdError)


class Wait(NamedTuple):
    """What a consumer waits for after a step that gave no records.

    `wanted` is to be done first. If it is None, the wait ends when a name is in `ready` of the fetch session, when a wakeup
    is pending, or after `timeout_s` (seconds, inf without a deadline).
    """

    wanted: Wanted | None
    timeout_s: float


class ConsumerCore:
    """The coordinator's work and then a fetch: the two halves of a step. REQUIRES: the state lock, where there is one."""

    __slots__ = ("_coordinator", "_offsets", "_subscriptions", "procedure", "wanted")

    def __init__(
        self, coordinator: ConsumerCoordinator, subscriptions: SubscriptionState, offsets: OffsetFetcher
    ) -> None:
        self._coordinator = coordinator
        self._subscriptions = subscriptions
        self._offsets = offsets
        self.procedure: Procedure[None] | None = None
        """What the coordinator is in the middle of."""
        self.wanted: Wanted | None = None
        """What `procedure` waits for."""

    def begin(self) -> None:
        """A call begins, which asks for records: the program has finished those of the call before.

        What a call that raised was in the middle of is given up; the coordinator begins anew.
        """
        if self.procedure is not None:
            procedure, self.procedure, self.wanted = self.procedure, None, None
            procedure.close()
        self._subscriptions.finish()

    def step(self, take: Callable[[], A]) -> A | None:
        """Let the coordinator poll, then give what `take` does. It does not wait.

        If `wanted` is not None afterwards, the coordinator waits for it; otherwise, without records, there are none.
        """
        procedure = self.procedure
        if procedure is None:
            procedure = self._coordinator.poll()
        if procedure is not None:
            self.procedure = procedure
            self.wanted = next(procedure, None)
            if self.wanted is not None:
                return None
            self.procedure = None
        try:
            return take()
        except _ELSEWHERE:
            pass  # not in the handler: what the call raises would show what was handled
        return self._fetch_elsewhere(take)

    def step_after_append(self, take: Callable[[], A]) -> A | None:
        """`step` without the coordinator, if neither the group nor the topics have changed; None if they may have."""
        return self.fetch(take) if self._coordinator.is_up_to_date() else None

    def waits(self) -> Wait:
        """What to wait for after the last step, which gave no records."""
        return Wait(self.wanted, self._coordinator.longest_wait_s())

    def awaits_leader(self, ends: EndOffsets) -> bool:
        """Whether the last step gave no records because no broker leads a partition now, or coordinates the group."""
        return self._coordinator.retry_s is not None or (
            self._coordinator.leaders_move and self._subscriptions.awaits_leader(ends)
        )

    def fetch(self, take: Callable[[], A]) -> A:
        """Take; move positions that are outside the log, stop reading deleted partitions, and take again."""
        try:
            return take()
        except _ELSEWHERE:
            return self._fetch_elsewhere(take)

    def _fetch_elsewhere(self, take: Callable[[], A]) -> A:
        subscriptions = self._subscriptions
        for _ in range(len(subscriptions.fetchers) + 1):
            truncated: LogTruncationError | None = None
            try:
                return take()
            except OffsetOutOfRangeError:
                out_of_range = True
            except LogTruncationError as error:
                out_of_range, truncated = True, error.copy()  # the error itself refers to this frame
            except (UnknownTopicOrPartitionError, UnknownTopicIdError):
                if subscriptions.subscription.manual is not None:
                    raise
                out_of_range = False
            if out_of_range:
                assert subscriptions.failed is not None
                if truncated is None:
                    self._offsets.reset_out_of_range(subscriptions.failed)
                else:
                    self._offsets.reset_truncated(subscriptions.failed, truncated)
            else:
                self._coordinator.remove_deleted()
        return take()
