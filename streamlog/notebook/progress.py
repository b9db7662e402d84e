"""A line that says how far a long call is: in a notebook, or on a terminal, and nowhere else.

In a notebook, Jupyter's or marimo's, it is one output of the cell, which is replaced; so a saved notebook has the last line
only. On a terminal it is one line of stderr, which is written over. A program whose stderr is a file or a pipe gets nothing.
"""

from __future__ import annotations

import sys
from html import escape
from importlib import import_module
from typing import Any, TextIO

from .html import printable

_WIDTH = 79  # characters of a line: one that wraps could not be written over


class TerminalProgress:
    """A line of a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream
        self._width = 0

    def show(self, text: str) -> None:
        line = printable(text, 400)[:_WIDTH]
        self._write("\r" + line.ljust(self._width))
        self._width = len(line)

    def close(self) -> None:
        if self._width:
            self._write("\n")
        self._width = 0

    def _write(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except Exception:  # the terminal is gone, or cannot encode it; the call goes on
            self._stream = None


class MarimoProgress:
    """The output of a cell of marimo, until the cell has another one."""

    def __init__(self, marimo: Any) -> None:
        self._marimo = marimo

    def show(self, text: str) -> None:
        try:
            self._marimo.output.replace(self._marimo.plain_text(printable(text, 400)))
        except Exception:  # the page is gone; the call goes on
            return

    def close(self) -> None:
        """The last line stays."""


class JupyterProgress:
    """An output of a cell, through IPython, which is there in a notebook of Jupyter."""

    def __init__(self, display: Any) -> None:
        self._display = display
        self._handle: Any = None

    def show(self, text: str) -> None:
        line = printable(text, 400)
        content = {"text/plain": line, "text/html": f"<p>{escape(line)}</p>"}
        try:
            if self._handle is None:
                self._handle = self._display(content, raw=True, display_id=True)
            else:
                self._handle.update(content, raw=True)
        except Exception:  # the page is gone; the call goes on
            return

    def close(self) -> None:
        """The last line stays."""


def new_progress() -> TerminalProgress | JupyterProgress | MarimoProgress | None:
    """Where progress is to be shown; None where there is neither a notebook nor a terminal."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is not None and hasattr(shell, "kernel"):
        return JupyterProgress(import_module("IPython.display").display)
    marimo = sys.modules.get("marimo")
    if marimo is not None and getattr(marimo, "running_in_notebook", lambda: False)():
        return MarimoProgress(marimo)
    try:
        return TerminalProgress(sys.stderr) if sys.stderr.isatty() else None
    except (AttributeError, ValueError):  # there is none, or it is closed
        return None
