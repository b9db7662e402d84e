"""Two brokers with a replica each of one partition, on one disk."""

from __future__ import annotations

from pathlib import Path

from streamlog.config import TopicConfig
from streamlog.errors import StreamlogError
from streamlog.records import columns
from streamlog.records.batch import seed_of
from streamlog.replication.fetcher import ReplicaFetcher
from streamlog.replication.partition import Partition
from streamlog.replication.replica_set import PartitionRegistration
from streamlog.runtime.threads import new_lock
from streamlog.storage.log import AppendRequest
from streamlog.storage.recovery.recovery import PreviousShutdown, open_log
from streamlog.testing import FaultyDisk
from streamlog.types import TopicPartition

NAME = TopicPartition("t", 0)
TOPIC_ID = bytes(range(16))
SEED = seed_of(TOPIC_ID, 0)
NOW = 1_700_000_000_000
LED_BY_0 = PartitionRegistration((0, 1), (0, 1), 0, 1, 1)
LED_BY_1 = PartitionRegistration((0, 1), (0, 1), 1, 2, 2)


class Pair:
    """Two brokers with a replica each, on one disk."""

    def __init__(self, path: Path, *, durable: bool = False) -> None:
        self.disk = FaultyDisk()
        self.failed: list[StreamlogError] = []
        self.corrupt: list[StreamlogError] = []
        self.nudges = 0
        self.replicas = [self._open(path, broker, durable) for broker in range(2)]
        self.leader, self.follower = self.replicas
        self.fetchers = [
            ReplicaFetcher(broker, 7, lambda name: self.leader, self, self._nudge, max_bytes=1) for broker in range(2)
        ]
        self.lead(LED_BY_0)

    def _open(self, path: Path, broker: int, durable: bool) -> Partition:
        crash = PreviousShutdown(clean=True, same_boot=True)
        config = TopicConfig(segment_bytes=1024, min_insync_replicas=2)
        log = open_log(self.disk, str(path / str(broker)), TOPIC_ID, 0, SEED, config, crash)
        return Partition(NAME, TOPIC_ID, log, new_lock, broker, durable=durable)

    def _nudge(self) -> None:
        self.nudges += 1

    def replica_failed(self, replica: Partition, error: StreamlogError) -> None:
        self.failed.append(error)

    def replica_damaged(self, replica: Partition, offset: int, error: StreamlogError) -> None:
        self.corrupt.append(error)

    def lead(self, registration: PartitionRegistration) -> None:
        for replica in self.replicas:
            replica.follow(registration)
        self.leader = self.replicas[registration.leader]
        self.follower = self.replicas[1 - registration.leader]
        self.fetchers[registration.leader].forget(NAME)
        self.fetcher = self.fetchers[1 - registration.leader]
        self.fetcher.follow(self.follower)

    def send(self, value: bytes = b"x") -> AppendRequest:
        write = AppendRequest([columns.seal(SEED, None, [value], NOW, count=1)])
        self.leader.append(write, NOW)
        return write
