"""What the owner tells other processes: soon, in order, before files go, at a bounded cost, and whatever the disk does."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from streamlog.broker.tailing.published_writer import INTERVAL_S, RETRY_S, PublishedWriter
from streamlog.config import TopicConfig
from streamlog.records.batch import seed_of
from streamlog.replication.partition import Partition
from streamlog.runtime.disk import OsDisk
from streamlog.runtime.threads import new_lock
from streamlog.storage.published import (
    CLOSED,
    EMPTY,
    OPEN,
    OPENING,
    SLOT_BYTES,
    Header,
    Slot,
    kept_slots,
    parse_header,
    parse_slot,
)
from streamlog.storage.recovery.recovery import PreviousShutdown, open_log
from streamlog.types import TopicPartition
from tests.times import LONG

NOW = 1_700_000_000_000


class CountingDisk(OsDisk):
    """Counts the slots written. `error` is what a write raises, and `during` is called in the next one, before it takes place."""

    def __init__(self) -> None:
        self.writes = 0
        self.error: OSError | None = None
        self.during: Callable[[], object] | None = None

    def open(self, path: str, **options: Any) -> Any:  # type: ignore[override]
        file: Any = super().open(path, **options)
        if not path.endswith("published"):
            return file
        if self.error is not None:
            raise self.error
        disk, pwrite = self, file.pwrite

        class Counted:
            pread, size, truncate, close = file.pread, file.size, file.truncate, file.close

            def pwrite(self, buffers: Any, position: int) -> None:
                if disk.error is not None:
                    raise disk.error
                during, disk.during = disk.during, None
                if during is not None:
                    during()
                disk.writes += 1
                pwrite(buffers, position)

        return Counted()


class Scene:
    """A publisher under a clock and a thread of the test's own, and partitions to publish."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.disk = CountingDisk()
        self.now = 100.0
        self.wakes = 0
        self.publisher = PublishedWriter(self.disk, str(path), new_lock, lambda: self.now)
        self.publisher.open(7, 4711)
        self.made: list[Partition] = []

    def wake(self) -> None:
        self.wakes += 1

    def partition(self, number: int = 0, *, durable: bool = False, **config: Any) -> Partition:
        topic_id = bytes(16)
        settings = TopicConfig(**config)
        log = open_log(
            OsDisk(), str(self.path / f"p{number}"), topic_id, number, seed_of(topic_id, number), settings, PreviousShutdown(True, True)
        )  # fmt: skip
        self.made.append(Partition(TopicPartition("t", number), topic_id, log, new_lock, durable=durable))
        return self.made[-1]

    def added(self, number: int = 0, **config: Any) -> Partition:
        partition = self.partition(number, **config)
        self.publisher.add(partition)
        return partition

    def header(self) -> Header | None:
        return parse_header((self.path / "published").read_bytes())

    def slots(self) -> list[Slot | None]:
        data = (self.path / "published").read_bytes()
        return [parse_slot(data[at : at + SLOT_BYTES]) for at in range(SLOT_BYTES, len(data), SLOT_BYTES)]

    def slot(self) -> Slot:
        (slot,) = self.slots()
        assert slot is not None
        return slot

    def tick(self, seconds: float = 0.0) -> int | None:
        self.now += seconds
        return self.publisher.tick(1_000)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path / "broker")
    yield made
    for partition in made.made:
        partition.log.release()


def send(partition: Partition, value: bytes = b"v") -> int:
    return partition.append_one(None, value, NOW, NOW)


# Life


def test_the_header_tells_what_the_owner_is_doing(scene: Scene) -> None:
    assert scene.header() == Header(7, OPENING, 4711)
    partition = scene.added()
    assert scene.header() == Header(7, OPENING, 4711)
    scene.publisher.opened()
    assert scene.header() == Header(7, OPEN, 4711)
    send(partition)
    scene.publisher.close(clean=True)
    assert scene.header() == Header(7, CLOSED, 4711)
    assert scene.slot().end_offset == 1


def test_what_an_earlier_owner_said_is_kept_until_every_partition_has_its_place(scene: Scene) -> None:
    first, second, third = (scene.added(number) for number in range(3))
    send(second)
    scene.publisher.opened()
    scene.publisher.close(clean=True)
    for _ in range(2):  # refused for `second`: it is lost
        scene.publisher.open(8, 4711)
        assert scene.slots() == [None, None, None]
        for partition in (third, first):
            scene.publisher.add(partition)
        scene.publisher.abandon()
        data = (scene.path / "published").read_bytes()
        assert {seed: slot.end_offset for seed, slot in kept_slots(data).items()} == {
            first.log.seed: 0, second.log.seed: 1, third.log.seed: 0
        }  # fmt: skip
        assert [slot and slot.seed for slot in scene.slots()] == [first.log.seed, None, third.log.seed]
    scene.publisher.open(9, 4711)
    scene.publisher.add(first)
    scene.publisher.opened()  # and the others were deleted meanwhile
    assert len(kept_slots((scene.path / "published").read_bytes())) == 1
    assert scene.added(3) is not None, "their slots are free"
    assert len(scene.slots()) == 3


