"""One process owns a directory: the error of the second names the first, and a dead owner blocks no other."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import streamlog
from tests.times import LONG

from .processes import JournalReader, Zygote

RACERS = 100
_RACER = "tests.stress.lock_racer"


@pytest.fixture
def zygote(tmp_path: Path) -> Iterator[Zygote]:
    """Starts processes; what they print is shown with a failure."""
    errors = tmp_path / "stderr"
    with Zygote(errors, _RACER) as zygote:
        yield zygote
    print(errors.read_text())


@pytest.mark.slow
def test_a_second_process_is_refused_with_the_pid_of_the_first(path: Path, tmp_path: Path, zygote: Zygote) -> None:
    holder = zygote.start(f"{_RACER}:hold", str(path), str(tmp_path / "journal"))
    JournalReader(tmp_path / "journal").wait_for("held", holder, LONG)
    for _ in range(5):
        assert zygote.start(f"{_RACER}:refuse", str(path), holder.pid).wait(LONG) == 0
    assert holder.is_alive()


@pytest.mark.slow
def test_the_lock_of_a_killed_process_is_free_at_once(path: Path, tmp_path: Path, zygote: Zygote) -> None:
    for number in range(5):
        journal = tmp_path / f"journal-{number}"
        holder = zygote.start(f"{_RACER}:hold", str(path), str(journal))
        JournalReader(journal).wait_for("held", holder, LONG)
        holder.kill()
        assert holder.wait(LONG) == -signal.SIGKILL
    assert zygote.start(f"{_RACER}:take", str(path)).wait(LONG) == 0
    with streamlog.open(path) as log:
        assert [record.value for record in log["t"].read()] == [b"x"] * 5 + [b"taken"]


def test_a_forked_child_does_not_keep_the_log_of_its_killed_parent(path: Path, tmp_path: Path, zygote: Zygote) -> None:
    holder = zygote.start(f"{_RACER}:hold_with_heir", str(path), str(tmp_path / "journal"))
    [[_, heir]] = JournalReader(tmp_path / "journal").wait_for("held", holder, LONG)
    try:
        assert zygote.start(f"{_RACER}:refuse", str(path), holder.pid).wait(LONG) == 0
        holder.kill()
        holder.wait(LONG)
        os.kill(int(heir), 0)
        assert zygote.start(f"{_RACER}:take", str(path)).wait(LONG) == 0
    finally:
        os.kill(int(heir), signal.SIGKILL)


@pytest.mark.slow
def test_a_hundred_processes_that_race_for_a_log_own_it_one_at_a_time(
    path: Path, tmp_path: Path, zygote: Zygote
) -> None:
    with open(tmp_path / "start", "w") as start:
        fcntl.flock(start, fcntl.LOCK_EX)
        racers = [
            zygote.start(f"{_RACER}:race", str(path), str(tmp_path), number, start.name) for number in range(RACERS)
        ]
    codes = [racer.wait(LONG) for racer in racers]
    said = [JournalReader(tmp_path / f"racer-{number}").lines() for number in range(RACERS)]
    owners = [int(word) for [[what, word]] in said if what == "owned"]
    refused = [int(pid) for [[what, pid]] in said if what == "refused"]
    assert len(owners) + len(refused) == RACERS
    assert codes == [-signal.SIGKILL if n in owners and n % 5 == 1 else 0 for n in range(RACERS)]
    assert len(owners) >= RACERS * 2 // 3, "who had a minute was refused"
    pids = {racer.pid for racer in racers}
    assert {pid for pid in refused if pid} <= pids
    with streamlog.open(path) as log:
        assert sorted(int(record.value) for record in log["t"].read()) == sorted(owners)
    assert streamlog.verify(path).ok


@pytest.mark.slow
def test_of_twenty_processes_that_open_a_log_again_and_again_none_is_left_behind(
    path: Path, tmp_path: Path, zygote: Zygote
) -> None:
    """They have it in turn, so each is overtaken 19 times; one that gets no time of the machine is overtaken more often."""
    with open(tmp_path / "start", "w") as start:
        fcntl.flock(start, fcntl.LOCK_EX)
        openers = [
            zygote.start(f"{_RACER}:reopen", str(path), str(tmp_path / "journal"), number, start.name)
            for number in range(20)
        ]
    assert [opener.wait(LONG) for opener in openers] == [0] * 20
    owners = 0
    asked_at: dict[str, int] = {}
    overtaken: list[int] = []
    for what, number in JournalReader(tmp_path / "journal").lines():
        if what == "asks":
            asked_at[number] = owners
        else:
            overtaken.append(owners - asked_at[number])
            owners += 1
    assert owners == 20 * 5
    assert max(overtaken) <= 3 * 20, overtaken
