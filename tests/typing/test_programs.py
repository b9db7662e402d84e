"""Programs that mypy and pyright accept in strict mode, and programs with mistakes that they find.

A line of `refused/` with a mistake ends with `# E: KIND, RULE`: the kind of error that mypy reports there, and the rule
that pyright names. The checkers report these and no others. Those of `accepted/` are run too, and the examples are checked.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
ACCEPTED = sorted((HERE / "accepted").glob("*.py"))
REFUSED = sorted((HERE / "refused").glob("*.py"))
# Those of users, but for two that need packages which the extra `test` does not have.
EXAMPLES = sorted(
    each for each in (REPOSITORY / "examples").glob("*.py") if each.stem not in ("flights", "failover", "exactly_once")
)
PROGRAMS = [*ACCEPTED, *EXAMPLES, *REFUSED]
MYPY_LINE = re.compile(r"(?P<path>.+?):(?P<line>\d+): error: (?P<message>.*)  \[(?P<kind>[\w-]+)\]")
MARK = re.compile(r"# E: (?P<mypy>[\w-]+), (?P<pyright>\w+)$")


class Found(NamedTuple):
    """An error that a checker reports, or is to report."""

    program: str
    line: int
    kind: str


def ran(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        capture_output=True,
        text=True,
        timeout=100,
    )


def cannot_run(why: str) -> None:
    """Skip the tests of a checker, but not in CI."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(why)


def name_of(path: str) -> str:
    """A program's path in this directory; another file's whole path."""
    whole = Path(os.path.normpath(REPOSITORY / path))
    return str(whole.relative_to(HERE)) if whole.is_relative_to(HERE) else str(whole)


def of_mypy(output: str) -> Iterator[Found]:
    for line in output.splitlines():
        if error := MYPY_LINE.fullmatch(line):
            yield Found(name_of(error["path"]), int(error["line"]), error["kind"])


def of_pyright(report: dict[str, Any]) -> Iterator[Found]:
    for error in report["generalDiagnostics"]:
        if error["severity"] in ("error", "warning"):
            place = error["range"]["start"]["line"] + 1
            yield Found(name_of(error["file"]), place, error.get("rule", "no rule"))


@pytest.fixture(scope="module")
def mypy() -> list[Found]:
    """What mypy reports, of one run over all programs."""
    if find_spec("mypy") is None:
        cannot_run("mypy is not installed; the extra `test` has it")
    options = [
        "--strict",
        "--warn-unreachable",
        "--follow-imports=silent",
        "--explicit-package-bases",
        "--config-file=",
    ]
    cache = REPOSITORY / ".mypy_cache" / "programs"
    done = ran("mypy", *options, "--no-pretty", "--cache-dir", str(cache), *map(str, PROGRAMS))
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return list(of_mypy(done.stdout))


@pytest.fixture(scope="module")
def pyright(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """What pyright reports, of one run over all programs. It sees the library as an installed package."""
    if find_spec("pyright") is None:
        cannot_run("pyright is not installed; the extra `test` has it")
    version = ran("pyright", "--version")
    if version.returncode:
        cannot_run(f"pyright does not run, it may find no node: {(version.stdout + version.stderr).splitlines()[-1:]}")
    project = tmp_path_factory.mktemp("pyright") / "pyrightconfig.json"
    project.write_text(json.dumps({"typeCheckingMode": "strict"}))
    done = ran("pyright", "-p", str(project), "--pythonpath", sys.executable, "--outputjson", *map(str, PROGRAMS))
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return list(of_pyright(json.loads(done.stdout)))


def marked(checker: str) -> set[Found]:
    """The errors that a checker is to report."""
    return {
        Found(name_of(str(program)), number, mark[checker])
        for program in PROGRAMS
        for number, line in enumerate(program.read_text(encoding="utf-8").splitlines(), 1)
        if (mark := MARK.search(line))
    }


@pytest.mark.slow
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_a_checker_accepts_what_is_right(checker: str, request: pytest.FixtureRequest) -> None:
    lines = {(each.program, each.line) for each in marked(checker)}
    wrong = [each for each in request.getfixturevalue(checker) if (each.program, each.line) not in lines]
    assert wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_a_checker_finds_each_mistake(checker: str, request: pytest.FixtureRequest) -> None:
    assert sorted(marked(checker) - set(request.getfixturevalue(checker))) == []


@pytest.mark.parametrize("program", REFUSED, ids=lambda path: path.stem)
def test_a_refused_program_says_which_lines_are_mistakes(program: Path) -> None:
    lines = program.read_text(encoding="utf-8").splitlines()
    marks = [line for line in lines if "# E" in line]
    assert len(marks) >= 20
    assert [line for line in marks if MARK.search(line) is None] == []


@pytest.mark.parametrize("program", ACCEPTED, ids=lambda path: path.stem)
def test_an_accepted_program_runs(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert MARK.search(program.read_text(encoding="utf-8")) is None
    runpy.run_path(str(program), run_name="__main__")
