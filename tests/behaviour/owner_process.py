"""A process that owns the log, beside the test that reads along with it."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlog

Child = Callable[..., subprocess.Popen[str]]
# The bound is 20 ms; a machine that runs other tests as well is given more before a test says that nothing comes.
SOON = 60.0


class Owner:
    """A process that owns the log and runs the lines of Python that it is sent."""

    CODE = """
    import json, math, sys, streamlog
    from streamlog.runtime.threads import longest_sleep
    for name in longest_sleep.__slots__:  # as in the tests' own process: who waits has to be woken
        setattr(longest_sleep, name, math.inf)
    log = streamlog.open(sys.argv[1], **json.loads(sys.argv[2]))
    print("ready", flush=True)
    for line in sys.stdin:
        exec(line)
        print("done", flush=True)
    """

    def __init__(self, child: Child, path: Path, **options: Any) -> None:
        self._child = child
        self.path = path
        self._options = json.dumps(options)
        self.open()

    def open(self) -> None:
        self.process = self._child(self.CODE, self.path, self._options)
        self._answer("ready")

    def __call__(self, line: str) -> None:
        """Have a line executed; what it acknowledged is acknowledged on return."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        self._answer("done")

    def _answer(self, expected: str) -> None:
        assert self.process.stdout is not None
        answer = self.process.stdout.readline()
        if answer != expected + "\n":
            self.process.kill()
            assert self.process.stderr is not None
            raise AssertionError(answer + self.process.stderr.read())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End as a program does."""
        self("log.close()")
        assert self.process.communicate(timeout=60) == ("", "")


def eventually(look: Callable[[], Any], expected: Any) -> None:
    """What was acknowledged is there within the bound, not at once."""
    deadline = time.monotonic() + SOON
    while (found := look()) != expected:
        assert time.monotonic() < deadline, found
        threading.Event().wait(0.002)


def received(consumer: streamlog.Consumer[Any, Any], count: int) -> list[Any]:
    """The values of the next `count` records, each waited for."""
    found: list[Any] = []
    while len(found) < count:
        records = consumer.poll(SOON, max_records=count - len(found))
        assert records, f"after {found} nothing came"
        found += [record.value for record in records]
    return found
