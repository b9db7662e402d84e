"""Processes by the thousand: a clean Python that has imported streamlog and opened nothing forks each of them.

A cycle of the stress tests then costs a fork instead of a start of Python, and nothing is inherited but modules: no
log, no thread, no lock of a test runner. The zygote collects an exit status only when asked for it, so a pid means
the same process until then, and it ends what it started when the process that asked for it is gone.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
RAISED = 70  # the exit code of a function that raised
_LONGEST = 1 << 16


class Process:
    """One process made by a `Zygote`."""

    def __init__(self, zygote: Zygote, pid: int) -> None:
        self.pid = pid
        self.code: int | None = None
        self._zygote = zygote
        self._ended = os.pidfd_open(pid)

    def is_alive(self) -> bool:
        return self.code is None and not select.select([self._ended], [], [], 0)[0]

    def kill(self) -> None:
        """kill -9, if it still runs."""
        if self.code is None:
            signal.pidfd_send_signal(self._ended, signal.SIGKILL)

    def explain(self) -> None:
        """Have it print where each of its threads is."""
        signal.pidfd_send_signal(self._ended, signal.SIGUSR1)
        time.sleep(0.5)

    def wait(self, timeout: float) -> int:
        """The exit code, or minus the signal that ended it. Raises TimeoutError."""
        if self.code is None:
            if not select.select([self._ended], [], [], timeout)[0]:
                self.explain()
                raise TimeoutError(f"process {self.pid} still runs after {timeout} s")
            self.code = int(self._zygote.ask(reap=self.pid))
            os.close(self._ended)
        return self.code


class Zygote:
    """Starts `module.function(*arguments)` in a new process. What they print on stderr goes to `errors`."""

    def __init__(self, errors: Path, *preload: str) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        search_path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
        code = "import sys; from tests.stress import processes; processes.serve(int(sys.argv[1]), sys.argv[2:])"
        with theirs, open(errors, "ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code, str(theirs.fileno()), *preload],
                stdin=subprocess.DEVNULL,
                stderr=stderr,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": search_path},
            )
        self._running: list[Process] = []

    def start(self, function: str, *arguments: Any) -> Process:
        """`function` is "module:name"; arguments are what JSON can carry."""
        process = Process(self, int(self.ask(function=function, arguments=arguments)))
        self._running = [known for known in self._running if known.code is None]
        self._running.append(process)
        return process

    def ask(self, **question: Any) -> Any:
        self._socket.send(json.dumps(question).encode())
        answer = self._socket.recv(_LONGEST)
        if not answer:
            raise RuntimeError(f"the process that forks the others ended with {self._process.wait()}")
        return json.loads(answer)

    def close(self) -> None:
        for process in self._running:
            process.kill()
        self._socket.close()
        self._process.wait()

    def __enter__(self) -> Zygote:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve(descriptor: int, preload: list[str]) -> None:
    """What the zygote does: fork, and collect, on request."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the process that asks; the children end with the zygote
    for module in preload:
        importlib.import_module(module)
    asked = socket.socket(fileno=descriptor)
    children: set[int] = set()
    while data := asked.recv(_LONGEST):
        question = json.loads(data)
        if "reap" in question:
            pid, status = os.waitpid(question["reap"], 0)
            children.discard(pid)
            asked.send(json.dumps(os.waitstatus_to_exitcode(status)).encode())
            continue
        pid = os.fork()
        if pid == 0:
            asked.close()
            _run(question["function"], question["arguments"])
        children.add(pid)
        asked.send(json.dumps(pid).encode())
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _run(function: str, arguments: list[Any]) -> None:
    """Be the new process. It ends without exit handlers, like a process that was killed."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    try:
        module, _, name = function.partition(":")
        getattr(importlib.import_module(module), name)(*arguments)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(RAISED)
    os._exit(0)


class Journal:
    """A file of lines that survive a kill: each is one `write` at the end of the file, made when it is said."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def __call__(self, *words: object) -> None:
        os.write(self._descriptor, (" ".join(map(str, words)) + "\n").encode())


class JournalReader:
    """Reads what a `Journal` of another process has said so far; a line that was cut by a kill does not count."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._rest = b""

    def lines(self) -> list[list[str]]:
        """The words of every whole line that is new."""
        if not self._path.exists():
            return []
        with open(self._path, "rb") as file:
            file.seek(self._at)
            data = file.read()
        self._at += len(data)
        *whole, self._rest = (self._rest + data).split(b"\n")
        return [line.decode().split() for line in whole]

    def wait_for(self, word: str, process: Process | subprocess.Popen[Any], timeout: float) -> list[list[str]]:
        """New lines, when one that begins with `word` is among them or the process has ended."""
        until = time.monotonic() + timeout
        found: list[list[str]] = []
        while True:
            alive = process.is_alive() if isinstance(process, Process) else process.poll() is None
            found += self.lines()
            if not alive or any(line[:1] == [word] for line in found):
                return found
            if time.monotonic() > until:
                if isinstance(process, Process):
                    process.explain()
                raise TimeoutError(f"process {process.pid} has not said {word!r} within {timeout} s")
            time.sleep(0.0005)


def value_of(head: str, length: int) -> bytes:
    """A value that proves itself: what it is, and a filling that follows from that.

    >>> value_of("3.1.4", 4), head_of(value_of("3.1.4", 4))
    (b'3.1.4:6f54', '3.1.4')
    """
    start = head.encode()
    return start + b":" + (b"%08x" % zlib.crc32(start) * (length // 8 + 1))[:length]


def head_of(value: bytes) -> str:
    """The head of a value made by `value_of`. Raises AssertionError for anything else."""
    head, colon, filling = value.partition(b":")
    assert colon and value == value_of(head.decode(), len(filling)), f"{value!r} was never sent"
    return head.decode()
