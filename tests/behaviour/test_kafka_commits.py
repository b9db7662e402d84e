"""Who may commit and read the offsets of a group through a listener. Apache Kafka 4.4 answered the same to these requests."""

from __future__ import annotations

import pytest

import streamlog
from streamlog import TopicPartition
from streamlog.kafka import Listener, messages
from streamlog.kafka.errors import ErrorCode
from tests.kafka.clients import asked
from tests.kafka.fixtures import listener_of_log, temporary_log
from tests.kafka.members import ClassicMember, commit, commit_in_transaction, heartbeat, new_producer

log = temporary_log
listener = listener_of_log


@pytest.fixture(autouse=True)
def topic(log: streamlog.StreamLog) -> streamlog.Topic:
    return log.create_topic("t", partitions=3)


def test_a_static_member_whose_place_was_taken_over_is_fenced(listener: Listener) -> None:
    first = ClassicMember(listener, instance_id="one")
    assert first.sync() == ErrorCode.NONE
    assert commit(listener, first.member_id, first.generation, instance_id="one") == ErrorCode.NONE
    second = ClassicMember(listener, instance_id="one")
    assert commit(listener, first.member_id, first.generation, instance_id="one") == ErrorCode.FENCED_INSTANCE_ID
    assert commit(listener, first.member_id, first.generation) == ErrorCode.UNKNOWN_MEMBER_ID
    assert commit(listener, second.member_id, second.generation, instance_id="two") == ErrorCode.UNKNOWN_MEMBER_ID
    assert commit(listener, "", -1, instance_id="one") == ErrorCode.FENCED_INSTANCE_ID
    assert commit(listener, "", -1) == ErrorCode.UNKNOWN_MEMBER_ID

    producer = new_producer(listener, "x")

    def in_transaction(member: ClassicMember, generation: int) -> ErrorCode:
        return commit_in_transaction(
            listener, "x", producer, member_id=member.member_id, epoch=generation, instance_id="one"
        )

    assert in_transaction(first, first.generation) == ErrorCode.FENCED_INSTANCE_ID
    assert in_transaction(second, second.generation) == ErrorCode.NONE
    assert in_transaction(second, 99) == ErrorCode.ILLEGAL_GENERATION


def test_an_epoch_in_a_group_that_does_not_exist_is_refused_and_a_commit_without_one_is_taken(
    listener: Listener,
) -> None:
    assert commit(listener, "m", 7, version=8) == ErrorCode.ILLEGAL_GENERATION
    assert commit(listener, "m", 7, version=9) == ErrorCode.GROUP_ID_NOT_FOUND
    producer = new_producer(listener, "x")
    answer = commit_in_transaction(listener, "x", producer, group="none", member_id="m", epoch=4)
    assert answer == ErrorCode.ILLEGAL_GENERATION
    assert commit(listener, "m", -1) == ErrorCode.NONE


def test_a_producer_that_names_no_member_commits_for_a_group_that_has_some(listener: Listener) -> None:
    """As those from before KIP-447 do."""
    member = ClassicMember(listener)
    producer = new_producer(listener, "x")
    assert commit_in_transaction(listener, "x", producer) == ErrorCode.NONE  # also while it has no assignment yet
    answer = commit_in_transaction(listener, "x", producer, member_id=member.member_id, epoch=member.generation)
    assert answer == ErrorCode.NONE
    assert commit(listener, member.member_id, member.generation) == ErrorCode.REBALANCE_IN_PROGRESS
    long = commit(listener, member.member_id, member.generation, metadata="m" * 4096)
    assert long == ErrorCode.REBALANCE_IN_PROGRESS


def test_a_member_of_the_consumer_protocol_commits_any_partition_in_its_epoch(
    log: streamlog.StreamLog, listener: Listener
) -> None:
    former = heartbeat(listener, "a", 0).member_epoch
    heartbeat(listener, "b", 0)
    epoch = heartbeat(listener, "a", former).member_epoch
    assert epoch > former
    for partition in range(3):
        assert commit(listener, "a", epoch, partition=partition) == ErrorCode.NONE
    assert set(log.group("g").committed()) == {TopicPartition("t", number) for number in range(3)}
    assert commit(listener, "a", epoch + 9) == ErrorCode.STALE_MEMBER_EPOCH
    assert commit(listener, "c", epoch) == ErrorCode.UNKNOWN_MEMBER_ID
    assert commit(listener, "", -1) == ErrorCode.UNKNOWN_MEMBER_ID
    producer = new_producer(listener, "x")
    for member_id, wanted, code in [
        ("a", epoch, ErrorCode.NONE),
        ("a", epoch + 4, ErrorCode.ILLEGAL_GENERATION),
        ("c", epoch, ErrorCode.UNKNOWN_MEMBER_ID),
        ("", 3, ErrorCode.UNKNOWN_MEMBER_ID),
        ("", -1, ErrorCode.NONE),
    ]:
        assert commit_in_transaction(listener, "x", producer, member_id=member_id, epoch=wanted) == code


