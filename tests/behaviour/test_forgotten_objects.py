"""Logs, producers and consumers that a program drops without closing: nothing is lost, kept or left open."""

from __future__ import annotations

import gc
import subprocess
import threading
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import streamlog
from streamlog.replication.partition import Partition

from .held_files import descriptors

RunScript = Callable[..., "subprocess.CompletedProcess[str]"]


def metadata_listeners(log: streamlog.StreamLog) -> int:
    # There is no public count of them; each costs a call at every change to a topic.
    return len(log._engine.service._topics._listeners)  # type: ignore[attr-defined]


@pytest.mark.parametrize("what", ["consumer", "member", "producer"])
def test_dropped_objects_do_not_stay_listeners_of_topics(log: streamlog.StreamLog, what: str) -> None:
    log.create_topic("t")
    log.producer().close()
    before = metadata_listeners(log)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        for _ in range(30):
            if what == "producer":
                log.producer(linger_ms=1).send("t", b"x").result()
            else:
                dropped = log.consumer("t", group="g" if what == "member" else None)
                dropped.poll()
                del dropped
        gc.collect()
        log.producer().close()  # making or closing the next object finalizes the dropped ones
    assert metadata_listeners(log) <= before + 1


def test_a_dropped_member_leaves_its_group(log: streamlog.StreamLog) -> None:
    log.create_topic("t").send(b"x")
    member = log.consumer("t", group="g")
    member.poll()
    with pytest.warns(ResourceWarning):
        del member
        gc.collect()
    with log.consumer("t", group="g") as heir:
        assert [record.value for record in heir.poll()] == [b"x"]
        assert len(log.group("g").members()) == 1


def test_a_broker_that_is_started_again_and_again_leaves_nothing_of_its_former_runs(path: Path) -> None:
    def replicas() -> int:
        gc.collect()
        return sum(type(each) is Partition for each in gc.get_objects())

    def restart(times: int) -> None:
        for number in range(times):
            broker = log.brokers[number % 3]
            broker.stop()
            topic.send("x").result()
            broker.start()
            topic.send("x").result()

    with streamlog.open(path, brokers=3) as log:
        topic = log.create_topic("t", partitions=3)
        restart(6)
        before = replicas()
        restart(12)
        # A stopped broker had four of them. Those of the last ones may be kept for a while.
        assert replicas() <= before + 12


@pytest.mark.slow
@pytest.mark.parametrize("how", ["closed", "unsubscribed", "collected"])
def test_nothing_is_kept_of_a_group_without_members(log: streamlog.StreamLog, how: str) -> None:
    """Counted over a hundred group names: what every consumer leaves behind would be there a hundred times."""
    log.create_topic("t").send(b"x")

    def use(name: str) -> None:
        member = log.consumer("t", group=name)
        member.poll()
        if how == "unsubscribed":
            member.unsubscribe()
        elif how == "collected":
            with pytest.warns(ResourceWarning):
                del member
                gc.collect()
            log.group(name).members()  # any call finalizes the dropped ones
            return
        member.close()

    def count() -> int:
        gc.collect()
        return len(gc.get_objects())

    def work(first: int) -> None:
        for n in range(first, first + 100):
            use(str(n))
            log.group(str(n)).delete()

    work(0)
    before = count()
    work(100)
    assert count() - before < 50


def test_opening_and_closing_leaves_no_thread_and_no_file_open(tmp_path: Path) -> None:
    def use(n: int) -> None:
        with streamlog.open(tmp_path / str(n)) as log:
            log.create_topic("t", partitions=2)
            log.producer(linger_ms=1).send("t", b"x")
            log.consumer("t", group="g").poll()
            log.producer().send("t", b"y")

    use(0)
    gc.collect()
    threads, files = set(threading.enumerate()), Counter(descriptors())
    for n in range(1, 6):
        use(n)
    gc.collect()
    assert set(threading.enumerate()) - threads == set()
    assert Counter(descriptors()) - files == Counter()


