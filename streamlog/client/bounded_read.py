"""A read of a topic whose bounds are fixed: `topic.read`, and what data frames and notebooks ask of it."""

from __future__ import annotations

from typing import NamedTuple

from ..types import TopicPartition
from .consumer.decode import Decoder
from .consumer.fetcher import PartitionFetcher
from .handle import Parent


class PartitionRange(NamedTuple):
    """The records of a partition from offset `start` up to, not including, `end`, and how to decode them."""

    name: TopicPartition
    start: int
    end: int
    decoder: Decoder


class BoundedRead(NamedTuple):
    """What to read of which partitions of a topic. Immutable; it can be begun any number of times, by any thread."""

    log: Parent
    topic_id: bytes
    ranges: tuple[PartitionRange, ...]
    isolation: str
    on_corrupt: str

    def begin(self) -> list[tuple[PartitionFetcher, int]]:
        """A reader of each partition, at its start, and the offset at which it ends. Raises ClosedError."""
        service = self.log._use()
        return [
            (PartitionFetcher(service, each.name, each.decoder, self.isolation, self.on_corrupt, each.start, topic_id=self.topic_id), each.end)
            for each in self.ranges
        ]  # fmt: skip
