"""Reading an internal log from its beginning: how the metadata image and the coordinator come back."""

from __future__ import annotations

from collections.abc import Iterator

from ..coordinator import Shard
from ..errors import CorruptRecordError
from ..records.batch import ABORT, COMMIT, TRANSACTIONAL, BatchHeader, corrupt, read_header, verify_payload
from ..records.decode import decode
from ..storage.tail import FetchData
from .reading import Readable

_READ_BYTES = 1 << 20


def all_records(partition: Readable, end: int | None = None, *, start: int = 0) -> Iterator[tuple[bytes, bytes | None]]:
    """Every (key, value) of the log in order, up to the high watermark or `end`; see `all_batches`."""
    for _, records in all_batches(partition, end, start=start):
        yield from records


def all_batches(
    partition: Readable, end: int | None = None, *, start: int = 0
) -> Iterator[tuple[BatchHeader, list[tuple[bytes, bytes | None]]]]:
    """Each batch of the log with its records, (key, value), up to the high watermark or `end`; what is damaged comes from another replica.

    A control batch has none. Raises CorruptRecordError if no replica has a batch: no state is made of a part of the records.

    `start`: where an earlier call ended, for the records since then.
    """
    end = partition.high_watermark if end is None else end
    offset = max(start, partition.reader.tail.start_offset)
    while offset < end:
        chunk = _undamaged(partition, offset, end)
        if not chunk.data:
            return
        at = 0
        while at < len(chunk.data):
            try:
                header = _verified(chunk, at)
            except CorruptRecordError:
                if not at:
                    raise
                break  # the next look at it may find it elsewhere
            if header.next_offset <= offset:
                raise corrupt(chunk.path, chunk.position + at, "its offset goes back", offset, header.base_offset)
            yield header, [] if header.is_control or not header.record_count else _records(chunk, at, header)
            offset = header.next_offset
            at += header.batch_len


def replay_groups(shard: Shard, partition: Readable, end: int | None = None, *, start: int = 0) -> int:
    """Have a shard of the groups' coordinator replay its log; where it ended. What is committed in a transaction counts from its marker on.

    `start`: where an earlier call ended, for the records since then.
    """
    ended = start
    for header, records in all_batches(partition, end, start=start):
        if header.is_control:
            if header.control_type in (ABORT, COMMIT):
                shard.replay_end(header.producer_id, header.control_type == COMMIT)
        elif header.attributes & TRANSACTIONAL:
            shard.replay_pending(header.producer_id, records)
        else:
            shard.replay(records)
        ended = header.next_offset
    return ended


def _undamaged(partition: Readable, offset: int, end: int) -> FetchData:
    """Batches of which the first verifies. Raises CorruptRecordError."""
    try:
        chunk = partition.reader.fetch(offset, _READ_BYTES, end)
        if chunk.data:
            _verified(chunk, 0)
        return chunk
    except CorruptRecordError:
        chunk = partition.fetch_elsewhere(offset, _READ_BYTES, end)
        if not chunk.data:
            raise
        return chunk


def _verified(chunk: FetchData, at: int) -> BatchHeader:
    header = read_header(chunk.data, at, chunk.seed, chunk.path, chunk.position + at)
    payload = memoryview(chunk.data)[at + header.header_len : at + header.batch_len]
    verify_payload(header, payload, chunk.seed, chunk.path, chunk.position + at)
    return header


def _records(chunk: FetchData, at: int, header: BatchHeader) -> list[tuple[bytes, bytes | None]]:
    try:
        full = decode(header, chunk.data, at).all()
        return [(key, value) for key, value in zip(full.keys, full.values, strict=True) if key is not None]
    except (ValueError, TypeError) as error:
        why = f"the columns contradict the header ({error})"
        raise corrupt(chunk.path, chunk.position + at, why, 0, 0) from error
