"""Reading from partitions: the calls of the Service protocol that only read, for a log that is owned and for one that is tailed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, TypeAlias, TypeVar

from ..errors import (
    CorruptRecordError,
    FencedLeaderEpochError,
    OffsetOutOfRangeError,
    ReentrantCallError,
    StorageError,
    StreamlogError,
    UnknownLeaderEpochError,
    UnknownTopicIdError,
)
from ..replication.replica_set import PartitionRegistration
from ..runtime.api import Completion
from ..storage.leader_epochs import EpochEnd
from ..storage.tail import EMPTY, FetchData, LogSnapshot
from ..storage.transactions import UNREAD, TransactionSnapshot
from ..types import OffsetAndTimestamp, PartitionInfo, TopicPartition
from .fetched import NOTHING, UNKNOWN_END, FetchResult
from .metadata import TopicIdPartition
from .waiting import Watched

T = TypeVar("T")
READ_COMMITTED = "read_committed"
OffsetSpec: TypeAlias = Literal["earliest", "latest", "max_timestamp"] | int
"""Which offset: the first, the one after the last, that of the greatest timestamp (KIP-734), or that of the first record at or
after a timestamp (ms)."""


class ReadableLog(Protocol):
    """What may be asked of a log by any thread: the log of this process, or of another one."""

    @property
    def tail(self) -> LogSnapshot: ...
    @property
    def transactions(self) -> TransactionSnapshot | None: ...
    def fetch(self, offset: int, max_bytes: int, end_offset: int, after: FetchData = EMPTY) -> FetchData: ...
    def place_at_end(self, offset: int) -> FetchData: ...
    def size_after(self, read: FetchData, max_bytes: int) -> int | None: ...
    def find_time(self, timestamp: int, end_offset: int) -> OffsetAndTimestamp | None: ...
    def end_for_time(self, timestamp: int, end_offset: int) -> int: ...
    def has_every_offset(self, start: int, end: int) -> bool: ...
    def find_max_time(self, end_offset: int) -> OffsetAndTimestamp | None: ...
    def after_damage(self, offset: int, end_offset: int) -> int: ...
    def out_of_range(self, offset: int, end_offset: int) -> OffsetOutOfRangeError: ...


class Readable(Watched, Protocol):
    """What reading needs of a partition."""

    @property
    def topic_id(self) -> bytes: ...
    @property
    def reader(self) -> ReadableLog: ...
    @property
    def high_watermark(self) -> int: ...
    def read_transactions(self) -> TransactionSnapshot | None:
        """`reader.transactions`, read from the files if they are UNREAD."""

    @property
    def closed(self) -> StreamlogError | None: ...
    @property
    def hides(self) -> StreamlogError | None:
        """Why records past the high watermark, which may have been acknowledged, cannot be read; or None."""

    @property
    def registration(self) -> PartitionRegistration: ...
    @property
    def leader_epoch(self) -> int: ...
    def epoch_end(self, leader_epoch: int) -> EpochEnd | None: ...
    def logs_elsewhere(self, end_offset: int) -> Sequence[ReadableLog]:
        """Those of other replicas that are known to have the same records up to `end_offset`."""

    def fetch_elsewhere(self, offset: int, max_bytes: int, end_offset: int) -> FetchData:
        """After a read failed, or met damage, at `offset`: what another replica has there, verified; EMPTY if none has it."""

    def fetch_undamaged(self, offset: int, max_bytes: int, end_offset: int) -> FetchData:
        """After a reader met damage in what it had read: what is there now, verified, or what another replica has; or EMPTY."""


def check_leader_epoch(here: Readable, current: int | None) -> None:
    """Raise FencedLeaderEpochError or UnknownLeaderEpochError if the caller takes another leader for that of the partition."""
    if current is None or current == here.leader_epoch:
        return
    kind = FencedLeaderEpochError if current < here.leader_epoch else UnknownLeaderEpochError
    raise kind(
        f"The request was made for leader epoch {current}, and the partition is at {here.leader_epoch}. Ask the metadata who "
        f"leads it, and send the request again.",
        leader_epoch=current,
        current_epoch=here.leader_epoch,
    )


def _diverging_epoch(here: Readable, offset: int, last_fetched_epoch: int) -> EpochEnd | None:
    """Where the log parts from one whose last record before `offset` is of `last_fetched_epoch`; None if it does not.

    Raises OffsetOutOfRangeError for an epoch that is newer than the log.
    """
    end = here.epoch_end(last_fetched_epoch)
    if end is None:
        raise here.reader.out_of_range(offset, here.high_watermark)
    return end if end.epoch < last_fetched_epoch or end.end_offset < offset else None


def snapshot_for(here: Readable, isolation_level: str) -> TransactionSnapshot | None:
    """The transactions that matter for a reader; None if there are none, or it sees uncommitted records. Raises what reading
    raises."""
    if isolation_level != READ_COMMITTED:
        return None
    known = here.reader.transactions
    return here.read_transactions() if known is UNREAD else known


def end_of(here: Readable, isolation_level: str) -> int:
    """Where what a reader may see ends: the high watermark, or the last stable offset. Raises what reading raises."""
    end = here.high_watermark
    transactions = snapshot_for(here, isolation_level)  # after the high watermark
    return end if transactions is None else transactions.last_stable_offset(end, here.reader.tail.start_offset)


def _find(here: Readable, look: Callable[[ReadableLog], T], end: int) -> T:
    """What `look` finds; in another replica, if it meets damage."""
    try:
        return look(here.reader)
    except (CorruptRecordError, StorageError):
        if here.closed is not None:  # see `_unless_closed`
            raise here.closed.copy() from None
        for log in here.logs_elsewhere(end):
            with contextlib.suppress(StreamlogError):  # damaged there too
                return look(log)
        raise


def _unless_closed(here: Readable, read: Callable[[], T]) -> T:
    """What `read` gives. A partition that was deleted, or closed, or whose broker was stopped while it was read raises that."""
    try:
        return read()
    except StorageError:
        if here.closed is not None:
            raise here.closed.copy() from None
        raise


class PartitionReads:
    """See `api.Service` for each method. Thread-safe.

    `partitions` is looked at without a lock. `find` is called for a partition that is not in it, and raises
    UnknownTopicOrPartitionError or ClosedError if there is none.
    """

    def __init__(
        self,
        partitions: Mapping[tuple[str, int], Readable],
        find: Callable[[TopicPartition], Readable],
        is_replicated: bool = False,
    ) -> None:
        self._partitions = partitions
        self._is_replicated = is_replicated
        self._find = find

    def fetch(
        self,
        partition: TopicIdPartition,
        offset: int,
        max_bytes: int,
        isolation_level: str,
        after: FetchResult = NOTHING,
        *,
        current_leader_epoch: int | None = None,
        last_fetched_epoch: int | None = None,
        replica_id: int = -1,
    ) -> Completion[FetchResult]:
        # Part of each poll, and of each partition's turn in it: its steps are written out.
        topic, number, topic_id = partition
        try:
            here = self._partitions.get((topic, number)) or self._find(TopicPartition(topic, number))
            if here.closed is not None:
                now = self._partitions.get((topic, number), here)
                if now.closed is not None:
                    raise here.closed.copy()
                here = now  # this replica was reassigned just now
            if topic_id != here.topic_id:
                raise UnknownTopicIdError(
                    f"Topic {topic!r} was deleted, and another was created under its name; begin to read that one anew.",
                    topic=topic,
                )
            if current_leader_epoch is not None:
                check_leader_epoch(here, current_leader_epoch)
            reader = here.reader
            tail, end = reader.tail, here.high_watermark
            if last_fetched_epoch is not None:
                diverging = _diverging_epoch(here, offset, last_fetched_epoch)
                if diverging is not None:
                    return FetchResult(EMPTY, end, tail.start_offset, diverging)
            if here.hides is not None and offset >= end:
                raise here.hides.copy()
            # A new leader does not know yet how much of its log is committed.
            if self._is_replicated and end < offset <= tail.end_offset:
                end = offset
            limit = end if replica_id < 0 else tail.end_offset
            committed = reader.transactions  # after the high watermark
            if committed is not None:
                committed = snapshot_for(here, READ_COMMITTED) if replica_id < 0 else None
                if committed is not None:
                    stable = committed.last_stable_offset(end, tail.start_offset)
                    if isolation_level == READ_COMMITTED:
                        limit = max(stable, min(offset, end))  # past the stable offset there is nothing yet
            if not max_bytes and tail.start_offset <= offset < limit:  # it is asked where it stands alone
                limit = offset
            try:  # `_unless_closed`, written out: it is part of each poll
                chunk = reader.fetch(offset, max_bytes, limit, after._chunk)
            except StorageError:
                if here.closed is not None:
                    raise here.closed.copy() from None
                chunk = here.fetch_elsewhere(
                    offset, max_bytes, limit
                )  # the repair finds out whether the disk has failed
                if not chunk.data:
                    raise
            result = FetchResult(chunk, end, tail.start_offset)
            if committed is not None:
                if isolation_level == READ_COMMITTED:
                    result.of_committed(stable, committed.aborted)
                else:  # it is told, and skips nothing
                    result.last_stable_offset = stable
            if here.hides is not None:  # a reader that comes to the end has to come back, and gets the error
                result.end_offset = UNKNOWN_END
            return result
        except ReentrantCallError:
            raise
        except StreamlogError as error:
            return Completion.failed(error)

    def fetch_elsewhere(
        self, partition: TopicIdPartition, offset: int, max_bytes: int, isolation_level: str, damage: StreamlogError
    ) -> Completion[FetchResult]:
        topic, number, topic_id = partition
        try:
            here = self._find(TopicPartition(topic, number))
            high_watermark, end = here.high_watermark, end_of(here, isolation_level)
            if here.topic_id == topic_id and offset < here.reader.tail.start_offset:
                raise here.reader.out_of_range(offset, high_watermark)
            transactions = snapshot_for(here, isolation_level)
            chunk = here.fetch_undamaged(offset, max_bytes, end) if here.topic_id == topic_id else EMPTY
            if not chunk.data:
                return Completion.failed(damage.copy())
            result = FetchResult(chunk, high_watermark, here.reader.tail.start_offset)
            if transactions is not None:
                result.of_committed(end, transactions.aborted)
            return result
        except ReentrantCallError:
            raise
        except StreamlogError as error:
            return Completion.failed(error)

    def fetch_size(
        self, partition: TopicIdPartition, found: FetchResult, max_bytes: int, current_leader_epoch: int | None
    ) -> int | None:
        """How many bytes a fetch would bring now that brought `found` before; None if only the fetch can tell. Nothing is read.

        The position is known of the end of the log alone, and readers see what is committed, some of them before the first
        open transaction.
        """
        topic, number, topic_id = partition
        here = self._partitions.get((topic, number))
        if here is None or here.closed is not None or here.topic_id != topic_id or here.hides is not None:
            return None
        if current_leader_epoch not in (None, here.leader_epoch) or here.high_watermark < here.reader.tail.end_offset:
            return None
        transactions = here.reader.transactions
        if transactions is not None and transactions.unstable:
            return None
        return here.reader.size_after(found._chunk, max_bytes)

    def before_wait(self, partition: TopicIdPartition, offset: int, found: FetchResult) -> FetchResult:
        """`found`, which a fetch at `offset` brought, and which is empty: at the end of the log it becomes the `after` of the next one.

        So the reader that waits there finds what is appended without a search: one read, of nothing else.
        """
        topic, number, topic_id = partition
        here = self._partitions.get((topic, number))
        if here is None or here.topic_id != topic_id or offset > here.high_watermark:
            return found
        place = here.reader.place_at_end(offset)
        return found if place.segment is None else found.at(place)

    def after_damage(self, partition: TopicPartition, offset: int) -> int:
        here = self._find(partition)
        return _unless_closed(here, lambda: here.reader.after_damage(offset, here.high_watermark))

    def bounds(self, partition: TopicPartition, isolation_level: str) -> tuple[int, int]:
        here = self._find(partition)
        if here.hides is not None:  # a reader that comes that far gets the error
            return here.reader.tail.start_offset, here.reader.tail.end_offset
        return here.reader.tail.start_offset, end_of(here, isolation_level)

    def find_offset(
        self,
        partition: TopicPartition,
        spec: OffsetSpec,
        isolation_level: str,
        current_leader_epoch: int | None = None,
    ) -> OffsetAndTimestamp | None:
        here = self._find(partition)
        check_leader_epoch(here, current_leader_epoch)
        if isinstance(spec, str) and spec != "max_timestamp":
            start, end = self.bounds(partition, isolation_level)
            return OffsetAndTimestamp(start if spec == "earliest" else end, -1)
        end = end_of(here, isolation_level)
        found = _find(
            here, lambda log: log.find_max_time(end) if isinstance(spec, str) else log.find_time(spec, end), end
        )
        if here.hides is not None and (found is None or isinstance(spec, str)):
            raise here.hides.copy()
        return found

    def end_for_time(self, partition: TopicPartition, timestamp: int, end_offset: int) -> int:
        here = self._find(partition)
        return _unless_closed(here, lambda: here.reader.end_for_time(timestamp, end_offset))

    def has_every_offset(self, partition: TopicPartition, start: int, end: int) -> bool:
        here = self._find(partition)
        return _unless_closed(here, lambda: here.reader.has_every_offset(start, end))

    def epoch_end_offset(
        self, partition: TopicPartition, leader_epoch: int, current_leader_epoch: int | None = None
    ) -> EpochEnd | None:
        here = self._find(partition)
        check_leader_epoch(here, current_leader_epoch)
        return _unless_closed(here, lambda: here.epoch_end(leader_epoch))

    def partition_info(self, partition: TopicPartition) -> PartitionInfo:
        here = self._find(partition)
        tail = here.reader.tail
        known = here.registration
        return PartitionInfo(
            *partition, known.leader, known.isr, known.replicas, known.leader_epoch, tail.start_offset, here.high_watermark,
            end_of(here, READ_COMMITTED), tail.end_offset, tail.size_bytes(), len(tail.segments),
        )  # fmt: skip
