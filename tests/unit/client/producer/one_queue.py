"""One queue of a producer before a log, and a service whose answers to it are errors."""

from __future__ import annotations

from typing import Any

import streamlog
from streamlog.broker.api import ProduceRequest, ProducerIdAndEpoch
from streamlog.client.producer.accumulator import RecordAccumulator
from streamlog.client.producer.batch import Batch
from streamlog.config import ProducerConfig
from streamlog.errors import NotLeaderError, StreamlogError
from streamlog.records import columns
from streamlog.replication.follower import truncate_to
from streamlog.runtime.api import Completion
from streamlog.runtime.threads import result_of
from streamlog.testing import ManualClock, SimulatedDisk

BEFORE, AFTER, LOST, LATER = "before", "after", "lost", "later"


class Faulty:
    """The service, some of whose answers to `produce` are errors.

    `faults` has one for each of the next calls, or None: an error, and where it comes: BEFORE the append; AFTER it, and
    the request knows its offset; or the answer is LOST, and the request does not. LATER: the answer comes with the next
    of `pending` that the test completes.
    """

    def __init__(self, service: Any) -> None:
        self._service = service
        self.faults: list[tuple[BaseException, str] | None] = []
        self.batches: list[int] = []
        self.pending: list[Completion[int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._service, name)

    def produce(self, request: ProduceRequest) -> Completion[int]:
        self.batches.append(len(request.batches))
        fault = self.faults.pop(0) if self.faults else None
        if fault is None:
            answer: Completion[int] = self._service.produce(request)
            return answer
        error, where = fault
        if where == AFTER:
            self._service.produce(request).result()
        elif where == LOST:
            self._service.produce(ProduceRequest(request.partition, request.batches, request.acks)).result()
        elif where == LATER:
            self._service.produce(request).result()
            self.pending.append(Completion())
            return self.pending[-1]
        if isinstance(error, StreamlogError):
            return Completion.failed(error)
        raise error


class OneQueue:
    """One partition, and the queue of one producer for it, idempotent or not."""

    def __init__(self, *, idempotent: bool = True, **config: Any) -> None:
        self.clock = ManualClock()
        self.log = streamlog.open("/log", disk=SimulatedDisk(), clock=self.clock)
        self.topic = self.log.create_topic("t", partitions=1)
        self.service = Faulty(self.log._use())
        self.id = result_of(self.service.init_producer_id())
        settings: dict[str, Any] = {"linger_ms": 60_000, "batch_size": 100, "delivery_timeout_ms": 60_000, **config}
        self.accumulator = RecordAccumulator(self.service, ProducerConfig(**settings), self.id if idempotent else None)
        self.accumulator.leaders_move = True  # as in a log of several brokers
        self.queue = self.accumulator.queue(self.topic._view(), 0)
        self.sent = 0

    def add(self, records: int = 1) -> list[tuple[Batch, int]]:
        added = []
        for _ in range(records):
            row = (None, b"%d" % self.sent, self.clock.time_ms())
            added.append(self.accumulator.add(self.queue, row, 40))
            self.sent += 1
        return added

    def send(self, batches: int = 1) -> list[Batch]:
        """Queue batches of two records each, and write them."""
        made = []
        for _ in range(batches):
            made.append(self.add(2)[-1][0])
            self.queue.close_batch()
        self.queue.drain()
        return made

    def send_later(self, batches: int = 1) -> list[Batch]:
        """`send`, each by itself, and have them wait to be acknowledged."""
        self.service.faults = [(NotLeaderError("later"), LATER)] * batches
        return [self.send()[0] for _ in range(batches)]

    def truncate(self, offset: int) -> None:
        """The log loses its end, and the records there are not acknowledged any more."""
        truncate_to(self.log._use()._partitions["t", 0], offset)  # type: ignore[attr-defined]
        for answer in self.service.pending:
            answer.fail(NotLeaderError("removed"))
        self.service.pending.clear()

    def stored(self) -> list[int]:
        return [int(record.value) for record in self.topic.read()]

    def append(self, sequence: int, producer: ProducerIdAndEpoch | None = None) -> int:
        """Append one record of the producer's without the queue."""
        sealed = columns.seal(self.queue.seed, None, [b"-1"], self.clock.time_ms(), count=1)
        request = ProduceRequest(self.queue.at, [sealed.sequenced(*(producer or self.id), sequence)])
        return self.log._use().produce(request).result()
