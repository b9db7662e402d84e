"""Where a consumer is in each partition, and where it could be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from ...config import shown
from ...errors import OffsetOutOfRangeError, UnknownTopicOrPartitionError
from ...types import OffsetAndTimestamp, TopicPartition
from ..arguments import is_offset, partition_of, to_ms
from .fetcher import PartitionReader
from .sharing import Sharing


class Positions(Sharing):
    """Seeking, asking for offsets, pausing."""

    # -- positions -----------------------------------------------------------------------------------

    def _reader(self, partition: TopicPartition) -> PartitionReader:
        reader = self._held.readers.get(partition)  # an equal plain tuple finds it too
        if reader is None:
            raise UnknownTopicOrPartitionError(
                f"{tuple(partition)} is not assigned to this consumer; it has {sorted(self._held.readers) or 'nothing'}"
                f"{' (a member of a group gets its partitions in poll)' if self._membership else ''}."
            )
        return reader

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Go on at `offset`. One outside the log is found at the next read, and `auto_offset_reset` decides.

        Raises OffsetOutOfRangeError for what is no offset at all.
        """
        with self._enter(), self._guard():
            reader = self._reader(partition)
            if not is_offset(offset):
                start, end = self._service.bounds(reader.name, self._config.isolation_level)
                raise OffsetOutOfRangeError(
                    f"{shown(offset)} is no offset: {reader.name.topic}-{reader.name.partition} holds {start} up to, not "
                    f"including, {end}.",
                    log_start_offset=start,
                    log_end_offset=end,
                )
            self._held.seek(reader.name, offset)
            self._wakeup.pending = True

    def seek_to_beginning(self, *partitions: TopicPartition) -> None:
        """Go to the first record; of all assigned partitions if none is named."""
        self._seek_to(partitions, 0)

    def seek_to_end(self, *partitions: TopicPartition) -> None:
        """Go behind the last record; of all assigned partitions if none is named."""
        self._seek_to(partitions, 1)

    def _seek_to(self, partitions: tuple[TopicPartition, ...], which: int) -> None:
        with self._enter(), self._guard():
            readers = [self._reader(p) for p in partitions] if partitions else list(self._held.readers.values())
            for reader in readers:
                bounds = self._service.bounds(reader.name, self._config.isolation_level)
                self._held.seek(reader.name, bounds[which])
            self._wakeup.pending = True

    def position(self, partition: TopicPartition) -> int:
        """The offset after the last record handed out, never a prefetched one."""
        with self._enter(), self._guard():
            name = self._reader(partition).name
            position = self._held.handed()[name]
            if position < 0:
                self._reset_to(name, *self._service.bounds(name, self._config.isolation_level), position)
            return position

    def offsets_for_times(
        self, times: Mapping[TopicPartition, int | datetime]
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        """The first record at or after each time (ms or aware datetime), None where all are earlier."""
        with self._enter(only_looks=True):
            wanted = {partition_of(p): to_ms(t) for p, t in times.items()}
            return {p: self._service.find_time(p, t) for p, t in wanted.items()}

    def beginning_offsets(self, partitions: Iterable[TopicPartition] | None = None) -> dict[TopicPartition, int]:
        """The first offset of each partition; of the assigned ones if None."""
        return self._bounds(partitions, 0)

    def end_offsets(self, partitions: Iterable[TopicPartition] | None = None) -> dict[TopicPartition, int]:
        """The offset after the last record of each partition; of the assigned ones if None."""
        return self._bounds(partitions, 1)

    def _bounds(self, partitions: Iterable[TopicPartition] | None, which: int) -> dict[TopicPartition, int]:
        with self._enter(only_looks=True):
            names = list(self._held.readers) if partitions is None else [partition_of(p) for p in partitions]
            return {name: self._service.bounds(name, self._config.isolation_level)[which] for name in names}

    def lag(self) -> dict[TopicPartition, int]:
        """How many offsets each assigned partition's end is ahead of the position."""
        with self._enter(), self._guard():
            handed = self._held.handed()
            isolation = self._config.isolation_level
            bounds = {name: self._service.bounds(name, isolation) for name in handed}
            return {name: max(0, bounds[name][1] - max(at, bounds[name][0])) for name, at in handed.items()}

    def pause(self, *partitions: TopicPartition) -> None:
        """Hand out nothing of these (all assigned if none is named) until `resume`; they stay assigned."""
        with self._enter(), self._guard():
            names = [self._reader(p).name for p in partitions] if partitions else list(self._held.readers)
            self._held.pause(names)

    def resume(self, *partitions: TopicPartition) -> None:
        """Hand out records of these (all assigned if none is named) again."""
        with self._enter(), self._guard():
            names = [self._reader(p).name for p in partitions] if partitions else list(self._held.readers)
            self._held.paused.difference_update(names)

    def paused(self) -> set[TopicPartition]:
        """The partitions that are paused."""
        with self._enter(only_looks=True):
            return set(self._held.paused)
