"""Records of several partitions in the order of their timestamps, merged from the front or from the end.

Within a partition the order is that of the offsets, always: what is compared is the next record of each partition. So a
record that was sent late, with an earlier timestamp than the one before it, comes directly after that one. Records with the
same timestamp come in the order of their partitions. It is the merge of sorted runs, as `heapq.merge` makes it, of runs
that need not be sorted.

Every list that is held here is bounded: `TAKE` records of all partitions together, or `_LEAST` of each; and a fetch of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import merge
from itertools import chain, islice
from operator import itemgetter
from typing import Any

from ..errors import StreamlogError
from ..types import Record
from .consumer.fetcher import PartitionFetcher

TAKE = 512
"""How many records are decoded at a time, of all partitions together."""
_LEAST = 4  # or so many of each; one by one they would cost three times as much
_GROWTH = 4
_timestamp_of = itemgetter(3)

Bounded = Sequence[tuple[PartitionFetcher, int]]
"""Readers of partitions, in their order, and the offset before which each ends."""


def lists_of(reader: PartitionFetcher, stop: int, take: int = TAKE) -> Iterator[list[Record[Any, Any]]]:
    """The records before `stop`, in lists of up to `take`."""
    while reader.position < stop:
        out: list[Record[Any, Any]] = []
        reader.take(out, min(take, stop - reader.position))
        if not out:
            return
        if out[-1].offset >= stop:
            yield [record for record in out if record.offset < stop]
            return
        yield out


def in_lists(records: Iterator[Record[Any, Any]]) -> Iterator[list[Record[Any, Any]]]:
    """The same records in lists. An error comes after the records that were before it."""
    while True:
        out: list[Record[Any, Any]] = []
        try:
            out.extend(islice(records, TAKE))  # which keeps what it has when the iterator raises
        except StreamlogError:
            if out:
                yield out
            raise
        if not out:
            return
        yield out


def merged(bounded: Bounded) -> Iterator[Record[Any, Any]]:
    """The records of all partitions, each from its reader's position on."""
    take = _share(len(bounded))
    return merge(*(chain.from_iterable(lists_of(reader, stop, take)) for reader, stop in bounded), key=_timestamp_of)


def newest(bounded: Bounded, n: int) -> list[Record[Any, Any]]:
    """The last `n` records of all partitions, merged from the end: the mirror image of `merged`.

    From the end on, the next is the last record of the partition whose last record has the greatest timestamp. Where the timestamps
    of each partition ascend, these are the last `n` of `merged`. Cost: see `backwards`; nothing else is read.
    """
    want = min(n, _share(len(bounded)))
    # Of equal timestamps the first stream's comes first, so the last partition's.
    streams = [chain.from_iterable(backwards(reader, stop, want)) for reader, stop in reversed(bounded)]
    found = list(islice(merge(*streams, key=_timestamp_of, reverse=True), n))
    found.reverse()
    return found


def _share(partitions: int) -> int:
    return max(_LEAST, TAKE // max(1, partitions))


def backwards(reader: PartitionFetcher, high: int, want: int) -> Iterator[list[Record[Any, Any]]]:
    """The records from the reader's position up to, not including, `high`: lists of up to 2 * `want`, each from its last record back.

    A partition can be read forward only, and how many records are between two offsets is not known: compaction leaves gaps,
    transactions leave markers, and those that were aborted leave records that are passed over. So a range before `high` is read,
    as wide as `want` records were so far. If it has few records, the next one is wider; if it has too many, only some are
    read, and the half of it is tried. Cost: O(`want`) records for each list, times the logarithm of the gaps, and what was
    aborted between them.
    """
    low = reader.position
    step = want
    while high > low:
        start = max(low, high - step)
        found = _some(reader, start, high, 2 * want)
        if found is None:
            step = (high - start) // 2  # which is at least `want`: there are more than twice as many
            continue
        high = start
        if len(found) < want:
            step *= _GROWTH
        if found:
            found.reverse()
            yield found


def _some(reader: PartitionFetcher, start: int, stop: int, most: int) -> list[Record[Any, Any]] | None:
    """The records from `start` up to, not including, `stop`; None if there are more than `most`."""
    reader.seek(start)
    out: list[Record[Any, Any]] = []
    for some in lists_of(reader, stop, most + 1):
        out += some
        if len(out) > most:
            return None
    return out
