"""A reassignment that a program began, or found under way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..broker.reassignments import Moves, Retirement
from ..errors import StreamlogError
from ..runtime.threads import result_of, wait_for
from ..runtime.values import refuse_to_copy
from .arguments import seconds

if TYPE_CHECKING:
    from .streamlog import StreamLog


class Reassignment:
    """Partitions that move to other brokers, or get another number of replicas. Thread-safe.

    Made by `StreamLog.reassign`, and by `StreamLog.retire_broker`, where all that a broker has moves and then the broker leaves the
    log. It goes on in the background, also at the next open after a close or a crash, whether a program waits for it or not. A
    partition that was given other replicas meanwhile, or whose topic was deleted, counts as done. (KIP-455)

    - How far it is: `progress`, `done`. Waiting for its end: `wait`. Taking it back: `cancel`.

    >>> import streamlog
    >>> with streamlog.open(brokers=3) as log:
    ...     orders = log.create_topic("orders", replication_factor=1)
    ...     moved = log.reassign("orders", replicas={0: [2, 1]})
    ...     moved.wait(10)
    ...     moved.done(), moved.progress, orders.partition(0).replicas
    (True, 1.0, (2, 1))
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(self, log: StreamLog, moves: Moves) -> None:
        """For the library's own use: `StreamLog.reassign` makes it."""
        self._log = log
        self._moves = moves

    @property
    def progress(self) -> float:
        """How much of it is done, from 0.0 to 1.0: the part of the records that the new replicas have. 1.0 only at the end."""
        return self._log._use().reassignment_progress(self._moves)

    def done(self) -> bool:
        """Whether it is done: the partitions have these replicas, all in sync, and no others."""
        return self.progress == 1.0

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it is done, `timeout` seconds at most. Raises TimeoutError then: it goes on all the same."""
        limit = None if timeout is None else seconds(timeout)
        done = self._log._use().await_reassignment(self._moves)
        if not wait_for(done, limit):
            raise TimeoutError(
                f"The reassignment is not done after {timeout} s ({self.progress:.0%}). It goes on in the background; wait again, or "
                f"cancel() it."
            )
        result_of(done)

    def cancel(self) -> None:
        """Give the partitions that are not done the replicas back that they had. Those that are done stay as they are.

        A broker that was about to leave the log stays.
        """
        result_of(self._log._use().cancel_reassignment(self._moves))

    def __repr__(self) -> str:
        try:
            state = f"{self.progress:.0%}"
        except StreamlogError:  # the log was closed
            state = "closed"
        if isinstance(self._moves, Retirement):
            return f"<streamlog.Reassignment retires broker {self._moves.broker_id} {state}>"
        moving = ", ".join(f"{name.topic}-{name.partition} to {list(to)}" for name, to in list(self._moves.items())[:3])
        return f"<streamlog.Reassignment {moving}{', …' if len(self._moves) > 3 else ''} {state}>"
