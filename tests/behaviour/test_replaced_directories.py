"""An owner whose directory was removed, renamed or replaced writes nothing there, and says so."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import streamlog
from streamlog import LogDirNotFoundError, StreamLog
from streamlog.testing import ManualClock, SimulatedDisk
from tests.contents import file_contents

RunScript = Callable[..., "subprocess.CompletedProcess[str]"]

# Another process makes a log of its own at the path.
MAKE = """
    import sys, streamlog
    with streamlog.open(sys.argv[1]) as log:
        topic = log.create_topic("theirs")
        topic.send_many([b"%d" % n for n in range(100)]).result()
"""


@pytest.fixture
def replaced(path: Path, run_script: RunScript) -> Callable[[], dict[str, bytes]]:
    """Removes the directory, and has another process make a log there; what is in its files."""

    def replace() -> dict[str, bytes]:
        shutil.rmtree(path.rename(path.parent / "removed"))  # at once: the owner may be writing
        made = run_script(MAKE, path)
        assert made.returncode == 0, made.stderr
        return file_contents(path)

    return replace


def use_much(log: StreamLog) -> None:
    """Leave something to write at close: records in several segments, a group, a producer that lingers."""
    topic = log.create_topic("ours", segment_bytes=1024, cleanup_policy="compact")
    topic.send_many([b"." * 300] * 20, [b"k%d" % (n % 5) for n in range(20)]).result()
    with log.consumer("ours", group="g") as consumer:
        consumer.poll()


@pytest.mark.parametrize("of_threads", [False, True], ids=["stepped", "with threads"])
def test_a_close_leaves_another_log_at_the_path_alone(
    path: Path, clock: ManualClock, replaced: Callable[[], dict[str, bytes]], of_threads: bool
) -> None:
    log = streamlog.open(path) if of_threads else streamlog.open(path, clock=clock)
    use_much(log)
    theirs = replaced()
    with pytest.raises(LogDirNotFoundError, match="removed, renamed or replaced"):
        log.close()
    assert log.closed
    log.close()
    assert file_contents(path) == theirs
    assert streamlog.verify(path).ok
    with streamlog.open(path) as again:
        assert len(list(again["theirs"].read())) == 100


CALLS: dict[str, Callable[[StreamLog], object]] = {
    "create_topic": lambda log: log.create_topic("more"),
    "delete_topic": lambda log: log.delete_topic("ours"),
    "update_config": lambda log: log["ours"].update_config(retention_ms=1),
    "producer": lambda log: log.producer(),
    "consumer": lambda log: log.consumer("ours"),
    "compact": lambda log: log["ours"].compact(),
    "read": lambda log: list(log["ours"].read()),
    "commit": lambda log: log.group("g").reset({("ours", 0): 0}),
    "open": lambda log: streamlog.open(log.path, clock=log._engine.options.clock),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_whatever_is_asked_of_a_handle_on_a_replaced_directory_says_so(
    path: Path, clock: ManualClock, replaced: Callable[[], dict[str, bytes]], name: str
) -> None:
    log = streamlog.open(path, clock=clock)
    use_much(log)
    producer = log.producer()
    theirs = replaced()
    with pytest.raises(LogDirNotFoundError):
        CALLS[name](log)
    with pytest.raises(LogDirNotFoundError):
        producer.send("ours", b"x", key=b"k")
    clock.advance(3600)
    with pytest.raises(LogDirNotFoundError):
        log.close()
    assert file_contents(path) == theirs


def test_a_poll_that_waits_raises_when_the_directory_is_replaced(
    path: Path, clock: ManualClock, replaced: Callable[[], dict[str, bytes]]
) -> None:
    log = streamlog.open(path, clock=clock)
    use_much(log)
    consumer = log.consumer("ours", auto_offset_reset="latest")
    assert consumer.poll(0) == []
    replaced()
    with pytest.raises(LogDirNotFoundError):
        log.create_topic("more")
    with pytest.raises(LogDirNotFoundError):
        consumer.poll(5)
    with pytest.raises(LogDirNotFoundError):
        log.close()


def test_when_the_handles_on_a_removed_directory_are_closed_the_path_is_free(path: Path, clock: ManualClock) -> None:
    ghost = streamlog.open(path, clock=clock)
    ghost.create_topic("t").send(b"ghost")
    shutil.rmtree(path)
    with pytest.raises(LogDirNotFoundError, match="Close every handle"):
        streamlog.open(path, clock=clock)
    assert not path.exists()
    with pytest.raises(LogDirNotFoundError):
        ghost.close()
    with streamlog.open(path, clock=clock) as log:
        assert list(log) == []
        log.create_topic("t").send(b"new")
    assert streamlog.verify(path).ok


@pytest.mark.parametrize("segment", ["many", "one"])
def test_a_renamed_directory_keeps_what_was_acknowledged(path: Path, clock: ManualClock, segment: str) -> None:
    log = streamlog.open(path, clock=clock, segment_bytes=1024 if segment == "many" else 1 << 20)
    topic = log.create_topic("t")
    for n in range(30):
        topic.send(b"%d" % n * 100)
    path.rename(path.parent / "moved")
    with pytest.raises(LogDirNotFoundError):
        log.close()
    assert not path.exists()
    with streamlog.open(path.parent / "moved", clock=clock) as moved:
        assert [record.value for record in moved["t"].read()] == [b"%d" % n * 100 for n in range(30)]
    assert streamlog.verify(path.parent / "moved").ok


def test_without_its_lock_file_a_directory_may_be_anothers(
    path: Path, clock: ManualClock, run_script: RunScript
) -> None:
    log = streamlog.open(path, clock=clock)
    log.create_topic("t").send(b"ours")
    (path / "lock").unlink()
    second = run_script(
        'import sys, streamlog\nwith streamlog.open(sys.argv[1]) as log: log["t"].send(b"theirs")', path
    )
    assert second.returncode == 0, second.stderr
    with pytest.raises(LogDirNotFoundError):
        log.close()
    with streamlog.open(path, clock=clock) as again:
        assert [record.value for record in again["t"].read()] == [b"ours", b"theirs"]
    assert streamlog.verify(path).ok


def test_a_temporary_log_that_was_replaced_is_not_removed() -> None:
    log = streamlog.open()
    log.create_topic("t").send(b"x")
    where = Path(log._engine.path)
    shutil.rmtree(where)
    where.mkdir()
    (where / "theirs").write_text("kept")
    with pytest.raises(LogDirNotFoundError):
        log.close()
    assert [file.name for file in where.iterdir()] == ["theirs"]
    shutil.rmtree(where)


def test_a_disk_in_memory_knows_whose_a_directory_is_too(clock: ManualClock) -> None:
    disk = SimulatedDisk()
    log = streamlog.open("data", disk=disk, clock=clock)
    log.create_topic("t").send(b"x")
    disk.rmtree("/data")
    before = len(disk.operations)
    with pytest.raises(LogDirNotFoundError):
        log.close()
    assert {op.kind for op in disk.operations[before:]} <= {"pwrite", "sync"}, (
        "what was open is written on, and no path"
    )
    assert not disk.exists("/data")
    with streamlog.open("data", disk=disk, clock=clock) as again:
        assert list(again) == []
