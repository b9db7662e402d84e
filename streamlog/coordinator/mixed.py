"""Groups with members of both protocols, and requests of the classic one: to a classic group, or to one that the coordinator assigns.

A group of classic members alone is a classic group (`classic`). A member of the other protocol (KIP-848, or a consumer in this
process) may join one whose members have the protocol type "consumer" and each an assignor that is known here. Then all are in
the coordinator's own group, where a classic member is one with heartbeats of another form:

- JoinGroup is a heartbeat that says what it holds. The answer has no leader, so no client assigns, and its generation is the
  member's epoch.
- SyncGroup answers what the member may hold, as partitions: its face makes the bytes.
- Heartbeat changes nothing. It is answered with RebalanceInProgressError if the member may have a partition that it was not
  told of, or has to give one up. From then on it has its rebalance timeout to join again; so it has for the SyncGroup after a
  JoinGroup, and for joining again where a SyncGroup took partitions from it. Without that a client that goes on with its
  heartbeats and does nothing else would keep partitions from the others for ever.

So a partition has one owner at any time, whichever protocol the members use. Offsets are committed with the member's epoch as its
generation. When the last member of the other protocol is gone the group is a classic one again, with a generation more: the
members keep what they hold, and commit it, until they have joined again (see `Transition.rebalance`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf

from ..errors import StreamlogError
from ..runtime.api import Completion
from . import errors
from .assignors import known_assignors
from .classic import ClassicGroup
from .classic_members import ClassicGroupManager, check_join
from .group import Group, Member
from .groups import Groups
from .members import GroupMetadataManager
from .messages import (
    ClassicGroupConfig,
    Heartbeat,
    JoinGroup,
    JoinGroupResult,
    MemberIdentity,
    SyncGroup,
    SyncGroupResult,
)
from .schema import CONSUMER
from .transition import Transition


class ClassicProtocolManager:
    """JoinGroup, SyncGroup, Heartbeat and LeaveGroup. See `shard.Shard` for the arguments, and `ClassicGroupManager` for errors."""

    def __init__(
        self, groups: Groups, classic: ClassicGroupManager, members: GroupMetadataManager, new_id: Callable[[], str]
    ) -> None:
        self._groups = groups
        self._classic = classic
        self._members = members
        self._new_id = new_id
        members.on_entered = self._on_entered

    def _mixed(self, group: str) -> Group | None:
        """The group, if the coordinator assigns in it."""
        here = self._groups.by_name.get(group)
        return here if here is not None and here.members and here.classic is None else None

    # -- JoinGroup

    def join_group(
        self, request: JoinGroup, config: ClassicGroupConfig, topics: Mapping[str, int], now_ms: int, now_s: float
    ) -> Completion[JoinGroupResult]:
        """See `ClassicGroupManager.join_group`. `topics`: the partition counts of all topics that exist."""
        group = self._mixed(request.group)
        if group is None:
            return self._classic.join_group(request, config, now_ms, now_s)
        try:
            self._groups.require_ready()
            check_join(request, config)
            return self._join(group, request, config, topics, now_ms, now_s)
        except StreamlogError as error:
            return Completion.failed(error)

    def _join(
        self,
        group: Group,
        request: JoinGroup,
        config: ClassicGroupConfig,
        topics: Mapping[str, int],
        now_ms: int,
        now_s: float,
    ) -> Completion[JoinGroupResult]:
        self._require_protocols(group, request)
        member_id, wanted_id, epoch = request.member_id, "", 0
        if not member_id and request.instance_id is not None:
            wanted_id = f"{request.instance_id}-{self._new_id()}"
        elif not member_id:
            wanted_id = f"{request.client_id or ''}-{self._new_id()}"
            if request.requires_known_member_id:
                group.pending[wanted_id] = now_s + request.session_timeout_s
                group.recheck()
                raise errors.member_id_required(group.name, wanted_id)
        elif group.pending.pop(member_id, None) is not None and member_id not in group.members:
            member_id, wanted_id = "", member_id
        else:
            epoch = _known(group, member_id, request.instance_id).state.member_epoch
        if not member_id and len(group.members) >= config.max_size:
            raise errors.full(group.name, config.max_size)
        heartbeat = Heartbeat(
            group.name, member_id, epoch, request.instance_id, request.client_id, request.topics,
            known_assignors(name for name, _ in request.protocols), request.owned if member_id else frozenset(),
            request.session_timeout_s, request.rebalance_timeout_s, True, True, request.client_host, wanted_id,
        )  # fmt: skip
        return self._members.admit(group, heartbeat, topics, now_ms, now_s, _joined, request.protocols)

    def _require_protocols(self, group: Group, request: JoinGroup) -> None:
        """An assignor that is known here, and a protocol that all classic members have: they may be alone later."""
        names = [name for name, _ in request.protocols]
        common = set(names)
        for member_id, member in group.members.items():
            state = member.state
            if state.is_classic and member_id != request.member_id and state.instance_id != (request.instance_id or ""):
                common.intersection_update(name for name, _ in state.protocols)
        has_metadata = any(metadata for _, metadata in request.protocols)  # by which it is known as a classic member
        if request.protocol_type != CONSUMER or not known_assignors(names) or not common or not has_metadata:
            raise errors.other_protocols(group.name, request.protocol_type, names)

    def _on_entered(
        self, group: Group, classic: ClassicGroup, topics: Mapping[str, int], now_ms: int, now_s: float
    ) -> None:
        """The group was a classic one until now: those that wait to join again are answered, and no client assigns any more."""
        joining, classic.joining = classic.joining, {}
        classic.abandon(errors.rebalancing(group.name))
        written = self._groups.write((), lambda: None)
        for answer, value, error in classic.take_answers():
            self._groups.deliver(answer, value, error, written)
        for member_id, (request, answer) in joining.items():
            try:
                known = request._replace(member_id=member_id)
                done = self._join(group, known, ClassicGroupConfig(), topics, now_ms, now_s)
            except StreamlogError as failure:
                done = Completion.failed(failure)
            self._groups.deliver_after(answer, done)

    # -- SyncGroup

    def sync_group(self, request: SyncGroup, now_ms: int, now_s: float) -> Completion[SyncGroupResult]:
        """See `ClassicGroupManager.sync_group`."""
        group = self._mixed(request.group)
        if group is None:
            return self._classic.sync_group(request, now_ms, now_s)
        try:
            self._groups.require_ready()
            member = _known(group, request.member_id, request.instance_id)
            _require_generation(group, member, request.generation_id)
            protocol = request.protocol or _protocol(group, member)
            if request.protocol_type not in (None, CONSUMER) or protocol not in dict(member.state.protocols):
                raise errors.other_protocols(group.name, request.protocol_type or CONSUMER, [protocol])
        except StreamlogError as error:
            return Completion.failed(error)
        member.told = assignment = member.held & member.state.target
        member.renew(now_s, polled=False)
        self._bound(group, member, now_s, joins=member.held != assignment)
        return self._groups.write((), lambda: SyncGroupResult(CONSUMER, protocol, b"", assignment))

    def _bound(self, group: Group, member: Member, now_s: float, *, joins: bool) -> None:
        """Give the member its rebalance timeout, if it has to join again, and has no such deadline yet."""
        if not joins:
            member.poll_deadline_s = inf
        elif member.poll_deadline_s == inf:
            member.poll_deadline_s = now_s + member.state.rebalance_timeout_s
        group.schedule(member)
        self._members.recheck(group, now_s)

    # -- Heartbeat, LeaveGroup

    def heartbeat(
        self, group: str, member_id: str, instance_id: str | None, generation_id: int, now_ms: int, now_s: float
    ) -> Completion[None]:
        """See `ClassicGroupManager.heartbeat`."""
        here = self._mixed(group)
        if here is None:
            return self._classic.heartbeat(group, member_id, instance_id, generation_id, now_s)
        try:
            self._groups.require_ready()
            member = _known(here, member_id, instance_id)
            _require_generation(here, member, generation_id)
        except StreamlogError as error:
            return Completion.failed(error)
        member.renew(now_s, polled=False)
        if here.wants_target:  # members have left a large group: this heartbeat makes the new target
            transition = Transition(here)
            transition.rebalance({}, now_ms, ())
            done = self._groups.write(transition.records(), lambda: self._members.recheck(here, now_s))
            if here.classic is not None:
                return Completion.failed(errors.rebalancing(group))
            if done.done() and done.error() is not None:
                return done
        if _has_news(here, member):
            self._bound(here, member, now_s, joins=True)
            return Completion.failed(errors.rebalancing(group))
        return Completion.of(None)

    def leave_group(
        self, group: str, members: Sequence[MemberIdentity], now_ms: int, now_s: float
    ) -> Completion[list[StreamlogError | None]]:
        """See `ClassicGroupManager.leave_group`."""
        here = self._mixed(group)
        if here is None:
            return self._classic.leave_group(group, members, now_ms, now_s)
        try:
            self._groups.require_ready()
        except StreamlogError as error:
            return Completion.failed(error)
        transition = Transition(here)
        left = [self._leave(here, transition, each) for each in members]
        transition.rebalance({}, now_ms, ())

        def answer() -> list[StreamlogError | None]:
            self._members.recheck(here, now_s)
            return left

        return self._groups.write(transition.records(), answer)

    @staticmethod
    def _leave(group: Group, transition: Transition, identity: MemberIdentity) -> StreamlogError | None:
        member_id = identity.member_id or group.static.get(identity.instance_id or "", "")
        if group.pending.pop(member_id, None) is not None:
            return None
        try:
            if member_id not in transition:
                raise errors.unknown_member(group.name, member_id)
            _require_instance(group, member_id, identity.instance_id)
        except StreamlogError as error:
            return error
        transition.remove(member_id)
        return None


def _known(group: Group, member_id: str, instance_id: str | None) -> Member:
    """A classic member. Raises UnknownMemberIdError, FencedInstanceIdError."""
    _require_instance(group, member_id, instance_id)
    member = group.members.get(member_id)
    if member is None or not member.state.is_classic:
        raise errors.unknown_member(group.name, member_id)
    return member


def _require_instance(group: Group, member_id: str, instance_id: str | None) -> None:
    if instance_id is not None and group.static.get(instance_id, member_id) != member_id:
        raise errors.fenced(group.name, member_id, instance_id)


def _require_generation(group: Group, member: Member, generation_id: int) -> None:
    epoch = member.state.member_epoch
    if generation_id != epoch:
        raise errors.illegal_generation(group.name, member.state.member_id, generation_id, epoch)


def _has_news(group: Group, member: Member) -> bool:
    """Whether a JoinGroup and a SyncGroup would bring the member something else than it was told last."""
    owners = group.owners
    may_hold = frozenset(each for each in member.state.target if each in member.held or each not in owners)
    return may_hold != member.told


def _joined(group: Group, member: Member, now_s: float) -> JoinGroupResult:
    member.told = None  # until its SyncGroup, for which it has its rebalance timeout
    return JoinGroupResult(member.state.member_id, member.state.member_epoch, CONSUMER, _protocol(group, member), "")


def _protocol(group: Group, member: Member) -> str:
    """The group's assignor by the name that the member has for it, or its own first one: it is not asked to assign."""
    names = [name for name, _ in member.state.protocols if known_assignors((name,))]
    return next((name for name in names if known_assignors((name,))[0] == group.state.protocol), names[0])
