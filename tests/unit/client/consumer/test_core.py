"""A consumer's core is stepped without a thread and without blocking: this test is its driver.

The Service answers when the test has it answer. Until then the core says what it waits for, and another step changes nothing.
"""

from collections.abc import Callable
from typing import Any

import pytest

import streamlog
from streamlog import RebalanceListener, TopicPartition
from streamlog.client.cleanup import Cleanup
from streamlog.client.consumer.coordinator import ConsumerCoordinator
from streamlog.client.consumer.core import ConsumerCore
from streamlog.client.consumer.decode import Decoder
from streamlog.client.consumer.membership import LocalMembers, Wakeup
from streamlog.client.consumer.offsets import OffsetFetcher
from streamlog.client.consumer.procedure import Bounded, ListenerCall, Procedure, ReleaseRequest
from streamlog.client.consumer.subscription import Subscription
from streamlog.client.consumer.subscription_state import SubscriptionState
from streamlog.config import ConsumerConfig
from streamlog.errors import FencedInstanceIdError, StreamlogError
from streamlog.runtime.api import Completion
from streamlog.runtime.threads import RawGate
from streamlog.testing import ManualClock

A, B = TopicPartition("t", 0), TopicPartition("t", 1)


class Late:
    """A Service whose answers come when the test says so; everything else is that of a log."""

    def __init__(self, service: Any) -> None:
        self._service = service
        self._asked: list[tuple[str, Completion[Any], Callable[[], Completion[Any]]]] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._service, name)
        if name not in ("bounds", "commit", "committed", "heartbeat", "leave_group", "topic"):
            return found

        def ask(*args: Any, **named: Any) -> Completion[Any]:
            answer: Completion[Any] = Completion()
            self._asked.append((name, answer, lambda: found(*args, **named)))
            return answer

        return ask

    @property
    def asked(self) -> list[str]:
        return [name for name, _, _ in self._asked]

    def answer(self) -> str:
        """Have the Service answer what it was asked first; the name of the call."""
        name, answer, call = self._asked.pop(0)
        answered = call()
        error = answered.error()
        if error is not None:
            answer.fail(error)
        else:
            answer.complete(answered.result())
        return name

    def fail(self, error: StreamlogError) -> None:
        self._asked.pop(0)[1].fail(error)


class Listener(RebalanceListener):
    def __init__(self) -> None:
        self.heard: list[tuple[str, list[TopicPartition]]] = []

    def on_partitions_assigned(self, partitions: Any) -> None:
        self.heard.append(("assigned", list(partitions)))

    def on_partitions_revoked(self, partitions: Any) -> None:
        self.heard.append(("revoked", list(partitions)))


class Scene:
    """One member of a group, and what drives it: nothing but the calls of the test."""

    closed_error: StreamlogError | None = None

    def __init__(self, log: streamlog.StreamLog, local_members: LocalMembers | None = None, **config: Any) -> None:
        self.service = Late(log._engine.service)
        self.listener = Listener()
        self.local_members = LocalMembers(Cleanup()) if local_members is None else local_members
        service: Any = self.service
        settings = ConsumerConfig.of({"group": "g", "listener": self.listener, **config})
        self.wakeup = Wakeup()
        self.session = service.fetch_session(self.wakeup.open)
        self.subscriptions = SubscriptionState(self.session)
        offsets = OffsetFetcher(service, settings, self.subscriptions)
        self.coordinator = ConsumerCoordinator(
            service,
            settings,
            self.local_members,
            self,
            self.subscriptions,
            offsets,
            self.wakeup,
            lambda name: Decoder(name.topic, name.partition, None, None),
        )
        subscription = Subscription()
        subscription.subscribe(["t"], str, lambda name: None)
        self.subscriptions.subscription = subscription
        self.core = ConsumerCore(self.coordinator, self.subscriptions, offsets)

    # what a core asks of its driver
    def polled(self, ended: Callable[[], object]) -> None: ...
    def is_alive(self) -> bool:
        return True

    def is_elsewhere(self) -> bool:
        return False

    def run_for_another(self, procedure: Callable[[], Procedure[None] | None]) -> None:
        asked = procedure()
        for _ in asked or ():
            self.service.answer()

    # stepping
    def step(self) -> list[Any] | None:
        return self.core.step(lambda: self.subscriptions.take(500))

    def poll(self) -> list[bytes]:
        """One poll that does whatever the core waits for at once."""
        self.core.begin()
        while True:
            found = self.step()
            if self.core.wanted is None:
                self.subscriptions.returned = self.subscriptions.polled
                return [record.value for record in found or ()]
            self.do(self.core.wanted)

    def do(self, wanted: Any) -> None:
        if isinstance(wanted, ListenerCall):
            wanted.method(wanted.partitions)
        elif isinstance(wanted, ReleaseRequest):
            wanted.release()
        else:
            self.service.answer()

    def run(self, procedure: Procedure[None]) -> None:
        for wanted in procedure:
            self.do(wanted)


