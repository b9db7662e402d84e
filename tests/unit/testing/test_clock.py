"""A ManualClock moves when the test says so, and runs what becomes due in order before it returns."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamlog.testing
from streamlog.testing.clock import ManualClock
from tests.times import LONG

DAY_S = 86_400


class Tasks:
    """A scheduler of one-shot tasks: deadline → what to do. Notes when each ran."""

    def __init__(self, clock: ManualClock, name: str = "", ran: Any = None) -> None:
        self.clock, self.name = clock, name
        self.ran = [] if ran is None else ran
        self.todo: list[tuple[int, Any]] = []

    def at(self, deadline_ms: int, task: Any = None) -> Tasks:
        self.todo.append((deadline_ms, task))
        return self

    def next_deadline_ms(self) -> int | None:
        return min((deadline for deadline, _ in self.todo), default=None)

    def run_due(self, now_ms: int) -> None:
        assert now_ms == self.clock.time_ms()
        due = sorted((item for item in self.todo if item[0] <= now_ms), key=lambda item: item[0])
        self.todo = [item for item in self.todo if item[0] > now_ms]
        for deadline, task in due:
            self.ran.append((self.name, deadline, now_ms))
            if task is not None:
                task()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(start_ms=1_000)


def attached(clock: ManualClock, name: str = "", ran: Any = None) -> Tasks:
    tasks = Tasks(clock, name, ran)
    clock.attach(tasks)
    return tasks


def test_a_clock_stands_still_until_it_is_moved(clock: ManualClock) -> None:
    assert [clock.time_ms() for _ in range(3)] == [1_000] * 3
    assert clock.monotonic() == 0.0
    assert "1000" in repr(clock)


def test_every_run_begins_at_the_same_time() -> None:
    assert ManualClock().time_ms() == ManualClock().time_ms() == 1_767_225_600_000


def test_advance_moves_both_clocks(clock: ManualClock) -> None:
    clock.advance(2.5)
    assert (clock.time_ms(), clock.monotonic()) == (3_500, 2.5)
    clock.advance(timedelta(weeks=1))
    assert (clock.time_ms(), clock.monotonic()) == (3_500 + 7 * DAY_S * 1000, 2.5 + 7 * DAY_S)


def test_small_steps_add_up_exactly(clock: ManualClock) -> None:
    for _ in range(10_000):
        clock.advance(0.0001)
    clock.advance(timedelta(microseconds=999))
    assert (clock.time_ms(), clock.monotonic()) == (2_000, 1.000999)
    clock.advance(timedelta(microseconds=1))
    assert clock.time_ms() == 2_001


@pytest.mark.parametrize("seconds", [-1, -0.001, timedelta(seconds=-1), float("nan"), float("inf")])
def test_time_that_goes_back_or_is_no_time_is_refused(clock: ManualClock, seconds: Any) -> None:
    with pytest.raises(ValueError, match="advance"):
        clock.advance(seconds)
    assert (clock.time_ms(), clock.monotonic()) == (1_000, 0.0)


def test_a_jump_moves_the_wall_clock_alone(clock: ManualClock) -> None:
    clock.jump(5_000)
    assert (clock.time_ms(), clock.monotonic()) == (6_000, 0.0)
    clock.jump(-5_500)
    assert (clock.time_ms(), clock.monotonic()) == (500, 0.0)


def test_no_time_before_the_epoch(clock: ManualClock) -> None:
    with pytest.raises(ValueError, match="before the epoch"):
        clock.jump(-1_001)
    with pytest.raises(ValueError, match="before the epoch"):
        ManualClock(start_ms=-1)
    assert clock.time_ms() == 1_000


def test_due_work_runs_at_its_own_time_on_the_way(clock: ManualClock) -> None:
    tasks = attached(clock).at(1_400).at(1_100).at(2_000).at(2_001)
    clock.advance(1)
    assert tasks.ran == [("", 1_100, 1_100), ("", 1_400, 1_400), ("", 2_000, 2_000)]
    assert clock.time_ms() == 2_000


def test_work_runs_on_the_calling_thread_and_sees_both_clocks_moved(clock: ManualClock) -> None:
    seen = []
    attached(clock).at(1_250, lambda: seen.append((threading.get_ident(), clock.time_ms(), clock.monotonic())))
    clock.advance(60)
    assert seen == [(threading.get_ident(), 1_250, 0.25)]


def test_several_schedulers_run_in_the_order_of_their_deadlines(clock: ManualClock) -> None:
    ran: list[Any] = []
    attached(clock, "a", ran).at(1_300).at(1_100)
    attached(clock, "b", ran).at(1_200).at(1_300)
    clock.advance(1)
    assert [(name, now) for name, _, now in ran] == [("a", 1_100), ("b", 1_200), ("a", 1_300), ("b", 1_300)]


def test_work_scheduled_by_work_runs_in_the_same_advance_if_it_is_due(clock: ManualClock) -> None:
    tasks = attached(clock)
    tasks.at(1_100, lambda: tasks.at(1_200, lambda: tasks.at(9_000)))
    clock.advance(1)
    assert [now for _, _, now in tasks.ran] == [1_100, 1_200]
    assert tasks.next_deadline_ms() == 9_000


def test_a_periodic_task_runs_once_for_each_period(clock: ManualClock) -> None:
    tasks = attached(clock)

    def again() -> None:
        tasks.at(clock.time_ms() + 60_000, again)

    tasks.at(61_000, again)
    clock.advance(timedelta(hours=10))
    assert len(tasks.ran) == 600


def test_work_that_is_due_now_runs_without_time_passing(clock: ManualClock) -> None:
    tasks = attached(clock).at(1_000).at(900)
    clock.advance(0)
    assert [deadline for _, deadline, _ in tasks.ran] == [900, 1_000]
    assert clock.time_ms() == 1_000


def test_after_a_jump_forward_due_work_runs_at_the_next_advance(clock: ManualClock) -> None:
    ran: list[Any] = []
    attached(clock, "late", ran).at(40_000)
    attached(clock, "early", ran).at(2_000)
    clock.jump(50_000)
    assert ran == []
    clock.advance(0)
    assert ran == [("early", 2_000, 51_000), ("late", 40_000, 51_000)]
    assert clock.monotonic() == 0.0


def test_a_jump_back_puts_off_what_was_not_done(clock: ManualClock) -> None:
    tasks = attached(clock).at(1_500)
    clock.jump(-900)
    clock.advance(1)
    assert tasks.ran == []
    clock.advance(0.4)
    assert tasks.ran == [("", 1_500, 1_500)]


def test_work_that_jumps_the_clock_changes_no_length_of_time(clock: ManualClock) -> None:
    tasks = attached(clock).at(1_500, lambda: clock.jump(100_000))
    tasks.at(101_700)
    clock.advance(1)
    assert [now for _, _, now in tasks.ran] == [1_500, 101_700]
    assert (clock.time_ms(), clock.monotonic()) == (102_000, 1.0)


def test_a_task_that_is_due_for_ever_is_an_error_and_no_endless_loop(clock: ManualClock) -> None:
    tasks = attached(clock)

    def at_once() -> None:
        tasks.at(clock.time_ms(), at_once)

    tasks.at(1_200, at_once)
    with pytest.raises(RuntimeError, match=r"Tasks.* due again at 1200 ms .* later deadline"):
        clock.advance(1)
    assert clock.time_ms() == 1_200


def test_an_error_of_the_work_stops_the_clock_there_and_the_rest_stays_due(clock: ManualClock) -> None:
    tasks = attached(clock).at(1_200, lambda: 1 / 0).at(1_300)
    with pytest.raises(ZeroDivisionError):
        clock.advance(1)
    assert clock.time_ms() == 1_200
    clock.advance(1)
    assert [now for _, _, now in tasks.ran] == [1_200, 1_300]
    assert clock.time_ms() == 2_200


def test_work_may_not_advance_the_clock_that_runs_it(clock: ManualClock) -> None:
    attached(clock).at(1_100, lambda: clock.advance(1))
    with pytest.raises(RuntimeError, match="schedule a later deadline"):
        clock.advance(1)
    clock.advance(1)
    assert clock.time_ms() == 2_100


def test_a_detached_scheduler_is_left_alone(clock: ManualClock) -> None:
    tasks = attached(clock).at(1_100)
    clock.detach(tasks)
    clock.detach(tasks)
    clock.advance(1)
    assert tasks.ran == []


def test_work_may_detach_its_own_scheduler(clock: ManualClock) -> None:
    tasks = attached(clock)
    tasks.at(1_100, lambda: clock.detach(tasks)).at(1_200)
    clock.advance(1)
    assert [now for _, _, now in tasks.ran] == [1_100]


def test_attaching_twice_is_attaching_once(clock: ManualClock) -> None:
    tasks = attached(clock).at(1_100)
    clock.attach(tasks)
    clock.detach(tasks)
    clock.advance(1)
    assert tasks.ran == []


def test_two_threads_advance_one_after_the_other(clock: ManualClock) -> None:
    tasks = attached(clock)
    for deadline in range(1_001, 3_001):
        tasks.at(deadline)

    def advance_a_second() -> None:
        for _ in range(1000):
            clock.advance(0.001)

    threads = [threading.Thread(target=advance_a_second) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert (clock.time_ms(), clock.monotonic()) == (3_000, 2.0)
    assert [now for _, _, now in tasks.ran] == list(range(1_001, 3_001))


@given(
    deadlines=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 500)), max_size=20),
    moves=st.lists(st.tuples(st.booleans(), st.integers(0, 200)), max_size=10),
)
def test_all_that_is_due_has_run_in_order_whenever_advance_returns(deadlines: Any, moves: Any) -> None:
    clock = ManualClock(start_ms=0)
    ran: list[Any] = []
    schedulers = {name: attached(clock, name, ran) for name in "abc"}
    for name, deadline in deadlines:
        schedulers[name].at(deadline)
    for jumps, ms in moves:
        (clock.jump if jumps else lambda ms: clock.advance(ms / 1000))(ms)
    clock.advance(0)
    now = clock.time_ms()
    assert sorted((name, d) for name, d, _ in ran) == sorted((name, d) for name, d in deadlines if d <= now)
    assert all(deadline <= at for _, deadline, at in ran)
    assert [at for _, _, at in ran] == sorted(at for _, _, at in ran)
    if not any(jumps for jumps, _ in moves):
        assert all(deadline == at for _, deadline, at in ran)
    assert clock.monotonic() == sum(ms for jumps, ms in moves if not jumps) / 1000


def test_the_package_offers_the_clock_and_its_protocol() -> None:
    assert streamlog.testing.ManualClock is ManualClock
    assert hasattr(streamlog.testing.Clock, "monotonic")
