"""What Java's own clients find, by `JavaClient.java`, which is compiled with the first scenario."""

from __future__ import annotations

import subprocess
import tempfile
from functools import cache
from pathlib import Path
from threading import Lock, Semaphore
from typing import Any

from .. import apache_kafka
from . import scenario

_TIME_S = 240
_SOURCE = Path(__file__).resolve().parents[1] / "JavaClient.java"


_compiling = Lock()
_running = Semaphore(2)
"""Each starts a JVM. Eight of them at once do not end in time on a small machine with other work."""


@cache
def _class_folder() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="streamlog-java-client-")
    done = subprocess.run(
        ["javac", "-cp", apache_kafka.classpath(), "-d", folder.name, str(_SOURCE)],
        capture_output=True, text=True, timeout=_TIME_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def _compiled() -> str:
    """The folder with the classes. Scenarios are run at once, and compile once: a second folder would replace the first in use."""
    with _compiling:
        return _class_folder().name


def _run(bootstrap: str, name: str) -> dict[str, str]:
    command = apache_kafka.java("JavaClient", bootstrap, name, options=apache_kafka.mapped_classes())
    at = command.index("-cp") + 1
    command[at] = f"{command[at]}:{_compiled()}"
    with _running:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIME_S)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    lines = (line[2:].partition("=") for line in done.stdout.splitlines() if line.startswith("> "))
    return {title: value for title, _, value in lines}


@scenario
def java_producing(bootstrap: str) -> Any:
    """Java's producer: partitions of keys, codecs, and the classes of errors."""
    return _run(bootstrap, "producing")


@scenario
def java_consuming(bootstrap: str) -> Any:
    """Java's consumer in a classic group and in one of KIP-848, as the Admin client describes it."""
    return _run(bootstrap, "consuming")


@scenario
def java_transactions(bootstrap: str) -> Any:
    """Java's producer in transactions: a zombie's exceptions, what readers see, offsets."""
    return _run(bootstrap, "transactions")


@scenario
def java_admin(bootstrap: str) -> Any:
    """Java's Admin client."""
    return _run(bootstrap, "admin")
