"""The errors of a shard. Each message says what happened, why, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import (
    CommitFailedError,
    CoordinatorLoadInProgressError,
    FencedInstanceIdError,
    GroupIdNotFoundError,
    GroupNotEmptyError,
    GroupSubscribedToTopicError,
    InconsistentGroupProtocolError,
    NotCoordinatorError,
    UnknownMemberIdError,
)
from ..types import TopicPartition
from .group import Group


def loading() -> CoordinatorLoadInProgressError:
    return CoordinatorLoadInProgressError(
        "the coordinator of this group is loading its log (it was just opened, or a write to it failed); try again"
    )


def resigned() -> NotCoordinatorError:
    return NotCoordinatorError(
        "this broker is not the coordinator of the group any more, so what was asked may or may not be done; find the "
        "coordinator, and ask it again"
    )


def unknown_member(group: str, member_id: str) -> UnknownMemberIdError:
    return UnknownMemberIdError(
        f"group {group!r} does not know member {member_id!r}: it left, was evicted by a call or because it did not poll in "
        "time, or never joined; join again with an empty member id, holding nothing",
        group=group,
        member_id=member_id,
    )


def fenced(group: str, member_id: str, instance_id: str) -> FencedInstanceIdError:
    return FencedInstanceIdError(
        f"another consumer joined group {group!r} with group_instance_id {instance_id!r} and took over the place of "
        f"member {member_id!r}; close this consumer, and give each its own instance id",
        group=group,
        member_id=member_id,
        group_instance_id=instance_id,
    )


def classic(group: str) -> InconsistentGroupProtocolError:
    return InconsistentGroupProtocolError(
        f"group {group!r} has members that use the classic group protocol (JoinGroup), and a consumer here uses that of KIP-848; "
        "close them first, or give this consumer a group of its own",
        group=group,
    )


def former_generation(group: Group, member_id: str, generation: int) -> CommitFailedError:
    return CommitFailedError(
        f"nothing was committed: member {member_id!r} of group {group.name!r} is of generation {generation}, and the group has "
        f"gone on to {group.state.epoch}, so others may have its partitions; poll again to rejoin, and expect the records since "
        "the last commit once more",
        group=group.name,
        member_id=member_id,
    )


def not_a_member(group: str, member_id: str) -> CommitFailedError:
    return CommitFailedError(
        f"nothing was committed: member {member_id!r} is not in group {group!r} (it left, was evicted by a call or "
        "because it did not poll within max_poll_interval_ms, or another consumer took its group_instance_id), so others may have its "
        "partitions; poll again to rejoin, and expect the records since the last commit once more",
        group=group,
        member_id=member_id,
    )


def not_owned(group: str, member_id: str, lost: Sequence[TopicPartition]) -> CommitFailedError:
    names = ", ".join(f"{topic}-{number}" for topic, number in lost)
    return CommitFailedError(
        f"nothing was committed: member {member_id!r} of group {group!r} does not have {names} (any more): the group "
        "moved it to another member, or it moved away and back since; commit only what assignment() shows, and finish "
        "records in on_partitions_revoked",
        group=group,
        member_id=member_id,
        partitions=tuple(lost),
    )


def other_topic(group: str, partitions: Sequence[TopicPartition]) -> CommitFailedError:
    names = ", ".join(f"{topic}-{number}" for topic, number in partitions)
    return CommitFailedError(
        f"nothing was committed in group {group!r}: the offsets of {names} are of a topic that was deleted, and mean nothing "
        "in another topic of that name; poll to go on with the topic that has the name now, if there is one",
        group=group,
        partitions=tuple(partitions),
    )


def not_empty(group: Group, action: str) -> GroupNotEmptyError:
    count = len(group.members)
    away = sum(member.state.away for member in group.members.values())
    note = f" ({away} of them static and gone, with their places kept until session_timeout_ms is over)" if away else ""
    return GroupNotEmptyError(
        f"Cannot {action} group {group.name!r}: it has {count} {'member' if count == 1 else 'members'}{note}. Close its "
        "consumers first, or remove a member that is out of reach with evict(member_id).",
        group=group.name,
        members=tuple(sorted(group.members)),
    )


def subscribed(group: str, partition: TopicPartition) -> GroupSubscribedToTopicError:
    return GroupSubscribedToTopicError(
        f"cannot delete the offset of {partition.topic}-{partition.partition} in group {group!r}: a member subscribes to the "
        "topic; close the consumers that read it first",
        group=group,
        partition=partition,
    )


def no_group(group: str) -> GroupIdNotFoundError:
    return GroupIdNotFoundError(
        f"There is no group {group!r}: it has no members and never committed anything, or it was deleted, or its "
        "offsets expired. Check the name.",
        group=group,
    )
