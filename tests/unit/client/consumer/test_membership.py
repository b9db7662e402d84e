"""The members of one process: found by each other, evicted when they are dead, and gone when they have left."""

import gc
from typing import Any

import pytest

from streamlog.client.cleanup import Cleanup
from streamlog.client.consumer.membership import RETRY_MS, Leave, LocalMembers, Wakeup
from streamlog.errors import ClosedError, DiskFullError, StreamlogError, UnknownMemberIdError
from streamlog.runtime.api import Completion


class Member:
    def __init__(self) -> None:
        self.wakeup = Wakeup()
        self.looks = 0

    def release_if_idle(self) -> None: ...

    def evict_if_thread_ended(self) -> None:
        self.looks += 1

    def polling_thread(self) -> int:
        return 0


class Groups:
    """A service that answers leaves with `errors`, one each, and then takes them."""

    def __init__(self, *errors: StreamlogError) -> None:
        self.errors = list(errors)
        self.sent: list[tuple[str, str]] = []

    def leave_group(self, group: str, member_id: str) -> Completion[None]:
        self.sent.append((group, member_id))
        if self.errors:
            raise self.errors.pop(0)
        return Completion.of(None)

    def leave(self) -> Leave:
        return Leave(self, "g", "m")  # type: ignore[arg-type]


@pytest.fixture
def cleanup() -> Cleanup:
    return Cleanup()


@pytest.fixture
def members(cleanup: Cleanup) -> LocalMembers:
    return LocalMembers(cleanup)


def test_members_find_the_others_of_their_group(members: LocalMembers) -> None:
    first, second, stranger = Member(), Member(), Member()
    for group, member in (("g", first), ("g", second), ("g", second), ("h", stranger)):
        members.add(group, member)
    assert members.others("g", first) == [second]
    members.thread_ended("h")
    assert (first.wakeup.pending, stranger.wakeup.pending) == (False, True)


def test_members_whose_threads_ended_are_looked_for_once(members: LocalMembers) -> None:
    first, second, stranger = Member(), Member(), Member()
    for group, member in (("g", first), ("g", second), ("h", stranger)):
        members.add(group, member)
    members.evict_dead("g")
    assert (first.looks, second.looks) == (0, 0), "no thread has ended"
    members.thread_ended("g")
    members.thread_ended("g")
    members.evict_dead("h")
    members.evict_dead("g")
    members.evict_dead("g")
    assert (first.looks, second.looks, stranger.looks) == (1, 1, 0)
    first.evict_if_thread_ended = lambda: members.thread_ended("g")  # type: ignore[method-assign]  # another one meanwhile
    members.thread_ended("g")
    members.evict_dead("g")
    members.evict_dead("g")
    assert second.looks == 3


def test_a_member_that_is_collected_or_removed_is_not_found(members: LocalMembers) -> None:
    first, second = Member(), Member()
    members.add("g", first)
    members.add("g", second)
    del second
    gc.collect()
    assert members.others("g", None) == [first]
    members.remove("g", first)
    members.remove("h", first)
    assert members._members == {}


def test_a_member_that_is_added_while_its_empty_group_is_removed_is_found(cleanup: Cleanup) -> None:
    """The two steps of the removal, with the other thread between them."""

    class Sets(dict):  # type: ignore[type-arg]
        def pop(self, *args: object) -> object:
            popped = super().pop(*args)
            if entering:
                popped[entering.pop()] = None
            return popped

    entering: list[Any] = []
    members = LocalMembers(cleanup)
    members._members = Sets()
    first, second, third = Member(), Member(), Member()
    members.add("g", first)
    entering.append(second)
    members.remove("g", first)
    assert members.others("g", third) == [second]
    members.remove("g", second)
    assert members._members == {}


def test_a_leave_that_fails_is_sent_again_until_it_succeeds(members: LocalMembers, cleanup: Cleanup) -> None:
    nudges: list[str] = []
    cleanup.nudge = lambda: nudges.append("now")
    groups = Groups(DiskFullError("no space"), DiskFullError("no space"))
    members.leave(groups.leave())
    assert nudges == ["now"]
    assert members.run_due(7) == 7 + RETRY_MS
    assert members.run_due(7) is None
    assert members.run_due(7) is None
    assert groups.sent == [("g", "m")] * 3


@pytest.mark.parametrize("error", [UnknownMemberIdError("evicted"), ClosedError("closed")])
def test_a_leave_of_a_member_that_is_gone_is_not_sent_again(members: LocalMembers, error: StreamlogError) -> None:
    groups = Groups(error)
    members.leave(groups.leave())
    assert members.run_due(7) is None
    assert len(groups.sent) == 1


def test_a_leave_whose_answer_comes_later_is_not_waited_for_and_sent_again_if_it_failed(
    members: LocalMembers, cleanup: Cleanup
) -> None:
    groups = Groups()
    later: Completion[None] = Completion()
    answer = groups.leave_group
    groups.leave_group = lambda *args: (answer(*args), later)[1]  # type: ignore[method-assign]
    nudges: list[None] = []
    cleanup.nudge = lambda: nudges.append(None)
    members.leave(groups.leave())
    members.clean_up()
    assert groups.sent == [("g", "m")]
    groups.leave_group = answer  # type: ignore[method-assign]
    later.fail(DiskFullError("full", path="", errno=28))
    assert nudges == [None]
    assert members.run_due(0) is None
    assert groups.sent == [("g", "m")] * 2


def test_an_interrupt_does_not_lose_a_leave(members: LocalMembers) -> None:
    groups = Groups(KeyboardInterrupt())  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        members.leave(groups.leave())
    assert members.run_due(7) is None
    assert groups.sent == [("g", "m")] * 2


def test_a_wakeup_opens_the_gate_and_stays_pending() -> None:
    wakeup = Wakeup()
    assert not wakeup.pending and not wakeup.gate.is_open()
    wakeup.wake()
    assert wakeup.pending and wakeup.gate.wait(0)
