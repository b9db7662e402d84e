"""The command with standard streams that are closed, full or broken, and with arguments that are not UTF-8."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import streamlog

OpenLog = Callable[..., streamlog.StreamLog]

# Runs commands, each in a fork of a process that has imported everything: a new interpreter for each takes too long.
# Python's own start leaves None for a stream whose descriptor is closed, and so does this.
FORKS = """
import json, os, sys
from streamlog.cli import groups, inspect, main, records, repair, topics
from streamlog.cli.top import command

def run(arguments, streams):
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if streams[name] is None:
            os.close(number)
            setattr(sys, name, None)
        else:
            opened = os.open(streams[name], os.O_RDONLY if mode == "r" else os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(opened, number)
            os.close(opened)
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
    sys.argv[1:] = arguments
    return main()

for line in sys.stdin:
    arguments, streams = json.loads(line)
    child = os.fork()
    if not child:
        os._exit(run(arguments, streams))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Done(NamedTuple):
    code: int
    out: str
    err: str


class Forks:
    """`forks("topic", "list", closed=["stdout"])` runs a command with these streams closed."""

    def __init__(self, process: subprocess.Popen[str], directory: Path, files: Path) -> None:
        self._process = process
        self._directory = directory
        self._files = files

    def __call__(
        self, *arguments: str, closed: Any = (), stdin: str = "x\n", input_file: str = "", **given: str
    ) -> Done:
        streams = {name: str(self._files / name) for name in ("stdin", "stdout", "stderr")}
        for path in streams.values():
            Path(path).write_text("")
        Path(streams["stdin"]).write_text(stdin)
        if input_file:
            given["stdin"] = input_file
        command = ["-d", str(self._directory), *arguments]
        assert self._process.stdin is not None and self._process.stdout is not None
        print(
            json.dumps([command, {**streams, **given, **dict.fromkeys(closed)}]), file=self._process.stdin, flush=True
        )
        code = int(self._process.stdout.readline())
        return Done(code, *(Path(streams[name]).read_text() for name in ("stdout", "stderr")))


@pytest.fixture
def forks(path: Path, tmp_path: Path, open_log: OpenLog, child: Callable[..., subprocess.Popen[str]]) -> Forks:
    """Runs commands on a log with a topic `t` of three records and a group `g`; it is verified when the test ends."""
    with open_log() as log:
        log.create_topic("t").send_many(["a", "b", "c"])
    forks = Forks(child(FORKS), path, tmp_path)
    assert forks("group", "reset", "g", "t", "-o", "beginning").code == 0
    return forks


def commands(path: Path) -> dict[str, list[str]]:
    """One call of each command that succeeds, in an order in which it does."""
    segment = str(max(path.glob("topics/*/*.log"), key=lambda file: file.stat().st_size))
    return {
        "help": ["--help"],
        "version": ["--version"],
        "topic list": ["topic", "list"],
        "topic list --json": ["topic", "list", "--json"],
        "topic create": ["topic", "create", "u"],
        "topic describe": ["topic", "describe", "t"],
        "topic delete": ["topic", "delete", "u"],
        "produce": ["produce", "t"],
        "produce --json": ["produce", "t", "--json"],
        "produce -F": ["produce", "t", "-F", segment],
        "consume": ["consume", "t", "-c", "3"],
        "consume -g": ["consume", "t", "-g", "g", "-c", "1"],
        "consume -f": ["consume", "t", "-f", "-c", "3", "--format", "long"],
        "group list": ["group", "list"],
        "group describe": ["group", "describe", "g"],
        "group reset": ["group", "reset", "g", "-o", "beginning"],
        "group delete": ["group", "delete", "g"],
        "top --once": ["top", "--once", "--every", "0.1"],
        "top --json": ["top", "--count", "1", "--every", "0.1", "--json"],
        "verify": ["verify"],
        "verify --json": ["verify", "--json"],
        "repair": ["repair", str(path), f"{path}-copy"],
        "dump": ["dump", "-r", segment],
        "dump --json": ["dump", "--json", segment],
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "closed", [["stdin"], ["stdout"], ["stderr"], ["stdin", "stdout", "stderr"]], ids=lambda names: "+".join(names)
)
def test_a_command_works_without_the_streams_it_does_not_need(forks: Forks, path: Path, closed: list[str]) -> None:
    needs = {"stdin": ("produce", "produce --json"), "stdout": ("consume", "consume -g", "consume -f")}
    for name, arguments in commands(path).items():
        done = forks(*arguments, closed=closed, stdin="{}\n")
        lacks = [stream for stream in closed if name in needs.get(stream, ())]
        assert done.code == (1 if lacks else 0), (name, done)
        assert "Traceback" not in done.err
        if lacks and "stderr" not in closed:
            (line,) = done.err.splitlines()
            assert line.startswith(f"streamlog: Standard {'input' if lacks == ['stdin'] else 'output'} is closed")


@pytest.mark.slow
def test_a_command_that_cannot_print_its_records_commits_none(forks: Forks, open_log: OpenLog) -> None:
    assert forks("consume", "t", "-g", "new", closed=["stdout"]).code == 1
    assert forks("consume", "t", "-g", "new", stdout="/dev/full").code == 1
    with open_log() as log:
        assert log.group("new").committed() == {}


@pytest.mark.slow
def test_output_that_cannot_be_written_is_one_line_and_no_traceback(forks: Forks, path: Path) -> None:
    for name, arguments in commands(path).items():
        done = forks(*arguments, stdin="{}\n", stdout="/dev/full")
        if name.startswith("produce") and "--json" not in name:
            assert done.code == 0  # it prints nothing on stdout
        else:
            said = "streamlog: The output could not be written: No space left on device.\n"
            assert (done.code, done.err) in ((1, said), (1, f"1 record sent to t.\n{said}")), name


@pytest.mark.slow
def test_input_that_cannot_be_read_is_one_line_and_names_it(forks: Forks) -> None:
    for name, done in (
        ("standard input", forks("produce", "t", input_file="/proc/self/mem")),
        ("/proc/self/mem", forks("produce", "t", "-F", "/proc/self/mem")),
    ):
        assert (done.code, done.err) == (1, f"streamlog: [Errno 5] Input/output error: '{name}'\n")


@pytest.mark.slow
def test_messages_that_cannot_be_written_change_no_exit_code_of_a_failure(forks: Forks) -> None:
    assert forks("topic", "describe", "u", stderr="/dev/full").code == 1
    assert forks("topic", "list", stdout="/dev/full", stderr="/dev/full").code == 1
    assert forks("topic", "list", stderr="/dev/full").code == 0


@pytest.mark.slow
def test_the_interpreter_has_nothing_to_complain_of_at_its_exit(path: Path, forks: Forks) -> None:
    command = f"{sys.executable} -m streamlog -d {path}"
    for streams, code in (("topic list >&-", 0), ("topic list 2>&- >/dev/full", 1), ("nosuch 2>&-", 2)):
        shell = subprocess.run(["bash", "-c", f"{command} {streams}"], capture_output=True, text=True, timeout=60)
        assert (shell.returncode, shell.stderr) == (code, ""), streams
    piped = f"set -o pipefail; {command} --help | true"
    shell = subprocess.run(["bash", "-c", piped], capture_output=True, text=True, timeout=60)
    assert (shell.returncode, shell.stderr) in ((0, ""), (141, ""))


# Arguments that are not UTF-8

NOT_UTF8 = os.fsdecode(b"\xffx")


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["topic", "create", NOT_UTF8],
        ["topic", "create", "u", "-X", NOT_UTF8],
        ["topic", "create", "u", "-X", f"retention_ms={NOT_UTF8}"],
        ["topic", "describe", NOT_UTF8],
        ["topic", "delete", NOT_UTF8],
        ["produce", NOT_UTF8],
        ["produce", "t", "-H", f"{NOT_UTF8}=v"],
        ["produce", "t", "-z", NOT_UTF8],
        ["consume", "t", "-o", NOT_UTF8],
        ["consume", "t", "-o", f"@{NOT_UTF8}"],
        ["group", "describe", NOT_UTF8],
        ["group", "delete", NOT_UTF8],
        ["group", "reset", "g", "-o", NOT_UTF8],
        ["verify", NOT_UTF8],
        ["dump", NOT_UTF8],
    ],
    ids=lambda arguments: " ".join(arguments[:-1]),
)
def test_an_argument_that_is_not_utf8_is_refused_in_one_line(forks: Forks, arguments: list[str]) -> None:
    done = forks(*arguments)
    assert done.code == 1
    (line,) = done.err.splitlines()
    assert line.startswith("streamlog: ") and "\\udcffx" in line


def test_a_separator_and_the_value_of_a_header_may_be_any_bytes(forks: Forks, open_log: OpenLog, path: Path) -> None:
    separator = os.fsdecode(b"\xff")
    (path.parent / "lines").write_bytes(b"k\xffv\n")
    arguments = ["produce", "t", "-F", str(path.parent / "lines"), "-k", separator, "-H", f"h={NOT_UTF8}"]
    assert forks(*arguments).err == "1 record sent to t.\n"
    with open_log() as log:
        [record] = log["t"].read(start=3)
    assert (record.key, record.value, record.headers) == (b"k", b"v", (("h", b"\xffx"),))


@pytest.mark.slow
def test_a_group_whose_name_is_not_utf8_is_shown(forks: Forks) -> None:
    assert forks("group", "reset", NOT_UTF8, "t", "-o", "end").code == 0
    assert "\\udcffx" in forks("group", "list").out
    assert NOT_UTF8 in [group["group"] for group in json.loads(forks("group", "list", "--json").out)]
    assert forks("group", "describe", NOT_UTF8).out.startswith("\\udcffx  Empty")
