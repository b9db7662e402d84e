"""The settings of topics, producers, consumers and `open`: frozen, and validated when they are made.

Names are Kafka's with underscores. A name with dots, or a misspelt one, is refused with the name that was probably
meant. A setting of a feature that does not exist yet is refused unless it has its default. The docstrings of
`client/config_types.py` describe each of them, as callers see it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

from .errors import ConfigError, InvalidTopicError, did_you_mean
from .types import Policy

C = TypeVar("C")
FOREVER = -1
DEFAULT_BATCH_SIZE = 16_384
DEFAULT_DELIVERY_TIMEOUT_MS = 120_000
MAX_TRANSACTION_TIMEOUT_MS = 900_000  # Kafka's transaction.max.timeout.ms
LARGEST_RECORD = 1 << 29  # the greatest max_message_bytes and max_request_size
MAX_PARTITIONS = 10_000  # of a topic
NEVER_MS = 1 << 60  # an age that no segment reaches
_BOUNDS = {"segment_bytes": (1024, 1 << 31), "max_message_bytes": (1, LARGEST_RECORD)}
_TOPIC_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_ALIASES = {
    "group_id": "group",
    "log_segment_bytes": "segment_bytes",
    "log_retention_ms": "retention_ms",
    "batch_num_messages": "batch_size",
    "queue_buffering_max_ms": "linger_ms",
    "compression": "compression_type",
    "compression_codec": "compression_type",
    "replicas": "replication_factor",
    "num_partitions": "partitions",
    "min_isr": "min_insync_replicas",
    "if_not_exists": "exist_ok",
    "isolation": "isolation_level",
    "max_poll_interval": "max_poll_interval_ms",
    "value_serde": "value_serializer",
    "key_serde": "key_serializer",
}
CLEANUP_POLICIES = ("delete", "compact", "compact,delete")
KEEP_ALL = ""  # Kafka's clients may ask for neither policy: nothing is deleted then, whatever the retention
PARTITIONERS = ("xxhash", "murmur2", "crc32", "round_robin", "sticky")
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
ASSIGNORS = ("range", "roundrobin", "sticky", "cooperative-sticky")
TIMESTAMP_TYPES = ("CreateTime", "LogAppendTime")


# The units of the terminal.
DURATIONS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
SIZES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_UNITS = {"_ms": " of milliseconds", "_bytes": " of bytes"}
# What other tools call a value of ours.
_MEANT: dict[object, str] = {
    "beginning": "earliest", "begin": "earliest", "start": "earliest", "first": "earliest", "smallest": "earliest",
    "oldest": "earliest", "end": "latest", "last": "latest", "largest": "latest", "newest": "latest", -1: "all",
    "delete,compact": "compact,delete", "dlq": "dead_letter", "ignore": "skip", "fail": "stop", "raise": "stop",
}  # fmt: skip
# Settings that programs give to the wrong thing, and that no config has.
_ELSEWHERE = {
    "bootstrap_servers": "a log is a directory, which streamlog.open(path) opens, and there are no servers to name",
    "value_serializer": "serializers belong to log.producer(value_serializer=…), or to log.topic(name, value_serde=…)",
    "key_serializer": "serializers belong to log.producer(key_serializer=…), or to log.topic(name, key_serde=…)",
    **dict.fromkeys(
        ("on_error", "retries", "retry_backoff_ms", "workers", "dead_letter_topic", "until_end"),
        "it belongs to the workers of a group: log.group(name).run(handler, topic, …)",
    ),
    "start": "log[topic].read(start=…) takes one; a consumer has auto_offset_reset and seek()",
}
# The same for settings beside which the nearest in spelling means something else.
_INSTEAD = {
    "consumer_timeout_ms": "consumer.until_end(timeout=…) and consumer.poll(timeout=…) take one, in seconds",
    "from_beginning": "a consumer begins there unless its group has committed; log.group(name).reset(to='earliest') goes back",
    "partitions": "log.create_topic(name, partitions=…) takes their number, and topic.add_partitions(total) raises it",
    "replication_factor": "log.create_topic(name, replication_factor=…) takes it, and log.reassign(topic, replication_factor=…) changes it",
}


def shown(value: object) -> str:
    """A value for a message, shortened. The repr of a very long int, or of an object, may raise."""
    try:
        text = repr(value)
    except Exception:
        return f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= 200 else text[:200] + "…"


def typed(value: object) -> str:
    """A value for a message about its type: `'7d' (str)`. The type of None is plain."""
    return shown(value) if value is None else f"{shown(value)} ({type(value).__name__})"


def check_topic_name(name: object) -> str:
    """Return `name`. Raises InvalidTopicError if it is not a name of a topic by Kafka's rule."""
    if not isinstance(name, str):
        raise InvalidTopicError(f"The name of a topic has to be a str, not {typed(name)}.")
    if name in (".", "..") or _TOPIC_NAME.fullmatch(name) is None:
        raise InvalidTopicError(
            f"{name[:260]!r} is not a valid name of a topic. A name has 1 to 249 characters of a-z, A-Z, 0-9, '.', '_' "
            f"and '-', and is neither '.' nor '..'."
        )
    return name


