"""Requests of members, and what changes their partitions: join, heartbeat, leave, eviction, metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import inf
from typing import TypeVar

from ..errors import StreamlogError, UnknownMemberIdError
from ..runtime.api import AllDone, Completion
from ..types import TopicPartition
from . import errors
from .assignors import check_names, known_assignors
from .classic import ClassicGroup
from .classic_members import ClassicGroupManager
from .group import Group, Member
from .groups import Groups
from .messages import Heartbeat, HeartbeatResult, MemberIdentity
from .schema import CONSUMER, JOINING_EPOCH, MemberState, Protocols
from .transition import Transition

T = TypeVar("T")


class GroupMetadataManager:
    """The members of a shard's groups. See `shard.Shard` for the arguments."""

    def __init__(
        self,
        groups: Groups,
        classic: ClassicGroupManager,
        incarnation: str,
        new_id: Callable[[], str],
        small_group: int,
    ) -> None:
        self._groups = groups
        self._classic = classic
        self._incarnation = incarnation
        self._new_id = new_id
        self._small_group = small_group
        self.on_entered: Callable[[Group, ClassicGroup, Mapping[str, int], int, float], None] = lambda *_: None
        """Called when a classic group has become one that the coordinator assigns; see `mixed`."""

    def loaded(self, now_ms: int, now_s: float, *, writes: bool = True) -> Completion[None]:
        """The whole log was replayed: remove the members that cannot be alive any more, and begin to answer.

        Raises FormatError if the log has records of a newer version and this shard `writes`; one that only reads goes on
        without them.

        Members in the process of an earlier opening are gone with it. The place of a static member is kept for its session
        timeout from now; a remote member has that long to heartbeat. If the append fails, on a full disk for example, the
        shard answers all the same, and the next heartbeat or `expire` removes them.
        """
        self._groups.runtime.loaded(writes=writes)
        done = []
        for group in list(self._groups.by_name.values()):
            if group.is_classic:
                if writes:
                    self._classic.restore(group, now_s)
                continue
            transition = Transition(group)
            for member_id, member in group.members.items():
                if self._is_gone(member.state):
                    if member.state.instance_id is None:
                        transition.remove(member_id)
                    else:
                        transition.keep_place(member_id)
            transition.rebalance({}, now_ms, ())
            done.append(self._groups.write(transition.records(), lambda: None))
            for member in group.members.values():
                if member.state.away or self._is_gone(member.state):
                    member.away_since(now_s)
                else:
                    member.renew(now_s, polled=True)
                group.schedule(member)
            if writes:
                self.recheck(group, now_s)
            else:
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
        group = self._groups.by_name.get(request.group)
        if group is not None and self._groups.runtime.ready and self._groups.runtime.unfinished is None:
            member = group.members.get(request.member_id)
            if member is not None and group.unchanged(member, request, topics, now_s):
                member.renew(now_s, polled=request.polling)
                assert member.answer is not None
                return member.answer
        try:
            self._groups.require_ready()
            check_names(request.assignors)
            return self.admit(group or Group(request.group), request, topics, now_ms, now_s, _result)
        except StreamlogError as error:
            return Completion.failed(error)

    def admit(
        self,
        group: Group,
        request: Heartbeat,
        topics: Mapping[str, int],
        now_ms: int,
        now_s: float,
        respond: Callable[[Group, Member, float], T],
        protocols: Protocols | None = None,
    ) -> Completion[T]:
        """A heartbeat that has to be looked at. `protocols`: it is a JoinGroup of a classic member, which has these. `respond` gives
        the answer. Raises what `heartbeat` fails with.
        """
        transition = Transition(group)
        joins = not request.member_id
        classic = group.classic
        if classic is not None:
            if not joins:
                raise errors.unknown_member(group.name, request.member_id)
            _require_known_assignors(classic)
            transition.be_consumer(*classic.written(self._incarnation, now_ms))
        state = self._join(transition, group, request) if joins else self._known(group, request)
        member_id = state.member_id
        transition.put(
            state._replace(
                client_id=request.client_id,
                client_host=request.client_host,
                topics=request.topics,
                protocols=_protocols(request) if protocols is None else protocols,
                session_timeout_s=request.session_timeout_s,
                rebalance_timeout_s=request.max_poll_interval_s,
                remote=request.remote,
            )
        )
        overdue = [other for other in group.overdue(now_s) if other in transition and other != member_id]
        for other in overdue:
            transition.remove(other)
        at_once = overdue or not joins or protocols is not None or classic is not None
        if at_once or not self._joins_later(group, request):
            transition.rebalance(topics, now_ms, request.topics if classic is None else None)
            transition.reconcile(member_id, request.owned)
        records = transition.records()

        def answer() -> T:
            here = self._groups.by_name[request.group]
            if classic is not None:
                self._end_classic(here, classic, now_s)
            member = here.members[member_id]
            member.renew(now_s, polled=joins or request.polling)
            here.schedule(member)
            self.recheck(here, now_s)
            result = respond(here, member, now_s)
            if not records and isinstance(result, HeartbeatResult):
                member.request, member.answer = request, Completion.of(result)
                member.answered_s = here.next_check_s
            return result

        answered = self._groups.write(records, answer)
        if classic is not None and group.classic is None:
            self.on_entered(group, classic, topics, now_ms, now_s)
        return answered

    @staticmethod
    def _end_classic(group: Group, classic: ClassicGroup, now_s: float) -> None:
        """Its members are the coordinator's now. Each knows what it was assigned; it joins again when it is to have something else."""
        group.classic = None
        for member_id, former in classic.members.items():
            member = group.members.get(member_id)
            if member is not None:  # else its place was taken
                member.told = former.owned
                member.renew(now_s, polled=False)
                group.schedule(member)

    def _join(self, transition: Transition, group: Group, request: Heartbeat) -> MemberState:
        """A new member. If it has the instance id of another member, it takes over that member's place and target.

        One that is there already under the id that it wants did not get the answer to its first join, and asks again.
        """
        known = group.members.get(request.wanted_id)
        if known is not None:
            return known.state
        target: frozenset[TopicPartition] = frozenset()
        if request.instance_id is not None:
            old = transition.static(request.instance_id)
            if old is not None:
                target = old.target
                transition.remove(old.member_id)
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
        a member that closes may ignore: what removed it counts as written then.
        """
        try:
            self._groups.require_ready()
            here = self._groups.by_name.get(group)
            if here is not None and here.classic is not None:
                here.classic.known(member_id, None)
                return AllDone([self._classic.leave_group(group, [MemberIdentity(member_id)], now_ms, now_s)])
            member = here.members.get(member_id) if here is not None else None
            if here is None or member is None:
                raise errors.unknown_member(group, member_id)
            transition = Transition(here)
            stays = member.state.instance_id is not None and not force
            if not stays:
                transition.remove(member_id)
                if len(here.members) <= self._small_group or any(
                    each.state.is_classic for each in here.members.values()
                ):
                    transition.rebalance({}, now_ms, ())
            elif not member.state.away:
                transition.keep_place(member_id)
        except UnknownMemberIdError as error:  # it may have left by a record that is lost with the leader of the log
            return self._groups.runtime.refused(error)
        except StreamlogError as error:
            return Completion.failed(error)
        records = transition.records()
        had_target = not here.wants_target

        def after() -> None:
            if had_target and here.wants_target:
                self._groups.touch(here, here.members)
            if stays and records:
                member.away_since(now_s)
                here.schedule(member)
            self.recheck(here, now_s)

        return self._groups.write(records, after)

    def rebalance(self, group: str, now_ms: int, now_s: float) -> Completion[None]:
        """Have a group rebalance, though nothing has changed. Does nothing if it does already, or has no members.

        In a classic group all join again; in another one each member gets the partitions of another that subscribes to the same
        topics, if there is one. Fails with GroupIdNotFoundError.
        """
        try:
            self._groups.require_ready()
            here = self._groups.existing(group)
        except StreamlogError as error:
            return Completion.failed(error)
        if here.classic is not None:
            return self._classic.rebalance(here, now_ms, now_s)
        if not here.members or here.wants_target:
            return Completion.of(None)
        transition = Transition(here)
        transition.rotate()
        return self._groups.write(transition.records(), partial(self.recheck, here, now_s))

    def expire(self, now_s: float, now_ms: int, name: str | None = None) -> Completion[None]:
        """Evict members whose poll interval or session is over, of the group of this name or of all. Cheap before `next_expiry_s`.

        O(groups), and O(1) for a group that has none of these.
        """
        try:
            self._groups.require_ready()
        except StreamlogError as error:
            return Completion.failed(error)
        done = []
        by_name = self._groups.by_name
        named = list(by_name.values()) if name is None else [by_name[name]] if name in by_name else []
        for group in named:
            if now_s < group.next_check_s:
                continue
            if group.classic is not None:
                done.append(self._classic.expire(group, now_ms, now_s))
                continue
            group.expire_pending(now_s)
            self._groups.forget_unknown(group)
            transition = Transition(group)
            for member_id in group.overdue(now_s):
                transition.remove(member_id)
            transition.rebalance({}, now_ms, ())
            done.append(self._groups.write(transition.records(), partial(self.recheck, group, now_s)))
        return AllDone(done)

    def next_expiry_s(self) -> float | None:
        """When to call `expire` next (monotonic seconds; it may be too early, never too late), or None. O(groups)."""
        earliest = min((group.next_check_s for group in self._groups.by_name.values()), default=inf)
        return None if earliest == inf else earliest

    def metadata_changed(self, topics: Mapping[str, int], now_ms: int, now_s: float) -> Completion[None]:
        """Topics were created, deleted or have grown: `topics` has the counts of ALL that exist now.

        Groups that subscribe to one of them get a new target, and the offsets of topics that do not exist any more are
        deleted; nothing depends on when. O(members and offsets).
        """
        try:
            self._groups.require_ready()
        except StreamlogError as error:
            return Completion.failed(error)
        done = []
        for group in list(self._groups.by_name.values()):
            transition = Transition(group)
            if group.classic is None:
                for member_id in group.overdue(now_s):
                    transition.remove(member_id)
                transition.rebalance(topics, now_ms)
            gone = group.offsets.of_former_topics(self._groups.current_id)
            done.append(
                self._groups.write(
                    transition.records() + group.offsets.forget(gone), partial(self.recheck, group, now_s)
                )
            )
        return AllDone(done)

    def recheck(self, group: Group, now_s: float) -> None:
        """Look at the next deadline in time; members that wait for a later one have to know an earlier one."""
        if group.is_classic:
            if group.classic is None:  # all that use the other protocol are gone
                self._classic.restore(group, now_s)
        elif group.recheck():
            self._groups.touch(group, group.members)

    def renew(self, group: str, member_id: str, seen_version: int, now_s: float) -> bool:
        """A poll in place of a heartbeat: renew the member's deadlines if nothing changed and no member is overdue.

        Returns False if the member has to heartbeat instead. Takes no lock, and needs none: it reads, and stores two floats.
        """
        here = self._groups.by_name.get(group)
        if here is None or here.wants_target or now_s >= here.next_check_s or not self._groups.runtime.ready:
            return False
        member = here.members.get(member_id)
        if member is None or member.version != seen_version or member.state.away:
            return False
        member.renew(now_s, polled=True)
        return True


def _require_known_assignors(classic: ClassicGroup) -> None:
    """Raises InconsistentGroupProtocolError if the coordinator cannot assign to members of a classic group."""
    known = all(
        known_assignors(name for name, _ in member.protocols) and any(metadata for _, metadata in member.protocols)
        for member in classic.members.values()
    )
    if classic.protocol_type != CONSUMER or not known:
        raise errors.classic(classic.name)


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
