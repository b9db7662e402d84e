"""Files that retention or compaction removed are closed when their last reader is done, not when the garbage collector
comes by: an open file keeps its disk space."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import streamlog
from streamlog import StreamLog

from .beside import Child, Owner


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What only the cyclic garbage collector frees stays."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def open_files(path: Path) -> list[str]:
    """The files below `path` that this process holds, by a descriptor or a mapping."""
    held = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            held.append(os.readlink(entry))
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    held += [line.split(maxsplit=5)[5].strip() for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line]
    return [name for name in held if name.startswith(str(path))]


def deleted(path: Path) -> list[str]:
    return [name for name in open_files(path) if name.endswith("(deleted)")]


@pytest.mark.parametrize("config", ["retention_bytes=20_000", "cleanup_policy='compact'"])
@pytest.mark.usefixtures("no_collector")
def test_a_reader_of_another_process_closes_what_the_owner_removed(child: Child, path: Path, config: str) -> None:
    owner = Owner(child, path)
    owner(f"t = log.create_topic('t', segment_bytes=4096, {config})")
    remove = "t.compact()" if "compact" in config else "t.apply_retention()"
    log = streamlog.open(path, read_only=True)
    with log.consumer("t") as consumer:
        for _ in range(20):
            owner(f"t.send_many([b'x' * 100] * 100, [b'%d' % n for n in range(100)]); {remove}")
            assert consumer.poll(60, 100_000)
            while consumer.poll(0, 100_000):
                continue
        # The segment that it read last may be one that was removed since.
        assert len(deleted(path)) <= 2
    del consumer
    log.close()
    assert open_files(path) == []


@pytest.mark.usefixtures("no_collector")
def test_an_owner_closes_what_it_removed(open_log: Callable[..., StreamLog], path: Path) -> None:
    log = open_log()
    topic = log.create_topic("t", segment_bytes=4096, retention_bytes=20_000)
    with log.consumer("t") as consumer:
        for _ in range(20):
            topic.send_many([b"x" * 100] * 100)
            topic.apply_retention()
            while consumer.poll(0, 100_000):
                continue
        assert len(deleted(path)) <= 2
    log.close()
    assert deleted(path) == []
