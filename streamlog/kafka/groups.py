"""Groups: JoinGroup (11), Heartbeat (12), LeaveGroup (13), SyncGroup (14), DescribeGroups (15), ListGroups (16), DeleteGroups (42).

A group of these members alone is Kafka's classic group: its leader assigns, and metadata and assignments are the clients' own
bytes. For the protocol type "consumer" the coordinator gets what they say besides, in case the group comes to be one of another
type. `consumer_groups` has the members of the newer protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ..broker.api import JoinGroup, JoinGroupResult, MemberIdentity, SyncGroup, SyncGroupResult
from ..coordinator import GroupDescription, GroupListing
from ..errors import MemberIdRequiredError, StreamlogError
from ..runtime.api import AllDone, Completion
from ..types import TopicPartition
from . import messages, protocol
from .api_keys import ApiKey
from .apis import Call, Later, by_topic, coordinates, not_coordinator
from .compiler import MalformedMessageError
from .errors import ErrorCode
from .errors import coordinator_code_of as code_of
from .schema import definition

CLASSIC, CONSUMER = "classic", "consumer"
_NO_GENERATION = -1
_FIRST_WITH_REBALANCE_TIMEOUT = 1  # KIP-62
_FIRST_WITH_KNOWN_IDS = 4  # KIP-394
_FIRST_WITHOUT_PROTOCOL = 7  # it may be null (KIP-559)
_FIRST_THAT_SKIPS = 9  # an assignment (KIP-814)
_FIRST_WITH_SEVERAL_LEAVES = 3  # KIP-345
_FIRST_WITH_NOT_FOUND = 6  # KIP-1043
_VERSION_BYTES = 2
_MOST_PARSED = 16
"""Of the protocols that a member offers: clients have a few, each with the same subscription. Others are kept as they are."""


# -- the clients' own bytes ------------------------------------------------------------------------------


def _parsed(name: str, data: Any) -> Any:
    """A ConsumerProtocol message after its version, of which a newer one is read as far as it is known; None if it is none."""
    data = bytes(data)
    if len(data) < _VERSION_BYTES:
        return None
    version = min(int.from_bytes(data[:_VERSION_BYTES], "big"), definition(name).versions[1])
    try:
        return protocol.decode(name, version, data, _VERSION_BYTES)[0]
    except (MalformedMessageError, ValueError):
        return None


def _partitions(topics: Any) -> frozenset[TopicPartition]:
    return frozenset(TopicPartition(each.topic, number) for each in topics for number in each.partitions)


def assignment_bytes(partitions: frozenset[TopicPartition]) -> bytes:
    """What a client takes for the assignment that its leader made."""
    Assignment = messages.ConsumerProtocolAssignment
    numbers_of = by_topic(partitions).items()
    topics = [Assignment.TopicPartition(topic=name, partitions=numbers) for name, numbers in numbers_of]
    encoded = protocol.encode("ConsumerProtocolAssignment", 0, Assignment(assigned_partitions=topics))
    return b"".join([(0).to_bytes(_VERSION_BYTES, "big"), *encoded])


# -- JoinGroup -------------------------------------------------------------------------------------------


def join_group(call: Call) -> Any:
    request = call.request
    if not coordinates(call, request.group_id):
        return _joined(call, Completion.failed(not_coordinator(call)))
    rebalance_ms = request.rebalance_timeout_ms
    if call.version < _FIRST_WITH_REBALANCE_TIMEOUT:
        rebalance_ms = request.session_timeout_ms
    topics: set[str] = set()
    owned: set[TopicPartition] = set()
    if request.protocol_type == CONSUMER:
        for each in request.protocols[:_MOST_PARSED]:
            subscription = _parsed("ConsumerProtocolSubscription", each.metadata)
            if subscription is not None:
                topics.update(subscription.topics)
                owned |= _partitions(subscription.owned_partitions)
    wanted = JoinGroup(
        request.group_id,
        request.member_id,
        request.group_instance_id,
        call.client_id,
        f"/{call.host}",
        request.protocol_type,
        tuple((each.name, bytes(each.metadata)) for each in request.protocols),
        request.session_timeout_ms / 1000,
        rebalance_ms / 1000,
        frozenset(topics),
        frozenset(owned),
        requires_known_member_id=call.version >= _FIRST_WITH_KNOWN_IDS,
        can_skip_assignment=call.version >= _FIRST_THAT_SKIPS,
        reason=request.reason or "",
    )
    return Later(call.service.join_group(wanted), partial(_joined, call))


def _joined(call: Call, done: Completion[JoinGroupResult]) -> Any:
    Response = messages.JoinGroupResponse
    try:
        joined = done.result()
    except StreamlogError as error:
        member_id = error.member_id if isinstance(error, MemberIdRequiredError) else call.request.member_id
        return Response(
            error_code=code_of(error), generation_id=_NO_GENERATION, member_id=member_id,
            protocol_name="" if call.version < _FIRST_WITHOUT_PROTOCOL else None,
        )  # fmt: skip
    members = [
        Response.JoinGroupResponseMember(
            member_id=each.member_id, group_instance_id=each.group_instance_id, metadata=each.metadata
        )
        for each in joined.members
    ]
    return Response(
        generation_id=joined.generation_id,
        protocol_type=joined.protocol_type,
        protocol_name=joined.protocol,
        leader=joined.leader,
        skip_assignment=joined.skip_assignment,
        member_id=joined.member_id,
        members=members,
    )


# -- SyncGroup -------------------------------------------------------------------------------------------


def sync_group(call: Call) -> Any:
    request = call.request
    if not request.group_id:
        return messages.SyncGroupResponse(error_code=ErrorCode.INVALID_GROUP_ID)
    if not coordinates(call, request.group_id):
        return messages.SyncGroupResponse(error_code=ErrorCode.NOT_COORDINATOR)
    assignments = {each.member_id: bytes(each.assignment) for each in request.assignments}
    partitions = {}
    for member_id, data in assignments.items():
        parsed = _parsed("ConsumerProtocolAssignment", data)
        if parsed is not None:
            partitions[member_id] = _partitions(parsed.assigned_partitions)
    wanted = SyncGroup(
        request.group_id,
        request.member_id,
        request.group_instance_id,
        request.generation_id,
        request.protocol_type,
        request.protocol_name,
        assignments,
        partitions,
    )
    return Later(call.service.sync_group(wanted), _synced)


def _synced(done: Completion[SyncGroupResult]) -> Any:
    Response = messages.SyncGroupResponse
    try:
        synced = done.result()
    except StreamlogError as error:
        return Response(error_code=code_of(error))
    assignment = synced.assignment if synced.partitions is None else assignment_bytes(synced.partitions)
    return Response(protocol_type=synced.protocol_type, protocol_name=synced.protocol, assignment=assignment)


# -- Heartbeat, LeaveGroup -------------------------------------------------------------------------------


def heartbeat(call: Call) -> Any:
    request = call.request
    Response = messages.HeartbeatResponse
    if not request.group_id:
        return Response(error_code=ErrorCode.INVALID_GROUP_ID)
    if not coordinates(call, request.group_id):
        return Response(error_code=ErrorCode.NOT_COORDINATOR)
    beat = call.service.classic_heartbeat(
        request.group_id, request.member_id, request.group_instance_id, request.generation_id
    )
    return Later(beat, lambda done: Response(error_code=_code(done)))


def _code(done: Completion[Any]) -> ErrorCode:
    error = done.error()
    return ErrorCode.NONE if error is None else code_of(error)


def leave_group(call: Call) -> Any:
    request = call.request
    Response = messages.LeaveGroupResponse
    if not request.group_id:
        return Response(error_code=ErrorCode.INVALID_GROUP_ID)
    if not coordinates(call, request.group_id):
        return Response(error_code=ErrorCode.NOT_COORDINATOR)
    if call.version < _FIRST_WITH_SEVERAL_LEAVES:
        members = [MemberIdentity(request.member_id)]
    else:
        members = [
            MemberIdentity(each.member_id, each.group_instance_id, each.reason or "") for each in request.members
        ]
    return Later(call.service.leave_classic_group(request.group_id, members), partial(_left, call, members))


def _left(call: Call, members: list[MemberIdentity], done: Completion[list[StreamlogError | None]]) -> Any:
    Response = messages.LeaveGroupResponse
    if done.error() is not None:
        return Response(error_code=_code(done))
    codes = [ErrorCode.NONE if error is None else code_of(error) for error in done.result()]
    if call.version < _FIRST_WITH_SEVERAL_LEAVES:
        return Response(error_code=codes[0])
    return Response(
        members=[
            Response.MemberResponse(member_id=each.member_id, group_instance_id=each.instance_id, error_code=code)
            for each, code in zip(members, codes, strict=True)
        ]
    )


# -- for administrators ----------------------------------------------------------------------------------


def describe_each(
    call: Call, wanted: Sequence[str], Response: Any, describe: Callable[[Any, GroupDescription], None]
) -> Later:
    """The response for several groups, each of which is described, or has the error why it is not.

    A group that is named several times is answered once: a large one is hundreds of times as large as its name.
    """
    names = list(dict.fromkeys(wanted))
    found = [call.service.describe_group(name) for name in names]

    def respond(_: Completion[Any]) -> Any:
        groups = []
        for name, done in zip(names, found, strict=True):
            described = Response.DescribedGroup(group_id=name, group_state="Dead")
            groups.append(described)
            try:
                if not coordinates(call, name):
                    raise not_coordinator(call)
                describe(described, done.result())
            except StreamlogError as error:
                described.error_code, described.error_message = code_of(error), str(error)
        return Response(groups=groups)

    return Later(AllDone(found), respond)


def describe_groups(call: Call) -> Any:
    return describe_each(call, call.request.groups, messages.DescribeGroupsResponse, partial(_describe, call.version))


def _describe(version: int, described: Any, group: GroupDescription) -> None:
    Response = messages.DescribeGroupsResponse
    if group.state == "Dead" or (group.type != CLASSIC and group.members):
        if version >= _FIRST_WITH_NOT_FOUND:
            why = "is not a classic group" if group.members else "not found"
            described.error_code, described.error_message = ErrorCode.GROUP_ID_NOT_FOUND, f"Group {group.name} {why}."
        return
    described.group_state, described.protocol_type = group.state, group.protocol_type
    described.protocol_data = group.protocol if group.state == "Stable" else ""
    described.members = [
        Response.DescribedGroupMember(
            member_id=each.member_id,
            group_instance_id=each.group_instance_id,
            client_id=each.client_id or "",
            client_host=each.client_host,
            member_metadata=each.metadata if group.state == "Stable" else b"",
            member_assignment=each.assigned,
        )
        for each in group.members
    ]


def list_groups(call: Call) -> Any:
    request = call.request
    listed = call.service.list_groups(request.states_filter, request.types_filter)
    return Later(listed, partial(_listed, call))


def _listed(call: Call, done: Completion[list[GroupListing]]) -> Any:
    Response = messages.ListGroupsResponse
    if done.error() is not None:
        return Response(error_code=_code(done))
    return Response(
        groups=[
            Response.ListedGroup(
                group_id=each.name,
                protocol_type=each.protocol_type,
                group_state=each.state,
                group_type=each.type,
            )
            for each in done.result()
            if coordinates(call, each.name)
        ]
    )


def delete_groups(call: Call) -> Any:
    names = call.request.groups_names
    done = [
        call.service.delete_group(name) if coordinates(call, name) else Completion.failed(not_coordinator(call))
        for name in names
    ]
    return Later(AllDone(done), lambda _: _deleted(names, done))


def _deleted(names: list[str], done: list[Completion[None]]) -> Any:
    Response = messages.DeleteGroupsResponse
    results = []
    for name, each in zip(names, done, strict=True):
        error = each.error()
        results.append(
            Response.DeletableGroupResult(
                group_id=name, error_code=_code(each), error_message=None if error is None else str(error)
            )
        )
    return Response(results=results)


handlers = {
    ApiKey.JOIN_GROUP: join_group,
    ApiKey.HEARTBEAT: heartbeat,
    ApiKey.LEAVE_GROUP: leave_group,
    ApiKey.SYNC_GROUP: sync_group,
    ApiKey.DESCRIBE_GROUPS: describe_groups,
    ApiKey.LIST_GROUPS: list_groups,
    ApiKey.DELETE_GROUPS: delete_groups,
}
