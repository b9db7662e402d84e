"""What is written about the library is true: the code in documents runs, docstrings print what they say, nothing public is
without a docstring, and no text names a file that does not exist.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import doctest
import importlib
import importlib.metadata
import inspect
import io
import os
import pkgutil
import pydoc
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tokenize
import tomllib
from collections import abc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import pytest

import streamlog
import streamlog.testing
from streamlog import config
from streamlog.kafka import Control, Listener
from streamlog.records.core import core
from streamlog.testing import pytest_plugin

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "streamlog"
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
DOCUMENTS = {
    str(path.relative_to(REPOSITORY)): path.read_text(encoding="utf-8")
    for path in sorted(
        {
            REPOSITORY / "README.md",
            *(path for top in ("streamlog", "benchmarks", "tests") for path in (REPOSITORY / top).rglob("*.md")),
        }
    )
}
CI = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
HANDLES = (
    streamlog.StreamLog,
    streamlog.Topic,
    streamlog.Producer,
    streamlog.Consumer,
    streamlog.ConsumerGroup,
    streamlog.Workers,
    streamlog.Broker,
    streamlog.Reassignment,
    streamlog.Delivery,
    streamlog.ExternalOffsets,
    streamlog.RecordBatch,
    streamlog.Record,
)
PUBLIC = [
    value
    for module in (streamlog, streamlog.retention, streamlog.testing)
    for value in (getattr(module, name) for name in module.__all__)
    if callable(value) and not (isinstance(value, type) and issubclass(value, BaseException))
    if get_origin(value) is None  # a name of a type
]
ERRORS = [value for value in vars(streamlog.errors).values() if inspect.isclass(value) and issubclass(value, Exception)]
EXTRAS = ("typer", "rich", "click", "cramjam", "pytest")  # what a module of an extra may find missing


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def with_blocks(language: str) -> list[str]:
    return [name for name, text in DOCUMENTS.items() if blocks(language, text)]


def rows_of(text: str) -> list[list[str]]:
    """The cells of every row of every table, headings left out."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return [
        row
        for at, row in enumerate(rows)
        if not set(row[0]) <= set("-:") and (at + 1 == len(rows) or not set("".join(rows[at + 1])) <= set("-:"))
    ]


def modules() -> Iterator[str]:
    yield "streamlog"
    for found in pkgutil.walk_packages(streamlog.__path__, "streamlog."):
        if not found.name.endswith("__main__") and (found.name != "streamlog._core" or core is not None):
            yield found.name


def load(name: str) -> ModuleType:
    """The module, or a skipped test if it belongs to an extra that is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] not in EXTRAS:
            raise
        pytest.skip(f"needs {error.name}")


# -- documents -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", with_blocks("python"))
def test_every_line_of_a_document_prints_what_follows_its_arrow(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])))
    names: dict[str, Any] = {"__name__": "document"}
    with contextlib.ExitStack() as opened:
        opened.callback(lambda: "log" in names and names["log"].close())
        for number, block in enumerate(blocks("python", DOCUMENTS[name]), 1):
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(block, f"{name}, block {number}", "exec"), names)
            expected = re.findall(r"# -> (.*)$", block, re.MULTILINE)
            assert printed.getvalue().splitlines() == expected, block
        for test in [value for key, value in names.items() if key.startswith("test_")]:
            if not inspect.signature(test).parameters:
                test()
    with_fixtures = [
        block for block in blocks("python", DOCUMENTS[name]) if re.search(r"^def test_\w+\(\w", block, re.M)
    ]
    if with_fixtures:
        passes_in_pytest("\n".join(with_fixtures), tmp_path)


def passes_in_pytest(tests: str, folder: Path) -> None:
    """Run tests that have fixtures as a project's own, which has a file with them and no other."""
    (folder / "test_document.py").write_text(tests, encoding="utf-8")
    # Of an environment that was made before the project had a plugin, the module is loaded by its name.
    is_installed = bool(importlib.metadata.entry_points(group="pytest11", name="streamlog"))
    plugin = "streamlog" if is_installed else "streamlog.testing.pytest_plugin"
    command = [sys.executable, "-m", "pytest", "-q", "-p", plugin, "-p", "no:cacheprovider", "test_document.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100)
    count = len(re.findall(r"^def test_", tests, re.M))
    assert f"{count} passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", with_blocks("console"))
