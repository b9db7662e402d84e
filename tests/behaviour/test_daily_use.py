"""Kind in daily use: re-run cells, exits without close, Ctrl-C, forks, forgotten consumers, reloads."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import streamlog
from streamlog import LogLockedError, StreamlogError, TopicPartition
from streamlog.testing import ManualClock

Child = Callable[..., "subprocess.Popen[str]"]
RunScript = Callable[..., "subprocess.CompletedProcess[str]"]
LONG = 20.0


def values(log: streamlog.StreamLog, topic: str = "t") -> list[bytes]:
    return [record.value for record in log[topic].read()]


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


def test_a_producer_of_a_dropped_handle_does_not_close_the_log_under_the_others(
    path: Path, clock: ManualClock
) -> None:
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
        producer = log.producer(linger_ms=600_000)
        for n in range(10):
            producer.send("t", str(n))
        """,
        path,
    )
    assert_quiet(done)
    with streamlog.open(path) as log:
        assert len(values(log)) == 10


def test_an_exit_removes_a_temporary_log(run_script: RunScript) -> None:
    done = run_script(
        """
        import os, streamlog
        log = streamlog.open()
        log.create_topic("t").send("x").result()
        assert os.path.isdir(log.path)
        print(log.path)
        """
    )
    assert_quiet(done)
    assert not Path(done.stdout.strip()).exists()


@pytest.mark.parametrize("ending", ["sys.exit(3)", "raise SystemExit(3)", "1 / 0"])
def test_an_exit_by_an_exception_is_as_good(path: Path, run_script: RunScript, ending: str) -> None:
    done = run_script(
        f"""
        import sys, streamlog
        log = streamlog.open(sys.argv[1])
        log.create_topic("t").send("x").result()
        temporary = streamlog.open()
        print(temporary.path)
        {ending}
        """,
        path,
    )
    assert done.returncode in (1, 3)
    assert ("ZeroDivisionError" in done.stderr) == (ending == "1 / 0")
    assert done.stderr.count("Traceback") == (ending == "1 / 0")
    assert not Path(done.stdout.strip()).exists()
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
            assert reached.wait(20)
            reached.clear()
        """,
        path,
    )
    assert_quiet(done)


def test_an_exit_with_workers_running_does_not_hang(path: Path, run_script: RunScript) -> None:
    done = run_script(
        """
        import sys, threading, streamlog
        log = streamlog.open(sys.argv[1])
        topic = log.create_topic("t", partitions=2)
        topic.send_many([str(n) for n in range(100)]).result()
        reached = threading.Event()
        workers = log.group("g").start(lambda record: reached.set(), "t", workers=3)
        assert reached.wait(20)
        """,
        path,
    )
    assert_quiet(done)


# Ctrl-C, in every call

INTERRUPTED = """
import os, signal, sys, streamlog

signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
log = streamlog.open(sys.argv[1])
topic = log.create_topic("t", partitions=2)
acknowledged = []
interrupted = 0

def interrupt_after(seconds, call):
    global interrupted
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        call()
    except KeyboardInterrupt:
        interrupted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)

{call}

for delay in (0.0001, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05) * {rounds}:
    interrupt_after(delay, call)

assert interrupted == 8 * {rounds}, interrupted
topic.send("afterwards", partition=0).result()
with log.consumer("t") as consumer:
    found = [record.value.decode() for record in consumer.until_end()]
assert found.count("afterwards") == 1, found[-5:]
missing = set(acknowledged) - set(found)
assert not missing, missing
assert len(found) == len(set(found)), "a record is there twice"
log.close()
"""


def interrupted_in(call: str, rounds: int = 2) -> str:
    return INTERRUPTED.format(call=call, rounds=rounds)


def test_ctrl_c_in_a_waiting_poll(path: Path, run_script: RunScript) -> None:
    call = """
consumer = log.consumer("t")

def call():
    while True:
        consumer.poll(timeout=30)
"""
    assert_quiet(run_script(interrupted_in(call), path))


def test_ctrl_c_in_a_waiting_poll_of_a_member(path: Path, run_script: RunScript) -> None:
    call = """
member = log.consumer("t", group="g")

def call():
    while True:
        member.poll(timeout=30)
"""
    after = """
topic.send("for the member", partition=1).result()
assert {"for the member", "afterwards"} == {record.value.decode() for record in member.until_end()}
member.close()
log.close()
"""
    assert_quiet(run_script(interrupted_in(call).replace("log.close()", after), path))


def test_ctrl_c_in_a_busy_loop_of_polls_and_commits_skips_nothing(path: Path, run_script: RunScript) -> None:
    call = """
for partition in range(2):
    topic.send_many([f"{partition}:{n}" for n in range(20000)], partition=partition).result()

