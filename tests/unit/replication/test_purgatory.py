"""Delayed operations: each is answered once, by its offset or by its deadline, wherever a thread is interrupted or overtaken."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlog.errors import ClosedError, RequestTimedOutError
from streamlog.replication import purgatory as module
from streamlog.replication.purgatory import DelayedOperation, Purgatory
from streamlog.runtime.threads import new_lock
from tests.times import LONG

LATE = RequestTimedOutError("late")


@pytest.fixture
def purgatory() -> Purgatory:
    return Purgatory(new_lock())


def add(purgatory: Purgatory, offset: int, deadline_ms: int | None = None) -> DelayedOperation[str]:
    operation = DelayedOperation("passed", late=LATE)
    purgatory.add(offset, operation, deadline_ms)
    return operation


def answers(operation: DelayedOperation[str]) -> list[object]:
    """Every answer that a callback is called with, from now on."""
    seen: list[object] = []
    operation.on_done(lambda done: seen.append(type(done.error()).__name__ if done.error() else done.result()))
    return seen


def test_what_was_passed_is_done_in_order_and_the_rest_waits(purgatory: Purgatory) -> None:
    order: list[int] = []
    operations = {offset: add(purgatory, offset) for offset in (7, 3, 5, 3)}
    for offset, operation in operations.items():
        operation.on_done(lambda _, offset=offset: order.append(offset))
    purgatory.complete_through(5)
    assert order == [3, 5]
    assert not operations[7].done()
    purgatory.complete_through(7)
    assert order == [3, 5, 7]
    assert not purgatory


def test_all_that_wait_fail_at_once(purgatory: Purgatory) -> None:
    first, second = add(purgatory, 1), add(purgatory, 2)
    purgatory.complete_through(1)
    purgatory.fail(ClosedError("closed"))
    assert first.result() == "passed"
    assert isinstance(second.error(), ClosedError)
    assert not purgatory


def test_a_deadline_answers_what_still_waits_and_says_when_the_next_comes(purgatory: Purgatory) -> None:
    scheduled: list[int] = []
    purgatory.schedule = scheduled.append
    passed, late, patient = add(purgatory, 1, 10), add(purgatory, 9, 20), add(purgatory, 9, 30)
    fetch: DelayedOperation[str] = DelayedOperation("what there is")
    purgatory.add(9, fetch, 20)
    assert scheduled == [10, 20, 30, 20]
    purgatory.complete_through(1)
    assert purgatory.expire(20) == 30
    assert passed.result() == "passed"
    assert isinstance(late.error(), RequestTimedOutError)
    assert fetch.result() == "what there is"
    assert not patient.done()
    assert purgatory.expire(30) is None
    assert purgatory.expire(40) is None


def test_what_waits_for_removed_records_waits_for_what_is_before(purgatory: Purgatory) -> None:
    operations = [add(purgatory, offset) for offset in (3, 9, 5)]
    purgatory.clip(4)
    purgatory.complete_through(4)
    assert all(operation.done() for operation in operations)


def test_one_advance_costs_the_same_however_many_wait_for_more(purgatory: Purgatory) -> None:
    def events(waiting: int) -> int:
        here = Purgatory(new_lock())
        for n in range(waiting):
            add(here, 1000 + n)
        due = add(here, 1)
        count = 0

        def trace(frame: FrameType, event: str, arg: object) -> Any:
            nonlocal count
            count += 1
            return trace

        sys.settrace(trace)
        try:
            here.complete_through(1)
        finally:
            sys.settrace(None)
        assert due.done()
        return count

    assert events(10_000) == events(10)


@pytest.mark.parametrize("by", ["offset", "deadline"])
def test_what_is_done_is_not_kept(purgatory: Purgatory, by: str) -> None:
    """A fetch that waits for an idle partition over and over, and a produce whose deadline is far away."""
    for n in range(1, 1000):
        if by == "deadline":
            add(purgatory, 1 << 40, n)
            purgatory.expire(n)
        else:
            add(purgatory, n, 1 << 40)
            purgatory.complete_through(n)
    assert len(purgatory) < 50
    assert len(purgatory._deadlines) < 50


# The deadline and the event at once


@contextmanager
def at_step(n: int, happens: Callable[[], object]) -> Iterator[list[int]]:
    """Call `happens` before the n-th bytecode instruction of the purgatory or of a Completion; the list says how many there were."""
    steps = [0]
    files = {module.__file__, sys.modules["streamlog.runtime.api"].__file__}

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename not in files:
            return None
        frame.f_trace = trace  # before what follows, which Python 3.13 ignores of a frame without one
        frame.f_trace_opcodes = True
        if event == "opcode":
            steps[0] += 1
            if steps[0] == n:
                sys.settrace(None)
                happens()
        return trace

    sys._getframe().f_trace_opcodes = True  # Python 3.12 asks for it at `settrace`
    sys.settrace(trace)
    try:
        yield steps
    finally:
        sys.settrace(None)


def _count(event: str) -> int:
    purgatory = Purgatory(new_lock())
    add(purgatory, 1, 10)
    with at_step(0, lambda: None) as steps:
        _happen(purgatory, event)
    return steps[0]


def _happen(purgatory: Purgatory, event: str) -> None:
    if event == "offset":
        purgatory.complete_through(1)
    elif event == "deadline":
        purgatory.expire(10)
    else:
        purgatory.fail(ClosedError("closed"))


@pytest.mark.parametrize("second", ["offset", "deadline", "failure"])
@pytest.mark.parametrize("first", ["offset", "deadline", "failure"])
def test_an_event_that_overtakes_another_at_any_step_leaves_one_answer(first: str, second: str) -> None:
    """The other event happens on a thread of its own, which waits for the lock where the first one holds it."""
    steps = _count(first)
    assert steps > 20
    with ThreadPoolExecutor(1) as threads:
        for n in range(1, steps + 1):
            _overtaken_at(n, first, second, threads)


def _overtaken_at(n: int, first: str, second: str, threads: ThreadPoolExecutor) -> None:
    purgatory = Purgatory(new_lock())
    operation, other = add(purgatory, 1, 10), add(purgatory, 1 << 40, 1 << 40)
    seen = answers(operation)
    raced: list[Any] = []

    def overtake() -> None:
        future = threads.submit(_happen, purgatory, second)
        raced.append(future)
        if not purgatory._lock.locked():
            future.result(LONG)

    with at_step(n, overtake):
        _happen(purgatory, first)
    raced[0].result(LONG)
    assert len(seen) == 1, f"at step {n}: {seen}"
    assert operation.done()
    assert other.done() == ("failure" in (first, second))
    if not other.done():
        purgatory.complete_through(1 << 40)
        assert other.result() == "passed"


@pytest.mark.parametrize("event", ["offset", "deadline", "failure"])
def test_an_interrupt_at_any_step_loses_no_operation(event: str) -> None:
    for n in range(1, _count(event) + 1):
        with ThreadPoolExecutor(1) as thread:  # of its own: a step may leave the mark of its thread held, see below
            thread.submit(_interrupted_at, n, event).result(LONG)


def _interrupted_at(n: int, event: str) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    purgatory = Purgatory(new_lock())
    operation, other = add(purgatory, 1, 10), add(purgatory, 2, 10)
    seen = answers(operation)
    with pytest.raises(KeyboardInterrupt), at_step(n, interrupt):
        _happen(purgatory, event)
    if purgatory._lock.locked():  # between a lock's own step and its block, where the interpreter looks for no signal
        return
    _happen(purgatory, event)
    assert operation.done()
    assert len(seen) <= 1, f"at step {n}: {seen}"  # a callback that an interrupt takes the place of is not called again
    purgatory.complete_through(2)
    assert other.done()


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "complete", "expire"]), st.integers(0, 9), st.none() | st.integers(0, 9))
    )
)
def test_as_in_a_list(steps: list[tuple[str, int, int | None]]) -> None:
    """An operation is done exactly if its offset or its deadline has come since, and by what came first."""
    purgatory = Purgatory(new_lock())
    model: list[tuple[DelayedOperation[str], int, int | None, str | None]] = []
    for what, number, deadline in steps:
        if what == "add":
            model.append((add(purgatory, number, deadline), number, deadline, None))
            continue
        if what == "complete":
            purgatory.complete_through(number)
        else:
            purgatory.expire(number)
        for at, (operation, offset, due, answer) in enumerate(model):
            if answer is None and (offset if what == "complete" else 10 if due is None else due) <= number:
                model[at] = (operation, offset, due, what)
        for operation, _, _, answer in model:
            assert operation.done() == (answer is not None)
            assert answer is None or (operation.error() is None) == (answer == "complete")
