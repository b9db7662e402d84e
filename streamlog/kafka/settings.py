"""The settings of topics, and of a broker as far as a listener has them, under Kafka's names.

All settings of topics that Kafka 4.4 has are here. What the library has no setting for is checked as Kafka does it, kept with the
topic, and given back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from sys import float_info
from typing import Any, NamedTuple, TypeAlias

from ..broker.controller import GROUPS_TOPIC, TRANSACTIONS_TOPIC
from ..config import FOREVER, LARGEST_RECORD, MAX_PARTITIONS, NEVER_MS, TopicConfig, integer, typed
from ..errors import ConfigError, did_you_mean

KAFKA_DEFAULTS: Mapping[str, Any] = {"partitioner": "murmur2", "retention_ms": 604_800_000}
"""What topics have that are made through a listener, unless the client, or the listener's settings, say otherwise."""
INTERNAL_TOPICS = (GROUPS_TOPIC, TRANSACTIONS_TOPIC)
INTERNAL_SEGMENT_BYTES = "internal.segment.bytes"
"""Kafka's own tests make small segments with it. It goes before `segment.bytes`, and is not described unless it is given."""

# The types, as DescribeConfigs has them, and the sources.
BOOLEAN, STRING, INT, LONG, DOUBLE, LIST = 1, 2, 3, 5, 6, 7
OF_TOPIC, OF_BROKER_ITSELF, OF_ALL_BROKERS, OF_STATIC_BROKER, DEFAULT = 1, 2, 3, 4, 5
OF_LOGGER, OF_CLIENT_METRICS, OF_GROUP = 6, 7, 8
_NAMES = {INT: "INT", LONG: "LONG", DOUBLE: "DOUBLE"}
_MAX_INT, _MAX_LONG = (1 << 31) - 1, (1 << 63) - 1
_WEEK_MS = 604_800_000
_SHOWN = 200  # characters of what a client gave, in a message
_LONGEST = (1 << 15) - 1  # bytes of a value: the length of a string in versions that are not flexible
_LEAST_SEGMENT = 1 << 20  # bytes, Kafka's for segment.bytes
_OUR_LEAST_SEGMENT = 1024  # bytes, the library's, which internal.segment.bytes may ask for


class Setting(NamedTuple):
    """A setting: its type, Kafka's default, what it is for, and which values it takes, also those `besides` the range.

    Of a topic's: the `broker`'s setting that topics have which are made without one, and the `field` of TopicConfig that it is. One that is
    `by_listener` has no field, and holds for what Kafka's clients send.
    """

    type: int
    default: str | None
    about: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    besides: tuple[int, ...] = ()
    broker: str = ""
    field: str = ""
    by_listener: bool = False

    @property
    def documentation(self) -> str:
        return self.about if self.field or self.by_listener else f"{self.about} It is kept, and has no effect here."


Synonym: TypeAlias = tuple[str, str | None, int]
"""A name, a text and its source."""


class Described(NamedTuple):
    """A setting, where it comes from, and where else it is given: the one that counts first."""

    name: str
    text: str | None
    source: int
    synonyms: list[Synonym]
    read_only: bool = False
    is_sensitive: bool = False

    @classmethod
    def by(cls, name: str, synonyms: list[Synonym], *, read_only: bool = False) -> Described:
        """With the first of its synonyms; without one by default, with no text."""
        _, text, source = synonyms[0] if synonyms else (name, None, DEFAULT)
        return cls(name, text, source, synonyms, read_only)


_THROTTLED = "The replicas whose {} is throttled while they are reassigned: partition:broker, …, or * for all."

