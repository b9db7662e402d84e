"""A queue of an idempotent producer, before a log: no gap, no record twice, in order, whatever becomes of the answers."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable

import pytest

from streamlog.client.producer import partition_queue
from streamlog.client.producer.batch import Batch
from streamlog.client.producer.partition_queue import MOST_IN_FLIGHT
from streamlog.errors import (
    DeliveryTimeoutError,
    InvalidRecordError,
    NotEnoughReplicasError,
    NotLeaderError,
    OutOfOrderSequenceError,
    PoisonedLogError,
    ProducerFencedError,
    RequestTimedOutError,
    StreamlogError,
)
from streamlog.runtime.api import Completion
from tests.unit.client.producer.one_queue import AFTER, BEFORE, LATER, LOST, OneQueue
from tests.unit.storage.counting_disk import interrupted_at


def test_sequences_go_on_from_one_write_to_the_next(make: Callable[..., OneQueue]) -> None:
    one = make()
    batches = one.send(3) + one.send(2)
    assert [batch.result() for batch in batches] == [0, 2, 4, 6, 8]
    with pytest.raises(OutOfOrderSequenceError):
        one.append(sequence=11)
    assert one.append(sequence=10) == 10


@pytest.mark.parametrize("where", [AFTER, LOST])
def test_a_write_of_many_batches_that_is_sent_again_is_in_the_log_once(
    make: Callable[..., OneQueue], where: str
) -> None:
    one = make()
    one.service.faults = [(NotLeaderError("moved"), where)]
    batches = one.send(12)
    one.clock.advance(0.1)
    assert one.service.batches == [12, 12]
    assert [batch.result() for batch in batches] == [*range(0, 24, 2)]
    assert one.stored() == [*range(24)]


@pytest.mark.parametrize("where", [BEFORE, AFTER, LOST])
def test_after_a_retriable_error_the_head_of_the_queue_is_sent_again_and_is_in_the_log_once(
    make: Callable[..., OneQueue], where: str
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


def test_a_request_is_sent_again_with_the_batches_that_it_had(make: Callable[..., OneQueue]) -> None:
    one = make()
    one.service.faults = [(NotLeaderError("moved"), LOST)]
    one.send(2)
    one.send(2)
    one.clock.advance(0.1)
    assert one.service.batches == [2, 2, 2]
    assert one.stored() == [*range(8)]


def test_a_caller_that_waits_does_not_need_the_logs_clock(make: Callable[..., OneQueue]) -> None:
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


def test_a_batch_that_the_log_refuses_leaves_no_gap(make: Callable[..., OneQueue]) -> None:
    one = make()
    one.service.faults = [None, (InvalidRecordError("bad", topic="t"), BEFORE)]
    one.send()
    refused, after = one.send()[0], one.send()[0]
    assert isinstance(refused.error(), InvalidRecordError)
    assert after.result() == 2
    assert one.stored() == [0, 1, 4, 5]


def test_retries_have_a_bound_and_leave_no_gap(make: Callable[..., OneQueue]) -> None:
    one = make(delivery_timeout_ms=300, linger_ms=100)
    one.service.faults = [(NotEnoughReplicasError("few"), BEFORE)] * 3
    batch = one.send()[0]
    one.clock.advance(1)
    error = batch.error()
    assert isinstance(error, DeliveryTimeoutError)
    assert "within 300 ms (delivery_timeout_ms). The last attempt failed: NotEnoughReplicasError: few" in str(error)
    assert isinstance(error.__cause__, NotEnoughReplicasError)
    assert one.send()[0].result() == 0
    assert one.append(sequence=2) == 2


@pytest.mark.parametrize("where", [AFTER, LOST])
def test_records_of_which_no_attempt_was_answered_do_not_lend_their_sequences_to_others(
    make: Callable[..., OneQueue], where: str
) -> None:
    one = make(delivery_timeout_ms=200, linger_ms=100)
    one.service.faults = [(NotLeaderError("moved"), where), (NotLeaderError("moved"), AFTER)]
    batch = one.send()[0]
    one.clock.advance(1)
    assert isinstance(batch.error(), DeliveryTimeoutError)
    assert one.send()[0].result() == 2
    assert one.stored() == [0, 1, 2, 3]


def test_batches_that_are_removed_from_the_log_before_they_are_acknowledged_are_sent_again_in_order(
    make: Callable[..., OneQueue],
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
    make: Callable[..., OneQueue],
) -> None:
    one = make()
    late = one.send_later(2)
    one.service.pending[0].fail(RequestTimedOutError("late"))
    one.service.pending[1].complete(2)
    one.clock.advance(0.2)
    assert [batch.result() for batch in late] == [0, 2]
    assert one.stored() == [*range(4)]
    assert one.send()[0].result() == 4


@pytest.mark.parametrize("batches", [5, 7])
def test_no_more_batches_are_late_than_the_log_remembers(make: Callable[..., OneQueue], batches: int) -> None:
    """Others wait in the queue: one that the log does not recognise may be in it, and would be there twice, or fail."""
    one = make()
    late = one.send_later(batches)
    assert len(one.service.pending) == MOST_IN_FLIGHT == 5
    one.service.faults = []
    for answer in one.service.pending:
        answer.fail(RequestTimedOutError("late"))
    one.clock.advance(5)
    assert [batch.result() for batch in late] == [*range(0, 2 * batches, 2)]
    assert one.send()[0].result() == 2 * batches
    assert one.stored() == [*range(2 * batches + 2)]


@pytest.mark.parametrize("where", [BEFORE, AFTER])
def test_a_write_of_many_batches_that_is_interrupted_is_in_the_log_once_if_no_leader_can_be_asked(
    make: Callable[..., OneQueue], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make()
    one.send()
    one.service.faults = [(KeyboardInterrupt(), where)]
    with pytest.raises(KeyboardInterrupt):
        one.send(12)
    with monkeypatch.context() as moving:
        moving.setattr(one.accumulator, "settle", lambda _: None)
        one.queue.drain()
    assert one.send()[0].result() == 26
    assert one.stored() == [*range(28)]


@pytest.mark.parametrize("name", ["_goes_on", "_complete_all", "_complete", "_drop_done"])
def test_interrupted_while_a_write_is_completed_it_is_in_the_log_once_if_no_leader_can_be_asked(
    make: Callable[..., OneQueue], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = 0
    while True:
        line += 1
        one = make()
        batches = []
        with interrupted_at(line, {name}, "client") as seen, contextlib.suppress(KeyboardInterrupt):
            batches = one.send(7)
        with monkeypatch.context() as moving:
            moving.setattr(one.accumulator, "settle", lambda _: None)
            one.queue.drain()
        batches += one.send()
        one.accumulator.flush(None)
        assert all(batch.done() and batch.error() is None for batch in batches)
        assert one.stored() == [*range(one.sent)]
        if seen[0] < line:
            break
    assert line > 3


def test_a_log_that_does_not_say_what_it_has_lends_no_sequence_to_another_record(
    make: Callable[..., OneQueue], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single record was interrupted, and is in the log; while its leader moves, the log cannot be asked."""
    one = make()
    assert one.queue.sequences is not None
    one.queue.sequences.in_doubt = True
    assert one.append(sequence=0) == 0
    with monkeypatch.context() as moving:
        answer = Completion.failed(NotLeaderError("moved"))
        moving.setattr(one.service, "producer_state", lambda *_: answer, raising=False)
        one.add()
        one.queue.close_batch()
        one.queue.drain()
    one.clock.advance(0.1)
    assert one.stored() == [-1, 0]


