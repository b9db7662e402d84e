"""What a follower has fetched: whole batches as their leader stored them, looked at before they are appended."""

from __future__ import annotations

from ..errors import UnexpectedAppendOffsetError
from ..records.batch import FIXED_LEN, BatchHeader, corrupt, peek, read_header, verify_payload
from ..types import Buffer
from .leader_epochs import older_epoch


def verified(
    data: Buffer, seed: int, end_offset: int, epoch: int | None, source: str
) -> tuple[list[BatchHeader], bool]:
    """The headers of the batches in `data`, and whether offsets are missing before or between them.

    `end_offset` is where the log ends, `epoch` that of its last batch. Raises CorruptRecordError,
    UnexpectedAppendOffsetError if the log has an offset already, NotLeaderError for an epoch that goes back.
    """
    expected, has_gap, at = end_offset, False, 0
    headers: list[BatchHeader] = []
    while at < len(data):
        header = read_header(data, at, seed, source, at)
        end = at + header.batch_len
        if end > len(data):
            raise corrupt(source, at, "the batch is cut short", header.batch_len, len(data) - at)
        verify_payload(header, memoryview(data)[at + header.header_len : end], seed, source, at)
        if header.base_offset < expected:
            raise _unexpected_offset(header, end_offset)
        if epoch is not None and header.leader_epoch < epoch:
            raise older_epoch(header.leader_epoch, epoch)
        has_gap = has_gap or header.base_offset > expected
        expected, epoch, at = header.next_offset, header.leader_epoch, end
        headers.append(header)
    return headers, has_gap


def has_gaps(data: Buffer, end_offset: int) -> bool:
    """Whether the batches leave out offsets, from `end_offset` on. Nothing is verified."""
    expected, at = end_offset, 0
    while at + FIXED_LEN <= len(data):
        header = peek(data, at)
        if header.base_offset > expected:
            return True
        expected, at = header.next_offset, at + max(FIXED_LEN, header.batch_len)
    return False


def _unexpected_offset(header: BatchHeader, end_offset: int) -> UnexpectedAppendOffsetError:
    return UnexpectedAppendOffsetError(
        f"A batch from the leader holds the offsets {header.base_offset} to {header.last_offset}, but the log has the offsets "
        f"before {end_offset} already. Nothing was written; fetch from the end of the log, or truncate it first.",
        first_offset=header.base_offset,
        last_offset=header.last_offset,
        log_end_offset=end_offset,
    )
