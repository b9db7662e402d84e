"""A consumer's place in its group, and the room in which the members of one process find each other.

Members in one process need no heartbeat thread. A poll is the sign of life; a member that was closed
leaves at once; one whose thread died, or that was collected unclosed, is taken out by whoever polls
next. A member that has nothing in hand and no listener can have its partitions taken while it does
nothing: the newcomer asks it, through `LocalMembers`, to let go.

Only the coordinator ends a membership. A heartbeat that failed on the way (a full disk) leaves the member
what it was, and a leave that failed is kept in the room and sent again.
"""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol, TypeVar

from ...broker.api import Service
from ...config import ConsumerConfig
from ...coordinator import Heartbeat, HeartbeatResult
from ...errors import (
    ClosedError,
    FencedInstanceIdError,
    ForkedError,
    PoisonedLogError,
    StreamlogError,
    UnknownMemberIdError,
)
from ...runtime.disk import new_id
from ...runtime.threads import RawGate, current_thread_alive_check, get_ident, result_of
from ...types import TopicPartition

T = TypeVar("T")
logger = logging.getLogger("streamlog.client")

# How soon (ms) a leave that could not be written is sent again if nobody polls.
RETRY_MS = 1_000


class Wakeup:
    """What others may ring to wake a consumer. It refers to no consumer, so a forgotten one is collected."""

    __slots__ = ("gate", "rung")

    def __init__(self) -> None:
        self.gate = RawGate()
        self.rung = False

    def ring(self, _: object = None) -> None:
        self.rung = True
        self.gate.open()


class Member(Protocol):
    """What the room can ask of a consumer."""

    _bell: Wakeup

    def _let_go_if_idle(self) -> None: ...
    def _take_out(self) -> None: ...
    def _polling_thread(self) -> int: ...


class Leave:
    """A member that has left and of which the coordinator has yet to hear."""

    # The member is gone already, or goes with this opening of the log: the next one removes it.
    _SETTLED = (UnknownMemberIdError, ClosedError, ForkedError, PoisonedLogError)

    def __init__(self, service: Service, group: str, member_id: str) -> None:
        self._service = service
        self._group = group
        self._member_id = member_id

    def tell(self) -> bool:
        """Send it; False if it has to be sent again."""
        try:
            result_of(self._service.leave_group(self._group, self._member_id))
        except self._SETTLED as error:
            logger.debug("leaving group %r: %s", self._group, error)
        except StreamlogError as error:
            logger.debug("leaving group %r failed and will be tried again: %s", self._group, error)
            return False
        return True


class Membership:
    """One consumer's membership: its id, its epoch, what the coordinator last said."""

    def __init__(self, service: Service, config: ConsumerConfig, group: str, bell: Wakeup, room: LocalMembers) -> None:
        self._service = service
        self._config = config
        self.group = group
        self._bell = bell
        self._room = room
        self._watching = False
        self._joining = ""
        self._thread = 0
        self._fenced: FencedInstanceIdError | None = None
        self._heard_s = 0.0
        # Why it was put out, until it has joined again.
        self.why_lost = ""
        self.thread_alive: Callable[[], bool] = lambda: True
        self._forget()

    def _forget(self) -> None:
        self.member_id = ""
        self.epoch = 0
        self._version = -1
        self._topics: frozenset[str] = frozenset()
        self.stable = False
        self._is_out = False

    @property
    def joined(self) -> bool:
        return bool(self.member_id)

    def polled(self) -> None:
        """This thread polls: while it lives, so does the member."""
        here = get_ident()
        if here != self._thread or not self.thread_alive():  # the idents of dead threads are given again
            self._thread = here
            self.thread_alive = current_thread_alive_check(partial(self._room.ring, self.group))

    def unchanged(self, topics: frozenset[str]) -> bool:
        """A poll with nothing new to say or hear: the deadlines are renewed, nothing else happens."""
        if self.stable and topics is self._topics and self._service.renew(self.group, self.member_id, self._version):
            self._heard_s = self._service.real_seconds()
            return True
        return False

    def heartbeat(self, topics: frozenset[str], owned: frozenset[TopicPartition], *, polling: bool) -> HeartbeatResult:
        """Tell the coordinator what this member reads and holds; what it should hold now.

        Joins if it is no member. Raises UnknownMemberIdError if it was put out, and forgets its id, so the
        next call joins anew (`why_lost` says why); FencedInstanceIdError, for good: the place is another's;
        ConfigError. Whatever else is raised, the member is what it was: the next call tries again.
        """
        config = self._config
        self.refuse_if_fenced()
        if not self._watching:
            self._service.watch_group(self.group, self._bell.ring)
            self._watching = True
        if self._joining:  # the answer to a join was interrupted, or is not known: that member is nobody now
            self._leave_as(self._joining)
        self._joining = "" if self.member_id else new_id()
        request = Heartbeat(
            self.group,
            self.member_id,
            self.epoch,
            config.group_instance_id,
            config.client_id,
            topics,
            config.assignors,
            owned,
            config.session_timeout_ms / 1000,
            config.max_poll_interval_ms / 1000,
            polling,
            wanted_id=self._joining,
        )
        try:
            result = result_of(self._service.heartbeat(request))
        except UnknownMemberIdError:
            self.why_lost = self._why_lost()
            self._forget()
            raise
        except FencedInstanceIdError as error:
            self._fenced = error
            self._forget()
            raise
        self.member_id, self.epoch, self._version = result.member_id, result.member_epoch, result.version
        self._joining = self.why_lost = ""
        self._topics = topics
        self.stable = result.stable and result.assignment == owned
        if polling:
            self._heard_s = self._service.real_seconds()
        return result

    def refuse_if_fenced(self) -> None:
        """Raise FencedInstanceIdError if a newer consumer took this one's `group_instance_id`."""
        if self._fenced is not None:
            raise self._fenced.copy()

    def _why_lost(self) -> str:
        interval_ms = self._config.max_poll_interval_ms
        if self._is_out:
            return "the thread that had polled it ended without closing it"
        if self._service.real_seconds() - self._heard_s >= interval_ms / 1000:
            return f"it did not poll within max_poll_interval_ms={interval_ms}"
        return "the group's log, which was read anew after a failed write, does not have it"

    def evict(self) -> None:
        """Tell the coordinator that this member is gone, without telling the consumer. Once."""
        if self.member_id and not self._is_out:
            self._is_out = True
            self._room.leave(Leave(self._service, self.group, self.member_id))

    def leave(self) -> None:
        """Leave the group; quiet if it was put out already, or the log is closed. Can be interrupted, and done again."""
        if self._watching:
            self._service.unwatch_group(self.group, self._bell.ring)
            self._watching = False
        if self.member_id:
            self._room.leave(Leave(self._service, self.group, self.member_id))
        self._forget()
        if self._joining:
            self._leave_as(self._joining)

    def _leave_as(self, member_id: str) -> None:
        self._room.leave(Leave(self._service, self.group, member_id))
        self._joining = ""


