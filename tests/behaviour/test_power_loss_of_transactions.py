"""A power loss without `sync=True` may take parts of a transaction, but nothing hangs after it, nothing that was aborted is seen, and the
producers go on.

Each partition loses another part of its end, the log of the coordinator too; `crash_states` does the same with everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import streamlog
from streamlog.broker.brokers import Brokers
from streamlog.coordinator.transaction_shard import TransactionShard
from streamlog.testing import ManualClock, SimulatedDisk
from tests.sampling import Sampled
from tests.times import START_MS

PATH = "/data"
Check = Callable[[str, streamlog.StreamLog], object]


@contextmanager
def opened(disk: SimulatedDisk) -> Iterator[streamlog.StreamLog]:
    clock = ManualClock(start_ms=START_MS)
    with streamlog.open(PATH, disk=disk, clock=clock) as log:
        clock.advance(0.1)  # what is first in the background
        yield log


def after_power_losses(sampled: Sampled, check: Check) -> int:
    """Open what power losses at any moment of some transactions leave; how many."""
    disk = SimulatedDisk(1)
    with opened(disk) as log:
        log.create_topic("orders", partitions=2)
        with log.producer(transactional_id="p") as producer, producer.transaction():
            producer.send("orders", b"first", partition=0)
        log.sync()
        start = len(disk.operations)
        make_transactions(log)
        crashes = sampled(disk.crashes(6, harsh=6, first=start, kills=False), 20, full=12)
        for name, state in crashes:
            with opened(state) as found:
                check(name, found)
    return len(crashes)


def make_transactions(log: streamlog.StreamLog) -> None:
    """Some in a row, every second one aborted; the last one is open."""
    with log.consumer("orders", group="g", enable_auto_commit=False) as consumer:
        for number in range(5):
            producer = log.producer(transactional_id="p")
            producer.begin_transaction()
            for partition in range(2):
                producer.send("orders", f"{'aborted' if number % 2 else 'committed'} {number}", partition=partition)
            offsets = {record.topic_partition: record.offset + 1 for record in consumer.poll()}
            if offsets:
                producer.send_offsets_to_transaction(offsets, consumer)
            if number % 2:
                producer.abort_transaction()
            elif number < 4:
                producer.commit_transaction()


def nothing_hangs(name: str, log: streamlog.StreamLog) -> None:
    for partition in range(2):
        info = log["orders"].partition(partition)
        assert info.last_stable_offset == info.log_end_offset, name
        assert not [each.value for each in log["orders"].read(partition) if each.value.startswith(b"aborted")], name
    assert log.transactions() == [], name


def producers_go_on(name: str, log: streamlog.StreamLog) -> None:
    """A new one of the same id loses nothing of what it sends, and a member of the group gets its offsets."""
    nothing_hangs(name, log)
    before = [[record.value for record in log["orders"].read(partition)] for partition in range(2)]
    producer = log.producer(transactional_id="p")
    for number in range(4):
        with producer.transaction():
            for partition in range(2):
                producer.send("orders", b"after %d" % number, partition=partition)
    after = [b"after %d" % number for number in range(4)]
    found = [[record.value for record in log["orders"].read(partition)] for partition in range(2)]
    assert found == [values + after for values in before], name
    with log.consumer("orders", group="g") as consumer:
        assert consumer.poll(), name


def producers_go_on_after_another_open(name: str, log: streamlog.StreamLog) -> None:
    """Those that did nothing in between too."""
    disk: Any = log._engine.options.disk
    log.close()
    with opened(disk) as again:
        producers_go_on(name, again)


@pytest.mark.slow
@pytest.mark.parametrize("check", [producers_go_on, producers_go_on_after_another_open], ids=lambda c: c.__name__)
def test_no_transaction_hangs_after_a_power_loss_and_producers_go_on(sampled: Sampled, check: Check) -> None:
    assert after_power_losses(sampled, check) > 20


def nothing_is_looked_at(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Brokers, "may_have_lost_records", False)


def epochs_are_given_out_once_more(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TransactionShard, "may_lack_records", lambda self: None)


@pytest.mark.parametrize("bug", [nothing_is_looked_at, epochs_are_given_out_once_more], ids=lambda bug: bug.__name__)
def test_without_what_an_open_does_after_a_power_loss_they_do_not(
    bug: Callable[[pytest.MonkeyPatch], None], sampled: Sampled, monkeypatch: pytest.MonkeyPatch
) -> None:
    bug(monkeypatch)
    with pytest.raises((AssertionError, streamlog.StreamlogError)):
        after_power_losses(sampled, producers_go_on)
