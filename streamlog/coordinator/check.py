"""The invariants of a group, which hold after every request. For tests: O(members and partitions)."""

from __future__ import annotations

from collections import Counter
from math import inf

from ..types import TopicPartition
from .classic import COMPLETING, PREPARING, STABLE
from .group import Group
from .schema import JOINING_EPOCH, MemberState


def check_group(group: Group) -> None:
    """Raise an AssertionError that says what is wrong if an invariant does not hold."""
    where = f"group {group.name!r}: "
    assert group.exists, where + "nothing is known of it, so it should not be there"
    states = {member_id: member.state for member_id, member in group.members.items()}
    _check_owners(where, group, states)
    if group.is_classic:
        _check_classic(where, group)
    else:
        _check_targets(where, group, states)
    for member_id, state in states.items():
        _check_member(f"{where}member {member_id!r} ", group, state)
    instances = {state.instance_id: member_id for member_id, state in states.items() if state.instance_id is not None}
    assert group.static == instances, where + f"static members are {instances}, indexed {group.static}"
    assert (group.state.empty_since_ms is None) == (bool(states) or not group.recorded), (
        where + f"{len(states)} members, but empty since {group.state.empty_since_ms}"
    )


def _check_owners(where: str, group: Group, states: dict[str, MemberState]) -> None:
    owners: dict[TopicPartition, str] = {}
    for member_id, state in states.items():
        for partition in state.given:
            assert partition not in owners, where + f"{partition} is given to {owners[partition]!r} and {member_id!r}"
            owners[partition] = member_id
    assert group.owners == owners, where + f"owners are {owners}, indexed {group.owners}"
    joining = {member_id for member_id, state in states.items() if state.member_epoch == JOINING_EPOCH}
    assert group.joining == joining, where + f"{joining} wait for a target, indexed {group.joining}"
    unsettled = {
        member_id for member_id, state in states.items() if not state.away and state.given.keys() != state.target
    }
    assert group.unsettled == unsettled, where + f"{unsettled} do not hold their targets, indexed {group.unsettled}"


def _check_targets(where: str, group: Group, states: dict[str, MemberState]) -> None:
    subscribed = frozenset().union(*(state.topics for state in states.values()))
    counts = group.state.counts
    assert set(counts) <= subscribed, where + f"counts {counts} of topics outside {set(subscribed)}"
    planned: dict[TopicPartition, str] = {}
    for member_id, state in states.items():
        for partition in state.target:
            twice = f"{partition} is in the targets of {planned.get(partition)!r} and {member_id!r}"
            assert partition not in planned, where + twice
            assert partition.topic in state.topics, where + f"{member_id!r} is to have {partition}, not subscribed"
            planned[partition] = member_id
    everything = {TopicPartition(topic, number) for topic in counts for number in range(counts[topic])}
    assert group.planned == planned, where + f"targets are {planned}, indexed {group.planned}"
    subscribers = Counter(topic for state in states.values() for topic in state.topics)
    assert group.subscribers == subscribers, where + f"subscribers are {subscribers}, counted {group.subscribers}"
    complete = set(planned) == everything
    assert complete or (set(planned) < everything and group.wants_target), (
        where + f"in targets {sorted(planned)}, to be read {sorted(everything)}"
    )


def _check_classic(where: str, group: Group) -> None:
    """A stable group is as the log has it; nothing that waits for an answer waits without end."""
    classic = group.classic
    assert classic is not None, where + "has members of a classic group and none of its state"
    assert not classic.answers, where + f"has not given {classic.answers}"
    ids = set(classic.members)
    assert classic.joining.keys() <= ids and classic.syncing.keys() <= ids, where + "answers wait of no member"
    assert not classic.joining or classic.state == PREPARING, (
        where + f"{set(classic.joining)} join while {classic.state}"
    )
    assert not classic.syncing or classic.state == COMPLETING, (
        where + f"{set(classic.syncing)} sync while {classic.state}"
    )
    assert classic.next_check_s < inf, where + f"is {classic.state} for ever"
    assert classic.next_check_s == group.next_check_s, where + "is not looked at in time"
    if classic.state in (COMPLETING, STABLE):
        assert classic.leader in ids, where + f"is led by {classic.leader!r}, which is no member"
    if classic.state == STABLE:
        assert ids == group.members.keys(), where + f"has members {ids}, and the log {set(group.members)}"
        assert classic.generation == group.state.epoch, where + "is of another generation than the log says"


def _check_member(who: str, group: Group, state: MemberState) -> None:
    epoch = group.state.epoch
    assert state.member_epoch <= epoch, who + f"is at epoch {state.member_epoch}, the group at {epoch}"
    if state.away:
        assert state.instance_id is not None, who + "is away, but not static"
        assert not state.given, who + f"is away and holds {sorted(state.given)}"
    for partition, since in state.given.items():
        assert since <= state.member_epoch, who + f"was given {partition} at {since}, but is at {state.member_epoch}"
    member = group.members[state.member_id]
    assert member.held == frozenset(state.given), who + "has a stale copy of what it holds"
    due, looked_at = member.deadline_s, group.next_check_s
    assert looked_at <= due, who + f"is due at {due}, looked at {looked_at}"
    assert member.checked_s <= due, who + f"is due at {due}, its entry at {member.checked_s}"
    if member.answer is not None:
        answer = member.answer.result()
        assert answer.assignment == member.held & state.target, who + f"is answered {answer}"
