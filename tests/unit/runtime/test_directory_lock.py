"""Whether somebody owns a directory can be found out without being in anybody's way."""

from __future__ import annotations

import builtins
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from streamlog.runtime.disk import DirectoryLock


@pytest.fixture
def no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that does not list its locks."""
    real = builtins.open

    def without_list(file: Any, *args: Any, **options: Any) -> Any:
        if file == "/proc/locks":
            raise FileNotFoundError(file)
        return real(file, *args, **options)

    monkeypatch.setattr(builtins, "open", without_list)


@pytest.fixture(params=["the kernel's list", "the pid alone"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A lock file's path, on a machine that lists its locks and on one that does not."""
    if request.param == "the pid alone":
        request.getfixturevalue("no_list")
    return str(tmp_path / "lock")


def test_a_lock_is_held_while_a_process_holds_it(path: str) -> None:
    looking, holding = DirectoryLock(path), DirectoryLock(path)
    assert looking.holder() is None
    assert not Path(path).exists()
    assert holding.acquire() is None
    assert looking.holder() == os.getpid()
    assert DirectoryLock(path).acquire() == os.getpid()


def test_a_lock_whose_holder_is_dead_is_not_held(path: str) -> None:
    code = f"from streamlog.runtime.disk import DirectoryLock; l = DirectoryLock({path!r}); assert l.acquire() is None"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert Path(path).read_text().strip().isdigit()
    assert DirectoryLock(path).holder() is None


def test_who_holds_a_lock_is_not_who_wrote_its_pid_last(tmp_path: Path) -> None:
    lock = DirectoryLock(str(tmp_path / "lock"))
    assert lock.acquire() is None
    Path(lock.path).write_text("1\n")  # the one before was killed, and this one has not written yet
    assert lock.holder() == os.getpid()


@pytest.mark.parametrize(
    ("status", "expected"),
    [("Name:\tpython\nNSpid:\t4711\t7\n", 7), ("Name:\tpython\n", os.getpid()), (None, os.getpid())],
    ids=["in a container", "an old kernel", "hidden"],
)
def test_a_holder_is_told_by_the_pid_that_it_knows_itself_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str | None, expected: int
) -> None:
    lock = DirectoryLock(str(tmp_path / "lock"))
    assert lock.acquire() is None
    real = builtins.open

    def in_proc(file: Any, *args: Any, **options: Any) -> Any:
        if file == f"/proc/{os.getpid()}/status":
            if status is None:
                raise PermissionError(file)
            return io.StringIO(status)
        return real(file, *args, **options)

    monkeypatch.setattr(builtins, "open", in_proc)
    assert lock.holder() == expected


@pytest.mark.parametrize(("others", "held"), [(0, False), (1, False), (100, True)])
def test_a_lock_that_is_not_in_a_list_of_several_pages_may_be_held_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: int, held: bool
) -> None:
    lock = DirectoryLock(str(tmp_path / "lock"))
    assert lock.acquire() is None
    listed = "1: POSIX  ADVISORY  READ  1 08:01:1 0 EOF\n" * others
    real = builtins.open
    monkeypatch.setattr(
        builtins, "open", lambda file, *a, **o: io.StringIO(listed) if file == "/proc/locks" else real(file, *a, **o)
    )
    assert lock.holder() == (os.getpid() if held else None)
    Path(lock.path).write_text("99999999\n")  # not that of a process
    assert lock.holder() is None


def test_a_lock_that_was_given_up_is_not_held_by_the_kernels_list(tmp_path: Path) -> None:
    lock = DirectoryLock(str(tmp_path / "lock"))
    lock.acquire()
    lock.release()
    assert lock.holder() is None


@pytest.mark.parametrize("content", ["", "nobody", "0", "99999999999"])
def test_a_lock_file_that_names_nobody_is_not_held(path: str, content: str) -> None:
    Path(path).write_text(content)
    assert DirectoryLock(path).holder() is None


def test_looking_never_refuses_an_owner_that_starts(path: str) -> None:
    looking, starting = DirectoryLock(path), DirectoryLock(path)
    for _ in range(50):
        assert starting.acquire() is None
        assert looking.holder() is not None
        starting.release()


@pytest.mark.usefixtures("no_list")
def test_a_process_of_another_user_is_taken_for_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, signal: int) -> None:
        raise PermissionError(pid)

    monkeypatch.setattr(os, "kill", refuse)
    (tmp_path / "lock").write_text("4711\n")
    assert DirectoryLock(str(tmp_path / "lock")).holder() is not None
