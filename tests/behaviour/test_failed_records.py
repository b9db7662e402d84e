"""What a producer keeps of records that failed: what flush has to report, bounded, and nothing that was asked about."""

from __future__ import annotations

import errno
import gc
import logging
from collections.abc import Callable, Iterator

import pytest

import streamlog
from streamlog import DeliveryError, DiskFullError, Producer, StreamLog
from streamlog.client.producer.batch import Batch
from streamlog.testing import FaultyDisk, ManualClock, SimulatedDisk

KIB = 1024


@pytest.fixture
def disk() -> FaultyDisk:
    return FaultyDisk(SimulatedDisk())


@pytest.fixture
def log(disk: FaultyDisk) -> Iterator[StreamLog]:
    with streamlog.open("data", disk=disk, clock=ManualClock()) as log:
        log.create_topic("t")
        yield log


@pytest.fixture
def full(log: StreamLog, disk: FaultyDisk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "streamlog")
    disk.fail("pwrite", errno.ENOSPC, path="*.log", times=None)


def failed_batches(producer: Producer) -> int:
    # There is no public count of them; each keeps its records in memory.
    gc.collect()
    here = set(producer._accumulator.queues.values())
    return sum(1 for found in gc.get_objects() if type(found) is Batch and found.queue in here and found.error())


def by_result(producer: Producer, value: bytes) -> None:
    with pytest.raises(DiskFullError):
        producer.send("t", value).result()


def by_exception(producer: Producer, value: bytes) -> None:
    assert isinstance(producer.send("t", value).exception(), DiskFullError)


def by_callback(producer: Producer, value: bytes) -> None:
    producer.send("t", value).add_done_callback(lambda delivery: None)
    producer.send("t", value).exception()


def by_flush(producer: Producer, value: bytes) -> None:
    producer.send("t", value)
    with pytest.raises(DeliveryError):
        producer.flush()


def of_many(producer: Producer, value: bytes) -> None:
    with pytest.raises(DeliveryError):
        producer.send_many("t", [value] * 3).result()


@pytest.mark.slow
@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("ask", [by_result, by_exception, by_callback, by_flush, of_many])
def test_failed_records_that_were_asked_about_are_not_kept(
    log: StreamLog, ask: Callable[[Producer, bytes], None]
) -> None:
    with log.producer(linger_ms=60_000) as producer:
        for n in range(20):
            ask(producer, b"%d" % n)
            assert failed_batches(producer) == 0
        producer.flush()


@pytest.mark.usefixtures("full")
def test_the_failure_of_one_unobserved_record_is_reported(log: StreamLog) -> None:
    producer = log.producer(linger_ms=60_000)
    asked, _ = producer.send("t", b"asked"), producer.send("t", b"not asked")
    assert isinstance(asked.exception(), DiskFullError)
    with pytest.raises(DeliveryError) as caught:
        producer.close()
    assert [record.value for record in caught.value.records] == [b"not asked"]


@pytest.mark.usefixtures("full")
def test_unobserved_failed_records_are_kept_up_to_buffer_memory(log: StreamLog) -> None:
    producer = log.producer(linger_ms=60_000, batch_size=4 * KIB, buffer_memory=64 * KIB)
    for _ in range(1000):
        producer.send("t", b"x" * KIB)
    with pytest.raises(DeliveryError, match=r"more records failed that are not in \.records.*buffer_memory") as caught:
        producer.flush()
    kept = sum(len(record.value) for record in caught.value.records)
    assert 48 * KIB <= kept <= 64 * KIB
    missing = int(str(caught.value).split(" more records")[0].split()[-1])
    assert len(caught.value.records) + missing == 1000
    # Reported once; there is room for the next ones.
    producer.send("t", b"y")
    with pytest.raises(DeliveryError) as again:
        producer.close()
    assert [record.value for record in again.value.records] == [b"y"]
