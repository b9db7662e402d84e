"""Requests of several steps: they run as far as everything is done, then where the wait ends, and an interrupt ends them."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from streamlog.broker.steps import Steps
from streamlog.errors import NotLeaderError, ReentrantCallError, RequestTimedOutError
from streamlog.runtime.api import Completion, Task
from streamlog.runtime.threads import RawGate, wait_for


class Background:
    """Tasks that wait to be run, as on another thread."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []

    def __call__(self, task: Task) -> None:
        self.tasks.append(task)

    def run(self) -> None:
        tasks, self.tasks = self.tasks, []
        for task in tasks:
            task(0)


def adding(*parts: Completion[int]) -> Generator[Completion[Any], Any, int]:
    total = 0
    for part in parts:
        total += yield part
    return total


def test_steps_that_wait_for_nothing_are_done_at_once() -> None:
    background = Background()
    assert Steps(adding(Completion.of(1), Completion.of(2)), background).result() == 3
    assert not background.tasks


def test_steps_go_on_in_the_background_once_what_they_wait_for_is_done() -> None:
    background = Background()
    first: Completion[int] = Completion()
    answer = Steps(adding(first, Completion.of(2)), background)
    assert not answer.drive()
    first.complete(1)
    assert not answer.done()
    background.run()
    assert answer.result() == 3
    assert not answer.drive()


def test_a_thread_that_waits_goes_on_itself() -> None:
    background = Background()
    first: Completion[int] = Completion()
    answer = Steps(adding(first, Completion.of(2)), background)
    gate = RawGate()
    answer.on_turn(gate)
    first.complete(1)
    assert gate.is_open()
    assert not background.tasks
    assert wait_for(answer, 1.0)
    assert answer.result() == 3
    late = RawGate()
    answer.on_turn(late)
    assert late.is_open()


def test_steps_go_on_in_the_background_when_the_thread_that_waited_has_given_up() -> None:
    background = Background()
    first, second = Completion[int](), Completion[int]()
    answer = Steps(adding(first, second), background)
    assert not wait_for(answer, 0.0)
    answer.soon()
    first.complete(1)
    background.run()
    assert not wait_for(answer, 0.0)
    second.complete(2)  # before it says so
    answer.soon()
    background.run()
    assert answer.result() == 3


def test_an_error_is_raised_in_the_steps_and_is_the_answer_if_they_do_not_handle_it() -> None:
    def patient(part: Completion[int]) -> Generator[Completion[Any], Any, int]:
        try:
            return (yield part)
        except NotLeaderError:
            return -1

    failed: Completion[int] = Completion.failed(NotLeaderError("gone"))
    assert Steps(patient(failed), Background()).result() == -1
    assert isinstance(Steps(adding(failed), Background()).error(), NotLeaderError)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ReentrantCallError])
def test_an_interrupt_is_raised_where_it_comes_and_ends_the_request_for_all_others(error: type[BaseException]) -> None:
    def struck(part: Completion[int]) -> Generator[Completion[Any], Any, int]:
        yield part
        raise error

    first: Completion[int] = Completion()
    answer = Steps(struck(first), Background())
    first.complete(1)
    with pytest.raises(error):
        answer.drive()
    failure = answer.error()
    assert isinstance(failure, RequestTimedOutError)
    assert failure.retriable
