"""Whether the interpreter has its lock: a log is opened only then. `FREE_THREADING.md` lists what rests on it."""

from __future__ import annotations

import sys

from ..errors import ConfigError


def require_interpreter_lock() -> None:
    """Raise ConfigError where Python runs several threads at once: a free-threaded build, without `PYTHON_GIL=1`.

    REQUIRES: the modules that the library needs are imported. An extension module that does not say that it can do without
    the lock switches it on at its import, for the rest of the process. Cost: a call.
    """
    is_enabled = getattr(sys, "_is_gil_enabled", None)  # from Python 3.13 on
    if is_enabled is None or is_enabled():
        return
    raise ConfigError(
        "This Python runs without its global interpreter lock (a free-threaded build), and streamlog is only right with it: threads "
        "that share a log could lose records, or read wrong ones. Nothing was opened. Start Python with PYTHON_GIL=1 in its "
        "environment, or with -X gil=1, or use a build that is not free-threaded.",
        name="PYTHON_GIL",
    )
