"""Fixtures for what needs a thread or a process of its own: waits, signals, exits, forks."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest


@pytest.fixture
def run_script(
    child: Callable[..., subprocess.Popen[str]],
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a script in a fresh interpreter until it ends; a hang is a failure, not a wait for ever."""

    def run(source: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        process = child(source, *arguments)
        output, errors = process.communicate(timeout=50)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    return run


@pytest.fixture
def in_thread() -> Callable[[Callable[[], Any]], Future[Any]]:
    """Call a function in a thread that ends with it; the future gives its result or its error."""

    def start(function: Callable[[], Any]) -> Future[Any]:
        outcome: Future[Any] = Future()

        def run() -> None:
            try:
                outcome.set_result(function())
            except BaseException as error:
                outcome.set_exception(error)

        # A daemon, so that a wait which is never woken fails its test and not the whole run.
        threading.Thread(target=run, daemon=True).start()
        return outcome

    return start


@pytest.fixture(autouse=True)
def no_crash_of_python_3_12(request: pytest.FixtureRequest) -> None:
    """Skip what interrupts transactions on Python 3.12, whose interpreter crashes where a generator that one thread resumes is
    traced by another: the requests of the coordinator are generators (`broker/steps.py`), and the interrupts are made by a trace.
    """
    callspec = getattr(request.node, "callspec", None)
    kind = getattr(callspec, "params", {}).get("kind")
    name = getattr(kind, "__name__", "")
    if sys.version_info[:2] == (3, 12) and ("ransaction" in name or name == "RunAPipe"):
        pytest.skip("a trace of generators that several threads resume crashes Python 3.12")
