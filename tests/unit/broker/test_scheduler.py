"""Tasks run in the order of their deadlines, once for each, whatever happens in between."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from streamlog.broker.scheduler import RETRY_MS, Scheduler
from streamlog.runtime.threads import new_lock


class Task:
    """Notes when it ran, and answers with the next of its deadlines."""

    def __init__(self, ran: list[tuple[str, int]], name: str, *again: int | None) -> None:
        self.ran, self.name, self.again = ran, name, list(again)

    def __call__(self, now_ms: int) -> int | None:
        self.ran.append((self.name, now_ms))
        return self.again.pop(0) if self.again else None


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler(new_lock(), new_lock())


@pytest.fixture
def ran() -> list[tuple[str, int]]:
    return []


def test_tasks_run_in_the_order_of_their_deadlines_and_then_of_their_coming(scheduler: Scheduler, ran: Any) -> None:
    for name, at in (("c", 30), ("a", 10), ("b", 10), ("d", 41)):
        scheduler.at(at, Task(ran, name))
    assert scheduler.run_due(40) == 41
    assert [name for name, _ in ran] == ["a", "b", "c"]
    assert scheduler.run_due(41) is None


def test_a_task_runs_once_at_the_earliest_of_its_deadlines(scheduler: Scheduler, ran: Any) -> None:
    task = Task(ran, "a")
    for at in (30, 20, 25):
        scheduler.at(at, task)
    assert scheduler.next_deadline_ms() == 20
    scheduler.run_due(20)
    assert scheduler.run_due(100) is None
    assert ran == [("a", 20)]


def test_a_cancelled_task_does_not_run_and_can_come_again(scheduler: Scheduler, ran: Any) -> None:
    task = Task(ran, "a")
    scheduler.cancel(task)
    scheduler.at(10, task)
    scheduler.cancel(task)
    assert scheduler.next_deadline_ms() is None
    scheduler.at(15, task)
    assert scheduler.run_due(12) == 15
    scheduler.run_due(15)
    assert ran == [("a", 15)]


def test_a_task_comes_again_when_it_says_but_never_in_the_same_millisecond(scheduler: Scheduler, ran: Any) -> None:
    scheduler.at(10, Task(ran, "a", 5, 30))
    assert scheduler.run_due(10) == 11
    assert scheduler.run_due(11) == 30
    assert scheduler.run_due(30) is None


def test_a_task_that_raises_is_tried_again(scheduler: Scheduler, ran: Any) -> None:
    failures: list[Exception] = [ValueError("once")]

    def task(now_ms: int) -> None:
        if failures:
            raise failures.pop()
        ran.append(("a", now_ms))

    scheduler.at(10, task)
    assert scheduler.run_due(10) == 10 + RETRY_MS
    assert scheduler.run_due(10 + RETRY_MS) is None
    assert len(ran) == 1


def test_a_task_that_is_interrupted_stays_due(scheduler: Scheduler, ran: Any) -> None:
    interrupts = [KeyboardInterrupt()]

    def task(now_ms: int) -> None:
        if interrupts:
            raise interrupts.pop()
        ran.append(("a", now_ms))

    scheduler.at(10, task)
    with pytest.raises(KeyboardInterrupt):
        scheduler.run_due(10)
    assert scheduler.next_deadline_ms() == 10
    scheduler.run_due(10)
    assert len(ran) == 1


def test_only_a_new_earliest_deadline_nudges(scheduler: Scheduler, ran: Any) -> None:
    nudges: list[int] = []
    scheduler.nudge = lambda: nudges.append(1)
    a, b = Task(ran, "a"), Task(ran, "b")
    for at, task, expected in ((20, a, 1), (30, b, 1), (10, b, 2), (15, b, 2), (20, a, 2)):
        scheduler.at(at, task)
        assert len(nudges) == expected


def test_deadlines_that_were_replaced_do_not_pile_up(scheduler: Scheduler, ran: Any) -> None:
    tasks = [Task(ran, str(n)) for n in range(10)]
    for at in range(10_000, 0, -1):
        scheduler.cancel(tasks[at % 10])
        scheduler.at(1_000_000 + at, tasks[at % 10])
    assert scheduler.next_deadline_ms() == 1_000_001
    assert len(scheduler._order) == 10


def test_it_does_what_a_sorted_dict_does(scheduler: Scheduler, ran: list[tuple[str, int]]) -> None:
    chance = random.Random(9)
    tasks = {str(n): Task(ran, str(n)) for n in range(20)}
    model: dict[str, tuple[int, int]] = {}
    now = 0
    for step in range(5_000):
        name = chance.choice(list(tasks))
        choose: Callable[[], float] = chance.random
        if choose() < 0.6:
            at = now + chance.randrange(1, 50)
            scheduler.at(at, tasks[name])
            if name not in model or at < model[name][0]:
                model[name] = (at, step)
        elif choose() < 0.5:
            scheduler.cancel(tasks[name])
            model.pop(name, None)
        else:
            now += chance.randrange(10)
            due = sorted((name for name in model if model[name][0] <= now), key=model.__getitem__)
            ran.clear()
            scheduler.run_due(now)
            assert [name for name, _ in ran] == due
            for each in due:
                del model[each]
        assert scheduler.next_deadline_ms() == min((at for at, _ in model.values()), default=None)
