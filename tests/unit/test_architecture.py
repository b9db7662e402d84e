"""The rules that the source keeps: which package imports which, who may call the operating system, what may be long.

Each rule is a function from modules to the lines that break it, and is tested twice: the package has no such line, and a
small piece of source that breaks the rule is found.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "streamlog"

# A package imports from the lines above its own; packages on one line do not import each other.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("types", "_core"),
    ("errors",),
    ("config",),
    ("records",),
    ("runtime",),
    ("storage",),
    ("replication", "coordinator"),
    ("broker",),
    ("client", "kafka"),
    ("frames",),
    ("notebook",),
    ("retention", "serde"),
    ("__init__",),
    ("testing",),
    ("cli",),
    ("__main__",),
)
# Imports from the packages above it, in functions only: what extras add to the methods of the handles.
LOADS_EXTRAS = "client/extras.py"
LEVEL = {package: level for level, line in enumerate(LAYERS) for package in line}

# All that the upper packages know of the packages between them and `types`, `errors`, `config` and `runtime`, which
# everyone may use. A name that is added here makes the package below it harder to change: ask first whether `Service`
# (broker/api.py) should have a method instead.
MAY_IMPORT: dict[str, dict[str, set[str]]] = {
    "client": {
        "records": {
            "NOT_PLAIN",
            "LOG_APPEND_TIME",
            "MAX_SEQUENCE",
            "SealedBatch",
            "SequencedFields",
            "TRANSACTIONAL",
            "columns",
            "compression",
            "core",
            "records_of",
            "seed_of",
        },
        "storage": set(),
        "replication": set(),
        "coordinator": {"GroupDescription", "Heartbeat", "HeartbeatResult"},
        "broker": {
            "REQUEST_TIMEOUT_MS",
            "Engine",
            "FetchResult",
            "FetchSession",
            "FetchedBatch",
            "Image",
            "Listener",
            "Moves",
            "NOTHING",
            "ProduceRequest",
            "ProducerIdAndEpoch",
            "Registry",
            "Retirement",
            "Service",
            "TopicIdPartition",
            "UNKNOWN_END",
            "TopicView",
            "unknown_partition",
            "url_of",
        },
    },
    "cli": {
        "records": {
            "BatchHeader",
            "CONTROL",
            "LOG_APPEND_TIME",
            "TRANSACTIONAL",
            "core",
            "decode",
            "records_of",
            "seed_of",
            "verify_payload",
        },
        "storage": {"FOREVER_OFFSET", "Segment", "base_offset_of", "batch_fault", "swap_of"},
        "replication": set(),
        "coordinator": set(),
        "broker": {"METADATA_DIR", "METADATA_ID", "Problem", "RepairReport", "Report", "repair", "verify"},
        "client": set(),  # the commands use the public API, `import streamlog`
    },
}

# A class is composed of others; it inherits from another of ours only if it truly is one, and then is listed here.
IS_ONE = {
    "AllOf(Combinable)",
    "AnyOf(Combinable)",
    "AllDone(Completion)",
    "Batch(Completion)",
    "BytesSerde(_Named)",
    "CompletedDelivery(Delivery)",
    "Consumer(Closing)",
    "DelayedOperation(Completion)",
    "DelayedFetch(Completion)",
    "FetchResult(Completion)",
    "JsonSerde(_Named)",
    "KeyHash(Sticky)",
    "KafkaColumns(BatchColumns)",  # the columns of a batch of payload form 1
    "ManyDelivery(Delivery)",
    "MaxAge(Combinable)",
    "MaxBytes(Combinable)",
    "MaxRecords(Combinable)",
    "MsgpackSerde(_Named)",
    "Producer(Closing)",
    "RetriedCall(Completion)",
    "_Pause(Completion)",
    "StreamLog(Closing)",
    "Steps(Completion)",
    "StringSerde(_Named)",
    "TopicDefaults(TopicConfig)",  # the settings of a topic and two more, as a TypedDict
    "TailedIndex(Index)",  # the index of such a segment
    "TailedSegment(Segment)",  # a segment of a log that another process writes
    "UnacknowledgedDelivery(ManyDelivery)",
    "Workers(Closing)",
    "After(Completion)",
    "_Pickled(RecordBatch)",
}

WORLD = {"os", "time", "threading", "_thread", "mmap", "fcntl", "signal", "tempfile", "socket", "select", "shutil"}
WORLD_CALLS = {"open", "input", "print"}
OPTIONAL = {
    *("cramjam", "crc32c", "typer", "rich", "lmdb", "click"),
    *("pyarrow", "numpy", "pandas", "polars", "duckdb", "narwhals", "altair", "anywidget", "IPython"),
    *("streamlog.frames", "streamlog.notebook"),
}
PICKLES = {"pickle", "marshal", "shelve", "dill"}
EVALUATES = {"eval", "exec", "compile", "__import__"}
# The one function that runs source: what it is given was made from the table of Kafka's messages, never from a disk.
RUNS_SOURCE = "kafka/messages.py"
# A file is one concept. One of 500 lines that is one concept is better than three of 170 that are not; above this it
# holds two. (`StreamLog` is the longest: what it does is elsewhere, but each method has its documentation.) A function fits on a screen and a half, its docstring with it.
MAX_LINES = 850
MAX_FUNCTION_LINES = 80

# Functions that hold a lock without the mark of their thread, and why they may.
UNMARKED = {
    ("replication/fetcher.py", "_fetch_in_turn"),  # on a thread of the library, where no signal handler runs
    ("replication/partition.py", "append_one"),  # under the mark of the caller
    ("replication/partition.py", "append_one_later"),  # under the mark of the caller
    ("broker/scheduler.py", "run_due"),  # only the background thread, and `advance`, call it
    ("kafka/configs.py", "_answer"),  # on a thread of the listener, where no signal handler runs
    ("testing/clock.py", "advance"),  # refuses a call in the middle of another one first
    (
        "client/producer/producer.py",
        "of",
    ),  # its thread gets ReentrantCallError, and waits for the coordinator meanwhile
    ("client/producer/topic_cache.py", "queue_for"),  # its thread may take this lock again
    ("client/producer/topic_cache.py", "next_queue"),  # its thread may take this lock again
    ("client/producer/topic_cache.py", "spread"),  # its thread may take this lock again
}
MAKES_A_LOCK = re.compile(r"_?new_(owned_|reentrant_)?lock")
RETAKEN = {"testing/simulated.py", "testing/handles.py", "testing/faults.py", "testing/crashes.py"}


class Module(NamedTuple):
    """A file of the package: its path below `streamlog/`, its text, and the text parsed."""

    path: str
    text: str
    tree: ast.Module

    @property
    def name(self) -> str:
        """The module's name below `streamlog`: `client.topic`, `__init__`."""
        return self.path.removesuffix(".py").replace("/", ".")

    @property
    def package(self) -> str:
        """The package of `streamlog`, or the module directly in it, that this module is in."""
        return self.name.split(".")[0]

    def at(self, node: ast.AST, what: str) -> str:
        return f"streamlog/{self.path}:{getattr(node, 'lineno', 1)}: {what}"


