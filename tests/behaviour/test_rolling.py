"""A new segment: no send waits for the sync of its name, or of the segment before it, and no power loss tears the log there."""

from __future__ import annotations

import errno
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

import streamlog
from streamlog.replication.commit import GroupCommit
from streamlog.storage.durability import Durability
from streamlog.testing import FaultyDisk, ManualClock, SimulatedDisk
from tests.contents import values

from .gated_disk import DIRECTORIES, LONG, RECORDS, GatedDisk

InThread = Callable[[Callable[[], Any]], "Future[Any]"]
BIG = b"." * 700  # two of these fill a segment


def opened(disk: Any, clock: ManualClock, **options: Any) -> streamlog.StreamLog:
    return streamlog.open("data", disk=disk, clock=clock, segment_bytes=1024, **options)


def test_sends_that_roll_wait_for_no_sync_while_the_name_of_a_segment_is_synced(
    clock: ManualClock, in_thread: InThread
) -> None:
    machine = SimulatedDisk()
    disk = GatedDisk(machine)
    with opened(disk, clock) as log:
        topic = log.create_topic("t")
        disk.hold(DIRECTORIES)
        try:
            assert in_thread(lambda: topic.send(BIG)).result(LONG / 4).result().offset == 0
            assert in_thread(lambda: topic.send(b"1" + BIG)).result(LONG / 4).result().offset == 1
            syncing = in_thread(log.sync)
            disk.until_held()
            assert in_thread(lambda: topic.send(b"2" + BIG)).result(LONG / 4).result().offset == 2
            assert not syncing.done()
        finally:
            disk.let_go()
        syncing.result(LONG)
        after = machine.power_loss("strict")
    with opened(after, clock) as log:
        assert values(log) == [BIG, b"1" + BIG]


def test_a_send_that_rolls_does_not_wait_until_a_write_that_was_taken_back_is_synced(
    clock: ManualClock, in_thread: InThread
) -> None:
    faulty = FaultyDisk(SimulatedDisk())
    disk = GatedDisk(faulty)
    with opened(disk, clock) as log:
        topic = log.create_topic("t")
        topic.send(BIG)
        faulty.fail("pwrite", errno.ENOSPC, path=RECORDS, short=19)
        with pytest.raises(streamlog.DiskFullError):
            topic.send(b"refused")
        disk.hold(RECORDS)
        try:
            assert in_thread(lambda: topic.send(b"1" + BIG)).result(LONG / 4).result().offset == 1
        finally:
            disk.let_go()


def settled(disk: SimulatedDisk, clock: ManualClock, name: str, first: list[bytes], sent: list[bytes]) -> None:
    """Open what a crash left: it begins with `first`, holds what was sent, in order, is whole, and goes on."""
    with opened(disk, clock) as log:
        found = values(log)
        assert found[: len(first)] == first, name
        kept = [value for value in found if value != b"refused"]  # a write that failed may have come about
        assert not kept or kept == sent[sent.index(kept[0]) :][: len(kept)], name
        log["t"].send(b"next")
        log.sync()
        after = disk.power_loss("strict")
    report = streamlog.verify("data", disk=disk)
    assert report.ok, f"{name}: {report}"
    with opened(after, clock) as log:
        assert values(log) == [*found, b"next"], name


@pytest.mark.slow
@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("short", [19, 900])
@pytest.mark.parametrize("closed", [False, True])
def test_a_write_that_was_taken_back_before_a_roll_is_no_damage_after_a_power_loss_at_any_moment(
    clock: ManualClock, sync: bool, short: int, closed: bool
) -> None:
    """What is left of the refused write may be on the device, before the next segment or with no next segment."""
    machine = SimulatedDisk()
    disk = FaultyDisk(machine)
    log = opened(disk, clock, sync=sync)
    log.create_topic("t").send(BIG)
    log.sync()
    if closed:
        log.close()
        log = opened(disk, clock, sync=sync)
    disk.fail("pwrite", errno.ENOSPC, path=RECORDS, short=short)
    with pytest.raises(streamlog.DiskFullError):
        log["t"].send(b"refused")
    rolled = len(machine.operations)
    sent = [BIG, b"1" + BIG, b"2" + BIG]
    log["t"].send(sent[1])
    log.sync()
    synced = len(machine.operations)
    log["t"].send(sent[2])
    log.close()
    for first, last, kept in ((rolled, synced - 1, 1), (synced, len(machine.operations), 2)):
        for name, state in machine.crashes(2, harsh=2, first=first, last=last):
            settled(state, clock, name, sent[:kept], sent)


