"""When `close` of a member returns, it has left its group for good, but it does not wait for that without end."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import streamlog
from streamlog.client.consumer import coordinator
from streamlog.testing import ManualClock, SimulatedDisk

from .gated_disk import LONG, GatedDisk


def unwritten(log: streamlog.StreamLog) -> int:
    """How many records of the groups' topic do not count as written yet."""
    info = log["__consumer_offsets"].partition(0)
    return info.log_end_offset - info.high_watermark


@pytest.mark.parametrize("how", ["close", "unsubscribe", "assign"])
def test_a_member_that_leaves_waits_until_that_is_on_the_device(how: str) -> None:
    with streamlog.open("/log", disk=SimulatedDisk(), sync=True, clock=ManualClock()) as log:
        log.create_topic("t")
        with log.consumer("t", group="g") as consumer:
            consumer.poll()
            if how == "assign":
                consumer.assign([])
            else:
                getattr(consumer, how)()
            assert log.group("g").members() == []
            assert unwritten(log) == 0


def test_members_of_a_log_that_closes_are_synced_with_it_and_not_one_by_one() -> None:
    disk: Any = GatedDisk(SimulatedDisk())
    log = streamlog.open("/log", disk=disk, sync=True, clock=ManualClock())
    log.create_topic("t", partitions=8)
    members = [log.consumer("t", group="g", enable_auto_commit=False) for _ in range(8)]
    for _ in range(2):
        for member in members:
            member.poll()
    before = disk.syncs
    log.close()
    assert disk.syncs - before <= 2


def test_a_close_whose_sync_does_not_end_returns_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator, "_LEAVE_WAIT_S", 0.01)
    disk: Any = GatedDisk(SimulatedDisk())
    clock = ManualClock()
    with streamlog.open("/log", disk=disk, sync=True, clock=clock) as log:
        topic = log.create_topic("t")
        topic.send("a")
        consumer = log.consumer("t", group="g", enable_auto_commit=False)
        consumer.poll()
        disk.hold()
        reset = threading.Thread(target=log.group("h").reset, args=("t",), kwargs={"to": "latest"})
        reset.start()
        disk.until_held()
        consumer.close()
        assert log.group("g").members() == []
        assert unwritten(log) > 0
        disk.let_go()
        reset.join(LONG)
        clock.advance(0.1)
        assert unwritten(log) == 0
