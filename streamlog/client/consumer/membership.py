"""A consumer's membership in its group, and how the members in one process find each other.

Members in one process need no heartbeat thread. A poll is the sign of life. A member that is closed leaves at once.
A member whose thread has ended, or that was collected without a close, is evicted by the next member that polls. A
member that holds no unfinished record and has no listener can have its partitions revoked while it does nothing: the
new member asks it, through `LocalMembers`, to release them.

Only the coordinator ends a membership. A heartbeat that failed (a full disk) changes nothing for the member, and a leave
that failed is kept in `LocalMembers` and sent again.
"""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

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
from ...runtime.api import Completion
from ...runtime.disk import new_id
from ...runtime.threads import RawGate
from ...runtime.values import snapshot
from ...types import TopicPartition
from ..cleanup import Cleanup
from ..retrying import MOVES
from .procedure import Driver, Procedure, answer_of

logger = logging.getLogger("streamlog.client")

# How soon (ms) a leave that could not be written is sent again while no thread polls.
RETRY_MS = 1_000


class Wakeup:
    """Wakes a consumer, from any thread. It does not refer to the consumer, which can be collected all the same.

    `pending` is True from a wake on, until the consumer has looked at its group and its topics.
    """

    __slots__ = ("gate", "pending")

    def __init__(self) -> None:
        self.gate = RawGate()
        self.pending = False

    def wake(self, _: object = None) -> None:
        self.pending = True
        self.gate.open()

    def open(self) -> None:
        """Wake it for records: neither its group nor its topics have changed."""
        self.gate.open()


class Member(Protocol):
    """What `LocalMembers` and the other members ask of a member. A ConsumerCoordinator is one."""

    wakeup: Wakeup

    @property
    def member_id(self) -> str: ...
    @property
    def auto_offset_reset(self) -> str: ...
    @property
    def created_at(self) -> str | None: ...
    @property
    def last_poll_s(self) -> float: ...
    def assigned(self) -> list[TopicPartition]: ...
    def started(self) -> dict[TopicPartition, int]: ...
    def release_if_idle(self) -> None: ...
    def evict_if_thread_ended(self) -> None: ...
    def note_eviction(self) -> None: ...
    def is_elsewhere(self) -> bool: ...


_GONE = Completion.of(None)


class Leave:
    """A leave that the group coordinator has not received yet."""

    # The member is gone already, or ends with this opening of the log: the next opening removes it.
    _DONE = (UnknownMemberIdError, ClosedError, ForkedError, PoisonedLogError)

    def __init__(self, service: Service, group: str, member_id: str) -> None:
        self._service = service
        self._group = group
        self._member_id = member_id

    def send(self, failed: Callable[[], object]) -> Completion[None] | None:
        """Send it, and do not wait for a sync. The answer; None if it has to be sent again.

        `failed` is called if that comes out later.
        """
        try:
            answer = self._service.leave_group(self._group, self._member_id)
            if answer.done():
                answer.result()
            else:
                answer.on_done(lambda answer: self._has_to_be_sent_again(answer.error()) and failed())
                if answer.work is not None:
                    answer.work.soon()
        except StreamlogError as error:
            return None if self._has_to_be_sent_again(error) else _GONE
        return answer

    def _has_to_be_sent_again(self, error: BaseException | None) -> bool:
        if error is None or isinstance(error, self._DONE):
            logger.debug("leaving group %r: %s", self._group, error or "done")
            return False
        logger.debug("leaving group %r failed and will be tried again: %s", self._group, error)
        return True