def unknown(name: str, known: Iterable[str], what: str, *, in_python: bool = True) -> ConfigError:
    """The error of a setting that does not exist, with the nearest known name. `in_python`: also with what else takes it."""
    names = list(known)
    plain = name.replace(".", "_").replace("-", "_")
    plain = _ALIASES.get(plain, plain)
    if plain in names:
        hint = f" (did you mean {plain!r}?)"
    elif in_python and plain in _INSTEAD:
        hint = f": {_INSTEAD[plain]}"
    else:
        hint = did_you_mean(plain, names) or (_where_instead(plain) if in_python else "")
    return ConfigError(f"{name!r} is not a setting of a {what}{hint}. Known: {', '.join(sorted(names))}.", name=name)


def _where_instead(plain: str) -> str:
    """`": give it to …"` for a setting of something else, or that has no place here; or an empty string."""
    if plain in _ELSEWHERE:
        return f": {_ELSEWHERE[plain]}"
    for kind, call in (
        (ProducerConfig, "log.producer"),
        (ConsumerConfig, "log.consumer"),
        (TopicConfig, "create_topic"),
    ):
        if plain in {each.name for each in dataclasses.fields(kind)}:
            return f": give it to {call}({plain}=…)"
    return ""


def not_yet(name: str, value: object, instead: str) -> ConfigError:
    """The error of a setting whose feature does not exist yet. `instead` says what holds in this version."""
    return ConfigError(f"{name}={shown(value)} is not available in this version of streamlog: {instead}", name=name)


def choice(name: str, value: object, known: Sequence[object]) -> None:
    """Raise ConfigError if the setting is none of the known values."""
    if not any(type(value) is type(k) and value == k for k in known):
        given = shown(value) if any(type(value) is type(k) for k in known) else typed(value)
        raise ConfigError(
            f"{name}={given} is not one of {', '.join(map(repr, known))}{nearest(value, known)}.", name=name
        )


def nearest(value: object, known: Sequence[object]) -> str:
    """`" (did you mean 'x'?)"` for the value that was probably meant, or an empty string."""
    meant = _MEANT.get(value.lower() if isinstance(value, str) else value) if isinstance(value, (str, int)) else None
    if meant is not None and meant in known:
        return f" (did you mean {meant!r}?)"
    return did_you_mean(value.lower(), [k for k in known if isinstance(k, str)]) if isinstance(value, str) else ""


def integer(name: str, value: object, low: int, high: int = 2**63 - 1) -> int:
    """Return the setting. Raises ConfigError if it is not an int, or out of range."""
    if isinstance(value, bool) or not isinstance(value, int):
        unit = next((unit for end, unit in _UNITS.items() if f"_{name}".endswith(end)), "")
        wanted = f"int{unit} or a timedelta" if name in _DURATIONS or name == "segment_ms" else f"int{unit}"
        meant = _as_int(name, value)
        hint = "" if meant is None else f": write {name}={meant:_}"
        raise ConfigError(f"{name} has to be an {wanted}, not {typed(value)}{hint}.", name=name)
    if not low <= value <= high:
        raise ConfigError(f"{name}={shown(value)} is out of range: {low} to {high}.", name=name)
    return value


def scaled(text: str, units: Mapping[str, int]) -> int | None:
    """A whole number with one of these units, or with none: `"7d"`. None for any other text.

    The notation of the terminal. In Python a setting is a number, and a message says which.
    """
    match = re.fullmatch(r"(-?[\d_]+)\s*([A-Za-z]*)", text)
    if match is None or not match[1].strip("-_") or (match[2] and match[2] not in units):
        return None
    return int(match[1]) * units.get(match[2], 1)


