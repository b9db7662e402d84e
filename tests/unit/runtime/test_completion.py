"""`Completion`: the first answer counts; each callback runs once; a callback that raises affects no other."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from streamlog.errors import RequestTimedOutError
from streamlog.runtime import api
from streamlog.runtime.api import Completion
from tests.times import LONG

LATE = RequestTimedOutError("too late")


def outcome(completion: Completion[int]) -> int | BaseException:
    """The answer, after a look that it is a value or an error and not both."""
    assert completion.done()
    error = completion.error()
    if error is None:
        return completion.result()
    with pytest.raises(type(error)) as raised:
        completion.result()
    assert raised.value is error
    return error


def test_a_completion_is_made_answered_or_not() -> None:
    assert not Completion[int]().done()
    assert Completion[int]().error() is None
    assert outcome(Completion.of(7)) == 7
    assert outcome(Completion.failed(LATE)) is LATE


@pytest.mark.parametrize("made", [Completion[int], lambda: Completion.of(1), lambda: Completion.failed(LATE)])
def test_the_first_answer_holds(made: Callable[[], Completion[int]]) -> None:
    completion = made()
    completion.complete(1)
    before = outcome(completion)
    completion.fail(ValueError("second"))
    completion.complete(2)
    assert outcome(completion) is before


def test_a_callback_is_called_once_whenever_it_was_given() -> None:
    completion: Completion[int] = Completion()
    called: list[str] = []
    completion.on_done(lambda _: called.append("before"))
    completion.complete(1)
    completion.fail(LATE)
    completion.on_done(lambda _: called.append("after"))
    Completion.of(1).on_done(lambda _: called.append("made done"))
    assert called == ["before", "after", "made done"]


def answers_at(step: int, first: Callable[[], object], second: Callable[[], object]) -> bool:
    """Run `first`, and all of `second` before its bytecode `step` in the module, as a second thread might; whether it has that many."""
    left = [step]

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename != api.__file__:
            return None
        frame.f_trace = trace  # before what follows, which Python 3.13 ignores of a frame without one
        frame.f_trace_opcodes = True
        if event == "opcode" and left[0] > 0:
            left[0] -= 1
            if not left[0]:
                sys.settrace(None)
                second()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        first()
    finally:
        sys.settrace(before)
    return not left[0]


class Paused:
    """A second thread that stops before its bytecode `step`, until `go_on`."""

    def __init__(self, step: int, work: Callable[[], object]) -> None:
        self._reached, self._go = threading.Event(), threading.Event()
        self.has_step = False

        def pause() -> None:
            self._reached.set()
            self._go.wait(LONG)

        def run() -> None:
            self.has_step = answers_at(step, work, pause)
            self._reached.set()

        self._thread = threading.Thread(target=run)
        self._thread.start()
        self._reached.wait(LONG)

    def go_on(self) -> None:
        self._go.set()
        self._thread.join(LONG)


@pytest.mark.slow
@pytest.mark.parametrize("first", ["event", "deadline"])
def test_a_deadline_and_an_event_that_race_leave_one_answer_at_every_pair_of_steps(first: str) -> None:
    pairs = step = 0
    more = True
    while more:
        step += 1
        other, has_step = 0, True
        while has_step:
            other += 1
            completion: Completion[int] = Completion()
            called: list[int | BaseException] = []
            completion.on_done(lambda done, called=called: called.append(outcome(done)))  # type: ignore[misc]
            answers = [lambda c=completion: c.complete(7), lambda c=completion: c.fail(LATE)]  # type: ignore[misc]
            one, two = answers if first == "event" else answers[::-1]
            paused: list[Paused] = []
            more = answers_at(step, one, lambda p=paused, n=other, two=two: p.append(Paused(n, two)))  # type: ignore[misc]
            seen = outcome(completion)
            for second in paused:
                second.go_on()
            assert called == [seen] == [outcome(completion)], f"step {step}, of the other {other}"
            has_step = any(second.has_step for second in paused)
            pairs += 1
    assert pairs > 50


def test_a_callback_given_while_it_is_answered_is_called_once_at_every_step() -> None:
    step = 0
    more = True
    while more:
        step += 1
        completion: Completion[int] = Completion()
        called: list[int] = []
        more = answers_at(
            step,
            lambda c=completion, called=called: c.on_done(lambda done: called.append(done.result())),  # type: ignore[misc]
            lambda c=completion: c.complete(7),  # type: ignore[misc]
        )
        completion.complete(7)
        assert called == [7], f"step {step}"


def test_threads_that_answer_at_once_leave_one_answer() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(200):
            completion: Completion[int] = Completion()
            called: list[int | BaseException] = []
            completion.on_done(lambda done, called=called: called.append(outcome(done)))  # type: ignore[misc]
            ready = threading.Barrier(2)

            def answer(give: Callable[[], None], ready: threading.Barrier = ready) -> None:
                ready.wait(LONG)
                give()

            threads = [
                threading.Thread(target=answer, args=[lambda c=completion: c.complete(7)]),  # type: ignore[misc]
                threading.Thread(target=answer, args=[lambda c=completion: c.fail(LATE)]),  # type: ignore[misc]
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(LONG)
            assert called == [outcome(completion)]
    finally:
        sys.setswitchinterval(interval)


def test_an_interrupted_answer_is_given_again() -> None:
    """Wherever Ctrl-C came: it is answered, or a second answer counts."""

    class Interrupt(BaseException):
        pass

    def interrupt() -> None:
        raise Interrupt

    step, more = 0, True
    while more:
        step += 1
        completion: Completion[int] = Completion()
        called: list[int] = []
        completion.on_done(lambda done, called=called: called.append(done.result()))  # type: ignore[misc]
        with contextlib.suppress(Interrupt):
            more = answers_at(step, lambda c=completion: c.complete(7), interrupt)  # type: ignore[misc]
        completion.complete(7)
        assert outcome(completion) == 7
        assert len(called) <= 1


def test_a_callback_that_raises_is_logged_and_the_next_one_called(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "streamlog")
    completion: Completion[int] = Completion()
    called: list[int] = []
    completion.on_done(lambda _: 1 // 0)
    completion.on_done(lambda done: called.append(done.result()))
    completion.complete(7)
    assert called == [7]
    completion.on_done(lambda _: 1 // 0)
    Completion.of(7).on_done(lambda _: 1 // 0)
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError] * 3


def test_after_an_interrupt_in_a_callback_the_next_one_is_called() -> None:
    completion: Completion[int] = Completion()
    called: list[int] = []

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    completion.on_done(interrupt)
    completion.on_done(lambda done: called.append(done.result()))
    with pytest.raises(KeyboardInterrupt):
        completion.complete(7)
    assert called == [7]
