"""A follower that was away has to be faster than its leader, or it never comes back into the in-sync set."""

from __future__ import annotations

from unittest.mock import patch

from streamlog.replication.partition import Partition

from .test_replica_scenarios import LARGE, brokers

SEGMENTS = 40


def test_a_follower_that_catches_up_with_sync_syncs_each_segment_once() -> None:
    with brokers(3, sync=True) as b:
        b.log.create_topic("t", segment_bytes=1024)
        b.send(b"0")
        b.log.brokers[2].stop()
        values = [b"%d" % n + LARGE for n in range(SEGMENTS)]
        for value in values:
            b.send(value)
        b.disk.calls.clear()
        b.log.brokers[2].start()
        b.settle()
        directory = b.replica(2).log.directory
        syncs = [
            path for op, path in b.disk.calls if op == "sync" and path.startswith(directory) and path.endswith(".log")
        ]
        assert SEGMENTS <= len(syncs) <= SEGMENTS + 5
        assert b.values_at(2) == [b"0", *values]


def test_a_follower_that_catches_up_fetches_many_small_segments_at_once() -> None:
    """Each fetch waits for the lock that senders hold: with one for each segment, senders kept it away for as long as they sent."""
    with brokers(3) as b:
        b.log.create_topic("t", segment_bytes=1024)
        b.send(b"0")
        b.log.brokers[2].stop()
        values = [b"%d" % n + LARGE for n in range(SEGMENTS)]
        for value in values:
            b.send(value)
        fetches: list[int] = []
        fetch = Partition.fetch_as_replica

        def counted(leader: Partition, broker: int, *arguments: object) -> object:
            if broker == 2 and leader.name.topic == "t":
                fetches.append(broker)
            return fetch(leader, broker, *arguments)  # type: ignore[arg-type]

        with patch.object(Partition, "fetch_as_replica", counted):
            b.log.brokers[2].start()
            b.settle()
        assert len(fetches) < SEGMENTS / 4
        assert b.values_at(2) == [b"0", *values]
