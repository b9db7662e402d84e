"""What administrators' tools of Kafka ask: directories, reassignments, the quorum, features, producers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog.kafka import Listener, messages
from streamlog.kafka.errors import ErrorCode
from streamlog.runtime.disk import OsDisk
from streamlog.testing import ManualClock, SimulatedDisk
from tests.behaviour.traffic import eventually
from tests.kafka.clients import WAIT_S, asked, asked_at
from tests.kafka.fixtures import listener_of_log, temporary_log
from tests.kafka.members import commit, new_producer

log = temporary_log
listener = listener_of_log

UPGRADE, SAFE_DOWNGRADE, UNSAFE_DOWNGRADE = 1, 2, 3


@pytest.fixture
def three(tmp_path: Path) -> Iterator[streamlog.StreamLog]:
    """A log of three brokers; `t` has two partitions, both on broker 0 alone."""
    with streamlog.open(tmp_path / "log", brokers=3) as log:
        topic = log.create_topic("t", partitions=2, replication_factor=1)
        log.reassign(topic, replicas={0: [0], 1: [0]}).wait(WAIT_S)
        yield log


@pytest.fixture
def admin(three: streamlog.StreamLog) -> Iterator[Any]:
    from kafka.admin import KafkaAdminClient

    with Listener(three) as listener:
        client = KafkaAdminClient(bootstrap_servers=listener.bootstrap_servers)
        try:
            yield client
        finally:
            client.close()


def replicas(log: streamlog.StreamLog, number: int) -> tuple[int, ...]:
    return log["t"].partition(number).replicas


# -- directories -----------------------------------------------------------------------------------------


def log_dirs(address: str, wanted: dict[str, list[int]] | None, version: int = 4) -> Any:
    Request = messages.DescribeLogDirsRequest
    topics = [Request.DescribableLogDirTopic(topic=name, partitions=each) for name, each in (wanted or {}).items()]
    response = asked_at(address, 35, version, Request(topics=None if wanted is None else topics))
    (result,) = response.results
    return result


def test_each_broker_describes_its_own_directory(three: streamlog.StreamLog) -> None:
    three["t"].send("x" * 100, partition=1)
    with Listener(three) as listener:
        addresses = listener.bootstrap_servers.split(",")
        for version in range(1, 6):
            result = log_dirs(addresses[0], {"t": [0, 1, 7], "none": [0]}, version)
            assert (result.error_code, result.log_dir) == (ErrorCode.NONE, three.brokers[0].path)
            (topic,) = result.topics
            assert [each.partition_index for each in topic.partitions] == [0, 1]
            assert [each.partition_size for each in topic.partitions] == [0, three["t"].partition(1).size_bytes]
            assert not any(each.offset_lag or each.is_future_key for each in topic.partitions)
            assert (0 < result.usable_bytes <= result.total_bytes) is (version >= 4)
        assert log_dirs(addresses[1], {"t": [0, 1]}).topics == []
        assert {each.log_dir for each in (log_dirs(one, None) for one in addresses)} == {
            broker.path for broker in three.brokers
        }
        assert [each.name for each in log_dirs(addresses[0], None).topics] == ["t"]
        assert log_dirs(addresses[0], {}).topics == []


def test_a_file_system_in_memory_has_no_size() -> None:
    with streamlog.open("data", disk=SimulatedDisk(), clock=ManualClock()) as log, Listener(log) as listener:
        result = log_dirs(listener.bootstrap_servers, None)
        assert (result.log_dir, result.total_bytes, result.usable_bytes) == ("/data", -1, -1)


class DiskOfUnknownSize(OsDisk):
    def space(self, path: str) -> tuple[int, int]:
        raise PermissionError(13, "not for you", path)


def test_a_file_system_that_cannot_be_asked_has_no_size(tmp_path: Path) -> None:
    with streamlog.open(tmp_path / "log", disk=DiskOfUnknownSize()) as log, Listener(log) as listener:
        result = log_dirs(listener.bootstrap_servers, None)
        assert (result.error_code, result.total_bytes, result.usable_bytes) == (ErrorCode.NONE, -1, -1)


def test_kafka_pythons_admin_client_describes_directories(three: streamlog.StreamLog, admin: Any) -> None:
    found = repr(admin.describe_log_dirs())
    assert all(str(broker.path) in found for broker in three.brokers)


# -- reassignments ---------------------------------------------------------------------------------------


def reassigned(listener: Listener, wanted: dict[int, list[int] | None], topic: str = "t", *, may_change: bool = True) -> dict[int, int]:  # fmt: skip
    """The error of each partition."""
    Request = messages.AlterPartitionReassignmentsRequest
    partitions = [Request.ReassignablePartition(partition_index=each, replicas=to) for each, to in wanted.items()]
    topics = [Request.ReassignableTopic(name=topic, partitions=partitions)]
    request = Request(topics=topics, allow_replication_factor_change=may_change)
    response = asked(listener, 45, 1, request)
    assert (response.error_code, response.allow_replication_factor_change) == (ErrorCode.NONE, may_change)
    (answer,) = response.responses
    assert answer.name == topic
    return {each.partition_index: each.error_code for each in answer.partitions}


def under_way(listener: Listener, wanted: dict[str, list[int]] | None = None) -> dict[tuple[str, int], Any]:
    Request = messages.ListPartitionReassignmentsRequest
    asked_for = [
        Request.ListPartitionReassignmentsTopics(name=name, partition_indexes=each)
        for name, each in (wanted or {}).items()
    ]
    response = asked(listener, 46, 0, Request(topics=None if wanted is None else asked_for))
    return {
        (topic.name, each.partition_index): (
            list(each.replicas),
            list(each.adding_replicas),
            list(each.removing_replicas),
        )
        for topic in response.topics
        for each in topic.partitions
    }


def test_replicas_move_and_records_with_them(three: streamlog.StreamLog) -> None:
    three["t"].send_many(["a", "b"], partition=0)
    with Listener(three) as listener:
        assert reassigned(listener, {0: [1, 2], 1: [1]}) == {0: ErrorCode.NONE, 1: ErrorCode.NONE}
        for each in three.reassignments():
            each.wait(WAIT_S)
        assert (replicas(three, 0), replicas(three, 1)) == ((1, 2), (1,))
        assert under_way(listener) == {}
        assert [record.value for record in three["t"].read()] == [b"a", b"b"]


def test_what_is_under_way_is_listed_and_can_be_cancelled(three: streamlog.StreamLog) -> None:
    three.brokers[2].stop()  # so that what it is to have does not come to an end
    with Listener(three) as listener:
        assert reassigned(listener, {0: [2], 1: [2]}) == {0: ErrorCode.NONE, 1: ErrorCode.NONE}
        moving = ([2, 0], [2], [0])
        assert under_way(listener) == {("t", 0): moving, ("t", 1): moving}
        assert under_way(listener, {"t": [1, 9], "none": [0]}) == {("t", 1): moving}
        assert under_way(listener, {}) == {}
        assert reassigned(listener, {0: None}) == {0: ErrorCode.NONE}
        eventually(lambda: under_way(listener) == {("t", 1): moving})
        assert reassigned(listener, {0: None}) == {0: ErrorCode.NO_REASSIGNMENT_IN_PROGRESS}
        assert replicas(three, 0) == (0,)
        three.brokers[2].start()
        for each in three.reassignments():
            each.wait(WAIT_S)
        assert replicas(three, 1) == (2,)


def test_what_cannot_be_reassigned_has_an_error_of_its_own(three: streamlog.StreamLog) -> None:
    with Listener(three) as listener:
        wrong = ErrorCode.INVALID_REPLICA_ASSIGNMENT
        for replicas_of in ([9], [], [0, 0], [-1]):
            assert reassigned(listener, {0: replicas_of, 1: [0]}) == {0: wrong, 1: ErrorCode.NONE}
        assert reassigned(listener, {5: [0], -1: [0]}) == dict.fromkeys((5, -1), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
        assert reassigned(listener, {0: [0]}, "none") == {0: ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}
        assert reassigned(listener, {0: None}) == {0: ErrorCode.NO_REASSIGNMENT_IN_PROGRESS}
        refused = reassigned(listener, {0: [0, 1], 1: [1]}, may_change=False)
        assert refused == {0: ErrorCode.INVALID_REPLICATION_FACTOR, 1: ErrorCode.NONE}
        for each in three.reassignments():
            each.wait(WAIT_S)
        assert (replicas(three, 0), replicas(three, 1)) == ((0,), (1,))


def test_a_factor_below_what_has_to_be_in_sync_is_refused(three: streamlog.StreamLog) -> None:
    three.create_topic("safe", replication_factor=3, min_insync_replicas=3)
    with Listener(three) as listener:
        assert reassigned(listener, {0: [0, 1]}, "safe") == {0: ErrorCode.INVALID_REPLICATION_FACTOR}


def test_a_log_of_one_broker_has_nothing_to_reassign(log: streamlog.StreamLog, listener: Listener) -> None:
    log.create_topic("t")
    assert reassigned(listener, {0: [0]}) == {0: ErrorCode.NONE}
    assert reassigned(listener, {0: [1]}) == {0: ErrorCode.INVALID_REPLICA_ASSIGNMENT}
    assert under_way(listener) == {}


def test_kafka_pythons_admin_client_reassigns(three: streamlog.StreamLog, admin: Any) -> None:
    from kafka import TopicPartition

    admin.alter_partition_reassignments({TopicPartition("t", 0): [2, 1]})
    eventually(lambda: "'t'" not in repr(admin.list_partition_reassignments()))
    assert replicas(three, 0) == (2, 1)


# -- the quorum and features -----------------------------------------------------------------------------


def quorum(address: str, topic: str = "__cluster_metadata", number: int = 0, version: int = 2) -> Any:
    Request = messages.DescribeQuorumRequest
    partitions = [Request.PartitionData(partition_index=number)]
    request = Request(topics=[Request.TopicData(topic_name=topic, partitions=partitions)])
    response = asked_at(address, 55, version, request)
    assert response.error_code == ErrorCode.NONE
    return response.topics[0].partitions[0], response.nodes


def test_the_brokers_that_run_are_the_voters(three: streamlog.StreamLog) -> None:
    with Listener(three) as listener:
        addresses = listener.bootstrap_servers.split(",")
        before, nodes = quorum(addresses[0])
        ends = {each.replica_id: each.log_end_offset for each in before.current_voters}
        assert set(ends) == {0, 1, 2}
        assert set(ends.values()) == {before.high_watermark}
        assert len({each.replica_directory_id for each in before.current_voters}) == 3
        assert before.leader_id == 0
        assert [f"{each.listeners[0].host}:{each.listeners[0].port}" for each in nodes] == addresses
        three.brokers[0].stop()
        after, _ = quorum(addresses[1])
        assert [each.replica_id for each in after.current_voters] == [1, 2]
        assert after.leader_id == 1
        assert after.leader_epoch > before.leader_epoch
        assert after.high_watermark > before.high_watermark


def test_a_log_of_one_broker_is_its_own_quorum(log: streamlog.StreamLog, listener: Listener) -> None:
    for version in range(3):
        found, nodes = quorum(listener.bootstrap_servers, version=version)
        assert [each.replica_id for each in found.current_voters] == [found.leader_id] == [0]
        assert len(nodes) == (version == 2)
    for topic, number in (("t", 0), ("__cluster_metadata", 1)):
        found, nodes = quorum(listener.bootstrap_servers, topic, number)
        assert (found.error_code, found.current_voters, nodes) == (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, [], [])


@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize(
    ("feature", "level", "kind", "error"),
    [
        ("group.version", 1, UPGRADE, ErrorCode.NONE),
        ("transaction.version", 2, UPGRADE, ErrorCode.NONE),
        ("group.version", 2, UPGRADE, ErrorCode.INVALID_UPDATE_VERSION),
        ("group.version", 0, UPGRADE, ErrorCode.INVALID_UPDATE_VERSION),
        ("transaction.version", 1, SAFE_DOWNGRADE, ErrorCode.INVALID_UPDATE_VERSION),
        ("group.version", -1, UPGRADE, ErrorCode.INVALID_UPDATE_VERSION),
        ("unknown", 1, UPGRADE, ErrorCode.INVALID_UPDATE_VERSION),
    ],
)
def test_features_have_the_levels_that_they_have(listener: Listener, feature: str, level: int, kind: int, error: ErrorCode, version: int) -> None:  # fmt: skip
    Request = messages.UpdateFeaturesRequest
    update = Request.FeatureUpdateKey(
        feature=feature, max_version_level=level, upgrade_type=kind, allow_downgrade=kind != UPGRADE
    )
    response = asked(listener, 57, version, Request(feature_updates=[update]))
    assert response.error_code == error
    assert bool(response.error_message) is (error != ErrorCode.NONE)
    assert len(response.results) == (error == ErrorCode.NONE and version < 2)


def test_an_update_of_an_unknown_kind_is_refused(listener: Listener) -> None:
    Request = messages.UpdateFeaturesRequest
    update = Request.FeatureUpdateKey(feature="group.version", max_version_level=1, upgrade_type=0)
    response = asked(listener, 57, 2, Request(feature_updates=[update]))
    assert response.error_code == ErrorCode.INVALID_UPDATE_VERSION


def test_kafka_pythons_admin_client_describes_the_quorum_and_updates_features(admin: Any) -> None:
    assert "'leader_id': 0" in repr(admin.describe_metadata_quorum())
    admin.update_features({"group.version": 1})


# -- producers -------------------------------------------------------------------------------------------


def producers(listener: Listener, topic: str, *numbers: int) -> list[Any]:
    Request = messages.DescribeProducersRequest
    request = Request(topics=[Request.TopicRequest(name=topic, partition_indexes=numbers)])
    return list(asked(listener, 61, 0, request).topics[0].partitions)


def test_producers_are_described_with_their_open_transactions(log: streamlog.StreamLog, listener: Listener) -> None:
    import confluent_kafka

    topic = log.create_topic("t", partitions=2)
    topic.send("before", partition=1)
    with log.producer(enable_idempotence=True) as idempotent:
        idempotent.send_many("t", ["a", "b", "c"], partition=0)
    settings = {"bootstrap.servers": listener.bootstrap_servers, "transactional.id": "billing"}
    producer = confluent_kafka.Producer(settings)
    producer.init_transactions(WAIT_S)
    producer.begin_transaction()
    producer.produce("t", b"x", partition=1)
    producer.flush(WAIT_S)
    zero, one = producers(listener, "t", 0, 1)
    (first,) = zero.active_producers
    assert (first.last_sequence, first.current_txn_start_offset, first.coordinator_epoch) == (2, -1, -1)
    open_ones = [each for each in one.active_producers if each.current_txn_start_offset >= 0]
    assert [(each.last_sequence, each.current_txn_start_offset) for each in open_ones] == [(0, 1)]
    assert open_ones[0].last_timestamp > 0
    assert log.transactions()[0].producer_id == open_ones[0].producer_id
    producer.abort_transaction(WAIT_S)
    (one,) = producers(listener, "t", 1)
    assert all(each.current_txn_start_offset == -1 for each in one.active_producers)


def test_a_producer_that_was_silent_for_a_day_is_not_described() -> None:
    clock = ManualClock()
    with streamlog.open(clock=clock) as log, Listener(log) as listener:
        log.create_topic("t").send("x")
        (found,) = producers(listener, "t", 0)
        assert len(found.active_producers) == 1
        clock.advance(86_401)
        (found,) = producers(listener, "t", 0)
        assert found.active_producers == []


def test_producers_are_asked_of_the_leader(three: streamlog.StreamLog) -> None:
    with Listener(three) as listener:
        follower = listener.bootstrap_servers.split(",")[1]
        Request = messages.DescribeProducersRequest
        request = Request(topics=[Request.TopicRequest(name="t", partition_indexes=[0])])
        (partition,) = asked_at(follower, 61, 0, request).topics[0].partitions
        assert partition.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
        (missing,) = producers(listener, "t", 7)
        assert missing.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        (unknown,) = producers(listener, "none", 0)
        assert unknown.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        (nonsense,) = producers(listener, "a b", 0)
        assert nonsense.error_code == ErrorCode.INVALID_TOPIC_EXCEPTION


# -- requests that name something again and again --------------------------------------------------------


def test_what_a_request_names_several_times_is_described_once(log: streamlog.StreamLog, listener: Listener) -> None:
    """Of a large group, or of a transaction of many partitions, fifty thousand answers would take gigabytes."""
    log.create_topic("t", partitions=2)
    new_producer(listener, "x")
    assert commit(listener, "", -1) == ErrorCode.NONE
    Fetch, Producers = messages.OffsetFetchRequest, messages.DescribeProducersRequest
    everything = Fetch.OffsetFetchRequestGroup(group_id="g", topics=None)
    one = Fetch.OffsetFetchRequestGroup(
        group_id="g", topics=[Fetch.OffsetFetchRequestTopics(name="t", partition_indexes=[1])]
    )
    groups = asked(listener, 9, 8, Fetch(groups=[everything, one, everything, one])).groups
    assert [[each.committed_offset for each in group.topics[0].partitions] for group in groups] == [[0], [-1], [-1]]
    for key, version, request in (
        (15, 5, messages.DescribeGroupsRequest(groups=["g", "none", "g"])),
        (69, 1, messages.ConsumerGroupDescribeRequest(group_ids=["g", "none", "g"])),
    ):
        assert [each.group_id for each in asked(listener, key, version, request).groups] == ["g", "none"]
    states = asked(listener, 65, 0, messages.DescribeTransactionsRequest(transactional_ids=["x", "none", "x"]))
    assert [each.transactional_id for each in states.transaction_states] == ["x", "none"]
    topics = [Producers.TopicRequest(name="t", partition_indexes=numbers) for numbers in ([0, 0], [1], [0])]
    (topic,) = asked(listener, 61, 0, Producers(topics=topics)).topics
    assert [each.partition_index for each in topic.partitions] == [0, 1]
