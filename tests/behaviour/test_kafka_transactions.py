"""Transactions of Kafka's clients through a listener."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest

import streamlog
from streamlog import TopicPartition
from streamlog.broker.transaction_coordinator import TransactionCoordinator
from streamlog.errors import ConcurrentTransactionsError, CoordinatorLoadInProgressError, NotCoordinatorError
from streamlog.kafka import Listener, messages
from streamlog.kafka.errors import ErrorCode
from streamlog.records import kafka_v2, kafka_wire
from tests.kafka.clients import WAIT_S, asked, asked_at, consumed, errors_in
from tests.kafka.fixtures import listener_of_log, temporary_log
from tests.kafka_batches import Row, kafka_payload

log = temporary_log
listener = listener_of_log

confluent_kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")


def producer_of(listener: Listener, transactional_id: str = "x", **settings: Any) -> Any:
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": listener.bootstrap_servers, "transactional.id": transactional_id, **settings}
    )
    producer.init_transactions(WAIT_S)
    return producer


def send(producer: Any, *values: bytes) -> None:
    for value in values:
        producer.produce("t", value, partition=0)
    assert producer.flush(WAIT_S) == 0


def test_readers_of_committed_records_see_what_was_committed_alone(
    log: streamlog.StreamLog, listener: Listener
) -> None:
    log.create_topic("t")
    producer = producer_of(listener)
    for values, end in (([b"a", b"b"], "commit"), ([b"c", b"d"], "abort"), ([b"e"], "commit")):
        producer.begin_transaction()
        send(producer, *values)
        getattr(producer, f"{end}_transaction")(WAIT_S)
    log["t"].send(b"f").result()
    assert [record.value for record in log["t"].read()] == [b"a", b"b", b"e", b"f"]
    assert [each.value() for each in consumed(listener, "t", 4)] == [b"a", b"b", b"e", b"f"]
    every = consumed(listener, "t", 6, **{"isolation.level": "read_uncommitted"})
    assert [each.value() for each in every] == [b"a", b"b", b"c", b"d", b"e", b"f"]


def test_what_is_open_holds_back_readers_of_committed_records(log: streamlog.StreamLog, listener: Listener) -> None:
    log.create_topic("t").send(b"before").result()
    producer = producer_of(listener)
    producer.begin_transaction()
    send(producer, b"open")
    log["t"].send(b"after").result()
    assert [each.value() for each in consumed(listener, "t", 1)] == [b"before"]
    assert log["t"].partition(0).last_stable_offset == 1
    (open_,) = log.transactions()
    assert open_.transactional_id == "x"
    producer.commit_transaction(WAIT_S)
    assert [each.value() for each in consumed(listener, "t", 3)] == [b"before", b"open", b"after"]


def test_clients_read_the_transactions_of_python(log: streamlog.StreamLog, listener: Listener) -> None:
    log.create_topic("t")
    with log.producer(transactional_id="python") as producer:
        for value, commits in ((b"a", True), (b"b", False), (b"c", True)):
            producer.begin_transaction()
            producer.send("t", value)
            (producer.commit_transaction if commits else producer.abort_transaction)()
    assert [each.value() for each in consumed(listener, "t", 2)] == [b"a", b"c"]


def test_a_zombie_is_fenced(log: streamlog.StreamLog, listener: Listener) -> None:
    log.create_topic("t")
    zombie = producer_of(listener)
    zombie.begin_transaction()
    send(zombie, b"lost")
    successor = producer_of(listener)
    with pytest.raises(confluent_kafka.KafkaException) as fenced:
        zombie.commit_transaction(WAIT_S)
    assert fenced.value.args[0].code() == confluent_kafka.KafkaError._FENCED
    successor.begin_transaction()
    send(successor, b"kept")
    successor.commit_transaction(WAIT_S)
    assert [record.value for record in log["t"].read()] == [b"kept"]


def test_offsets_and_output_are_committed_together_or_not_at_all(log: streamlog.StreamLog, listener: Listener) -> None:
    log.create_topic("t")
    log.create_topic("in").send_many([b"0", b"1"]).result()
    producer = producer_of(listener)
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": listener.bootstrap_servers,
            "group.id": "g",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe(["in"])
    for commits in (False, True):
        message = consumer.poll(WAIT_S)
        producer.begin_transaction()
        send(producer, b"of " + message.value())
        producer.send_offsets_to_transaction(
            [confluent_kafka.TopicPartition("in", 0, message.offset() + 1)], consumer.consumer_group_metadata(), WAIT_S
        )
        if commits:
            producer.commit_transaction(WAIT_S)
        else:
            producer.abort_transaction(WAIT_S)
            assert log.group("g").committed() == {}
    assert log.group("g").committed() == {TopicPartition("in", 0): 2}
    assert [record.value for record in log["t"].read()] == [b"of 1"]
    consumer.close()


def test_an_idempotent_producer_writes_each_record_once_and_in_order(
    log: streamlog.StreamLog, listener: Listener
) -> None:
    log.create_topic("t")
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": listener.bootstrap_servers, "enable.idempotence": True, "linger.ms": 0}
    )
    for number in range(500):
        producer.produce("t", b"%d" % number, partition=0)
        if not number % 7:
            producer.poll(0)
    assert producer.flush(WAIT_S) == 0
    assert [record.value for record in log["t"].read()] == [b"%d" % number for number in range(500)]


# -- the newer protocol: KIP-890 -------------------------------------------------------------------------


def written(listener: Listener, topic_id: bytes, producer: Any, value: bytes, sequence: int = 0, codec: int = 0) -> Any:
    """The answer to a Produce request with one record of the transaction of "x"."""
    payload, _ = kafka_payload(
        [Row(1_700_000_000_000, None, value)],
        codec,
        kafka_v2.KAFKA_TRANSACTIONAL,
        (producer.producer_id, producer.producer_epoch, sequence),
    )
    batch = kafka_wire.PREFIX.pack(0, len(payload) + 4, -1) + payload
    Request = messages.ProduceRequest
    data = Request.PartitionProduceData(index=0, records=batch)
    topics = [Request.TopicProduceData(topic_id=topic_id, partition_data=[data])]
    request = Request(transactional_id="x", acks=-1, timeout_ms=1000, topic_data=topics)
    (topic,) = asked(listener, 0, 13, request).responses
    return topic.partition_responses[0]


def test_a_batch_adds_its_partition_to_the_transaction_and_each_end_brings_a_new_epoch(
    log: streamlog.StreamLog, listener: Listener
) -> None:
    topic_id = log.create_topic("t").id.bytes
    log.create_topic("in")
    Init, End = messages.InitProducerIdRequest, messages.EndTxnRequest
    producer = asked(listener, 22, 5, Init(transactional_id="x", transaction_timeout_ms=60_000))
    for value, commits in ((b"a", True), (b"b", False), (b"c", True)):
        assert written(listener, topic_id, producer, value).error_code == ErrorCode.NONE
        assert log["t"].partition(0).last_stable_offset < log["t"].partition(0).high_watermark
        Commit = messages.TxnOffsetCommitRequest
        offsets = [Commit.TxnOffsetCommitRequestPartition(partition_index=0, committed_offset=ord(value))]
        request = Commit(
            transactional_id="x",
            group_id="g",
            producer_id=producer.producer_id,
            producer_epoch=producer.producer_epoch,
            generation_id_or_member_epoch=-1,
            topics=[Commit.TxnOffsetCommitRequestTopic(name="in", partitions=offsets)],
        )
        (answered,) = asked(listener, 28, 5, request).topics
        assert answered.partitions[0].error_code == ErrorCode.NONE
        end = End(
            transactional_id="x",
            producer_id=producer.producer_id,
            producer_epoch=producer.producer_epoch,
            committed=commits,
        )
        ended = asked(listener, 26, 5, end)
        assert ended.error_code == ErrorCode.NONE
        assert (ended.producer_id, ended.producer_epoch) > (producer.producer_id, producer.producer_epoch)
        late = written(listener, topic_id, producer, b"late", sequence=1)
        assert late.error_code == ErrorCode.INVALID_PRODUCER_EPOCH
        producer = ended
    assert [record.value for record in log["t"].read()] == [b"a", b"c"]
    assert log.group("g").committed() == {TopicPartition("in", 0): ord("c")}


@pytest.mark.parametrize("of_python", [False, True], ids=["classic", "assigned by the coordinator"])
def test_a_client_that_does_not_name_its_member_commits_offsets_with_its_transaction_as_in_kafka(
    log: streamlog.StreamLog, listener: Listener, of_python: bool
) -> None:
    log.create_topic("in").send(b"a").result()
    with ExitStack() as stack:
        if of_python:
            stack.enter_context(log.consumer("in", group="g")).poll(1)
        else:
            settings = {
                "bootstrap.servers": listener.bootstrap_servers,
                "group.id": "g",
                "auto.offset.reset": "earliest",
            }
            member = confluent_kafka.Consumer(settings)
            stack.callback(member.close)
            member.subscribe(["in"])
            assert member.poll(WAIT_S) is not None
        producer = asked(
            listener, 22, 0, messages.InitProducerIdRequest(transactional_id="x", transaction_timeout_ms=60_000)
        )
        of = {"transactional_id": "x", "producer_id": producer.producer_id, "producer_epoch": producer.producer_epoch}
        assert asked(listener, 25, 0, messages.AddOffsetsToTxnRequest(**of, group_id="g")).error_code == ErrorCode.NONE
        Commit = messages.TxnOffsetCommitRequest
        offsets = [Commit.TxnOffsetCommitRequestPartition(partition_index=0, committed_offset=1)]
        topics = [Commit.TxnOffsetCommitRequestTopic(name="in", partitions=offsets)]
        codes = []
        for version, named in ((0, {}), (3, {}), (3, {"member_id": "none"}), (3, {"generation_id_or_member_epoch": 7})):
            (topic,) = asked(listener, 28, version, Commit(**of, **named, group_id="g", topics=topics)).topics
            codes.append(topic.partitions[0].error_code)
        assert codes == [ErrorCode.NONE, ErrorCode.NONE, ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.UNKNOWN_MEMBER_ID]
        assert asked(listener, 26, 1, messages.EndTxnRequest(**of, committed=True)).error_code == ErrorCode.NONE
        assert log.group("g").committed() == {TopicPartition("in", 0): 1}


@pytest.mark.parametrize("refusal", [CoordinatorLoadInProgressError, NotCoordinatorError, ConcurrentTransactionsError])
def test_what_the_coordinator_of_transactions_refuses_a_producer_is_told_in_words_that_it_knows(
    monkeypatch: pytest.MonkeyPatch, refusal: type[streamlog.StreamlogError]
) -> None:
    """A producer does not expect the errors of coordinators in the answer to its records (KIP-890)."""

    def refuse(*arguments: Any) -> Any:
        raise refusal("not now")

    monkeypatch.setattr(TransactionCoordinator, "add_partitions", refuse)
    with streamlog.open() as log, Listener(log) as listener:
        topic_id = log.create_topic("t").id.bytes
        Init = messages.InitProducerIdRequest
        producer = asked(listener, 22, 5, Init(transactional_id="x", transaction_timeout_ms=60_000))
        assert written(listener, topic_id, producer, b"a").error_code == ErrorCode.NOT_ENOUGH_REPLICAS


def test_clients_are_told_which_protocol_there_is(listener: Listener) -> None:
    answer = asked(listener, 18, 4, messages.ApiVersionsRequest(client_software_name="t", client_software_version="1"))
    levels = {each.name: each.max_version_level for each in answer.finalized_features}
    assert levels == {"group.version": 1, "transaction.version": 2}


def test_a_client_of_before_zstd_neither_sends_nor_gets_it(log: streamlog.StreamLog, listener: Listener) -> None:
    log.create_topic("t", compression_type="zstd").send_many([b"." * 500] * 10).result()
    payload, _ = kafka_payload([Row(1_700_000_000_000, None, b"." * 500)], 4)
    batch = kafka_wire.PREFIX.pack(0, len(payload) + 4, -1) + payload
    Produce = messages.ProduceRequest
    data = Produce.PartitionProduceData(index=0, records=batch)
    topics = [Produce.TopicProduceData(name="t", partition_data=[data])]
    for version, code in ((6, ErrorCode.UNSUPPORTED_COMPRESSION_TYPE), (7, ErrorCode.NONE)):
        request = Produce(acks=-1, timeout_ms=1000, topic_data=topics)
        (topic,) = asked(listener, 0, version, request).responses
        assert topic.partition_responses[0].error_code == code
    Fetch = messages.FetchRequest
    wanted = [Fetch.FetchTopic(topic="t", partitions=[Fetch.FetchPartition(partition=0, partition_max_bytes=10_000)])]
    for version, code in ((9, ErrorCode.UNSUPPORTED_COMPRESSION_TYPE), (10, ErrorCode.NONE)):
        (topic,) = asked(listener, 1, version, Fetch(max_bytes=10_000, topics=wanted)).responses
        assert topic.partitions[0].error_code == code
        assert bool(topic.partitions[0].records) == (code == ErrorCode.NONE)


def test_a_broker_that_does_not_coordinate_a_transaction_says_so() -> None:
    with streamlog.open(brokers=2) as log, Listener(log) as listener:
        log.create_topic("t")
        producer = log.producer(transactional_id="x")
        producer.begin_transaction()
        producer.send("t", b"open")
        addresses = listener.bootstrap_servers.split(",")
        Find = messages.FindCoordinatorRequest
        coordinator = asked(listener, 10, 2, Find(key="x", key_type=1)).node_id
        of_group = asked(listener, 10, 2, Find(key="g")).node_id
        other = addresses[1 - coordinator]
        Add, Commit = messages.AddPartitionsToTxnRequest, messages.TxnOffsetCommitRequest
        added = Add(
            v3_and_below_transactional_id="x",
            v3_and_below_topics=[Add.AddPartitionsToTxnTopic(name="t", partitions=[0])],
        )
        topic = Commit.TxnOffsetCommitRequestTopic(
            name="t", partitions=[Commit.TxnOffsetCommitRequestPartition(partition_index=0)]
        )
        answers = [
            asked_at(other, 22, 4, messages.InitProducerIdRequest(transactional_id="x")),
            asked_at(other, 24, 3, added),
            asked_at(other, 25, 3, messages.AddOffsetsToTxnRequest(transactional_id="x", group_id="g")),
            asked_at(other, 26, 3, messages.EndTxnRequest(transactional_id="x")),
            asked_at(other, 65, 0, messages.DescribeTransactionsRequest(transactional_ids=["x"])),
            asked_at(addresses[1 - of_group], 28, 3, Commit(transactional_id="x", group_id="g", topics=[topic])),
        ]
        assert [errors_in(each) for each in answers] == [[ErrorCode.NOT_COORDINATOR]] * len(answers)
        joined = asked_at(addresses[1 - of_group], 11, 9, messages.JoinGroupRequest(group_id="g", member_id="m"))
        assert (joined.error_code, joined.protocol_name, joined.member_id) == (ErrorCode.NOT_COORDINATOR, None, "m")
        lists = [asked_at(each, 66, 0, messages.ListTransactionsRequest()).transaction_states for each in addresses]
        assert [each.transactional_id for each in lists[coordinator]] == ["x"]
        assert lists[1 - coordinator] == []
        producer.abort_transaction()