@pytest.fixture
def log() -> Any:
    with streamlog.open(clock=ManualClock()) as log:
        log.create_topic("t", partitions=2)
        yield log


def members(log: streamlog.StreamLog) -> list[Any]:
    return list(log._engine.service.describe_group("g").result().members)


def test_it_joins_reads_waits_is_woken_commits_and_leaves_and_never_blocks(log: streamlog.StreamLog) -> None:
    log["t"].send(b"0", partition=0)
    scene = Scene(log, enable_auto_commit=False)
    core, service = scene.core, scene.service
    core.begin()

    # It joins: it waits for the heartbeat, however often it is stepped.
    for _ in range(3):
        assert scene.step() is None
        assert isinstance(core.waits().wanted, Completion)
        assert service.asked == ["heartbeat"]
    service.answer()
    took_over = []
    while not isinstance(core.wanted, ListenerCall):
        assert scene.step() is None
        if service.asked:
            took_over.append(service.answer())
    assert took_over == ["topic", "committed", "bounds", "bounds"]
    assert core.wanted.partitions == [A, B]
    assert scene.listener.heard == [], "the driver calls it"
    scene.do(core.wanted)
    assert scene.listener.heard == [("assigned", [A, B])]
    assert scene.step() is None and service.asked == ["heartbeat"]
    service.answer()

    # It has records; the next call finishes them.
    assert [record.value for record in scene.step() or ()] == [b"0"]
    scene.subscriptions.returned = scene.subscriptions.polled
    core.begin()
    assert not scene.step() and core.wanted is None

    # It waits, with a deadline that it knows, and an append to one partition wakes it.
    assert 0 < core.waits().timeout_s <= 150
    scene.wakeup.gate = RawGate()
    scene.session.begin_wait()
    assert not scene.session.ready and not scene.wakeup.gate.is_open()
    log["t"].send(b"1", partition=1)
    assert list(scene.session.ready) == [B] and scene.wakeup.gate.is_open()
    assert [record.value for record in core.step_after_append(lambda: scene.subscriptions.take(9)) or ()] == [b"1"]
    scene.subscriptions.returned = scene.subscriptions.polled

    # It commits, and leaves.
    commit = scene.coordinator.commit(None)
    assert isinstance(next(commit), Completion) and service.asked == ["commit"]
    assert log.group("g").committed() == {}
    service.answer()
    assert next(commit, None) is None
    assert log.group("g").committed() == {A: 1, B: 1}
    leave = scene.coordinator.leave()
    assert isinstance(next(leave), ListenerCall)
    assert isinstance(next(leave), Bounded) and service.asked == ["leave_group"]
    assert service.answer() == "leave_group"
    assert next(leave, None) is None
    assert members(log) == []


def test_what_a_call_that_was_given_up_waited_for_is_done_anew(log: streamlog.StreamLog) -> None:
    scene = Scene(log)
    scene.core.begin()
    assert scene.step() is None
    scene.core.begin()  # the call before was cancelled
    assert scene.core.wanted is None
    assert scene.step() is None
    assert scene.service.asked == ["heartbeat", "leave_group", "heartbeat"], "its join may have taken effect"
    for _ in range(3):
        scene.service.answer()
    assert scene.poll() == []
    assert len(members(log)) == 1


def test_an_error_of_an_answer_is_raised_by_the_step_after_it(log: streamlog.StreamLog) -> None:
    scene = Scene(log)
    scene.core.begin()
    scene.step()
    scene.service.fail(FencedInstanceIdError("another one"))
    with pytest.raises(FencedInstanceIdError):
        scene.step()
    scene.core.begin()
    with pytest.raises(FencedInstanceIdError):
        scene.step()


def test_it_auto_commits_when_it_is_time_and_waits_until_then(log: streamlog.StreamLog) -> None:
    clock: Any = log._engine.service.clock
    scene = Scene(log, listener=None)
    assert scene.poll() == []
    clock.advance(5)
    assert scene.poll() == []
    assert scene.core.waits().timeout_s == 150
    log["t"].send(b"0", partition=0)
    assert scene.poll() == [b"0"]
    assert scene.core.waits().timeout_s == 5
    clock.advance(5)
    scene.core.begin()
    assert scene.step() is None and scene.service.asked == ["commit"]
    scene.service.answer()
    assert not scene.step()
    assert log.group("g").committed() == {A: 1, B: 0}


def test_two_members_share_through_their_drivers(log: streamlog.StreamLog) -> None:
    first = Scene(log, listener=None)
    second = Scene(log, first.local_members, listener=None)
    assert first.poll() == []
    assert second.poll() == []
    assert [len(each.subscriptions.fetchers) for each in (first, second)] == [1, 1]
    assert first.poll() == []
    log["t"].send(b"0", partition=0)
    log["t"].send(b"1", partition=1)
    assert sorted(first.poll() + second.poll()) == [b"0", b"1"]
