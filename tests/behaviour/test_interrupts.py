"""Ctrl-C is honoured in every call and leaves a usable log.

Each script interrupts its own call again and again, after 0.1 to 50 ms, so that some interrupts fall into
the work and some into the wait; then everything acknowledged must be there, once.
"""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import streamlog
from streamlog import TopicPartition
from tests.contents import values
from tests.times import LONG

Child = Callable[..., "subprocess.Popen[str]"]
RunScript = Callable[..., "subprocess.CompletedProcess[str]"]


def assert_quiet(done: subprocess.CompletedProcess[str]) -> None:
    """It ended well and left no traceback."""
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


INTERRUPTED = """
import os, signal, sys, streamlog

signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
# Python itself loses an exception that is raised in a finalizer: the interrupt is repeated after a second.
sys.unraisablehook = lambda lost: None if lost.exc_type is KeyboardInterrupt else sys.__unraisablehook__(lost)
log = streamlog.open(sys.argv[1])
topic = log.create_topic("t", partitions=2)
acknowledged = []
interrupted = 0

def interrupt_after(seconds, call):
    global interrupted
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
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
found = {record.value.decode() for record in member.until_end()}
assert found == {"for the member", "afterwards"}, (found, member.assignment())
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
producer = log.producer(linger_ms=60_000)
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


@pytest.mark.slow
def test_ctrl_c_while_topics_come_grow_and_go(path: Path, run_script: RunScript) -> None:
    call = """
numbers = iter(range(10**9))

def call():
    while True:
        name = f"topic-{next(numbers)}"
        log.create_topic(name, partitions=2)
        log[name].add_partitions(3)
        log[name].send("x", partition=2).result()
        log.delete_topic(name)
"""
    after = """
for name in list(log):
    for partition in range(log[name].partitions):
        log[name].send("still usable", partition=partition).result()
        assert list(log[name].read(partition))[-1].value == b"still usable"
    log.create_topic(name, partitions=log[name].partitions, exist_ok=True)
names = sorted(log)
log.close()
with streamlog.open(sys.argv[1]) as log:
    assert sorted(log) == names
    for name in names:
        log.delete_topic(name)
"""
    assert_quiet(run_script(interrupted_in(call, rounds=6).replace("log.close()", after), path))


def test_ctrl_c_while_an_open_starts_its_threads_leaves_none_of_them(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    streamlog.open(path, brokers=3).close()
    before = threading.active_count()
    begun: list[threading.Thread] = []

    def start(thread: threading.Thread) -> None:
        thread.start()
        begun.append(thread)
        if len(begun) == count:
            raise KeyboardInterrupt

    monkeypatch.setattr("streamlog.runtime.threads.start_thread", start)
    for count in range(1, 9):  # two of the log, and two of each broker
        begun.clear()
        with pytest.raises(KeyboardInterrupt):
            streamlog.open(path)
        for thread in begun:
            thread.join(LONG)
        assert threading.active_count() == before, count


def test_ctrl_c_in_open_and_close(path: Path, run_script: RunScript) -> None:
    call = """
numbers = iter(range(10**9))

def call():
    while True:
        with streamlog.open(sys.argv[1] + "-other") as other:
            value = str(next(numbers))
            other.create_topic("t", exist_ok=True).send(value).result()
            there.append(value)

there = []
"""
    after = """
import gc
gc.collect()
with streamlog.open(sys.argv[1] + "-other") as other:
    found = [record.value.decode() for record in other["t"].read()]
assert set(there) <= set(found) and len(found) == len(set(found))
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