TOPIC: Mapping[str, Setting] = {
    "cleanup.policy": Setting(
        LIST, "delete", "What becomes of old segments: they are deleted, compacted, or both; kept if the list is empty.",
        choices=("compact", "delete"), broker="log.cleanup.policy", field="cleanup_policy",
    ),
    "compression.gzip.level": Setting(
        INT, "-1", "The level of gzip.", 1, 9, besides=(-1,), broker="compression.gzip.level"
    ),
    "compression.lz4.level": Setting(INT, "9", "The level of lz4.", 1, 17, broker="compression.lz4.level"),
    "compression.type": Setting(
        STRING, "producer", "The codec that records are stored with; producer keeps theirs.",
        choices=("uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"), broker="compression.type",
        field="compression_type",
    ),
    "compression.zstd.level": Setting(INT, "3", "The level of zstd.", -131_072, 22, broker="compression.zstd.level"),
    "delete.retention.ms": Setting(
        LONG, "86400000", "How long a compacted topic keeps the tombstone of a key.", 0,
        broker="log.cleaner.delete.retention.ms", field="delete_retention_ms",
    ),
    "errors.deadletterqueue.group.enable": Setting(
        BOOLEAN, "false", "Whether share groups may use this topic for records that they give up."
    ),
    "file.delete.delay.ms": Setting(
        LONG, "60000", "How long the file of a deleted segment is left.", 0, broker="log.segment.delete.delay.ms"
    ),
    "flush.messages": Setting(
        LONG, str(_MAX_LONG), "After how many records a log is synced.", 1, broker="log.flush.interval.messages"
    ),
    "flush.ms": Setting(
        LONG, str(_MAX_LONG), "After what time a log is synced.", 0, broker="log.flush.interval.ms"
    ),
    "follower.replication.throttled.replicas": Setting(LIST, "", _THROTTLED.format("fetching")),
    "index.interval.bytes": Setting(
        INT, "4096", "How many bytes lie between two entries of an index.", 0, broker="log.index.interval.bytes"
    ),
    INTERNAL_SEGMENT_BYTES: Setting(
        INT, None, "How large a segment gets, where it is to be smaller than segment.bytes allows.",
        broker=INTERNAL_SEGMENT_BYTES, field="segment_bytes",
    ),
    "leader.replication.throttled.replicas": Setting(LIST, "", _THROTTLED.format("leader")),
    "local.retention.bytes": Setting(
        LONG, "-2", "How much of a tiered log is kept here.", -2, broker="log.local.retention.bytes"
    ),
    "local.retention.ms": Setting(
        LONG, "-2", "How long a segment of a tiered log is kept here.", -2, broker="log.local.retention.ms"
    ),
    "max.compaction.lag.ms": Setting(
        LONG, str(_MAX_LONG), "After what time a record is compacted at the latest.", 1,
        broker="log.cleaner.max.compaction.lag.ms",
    ),
    "max.decompressed.message.bytes": Setting(
        INT, "2147483639", "How large a batch may be once it is decompressed.", 1,
        broker="max.decompressed.message.bytes",
    ),
    "max.message.bytes": Setting(
        INT, "1048588", "How large a batch may be, as it is sent.", 0, broker="message.max.bytes",
        field="max_message_bytes",
    ),
    "message.timestamp.after.max.ms": Setting(
        LONG, "3600000", "How far a record's timestamp may be ahead of the log's clock.", 0,
        broker="log.message.timestamp.after.max.ms", field="message_timestamp_after_max_ms",
    ),
    "message.timestamp.before.max.ms": Setting(
        LONG, str(_MAX_LONG), "How far the timestamp of a record that Kafka's clients send may be behind the log's clock.", 0,
        broker="log.message.timestamp.before.max.ms", by_listener=True,
    ),
    "message.timestamp.type": Setting(
        STRING, "CreateTime", "Whether a record has the timestamp of its producer, or of its append.",
        choices=("CreateTime", "LogAppendTime"), broker="log.message.timestamp.type", field="message_timestamp_type",
    ),
    "min.cleanable.dirty.ratio": Setting(
        DOUBLE, "0.5", "How much of a log was written since it was compacted, before that is done again.", 0, 1,
        broker="log.cleaner.min.cleanable.ratio", field="min_cleanable_dirty_ratio",
    ),
    "min.compaction.lag.ms": Setting(
        LONG, "0", "How old a record is at least when it is compacted.", 0,
        broker="log.cleaner.min.compaction.lag.ms", field="min_compaction_lag_ms",
    ),
    "min.insync.replicas": Setting(
        INT, "1", "How many replicas have to be in sync for a record that is sent with acks=all.", 1,
        broker="min.insync.replicas", field="min_insync_replicas",
    ),
    "preallocate": Setting(BOOLEAN, "false", "Whether the file of a segment is allocated whole.", broker="log.preallocate"),
    "remote.copy.lag.bytes": Setting(
        LONG, "-1", "How much of a tiered log need not be copied yet.", -1, broker="log.remote.copy.lag.bytes"
    ),
    "remote.copy.lag.ms": Setting(
        LONG, "0", "How long a segment of a tiered log need not be copied.", -1, broker="log.remote.copy.lag.ms"
    ),
    "remote.log.copy.disable": Setting(BOOLEAN, "false", "Whether a tiered log is copied no more."),
    "remote.log.delete.on.disable": Setting(
        BOOLEAN, "false", "Whether the copies of a log that is tiered no more are deleted."
    ),
    "remote.storage.enable": Setting(BOOLEAN, "false", "Whether the log is tiered: it cannot be, here."),
    "retention.bytes": Setting(
        LONG, "-1", "How large a partition gets before its oldest segments are deleted; -1: unlimited.",
        broker="log.retention.bytes", field="retention_bytes",
    ),
    "retention.ms": Setting(
        LONG, str(_WEEK_MS), "How old records get before their segment is deleted; -1: unlimited.", -1,
        broker="log.retention.ms", field="retention_ms",
    ),
    "segment.bytes": Setting(
        INT, str(1 << 30), "How large a segment gets before another one is begun.", _LEAST_SEGMENT,
        broker="log.segment.bytes", field="segment_bytes",
    ),
    "segment.index.bytes": Setting(
        INT, "10485760", "How large the index of a segment gets.", 4, broker="log.index.size.max.bytes"
    ),
    "segment.jitter.ms": Setting(
        LONG, "0", "How much earlier, by chance, a segment may end than segment.ms says.", 0,
        broker="log.roll.jitter.ms",
    ),
    "segment.ms": Setting(
        LONG, str(_WEEK_MS), "How old a segment gets before another one is begun.", 1, broker="log.roll.ms",
        field="segment_ms",
    ),
    "unclean.leader.election.enable": Setting(
        BOOLEAN, "false", "Whether a replica that is not in sync may lead, where no other one runs.",
        broker="unclean.leader.election.enable", field="unclean_leader_election",
    ),
}  # fmt: skip
_THROTTLES = ("follower.replication.throttled.replicas", "leader.replication.throttled.replicas")


