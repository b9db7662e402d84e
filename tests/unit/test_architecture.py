"""The house's rules, read off the source: who may import whom, who may touch the world, how long a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "streamlog"

# Each line may import from the lines above it; rooms on one line are blind to each other.
HOUSE: tuple[tuple[str, ...], ...] = (
    ("types",),
    ("errors",),
    ("config",),
    ("records",),
    ("runtime",),
    ("storage",),
    ("replication", "coordinator"),
    ("broker",),
    ("client",),
    ("retention", "serde"),
    ("__init__",),
    ("testing",),
    ("cli",),
    ("__main__",),
)
LEVEL = {room: level for level, line in enumerate(HOUSE) for room in line}

WORLD = {"os", "time", "threading", "_thread", "mmap", "fcntl", "signal", "tempfile", "socket", "select", "shutil"}
WORLD_CALLS = {"open", "input", "print"}
OPTIONAL = {"cramjam", "typer", "rich", "lmdb", "click"}
MAX_LINES = 500


class Import(NamedTuple):
    source: Path
    line: int
    target: str


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def room_of(module: str) -> str:
    """The package of `streamlog`, or the module directly in it, that a module is in."""
    return module.split(".")[0]


def for_types_only(tree: ast.Module) -> set[ast.AST]:
    """Every node under `if TYPE_CHECKING:`."""
    return {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }


def imports_of(path: Path, *, types: bool = True) -> Iterator[Import]:
    """Every import, also inside functions and, with `types`, under TYPE_CHECKING; as absolute module names."""
    package = ("streamlog", *path.relative_to(PACKAGE).parent.parts)
    tree = ast.parse(path.read_text())
    left_out = set() if types else for_types_only(tree)
    for node in ast.walk(tree):
        if node in left_out:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(path, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{stem}.{alias.name}"
                yield Import(path, node.lineno, full if is_module(full) else stem)


def is_module(name: str) -> bool:
    if not name.startswith("streamlog."):
        return False
    path = PACKAGE.joinpath(*name.split(".")[1:])
    return path.is_dir() or path.with_suffix(".py").exists()


def inside(found: Import) -> str | None:
    """The module of the package that is imported, None for any other."""
    if found.target == "streamlog":
        return "__init__"
    return found.target.removeprefix("streamlog.") if found.target.startswith("streamlog.") else None


def where(found: Import) -> str:
    return f"{found.source.relative_to(PACKAGE.parent)}:{found.line}: imports {found.target}"


def test_every_room_has_its_place_in_the_house() -> None:
    assert {room_of(module_of(path)) for path in sources()} <= set(LEVEL)


def test_imports_go_downward_only() -> None:
    wrong = []
    for path in sources():
        source = room_of(module_of(path)) if path.parent != PACKAGE or path.stem != "__init__" else "__init__"
        for found in imports_of(path):
            module = inside(found)
            if module is None:
                continue
            target = room_of(module)
            if target != source and LEVEL[target] >= LEVEL[source]:
                wrong.append(where(found))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(("room", "blind_to"), [("replication", "coordinator"), ("coordinator", "replication")])
def test_coordinators_and_replication_are_blind_to_each_other(room: str, blind_to: str) -> None:
    for path in (PACKAGE / room).glob("*.py"):
        for found in imports_of(path):
            assert room_of(inside(found) or "types") != blind_to, where(found)


def test_no_imports_go_in_a_circle() -> None:
    graph = {module_of(path): {m for m in map(inside, imports_of(path, types=False)) if m} for path in sources()}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " → ".join([*trail, module])
        if module in done:
            return
        for target in graph.get(module, graph.get(f"{module}.__init__", set())):
            if target != module.removesuffix(".__init__"):
                visit(target, (*trail, module))
        done.add(module)

    for module in graph:
        visit(module, ())


def test_only_runtime_touches_files_time_and_threads() -> None:
    wrong = []
    for path in sources():
        room = room_of(module_of(path))
        if room == "runtime":
            continue
        allowed = {"sys"} if room != "cli" else {"sys", "os", "signal"}
        wrong += [where(found) for found in imports_of(path) if found.target.split(".")[0] in WORLD - allowed]
        if room != "cli":
            wrong += [
                f"{path.relative_to(PACKAGE.parent)}:{node.lineno}: calls {node.func.id}()"
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in WORLD_CALLS
                if not defines(path, node.func.id)
            ]
    assert not wrong, "\n".join(wrong)


def defines(path: Path, name: str) -> bool:
    """Whether a module-level function of its own is meant."""
    return any(isinstance(node, ast.FunctionDef) and node.name == name for node in ast.parse(path.read_text()).body)


def test_files_stay_short() -> None:
    long = {str(path.relative_to(PACKAGE.parent)): len(path.read_text().splitlines()) for path in sources()}
    assert not {name: lines for name, lines in long.items() if lines > MAX_LINES}


def test_importing_the_library_imports_no_optional_package() -> None:
    code = f"import sys, streamlog; print(sorted({OPTIONAL!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_nothing_is_ever_unpickled_or_evaluated() -> None:
    for path in sources():
        for found in imports_of(path):
            assert found.target.split(".")[0] not in {"pickle", "marshal", "shelve", "dill"}, where(found)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec", "compile", "__import__"}, f"{path}:{node.lineno}"


# Held under the caller's mark: the short way of `send`, and the two functions that append.
UNMARKED = {("replication/partition.py", "append"), ("replication/partition.py", "append_one")}
LOCKS = {"lock", "_lock", "draining", "syncing", "maintenance", "_looking", "_moving"}


def test_whatever_holds_a_lock_says_so_for_calls_that_come_in_the_middle() -> None:
    """`with inside(), self._lock:`; see `runtime/threads.py`. The disks of `testing` have locks that may be taken again."""
    wrong = []
    for path in sources():
        where = str(path.relative_to(PACKAGE))
        if where in ("testing/simulated.py", "testing/handles.py", "testing/faults.py", "testing/crashes.py"):
            continue
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef) or (where, function.name) in UNMARKED:
                continue
            for block in ast.walk(function):
                if not isinstance(block, ast.With):
                    continue
                held = [ast.unparse(item.context_expr) for item in block.items]
                if any(each.rpartition(".")[2] in LOCKS for each in held) and held[0] not in ("inside()", "mark"):
                    wrong.append(f"{where}:{block.lineno} with {', '.join(held)}")
    assert not wrong, "\n".join(wrong)
