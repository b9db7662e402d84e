"""Records of one partition that will be written together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from ...broker.metadata import TopicView
from ...records import columns
from ...records.batch import SealedBatch
from ...runtime.api import Completion
from ...types import HeaderTuple, ProducerRecord, TopicPartition

if TYPE_CHECKING:
    from ..._core import PackedRows

# What a record takes besides its key and value, roughly: used only to decide when a batch is full.
RECORD_OVERHEAD = 8

Row: TypeAlias = tuple[bytes | None, bytes | None, int] | tuple[bytes | None, bytes | None, int, HeaderTuple]
"""Key, value, timestamp, and headers if there are any."""


def headers_size(headers: HeaderTuple) -> int:
    """What headers take in a record, in bytes, roughly."""
    return sum(len(name) * 4 + (len(value) if value is not None else 0) + RECORD_OVERHEAD for name, value in headers)


class Rows(NamedTuple):
    """Records by columns. None is a column without anything in it; one int is the timestamp of all of them."""

    n: int
    keys: Any
    values: Any
    timestamps: Any
    headers: Any


class Owner(Protocol):
    """What a batch needs of its producer."""

    def observed(self, batch: Batch) -> None: ...


class Queue(Protocol):
    """What a batch, and the deliveries of its records, need of the queue that it is in."""

    @property
    def owner(self) -> Owner: ...

    topic: TopicView
    partition: int
    seed: int
    codec: int
    attributes: int
    calls: deque[Callable[[], object]]

    @property
    def name(self) -> TopicPartition: ...
    def call(self) -> None: ...
    def drain(self) -> None: ...
    def flush(self, batch: Batch, timeout: float | None, *, retries: bool = False) -> None: ...


class Batch(Completion[int]):
    """Records of one partition that will be written together; done with its base offset.

    A record is one row, added by one `append`: an interrupt finds it in the batch whole or not at all.
    `send_many` gives whole columns instead.

    Rows are added without a lock: with one, threads that send would queue for it, and each would be woken for one record.
    Instead, a thread that closes the batch first sets `closed` and then notes where the batch ends, and the first note
    counts. A thread that has added a row and finds the batch open is in it; one that finds it closed compares the index
    of its row with that end.
    """

    __slots__ = (
        "_columns", "_ends", "_observed", "_times", "append_time", "awaits", "base_offset", "closed", "deadline_ms", "disturbed",
        "failures", "has_headers", "is_failed", "limit", "queue", "reserved", "rows", "sealed", "sequenced", "size", "urgent",
    )  # fmt: skip

    def __init__(self, queue: Queue, deadline_ms: int, urgent: bool) -> None:
        super().__init__()
        self.queue = queue
        self.rows: list[Row] | PackedRows = columns.new_rows()
        self.closed = False
        """It accepts no more records. Any thread may set this at any time, and no thread may reset it."""
        self._ends: list[int] = []
        self.has_headers = False
        self.disturbed = False
        """An error that has nothing to do with the records interrupted their encoding."""
        self._columns: Rows | None = None
        self._times: Sequence[int] | int | None = None
        """Of its records, once it was sealed without making columns of them."""
        self.size = 0
        self.reserved = 0
        """The part of the producer's buffer that it takes, in bytes."""
        self.limit = 0
        """From this size on, `PartitionQueue.reached_limit` is asked before it accepts more records."""
        self.deadline_ms = deadline_ms
        """When its linger is over."""
        self.urgent = urgent
        """A caller waits for it: it is written although it is open."""
        self.sealed: SealedBatch | None = None
        self.sequenced: SealedBatch | None = None
        """As it was written last, if its producer is idempotent."""
        # Known once it is in the log; `awaits` is the sync that it waits for, if it does.
        self.base_offset = -1
        self.append_time: int | None = None
        self.awaits: Completion[int] | None = None
        # The indexes of the records whose outcome the program has asked for; None for all.
        self._observed: set[int] | None = set()
        self.failures = 0
        """How many attempts, of it or of what is before it, have failed."""
        self.is_failed = False
        """The accumulator has taken note that it failed."""

    @classmethod
    def whole(cls, queue: Queue, columns: Rows, size: int) -> Batch:
        """A whole batch made of columns, to be written at once."""
        batch = cls(queue, 0, True)
        batch._columns = columns
        batch.closed = True
        del batch.rows  # no record joins it
        batch.size = batch.reserved = size
        return batch

    def join(self, row: Row, size: int) -> int:
        """Add a record, from any thread: its index, or -1 if the batch was closed too early.

        `Producer.send` has the same steps written out.
        """
        try:
            rows = self.rows
        except AttributeError:  # it is in the log, or whole
            return -1
        if len(row) > 3:
            self.has_headers = True
        if isinstance(rows, list):
            rows.append(row)
            index = self.index_of(row, rows)
        else:
            index = rows.append(row)
        self.size += size  # two threads at once may lose one: it only decides when a batch is full
        return index if not self.closed or self.has(index, rows) else -1

    @staticmethod
    def index_of(row: Row, rows: list[Row]) -> int:
        """Where a row is that was added just now: at the end, unless other threads have added theirs since."""
        index = len(rows) - 1
        while rows[index] is not row:
            index -= 1
        return index

    def has(self, index: int, rows: list[Row] | PackedRows) -> bool:
        """Whether the row at `index` of its `rows` is in the batch. REQUIRES: it is closed."""
        self._ends.append(len(rows))
        return index < self._ends[0]

    def _close(self) -> int:
        """Take no more records; how many there are. May be called again."""
        self.closed = True
        self._ends.append(len(self.rows))
        return self._ends[0]

    def columns(self) -> Rows:
        """The records by columns. Closes the batch."""
        if self._columns is None:
            rows, headers = self.rows[: self._close()], None
            if self.has_headers:
                headers = [row[3] if len(row) > 3 else () for row in rows]
                rows = [row[:3] for row in rows]
            keys, values, times = zip(*rows, strict=True)
            self._columns = Rows(len(keys), keys, values, times, headers)
        return self._columns

    def __len__(self) -> int:
        columns = self._columns
        if columns is None:
            if self._ends:  # closed: a row that came too late is not in it
                return self._ends[0]
            try:
                return len(self.rows)
            except AttributeError:  # another thread has just written it
                columns = self.columns()
        return columns.n

    # -- observed: flush does not report a failed record whose outcome the program has asked for ------

    def observe(self, index: int | None) -> None:
        """The program asks for the outcome of this record (None: of all)."""
        observed = self._observed
        if index is None:
            self._observed = None
        elif observed is not None:
            observed.add(index)
        if self.is_failed and self.all_observed():
            self.queue.owner.observed(self)

    def all_observed(self) -> bool:
        observed = self._observed
        return observed is None or len(observed) >= len(self)

    def unobserved(self) -> list[int]:
        observed = self._observed  # read once: another thread may ask for all
        return [] if observed is None else [i for i in range(len(self)) if i not in observed]

    # -- what its deliveries ask ---------------------------------------------------------------------

    def time_of(self, index: int) -> int:
        """The timestamp of a record."""
        if self.append_time is not None:
            return self.append_time
        columns = self._columns
        if columns is None:  # only then: rows that the core has packed are walked through for one of them
            try:
                time: int = self.rows[index][2]
                return time
            except AttributeError:  # another thread has just written it
                columns = self.columns()
        times = columns.timestamps
        return times if isinstance(times, int) else times[index]

    def times(self) -> int | Sequence[int]:
        """The timestamps of the records, or the one that all have. REQUIRES: it is closed."""
        return self.append_time if self.append_time is not None else self.columns().timestamps

    def record(self, index: int) -> ProducerRecord:
        """The record, in the form in which it can be sent again."""
        columns = self.columns()
        return ProducerRecord(
            None if columns.values is None else columns.values[index],
            None if columns.keys is None else columns.keys[index],
            () if columns.headers is None else columns.headers[index],
            self.queue.partition,
            self.time_of(index),
            self.queue.topic.name,
        )

    # -- writing it ----------------------------------------------------------------------------------

    def seal(self) -> SealedBatch:
        """The encoded batch; encoded once."""
        if self.sealed is None and self._columns is None and not self.queue.codec:
            made = columns.seal_rows(self.queue.seed, self.rows, self._close(), self.queue.attributes)
            if made is not None:
                self.sealed, self._times = made
        if self.sealed is None:
            queue, (n, keys, values, times, headers) = self.queue, self.columns()
            self.sealed = columns.seal(
                queue.seed,
                None if keys is None or (keys[0] is None and keys.count(None) == n) else keys,
                None if values is None or (values[0] is None and values.count(None) == n) else values,
                times,
                headers,
                count=n,
                codec=queue.codec,
                attributes=queue.attributes,
            )
        return self.sealed

    def release_payload(self) -> None:
        """It is in the log: a Delivery that the program keeps keeps only the timestamps in memory. May be done twice."""
        if self._times is not None:  # and rows, which no column was made of
            self._columns = Rows(self._ends[0], None, None, self._times, None)
            self._times = None
        else:
            n, _, _, times, _ = self.columns()
            self._columns = Rows(n, None, None, times, None)
        self.sealed = self.sequenced = None
        try:
            del self.rows
        except AttributeError:  # an interrupt stopped the first call after this
            return


class Retry(NamedTuple):
    """A request that is to be sent again, as it was: a log recognises all batches of a repeated request, or none."""

    batches: list[Batch]
    at_ms: int
    """Not before this time."""
