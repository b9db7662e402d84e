"""After a fork the child may use nothing that it inherited, and touches nothing; the parent goes on.

Newer Pythons warn of a fork while other threads run; that is not the subject here, so the scripts ignore it.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import streamlog
from tests.contents import values
from tests.times import LONG

Child = Callable[..., "subprocess.Popen[str]"]
RunScript = Callable[..., "subprocess.CompletedProcess[str]"]


def assert_quiet(done: subprocess.CompletedProcess[str]) -> None:
    """It ended well and left no traceback."""
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_after_a_fork_the_child_may_use_nothing_and_the_parent_goes_on(path: Path, run_script: RunScript) -> None:
    done = run_script(
        """
        import os, sys, traceback, warnings, streamlog
        warnings.simplefilter("ignore", DeprecationWarning)
        log = streamlog.open(sys.argv[1])
        topic = log.create_topic("t")
        topic.send("before").result()
        producer, lingering = log.producer(), log.producer(linger_ms=60_000)
        consumer, member = log.consumer("t"), log.consumer("t", group="g")
        member.poll()
        delivery = lingering.send("t", "lingering")

        def everything():
            files = {}
            for folder, _, names in os.walk(sys.argv[1]):
                for name in names:
                    if name != "published":  # the parent writes it, up to 5 ms after an append
                        with open(os.path.join(folder, name), "rb") as file:
                            files[name, folder] = file.read()
            return files

        before = everything()
        uses = [
            lambda: topic.send("child"),
            lambda: producer.send("t", "child"),
            lambda: lingering.flush(),
            lambda: delivery.result(),
            lambda: consumer.poll(),
            lambda: member.poll(),
            lambda: member.commit(),
            lambda: list(topic.read()),
            lambda: log.create_topic("u"),
            lambda: log.group("g").committed(),
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
        producer = log.producer(linger_ms=60_000)
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
        following.join(60)
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


def test_a_forked_child_may_open_a_log_of_its_own_while_a_thread_of_its_parent_opens_files(
    path: Path, run_script: RunScript
) -> None:
    done = run_script(
        """
        import contextlib, os, signal, sys, threading, warnings, streamlog
        from streamlog.storage import segment
        warnings.simplefilter("ignore", DeprecationWarning)
        log = streamlog.open(sys.argv[1])
        log.create_topic("t")
        inside, go = threading.Event(), threading.Event()

        def open_files():
            with contextlib.ExitStack() as stack:
                for held in (segment.open_files, segment.mappings, segment.indexes):
                    stack.enter_context(held._lock)
                inside.set()
                go.wait(60)

        opening = threading.Thread(target=open_files)
        opening.start()
        inside.wait(60)
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            with streamlog.open() as own:
                own.create_topic("t").send("x").result()
                assert [record.value for record in own["t"].read()] == [b"x"]
            os._exit(0)
        _, status = os.waitpid(child, 0)
        go.set()
        opening.join(60)
        assert os.waitstatus_to_exitcode(status) == 0, status
        log.close()
        """,
        path,
    )
    assert_quiet(done)


def test_a_forked_child_that_collects_a_compaction_under_way_removes_nothing(path: Path, run_script: RunScript) -> None:
    done = run_script(
        """
        import glob, os, sys, warnings, streamlog
        from streamlog.replication import maintenance
        from streamlog.testing import ManualClock
        warnings.simplefilter("ignore", DeprecationWarning)
        maintenance.STEP_BYTES = 1
        log = streamlog.open(sys.argv[1], clock=ManualClock(start_ms=10**12))
        topic = log.create_topic("t", cleanup_policy="compact", segment_bytes=1024, min_cleanable_dirty_ratio=0.0)
        for n in range(12):
            topic.send(b"%300d" % n, key=str(n % 3)).result()
        unfinished = os.path.join(sys.argv[1], "topics", "*", "*.cleaned")
        partition = log._use()._partitions["t", 0]
        while not glob.glob(unfinished):
            assert partition.maintenance.step(10**12) == 10**12
        del partition
        child = os.fork()
        if child == 0:
            try:
                log.close()
            except streamlog.ForkedError:
                pass
            del log, topic
            sys.exit(0)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert glob.glob(unfinished)
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


def test_a_child_that_asks_for_a_result_writes_nothing_over_the_parents_records(
    path: Path, run_script: RunScript
) -> None:
    done = run_script(
        """
        import os, sys, warnings, streamlog
        warnings.simplefilter("ignore", DeprecationWarning)
        with streamlog.open(sys.argv[1]) as log:
            topic = log.create_topic("t")
            lingering = log.producer(linger_ms=60_000)
            delivery = lingering.send("t", "lingering")
            down, up = os.pipe()
            child = os.fork()
            if child == 0:
                os.read(down, 1)
                try:
                    delivery.result()
                except streamlog.ForkedError:
                    os._exit(0)
                os._exit(1)
            topic.send("acknowledged").result()
            os.write(up, b"x")
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            lingering.close()
        """,
        path,
    )
    assert_quiet(done)
    with streamlog.open(path) as log:
        assert values(log) == [b"acknowledged", b"lingering"]