def test_a_session_in_a_terminal_is_what_the_command_answers(name: str, tmp_path: Path) -> None:
    pytest.importorskip("typer")
    bash = shutil.which("bash") or pytest.skip("needs bash")
    (session,) = blocks("console", DOCUMENTS[name])
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
        printed, _ = terminal.communicate(timeout=110)
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
        # The tests with --full and on each core: those that the command runs, and the slow ones.
        assert re.search(rf"^\s*{re.escape(line)}( --full -n auto --.*)?$", CI, re.MULTILINE), f"not in .ci/run: {line}"


@pytest.mark.parametrize("name", list(DOCUMENTS))
def test_what_a_document_links_to_is_there(name: str) -> None:
    text = DOCUMENTS[name]
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    headings = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert target[1:] in headings if target.startswith("#") else (REPOSITORY / target).exists(), target
    for path in re.findall(r"`((?:\.ci|[a-z]+)/[\w./]+)`", text):
        assert (REPOSITORY / path).exists() or (PACKAGE / path).exists(), path


def test_the_readme_leads_to_every_document_and_example() -> None:
    for path in (*DOCUMENTS, "CHANGELOG.md"):
        assert path in README, path
    for example in sorted((REPOSITORY / "examples").glob("*.py")):
        assert example.name in README


def test_every_document_is_installed_with_the_package() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    assert "**/*.md" in project["tool"]["setuptools"]["package-data"]["streamlog"]


def missing_modules(text: str, source: Path) -> list[str]:
    """The files `….py` that a text names and that exist neither in the repository or the package nor beside the text."""
    return [
        path
        for path in re.findall(r"(?<![\w./-])((?:\w+/)*\w+\.py)\b", text)
        if not any((folder / path).exists() for folder in (REPOSITORY, PACKAGE, REPOSITORY / "examples", source.parent))
    ]


@pytest.mark.parametrize("name", list(DOCUMENTS))
def test_a_document_names_no_module_that_does_not_exist(name: str) -> None:
    assert not missing_modules(DOCUMENTS[name], REPOSITORY / name)


def prose_of(path: Path) -> str:
    """The docstrings and comments of a module."""
    source = path.read_text(encoding="utf-8")
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    texts = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(source)) if isinstance(node, documented)]
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return "\n".join([*texts, *(token.string for token in tokens if token.type == tokenize.COMMENT)])


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["streamlog", "benchmarks", "examples", "tests"])
def test_the_source_names_no_module_that_does_not_exist(folder: str) -> None:
    wrong = {
        str(path.relative_to(REPOSITORY)): missing
        for path in sorted((REPOSITORY / folder).rglob("*.py"))
        if (missing := missing_modules(prose_of(path), path))
    }
    assert not wrong


def test_a_mention_of_a_module_that_does_not_exist_is_found() -> None:
    text = "see `storage/log.py`, `gone.py` and broker/gone.py"
    assert missing_modules(text, PACKAGE / "client" / "__init__.py") == ["gone.py", "broker/gone.py"]


# -- the maps of the packages ----------------------------------------------------------------------------

PACKAGES = sorted(path.parent for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE)


def mentioned(docstring: str) -> set[str]:
    """The names in backticks, of `a/b` the first part."""
    return {name.partition("/")[0] for name in re.findall(r"`([\w/]+)`", docstring)}


def explained(docstring: str) -> set[str]:
    """The names that a list explains, as "- `a`, `b`: …" or "- `a`: … `b`: …"."""
    items = "\n".join(re.findall(r"^- .*(?:\n  .*)*", docstring, re.MULTILINE))
    heads = re.findall(r"(?:^- |[.;] |^  )((?:`[\w/]+`(?:, | and )?)+):", items, re.MULTILINE)
    return {name for head in heads for name in mentioned(head)}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_docstring_of_a_package_says_where_everything_is(package: Path) -> None:
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8"))) or ""
    modules = {path.stem for path in package.glob("*.py")} - {"__init__", "__main__"}
    modules |= {path.parent.name for path in package.glob("*/__init__.py")}
    assert modules - mentioned(docstring) == set(), "name these modules in the docstring"
    assert explained(docstring) - modules == set(), "these are no modules of the package"


