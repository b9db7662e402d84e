"""Payload form 0: one msgpack array per column.

Columns unpack several times faster than rows, compress better, and a reader that needs only keys
decodes only keys. A column without information is left out: offset deltas when they count up from 0,
timestamps when all equal the base timestamp, keys or values when all are None, headers when there
are none.

A new column is a number beside `OFFSETS`, an argument of `seal` and a property of `BatchColumns`; `records_of` and
`client/consumer/record_batch.py` pass it to readers. Writers pass it in by the way of a record: `ProducerRecord` and
`Record` (`types.py`), `Row` and `Rows` with `Batch.seal` (`client/producer/batch.py`), and `Records` for columns
(`client/producer/send_many.py`); `replication/validation.py` checks what a client gives.
`storage/verify/batch_check.py` checks it. A batch that has it is not encoded by `single`. Compaction takes records out
of it in `storage/compaction.py`. `storage/FORMAT.md` and `tests/golden` have the bytes. A reader that does not know the
column ignores it; if that is wrong, the log needs a name in `features` of `streamlog.json`, which keeps such readers
out.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate, repeat
from typing import TYPE_CHECKING, Any, NamedTuple

import msgpack

from ..types import Buffer, HeaderTuple
from . import compression
from .batch import (
    CODEC_SHIFT,
    FORM_COLUMNS,
    LOG_APPEND_TIME,
    MAX_FREE_RECORDS,
    NO_DELTA,
    NO_HORIZON,
    NO_TIMESTAMP,
    BatchHeader,
    SealedBatch,
    directory_entries,
    directory_of,
    hash_payload,
)
from .core import core

if TYPE_CHECKING:
    from .._core import PackedRows

OFFSETS, TIMESTAMPS, KEYS, VALUES, HEADERS = 1, 2, 3, 4, 5
_BYTES_ONLY = frozenset((KEYS, VALUES))
MAX_UNCOMPRESSED = 1 << 30


def _refuse_ext(code: int, data: bytes) -> Any:
    raise ValueError(f"msgpack extension type {code} is not allowed in a batch")


def _pack(column: Sequence[Any]) -> bytes:
    packed: bytes = msgpack.packb(column)
    return packed


class Columns(NamedTuple):
    """A batch's records as parallel sequences of equal length."""

    offsets: Sequence[int]
    timestamps: Sequence[int]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    headers: Sequence[HeaderTuple]


def seal(
    seed: int,
    keys: Sequence[bytes | None] | None,
    values: Sequence[bytes | None] | None,
    timestamps: Sequence[int] | int,
    headers: Sequence[HeaderTuple] | None = None,
    *,
    count: int,
    offset_deltas: Sequence[int] | None = None,
    last_offset_delta: int | None = None,
    codec: int = 0,
    attributes: int = 0,
    delete_horizon: int = NO_HORIZON,
) -> SealedBatch:
    """Encode `count` records. `timestamps` is one int if all records have it; None is an absent column.

    Cost: about 40 ns per record for keys and values of bytes, and a fixed 2 µs.
    """
    if core is not None and headers is None and offset_deltas is None and last_offset_delta is None and not codec:
        made = core.seal(seed, keys, values, timestamps, count)
        if made is not None:
            payload, digest, directory, base_ts, max_ts, newest = made
            return SealedBatch(
                payload, digest, directory, attributes | FORM_COLUMNS, count, count - 1, base_ts, max_ts, newest,
                len(payload), delete_horizon=delete_horizon, seed=seed,
            )  # fmt: skip
    columns: list[tuple[int, bytes]] = []
    if values is None and count > MAX_FREE_RECORDS:
        values = [None] * count
    if offset_deltas is not None:
        columns.append((OFFSETS, _pack(offset_deltas)))
    newest = 0 if count else NO_DELTA
    if isinstance(timestamps, int):
        base_ts = max_ts = timestamps
    elif not timestamps:
        base_ts = max_ts = NO_TIMESTAMP
    else:
        base_ts = max_ts = timestamps[0]
        if timestamps.count(base_ts) != len(timestamps):  # a third of the cost of `min` and `max`
            base_ts, max_ts = min(timestamps), max(timestamps)
            newest = timestamps.index(max_ts)
            columns.append((TIMESTAMPS, _pack([t - base_ts for t in timestamps])))
    if keys is not None:
        columns.append((KEYS, _pack(keys)))
    if values is not None:
        columns.append((VALUES, _pack(values)))
    if headers is not None:
        columns.append((HEADERS, _pack(headers)))
    return _sealed(
        seed,
        columns,
        codec,
        attributes | FORM_COLUMNS | codec << CODEC_SHIFT,
        count,
        count - 1 if last_offset_delta is None else last_offset_delta,
        base_ts,
        max_ts,
        offset_deltas[newest] if offset_deltas else newest,
        delete_horizon,
    )


