"""`RebalanceListener`: called when the group assigns partitions to a consumer, or takes them away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...config import shown
from ...errors import ConfigError
from ...types import TopicPartition
from ..handler import deferred


class RebalanceListener:
    """Called when a group assigns partitions to a consumer, or takes them away. Override what you need.

    Given as `log.consumer(…, group=…, listener=…)` or `consumer.subscribe(topics, listener)`. It is called inside
    `poll`, or the loop, in the polling thread, and may use the consumer. What it raises, `poll` raises.

    >>> import streamlog
    >>> class Printed(streamlog.RebalanceListener):
    ...     def on_partitions_assigned(self, partitions):
    ...         print("assigned", [partition.partition for partition in partitions])
    >>> with streamlog.open(partitions=2, auto_create_topics=True) as log:
    ...     with log.consumer("orders", group="billing", listener=Printed()) as consumer:
    ...         _ = consumer.poll()
    assigned [0, 1]
    """

    def on_partitions_assigned(self, partitions: Sequence[TopicPartition]) -> None:
        """These are assigned to this consumer from now on; their positions are set."""

    def on_partitions_revoked(self, partitions: Sequence[TopicPartition]) -> None:
        """These go to another member, after this call; commit now what should be committed."""

    def on_partitions_lost(self, partitions: Sequence[TopicPartition]) -> None:
        """These are another member's already; a commit would be refused."""

    def __repr__(self) -> str:
        """The class, and which of the methods it overrides."""
        kind = type(self)
        if kind is RebalanceListener:
            return "<streamlog.RebalanceListener: does nothing>"
        own = [name for name in _METHODS if getattr(kind, name) is not getattr(RebalanceListener, name)]
        return f"<{kind.__module__}.{kind.__qualname__}: {', '.join(own) or 'does nothing'}>"


_METHODS = ("on_partitions_assigned", "on_partitions_revoked", "on_partitions_lost")


def check_listener(listener: Any) -> Any:
    """`listener` if it can be called as one, or None. Raises ConfigError, also for methods that a call would not run."""
    if isinstance(listener, type):
        raise ConfigError(
            f"listener={shown(listener)} is a class; give an object of it: {listener.__name__}().", name="listener"
        )
    for name in _METHODS:
        method = None if listener is None else getattr(listener, name, None)
        kind = deferred(method)
        if listener is not None and (not callable(method) or kind is not None):
            why = "which is missing" if kind is None else f"which is {kind}, and nothing would run it"
            raise ConfigError(
                f"listener={shown(listener)} is called with {name}, {why}. Derive from RebalanceListener, and write plain "
                f"methods.",
                name="listener",
            )
    return listener
