"""Settings of topics and brokers through a listener."""

from __future__ import annotations

import logging
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import msgpack
import pytest

import streamlog
from streamlog.broker import metadata
from streamlog.config import TopicConfig
from streamlog.kafka import Listener, configs, messages
from streamlog.kafka.errors import ErrorCode
from streamlog.kafka.loggers import levels
from streamlog.testing import ManualClock
from tests.kafka.clients import WAIT_S, asked, asked_at
from tests.kafka.fixtures import temporary_log
from tests.kafka.members import heartbeat
from tests.kafka_batches import Row, kafka_payload

log = temporary_log

TOPIC, BROKER, LOGGER, METRICS, GROUP = 2, 4, 8, 16, 32
OF_TOPIC, OF_STATIC_BROKER, DEFAULT, OF_LOGGER, OF_METRICS, OF_GROUP = 1, 4, 5, 6, 7, 8
SET, DELETE, APPEND, SUBTRACT = 0, 1, 2, 3


@pytest.fixture
def listener(log: streamlog.StreamLog) -> Iterator[Listener]:
    with Listener(log, broker_config={"log.retention.ms": "1000"}) as listener:
        asked(listener, 19, 7, created("t", {"cleanup.policy": "compact", "max.message.bytes": "5000"}))
        yield listener


def created(name: str, config: dict[str, str]) -> Any:
    Request = messages.CreateTopicsRequest
    configs = [Request.CreatableTopicConfig(name=each, value=value) for each, value in config.items()]
    topic = Request.CreatableTopic(name=name, num_partitions=1, replication_factor=1, configs=configs)
    return Request(topics=[topic], timeout_ms=1000)


def described(
    listener: Listener, kind: int, name: str, keys: list[str] | None = None, *, with_more: bool = False
) -> Any:
    return described_at(listener.bootstrap_servers.split(",")[0], kind, name, keys, with_more=with_more)


def described_at(address: str, kind: int, name: str, keys: list[str] | None = None, *, with_more: bool = False) -> Any:
    """`with_more`: with synonyms and documentation."""
    Request = messages.DescribeConfigsRequest
    resource = Request.DescribeConfigsResource(resource_type=kind, resource_name=name, configuration_keys=keys)
    request = Request(resources=[resource], include_synonyms=with_more, include_documentation=with_more)
    (result,) = asked_at(address, 32, 4, request).results
    return result


def altered(listener: Listener, name: str, *changes: tuple[str, int, str | None], kind: int = TOPIC, only_validates: bool = False) -> Any:  # fmt: skip
    Request = messages.IncrementalAlterConfigsRequest
    configs = [
        Request.AlterableConfig(name=each, config_operation=operation, value=value)
        for each, operation, value in changes
    ]
    resource = Request.AlterConfigsResource(resource_type=kind, resource_name=name, configs=configs)
    (answer,) = asked(listener, 44, 1, Request(resources=[resource], validate_only=only_validates)).responses
    return answer


def explicit(listener: Listener, name: str) -> dict[str, str]:
    """The settings that were given for a topic."""
    configs = described(listener, TOPIC, name).configs
    return {each.name: each.value for each in configs if each.config_source == OF_TOPIC}


def test_the_settings_of_a_topic_are_described_with_what_they_come_from(listener: Listener) -> None:
    result = described(listener, TOPIC, "t")
    assert result.error_code == ErrorCode.NONE
    found = {each.name: (each.value, each.config_source) for each in result.configs}
    assert len(found) == 37  # as many as Kafka 4.4 describes
    assert found["cleanup.policy"] == ("compact", OF_TOPIC)
    assert found["max.message.bytes"] == ("5000", OF_TOPIC)
    assert found["retention.ms"] == ("1000", OF_STATIC_BROKER)
    assert found["segment.bytes"] == (str(1 << 30), DEFAULT)
    assert found["unclean.leader.election.enable"] == ("false", DEFAULT)
    assert found["flush.messages"] == (str(2**63 - 1), DEFAULT)
    assert [each.name for each in described(listener, TOPIC, "t", ["retention.ms"]).configs] == ["retention.ms"]
    assert len(described(listener, TOPIC, "t", []).configs) == 37  # an empty list asks for all


def test_settings_are_described_with_their_types_synonyms_and_documentation(listener: Listener) -> None:
    found = {each.name: each for each in described(listener, TOPIC, "t", with_more=True).configs}
    types = {"cleanup.policy": 7, "compression.type": 2, "flush.ms": 5, "min.cleanable.dirty.ratio": 6}
    assert {name: found[name].config_type for name in types} == types
    assert (found["preallocate"].config_type, found["segment.bytes"].config_type) == (1, 3)
    synonyms = {name: [(each.name, each.value, each.source) for each in found[name].synonyms] for name in found}
    assert synonyms["cleanup.policy"] == [
        ("cleanup.policy", "compact", OF_TOPIC),
        ("log.cleanup.policy", "delete", DEFAULT),
    ]
    assert synonyms["retention.ms"] == [
        ("log.retention.ms", "1000", OF_STATIC_BROKER),
        ("log.retention.hours", "168", DEFAULT),
    ]
    assert synonyms["flush.messages"] == [("log.flush.interval.messages", str(2**63 - 1), DEFAULT)]
    assert synonyms["remote.storage.enable"] == []
    assert all(each.documentation for each in found.values())
    assert "no effect here" in found["flush.messages"].documentation
    assert "no effect" not in found["retention.ms"].documentation
    plain = described(listener, TOPIC, "t").configs
    assert all(each.documentation is None and not each.synonyms for each in plain)


