"""Reading an internal log from its beginning: how the metadata image and the coordinator come back."""

from __future__ import annotations

from collections.abc import Iterator

from ..records.batch import BatchHeader, corrupt, read_header, verify_payload
from ..records.decode import decode
from ..storage.tail import FetchData
from .reading import Readable

_READ_BYTES = 1 << 20


def all_records(partition: Readable, end: int | None = None, *, start: int = 0) -> Iterator[tuple[bytes, bytes | None]]:
    """Every (key, value) of the log in order, up to the high watermark or `end`. Raises CorruptRecordError:
    no state is made of a part of the records.

    `start`: where an earlier call ended, for the records since then.
    """
    reader = partition.reader
    end = partition.high_watermark if end is None else end
    offset = max(start, reader.tail.start_offset)
    while offset < end:
        chunk = reader.fetch(offset, _READ_BYTES, end)
        if not chunk.data:
            return
        at = 0
        while at < len(chunk.data):
            header = read_header(chunk.data, at, chunk.seed, chunk.path, chunk.position + at)
            payload = memoryview(chunk.data)[at + header.header_len : at + header.batch_len]
            verify_payload(header, payload, chunk.seed, chunk.path, chunk.position + at)
            if header.next_offset <= offset:
                raise corrupt(chunk.path, chunk.position + at, "its offset goes back", offset, header.base_offset)
            if not header.is_control and header.record_count:
                yield from _records(chunk, at, header)
            offset = header.next_offset
            at += header.batch_len


def _records(chunk: FetchData, at: int, header: BatchHeader) -> list[tuple[bytes, bytes | None]]:
    try:
        full = decode(header, chunk.data, at).all()
        return [(key, value) for key, value in zip(full.keys, full.values, strict=True) if key is not None]
    except (ValueError, TypeError) as error:
        why = f"the columns contradict the header ({error})"
        raise corrupt(chunk.path, chunk.position + at, why, 0, 0) from error