def test_a_list_explains_the_modules_before_a_colon() -> None:
    text = "The log.\n\n- `log`, `tail`: see `index`. `scan`:\n  walks.\n- `verify/check`: `Report`.\n\nSee `log`; `time`: it."
    assert explained(text) == {"log", "tail", "scan", "verify"}
    assert mentioned(text) == {"log", "tail", "scan", "verify", "index", "Report", "time"}


# -- the reference of the settings, in docstrings --------------------------------------------------------


class Setting(NamedTuple):
    """One setting as a docstring has it: `name: kind = default`, with an indented meaning."""

    kind: str
    default: str
    meaning: str


def settings_of(documented: object) -> dict[str, Setting]:
    """Those that a docstring describes; also the fields of a value, which are in the same form."""
    text = inspect.getdoc(documented) or ""
    found = re.findall(r"^(\w+): (.+?)(?: = (.+))?\n((?:    .+(?:\n|$))+)", text, re.MULTILINE)
    return {name: Setting(kind, default, meaning) for name, kind, default, meaning in found}


def defaults_of_new_topics() -> dict[str, object]:
    with streamlog.open() as log:
        topic = log.create_topic("t")
        return {"partitions": topic.partitions, "replication_factor": len(topic.partition(0).replicas)}


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return {name: each for name, each in inspect.signature(function).parameters.items() if name != "self"}


CONFIGS: list[tuple[Any, Callable[[], dict[str, object]]]] = [
    (streamlog.TopicConfig, lambda: config.TopicConfig().public()),
    (streamlog.TopicDefaults, defaults_of_new_topics),
    (streamlog.ProducerConfig, lambda: vars(config.ProducerConfig())),
    (streamlog.ConsumerConfig, lambda: vars(config.ConsumerConfig())),
]
CALLS = [streamlog.open, streamlog.StreamLog.consumer, streamlog.ConsumerGroup.start]
VALUES = [
    value
    for value in (getattr(streamlog, name) for name in streamlog.__all__)
    if isinstance(value, type) and (hasattr(value, "_fields") or dataclasses.is_dataclass(value))
]
VALUES += [getattr(streamlog.retention, name) for name in streamlog.retention.__all__ if name != "Policy"]
CALLS_WITH_CONFIG = [
    *(streamlog.open, streamlog.StreamLog.create_topic, streamlog.Topic.update_config),
    *(streamlog.StreamLog.producer, streamlog.StreamLog.consumer, streamlog.ConsumerGroup.start),
]
SIZES = ("batch_size", "buffer_memory", "max_request_size")


def words_of(hint: Any) -> set[str]:
    """What the description of a type has to name: its plain types, and each value of a Literal."""
    if get_origin(hint) in (Union, UnionType):
        return set().union(*(words_of(each) for each in get_args(hint)))
    if get_origin(hint) is Literal:
        return {f'"{value}"' if isinstance(value, str) else str(value) for value in get_args(hint)}
    plain = {abc.Callable: "function", abc.Mapping: "mapping", abc.Sequence: "sequence", abc.Iterable: "iterable"}
    names = {NoneType: "None", **plain}
    kind = get_origin(hint) or hint
    return set() if kind is Any or isinstance(kind, TypeVar) else {names.get(kind, kind.__name__)}


@pytest.mark.parametrize(("kind", "defaults"), CONFIGS, ids=[kind.__name__ for kind, _ in CONFIGS])
def test_every_setting_is_in_the_docstring_with_its_default(
    kind: Any, defaults: Callable[[], dict[str, object]]
) -> None:
    said, real = settings_of(kind), defaults()
    inherited = set(streamlog.TopicConfig.__annotations__) if kind is streamlog.TopicDefaults else set()
    assert set(said) == set(kind.__annotations__) - inherited
    assert {name: ast.literal_eval(setting.default) for name, setting in said.items()} == {
        name: real[name] for name in said
    }


@pytest.mark.parametrize("kind", [*(kind for kind, _ in CONFIGS), *VALUES], ids=lambda kind: kind.__name__)
def test_the_docstring_names_every_type_of_a_setting_or_field(kind: Any) -> None:
    hints = get_type_hints(kind)
    for name, setting in settings_of(kind).items():
        assert {word for word in words_of(hints[name]) if word not in setting.kind} == set(), name