def test_the_settings_of_a_broker_are_described(log: streamlog.StreamLog, listener: Listener) -> None:
    found = {each.name: each for each in described(listener, BROKER, "0", with_more=True).configs}
    values = {name: (each.value, each.config_source) for name, each in found.items()}
    assert values["log.retention.ms"] == ("1000", OF_STATIC_BROKER)
    assert values["log.retention.hours"] == ("168", DEFAULT)
    assert values["log.roll.ms"] == (None, DEFAULT)
    assert values["log.cleanup.policy"] == ("delete", DEFAULT)
    assert values["log.flush.interval.messages"] == (str(2**63 - 1), DEFAULT)
    assert values["auto.create.topics.enable"] == ("true", DEFAULT)
    assert values["group.initial.rebalance.delay.ms"] == ("100", OF_STATIC_BROKER)
    assert values["listeners"] == (f"PLAINTEXT://{listener.bootstrap_servers}", OF_STATIC_BROKER)
    assert [(each.value, each.source) for each in found["group.initial.rebalance.delay.ms"].synonyms] == [
        ("100", OF_STATIC_BROKER),
        ("3000", DEFAULT),
    ]
    assert all(each.documentation for each in found.values())
    assert described(listener, BROKER, "").configs == []
    assert described(listener, BROKER, "7").error_code == ErrorCode.INVALID_REQUEST
    assert described(listener, TOPIC, "none").error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert described(listener, TOPIC, "a b").error_code == ErrorCode.INVALID_TOPIC_EXCEPTION
    assert described(listener, 17, "x").error_code == ErrorCode.INVALID_REQUEST


def test_a_setting_that_was_given_is_the_topics_whatever_its_value(
    log: streamlog.StreamLog, listener: Listener
) -> None:
    given = {"retention.ms": "1000", "segment.jitter.ms": "0", "cleanup.policy": "delete", "preallocate": "FALSE"}
    made = asked(listener, 19, 7, created("u", given)).topics[0]
    assert {each.name: each.value for each in made.configs if each.config_source == OF_TOPIC} == given
    assert explicit(listener, "u") == {**given, "preallocate": "false"}
    assert altered(listener, "u", ("min.insync.replicas", SET, "1")).error_code == ErrorCode.NONE
    assert explicit(listener, "u")["min.insync.replicas"] == "1"
    asked(
        listener, 3, 12, messages.MetadataRequest(topics=[messages.MetadataRequest.MetadataRequestTopic(name="auto")])
    )
    assert log["auto"].config["retention_ms"] == 1000
    assert explicit(listener, "auto") == {}


@pytest.mark.parametrize("only_validates", [False, True])
def test_a_created_topic_is_answered_with_its_settings(listener: Listener, only_validates: bool) -> None:
    request = created("u", {"flush.ms": " 5 "})
    request.topics[0].num_partitions = request.topics[0].replication_factor = -1
    request.validate_only = only_validates
    (made,) = asked(listener, 19, 5, request).topics
    assert (made.error_code, made.num_partitions, made.replication_factor) == (ErrorCode.NONE, 1, 1)
    found = {each.name: (each.value, each.config_source) for each in made.configs}
    assert list(found) == sorted(found)
    assert len(found) == 37
    assert found["flush.ms"] == (" 5 ", OF_TOPIC)
    assert found["retention.ms"] == ("1000", OF_STATIC_BROKER)


def test_python_and_kafka_see_what_the_other_gave(log: streamlog.StreamLog, listener: Listener) -> None:
    topic = log.create_topic("p", retention_ms=604_800_000, segment_bytes=2048, retention_records=10)
    assert explicit(listener, "p") == {"retention.ms": "604800000", "segment.bytes": "2048"}
    assert altered(listener, "p", ("flush.messages", SET, "7"), ("max.message.bytes", SET, "9000")).error_code == 0
    assert topic.config["max_message_bytes"] == 9000
    topic.update_config(max_message_bytes=8000, min_compaction_lag_ms=0)
    topic.add_partitions(2)
    assert explicit(listener, "p") == {
        "flush.messages": "7",
        "max.message.bytes": "8000",
        "min.compaction.lag.ms": "0",
        "retention.ms": "604800000",
        "segment.bytes": "2048",
    }
    topic.update_config(delete_retention_ms=None)
    assert explicit(listener, "p")["delete.retention.ms"] == str(2**63 - 1)


def test_what_was_given_outlives_the_log_and_is_the_same_at_all_brokers(tmp_path: Path) -> None:
    given = {
        "segment.jitter.ms": "5",
        "unclean.leader.election.enable": "false",
        "leader.replication.throttled.replicas": "0:1,1:2",
    }
    with streamlog.open(tmp_path / "log", brokers=3) as log, Listener(log) as listener:
        assert asked(listener, 19, 7, created("t", given)).topics[0].error_code == ErrorCode.NONE
        assert altered(listener, "t", ("compression.gzip.level", SET, "3")).error_code == ErrorCode.NONE
        log.reassign("t", replication_factor=3).wait(20)
    given["compression.gzip.level"] = "3"
    for stopped in (0, 1):  # whose copies of the metadata are not looked at
        with streamlog.open(tmp_path / "log") as log:
            log.brokers[stopped].stop()
            with Listener(log) as listener:
                assert listener.bootstrap_servers.count(",") == 1
                for address in listener.bootstrap_servers.split(","):
                    result = described_at(address, TOPIC, "t")
                    assert {e.name: e.value for e in result.configs if e.config_source == OF_TOPIC} == given


