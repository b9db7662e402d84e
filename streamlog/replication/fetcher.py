"""The fetches of one broker from the leaders of the partitions that it follows.

A state machine without a thread: `step` does the work that is due, and returns when to call it again. For each partition it

1. fetches from the end of its own log, with the epoch of its last record. To the leader the records before that offset are
   replicated: a fetch is also the acknowledgement of the fetch before;
2. truncates to the offset at which the leader says the two logs diverge, and fetches again (KIP-101, KIP-279);
3. appends the leader's bytes as they are, and takes over the high watermark and the log start; with `sync=True` they are on the
   device before the next fetch;
4. waits, when it has all records, until the leader appends or another leader is elected. If its high watermark is lower than
   its end then, because another follower has not fetched yet, it compares it with the leader's a few ms later, and fetches once
   more when the leader's has grown: readers in other processes read up to a follower's high watermark.

A sender that waits for its record takes a follower's turn where it can (`turns.py`): the same fetch and append, on the
sender's thread, in the usual case alone. Whatever else there is to do is done here.

A replica that a reassignment adds waits before 1, if its broker has fetched enough for such replicas: see `throttle`. A follower
whose end is below the leader's log start starts again, empty, at the log start. A fetch that fails is tried again after
`RETRY_MS`. The listener is called for a failure of this broker's disk and for a damaged batch of the leader.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

from ..errors import (
    ClosedError,
    CorruptRecordError,
    FencedLeaderEpochError,
    NotLeaderError,
    OffsetOutOfRangeError,
    StorageError,
    StreamlogError,
    UnknownLeaderEpochError,
)
from ..runtime.api import without_traceback
from ..runtime.threads import inside, new_lock, real_monotonic, was_released_meanwhile
from ..runtime.values import refuse_to_copy
from ..storage.tail import EMPTY, FetchData
from ..types import Buffer, TopicPartition
from . import follower
from .partition import Partition
from .replica_set import ReplicaFetch
from .throttle import ReplicationThrottle
from .turns import COVERED, LEFT

logger = logging.getLogger("streamlog.replication")

# What one fetch brings at most, but for a batch that is larger. Kafka's replica.fetch.max.bytes.
MAX_BYTES = 1 << 20
# How soon a fetch that failed is tried again. Kafka's replica.fetch.backoff.ms.
RETRY_MS = 1_000
# How soon the high watermark of a leader is looked at that was behind the end of its log; a ms more for each so many.
_HIGH_WATERMARK_MS = 5
_LOOKS_PER_MS = 50
# What a fetch brings at most of several segments, where it needs no sync.
_READ_ON_BYTES = 1 << 16
# How many fetches a step makes before other work has its turn.
_MOST = 64
# A fetch and its append that took longer (s) are those of a slow disk, which no sender waits for: its own thread does.
SLOW_S = 0.05


class FetchListener(Protocol):
    """Is called for failures, possibly for the same one many times, without a lock."""

    def replica_failed(self, replica: Partition, error: StreamlogError) -> None:
        """The disk or the log of this broker has refused the leader's records."""

    def replica_damaged(self, replica: Partition, offset: int, error: StreamlogError) -> None:
        """The log of this replica, the leader's or a follower's, cannot be read at `offset`."""


