"""Files are closed when their last user is done, not when the garbage collector comes by: an open file that retention or
compaction removed keeps its disk space, and one of a closed log keeps its file system from being unmounted."""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import streamlog
from streamlog import StreamLog, StreamlogError
from streamlog.testing import FaultyDisk

from .held_files import held_files
from .owner_process import Child, Owner


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What only the cyclic garbage collector frees stays."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def deleted(path: Path) -> list[str]:
    return [name for name in held_files(path) if name.endswith("(deleted)")]


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
    assert held_files(path) == []


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


FAULTS = [
    ("pwrite", "*/topics/*.log", lambda log: log["t"].send(b"x")),
    ("pwrite", "*/topics/*.log", lambda log: log["t"].send(b"x", b"k", headers={"h": b"1"})),
    ("pwrite", "*/topics/*.log", lambda log: log["t"].send_many([b"x"] * 100)),
    ("create", "*/topics/*.log", lambda log: log["t"].send(b"x" * 5000)),
    ("sync", "*/topics/*.log", StreamLog.sync),
    ("pread", "*/topics/*.log", lambda log: list(log["t"].read())),
    ("map_read", "*/topics/*.log", lambda log: list(log["t"].read())),
    ("pwrite", "*partition.state", lambda log: log["t"].apply_retention()),
    ("create", "*.cleaned", lambda log: log["c"].compact()),
    ("pwrite", "*.cleaned", lambda log: log["c"].compact()),
    ("rename", "*", lambda log: log["c"].compact()),
    ("sync", "*/__cluster_metadata-0/*.log", lambda log: log.create_topic("new")),
    ("pwrite", "*/__cluster_metadata-0/*.log", lambda log: log["t"].update_config(retention_ms=1)),
    ("sync_dir", "*/topics/*", lambda log: log["t"].add_partitions(2)),
]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("at", range(len(FAULTS)))
@pytest.mark.damaged
@pytest.mark.usefixtures("no_collector")
def test_a_log_that_met_an_error_of_the_disk_closes_every_file(
    open_log: Callable[..., StreamLog], path: Path, at: int, error: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "streamlog")  # pytest keeps what is logged, errors with their frames too
    op, file, call = FAULTS[at]
    disk = FaultyDisk()
    log = open_log(disk=disk)
    for name, config in (("t", {"retention_bytes": 5000}), ("c", {"cleanup_policy": "compact"})):
        topic = log.create_topic(name, segment_bytes=4096, **config)
        for n in range(30):
            topic.send(b"x" * 500, b"%d" % (n % 3))
    fault = disk.fail(op, error, path=file)
    with contextlib.suppress(StreamlogError):
        call(log)
    assert fault.fired
    with contextlib.suppress(StreamlogError):
        log.close()
    assert held_files(path) == []
