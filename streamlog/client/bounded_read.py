"""A read of a topic whose bounds are fixed: `topic.read`, and what data frames and notebooks ask of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any, NamedTuple

from ..broker.api import Service
from ..runtime.threads import result_of
from ..types import Record, TopicPartition
from .consumer.decode import Decoder, deserialized
from .consumer.fetcher import PartitionFetcher
from .handle import Parent
from .time_order import in_lists, lists_of, merged, newest


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
    order: str = "partition"
    """Of records: "partition", one after another, or "time", merged by their timestamps."""

    def begin(self, *, raw: bool = False) -> list[tuple[PartitionFetcher, int]]:
        """A reader of each partition, at its start, and the offset at which it ends. Raises ClosedError.

        `raw`: the readers do not deserialize.
        """
        service = self.log._use()
        return [(self._reader(service, each, raw), each.end) for each in self.ranges]

    def _reader(self, service: Service, of: PartitionRange, raw: bool) -> PartitionFetcher:
        decoder = Decoder(*of.name, None, None) if raw else of.decoder
        return PartitionFetcher(
            service, of.name, decoder, self.isolation, self.on_corrupt, of.start, topic_id=self.topic_id
        )

    def lists(self) -> Iterator[list[Record[Any, Any]]]:
        """The records in their order, in lists. It begins at the call."""
        if self.order == "time":
            return in_lists(self._deserialized(merged(self.begin(raw=True))))
        bounded = self.begin()
        return (some for reader, end in bounded for some in lists_of(reader, end))

    def records(self) -> Iterator[Record[Any, Any]]:
        """The records in their order, for one thread. It begins at the call."""
        return chain.from_iterable(self.lists())

    def first(self, n: int, *, retries: bool = True) -> Iterator[Record[Any, Any]]:
        """The first `n` records in their order. No others are deserialized.

        Without `retries` a partition that has no leader is not waited for: its records are left out.
        """
        service = self.log._use(retries=retries)
        readers = ((self._reader(service, each, raw=True), each.end) for each in self.ranges if each.start < each.end)
        if self.order == "time":
            return self._deserialized(islice(merged(list(readers)), n))
        lists = (some for reader, end in readers for some in lists_of(reader, end, n))
        return self._deserialized(islice(chain.from_iterable(lists), n))

    def last(self, n: int) -> Iterator[Record[Any, Any]]:
        """The last `n` records by time, merged from the end."""
        return self._deserialized(iter(newest(self.begin(raw=True), n)))

    def _deserialized(self, raw: Iterator[Record[Any, Any]]) -> Iterator[Record[Any, Any]]:
        decoder = self.ranges[0].decoder  # the others have the same functions
        return raw if decoder.plain else deserialized(raw, decoder)

    def within(
        self,
        ranges: Iterable[PartitionRange],
        first: int | None,
        last: int | None,
        earliest: int | None,
        latest: int | None,
    ) -> Iterator[PartitionRange]:
        """The part of these ranges that has all records with offsets from `first` to `last`, and times from `earliest` to `latest` (ms).

        None: without a bound. Records with other times may be in it too.
        """
        service = self.log._use()
        for each in ranges:
            start = each.start if first is None else max(each.start, first)
            end = each.end if last is None else min(each.end, last + 1)
            if earliest is not None and start < end:
                found = result_of(service.find_offset(each.name, earliest, self.isolation))
                start = end if found is None else max(start, found.offset)
            if latest is not None and start < end:
                end = result_of(service.end_for_time(each.name, latest, end))
            if start < end:
                yield each._replace(start=start, end=end)

    def counts(self) -> list[int | None]:
        """How many records each range has; None where that is not known without reading them."""
        service = self.log._use()
        return [
            each.end - each.start if result_of(service.has_every_offset(each.name, each.start, each.end)) else None
            for each in self.ranges
        ]
