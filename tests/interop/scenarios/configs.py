"""Configurations of topics and brokers: what they are, where they come from, and how they are changed."""

from __future__ import annotations

from itertools import count
from typing import Any

from ..wire import ask, create, error_name, until
from . import alone, scenario, short_scenario
from .groups import coordinated

TOPIC, BROKER, LOGGER, CLIENT_METRICS, GROUP = 2, 4, 8, 16, 32
SET, DELETE, APPEND, SUBTRACT = 0, 1, 2, 3


def described(bootstrap: str, kind: int, name: str, keys: list[str] | None = None, **given: Any) -> Any:
    wanted = [{"resource_type": kind, "resource_name": name, "configuration_keys": keys}]
    (result,) = ask(bootstrap, "DescribeConfigs", 4, resources=wanted, **given).results
    return result


def values_of(bootstrap: str, name: str, *keys: str) -> dict[str, Any]:
    configs = described(bootstrap, TOPIC, name, list(keys)).configs
    return {each.name: (each.value, each.config_source) for each in configs}


def altered(bootstrap: str, name: str, *changes: tuple[str, int, str | None], kind: int = TOPIC, **given: Any) -> str:
    configs = [{"name": each, "config_operation": operation, "value": value} for each, operation, value in changes]
    wanted = [{"resource_type": kind, "resource_name": name, "configs": configs}]
    (answer,) = ask(bootstrap, "IncrementalAlterConfigs", 1, resources=wanted, **given).responses
    assert answer.error_code or answer.error_message is None, answer
    return error_name(answer.error_code)


def settle(bootstrap: str, name: str) -> None:
    """Wait until the broker has applied the changes that the controller has accepted so far."""
    mark = str(next(_MARKS))
    altered(bootstrap, name, ("flush.messages", SET, mark))
    until(lambda: values_of(bootstrap, name, "flush.messages")["flush.messages"][0] == mark)


_MARKS = count(1000)


@short_scenario
def described_topic(bootstrap: str) -> Any:
    """All configurations of a topic: value, source, type, flags."""
    create(bootstrap, "described_topic", retention__ms="86400000", cleanup__policy="compact,delete")
    result = described(bootstrap, TOPIC, "described_topic")
    return {"code": result.error_code, "configs": {each.name: each for each in result.configs}}


@scenario
def synonyms_of_configs(bootstrap: str) -> Any:
    """Where a configuration comes from, and what else would be there."""
    name = "synonyms_of_configs"
    create(bootstrap, name, retention__ms="86400000")
    keys = ["retention.ms", "segment.bytes", "cleanup.policy", "min.insync.replicas"]
    configs = described(bootstrap, TOPIC, name, keys, include_synonyms=True).configs
    return {each.name: each for each in configs}


@scenario
def documentation_of_configs(bootstrap: str) -> Any:
    """DescribeConfigs has each configuration explained, where it is asked for that."""
    name = "documentation_of_configs"
    create(bootstrap, name)
    configs = described(bootstrap, TOPIC, name, ["retention.ms"], include_documentation=True).configs
    return {each.name: bool(each.documentation) for each in configs}


@short_scenario
def some_configs(bootstrap: str) -> Any:
    """DescribeConfigs of some keys, of none, and of resources that are not there."""
    name = "some_configs"
    create(bootstrap, name)
    return {
        "two": described(bootstrap, TOPIC, name, ["retention.ms", "cleanup.policy", "no.such"]).configs,
        "none": len(described(bootstrap, TOPIC, name, []).configs) > 0,
        "a topic that is not there": described(bootstrap, TOPIC, f"{name}.2"),
        "a name that none can have": described(bootstrap, TOPIC, "a b"),
        "a broker that is not there": described(bootstrap, BROKER, "77"),
        "a broker of no number": described(bootstrap, BROKER, "x"),
        "no such kind": error_name(described(bootstrap, 64, "x").error_code),
    }


