"""Reading an internal log from its beginning: how the metadata image and the coordinator come back."""

from __future__ import annotations

from collections.abc import Iterator

from ..records.batch import read_header, verify_payload
from ..records.columns import BatchColumns
from ..replication.partition import Partition

_READ_BYTES = 1 << 20


def all_records(partition: Partition) -> Iterator[tuple[bytes, bytes | None]]:
    """Every (key, value) of the log in order. Raises CorruptRecordError: half a state is no state."""
    log = partition.log
    end = partition.high_watermark
    offset = log.tail.start_offset
    while offset < end:
        chunk = log.fetch(offset, _READ_BYTES, end)
        if not chunk.data:
            return
        at = 0
        while at < len(chunk.data):
            header = read_header(chunk.data, at, chunk.seed, chunk.path, chunk.position + at)
            payload = memoryview(chunk.data)[at + header.header_len : at + header.batch_len]
            verify_payload(header, payload, chunk.seed, chunk.path, chunk.position + at)
            if not header.is_control and header.record_count:
                columns = BatchColumns(chunk.data, at, header)
                values = columns.values()
                for n, key in enumerate(columns.keys() or ()):
                    if key is not None:
                        yield key, None if values is None else values[n]
            offset = header.next_offset
            at += header.batch_len