def _as_int(name: str, value: object) -> int | None:
    """The int that a value of another type means for this setting, if it clearly means one."""
    if isinstance(value, timedelta) and f"_{name}".endswith("_ms"):
        return value // timedelta(milliseconds=1)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    units = DURATIONS if name.endswith("_ms") else SIZES if name.endswith("_bytes") else {}
    return scaled(value, units) if isinstance(value, str) and len(value) < 20 else None


def text(name: str, value: object) -> None:
    """Raise ConfigError if the setting is not a str, or empty."""
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{name} has to be a str that is not empty, not {typed(value)}.", name=name)


def duration_ms(name: str, value: object) -> int:
    """An `Ms` setting as an int of milliseconds; unlimited is -1.

    `None` and Kafka's -1 are unlimited, and so is a duration above `NEVER_MS`: in Kafka the greatest long means for
    ever, and a time plus such a duration would not fit into the log. A fraction of a millisecond is rounded up, because 0 may
    have another meaning.
    """
    if value is None:
        return FOREVER
    if isinstance(value, timedelta):
        if value < timedelta(0):
            raise ConfigError(f"{name}={typed(value)} is negative. Give None for unlimited.", name=name)
        whole, part = divmod(value, timedelta(milliseconds=1))
        value = whole + bool(part)
    given = integer(name, value, -1)
    return FOREVER if given >= NEVER_MS else given


