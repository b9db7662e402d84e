"""Filters and checks of single requests of administrators and brokers. Apache Kafka 4.4 answered the same to these requests."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack
from typing import Any

import pytest

import streamlog
from streamlog.kafka import Listener, messages, protocol
from streamlog.kafka.errors import ErrorCode
from streamlog.testing import ManualClock
from tests.kafka.clients import WAIT_S, asked, frame_of
from tests.kafka.fixtures import listener_of_log, temporary_log
from tests.kafka.members import ClassicMember, commit, commit_in_transaction, heartbeat, new_producer

log, listener = temporary_log, listener_of_log


@pytest.fixture(autouse=True)
def topic(log: streamlog.StreamLog) -> streamlog.Topic:
    return log.create_topic("t", partitions=3)


def add(
    listener: Listener,
    producer: tuple[int, int],
    *numbers: int,
    verify_only: bool = False,
    transactional_id: str = "x",
    version: int = 5,
) -> list[ErrorCode]:
    Add = messages.AddPartitionsToTxnRequest
    one = Add.AddPartitionsToTxnTransaction(
        transactional_id=transactional_id, producer_id=producer[0], producer_epoch=producer[1], verify_only=verify_only,
        topics=[Add.AddPartitionsToTxnTopic(name="t", partitions=list(numbers))],
    )  # fmt: skip
    answer = asked(listener, 24, version, Add(transactions=[one]))
    assert answer.error_code == ErrorCode.NONE
    (topic,) = answer.results_by_transaction[0].topic_results
    return [ErrorCode(each.partition_error_code) for each in topic.results_by_partition]


def test_a_broker_asks_whether_partitions_are_in_a_transaction_and_none_is_added(listener: Listener) -> None:
    producer = new_producer(listener, "x")
    assert add(listener, producer, 0, verify_only=True) == [ErrorCode.TRANSACTION_ABORTABLE]
    assert add(listener, producer, 0) == [ErrorCode.NONE]
    for version in (4, 5):
        verified = add(listener, producer, 0, 1, verify_only=True, version=version)
        assert verified == [ErrorCode.NONE, ErrorCode.TRANSACTION_ABORTABLE]
    older, another = (producer[0], producer[1] - 1), (producer[0] + 1, producer[1])
    assert add(listener, older, 0, verify_only=True) == [ErrorCode.PRODUCER_FENCED]
    assert add(listener, another, 0, verify_only=True) == [ErrorCode.INVALID_PRODUCER_ID_MAPPING]
    unknown = add(listener, producer, 0, verify_only=True, transactional_id="none")
    assert unknown == [ErrorCode.INVALID_PRODUCER_ID_MAPPING]
    for verify_only in (False, True):
        nameless = add(listener, producer, 0, verify_only=verify_only, transactional_id="")
        assert nameless == [ErrorCode.INVALID_REQUEST]
        missing = add(listener, producer, 0, 9, verify_only=verify_only)
        assert missing == [ErrorCode.OPERATION_NOT_ATTEMPTED, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]


def test_transactions_are_listed_by_state_pattern_and_duration(listener: Listener) -> None:
    producer = new_producer(listener, "open")
    new_producer(listener, "empty")
    add(listener, producer, 0, transactional_id="open")

    def listed(version: int = 2, **fields: Any) -> list[str]:
        answer = asked(listener, 66, version, messages.ListTransactionsRequest(**fields))
        assert answer.error_code == ErrorCode.NONE
        return sorted(each.transactional_id for each in answer.transaction_states)

    assert listed() == listed(transactional_id_pattern="") == ["empty", "open"]
    assert listed(version=1, duration_filter=10**9) == ["empty"]  # which began at -1
    assert listed(state_filters=["Nope", "Empty"]) == ["empty"]
    assert listed(producer_id_filters=[producer[0]]) == ["open"]
    pytest.importorskip("re2", reason="google-re2 is not installed")
    assert listed(transactional_id_pattern="o.*") == ["open"]
    assert listed(transactional_id_pattern="o") == []
    refused = asked(listener, 66, 2, messages.ListTransactionsRequest(transactional_id_pattern="("))
    assert refused.error_code == ErrorCode.INVALID_REGULAR_EXPRESSION


def test_a_transaction_that_has_ended_is_described_with_its_beginning() -> None:
    clock = ManualClock()
    with streamlog.open(clock=clock) as log, Listener(log) as listener:
        log.create_topic("t")

        def began() -> int:
            request = messages.DescribeTransactionsRequest(transactional_ids=["x"])
            (state,) = asked(listener, 65, 0, request).transaction_states
            return int(state.transaction_start_time_ms)

        producer = new_producer(listener, "x")
        assert began() == -1
        at_ms = clock.time_ms()
        add(listener, producer, 0, transactional_id="x")
        clock.advance(5)
        assert began() == at_ms
        end = messages.EndTxnRequest(
            transactional_id="x", producer_id=producer[0], producer_epoch=producer[1], committed=True
        )
        assert asked(listener, 26, 3, end).error_code == ErrorCode.NONE
        assert began() == at_ms
        assert log.transactions() == []
        old = messages.ListTransactionsRequest(duration_filter=4_000)
        assert [each.transactional_id for each in asked(listener, 66, 1, old).transaction_states] == ["x"]
        new_producer(listener, "x")
        assert began() == -1


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (1, ErrorCode.NONE),
        (2, ErrorCode.MISMATCHED_ENDPOINT_TYPE),
        (0, ErrorCode.UNSUPPORTED_ENDPOINT_TYPE),
        (3, ErrorCode.UNSUPPORTED_ENDPOINT_TYPE),
    ],
)
def test_brokers_say_that_they_are_no_controllers(listener: Listener, kind: int, code: ErrorCode) -> None:
    for version in (1, 2):
        answer = asked(listener, 60, version, messages.DescribeClusterRequest(endpoint_type=kind))
        assert answer.error_code == code
        assert len(answer.brokers) == (code == ErrorCode.NONE)
        assert bool(answer.error_message) == (code != ErrorCode.NONE)


def test_a_cursor_before_the_first_partition_is_refused(listener: Listener) -> None:
    Describe = messages.DescribeTopicPartitionsRequest
    cursor = Describe.Cursor(topic_name="t", partition_index=-7)
    wanted = [Describe.TopicRequest(name="t")]
    (topic,) = asked(listener, 75, 0, Describe(topics=wanted, cursor=cursor)).topics
    assert (topic.name, topic.error_code) == ("t", ErrorCode.INVALID_REQUEST)


def committed(
    listener: Listener, group: str, member_id: str | None, epoch: int, version: int = 9
) -> tuple[ErrorCode, list[int]]:
    Fetch = messages.OffsetFetchRequest
    one = Fetch.OffsetFetchRequestGroup(
        group_id=group, member_id=member_id, member_epoch=epoch,
        topics=[Fetch.OffsetFetchRequestTopics(name="t", partition_indexes=[0])],
    )  # fmt: skip
    (found,) = asked(listener, 9, version, Fetch(groups=[one])).groups
    offsets = [each.committed_offset for topic in found.topics for each in topic.partitions]
    return ErrorCode(found.error_code), offsets


def test_a_member_that_reads_offsets_says_which_epoch_it_has(listener: Listener) -> None:
    epoch = heartbeat(listener, "a", 0).member_epoch
    assert commit(listener, "a", epoch) == ErrorCode.NONE
    for member_id, wanted, version in (("a", epoch, 9), (None, -1, 9), ("b", 4, 8)):
        assert committed(listener, "g", member_id, wanted, version) == (ErrorCode.NONE, [0])
    assert committed(listener, "g", "a", epoch + 3) == (ErrorCode.STALE_MEMBER_EPOCH, [])
    assert committed(listener, "g", "b", epoch) == (ErrorCode.UNKNOWN_MEMBER_ID, [])
    assert committed(listener, "g", "", -1) == (ErrorCode.UNKNOWN_MEMBER_ID, [])
    assert committed(listener, "none", "a", 4) == (ErrorCode.NONE, [-1])
    ClassicMember(listener, "classic")
    assert committed(listener, "classic", "b", 4) == (ErrorCode.NONE, [-1])


# -- patterns --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "is_taken"),
    [
        ("(a|a)*(a|aa)*(a*)*$", True),
        ("(?i)T.*", True),
        (r"\pL+", True),
        ("[[:alpha:]]+", True),
        ("(?<x>t)", True),
        ("(", False),
        ("(?=a)b", False),
        (r"(a)\1", False),
        ("a++", False),
        ("(?>a)", False),
        ("a{1001}", False),
    ],
)
def test_the_patterns_of_kafka_are_taken_and_none_takes_long(
    log: streamlog.StreamLog, listener: Listener, pattern: str, is_taken: bool
) -> None:
    """One that Python's own expressions would look at for ages is done at once: the test would not end otherwise."""
    pytest.importorskip("re2", reason="google-re2 is not installed")
    log.create_topic("a" * 200 + "_")
    answer = heartbeat(listener, "m", 0, subscribed_topic_names=None, subscribed_topic_regex=pattern)
    assert answer.error_code == (ErrorCode.NONE if is_taken else ErrorCode.INVALID_REGULAR_EXPRESSION)


