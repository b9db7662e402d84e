"""Settings of topics and brokers through a listener."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import streamlog
from streamlog.kafka import Listener, messages
from streamlog.kafka.errors import ErrorCode
from tests.kafka.clients import asked
from tests.kafka.fixtures import temporary_log

log = temporary_log

TOPIC, BROKER = 2, 4
OF_TOPIC, OF_STATIC_BROKER, DEFAULT = 1, 4, 5
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


def described(listener: Listener, kind: int, name: str, keys: list[str] | None = None) -> Any:
    Request = messages.DescribeConfigsRequest
    resource = Request.DescribeConfigsResource(resource_type=kind, resource_name=name, configuration_keys=keys)
    (result,) = asked(listener, 32, 4, Request(resources=[resource])).results
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


def test_the_settings_of_a_topic_are_described_with_what_they_come_from(listener: Listener) -> None:
    result = described(listener, TOPIC, "t")
    assert result.error_code == ErrorCode.NONE
    found = {each.name: (each.value, each.config_source) for each in result.configs}
    assert found["cleanup.policy"] == ("compact", OF_TOPIC)
    assert found["max.message.bytes"] == ("5000", OF_TOPIC)
    assert found["retention.ms"] == ("1000", DEFAULT)
    assert found["segment.bytes"] == (str(1 << 30), DEFAULT)
    assert found["unclean.leader.election.enable"] == ("false", DEFAULT)
    assert [each.name for each in described(listener, TOPIC, "t", ["retention.ms"]).configs] == ["retention.ms"]
    (kind,) = {each.config_type for each in described(listener, TOPIC, "t", ["cleanup.policy"]).configs}
    assert kind == 7  # a list


def test_the_settings_of_a_broker_are_described(listener: Listener) -> None:
    found = {each.name: (each.value, each.config_source) for each in described(listener, BROKER, "0").configs}
    assert found["log.retention.ms"] == ("1000", OF_STATIC_BROKER)
    assert found["log.cleanup.policy"] == ("delete", DEFAULT)
    assert described(listener, BROKER, "7").error_code == ErrorCode.INVALID_REQUEST
    assert described(listener, TOPIC, "none").error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert described(listener, 16, "x").error_code == ErrorCode.INVALID_REQUEST


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
        ("t", TOPIC, [("retention.ms", SET, "5"), ("retention.ms", SET, "6")], ErrorCode.INVALID_REQUEST),
        ("none", TOPIC, [("retention.ms", SET, "5")], ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
        ("0", BROKER, [("log.retention.ms", SET, "5")], ErrorCode.INVALID_REQUEST),
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
    before = log["t"].config
    answer = altered(listener, name, *changes, kind=kind, only_validates=only_validates)
    assert answer.error_code == error
    assert answer.error_message
    assert log["t"].config == before


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
    assert {(each.resource_type, each.resource_name) for each in every} == {(TOPIC, "t"), (BROKER, "0")}
    topics = asked(listener, 74, 1, Request(resource_types=[TOPIC])).config_resources
    assert [each.resource_name for each in topics] == ["t"]