def test_a_topic_of_an_earlier_version_has_the_settings_that_are_unusual(tmp_path: Path) -> None:
    fields = msgpack.unpackb(metadata.topic_record(view_of_t())[1])
    del fields["explicit"], fields["kafka_config"]
    image = metadata.replay(metadata.EMPTY, [(metadata.topic_key("t"), msgpack.packb(fields))])
    view = image.topics["t"]
    assert (view.explicit, view.kafka_config) == ({"retention_ms"}, {})
    again = metadata.replay(metadata.EMPTY, [metadata.topic_record(view_of_t())]).topics["t"]
    assert (again.explicit, again.kafka_config) == ({"max_message_bytes"}, {"flush.ms": "5"})


def view_of_t() -> metadata.TopicView:
    view = metadata.view_of("t", UUID(int=5), 1, TopicConfig(retention_ms=7), internal=False)
    return view._replace(explicit=frozenset({"max_message_bytes"}), kafka_config={"flush.ms": "5"})


def test_settings_are_set_and_go_back_to_their_defaults(log: streamlog.StreamLog, listener: Listener) -> None:
    assert altered(listener, "t", ("retention.ms", SET, "7000"), ("max.message.bytes", DELETE, None)).error_code == 0
    config = log["t"].config
    assert (config["retention_ms"], config["max_message_bytes"]) == (7000, 1_048_588)
    assert altered(listener, "t", ("retention.ms", DELETE, None)).error_code == ErrorCode.NONE
    assert log["t"].config["retention_ms"] == 1000
    assert altered(listener, "t", ("cleanup.policy", APPEND, "delete")).error_code == ErrorCode.NONE
    assert log["t"].config["cleanup_policy"] == "compact,delete"
    assert altered(listener, "t", ("cleanup.policy", SUBTRACT, "compact")).error_code == ErrorCode.NONE
    assert log["t"].config["cleanup_policy"] == "delete"