def test_a_pattern_is_no_longer_than_can_be_compiled_soon(listener: Listener) -> None:
    """One as long as a string may be took seconds, in which no other thread runs."""
    pytest.importorskip("re2", reason="google-re2 is not installed")
    for length, code in ((10_000, ErrorCode.NONE), (10_001, ErrorCode.INVALID_REGULAR_EXPRESSION)):
        answer = heartbeat(listener, "m", 0, subscribed_topic_names=None, subscribed_topic_regex="a" * length)
        assert answer.error_code == code
    assert "at most 10,000" in answer.error_message
    listed = asked(listener, 66, 2, messages.ListTransactionsRequest(transactional_id_pattern="a" * 10_001))
    assert listed.error_code == ErrorCode.INVALID_REGULAR_EXPRESSION


# -- what says nothing, or two things --------------------------------------------------------------------


def test_a_producer_id_without_its_epoch_is_refused(listener: Listener) -> None:
    for transactional_id in ("x", None):
        for producer in ((5, -1), (-1, 5)):
            request = messages.InitProducerIdRequest(
                transactional_id=transactional_id, transaction_timeout_ms=60_000, producer_id=producer[0], producer_epoch=producer[1]
            )  # fmt: skip
            assert asked(listener, 22, 5, request).error_code == ErrorCode.INVALID_REQUEST


