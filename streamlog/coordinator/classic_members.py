"""Requests of the members of classic groups: their answers, and what is written."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import StreamlogError
from ..runtime.api import Completion
from . import errors
from .classic import COMPLETING, STABLE, ClassicGroup
from .group import Group
from .groups import Groups
from .messages import ClassicGroupConfig, JoinGroup, JoinGroupResult, MemberIdentity, SyncGroup, SyncGroupResult
from .transition import Transition

logger = logging.getLogger("streamlog.coordinator")


class ClassicGroupManager:
    """The classic groups of a shard. See `shard.Shard` for the arguments, and `classic` for the rules.

    An answer that is parked is a Completion that is done later, by what `take_wakeups` returns: once the barrier has ended, and
    once what it depends on counts as written. `expire` ends each barrier in time; an unloading of the shard fails the answers.
    """

    def __init__(self, groups: Groups, incarnation: str, new_id: Callable[[], str]) -> None:
        self._groups = groups
        self._incarnation = incarnation
        self._new_id = new_id

    def join_group(
        self, request: JoinGroup, config: ClassicGroupConfig, now_ms: int, now_s: float
    ) -> Completion[JoinGroupResult]:
        """Join, or join again: done when the rebalance has all members, or its time is up.

        Fails with MemberIdRequiredError, UnknownMemberIdError (join with an empty id), InconsistentGroupProtocolError,
        FencedInstanceIdError, GroupMaxSizeReachedError, InvalidSessionTimeoutError, InvalidGroupIdError; with
        RebalanceInProgressError if the member has sent another JoinGroup meanwhile.
        """
        answer: Completion[JoinGroupResult] = Completion()
        try:
            self._groups.require_ready()
            check_join(request, config)
            group = self._groups.by_name.get(request.group)
            if group is None:
                if request.member_id:
                    raise errors.unknown_member(request.group, request.member_id)
                group = Group(request.group)
        except StreamlogError as error:
            return Completion.failed(error)
        classic = group.classic
        if classic is None:
            classic = group.classic = ClassicGroup(request.group, group.state.epoch, group.pending)
            self._groups.by_name[request.group] = group
        state = classic.state
        try:
            classic.join(request, answer, self._new_id, config, now_s)
        except StreamlogError as error:
            answer.fail(error)
        if state != classic.state:
            logger.info("group %r rebalances: member %r joins (%s)", group.name, request.member_id, request.reason)
        self._finish(group, now_ms, now_s, answer)
        return answer

    def sync_group(self, request: SyncGroup, now_ms: int, now_s: float) -> Completion[SyncGroupResult]:
        """What the member was assigned: done when the leader of its generation has sent that, and it counts as written.

        Fails with UnknownMemberIdError, IllegalGenerationError, RebalanceInProgressError (join again), FencedInstanceIdError,
        InconsistentGroupProtocolError.
        """
        answer: Completion[SyncGroupResult] = Completion()
        try:
            group, classic = self._existing(request.group, request.member_id)
            classic.sync(request, answer, now_s)
        except StreamlogError as error:
            return Completion.failed(error)
        self._finish(group, now_ms, now_s, answer)
        return answer

    def heartbeat(
        self, group: str, member_id: str, instance_id: str | None, generation_id: int, now_s: float
    ) -> Completion[None]:
        """Fails with RebalanceInProgressError where the member is to join again, and otherwise as `sync_group`."""
        try:
            here, classic = self._existing(group, member_id)
            classic.heartbeat(member_id, instance_id, generation_id, now_s)
        except StreamlogError as error:
            return Completion.failed(error)
        here.next_check_s = classic.next_check_s
        return Completion.of(None)

    def leave_group(
        self, group: str, members: Sequence[MemberIdentity], now_ms: int, now_s: float
    ) -> Completion[list[StreamlogError | None]]:
        """The error of each member, or None: it has left, and the others are to join again."""
        try:
            self._groups.require_ready()
        except StreamlogError as error:
            return Completion.failed(error)
        here = self._groups.by_name.get(group)
        if here is None or here.classic is None:
            return Completion.of([errors.unknown_member(group, each.member_id) for each in members])
        left = here.classic.leave(members, now_s)
        for each in members:
            logger.info("member %r leaves group %r (%s)", each.member_id, group, each.reason)
        answer: Completion[list[StreamlogError | None]] = Completion()
        here.classic.answers.append((answer, left, None))
        self._finish(here, now_ms, now_s, answer)
        return answer

    def rebalance(self, group: Group, now_ms: int, now_s: float) -> Completion[None]:
        """Have the members join again, unless they are to do so already."""
        assert group.classic is not None
        answer: Completion[None] = Completion()
        if group.classic.state in (COMPLETING, STABLE):
            logger.info("group %r rebalances: a test or an administrator wants it", group.name)
            group.classic.prepare_rebalance(now_s)
        group.classic.answers.append((answer, None, None))
        self._finish(group, now_ms, now_s, answer)
        return answer

    def expire(self, group: Group, now_ms: int, now_s: float) -> Completion[None]:
        """See `ClassicGroup.expire`."""
        assert group.classic is not None
        answer: Completion[None] = Completion()
        group.classic.expire(now_s)
        group.classic.answers.append((answer, None, None))
        self._finish(group, now_ms, now_s, answer)
        return answer

    def restore(self, group: Group, now_s: float) -> None:
        """The group as the log has it: see `ClassicGroup.restored`."""
        group.forget_deadlines()
        members = [member.state for member in group.members.values()]
        group.classic = ClassicGroup.restored(group.name, group.state, members, group.pending, now_s)
        group.next_check_s = group.classic.next_check_s

    def _existing(self, group: str, member_id: str) -> tuple[Group, ClassicGroup]:
        self._groups.require_ready()
        here = self._groups.by_name.get(group)
        if here is None or here.classic is None:
            raise errors.unknown_member(group, member_id)
        return here, here.classic

    def _finish(self, group: Group, now_ms: int, now_s: float, own: Completion[Any]) -> None:
        """Write what is to be written, and see that the answers are given: `own`, which the caller returns, at once if it can be."""
        classic = group.classic
        assert classic is not None
        records = []
        if classic.unwritten:
            transition = Transition(group)
            transition.be_classic(*classic.written(self._incarnation, now_ms))
            records = transition.records()
        answers = classic.take_answers()
        written = self._groups.write(records, lambda: None)
        failed = written.error() if written.done() else None
        if failed is None:
            classic.unwritten = False
        elif classic.unwritten:
            classic.write_failed(now_s)
            answers = [(answer, value, error or failed) for answer, value, error in answers] + classic.take_answers()
        for answer, value, error in answers:
            self._groups.deliver(answer, value, error, written, now=answer is own)
        group.next_check_s = classic.next_check_s
        if not classic.members and not classic.unwritten:
            group.classic = None
            group.recheck()
            self._groups.forget_unknown(group)


def check_join(request: JoinGroup, config: ClassicGroupConfig) -> None:
    """Raises InvalidGroupIdError, InvalidSessionTimeoutError."""
    if not request.group:
        raise errors.no_name()
    timeout_ms = round(request.session_timeout_s * 1000)
    least_ms, most_ms = config.min_session_timeout_ms, config.max_session_timeout_ms
    if not least_ms <= timeout_ms <= most_ms:
        raise errors.session_timeout(request.group, timeout_ms, least_ms, most_ms)
