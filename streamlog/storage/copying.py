"""A follower copies a record from its leader's memory: the leader is in the same process, and has just encoded it."""

from __future__ import annotations

from ..records.batch import NO_PRODUCER, copied_fields
from .last_batches import SequencedBatch
from .log import Log
from .tail import AppendRequest


def append_copy(log: Log, data: bytes, leader_epoch: int) -> int:
    """`Log.append_as_follower` for one plain record, as its leader has it in memory; the new log end offset, or -1.

    REQUIRES: partition lock; the bytes are those of `encode_one`. They were not read from a file, so they are not verified,
    which takes longer than the rest. -1, with nothing done, for what is more work: a record that is not the next one, or is the
    first one of an epoch or of a segment. Raises what `append_as_follower` raises for the disk.
    """
    log.check_end()
    offset, position, first_append = log.tail.end_offset, log.tail.end_position, log.tail.first_append
    attributes, base_offset, epoch, count, timestamp, append_ms, producer_id, producer_epoch, sequence = copied_fields(
        data
    )
    if (
        base_offset != offset
        or not epoch == leader_epoch == log.leader_epochs.last
        or count != 1
        or first_append < 0
        or log.is_full(len(data), 1, append_ms)
    ):
        return -1
    entries = ((offset, position, timestamp, timestamp),)
    staged: tuple[SequencedBatch, ...] = ()
    if producer_id != NO_PRODUCER:
        staged = (SequencedBatch(producer_id, producer_epoch, sequence, 0, attributes, offset, append_ms),)
    log.extend(AppendRequest(()), (data,), entries, offset + 1, position + len(data), 1, append_ms, staged)
    log.producers.note_if_many(log.tail)
    return offset + 1