def real(name: str, value: object, low: float, high: float) -> float:
    """Return the setting as a float. Raises ConfigError if it is not a number, or out of range."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ConfigError(f"{name}={typed(value)} is not a number from {low} to {high}.", name=name)
    return float(value)


@dataclass(frozen=True)
class TopicConfig:
    """The settings of a topic. -1 is unlimited. A `segment_bytes` or `segment_ms` of 0 depends on the retention."""

    retention_ms: int = FOREVER
    retention_bytes: int = FOREVER
    retention_records: int = FOREVER
    retention: str | None = None
    cleanup_policy: str = "delete"
    partitioner: str = "xxhash"
    segment_bytes: int = 0
    segment_ms: int = 0
    max_message_bytes: int = 1_048_588
    message_timestamp_type: str = "CreateTime"
    message_timestamp_after_max_ms: int = 3_600_000
    min_cleanable_dirty_ratio: float = 0.5
    min_compaction_lag_ms: int = 0
    delete_retention_ms: int = 86_400_000
    min_insync_replicas: int = 1
    unclean_leader_election: bool = False
    compression_type: str = "producer"

    def __post_init__(self) -> None:
        for name in _DURATIONS:  # also for a topic that is read from the log
            object.__setattr__(self, name, duration_ms(name, getattr(self, name)))
        if self.cleanup_policy != KEEP_ALL:
            choice("cleanup_policy", self.cleanup_policy, CLEANUP_POLICIES)
        choice("partitioner", self.partitioner, PARTITIONERS)
        choice("message_timestamp_type", self.message_timestamp_type, TIMESTAMP_TYPES)
        choice("compression_type", self.compression_type, ("producer", *CODECS))
        choice("unclean_leader_election", self.unclean_leader_election, (False, True))
        if not isinstance(self.retention, str | None):
            raise ConfigError(f"retention={typed(self.retention)} is not the name of a policy.", name="retention")
        real("min_cleanable_dirty_ratio", self.min_cleanable_dirty_ratio, 0.0, 1.0)
        integer("max_message_bytes", self.max_message_bytes, *_BOUNDS["max_message_bytes"])
        integer("retention_bytes", self.retention_bytes, -1)
        integer("retention_records", self.retention_records, -1)
        integer("min_insync_replicas", self.min_insync_replicas, 1)
        if self.segment_bytes:
            integer("segment_bytes", self.segment_bytes, *_BOUNDS["segment_bytes"])
        if self.segment_ms:
            integer("segment_ms", self.segment_ms, 1)
        if self.compacts and not self.deletes and self.retention is not None:
            raise ConfigError(
                "retention= has no effect with cleanup_policy='compact', which does not delete by age or size. "
                "Use 'compact,delete', or leave retention out.",
                name="retention",
            )

    @property
    def compacts(self) -> bool:
        """Whether compaction is on."""
        return "compact" in self.cleanup_policy

    @property
    def deletes(self) -> bool:
        """Whether retention is on."""
        return "delete" in self.cleanup_policy

    @property
    def effective_segment_bytes(self) -> int:
        """`segment_bytes`; if it is not set 1 GiB, and at most an eighth of `retention_bytes`."""
        if self.segment_bytes:
            return self.segment_bytes
        if self.retention_bytes > 0:
            return min(1 << 30, max(4096, self.retention_bytes // 8))
        return 1 << 30

    @property
    def effective_segment_ms(self) -> int:
        """`segment_ms`; if it is not set a week, and at most an eighth of `retention_ms`."""
        if self.segment_ms:
            return self.segment_ms
        week = 7 * 86_400_000
        return max(1, min(week, self.retention_ms // 8)) if self.retention_ms > 0 else week

    @property
    def effective_segment_records(self) -> int:
        """An eighth of `retention_records`, or unlimited."""
        return max(1, self.retention_records // 8) if self.retention_records > 0 else FOREVER

    def public(self) -> dict[str, Any]:
        """The settings as `Topic.config` shows them: None is unlimited, and `segment_*` are the effective values."""
        shown = dataclasses.asdict(self)
        for name, value in shown.items():
            if value == FOREVER and name in (*_DURATIONS, "retention_bytes", "retention_records"):
                shown[name] = None
        shown["segment_bytes"] = self.effective_segment_bytes
        age = self.effective_segment_ms
        shown["segment_ms"] = None if age == NEVER_MS else age
        return shown


_DURATIONS = ("retention_ms", "min_compaction_lag_ms", "delete_retention_ms", "message_timestamp_after_max_ms")
_TOPIC_FIELDS = tuple(f.name for f in dataclasses.fields(TopicConfig))
TOPIC_SETTINGS = (*_TOPIC_FIELDS, "partitions", "replication_factor")


def topic_changes(
    settings: Mapping[str, Any], also: Sequence[str] = (), *, of_kafka: bool = False
) -> tuple[dict[str, Any], Policy | None]:
    """The given settings as fields of a `TopicConfig`, and the policy object, of which only the name is stored.

    `also`: the other parameters of the call, one of which a misspelt setting may mean. `of_kafka`: a client of Kafka's gave them.
    """
    changes: dict[str, Any] = {}
    policy: Policy | None = None
    for name, value in settings.items():
        if name not in _TOPIC_FIELDS:
            raise unknown(name, [*_TOPIC_FIELDS, *also], "topic")
        if name in _DURATIONS:
            changes[name] = duration_ms(name, value)
        elif name in ("retention_bytes", "retention_records"):
            changes[name] = FOREVER if value is None else integer(name, value, -1)
        elif name == "retention":
            if value is None:
                changes[name] = None
                continue
            policy = value
            if not callable(getattr(value, "expired", None)) or not isinstance(getattr(value, "name", None), str):
                raise ConfigError(
                    f"retention={typed(value)} is not a policy: a policy has a str `name` and "
                    f"`expired(segments, now_ms) -> int` (see streamlog.retention). To limit the age, the size or the "
                    f"number of records, use retention_ms, retention_bytes or retention_records.",
                    name=name,
                )
            changes[name] = value.name
        elif name == "min_insync_replicas":
            changes[name] = integer(name, value, 1)
        elif name == "cleanup_policy" and value == KEEP_ALL and not of_kafka:
            choice(name, value, CLEANUP_POLICIES)  # raises: in Python it could only be a mistake
        elif name in ("segment_bytes", "max_message_bytes"):
            # 0, which depends on the retention, is for internal use: a caller cannot give it.
            changes[name] = integer(name, value, *_BOUNDS[name])
        elif name == "segment_ms":
            age = duration_ms(name, value)
            changes[name] = NEVER_MS if age == FOREVER else integer(name, age, 1)
        else:
            changes[name] = value
    return changes, policy


def check_partitions(value: object) -> int:
    """Return the number of partitions. Raises ConfigError."""
    return integer("partitions", value, 1, MAX_PARTITIONS)


def check_replication_factor(value: object) -> int:
    """Return the replication factor. Raises ConfigError."""
    return integer("replication_factor", value, 1)


def _build(cls: type[C], what: str, settings: Mapping[str, Any], also: Sequence[str] = ()) -> C:
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for name in settings:
        if name not in names:
            raise unknown(name, [*names, *also], what)
    return cls(**settings)


@dataclass(frozen=True)
class ProducerConfig:
    """The settings of a producer. Where the defaults differ from Kafka's they are the safer ones (`linger_ms=0`)."""

    acks: Any = "all"
    linger_ms: int = 0
    batch_size: int = DEFAULT_BATCH_SIZE
    compression_type: str | None = None
    enable_idempotence: bool | None = None
    transactional_id: str | None = None
    transaction_timeout_ms: int = 60_000
    partitioner: str | Callable[[str, bytes | None, int], int] | None = None
    key_serializer: Any = None
    value_serializer: Any = None
    max_request_size: int = 1_048_576
    buffer_memory: int = 33_554_432
    delivery_timeout_ms: int = DEFAULT_DELIVERY_TIMEOUT_MS
    client_id: str = "streamlog-producer"

    def __post_init__(self) -> None:
        choice("acks", self.acks, (0, 1, "all"))
        integer("linger_ms", self.linger_ms, 0, 3_600_000)
        integer("batch_size", self.batch_size, 1, 1 << 27)
        integer("max_request_size", self.max_request_size, 1, LARGEST_RECORD)
        integer("buffer_memory", self.buffer_memory, 1)
        integer("delivery_timeout_ms", self.delivery_timeout_ms, 1)
        if self.compression_type is not None:
            choice("compression_type", self.compression_type, CODECS)
        if self.partitioner is not None and not callable(self.partitioner):
            choice("partitioner", self.partitioner, PARTITIONERS)
        choice("enable_idempotence", self.enable_idempotence, (True, False, None))
        if self.enable_idempotence and self.acks != "all":
            raise ConfigError(
                f"enable_idempotence=True needs acks='all': with acks={self.acks}, a record that was acknowledged may be lost, "
                f"and those after it would be refused. Leave one of the two out.",
                name="acks",
            )
        if self.linger_ms > self.delivery_timeout_ms:
            raise ConfigError(
                f"linger_ms={self.linger_ms} is longer than delivery_timeout_ms={self.delivery_timeout_ms}: a record "
                f"would expire before it is sent. Raise delivery_timeout_ms, or lower linger_ms.",
                name="linger_ms",
            )
        text("client_id", self.client_id)
        self._check_transactions()

    def _check_transactions(self) -> None:
        integer("transaction_timeout_ms", self.transaction_timeout_ms, 1, MAX_TRANSACTION_TIMEOUT_MS)
        if self.transactional_id is None:
            return
        text("transactional_id", self.transactional_id)
        if not self.is_idempotent:
            name = "acks" if self.acks != "all" else "enable_idempotence"
            raise ConfigError(
                f"transactional_id={shown(self.transactional_id)} needs acks='all' and idempotence, but {name}="
                f"{getattr(self, name)!r}: a transaction has all of its records, each once. Leave one of the two out.",
                name=name,
            )

    @property
    def is_idempotent(self) -> bool:
        """By default where records are acknowledged by all in-sync replicas, as in Kafka (KIP-679)."""
        return self.acks == "all" if self.enable_idempotence is None else self.enable_idempotence

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> ProducerConfig:
        """From keyword arguments. Raises ConfigError."""
        linger_ms = settings.get("linger_ms")
        # By default never less than the linger, as in Kafka.
        if "delivery_timeout_ms" not in settings and isinstance(linger_ms, int):
            settings = {**settings, "delivery_timeout_ms": max(DEFAULT_DELIVERY_TIMEOUT_MS, linger_ms)}
        return _build(cls, "producer", settings)


