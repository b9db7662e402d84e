"""What a replica does as a follower: it appends what its leader has, and removes what its leader has not.

Each function is called by the thread that follows the leader (`fetcher`), or at opening. REQUIRES: no lock, and that this broker
does not lead the partition; so no sender waits where the locks are held across a sync.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..records.batch import peek
from ..runtime.threads import inside
from ..storage import copying, truncation
from ..types import Buffer
from . import errors
from .partition import Partition
from .purgatory import DelayedOperation
from .replica_set import ReplicaFetch


def append_fetched(replica: Partition, fetched: ReplicaFetch, *, discards_damage: bool = False) -> bool:
    """Do what the leader's answer to a fetch from the end of this log says; whether to fetch once more: there may
    be more records, or the leader is to learn that records were deleted here too.

    Raises what the log and its disk raise; CorruptRecordError for a batch that is damaged. `discards_damage`: see `truncation.truncate_to`.
    """
    end, diverging = replica.reader.tail.end_offset, fetched.diverging_epoch
    if diverging is not None:
        own = replica.epoch_end(diverging.epoch)
        target = min(end, diverging.end_offset, end if own is None else own.end_offset)
        if target >= replica.reader.tail.start_offset:
            truncate_to(replica, target, fetched.leader_epoch, discards_damage=discards_damage)
        else:
            truncate_fully_and_start_at(replica, max(target, fetched.log_start_offset), fetched.leader_epoch)
        return True
    if fetched.data:
        base_offset = peek(fetched.data, 0).base_offset
        is_empty = replica.reader.tail.start_offset == end
        if base_offset < end and (is_empty or base_offset < fetched.log_start_offset):
            # Records were deleted up to the middle of this batch, which can only be stored whole (KAFKA-6975).
            truncate_fully_and_start_at(replica, base_offset, fetched.leader_epoch)
        replica.leader_high_watermark = fetched.high_watermark  # which the append takes over
        append(replica, fetched.data, fetched.leader_epoch)
    return follow_leader(replica, fetched) or bool(fetched.data)


def follow_leader(replica: Partition, fetched: ReplicaFetch) -> bool:
    """Take over the leader's high watermark and log start, as far as this log goes; whether the log start rose."""
    replica.follow_high_watermark(fetched.high_watermark)
    before = replica.reader.tail.start_offset
    return fetched.log_start_offset > before and follow_log_start(replica, fetched.log_start_offset) > before


def follow_log_start(replica: Partition, leader_log_start: int) -> int:
    """Raise the log start to what the leader asks for, which alone decides what is deleted; the new start.

    Not past the high watermark: what is not committed is not deleted. Where the leader's log starts after the end of this
    one, `truncate_fully_and_start_at` is called instead.
    """
    start, before = replica.reader.tail.start_offset, min(leader_log_start, replica.high_watermark)
    return replica.delete_before(before) if before > start else start


def sync(replica: Partition) -> None:
    """Have all of the log on its device, if `durable`. Comes before each fetch, which says that it is: after the append before
    it a sync may have failed, or an interrupt have come. Raises PoisonedLogError, StorageError.
    """
    if replica.durable and replica.commit.synced_end < replica.reader.tail.end_offset:
        replica.commit.sync()


def append(replica: Partition, data: Buffer, leader_epoch: int | None = None) -> int:
    """Append batches as their leader stored them; the new log end offset. Raises what `Log.append_as_follower` raises.

    With the `leader_epoch` of the fetch that brought them, NotLeaderError if this broker does not follow in it any more. After
    an interrupt the caller looks at the end of the log, and goes on from there.
    """
    if replica.log.begins_gaps(data):
        with inside(), replica.maintenance.lock:
            replica.check_open()
            replica.log.record_compaction()
    end_offset = append_in_turn(replica, data, leader_epoch)
    replica.maybe_advance_high_watermark()
    return end_offset


