"""The order in which locks are taken (rule 14 of the design), over everything that touches groups and topics at once."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

import streamlog
from streamlog import StreamlogError
from streamlog.broker import opening, registry
from streamlog.testing import FaultyDisk, ManualClock, SimulatedDisk

from .ordered_locks import OrderedLock, watch_the_order

BEGINNINGS = range(1, 13)


@pytest.fixture(autouse=True)
def _ordered(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (opening, registry):
        monkeypatch.setattr(module, "new_lock", OrderedLock)


def opened(disk: Any, **options: Any) -> streamlog.StreamLog:
    log = streamlog.open("data", disk=disk, clock=ManualClock(start_ms=1_700_000_000_000), **options)
    watch_the_order(log)
    return log


def use(log: streamlog.StreamLog) -> None:
    """A bit of everything that goes through the coordinator or the metadata."""
    topic = log["t"] if "t" in log else log.create_topic("t", partitions=2)
    topic.send_many(["a", "b"]).result()
    with log.consumer("t", group="g") as consumer:
        list(consumer.until_end())
        topic.add_partitions(topic.partitions + 1)
        log.create_topic("other", exist_ok=True)
        consumer.poll()
        log.delete_topic("other")
        with log.consumer("t", group="g") as second:
            second.poll()
            consumer.poll()
    group = log.group("g")
    assert group.members() == []
    group.reset("t", to="earliest")
    group.lag()
    group.delete()


def interrupt_and_fill(disk: FaultyDisk, nth: int) -> None:
    """Ctrl-C at the nth change of the disk, which has no room from then on."""

    class CtrlC(KeyboardInterrupt):
        def __init__(self) -> None:
            disk.capacity = disk.used

    disk.fail("write", CtrlC, nth=nth)


@pytest.mark.parametrize("sync", [False, True])
def test_locks_are_taken_in_their_order(sync: bool) -> None:
    with opened(SimulatedDisk(), sync=sync) as log:
        use(log)
        use(log)


@pytest.mark.parametrize("nth", BEGINNINGS)
@pytest.mark.parametrize("question", ["committed", "members", "poll", "close"])
def test_a_groups_topic_whose_creation_was_interrupted_on_a_full_disk_causes_no_deadlock(
    nth: int, question: str
) -> None:
    """Later there is room again, and the first to ask finds the topic half made."""
    disk = FaultyDisk(SimulatedDisk())
    with opened(disk) as log:
        log.create_topic("t").send("x")
        consumer = log.consumer("t", group="g")
        interrupt_and_fill(disk, nth)
        with contextlib.suppress(KeyboardInterrupt, StreamlogError):
            consumer.poll()
        disk.heal()
        if question == "committed":
            assert log.group("g").committed() == {}
        elif question == "members":
            assert len(log.group("g").members()) <= 1
        elif question == "poll":
            assert [record.value for record in consumer.poll()] in ([b"x"], [])
        consumer.close()
        use(log)


@pytest.mark.parametrize("nth", BEGINNINGS)
def test_a_call_while_the_disk_is_still_full_raises_and_does_not_deadlock(nth: int) -> None:
    disk = FaultyDisk(SimulatedDisk())
    with opened(disk) as log:
        log.create_topic("t").send("x")
        consumer = log.consumer("t", group="g")
        interrupt_and_fill(disk, nth)
        for ask in (consumer.poll, log.group("g").committed, log.group("g").members, consumer.poll):
            with contextlib.suppress(KeyboardInterrupt, StreamlogError):
                ask()
        disk.heal()
        assert [record.value for record in consumer.poll()] == [b"x"]
        consumer.close()
        use(log)