class Following:
    """A replica that follows: its leader, whose appends call it, and its last read there, up to `is_at` (leader epoch, offset).

    `turn` is held by the one thread that fetches for it, `by_sender` if that is a sender: see `turns.FollowerTurn`.
    """

    __slots__ = (
        "_fetcher", "after", "by_sender", "failure", "is_at", "leader", "replica", "turn",
    )  # fmt: skip

    __reduce_ex__ = refuse_to_copy

    def __init__(self, fetcher: ReplicaFetcher, replica: Partition) -> None:
        self._fetcher = fetcher
        self.replica = replica
        self.leader: Partition | None = None
        self.turn = new_lock()
        self.by_sender = False
        self.failure: StreamlogError | None = None
        """Of an append in a sender's turn, for the fetcher's own thread to say."""
        self.after, self.is_at = EMPTY, (-1, -1)

    def __call__(self) -> None:
        self._fetcher.wake(self.replica.name)

    def attach(self, leader: Partition | None) -> None:
        """Have the appends of this leader call it from now on; with None, those of none."""
        before = self.leader
        if before is leader:
            return
        broker_id = self._fetcher.broker[0]
        if before is not None and before.followers.get(broker_id) is self:
            del before.followers[broker_id]
        self.after, self.is_at = EMPTY, (-1, -1)
        self.leader = leader
        if leader is not None:
            leader.followers[broker_id] = self

    # -- on the thread of a sender -------------------------------------------------------------------

    def take(self, leader: object, leader_epoch: int) -> int:
        """See `turns.FollowerTurn`."""
        turn = self.turn
        if turn.locked():
            return COVERED if self.by_sender else LEFT
        # Two that come here at once wait for each other's append. A lock that is tried without waiting cannot be released in
        # one step: a second interrupt, before the release, left the turn taken for good.
        with inside(), turn:
            try:
                self.by_sender = True
                return self._take(leader, leader_epoch)
            except StreamlogError:  # the leader's, which the follower's own thread meets too
                return LEFT
            finally:
                self.by_sender = False

    def _take(self, leader: object, leader_epoch: int) -> int:
        """REQUIRES: `turn`."""
        fetcher, replica, here = self._fetcher, self.replica, self.leader
        epoch, end = self.is_at
        tail = replica.reader.tail
        if (
            here is None
            or here is not leader
            or (epoch, end) != (leader_epoch, tail.end_offset)
            or here.reader.tail.start_offset > tail.start_offset
            or fetcher.broker[0] not in replica.registration.isr
        ):
            return LEFT
        now_s = real_monotonic()
        if not fetcher.begin_turn(now_s):
            return LEFT
        try:
            return end if end == here.reader.tail.end_offset else self._append(here, epoch, end)
        finally:
            fetcher.end_turn(now_s)

    def _append(self, leader: Partition, epoch: int, end: int) -> int:
        """Append what follows `end` in the leader's log; the end after it, LEFT if this log does not take it. REQUIRES: `turn`."""
        replica, latest, read = self.replica, leader.reader.latest, EMPTY
        end_after = -1 if latest is None else self._try(follower.append_copy, latest[2], epoch)
        if end_after < 0 and self.failure is None:
            read = leader.read_as_leader(end, epoch, self._fetcher.max_bytes, self.after)
            end_after = (
                LEFT if replica.log.begins_gaps(read.data) else self._try(follower.append_in_turn, read.data, epoch)
            )
        if end_after < 0:
            return LEFT
        self.after, self.is_at = EMPTY if read is EMPTY else _end_of(read), (epoch, end_after)
        return end_after

    def _try(self, append: Callable[[Partition, Any, int], int], data: Buffer, leader_epoch: int) -> int:
        try:
            return append(self.replica, data, leader_epoch)
        except (NotLeaderError, ClosedError, CorruptRecordError):  # its own thread meets that too, if it lasts
            return LEFT
        except StreamlogError as error:
            self.failure = without_traceback(error)
            return LEFT
        except RuntimeError as error:
            if self.replica.is_fenced and was_released_meanwhile(error):
                return LEFT
            raise

    @property
    def broker(self) -> tuple[int, int]:
        return self._fetcher.broker

    def now_ms(self) -> int:
        return self._fetcher.now_ms()


