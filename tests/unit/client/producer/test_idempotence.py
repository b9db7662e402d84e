"""A queue of an idempotent producer, before a log: no gap, no record twice, in order, whatever becomes of the answers."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import streamlog
from streamlog.broker.api import ProduceRequest, ProducerIdAndEpoch
from streamlog.client.producer import partition_queue
from streamlog.client.producer.accumulator import RecordAccumulator
from streamlog.client.producer.batch import Batch
from streamlog.config import ProducerConfig
from streamlog.errors import (
    DiskFullError,
    InvalidRecordError,
    NotEnoughReplicasError,
    NotLeaderError,
    OutOfOrderSequenceError,
    PoisonedLogError,
    ProducerFencedError,
    RequestTimedOutError,
    StreamlogError,
)
from streamlog.records import columns
from streamlog.runtime.api import Completion
from streamlog.runtime.threads import result_of
from streamlog.testing import ManualClock, SimulatedDisk
from tests.unit.storage.counting_disk import interrupted_at

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


class Idempotent:
    """One partition, and the queue of one idempotent producer for it."""

    def __init__(self, **config: Any) -> None:
        self.clock = ManualClock()
        self.log = streamlog.open("/log", disk=SimulatedDisk(), clock=self.clock)
        self.topic = self.log.create_topic("t", partitions=1)
        self.service = Faulty(self.log._use())
        self.id = result_of(self.service.init_producer_id())
        settings: dict[str, Any] = {"linger_ms": 60_000, "batch_size": 100, "delivery_timeout_ms": 60_000, **config}
        self.accumulator = RecordAccumulator(self.service, ProducerConfig(**settings), self.id)
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
        self.log._use()._partitions["t", 0].truncate_to(offset)  # type: ignore[attr-defined]
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


@pytest.fixture
def make() -> Iterator[Callable[..., Idempotent]]:
    made: list[Idempotent] = []

    def one(**config: Any) -> Idempotent:
        made.append(Idempotent(**config))
        return made[-1]

    yield one
    for each in made:
        each.log.close()


def test_sequences_go_on_from_one_write_to_the_next(make: Callable[..., Idempotent]) -> None:
    one = make()
    batches = one.send(3) + one.send(2)
    assert [batch.result() for batch in batches] == [0, 2, 4, 6, 8]
    with pytest.raises(OutOfOrderSequenceError):
        one.append(sequence=11)
    assert one.append(sequence=10) == 10


def test_no_more_batches_are_written_together_than_a_log_recognises(make: Callable[..., Idempotent]) -> None:
    one = make()
    one.send(12)
    assert one.service.batches == [5, 5, 2]
    assert one.stored() == [*range(24)]


@pytest.mark.parametrize("where", [BEFORE, AFTER, LOST])
def test_after_a_retriable_error_the_head_of_the_queue_is_sent_again_and_is_in_the_log_once(
    make: Callable[..., Idempotent], where: str
) -> None:
    one = make()
    one.send()
    one.service.faults = [(NotLeaderError("moved"), where), (NotEnoughReplicasError("few"), where)]
    first = one.send(2)
    second = one.send()  # waits behind it
    assert not any(batch.done() for batch in first + second)
    one.clock.advance(0.1)
    assert not first[0].done()
    one.clock.advance(0.1)
    assert [batch.result() for batch in first + second] == [2, 4, 6]
    assert one.stored() == [*range(8)]
    assert one.append(sequence=8) == 8


def test_a_request_is_sent_again_with_the_batches_that_it_had(make: Callable[..., Idempotent]) -> None:
    one = make()
    one.service.faults = [(NotLeaderError("moved"), LOST)]
    one.send(2)
    one.send(2)
    one.clock.advance(0.1)
    assert one.service.batches == [2, 2, 2]
    assert one.stored() == [*range(8)]


def test_a_caller_that_waits_does_not_need_the_logs_clock(make: Callable[..., Idempotent]) -> None:
    one = make()
    one.service.faults = [(NotLeaderError("moved"), BEFORE)] * 2
    batch = one.send()[0]
    with pytest.raises(RequestTimedOutError):
        one.queue.flush(batch, 0.01)
    one.queue.flush(batch, None)
    assert batch.result() == 0
    one.service.faults = [(NotLeaderError("moved"), BEFORE)]
    one.add()
    one.accumulator.flush(None)
    assert one.stored() == [0, 1, 2]


def test_a_batch_that_the_log_refuses_leaves_no_gap(make: Callable[..., Idempotent]) -> None:
    one = make()
    one.service.faults = [None, (InvalidRecordError("bad", topic="t"), BEFORE)]
    one.send()
    refused, after = one.send()[0], one.send()[0]
    assert isinstance(refused.error(), InvalidRecordError)
    assert after.result() == 2
    assert one.stored() == [0, 1, 4, 5]


def test_retries_have_a_bound_and_leave_no_gap(make: Callable[..., Idempotent]) -> None:
    one = make(delivery_timeout_ms=300, linger_ms=100)
    one.service.faults = [(DiskFullError("full"), BEFORE)] * 3
    batch = one.send()[0]
    one.clock.advance(1)
    assert isinstance(batch.error(), DiskFullError)
    assert one.send()[0].result() == 0
    assert one.append(sequence=2) == 2


@pytest.mark.parametrize("where", [AFTER, LOST])
def test_records_of_which_no_attempt_was_answered_do_not_lend_their_sequences_to_others(
    make: Callable[..., Idempotent], where: str
) -> None:
    one = make(delivery_timeout_ms=200, linger_ms=100)
    one.service.faults = [(NotLeaderError("moved"), where), (NotLeaderError("moved"), AFTER)]
    batch = one.send()[0]
    one.clock.advance(1)
    assert isinstance(batch.error(), NotLeaderError)
    assert one.send()[0].result() == 2
    assert one.stored() == [0, 1, 2, 3]


def test_batches_that_are_removed_from_the_log_before_they_are_acknowledged_are_sent_again_in_order(
    make: Callable[..., Idempotent],
) -> None:
    one = make()
    one.send()
    lost = one.send_later(7)
    one.truncate(4)
    one.service.faults = [(NotLeaderError("moved"), BEFORE)]
    after = one.send()
    assert not any(batch.done() for batch in lost + after)
    one.clock.advance(0.3)
    assert [batch.result() for batch in lost + after] == [*range(2, 18, 2)]
    assert one.stored() == [*range(18)]
    assert one.append(sequence=18) == 18


def test_batches_whose_acknowledgement_is_late_are_sent_again_and_are_in_the_log_once(
    make: Callable[..., Idempotent],
) -> None:
    one = make()
    late = one.send_later(2)
    one.service.pending[0].fail(RequestTimedOutError("late"))
    one.service.pending[1].complete(2)
    one.clock.advance(0.2)
    assert [batch.result() for batch in late] == [0, 2]
    assert one.stored() == [*range(4)]
    assert one.send()[0].result() == 4


def test_an_error_that_is_not_retriable_fails_a_batch_that_waits_to_be_acknowledged(
    make: Callable[..., Idempotent],
) -> None:
    one = make()
    [batch] = one.send_later()
    one.service.pending[0].fail(PoisonedLogError("poisoned", path="", errno=5))
    assert isinstance(batch.error(), PoisonedLogError)


def test_a_caller_that_waits_sends_what_was_lost_again(make: Callable[..., Idempotent]) -> None:
    one = make()
    first, second = one.send_later(2)
    one.truncate(0)
    one.queue.flush(second, None)
    assert (first.result(), second.result()) == (0, 2)
    one.send_later()
    one.truncate(4)
    one.accumulator.flush(None)
    assert one.stored() == [*range(6)]


def test_a_caller_that_waits_for_a_lost_batch_sleeps_while_one_before_it_may_still_be_acknowledged(
    make: Callable[..., Idempotent], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make()
    first, second = one.send_later(2)
    one.service.pending[1].fail(NotLeaderError("removed"))
    turns = []
    take_turn = one.queue._take_turn
    monkeypatch.setattr(one.queue, "_take_turn", lambda: turns.append(len(turns) < 10 or 1 / 0) or take_turn())
    with pytest.raises(RequestTimedOutError):
        one.queue.flush(second, 0.01)
    one.service.pending[0].complete(0)
    one.queue.flush(second, None)
    assert (first.result(), second.result()) == (0, 2)
    assert one.stored() == [*range(4)]


def test_how_often_a_batch_is_taken_back_has_a_bound(make: Callable[..., Idempotent]) -> None:
    one = make(delivery_timeout_ms=300, linger_ms=100)
    [batch] = one.send_later()
    for _ in range(3):
        assert not batch.done()
        one.service.faults = [(NotLeaderError("later"), LATER)]
        one.truncate(0)
        one.clock.advance(0.1)
    one.truncate(0)
    assert isinstance(batch.error(), NotLeaderError)


@pytest.mark.parametrize("where", ["_take_back", "_drain", "_is_first_lost"])
def test_interrupted_at_any_line_while_it_is_taken_back_each_batch_is_in_the_log_once(
    make: Callable[..., Idempotent], where: str
) -> None:
    line = 0
    while True:
        line += 1
        one = make()
        batches = one.send_later(7)
        one.truncate(2)
        with interrupted_at(line, {where}, "client") as seen, contextlib.suppress(KeyboardInterrupt):
            one.clock.advance(0.3)
        batches += one.send()
        one.accumulator.flush(None)
        assert one.stored() == [*range(16)]
        assert all(batch.done() and batch.error() is None for batch in batches)
        if seen[0] < line:
            break
    assert line > 3


def test_a_fenced_producer_writes_nothing_more(make: Callable[..., Idempotent]) -> None:
    one = make()
    one.send()
    one.append(0, one.id._replace(producer_epoch=1))
    for batch in one.send() + one.send():
        assert isinstance(batch.error(), ProducerFencedError)
    assert one.stored() == [0, 1, -1]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_becomes_of_the_answers_each_record_is_in_the_log_once_and_in_order(
    make: Callable[..., Idempotent], seed: int
) -> None:
    rng = random.Random(seed)
    one = make()
    added: list[tuple[Batch, int]] = []
    for _ in range(60):
        if rng.random() < 0.6:
            error = rng.choice([NotLeaderError("moved"), DiskFullError("full"), KeyboardInterrupt()])
            where = (
                rng.choice([BEFORE, AFTER, LOST]) if isinstance(error, StreamlogError) else rng.choice([BEFORE, AFTER])
            )
            one.service.faults.append((error, where))
        else:
            one.service.faults.append(None)
        added += one.add(rng.randint(1, 9))
        try:
            if rng.random() < 0.5:
                one.queue.drain()
            else:
                one.clock.advance(rng.choice([0.05, 0.2, 70]))
        except KeyboardInterrupt:
            continue
    one.service.faults.clear()
    one.accumulator.flush(None)
    assert [batch.result() + index for batch, index in added] == [*range(one.sent)]
    assert one.stored() == [*range(one.sent)]
    assert one.append(one.sent) == one.sent


def test_without_a_producer_id_nothing_is_sent_again(make: Callable[..., Idempotent]) -> None:
    one = make()
    one.accumulator = RecordAccumulator(one.service, ProducerConfig(linger_ms=1000))  # type: ignore[arg-type]
    one.queue = one.accumulator.queue(one.topic._view(), 0)
    one.service.faults = [(DiskFullError("full"), BEFORE)]
    assert isinstance(one.send()[0].error(), DiskFullError)
    assert partition_queue.RETRY_BACKOFF_MS == 100
