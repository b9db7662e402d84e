"""What is written about the library is true: README runs, examples print what they say, nothing public is mute."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import inspect
import io
import os
import pkgutil
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import streamlog

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
CI = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
HANDLES = (
    streamlog.StreamLog,
    streamlog.Topic,
    streamlog.Producer,
    streamlog.Consumer,
    streamlog.ConsumerGroup,
    streamlog.Workers,
    streamlog.Delivery,
    streamlog.RecordBatch,
    streamlog.Record,
)
EXTRAS = ("typer", "rich", "click", "cramjam")  # what a module of an extra may find missing


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def modules() -> Iterator[str]:
    yield "streamlog"
    for found in pkgutil.walk_packages(streamlog.__path__, "streamlog."):
        if not found.name.endswith("__main__"):
            yield found.name


def load(name: str) -> ModuleType:
    """The module, or a skipped test if it belongs to an extra that is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] not in EXTRAS:
            raise
        pytest.skip(f"needs {error.name}")


# -- README ----------------------------------------------------------------------------------------------


def test_every_line_of_the_readme_prints_what_stands_behind_its_arrow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])))
    names: dict[str, Any] = {"__name__": "readme"}
    with contextlib.ExitStack() as opened:
        opened.callback(lambda: "log" in names and names["log"].close())
        for number, block in enumerate(blocks("python"), 1):
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(block, f"README.md, block {number}", "exec"), names)
            assert printed.getvalue().splitlines() == re.findall(r"# -> (.*)$", block, re.MULTILINE), block
        tests = [value for name, value in names.items() if name.startswith("test_")]
        assert tests
        for test in tests:
            test()


def test_the_terminal_session_of_the_readme_is_what_the_command_answers(tmp_path: Path) -> None:
    pytest.importorskip("typer")
    bash = shutil.which("bash") or pytest.skip("needs bash")
    (session,) = blocks("console")
    command = f'streamlog() {{ {shlex.quote(sys.executable)} -m streamlog "$@"; }}\n'
    # Each command line is echoed before it runs, as a terminal does, so the whole is compared as it is printed.
    lines = re.findall(r"^\$ (.*)$", session, re.MULTILINE)
    script = command + "".join(f"echo {shlex.quote('$ ' + line)}\n{line}\n" for line in lines)
    environment = {k: v for k, v in os.environ.items() if k != "STREAMLOG_DIR"}
    search = os.pathsep.join(filter(None, [str(REPOSITORY), environment.get("PYTHONPATH")]))
    terminal = subprocess.Popen(
        [bash, "-ec", script],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": search, "COLUMNS": "100"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = terminal.communicate(timeout=60)
    finally:
        if terminal.poll() is None:  # a command that hangs goes with its shell
            os.killpg(terminal.pid, signal.SIGKILL)
            terminal.communicate()
    # Older versions of rich end a progress bar that is not shown with an empty line.
    assert [line.rstrip() for line in printed.splitlines() if line.strip()] == session.splitlines()
    assert terminal.returncode == 0


def test_the_two_commands_at_the_top_of_the_readme_are_the_ones_that_are_checked() -> None:
    first = blocks("")[0].splitlines()
    assert first == [
        "pip install . && python examples/quickstart.py",
        "pip install '.[test]' && python -m pytest",
    ]
    for line in first:
        assert re.search(rf"^\s*{re.escape(line)}$", CI, re.MULTILINE), f"not in .ci/run: {line}"


def test_what_the_readme_links_to_is_there() -> None:
    titles = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    headings = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in headings
        else:
            assert (REPOSITORY / target).exists(), target
    for path in re.findall(r"`((?:\.ci|[a-z]+)/[\w./]*)`", README):
        assert (REPOSITORY / path).exists() or (REPOSITORY / "streamlog" / path).exists(), path


def test_every_example_is_named_in_the_readme() -> None:
    for example in sorted((REPOSITORY / "examples").glob("*.py")):
        assert example.name in README


def test_the_readme_names_no_setting_that_does_not_exist() -> None:
    from streamlog import config

    known = {
        field
        for kind in (config.TopicConfig, config.ProducerConfig, config.ConsumerConfig)
        for field in kind.__dataclass_fields__
    }
    known |= set(inspect.signature(streamlog.open).parameters) | {"retry_backoff_ms", "time_ms", "now_ms"}
    named = set(re.findall(r"\b[a-z_]+_(?:ms|bytes|records)\b", README))
    assert named <= known, sorted(named - known)


# -- docstrings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(modules()))
def test_the_examples_of_a_module_print_what_they_say(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load(name)
    monkeypatch.chdir(tmp_path)
    output = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        runner.run(test, out=output.write)
    assert runner.failures == 0, output.getvalue()


@pytest.mark.parametrize("name", list(modules()))
def test_every_module_says_what_it_is(name: str) -> None:
    assert (load(name).__doc__ or "").strip()


@pytest.mark.parametrize("name", streamlog.__all__)
def test_every_public_name_has_a_docstring_of_its_own(name: str) -> None:
    value = getattr(streamlog, name)
    text = value.__doc__ or ""
    assert text.strip(), name
    assert not text.startswith(f"{name}("), f"{name} has the docstring that NamedTuple makes up"


@pytest.mark.parametrize("handle", HANDLES, ids=lambda handle: handle.__name__)
def test_every_public_method_of_a_handle_has_a_docstring(handle: type) -> None:
    members = {
        name: member
        for name, member in inspect.getmembers(handle)
        if not name.startswith("_") and (inspect.isroutine(member) or isinstance(member, property))
    }
    if issubclass(handle, tuple):
        members = {name: member for name, member in members.items() if name not in vars(tuple)}
    mute = [name for name, member in members.items() if not (inspect.getdoc(member) or "").strip()]
    assert not mute


@pytest.mark.parametrize("handle", HANDLES, ids=lambda handle: handle.__name__)
def test_every_handle_shows_how_it_is_used(handle: type) -> None:
    assert doctest.DocTestFinder(recurse=False).find(handle, handle.__name__)[0].examples


def test_every_name_that_is_exported_is_there_and_none_is_forgotten() -> None:
    assert sorted(streamlog.__all__) == list(streamlog.__all__)
    errors = {
        name
        for name, value in vars(streamlog.errors).items()
        if isinstance(value, type) and issubclass(value, streamlog.StreamlogError)
    }
    assert errors <= set(streamlog.__all__)
