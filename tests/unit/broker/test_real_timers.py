"""Timers of real time: the thread that they have, and the requests that end by them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import streamlog
from streamlog.broker.api import ProduceRequest
from streamlog.broker.delayed_fetch import DelayedFetch, FetchRequest
from streamlog.broker.real_timers import RealTimers
from streamlog.errors import RequestTimedOutError
from streamlog.records import columns
from streamlog.records.batch import seed_of
from streamlog.runtime.api import Completion
from streamlog.runtime.threads import new_lock, real_monotonic, result_of, wait_for
from streamlog.testing import ManualClock, SimulatedDisk
from streamlog.types import TopicPartition

from .conftest import Tenant

P0 = TopicPartition("t", 0)
SECONDS = 20.0


def timer_threads() -> int:
    return [thread.name for thread in threading.enumerate()].count("streamlog-timers")


# -- the thread --------------------------------------------------------------------------------------


@pytest.fixture
def timers() -> Iterator[RealTimers]:
    made = RealTimers(new_lock, real_monotonic)
    yield made
    made.close()


def test_they_have_a_thread_from_the_first_timer_on(timers: RealTimers) -> None:
    ran = threading.Event()
    timers.open()
    assert timer_threads() == 0
    timers.at(timers.now_ms() + 1, lambda now_ms: ran.set())
    assert ran.wait(SECONDS)
    timers.at(timers.now_ms() + 60_000, lambda now_ms: None)
    assert timer_threads() == 1
    timers.close()
    assert timer_threads() == 0


def test_their_thread_is_not_woken_for_a_deadline_after_the_one_that_it_wakes_for(timers: RealTimers) -> None:
    """Each fetch that waits has a deadline, as a rule the only one, and most are answered long before."""

    def answered_soon(now_ms: int) -> None:
        raise AssertionError("it was cancelled")

    timers.open()
    timers.at(timers.now_ms() + 60_000, answered_soon)
    thread = timers._thread
    assert thread is not None
    while thread.wakes_at_ms is None:
        time.sleep(0.001)
    timers.cancel(answered_soon)
    timers.at(timers.now_ms() + 70_000, answered_soon)
    assert not thread._gate.is_open()
    ran = threading.Event()
    timers.at(timers.now_ms() + 1, lambda now_ms: ran.set())
    assert ran.wait(SECONDS)


def test_what_was_there_before_they_are_opened_runs_too(timers: RealTimers) -> None:
    ran = threading.Event()
    timers.at(timers.now_ms() + 1, lambda now_ms: ran.set())
    assert not ran.wait(0.01)
    timers.open()
    assert ran.wait(SECONDS)


def test_a_start_that_was_interrupted_is_made_good_by_the_next_timer(
    timers: RealTimers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    timers.open()
    with monkeypatch.context() as patch:
        patch.setattr("streamlog.broker.real_timers.BackgroundThread", interrupt)
        with pytest.raises(KeyboardInterrupt):
            timers.at(0, lambda now_ms: None)
    assert len(timers) == 0
    ran = threading.Event()
    timers.at(0, lambda now_ms: ran.set())
    assert ran.wait(SECONDS)


@pytest.mark.parametrize("clock", [None, ManualClock()])
def test_a_log_has_no_such_thread_without_a_timeout_and_one_with_it_under_every_clock(clock: Any) -> None:
    with streamlog.open(clock=clock, disk=SimulatedDisk()) as log:
        view = log.create_topic("t")._view()
        service: Any = log._engine.service
        batch = columns.seal(seed_of(view.id_bytes, 0), None, [b"a"], 1, count=1)
        assert service.produce(ProduceRequest(view.partition(0), [batch], timeout_ms=60_000)).done()
        assert timer_threads() == 0
        requests = [FetchRequest(view.partition(0), 1, 1 << 20)]
        delayed = service.fetch_many(requests, "read_committed", max_wait_ms=1)
        assert wait_for(delayed, SECONDS)
        assert timer_threads() == 1
    assert timer_threads() == 0


# -- a produce that is not acknowledged in time --------------------------------------------------------


class Unsynced:
    """A service whose records wait for their sync, in a time that the test moves."""

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self.at = tenant.create()
        self.now_s = 1_000.0
        tenant.service.real_seconds = lambda: self.now_s
        self.answers: list[Completion[int]] = []

    def produce(self, timeout_ms: int | None, acks: Any = "all") -> Completion[int]:
        batch = self.tenant.seal(self.at, b"a", b"b")
        done = self.tenant.service.produce(ProduceRequest(self.at, [batch], acks, timeout_ms))
        done.on_done(self.answers.append)
        return done

    def pass_ms(self, ms: int) -> int | None:
        """Let time pass, and run the timers; when the next one is (ms)."""
        self.now_s += ms / 1000
        return self.tenant.service.real_timers.run_due(int(self.now_s * 1000))

    def sync(self) -> None:
        self.tenant.service.timers.run_due(self.tenant.clock.time_ms() + 1000)

    def ends(self) -> tuple[int, int]:
        return result_of(self.tenant.service.bounds(P0, "read_uncommitted"))


@pytest.fixture
def unsynced(opened: Callable[..., Tenant]) -> Unsynced:
    return Unsynced(opened(sync=True))


def test_it_ends_with_a_retriable_error_and_its_records_stay(unsynced: Unsynced) -> None:
    late, patient, endless = unsynced.produce(500), unsynced.produce(2_000), unsynced.produce(None)
    assert unsynced.pass_ms(499) == 1_000_500
    assert not late.done()
    assert unsynced.pass_ms(1) == 1_002_000
    error = late.error()
    assert isinstance(error, RequestTimedOutError)
    assert error.retriable
    assert "t-0 from 0 to 1 were not acknowledged" in str(error)
    assert not patient.done()
    unsynced.sync()
    assert (patient.result(), endless.result()) == (2, 4)
    assert unsynced.ends() == (0, 6)
    assert unsynced.answers == [late, patient, endless]


@pytest.mark.parametrize("first", ["deadline", "sync"])
def test_a_deadline_and_a_sync_that_race_answer_once(unsynced: Unsynced, first: str) -> None:
    done = unsynced.produce(500)
    if first == "sync":
        unsynced.sync()
    unsynced.pass_ms(500)
    unsynced.sync()
    unsynced.pass_ms(500)
    assert unsynced.answers == [done]
    assert isinstance(done.error(), RequestTimedOutError) == (first == "deadline")


def test_acks_0_has_no_deadline_and_many_deadlines_of_a_partition_are_one_timer(unsynced: Unsynced) -> None:
    assert unsynced.produce(500, acks=0).done()
    assert len(unsynced.tenant.service.real_timers) == 1
    for timeout_ms in (700, 300, 900):
        unsynced.produce(timeout_ms)
    assert len(unsynced.tenant.service.real_timers) == 1
    assert unsynced.pass_ms(0) == 1_000_300


def test_a_partition_that_is_deleted_has_no_timer(unsynced: Unsynced) -> None:
    done = unsynced.produce(500)
    result_of(unsynced.tenant.service.delete_topic("t"))
    assert done.error() is not None
    assert len(unsynced.tenant.service.real_timers) == 0


# -- a fetch that waits --------------------------------------------------------------------------------


class Polling:
    """A service that is polled, in a time that the test moves."""

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self.at = tenant.create()
        self.now_s = 1_000.0
        tenant.service.real_seconds = lambda: self.now_s
        self.answers: list[Completion[Any]] = []

    def fetch(self, max_wait_ms: int | None, min_bytes: int = 1) -> DelayedFetch:
        requests = [FetchRequest(self.at, 0, 1 << 20)]
        delayed = self.tenant.service.fetch_many(
            requests, "read_committed", min_bytes=min_bytes, max_wait_ms=max_wait_ms
        )
        delayed.on_done(self.answers.append)
        return delayed

    def pass_ms(self, ms: int) -> None:
        self.now_s += ms / 1000
        self.timers.run_due(int(self.now_s * 1000))

    @property
    def timers(self) -> RealTimers:
        return self.tenant.service.real_timers

    @property
    def waiting(self) -> int:
        return len(self.tenant.service._partitions[P0].waiters.callbacks)


@pytest.fixture
def polling(tenant: Tenant) -> Polling:
    return Polling(tenant)


def test_it_ends_with_what_there_is_when_it_has_waited_long_enough(polling: Polling) -> None:
    polling.tenant.produce(polling.at, b"a")
    delayed = polling.fetch(500, min_bytes=1 << 20)
    polling.pass_ms(499)
    assert not delayed.done()
    polling.pass_ms(1)
    assert [answer.result().size > 0 for answer in delayed.read()] == [True]
    assert polling.waiting == len(polling.timers) == 0


def test_an_append_ends_its_timer(polling: Polling) -> None:
    delayed = polling.fetch(500)
    assert len(polling.timers) == 1
    polling.tenant.produce(polling.at, b"a")
    assert delayed.done()
    assert len(polling.timers) == 0


def test_without_patience_it_is_answered_at_once_and_without_a_limit_it_has_no_timer(polling: Polling) -> None:
    assert polling.fetch(0).done()
    assert polling.waiting == 0
    endless = polling.fetch(None)
    assert len(polling.timers) == 0
    endless.expire()
    polling.tenant.produce(polling.at, b"a")
    assert polling.fetch(500).done()
    assert len(polling.timers) == polling.waiting == 0


@pytest.mark.parametrize("first", ["append", "deadline", "caller"])
def test_what_ends_it_first_answers_once(polling: Polling, first: str) -> None:
    delayed = polling.fetch(500)
    ends: dict[str, Callable[[], object]] = {
        "append": lambda: polling.tenant.produce(polling.at, b"a"),
        "deadline": lambda: polling.pass_ms(500),
        "caller": delayed.expire,
    }
    for end in [ends.pop(first), *ends.values()]:
        end()
    assert polling.answers == [delayed]
    assert [answer.result().size > 0 for answer in delayed.read()] == [first == "append"]
    assert polling.waiting == len(polling.timers) == 0


def test_threads_that_append_while_the_deadline_comes_get_one_answer(polling: Polling) -> None:
    for number in range(50):
        delayed = polling.fetch(1, min_bytes=(number + 1) * 100)
        append = threading.Thread(target=polling.tenant.produce, args=(polling.at, b"x" * 100))
        append.start()
        polling.pass_ms(1)
        append.join()
        assert delayed.done()
        assert polling.answers == [delayed]
        polling.answers.clear()
    assert polling.waiting == len(polling.timers) == 0