def test_an_error_that_is_not_retriable_fails_a_batch_that_waits_to_be_acknowledged(
    make: Callable[..., OneQueue],
) -> None:
    one = make()
    [batch] = one.send_later()
    one.service.pending[0].fail(PoisonedLogError("poisoned", path="", errno=5))
    assert isinstance(batch.error(), PoisonedLogError)


def test_a_caller_that_waits_sends_what_was_lost_again(make: Callable[..., OneQueue]) -> None:
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
    make: Callable[..., OneQueue], monkeypatch: pytest.MonkeyPatch
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


def test_how_often_a_batch_is_taken_back_has_a_bound(make: Callable[..., OneQueue]) -> None:
    one = make(delivery_timeout_ms=300, linger_ms=100)
    [batch] = one.send_later()
    for _ in range(2):
        assert not batch.done()
        one.service.faults = [(NotLeaderError("later"), LATER)]
        one.truncate(0)
        one.clock.advance(0.1)
    one.truncate(0)
    assert isinstance(batch.error(), DeliveryTimeoutError)


@pytest.mark.parametrize("where", ["_take_back", "_drain", "_is_first_lost"])
def test_interrupted_at_any_line_while_it_is_taken_back_each_batch_is_in_the_log_once(
    make: Callable[..., OneQueue], where: str
) -> None:
    line = 0
    while True:
        line += 1
        one = make()
        batches = one.send_later(7)
        one.service.faults = []  # two of them wait in the queue
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


def test_a_fenced_producer_writes_nothing_more(make: Callable[..., OneQueue]) -> None:
    one = make()
    one.send()
    one.append(0, one.id._replace(producer_epoch=1))
    for batch in one.send() + one.send():
        assert isinstance(batch.error(), ProducerFencedError)
    assert one.stored() == [0, 1, -1]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_becomes_of_the_answers_each_record_is_in_the_log_once_and_in_order(
    make: Callable[..., OneQueue], seed: int
) -> None:
    rng = random.Random(seed)
    one = make(delivery_timeout_ms=3_600_000)
    added: list[tuple[Batch, int]] = []
    for _ in range(60):
        if rng.random() < 0.6:
            error = rng.choice([NotLeaderError("moved"), RequestTimedOutError("late"), KeyboardInterrupt()])
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


def test_without_a_producer_id_nothing_is_sent_again_that_may_be_in_the_log(make: Callable[..., OneQueue]) -> None:
    one = make(idempotent=False)
    one.service.faults = [(RequestTimedOutError("late"), AFTER)]
    assert isinstance(one.send()[0].error(), RequestTimedOutError)
    assert partition_queue.RETRY_BACKOFF_MS == 100
