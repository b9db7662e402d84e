"""The Service protocol: everything that a client can ask of a broker.

Each call returns at once. A call that may have to wait returns a Completion; only `client/` blocks on one.

A new call, such as one for administration, is a method of `Service`. `LocalService` (`service.py`) implements it, and
`TailingService` (`tailing/service.py`), which refuses it if it writes. A change of topics is a function of
`controller.py` besides, and a change of groups a request to the shard in `coordinator/shard.py`. Users get the call as a
method of a handle: `StreamLog`, `Topic` or `ConsumerGroup`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from ..coordinator import GroupDescription, Heartbeat, HeartbeatResult
from ..runtime.api import Completion
from ..storage.log import EMPTY, AppendRequest, FetchData
from ..types import Clock, OffsetAndMetadata, OffsetAndTimestamp, PartitionInfo, TopicPartition
from .metadata import Image, TopicView
from .scheduler import Scheduler
from .waiting import ParkedFetch


class Service(Protocol):
    """See the module. Every method raises, or fails its Completion with, a StreamlogError."""

    clock: Clock
    scheduler: Scheduler
    durable: bool
    """Whether what is acknowledged is on the device: `sync=True`."""
    real_seconds: Callable[[], float]
    """The time by which members live and die: monotonic, and real under a clock that a test moves too."""

    @property
    def image(self) -> Image:
        """All topics at one moment. Take it once; it is replaced whole."""

    def on_metadata(self, callback: Callable[[], object]) -> None:
        """Call `callback` after each change to `image`. It must not block; what it raises is logged."""

    def off_metadata(self, callback: Callable[[], object]) -> None: ...

    def require_writable(self, what: str) -> None:
        """Raise ReadOnlyError if this log was opened to be read only; `what` would have been written, as a sentence begins."""

    # topics
    def topic(self, name: str) -> TopicView: ...
    def create_topic(
        self,
        name: str,
        partitions: int | None = None,
        settings: Mapping[str, Any] | None = None,
        *,
        exist_ok: bool = False,
    ) -> TopicView: ...
    def update_topic(self, name: str, settings: Mapping[str, Any]) -> None: ...
    def add_partitions(self, name: str, total: int) -> None: ...
    def delete_topic(self, name: str) -> None: ...

    # records
    def produce(self, topic: TopicView, partition: int, write: AppendRequest) -> Completion[int]:
        """Append; the base offset. The Completion waits for the high watermark: with `durable`, for a sync."""

    def produce_one(
        self, topic: TopicView, partition: int, key: bytes | None, value: bytes, timestamp: int, now_ms: int
    ) -> int:
        """Append one plain record; its offset. See `Log.append_one`.

        `now_ms` is the service's clock, which the caller has just read. It is in the log on return; with `durable` it is
        not on the device before `acknowledge` is done.
        """

    def acknowledge(self, topic: TopicView, partition: int, offset: int) -> Completion[int]:
        """Done with `offset` once the record there, which is in the log, may be seen by readers."""

    def settle(self, topic: TopicView, partition: int, write: AppendRequest) -> Completion[int] | None:
        """After an interrupt: what `produce` would have returned, or None if it was not appended."""

    def sync(self) -> list[Completion[int]]:
        """One for each partition, the metadata's first: done when all that is in it now is on the device."""

    def fetch(
        self,
        partition: TopicPartition,
        offset: int,
        max_bytes: int,
        isolation_level: str,
        after: FetchData = EMPTY,
        topic_id: bytes | None = None,
    ) -> FetchData:
        """Whole batches from the one that holds `offset` on; `after`: the chunk read to its end just before.

        Raises UnknownTopicIdError if the topic is not the one of `topic_id` any more.
        """

    def await_data(self, partitions: Iterable[TopicPartition]) -> ParkedFetch: ...
    def after_damage(self, partition: TopicPartition, offset: int) -> int: ...
    def bounds(self, partition: TopicPartition, isolation_level: str) -> tuple[int, int]:
        """The first offset, and the end (exclusive) that a reader may see."""

    def find_time(self, partition: TopicPartition, timestamp: int) -> OffsetAndTimestamp | None: ...
    def partition_info(self, partition: TopicPartition) -> PartitionInfo: ...
    def delete_records(self, partition: TopicPartition, before: int) -> int: ...
    def apply_retention(self, name: str) -> None: ...
    def compact(self, name: str) -> None: ...

    # groups
    def heartbeat(self, request: Heartbeat) -> Completion[HeartbeatResult]: ...
    def renew(self, group: str, member_id: str, seen_version: int) -> bool:
        """A poll in place of a heartbeat; False if the member has to send a heartbeat. Takes no lock."""

    def leave_group(self, group: str, member_id: str) -> Completion[None]: ...
    def watch_group(self, group: str, callback: Callable[[], object]) -> None: ...
    def unwatch_group(self, group: str, callback: Callable[[], object]) -> None: ...
    def commit(
        self,
        group: str,
        member_id: str | None,
        member_epoch: int,
        offsets: Mapping[TopicPartition, OffsetAndMetadata],
        topic_ids: Mapping[TopicPartition, bytes] | None = None,
    ) -> Completion[None]:
        """Commit, all or nothing. `topic_ids`: the topics of the offsets, by default those that have the names now.

        Fails with CommitFailedError if one of them was deleted, even if another topic has its name now.
        """

    def committed(
        self,
        group: str,
        partitions: Iterable[TopicPartition] | None,
        topic_ids: Mapping[TopicPartition, bytes] | None = None,
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        """What is committed for the topics of these ids, by default those that have the names now."""

    def describe_group(self, group: str) -> GroupDescription: ...
    def list_groups(self) -> list[str]: ...
    def delete_group(self, group: str) -> Completion[None]: ...

    def metrics(self) -> dict[str, Any]: ...
