"""Kafka's clients share a topic in groups, classic ones and those of KIP-848, through a listener; Python's are in the latter too."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

import streamlog
from streamlog import TopicPartition
from streamlog.kafka import Listener, groups, messages
from streamlog.kafka.errors import ErrorCode
from tests.kafka.clients import WAIT_S, asked
from tests.kafka.fixtures import listener_of_log, temporary_log
from tests.kafka.members import RANGE, ClassicMember

log = temporary_log
listener = listener_of_log

confluent_kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")


class Member:
    """A consumer of group g, polled on a thread of its own until it is stopped: what it was given, by partition."""

    def __init__(self, listener: Listener, topic: str, **settings: Any) -> None:
        self.consumer = confluent_kafka.Consumer(
            {
                "bootstrap.servers": listener.bootstrap_servers,
                "group.id": "g",
                "auto.offset.reset": "earliest",
                **settings,
            }
        )
        self.values: list[bytes] = []
        self.assigned: set[int] = set()
        self._news = threading.Condition()
        self._is_stopped = False
        self.consumer.subscribe([topic], on_assign=self._on_assign, on_revoke=self._on_revoke)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _on_assign(self, consumer: Any, partitions: list[Any]) -> None:
        with self._news:
            self.assigned |= {each.partition for each in partitions}
            self._news.notify_all()

    def _on_revoke(self, consumer: Any, partitions: list[Any]) -> None:
        with self._news:
            self.assigned -= {each.partition for each in partitions}
            self._news.notify_all()

    def _run(self) -> None:
        while not self._is_stopped:
            message = self.consumer.poll(0.05)
            if message is not None and message.error() is None:
                with self._news:
                    self.values.append(message.value())
                    self._news.notify_all()
        self.consumer.close()

    def wait(self, condition: Callable[[], bool]) -> None:
        with self._news:
            assert self._news.wait_for(condition, WAIT_S), f"{self.assigned} {self.values}"

    def stop(self) -> None:
        self._is_stopped = True
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()


def spread(topic: Any, values: list[bytes]) -> None:
    """Send values to the partitions in turn."""
    for number, value in enumerate(values):
        topic.send(value, partition=number % topic.partitions).result()


@contextmanager
def member(listener: Listener, topic: str = "t", **settings: Any) -> Iterator[Member]:
    made = Member(listener, topic, **settings)
    try:
        yield made
    finally:
        made.stop()


def test_a_member_reads_all_and_the_next_one_goes_on_where_it_has_committed(
    log: streamlog.StreamLog, listener: Listener
) -> None:
    topic = log.create_topic("t", partitions=3)
    spread(topic, [b"%d" % n for n in range(30)])
    with member(listener) as one:
        one.wait(lambda: len(one.values) == 30)
        assert one.assigned == {0, 1, 2}
    assert log.group("g").committed() == {TopicPartition("t", n): 10 for n in range(3)}
    topic.send(b"next", partition=1).result()
    with member(listener) as two:
        two.wait(lambda: two.values == [b"next"])


QUICK = {"heartbeat.interval.ms": 100}
PROTOCOLS = {
    **{each: QUICK | {"partition.assignment.strategy": each} for each in ("range", "roundrobin", "cooperative-sticky")},
    "consumer": {"group.protocol": "consumer"},
    "consumer, range": {"group.protocol": "consumer", "group.remote.assignor": "range"},
}


@pytest.mark.slow
@pytest.mark.parametrize("settings", PROTOCOLS.values(), ids=PROTOCOLS)
def test_members_share_and_take_over_what_one_that_leaves_had(
    log: streamlog.StreamLog, listener: Listener, settings: dict[str, Any]
) -> None:
    topic = log.create_topic("t", partitions=4)
    with ExitStack() as stack:
        one = stack.enter_context(member(listener, **settings))
        one.wait(lambda: one.assigned == {0, 1, 2, 3})
        with member(listener, **settings) as two:
            one.wait(lambda: len(one.assigned) == 2)
            two.wait(lambda: len(two.assigned) == 2)
            assert one.assigned | two.assigned == {0, 1, 2, 3}
            spread(topic, [b"%d" % n for n in range(40)])
            one.wait(lambda: len(one.values) == 20)
            two.wait(lambda: len(two.values) == 20)
            assert sorted(one.values + two.values) == sorted(b"%d" % n for n in range(40))
        one.wait(lambda: one.assigned == {0, 1, 2, 3})
        # One at least: a Fetch of before the rebalance may bring what the one after it brings too, and librdkafka hands out both.
        last = {b"last %d" % n for n in range(4)}
        spread(topic, sorted(last))
        one.wait(lambda: last <= set(one.values))


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_consumer_that_assigns_itself_commits_for_a_group_without_members(
    log: streamlog.StreamLog, listener: Listener, protocol: str
) -> None:
    log.create_topic("t").send(b"a").result()
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": listener.bootstrap_servers, "group.id": "g", "group.protocol": protocol}
    )
    consumer.assign([confluent_kafka.TopicPartition("t", 0, 0)])
    consumer.commit(offsets=[confluent_kafka.TopicPartition("t", 0, 1)], asynchronous=False)
    (committed,) = consumer.committed([confluent_kafka.TopicPartition("t", 0)], WAIT_S)
    consumer.close()
    assert committed.offset == 1
    assert log.group("g").committed() == {TopicPartition("t", 0): 1}


def test_what_python_commits_a_client_reads_and_the_other_way_round(
    log: streamlog.StreamLog, listener: Listener
) -> None:
    log.create_topic("t").send_many([b"0", b"1", b"2"]).result()
    with log.consumer("t", group="g", enable_auto_commit=False) as reader:
        assert len(reader.poll(max_records=2)) == 2
        reader.commit()
    consumer = confluent_kafka.Consumer({"bootstrap.servers": listener.bootstrap_servers, "group.id": "g"})
    (found,) = consumer.committed([confluent_kafka.TopicPartition("t", 0)], WAIT_S)
    assert found.offset == 2
    (none,) = consumer.committed([confluent_kafka.TopicPartition("t", 7)], WAIT_S)
    assert none.offset == confluent_kafka.OFFSET_INVALID
    consumer.commit(offsets=[confluent_kafka.TopicPartition("t", 0, 1, metadata="m")], asynchronous=False)
    assert log.group("g").committed() == {TopicPartition("t", 0): 1}
    consumer.close()


def test_groups_are_listed_described_and_deleted(log: streamlog.StreamLog, listener: Listener) -> None:
    from confluent_kafka.admin import AdminClient

    log.create_topic("t", partitions=2)
    admin = AdminClient({"bootstrap.servers": listener.bootstrap_servers})
    with member(listener, **{"client.id": "me"}) as one:
        one.wait(lambda: one.assigned == {0, 1})
        (listed,) = admin.list_consumer_groups().result(WAIT_S).valid
        assert (listed.group_id, listed.state.name, listed.type.name) == ("g", "STABLE", "CLASSIC")
        described = admin.describe_consumer_groups(["g"])["g"].result(WAIT_S)
        (only,) = described.members
        assert (described.state.name, only.client_id, only.host) == ("STABLE", "me", "/127.0.0.1")
        assert {each.partition for each in only.assignment.topic_partitions} == {0, 1}
        with pytest.raises(confluent_kafka.KafkaException) as refused:
            admin.delete_consumer_groups(["g"])["g"].result(WAIT_S)
        assert refused.value.args[0].code() == ErrorCode.NON_EMPTY_GROUP
    assert admin.delete_consumer_groups(["g"])["g"].result(WAIT_S) is None
    assert admin.list_consumer_groups().result(WAIT_S).valid == []


def test_members_in_python_and_of_kafkas_consumer_protocol_share(log: streamlog.StreamLog, listener: Listener) -> None:
    topic = log.create_topic("t", partitions=4)
    with member(listener, **{"group.protocol": "consumer"}) as one:
        one.wait(lambda: one.assigned == {0, 1, 2, 3})
        with log.consumer("t", group="g") as python:
            values = [record.value for record in python.poll(timeout=0.01)]
            one.wait(lambda: len(one.assigned) == 2)
            while len(python.assignment()) < 2:
                values += [record.value for record in python.poll(timeout=0.1)]
            assert {each.partition for each in python.assignment()} | one.assigned == {0, 1, 2, 3}
            spread(topic, [b"%d" % n for n in range(40)])
            while len(values) < 20:
                values += [record.value for record in python.poll(timeout=1.0)]
            one.wait(lambda: len(one.values) == 20)
            assert sorted(values + one.values) == sorted(b"%d" % n for n in range(40))
        one.wait(lambda: one.assigned == {0, 1, 2, 3})


def test_a_subscription_by_a_pattern_takes_in_topics_that_come_later(
    log: streamlog.StreamLog, listener: Listener
) -> None:
    pytest.importorskip("re2", reason="google-re2 is not installed")
    log.create_topic("orders-1").send(b"a").result()
    with member(listener, "^orders-.*", **{"group.protocol": "consumer"}) as one:
        one.wait(lambda: one.values == [b"a"])
        log.create_topic("orders-2").send(b"b").result()
        log.create_topic("others").send(b"c").result()
        one.wait(lambda: sorted(one.values) == [b"a", b"b"])


def test_a_group_of_the_consumer_protocol_is_described(log: streamlog.StreamLog, listener: Listener) -> None:
    log.create_topic("t", partitions=2)
    with member(listener, **{"group.protocol": "consumer", "client.id": "me"}) as one:
        one.wait(lambda: one.assigned == {0, 1})
        Describe = messages.ConsumerGroupDescribeRequest
        found, none = asked(listener, 69, 1, Describe(group_ids=["g", "none"])).groups
        assert none.error_code == ErrorCode.GROUP_ID_NOT_FOUND
        assert (found.error_code, found.group_state, found.assignor_name) == (ErrorCode.NONE, "Stable", "uniform")
        (only,) = found.members
        assert (only.client_id, only.subscribed_topic_names) == ("me", ["t"])
        (assigned,) = only.assignment.topic_partitions
        assert (assigned.topic_id, assigned.topic_name, list(assigned.partitions)) == (log["t"].id.bytes, "t", [0, 1])
        (classic,) = asked(listener, 15, 6, messages.DescribeGroupsRequest(groups=["g"])).groups
        assert classic.error_code == ErrorCode.GROUP_ID_NOT_FOUND


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"server_assignor": "magic"}, ErrorCode.UNSUPPORTED_ASSIGNOR),
        ({"subscribed_topic_regex": "("}, ErrorCode.INVALID_REGULAR_EXPRESSION),
        ({"member_epoch": 3}, ErrorCode.UNKNOWN_MEMBER_ID),
        ({"member_epoch": -1}, ErrorCode.UNKNOWN_MEMBER_ID),
        ({"group_id": ""}, ErrorCode.INVALID_REQUEST),
        ({"member_id": ""}, ErrorCode.INVALID_REQUEST),
        ({"member_epoch": -3}, ErrorCode.INVALID_REQUEST),
        ({"member_epoch": -2}, ErrorCode.INVALID_REQUEST),
        ({"instance_id": ""}, ErrorCode.INVALID_REQUEST),
        ({"rack_id": ""}, ErrorCode.INVALID_REQUEST),
        ({"rebalance_timeout_ms": -1}, ErrorCode.INVALID_REQUEST),
        ({"topic_partitions": None}, ErrorCode.INVALID_REQUEST),
        ({"subscribed_topic_names": None}, ErrorCode.INVALID_REQUEST),
    ],
)
def test_a_heartbeat_that_is_not_right_is_refused(listener: Listener, fields: dict[str, Any], error: ErrorCode) -> None:
    request = messages.ConsumerGroupHeartbeatRequest(
        **{
            "group_id": "g",
            "member_id": "m",
            "member_epoch": 0,
            "rebalance_timeout_ms": 1000,
            "subscribed_topic_names": ["t"],
            "topic_partitions": [],
        }
        | fields
    )
    answer = asked(listener, 68, 1, request)
    assert answer.error_code == error
    assert answer.error_message


@pytest.mark.slow
def test_a_group_whose_leader_stops_is_coordinated_by_another_broker() -> None:
    with streamlog.open(brokers=3) as log, Listener(log, initial_rebalance_delay_ms=20) as listener:
        topic = log.create_topic("t", partitions=3)
        with member(listener) as one:
            one.wait(lambda: one.assigned == {0, 1, 2})
            log.brokers[log["__consumer_offsets"].partition(0).leader].stop()
            spread(topic, [b"a", b"b", b"c"])
            one.wait(lambda: sorted(one.values) == [b"a", b"b", b"c"])
        assert sum(log.group("g").committed().values()) == 3


# -- single requests -----------------------------------------------------------------------------------


def test_of_many_protocols_that_a_member_offers_the_first_are_looked_into(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request has room for 50,000, and no other client is answered meanwhile."""
    parsed: list[bytes] = []
    parse = groups._parsed
    monkeypatch.setattr(groups, "_parsed", lambda name, data: (parsed.append(data), parse(name, data))[1])
    Protocol = messages.JoinGroupRequest.JoinGroupRequestProtocol
    ClassicMember(listener, protocols=[Protocol(name=f"p{n}", metadata=RANGE[0].metadata) for n in range(100)])
    assert len(parsed) == 2 * 16  # it joins twice, the second time with the id that it got


