"""Kafka's clients use a log through its listener: what they write Python reads, and the other way round."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import ConfigError
from streamlog.errors import ClosedError
from streamlog.kafka import Listener, messages, metadata, protocol
from streamlog.kafka.errors import ErrorCode
from tests.kafka.clients import SETTINGS, WAIT_S, asked, asked_at, consumed, frame_of
from tests.kafka.fixtures import listener_of_log, temporary_log

from .traffic import eventually

log = temporary_log
listener = listener_of_log

confluent_kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]


@pytest.fixture
def produced(listener: Listener) -> Callable[..., list[Any]]:
    """Send records with confluent-kafka; what its delivery reports say."""

    def produce(topic: str, values: list[Any], settings: dict[str, Any] | None = None, **fields: Any) -> list[Any]:
        reports: list[Any] = []
        producer = confluent_kafka.Producer({"bootstrap.servers": listener.bootstrap_servers, **(settings or {})})
        for value in values:
            producer.produce(topic, value, callback=lambda error, message: reports.append((error, message)), **fields)
        assert producer.flush(WAIT_S) == 0
        return reports

    return produce


# -- records -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
def test_what_a_client_sends_python_reads(
    log: streamlog.StreamLog, produced: Callable[..., list[Any]], codec: str
) -> None:
    settings = {"compression.type": codec, "linger.ms": 50}
    reports = produced(
        "orders", [b"%d" % n * 50 for n in range(20)], settings, key=b"k", headers=[("a", b"x"), ("b", None)]
    )
    assert [(error, message.offset()) for error, message in reports] == [(None, n) for n in range(20)]
    records = list(log["orders"].read())
    assert [record.value for record in records] == [b"%d" % n * 50 for n in range(20)]
    assert {record.key for record in records} == {b"k"}
    assert {record.headers for record in records} == {(("a", b"x"), ("b", None))}
    assert [record.timestamp for record in records] == [message.timestamp()[1] for _, message in reports]


@pytest.mark.parametrize("codec", CODECS)
def test_what_python_sends_a_client_reads(log: streamlog.StreamLog, listener: Listener, codec: str) -> None:
    topic = log.create_topic("orders", compression_type=codec)
    topic.send_many([b"%d" % n * 50 for n in range(20)], [b"k%d" % n for n in range(20)])
    topic.send(None, key="last", headers=[("a", b"x"), ("b", None)], timestamp_ms=7).result()
    found = consumed(listener, "orders", 21)
    assert [(each.offset(), each.value()) for each in found[:20]] == [(n, b"%d" % n * 50) for n in range(20)]
    assert [each.key() for each in found[:20]] == [b"k%d" % n for n in range(20)]
    last = found[20]
    assert (last.value(), last.key(), last.headers(), last.timestamp()) == (
        None,
        b"last",
        [("a", b"x"), ("b", None)],
        (1, 7),
    )


def test_a_batch_of_a_client_is_served_to_clients_as_it_came(
    listener: Listener, produced: Callable[..., list[Any]]
) -> None:
    produced("orders", [b"a", None, b"c"], {"linger.ms": 50, "compression.type": "zstd"}, key=b"k")
    assert [(each.offset(), each.value(), each.key()) for each in consumed(listener, "orders", 2, offset=1)] == [
        (1, None, b"k"),
        (2, b"c", b"k"),
    ]


def test_the_time_of_the_append_is_that_of_the_records_where_the_topic_says_so(
    log: streamlog.StreamLog, listener: Listener, produced: Callable[..., list[Any]]
) -> None:
    log.create_topic("stamped", message_timestamp_type="LogAppendTime")
    ((error, report),) = produced("stamped", [b"a"], timestamp=5)
    assert error is None
    (record,) = log["stamped"].read()
    assert report.timestamp() == (2, record.timestamp)
    (message,) = consumed(listener, "stamped", 1)
    assert message.timestamp() == (2, record.timestamp)


def test_a_consumer_waits_for_what_comes_later(log: streamlog.StreamLog, listener: Listener) -> None:
    topic = log.create_topic("t")
    consumer = confluent_kafka.Consumer(SETTINGS | {"bootstrap.servers": listener.bootstrap_servers})
    consumer.assign([confluent_kafka.TopicPartition("t", 0, 0)])
    assert consumer.poll(0.3) is None
    topic.send("later").result()
    assert consumer.poll(WAIT_S).value() == b"later"
    assert consumer.get_watermark_offsets(confluent_kafka.TopicPartition("t", 0)) == (0, 1)
    consumer.close()


def test_offsets_are_found_by_time(log: streamlog.StreamLog, listener: Listener) -> None:
    topic = log.create_topic("t")
    topic.send_many(["a", "b", "c"], timestamps_ms=[10, 30, 20]).result()
    consumer = confluent_kafka.Consumer(SETTINGS | {"bootstrap.servers": listener.bootstrap_servers})

    def at(time: int) -> int:
        (found,) = consumer.offsets_for_times([confluent_kafka.TopicPartition("t", 0, time)], WAIT_S)
        return int(found.offset)

    assert [at(5), at(10), at(11), at(20), at(30)] == [0, 0, 1, 1, 1]
    assert at(31) == confluent_kafka.OFFSET_END
    consumer.close()


# -- topics ------------------------------------------------------------------------------------------


def test_topics_are_created_changed_and_deleted_by_an_admin_client(
    log: streamlog.StreamLog, listener: Listener
) -> None:
    from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

    admin = AdminClient({"bootstrap.servers": listener.bootstrap_servers})
    made = admin.create_topics([NewTopic("orders", 3, 1, config={"cleanup.policy": "compact", "retention.ms": "1000"})])
    assert made["orders"].result(WAIT_S) is None
    assert log["orders"].partitions == 3
    config = log["orders"].config
    assert (config["cleanup_policy"], config["retention_ms"], config["partitioner"]) == ("compact", 1000, "murmur2")
    assert admin.create_partitions([NewPartitions("orders", 4)])["orders"].result(WAIT_S) is None
    assert len(admin.list_topics(timeout=WAIT_S).topics["orders"].partitions) == 4
    assert admin.delete_topics(["orders"])["orders"].result(WAIT_S) is None
    assert log.topics() == []


@pytest.mark.parametrize(
    ("topic", "error"),
    [
        (("", 1, 1, {}), ErrorCode.INVALID_TOPIC_EXCEPTION),
        (("with space", 1, 1, {}), ErrorCode.INVALID_TOPIC_EXCEPTION),
        (("there", 1, 1, {}), ErrorCode.TOPIC_ALREADY_EXISTS),
        (("t", 0, 1, {}), ErrorCode.INVALID_PARTITIONS),
        (("t", 1, 2, {}), ErrorCode.INVALID_REPLICATION_FACTOR),
        (("t", 1, 1, {"retention.mss": "1"}), ErrorCode.INVALID_CONFIG),
        (("t", 1, 1, {"retention.ms": "soon"}), ErrorCode.INVALID_CONFIG),
        (("t", 1, 1, {"cleanup.policy": "burn"}), ErrorCode.INVALID_CONFIG),
        (("__consumer_offsets", 1, 1, {}), ErrorCode.INVALID_TOPIC_EXCEPTION),
    ],
)
@pytest.mark.parametrize("only_validates", [False, True])
def test_a_topic_that_cannot_be_created_is_refused_with_kafkas_error(
    log: streamlog.StreamLog, listener: Listener, topic: tuple[Any, ...], error: ErrorCode, only_validates: bool
) -> None:
    log.create_topic("there")
    name, count, factor, config = topic
    Request = messages.CreateTopicsRequest
    wanted = Request.CreatableTopic(
        name=name,
        num_partitions=count,
        replication_factor=factor,
        configs=[Request.CreatableTopicConfig(name=each, value=value) for each, value in config.items()],
    )
    (made,) = asked(listener, 19, 7, Request(topics=[wanted], timeout_ms=1000, validate_only=only_validates)).topics
    assert made.error_code == error
    assert made.error_message
    assert [each.name for each in log.topics()] == ["there"]


def test_a_topic_is_created_when_a_client_asks_for_it_unless_the_listener_creates_none(
    log: streamlog.StreamLog,
) -> None:
    Request = messages.MetadataRequest
    wanted = Request(topics=[Request.MetadataRequestTopic(name="t")])
    with Listener(log, auto_create_topics=False) as listener:
        (topic,) = asked(listener, 3, 12, wanted).topics
        assert topic.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    with Listener(log) as listener:
        wanted.allow_auto_topic_creation = False
        (topic,) = asked(listener, 3, 12, wanted).topics
        assert topic.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        wanted.allow_auto_topic_creation = True
        (topic,) = asked(listener, 3, 12, wanted).topics
        assert (topic.error_code, len(topic.partitions)) == (ErrorCode.NONE, 1)
    assert log["t"].config["retention_ms"] == 7 * 24 * 3_600_000


# -- brokers -----------------------------------------------------------------------------------------


def test_each_broker_has_a_socket_and_what_a_client_sends_finds_its_leader() -> None:
    with streamlog.open(brokers=3) as log, Listener(log) as listener:
        log.create_topic("t", partitions=6)
        assert len(listener.bootstrap_servers.split(",")) == 3
        producer = confluent_kafka.Producer({"bootstrap.servers": listener.bootstrap_servers.split(",")[0]})
        for number in range(6):
            producer.produce("t", b"%d" % number, partition=number)
        assert producer.flush(WAIT_S) == 0
        assert [record.value for record in log["t"].read()] == [b"%d" % number for number in range(6)]
        log.brokers[1].stop()
        for number in range(6):
            producer.produce("t", b"again", partition=number)
        assert producer.flush(WAIT_S) == 0
        assert len(list(log["t"].read())) == 12


@pytest.mark.damaged
def test_what_is_damaged_at_the_leader_is_served_from_another_replica(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log, Listener(log) as listener:
        topic = log.create_topic("t")
        for number in range(3):
            topic.send(b"%d" % number * 100).result()
        leader = topic.partition(0).leader
        (file,) = (path / f"broker-{leader}" / "topics" / f"{topic.id.hex}-0").glob("*.log")
        with file.open("r+b") as segment:  # a byte of the second record
            segment.seek(file.stat().st_size // 2)
            (byte,) = segment.read(1)
            segment.seek(-1, 1)
            segment.write(bytes([byte ^ 1]))
        assert [each.value() for each in consumed(listener, "t", 3)] == [b"%d" % number * 100 for number in range(3)]


@pytest.mark.damaged
def test_damage_that_no_replica_can_fill_is_an_error_of_the_partition(path: Path) -> None:
    with streamlog.open(path) as log, Listener(log) as listener:
        topic = log.create_topic("t")
        topic.send(b"." * 100).result()
        (file,) = (path / "topics" / f"{topic.id.hex}-0").glob("*.log")
        with file.open("r+b") as segment:
            segment.seek(file.stat().st_size - 10)
            segment.write(b"!")
        Fetch = messages.FetchRequest
        wanted = [
            Fetch.FetchTopic(topic="t", partitions=[Fetch.FetchPartition(partition=0, partition_max_bytes=10_000)])
        ]
        (answer,) = asked(listener, 1, 12, Fetch(max_bytes=10_000, topics=wanted)).responses
        assert answer.partitions[0].error_code == ErrorCode.CORRUPT_MESSAGE
        assert not answer.partitions[0].records


def test_a_broker_that_stops_closes_its_connections_and_comes_back_at_its_port() -> None:
    with streamlog.open(brokers=2) as log, Listener(log) as listener:
        addresses = listener.bootstrap_servers.split(",")
        host, _, port = addresses[1].rpartition(":")
        with socket.create_connection((host, int(port)), WAIT_S) as connection:
            log.brokers[1].stop()
            with suppress(ConnectionResetError):
                assert connection.recv(1) == b""
        eventually(lambda: listener.bootstrap_servers == addresses[0])
        log.brokers[1].start()
        eventually(lambda: listener.bootstrap_servers.split(",") == addresses)
        Request = messages.MetadataRequest
        assert len(asked_at(addresses[1], 3, 12, Request(topics=[])).brokers) == 2


def test_partitions_are_described_page_by_page(log: streamlog.StreamLog, listener: Listener) -> None:
    for name, count in (("a", 3), ("b", 1), ("c", 2)):
        log.create_topic(name, partitions=count)
    Request = messages.DescribeTopicPartitionsRequest
    cursor, pages = None, []
    while True:
        answer = asked(listener, 75, 0, Request(topics=[], response_partition_limit=2, cursor=cursor))
        pages.append([(topic.name, each.partition_index) for topic in answer.topics for each in topic.partitions])
        if answer.next_cursor is None:
            break
        cursor = Request.Cursor(
            topic_name=answer.next_cursor.topic_name, partition_index=answer.next_cursor.partition_index
        )
    assert pages == [[("a", 0), ("a", 1)], [("a", 2), ("b", 0)], [("c", 0), ("c", 1)]]
    for each in (partition for topic in answer.topics for partition in topic.partitions):
        assert (each.eligible_leader_replicas, each.last_known_elr) == ((), ()), "Java's client cannot read null there"
    wanted = [Request.TopicRequest(name=name) for name in ("c", "none")]
    found, none = asked(listener, 75, 0, Request(topics=wanted, response_partition_limit=10)).topics
    assert (found.topic_id, [each.leader_id for each in found.partitions]) == (log["c"].id.bytes, [0, 0])
    assert (none.name, none.error_code) == ("none", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)


def test_the_preferred_leader_is_elected_when_it_is_asked_for() -> None:
    with streamlog.open(brokers=3) as log, Listener(log) as listener:
        topic = log.create_topic("t")
        preferred = topic.partition(0).leader
        log.brokers[preferred].stop()
        log.brokers[preferred].start()
        eventually(lambda: set(topic.partition(0).isr) == {0, 1, 2})
        Request = messages.ElectLeadersRequest
        wanted = [Request.TopicPartitions(topic="t", partitions=[0, 7])]
        codes = []
        for _ in range(2):
            answer = asked(listener, 43, 2, Request(election_type=0, topic_partitions=wanted, timeout_ms=5000))
            codes.append([each.error_code for each in answer.replica_election_results[0].partition_result])
        unknown = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        assert codes == [[ErrorCode.NONE, unknown], [ErrorCode.ELECTION_NOT_NEEDED, unknown]]
        assert topic.partition(0).leader == preferred


# -- opening and closing -----------------------------------------------------------------------------


def test_a_version_of_api_versions_that_is_unknown_is_answered_in_the_first_one(listener: Listener) -> None:
    host, _, port = listener.bootstrap_servers.rpartition(":")
    with socket.create_connection((host, int(port)), WAIT_S) as connection:
        connection.sendall(struct.pack(">ihhih", 10, 18, 99, 7, -1))
        first = messages.RequestHeader(request_api_key=18, request_api_version=0, correlation_id=7)
        answer = protocol.decode_response(first, frame_of(connection))
        assert answer.error_code == ErrorCode.UNSUPPORTED_VERSION
        assert [each.api_key for each in answer.api_keys] == [18]
        connection.sendall(struct.pack(">ihhih", 10, 18, 0, 7, -1))  # it is still open
        assert {0, 1, 2, 3, 18} <= {
            each.api_key for each in protocol.decode_response(first, frame_of(connection)).api_keys
        }


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">i", -1) + b"....",
        struct.pack(">ih", 1 << 30, 0),
        struct.pack(">ih", (16 << 20) + 1, 3),
        struct.pack(">ihhih", 10, 999, 0, 7, -1),
        struct.pack(">ihhih", 10, 3, 99, 7, -1),
        struct.pack(">ihhihi", 14, 3, 8, 7, -1, 1 << 30),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["negative", "too large", "too large for others", "unknown api", "unknown version", "claims", "http"],
)
def test_what_is_no_request_closes_its_connection_and_no_other(
    log: streamlog.StreamLog, listener: Listener, data: bytes
) -> None:
    host, _, port = listener.bootstrap_servers.rpartition(":")
    with socket.create_connection((host, int(port)), WAIT_S) as connection:
        connection.sendall(data)
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    log.create_topic("t")
    assert asked(listener, 3, 12, messages.MetadataRequest(topics=None)).topics[0].name == "t"


def test_closing_the_log_closes_its_listener_with_what_waits_there(log: streamlog.StreamLog) -> None:
    log.create_topic("t")
    listener = Listener(log)
    listener.start()
    host, _, port = listener.bootstrap_servers.rpartition(":")
    Request = messages.FetchRequest
    request = Request(
        max_wait_ms=60_000,
        min_bytes=1,
        topics=[
            Request.FetchTopic(topic="t", partitions=[Request.FetchPartition(partition=0, partition_max_bytes=1000)])
        ],
    )
    header = messages.RequestHeader(request_api_key=1, request_api_version=12, correlation_id=7)
    with socket.create_connection((host, int(port)), WAIT_S) as connection:
        connection.sendall(b"".join(protocol.encode_request(header, request)))
        log.close()
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    with pytest.raises(OSError):
        socket.create_connection((host, int(port)), WAIT_S)


def test_only_this_machine_reaches_a_listener_unless_that_is_said(log: streamlog.StreamLog) -> None:
    with pytest.raises(ConfigError, match="allow_insecure"):
        Listener(log, host="0.0.0.0")
    with pytest.raises(ConfigError, match="allow_insecure"):
        Listener(log, host="example.org")
    with pytest.raises(ConfigError, match="give advertised_host"):
        Listener(log, host="0.0.0.0", allow_insecure=True)
    Listener(
        log, host="0.0.0.0", advertised_host="example.org", tls=ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    )
    with Listener(log, host="0.0.0.0", advertised_host="127.0.0.1", allow_insecure=True) as listener:
        assert listener.bootstrap_servers.startswith("127.0.0.1:")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"port": -1}, "0 to 65535"),
        ({"port": 70_000}, "0 to 65535"),
        ({"port": "9092"}, "port has to be an int"),
        ({"port": True}, "port has to be an int"),
        ({"host": ""}, "host has to be a str"),
        ({"host": "127.0.0.1:9092"}, "the port by port="),
        ({"advertised_host": "kafka.local:9092"}, "the port by port="),
        ({"advertised_host": "x" * 40_000}, "not the name or the address"),
        ({"advertised_host": 5}, "advertised_host has to be a str"),
        ({"tls": True}, "an ssl.SSLContext"),
        ({"tls": ssl.create_default_context()}, "context for clients"),
        ({"auto_create_topics": "no"}, "not one of True, False"),
        ({"allow_insecure": "no"}, "not one of True, False"),
        ({"broker_config": None}, "has to be a mapping"),
        ({"broker_config": {"log.retention.ms": 5}}, "has to be a str"),
        ({"broker_config": {"log.retention.ms": "7d"}}, "configuration log.retention.ms"),
        ({"broker_config": {"num.partitions": "0"}}, "from 1 on|1 to"),
        ({"broker_config": {"num.partitions": "10001"}}, "1 to 10000"),
        ({"broker_config": {5: "0"}}, "no setting 5"),
    ],
)
def test_an_argument_that_makes_no_sense_is_refused_at_once(
    log: streamlog.StreamLog, argument: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Listener(log, **argument)


def test_a_listener_is_for_a_log() -> None:
    path: Any = "data"
    with pytest.raises(ConfigError, match=r"streamlog.open\(\)"):
        Listener(path)


def test_a_listener_that_is_not_started_has_no_address(log: streamlog.StreamLog) -> None:
    listener = Listener(log)
    with pytest.raises(ClosedError, match="start"):
        _ = listener.bootstrap_servers
    assert "closed" in repr(listener)


def test_a_listener_whose_log_was_closed_has_no_address_and_does_not_start() -> None:
    with streamlog.open() as log:
        listener = Listener(log)
        listener.start()
    assert "closed" in repr(listener)
    with pytest.raises(ClosedError, match="start"):
        _ = listener.bootstrap_servers
    with pytest.raises(ClosedError, match="log was"):
        listener.start()
    listener.close()


def test_other_clients_are_answered_while_the_metadata_of_many_topics_is_put_together(
    log: streamlog.StreamLog, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end = threading.Event()
    respond = metadata._response

    def responded(call: Any, named: Any, *failed: Any) -> Any:
        assert may_end.wait(WAIT_S)
        return respond(call, named, *failed)

    monkeypatch.setattr(metadata, "_response", responded)
    Request = messages.MetadataRequest
    names = [Request.MetadataRequestTopic(name=f"none{number}") for number in range(1_001)]
    request = Request(topics=names, allow_auto_topic_creation=False)
    found: list[Any] = []
    asking = threading.Thread(target=lambda: found.extend(asked(listener, 3, 12, request).topics))
    asking.start()
    assert asked(listener, 18, 0, messages.ApiVersionsRequest()).api_keys
    may_end.set()
    asking.join(WAIT_S)
    assert len(found) == 1_001


def test_a_port_that_is_taken_is_an_oserror_and_leaves_nothing(log: streamlog.StreamLog, listener: Listener) -> None:
    port = int(listener.bootstrap_servers.rpartition(":")[2])
    with pytest.raises(OSError):
        Listener(log, port=port, initial_rebalance_delay_ms=20).start()
