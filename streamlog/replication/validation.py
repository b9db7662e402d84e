"""What a produced batch has to be before it is appended, whatever made it. Kafka's LogValidator.

A client checks its records when they are given to it, so that bad input is raised there. Here every batch is checked again.
A batch that was sealed in this process, and whose topic does not say otherwise, is checked by what its header will say;
whatever is unusual is decoded.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

from ..config import TopicConfig
from ..errors import CorruptRecordError, InvalidRecordError, InvalidTimestampError, RecordTooLargeError
from ..records.batch import (
    CONTROL,
    FORM_KAFKA,
    FORM_MASK,
    LOG_APPEND_TIME,
    NO_DELTA,
    NO_TIMESTAMP,
    UNKNOWN_FORM,
    BatchHeader,
    SealedBatch,
    hash_payload,
    peek,
    stamp,
)  # fmt: skip
from ..records.columns import BatchColumns, Columns
from ..records.decode import decode
from ..records.kafka_v2 import payload_fault
from ..types import HeaderTuple, TopicPartition

# What counts for a record besides its key, its value and its headers, and for a header besides its name and value.
RECORD_OVERHEAD = 8
_NO_LIMIT = _END_OF_TIME = 1 << 62


class RecordValidator:
    """The rules of one partition's topic. Immutable: a topic with new settings gets a new one.

    `max_bytes`, `keyless_bytes` and `after_max_ms` are there for `produce_one`, which compares them itself. `keyless_bytes` is what
    a null key counts for: nothing, or more than any record may have where it is refused.
    """

    __slots__ = ("_name", "_seed", "_stamps", "after_max_ms", "keyless_bytes", "max_bytes", "needs_key")

    def __init__(self, name: TopicPartition, seed: int, config: TopicConfig) -> None:
        self._name = name
        self._seed = seed
        self._stamps = config.message_timestamp_type == "LogAppendTime"
        self.needs_key = config.compacts
        self.max_bytes = config.max_message_bytes - RECORD_OVERHEAD
        self.keyless_bytes = _NO_LIMIT if config.compacts else 0
        after_max_ms = config.message_timestamp_after_max_ms
        self.after_max_ms = after_max_ms if after_max_ms >= 0 else _NO_LIMIT

    def validated(self, batches: Iterable[SealedBatch], now_ms: int) -> list[SealedBatch]:
        """The batches as they are to be appended: under LogAppendTime they are marked to be stamped.

        Raises InvalidRecordError, RecordTooLargeError, InvalidTimestampError, CorruptRecordError. Cost: under a microsecond
        a batch; on a compacted topic its keys are decoded.
        """
        return [self._validated(batch, now_ms) for batch in batches]

    def _validated(self, batch: SealedBatch, now_ms: int) -> SealedBatch:
        count, attributes = batch.record_count, batch.attributes
        if self._stamps and not attributes & LOG_APPEND_TIME:
            attributes |= LOG_APPEND_TIME
            batch = batch._replace(attributes=attributes)
        if count < 1 or batch.last_offset_delta != count - 1:
            self._refuse(f"holds {count} records at {batch.last_offset_delta + 1} offsets; each record has an offset")
        if attributes & CONTROL:
            self._refuse("is a control batch, which only a transaction's coordinator writes")
        if not attributes & LOG_APPEND_TIME:
            # A Kafka batch may not say its least.
            if batch.base_timestamp != NO_TIMESTAMP or not attributes & FORM_KAFKA:
                self._check_time(batch.base_timestamp, now_ms)
            self._check_time(batch.max_timestamp, now_ms)
        if batch.seed != self._seed:
            self._check_foreign(batch, now_ms)
        elif batch.uncompressed_len > self.max_bytes and not attributes & FORM_KAFKA:
            # Of a Kafka client's batch its size as it came counts, and was compared.
            self._check_sizes(self._decoded(batch).all())
        if self.needs_key:
            keys = self._decoded(batch).keys()
            if keys is None or None in keys:
                self.refuse_null_key()
        return batch

    def check_one(self, key: bytes | None, value: bytes, timestamp: int, now_ms: int) -> None:
        """Raise what is wrong with a single record, if anything is."""
        if key is None and self.needs_key:
            self.refuse_null_key()
        self._check_size(key, value, ())
        self._check_time(timestamp, now_ms)

    # -- a batch that comes from elsewhere, or is unusual --------------------------------------------------

    def _check_foreign(self, batch: SealedBatch, now_ms: int) -> None:
        """Check a batch that was not sealed for this partition in this process: nothing that it says counts before."""
        actual = hash_payload(batch.payload, self._seed)
        if actual != batch.payload_hash:
            self._refuse_damaged("does not match its checksum", batch.payload_hash, actual)
        header, records = self._header(batch), self._decoded(batch)
        try:
            columns = records.all()
            times, offsets = columns.timestamps, list(columns.offsets)
            fault = payload_fault(header, batch.payload, records) if header.form == FORM_KAFKA else None
        except (ValueError, TypeError) as error:
            self._refuse(f"cannot be decoded ({error})")
        if fault is not None:
            self._refuse_damaged(f"contradicts itself: {fault}", 0, 0)
        if offsets != list(range(batch.record_count)):
            self._refuse("leaves out offsets; each record has the offset after the one before")
        if not header.attributes & LOG_APPEND_TIME:
            least, most = min(times), max(times)
            if batch.base_timestamp not in (NO_TIMESTAMP, least) or batch.max_timestamp != most:
                self._refuse("has other timestamps than its header says")
            delta = batch.max_timestamp_delta
            if delta != NO_DELTA and not (0 <= delta < len(times) and times[delta] == most):
                self._refuse("has its greatest timestamp at another offset than its header says")
            self._check_time(least, now_ms)
        self._check_sizes(columns)

    def _header(self, batch: SealedBatch) -> BatchHeader:
        return peek(stamp(batch, self._seed, 0, 0, 0))

    def _decoded(self, batch: SealedBatch) -> BatchColumns:
        """The columns of a batch, as a reader would see them at offset 0."""
        if batch.attributes & UNKNOWN_FORM:
            self._refuse(f"has payload form {batch.attributes & FORM_MASK}, which is not known")
        data = stamp(batch, self._seed, 0, 0, 0) + batch.payload
        try:
            return decode(peek(data), data)
        except ValueError as error:
            self._refuse(f"cannot be decoded ({error})")

    def _check_sizes(self, columns: Columns) -> None:
        for key, value, headers in zip(columns.keys, columns.values, columns.headers, strict=True):
            self._check_size(key, value, headers)

    def _check_size(self, key: bytes | None, value: bytes | None, headers: HeaderTuple) -> None:
        size = len(key or b"") + len(value or b"")
        if headers:
            size += sum(len(name.encode()) + len(data or b"") + RECORD_OVERHEAD for name, data in headers)
        if size > self.max_bytes:
            size, most = size + RECORD_OVERHEAD, self.max_bytes + RECORD_OVERHEAD
            raise RecordTooLargeError(
                f"A record of {size} bytes is larger than the {most} allowed for {self._name.topic!r} (max_message_bytes). Raise "
                f"that, or send it in parts. Nothing of its batch was appended.",
                size=size,
                max_size=most,
            )

    def _check_time(self, timestamp: int, now_ms: int) -> None:
        if not 0 <= timestamp < _END_OF_TIME:
            raise InvalidTimestampError(
                f"{timestamp} is not a time in milliseconds since the epoch: it must be from 0 to 2**62 - 1."
            )
        if timestamp - now_ms > self.after_max_ms:
            raise InvalidTimestampError(
                f"The timestamp {timestamp} is {timestamp - now_ms} ms ahead of the clock; {self._name.topic!r} allows "
                f"{self.after_max_ms} (message_timestamp_after_max_ms). Check the unit (milliseconds), or raise the setting."
            )

    # -- refusing ------------------------------------------------------------------------------------

    @property
    def _where(self) -> str:
        return f"{self._name.topic}-{self._name.partition}"

    def refuse_null_key(self) -> NoReturn:
        raise InvalidRecordError(
            f"Topic {self._name.topic!r} is compacted: it keeps the last value of each key, so every record needs a key.",
            topic=self._name.topic,
        )

    def _refuse_damaged(self, why: str, expected: int, actual: int) -> NoReturn:
        raise CorruptRecordError(
            f"A batch for {self._where} {why} (expected {expected:#x}, found {actual:#x}): it was damaged on its way, or made for "
            f"another partition. Nothing was appended.",
            path="",
            position=0,
            expected=expected,
            actual=actual,
        )

    def _refuse(self, why: str) -> NoReturn:
        raise InvalidRecordError(f"A batch for {self._where} {why}. Nothing was appended.", topic=self._name.topic)
