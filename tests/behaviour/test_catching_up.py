"""A follower that was away has to be faster than its leader, or it never comes back into the in-sync set."""

from __future__ import annotations

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
