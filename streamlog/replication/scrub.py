"""The scrub: reads the segments of every replica again and again, so that damage is found before it is read.

A replica whose damage is found while the others are whole is repaired from them; found years later, it may be the last one
(Bairavasundaram et al., FAST 2008: most latent damage is found by scrubs, not by reads). The rate and the time between two
passes are those of HDFS's block scanner (dfs.block.scanner.volume.bytes.per.second, dfs.datanode.scan.period.hours). What is
found is noted in the partition, whose maintenance repairs it.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator

from ..errors import StreamlogError
from ..storage import repair
from ..storage.tail import LogSnapshot
from .partition import Partition

logger = logging.getLogger("streamlog.replication")

BYTES_PER_S = 1 << 20
INTERVAL_MS = 21 * 24 * 3_600_000
"""How long after the begin of a pass the next one begins, at least."""
START_MS = 60_000
"""How long after the open of a log the first pass begins: most programs that are short have ended by then."""
# How much a step reads. A batch counts as so much at least: the time goes by batches, if they are small.
_STEP_BYTES = 1 << 18
_BATCH_BYTES = 1 << 12


class Scrub:
    """One for all replicas of a log. `step` is a task of the maintenance; `look_at` may be called by any thread.

    `read_bytes` counts since the log was opened.
    """

    def __init__(self, replicas: Callable[[], Iterable[Partition]], bytes_per_s: int = BYTES_PER_S) -> None:
        self._replicas = replicas
        self._bytes_per_s = bytes_per_s
        self._walk: Iterator[int] = iter(())  # of the pass
        self._started: list[Partition] = []  # to be read before it, the next one last
        self._first: Iterator[int] = iter(())  # of one of these
        self._began_ms: int | None = None
        self.read_bytes = 0

    def look_at(self, replicas: Iterable[Partition]) -> None:
        """Read these first: their broker was started again, and it is not known what became of its files meanwhile."""
        # Those of a broker that has been stopped since are not kept: brokers may start faster than they are read.
        waiting = [each for each in self._started if each.closed is None]
        self._started = [*waiting, *reversed(list(replicas))]

    def step(self, now_ms: int) -> int:
        """Read some; when to come again (ms of the log's clock)."""
        cost = 0
        while cost < _STEP_BYTES:
            size = self._read_some()
            if size is None:
                return max(now_ms + 1, self._next_pass(now_ms))
            self.read_bytes += size
            cost += max(size, _BATCH_BYTES)
        return now_ms + cost * 1000 // self._bytes_per_s

    def _read_some(self) -> int | None:
        """Read the next batch; its size, or None at the end of the pass."""
        size = next(self._first, None)
        while size is None and (started := self._started):
            self._first = self._read([started.pop()])
            size = next(self._first, None)
        return next(self._walk, None) if size is None else size

    def _next_pass(self, now_ms: int) -> int:
        """The last pass has ended: begin one if it is time; when."""
        if self._began_ms is None or now_ms >= self._began_ms + INTERVAL_MS or now_ms < self._began_ms:
            self._began_ms = now_ms
            self._walk = self._read(self._replicas())
            return now_ms
        return self._began_ms + INTERVAL_MS

    def _read(self, replicas: Iterable[Partition]) -> Iterator[int]:
        """Read every segment of these; each step gives the size of a batch, or of a damaged place."""
        for replica in replicas:
            before = -1
            while replica.closed is None:
                tail = replica.reader.tail  # it may have been compacted, and older segments deleted
                at = bisect_right(tail.bases, before)
                if at == len(tail.bases):
                    break
                before = tail.bases[at]
                yield from self._read_segment(replica, tail, at)

    @staticmethod
    def _read_segment(replica: Partition, tail: LogSnapshot, at: int) -> Iterator[int]:
        segment = tail.segments[at]
        is_active = segment is tail.segments[-1]
        end_offset, size = (tail.end_offset, tail.end_position) if is_active else (tail.bases[at + 1], segment.size)
        if not at and segment.base_offset > tail.start_offset:
            replica.note_damage(tail.start_offset)  # the first segment is missing
        try:
            for piece in repair.pieces(segment, end_offset, size):
                tail = replica.reader.tail
                if segment not in tail.segments:
                    return  # deleted, compacted, or repaired by now
                if piece.data is None and piece.end > tail.start_offset:
                    replica.note_damage(max(piece.start, tail.start_offset))
                yield piece.size
        except StreamlogError as error:
            tail = replica.reader.tail
            if replica.closed is None and segment in tail.segments:
                logger.error("%s-%d: %s cannot be read: %s", *replica.name, segment.path, error)
                replica.note_damage(max(segment.base_offset, tail.start_offset))
