"""The partitions a consumer holds: a reader each, what of it was handed out, what of that is finished.

Three offsets of each partition matter. The reader's `position` is what was taken off the log. `handed`
is what the program was given (a loop takes records ahead of handing them out one by one). `finished`
is what auto-commit may commit: all before the first record still in the program's hands.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..errors import StreamlogError
from ..types import Record, TopicPartition
from .reader import PartitionReader
from .record_batch import RecordBatch


class Assignment:
    """Readers by partition, and what is in hand. REQUIRES: the consumer's state lock.

    An interrupt can come after any call. So records taken ahead are a list and an index, not an
    iterator that a half-done step would have emptied; and what is taken is put down as in hand first.
    """

    def __init__(self) -> None:
        self.readers: dict[TopicPartition, PartitionReader] = {}
        self.paused: set[TopicPartition] = set()
        self.hand: dict[TopicPartition, int] = {}
        self.in_hand: Record[Any, Any] | None = None
        self.ahead: list[Record[Any, Any]] = []
        self.at = 0
        self._turn = 0

    def names(self) -> frozenset[TopicPartition]:
        return frozenset(self.readers)

    def active(self) -> list[TopicPartition]:
        return [name for name in self.readers if name not in self.paused]

    @property
    def idle(self) -> bool:
        """Whether the program has nothing in its hands, so partitions can go without asking it."""
        return not self.hand and self.in_hand is None

    # -- changing hands ------------------------------------------------------------------------------

    def add(self, reader: PartitionReader) -> None:
        self.readers[reader.name] = reader

    def drop(self, names: Iterable[TopicPartition]) -> None:
        gone = set(names)
        self.keep_ahead([record for record in self.unread() if (record[0], record[1]) not in gone])
        for name in gone:
            self.readers.pop(name, None)
            self.paused.discard(name)
            self.hand.pop(name, None)
        if self.in_hand is not None and self.in_hand.topic_partition in gone:
            self.in_hand = None

    def unread(self) -> list[Record[Any, Any]]:
        """The records taken but not handed out."""
        return self.ahead[self.at :]

    def keep_ahead(self, records: list[Record[Any, Any]]) -> None:
        """Have these, and no others, be the records taken but not handed out."""
        self.ahead, self.at = records, 0

    # -- handing out ---------------------------------------------------------------------------------

    def next(self) -> Record[Any, Any]:
        """The next record taken ahead, now in the program's hands. REQUIRES: there is one."""
        record = self.ahead[self.at]
        self.in_hand = record
        self.at += 1
        return record

    def take(self, n: int) -> list[Record[Any, Any]]:
        """Up to `n` records, now in the program's hands. Partitions take turns to be first."""
        hand = self.hand
        if self.at < len(self.ahead):
            out = self.ahead[self.at : self.at + n]
            for record in out:
                hand.setdefault(TopicPartition(record[0], record[1]), record[2])
            self.at += len(out)
            return out
        out = []
        for reader in self._in_turn():
            before = len(out)
            hand.setdefault(reader.name, reader.position)
            try:
                reader.take(out, n - before)
            except StreamlogError:
                if not out:
                    raise
                # What the others had is handed out first; the next poll meets the error again.
            if len(out) == before:
                del hand[reader.name]
            elif len(out) >= n:
                break
        return out

    def take_ahead(self, n: int, ends: dict[TopicPartition, int] | None) -> bool:
        """Have up to `n` records, none at or past `ends`, ready to be handed out one by one; False if none."""
        if self.at < len(self.ahead):
            return True
        for reader in self._in_turn():
            start = reader.position
            out: list[Record[Any, Any]] = []
            try:
                if ends is None:
                    reader.take(out, n)
                elif start < ends[reader.name]:
                    end = ends[reader.name]
                    reader.take(out, min(n, end - start))
                    if out and out[-1].offset >= end:
                        out = [record for record in out if record.offset < end]
                        reader.seek(end)
                if out:
                    self.keep_ahead(out)
                    return True
            except KeyboardInterrupt:
                if self.ahead is not out:
                    reader.seek(start)
                raise
        return False

    def take_batches(self, n: int, exactly: bool) -> list[RecordBatch[Any, Any]]:
        """Batches of up to `n` records in all, or, unless `exactly`, of the few more that the last one has."""
        for record in reversed(self.unread()):
            self._return(record.topic_partition, record.offset)
        self.keep_ahead([])
        out: list[RecordBatch[Any, Any]] = []
        taken = 0
        for reader in self._in_turn():
            before = len(out)
            self.hand.setdefault(reader.name, reader.position)
            try:
                taken += reader.take_batches(out, n - taken, exactly)
            except StreamlogError:
                if not out:
                    raise
            if len(out) == before:
                del self.hand[reader.name]
            elif taken >= n:
                break
        return out

    def _in_turn(self) -> list[PartitionReader]:
        paused = self.paused
        if len(self.readers) == 1 and not paused:
            return list(self.readers.values())
        readers = [r for r in self.readers.values() if r.name not in paused] if paused else list(self.readers.values())
        if len(readers) < 2:
            return readers
        self._turn = (self._turn + 1) % len(readers)
        return readers[self._turn :] + readers[: self._turn]

    def take_back(self) -> None:
        """What was taken for a call that did not return it, goes back."""
        for name, offset in self.hand.items():
            self._return(name, offset)
        self.hand.clear()

    def _return(self, name: TopicPartition, offset: int) -> None:
        reader = self.readers.get(name)
        if reader is not None:  # whatever its position says: an interrupt may have come before it was moved
            reader.seek(offset)

    def seek(self, name: TopicPartition, offset: int) -> None:
        if self.at < len(self.ahead):
            self.keep_ahead([record for record in self.unread() if (record[0], record[1]) != name])
        self.hand.pop(name, None)
        if self.in_hand is not None and self.in_hand.topic_partition == name:
            self.in_hand = None
        self.readers[name].seek(offset)

    def pause(self, names: Iterable[TopicPartition]) -> None:
        """Hand out nothing of these; what was taken ahead of them goes back."""
        silent = set(names)
        for record in reversed(self.unread()):
            if record.topic_partition in silent:
                self._return(record.topic_partition, record.offset)
        self.keep_ahead([record for record in self.unread() if record.topic_partition not in silent])
        self.paused |= silent

    # -- finishing -----------------------------------------------------------------------------------

    def finish(self) -> None:
        """The program is done with everything it was handed."""
        self.in_hand = None
        if self.hand:
            self.hand.clear()

    def finish_through(self, name: TopicPartition, offset: int) -> None:
        """The program is done with the partition's records before `offset`."""
        if self.in_hand is not None and self.in_hand.topic_partition == name and self.in_hand.offset < offset:
            self.in_hand = None
        if name in self.hand and offset > self.hand[name]:
            if offset >= self.readers[name].position:
                del self.hand[name]
            else:
                self.hand[name] = offset

    def handed(self) -> dict[TopicPartition, int]:
        """The offset after the last record handed out, of each partition."""
        positions = {name: reader.position for name, reader in self.readers.items()}
        for record in reversed(self.unread()):
            positions[TopicPartition(record[0], record[1])] = record[2]
        return positions

    def finished(self) -> dict[TopicPartition, int]:
        """The offset after the last record that the program is done with, of each partition."""
        positions = self.handed()
        positions.update((name, offset) for name, offset in self.hand.items() if name in positions)
        record = self.in_hand
        if record is not None and record.topic_partition in positions:
            positions[record.topic_partition] = record.offset
        return positions
