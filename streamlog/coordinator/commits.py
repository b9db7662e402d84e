"""Requests about committed offsets: commit, read, delete, expire."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from ..errors import StreamlogError
from ..runtime.api import AllDone, Completion
from ..types import OffsetAndMetadata, TopicPartition
from . import errors
from .group import Group
from .groups import Groups
from .schema import LogRecord, group_key


class Lowered(NamedTuple):
    """A committed offset that is moved back from `before` to `after`, the end of the log."""

    group: str
    partition: TopicPartition
    before: int
    after: int


class OffsetMetadataManager:
    """The committed offsets of a shard's groups. Each belongs to a topic's id. See `shard.Shard` for the arguments."""

    def __init__(self, groups: Groups, retention_ms: int | None) -> None:
        self._groups = groups
        self._retention_ms = retention_ms

    def commit(
        self,
        group: str,
        member_id: str | None,
        member_epoch: int,
        offsets: Mapping[TopicPartition, OffsetAndMetadata],
        now_ms: int,
        topic_ids: Mapping[TopicPartition, bytes] | None = None,
        *,
        instance_id: str | None = None,
        by_epoch: bool = False,
        knows_epochs: bool = True,
        now_s: float | None = None,
    ) -> Completion[None]:
        """Commit for a member that has the partitions, or (`member_id` None) for a group without members. All or nothing.

        `topic_ids` are the ids of the topics that the offsets belong to; a partition without one belongs to the topic that
        has the name now. Fails with CommitFailedError if a topic was replaced by another one, if the member is not in the
        group, or if a partition is not the member's, or was lost and given back since `member_epoch`; for a member of a
        classic group as `ClassicGroup.check_commit` says. Without a member, it
        fails with GroupNotEmptyError if the group has any (Kafka: UnknownMemberId, which does not say why).

        `by_epoch`: Kafka's own rules, for its clients. The member's epoch counts, and any partition may be committed; with an
        older epoch, those that it has had since then (KIP-1251). Fails with UnknownMemberIdError and StaleMemberEpochError,
        and with GroupIdNotFoundError for an epoch in a group that does not exist. `instance_id` is compared in classic groups.
        Without `knows_epochs` the request has a generation: StaleMemberEpochError for a member that has epochs, whichever it gives.
        `now_s`: the session of a member of a classic group is renewed (real monotonic seconds).
        """
        try:
            self._groups.require_ready()
            here = self._groups.by_name.get(group)
            if by_epoch:
                if not knows_epochs and here is not None:
                    _require_generation(here, member_id)
                _check_epoch(here, group, member_id, member_epoch, instance_id, offsets, is_transactional=False)
            else:
                _check_owned(here or Group(group), member_id, member_epoch, offsets)
            records = self._records_of(here or Group(group), offsets, now_ms, topic_ids)
        except StreamlogError as error:
            return Completion.failed(error)
        if here is not None and here.classic is not None and member_id is not None and now_s is not None:
            here.classic.renew_by_commit(member_id, now_s)
        return self._groups.write(records, lambda: None)

    def commit_pending(
        self,
        producer_id: int,
        append: Callable[[Sequence[LogRecord]], Completion[int]],
        group: str,
        member_id: str | None,
        member_epoch: int,
        offsets: Mapping[TopicPartition, OffsetAndMetadata],
        now_ms: int,
        topic_ids: Mapping[TopicPartition, bytes] | None = None,
        *,
        instance_id: str | None = None,
        by_epoch: bool = False,
    ) -> Completion[None]:
        """`commit` in the transaction of a producer: it counts from the marker of that on. `append` writes the records as the producer's.

        As in Kafka it may name no member though the group has some: clients of before KIP-447 do not, for their transactional ids
        fence those that lost the partitions.
        """
        try:
            self._groups.require_ready()
            here = self._groups.by_name.get(group)
            if by_epoch:
                _check_epoch(here, group, member_id, member_epoch, instance_id, offsets, is_transactional=True)
            elif member_id is not None:
                _check_owned(here or Group(group), member_id, member_epoch, offsets)
            records = self._records_of(here or Group(group), offsets, now_ms, topic_ids)
        except StreamlogError as error:
            return Completion.failed(error)
        groups = self._groups
        return groups.write_so(
            lambda: append(records), lambda: groups.replay_pending(producer_id, records), len(records), lambda: None
        )

    def end_transaction(
        self, producer_id: int, commit: bool, append: Callable[[], Completion[int]]
    ) -> Completion[None]:
        """`append` writes the marker of a producer's transaction: what was committed in it counts, or is forgotten."""
        groups = self._groups
        try:
            groups.require_ready()
        except StreamlogError as error:
            return Completion.failed(error)
        return groups.write_so(append, lambda: groups.replay_end(producer_id, commit), 1, lambda: None)

    def _records_of(
        self,
        group: Group,
        offsets: Mapping[TopicPartition, OffsetAndMetadata],
        now_ms: int,
        topic_ids: Mapping[TopicPartition, bytes] | None,
    ) -> list[LogRecord]:
        """The records of a commit. Raises CommitFailedError if a topic was replaced by another one."""
        ids = self._ids_of(group.name, offsets, topic_ids or {})
        return group.offsets.commit(offsets, ids, now_ms)

    def require_member(self, group: str, member_id: str, member_epoch: int) -> None:
        """Raises UnknownMemberIdError, StaleMemberEpochError or IllegalGenerationError if the group has members, and that is none of
        them in this epoch. Those of a classic group are not looked at, as in Kafka.
        """
        self._groups.require_ready()
        here = self._groups.by_name.get(group)
        if here is not None and here.members and here.classic is None:
            check_member_epoch(here, member_id, member_epoch, None)

    def require_stable(self, group: str, partitions: Iterable[TopicPartition] | None) -> None:
        """Raises UnstableOffsetCommitError if a transaction has committed offsets for one of these, or any, and is not decided."""
        here = self._groups.by_name.get(group)
        unstable = [] if here is None else here.offsets.unstable(partitions)
        if unstable:
            raise errors.unstable(group, unstable)

    def _ids_of(
        self, group: str, partitions: Iterable[TopicPartition], sent: Mapping[TopicPartition, bytes]
    ) -> dict[TopicPartition, bytes]:
        """The topic ids to commit for. Raises CommitFailedError if one is not the id of the topic that has the name now."""
        ids: dict[TopicPartition, bytes] = {}
        former: list[TopicPartition] = []
        for partition in partitions:
            current = self._groups.topic_id(partition[0])
            if current is None or current != sent.get(partition, current):
                former.append(partition)
            else:
                ids[partition] = current
        if former:
            raise errors.other_topic(group, sorted(former))
        return ids

    def committed(
        self,
        group: str,
        partitions: Iterable[TopicPartition] | None = None,
        topic_ids: Mapping[TopicPartition, bytes] | None = None,
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        """The committed positions of `partitions`, or of all. Partitions without a commit are absent.

        So are those whose commit belongs to another topic than that of `topic_ids`, or, where that has none, than the topic
        that has the name now.
        """
        self._groups.require_ready()
        here = self._groups.by_name.get(group)
        if here is None:
            return {}
        if topic_ids is None:
            return here.offsets.committed(partitions, self._groups.current_id)
        wanted = topic_ids
        return here.offsets.committed(
            partitions, lambda partition: wanted.get(partition) or self._groups.current_id(partition)
        )

    def beyond(self, ends: Mapping[TopicPartition, int]) -> list[Lowered]:
        """The offsets that `lower_offsets` would move."""
        self._groups.require_ready()
        return [
            Lowered(group.name, partition, state.offset, ends[partition])
            for group in self._groups.by_name.values()
            for partition, state in group.offsets.beyond(ends, self._groups.current_id).items()
        ]

    def lower_offsets(self, ends: Mapping[TopicPartition, int]) -> Completion[list[Lowered]]:
        """Move offsets past the end of their log back to that end: those records are lost, and others will get their offsets.

        All or nothing, in one append.
        """
        try:
            lowered = self.beyond(ends)
        except StreamlogError as error:
            return Completion.failed(error)
        records = [self._groups.by_name[each.group].offsets.lower(each.partition, each.after) for each in lowered]
        return self._groups.write(records, lambda: lowered)

    def delete_offsets(
        self, group: str, partitions: Iterable[TopicPartition]
    ) -> Completion[dict[TopicPartition, StreamlogError]]:
        """Delete the offsets of `partitions` (KIP-496); the result has those that were refused, and why.

        Refused with GroupSubscribedToTopicError are partitions of topics that a member subscribes to. A partition without an
        offset is deleted already. Fails with GroupIdNotFoundError, and with GroupNotEmptyError for the members of a protocol
        other than "consumer", of which it is not known what they read.
        """
        try:
            self._groups.require_ready()
            here = self._groups.existing(group)
            if here.reads_unknown_topics:
                here.require_empty("delete offsets of")
        except StreamlogError as error:
            return Completion.failed(error)
        wanted = [TopicPartition(*partition) for partition in partitions]
        topics = here.subscribed_topics
        refused: dict[TopicPartition, StreamlogError] = {
            each: errors.subscribed(group, each) for each in wanted if each.topic in topics
        }
        return self._groups.write(here.offsets.forget(each for each in wanted if each not in refused), lambda: refused)

    def expire_offsets(self, now_ms: int) -> Completion[None]:
        """Delete offsets and groups whose retention is over, and offsets of topics that do not exist any more."""
        try:
            self._groups.require_ready()
        except StreamlogError as error:
            return Completion.failed(error)
        done = [self.forget_former_topics()]
        retention_ms = self._retention_ms
        if retention_ms is None:
            return done[0]
        for group in list(self._groups.by_name.values()):
            if group.reads_unknown_topics:
                continue
            empty_since_ms = group.state.empty_since_ms
            due = [
                partition
                for partition, deadline_ms in group.offsets.deadlines(
                    group.subscribed_topics, empty_since_ms, retention_ms
                )
                if deadline_ms <= now_ms
            ]
            records = group.offsets.forget(due)
            over = empty_since_ms is not None and empty_since_ms + retention_ms <= now_ms
            if over and len(due) == len(group.offsets.by_partition):
                records.append((group_key(group.name), None))
            done.append(self._groups.write(records, lambda: None))
        return AllDone(done)

    def forget_former_topics(self) -> Completion[None]:
        """Delete the offsets of topics that do not exist any more. They are ignored anyway, so nothing depends on when."""
        try:
            self._groups.require_ready()
        except StreamlogError as error:
            return Completion.failed(error)
        records: list[LogRecord] = []
        for group in self._groups.by_name.values():
            records += group.offsets.forget(group.offsets.of_former_topics(self._groups.current_id))
        return self._groups.write(records, lambda: None)

    def next_offset_expiry_ms(self) -> int | None:
        """When `expire_offsets` will next have something to delete (log clock, ms), or None. O(offsets)."""
        retention_ms = self._retention_ms
        if retention_ms is None:
            return None
        earliest: list[int] = []
        for group in self._groups.by_name.values():
            if group.reads_unknown_topics:
                continue
            empty_since_ms = group.state.empty_since_ms
            deadlines = [at for _, at in group.offsets.deadlines(group.subscribed_topics, empty_since_ms, retention_ms)]
            if deadlines:
                earliest.append(min(deadlines))
            elif empty_since_ms is not None:
                earliest.append(empty_since_ms + retention_ms)
        return min(earliest, default=None)


def _check_owned(
    group: Group, member_id: str | None, member_epoch: int, offsets: Mapping[TopicPartition, OffsetAndMetadata]
) -> None:
    if member_id is None:
        group.require_empty("set offsets of")
        return
    if group.classic is not None:  # its clients alone know which member has which partition
        group.classic.check_commit(member_id, None, member_epoch)
        return
    member = group.members.get(member_id)
    if member is None or member.state.away:
        raise errors.not_a_member(group.name, member_id)
    if member.state.is_classic and member_epoch != member.state.member_epoch:
        raise errors.illegal_generation(group.name, member_id, member_epoch, member.state.member_epoch)
    given = member.state.given
    lost = sorted(tp for tp in offsets if tp not in given or member_epoch < given[tp])
    if lost:
        raise errors.not_owned(group.name, member_id, lost)


def _require_generation(group: Group, member_id: str | None) -> None:
    """Raises StaleMemberEpochError for a member of the newer protocol."""
    member = group.members.get(member_id or "")
    if group.classic is None and member is not None and not member.state.is_classic:
        raise errors.has_epochs(group.name, member.state.member_id)


def _check_epoch(
    here: Group | None,
    name: str,
    member_id: str | None,
    member_epoch: int,
    instance_id: str | None,
    offsets: Mapping[TopicPartition, OffsetAndMetadata],
    *,
    is_transactional: bool,
) -> None:
    """The rules of Kafka's coordinator. A negative epoch, and no member, is that of a client that assigns to itself."""
    if here is None or not here.exists:
        if member_epoch >= 0:
            raise errors.no_group(name)
        return
    if member_epoch < 0 and not here.member_ids:
        return
    if not member_id and member_epoch < 0 and instance_id is None:
        if not is_transactional:
            here.require_empty("set offsets of")
        return
    member_id = member_id or ""
    if here.classic is not None:
        here.classic.check_commit(member_id, instance_id, member_epoch, is_transactional=is_transactional)
        return
    check_member_epoch(here, member_id, member_epoch, offsets)


def check_member_epoch(
    group: Group, member_id: str, member_epoch: int, partitions: Iterable[TopicPartition] | None
) -> None:
    """Raises UnknownMemberIdError, IllegalGenerationError, StaleMemberEpochError unless this is the epoch of the member.

    An older one of the newer protocol will do for partitions that it was given no later. REQUIRES: no classic group.
    """
    member = group.members.get(member_id)
    if member is None:
        raise errors.unknown_member(group.name, member_id)
    current, given = member.state.member_epoch, member.state.given
    if member_epoch == current and not member.state.away:
        return
    if member.state.is_classic:
        raise errors.illegal_generation(group.name, member_id, member_epoch, current)
    may_be_older = partitions is not None and not member.state.away and member_epoch < current
    if not may_be_older or any(given.get(each, current) > member_epoch for each in partitions or ()):
        raise errors.stale_epoch(group.name, member_id, member_epoch, current)
