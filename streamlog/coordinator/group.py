"""One consumer group: its state as replayed from its records, and the liveness of its members.

Only `replay_*` change the state that the log has; `transition.Transition` makes the records. Liveness is soft state: deadlines in
monotonic seconds, renewed at every heartbeat and never logged.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import TYPE_CHECKING

from ..types import MemberInfo, TopicPartition
from .messages import GroupDescription, Heartbeat, HeartbeatResult
from .offsets import Offsets
from .schema import GroupState, MemberState

if TYPE_CHECKING:
    from ..runtime.api import Completion


class Member:
    """A member as the log has it (`state`), and its soft state.

    `answer` is the last answer, kept with its `request`: while the member sends the same request again, nothing has to be
    computed.
    """

    __slots__ = ("answer", "held", "poll_deadline_s", "request", "session_deadline_s", "state")

    def __init__(self, state: MemberState) -> None:
        self.state = state
        self.held = frozenset(state.given)
        self.poll_deadline_s = inf
        self.session_deadline_s = inf
        self.request: Heartbeat | None = None
        self.answer: Completion[HeartbeatResult] | None = None

    def renew(self, now_s: float, *, polled: bool) -> None:
        """It is alive: renew its deadlines. A static member that is away is not alive, whatever arrives."""
        state = self.state
        if state.away:
            return
        if polled:
            self.poll_deadline_s = now_s + state.max_poll_interval_s
        self.session_deadline_s = now_s + state.session_timeout_s if state.remote else inf

    def away_since(self, now_s: float) -> None:
        """It left, or its process is gone: a static member's place is kept for a session timeout from now."""
        self.poll_deadline_s = inf
        self.session_deadline_s = now_s + (self.state.session_timeout_s if self.state.instance_id is not None else 0.0)

    @property
    def deadline_s(self) -> float:
        """When to evict it. A static member that stopped polling keeps its place for a session timeout longer."""
        grace = self.state.session_timeout_s if self.state.instance_id is not None else 0.0
        return min(self.poll_deadline_s + grace, self.session_deadline_s)


class Group:
    """The members, targets and offsets of one group.

    `owners` and `static` are derived from the members. `version` grows with every replayed change that other members can act
    on: a new epoch, a member that is gone, a partition that was released.
    """

    __slots__ = ("members", "name", "next_check_s", "offsets", "owners", "recorded", "state", "static", "version")

    def __init__(self, name: str) -> None:
        self.name = name
        self.recorded = False
        self.state = GroupState()
        self.members: dict[str, Member] = {}
        self.static: dict[str, str] = {}
        self.owners: dict[TopicPartition, str] = {}
        self.offsets = Offsets(name)
        self.version = 0
        self.next_check_s = inf

    # -- replay

    def replay_group(self, state: GroupState | None) -> None:
        self.recorded = state is not None
        self.state = state or GroupState()

    def replay_member(self, member_id: str, state: MemberState | None) -> bool:
        """Apply a member's record, None for a tombstone; whether other members can act on the change."""
        member = self.members.get(member_id)
        before = member.held if member is not None else frozenset()
        if state is None:
            if member is None:
                return False
            del self.members[member_id]
            if member.state.instance_id is not None:
                del self.static[
                    member.state.instance_id
                ]  # the record of a member that takes over the place comes after this one
            self._release(member_id, before)
            return True
        joined = member is None
        if member is None:
            member = self.members[member_id] = Member(state)
        else:
            member.state = state
            member.held = frozenset(state.given)
        if state.instance_id is not None:
            self.static[state.instance_id] = member_id
        member.answer = None
        released = before - member.held
        self._release(member_id, released)
        for partition in member.held:
            self.owners[partition] = member_id
        return joined or bool(released)

    def _release(self, member_id: str, partitions: frozenset[TopicPartition]) -> None:
        for partition in partitions:
            # The next owner's record may have come before: compaction drops releases before it cleans the rest.
            if self.owners.get(partition) == member_id:
                del self.owners[partition]

    def changed(self, version: int) -> None:
        """A change was replayed that members can act on: no kept answer is valid any more."""
        self.version = version
        self.forget_answers()

    def forget_answers(self) -> None:
        for member in self.members.values():
            member.answer = None

    # -- description

    @property
    def exists(self) -> bool:
        return self.recorded or bool(self.members) or bool(self.offsets)

    @property
    def status(self) -> str:
        """Empty, Reconciling, Stable, or Dead, in the words of KIP-848."""
        if not self.exists:
            return "Dead"
        if not self.members:
            return "Empty"
        epoch = self.state.epoch
        for member in self.members.values():
            state = member.state
            if not state.away and (state.member_epoch != epoch or member.held != state.target):
                return "Reconciling"
        return "Stable"

    @property
    def subscribed(self) -> frozenset[str]:
        return frozenset().union(*(member.state.topics for member in self.members.values()))

    def describe(self) -> GroupDescription:
        """A member's assignment is what it may hold; that of a static member that is away is what is kept for it."""
        members = tuple(
            MemberInfo(
                member_id,
                member.state.client_id,
                member.state.instance_id,
                member.state.target if member.state.away else member.held,
            )
            for member_id, member in sorted(self.members.items())
        )
        return GroupDescription(self.name, self.status, self.state.assignor, self.state.epoch, members)

    # -- liveness

    def overdue(self, now_s: float) -> list[str]:
        """The ids of the members to evict. O(members), but only once the earliest known deadline has come."""
        if now_s < self.next_check_s:
            return []
        return [member_id for member_id, member in self.members.items() if member.deadline_s <= now_s]

    def recheck(self) -> None:
        """Compute the next deadline. Renewals only move it later, so a heartbeat need not compute it."""
        earliest = min((member.deadline_s for member in self.members.values()), default=inf)
        if earliest != self.next_check_s:
            self.next_check_s = earliest
            self.forget_answers()

    def unchanged(self, member: Member, request: Heartbeat, topics: Mapping[str, int], now_s: float) -> bool:
        """Whether the kept answer also answers this request."""
        if member.answer is None or now_s >= self.next_check_s or request != member.request:
            return False
        counts = self.state.counts
        for topic in request.topics:  # noqa: SIM110  (a generator would cost more than all the rest)
            if topics.get(topic) != counts.get(topic):
                return False
        return True
