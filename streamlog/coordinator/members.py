"""Requests of members, and what changes their partitions: join, heartbeat, leave, eviction, metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import inf

from ..errors import StreamlogError
from ..runtime.api import AllDone, Completion
from ..types import TopicPartition
from . import errors
from .assignors import check_names
from .group import Group, Member
from .messages import Heartbeat, HeartbeatResult
from .runtime import CoordinatorRuntime
from .schema import JOINING_EPOCH, MemberState, Protocols
from .transition import Transition


class GroupMetadataManager:
    """The members of a shard's groups. See `shard.Shard` for the arguments."""

    def __init__(
        self, runtime: CoordinatorRuntime, incarnation: str, new_id: Callable[[], str], small_group: int
    ) -> None:
        self._runtime = runtime
        self._incarnation = incarnation
        self._new_id = new_id
        self._small_group = small_group

    def loaded(self, now_ms: int, now_s: float, *, writes: bool = True) -> Completion[None]:
        """The whole log was replayed: remove the members that cannot be alive any more, and begin to answer.

        Raises FormatError if the log has records of a newer version and this shard `writes`; one that only reads goes on
        without them.

        Members in the process of an earlier opening are gone with it. The place of a static member is kept for its session
        timeout from now; a remote member has that long to heartbeat. If the append fails, on a full disk for example, the
        shard answers all the same, and the next heartbeat or `expire` removes them.
        """
        if writes:
            self._runtime.refuse_newer()
        self._runtime.ready = True
        done = []
        for group in list(self._runtime.groups.values()):
            transition = Transition(group)
            for member_id, member in group.members.items():
                if self._is_gone(member.state):
                    if member.state.instance_id is None:
                        transition.remove(member_id)
                    else:
                        transition.keep_place(member_id)
            transition.rebalance({}, now_ms, ())
            done.append(self._runtime.write(transition.records(), lambda: None))
            for member in group.members.values():
                if member.state.away or self._is_gone(member.state):
                    member.away_since(now_s)
                else:
                    member.renew(now_s, polled=True)
                group.schedule(member)
            group.recheck()
        return AllDone(done)

    def _is_gone(self, state: MemberState) -> bool:
        return state.incarnation != self._incarnation and not state.remote and not state.away

    def heartbeat(
        self, request: Heartbeat, topics: Mapping[str, int], now_ms: int, now_s: float
    ) -> Completion[HeartbeatResult]:
        """Join a group, or stay in it: take over what the member says of itself, answer with what it should hold now.

        `topics` has the partition counts of topics that exist, at least of those that the request names. A heartbeat that
        changes nothing appends nothing and costs about a microsecond. A heartbeat evicts other members that are overdue
        first; the caller itself is alive, however late.

        Fails with UnknownMemberIdError (join again with an empty member id), FencedInstanceIdError (another consumer took
        the place), InconsistentGroupProtocolError (the members are classic ones), ConfigError (an unknown assignor, or none in common), or the error of the append.
        """
        group = self._runtime.groups.get(request.group)
        if group is not None and self._runtime.ready and self._runtime.unfinished is None:
            member = group.members.get(request.member_id)
            if member is not None and group.unchanged(member, request, topics, now_s):
                member.renew(now_s, polled=request.polling)
                assert member.answer is not None
                return member.answer
        try:
            self._runtime.require_ready()
            check_names(request.assignors)
            if group is not None and group.is_classic:
                raise errors.classic(request.group)
            return self._heartbeat(group or Group(request.group), request, topics, now_ms, now_s)
        except StreamlogError as error:
            return Completion.failed(error)

    def _heartbeat(
        self, group: Group, request: Heartbeat, topics: Mapping[str, int], now_ms: int, now_s: float
    ) -> Completion[HeartbeatResult]:
        transition = Transition(group)
        joins = not request.member_id
        state = self._join(transition, group, request) if joins else self._known(group, request)
        member_id = state.member_id
        transition.put(
            state._replace(
                client_id=request.client_id,
                client_host=request.client_host,
                topics=request.topics,
                protocols=_protocols(request),
                session_timeout_s=request.session_timeout_s,
                rebalance_timeout_s=request.max_poll_interval_s,
                remote=request.remote,
            )
        )
        overdue = [other for other in group.overdue(now_s) if other in transition and other != member_id]
        for other in overdue:
            transition.remove(other)
        if overdue or not joins or not self._joins_later(group, request):
            transition.rebalance(topics, now_ms, request.topics)
            transition.reconcile(member_id, request.owned)
        records = transition.records()

        def answer() -> HeartbeatResult:
            here = self._runtime.groups[request.group]
            member = here.members[member_id]
            member.renew(now_s, polled=joins or request.polling)
            here.schedule(member)
            self._recheck(here)
            result = _result(here, member, now_s)
            if not records:
                member.request, member.answer = request, Completion.of(result)
                member.answered_s = here.next_check_s
            return result

        return self._runtime.write(records, answer)

    def _join(self, transition: Transition, group: Group, request: Heartbeat) -> MemberState:
        """A new member. If it has the instance id of another member, it takes over that member's place and target."""
        target: frozenset[TopicPartition] = frozenset()
        if request.instance_id is not None:
            old = group.static.get(request.instance_id)
            if old is not None:
                target = group.members[old].state.target
                transition.remove(old)
        return MemberState(
            request.wanted_id or self._new_id(),
            request.instance_id,
            request.client_id,
            request.client_host,
            request.topics,
            _protocols(request),
            request.session_timeout_s,
            request.max_poll_interval_s,
            request.remote,
            self._incarnation,
            JOINING_EPOCH,
            target=target,
        )

    def _joins_later(self, group: Group, request: Heartbeat) -> bool:
        """Whether a new member gets its target with the others that join now, at the next heartbeat of any member.

        So in a large group, where every target looks at all members and moves partitions of most, those that join together
        cost one target (as in KIP-1263). In a small group, at once; also where it decides about the assignor, or takes a place.
        """
        if len(group.members) < self._small_group or group.state.protocol not in request.assignors:
            return False
        return request.instance_id is None or request.instance_id not in group.static

    def _known(self, group: Group, request: Heartbeat) -> MemberState:
        member_id = request.member_id
        member = group.members.get(member_id)
        if member is not None and not member.state.away and request.member_epoch <= member.state.member_epoch:
            return member.state
        if request.instance_id is not None and group.static.get(request.instance_id, member_id) != member_id:
            raise errors.fenced(request.group, member_id, request.instance_id)
        raise errors.unknown_member(request.group, member_id)

    def leave(self, group: str, member_id: str, now_ms: int, now_s: float, *, force: bool = False) -> Completion[None]:
        """The member is gone and holds nothing. Other members may get its partitions at once.

        In a large group they get them at the next heartbeat of any member, and all members are woken for it: members that
        leave together cost one target, which looks at all members and partitions.

        The place of a static member is kept for its session timeout, unless `force`. Fails with UnknownMemberIdError, which
        a member that closes may ignore.
        """
        try:
            self._runtime.require_ready()
            here = self._runtime.groups.get(group)
            member = here.members.get(member_id) if here is not None else None
            if here is None or member is None:
                raise errors.unknown_member(group, member_id)
            transition = Transition(here)
            stays = member.state.instance_id is not None and not force
            if not stays:
                transition.remove(member_id)
                if len(here.members) <= self._small_group:
                    transition.rebalance({}, now_ms, ())
            elif not member.state.away:
                transition.keep_place(member_id)
        except StreamlogError as error:
            return Completion.failed(error)
        records = transition.records()
        had_target = not here.wants_target

        def after() -> None:
            if had_target and here.wants_target:
                self._runtime.touch(here, here.members)
            if stays and records:
                member.away_since(now_s)
                here.schedule(member)
            self._recheck(here)

        return self._runtime.write(records, after)

    def expire(self, now_s: float, now_ms: int) -> Completion[None]:
        """Evict members whose poll interval or session is over. Cheap before `next_expiry_s`."""
        try:
            self._runtime.require_ready()
        except StreamlogError as error:
            return Completion.failed(error)
        done = []
        for group in list(self._runtime.groups.values()):
            if now_s < group.next_check_s:
                continue
            transition = Transition(group)
            for member_id in group.overdue(now_s):
                transition.remove(member_id)
            transition.rebalance({}, now_ms, ())
            done.append(self._runtime.write(transition.records(), partial(self._recheck, group)))
        return AllDone(done)

    def next_expiry_s(self) -> float | None:
        """When to call `expire` next (monotonic seconds; it may be too early, never too late), or None. O(groups)."""
        earliest = min((group.next_check_s for group in self._runtime.groups.values()), default=inf)
        return None if earliest == inf else earliest

    def metadata_changed(self, topics: Mapping[str, int], now_ms: int, now_s: float) -> Completion[None]:
        """Topics were created, deleted or have grown: `topics` has the counts of ALL that exist now.

        Groups that subscribe to one of them get a new target, and the offsets of topics that do not exist any more are
        deleted; nothing depends on when. O(members and offsets).
        """
        try:
            self._runtime.require_ready()
        except StreamlogError as error:
            return Completion.failed(error)
        done = []
        for group in list(self._runtime.groups.values()):
            transition = Transition(group)
            for member_id in group.overdue(now_s):
                transition.remove(member_id)
            transition.rebalance(topics, now_ms)
            gone = group.offsets.of_former_topics(self._runtime.current_id)
            done.append(
                self._runtime.write(transition.records() + group.offsets.forget(gone), partial(self._recheck, group))
            )
        return AllDone(done)

    def _recheck(self, group: Group) -> None:
        """Look at the next deadline in time; members that wait for a later one have to know an earlier one."""
        if group.recheck():
            self._runtime.touch(group, group.members)

    def renew(self, group: str, member_id: str, seen_version: int, now_s: float) -> bool:
        """A poll in place of a heartbeat: renew the member's deadlines if nothing changed and no member is overdue.

        Returns False if the member has to heartbeat instead. Takes no lock, and needs none: it reads, and stores two floats.
        """
        here = self._runtime.groups.get(group)
        if here is None or here.wants_target or now_s >= here.next_check_s or not self._runtime.ready:
            return False
        member = here.members.get(member_id)
        if member is None or member.version != seen_version or member.state.away:
            return False
        member.renew(now_s, polled=True)
        return True


def _protocols(request: Heartbeat) -> Protocols:
    return tuple((name, b"") for name in request.assignors)


def _result(group: Group, member: Member, now_s: float) -> HeartbeatResult:
    state = member.state
    next_check_s = now_s if group.wants_target else group.next_check_s
    return HeartbeatResult(
        state.member_id,
        state.member_epoch,
        member.held & state.target,
        member.held == state.target and state.member_epoch != JOINING_EPOCH,
        None if next_check_s == inf else next_check_s,
        member.version,
        frozenset(group.owners[partition] for partition in state.target - member.held if partition in group.owners),
    )