@short_scenario
def changing_configs(bootstrap: str) -> Any:
    """IncrementalAlterConfigs: set, delete, append, subtract, and what is refused. An append to a list keeps its default."""
    name = "changing_configs"
    create(bootstrap, name)
    keys = ("cleanup.policy", "retention.ms")
    found: dict[str, Any] = {"first": values_of(bootstrap, name, *keys)}
    for title, change in {
        "appended to a default": ("cleanup.policy", APPEND, "compact"),
        "appended again": ("cleanup.policy", APPEND, "compact"),
        "subtracted": ("cleanup.policy", SUBTRACT, "delete"),
        "subtracted what is not there": ("cleanup.policy", SUBTRACT, "delete"),
        "set": ("retention.ms", SET, "5000"),
        "set to the default": ("cleanup.policy", SET, "delete"),
        "deleted": ("retention.ms", DELETE, None),
        "deleted again": ("retention.ms", DELETE, None),
        "invalid": ("retention.ms", SET, "x"),
        "null": ("retention.ms", SET, None),
        "appended to no list": ("retention.ms", APPEND, "5"),
        "unknown": ("no.such", SET, "5"),
        "unknown, deleted": ("no.such", DELETE, None),
        "no operation": ("retention.ms", 9, "5"),
        "last": ("cleanup.policy", DELETE, None),
    }.items():
        code = altered(bootstrap, name, change)
        settle(bootstrap, name)
        found[title] = code, values_of(bootstrap, name, *keys)
    found["twice"] = altered(bootstrap, name, ("retention.ms", SET, "1"), ("retention.ms", SET, "2"))
    found["one of two invalid"] = altered(bootstrap, name, ("retention.ms", SET, "1"), ("retention.bytes", SET, "x"))
    found["validated"] = altered(bootstrap, name, ("retention.ms", SET, "1"), validate_only=True)
    found["a topic that is not there"] = altered(bootstrap, f"{name}.2", ("retention.ms", SET, "1"))
    settle(bootstrap, name)
    found["afterwards"] = values_of(bootstrap, name, *keys)
    return found


@short_scenario
def replacing_configs(bootstrap: str) -> Any:
    """AlterConfigs: all that is not given is default again."""
    name = "replacing_configs"
    create(bootstrap, name, retention__ms="5000", segment__ms="6000")

    def replace(configs: dict[str, str | None], topic: str = name) -> str:
        wanted = {
            "resource_type": TOPIC, "resource_name": topic,
            "configs": [{"name": each, "value": value} for each, value in configs.items()],
        }  # fmt: skip
        code = error_name(ask(bootstrap, "AlterConfigs", 2, resources=[wanted]).responses[0].error_code)
        settle(bootstrap, name)
        return code

    keys = ("retention.ms", "segment.ms", "max.message.bytes")
    return {
        "first": replace({"max.message.bytes": "2000000", "segment.ms": "7000"}),
        "then": values_of(bootstrap, name, *keys),
        "invalid": replace({"segment.ms": "x"}),
        "unknown": replace({"no.such": "x"}),
        "null": replace({"segment.ms": None}),
        "nothing": replace({}),
        "in the end": values_of(bootstrap, name, *keys),
        "a topic that is not there": replace({}, f"{name}.2"),
    }


@scenario
def configs_of_the_broker(bootstrap: str) -> Any:
    """Configurations of a broker that applications look at."""
    keys = [
        "log.retention.hours", "log.retention.ms", "log.segment.bytes", "num.partitions", "auto.create.topics.enable",
        "message.max.bytes", "default.replication.factor", "min.insync.replicas", "log.cleanup.policy", "compression.type",
        "offsets.retention.minutes", "group.max.session.timeout.ms", "group.min.session.timeout.ms",
        "transaction.max.timeout.ms", "log.roll.hours", "delete.topic.enable", "unclean.leader.election.enable",
        "log.message.timestamp.type", "broker.id", "node.id",
    ]  # fmt: skip
    return {each.name: each for each in described(bootstrap, BROKER, "0", keys).configs}


@scenario
def changing_the_broker(bootstrap: str) -> Any:
    """Configurations of a broker that can be changed while it runs, of one broker and of all."""
    found: dict[str, Any] = {}
    for title, name in (("one", "0"), ("all", ""), ("unknown", "9")):
        found[title] = {
            "set": altered(bootstrap, name, ("log.cleaner.threads", SET, "2"), kind=BROKER, validate_only=True),
            "not while it runs": altered(bootstrap, name, ("broker.rack", SET, "r"), kind=BROKER, validate_only=True),
            "invalid": altered(bootstrap, name, ("log.cleaner.threads", SET, "x"), kind=BROKER, validate_only=True),
        }
    return found


