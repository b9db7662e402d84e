"""What `listener.control` does to Kafka's clients: errors, delays, lost connections and responses; brokers, groups, time, versions."""

from __future__ import annotations

import random
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

import streamlog
from streamlog import ConfigError
from streamlog.errors import ClosedError, UnknownMemberIdError
from streamlog.kafka import Control, Listener, error_responses, messages, protocol, schema
from streamlog.kafka.api_keys import ApiKey
from streamlog.kafka.errors import ErrorCode
from streamlog.testing import ManualClock
from tests.kafka.clients import SETTINGS, WAIT_S, asked, asked_at, consumed, errors_in, frame_of
from tests.kafka.fixtures import listener_of_log, log_of_three_brokers
from tests.kafka.random_messages import random_message

from .traffic import eventually

confluent_kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
log = log_of_three_brokers
listener = listener_of_log


@pytest.fixture
def control(listener: Listener) -> Control:
    return listener.control


Send = Callable[..., list[Any]]


@pytest.fixture
def send(listener: Listener) -> Send:
    """Send values one by one with confluent-kafka; the error of each, or None."""

    def send(topic: str, values: list[bytes], **settings: Any) -> list[Any]:
        errors: list[Any] = []
        producer = confluent_kafka.Producer(
            {"bootstrap.servers": listener.bootstrap_servers, "retry.backoff.ms": 10, **settings}
        )
        for value in values:
            producer.produce(topic, value, callback=lambda error, message: errors.append(error))
            assert producer.flush(WAIT_S) == 0
        return [error and error.name() for error in errors]

    return send


def values_of(log: streamlog.StreamLog, topic: str = "t") -> list[bytes | None]:
    return [record.value for record in log[topic].read()]


@contextmanager
def connected(listener: Listener) -> Iterator[socket.socket]:
    host, _, port = listener.bootstrap_servers.split(",")[0].rpartition(":")
    with socket.create_connection((host, int(port)), WAIT_S) as connection:
        yield connection


def _header(key: int, version: int) -> Any:
    return messages.RequestHeader(request_api_key=key, request_api_version=version, correlation_id=7, client_id="test")


def send_request(connection: socket.socket, key: int, version: int, request: Any) -> None:
    connection.sendall(b"".join(protocol.encode_request(_header(key, version), request)))


def response_of(connection: socket.socket, key: int, version: int) -> Any:
    return protocol.decode_response(_header(key, version), frame_of(connection))


def versions_of(listener: Listener) -> list[Any]:
    return list(asked(listener, 18, 2, messages.ApiVersionsRequest()).api_keys)


# -- errors ----------------------------------------------------------------------------------------------


def test_a_producer_tries_again_after_an_error_that_it_may_and_loses_nothing(
    log: streamlog.StreamLog, control: Control, send: Send
) -> None:
    log.create_topic("t")
    fault = control.fail("Produce", "NOT_LEADER_OR_FOLLOWER", topic="t", nth=2, times=2)
    assert send("t", [b"a", b"b", b"c"]) == [None] * 3
    assert values_of(log) == [b"a", b"b", b"c"]
    assert fault.fired == 2
    assert control.unfired() == []
    assert len(control.requests("Produce", topic="t")) == 5


def test_an_error_that_is_final_is_what_the_delivery_report_says(
    log: streamlog.StreamLog, control: Control, send: Send
) -> None:
    log.create_topic("t")
    control.fail("Produce", "TOPIC_AUTHORIZATION_FAILED", partition=0)
    assert send("t", [b"a"]) == ["TOPIC_AUTHORIZATION_FAILED"]
    assert send("t", [b"b"]) == [None]
    assert values_of(log) == [b"b"]


def test_an_error_after_the_work_leaves_the_records_in_the_log(
    log: streamlog.StreamLog, control: Control, send: Send
) -> None:
    log.create_topic("t")
    control.fail("Produce", "INVALID_RECORD", after=True)
    assert send("t", [b"a", b"b"]) == ["INVALID_RECORD", None]
    assert values_of(log) == [b"a", b"b"]


@pytest.mark.parametrize(("idempotent", "copies"), [(True, 1), (False, 2)])
def test_a_response_that_is_lost_gives_a_duplicate_unless_the_producer_is_idempotent(
    log: streamlog.StreamLog, control: Control, send: Send, idempotent: bool, copies: int
) -> None:
    log.create_topic("t")
    fault = control.drop_response("Produce", nth=2)
    assert send("t", [b"a", b"b", b"c"], **{"enable.idempotence": idempotent}) == [None] * 3
    assert values_of(log) == [b"a", *[b"b"] * copies, b"c"]
    assert fault.fired == 1