def test_a_member_of_the_consumer_protocol_commits_with_requests_that_have_an_epoch_alone(listener: Listener) -> None:
    epoch = heartbeat(listener, "a", 0).member_epoch
    for given in (epoch, epoch - 1, epoch + 1):
        assert commit(listener, "a", given, version=8) == ErrorCode.UNSUPPORTED_VERSION
    assert commit(listener, "b", epoch, version=8) == ErrorCode.UNKNOWN_MEMBER_ID
    assert commit(listener, "a", epoch, version=9) == ErrorCode.NONE
    member = ClassicMember(listener, group="other")
    assert member.sync() == ErrorCode.NONE
    assert commit(listener, member.member_id, member.generation, group="other", version=8) == ErrorCode.NONE


def test_a_static_member_of_the_consumer_protocol_whose_place_was_taken_over_is_fenced(listener: Listener) -> None:
    first = heartbeat(listener, "a", 0, instance_id="one")
    assert heartbeat(listener, "a", -2, instance_id="one").error_code == ErrorCode.NONE
    assert heartbeat(listener, "b", 0, instance_id="one").error_code == ErrorCode.NONE
    for epoch in (first.member_epoch, -1, -2):
        assert heartbeat(listener, "a", epoch, instance_id="one").error_code == ErrorCode.FENCED_INSTANCE_ID
    for epoch in (first.member_epoch, -1):
        assert heartbeat(listener, "a", epoch, instance_id="two").error_code == ErrorCode.UNKNOWN_MEMBER_ID
        assert heartbeat(listener, "a", epoch).error_code == ErrorCode.UNKNOWN_MEMBER_ID


def test_with_an_older_epoch_a_member_commits_what_it_has_had_since_then(
    log: streamlog.StreamLog, listener: Listener
) -> None:
    """KIP-1251."""
    former = heartbeat(listener, "a", 0).member_epoch
    heartbeat(listener, "b", 0)
    Owned = messages.ConsumerGroupHeartbeatRequest.TopicPartitions
    for kept in [0, 1, 2], [0, 1]:
        owned = [Owned(topic_id=log["t"].id.bytes, partitions=kept)]
        epoch = heartbeat(listener, "a", former, topic_partitions=owned).member_epoch
    assert epoch > former
    assert commit(listener, "a", former, partition=0) == ErrorCode.NONE
    assert commit(listener, "a", former, partition=2) == ErrorCode.STALE_MEMBER_EPOCH
    assert commit(listener, "a", former - 1, partition=0) == ErrorCode.STALE_MEMBER_EPOCH


# -- producers -------------------------------------------------------------------------------------------


def add_partitions(listener: Listener, transactional_id: str, producer: tuple[int, int]) -> ErrorCode:
    Add = messages.AddPartitionsToTxnRequest
    request = Add(
        v3_and_below_transactional_id=transactional_id, v3_and_below_producer_id=producer[0],
        v3_and_below_producer_epoch=producer[1],
        v3_and_below_topics=[Add.AddPartitionsToTxnTopic(name="t", partitions=[0])],
    )  # fmt: skip
    (topic,) = asked(listener, 24, 3, request).results_by_topic_v3_and_below
    return ErrorCode(topic.results_by_partition[0].partition_error_code)


def add_offsets(listener: Listener, transactional_id: str, producer: tuple[int, int]) -> ErrorCode:
    request = messages.AddOffsetsToTxnRequest(
        transactional_id=transactional_id, producer_id=producer[0], producer_epoch=producer[1], group_id="g"
    )
    return ErrorCode(asked(listener, 25, 3, request).error_code)


def end(listener: Listener, transactional_id: str, producer: tuple[int, int]) -> ErrorCode:
    request = messages.EndTxnRequest(
        transactional_id=transactional_id, producer_id=producer[0], producer_epoch=producer[1], committed=True
    )
    return ErrorCode(asked(listener, 26, 4, request).error_code)


def test_a_producer_id_that_the_transactional_id_does_not_have_is_told_from_an_older_epoch(listener: Listener) -> None:
    former = new_producer(listener, "x")
    producer = new_producer(listener, "x")
    assert (former[0], former[1] + 1) == producer
    another = producer[0] + 77, 0
    for transactional_id, who in (("x", another), ("none", producer)):
        for ask in (add_partitions, add_offsets, end, commit_in_transaction):
            assert ask(listener, transactional_id, who) == ErrorCode.INVALID_PRODUCER_ID_MAPPING, ask
    for ask in (add_partitions, add_offsets, end):
        assert ask(listener, "x", former) == ErrorCode.PRODUCER_FENCED, ask
    assert commit_in_transaction(listener, "x", former) == ErrorCode.INVALID_PRODUCER_EPOCH
    request = messages.InitProducerIdRequest(
        transactional_id="x", transaction_timeout_ms=60_000, producer_id=another[0], producer_epoch=0
    )
    assert asked(listener, 22, 5, request).error_code == ErrorCode.PRODUCER_FENCED
