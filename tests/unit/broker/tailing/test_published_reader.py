"""A reader of `published`: what is torn is read again, what is stale is not used, and the owner is not disturbed."""

from __future__ import annotations

import errno
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamlog.broker.tailing.published_reader import PublishedReader, Situation
from streamlog.errors import FormatError, StorageError
from streamlog.runtime.disk import OsDisk
from streamlog.storage.published import (
    CLOSED,
    EMPTY,
    OPEN,
    OPENING,
    SLOT_BYTES,
    Header,
    Slot,
    pack_header,
    pack_slot,
)

SLOT = Slot(11, 3, 1, 500, 480, 470, 20, 400, 9_000)
OTHER = SLOT._replace(seed=12)
PID = 99
ALONE, AT_WORK, BACK_SOON = Situation.ALONE, Situation.PUBLISHED, Situation.OPENING


class Lock:
    """A lock file that others hold or do not."""

    def __init__(self) -> None:
        self.held = True
        self.pid = PID
        self.error: OSError | None = None
        self.asked = 0

    def holder(self) -> int | None:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.pid if self.held else None


class ReaderDisk(OsDisk):
    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self.error: OSError | None = None

    def lock(self, path: str) -> Any:
        return self._lock

    def boot_id(self) -> str:
        return "this boot"

    def open(self, path: str, **options: Any) -> Any:  # type: ignore[override]
        assert options == {"writable": False}
        if self.error is not None:
            raise self.error
        return super().open(path, **options)