def test_a_connection_that_is_closed_before_the_work_loses_nothing(
    log: streamlog.StreamLog, control: Control, listener: Listener, send: Send
) -> None:
    log.create_topic("t")
    control.disconnect("Produce", times=2)
    control.disconnect("Fetch")
    assert send("t", [b"a", b"b"]) == [None] * 2
    assert [each.value() for each in consumed(listener, "t", 2)] == [b"a", b"b"]
    assert control.unfired() == []


def test_errors_with_a_probability_lose_nothing_and_their_seed_is_known(
    log: streamlog.StreamLog, control: Control, send: Send
) -> None:
    log.create_topic("t")
    fault = control.fail("Produce", "NOT_ENOUGH_REPLICAS", probability=0.5, seed=11)
    values = [b"%d" % n for n in range(20)]
    assert send("t", values) == [None] * 20
    assert values_of(log) == values
    assert fault.fired > 3


@pytest.mark.parametrize("partition", [None, 0])
def test_a_consumer_goes_on_after_an_error_of_a_partition_of_its_session(
    log: streamlog.StreamLog, control: Control, listener: Listener, partition: int | None
) -> None:
    topic = log.create_topic("t", partitions=2)
    consumer = confluent_kafka.Consumer(SETTINGS | {"bootstrap.servers": listener.bootstrap_servers})
    consumer.assign([confluent_kafka.TopicPartition("t", n, 0) for n in (0, 1)])
    for number in (0, 1):
        topic.send(b"first", partition=number).result()
    assert {consumer.poll(WAIT_S).partition() for _ in (0, 1)} == {0, 1}
    fault = control.fail("Fetch", "NOT_LEADER_OR_FOLLOWER", topic="t", partition=partition)
    fault.wait(WAIT_S)
    for number in (0, 1):
        topic.send(b"second", partition=number).result()
    assert {consumer.poll(WAIT_S).partition() for _ in (0, 1)} == {0, 1}
    assert control.requests("Fetch", topic="t")
    consumer.close()


@pytest.mark.parametrize("key", sorted(schema.names()))
def test_an_injected_error_is_in_the_response_of_every_api_and_version(key: int, rng: random.Random) -> None:
    """Of requests with random fields: it does not matter what they are to do, as they do not take effect."""
    with streamlog.open() as log, Listener(log) as listener:
        name = schema.names()[key]
        if not any(each.api_key == key for each in asked(listener, 18, 2, messages.ApiVersionsRequest()).api_keys):
            with pytest.raises(ConfigError, match=f"no API '{name}' here"):
                listener.control.disconnect(name)
            return
        low, high = protocol.versions_of(key)
        for version in range(low, high + 1):
            for code in (ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.NOT_COORDINATOR):
                request = random_message(rng, f"{name}Request", version)
                if key == ApiKey.PRODUCE:
                    request.acks = 1
                if key == ApiKey.FETCH:
                    request.session_id, request.session_epoch = 0, -1
                if key == ApiKey.ELECT_LEADERS:
                    request.election_type = 0  # others are refused as a whole, and so is a group without a name
                if hasattr(request, "group_id"):
                    request.group_id = "g"
                depth = error_responses.depth_of(key, version, code)
                places = error_responses.places_of(key, version, request, depth)
                with listener.control.fail(name, code, optional=True) as fault:
                    response = asked(listener, key, version, request)
                assert fault.fired == 1
                if places is not None:
                    assert errors_in(response) == [code] * len({str(place) for place in places}), (version, request)


# -- delays ----------------------------------------------------------------------------------------------


def test_a_delay_is_one_of_the_clock_that_the_test_moves() -> None:
    clock = ManualClock()
    with streamlog.open(clock=clock) as log, Listener(log) as listener:
        fault = listener.control.delay("Heartbeat", 50)
        with connected(listener) as connection:
            send_request(connection, 12, 4, messages.HeartbeatRequest(group_id="g", member_id="m"))
            fault.wait(WAIT_S)
            listener.control.advance(0.049)
            assert select.select([connection], [], [], 0) == ([], [], [])
            listener.control.advance(0.001)
            assert response_of(connection, 12, 4).error_code == ErrorCode.UNKNOWN_MEMBER_ID


