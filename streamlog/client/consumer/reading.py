"""What a consumer consists of, and the two locks that guard it.

`_busy` is held by the thread inside a call; another one is refused. `_state` guards what the consumer
holds, for short, so that a newcomer to the group can take partitions from an idle member; it is not
held while waiting, and no lock of the log is taken with it but the coordinator's and the partitions'.
A listener is called with `_state` held: it may use this consumer, from this thread.
"""

from __future__ import annotations

from typing import Any

from ...broker.api import Service
from ...config import ConsumerConfig
from ...errors import ConcurrentUseError
from ...runtime.threads import get_ident, new_lock, reentrant
from ...types import TopicPartition
from ..handle import Closing, Parent
from .listener import check_listener
from .membership import Membership, Wakeup
from .subscription import Subscription
from .subscription_state import Assignment


class Reading(Closing):
    """The parts of a consumer. The rest of it is in `sharing`, `positions` and `consumer`, in that order."""

    def __init__(self, log: Parent, config: ConsumerConfig) -> None:
        self._config = config
        self._log = log
        self._service: Service = log._use()
        if config.group is not None:
            self._service.require_writable(f"A consumer with group={config.group!r} (one without only reads)")
        self._cleanup = log._cleanup
        self._local_members = log._local_members
        self._deferred_closes = log._cleanup.deferred_closes
        self._busy = new_lock()
        self._state = new_lock()
        self._owner = 0
        self._inside = 0
        self._taker = 0
        self._going: frozenset[TopicPartition] = frozenset()
        self._wakeup = Wakeup()
        self._subscription = Subscription()
        self._held = Assignment()
        self._listener: Any = check_listener(config.listener)
        self._last_commit: dict[TopicPartition, int] = {}
        self._topic_ids: dict[TopicPartition, bytes] = {}  # of each partition that was ever held, as it was last
        self._made_anew: set[TopicPartition] = set()  # held in a former topic too
        self._next_commit_s: float | None = None
        self._next_check_s: float | None = None
        self._auto_commits = config.auto_commits
        group = config.group
        self._membership = (
            None if group is None else Membership(self._service, config, group, self._wakeup, log._local_members)
        )
        self._serdes: dict[str, tuple[Any, Any]] = {}
        self._decoders = log._decoders(config, self._serdes)

    def _enter(self, *, only_looks: bool = False) -> Any:
        """What to hold during a call: the lock, or nothing for a listener that calls from within one.

        Other code that runs in the middle of one (a signal handler, a deserializer) may only look at what is held.
        """
        if self._deferred_closes:
            self._cleanup.run_deferred_closes()
        self._check()
        here = get_ident()
        if self._busy.locked():
            if self._owner == here:
                if self._inside != here and not only_looks:
                    raise reentrant()
                return _WITHIN
            raise ConcurrentUseError(
                "This consumer is in use by another thread. Give each thread a consumer of its own (members of one group "
                "share the partitions); only stop() may come from anywhere."
            )
        self._owner = here
        return self._busy

    def _check(self) -> None:
        # A listener may still commit while a log that closes, and so has closed this already, gives up the partitions.
        if self._dead is not None and self._inside != get_ident():
            raise self._dead.copy()

    def _guard(self) -> Any:
        """The state lock, unless a listener is calling from inside a poll that holds it."""
        here = get_ident()
        if self._inside == here:
            return _WITHIN
        if self._taker == here and self._state.locked():  # this thread takes a partition from it, and was interrupted
            raise reentrant()
        return self._state


class _Within:
    """Stands in for a lock that this thread holds already."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc: object) -> None:
        return None


_WITHIN = _Within()