@pytest.mark.parametrize("kind", VALUES, ids=lambda kind: kind.__name__)
def test_the_docstring_of_a_value_lists_its_fields(kind: Any) -> None:
    fields = kind._fields if issubclass(kind, tuple) else tuple(field.name for field in dataclasses.fields(kind))
    assert tuple(settings_of(kind)) == fields


@pytest.mark.parametrize(
    ("kind", "name", "known"),
    [
        (streamlog.TopicConfig, "partitioner", config.PARTITIONERS),
        (streamlog.TopicConfig, "message_timestamp_type", config.TIMESTAMP_TYPES),
        (streamlog.ProducerConfig, "compression_type", config.CODECS),
        (streamlog.ConsumerConfig, "partition_assignment_strategy", config.ASSIGNORS),
    ],
)
def test_a_setting_that_is_one_of_several_names_lists_them(kind: Any, name: str, known: tuple[str, ...]) -> None:
    said = settings_of(kind)[name]
    assert set(re.findall(r'"([\w-]+)"', said.default + said.meaning)) == set(known)


def test_a_producer_and_a_consumer_take_exactly_the_settings_that_are_documented() -> None:
    assert set(settings_of(streamlog.ProducerConfig)) == set(vars(config.ProducerConfig()))
    own = set(parameters_of(streamlog.StreamLog.consumer)) - {"topics", "config"}
    assert set(settings_of(streamlog.ConsumerConfig)) | own == set(vars(config.ConsumerConfig()))


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__qualname__)
def test_every_parameter_of_a_call_with_settings_is_in_the_docstring_with_its_default(call: Any) -> None:
    parameters, said = parameters_of(call), settings_of(call)
    assert set(said) == set(parameters)
    for name, parameter in parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            assert re.search(r"help\(streamlog\.(\w+)\)", said[name].meaning), name
        elif parameter.default is parameter.empty:
            assert said[name].default == "", name
        elif name != "path":  # without one the log is temporary
            assert ast.literal_eval(said[name].default) == parameter.default, name


@pytest.mark.parametrize("call", CALLS_WITH_CONFIG, ids=lambda call: call.__qualname__)
def test_a_call_that_takes_settings_names_the_class_that_lists_them(call: Any) -> None:
    (parameter,) = [each for each in parameters_of(call).values() if each.kind is each.VAR_KEYWORD]
    assert f"streamlog.{parameter.annotation.removeprefix('Unpack[').removesuffix(']')}" in call.__doc__


def test_run_takes_what_start_takes() -> None:
    assert parameters_of(streamlog.ConsumerGroup.run) == parameters_of(streamlog.ConsumerGroup.start)


@pytest.mark.parametrize("documented", [*(kind for kind, _ in CONFIGS), *CALLS], ids=lambda each: each.__qualname__)
def test_every_setting_names_its_unit(documented: Any) -> None:
    for name, setting in settings_of(documented).items():
        unit = "ms" if name.endswith("_ms") else "bytes" if name.endswith("_bytes") or name in SIZES else None
        unit = "seconds" if name.endswith("timeout") else unit
        assert re.findall(r"\((\w+)\)", setting.kind) == ([unit] if unit else []), name


@pytest.mark.parametrize("kind", [kind for kind, _ in CONFIGS], ids=lambda kind: kind.__name__)
def test_help_begins_with_the_settings(kind: Any) -> None:
    shown = pydoc.plain(pydoc.render_doc(kind))
    assert all(shown.index(f" |  {name}: ") < shown.index("Method resolution order") for name in settings_of(kind))


@pytest.mark.parametrize("name", list(DOCUMENTS))
def test_a_document_names_no_setting_that_does_not_exist(name: str) -> None:
    if name.endswith("FORMAT.md"):
        pytest.skip("names the fields of the format")
    known = {
        field
        for kind in (config.TopicConfig, config.ProducerConfig, config.ConsumerConfig)
        for field in kind.__dataclass_fields__
    }
    known |= {each for call in (streamlog.open, Listener) for each in inspect.signature(call).parameters}
    known |= {"retry_backoff_ms", "time_ms", "now_ms", "timestamp_ms"}
    known |= {setting for setting, *_ in pytest_plugin.INI}
    named = set(re.findall(r"\b[a-z_]+_(?:ms|bytes|records)\b", DOCUMENTS[name]))
    assert named <= known, sorted(named - known)