class Membership:
    """One consumer's membership: its id, its epoch, the group coordinator's last answer."""

    def __init__(
        self,
        service: Service,
        config: ConsumerConfig,
        group: str,
        wakeup: Wakeup,
        local_members: LocalMembers,
        driver: Driver,
    ) -> None:
        self._service = service
        self._config = config
        self.group = group
        self._wakeup = wakeup
        self._local_members = local_members
        self._driver = driver
        self._watched = ""  # the member id of which changes wake this consumer
        self._joining = ""
        self._asks_again = False
        self._fenced: FencedInstanceIdError | None = None
        self.last_poll_s = 0.0
        """The time of its last poll (real monotonic seconds)."""
        self.why_lost = ""
        """Why it was evicted, until it has joined again."""
        self._thread_ended = partial(local_members.thread_ended, group)
        self._forget()

    def _forget(self) -> None:
        self.member_id = ""
        self.epoch = 0
        self._version = -1
        self._topics: frozenset[str] = frozenset()
        self.stable = False
        self.joins_later = False
        """Whether its partitions come with the answer to a later heartbeat, though no other member has to release them."""
        self._evicted = False
        self.evicted_by_program = False

    @property
    def joined(self) -> bool:
        return bool(self.member_id)

    def polled(self) -> None:
        """The program polls: the member lives as long as its driver's thread does."""
        self._driver.polled(self._thread_ended)

    def unchanged(self, topics: frozenset[str]) -> bool:
        """Renew the deadlines in place of a heartbeat; False if a heartbeat would bring, or report, something new."""
        if self.stable and topics is self._topics and self._service.renew(self.group, self.member_id, self._version):
            self.last_poll_s = self._service.real_seconds()
            return True
        return False

    def heartbeat(
        self, topics: frozenset[str], owned: frozenset[TopicPartition], *, polling: bool
    ) -> Procedure[HeartbeatResult]:
        """Send the subscribed topics and the assigned partitions; the answer has the partitions to be assigned.

        Joins the group if this is not a member. Raises UnknownMemberIdError if the member was evicted, and forgets its id,
        so that the next call joins again (`why_lost` says why); FencedInstanceIdError, for good, if another consumer has
        its `group_instance_id`; ConfigError. Any other error changes nothing for the member: the next call tries again.
        """
        config = self._config
        self.refuse_if_fenced()
        asks_again, self._asks_again = self._asks_again, False
        # A join was interrupted, or its result is not known: no consumer uses that id.
        if self._joining and not asks_again:
            self._leave_as(self._joining)
        self._joining = "" if self.member_id else self._joining or new_id()
        self._watch(self.member_id or self._joining)
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
            result = yield from answer_of(self._service.heartbeat(request))
        except UnknownMemberIdError:
            self.why_lost = self.why_it_is_lost()
            self._forget()
            raise
        except FencedInstanceIdError as error:
            self._fenced = error
            self._forget()
            raise
        except MOVES:
            self._asks_again = True  # under the same id: a coordinator that has written it knows it
            raise
        self.member_id, self.epoch, self._version = result.member_id, result.member_epoch, result.version
        self._joining = self.why_lost = ""
        self._topics = topics
        self.stable = result.stable and result.assignment == owned
        self.joins_later = not result.stable and not result.waits_for and result.assignment == owned
        if polling:
            self.last_poll_s = self._service.real_seconds()
        return result

    def _watch(self, member_id: str) -> None:
        """Have changes that this member can act on wake the consumer, and no others. Before it joins, so that none is missed."""
        before, wake = self._watched, self._wakeup.wake
        if member_id == before:
            return
        if before:
            self._service.unwatch_group(self.group, wake, before)
        # First, so that an interrupt leaves none behind: a join that was interrupted is done again under another id.
        self._watched = member_id
        if member_id:
            self._service.watch_group(self.group, wake, member_id)

    def refuse_if_fenced(self) -> None:
        """Raise FencedInstanceIdError if a newer consumer took this one's `group_instance_id`."""
        if self._fenced is not None:
            raise self._fenced.copy()

    def why_it_is_lost(self) -> str:
        """Why the group coordinator does not know this member any more, in words."""
        interval_ms = self._config.max_poll_interval_ms
        if self.evicted_by_program:
            return "the program removed it with ConsumerGroup.evict"
        if self._evicted:
            return "the thread that polled it ended without closing it"
        if self._service.real_seconds() - self.last_poll_s >= interval_ms / 1000:
            return f"it did not poll within max_poll_interval_ms={interval_ms}"
        return "it is missing in the group's log, which was read again after a failed write"

    def evict(self) -> None:
        """Have the group coordinator remove this member, once. The consumer learns it at its next call."""
        if self.member_id and not self._evicted:
            self._evicted = True
            self._local_members.leave(Leave(self._service, self.group, self.member_id))

    def leave(self) -> Completion[None] | None:
        """Leave the group. No error if it was evicted, or the log is closed. It can be interrupted, and called again.

        The answer is done when the leave counts as written. None if there is nothing to wait for.
        """
        left = None
        self._watch("")
        if self.member_id:
            left = self._local_members.leave(Leave(self._service, self.group, self.member_id))
        self._forget()
        if self._joining:
            self._leave_as(self._joining)
        return left

    def _leave_as(self, member_id: str) -> None:
        self._local_members.leave(Leave(self._service, self.group, member_id))
        self._joining = ""