def call():
    with log.consumer("t", group="g", max_poll_records=20) as consumer:
        while True:
            for record in consumer.poll():
                handled.add((record.partition, record.offset))
            consumer.commit()

handled = set()
"""
    after = """
with log.consumer("t", group="g") as consumer:
    for record in consumer.until_end():
        handled.add((record.partition, record.offset))
assert len(handled) == 40001, len(handled)
log.close()
"""
    assert_quiet(run_script(interrupted_in(call).replace("log.close()", after), path))


def test_ctrl_c_in_iteration(path: Path, run_script: RunScript) -> None:
    call = """
topic.send("first").result()

def call():
    with log.consumer("t", group="g") as consumer:
        for record in consumer:
            pass
"""
    assert_quiet(run_script(interrupted_in(call), path))


def test_ctrl_c_in_until_end(path: Path, run_script: RunScript) -> None:
    call = """
topic.send_many([str(n) for n in range(1000)]).result()

def call():
    with log.consumer("t") as consumer:
        while True:
            for record in consumer.until_end():
                pass
            consumer.seek_to_beginning()
"""
    assert_quiet(run_script(interrupted_in(call), path))


def test_ctrl_c_in_send_with_a_linger_and_flush(path: Path, run_script: RunScript) -> None:
    call = """
producer = log.producer(linger_ms=5)
numbers = iter(range(10**9))

def call():
    while True:
        sent = []
        for _ in range(10):
            value = f"v{next(numbers)}"
            sent.append((value, producer.send("t", value, partition=0)))
        producer.flush()
        for value, delivery in sent:
            delivery.result(0)
            acknowledged.append(value)
"""
    after = """
producer.close()
log.close()
"""
    assert_quiet(run_script(interrupted_in(call, rounds=4).replace("log.close()", after), path))


def test_ctrl_c_in_send_without_a_linger(path: Path, run_script: RunScript) -> None:
    call = """
numbers = iter(range(10**9))

def call():
    while True:
        value = f"v{next(numbers)}"
        topic.send(value, partition=0).result()
        acknowledged.append(value)
"""
    assert_quiet(run_script(interrupted_in(call, rounds=4), path))


def test_ctrl_c_while_waiting_for_a_delivery(path: Path, run_script: RunScript) -> None:
    call = """
producer = log.producer(linger_ms=3_600_000)
numbers = iter(range(10**9))

def call():
    while True:
        value = f"v{next(numbers)}"
        producer.send("t", value, partition=0).result(30)
        acknowledged.append(value)
"""
    after = """
producer.close()
log.close()
"""
    assert_quiet(run_script(interrupted_in(call).replace("log.close()", after), path))


def test_ctrl_c_in_run(path: Path, run_script: RunScript) -> None:
    call = """
def call():
    log.group("g").run(lambda record: None, "t", workers=2)
    raise KeyboardInterrupt  # a run that ends quietly was stopped by it too