# -- texts and values ------------------------------------------------------------------------------------


def topic_setting(name: str) -> Setting:
    """Raises ConfigError for a setting that Kafka does not know."""
    known = TOPIC.get(name)
    if known is None:
        raise ConfigError(f"Unknown topic config name: {name[:_SHOWN]}{did_you_mean(name[:_SHOWN], TOPIC)}", name=name)
    return known


def check(name: str, setting: Setting, text: str) -> Any:
    """The value of a text. Raises ConfigError as Kafka does."""
    value: Any = text.strip()
    if len(text.encode()) > _LONGEST:  # it could not be given back in all versions
        raise ConfigError(f"The value of {name} is longer than {_LONGEST} bytes.", name=name)
    if setting.type == LIST:
        value = items(name, text)
        unknown = [each for each in value if setting.choices and each not in setting.choices]
        if unknown:
            raise _invalid(name, unknown[0], f"String must be one of: {', '.join(setting.choices)}")
    elif setting.type == BOOLEAN:
        value = {"true": True, "false": False}.get(value.lower())
        if value is None:
            raise _invalid(name, text, "Expected value to be either true or false")
    elif setting.type == STRING:
        if setting.choices and value not in setting.choices:
            raise _invalid(name, text, f"String must be one of: {', '.join(setting.choices)}")
    else:
        value = _number(name, setting, text)
    if name in _THROTTLES and value != ["*"] and not all(map(_is_replica, value)):
        raise _invalid(name, text, "It must be the literal '*', or a list such as 0:1,1:2 (partition:broker)")
    return value


def _number(name: str, setting: Setting, text: str) -> int | float:
    try:
        value: int | float = float(text) if setting.type == DOUBLE else int(text)
    except ValueError:
        value = inf
    most = {INT: _MAX_INT, LONG: _MAX_LONG}.get(setting.type, float_info.max)
    if not -most - 1 <= value <= most or "_" in text:
        raise _invalid(name, text, f"Not a number of type {_NAMES[setting.type]}")
    if value in setting.besides:
        return value
    if setting.low is not None and value < setting.low:
        raise _invalid(name, text, f"Value must be at least {setting.low}")
    if setting.high is not None and value > setting.high:
        raise _invalid(name, text, f"Value must be no more than {setting.high}")
    return value


def _invalid(name: str, text: str, reason: str) -> ConfigError:
    return ConfigError(f"Invalid value {text[:_SHOWN]} for configuration {name}: {reason}", name=name)


def items(name: str, text: str) -> list[str]:
    """The elements of a list. Raises ConfigError if one of several is empty."""
    if not text.strip():
        return []
    found = [each.strip() for each in text.split(",")]
    if not all(found):
        raise ConfigError(f"Configuration '{name}' values must not be empty.", name=name)
    return found


