"""Transactions written through the Service and the leaders of partitions, without a coordinator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streamlog import StreamLog
from streamlog.broker.api import ProduceRequest
from streamlog.config import TopicConfig
from streamlog.records import columns
from streamlog.records.batch import TRANSACTIONAL, seed_of
from streamlog.replication.transactions import TransactionMarker
from streamlog.runtime.threads import result_of
from streamlog.types import TopicPartition


class TransactionalWriter:
    """One transactional producer id. `epoch` grows with each transaction that ends, as in KIP-890, unless `bumps` is false."""

    def __init__(self, log: StreamLog, producer_id: int = 900, *, bumps: bool = True) -> None:
        self._log = log
        self.producer_id = producer_id
        self.epoch = 0
        self._bumps = bumps
        self._sequences: dict[tuple[str, int], int] = {}
        if "__transaction_state" not in self.service.image.topics:
            self.have_a_coordinator()
        self.service._transactions.verify = lambda *batch: None  # no coordinator knows what is written here

    @property
    def service(self) -> Any:
        return self._log._engine.service

    def have_a_coordinator(self) -> None:
        """Make the coordinator's topic: a log without it has no transactions, and looks for none when it is opened."""
        self.service._topics.create_internal("__transaction_state", 1, TopicConfig(cleanup_policy="compact"))

    def leader(self, topic: str, partition: int = 0) -> Any:
        return self.service._partition(TopicPartition(topic, partition))

    def send(
        self,
        topic: str,
        values: Sequence[Any],
        *,
        partition: int = 0,
        keys: Sequence[Any] | None = None,
        batches: int = 1,
    ) -> int:
        """One write of so many batches, each with all the values; the offset of the first."""
        at = self._log[topic]._view().partition(partition)
        now_ms = self.service.clock.time_ms()
        sealed = []
        for _ in range(batches):
            batch = columns.seal(seed_of(at.topic_id, partition), keys, values, now_ms, count=len(values))
            sequence = self._sequences.get((topic, partition), 0)
            sealed.append(batch.sequenced(self.producer_id, self.epoch, sequence, transactional=True))
            self._sequences[topic, partition] = sequence + len(values)
        offset: int = result_of(self.service.produce(ProduceRequest(at, sealed)))
        return offset

    def send_one(self, topic: str, value: bytes, *, partition: int = 0, key: bytes | None = None) -> int:
        """One record by the short way of a single one."""
        at = self._log[topic]._view().partition(partition)
        sequence = self._sequences.get((topic, partition), 0)
        self._sequences[topic, partition] = sequence + 1
        now_ms = self.service.clock.time_ms()
        fields = (self.producer_id, self.epoch, sequence, TRANSACTIONAL)
        if self.service.acknowledges_later:
            later: int = result_of(self.service.produce_one_later(at, key, value, now_ms, now_ms, fields))
            return later
        offset: int = self.service.produce_one(at, key, value, now_ms, now_ms, fields)
        return offset

    def end(self, topic: str, *partitions: int, commit: bool) -> None:
        """Write the markers: to partition 0, or to these."""
        if self._bumps:
            self.epoch += 1
            self._sequences.clear()
        for partition in partitions or (0,):
            self.mark(topic, partition, commit=commit)

    def mark(self, topic: str, partition: int = 0, *, commit: bool, coordinator_epoch: int = 0) -> int:
        leader = self.leader(topic, partition)
        now_ms = self.service.clock.time_ms()
        marker = TransactionMarker(self.producer_id, self.epoch, commit, coordinator_epoch, self._bumps)
        offset: int = result_of(leader.append_marker(marker, now_ms))
        return offset

    def commit(self, topic: str, *partitions: int) -> None:
        self.end(topic, *partitions, commit=True)

    def abort(self, topic: str, *partitions: int) -> None:
        self.end(topic, *partitions, commit=False)
