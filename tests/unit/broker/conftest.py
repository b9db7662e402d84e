"""A Service as a tenant has it: encoded batches in, no client anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from streamlog.broker.api import ProduceRequest
from streamlog.broker.log_directory import LogDirectory
from streamlog.broker.metadata import TopicIdPartition
from streamlog.broker.scheduler import Scheduler
from streamlog.broker.service import LocalService
from streamlog.records import columns
from streamlog.records.batch import SealedBatch, seed_of
from streamlog.runtime.api import Disk
from streamlog.runtime.threads import RawGate, new_lock, real_monotonic, result_of
from streamlog.testing import ManualClock, SimulatedDisk


class Tenant:
    """A service, and what a tenant does with it."""

    def __init__(self, service: LocalService, clock: ManualClock) -> None:
        self.service = service
        self.clock = clock

    def create(self, name: str = "t", partitions: int = 1, **settings: Any) -> TopicIdPartition:
        """Create a topic; its first partition."""
        return result_of(self.service.create_topic(name, partitions, settings)).partition(0)

    def seal(
        self, at: TopicIdPartition, *values: bytes, keys: Any = None, times: Any = None, **given: Any
    ) -> SealedBatch:
        """A batch for this partition, sealed in this process."""
        times = self.clock.time_ms() if times is None else times
        seed = seed_of(at.topic_id, at.partition)
        return columns.seal(seed, keys, values, times, count=len(values), **given)

    def produce(self, at: TopicIdPartition, *values: bytes, **given: Any) -> int:
        """Append a batch; its base offset."""
        return result_of(self.service.produce(ProduceRequest(at, [self.seal(at, *values, **given)])))


@pytest.fixture
def opened(tmp_path: Any) -> Iterator[Callable[..., Tenant]]:
    """Opens a service on a disk of its own, or on one that is given."""
    with ExitStack() as stack:

        def open_service(disk: Disk | None = None, *, sync: bool = False) -> Tenant:
            directory = LogDirectory("/data", disk or SimulatedDisk(), new_lock, RawGate, real_monotonic, sync=sync)
            directory.open(0.0)
            clock = ManualClock(start_ms=1_000_000)
            service = LocalService(
                [directory],
                clock,
                Scheduler(new_lock(), new_lock()),
                Scheduler(new_lock(), new_lock()),
                {},
                new_lock,
                RawGate,
                real_monotonic,
            )
            service.open()
            stack.callback(service.close)
            return Tenant(service, clock)

        yield open_service


@pytest.fixture
def tenant(opened: Callable[..., Tenant]) -> Tenant:
    return opened()
