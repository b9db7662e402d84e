"""A refused request is answered with its error in the place that Kafka has for it, in every API and version that there is."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import streamlog
from streamlog.kafka import error_responses, messages, protocol, schema
from streamlog.kafka.apis import CLOSE, Later
from streamlog.kafka.error_responses import Place, Refusal, answer, depth_of, shape_of
from streamlog.kafka.errors import ErrorCode, coordinator_code_of
from streamlog.runtime.api import Completion
from tests.kafka.clients import errors_in
from tests.kafka.random_messages import random_message

PARTITION, COORDINATOR = ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.NOT_COORDINATOR
MEMBER, OTHER = ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.UNKNOWN_SERVER_ERROR

# Where Kafka's brokers put an error of a partition, of the coordinator, and of a member, by API and first version.
PLACES: dict[str, dict[int, tuple[str, str, str]]] = {
    "Produce": {3: ("responses.partition_responses",) * 3},
    "Fetch": {4: ("responses.partitions",) * 3, 7: ("responses.partitions", "", "")},
    "ListOffsets": {1: ("topics.partitions",) * 3},
    "Metadata": {0: ("topics",) * 3, 13: ("topics", "", "")},
    "OffsetCommit": {2: ("topics.partitions",) * 3},
    "OffsetFetch": {
        1: ("topics.partitions",) * 3,
        2: ("topics.partitions", "", ""),
        8: ("groups.topics.partitions", "groups", "groups"),
    },
    "FindCoordinator": {0: ("",) * 3, 4: ("coordinators",) * 3},
    "LeaveGroup": {0: ("",) * 3, 3: ("members", "", "members")},
    "DescribeGroups": {0: ("groups",) * 3},
    "CreateTopics": {2: ("topics",) * 3},
    "DeleteTopics": {1: ("responses",) * 3},
    "DeleteRecords": {0: ("topics.partitions",) * 3},
    "OffsetForLeaderEpoch": {2: ("topics.partitions",) * 3},
    "AddPartitionsToTxn": {
        0: ("results_by_topic_v3_and_below.results_by_partition",) * 3,
        4: (*("results_by_transaction.topic_results.results_by_partition",) * 2, ""),
    },
    "TxnOffsetCommit": {0: ("topics.partitions",) * 3},
    "DescribeConfigs": {1: ("results",) * 3},
    "AlterConfigs": {0: ("responses",) * 3},
    "IncrementalAlterConfigs": {0: ("responses",) * 3},
    "AlterReplicaLogDirs": {1: ("results.partitions",) * 3},
    "DescribeLogDirs": {1: ("results",) * 3, 3: ("",) * 3},
    "CreatePartitions": {0: ("results",) * 3},
    "DeleteGroups": {0: ("results",) * 3},
    "ElectLeaders": {
        0: ("replica_election_results.partition_result",) * 3,
        1: ("replica_election_results.partition_result", "", ""),
    },
    "AlterPartitionReassignments": {0: ("responses.partitions", "", "")},
    "OffsetDelete": {0: ("topics.partitions", "", "")},
    "DescribeQuorum": {0: ("topics.partitions", "", "")},
    "UpdateFeatures": {0: ("results", "", ""), 2: ("",) * 3},
    "DescribeProducers": {0: ("topics.partitions",) * 3},
    "DescribeTransactions": {0: ("transaction_states",) * 3},
    "ConsumerGroupDescribe": {0: ("groups",) * 3},
    "DescribeTopicPartitions": {0: ("topics",) * 3},
}
EVERY = [(name, key) for key, name in sorted(schema.names().items())]


def versions(key: int) -> range:
    low, high = protocol.versions_of(key)
    return range(low, high + 1)


def path_of(key: int, version: int, code: ErrorCode) -> str:
    at, path = shape_of(key, version), []
    for _ in range(depth_of(key, version, code)):
        path.append(at.array or "?")
        assert at.part is not None
        at = at.part
    return ".".join(path)


def refused(
    key: int, version: int, request: Any, code: int, selects: Callable[[Place], bool] = lambda place: True,
    respond: Callable[[], Any] | None = None, *, after: bool = False,
) -> Any:  # fmt: skip
    refusal = Refusal(code, depth_of(key, version, code), selects, after, "no")
    response = answer(key, version, request, [refusal], respond or shape_of(key, version).make)
    return protocol.decode(*encoded(key, version, response))[0]


def encoded(key: int, version: int, response: Any) -> tuple[str, int, bytes]:
    name = f"{schema.names()[key]}Response"
    return name, version, b"".join(protocol.encode(name, version, response))


def requests(key: int, version: int, count: int = 20) -> Iterator[Any]:
    rng = random.Random(f"{key} {version}")
    for _ in range(count):
        yield random_message(rng, f"{schema.names()[key]}Request", version)


@pytest.mark.parametrize(("name", "key"), EVERY)
def test_an_error_is_where_kafka_has_it_in_every_version(name: str, key: int) -> None:
    by_version = PLACES.get(name, {0: ("", "", "")})
    for version in versions(key):
        expected = by_version[max(first for first in by_version if first <= version)]
        assert tuple(path_of(key, version, code) for code in (PARTITION, COORDINATOR, MEMBER)) == expected, version


@pytest.mark.parametrize(("name", "key"), EVERY)
@pytest.mark.parametrize("code", [PARTITION, COORDINATOR, MEMBER, OTHER])
def test_a_request_that_is_refused_has_its_error_once_for_each_part_and_is_not_looked_at(
    name: str, key: int, code: ErrorCode
) -> None:
    for version in versions(key):
        for request in requests(key, version):
            shape, depth = shape_of(key, version), depth_of(key, version, code)
            named = error_responses.places_of(key, version, request, depth)
            left: list[Place] = []

            def respond(
                shape: Any = shape, request: Any = request, version: int = version, depth: int = depth, left: Any = left
            ) -> Any:
                left += error_responses.places_of(key, version, request, depth) or []
                return shape.make()

            response = refused(key, version, request, code, respond=respond)
            if named is None:
                continue  # it is for all of them: those that the response has get the error
            marks = {error_responses._mark(place) for place in named}
            assert errors_in(response) == [code] * len(marks), (version, request)
            again = error_responses._places(shape, response, depth, is_request=False)
            assert {error_responses._mark(place) for place in again or ()} == marks, version
            assert left == [], version


@pytest.mark.parametrize("after", [False, True])
def test_partitions_that_an_error_is_not_meant_for_are_answered_as_ever(after: bool) -> None:
    Request, Response = messages.ListOffsetsRequest, messages.ListOffsetsResponse
    asked: list[tuple[str, int]] = []
    request = Request(
        topics=[
            Request.ListOffsetsTopic(name=name, partitions=[Request.ListOffsetsPartition(partition_index=n) for n in (0, 1)])
            for name in ("a", "b")
        ]
    )  # fmt: skip

    def respond() -> Any:
        asked.extend((topic.name, each.partition_index) for topic in request.topics for each in topic.partitions)
        return Response(
            topics=[
                Response.ListOffsetsTopicResponse(
                    name=topic.name,
                    partitions=[
                        Response.ListOffsetsPartitionResponse(partition_index=each.partition_index, offset=9)
                        for each in topic.partitions
                    ],
                )
                for topic in request.topics
            ]
        )

    def selects(place: Place) -> bool:
        topic, partition = place
        return topic["name"] == "b" or partition["partition_index"] == 1

    response = refused(2, 7, request, PARTITION, selects, respond, after=after)
    found = {
        (topic.name, each.partition_index): (each.error_code, each.offset)
        for topic in response.topics
        for each in topic.partitions
    }
    assert found == {("a", 0): (0, 9), ("a", 1): (6, -1), ("b", 0): (6, -1), ("b", 1): (6, -1)}
    assert len(asked) == (4 if after else 1)


def test_what_is_asked_of_all_topics_has_the_error_in_those_that_the_answer_has() -> None:
    Response = messages.MetadataResponse

    def respond() -> Any:
        topics = [
            Response.MetadataResponseTopic(name=name, partitions=[Response.MetadataResponsePartition(partition_index=3)])
            for name in ("a", "b")
        ]  # fmt: skip
        return Response(brokers=[Response.MetadataResponseBroker(node_id=1, host="h", port=2)], topics=topics)

    request = messages.MetadataRequest(topics=None)
    response = refused(3, 12, request, PARTITION, lambda place: place[0]["name"] == "b", respond)
    assert [(each.name, each.error_code, len(each.partitions)) for each in response.topics] == [
        ("a", 0, 1),
        ("b", 6, 0),
    ]
    assert [each.node_id for each in response.brokers] == [1]


@pytest.mark.parametrize("version", [0, 1, 12])
def test_a_client_is_told_the_brokers_where_no_topic_is_left_of_its_request(version: int) -> None:
    Request, Response = messages.MetadataRequest, messages.MetadataResponse

    def respond() -> Any:
        brokers = [Response.MetadataResponseBroker(node_id=1, host="h", port=2)]
        return Response(brokers=brokers, topics=[Response.MetadataResponseTopic(name="all of them")])

    request = Request(topics=[Request.MetadataRequestTopic(name="t")])
    response = refused(3, version, request, PARTITION, respond=respond)
    assert [(each.name, each.error_code) for each in response.topics] == [("t", 6)]
    assert [each.node_id for each in response.brokers] == [1]


def test_an_error_after_the_work_waits_for_it() -> None:
    done: Completion[None] = Completion()
    refusal = Refusal(COORDINATOR, 0, lambda place: True, True)
    response = answer(12, 4, messages.HeartbeatRequest(), [refusal], lambda: Later(done, lambda _: "done"))
    assert isinstance(response, Later)
    assert response.respond(done).error_code == COORDINATOR


@pytest.mark.parametrize("after", [False, True])
def test_a_request_without_an_answer_that_is_refused_closes_the_connection(after: bool) -> None:
    Request = messages.ProduceRequest
    data = Request.TopicProduceData(name="t", partition_data=[Request.PartitionProduceData(index=0)])
    refusal = Refusal(PARTITION, 2, lambda place: True, after)
    assert answer(0, 9, Request(topic_data=[data]), [refusal], lambda: None, answers=False) is CLOSE


def test_the_first_refusal_of_a_partition_counts() -> None:
    Request = messages.OffsetCommitRequest
    topic = Request.OffsetCommitRequestTopic(
        name="t", partitions=[Request.OffsetCommitRequestPartition(partition_index=n) for n in (0, 1)]
    )
    refusals = [
        Refusal(OTHER, 2, lambda place: place[1]["partition_index"] == 0, False),
        Refusal(PARTITION, 2, lambda place: True, False),
    ]
    response = answer(8, 8, Request(topics=[topic]), refusals, messages.OffsetCommitResponse)
    assert [each.error_code for each in response.topics[0].partitions] == [OTHER, PARTITION]


def test_an_error_has_kafkas_name_for_every_code() -> None:
    theirs = pytest.importorskip("kio.schema.errors", reason="kio, which this test compares with, is not installed")
    assert {each.name: each.value for each in ErrorCode} == {each.name.upper(): each.value for each in theirs.ErrorCode}


def test_what_fails_the_log_of_a_coordinator_has_clients_look_for_the_coordinator_again() -> None:
    found = [
        coordinator_code_of(error)
        for error in (
            streamlog.NotLeaderError("moves"),
            streamlog.NotEnoughReplicasError("too few"),
            streamlog.RequestTimedOutError("late"),
            streamlog.StorageError("disk", path="p", errno=5),
            streamlog.UnknownTopicOrPartitionError("none"),
        )
    ]
    assert found == [
        ErrorCode.NOT_COORDINATOR, ErrorCode.COORDINATOR_NOT_AVAILABLE, ErrorCode.COORDINATOR_NOT_AVAILABLE,
        ErrorCode.NOT_COORDINATOR, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
    ]  # fmt: skip