def test_any_protocol_type_has_groups_and_its_bytes_are_its_own(listener: Listener) -> None:
    Join = messages.JoinGroupRequest
    request = Join(
        group_id="connect", session_timeout_ms=10_000, rebalance_timeout_ms=10_000, protocol_type="connect",
        protocols=[Join.JoinGroupRequestProtocol(name="sessioned", metadata=b"\xff\x00")],
    )  # fmt: skip
    first = asked(listener, 11, 9, request)
    assert first.error_code == ErrorCode.MEMBER_ID_REQUIRED
    request.member_id = first.member_id
    joined = asked(listener, 11, 9, request)
    assert (joined.error_code, joined.leader, joined.protocol_name) == (ErrorCode.NONE, first.member_id, "sessioned")
    assert [(each.member_id, bytes(each.metadata)) for each in joined.members] == [(first.member_id, b"\xff\x00")]
    Sync = messages.SyncGroupRequest
    synced = asked(
        listener, 14, 5,
        Sync(
            group_id="connect", generation_id=joined.generation_id, member_id=first.member_id, protocol_type="connect",
            protocol_name="sessioned",
            assignments=[Sync.SyncGroupRequestAssignment(member_id=first.member_id, assignment=b"\x01\xfe")],
        ),
    )  # fmt: skip
    assert (synced.error_code, bytes(synced.assignment)) == (ErrorCode.NONE, b"\x01\xfe")
    Beat = messages.HeartbeatRequest
    for generation, code in ((joined.generation_id, ErrorCode.NONE), (7, ErrorCode.ILLEGAL_GENERATION)):
        beat = Beat(group_id="connect", generation_id=generation, member_id=first.member_id)
        assert asked(listener, 12, 4, beat).error_code == code
    beat = Beat(group_id="connect", generation_id=1, member_id="nobody")
    assert asked(listener, 12, 4, beat).error_code == ErrorCode.UNKNOWN_MEMBER_ID


def test_offsets_with_long_metadata_or_of_partitions_that_are_not_there_are_refused_each_for_itself(
    log: streamlog.StreamLog, listener: Listener
) -> None:
    log.create_topic("t", partitions=3)
    Commit = messages.OffsetCommitRequest
    Partition = Commit.OffsetCommitRequestPartition
    partitions = [
        Partition(partition_index=0, committed_offset=5, committed_metadata="é" * 4096),
        Partition(partition_index=1, committed_offset=5, committed_metadata="m" * 4097),
        Partition(partition_index=9, committed_offset=5, committed_metadata=""),
    ]
    topics = [Commit.OffsetCommitRequestTopic(name="t", partitions=partitions)]
    (topic,) = asked(listener, 8, 8, Commit(group_id="g", topics=topics)).topics
    assert [each.error_code for each in topic.partitions] == [
        ErrorCode.NONE,
        ErrorCode.OFFSET_METADATA_TOO_LARGE,
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
    ]
    assert log.group("g").committed() == {TopicPartition("t", 0): 5}
