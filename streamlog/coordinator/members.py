"""Requests of and about members: join, heartbeat, leave, evict, and what changes their partitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf

from ..errors import StreamlogError
from ..runtime.api import Completion
from ..types import TopicPartition
from . import errors
from .assignors import check_names
from .group import Group, Member
from .messages import Heartbeat, HeartbeatResult
from .runtime import CoordinatorRuntime, gather
from .schema import MemberState
from .transition import Transition


class MemberRequests(CoordinatorRuntime):
    """The part of a shard that knows members."""

    _incarnation: str
    _new_id: Callable[[], str]

    def loaded(self, now_ms: int, now_s: float) -> Completion[None]:
        """The whole log was replayed: remove who cannot be alive any more, and begin to answer.

        Members of an earlier opening in its own process are gone with it. The place of a static one is
        kept for its session timeout from now; a remote one has that long to heartbeat. If the append
        fails, on a full disk say, the shard answers all the same, and the next heartbeat or `expire`
        removes them.
        """
        self._ready = True
        done = []
        for group in list(self._groups.values()):
            plan = Transition(group)
            for member_id, member in group.members.items():
                if self._is_gone(member.state):
                    if member.state.instance_id is None:
                        plan.remove(member_id)
                    else:
                        plan.keep_place(member_id)
            plan.rebalance(group.state.counts, now_ms)
            done.append(self._write(plan.records(), lambda: None))
            for member in group.members.values():
                if member.state.away or self._is_gone(member.state):
                    member.away_since(now_s)
                else:
                    member.renew(now_s, polled=True)
            group.recheck()
        return gather(done)

    def _is_gone(self, state: MemberState) -> bool:
        return state.incarnation != self._incarnation and not state.remote and not state.away

    def heartbeat(
        self, request: Heartbeat, topics: Mapping[str, int], now_ms: int, now_s: float
    ) -> Completion[HeartbeatResult]:
        """Join, or stay: take what the member says of itself, answer with what it should hold now.

        `topics` has the partition counts of topics that exist, at least of those the request names. A
        heartbeat that changes nothing appends nothing and costs about a microsecond. One that finds
        another member overdue evicts it first; the caller itself is alive, however late.

        Fails with UnknownMemberIdError (join again with an empty member id), FencedInstanceIdError
        (another consumer took the place), ConfigError (unknown assignor, or none in common), or what
        the append fails with.
        """
        group = self._groups.get(request.group)
        if group is not None and self._ready and self._parked is None:
            member = group.members.get(request.member_id)
            if member is not None and group.unchanged(member, request, topics, now_s):
                member.renew(now_s, polled=request.polling)
                assert member.answer is not None
                return member.answer
        try:
            self._require_ready()
            check_names(request.assignors)
            return self._heartbeat(group or Group(request.group), request, topics, now_ms, now_s)
        except StreamlogError as error:
            return Completion.failed(error)

    def _heartbeat(
        self, group: Group, request: Heartbeat, topics: Mapping[str, int], now_ms: int, now_s: float
    ) -> Completion[HeartbeatResult]:
        plan = Transition(group)
        joins = not request.member_id
        state = self._join(plan, group, request) if joins else self._known(group, request)
        member_id = state.member_id
        plan.put(
            state._replace(
                client_id=request.client_id,
                topics=request.topics,
                assignors=request.assignors,
                session_timeout_s=request.session_timeout_s,
                max_poll_interval_s=request.max_poll_interval_s,
                remote=request.remote,
            )
        )
        for other in group.overdue(now_s):
            if other in plan.members and other != member_id:
                plan.remove(other)
        plan.rebalance(_counts(group, request, topics), now_ms)
        plan.reconcile(member_id, request.owned)
        records = plan.records()

        def answer() -> HeartbeatResult:
            here = self._groups[request.group]
            member = here.members[member_id]
            member.renew(now_s, polled=joins or request.polling)
            here.recheck()
            result = _result(here, member)
            if not records:
                member.request, member.answer = request, Completion.of(result)
            return result

        return self._write(records, answer)

    def _join(self, plan: Transition, group: Group, request: Heartbeat) -> MemberState:
        """A new member; with the instance id of another one it takes over that one's place and target."""
        target: frozenset[TopicPartition] = frozenset()
        if request.instance_id is not None:
            old = group.static.get(request.instance_id)
            if old is not None:
                target = group.members[old].state.target
                plan.remove(old)
        return MemberState(
            request.wanted_id or self._new_id(),
            request.instance_id,
            request.client_id,
            request.topics,
            request.assignors,
            request.session_timeout_s,
            request.max_poll_interval_s,
            request.remote,
            self._incarnation,
            0,
            {},
            target,
        )

    def _known(self, group: Group, request: Heartbeat) -> MemberState:
        member_id = request.member_id
        member = group.members.get(member_id)
        if member is not None and not member.state.away and request.member_epoch <= member.state.member_epoch:
            return member.state
        if request.instance_id is not None and group.static.get(request.instance_id, member_id) != member_id:
            raise errors.fenced(request.group, member_id, request.instance_id)
        raise errors.unknown_member(request.group, member_id)

    def leave(self, group: str, member_id: str, now_ms: int, now_s: float, *, force: bool = False) -> Completion[None]:
        """The member is gone and holds nothing. The others may have its partitions at once.

        The place of a static member is kept for its session timeout, unless `force`. Fails with
        UnknownMemberIdError, which a closing member may ignore.
        """
        try:
            self._require_ready()
            here = self._groups.get(group)
            member = here.members.get(member_id) if here is not None else None
            if here is None or member is None:
                raise errors.unknown_member(group, member_id)
            plan = Transition(here)
            stays = member.state.instance_id is not None and not force
            if not stays:
                plan.remove(member_id)
                plan.rebalance(here.state.counts, now_ms)
            elif not member.state.away:
                plan.keep_place(member_id)
        except StreamlogError as error:
            return Completion.failed(error)
        records = plan.records()

        def after() -> None:
            if stays and records:
                member.away_since(now_s)
            here.recheck()

        return self._write(records, after)

    def expire(self, now_s: float, now_ms: int) -> Completion[None]:
        """Evict whose poll interval or session is over. Cheap before `next_expiry_s`."""
        try:
            self._require_ready()
        except StreamlogError as error:
            return Completion.failed(error)
        done = []
        for group in list(self._groups.values()):
            if now_s < group.next_check_s:
                continue
            plan = Transition(group)
            for member_id in group.overdue(now_s):
                plan.remove(member_id)
            plan.rebalance(group.state.counts, now_ms)
            done.append(self._write(plan.records(), group.recheck))
        return gather(done)

    def next_expiry_s(self) -> float | None:
        """When `expire` should be called next (monotonic seconds, maybe early, never late), or None. O(groups)."""
        earliest = min((group.next_check_s for group in self._groups.values()), default=inf)
        return None if earliest == inf else earliest

    def metadata_changed(self, topics: Mapping[str, int], now_ms: int, now_s: float) -> Completion[None]:
        """Topics were created, deleted or have grown: `topics` has the counts of ALL that exist now.

        Groups that subscribe to one of them get a new target; offsets of topics that are not there any
        more are forgotten, which no promise rests on. O(members and offsets).
        """
        try:
            self._require_ready()
        except StreamlogError as error:
            return Completion.failed(error)
        done = []
        for group in list(self._groups.values()):
            plan = Transition(group)
            for member_id in group.overdue(now_s):
                plan.remove(member_id)
            plan.rebalance(topics, now_ms)
            gone = group.offsets.of_former_topics(self._current_id)
            done.append(self._write(plan.records() + group.offsets.forget(gone), group.recheck))
        return gather(done)

    # -- what a member can ask without the lock

    def changed(self, group: str, member_id: str, seen_version: int) -> bool:
        """Whether a heartbeat could bring anything new since the answer with `seen_version`. Needs no lock."""
        here = self._groups.get(group)
        return here is None or here.version != seen_version or member_id not in here.members or not self._ready

    def renew(self, group: str, member_id: str, seen_version: int, now_s: float) -> bool:
        """A poll instead of a heartbeat: if nothing changed and nobody is overdue, renew the deadlines.

        Returns False if the member should heartbeat instead. Needs no lock: it reads, and stores two floats.
        """
        here = self._groups.get(group)
        if here is None or here.version != seen_version or now_s >= here.next_check_s or not self._ready:
            return False
        member = here.members.get(member_id)
        if member is None or member.state.away:
            return False
        member.renew(now_s, polled=True)
        return True


def _counts(group: Group, request: Heartbeat, topics: Mapping[str, int]) -> dict[str, int]:
    """What is known of partition counts: of the request's topics from `topics`, of the others from the last target."""
    counts = {topic: number for topic, number in group.state.counts.items() if topic not in request.topics}
    counts.update((topic, topics[topic]) for topic in request.topics if topic in topics)
    return counts


def _result(group: Group, member: Member) -> HeartbeatResult:
    state = member.state
    return HeartbeatResult(
        state.member_id,
        state.member_epoch,
        member.held & state.target,
        member.held == state.target,
        None if group.next_check_s == inf else group.next_check_s,
        group.version,
    )