def walk(members: Iterable[T]) -> list[T]:
    """A copy of a WeakSet: walking one raises RuntimeError while another thread adds to it."""
    while True:
        try:
            return list(members)
        except RuntimeError:
            continue


class LocalMembers:
    """The members that live in this process, by group; and what is still to be done for those that are gone.

    No lock: sets of weak references, copied to be walked. A group in which nobody is has no set.
    """

    def __init__(self) -> None:
        self._members: dict[str, weakref.WeakSet[Member]] = {}
        self._buried: deque[Callable[[], None]] = deque()
        self.waiting: deque[Callable[[], object]] = deque()
        """Closings that were asked for in the middle of a call, which has to end first."""
        self.background_thread = 0
        """Its ident: there nobody may wait for code of the program's own, for it has other work."""
        self._leaving: deque[Leave] = deque()
        # Wakes the background thread, where there is one: it holds the funerals. Takes no lock.
        self.nudge: Callable[[], None] = lambda: None

    def enter(self, group: str, member: Member) -> None:
        members = self._members.get(group)
        if members is not None and member in members:
            return
        while True:
            members = self._members.setdefault(group, weakref.WeakSet())
            members.add(member)
            if self._members.get(group) is members:  # or another thread took it for empty
                return

    def exit(self, group: str, member: Member) -> None:
        members = self._members.get(group)
        if members is not None:
            members.discard(member)
            self.tidy(group)

    def tidy(self, group: str) -> None:
        """Keep nothing of a group in which nobody is any more."""
        if self._members.get(group):
            return
        for member in walk(self._members.pop(group, ())):  # who entered between the two steps
            self.enter(group, member)

    def others(self, group: str, member: Member) -> list[Member]:
        return [m for m in walk(self._members.get(group, ())) if m is not member]

    def ring(self, group: str) -> None:
        """Have whoever waits in the group look: the thread of one of its members has ended. Takes no lock."""
        for member in walk(self._members.get(group, ())):
            member._bell.ring()

    def reap(self, group: str) -> None:
        """Have members leave that cannot do it themselves: collected unclosed, or their thread is dead."""
        self.run_finalizers()
        for member in walk(self._members.get(group, ())):
            member._take_out()

    def leave(self, leave: Leave) -> None:
        """Tell the coordinator that a member left; again later, if it cannot be told now."""
        self._leaving.append(leave)  # first: an interrupt must not lose it
        if not self._tell(leave):
            self.nudge()

    def _tell(self, leave: Leave) -> bool:
        if not leave.tell():
            return False
        with contextlib.suppress(ValueError):  # another thread told it too
            self._leaving.remove(leave)
        return True

    def add_finalizer(self, finalizer: Callable[[], None]) -> None:
        """Have something done soon for an object that is being collected.

        A finalizer can run in the middle of anything, under any lock, so it must not take one itself.
        """
        self._buried.append(finalizer)
        self.nudge()

    def run_due(self, now_ms: int) -> int | None:
        """Background work: `run_finalizers`; when to come again (ms), if a leave is to be told again."""
        self.run_finalizers()
        return now_ms + RETRY_MS if self._leaving else None

    def put_off(self, close: Callable[[], object]) -> None:
        """Have something closed when the call that the caller interrupted has ended: by its thread, or the background one."""
        self.waiting.append(close)
        self.nudge()

    def close_put_off(self) -> None:
        """Close what was put off, once each. Call with no lock held; in the middle of a call it is put off again."""
        for _ in range(len(self.waiting)):
            try:
                close = self.waiting.popleft()
            except IndexError:  # another thread took the last one
                return
            try:
                close()
            except Exception as error:  # whoever asked for it has gone on
                logger.error("closing in the middle of another call was put off, and then failed: %s", error)

    def run_finalizers(self) -> None:
        """Do what collected objects left to be done, and tell of leaves that failed. Call with no lock held."""
        while self._buried:
            try:
                finalizer = self._buried.popleft()
            except IndexError:
                break
            try:
                finalizer()
            except StreamlogError as error:
                logger.error("cleaning up after an object that was never closed: %s", error)
        if self._leaving:
            for leave in list(self._leaving):
                self._tell(leave)
