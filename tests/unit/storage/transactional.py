"""Transactions in the log of one partition, and what a reader of committed records sees of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streamlog.broker.fetched import FetchResult
from streamlog.broker.metadata import TopicIdPartition
from streamlog.broker.reading import PartitionReads
from streamlog.records.batch import TRANSACTIONAL
from streamlog.replication.transactions import TransactionMarker
from streamlog.runtime.threads import result_of
from streamlog.storage.log import AppendRequest

from .conftest import PARTITION, TOPIC_ID, Box

AT = TopicIdPartition("t", PARTITION, TOPIC_ID)


class Transactional:
    """The producers of a log; each has a new epoch in each transaction, as in KIP-890."""

    def __init__(self, b: Box) -> None:
        self.b = b
        self.epochs: dict[int, int] = {}
        self.sequences: dict[int, int] = {}

    def write(
        self, *values: bytes, producer: int = 7, keys: Sequence[bytes | None] | None = None, batches: int = 1
    ) -> AppendRequest:
        made = []
        for _ in range(batches):
            sealed = self.b.write(*values, keys=keys or [b"k"] * len(values)).batches[0]
            sequence = self.sequences.get(producer, 0)
            epoch = self.epochs.get(producer, 0)
            made.append(sealed.sequenced(producer, epoch, sequence, transactional=True))
            self.sequences[producer] = sequence + len(values)
        return AppendRequest(made)

    def send(self, *values: bytes, producer: int = 7, **options: Any) -> int:
        return self.b.partition.append(self.write(*values, producer=producer, **options), self.b.now)

    def send_one(self, key: bytes | None, value: bytes, producer: int = 7) -> int:
        """A single record, by the short way."""
        sequence = self.sequences.get(producer, 0)
        fields = (producer, self.epochs.get(producer, 0), sequence, TRANSACTIONAL)
        offset = self.b.partition.append_one(key, value, self.b.now, self.b.now, fields)
        self.sequences[producer] = sequence + 1
        return offset

    def begin_epoch(self, producer: int = 7) -> None:
        self.epochs[producer] = self.epochs.get(producer, 0) + 1
        self.sequences[producer] = 0

    def end(self, *, commit: bool, producer: int = 7) -> int:
        self.begin_epoch(producer)
        return self.mark(commit=commit, producer=producer)

    def mark(self, *, commit: bool, producer: int = 7) -> int:
        marker = TransactionMarker(producer, self.epochs.get(producer, 0), commit, 0, is_bumped=True)
        return result_of(self.b.partition.append_marker(marker, self.b.now))


def fetch(b: Box, offset: int, isolation_level: str = "read_committed", max_bytes: int = 300) -> FetchResult:
    reads = PartitionReads({AT[:2]: b.partition}, lambda name: b.partition)
    return result_of(reads.fetch(AT, offset, max_bytes, isolation_level))


def committed(b: Box, isolation_level: str = "read_committed") -> list[tuple[int, bytes | None]]:
    """The offset and value of each record that a reader sees."""
    offset, seen = b.log.tail.start_offset, []
    while True:
        found = fetch(b, offset, isolation_level)
        if not found.size:
            return seen
        for batch in found.batches():
            if not found.hides(batch.header):
                columns = batch.columns.all()
                seen += [(at, value) for at, value in zip(columns.offsets, columns.values, strict=True) if at >= offset]
            offset = max(offset, batch.next_offset)


def last_stable_offset(b: Box) -> int:
    return b.partition.last_stable_offset