def normal(name: str, text: str) -> str:
    """The text as DescribeConfigs has it. CreateTopics answers with what was given."""
    setting = TOPIC.get(name)
    return text if setting is None else normal_of(name, setting, text)  # None: a later version knew it


def normal_of(name: str, setting: Setting, text: str) -> str:
    value = check(name, setting, text)
    if setting.type == LIST:
        return ",".join(value)
    return str(value).lower() if setting.type == BOOLEAN else str(value)


def _is_replica(text: str) -> bool:
    partition, colon, broker = text.partition(":")
    return bool(colon) and partition.isdecimal() and broker.isdecimal()


def _duration(value: int) -> int:
    return FOREVER if value >= NEVER_MS else value


# How a value of Kafka's becomes one of ours, where the two differ.
_OURS: Mapping[str, Callable[[Any], Any]] = {
    "cleanup.policy": lambda policies: ",".join(sorted(set(policies))),
    "compression.type": lambda codec: "none" if codec == "uncompressed" else codec,
    "delete.retention.ms": _duration,
    INTERNAL_SEGMENT_BYTES: lambda size: max(_OUR_LEAST_SEGMENT, size),
    "max.message.bytes": lambda size: min(max(1, size), LARGEST_RECORD),
    "message.timestamp.after.max.ms": _duration,
    "min.compaction.lag.ms": _duration,
    "retention.bytes": lambda size: max(FOREVER, size),
    "retention.ms": _duration,
    "segment.ms": lambda age: min(age, NEVER_MS),
}


def value_of(name: str, text: str) -> Any:
    """What a field of TopicConfig is for this text of its setting. Raises ConfigError."""
    value = check(name, topic_setting(name), text)
    convert = _OURS.get(name)
    return value if convert is None else convert(value)


def from_kafka(texts: Mapping[str, str]) -> dict[str, Any]:
    """The fields of TopicConfig for these settings of a topic, all of which are checked. Raises ConfigError."""
    values = {name: value_of(name, text) for name, text in texts.items()}
    check_together(texts)
    if values.get("remote.storage.enable"):
        raise ConfigError(
            "Tiered Storage functionality is disabled in the broker. Topic cannot be configured with remote log storage.",
            name="remote.storage.enable",
        )
    found = {TOPIC[name].field: value for name, value in values.items() if TOPIC[name].field}
    if INTERNAL_SEGMENT_BYTES in values:
        found["segment_bytes"] = values[INTERNAL_SEGMENT_BYTES]
    return found


def check_together(texts: Mapping[str, str]) -> None:
    """Raise ConfigError if settings of a topic contradict one another."""
    name = "min.compaction.lag.ms"
    least, most = (
        check(each, TOPIC[each], texts.get(each) or str(TOPIC[each].default))
        for each in (name, "max.compaction.lag.ms")
    )
    if least > most:
        raise ConfigError(f"conflict topic config setting {name} ({least}) > max.compaction.lag.ms ({most})", name=name)


def to_kafka(name: str, config: TopicConfig) -> str:
    """The text of a setting of topics that is a field of TopicConfig."""
    field = TOPIC[name].field
    value = getattr(config, field)
    if field in ("segment_bytes", "segment_ms") and not value:  # unset: the library's depends on the retention
        return str(TOPIC[name].default)
    if value >= NEVER_MS if field == "segment_ms" else value == FOREVER and TOPIC[name].low == 0:
        return str(_MAX_LONG)
    if value == "none":
        return "uncompressed"
    return str(value).lower() if isinstance(value, bool) else str(value)


# -- brokers ---------------------------------------------------------------------------------------------

