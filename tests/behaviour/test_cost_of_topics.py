"""What making a topic costs on several brokers: syncs, counted, and how many of them wait for the disk at the same time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog.runtime.disk import OsDisk
from streamlog.testing import FaultyDisk, ManualClock, SimulatedDisk

from .gated_disk import GatedDisk


def syncs(disk: FaultyDisk) -> int:
    return sum(op in ("sync", "sync_dir") for op, _ in disk.calls)


@pytest.mark.parametrize("brokers", [1, 3])
def test_a_topic_is_synced_three_times_a_replica_and_once_in_each_copy_of_the_metadata(
    brokers: int, clock: ManualClock
) -> None:
    disk = FaultyDisk(SimulatedDisk())
    with streamlog.open("data", brokers=brokers, disk=disk, clock=clock) as log:
        disk.calls.clear()
        log.create_topic("t")
        assert syncs(disk) == brokers * (3 + 1)
        disk.calls.clear()
        log.create_topic("many", partitions=20)
        assert syncs(disk) == brokers * (20 * 2 + 1 + 1), "the directory of the partitions once for all of them"
        names = Counter(path for op, path in disk.calls if op == "sync_dir" and path.endswith("/topics"))
        assert set(names.values()) == {1}


@pytest.mark.parametrize(
    ("path_of", "at_once"),
    [("*/partition.state", 3), ("*/topics", 3), ("*/broker-[12]/__cluster_metadata-0/*.log", 2)],
)
def test_the_disks_of_the_brokers_are_waited_for_at_the_same_time(
    path: Path, path_of: str, at_once: int, in_thread: Callable[[Callable[[], Any]], Future[Any]]
) -> None:
    disk = GatedDisk(OsDisk())
    with streamlog.open(path, brokers=3, disk=disk) as log:
        disk.hold(path_of)
        made = in_thread(lambda: log.create_topic("t"))
        disk.until_held(at_once)
        disk.let_go()
        made.result(timeout=30)
        assert log["t"].send("x").result().offset == 0
