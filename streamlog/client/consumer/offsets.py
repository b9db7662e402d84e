"""Offsets of the partitions of a consumer: where they begin and end, what is committed, and where reading starts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from ...broker.api import Service
from ...config import ConsumerConfig
from ...errors import LogTruncationError, NotLeaderError, OffsetOutOfRangeError, StreamlogError
from ...runtime.api import Completion
from ...runtime.threads import result_of, results_of
from ...types import OffsetAndMetadata, OffsetAndTimestamp, TopicPartition
from ..retrying import commits_of, with_retries
from .fetcher import PartitionFetcher
from .procedure import Procedure, answer_of
from .subscription_state import EndOffsets, SubscriptionState

logger = logging.getLogger("streamlog.client")


class OffsetFetcher:
    """Asks the log and the group for offsets, and applies `auto_offset_reset`.

    What the program asks for waits for a leader (`retrying`); what a poll asks for does not.

    REQUIRES for `position`, `lag`, `find_ends` and `reset_out_of_range`, which use what is assigned: the consumer's state lock.
    """

    def __init__(self, service: Service, config: ConsumerConfig, subscriptions: SubscriptionState) -> None:
        self._service = service
        self._patient = with_retries(service)
        self._patient_commits = commits_of(service)
        self._group = config.group
        self._isolation = config.isolation_level
        self._reset_policy = config.auto_offset_reset
        self._subscriptions = subscriptions

    def bounds(self, names: Iterable[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        """The first offset of each partition, and the offset after its last record."""
        return results_of({name: self._patient.bounds(name, self._isolation) for name in names})

    def _bounds_of(self, name: TopicPartition) -> tuple[int, int]:
        return result_of(self._patient.bounds(name, self._isolation))

    def for_times(self, times: Mapping[TopicPartition, int]) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        find = self._patient.find_offset
        return results_of({name: find(name, timestamp, self._isolation) for name, timestamp in times.items()})

    def committed(
        self,
        names: Iterable[TopicPartition],
        topic_ids: Mapping[TopicPartition, bytes] | None = None,
        *,
        patient: bool = False,
        require_stable: bool = False,
    ) -> Completion[dict[TopicPartition, OffsetAndMetadata]]:
        """The group's committed offsets; none without a group. `require_stable`: see `Service.committed`."""
        if self._group is None:
            return Completion.of({})
        service = self._patient_commits if patient else self._service
        return service.committed(self._group, names, topic_ids, require_stable=require_stable)

    def position(self, name: TopicPartition) -> int:
        """The offset after the last record that was returned. Raises OffsetOutOfRangeError if there is no position yet."""
        position = self._subscriptions.returned_position(name)
        if position < 0:
            self.reset(name, *self._bounds_of(name), position)
        return position

    def lag(self) -> dict[TopicPartition, int]:
        """How many offsets the end of each partition is ahead of the position."""
        positions = self._subscriptions.returned_positions(self._subscriptions.fetchers)
        bounds = self.bounds(positions)
        return {name: max(0, bounds[name][1] - max(at, bounds[name][0])) for name, at in positions.items()}

    def find_ends(self, ends: EndOffsets) -> None:
        """Add the end of each assigned partition that `ends` does not have. One without a leader has none until it has one."""
        fetchers = self._subscriptions.fetchers
        ends.unknown.intersection_update(fetchers)
        for name in fetchers:
            if name not in ends.offsets or name in ends.unknown:
                found = self._service.bounds(name, self._isolation)
                if isinstance(found.error(), NotLeaderError):
                    ends.offsets[name] = 0
                    ends.unknown.add(name)
                else:
                    ends.offsets[name] = found.result()[1]
                    ends.unknown.discard(name)
        ends.additions = self._subscriptions.additions

    # -- where reading starts ------------------------------------------------------------------------

    def start(self, name: TopicPartition, committed: OffsetAndMetadata | None) -> Procedure[int]:
        """Where to start reading a partition; -1, which is nowhere, under `auto_offset_reset="none"`: the first read raises,
        unless there is a seek before. So it is where the partition has no leader, and the first read resets it.
        """
        try:
            start, end = yield from answer_of(self._service.bounds(name, self._isolation))
        except NotLeaderError:
            return -1 if committed is None else committed.offset
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
            if position >= 0:
                logger.warning(
                    "%s-%d: offset %d is outside the log (%d to %d); going on at %d (auto_offset_reset=%r)",
                    *name, position, start, end, onward, self._reset_policy,
                )  # fmt: skip
            self._subscriptions.seek(name, onward)

    def reset_truncated(self, fetcher: PartitionFetcher, error: LogTruncationError) -> None:
        """Move a position whose last record is lost to where the logs part, as Kafka's consumer does; raise under "none"."""
        if self._reset_policy == "none":
            raise error
        self._subscriptions.seek(fetcher.name, self._onward(fetcher.name, error))

    def _onward(self, name: TopicPartition, error: LogTruncationError) -> int:
        onward = error.divergent_offset
        if onward is None:
            onward = self.reset(name, *self._bounds_of(name))
        logger.warning("%s; going on at %d (auto_offset_reset=%r)", error, onward, self._reset_policy)
        return onward

    def check_committed(self, fetcher: PartitionFetcher) -> None:
        """As `reset_truncated`, for a fetcher that is to begin at a committed offset. Whatever fails, the first read meets too."""
        try:
            fetcher.require_last_record()
        except LogTruncationError as error:
            if self._reset_policy != "none":
                fetcher.seek(self._onward(fetcher.name, error))
        except StreamlogError:
            pass
