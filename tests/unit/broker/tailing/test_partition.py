"""A reader goes on where it was: no offset is called out of range by one who cannot see, or has not looked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamlog.broker.log_directory import LogDirectory
from streamlog.errors import OffsetOutOfRangeError, RequestTimedOutError
from streamlog.runtime.disk import OsDisk
from streamlog.runtime.threads import RawGate, new_lock, real_monotonic, result_of
from streamlog.storage.published import SLOT_BYTES

from .test_service import NAME, Gate, Scene


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path / "data")
    yield made
    made.reader.close()
    made.owner.close()


@pytest.fixture
def while_waiting() -> Iterator[Callable[..., None]]:
    """What happens, one after the other, each time somebody waits for an owner."""

    def have(*steps: Callable[[], object]) -> None:
        left = list(steps)
        Gate.meanwhile = staticmethod(lambda: left.pop(0)())

    before = Gate.meanwhile
    yield have
    Gate.meanwhile = staticmethod(before)


def bounds(scene: Scene) -> tuple[int, int]:
    return result_of(scene.reader.bounds(NAME, "read_committed"))


def test_a_partition_that_is_first_used_while_the_log_is_opened_is_waited_for(
    scene: Scene, while_waiting: Callable[..., None]
) -> None:
    scene.send(b"x", b"y")
    reader = scene.reader = scene.new_reader()
    reader.open()
    scene.owner.close()
    broker = LogDirectory(scene.path, OsDisk(), new_lock, RawGate, real_monotonic)
    broker.open(0.0)
    scene.now += 1
    assert not scene.fetch(2)  # and nobody says that the log, which was not looked at yet, ends before that

    def finish() -> None:
        broker.close(clean=True)
        scene.own()

    while_waiting(finish)
    assert bounds(scene) == (0, 2)
    scene.send(b"z")
    assert scene.fetch(2)


def test_a_partition_without_a_slot_is_waited_for_with_a_bound(
    scene: Scene, while_waiting: Callable[..., None]
) -> None:
    scene.send(b"x", b"y")
    published = Path(scene.path) / "published"
    whole = published.read_bytes()
    assert len(whole) == 3 * SLOT_BYTES
    published.write_bytes(whole[: 2 * SLOT_BYTES])
    assert not scene.fetch(2)
    for ask in (lambda: bounds(scene), scene.reader.metrics):
        while_waiting(lambda: setattr(scene, "now", scene.now + 100))
        with pytest.raises(RequestTimedOutError, match="published") as raised:
            ask()
        assert raised.value.retriable
    while_waiting(lambda: published.write_bytes(whole))
    assert scene.reader.metrics()["topics"]["t"]["0"]["log_end_offset"] == 2
    assert bounds(scene) == (0, 2)


def test_a_partition_whose_slot_was_damaged_after_the_log_was_closed_is_read_out_of_its_files(
    scene: Scene, while_waiting: Callable[..., None]
) -> None:
    while_waiting()  # with no call that waits
    scene.send(b"x", b"y")
    scene.owner.close()
    published = Path(scene.path) / "published"
    published.write_bytes(published.read_bytes()[:-1] + b"?")
    reader = scene.reader = scene.new_reader()
    reader.open()
    assert bounds(scene) == (0, 2)
    scene.own()
    scene.send(b"z")
    scene.now += 1
    assert bounds(scene) == (0, 3)


def test_an_offset_is_looked_for_again_before_it_is_called_out_of_range(scene: Scene) -> None:
    assert not scene.fetch()
    scene.send(b"x", b"y")
    assert not scene.fetch(2)  # the reader's clock stands still: what it saw last is not stale yet
    with pytest.raises(OffsetOutOfRangeError):
        scene.fetch(3)


def test_what_the_next_owner_writes_while_a_log_is_looked_through_is_not_seen_before_its_time(scene: Scene) -> None:
    scene.send(b"x")
    assert scene.fetch()
    scene.owner.abandon()  # as if it was killed
    listdir = scene.disk.listdir

    def owned_meanwhile(path: str) -> list[str]:
        if "/topics/" in path:
            scene.disk.listdir = listdir  # type: ignore[method-assign]
            scene.own(sync=True)
            scene.send(b"y")  # it is not synced
        return listdir(path)

    scene.disk.listdir = owned_meanwhile  # type: ignore[method-assign]
    scene.now += 1
    assert not scene.fetch(1)
    assert scene.owner.durable
    assert bounds(scene) == (0, 1)
    scene.owner._partitions[NAME].commit.sync()
    assert scene.fetch(1)