@pytest.mark.slow
def test_a_process_that_was_killed_after_it_rolled_leaves_nothing_unsynced_to_the_next_one(clock: ManualClock) -> None:
    machine = SimulatedDisk()
    disk = FaultyDisk(machine)
    with opened(disk, clock) as log:
        log.create_topic("t").send(BIG)
    log = opened(disk, clock)
    disk.fail("pwrite", errno.ENOSPC, path=RECORDS, short=19)
    with pytest.raises(streamlog.DiskFullError):
        log["t"].send(b"refused")
    log["t"].send(b"1" + BIG)
    killed = machine.kill()
    with opened(killed, clock) as again:
        again["t"].send(b"2" + BIG)
        again.sync()
        begin = len(killed.operations)
    for name, state in killed.crashes(2, harsh=2, first=begin):
        settled(state, clock, name, [BIG, b"1" + BIG, b"2" + BIG], [BIG, b"1" + BIG, b"2" + BIG])


@pytest.mark.slow
def test_a_power_loss_never_leaves_a_partition_without_a_segment_while_records_are_deleted(clock: ManualClock) -> None:
    machine = SimulatedDisk()
    with opened(machine, clock) as log:
        topic = log.create_topic("t")
        begin = len(machine.operations)
        sent = [b"%d" % n + BIG for n in range(6)]
        for n, value in enumerate(sent):
            topic.send(value)
            if n % 2:
                topic.delete_records({0: n})
    for name, state in machine.crashes(1, harsh=3, first=begin):
        settled(state, clock, name, [], sent)


@pytest.mark.slow
def test_files_that_a_killed_process_left_to_be_removed_go_only_with_the_next_segment_on_the_device(
    clock: ManualClock,
) -> None:
    machine = SimulatedDisk()
    disk = FaultyDisk(machine)
    log = opened(disk, clock)
    topic = log.create_topic("t")
    topic.send(b"0" + BIG)
    topic.send(b"1" + BIG)
    disk.fail("sync_dir", errno.EMFILE, path=DIRECTORIES, times=None)
    with pytest.raises(streamlog.StorageError):
        topic.delete_records({0: 1})
    killed = machine.kill()
    with opened(killed, clock) as again:
        assert values(again) == [b"1" + BIG]
    for name, state in killed.crashes(1, harsh=4):
        settled(state, clock, name, [], [b"1" + BIG])


def a_sealed_segment_is_synced_only_if_it_has_new_records(patch: pytest.MonkeyPatch) -> None:
    real = Durability.sync

    def sync(self: Durability, segment: Any) -> None:
        if not segment.sealed or segment.next_offset > self.synced_end:
            real(self, segment)

    patch.setattr(Durability, "sync", sync)


def a_process_trusts_the_one_that_was_killed(patch: pytest.MonkeyPatch) -> None:
    real = Durability.__init__

    def init(self: Durability, disk: Any, directory: str, state: Any, poison: Any) -> None:
        real(self, disk, directory, state, poison)
        self.synced_base = 1 << 62

    patch.setattr(Durability, "__init__", init)


def names_are_never_synced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Durability, "sync_names", lambda self, tail: None)


def files_are_removed_before_the_names_of_others_are_synced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(GroupCommit, "sync_names", lambda self: None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bug", "scenario"),
    [
        (
            a_sealed_segment_is_synced_only_if_it_has_new_records,
            lambda clock: test_a_write_that_was_taken_back_before_a_roll_is_no_damage_after_a_power_loss_at_any_moment(
                clock, True, 19, True
            ),
        ),
        (
            names_are_never_synced,
            lambda clock: test_a_write_that_was_taken_back_before_a_roll_is_no_damage_after_a_power_loss_at_any_moment(
                clock, True, 19, False
            ),
        ),
        (
            a_process_trusts_the_one_that_was_killed,
            test_a_process_that_was_killed_after_it_rolled_leaves_nothing_unsynced_to_the_next_one,
        ),
        (
            files_are_removed_before_the_names_of_others_are_synced,
            test_a_power_loss_never_leaves_a_partition_without_a_segment_while_records_are_deleted,
        ),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_the_scenario_fails_with_its_bug(
    bug: Callable[[pytest.MonkeyPatch], None],
    scenario: Callable[[ManualClock], None],
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bug(monkeypatch)
    with pytest.raises((AssertionError, streamlog.StreamlogError)):
        scenario(clock)
