"""The buffer that a producer's queues share, its lingers, and the failed records that it reports."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import pytest

from streamlog.client.producer.accumulator import RecordAccumulator, _Claim
from streamlog.client.producer.batch import Batch
from streamlog.client.producer.partition_queue import PartitionQueue
from streamlog.errors import (
    ClosedError,
    DeliveryError,
    DeliveryTimeoutError,
    DiskFullError,
    UnknownTopicOrPartitionError,
)
from streamlog.runtime.threads import RawGate, longest_sleep, real_monotonic
from tests.times import LONG

AccumulatorOf = Callable[..., RecordAccumulator]


def add(accumulator: RecordAccumulator, queue: PartitionQueue, value: bytes = b"v", size: int = 10) -> Batch:
    return accumulator.add(queue, (b"k", value, 1_000_000), size)[0]


def fail_one(accumulator: RecordAccumulator, queue: PartitionQueue, service: Any, value: bytes = b"v") -> Batch:
    service.answers.append(DiskFullError("full"))
    batch = add(accumulator, queue, value)
    queue.close_batch()
    queue.drain()
    assert isinstance(batch.error(), DiskFullError)
    return batch


# Queues


def test_a_partition_has_one_queue_which_follows_the_settings_of_its_topic(
    service: Any, accumulator_of: AccumulatorOf
) -> None:
    accumulator = accumulator_of()
    queue = accumulator.queue(service.add_topic("t"), 0)
    assert queue.plain
    assert accumulator.queue(service.add_topic("t", message_timestamp_type="LogAppendTime"), 0) is queue
    assert not queue.plain


def test_a_topic_of_the_same_name_has_a_queue_of_its_own(service: Any, accumulator_of: AccumulatorOf) -> None:
    accumulator = accumulator_of()
    first = accumulator.queue(service.add_topic("t", number=1), 0)
    assert accumulator.queue(service.add_topic("t", number=2), 0) is not first


def test_a_forgotten_queue_refuses_records_and_one_with_records_is_kept(
    service: Any, accumulator_of: AccumulatorOf
) -> None:
    accumulator = accumulator_of(linger_ms=1000)
    empty, waiting = (accumulator.queue(service.add_topic("t", 2), number) for number in (0, 1))
    add(accumulator, waiting)
    accumulator.forget_queues(list(accumulator.queues))
    assert list(accumulator.queues.values()) == [waiting]
    with pytest.raises(UnknownTopicOrPartitionError):
        add(accumulator, empty)
    add(accumulator, waiting)
    accumulator.flush(None)
    accumulator.forget_queues(list(accumulator.queues))
    assert not accumulator.queues


# The buffer


def test_a_batch_of_any_size_fits_into_an_empty_buffer(accumulator_of: AccumulatorOf) -> None:
    accumulator = accumulator_of(buffer_memory=100)
    assert accumulator.reserve(5000)
    assert not accumulator.reserve(1)


def test_a_batch_takes_as_much_of_the_buffer_as_its_records_need(service: Any, accumulator_of: AccumulatorOf) -> None:
    """Thousands of partitions can have an open batch each, though whole batches for all would not fit."""
    accumulator = accumulator_of(linger_ms=1000, batch_size=10_000, buffer_memory=50_000)
    queues = [accumulator.queue(service.add_topic("t", 10), number) for number in range(10)]
    batches = [add(accumulator, queue, size=900) for queue in queues for _ in range(2)]
    assert len(set(batches)) == 10
    assert service.writes == []
    accumulator.flush(None)
    assert accumulator.reserve(50_000)


def test_a_batch_is_closed_when_the_buffer_does_not_let_it_grow(service: Any, accumulator_of: AccumulatorOf) -> None:
    accumulator = accumulator_of(linger_ms=1000, batch_size=10_000, buffer_memory=20_000)
    queue = accumulator.queue(service.add_topic("t"), 0)
    batch = add(accumulator, queue, size=900)
    assert accumulator.reserve(17_000)  # by others
    assert add(accumulator, queue, size=900) is batch
    assert batch.closed
    queue.drain()
    assert service.writes == [[2]]


def test_a_full_buffer_ends_every_linger(service: Any, accumulator_of: AccumulatorOf) -> None:
    accumulator = accumulator_of(linger_ms=1000, batch_size=60, buffer_memory=100)
    first, second = (accumulator.queue(service.add_topic("t", 2), number) for number in (0, 1))
    lingering = add(accumulator, first)
    add(accumulator, second)
    assert lingering.done()
    assert service.writes == [[1]]


def test_a_buffer_that_stays_full_times_out(service: Any, accumulator_of: AccumulatorOf) -> None:
    accumulator = accumulator_of(batch_size=60, buffer_memory=100, delivery_timeout_ms=20)
    queue = accumulator.queue(service.add_topic("t"), 0)
    assert accumulator.reserve(100)  # for a batch that is never written
    accumulator.wait_for_buffer = _once(accumulator.wait_for_buffer)  # type: ignore[method-assign]
    with pytest.raises(DeliveryTimeoutError, match="buffer_memory"):
        add(accumulator, queue)


def _once(call: Callable[..., None]) -> Callable[..., None]:
    """The buffer is counted anew after a wait, which would find the part that was reserved for no batch."""
    return lambda size, queue, end: call(size, queue, 0.0)


class Waiters:
    """Threads that wait for 60 bytes of the buffer, one after the other; `got` has the numbers of those that have them."""

    def __init__(self, accumulator: RecordAccumulator, queue: PartitionQueue, monkeypatch: pytest.MonkeyPatch) -> None:
        waits: SimpleQueue[None] = SimpleQueue()
        self.got: SimpleQueue[int] = SimpleQueue()

        class Gate(RawGate):
            def wait(self, timeout: float | None = None) -> bool:
                waits.put(None)
                return super().wait(timeout)

        def wait(number: int) -> None:
            accumulator.wait_for_buffer(60, queue, real_monotonic() + LONG)
            self.got.put(number)

        monkeypatch.setattr("streamlog.client.producer.accumulator.RawGate", Gate)
        self.threads = [threading.Thread(target=wait, args=(number,)) for number in range(5)]
        for thread in self.threads:
            thread.start()
            waits.get(timeout=LONG)

    def end(self) -> None:
        for thread in self.threads:
            thread.join(LONG)
            assert not thread.is_alive()


def test_threads_get_their_parts_of_a_full_buffer_in_the_order_in_which_they_came(
    service: Any, accumulator_of: AccumulatorOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    accumulator = accumulator_of(batch_size=60, buffer_memory=100)
    queue = accumulator.queue(service.add_topic("t"), 0)
    assert accumulator.reserve(60)
    waiters = Waiters(accumulator, queue, monkeypatch)
    order = []
    for _ in waiters.threads:
        assert not accumulator.reserve(10), "a thread that did not wait passed those that do"
        accumulator.completed(written(queue, 60))
        order.append(waiters.got.get(timeout=LONG))
        assert waiters.got.empty()
    assert order == [0, 1, 2, 3, 4]
    assert accumulator.reserve(10)
    waiters.end()


def test_of_the_threads_that_wait_for_the_buffer_the_first_one_alone_ends_the_lingers(
    service: Any, accumulator_of: AccumulatorOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them went through all queues, every 50 ms."""
    accumulator = accumulator_of(batch_size=60, buffer_memory=100)
    queue = accumulator.queue(service.add_topic("t"), 0)
    assert accumulator.reserve(60)
    walks: list[float] = []
    write_out = accumulator._write_out
    monkeypatch.setattr(accumulator, "_write_out", lambda end: (walks.append(end), write_out(end)))
    monkeypatch.setattr(longest_sleep, "turn_s", LONG)
    waiters = Waiters(accumulator, queue, monkeypatch)
    assert len(walks) == 1
    for _ in waiters.threads:
        accumulator.completed(written(queue, 60))
        waiters.got.get(timeout=LONG)
    waiters.end()


