"""A consumer whose offsets are committed by the transactions of a producer (KIP-447)."""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from ...config import typed
from ...errors import ClosedError, ConfigError, InvalidTxnStateError, StreamlogError
from ...runtime.threads import result_of
from ...runtime.values import refuse_to_copy
from ...types import OffsetAndMetadata, TopicPartition
from ..handle import Parent
from .consumer import Consumer
from .group_offsets import GroupOffsets

logger = logging.getLogger("streamlog.client")


def check_reader(consumer: Any, log: Parent) -> None:
    """Raise ConfigError for what cannot commit in a transaction of this log."""
    if not isinstance(consumer, Consumer):
        raise ConfigError(f"consumer={typed(consumer)} is not a Consumer of this log.", name="consumer")
    if not consumer._log._same_log(log):
        raise ConfigError(
            f"{consumer!r} reads another log: a transaction is within one log. Handle such records so that a second time does no "
            f"harm.",
            name="consumer",
        )
    if consumer._config.group is None:
        raise ConfigError(
            "The consumer has no group=, so it has no offsets that a transaction could commit.", name="consumer"
        )
    if consumer._config.auto_commits:
        raise ConfigError(
            "The consumer commits by itself, so records would count as read whether the transaction commits or not. Make it with "
            "enable_auto_commit=False.",
            name="enable_auto_commit",
        )


def _refuse(open_transaction: Callable[[], str | None]) -> None:
    name = open_transaction()
    if name is not None:
        raise InvalidTxnStateError(
            f"The transaction of {name!r}, which is open, commits the offsets of this consumer at the end of its block: leave commit() "
            f"out. If the transaction were aborted, records that are committed here would never be handled.",
            transactional_id=name,
        )


class Transactional(Protocol):
    """The transactions of a producer: see `TransactionManager`."""

    left_at: Mapping[TopicPartition, int] | None

    def end_left(self) -> None: ...
    def is_read_by(self, consumer: object, /) -> bool: ...


class GroupReader:
    """The `Reader` of a transaction."""

    __slots__ = ("_consumer",)
    __reduce_ex__ = refuse_to_copy

    def __init__(self, consumer: Consumer[Any, Any]) -> None:
        self._consumer = consumer

    def take_part(self, open_transaction: Callable[[], str | None]) -> None:
        """Have the consumer refuse a `commit` while a transaction is to commit its offsets."""
        self._consumer._refuse_commit = partial(_refuse, open_transaction)

    def is_of(self, consumer: object) -> bool:
        return self._consumer is consumer

    def begin(self, manager: Transactional) -> None:
        """A consumer is in one transaction at a time: end that of another producer that was left without its end.

        Raises what `TransactionManager.end_left` raises.
        """
        consumer = self._consumer
        before = consumer._transactional()
        if before is not None and before is not manager and before.is_read_by(consumer):
            before.end_left()
        consumer._transactional = weakref.ref(manager)

    def not_begun(self) -> None:
        """What was returned since the transaction before comes again. Not if the consumer is in another one that is open."""
        consumer = self._consumer
        before = consumer._transactional()
        with contextlib.suppress(StreamlogError):  # another thread uses it, or has closed it
            if before is None or not before.is_read_by(consumer):
                self.rewind(ask=False)
            elif before.left_at is not None:  # it may be committed, and then what follows it is next
                self._move(lambda: consumer._subscriptions.return_to(before.left_at))

    def position(self) -> dict[TopicPartition, int]:
        """The offset after the last record that was returned of each assigned partition. Raises ClosedError."""
        consumer = self._consumer
        with consumer._access.call(), consumer._access.state():
            return consumer._subscriptions.returned_positions(consumer._subscriptions.fetchers)

    def has_moved_from(self, position: Mapping[TopicPartition, int] | None) -> bool:
        """Whether records may have been returned since `position` was that of the consumer; not if it is closed."""
        try:
            return self.position() != position
        except ClosedError:
            return False

    def offsets(self, offsets: Any) -> GroupOffsets:
        """What to commit, given as to `Consumer.commit`, and by which member. Raises what that raises."""
        consumer = self._consumer
        with consumer._access.call(), consumer._access.state():
            consumer._check()
            return consumer._coordinator.offsets_to_commit(offsets)

    def committed(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        consumer = self._consumer
        if consumer.closed:
            return
        with consumer._access.call(), consumer._access.state():
            consumer._coordinator.note_committed(offsets)

    def rewind(self, *, ask: bool) -> None:
        """Go back to what this consumer has committed, or where it began, or was moved by the program; of what it is still assigned.

        `ask`: to what the group has committed, by whatever member or transaction.
        """
        self._move(lambda: self._consumer._subscriptions.go_back(self._ask() if ask else {}))

    def _move(self, move: Callable[[], None]) -> None:
        consumer = self._consumer
        if consumer.closed:
            return
        with consumer._access.call(), consumer._access.state():
            move()
            consumer._wakeup.pending = True

    def _ask(self) -> dict[TopicPartition, int]:
        consumer = self._consumer
        names = list(consumer._subscriptions.fetchers)
        try:
            found = result_of(consumer._offsets.committed(names, patient=True))
        except StreamlogError as error:  # the next poll meets it too
            logger.warning("a consumer goes back to its own commits, for its group's are not known: %s", error)
            return {}
        return {name: committed.offset for name, committed in found.items()}
