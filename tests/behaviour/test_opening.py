"""Where a log may be, who owns it, and how it is closed."""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import StreamLog
from streamlog.testing import SimulatedDisk
from tests.contents import file_contents

from .gated_disk import LONG, GatedDisk

Child = Callable[..., "subprocess.Popen[str]"]
OpenLog = Callable[..., StreamLog]


# Where a log may be


def test_log_without_a_path_is_temporary() -> None:
    with streamlog.open() as log:
        log.create_topic("t").send(b"x")
        assert [record.value for record in log["t"].read()] == [b"x"]
        path = log.path
    assert path is None or not os.path.exists(path)


def test_two_temporary_logs_share_nothing() -> None:
    with streamlog.open() as one, streamlog.open() as other:
        one.create_topic("t")
        assert "t" not in other


@pytest.mark.parametrize("path", [None, ""])
def test_path_that_is_nothing_is_refused(path: Any) -> None:
    with pytest.raises(streamlog.ConfigError):
        streamlog.open(path)


@pytest.mark.parametrize("kind", [str, Path])
def test_absent_directory_is_created(tmp_path: Path, kind: type) -> None:
    with streamlog.open(kind(tmp_path / "new")) as log:
        assert (tmp_path / "new").is_dir()
        assert log.path is not None
        assert os.path.samefile(log.path, tmp_path / "new")


def test_empty_directory_becomes_a_log(open_log: OpenLog, path: Path) -> None:
    path.mkdir()
    open_log().create_topic("t")


def test_directory_that_is_no_log_is_refused_and_left_alone(path: Path) -> None:
    path.mkdir()
    (path / "thesis.txt").write_text("ten years of work")
    before = file_contents(path)
    with pytest.raises(streamlog.StreamlogError, match=str(path)):
        streamlog.open(path)
    assert file_contents(path) == before


def test_file_is_refused_and_left_alone(path: Path) -> None:
    path.write_text("ten years of work")
    with pytest.raises(streamlog.StreamlogError, match=str(path)):
        streamlog.open(path)
    assert path.read_text() == "ten years of work"


def test_defaults_may_be_spelled_out(path: Path) -> None:
    with streamlog.open(path, read_only=False, sync=False, brokers=None) as log:
        log.create_topic("t", replication_factor=1)


def test_unknown_option_is_answered_with_the_name_that_was_meant(path: Path) -> None:
    with pytest.raises(streamlog.ConfigError, match="auto_create_topics"):
        streamlog.open(path, **{"auto.create.topics.enable": True})  # type: ignore[arg-type]
    with pytest.raises(streamlog.ConfigError, match="partitions"):
        streamlog.open(path, partition=3)
    assert not path.exists()


# The interpreter's lock


@pytest.fixture
def free_threaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a free-threaded build of Python, from 3.13 on, that runs without its lock."""
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)


@pytest.mark.usefixtures("free_threaded")
@pytest.mark.parametrize("options", [{}, {"read_only": True}, {"brokers": 3}])
def test_python_without_its_lock_is_refused_and_nothing_is_made(path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(streamlog.ConfigError, match=r"PYTHON_GIL=1.*-X gil=1") as raised:
        streamlog.open(path, **options)
    assert raised.value.name == "PYTHON_GIL"
    assert not path.exists()


@pytest.mark.usefixtures("free_threaded")
def test_temporary_log_needs_the_interpreters_lock_too() -> None:
    with pytest.raises(streamlog.ConfigError, match="PYTHON_GIL=1"):
        streamlog.open()


def test_free_threaded_python_that_runs_with_its_lock_opens_a_log(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: True, raising=False)
    with streamlog.open(path) as log:
        log.create_topic("t")


def test_python_that_does_not_say_whether_it_has_its_lock_opens_a_log(
    monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    monkeypatch.delattr(sys, "_is_gil_enabled", raising=False)
    with streamlog.open(path) as log:
        log.create_topic("t")


def test_log_is_verified_and_repaired_without_the_interpreters_lock(
    log: StreamLog, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.create_topic("t").send(b"x")
    log.close()
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    assert streamlog.verify(path).ok
    assert streamlog.repair(path, tmp_path / "copy").records == 1


# One directory, one owner


def test_second_open_in_one_process_is_the_same_log_with_a_handle_of_its_own(
    log: StreamLog, open_log: OpenLog, path: Path
) -> None:
    again = open_log()
    assert again is not log
    log.create_topic("t").send(b"x")
    assert [record.value for record in again["t"].read()] == [b"x"]
    log.close()
    assert log.closed
    assert not again.closed
    again["t"].send(b"y")
    assert [record.value for record in again["t"].read()] == [b"x", b"y"]
    with pytest.raises(streamlog.ClosedError):
        log["t"]


def test_other_spelling_of_the_path_is_the_same_log(
    log: StreamLog, open_log: OpenLog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.create_topic("t")
    monkeypatch.chdir(path.parent)
    (path.parent / "link").symlink_to(path)
    for spelling in (Path("data"), path.parent / "." / "data", Path("../") / path.parent.name / "data", Path("link")):
        assert "t" in open_log(spelling)


@pytest.mark.parametrize("option", [{"auto_create_topics": True}, {"partitions": 5}, {"clock": None}], ids=str)
def test_second_open_with_other_options_is_refused(log: StreamLog, open_log: OpenLog, option: dict[str, Any]) -> None:
    with pytest.raises(streamlog.ConfigError):
        open_log(**option)
    log.create_topic("t")


def test_files_close_with_the_last_handle(log: StreamLog, open_log: OpenLog, path: Path, child: Child) -> None:
    again = open_log()
    code = """
        import sys, streamlog
        try:
            streamlog.open(sys.argv[1]).close()
            print("opened")
        except streamlog.LogLockedError:
            print("locked")
    """
    log.close()
    assert child(code, path).communicate()[0].strip() == "locked"
    again.close()
    assert child(code, path).communicate()[0].strip() == "opened"


OWNER = """
    import sys, streamlog
    with streamlog.open(sys.argv[1]) as log:
        log.create_topic("t", exist_ok=True)
        print("ready", flush=True)
        sys.stdin.read()