@pytest.mark.parametrize("only_validates", [False, True])
@pytest.mark.parametrize(
    ("name", "kind", "changes", "error"),
    [
        ("t", TOPIC, [("retention.mss", SET, "1")], ErrorCode.INVALID_CONFIG),
        ("t", TOPIC, [("retention.ms", SET, "soon")], ErrorCode.INVALID_CONFIG),
        ("t", TOPIC, [("max.message.bytes", SET, "-5")], ErrorCode.INVALID_CONFIG),
        ("t", TOPIC, [("retention.ms", APPEND, "1")], ErrorCode.INVALID_CONFIG),
        ("t", TOPIC, [("retention.ms", SUBTRACT, "1")], ErrorCode.INVALID_CONFIG),
        ("t", TOPIC, [("retention.ms", SET, None)], ErrorCode.INVALID_REQUEST),
        ("t", TOPIC, [("cleanup.policy", APPEND, None)], ErrorCode.INVALID_REQUEST),
        ("t", TOPIC, [("cleanup.policy", APPEND, "keep")], ErrorCode.INVALID_CONFIG),
        ("t", TOPIC, [("cleanup.policy", APPEND, "")], ErrorCode.INVALID_CONFIG),
        ("t", TOPIC, [("retention.ms", 9, "5")], ErrorCode.INVALID_REQUEST),
        ("t", TOPIC, [("flush.messages", SET, "5"), ("flush.ms", SET, "-1")], ErrorCode.INVALID_CONFIG),
        (
            "t",
            TOPIC,
            [("max.compaction.lag.ms", SET, "5"), ("min.compaction.lag.ms", SET, "6")],
            ErrorCode.INVALID_CONFIG,
        ),
        ("a b", TOPIC, [("retention.ms", SET, "5")], ErrorCode.INVALID_TOPIC_EXCEPTION),
        ("t", TOPIC, [("retention.ms", SET, "5"), ("retention.ms", SET, "6")], ErrorCode.INVALID_REQUEST),
        ("none", TOPIC, [("retention.ms", SET, "5")], ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        ("0", BROKER, [("log.retention.ms", SET, "x")], ErrorCode.INVALID_REQUEST),
    ],
)
def test_a_change_that_is_not_right_is_refused_and_changes_nothing(
    log: streamlog.StreamLog,
    listener: Listener,
    name: str,
    kind: int,
    changes: list[tuple[str, int, str | None]],
    error: ErrorCode,
    only_validates: bool,
) -> None:
    before, given = log["t"].config, explicit(listener, "t")
    answer = altered(listener, name, *changes, kind=kind, only_validates=only_validates)
    assert answer.error_code == error
    assert answer.error_message
    assert log["t"].config == before
    assert explicit(listener, "t") == given


def test_a_change_may_be_validated_alone(log: streamlog.StreamLog, listener: Listener) -> None:
    assert altered(listener, "t", ("retention.ms", SET, "5"), only_validates=True).error_code == ErrorCode.NONE
    assert log["t"].config["retention_ms"] == 1000


def test_the_older_request_resets_what_it_does_not_name(log: streamlog.StreamLog, listener: Listener) -> None:
    Request = messages.AlterConfigsRequest
    configs = [Request.AlterableConfig(name="retention.ms", value="7000")]
    resource = Request.AlterConfigsResource(resource_type=TOPIC, resource_name="t", configs=configs)
    for only_validates in (True, False):
        (answer,) = asked(listener, 33, 2, Request(resources=[resource], validate_only=only_validates)).responses
        assert answer.error_code == ErrorCode.NONE
        assert (log["t"].config["retention_ms"] == 7000) is not only_validates
    config = log["t"].config
    assert (config["cleanup_policy"], config["max_message_bytes"]) == ("delete", 1_048_588)


def test_what_has_settings_is_listed(listener: Listener) -> None:
    Request = messages.ListConfigResourcesRequest
    every = asked(listener, 74, 1, Request()).config_resources
    assert {(each.resource_type, each.resource_name) for each in every} == {(TOPIC, "t"), (BROKER, "0"), (LOGGER, "0")}
    topics = asked(listener, 74, 1, Request(resource_types=[TOPIC])).config_resources
    assert [each.resource_name for each in topics] == ["t"]
    assert asked(listener, 74, 1, Request(resource_types=[16, 32])).config_resources == []  # client metrics, groups
    assert asked(listener, 74, 1, Request(resource_types=[TOPIC, 77])).error_code == ErrorCode.UNSUPPORTED_VERSION


@pytest.mark.parametrize(
    ("name", "refused", "taken"),
    [
        (
            "cleanup.policy",
            ["foo", "none", "compact,", ","],
            ["", "compact, delete", "delete,compact", "delete,delete"],
        ),
        ("compression.gzip.level", ["0", "10", "x"], ["-1", "1", "9"]),
        ("compression.lz4.level", ["0", "18"], ["17"]),
        ("compression.type", ["none", "GZIP", ""], ["uncompressed", "producer"]),
        ("compression.zstd.level", ["23", "-131073"], ["22", "-131072"]),
        ("delete.retention.ms", ["-1"], ["0", "9223372036854775807"]),
        ("errors.deadletterqueue.group.enable", ["yes"], ["true"]),
        ("file.delete.delay.ms", ["-1"], ["0"]),
        ("flush.messages", ["0"], ["1"]),
        ("flush.ms", ["-1"], ["0"]),
        ("follower.replication.throttled.replicas", ["foo", "*,0:1", "0:-1"], ["*", "", "0:1,1:2"]),
        ("index.interval.bytes", ["-1"], ["0"]),
        ("internal.segment.bytes", ["x"], ["5"]),
        ("local.retention.bytes", ["-3"], ["-2"]),
        ("local.retention.ms", ["-3"], ["5"]),
        ("max.compaction.lag.ms", ["0"], ["1"]),
        ("max.decompressed.message.bytes", ["0"], ["1"]),
        ("max.message.bytes", ["-5", "3000000000"], ["0", "2147483647"]),
        ("message.timestamp.after.max.ms", ["-1"], ["0", "9223372036854775807"]),
        ("message.timestamp.before.max.ms", ["-1"], ["0"]),
        ("message.timestamp.type", ["foo"], ["LogAppendTime"]),
        ("min.cleanable.dirty.ratio", ["2", "x", "nan"], ["0", "1"]),
        ("min.compaction.lag.ms", ["-1"], ["0"]),
        ("min.insync.replicas", ["0"], ["1", "5"]),
        ("preallocate", ["yes", ""], ["TRUE"]),
        ("remote.copy.lag.bytes", ["-2"], ["-1"]),
        ("remote.log.copy.disable", ["on"], ["true"]),
        ("remote.storage.enable", ["true"], ["false"]),
        ("retention.bytes", ["x"], ["-2"]),
        ("retention.ms", ["-2", "", "5.0", "1_000", "9223372036854775808"], [" 5 ", "-1", "9223372036854775807"]),
        ("segment.bytes", ["1024"], ["1048576"]),
        ("segment.index.bytes", ["3"], ["4"]),
        ("segment.jitter.ms", ["-1"], ["0"]),
        ("segment.ms", ["0", "-1"], ["1", "9223372036854775807"]),
        ("unclean.leader.election.enable", ["maybe"], ["true"]),
        ("message.format.version", ["3.0"], []),
        ("retention.ms ", ["5"], []),
        ("", [""], []),
    ],
)
def test_values_are_taken_and_refused_as_by_kafka(
    listener: Listener, name: str, refused: list[str], taken: list[str]
) -> None:
    for text in refused:
        (made,) = asked(listener, 19, 7, created("u", {name: text})).topics
        assert made.error_code == ErrorCode.INVALID_CONFIG, text
        assert altered(listener, "t", (name, SET, text)).error_code == ErrorCode.INVALID_CONFIG, text
    for number, text in enumerate(taken):
        (made,) = asked(listener, 19, 7, created(f"u{number}", {name: text})).topics
        assert made.error_code == ErrorCode.NONE, made.error_message
        assert {each.name: each.value for each in made.configs if each.config_source == OF_TOPIC} == {name: text}
        answer = altered(listener, "t", (name, SET, text))
        assert answer.error_code == ErrorCode.NONE, answer.error_message
        assert name in explicit(listener, "t")


def test_a_setting_without_a_value_is_refused_at_creation(listener: Listener) -> None:
    request = created("u", {"retention.ms": "5"})
    request.topics[0].configs[0].value = None
    assert asked(listener, 19, 7, request).topics[0].error_code == ErrorCode.INVALID_CONFIG


@pytest.mark.parametrize(
    ("name", "changes", "value"),
    [
        ("cleanup.policy", [(APPEND, "delete")], "compact,delete"),
        ("cleanup.policy", [(APPEND, "compact")], "compact"),
        ("cleanup.policy", [(DELETE, None), (APPEND, "compact")], "delete,compact"),
        ("cleanup.policy", [(SUBTRACT, "delete")], "compact"),
        ("cleanup.policy", [(SUBTRACT, "compact")], ""),
        ("cleanup.policy", [(SUBTRACT, "")], "compact"),
        ("cleanup.policy", [(DELETE, None), (SUBTRACT, "")], "delete"),
        ("leader.replication.throttled.replicas", [(APPEND, "0:1"), (APPEND, "1:1, 0:1")], "0:1,1:1"),
        ("leader.replication.throttled.replicas", [(APPEND, "0:1,1:1"), (SUBTRACT, "0:1,7:7")], "1:1"),
        ("leader.replication.throttled.replicas", [(APPEND, "0:1"), (SUBTRACT, "0:1")], ""),
    ],
)
def test_lists_are_appended_to_and_subtracted_from_as_by_kafka(listener: Listener, name: str, changes: list[tuple[int, str | None]], value: str) -> None:  # fmt: skip
    for operation, text in changes:
        assert altered(listener, "t", (name, operation, text)).error_code == ErrorCode.NONE
    assert explicit(listener, "t")[name] == value


def test_deleted_settings_are_defaults_again(log: streamlog.StreamLog, listener: Listener) -> None:
    assert (
        altered(listener, "t", ("flush.ms", SET, "5"), ("min.insync.replicas", SET, "7")).error_code == ErrorCode.NONE
    )
    names = list(explicit(listener, "t"))
    assert len(names) == 4
    assert altered(listener, "t", *((name, DELETE, None) for name in (*names, "unknown"))).error_code == ErrorCode.NONE
    assert explicit(listener, "t") == {}
    config = log["t"].config
    assert (config["cleanup_policy"], config["min_insync_replicas"]) == ("delete", 1)


def test_segments_may_be_small_where_that_is_said_as_kafkas_own_tests_do(
    log: streamlog.StreamLog, listener: Listener
) -> None:
    given = {"segment.bytes": "2000000", "internal.segment.bytes": "4000"}
    asked(listener, 19, 7, created("u", given))
    assert log["u"].config["segment_bytes"] == 4000
    assert altered(listener, "u", ("segment.bytes", SET, "3000000")).error_code == ErrorCode.NONE
    assert explicit(listener, "u") == {"segment.bytes": "3000000", "internal.segment.bytes": "4000"}
    assert log["u"].config["segment_bytes"] == 4000
    assert altered(listener, "u", ("internal.segment.bytes", DELETE, None)).error_code == ErrorCode.NONE
    assert log["u"].config["segment_bytes"] == 3_000_000
    assert altered(listener, "u", ("internal.segment.bytes", SET, "5000")).error_code == ErrorCode.NONE
    log["u"].update_config(segment_bytes=6000)  # what Kafka's clients gave is out of date
    assert explicit(listener, "u") == {"segment.bytes": "6000"}
    assert altered(listener, "u", ("segment.bytes", DELETE, None)).error_code == ErrorCode.NONE
    assert log["u"].config["segment_bytes"] == 1 << 30


def test_a_topic_without_a_cleanup_policy_keeps_everything() -> None:
    clock = ManualClock()
    with streamlog.open(clock=clock) as log, Listener(log) as listener:
        given = {"cleanup.policy": "", "retention.ms": "1000"}
        assert asked(listener, 19, 7, created("t", given)).topics[0].error_code == ErrorCode.NONE
        log["t"].send("kept")
        clock.advance(3600)
        log["t"].apply_retention()
        assert [record.value for record in log["t"].read()] == [b"kept"]
        assert explicit(listener, "t") == given
        assert altered(listener, "t", ("cleanup.policy", SET, "delete")).error_code == ErrorCode.NONE
        log["t"].apply_retention()
        assert list(log["t"].read()) == []


def test_more_replicas_in_sync_than_there_are_may_be_asked_for(log: streamlog.StreamLog, listener: Listener) -> None:
    """They count as all that there are (KIP-966)."""
    asked(listener, 19, 7, created("u", {"min.insync.replicas": "2"}))
    assert produced(listener, "u", acks=-1) == ErrorCode.NONE
    assert produced(listener, "u", acks=1) == ErrorCode.NONE
    log["u"].update_config(retention_ms=5)  # which has nothing to do with it
    with pytest.raises(streamlog.ConfigError, match="min_insync_replicas=2"):
        log["u"].update_config(min_insync_replicas=2)
    assert altered(listener, "u", ("min.insync.replicas", DELETE, None)).error_code == ErrorCode.NONE
    assert produced(listener, "u", acks=-1) == ErrorCode.NONE


def produced(listener: Listener, topic: str, acks: int) -> int:
    """The error of one record that is sent."""
    Request = messages.ProduceRequest
    payload, _ = kafka_payload([Row(1, value=b"x")])
    records = struct.pack(">qii", 0, 4 + len(payload), -1) + payload
    data = Request.PartitionProduceData(index=0, records=records)
    request = Request(
        acks=acks, timeout_ms=1000, topic_data=[Request.TopicProduceData(name=topic, partition_data=[data])]
    )
    (answer,) = asked(listener, 0, 9, request).responses[0].partition_responses
    return int(answer.error_code)


def test_the_broker_has_settings_of_topics_in_kafkas_units_and_keeps_others(log: streamlog.StreamLog) -> None:
    given = {
        "log.retention.hours": "1",
        "log.retention.minutes": "2",
        "log.roll.hours": "3",
        "log.flush.interval.ms": "7",
    }
    with Listener(log, broker_config=given) as listener:
        asked(listener, 19, 7, created("u", {}))
        assert (log["u"].config["retention_ms"], log["u"].config["segment_ms"]) == (120_000, 10_800_000)
        found = {each.name: (each.value, each.config_source) for each in described(listener, TOPIC, "u").configs}
        assert found["retention.ms"] == ("120000", OF_STATIC_BROKER)
        assert found["flush.ms"] == ("7", OF_STATIC_BROKER)
        broker = {each.name: (each.value, each.config_source) for each in described(listener, BROKER, "0").configs}
        assert {name: broker[name] for name in given} == {
            name: (text, OF_STATIC_BROKER) for name, text in given.items()
        }
    with Listener(log, broker_config={"log.retention.hours": "-1"}) as listener:
        asked(listener, 19, 7, created("v", {}))
        assert log["v"].config["retention_ms"] is None
    for wrong in ({"log.retention.hours": "x"}, {"log.flush.interval.ms": "-1"}, {"log.retention.msec": "5"}):
        with pytest.raises(streamlog.ConfigError):
            Listener(log, broker_config=wrong)


def test_confluent_kafkas_admin_client_alters_and_describes_settings(
    log: streamlog.StreamLog, listener: Listener
) -> None:
    from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ConfigSource

    admin = AdminClient({"bootstrap.servers": listener.bootstrap_servers})
    entries = [
        ConfigEntry("segment.jitter.ms", "9", incremental_operation=AlterConfigOpType.SET),
        ConfigEntry("cleanup.policy", "delete", incremental_operation=AlterConfigOpType.APPEND),
    ]
    resource = ConfigResource(ConfigResource.Type.TOPIC, "t", incremental_configs=entries)
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(WAIT_S)
    (asked_for,) = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, "t")]).values()
    found = asked_for.result(WAIT_S)
    assert (found["segment.jitter.ms"].value, found["cleanup.policy"].value) == ("9", "compact,delete")
    assert ConfigSource(found["segment.jitter.ms"].source) == ConfigSource.DYNAMIC_TOPIC_CONFIG
    assert ConfigSource(found["flush.ms"].source) == ConfigSource.DEFAULT_CONFIG
    assert found["flush.ms"].is_default
    assert "log.cleanup.policy" in found["cleanup.policy"].synonyms