class Import(NamedTuple):
    """One name that a module imports. `target` is the module's full name, `name` what is taken of it."""

    module: Module
    node: ast.AST
    target: str
    name: str

    @property
    def inside(self) -> str | None:
        """The imported module's name below `streamlog`; None for a module of another distribution."""
        if self.target == "streamlog":
            return "__init__"
        return self.target.removeprefix("streamlog.") if self.target.startswith("streamlog.") else None

    def __str__(self) -> str:
        return self.module.at(self.node, f"imports {self.name} of {self.target}")


Modules = list[Module]


def module(path: str, text: str) -> Module:
    return Module(path, text, ast.parse(text))


@pytest.fixture(scope="module")
def source() -> Modules:
    """The package as it is."""
    return [
        module(str(path.relative_to(PACKAGE)), path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.parent.name != "_build"  # it builds the package, and is no part of it
    ]


def for_types_only(tree: ast.Module) -> set[ast.AST]:
    """Every node under `if TYPE_CHECKING:`."""
    return {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }


def imports_of(module: Module, modules: Modules, *, types: bool = True) -> Iterator[Import]:
    """Every import, also inside functions and, with `types`, under TYPE_CHECKING."""
    files = {"streamlog._core", *(f"streamlog.{each.name.removesuffix('.__init__')}" for each in modules)}
    package = ("streamlog", *module.path.split("/")[:-1])
    left_out = set() if types else for_types_only(module.tree)
    for node in ast.walk(module.tree):
        if node in left_out:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, node, alias.name, alias.name.rpartition(".")[2])
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{stem}.{alias.name}"
                yield Import(module, node, full if full in files else stem, alias.name)