@dataclass(frozen=True)
class ConsumerConfig:
    """The settings of a consumer. Where the defaults differ from Kafka's they are the safer ones (`earliest`,
    `read_committed`)."""

    group: str | None = None
    key_deserializer: Any = None
    value_deserializer: Any = None
    auto_offset_reset: str = "earliest"
    enable_auto_commit: bool | None = None
    auto_commit_interval_ms: int = 5_000
    isolation_level: str = "read_committed"
    max_poll_records: int = 500
    max_poll_interval_ms: int = 300_000
    session_timeout_ms: int = 45_000
    group_instance_id: str | None = None
    fetch_max_bytes: int = 52_428_800
    client_id: str = "streamlog-consumer"
    partition_assignment_strategy: str | Sequence[str] = ("cooperative-sticky", "range")
    listener: Any = None
    on_corrupt: str = "raise"

    def __post_init__(self) -> None:
        choice("auto_offset_reset", self.auto_offset_reset, ("earliest", "latest", "none"))
        choice("isolation_level", self.isolation_level, ("read_committed", "read_uncommitted"))
        choice("on_corrupt", self.on_corrupt, ("raise", "skip"))
        choice("enable_auto_commit", self.enable_auto_commit, (True, False, None))
        integer("auto_commit_interval_ms", self.auto_commit_interval_ms, 0)
        integer("max_poll_records", self.max_poll_records, 1)
        integer("max_poll_interval_ms", self.max_poll_interval_ms, 1)
        integer("session_timeout_ms", self.session_timeout_ms, 1)
        integer("fetch_max_bytes", self.fetch_max_bytes, 1)
        text("client_id", self.client_id)
        for name in ("group", "group_instance_id"):
            if getattr(self, name) is not None:
                text(name, getattr(self, name))
        if self.group is None:
            if self.group_instance_id is not None:
                raise ConfigError(
                    "group_instance_id= needs a group=: it names a member of the group.", name="group_instance_id"
                )
            if self.enable_auto_commit:
                raise ConfigError(
                    "enable_auto_commit=True needs a group=: without a group no offsets are committed.",
                    name="enable_auto_commit",
                )
        listener = self.listener
        if listener is not None and (
            isinstance(listener, type) or not callable(getattr(listener, "on_partitions_assigned", None))
        ):
            raise ConfigError(
                f"listener={typed(listener)} is not a RebalanceListener. Give an object of a class that inherits from it.",
                name="listener",
            )
        strategy = self.partition_assignment_strategy
        if not isinstance(strategy, (str, Sequence)) or isinstance(strategy, bytes) or not strategy:
            raise ConfigError(
                f"partition_assignment_strategy={typed(strategy)} is not one of {', '.join(ASSIGNORS)}, or a list.",
                name="partition_assignment_strategy",
            )
        for name in self.assignors:
            choice("partition_assignment_strategy", name, ASSIGNORS)

    @property
    def assignors(self) -> tuple[str, ...]:
        """The assignors of `partition_assignment_strategy`, the preferred one first."""
        strategy = self.partition_assignment_strategy
        return (strategy,) if isinstance(strategy, str) else tuple(strategy)

    @property
    def auto_commits(self) -> bool:
        """Whether the consumer commits by itself: in a group, unless it is switched off."""
        return self.group is not None and self.enable_auto_commit is not False

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> ConsumerConfig:
        """From keyword arguments. Raises ConfigError."""
        return _build(cls, "consumer", settings)

    @classmethod
    def of_workers(cls, settings: Mapping[str, Any], also: Sequence[str]) -> ConsumerConfig:
        """The same for the consumers of workers. `also`: the other parameters of the call, as in `topic_changes`."""
        return _build(cls, "worker", settings, also)


