"""The errors of a shard. Each message says what happened, why, and what to do next."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..errors import (
    CommitFailedError,
    CoordinatorLoadInProgressError,
    FencedInstanceIdError,
    GroupIdNotFoundError,
    GroupMaxSizeReachedError,
    GroupNotEmptyError,
    GroupSubscribedToTopicError,
    IllegalGenerationError,
    InconsistentGroupProtocolError,
    InvalidGroupIdError,
    InvalidSessionTimeoutError,
    MemberIdRequiredError,
    NotCoordinatorError,
    RebalanceInProgressError,
    StaleMemberEpochError,
    UnknownMemberIdError,
    UnstableOffsetCommitError,
)
from ..types import TopicPartition


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
        f"group {group!r} has members that use the classic group protocol (JoinGroup) with a protocol type other than 'consumer', or "
        "with assignors of their own, so the coordinator cannot assign to them; close them first, or give this consumer a group of "
        "its own",
        group=group,
    )


def illegal_generation(group: str, member_id: str, generation: int, current: int) -> IllegalGenerationError:
    return IllegalGenerationError(
        f"member {member_id!r} of group {group!r} is not of generation {generation}, and the group is at {current}: others may have "
        "its partitions, and nothing was committed; join again, and expect the records since the last commit once more",
        group=group,
        member_id=member_id,
    )


def stale_epoch(group: str, member_id: str, epoch: int, current: int) -> StaleMemberEpochError:
    return StaleMemberEpochError(
        f"member {member_id!r} of group {group!r} said that it has epoch {epoch}, and it has {current}: what it was assigned may have "
        "changed since; send a heartbeat, and ask again with the epoch of its answer",
        group=group,
        member_id=member_id,
    )


def has_epochs(group: str, member_id: str) -> StaleMemberEpochError:
    return StaleMemberEpochError(
        f"member {member_id!r} of group {group!r} uses the consumer group protocol (KIP-848), and committed with a request of before it, "
        "which has no epoch: nothing was committed; commit with OffsetCommit in version 9 or a later one",
        group=group,
        member_id=member_id,
    )


def rebalancing(group: str) -> RebalanceInProgressError:
    return RebalanceInProgressError(f"group {group!r} is rebalancing: join again")


def member_id_required(group: str, member_id: str) -> MemberIdRequiredError:
    return MemberIdRequiredError(
        f"the member that joins group {group!r} is to join again with the id {member_id!r}, which is its own from now on",
        group=group,
        member_id=member_id,
    )


def other_protocols(group: str, protocol_type: str, names: Sequence[str]) -> InconsistentGroupProtocolError:
    return InconsistentGroupProtocolError(
        f"a member with the protocol type {protocol_type!r} and the protocols {', '.join(names) or 'none'} cannot be in group "
        f"{group!r}: its members have another type, or no protocol in common with it; give all members one that the others have "
        "too, or this one a group of its own",
        group=group,
    )


def session_timeout(group: str, timeout_ms: int, least_ms: int, most_ms: int) -> InvalidSessionTimeoutError:
    return InvalidSessionTimeoutError(
        f"a member of group {group!r} asks for a session timeout of {timeout_ms} ms, and it has to be from {least_ms} to {most_ms}; "
        "change session.timeout.ms of the client"
    )


def no_name() -> InvalidGroupIdError:
    return InvalidGroupIdError("the name of the group is empty; give it one")


def full(group: str, max_size: int) -> GroupMaxSizeReachedError:
    return GroupMaxSizeReachedError(
        f"group {group!r} has {max_size} members, which is as many as it may have (group.max.size); close one first",
        group=group,
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


def unstable(group: str, partitions: Sequence[TopicPartition]) -> UnstableOffsetCommitError:
    names = ", ".join(f"{topic}-{number}" for topic, number in partitions)
    return UnstableOffsetCommitError(
        f"what group {group!r} has committed for {names} is not known yet: a transaction that commits it is not decided; try again",
        group=group,
        partitions=tuple(partitions),
    )


def not_empty(group: str, members: Collection[str], away: int, action: str) -> GroupNotEmptyError:
    """`away`: how many of the members are static and have left."""
    count = len(members)
    note = f" ({away} of them static and gone, with their places kept until session_timeout_ms is over)" if away else ""
    return GroupNotEmptyError(
        f"Cannot {action} group {group!r}: it has {count} {'member' if count == 1 else 'members'}{note}. Close its "
        "consumers first, or remove a member that is out of reach with evict(member_id).",
        group=group,
        members=tuple(sorted(members)),
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
