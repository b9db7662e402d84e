"""Whose an OSError is: the disk's if it ends in the frame that made the file call."""

from __future__ import annotations

import errno
import gc
import os
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from streamlog.runtime import disk_errors
from streamlog.runtime.disk import OsDisk
from streamlog.runtime.disk_errors import ends_in, ignored, is_the_disks, require_disk_error
from streamlog.testing import FaultyDisk, SimulatedDisk


@pytest.fixture(autouse=True)
def file_calls_of_the_test_are_the_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not here."""


def raised(call: Callable[[], object]) -> OSError:
    with pytest.raises(OSError) as caught:
        call()
    return caught.value


def alarm() -> None:
    raise TimeoutError(errno.ETIMEDOUT, "an alarm")


def failing_simulated_disk() -> None:
    disk = FaultyDisk(SimulatedDisk())
    disk.makedirs("/d")
    disk.fail("sync_dir", errno.EIO)
    disk.sync_dir("/d")


class OwnDisk(OsDisk):
    def sync_dir(self, path: str) -> None:
        raise OSError(errno.EIO, "of a disk that a program wrote")


@pytest.mark.parametrize(
    "call",
    [
        lambda: OsDisk().open("/nowhere/file"),
        lambda: OsDisk().makedirs("/proc/1/nothing"),  # through os.makedirs
        lambda: OsDisk().rmtree("/nowhere"),  # through shutil
        lambda: SimulatedDisk().listdir("/nowhere"),
        failing_simulated_disk,
        lambda: OwnDisk().sync_dir("/"),
    ],
)
def test_an_error_of_a_file_call_is_the_disks(call: Callable[[], object]) -> None:
    error = raised(call)
    assert is_the_disks(error)
    require_disk_error(error)
    with ignored(OSError):
        call()


@pytest.mark.parametrize(
    "call",
    [
        alarm,
        lambda: os.makedirs("/proc/1/nothing"),
        lambda: OsDisk.exists(OsDisk(), Path("/x").with_name("y") if alarm() else ""),  # type: ignore[func-returns-value]
    ],
)
def test_an_error_of_a_handlers_own_is_not(call: Callable[[], object]) -> None:
    error = raised(call)
    assert not is_the_disks(error)
    assert raised(lambda: require_disk_error(error)) is error

    def block() -> None:
        with ignored(OSError):
            call()

    raised(block)


@pytest.mark.parametrize("handler", [alarm, lambda: os.makedirs("/proc/1/nothing")])
def test_a_handler_in_the_middle_of_a_file_call_is_not_the_disk(
    monkeypatch: pytest.MonkeyPatch, handler: Callable[[], None]
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: handler())
    assert not is_the_disks(raised(lambda: OsDisk().sync_dir("/")))
    monkeypatch.setattr(os, "lstat", lambda _: handler())
    raised(lambda: OsDisk().exists("/"))  # not: "absent"


def test_an_error_that_was_never_raised_does_not_come_from_the_disk() -> None:
    assert not is_the_disks(OSError(errno.EIO, "made"))
    assert not ends_in(OSError(errno.EIO, "made"), "streamlog.")


def test_where_an_error_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ends_in(raised(lambda: OsDisk().open("/nowhere/file")), "streamlog.runtime.")
    assert not ends_in(raised(alarm), "streamlog.runtime.")
    assert "streamlog.runtime.disk" in disk_errors.disk_modules


class Full(OSError):
    """One that can be referred to weakly."""


def test_an_error_that_was_looked_at_goes_with_its_last_reference() -> None:
    """And with it what its frames hold: files that were dropped are closed at once, not when the collector comes by."""

    def fail() -> None:
        try:
            raise Full(errno.ENOSPC, "full")
        except OSError as error:
            disk_errors.is_the_disks(error)
            raise ValueError("typed") from error

    gc.collect()
    gc.disable()
    try:
        seen = []
        try:
            fail()
        except ValueError as error:
            seen.append(weakref.ref(error.__cause__))  # type: ignore[arg-type]
        assert seen[0]() is None
    finally:
        gc.enable()
