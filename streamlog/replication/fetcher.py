"""How a follower follows: one broker's fetches from the leaders of the partitions that it does not lead.

A state machine without a thread: `step` does what is due and says when to come again. For each partition it

1. fetches from the end of its own log, with the epoch of its last record. The leader counts what is before that as
   replicated: a fetch is also the acknowledgement of the one before;
2. truncates where the leader says that the logs part, as far as it knows better, and fetches again (KIP-101, KIP-279);
3. appends the leader's bytes as they are, on the device with `sync=True`, and takes over the high watermark and the log start;
4. waits, when it has everything, until the leader appends or another one is elected. If its high watermark is behind the end
   then, because another follower has not fetched yet, it looks for the leader's a few ms later, and fetches once more when that
   has grown: readers in other processes read up to a follower's high watermark.

A follower whose end is below the leader's log start begins anew there. What fails is tried again after `RETRY_MS`, and said
to the listener: a disk of this broker that fails, and a batch of the leader's that is damaged, concern the controller.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from ..errors import (
    ClosedError,
    CorruptRecordError,
    FencedLeaderEpochError,
    NotLeaderError,
    OffsetOutOfRangeError,
    StreamlogError,
    UnknownLeaderEpochError,
)
from ..storage.tail import EMPTY, FetchData
from ..types import TopicPartition
from .partition import Partition

logger = logging.getLogger("streamlog.replication")

# What one fetch brings at most, but for a batch that is larger. Kafka's replica.fetch.max.bytes.
MAX_BYTES = 1 << 20
# How soon a fetch that failed is tried again. Kafka's replica.fetch.backoff.ms.
RETRY_MS = 1_000
# How soon the high watermark of a leader is looked at that was behind the end of its log; a ms more for each so many.
_HIGH_WATERMARK_MS = 5
_LOOKS_PER_MS = 50
# How many fetches a step makes before other work has its turn.
_MOST = 64


class FetchListener(Protocol):
    """Who hears of what fails. Called under no lock, maybe again and again."""

    def replica_failed(self, replica: Partition, error: StreamlogError) -> None:
        """This broker's disk, or its log, does not take the leader's records."""

    def leader_corrupt(self, leader: Partition, error: CorruptRecordError) -> None:
        """The leader's log has a batch that is damaged."""


class _Place:
    """Where a follower waits and goes on reading: its leader, and what it read there last, up to `is_at` (leader epoch, offset)."""

    __slots__ = ("after", "is_at", "leader", "wake")

    def __init__(self, leader: Partition, wake: Callable[[], None]) -> None:
        self.leader = leader
        self.wake = wake
        self.after = EMPTY
        self.is_at = (-1, -1)


