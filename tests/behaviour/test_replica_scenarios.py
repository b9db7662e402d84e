"""Ways in which replicated logs lost data elsewhere, one test each; the number is that of the scenario.

The brokers' threads take turns by the hand of the test (`tests/sim/schedule.py`), so each scenario is the same every time, through
the public API. Each test takes no fixture: `test_replica_scenarios_caught` runs it with its bug put back in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from errno import EIO, ENOSPC
from typing import Any

import pytest

import streamlog
from streamlog import TopicPartition
from streamlog.testing import FaultyDisk, SimulatedDisk
from tests.sim.schedule import Schedule, bounded
from tests.times import START_MS

PATH = "/data"
T0 = TopicPartition("t", 0)
LARGE = b"." * 600  # one of these and no second fits into a segment of 1024 bytes
LONG_S = 1e9
LAG_S = 10.0


class Brokers:
    """A log of several brokers whose threads do something only while a call waits, and those that are held not even then."""

    def __init__(self, schedule: Schedule, disk: SimulatedDisk, count: int, **options: Any) -> None:
        self.schedule = schedule
        self.files = disk
        self.disk = FaultyDisk(disk)
        self.log = streamlog.open(
            PATH,
            brokers=count,
            disk=self.disk,
            clock=schedule.clock,
            replica_lag_time_max_ms=int(LAG_S * 1000),
            **options,
        )

    def thread(self, broker: int) -> Any:
        thread = self.schedule.follower(f"{PATH}/broker-{broker}")
        assert thread is not None
        return thread

    def hold(self, *brokers: int) -> None:
        """These followers fetch nothing from now on."""
        for broker in brokers:
            self.thread(broker).held_until_s = LONG_S

    def release(self, *brokers: int) -> None:
        for broker in brokers:
            self.thread(broker).held_until_s = 0.0
            self.thread(broker).nudge()

    def fetch(self, broker: int) -> None:
        """This follower fetches until it has everything, now."""
        self.thread(broker).run()

    def send(self, *values: bytes, acks: Any = "all") -> None:
        with self.log.producer(acks=acks) as producer:
            producer.send_many("t", values).result()

    def values(self) -> list[bytes]:
        return [record.value for record in self.log["t"].read()]

    def values_at(self, broker: int) -> list[bytes]:
        """What readers get when this broker leads."""
        self.log.elect_leader(T0, broker)
        assert self.log["t"].partition(0).leader == broker
        return self.values()

    def fail(self, broker: int) -> None:
        """The disk of a broker fails for good, and the log notices: another one leads what it led."""
        self.disk.fail("any", EIO, path=f"{PATH}/broker-{broker}/*", times=None)
        service: Any = self.log._engine.service
        service._changes.report_failure(
            service.brokers.by_id(broker), streamlog.StorageError("EIO", path="", errno=EIO)
        )
        self.schedule.elapse(0.1)
        assert not self.log.brokers[broker].running

    def start(self, *brokers: int) -> None:
        """Start brokers, and wait until all replicas are in sync."""
        self.disk.heal()
        for broker in brokers:
            self.log.brokers[broker].start()
        self.release(*brokers)
        self.settle()

    def settle(self) -> None:
        for _ in range(100):
            info = self.log["t"].partition(0)
            if set(info.isr) == set(info.replicas) and info.high_watermark == info.log_end_offset:
                return
            self.schedule.elapse(1.0)
        raise AssertionError(f"not in sync: {info}")

    def replica(self, broker: int) -> Any:
        return self.log._engine.service.brokers.by_id(broker).replicas.partitions["t", 0]


@contextmanager
def brokers(count: int, disk: SimulatedDisk | None = None, *, closes: bool = True, **options: Any) -> Iterator[Brokers]:
    schedule = Schedule(0, START_MS)
    with bounded(60), schedule.playing():
        opened = Brokers(schedule, SimulatedDisk() if disk is None else disk, count, **options)
        yield opened
        if closes:
            opened.log.close()


# 1


def test_a_follower_that_does_not_know_what_is_committed_keeps_it_and_may_lead() -> None:
    """1. It truncated to its own high watermark, which is behind, and was elected next (KIP-101, KAFKA-1211)."""
    with brokers(3) as b:
        b.log.create_topic("t")
        b.send(b"1")
        b.log.elect_leader(T0, 1)
        b.hold(0, 2)
        b.send(b"2", acks=1)
        b.fetch(0)
        b.fetch(2)  # the last one: now it is committed, and broker 0 does not know it
        assert b.replica(1).high_watermark == 2
        assert b.replica(0).high_watermark < 2
        b.log.elect_leader(T0, 2)  # of which broker 0 hears, and it fetches nothing
        b.log.brokers[2].stop()
        b.log.elect_leader(T0, 0)
        assert b.values() == [b"1", b"2"]
        b.release(0)
        b.start(2)
        assert [b.values_at(broker) for broker in range(3)] == 3 * [[b"1", b"2"]]


# 2


def test_after_two_failovers_in_a_row_all_replicas_have_what_the_last_leader_has() -> None:
    """2. Logs of one length that part before were taken for the same, and the leader lacked the epoch that it was asked
    about (KIP-279, KAFKA-6361)."""
    with brokers(3) as b:
        b.log.create_topic("t", min_insync_replicas=1)
        b.send(b"all have it")
        b.hold(1, 2)
        b.send(b"of 0", acks=1)
        b.fail(0)
        assert b.log["t"].partition(0).leader == 1
        b.send(b"of 1", acks=1)
        b.fail(1)
        assert b.log["t"].partition(0).leader == 2
        b.send(b"of 2", acks=1)
        b.start(0, 1)
        expected = [b"all have it", b"of 2"]
        assert b.values() == expected
        assert [b.values_at(broker) for broker in range(3)] == 3 * [expected]


# 3


def test_a_log_that_was_truncated_knows_no_epoch_whose_records_it_lost() -> None:
    """3. The epoch cache was not truncated with the log, so the next follower was told a wrong end (KAFKA-10706)."""
    with brokers(3) as b:
        b.log.create_topic("t", min_insync_replicas=1)
        b.send(b"all have it")
        b.log.elect_leader(T0, 1)
        b.log.elect_leader(T0, 0)  # which leads in another epoch now
        b.hold(1, 2)
        b.send(b"of 0", acks=1)
        lost = b.replica(0).last_epoch()
        b.fail(0)
        b.release(2)
        b.log.elect_leader(T0, 1)
        b.start(0)
        b.send(b"of 1")
        b.settle()
        assert b.replica(0).last_epoch() == b.replica(1).last_epoch() > lost
        for epoch in range(b.replica(1).last_epoch() + 1):
            assert len({b.replica(broker).epoch_end(epoch) for broker in range(3)}) == 1, epoch
        assert [b.values_at(broker) for broker in range(3)] == 3 * [[b"all have it", b"of 1"]]


# 4


def test_only_a_member_of_the_last_in_sync_set_leads() -> None:
    """4. The last member went away, one of the others was elected, and everyone truncated to it (KIP-966)."""
    with brokers(3) as b:
        b.log.create_topic("t", min_insync_replicas=1)
        b.send(b"all have it")
        b.hold(1, 2)
        b.send(b"meanwhile", acks=1)
        b.schedule.elapse(3 * LAG_S)
        assert b.log["t"].partition(0).isr == (0,)
        b.send(b"acknowledged by all of them")
        b.log.brokers[0].stop()
        b.release(1, 2)
        b.schedule.elapse(1.0)
        assert b.log.metrics()["replication"]["offline_partitions"] >= 1
        b.start(0)
        expected = [b"all have it", b"meanwhile", b"acknowledged by all of them"]
        assert [b.values_at(broker) for broker in range(3)] == 3 * [expected]


def test_the_last_member_has_on_its_device_what_was_acknowledged() -> None:
    """4. It lost its unflushed tail with the power, was elected again, and everyone truncated to it (KIP-966)."""
    left: list[SimulatedDisk] = []
    with brokers(3, sync=True, closes=False) as b:
        b.log.create_topic("t", min_insync_replicas=1)
        b.send(b"1")
        b.send(b"2")
        b.log.brokers[0].stop()
        b.log.brokers[1].stop()
        assert b.log["t"].partition(0).isr == (2,)
        left += [b.files.power_loss(choice) for choice in ("strict", "lax", 1, 2, 3)]
        b.log.close()
    for disk in left:
        with brokers(3, disk, sync=True) as b:
            b.settle()
            assert [b.values_at(broker) for broker in range(3)] == 3 * [[b"1", b"2"]]


# 5


def test_a_new_segment_of_a_follower_survives_a_power_loss_at_any_moment() -> None:
    """5. The file was synced, its directory was not: the whole file vanished (KAFKA-3968), with what was acknowledged."""
    with brokers(3, sync=True, closes=False) as b:
        b.log.create_topic("t", segment_bytes=1024, min_insync_replicas=1)
        for n in range(4):
            b.send(b"%d" % n + LARGE)
        b.log.brokers[0].stop()
        b.log.brokers[1].stop()  # what is left counts alone
        left = [b.files.power_loss(choice) for choice in ("strict", "lax", 1, 2, 3, 4)]
        b.log.close()
    for disk in left:
        with brokers(3, disk, sync=True) as b:
            assert b.values() == [b"%d" % n + LARGE for n in range(4)]


# 17


def test_a_replica_that_begins_anew_fetches_from_the_middle_of_a_batch() -> None:
    """17. Records were deleted up to the middle of a batch, and a follower without its log could not fetch (KAFKA-6975, 9133)."""
    for before in range(10):
        with brokers(3) as b:
            topic = b.log.create_topic("t", segment_bytes=1024)
            for first in range(0, 9, 3):
                topic.send_many([b"%d" % n + b"." * 130 for n in range(first, first + 3)]).result()
            topic.delete_records({0: before})
            b.log.brokers[2].stop()
            b.files.rmtree(f"{PATH}/broker-2")
            b.start(2)
            expected = [b"%d" % n + b"." * 130 for n in range(before, 9)]
            assert [b.values_at(broker) for broker in range(3)] == 3 * [expected], before
            topic.send(b"next").result()
            assert b.values() == [*expected, b"next"]


def test_a_follower_takes_over_a_log_start_that_lies_in_the_middle_of_a_batch() -> None:
    """17. Also one that was away meanwhile, and one that has not come so far yet."""
    for before in range(7):
        with brokers(3) as b:
            topic = b.log.create_topic("t", segment_bytes=1024)
            topic.send_many([b"%d" % n + b"." * 130 for n in range(3)]).result()
            b.log.brokers[2].stop()
            topic.send_many([b"%d" % n + b"." * 130 for n in range(3, 6)]).result()
            topic.delete_records({0: before})
            b.start(2)
            b.schedule.elapse(1.0)
            assert {b.replica(broker).reader.tail.start_offset for broker in range(3)} == {before}
            expected = [b"%d" % n + b"." * 130 for n in range(before, 6)]
            assert [b.values_at(broker) for broker in range(3)] == 3 * [expected], before


# What the simulation has found


def test_a_stop_that_cannot_be_recorded_leaves_the_broker_running() -> None:
    with brokers(2) as b:
        b.log.create_topic("t", min_insync_replicas=1)
        b.send(b"1")
        full = b.disk.fail("pwrite", ENOSPC, path=f"{PATH}/broker-0/*", times=None)
        with pytest.raises(streamlog.DiskFullError):
            b.log.brokers[1].stop()
        b.send(b"2")
        assert b.values() == [b"1", b"2"]
        b.disk.heal(full)
        b.start(*[broker.id for broker in b.log.brokers if not broker.running])
        assert [b.values_at(broker) for broker in range(2)] == 2 * [[b"1", b"2"]]


def test_what_waits_at_a_leader_whose_disk_cannot_be_read_is_handed_over() -> None:
    with brokers(3) as b:
        b.log.create_topic("t", min_insync_replicas=1)
        b.hold(1, 2)
        with b.log.producer(linger_ms=1) as producer:
            sent = producer.send("t", b"1")
            b.schedule.elapse(0.1)
            assert not sent.done()
            b.fail(0)
            b.release(1, 2)
            assert sent.result().offset == 0
        assert b.values() == [b"1"]


def test_deleted_records_are_deleted_on_every_in_sync_replica_before_that_is_said() -> None:
    """Else the next leader would bring them back (Kafka's DelayedDeleteRecords)."""
    with brokers(3) as b:
        topic = b.log.create_topic("t")
        topic.send_many([b"%d" % n for n in range(5)]).result()
        for before in range(6):
            topic.delete_records({0: before})
            assert [b.replica(broker).reader.tail.start_offset for broker in range(3)] == 3 * [before]
            b.log.elect_leader(TopicPartition("t", 0), (before + 1) % 3)
            assert topic.partition(0).log_start_offset == before
