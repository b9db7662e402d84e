"""Which line of the program called the library: for a warning, and for what an object says of where it was made."""

from __future__ import annotations

import sys
import warnings
from types import FrameType


def _caller() -> FrameType | None:
    """The innermost frame that is not of this package. About a microsecond: frames only, no text of a source is read."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("streamlog."):
        frame = frame.f_back
    return frame


def call_site() -> str | None:
    """The program's line that made this call, as `file:line`; None if the interpreter itself did."""
    frame = _caller()
    return None if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


def warn(message: str) -> None:
    """Issue a UserWarning at the program's line, however deep in this package the call is.

    `warnings.warn` can skip the frames of a package from Python 3.12 on (`skip_file_prefixes`).
    """
    frame = _caller()
    depth, above = 1, sys._getframe(0)
    while above is not frame and above.f_back is not None:
        depth, above = depth + 1, above.f_back
    warnings.warn(message, UserWarning, stacklevel=depth)