def new_rows() -> list[Any] | PackedRows:
    """What the rows of a batch join: a list, or what the core in C packs as they come. A row is a tuple of key, value and timestamp,
    and of headers if there are any."""
    return [] if core is None else core.PackedRows()


def seal_rows(
    seed: int, rows: list[Any] | PackedRows, count: int, attributes: int
) -> tuple[SealedBatch, list[int] | int] | None:
    """`seal`, of the first `count` rows, as far as the core has packed them; and their timestamps.

    None if they are a list, have headers, or are not usual otherwise: then the caller makes columns of them.
    """
    made = None if isinstance(rows, list) else rows.seal(seed, count)
    if made is None:
        return None
    (payload, digest, directory, base_ts, max_ts, newest), times = made  # pragma: no cover - of the core
    return SealedBatch(  # pragma: no cover - of the core
        payload, digest, directory, attributes | FORM_COLUMNS, count, count - 1, base_ts, max_ts, newest, len(payload), seed=seed
    ), times  # fmt: skip


def _sealed(
    seed: int,
    columns: list[tuple[int, bytes]],
    codec: int,
    attributes: int,
    count: int,
    last_offset_delta: int,
    base_ts: int,
    max_ts: int,
    max_delta: int,
    delete_horizon: int,
) -> SealedBatch:
    raw_len = 0
    if codec:
        raw_len = sum(len(data) for _, data in columns)
        # Each compressed column begins with its own uncompressed length: a reader that decodes one
        # column has to know how much memory it may take.
        columns = [
            (kind, len(data).to_bytes(4, "little") + compression.compress(codec, data)) for kind, data in columns
        ]
    payload = b"".join([data for _, data in columns])
    raw_len = raw_len or len(payload)
    directory = directory_of([(kind, len(data)) for kind, data in columns])
    return SealedBatch(
        payload, hash_payload(payload, seed), directory, attributes, count, last_offset_delta, base_ts, max_ts, max_delta,
        raw_len, delete_horizon=delete_horizon, seed=seed,
    )  # fmt: skip


_unpackb = msgpack.unpackb


def _unpack(kind: int, data: Buffer, codec: int, count: int) -> Any:
    if codec:
        size = int.from_bytes(data[:4], "little")
        data = compression.decompress(codec, data[4:], size, MAX_UNCOMPRESSED)
    column = _unpackb(data, use_list=kind != HEADERS, ext_hook=_refuse_ext, max_ext_len=0)
    if type(column) not in (list, tuple) or len(column) != count:
        raise ValueError(f"column {kind} does not hold {count} entries")
    return column


_BIN8_CODE = 0xC4
_FEW = 16


def _few(data: Buffer, start: int, stop: int, count: int, low: int, high: int) -> list[bytes] | None:
    """The entries from `low` up to `high` of the packed column of `count` byte strings in `data[start:stop]`.

    Only if the entries up to `high` have the same width: then their positions are known without unpacking. This is
    verified, not assumed: entry 0 states the width that all would have, so entry 1 begins where it is expected and
    states the same, and so on. None if that fails, or for unusual sizes.
    """
    width, remainder = divmod(stop - start - 3, count)
    if remainder or not 2 <= width < 258 or count > 65_535:
        return None
    end = 3 + high * width
    column = bytes(data[start : start + end])
    if (
        column[:3] != b"\xdc" + count.to_bytes(2, "big")
        or column[3::width].count(_BIN8_CODE) != high
        or column[4::width].count(width - 2) != high
    ):
        return None
    return [column[at - width + 2 : at] for at in range(3 + low * width + width, end + 1, width)]