OF_BROKER: Mapping[str, str] = {setting.broker: name for name, setting in TOPIC.items() if setting.broker}
"""The broker's settings for topics that are made without one, and the topics' settings that they are for."""
# Those that say nothing by default: others do, in another unit, each with its own default.
_IN_OTHER_UNITS: Mapping[str, tuple[tuple[str, int, str | None], ...]] = {
    "log.retention.ms": (("log.retention.minutes", 60_000, None), ("log.retention.hours", 3_600_000, "168")),
    "log.roll.ms": (("log.roll.hours", 3_600_000, "168"),),
    "log.roll.jitter.ms": (("log.roll.jitter.hours", 3_600_000, "0"),),
    "log.flush.interval.ms": (),
    INTERNAL_SEGMENT_BYTES: (),
}
UNITS_OF: Mapping[str, tuple[str, ...]] = {
    of: tuple(name for name, _, _ in units) for of, units in _IN_OTHER_UNITS.items()
}
_UNITS = {name: (of, unit) for of, units in _IN_OTHER_UNITS.items() for name, unit, _ in units}
OTHER_UNITS: Mapping[str, str | None] = {
    name: default for units in _IN_OTHER_UNITS.values() for name, _, default in units
}
"""The settings in other units, and their defaults."""
PARTITIONS = "num.partitions"
"""The broker's setting for how many partitions a topic has for which nothing is said."""
GROUPS: Mapping[str, str] = {
    "group.initial.rebalance.delay.ms": "initial_rebalance_delay_ms",
    "group.max.session.timeout.ms": "max_session_timeout_ms",
    "group.max.size": "max_size",
    "group.min.session.timeout.ms": "min_session_timeout_ms",
}
BOUNDS: Mapping[str, str] = {
    "queued.max.request.bytes": "in_flight_bytes",
    "socket.request.max.bytes": "produce_bytes",
}
"""Those of a listener: the memory of requests and answers together, and of one request; see `connection.Limits`."""
_LEAST_BOUND = 1 << 20
CONSUMER_GROUPS: Mapping[str, str] = {
    "group.consumer.heartbeat.interval.ms": "5000",
    "group.consumer.max.heartbeat.interval.ms": "15000",
    "group.consumer.max.session.timeout.ms": "60000",
    "group.consumer.min.heartbeat.interval.ms": "5000",
    "group.consumer.min.session.timeout.ms": "45000",
    "group.consumer.session.timeout.ms": "45000",
}
"""Those for members of the consumer group protocol, and their defaults; see `group_configs`."""


def has_default(broker_setting: str) -> bool:
    """Whether a broker's setting for topics has a default, and so is a synonym of the topic's where it is not given."""
    return broker_setting not in _IN_OTHER_UNITS


class BrokerConfig(NamedTuple):
    """A broker's settings by what they are for: topics that are made, their number of partitions, classic groups, and memory.

    `given`: as they were given, by Kafka's names.
    """

    topics: Mapping[str, Any]
    partitions: int
    groups: Mapping[str, int]
    given: Mapping[str, str]
    bounds: Mapping[str, int]


def broker_config(given: Mapping[str, str], defaults: Mapping[str, Any]) -> BrokerConfig:
    """`defaults`: the settings of topics, by the library's names, where `given` says nothing. Raises ConfigError."""
    known = [*OF_BROKER, *_UNITS, PARTITIONS, *GROUPS, *CONSUMER_GROUPS, *BOUNDS]
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"broker_config has to be a mapping of names and texts, not {typed(given)}.", name="broker_config"
        )
    for name, text in given.items():
        if name not in known:
            near = did_you_mean(name, known) if isinstance(name, str) else ""
            raise ConfigError(f"There is no setting {name!r} of a broker here{near}.", name=str(name))
        if not isinstance(text, str):
            raise ConfigError(f"{name} has to be a str, as Kafka has it, not {typed(text)}.", name=name)
        if name in OF_BROKER:
            check(name, TOPIC[OF_BROKER[name]], text)  # by the name that was given
    texts = {**_in_milliseconds(given), **given}
    topics = {**defaults, **from_kafka({OF_BROKER[name]: text for name, text in texts.items() if name in OF_BROKER})}
    for name in CONSUMER_GROUPS:
        if name in given:
            check(name, Setting(INT, None, "", 1), given[name])
    groups = {ours: _count(name, given[name]) for name, ours in GROUPS.items() if name in given}
    bounds = {ours: _count(name, given[name], _LEAST_BOUND) for name, ours in BOUNDS.items() if name in given}
    partitions = _count(PARTITIONS, given.get(PARTITIONS, "1"), 1, MAX_PARTITIONS)
    return BrokerConfig(topics, partitions, groups, dict(given), bounds)


def _in_milliseconds(given: Mapping[str, str]) -> dict[str, str]:
    """What settings in other units say in milliseconds; the smallest unit goes before."""
    found: dict[str, str] = {}
    for name in reversed([*_UNITS]):
        if name in given:
            of, unit = _UNITS[name]
            number = check(name, Setting(INT, None, "", -1), given[name])
            found[of] = str(number * unit if number > 0 else number)
    return found


def _count(name: str, text: str, least: int = 0, most: int = _MAX_LONG) -> int:
    try:
        number = int(text)
    except ValueError:
        raise ConfigError(f"{name}={text!r} is not a number from {least} on.", name=name) from None
    return integer(name, number, least, most)
