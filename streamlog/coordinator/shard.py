"""`Shard`: every request to the coordinator. Those of members are in `members`, those about offsets in `commits`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..errors import StreamlogError
from ..runtime.api import Completion
from ..types import TopicPartition
from . import errors
from .check import check_group
from .commits import OffsetMetadataManager
from .group import Group
from .members import GroupMetadataManager
from .messages import GroupDescription, GroupListing, Heartbeat, HeartbeatResult
from .runtime import CoordinatorRuntime
from .schema import CommittedOffset, GroupState, LogRecord, MemberState, group_key

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
        runtime = self._runtime = CoordinatorRuntime(append, topic_id)
        self.replay = runtime.replay
        self.elect = runtime.elect
        self.resign = runtime.resign
        self.watch = runtime.watch
        self.unwatch = runtime.unwatch
        self.take_wakeups = runtime.take_wakeups
        members = GroupMetadataManager(runtime, incarnation, new_id, small_group)
        self.loaded = members.loaded
        self.heartbeat = members.heartbeat
        self.renew = members.renew
        self.leave = members.leave
        self.expire = members.expire
        self.next_expiry_s = members.next_expiry_s
        self.metadata_changed = members.metadata_changed
        offsets = OffsetMetadataManager(runtime, offsets_retention_ms)
        self.commit = offsets.commit
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
        return self._runtime.ready

    @property
    def written(self) -> int:
        """See `CoordinatorRuntime.written`."""
        return self._runtime.written

    # -- groups

    def describe(self, group: str) -> GroupDescription:
        """State, epoch and members; an unknown group is `Dead` and has none."""
        self._runtime.require_ready()
        return (self._runtime.groups.get(group) or Group(group)).describe()

    def list_groups(self, states: Iterable[str] = (), types: Iterable[str] = ()) -> list[GroupListing]:
        """The groups that have members or offsets, or had members until not long ago, by name.

        `states` and `types` are those wanted, in any case of letters; none is all. Unknown ones match nothing.
        """
        self._runtime.require_ready()
        wanted_states, wanted_types = ({name.lower() for name in names} for names in (states, types))
        return [
            listing
            for listing in (group.listing() for _, group in sorted(self._runtime.groups.items()))
            if not wanted_states or listing.state.lower() in wanted_states
            if not wanted_types or listing.type.lower() in wanted_types
        ]

    def delete_group(self, group: str) -> Completion[None]:
        """Delete a group and its offsets. Fails with GroupNotEmptyError or GroupIdNotFoundError."""
        try:
            self._runtime.require_ready()
            here = self._runtime.existing(group)
            if here.members:
                raise errors.not_empty(here, "delete")
        except StreamlogError as error:
            return Completion.failed(error)
        records = here.offsets.forget(list(here.offsets.by_partition))
        if here.recorded:
            records.append((group_key(group), None))
        return self._runtime.write(records, lambda: None)

    # -- for tests

    def check(self) -> None:
        """Assert every invariant of every group."""
        for group in self._runtime.groups.values():
            check_group(group)

    def snapshot(self) -> dict[str, tuple[GroupState, dict[str, MemberState], dict[TopicPartition, CommittedOffset]]]:
        """Everything that the log says, by group: equal before and after a replay."""
        return {
            name: (
                group.state,
                {member_id: member.state for member_id, member in group.members.items()},
                dict(group.offsets.by_partition),
            )
            for name, group in self._runtime.groups.items()
        }