class LocalMembers:
    """The members of groups that live in this process, by group; and the leaves that have still to be sent.

    It takes no lock: members are in dicts of weak references, in the order in which they came, which are copied to be iterated
    over. A group without members has no dict.
    """

    def __init__(self, cleanup: Cleanup) -> None:
        self._cleanup = cleanup
        self._members: dict[str, weakref.WeakKeyDictionary[Member, None]] = {}
        self._unsent: deque[Leave] = deque()
        self._ended: dict[
            str, deque[None]
        ] = {}  # by group, an entry for each thread that ended since dead members were evicted

    def add(self, group: str, member: Member) -> None:
        members = self._members.get(group)
        if members is not None and member in members:
            return
        while True:
            members = self._members.setdefault(group, weakref.WeakKeyDictionary())
            members[member] = None
            if self._members.get(group) is members:  # otherwise another thread found it empty and removed it
                return

    def remove(self, group: str, member: Member) -> None:
        members = self._members.get(group)
        if members is not None:
            members.pop(member, None)
            self.remove_if_empty(group)

    def remove_if_empty(self, group: str) -> None:
        """Keep nothing of a group that has no members here."""
        if self._members.get(group):
            return
        self._ended.pop(group, None)
        for member in snapshot(self._members.pop(group, ())):  # a member that was added between the two steps
            self.add(group, member)

    def others(self, group: str, member: Member | None) -> list[Member]:
        return [m for m in snapshot(self._members.get(group, ())) if m is not member]

    def thread_ended(self, group: str) -> None:
        """The thread of a member has ended: wake the members that wait in a poll, and have one evict it. Takes no lock."""
        self._ended.setdefault(group, deque()).append(None)
        for member in snapshot(self._members.get(group, ())):
            member.wakeup.wake()

    def evict_dead(self, group: str) -> None:
        """Have members leave that cannot do it themselves: collected without a close, or their thread has ended.

        Cost: it does not grow with the members, unless a thread has ended.
        """
        self.clean_up()
        ended = self._ended.get(group)
        if ended:
            entries = len(ended)
            for member in self.others(group, None):
                member.evict_if_thread_ended()
            for _ in range(
                entries
            ):  # after it: an interrupt has it done again; and no more: a thread may have ended meanwhile
                with contextlib.suppress(IndexError):  # another thread evicted them too
                    ended.popleft()

    def leave(self, leave: Leave) -> Completion[None] | None:
        """Send a leave to the group coordinator; its answer. None if that fails, and it is sent again later."""
        self._unsent.append(leave)  # first: an interrupt must not lose it
        answer = self._send(leave)
        if answer is None:
            self._cleanup.nudge()
        return answer

    def leave_later(self, membership: Membership) -> None:
        """For a member that is being collected without a close, on any thread and under any lock: have it leave soon."""

        def leave() -> None:
            membership.leave()
            self.remove_if_empty(membership.group)

        self._cleanup.add_finalizer(leave)

    def _send(self, leave: Leave) -> Completion[None] | None:
        answer = leave.send(partial(self._send_again, leave))
        if answer is not None:
            with contextlib.suppress(ValueError):  # another thread sent it too
                self._unsent.remove(leave)
        return answer

    def _send_again(self, leave: Leave) -> None:
        self._unsent.append(leave)
        self._cleanup.nudge()

    def clean_up(self) -> None:
        """Run finalizers, and send again the leaves that failed. Call with no lock held."""
        self._cleanup.run_finalizers()
        for leave in self._unsent.copy():
            self._send(leave)

    def run_due(self, now_ms: int) -> int | None:
        """The background thread's part: `clean_up`; the time (ms) of the next try, if a leave has failed again."""
        self.clean_up()
        return now_ms + RETRY_MS if self._unsent else None
