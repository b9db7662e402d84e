"""A producer of transactions that asks the Service directly, request by request, as a client of any kind does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streamlog import StreamLog
from streamlog.broker.api import ProduceRequest, ProducerIdAndEpoch
from streamlog.records import columns
from streamlog.records.batch import seed_of
from streamlog.runtime.threads import result_of
from streamlog.types import OffsetAndMetadata, TopicPartition


class CoordinatedWriter:
    """Makes a producer with a transactional id. `producer`: its id and epoch, which grow as the answers say."""

    def __init__(self, log: StreamLog, transactional_id: str = "enrich-1", **init: Any) -> None:
        self.log = log
        self.id = transactional_id
        self._sequences: dict[tuple[str, int], int] = {}
        self.producer: ProducerIdAndEpoch = result_of(self.service.init_producer_id(transactional_id, **init))

    @property
    def service(self) -> Any:
        return self.log._engine.service

    def add(self, topic: str, *partitions: int) -> None:
        names = [TopicPartition(topic, number) for number in partitions or (0,)]
        result_of(self.service.add_partitions_to_txn(self.id, self.producer, names))

    def write(self, topic: str, *values: Any, partition: int = 0) -> int:
        """Without adding the partition first."""
        at = self.log[topic]._view().partition(partition)
        now_ms = self.service.clock.time_ms()
        batch = columns.seal(seed_of(at.topic_id, partition), None, values, now_ms, count=len(values))
        sequence = self._sequences.get((topic, partition), 0)
        sealed = batch.sequenced(*self.producer, sequence, transactional=True)
        offset: int = result_of(self.service.produce(ProduceRequest(at, [sealed])))
        self._sequences[topic, partition] = sequence + len(values)
        return offset

    def send(self, topic: str, *values: Any, partition: int = 0) -> int:
        self.add(topic, partition)
        return self.write(topic, *values, partition=partition)

    def commit_offsets(self, group: str, offsets: dict[TopicPartition, int]) -> None:
        result_of(self.service.add_offsets_to_txn(self.id, self.producer, group))
        positions = {name: OffsetAndMetadata(offset, "", None) for name, offset in offsets.items()}
        result_of(self.service.txn_commit_offsets(self.id, self.producer, group, None, -1, positions))

    def end(self, commit: bool, **kind: Any) -> None:
        self.producer = result_of(self.service.end_txn(self.id, self.producer, commit, **kind))
        self._sequences.clear()

    def commit(self) -> None:
        self.end(True)

    def abort(self) -> None:
        self.end(False)


def committed(log: StreamLog, topic: str, partition: int | None = None) -> list[bytes]:
    return [record.value for record in log[topic].read(partition, isolation_level="read_committed")]


def described(log: StreamLog, transactional_id: str = "enrich-1") -> Any:
    service: Any = log._engine.service
    return result_of(service.describe_transaction(transactional_id))


def values(records: Sequence[Any]) -> list[Any]:
    return [record.value for record in records]
