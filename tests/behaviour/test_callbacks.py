"""What a program's own code may do while streamlog is calling it: callbacks of deliveries, handlers, interrupts."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from linecache import getline
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import streamlog
from streamlog import TopicPartition
from streamlog.testing import ManualClock
from tests.contents import values
from tests.times import LONG

Trace = Callable[[FrameType, str, Any], Any]
BATCH = 1024


@pytest.mark.parametrize("linger_ms", [0, 60_000])
def test_a_callback_may_send_and_wait_for_its_own_record(log: streamlog.StreamLog, linger_ms: int) -> None:
    log.create_topic("t")
    producer = log.producer(linger_ms=linger_ms)
    offsets: list[int] = []
    delivery = producer.send("t", b"first")
    delivery.add_done_callback(lambda _: offsets.append(producer.send("t", b"next").result(LONG).offset))
    producer.flush(LONG)
    assert offsets == [1]
    assert values(log) == [b"first", b"next"]


@pytest.mark.parametrize("linger_ms", [0, 60_000])
def test_a_callback_may_flush(log: streamlog.StreamLog, linger_ms: int) -> None:
    log.create_topic("t")
    producer = log.producer(linger_ms=linger_ms)
    flushed: list[bool] = []

    def flush(_: object) -> None:
        second = producer.send("t", b"second")
        producer.flush(LONG)
        flushed.append(second.done())

    delivery = producer.send("t", b"first")
    delivery.add_done_callback(flush)
    assert delivery.result(LONG).offset == 0
    assert flushed == [True]


@pytest.mark.parametrize("linger_ms", [0, 60_000])
def test_a_callback_may_close_its_producer(log: streamlog.StreamLog, linger_ms: int) -> None:
    log.create_topic("t")
    producer = log.producer(linger_ms=linger_ms)
    delivery = producer.send("t", b"first")
    delivery.add_done_callback(lambda _: producer.close())
    assert delivery.result(LONG).offset == 0
    assert producer.closed
    assert values(log) == [b"first"]


def close_from_a_handler(log: streamlog.StreamLog, what: str) -> BaseException | None:
    """Start a worker whose handler closes its workers, or the log; the error that it got, if any."""
    log.create_topic("t").send(b"1")
    started, ended = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def handler(_: object) -> None:
        try:
            assert started.wait(LONG)
            (workers if what == "workers" else log).close()
        except BaseException as error:
            errors.append(error)
        ended.set()

    workers = log.group("g").start(handler, "t", workers=1)
    started.set()
    assert ended.wait(LONG)
    return errors[0] if errors else None


@pytest.mark.parametrize("what", ["workers", "log"])
def test_a_handler_may_close_its_own_workers_or_the_log(log: streamlog.StreamLog, what: str) -> None:
    assert close_from_a_handler(log, what) is None
    assert log.closed == (what == "log")


class Boom(Exception):
    """What a handler raises here."""


def start_failing(log: streamlog.StreamLog) -> streamlog.Workers:
    """Workers whose handler has raised Boom."""
    log.create_topic("t").send(b"1")
    raised = threading.Event()

    def fail(_: object) -> None:
        raised.set()
        raise Boom

    workers = log.group("g").start(fail, "t", workers=1)
    assert raised.wait(LONG)
    return workers


def test_a_handlers_error_is_logged_and_raised_by_close_if_no_call_raised_it(
    log: streamlog.StreamLog, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "streamlog")
    workers = start_failing(log)
    with pytest.raises(Boom):
        workers.close()
    assert any("'g'" in record.getMessage() and "Boom" in record.getMessage() for record in caplog.records)
    workers.close()


def test_a_handlers_error_is_raised_once(log: streamlog.StreamLog) -> None:
    workers = start_failing(log)
    with pytest.raises(Boom):
        workers.wait(LONG)
    workers.close()


def test_a_handlers_error_is_raised_at_the_end_of_the_block(log: streamlog.StreamLog) -> None:
    with pytest.raises(Boom), start_failing(log):
        pass


def interrupt_at(line: int) -> tuple[Trace, list[str]]:
    """A tracer that raises KeyboardInterrupt at the n-th line of the code that gathers records into batches."""
    left = [line]
    raised: list[str] = []

    def lines(frame: FrameType, event: str, _: Any) -> Any:
        # Not at a `with`: its line comes again at its end, and there no signal is handled before the lock is free.
        if event == "line" and not getline(frame.f_code.co_filename, frame.f_lineno).lstrip().startswith("with "):
            left[0] -= 1
            if left[0] == 0:
                sys.settrace(None)
                raised.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
                raise KeyboardInterrupt
        return lines

    def calls(frame: FrameType, _: str, __: Any) -> Any:
        file = frame.f_code.co_filename
        return lines if file.endswith(("accumulator.py", "partition_queue.py")) else None

    return calls, raised


def interrupted(call: Callable[[], object], line: int) -> str | None:
    """Call it, interrupted at that line; where that was, None if it has fewer lines."""
    before = sys.gettrace()
    tracer, raised = interrupt_at(line)
    sys.settrace(tracer)
    try:
        call()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return raised[0] if raised else None


@pytest.mark.parametrize("how", ["send", "flush"])
def test_an_interrupt_at_any_line_leaves_the_producer_usable(log: streamlog.StreamLog, how: str) -> None:
    log.create_topic("t")
    for line in range(1, 400):
        producer = log.producer(linger_ms=60_000)
        producer.send("t", b"0").result(LONG)
        if how == "send":
            where = interrupted(lambda p=producer: p.send("t", b"1"), line)  # type: ignore[misc]
        else:
            producer.send("t", b"1")
            where = interrupted(lambda p=producer: p.flush(LONG), line)  # type: ignore[misc]
        producer.flush(LONG)
        assert producer.send("t", b"2").result(LONG).offset >= 1, f"after an interrupt at {where}"
        producer.close()
        if where is None:
            break
    else:
        pytest.fail("the call never ended without an interrupt")


@pytest.mark.looks_again
def test_interrupts_never_use_up_the_buffer(log: streamlog.StreamLog) -> None:
    log.create_topic("t")
    # Room for two batches: were any of it lost, these sends would block until the timeout.
    producer = log.producer(linger_ms=1, batch_size=BATCH, buffer_memory=2 * BATCH, delivery_timeout_ms=10_000)
    for line in range(1, 400):
        where = interrupted(lambda: producer.send("t", b"x", b"k"), line)
        producer.flush(LONG)
        for _ in range(4):
            producer.send("t", b"x" * (BATCH // 2))
        producer.flush(LONG)
        if where is None:
            break
    else:
        pytest.fail("the call never ended without an interrupt")


@pytest.mark.parametrize("deliver", ["send", "send_many"])
def test_a_woken_waiter_that_waits_again_does_not_take_anothers_turn(log: streamlog.StreamLog, deliver: str) -> None:
    topic = log.create_topic("t")
    got: list[int] = []
    ready = threading.Barrier(9)

    def read_all() -> None:
        with log.consumer("t") as consumer:
            consumer.poll()
            ready.wait(LONG)
            count = 0
            while count < 20:
                count += len(consumer.poll(LONG))
            got.append(count)

    threads = [threading.Thread(target=read_all, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    ready.wait(LONG)
    for n in range(20):
        if deliver == "send":
            topic.send(str(n))
        else:
            topic.send_many([str(n)])
    for thread in threads:
        thread.join(LONG)
    assert got == [20] * 8


def fail(*_: object) -> None:
    raise RuntimeError("of the program's own")


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [str(record.exc_info[1]) for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("how", ["send", "send_many", "linger"])
def test_a_waiters_callback_that_raises_keeps_no_send_from_ending_and_no_other_waiter_asleep(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str, sync: bool
) -> None:
    with streamlog.open(tmp_path / "log", sync=sync) as log:
        topic = log.create_topic("t")
        service = log._engine.service
        woken: list[int] = []
        for wake in (fail, lambda: woken.append(1)):
            session = service.fetch_session(wake)
            session.watch(TopicPartition("t", 0))
            session.begin_wait()
        if how == "send":
            assert topic.send(b"x").result(LONG).offset == 0
        elif how == "send_many":
            assert topic.send_many([b"x"]).result(LONG)[0].offset == 0
        else:
            with log.producer(linger_ms=60_000) as producer:
                assert producer.send("t", b"x").result(LONG).offset == 0
        assert woken == [1]
        assert values(log) == [b"x"]
    assert logged(caplog) == ["of the program's own"]


def test_a_listener_of_the_topics_that_raises_keeps_no_other_from_hearing_of_a_deletion(
    log: streamlog.StreamLog, caplog: pytest.LogCaptureFixture
) -> None:
    log._engine.service.on_metadata(fail)
    log.create_topic("t")
    producer = log.producer()  # its routes are told after the one that raises
    with log.consumer("t", group="g") as consumer:
        producer.send("t", b"old")
        assert len(consumer.poll(LONG)) == 1
        log.delete_topic("t")
        log.create_topic("t")
        assert producer.send("t", b"new").result(LONG).offset == 0
        assert [record.value for record in consumer.poll(LONG)] == [b"new"]
    assert set(logged(caplog)) == {"of the program's own"}


@pytest.mark.parametrize("linger_ms", [0, 60_000])
def test_a_done_callback_that_raises_is_logged_and_the_next_one_called(
    log: streamlog.StreamLog, caplog: pytest.LogCaptureFixture, linger_ms: int
) -> None:
    log.create_topic("t")
    called: list[int] = []
    producer = log.producer(linger_ms=linger_ms)
    one, many = producer.send("t", b"x"), producer.send_many("t", [b"y", b"z"])
    for delivery in (one, many):
        delivery.add_done_callback(fail)  # type: ignore[attr-defined]
        delivery.add_done_callback(lambda _: called.append(1))  # type: ignore[attr-defined]
    producer.flush(LONG)
    assert called == [1, 1]
    assert logged(caplog) == ["of the program's own"] * 2


@pytest.mark.parametrize("how", ["flush", "close", "background work"])
def test_after_an_interrupt_in_a_done_callback_the_others_are_called(
    log: streamlog.StreamLog, clock: ManualClock, how: str
) -> None:
    log.create_topic("t")
    called: list[int] = []
    producer = log.producer(linger_ms=60_000)
    delivery = producer.send("t", b"x")

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    delivery.add_done_callback(interrupt)
    delivery.add_done_callback(lambda _: called.append(1))
    with pytest.raises(KeyboardInterrupt):
        producer.flush(LONG)
    if how == "background work":
        clock.advance(0)
    else:
        getattr(producer, how)(LONG)
    assert called == [1]


def test_a_callback_for_many_records_is_called_once_though_their_batches_end_at_the_same_time(
    log: streamlog.StreamLog,
) -> None:
    """Two threads write two batches at once: what counts them is stopped between any two steps."""
    log.create_topic("t", partitions=2)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(50):
            producer = log.producer(linger_ms=60_000)
            called: list[int] = []
            delivery = producer.send_many("t", [b"x", b"y"], keys=[b"a", b"b"])
            others = [producer.send("t", b"z", partition=number) for number in range(2)]
            delivery.add_done_callback(lambda _, called=called: called.append(1))  # type: ignore[misc]
            threads = [threading.Thread(target=other.result, args=[LONG]) for other in others]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(LONG)
            producer.close()
            assert called == [1]
    finally:
        sys.setswitchinterval(interval)
