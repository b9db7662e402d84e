"""The committed offsets of one group, and when they expire (KIP-211)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from ..types import OffsetAndMetadata, TopicPartition
from .schema import CommittedOffset, LogRecord, offset_key, offset_value


class Offsets:
    """What a group has committed, by partition. Only `replay` changes it.

    An offset counts for the topic whose id it was committed with, and for no other of the same name. What is kept
    of former topics is forgotten sooner or later; nothing rests on when.

    >>> offsets = Offsets("billing")
    >>> offsets.replay(TopicPartition("orders", 0), CommittedOffset(7, "", None, 1_000, b"id"))
    >>> offsets.committed(None, lambda partition: b"id")
    {TopicPartition(topic='orders', partition=0): OffsetAndMetadata(offset=7, metadata='', leader_epoch=None)}
    >>> offsets.committed(None, lambda partition: b"id of another topic")
    {}
    """

    __slots__ = ("_group", "by_partition")

    def __init__(self, group: str) -> None:
        self._group = group
        self.by_partition: dict[TopicPartition, CommittedOffset] = {}

    def __bool__(self) -> bool:
        return bool(self.by_partition)

    def replay(self, partition: TopicPartition, state: CommittedOffset | None) -> None:
        if state is None:
            self.by_partition.pop(partition, None)
        else:
            self.by_partition[partition] = state

    def committed(
        self, partitions: Iterable[TopicPartition] | None, topic_id: Callable[[TopicPartition], bytes | None]
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        """The positions of `partitions`, or of all, in the topics of these ids; those never committed are absent."""
        wanted = self.by_partition if partitions is None else map(_named, partitions)
        return {
            partition: OffsetAndMetadata(state.offset, state.metadata, state.leader_epoch)
            for partition in wanted
            if (state := self.by_partition.get(partition)) is not None and state.topic_id == topic_id(partition)
        }

    def commit(
        self,
        offsets: Mapping[TopicPartition, OffsetAndMetadata],
        topic_ids: Mapping[TopicPartition, bytes],
        now_ms: int,
    ) -> list[LogRecord]:
        """The records of a commit. Equal to what is there or not, it counts anew for expiry."""
        return [
            (offset_key(self._group, partition), offset_value(CommittedOffset(*position, now_ms, topic_ids[partition])))
            for partition, position in offsets.items()
        ]

    def beyond(
        self, ends: Mapping[TopicPartition, int], topic_id: Callable[[TopicPartition], bytes | None]
    ) -> dict[TopicPartition, CommittedOffset]:
        """What lies past one of `ends`, in the topics of these ids."""
        return {
            partition: state
            for partition, state in self.by_partition.items()
            if state.offset > ends.get(partition, state.offset) and state.topic_id == topic_id(partition)
        }

    def lower(self, partition: TopicPartition, end: int) -> LogRecord:
        """The record that moves an offset back to `end`; all else of it stays, its age too."""
        state = self.by_partition[partition]._replace(offset=end, leader_epoch=None)
        return offset_key(self._group, partition), offset_value(state)

    def of_former_topics(self, topic_id: Callable[[TopicPartition], bytes | None]) -> list[TopicPartition]:
        """The partitions whose offsets belong to topics that are gone."""
        return [partition for partition, state in self.by_partition.items() if state.topic_id != topic_id(partition)]

    def forget(self, partitions: Iterable[TopicPartition]) -> list[LogRecord]:
        """Tombstones for those of `partitions` that have an offset."""
        return [
            (offset_key(self._group, partition), None) for partition in partitions if partition in self.by_partition
        ]

    def deadlines(
        self, subscribed: frozenset[str], empty_since_ms: int | None, retention_ms: int
    ) -> Iterator[tuple[TopicPartition, int]]:
        """Each offset that can expire and when (ms).

        One of a subscribed topic never does, whatever its age: also in the middle of a rebalance, when
        nobody may hold the partition. The others count from the commit, and in a group that lost its last
        member from that moment if it is later.
        """
        for partition, state in self.by_partition.items():
            if partition.topic not in subscribed:
                yield partition, max(state.commit_ms, empty_since_ms or state.commit_ms) + retention_ms


def _named(partition: TopicPartition) -> TopicPartition:
    """A partition, also where a plain tuple was given."""
    return TopicPartition(*partition)
