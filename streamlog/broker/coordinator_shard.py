"""A shard of the transactions' coordinator: its lock, and its loading.

The shard's lock is held around each request, and never while a callback runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from ..coordinator.schema import LogRecord
from ..errors import NotCoordinatorError, NotLeaderError, StorageError
from ..replication.partition import Partition
from ..runtime.api import Completion, Lock
from ..runtime.threads import inside
from ..runtime.values import refuse_to_copy
from .coordinator_log import CoordinatorLog, Host, State, raise_closed
from .replay import all_records

S = TypeVar("S", bound=State)
T = TypeVar("T")


class CoordinatorShard(Generic[S]):
    """Thread-safe. `find(create)` gives the leader's replica of the partition; None if there is no such topic and it is not created.

    `make` makes the state from what appends its records. `load` replays the records of the log, and has it answer requests;
    its Completion is done when they count as written.
    """

    __reduce_ex__ = refuse_to_copy

    def __init__(
        self,
        host: Host,
        find: Callable[[bool], Partition | None],
        make: Callable[[Callable[[Sequence[LogRecord]], Completion[int]]], S],
        load: Callable[[S, Iterator[LogRecord], Completion[int]], None],
        lock: Lock,
    ) -> None:
        self._find = find
        self._load_state = load
        self._lock = lock
        self._log = CoordinatorLog(host, make)
        self.state = self._log.state

    @property
    def leader_epoch(self) -> int:
        """That in which the shard was loaded."""
        return self._log.leader_epoch

    @property
    def is_current(self) -> bool:
        """Whether it is loaded, and from the replica that leads now."""
        try:
            partition = self._find(False)
        except NotLeaderError:
            return False
        return partition is not None and self._log.is_loaded(partition)

    def _load(self, partition: Partition) -> None:
        """Load the shard from its partition, if it is not. REQUIRES: the lock."""
        if not self._log.is_loaded(partition):
            end, written = self._log.begin_loading(partition)
            self._load_state(self.state, all_records(partition, end), written)
            self._log.loaded()

    def ask(self, request: Callable[[S], T], otherwise: Callable[[], T], *, create: bool = False) -> T:
        """Run one request under the lock; `otherwise` answers if there is no topic yet.

        After an interrupt the log is replayed before the next request; see `CoordinatorLog.run`. Raises NotCoordinatorError if
        no broker leads the partition. REQUIRES: this is not in the middle of another call of this thread, or that of an open.
        """
        try:
            partition = self._find(create)
        except NotLeaderError as error:
            raise NotCoordinatorError(f"No broker coordinates this now. {error}") from error
        if partition is None:
            return otherwise()
        with inside(), self._lock:
            try:
                self._load(partition)
                return self._log.run(request)
            except StorageError:
                raise_closed(partition)
                raise
