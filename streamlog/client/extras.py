"""Where methods of the handles find what an extra implements: packages above this one, imported when such a method is first called.

The only module that imports from above. `import streamlog` imports none of it, and none of the packages that the extras install.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from ..errors import MissingExtraError


def frames() -> ModuleType:
    """`streamlog.frames`: records as Arrow's columns. Raises MissingExtraError without pyarrow."""
    require("pyarrow", "streamlog-py[arrow]", "Arrow and data frames")
    from .. import frames

    return frames


def sql() -> ModuleType:
    """`streamlog.frames.sql`: queries over topics. Raises MissingExtraError without pyarrow or duckdb."""
    require("pyarrow", "streamlog-py[sql]", "SQL queries")
    require("duckdb", "streamlog-py[sql]", "SQL queries")
    from ..frames import sql

    return sql


def pandas() -> ModuleType:
    """The package. Raises MissingExtraError without it."""
    return require("pandas", "pandas", "Data frames of pandas")


def polars() -> ModuleType:
    """The package. Raises MissingExtraError without it."""
    return require("polars", "polars", "Data frames of polars")


def notebook() -> ModuleType:
    """`streamlog.notebook`: what a notebook shows of the handles. It needs no other package by itself."""
    from .. import notebook

    return notebook


def plots() -> ModuleType:
    """`streamlog.notebook.plots`. Raises MissingExtraError without altair or pyarrow."""
    require("altair", "streamlog-py[notebook]", "Plots")
    require("pyarrow", "streamlog-py[notebook]", "Plots")
    from ..notebook import plots

    return plots


def require(package: str, distribution: str, what: str) -> ModuleType:
    """Import an optional package. Raises MissingExtraError, whose message says what to install."""
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package.split(".")[0]:
            raise  # it is installed, and lacks something itself
        raise MissingExtraError(
            f"{what} need the package {package}, which is not installed; run: pip install '{distribution}'"
        ) from error
