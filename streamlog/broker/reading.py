"""The half of the Service protocol that only reads: the same for the log of this process and for another's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from ..errors import StorageError, StreamlogError, UnknownTopicIdError
from ..storage.tail import EMPTY, FetchData, LogSnapshot
from ..types import OffsetAndTimestamp, PartitionInfo, TopicPartition
from .waiting import ParkedFetch, Watched


class ReadableLog(Protocol):
    """What may be asked of a log by any thread: the log of this process, or of another one."""

    @property
    def tail(self) -> LogSnapshot: ...
    def fetch(self, offset: int, max_bytes: int, end_offset: int, after: FetchData = EMPTY) -> FetchData: ...
    def find_time(self, timestamp: int, end_offset: int) -> OffsetAndTimestamp | None: ...
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
        """Why what lies past the high watermark, and was acknowledged perhaps, cannot be read, or None."""

    @property
    def broker_id(self) -> int: ...
    @property
    def leader_epoch(self) -> int: ...


class ReadingService:
    """See `api.Service`. Thread-safe."""

    _partitions: Mapping[tuple[str, int], Readable]

    def _partition(self, name: TopicPartition) -> Readable:
        """Raises UnknownTopicOrPartitionError, ClosedError."""
        raise NotImplementedError

    def fetch(
        self,
        partition: TopicPartition,
        offset: int,
        max_bytes: int,
        isolation_level: str,
        after: FetchData = EMPTY,
        topic_id: bytes | None = None,
    ) -> FetchData:
        here = self._partitions.get(partition) or self._partition(partition)
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
            return here.reader.fetch(offset, max_bytes, here.high_watermark, after)
        except StorageError:
            if here.closed is not None:  # deleted, or closed, while it was being read
                raise here.closed.copy() from None
            raise

    def await_data(self, partitions: Iterable[TopicPartition]) -> ParkedFetch:
        return ParkedFetch([p for p in map(self._partitions.get, partitions) if p is not None])

    def after_damage(self, partition: TopicPartition, offset: int) -> int:
        here = self._partition(partition)
        return here.reader.after_damage(offset, here.high_watermark)

    def bounds(self, partition: TopicPartition, isolation_level: str) -> tuple[int, int]:
        here = self._partition(partition)
        if here.hides is not None:  # who reads up to there is told
            return here.reader.tail.start_offset, here.reader.tail.end_offset
        return here.reader.tail.start_offset, here.high_watermark

    def find_time(self, partition: TopicPartition, timestamp: int) -> OffsetAndTimestamp | None:
        here = self._partition(partition)
        found = here.reader.find_time(timestamp, here.high_watermark)
        if found is None and here.hides is not None:
            raise here.hides.copy()
        return found

    def partition_info(self, partition: TopicPartition) -> PartitionInfo:
        here = self._partition(partition)
        tail = here.reader.tail
        broker = (here.broker_id,)
        return PartitionInfo(
            *partition, here.broker_id, broker, broker, here.leader_epoch, tail.start_offset, here.high_watermark,
            here.high_watermark, tail.end_offset, tail.size_bytes(), len(tail.segments),
        )  # fmt: skip
