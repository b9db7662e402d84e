"""What a consumer is subscribed to and assigned, its positions, and which records the program has not finished.

One rule decides which records were returned to the program. Those of a poll were once `returned` is what it `polled`; a
record of an iteration was once `Prefetched.at` has passed it. Each of the two is the last thing that its call does.
Readers are ahead of that and prove nothing: wherever a call raised, the next one moves them back to what was returned.
No exception handler takes part in it, so a second exception cannot break it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...errors import StreamlogError
from ...types import Record, TopicPartition
from .fetcher import PartitionFetcher
from .record_batch import RecordBatch
from .subscription import Subscription


class Prefetched:
    """Records of one partition that an iteration returns one by one; those before `at` were returned.

    `after` is the offset to go on at after the last one.
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
        """The offset after the last record that was returned."""
        records, at = self.records, self.at
        return records[at].offset if at < len(records) else self.after


# Of no partition: no topic can have this name.
NOTHING = Prefetched(TopicPartition("", -1), [], -1)


class SubscriptionState:
    """The subscription, a fetcher for each assigned partition, and the records in hand: returned, and not finished.

    REQUIRES: the consumer's state lock.

    `positions` has the offset after the last record that was returned, but for the partitions that `prefetched` and
    `polled` have moved on. `returned_positions` is right for all, and `finished_positions` is what auto-commit may commit:
    everything before the first record in hand. `polled` is what a poll took: the offset after its last record for each
    partition. The program has those records once the same object is in `returned` too.

    An iteration takes the next record of `lock_free` without the lock. It notes the record as in hand first, and then
    looks whether `lock_free` is still what it was. Code that revokes partitions empties `lock_free` first, and then looks
    whether a record is in hand. So one of the two sees the other.
    """

    def __init__(self) -> None:
        self.subscription = Subscription()
        self.fetchers: dict[TopicPartition, PartitionFetcher] = {}
        self.positions: dict[TopicPartition, int] = {}
        self.paused: set[TopicPartition] = set()
        self.polled: dict[TopicPartition, int] | None = None
        self.returned: dict[TopicPartition, int] | None = None
        self.in_hand: Record[Any, Any] | None = None
        self.prefetched = NOTHING
        self.lock_free = NOTHING
        self._turn = 0

    def assigned(self) -> frozenset[TopicPartition]:
        return frozenset(self.fetchers)

    def fetchable(self) -> list[TopicPartition]:
        return [name for name in self.fetchers if name not in self.paused]

    def end_lock_free(self) -> bool:
        """Have an iteration acquire the lock before it takes the next record; whether no record is in hand.

        Then partitions can be revoked without asking the program.
        """
        self.lock_free = NOTHING
        return self.in_hand is None and self.polled is None

    # -- assignment ----------------------------------------------------------------------------------

    def add(self, fetcher: PartitionFetcher) -> None:
        self.positions[fetcher.name] = fetcher.position
        self.fetchers[fetcher.name] = fetcher

    def remove(self, names: Iterable[TopicPartition]) -> None:
        for name in set(names):
            self._forget(name)
            self.fetchers.pop(name, None)
            self.positions.pop(name, None)
            self.paused.discard(name)

    def seek(self, name: TopicPartition, offset: int) -> None:
        self._forget(name)
        self.positions[name] = offset

    def _forget(self, name: TopicPartition) -> None:
        """Nothing of the partition is in hand any more, and nothing of it is prefetched."""
        if self.prefetched.name == name:
            self._drop_prefetched()
        if self.polled is not None:
            self.polled.pop(name, None)
            if not self.polled:
                self.polled = None
        if self.in_hand is not None and self.in_hand.topic_partition == name:
            self.in_hand = None

    def pause(self, names: Iterable[TopicPartition]) -> None:
        """Return no records of these; those prefetched are dropped."""
        self.paused.update(names)
        if self.prefetched.name in self.paused:
            self._drop_prefetched()

    def _drop_prefetched(self) -> None:
        """Records that were prefetched and not returned are read again later."""
        prefetched = self.prefetched
        self.lock_free = NOTHING
        if prefetched.name in self.positions:
            self.positions[prefetched.name] = prefetched.position
        self.prefetched = NOTHING

    # -- taking records ------------------------------------------------------------------------------

    def prefetch(self, n: int, ends: dict[TopicPartition, int] | None) -> bool:
        """Have up to `n` records, none at or past `ends`, ready for an iteration; False if there are none."""
        if self.prefetched.unread:
            return True
        if self.prefetched is not NOTHING:
            self._drop_prefetched()
        for fetcher in self._in_turn():
            name = fetcher.name
            end = None if ends is None else ends[name]
            out: list[Record[Any, Any]] = []
            if end is None:
                self.at_position(fetcher).take(out, n)
            elif self.positions[name] < end:
                self.at_position(fetcher).take(out, min(n, end - self.positions[name]))
            else:
                continue
            after = fetcher.position
            if end is not None and after > end:
                out = [record for record in out if record.offset < end]
                after = end
            if out:
                self.prefetched = Prefetched(name, out, after)
                return True
            self.positions[name] = after  # past control batches and gaps
        return False

    def next_prefetched(self) -> Prefetched:
        """Note the next prefetched record as in hand. REQUIRES: there is one.

        The caller returns it by moving `at` past it, and may go on so without the lock, see above.
        """
        prefetched = self.lock_free = self.prefetched
        self.in_hand = prefetched.records[prefetched.at]
        return prefetched

    def take(self, n: int) -> list[Record[Any, Any]]:
        """Up to `n` records, noted as `polled`. Partitions take turns to be first."""
        if self.polled is not None or self.prefetched is not NOTHING:
            self._begin_poll()
        polled: dict[TopicPartition, int] = {}
        out: list[Record[Any, Any]] = []
        for fetcher in self._in_turn():
            before = len(out)
            if fetcher.position != self.positions[fetcher.name]:
                self.at_position(fetcher)
            try:
                fetcher.take(out, n - before)
            except StreamlogError:
                if not out:
                    raise
                # The records of the others are returned first; the next poll raises the error again.
            # A fetcher that gave no records may have moved past control batches and gaps.
            (polled if len(out) > before else self.positions)[fetcher.name] = fetcher.position
            if len(out) >= n:
                break
        if out:
            self.polled = polled
        return out

    def take_batches(self, n: int, exactly: bool) -> list[RecordBatch[Any, Any]]:
        """Batches of up to `n` records in all; unless `exactly`, the last batch is whole and may have more."""
        if self.polled is not None or self.prefetched is not NOTHING:
            self._begin_poll()
        polled: dict[TopicPartition, int] = {}
        out: list[RecordBatch[Any, Any]] = []
        taken = 0
        for fetcher in self._in_turn():
            before = len(out)
            try:
                taken += self.at_position(fetcher).take_batches(out, n - taken, exactly)
            except StreamlogError:
                if not out:
                    raise
            (polled if len(out) > before else self.positions)[fetcher.name] = fetcher.position
            if taken >= n:
                break
        if out:
            self.polled = polled
        return out

    def _begin_poll(self) -> None:
        if self.polled is not None:  # a listener polled inside this poll
            self.finish()
        if self.prefetched is not NOTHING:
            self._drop_prefetched()

    def at_position(self, fetcher: PartitionFetcher) -> PartitionFetcher:
        """The fetcher, moved back to what was returned: a call that raised may have left it further on."""
        position = self.positions[fetcher.name]
        if fetcher.position != position:
            fetcher.seek(position)
        return fetcher

    def _in_turn(self) -> list[PartitionFetcher]:
        paused = self.paused
        if len(self.fetchers) == 1 and not paused:
            return list(self.fetchers.values())
        fetchers = [each for each in self.fetchers.values() if each.name not in paused]
        if len(fetchers) < 2:
            return fetchers
        self._turn = (self._turn + 1) % len(fetchers)
        return fetchers[self._turn :] + fetchers[: self._turn]

    # -- finishing -----------------------------------------------------------------------------------

    def finish(self) -> None:
        """The program has finished all records that were returned to it. Those that a call took before it raised were not."""
        polled = self.polled
        if polled is not None:
            if polled is self.returned:
                self.positions.update(polled)
            self.polled = None
        self.in_hand = None

    def finish_through(self, name: TopicPartition, offset: int) -> None:
        """The program has finished the partition's records before `offset`."""
        if self.in_hand is not None and self.in_hand.topic_partition == name and self.in_hand.offset < offset:
            self.in_hand = None
        polled = self.polled
        if polled is None or polled is not self.returned:
            return
        if name in polled and offset > self.positions[name]:
            self.positions[name] = min(offset, polled[name])
        if all(self.positions[name] == end for name, end in polled.items()):
            self.polled = None

    def returned_positions(self) -> dict[TopicPartition, int]:
        """The offset after the last record that was returned, of each partition."""
        positions = self._before_polled()
        if self.polled is not None and self.polled is self.returned:
            positions.update(self.polled)
        return positions

    def finished_positions(self) -> dict[TopicPartition, int]:
        """The offset after the last record that the program has finished, of each partition."""
        positions = self._before_polled()
        record = self.in_hand  # read last: an iteration moves on only after it has noted the record here
        if record is not None and record.topic_partition in positions:
            positions[record.topic_partition] = record.offset
        return positions

    def _before_polled(self) -> dict[TopicPartition, int]:
        positions = {name: self.positions[name] for name in self.fetchers}
        if self.prefetched.name in positions:
            positions[self.prefetched.name] = self.prefetched.position
        return positions
