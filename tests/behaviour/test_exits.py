"""How a program ends: whose threads live on, who is waited for, when the log closes, what comes too late."""

from __future__ import annotations

import atexit
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import streamlog
from streamlog import TopicPartition
from tests.contents import values

RunScript = Callable[..., "subprocess.CompletedProcess[str]"]
OpenLog = Callable[..., streamlog.StreamLog]

# What every program begins with. `press_ctrl_c` does it once the main thread has ended and the interpreter waits.
BEGIN = """
import atexit, os, signal, sys, threading
import streamlog

main_ended = threading.main_thread().join

def press_ctrl_c():
    main_ended()
    threading.Event().wait(0.2)
    os.kill(os.getpid(), signal.SIGINT)

def threads_can_be_made():
    try:
        threading.Thread(target=int).start()
    except RuntimeError:
        return False
    return True

def in_thread(function, daemon=False):
    threading.Thread(target=function, daemon=daemon).start()

"""


@pytest.fixture
def run(run_script: RunScript, path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program on the test's log."""

    def start(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        lines = program.strip("\n").splitlines()
        indent = len(lines[0]) - len(lines[0].lstrip())
        return run_script(BEGIN + "\n".join(line[indent:] for line in lines), path, *arguments)

    return start


def closed_cleanly(path: Path) -> bool:
    return '"clean": true' in (path / "streamlog.json").read_text()


# Who lives on


def handled(log: streamlog.StreamLog) -> dict[TopicPartition, int]:
    """What the group committed past the beginning."""
    return {name: offset for name, offset in log.group("g").committed().items() if offset}


def test_the_users_own_threads_go_on_after_the_main_thread(run: RunScript, path: Path, open_log: OpenLog) -> None:
    done = run(
        """
        log = streamlog.open(sys.argv[1])
        topic = log.create_topic("t")
        handled = []

        def follow():
            with log.consumer("t", group="g") as consumer:
                for record in consumer:
                    handled.append(record.value)
                    if len(handled) == 5:
                        return

        def produce():
            main_ended()
            for n in range(5):
                topic.send(str(n))

        in_thread(follow)
        in_thread(produce)
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert closed_cleanly(path)
    with open_log() as log:
        assert values(log) == [b"0", b"1", b"2", b"3", b"4"]
        assert log.group("g").committed() == {TopicPartition("t", 0): 5}


def test_workers_handle_every_record_though_the_main_thread_has_ended(
    run: RunScript, path: Path, open_log: OpenLog
) -> None:
    done = run(
        """
        log = streamlog.open(sys.argv[1])
        log.create_topic("t").send_many(["0", "1", "2", "3", "4"])

        def handle(record):
            main_ended()
            print(record.value.decode(), flush=True)

        log.group("g").start(handle, "t", workers=2, until_end=True)
        """
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["0", "1", "2", "3", "4"], "")
    assert closed_cleanly(path)
    with open_log() as log:
        assert log.group("g").committed() == {TopicPartition("t", 0): 5}


def test_workers_that_run_for_ever_are_stopped_by_another_thread(run: RunScript, path: Path) -> None:
    done = run(
        """
        log = streamlog.open(sys.argv[1])
        log.create_topic("t")
        workers = log.group("g").start(lambda record: workers.stop(), "t", workers=2)

        def send():
            main_ended()
            log["t"].send("the last")

        in_thread(send)
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert closed_cleanly(path)


def test_the_librarys_own_threads_keep_no_program_alive_and_its_workers_do(run: RunScript) -> None:
    done = run(
        """
        with streamlog.open(sys.argv[1]) as log:
            log.create_topic("t")
            print({t.name: t.daemon for t in threading.enumerate() if t is not threading.main_thread()})
            with log.group("g").start(print, "t", workers=1):
                print([t.daemon for t in threading.enumerate() if t.name == "streamlog-g-0"])
        """
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "{'streamlog-background': True, 'streamlog-maintenance': True, 'streamlog-published': True}",
        "[False]",
    ]


def test_workers_of_a_daemon_thread_end_with_the_program(run: RunScript, path: Path) -> None:
    done = run(
        """
        log = streamlog.open(sys.argv[1])
        topic = log.create_topic("t")
        handled = threading.Event()
        in_thread(lambda: log.group("g").run(lambda record: handled.set(), "t", workers=2), daemon=True)
        topic.send("x")
        assert handled.wait(60)
        while len(log.group("g").members()) < 2:  # else the program may end before its second worker has begun, which says so
            threading.Event().wait(0.01)
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert closed_cleanly(path)


# When the log closes


def test_an_exit_handler_of_the_program_finds_the_log_open(run: RunScript, path: Path, open_log: OpenLog) -> None:
    done = run(
        """
        log = streamlog.open(sys.argv[1])
        topic = log.create_topic("t")

        def say_goodbye():
            topic.send("goodbye")
            with log.consumer("t") as consumer:
                print([record.value for record in consumer.until_end()])

        atexit.register(say_goodbye)
        in_thread(lambda: (main_ended(), topic.send("from a thread")))
        """
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[b'from a thread', b'goodbye']", "")
    assert closed_cleanly(path)
    with open_log() as log:
        assert values(log) == [b"from a thread", b"goodbye"]


def test_what_was_made_before_the_log_is_there_until_it_has_closed(run: RunScript, tmp_path: Path) -> None:
    """A directory that goes at exit, for instance: handlers run in the opposite order of their registration."""
    done = run(
        """
        import tempfile

        directory = tempfile.TemporaryDirectory(dir=sys.argv[2])
        os.makedirs(directory.name + "/a")
        atexit.register(lambda: print(open(directory.name + "/a/streamlog.json").read()))
        log = streamlog.open(directory.name + "/a")
        log.create_topic("t").send("x")
        """,
        tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert '"clean": true' in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_opening_and_closing_leaves_nothing_at_the_interpreters_exit(tmp_path: Path, open_log: OpenLog) -> None:
    open_log(tmp_path / "first").close()
    before = atexit._ncallbacks()
    for n in range(20):
        with open_log(tmp_path / str(n)), open_log(tmp_path / str(n)):
            pass
    assert atexit._ncallbacks() == before


def test_each_log_closes_in_its_own_place_among_the_programs_handlers(run: RunScript, tmp_path: Path) -> None:
    done = run(
        """
        def say(name, *logs):
            atexit.register(lambda: print(name, [log.closed for log in logs]))

        early = streamlog.open()
        say("after early", early)
        early.close()
        first, second = streamlog.open(sys.argv[1]), streamlog.open()
        say("after two", first, second)
        third = streamlog.open(sys.argv[2])
        say("after three", first, second, third)
        closed_again = streamlog.open()
        closed_again.close()
        """,
        tmp_path / "third",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "after three [False, False, False]",
        "after two [False, False]",
        "after early [True]",
    ]
    assert closed_cleanly(tmp_path / "data")
    assert closed_cleanly(tmp_path / "third")


def test_a_process_forked_by_multiprocessing_closes_its_own_log_too(
    run: RunScript, path: Path, open_log: OpenLog
) -> None:
    done = run(
        """
        import multiprocessing

        def child():
            log = streamlog.open(sys.argv[1])
            log.create_topic("t")
            producer = log.producer(linger_ms=60_000)
            producer.send("t", "lingering")
            in_thread(lambda: (threading.Event().wait(0.2), log["t"].send("from a thread")))
            globals()["kept"] = log, producer

        with streamlog.open():
            process = multiprocessing.get_context("fork").Process(target=child)
            process.start()
            process.join()
            print(process.exitcode)
        """
    )
    assert (done.returncode, done.stdout.strip()) == (0, "0")
    assert "Traceback" not in done.stderr
    assert closed_cleanly(path)
    with open_log() as log:
        assert sorted(values(log)) == [b"from a thread", b"lingering"]


def test_a_log_that_an_exit_handler_opened_and_left_open_is_closed(
    run: RunScript, path: Path, open_log: OpenLog
) -> None:
    done = run(
        """
        def late():
            if not threads_can_be_made():
                print("too late")
                return
            log = streamlog.open(sys.argv[1])
            log.create_topic("t")
            producer = log.producer(linger_ms=60_000)
            producer.send("t", "lingering")
            globals()["kept"] = log, producer

        atexit.register(late)
        """
    )
    assert (done.returncode, done.stderr) == (0, "")
    if "too late" not in done.stdout:
        assert closed_cleanly(path)
        with open_log() as log:
            assert values(log) == [b"lingering"]


# Ctrl-C while the interpreter waits


def test_ctrl_c_ends_the_loops_of_the_users_own_threads(run: RunScript, path: Path, open_log: OpenLog) -> None:
    """As a `stop()` would: without an error, and what they finished is committed."""
    done = run(
        """
        log = streamlog.open(sys.argv[1])
        log.create_topic("t", partitions=2).send_many([str(n) for n in range(10)], partition=0)
        all_there, ended = threading.Event(), threading.Event()

        def follow():
            with log.consumer("t", group="g") as consumer:
                for record in consumer:
                    if record.offset == 9:
                        all_there.set()
            print("ended", flush=True)
            ended.set()

        atexit.register(lambda: print("log closed:", log.closed))  # before the log closes, so before the loop ends
        in_thread(follow)
        assert all_there.wait(60)
        in_thread(press_ctrl_c, daemon=True)
        """
    )
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "log closed: False"
    assert done.stderr.count("Traceback") == 1
    assert closed_cleanly(path)
    with open_log() as log:
        assert handled(log) == {TopicPartition("t", 0): 10}


def test_ctrl_c_stops_workers_that_the_interpreter_waits_for(run: RunScript, path: Path, open_log: OpenLog) -> None:
    done = run(
        """
        log = streamlog.open(sys.argv[1])
        log.create_topic("t", partitions=2).send("x", partition=0)
        interrupted = threading.Event()
        stop = streamlog.Workers.stop

        def told(workers):
            stop(workers)
            interrupted.set()

        streamlog.Workers.stop = told
        workers = log.group("g").start(lambda record: interrupted.wait(60), "t", workers=2)
        in_thread(press_ctrl_c, daemon=True)
        """
    )
    assert done.returncode == 0
    assert done.stderr.count("Traceback") == 1  # Python's own, of its interrupted wait
    assert "KeyboardInterrupt" in done.stderr
    assert closed_cleanly(path)
    with open_log() as log:  # the record in hand was finished
        assert handled(log) == {TopicPartition("t", 0): 1}


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_waits_for_no_handler_longer_than_an_exit_may(
    run: RunScript, path: Path, open_log: OpenLog, presses: int
) -> None:
    """max_poll_interval_ms is five minutes. The second Ctrl-C ends even the exit's own wait, and the log closes."""
    done = run(
        """
        from streamlog.broker import registry

        registry.EXIT_S = 0.05 if sys.argv[2] == "1" else 600.0
        log = streamlog.open(sys.argv[1])
        log.create_topic("t").send("x")
        stopped, taken = threading.Event(), threading.Event()
        stop = streamlog.Workers.stop
        streamlog.Workers.stop = lambda workers: (stop(workers), stopped.set())

        def handle(record):
            taken.set()
            threading.Event().wait()

        def press_twice():
            press_ctrl_c()
            if sys.argv[2] == "2":
                stopped.wait()
                threading.Event().wait(0.2)
                os.kill(os.getpid(), signal.SIGINT)

        workers = log.group("g").start(handle, "t", workers=3)
        taken.wait()
        in_thread(press_twice, daemon=True)
        """,
        presses,
    )
    assert done.returncode == 0
    assert done.stderr.count("KeyboardInterrupt") >= presses
    assert closed_cleanly(path)
    with open_log() as log:
        assert handled(log) == {}


def test_an_error_that_was_never_raised_keeps_no_other_log_open(run: RunScript, tmp_path: Path) -> None:
    done = run(
        """
        log, other = streamlog.open(sys.argv[1]), streamlog.open(sys.argv[2])
        log.create_topic("t").send("x")
        other.create_topic("t")
        workers = log.group("g").start(lambda record: 1 / 0, "t", workers=1)
        producer = other.producer(linger_ms=60_000)
        producer.send("t", "lingering")
        second = streamlog.open(sys.argv[1])
        """,
        tmp_path / "other",
    )
    assert "ZeroDivisionError" in done.stderr
    assert closed_cleanly(tmp_path / "other")
    assert closed_cleanly(tmp_path / "data")


# Too late


def test_an_open_too_late_is_a_typed_error_and_touches_nothing(run: RunScript, tmp_path: Path) -> None:
    """Python 3.12 makes no thread once the main thread has ended; where others do, there is no too late."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    done = run(
        """
        import tempfile

        tempfile.tempdir = sys.argv[3]
        log = streamlog.open(sys.argv[1])
        log.create_topic("t")

        def late():
            main_ended()
            print(threads_can_be_made())
            again = streamlog.open(sys.argv[1])  # another handle on a log that is open
            again["t"].send("x")
            for options in ({}, {"read_only": True}):
                try:
                    opened = streamlog.open(sys.argv[2], **options)
                except streamlog.StreamlogError as error:
                    print(type(error).__name__, "interpreter" in str(error), os.path.exists(sys.argv[2]))
                else:
                    opened.close()
            try:
                streamlog.open().close()
            except streamlog.StreamlogError as error:
                print(type(error).__name__, "interpreter" in str(error))

        in_thread(late)
        """,
        tmp_path / "late",
        temporary,
    )
    assert list(temporary.iterdir()) == []
    assert (done.returncode, done.stderr) == (0, "")
    possible, *late = done.stdout.splitlines()
    assert late == ([] if possible == "True" else ["ClosedError True False"] * 2 + ["ClosedError True"])
    assert possible == "False" or sys.version_info[:2] != (3, 12)
    assert closed_cleanly(tmp_path / "data")


def test_a_start_too_late_is_a_typed_error_and_leaves_no_member(run: RunScript, path: Path, open_log: OpenLog) -> None:
    done = run(
        """
        import warnings

        warnings.simplefilter("error")
        log = streamlog.open(sys.argv[1])
        log.create_topic("t").send("x")

        def late():
            main_ended()
            print(threads_can_be_made())
            group = log.group("g")
            for call in (group.start, group.run):
                try:
                    call(print, "t", workers=2, until_end=True)
                except streamlog.StreamlogError as error:
                    print(type(error).__name__, "interpreter" in str(error), group.members())

        in_thread(late)
        """
    )
    assert (done.returncode, done.stderr) == (0, "")
    possible, *late = done.stdout.splitlines()
    if possible == "False":
        assert late == ["ClosedError True []"] * 2
    else:
        assert [line for line in late if "Error" in line] == []
    assert closed_cleanly(path)
