"""`streamlog top`: its loop on simulated time; the command in a pipe, and on a terminal, while another process writes."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import streamlog
import streamlog.cli.top.command  # adds its command
from streamlog.cli.app import app
from streamlog.cli.top.command import FIRST_S, Watch
from streamlog.cli.top.sampler import Frame, Sample, TopicSample
from streamlog.cli.top.source import GROUPS_S, Source, Wanted
from streamlog.errors import FormatError
from streamlog.runtime.keyboard import RESIZED, STOPPED
from tests.times import LONG

from .owner_process import Child, Owner

MAIN = "import sys; from streamlog.cli import main; sys.exit(main())"
REPOSITORY = Path(__file__).resolve().parents[2]
OpenLog = Callable[..., streamlog.StreamLog]


# The loop


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s

    def time_ms(self) -> int:
        return round(self.now_s * 1000)


class Script:
    """A source, a keyboard and a screen in one. `happens`: by the number of the wait, what ends it, halfway through."""

    is_live = True

    def __init__(self, happens: dict[int, str] | None = None, *, look_s: float = 0.0) -> None:
        self.clock = Clock()
        self.happens = happens or {}
        self.look_s = look_s
        self.errors: dict[int, Exception] = {}
        self.looks: list[float] = []
        self.waits: list[float] = []
        self.shown: list[tuple[float, Frame, bool]] = []

    def gather(self) -> Sample:
        self.looks.append(self.clock.now_s)
        self.clock.now_s += self.look_s
        if error := self.errors.get(len(self.looks)):
            raise error
        end = int(self.clock.now_s) * 10
        return Sample(self.clock.now_s, self.clock.time_ms(), {"t": TopicSample(1, [(0, end, end)])}, {}, [])

    def wait(self, seconds: float) -> str:
        self.waits.append(seconds)
        assert len(self.waits) < 100
        happened = self.happens.get(len(self.waits), "")
        self.clock.now_s += min(seconds, 50.0) / 2 if happened else seconds
        return happened

    def begin(self) -> Any:
        raise AssertionError

    def show(self, frame: Frame, *, is_paused: bool) -> None:
        self.shown.append((self.clock.now_s, frame, is_paused))

    def watch(self, every_s: float = 2.0, frames: int | None = None) -> Watch:
        return Watch(self, self.clock, self, every_s, frames)


def test_the_first_rates_come_after_a_second_and_then_a_frame_at_every_interval() -> None:
    script = Script(look_s=0.25)
    assert script.watch(5.0, frames=4).run(script.wait) is False
    assert script.looks == [100.0, 100.0 + FIRST_S, 106.0, 111.0]
    assert next(frame.total.records_s for _, frame, _ in script.shown) is None
    assert all(frame.total.records_s is not None for _, frame, _ in script.shown[1:])


def test_where_frames_follow_each_other_the_first_has_rates() -> None:
    script = Script()
    script.is_live = False
    script.watch(5.0, frames=2).run(script.wait)
    assert script.looks == [100.0, 105.0, 110.0]
    assert [frame.total.records_s is not None for _, frame, _ in script.shown] == [True, True]


def test_looks_that_take_longer_than_the_interval_leave_time_for_keys() -> None:
    script = Script({3: "q"}, look_s=3.0)
    script.watch(1.0).run(script.wait)
    assert len(script.looks) == 3 and all(seconds > 0 for seconds in script.waits)


@pytest.mark.parametrize("key", ["q", "Q", "xq"])
def test_q_ends_it_at_once(key: str) -> None:
    script = Script({3: key})
    assert script.watch().run(script.wait) is False
    assert len(script.waits) == 3


def test_other_keys_do_not_bring_the_next_look_forward() -> None:
    script = Script({2: "x", 3: "x"})
    script.watch(2.0, frames=3).run(script.wait)
    assert script.looks == [100.0, 101.0, 103.0]


def test_a_new_size_draws_the_same_frame_again() -> None:
    script = Script({2: RESIZED, 4: "q"})
    script.watch().run(script.wait)
    assert script.shown[1][1] is script.shown[2][1]
    assert len(script.looks) == 3


def test_space_stops_the_looks_until_it_is_pressed_again() -> None:
    script = Script({2: " ", 3: RESIZED, 4: " ", 5: "q"})
    script.watch().run(script.wait)
    assert [is_paused for _, _, is_paused in script.shown] == [False, False, True, True, False, False]
    assert len(script.looks) == 3  # the last as soon as it goes on
    [frame] = [frame for at, frame, _ in script.shown[-1:]]
    assert frame.total.records_s == pytest.approx(10.0, rel=0.2)  # over all the time that has passed


def test_a_stop_and_its_end_draw_the_frame_again() -> None:
    script = Script({2: STOPPED, 3: "q"})
    watch = script.watch()
    assert watch.run(script.wait) is True
    before = len(script.shown)
    assert watch.run(script.wait) is False
    assert script.shown[before][1] is script.shown[before - 1][1]


def test_a_look_that_fails_is_a_warning_on_the_frame_before_and_the_next_one_is_as_ever() -> None:
    script = Script()
    script.errors[3] = FormatError("There is no log in /gone any more.\n")
    script.watch(frames=4).run(script.wait)
    failed, after = (frame for _, frame, _ in script.shown[2:])
    assert list(failed.warnings) == ["There is no log in /gone any more.\n"]
    assert [(row.name, row.records, row.records_s) for row in failed.topics] == [("t", 1010, None)]
    assert (failed.writer, failed.total.records_s) == ("", None)
    assert list(after.warnings) == [] and after.total.records_s is not None


def test_a_first_or_only_look_that_fails_is_an_error_of_the_command() -> None:
    script = Script()
    script.errors[1] = OSError(5, "Input/output error", "published")
    with pytest.raises(OSError):
        script.watch().run(script.wait)
    script = Script()
    script.is_live = False
    script.errors[2] = FormatError("gone")
    with pytest.raises(FormatError):
        script.watch(frames=1).run(script.wait)


# What it looks at


ALL = Wanted()


def source(path: Path, wanted: Wanted = ALL, clock: Any = None) -> Source:
    return Source(lambda: streamlog.open(path, read_only=True), [path], clock or Clock(), wanted)


@pytest.fixture
def shop(path: Path, open_log: OpenLog) -> Path:
    """A log with three topics, of which one is compacted, and the groups g (two topics) and h."""
    with open_log(path) as log:
        log.create_topic("orders", partitions=2).send_many(["1", "2", "3"], partition=1)
        log.create_topic("refunds").send("4")
        log.create_topic("table", cleanup_policy="compact").send("5", key="k")
        log.group("g").reset("orders", "refunds", to="earliest")
        log.group("h").reset("orders", to="latest")
    return path


def test_a_sample_has_topics_groups_and_who_writes(shop: Path) -> None:
    looked = source(shop)
    sample = looked.gather()
    shown = {name: topic for name, topic in sample.topics.items() if topic.is_shown}
    assert {name: [(each[0], each[1]) for each in topic.ends if each] for name, topic in shown.items()} == {
        "orders": [(0, 0), (0, 3)],
        "refunds": [(0, 1)],
        "table": [(0, 1)],
    }
    assert [topic.is_compacted for topic in shown.values()] == [False, False, True]
    assert {name: (group.state, group.members, group.topics) for name, group in sample.groups.items()} == {
        "g": ("Empty", 0, {"orders", "refunds"}),
        "h": ("Empty", 0, {"orders"}),
    }
    assert (sample.writer, sample.warnings, sample.brokers) == ("no process writes", [], [])
    looked.close()


def test_topics_and_groups_are_chosen_by_name_or_pattern(shop: Path) -> None:
    for wanted, topics, groups in (
        (Wanted(["orders"], ["h"]), {"orders"}, {"h"}),
        (Wanted(["or*", "t?ble"]), {"orders", "table"}, {"g", "h"}),
        (Wanted(internal=True), {"__consumer_offsets", "orders", "refunds", "table"}, {"g", "h"}),
        (Wanted(["*"]), {"orders", "refunds", "table"}, {"g", "h"}),
    ):
        looked = source(shop, wanted)
        sample = looked.gather()
        assert {name for name, topic in sample.topics.items() if topic.is_shown} >= topics
        assert {name for name, topic in sample.topics.items() if topic.is_shown} - topics <= {"__transaction_state"}
        assert set(sample.groups) == groups
        looked.close()
    looked = source(shop, Wanted(["nosuch"], ["none"]))
    assert looked.gather().warnings == ["No topic is called nosuch.", "No group is called none."]
    looked.close()


def test_where_there_is_no_time_for_all_groups_they_are_looked_at_in_turn(shop: Path, open_log: OpenLog) -> None:
    with open_log(shop) as log:
        for n in range(5):
            log.group(f"i{n}").reset("orders", to="latest")

    class SlowClock(Clock):
        def monotonic(self) -> float:
            self.now_s += GROUPS_S / 2
            return self.now_s

    looked = source(shop, clock=SlowClock())
    seen: list[str] = []
    while len(seen) < 7:
        sample = looked.gather()
        assert len(list(sample.group_names)) == 7
        assert 0 < len(sample.groups) < 7
        seen += sample.groups
    assert set(seen[:7]) == {"g", "h", "i0", "i1", "i2", "i3", "i4"}
    looked.close()


@pytest.mark.damaged
def test_a_partition_that_cannot_be_read_is_a_warning_and_the_others_are_shown(shop: Path) -> None:
    with streamlog.open(shop, read_only=True) as log:
        directory = shop / f"topics/{log['refunds'].id.hex}-0"
    shutil.rmtree(directory)
    looked = source(shop)
    sample = looked.gather()
    assert sample.topics["refunds"].ends == [None]
    assert sample.topics["orders"].ends[1] is not None
    [warning] = sample.warnings
    assert warning.startswith("1 partition that cannot be read: refunds-0: ")
    looked.close()


def test_a_log_of_several_brokers_is_shown_with_what_is_in_sync(path: Path) -> None:
    with streamlog.open(path, brokers=3) as log:
        log.create_topic("t", partitions=2, replication_factor=3, min_insync_replicas=1).send("1")
        log.brokers[2].stop()
        log["t"].send("2")
        looked_at = log.metrics()["replication"]["under_replicated_partitions"]
    assert looked_at >= 2
    looked = source(path)
    sample = looked.gather()
    assert [broker.id for broker in sample.brokers] == [0, 1, 2]
    assert [broker.replicas >= 2 for broker in sample.brokers] == [True] * 3
    assert sample.brokers[2].in_sync < sample.brokers[2].replicas
    assert any("under-replicated: " in warning and "t-0 (2 of 3 in sync)" in warning for warning in sample.warnings)
    looked.close()


# In a pipe


def run(path: Path, *arguments: object) -> Any:
    """In this process, with hardly a wait."""
    command = ["-d", str(path), "top", *map(str, arguments)]
    result = CliRunner().invoke(app, command, env={"NO_COLOR": "1"}, prog_name="streamlog")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_one_frame_is_printed_for_a_script(shop: Path) -> None:
    done = run(shop, "--once", "--every", "0.1")
    assert (done.exit_code, done.stderr) == (0, "")
    found = [line.split() for line in done.stdout.splitlines()]
    assert found[0][:2] == ["streamlog", "top"] and found[0][2] == str(shop)
    assert ["orders", "2", "3"] in [line[:3] for line in found]
    assert ["table", "1", "≤", "1"] in [line[:4] for line in found]
    assert ["g", "Empty", "0", "4", "0", "never"] in found and ["h", "(orders)", "Empty", "0", "0", "0"] in found
    assert "\x1b" not in done.stdout


def test_frames_in_json_are_one_line_each(shop: Path) -> None:
    done = run(shop, "--count", 2, "--every", "0.1", "--json", "--topic", "orders", "-g", "g")
    documents = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(documents) == 2
    assert [topic["name"] for topic in documents[0]["topics"]] == ["orders"]
    assert [(group["group"], group["lag"]) for group in documents[0]["groups"]] == [("g", 4)]
    assert documents[0]["topics"][0]["records_per_s"] == 0.0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--every", "0.01"], 2, "0.1"),
        (["--count", "0"], 2, "1"),
        (["--once", "--count", "3"], 1, "--once and --count 3 contradict each other"),
        (["elsewhere"], 1, "Two directories are given"),
    ],
)
def test_arguments_that_are_wrong_are_refused(shop: Path, arguments: list[str], code: int, said: str) -> None:
    command = ["top", *arguments, "-d", str(shop)]
    done = CliRunner().invoke(app, command, prog_name="streamlog")
    assert done.exit_code == code and said in done.stderr


def test_without_a_log_there_is_one_line_and_no_directory_is_made(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["top", str(tmp_path / "none")], prog_name="streamlog")
    [line] = done.stderr.splitlines()
    assert done.exit_code == 1 and "There is no log in" in line
    assert not (tmp_path / "none").exists()


class Pipe:
    """`streamlog top --json` beside the owner of a log."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def until(self, wanted: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """The first frame that is as wanted."""
        deadline = time.monotonic() + LONG
        assert self.process.stdout is not None
        while True:
            line = self.process.stdout.readline()
            assert line and time.monotonic() < deadline, line or self.process.communicate()
            frame: dict[str, Any] = json.loads(line)
            if wanted(frame):
                return frame

    def end(self) -> None:
        self.process.send_signal(signal.SIGINT)
        _, errors = self.process.communicate(timeout=LONG)
        assert (self.process.returncode, errors) == (130, "")


def topics_of(frame: dict[str, Any]) -> dict[str, int]:
    return {topic["name"]: topic["offsets"] for topic in frame["topics"]}


def test_what_the_owner_does_is_seen_also_when_it_is_killed_and_another_comes(child: Child, path: Path) -> None:
    owner = Owner(child, path)
    owner("t = log.create_topic('t')")
    pipe = Pipe(child(MAIN, "top", path, "--json", "--every", "0.1"))
    assert pipe.until(lambda frame: topics_of(frame) == {"t": 0})["writer"] == f"process {owner.process.pid} writes"
    owner("t.send_many(['x'] * 100)")
    owner("c = log.consumer('t', group='g', enable_auto_commit=False); len(c.poll(max_records=60)); c.commit()")
    frame = pipe.until(lambda frame: frame["groups"] and frame["groups"][0]["lag"] == 40)
    assert topics_of(frame) == {"t": 100}
    assert frame["groups"][0]["lag_by_topic"] == {"t": 40} and frame["groups"][0]["members"] == 1
    assert pipe.until(lambda frame: frame["topics"][0]["records_per_s"] > 0)["topics"][0]["bytes_per_s"] > 0
    owner.kill()
    assert pipe.until(lambda frame: frame["writer"] == "no process writes" and frame["warnings"])["warnings"] == [
        "The last process that wrote to the log ended without closing it."
    ]
    owner.open()
    frame = pipe.until(lambda frame: frame["writer"] == f"process {owner.process.pid} writes")
    owner("log.delete_topic('t'); t = log.create_topic('t', partitions=3); t.send('y', partition=2)")
    assert pipe.until(lambda frame: topics_of(frame) == {"t": 1})["topics"][0]["partition_count"] == 3
    owner("log.create_topic('u').send('z')")
    pipe.until(lambda frame: topics_of(frame) == {"t": 1, "u": 1})
    pipe.end()
    owner.close()


def test_a_log_that_is_removed_and_made_anew_is_followed(child: Child, path: Path) -> None:
    owner = Owner(child, path)
    owner("log.create_topic('t').send('x')")
    pipe = Pipe(child(MAIN, "top", path, "--json", "--every", "0.1"))
    pipe.until(lambda frame: topics_of(frame) == {"t": 1})
    owner.close()
    shutil.rmtree(path)
    [warning] = pipe.until(lambda frame: frame["warnings"])["warnings"]
    assert f"There is no log in {path}" in warning
    owner.open()
    owner("log.create_topic('t', partitions=2).send_many(['x', 'y', 'z'])")
    frame = pipe.until(lambda frame: topics_of(frame) == {"t": 3})
    assert frame["warnings"] == []
    pipe.end()
    owner.close()


def test_a_reader_that_leaves_the_pipe_ends_it(child: Child, path: Path) -> None:
    with streamlog.open(path) as log:
        log.create_topic("t")
    process = child(MAIN, "top", path, "--every", "0.1")
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline().startswith("streamlog top")
    process.stdout.close()
    assert process.wait(timeout=LONG) == 141
    assert process.stderr.read() == ""


# On a terminal


class Terminal:
    """A pseudo-terminal, which is the controlling one of a process that runs the command."""

    def __init__(
        self, *arguments: object, rows: int = 24, columns: int = 80, term: str = "xterm-256color", stdin: Any = None
    ) -> None:
        self.master, slave = pty.openpty()
        self._size(slave, rows, columns)
        self.slave = slave
        self.mode = termios.tcgetattr(slave)
        search_path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", MAIN, "top", *map(str, arguments)],
            stdin=slave if stdin is None else stdin,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(1, termios.TIOCSCTTY, 0),
            env={**environment, "PYTHONPATH": search_path, "TERM": term, "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"},
        )
        self.seen = ""

    @staticmethod
    def _size(descriptor: int, rows: int, columns: int) -> None:
        fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, rows: int, columns: int) -> None:
        self._size(self.master, rows, columns)  # the kernel sends SIGWINCH

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def until(self, *wanted: str) -> str:
        """What was written from the last call on, up to where all that is wanted has come in this order."""
        deadline = time.monotonic() + LONG
        while True:
            at = 0
            for text in wanted:
                at = self.seen.find(text, at)
                if at < 0:
                    break
                at += len(text)
            else:
                found, self.seen = self.seen[:at], self.seen[at:]
                return found
            assert time.monotonic() < deadline, self.seen
            self._read(0.1)

    def _read(self, seconds: float) -> bool:
        if not select.select([self.master], [], [], seconds)[0]:
            return False
        self.seen += os.read(self.master, 1 << 16).decode()
        return True

    def ended(self) -> tuple[int, str]:
        """The exit code, and what was written since `until`."""
        deadline = time.monotonic() + LONG
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.seen
            self._read(0.05)
        while self._read(0.0):
            pass
        return self.process.returncode, self.seen

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for descriptor in (self.master, self.slave):
            with suppress(OSError):
                os.close(descriptor)


@pytest.fixture
def terminal(shop: Path) -> Iterator[Callable[..., Terminal]]:
    made: list[Terminal] = []

    def start(*arguments: object, **options: Any) -> Terminal:
        made.append(Terminal(shop, "--every", "0.2", *arguments, **options))
        return made[-1]

    yield start
    for each in made:
        each.close()


ENTER, LEAVE = "\x1b[?1049h", "\x1b[?1049l"


def is_left_in_order(terminal: Terminal, said: str) -> bool:
    """The main screen with a cursor, and the modes that were before."""
    return said.count(LEAVE) == 1 and said.endswith("\x1b[?25h") and termios.tcgetattr(terminal.slave) == terminal.mode


@pytest.mark.parametrize(("key", "code"), [(b"q", 0), (b"\x03", 130)])
def test_a_key_ends_it_and_the_terminal_is_as_before(terminal: Callable[..., Terminal], key: bytes, code: int) -> None:
    top = terminal()
    top.until(ENTER, "streamlog top", "orders", "refunds", "group", "q quit")
    top.until("q quit")
    assert not termios.tcgetattr(top.slave)[3] & termios.ECHO
    top.type(b"x\x1b[A")  # keys without a meaning
    top.type(key)
    ended, said = top.ended()
    assert ended == code
    assert is_left_in_order(top, said)
    assert "Traceback" not in said


def test_sigterm_leaves_the_terminal_as_before(terminal: Callable[..., Terminal]) -> None:
    top = terminal()
    top.until("q quit")
    top.process.send_signal(signal.SIGTERM)
    ended, said = top.ended()
    assert ended == 143 and is_left_in_order(top, said)


def test_a_new_size_is_filled(terminal: Callable[..., Terminal]) -> None:
    top = terminal("--count", 1000)
    top.until("q quit")
    top.resize(40, 150)
    deadline = time.monotonic() + LONG
    while True:
        frame = top.until("\x1b[H").removesuffix("\x1b[H")
        lines = [re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", line).rstrip("\r") for line in frame.split("\n")]
        if len(lines) == 40:
            break
        assert time.monotonic() < deadline
    assert {len(line) for line in lines} == {150}
    top.type(b"q")
    assert top.ended()[0] == 0


def test_ctrl_z_gives_the_terminal_back_until_it_goes_on(terminal: Callable[..., Terminal]) -> None:
    top = terminal()
    top.until("q quit")
    top.type(b"\x1a")
    assert os.WIFSTOPPED(os.waitpid(top.process.pid, os.WUNTRACED)[1])
    while top._read(0.0):
        pass
    assert is_left_in_order(top, top.seen)
    top.seen = ""
    top.process.send_signal(signal.SIGCONT)
    top.until(ENTER, "streamlog top", "q quit")
    top.type(b" ")
    top.until("paused")
    top.type(b"q")
    assert top.ended()[0] == 0


def test_a_terminal_that_cannot_move_the_cursor_gets_frame_after_frame(terminal: Callable[..., Terminal]) -> None:
    top = terminal("--count", 2, term="dumb")
    ended, said = top.ended()
    assert (ended, said.count("streamlog top"), "\x1b" in said) == (0, 2, False)
    assert termios.tcgetattr(top.slave) == top.mode


def test_a_frame_on_a_terminal_is_printed_with_once_and_stays(terminal: Callable[..., Terminal]) -> None:
    ended, said = terminal("--once").ended()
    assert ended == 0 and said.count("streamlog top") == 1 and ENTER not in said


def test_without_keys_to_read_it_goes_on_until_a_signal(terminal: Callable[..., Terminal]) -> None:
    top = terminal(stdin=subprocess.DEVNULL)
    for _ in range(3):
        assert "q quit" not in top.until("streamlog top", "orders")
    assert termios.tcgetattr(top.slave) == top.mode
    top.process.send_signal(signal.SIGINT)
    assert top.ended()[0] == 130
