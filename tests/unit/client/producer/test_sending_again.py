"""A queue of a producer that is not idempotent: what its leader lost is sent again, in order, and is in the log once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

from streamlog.errors import (
    DeliveryTimeoutError,
    DiskFullError,
    FencedLeaderEpochError,
    NotEnoughReplicasError,
    NotLeaderError,
    RequestTimedOutError,
    StreamlogError,
)
from tests.unit.client.producer.one_queue import BEFORE, OneQueue
from tests.unit.storage.counting_disk import interrupted_at

Make = Callable[..., OneQueue]
IN_NO_LOG = [NotLeaderError, NotEnoughReplicasError, FencedLeaderEpochError]


@pytest.mark.parametrize("kind", IN_NO_LOG)
def test_what_was_not_appended_is_sent_again_before_what_is_behind_it(make: Make, kind: type[StreamlogError]) -> None:
    one = make(idempotent=False)
    one.service.faults = [(kind("moved"), BEFORE)] * 2
    first, second = one.send(2), one.send()
    assert not any(batch.done() for batch in first + second)
    one.clock.advance(0.1)
    assert not first[0].done()
    one.clock.advance(0.1)
    assert [batch.result() for batch in first + second] == [0, 2, 4]
    assert one.stored() == [*range(6)]


def test_what_was_removed_before_it_was_acknowledged_is_sent_again_in_order(make: Make) -> None:
    one = make(idempotent=False)
    one.send()
    lost = one.send_later(7)
    one.truncate(2)
    one.service.faults = [(NotLeaderError("moved"), BEFORE)]
    after = one.send()
    assert not any(batch.done() for batch in lost + after)
    one.clock.advance(0.3)
    assert [batch.result() for batch in lost + after] == [*range(2, 18, 2)]
    assert one.stored() == [*range(18)]


@pytest.mark.parametrize("error", [RequestTimedOutError("late"), DiskFullError("full")])
def test_what_may_be_in_the_log_is_not_sent_again(make: Make, error: StreamlogError) -> None:
    one = make(idempotent=False)
    late = one.send_later(2)
    one.service.pending[0].fail(error)
    one.service.pending[1].complete(2)
    one.clock.advance(1)
    assert late[0].error() is error
    assert late[1].result() == 2
    assert one.stored() == [*range(4)]


def test_what_follows_unacknowledged_batches_is_appended_in_their_epoch_or_not_at_all(make: Make) -> None:
    one = make(idempotent=False)
    assert one.send()[0].result() == 0
    [waits] = one.send_later()
    epochs: list[int] = []
    produce = one.service.produce

    def noting(request):  # type: ignore[no-untyped-def]
        epochs.append(request.leader_epoch)
        return produce(request)

    one.queue._leader_epoch = 5
    one.accumulator.produce = noting
    one.service.faults = [(FencedLeaderEpochError("moved"), BEFORE)]
    after = one.send()[0]
    assert epochs == [5]
    one.service.pending.pop().complete(2)
    one.clock.advance(0.1)
    assert epochs == [5, -1], "nothing waits, so it may be in any epoch"
    assert (waits.result(), after.result()) == (2, 4)


def test_each_batch_fails_when_it_was_sent_for_the_delivery_timeout(make: Make) -> None:
    one = make(idempotent=False, delivery_timeout_ms=300, linger_ms=100)
    one.service.faults = [(NotLeaderError("moved"), BEFORE)] * 4
    first = one.send()[0]
    one.clock.advance(0.1)
    second = one.send()[0]
    one.clock.advance(0.1)
    error = first.error()
    assert isinstance(error, DeliveryTimeoutError)
    assert "The last attempt failed: NotLeaderError: moved" in str(error)
    assert not second.done()
    one.clock.advance(0.2)
    assert second.result() == 0
    assert one.stored() == [2, 3]


def test_a_caller_that_waits_sends_it_again_and_needs_no_clock(make: Make) -> None:
    one = make(idempotent=False, delivery_timeout_ms=300, linger_ms=100)
    one.service.faults = [(NotLeaderError("moved"), BEFORE)]
    one.queue.flush(one.send()[0], None)
    one.service.faults = [(NotLeaderError("moved"), BEFORE)] * 3
    late = one.send()[0]
    one.queue.flush(late, 0.001, retries=True)
    assert isinstance(late.error(), DeliveryTimeoutError)
    assert one.stored() == [0, 1]


def test_where_no_other_broker_can_lead_nothing_is_sent_again(make: Make) -> None:
    """A damaged epoch in a log of one broker: waiting for another leader would not help."""
    one = make(idempotent=False)
    one.accumulator.leaders_move = False
    one.service.faults = [(NotLeaderError("damaged"), BEFORE)]
    [batch] = one.send()
    assert isinstance(batch.error(), NotLeaderError)


def test_a_single_record_is_sent_again(make: Make) -> None:
    one = make()
    with one.log.producer() as producer:
        producer._service = one.service  # type: ignore[assignment]
        producer._accumulator.leaders_move = True
        refused = [NotLeaderError("moved"), NotEnoughReplicasError("few")]

        def produce_one(*arguments: object) -> int:
            if refused:
                raise refused.pop()
            offset: int = one.service._service.produce_one(*arguments)
            return offset

        one.service.produce_one = produce_one  # type: ignore[attr-defined]
        assert [producer.send("t", b"%d" % n).result().offset for n in range(3)] == [0, 1, 2]
    assert one.stored() == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("where", ["_take_back", "_drain", "_is_first_lost", "_goes_on", "_appended"])
def test_interrupted_at_any_line_each_batch_is_in_the_log_once(make: Make, where: str) -> None:
    line = 0
    while True:
        line += 1
        one = make(idempotent=False)
        batches = one.send_later(3)
        one.truncate(0)
        one.service.faults = [(NotLeaderError("moved"), BEFORE)]
        with interrupted_at(line, {where}, "client") as seen, contextlib.suppress(KeyboardInterrupt):
            one.clock.advance(0.3)
        batches += one.send()
        one.accumulator.flush(None)
        assert one.stored() == [*range(8)]
        assert all(batch.done() and batch.error() is None for batch in batches)
        if seen[0] < line:
            break
    assert line > 3
