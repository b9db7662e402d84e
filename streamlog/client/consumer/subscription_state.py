"""The partitions a consumer holds: a reader each, what of it was handed out, what of that is finished.

One rule decides what was handed out: a poll's records are once `returned` is what it `polled`, a loop's record
is once `Ahead.at` has passed it, and each is the last thing that its call does. Readers run ahead of that and
prove nothing: whatever raised wherever in between, the next call puts them back to what was handed out. No
exception handler takes part in it, so no second exception can keep one from its work.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...errors import StreamlogError
from ...types import Record, TopicPartition
from .fetcher import PartitionReader
from .record_batch import RecordBatch


class Ahead:
    """Records of one partition that a loop hands out one by one; those before `at` were handed out.

    `after` is where the partition goes on behind the last one.
    """

    __slots__ = ("after", "at", "name", "records")

    def __init__(self, name: TopicPartition, records: list[Record[Any, Any]], after: int) -> None:
        self.name = name
        self.records = records
        self.after = after
        self.at = 0

    @property
    def unread(self) -> bool:
        return self.at < len(self.records)

    @property
    def position(self) -> int:
        """The offset after the last record handed out."""
        records, at = self.records, self.at
        return records[at].offset if at < len(records) else self.after


# Of no partition: its name is no topic's.
NOTHING = Ahead(TopicPartition("", -1), [], -1)


class Assignment:
    """Readers by partition, and what is in hand. REQUIRES: the consumer's state lock.

    `positions` are the offsets after the last record handed out, but for those that `ahead` and `polled`
    have moved on: `handed` tells all of them, `finished` what auto-commit may commit, which is everything
    before the first record still in the program's hands. `polled` is what a poll took, the offset after its
    last record for each partition; the program has it once that same object is in `returned` too.

    A loop takes the next record of `unlocked` without the lock. It puts the record down as in hand first, and
    then looks whether `unlocked` is still what it was; whoever takes partitions away empties `unlocked` first,
    and then looks whether something is in hand. So one of the two sees the other.
    """

    def __init__(self) -> None:
        self.readers: dict[TopicPartition, PartitionReader] = {}
        self.positions: dict[TopicPartition, int] = {}
        self.paused: set[TopicPartition] = set()
        self.polled: dict[TopicPartition, int] | None = None
        self.returned: dict[TopicPartition, int] | None = None
        self.in_hand: Record[Any, Any] | None = None
        self.ahead = NOTHING
        self.unlocked = NOTHING
        self._turn = 0

    def names(self) -> frozenset[TopicPartition]:
        return frozenset(self.readers)

    def active(self) -> list[TopicPartition]:
        return [name for name in self.readers if name not in self.paused]

    def lock_loop_out(self) -> bool:
        """Have a loop come for the lock before it takes the next record; whether the program has nothing in its hands.

        Then partitions can go without asking it.
        """
        self.unlocked = NOTHING
        return self.in_hand is None and self.polled is None

    # -- changing hands ------------------------------------------------------------------------------

    def add(self, reader: PartitionReader) -> None:
        self.positions[reader.name] = reader.position
        self.readers[reader.name] = reader

    def drop(self, names: Iterable[TopicPartition]) -> None:
        for name in set(names):
            self._let_go(name)
            self.readers.pop(name, None)
            self.positions.pop(name, None)
            self.paused.discard(name)

    def seek(self, name: TopicPartition, offset: int) -> None:
        self._let_go(name)
        self.positions[name] = offset

    def _let_go(self, name: TopicPartition) -> None:
        """Nothing of the partition is in hand any more, and nothing was taken ahead of it."""
        if self.ahead.name == name:
            self._put_back()
        if self.polled is not None:
            self.polled.pop(name, None)
            if not self.polled:
                self.polled = None
        if self.in_hand is not None and self.in_hand.topic_partition == name:
            self.in_hand = None

    def pause(self, names: Iterable[TopicPartition]) -> None:
        """Hand out nothing of these; what was taken ahead of them goes back."""
        self.paused.update(names)
        if self.ahead.name in self.paused:
            self._put_back()

    def _put_back(self) -> None:
        """What was taken ahead and not handed out is read again when it is wanted."""
        ahead = self.ahead
        self.unlocked = NOTHING
        if ahead.name in self.positions:
            self.positions[ahead.name] = ahead.position
        self.ahead = NOTHING

    # -- handing out ---------------------------------------------------------------------------------

    def take_ahead(self, n: int, ends: dict[TopicPartition, int] | None) -> bool:
        """Have up to `n` records, none at or past `ends`, ready to be handed out one by one; False if none."""
        if self.ahead.unread:
            return True
        self._put_back()
        for reader in self._in_turn():
            name = reader.name
            end = None if ends is None else ends[name]
            out: list[Record[Any, Any]] = []
            if end is None:
                self.placed(reader).take(out, n)
            elif self.positions[name] < end:
                self.placed(reader).take(out, min(n, end - self.positions[name]))
            else:
                continue
            after = reader.position
            if end is not None and after > end:
                out = [record for record in out if record.offset < end]
                after = end
            if out:
                self.ahead = Ahead(name, out, after)
                return True
            self.positions[name] = after  # past what is no record
        return False

    def offer(self) -> Ahead:
        """Put the next record taken ahead down as in hand. REQUIRES: there is one.

        Who then moves `at` past it has handed it out, and may go on so without the lock, see above.
        """
        ahead = self.unlocked = self.ahead
        self.in_hand = ahead.records[ahead.at]
        return ahead

    def take(self, n: int) -> list[Record[Any, Any]]:
        """Up to `n` records, as `polled`. Partitions take turns to be first."""
        self._begin_poll()
        polled: dict[TopicPartition, int] = {}
        out: list[Record[Any, Any]] = []
        for reader in self._in_turn():
            before = len(out)
            if reader.position != self.positions[reader.name]:
                self.placed(reader)
            try:
                reader.take(out, n - before)
            except StreamlogError:
                if not out:
                    raise
                # What the others had is handed out first; the next poll meets the error again.
            # Without records it only went past what is none, such as the marks that end transactions.
            (polled if len(out) > before else self.positions)[reader.name] = reader.position
            if len(out) >= n:
                break
        if out:
            self.polled = polled
        return out

    def take_batches(self, n: int, exactly: bool) -> list[RecordBatch[Any, Any]]:
        """Batches of up to `n` records in all, or, unless `exactly`, of the few more that the last one has."""
        self._begin_poll()
        polled: dict[TopicPartition, int] = {}
        out: list[RecordBatch[Any, Any]] = []
        taken = 0
        for reader in self._in_turn():
            before = len(out)
            try:
                taken += self.placed(reader).take_batches(out, n - taken, exactly)
            except StreamlogError:
                if not out:
                    raise
            # Without records it only went past what is none, such as the marks that end transactions.
            (polled if len(out) > before else self.positions)[reader.name] = reader.position
            if taken >= n:
                break
        if out:
            self.polled = polled
        return out

    def _begin_poll(self) -> None:
        if self.polled is not None:  # a listener polled inside this poll
            self.finish()
        if self.ahead is not NOTHING:
            self._put_back()

    def placed(self, reader: PartitionReader) -> PartitionReader:
        """The reader, at what was handed out: a call that raised may have left it further on."""
        position = self.positions[reader.name]
        if reader.position != position:
            reader.seek(position)
        return reader

    def _in_turn(self) -> list[PartitionReader]:
        paused = self.paused
        if len(self.readers) == 1 and not paused:
            return list(self.readers.values())
        readers = [r for r in self.readers.values() if r.name not in paused] if paused else list(self.readers.values())
        if len(readers) < 2:
            return readers
        self._turn = (self._turn + 1) % len(readers)
        return readers[self._turn :] + readers[: self._turn]

    # -- finishing -----------------------------------------------------------------------------------

    def finish(self) -> None:
        """The program is done with everything it was handed; what a call that raised had taken, it never was."""
        polled = self.polled
        if polled is not None:
            if polled is self.returned:
                self.positions.update(polled)
            self.polled = None
        self.in_hand = None

    def finish_through(self, name: TopicPartition, offset: int) -> None:
        """The program is done with the partition's records before `offset`."""
        if self.in_hand is not None and self.in_hand.topic_partition == name and self.in_hand.offset < offset:
            self.in_hand = None
        polled = self.polled
        if polled is None or polled is not self.returned:
            return
        if name in polled and offset > self.positions[name]:
            self.positions[name] = min(offset, polled[name])
        if all(self.positions[name] == end for name, end in polled.items()):
            self.polled = None

    def handed(self) -> dict[TopicPartition, int]:
        """The offset after the last record handed out, of each partition."""
        positions = self._before_polled()
        if self.polled is not None and self.polled is self.returned:
            positions.update(self.polled)
        return positions

    def finished(self) -> dict[TopicPartition, int]:
        """The offset after the last record that the program is done with, of each partition."""
        positions = self._before_polled()
        record = self.in_hand  # looked at last: a loop moves on only after it put down the record here
        if record is not None and record.topic_partition in positions:
            positions[record.topic_partition] = record.offset
        return positions

    def _before_polled(self) -> dict[TopicPartition, int]:
        positions = {name: self.positions[name] for name in self.readers}
        if self.ahead.name in positions:
            positions[self.ahead.name] = self.ahead.position
        return positions