def test_a_delay_of_every_request_is_that_of_a_slow_network(
    log: streamlog.StreamLog, control: Control, listener: Listener
) -> None:
    control.delay(None, 30, times="always")
    control.delay("Metadata", 30)
    before = time.monotonic()
    asked(listener, 3, 12, messages.MetadataRequest(topics=[]))
    assert time.monotonic() - before >= 0.06


def test_a_client_that_leaves_while_its_request_is_delayed_is_not_answered() -> None:
    clock = ManualClock()
    with streamlog.open(clock=clock) as log, Listener(log) as listener:
        fault = listener.control.delay("CreateTopics", 1000)
        Request = messages.CreateTopicsRequest
        with connected(listener) as connection:
            topics = [Request.CreatableTopic(name="t", num_partitions=1, replication_factor=1)]
            send_request(connection, 19, 7, Request(topics=topics))
            fault.wait(WAIT_S)
        eventually(lambda: not listener._serving._connections)  # type: ignore[union-attr]
        clock.advance(1)
        asked(listener, 3, 12, messages.MetadataRequest(topics=[]))  # comes after it
        assert "t" not in log


# -- brokers ---------------------------------------------------------------------------------------------


def test_producers_and_consumers_go_on_while_a_broker_is_down(
    log: streamlog.StreamLog, control: Control, listener: Listener, send: Send
) -> None:
    topic = log.create_topic("t", partitions=3)
    addresses = listener.bootstrap_servers.split(",")
    control.broker_down(1)
    assert listener.bootstrap_servers.split(",") == [addresses[0], addresses[2]]
    with pytest.raises(OSError):
        asked_at(addresses[1], 3, 12, messages.MetadataRequest(topics=[]))
    assert send("t", [b"a", b"b", b"c"]) == [None] * 3
    control.broker_up(1)
    assert listener.bootstrap_servers.split(",") == addresses
    assert len(asked_at(addresses[1], 3, 12, messages.MetadataRequest(topics=[])).brokers) == 3
    assert sorted(record.value for record in topic.read()) == [b"a", b"b", b"c"]


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_client_follows_a_leader_that_moves(
    log: streamlog.StreamLog, control: Control, listener: Listener, replicas: int
) -> None:
    topic = log.create_topic("t", replication_factor=replicas)
    producer = confluent_kafka.Producer({"bootstrap.servers": listener.bootstrap_servers, "retry.backoff.ms": 10})
    for broker in (2, 0, 1):
        control.move_leader("t", 0, broker)
        assert topic.partition(0).leader == broker
        producer.produce("t", b"%d" % broker)
        assert producer.flush(WAIT_S) == 0
        assert control.requests("Produce")[-1].broker_id == broker
    assert values_of(log) == [b"2", b"0", b"1"]
    assert len(topic.partition(0).replicas) == replicas


def test_what_cannot_be_moved_is_an_error(log: streamlog.StreamLog, control: Control) -> None:
    log.create_topic("t")
    with pytest.raises(ConfigError, match="no broker 7"):
        control.move_leader("t", 0, 7)
    with pytest.raises(streamlog.UnknownTopicOrPartitionError):
        control.move_leader("t", 1, 0)
    with pytest.raises(streamlog.UnknownTopicOrPartitionError):
        control.move_leader("none", 0, 0)


def test_a_group_that_does_not_exist_cannot_rebalance(log: streamlog.StreamLog, control: Control) -> None:
    with pytest.raises(streamlog.GroupIdNotFoundError, match="no group 'none'"):
        control.rebalance("none")
    log.create_topic("t").send(b"x").result()
    with log.consumer("t", group="other") as consumer:  # from now on there is a topic of groups
        consumer.poll()
    with pytest.raises(streamlog.GroupIdNotFoundError, match="no group 'none'"):
        control.rebalance("none")


# -- groups ----------------------------------------------------------------------------------------------


class Member:
    """A consumer of group g, polled by the test. `given` and `taken`: how often it was given partitions, and lost some."""

    def __init__(self, listener: Listener, **settings: Any) -> None:
        self.given = self.taken = 0
        self.values: list[bytes] = []
        common = {"bootstrap.servers": listener.bootstrap_servers, "group.id": "g", "auto.offset.reset": "earliest"}
        self.consumer = confluent_kafka.Consumer(common | (settings or {"heartbeat.interval.ms": 100}))
        self.consumer.subscribe(["t"], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke)

    def _on_assign(self, consumer: Any, partitions: list[Any]) -> None:
        self.given += 1

    def _on_revoke(self, consumer: Any, partitions: list[Any]) -> None:
        self.taken += 1

    def poll_until(self, condition: Callable[[], bool], *others: Member) -> None:
        end = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < end, (self.given, self.taken, self.values)
            for member in (self, *others):
                message = member.consumer.poll(0.02)
                if message is not None and message.error() is None:
                    member.values.append(message.value())


