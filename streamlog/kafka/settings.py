"""The settings of topics, and of a broker as far as a listener has them, under Kafka's names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..broker.controller import GROUPS_TOPIC, TRANSACTIONS_TOPIC
from ..config import TopicConfig, integer
from ..errors import ConfigError, did_you_mean

KAFKA_DEFAULTS: Mapping[str, Any] = {"partitioner": "murmur2", "retention_ms": 604_800_000}
"""What topics have that are made through a listener, unless the client, or the listener's settings, say otherwise."""
INTERNAL_TOPICS = (GROUPS_TOPIC, TRANSACTIONS_TOPIC)


def _flag(text: str) -> bool:
    return {"true": True, "false": False}[text.strip().lower()]


def _policies(text: str) -> str:
    """Kafka's list, in any order and with spaces, as ours has it."""
    return ",".join(sorted({each.strip() for each in text.split(",")}))


_TOPIC: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "cleanup.policy": ("cleanup_policy", _policies),
    "compression.type": ("compression_type", str),
    "delete.retention.ms": ("delete_retention_ms", int),
    "max.message.bytes": ("max_message_bytes", int),
    "message.timestamp.after.max.ms": ("message_timestamp_after_max_ms", int),
    "message.timestamp.type": ("message_timestamp_type", str),
    "min.cleanable.dirty.ratio": ("min_cleanable_dirty_ratio", float),
    "min.compaction.lag.ms": ("min_compaction_lag_ms", int),
    "min.insync.replicas": ("min_insync_replicas", int),
    "retention.bytes": ("retention_bytes", int),
    "retention.ms": ("retention_ms", int),
    "segment.bytes": ("segment_bytes", int),
    "segment.ms": ("segment_ms", int),
    "unclean.leader.election.enable": ("unclean_leader_election", _flag),
}


BOOLEAN, STRING, INT, LONG, DOUBLE, LIST = 1, 2, 3, 5, 6, 7
_TYPES = {_flag: BOOLEAN, str: STRING, int: LONG, float: DOUBLE, _policies: LIST}
_INTS = ("max.message.bytes", "min.insync.replicas", "segment.bytes")
_WEEK_MS = 604_800_000


def type_of(name: str) -> int:
    """The type of a setting of topics, or of a broker, as DescribeConfigs has it."""
    name = _OF_BROKER.get(name, name)
    return INT if name in _INTS or name not in _TOPIC else _TYPES[_TOPIC[name][1]]


def to_kafka(config: TopicConfig) -> dict[str, str]:
    """All settings of a topic as Kafka's text."""
    return {name: _as_text(ours, getattr(config, ours)) for name, (ours, _) in _TOPIC.items()}


def _as_text(name: str, value: Any) -> str:
    if name == "segment_bytes" and not value:  # unset: the library's depends on the retention
        return str(1 << 30)
    if name == "segment_ms" and not value:
        return str(_WEEK_MS)
    return str(value).lower() if isinstance(value, bool) else str(value)


def of_broker(config: TopicConfig) -> dict[str, str]:
    """The settings of a broker whose topics have this configuration."""
    topic = to_kafka(config)
    return {name: topic[each] for name, each in _OF_BROKER.items()}


# What a broker's setting is for the topics that are made without one of their own.
_OF_BROKER: Mapping[str, str] = {
    "compression.type": "compression.type",
    "log.cleaner.delete.retention.ms": "delete.retention.ms",
    "log.cleaner.min.cleanable.ratio": "min.cleanable.dirty.ratio",
    "log.cleaner.min.compaction.lag.ms": "min.compaction.lag.ms",
    "log.cleanup.policy": "cleanup.policy",
    "log.message.timestamp.after.max.ms": "message.timestamp.after.max.ms",
    "log.message.timestamp.type": "message.timestamp.type",
    "log.retention.bytes": "retention.bytes",
    "log.retention.ms": "retention.ms",
    "log.roll.ms": "segment.ms",
    "log.segment.bytes": "segment.bytes",
    "message.max.bytes": "max.message.bytes",
    "min.insync.replicas": "min.insync.replicas",
    "unclean.leader.election.enable": "unclean.leader.election.enable",
}
_PARTITIONS = "num.partitions"
_GROUPS = {
    "group.initial.rebalance.delay.ms": "initial_rebalance_delay_ms",
    "group.max.session.timeout.ms": "max_session_timeout_ms",
    "group.max.size": "max_size",
    "group.min.session.timeout.ms": "min_session_timeout_ms",
}


class BrokerConfig(NamedTuple):
    """A broker's settings by what they are for: topics that are made, their number of partitions, and classic groups."""

    topics: Mapping[str, Any]
    partitions: int
    groups: Mapping[str, int]


def broker_config(given: Mapping[str, str], defaults: Mapping[str, Any]) -> BrokerConfig:
    """`defaults`: the settings of topics, by the library's names, where `given` says nothing. Raises ConfigError."""
    known = [*_OF_BROKER, _PARTITIONS, *_GROUPS]
    for name in given:
        if name not in known:
            raise ConfigError(f"There is no setting {name!r} of a broker here{did_you_mean(name, known)}.", name=name)
    topics = {**defaults, **from_kafka({_OF_BROKER[name]: text for name, text in given.items() if name in _OF_BROKER})}
    groups = {ours: _count(name, given[name]) for name, ours in _GROUPS.items() if name in given}
    return BrokerConfig(topics, _count(_PARTITIONS, given.get(_PARTITIONS, "1")), groups)


def _count(name: str, text: str) -> int:
    try:
        return integer(name, int(text), 0)
    except ValueError:
        raise ConfigError(f"{name}={text!r} is not a number from 0 on.", name=name) from None


def from_kafka(given: Mapping[str, str | None]) -> dict[str, Any]:
    """The library's settings for Kafka's, each of which is text. None is the default. Raises ConfigError."""
    found: dict[str, Any] = {}
    for name, text in given.items():
        known = _TOPIC.get(name)
        if known is None:
            raise ConfigError(f"There is no setting {name!r} of a topic{did_you_mean(name, _TOPIC)}.", name=name)
        if text is None:
            continue
        ours, parse = known
        try:
            found[ours] = parse(text)
        except (ValueError, KeyError):
            raise ConfigError(f"{name}={text!r} is not a value of that setting.", name=name) from None
    return found
