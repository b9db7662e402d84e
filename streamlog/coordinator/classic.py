"""A classic group (JoinGroup, SyncGroup, Heartbeat, LeaveGroup) as Kafka's GroupCoordinator has it: a pure state machine.

    Empty --join--> PreparingRebalance --all have joined, or time is up--> CompletingRebalance --leader's SyncGroup--> Stable
      ^                     |                                                    |                                      |
      +---- none is left ---+<-- a member joins, leaves, is overdue or changes --+--------------------------------------+

JoinGroup is a barrier: its answers are parked until every member has joined again, or the largest rebalance timeout is over; then
a new generation begins without those that have not. The leader, the member that has been there longest, gets the metadata of
all, and its SyncGroup brings their assignments; the others' are parked until then. A static member (KIP-345) that joins with
no id takes the place of the one with its instance id, and in a stable group the generation goes on if its protocol stays.

The assignments and the metadata are the clients' own bytes. For the protocol type "consumer" their face of the service also
says what they mean; that is used only where a group changes its type (see `mixed`).

All of it is soft state, as in Kafka: what the log has (see `schema`) is the last generation whose leader sent the assignments,
and that the group became empty. `unwritten` asks for that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import Any, TypeAlias

from ..errors import StreamlogError
from ..runtime.api import Completion
from ..types import TopicPartition
from . import errors
from .messages import (
    ClassicGroupConfig,
    JoinGroup,
    JoinGroupMember,
    JoinGroupResult,
    MemberDescription,
    MemberIdentity,
    SyncGroup,
    SyncGroupResult,
)
from .schema import CLASSIC, CONSUMER, JOINING_EPOCH, GroupState, MemberState, Protocols

EMPTY, PREPARING, COMPLETING, STABLE = "Empty", "PreparingRebalance", "CompletingRebalance", "Stable"
NEW_MEMBER_JOIN_TIMEOUT_S = 300.0
"""How long a member that joins for the first time may wait: a client that is gone and asks again is another member (Kafka's)."""
WRITE_RETRY_S = 1.0

Answer: TypeAlias = tuple[Completion[Any], Any, BaseException | None]
"""A Completion, and the value or the error that it is to have."""

_NONE: frozenset[TopicPartition] = frozenset()


class ClassicMember:
    """A member. `owned` is what it holds, or may still hold, as far as its client said: none but for the type "consumer".

    `generation` is the one that it was answered last. `is_new`: its first JoinGroup is parked.
    """

    __slots__ = (
        "assignment",
        "client_host",
        "client_id",
        "deadline_s",
        "generation",
        "instance_id",
        "is_new",
        "member_id",
        "owned",
        "protocols",
        "rebalance_timeout_s",
        "session_timeout_s",
        "topics",
    )

    def __init__(self, member_id: str, request: JoinGroup) -> None:
        self.member_id = member_id
        self.instance_id = request.instance_id
        self.owned = _NONE
        self.assignment = b""
        self.generation = -1
        self.is_new = True
        self.deadline_s = inf
        self.update(request)

    @classmethod
    def of(cls, group: str, state: MemberState) -> ClassicMember:
        """A member as the log has it."""
        request = JoinGroup(
            group, state.member_id, state.instance_id, state.client_id, state.client_host, CONSUMER, state.protocols,
            state.session_timeout_s, state.rebalance_timeout_s, state.topics,
        )  # fmt: skip
        member = cls(state.member_id, request)
        member.owned = frozenset(state.given)
        member.assignment = state.assignment
        member.generation = state.member_epoch
        member.is_new = False
        return member

    def update(self, request: JoinGroup) -> None:
        self.client_id = request.client_id
        self.client_host = request.client_host
        self.protocols: Protocols = request.protocols
        self.topics = request.topics
        self.session_timeout_s = request.session_timeout_s
        self.rebalance_timeout_s = request.rebalance_timeout_s
        self.owned &= request.owned

    def metadata(self, protocol: str) -> bytes:
        return dict(self.protocols).get(protocol, b"")


class ClassicGroup:
    """The members of a classic group, and its answers. `pending` has the ids that were given to clients, with deadlines.

    Requests raise their errors, or put an answer into `answers`: a Completion with its value or error. The caller takes them,
    and completes each once it holds no lock. It calls `expire` at `next_check_s` at the latest, which is never too late and
    may be too early. Seconds are real and monotonic. A request costs O(1), and O(members) at the end of a barrier.
    """

    def __init__(self, name: str, generation: int, pending: dict[str, float]) -> None:
        self.name = name
        self.generation = generation
        self.state = EMPTY
        self.protocol_type = ""
        self.protocol = ""
        self.leader: str | None = None
        self.members: dict[str, ClassicMember] = {}
        self.static: dict[str, str] = {}
        self.pending = pending
        self.joining: dict[str, tuple[JoinGroup, Completion[JoinGroupResult]]] = {}
        self.syncing: dict[str, Completion[SyncGroupResult]] = {}
        self.answers: list[Answer] = []
        self.unwritten = False
        """Whether the log does not have a generation with its assignments yet, or that the group is empty."""
        self.next_check_s = inf
        self._supported: Counter[str] = Counter()  # by protocol, how many members have it
        self._to_sync: dict[str, None] = {}  # members that have not sent the SyncGroup of the generation
        self._join_deadline_s = self._sync_deadline_s = inf
        self._owned_before: dict[str, frozenset[TopicPartition]] = {}
        self._delay_s = self._delay_left_s = 0.0
        self._is_initial = self._has_newcomer = self._has_lost_members = False

    @classmethod
    def restored(
        cls, name: str, state: GroupState, members: Iterable[MemberState], pending: dict[str, float], now_s: float
    ) -> ClassicGroup:
        """The group as the log has it: stable; its members have a session timeout from now to send a heartbeat.

        If they are of several generations the coordinator assigned until now (see `mixed`): they are to join again.
        """
        group = cls(name, state.epoch, pending)
        group.protocol_type, group.protocol, group.leader = state.protocol_type, state.protocol, state.leader
        for each in members:
            member = ClassicMember.of(name, each)
            group._add(member)
            group.renew(member, now_s)
        group.state = STABLE
        if any(member.generation != group.generation for member in group.members.values()):
            group.prepare_rebalance(now_s)
        return group

    # -- JoinGroup

    def join(
        self,
        request: JoinGroup,
        answer: Completion[JoinGroupResult],
        new_id: Callable[[], str],
        config: ClassicGroupConfig,
        now_s: float,
    ) -> None:
        """Raises UnknownMemberIdError, InconsistentGroupProtocolError, FencedInstanceIdError, GroupMaxSizeReachedError,
        MemberIdRequiredError.
        """
        member_id = request.member_id
        if not self._accepts(member_id, config.max_size):
            if member_id in self.members:
                self._remove(self.members[member_id], now_s)
            self.pending.pop(member_id, None)
            raise errors.full(self.name, config.max_size)
        if not self._supports(request):
            names = [name for name, _ in request.protocols]
            raise errors.other_protocols(self.name, request.protocol_type, names)
        self._delay_s = config.initial_rebalance_delay_ms / 1000
        if member_id:
            self._join_again(request, answer, now_s)
        elif request.instance_id is not None:
            self._join_static(request, answer, f"{request.instance_id}-{new_id()}", now_s)
        else:
            member_id = f"{request.client_id or ''}-{new_id()}"
            if request.requires_known_member_id:
                self.pending[member_id] = now_s + request.session_timeout_s
                self._look_at(self.pending[member_id])
                raise errors.member_id_required(self.name, member_id)
            self._join_first(request, answer, member_id, now_s)

    def _accepts(self, member_id: str, max_size: int) -> bool:
        if self.state == EMPTY:
            return True
        if self.state == PREPARING:
            return member_id in self.joining or len(self.joining) < max_size
        return member_id in self.members or len(self.members) < max_size

    def _supports(self, request: JoinGroup) -> bool:
        if not self.members:
            return bool(request.protocol_type) and bool(request.protocols)
        everybody = len(self.members)
        return request.protocol_type == self.protocol_type and any(
            self._supported[name] == everybody for name, _ in request.protocols
        )

    def _join_again(self, request: JoinGroup, answer: Completion[JoinGroupResult], now_s: float) -> None:
        member_id = request.member_id
        if self.pending.pop(member_id, None) is not None and member_id not in self.members:
            self._join_first(request, answer, member_id, now_s)
            return
        member = self.known(member_id, request.instance_id)
        changed = member.protocols != request.protocols
        if self.state == COMPLETING and not changed:
            # It may not have got the answer to its JoinGroup.
            self.renew(member, now_s)
            self._answer(answer, self._joined(member))
        elif self.state == STABLE and not changed and member_id != self.leader:
            self.renew(member, now_s)
            self._answer(answer, self._joined(member))
        else:
            self._update(member, request)
            self._park(member, request, answer)
            self._prepare_or_complete(now_s)

    def _join_first(
        self, request: JoinGroup, answer: Completion[JoinGroupResult], member_id: str, now_s: float
    ) -> None:
        if not self.members:
            self.protocol_type = request.protocol_type
        member = ClassicMember(member_id, request)
        self._add(member)
        # Its client cannot send a heartbeat before it has the answer.
        member.deadline_s = now_s + NEW_MEMBER_JOIN_TIMEOUT_S
        self._look_at(member.deadline_s)
        self._has_newcomer = True
        self._park(member, request, answer)
        self._prepare_or_complete(now_s)

    def _join_static(
        self, request: JoinGroup, answer: Completion[JoinGroupResult], member_id: str, now_s: float
    ) -> None:
        """A static member without an id: it is new, or takes its place again, and fences the one that has it."""
        assert request.instance_id is not None
        former_id = self.static.get(request.instance_id)
        if former_id is None:
            self._join_first(request, answer, member_id, now_s)
            return
        former_leader = self.leader
        member = self._replace(former_id, member_id)
        owned = member.owned
        self._update(member, request)
        self.renew(member, now_s)
        if self.state == STABLE and self._select_protocol() == self.protocol:
            self.unwritten = True
            member.owned = owned  # its SyncGroup brings that again
            joined = self._joined(member)
            if member_id != self.leader:
                self._answer(answer, joined)
            elif request.can_skip_assignment:
                self._answer(answer, joined._replace(skip_assignment=True))
            else:  # it is not to assign: so it gets the id that it does not have any more as the leader's
                self._answer(answer, joined._replace(leader=former_leader or "", members=()))
            return
        member.owned = _NONE
        self._park(member, request, answer)
        self._prepare_or_complete(now_s)

    def _replace(self, former_id: str, member_id: str) -> ClassicMember:
        """Give a static member another id, at its place; requests of the former one that are parked fail."""
        member = self.members[former_id]
        assert member.instance_id is not None
        fenced = errors.fenced(self.name, former_id, member.instance_id)
        for parked in (self.joining.pop(former_id, (None, None))[1], self.syncing.pop(former_id, None)):
            if parked is not None:
                self._fail(parked, fenced)
        member.member_id = member_id
        self.members = {member_id if each == former_id else each: found for each, found in self.members.items()}
        self.static[member.instance_id] = member_id
        if former_id in self._to_sync:
            del self._to_sync[former_id]
            self._to_sync[member_id] = None
        if self.leader == former_id:
            self.leader = member_id
        return member

    def _joined(self, member: ClassicMember) -> JoinGroupResult:
        members: tuple[JoinGroupMember, ...] = ()
        if member.member_id == self.leader:
            members = tuple(
                JoinGroupMember(each.member_id, each.instance_id, each.metadata(self.protocol))
                for each in self.members.values()
            )
        return JoinGroupResult(
            member.member_id, self.generation, self.protocol_type, self.protocol, self.leader or "", members
        )

    def _park(self, member: ClassicMember, request: JoinGroup, answer: Completion[JoinGroupResult]) -> None:
        former = self.joining.get(member.member_id)
        if former is not None:  # it asks again while the barrier stands: its former request is answered nowhere
            self._fail(former[1], errors.rebalancing(self.name))
        self.joining[member.member_id] = request, answer

    # -- the barrier

    def _prepare_or_complete(self, now_s: float) -> None:
        if self.state == PREPARING:
            self._maybe_complete(now_s)
        else:
            self.prepare_rebalance(now_s)

    def prepare_rebalance(self, now_s: float) -> None:
        """Begin a rebalance: have all members join again. Those that wait for an assignment are told so."""
        self._fail_syncs(errors.rebalancing(self.name))
        self._to_sync.clear()
        self._sync_deadline_s = inf
        self._has_lost_members = False
        self._is_initial = self.state == EMPTY
        self.state = PREPARING
        if not self._is_initial:
            self._join_deadline_s = now_s + self._rebalance_timeout_s()
            self._look_at(self._join_deadline_s)
            self._maybe_complete(now_s)
            return
        # The first members of a group come about together: one rebalance for all.
        self._has_newcomer = False
        self._join_deadline_s = now_s + self._delay_s
        self._delay_left_s = max(self._rebalance_timeout_s() - self._delay_s, 0.0)
        self._look_at(self._join_deadline_s)
        if not self._delay_s:
            self._complete(now_s)

    def _maybe_complete(self, now_s: float) -> None:
        have_joined = len(self.joining) == len(self.members) and not self.pending
        if not self.members or (have_joined and not self._is_initial):
            self._complete(now_s)

    def _on_join_deadline(self, now_s: float) -> None:
        if self._is_initial and self._has_newcomer and self._delay_left_s:
            self._has_newcomer = False
            delay_s = min(self._delay_s, self._delay_left_s)
            self._delay_left_s = max(self._delay_left_s - self._delay_s, 0.0)
            self._join_deadline_s = now_s + delay_s
        else:
            self._complete(now_s)

    def _complete(self, now_s: float) -> None:
        """The barrier ends: a new generation, without the members that have not joined, but for static ones."""
        for member in [each for each in self.members.values() if each.member_id not in self.joining]:
            if member.instance_id is None:
                self._discard(member)
        if self.members and not self.joining:  # static members alone, all of them silent: their sessions decide
            self._join_deadline_s = now_s + self._rebalance_timeout_s()
            self._look_at(self._join_deadline_s)
            return
        self._join_deadline_s = inf
        self._is_initial = self._has_lost_members = False
        self.generation += 1
        if not self.members:
            self._become_empty()
            return
        if self.leader not in self.joining:
            self.leader = next(member_id for member_id in self.members if member_id in self.joining)
        self.protocol = self._select_protocol()
        self.state = COMPLETING
        self._to_sync = dict.fromkeys(self.members)
        for member in self.members.values():
            member.generation = self.generation
            member.is_new = False
            self.renew(member, now_s)
        joining, self.joining = self.joining, {}
        for member_id, (_, answer) in joining.items():
            self._answer(answer, self._joined(self.members[member_id]))
        self._sync_deadline_s = now_s + self._rebalance_timeout_s()
        self._look_at(self._sync_deadline_s)

    def _become_empty(self) -> None:
        self.state = EMPTY
        self.protocol = ""
        self.leader = None
        self.unwritten = True

    def _rebalance_timeout_s(self) -> float:
        return max((member.rebalance_timeout_s for member in self.members.values()), default=0.0)

    def _select_protocol(self) -> str:
        """Each member votes for the first of its own that all have; a tie goes to what the first member prefers."""
        everybody = len(self.members)
        votes = Counter(
            next(name for name, _ in member.protocols if self._supported[name] == everybody)
            for member in self.members.values()
        )
        first = next(iter(self.members.values()))
        return max((name for name, _ in first.protocols), key=lambda name: votes[name])

    # -- SyncGroup

    def sync(self, request: SyncGroup, answer: Completion[SyncGroupResult], now_s: float) -> None:
        """Raises UnknownMemberIdError, FencedInstanceIdError, IllegalGenerationError, InconsistentGroupProtocolError,
        RebalanceInProgressError.
        """
        member = self.known(request.member_id, request.instance_id)
        self._require_generation(member, request.generation_id)
        asked = request.protocol_type or self.protocol_type, request.protocol or self.protocol
        if asked != (self.protocol_type, self.protocol):
            raise errors.other_protocols(self.name, asked[0], [asked[1]])
        if self.state == PREPARING:
            raise errors.rebalancing(self.name)
        self._to_sync.pop(member.member_id, None)
        if not self._to_sync:
            self._sync_deadline_s = inf
        self.renew(member, now_s)
        if self.state == STABLE:
            self._answer(answer, self._synced(member))
            return
        former = self.syncing.get(member.member_id)
        if former is not None:
            self._fail(former, errors.rebalancing(self.name))
        self.syncing[member.member_id] = answer
        if member.member_id == self.leader:
            self._assign(request.assignments, request.partitions, now_s)

    def _assign(
        self,
        assignments: Mapping[str, bytes],
        partitions: Mapping[str, frozenset[TopicPartition]],
        now_s: float,
    ) -> None:
        self.state = STABLE
        self.unwritten = True
        self._owned_before = {member_id: member.owned for member_id, member in self.members.items()}
        for member_id, member in self.members.items():
            member.assignment = assignments.get(member_id, b"")
            member.owned |= partitions.get(member_id, _NONE)  # what it has to give up it may hold until it joins again
        syncing, self.syncing = self.syncing, {}
        for member_id, answer in syncing.items():
            member = self.members[member_id]
            self.renew(member, now_s)
            self._answer(answer, self._synced(member))

    def _synced(self, member: ClassicMember) -> SyncGroupResult:
        return SyncGroupResult(self.protocol_type, self.protocol, member.assignment)

    def write_failed(self, now_s: float) -> None:
        """What was `unwritten` could not be written. An assignment that no log has is none: its generation ends.

        That the group is empty is to be written later: until then the log has members whose sessions are over.
        """
        if self.state == STABLE:
            self.unwritten = False
            for member_id, owned in self._owned_before.items():
                if member_id in self.members:
                    self.members[member_id].owned = owned
            self.prepare_rebalance(now_s)
        else:
            self._look_at(now_s + WRITE_RETRY_S)

    # -- Heartbeat, LeaveGroup, the end of a session

    def heartbeat(self, member_id: str, instance_id: str | None, generation_id: int, now_s: float) -> None:
        """Raises RebalanceInProgressError: join again; UnknownMemberIdError, FencedInstanceIdError, IllegalGenerationError."""
        member = self.known(member_id, instance_id)
        self._require_generation(member, generation_id)
        self.renew(member, now_s)
        if self.state == PREPARING:
            raise errors.rebalancing(self.name)

    def check_commit(
        self, member_id: str, instance_id: str | None, generation_id: int, *, is_transactional: bool = False
    ) -> None:
        """Raises UnknownMemberIdError, FencedInstanceIdError, IllegalGenerationError, and RebalanceInProgressError while the member
        has no assignment, which does not matter to a transaction.
        """
        member = self.known(member_id, instance_id)
        self._require_generation(member, generation_id)
        if self.state == COMPLETING and not is_transactional:
            raise errors.rebalancing(self.name)

    def renew_by_commit(self, member_id: str, now_s: float) -> None:
        """A commit says that the member is alive, as a heartbeat does."""
        member = self.members.get(member_id)
        if member is not None:  # else the group is empty, and takes commits of any client
            self.renew(member, now_s)

    def _require_generation(self, member: ClassicMember, generation_id: int) -> None:
        if generation_id != member.generation:
            raise errors.illegal_generation(self.name, member.member_id, generation_id, self.generation)

    def known(self, member_id: str, instance_id: str | None) -> ClassicMember:
        member = self.members.get(member_id)
        if instance_id is not None:
            holder = self.static.get(instance_id)
            if holder is not None and holder != member_id:
                raise errors.fenced(self.name, member_id, instance_id)
            if holder is None:
                member = None
        if member is None:
            raise errors.unknown_member(self.name, member_id)
        return member

    def leave(self, members: Sequence[MemberIdentity], now_s: float) -> list[StreamlogError | None]:
        """The members leave, all before the rebalance that follows; the error of each, or None."""
        left = [self._leave(each) for each in members]
        if any(error is None for error in left):
            self._after_removal(now_s)
        return left

    def _leave(self, identity: MemberIdentity) -> StreamlogError | None:
        member_id = identity.member_id
        if not member_id:
            member_id = self.static.get(identity.instance_id or "", "")
        if self.pending.pop(member_id, None) is not None:
            return None
        try:
            self._discard(self.known(member_id, identity.instance_id))
        except StreamlogError as error:
            return error
        return None

    def expire(self, now_s: float) -> None:
        """Remove the members whose sessions are over, end what has taken too long. O(members)."""
        over = [member_id for member_id, deadline_s in self.pending.items() if deadline_s <= now_s]
        for member_id in over:
            del self.pending[member_id]
        overdue = [member for member in self.members.values() if self._deadline_s(member) <= now_s]
        for member in overdue:
            self._discard(member)
        if over or overdue:
            self._after_removal(now_s)
        if self._join_deadline_s <= now_s:
            self._on_join_deadline(now_s)
        if self._sync_deadline_s <= now_s:
            for member_id in list(self._to_sync):
                self._discard(self.members[member_id])
            self._sync_deadline_s = inf
            self.prepare_rebalance(now_s)
        self.next_check_s = min(
            self._join_deadline_s,
            self._sync_deadline_s,
            min(self.pending.values(), default=inf),
            min(map(self._deadline_s, self.members.values()), default=inf),
            now_s + WRITE_RETRY_S if self.unwritten else inf,
        )

    def _deadline_s(self, member: ClassicMember) -> float:
        """When its session is over. One that waits for an answer cannot send a heartbeat."""
        waits = member.member_id in self.joining or member.member_id in self.syncing
        return inf if waits and not member.is_new else member.deadline_s

    def renew(self, member: ClassicMember, now_s: float) -> None:
        member.deadline_s = now_s + member.session_timeout_s
        self._look_at(member.deadline_s)

    def _look_at(self, deadline_s: float) -> None:
        if deadline_s < self.next_check_s:
            self.next_check_s = deadline_s

    # -- members

    def _add(self, member: ClassicMember) -> None:
        self.members[member.member_id] = member
        self._supported.update(name for name, _ in member.protocols)
        if member.instance_id is not None:
            self.static[member.instance_id] = member.member_id

    def _update(self, member: ClassicMember, request: JoinGroup) -> None:
        self._supported.subtract(name for name, _ in member.protocols)
        member.update(request)
        self._supported.update(name for name, _ in member.protocols)

    def _remove(self, member: ClassicMember, now_s: float) -> None:
        self._discard(member)
        self._after_removal(now_s)

    def _discard(self, member: ClassicMember) -> None:
        """Forget a member. REQUIRES: `_after_removal` follows, or the end of the barrier."""
        member_id = member.member_id
        gone = errors.unknown_member(self.name, member_id)
        for parked in (self.joining.pop(member_id, (None, None))[1], self.syncing.pop(member_id, None)):
            if parked is not None:
                self._fail(parked, gone)
        del self.members[member_id]
        self._has_lost_members = True
        self._supported.subtract(name for name, _ in member.protocols)
        self._to_sync.pop(member_id, None)
        if member.instance_id is not None:
            del self.static[member.instance_id]
        if self.leader == member_id:
            self.leader = next(iter(self.members), None)

    def _after_removal(self, now_s: float) -> None:
        if self.state == PREPARING:
            self._maybe_complete(now_s)
        elif self._has_lost_members:
            self.prepare_rebalance(now_s)

    # -- for the log, and for descriptions

    def written(self, incarnation: str, empty_since_ms: int) -> tuple[GroupState, list[MemberState]]:
        """The state that the log is to have. A partition that two members were assigned is the first one's there."""
        members = []
        taken: set[TopicPartition] = set()
        for each in self.members.values():
            owned = each.owned - taken
            taken |= owned
            epoch = max(each.generation, JOINING_EPOCH)
            members.append(
                MemberState(
                    each.member_id, each.instance_id, each.client_id, each.client_host, each.topics, each.protocols,
                    each.session_timeout_s, each.rebalance_timeout_s, True, incarnation, epoch,
                    dict.fromkeys(owned, epoch), owned, each.assignment,
                )
            )  # fmt: skip
        since_ms = None if members else empty_since_ms
        state = GroupState(self.generation, self.protocol, {}, since_ms, CLASSIC, self.protocol_type, self.leader)
        return state, members

    def describe(self) -> tuple[MemberDescription, ...]:
        """Its members; their bytes only while it is stable, as in Kafka."""
        stable = self.state == STABLE
        return tuple(
            MemberDescription(
                member_id, each.instance_id, each.client_id, each.client_host, each.generation, each.topics, each.owned,
                each.owned, each.metadata(self.protocol) if stable else b"", each.assignment,
            )
            for member_id, each in sorted(self.members.items())
        )  # fmt: skip

    # -- answers

    def take_answers(self) -> list[Answer]:
        answers, self.answers = self.answers, []
        return answers

    def _answer(self, answer: Completion[Any], value: JoinGroupResult | SyncGroupResult) -> None:
        self.answers.append((answer, value, None))

    def _fail(self, answer: Completion[Any], error: StreamlogError) -> None:
        self.answers.append((answer, None, error))

    def _fail_syncs(self, error: StreamlogError) -> None:
        syncing, self.syncing = self.syncing, {}
        for answer in syncing.values():
            self._fail(answer, error.copy())

    def abandon(self, error: StreamlogError) -> None:
        """Fail every request that is parked."""
        self._fail_syncs(error)
        joining, self.joining = self.joining, {}
        for _, answer in joining.values():
            self._fail(answer, error.copy())
