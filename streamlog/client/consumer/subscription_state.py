"""What a consumer is subscribed to and assigned, its positions, and which records the program has not finished.

One rule decides which records were returned to the program. Those of a poll were once `returned` is what it `polled`; a
record of an iteration was once `Prefetched.at` has passed it. Each of the two is the last thing that its call does.
Readers are ahead of that and prove nothing: wherever a call raised, the next one moves them back to what was returned.
No exception handler takes part in it, so a second exception cannot break it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Mapping
from typing import Any

from ...broker.fetched import UNKNOWN_END
from ...broker.waiting import FetchSession
from ...errors import StreamlogError
from ...types import Record, TopicPartition
from .fetcher import PartitionFetcher
from .subscription import Subscription

# The position of a fetcher whose partition is not assigned any more.
_NOWHERE = -2
# So many partitions are not watched by calls that return at once: those fetch from each.
_FEW = 2


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


class EndOffsets:
    """Where `until_end` stops, by partition. `additions` is that of the SubscriptionState whose partitions it has.

    `unknown` are those whose end is not known yet, because they have no leader.
    """

    __slots__ = ("additions", "offsets", "unknown")

    def __init__(self, offsets: dict[TopicPartition, int]) -> None:
        self.offsets = offsets
        self.additions = 0
        self.unknown: set[TopicPartition] = set()


# Of no partition: no topic can have this name.
NOTHING = Prefetched(TopicPartition("", -1), [], -1)


class SubscriptionState:
    """The subscription, a fetcher for each assigned partition, and the records in hand: returned, and not finished.

    REQUIRES: the consumer's state lock.

    `positions` has the offset after the last record that was returned, but for the partitions that `prefetched` and
    `polled` have moved on. `returned_positions` is right for all, and `finished_positions` is what auto-commit may commit:
    everything before the first record in hand. `polled` is what a poll took: the offset after its last record for each
    partition. The program has those records once the same object is in `returned` too.

    `restarts` has where reading began, was moved to by a `seek`, or was committed last: an aborted transaction goes back there.
    `moved` has the partitions whose position may not be what was committed last. `additions` counts the assigned partitions.

    No call looks at every partition. The partitions that may have records are in a queue, whose first one is asked first and
    then goes to its end. A partition leaves the queue only when its fetcher, from the position that was returned, has come
    to the end of the log, as a fetch has found it while `session` watched the partition. So whatever is appended after that
    queues it again, and a call that raised leaves no partition outside the queue that has records.

    An iteration takes the next record of `lock_free` without the lock. It notes the record as in hand first, and then
    looks whether `lock_free` is still what it was. Code that revokes partitions empties `lock_free` first, and then looks
    whether a record is in hand. So one of the two sees the other.
    """

    def __init__(self, session: FetchSession) -> None:
        self.session = session
        self.subscription = Subscription()
        self.fetchers: dict[TopicPartition, PartitionFetcher] = {}
        self.positions: dict[TopicPartition, int] = {}
        self.restarts: dict[TopicPartition, int] = {}
        self.paused: set[TopicPartition] = set()
        self.polled: dict[TopicPartition, int] | None = None
        self.returned: dict[TopicPartition, int] | None = None
        self.in_hand: Record[Any, Any] | None = None
        self.prefetched = NOTHING
        self.lock_free = NOTHING
        self.moved: dict[TopicPartition, None] = {}
        self.additions = 0
        self.failed: PartitionFetcher | None = None
        """The fetcher whose call raised last."""
        self._queue: deque[PartitionFetcher] = deque()
        self._checked: deque[PartitionFetcher] = deque()

    def assigned(self) -> frozenset[TopicPartition]:
        return frozenset(self.fetchers)

    def end_lock_free(self) -> bool:
        """Have an iteration acquire the lock before it takes the next record; whether no record is in hand.

        Then partitions can be revoked without asking the program.
        """
        self.lock_free = NOTHING
        return self.in_hand is None and self.polled is None

    # -- assignment ----------------------------------------------------------------------------------

    def add(self, fetcher: PartitionFetcher) -> None:
        self.positions[fetcher.name] = self.restarts[fetcher.name] = fetcher.position
        self.moved[fetcher.name] = None
        # It seeks when it has its first turn. If this call is interrupted, and another fetcher added in its place, the one that
        # stays in the queue is at no position, and is dropped.
        fetcher.position = _NOWHERE
        self._enqueue(fetcher)
        self._checked.append(fetcher)
        self.fetchers[fetcher.name] = fetcher
        self.additions += 1

    def remove(self, names: Iterable[TopicPartition]) -> None:
        for name in set(names):
            self._forget(name)
            fetcher = self.fetchers.get(name)
            if fetcher is not None:
                fetcher.position = _NOWHERE  # where it is queued, it is dropped, see `_may_have_records`
            self.session.unwatch(name)
            self.fetchers.pop(name, None)
            self.positions.pop(name, None)
            self.restarts.pop(name, None)
            self.moved.pop(name, None)
            self.paused.discard(name)

    def seek(self, name: TopicPartition, offset: int, *, restarts: bool = True) -> None:
        """Go on at `offset`. `restarts`: an aborted transaction goes back there too."""
        self._forget(name)
        self.moved[name] = None
        self.positions[name] = offset
        fetcher = self.fetchers[name]
        if not fetcher.queued:
            self._enqueue(fetcher)
        if restarts:
            self.restarts[name] = offset

    def go_back(self, committed: Mapping[TopicPartition, int]) -> None:
        """Go back to what is `committed`, and elsewhere to `restarts`, in each assigned partition that has moved since."""
        for name, offset in {**self.restarts, **committed}.items():
            if self.returned_position(name) != offset:
                self.seek(name, offset)

    def return_to(self, positions: Mapping[TopicPartition, int]) -> None:
        """Go back to what `returned_positions` was; partitions that were added since, to where they began. `restarts` stay."""
        for name, restart in self.restarts.items():
            offset = positions.get(name, restart)
            if self.returned_position(name) != offset:
                self.seek(name, offset, restarts=False)

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

    def resume(self, names: Iterable[TopicPartition]) -> None:
        """Return records of these again."""
        resumed = [name for name in dict.fromkeys(names) if name in self.paused]
        for name in resumed:
            self._enqueue(self.fetchers[name])
        self.paused.difference_update(resumed)

    def _drop_prefetched(self) -> None:
        """Records that were prefetched and not returned are read again later."""
        prefetched = self.prefetched
        self.lock_free = NOTHING
        if prefetched.name in self.positions:
            self.moved[prefetched.name] = None
            self.positions[prefetched.name] = prefetched.position
        self.prefetched = NOTHING

    # -- the queue of partitions that may have records ------------------------------------------------

    def _enqueue(self, fetcher: PartitionFetcher) -> None:
        if not fetcher.queued:
            self._queue.append(fetcher)
            fetcher.queued = True  # last: an interrupt may leave it queued twice, but not left out

    def _dequeue(self) -> None:
        """Remove the first one: it has nothing, until an append or the program queues it again."""
        fetcher = self._queue[0]
        fetcher.queued = False
        self._queue.popleft()

    def _take_over_ready(self) -> None:
        """Queue the partitions that had appends; they are to be watched again."""
        ready, watched = self.session.ready, self.session.watched
        while ready:
            name = ready[0]
            watched.pop(name, None)
            fetcher = self.fetchers.get(name)
            if fetcher is not None:
                fetcher.end = UNKNOWN_END
                if not fetcher.queued:
                    self._enqueue(fetcher)
            ready.popleft()  # last: an interrupt before it has this done again

    def look_again(self, *, everywhere: bool = False) -> int:
        """Queue partitions of which no append was heard: all, or one in turn (of few, each). How many those are.

        Every append is heard of, unless an interrupt kept its thread from it. So this is done where nothing else is left
        to do, before a call returns without records.
        """
        checked = self._checked
        left = len(checked) if everywhere or len(checked) <= _FEW else 1
        found = 0
        while left:
            fetcher = checked[0]
            if self.fetchers.get(fetcher.name) is not fetcher:
                checked.popleft()
                left = min(left, len(checked))
                continue
            if not fetcher.queued or fetcher.position >= fetcher.end:
                fetcher.end = UNKNOWN_END
                self._enqueue(fetcher)
                found += 1
            checked.rotate(-1)
            left -= 1
        return found

    def _may_have_records(self, fetcher: PartitionFetcher, polled: Container[TopicPartition] = ()) -> bool:
        """Whether the first of the queue may have records; then it is at its position. Otherwise it is dequeued."""
        name = fetcher.name
        if name in polled:  # it was queued twice, and has had its turn
            self._queue.popleft()
            return False
        position = self.positions.get(name)
        if fetcher.position != position:
            if position is None or self.fetchers.get(name) is not fetcher:  # it was removed, or never added
                self._dequeue()
                return False
            fetcher.seek(position)  # to what was returned: a call that raised may have left it further on
        if fetcher.position >= fetcher.end or name in self.paused:  # nothing was appended since it gave the last one
            fetcher.release()
            self._dequeue()
            return False
        return True

    # -- taking records ------------------------------------------------------------------------------

    def prefetch(self, n: int, ends: EndOffsets | None) -> bool:
        """Have up to `n` records, none at or past `ends`, ready for an iteration; False if there are none."""
        if self.prefetched.unread:
            return True
        if self.prefetched is not NOTHING:
            self._drop_prefetched()
        if self.session.ready:
            self._take_over_ready()
        queue = self._queue
        for _ in range(len(queue)):
            fetcher = queue[0]
            if not self._may_have_records(fetcher):
                continue
            name = fetcher.name
            end = None if ends is None else ends.offsets[name]
            if end is not None and fetcher.position >= end:
                queue.rotate(-1)
                continue
            self.session.watch(name)
            out: list[Record[Any, Any]] = []
            try:
                fetcher.take(out, n if end is None else min(n, end - fetcher.position))
            except StreamlogError:
                self.failed = fetcher
                queue.rotate(-1)
                raise
            after = fetcher.position
            if end is not None and after > end:
                out = [record for record in out if record.offset < end]
                after = end
            if out:
                self.prefetched = Prefetched(name, out, after)
                if end is None:  # otherwise it comes to its end first, so that those at theirs are passed over once
                    queue.rotate(-1)
                return True
            self._skip_to(fetcher, after)
        return False

    def look_again_before(self, ends: EndOffsets) -> bool:
        """`look_again` where reading has not come to `ends`; whether there are such partitions."""
        positions, paused = self.positions, self.paused
        found = [
            fetcher
            for name, fetcher in self.fetchers.items()
            if positions[name] < ends.offsets[name] and name not in paused
        ]
        for fetcher in found:
            fetcher.end = UNKNOWN_END
            self._enqueue(fetcher)
        return bool(found)

    def awaits_leader(self, ends: EndOffsets) -> bool:
        """Whether records before `ends` cannot be read now because no broker leads their partition. O(partitions)."""
        positions, paused = self.positions, self.paused
        return bool(ends.unknown) or any(
            positions[name] < ends.offsets[name] and name not in paused and fetcher.has_no_leader()
            for name, fetcher in self.fetchers.items()
        )

    def next_prefetched(self) -> Prefetched:
        """Note the next prefetched record as in hand. REQUIRES: there is one.

        The caller returns it by moving `at` past it, and may go on so without the lock, see above.
        """
        prefetched = self.lock_free = self.prefetched
        self.in_hand = prefetched.records[prefetched.at]
        return prefetched

    def take(self, n: int, exactly: bool | None = None, at_once: bool = False) -> list[Any]:
        """Up to `n` records, noted as `polled`. Partitions take turns to be first.

        With `exactly` a bool, RecordBatches of up to `n` records in all; unless it is True, the last batch is whole and may
        have more. `at_once`: the call will not wait, so partitions of which no append was heard are asked too.
        """
        if self.polled is not None or self.prefetched is not NOTHING:
            self._begin_poll()
        session, queue, positions = self.session, self._queue, self.positions
        watched = session.watched
        # For a call that returns at once, fetching from one or two partitions costs less than watching them.
        watch = not at_once or len(positions) > _FEW
        if session.ready:
            self._take_over_ready()
        out: list[Any] = []
        polled: dict[TopicPartition, int] = {}
        turns, asks_others = len(queue), at_once
        while turns or asks_others:
            if not turns:
                if out or len(queue) == len(positions):  # it has asked all of them
                    break
                asks_others = False
                turns = self.look_again()
                continue
            turns -= 1
            fetcher = queue[0]
            name, position = fetcher.name, fetcher.position
            # The usual answers of `_may_have_records`: the call took a tenth of a poll of one record.
            if (
                position != positions.get(name) or position >= fetcher.end or self.paused
            ) and not self._may_have_records(fetcher, polled):
                continue
            unwatched = name not in watched
            if unwatched and watch:
                session.watch(name)
                unwatched = False
            try:
                taken = fetcher.take(out, n) if exactly is None else fetcher.take_batches(out, n, exactly)
            except StreamlogError:
                self.failed = fetcher
                queue.rotate(-1)
                if not out:
                    raise
                continue  # the records of the others are returned first; a later poll raises the error again
            if unwatched:
                fetcher.end = UNKNOWN_END
            if not taken:
                self._skip_to(fetcher, fetcher.position)
                continue
            polled[name] = fetcher.position
            queue.rotate(-1)
            n -= taken
            if n <= 0:
                break
        if out:
            self.polled = polled
        elif at_once and session.ready:  # the fetches have brought news of other partitions, from another process
            return self.take(n, exactly)
        return out

    def _skip_to(self, fetcher: PartitionFetcher, position: int) -> None:
        """The first of the queue has no records; it may have moved past control batches and gaps."""
        name = fetcher.name
        if position != self.positions[name]:
            self.moved[name] = None
            self.positions[name] = position
        if position == fetcher.position >= fetcher.end:
            self._dequeue()
        else:
            self._queue.rotate(-1)

    def _begin_poll(self) -> None:
        if self.polled is not None:  # a listener polled inside this poll
            self.finish()
        if self.prefetched is not NOTHING:
            self._drop_prefetched()

    # -- finishing -----------------------------------------------------------------------------------

    def finish(self) -> None:
        """The program has finished all records that were returned to it. Those that a call took before it raised were not."""
        polled = self.polled
        if polled is not None:
            if polled is self.returned:
                moved = self.moved
                for name in polled:
                    moved[name] = None
                self.positions.update(polled)
            self.polled = None
        self.in_hand = None

    def finish_through(self, offsets: Mapping[TopicPartition, int]) -> None:
        """The program has finished the records before these offsets."""
        in_hand = self.in_hand
        if in_hand is not None and in_hand.offset < offsets.get(in_hand.topic_partition, -1):
            self.in_hand = None
        polled = self.polled
        if polled is None or polled is not self.returned:
            return
        for name, offset in offsets.items():
            last = polled.get(name)
            if last is None:
                continue
            if offset > self.positions[name]:
                self.moved[name] = None
                self.positions[name] = min(offset, last)
            if self.positions[name] == last:
                del polled[name]
        if not polled:
            self.polled = None

    @property
    def has_uncommitted(self) -> bool:
        """Whether `uncommitted` has any."""
        return bool(self.moved) or self.polled is not None or self.prefetched is not NOTHING

    def uncommitted(self) -> list[TopicPartition]:
        """The partitions whose positions may have moved since `committed` was called for them."""
        names = self.moved.copy()
        if self.polled is not None:
            names.update(dict.fromkeys(self.polled))
        if self.prefetched is not NOTHING:
            names[self.prefetched.name] = None
        return list(names)

    def committed(self, offsets: Mapping[TopicPartition, int]) -> None:
        """These offsets were committed."""
        for name, offset in offsets.items():
            if name in self.restarts:
                self.restarts[name] = offset
            if self.positions.get(name) == offset:
                self.moved.pop(name, None)

    def returned_position(self, name: TopicPartition) -> int:
        """The offset after the last record of an assigned partition that was returned."""
        polled = self.polled
        if polled is not None and polled is self.returned and name in polled:
            return polled[name]
        return self._before_polled(name)

    def returned_positions(self, names: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The offset after the last record that was returned, of these assigned partitions."""
        return {name: self.returned_position(name) for name in names}

    def epoch_before(self, name: TopicPartition, offset: int) -> int | None:
        """The leader epoch of the record before `offset`, if it is known here."""
        fetcher = self.fetchers.get(name)
        return None if fetcher is None else fetcher.epoch_before(offset)

    def finished_positions(self, names: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The offset after the last record that the program has finished, of these assigned partitions."""
        positions = {name: self._before_polled(name) for name in names}
        record = self.in_hand  # read last: an iteration moves on only after it has noted the record here
        if record is not None and record.topic_partition in positions:
            positions[record.topic_partition] = record.offset
        return positions

    def _before_polled(self, name: TopicPartition) -> int:
        prefetched = self.prefetched
        return prefetched.position if prefetched.name == name else self.positions[name]