def test_an_owner_that_could_not_close_says_nothing(scene: Scene) -> None:
    scene.publisher.opened()
    scene.publisher.close(clean=False)
    assert scene.header() == Header(7, OPEN, 4711)


def test_a_new_owner_begins_the_file_anew_in_its_place(scene: Scene) -> None:
    scene.added()
    scene.publisher.close(clean=True)
    inode = (scene.path / "published").stat().st_ino
    scene.publisher.open(8, 4712)
    assert scene.header() == Header(8, OPENING, 4712)
    assert scene.slots() == [None]  # kept, for the owner alone, until the log is open
    assert (scene.path / "published").stat().st_ino == inode
    assert (scene.path / "published").stat().st_mode & 0o777 == 0o600


def test_a_silent_publisher_writes_nothing(tmp_path: Path) -> None:
    tmp_path = tmp_path / "silent"
    scene = Scene(tmp_path)
    (tmp_path / "published").unlink()
    scene.publisher.abandon()
    scene.publisher.is_silent = True
    scene.publisher.open(1, 1)
    partition = scene.added()
    scene.publisher.opened()
    send(partition)
    scene.publisher.close(clean=True)
    assert not (tmp_path / "published").exists()
    partition.log.release()


def test_after_it_was_abandoned_nothing_is_written(scene: Scene) -> None:
    partition = scene.added()
    before = (scene.path / "published").read_bytes()
    scene.publisher.abandon()
    send(partition)
    partition.maintenance.roll(NOW)
    assert (scene.path / "published").read_bytes() == before


# Appends


def test_without_a_thread_every_append_is_published_at_once(scene: Scene) -> None:
    partition = scene.added()
    for n in range(5):
        send(partition)
        assert scene.slot().end_offset == n + 1
        assert scene.slot().end_position == partition.log.tail.end_position
    assert scene.slot().shape == (0, 0)


def test_a_first_append_is_published_at_once_and_the_next_within_the_interval(scene: Scene) -> None:
    scene.publisher.wake = scene.wake
    partition = scene.added()
    scene.now += 2 * INTERVAL_S
    send(partition)
    assert scene.slot().end_offset == 1
    assert scene.wakes == 0
    scene.now += INTERVAL_S / 2
    send(partition)
    assert scene.slot().end_offset == 1
    assert scene.wakes == 1
    assert scene.tick() == 1_000 + round(INTERVAL_S * 1000)
    assert scene.slot().end_offset == 1
    scene.tick(INTERVAL_S)
    assert scene.slot().end_offset == 2


def test_a_busy_partition_costs_one_write_and_no_wake_up_an_interval(scene: Scene) -> None:
    scene.publisher.wake = scene.wake
    partition = scene.added()
    send(partition)
    scene.tick()
    writes, wakes = scene.disk.writes, scene.wakes
    for n in range(10):
        for _ in range(50):
            send(partition)
        scene.tick(INTERVAL_S)
        assert scene.slot().end_offset == 50 * (n + 1) + 1
    assert scene.disk.writes - writes == 10
    assert scene.wakes == wakes


def test_when_it_is_quiet_the_thread_sleeps_and_the_next_append_is_published_at_once(scene: Scene) -> None:
    scene.publisher.wake = scene.wake
    partition = scene.added()
    send(partition)
    send(partition)
    scene.tick()
    assert scene.tick(INTERVAL_S) is not None
    assert scene.tick(INTERVAL_S) is None
    assert scene.tick(1.0) is None
    send(partition)
    assert scene.slot().end_offset == 3


def test_an_append_right_before_it_is_found_quiet_is_not_forgotten(scene: Scene) -> None:
    scene.publisher.wake = scene.wake
    partition = scene.added()
    send(partition)
    send(partition)
    scene.tick()
    scene.tick(INTERVAL_S)

    class Meddled:
        """Appends the moment the place is called quiet, as one who saw a moment ago that it was not."""

        def __init__(self, place: Any) -> None:
            object.__setattr__(self, "place", place)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.place, name)

        def __setattr__(self, name: str, value: Any) -> None:
            setattr(self.place, name, value)
            if name == "quiet" and value:
                self.place.quiet = False
                send(partition)
                self.place.quiet = True

    place = next(iter(scene.publisher._busy))
    meddled = Meddled(place)
    scene.publisher._slots[partition.log.seed] = meddled  # type: ignore[assignment]
    scene.publisher._busy = {meddled: None}  # type: ignore[dict-item]
    scene.tick(INTERVAL_S)
    assert scene.slot().end_offset == 3