@alone
@short_scenario
def configs_of_brokers(bootstrap: str) -> Any:
    """What is set for a broker and for all: what it comes from, what is refused, what a new topic has, and how it is taken back."""
    level, roll, policy = "compression.lz4.level", "log.roll.ms", "log.cleanup.policy"
    name, other = "configs_of_brokers", "no.such"
    create(bootstrap, f"{name}.before", segment__ms="7000000")

    def change(title: str, operation: int, value: str | None, broker: str = "0", **given: Any) -> str:
        return altered(bootstrap, broker, (title, operation, value), kind=BROKER, **given)

    def configs(broker: str = "0", *, all_of_them: bool = False) -> dict[str, Any]:
        result = described(bootstrap, BROKER, broker, include_synonyms=True)
        return {each.name: each for each in result.configs if all_of_them or each.config_source in (2, 3)}

    def replaced(broker: str, **given: str | None) -> str:
        wanted = [{"name": each.replace("__", "."), "value": value} for each, value in given.items()]
        resource = {"resource_type": BROKER, "resource_name": broker, "configs": wanted}
        return error_name(ask(bootstrap, "AlterConfigs", 2, resources=[resource]).responses[0].error_code)

    found: dict[str, Any] = {
        "of all": change(level, SET, "10", ""), "of one": change(level, SET, " 11 "), "in another unit": change(roll, SET, "8000000", ""),
        "unknown": change(other, SET, "5"), "unknown of all": change("no.such.of.all", SET, "5", ""),
        "refused": {
            "no number": change(level, SET, "x"), "too high": change(level, SET, "18"), "null": change(level, SET, None),
            "of a list": change(policy, SET, "keep"), "min.insync.replicas": change("min.insync.replicas", SET, "1"),
            "min.insync.replicas, deleted": change("min.insync.replicas", DELETE, None),
            "appended to no list": change(level, APPEND, "5"), "appended, unknown": change(other, APPEND, "5"),
            "no operation": change(level, 9, "5"), "unknown broker": change(level, SET, "5", "9"),
            "no broker": change(level, SET, "5", "x"),
            "twice": altered(bootstrap, "0", (level, SET, "5"), (level, SET, "6"), kind=BROKER),
            "one of two": altered(bootstrap, "0", (level, SET, "5"), (roll, SET, "x"), kind=BROKER),
            **{
                each: change(each, SET, "5")
                for each in (
                    "num.partitions", "log.retention.hours", "default.replication.factor", "ssl.keystore.type",
                    "advertised.listeners", "socket.send.buffer.bytes",
                )
            },
        },
        "not set, deleted": [change("num.partitions", DELETE, None), change("log.segment.bytes", DELETE, None)],
        "validated": change(level, SET, "12", validate_only=True),
        "appended": change(policy, APPEND, "compact", ""), "of one, too": change(policy, SET, "compact , delete"),
    }  # fmt: skip
    until(lambda: configs()[policy].value == "compact,delete" and configs("")[policy].value == "delete,compact")
    found["one"], found["all"] = configs(), configs("")
    found["some of all"] = described(bootstrap, BROKER, "", [level, "num.partitions"]).configs
    keys = ["compression.lz4.level", "cleanup.policy", "segment.ms"]
    made = created(bootstrap, f"{name}.after")
    found["created"] = {each.name: each for each in made.configs if each.name in keys}
    until(lambda: not described(bootstrap, TOPIC, f"{name}.after").error_code)
    found["a new topic"] = described(bootstrap, TOPIC, f"{name}.after", keys, include_synonyms=True).configs
    found["an older topic"] = described(
        bootstrap, TOPIC, f"{name}.before", ["segment.ms", keys[0]], include_synonyms=True
    ).configs
    found["replaced"] = {
        "one": replaced("0", log__roll__ms="9000000", another="x"), "undynamic": replaced("0", num__partitions="2"),
        "invalid": replaced("0", log__roll__ms="x"), "null": replaced("0", log__roll__ms=None), "unknown": replaced("9"),
    }  # fmt: skip
    until(lambda: configs()[roll].value == "9000000")
    found["then"] = configs()
    found["taken back"] = [replaced("0")] + [
        change(each, DELETE, None, "") for each in (level, roll, policy, "no.such.of.all")
    ]
    until(lambda: not {level, roll, policy, other} & {*configs(), *configs("")})
    found["in the end"] = configs()
    shown = configs(all_of_them=True)
    found["others"] = {each: shown[each] for each in ("log.cleaner.threads", "max.connections", level, roll)}
    return found


