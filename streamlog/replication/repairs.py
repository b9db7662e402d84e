"""What becomes of damage in a replica: reads go to another one, and the damaged place is filled from there.

A read that meets a damaged batch is answered with what another replica has (`fetch_elsewhere`), and notes where that was
(`Repairs.note`); so does the scrub, and a compaction that cannot go on. The maintenance of the partition then has
`Repairs.run` write the damaged segment anew (`storage/repair.py`). Until that is done, or if no replica can fill the place,
the damage stays, and is tried again, twice as late each time.

Only replicas are asked whose log is known to be the same: the leader's, and those of followers that have fetched from it in
its leader epoch, up to the offset at which they fetched last.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable
from typing import NamedTuple, Protocol

from ..errors import CorruptRecordError, StorageError, StreamlogError
from ..records.batch import read_header, verify_payload
from ..runtime.api import Lock
from ..storage import repair
from ..storage.log import Log
from ..storage.reader import LogReader
from ..storage.repair import Piece, Repaired, Source
from ..storage.replacement import Publish
from ..storage.segment import Segment
from ..storage.tail import EMPTY, FetchData
from ..types import TopicPartition

logger = logging.getLogger("streamlog.replication")

# How soon a repair is tried again that could not be made, at first and at last.
RETRY_MS = 1_000
MAX_RETRY_MS = 3_600_000
# How often a segment may be damaged anew, in one run of the log, before the disk counts as failed.
MAX_REPAIRS = 3


class Replica(Protocol):
    """What is needed of another replica."""

    @property
    def lock(self) -> Lock: ...
    @property
    def log(self) -> Log: ...
    @property
    def reader(self) -> LogReader: ...
    @property
    def broker_id(self) -> int: ...


class Peer(NamedTuple):
    """Another replica of a partition, whose log is known to be the same up to offset `end`."""

    replica: Replica
    end: int


def fetch_elsewhere(peers: Iterable[Peer], offset: int, max_bytes: int, end_offset: int) -> FetchData:
    """What `LogReader.fetch` would bring, from the first replica that has it whole; EMPTY if none has.

    Its checksums are verified. Cost: as a fetch of each replica that is damaged there too.
    """
    for replica, end in peers:
        until = min(end, end_offset)
        if offset < until and (found := fetch_whole(replica.reader, offset, max_bytes, until)) is not EMPTY:
            return found._replace(end_offset=end_offset)
    return EMPTY


class Reader(Protocol):
    """What is needed of a log that is read."""

    def fetch(self, offset: int, max_bytes: int, end_offset: int) -> FetchData: ...


def fetch_whole(reader: Reader, offset: int, max_bytes: int, end_offset: int) -> FetchData:
    """What `LogReader.fetch` brings, verified; EMPTY if there is nothing whole at `offset`, or the log is deleted, or closed."""
    try:
        chunk = reader.fetch(offset, max_bytes, end_offset)
        size = _whole_bytes(chunk, end_offset)
    except StreamlogError:
        return EMPTY
    if not size:
        return EMPTY
    return FetchData(memoryview(chunk.data)[:size], chunk.seed, chunk.path, chunk.position, end_offset=end_offset)


def _whole_bytes(chunk: FetchData, until: int) -> int:
    """How many bytes there are before the first batch that does not verify, or begins at offset `until` or later."""
    data, at = chunk.data, 0
    try:
        while at < len(data):
            header = read_header(data, at, chunk.seed, chunk.path, chunk.position + at)
            if header.base_offset >= until:
                break
            payload = memoryview(data)[at + header.header_len : at + header.batch_len]
            verify_payload(header, payload, chunk.seed, chunk.path, chunk.position + at)
            at += header.batch_len
    except CorruptRecordError:
        return at
    return at


class RepairCounts:
    """How many damaged places were found since the log was opened, and how many of them were filled; of one broker or more."""

    def __init__(self) -> None:
        self.found = self.filled = 0


class Repairs:
    """The damage that is known in one replica. `note` may be called by any thread; the rest REQUIRES the maintenance lock.

    `peers` gives the other replicas; without it nothing is repaired, and nothing noted.
    """

    def __init__(self, name: TopicPartition, log: Log) -> None:
        self.peers: Callable[[], list[Peer]] | None = None
        self.on_failure: Callable[[StreamlogError], object] = lambda error: None
        """Called if the disk does not take a repair, or damages it again and again."""
        self.counts = RepairCounts()
        self._name = name
        self._log = log
        # By a damaged offset: when it is tried, and after how long once more (ms of the log's clock).
        self._noted: dict[int, tuple[int, int]] = {}
        self._repairs: dict[int, int] = {}

    def note(self, offset: int) -> None:
        """The batch with `offset`, or what is there in its place, does not verify."""
        if self.peers is not None:
            self._noted.setdefault(offset, (0, RETRY_MS))

    def others(self) -> list[Peer]:
        """The other replicas there are now."""
        return [] if self.peers is None else self.peers()

    def next_deadline_ms(self) -> int | None:
        return min([due_ms for due_ms, _ in list(self._noted.values())], default=None)

    def is_due(self, now_ms: int) -> bool:
        due_ms = self.next_deadline_ms()
        return due_ms is not None and due_ms <= now_ms

    def take(self, now_ms: int) -> int | None:
        """A damaged offset that is due, which is tried again later unless it is repaired; None if it is not in the log any more."""
        (_, delay_ms), offset = min((when, offset) for offset, when in list(self._noted.items()))
        self._noted[offset] = (now_ms + delay_ms, min(2 * delay_ms, MAX_RETRY_MS))
        tail = self._log.tail
        if tail.start_offset <= offset < tail.end_offset:
            return offset
        self._noted.pop(offset, None)
        return None

    def place_of(self, offset: int) -> tuple[Segment, int, int] | None:
        """The segment that `offset` belongs to, where that begins, and where the next one does; None for the active one.

        The first one begins at the log start, though its file, or the one before it, is missing.
        """
        tail = self._log.tail
        at = max(0, bisect_right(tail.bases, offset) - 1)
        if at == len(tail.bases) - 1:
            return None
        start = tail.bases[at] if at else min(tail.bases[0], tail.start_offset)
        return tail.segments[at], start, tail.bases[at + 1]

    def run(self, segment: Segment, start: int, end_offset: int, publish: Publish) -> Generator[int, None, Repaired]:
        """Repair one segment; see `repair.rewrite`."""
        try:
            done = yield from repair.rewrite(self._log, segment, start, end_offset, self._sources, publish)
        except (StorageError, CorruptRecordError) as error:  # the latter for a file that is shorter than it was
            self.on_failure(error)
            raise
        self.counts.found += done.damaged
        self.counts.filled += done.filled
        where = (*self._name, segment.path, start, end_offset - 1)
        if done.filled < done.damaged:
            logger.error(
                "%s-%d: %s (offsets %d to %d): %d of %d damaged places are in no other replica that is known to be the same",
                *where, done.damaged - done.filled, done.damaged,
            )  # fmt: skip
        else:
            for offset in [each for each in list(self._noted) if each < end_offset and each >= start]:
                self._noted.pop(offset, None)
        if done.filled:
            logger.warning(
                "%s-%d: %s (offsets %d to %d): %d damaged places were filled with %d batches of other replicas",
                *where, done.filled, done.batches,
            )  # fmt: skip
            self._count(segment)
        return done

    def _count(self, segment: Segment) -> None:
        count = self._repairs[segment.base_offset] = self._repairs.get(segment.base_offset, 0) + 1
        if count >= MAX_REPAIRS:
            self.on_failure(
                StorageError(
                    f"{segment.path} was damaged {count} times since the log was opened, and repaired each time: its disk does "
                    f"not keep what is written.",
                    path=segment.path,
                    errno=0,
                )
            )

    def _sources(self, piece: Piece) -> list[Source]:
        """See `storage/repair.py` for which may fill a place that was compacted here."""
        cleaned_until = self._log.cleaned_until
        least = cleaned_until if cleaned_until > 1 and piece.start < cleaned_until else 0
        return [
            Source(replica.reader, end, replica.log.cleaned_until > 0)
            for replica, end in self.others()
            if replica.log.cleaned_until >= least
        ]