def test_what_is_rarely_appended_to_is_published_at_once(scene: Scene) -> None:
    scene.publisher.wake = scene.wake
    partition = scene.partition()
    scene.publisher.add(partition, eager=True)
    for n in range(3):
        send(partition)
        assert scene.slot().end_offset == n + 1


def test_the_high_watermark_is_never_ahead_of_the_end(scene: Scene) -> None:
    partition = scene.partition(durable=True)
    scene.publisher.add(partition)
    send(partition)
    assert scene.slot().high_watermark == 0
    partition.commit.sync()
    assert (scene.slot().high_watermark, scene.slot().end_offset) == (1, 1)


# Other changes


def test_every_change_that_is_no_append_has_a_generation_of_its_own(scene: Scene) -> None:
    partition = scene.added(cleanup_policy="compact", segment_bytes=1024)
    seen = [scene.slot().shape]

    def changed(act: Callable[[], object]) -> None:
        act()
        assert scene.slot().shape not in seen
        seen.append(scene.slot().shape)

    def fill() -> None:
        for n in range(6):
            partition.append_one(b"k", b"%d" % n * 600, NOW, NOW)

    changed(fill)
    changed(lambda: partition.maintenance.roll(NOW))
    changed(lambda: partition.delete_records(2))
    changed(lambda: partition.maintenance.compact(NOW))
    assert scene.slot().rewrites >= 2, "once before the files get their names, once after"
    send(partition)
    assert scene.slot().shape == seen[-1]


def test_a_change_is_published_before_a_file_is_removed(scene: Scene) -> None:
    partition = scene.added(segment_bytes=1024, retention_bytes=1, cleanup_policy="compact,delete")
    told: list[tuple[int, int]] = []

    class Watching(OsDisk):
        def unlink(self, path: str) -> None:
            told.append(scene.slot().shape)
            super().unlink(path)

        def rename(self, source: str, target: str) -> None:
            if target.endswith(".log"):
                told.append(scene.slot().shape)
            super().rename(source, target)

    partition.log.disk = Watching()
    for act in (
        lambda: partition.delete_records(2),
        lambda: partition.maintenance.compact(NOW),
        lambda: partition.maintenance.apply_retention(NOW),
    ):
        for n in range(6):
            partition.append_one(b"k", b"%d" % n * 600, NOW, NOW)
        partition.maintenance.roll(NOW)
        before = scene.slot().shape
        told.clear()
        act()
        assert told
        assert before not in told


def test_a_raised_start_that_frees_no_segment_is_a_change(scene: Scene) -> None:
    partition = scene.added()
    send(partition)
    send(partition)
    before = scene.slot().shape
    partition.delete_records(1)
    assert scene.slot().log_start_offset == 1
    assert scene.slot().shape != before


# Places


def test_places_are_found_by_seed_freed_and_used_again(scene: Scene) -> None:
    first, second, third = scene.added(0), scene.added(1), scene.added(2)
    seeds = [partition.log.seed for partition in (first, second, third)]
    assert [slot.seed for slot in scene.slots() if slot is not None] == seeds
    scene.publisher.remove(second)
    assert (scene.path / "published").read_bytes()[2 * SLOT_BYTES : 3 * SLOT_BYTES] == EMPTY
    send(second)
    assert scene.slots()[1] is None
    scene.publisher.remove(second)
    fourth = scene.added(3)
    assert scene.slots()[1] is not None
    assert [slot.seed for slot in scene.slots() if slot is not None] == [seeds[0], fourth.log.seed, seeds[2]]


def test_a_partition_that_is_added_again_has_one_place(scene: Scene) -> None:
    partition = scene.added()
    scene.publisher.add(partition)
    assert len(scene.slots()) == 1


# A disk that refuses


@pytest.mark.parametrize("thread", [True, False])
def test_a_disk_error_fails_no_append_and_is_logged_once(
    scene: Scene, caplog: pytest.LogCaptureFixture, thread: bool
) -> None:
    partition = scene.added()
    scene.publisher.wake = scene.wake if thread else None
    scene.now += 1
    send(partition)
    scene.disk.error = OSError(errno.ENOSPC, "full")
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            scene.now += RETRY_S
            send(partition)
            scene.tick()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "published" in caplog.text
    assert scene.slot().end_offset == 1
    scene.disk.error = None
    scene.now += RETRY_S
    if thread:
        scene.tick(INTERVAL_S)
        scene.tick(INTERVAL_S)
    else:
        send(partition)
    assert scene.slot().end_offset == partition.log.tail.end_offset
    assert scene.slot().shape == (0, 0)


