"""A reassignment that a program began, or found under way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import StreamlogError
from ..runtime.threads import result_of, wait_for
from ..runtime.values import refuse_to_copy
from ..types import TopicPartition
from .arguments import seconds

if TYPE_CHECKING:
    from .streamlog import StreamLog


class Reassignment:
    """Partitions that move to other brokers, or get another number of replicas. Made by `StreamLog.reassign`. Thread-safe.

    It goes on in the background, also after a crash, at the next open; nobody has to wait for it. A partition that was given other
    replicas meanwhile, or whose topic was deleted, counts as done.

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

    def __init__(self, log: StreamLog, targets: Mapping[TopicPartition, tuple[int, ...]]) -> None:
        """For the library's own use: `StreamLog.reassign` makes it."""
        self._log = log
        self._targets = targets

    @property
    def progress(self) -> float:
        """How much of it is done, from 0.0 to 1.0: the part of the records that the new replicas have. 1.0 only at the end."""
        return self._log._use().reassignment_progress(self._targets)

    def done(self) -> bool:
        return self.progress == 1.0

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it is done, `timeout` seconds at most. Raises TimeoutError then: it goes on all the same."""
        limit = None if timeout is None else seconds(timeout)
        done = self._log._use().await_reassignment(self._targets)
        if not wait_for(done, limit):
            raise TimeoutError(
                f"The reassignment is not done after {timeout} s ({self.progress:.0%}). It goes on in the background; wait again, or "
                f"cancel() it."
            )
        result_of(done)

    def cancel(self) -> None:
        """Have the partitions that are still on their way go back to the replicas that they had. What is done stays so."""
        result_of(self._log._use().cancel_reassignment(self._targets))

    def __repr__(self) -> str:
        try:
            state = f"{self.progress:.0%}"
        except StreamlogError:  # the log was closed
            state = "closed"
        moving = ", ".join(
            f"{name.topic}-{name.partition} to {list(to)}" for name, to in list(self._targets.items())[:3]
        )
        return f"<streamlog.Reassignment {moving}{', …' if len(self._targets) > 3 else ''} {state}>"
