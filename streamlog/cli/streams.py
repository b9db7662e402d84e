"""The standard streams of the command: one that is closed, a reader that has gone, a terminal without UTF-8."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper

from ..errors import ConfigError

_closed: set[str] = set()


def open_closed() -> None:
    """Open /dev/null in place of each standard stream that is closed, as in `streamlog … >&-`.

    The first files of the log would get the free descriptors 0, 1 and 2 otherwise, and whatever is printed past Python,
    by a library in C or a child, would be written into them. A stream that works escapes what it cannot encode.
    """
    while (free := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(free)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            _closed.add(name)
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
        elif mode == "w" and isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def require_stdin() -> None:
    """Raise ConfigError if standard input was closed: nothing would be sent, and that would not be an error."""
    if "stdin" in _closed:
        raise ConfigError("Standard input is closed. Give a file with -F FILE, or redirect it: <FILE.")


def require_stdout() -> None:
    """Raise ConfigError if standard output was closed: records would be read, and committed with -g, and be lost."""
    if "stdout" in _closed:
        raise ConfigError("Standard output is closed, and the records would be lost. Redirect it: >FILE.")


def flush(code: int) -> int:
    """Flush what was printed, at the end; returns the exit code: `code`, or what a failure makes of it.

    The interpreter flushes at its exit, prints a traceback if that fails, and exits with 120.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            code = code or BROKEN_PIPE
            abandon(stream)
        except OSError:
            code = code or 1
            abandon(stream)
    return code


BROKEN_PIPE = 141  # 128 + SIGPIPE, as of a program that the signal ended


def abandon(stream: object) -> None:
    """Send what the stream has buffered, and all that follows, to /dev/null, instead of to a reader that has gone."""
    if isinstance(stream, TextIOWrapper):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