"""
    assert_quiet(run_script(interrupted_in(call), path))


def test_ctrl_c_that_ends_the_program_leaves_the_log_good(path: Path, child: Child) -> None:
    process = child(
        """
        import sys, streamlog
        log = streamlog.open(sys.argv[1])
        topic = log.create_topic("t")
        topic.send("x").result()
        for record in log.consumer("t", group="g"):
            print("waiting", flush=True)
        """,
        path,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=LONG)
    assert "KeyboardInterrupt" in errors
    assert errors.count("Traceback") == 1
    assert process.returncode != 0
    with streamlog.open(path) as log:
        assert values(log) == [b"x"]
        assert log.group("g").committed() in ({}, {TopicPartition("t", 0): 1})


# Fork: newer Pythons warn of it when other threads run, which is not our subject.


def test_after_a_fork_the_child_may_use_nothing_and_the_parent_goes_on(path: Path, run_script: RunScript) -> None:
    done = run_script(
        """
        import os, sys, traceback, warnings, streamlog
        warnings.simplefilter("ignore", DeprecationWarning)
        log = streamlog.open(sys.argv[1])
        topic = log.create_topic("t")
        topic.send("before").result()
        producer, lingering = log.producer(), log.producer(linger_ms=600_000)
        consumer, member = log.consumer("t"), log.consumer("t", group="g")
        member.poll()
        lingering.send("t", "lingering")

        def everything():
            files = {}
            for folder, _, names in os.walk(sys.argv[1]):
                for name in names:
                    with open(os.path.join(folder, name), "rb") as file:
                        files[name, folder] = file.read()
            return files

        before = everything()
        uses = [
            lambda: topic.send("child"),
            lambda: producer.send("t", "child"),
            lambda: lingering.flush(),
            lambda: consumer.poll(),
            lambda: member.poll(),
            lambda: member.commit(),
            lambda: list(topic.read()),
            lambda: log.create_topic("u"),
            lambda: log.group("g").committed(),
            lambda: log.sync(),
        ]
        child = os.fork()
        if child == 0:
            for number, use in enumerate(uses):
                try:
                    use()
                except streamlog.ForkedError:
                    continue
                except BaseException:
                    traceback.print_exc()
                print("use", number, "was not refused", file=sys.stderr)
                os._exit(1)
            sys.exit(0)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert everything() == before
        topic.send("after").result()
        lingering.flush()
        assert {record.value for record in consumer.until_end()} == {b"before", b"lingering", b"after"}
        member.commit()
        log.close()
        """,
        path,
    )
    assert_quiet(done)
    with streamlog.open(path) as log:
        assert sorted(values(log)) == [b"after", b"before", b"lingering"]


@pytest.mark.parametrize("ending", ["sys.exit(0)", "os._exit(0)", "close_everything()"])
def test_a_forked_child_that_ends_takes_nothing_with_it(path: Path, run_script: RunScript, ending: str) -> None:
    done = run_script(
        f"""
        import os, sys, warnings, streamlog
        warnings.simplefilter("ignore", DeprecationWarning)
        temporary = streamlog.open()
        log = streamlog.open(sys.argv[1])
        topic, other = log.create_topic("t"), temporary.create_topic("t")
        producer = log.producer(linger_ms=600_000)
        producer.send("t", "once")

        def close_everything():
            for one in (producer, log, temporary):
                try:
                    one.close()
                except streamlog.ForkedError:
                    pass

        child = os.fork()
        if child == 0:
            {ending}
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert os.path.isdir(temporary.path)
        other.send("x").result()
        assert [record.value for record in other.read()] == [b"x"]
        producer.close()
        assert [record.value for record in topic.read()] == [b"once"]
        """,
        path,
    )
    assert_quiet(done)
    with streamlog.open(path) as log:
        assert values(log) == [b"once"]


def test_a_fork_while_a_consumer_waits_disturbs_neither_side(path: Path, run_script: RunScript) -> None:
    done = run_script(
        """
        import os, sys, threading, warnings, streamlog
        warnings.simplefilter("ignore", DeprecationWarning)
        log = streamlog.open(sys.argv[1])
        topic = log.create_topic("t")
        member = log.consumer("t", group="g")
        got = []

        def follow():
            for record in member:
                got.append(record.value)
                if record.value == b"last":
                    return

        following = threading.Thread(target=follow)
        following.start()
        for n in range(20):
            topic.send(str(n)).result()
            child = os.fork()
            if child == 0:
                try:
                    topic.send("child")
                except streamlog.ForkedError:
                    os._exit(0)
                os._exit(1)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
        topic.send("last").result()
        following.join(20)
        assert not following.is_alive()
        assert got == [str(n).encode() for n in range(20)] + [b"last"], got
        log.close()
        """,
        path,
    )
    assert_quiet(done)


def test_a_forked_child_may_open_a_log_of_its_own(path: Path, run_script: RunScript) -> None:
    done = run_script(
        """
        import os, sys, warnings, streamlog
        warnings.simplefilter("ignore", DeprecationWarning)
        log = streamlog.open(sys.argv[1])
        log.create_topic("t")
        child = os.fork()
        if child == 0:
            try:
                with streamlog.open() as own:
                    own.create_topic("t").send("x").result()
                    assert [record.value for record in own["t"].read()] == [b"x"]
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        log.close()
        """,
        path,
    )
    assert_quiet(done)


def test_a_child_does_not_keep_the_lock_of_a_dead_parent(path: Path, child: Child) -> None:
    parent = child(
        """
        import os, sys, warnings, streamlog
        warnings.simplefilter("ignore", DeprecationWarning)
        log = streamlog.open(sys.argv[1])
        log.create_topic("t").send("x").result()
        started, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(tell, b"!")
            sys.stdin.read()
            os._exit(0)
        os.read(started, 1)
        print(pid, flush=True)
        sys.stdin.read()
        """,
        path,
    )
    assert parent.stdout is not None
    orphan = int(parent.stdout.readline())
    try:
        parent.kill()
        parent.wait(LONG)
        os.kill(orphan, 0)
        with streamlog.open(path, lock_timeout=LONG) as log:
            assert values(log) == [b"x"]
    finally:
        os.kill(orphan, signal.SIGKILL)


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


def test_a_second_process_is_told_who_has_the_log(path: Path, child: Child) -> None:
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
        assert old.stdin is not None
        old.stdin.close()
        old.wait(LONG)
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
