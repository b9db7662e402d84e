"""Several things that each wait for a disk, at the same time."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator

import pytest

from streamlog.runtime import threads
from streamlog.runtime.threads import SideBySide
from tests.times import LONG


class Interrupt(BaseException):
    """What a signal handler raises."""


@pytest.fixture
def interrupts() -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    yield
    signal.signal(signal.SIGUSR1, before)


def test_each_is_under_way_while_the_others_are() -> None:
    together = threading.Barrier(3)
    SideBySide().run([lambda: together.wait(LONG)] * 3)


def test_the_error_of_each_is_returned_when_all_have_ended() -> None:
    ended = []

    def fail(error: Exception, wait: threading.Event, then: threading.Event) -> None:
        assert wait.wait(LONG)
        ended.append(error)
        then.set()
        raise error

    first, second, third = threading.Event(), threading.Event(), threading.Event()
    third.set()
    errors = SideBySide().run(
        [
            lambda: ended.append(None),
            lambda: fail(ValueError("the second"), second, first),
            lambda: fail(KeyError("the third"), third, second),
        ]
    )
    assert [type(error) for error in errors] == [type(None), ValueError, KeyError]
    assert len(ended) == 3
    assert first.is_set()


def test_one_that_was_given_up_is_waited_for_no_longer() -> None:
    goes_on, tasks = threading.Event(), []

    def give_up() -> None:
        tasks[1].end_with(OSError("it does not come back"))

    errors = SideBySide().run([give_up, lambda: goes_on.wait(LONG)], tasks.extend)
    assert [str(error) for error in errors] == ["None", "it does not come back"]
    assert not tasks[1].left.is_open()
    goes_on.set()
    assert tasks[1].left.wait(LONG)


def test_what_an_interrupt_left_is_waited_for_by_the_next_call(interrupts: None) -> None:
    beside, goes_on, interrupted, done = SideBySide(), threading.Event(), threading.Event(), []

    def slow() -> None:
        main = threading.main_thread().ident or 0
        while (
            sys._current_frames()[main].f_code is not threads.RawGate.wait.__code__
        ):  # an error of its own work comes later
            threading.Event().wait(0.001)
        while not interrupted.is_set():  # one that comes just before the wait is looked at after it
            signal.pthread_kill(main, signal.SIGUSR1)
            threading.Event().wait(0.001)
        assert goes_on.wait(LONG)
        done.append("slow")

    def interrupt(*_: object) -> None:
        if not interrupted.is_set():
            interrupted.set()
            raise Interrupt

    signal.signal(signal.SIGUSR1, interrupt)
    with pytest.raises(Interrupt):
        beside.run([lambda: None, slow])
    assert done == []
    threading.Timer(0.01, goes_on.set).start()
    beside.run([lambda: done.append("next")])
    assert done == ["slow", "next"]


def test_what_had_not_begun_at_an_interrupt_is_not_done_later(monkeypatch: pytest.MonkeyPatch) -> None:
    beside, begun, done = SideBySide(), [], []

    def start(run: object, _: object) -> None:
        begun.append(run)
        raise Interrupt

    monkeypatch.setattr(threads, "start_new_thread", start)
    with pytest.raises(Interrupt):
        beside.run([lambda: done.append(0), lambda: done.append(1)])
    beside.await_interrupted()
    for run in begun:
        run()  # type: ignore[operator]
    assert done == []


def test_at_the_exit_of_the_interpreter_this_thread_does_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threads, "start_new_thread", start)
    done: list[int] = []
    SideBySide().run([lambda: done.append(0), lambda: done.append(1)])
    assert sorted(done) == [0, 1]
