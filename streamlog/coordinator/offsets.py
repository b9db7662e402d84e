"""The committed offsets of one group, and when they expire (KIP-211).

An offset that is committed in a transaction is pending, by the producer's id, until the marker of the transaction comes. Of two
offsets for a partition the one that was written later counts, whichever was decided later: compaction keeps that one too.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping

from ..types import OffsetAndMetadata, TopicPartition
from .schema import CommittedOffset, LogRecord, offset_key, offset_value


class Offsets:
    """The committed offsets of a group, by partition. Only `replay` changes them.

    An offset is valid for the topic whose id it was committed with, and for no other topic of the same name. Offsets of
    topics that do not exist any more are deleted at some time; nothing depends on when.

    >>> offsets = Offsets("billing")
    >>> offsets.replay(TopicPartition("orders", 0), CommittedOffset(7, "", None, 1_000, b"id"))
    >>> offsets.committed(None, lambda partition: b"id")
    {TopicPartition(topic='orders', partition=0): OffsetAndMetadata(offset=7, metadata='', leader_epoch=None)}
    >>> offsets.committed(None, lambda partition: b"id of another topic")
    {}
    """

    __slots__ = ("_group", "_written", "by_partition", "pending")

    def __init__(self, group: str) -> None:
        self._group = group
        self.by_partition: dict[TopicPartition, CommittedOffset] = {}
        # By producer id: each offset with a number that grows from one to the next that was written.
        self.pending: dict[int, dict[TopicPartition, tuple[int, CommittedOffset]]] = {}
        self._written = 0

    def __bool__(self) -> bool:
        return bool(self.by_partition) or bool(self.pending)

    def replay(self, partition: TopicPartition, state: CommittedOffset | None) -> None:
        for pending in self.pending.values():
            pending.pop(partition, None)
        if state is None:
            self.by_partition.pop(partition, None)
        else:
            self.by_partition[partition] = state

    def replay_pending(self, producer_id: int, partition: TopicPartition, state: CommittedOffset) -> None:
        self._written += 1
        self.pending.setdefault(producer_id, {})[partition] = self._written, state

    def replay_end(self, producer_id: int, commit: bool) -> None:
        """The transaction of a producer has ended: what it committed counts, or is forgotten."""
        for partition, (written, state) in self.pending.pop(producer_id, {}).items():
            if commit:
                for others in self.pending.values():
                    if partition in others and others[partition][0] < written:
                        del others[partition]
                self.by_partition[partition] = state

    @property
    def partitions(self) -> set[TopicPartition]:
        """Those with an offset, decided or not."""
        return {*self.by_partition, *self.unstable(None)}

    def unstable(self, partitions: Iterable[TopicPartition] | None) -> list[TopicPartition]:
        """Those of `partitions`, or of all, that have an offset which is not decided."""
        found = {partition for pending in self.pending.values() for partition in pending}
        return sorted(found if partitions is None else found.intersection(map(_named, partitions)))

    def committed(
        self, partitions: Iterable[TopicPartition] | None, topic_id: Callable[[TopicPartition], bytes | None]
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        """The positions of `partitions`, or of all, in the topics of these ids; partitions without a commit are absent."""
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
        """The records of a commit. Even if the offset is the same as before, its expiry starts again."""
        return [
            (offset_key(self._group, partition), offset_value(CommittedOffset(*position, now_ms, topic_ids[partition])))
            for partition, position in offsets.items()
        ]

    def beyond(
        self, ends: Mapping[TopicPartition, int], topic_id: Callable[[TopicPartition], bytes | None]
    ) -> dict[TopicPartition, CommittedOffset]:
        """The offsets past one of `ends`, in the topics of these ids."""
        return {
            partition: state
            for partition, state in self.by_partition.items()
            if state.offset > ends.get(partition, state.offset) and state.topic_id == topic_id(partition)
        }

    def lower(self, partition: TopicPartition, end: int) -> LogRecord:
        """The record that moves an offset back to `end`, and keeps the rest of it, its age too."""
        state = self.by_partition[partition]._replace(offset=end, leader_epoch=None)
        return offset_key(self._group, partition), offset_value(state)

    def of_former_topics(self, topic_id: Callable[[TopicPartition], bytes | None]) -> list[TopicPartition]:
        """The partitions whose offsets belong to topics that do not exist any more."""
        return [partition for partition, state in self.by_partition.items() if state.topic_id != topic_id(partition)]

    def forget(self, partitions: Iterable[TopicPartition]) -> list[LogRecord]:
        """Tombstones for those of `partitions` that have an offset, decided or not."""
        known = self.by_partition if not self.pending else self.partitions
        return [(offset_key(self._group, partition), None) for partition in partitions if partition in known]

    def deadlines(
        self, subscribed: Container[str], empty_since_ms: int | None, retention_ms: int
    ) -> Iterator[tuple[TopicPartition, int]]:
        """Each offset that can expire, and when (ms).

        An offset of a subscribed topic never expires, whatever its age: also in the middle of a rebalance, when no member
        may hold the partition. For the others the time runs from the commit, or from the moment when the group lost its last
        member if that is later.
        """
        for partition, state in self.by_partition.items():
            if partition.topic not in subscribed:
                yield partition, max(state.commit_ms, empty_since_ms or state.commit_ms) + retention_ms


def _named(partition: TopicPartition) -> TopicPartition:
    """A TopicPartition, also where a plain tuple was given."""
    return TopicPartition(*partition)