@pytest.fixture
def member(listener: Listener) -> Iterator[Callable[..., Member]]:
    made: list[Member] = []

    def make(**settings: Any) -> Member:
        made.append(Member(listener, **settings))
        return made[-1]

    yield make
    for each in made:
        each.consumer.close()


def test_a_group_goes_on_when_its_coordinator_moves(
    log: streamlog.StreamLog, control: Control, member: Callable[..., Member]
) -> None:
    topic = log.create_topic("t")
    one = member()
    for number, broker in enumerate((1, 2, 0)):
        topic.send(b"%d" % number).result()
        one.poll_until(lambda number=number: len(one.values) == number + 1)  # type: ignore[misc]
        one.consumer.commit(asynchronous=False)
        control.move_coordinator("g", broker)
        one.poll_until(lambda broker=broker: control.requests("Heartbeat")[-1].broker_id == broker)  # type: ignore[misc]
    assert log.group("g").committed() == {streamlog.TopicPartition("t", 0): 3}
    assert one.values == [b"0", b"1", b"2"]
    assert (one.given, one.taken) == (1, 0)  # the members are those that they were


def test_transactions_go_on_when_their_coordinator_moves(
    log: streamlog.StreamLog, control: Control, listener: Listener
) -> None:
    log.create_topic("t")
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": listener.bootstrap_servers, "transactional.id": "billing", "retry.backoff.ms": 10}
    )
    producer.init_transactions(WAIT_S)
    for broker in (1, 2, 0):
        producer.begin_transaction()
        producer.produce("t", b"%d" % broker)
        control.move_coordinator("billing", broker, of_transactions=True)
        producer.commit_transaction(WAIT_S)
    assert values_of(log) == [b"1", b"2", b"0"]
    assert [each.broker_id for each in control.requests("EndTxn")][-1] == 0


@pytest.mark.parametrize("strategy", ["range", "cooperative-sticky"])
def test_a_classic_group_rebalances_when_the_test_wants_it(
    log: streamlog.StreamLog, control: Control, member: Callable[..., Member], strategy: str
) -> None:
    log.create_topic("t", partitions=2)
    settings = {"partition.assignment.strategy": strategy, "heartbeat.interval.ms": 100}
    one, two = member(**settings), member(**settings)

    def are_both_given() -> bool:
        return log.group("g").state == "Stable" and {len(each.consumer.assignment()) for each in (one, two)} == {1}

    one.poll_until(are_both_given, two)
    joins = len(control.requests("SyncGroup"))
    control.rebalance("g")
    one.poll_until(lambda: len(control.requests("SyncGroup")) >= joins + 2 and are_both_given(), two)


def test_members_of_the_newer_protocol_change_places_when_the_test_wants_it(
    log: streamlog.StreamLog, control: Control, member: Callable[..., Member]
) -> None:
    log.create_topic("t", partitions=2)
    one, two = (member(**{"group.protocol": "consumer"}) for _ in range(2))

    def held(of: Member) -> set[int]:
        return {each.partition for each in of.consumer.assignment()}

    one.poll_until(lambda: len(held(one)) == len(held(two)) == 1, two)
    before = held(one), held(two)
    control.rebalance("g")
    one.poll_until(lambda: (held(two), held(one)) == before, two)


def test_a_member_that_is_expired_under_a_manual_clock_joins_again() -> None:
    with streamlog.open(clock=ManualClock()) as log, Listener(log) as listener:
        log.create_topic("t")
        one = Member(listener)
        one.poll_until(lambda: one.given == 1)
        (before,) = log.group("g").members()
        listener.control.expire("g")
        assert log.group("g").members() == []
        one.poll_until(lambda: one.given == 2)
        (after,) = log.group("g").members()
        assert after.member_id != before.member_id
        assert one.taken == 1
        one.consumer.close()