class BatchColumns:
    """The columns of one verified batch, each decoded when it is first asked for.

    REQUIRES: the batch's checksums were verified. Every method raises ValueError if the columns contradict the
    header all the same (a batch that was made to do harm).
    """

    __slots__ = ("_buffer", "_entries", "_start", "header")

    def __init__(self, buffer: Buffer, position: int, header: BatchHeader) -> None:
        self.header = header
        self._buffer = buffer
        self._start = position + header.header_len
        self._entries = directory_entries(buffer, position, header)

    def _column(self, kind: int) -> Any:
        start = self._start
        for here, length in self._entries:
            if here == kind:
                header = self.header
                return _unpack(kind, self._buffer[start : start + length], header.codec, header.record_count)
            start += length
        return None

    def some(self, kind: int, low: int, high: int) -> Any:
        """The column's entries from index `low` up to `high`; None if it is absent. A few are read without unpacking all."""
        header = self.header
        if high - low <= _FEW and kind in _BYTES_ONLY and not header.codec:
            start = self._start
            for here, length in self._entries:
                if here == kind:
                    found = _few(self._buffer, start, start + length, header.record_count, low, high)
                    if found is not None:
                        return found
                start += length
        column = self._column(kind)
        return None if column is None else column[low:high]

    @property
    def only_keys_and_values(self) -> bool:
        """Whether offsets count up, timestamps are all the base timestamp, and there are no headers: the usual batch."""
        for kind, _ in self._entries:  # noqa: SIM110
            if kind != KEYS and kind != VALUES:
                return False
        return True

    def payload(self) -> bytes:
        """A copy of the payload as it is stored."""
        return bytes(self._buffer[self._start : self._start + self.header.batch_len - self.header.header_len])

    def offsets(self) -> Sequence[int]:
        header = self.header
        deltas = self._column(OFFSETS)
        if deltas is None:
            return range(header.base_offset, header.base_offset + header.record_count)
        base = header.base_offset
        return [base + d for d in deltas]

    def timestamps(self) -> Sequence[int] | None:
        """None when every record has the header's base timestamp."""
        if self.header.attributes & LOG_APPEND_TIME:
            return None
        deltas = self._column(TIMESTAMPS)
        if deltas is None:
            return None
        base = self.header.base_timestamp
        return [base + d for d in deltas]

    def timestamps_full(self) -> Sequence[int]:
        return self.timestamps() or [self.header.base_timestamp] * self.header.record_count

    def keys(self) -> Sequence[bytes | None] | None:
        column: Sequence[bytes | None] | None = self._column(KEYS)
        return column

    def values(self) -> Sequence[bytes | None] | None:
        column: Sequence[bytes | None] | None = self._column(VALUES)
        return column

    def headers(self) -> Sequence[HeaderTuple] | None:
        column: Sequence[HeaderTuple] | None = self._column(HEADERS)
        return column

    def all(self) -> Columns:
        """Every column in full, absent ones filled in."""
        n = self.header.record_count
        return Columns(
            self.offsets(),
            self.timestamps_full(),
            self.keys() or [None] * n,
            self.values() or [None] * n,
            self.headers() or [()] * n,
        )


def buffers(column: Sequence[bytes | None]) -> tuple[bytes | None, bytes, bytes]:
    """A column as Arrow has one of large binary values: validity bits, None if no entry is None; offsets of 64 bits; all bytes."""
    ends = array("q", accumulate((0 if entry is None else len(entry) for entry in column), initial=0))
    validity = None
    if None in column:
        bits = bytearray((len(column) + 7) // 8)
        for at, entry in enumerate(column):
            if entry is not None:
                bits[at >> 3] |= 1 << (at & 7)
        validity = bytes(bits)
    return validity, ends.tobytes(), b"".join([entry for entry in column if entry is not None])


def records_of(
    make: type[Any], topic: str, partition: int, columns: BatchColumns, low: int = 0, high: int | None = None
) -> Iterator[Any]:
    """A C iterator over the batch's records from index `low` up to `high`, without a Python frame for each.

    `map(tuple.__new__, repeat(Record), zip(...))` was measured at two thirds of the cost of calling the class.
    Columns are sliced before records are built, so a read in the middle builds only the records that it returns.
    """
    header = columns.header
    timestamps: Any = None
    headers: Any = None
    is_slice = low or high is not None
    stop = header.record_count if high is None else high
    if columns.only_keys_and_values:
        offsets: Sequence[int] = range(header.base_offset + low, header.base_offset + stop)
    else:
        offsets, timestamps = columns.offsets()[low:stop], columns.timestamps()
        timestamps = timestamps and timestamps[low:stop]
        headers = columns.some(HEADERS, low, stop)
    if is_slice:
        keys, values = columns.some(KEYS, low, stop), columns.some(VALUES, low, stop)
    else:
        keys, values = columns.keys(), columns.values()
    new: Any = tuple.__new__
    return map(
        new,
        repeat(make),
        zip(
            repeat(topic),
            repeat(partition),
            offsets,
            repeat(header.base_timestamp) if timestamps is None else timestamps,
            repeat(None) if keys is None else keys,
            repeat(None) if values is None else values,
            repeat(()) if headers is None else headers,
            strict=False,
        ),
    )