def test_what_was_granted_counts_when_the_buffer_is_counted_anew(
    service: Any, accumulator_of: AccumulatorOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that has it may not have begun its batch yet: others got the same bytes."""
    accumulator = accumulator_of(batch_size=60, buffer_memory=100)
    queue = accumulator.queue(service.add_topic("t"), 0)
    held = accumulator.wait_for_buffer(60, queue, real_monotonic() + LONG)
    accumulator._recount()
    assert not accumulator.reserve(60)
    del held  # its thread was interrupted
    accumulator._recount()
    assert accumulator.reserve(60)


def test_a_wait_that_ends_while_the_buffer_is_given_out_costs_no_other_thread_its_turn(
    service: Any, accumulator_of: AccumulatorOf
) -> None:
    accumulator: Any = accumulator_of(batch_size=60, buffer_memory=100)
    queue = accumulator.queue(service.add_topic("t"), 0)
    assert accumulator.reserve(60)
    first, second = _Claim(60), _Claim(30)
    accumulator._claims.extend([first, second])
    reached: SimpleQueue[None] = (
        SimpleQueue()
    )  # the thread whose wait has ended waits for the lock, or has not needed it
    lock, withdrawn = accumulator._lock, []

    def withdraw() -> None:
        withdrawn.append(accumulator._withdraw(first))
        reached.put(None)

    class NotedLock:
        def __enter__(self) -> None:
            if threading.current_thread() is thread:
                reached.put(None)
            lock.acquire()

        def __exit__(self, *error: object) -> None:
            lock.release()

    class Grants(set[_Claim]):
        def add(self, claim: _Claim) -> None:
            super().add(claim)
            if claim is first:
                thread.start()
                reached.get(timeout=LONG)

    thread = threading.Thread(target=withdraw)
    accumulator._grants, accumulator._lock = Grants(), NotedLock()
    accumulator.completed(written(queue, 60))
    thread.join(LONG)
    assert withdrawn == [False], "it was granted, so its thread gives it back"
    assert second.granted


def written(queue: PartitionQueue, reserved: int) -> Batch:
    batch = Batch(queue, 0, True)
    batch.reserved = reserved
    return batch


@pytest.mark.parametrize("closes", [False, True], ids=["it joins a batch", "it is refused"])
def test_a_part_of_the_buffer_that_was_waited_for_and_is_not_needed_is_given_back(
    service: Any, accumulator_of: AccumulatorOf, closes: bool
) -> None:
    accumulator = accumulator_of(linger_ms=1000, batch_size=60, buffer_memory=200)
    queue = accumulator.queue(service.add_topic("t"), 0)
    assert accumulator.reserve(160)

    def wait(size: int, queue: PartitionQueue, end: float) -> None:
        """Meanwhile another thread begins a batch, or closes the producer."""
        accumulator.completed(written(queue, 160))
        if closes:
            queue.close(ClosedError("closed"))
        else:
            accumulator.add(queue, (b"k", b"v", 1_000_000), 10)
        assert accumulator.reserve(size)

    accumulator.wait_for_buffer = wait  # type: ignore[method-assign]
    if closes:
        with pytest.raises(ClosedError):
            add(accumulator, queue, size=60)
    else:
        assert len(add(accumulator, queue, size=60)) == 2
        accumulator.flush(None)
    assert accumulator.reserve(200)


# Lingers


def test_each_queue_is_called_when_its_own_linger_is_over(service: Any, accumulator_of: AccumulatorOf) -> None:
    accumulator = accumulator_of(linger_ms=1000)
    first, second = (accumulator.queue(service.add_topic("t", 2), number) for number in (0, 1))
    early = add(accumulator, first)
    service.clock.advance(0.4)
    late = add(accumulator, second)
    assert late.deadline_ms == early.deadline_ms + 400
    assert service.timers.tasks == {first.write_due: early.deadline_ms, second.write_due: late.deadline_ms}
    assert first.write_due(early.deadline_ms) is None
    assert (early.done(), late.done()) == (True, False)


# Failed records


def test_failed_records_are_reported_once(service: Any, accumulator_of: AccumulatorOf) -> None:
    accumulator = accumulator_of(linger_ms=1000)
    queue = accumulator.queue(service.add_topic("t"), 0)
    fail_one(accumulator, queue, service, b"first")
    fail_one(accumulator, queue, service, b"second")
    with pytest.raises(DeliveryError) as caught:
        accumulator.report()
    assert [record.value for record in caught.value.records] == [b"first", b"second"]
    accumulator.report()


def test_a_failed_record_whose_outcome_was_observed_is_not_reported(
    service: Any, accumulator_of: AccumulatorOf
) -> None:
    accumulator = accumulator_of(linger_ms=1000)
    queue = accumulator.queue(service.add_topic("t"), 0)
    fail_one(accumulator, queue, service).observe(0)
    accumulator.report()


def test_failed_records_beyond_the_buffer_are_counted_and_not_kept(service: Any, accumulator_of: AccumulatorOf) -> None:
    accumulator = accumulator_of(linger_ms=1000, batch_size=10, buffer_memory=25)
    queue = accumulator.queue(service.add_topic("t"), 0)
    for _ in range(5):
        fail_one(accumulator, queue, service)
    with pytest.raises(DeliveryError, match="3 more records failed") as caught:
        accumulator.report()
    assert len(caught.value.records) == 2


def test_with_acks_0_nothing_is_reported(service: Any, accumulator_of: AccumulatorOf) -> None:
    accumulator = accumulator_of(linger_ms=1000, acks=0)
    fail_one(accumulator, accumulator.queue(service.add_topic("t"), 0), service)
    accumulator.report()


# Ending


def test_a_flush_looks_only_at_queues_that_have_something(service: Any, accumulator_of: AccumulatorOf) -> None:
    accumulator = accumulator_of(linger_ms=1000)
    view = service.add_topic("t", 100)
    queues = [accumulator.queue(view, number) for number in range(100)]
    looked_at: list[int] = []
    for queue in queues:
        queue.flush_all = lambda end, queue=queue, flush=queue.flush_all: (  # type: ignore[method-assign, misc]
            looked_at.append(queue.partition),
            flush(end),
        )
        add(accumulator, queue)
    accumulator.flush(None)
    assert looked_at == [*range(100)]
    add(accumulator, queues[7])
    accumulator.flush(None)
    accumulator.flush(None)
    assert looked_at == [*range(100), 7]


def test_a_flush_writes_the_other_queues_after_an_error_in_one(service: Any, accumulator_of: AccumulatorOf) -> None:
    accumulator = accumulator_of(linger_ms=1000)
    first, second = (accumulator.queue(service.add_topic("t", 2), number) for number in (0, 1))
    add(accumulator, first)
    batch = add(accumulator, second)
    service.answers.append(ZeroDivisionError())  # not the service's: a signal handler's, say
    with pytest.raises(ZeroDivisionError):
        accumulator.flush(None)
    assert batch.done()


def test_closing_writes_everything_refuses_more_and_ends_the_linger(
    service: Any, accumulator_of: AccumulatorOf
) -> None:
    accumulator = accumulator_of(linger_ms=1000)
    view = service.add_topic("t", 2)
    queue = accumulator.queue(view, 0)
    batch = add(accumulator, queue)
    accumulator.close(None, ClosedError("closed"))
    assert batch.done()
    assert service.timers.tasks == {}
    for each in (queue, accumulator.queue(view, 1)):
        with pytest.raises(ClosedError):
            add(accumulator, each)
