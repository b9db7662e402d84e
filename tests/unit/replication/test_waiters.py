"""Waiters: an append has each called once, calls only a few itself, and one that gives up costs the same among thousands."""

from __future__ import annotations

from functools import partial

from streamlog.replication.listeners import AT_ONCE, SOME, Waiters
from tests.bytecodes import bytecodes

MANY = 10_000


class Callback:
    """Counts how often callbacks are compared: what a search in a list would do."""

    compared = 0

    def __init__(self, called: list[int], number: int) -> None:
        self._called = called
        self._number = number

    def __call__(self) -> None:
        self._called.append(self._number)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        Callback.compared += 1
        return self is other


def many(waiters: Waiters, called: list[int], count: int = MANY) -> list[Callback]:
    callbacks = [Callback(called, number) for number in range(count)]
    for each in callbacks:
        waiters.add(each)
    return callbacks


def test_giving_up_compares_no_waiter_with_another() -> None:
    waiters, called = Waiters(), list[int]()
    callbacks = many(waiters, called)
    Callback.compared = 0
    for each in reversed(callbacks):
        waiters.remove(each)
    assert Callback.compared == 0
    waiters.wake()
    assert not called


def test_an_append_leaves_many_waiters_to_the_background_which_lets_other_work_in_between() -> None:
    waiters, called, asked = Waiters(), list[int](), list[int]()
    waiters.later = lambda: asked.append(1)
    many(waiters, called)
    waiters.wake()
    assert (called, asked) == ([], [1])
    assert not waiters.callbacks  # so the next append pays nothing
    calls = 0
    again: int | None = 0
    while again is not None:
        before = len(called)
        again = waiters.wake_some(7)
        calls += 1
        assert len(called) - before <= SOME
    assert called == list(range(MANY))
    assert calls == MANY // SOME + (MANY % SOME > 0)


def test_an_append_has_a_handful_of_steps_for_each_waiter_that_it_leaves_to_the_background() -> None:
    def steps(count: int) -> int:
        waiters = Waiters()
        waiters.later = lambda: None
        many(waiters, [], count)
        return bytecodes(waiters.wake)

    few, many_more = steps(2 * AT_ONCE), steps(2 * AT_ONCE + 1000)
    assert 0 < few <= many_more < few + 1000 * 25


def test_a_few_waiters_are_called_by_the_append() -> None:
    waiters, called = Waiters(), list[int]()
    waiters.later = partial(called.append, -1)
    many(waiters, called, AT_ONCE)
    waiters.wake()
    assert called == list(range(AT_ONCE))


def test_without_a_background_thread_the_append_calls_all() -> None:
    waiters, called = Waiters(), list[int]()
    many(waiters, called, AT_ONCE * 3)
    waiters.wake()
    assert called == list(range(AT_ONCE * 3))


def test_one_that_gives_up_before_the_background_comes_is_not_called() -> None:
    waiters, called = Waiters(), list[int]()
    waiters.later = lambda: None
    callbacks = many(waiters, called, AT_ONCE + 2)
    waiters.wake()
    waiters.remove(callbacks[1])
    while waiters.wake_some(0) is not None:
        pass
    assert called == [0, *range(2, AT_ONCE + 2)]


def test_closing_calls_those_too_that_were_left_to_the_background() -> None:
    waiters, called = Waiters(), list[int]()
    waiters.later = lambda: None
    many(waiters, called, AT_ONCE + 1)
    waiters.wake()
    waiters.add(lambda: called.append(-1))
    waiters.wake_all()
    assert called == [*range(AT_ONCE + 1), -1]
