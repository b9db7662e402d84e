"""What a topic's settings do to the records that Kafka's clients send to it: which are refused, and how they are stored."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import streamlog
from streamlog.kafka import Listener, messages
from streamlog.kafka.errors import ErrorCode
from streamlog.records import compression, kafka_wire
from streamlog.testing import ManualClock
from tests.kafka.clients import WAIT_S, asked
from tests.kafka_batches import Row, kafka_payload

CODECS = ["uncompressed", "gzip", "snappy", "lz4", "zstd"]


def create(listener: Listener, **config: str) -> None:
    """Topic t with these settings; `compression__type` is `compression.type`."""
    Request = messages.CreateTopicsRequest
    configs = [
        Request.CreatableTopicConfig(name=each.replace("__", "."), value=value) for each, value in config.items()
    ]
    topic = Request.CreatableTopic(name="t", num_partitions=1, replication_factor=1, configs=configs)
    (answer,) = asked(listener, 19, 7, Request(topics=[topic], timeout_ms=1000)).topics
    assert answer.error_code == ErrorCode.NONE


def produced(listener: Listener, *rows: Row, codec: int = 0, version: int = 9, times: int = 1) -> Any:
    """What is answered to a batch for topic t; `times`: how often the request has it."""
    payload, _ = kafka_payload(rows, codec)
    Produce = messages.ProduceRequest
    data = Produce.PartitionProduceData(index=0, records=kafka_wire.PREFIX.pack(0, len(payload) + 4, -1) + payload)
    topics = [Produce.TopicProduceData(name="t", partition_data=[data] * times)]
    request = Produce(acks=-1, timeout_ms=1000, topic_data=topics)
    return asked(listener, 0, version, request).responses[0].partition_responses[0]


def stored_codec(listener: Listener, offset: int) -> int:
    """The codec of the batch at an offset, as a client gets it."""
    Fetch = messages.FetchRequest
    partition = Fetch.FetchPartition(partition=0, fetch_offset=offset, partition_max_bytes=1)
    wanted = [Fetch.FetchTopic(topic="t", partitions=[partition])]
    (topic,) = asked(listener, 1, 12, Fetch(max_bytes=1, topics=wanted)).responses
    return kafka_wire.codec_of(topic.partitions[0].records)


@pytest.mark.parametrize("kind", CODECS)
def test_what_clients_send_is_stored_with_the_codec_of_the_topic(kind: str) -> None:
    with streamlog.open() as log, Listener(log) as listener:
        create(listener, compression__type=kind, retention__ms="-1")
        for codec in range(len(CODECS)):
            answer = produced(listener, Row(5, b"k", b"a" * 500), codec=codec)
            assert (answer.error_code, answer.base_offset) == (ErrorCode.NONE, codec)
            assert stored_codec(listener, codec) == compression.codec_id(kind)
        assert [each.value for each in log["t"].read()] == [b"a" * 500] * len(CODECS)


def test_a_topic_without_a_codec_has_the_clients_and_so_has_a_broker_that_has_one_set() -> None:
    with streamlog.open() as log, Listener(log) as listener:
        create(listener)
        produced(listener, Row(5, None, b"a" * 500), codec=2)
        assert stored_codec(listener, 0) == 2
    with streamlog.open() as log, Listener(log, broker_config={"compression.type": "zstd"}) as listener:
        create(listener)
        produced(listener, Row(5, None, b"a" * 500), codec=2)
        assert stored_codec(listener, 0) == 4


def test_a_batch_that_is_too_large_as_it_would_be_stored_is_refused() -> None:
    with streamlog.open() as log, Listener(log) as listener:
        create(listener, compression__type="uncompressed", max__message__bytes="1000")
        row = Row(5, None, b"a" * 2000)
        assert produced(listener, row, codec=1).error_code == ErrorCode.MESSAGE_TOO_LARGE
        assert list(log["t"].read()) == []


def test_a_client_of_before_zstd_may_send_to_a_topic_that_has_it() -> None:
    with streamlog.open() as log, Listener(log) as listener:
        create(listener, compression__type="zstd")
        assert produced(listener, Row(5, None, b"a"), version=6).error_code == ErrorCode.NONE
        assert produced(listener, Row(5, None, b"a"), codec=1, version=6).error_code == ErrorCode.NONE
        assert stored_codec(listener, 1) == 4
        refused = produced(listener, Row(5, None, b"a"), codec=4, version=6)
        assert refused.error_code == ErrorCode.UNSUPPORTED_COMPRESSION_TYPE
        assert len(list(log["t"].read())) == 2


@pytest.mark.parametrize("is_of_broker", [False, True])
def test_records_that_are_too_old_are_refused_with_all_of_their_batch(is_of_broker: bool) -> None:
    name = "message.timestamp.before.max.ms"
    of_broker = {f"log.{name}": "1000"} if is_of_broker else {}
    clock = ManualClock()
    with streamlog.open(clock=clock) as log, Listener(log, broker_config=of_broker) as listener:
        create(listener, **({} if is_of_broker else {name: "1000"}))
        now = clock.time_ms()
        refused = produced(listener, Row(now, None, b"new"), Row(now - 1001, None, b"old"))
        assert (refused.error_code, refused.base_offset) == (ErrorCode.INVALID_TIMESTAMP, -1)
        assert produced(listener, Row(now - 1000, None, b"old")).error_code == ErrorCode.NONE
        clock.advance(0.001)
        assert produced(listener, Row(now - 1000, None, b"old")).error_code == ErrorCode.INVALID_TIMESTAMP
        assert [each.value for each in log["t"].read()] == [b"old"]


def test_records_that_get_the_time_of_their_append_may_be_of_any_age() -> None:
    with streamlog.open() as log, Listener(log) as listener:
        create(listener, message__timestamp__type="LogAppendTime", message__timestamp__before__max__ms="1000")
        assert produced(listener, Row(5, None, b"v")).error_code == ErrorCode.NONE
        assert [each.value for each in log["t"].read()] == [b"v"]


@pytest.mark.parametrize(
    ("rows", "codec", "times"),
    [
        ([Row(5, None, b"v")] * 20_001, 0, 1),
        ([Row(5, None, bytes(5 << 20))], 0, 1),
        ([Row(5, None, b"v")], 4, 5),
    ],
    ids=["many", "large", "several that are compressed"],
)
def test_while_a_batch_is_checked_for_long_other_clients_are_answered(
    monkeypatch: pytest.MonkeyPatch, rows: list[Row], codec: int, times: int
) -> None:
    """A compressed batch may take 0.1 s to check, whatever its size: 3 KB of zstd are 100 MB of records."""
    begun, others_are_answered = threading.Event(), threading.Event()
    sealed = kafka_wire.sealed

    def slow(*arguments: Any, **settings: Any) -> Any:
        begun.set()
        assert others_are_answered.wait(WAIT_S), "the batch was checked on the listener's thread"
        return sealed(*arguments, **settings)

    with streamlog.open() as log, Listener(log) as listener, ThreadPoolExecutor(1) as client:
        create(listener, max__message__bytes=str(16 << 20))
        monkeypatch.setattr(kafka_wire, "sealed", slow)
        answer = client.submit(produced, listener, *rows, codec=codec, times=times)
        assert begun.wait(WAIT_S)
        assert asked(listener, 3, 12, messages.MetadataRequest(topics=None)).topics
        others_are_answered.set()
        assert (answer.result().error_code, answer.result().base_offset) == (ErrorCode.NONE, 0)
        assert log["t"].partition(0).log_end_offset == len(rows) * times
