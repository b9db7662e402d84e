"""A service that a test answers by hand, and what the parts of a producer need beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest

from streamlog.broker.api import ProduceRequest
from streamlog.broker.metadata import EMPTY, Image, TopicView, view_of
from streamlog.client.producer.accumulator import RecordAccumulator
from streamlog.config import ProducerConfig, TopicConfig
from streamlog.errors import StreamlogError
from streamlog.runtime.api import Completion
from streamlog.testing import ManualClock
from tests.unit.client.producer.one_queue import OneQueue


class Scheduler:
    """Notes what is to be called, and when."""

    def __init__(self) -> None:
        self.tasks: dict[Any, int] = {}

    def at(self, when_ms: int, task: Any) -> None:
        self.tasks[task] = min(when_ms, self.tasks.get(task, when_ms))

    def cancel(self, task: Any) -> None:
        self.tasks.pop(task, None)


class HandService:
    """Appends at once, and notes each write as the record counts of its batches.

    `answers` has what the next calls of `produce` give: a Completion, the error of a failed one, or an interrupt that is raised; when it is empty, a
    write is done when it is appended.
    """

    durable = is_replicated = False

    def __init__(self) -> None:
        self.clock = ManualClock(start_ms=1_000_000)
        self.timers = Scheduler()
        self.image = EMPTY
        self.writes: list[list[int]] = []
        self.answers: list[Any] = []
        self.settled: Completion[int] | None = None
        self.end_offset = 0

    def producer_state(self, partition: Any, producer_id: int) -> Completion[None]:
        return Completion.of(None)

    def produce(self, request: ProduceRequest) -> Completion[int]:
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, StreamlogError):
            return Completion.failed(answer)
        if isinstance(answer, BaseException):
            raise answer
        counts = [batch.record_count for batch in request.batches]
        self.writes.append(counts)
        request.append.base_offset, request.append.append_ms = self.end_offset, self.clock.time_ms()
        self.end_offset += sum(counts)
        return answer if answer is not None else Completion.of(request.base_offset)

    def settle(self, request: ProduceRequest) -> Completion[int] | None:
        return self.settled

    def add_topic(self, name: str, partitions: int = 1, *, number: int = 1, **config: Any) -> TopicView:
        view = view_of(name, UUID(int=number), partitions, TopicConfig(**config), False)
        image = self.image
        self.image = Image(image.version + 1, {**image.topics, name: view}, {**image.names, view.id_bytes: name})
        return view

    def remove_topic(self, name: str) -> None:
        image = self.image
        self.image = Image(
            image.version + 1,
            {k: v for k, v in image.topics.items() if k != name},
            {k: v for k, v in image.names.items() if v != name},
        )


@pytest.fixture
def service() -> HandService:
    return HandService()


@pytest.fixture
def accumulator_of(service: HandService) -> Callable[..., RecordAccumulator]:
    """An accumulator with these settings of a producer."""
    return lambda **config: RecordAccumulator(service, ProducerConfig(**config))  # type: ignore[arg-type]


@pytest.fixture
def make() -> Iterator[Callable[..., OneQueue]]:
    made: list[OneQueue] = []

    def one(**config: Any) -> OneQueue:
        made.append(OneQueue(**config))
        return made[-1]

    yield one
    for each in made:
        each.log.close()
