"""Kind in daily use: re-run cells, exits without close, forgotten consumers, servers that reload."""

from __future__ import annotations

import gc
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import LogLockedError, StreamlogError, TopicPartition
from streamlog.testing import ManualClock
from tests.contents import values
from tests.times import LONG

Child = Callable[..., "subprocess.Popen[str]"]
RunScript = Callable[..., "subprocess.CompletedProcess[str]"]


def assert_quiet(done: subprocess.CompletedProcess[str]) -> None:
    """It ended well and left no traceback."""
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


# A re-run notebook cell


def test_a_cell_that_opens_the_log_again_gets_the_same_log(path: Path, clock: ManualClock) -> None:
    log = streamlog.open(path, clock=clock)
    log.create_topic("t").send("first run").result()
    old = log
    log = streamlog.open(path, clock=clock)
    log.create_topic("t", exist_ok=True).send("second run").result()
    assert values(old) == values(log) == [b"first run", b"second run"]
    old.close()
    assert old.closed
    assert not log.closed
    log["t"].send("after the old handle").result()
    assert len(values(log)) == 3
    log.close()
    with streamlog.open(path, clock=clock) as again:
        assert len(values(again)) == 3


def test_a_cell_whose_old_objects_are_dropped_takes_over(path: Path, clock: ManualClock) -> None:
    def cell() -> tuple[Any, ...]:
        log = streamlog.open(path, clock=clock)
        log.create_topic("t", exist_ok=True)
        return log, log.producer(), log.consumer("t", group="g")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        seen = []
        for n in range(3):
            log, producer, consumer = cell()
            gc.collect()
            producer.send("t", str(n)).result()
            seen += [record.value for record in consumer.poll(timeout=LONG)]
            consumer.commit()
            assert len(log.group("g").members()) == 1
        log.close()
        del log, producer, consumer
        gc.collect()
    assert seen == [b"0", b"1", b"2"]


def test_a_producer_of_a_dropped_handle_does_not_close_the_log_under_the_others(path: Path, clock: ManualClock) -> None:
    first, second = streamlog.open(path, clock=clock), streamlog.open(path, clock=clock)
    topic = second.create_topic("t")
    with second.producer() as producer:
        first.close()
        producer.send("t", "still open").result()
    assert [record.value for record in topic.read()] == [b"still open"]
    second.close()


def test_opening_again_with_other_options_is_refused(path: Path, clock: ManualClock) -> None:
    with streamlog.open(path, clock=clock) as log:
        with pytest.raises(StreamlogError):
            streamlog.open(path, clock=clock, sync=True)
        log.create_topic("t").send("x").result()
        assert values(log) == [b"x"]


# Exit without close


def test_what_was_acknowledged_before_an_exit_without_close_is_there(path: Path, run_script: RunScript) -> None:
    done = run_script(
        """
        import sys, streamlog
        log = streamlog.open(sys.argv[1])
        topic = log.create_topic("t")
        for n in range(100):
            topic.send(str(n)).result()
        producer = log.producer()
        producer.send_many("t", ["a", "b"]).result()
        consumer = log.consumer("t", group="g")
        assert len(consumer.poll(max_records=5)) == 5
        consumer.commit()
        """,
        path,
    )
    assert_quiet(done)
    with streamlog.open(path) as log:
        assert values(log) == [str(n).encode() for n in range(100)] + [b"a", b"b"]
        assert log.group("g").committed() == {TopicPartition("t", 0): 5}


def test_an_exit_flushes_what_still_lingers(path: Path, run_script: RunScript) -> None:
    done = run_script(
        """
        import sys, streamlog
        log = streamlog.open(sys.argv[1])
        log.create_topic("t")
        producer = log.producer(linger_ms=60_000)
        for n in range(10):
            producer.send("t", str(n))
        """,
        path,
    )
    assert_quiet(done)
    with streamlog.open(path) as log:
        assert len(values(log)) == 10


def test_an_exit_removes_a_temporary_log(tmp_path: Path, run_script: RunScript) -> None:
    done = run_script(
        """
        import os, sys, tempfile, streamlog
        tempfile.tempdir = sys.argv[1]
        log = streamlog.open()
        log.create_topic("t").send("x").result()
        assert os.listdir(sys.argv[1])
        """,
        tmp_path,
    )
    assert_quiet(done)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ["sys.exit(3)", "raise SystemExit(3)", "1 / 0"])
