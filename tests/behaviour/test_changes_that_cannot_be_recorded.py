"""No disk takes a change of the metadata: what depends on it ends all the same, and is tried again with a pause in between."""

from __future__ import annotations

from errno import EIO, ENOSPC
from typing import Any

import pytest

from streamlog import DeliveryError

from .test_replica_scenarios import PATH, T0, Brokers, brokers


def fill(b: Brokers, broker: int) -> None:
    """The disk of this broker takes nothing more but records of topics."""
    for what in ("__cluster_metadata-0/*", "probe*"):
        b.disk.fail("pwrite", ENOSPC, path=f"{PATH}/broker-{broker}/{what}", times=None)


def turns_in_a_second(b: Brokers) -> int:
    """How often the thread of the timers comes round within one second."""
    (timers,) = [each for each in b.schedule.threads if each.name == "streamlog-timers"]
    count = 0
    work = timers._run_due

    def counted(now_ms: int) -> Any:
        nonlocal count
        count += 1
        return work(now_ms)

    timers._run_due = counted
    b.schedule.elapse(1.0)
    timers._run_due = work
    return count


@pytest.mark.parametrize("left", [1, 2])
def test_a_broker_that_fails_while_the_others_are_full_is_replaced_as_soon_as_there_is_space(left: int) -> None:
    with brokers(left + 1) as b:
        b.log.create_topic("t", min_insync_replicas=1)
        b.send(b"1")
        for broker in range(1, left + 1):
            fill(b, broker)
        b.fail(0)
        assert turns_in_a_second(b) < 20, "it was tried again at once"
        b.disk.heal()
        b.schedule.elapse(2.0)
        assert [broker.running for broker in b.log.brokers] == [False] + [True] * left
        b.send(b"2")
        assert b.values() == [b"1", b"2"]
        b.log.brokers[0].start()
        b.settle()


@pytest.mark.parametrize("enable_idempotence", [False, True])
def test_a_send_to_a_leader_that_has_failed_ends_while_nothing_can_be_recorded_of_that(
    enable_idempotence: bool,
) -> None:
    with (
        brokers(2) as b,
        b.log.producer(delivery_timeout_ms=60_000, enable_idempotence=enable_idempotence) as producer,
    ):
        b.log.create_topic("t", min_insync_replicas=1)
        producer.send_many("t", [b"1"])
        b.log.elect_leader(T0, 0)
        b.hold(1)
        b.disk.fail("pwrite", EIO, path=f"{PATH}/broker-*/__cluster_metadata-0/*", times=None)
        began = b.schedule.now_s
        with pytest.raises(DeliveryError, match="could not be recorded"):
            producer.send_many("t", [b"2"])
        assert b.schedule.now_s - began < 75
        b.disk.heal()
        b.release(1)
        b.schedule.elapse(2.0)
        producer.send_many("t", [b"3"])
        assert b.values() == [b"1", b"2", b"3"]


def test_a_send_ends_while_a_follower_that_is_stuck_cannot_be_taken_out_of_the_in_sync_set() -> None:
    with brokers(2) as b:
        b.log.create_topic("t", min_insync_replicas=1)
        b.hold(1 - b.log["t"].partition(0).leader)
        for broker in (0, 1):
            fill(b, broker)
        with (
            b.log.producer(enable_idempotence=False) as producer,
            pytest.raises(DeliveryError, match="could not be recorded"),
        ):
            producer.send_many("t", [b"1"])
        assert all(broker.running for broker in b.log.brokers)
        b.disk.heal()
        b.schedule.elapse(20.0)
        assert len(b.log["t"].partition(0).isr) == 1
        b.send(b"2")
        assert b.values() == [b"1", b"2"]
