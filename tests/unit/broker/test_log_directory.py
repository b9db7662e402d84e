"""A directory goes to the processes that wait for it in the order in which they came, and to each within its time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from streamlog.broker.log_directory import LogDirectory
from streamlog.errors import LogLockedError
from streamlog.runtime.threads import new_lock
from streamlog.testing import SimulatedDisk


class Waits:
    """The waits of opens for a lock: each takes as long as it may, and `during` is called in it."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.lengths: list[float] = []
        self.during: Callable[[], object] = lambda: None

    def new_gate(self) -> Waits:
        return self

    def open(self) -> None: ...

    def is_open(self) -> bool:
        return False

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.lengths.append(timeout)
        self.now_s += timeout
        self.during()
        return False

    def directory(self, disk: SimulatedDisk) -> LogDirectory:
        return LogDirectory("/log", disk, new_lock, self.new_gate, lambda: self.now_s)


def close(directory: LogDirectory) -> None:
    directory.close(clean=True)


@pytest.fixture
def disk() -> SimulatedDisk:
    return SimulatedDisk()


def test_an_owner_that_opens_again_comes_after_those_that_wait(disk: SimulatedDisk) -> None:
    owner, waiting = Waits(), Waits()
    first = owner.directory(disk)
    first.open(0.0)
    opened: list[str] = []

    def leave_and_come_back() -> None:
        waiting.during = lambda: None
        close(first)
        again = owner.directory(disk)
        with pytest.raises(LogLockedError):
            again.open(0.0)
        owner.during = lambda: opened.append("owner waits")
        with pytest.raises(LogLockedError):
            again.open(0.01)
        assert opened

    waiting.during = leave_and_come_back
    waiting.directory(disk).open(10.0)
    assert waiting.now_s < 0.1


def test_an_open_waits_no_longer_than_its_time_and_leaves_the_line(disk: SimulatedDisk) -> None:
    first = Waits().directory(disk)
    first.open(0.0)
    waiting = Waits()
    with pytest.raises(LogLockedError) as refusal:
        waiting.directory(disk).open(2.0)
    assert refusal.value.pid
    assert waiting.now_s == pytest.approx(2.0)
    assert max(waiting.lengths) <= 0.02
    assert waiting.lengths[0] <= 0.001, "the next in line looks often at first"
    close(first)
    Waits().directory(disk).open(0.0)


def test_an_interrupted_wait_leaves_the_line(disk: SimulatedDisk) -> None:
    first = Waits().directory(disk)
    first.open(0.0)
    waiting = Waits()

    def interrupt() -> None:
        raise KeyboardInterrupt

    waiting.during = interrupt
    with pytest.raises(KeyboardInterrupt):
        waiting.directory(disk).open(2.0)
    close(first)
    Waits().directory(disk).open(0.0)