def test_a_group_without_a_name_is_refused(listener: Listener) -> None:
    Leave = messages.LeaveGroupRequest
    requests = (
        (11, 9, messages.JoinGroupRequest(session_timeout_ms=10_000, protocol_type="consumer")),
        (12, 4, messages.HeartbeatRequest(member_id="m")),
        (13, 5, Leave(members=[Leave.MemberIdentity(member_id="m")])),
        (14, 5, messages.SyncGroupRequest(member_id="m")),
        (47, 0, messages.OffsetDeleteRequest()),
    )
    for key, version, request in requests:
        assert asked(listener, key, version, request).error_code == ErrorCode.INVALID_GROUP_ID, key


def test_a_transaction_or_its_group_without_a_name_is_refused(listener: Listener) -> None:
    producer = new_producer(listener, "x")
    for version in (3, 5):
        nameless = commit_in_transaction(listener, "", producer, version=version)
        groupless = commit_in_transaction(listener, "x", producer, group="", version=version)
        assert (nameless, groupless) == (ErrorCode.INVALID_REQUEST, ErrorCode.INVALID_GROUP_ID)
    request = messages.AddOffsetsToTxnRequest(producer_id=producer[0], producer_epoch=producer[1], group_id="g")
    assert asked(listener, 25, 3, request).error_code == ErrorCode.INVALID_REQUEST


def test_a_topic_to_delete_has_a_name_or_an_id(log: streamlog.StreamLog, listener: Listener) -> None:
    State = messages.DeleteTopicsRequest.DeleteTopicState
    for state in (State(name="t", topic_id=b"x" * 16), State(name=None)):
        (result,) = asked(listener, 20, 6, messages.DeleteTopicsRequest(topics=[state], timeout_ms=1000)).responses
        assert result.error_code == ErrorCode.INVALID_REQUEST
    assert "t" in log


