"""Whatever is sent to a listener: an answer, an error of Kafka's or a closed connection, and everybody else is served.

No handler fails in a way that it did not foresee: that would be logged as an error.
"""

from __future__ import annotations

import logging
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

import streamlog
from streamlog.broker.delayed_fetch import DelayedFetch
from streamlog.kafka import Listener, messages, protocol
from streamlog.kafka.connection import Limits
from streamlog.kafka.errors import ErrorCode
from streamlog.kafka.listener import Serving
from streamlog.records import kafka_wire
from tests.kafka.clients import WAIT_S, asked, frame_of
from tests.kafka.hostile import keys_of, mutated, request
from tests.kafka_batches import Row, kafka_payload

from .traffic import eventually


@pytest.fixture
def log() -> Iterator[streamlog.StreamLog]:
    with streamlog.open() as log:
        for name in ("orders", "compacted"):
            log.create_topic(name, partitions=2, cleanup_policy="compact" if name == "compacted" else "delete")
        yield log


def send(listener: Listener, frame: bytes) -> bool:
    """Send a request on a connection of its own; whether it was answered, as far as that comes soon."""
    host, _, port = listener.bootstrap_servers.rpartition(":")
    with socket.create_connection((host, int(port)), WAIT_S) as connection, suppress(OSError):
        connection.sendall(frame)
        connection.settimeout(0.02)
        return bool(connection.recv(1 << 16))
    return False


@pytest.mark.parametrize("mutates", [False, True], ids=["random fields", "mutated"])
def test_requests_that_make_no_sense_are_refused_and_harm_nobody(
    log: streamlog.StreamLog, rng: random.Random, caplog: pytest.LogCaptureFixture, mutates: bool
) -> None:
    with caplog.at_level(logging.ERROR, "streamlog"), Listener(log, auto_create_topics=False) as listener:
        versions = keys_of(listener)
        answered = set()
        for key, (low, high) in versions.items():
            for version in sorted({low, high, rng.randint(low, high)}):
                for frame in [request(rng, key, version) for _ in range(4)]:
                    if send(listener, mutated(rng, frame) if mutates else frame):
                        answered.add(key)
        names = {each.name for each in asked(listener, 3, 12, messages.MetadataRequest(topics=None)).topics}
        assert names
        assert mutates or len(answered) > len(versions) * 3 // 4, f"only {sorted(answered)} were answered"
    unforeseen = [record for record in caplog.records if "could not be answered" in record.getMessage()]
    assert not unforeseen, unforeseen[0].getMessage() + str(unforeseen[0].exc_info)
    log.create_topic("after").send(b"x").result()


def test_requests_that_are_sent_before_the_last_was_answered_are_answered_in_their_order(
    log: streamlog.StreamLog, rng: random.Random
) -> None:
    """Of any size, and cut anywhere on their way."""
    Request = messages.MetadataRequest
    with Listener(log, auto_create_topics=False) as listener:
        host, _, port = listener.bootstrap_servers.rpartition(":")
        sizes = [0, 1, 600, 800, 1300, 1700, 2600, 40, 2000]
        data = b""
        for number, size in enumerate(sizes):
            topics = [Request.MetadataRequestTopic(name=f"{at:049d}") for at in range(size)]
            header = messages.RequestHeader(request_api_key=3, request_api_version=12, correlation_id=number)
            data += b"".join(bytes(each) for each in protocol.encode_request(header, Request(topics=topics)))
        with socket.create_connection((host, int(port)), WAIT_S) as connection:
            at = 0
            while at < len(data):
                step = rng.choice((1, 5, 1000, 30_000, 100_000))
                connection.sendall(data[at : at + step])
                at += step
            for number, size in enumerate(sizes):
                header = messages.RequestHeader(request_api_key=3, request_api_version=12, correlation_id=number)
                assert len(protocol.decode_response(header, frame_of(connection)).topics) == size