# -- the rules -------------------------------------------------------------------------------------------


def without_a_layer(modules: Modules) -> list[str]:
    return [f"{each.path} is in no line of LAYERS" for each in modules if each.package not in LEVEL]


def upward_imports(modules: Modules) -> list[str]:
    return [
        str(found)
        for each in modules
        for found in imports_of(each, modules)
        if found.inside is not None and each.path != LOADS_EXTRAS
        if (target := found.inside.split(".")[0]) != each.package and LEVEL[target] >= LEVEL[each.package]
    ]


def names_not_allowed(modules: Modules) -> list[str]:
    """What an upper package imports of a package between, and MAY_IMPORT does not list."""
    wrong = []
    for each in modules:
        allowed = MAY_IMPORT.get(each.package, {})
        for found in imports_of(each, modules):
            below = (found.inside or "").split(".")[0]
            if below in allowed and found.name not in allowed[below]:
                wrong.append(f"{found}, which MAY_IMPORT[{each.package!r}][{below!r}] does not list")
    return wrong


def import_cycles(modules: Modules) -> list[str]:
    graph = {
        each.name: {found.inside for found in imports_of(each, modules, types=False) if found.inside}
        for each in modules
        if each.path != LOADS_EXTRAS
    }
    done: set[str] = set()
    cycles: list[str] = []

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if name in trail:
            cycles.append(" → ".join([*trail, name]))
        elif name not in done:
            for target in graph.get(name, graph.get(f"{name}.__init__", set())):
                if target != name.removesuffix(".__init__"):
                    visit(target, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())
    return cycles


