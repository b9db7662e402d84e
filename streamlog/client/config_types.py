"""The settings as callers give them: what `**config` may have, for editors and type checkers.

`streamlog/config.py` has what they become: checked, with defaults, frozen. Names that end in `_ms` are times in int
milliseconds, or also a timedelta where the type is `Ms`; None means unlimited. `CONFIG.md` beside this file describes each
setting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, TypeAlias, TypedDict

from ..types import Policy
from .serde import Serde

Ms: TypeAlias = int | timedelta | None
Ser: TypeAlias = "Serde[Any] | Callable[[Any], bytes] | Mapping[str, Ser]"
De: TypeAlias = "Serde[Any] | Callable[[bytes], Any] | Mapping[str, Any]"


class TopicConfig(TypedDict, total=False):
    """A topic's settings, under Kafka's names; `streamlog/client/CONFIG.md` describes each.

    A `segment_bytes` or `segment_ms` that is not given is at most an eighth of the retention.
    """

    retention_ms: Ms
    retention_bytes: int | None
    retention_records: int | None
    retention: Policy
    cleanup_policy: Literal["delete", "compact", "compact,delete"]
    partitioner: str
    segment_bytes: int
    segment_ms: Ms
    max_message_bytes: int
    message_timestamp_type: str
    message_timestamp_after_max_ms: Ms
    min_cleanable_dirty_ratio: float
    min_compaction_lag_ms: Ms
    delete_retention_ms: Ms
    min_insync_replicas: int
    unclean_leader_election: bool
    compression_type: str


class TopicDefaults(TopicConfig, total=False):
    """What `open` takes besides its own parameters: defaults for new topics."""

    partitions: int
    replication_factor: int


class ProducerConfig(TypedDict, total=False):
    """A producer's settings, under Kafka's names; `streamlog/client/CONFIG.md` describes each."""

    acks: Literal[0, 1, "all"]
    linger_ms: int
    batch_size: int
    compression_type: str | None
    enable_idempotence: bool
    transactional_id: str
    transaction_timeout_ms: int
    partitioner: str | Callable[[str, bytes | None, int], int]
    key_serializer: Ser
    value_serializer: Ser
    max_request_size: int
    buffer_memory: int
    delivery_timeout_ms: int
    client_id: str


class ConsumerConfig(TypedDict, total=False):
    """A consumer's settings besides its group and its deserializers; `streamlog/client/CONFIG.md` describes each."""

    auto_offset_reset: Literal["earliest", "latest", "none"]
    enable_auto_commit: bool
    auto_commit_interval_ms: int
    isolation_level: Literal["read_committed", "read_uncommitted"]
    max_poll_records: int
    max_poll_interval_ms: int
    session_timeout_ms: int
    group_instance_id: str
    fetch_max_bytes: int
    client_id: str
    partition_assignment_strategy: str | Sequence[str]
    listener: Any
    on_corrupt: Literal["raise", "skip"]