"""


def test_second_process_is_refused_with_the_owners_pid(path: Path, child: Child, open_log: OpenLog) -> None:
    owner = child(OWNER, path)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "ready\n"
    for options in ({}, {"lock_timeout": 0.05}):
        with pytest.raises(streamlog.LogLockedError, match=str(owner.pid)) as refusal:
            open_log(**options)
        assert refusal.value.pid == owner.pid
        for way in ("read_only=True", "`streamlog serve`", "streamlog.kafka.Listener", "lock_timeout="):
            assert way in str(refusal.value)
    owner.communicate("")
    assert owner.returncode == 0
    assert list(open_log()) == ["t"]


def test_lock_timeout_waits_for_the_owner_to_leave(path: Path, child: Child, open_log: OpenLog) -> None:
    owner = child(OWNER, path)
    assert owner.stdout is not None
    assert owner.stdin is not None
    assert owner.stdout.readline() == "ready\n"
    owner.stdin.close()
    assert list(open_log(lock_timeout=30.0)) == ["t"]
    owner.stdin = None


def test_directory_of_a_killed_owner_is_free(path: Path, child: Child, open_log: OpenLog) -> None:
    owner = child(OWNER, path)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "ready\n"
    owner.kill()
    owner.wait()
    assert list(open_log()) == ["t"]


# Closing


def test_close_twice_is_close_once(log: StreamLog) -> None:
    producer = log.producer()
    assert not producer.closed
    producer.close()
    producer.close()
    assert producer.closed
    assert not log.closed
    log.close()
    log.close()
    assert log.closed


def test_closed_log_says_so_whatever_it_is_asked(log: StreamLog) -> None:
    topic = log.create_topic("t")
    producer = log.producer()
    log.close()
    uses: list[Callable[[], object]] = [
        lambda: log.create_topic("u"),
        lambda: log.topic("t"),
        lambda: log["t"],
        lambda: "t" in log,
        lambda: list(log),
        log.topics,
        lambda: log.delete_topic("t"),
        log.producer,
        lambda: log.consumer("t"),
        lambda: topic.send(b"x"),
        lambda: topic.send_many([b"x"]),
        topic.read,
        topic.read_batches,
        topic.compact,
        topic.apply_retention,
        lambda: topic.partition(0),
        lambda: topic.delete_records({0: 0}),
        lambda: topic.update_config(retention_ms=1),
        topic.delete,
        lambda: producer.send("t", b"x"),
        lambda: producer.send_many("t", [b"x"]),
        producer.flush,
        log.__enter__,
    ]
    for use in uses:
        with pytest.raises(streamlog.ClosedError):
            use()


def test_closing_the_log_closes_what_was_made_from_it(log: StreamLog) -> None:
    log.create_topic("t")
    producer, consumer = log.producer(), log.consumer("t")
    log.close()
    assert producer.closed
    assert consumer.closed


def test_with_block_closes_and_lets_exceptions_through(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), streamlog.open(path) as log:
        log.create_topic("t").send(b"x")
        raise ZeroDivisionError
    assert log.closed
    with streamlog.open(path) as log:
        assert [record.value for record in log["t"].read()] == [b"x"]


def test_reader_gets_its_records_or_closed_error_when_the_log_closes_under_it(log: StreamLog) -> None:
    topic = log.create_topic("t", segment_bytes=5000)
    topic.send_many([b"%d" % n * 300 for n in range(1000)])
    records = topic.read()
    seen = [next(records)]
    log.close()
    with contextlib.suppress(streamlog.ClosedError):
        seen.extend(records)
    assert [record.value for record in seen] == [b"%d" % n * 300 for n in range(len(seen))]


def test_forgotten_log_warns_and_gives_the_directory_back(path: Path) -> None:
    log = streamlog.open(path)
    log.create_topic("t").send(b"x")
    with pytest.warns(ResourceWarning):
        del log
        gc.collect()
    with streamlog.open(path, partitions=2) as log:
        assert [record.value for record in log["t"].read()] == [b"x"]


def test_forgotten_producer_warns_and_its_records_are_not_lost(log: StreamLog) -> None:
    topic = log.create_topic("t")
    producer = log.producer(linger_ms=1000)
    producer.send("t", b"x")
    with pytest.warns(ResourceWarning):
        del producer
        gc.collect()
    log.close()
    with streamlog.open(str(log.path)) as log:
        assert [record.value for record in log["t"].read()] == [b"x"]
    del topic


# Several threads


def test_opening_a_log_waits_for_no_open_and_no_close_of_another() -> None:
    disk = GatedDisk(SimulatedDisk())
    opened: list[StreamLog] = []
    disk.hold("/slow/published", writes=True)
    opening = threading.Thread(target=lambda: opened.append(streamlog.open("/slow", disk=disk)))
    opening.start()
    disk.until_held()
    with streamlog.open("/other", disk=disk) as log:
        log.create_topic("t").send("x")
    disk.let_go()
    opening.join(LONG)
    opened[0].create_topic("t").send("x")
    disk.hold("/slow/topics/*.log")
    closing = threading.Thread(target=opened[0].close)
    closing.start()
    disk.until_held()
    with streamlog.open("/other", disk=disk) as log:
        assert list(log) == ["t"]
    disk.let_go()
    closing.join(LONG)
    assert not closing.is_alive()


def test_threads_that_open_one_path_at_once_get_the_same_log() -> None:
    disk = GatedDisk(SimulatedDisk())
    opened: list[StreamLog] = []
    disk.hold("/log/published", writes=True)
    threads = [threading.Thread(target=lambda: opened.append(streamlog.open("/log", disk=disk))) for _ in range(4)]
    for thread in threads:
        thread.start()
    disk.until_held()
    disk.let_go()
    for thread in threads:
        thread.join(LONG)
    for log in opened:
        (log["t"] if "t" in log else log.create_topic("t")).send("x")
    assert [[record.offset for record in log["t"].read()] for log in opened] == [[0, 1, 2, 3]] * 4
    for log in opened:
        log.close()


def test_closing_the_last_handle_while_another_thread_opens_leaves_a_log_that_can_be_used() -> None:
    disk = SimulatedDisk()
    errors: list[BaseException] = []

    def open_and_close() -> None:
        try:
            for _ in range(50):
                with streamlog.open("/log", disk=disk) as log:
                    log.create_topic("t", exist_ok=True).send("x")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=open_and_close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert not errors
    with streamlog.open("/log", disk=disk) as log:
        assert len(list(log["t"].read())) == 200


def test_a_send_does_not_wait_for_what_another_topic_publishes_for_other_processes() -> None:
    disk = GatedDisk(SimulatedDisk())
    with streamlog.open("/log", disk=disk) as log:
        one, other = log.create_topic("one"), log.create_topic("other")
        other.send("x")  # the producer gets its id
        disk.hold("/log/published", writes=True)
        publishing = threading.Thread(target=one.send, args=("x",))
        publishing.start()
        disk.until_held()
        sending = threading.Thread(target=other.send, args=("y",))
        sending.start()
        sending.join(LONG / 2)
        waits = sending.is_alive()
        disk.let_go()
        publishing.join(LONG)
        assert not waits
        assert [record.value for record in other.read()] == [b"x", b"y"]
