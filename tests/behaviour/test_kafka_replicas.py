"""What Kafka's clients ask about replicas: where they are, to move them, and which brokers have the metadata."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import streamlog
from streamlog.kafka import Listener, messages
from streamlog.kafka.errors import ErrorCode
from tests.behaviour.traffic import eventually
from tests.kafka.clients import asked, asked_at
from tests.kafka.fixtures import listener_of_log, log_of_three_brokers

log = log_of_three_brokers
listener = listener_of_log


def replicas_of(log: streamlog.StreamLog, topic: str) -> list[tuple[int, ...]]:
    return [tuple(log[topic].partition(n).replicas) for n in range(log[topic].partitions)]


def test_each_broker_describes_its_directory_with_the_replicas_in_it(
    log: streamlog.StreamLog, listener: Listener
) -> None:
    topic = log.create_topic("t", partitions=3, replication_factor=1)
    for number in range(3):
        topic.send(b"." * 1000 * (number + 1), partition=number).result()
    Request = messages.DescribeLogDirsRequest
    found = {}
    for broker_id, address in enumerate(listener.bootstrap_servers.split(",")):
        (directory,) = asked_at(address, 35, 4, Request(topics=None)).results
        assert (directory.error_code, directory.log_dir) == (
            ErrorCode.NONE,
            log.metrics()["brokers"][str(broker_id)]["path"],
        )
        for described in directory.topics:
            for each in described.partitions:
                assert described.name == "t"
                assert each.offset_lag == 0
                assert topic.partition(each.partition_index).leader == broker_id
                found[each.partition_index] = each.partition_size
    assert found == {number: topic.partition(number).size_bytes for number in range(3)}
    wanted = [Request.DescribableLogDirTopic(topic="t", partitions=[7]), Request.DescribableLogDirTopic(topic="none")]
    (directory,) = asked(listener, 35, 4, Request(topics=wanted)).results
    assert not directory.topics


def test_a_replica_moves_to_no_other_directory_of_its_broker(log: streamlog.StreamLog, listener: Listener) -> None:
    log.create_topic("t")
    Request = messages.AlterReplicaLogDirsRequest
    codes = []
    for path in (log.metrics()["brokers"]["0"]["path"], "/elsewhere"):
        topics = [Request.AlterReplicaLogDirTopic(name="t", partitions=[0, 7])]
        (topic,) = asked(listener, 34, 2, Request(dirs=[Request.AlterReplicaLogDir(path=path, topics=topics)])).results
        codes.append([each.error_code for each in topic.partitions])
    unknown = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert codes == [[ErrorCode.NONE, unknown], [ErrorCode.LOG_DIR_NOT_FOUND, unknown]]


def altered(listener: Listener, version: int, *partitions: tuple[int, list[int] | None], **given: Any) -> list[int]:
    Request = messages.AlterPartitionReassignmentsRequest
    topic = Request.ReassignableTopic(
        name="t",
        partitions=[Request.ReassignablePartition(partition_index=n, replicas=replicas) for n, replicas in partitions],
    )
    (answered,) = asked(listener, 45, version, Request(topics=[topic], **given)).responses
    return [each.error_code for each in answered.partitions]


def test_a_client_moves_replicas_and_a_replica_that_does_not_come_keeps_the_move_under_way(
    log: streamlog.StreamLog, listener: Listener
) -> None:
    topic = log.create_topic("t", replication_factor=1)
    topic.send(b"a").result()
    first = topic.partition(0).leader
    other, stopped = (each for each in range(3) if each != first)
    assert altered(listener, 1, (0, [first])) == [ErrorCode.NONE]  # where it is
    assert altered(listener, 1, (0, [first, 9]), (7, [first]), (0, None)) == [
        ErrorCode.INVALID_REPLICA_ASSIGNMENT,
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode.NO_REASSIGNMENT_IN_PROGRESS,
    ]
    fixed = {"allow_replication_factor_change": False}
    assert altered(listener, 1, (0, [first, other]), **fixed) == [ErrorCode.INVALID_REPLICATION_FACTOR]
    log.brokers[stopped].stop()
    assert altered(listener, 1, (0, [first, stopped])) == [ErrorCode.NONE]
    List = messages.ListPartitionReassignmentsRequest
    for wanted in (None, [List.ListPartitionReassignmentsTopics(name="t", partition_indexes=[0])]):
        (moving,) = asked(listener, 46, 0, List(topics=wanted)).topics
        (partition,) = moving.partitions
        assert (moving.name, set(partition.replicas), list(partition.adding_replicas)) == (
            "t",
            {first, stopped},
            [stopped],
        )
    assert altered(listener, 1, (0, None)) == [ErrorCode.NONE]
    eventually(lambda: not asked(listener, 46, 0, List(topics=None)).topics)
    assert replicas_of(log, "t") == [(first,)]
    assert [record.value for record in topic.read()] == [b"a"]


def test_the_quorum_of_the_metadata_is_the_brokers(log: streamlog.StreamLog, listener: Listener) -> None:
    Request = messages.DescribeQuorumRequest
    wanted = [
        Request.TopicData(topic_name=name, partitions=[Request.PartitionData(partition_index=0)])
        for name in ("t", "__cluster_metadata")
    ]
    ends = []
    for name in ("a", "b"):
        response = asked(listener, 55, 2, Request(topics=wanted))
        other, metadata = (topic.partitions[0] for topic in response.topics)
        assert other.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        assert (metadata.error_code, metadata.leader_id) == (ErrorCode.NONE, 0)
        assert [each.replica_id for each in metadata.current_voters] == [0, 1, 2]
        assert {each.log_end_offset for each in metadata.current_voters} == {metadata.high_watermark}
        assert len({each.replica_directory_id for each in metadata.current_voters}) == 3
        assert [each.node_id for each in response.nodes] == [0, 1, 2]
        ends.append(metadata.high_watermark)
        log.create_topic(name)
    assert ends[0] < ends[1]


def test_a_client_places_the_replicas_of_a_new_topic_and_of_new_partitions(
    log: streamlog.StreamLog, listener: Listener
) -> None:
    Request = messages.CreateTopicsRequest

    def created(*placed: list[int], **given: Any) -> int:
        assignments = [
            Request.CreatableReplicaAssignment(partition_index=n, broker_ids=ids) for n, ids in enumerate(placed)
        ]
        topic = Request.CreatableTopic(
            **{"name": "t", "num_partitions": -1, "replication_factor": -1} | given, assignments=assignments
        )
        (made,) = asked(listener, 19, 7, Request(topics=[topic], timeout_ms=30_000)).topics
        return made.error_code

    refused = ErrorCode.INVALID_REPLICA_ASSIGNMENT
    assert created([0], [9]) == created([0, 0]) == created([0], [1, 2]) == created([]) == refused
    assert created([0], num_partitions=1) == ErrorCode.INVALID_REQUEST
    assert created([2, 0], [1, 2], [2, 1]) == ErrorCode.NONE
    assert replicas_of(log, "t") == [(2, 0), (1, 2), (2, 1)]
    More = messages.CreatePartitionsRequest
    for count, placed, code in ((5, [[0, 1]], refused), (4, [[0, 7]], refused), (5, [[0, 1], [1, 0]], ErrorCode.NONE)):
        assignments = [More.CreatePartitionsAssignment(broker_ids=ids) for ids in placed]
        topic = More.CreatePartitionsTopic(name="t", count=count, assignments=assignments)
        (result,) = asked(listener, 37, 3, More(topics=[topic], timeout_ms=30_000)).results
        assert result.error_code == code
    assert replicas_of(log, "t") == [(2, 0), (1, 2), (2, 1), (0, 1), (1, 0)]


def test_a_broker_that_does_not_run_holds_a_creation_no_longer_than_the_client_waits(
    log: streamlog.StreamLog, listener: Listener
) -> None:
    Request = messages.CreateTopicsRequest
    log.brokers[2].stop()
    placed = [Request.CreatableReplicaAssignment(partition_index=0, broker_ids=[0, 2])]
    topic = Request.CreatableTopic(name="t", num_partitions=-1, replication_factor=-1, assignments=placed)
    other = Request.CreatableTopic(name="other", num_partitions=1, replication_factor=1)
    made, made_too = asked(listener, 19, 7, Request(topics=[topic, other], timeout_ms=1)).topics
    assert made.error_code == ErrorCode.REQUEST_TIMED_OUT, made.error_message
    assert made_too.error_code == ErrorCode.NONE
    More = messages.CreatePartitionsRequest
    more = More.CreatePartitionsTopic(
        name="other", count=2, assignments=[More.CreatePartitionsAssignment(broker_ids=[2])]
    )
    (result,) = asked(listener, 37, 3, More(topics=[more], timeout_ms=1)).results
    assert result.error_code == ErrorCode.REQUEST_TIMED_OUT, result.error_message
    log.brokers[2].start()
    eventually(lambda: replicas_of(log, "t") == [(0, 2)])


def test_creations_that_wait_for_a_broker_hold_up_no_other_request(
    log: streamlog.StreamLog, listener: Listener
) -> None:
    Request = messages.CreateTopicsRequest
    names = [f"t{number}" for number in range(5)]  # the listener has four threads for what blocks
    log.brokers[2].stop()

    def created(name: str) -> int:
        placed = [Request.CreatableReplicaAssignment(partition_index=0, broker_ids=[0, 2])]
        topic = Request.CreatableTopic(name=name, num_partitions=-1, replication_factor=-1, assignments=placed)
        (made,) = asked(listener, 19, 7, Request(topics=[topic], timeout_ms=60_000)).topics
        return int(made.error_code)

    with ThreadPoolExecutor(len(names)) as threads:
        creations = [threads.submit(created, name) for name in names]
        eventually(lambda: {each.name for each in log.topics()} >= set(names))
        Find = messages.FindCoordinatorRequest
        (found,) = asked(listener, 10, 4, Find(coordinator_keys=["g"])).coordinators
        assert found.error_code == ErrorCode.NONE
        assert not any(each.done() for each in creations)
        log.brokers[2].start()
        assert [each.result() for each in creations] == [ErrorCode.NONE] * len(names)
    assert [replicas_of(log, name) for name in names] == [[(0, 2)]] * len(names)
