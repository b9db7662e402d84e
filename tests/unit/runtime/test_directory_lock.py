"""Whether a process owns a directory can be queried without disturbing an owner or one that starts."""

from __future__ import annotations

import builtins
import errno
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from streamlog.runtime import directory_lock
from streamlog.runtime.directory_lock import DirectoryLock


def without_locks_to_ask_about(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    if how == "no such call":
        monkeypatch.setattr(directory_lock, "_SETLK", None)
        monkeypatch.setattr(directory_lock, "_GETLK", None)
        return

    def refuse(fd: int, command: int, argument: object = 0) -> Any:
        raise OSError(errno.EINVAL, "not on this file system")

    monkeypatch.setattr(fcntl, "fcntl", refuse)


@pytest.fixture(params=["asked", "no such call", "refused"])
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A lock file's path, on a machine whose locks can be asked about and on two where they cannot."""
    if request.param != "asked":
        without_locks_to_ask_about(monkeypatch, request.param)
    return str(tmp_path / "lock")


def test_a_lock_is_held_while_a_process_holds_it(path: str) -> None:
    looking, holding = DirectoryLock(path), DirectoryLock(path)
    assert looking.holder() is None
    assert not Path(path).exists()
    assert holding.acquire() is None
    assert looking.holder() == os.getpid()
    assert DirectoryLock(path).acquire() == os.getpid()


def test_a_lock_whose_holder_is_dead_is_not_held(path: str) -> None:
    code = (
        f"from streamlog.runtime.directory_lock import DirectoryLock; l = DirectoryLock({path!r}); "
        f"assert l.acquire() is None"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert Path(path).read_text().strip().isdigit()
    assert DirectoryLock(path).holder() is None


@pytest.mark.parametrize("pid", [1, os.getpid()])
def test_a_dead_owner_is_not_alive_because_its_pid_is_anothers_now(tmp_path: Path, pid: int) -> None:
    (tmp_path / "lock").write_text(f"{pid}\n")
    assert DirectoryLock(str(tmp_path / "lock")).holder() is None


def test_the_holder_is_found_among_many_locks_without_reading_the_list_of_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: Any, *args: Any, **options: Any) -> Any:
        raise AssertionError(f"{file} was opened")

    locks = [DirectoryLock(str(tmp_path / str(number))) for number in range(200)]
    assert [lock.acquire() for lock in locks] == [None] * len(locks)
    monkeypatch.setattr(builtins, "open", refuse)
    assert {lock.holder() for lock in locks} == {os.getpid()}
    for lock in locks:
        lock.release()
        assert lock.holder() is None


def test_the_pid_is_in_the_file_before_the_lock_can_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = DirectoryLock(str(tmp_path / "lock"))
    Path(lock.path).write_text("1\n")  # of the owner before
    seen = []
    real = fcntl.fcntl

    def look(fd: int, command: int, argument: Any = 0) -> Any:
        if command == directory_lock._SETLK:
            seen.append((DirectoryLock(lock.path).holder(), Path(lock.path).read_text().strip()))
        return real(fd, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", look)
    assert lock.acquire() is None
    assert seen == [(None, str(os.getpid()))]


def test_without_space_for_the_pid_a_lock_is_held_and_names_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = DirectoryLock(str(tmp_path / "lock"))
    Path(lock.path).write_text("4711\n")

    def full(fd: int, data: bytes, position: int) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "pwrite", full)
    assert lock.acquire() is None
    assert lock.holder() == 0
    assert DirectoryLock(lock.path).acquire() == 0


def test_a_lock_that_was_given_up_is_not_held(path: str) -> None:
    lock = DirectoryLock(path)
    lock.acquire()
    lock.release()
    Path(path).write_text("99999999\n")  # not that of a process
    assert lock.holder() is None
    assert DirectoryLock(path).acquire() is None


@pytest.mark.parametrize("content", ["", "nobody", "0", "99999999999"])
def test_a_lock_file_that_names_no_process_is_not_held(path: str, content: str) -> None:
    Path(path).write_text(content)
    assert DirectoryLock(path).holder() is None


def test_looking_never_refuses_an_owner_that_starts(path: str) -> None:
    looking, starting = DirectoryLock(path), DirectoryLock(path)
    for _ in range(50):
        assert starting.acquire() is None
        assert looking.holder() is not None
        starting.release()


def test_a_forked_child_that_lets_go_leaves_the_lock_to_its_parent(path: str) -> None:
    lock = DirectoryLock(path)
    assert lock.acquire() is None
    child = os.fork()
    if child == 0:
        lock.abandon()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert DirectoryLock(path).holder() == os.getpid()
    assert DirectoryLock(path).acquire() == os.getpid()


def test_a_process_of_another_user_is_taken_for_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, signal: int) -> None:
        raise PermissionError(pid)

    without_locks_to_ask_about(monkeypatch, "no such call")
    monkeypatch.setattr(os, "kill", refuse)
    (tmp_path / "lock").write_text("4711\n")
    assert DirectoryLock(str(tmp_path / "lock")).holder() is not None


def test_another_error_of_the_lock_is_not_taken_for_a_machine_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = DirectoryLock(str(tmp_path / "lock"))
    assert lock.acquire() is None

    def fail(fd: int, command: int, argument: object = 0) -> Any:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "fcntl", fail)
    with pytest.raises(OSError, match="broken"):
        lock.holder()
    with pytest.raises(OSError, match="broken"):
        DirectoryLock(str(tmp_path / "other")).acquire()


def test_a_lock_is_current_while_its_file_is_the_one_at_its_path(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    lock = DirectoryLock(str(directory / "lock"))
    assert not lock.is_current(), "not held"
    assert lock.acquire() is None
    assert lock.is_current()
    shutil.rmtree(directory)
    assert not lock.is_current(), "removed"
    directory.mkdir()
    other = DirectoryLock(lock.path)
    assert other.acquire() is None, "another directory, under the same name"
    assert other.is_current() and not lock.is_current()
    lock.release()
    assert other.is_current() and other.holder() == os.getpid()
