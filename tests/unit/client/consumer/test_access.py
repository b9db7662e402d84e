"""Which thread may use a consumer: each combination of a call, a call in the middle of it, and a listener."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from streamlog.client.cleanup import Cleanup
from streamlog.client.consumer.access import Access
from streamlog.errors import ClosedError, ConcurrentUseError, ReentrantCallError


@pytest.fixture
def access() -> Access:
    return Access(Cleanup())


def in_another_thread(call: Callable[[], Any]) -> BaseException | None:
    raised: list[BaseException | None] = [None]

    def run() -> None:
        try:
            call()
        except BaseException as error:
            raised[0] = error

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return raised[0]


def test_a_call_ends_where_its_block_ends(access: Access) -> None:
    with access.call(), access.state():
        assert access.is_in_call()
        assert access.call_lock.locked() and access.state_lock.locked()
    assert not access.is_in_call()
    assert not access.call_lock.locked() and not access.state_lock.locked()


def test_a_call_of_another_thread_is_refused_while_one_is_running(access: Access) -> None:
    with access.call():
        assert isinstance(in_another_thread(access.call), ConcurrentUseError)
    assert in_another_thread(access.call) is None


def test_code_in_the_middle_of_a_call_may_only_read(access: Access) -> None:
    with access.call():
        with pytest.raises(ReentrantCallError):
            access.call()
        with access.call(reads_only=True):
            pass
        assert access.has_interrupted_call()
        assert access.call_lock.locked()


def test_a_listener_may_call_and_finds_the_state_lock_held(access: Access) -> None:
    seen: list[Any] = []

    def listener(names: Any) -> None:
        with access.call(), access.state():
            seen.append((names, access.has_interrupted_call()))
        with access.state():
            access.call_listener(seen.append, [])  # one that causes a call of itself
        with access.call():
            seen.append(access.listener_thread == threading.get_ident())

    with access.call(), access.state():
        access.call_listener(listener, [])
        assert access.call_lock.locked() and access.state_lock.locked()
    assert seen == [([], False), [], True]
    assert access.listener_thread == 0


def test_a_listener_that_raises_is_not_being_called_any_more(access: Access) -> None:
    def listener(names: Any) -> None:
        raise KeyboardInterrupt

    with access.call(), access.state(), pytest.raises(KeyboardInterrupt):
        access.call_listener(listener, [])
    assert access.listener_thread == 0


def test_a_closed_consumer_refuses_all_but_its_listener(access: Access) -> None:
    access.closed_error = ClosedError("it is closed")
    for refused in (access.call, access.check, lambda: access.call(reads_only=True)):
        with pytest.raises(ClosedError) as raised:
            refused()
        assert raised.value is not access.closed_error, "each use raises an error of its own"
    with access.state():
        access.call_listener(lambda _: access.check(), [])


def test_a_thread_that_takes_partitions_takes_no_state_lock_that_is_held(access: Access) -> None:
    with access.state():
        assert access.state_for_another() is None
    with access.state_for_another():
        assert access.taker == threading.get_ident()
        with pytest.raises(ReentrantCallError):  # a signal handler there, which would wait for its own thread
            access.state()
    with access.state():
        pass


def test_a_call_first_runs_the_closes_that_were_deferred() -> None:
    cleanup = Cleanup()
    access = Access(cleanup)

    def close() -> None:
        access.closed_error = ClosedError("it is closed")

    cleanup.defer_close(close)
    with pytest.raises(ClosedError):
        access.call()


def given(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return type(error)


def test_both_locks_asked_for_together_are_those_of_each_alone(access: Access) -> None:
    def alike() -> bool:
        return bool(given(access.call_and_state) == given(lambda: (access.call(), access.state())))

    assert access.call_and_state() == (access.call_lock, access.state_lock) and access.owner == threading.get_ident()
    assert alike()
    with access.call():
        assert given(access.call_and_state) is ReentrantCallError and alike()
        assert isinstance(in_another_thread(access.call_and_state), ConcurrentUseError)
    with access.call(), access.state():
        access.call_listener(lambda _: access.check() if alike() else pytest.fail("the listener is refused"), [])
    with access.state_for_another():
        assert given(access.call_and_state) is ReentrantCallError and alike()
    access.closed_error = ClosedError("it is closed")
    assert given(access.call_and_state) is ClosedError and alike()


def test_both_locks_asked_for_together_run_the_closes_that_were_deferred_first() -> None:
    cleanup = Cleanup()
    access = Access(cleanup)
    ran: list[bool] = []
    cleanup.defer_close(lambda: ran.append(True))
    with access.call_lock:
        access.owner = threading.get_ident()
        given(access.call_and_state)
    assert ran
