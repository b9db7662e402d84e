"""What a fetch brings: encoded batches, each of which verifies and decodes itself, and where the partition stood.

The bytes are those on disk. Nothing of a batch is used before its checksums are verified, neither a length nor an offset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import CorruptRecordError
from ..records.batch import BatchHeader, corrupt, first_and_last, read_header, verify_payload
from ..records.columns import BatchColumns
from ..records.core import core
from ..records.decode import decode
from ..runtime.api import Completion, contained
from ..runtime.values import refuse_to_copy
from ..storage.leader_epochs import EpochEnd
from ..storage.tail import EMPTY, FetchData
from ..storage.tail import UNKNOWN_END as UNKNOWN_END
from ..storage.transactions import AbortedTransaction, AbortedTransactions
from ..types import Buffer

if TYPE_CHECKING:
    from .._core import RecordReader

_new: Any = tuple.__new__  # namedtuple's own __new__ is a Python call


class FetchedBatch(NamedTuple):
    """One batch of a fetch, its checksums verified. `columns` decodes each column when it is first asked for.

    `next_offset` is the one after it.
    """

    header: BatchHeader
    columns: BatchColumns
    next_offset: int
    path: str
    position: int

    def damaged(self, error: Exception) -> CorruptRecordError:
        """For columns that contradict a header whose checksums are right: this library did not write the batch."""
        why = f"its columns cannot be decoded ({error})"
        return corrupt(self.path, self.position, why, self.header.payload_hash, 0)


class FetchResult(Completion["FetchResult"]):
    """What one fetch brought of one partition.

    `size` is that of the encoded batches, in bytes: 0 at the end of what may be read. Readers see what lies before
    `high_watermark`, those of committed records what lies before `last_stable_offset`, without what it `hides`; this
    one may read up to `end_offset`, UNKNOWN_END if it has to come again to find out.
    `diverging_epoch` is where the log parts from the one that the fetch continues: the reader has to truncate its log to
    there (KIP-595).

    It is its own Completion, and done: a fetch that does not wait makes one object. Two more of them were 3% of a random
    read.
    """

    __slots__ = (
        "_aborted",
        "_chunk",
        "diverging_epoch",
        "end_offset",
        "high_watermark",
        "last_stable_offset",
        "log_start_offset",
        "size",
    )

    __reduce_ex__ = refuse_to_copy

    has_reader = core is not None
    """Whether `reader` can be used."""

    def __init__(
        self, chunk: FetchData, high_watermark: int, log_start_offset: int, diverging_epoch: EpochEnd | None = None
    ) -> None:
        self._chunk = chunk
        data, _, _, _, _, _, self.end_offset = chunk
        self.size = len(data)
        self.high_watermark = self.last_stable_offset = high_watermark
        self.log_start_offset = log_start_offset
        self._aborted: AbortedTransactions | None = None
        self.diverging_epoch = diverging_epoch

    @property
    def data(self) -> Buffer:
        """The encoded batches, one after another, not verified."""
        return self._chunk.data

    def of_committed(self, last_stable_offset: int, aborted: AbortedTransactions) -> None:
        """The reader sees committed records: these end there, and are without the transactions that were aborted."""
        self.last_stable_offset = last_stable_offset
        if len(aborted):
            self._aborted = aborted

    def hides(self, header: BatchHeader) -> bool:
        """Whether the reader skips this batch: a control batch, or, if it sees committed records, an aborted one. O(log n)."""
        return header.is_control or (self._aborted is not None and self._aborted.have(header))

    @property
    def aborted(self) -> tuple[AbortedTransaction, ...]:
        """The aborted transactions that have records in the data, for a reader of committed records. Cost: O(batches)."""
        if self._aborted is None or not self.size:
            return ()
        first, last = first_and_last(self._chunk.data)
        return self._aborted.between(first.base_offset, last.next_offset)

    def batch_at(self, at: int) -> FetchedBatch:
        """The batch that begins at index `at` of the data, and ends where its `header.batch_len` says.

        Raises CorruptRecordError if it does not verify.
        """
        data, seed, path, start, _, first, _ = self._chunk
        position = start + at
        header = read_header(data, at, seed, path, position) if first is None or at else first
        stop = at + header.batch_len
        if stop > len(data):
            raise corrupt(path, position, "the batch is cut short", header.batch_len, len(data) - at)
        verify_payload(header, memoryview(data)[at + header.header_len : stop], seed, path, position)
        try:
            columns = decode(header, data, at)
        except ValueError as error:
            raise corrupt(path, position, str(error), header.payload_hash, 0) from error
        next_offset = header.base_offset + header.last_offset_delta + 1
        batch: FetchedBatch = _new(FetchedBatch, (header, columns, next_offset, path, position))
        return batch

    def reader(
        self, at: int, position: int, record_type: type[Any], topic: str, partition: int, leader_epoch: int
    ) -> RecordReader:
        """The core's reader of the batches from `at` on, for records from offset `position` on. REQUIRES: `has_reader`.

        It stops before what it leaves to `batch_at`: among others, batches that may have to be hidden.
        """
        assert core is not None
        data, seed, _, _, _, _, _ = self._chunk
        return core.RecordReader(
            data, at, position, seed, record_type, topic, partition, leader_epoch, self._aborted is not None
        )

    def without_data(self) -> FetchResult:
        """The result to be the `after` of the next fetch, when its batches are not used any more."""
        chunk = self._chunk
        chunk = chunk._replace(data=b"", position=chunk.position + self.size, first=None)
        return FetchResult(chunk, self.high_watermark, self.log_start_offset)

    def again(self) -> FetchResult:
        """The result to be the `after` of a fetch that begins where this one did."""
        return FetchResult(self._chunk._replace(data=b"", first=None), self.high_watermark, self.log_start_offset)

    def at(self, place: FetchData) -> FetchResult:
        """The result, which is empty, to be the `after` of a fetch that begins at this place."""
        made = FetchResult(place, self.high_watermark, self.log_start_offset)
        made.last_stable_offset, made.end_offset = self.last_stable_offset, self.end_offset
        return made

    def batches(self) -> Iterator[FetchedBatch]:
        """Each batch, verified; the first begins at or before the offset that was asked for. Raises as `batch_at`."""
        at = 0
        while at < self.size:
            batch = self.batch_at(at)
            yield batch
            at += batch.header.batch_len

    # -- as a Completion -----------------------------------------------------------------------------

    def done(self) -> bool:
        return True

    def error(self) -> None:
        return None

    def result(self) -> FetchResult:
        return self

    def on_done(self, callback: Callable[[Completion[FetchResult]], object]) -> None:
        contained(callback, self)


NOTHING = FetchResult(EMPTY, 0, 0)
"""What was fetched before the first fetch."""