def test_an_exit_by_an_exception_is_as_good(tmp_path: Path, path: Path, run_script: RunScript, ending: str) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    done = run_script(
        f"""
        import sys, tempfile, streamlog
        tempfile.tempdir = sys.argv[2]
        log = streamlog.open(sys.argv[1])
        log.create_topic("t").send("x").result()
        temporary = streamlog.open()
        {ending}
        """,
        path,
        temporary,
    )
    assert done.returncode in (1, 3)
    assert ("ZeroDivisionError" in done.stderr) == (ending == "1 / 0")
    assert done.stderr.count("Traceback") == (ending == "1 / 0")
    assert list(temporary.iterdir()) == []
    with streamlog.open(path) as log:
        assert values(log) == [b"x"]


def test_an_exit_with_a_thread_that_waits_for_records_does_not_hang(path: Path, run_script: RunScript) -> None:
    done = run_script(
        """
        import sys, threading, streamlog
        log = streamlog.open(sys.argv[1])
        topic = log.create_topic("t")
        topic.send("x").result()
        reached = threading.Event()

        def follow(consumer):
            for record in consumer:
                reached.set()

        consumers = [log.consumer("t"), log.consumer("t", group="g")]
        for consumer in consumers:
            threading.Thread(target=follow, args=(consumer,), daemon=True).start()
            assert reached.wait(60)
            reached.clear()
        """,
        path,
    )
    assert_quiet(done)


# A consumer forgotten


def test_a_forgotten_consumer_warns_and_its_group_moves_on(log: streamlog.StreamLog) -> None:
    topic = log.create_topic("t", partitions=2)
    topic.send_many([str(n) for n in range(10)], partition=0).result()
    forgotten = log.consumer("t", group="g")
    with log.consumer("t", group="g") as careful:
        for _ in range(2):
            forgotten.poll(max_records=1)
            careful.poll(max_records=1)
        with pytest.warns(ResourceWarning):
            del forgotten
            gc.collect()
        topic.send("new", partition=1).result()
        found = [record.value for record in careful.poll(timeout=LONG)]
        found += [record.value for record in careful.until_end()]
        assert b"new" in found
        assert careful.assignment() == {TopicPartition("t", 0), TopicPartition("t", 1)}
        assert len(log.group("g").members()) == 1


def test_everything_forgotten_open_warns_once_and_keeps_what_was_sent(path: Path, clock: ManualClock) -> None:
    log = streamlog.open(path, clock=clock)
    log.create_topic("t").send("x").result()
    with pytest.warns(ResourceWarning):
        del log
        gc.collect()
    with streamlog.open(path, clock=clock) as again:
        assert values(again) == [b"x"]


# A web server with reload

SERVER = """
import sys, streamlog
log = streamlog.open(sys.argv[1], lock_timeout=float(sys.argv[2]))
log.create_topic("t", exist_ok=True).send(sys.argv[3]).result()
print("open", flush=True)
sys.stdin.read()
"""


def test_the_error_in_a_second_process_names_the_process_that_has_the_log(path: Path, child: Child) -> None:
    server = child(SERVER, path, 0, "server")
    assert server.stdout is not None
    assert server.stdout.readline() == "open\n"
    with pytest.raises(LogLockedError, match="read_only") as raised:
        streamlog.open(path)
    assert raised.value.pid == server.pid
    server.communicate(timeout=LONG)
    with streamlog.open(path) as log:
        assert values(log) == [b"server"]


@pytest.mark.parametrize("how", ["it ends", "it is killed"])
def test_a_reloaded_server_waits_for_the_old_one_and_takes_over(path: Path, child: Child, how: str) -> None:
    old = child(SERVER, path, 0, "old")
    assert old.stdout is not None
    assert old.stdout.readline() == "open\n"
    new = child(SERVER, path, LONG, "new")
    if how == "it ends":
        old.communicate(timeout=LONG)
    else:
        old.kill()
    assert new.stdout is not None
    assert new.stdout.readline() == "open\n"
    new.communicate(timeout=LONG)
    assert new.returncode == 0
    with streamlog.open(path) as log:
        assert values(log) == [b"old", b"new"]


def test_a_lock_that_is_not_freed_in_time_is_an_error(path: Path, child: Child) -> None:
    server = child(SERVER, path, 0, "server")
    assert server.stdout is not None
    assert server.stdout.readline() == "open\n"
    with pytest.raises(LogLockedError):
        streamlog.open(path, lock_timeout=0.05)
    server.communicate(timeout=LONG)
