"""The settings of groups (KIP-848, KIP-932, KIP-1071), under Kafka's names: those of members of the consumer group protocol take effect.

A group has what clients set for it, else what the listener was given, else the default. What the library has no mechanism for, share
and streams groups above all, is checked, kept and given back.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..broker.metadata import GROUP_CONFIG, Image
from ..errors import ConfigError, did_you_mean
from . import settings
from .apis import Settings
from .settings import BOOLEAN, INT, LIST, STRING, Setting

SESSION_MS, HEARTBEAT_MS = "consumer.session.timeout.ms", "consumer.heartbeat.interval.ms"
_BOUNDED = {  # each by two settings of the broker
    SESSION_MS: ("group.consumer.min.session.timeout.ms", "group.consumer.max.session.timeout.ms"),
    HEARTBEAT_MS: ("group.consumer.min.heartbeat.interval.ms", "group.consumer.max.heartbeat.interval.ms"),
}
OWN_HEARTBEAT_MS = 500
"""Kafka's is 5 s. A partition moves when its owner's next heartbeat has released it, so tests would wait for that."""
_SHOWN = 200  # characters of a name, in a message


_IN_EFFECT: dict[str, Setting] = {
    HEARTBEAT_MS: Setting(
        INT, str(OWN_HEARTBEAT_MS), "How often a member of the consumer group protocol sends heartbeats: it is told with each.", 1,
        broker="group.consumer.heartbeat.interval.ms", by_listener=True,
    ),
    SESSION_MS: Setting(
        INT, "45000", "How long after its last heartbeat a member of the consumer group protocol is removed.", 1,
        broker="group.consumer.session.timeout.ms", by_listener=True,
    ),
}  # fmt: skip
_SESSION = "How long after its last heartbeat a member of a {} group is removed."
_HEARTBEATS = "How often a member of a {} group sends heartbeats."
_ASSIGNMENTS = "How long after an assignment of a {} group the next one is made at the earliest."
KNOWN: Mapping[str, Setting] = _IN_EFFECT | {
    name: Setting(kind, default, about, low, choices=choices, broker=broker or name)
    for name, kind, default, about, low, choices, broker in (
        ("consumer.assignment.interval.ms", INT, "1000", _ASSIGNMENTS.format("consumer"), 0, (), "group.consumer.assignment.interval.ms"),
        ("errors.deadletterqueue.copy.record.enable", BOOLEAN, "false", "Whether a share group's dead letters have the records.", None, (), ""),
        ("errors.deadletterqueue.topic.name", STRING, "", "Where a share group's dead letters go.", None, (), ""),
        ("share.assignment.interval.ms", INT, "1000", _ASSIGNMENTS.format("share"), 0, (), "group.share.assignment.interval.ms"),
        ("share.auto.offset.reset", STRING, "latest", "Where a share group begins to read.", None, (), ""),
        ("share.delivery.count.limit", INT, "5", "How often a share group delivers a record at most.", 2, (), "group.share.delivery.count.limit"),
        ("share.heartbeat.interval.ms", INT, "5000", _HEARTBEATS.format("share"), 1, (), "group.share.heartbeat.interval.ms"),
        (
            "share.isolation.level", STRING, "read_uncommitted", "Which records of transactions a share group reads.", None,
            ("read_committed", "read_uncommitted"), "",
        ),
        (
            "share.partition.max.record.locks", INT, "2000", "How many records of a partition a share group works on at most.", 100,
            (), "group.share.partition.max.record.locks",
        ),
        (
            "share.record.lock.duration.ms", INT, "30000", "How long a member of a share group has a record.", 1000, (),
            "group.share.record.lock.duration.ms",
        ),
        ("share.renew.acknowledge.enable", BOOLEAN, "true", "Whether a member of a share group may keep a record longer.", None, (), ""),
        ("share.session.timeout.ms", INT, "45000", _SESSION.format("share"), 1, (), "group.share.session.timeout.ms"),
        ("streams.assignment.interval.ms", INT, "1000", _ASSIGNMENTS.format("streams"), 0, (), "group.streams.assignment.interval.ms"),
        ("streams.assignor.name", STRING, "sticky", "How a streams group assigns.", None, (), "group.streams.assignors"),
        ("streams.heartbeat.interval.ms", INT, "5000", _HEARTBEATS.format("streams"), 1, (), "group.streams.heartbeat.interval.ms"),
        (
            "streams.initial.rebalance.delay.ms", INT, "3000", "How long the first members of a streams group wait for others.", 0,
            (), "group.streams.initial.rebalance.delay.ms",
        ),
        ("streams.num.standby.replicas", INT, "0", "How many copies of its state a streams group has.", 0, (), "group.streams.num.standby.replicas"),
        (
            "streams.rack.aware.assignment.tags", LIST, "", "By which tags a streams group spreads its copies.", None, (),
            "group.streams.rack.aware.assignment.tags",
        ),
        ("streams.session.timeout.ms", INT, "45000", _SESSION.format("streams"), 1, (), "group.streams.session.timeout.ms"),
    )
}  # fmt: skip


def setting(name: str) -> Setting:
    """Raises ConfigError for a setting that groups do not have."""
    known = KNOWN.get(name)
    if known is None:
        shown = name[:_SHOWN]
        raise ConfigError(f"Unknown group config name: {shown}{did_you_mean(shown, KNOWN)}", name=name)
    return known


def given(image: Image, group: str) -> Mapping[str, str]:
    """What clients have set for a group."""
    return image.kafka_configs.get((GROUP_CONFIG, group), {})


def of_broker(name: str, listener: Settings) -> str:
    """What a group has that nothing is set for."""
    known = KNOWN[name]
    return str(listener.broker_config.get(known.broker, known.default))


def number(image: Image, listener: Settings, group: str, name: str) -> int:
    """A setting of a group, in milliseconds."""
    return int(given(image, group).get(name) or of_broker(name, listener))


def check(texts: Mapping[str, str], listener: Settings) -> None:
    """Raises ConfigError for settings that a group cannot have."""
    for name, text in texts.items():
        value = settings.check(name, setting(name), text)
        if name in _BOUNDED:
            low, high = (
                int(listener.broker_config.get(bound, settings.CONSUMER_GROUPS[bound])) for bound in _BOUNDED[name]
            )
            if not low <= value <= high:
                raise ConfigError(f"{name} must be in the range {low} to {high} inclusive.", name=name)
