"""Where a replicated log starts: what was deleted, by retention or by a call, never comes back with another leader."""

from __future__ import annotations

from collections.abc import Callable
from errno import EIO
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import NotLeaderError, OffsetOutOfRangeError, TopicPartition
from streamlog.replication.deletions import Deletions
from streamlog.runtime.disk import OsDisk
from tests.times import LONG

from .gated_disk import GatedDisk
from .test_replica_scenarios import LAG_S, LARGE, PATH, T0, Brokers, brokers

RETENTION_MS = 5_000
COUNT = 6


def fill(b: Brokers, **settings: Any) -> None:
    """A topic of `COUNT` records, each in a segment of its own, and all but the last one due after `RETENTION_MS`."""
    b.log.create_topic("t", segment_bytes=1024, min_insync_replicas=1, **{"retention_ms": RETENTION_MS, **settings})
    for n in range(COUNT):
        b.send(b"%d" % n + LARGE)


def start(b: Brokers) -> int:
    return b.log["t"].partition(0).log_start_offset


def starts(b: Brokers) -> list[int]:
    return [b.replica(broker.id).reader.tail.start_offset for broker in b.log.brokers if broker.running]


def by_retention(b: Brokers) -> None:
    b.schedule.elapse(2 * RETENTION_MS / 1000)


def by_a_retention_that_is_asked_for(b: Brokers) -> None:
    b.log["t"].update_config(retention_ms=-1, retention_records=1)
    b.log["t"].apply_retention()


def by_a_call(b: Brokers) -> None:
    b.log["t"].update_config(retention_ms=-1)
    b.log["t"].delete_records({0: COUNT - 1})


deletions = pytest.mark.parametrize("delete", [by_retention, by_a_retention_that_is_asked_for, by_a_call])


@deletions
def test_what_was_deleted_stays_deleted_when_the_directory_of_the_leader_is_lost(
    delete: Callable[[Brokers], None],
) -> None:
    with brokers(3) as b:
        fill(b)
        delete(b)
        deleted = start(b)
        assert deleted >= COUNT - 1
        left = b.files.kill()
    left.rmtree(f"{PATH}/broker-0")
    with brokers(3, left) as b:
        assert start(b) == deleted
        with pytest.raises(OffsetOutOfRangeError):
            b.log["t"].read(0, start=deleted - 1)


def test_retention_is_not_seen_before_every_in_sync_replica_has_it() -> None:
    with brokers(3) as b:
        fill(b)
        b.hold(2)
        b.schedule.elapse(RETENTION_MS / 1000 + 2)
        assert starts(b)[1] >= COUNT - 1, "the follower that fetches has it first"
        assert start(b) == 0
        assert len(b.values()) == COUNT
        b.release(2)
        b.schedule.elapse(1.0)
        assert starts(b) == 3 * [start(b)]
        assert start(b) >= COUNT - 1


def test_retention_goes_on_without_replicas_that_are_not_in_sync() -> None:
    with brokers(3) as b:
        fill(b)
        b.hold(2)
        b.schedule.elapse(RETENTION_MS / 1000 + 1)
        assert start(b) == 0
        b.send(b"more")  # which the one that is held does not fetch
        b.schedule.elapse(2 * LAG_S)
        assert 2 not in b.log["t"].partition(0).isr
        assert start(b) >= COUNT - 1


def test_a_replica_that_was_away_is_in_sync_again_once_it_starts_where_the_leader_does() -> None:
    with brokers(3) as b:
        fill(b)
        b.log.brokers[2].stop()
        by_retention(b)
        deleted = start(b)
        assert deleted >= COUNT - 1
        lowest: list[int] = []
        b.schedule.check = lambda: lowest.append(
            min(b.replica(each).reader.tail.start_offset for each in b.log["t"].partition(0).isr)
        )
        b.start(2)
        assert min(lowest) == deleted
        b.log.elect_leader(T0, 2)
        assert start(b) == deleted


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_leader_that_starts_later_than_another_replica_is_followed_by_one_that_starts_as_late(
    is_killed: bool,
) -> None:
    """The first leader failed in the middle of a deletion that only one follower had made, the second one before the other made it."""
    with brokers(3) as b:
        fill(b)
        b.hold(2)
        b.schedule.elapse(RETENTION_MS / 1000 + 2)
        assert [starts(b)[0], starts(b)[2]] == [0, 0]
        b.fail(0)
        assert b.log["t"].partition(0).leader == 1
        deleted = start(b)
        assert deleted >= COUNT - 1
        if not is_killed:
            b.fail(1)
            assert b.log["t"].partition(0).leader == 2
            assert start(b) == deleted
            return
        left = b.files.kill()
    with brokers(3, left) as b:
        b.log.elect_leader(T0, 2)
        assert start(b) == deleted


def test_a_deletion_whose_leader_fails_is_made_by_the_next_one() -> None:
    with brokers(3) as b:
        fill(b, retention_ms=-1)
        b.hold(1, 2)
        waits: list[int] = []

        def fail() -> None:
            if not waits:
                waits.append(start(b))
                b.fail(0)
                b.release(1, 2)

        b.schedule.between = fail
        b.log["t"].delete_records({0: 3})
        assert waits == [0], "no replica in sync had it yet"
        assert starts(b) == [3, 3]


def test_a_deletion_fails_where_another_broker_leads_meanwhile() -> None:
    with brokers(3) as b:
        fill(b, retention_ms=-1)
        b.hold(1, 2)
        service: Any = b.log._engine.service
        deletion = service.delete_records(TopicPartition("t", 0), 3)
        b.fail(0)
        assert isinstance(deletion.error(), NotLeaderError)
        assert start(b) == 0


def test_a_deletion_that_the_leader_cannot_make_is_made_by_the_next_one() -> None:
    with brokers(3) as b:
        fill(b, retention_ms=-1)
        b.disk.fail("pwrite", EIO, path=f"{PATH}/broker-0/topics/*/partition.state", times=None)
        b.log["t"].delete_records({0: 3})
        assert not b.log.brokers[0].running
        assert starts(b) == [3, 3]
        b.start(0)
        assert starts(b) == [3, 3, 3]


def test_a_deletion_that_waits_for_a_follower_looks_no_more_often_the_longer_that_takes(
    path: Path, in_thread: Callable[[Callable[[], Any]], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is woken when the follower has deleted, and by nothing that others do meanwhile."""
    looks: list[int] = []
    drive = Deletions.drive
    monkeypatch.setattr(Deletions, "drive", lambda self: (looks.append(0), drive(self))[1])
    disk: Any = GatedDisk(OsDisk())
    with streamlog.open(path, brokers=3, disk=disk) as log:
        topic = log.create_topic("t", segment_bytes=2048)
        for _ in range(20):
            topic.send_many([b"." * 100] * 10).result()
        slow = (topic.partition(0).leader + 1) % 3
        disk.hold(f"*/broker-{slow}/topics/*/partition.state")
        deleting = in_thread(lambda: topic.delete_records({0: 150}))
        disk.until_held()
        try:
            with log.producer(acks=1) as producer:
                for n in range(300):
                    producer.send("t", b"%d" % n)
            assert not deleting.done()
            assert len(looks) <= 3
        finally:
            disk.let_go()
        deleting.result(LONG)
        assert topic.partition(0).log_start_offset == 150
        assert len(looks) <= 6