# -- tables ----------------------------------------------------------------------------------------------


def test_what_rests_on_the_interpreters_lock_is_in_the_module_that_the_table_names() -> None:
    rows = rows_of(DOCUMENTS["streamlog/runtime/FREE_THREADING.md"])
    assert rows
    for where, what, *_ in rows:
        source = "\n".join((PACKAGE / path).read_text(encoding="utf-8") for path in re.findall(r"`([^`]+)`", where))
        names = {part for name in re.findall(r"`([^`]+)`", what) for part in name.split(".")}
        assert names, what
        assert {name for name in names if not re.search(rf"\b{name}\b", source)} == set(), where


def test_the_rows_of_the_benchmark_in_the_readme_are_those_of_the_whole_table() -> None:
    section = README.partition("## Benchmarks")[2].partition("\n## ")[0]
    whole = [row[:4] for row in rows_of(DOCUMENTS["benchmarks/README.md"])]
    rows = rows_of(section)
    assert rows
    assert [row for row in rows if row not in whole] == []


def test_every_long_run_of_the_readme_is_a_module_with_its_result_beside_it() -> None:
    section = README.partition("## How we know")[2].partition("\n## ")[0]
    rows = rows_of(section)
    assert rows
    for _, command, _ in rows:
        name = command.strip("`")
        assert (REPOSITORY / "tests" / "stress" / f"{name}.py").exists() or (
            REPOSITORY / "tests" / "stress" / name / "__main__.py"
        ).exists()
        assert f"python -m tests.stress.{name} " in DOCUMENTS["tests/stress/README.md"]


# -- docstrings ------------------------------------------------------------------------------------------


@pytest.mark.slow
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
    if get_origin(value) is not None:  # a name of a type has none: the package explains it
        assert f"`{name}`" in (streamlog.__doc__ or "")
        return
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


@pytest.mark.parametrize(
    "handle",
    [streamlog.StreamLog, streamlog.Topic, streamlog.Consumer, streamlog.ConsumerGroup],
    ids=lambda handle: handle.__name__,
)
def test_the_docstring_of_a_handle_with_many_methods_lists_them_by_purpose(handle: type) -> None:
    said = set(
        re.findall(r"`(\w+)`", "".join(re.findall(r"^- .*(?:\n  .*)*", inspect.getdoc(handle) or "", re.MULTILINE)))
    )
    public = {name for name in dir(handle) if not name.startswith("_")} - {"close", "closed"}
    assert public - said == set()


@pytest.mark.parametrize("handle", HANDLES, ids=lambda handle: handle.__name__)
def test_the_special_methods_that_help_shows_have_a_docstring_of_their_own(handle: type) -> None:
    said_by_object = {"__eq__", "__hash__", "__repr__"}  # which help() shows instead, and which is right
    mute = [
        f"{kind.__name__}.{name}"
        for kind in handle.__mro__
        if kind.__module__.startswith("streamlog.")
        for name, member in vars(kind).items()
        if name.startswith("__") and inspect.isfunction(member) and name not in said_by_object and not member.__doc__
    ]
    assert not mute


@pytest.mark.parametrize("public", PUBLIC, ids=lambda public: public.__name__)
def test_everything_public_but_the_errors_shows_how_it_is_used(public: Any) -> None:
    assert doctest.DocTestFinder(recurse=False).find(public, public.__name__)[0].examples


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_the_docstring_of_an_error_lists_its_attributes(error: Any) -> None:
    assert set(re.findall(r"`\.(\w+)`", error.__doc__)) == set(inspect.get_annotations(error))


def test_every_exported_name_exists_and_every_error_is_exported() -> None:
    assert sorted(streamlog.__all__) == list(streamlog.__all__)
    errors = {
        name
        for name, value in vars(streamlog.errors).items()
        if isinstance(value, type) and issubclass(value, streamlog.StreamlogError)
    }
    assert errors <= set(streamlog.__all__)


def test_the_table_of_failures_on_demand_has_what_the_control_has() -> None:
    _, _, section = DOCUMENTS["streamlog/KAFKA.md"].partition("## Failures on demand")
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)(?:\(|`)", row)}
    assert named == {name for name in vars(Control) if not name.startswith("_")}
