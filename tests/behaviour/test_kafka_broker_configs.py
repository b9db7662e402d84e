"""Settings of brokers that clients change while a listener runs: of one broker, and of all of them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog.kafka import Listener, broker_configs, messages, settings
from streamlog.kafka.errors import ErrorCode
from streamlog.kafka.static_settings import STATIC
from tests.kafka.clients import WAIT_S, asked, asked_at
from tests.kafka.fixtures import temporary_log
from tests.kafka_batches import Row, kafka_payload

from .test_kafka_configs import (
    APPEND,
    BROKER,
    DEFAULT,
    DELETE,
    GROUP,
    OF_STATIC_BROKER,
    SET,
    SUBTRACT,
    TOPIC,
    altered,
    created,
    described,
    described_at,
)

log = temporary_log
OF_BROKER, OF_ALL = 2, 3
ALL = ""
RETENTION, POLICY = "log.retention.ms", "log.cleanup.policy"


@pytest.fixture
def listener(log: streamlog.StreamLog) -> Iterator[Listener]:
    with Listener(log, broker_config={RETENTION: "1000"}) as listener:
        yield listener


def change(listener: Listener, broker: str, *changes: tuple[str, int, str | None], only_validates: bool = False) -> int:
    return int(altered(listener, broker, *changes, kind=BROKER, only_validates=only_validates).error_code)


def replace(listener: Listener, broker: str, **given: str) -> int:
    """By the older request, which resets what it does not name."""
    Request = messages.AlterConfigsRequest
    configs = [Request.AlterableConfig(name=name.replace("_", "."), value=text) for name, text in given.items()]
    resource = Request.AlterConfigsResource(resource_type=BROKER, resource_name=broker, configs=configs)
    return int(asked(listener, 33, 2, Request(resources=[resource])).responses[0].error_code)


def changed(listener: Listener, broker: str = "0") -> dict[str, tuple[str | None, int]]:
    """What clients have set, by name: value and source."""
    configs = described(listener, BROKER, broker).configs
    return {
        each.name: (each.value, each.config_source) for each in configs if each.config_source in (OF_BROKER, OF_ALL)
    }


def synonyms(listener: Listener, kind: int, resource: str, name: str) -> list[tuple[str, str | None, int]]:
    (found,) = described(listener, kind, resource, [name], with_more=True).configs
    return [(each.name, each.value, each.source) for each in found.synonyms]


def test_a_brokers_own_setting_comes_before_that_of_all_and_before_the_listeners(listener: Listener) -> None:
    assert change(listener, ALL, (RETENTION, SET, "3000")) == ErrorCode.NONE
    assert changed(listener) == changed(listener, ALL) == {RETENTION: ("3000", OF_ALL)}
    assert change(listener, "0", (RETENTION, SET, " 2000 ")) == ErrorCode.NONE
    assert changed(listener) == {RETENTION: ("2000", OF_BROKER)}
    chain = [
        (RETENTION, " 2000 ", OF_BROKER),
        (RETENTION, "3000", OF_ALL),
        (RETENTION, "1000", OF_STATIC_BROKER),
        ("log.retention.hours", "168", DEFAULT),
    ]
    assert synonyms(listener, BROKER, "0", RETENTION) == chain
    assert synonyms(listener, BROKER, ALL, RETENTION) == [(RETENTION, "3000", OF_ALL)]
    asked(listener, 19, 7, created("t", {}))
    assert synonyms(listener, TOPIC, "t", "retention.ms") == chain
    assert change(listener, "0", (RETENTION, DELETE, None)) == ErrorCode.NONE
    assert changed(listener) == {RETENTION: ("3000", OF_ALL)}
    assert change(listener, ALL, (RETENTION, DELETE, None)) == ErrorCode.NONE
    assert changed(listener) == changed(listener, ALL) == {}


def test_a_topic_has_the_defaults_of_the_time_when_it_is_made(log: streamlog.StreamLog, listener: Listener) -> None:
    asked(listener, 19, 7, created("before", {}))
    given = {RETENTION: "2000", POLICY: "compact , delete", "message.max.bytes": "5000", "log.segment.bytes": "2000000"}
    assert change(listener, ALL, *((name, SET, text) for name, text in given.items())) == ErrorCode.NONE
    (made,) = asked(listener, 19, 7, created("after", {"max.message.bytes": "6000"})).topics
    assert {each.name: (each.value, each.config_source) for each in made.configs if each.config_source != DEFAULT} == {
        "cleanup.policy": ("compact , delete", OF_ALL),
        "max.message.bytes": ("6000", 1),
        "retention.ms": ("2000", OF_ALL),
        "segment.bytes": ("2000000", OF_ALL),
    }
    asked(
        listener, 3, 12, messages.MetadataRequest(topics=[messages.MetadataRequest.MetadataRequestTopic(name="auto")])
    )
    for name, size in (("after", 6000), ("auto", 5000)):
        config = log[name].config
        assert (config["retention_ms"], config["cleanup_policy"]) == (2000, "compact,delete")
        assert (config["max_message_bytes"], config["segment_bytes"]) == (size, 2_000_000)
    assert log["before"].config["retention_ms"] == 1000
    found = {each.name: (each.value, each.config_source) for each in described(listener, TOPIC, "before").configs}
    assert found["retention.ms"] == ("1000", OF_STATIC_BROKER)
    found = {each.name: (each.value, each.config_source) for each in described(listener, TOPIC, "auto").configs}
    assert found["cleanup.policy"] == ("compact,delete", OF_ALL)
    # What a topic does not set any more is the default of now.
    assert altered(listener, "after", ("max.message.bytes", DELETE, None)).error_code == ErrorCode.NONE
    assert log["after"].config["max_message_bytes"] == 5000


def test_settings_that_no_client_can_give_are_refused_and_others_of_the_request_with_them(listener: Listener) -> None:
    for name, text in (
        (RETENTION, "x"), (RETENTION, None), ("log.segment.bytes", "5"), (POLICY, "keep"), ("compression.type", "LZ4"),
        ("log.cleaner.threads", "0"), ("log.cleaner.io.buffer.load.factor", "inf"), ("num.partitions", "2"),
        ("auto.create.topics.enable", "false"), ("log.retention.hours", "5"), ("group.max.size", "5"),
        ("listeners", "PLAINTEXT://:1"), ("ssl.keystore.type", "PEM"), ("socket.send.buffer.bytes", "5"), ("a" * 2000, ""),
    ):  # fmt: skip
        for broker in ("0", ALL):
            refused = change(listener, broker, ("log.retention.bytes", SET, "5"), (name, SET, text))
            assert refused == ErrorCode.INVALID_REQUEST, name
    for broker in ("7", "x"):
        assert change(listener, broker, (RETENTION, SET, "5")) == ErrorCode.INVALID_REQUEST
        assert replace(listener, broker) == ErrorCode.INVALID_REQUEST
    assert change(listener, "0", (RETENTION, SET, "5"), (RETENTION, SET, "6")) == ErrorCode.INVALID_REQUEST
    assert change(listener, "0", (RETENTION, 9, "5")) == ErrorCode.INVALID_REQUEST
    assert replace(listener, "0", num_partitions="2") == ErrorCode.INVALID_REQUEST
    for operation in (APPEND, SUBTRACT):
        for name in (RETENTION, "no.such", "num.partitions"):
            assert change(listener, "0", (name, operation, "5")) == ErrorCode.INVALID_CONFIG
    for operation in (SET, DELETE):
        assert change(listener, "0", ("min.insync.replicas", operation, "1")) == ErrorCode.INVALID_CONFIG
    assert changed(listener) == changed(listener, ALL) == {}
    for name in ("num.partitions", RETENTION, "no.such"):  # which are not set
        assert change(listener, "0", (name, DELETE, None)) == ErrorCode.NONE
    assert change(listener, ALL, ("min.insync.replicas", SET, "2")) == ErrorCode.NONE
    assert change(listener, "0", (RETENTION, SET, "5"), only_validates=True) == ErrorCode.NONE
    assert changed(listener) == {"min.insync.replicas": ("2", OF_ALL)}


def test_a_list_begins_from_kafkas_default_where_it_is_not_set(listener: Listener) -> None:
    assert change(listener, ALL, (POLICY, APPEND, "compact")) == ErrorCode.NONE
    assert changed(listener) == {POLICY: ("delete,compact", OF_ALL)}
    for operation, element, expected in (
        (SUBTRACT, "compact", "delete"), (SUBTRACT, "delete", ""), (APPEND, "compact", "compact"),
    ):  # fmt: skip
        assert change(listener, "0", (POLICY, operation, element)) == ErrorCode.NONE
        assert changed(listener) == {POLICY: (expected, OF_BROKER)}


def test_the_older_request_takes_back_what_it_does_not_name(listener: Listener) -> None:
    assert change(listener, "0", (RETENTION, SET, "5"), ("no.such", SET, "6")) == ErrorCode.NONE
    assert replace(listener, "0", log_retention_bytes="7") == ErrorCode.NONE
    assert changed(listener) == {"log.retention.bytes": ("7", OF_BROKER)}
    assert replace(listener, "0") == ErrorCode.NONE
    assert changed(listener) == {}


def test_what_has_no_effect_is_kept_and_a_name_that_kafka_does_not_know_is_kept_as_a_secret(listener: Listener) -> None:
    assert change(listener, "0", ("log.cleaner.threads", SET, "3"), ("my.password", SET, "secret")) == ErrorCode.NONE
    found = {each.name: each for each in described(listener, BROKER, "0", with_more=True).configs}
    threads, unknown = found["log.cleaner.threads"], found["my.password"]
    assert (threads.value, threads.config_source, threads.config_type) == ("3", OF_BROKER, 3)
    assert (threads.read_only, threads.is_sensitive) == (False, False)
    assert "no effect here" in threads.documentation
    assert "no effect" not in found["log.retention.ms"].documentation
    assert (unknown.value, unknown.config_source, unknown.config_type) == (None, OF_BROKER, 0)
    assert (unknown.read_only, unknown.is_sensitive) == (True, True)
    assert [(each.name, each.value, each.source) for each in unknown.synonyms] == [("my.password", None, OF_BROKER)]
    for name, each in found.items():
        assert each.read_only is (name not in broker_configs.DYNAMIC), name


def test_every_setting_can_be_changed_or_is_known_not_to_be(listener: Listener) -> None:
    names = {each.name for each in described(listener, BROKER, "0").configs}
    assert not STATIC & broker_configs.DYNAMIC.keys()
    assert names <= STATIC | broker_configs.DYNAMIC.keys()
    taken = {
        *settings.OF_BROKER,
        *settings.OTHER_UNITS,
        settings.PARTITIONS,
        *settings.GROUPS,
        *settings.CONSUMER_GROUPS,
    }
    assert taken - {settings.INTERNAL_SEGMENT_BYTES} <= STATIC | broker_configs.DYNAMIC.keys()
    for name, setting in broker_configs.DYNAMIC.items():  # each takes its own default
        if setting.default is not None and name != "min.insync.replicas":
            assert change(listener, "0", (name, SET, setting.default), only_validates=True) == ErrorCode.NONE, name


def test_what_groups_have_by_default_is_given_back_for_each_of_them(listener: Listener) -> None:
    name = "group.consumer.assignment.interval.ms"
    assert change(listener, ALL, (name, SET, "7")) == ErrorCode.NONE
    chain = [(name, "7", OF_ALL), (name, "1000", DEFAULT)]
    assert synonyms(listener, GROUP, "g", "consumer.assignment.interval.ms") == chain


def test_the_settings_of_a_broker_are_bounded(listener: Listener) -> None:
    for number in range(8):
        assert change(listener, "0", (f"no.{number}", SET, "x" * 32_000)) == ErrorCode.NONE
    assert change(listener, "0", ("no.8", SET, "x" * 32_000)) == ErrorCode.INVALID_REQUEST
    assert len(changed(listener)) == 8


def test_the_oldest_timestamp_that_is_taken_changes_at_once(listener: Listener) -> None:
    asked(listener, 19, 7, created("t", {}))
    assert produced_long_ago(listener) == ErrorCode.NONE
    assert change(listener, ALL, ("log.message.timestamp.before.max.ms", SET, "5000")) == ErrorCode.NONE
    assert produced_long_ago(listener) == ErrorCode.INVALID_TIMESTAMP
    assert altered(listener, "t", ("message.timestamp.before.max.ms", SET, str(2**63 - 1))).error_code == ErrorCode.NONE
    assert produced_long_ago(listener) == ErrorCode.NONE


def produced_long_ago(listener: Listener) -> int:
    """The error of one record of 1970."""
    Request = messages.ProduceRequest
    payload, _ = kafka_payload([Row(1, value=b"x")])
    data = Request.PartitionProduceData(index=0, records=struct.pack(">qii", 0, 4 + len(payload), -1) + payload)
    topic = Request.TopicProduceData(name="t", partition_data=[data])
    request = Request(acks=-1, timeout_ms=1000, topic_data=[topic])
    return int(asked(listener, 0, 9, request).responses[0].partition_responses[0].error_code)


def test_each_broker_has_its_own_and_all_outlive_the_log_and_go_with_a_broker_that_is_retired(tmp_path: Path) -> None:
    with streamlog.open(tmp_path / "log", brokers=3) as log, Listener(log) as listener:
        assert change(listener, "1", (RETENTION, SET, "1000")) == ErrorCode.NONE  # asked at broker 0
        assert change(listener, "2", (RETENTION, SET, "2000")) == ErrorCode.NONE
        assert change(listener, ALL, ("log.retention.bytes", SET, "7")) == ErrorCode.NONE
    with streamlog.open(tmp_path / "log") as log, Listener(log) as listener:
        of_all = {"log.retention.bytes": ("7", OF_ALL)}
        assert changed(listener, "0") == of_all
        assert changed(listener, "1") == {**of_all, RETENTION: ("1000", OF_BROKER)}
        addresses = listener.bootstrap_servers.split(",")
        for broker, address in enumerate(addresses):  # the broker that makes a topic has the defaults
            assert asked_at(address, 19, 7, created(f"t{broker}", {})).topics[0].error_code == ErrorCode.NONE
            assert log[f"t{broker}"].config["retention_ms"] == (604_800_000, 1000, 2000)[broker]
            assert log[f"t{broker}"].config["retention_bytes"] == 7
        (found,) = described_at(addresses[2], TOPIC, "t2", ["retention.ms"]).configs
        assert (found.value, found.config_source) == ("2000", OF_BROKER)
        log.add_broker(tmp_path / "another")
        log.retire_broker(2).wait(30)
        kept = {name for kind, name in log._engine.service.image.kafka_configs if kind == "broker"}  # type: ignore[attr-defined]
        assert kept == {"", "1"}


def test_confluent_kafkas_admin_client_alters_and_describes_brokers(listener: Listener) -> None:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ConfigSource

    admin = AdminClient({"bootstrap.servers": listener.bootstrap_servers})

    def alter(broker: str, **given: str) -> None:
        entries = [
            ConfigEntry(name.replace("_", "."), text, incremental_operation=AlterConfigOpType.SET)
            for name, text in given.items()
        ]
        resource = ConfigResource(ConfigResource.Type.BROKER, broker, incremental_configs=entries)
        (done,) = admin.incremental_alter_configs([resource]).values()
        done.result(WAIT_S)

    def describe(broker: str) -> Any:
        (found,) = admin.describe_configs([ConfigResource(ConfigResource.Type.BROKER, broker)]).values()
        return found.result(WAIT_S)

    alter("0", log_retention_ms="5000", log_cleaner_threads="2")
    found = describe("0")
    assert (found[RETENTION].value, found["log.cleaner.threads"].value) == ("5000", "2")
    assert ConfigSource(found[RETENTION].source) == ConfigSource.DYNAMIC_BROKER_CONFIG
    assert (found[RETENTION].is_read_only, found["broker.id"].is_read_only) == (False, True)
    assert list(found[RETENTION].synonyms) == [RETENTION, "log.retention.hours"]
    with pytest.raises(KafkaException) as refused:
        alter("0", num_partitions="5")
    assert refused.value.args[0].name() == "INVALID_REQUEST"


def test_kafka_pythons_admin_client_alters_and_describes_brokers(listener: Listener) -> None:
    from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

    admin = KafkaAdminClient(bootstrap_servers=listener.bootstrap_servers)
    try:
        admin.alter_configs([ConfigResource(ConfigResourceType.BROKER, "0", configs={"log.retention.bytes": "12345"})])
        found = admin.describe_configs([ConfigResource(ConfigResourceType.BROKER, "0")])
    finally:
        admin.close()
    assert "'12345'" in repr(found)
    assert changed(listener) == {"log.retention.bytes": ("12345", OF_BROKER)}
