"""Records of one partition that will be written together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from ...broker.metadata import TopicView
from ...records import columns
from ...records.batch import SealedBatch
from ...runtime.api import Completion
from ...types import HeaderTuple, ProducerRecord, TopicPartition

Row: TypeAlias = tuple[bytes | None, bytes | None, int] | tuple[bytes | None, bytes | None, int, HeaderTuple]
"""Key, value, timestamp, and headers if there are any."""


class Rows(NamedTuple):
    """Records by columns; None is a column of nothing, one int a timestamp that all share."""

    n: int
    keys: Any
    values: Any
    timestamps: Any
    headers: Any


class Owner(Protocol):
    """What a batch knows of its producer."""

    def observed(self, batch: Batch) -> None: ...


class Queue(Protocol):
    """What a batch knows of the queue it is in."""

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
    def finish(self, batch: Batch, timeout: float | None) -> None: ...


class Batch(Completion[int]):
    """Records of one partition that will be written together; done with its base offset.

    A record is one row, added by one `append`: an interrupt finds it in the batch whole or not at all.
    `send_many` gives whole columns instead.

    Rows are added without a lock: threads that send would stand in line at it, each woken for one record.
    So whoever closes the batch first says so and then notes where it ends, and the first note holds. Who
    has added a row and finds the batch open is in it; who finds it closed looks on which side of the end it is.
    """

    __slots__ = (
        "_asked", "_columns", "_ends", "append_time", "closed", "deadline_ms", "disturbed", "has_headers", "is_failed", "parked", "queue", "reserved", "rows",
        "sealed", "size", "urgent",
    )  # fmt: skip

    def __init__(self, queue: Queue, deadline_ms: int, urgent: bool) -> None:
        super().__init__()
        self.queue = queue
        self.rows: list[Row] = []
        self.closed = False
        """It takes in no record any more. Any thread may say so at any time, and nobody may take it back."""
        self._ends: list[int] = []
        self.has_headers = False
        # Whether something that is none of the records' came into their encoding.
        self.disturbed = False
        self._columns: Rows | None = None
        self.size = 0
        self.reserved = 0
        self.deadline_ms = deadline_ms
        self.urgent = urgent
        self.sealed: SealedBatch | None = None
        self.append_time: int | None = None
        # Once it is in the log: what it still waits for.
        self.parked: Completion[int] | None = None
        self._asked: set[int] | None = set()
        # The producer has taken note that it failed.
        self.is_failed = False

    @classmethod
    def whole(cls, queue: Queue, columns: Rows, size: int) -> Batch:
        """A whole batch made of columns, to be written at once."""
        batch = cls(queue, 0, True)
        batch._columns = columns
        batch.closed = True
        del batch.rows  # nothing joins it
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
        rows.append(row)
        index = self.index_of(row, rows)
        self.size += size  # of two threads' at once one may be lost: it only says when a batch is full
        return index if not self.closed or self.took(index, rows) else -1

    @staticmethod
    def index_of(row: Row, rows: list[Row]) -> int:
        """Where a row is that was added just now: at the end, unless other threads added theirs meanwhile."""
        index = len(rows) - 1
        while rows[index] is not row:
            index -= 1
        return index

    def took(self, index: int, rows: list[Row]) -> bool:
        """Whether the batch, which is closed, has the row at `index` of its `rows`."""
        self._ends.append(len(rows))
        return index < self._ends[0]

    def columns(self) -> Rows:
        """The records by columns. Closes it."""
        if self._columns is None:
            self.closed = True
            self._ends.append(len(self.rows))
            rows, headers = self.rows[: self._ends[0]], None
            if self.has_headers:
                headers = [row[3] if len(row) > 3 else () for row in rows]
                rows = [row[:3] for row in rows]
            keys, values, times = zip(*rows, strict=True)
            self._columns = Rows(len(keys), keys, values, times, headers)
        return self._columns

    def __len__(self) -> int:
        return len(self.rows) if self._columns is None else self._columns.n

    def observe(self, index: int | None) -> None:
        """Somebody looked after this record (None: after all), so flush need not report it."""
        asked = self._asked
        if index is None:
            self._asked = None
        elif asked is not None:
            asked.add(index)
        if self.is_failed and self.all_asked():
            self.queue.owner.observed(self)

    def all_asked(self) -> bool:
        """Whether flush has nothing to report of it."""
        asked = self._asked
        return asked is None or len(asked) >= len(self)

    def unobserved(self) -> list[int]:
        return [] if self._asked is None else [i for i in range(len(self)) if i not in self._asked]

    def time_of(self, index: int) -> int:
        if self.append_time is not None:
            return self.append_time
        try:
            return self.rows[index][2]
        except AttributeError:  # asked of the columns only now: another thread may just have written it
            times = self.columns().timestamps
            return times if isinstance(times, int) else times[index]

    def times(self) -> int | Sequence[int]:
        """The timestamps of the records, or the one that all have. REQUIRES: it is closed."""
        return self.append_time if self.append_time is not None else self.columns().timestamps

    def record(self, index: int) -> ProducerRecord:
        """The record as it could be sent again."""
        columns = self.columns()
        return ProducerRecord(
            None if columns.values is None else columns.values[index],
            None if columns.keys is None else columns.keys[index],
            () if columns.headers is None else columns.headers[index],
            self.queue.partition,
            self.time_of(index),
            self.queue.topic.name,
        )

    def seal(self) -> SealedBatch:
        """Encode it, once."""
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
        """It is in the log: whoever keeps a Delivery keeps only the timestamps."""
        n, _, _, times, _ = self.columns()
        self._columns = Rows(n, None, None, times, None)
        self.sealed = None
        try:
            del self.rows
        except AttributeError:  # done already, by one who was interrupted
            return
