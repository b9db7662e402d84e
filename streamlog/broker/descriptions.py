"""What administrators ask of a log that runs: what is in a broker's directory, who writes to a partition, who has the metadata."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..errors import ConfigError
from ..replication.partition import Partition
from ..runtime.disk_errors import require_disk_error
from ..runtime.threads import inside
from ..types import TopicPartition
from .broker import Broker
from .brokers import Brokers

UNKNOWN_SPACE = (-1, -1)


class ReplicaDescription(NamedTuple):
    """A replica: its bytes, and how many records that readers may see it lacks."""

    partition: TopicPartition
    size_bytes: int
    offset_lag: int


class LogDirDescription(NamedTuple):
    """A broker's directory: `total_bytes` and `usable_bytes` of its file system, -1 if they are not known, and its replicas."""

    path: str
    total_bytes: int
    usable_bytes: int
    replicas: tuple[ReplicaDescription, ...]


class ProducerDescription(NamedTuple):
    """A producer that a partition remembers (KIP-664). `last_sequence`: -1 if none is known of its epoch. `last_ms`: when it wrote last,
    by the log's clock. `first_offset`: where its open transaction begins; -1 without one.
    """

    producer_id: int
    producer_epoch: int
    last_sequence: int
    last_ms: int
    first_offset: int


class Voter(NamedTuple):
    """A copy of the metadata log that counts: its broker, the id of its directory, and where it ends."""

    broker_id: int
    directory_id: str
    log_end_offset: int


class QuorumDescription(NamedTuple):
    """Who has the metadata log (KIP-595): the broker whose copy is appended to, and the copies that count."""

    leader_id: int
    leader_epoch: int
    high_watermark: int
    voters: tuple[Voter, ...]


class Descriptions:
    """Thread-safe. Plain attributes are read without a lock, but for those of producers."""

    def __init__(self, brokers: Brokers, leader: Callable[[TopicPartition], Partition]) -> None:
        self._brokers = brokers
        self._leader = leader

    def log_dir(self, broker_id: int) -> LogDirDescription:
        """Blocks while the file system is asked for its space. Raises ConfigError for a broker that does not run."""
        broker = next((each for each in self._brokers.running if each.id == broker_id), None)
        if broker is None:
            raise ConfigError(f"Broker {broker_id} does not run.", name="broker_id")
        replicas = [self._replica(each) for each in list(broker.replicas.partitions.values())]
        return LogDirDescription(broker.directory.path, *_space(broker), tuple(sorted(replicas)))

    def _replica(self, replica: Partition) -> ReplicaDescription:
        tail = replica.reader.tail
        leader = self._brokers.leaders.get(replica.name)
        high_watermark = replica.high_watermark if leader is None else leader.high_watermark
        return ReplicaDescription(replica.name, tail.size_bytes(), max(0, high_watermark - tail.end_offset))

    def producers(self, partition: TopicPartition, now_ms: int) -> list[ProducerDescription]:
        """Those that the leader of a partition remembers, by their ids. Raises NotLeaderError, UnknownTopicOrPartitionError."""
        here = self._leader(partition)
        with inside(), here.lock:
            refusal = here.closed or here.log.refusals.not_leader
            if refusal is not None:
                raise refusal.copy()
            known = here.log.producer_states(now_ms)
            here.log.transactions.read()
            transactions = dict(here.log.transactions.open)
        return [
            ProducerDescription(
                producer_id,
                entry.epoch,
                entry.batches[-1].last_sequence if entry.batches else -1,
                entry.append_ms,
                transactions.get(producer_id, -1),
            )
            for producer_id, entry in sorted(known.items())
        ]

    def quorum(self) -> QuorumDescription:
        copies = [(each, copy) for each in self._brokers.running if (copy := each.replicas.metadata) is not None]
        leader = self._brokers.controller_log()
        voters = [
            Voter(broker.id, broker.directory.directory_id, copy.reader.tail.end_offset) for broker, copy in copies
        ]
        return QuorumDescription(leader.broker_id, leader.leader_epoch, leader.high_watermark, tuple(voters))


def _space(broker: Broker) -> tuple[int, int]:
    try:
        return broker.directory.disk.space(broker.directory.path)
    except OSError as error:
        require_disk_error(error)
        return UNKNOWN_SPACE
