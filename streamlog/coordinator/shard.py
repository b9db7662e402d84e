"""`Shard`: every request to the coordinator. Those of members are in `members`, those about offsets in `commits`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import TypeVar

from ..errors import StreamlogError
from ..runtime.api import Completion
from ..types import TopicPartition
from .check import check_group
from .classic_members import ClassicGroupManager
from .commits import OffsetMetadataManager
from .group import Group
from .groups import Groups
from .members import GroupMetadataManager
from .messages import GroupDescription, GroupListing, Heartbeat, HeartbeatResult
from .mixed import ClassicProtocolManager
from .schema import CommittedOffset, GroupState, LogRecord, MemberState, group_key

T = TypeVar("T")

__all__ = ["DEFAULT_OFFSETS_RETENTION_MS", "GroupDescription", "GroupListing", "Heartbeat", "HeartbeatResult", "Shard"]

DEFAULT_OFFSETS_RETENTION_MS = 7 * 24 * 60 * 60 * 1000


class Shard:
    """All groups whose records live in one partition of the internal log.

    `append` takes records for that partition and returns a Completion that is done when they count as written; it may also
    raise. `topic_id` gives the id of the topic that has a name now, or None; it is called under the shard's lock, so an answer
    is never older than a commit that was taken before. `incarnation` names this opening of the log: members of another one
    are gone, and `loaded` removes them. `offsets_retention_ms` None keeps offsets for ever. `new_id` makes a member id that was
    never used before. A member that joins a group of fewer than `small_group` members gets its target in the answer, in a
    larger one at the next heartbeat of any member; and so it is with the partitions of one that leaves.

    The caller holds the shard's lock for every call but `renew`, and calls what `take_wakeups` returns after releasing it. A
    request fails through its Completion, and then nothing has changed; methods that return no Completion raise. Before
    `loaded` everything fails with CoordinatorLoadInProgressError, after `resign` with NotCoordinatorError; both are retriable.
    Elected again, it is loaded again: `elect`, `replay`, `loaded`.

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
        small_group: int = 16,
    ) -> None:
        groups = self._groups = Groups(append, topic_id)
        self.replay = groups.replay
        self.replay_pending = groups.replay_pending
        self.replay_end = groups.replay_end
        self.elect = groups.elect
        self.resign = groups.resign
        self.watch = groups.watch
        self.unwatch = groups.unwatch
        self.take_wakeups = groups.take_wakeups
        self.abandon = groups.abandon
        classic = ClassicGroupManager(groups, incarnation, new_id)
        members = GroupMetadataManager(groups, classic, incarnation, new_id, small_group)
        protocol = ClassicProtocolManager(groups, classic, members, new_id)
        self.join_group = protocol.join_group
        self.sync_group = protocol.sync_group
        self.classic_heartbeat = protocol.heartbeat
        self.leave_classic_group = protocol.leave_group
        self.loaded = members.loaded
        self.heartbeat = members.heartbeat
        self.renew = members.renew
        self.leave = members.leave
        self.rebalance = members.rebalance
        self.expire = members.expire
        self.next_expiry_s = members.next_expiry_s
        self.metadata_changed = members.metadata_changed
        offsets = OffsetMetadataManager(groups, offsets_retention_ms)
        self.commit = offsets.commit
        self.commit_pending = offsets.commit_pending
        self.end_transaction = offsets.end_transaction
        self.require_stable = offsets.require_stable
        self.require_member = offsets.require_member
        self.committed = offsets.committed
        self.beyond = offsets.beyond
        self.lower_offsets = offsets.lower_offsets
        self.delete_offsets = offsets.delete_offsets
        self.expire_offsets = offsets.expire_offsets
        self.forget_former_topics = offsets.forget_former_topics
        self.next_offset_expiry_ms = offsets.next_offset_expiry_ms

    @property
    def ready(self) -> bool:
        """Whether requests are answered. False before `loaded`, and when the log has to be replayed again."""
        return self._groups.runtime.ready

    @property
    def written(self) -> int:
        """See `CoordinatorRuntime.written`."""
        return self._groups.runtime.written

    @property
    def may_have_parked(self) -> bool:
        return self._groups.may_have_parked

    def settled(self, value: T) -> Completion[T]:
        """Done with `value`, something that was read here, once all that it may depend on counts as written.

        Until then a failover may take it back. Fails as an append does that fails later: then it is to be read again. (In Kafka the
        coordinator of the new protocol answers with the last state that is replicated, KIP-848. Here a read waits: what was
        written before it is in the answer.)
        """
        return self._groups.write((), lambda: value)

    # -- groups

    def describe(self, group: str) -> GroupDescription:
        """State, epoch and members; an unknown group is `Dead` and has none."""
        self._groups.require_ready()
        return (self._groups.by_name.get(group) or Group(group)).describe()

    def is_classic(self, group: str) -> bool:
        """Whether it has members, and all use the classic protocol."""
        here = self._groups.by_name.get(group)
        return here is not None and here.is_classic

    def next_check_s(self, group: str) -> float:
        """When to call `expire` for this group: real monotonic seconds."""
        here = self._groups.by_name.get(group)
        return inf if here is None else here.next_check_s

    def list_groups(self, states: Iterable[str] = (), types: Iterable[str] = ()) -> list[GroupListing]:
        """The groups that have members or offsets, or had members until not long ago, by name.

        `states` and `types` are those wanted, in any case of letters; none is all. Unknown ones match nothing.
        """
        self._groups.require_ready()
        wanted_states, wanted_types = ({name.lower() for name in names} for names in (states, types))
        return [
            listing
            for listing in (group.listing() for _, group in sorted(self._groups.by_name.items()))
            if not wanted_states or listing.state.lower() in wanted_states
            if not wanted_types or listing.type.lower() in wanted_types
        ]

    def delete_group(self, group: str) -> Completion[None]:
        """Delete a group and its offsets. Fails with GroupNotEmptyError or GroupIdNotFoundError."""
        try:
            self._groups.require_ready()
            here = self._groups.existing(group)
            here.require_empty("delete")
        except StreamlogError as error:
            return Completion.failed(error)
        records = here.offsets.forget(here.offsets.partitions)
        if here.recorded:
            records.append((group_key(group), None))
        return self._groups.write(records, lambda: None)

    # -- for tests

    def check(self) -> None:
        """Assert every invariant of every group."""
        for group in self._groups.by_name.values():
            check_group(group)

    def snapshot(self) -> dict[str, tuple[GroupState, dict[str, MemberState], dict[TopicPartition, CommittedOffset]]]:
        """Everything that the log says, by group: equal before and after a replay."""
        return {
            name: (
                group.state,
                {member_id: member.state for member_id, member in group.members.items()},
                dict(group.offsets.by_partition),
            )
            for name, group in self._groups.by_name.items()
            if group.is_logged
        }
