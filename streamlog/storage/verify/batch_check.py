"""A check that the columns of a batch decode and agree with its header. The checksums were verified before."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from ...errors import StreamlogError
from ...records import columns as form
from ...records import kafka_v2
from ...records.batch import (
    CODEC_MASK,
    CONTROL,
    CONTROL_MASK,
    FORM_KAFKA,
    FORM_MASK,
    LOG_APPEND_TIME,
    NO_DELTA,
    NO_TIMESTAMP,
    TRANSACTIONAL,
    BatchHeader,
    directory_entries,
)
from ...records.columns import Columns
from ...records.decode import decode

_KNOWN_BITS = FORM_MASK | CODEC_MASK | LOG_APPEND_TIME | TRANSACTIONAL | CONTROL | CONTROL_MASK
_KINDS = (form.OFFSETS, form.TIMESTAMPS, form.KEYS, form.VALUES, form.HEADERS)


def batch_fault(data: bytes, header: BatchHeader, gaps: bool) -> str | None:
    """What is wrong with the batch in `data`, or None. REQUIRES: both checksums are right.

    `gaps`: compaction may have removed records.
    """
    if header.record_count < 0 or header.last_offset_delta < 0:
        return f"the header counts {header.record_count} records over {header.last_offset_delta + 1} offsets"
    if header.record_count > header.last_offset_delta + 1:
        return f"the header counts {header.record_count} records, but only {header.last_offset_delta + 1} offsets"
    if header.attributes & ~_KNOWN_BITS:
        return f"attributes {header.attributes:#x} have unknown bits"
    is_kafka = header.form == FORM_KAFKA
    try:
        entries = [] if is_kafka else directory_entries(data, 0, header)
        kinds = [kind for kind, _ in entries]
        if len(set(kinds)) != len(kinds) or not set(kinds) <= set(_KINDS):
            return f"the column directory lists the kinds {kinds}"
        columns = decode(header, data)
        full = columns.all()
    except (ValueError, TypeError, StreamlogError) as error:  # StreamlogError: the codec is unknown or not installed
        return f"the columns do not decode: {error}"
    if is_kafka:
        fault = kafka_v2.payload_fault(header, data[header.header_len :], columns)
        if fault is not None:
            return fault
    elif header.uncompressed_len != _uncompressed(data, header, entries):
        return f"the header says {header.uncompressed_len} bytes uncompressed, the columns say otherwise"
    return _offsets_fault(header, full.offsets, gaps) or _times_fault(header, full) or _types_fault(full)


def _uncompressed(data: bytes, header: BatchHeader, entries: Sequence[tuple[int, int]]) -> int:
    if not header.codec:
        return header.batch_len - header.header_len
    total, at = 0, header.header_len
    for _, length in entries:
        total += int.from_bytes(data[at : at + 4], "little")
        at += length
    return total


def _offsets_fault(header: BatchHeader, offsets: Sequence[int], gaps: bool) -> str | None:
    if any(a >= b for a, b in pairwise(offsets)):
        return "the offsets do not grow from record to record"
    if len(offsets) and not (header.base_offset <= offsets[0] and offsets[-1] <= header.last_offset):
        bounds = f"{header.base_offset} to {header.last_offset}"
        return f"offsets {offsets[0]} to {offsets[-1]} are outside the batch's {bounds}"
    # `repair` writes a batch without records in place of lost ones.
    if not gaps and header.record_count and header.record_count != header.last_offset_delta + 1:
        return f"{header.record_count} records for {header.last_offset_delta + 1} offsets, and nothing was compacted"
    return None


def _times_fault(header: BatchHeader, full: Columns) -> str | None:
    timestamps = full.timestamps
    if not timestamps:
        return None if header.max_timestamp_delta == NO_DELTA else "it has no record that has the greatest timestamp"
    low, high = min(timestamps), max(timestamps)
    is_exact = True
    if header.form == FORM_KAFKA:  # what a Kafka client wrote is stored unread: less may be known, but nothing wrong
        low = NO_TIMESTAMP if header.base_timestamp == NO_TIMESTAMP else low
        is_exact = header.max_timestamp_delta != NO_DELTA
        high = high if is_exact else max(high, header.max_timestamp)
    if (low, high) != (header.base_timestamp, header.max_timestamp):
        return f"timestamps run from {low} to {high}, the header says {header.base_timestamp} to {header.max_timestamp}"
    if not is_exact:
        return None
    newest = full.offsets[timestamps.index(high)]
    if header.base_offset + header.max_timestamp_delta != newest:
        return f"offset {newest} has the greatest timestamp, the header says {header.base_offset + header.max_timestamp_delta}"
    return None


def _types_fault(full: Columns) -> str | None:
    for name, column in (("key", full.keys), ("value", full.values)):
        if not all(entry is None or isinstance(entry, bytes) for entry in column):
            return f"a {name} is not bytes"
    if not all(map(_is_headers, full.headers)):
        return "a record's headers are not pairs of a name and bytes"
    return None


def _is_headers(entry: Any) -> bool:
    return isinstance(entry, tuple) and all(
        isinstance(pair, tuple)
        and len(pair) == 2
        and isinstance(pair[0], str)
        and (pair[1] is None or isinstance(pair[1], bytes))
        for pair in entry
    )
