"""The settings of brokers, under Kafka's names: what they are, where each comes from, and which of them clients can change.

A broker has what clients have set for it (DYNAMIC_BROKER_CONFIG), else what they have set for all brokers, which is the resource
without a name (DYNAMIC_DEFAULT_BROKER_CONFIG), else what the listener was given (STATIC_BROKER_CONFIG), else Kafka's default.

What topics have by default can be changed, and what else Kafka 4.4 can change while it runs, but for its security and its sockets. A
default takes effect for the topics that are made from then on, at the broker that makes them: a topic keeps what it was made with.
`log.message.timestamp.before.max.ms` is the listener's, and takes effect at once for topics without their own. Other settings are checked, kept
and given back, and have no effect. A name that Kafka does not know is kept too: as in Kafka, its value is not given back, for it
may be a secret.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..broker.metadata import BROKER_CONFIG, Image
from ..config import TopicConfig
from ..errors import ConfigError
from ..runtime.sockets import authority
from . import settings
from .apis import Call, Endpoint, Settings
from .settings import (
    BOOLEAN,
    DEFAULT,
    DOUBLE,
    INT,
    INTERNAL_SEGMENT_BYTES,
    LIST,
    LONG,
    OF_ALL_BROKERS,
    OF_BROKER_ITSELF,
    OF_STATIC_BROKER,
    STRING,
    Described,
    Setting,
    Synonym,
)
from .static_settings import STATIC

_MOST_BYTES = 1 << 18
"""How long the names and values of the settings of a broker may be together: they are one record of the metadata log."""
_MOST_OF_NAME = 1024  # bytes
_SHOWN = 200  # characters of what a client gave, in a message
_MOST_INT, _MOST_LONG = str((1 << 31) - 1), str((1 << 63) - 1)
_RATE = "How many bytes in a second {}."
_THREADS = "How many threads {}."
_PAUSE = "How long after an assignment of a {} group the next one is made at the earliest."
_BUFFER = "How large a buffer the coordinator of {} groups keeps for its next records."

_OTHERS: Mapping[str, Setting] = {
    name: Setting(kind, default, about, low)
    for name, kind, default, low, about in (
        ("background.threads", INT, "10", 1, _THREADS.format("do background work")),
        ("errors.deadletterqueue.auto.create.topics.enable", BOOLEAN, "false", None, "Whether topics for the dead letters of share groups are created."),
        ("errors.deadletterqueue.topic.name.prefix", STRING, "dlq.", None, "How the names of topics for dead letters begin."),
        ("follower.fetch.last.tiered.offset.enable", BOOLEAN, "false", None, "Whether a follower begins where a tiered log ends."),
        ("follower.replication.throttled.rate", LONG, None, 0, _RATE.format("a broker fetches for throttled replicas")),
        ("group.consumer.assignment.interval.ms", INT, "1000", 0, _PAUSE.format("consumer")),
        ("group.coordinator.cached.buffer.max.bytes", INT, "1048588", 524_288, _BUFFER.format("consumer")),
        ("group.share.assignment.interval.ms", INT, "1000", 0, _PAUSE.format("share")),
        ("group.streams.assignment.interval.ms", INT, "1000", 0, _PAUSE.format("streams")),
        ("leader.replication.throttled.rate", LONG, None, 0, _RATE.format("a broker sends for throttled replicas")),
        ("log.cleaner.backoff.ms", LONG, "15000", 0, "How long compaction pauses where there is nothing to compact."),
        ("log.cleaner.dedupe.buffer.size", LONG, "134217728", 1 << 20, "How much memory compaction has for the keys."),
        ("log.cleaner.io.buffer.load.factor", DOUBLE, "0.9", None, "How full compaction's memory for the keys gets."),
        ("log.cleaner.io.buffer.size", INT, "524288", 0, "How much memory compaction has for reading and writing."),
        ("log.cleaner.io.max.bytes.per.second", DOUBLE, "1.7976931348623157E308", None, _RATE.format("compaction reads and writes")),
        ("log.cleaner.threads", INT, "1", 1, _THREADS.format("compact")),
        ("max.connection.creation.rate", INT, _MOST_INT, 1, "How many connections in a second are accepted."),
        ("max.connections", INT, _MOST_INT, 1, "How many connections there are at most."),
        ("max.connections.per.ip", INT, _MOST_INT, 1, "How many connections there are from one address at most."),
        ("max.connections.per.ip.overrides", STRING, "", None, "How many there are from some addresses: address:number, …"),
        ("num.io.threads", INT, "8", 1, _THREADS.format("answer requests")),
        ("num.network.threads", INT, "3", 1, _THREADS.format("receive requests and send responses")),
        ("num.recovery.threads.per.data.dir", INT, "2", 1, _THREADS.format("recover the logs of a directory")),
        ("num.replica.fetchers", INT, "1", 1, _THREADS.format("fetch from each other broker")),
        ("producer.id.expiration.ms", INT, "86400000", 1, "How long a log knows of a producer that writes no more."),
        ("remote.fetch.max.wait.ms", INT, "500", 1, "How long a fetch waits for a tiered log."),
        ("remote.list.offsets.request.timeout.ms", LONG, "30000", 1, "How long a request for offsets waits for a tiered log."),
        ("remote.log.index.file.cache.total.size.bytes", LONG, "1073741824", 1, "How much of the indexes of tiered logs is kept here."),
        ("remote.log.manager.copier.thread.pool.size", INT, "10", 1, _THREADS.format("copy tiered logs")),
        ("remote.log.manager.copy.max.bytes.per.second", LONG, _MOST_LONG, 1, _RATE.format("are copied of tiered logs")),
        ("remote.log.manager.expiration.thread.pool.size", INT, "10", 1, _THREADS.format("delete of tiered logs")),
        ("remote.log.manager.fetch.max.bytes.per.second", LONG, _MOST_LONG, 1, _RATE.format("are fetched of tiered logs")),
        ("remote.log.manager.follower.thread.pool.size", INT, "2", 1, _THREADS.format("follow tiered logs")),
        ("remote.log.reader.threads", INT, "10", 1, _THREADS.format("read tiered logs")),
        ("replica.alter.log.dirs.io.max.bytes.per.second", LONG, None, 0, _RATE.format("move from one directory of a broker to another")),
        ("transaction.partition.verification.enable", BOOLEAN, "true", None, "Whether a partition of a transaction is asked for at its coordinator."),
    )
}  # fmt: skip
"""What Kafka changes while it runs besides the defaults of topics; the library has no setting for them."""
DYNAMIC: Mapping[str, Setting] = {
    **{name: settings.TOPIC[of] for name, of in settings.OF_BROKER.items() if name != INTERNAL_SEGMENT_BYTES},
    **_OTHERS,
}
_BOUNDS = {
    "queued.max.request.bytes": ("-1", "How many bytes of requests and answers are in memory at most."),
    "socket.request.max.bytes": ("104857600", "How large a request may be."),
}
_UNKNOWN = Setting(0, None, "Kafka does not know this setting.")


# -- what is given, and what is in effect ----------------------------------------------------------------


def given(image: Image, broker: str) -> Mapping[str, str]:
    """What clients have set for the broker of this id, or for all of them (the empty id)."""
    return image.kafka_configs.get((BROKER_CONFIG, broker), {})


def topic_defaults(listener: Settings) -> Mapping[str, Any]:
    """The settings, by the library's names, of topics that are made now where nothing else is said."""
    fields = {
        settings.TOPIC[of].field: settings.value_of(of, text)
        for name, text in _in_effect(listener).items()
        if (of := _of_topic(name)) and settings.TOPIC[of].field
    }
    return {**listener.topic_defaults, **fields}


