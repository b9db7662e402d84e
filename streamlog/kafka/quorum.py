"""The log as a cluster: DescribeQuorum (55, versions 0 to 2), UpdateFeatures (57, versions 0 to 2).

The voters are the brokers whose copies of the metadata log count, those that run; the leader is the one whose copy is appended to. A
change of the metadata is in force when every copy has it, so all of them have caught up whenever they are asked. There are no observers.

A log has the levels of features that the library has: an update to the level that there is does nothing, and any other is refused
with INVALID_UPDATE_VERSION, also one to a level below, which Kafka would allow.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..broker.controller import METADATA_TOPIC
from ..broker.descriptions import QuorumDescription
from ..errors import StreamlogError
from ..runtime.threads import result_of
from . import messages
from .api_keys import ApiKey
from .apis import Call
from .errors import ErrorCode, code_of
from .metadata import FEATURES

_LISTENER = "PLAINTEXT"
_UPGRADE, _SAFE_DOWNGRADE, _UNSAFE_DOWNGRADE = 1, 2, 3


# -- DescribeQuorum --------------------------------------------------------------------------------------


def describe_quorum(call: Call) -> Any:
    return call.blocking(partial(_describe_quorum, call))


def _describe_quorum(call: Call) -> Any:
    Response = messages.DescribeQuorumResponse
    try:
        found = result_of(call.service.describe_quorum())
    except StreamlogError as error:
        return Response(error_code=code_of(error), error_message=str(error))
    topics = []
    has_found = False
    for topic in call.request.topics:
        partitions = []
        for each in topic.partitions:
            is_metadata = topic.topic_name == METADATA_TOPIC and each.partition_index == 0
            has_found |= is_metadata
            partitions.append(_metadata(call, found) if is_metadata else _unknown(each.partition_index))
        topics.append(Response.TopicData(topic_name=topic.topic_name, partitions=partitions))
    endpoints = [call.endpoints[each.broker_id] for each in found.voters if each.broker_id in call.endpoints]
    nodes = [
        Response.Node(
            node_id=each.broker_id, listeners=[Response.Listener(name=_LISTENER, host=each.host, port=each.port)]
        )
        for each in endpoints
    ]
    return Response(error_message=None, topics=topics, nodes=nodes if has_found else [])


def _metadata(call: Call, found: QuorumDescription) -> Any:
    Response = messages.DescribeQuorumResponse
    now_ms = call.service.clock.time_ms()
    voters = [
        Response.ReplicaState(
            replica_id=each.broker_id,
            replica_directory_id=bytes.fromhex(each.directory_id),
            log_end_offset=each.log_end_offset,
            last_fetch_timestamp=now_ms,
            last_caught_up_timestamp=now_ms,
        )
        for each in found.voters
    ]
    return Response.PartitionData(
        partition_index=0,
        error_message=None,
        leader_id=found.leader_id,
        leader_epoch=found.leader_epoch,
        high_watermark=found.high_watermark,
        current_voters=voters,
        observers=[],
    )


def _unknown(number: int) -> Any:
    return messages.DescribeQuorumResponse.PartitionData(
        partition_index=number,
        error_code=ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        error_message="This server does not host this topic-partition.",
        current_voters=[],
        observers=[],
    )


# -- UpdateFeatures --------------------------------------------------------------------------------------


def update_features(call: Call) -> Any:
    Response = messages.UpdateFeaturesResponse
    updates = call.request.feature_updates
    for each in updates:
        reason = _refusal(each, call.version)
        if reason is not None:
            return Response(
                error_code=ErrorCode.INVALID_UPDATE_VERSION,
                error_message=(
                    f"The update failed for all features since the following feature had an error: Invalid update version "
                    f"{each.max_version_level} for feature {each.feature[:200]}. {reason}"
                ),
                results=[],
            )
    results = [Response.UpdatableFeatureResult(feature=each.feature, error_message=None) for each in updates]
    return Response(error_message=None, results=results)


def _refusal(update: Any, version: int) -> str | None:
    """Why the level of a feature cannot be what is asked for."""
    wanted, here = update.max_version_level, FEATURES.get(update.feature)
    if here is None:
        return "There is no such feature here."
    if wanted < 0:
        return "A feature version cannot be less than 0."
    if wanted > here:
        return f"Only versions 0-{here} are supported."
    kind = update.upgrade_type if version else _SAFE_DOWNGRADE if update.allow_downgrade else _UPGRADE
    if kind not in (_UPGRADE, _SAFE_DOWNGRADE, _UNSAFE_DOWNGRADE):
        return "The upgrade type is not one of those that there are."
    if wanted < here and kind == _UPGRADE:
        return "Can't downgrade the version of this feature without setting the upgrade type to either safe or unsafe downgrade."
    if wanted < here:
        return f"This log has version {here} always: which protocol a client uses is the client's choice."
    return None


handlers: dict[int, Callable[[Call], Any]] = {
    ApiKey.DESCRIBE_QUORUM: describe_quorum,
    ApiKey.UPDATE_FEATURES: update_features,
}