@pytest.mark.slow
def test_clients_that_together_want_more_memory_than_there_is_are_closed_in_turn_and_others_are_served(
    log: streamlog.StreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each sends half of a large request, and no more."""
    limits = Limits(in_flight_bytes=1 << 20, frame_s=0.0)
    monkeypatch.setitem(Serving.__init__.__kwdefaults__, "limits", limits)
    with Listener(log) as listener:
        host, _, port = listener.bootstrap_servers.rpartition(":")
        with ExitStack() as stack:
            for _ in range(4):
                connection = stack.enter_context(socket.create_connection((host, int(port)), WAIT_S))
                with suppress(OSError):
                    connection.sendall((900_000).to_bytes(4, "big") + b"\0\3" + bytes(500_000))
                connection.settimeout(WAIT_S)
                with suppress(ConnectionResetError):
                    assert connection.recv(1) == b""
        assert asked(listener, 3, 12, messages.MetadataRequest(topics=None)).topics


@pytest.mark.parametrize("frame", [b"\0\0\0\0", b"\0\0\0\1", b"\xff\xff\xff\xff"])
def test_a_frame_without_an_api_closes_the_connection(log: streamlog.StreamLog, frame: bytes) -> None:
    with Listener(log) as listener:
        host, _, port = listener.bootstrap_servers.rpartition(":")
        with socket.create_connection((host, int(port)), WAIT_S) as connection:
            connection.sendall(frame)
            with suppress(ConnectionResetError):
                assert connection.recv(1) == b""


@pytest.mark.parametrize("version", [4, 7])
def test_an_error_may_name_what_is_as_long_as_a_name_can_be(
    log: streamlog.StreamLog, caplog: pytest.LogCaptureFixture, version: int
) -> None:
    Topic = messages.CreateTopicsRequest.CreatableTopic
    topics = [Topic(name="a" * 32_767, num_partitions=1, replication_factor=1)] * 2
    with caplog.at_level(logging.ERROR, "streamlog"), Listener(log) as listener:
        (made,) = asked(listener, 19, version, messages.CreateTopicsRequest(topics=topics)).topics
        assert (made.error_code, len(made.error_message)) == (ErrorCode.INVALID_REQUEST, 32_767)
    assert not caplog.records


def test_a_parked_fetch_ends_with_its_connection(log: streamlog.StreamLog) -> None:
    Fetch = messages.FetchRequest
    wanted = [
        Fetch.FetchTopic(topic="orders", partitions=[Fetch.FetchPartition(partition=0, partition_max_bytes=1000)])
    ]
    fetch = Fetch(max_wait_ms=2**31 - 1, min_bytes=1, max_bytes=1000, topics=wanted)
    header = messages.RequestHeader(request_api_key=1, request_api_version=12, correlation_id=1)
    expired: list[object] = []
    with Listener(log) as listener, pytest.MonkeyPatch.context() as patch:
        expire = DelayedFetch.expire
        patch.setattr(DelayedFetch, "expire", lambda self: (expired.append(self), expire(self)))
        host, _, port = listener.bootstrap_servers.rpartition(":")
        with socket.create_connection((host, int(port)), WAIT_S) as connection:
            connection.sendall(b"".join(bytes(each) for each in protocol.encode_request(header, fetch)))
            # The next one on the same connection is not looked at before: this one is parked when another is answered.
            asked(listener, 3, 12, messages.MetadataRequest(topics=None))
        eventually(lambda: bool(expired), "it still waits")


@pytest.mark.parametrize("topic", ["none", "compacted"])
def test_records_that_cannot_be_written_close_the_connection_of_a_client_that_wants_no_answer(
    log: streamlog.StreamLog, topic: str
) -> None:
    Produce = messages.ProduceRequest
    payload, _ = kafka_payload([Row(1_700_000_000_000, None, b"v")])
    batch = kafka_wire.PREFIX.pack(0, len(payload) + 4, -1) + payload
    data = Produce.PartitionProduceData(index=0, records=batch)
    request = Produce(acks=0, timeout_ms=1000, topic_data=[Produce.TopicProduceData(name=topic, partition_data=[data])])
    header = messages.RequestHeader(request_api_key=0, request_api_version=9, correlation_id=1)
    with Listener(log) as listener:
        host, _, port = listener.bootstrap_servers.rpartition(":")
        with socket.create_connection((host, int(port)), WAIT_S) as connection:
            connection.sendall(b"".join(bytes(each) for each in protocol.encode_request(header, request)))
            with suppress(ConnectionResetError):
                assert connection.recv(1) == b""


@pytest.mark.parametrize(
    ("version", "member", "generation", "code"),
    [
        (8, "nobody", 3, ErrorCode.UNKNOWN_MEMBER_ID),
        (9, "nobody", 3, ErrorCode.UNKNOWN_MEMBER_ID),
        (8, "", -1, ErrorCode.UNKNOWN_MEMBER_ID),
    ],
)
def test_a_commit_of_no_member_tells_it_to_join_again(
    log: streamlog.StreamLog, version: int, member: str, generation: int, code: ErrorCode
) -> None:
    Commit = messages.OffsetCommitRequest
    partitions = [Commit.OffsetCommitRequestPartition(partition_index=0, committed_offset=1, committed_metadata="")]
    request = Commit(
        group_id="g", member_id=member, generation_id_or_member_epoch=generation,
        topics=[Commit.OffsetCommitRequestTopic(name="orders", partitions=partitions)],
    )  # fmt: skip
    with Listener(log) as listener, log.consumer("orders", group="g") as consumer:
        consumer.poll()
        (topic,) = asked(listener, 8, version, request).topics
        assert topic.partitions[0].error_code == code


def test_a_log_is_closed_with_many_fetches_parked_while_others_send(
    log: streamlog.StreamLog, caplog: pytest.LogCaptureFixture
) -> None:
    Fetch = messages.FetchRequest
    one = Fetch.FetchPartition(partition=0, partition_max_bytes=1000)
    fetch = Fetch(
        max_wait_ms=2**31 - 1, min_bytes=1 << 20, max_bytes=1 << 21,
        topics=[Fetch.FetchTopic(topic="orders", partitions=[one])],
    )  # fmt: skip
    header = messages.RequestHeader(request_api_key=1, request_api_version=12, correlation_id=1)
    frame = b"".join(bytes(each) for each in protocol.encode_request(header, fetch))
    topic = log["orders"]

    def send_until_it_is_closed() -> None:
        with suppress(streamlog.ClosedError):
            while True:
                topic.send(b"v", partition=1).result()

    senders = [threading.Thread(target=send_until_it_is_closed, daemon=True) for _ in range(3)]
    with caplog.at_level(logging.ERROR, "streamlog"), ExitStack() as stack:
        listener = Listener(log)
        listener.start()
        host, _, port = listener.bootstrap_servers.rpartition(":")
        parked = [stack.enter_context(socket.create_connection((host, int(port)), WAIT_S)) for _ in range(200)]
        for connection in parked:
            connection.sendall(frame)
        asked(listener, 3, 12, messages.MetadataRequest(topics=None))  # answered after what came before it
        for sender in senders:
            sender.start()
        log.close()
        for sender in senders:
            sender.join(WAIT_S)
            assert not sender.is_alive()
        for connection in parked:
            with suppress(ConnectionResetError):
                while connection.recv(1 << 16):
                    pass
    unforeseen = [each.getMessage() for each in caplog.records if each.name == "streamlog.kafka"]
    assert not unforeseen