def _in_effect(listener: Settings) -> Mapping[str, str]:
    return {**listener.of_all_brokers, **listener.of_broker}


def _of_topic(name: str) -> str | None:
    return settings.OF_BROKER.get(name) if name in DYNAMIC else None


def text_of(name: str, listener: Settings) -> str | None:
    """A setting as it was given; None if it was not."""
    for texts in (listener.of_broker, listener.of_all_brokers, listener.broker_config):
        if name in texts:
            return texts[name]
    return None


# -- changing --------------------------------------------------------------------------------------------


def setting(name: str) -> Setting:
    """Raises ConfigError for one that is not known, or not to be changed."""
    known = DYNAMIC.get(name)
    if known is None:
        raise ConfigError(f"Unknown config name: {name[:_SHOWN]}", name=name)
    return known


def default(name: str) -> str:
    return DYNAMIC[name].default or ""


def check(texts: Mapping[str, str]) -> None:
    """Raises ConfigError for settings that clients cannot give a broker."""
    static = sorted(name for name in texts if name in STATIC)
    if static:
        raise ConfigError(f"Cannot update these configs dynamically: {static}", name=static[0])
    if sum(len(name.encode()) + len(text.encode()) for name, text in texts.items()) > _MOST_BYTES:
        raise ConfigError(f"The settings of a broker have more than {_MOST_BYTES:,} bytes together.", name="")
    for name, text in texts.items():
        if name in DYNAMIC:
            settings.check(name, DYNAMIC[name], text)
        elif len(name.encode()) > _MOST_OF_NAME:
            raise ConfigError(f"The name of a setting has more than {_MOST_OF_NAME:,} bytes.", name="")


