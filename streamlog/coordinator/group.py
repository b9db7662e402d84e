"""One consumer group: its state as replayed from its records, and the liveness of its members.

Only `replay_*` change the state that the log has; `transition.Transition` makes the records. Liveness is soft state: deadlines in
monotonic seconds, renewed at every heartbeat and never logged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container, Iterable, Mapping
from heapq import heapify, heappop, heappush, heapreplace
from math import inf
from typing import TYPE_CHECKING

from ..types import TopicPartition
from . import errors
from .classic import STABLE, ClassicGroup
from .messages import GroupDescription, GroupListing, Heartbeat, HeartbeatResult, MemberDescription
from .offsets import Offsets
from .schema import CLASSIC, CONSUMER, JOINING_EPOCH, GroupState, MemberState

if TYPE_CHECKING:
    from ..runtime.api import Completion

_NONE: frozenset[TopicPartition] = frozenset()


class Member:
    """A member as the log has it (`state`), and its soft state.

    `version` is replaced when a change is replayed that the member can act on: a new target, a partition of its target that
    was released. `answer` is the last answer, kept with its `request`: while the member sends the same request again and its
    version is the same, nothing has to be computed; `answered_s` is the deadline that it was answered. `checked_s` is the earliest deadline of it that the group looks at.
    `told` is what a classic member was answered last (see `mixed`); None if it has to join again.
    """

    __slots__ = (
        "answer",
        "answered_s",
        "checked_s",
        "held",
        "poll_deadline_s",
        "request",
        "session_deadline_s",
        "state",
        "told",
        "version",
    )

    def __init__(self, state: MemberState) -> None:
        self.state = state
        self.held = frozenset(state.given)
        self.poll_deadline_s = inf
        self.session_deadline_s = inf
        self.checked_s = self.answered_s = inf
        self.version = 0
        self.told: frozenset[TopicPartition] | None = None
        self.request: Heartbeat | None = None
        self.answer: Completion[HeartbeatResult] | None = None

    def renew(self, now_s: float, *, polled: bool) -> None:
        """It is alive: renew its deadlines. A static member that is away is not alive, whatever arrives."""
        state = self.state
        if state.away:
            return
        if polled:
            self.poll_deadline_s = now_s + state.rebalance_timeout_s
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

    Derived from the members: `owners` and `planned` (of each partition the member that holds it, and the one whose target it
    is in), `subscribers` (how many members subscribe to a topic), `joining` (the members that no target was computed for yet),
    `unsettled` (those that do not hold their target) and `static` (member ids by instance id); from the group's record `to_plan`
    (how many partitions are in targets when that is complete). So a heartbeat looks at no other member.

    `classic` is there while it is a classic group with members: then `members` are those of the last generation that the log
    has, and everything else is in `classic`. `pending` has the ids that clients were given and have not joined with yet, each
    with a deadline (KIP-394).
    """

    __slots__ = (
        "_deadlines",
        "classic",
        "joining",
        "members",
        "name",
        "next_check_s",
        "offsets",
        "owners",
        "pending",
        "planned",
        "recorded",
        "state",
        "static",
        "subscribers",
        "to_plan",
        "unsettled",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.recorded = False
        self.state = GroupState()
        self.to_plan = 0
        self.members: dict[str, Member] = {}
        self.static: dict[str, str] = {}
        self.owners: dict[TopicPartition, str] = {}
        self.planned: dict[TopicPartition, str] = {}
        self.subscribers: Counter[str] = Counter()
        self.joining: set[str] = set()
        self.unsettled: set[str] = set()
        self.offsets = Offsets(name)
        self.classic: ClassicGroup | None = None
        self.pending: dict[str, float] = {}
        self.next_check_s = inf
        self._deadlines: list[tuple[float, str]] = []

    # -- replay

    def replay_group(self, state: GroupState | None) -> None:
        self.recorded = state is not None
        self.state = state or GroupState()
        self.to_plan = 0 if self.state.type == CLASSIC else sum(self.state.counts.values())

    def replay_member(self, member_id: str, state: MemberState | None) -> list[str]:
        """Apply a member's record, None for a tombstone; the ids of the members that can act on the change.

        O(partitions that it held and holds, was and is to have).
        """
        member = self.members.get(member_id)
        if member is None and state is None:
            return []
        held = target = new_held = new_target = _NONE
        actors: dict[str, None] = {}
        if member is not None:
            held, target = member.held, member.state.target
            self._uncount(member.state)
        if state is None:
            del self.members[member_id]
            self.joining.discard(member_id)
            self.unsettled.discard(member_id)
        else:
            if member is None:
                member = self.members[member_id] = Member(state)
                actors[member_id] = None
            member.state = state
            new_held = member.held = frozenset(state.given)
            new_target = state.target
            member.answer = None
            self._count(state, new_held)
        if new_target is not target and new_target != target:
            actors[member_id] = None
            self._drop(self.planned, member_id, target - new_target)
            self.planned.update(dict.fromkeys(new_target, member_id))
        if new_held != held:
            released = held - new_held
            self._drop(self.owners, member_id, released)
            self.owners.update(dict.fromkeys(new_held - held, member_id))
            # It may be its own: a partition that it did not name in a heartbeat, and may have again.
            actors.update((self.planned[each], None) for each in sorted(released) if each in self.planned)
        return list(actors)

    @staticmethod
    def _drop(of: dict[TopicPartition, str], member_id: str, partitions: Iterable[TopicPartition]) -> None:
        for partition in partitions:
            # Another member's record may have come before: compaction drops releases before it cleans the rest.
            if of.get(partition) == member_id:
                del of[partition]

    def _count(self, state: MemberState, held: frozenset[TopicPartition]) -> None:
        self.subscribers.update(state.topics)
        if state.instance_id is not None:
            self.static[state.instance_id] = state.member_id
        if state.member_epoch == JOINING_EPOCH:
            self.joining.add(state.member_id)
        else:
            self.joining.discard(state.member_id)
        if state.away or held == state.target:
            self.unsettled.discard(state.member_id)
        else:
            self.unsettled.add(state.member_id)

    def _uncount(self, state: MemberState) -> None:
        for topic in state.topics:
            if self.subscribers[topic] == 1:
                del self.subscribers[topic]
            else:
                self.subscribers[topic] -= 1
        # The record of a member that takes over the place may have come before this one.
        if state.instance_id is not None and self.static.get(state.instance_id) == state.member_id:
            del self.static[state.instance_id]

    # -- description

    @property
    def is_logged(self) -> bool:
        return self.recorded or bool(self.members) or bool(self.offsets)

    @property
    def exists(self) -> bool:
        return self.is_logged or self.classic is not None or bool(self.pending)

    @property
    def member_ids(self) -> Collection[str]:
        return self.members if self.classic is None else self.classic.members

    def require_empty(self, action: str) -> None:
        """Raises GroupNotEmptyError if it has members; `action` is what is refused."""
        if self.member_ids:
            away = sum(member.state.away for member in self.members.values())
            raise errors.not_empty(self.name, self.member_ids, away, action)

    @property
    def status(self) -> str:
        """Empty, Reconciling, Stable, or Dead, in the words of KIP-848, or the state of a classic group."""
        if not self.exists:
            return "Dead"
        if self.classic is not None:
            return self.classic.state
        if not self.members:
            return "Empty"
        return "Reconciling" if self.unsettled or self.wants_target else "Stable"

    @property
    def wants_target(self) -> bool:
        """Whether members have joined, or left partitions, since the last target: the next heartbeat of any makes a new one."""
        return (bool(self.joining) or len(self.planned) != self.to_plan) and self.state.type != CLASSIC

    @property
    def is_classic(self) -> bool:
        """Whether its members use JoinGroup and SyncGroup. A group without members takes those of either type."""
        return self.classic is not None or (bool(self.members) and self.state.type == CLASSIC)

    @property
    def protocol_type(self) -> str:
        return self.state.protocol_type if self.classic is None else self.classic.protocol_type

    @property
    def reads_unknown_topics(self) -> bool:
        """Whether it has members of a classic protocol, such as Kafka Connect's, that names no topics."""
        return bool(self.member_ids) and self.protocol_type != CONSUMER

    @property
    def subscribed_topics(self) -> Container[str]:
        """The topics that members subscribe to. O(members) in a classic group."""
        if self.classic is None:
            return self.subscribers
        return frozenset().union(*(member.topics for member in self.classic.members.values()))

    def describe(self) -> GroupDescription:
        classic = self.classic
        if classic is not None:
            protocol = classic.protocol if classic.state == STABLE else ""
            members = classic.describe()
            return GroupDescription(
                self.name, classic.state, protocol, classic.generation, members, CLASSIC, classic.protocol_type
            )
        protocol = self.state.protocol
        members = tuple(
            MemberDescription(
                member_id,
                state.instance_id,
                state.client_id,
                state.client_host,
                state.member_epoch,
                state.topics,
                state.target if state.away else self.members[member_id].held,
                state.target,
                dict(state.protocols).get(protocol, b""),
                state.assignment,
                state.is_classic,
            )
            for member_id, state in sorted((member_id, member.state) for member_id, member in self.members.items())
        )
        type_, protocol_type = self._kind
        return GroupDescription(self.name, self.status, protocol, self.state.epoch, members, type_, protocol_type)

    def listing(self) -> GroupListing:
        return GroupListing(self.name, *self._kind, self.status)

    @property
    def _kind(self) -> tuple[str, str]:
        """Its type and its protocol type. A group that has offsets, and never had a member, is a classic one of no protocol, as in Kafka."""
        if self.classic is None and (self.recorded or self.members):
            return self.state.type, self.protocol_type
        return CLASSIC, self.protocol_type if self.classic is not None else ""

    # -- liveness

    def schedule(self, member: Member) -> None:
        """A deadline of the member was set: look at it in time. O(log members), and O(1) for a renewal."""
        deadline_s = member.deadline_s
        if deadline_s < member.checked_s:
            member.checked_s = deadline_s
            heappush(self._deadlines, (deadline_s, member.state.member_id))

    def forget_deadlines(self) -> None:
        """Its members are those of a classic group now, which has their deadlines."""
        self._deadlines.clear()
        for member in self.members.values():
            member.poll_deadline_s = member.session_deadline_s = member.checked_s = inf

    def _earliest_s(self) -> float:
        """The earliest deadline of all. O(log members) for each one that was renewed since it was looked at."""
        deadlines = self._deadlines
        if len(deadlines) > 2 * len(self.members) + 64:  # most are of members that are gone
            deadlines[:] = [at for at in set(deadlines) if self._checks(*at)]
            heapify(deadlines)
        while deadlines:
            checked_s, member_id = deadlines[0]
            if not self._checks(checked_s, member_id):
                heappop(deadlines)
                continue
            member = self.members[member_id]
            deadline_s = member.deadline_s
            if deadline_s == checked_s:
                return checked_s
            member.checked_s = deadline_s
            if deadline_s == inf:
                heappop(deadlines)
            else:
                heapreplace(deadlines, (deadline_s, member_id))
        return inf

    def _checks(self, checked_s: float, member_id: str) -> bool:
        member = self.members.get(member_id)
        return member is not None and member.checked_s == checked_s

    def overdue(self, now_s: float) -> list[str]:
        """The ids of the members to evict. O(members), but only when there is one."""
        if now_s < self.next_check_s or now_s < self._earliest_s():
            return []
        return [member_id for member_id, member in self.members.items() if member.deadline_s <= now_s]

    def expire_pending(self, now_s: float) -> None:
        """Forget the ids that clients were given and did not join with in time."""
        for member_id in [each for each, deadline_s in self.pending.items() if deadline_s <= now_s]:
            del self.pending[member_id]

    def recheck(self) -> bool:
        """Compute the next deadline; whether it is earlier than what members were answered."""
        before, self.next_check_s = self.next_check_s, self._earliest_s()
        if self.pending:
            self.next_check_s = min(self.next_check_s, *self.pending.values())
        return self.next_check_s < before

    def unchanged(self, member: Member, request: Heartbeat, topics: Mapping[str, int], now_s: float) -> bool:
        """Whether the kept answer also answers this request."""
        next_check_s = self.next_check_s
        if member.answer is None or member.answered_s != next_check_s or self.wants_target:
            return False
        if now_s >= next_check_s or request != member.request:
            return False
        counts = self.state.counts
        for topic in request.topics:  # noqa: SIM110  (a generator would cost more than all the rest)
            if topics.get(topic) != counts.get(topic):
                return False
        return True
