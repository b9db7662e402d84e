"""The door of the coordinator. Requests of members are in `members`, those about offsets in `commits`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import StreamlogError
from ..runtime.api import Completion
from ..types import TopicPartition
from . import errors
from .check import check_group
from .commits import OffsetRequests
from .group import Group
from .members import MemberRequests
from .messages import GroupDescription, Heartbeat, HeartbeatResult
from .schema import CommittedOffset, GroupState, LogRecord, MemberState, group_key

__all__ = ["DEFAULT_OFFSETS_RETENTION_MS", "GroupDescription", "Heartbeat", "HeartbeatResult", "Shard"]

DEFAULT_OFFSETS_RETENTION_MS = 7 * 24 * 60 * 60 * 1000


class Shard(MemberRequests, OffsetRequests):
    """All groups whose records live in one partition of the internal log.

    `topic_id` gives the id of the topic that bears a name now, None if there is none; it is asked under the shard's
    lock, so an answer is never older than a commit that was taken before. `append` takes records for that partition and returns a Completion that is done when they count as
    written; it may also raise. `incarnation` names this opening of the log: members of another one are
    gone, and `loaded` removes them. `offsets_retention_ms` None keeps offsets for ever. `new_id` makes a
    member id never used before.

    The caller holds the shard's lock for every call but `changed` and `renew`, and calls what
    `take_wakeups` returns after leaving it. An error comes in the Completion, and then nothing changed;
    methods that return no Completion raise. Until `loaded`, and after `unload`, everything fails with
    NotLeaderError, which is retriable.

    >>> log = []
    >>> append = lambda records: (log.extend(records), Completion.of(0))[1]
    >>> shard = Shard(append, lambda topic: topic.encode(), incarnation="1", new_id=lambda: "m")
    >>> shard.loaded(now_ms=0, now_s=0.0).done()
    True
    >>> join = Heartbeat("billing", "", 0, None, None, frozenset({"orders"}), ("range",), frozenset(), 45.0, 300.0)
    >>> sorted(shard.heartbeat(join, {"orders": 2}, 0, 0.0).result().assignment)
    [TopicPartition(topic='orders', partition=0), TopicPartition(topic='orders', partition=1)]
    """

    def __init__(
        self,
        append: Callable[[Sequence[LogRecord]], Completion[int]],
        topic_id: Callable[[str], bytes | None],
        *,
        incarnation: str,
        offsets_retention_ms: int | None = DEFAULT_OFFSETS_RETENTION_MS,
        new_id: Callable[[], str],
    ) -> None:
        super().__init__(append, topic_id)
        self._incarnation = incarnation
        self._retention_ms = offsets_retention_ms
        self._new_id = new_id

    # -- groups

    def describe(self, group: str) -> GroupDescription:
        """State, epoch and members; an unknown group is `Dead` and has none."""
        self._require_ready()
        return (self._groups.get(group) or Group(group)).describe()

    def list_groups(self) -> list[str]:
        """Names of the groups that have members, offsets, or had members not too long ago; sorted."""
        self._require_ready()
        return sorted(self._groups)

    def delete_group(self, group: str) -> Completion[None]:
        """Forget a group and its offsets. Fails with GroupNotEmptyError or GroupIdNotFoundError."""
        try:
            self._require_ready()
            here = self._existing(group)
            if here.members:
                raise errors.not_empty(here, "delete")
        except StreamlogError as error:
            return Completion.failed(error)
        records = here.offsets.forget(list(here.offsets.by_partition))
        if here.recorded:
            records.append((group_key(group), None))
        return self._write(records, lambda: None)

    # -- for tests

    def check(self) -> None:
        """Assert every invariant of every group."""
        for group in self._groups.values():
            check_group(group)

    def snapshot(self) -> dict[str, tuple[GroupState, dict[str, MemberState], dict[TopicPartition, CommittedOffset]]]:
        """All that the log says, by group: equal before and after a replay."""
        return {
            name: (
                group.state,
                {member_id: member.state for member_id, member in group.members.items()},
                dict(group.offsets.by_partition),
            )
            for name, group in self._groups.items()
        }