@dataclass(frozen=True)
class OpenOptions:
    """The options of `streamlog.open`, in a form in which two opens of one directory can be compared."""

    auto_create_topics: bool = False
    clock: Any = None
    lock_timeout: float = 0.0
    defaults: Mapping[str, Any] = field(default_factory=dict)
    disk: Any = None
    sync: bool = False
    read_only: bool = False
    brokers: int | tuple[str, ...] | None = None  # not compared: two opens of one path have the same directories
    replica_lag_ms: int = 30_000
    force: bool = False  # not compared: it has no effect on a log that is open

    def differs(self, other: OpenOptions) -> str | None:
        """The first option in which a second open in this process differs from the first; None if there is none."""
        if self.read_only != other.read_only:
            return "read_only"
        if self.auto_create_topics != other.auto_create_topics:
            return "auto_create_topics"
        if self.clock is not other.clock:
            return "clock"
        if self.disk is not other.disk:
            return "disk"
        if self.sync is not other.sync:
            return "sync"
        if self.replica_lag_ms != other.replica_lag_ms:
            return "replica_lag_time_max_ms"
        return "topic defaults" if dict(self.defaults) != dict(other.defaults) else None


_OPEN_PARAMETERS = (
    *(
        "auto_create_topics",
        "brokers",
        "clock",
        "disk",
        "force",
        "lock_timeout",
        "read_only",
        "replica_lag_time_max_ms",
    ),
    "sync",
)


def open_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The topic defaults of `open`, checked at the open and not when the first topic is created."""
    for name in settings:
        if name not in TOPIC_SETTINGS:
            raise unknown(name, [*TOPIC_SETTINGS, *_OPEN_PARAMETERS], "log")
    topic_settings = {k: v for k, v in settings.items() if k in _TOPIC_FIELDS}
    changes, _ = topic_changes(topic_settings)
    TopicConfig(**changes)
    if "partitions" in settings:
        check_partitions(settings["partitions"])
    if "replication_factor" in settings:
        check_replication_factor(settings["replication_factor"])
    return dict(settings)
