"""Requests about committed offsets: commit, read, delete, expire."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..errors import StreamlogError
from ..runtime.api import Completion
from ..types import OffsetAndMetadata, TopicPartition
from . import refusals
from .group import Group
from .ledger import Ledger, gather
from .schema import group_key


class OffsetRequests(Ledger):
    """The part of a shard that knows committed offsets."""

    _retention_ms: int | None

    def commit(
        self,
        group: str,
        member_id: str | None,
        member_epoch: int,
        offsets: Mapping[TopicPartition, OffsetAndMetadata],
        now_ms: int,
    ) -> Completion[None]:
        """Commit for a member that has the partitions, or (`member_id` None) for a group without members.

        All or nothing. Fails with CommitFailedError if the member is not in the group or a partition is
        not its own, or was lost and given back since `member_epoch`; without a member, with
        GroupNotEmptyError while the group has any (Kafka says UnknownMemberId there, which hides why).
        """
        try:
            self._require_ready()
            here = self._groups.get(group) or Group(group)
            if member_id is not None:
                _check_owned(here, member_id, member_epoch, offsets)
            elif here.members:
                raise refusals.not_empty(here, "set offsets of")
        except StreamlogError as error:
            return Completion.failed(error)
        return self._write(here.offsets.commit(offsets, now_ms), lambda: None)

    def committed(
        self, group: str, partitions: Iterable[TopicPartition] | None = None
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        """The committed positions of `partitions`, or of all. What was never committed is absent."""
        self._require_ready()
        here = self._groups.get(group)
        return here.offsets.committed(partitions) if here is not None else {}

    def delete_offsets(self, group: str, partitions: Iterable[TopicPartition]) -> Completion[None]:
        """Forget the offsets of `partitions`.

        Fails with GroupNotEmptyError while a member subscribes to a topic of theirs, GroupIdNotFoundError.
        """
        try:
            self._require_ready()
            here = self._existing(group)
            wanted = [TopicPartition(*partition) for partition in partitions]
            if here.subscribed.intersection(partition.topic for partition in wanted):
                raise refusals.not_empty(here, "delete offsets of")
        except StreamlogError as error:
            return Completion.failed(error)
        return self._write(here.offsets.forget(wanted), lambda: None)

    def expire_offsets(self, now_ms: int) -> Completion[None]:
        """Forget offsets, and groups, that have outlived the retention."""
        try:
            self._require_ready()
        except StreamlogError as error:
            return Completion.failed(error)
        retention_ms = self._retention_ms
        if retention_ms is None:
            return Completion.of(None)
        done = []
        for group in list(self._groups.values()):
            empty_since_ms = group.state.empty_since_ms
            due = [
                partition
                for partition, deadline_ms in group.offsets.deadlines(group.subscribed, empty_since_ms, retention_ms)
                if deadline_ms <= now_ms
            ]
            records = group.offsets.forget(due)
            over = empty_since_ms is not None and empty_since_ms + retention_ms <= now_ms
            if over and len(due) == len(group.offsets.by_partition):
                records.append((group_key(group.name), None))
            done.append(self._write(records, lambda: None))
        return gather(done)

    def next_offset_expiry_ms(self) -> int | None:
        """When `expire_offsets` will next have something to do (log clock, ms), or None. O(offsets)."""
        retention_ms = self._retention_ms
        if retention_ms is None:
            return None
        earliest: list[int] = []
        for group in self._groups.values():
            empty_since_ms = group.state.empty_since_ms
            deadlines = [at for _, at in group.offsets.deadlines(group.subscribed, empty_since_ms, retention_ms)]
            if deadlines:
                earliest.append(min(deadlines))
            elif empty_since_ms is not None:
                earliest.append(empty_since_ms + retention_ms)
        return min(earliest, default=None)


def _check_owned(
    group: Group, member_id: str, member_epoch: int, offsets: Mapping[TopicPartition, OffsetAndMetadata]
) -> None:
    member = group.members.get(member_id)
    if member is None or member.state.away:
        raise refusals.not_a_member(group.name, member_id)
    given = member.state.given
    lost = sorted(tp for tp in offsets if tp not in given or member_epoch < given[tp])
    if lost:
        raise refusals.not_owned(group.name, member_id, lost)
