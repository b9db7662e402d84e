"""The changes that one request makes to one group, as records. Nothing has changed before they are replayed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from ..types import TopicPartition
from .assignors import Assignor, Subscription, choose, in_order
from .group import Group
from .schema import AWAY_EPOCH, GroupState, LogRecord, MemberState, group_key, group_value, member_key, member_value

_Place: TypeAlias = tuple[bool, str]


class Transition:
    """The members of a group as they will be: `put`, `remove`, `rebalance`, `reconcile`, then take `records`."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._before = {member_id: member.state for member_id, member in group.members.items()}
        self.members = dict(self._before)
        self.state = group.state

    def put(self, state: MemberState) -> None:
        self.members[state.member_id] = state

    def remove(self, member_id: str) -> None:
        del self.members[member_id]

    def keep_place(self, member_id: str) -> None:
        """A static member goes away: it holds nothing any more, and its target is kept for it."""
        self.put(self.members[member_id]._replace(member_epoch=AWAY_EPOCH, given={}))

    # -- the target

    def rebalance(self, topics: Mapping[str, int], now_ms: int) -> None:
        """Give the members new targets and the group a new epoch, if anything that the targets depend on has changed.

        That is the subscriptions, the partition counts, and the assignor that all members have in common. A static member
        counts by its instance id, so a member that takes its place changes nothing. Raises ConfigError if the members have
        no assignor in common.
        """
        if not self.members:
            if self._before:
                self.state = GroupState(self.state.epoch + 1, empty_since_ms=now_ms)
            return
        subscriptions = {
            member_id: Subscription(state.topics, state.target, state.instance_id)
            for member_id, state in self.members.items()
        }
        ordered = in_order(subscriptions)
        assignor = choose([self.members[member_id].assignors for member_id in ordered])
        subscribed = frozenset().union(*(state.topics for state in self.members.values()))
        counts = {topic: topics[topic] for topic in subscribed if topic in topics}
        if (
            assignor.name == self.state.assignor
            and counts == self.state.counts
            and _places(self.members) == _places(self._before)
        ):
            return
        self._retarget(assignor, subscriptions, counts)

    def _retarget(
        self, assignor: Assignor, subscriptions: Mapping[str, Subscription], counts: Mapping[str, int]
    ) -> None:
        self.state = GroupState(self.state.epoch + 1, assignor.name, counts)
        for member_id, target in assignor.assign(subscriptions, counts).items():
            if target != self.members[member_id].target:
                self.put(self.members[member_id]._replace(target=target))

    # -- what a member may hold

    def reconcile(self, member_id: str, owned: frozenset[TopicPartition]) -> None:
        """Release the partitions that the member no longer holds, and give it those of its target that are free.

        A partition that it still holds outside its target stays given to it, so no other member gets it.
        """
        state = self.members[member_id]
        epoch = self.state.epoch
        given = {partition: since for partition, since in state.given.items() if partition in owned}
        for partition in state.target:
            if partition not in given and self._free(partition, member_id):
                given[partition] = epoch
        self.put(state._replace(member_epoch=epoch, given=given))

    def _free(self, partition: TopicPartition, member_id: str) -> bool:
        owner = self._group.owners.get(partition)
        if owner is None or owner == member_id:
            return True
        state = self.members.get(owner)
        return state is None or partition not in state.given

    # -- the outcome

    def records(self) -> list[LogRecord]:
        """Only what would change: members gone, then the group, then members."""
        name = self._group.name
        records: list[LogRecord] = [
            (member_key(name, member_id), None) for member_id in self._before if member_id not in self.members
        ]
        if self.state != self._group.state:
            records.append((group_key(name), group_value(self.state)))
        records += [
            (member_key(name, member_id), member_value(state))
            for member_id, state in self.members.items()
            if state is not self._before.get(member_id) and state != self._before.get(member_id)
        ]
        return records


def _places(members: Mapping[str, MemberState]) -> dict[_Place, frozenset[str]]:
    return {
        (True, member_id) if state.instance_id is None else (False, state.instance_id): state.topics
        for member_id, state in members.items()
    }