def created(bootstrap: str, name: str) -> Any:
    topic = {"name": name, "num_partitions": 1, "replication_factor": 1}
    (made,) = ask(bootstrap, "CreateTopics", 7, timeout_ms=30_000, topics=[topic]).topics
    return made


@scenario
def config_resources(bootstrap: str) -> Any:
    """ListConfigResources, by kind."""
    name = "config_resources"
    create(bootstrap, name)

    def listed(version: int, *kinds: int) -> Any:
        given = {"resource_types": list(kinds)} if version else {}
        answer = ask(bootstrap, "ListConfigResources", version, **given)
        return error_name(answer.error_code), [
            (each.resource_type, each.resource_name)
            for each in answer.config_resources
            if each.resource_name == name or each.resource_type != TOPIC
        ]

    return {
        "topics": listed(1, TOPIC),
        "brokers": listed(1, BROKER),
        "both": sorted(listed(1, TOPIC, BROKER)[1]),
        "all": sorted(listed(1)[1]),
        "older": listed(0),
        "no such kind": listed(1, 77),
    }


@short_scenario
def configs_of_a_group(bootstrap: str) -> Any:
    """Configurations of a group: what it has, how that is changed, what is refused, and what its members are told."""
    name = "configs_of_a_group"
    create(bootstrap, name)
    coordinated(bootstrap, name)
    session, interval = "consumer.session.timeout.ms", "consumer.heartbeat.interval.ms"

    def configs() -> dict[str, Any]:
        return {each.name: each for each in described(bootstrap, GROUP, name, include_synonyms=True).configs}

    def change(title: str, operation: int, value: str | None, **given: Any) -> str:
        return altered(bootstrap, name, (title, operation, value), kind=GROUP, **given)

    found: dict[str, Any] = {"at first": configs(), "set": change(interval, SET, "6000")}
    until(lambda: configs()[interval].value == "6000")
    found["given"] = configs()
    found["told"] = ask(
        bootstrap, "ConsumerGroupHeartbeat", 1, group_id=name, member_id="m", member_epoch=0, rebalance_timeout_ms=1000,
        subscribed_topic_names=[name], topic_partitions=[],
    ).heartbeat_interval_ms  # fmt: skip
    found["refused"] = {
        "too short": change(session, SET, "44999"), "too long": change(session, SET, "60001"),
        "too often": change(interval, SET, "4999"), "too rare": change(interval, SET, "15001"),
        "no number": change(session, SET, "x"), "unknown": change("no.such", SET, "1"), "null": change(session, SET, None),
        "appended to no list": change("share.auto.offset.reset", APPEND, "earliest"),
        "unknown, deleted": change("no.such", DELETE, None),
        "no name": altered(bootstrap, "", (session, SET, "50000"), kind=GROUP),
        "of no name": described(bootstrap, GROUP, "").error_code,
    }  # fmt: skip
    found["validated"] = change(session, SET, "50000", validate_only=True)
    found["without effect"] = change("share.session.timeout.ms", SET, "50000")
    until(lambda: configs()["share.session.timeout.ms"].value == "50000")
    resources = ask(bootstrap, "ListConfigResources", 1, resource_types=[GROUP]).config_resources
    found["listed"] = [each.resource_type for each in resources if each.resource_name == name]
    wanted = [{"resource_type": GROUP, "resource_name": name, "configs": [{"name": session, "value": "50000"}]}]
    found["replaced"] = error_name(ask(bootstrap, "AlterConfigs", 2, resources=wanted).responses[0].error_code)
    until(lambda: configs()[session].value == "50000")
    found["then"] = {
        each.name: (each.value, each.config_source) for each in configs().values() if each.config_source == 8
    }
    found["deleted"] = change(session, DELETE, None)
    until(lambda: configs()[session].config_source != 8)
    resources = ask(bootstrap, "ListConfigResources", 1, resource_types=[GROUP]).config_resources
    found["in the end"] = [each.resource_type for each in resources if each.resource_name == name]
    return found