def test_a_change_that_could_not_be_published_is_published_later(scene: Scene) -> None:
    partition = scene.added()
    send(partition)
    scene.disk.error = OSError(errno.EIO, "no")
    partition.maintenance.roll(NOW)
    scene.disk.error = None
    scene.now += RETRY_S
    send(partition)
    assert scene.slot().generation == 1


def test_a_change_of_files_is_published_before_a_failed_write_is_due_again(scene: Scene) -> None:
    """A reader that read the files with the slot published before them would find damage where there is none."""
    partition = scene.added(cleanup_policy="compact", segment_bytes=1024)
    for n in range(6):
        partition.append_one(b"k", b"%d" % n * 600, NOW, NOW)
    partition.maintenance.roll(NOW)
    scene.disk.error = OSError(errno.ENOSPC, "full")
    scene.now += 1
    send(partition)
    scene.disk.error = None
    rewrites = scene.slot().rewrites
    partition.maintenance.compact(NOW)
    assert scene.slot().rewrites > rewrites


def test_the_word_that_a_log_is_open_is_said_again_after_a_refusal_though_nothing_is_appended(scene: Scene) -> None:
    """A reader that came while the log was being opened waits for nothing else."""
    partition = scene.partition()
    scene.publisher.wake = scene.wake
    scene.publisher.add(partition)
    scene.disk.error = OSError(errno.ENOSPC, "full")
    scene.publisher.opened()
    assert scene.wakes == 1
    assert scene.publisher.tick(NOW) is not None
    scene.disk.error = None
    for _ in range(2):
        scene.now += RETRY_S
        scene.publisher.tick(NOW)
    assert scene.header().state == OPEN
    assert scene.publisher.tick(NOW) is None, "it sleeps again"


def test_a_file_that_cannot_be_made_is_made_when_it_can(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "late")
    scene.publisher.abandon()
    (scene.path / "published").unlink()
    scene.disk.error = OSError(errno.ENOSPC, "full")
    scene.publisher.open(9, 1)
    partition = scene.added()
    scene.publisher.opened()
    send(partition)
    assert not (scene.path / "published").read_bytes()
    scene.disk.error = None
    scene.now += RETRY_S
    send(partition)
    assert scene.header() == Header(9, OPEN, 1)
    assert scene.slot().end_offset == 2
    partition.log.release()


# Several threads


def in_a_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_an_append_waits_for_no_write_of_another_partition_and_none_of_its_own(scene: Scene) -> None:
    scene.publisher.wake = scene.wake
    one, other = scene.added(0), scene.added(1)
    scene.now += 1.0

    def append() -> None:
        for partition in (one, other):
            thread = in_a_thread(lambda partition=partition: send(partition))  # type: ignore[misc]
            thread.join(LONG)
            assert not thread.is_alive()

    scene.disk.during = append
    send(one)
    assert [slot.end_offset for slot in scene.slots() if slot] == [1, 0]
    scene.tick(INTERVAL_S)
    scene.tick(INTERVAL_S)
    assert [slot.end_offset for slot in scene.slots() if slot] == [2, 1]


def test_an_append_waits_for_no_write_of_the_whole_file(scene: Scene) -> None:
    scene.publisher.wake = scene.wake
    one, other = scene.added(0), scene.added(1)
    scene.now += 1.0

    def append() -> None:
        thread = in_a_thread(lambda: send(other))
        thread.join(LONG)
        assert not thread.is_alive()

    def refuse() -> None:
        scene.disk.during = append
        raise OSError(errno.EIO, "broken")

    scene.disk.during = refuse
    one.listener.changed()
    send(one)
    one.listener.changed()
    scene.tick(INTERVAL_S)
    scene.tick(INTERVAL_S)
    assert [slot.end_offset for slot in scene.slots() if slot] == [1, 1]


def test_a_state_that_was_read_before_another_was_written_does_not_take_its_place(scene: Scene) -> None:
    one = scene.added(0)
    threads: list[threading.Thread] = []

    def change() -> None:
        one.log.append_one(None, b"v", NOW, 0, NOW)
        threads.append(in_a_thread(one.listener.changed))

    scene.disk.during = change
    send(one)
    threads[0].join(LONG)
    assert scene.slot().end_offset == 2


def test_a_slot_that_was_freed_is_not_written_by_an_append_that_came_before(scene: Scene) -> None:
    one = scene.added(0)
    listener = one.listener
    scene.publisher.remove(one)
    other = scene.added(1)
    send(one)
    listener.changed()
    assert scene.slot().seed == other.log.seed
    assert scene.slot().end_offset == 0