def test_the_id_of_a_topic_goes_before_its_name(listener: Listener) -> None:
    Topic = messages.MetadataRequest.MetadataRequestTopic
    request = messages.MetadataRequest(topics=[Topic(name="t", topic_id=b"x" * 16)])
    (topic,) = asked(listener, 3, 12, request).topics
    assert (topic.name, topic.error_code) == (None, ErrorCode.UNKNOWN_TOPIC_ID)


def test_a_topic_that_a_request_gives_partitions_twice_gets_none(log: streamlog.StreamLog, listener: Listener) -> None:
    More = messages.CreatePartitionsRequest
    topics = [More.CreatePartitionsTopic(name=name, count=count) for name, count in (("t", 4), ("none", 2), ("t", 5))]
    results = asked(listener, 37, 3, More(topics=topics, timeout_ms=1000)).results
    assert {each.name: each.error_code for each in results} == {
        "t": ErrorCode.INVALID_REQUEST,
        "none": ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
    }
    assert (len(results), log["t"].partitions) == (2, 3)


def test_a_type_of_election_that_is_unknown_is_refused(listener: Listener) -> None:
    Partitions = messages.ElectLeadersRequest.TopicPartitions
    request = messages.ElectLeadersRequest(
        election_type=5, topic_partitions=[Partitions(topic="t", partitions=[0])], timeout_ms=1000
    )
    answer = asked(listener, 43, 2, request)
    assert (answer.error_code, answer.replica_election_results) == (ErrorCode.INVALID_REQUEST, [])


def test_a_topic_that_is_created_has_no_message_of_an_error(listener: Listener) -> None:
    Topic = messages.CreateTopicsRequest.CreatableTopic
    request = messages.CreateTopicsRequest(topics=[Topic(name="new", num_partitions=1, replication_factor=1)])
    (made,) = asked(listener, 19, 7, request).topics
    assert (made.error_code, made.error_message) == (ErrorCode.NONE, None)


def test_elections_that_wait_keep_no_producer_and_no_consumer_waiting(
    log: streamlog.StreamLog, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever may block has a few threads, and an election waits for brokers."""
    log["t"].send(b"v", partition=0).result()
    may_end, begun = threading.Event(), threading.Semaphore(0)

    def elected(*_: Any) -> tuple[ErrorCode, None]:
        begun.release()
        assert may_end.wait(WAIT_S)
        return ErrorCode.NONE, None

    monkeypatch.setattr("streamlog.kafka.topics._elected", elected)
    Elect, Offsets = messages.ElectLeadersRequest, messages.ListOffsetsRequest
    wanted = [Elect.TopicPartitions(topic="t", partitions=[0])]
    request = Elect(election_type=0, topic_partitions=wanted, timeout_ms=60_000)
    header = messages.RequestHeader(request_api_key=43, request_api_version=2, correlation_id=7)
    host, _, port = listener.bootstrap_servers.rpartition(":")
    with ExitStack() as stack:
        stack.callback(may_end.set)
        waiting = [stack.enter_context(socket.create_connection((host, int(port)), WAIT_S)) for _ in range(8)]
        for connection in waiting:
            connection.sendall(b"".join(protocol.encode_request(header, request)))
        for _ in range(4):
            assert begun.acquire(timeout=WAIT_S)
        partition = Offsets.ListOffsetsPartition(partition_index=0, timestamp=0)  # read from the disk
        by_time = Offsets(replica_id=-1, topics=[Offsets.ListOffsetsTopic(name="t", partitions=[partition])])
        assert asked(listener, 2, 7, by_time).topics[0].partitions[0].offset == 0
        assert new_producer(listener, "x")
        assert asked(listener, 10, 2, messages.FindCoordinatorRequest(key="g")).error_code == ErrorCode.NONE
        may_end.set()
        for connection in waiting:
            answer = protocol.decode_response(header, frame_of(connection))
            assert answer.replica_election_results[0].partition_result[0].error_code == ErrorCode.NONE
