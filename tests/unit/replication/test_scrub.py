"""What the scrub keeps of the replicas that it is to read. What it finds: tests/behaviour/test_repair_from_replicas.py."""

from __future__ import annotations

import gc
from pathlib import Path
from weakref import ref

from streamlog.errors import NotLeaderError
from streamlog.replication.scrub import Scrub
from tests.unit.replication.pair import NOW, Pair


def test_replicas_whose_broker_was_stopped_before_they_were_read_are_not_kept(tmp_path: Path) -> None:
    """Brokers may start and stop faster than the scrub reads."""
    scrub = Scrub(lambda: ())
    former = []
    for number in range(3):
        pair = Pair(tmp_path / str(number))
        former += [ref(replica) for replica in pair.replicas]
        scrub.look_at(pair.replicas)
        for replica in pair.replicas:
            replica.close(NotLeaderError("Its broker was stopped."))
    scrub.look_at(())
    del pair, replica
    gc.collect()
    assert [each() for each in former] == [None] * 6


def test_the_replicas_of_the_broker_that_was_started_last_are_read_first(tmp_path: Path) -> None:
    earlier, later = Pair(tmp_path / "earlier"), Pair(tmp_path / "later")
    scrub = Scrub(lambda: ())
    read: list[object] = []
    scrub._read = lambda replicas: (read.append(each) or 1 for each in replicas)  # type: ignore[assignment,func-returns-value]
    scrub.look_at(earlier.replicas)
    scrub.look_at(later.replicas)
    scrub.step(NOW)
    assert read == [*later.replicas, *earlier.replicas]
