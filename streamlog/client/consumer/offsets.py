"""Offsets of the partitions of a consumer: where they begin and end, what is committed, and where reading starts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from ...broker.api import Service
from ...config import ConsumerConfig
from ...errors import OffsetOutOfRangeError
from ...runtime.api import Completion
from ...runtime.threads import result_of
from ...types import OffsetAndMetadata, OffsetAndTimestamp, TopicPartition
from .fetcher import PartitionFetcher
from .procedure import Procedure, answer_of
from .subscription_state import SubscriptionState

logger = logging.getLogger("streamlog.client")


class OffsetFetcher:
    """Asks the log and the group for offsets, and applies `auto_offset_reset`.

    REQUIRES for `position`, `lag` and `reset_out_of_range`, which use what is assigned: the consumer's state lock.
    """

    def __init__(self, service: Service, config: ConsumerConfig, subscriptions: SubscriptionState) -> None:
        self._service = service
        self._group = config.group
        self._isolation = config.isolation_level
        self._reset_policy = config.auto_offset_reset
        self._subscriptions = subscriptions

    def bounds(self, name: TopicPartition) -> tuple[int, int]:
        """The first offset of a partition, and the offset after its last record."""
        return result_of(self._service.bounds(name, self._isolation))

    def for_times(self, times: Mapping[TopicPartition, int]) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        return {
            name: result_of(self._service.find_offset(name, timestamp, self._isolation))
            for name, timestamp in times.items()
        }

    def committed(
        self, names: Iterable[TopicPartition], topic_ids: Mapping[TopicPartition, bytes] | None = None
    ) -> Completion[dict[TopicPartition, OffsetAndMetadata]]:
        """The group's committed offsets; none without a group."""
        if self._group is None:
            return Completion.of({})
        return self._service.committed(self._group, names, topic_ids)

    def position(self, name: TopicPartition) -> int:
        """The offset after the last record that was returned. Raises OffsetOutOfRangeError if there is no position yet."""
        position = self._subscriptions.returned_position(name)
        if position < 0:
            self.reset(name, *self.bounds(name), position)
        return position

    def lag(self) -> dict[TopicPartition, int]:
        """How many offsets the end of each partition is ahead of the position."""
        positions = self._subscriptions.returned_positions(self._subscriptions.fetchers)
        bounds = {name: self.bounds(name) for name in positions}
        return {name: max(0, bounds[name][1] - max(at, bounds[name][0])) for name, at in positions.items()}

    # -- where reading starts ------------------------------------------------------------------------

    def start(self, name: TopicPartition, committed: OffsetAndMetadata | None) -> Procedure[int]:
        """Where to start reading a partition; -1, which is nowhere, under `auto_offset_reset="none"`: the first read raises,
        unless there is a seek before.
        """
        start, end = yield from answer_of(self._service.bounds(name, self._isolation))
        if committed is not None:
            return committed.offset
        return -1 if self._reset_policy == "none" else self.reset(name, start, end)

    def reset(self, name: TopicPartition, start: int, end: int, position: int | None = None) -> int:
        """Where `auto_offset_reset` says to go on. Raises OffsetOutOfRangeError if that is "none"."""
        if self._reset_policy == "none":
            where = "nothing is committed for it" if position == -1 else f"offset {position} is not in it"
            raise OffsetOutOfRangeError(
                f"{name.topic}-{name.partition} holds offsets {start} up to, not including, {end}; {where}, and "
                f"auto_offset_reset='none' leaves the choice to you: seek, or commit an offset first.",
                log_start_offset=start,
                log_end_offset=end,
            )
        return start if self._reset_policy == "earliest" else end

    def reset_out_of_range(self, fetcher: PartitionFetcher) -> None:
        """Move a position that is outside the log, because retention deleted records there."""
        name = fetcher.name
        position = self._subscriptions.positions[name]
        bounds = fetcher.bounds_if_out_of_range(position)
        if bounds is not None:
            start, end = bounds
            onward = self.reset(name, start, end, position)
            logger.warning(
                "%s-%d: offset %d is outside the log (%d to %d); going on at %d (auto_offset_reset=%r)",
                *name, position, start, end, onward, self._reset_policy,
            )  # fmt: skip
            self._subscriptions.seek(name, onward)