def uses_of_the_world(modules: Modules) -> list[str]:
    """Files, time, threads and processes outside of `runtime`. `cli` reads stdin, writes stdout, and has a pid."""
    wrong = []
    for each in modules:
        if each.package == "runtime":
            continue
        refused = WORLD - ({"os", "signal"} if each.package == "cli" else set())
        wrong += [str(found) for found in imports_of(each, modules) if found.target.split(".")[0] in refused]
        own = {node.name for node in each.tree.body if isinstance(node, ast.FunctionDef)}
        wrong += [
            each.at(node, f"calls {node.func.id}()")
            for node in ast.walk(each.tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            if node.func.id in WORLD_CALLS - own and each.package != "cli"
        ]
    return wrong


def pickles_and_evaluations(modules: Modules) -> list[str]:
    """Bytes from a disk never become code."""
    wrong = []
    for each in modules:
        wrong += [str(found) for found in imports_of(each, modules) if found.target.split(".")[0] in PICKLES]
        wrong += [
            each.at(node, f"calls {node.func.id}()")
            for node in ast.walk(each.tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in EVALUATES
            if each.path != RUNS_SOURCE
        ]
    return wrong


def unexplained_inheritance(modules: Modules) -> list[str]:
    """Classes of ours that inherit from another of ours, but for protocols, errors, and what is listed above."""
    classes = [
        (each, node, [base_name(base) for base in node.bases])
        for each in modules
        for node in ast.walk(each.tree)
        if isinstance(node, ast.ClassDef)
    ]
    ours = {node.name for _, node, _ in classes}
    protocols = {node.name for _, node, bases in classes if "Protocol" in bases}
    return [
        each.at(node, f"class {node.name}({base}): hold one, or say in IS_ONE that it is one")
        for each, node, bases in classes
        for base in bases
        if base in ours - protocols and not base.endswith("Error")
        if f"{node.name}({base})" not in IS_ONE
    ]


def base_name(base: ast.expr) -> str:
    """`Base` of `Base`, `module.Base` and `Base[K, V]`."""
    if isinstance(base, ast.Subscript):
        return base_name(base.value)
    return base.attr if isinstance(base, ast.Attribute) else ast.unparse(base)


def long_files(modules: Modules) -> list[str]:
    lengths = {each.path: len(each.text.splitlines()) for each in modules}
    return [f"{path}: {lines} lines" for path, lines in lengths.items() if lines > MAX_LINES]


def long_functions(modules: Modules) -> list[str]:
    return [
        each.at(node, f"{node.name} has {lines} lines")
        for each in modules
        for node in ast.walk(each.tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        if (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]


def unmarked_locks(modules: Modules) -> list[str]:
    """A lock is held as `with inside(), self._lock:`, so that a signal handler's call does not wait for its own thread.

    See `runtime/threads.py`. The disks of `testing` have locks that their thread may take again.
    """
    wrong = []
    locks = names_of_locks(modules)
    for each in modules:
        if each.path in RETAKEN:
            continue
        for function in ast.walk(each.tree):
            if not isinstance(function, ast.FunctionDef) or (each.path, function.name) in UNMARKED:
                continue
            for block in ast.walk(function):
                if isinstance(block, ast.With):
                    held = [ast.unparse(item.context_expr) for item in block.items]
                    if any(name.rpartition(".")[2] in locks for name in held) and held[0] not in ("inside()", "mark"):
                        wrong.append(each.at(block, f"with {', '.join(held)}"))
    return wrong


def loops_under_locks(modules: Modules) -> list[str]:
    """A loop under a lock is in a function of its own: see `runtime/threads.py`. So is a comprehension with a condition."""
    wrong = []
    locks = names_of_locks(modules)
    for each in modules:
        if each.path in RETAKEN:
            continue
        for block in ast.walk(each.tree):
            if isinstance(block, ast.With) and any(holds_a_lock(item.context_expr, locks) for item in block.items):
                wrong += [
                    each.at(loop, f"a loop in the `with` of line {block.lineno}")
                    for statement in block.body
                    for loop in loops_of(statement)
                ]
    return wrong


def holds_a_lock(held: ast.expr, locks: set[str]) -> bool:
    name = ast.unparse(held.func if isinstance(held, ast.Call) else held).rpartition(".")[2]
    return name in locks | {"inside", "mark", "call", "state"}  # the last two are those of `client/consumer/access.py`


def loops_of(node: ast.AST) -> Iterator[ast.AST]:
    """The loops of a piece of a function, but not those of the functions in it."""
    conditional = isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp)) and any(g.ifs for g in node.generators)
    if conditional or isinstance(node, (ast.For, ast.While)):
        yield node
    elif not isinstance(node, (ast.FunctionDef, ast.Lambda)):
        for inner in ast.iter_child_nodes(node):
            yield from loops_of(inner)


def names_of_locks(modules: Modules) -> set[str]:
    """The attributes that hold a lock: what `new_lock()` is assigned to, and what is called a lock."""
    names = set()
    for each in modules:
        for node in ast.walk(each.tree):
            if isinstance(node, ast.Attribute) and node.attr.endswith("lock"):
                names.add(node.attr)
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                made = MAKES_A_LOCK.fullmatch(ast.unparse(node.value.func).rpartition(".")[2])
                names |= {target.attr for target in node.targets if made and isinstance(target, ast.Attribute)}
    return names


Rule = Callable[[Modules], list[str]]

# For each rule, source that breaks it: path → text.
BROKEN: tuple[tuple[Rule, dict[str, str]], ...] = (
    (without_a_layer, {"cellar/wine.py": ""}),
    (upward_imports, {"storage/log.py": "from ..broker.api import Service", "broker/api.py": ""}),
    (upward_imports, {"records/batch.py": "def seal():\n    from ..client import producer", "client/producer.py": ""}),
    (upward_imports, {"coordinator/group.py": "from ..replication import partition", "replication/partition.py": ""}),
    (upward_imports, {"kafka/fetch.py": "from ..client.consumer import Consumer", "client/consumer.py": ""}),
    (upward_imports, {"client/url.py": "from ..kafka.listener import Listener", "kafka/listener.py": ""}),
    (names_not_allowed, {"client/consumer.py": "from ..storage.log import Log", "storage/log.py": ""}),
    (names_not_allowed, {"client/consumer.py": "from ..storage import log", "storage/log.py": ""}),
    (names_not_allowed, {"cli/topics.py": "from ..client.topic import Topic", "client/topic.py": ""}),
    (import_cycles, {"storage/a.py": "from . import b", "storage/b.py": "from . import a"}),
    (uses_of_the_world, {"storage/log.py": "import os"}),
    (uses_of_the_world, {"storage/log.py": "def read():\n    return open('x')"}),
    (uses_of_the_world, {"cli/app.py": "import threading"}),
    (pickles_and_evaluations, {"records/batch.py": "from pickle import loads"}),
    (pickles_and_evaluations, {"records/batch.py": "eval('1')"}),
    (unexplained_inheritance, {"storage/log.py": "class Reader: ...\nclass ColdLog(Reader): ..."}),
    (unexplained_inheritance, {"storage/a.py": "class A: ...", "storage/b.py": "class B(a.A[int]): ..."}),
    (long_files, {"storage/log.py": "x = 1\n" * (MAX_LINES + 1)}),
    (long_functions, {"storage/log.py": "def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES}),
    (unmarked_locks, {"storage/log.py": "def f(self):\n    with self._lock:\n        pass"}),
    (unmarked_locks, {"storage/log.py": "def f(self):\n    self.busy = new_lock()\n    with self.busy:\n        pass"}),
    (
        loops_under_locks,
        {"storage/log.py": "with inside(), self._lock:\n    while self.queue:\n        self.queue.pop()"},
    ),
    (loops_under_locks, {"storage/log.py": "with self._lock:\n    if a:\n        b = [c for c in a if c]"}),
    (loops_under_locks, {"client/consumer.py": "with access.call(), access.state():\n    for a in b:\n        a()"}),
)
RULES = tuple(dict.fromkeys(rule for rule, _ in BROKEN))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule: Rule, source: Modules) -> None:
    wrong = rule(source)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(("rule", "files"), BROKEN, ids=[rule.__name__ for rule, _ in BROKEN])
def test_what_breaks_the_rule_is_found(rule: Rule, files: dict[str, str]) -> None:
    assert rule([module(path, text) for path, text in files.items()])


@pytest.mark.parametrize(
    ("rule", "files"),
    [
        (upward_imports, {"broker/api.py": "from ..storage.log import Log", "storage/log.py": ""}),
        (upward_imports, {"kafka/fetch.py": "from ..broker.api import Service", "broker/api.py": ""}),
        (names_not_allowed, {"client/topic.py": "from ..records.columns import records_of", "records/columns.py": ""}),
        (unexplained_inheritance, {"errors.py": "class OurError(Exception): ...\nclass FullError(OurError): ..."}),
        (unexplained_inheritance, {"types.py": "class Clock(Protocol): ...\nclass Manual(Clock): ..."}),
        (unmarked_locks, {"storage/log.py": "def f(self):\n    with inside(), self._lock:\n        pass"}),
        (loops_under_locks, {"storage/log.py": "with inside(), self._lock:\n    a = f(lambda b: [c for c in b if c])"}),
        (loops_under_locks, {"storage/log.py": "with file:\n    for line in file:\n        print(line)"}),
    ],
)
def test_what_keeps_the_rule_is_not_reported(rule: Rule, files: dict[str, str]) -> None:
    assert rule([module(path, text) for path, text in files.items()]) == []


def test_the_lists_of_exceptions_name_nothing_that_is_gone(source: Modules) -> None:
    there = {
        f"{node.name}({base_name(base)})"
        for each in source
        for node in ast.walk(each.tree)
        if isinstance(node, ast.ClassDef)
        for base in node.bases
    }
    assert sorted(IS_ONE - there) == []
    for package, allowed in MAY_IMPORT.items():
        used = [found for each in source if each.package == package for found in imports_of(each, source)]
        for below, names in allowed.items():
            assert names <= {found.name for found in used if (found.inside or "").split(".")[0] == below}, below


def test_importing_the_library_imports_no_optional_package() -> None:
    code = f"import sys, streamlog; print(sorted({OPTIONAL!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
