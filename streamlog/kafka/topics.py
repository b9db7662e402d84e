"""Changes of topics: CreateTopics (19), DeleteTopics (20), DeleteRecords (21), CreatePartitions (37), ElectLeaders (43).

CreateTopics answers with the settings that a topic has, and what each comes from, also if it only validates (version 5 on). Each topic
of a request succeeds or fails by itself. Changes take some syncs, so they run beside the listener's thread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

from ..broker.metadata import KafkaConfig
from ..config import TopicConfig, check_topic_name
from ..errors import (
    ConfigError,
    InvalidTopicError,
    NotLeaderError,
    OffsetOutOfRangeError,
    RequestTimedOutError,
    StreamlogError,
    TopicAlreadyExistsError,
)
from ..runtime.api import AllDone, Completion
from ..runtime.threads import result_of
from . import broker_configs, messages, settings
from .api_keys import ApiKey
from .apis import Call, Later, led_partition, partition_of, topic_of, within
from .configs import described
from .errors import ErrorCode, code_of
from .schema import ZERO_UUID

T = TypeVar("T")
_HIGH_WATERMARK = -1  # the offset by which DeleteRecords means it
_FIRST_DELETE_WITH_IDS = 6  # of topics (KIP-516)
_PREFERRED, _UNCLEAN = 0, 1  # types of an election (KIP-460)
_MOVE_MS = 30_000
"""How long a change waits at most for new partitions to come to the brokers that the client gave."""
_ADMIN_ERRORS = {"partitions": ErrorCode.INVALID_PARTITIONS, "replication_factor": ErrorCode.INVALID_REPLICATION_FACTOR}


def _admin_code(error: StreamlogError) -> ErrorCode:
    """A bad number of partitions, or of replicas, or a bad place, has a code of its own."""
    if isinstance(error, _AssignmentError):
        return ErrorCode.INVALID_REPLICA_ASSIGNMENT
    if isinstance(error, _RequestError):
        return ErrorCode.INVALID_REQUEST
    return (
        _ADMIN_ERRORS.get(getattr(error, "name", ""), code_of(error))
        if isinstance(error, ConfigError)
        else code_of(error)
    )


class _AssignmentError(ConfigError):
    """Replicas that a client has placed by hand, and that cannot be."""


class _CompactedError(StreamlogError):
    """Records of a topic whose policy is not to delete them."""


class _RequestError(ConfigError):
    """A request that contradicts itself."""


def _replicas_of(call: Call, placed: Mapping[int, Sequence[int]]) -> int:
    """How many replicas each of these partitions has. Raises _AssignmentError if they are not the same, or not different brokers."""
    brokers = call.service.broker_paths()
    numbers = {len(replicas) for replicas in placed.values()}
    if len(numbers) != 1 or 0 in numbers:
        raise _AssignmentError("Every partition has as many replicas as the others, at least one.")
    for number, replicas in placed.items():
        if len(set(replicas)) < len(replicas) or not brokers.keys() >= set(replicas):
            raise _AssignmentError(
                f"Replicas {list(replicas)} of partition {number} are not different brokers of this log, which has {list(brokers)}."
            )
    return numbers.pop()


class _Placement(NamedTuple):
    """New partitions that move, while they are empty, to where the client wants them: the log has chosen other brokers."""

    topic: str
    done: Completion[None]
    result: Any
    """The part of the response that is about this topic."""
    succeed: Callable[[], None]


def _place(call: Call, name: str, placed: Mapping[int, Sequence[int]]) -> Completion[None] | None:
    """Begin to move them; None if they are where they should be."""
    image = call.service.image
    view = topic_of(image, name, None)
    moved = {n: at for n, at in placed.items() if image.partition(view.id_bytes, n).replicas != tuple(at)}
    return call.service.await_reassignment(result_of(call.service.reassign(name, moved, None))) if moved else None


def _once_placed(call: Call, response: Any, placements: list[_Placement]) -> Any:
    """The response, once the placements are done; with an error for those that take longer than the client waits, or than 30 s: a
    broker of these may not run. No thread waits, so that other requests are answered meanwhile.
    """
    if not placements:
        return response
    wait_ms = min(max(call.request.timeout_ms, 0), _MOVE_MS)

    def respond() -> Any:
        for each in placements:
            try:
                if not each.done.done():
                    raise _not_placed(each.topic, wait_ms)
                each.done.result()
                each.succeed()
            except StreamlogError as error:
                each.result.error_code, each.result.error_message = _admin_code(error), str(error)
        return response

    every = AllDone([each.done for each in placements])
    return Later(
        Completion.of(None), lambda _: within(every, wait_ms / 1000, respond)
    )  # which begins on the listener's thread


def _not_placed(topic: str, wait_ms: int) -> RequestTimedOutError:
    return RequestTimedOutError(
        f"The partitions of topic {topic!r} are there, and have not come to the brokers that were given for them within "
        f"{wait_ms:,} ms. It goes on in the background: see ListPartitionReassignments, and whether these brokers run."
    )


def _more_than_once(names: list[Any]) -> set[Any]:
    return {name for name, times in Counter(names).items() if times > 1}


# -- CreateTopics ----------------------------------------------------------------------------------------


def create_topics(call: Call) -> Any:
    return call.blocking(partial(_create_topics, call))


def _create_topics(call: Call) -> Any:
    Response = messages.CreateTopicsResponse
    twice = _more_than_once([topic.name for topic in call.request.topics])
    results: dict[str, Any] = {}
    placements: list[_Placement] = []
    for topic in call.request.topics:
        made = Response.CreatableTopicResult(
            name=topic.name, error_message=None, num_partitions=-1, replication_factor=-1, configs=[]
        )
        results[topic.name] = made
        if topic.name in twice:
            made.error_code, made.error_message = ErrorCode.INVALID_REQUEST, f"{topic.name!r} is in the request twice."
            continue
        try:
            placements += _create_topic(call, topic, made)
        except StreamlogError as error:
            made.error_code, made.error_message = _admin_code(error), str(error)
    return _once_placed(call, Response(topics=list(results.values())), placements)


def _create_topic(call: Call, topic: Any, made: Any) -> list[_Placement]:
    """Create one, and say what it waits for."""
    service = call.service
    check_topic_name(topic.name)
    if topic.name in service.image.topics:
        raise TopicAlreadyExistsError(f"Topic {topic.name!r} already exists.")
    if topic.name in settings.INTERNAL_TOPICS:
        raise InvalidTopicError(f"{topic.name!r} is made by the log itself, when it is needed.")
    check_collision(topic.name, service.image.topics)
    texts = _given(topic.configs)
    given = settings.from_kafka(texts)
    count: int | None = topic.num_partitions
    factor = topic.replication_factor
    placed: dict[int, list[int]] = {}
    if topic.assignments:
        if count != -1 or factor != -1:
            raise _RequestError("A topic has either assignments, or a number of partitions and of replicas.")
        placed = {each.partition_index: each.broker_ids for each in topic.assignments}
        if sorted(placed) != list(range(len(topic.assignments))):
            raise _AssignmentError("The assignments are of the partitions from 0 on, each once.")
        count, factor = len(placed), _replicas_of(call, placed)
    if count == -1:
        count = call.settings.partitions
    wanted = {**broker_configs.topic_defaults(call.settings), **given}
    if factor != -1:
        wanted["replication_factor"] = factor
    kafka = KafkaConfig(frozenset(given), texts)
    if call.request.validate_only:
        made.num_partitions, made.replication_factor, config = result_of(
            service.validate_topic(topic.name, count, wanted, kafka=kafka)
        )
        made.configs = _configs_of(call, config, kafka, texts)
        return []
    view = result_of(service.create_topic(topic.name, count, wanted, kafka=kafka))

    def succeed() -> None:
        made.topic_id, made.num_partitions = view.id_bytes, view.partitions
        made.replication_factor = len(service.image.partition(view.id_bytes, 0).replicas)
        made.configs = _configs_of(call, view.config, kafka, texts)

    done = _place(call, topic.name, placed)
    if done is None:
        succeed()
        return []
    return [_Placement(topic.name, done, made, succeed)]


def _configs_of(call: Call, config: TopicConfig, kafka: KafkaConfig, texts: Mapping[str, str]) -> list[Any]:
    Config = messages.CreateTopicsResponse.CreatableTopicConfigs
    return [
        Config(name=each.name, value=each.text, read_only=False, config_source=each.source)
        for each in described(config, kafka.explicit, texts, call.settings)
    ]


def check_collision(name: str, known: Iterable[str]) -> None:
    """Raises InvalidTopicError if a topic has this name but for `.` and `_`, of which Kafka makes one in its metrics."""
    if "." in name or "_" in name:
        plain = name.replace(".", "_")
        others = [each for each in known if each != name and each.replace(".", "_") == plain]
        if others:
            raise InvalidTopicError(
                f"Topic {name!r} collides with {', '.join(map(repr, others))}: their names differ in '.' and '_' alone. Nothing "
                f"was created; use another name."
            )


def _given(configs: Iterable[Any]) -> dict[str, str]:
    for each in configs:
        if each.value is None:
            raise ConfigError(f"Null value not supported for topic configs: {each.name}", name=each.name)
    return {each.name: each.value for each in configs}


# -- DeleteTopics ----------------------------------------------------------------------------------------


def delete_topics(call: Call) -> Any:
    return call.blocking(partial(_delete_topics, call))


def _delete_topics(call: Call) -> Any:
    request, service = call.request, call.service
    Response = messages.DeleteTopicsResponse
    wanted = [(each.name, each.topic_id) for each in request.topics]
    if call.version < _FIRST_DELETE_WITH_IDS:
        wanted = [(name, None) for name in request.topic_names]
    twice = _more_than_once([topic_id if name is None else name for name, topic_id in wanted])
    results = []
    for name, topic_id in dict.fromkeys(wanted):
        result = Response.DeletableTopicResult(name=name)
        if name is None:
            result.topic_id = topic_id
        results.append(result)
        if topic_id is not None and (name is None) == (topic_id == ZERO_UUID):
            said = "neither a name nor an id" if name is None else "both a name and an id"
            result.error_code, result.error_message = (
                ErrorCode.INVALID_REQUEST,
                f"A topic has {said}: give one of them.",
            )
            continue
        if (topic_id if name is None else name) in twice:
            result.error_code, result.error_message = ErrorCode.INVALID_REQUEST, "The topic is in the request twice."
            continue
        try:
            view = topic_of(service.image, name, topic_id if name is None else None)
            if view.internal:
                raise InvalidTopicError(f"{view.name!r} belongs to the log itself.")
            result.name, result.topic_id = view.name, view.id_bytes
            result_of(service.delete_topic(view.name))
        except StreamlogError as error:
            result.error_code, result.error_message = code_of(error), str(error)
    return Response(responses=results)


# -- CreatePartitions ------------------------------------------------------------------------------------


def create_partitions(call: Call) -> Any:
    return call.blocking(partial(_create_partitions, call))


def _create_partitions(call: Call) -> Any:
    Response = messages.CreatePartitionsResponse
    wanted = {topic.name: topic for topic in call.request.topics}
    twice = _more_than_once([topic.name for topic in call.request.topics])
    results = []
    placements = []
    for topic in wanted.values():
        result = Response.CreatePartitionsTopicResult(name=topic.name)
        results.append(result)
        try:
            if topic.name in twice:
                raise _RequestError(f"{topic.name!r} is in the request twice.")
            view = topic_of(call.service.image, topic.name, None)
            if topic.count <= view.partitions:
                raise ConfigError(
                    f"{topic.name!r} has {view.partitions} partitions, and may only get more than that, not {topic.count}.",
                    name="partitions",
                )
            placed: dict[int, list[int]] = {}
            if topic.assignments:
                if len(topic.assignments) != topic.count - view.partitions:
                    raise _AssignmentError(
                        f"There are {len(topic.assignments)} assignments, not one of each new partition."
                    )
                placed = {view.partitions + n: each.broker_ids for n, each in enumerate(topic.assignments)}
                _replicas_of(call, placed)
            if not call.request.validate_only:
                result_of(call.service.add_partitions(topic.name, topic.count))
                done = _place(call, topic.name, placed)
                if done is not None:
                    placements.append(_Placement(topic.name, done, result, _nothing))
        except StreamlogError as error:
            result.error_code, result.error_message = _admin_code(error), str(error)
    return _once_placed(call, Response(results=results), placements)


def _nothing() -> None:
    """A result of CreatePartitions says no more than that there is no error."""


# -- DeleteRecords ---------------------------------------------------------------------------------------


def delete_records(call: Call) -> Any:
    return call.blocking(partial(_delete_records, call))


def _delete_records(call: Call) -> Any:
    Response = messages.DeleteRecordsResponse
    topics = []
    for topic in call.request.topics:
        results = []
        for each in topic.partitions:
            result = Response.DeleteRecordsPartitionResult(partition_index=each.partition_index, low_watermark=-1)
            results.append(result)
            try:
                result.low_watermark = _delete_before(call, topic.name, each.partition_index, each.offset)
            except _CompactedError:
                result.error_code = ErrorCode.POLICY_VIOLATION
            except StreamlogError as error:
                result.error_code = code_of(error)
        topics.append(Response.DeleteRecordsTopicResult(name=topic.name, partitions=results))
    return Response(topics=topics)


def _delete_before(call: Call, name: str, number: int, offset: int) -> int:
    service = call.service
    image = service.image
    view = topic_of(image, name, None)
    at = led_partition(call, image, view, number)
    if not view.config.deletes:
        raise _CompactedError(
            f"{name!r} is compacted, and its cleanup.policy does not delete. Nothing was deleted; send tombstones, or add "
            f"'delete' to its cleanup.policy."
        )
    start, high = result_of(service.bounds(at, "read_uncommitted"))
    if offset == _HIGH_WATERMARK:
        offset = high
    if not 0 <= offset <= high:
        raise OffsetOutOfRangeError(
            f"Offset {offset} is outside {name}-{number}, which holds {start} up to, not including, {high}.",
            log_start_offset=start,
            log_end_offset=high,
        )
    return result_of(service.delete_records(at, offset))


# -- ElectLeaders ----------------------------------------------------------------------------------------


def elect_leaders(call: Call) -> Any:
    return call.blocking(partial(_elect_leaders, call))


def _elect_leaders(call: Call) -> Any:
    request, image = call.request, call.service.image
    Response = messages.ElectLeadersResponse
    if request.election_type not in (_PREFERRED, _UNCLEAN):
        return Response(error_code=ErrorCode.INVALID_REQUEST)
    wanted = request.topic_partitions
    asked = (
        [(view.name, range(view.partitions)) for view in image.topics.values()]
        if wanted is None
        else [(each.topic, each.partitions) for each in wanted]
    )
    results = []
    for name, numbers in asked:
        partitions = []
        for number in numbers:
            result = Response.PartitionResult(partition_id=number)
            result.error_code, result.error_message = _elected(call, name, number, request.election_type)
            if wanted is not None or result.error_code != ErrorCode.ELECTION_NOT_NEEDED:
                partitions.append(result)
        if partitions:
            results.append(Response.ReplicaElectionResult(topic=name, partition_result=partitions))
    return Response(replica_election_results=results)


def _elected(call: Call, name: str, number: int, kind: int) -> tuple[ErrorCode, str | None]:
    """An unclean election is the log's own to make, where the topic allows it: there is none to ask for while there is a leader."""
    image = call.service.image
    try:
        view = topic_of(image, name, None)
        at = partition_of(view, number)
        known = image.partition(view.id_bytes, number)
        if known.leader >= 0 and (kind == _UNCLEAN or known.leader == known.replicas[0]):
            return ErrorCode.ELECTION_NOT_NEEDED, f"Broker {known.leader} leads {name}-{number} already."
        if known.leader < 0:
            is_unclean = kind == _UNCLEAN
            code = ErrorCode.ELIGIBLE_LEADERS_NOT_AVAILABLE if is_unclean else ErrorCode.PREFERRED_LEADER_NOT_AVAILABLE
            return code, f"None of the replicas of {name}-{number} that are in sync runs."
        result_of(call.service.elect_leader(at))
    except NotLeaderError as error:
        return ErrorCode.PREFERRED_LEADER_NOT_AVAILABLE, str(error)
    except StreamlogError as error:
        return code_of(error), str(error)
    return ErrorCode.NONE, None


handlers: dict[int, Callable[[Call], Any]] = {
    ApiKey.CREATE_TOPICS: create_topics,
    ApiKey.DELETE_TOPICS: delete_topics,
    ApiKey.DELETE_RECORDS: delete_records,
    ApiKey.CREATE_PARTITIONS: create_partitions,
    ApiKey.ELECT_LEADERS: elect_leaders,
}