def test_kafka_pythons_admin_client_alters_and_describes_settings(listener: Listener) -> None:
    from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

    admin = KafkaAdminClient(bootstrap_servers=listener.bootstrap_servers)
    try:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, "t", configs={"flush.messages": "11"})])
        found = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, "t")])
    finally:
        admin.close()
    assert "'11'" in repr(found)
    assert explicit(listener, "t")["flush.messages"] == "11"


# -- groups and loggers ----------------------------------------------------------------------------------

SESSION, INTERVAL = "consumer.session.timeout.ms", "consumer.heartbeat.interval.ms"


def of_group(listener: Listener, group: str = "g") -> dict[str, tuple[str, int]]:
    """Its settings: value and source."""
    return {each.name: (each.value, each.config_source) for each in described(listener, GROUP, group).configs}


def test_the_settings_of_a_group_hold_for_its_members_and_outlive_the_log(tmp_path: Path) -> None:
    with streamlog.open(tmp_path) as log, Listener(log) as listener:
        log.create_topic("t")
        assert heartbeat(listener, "a", 0).heartbeat_interval_ms == 500
        assert of_group(listener)[INTERVAL] == ("500", DEFAULT)
        assert of_group(listener)[SESSION] == ("45000", DEFAULT)
        assert altered(listener, "g", (INTERVAL, SET, "7000"), kind=GROUP).error_code == ErrorCode.NONE
        assert heartbeat(listener, "a", 0).heartbeat_interval_ms == 7000
        assert heartbeat(listener, "a", 0, group="h").heartbeat_interval_ms == 500
    with streamlog.open(tmp_path) as log, Listener(log) as listener:
        assert of_group(listener)[INTERVAL] == ("7000", OF_GROUP)
        Request = messages.ListConfigResourcesRequest
        (only,) = asked(listener, 74, 1, Request(resource_types=[GROUP])).config_resources
        assert (only.resource_type, only.resource_name) == (GROUP, "g")
        assert altered(listener, "g", (INTERVAL, DELETE, None), kind=GROUP).error_code == ErrorCode.NONE
        assert of_group(listener)[INTERVAL] == ("500", DEFAULT)
        assert asked(listener, 74, 1, Request(resource_types=[GROUP])).config_resources == []


