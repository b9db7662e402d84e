"""Producer ids: none is given out twice, whatever happens in between, and most of them cost no write."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from streamlog.broker.producer_ids import BLOCK, ProducerIdManager
from streamlog.errors import DiskFullError
from streamlog.runtime.threads import new_lock, result_of
from streamlog.testing import FaultyDisk, SimulatedDisk

from .conftest import Tenant


def test_ids_are_given_out_once_and_a_block_costs_one_record(tenant: Tenant) -> None:
    metadata = tenant.service.brokers.all[0].replicas.metadata
    assert metadata is not None
    before = metadata.log.appended_batches
    ids = [result_of(tenant.service.init_producer_id()) for _ in range(BLOCK + 1)]
    assert [each.producer_epoch for each in ids] == [0] * len(ids)
    assert len({each.producer_id for each in ids}) == BLOCK + 1
    assert metadata.log.appended_batches - before == 2


def test_no_id_is_given_out_again_after_a_crash(opened: Callable[..., Tenant]) -> None:
    disk = SimulatedDisk()
    given = {result_of(opened(disk).service.init_producer_id()).producer_id}
    for _ in range(3):
        disk = disk.power_loss()
        tenant = opened(disk)
        tenant.create(f"t{len(given)}")  # a change of topics keeps what was allocated
        given |= {result_of(tenant.service.init_producer_id()).producer_id for _ in range(3)}
    assert len(given) == 10


def test_no_id_is_given_out_before_its_block_is_on_the_device(opened: Callable[..., Tenant]) -> None:
    disk = FaultyDisk(SimulatedDisk())
    tenant = opened(disk)
    disk.fail("pwrite", errno.ENOSPC)
    assert isinstance(tenant.service.init_producer_id().error(), DiskFullError)


def test_threads_that_ask_at_once_get_different_ids() -> None:
    left = [range(n * 10, n * 10 + 10) for n in range(1000, 0, -1)]
    ids = ProducerIdManager(lambda count: left.pop(), new_lock())
    given: list[int] = []

    def ask() -> None:
        given.extend([ids.next_id() for _ in range(500)])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(given)) == 2000


def test_one_thread_at_a_time_takes_the_next_id_of_a_block() -> None:
    lock = new_lock()
    taken: list[bool] = []

    class Block:
        """A range of which each step says whether another thread could take one at the same time."""

        def __iter__(self) -> Iterator[int]:
            for number in range(2):
                taken.append(lock.locked())
                yield number

    allocated: Any = Block()
    ids = ProducerIdManager(lambda count: allocated, lock)
    assert [ids.next_id(), ids.next_id()] == [0, 1]
    assert taken == [True, True]


def test_an_interrupt_between_allocating_and_taking_loses_ids_and_gives_none_twice() -> None:
    blocks = iter([range(3), range(3, 6)])

    def allocate(count: int) -> range:
        block = next(blocks)
        if not block.start:
            raise KeyboardInterrupt
        return block

    ids = ProducerIdManager(allocate, new_lock())
    with pytest.raises(KeyboardInterrupt):
        ids.next_id()
    assert ids.next_id() == 3