DROPPED = """
    import gc, sys, warnings
    warnings.simplefilter("error", ResourceWarning)
    sys.unraisablehook = lambda unraisable: print(unraisable.exc_type.__name__)
    import streamlog

    path = sys.argv[1]
    log = streamlog.open(path)
    log.create_topic("t")
    producer = log.producer(linger_ms=60_000)
    producer.send("t", b"lingering")
    del producer
    gc.collect()
    del log
    gc.collect()
    with streamlog.open(path, partitions=2) as log:  # other options: only a path that is not open takes them
        print([record.value for record in log["t"].read()])
"""


def test_cleaning_up_survives_warnings_that_are_errors(path: Path, run_script: RunScript) -> None:
    done = run_script(DROPPED, path)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split("\n")[:-2]) == {"ResourceWarning"}
    assert done.stdout.endswith("[b'lingering']\n")


LEFT_LINGERING = """
    import sys
    import streamlog

    log = streamlog.open(sys.argv[1])
    log.create_topic("t")
    log.producer(linger_ms=60_000).send("t", b"kept")
    producer = log.producer(linger_ms=60_000)
    producer.send("t", b"lingering")
"""


def test_a_program_that_ends_does_not_wait_for_lingers_and_loses_no_record(
    path: Path, run_script: RunScript, open_log: Callable[..., streamlog.StreamLog]
) -> None:
    done = run_script(LEFT_LINGERING, path)
    assert done.returncode == 0, done.stderr
    with open_log() as log:
        assert sorted(record.value or b"" for record in log["t"].read()) == [b"kept", b"lingering"]


BLOCKED_HANDLER = """
    import os, signal, sys, threading
    import streamlog
    from streamlog.broker import registry

    registry.EXIT_S = 0.05  # the same wait, but not for five seconds
    log = streamlog.open(sys.argv[1])
    log.create_topic("t").send(b"1")
    taken = threading.Event()

    def handle(record):
        taken.set()
        threading.Event().wait()

    def press_ctrl_c():
        threading.main_thread().join()
        threading.Event().wait(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    workers = log.group("g").start(handle, "t", workers=1)
    taken.wait()
    threading.Thread(target=press_ctrl_c, daemon=True).start()
"""


def test_ctrl_c_ends_a_program_that_waits_for_a_handler_that_never_ends(
    path: Path, run_script: RunScript, open_log: Callable[..., streamlog.StreamLog]
) -> None:
    done = run_script(BLOCKED_HANDLER, path)
    assert done.returncode == 0, done.stderr
    with open_log() as log, log.consumer("t", group="g") as consumer:
        assert [record.value for record in consumer.poll()] == [b"1"]  # it was never finished


def test_nothing_is_kept_of_topics_and_groups_that_are_gone(log: streamlog.StreamLog) -> None:
    """A topic made, sent to by a producer that lives on, read by a group of its own, and deleted, leaves no table with its name."""
    last = 12
    with log.producer(linger_ms=0) as sticky, log.producer(partitioner="round_robin") as in_turn:
        for n in range(last + 1):
            name = f"passing-{n}"
            log.create_topic(name, partitions=2).send_many([b"1", b"2"])
            sticky.send(name, b"3")
            in_turn.send_many(name, [b"4", b"5"])
            with log.consumer(name, group=name) as consumer:
                assert len(list(consumer.until_end())) == 5
            log.group(name).delete()
            log.delete_topic(name)
        gc.collect()
        gone = {f"passing-{n}" for n in range(last)}  # of the last one a producer may still know
        # A table of names and numbers is not among the collector's objects, but what refers to it is.
        tables = {
            id(table): table
            for known in gc.get_objects()
            for table in gc.get_referents(known)
            if type(table) in (dict, set) and table is not gone
        }
        assert [list(table)[:5] for table in tables.values() if any(name in table for name in gone)] == []