# -- where a setting comes from --------------------------------------------------------------------------


def of_topic(name: str, setting: Setting, listener: Settings, usual: TopicConfig) -> list[Synonym]:
    """What a topic has that is made through the listener without this setting: the broker's, the one that counts first.

    `usual`: the defaults that the listener was made with.
    """
    broker = setting.broker
    chain = changed(broker, listener) if broker in DYNAMIC else []
    if broker in listener.broker_config:
        chain.append((broker, listener.broker_config[broker], OF_STATIC_BROKER))
    elif setting.field and name != INTERNAL_SEGMENT_BYTES:
        made_with = settings.to_kafka(name, usual)
        if made_with != setting.default:  # in another unit, say
            chain.append((broker, made_with, OF_STATIC_BROKER))
    if broker and settings.has_default(broker):
        chain.append((broker, setting.default, DEFAULT))
    units = settings.UNITS_OF.get(broker, ()) if chain else ()
    chain += [
        (each, listener.broker_config[each], OF_STATIC_BROKER) for each in units if each in listener.broker_config
    ]
    chain += [(each, text, DEFAULT) for each in units if (text := settings.OTHER_UNITS[each]) is not None]
    return chain


def changed(name: str, listener: Settings) -> list[Synonym]:
    """What clients have set."""
    given = (listener.of_broker, OF_BROKER_ITSELF), (listener.of_all_brokers, OF_ALL_BROKERS)
    return [(name, texts[name], source) for texts, source in given if name in texts]


# -- describing ------------------------------------------------------------------------------------------


def of_all(call: Call) -> Iterator[tuple[Described, Setting]]:
    """What clients have set for all brokers, and nothing else."""
    for name, text in given(call.service.image, "").items():
        if name in DYNAMIC:
            yield _dynamic(name, [(name, text, OF_ALL_BROKERS)])
        else:
            yield _unknown(name, [OF_ALL_BROKERS])


def described(call: Call, at: Endpoint) -> Iterator[tuple[Described, Setting]]:
    """All settings of a broker that runs: those that clients can change, those that the listener takes, and how it is reached."""
    listener = call.settings_of(at.broker_id)
    usual = TopicConfig(**listener.topic_defaults)
    for name, of in settings.OF_BROKER.items():
        chain = of_topic(of, settings.TOPIC[of], listener, usual)
        if name in DYNAMIC:
            yield _dynamic(name, chain)
        elif chain:
            yield Described.by(name, chain, read_only=True), _about(of)
    for name, setting in _OTHERS.items():
        chain = changed(name, listener)
        if setting.default is not None:
            chain.append((name, setting.default, DEFAULT))
        if chain:
            yield _dynamic(name, chain)
    for name, unit_default in settings.OTHER_UNITS.items():
        text = "The same as the setting of this name that ends in .ms, in another unit."
        known = Setting(INT, unit_default, text, field=name)
        yield _static(name, known, listener.broker_config.get(name))
    for name, (setting_default, about) in _BOUNDS.items():
        if name in listener.broker_config:
            known = Setting(LONG, setting_default, about, field=name)
            yield _static(name, known, listener.broker_config[name])
    for name, setting, own in _of_listener(call, at):
        is_given = own != setting.default or name in listener.broker_config
        yield _static(name, setting, own if is_given else None)
    for name in dict.fromkeys([*listener.of_broker, *listener.of_all_brokers]):
        if name not in DYNAMIC:
            yield _unknown(name, [source for _, _, source in changed(name, listener)])