def test_a_listener_says_how_long_sessions_of_the_consumer_protocol_are(log: streamlog.StreamLog) -> None:
    log.create_topic("t")
    prefix = "group.consumer"
    config = {f"{prefix}.{SESSION[9:]}": "1000", f"{prefix}.min.{SESSION[9:]}": "10", f"{prefix}.{INTERVAL[9:]}": "100"}
    with Listener(log, broker_config=config) as listener:
        assert heartbeat(listener, "a", 0).heartbeat_interval_ms == 100
        assert of_group(listener)[SESSION] == ("1000", OF_STATIC_BROKER)
        assert altered(listener, "g", (SESSION, SET, "9"), kind=GROUP).error_code == ErrorCode.INVALID_CONFIG
        assert altered(listener, "g", (SESSION, SET, "10"), kind=GROUP).error_code == ErrorCode.NONE
        heartbeat(listener, "a", 0)
        await_members(log, "g", 0)
    with pytest.raises(streamlog.ConfigError, match=r"group\.consumer\.session"):
        Listener(log, broker_config={"group.consumer.session.timeout.ms": "0"})


def await_members(log: streamlog.StreamLog, group: str, count: int) -> None:
    """Wait until a group has so many: sessions are of real time."""
    end = time.monotonic() + WAIT_S
    while len(members := log.group(group).members()) != count:
        assert time.monotonic() < end, members
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("name", "change", "error"),
    [
        ("g", (SESSION, SET, "44999"), ErrorCode.INVALID_CONFIG),
        ("g", (INTERVAL, SET, "15001"), ErrorCode.INVALID_CONFIG),
        ("g", (SESSION, SET, "x"), ErrorCode.INVALID_CONFIG),
        ("g", ("no.such", SET, "1"), ErrorCode.INVALID_CONFIG),
        ("g", ("share.isolation.level", SET, "none"), ErrorCode.INVALID_CONFIG),
        ("g", (SESSION, APPEND, "1"), ErrorCode.INVALID_CONFIG),
        ("g", (SESSION, SET, None), ErrorCode.INVALID_REQUEST),
        ("", (SESSION, SET, "50000"), ErrorCode.INVALID_REQUEST),
    ],
)
def test_a_setting_that_a_group_cannot_have_is_refused(
    listener: Listener, name: str, change: Any, error: ErrorCode
) -> None:
    assert altered(listener, name, change, kind=GROUP).error_code == error
    assert all(source != OF_GROUP for _, source in of_group(listener).values())


