"""What a client asks first: ApiVersions (18), Metadata (3), DescribeCluster (60), DescribeTopicPartitions (75).

A topic that a client asks for by name is created where the listener creates topics, unless the request forbids it, and with Kafka's
defaults. Only brokers that run are named.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from typing import Any

from ..broker.metadata import Image, KafkaConfig, TopicView
from ..config import check_topic_name
from ..errors import StreamlogError, TopicAlreadyExistsError, UnknownTopicIdError
from ..runtime.threads import result_of
from . import broker_configs, messages, protocol
from .api_keys import ApiKey
from .apis import Call, Handler, topic_of
from .errors import ErrorCode, code_of
from .schema import ZERO_UUID
from .topics import check_collision

# Kafka says that it has all versions of Produce, and closes the connection of a client that sends one of the first three:
# librdkafka's choice of codecs depends on their being there (KAFKA-18659).
PRODUCE_ADVERTISED_FROM = 0
_NO_LEADER = -1
_FIRST_WITH_NULL = 1  # for all topics (KIP-4); before, an empty list asks for them, and none can be asked for
_FIRST_THAT_MAY_FORBID_CREATION, _FIRST_WITH_NULL_NAMES = 4, 12  # the second: KIP-516
_BROKERS, _CONTROLLERS = 1, 2  # types of endpoints (KIP-919)
_MANY_TOPICS = 1_000
"""Metadata of more topics than these is put together by a thread that may block: it takes 20 ms and more."""
_MOST_PARTITIONS = 2000  # Kafka's max.request.partition.size.limit
# Clients use KIP-848's groups and KIP-890's transactions where they find these.
FEATURES = {"group.version": 1, "transaction.version": 2}
_FIRST_WITH_SOFTWARE_NAMES, _FIRST_WITH_LEVEL_0 = 3, 4  # KIP-511, KAFKA-17011
_SOFTWARE = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?")
# Everyone may do everything: the bits of Kafka's operations (read, write, …) that there are for a topic, and for the cluster.
_ALL_OF_TOPIC, _ALL_OF_CLUSTER = 3576, 8096


# -- ApiVersions -----------------------------------------------------------------------------------------


def api_versions(keys: Iterable[int], call: Call) -> Any:
    request = call.request
    names = request.client_software_name, request.client_software_version
    if call.version >= _FIRST_WITH_SOFTWARE_NAMES and not all(map(_SOFTWARE.fullmatch, names)):
        return versions_response([], ErrorCode.INVALID_REQUEST)
    return versions_response(keys, version=call.version)


def versions_response(keys: Iterable[int], error: ErrorCode = ErrorCode.NONE, *, version: int = 0) -> Any:
    Response = messages.ApiVersionsResponse
    known = []
    for key in sorted(keys):
        low, high = protocol.versions_of(key)
        low = PRODUCE_ADVERTISED_FROM if key == ApiKey.PRODUCE else low
        known.append(Response.ApiVersion(api_key=key, min_version=low, max_version=high))
    return Response(
        error_code=error,
        api_keys=known,
        # Clients of before version 4 take no feature whose first level is 0.
        supported_features=[
            Response.SupportedFeatureKey(name=name, min_version=0, max_version=level)
            for name, level in FEATURES.items()
            if version >= _FIRST_WITH_LEVEL_0
        ],
        finalized_features_epoch=0,
        finalized_features=[
            Response.FinalizedFeatureKey(name=name, min_version_level=level, max_version_level=level)
            for name, level in FEATURES.items()
        ],
    )


# -- Metadata --------------------------------------------------------------------------------------------


def metadata(call: Call) -> Any:
    request, image = call.request, call.service.image
    wanted = request.topics
    if wanted is None or (call.version < _FIRST_WITH_NULL and not wanted):
        return _described(call, [(view.name, view.id_bytes) for view in image.topics.values()])
    # An id goes before a name, as with Kafka.
    named = list(dict.fromkeys((each.name if each.topic_id == ZERO_UUID else None, each.topic_id) for each in wanted))
    creates = call.settings.auto_create_topics and (
        call.version < _FIRST_THAT_MAY_FORBID_CREATION or request.allow_auto_topic_creation
    )
    new = [name for name, _ in named if name is not None and name not in image.topics] if creates else []
    if not new:
        return _described(call, named)
    return call.blocking(partial(_created, call, named, new))


def _described(call: Call, named: list[tuple[str | None, bytes]]) -> Any:
    respond = partial(_response, call, named)
    return call.blocking(respond) if len(named) > _MANY_TOPICS else respond()


def _created(call: Call, named: list[tuple[str | None, bytes]], new: list[str]) -> Any:
    failed: dict[str, StreamlogError] = {}
    for name in dict.fromkeys(new):
        try:
            check_collision(name, call.service.image.topics)
            defaults = broker_configs.topic_defaults(call.settings)
            result_of(call.service.create_topic(name, call.settings.partitions, defaults, kafka=KafkaConfig()))
        except TopicAlreadyExistsError:  # another client was faster
            pass
        except StreamlogError as error:
            failed[name] = error
    return _response(call, named, failed)


def _response(
    call: Call, named: Iterable[tuple[str | None, bytes]], failed: dict[str, StreamlogError] | None = None
) -> Any:
    Response = messages.MetadataResponse
    image = call.service.image
    topics = []
    for name, topic_id in named:
        try:
            if name in (failed or {}):
                raise (failed or {})[name or ""]
            if name is not None:
                check_topic_name(name)
            view = topic_of(image, name, None if name is not None else topic_id)
        except StreamlogError as error:
            is_id = isinstance(error, UnknownTopicIdError)
            topics.append(
                Response.MetadataResponseTopic(
                    error_code=code_of(error),
                    name=name if name is not None or call.version >= _FIRST_WITH_NULL_NAMES else "",
                    topic_id=topic_id if is_id else ZERO_UUID,
                )
            )
        else:
            topics.append(_topic(image, view))
    controller = min(call.endpoints, default=_NO_LEADER)
    brokers = [
        Response.MetadataResponseBroker(node_id=each.broker_id, host=each.host, port=each.port)
        for each in call.endpoints.values()
    ]
    response = Response(brokers=brokers, cluster_id=call.service.cluster_id, controller_id=controller, topics=topics)
    if call.request.include_cluster_authorized_operations:
        response.cluster_authorized_operations = _ALL_OF_CLUSTER
    if call.request.include_topic_authorized_operations:
        for topic in topics:
            if not topic.error_code:
                topic.topic_authorized_operations = _ALL_OF_TOPIC
    return response


def _topic(image: Image, view: TopicView) -> Any:
    Response = messages.MetadataResponse
    partitions = []
    for number in range(view.partitions):
        known = image.partition(view.id_bytes, number)
        partitions.append(
            Response.MetadataResponsePartition(
                error_code=ErrorCode.LEADER_NOT_AVAILABLE if known.leader < 0 else ErrorCode.NONE,
                partition_index=number,
                leader_id=known.leader,
                leader_epoch=known.leader_epoch,
                replica_nodes=known.replicas,
                isr_nodes=known.isr,
                offline_replicas=[each for each in known.replicas if _is_fenced(image, each)],
            )
        )
    return Response.MetadataResponseTopic(
        name=view.name, topic_id=view.id_bytes, is_internal=view.internal, partitions=partitions
    )


def _is_fenced(image: Image, broker_id: int) -> bool:
    known = image.brokers.get(broker_id)
    return known is not None and known.fenced


# -- DescribeCluster -------------------------------------------------------------------------------------


def describe_cluster(call: Call) -> Any:
    Response = messages.DescribeClusterResponse
    kind = call.request.endpoint_type
    if kind != _BROKERS:
        if kind == _CONTROLLERS:
            return Response(
                error_code=ErrorCode.MISMATCHED_ENDPOINT_TYPE,
                error_message="The request was sent to an endpoint of brokers, and asks for controllers.",
            )
        return Response(
            error_code=ErrorCode.UNSUPPORTED_ENDPOINT_TYPE, error_message=f"There is no endpoint type {kind}."
        )
    brokers = [
        Response.DescribeClusterBroker(broker_id=each.broker_id, host=each.host, port=each.port)
        for each in call.endpoints.values()
    ]
    response = Response(
        cluster_id=call.service.cluster_id, controller_id=min(call.endpoints, default=_NO_LEADER), brokers=brokers
    )
    if call.request.include_cluster_authorized_operations:
        response.cluster_authorized_operations = _ALL_OF_CLUSTER
    return response


# -- DescribeTopicPartitions -----------------------------------------------------------------------------


def describe_topic_partitions(call: Call) -> Any:
    """The topics in the order of their names, from the cursor on, as far as the limit goes."""
    request, image = call.request, call.service.image
    Response = messages.DescribeTopicPartitionsResponse
    cursor = request.cursor
    names = sorted({each.name for each in request.topics} or image.topics)
    if cursor is not None and cursor.partition_index < 0:
        code = ErrorCode.INVALID_REQUEST
        refused = [
            Response.DescribeTopicPartitionsResponseTopic(name=each.name, error_code=code) for each in request.topics
        ]
        return Response(topics=refused, next_cursor=None)
    left = max(1, min(request.response_partition_limit, _MOST_PARTITIONS))
    response = Response(topics=[], next_cursor=None)
    for name in names:
        begin = 0
        if cursor is not None:
            if name < cursor.topic_name:
                continue
            begin = cursor.partition_index if name == cursor.topic_name else 0
        view = image.topics.get(name)
        if view is None:
            response.topics.append(
                Response.DescribeTopicPartitionsResponseTopic(
                    name=name, error_code=_code_of_none(name), topic_authorized_operations=_ALL_OF_TOPIC
                )
            )
            continue
        if not left:
            response.next_cursor = Response.Cursor(topic_name=name, partition_index=begin)
            break
        numbers = range(begin, view.partitions)[:left]
        response.topics.append(_topic_partitions(image, view, numbers))
        left -= len(numbers)
        if numbers.stop < view.partitions:
            response.next_cursor = Response.Cursor(topic_name=name, partition_index=numbers.stop)
            break
    return response


def _code_of_none(name: str) -> ErrorCode:
    """Why there is no topic of this name."""
    try:
        check_topic_name(name)
    except StreamlogError as error:
        return code_of(error)
    return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


def _topic_partitions(image: Image, view: TopicView, numbers: Iterable[int]) -> Any:
    Response = messages.DescribeTopicPartitionsResponse
    described = _topic(image, view)
    partitions = [
        Response.DescribeTopicPartitionsResponsePartition(
            **{name: getattr(described.partitions[number], name) for name in described.partitions[number].__slots__},
            eligible_leader_replicas=[],  # never null: Java's client does not look
            last_known_elr=[],
        )
        for number in numbers
    ]
    return Response.DescribeTopicPartitionsResponseTopic(
        name=view.name,
        topic_id=view.id_bytes,
        is_internal=view.internal,
        partitions=partitions,
        topic_authorized_operations=_ALL_OF_TOPIC,
    )


def handlers(keys: Iterable[int]) -> dict[int, Handler]:
    """`keys`: of all APIs that the listener has."""
    return {
        ApiKey.METADATA: metadata,
        ApiKey.API_VERSIONS: partial(api_versions, keys),
        ApiKey.DESCRIBE_CLUSTER: describe_cluster,
        ApiKey.DESCRIBE_TOPIC_PARTITIONS: describe_topic_partitions,
    }
