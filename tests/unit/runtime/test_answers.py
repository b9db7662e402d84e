"""Answers made of others: of a call that returns or raises at once, and of several completions."""

from __future__ import annotations

import contextlib
import gc
import weakref

import pytest

from streamlog.errors import ReentrantCallError, StreamlogError
from streamlog.runtime.api import AllDone, Completion, Gate, answering
from streamlog.runtime.threads import RawGate, result_of


@answering
def halve(number: int) -> int:
    """Half of a number."""
    if number < 0:
        raise ReentrantCallError("in the middle of another call")
    if number % 2:
        raise StreamlogError("odd")
    return number // 2


def test_what_a_call_returns_or_raises_is_its_answer() -> None:
    assert halve(4).result() == 2
    assert halve.__doc__ == "Half of a number."
    refused = halve(3)
    assert refused.done()
    with pytest.raises(StreamlogError, match="odd"):
        result_of(refused)


def test_a_call_that_did_nothing_because_of_another_one_raises() -> None:
    with pytest.raises(ReentrantCallError):
        halve(-1)


def test_an_error_of_the_program_is_no_answer() -> None:
    with pytest.raises(TypeError):
        halve("text")  # type: ignore[arg-type]


def test_an_error_that_was_raised_keeps_no_completion_in_memory() -> None:
    class Failing(Completion[int]):
        __slots__ = ("__weakref__",)

    kept: list[weakref.ref[Failing]] = []

    def ask() -> Failing:
        failing = Failing()
        failing.fail(StreamlogError("full"))
        kept.append(weakref.ref(failing))
        return failing

    gc.disable()
    try:
        with contextlib.suppress(StreamlogError):
            result_of(ask())
        assert kept[0]() is None
    finally:
        gc.enable()


def test_all_are_done_when_the_last_one_is() -> None:
    parts = [Completion[int](), Completion.of(1), Completion[int]()]
    done = AllDone(parts)
    parts[2].complete(3)
    assert not done.done()
    parts[0].complete(1)
    assert done.done()
    assert result_of(done) is None  # type: ignore[func-returns-value]
    assert AllDone([]).done()


def test_the_first_error_in_order_counts_once_all_were_tried() -> None:
    parts = [Completion[int](), Completion[int](), Completion[int]()]
    done = AllDone(parts)
    parts[2].fail(StreamlogError("third"))
    parts[1].fail(StreamlogError("second"))
    assert not done.done()
    parts[0].complete(1)
    with pytest.raises(StreamlogError, match="second"):
        result_of(done)


class Driven(Completion[int]):
    """Done by the thread that waits for it, in its turn."""

    __slots__ = ("busy", "gates", "noticed", "work")

    def __init__(self) -> None:
        super().__init__()
        self.work = self
        self.busy = False
        self.noticed = 0
        self.gates: list[Gate] = []

    def drive(self) -> bool:
        if not self.busy:
            self.complete(1)
        return not self.busy

    def on_turn(self, gate: Gate) -> None:
        self.gates.append(gate)

    def soon(self) -> None:
        self.noticed += 1


def test_a_thread_that_waits_for_all_does_the_work_of_each() -> None:
    parts = [Driven(), Driven()]
    result_of(AllDone(parts))
    assert [part.result() for part in parts] == [1, 1]


def test_a_part_that_another_thread_works_for_does_not_hold_up_the_others() -> None:
    parts = [Driven(), Driven()]
    parts[0].busy = True
    done = AllDone(parts)
    assert done.drive()
    assert parts[1].done()
    assert not done.drive()
    gate = RawGate()
    done.on_turn(gate)
    assert [part.gates for part in parts] == [[gate], []]
    parts[0].complete(1)
    assert done.done()
    done.soon()
    assert [part.noticed for part in parts] == [1, 1]


@pytest.mark.parametrize("are_done_before", [False, True])
def test_many_parts_are_looked_at_a_bounded_number_of_times(are_done_before: bool) -> None:
    """Those of one request with many partitions, which are most often done when they are put together."""
    looks = 0

    class Counted(Completion[int]):
        __slots__ = ()

        def done(self) -> bool:
            nonlocal looks
            looks += 1
            return super().done()

        def error(self) -> BaseException | None:
            nonlocal looks
            looks += 1
            return super().error()

    parts = [Counted() for _ in range(1000)]
    if are_done_before:
        for part in parts:
            part.complete(1)
    done = AllDone(parts)
    for part in parts:
        part.complete(1)
    assert done.done()
    assert looks < 5000
