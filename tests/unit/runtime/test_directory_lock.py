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


@pytest.mark.parametrize("pid", [1, os.getpid()], ids=["of init", "of this process"])
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


# The line of those that wait


def locks_in_line(path: str, count: int) -> list[DirectoryLock]:
    waiting = [DirectoryLock(path) for _ in range(count)]
    for lock in waiting:
        assert lock.acquire()
        lock.enqueue()
    return waiting


def test_the_lock_goes_to_those_that_wait_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    owner = DirectoryLock(path)
    assert owner.acquire() is None
    waiting = locks_in_line(path, 5)
    assert [lock.acquire() for lock in waiting] == [os.getpid()] * 5
    assert [lock.is_next for lock in waiting] == [True, False, False, False, False]
    for lock in waiting:
        owner.release()
        assert owner.acquire() == 0, "the owner before comes after those that waited"
        assert [other.acquire() for other in waiting[waiting.index(lock) + 1 :]] == [0] * (4 - waiting.index(lock))
        assert lock.acquire() is None
        owner = lock
    assert owner.is_next
    owner.release()
    assert DirectoryLock(path).acquire() is None


def test_one_that_gives_up_waiting_leaves_its_place(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    owner = DirectoryLock(path)
    assert owner.acquire() is None
    first, second, third = locks_in_line(path, 3)
    second.release()
    owner.release()
    first.release()
    owner.enqueue()
    assert owner.acquire() == 0
    assert third.acquire() is None


def test_the_place_of_a_process_that_dies_is_free_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    owner = DirectoryLock(path)
    assert owner.acquire() is None
    code = (
        f"from streamlog.runtime.directory_lock import DirectoryLock; import sys; l = DirectoryLock({path!r}); "
        f"l.enqueue(); assert l.acquire(); print('waits', flush=True); sys.stdin.read()"
    )
    dying = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert dying.stdout is not None
        assert dying.stdout.readline() == "waits\n"
        [last] = locks_in_line(path, 1)
        assert not last.is_next
    finally:
        dying.kill()
        dying.communicate()
    owner.release()
    assert last.acquire() is None


def test_a_lock_that_the_next_in_line_does_not_take_is_taken_out_of_turn(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    owner = DirectoryLock(path)
    assert owner.acquire() is None
    stopped, waiting = locks_in_line(path, 2)
    assert [waiting.acquire() for _ in range(50)] == [os.getpid()] * 50
    owner.release()
    answers = [waiting.acquire() for _ in range(directory_lock._PATIENCE + 1)]
    assert answers == [0] * directory_lock._PATIENCE + [None]
    assert stopped.acquire() == os.getpid()
    waiting.release()
    assert stopped.acquire() is None


def test_those_that_wait_are_no_owners(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    [waiting] = locks_in_line_of_a_free_lock(path)
    assert DirectoryLock(path).holder() is None
    assert waiting.acquire() is None
    assert DirectoryLock(path).holder() == os.getpid()


def locks_in_line_of_a_free_lock(path: str) -> list[DirectoryLock]:
    waiting = DirectoryLock(path)
    waiting.enqueue()
    waiting.enqueue()  # again: it keeps its place
    return [waiting]


def test_a_forked_child_that_lets_go_leaves_the_place_in_line_to_its_parent(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    [waiting] = locks_in_line_of_a_free_lock(path)
    child = os.fork()
    if child == 0:
        waiting.abandon()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert DirectoryLock(path).acquire() == 0
    assert waiting.acquire() is None


def test_a_place_in_the_line_of_a_file_that_was_removed_is_given_up(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    owner = DirectoryLock(path)
    assert owner.acquire() is None
    [waiting] = locks_in_line(path, 1)
    os.unlink(path)
    assert waiting.acquire() is None
    assert waiting.is_current()


def test_without_locks_to_ask_about_there_is_no_line(path: str) -> None:
    owner, waiting = DirectoryLock(path), DirectoryLock(path)
    assert owner.acquire() is None
    assert waiting.acquire() == os.getpid()
    waiting.enqueue()
    assert waiting.acquire() == os.getpid()
    owner.release()
    assert waiting.acquire() is None


def test_a_foreign_lock_of_all_bytes_is_no_place_in_line(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    waiting = DirectoryLock(path)
    with open(path, "w+b") as foreign:
        assert directory_lock._set(foreign.fileno(), fcntl.F_WRLCK, 0, 0)
        waiting.enqueue()
        assert waiting.acquire() == 0
        assert not waiting.is_next
    assert waiting.acquire() is None


def test_a_foreign_lock_on_the_owners_bytes_is_an_error(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with open(path, "w+b") as foreign:
        assert directory_lock._set(foreign.fileno(), fcntl.F_WRLCK, 0, 1)
        with pytest.raises(BlockingIOError, match="locked the file"):
            DirectoryLock(path).acquire()


def test_a_lock_that_no_process_waits_for_costs_six_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "lock")
    first = DirectoryLock(path)
    assert first.acquire() is None
    first.release()
    calls: list[str] = []

    def count(module: Any, name: str) -> None:
        real = getattr(module, name)

        def call(*args: Any, **options: Any) -> Any:
            calls.append(name)
            return real(*args, **options)

        monkeypatch.setattr(module, name, call)

    for name in ("open", "fstat", "lstat", "stat", "pread", "pwrite", "ftruncate", "close"):
        count(os, name)
    count(fcntl, "flock")
    count(fcntl, "fcntl")
    assert DirectoryLock(path).acquire() is None
    assert calls[:6] == ["open", "fstat", "fcntl", "flock", "pwrite", "fcntl"]
    assert set(calls[6:]) <= {"close"}  # of the lock that is collected here


def test_one_that_waits_keeps_one_descriptor_however_often_it_looks(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    owner = DirectoryLock(path)
    assert owner.acquire() is None
    [waiting] = locks_in_line(path, 1)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(100):
        assert waiting.acquire() == os.getpid()
        waiting.enqueue()
    assert len(os.listdir("/proc/self/fd")) == before
    waiting.release()
    assert len(os.listdir("/proc/self/fd")) == before - 1
