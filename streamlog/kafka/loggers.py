"""The loggers of a broker (KIP-412): those of the library, in the process that has the listener, and their levels by Kafka's names.

`root` is the logger `streamlog`, above all others of the library; loggers of other packages are not named and cannot be changed. As in
Kafka a level is not stored, and lasts as long as the process.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from ..errors import ConfigError
from .settings import Setting

ROOT = "root"
_LIBRARY = "streamlog"
SETTING = Setting(0, None, "From which level on this logger logs.", field="level")
_LEVELS = {
    "DEBUG": logging.DEBUG, "ERROR": logging.ERROR, "FATAL": logging.CRITICAL, "INFO": logging.INFO,
    "TRACE": logging.DEBUG // 2, "WARN": logging.WARNING,
}  # fmt: skip
_SHOWN = 200  # characters of what a client gave, in a message


def levels() -> dict[str, str]:
    """The level that is in effect at each logger, by its name."""
    known = list(logging.root.manager.loggerDict)  # at once: other threads may make loggers meanwhile
    below = sorted(name for name in known if name.startswith(f"{_LIBRARY}."))
    return {name: _name(_logger(name).getEffectiveLevel()) for name in (ROOT, *below)}


def check(name: str, level: str | None) -> None:
    """Raises ConfigError for a logger that is not there, or a level that Kafka does not have. None: none of its own."""
    if name not in levels():
        raise ConfigError(f"Logger {name[:_SHOWN]} does not exist.", name=name)
    if level is not None and level not in _LEVELS:
        known = ", ".join(_LEVELS)
        raise ConfigError(f"{level[:_SHOWN]} is no level of logger {name}; there are {known}.", name=name)


def change(changes: Mapping[str, str | None]) -> None:
    """REQUIRES: `check`."""
    for name, level in changes.items():
        _logger(name).setLevel(logging.NOTSET if level is None else _LEVELS[level])


def _logger(name: str) -> logging.Logger:
    return logging.getLogger(_LIBRARY if name == ROOT else name)


def _name(level: int) -> str:
    """Kafka's name of the next level from this one on."""
    return next((name for name, each in sorted(_LEVELS.items(), key=lambda each: each[1]) if each >= level), "FATAL")
