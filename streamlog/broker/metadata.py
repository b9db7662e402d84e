"""Topics, brokers and leaders: an image made by replaying the records of the metadata log.

Keys are msgpack arrays that begin with a kind, values msgpack maps; None is a tombstone. A key's last record says
everything about it, so the log can be compacted like any other. (So a change of a leader is a whole partition record, and
not one with the changed fields alone, like KRaft's PartitionChangeRecord.)

    ["topic", name]        id (16 bytes), partitions, internal, config (a map of TopicConfig's fields), explicit, and
                           kafka_config, as far as there is any; see TopicView
    ["producer_ids", ""]   next: the first producer id that was not handed out
    ["broker_ids", ""]     next: the first broker id that no broker ever had
    ["config", kind, name] v, texts: the settings that Kafka's clients gave for a group
    ["broker", id]         v, incarnation_id (16 bytes), epoch, rack, fenced, directory_id, path, retiring
    ["partition", topic id (16 bytes), number]
                           v, replicas, isr, leader, leader_epoch, partition_epoch; while it is reassigned also
                           adding_replicas and removing_replicas, as far as there are any

`v` is the version of the record's form. A partition without a record is led by broker 0 alone, in epoch 0, so a log of one
broker has none. The record of a partition may come before that of its topic, which may have changed since.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

import msgpack

from ..config import TopicConfig, check_partitions, check_topic_name
from ..errors import FormatError
from ..replication.replica_set import ALONE, NO_LEADER, PartitionRegistration

LogRecord = tuple[bytes, bytes | None]
_VERSION = 0
_REASSIGNING = ("adding_replicas", "removing_replicas")
_UNUSUAL = ("directory_id", "path", "retiring")
_CONFIG_FIELDS = frozenset(f.name for f in dataclasses.fields(TopicConfig))
_USUAL = TopicConfig()


class TopicIdPartition(NamedTuple):
    """One partition of this very topic, not of another one under its name (KIP-516)."""

    topic: str
    partition: int
    topic_id: bytes


class TopicView(NamedTuple):
    """A topic at one moment.

    `explicit`: which fields of `config` were given for this topic; the others have what topics had by themselves when it was
    created. `kafka_config`: settings as Kafka's clients gave them, by Kafka's names: those that `config` has no field for, and
    the others as they were written. The text of one that has another value in `config` by now is out of date. Only a listener looks
    at these two.
    """

    name: str
    id: UUID
    id_bytes: bytes
    partitions: int
    config: TopicConfig
    internal: bool
    explicit: frozenset[str] = frozenset()
    kafka_config: Mapping[str, str] = MappingProxyType({})

    def partition(self, number: int) -> TopicIdPartition:
        return TopicIdPartition(self.name, number, self.id_bytes)


class NewTopic(NamedTuple):
    """What a topic would be made with."""

    partitions: int
    replication_factor: int
    config: TopicConfig


class KafkaConfig(NamedTuple):
    """What a listener gives beside the values of a topic's settings: which of them are explicit, and their texts; see `TopicView`.

    A text that is None is removed.
    """

    explicit: frozenset[str] = frozenset()
    texts: Mapping[str, str | None] = MappingProxyType({})

    def over(self, before: Mapping[str, str]) -> dict[str, str]:
        """The texts of a topic that had those `before`."""
        return {name: text for name, text in {**before, **self.texts}.items() if text is not None}


RUN_ID_BYTES = 8
"""How long the id of a run of the log is, with which the `incarnation_id` of each broker begins that registers in it."""


class BrokerRegistration(NamedTuple):
    """A broker as it registered (KRaft's RegisterBrokerRecord). `incarnation_id` names one run of it; `epoch` grows with each
    registration; a `fenced` broker leads nothing, and its copy of the metadata log does not count.

    `directory_id` is that of its owner file, in which `path` it was last: absolute, or a name in the log's own directory. Both
    are empty if they are not known. One that is `retiring` gets no replicas, and is unregistered when it has none left.
    """

    id: int
    incarnation_id: bytes
    epoch: int
    rack: str | None = None
    fenced: bool = False
    directory_id: str = ""
    path: str = ""
    retiring: bool = False


class Image(NamedTuple):
    """All topics at one moment, by name, and the names by id; immutable, replaced whole. `version` counts the changes.

    `partitions` has what is recorded of the partitions of a topic, by its id and their numbers. A change copies the dicts:
    30 µs with 5,000 topics, a tenth of what creating one costs.
    """

    version: int
    topics: Mapping[str, TopicView]
    names: Mapping[bytes, str]
    next_producer_id: int = 0
    brokers: Mapping[int, BrokerRegistration] = MappingProxyType({})
    partitions: Mapping[bytes, Mapping[int, PartitionRegistration]] = MappingProxyType({})
    broker_ids: int = 0
    """Each id that a broker had which is gone is below this one."""
    kafka_configs: Mapping[tuple[str, str], Mapping[str, str]] = MappingProxyType({})
    """What Kafka's clients set for a group, a broker or a subscription to clients' metrics, by kind and name. Only a listener looks at it; see `TopicView` for topics."""

    @property
    def next_broker_id(self) -> int:
        """An id that no broker ever had: a directory that is left of one is not taken for another's."""
        return max(self.broker_ids, 1 + max(self.brokers, default=-1))

    def partition(self, topic_id: bytes, number: int) -> PartitionRegistration:
        """The replicas and the leader of a partition of this topic."""
        recorded = self.partitions.get(topic_id)
        return ALONE if recorded is None else recorded.get(number, ALONE)

    @property
    def copies(self) -> frozenset[int]:
        """The brokers that have a copy of the metadata log: a change is in force when at least half of them have it."""
        return frozenset(broker.id for broker in self.brokers.values() if not broker.fenced)


EMPTY = Image(0, {}, {})


def topic_key(name: str) -> bytes:
    key: bytes = msgpack.packb(["topic", name])
    return key


def producer_ids_record(next_producer_id: int) -> LogRecord:
    key: bytes = msgpack.packb(["producer_ids", ""])
    value: bytes = msgpack.packb({"next": next_producer_id})
    return key, value


def broker_ids_record(next_broker_id: int) -> LogRecord:
    key: bytes = msgpack.packb(["broker_ids", ""])
    value: bytes = msgpack.packb({"next": next_broker_id})
    return key, value


GROUP_CONFIG, BROKER_CONFIG, CLIENT_METRICS_CONFIG = "group", "broker", "client_metrics"
"""The kinds of `Image.kafka_configs`. A broker's name is its id; the empty name is that of all brokers."""


def config_record(kind: str, name: str, texts: Mapping[str, str]) -> LogRecord:
    key: bytes = msgpack.packb(["config", kind, name])
    return key, msgpack.packb({"v": _VERSION, "texts": dict(sorted(texts.items()))}) if texts else None


def broker_key(broker_id: int) -> bytes:
    key: bytes = msgpack.packb(["broker", broker_id])
    return key


def broker_record(broker: BrokerRegistration) -> LogRecord:
    fields = {name: value for name, value in broker._asdict().items() if value or name not in _UNUSUAL}
    return broker_key(fields.pop("id")), msgpack.packb({"v": _VERSION, **fields})


def fenced_in(records: Iterable[LogRecord]) -> dict[int, bool]:
    """The brokers that these records are about, and whether each is fenced after them."""
    named = [(*msgpack.unpackb(key)[:2], value) for key, value in records]
    return {
        number: bool(msgpack.unpackb(value)["fenced"])
        for kind, number, value in named
        if kind == "broker" and value is not None
    }


def partition_key(topic_id: bytes, number: int) -> bytes:
    key: bytes = msgpack.packb(["partition", topic_id, number])
    return key


def partition_record(topic_id: bytes, number: int, partition: PartitionRegistration) -> LogRecord:
    fields = {name: value for name, value in partition._asdict().items() if value or name not in _REASSIGNING}
    return partition_key(topic_id, number), msgpack.packb({"v": _VERSION, **fields})


def topic_of(image: Image, key: bytes) -> str:
    """The name of the topic that the record of a key is about; empty if it is about none."""
    kind, name, *_ = msgpack.unpackb(key)
    if kind == "topic":
        return str(name)
    return image.names.get(name, "") if kind == "partition" else ""


def topic_record(view: TopicView) -> LogRecord:
    fields: dict[str, Any] = {
        "id": view.id_bytes,
        "partitions": view.partitions,
        "internal": view.internal,
        "config": dataclasses.asdict(view.config),
        "explicit": sorted(view.explicit),
    }
    if view.kafka_config:
        fields["kafka_config"] = dict(sorted(view.kafka_config.items()))
    return topic_key(view.name), msgpack.packb(fields)


def view_of(name: str, topic_id: UUID, partitions: int, config: TopicConfig, internal: bool) -> TopicView:
    return TopicView(name, topic_id, topic_id.bytes, partitions, config, internal, unusual(config))


def unusual(config: TopicConfig) -> frozenset[str]:
    """The fields that do not have the library's defaults."""
    return frozenset(name for name in _CONFIG_FIELDS if getattr(config, name) != getattr(_USUAL, name))


def replay(image: Image, records: Iterable[LogRecord], version: int = 0) -> Image:
    """The image after `records`, newer than `version`. Raises FormatError for a record it does not understand."""
    delta = _MetadataDelta(image)
    version = max(image.version, version)
    for key, value in records:
        version += 1
        try:
            delta.replay(key, value)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise FormatError(
                f"The metadata record of key {key!r} makes no sense: {error or type(error).__name__}."
            ) from error
    return delta.image(version)


class _MetadataDelta:
    """An image while records are replayed over it."""

    def __init__(self, image: Image) -> None:
        self._topics = dict(image.topics)
        self._names = dict(image.names)
        self._next_producer_id = image.next_producer_id
        self._brokers = dict(image.brokers)
        self._broker_ids = image.broker_ids
        self._kafka_configs = dict(image.kafka_configs)
        self._partitions: dict[bytes, Mapping[int, PartitionRegistration]] = dict(image.partitions)
        self._changed: dict[bytes, dict[int, PartitionRegistration]] = {}
        """Those of `_partitions` that are this delta's own: a topic's are copied at its first record, not at each."""

    def image(self, version: int) -> Image:
        return Image(
            version,
            self._topics,
            self._names,
            self._next_producer_id,
            self._brokers,
            self._partitions,
            self._broker_ids,
            self._kafka_configs,
        )

    def replay(self, key: bytes, value: bytes | None) -> None:
        kind, *names = msgpack.unpackb(key)
        if kind == "topic":
            self._replay_topic(value, *names)
        elif kind == "partition":
            self._replay_partition(value, *names)
        elif kind == "broker":
            self._replay_broker(value, *names)
        elif kind == "producer_ids":
            self._next_producer_id = 0 if value is None else int(msgpack.unpackb(value)["next"])
        elif kind == "broker_ids":
            self._broker_ids = 0 if value is None else int(msgpack.unpackb(value)["next"])
        elif kind == "config":
            self._replay_config(value, *names)
        else:
            raise FormatError(f"The metadata log has a record of kind {kind!r}; open it with a newer streamlog.")

    def _replay_topic(self, value: bytes | None, name: str) -> None:
        view = None if value is None else _parse_topic(name, value)
        before = self._topics.get(name)
        if before is not None and (
            view is None or before.id_bytes != view.id_bytes
        ):  # a tombstone may be compacted away
            del self._topics[name]
            del self._names[before.id_bytes]
            self._forget_partitions(before.id_bytes)
        if view is not None:
            self._topics[name] = view
            self._names[view.id_bytes] = name

    def _replay_config(self, value: bytes | None, kind: str, name: str) -> None:
        if value is None:
            self._kafka_configs.pop((kind, name), None)
        else:
            self._kafka_configs[kind, name] = MappingProxyType(_parse(value, _Config)["texts"])

    def _replay_partition(self, value: bytes | None, topic_id: bytes, number: int) -> None:
        partitions = self._changed.get(topic_id)
        if partitions is None:
            partitions = self._changed[topic_id] = dict(self._partitions.get(topic_id, {}))
        if value is None:
            partitions.pop(number, None)
        else:
            partitions[number] = _parse_partition(value, partitions.get(number, ALONE))
        if partitions:
            self._partitions[topic_id] = partitions
        else:
            self._forget_partitions(topic_id)

    def _forget_partitions(self, topic_id: bytes) -> None:
        self._partitions.pop(topic_id, None)
        self._changed.pop(topic_id, None)

    def _replay_broker(self, value: bytes | None, broker_id: int) -> None:
        if value is None:
            self._brokers.pop(broker_id, None)
            return
        fields = _parse(value, BrokerRegistration)
        broker = BrokerRegistration(id=broker_id, **fields)
        known = self._brokers.get(broker_id)
        if known is not None and broker.epoch <= known.epoch:
            raise ValueError(f"the epoch of broker {broker_id} goes back from {known.epoch} to {broker.epoch}")
        self._brokers[broker_id] = broker


class _Config(NamedTuple):
    """The form of a record of `kafka_configs`."""

    texts: Mapping[str, str]


def _parse(value: bytes, kind: type[NamedTuple]) -> dict[str, Any]:
    """The fields of a versioned record."""
    fields: dict[str, Any] = msgpack.unpackb(value)
    if fields.pop("v") > _VERSION or set(fields) - set(kind._fields):
        raise FormatError(f"The metadata log has a {kind.__name__} of a newer form; open it with a newer streamlog.")
    return fields


def _parse_partition(value: bytes, before: PartitionRegistration) -> PartitionRegistration:
    fields = _parse(value, PartitionRegistration)
    lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    partition = PartitionRegistration(**{**fields, **lists})
    replicas, isr = set(partition.replicas), set(partition.isr)
    moving = [*partition.adding_replicas, *partition.removing_replicas]
    if not replicas.issuperset(moving) or len(set(moving)) != len(moving):
        raise ValueError(f"the replicas {moving} that are added or removed are not some of {partition.replicas}")
    if not isr <= replicas or len(replicas) != len(partition.replicas) or len(isr) != len(partition.isr):
        raise ValueError(f"the in-sync set {partition.isr} is not one of the replicas {partition.replicas}")
    if partition.leader != NO_LEADER and partition.leader not in isr:
        raise ValueError(f"the leader {partition.leader} is not in the in-sync set {partition.isr}")
    if partition.leader_epoch < before.leader_epoch or partition.partition_epoch < before.partition_epoch:
        raise ValueError(f"the epochs of a partition go back from {before} to {partition}")
    return partition


def _parse_topic(name: str, value: bytes) -> TopicView:
    fields: dict[str, Any] = msgpack.unpackb(value)
    unknown = set(fields["config"]) - _CONFIG_FIELDS
    if unknown:
        raise FormatError(
            f"Topic {name!r} has settings this streamlog does not know ({', '.join(sorted(unknown))}); "
            f"open the log with a newer streamlog."
        )
    check_topic_name(name)
    count = check_partitions(fields["partitions"])
    config = TopicConfig(**fields["config"])
    view = view_of(name, UUID(bytes=fields["id"]), count, config, bool(fields["internal"]))
    explicit = fields.get("explicit")  # absent in logs of the first versions
    return view._replace(
        explicit=view.explicit if explicit is None else frozenset(explicit),
        kafka_config=MappingProxyType(fields.get("kafka_config", {})),
    )