def append_in_turn(replica: Partition, data: Buffer, leader_epoch: int | None) -> int:
    """`append` without a look at the high watermark: the leader's rises later. Calls no waiter.

    REQUIRES: the log knows of the gaps in the data (`Log.begins_gaps`).
    """
    with inside(), replica.lock:
        _require_following(replica, leader_epoch)
        end_offset = replica.log.append_as_follower(data)
        replica.log.transactions.replicated(replica.high_watermark)
    if replica.log.began_segment:
        replica.note_work()
    return end_offset


def append_copy(replica: Partition, data: bytes, leader_epoch: int) -> int:
    """`append_in_turn` for a single record, as its leader has it in memory; -1 for what is more work. See `storage/copying.py`."""
    with inside(), replica.lock:
        _require_following(replica, leader_epoch)
        return copying.append_copy(replica.log, data, leader_epoch)


def truncate_to(
    replica: Partition, offset: int, leader_epoch: int | None = None, *, discards_damage: bool = False
) -> int:
    """Forget every record at or after `offset`; the new log end offset. See `truncation.truncate_to`.

    The high watermark goes back with it, and what waits for a record that went fails with NotLeaderError.
    """
    truncate = partial(truncation.truncate_to, replica.log, offset, discards_damage=discards_damage)
    return _truncate(replica, truncate, leader_epoch)


def discard_damaged_end(replica: Partition) -> None:
    """Truncate a log that could not be recovered to its end to what is whole, to fetch the rest again.

    REQUIRES: this broker is not in the in-sync set, and does not count as having what is truncated.
    """
    _truncate(replica, partial(truncation.discard_damaged_end, replica.log), None)


def _truncate(replica: Partition, truncate: Callable[[], int], leader_epoch: int | None) -> int:
    lost: list[DelayedOperation[Any]] = []
    try:
        with inside(), replica.maintenance.lock:
            replica.maintenance.finish_compaction()
            with inside(), replica.lock, replica.commit.syncing:
                replica.check_open()
                _require_following(replica, leader_epoch)
                try:
                    return truncate()
                finally:  # also where the disk failed after the log has published it
                    end = replica.reader.tail.end_offset
                    replica.commit.clip(end)
                    # Under the lock: this broker may be elected next, and append other records there.
                    lost = replica.purgatory.past(end)
    finally:
        replica.lower_high_watermark()
        for operation in lost:
            operation.fail(errors.truncated(replica.name))
        replica.commit.answer()
        replica.listener.changed(rewritten=True)


def truncate_fully_and_start_at(replica: Partition, offset: int, leader_epoch: int | None = None) -> None:
    """Forget every record; the log goes on at `offset`, which is its start and the high watermark.

    See `truncation.truncate_fully_and_start_at`. What waits fails with NotLeaderError, even if the disk fails.
    """
    waiting: list[DelayedOperation[Any]] = []
    try:
        with inside(), replica.maintenance.lock:
            replica.maintenance.finish_compaction()
            with inside(), replica.lock, replica.commit.syncing:
                replica.check_open()
                _require_following(replica, leader_epoch)
                # Before the high watermark is past the records that they wait for.
                waiting = replica.purgatory.give_up()
                replica.leader_high_watermark = offset  # the leader deletes nothing past its own
                try:
                    truncation.truncate_fully_and_start_at(replica.log, offset)
                finally:  # as in `truncate_to`
                    if replica.reader.tail[:2] == (offset, 0):
                        replica.commit.restart(offset)
    finally:
        for operation in waiting:
            operation.fail(errors.truncated(replica.name))
        replica.lower_high_watermark()
        replica.commit.answer()  # which raises the high watermark, if it is below
        replica.listener.changed(rewritten=True)


def _require_following(replica: Partition, leader_epoch: int | None) -> None:
    """REQUIRES: the lock. An election may have come between a fetch and what it brings."""
    if replica.closed is not None:
        raise replica.closed.copy()
    if leader_epoch is not None and (leader_epoch != replica.leader_epoch or replica.refusals.not_leader is None):
        raise errors.not_following(replica.name, replica.broker_id, leader_epoch)