class ReplicaFetcher:
    """The followers of one broker. `follow`, `forget` and the wake-ups come from any thread, `step` from one at a time.

    `leader_of` returns the leader's replica of a partition, or None while it has no leader. `nudge` is called when `step` has
    work to do. `now_ms` is real time, for the turns of senders.
    """

    def __init__(
        self,
        broker_id: int,
        broker_epoch: int,
        leader_of: Callable[[TopicPartition], Partition | None],
        listener: FetchListener,
        nudge: Callable[[], object] = lambda: None,
        max_bytes: int = MAX_BYTES,
        throttle: ReplicationThrottle | None = None,
        now_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        self.broker = (broker_id, broker_epoch)
        self._leader_of = leader_of
        self._listener = listener
        self.nudge = nudge
        self.max_bytes = max_bytes
        self.now_ms = now_ms
        self._throttle = throttle
        self._throttled: dict[TopicPartition, None] = {}
        self._followed: dict[TopicPartition, Following] = {}
        self._ready: OrderedDict[TopicPartition, None] = OrderedDict()  # a queue in which a name is once
        self._retries: dict[TopicPartition, int] = {}
        # The partitions whose high watermark is behind the end, and their leaders; when they are looked at next.
        self._behind: dict[TopicPartition, Partition] = {}
        self._look_ms = 0
        # Whether the last fetch took long, and since when (real monotonic seconds) a sender is in a turn, or 0.0.
        self._is_slow = False
        self._turn_since_s = 0.0

    def follow(self, replica: Partition) -> None:
        """Follow the leader of this partition from now on. Called again when the leader has changed."""
        name = replica.name
        following = self._followed.get(name)
        if following is None or following.replica is not replica:
            self._leave(name)
            self._followed[name] = Following(self, replica)
        else:
            following.attach(None)
        self._retries.pop(name, None)
        self.wake(name)

    def forget(self, name: TopicPartition) -> None:
        """Stop following: this broker leads the partition now, or has no replica of it any more."""
        self._leave(name)
        self._retries.pop(name, None)
        self._behind.pop(name, None)
        self._throttled.pop(name, None)

    def _leave(self, name: TopicPartition) -> None:
        following = self._followed.pop(name, None)
        if following is not None:
            following.attach(None)

    def wake(self, name: TopicPartition) -> None:
        self._ready[name] = None
        self.nudge()

    # -- turns of senders ----------------------------------------------------------------------------

    def begin_turn(self, now_s: float) -> bool:
        """Whether a sender may fetch for this broker now: its disk answered soon when it was used last.

        A sender that is in the middle of a turn for longer than that keeps the others away: of a disk that does not answer any
        more, only those that came just before wait for it.
        """
        since_s = self._turn_since_s
        if self._is_slow or (since_s and now_s - since_s > SLOW_S):
            return False
        self._turn_since_s = now_s
        return True

    def end_turn(self, since_s: float) -> None:
        """A fetch and its append have ended that began then. A sender whose end an interrupt skipped counts no longer."""
        self._turn_since_s = 0.0
        self._is_slow = real_monotonic() - since_s > SLOW_S

    # -- on its own thread ---------------------------------------------------------------------------

    def step(self, now_ms: int) -> int | None:
        """Fetch for the partitions that are ready; returns when to call it again (ms of real time), or None: at the next nudge."""
        for name, at_ms in list(self._retries.items()):
            if at_ms <= now_ms:
                self._retries.pop(name, None)
                self._ready[name] = None
        if self._throttled and self._left() > 0:
            self._ready.update(self._throttled.copy())
            self._throttled.clear()
        if self._behind and now_ms >= self._look_ms:
            self._look_for_high_watermarks()
            self._look_ms = now_ms + _HIGH_WATERMARK_MS + len(self._behind) // _LOOKS_PER_MS
        for _ in range(_MOST):
            if not self._ready:
                due = [*self._retries.values(), *([self._look_ms] if self._behind else ())]
                return min(due, default=None)
            name, _ = self._ready.popitem(last=False)  # first: what is appended from here on makes it ready again
            try:
                following = self._followed.get(name)
                if following is not None and self._fetch_in_turn(following, now_ms):
                    self._ready[name] = None
            except BaseException:
                self._ready[name] = None
                raise
        return now_ms

    def _note_high_watermark(self, replica: Partition, leader: Partition, now_ms: int) -> None:
        """The replica has all records: compare its high watermark with the leader's later, if it may still grow."""
        if replica.high_watermark < replica.reader.tail.end_offset:
            if not self._behind:
                self._look_ms = now_ms + _HIGH_WATERMARK_MS
            self._behind[replica.name] = leader

    def _look_for_high_watermarks(self) -> None:
        """Have the next step fetch the partitions whose leader has raised its high watermark since the last fetch.

        A sender's turn may have taken it over meanwhile: one that is at the end can grow no more.
        """
        for name, leader in list(self._behind.items()):
            following = self._followed.get(name)
            replica = None if following is None else following.replica
            if replica is None or replica.high_watermark >= replica.reader.tail.end_offset:
                self._behind.pop(name, None)
            elif replica.high_watermark < leader.high_watermark:
                self._behind.pop(name, None)
                self._ready[name] = None

    def _fetch_in_turn(self, following: Following, now_ms: int) -> bool:
        with following.turn:
            failure, following.failure = following.failure, None
            if failure is None:
                return self._fetch(following, now_ms)
            return self._failed(following.replica, failure, now_ms)

    def _fetch(self, following: Following, now_ms: int) -> bool:
        """One fetch for one partition. Returns whether the leader may have more records already. REQUIRES: its turn."""
        replica = following.replica
        name = replica.name
        leader = self._leader_of(name)
        if leader is None or leader is replica or leader.topic_id != replica.topic_id:
            return False  # `follow` or `forget` comes with the next leader
        max_bytes = self.max_bytes
        is_throttled = replica.registration.adding_replicas and self._is_throttled(replica)
        if is_throttled:
            max_bytes = min(max_bytes, self._left())
            if max_bytes <= 0:
                return self._wait_for_quota(name)
        if replica.log.refusals.damage is not None and not self._discard_damaged_end(replica):
            return self._again(name, now_ms)
        tail, epoch = replica.reader.tail, replica.leader_epoch
        end = tail.end_offset
        try:
            follower.sync(replica)
            # Without a record there is nothing to compare, and nothing to truncate. The log knows of epochs that ended before.
            last_epoch = replica.last_epoch() if tail.start_offset < end else None
        except StreamlogError as error:
            return self._failed(replica, error, now_ms)
        following.attach(leader)  # first: what is appended from here on has it fetch again
        after = following.after if following.is_at == (epoch, end) else EMPTY
        began_s = real_monotonic()
        fetched: ReplicaFetch | int
        try:
            fetched = leader.fetch_as_replica(
                *self.broker, end, last_epoch, epoch, max_bytes, now_ms, after, tail.start_offset
            )
            if is_throttled and self._throttle is not None:
                self._throttle.spend(len(fetched.data))
        except (NotLeaderError, FencedLeaderEpochError, UnknownLeaderEpochError, ClosedError):
            return self._again(name, now_ms)  # one of the two knows of an election, and the other will
        except OffsetOutOfRangeError as error:
            fetched = error.log_start_offset
        except CorruptRecordError as error:
            return self._corrupt(following, leader, end, error, now_ms)
        except StreamlogError as error:
            if isinstance(error, StorageError):
                self._listener.replica_damaged(leader, end, error)
            logger.warning("%s-%d cannot be fetched from broker %d: %s", *name, leader.broker_id, error)
            return self._again(name, now_ms)
        try:
            if not self._take(following, leader, fetched, epoch):
                self._note_high_watermark(replica, leader, now_ms)
                return False
            self.end_turn(began_s)
            return True  # there may be more, and the next fetch acknowledges this one
        except CorruptRecordError as error:
            if error.path.startswith(f"{replica.log.directory}/"):  # where it would have to be truncated
                self._listener.replica_damaged(replica, end - 1, error)
                return self._again(name, now_ms)
            return self._corrupt(following, leader, end, error, now_ms)
        except (NotLeaderError, ClosedError):  # an election, or the end, has come between
            return self._again(name, now_ms)
        except StreamlogError as error:
            return self._failed(replica, error, now_ms)

    def _take(self, following: Following, leader: Partition, fetched: ReplicaFetch | int, leader_epoch: int) -> bool:
        """Have the follower's log be as the leader has answered, or begin where the leader's does; whether to fetch once more."""
        replica, read = following.replica, EMPTY
        is_in_sync = self.broker[0] in replica.registration.isr
        if isinstance(fetched, int):
            follower.truncate_fully_and_start_at(replica, fetched, leader_epoch)
        elif follower.append_fetched(replica, fetched, discards_damage=not is_in_sync):
            read = fetched.read
        else:
            return False
        if not is_in_sync and not self._is_throttled(replica):
            read = self._read_on(replica, leader, read, leader_epoch)
        following.after = EMPTY if read is EMPTY else _end_of(read)
        following.is_at = (leader_epoch, replica.reader.tail.end_offset)
        return True

    def _read_on(self, replica: Partition, leader: Partition, read: FetchData, leader_epoch: int) -> FetchData:
        """Append what follows a read that ended with a segment, up to what one fetch may bring; the last read.

        The next fetch has all of it synced at once. With a fetch for each segment a follower would sync more often than its leader,
        and where segments are small it would never catch up. Without a sync less is read, so that other partitions have their
        turn: each fetch waits for the leader's lock. What fails here the next fetch meets again.
        """
        size, most = len(read.data), self.max_bytes if replica.durable else min(_READ_ON_BYTES, self.max_bytes)
        while read.data and size < most and (end := replica.reader.tail.end_offset) < leader.end_offset:
            try:
                more = leader.read_as_leader(end, leader_epoch, most - size, _end_of(read))
            except StreamlogError:
                break
            if not more.data:
                break
            try:
                follower.append(replica, more.data, leader_epoch)
            except CorruptRecordError:
                break
            read, size = more, size + len(more.data)
        return read

    def _failed(self, replica: Partition, error: StreamlogError, now_ms: int) -> bool:
        """The disk or the log of this broker has failed."""
        if replica.closed is None:  # else it was deleted, or reassigned
            self._listener.replica_failed(replica, error)
        return self._again(replica.name, now_ms)

    # -- the throttle --------------------------------------------------------------------------------

    def _is_throttled(self, replica: Partition) -> bool:
        """Whether a reassignment adds this replica, and it is not in sync yet."""
        registration = replica.registration
        return self.broker[0] in registration.adding_replicas and self.broker[0] not in registration.isr

    def _left(self) -> int:
        """How many bytes may be fetched now for those."""
        left = None if self._throttle is None else self._throttle.available()
        return self.max_bytes if left is None else left

    def _wait_for_quota(self, name: TopicPartition) -> bool:
        self._throttled[name] = None  # first: what is called later finds it
        if self._throttle is not None:
            self._throttle.wait()
        return False

    # -- damage --------------------------------------------------------------------------------------

    def _discard_damaged_end(self, replica: Partition) -> bool:
        """Have a log whose end is damaged end where it is whole; False if it cannot be done now."""
        if self.broker[0] in replica.registration.isr:  # the controller is about to remove it
            return False
        try:
            follower.discard_damaged_end(replica)
        except StreamlogError as error:
            if replica.closed is None:
                self._listener.replica_failed(replica, error)
            return False
        return True

    def _corrupt(
        self, following: Following, leader: Partition, end: int, error: CorruptRecordError, now_ms: int
    ) -> bool:
        """A batch did not verify. If it was read at the position of the last fetch, look the position up and read again first."""
        if following.after is not EMPTY:
            following.after = EMPTY
            return True
        self._listener.replica_damaged(leader, end, error)
        return self._again(leader.name, now_ms)

    def _again(self, name: TopicPartition, now_ms: int) -> bool:
        self._retries[name] = now_ms + RETRY_MS
        return False


def _end_of(read: FetchData) -> FetchData:
    """The position at which `read` ends, without its bytes: there may be thousands of partitions."""
    return FetchData(b"", read.seed, read.path, read.position + len(read.data), read.segment)