class ReplicaFetcher:
    """The followers of one broker. `follow`, `forget` and the wake-ups come from any thread, `step` from one at a time.

    `leader_of` finds the leader's replica of a partition, or None while there is none. `nudge` is called when there is work.
    """

    def __init__(
        self,
        broker_id: int,
        broker_epoch: int,
        leader_of: Callable[[TopicPartition], Partition | None],
        listener: FetchListener,
        nudge: Callable[[], object] = lambda: None,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._broker_id = broker_id
        self._broker_epoch = broker_epoch
        self._leader_of = leader_of
        self._listener = listener
        self.nudge = nudge
        self._max_bytes = max_bytes
        self._followed: dict[TopicPartition, Partition] = {}
        self._ready: deque[TopicPartition] = deque()
        self._places: dict[TopicPartition, _Place] = {}
        self._retries: dict[TopicPartition, int] = {}
        # The partitions whose high watermark is behind the end, and their leaders; when they are looked at next.
        self._behind: dict[TopicPartition, Partition] = {}
        self._look_ms = 0

    def follow(self, replica: Partition) -> None:
        """Follow this partition's leader from now on; or look at it again, after its leader has changed."""
        self._followed[replica.name] = replica
        self._retries.pop(replica.name, None)
        self._leave(replica.name)
        self._wake(replica.name)

    def forget(self, name: TopicPartition) -> None:
        """This broker leads the partition now, or has no replica of it any more."""
        self._followed.pop(name, None)
        self._retries.pop(name, None)
        self._behind.pop(name, None)
        self._leave(name)

    def _wake(self, name: TopicPartition) -> None:
        self._ready.append(name)
        self.nudge()

    def step(self, now_ms: int) -> int | None:
        """Fetch for what is ready; when to come again (ms of real time), or None until the next wake-up."""
        for name, at_ms in list(self._retries.items()):
            if at_ms <= now_ms:
                self._retries.pop(name, None)
                self._ready.append(name)
        if self._behind and now_ms >= self._look_ms:
            self._look_for_high_watermarks()
            self._look_ms = now_ms + _HIGH_WATERMARK_MS + len(self._behind) // _LOOKS_PER_MS
        for _ in range(_MOST):
            try:
                name = self._ready[0]
            except IndexError:
                due = [*self._retries.values(), *([self._look_ms] if self._behind else ())]
                return min(due, default=None)
            replica = self._followed.get(name)
            if replica is not None and self._fetch(replica, now_ms):
                self._ready.append(name)
            self._ready.popleft()  # last: an interrupt in the middle leaves it to be done
        return now_ms

    def _note_high_watermark(self, replica: Partition, leader: Partition, now_ms: int) -> None:
        """The replica has everything: its high watermark is looked at again if it may still grow."""
        if replica.high_watermark < replica.reader.tail.end_offset:
            if not self._behind:
                self._look_ms = now_ms + _HIGH_WATERMARK_MS
            self._behind[replica.name] = leader

    def _look_for_high_watermarks(self) -> None:
        """Have the next step fetch where a leader's high watermark has grown since the last fetch."""
        for name, leader in list(self._behind.items()):
            replica = self._followed.get(name)
            if replica is None or replica.high_watermark < leader.high_watermark:
                self._behind.pop(name, None)
                self._ready.append(name)

    def _fetch(self, replica: Partition, now_ms: int) -> bool:
        """One fetch for one partition; whether there may be more at once."""
        name = replica.name
        leader = self._leader_of(name)
        if leader is None or leader is replica or leader.topic_id != replica.topic_id:
            return False  # `follow` or `forget` comes with the next leader
        tail, epoch = replica.reader.tail, replica.leader_epoch
        end = tail.end_offset
        # Without a record there is nothing to compare, and nothing to truncate. The log knows of epochs that ended before.
        last_epoch = replica.last_epoch() if tail.start_offset < end else None
        place = self._wait_at(leader, name)  # first: what is appended from here on wakes it
        after = place.after if place.is_at == (epoch, end) else EMPTY
        start = None
        try:
            fetched = leader.fetch_as_replica(
                self._broker_id, self._broker_epoch, end, last_epoch, epoch, self._max_bytes, now_ms, after
            )  # fmt: skip
        except (NotLeaderError, FencedLeaderEpochError, UnknownLeaderEpochError, ClosedError):
            return self._again(name, now_ms)  # one of the two knows of an election, and the other will
        except OffsetOutOfRangeError as error:
            start = error.log_start_offset
        except CorruptRecordError as error:
            return self._corrupt(place, error, now_ms)
        except StreamlogError as error:
            logger.warning("%s-%d cannot be fetched from broker %d: %s", *name, leader.broker_id, error)
            return self._again(name, now_ms)
        try:
            if start is not None:
                replica.truncate_fully_and_start_at(start, epoch)
            elif not replica.take(fetched):
                self._note_high_watermark(replica, leader, now_ms)
                return False
            place.after, place.is_at = (
                EMPTY if start is not None else _end_of(fetched.read),
                (epoch, replica.reader.tail.end_offset),
            )
            # There may be more. If the leader has appended meanwhile, it has made this one ready already.
            return leader.follower_waiters.remove(place.wake)
        except CorruptRecordError as error:
            return self._corrupt(place, error, now_ms)
        except (NotLeaderError, ClosedError):  # an election, or the end, has come between
            pass
        except StreamlogError as error:
            if replica.closed is None:  # else it was deleted, or reassigned
                self._listener.replica_failed(replica, error)
        return self._again(name, now_ms)

    def _corrupt(self, place: _Place, error: CorruptRecordError, now_ms: int) -> bool:
        """What was read where the last fetch ended is searched before it is said to be damaged."""
        if place.after is not EMPTY:
            place.after = EMPTY
            return place.leader.follower_waiters.remove(place.wake)
        self._listener.leader_corrupt(place.leader, error)
        return self._again(place.leader.name, now_ms)

    def _again(self, name: TopicPartition, now_ms: int) -> bool:
        self._retries[name] = now_ms + RETRY_MS
        return False

    # -- waiting for the leader ----------------------------------------------------------------------

    def _wait_at(self, leader: Partition, name: TopicPartition) -> _Place:
        """Have the next append of this leader make the partition ready."""
        place = self._places.get(name)
        if place is None or place.leader is not leader:
            self._leave(name)
            place = self._places[name] = _Place(leader, partial(self._wake, name))
        leader.follower_waiters.add(place.wake)
        return place

    def _leave(self, name: TopicPartition) -> None:
        place = self._places.pop(name, None)
        if place is not None:
            place.leader.follower_waiters.remove(place.wake)


def _end_of(read: FetchData) -> FetchData:
    """The place where `read` ends, without its bytes: there may be thousands of partitions."""
    return FetchData(b"", read.seed, read.path, read.position + len(read.data), read.segment)
