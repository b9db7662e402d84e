"""The partitions a consumer holds: a reader each, what of it was handed out, what of that is finished.

Three offsets of each partition matter. The reader's `position` is what was taken off the log. `handed`
is what the program was given (a loop takes records ahead of handing them out one by one). `finished`
is what auto-commit may commit: all before the first record still in the program's hands.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from ..types import Record, TopicPartition
from .reader import PartitionReader
from .record_batch import RecordBatch


class Assignment:
    """Readers by partition, and what is in hand. REQUIRES: the consumer's state lock."""

    def __init__(self) -> None:
        self.readers: dict[TopicPartition, PartitionReader] = {}
        self.paused: set[TopicPartition] = set()
        self.hand: dict[TopicPartition, int] = {}
        self.in_hand: Record[Any, Any] | None = None
        self.unread: Iterator[Record[Any, Any]] = iter(())
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
        left = [record for record in self._ahead() if (record[0], record[1]) not in gone]
        self.unread = iter(left)
        for name in gone:
            self.readers.pop(name, None)
            self.paused.discard(name)
            self.hand.pop(name, None)
        if self.in_hand is not None and self.in_hand.topic_partition in gone:
            self.in_hand = None

    def _ahead(self) -> list[Record[Any, Any]]:
        """The records taken but not handed out; they stay where they are."""
        ahead = list(self.unread)
        self.unread = iter(ahead)
        return ahead

    # -- handing out ---------------------------------------------------------------------------------

    def take(self, n: int) -> list[Record[Any, Any]]:
        """Up to `n` records, now in the program's hands. Partitions take turns to be first."""
        out = list(islice(self.unread, n))
        hand = self.hand
        for record in out:
            hand.setdefault(TopicPartition(record[0], record[1]), record[2])
        if out:
            return out
        for reader in self._in_turn():
            before = len(out)
            reader.take(out, n - before)
            if len(out) > before:
                hand.setdefault(reader.name, out[before][2])
                if len(out) >= n:
                    break
        return out

    def take_ahead(self, n: int) -> bool:
        """Take up to `n` records to be handed out one by one; False if there are none."""
        out: list[Record[Any, Any]] = []
        for reader in self._in_turn():
            reader.take(out, n)
            if out:
                self.unread = iter(out)
                return True
        return False

    def take_ahead_until(self, ends: dict[TopicPartition, int], n: int) -> bool:
        """`take_ahead`, but nothing at or past `ends`."""
        for reader in self._in_turn():
            end = ends[reader.name]
            out: list[Record[Any, Any]] = []
            if reader.position < end:
                reader.take(out, min(n, end - reader.position))
                if out and out[-1].offset >= end:
                    out = [record for record in out if record.offset < end]
                    reader.seek(end)
            if out:
                self.unread = iter(out)
                return True
        return False

    def take_batches(self, n: int) -> list[RecordBatch[Any, Any]]:
        for record in self._ahead():
            self._return(record.topic_partition, record.offset)
        self.unread = iter(())
        out: list[RecordBatch[Any, Any]] = []
        taken = 0
        for reader in self._in_turn():
            before = len(out)
            taken += reader.take_batches(out, n - taken)
            if len(out) > before:
                self.hand.setdefault(reader.name, out[before].base_offset)
                if taken >= n:
                    break
        return out

    def _in_turn(self) -> list[PartitionReader]:
        paused = self.paused
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
        if reader is not None and reader.position > offset:
            reader.seek(offset)

    def seek(self, name: TopicPartition, offset: int) -> None:
        ahead = self._ahead()
        self.unread = iter([record for record in ahead if (record[0], record[1]) != name])
        self.hand.pop(name, None)
        if self.in_hand is not None and self.in_hand.topic_partition == name:
            self.in_hand = None
        self.readers[name].seek(offset)

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
        for record in reversed(self._ahead()):
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
