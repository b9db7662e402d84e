"""Reassignments: AlterPartitionReassignments (45, versions 0 and 1), ListPartitionReassignments (46, version 0).

Replicas begin to move, and the answer does not wait for them (KIP-455). Null in the place of replicas takes a partition back to where it
was, or is NO_REASSIGNMENT_IN_PROGRESS. The partitions of a topic that can be moved are moved in one change of the metadata; each of the
others has an error of its own. A change of the number of replicas is refused where the request says so (version 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

from ..broker.metadata import Image, TopicView
from ..errors import ConfigError, StreamlogError
from ..replication.election import target_of
from ..replication.replica_set import PartitionRegistration
from ..runtime.threads import result_of
from ..types import TopicPartition
from . import messages
from .api_keys import ApiKey
from .apis import Call, topic_of
from .errors import ErrorCode, code_of


class _Refused(NamedTuple):
    code: ErrorCode
    message: str | None


# -- AlterPartitionReassignments -------------------------------------------------------------------------


def alter_partition_reassignments(call: Call) -> Any:
    return call.blocking(partial(_alter, call))


def _alter(call: Call) -> Any:
    Response = messages.AlterPartitionReassignmentsResponse
    responses = []
    for topic in call.request.topics:
        refused = _altered(call, topic)
        partitions = []
        for at, each in enumerate(topic.partitions):
            code, message = refused.get(at, _Refused(ErrorCode.NONE, None))
            partitions.append(
                Response.ReassignablePartitionResponse(
                    partition_index=each.partition_index, error_code=code, error_message=message
                )
            )
        responses.append(Response.ReassignableTopicResponse(name=topic.name, partitions=partitions))
    return Response(
        allow_replication_factor_change=call.request.allow_replication_factor_change,
        error_message=None,
        responses=responses,
    )


def _altered(call: Call, topic: Any) -> dict[int, _Refused]:
    """Move the partitions of a topic; which elements of the request are refused."""
    image = call.service.image
    try:
        view = topic_of(image, topic.name, None)
    except StreamlogError as error:
        return dict.fromkeys(range(len(topic.partitions)), _Refused(code_of(error), str(error)))
    refused: dict[int, _Refused] = {}
    moves: dict[int, Sequence[int]] = {}
    back: dict[TopicPartition, tuple[int, ...]] = {}
    moving, going_back = [], []
    for at, each in enumerate(topic.partitions):
        number = each.partition_index
        known = image.partition(view.id_bytes, number)
        refusal = _refusal(call, view, each, known)
        if refusal is not None:
            refused[at] = refusal
        elif each.replicas is None:
            back[TopicPartition(view.name, number)] = target_of(known)
            going_back.append(at)
        else:
            moves[number] = list(each.replicas)
            moving.append(at)
    if moves:
        refused.update(_change(moving, lambda: call.service.reassign(view.name, moves, None)))
    if back:
        refused.update(_change(going_back, lambda: call.service.cancel_reassignment(back)))
    return refused


def _change(elements: Iterable[int], change: Callable[[], Any]) -> dict[int, _Refused]:
    try:
        result_of(change())
    except ConfigError as error:
        is_factor = getattr(error, "name", "") == "min_insync_replicas"
        code = ErrorCode.INVALID_REPLICATION_FACTOR if is_factor else ErrorCode.INVALID_REPLICA_ASSIGNMENT
        return dict.fromkeys(elements, _Refused(code, str(error)))
    except StreamlogError as error:
        return dict.fromkeys(elements, _Refused(code_of(error), str(error)))
    return {}


def _refusal(call: Call, view: TopicView, wanted: Any, known: PartitionRegistration) -> _Refused | None:
    number, replicas = wanted.partition_index, wanted.replicas
    if not 0 <= number < view.partitions:
        return _Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"Unable to find partition {view.name}:{number}.")
    if replicas is None:
        is_moving = known.adding_replicas or known.removing_replicas
        return None if is_moving else _Refused(ErrorCode.NO_REASSIGNMENT_IN_PROGRESS, None)
    unknown = [each for each in replicas if each not in call.service.broker_paths()]
    if not replicas:
        reason = "an empty replica list."
    elif unknown:
        reason = f"broker {unknown[0]}, but no such broker is registered."
    elif len(set(replicas)) < len(replicas):
        reason = f"the broker {next(each for each in replicas if replicas.count(each) > 1)} more than once."
    else:
        before = len(target_of(known))
        if len(replicas) != before and not call.request.allow_replication_factor_change:
            return _Refused(
                ErrorCode.INVALID_REPLICATION_FACTOR,
                f"The replication factor is changed from {before} to {len(replicas)}, which the request does not allow.",
            )
        return None
    return _Refused(ErrorCode.INVALID_REPLICA_ASSIGNMENT, f"The manual partition assignment includes {reason}")


# -- ListPartitionReassignments --------------------------------------------------------------------------


def list_partition_reassignments(call: Call) -> Any:
    """What is under way; without topics, of all. What is not there, or does not move, is left out."""
    Response = messages.ListPartitionReassignmentsResponse
    image, wanted = call.service.image, call.request.topics
    asked = (
        [(view.name, range(view.partitions)) for view in image.topics.values()]
        if wanted is None
        else [(each.name, each.partition_indexes) for each in wanted]
    )
    topics = []
    for name, numbers in asked:
        view = image.topics.get(name)
        moving = [] if view is None else _moving(image, view, numbers)
        if moving:
            topics.append(Response.OngoingTopicReassignment(name=name, partitions=moving))
    return Response(error_message=None, topics=topics)


def _moving(image: Image, view: TopicView, numbers: Iterable[int]) -> list[Any]:
    Partition = messages.ListPartitionReassignmentsResponse.OngoingPartitionReassignment
    recorded = image.partitions.get(view.id_bytes, {})
    known = [(number, recorded[number]) for number in numbers if number in recorded]
    return [
        Partition(
            partition_index=number,
            replicas=each.replicas,
            adding_replicas=each.adding_replicas,
            removing_replicas=each.removing_replicas,
        )
        for number, each in known
        if each.adding_replicas or each.removing_replicas
    ]


handlers: dict[int, Callable[[Call], Any]] = {
    ApiKey.ALTER_PARTITION_REASSIGNMENTS: alter_partition_reassignments,
    ApiKey.LIST_PARTITION_REASSIGNMENTS: list_partition_reassignments,
}
