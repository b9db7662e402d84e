"""Where replicas are: AlterReplicaLogDirs (34), DescribeLogDirs (35), AlterPartitionReassignments (45), ListPartitionReassignments (46);
and which brokers have the metadata: DescribeQuorum (55).

A broker has one directory, so no replica moves to another one on it. The metadata has one writer, the process of the log, in one term
of its leader: that of the quorum is 0. It is counted in changes, which every broker that runs has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from ..broker.metadata import Image, TopicView
from ..errors import ConfigError, StreamlogError, UnknownTopicOrPartitionError
from ..replication import election
from ..replication.replica_set import PartitionRegistration
from ..runtime.api import AllDone, Completion
from ..runtime.threads import result_of
from ..types import PartitionInfo, TopicPartition
from . import messages
from .apis import Call, Handler, Later, topic_of
from .errors import ErrorCode, code_of
from .schema import ZERO_UUID

METADATA_TOPIC = "__cluster_metadata"
_UNKNOWN_LAG = -1
_UNKNOWN_OFFSET = -1
_FIRST_WITH_NODES = 2


def _known_partition(image: Image, name: str, number: int) -> tuple[TopicView, PartitionRegistration]:
    """Raises UnknownTopicOrPartitionError."""
    view = topic_of(image, name, None)
    if not 0 <= number < view.partitions:
        raise UnknownTopicOrPartitionError(f"{name!r} has no partition {number}.")
    return view, image.partition(view.id_bytes, number)


# -- DescribeLogDirs, AlterReplicaLogDirs ------------------------------------------------------------------


def describe_log_dirs(call: Call) -> Any:
    """The sizes are those that the partitions have at their leaders; how far a replica that is not in sync is behind is not known."""
    image, wanted = call.service.image, call.request.topics
    asked = (
        [(view.name, range(view.partitions)) for view in image.topics.values()]
        if wanted is None
        else [(each.topic, each.partitions) for each in wanted]
    )
    here: list[tuple[TopicPartition, PartitionRegistration]] = []
    for name, numbers in asked:
        view = image.topics.get(name)
        for number in numbers:
            if view is not None and 0 <= number < view.partitions:
                known = image.partition(view.id_bytes, number)
                if call.broker_id in known.replicas:
                    here.append((TopicPartition(name, number), known))
    found = [call.service.partition_info(name) for name, _ in here]
    return Later(AllDone(found), lambda _: _log_dirs(call, here, found))


def _log_dirs(
    call: Call, here: list[tuple[TopicPartition, PartitionRegistration]], found: list[Completion[PartitionInfo]]
) -> Any:
    Response = messages.DescribeLogDirsResponse
    topics: dict[str, Any] = {}
    for (name, known), info in zip(here, found, strict=True):
        if info.error() is not None:  # it was deleted meanwhile, or has no leader
            continue
        topic = topics.setdefault(name.topic, Response.DescribeLogDirsTopic(name=name.topic, partitions=[]))
        topic.partitions.append(
            Response.DescribeLogDirsPartition(
                partition_index=name.partition,
                partition_size=info.result().size_bytes,
                offset_lag=0 if call.broker_id in known.isr else _UNKNOWN_LAG,
            )
        )
    path = call.service.broker_paths().get(call.broker_id, "")
    return Response(results=[Response.DescribeLogDirsResult(log_dir=path, topics=list(topics.values()))])


def alter_replica_log_dirs(call: Call) -> Any:
    Response = messages.AlterReplicaLogDirsResponse
    own = call.service.broker_paths().get(call.broker_id, "")
    results: dict[str, Any] = {}
    for directory in call.request.dirs:
        for topic in directory.topics:
            result = results.setdefault(
                topic.name, Response.AlterReplicaLogDirTopicResult(topic_name=topic.name, partitions=[])
            )
            for number in topic.partitions:
                code = ErrorCode.NONE if directory.path == own else ErrorCode.LOG_DIR_NOT_FOUND
                try:
                    _, known = _known_partition(call.service.image, topic.name, number)
                    if call.broker_id not in known.replicas:
                        code = ErrorCode.REPLICA_NOT_AVAILABLE
                except StreamlogError as error:
                    code = code_of(error)
                result.partitions.append(
                    Response.AlterReplicaLogDirPartitionResult(partition_index=number, error_code=code)
                )
    return Response(results=list(results.values()))


# -- reassignments ---------------------------------------------------------------------------------------


def alter_partition_reassignments(call: Call) -> Any:
    return call.blocking(partial(_alter_partition_reassignments, call))


def _alter_partition_reassignments(call: Call) -> Any:
    """Each partition by itself, as in Kafka. It is answered when the move is recorded; ListPartitionReassignments says how it goes."""
    request = call.request
    Response = messages.AlterPartitionReassignmentsResponse
    responses = []
    for topic in request.topics:
        partitions = []
        for each in topic.partitions:
            result = Response.ReassignablePartitionResponse(partition_index=each.partition_index)
            partitions.append(result)
            try:
                known = _known_partition(call.service.image, topic.name, each.partition_index)[1]
                name = TopicPartition(topic.name, each.partition_index)
                if each.replicas is None:
                    result.error_code, result.error_message = _cancelled(call, name, known)
                elif not request.allow_replication_factor_change and len(each.replicas) != len(
                    election.target_of(known)
                ):
                    result.error_code = ErrorCode.INVALID_REPLICATION_FACTOR
                    result.error_message = (
                        f"{name.topic}-{name.partition} has {len(election.target_of(known))} replicas."
                    )
                elif tuple(each.replicas) != election.target_of(known):
                    result_of(call.service.reassign(topic.name, {name.partition: each.replicas}, None))
            except ConfigError as error:
                result.error_code, result.error_message = ErrorCode.INVALID_REPLICA_ASSIGNMENT, str(error)
            except StreamlogError as error:
                result.error_code, result.error_message = code_of(error), str(error)
        responses.append(Response.ReassignableTopicResponse(name=topic.name, partitions=partitions))
    return Response(responses=responses)


def _cancelled(call: Call, name: TopicPartition, known: PartitionRegistration) -> tuple[ErrorCode, str | None]:
    if not _is_moving(known):
        return ErrorCode.NO_REASSIGNMENT_IN_PROGRESS, f"{name.topic}-{name.partition} is not reassigned."
    result_of(call.service.cancel_reassignment({name: election.target_of(known)}))
    return ErrorCode.NONE, None


def _is_moving(known: PartitionRegistration) -> bool:
    return bool(known.adding_replicas or known.removing_replicas)


def list_partition_reassignments(call: Call) -> Any:
    image, wanted = call.service.image, call.request.topics
    Response = messages.ListPartitionReassignmentsResponse
    asked: Mapping[str, Sequence[int] | None] = (
        dict.fromkeys(image.topics) if wanted is None else {each.name: each.partition_indexes for each in wanted}
    )
    topics = []
    for name, numbers in asked.items():
        moving = [
            Response.OngoingPartitionReassignment(
                partition_index=number,
                replicas=known.replicas,
                adding_replicas=known.adding_replicas,
                removing_replicas=known.removing_replicas,
            )
            for number, known in _moving(image, name)
            if numbers is None or number in numbers
        ]
        if moving:
            topics.append(Response.OngoingTopicReassignment(name=name, partitions=moving))
    return Response(topics=topics)


def _moving(image: Image, name: str) -> Iterator[tuple[int, PartitionRegistration]]:
    view = image.topics.get(name)
    if view is None:
        return
    for number in range(view.partitions):
        known = image.partition(view.id_bytes, number)
        if _is_moving(known):
            yield number, known


# -- DescribeQuorum --------------------------------------------------------------------------------------


def describe_quorum(call: Call) -> Any:
    Response = messages.DescribeQuorumResponse
    topics = [
        Response.TopicData(
            topic_name=topic.topic_name,
            partitions=[_quorum(call, topic.topic_name, each.partition_index) for each in topic.partitions],
        )
        for topic in call.request.topics
    ]
    nodes = [
        Response.Node(
            node_id=each.broker_id, listeners=[Response.Listener(name="PLAINTEXT", host=each.host, port=each.port)]
        )
        for each in call.endpoints.values()
    ]
    return Response(topics=topics, nodes=nodes if call.version >= _FIRST_WITH_NODES else [])


def _quorum(call: Call, topic: str, number: int) -> Any:
    Response = messages.DescribeQuorumResponse
    if (topic, number) != (METADATA_TOPIC, 0):
        return Response.PartitionData(
            partition_index=number,
            error_code=ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
            error_message=f"The metadata is in {METADATA_TOPIC}-0 alone.",
        )
    image = call.service.image
    voters = [
        Response.ReplicaState(
            replica_id=broker_id,
            replica_directory_id=_directory_id(image, broker_id),
            log_end_offset=image.version if broker_id in call.endpoints else _UNKNOWN_OFFSET,
        )
        for broker_id in sorted(call.service.broker_paths())
    ]
    return Response.PartitionData(
        partition_index=0,
        leader_id=min(call.endpoints, default=-1),
        leader_epoch=0,
        high_watermark=image.version,
        current_voters=voters,
        observers=[],
    )


def _directory_id(image: Image, broker_id: int) -> bytes:
    known = image.brokers.get(broker_id)
    try:
        return UUID(known.directory_id).bytes if known is not None else ZERO_UUID
    except ValueError:  # it is not known
        return ZERO_UUID


handlers: dict[int, Handler] = {
    34: alter_replica_log_dirs,
    35: describe_log_dirs,
    45: alter_partition_reassignments,
    46: list_partition_reassignments,
    55: describe_quorum,
}