def _dynamic(name: str, chain: list[Synonym]) -> tuple[Described, Setting]:
    """Its synonyms have the texts that were given."""
    known = DYNAMIC[name]
    found = Described.by(name, chain)
    of = settings.OF_BROKER.get(name)
    if found.text is not None and found.source in (OF_BROKER_ITSELF, OF_ALL_BROKERS):
        found = found._replace(text=settings.normal_of(name, known, found.text))
    return found, known if of is None else _about(of)


def _about(of_topic: str) -> Setting:
    known = settings.TOPIC[of_topic]
    return known._replace(about=f"What a topic has that is made without {of_topic}. {known.about}")


def _static(name: str, known: Setting, own: str | None) -> tuple[Described, Setting]:
    chain: list[Synonym] = [(name, own, OF_STATIC_BROKER)] if own is not None else []
    if known.default is not None:
        chain.append((name, known.default, DEFAULT))
    return Described.by(name, chain, read_only=True), known


def _unknown(name: str, sources: list[int]) -> tuple[Described, Setting]:
    found = Described.by(name, [(name, None, source) for source in sources], read_only=True)
    return found._replace(is_sensitive=True), _UNKNOWN


def _of_listener(call: Call, at: Endpoint) -> Iterator[tuple[str, Setting, str]]:
    groups = call.service.classic_group_config
    paths = call.service.broker_paths()
    address, path, number = f"PLAINTEXT://{authority(at.host, at.port)}", paths[at.broker_id], str(at.broker_id)
    for name, kind, default, text, about in (
        ("advertised.listeners", LIST, None, address, "Where clients come to."),
        (
            "auto.create.topics.enable", BOOLEAN, "true", str(call.settings.auto_create_topics).lower(),
            "Whether a topic that a client asks for is created.",
        ),
        ("broker.id", INT, "-1", number, "Which broker it is."),
        (
            "default.replication.factor", INT, "1", str(min(3, len(paths))),
            "How many replicas a topic has for which nothing is said.",
        ),
        ("delete.topic.enable", BOOLEAN, "true", "true", "Whether topics can be deleted."),
        ("listeners", LIST, "PLAINTEXT://:9092", address, "Where it listens."),
        ("log.dir", LIST, "/tmp/kafka-logs", path, "The broker's directory."),
        ("log.dirs", LIST, None, path, "The broker's directory."),
        ("node.id", INT, None, number, "Which broker it is."),
        (settings.PARTITIONS, INT, "1", str(call.settings.partitions), "How many partitions a topic has for which nothing is said."),
        ("offset.metadata.max.bytes", INT, "4096", "4096", "How long the metadata of a committed offset may be."),
        ("offsets.retention.minutes", INT, "10080", "10080", "How long the offsets of a group without members are kept."),
        ("offsets.topic.num.partitions", INT, "50", "1", "The partitions of the groups' topic."),
        ("transaction.max.timeout.ms", INT, "900000", "900000", "How long a transaction may ask to stay open."),
        ("transaction.state.log.num.partitions", INT, "50", "1", "The partitions of the transactions' topic."),
        (
            "group.initial.rebalance.delay.ms", INT, "3000", str(groups.initial_rebalance_delay_ms),
            "How long the first members of a classic group wait for others.",
        ),
        (
            "group.max.session.timeout.ms", INT, "1800000", str(groups.max_session_timeout_ms),
            "The longest session that a member of a classic group may ask for.",
        ),
        ("group.max.size", INT, str((1 << 31) - 1), str(groups.max_size), "How many members a classic group has at most."),
        (
            "group.min.session.timeout.ms", INT, "6000", str(groups.min_session_timeout_ms),
            "The shortest session that a member of a classic group may ask for.",
        ),
    ):  # fmt: skip
        yield name, Setting(kind, default, about, field=name), text
