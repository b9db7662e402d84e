"""Consumer groups: a shard for each partition of the groups' internal topic.

The topic is created with the first group, so a log without groups has none. The hash of a group's name says which shard has the
group, as in Kafka.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence

from ..coordinator import GroupDescription, GroupListing, Heartbeat, HeartbeatResult
from ..coordinator.messages import JoinGroup, JoinGroupResult, MemberIdentity, SyncGroup, SyncGroupResult
from ..coordinator.transaction import ProducerIdAndEpoch
from ..errors import NotLeaderError, StreamlogError
from ..replication.transactions import TransactionMarker
from ..runtime.api import AllDone, Completion, Lock
from ..runtime.values import refuse_to_copy
from ..types import OffsetAndMetadata, TopicPartition
from .controller import GROUPS_TOPIC
from .group_shard import GroupShard, Host


class GroupCoordinator:
    """All groups of a broker. Thread-safe. A request for a group that another broker coordinates fails with NotCoordinatorError."""

    __reduce_ex__ = refuse_to_copy

    def __init__(self, host: Host, new_lock: Callable[[], Lock]) -> None:
        self._host = host
        self._new_lock = new_lock
        self.shards: dict[int, GroupShard] = {0: GroupShard(host, 0, new_lock())}
        self._follow_leaders()

    def _of(self, group: str) -> GroupShard:
        shards = self.shards
        return shards[partition_for(group, len(shards))]

    def _follow_leaders(self) -> None:
        """Have a shard for each partition of the groups' topic; elect those that this broker leads, resign the others."""
        view = self._host.image.topics.get(GROUPS_TOPIC)
        if view is None:
            return
        shards = dict(self.shards)
        for number in range(len(shards), view.partitions):
            shards[number] = GroupShard(self._host, number, self._new_lock())
        self.shards = shards
        for number, shard in shards.items():
            try:
                partition = self._host.groups_partition(number, False)
            except NotLeaderError:  # no broker leads it now
                continue
            if partition is not None:
                lead = shard.elect if partition.is_leader else shard.resign
                lead(partition.leader_epoch)

    # -- loading -------------------------------------------------------------------------------------

    @property
    def is_loaded(self) -> bool:
        """See `GroupShard.is_loaded`."""
        return all(shard.is_loaded for shard in self.shards.values())

    def load(self) -> None:
        """Load all groups that this broker coordinates, if they are not."""
        for shard in self.shards.values():
            shard.load()

    # -- after a crash -------------------------------------------------------------------------------

    def recover(
        self, ends: Mapping[TopicPartition, int], lossy: Iterable[TopicPartition]
    ) -> dict[TopicPartition, StreamlogError]:
        """See `GroupShard.recover`. What the groups of a partition without a leader committed is not looked at."""
        lost = list(lossy)
        found: dict[TopicPartition, StreamlogError] = {}
        for shard in self.shards.values():
            with contextlib.suppress(NotLeaderError):
                found.update(shard.recover(ends, lost))
        return found

    def recover_again(self) -> bool:
        """See `GroupShard.recover_again`."""
        done = [shard.recover_again() for shard in self.shards.values()]
        return all(done)

    # -- requests ------------------------------------------------------------------------------------

    def heartbeat(self, request: Heartbeat) -> Completion[HeartbeatResult]:
        return self._of(request.group).heartbeat(request)

    def renew(self, group: str, member_id: str, seen_version: int) -> bool:
        shards = self.shards
        shard = shards[0] if len(shards) == 1 else self._of(group)  # written out: it is part of each poll
        return shard.renew(group, member_id, seen_version)

    def leave(self, group: str, member_id: str, force: bool) -> Completion[None]:
        return self._of(group).leave(group, member_id, force)

    def join_group(self, request: JoinGroup) -> Completion[JoinGroupResult]:
        return self._of(request.group).join_group(request)

    def sync_group(self, request: SyncGroup) -> Completion[SyncGroupResult]:
        return self._of(request.group).sync_group(request)

    def classic_heartbeat(
        self, group: str, member_id: str, instance_id: str | None, generation_id: int
    ) -> Completion[None]:
        return self._of(group).classic_heartbeat(group, member_id, instance_id, generation_id)

    def leave_classic_group(
        self, group: str, members: Sequence[MemberIdentity]
    ) -> Completion[list[StreamlogError | None]]:
        return self._of(group).leave_classic_group(group, members)

    def rebalance(self, group: str) -> Completion[None]:
        return self._of(group).rebalance(group)

    def watch(self, group: str, callback: Callable[[], object], member_id: str | None) -> None:
        self._of(group).watch(group, callback, member_id)

    def unwatch(self, group: str, callback: Callable[[], object], member_id: str | None) -> None:
        self._of(group).unwatch(group, callback, member_id)

    def commit(
        self,
        group: str,
        member_id: str | None,
        member_epoch: int,
        offsets: Mapping[TopicPartition, OffsetAndMetadata],
        topic_ids: Mapping[TopicPartition, bytes] | None,
        instance_id: str | None,
        by_epoch: bool,
        knows_epochs: bool,
    ) -> Completion[None]:
        return self._of(group).commit(
            group, member_id, member_epoch, offsets, topic_ids, instance_id, by_epoch, knows_epochs
        )

    def partition_of(self, group: str) -> TopicPartition:
        """The partition of the groups' topic that has a group."""
        return TopicPartition(GROUPS_TOPIC, self._of(group).number)

    def commit_pending(
        self,
        producer: ProducerIdAndEpoch,
        verify: Callable[[], object],
        group: str,
        member_id: str | None,
        member_epoch: int,
        offsets: Mapping[TopicPartition, OffsetAndMetadata],
        topic_ids: Mapping[TopicPartition, bytes] | None,
        instance_id: str | None,
        by_epoch: bool,
    ) -> Completion[None]:
        return self._of(group).commit_pending(
            producer, verify, group, member_id, member_epoch, offsets, topic_ids, instance_id, by_epoch
        )

    def append_marker(self, number: int, marker: TransactionMarker, deadline_ms: int) -> Completion[None]:
        return self.shards[number].append_marker(marker, deadline_ms)

    def committed(
        self,
        group: str,
        partitions: Iterable[TopicPartition] | None,
        topic_ids: Mapping[TopicPartition, bytes] | None,
        require_stable: bool,
        member: tuple[str, int] | None,
    ) -> Completion[dict[TopicPartition, OffsetAndMetadata]]:
        return self._of(group).committed(group, partitions, topic_ids, require_stable, member)

    def describe(self, group: str) -> Completion[GroupDescription]:
        shard = self._of(group)
        _if_possible(lambda: shard.expire_members_of(group))
        return shard.describe(group)

    def list(self, states: Iterable[str] = (), types: Iterable[str] = ()) -> Completion[list[GroupListing]]:
        """The groups of the shards that this broker leads, in the order of their names."""
        wanted = list(states), list(types)
        led = [shard for shard in self.shards.values() if shard.is_leader]
        for shard in led:
            _if_possible(shard.expire_members)
        lists = [shard.list(*wanted) for shard in led]
        return AllDone(lists, lambda: sorted(listing for each in lists for listing in each.result()))

    def delete_offsets(
        self, group: str, partitions: Iterable[TopicPartition]
    ) -> Completion[dict[TopicPartition, StreamlogError]]:
        return self._of(group).delete_offsets(group, partitions)

    def delete(self, group: str) -> Completion[None]:
        return self._of(group).delete(group)

    def metadata_changed(self) -> None:
        """Follow the leaders of the groups' topic; see `GroupShard.metadata_changed` for the groups."""
        self._follow_leaders()
        for shard in self.shards.values():
            shard.metadata_changed()

    def close(self, error: StreamlogError) -> None:
        """See `GroupShard.close`."""
        for shard in self.shards.values():
            shard.close(error)

    # -- background work -----------------------------------------------------------------------------

    def expire_members(self) -> float | None:
        """Evict members whose poll interval or session is over; when to come again (real monotonic seconds), or None."""
        return min((at for shard in self.shards.values() if (at := shard.expire_members()) is not None), default=None)

    def expire_offsets(self, now_ms: int) -> int | None:
        """Forget offsets that outlived their retention; when to come again (ms)."""
        return min(shard.expire_offsets(now_ms) for shard in self.shards.values())


def _if_possible(expire: Callable[[], object]) -> None:
    """Before groups are shown: evict members whose session is over. Where that cannot be written now, on a full disk or with too few
    replicas in sync, they are shown, and evicted later; the look itself writes nothing, and says what else is wrong.
    """
    with contextlib.suppress(StreamlogError):
        expire()


def partition_for(group: str, partitions: int) -> int:
    """The partition of the groups' topic that has a group: Kafka's, from Java's hash of the name in UTF-16."""
    if partitions == 1:
        return 0
    units = group.encode("utf-16-le", "surrogatepass")
    code = 0
    for at in range(0, len(units), 2):
        code = (31 * code + int.from_bytes(units[at : at + 2], "little")) & 0xFFFFFFFF
    code -= (code & 0x80000000) << 1  # signed, as in Java
    return 0 if code == -0x80000000 else abs(code) % partitions