def test_what_groups_have_no_mechanism_for_is_kept_and_said_to_have_no_effect(listener: Listener) -> None:
    assert altered(listener, "g", ("share.delivery.count.limit", SET, "9"), kind=GROUP).error_code == ErrorCode.NONE
    tags = ("streams.rack.aware.assignment.tags", APPEND, "zone")
    assert altered(listener, "g", tags, kind=GROUP).error_code == ErrorCode.NONE
    found = {each.name: each for each in described(listener, GROUP, "g", with_more=True).configs}
    assert (found["share.delivery.count.limit"].value, found[tags[0]].value) == ("9", "zone")
    assert "no effect here" in found["share.delivery.count.limit"].documentation
    assert "no effect" not in found[SESSION].documentation
    assert altered(listener, "g", (SESSION, SET, "50000"), kind=GROUP, only_validates=True).error_code == ErrorCode.NONE
    assert of_group(listener)[SESSION][1] == DEFAULT


# -- requests that ask for much --------------------------------------------------------------------------


def described_all(listener: Listener, kind: int, names: list[str]) -> list[Any]:
    Request = messages.DescribeConfigsRequest
    resources = [Request.DescribeConfigsResource(resource_type=kind, resource_name=name) for name in names]
    return list(asked(listener, 32, 4, Request(resources=resources)).results)


