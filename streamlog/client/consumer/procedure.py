"""Work of a consumer that may have to wait, as a generator: it yields what it waits for, and never waits itself.

The parts of a consumer that speak with the group are written so, and `core` steps them. What waits is a *driver*: it runs
a procedure on a thread of the program, which it blocks (`driver`), or on an event loop. It does what the procedure has
yielded, and resumes it; what that raised it throws into the procedure, which is left as a function would be.

asyncio had coroutines of this form before it had `await` (PEP 342, PEP 380); an event loop can await each thing that is yielded.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple, Protocol, TypeVar

from ...errors import StreamlogError
from ...runtime.api import Completion
from ...types import TopicPartition

T = TypeVar("T")


class ListenerCall(NamedTuple):
    """Call a method of the program's rebalance listener, which may use the consumer meanwhile."""

    method: Callable[[list[TopicPartition]], object]
    partitions: list[TopicPartition]


class ReleaseRequest(NamedTuple):
    """Ask another member of this process to release its partitions, if it is idle."""

    release: Callable[[], object]


class Bounded(NamedTuple):
    """Wait until a Completion is done, but no longer than this (real seconds). What it brings later needs no caller."""

    completion: Completion[Any]
    timeout_s: float


Wanted = Completion[Any] | Bounded | ListenerCall | ReleaseRequest
Procedure = Generator[Wanted, None, T]


def answer_of(completion: Completion[T]) -> Procedure[T]:
    """The value of a Completion, or its error raised, once it is done. A step before that changes nothing."""
    while not completion.done():
        yield completion
    return completion.result()


class Driver(Protocol):
    """What a consumer's core asks of the driver that runs it. The life of a member is that of what polls it."""

    @property
    def closed_error(self) -> StreamlogError | None:
        """None while the consumer is open, otherwise the error of every call."""

    def polled(self, ended: Callable[[], object]) -> None:
        """The caller polls. `ended` is called, and must not block, when it will never poll again: its thread has ended."""

    def is_alive(self) -> bool:
        """Whether the one that polled last may poll again."""

    def is_elsewhere(self) -> bool:
        """Whether the consumer is polled by another thread or task than the caller's, and so can poll while this one waits."""

    def run_for_another(self, procedure: Callable[[], Procedure[None] | None]) -> None:
        """Run what another member of this process asks for, on its thread; not if this consumer is in the middle of a step."""
