"""Reading from partitions: the calls of the Service protocol that only read, for a log that is owned and for one that is tailed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, Protocol, TypeAlias

from ..errors import (
    FencedLeaderEpochError,
    StorageError,
    StreamlogError,
    UnknownLeaderEpochError,
    UnknownTopicIdError,
)
from ..storage.leader_epochs import EpochEnd
from ..storage.tail import EMPTY, UNKNOWN_END, FetchData, LogSnapshot
from ..types import OffsetAndTimestamp, PartitionInfo, TopicPartition
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
    def broker_id(self) -> int: ...
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


class PartitionReads:
    """See `api.Service` for each method. Thread-safe.

    `partitions` is looked at without a lock. `find` is called for a partition that is not in it, and raises
    UnknownTopicOrPartitionError or ClosedError if there is none.
    """

    def __init__(
        self, partitions: Mapping[tuple[str, int], Readable], find: Callable[[TopicPartition], Readable]
    ) -> None:
        self._partitions = partitions
        self._find = find

    def fetch(
        self,
        partition: TopicPartition,
        offset: int,
        max_bytes: int,
        isolation_level: str,
        after: FetchData = EMPTY,
        topic_id: bytes | None = None,
    ) -> FetchData:
        here = self._partitions.get(partition) or self._find(partition)
        if here.closed is not None:
            raise here.closed.copy()
        if topic_id is not None and topic_id != here.topic_id:
            raise UnknownTopicIdError(
                f"Topic {partition[0]!r} was deleted, and another was created under its name; begin to read that one anew.",
                topic=partition[0],
            )
        if here.hides is not None and offset >= here.high_watermark:
            raise here.hides.copy()
        try:
            fetched = here.reader.fetch(offset, max_bytes, here.high_watermark, after)
            # A reader that comes to the end of what can be read has to come back, and gets the error.
            return fetched if here.hides is None else fetched._replace(end_offset=UNKNOWN_END)
        except StorageError:
            if here.closed is not None:  # it was deleted, or closed, while it was being read
                raise here.closed.copy() from None
            raise

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
        broker = (here.broker_id,)
        return PartitionInfo(
            *partition, here.broker_id, broker, broker, here.leader_epoch, tail.start_offset, here.high_watermark,
            here.high_watermark, tail.end_offset, tail.size_bytes(), len(tail.segments),
        )  # fmt: skip