@short_scenario
def levels_of_loggers(bootstrap: str) -> Any:
    """BROKER_LOGGER: the level of the root logger, and what is refused."""

    def change(title: str, operation: int, value: str | None, broker: str = "0", **given: Any) -> str:
        return altered(bootstrap, broker, (title, operation, value), kind=LOGGER, **given)

    def described_at(broker: str) -> str:
        return error_name(described(bootstrap, LOGGER, broker, ["root"]).error_code)

    (root,) = described(bootstrap, LOGGER, "0", ["root"], include_synonyms=True).configs
    wanted = [{"resource_type": LOGGER, "resource_name": "0", "configs": []}]
    return {
        "root": {each: getattr(root, each) for each in root.__slots__ if each not in ("value", "documentation")},
        "elsewhere": [described_at(each) for each in ("", "9", "x")],
        "set": change("root", SET, root.value),
        "validated": change("root", SET, "TRACE", validate_only=True),
        "no such level": change("root", SET, "LOUD"),
        "in small letters": change("root", SET, "debug"),
        "no such logger": change("no.such", SET, "DEBUG"),
        "no such logger, deleted": change("no.such", DELETE, None),
        "root, deleted": change("root", DELETE, None),
        "appended": change("root", APPEND, "DEBUG"),
        "null": change("root", SET, None),
        "another broker": change("root", SET, "DEBUG", "9"),
        "replaced": error_name(ask(bootstrap, "AlterConfigs", 2, resources=wanted).responses[0].error_code),
    }


@scenario
def client_metrics_subscriptions(bootstrap: str) -> Any:
    """CLIENT_METRICS (KIP-714): what a subscription has, how that is changed, what is refused, and how it is listed."""
    name = "client_metrics_subscriptions"

    def configs(of: str = name) -> dict[str, Any]:
        return {each.name: each for each in described(bootstrap, CLIENT_METRICS, of, include_synonyms=True).configs}

    def change(title: str, operation: int, value: str | None, of: str = name, **given: Any) -> str:
        return altered(bootstrap, of, (title, operation, value), kind=CLIENT_METRICS, **given)

    def listed(version: int, **given: Any) -> list[Any]:
        resources = ask(bootstrap, "ListConfigResources", version, **given).config_resources
        return [each.resource_type for each in resources if each.resource_name == name]

    found: dict[str, Any] = {"at first": configs(), "listed at first": listed(0)}
    found["refused"] = {
        "too often": change("interval.ms", SET, "99"), "too rare": change("interval.ms", SET, "3600001"),
        "no number": change("interval.ms", SET, "x"), "unknown": change("no.such", SET, "1"),
        "unknown, deleted": change("no.such", DELETE, None), "null": change("metrics", SET, None),
        "a pattern without a value": change("match", SET, "client_id"),
        "a pattern for nothing known": change("match", SET, "client=a"),
        "a pattern that is none": change("match", SET, "client_id=("),
        "appended to no list": change("interval.ms", APPEND, "1"),
        "no operation": change("metrics", 7, "a"),
        "no name": altered(bootstrap, "", ("metrics", SET, "a"), kind=CLIENT_METRICS),
        "of no name": error_name(described(bootstrap, CLIENT_METRICS, "").error_code),
    }  # fmt: skip
    found["validated"] = change("interval.ms", SET, "500", validate_only=True)
    found["set"] = change("interval.ms", SET, "500"), change("metrics", SET, "org.apache.kafka.producer. , b")
    until(lambda: "org" in (configs()["metrics"].value if "metrics" in configs() else ""))
    found["given"] = configs()
    found["appended"] = (
        change("metrics", APPEND, "c,b"),
        change("match", APPEND, "client_id=a.*,client_software_name=x"),
    )
    found["matched"] = change("match", SET, "client_id=a.*,client_software_name=x")
    until(lambda: "a.*" in configs()["match"].value)
    found["then"] = configs()
    found["subtracted"] = change("metrics", SUBTRACT, "b")
    found["listed"] = listed(0), listed(1), listed(1, resource_types=[CLIENT_METRICS])
    wanted = [
        {"resource_type": CLIENT_METRICS, "resource_name": name, "configs": [{"name": "interval.ms", "value": "700"}]}
    ]
    found["replaced"] = error_name(ask(bootstrap, "AlterConfigs", 2, resources=wanted).responses[0].error_code)
    until(lambda: configs()["interval.ms"].value == "700")
    found["after it was replaced"] = configs()
    found["deleted"] = (
        change("interval.ms", DELETE, None),
        change("metrics", DELETE, None),
        change("match", DELETE, None),
    )
    until(lambda: not listed(0))
    found["in the end"] = configs(), listed(1)
    return found
