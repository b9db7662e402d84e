"""Reading from partitions: the calls of the Service protocol that only read, for a log that is owned and for one that is tailed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, Protocol, TypeAlias

from ..errors import (
    FencedLeaderEpochError,
    OffsetOutOfRangeError,
    ReentrantCallError,
    StorageError,
    StreamlogError,
    UnknownLeaderEpochError,
    UnknownTopicIdError,
)
from ..replication.replica_set import PartitionRegistration
from ..runtime.api import Completion
from ..storage.leader_epochs import EpochEnd
from ..storage.tail import EMPTY, FetchData, LogSnapshot
from ..types import OffsetAndTimestamp, PartitionInfo, TopicPartition
from .fetched import NOTHING, UNKNOWN_END, FetchResult
from .metadata import TopicIdPartition
from .waiting import Watched

OffsetSpec: TypeAlias = Literal["earliest", "latest", "max_timestamp"] | int
"""Which offset: the first, the one after the last, that of the greatest timestamp (KIP-734), or that of the first record at or
after a timestamp (ms)."""


class ReadableLog(Protocol):
    """What may be asked of a log by any thread: the log of this process, or of another one."""

    @property
    def tail(self) -> LogSnapshot: ...
    def fetch(self, offset: int, max_bytes: int, end_offset: int, after: FetchData = EMPTY) -> FetchData: ...
    def find_time(self, timestamp: int, end_offset: int) -> OffsetAndTimestamp | None: ...
    def find_max_time(self, end_offset: int) -> OffsetAndTimestamp | None: ...
    def after_damage(self, offset: int, end_offset: int) -> int: ...
    def out_of_range(self, offset: int, end_offset: int) -> OffsetOutOfRangeError: ...


class Readable(Watched, Protocol):
    """What reading needs of a partition."""

    @property
    def topic_id(self) -> bytes: ...
    @property
    def reader(self) -> ReadableLog: ...
    @property
    def high_watermark(self) -> int: ...
    @property
    def closed(self) -> StreamlogError | None: ...
    @property
    def hides(self) -> StreamlogError | None:
        """Why records past the high watermark, which may have been acknowledged, cannot be read; or None."""

    @property
    def registration(self) -> PartitionRegistration: ...
    @property
    def leader_epoch(self) -> int: ...
    def epoch_end(self, leader_epoch: int) -> EpochEnd | None: ...


def check_leader_epoch(here: Readable, current: int | None) -> None:
    """Raise FencedLeaderEpochError or UnknownLeaderEpochError if the caller takes another leader for that of the partition."""
    if current is None or current == here.leader_epoch:
        return
    kind = FencedLeaderEpochError if current < here.leader_epoch else UnknownLeaderEpochError
    raise kind(
        f"The request was made for leader epoch {current}, and the partition is at {here.leader_epoch}. Ask the metadata who "
        f"leads it, and send the request again.",
        leader_epoch=current,
        current_epoch=here.leader_epoch,
    )


def _diverging_epoch(here: Readable, offset: int, last_fetched_epoch: int) -> EpochEnd | None:
    """Where the log parts from one whose last record before `offset` is of `last_fetched_epoch`; None if it does not.

    Raises OffsetOutOfRangeError for an epoch that is newer than the log.
    """
    end = here.epoch_end(last_fetched_epoch)
    if end is None:
        raise here.reader.out_of_range(offset, here.high_watermark)
    return end if end.epoch < last_fetched_epoch or end.end_offset < offset else None


class PartitionReads:
    """See `api.Service` for each method. Thread-safe.

    `partitions` is looked at without a lock. `find` is called for a partition that is not in it, and raises
    UnknownTopicOrPartitionError or ClosedError if there is none.
    """

    def __init__(
        self,
        partitions: Mapping[tuple[str, int], Readable],
        find: Callable[[TopicPartition], Readable],
        is_replicated: bool = False,
    ) -> None:
        self._partitions = partitions
        self._is_replicated = is_replicated
        self._find = find

    def fetch(
        self,
        partition: TopicIdPartition,
        offset: int,
        max_bytes: int,
        isolation_level: str,
        after: FetchResult = NOTHING,
        *,
        current_leader_epoch: int | None = None,
        last_fetched_epoch: int | None = None,
        replica_id: int = -1,
    ) -> Completion[FetchResult]:
        topic, number, topic_id = partition
        try:
            here = self._partitions.get((topic, number)) or self._find(TopicPartition(topic, number))
            if here.closed is not None:
                now = self._partitions.get((topic, number), here)
                if now.closed is not None:
                    raise here.closed.copy()
                here = now  # this replica was reassigned just now
            if topic_id != here.topic_id:
                raise UnknownTopicIdError(
                    f"Topic {topic!r} was deleted, and another was created under its name; begin to read that one anew.",
                    topic=topic,
                )
            if current_leader_epoch is not None:
                check_leader_epoch(here, current_leader_epoch)
            tail, end = here.reader.tail, here.high_watermark
            if last_fetched_epoch is not None:
                diverging = _diverging_epoch(here, offset, last_fetched_epoch)
                if diverging is not None:
                    return FetchResult(EMPTY, end, tail.start_offset, diverging)
            if here.hides is not None and offset >= end:
                raise here.hides.copy()
            if (
                self._is_replicated and end < offset <= tail.end_offset
            ):  # a new leader does not know yet how much of its log is committed
                end = offset
            try:
                chunk = here.reader.fetch(offset, max_bytes, end if replica_id < 0 else tail.end_offset, after._chunk)
            except StorageError:
                if here.closed is not None:  # it was deleted, or closed, while it was being read
                    raise here.closed.copy() from None
                raise
            result = FetchResult(chunk, end, tail.start_offset)
            if here.hides is not None:  # a reader that comes to the end has to come back, and gets the error
                result.end_offset = UNKNOWN_END
            return result
        except ReentrantCallError:
            raise
        except StreamlogError as error:
            return Completion.failed(error)

    def after_damage(self, partition: TopicPartition, offset: int) -> int:
        here = self._find(partition)
        return here.reader.after_damage(offset, here.high_watermark)

    def bounds(self, partition: TopicPartition, isolation_level: str) -> tuple[int, int]:
        here = self._find(partition)
        if here.hides is not None:  # a reader that comes that far gets the error
            return here.reader.tail.start_offset, here.reader.tail.end_offset
        return here.reader.tail.start_offset, here.high_watermark

    def find_offset(
        self,
        partition: TopicPartition,
        spec: OffsetSpec,
        isolation_level: str,
        current_leader_epoch: int | None = None,
    ) -> OffsetAndTimestamp | None:
        here = self._find(partition)
        check_leader_epoch(here, current_leader_epoch)
        if isinstance(spec, str) and spec != "max_timestamp":
            start, end = self.bounds(partition, isolation_level)
            return OffsetAndTimestamp(start if spec == "earliest" else end, -1)
        end = here.high_watermark
        found = here.reader.find_max_time(end) if isinstance(spec, str) else here.reader.find_time(spec, end)
        if here.hides is not None and (found is None or isinstance(spec, str)):
            raise here.hides.copy()
        return found

    def epoch_end_offset(
        self, partition: TopicPartition, leader_epoch: int, current_leader_epoch: int | None = None
    ) -> EpochEnd | None:
        here = self._find(partition)
        check_leader_epoch(here, current_leader_epoch)
        return here.epoch_end(leader_epoch)

    def partition_info(self, partition: TopicPartition) -> PartitionInfo:
        here = self._find(partition)
        tail = here.reader.tail
        known = here.registration
        return PartitionInfo(
            *partition, known.leader, known.isr, known.replicas, known.leader_epoch, tail.start_offset, here.high_watermark,
            here.high_watermark, tail.end_offset, tail.size_bytes(), len(tail.segments),
        )  # fmt: skip
