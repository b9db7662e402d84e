"""The core in C, where it was built: `streamlog/_core.c` says what it does.

`core` is None without it, and then all of it is done in Python. With STREAMLOG_PURE=1 in the environment it refuses to be imported.
"""

from __future__ import annotations

from collections.abc import Sequence

try:
    from .. import _core as core
except ImportError:
    core = None  # type: ignore[assignment]
if core is not None:
    Sequence.register(core.Column)

__all__ = ["core"]
