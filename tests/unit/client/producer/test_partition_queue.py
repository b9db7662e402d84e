"""What a queue writes, in which order, and what becomes of batches that fail, are interrupted or wait for a sync."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from streamlog.client.producer import partition_queue, writer_turns
from streamlog.client.producer.accumulator import RecordAccumulator
from streamlog.client.producer.batch import Batch, Rows
from streamlog.client.producer.partition_queue import PartitionQueue
from streamlog.errors import ClosedError, DiskFullError, RequestTimedOutError, SerializationError
from streamlog.runtime.api import Completion
from streamlog.runtime.threads import RawGate
from tests.times import LONG

QueueOf = Callable[..., PartitionQueue]


@pytest.fixture
def queue_of(service: Any, accumulator_of: Callable[..., RecordAccumulator]) -> QueueOf:
    """The queue of a topic with these settings, with a linger."""

    def make(*, linger_ms: int = 1000, topic: dict[str, Any] | None = None, **config: Any) -> PartitionQueue:
        view = service.add_topic("t", **(topic or {}))
        return accumulator_of(linger_ms=linger_ms, **config).queue(view, 0)

    return make


def row(n: int) -> tuple[bytes, bytes, int]:
    return b"k", b"%d" % n, 1_000_000


def add(queue: PartitionQueue, n: int, size: int = 10) -> Batch:
    added = queue.add(row(n), size)
    assert added is not None
    return added[0]


def whole(queue: PartitionQueue, n: int, value: Any = b"v") -> Batch:
    return Batch.whole(queue, Rows(n, None, [value] * n, 1_000_000, None), 10 * n)


# Accepting


def test_records_share_the_open_batch_until_it_is_full(queue_of: QueueOf, service: Any) -> None:
    queue = queue_of(batch_size=30)
    first = add(queue, 0)
    assert add(queue, 1) is first
    assert not first.closed
    assert add(queue, 2) is first
    assert first.closed
    assert add(queue, 3) is not first
    queue.drain()
    assert service.writes == [[3]]


def test_a_batch_has_no_more_records_than_a_segment(queue_of: QueueOf, service: Any) -> None:
    queue = queue_of(topic={"retention_records": 16})
    for n in range(4):
        add(queue, n)
    queue.drain()
    assert service.writes == [[2], [2]]


def test_whole_batches_are_written_after_the_open_one(queue_of: QueueOf, service: Any) -> None:
    queue = queue_of()
    add(queue, 0)
    queue.put([whole(queue, 2), whole(queue, 3)])
    queue.drain()
    assert service.writes == [[1, 2, 3]]


def test_what_a_full_buffer_does_not_take_is_not_added(queue_of: QueueOf) -> None:
    queue = queue_of(batch_size=100, buffer_memory=150)
    add(queue, 0)
    queue.close_batch()
    assert queue.add(row(1), 10) is None
    queue.drain()
    assert queue.add(row(1), 10) is not None


def test_a_closed_queue_refuses_records_and_writes_what_it_has(queue_of: QueueOf, service: Any) -> None:
    queue = queue_of()
    batch = add(queue, 0)
    queue.close(ClosedError("closed"))
    for refused in (lambda: queue.add(row(1), 10), lambda: queue.put([whole(queue, 1)])):
        with pytest.raises(ClosedError):
            refused()
    queue.flush(batch, None)
    assert batch.result() == 0


# Writing


def test_an_open_batch_lingers_until_its_deadline(queue_of: QueueOf, service: Any) -> None:
    queue = queue_of(linger_ms=1000)
    batch = add(queue, 0)
    queue.drain()
    assert queue.write_due(batch.deadline_ms - 1) == batch.deadline_ms
    assert not batch.done()
    assert queue.write_due(batch.deadline_ms) is None
    assert batch.result() == 0


def test_a_write_is_no_larger_than_a_segment(queue_of: QueueOf, service: Any) -> None:
    queue = queue_of(topic={"segment_bytes": 1024})
    batches = [whole(queue, 40) for _ in range(3)]
    queue.put(batches)
    queue.drain()
    assert service.writes == [[40], [40], [40]]
    assert [batch.result() for batch in batches] == [0, 40, 80]


def test_a_refused_write_fails_its_batches_and_the_next_is_written(queue_of: QueueOf, service: Any) -> None:
    queue = queue_of()
    service.answers.append(DiskFullError("full"))
    failed, good = add(queue, 0), None
    queue.close_batch()
    queue.drain()
    assert isinstance(failed.error(), DiskFullError)
    good = add(queue, 1)
    queue.flush(good, None)
    assert good.result() == 0


def test_a_batch_that_cannot_be_encoded_fails_alone(queue_of: QueueOf, service: Any) -> None:
    queue = queue_of()
    bad, good = whole(queue, 1, value=memoryview(b"abcdef")[1::2]), whole(queue, 2)
    queue.put([bad, good])
    queue.drain()
    assert isinstance(bad.error(), SerializationError)
    assert good.result() == 0
    assert service.writes == [[2]]


@pytest.mark.parametrize("appended", [True, False])
def test_an_interrupted_write_is_appended_once(queue_of: QueueOf, service: Any, appended: bool) -> None:
    queue = queue_of()
    batch = add(queue, 0)
    queue.close_batch()
    service.answers.append(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        queue.drain()
    assert not batch.done()
    if appended:
        assert queue.inflight is not None
        queue.inflight[1].append.base_offset = 7
        service.settled = Completion.of(7)
    queue.drain()
    assert batch.result() == (7 if appended else 0)
    assert service.writes == ([] if appended else [[1]])
    assert queue.is_idle


# Turns


def fill(queue: PartitionQueue, batches: int) -> None:
    for n in range(batches):
        add(queue, n)
        queue.close_batch()


def test_a_writer_that_does_not_keep_up_gives_its_turn_to_a_thread_that_fills_batches(
    queue_of: QueueOf, service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition_queue, "_WRITE_BYTES", 1)  # so that a write is one batch
    queue = queue_of()
    writers: list[int] = []
    produce = service.produce
    other = threading.Thread(target=lambda: queue.drain(filled=True))
    queued = threading.Event()

    class Turns(deque[Any]):
        """Says that a thread waits for its turn."""

        def append(self, gate: Any) -> None:
            super().append(gate)
            queued.set()

    queue._turns.waiting = Turns()

    def writing(request: Any) -> Any:
        writers.append(threading.get_ident())
        if len(writers) == 1:
            other.start()
            assert queued.wait(LONG)
        return produce(request)

    queue.owner.produce = writing  # type: ignore[method-assign]
    fill(queue, 12)
    queue.drain()
    other.join(LONG)
    assert writers == [threading.get_ident()] + [other.ident] * 11
    assert queue.is_idle


@pytest.mark.parametrize("passed", [False, True])
def test_an_interrupted_thread_passes_its_turn_on(
    queue_of: QueueOf, monkeypatch: pytest.MonkeyPatch, passed: bool
) -> None:
    queue = queue_of()
    fill(queue, 12)
    next_one = RawGate()

    def interrupted(gate: RawGate, timeout: float) -> bool:
        queue._turns.waiting.append(next_one)
        if passed:
            assert queue._turns.pass_on()
        raise KeyboardInterrupt

    monkeypatch.setattr(RawGate, "wait", interrupted)
    with queue.draining, pytest.raises(KeyboardInterrupt):
        queue.drain(filled=True)
    assert next_one.is_open() is passed
    assert list(queue._turns.waiting) == ([] if passed else [next_one])


def test_a_thread_does_not_wait_long_for_its_turn(queue_of: QueueOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_turns.longest_sleep, "turn_s", 0.001)
    queue = queue_of()
    fill(queue, 12)
    with queue.draining:
        queue.drain(filled=True)
    assert not queue._turns.waiting
    queue.drain(filled=True)
    assert queue.is_idle


# Syncs


def unsynced(queue: PartitionQueue, service: Any, n: int) -> tuple[Batch, Completion[int]]:
    done: Completion[int] = Completion()
    service.answers.append(done)
    batch = add(queue, n)
    queue.close_batch()
    queue.drain()
    return batch, done


def test_the_next_batch_is_written_while_one_waits_for_its_sync(queue_of: QueueOf, service: Any) -> None:
    queue = queue_of()
    first, first_synced = unsynced(queue, service, 0)
    second, second_synced = unsynced(queue, service, 1)
    assert service.writes == [[1], [1]]
    assert not first.done()
    assert queue.batches() == [first, second]
    assert not queue.is_idle
    first_synced.complete(0)
    assert first.result() == 0
    assert not second.done()
    second_synced.complete(1)
    assert second.result() == 1
    assert queue.is_idle


def test_batches_are_done_in_the_order_in_which_they_were_written(queue_of: QueueOf, service: Any) -> None:
    queue = queue_of()
    order: list[int] = []
    pairs = [unsynced(queue, service, n) for n in range(3)]
    for n, (batch, _) in enumerate(pairs):
        batch.on_done(lambda _, n=n: order.append(n))
    for _, done in reversed(pairs):
        done.complete(0)
    assert order == [0, 1, 2]
    assert [batch.result() for batch, _ in pairs] == [0, 1, 2]


def test_a_failed_sync_fails_the_batches_that_waited_for_it(queue_of: QueueOf, service: Any) -> None:
    queue = queue_of()
    batch, done = unsynced(queue, service, 0)
    done.fail(DiskFullError("full"))
    assert isinstance(batch.error(), DiskFullError)
    assert queue.is_idle


def test_an_interrupted_write_that_waits_for_its_sync_is_done_with_it(queue_of: QueueOf, service: Any) -> None:
    queue = queue_of()
    batch = add(queue, 0)
    queue.close_batch()
    service.answers.append(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        queue.drain()
    assert queue.inflight is not None
    queue.inflight[1].append.base_offset = 4
    done: Completion[int] = Completion()
    service.settled = done
    queue.drain()
    assert not batch.done()
    done.complete(4)
    assert batch.result() == 4
    assert service.writes == []


def test_under_log_append_time_the_time_of_the_append_is_the_records(queue_of: QueueOf, service: Any) -> None:
    queue = queue_of(topic={"message_timestamp_type": "LogAppendTime"})
    batch, done = unsynced(queue, service, 0)
    service.clock.advance(5)
    done.complete(0)
    assert batch.time_of(0) == 1_000_000


# Waiting


def test_a_wait_for_a_sync_that_does_not_come_times_out(queue_of: QueueOf, service: Any) -> None:
    queue = queue_of()
    batch, _ = unsynced(queue, service, 0)
    with pytest.raises(RequestTimedOutError, match="still on its way"):
        queue.flush(batch, 0.01)
    assert not batch.done()


def test_flush_all_waits_for_those_before_a_batch_that_failed(queue_of: QueueOf, service: Any) -> None:
    queue = queue_of()
    waiting, done = unsynced(queue, service, 0)
    service.answers.append(DiskFullError("full"))
    failed = add(queue, 1)
    with pytest.raises(RequestTimedOutError):
        queue.flush_all(0.0)
    assert isinstance(failed.error(), DiskFullError)
    done.complete(0)
    queue.flush_all(None)
    assert waiting.result() == 0


def test_callbacks_are_called_without_a_lock_and_may_add_others(queue_of: QueueOf) -> None:
    queue = queue_of()
    called: list[str] = []

    def first() -> None:
        assert not queue.lock.locked()
        assert not queue.draining.locked()
        called.append("first")
        queue.calls.append(lambda: called.append("second"))
        queue.call()  # leaves it to the call that is running
        assert called == ["first"]

    queue.calls.append(first)
    queue.call()
    assert called == ["first", "second"]
