"""The names of `streamlog` and `streamlog.testing` are imported when they are first used, and otherwise are as if imported at once."""

from __future__ import annotations

import ast
import importlib
import pickle
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest

import streamlog
import streamlog.testing

PACKAGES = [streamlog, streamlog.testing]


def fresh(code: str) -> str:
    """What a new interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def imported_for_types(package: ModuleType) -> dict[str, tuple[str, str]]:
    """Name → (module relative to the package, name in it), of the imports under `if TYPE_CHECKING:`."""
    assert package.__file__ is not None
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    return {
        alias.asname or alias.name: ("." * node.level + (node.module or ""), alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_type_checkers_see_the_names_that_are_imported_at_run_time(package: ModuleType) -> None:
    seen = imported_for_types(package)
    assert sorted(seen) == sorted(package.__all__)
    for name, (module, of) in seen.items():
        source = importlib.import_module(module, package.__name__)
        value = getattr(source, of, None) if of in vars(source) else importlib.import_module(f".{of}", source.__name__)
        assert getattr(package, name) is value, name


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_an_import_of_the_package_imports_nothing_that_is_not_used(package: ModuleType) -> None:
    code = (
        f"import sys, {package.__name__}; print(*sorted(each for each in sys.modules if each.startswith('streamlog')))"
    )
    loaded = {
        "streamlog",
        "streamlog.runtime",
        "streamlog.runtime.exits",
        "streamlog.runtime.installation",
        "streamlog.runtime.lazy",
        "streamlog.runtime.values",
        package.__name__,
    }
    assert set(fresh(code).split()) == loaded


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_a_star_import_and_dir_have_every_name(package: ModuleType) -> None:
    code = (
        f"import {package.__name__} as package\nprint(*dir(package))\nfrom {package.__name__} import *\nprint(*dir())"
    )
    listed, imported = (set(line.split()) for line in fresh(code).splitlines())
    assert set(package.__all__) <= listed
    assert set(package.__all__) <= imported


def test_help_shows_names_that_were_not_used_yet() -> None:
    shown = fresh("import pydoc, streamlog; print(pydoc.plain(pydoc.render_doc(streamlog)))")
    assert "class StreamLog(" in shown
    assert re.search(r"^    open\(\s*path:", shown, re.MULTILINE)  # from Python 3.13 on each argument has its line
    assert "class LogLockedError(" in shown


def test_a_name_that_does_not_exist_is_an_attribute_error_with_the_name_that_was_meant() -> None:
    done = subprocess.run([sys.executable, "-c", "import streamlog; streamlog.Recrd"], capture_output=True, text=True)
    assert done.stderr.endswith("module 'streamlog' has no attribute 'Recrd'. Did you mean: 'Record'?\n")
    assert not hasattr(streamlog, "__wrapped__")


def test_values_and_errors_unpickle_in_a_process_that_used_no_name_yet() -> None:
    error = streamlog.ConfigError("no", name="n")
    blob = pickle.dumps([streamlog.TopicPartition("orders", 1), error, streamlog.open])
    assert fresh(f"import pickle; print(pickle.loads({blob!r})[:2])") == f"{[('orders', 1), error]!r}\n".replace(
        "('orders', 1)", repr(streamlog.TopicPartition("orders", 1))
    )


def test_threads_that_use_a_name_for_the_first_time_at_once_get_the_same_object() -> None:
    code = """
import threading, streamlog
names = [each for each in streamlog.__all__]
start = threading.Barrier(8)
found = [{} for _ in range(8)]
def look(mine, order):
    start.wait()
    for name in order:
        mine[name] = getattr(streamlog, name)
threads = [threading.Thread(target=look, args=(mine, names[n * 10:] + names[:n * 10])) for n, mine in enumerate(found)]
[each.start() for each in threads], [each.join() for each in threads]
print(all(mine[name] is found[0][name] for mine in found for name in names), len(found[0]) == len(names))
"""
    assert fresh(code) == "True True\n"


def test_a_name_that_a_test_replaces_comes_back() -> None:
    code = """
import streamlog
from unittest import mock
with mock.patch("streamlog.open") as replaced:
    assert streamlog.open is replaced
print(streamlog.open.__module__)
"""
    assert fresh(code) == "streamlog.client.opening\n"
    real = streamlog.open
    with mock.patch("streamlog.open"):
        pass
    assert streamlog.open is real
