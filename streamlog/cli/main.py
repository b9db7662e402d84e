"""The entry point of the command `streamlog`. Prints what to install if the extra `cli` is missing."""

from __future__ import annotations

import logging
import sys

from ..runtime.installation import REMEDY, is_overwritten
from . import streams

_EXTRA = ("typer", "rich", "click", "shellingham")


def main() -> int:
    """Run the command on `sys.argv` and return its exit code.

    0: done. 1: failed, with one line on stderr. 2: the arguments are wrong. 130: Ctrl-C. 141: the program that reads
    the output has ended. Cost: about 0.2 s to start.
    """
    streams.open_closed()
    if is_overwritten():
        sys.stderr.write(f"streamlog: streamlog/__init__.py is missing or another project's. {REMEDY}\n")
        return 1
    try:
        code = _run()
    except KeyboardInterrupt:
        code = 130
    return streams.flush(code)


def _run() -> int:
    try:
        from . import brokers, groups, inspect, records, repair, serve, topics, transactions  # noqa: F401  each adds its commands to the app
        from .app import app
        from .top import command  # noqa: F401
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] not in _EXTRA:
            raise
        sys.stderr.write(
            f"The command streamlog needs the package {error.name}, which is not installed. "
            f"Install it with: pip install 'streamlog-py[cli]'\n"
        )
        return 1
    logging.basicConfig(format="streamlog: %(message)s", level=logging.WARNING)
    try:
        app(prog_name="streamlog")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0
    except OSError:  # a message of typer's own that could not be written to stderr
        return 1
    return 0
