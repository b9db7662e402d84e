"""The changes that one request makes to one group, as records. Nothing has changed before they are replayed.

A transition keeps only the members that it changes, so a heartbeat costs as much in a group of 500 members as in one of 10.
Only `rebalance`, if the targets depend on what has changed, looks at all members and partitions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TypeAlias

from ..types import TopicPartition
from .assignors import Assignor, Subscription, choose, in_order
from .group import Group
from .schema import (
    AWAY_EPOCH,
    CLASSIC,
    CONSUMER,
    JOINING_EPOCH,
    GroupState,
    LogRecord,
    MemberState,
    group_key,
    group_value,
    member_key,
    member_value,
)

_Place: TypeAlias = tuple[bool, str]


class Transition:
    """The members of a group as they will be: `put`, `remove`, `rebalance`, `reconcile`, then take `records`."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._changed: dict[str, MemberState | None] = {}  # None: removed
        self._owners: Mapping[TopicPartition, str] = group.owners
        self.state = group.state

    def __contains__(self, member_id: str) -> bool:
        return self._get(member_id) is not None

    def _get(self, member_id: str) -> MemberState | None:
        if member_id in self._changed:
            return self._changed[member_id]
        return self._before(member_id)

    def _before(self, member_id: str) -> MemberState | None:
        member = self._group.members.get(member_id)
        return None if member is None else member.state

    def put(self, state: MemberState) -> None:
        self._changed[state.member_id] = state

    def remove(self, member_id: str) -> None:
        self._changed[member_id] = None

    def keep_place(self, member_id: str) -> None:
        """A static member goes away: it holds nothing any more, and its target is kept for it."""
        state = self._get(member_id)
        assert state is not None
        self.put(state._replace(member_epoch=AWAY_EPOCH, given={}))

    def _members(self) -> Iterator[MemberState]:
        """All members as they will be, in the order in which they joined."""
        changed = self._changed
        for member_id, member in self._group.members.items():
            state = changed.get(member_id, member.state)
            if state is not None:
                yield state
        for member_id, state in changed.items():
            if state is not None and member_id not in self._group.members:
                yield state

    def be_classic(self, state: GroupState, members: Collection[MemberState]) -> None:
        """Have the group be a classic one with these members."""
        self.state = state
        self._changed = dict.fromkeys(self._group.members)
        for member in members:
            self.put(member)

    def be_consumer(self, state: GroupState, members: Collection[MemberState]) -> None:
        """Have the members of a classic group be members of one that the coordinator assigns, holding what they hold."""
        self.be_classic(GroupState(state.epoch), members)
        self._owners = {partition: each.member_id for each in members for partition in each.given}

    def static(self, instance_id: str) -> MemberState | None:
        """The static member of this instance id."""
        for state in self._changed.values():
            if state is not None and state.instance_id == instance_id:
                return state
        member_id = self._group.static.get(instance_id)
        return None if member_id is None else self._get(member_id)

    # -- the target

    def rebalance(self, topics: Mapping[str, int], now_ms: int, of: Collection[str] | None = None) -> None:
        """Give the members new targets and the group a new epoch, if anything that the targets depend on has changed.

        That is, in a consumer group, the subscriptions, the partition counts, and the assignor that all members have in common. A static member
        counts by its instance id, so a member that takes its place changes nothing. `topics` has the counts of the topics
        `of`, of all topics if that is None; the counts of others are those of the last target. O(members and partitions)
        for a new target, otherwise O(`of`). Raises ConfigError if the members have no assignor in common.
        """
        before = self._group.state.counts
        membership = self._membership_changed()
        if (
            not membership
            and not self._group.wants_target
            and all(topics.get(topic) == before.get(topic) for topic in (self._group.subscribers if of is None else of))
        ):
            return
        members = {state.member_id: state for state in self._members()}
        if not members:
            if self._group.members:
                self.state = self.state._replace(
                    epoch=self.state.epoch + 1, protocol="", counts={}, leader=None, empty_since_ms=now_ms
                )
            return
        if all(state.is_classic for state in members.values()):
            self._be_classic_again(members)
            return
        subscriptions = {
            member_id: Subscription(state.topics, state.target, state.instance_id)
            for member_id, state in members.items()
        }
        assignor = choose([members[member_id].assignors for member_id in in_order(subscriptions)])
        subscribed = frozenset().union(*{state.topics for state in members.values()})
        counts = {}
        for topic in subscribed:
            count = (topics if of is None or topic in of else before).get(topic)
            if count is not None:
                counts[topic] = count
        if (
            assignor.name != self.state.protocol
            or counts != before
            or self._group.wants_target
            or self._places_changed()
        ):
            self._retarget(assignor, subscriptions, counts)

    def _be_classic_again(self, members: Mapping[str, MemberState]) -> None:
        """The last member that uses the other protocol is gone: the others keep what they hold, and join again."""
        common = [[name for name, _ in state.protocols] for state in members.values()]
        shared = [name for name in common[0] if all(name in names for names in common)]
        protocol = self.state.protocol if self.state.protocol in shared else next(iter(shared), "")
        self.state = GroupState(
            self.state.epoch + 1, protocol, type=CLASSIC, protocol_type=CONSUMER, leader=next(iter(members))
        )
        for state in members.values():
            self.put(state._replace(target=frozenset(state.given)))

    def _membership_changed(self) -> bool:
        """Whether a member comes, goes, or changes what targets depend on."""
        for member_id, state in self._changed.items():
            before = self._before(member_id)
            if state is None or before is None:
                return True
            if state.topics != before.topics or state.protocols != before.protocols:
                return True
        return False

    def _places_changed(self) -> bool:
        before, after = {}, {}
        for member_id, state in self._changed.items():
            old = self._before(member_id)
            if old is not None:
                before[_place(old)] = old.topics
            if state is not None:
                after[_place(state)] = state.topics
        return before != after

    def _retarget(
        self, assignor: Assignor, subscriptions: Mapping[str, Subscription], counts: Mapping[str, int]
    ) -> None:
        self.state = GroupState(self.state.epoch + 1, assignor.name, counts)
        for member_id, target in assignor.assign(subscriptions, counts).items():
            if target != subscriptions[member_id].owned or member_id in self._group.joining:
                state = self._get(member_id)
                assert state is not None
                epoch = self.state.epoch if state.member_epoch == JOINING_EPOCH else state.member_epoch
                self.put(state._replace(target=target, member_epoch=epoch))

    def rotate(self) -> None:
        """Give each member the target of the one before it, among those that subscribe to the same topics. O(members)."""
        alike: dict[frozenset[str], list[MemberState]] = {}
        for state in self._members():
            if not state.away:
                alike.setdefault(state.topics, []).append(state)
        for states in alike.values():
            for state, before in zip(states, (states[-1], *states[:-1]), strict=True):
                self.put(state._replace(target=before.target))
        self.state = self.state._replace(epoch=self.state.epoch + 1)

    # -- what a member may hold

    def reconcile(self, member_id: str, owned: frozenset[TopicPartition]) -> None:
        """Release the partitions that the member no longer holds, and give it those of its target that are free.

        A partition that it still holds outside its target stays given to it, so no other member gets it. Its epoch becomes the
        group's where that changes something for it: a member that nothing changes for has nothing to be written.
        """
        state = self._get(member_id)
        assert state is not None
        epoch = self.state.epoch
        given = {partition: since for partition, since in state.given.items() if partition in owned}
        for partition in state.target:
            if partition not in given and self._free(partition, member_id):
                given[partition] = epoch
        if given != state.given or member_id not in self._group.members:
            self.put(state._replace(member_epoch=epoch, given=given))

    def _free(self, partition: TopicPartition, member_id: str) -> bool:
        owner = self._owners.get(partition)
        if owner is None or owner == member_id:
            return True
        state = self._get(owner)
        return state is None or partition not in state.given

    # -- the outcome

    def records(self) -> list[LogRecord]:
        """Only what would change: members gone, then the group, then members."""
        name = self._group.name
        records: list[LogRecord] = [
            (member_key(name, member_id), None) for member_id, state in self._changed.items() if state is None
        ]
        if self.state != self._group.state:
            records.append((group_key(name), group_value(self.state)))
        records += [
            (member_key(name, member_id), member_value(state))
            for member_id, state in self._changed.items()
            if state is not None and state != self._before(member_id)
        ]
        return records


def _place(state: MemberState) -> _Place:
    """What identifies a member for the assignors: its instance id if it has one."""
    return (True, state.member_id) if state.instance_id is None else (False, state.instance_id)
