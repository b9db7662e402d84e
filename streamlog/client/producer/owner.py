"""What the queues of a producer need of it."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from ...broker.api import ProduceRequest, ProducerIdAndEpoch, Service
from ...runtime.api import Completion
from .batch import Batch


class QueueOwner(Protocol):
    """What a queue needs of its producer: the RecordAccumulator. `producer` is that of an idempotent one.

    The queues that are given to it are `PartitionQueue`s, whose file imports this one.
    """

    service: Service
    producer: ProducerIdAndEpoch | None
    delivery_timeout_ms: int
    leaders_move: bool
    """Whether another broker may lead soon, so that what no leader takes now is sent again: a log of several brokers."""
    batch_size: int
    codec: int
    acks: Literal[0, 1, "all"]
    is_transactional: bool

    @property
    def has_plenty(self) -> bool: ...

    def produce(self, request: ProduceRequest) -> Completion[int]: ...
    def settle(self, request: ProduceRequest) -> Completion[int] | None: ...
    def call_soon(self, queue: Any) -> None: ...
    def note(self, queue: Any) -> None: ...
    def reserve(self, size: int) -> bool: ...
    def grow(self, batch: Batch, limit: int) -> bool: ...
    def arm(self, queue: Any, deadline_ms: int) -> None: ...
    def completed(self, batch: Batch) -> None: ...
    def observed(self, batch: Batch) -> None: ...
    def now_ms(self) -> int: ...
