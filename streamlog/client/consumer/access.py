"""Which thread may use a consumer now: two locks, and the threads that hold them.

The *call lock* is held by the thread inside a call; a call from another thread is refused. The *state lock* guards what
the consumer has subscribed to and is assigned, so that a new member of its group can take partitions from an idle one.
It is held for short: while waiting only for an answer of the Service. Of the locks of the log, only those of the coordinator and of partitions are
acquired with it held.

A rebalance listener is called with both locks held, and may use the consumer from its thread. Any other code that runs in
the middle of a call (a signal handler, a deserializer) may only read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...errors import ConcurrentUseError, StreamlogError
from ...runtime.threads import get_ident, new_lock, reentrant
from ...runtime.values import refuse_to_copy
from ...types import TopicPartition
from ..cleanup import Cleanup


class Access:
    """The locks of one consumer. `with access.call(), access.state():` is what most calls begin with."""

    __slots__ = ("_cleanup", "_deferred_closes", "call_lock", "closed_error", "listener_thread", "owner", "state_lock", "taker")  # fmt: skip

    __reduce_ex__ = refuse_to_copy

    def __init__(self, cleanup: Cleanup) -> None:
        self._cleanup = cleanup
        self._deferred_closes = cleanup.deferred_closes
        self.call_lock = new_lock()
        self.state_lock = new_lock()
        self.closed_error: StreamlogError | None = None
        """None while the consumer is open, otherwise the error that every call raises."""
        self.owner = 0
        """The thread that entered a call last."""
        self.listener_thread = 0
        """The thread in which a listener is being called, or 0."""
        self.taker = 0
        """The thread that was the last to take partitions for another member."""

    def call(self, *, reads_only: bool = False) -> Any:
        """What to hold during a call: the call lock, or nothing if a listener calls from within another call.

        Raises the consumer's closed error, ConcurrentUseError, and ReentrantCallError unless it `reads_only`.
        """
        if self._deferred_closes:
            self._cleanup.run_deferred_closes()
        here = get_ident()
        if self.closed_error is not None:
            self.check()
        if self.call_lock.locked():
            if self.owner == here:
                if self.listener_thread != here and not reads_only:
                    raise reentrant()
                return _HELD
            raise ConcurrentUseError(
                "This consumer is in use by another thread. Give each thread a consumer of its own (members of one group "
                "share the partitions); only stop() may come from anywhere."
            )
        self.owner = here
        return self.call_lock

    def state(self) -> Any:
        """What to hold around the state: the state lock, or nothing if a listener calls, which runs with it held."""
        here = get_ident()
        if self.listener_thread == here:
            return _HELD
        if self.taker == here and self.state_lock.locked():  # this thread was interrupted while it takes a partition
            raise reentrant()
        return self.state_lock

    def call_and_state(self) -> tuple[Any, Any]:
        """`call()` and `state()`, for `with call, state:`. The usual answers are written out: it is part of each seek and poll."""
        here = get_ident()
        if (
            self._deferred_closes
            or self.closed_error is not None
            or self.listener_thread == here
            or self.taker == here
            or self.call_lock.locked()
        ):
            return self.call(), self.state()
        self.owner = here
        return self.call_lock, self.state_lock

    def check(self) -> None:
        """Raise the closed error of a consumer that is closed.

        Not to its listener: while the log closes, and has marked the consumer as closed, the listener may still commit.
        """
        if self.closed_error is not None and self.listener_thread != get_ident():
            raise self.closed_error.copy()

    def state_for_another(self) -> Any:
        """What to hold for a thread that takes partitions for another member: the state lock; None if it is held."""
        if self.state_lock.locked():
            return None
        self.taker = get_ident()
        return self.state_lock

    def call_listener(self, method: Callable[[list[TopicPartition]], object], names: list[TopicPartition]) -> None:
        """Call a listener, which may use the consumer in this thread. REQUIRES: the state lock."""
        before, self.listener_thread = self.listener_thread, get_ident()  # a listener can cause a call of another
        try:
            method(names)
        finally:
            self.listener_thread = before

    def is_in_call(self) -> bool:
        """Whether this thread is inside a call of the consumer."""
        return self.call_lock.locked() and self.owner == get_ident()

    def has_interrupted_call(self) -> bool:
        """Whether the caller interrupted a call of its own thread; a listener has not."""
        return self.is_in_call() and self.listener_thread != get_ident()


class _Held:
    """Stands in for a lock that this thread holds already."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc: object) -> None:
        return None


_HELD = _Held()