class Scene:
    """A broker directory, and a reader that looks at it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = Lock()
        self.disk = ReaderDisk(self.lock)
        self.now = 50.0
        self.owned(1)
        self.watcher = PublishedReader(self.disk, str(path), lambda: self.now)

    def owned(self, incarnation: int, *, clean: bool = False, boot: str = "this boot") -> None:
        about = {
            "format": 2,
            "min_reader": 2,
            "features": [],
            "incarnation": incarnation,
            "cluster_id": "c",
            "broker_id": 0,
            "directory_id": "",
            "boot_id": boot,
            "clean": clean,
        }
        (self.path / "streamlog.json").write_text(json.dumps(about))

    def write(self, *slots: Slot | bytes, incarnation: int = 1, state: int = OPEN) -> None:
        data = [pack_slot(slot) if isinstance(slot, Slot) else slot for slot in slots]
        (self.path / "published").write_bytes(pack_header(Header(incarnation, state, PID)) + b"".join(data))

    def look(self, seconds: float = 0.0) -> Any:
        self.now += seconds
        return self.watcher.look()

    def situation(self, seconds: float = 1.0) -> Situation:
        """After a while without news, so that the owner is asked for."""
        self.look(seconds)
        return self.watcher.situation


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_first_look_finds_every_partition(scene: Scene) -> None:
    scene.write(SLOT, EMPTY, OTHER)
    assert scene.look() is None
    assert scene.watcher.situation is AT_WORK
    assert scene.watcher.slots == {11: SLOT, 12: OTHER}
    assert scene.watcher.incarnation == 1


def test_a_look_tells_whose_slots_changed(scene: Scene) -> None:
    scene.write(SLOT, OTHER)
    scene.look()
    assert scene.look() == frozenset()
    moved = SLOT._replace(end_offset=501, end_position=9_100)
    scene.write(moved, OTHER)
    assert scene.look() == {11}
    assert scene.watcher.slots[11] == moved
    scene.write(moved, EMPTY, OTHER)
    assert scene.look() == {12}
    assert scene.watcher.slots == {11: moved, 12: OTHER}
    scene.write(moved)
    assert scene.look() == {12}
    assert scene.watcher.slots == {11: moved}


def test_a_torn_slot_keeps_the_last_one_and_is_read_again(scene: Scene) -> None:
    scene.write(SLOT, OTHER)
    scene.look()
    moved = SLOT._replace(end_offset=501, end_position=9_100)
    scene.write(pack_slot(moved)[:30] + pack_slot(SLOT)[30:], OTHER)
    scene.look()
    assert scene.watcher.slots == {11: SLOT, 12: OTHER}
    scene.write(moved, OTHER)
    assert scene.look() == {11}
    assert scene.watcher.slots == {11: moved, 12: OTHER}


def test_a_slot_that_was_torn_at_the_first_look_is_found_later(scene: Scene) -> None:
    scene.write(b"x" * SLOT_BYTES)
    scene.look()
    assert scene.watcher.slots == {}
    scene.write(SLOT)
    assert scene.look() == {11}


def test_a_place_that_became_another_partitions_is_both_their_news(scene: Scene) -> None:
    scene.write(SLOT)
    scene.look()
    scene.write(OTHER)
    assert scene.look() == {11, 12}
    assert scene.watcher.slots == {12: OTHER}


def test_a_slot_is_found_where_it_is_now(scene: Scene) -> None:
    scene.write(SLOT, OTHER)
    scene.look()
    scene.write(EMPTY, OTHER, EMPTY, SLOT._replace(generation=4))
    found = scene.watcher.slot(11)
    assert found is not None
    assert found.generation == 4
    assert scene.watcher.slot(13) is None
    scene.write(pack_slot(SLOT)[:60] + b"torn")
    assert scene.watcher.slot(11) is None
    scene.write(SLOT, incarnation=2)
    assert scene.watcher.slot(11) is None


def test_many_partitions_are_read_whole(scene: Scene) -> None:
    many = [SLOT._replace(seed=n) for n in range(1, 1000)]
    scene.write(*many)
    scene.look()
    assert scene.watcher.slots == {slot.seed: slot for slot in many}


@pytest.mark.parametrize(
    ("held", "state", "incarnation", "clean", "expected"),
    [
        (True, OPEN, 1, False, AT_WORK),
        (True, OPENING, 1, False, BACK_SOON),
        (True, CLOSED, 1, False, AT_WORK),  # about to give up the lock
        (True, OPEN, 0, False, BACK_SOON),  # the one before was killed, and the new one has not written yet
        (True, CLOSED, 0, False, BACK_SOON),
        (False, CLOSED, 1, True, AT_WORK),
        (False, CLOSED, 1, False, ALONE),  # killed between its last word and the owner file
        (False, CLOSED, 0, True, ALONE),  # a copy of the file from another time
        (False, OPEN, 1, False, ALONE),
        (False, OPENING, 1, False, ALONE),
    ],
)
def test_the_situation_of_a_directory(
    scene: Scene, held: bool, state: int, incarnation: int, clean: bool, expected: Situation
) -> None:
    scene.owned(1, clean=clean)
    scene.lock.held = held
    scene.write(SLOT, incarnation=incarnation, state=state)
    assert scene.situation() is expected


@pytest.mark.parametrize("held", [True, False])
def test_without_the_file_the_owner_decides(scene: Scene, held: bool) -> None:
    scene.lock.held = held
    assert scene.situation() is (BACK_SOON if held else ALONE)
    assert scene.watcher.slot(11) is None
    scene.write(SLOT)
    scene.lock.held = True
    assert scene.situation(0.0) is AT_WORK


def test_a_file_that_is_garbage_for_long_is_none(scene: Scene) -> None:
    scene.write(SLOT)
    scene.look()
    (scene.path / "published").write_bytes(b"?" * 300)
    assert scene.look(0.01) == frozenset()
    assert scene.watcher.situation is AT_WORK
    scene.lock.held = False
    assert scene.situation() is ALONE
    assert scene.watcher.slots == {}


def test_a_silent_owner_is_asked_for_now_and_then_only(scene: Scene) -> None:
    scene.write(SLOT)
    scene.look()
    asked = scene.lock.asked
    for _ in range(200):
        scene.look(0.005)
    assert 3 <= scene.lock.asked - asked <= 5
    asked = scene.lock.asked
    for n in range(200):
        scene.write(SLOT._replace(end_offset=500 + n))
        scene.look(0.005)
    assert scene.lock.asked == asked


def test_an_owner_that_is_killed_is_noticed_and_so_is_the_next(scene: Scene) -> None:
    scene.write(SLOT)
    scene.look()
    stages = [scene.watcher.stage]

    def next_is(expected: Situation, seconds: float) -> None:
        assert scene.look(seconds) is None
        assert scene.watcher.situation is expected
        assert scene.watcher.stage not in stages
        stages.append(scene.watcher.stage)

    scene.lock.held = False
    next_is(ALONE, 0.4)
    assert scene.watcher.trusted(11) == SLOT
    scene.owned(2)
    scene.lock.held = True
    scene.write(incarnation=2, state=OPENING)
    next_is(BACK_SOON, 0.0)
    assert scene.watcher.slots == {}
    scene.write(SLOT, incarnation=2)
    next_is(AT_WORK, 0.0)
    scene.owned(3)
    scene.write(SLOT, incarnation=3)  # closed and opened again between two looks
    next_is(AT_WORK, 0.0)


def test_the_slots_of_one_that_was_killed_are_not_those_of_the_process_that_has_only_just_taken_the_lock(
    scene: Scene,
) -> None:
    scene.write(SLOT)
    scene.lock.pid = PID + 1
    assert scene.situation() is BACK_SOON
    scene.owned(2)
    assert scene.situation() is BACK_SOON
    scene.lock.held = False  # it was killed too, before it wrote anything
    assert scene.situation() is ALONE


def test_a_holder_that_had_no_room_for_its_pid_is_taken_for_the_one_whose_slots_are_there(scene: Scene) -> None:
    scene.write(SLOT)
    scene.lock.pid = 0
    assert scene.situation() is AT_WORK
    scene.owned(2)  # the next one has written the owner file, and no slots yet
    assert scene.situation() is BACK_SOON


def test_a_directory_is_between_two_owners_until_the_next_one_says_something(scene: Scene) -> None:
    assert not scene.watcher.is_between()
    scene.write(SLOT)
    scene.look()
    assert not scene.watcher.is_between()
    scene.owned(2)
    assert scene.situation() is BACK_SOON
    assert scene.watcher.is_between()
    scene.write(SLOT, incarnation=2)
    assert not scene.watcher.is_between()


def test_whether_somebody_opened_the_directory_since_is_in_the_owner_file(scene: Scene) -> None:
    scene.write(SLOT)
    scene.lock.held = False
    assert scene.situation() is ALONE
    owner = scene.watcher.owner
    assert scene.watcher.is_last(owner)
    scene.owned(2)
    assert not scene.watcher.is_last(owner)
    assert scene.watcher.owner is owner


def test_an_owner_whose_lock_is_free_is_gone(scene: Scene) -> None:
    scene.write(SLOT)
    read = scene.disk.read

    def killed_meanwhile(path: str, *limit: int) -> bytes:
        data = read(path, *limit)
        scene.lock.held = False
        return data

    scene.disk.read = killed_meanwhile  # type: ignore[method-assign]
    assert scene.situation() is ALONE  # for the lock is looked at after the owner file, never before


def test_a_new_file_under_the_old_name_is_found_when_no_owner_writes_the_old_one(scene: Scene) -> None:
    scene.write(SLOT)
    scene.lock.held = False
    assert scene.situation() is ALONE
    (scene.path / "published").unlink()
    scene.lock.held = True
    scene.write(OTHER)
    assert scene.situation(0.3) is AT_WORK
    assert scene.watcher.slots == {12: OTHER}


@pytest.mark.parametrize(("incarnation", "boot"), [(2, "this boot"), (1, "another")])
def test_slots_of_another_time_are_not_relied_on(scene: Scene, incarnation: int, boot: str) -> None:
    scene.write(SLOT)
    scene.owned(incarnation, boot=boot)
    scene.lock.held = False
    assert scene.situation() is ALONE
    assert scene.watcher.trusted(11) is None


def test_a_lock_that_may_not_be_looked_at_is_taken_for_held(scene: Scene) -> None:
    scene.write(SLOT)
    scene.lock.error = PermissionError(errno.EACCES, "no")
    assert scene.situation() is AT_WORK


def test_an_owner_file_that_is_being_written_is_read_again(scene: Scene) -> None:
    scene.write(SLOT)
    whole = (scene.path / "streamlog.json").read_bytes()
    (scene.path / "streamlog.json").write_bytes(whole[:20])
    exists: Callable[[str], bool] = scene.disk.exists
    looks: list[str] = []

    def written_meanwhile(path: str) -> bool:
        looks.append(path)
        if len(looks) == 2:
            (scene.path / "streamlog.json").write_bytes(whole)
        return exists(path)

    scene.disk.exists = written_meanwhile  # type: ignore[method-assign]
    assert scene.situation() is AT_WORK
    (scene.path / "streamlog.json").write_bytes(whole[:20])
    with pytest.raises(FormatError):
        scene.look(1.0)


def test_a_directory_that_is_no_log_is_an_error_and_one_that_is_removed_is_left_as_it_was(scene: Scene) -> None:
    scene.write(SLOT)
    scene.look()
    (scene.path / "streamlog.json").unlink()
    scene.lock.held = False
    scene.look(1.0)
    assert scene.watcher.slots == {11: SLOT}
    with pytest.raises(FormatError, match="no log in"):
        PublishedReader(scene.disk, str(scene.path), lambda: 0.0).look()


def test_a_file_that_cannot_be_read_is_a_typed_error(scene: Scene) -> None:
    scene.disk.error = PermissionError(errno.EACCES, "no")
    with pytest.raises(StorageError):
        scene.look()


def test_after_it_was_closed_it_holds_no_file(scene: Scene) -> None:
    scene.write(SLOT)
    scene.look()
    scene.watcher.close()
    assert scene.watcher._file is None


def test_after_any_change_of_many_slots_the_reader_has_those_that_are_there(scene: Scene, rng: random.Random) -> None:
    there: list[Slot | bytes] = [SLOT._replace(seed=1 << 40 | n) for n in range(200)]
    scene.write(*there)
    scene.look()

    def known() -> dict[int, Slot]:
        return {slot.seed: slot for slot in there if isinstance(slot, Slot)}

    for _ in range(150):
        before = known()
        for _ in range(rng.randrange(4)):
            at = rng.randrange(len(there))
            old = there[at]
            change = rng.choice(["append", "append", "free", "take", "move", "shrink", "grow"])
            if change == "append" and isinstance(old, Slot):
                there[at] = old._replace(end_offset=old.end_offset + 1)
            elif change == "free":
                there[at] = EMPTY
            elif change == "take" and not isinstance(old, Slot):
                there[at] = SLOT._replace(seed=rng.randrange(1 << 41, 1 << 42))
            elif change == "move" and isinstance(old, Slot) and EMPTY in there:
                there[there.index(EMPTY)], there[at] = old, EMPTY
            elif change == "shrink" and len(there) > 100:
                del there[-rng.randrange(1, 20) :]
            elif change == "grow" and len(there) < 300:
                there += [SLOT._replace(seed=rng.randrange(1 << 41, 1 << 42)) for _ in range(rng.randrange(1, 70))]
        scene.write(*there)
        changed = scene.look(0.01)
        after = known()
        assert scene.watcher.slots == after
        assert changed >= {seed for seed in before.keys() | after.keys() if before.get(seed) != after.get(seed)}
        for seed in rng.sample(sorted(after), 3):
            assert scene.watcher.slot(seed) == after[seed]
        assert scene.watcher.slot(7) is None