def test_a_member_is_named_where_there_are_several(log: streamlog.StreamLog, control: Control) -> None:
    log.create_topic("t", partitions=2)
    with pytest.raises(UnknownMemberIdError, match="has no members"):
        control.expire("g")
    members = [log.consumer("t", group="g") for _ in range(2)]
    for each in members:
        each.poll(timeout=0)
    known = [each.member_id for each in log.group("g").members()]
    with pytest.raises(ConfigError, match="several members"):
        control.expire("g")
    control.expire("g", known[0])
    assert [each.member_id for each in log.group("g").members()] == known[1:]
    with pytest.raises(UnknownMemberIdError):
        control.expire("g", known[0])


# -- time and the background -----------------------------------------------------------------------------


def test_retention_and_compaction_happen_when_the_test_wants_them() -> None:
    with streamlog.open(clock=ManualClock()) as log, Listener(log) as listener:
        old = log.create_topic("old", retention_ms=60_000)
        prices = log.create_topic("prices", cleanup_policy="compact")
        old.send(b"old").result()
        prices.send_many([b"1", b"2", b"3"], [b"a", b"b", b"a"]).result()
        listener.control.compact("prices")
        assert [each.value() for each in consumed(listener, "prices", 2)] == [b"2", b"3"]
        listener.control.advance(timedelta(minutes=2))
        listener.control.apply_retention("old")
        assert old.partition(0).log_start_offset == 1
        with pytest.raises(ConfigError, match="not compacted"):
            listener.control.compact("old")


def test_the_clock_of_the_machine_cannot_be_moved(control: Control) -> None:
    with pytest.raises(ConfigError, match=r"ManualClock"):
        control.advance(1)


# -- what clients send -----------------------------------------------------------------------------------


def test_a_client_keeps_to_the_versions_that_are_pinned(
    log: streamlog.StreamLog, control: Control, listener: Listener, send: Send
) -> None:
    log.create_topic("t")
    with control.max_versions({"Produce": 7, "Metadata": 9, "ConsumerGroupHeartbeat": None}):
        assert send("t", [b"a"]) == [None]
        assert {each.version for each in control.requests("Produce")} == {7}
        assert max(each.version for each in control.requests("Metadata")) == 9
        told = {each.api_key: each.max_version for each in versions_of(listener)}
        assert (told[0], told[3], 68 in told) == (7, 9, False)
        Request = messages.MetadataRequest
        refused = asked(listener, 3, 10, Request(topics=[Request.MetadataRequestTopic(name="t")]))
        assert [each.error_code for each in refused.topics] == [ErrorCode.UNSUPPORTED_VERSION]
        with pytest.raises(AssertionError, match="closed"):
            asked(listener, 68, 0, messages.ConsumerGroupHeartbeatRequest())
    assert {each.api_key for each in versions_of(listener)} >= {0, 68}
    assert asked(listener, 3, 10, Request(topics=[Request.MetadataRequestTopic(name="t")])).topics[0].error_code == 0


def test_api_versions_can_be_pinned_too(control: Control, listener: Listener) -> None:
    control.max_versions({"ApiVersions": 2})
    with connected(listener) as connection:
        send_request(connection, 18, 3, messages.ApiVersionsRequest())
        answer = protocol.decode("ApiVersionsResponse", 0, frame_of(connection), 4)[0]
    assert answer.error_code == ErrorCode.UNSUPPORTED_VERSION
    assert [(each.api_key, each.max_version) for each in answer.api_keys] == [(18, 2)]


def test_the_requests_that_came_are_listed(log: streamlog.StreamLog, control: Control, send: Send) -> None:
    log.create_topic("t")
    log.create_topic("u")
    send("t", [b"a"], **{"client.id": "shop"})
    send("u", [b"b"])
    (first,) = control.requests("Produce", topic="t")
    assert (first.api, first.client_id, first.topics, first.broker_id) == (
        "Produce",
        "shop",
        ("t",),
        log["t"].partition(0).leader,
    )
    assert [each.topics for each in control.requests("Produce")] == [("t",), ("u",)]
    assert control.requests()[0].api == "ApiVersions"
    control.clear_requests()
    assert control.requests("Produce") == []


def test_faults_outlive_a_restart_of_the_listener(log: streamlog.StreamLog) -> None:
    listener = Listener(log)
    fault = listener.control.fail("Heartbeat", "NOT_COORDINATOR", times=2)
    for _ in range(2):
        with listener:
            answer = asked(listener, 12, 4, messages.HeartbeatRequest(group_id="g", member_id="m"))
            assert answer.error_code == ErrorCode.NOT_COORDINATOR
    assert fault.fired == 2
    with pytest.raises(ClosedError):
        listener.control.rebalance("g")