def test_a_resource_that_is_named_often_is_described_once(listener: Listener) -> None:
    """Twenty thousand times the same topic took half a minute, in which no other client was answered, and 384 MB."""
    results = described_all(listener, TOPIC, ["t", "none"] * 5_000)
    assert [(each.resource_name, each.error_code) for each in results] == [
        ("t", ErrorCode.NONE),
        ("none", ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
    ]


@pytest.mark.parametrize("kind", [METRICS, GROUP])
def test_of_groups_that_need_not_be_there_a_request_describes_a_thousand(listener: Listener, kind: int) -> None:
    setting = ("metrics", SET, "a") if kind == METRICS else (SESSION, SET, "50000")
    assert altered(listener, "known", setting, kind=kind).error_code == ErrorCode.NONE
    results = described_all(listener, kind, [*(f"g{n}" for n in range(1_001)), "known"])
    assert [each.error_code for each in results[:1_000]] == [ErrorCode.NONE] * 1_000
    assert (results[1_000].error_code, results[1_000].configs) == (ErrorCode.INVALID_REQUEST, [])
    assert "in several" in results[1_000].error_message


def test_what_a_request_changes_twice_is_not_changed(log: streamlog.StreamLog, listener: Listener) -> None:
    Request = messages.IncrementalAlterConfigsRequest
    change = Request.AlterableConfig(name="retention.ms", config_operation=SET, value="7000")
    resources = [
        Request.AlterConfigsResource(resource_type=TOPIC, resource_name=name, configs=[change])
        for name in ("t", "none", "t")
    ]
    answers = asked(listener, 44, 1, Request(resources=resources)).responses
    refused = ErrorCode.INVALID_REQUEST
    assert [each.error_code for each in answers] == [refused, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, refused]
    assert log["t"].config["retention_ms"] == 1000


def test_a_change_of_many_resources_compares_none_of_them_with_all_others() -> None:
    """A request of 50,000 took minutes, in which little else was done."""
    compared = 0

    class Name(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str(self) == other

    resources = [SimpleNamespace(resource_type=99, resource_name=Name(n), configs=[]) for n in range(100)]
    call: Any = SimpleNamespace(request=SimpleNamespace(resources=resources))
    response = configs.Configs()._answer(configs._altered, messages.IncrementalAlterConfigsResponse, call)
    assert [each.error_code for each in response.responses] == [ErrorCode.INVALID_REQUEST] * 100
    assert compared < 100


def test_other_clients_are_answered_while_many_resources_are_described(
    log: streamlog.StreamLog, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(11):
        log.create_topic(f"many{number}")
    may_end = threading.Event()
    describe = configs._described

    def described(call: Any, resource: Any) -> Any:
        assert may_end.wait(WAIT_S)
        return describe(call, resource)

    monkeypatch.setattr(configs, "_described", described)
    found: list[Any] = []
    names = [f"many{number}" for number in range(11)]
    asking = threading.Thread(target=lambda: found.extend(described_all(listener, TOPIC, names)))
    asking.start()
    assert asked(listener, 18, 0, messages.ApiVersionsRequest()).api_keys
    may_end.set()
    asking.join(WAIT_S)
    assert [each.error_code for each in found] == [ErrorCode.NONE] * 11


# -- subscriptions to metrics of clients -----------------------------------------------------------------


def of_metrics(listener: Listener, name: str = "m") -> dict[str, tuple[str, int]]:
    return {each.name: (each.value, each.config_source) for each in described(listener, METRICS, name).configs}


def subscriptions(listener: Listener, version: int) -> list[str]:
    resources = asked(listener, 74, version, messages.ListConfigResourcesRequest()).config_resources
    return [each.resource_name for each in resources if each.resource_type == METRICS]


def test_a_subscription_to_metrics_is_kept_listed_and_outlives_the_log(tmp_path: Path) -> None:
    given = ("interval.ms", SET, "500"), ("match", SET, "client_id=a.*, client_software_name=x")
    with streamlog.open(tmp_path / "log") as log, Listener(log) as listener:
        at_first = {"interval.ms": ("300000", DEFAULT), "match": ("", DEFAULT), "metrics": ("", DEFAULT)}
        assert of_metrics(listener) == at_first
        validated = altered(listener, "m", *given, kind=METRICS, only_validates=True)
        assert (validated.error_code, subscriptions(listener, 0)) == (ErrorCode.NONE, [])
        assert altered(listener, "m", *given, kind=METRICS).error_code == ErrorCode.NONE
    with streamlog.open(tmp_path / "log") as log, Listener(log) as listener:
        assert subscriptions(listener, 0) == subscriptions(listener, 1) == ["m"]
        assert of_metrics(listener) == {
            "interval.ms": ("500", OF_METRICS),
            "match": ("client_id=a.*,client_software_name=x", OF_METRICS),
            "metrics": ("", DEFAULT),
        }
        gone = altered(listener, "m", ("interval.ms", DELETE, None), ("match", DELETE, None), kind=METRICS)
        assert (gone.error_code, subscriptions(listener, 0)) == (ErrorCode.NONE, [])
        assert of_metrics(listener) == at_first


@pytest.mark.parametrize(
    ("name", "change", "error"),
    [
        ("m", ("interval.ms", SET, "99"), ErrorCode.INVALID_REQUEST),
        ("m", ("interval.ms", SET, "3600001"), ErrorCode.INVALID_REQUEST),
        ("m", ("interval.ms", SET, "x"), ErrorCode.INVALID_CONFIG),
        ("m", ("no.such", SET, "1"), ErrorCode.INVALID_REQUEST),
        ("m", ("match", SET, "client_id"), ErrorCode.INVALID_CONFIG),
        ("m", ("match", SET, "client=a"), ErrorCode.INVALID_CONFIG),
        ("m", ("match", SET, "client_id=("), ErrorCode.INVALID_CONFIG),
        ("m", ("metrics", APPEND, "a"), ErrorCode.INVALID_CONFIG),
        ("m", ("metrics", SET, None), ErrorCode.INVALID_REQUEST),
        ("", ("metrics", SET, "a"), ErrorCode.INVALID_REQUEST),
    ],
)
def test_a_setting_that_a_subscription_cannot_have_is_refused_as_by_kafka(
    listener: Listener, name: str, change: Any, error: ErrorCode
) -> None:
    assert altered(listener, name, change, kind=METRICS).error_code == error
    assert subscriptions(listener, 0) == []


@pytest.fixture
def loggers() -> Iterator[logging.Logger]:
    """The library's own, with its levels as they were afterwards."""
    own, below = logging.getLogger("streamlog"), logging.getLogger("streamlog.kafka")
    before = own.level, below.level
    yield own
    own.setLevel(before[0])
    below.setLevel(before[1])


def test_the_levels_of_the_librarys_loggers_are_read_and_set(listener: Listener, loggers: logging.Logger) -> None:
    def level(name: str) -> str:
        (found,) = described(listener, LOGGER, "0", [name]).configs
        assert found.config_source == OF_LOGGER
        return str(found.value)

    assert altered(listener, "0", ("root", SET, "ERROR"), kind=LOGGER).error_code == ErrorCode.NONE
    assert (loggers.level, level("root"), level("streamlog.kafka")) == (logging.ERROR, "ERROR", "ERROR")
    assert altered(listener, "0", ("streamlog.kafka", SET, "TRACE"), kind=LOGGER).error_code == ErrorCode.NONE
    assert level("streamlog.kafka") == "TRACE"
    assert logging.getLogger("streamlog.kafka").isEnabledFor(logging.DEBUG)
    assert altered(listener, "0", ("streamlog.kafka", DELETE, None), kind=LOGGER).error_code == ErrorCode.NONE
    assert level("streamlog.kafka") == "ERROR"
    both = ("root", SET, "INFO"), ("asyncio", SET, "DEBUG")
    assert altered(listener, "0", *both, kind=LOGGER).error_code == ErrorCode.INVALID_CONFIG
    assert altered(listener, "0", ("root", SET, "INFO"), kind=LOGGER, only_validates=True).error_code == ErrorCode.NONE
    assert level("root") == "ERROR"
    for change in (("root", DELETE, None), ("root", APPEND, "INFO"), ("root", SET, None)):
        assert altered(listener, "0", change, kind=LOGGER).error_code == ErrorCode.INVALID_REQUEST
    assert altered(listener, "7", ("root", SET, "INFO"), kind=LOGGER).error_code == ErrorCode.INVALID_REQUEST


def test_levels_are_known_while_other_threads_make_loggers(monkeypatch: pytest.MonkeyPatch) -> None:
    class Name(str):
        """What is asked in the middle, when another thread may run."""

        __slots__ = ()

        def startswith(self, *args: Any) -> bool:
            logging.getLogger(f"made.{len(known)}")
            return False

    known: dict[str, Any] = dict(logging.root.manager.loggerDict)
    known.update({Name("one"): logging.root, Name("two"): logging.root})
    monkeypatch.setattr(logging.root.manager, "loggerDict", known)
    assert "streamlog.kafka" in levels()
