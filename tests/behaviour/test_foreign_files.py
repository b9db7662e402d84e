"""Planted files, other people, other formats: what is not ours in a directory is neither read nor written."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import StreamLog
from tests.contents import file_contents, fill_with_everything

OpenLog = Callable[..., StreamLog]


def test_files_are_for_the_owner_alone(log: StreamLog, path: Path) -> None:
    before = os.umask(0)
    try:
        fill_with_everything(log)
        log["plain"].apply_retention()
        log.close()
    finally:
        os.umask(before)
    modes = {item: stat.S_IMODE(item.stat().st_mode) for item in [path, *path.rglob("*")]}
    assert {item: oct(mode) for item, mode in modes.items() if item.is_dir() and mode != 0o700} == {}
    assert {item: oct(mode) for item, mode in modes.items() if item.is_file() and mode != 0o600} == {}


def planted_places(path: Path) -> list[Path]:
    (first, *_) = sorted((path / "topics").rglob("*.log"))
    return [path / "streamlog.json", path / "lock", first, first.parent / "partition.state"]


def use(log: StreamLog) -> None:
    for topic in log.topics():
        for _ in topic.read():
            pass
        topic.send(b"one more", partition=0)


@pytest.mark.damaged
@pytest.mark.parametrize("place", [0, 1, 2, 3], ids=["streamlog.json", "lock", "segment", "partition.state"])
@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory"])
def test_planted_file_is_refused(log: StreamLog, open_log: OpenLog, path: Path, kind: str, place: int) -> None:
    fill_with_everything(log)
    log.close()
    victim = planted_places(path)[place]
    listener = path.parent / "outside"
    victim.rename(listener)
    if kind == "symlink":
        victim.symlink_to(listener)
    elif kind == "fifo":
        os.mkfifo(victim)
    else:
        victim.mkdir()
    before = listener.read_bytes()
    with pytest.raises(streamlog.StreamlogError, match=victim.name):
        use(open_log())
    assert listener.read_bytes() == before


@pytest.mark.damaged
def test_planted_partition_directory_is_refused(log: StreamLog, open_log: OpenLog, path: Path) -> None:
    fill_with_everything(log)
    log.close()
    victim = planted_places(path)[2].parent
    listener = path.parent / "outside"
    victim.rename(listener)
    victim.symlink_to(listener, target_is_directory=True)
    before = file_contents(listener)
    with pytest.raises(streamlog.StreamlogError, match=victim.name):
        use(open_log())
    assert file_contents(listener) == before


@pytest.mark.damaged
def test_link_planted_where_the_next_segment_goes_is_never_written_through(log: StreamLog, path: Path) -> None:
    topic = log.create_topic("t", segment_bytes=1024)
    topic.send(b"first")
    listener = path.parent / "outside"
    listener.write_bytes(b"somebody else's")
    (partition,) = {segment.parent for segment in (path / "topics").rglob("*.log")}
    for offset in range(1, 40):
        (partition / f"{offset:020d}.log").symlink_to(listener)
    with contextlib.suppress(streamlog.StreamlogError):
        for _ in range(30):
            topic.send(b"x" * 100)
    assert listener.read_bytes() == b"somebody else's"


def rewrite_owner_file(path: Path, **changes: Any) -> None:
    owner = path / "streamlog.json"
    owner.write_text(json.dumps({**json.loads(owner.read_text()), **changes}))


@pytest.mark.damaged
def test_newer_format_is_refused(log: StreamLog, open_log: OpenLog, path: Path) -> None:
    fill_with_everything(log)
    log.close()
    rewrite_owner_file(path, format=999, min_reader=999)
    before = file_contents(path)
    with pytest.raises(streamlog.FormatError, match="999"):
        open_log()
    assert file_contents(path) == before


@pytest.mark.damaged
@pytest.mark.parametrize("number", [1, 0, -1])
def test_a_log_of_an_older_format_is_refused_by_everything_that_opens_one(
    log: StreamLog, open_log: OpenLog, path: Path, tmp_path: Path, number: int
) -> None:
    fill_with_everything(log)
    log.close()
    rewrite_owner_file(path, format=number, min_reader=number)
    before = file_contents(path)
    calls: list[Callable[[], object]] = [
        open_log, lambda: open_log(read_only=True), lambda: streamlog.verify(path),
        lambda: streamlog.repair(path, tmp_path / "copy"),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(streamlog.FormatError, match=f"format {number}, .* reads format 2 only"):
            call()
    assert file_contents(path) == before
    assert not (tmp_path / "copy").exists()


@pytest.mark.damaged
@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": "new"}', "\x00" * 100], ids=ascii)
def test_owner_file_that_makes_no_sense_is_refused(
    log: StreamLog, open_log: OpenLog, path: Path, text: str, authoritative: Callable[[], dict[str, bytes]]
) -> None:
    fill_with_everything(log)
    log.close()
    (path / "streamlog.json").write_text(text)
    before = authoritative()
    with pytest.raises(streamlog.StreamlogError, match=r"streamlog\.json"):
        open_log()
    assert authoritative() == before
